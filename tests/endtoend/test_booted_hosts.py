"""systemd/README.md typed, as it stands, on hosts that have booted: repmgrd on the database hosts, and a gateway.

Each block is typed by root in a shell, in the order of the README. Not typed is what the lab has done (``DONE``: the
packages, and the program in its environment). PostgreSQL does not run under systemd here, but beside it, and Barman's
cron is a timer. The tests go on with the hosts as the one before has left them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from tests import readme
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, led_to, no_failure
from tests.endtoend.test_init import without_ours
from tests.lab import CONFIG_FILE, REPOSITORY, Failed, Host, Lab, wait_for, wait_for_answer
from tests.lab.booted import CannotBoot, Machine, booted
from tests.lab.on_nodes import waiting

ON_NODES = readme.section("## repmgrd on the database hosts", readme.TEXTS["systemd/README.md"])
DONE = ("apt install", "python3 -m venv")
CRON = ("systemd-run", "--quiet", "--on-active=0", "--on-unit-active=60", "--uid=barman", "barman", "-q", "cron")


@dataclass
class Hosts:
    """A lab whose gateway and database hosts have booted."""

    lab: Lab
    machines: dict[str, Machine] = field(default_factory=dict)
    running: dict[str, ExitStack] = field(default_factory=dict)

    @property
    def gateway(self) -> Machine:
        return self.machines["gateway"]

    @property
    def databases(self) -> dict[str, Machine]:
        return {host.name: self.machines[host.name] for host in self.lab.databases}

    def boot(self, host: Host) -> None:
        self.running[host.name] = ExitStack()
        self.machines[host.name] = self.running[host.name].enter_context(booted(self.lab, host))

    def power_off(self, host: Host) -> None:
        self.running.pop(host.name).close()

    def history(self) -> list[tuple[str, str]]:
        """The host and the name of each event that the gateway has from another one, the oldest first."""
        runs = json.loads(self.gateway.run("repmgr-hooks", "history", "-n", "1000", "--json"))
        events = [event for run in runs for event in run["events"] if "host" in event]
        return [(event["host"], event["name"]) for event in sorted(events, key=lambda event: event["id"])]


def block(begins: str, text: str = ON_NODES) -> str:
    """What is to be typed of a block."""
    lines = readme.block(begins, text).splitlines()
    return "\n".join(line for line in lines if not line.startswith(DONE))


def type_in(machine: Machine, commands: str) -> str:
    return machine.run("sh", "-ec", commands, limit=320)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    """As somebody has them who knows repmgr and Barman, and nothing of ours."""
    lab = fresh_lab()
    hosts = Hosts(lab)
    try:
        lab.build()
        prepare(lab)
        for host in (*lab.databases, lab.gateway):
            hosts.boot(host)
        for name, machine in hosts.databases.items():
            machine.run("systemctl", "enable", "--now", f"repmgrd@{name}")
        hosts.gateway.run("systemctl", "enable", "--now", "ssh")
        hosts.gateway.run(*CRON)
        yield hosts
    except CannotBoot as error:
        pytest.skip(f"systemd-nspawn does not run here: {error}")
    finally:
        for running in hosts.running.values():
            running.close()
        lab.destroy()


def prepare(lab: Lab) -> None:
    """Each database host has its own repmgr.conf and repmgrd; the gateway has neither, nor PostgreSQL's user."""
    without_ours(lab)
    for host in lab.databases:
        for other in lab.databases:
            place = f"/etc/repmgr/{other.name}.conf"
            host.path(place).unlink()
            if other is host:
                lab.put(host, place, lab.gateway.path(place).read_text())
        unit = (REPOSITORY / "systemd/repmgrd@.service").read_text()
        lab.put(host, "/etc/systemd/system/repmgrd@.service", unit)
    lab.put(lab.gateway, "/var/tmp/db1.conf", lab.db1.path("/etc/repmgr/db1.conf").read_text(), 0o600)
    lab.gateway.run("rm", "-r", "/etc/repmgr", "/var/lib/postgresql/.pgpass")
    # sshd, which the tests' own installation keeps from starting.
    lab.gateway.run("rm", "-f", "/etc/ssh/sshd_not_to_be_run")
    lab.gateway.run("ssh-keygen", "-A")


def test_what_the_readme_says_is_typed(hosts: Hosts) -> None:
    lab, gateway = hosts.lab, hosts.gateway
    gateway.run("cp", "/var/tmp/db1.conf", "/root/db1.conf")
    type_in(gateway, block("install -D").replace("repmgr:...", f"repmgr:{lab.passwords['repmgr']}"))
    install = block("/opt/repmgr-hooks/bin/repmgr-hooks init --install --replace")
    refused = gateway.result("sh", "-ec", install)
    assert "lacks the keys of the database hosts" in refused.stderr, refused
    assert gateway.result("id", "repmgr-hooks").returncode, "nothing was changed"
    for machine in hosts.databases.values():
        shown = type_in(machine, block("apt install python3-venv libpq5 openssh-client"))
        (command,) = re.findall(r"(?m)^  (sed -i .*)$", shown)
        type_in(gateway, command)
    said = type_in(gateway, install)
    assert "made      account repmgr-hooks\n" in said, said
    assert gateway.run("stat", "-c", "%U:%G:%a", "/etc/repmgr-hooks/pgpass") == "barman:barman:600\n"
    # As `check` asks for: `init` cannot know which application is served.
    lab.append(lab.gateway, "/etc/repmgr-hooks/pgpass", lab.pgpass())
    config = lab.gateway.path(CONFIG_FILE)
    config.write_text(config.read_text().replace("user: repmgr, dbname: repmgr, timeout: 5", "user: app, dbname: app"))
    for machine in hosts.databases.values():
        # The event of the check arrives.
        found = type_in(machine, block("systemctl enable --now repmgr-hooks-forward.service"))
        assert "0 FAIL, 0 WARN, " in found, found
    wait_for(lambda: {"db1", "db2"} <= {host for host, _ in hosts.history()}, "the history to have them")
    wait_for(lambda: led_to(lab, lab.db1) and barman_streams_from(lab.db1), "the service to make it so")
    no_failure(lambda: gateway.result("repmgr-hooks", "check").stdout)


