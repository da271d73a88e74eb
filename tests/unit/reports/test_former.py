"""What is shown of former primaries, also of those that nobody looks after any more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.former_primary import record
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.reports.former import formers_of
from repmgr_hooks.settings.former_primary import FormerPrimary
from tests.unit.reports.test_status import MAIN

FORMER = Former(1, "7300000000000000001", 1, 2, 0.0, phase="fenced")
SILENT = decide((NodeState(1, "refused"), NodeState(2, in_recovery=False, timeline=2)))


@pytest.fixture
def managed(tmp_path: Path) -> ManagedCluster:
    cluster = replace(MAIN.cluster, state_dir=str(tmp_path))
    record.keep(cluster, {1: FORMER, 3: replace(FORMER, node=3, phase="done")})
    return replace(MAIN, cluster=cluster)


def test_a_node_that_stays_stopped_because_the_section_is_gone_is_named(managed: ManagedCluster) -> None:
    formers, (problem,) = formers_of(managed, SILENT)
    assert formers == ()
    assert problem.message == "node 1 was stopped, a stale primary; without 'former_primary' nobody rejoins it"
    assert "node rejoin" in problem.hint


def test_one_that_somebody_has_started_is_not(managed: ManagedCluster) -> None:
    assert formers_of(managed, decide((NodeState(1), NodeState(2, in_recovery=False, timeline=2)))) == ((), ())


def test_with_the_section_its_state_is_shown(managed: ManagedCluster) -> None:
    managed = replace(managed, cluster=replace(managed.cluster, former_primary=FormerPrimary()))
    (seen,), problems = formers_of(managed, SILENT)
    assert (seen.node, seen.state, problems) == (1, "stopped", ())


def test_what_to_do_about_a_stale_primary_names_the_service_first(managed: ManagedCluster) -> None:
    by_hand = managed.cluster.rejoin_stale("node 1", 2, "repmgr")
    own = replace(managed.cluster, former_primary=FormerPrimary()).rejoin_stale("node 1", 2, "repmgr")
    assert by_hand.startswith("on node 1: stop PostgreSQL, then as postgres: repmgr -f REPMGR_CONF node rejoin")
    assert own == f"the service stops it once that is certain (former_primary); if it does not, {by_hand}"
