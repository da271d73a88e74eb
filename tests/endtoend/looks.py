"""What a DBA would look at, independent of the code under test."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

from tests.lab import ADDRESSES, Client, Host, Lab, six, wait_for, wait_for_answer
from tests.lab.many import Crowd

SEGMENT = 16 * 1024 * 1024


def slot(host: Host, name: str = "barman") -> str:
    """``active|has restart_lsn|wal_status`` of a slot; empty if there is none."""
    look = f"select active, restart_lsn is not null, wal_status from pg_replication_slots where slot_name = '{name}'"
    return host.sql(look)


def barman_streams_from(host: Host) -> bool:
    """True if Barman's receiver is attached to this node, through its slot, and streaming."""
    look = (
        "select count(*) from pg_stat_replication r join pg_replication_slots s on s.active_pid = r.pid "
        "where s.slot_name = 'barman' and r.state = 'streaming' and r.application_name = 'barman_receive_wal' "
        f"and r.client_addr in ('{ADDRESSES['gateway']}', '{six.adapted(ADDRESSES['gateway'])}')"
    )
    return host.sql(look) == "1"


def follows(host: Host, primary: Host) -> bool:
    """True if a standby streams from this primary."""
    look = f"select count(*) from pg_stat_replication where application_name = '{host.name}' and state = 'streaming'"
    return primary.sql(look) == "1"


def barman_files(lab: Lab) -> set[str]:
    """The complete WAL files that Barman holds, archived or not."""
    # The streaming directory first, and again: a file that Barman archives meanwhile is in one of the two.
    places = [f"/var/lib/barman/main_backup{place}" for place in ("/streaming", "")]
    listing = lab.gateway.run("find", *places, "-type", "f", "-printf", "%f\n", check=False)
    return {name for name in listing.split() if re.fullmatch(r"[0-9A-F]{24}|[0-9A-F]{8}\.history", name)}


def first_file(lab: Lab) -> str:
    """The oldest WAL file that Barman has, or has begun to receive."""
    listing = lab.gateway.run("find", "/var/lib/barman/main_backup", "-type", "f", "-printf", "%f\n")
    return min(name[:24] for name in listing.split() if re.fullmatch(r"[0-9A-F]{24}(\.partial)?", name))


def missing_across_the_switch(lab: Lab, primary: Host, first: str) -> set[str]:
    """WAL files that Barman should have and has not: from ``first`` on timeline 1 to the switchpoint, and from there on
    2."""
    history = primary.sql("select pg_read_file('pg_wal/00000002.history')")
    high, low = (int(part, 16) for part in history.split()[1].split("/"))
    switchpoint = ((high << 32) + low) // SEGMENT
    end = int(primary.sql(f"select (pg_current_wal_lsn() - '0/0') / {SEGMENT}").split(".")[0])
    start = int(first[8:16], 16) * 256 + int(first[16:], 16)
    wanted = {f"00000001{n // 256:08X}{n % 256:08X}" for n in range(start, switchpoint)}
    wanted |= {f"00000002{n // 256:08X}{n % 256:08X}" for n in range(switchpoint, end)} | {"00000002.history"}
    return wanted - barman_files(lab)


def routes(lab: Lab) -> dict[int, str]:
    """Where the gateway's ports lead, read from its rules."""
    rule = re.compile(r"dport (\d+) .*(?:--to-destination|dnat to) \[?([0-9a-f.:]+?)\]?:5432")
    return {int(found[1]): found[2] for line in lab.gateway.nat() if (found := rule.search(line))}


def routes_during(lab: Lab, seconds: float, every: float = 0.1) -> list[dict[int, str]]:
    """Where the ports led during so many seconds: each different answer, in order."""
    end, seen = time.monotonic() + seconds, [routes(lab)]
    while time.monotonic() < end:
        time.sleep(every)
        if (now := routes(lab)) != seen[-1]:
            seen.append(now)
    return seen


