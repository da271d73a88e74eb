"""What speaks against a promotion: only what is known, and only what was seen since the primary was given up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repmgr_hooks.cluster.observe import NodeState, Registered
from repmgr_hooks.journal.last_seen import LastSeen, PrimaryPosition
from repmgr_hooks.reports.may_promote import Asked, objections

MB = 2**20
ROWS = (Registered(1, "primary", True, None), Registered(2, "standby", True, 1))
SERVES = NodeState(1, "", False, 3, "7000000000000000001", 100 * MB, registered=ROWS)
SILENT = NodeState(1, "node 1: no answer within 2 s")
CANDIDATE = NodeState(2, "", True, 3, "7000000000000000001", 90 * MB, registered=ROWS)
LAST = PrimaryPosition(1, 3, 100 * MB, 96 * MB, acknowledged=False)
GONE = LastSeen("main", None, 0, "nobody", "", (), 5, last_primary=LAST)
SEES_IT = replace(GONE, primary=1, timeline=3)
ASKED = Asked(2, (SILENT, CANDIDATE), {}, GONE, since=True)


def said(**changes: object) -> str:
    return "; ".join(objections(replace(ASKED, **changes)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"seen": None},
        {"seen": SEES_IT, "since": False},  # what was true before it died
        {"heard": {2: 1.5, 3: 40.0}},
        {"heard": {2: -3.0}},  # somebody has set its clock
        {"states": (replace(SERVES, timeline=2), CANDIDATE)},  # a stale primary does not serve
        {"states": (SILENT, replace(CANDIDATE, in_recovery=False))},
        {"states": (SILENT, NodeState(2, "node 2: no answer"))},
        {"max_lost_wal": 10 * MB},
        {"seen": replace(GONE, last_primary=replace(LAST, timeline=2)), "max_lost_wal": 0},  # not comparable
        {"seen": replace(GONE, last_primary=replace(LAST, acknowledged=True, barman_lsn=90 * MB))},
        {"seen": replace(GONE, last_primary=None), "max_lost_wal": 0},
    ],
)
def test_nothing_speaks_against_it(changes: dict[str, object]) -> None:
    assert said(**changes) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": (SERVES, CANDIDATE)}, "node 1 answers the gateway as the primary"),
        ({"states": (SERVES, CANDIDATE), "seen": None}, "node 1 answers the gateway as the primary"),
        ({"seen": SEES_IT}, "repmgr-hooks.service reaches node 1, the primary"),
        ({"heard": {3: 0.25}}, "node 3 received a message from the primary 0.2 s ago"),
        ({"max_lost_wal": 10 * MB - 1}, "node 2 lacks 10 MB of WAL, up to 0/6400000, of node 1"),
        (
            {"seen": replace(GONE, last_primary=replace(LAST, acknowledged=True))},
            "Barman, as a synchronous standby, has acknowledged commits up to 0/6000000, 6 MB that node 2 lacks "
            "(it has received up to 0/5A00000)",
        ),
    ],
)
def test_this_speaks_against_it(changes: dict[str, object], words: str) -> None:
    assert words in said(**changes)
