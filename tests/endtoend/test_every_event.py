"""Every event of the catalogue, for every node, in every state of the cluster: nothing but what is right changes."""

from __future__ import annotations

import pytest

from tests.endtoend.looks import barman_streams_from, routes, slot
from tests.lab import Host, Lab, wait_for

# One process for all events: what is tested is what they do, not how long Python takes to start.
REPLAY_ALL = """
import sys
from repmgr_hooks import event
from repmgr_hooks.cli import main as cli
codes = {(node, name): cli.run(["replay", node, name]) for name in event.CATALOGUE for node in ("1", "2")}
print(sorted(key for key, code in codes.items() if code not in (0, 1)), file=sys.stderr)
"""


def cluster_status(lab: Lab) -> tuple[object, ...]:
    """All that a handler could have changed."""
    slots = [slot(host) if host.result("pg_isready", "-q").returncode == 0 else "down" for host in (lab.db1, lab.db2)]
    receiver = lab.gateway.run("pgrep", "-f", "pg_receivewal", check=False)
    return lab.gateway.nat(), slots, receiver


def replay_all(lab: Lab) -> None:
    config = lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    config.write_text(config.read_text().replace("promotion_timeout: 30", "promotion_timeout: 1"))
    result = lab.gateway.result("/opt/repmgr-hooks/bin/python", "-c", REPLAY_ALL, limit=900)
    assert result.stderr.strip() == "[]"


def fail_over(lab: Lab) -> None:
    lab.db1.pg_ctl("stop", "-m", "fast")
    lab.db2.run("repmgr", "-f", "/etc/repmgr/db2.conf", "standby", "promote", user="postgres")
    lab.gateway.hooks("reconcile")


def rejoin(lab: Lab) -> None:
    fail_over(lab)
    node = "host=10.0.0.12 user=repmgr dbname=repmgr"
    lab.db1.run("repmgr", "-f", "/etc/repmgr/db1.conf", "node", "rejoin", "-d", node, user="postgres")
    wait_for(lambda: lab.db2.sql("select count(*) from pg_stat_replication where application_name='db1'") == "1", "db1")
    lab.gateway.hooks("reconcile")


def lose_the_primary(lab: Lab) -> None:
    lab.db1.pg_ctl("stop", "-m", "fast")


def come_back_from_the_dead(lab: Lab) -> None:
    fail_over(lab)
    lab.db1.pg_ctl("start")


def lose_everything(lab: Lab) -> None:
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.pg_ctl("stop", "-m", "immediate")


def primary_after(lab: Lab, change: object) -> Host:
    """The primary, or the last one."""
    return lab.db2 if change in (fail_over, rejoin, come_back_from_the_dead) else lab.db1


def is_at_rest(lab: Lab, change: object) -> bool:
    """True if no receiver of Barman's is left that is about to end, and the one that is needed streams."""
    receivers = lab.gateway.run("pgrep", "-f", "pg_receivewal", check=False).split()
    if change in (lose_the_primary, lose_everything):
        return receivers == []
    return len(receivers) == 1 and barman_streams_from(primary_after(lab, change))


@pytest.mark.parametrize(
    "change", [None, fail_over, rejoin, lose_the_primary, come_back_from_the_dead, lose_everything]
)
def test_replay_of_every_event(built_lab: Lab, change: object) -> None:
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    if callable(change):
        change(lab)
    wait_for(lambda: is_at_rest(lab, change), "Barman's receivers to have ended, or to stream")
    before = cluster_status(lab)

    replay_all(lab)

    after = cluster_status(lab)
    assert after == before
    assert set(routes(lab).values()) <= {primary_after(lab, change).address}