def report(machine: Machine, node: int, name: str) -> None:
    """Report an event on a database host, as its repmgr would."""
    machine.run("runuser", "-u", "postgres", "--", "repmgr-hooks", "event", "--cluster", "main", str(node), name)


def test_events_that_wait_survive_a_reboot(hosts: Hosts) -> None:
    lab, sent = hosts.lab, ["child_node_disconnect", "child_node_new_connect", "child_node_reconnect"]
    lab.unplug(lab.gateway)
    try:
        for name in sent[:2]:
            report(hosts.machines["db1"], 1, name)
        wait_for(lambda: waiting(lab.db1) >= 2, "the events to wait")
        hosts.power_off(lab.db1)
        hosts.boot(lab.db1)
        wait_for(lambda: forwards(hosts.machines["db1"]), "the forwarder to run again")
        report(hosts.machines["db1"], 1, sent[2])
    finally:
        lab.plug_in(lab.gateway)
    wait_for(lambda: ("db1", sent[2]) in hosts.history(), "the events to arrive")
    assert [name for host, name in hosts.history() if host == "db1" and name in sent] == sent, "in order, and each once"
    wait_for(lambda: waiting(lab.db1) == 0, "the queue to be empty")
    wait_for(lambda: led_to(lab, lab.db1) and barman_streams_from(lab.db1), "the gateway to serve")


def forwards(machine: Machine) -> bool:
    return machine.result("systemctl", "is-active", "repmgr-hooks-forward").stdout == "active\n"


def test_the_shell_of_each_node(hosts: Hosts) -> None:
    lab, gateway = hosts.lab, hosts.gateway
    for host in lab.databases:
        host.run("rm", "-f", "/etc/ssh/sshd_not_to_be_run")
        hosts.machines[host.name].run("sh", "-ec", "ssh-keygen -A; systemctl start ssh")
    config = lab.gateway.path(CONFIG_FILE)
    text = config.read_text()
    for host in lab.databases:
        shell = f", shell: [ssh, -o, BatchMode=yes, postgres@{host.address}]}}"
        text = text.replace(f"{{host: {host.address}}}", f"{{host: {host.address}{shell}")
    config.write_text(text)
    key = next(line for line in type_in(gateway, block("runuser -u barman")).splitlines() if line.startswith("ssh-"))
    for host in lab.databases:
        lab.put(host, "/var/lib/postgresql/.ssh/authorized_keys", f"{key}\n", 0o600, "postgres")
    found = no_failure(lambda: gateway.result("repmgr-hooks", "check", "--end-to-end").stdout)
    for node in (1, 2):
        assert re.search(rf"OK +hook.arrived +main node {node}: sent on its host, arrived whole: ", found), found


@pytest.mark.parametrize("fault", ["/^Include/d", "1i AllowUsers admin", "1i AllowGroups admin"])
def test_an_sshd_that_lets_no_host_in(hosts: Hosts, fault: str) -> None:
    gateway = hosts.gateway
    assert re.search(r"OK +hook.sshd", gateway.result("repmgr-hooks", "check").stdout)
    gateway.run("sh", "-ec", f"sed -i '{fault}' /etc/ssh/sshd_config; systemctl reload ssh")
    found = re.search(r"FAIL +hook.sshd .*\n +HINT: (.*)", gateway.result("repmgr-hooks", "check").stdout)
    assert found, "no host gets in"
    type_in(gateway, found[1])
    assert re.search(r"OK +hook.sshd", gateway.result("repmgr-hooks", "check").stdout)
    # sshd reads its file again a moment later, and hears nobody meanwhile.
    check = ("repmgr-hooks", "check", "--end-to-end")
    wait_for_answer(
        lambda: hosts.machines["db1"].result(*check).stdout, lambda said: "arrived whole" in said, "an event to arrive"
    )


def test_a_host_that_does_not_boot_beside_others_is_a_failure(hosts: Hosts) -> None:
    """Skipped, the whole file would go unseen."""
    with pytest.raises(Failed, match="nowhere does not boot") as raised:
        hosts.boot(Host("nowhere", "10.0.0.99"))
    assert not isinstance(raised.value, CannotBoot)


def test_a_failover(hosts: Hosts) -> None:
    lab = hosts.lab
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    client.wait_for_write(time.time())
    wait_for(lambda: led_to(lab, lab.db2) and barman_streams_from(lab.db2), "the failover")
    wait_for(lambda: ("db2", "repmgrd_failover_promote") in hosts.history(), "what db2's repmgrd has said")
    wait_for(lambda: "from db2," in hosts.gateway.run("repmgr-hooks", "history"), "the history to name the host")
