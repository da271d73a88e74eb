"""Everything that the configuration can switch on, at once: a failover, and the old primary that comes back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, follows, routes, status
from tests.endtoend.test_former_primary import configure
from tests.endtoend.test_pgbouncer import use
from tests.endtoend.test_readers import DB2, DB3, READERS, change_config
from tests.endtoend.test_veto import veto_line
from tests.lab import Lab, prometheus, wait_for, wait_for_answer
from tests.lab import http as endpoint
from tests.lab.pgbouncer import Pooler
from tests.lab.readers import reach

NO_SUCH_SLOT = 'repmgr_hooks_failover_slot_in_sync{cluster=~"$cluster"}'
"""The only panel without data: nobody subscribes."""
SECOND = "- slot: {name: second, on: primary}"


@pytest.fixture
def pooled() -> Iterator[Pooler]:
    """Three nodes in service: PgBouncer, readers, a second slot, serve-http, former primaries looked after, a veto."""
    with fresh_lab(3) as lab:
        lab.build()
        change_config(
            lab,
            *READERS,
            ("          - slot: {on: primary}\n", f"          - slot: {{on: primary}}\n          {SECOND}\n"),
            (
                "          - slot: {on: standbys, state: absent}\n",
                "          - slot: {on: standbys, state: absent}\n          - slot: {name: second, on: standbys}\n",
            ),
        )
        configure(lab)
        pooler = Pooler(lab, lab.gateway)
        use(lab, pooler)
        for node in lab.databases:
            lab.append(lab.gateway, f"/etc/repmgr/{node.name}.conf", veto_line())
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr
        lab.start_cron()
        lab.start_worker()
        lab.start_repmgrd()
        endpoint.start(lab)
        yield pooler


def slots(lab: Lab, number: int) -> str:
    return lab.node(number).sql("select string_agg(slot_name, ' ' order by slot_name) from pg_replication_slots")


def panels_without_data(lab: Lab) -> list[str]:
    """With what is known now: some is in the file alone."""
    prometheus.write_file(lab)
    return prometheus.panels_without_data(lab)


def test_a_failover_with_everything(pooled: Pooler) -> None:
    lab = pooled.lab
    wait_for(lambda: reach(lab, DB2, DB3), "readers on both standbys")
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
    client = lab.start_client(way=pooled.way)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: routes(lab).get(54322) == DB2, "the app port to lead to db2")
    assert "node 2 may be promoted" in lab.gateway.log("repmgrd2")
    client.wait_for_write(time.time())
    wait_for(lambda: endpoint.primaries(lab) == [2], "load balancers to be led to node 2")
    wait_for(lambda: follows(lab.db3, lab.db2), "db3 to follow db2")
    wait_for(lambda: reach(lab, DB3), "readers on db3 alone")

    lab.db1.pg_ctl("start")  # somebody does: a stale primary
    wait_for(lambda: follows(lab.db1, lab.db2), "db1 to be stopped, rewound, and to follow db2", 180)
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    wait_for(lambda: reach(lab, "10.0.0.11", DB3), "readers on both standbys", 120)
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", 120, every=0.5)
    assert "second" in slots(lab, 2)
    assert "second" not in slots(lab, 1) + slots(lab, 3)

    shown = wait_for_answer(
        lambda: status(lab), lambda said: said["readers"]["readers"]["leads_to"] == [1, 3], "readers on both standbys"
    )
    assert shown["other_slots"] == ["second"]
    assert [former["state"] for former in shown["former_primaries"]] in ([], ["done"], ["standby"]), shown
    http = "HTTP: /primary answers 200 for node 2; /replica answers 200 for node 1 and node 3"
    said = wait_for_answer(lambda: lab.gateway.hooks("status").stdout, lambda text: http in text, http)
    assert "PgBouncer 10.0.0.20:6432" in said
    report = lab.gateway.hooks("history", "--failover", "last")
    assert report.returncode == 0, report.stderr
    for part in ("route port app to node 2", "route port barman to node 2", "create slot second on node 2"):
        assert part in report.stdout, report.stdout
    runs = json.loads(lab.gateway.hooks("history", "-n", "100", "--json").stdout)
    assert "former_primary" in {run["cause"] for run in runs}
    prometheus.start(lab)
    wait_for(lambda: panels_without_data(lab) == [NO_SUCH_SLOT], "each panel of the dashboard to have data", every=2)
