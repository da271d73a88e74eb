"""The Debian packages on hosts that have booted: installed, configured by ``init``, failed over, upgraded, purged.

A gateway has both; a database host has the program and its forwarder alone, and hands an event to the gateway.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, led_to, no_failure
from tests.endtoend.test_init import without_ours
from tests.endtoend.test_units import main_process
from tests.lab import CONFIG_FILE, REPOSITORY, Lab, must, wait_for, wait_for_answer
from tests.lab.booted import CannotBoot, Machine, booted

PLACE = "/var/tmp/packages"
SUDOERS = "/etc/sudoers.d/repmgr-hooks"
GATEWAYS = ("repmgr-hooks", "repmgr-hooks-gateway")
FORWARDER = "repmgr-hooks-forward"
KEEP = ("--force-confdef", "--force-confold")
UNSPLIT = """\
Package: repmgr-hooks
Version: 0.9
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: what is two packages since
"""


def test_from_installation_to_purge() -> None:
    lab = fresh_lab()
    try:
        packages = Path(lab_packages())
        lab.build()
        without_ours(lab)
        unit = (REPOSITORY / "systemd/repmgrd@.service").read_text()
        lab.put(lab.gateway, "/etc/systemd/system/repmgrd@.service", unit)
        for host in (lab.gateway, lab.db2):
            # What dpkg knows of this machine, whose root directory is the host's.
            shutil.copytree("/var/lib/dpkg", host.path("/var/lib/dpkg"), symlinks=True)
            shutil.copytree(packages, host.path(PLACE))
            host.run("rm", "-f", "/etc/ssh/sshd_not_to_be_run")
        lab.db2.run("rm", "/etc/repmgr/db1.conf")
        with booted(lab, lab.gateway) as machine, booted(lab, lab.db2) as database:
            for each in (machine, database):
                # A machine that is itself a container may forbid packages to start services.
                each.run("rm", "-f", "/usr/sbin/policy-rc.d")
            before = [everything(each) for each in (machine, database)]
            install(lab, machine)
            fail_over(lab, machine)
            install_on_database_host(lab, database, machine)
            upgrade(machine)
            upgrade_on_database_host(database, machine)
            purge(machine, before[0], *GATEWAYS)
            purge(database, before[1], "repmgr-hooks")
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
    for package in built.glob("*.deb"):
        tree = built / "next"
        must("dpkg-deb", "--raw-extract", str(package), str(tree))
        control = tree / "DEBIAN/control"
        text = control.read_text().replace("Version: ", "Version: 1:").replace("repmgr-hooks (= ", "repmgr-hooks (= 1:")
        control.write_text(text)
        if (sudoers := tree / SUDOERS.lstrip("/")).exists():
            sudoers.write_text(f"# The next version says more.\n{sudoers.read_text()}")
        must("dpkg-deb", "--build", str(tree), str(built / f"next-{package.name}"))
        shutil.rmtree(tree)
    build_unsplit(built)
    return str(built)


def build_unsplit(built: Path) -> None:
    """Build the one package from before there were two."""
    tree = built / "unsplit"
    for name in GATEWAYS:
        must("dpkg-deb", "--extract", str(built / f"{name}_1.0.0_all.deb"), str(tree))
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(UNSPLIT)
    (tree / "DEBIAN/conffiles").write_text(f"{SUDOERS}\n")
    must("dpkg-deb", "--build", str(tree), str(built / "unsplit-repmgr-hooks_1.0.0_all.deb"))
    shutil.rmtree(tree)


def files(name: str, version: str = "") -> str:
    """Where the file of a package is, or that of its next version."""
    return f"{PLACE}/{version}{name}_1.0.0_all.deb"


def everything(machine: Machine) -> set[str]:
    """What a package of ours could leave behind."""
    places = ("/etc", "/usr", "/var/lib", "/lib/systemd", "/run/systemd/system")
    found = machine.run("find", *places, "-xdev", "(", "-path", "*repmgr?hooks*", "-o", "-name", "xtables.lock", ")")
    return set(found.splitlines())


def install(lab: Lab, machine: Machine) -> None:
    machine.run("systemctl", "start", "repmgrd@db1", "repmgrd@db2")
    over_what_was_one_package(machine)
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
    no_failure(lambda: machine.result("repmgr-hooks", "check").stdout)


def over_what_was_one_package(machine: Machine) -> None:
    """The gateway's package comes first, as apt may have it: it takes its files over; an administrator's line stays."""
    machine.run("dpkg", "--install", files("repmgr-hooks", "unsplit-"))
    machine.run("sh", "-ec", f"echo '# mine' >> {SUDOERS}")
    machine.run("dpkg", *KEEP, "--auto-deconfigure", "--install", *map(files, reversed(GATEWAYS)))
    assert machine.run("cat", SUDOERS).endswith("# mine\n")
    assert machine.run("dpkg", "--search", SUDOERS) == f"repmgr-hooks-gateway: {SUDOERS}\n"


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
    machine.run("dpkg", *KEEP, "--install", *next_ones(*GATEWAYS), limit=320)
    assert machine.run("cat", SUDOERS).endswith("# mine\n")
    wait_for(lambda: main_process(machine) not in (before, "0"), "the service to be restarted")
    wait_for(lambda: machine.run("systemctl", "is-active", "repmgr-hooks") == "active\n", "it to be ready")
    assert machine.run("repmgr-hooks", "history").count("repmgrd_failover_promote"), "the journal is the same"


def purge(machine: Machine, before: set[str], *packages: str) -> None:
    machine.run("dpkg", "--purge", *packages, limit=320)
    for unit in ("repmgr-hooks", FORWARDER):
        assert machine.result("systemctl", "is-active", unit).stdout != "active\n"
    # Copies of what was replaced, and the key in postgres' own directory, are the administrator's.
    left = [path for path in everything(machine) - before if "before-repmgr-hooks" not in path]
    assert [path for path in left if not path.startswith("/var/lib/postgresql/.ssh/")] == []


def next_ones(*packages: str) -> list[str]:
    return [files(name, "next-") for name in packages]


def install_on_database_host(lab: Lab, database: Machine, gateway: Machine) -> None:
    """Nothing of a gateway's comes with it, and nothing of that is needed."""
    database.run("dpkg", "--install", files("repmgr-hooks"))
    needed = database.run("dpkg-query", "--show", "--showformat", "${Depends}", "repmgr-hooks")
    assert [word for word in ("barman", "iptables", "nftables", "conntrack", "sudo") if word in needed] == []
    listed = database.run("dpkg", "--listfiles", "repmgr-hooks").split()
    assert [Path(file).name for file in listed if "systemd/system/" in file] == [f"{FORWARDER}.service"]
    assert [file for file in listed if file.startswith(("/etc/sudoers.d", "/usr/lib/sysctl.d"))] == []
    assert everything(database) & {SUDOERS, "/usr/lib/tmpfiles.d/repmgr-hooks.conf"} == set()

    drafted = database.run("repmgr-hooks", "init", "--forward-to", "10.0.0.20", "/var/tmp/draft")
    assert f"{FORWARDER}.service" not in drafted, "the package has the unit"
    shown = database.run("repmgr-hooks", "init", "--install", "--replace", "/var/tmp/draft")
    (command,) = re.findall(r"(?m)^  (sed -i .*)$", shown)
    gateway.run("rm", "-r", "/var/tmp/draft")
    asked = ("--repmgr-conf", "/etc/repmgr/db2.conf", "--repmgrd-on-nodes")
    gateway.run("repmgr-hooks", "init", *asked, "/var/tmp/draft")
    gateway.run("cp", CONFIG_FILE, f"/var/tmp/draft{CONFIG_FILE}")
    # db1 is not ready yet.
    gateway.run("sh", "-ec", f"{command}; sed -i /KEY-OF-db1/d /var/tmp/draft/etc/repmgr-hooks/authorized_keys")
    gateway.run("repmgr-hooks", "init", "--install", "/var/tmp/draft")
    gateway.run("sh", "-ec", "ssh-keygen -A; systemctl start ssh")
    database.run("sh", "-ec", "ssh-keyscan 10.0.0.20 >> /etc/ssh/ssh_known_hosts")
    database.run("systemctl", "enable", "--now", FORWARDER)
    wait_for_answer(
        lambda: database.result("repmgr-hooks", "check", "--end-to-end").stdout,
        lambda checked: "arrived whole: repmgr_hooks_check" in checked,
        "an event to arrive",
    )
    wait_for(lambda: ", from db2," in gateway.run("repmgr-hooks", "history"), "the event at the gateway")


def upgrade_on_database_host(database: Machine, gateway: Machine) -> None:
    """The forwarder runs on with the new version, and what it is given arrives."""
    before = main_process(database, FORWARDER)
    database.run("dpkg", "--install", *next_ones("repmgr-hooks"), limit=320)
    wait_for(lambda: main_process(database, FORWARDER) not in (before, "0"), "the forwarder to be restarted")
    report = ("repmgr-hooks", "event", "--cluster", "main", "2", "child_node_reconnect")
    database.run("runuser", "-u", "postgres", "--", *report)
    wait_for(lambda: "child_node_reconnect of node 2, from db2" in gateway.run("repmgr-hooks", "history"), "an event")
