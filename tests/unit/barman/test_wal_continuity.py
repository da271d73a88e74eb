"""Where Barman stands to a primary's WAL, what a restore would lack, and what is typed or done about it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from repmgr_hooks.barman import archive, backup, content, wal_continuity
from repmgr_hooks.barman.wal_continuity import ArchivedWal, PrimaryWal, StreamPosition, StreamState
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder, cluster_state
from repmgr_hooks.cluster.wal import Switchpoint, TimelineHistory, file_name, parse_name
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import barman
from repmgr_hooks.reports import wal_check
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.steps import Program
from tests.fake import HOME, STREAMING, FakeHost
from tests.unit.cluster.test_wal import lineages

MB = 1024 * 1024
SIZE = 16 * MB
OK, GAP, AHEAD, BOUNDARY, FOREIGN = StreamPosition
BARMAN = Barman("main_backup", "barman")
CLUSTER = Cluster({1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, Gateway("10.0.0.20", {"barman": 54321}))


def wal(timeline: int, *numbers: int) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def partial(timeline: int, number: int) -> str:
    return wal(timeline, number)[0] + ".partial"


def primary(switchpoint: int, *lost: str) -> PrimaryWal:
    """Node 2 on timeline 2, which left timeline 1 at ``switchpoint``; it writes segment 8."""
    files = {*wal(1, *range(1, 9)), *wal(2, *range(switchpoint // SIZE, 9))} - set(lost)
    return PrimaryWal(2, TimelineHistory(2, (Switchpoint(1, switchpoint),)), 8 * SIZE + 0x50, frozenset(files))


WITHIN = primary(5 * SIZE + 0x50)
AT_END = primary(5 * SIZE)


@pytest.mark.parametrize(
    ("streaming", "there", "wanted"),
    [
        ([], WITHIN, StreamState(OK)),
        (["00000002.history"], WITHIN, StreamState(OK)),
        ([partial(1, 5)], WITHIN, StreamState(OK, partial(1, 5), 5 * SIZE + 0x50)),
        ([*wal(1, 3, 4), partial(1, 5)], WITHIN, StreamState(OK, partial(1, 5), 5 * SIZE + 0x50)),
        (wal(1, 4), WITHIN, StreamState(OK, *wal(1, 4))),
        ([partial(1, 2)], WITHIN, StreamState(OK, partial(1, 2))),
        ([partial(2, 8)], WITHIN, StreamState(OK, partial(2, 8))),
        (wal(2, 7), WITHIN, StreamState(OK, *wal(2, 7))),
        ([partial(1, 5), partial(2, 5)], WITHIN, StreamState(OK, partial(2, 5))),
        ([*wal(2, 5), partial(2, 5)], WITHIN, StreamState(OK, *wal(2, 5))),
        ([partial(1, 4)], AT_END, StreamState(OK, partial(1, 4))),
        # Ahead
        (wal(1, 5), WITHIN, StreamState(AHEAD, *wal(1, 5), 5 * SIZE + 0x50, (), (*wal(1, 5),), partial(2, 5))),
        (
            [*wal(1, 4, 5, 6), partial(1, 7)],
            WITHIN,
            StreamState(AHEAD, partial(1, 7), 5 * SIZE + 0x50, (), (*wal(1, 5, 6), partial(1, 7)), partial(2, 5)),
        ),
        (
            [partial(2, 5), *wal(1, 5), partial(1, 6)],
            WITHIN,
            StreamState(AHEAD, partial(1, 6), 5 * SIZE + 0x50, (), (*wal(1, 5), partial(1, 6)), partial(2, 5)),
        ),
        ([partial(1, 6)], AT_END, StreamState(AHEAD, partial(1, 6), 5 * SIZE, (), (partial(1, 6),), partial(2, 5))),
        # At the boundary
        (wal(1, 4), AT_END, StreamState(BOUNDARY, *wal(1, 4), 5 * SIZE, (), (), partial(2, 5))),
        ([partial(1, 5)], AT_END, StreamState(BOUNDARY, partial(1, 5), 5 * SIZE, (), (partial(1, 5),), partial(2, 5))),
        # Behind what the primary has
        (
            [partial(1, 2)],
            primary(5 * SIZE + 0x50, *wal(1, 1, 2, 3)),
            StreamState(GAP, partial(1, 2), 5 * SIZE + 0x50, (*wal(1, 2, 3),), (), partial(1, 4)),
        ),
        (
            wal(1, 2),
            primary(5 * SIZE + 0x50, *wal(1, 4), *wal(2, 6)),
            StreamState(GAP, *wal(1, 2), 5 * SIZE + 0x50, (*wal(1, 4), *wal(2, 6)), (), partial(2, 7)),
        ),
        (
            [partial(2, 6)],
            primary(5 * SIZE, *wal(2, 6)),
            StreamState(GAP, partial(2, 6), 8 * SIZE + 0x50, (*wal(2, 6),), (), partial(2, 7)),
        ),
        # Both ahead and behind
        (
            [partial(1, 6)],
            primary(5 * SIZE, *wal(2, 5, 6)),
            StreamState(AHEAD, partial(1, 6), 5 * SIZE, (*wal(2, 5, 6),), (), partial(2, 7)),
        ),
        # Of another history
        ([partial(2, 3)], WITHIN, StreamState(FOREIGN, partial(2, 3), 0, (), (partial(2, 3),), partial(1, 3))),
        (
            [*wal(1, 2), partial(2, 3)],
            WITHIN,
            StreamState(FOREIGN, partial(2, 3), 0, (), (partial(2, 3),), partial(1, 3)),
        ),
        (wal(3, 7), WITHIN, StreamState(FOREIGN, *wal(3, 7), 0, (), (), partial(2, 8))),
        (wal(2, 8), WITHIN, StreamState(FOREIGN, *wal(2, 8), 0, (), (*wal(2, 8),), partial(2, 8))),
        (
            [*wal(3, 7, 8), partial(3, 9)],
            WITHIN,
            StreamState(FOREIGN, partial(3, 9), 0, (), (*wal(3, 8), partial(3, 9)), partial(2, 8)),
        ),
    ],
)
def test_where_barman_stands(streaming: list[str], there: PrimaryWal, wanted: StreamState) -> None:
    found = wal_continuity.classify(ArchivedWal("/s", frozenset(streaming)), there)
    assert replace(found, directory="", node=0) == wanted
    assert (found.directory, found.node) == (("", 0) if found.position is OK and not found.newest else ("/s", 2))


def test_the_end_of_a_file_without_any_fork() -> None:
    """The primary has closed a file and written nothing since: Barman goes on where nothing is yet."""
    there = PrimaryWal(1, TimelineHistory(1), 5 * SIZE, frozenset(wal(1, 4)))
    assert wal_continuity.classify(ArchivedWal("", frozenset(wal(1, 4))), there).position is OK


# The oracle walks as pg_receivewal and the walsender do, by the byte: pg_receivewal.c FindStreamingStart, walsender.c
# StartReplication (764-792) and WalSndSegmentOpen, receivelog.c ReceiveXlogStream (579-657).


def streamed(newest: str, there: PrimaryWal) -> tuple[StreamPosition, list[str]]:
    """Stream from a primary after some file, and return how it ends, and the files that were asked for in vain."""
    size, lineage = there.lineage.segment_size, there.lineage
    timeline, number = parse_name(newest, size) or (0, 0)
    at = number * size if newest.endswith(".partial") else (number + 1) * size
    chain = [
        *((switchpoint.timeline, switchpoint.end) for switchpoint in lineage.switchpoints),
        (lineage.timeline, there.lsn),
    ]
    if timeline not in dict(chain):
        return FOREIGN, []
    in_vain: list[str] = []
    place = [entry[0] for entry in chain].index(timeline)
    left, begin = chain[place:], chain[place - 1][1] if place else 0
    if at // size < begin // size:
        return FOREIGN, []  # a file that no node ever had
    for index, (now, end) in enumerate(left):
        historic = index + 1 < len(left)
        if at > end:
            return (AHEAD if historic else FOREIGN), in_vain
        if at == end and historic:
            return BOUNDARY, in_vain
        while at < end:
            fork_segment = historic and at // size == end // size
            name = file_name(left[index + 1][0] if fork_segment else now, at // size, size)
            if fork_segment and left[index + 1][1] // size == end // size and index + 2 < len(left):
                break  # the file that is read from is not yet the last one's; a later turn asks for that one
            if name not in there.files and name not in in_vain:
                in_vain.append(name)
            at = min((at // size + 1) * size, end)
        at = end // size * size
    return (GAP if in_vain else OK), in_vain


@st.composite
def primaries(draw: st.DrawFn) -> PrimaryWal:
    lineage = draw(lineages())
    size = lineage.segment_size
    least = lineage.switchpoints[-1].end + 40 if lineage.switchpoints else size
    lsn = draw(st.integers(least, 15 * size) | st.integers(least // size + 1, 15).map(lambda number: number * size))
    begins = [(lineage.timeline, lineage.switchpoints[-1].end if lineage.switchpoints else 0)]
    begins += zip([f.timeline for f in lineage.switchpoints], [0, *(f.end for f in lineage.switchpoints)], strict=False)
    names = {file_name(timeline, number, size) for timeline, begin in begins for number in range(begin // size, 16)}
    # The file that is written now is always there.
    on_the_way = [lineage.name(number) for number in range(lsn // size)]
    lost = draw(st.sets(st.sampled_from(on_the_way), max_size=3)) if on_the_way and draw(st.booleans()) else set()
    return PrimaryWal(2, lineage, lsn, frozenset(names - lost))


@pytest.mark.slow
@settings(max_examples=300)
@given(primaries(), st.data())
def test_barman_stands_where_its_stream_would_end(there: PrimaryWal, data: st.DataObject) -> None:
    size = there.lineage.segment_size
    switchpoints = [(switchpoint.timeline, switchpoint.end) for switchpoint in there.lineage.switchpoints]
    timeline, end = data.draw(
        st.sampled_from([*switchpoints, *switchpoints, (there.lineage.timeline, there.lsn), (10, 5 * size)])
    )
    number = max(1, end // size + data.draw(st.integers(-3, 2)))
    names = [file_name(timeline, n, size) for n in range(max(1, number - 2), number)]
    newest = file_name(timeline, number, size) + data.draw(st.sampled_from(["", ".partial"]))
    held = ArchivedWal("/s", frozenset([*names, newest]))
    position, in_vain = streamed(newest, there)
    found = wal_continuity.classify(held, there)
    event(position.name)
    assert found.position is position
    if position in (OK, GAP):
        assert list(found.missing) == in_vain
        return
    # What the remedy leads to: nothing is lost, and the stream goes on to the end.
    left = {*held.streaming} - {*found.stray} | {found.marker}
    after = wal_continuity.classify(ArchivedWal("/s", frozenset(left)), there)
    assert streamed(found.marker, there)[0] is OK
    assert (after.position, after.newest) == (OK, found.marker)
    if wal_continuity.repairable(found):
        before_fork = [name for name in held.streaming if parse_name(name, size)[1] < found.switchpoint // size]  # type: ignore[index]
        assert set(before_fork) <= left, "what the primary has too stays"


@given(lineages(), st.integers(1, 4), st.integers(0, 12), st.data())
def test_exactly_what_was_taken_away_is_missing(
    lineage: TimelineHistory, first: int, more: int, data: st.DataObject
) -> None:
    """A whole archive, with files beside it that lead nowhere; then some are lost, but never the oldest."""
    last = first + more
    begins = [0, *(switchpoint.end // lineage.segment_size for switchpoint in lineage.switchpoints), 99]
    timelines = [*(switchpoint.timeline for switchpoint in lineage.switchpoints), lineage.timeline]
    whole = {
        file_name(timeline, number, lineage.segment_size)
        for timeline, begin, end in zip(timelines, begins, begins[1:], strict=False)
        for number in range(begin, end)
        if first <= number <= last
    }
    at_first = max(t for t, begin in zip(timelines, begins, strict=False) if begin <= first)
    whole |= {f"{timeline:08X}.history" for timeline in timelines if timeline > at_first}
    beside = {file_name(10, n, lineage.segment_size) for n in range(16)} | {"xlog.db", f"{max(whole)}.partial"}
    lost = data.draw(st.sets(st.sampled_from(sorted(whole))))
    assert set(wal_continuity.missing(whole - lost | beside, lineage, last, first)) == lost
    oldest = min(name for name in whole if len(name) == 24)
    assert set(wal_continuity.missing(whole - lost | beside | {oldest}, lineage, last)) == lost - {oldest}


# -- the remedy --------------------------------------------------------------------------------------------------------

PLACE = f"{HOME}/quarantine-000000020000000000000005"


def test_the_remedy_moves_and_deletes_nothing() -> None:
    host = FakeHost()
    host.barman.streaming = {*wal(1, 4, 5, 6), partial(1, 7)}
    stream_state = wal_continuity.classify(ArchivedWal(STREAMING, frozenset(host.barman.streaming)), WITHIN)
    for step in wal_continuity.remedy(stream_state, BARMAN):
        assert isinstance(step.do, Program)
        host.run(step.do, step.limit)
    assert host.barman.streaming == {*wal(1, 4), partial(2, 5)}
    assert host.barman.quarantine == {PLACE: {*wal(1, 5, 6), partial(1, 7)}}
    assert [str(program) for program in host.ran] == [
        f"mkdir -p {PLACE}",
        f"mv -n -t {PLACE} {STREAMING}/{wal(1, 5)[0]} {STREAMING}/{wal(1, 6)[0]} {STREAMING}/{partial(1, 7)}",
        f"touch {STREAMING}/{partial(2, 5)}",
        f"chown --reference={STREAMING} {STREAMING}/{partial(2, 5)} {PLACE}",
    ]


def test_where_barman_runs_elsewhere_so_do_the_commands() -> None:
    stream_state = wal_continuity.classify(ArchivedWal(STREAMING, frozenset(wal(1, 4))), AT_END)
    elsewhere = Barman("main_backup", command=("ssh", "barman@backup", "barman"))
    assert [str(step.do) for step in wal_continuity.remedy(stream_state, elsewhere)] == [
        f"ssh barman@backup env LC_ALL=C touch {STREAMING}/{partial(2, 5)}",
        f"ssh barman@backup env LC_ALL=C chown --reference={STREAMING} {STREAMING}/{partial(2, 5)}",
    ]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("barman",), ("ls",)),
        (("/opt/bin/barman",), ("ls",)),
        (("sudo", "-n", "-u", "barman", "barman"), ("sudo", "-n", "-u", "barman", "ls")),
        (("sudo", "-u", "barman", "/usr/bin/barman", "-c", "/etc/b.conf"), ("sudo", "-u", "barman", "ls")),
        (("ssh", "barman@backup", "barman"), ("ssh", "barman@backup", "env", "LC_ALL=C", "ls")),
        (("ssh", "backup", "wrapper"), ("ssh", "backup", "env", "LC_ALL=C", "ls")),
    ],
)
def test_another_program_beside_barman(command: tuple[str, ...], words: tuple[str, ...]) -> None:
    assert Barman("main_backup", command=command).beside("ls") == words


# -- what is looked at -------------------------------------------------------------------------------------------------


@pytest.fixture
def host() -> FakeHost:
    made = FakeHost()
    made.fail_over()
    made.nodes[2].segment = 8
    made.barman.archived = {*wal(1, 3, 4), *wal(2, 5, 6, 7), "00000002.history", "xlog.db", partial(1, 5)}
    made.barman.streaming = {partial(2, 8)}
    return made


def report(host: FakeHost) -> backup.Report:
    written = archive.look_at_primary(2, 2, host)
    return backup.report(archive.look_at_archive(BARMAN, host), written, BARMAN, host)


def test_what_the_primary_has(host: FakeHost) -> None:
    written = archive.look_at_primary(2, 2, host)
    assert written.lineage == TimelineHistory(2, (Switchpoint(1, 5 * SIZE + 0x2A0),))
    assert (written.lsn, written.last_closed, written.last_closed_file) == (8 * SIZE + 0x2A0, 7, *wal(2, 7))


def test_what_barman_has(host: FakeHost) -> None:
    everything = archive.look_at_archive(BARMAN, host)
    assert everything.directory == STREAMING
    assert everything.streaming == frozenset([partial(2, 8)])
    assert everything.files == frozenset(host.barman.archived | host.barman.streaming)


@pytest.mark.parametrize(
    ("name", "size", "why"),
    [
        (wal(1, 4)[0], 0, "is empty"),
        ("00000002.history", 0, "is empty"),
        (wal(2, 8)[0], SIZE - 1, f"has {SIZE - 1} bytes, which is not the size of a WAL file"),
        (wal(2, 8)[0], MB // 2, f"has {MB // 2} bytes, which is not the size of a WAL file"),
        (wal(2, 8)[0], MB, ""),
        (wal(2, 8)[0], 64 * MB, ""),
        (wal(1, 4)[0], 4711, ""),
        (partial(2, 8), 0, ""),
    ],
)
def test_a_file_counts_when_it_is_whole(host: FakeHost, name: str, size: int, why: str) -> None:
    """In the archive it may be compressed."""
    host.barman.streaming |= {wal(2, 8)[0]}
    host.barman.sizes = {name: size}
    seen = archive.look_at_archive(BARMAN, host)
    assert seen.broken == ({name: why} if why else {})
    assert (name in seen.files) is (not why)


def test_what_is_cut_short_is_missing(host: FakeHost) -> None:
    host.barman.cut = {wal(2, 6)[0]: "is cut short"}
    held, there = content.look(BARMAN, 2, 2, host)
    found = backup.report(content.look_closer(held, there, BARMAN, host), there, BARMAN, host)
    assert not found.healthy
    assert f"  BROKEN {wal(2, 6)[0]}: is cut short" in found.lines("main")


@pytest.mark.parametrize("lost", ["wals", "incoming", "streaming"])
def test_a_directory_that_is_not_there_is_no_empty_one(host: FakeHost, lost: str) -> None:
    host.barman.lost = {f"{HOME}/{lost}"}
    with pytest.raises(OperationFailed, match=f"{lost}: a dangling symbolic link"):
        archive.look_at_archive(BARMAN, host)


@pytest.mark.parametrize(("begin", "lacks"), [("", False), (wal(1, 3)[0], True)])
def test_an_empty_archive_is_whole_only_if_no_backup_needs_more(host: FakeHost, begin: str, lacks: bool) -> None:
    """The disk is not mounted: only what is received since then is there, and between these files none is missing."""
    host.barman.archived, host.barman.streaming, host.barman.begin_wal = set(), {*wal(2, 7)}, begin
    held, there = content.look(BARMAN, 2, 2, host)
    assert there.last_closed_file in held.files
    assert bool(backup.hole(held, there, BARMAN, host)) == lacks


def test_a_barman_that_does_not_say_where_its_files_are() -> None:
    host = FakeHost()
    host.programs["other"] = lambda program: "Server main_backup:\n\twals_directory: /w\n"
    with pytest.raises(
        OperationFailed, match="'barman show-server main_backup' does not say its streaming_wals_directory"
    ):
        archive.look_at_archive(Barman("main_backup", command=("other",)), host)


def test_a_whole_backup(host: FakeHost) -> None:
    assert report(host).lines("main") == [
        "main: NO_BACKUP: Barman has no complete backup: nothing can be restored",
        "  HINT: barman backup main_backup",
    ]
    assert not report(host).healthy
    plain = json.loads(json.dumps(report(host).as_dict()))["no_backup"]
    assert (plain["code"], plain["hint"]) == ("no_backup", "barman backup main_backup")
    host.barman.begin_wal = "000000010000000000000004"
    assert report(host).lines("main") == [
        "main: OK: 000000010000000000000004 to 000000020000000000000007, 5 files, since the newest backup"
    ]


def test_a_hole(host: FakeHost) -> None:
    host.barman.archived -= {*wal(1, 4), "00000002.history"}
    found = report(host)
    assert found.lines("main") == [
        "main: ARCHIVE_GAP: 2 missing of 000000010000000000000003 to 000000020000000000000007, 6 files, since the "
        "oldest "
        "file; Barman has no backup on this way",
        "  MISSING 000000010000000000000004",
        "  MISSING 00000002.history",
        "  ARCHIVE_GAP: Barman lacks 000000010000000000000004 to 00000002.history (2 files): no backup so far can be "
        "restored beyond that",
        "  HINT: if the old primary's pg_wal still has it, keep it. Make a base backup: barman backup main_backup",
        "main: NO_BACKUP: Barman has no complete backup: nothing can be restored",
        "  HINT: barman backup main_backup",
    ]
    assert found.as_dict()["missing"] == ("000000010000000000000004", "00000002.history")
    assert found.as_dict()["healthy"] is False


def test_a_conflict_has_names_in_json_too() -> None:
    conflict = Problem("branch_conflict", "another branch", "move it")
    plain = json.loads(json.dumps(backup.Report("main_backup", files=1, conflict=conflict).as_dict()))
    assert plain["conflict"] == {"code": "branch_conflict", "message": "another branch", "hint": "move it"}
    assert json.loads(json.dumps(backup.Report("main_backup").as_dict()))["conflict"] is None


def test_a_hole_before_the_newest_backup_is_none(host: FakeHost) -> None:
    host.barman.archived -= {*wal(1, 4)}
    host.barman.begin_wal = wal(2, 6)[0]
    assert report(host).healthy
    host.barman.begin_wal = wal(1, 4)[0]
    assert report(host).missing == (*wal(1, 4),)
    host.barman.begin_wal = wal(1, 6)[0]  # beyond the switchpoint: of no use on timeline 2
    assert report(host).missing == (*wal(1, 4),)
    assert report(host).backup == ""


def test_a_backup_that_ended_beyond_the_switchpoint_is_no_backup(host: FakeHost) -> None:
    """The standby that was promoted had been cut off meanwhile; PostgreSQL refuses the backup, all WAL being there."""
    host.barman.begin_wal, host.barman.end_lsn = wal(1, 4)[0], "0/50002A0"
    assert report(host).healthy, "it ended at the switchpoint"
    host.barman.end_lsn = "0/50002A1"
    assert (report(host).healthy, report(host).missing) == (False, ())
    line, hint = compared(host).lines("main")
    assert line.startswith("main: BACKUP_BEYOND: the newest backup ended at 0/50002A1, timeline 1 at 0/50002A0: ")
    assert hint == "  HINT: barman backup main_backup"
    host.barman.begin_wal = wal(1, 5)[0]
    assert not report(host).healthy, "it also began where the new timeline has a file of its own"
    host.barman.begin_wal, host.barman.end_lsn = wal(1, 6)[0], "0/7000000"
    assert not report(host).healthy, "all of it is of the old timeline alone"
    host.barman.begin_wal = wal(3, 6)[0]
    (line, _) = compared(host).lines("main")
    said = f"main: BACKUP_BEYOND: the newest backup begins with {wal(3, 6)[0]}, which is not in the primary's history: "
    assert line.startswith(said), "a restore from another branch"
    host.barman.begin_wal = wal(2, 6)[0]
    assert report(host).healthy, "the next one is on the new timeline"


def test_what_has_not_been_received_yet_is_no_hole(host: FakeHost) -> None:
    host.barman.archived -= {*wal(2, 6, 7)}
    host.barman.begin_wal = wal(1, 4)[0]
    first, *others = report(host).lines("main")
    assert first.startswith("main: BEHIND: 2 missing of ")
    assert others[-2] == "  Barman has not received these yet"
    assert others[-1].startswith("  HINT: see 'repmgr-hooks status'")


def test_nothing_at_all(host: FakeHost) -> None:
    host.barman.archived, host.barman.streaming = set(), set()
    assert report(host).lines("main") == ["main: UNKNOWN: Barman has no WAL of timeline 2 or before it"]
    assert not report(host).healthy


def decided_on(cluster: Cluster, host: FakeHost) -> ClusterState:
    finder = PrimaryFinder(cluster, LastKnownPrimary())
    return cluster_state(finder.decision(host), finder)


def compared(host: FakeHost) -> backup.Report:
    return wal_check.compared(Cluster(CLUSTER.nodes, CLUSTER.gateway, BARMAN), host, None)


def test_by_hand(host: FakeHost) -> None:
    host.barman.begin_wal = wal(1, 4)[0]
    assert compared(host).healthy
    host.barman.health = "ruins"
    (line,) = compared(host).lines("main")
    assert line.startswith("main: UNKNOWN: barman show-server main_backup: exit code 1: ERROR: cannot open")
    host.lose(2)
    line, hint = compared(host).lines("main")
    assert line.startswith("main: UNKNOWN: the primary is unknown: no node is out of recovery, but there is no answer")
    assert hint.startswith("  HINT: make node 1 and node 2 answer; promote a standby only if")
    assert not compared(host).healthy


@pytest.mark.parametrize("tail", [True, False])
def test_what_only_barman_has_is_kept(host: FakeHost, tail: bool) -> None:
    """The partial file of the switchpoint is not all zeros where the primary's WAL ends: somebody may count on that."""
    host.barman.streaming = {partial(1, 5)}
    host.barman.tails = {partial(1, 5)} if tail else set()
    config, cluster = barman.Config(stream=True), Cluster(CLUSTER.nodes, CLUSTER.gateway, BARMAN)
    state = decided_on(cluster, host)
    steps = barman.plan(config, state, barman.observe(config, state, host))
    kept = [str(step.do) for step in steps if str(step.do).startswith("cp ")]
    copy = f"{HOME}/{partial(1, 5)}.beyond-0-50002A0"
    assert kept == ([f"cp --archive --no-clobber {STREAMING}/{partial(1, 5)} {copy}"] if tail else [])
    assert str(steps[0].do).startswith("barman receive-wal --stop"), "it must not write while we copy"
    assert str(steps[-1].do) == "barman -q receive-wal main_backup"
    asked = [program.argv for program in host.ran if program.argv[0] == "cmp"]
    assert asked == [("cmp", "--ignore-initial=672:0", f"{STREAMING}/{partial(1, 5)}", "/dev/zero")]


@pytest.mark.parametrize("newest", [partial(1, 4), wal(1, 4)[0], partial(2, 5), partial(2, 8), partial(1, 6)])
def test_other_files_have_no_tail(host: FakeHost, newest: str) -> None:
    host.barman.streaming = {newest}
    stream_state = wal_continuity.classify(archive.look_at_archive(BARMAN, host), archive.look_at_primary(2, 2, host))
    assert not archive.has_a_tail(stream_state, SIZE, BARMAN, host)
    assert not [program for program in host.ran if program.argv[0] == "cmp"]
