"""Whether Barman holds another branch than the primary, and what is typed then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from repmgr_hooks.barman import archive, branch, content
from repmgr_hooks.barman.branch import BranchConflict, Compared, ConflictKind
from repmgr_hooks.barman.wal_continuity import FAULTS, ArchivedWal, PrimaryWal
from repmgr_hooks.cluster.wal import Switchpoint, TimelineHistory
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import HOME, STREAMING, FakeHost

SIZE = 16 * 1024 * 1024
BARMAN = Barman("main_backup")
ASIDE = f"{HOME}/other-branch-000000020000000000000007"
HISTORY = "1\t0/5000050\tno recovery target specified\n"


def wal(timeline: int, *numbers: int) -> list[str]:
    return [f"{timeline:08X}00000000{number:08X}" for number in numbers]


def held(*names: str, streaming: tuple[str, ...] = ()) -> ArchivedWal:
    return ArchivedWal(STREAMING, frozenset(streaming), frozenset([*names, *streaming]))


PLACES = {
    "backup_directory": HOME,
    "streaming_wals_directory": STREAMING,
    "incoming_wals_directory": f"{HOME}/incoming",
    "wals_directory": f"{HOME}/wals",
}
SECOND = PrimaryWal(
    3,
    TimelineHistory(2, (Switchpoint(1, 5 * SIZE + 0x50),)),
    9 * SIZE + 0x50,
    frozenset([*wal(1, 3, 4), *wal(2, 5, 6, 7, 8, 9)]),
    HISTORY,
)
FIRST = PrimaryWal(1, TimelineHistory(1), 7 * SIZE + 0x50, frozenset(wal(1, 3, 4, 5, 6, 7)))
ALL = (*wal(1, 3, 4), "00000002.history", *wal(2, 5, 6, 7))


@pytest.mark.parametrize(
    ("primary", "there", "compared", "began", "kind"),
    [
        (SECOND, held(*ALL), Compared((wal(2, 7)[0],), (), HISTORY), {2: 3}, None),
        (SECOND, held(*ALL), Compared(), None, None),
        (SECOND, held(), Compared(), {2: 2}, None),
        (SECOND, held(*ALL), Compared((wal(2, 7)[0],), (), HISTORY), {2: 2}, None),
        (SECOND, held(*ALL), Compared(), {2: 2}, ConflictKind.ORIGIN),
        (SECOND, held(*wal(1, 3, 4), streaming=(f"{wal(2, 5)[0]}.partial",)), Compared(), {2: 2}, None),
        (SECOND, held(*ALL), Compared((), tuple(wal(2, 5))), None, ConflictKind.CONTENT),
        (
            SECOND,
            held(*ALL),
            Compared((), (), "1\t0/4000050\tno recovery target specified\n"),
            None,
            ConflictKind.HISTORY,
        ),
        (SECOND, held(*ALL), Compared((), (), HISTORY.replace("\t", " ")), None, None),
        (SECOND, held(*ALL, *wal(3, 8)), Compared(), None, ConflictKind.UNKNOWN_TIMELINE),
        (SECOND, held(*ALL, "00000003.history"), Compared(), None, ConflictKind.UNKNOWN_TIMELINE),
        (SECOND, held(*ALL, *wal(2, 8)), Compared(), None, None),
        (SECOND, held(*ALL, *wal(2, 9)), Compared(), None, ConflictKind.AHEAD),
        (SECOND, held(*ALL, *wal(1, 9)), Compared(), None, None),
        (FIRST, held(*wal(1, 3, 4, 5, 6)), Compared(), None, None),
        (FIRST, held(*wal(1, 3, 4), *wal(2, 5)), Compared(), None, ConflictKind.UNKNOWN_TIMELINE),
        (FIRST, held(*wal(1, 7)), Compared(), None, ConflictKind.AHEAD),
    ],
)
def test_what_shows_another_branch(
    primary: PrimaryWal, there: ArchivedWal, compared: Compared, began: dict[int, int] | None, kind: ConflictKind | None
) -> None:
    found = branch.find(there, primary, compared, began)
    assert (found and found.kind) == kind


@pytest.mark.parametrize(
    ("names", "primary", "expected"),
    [
        (ALL, SECOND, wal(2, 7, 5)),
        (wal(1, 3, 4), SECOND, wal(1, 4)),
        (wal(1, 3, 4, 5, 6), SECOND, wal(1, 4)),
        ([*wal(1, 3, 4), f"{wal(2, 5)[0]}.partial"], SECOND, wal(1, 4)),
        (wal(2, 9), SECOND, []),
        (wal(1, 1), SECOND, []),
        (wal(1, 3, 6, 7), FIRST, wal(1, 6, 3)),
    ],
)
def test_what_is_worth_comparing(names: list[str], primary: PrimaryWal, expected: list[str]) -> None:
    assert branch.to_compare(names, primary) == tuple(expected)


@pytest.mark.parametrize(
    ("dead", "names", "primary", "expected"),
    [
        (2, ALL, SECOND, wal(2, 5)),
        (2, [*wal(1, 3), *wal(2, 5, 6)], SECOND, wal(1, 4)),
        (2, wal(2, 5, 6), SECOND, wal(2, 5)),
        (0, ALL, SECOND, wal(2, 8)),
        (2, [*wal(1, 3, 4), *wal(2, 5)], FIRST, wal(1, 5)),
        (2, [*wal(1, 1), *wal(2, 5)], FIRST, wal(1, 3)),
    ],
)
def test_where_the_stream_begins_when_the_branch_is_moved_aside(
    dead: int, names: list[str], primary: PrimaryWal, expected: list[str]
) -> None:
    if names == wal(2, 5, 6):
        primary = replace(primary, files=primary.files - {*wal(1, 3, 4)})
    assert [branch.marker((dead,), held(*names), primary)] == expected


def test_the_way_out_is_named() -> None:
    conflict = BranchConflict(ConflictKind.CONTENT, 2, *wal(2, 7))
    steps = branch.way_out(conflict, held(*ALL), SECOND, PLACES, BARMAN)
    assert [str(step.do) for step in steps] == [
        f"mkdir -p {ASIDE}",
        f"find {STREAMING}/ {HOME}/incoming/ {HOME}/wals/ -mindepth 1 -maxdepth 1 '(' -name '00000002*' ')' '!' "
        f"-name FFFFFFFFFFFFFFFF000000FF.partial -exec mv -n -t {ASIDE} '{{}}' +",
        f"touch {STREAMING}/000000020000000000000005.partial",
        f"chown --reference={STREAMING} {ASIDE} {STREAMING}/000000020000000000000005.partial",
        "barman rebuild-xlogdb main_backup",
        f"rm -f {STREAMING}/FFFFFFFFFFFFFFFF000000FF.partial",
    ]
    said = branch.explain(conflict, 3, steps, BARMAN)
    assert said.message.startswith(
        "BRANCH_CONFLICT: Barman holds other bytes than the primary in 000000020000000000000007: "
    )
    assert all(str(step.do) in said.hint for step in steps)
    assert FAULTS[said.code].startswith("BRANCH_CONFLICT: ")


def test_all_that_is_newer_is_moved_at_once() -> None:
    """Else a restore would follow the next one of them."""
    there = held(*wal(1, 3, 4), "00000002.history", *wal(2, 5), "00000003.history", *wal(3, 6))
    conflict = branch.find(there, FIRST, Compared())
    assert conflict
    make, move, begin, *_ = (str(step.do) for step in branch.way_out(conflict, there, FIRST, PLACES, BARMAN))
    assert make == f"mkdir -p {HOME}/other-branch-000000030000000000000006"
    assert "'(' -name '00000002*' -o -name '00000003*' ')'" in move
    assert begin == f"touch {STREAMING}/000000010000000000000005.partial"


class Without(FakeHost):
    """Our role, or the agent, cannot be used."""

    rights = (False, False)

    def _rights(self, sql: Sql, node: object) -> Rows:
        return [self.rights]

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return [self.rights] if sql.statement == content.RIGHTS else super().fetch(sql, limit)


def test_a_role_without_the_grant_compares_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    host = Without()
    seen, primary = content.look(BARMAN, 1, 1, host)
    assert content.compare(seen, primary, BARMAN, host) == Compared()
    assert "our role may not see sums of WAL files" in caplog.text


@pytest.mark.parametrize(
    ("end", "differs"),
    [(None, True), ((4096, "another sum"), True), ((4096, f"{wal(1, 4)[0]} up to 4096"), False)],
)
def test_behind_a_wal_switch_a_file_holds_nothing(end: tuple[int, str] | None, differs: bool) -> None:
    """A standby that lost its primary there has what the file held before it was recycled."""
    host, (name,) = FakeHost(), wal(1, 4)
    host.barman.branch[name] = "zeros behind the switch"
    host.barman.switches = {name: end} if end else {}
    seen, primary = content.look(BARMAN, 1, 1, host)
    assert name in branch.to_compare(seen.files, primary)
    compared = content.compare(seen, primary, BARMAN, host)
    assert (name in compared.different, name in compared.equal) == (differs, not differs)


def test_a_damaged_file_is_no_other_branch(caplog: pytest.LogCaptureFixture) -> None:
    """A disk's fault: to end the stream for it would be the greater one. It is as good as missing."""
    host, (name,) = FakeHost(), wal(1, 4)
    host.barman.branch[name] = "one bit"
    seen, primary = content.look(BARMAN, 1, 1, host)
    whole, conflict = content.judged(seen, primary, BARMAN, host)
    assert (conflict is None, name in whole.files) == (False, True)
    host.barman.damaged = {name: "incorrect data checksum in record at 0/4000028"}
    whole, conflict = content.judged(seen, primary, BARMAN, host)
    assert (conflict, name in whole.files, whole.broken) == (None, False, host.barman.damaged)
    assert f"Barman's {name} is damaged" in caplog.text


def test_where_nobody_can_tell_a_file_that_differs_is_of_another_branch() -> None:
    host, (name,) = FakeHost(), wal(1, 4)
    host.barman.branch[name] = "one bit"
    seen, primary = content.look(BARMAN, 1, 1, host)
    host.barman.damaged = None
    assert content.compare(seen, primary, BARMAN, host).different == (name,)


def test_what_is_no_answer_is_none() -> None:
    host = FakeHost()
    host.programs["ssh"] = lambda program: "" if "python3" in program.argv else host.run(Program(program.argv[2:]), 1)
    with pytest.raises(OperationFailed, match="did not answer with what was asked for"):
        content.ask("sums", Barman("main_backup", command=("ssh", "backup", "barman")), host, names=())


def test_a_fence_is_no_wal() -> None:
    host = FakeHost()
    host.barman.streaming = {f"{wal(1, 5)[0]}.partial", branch.fence_name(SIZE)}
    seen = archive.look_at_archive(BARMAN, host)
    assert seen.fences == {branch.fence_name(SIZE)}
    assert seen.streaming == {f"{wal(1, 5)[0]}.partial"}
