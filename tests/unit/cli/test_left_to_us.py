"""What whoever starts us may have done to us: signals ignored or blocked, and no threads left."""

from __future__ import annotations

import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import repmgr_hooks
from repmgr_hooks.cli.output import write_whole
from repmgr_hooks.errors import UsageError

CONFIG = """\
state_dir: {}
clusters:
  main:
    nodes: {{1: {{host: 192.0.2.1}}}}
    postgres: {{timeout: 1}}
    gateway: {{address: 192.0.2.20, ports: {{app: 5433}}}}
    routes: [{{on: [standby_promote], do: [firewall: {{open: app}}]}}]
"""
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(repmgr_hooks.__file__).parents[1])}


def run(state: Path, start: tuple[str, ...], *words: str) -> subprocess.CompletedProcess[str]:
    file = state.parent / "config.yaml"
    file.write_text(CONFIG.format(state))
    words = (*start, sys.executable, "-m", "repmgr_hooks", "--config", str(file), *words)
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    "start", [("env", "--ignore-signal=CHLD"), ("env", "--block-signal")], ids=["ignored", "blocked"]
)
def test_signals_are_taken_as_usual(tmp_path: Path, start: tuple[str, ...]) -> None:
    (tmp_path / "state").mkdir()
    usual, found = (run(tmp_path / "state", how, "status") for how in ((), start))
    assert "node 1" in found.stdout, found.stderr
    assert (found.returncode, found.stderr) == (usual.returncode, usual.stderr)


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="another user has no other processes")
@pytest.mark.parametrize("command", [("status",), ("worker", "--once")], ids=" ".join)
@pytest.mark.parametrize("processes", [3, 5])
def test_without_threads_it_ends_with_words(command: tuple[str, ...], processes: int) -> None:
    user = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory(prefix="repmgr-hooks-test-") as made:
        for place in (Path(made), Path(made, "state")):
            place.mkdir(exist_ok=True)
            os.chown(place, user.pw_uid, user.pw_gid)
        become = ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
        found = run(Path(made, "state"), (*become, "prlimit", f"--nproc={processes}"), *command)
    assert found.returncode in (0, 1), found.stderr
    assert "a bug in repmgr_hooks" not in found.stdout + found.stderr


@pytest.mark.parametrize("kind", ["fifo", "link", "directory", "device"])
def test_a_report_takes_the_place_of_no_device(tmp_path: Path, kind: str) -> None:
    """Root's --html /dev/null made a file of it, for every process of the machine."""
    place = tmp_path / "place"
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to("/proc/self/fd/1")
    elif kind == "directory":
        place.mkdir()
    elif os.geteuid() == 0:
        os.mknod(place, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    else:
        pytest.skip("only root makes devices")
    before = place.lstat()
    with pytest.raises(UsageError, match="is not a file"):
        write_whole(place, "text")
    assert place.lstat() == before
    write_whole(tmp_path / "new", "text")
    write_whole(tmp_path / "new", "other")
    assert (tmp_path / "new").read_text() == "other"
