"""repmgrd on the database hosts: what it reports there reaches the gateway, once, whatever happens on the way."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import routes
from tests.lab import Host, Lab, on_nodes, wait_for
from tests.lab.on_nodes import KEY, STATE, event, start_forwarder, waiting

CONFIG_FILE = "/etc/repmgr-hooks/config.yaml"


@pytest.fixture
def on_hosts() -> Iterator[Lab]:
    """Two nodes in service; on each a repmgrd, and a forwarder that leads to the gateway."""
    with fresh_lab() as lab:
        lab.build()
        lab.start_cron()
        on_nodes.install(lab)
        assert lab.gateway.hooks("reconcile").returncode == 0
        lab.start_worker()
        for host in lab.databases:
            start_forwarder(lab, host)
        on_nodes.start_repmgrd(lab)
        yield lab


@pytest.fixture
def two_hosts() -> Iterator[Lab]:
    """The same without repmgrd and without the service: what the gateway takes stays in its spool."""
    with fresh_lab() as lab:
        lab.make_network()
        lab.make_directories()
        on_nodes.install(lab)
        yield lab


def handed_over(lab: Lab) -> list[dict[str, object]]:
    """Every event that the journal has from another host, in the order in which it came."""
    history = json.loads(lab.gateway.hooks("history", "-n", "1000", "--json").stdout)
    events = [found for run in history for found in run["events"] if "host" in found]
    return sorted(events, key=lambda found: found["id"])


def names(lab: Lab, host: str) -> list[object]:
    return [found["name"] for found in handed_over(lab) if found["host"] == host]


def spooled(lab: Lab) -> list[list[str]]:
    """What lies in the gateway's spool, in the order in which it came."""
    files = sorted(file for file in lab.gateway.path(f"{STATE}/spool").iterdir() if file.name[0] != ".")
    return [file.read_text().split("\n")[:-1] for file in files]


def sent_by_ssh(host: Host, content: str, *asked: str) -> tuple[int, str, str]:
    """Speak to the gateway with a host's key, as whoever has stolen it would."""
    options = ("-T", "-i", KEY, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes")
    result = host.result("ssh", *options, "repmgr-hooks@10.0.0.20", *asked, user="postgres", stdin=content)
    return result.returncode, result.stdout, result.stderr


def test_a_failover(on_hosts: Lab) -> None:
    lab = on_hosts
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    client.wait_for_write(time.time())
    wait_for(lambda: "repmgrd_failover_promote" in names(lab, "db2"), "the event of the failover")
    wait_for(lambda: "repmgrd_reload" in names(lab, "db2"), "the last event of the failover")
    wait_for(lambda: routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}, "both ports to lead to db2")
    told = names(lab, "db2")
    assert told.index("standby_promote") < told.index("repmgrd_failover_promote") < told.index("repmgrd_reload")
    assert len(told) == len(set(told)), "each once"
    assert all(abs(float(str(found["clock_ahead"]))) < 60 for found in handed_over(lab))
    wait_for(lambda: waiting(lab.db2) == 0, "the forwarder to hear that all is taken")
    shown = lab.gateway.hooks("history", "-n", "50").stdout
    assert "standby_promote of node 2, from db2," in shown


def test_a_gateway_that_is_down_gets_each_event_in_order_and_once(on_hosts: Lab) -> None:
    lab = on_hosts
    wait_for(lambda: "repmgrd_start" in names(lab, "db1"), "the start of repmgrd on db1")
    before = len(names(lab, "db1"))
    lab.unplug(lab.gateway)
    sent = [
        "child_node_disconnect",
        "repmgrd_upstream_disconnect",
        "child_node_reconnect",
        "repmgrd_upstream_reconnect",
    ]
    for name in sent[:2]:
        event(lab.db1, 1, name)
    wait_for(lambda: waiting(lab.db1) == 2, "the events to wait")
    # As a host that is reset in the middle of an attempt: what it has on its disk is all that is left.
    for _ in range(3):
        lab.daemons["forward db1"].kill()
        lab.daemons["forward db1"].wait(60)
        start_forwarder(lab, lab.db1)
    for name in sent[2:]:
        event(lab.db1, 1, name)
    lab.plug_in(lab.gateway)
    wait_for(lambda: len(names(lab, "db1")) >= before + 4, "the events to arrive")
    assert names(lab, "db1")[before:] == sent
    wait_for(lambda: waiting(lab.db1) == 0, "the queue to be empty")
    assert names(lab, "db1")[before:] == sent


