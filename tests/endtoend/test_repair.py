"""What no event tells is mended, and what events tell after the fact is not believed: three nodes after a failover."""

from __future__ import annotations

import itertools
import json
import random
import secrets
from collections import Counter
from collections.abc import Callable

import pytest

from tests.endtoend.looks import barman_streams_from, handled_events, runs, slot, wait_until_good
from tests.lab import Lab, wait_for

# One process for all events: what is tested is what they do, not how long Python takes to start.
REPLAY = """
import json, sys
from repmgr_hooks.cli import main as cli
codes = [cli.run(["replay", *event]) for event in json.load(sys.stdin)]
print(json.dumps(codes), file=sys.stderr)
"""


def cluster_status(lab: Lab) -> tuple[object, ...]:
    """All that a run could have changed: the rules, the slots, Barman's receiver and what it is attached to."""
    slots = [slot(host) for host in lab.databases]
    # Barman asks for its version, too.
    receiver = lab.gateway.run("pgrep", "-f", "pg_receivewal .*--slot", check=False)
    attached = lab.db2.sql("select active_pid from pg_replication_slots where slot_name = 'barman'")
    return lab.gateway.nat(), slots, receiver, attached


def events_of_the_failover(lab: Lab) -> list[list[str]]:
    """Every event that was raised so far, told of every node, in an order that a printed seed gives."""
    raised = {name for _, name in handled_events(lab)}
    names = sorted(raised | {"standby_follow", "standby_switchover", "node_rejoin"})
    assert {"standby_promote", "repmgrd_failover_promote", "repmgrd_reload"} <= set(names)
    seed = secrets.randbelow(10000)
    print("seed", seed)
    shuffled = [list(event) for event in itertools.product(("1", "2", "3"), names)]
    random.Random(seed).shuffle(shuffled)
    return shuffled


def handled(lab: Lab, known: int, events: list[list[str]]) -> bool:
    """True when nothing waits and runs that have ended were for each of these events, as often as it was told."""
    since = runs(lab)[known:]
    had = Counter((str(event["node"]), event["name"]) for run in since if run["ended"] for event in run["events"])
    return not Counter((node, name) for node, name in events) - had and all(run["ended"] for run in since)


def test_events_replayed_in_any_order(failed_over: Lab) -> None:
    lab = failed_over
    before, events = cluster_status(lab), events_of_the_failover(lab)

    words = ("/opt/repmgr-hooks/bin/python", "-c", REPLAY)
    result = lab.gateway.result(*words, stdin=json.dumps(events), limit=300)

    codes = json.loads(result.stderr.splitlines()[-1])
    assert len(codes) == len(events)
    assert set(codes) <= {0, 1}
    assert cluster_status(lab) == before


def test_events_told_again_in_any_order(failed_over: Lab) -> None:
    """As repmgrd would tell them, through the hook and the service."""
    lab = failed_over
    before, events, known = cluster_status(lab), events_of_the_failover(lab), len(runs(lab))

    for event in events:
        result = lab.gateway.hooks("event", "--cluster", "main", *event, user="postgres")
        assert result.returncode == 0, result.stderr
    wait_for(lambda: handled(lab, known, events), "the events to be handled", every=0.5)

    assert cluster_status(lab) == before


def wipe_the_chains(lab: Lab) -> None:
    lab.gateway.wipe_nat()


def add_a_rule(lab: Lab) -> None:
    rule = "-d 10.0.0.20 -p tcp --dport 54322 -j DNAT --to-destination 10.0.0.13:5432"
    lab.gateway.run("iptables", "-t", "nat", "-I", "repmgr_dnat", *rule.split())


def drop_the_slot(lab: Lab) -> None:
    """Barman's receiver is sent away first, and comes back to find no slot."""
    end = "select pg_terminate_backend(active_pid, 50000) from pg_replication_slots where slot_name = 'barman'"
    lab.db2.sql(f"{end}; select pg_drop_replication_slot('barman')")


def stop_the_stream(lab: Lab) -> None:
    lab.gateway.barman("receive-wal", "--stop", "main_backup")


@pytest.mark.parametrize("damage", [wipe_the_chains, add_a_rule, drop_the_slot, stop_the_stream])
def test_damage_without_any_event_is_mended(failed_over: Lab, damage: Callable[[Lab], None]) -> None:
    lab = failed_over
    nat, known = lab.gateway.nat(), len(runs(lab))
    damage(lab)

    wait_for(lambda: [run for run in runs(lab)[known:] if run["ok"]], "a run that works", every=0.5)
    wait_until_good(lab, lab.db2, [lab.db1, lab.db3])

    assert lab.gateway.nat() == nat
    assert barman_streams_from(lab.db2)
    since = runs(lab)[known:]
    assert since[0]["cause"] == "drift"
    assert {run["cause"] for run in since} <= {"drift", "retry"}
    assert not any(run["events"] for run in since)
