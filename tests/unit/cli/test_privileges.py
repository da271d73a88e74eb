"""Root's commands become the service's user: each in a process of its own, for the way back is closed."""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import repmgr_hooks

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root has rights to give up")

PACKAGE = Path(repmgr_hooks.__file__).parents[1]
NOBODY = pwd.getpwnam("nobody")
SHOWN = """
import os, sys
sys.path.insert(0, {package!r})
from pathlib import Path
from repmgr_hooks.cli import privileges
privileges.USER, privileges.GROUP = "nobody", "tty"
try:
    privileges.become_service(Path({config!r}), {capable})
except Exception as error:
    sys.exit(f"{{type(error).__name__}}: {{error}}")
print(open("/proc/thread-self/status").read(), os.getcwd(), os.environ["HOME"], oct(os.umask(0)), flush=True)
for way_back in (lambda: os.setresuid(0, 0, 0), lambda: os.setgroups([0]), lambda: open("/etc/shadow")):
    try:
        way_back()
    except PermissionError:
        continue
    sys.exit("root again")
os.execv("/bin/cat", ["cat", "/proc/self/status"])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody may enter, as /var/lib."""
    made = Path(tempfile.mkdtemp(dir="/tmp"))
    made.chmod(0o755)
    (made / "config.yaml").write_text(f"state_dir: {made}/state\n")
    yield made
    shutil.rmtree(made)


def become(place: Path, capable: bool = True) -> subprocess.CompletedProcess[str]:
    script = SHOWN.format(package=str(PACKAGE), config=str(place / "config.yaml"), capable=capable)
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HOME": "/root"},
        preexec_fn=lambda: os.setgroups([0, 4]),
    )


def fields(text: str) -> dict[str, list[str]]:
    """/proc/PID/status: the words after each name."""
    return {name: words.split() for name, _, words in (line.partition(":") for line in text.splitlines())}


def test_it_and_what_it_starts_have_the_rights_of_the_unit(place: Path) -> None:
    (place / "state").mkdir()
    os.chown(place / "state", NOBODY.pw_uid, NOBODY.pw_gid)
    ended = become(place)
    assert ended.returncode == 0, ended.stderr
    ours, rest = ended.stdout.split(f" / {NOBODY.pw_dir} 0o27\n")
    for found in (fields(ours), fields(rest)):
        assert set(found["Uid"]) == {str(NOBODY.pw_uid)}
        assert set(found["Gid"]) == {str(NOBODY.pw_gid)}
        assert not {"0", "4"} & set(found["Groups"])
        for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            # linux/capability.h: CAP_NET_ADMIN is 12, CAP_NET_RAW is 13. In a container root may have neither.
            assert int(found[kind][0], 16) in (1 << 12 | 1 << 13, 0), kind
        assert found["NoNewPrivs"] == ["1"]


def test_what_starts_no_program_keeps_no_capability(place: Path) -> None:
    (place / "state").mkdir()
    os.chown(place / "state", NOBODY.pw_uid, NOBODY.pw_gid)
    ended = become(place, capable=False)
    assert ended.returncode == 0, ended.stderr
    found = fields(ended.stdout.split(f" / {NOBODY.pw_dir} 0o27\n")[0])
    assert set(found["Uid"]) == {str(NOBODY.pw_uid)}
    assert {found[kind][0].strip("0") for kind in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {""}


def test_a_missing_state_directory_is_made_for_the_service(place: Path) -> None:
    assert become(place).returncode == 0
    status = (place / "state").stat()
    assert (status.st_uid, oct(status.st_mode & 0o7777)) == (NOBODY.pw_uid, "0o710")


TTY = str(grp.getgrnam("tty").gr_gid)


@pytest.mark.parametrize(("group", "joined"), [(54321, "54321"), (0, TTY), (NOBODY.pw_gid, TTY)])
def test_it_joins_the_group_of_its_state_directory(place: Path, group: int, joined: str) -> None:
    """That of repmgrd's user, whatever its name is; root's own, and the service's own, is not that."""
    (place / "state").mkdir()
    os.chown(place / "state", NOBODY.pw_uid, group)
    groups = fields(become(place).stdout)["Groups"]
    assert joined in groups
    assert "0" not in groups


@pytest.mark.parametrize("how", ["link", "file", "writable", "above", "nobody's", "config"])
def test_what_root_does_not_work_with(place: Path, how: str) -> None:
    state = place / "state"
    state.mkdir()
    os.chown(state, NOBODY.pw_uid, NOBODY.pw_gid)
    if how == "link":
        state.rename(place / "real")
        state.symlink_to("real")
    elif how == "file":
        state.rmdir()
        state.touch()
    elif how == "writable":
        state.chmod(0o770)
    elif how == "above":
        place.chmod(0o777)
    elif how == "nobody's":
        os.chown(state, 54321, 54321)
    else:
        (place / "config.yaml").chmod(0o666)
    ended = become(place)
    assert ended.returncode == 1
    assert ended.stderr.startswith(("OperationFailed: ", "UsageError: ")), ended.stderr
    assert str(place) in ended.stderr


def test_a_state_directory_of_roots_own_stays_with_root(place: Path) -> None:
    """Nobody else could lead it anywhere."""
    (place / "state").mkdir()
    assert become(place).stderr == "root again\n"


def test_where_another_could_make_it_it_is_not_made_by_root(place: Path) -> None:
    (place / "home").mkdir()
    os.chown(place / "home", NOBODY.pw_uid, NOBODY.pw_gid)
    (place / "config.yaml").write_text(f"state_dir: {place}/home/state\n")
    ended = become(place)
    assert ended.returncode == 0, ended.stderr
    assert not (place / "home/state").exists()