def test_a_clock_that_is_off_is_named(on_hosts: Lab) -> None:
    lab = on_hosts
    wait_for(lambda: handed_over(lab), "an event of a host")
    # Clocks are the machine's here: one that is off is played by a letter that says so.
    number = f"{int((time.time() - 3600) * 1e9):020d}-1"
    letter = f"repmgr-hooks 1\t{time.time() - 3600:.3f}\n{number}\tmain\t2\trepmgrd_reload\t1\t\t\n"
    assert sent_by_ssh(lab.db2, letter)[0] == 0
    # And as long as ssh took.
    named = re.compile(r"the clock of db2 is 36\d\d s behind")
    wait_for(lambda: named.search(lab.gateway.hooks("status").stdout), "status to say so", every=0.5)
    shown = re.compile(r"\(its clock is 36\d\d s behind this one\)")
    wait_for(lambda: shown.search(lab.gateway.hooks("history").stdout), "history to say so", every=0.5)


def test_the_forwarder_is_killed_in_the_middle_of_a_delivery(two_hosts: Lab) -> None:
    lab = two_hosts
    # As slow as a network can be: the gateway has stored the event, and its answer is on the way.
    lab.put(lab.db1, "/usr/local/bin/slowly", '#!/bin/sh\n"$@"; sleep 30\n', 0o755)
    fast = lab.db1.path(CONFIG_FILE).read_text()
    lab.put(lab.db1, CONFIG_FILE, fast.replace("[ssh,", "[/usr/local/bin/slowly, ssh,").replace("20}\n", "60}\n"))
    start_forwarder(lab, lab.db1)
    event(lab.db1, 1, "repmgrd_start")
    wait_for(lambda: len(spooled(lab)) == 1, "the event in the gateway's spool")
    lab.daemons["forward db1"].kill()
    lab.daemons["forward db1"].wait(60)
    assert waiting(lab.db1) == 1
    lab.put(lab.db1, CONFIG_FILE, fast)
    start_forwarder(lab, lab.db1)
    wait_for(lambda: waiting(lab.db1) == 0, "the event to be taken")
    first, second = spooled(lab)
    assert first[:8] == second[:8], "handed over twice, with one number"
    lab.start_worker()
    wait_for(lambda: spooled_events(lab) == 0, "the service to take them in")
    with closing(sqlite3.connect(lab.gateway.path(f"{STATE}/journal.db"))) as journal:
        assert journal.execute("select count(*), min(host) from event").fetchone() == (1, "db1")


def spooled_events(lab: Lab) -> int:
    return sum(
        file.name not in ("wake",) and file.name[0] != "." for file in lab.gateway.path(f"{STATE}/spool").iterdir()
    )


def test_two_gateways_of_which_one_is_dead(two_hosts: Lab) -> None:
    lab = two_hosts
    text = lab.db1.path(CONFIG_FILE).read_text()
    line = next(line for line in text.splitlines() if line.startswith("    gateway:"))
    dead = line.replace("gateway:", "other:").replace("10.0.0.20", "10.0.0.99")
    lab.put(lab.db1, CONFIG_FILE, text.replace(line, f"{dead}\n{line}"))
    lab.put(lab.db1, "/var/lib/postgresql/.ssh/config", "StrictHostKeyChecking accept-new\n", 0o600, "postgres")
    start_forwarder(lab, lab.db1)
    for name in ("repmgrd_start", "child_node_disconnect"):
        event(lab.db1, 1, name)
    wait_for(lambda: len(spooled(lab)) == 2, "the events at the gateway that is there")
    wait_for(lambda: waiting(lab.db1, "other") == 2, "them to wait for the other")


@pytest.mark.parametrize(
    "asked", [(), ("id",), ("repmgr-hooks", "receive-event", "--host", "db2"), ("$(id)`id`;id|id",)]
)
def test_a_key_can_only_hand_over_events_and_only_as_its_host(two_hosts: Lab, asked: tuple[str, ...]) -> None:
    lab = two_hosts
    number = f"{time.time_ns():020d}-1"
    letter = f"repmgr-hooks 1\t{time.time():.3f}\n{number}\tmain\t2\tstandby_promote\t1\t\t\n"
    code, said, _ = sent_by_ssh(lab.db1, letter, *asked)
    assert (code, said) == (0, f"taken {number}\n")
    ((*_, host, known_by, _),) = spooled(lab)
    assert (host, known_by) == ("db1", number)

    for content in (
        "",
        "id\n",
        "x" * 1_000_000,
        "\0\x01\x02\n",
        f"repmgr-hooks 1\t1.000\n{number}\tmain\t2;id\tx\t1\t\t\n",
    ):
        code, said, _ = sent_by_ssh(lab.db1, content, *asked)
        assert "taken" not in said
        assert "uid=" not in said
    assert len(spooled(lab)) == 1
    # Nor anything else that ssh offers.
    options = ("-i", KEY, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "ExitOnForwardFailure=yes")
    forwards = lab.db1.result(
        "ssh", *options, "-N", "-R", "0:127.0.0.1:5432", "repmgr-hooks@10.0.0.20", user="postgres"
    )
    assert forwards.returncode != 0
    assert lab.db1.result("sftp", *options, "repmgr-hooks@10.0.0.20", user="postgres").returncode != 0


