"""The RPMs, built and examined on Debian; installed, upgraded and erased in a root directory that is this machine's."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from repmgr_hooks.checks.from_hosts import THERE
from repmgr_hooks.setup.database_host import UNIT
from repmgr_hooks.setup.render import packaged
from tests.endtoend.conftest import needs_box
from tests.lab import REPOSITORY, must, said
from tests.lab.booted import CannotBoot, over_root
from tests.package_rpm import WHEELS, built

RPM = ("rpm", "--dbpath", "/mnt/rpm")
BUILT, NEXT = Path("/mnt/built"), Path("/mnt/next")
HOME, SUDOERS = "/usr/lib/repmgr-hooks", "/etc/sudoers.d/repmgr-hooks"
GATEWAY, BOTH = "repmgr-hooks-gateway", ("repmgr-hooks", "repmgr-hooks-gateway")
# What init writes for the hosts of the nodes; all of it would need the nodes themselves.
KEYS = f"""
import sys; sys.path.insert(0, "{HOME}")
from pathlib import Path
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.checks.sshd import KEYS
from repmgr_hooks.setup.database_host import of_gateway
print(of_gateway({{1: Node("10.0.0.11")}}, {{}}, Path("/usr/share/repmgr-hooks"))[KEYS])
"""
DATABASE = "/var/lib/rpm"
# RHEL enables nothing that it does not name (90-default.preset, 99-default-disable.preset).
PRESET = "etc/systemd/system-preset/00-as-on-rhel.preset"


@dataclass(frozen=True)
class Root:
    """A root directory over the machine's, with an RPM database of its own."""

    path: Path

    def result(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["chroot", str(self.path), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )

    def run(self, *words: str) -> str:
        return said(self.result(*words), " ".join(words))

    def rpm(self, *words: str) -> str:
        """Change what is installed. Debian's Python and systemd are no RPMs."""
        return must("rpm", "--root", str(self.path), "--dbpath", DATABASE, "--nodeps", *words)

    def written(self) -> set[str]:
        """Return what is there and not the machine's, without rpm's own."""
        upper = self.path.parent / "upper"
        found = {str(path.relative_to(upper)) for path in upper.rglob("*") if not path.is_dir() or "hooks" in path.name}
        return {path for path in found if not path.startswith(DATABASE[1:])}


@pytest.fixture(scope="module")
def packages() -> Iterator[dict[str, Path]]:
    needs_box()
    if not (WHEELS / "requirements.txt").exists():
        pytest.skip("the libraries of the RPM were not fetched: tests/package --rpm does it")
    words = (sys.executable, "-m", "tests.package_rpm", str(BUILT))
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    yield {
        query(file, "%{NAME}") + (".src" if file.name.endswith(".src.rpm") else ""): file for file in BUILT.iterdir()
    }
    shutil.rmtree(BUILT)


def query(file: Path, shown: str) -> str:
    return must(*RPM, "-qp", "--queryformat", shown, str(file))


def listed(file: Path, *options: str) -> set[str]:
    return set(must(*RPM, "-qp", *options, str(file)).splitlines())


def next_version(source: Path) -> list[Path]:
    """Build from the source package alone, as anybody would, with another file in /etc."""
    must(*RPM, "--install", "--nodeps", "--define", f"_topdir {NEXT}", str(source))
    (spec,) = NEXT.glob("SPECS/*.spec")
    text = spec.read_text().replace("Release:        1", "Release:        2")
    more = f"sed -i '1i # The next version says more.' %{{buildroot}}{SUDOERS}\n"
    spec.write_text(text.replace("\n# Nothing is started before", f"{more}\n# Nothing is started before"))
    return [package for package in built(spec, NEXT) if package.name.endswith(".noarch.rpm")]


@contextmanager
def rooted() -> Iterator[Root]:
    try:
        with over_root(Path("/mnt/rooted")) as path:
            (path / PRESET).parent.mkdir(parents=True, exist_ok=True)
            (path / PRESET).write_text("disable *\n")
            for place in ("/dev", "/proc"):
                must("mount", "--rbind", place, f"{path}{place}")
            yield Root(path)
    except CannotBoot as error:
        pytest.skip(f"there is no overlay here: {error}")


def test_what_is_in_them(packages: dict[str, Path]) -> None:
    ours, gateways = (listed(packages[name], "--list") for name in BOTH)
    assert f"{HOME}/repmgr_hooks/hook.py" in ours
    assert {file for file in ours if file.endswith(".so")} == set(), "it is for every architecture"
    modes = {line.split()[0] for line in listed(packages["repmgr-hooks"], "--list", "--verbose")}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}
    sources = {Path(file) for file in ours if file.startswith(HOME) and file.endswith(".py")}
    compiled = {Path(file).parents[1] / Path(file).name.split(".")[0] for file in ours if file.endswith(".pyc")}
    assert {file.with_suffix("") for file in sources} == compiled, "repmgrd need not wait for a compiler"
    licences = {Path(file).name.split("-")[0] for file in listed(packages["repmgr-hooks"], "--licensefiles")}
    assert licences == {"repmgr_hooks", "psycopg", "pyyaml", "sh", "typing_extensions"}

    shipped = {path.name for path in (REPOSITORY / "systemd").glob("repmgr-hooks*")}
    units = {Path(file).name for file in ours | gateways if file.startswith("/usr/lib/systemd/system/")}
    assert units == shipped
    for file in ("/usr/lib/sysctl.d/90-repmgr-hooks.conf", "/usr/lib/tmpfiles.d/repmgr-hooks.conf", SUDOERS):
        assert file in gateways - ours, "a database host forwards nothing, and its repmgrd needs no sudo"
    assert listed(packages[GATEWAY], "--configfiles") == {SUDOERS}
    assert listed(packages["repmgr-hooks"], "--configfiles") == set()


