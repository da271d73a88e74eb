"""What a drill looks at beside the two switchovers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg import conninfo

from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.drill import client, look
from repmgr_hooks.drill.client import Client
from repmgr_hooks.drill.facts import Sent, Way
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.journal.rows import Place, StepRow
from repmgr_hooks.settings.cluster import Cluster, FlapLimit, ProbeSettings
from tests.fake import FakeHost
from tests.unit.switchover.test_preflight import CLUSTER, facts

PROBED = replace(CLUSTER, probe=ProbeSettings(user="app", dbname="app", passfile="/pgpass"))
CONSOLE = "host=10.0.0.20 port=6432 user=hooks sslmode=verify-full passfile=/console"
NOWHERE = Way("port app", "host=127.0.0.1 port=1 user=app")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = open_journal(tmp_path / "journal.db")
    yield made
    made.close()


def test_the_client_comes_through_each_port_and_each_pgbouncer_as_the_probes_role() -> None:
    found = client.ways(PROBED, ["app"], {CONSOLE: ("app", "other")})
    assert [(way.name, way.pooled) for way in found] == [
        ("port app", False),
        ("PgBouncer 10.0.0.20:6432, database app", True),
        ("PgBouncer 10.0.0.20:6432, database other", True),
    ]
    pooled = conninfo.conninfo_to_dict(found[2].dsn)
    assert (pooled["user"], pooled["dbname"], pooled["port"]) == ("app", "other", "6432")
    assert (pooled["sslmode"], pooled["passfile"]) == ("verify-full", "/pgpass")


def test_a_transaction_that_no_server_answers_has_failed() -> None:
    one = Client(NOWHERE)
    assert "Connection refused" in one.transact(5).error


def test_what_hinders_a_drill_beside_a_switchover() -> None:
    host = FakeHost()

    two = replace(CLUSTER, nodes={number: CLUSTER.nodes[number] for number in (1, 2)})

    def hindered(cluster: Cluster = two, **changes: Any) -> set[str]:
        return {each.code for each in look.hinders(facts(cluster=cluster, **changes), (), host) if each.level == "FAIL"}

    limited = replace(two, flap_limit=FlapLimit(3, 600))
    assert "drill.flap_limit" not in hindered(cluster=limited, changes=1)
    assert "drill.flap_limit" in hindered(cluster=limited, changes=2)
    one_way = replace(two, nodes={**two.nodes, 1: replace(CLUSTER.nodes[1], shell=())})
    assert "drill.back" in hindered(cluster=one_way)
    (said,) = (each for each in look.hinders(facts(cluster=two), (NOWHERE,), host) if each.code == "drill.client")
    assert said.level == "FAIL"


def test_it_waits_until_nothing_hinders_and_not_for_ever() -> None:
    host, bad = FakeHost(), Finding("FAIL", "it is late", "", "switchover.lag", "main")
    answers = iter([[bad], [bad], [replace(bad, level="WARN")]])
    assert look.wait_until(lambda: next(answers), host, 60) == []
    assert look.wait_until(lambda: [bad], host, 60) == [replace(bad, where="")]


def test_the_journal_says_what_was_done_and_who_was_woken(journal: Journal) -> None:
    run = journal.begin_run("main", "drift", 1, [])
    journal.add_step(run, StepRow(Place("", "firewall"), "open_port", "app", 2, "route it", 1000.0, 0.5))
    assert [step.took for step in look.steps(journal, "main", 1000.0)] == [0.5]
    assert look.steps(journal, "main", 1001.0) == ()
    assert look.steps(journal, "other", 0.0) == ()
    alert = ("main", "primary", "critical", "no primary", "", "", 0, 1000.0, None, 0)
    delivered = '{"mail": {"said": "CRITICAL main", "at": 1, "tried": 1, "failures": 0}, "pager": {"said": ""}}'
    journal.change(lambda db: db.execute(f"insert into alert values ({'?, ' * 10}?)", (*alert, delivered)))
    assert look.sent(journal, "main", 1000.0) == (Sent("critical", "no primary", ("mail",)),)
    assert look.sent(journal, "main", 1001.0) == ()
