"""Installed by the README on a gateway that has booted: the units under real systemd, to a failover and a reboot.

What a unit forbids must hinder nothing, and Barman's receiver outlives the service.
"""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests import readme
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, led_to
from tests.endtoend.test_init import without_ours
from tests.lab import CONFIG_FILE, REPOSITORY, Lab, wait_for
from tests.lab.booted import CannotBoot, Machine, booted


@pytest.fixture
def lab() -> Iterator[Lab]:
    """With repmgr and Barman on the gateway; Barman's directories are where no package has put them."""
    with fresh_lab() as lab:
        lab.build()
        lab.db2.sql("alter system set restore_command = 'false'")  # check wants one on a standby
        lab.db2.pg_ctl("reload")
        lab.gateway.run("cp", "-a", "/var/lib/barman", "/var/elsewhere")
        config = lab.gateway.path("/etc/barman.conf")
        config.write_text(config.read_text().replace("barman_home = /var/lib/barman", "barman_home = /var/elsewhere"))
        without_ours(lab)
        for unit in ("repmgrd@.service", "repmgr-hooks-metrics.service"):
            lab.put(lab.gateway, f"/etc/systemd/system/{unit}", (REPOSITORY / "systemd" / unit).read_text())
        yield lab


def test_installation_failover_restarts_and_reboot(lab: Lab) -> None:
    try:
        with booted(lab, lab.gateway) as machine:
            install(lab, machine)
            fail_over(lab, machine)
            stand_still(machine)
            end_and_begin_again(machine)
    except CannotBoot as error:
        pytest.skip(f"systemd-nspawn does not run here: {error}")
    lab.gateway.wipe_nat()
    assert not led_to(lab, lab.db2)
    with booted(lab, lab.gateway):
        wait_for(lambda: led_to(lab, lab.db2) and barman_streams_from(lab.db2), "what a reboot has lost")


def install(lab: Lab, machine: Machine) -> None:
    machine.run("systemctl", "start", "repmgrd@db1", "repmgrd@db2")
    cron = ("--on-active=0", "--on-unit-active=60", "--uid=barman", "barman", "-q", "cron")
    machine.run("systemd-run", "--quiet", *cron)
    # The first two of the README's commands are what the lab has done: packages, and the program in its environment.
    _, _, draft, put_in_place, *begin = readme.block("apt install").splitlines()
    machine.run("sh", "-ec", draft)
    machine.run("sh", "-ec", put_in_place)
    lab.put(lab.gateway, "/etc/repmgr-hooks/pgpass", lab.pgpass(), 0o600, "barman")
    # As `check` asks for: `init` cannot know which application is served.
    config = lab.gateway.path(CONFIG_FILE)
    before, after = "probe: {user: repmgr, dbname: repmgr", "probe: {user: app, dbname: app"
    config.write_text(config.read_text().replace(before, after))
    machine.run("sh", "-ec", "\n".join(begin), limit=320)
    wait_for(lambda: led_to(lab, lab.db1) and barman_streams_from(lab.db1), "the service to make it so")
    machine.run("systemctl", "start", "repmgr-hooks-http.service")
    wait_for(lambda: answered(machine, 1) == 200, "node 1 to be answered for")
    wait_for(lambda: good_but_for_tls(machine.result("repmgr-hooks", "check").stdout), "check to find nothing wrong")


def answered(machine: Machine, node: int) -> int:
    """The status of ``/primary`` for a node; 0: there was no answer."""
    ask = (
        "import http.client; connection = http.client.HTTPConnection('127.0.0.1', 8008, timeout=10)\n"
        f"connection.request('GET', '/nodes/{node}/primary'); print(connection.getresponse().status)"
    )
    return int(machine.result("python3", "-c", ask).stdout or 0)


def good_but_for_tls(found: str) -> bool:
    """The lab's nodes have no certificates, and Barman has made no backup yet."""
    warnings = set(re.findall(r"(?m)^WARN +(\S+)", found))
    return warnings == {"nodes.password", "barman.backup"} and "\n0 FAIL, 2 WARN, " in found


def fail_over(lab: Lab, machine: Machine) -> None:
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2) and barman_streams_from(lab.db2), "the failover")
    client.wait_for_write(time.time())
    for step in ("reset connections of port 54322 to 10.0.0.11", "switch WAL and see timeline 2 on Barman's disk"):
        wait_for(lambda said=step: said in machine.log("repmgr-hooks"), f"the service to have said: {step}")
    wait_for(lambda: (answered(machine, 1), answered(machine, 2)) == (503, 200), "node 2 to be answered for")
    machine.run("systemctl", "start", "repmgr-hooks-metrics.service")
    assert 'repmgr_hooks_primary_known{cluster="main"} 1' in machine.run("cat", "/run/repmgr-hooks/repmgr_hooks.prom")


def stand_still(machine: Machine) -> None:
    """systemd ends a service that feeds its watchdog no more, and starts it anew; it is fed every 20 s."""
    place = "/run/systemd/system/repmgr-hooks.service.d"
    machine.run("sh", "-ec", f"mkdir {place}; printf '[Service]\nWatchdogSec=30\n' > {place}/sooner.conf")
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "restart", "repmgr-hooks", limit=160)
    receiver, before = receiver_of(machine), main_process(machine)
    time.sleep(25)
    assert main_process(machine) == before
    machine.run("systemctl", "kill", "--kill-who=main", f"--signal={signal.SIGSTOP}", "repmgr-hooks")
    wait_for(lambda: main_process(machine) not in (before, "0"), "systemd to start it again", 120)
    wait_for(lambda: "Watchdog timeout (limit 30s)" in machine.log("repmgr-hooks"), "systemd to say so")
    wait_for(lambda: machine.result("systemctl", "is-active", "repmgr-hooks").returncode == 0, "it to be ready")
    assert receiver_of(machine) == receiver
    machine.run("rm", "-r", place)
    machine.run("systemctl", "daemon-reload")


def main_process(machine: Machine, unit: str = "repmgr-hooks") -> str:
    return machine.run("systemctl", "show", "--value", "--property=MainPID", unit).strip()


def receiver_of(machine: Machine) -> str:
    """The process that streams; Barman starts others, that say their version."""
    return machine.run("pgrep", "-f", "pg_receivewal .*--directory")


def end_and_begin_again(machine: Machine) -> None:
    """However the service ends, Barman's receiver goes on; and nft may do its work in the unit, as iptables may."""
    receiver = receiver_of(machine)
    for old, new in (("iptables", "nftables"), ("nftables", "iptables")):
        machine.run("sed", "-i", f"s/backend: {old}/backend: {new}/", CONFIG_FILE)
        machine.run("systemctl", "reload", "repmgr-hooks")
        wait_for(lambda now=new: f"now {now} has them" in machine.log("repmgr-hooks"), f"the rules to be with {new}")
    again = "the configuration has been read again"
    wait_for(lambda: again in machine.log("repmgr-hooks"), "the service to say so")
    machine.run("systemctl", "kill", "--kill-who=main", f"--signal={signal.SIGKILL}", "repmgr-hooks")
    wait_for(lambda: "Scheduled restart job" in machine.log("repmgr-hooks"), "systemd to start it again")
    wait_for(lambda: machine.result("systemctl", "is-active", "repmgr-hooks").returncode == 0, "it to be ready")
    machine.run("systemctl", "stop", "repmgr-hooks", limit=160)
    assert receiver_of(machine) == receiver
