"""What is taken back of a switchover whose holder is gone, or late; and the file that says what that is."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.log import hints_of
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.switchover import record, take_back
from repmgr_hooks.switchover.record import Record
from repmgr_hooks.switchover.take_back import may_unpause
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost

RECORD = Record(
    Holder(7, 123, "boot"), source=1, target=2, since=100.0, until=200.0, phase="hold", paused=(1, 2), timeline=1
)


def cluster(place: Path) -> Cluster:
    return Cluster(
        {1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, Gateway("10.0.0.20", {}), name="main", state_dir=str(place)
    )


class Nodes(FakeHost):
    """One that is no node answers nothing either."""

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        asked = list(queries)
        late = {sql.node: OperationFailed("no answer", code="no_answer") for sql in asked if sql.node not in self.nodes}
        return {**super().fetch_each([sql for sql in asked if sql.node in self.nodes], limit), **late}


@pytest.mark.parametrize(
    ("repmgr", "alive", "over", "primary", "settled", "expected"),
    [
        (False, True, False, 1, False, False),
        (True, True, False, None, True, False),
        (True, True, True, None, False, True),  # too late, though its holder is there
        (False, False, False, 1, False, True),
        # nobody is the primary: a repmgrd that gave it up while it was paused would promote nobody
        (False, False, False, None, False, False),
        (False, False, False, None, True, True),
        # repmgr may still be at work: a repmgrd could promote another node beside the one that repmgr promotes
        (True, False, False, None, False, False),
        (True, False, False, 1, False, False),
        (True, False, False, 2, False, True),
        (True, False, False, 1, True, True),
    ],
)
def test_when_repmgrd_is_unpaused(
    repmgr: bool, alive: bool, over: bool, primary: int | None, settled: bool, expected: bool
) -> None:
    assert may_unpause(replace(RECORD, repmgr=repmgr), alive, over, primary, lambda: settled) is expected


def test_where_its_matter_is_settled_nobody_is_asked_again() -> None:
    left = RECORD.left_to_repmgrd([1])
    assert left.paused == (1,)
    assert may_unpause(left, False, False, None, lambda: False)


def test_the_file_holds_what_was_written(tmp_path: Path) -> None:
    assert record.read(cluster(tmp_path)) is None
    record.keep(cluster(tmp_path), RECORD)
    assert record.read(cluster(tmp_path)) == RECORD
    record.keep(cluster(tmp_path), None)
    assert record.read(cluster(tmp_path)) is None


WRITTEN = json.dumps(asdict(RECORD))
DAMAGED = [
    WRITTEN.replace("200.0", '"soon"'),
    WRITTEN.replace("200.0", "NaN"),
    WRITTEN.replace("7,", '"seven",'),
    WRITTEN.replace("[1, 2]", "1"),
    WRITTEN.replace("[1, 2]", "[1e999]"),
    "[" * 9_000,
]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"holder": 7}', "\x00", '{"holder": {}, "source": 1}', *DAMAGED]
)
def test_a_file_that_cannot_be_read_is_an_error_of_ours(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster-main.switchover").write_text(text)
    with pytest.raises(OperationFailed, match=r"cluster-main\.switchover"):
        record.read(cluster(tmp_path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("{}")
    (tmp_path / "cluster-main.switchover").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OperationFailed):
        record.read(cluster(tmp_path))


def test_its_time_is_over_after_its_limit_and_after_a_boot() -> None:
    assert not record.over(RECORD, 199.0, "boot")
    assert record.over(RECORD, 200.0, "boot")
    assert record.over(RECORD, 1.0, "another boot")


def test_after_a_boot_repmgr_may_still_be_at_work_on_its_node() -> None:
    at_work = replace(RECORD, repmgr=True)
    assert not record.over(at_work, 20.0, "another boot")
    assert not record.over(at_work, record.RUN_LIMIT, "another boot")
    assert record.over(at_work, record.RUN_LIMIT + record.MARGIN, "another boot")


@pytest.mark.parametrize("place", ["/", "/tmp/repmgr-hooks-x/../..", "here", "/tmp/repmgr-hooks-0123456789abcdef\n"])
def test_a_place_that_is_none_of_ours_is_never_removed(tmp_path: Path, place: str) -> None:
    record.keep(cluster(tmp_path), replace(RECORD, place=place))
    with pytest.raises(OperationFailed, match="no place of ours"):
        record.read(cluster(tmp_path))


def test_a_node_that_is_gone_from_the_configuration_owes_nothing(tmp_path: Path) -> None:
    """Else its repmgrd would be sought on every look, for ever."""
    host = Nodes()
    record.keep(cluster(tmp_path), replace(RECORD, paused=(1, 99)))
    assert take_back.look(cluster(tmp_path), 1, host, lambda *_: False) is None
    assert record.read(cluster(tmp_path)) is None


@pytest.mark.parametrize(("primary", "hinted"), [(None, True), (2, False)])
@pytest.mark.parametrize("silent", [False, True])
def test_where_nobody_is_the_primary_it_is_said_what_to_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, silent: bool, primary: int | None, hinted: bool
) -> None:
    """repmgrd that gave its primary up while it was paused does not promote a node when it is unpaused."""
    host = Nodes()
    host.nodes[1].reachable = not silent
    record.keep(cluster(tmp_path), RECORD)
    way = "if no node becomes the primary: repmgr standby promote, on node 2"
    if silent:
        with pytest.raises(OperationFailed) as paused:
            take_back.look(cluster(tmp_path), primary, host, lambda *_: True)
        assert paused.value.hint == (way if hinted else "")
    else:
        take_back.look(cluster(tmp_path), primary, host, lambda *_: True)
        assert hints_of(caplog.records[-1]) == [way] * hinted