def led_to(lab: Lab, host: Host) -> bool:
    """True if both ports lead to a node."""
    return routes(lab) == {54321: host.address, 54322: host.address}


def wait_until_good(lab: Lab, primary: Host, others: Sequence[Host], limit: float = 60) -> None:
    """Wait until all leads to the primary: both ports, Barman's slot and stream; and ``status`` is content."""
    wait_for(lambda: set(routes(lab).values()) == {primary.address}, f"the routes to {primary.name}", limit)
    wait_for(lambda: barman_streams_from(primary), f"Barman to stream from {primary.name}", limit)
    for host in others:
        wait_for(lambda h=host: slot(h) == "", f"the slot on {host.name} to be dropped", limit)
    wait_for(lambda: good_for(lab, primary), "a status that is good", limit, every=0.5)


def good_for(lab: Lab, primary: Host) -> bool:
    """True if ``status`` is content, and so is who looks for himself."""
    content = lab.gateway.hooks("status").returncode == 0
    return content and led_to(lab, primary) and slot(primary) == "t|t|reserved"


def assert_nothing_lost(client: Client, primary: Host) -> None:
    """Every row that the client was told is committed is there."""
    committed = {write.row for write in client.writes() if write.row is not None}
    assert committed
    assert committed - {int(row) for row in primary.sql("select id from work", "app").split()} == set()


def runs(lab: Lab) -> list[dict[str, Any]]:
    """The runs of the journal, the oldest first."""
    result: list[dict[str, Any]] = json.loads(lab.gateway.hooks("history", "--json", "-n", "10000").stdout)
    return result


def handled_events(lab: Lab) -> set[tuple[int, str]]:
    """Node and name of every event that a run which has ended was for."""
    return {(event["node"], event["name"]) for run in runs(lab) if run["ended"] for event in run["events"]}


def worker_log(lab: Lab) -> list[str]:
    """What the worker has said so far."""
    return lab.gateway.log("worker").splitlines()


def no_failure(check: Callable[[], str]) -> str:
    """Wait until a ``check`` finds no failure, and return what it shows: what has just been started needs a moment."""
    return wait_for_answer(check, lambda shown: "FAIL  " not in shown, "a check without a failure")


def status(lab: Lab) -> dict[str, Any]:
    """What ``status`` says of the one cluster."""
    (said,) = json.loads(lab.gateway.hooks("status", "--json").stdout).values()
    result: dict[str, Any] = said
    return result


def nothing_missing(lab: Lab) -> bool:
    """True when ``status`` knows the primary and finds nothing to do; nodes may be down."""
    cluster_status = status(lab)
    return bool(cluster_status["decision"]["primary"]) and not (
        cluster_status["pending"] or cluster_status["failed"] or cluster_status["waiting"]
    )


def failover_handled(lab: Lab) -> bool:
    """True when the last event of a failover to node 2 has been handled, and nothing is left to do."""
    # This is asked ten times a second: a log costs nothing to read, and each other question a start of Python or two.
    begun = "the primary is node 2" in lab.gateway.log("worker")
    return begun and (2, "repmgrd_reload") in handled_events(lab) and nothing_missing(lab)


def unplugged_under_open_connections(lab: Lab, primary: Host) -> list[Client]:
    """Unplug the primary; return clients, of which each has waited once, with the connection that was open."""
    hosts = (lab.app, lab.gateway)
    clients, crowds = [lab.start_client(host) for host in hosts], [Crowd(lab, host, 4) for host in hosts]
    fault = time.time()
    lab.unplug(primary)
    for client in clients:
        client.wait_for_write(fault + 1)
        # One that succeeds late is the machine's; a connection that nobody answers is given up after 2 s.
        hung = [write for write in client.writes() if write.row is None and write.ended - write.begun > 2]
        assert len(hung) == 1, "only the open connection waited"
    for crowd in crowds:
        crowd.wait_for_writes(fault + 1)
    return clients