def test_check_and_the_way_of_an_event(on_hosts: Lab) -> None:
    lab = on_hosts
    wait_for(lambda: {"db1", "db2"} <= {found["host"] for found in handed_over(lab)}, "an event of each host")
    for host in lab.databases:
        lab.gateway.path(f"/etc/repmgr/{host.name}.conf").unlink()
    said = lab.gateway.hooks("check").stdout
    assert said.count("is on the node's own host, which reports: ") == 2, said
    assert "no repmgr.conf of node" not in said
    assert "the clocks of the hosts that hand events over are right" in said
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
    assert "failover: repmgr would promote node 2" in lab.gateway.hooks("status").stdout

    for host in lab.databases:
        for other in lab.databases:
            if other is not host:
                host.path(f"/etc/repmgr/{other.name}.conf").unlink()
        checked = host.hooks("check", "--end-to-end")
        assert "arrived whole: repmgr_hooks_check" in checked.stdout, checked.stdout
        assert checked.returncode == 0, checked.stdout
    wait_for(lambda: "repmgr_hooks_check" in names(lab, "db2"), "the test event of db2")
    # As a host whose gateway is gone.
    lab.unplug(lab.gateway)
    place = lab.db1.path(CONFIG_FILE)
    place.write_text(place.read_text().replace("timeout: 20", "timeout: 2"))
    checked = lab.db1.hooks("check", "--end-to-end")
    assert "gateway has not taken the event within 2 s" in checked.stdout, checked.stdout
    assert checked.returncode == 1
    lab.daemons["forward db1"].kill()
    lab.daemons["forward db1"].wait(60)
    assert "the forwarder does not run" in lab.db1.hooks("check").stdout


def test_the_files_that_init_drafts(two_hosts: Lab) -> None:
    lab = two_hosts
    host = lab.db1
    host.path("/etc/repmgr/db2.conf").unlink()
    host.path("/etc/repmgr/db1.conf").write_text("node_id=1\nconninfo='host=10.0.0.11'\n")
    drafted = host.hooks("init", "--forward-to", "10.0.0.20", "--forward-to", "10.0.0.21", "/var/tmp/draft")
    assert drafted.returncode == 0, drafted.stderr
    text = host.path("/var/tmp/draft/etc/repmgr-hooks/config.yaml").read_text()
    assert "    gateway1: {command: [ssh," in text
    assert "repmgr-hooks@10.0.0.21]" in text
    installed = host.hooks("init", "--install", "--replace", "/var/tmp/draft")
    assert installed.returncode == 0, installed.stdout + installed.stderr
    assert "systemctl enable --now repmgr-hooks-forward.service" in installed.stdout
    assert "repmgr-hooks event --cluster main" in host.path("/etc/repmgr/db1.conf").read_text()
    assert "ok        /var/lib/postgresql/.ssh/repmgr_hooks\n" in installed.stdout
    again = host.hooks("init", "--install", "/var/tmp/draft")
    assert again.returncode == 0, again.stderr
    assert not re.search("(?m)^(installed|replaced|made|linked)", again.stdout), "again, it changes nothing"


def test_init_on_the_gateway(on_hosts: Lab) -> None:
    gateway, draft = on_hosts.gateway, "/var/tmp/draft"
    there = gateway.path("/etc/repmgr-hooks/authorized_keys")
    keys = there.read_text()
    there.unlink()
    words = ("init", "--repmgr-conf", "/etc/repmgr/db1.conf", "--repmgrd-on-nodes", draft)
    drafted = gateway.hooks(*words)
    assert drafted.returncode == 0, drafted.stderr
    assert not gateway.path(f"{draft}/etc/repmgr").exists()
    refused = gateway.hooks("init", "--install", "--replace", draft)
    assert refused.returncode == 2
    assert "lacks the keys of the database hosts" in refused.stderr
    there.write_text(keys)
    place = gateway.path(f"{draft}/etc/repmgr-hooks/authorized_keys")
    place.unlink()
    assert gateway.hooks(*words).returncode == 0
    assert place.read_text() == keys, "what stands there was typed from the shipped file, and stays"
    for _ in range(2):
        installed = gateway.hooks("init", "--install", "--replace", draft)
        assert installed.returncode == 0, installed.stdout + installed.stderr
        assert "ok        account repmgr-hooks\n" in installed.stdout
        gateway.run("/usr/sbin/sshd", "-t")
