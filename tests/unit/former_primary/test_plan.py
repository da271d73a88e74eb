"""What is done about a former primary: the table of the cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.former_primary.on_node import Ended
from repmgr_hooks.former_primary.plan import RETRY_AFTER, Do, after_job, certainly_stale, plan
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import Refused
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.settings.former_primary import AttemptLimit, FormerPrimary
from tests.unit.cluster.test_decide import SYSTEM, primary, silent, standby, witness

NOW = 10_000.0
FOLLOWED = LastKnownPrimary(2, 2, SYSTEM)
"""Node 2 is the primary on timeline 2, and routes follow it."""
CLUSTER = Cluster({n: Node(f"10.0.0.1{n}", False, ("ssh",)) for n in (1, 2, 3)}, Gateway("10.0.0.20", {"app": 54322}))
SETTINGS = FormerPrimary(clone="primary", limit=AttemptLimit(2, 1000))
FENCED = Former(1, SYSTEM, 1, 2, since=0.0, phase="fenced", directory="/data")
STALE, GONE = primary(1, 1), silent(1)
NEW = primary(2, 2)


def done(
    states: Sequence[NodeState],
    *formers: Former,
    known: LastKnownPrimary = FOLLOWED,
    settings: FormerPrimary = SETTINGS,
) -> list[tuple[Do, int]]:
    """What is done, and about which node."""
    decision = decide(states, known)
    deeds = plan(CLUSTER, settings, decision, known, {former.node: former for former in formers}, NOW)
    return [(deed.do, deed.former.node) for deed in deeds]


@pytest.mark.parametrize(
    ("states", "known", "stale"),
    [
        ([STALE, NEW], FOLLOWED, (1,)),
        ([STALE, NEW, standby(3, 2, (2,), 2)], FOLLOWED, (1,)),
        ([STALE, NEW, primary(3, 1)], FOLLOWED, (1, 3)),
        ([GONE, NEW], FOLLOWED, ()),
        ([standby(1, 1), NEW], FOLLOWED, ()),
        # Routes do not follow it yet.
        ([STALE, NEW], LastKnownPrimary(1, 1, SYSTEM), ()),
        # repmgr knows nothing of it.
        ([STALE, primary(2, 2, named=(1,))], FOLLOWED, ()),
        # The primary is unknown: it is silent, or there are two.
        ([STALE, silent(2)], FOLLOWED, ()),
        ([STALE, primary(2, 2), primary(3, 2)], FOLLOWED, ()),
        # Somebody has promoted another beside it, or a node knows a newer timeline.
        ([STALE, NEW, primary(3, 3, named=(2,))], FOLLOWED, ()),
        ([STALE, NEW, standby(3, 3, (2,))], FOLLOWED, ()),
        # repmgr has said meanwhile that it has promoted it.
        ([STALE, NEW], replace(FOLLOWED, promoted=frozenset({1})), ()),
        # A witness is a cluster of its own, and always out of recovery.
        ([witness(3, 1), NEW], FOLLOWED, ()),
        # Another system.
        ([replace(STALE, system_identifier="7300000000000000002"), NEW], FOLLOWED, ()),
    ],
)
def test_which_nodes_may_be_stopped(states: list[NodeState], known: LastKnownPrimary, stale: tuple[int, ...]) -> None:
    assert tuple(state.node for state in certainly_stale(decide(states, known), known)) == stale


def test_a_stale_primary_is_stopped() -> None:
    assert done([STALE, NEW]) == [(Do.FENCE, 1)]


def test_one_that_somebody_has_stopped_is_left_alone() -> None:
    assert done([GONE, NEW]) == []
    assert done([silent(3), NEW, standby(1, 2, (2,), 2)]) == []


def test_one_that_is_started_again_is_stopped_again_and_keeps_its_attempts() -> None:
    decision = decide([STALE, NEW], FOLLOWED)
    tried = replace(FENCED, attempts=(NOW - 5, NOW - 1))
    (deed,) = plan(CLUSTER, SETTINGS, decision, FOLLOWED, {1: tried}, NOW)
    assert (deed.do, deed.former.attempts) == (Do.FENCE, tried.attempts)


def test_what_could_not_be_stopped_is_tried_again_after_a_while() -> None:
    failed = replace(FENCED, phase="fence", problem="no ssh", begun=NOW - 1)
    assert done([STALE, NEW], failed) == []
    assert done([STALE, NEW], replace(failed, begun=NOW - RETRY_AFTER)) == [(Do.FENCE, 1)]


def test_one_that_is_silent_is_not_taken_for_stopped() -> None:
    """Its own host has not said so."""
    assert done([GONE, NEW], replace(FENCED, phase="fence")) == [(Do.FENCE, 1)]


@pytest.mark.parametrize(
    ("former", "do"),
    [
        (FENCED, Do.REJOIN),
        (replace(FENCED, problem="late", begun=NOW - 1), None),
        (replace(FENCED, problem="late", begun=NOW - RETRY_AFTER), Do.REJOIN),
        (replace(FENCED, problem="late", begun=NOW + 9999), Do.REJOIN),
        (replace(FENCED, job="ab", phase="rejoin"), Do.ASK),
        (replace(FENCED, phase="rejoin", rewound=True, problem="no WAL", begun=NOW, attempts=(NOW,)), Do.CLONE),
        (replace(FENCED, phase="clone", rewound=True, problem="no disk", begun=NOW - 1, attempts=(NOW,)), None),
        (replace(FENCED, attempts=(NOW - 2, NOW - 1)), Do.STAY),
        (replace(FENCED, attempts=(NOW + 2, NOW + 1)), Do.STAY),
        (replace(FENCED, attempts=(NOW - 2000, NOW - 1)), Do.REJOIN),
        (replace(FENCED, phase="done", attempts=(NOW - 1,)), None),
        (replace(FENCED, phase="done", attempts=(NOW - 2000,)), Do.FORGET),
        (replace(FENCED, node=9), Do.FORGET),
    ],
)
def test_what_follows_once_it_is_stopped(former: Former, do: Do | None) -> None:
    assert done([GONE, NEW], former) == ([] if do is None else [(do, former.node)])


def test_without_leave_it_stays_stopped() -> None:
    assert done([GONE, NEW], FENCED, settings=replace(SETTINGS, rejoin=False)) == [(Do.STAY, 1)]
    tried = replace(FENCED, rewound=True)
    assert done([GONE, NEW], tried, settings=replace(SETTINGS, clone="never")) == [(Do.REJOIN, 1)]


@pytest.mark.parametrize(
    "states",
    [
        [GONE, silent(2)],
        [GONE, standby(2, 2)],
        [GONE, primary(2, 2), primary(3, 2)],
        [GONE, primary(2, 2, named=(1,))],
        [GONE, primary(2, 2), primary(3, 3, named=(2,))],
    ],
)
def test_nothing_is_rejoined_without_a_verified_primary(states: list[NodeState]) -> None:
    assert done(states, FENCED) == []


def test_the_primary_is_never_rejoined() -> None:
    known = LastKnownPrimary(1, 3, SYSTEM)
    assert done([primary(1, 3), standby(2, 2)], FENCED, known=known) == [(Do.END, 1)]
    assert done([silent(1), primary(2, 1)], FENCED, known=LastKnownPrimary(2, 1, SYSTEM)) == []


def test_a_standby_is_no_former_primary_any_more() -> None:
    assert done([standby(1, 2, (2,), 2), NEW], FENCED) == [(Do.END, 1)]
    assert done([standby(1, 1, (2,)), NEW], replace(FENCED, phase="fence")) == [(Do.END, 1)]


@pytest.mark.parametrize(("code", "counted"), [(Refused.BUSY, 0), (Refused.EARLY, 0), (Refused.PRIMARY, 1)])
def test_what_passes_by_itself_uses_up_no_attempt(code: Refused, counted: int) -> None:
    """Until the primary's first checkpoint minutes may pass, and an attempt is made in each."""
    begun = Former(1, SYSTEM, 1, 2, 0.0, job="0a", attempts=(5.0,))
    after = after_job(begun, Ended(code), 10.0)
    assert (len(after.attempts), after.phase, after.job) == (counted, "fenced", "")
