"""systemd/README.md typed, as it stands, on two gateways that have booted; Barman is on a third host.

keepalived, conntrackd and the service run as their units say; the database hosts are not booted, and neither is
Barman's. The tests go on with the hosts as the one before has left them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests import readme
from tests.endtoend.conftest import needs_box
from tests.endtoend.looks import no_failure
from tests.endtoend.test_booted_hosts import Hosts, block, type_in
from tests.lab import CONFIG_FILE, Host, on_nodes, wait_for
from tests.lab.booted import CannotBoot
from tests.lab.gateways import OWN, TwoGateways

PAIR = readme.section("## Two gateways", readme.TEXTS["systemd/README.md"])
OURS = (
    *("/etc/repmgr-hooks", "/var/lib/repmgr-hooks", "/usr/local/bin/repmgr-hooks", "/etc/repmgr"),
    *("/etc/tmpfiles.d/repmgr-hooks.conf", "/etc/sudoers.d/repmgr-hooks", "/etc/barman.conf", "/etc/barman.d"),
    *("/etc/keepalived/keepalived.conf", "/etc/keepalived/repmgr-hooks-track", "/etc/conntrackd/conntrackd.conf"),
    # What the tests' own installation has put there: nothing starts by itself.
    *(
        "/etc/ssh/sshd_not_to_be_run",
        "/etc/systemd/system/keepalived.service",
        "/etc/systemd/system/conntrackd.service",
    ),
)


@pytest.fixture(scope="module")
def pair() -> Iterator[Hosts]:
    """Two gateways as somebody has them who has installed the packages, and nothing of ours."""
    needs_box()
    lab = TwoGateways()
    hosts = Hosts(lab)
    try:
        lab.build()
        for host in lab.databases:
            host.run("rm", "-rf", "/etc/repmgr-hooks", "/var/lib/repmgr-hooks", "/usr/local/bin/repmgr-hooks")
            for other in lab.databases:
                if other is not host:
                    host.path(f"/etc/repmgr/{other.name}.conf").unlink()
        conf = lab.db1.path("/etc/repmgr/db1.conf").read_text()
        for host in lab.gateways:
            host.run("rm", "-rf", *OURS)
            host.run("ssh-keygen", "-A")
            lab.put(host, "/var/tmp/db1.conf", conf, 0o600)
            hosts.boot(host)
            hosts.machines[host.name].run("sh", "-ec", "systemctl start ssh; cp /var/tmp/db1.conf /root/db1.conf")
        on_nodes.start_repmgrd(lab)
        cron = "while :; do barman -q cron; sleep 60; done"
        lab.daemons["cron"] = lab.backup.start("sh", "-c", cron, user="barman", log="cron")
        yield hosts
    except CannotBoot as error:
        pytest.skip(f"systemd-nspawn does not run here: {error}")
    finally:
        for running in hosts.running.values():
            running.close()
        lab.destroy()


def of(host: Host, commands: str) -> str:
    """The commands for this gateway: the README shows the first one's."""
    other = next(address for name, address in OWN.items() if name != host.name)
    return commands.replace(f"--other-gateway {OWN['gateway2']}", f"--other-gateway {other}")


def test_what_the_readme_says_is_typed(pair: Hosts) -> None:
    lab = pair.lab
    assert isinstance(lab, TwoGateways)
    (forward,) = re.findall(r"`(init --forward-to [^`]*)`", PAIR)
    commands = []
    for host in lab.databases:
        for words in (f"{forward} /var/tmp/draft", "init --install --replace /var/tmp/draft"):
            shown = host.run("sh", "-ec", f"/opt/repmgr-hooks/bin/repmgr-hooks {words}")
        commands += re.findall(r"(?m)^  (sed -i .*)$", shown)
    password = f"repmgr:{lab.passwords['repmgr']}"
    for host in lab.gateways:
        machine = pair.machines[host.name]
        type_in(machine, of(host, block("apt install", PAIR)).replace("repmgr:...", password))
        type_in(machine, "\n".join(commands))
        # As `check` asks for: `init` cannot know which application is served.
        draft = host.path(f"/var/tmp/draft{CONFIG_FILE}")
        draft.write_text(
            draft.read_text().replace("user: repmgr, dbname: repmgr, timeout: 5", "user: app, dbname: app")
        )
        lab.append(host, "/etc/repmgr-hooks/pgpass", lab.pgpass())
        *install, check = block("/opt/repmgr-hooks/bin/repmgr-hooks init --install", PAIR).splitlines()
        type_in(machine, "\n".join(install))
        assert check == "repmgr-hooks check"
    texts = [host.path(CONFIG_FILE).read_text() for host in lab.gateways]
    assert texts[0] == texts[1], "the same on both"
    wait_for(lambda: len(lab.holders()) == 1, "one gateway to have the address")
    wait_for(lambda: all(led_to(lab, host, lab.db1) for host in lab.gateways), "both to lead to db1")
    for host in lab.gateways:
        machine = pair.machines[host.name]
        no_failure(lambda there=machine: there.result("repmgr-hooks", "check").stdout)  # type: ignore[misc]


def led_to(lab: TwoGateways, gateway: Host, node: Host) -> bool:
    return lab.led(gateway) == {54321: node.address, 54322: node.address}


def test_a_gateway_dies_and_then_the_primary(pair: Hosts) -> None:
    """The units of the other one do what the README says, from the first to the last."""
    lab = pair.lab
    assert isinstance(lab, TwoGateways)
    wait_for(lambda: len(lab.holders()) == 1, "one gateway to have the address")
    (holder,) = lab.holders()
    (other,) = [host for host in lab.gateways if host is not holder]
    client = lab.start_client()
    tracked = "dport=54322"
    wait_for(lambda: tracked in lab.tracked(other), "the other gateway to know the client's connection")
    lab.unplug(holder)
    died = time.time()
    pair.power_off(holder)
    client.wait_for_write(died)
    assert other in lab.holders(), "of the one that is dead the namespace is left"
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, other, lab.db2), "the failover")
    client.wait_for_write(time.time())
    streams = "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'"
    wait_for(lambda: lab.db2.sql(streams) == "1", "Barman to stream from db2")
