"""The Debian package on a gateway that has booted: installed, configured by ``init``, failed over, upgraded, purged."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, led_to
from tests.endtoend.test_init import without_ours
from tests.endtoend.test_units import main_process
from tests.lab import CONFIG_FILE, REPOSITORY, Lab, must, wait_for
from tests.lab.booted import CannotBoot, Machine, booted

PLACE = "/var/tmp/packages"
SUDOERS = "/etc/sudoers.d/repmgr-hooks"


def test_from_installation_to_purge() -> None:
    lab = fresh_lab()
    try:
        packages = Path(lab_packages())
        lab.build()
        without_ours(lab)
        unit = (REPOSITORY / "systemd/repmgrd@.service").read_text()
        lab.put(lab.gateway, "/etc/systemd/system/repmgrd@.service", unit)
        # What dpkg knows of this machine, whose root directory is the gateway's.
        shutil.copytree("/var/lib/dpkg", lab.gateway.path("/var/lib/dpkg"), symlinks=True)
        shutil.copytree(packages, lab.gateway.path(PLACE))
        with booted(lab, lab.gateway) as machine:
            # A machine that is itself a container may forbid packages to start services.
            machine.run("rm", "-f", "/usr/sbin/policy-rc.d")
            before = everything(machine)
            install(lab, machine)
            fail_over(lab, machine)
            upgrade(machine)
            purge(machine, before)
    except CannotBoot as error:
        pytest.skip(f"systemd-nspawn does not run here: {error}")
    finally:
        lab.destroy()


def lab_packages() -> str:
    """Build the package as anybody would, and the next version of it."""
    built = Path("/mnt/built")
    words = (sys.executable, "-m", "tests.package_build", str(built))
    result = subprocess.run(words, cwd=REPOSITORY, capture_output=True, text=True, timeout=600, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    (package,) = built.glob("*.deb")
    tree = built / "next"
    must("dpkg-deb", "--raw-extract", str(package), str(tree))
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace("Version: ", "Version: 1:"))
    sudoers = tree / SUDOERS.lstrip("/")
    sudoers.write_text(f"# The next version says more.\n{sudoers.read_text()}")
    must("dpkg-deb", "--build", str(tree), str(built / "next.deb"))
    shutil.rmtree(tree)
    return str(built)


def everything(machine: Machine) -> set[str]:
    """What a package of ours could leave behind."""
    places = ("/etc", "/usr", "/var/lib", "/lib/systemd", "/run/systemd/system")
    found = machine.run("find", *places, "-xdev", "(", "-path", "*repmgr?hooks*", "-o", "-name", "xtables.lock", ")")
    return set(found.splitlines())


def install(lab: Lab, machine: Machine) -> None:
    machine.run("systemctl", "start", "repmgrd@db1", "repmgrd@db2")
    (package,) = (path.name for path in lab.gateway.path(PLACE).glob("repmgr-hooks_*.deb"))
    machine.run("dpkg", "--install", f"{PLACE}/{package}")
    assert machine.result("systemctl", "is-active", "repmgr-hooks").stdout == "inactive\n", (
        "it has no configuration yet"
    )
    owners = machine.run("stat", "-c", "%U:%G:%a", "/var/lib/repmgr-hooks", "/etc/repmgr-hooks/pgpass", SUDOERS)
    assert owners.split() == ["barman:postgres:710", "barman:barman:600", "root:root:440"]

    drafted = machine.run("repmgr-hooks", "init", "/var/tmp/draft")
    assert "/etc/systemd/system/repmgr-hooks" not in drafted, "the package has the units"
    machine.run("repmgr-hooks", "init", "--install", "--replace", "/var/tmp/draft")
    assert "/usr/bin/repmgr-hooks event" in machine.run("cat", "/etc/repmgr/db1.conf")
    lab.put(lab.gateway, "/etc/repmgr-hooks/pgpass", lab.pgpass(), 0o600, "barman")
    config = lab.gateway.path(CONFIG_FILE)
    config.write_text(config.read_text().replace("user: repmgr, dbname: repmgr, timeout: 5", "user: app, dbname: app"))
    units = ("repmgr-hooks-boot.service", "repmgr-hooks.service", "repmgr-hooks-check-wal.timer")
    machine.run("systemctl", "enable", "--now", *units, limit=320)
    machine.run("pkill", "-HUP", "repmgrd")
    wait_for(lambda: led_to(lab, lab.db1) and barman_streams_from(lab.db1), "the service to make it so")
    assert "FAIL  " not in machine.result("repmgr-hooks", "check").stdout


def fail_over(lab: Lab, machine: Machine) -> None:
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2) and barman_streams_from(lab.db2), "the failover")
    client.wait_for_write(time.time())
    wait_for(lambda: "repmgrd_failover_promote" in machine.run("repmgr-hooks", "history"), "what repmgrd has said")


def upgrade(machine: Machine) -> None:
    """The administrator's own line in a configuration file stays, and the service runs the new version."""
    machine.run("sh", "-ec", f"echo '# mine' >> {SUDOERS}")
    before = main_process(machine)
    machine.run("dpkg", "--force-confdef", "--force-confold", "--install", f"{PLACE}/next.deb", limit=320)
    assert machine.run("cat", SUDOERS).endswith("# mine\n")
    wait_for(lambda: main_process(machine) not in (before, "0"), "the service to be restarted")
    wait_for(lambda: machine.run("systemctl", "is-active", "repmgr-hooks") == "active\n", "it to be ready")
    assert machine.run("repmgr-hooks", "history").count("repmgrd_failover_promote"), "the journal is the same"


def purge(machine: Machine, before: set[str]) -> None:
    machine.run("dpkg", "--purge", "repmgr-hooks", limit=320)
    assert machine.result("systemctl", "is-active", "repmgr-hooks").stdout != "active\n"
    assert {left for left in everything(machine) - before if "before-repmgr-hooks" not in left} == set()