def test_what_they_need(packages: dict[str, Path]) -> None:
    ours, gateways = (listed(packages[name], "--requires") for name in BOTH)
    assert "libpq.so.5()(64bit)" in ours
    assert {"barman", "conntrack-tools", "(nftables or iptables-nft)", "sudo"} <= gateways - ours
    for name in BOTH:
        assert "%" not in must(*RPM, "-qp", "--scripts", str(packages[name])), "a macro that rpm does not know"


def test_a_database_host(packages: dict[str, Path]) -> None:
    with rooted() as root:
        root.rpm("--install", str(packages["repmgr-hooks"]))
        conf = root.path / "etc/repmgr.conf"
        conf.write_text("node_id=1\nnode_name='db1'\nconninfo='host=10.0.0.11'\n")
        root.run(
            "repmgr-hooks", "init", "--forward-to", "10.0.0.20", "--repmgr-conf", "/etc/repmgr.conf", "/root/draft"
        )
        shown = root.run("repmgr-hooks", "init", "--install", "--replace", "/root/draft")
        assert "'/usr/bin/repmgr-hooks event " in conf.read_text()
        assert UNIT not in shown, "the package has the unit"
        assert "=/usr/bin/repmgr-hooks forward\n" in root.run("cat", str(packaged(UNIT)))
        found = THERE.replace("check --end-to-end --json", "--version")
        assert root.run("sh", "-c", found) == "repmgr-hooks 1.0.0\n", "the gateway's check finds it there"


def test_from_installation_to_erase(packages: dict[str, Path]) -> None:
    with rooted() as root:
        before = root.written()
        root.rpm("--install", *(str(packages[name]) for name in BOTH))
        assert root.run("repmgr-hooks", "--version").split() == ["repmgr-hooks", "1.0.0"]
        root.run("repmgr-hooks", "check", "--offline", "/usr/share/repmgr-hooks/config/config.yaml")
        assert root.run("stat", "-c", "%U:%G:%a", SUDOERS) == "root:root:440\n"
        root.run("visudo", "-c", "-f", SUDOERS)
        assert root.result("systemctl", "is-enabled", "repmgr-hooks.service").stdout == "disabled\n"
        root.run("systemctl", "enable", "repmgr-hooks.service")
        assert ',command="/usr/bin/repmgr-hooks receive-event' in root.run("/usr/bin/python3", "-c", KEYS)

        root.run("sh", "-ec", f"echo '# mine' >> {SUDOERS}")
        root.rpm("--upgrade", *map(str, next_version(packages["repmgr-hooks.src"])))
        assert root.run("cat", SUDOERS).endswith("# mine\n")
        assert root.run("head", "-1", f"{SUDOERS}.rpmnew") == "# The next version says more.\n"
        assert root.run("systemctl", "is-enabled", "repmgr-hooks.service") == "enabled\n"
        root.run("repmgr-hooks", "--version")

        root.run("rm", f"{SUDOERS}.rpmnew")
        root.rpm("--erase", *BOTH)
        assert root.written() - before == {f"{SUDOERS}.rpmsave".lstrip("/")}
