"""What happened, durably: a real SQLite file in a directory of the test's own."""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from repmgr_hooks.background import begun
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal import store
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.journal.pauses import keep
from repmgr_hooks.journal.queries import LAST_RUN
from repmgr_hooks.journal.rows import Observation, RunRow, Waiting
from repmgr_hooks.journal.tables import VERSION, connect
from repmgr_hooks.lock import exclusive
from tests.fake import step_row

PROMOTED = Event(2, "standby_promote", False, 1, "2026-11-20 03:00:00+00")
FOLLOWED = Event(3, "standby_follow")
PAGE = 4096


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    made = Journal(path)
    yield made
    made.close()


def sqlite(path: Path, statement: str) -> None:
    """Change the file behind the journal's back."""
    with sqlite3.connect(path) as other:
        other.execute(statement)
    other.close()


# -- events, runs, steps -----------------------------------------------------------------------------------------------


def test_an_event_comes_back_as_it_went_in(journal: Journal) -> None:
    first, second = journal.add_event("main", PROMOTED, 5.0), journal.add_event("main", FOLLOWED, 4.0)
    assert journal.waiting("main") == [Waiting(first, PROMOTED), Waiting(second, FOLLOWED)]
    assert journal.waiting("other") == []
    assert (journal.waited("main", 9.0), journal.waited("other", 9.0)) == (5.0, 0.0)
    assert journal.event(first) == ("main", PROMOTED)
    assert journal.event(second + 1) is None


def test_it_is_all_there_when_it_is_opened_again(path: Path) -> None:
    before = Journal(path)
    event = before.add_event("main", PROMOTED, 5.0)
    run = before.begin_run("main", "event", 1, [event])
    step = step_row("slot {on: primary}", "create slot barman on node 2", 6.5, 0.25, "")
    before.add_step(run, step)
    before.end_run(run, True, False, "done: 1 step(s)", 2, 7)
    before.close()
    after = Journal(path)
    (row,) = after.runs(9)
    assert (row.id, row.cluster, row.cause, row.attempt, row.ok, row.again) == (run, "main", "event", 1, True, False)
    assert (row.primary, row.timeline, row.message) == (2, 7, "done: 1 step(s)")
    assert row.ended is not None and 0 <= row.ended - row.started < 5
    assert after.events_of(run) == [Waiting(event, PROMOTED)]
    assert after.waiting("main") == []
    assert after.steps(run) == [step]
    after.close()


def test_a_run_is_open_until_it_is_ended(journal: Journal) -> None:
    run = journal.begin_run("main", "boot", 1, [])
    (row,) = journal.runs(1)
    assert (row.ok, row.ended, row.again) == (None, None, False)
    journal.end_run(run, False, True, "the primary is unknown", None, 0)
    (row,) = journal.runs(1)
    assert (row.ok, row.again, row.primary) == (False, True, None)
    assert row.ended is not None


def test_steps_stay_in_their_order(journal: Journal) -> None:
    run, other = journal.begin_run("main", "event", 1, []), journal.begin_run("main", "event", 1, [])
    steps = [step_row("a", f"step {number}", 100.0 - number, 0.0, "no" * number) for number in range(20)]
    for step in steps:
        journal.add_step(run, step)
    assert journal.steps(run) == steps
    assert journal.steps(other) == []


def test_the_newest_runs_oldest_first(journal: Journal) -> None:
    for number in range(6):
        run = journal.begin_run("main" if number % 2 else "other", "event", 1, [])
        journal.end_run(run, number < 4, False, str(number), None, 0)

    def messages(found: list[RunRow]) -> str:
        return " ".join(run.message for run in found)

    assert messages(journal.runs(3)) == "3 4 5"
    assert messages(journal.runs(2, "main")) == "3 5"
    assert messages(journal.runs(9, failed=True)) == "4 5"
    assert messages(journal.runs(9, "other", failed=True)) == "4"


def test_the_same_file_of_the_spool_is_stored_once(journal: Journal) -> None:
    for _ in range(3):
        journal.add_event("main", PROMOTED, 5.0, "00000000000000000005-77")
    journal.add_event("main", PROMOTED, 5.0, "00000000000000000005-78")
    assert len(journal.waiting("main")) == 2


def test_the_same_file_is_stored_once_even_after_its_run(journal: Journal) -> None:
    """The worker may be killed between the journal's commit and the removal of the file."""
    event = journal.add_event("main", PROMOTED, 5.0, "00000000000000000005-77")
    journal.end_run(journal.begin_run("main", "event", 1, [event]), True, False, "", 2, 2)
    journal.add_event("main", PROMOTED, 5.0, "00000000000000000005-77")
    assert journal.waiting("main") == []


def test_events_made_by_hand_are_all_stored(journal: Journal) -> None:
    numbers = {journal.add_event("main", PROMOTED, 5.0) for _ in range(3)}
    assert len(journal.waiting("main")) == len(numbers) == 3


# -- a run that was cut off --------------------------------------------------------------------------------------------


def test_what_was_cut_off_waits_again(journal: Journal) -> None:
    done, cut, later = (journal.add_event("main", PROMOTED, 5.0) for _ in range(3))
    journal.end_run(journal.begin_run("main", "event", 1, [done]), True, False, "done", 2, 2)
    journal.begin_run("main", "event", 1, [cut])
    assert journal.release_cut_off() == 1
    assert [item.id for item in journal.waiting("main")] == [cut, later]
    last = journal.runs(1)[0]
    assert (last.ok, last.again, last.message) == (False, True, "cut off")
    assert journal.release_cut_off() == 0


def test_a_killed_program_leaves_a_journal_whose_event_waits_again(path: Path) -> None:
    script = (
        "import os, pathlib, sys\n"
        "from repmgr_hooks.event import Event\n"
        "from repmgr_hooks.journal.journal import Journal\n"
        "from tests.fake import step_row\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "event = journal.add_event('main', Event(2, 'standby_promote'), 5.0, 'x')\n"
        "run = journal.begin_run('main', 'event', 1, [event])\n"
        "journal.add_step(run, step_row('a', 'b', 1.0, 2.0))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(path)], check=False).returncode == -9
    journal = open_journal(path)
    (run,) = journal.runs(9)
    assert (run.ok, run.ended, len(journal.steps(run.id))) == (None, None, 1)
    assert journal.waiting("main") == []
    assert journal.release_cut_off() == 1
    assert [item.event for item in journal.waiting("main")] == [Event(2, "standby_promote")]
    journal.close()


# -- what is old -------------------------------------------------------------------------------------------------------


def test_what_is_old_goes_and_what_waits_or_came_last_stays(journal: Journal, path: Path) -> None:
    old, kept, waits = (journal.add_event("main", PROMOTED, 5.0) for _ in range(3))
    for events in ([old], [kept]):
        run = journal.begin_run("main", "event", 1, events)
        journal.add_step(run, step_row("a", "b", 1.0, 0.0, ""))
        journal.end_run(run, True, False, "", 2, 2)
    other = journal.begin_run("other", "event", 1, [])
    journal.end_run(other, True, False, "", 2, 2)
    running = journal.begin_run("third", "event", 1, [])
    sqlite(path, "update run set started = 1000, ended = case when ended is null then null else 1001 end")
    journal.prune(90)
    assert [row.id for row in journal.runs(9)] == [run, other, running]
    assert journal.event(old) is None
    assert journal.event(kept) is not None
    assert [item.id for item in journal.waiting("main")] == [waits]
    assert (len(journal.steps(run)), len(journal.steps(run - 1))) == (1, 0)


def test_what_is_not_old_stays(journal: Journal) -> None:
    for _ in range(3):
        journal.end_run(journal.begin_run("main", "event", 1, []), True, False, "", 2, 2)
    journal.prune(1)
    assert len(journal.runs(9)) == 3
    journal.prune(-1)
    assert len(journal.runs(9)) == 1


# -- what is remembered ------------------------------------------------------------------------------------------------

SYSTEM = "7300000000000000001"
NODE_1, NODE_2 = LastKnownPrimary(1, 1, SYSTEM), LastKnownPrimary(2, 2, SYSTEM)


class Wall:
    """The clock on the wall."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def __call__(self) -> float:
        self.time += 1
        return self.time


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    made = Wall()
    monkeypatch.setattr(time, "time", made)
    return made


def roles(path: Path) -> list[tuple[str, int, int]]:
    """The rows of the table."""
    with sqlite3.connect(path) as other:
        rows = other.execute('select cluster, "primary", timeline from role order by id').fetchall()
    other.close()
    return rows


def test_the_last_primary_is_remembered_and_each_change_is_a_row(journal: Journal, path: Path) -> None:
    assert journal.last_known("main") == LastKnownPrimary()
    for last_known in (NODE_1, NODE_1, NODE_2, NODE_2, LastKnownPrimary(2, 3, SYSTEM), NODE_1):
        journal.remember("main", last_known)
        assert journal.last_known("main") == last_known
    journal.remember("other", LastKnownPrimary(7, 1, "7"))
    assert journal.last_known("main") == NODE_1
    assert roles(path) == [("main", 1, 1), ("main", 2, 2), ("main", 2, 3), ("main", 1, 1), ("other", 7, 1)]
    journal.forget("main")
    assert (journal.last_known("main"), journal.last_known("other")) == (
        LastKnownPrimary(),
        LastKnownPrimary(7, 1, "7"),
    )


def test_which_node_began_a_timeline_outlives_the_memory_of_the_primary(journal: Journal) -> None:
    """The archive outlives it too. Another node on the same timeline has not begun it, unless all agrees with it."""
    third = LastKnownPrimary(3, NODE_2.timeline, SYSTEM)
    for last_known in (NODE_1, NODE_2):
        journal.remember("main", last_known)
    journal.forget("main")
    journal.remember("main", third)
    assert journal.last_known("main").began == {NODE_1.timeline: 1, NODE_2.timeline: 2}
    journal.agreed("main", third)
    assert journal.last_known("main").began == {NODE_1.timeline: 1, NODE_2.timeline: 3}
    journal.remember("main", LastKnownPrimary(1, 1, "another system"))
    assert journal.last_known("main").began == {1: 1}


@pytest.mark.parametrize("version", [1, VERSION - 1])
@pytest.mark.parametrize("later", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("checked", [2**20, 0], ids=["small", "too large to be looked at whole"])
def test_a_file_of_before_the_first_release_is_set_aside(  # noqa: PLR0913
    path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    version: int,
    later: bool,
    checked: int,
) -> None:
    monkeypatch.setattr("repmgr_hooks.journal.store.CHECKED", checked)
    sqlite(path, "create table event (id integer primary key)")
    sqlite(path, f"pragma user_version = {version}")
    journal = open_journal(path, later)
    number = journal.add_event("main", PROMOTED, 5.0)
    assert [item.id for item in journal.waiting("main")] == [number]
    journal.close()
    (aside,) = path.parent.glob("journal.db.broken-*")
    assert f"the journal is of an older version (its tables are of version {version}, " in caplog.text
    assert str(aside) in caplog.text


CLAIMS = ["primary_register", "standby_promote", "repmgrd_failover_promote", "standby_switchover"]


def told(journal: Journal, event: Event, spooled: str | None = None, by_hand: bool = False) -> int:
    """An event that has come now."""
    return journal.add_event("main", event, time.time(), spooled, by_hand)


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("spooled", ["00000000000000000005-77", None], ids=["by the spool", "by the hook itself"])
def test_what_repmgr_has_told_the_hook_is_believed(
    journal: Journal, wall: Wall, name: str, spooled: str | None
) -> None:
    journal.remember("main", NODE_1)
    number = told(journal, Event(2, name, False), spooled)
    for cause in ("", "event", "retry"):
        if cause:
            journal.end_run(journal.begin_run("main", cause, 1, [number]), False, True, "", None, 0)
        assert journal.last_known("main").promoted == {2}
    told(journal, Event(3, name))
    assert journal.last_known("main").promoted == {2, 3}
    assert journal.last_known("other").promoted == frozenset()


@pytest.mark.parametrize(
    "name", ["repmgrd_promote_error", "cluster_created", "standby_follow", "node_rejoin", "repmgrd_reload"]
)
def test_what_claims_no_primary_is_no_promotion(journal: Journal, wall: Wall, name: str) -> None:
    journal.remember("main", NODE_1)
    told(journal, Event(2, name), "00000000000000000005-77")
    assert journal.last_known("main").promoted == frozenset()


def test_what_is_replayed_by_hand_is_not_believed_whatever_run_takes_it_over(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    number = told(journal, Event(2, "standby_promote"), by_hand=True)
    for cause in ("replay", "retry", "event"):
        journal.end_run(journal.begin_run("main", cause, 1, [number]), False, True, "", None, 0)
        assert journal.last_known("main").promoted == frozenset()


def test_a_promotion_of_before_the_primary_was_found_is_over(journal: Journal, wall: Wall) -> None:
    journal.remember("main", NODE_1)
    told(journal, Event(2, "standby_promote"))
    journal.remember("main", NODE_2)
    assert journal.last_known("main").promoted == frozenset()
    journal.remember("main", NODE_2)
    told(journal, Event(3, "standby_promote"))
    assert journal.last_known("main").promoted == {3}


def test_changes_are_counted_within_so_many_seconds(journal: Journal, wall: Wall) -> None:
    for primary, timeline in [(1, 1), (2, 2), (2, 3), (1, 4), (2, 5)]:
        wall.time += 100
        journal.remember("main", LastKnownPrimary(primary, timeline, SYSTEM))
        journal.remember("other", LastKnownPrimary(timeline, 1, SYSTEM))
    assert journal.last_known("main", 1000).changes == 3, "neither the first find nor another timeline is a change"
    assert journal.last_known("main", 250).changes == 2
    assert journal.last_known("main", 50).changes == 1
    assert journal.last_known("main").changes == 0, "by hand nothing is held"
    assert journal.last_known("other", 1000).changes == 4
    wall.time += 1000
    assert journal.last_known("main", 600).changes == 0, "the window has gone by"


def test_what_is_found_is_compared_without_what_was_told() -> None:
    assert LastKnownPrimary(1, 1, SYSTEM, frozenset({2}), 3) == NODE_1


def test_old_changes_go_and_the_last_one_of_each_cluster_stays(journal: Journal, path: Path) -> None:
    for last_known in (NODE_1, NODE_2):
        journal.remember("main", last_known)
    journal.remember("other", NODE_1)
    sqlite(path, "update role set since = 1000")
    journal.remember("third", NODE_1)
    journal.prune(90)
    assert roles(path) == [("main", 2, 2), ("other", 1, 1), ("third", 1, 1)]
    assert journal.last_known("main") == NODE_2


def test_the_primary_before_a_new_one_is_known_however_long_it_was_there(
    journal: Journal, path: Path, wall: Wall
) -> None:
    journal.remember("main", LastKnownPrimary(3, 1, SYSTEM))
    journal.remember("main", NODE_1)
    wall.time += 1000 * 86400
    journal.remember("main", NODE_2)
    journal.prune(90)
    assert roles(path) == [("main", 1, 1), ("main", 2, 2)]
    wall.time += 91 * 86400
    journal.prune(90)
    assert roles(path) == [("main", 2, 2)]


def test_what_was_seen_is_forgotten_with_the_rest(journal: Journal, wall: Wall) -> None:
    for at in (wall.time - 91 * 86400, wall.time):
        journal.saw("main", Observation(at, None, 1, 1, "only", "the primary is node 1", "node 1: primary"))
    journal.prune(90)
    assert journal.read("select cluster, nodes from observation") == [("main", "node 1: primary")]


def test_the_last_event(journal: Journal) -> None:
    assert journal.last_event("main") is None
    journal.add_event("main", PROMOTED, 7.0)
    journal.add_event("main", FOLLOWED, 5.0)
    journal.add_event("other", FOLLOWED, 9.0)
    assert journal.last_event("main") == (5.0, FOLLOWED), "by its number: its time is that of a file's name"


# -- pause -------------------------------------------------------------------------------------------------------------


def test_a_pause_without_an_end(journal: Journal) -> None:
    assert journal.paused("main") is None
    journal.pause("main", None, "new disks")
    found = journal.paused("main")
    assert found == Pause(None, "new disks", found.since if found else 0.0)
    assert found and abs(found.since - time.time()) < 5
    assert journal.paused("other") is None
    assert journal.resume("main") is True
    assert journal.paused("main") is None
    assert journal.resume("main") is False


def test_a_pause_with_an_end_is_over_by_itself(journal: Journal) -> None:
    journal.pause("main", time.time() + 60, "")
    assert journal.paused("main") is not None
    journal.pause("main", time.time() - 1, "")
    assert journal.paused("main") is None, "the second pause takes the place of the first"


def test_a_pause_outlives_the_program(path: Path) -> None:
    before = Journal(path)
    before.pause("main", None, "")
    before.close()
    after = Journal(path)
    assert after.paused("main") is not None
    after.close()


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_file_of_a_newer_version_is_refused_and_left_alone(path: Path) -> None:
    Journal(path).close()
    sqlite(path, f"pragma user_version = {VERSION + 1}")
    with pytest.raises(OperationFailed, match=f"is of a newer version \\({VERSION + 1}\\)") as error:
        open_journal(path)
    assert (error.value.code, error.value.hint) == ("newer_journal", "upgrade repmgr_hooks")
    assert [file.name for file in path.parent.iterdir() if "broken" in file.name] == []


@pytest.mark.parametrize(
    "content", [b"this is no database, and it is longer than a hundred bytes " * 90, b"\xff" * 5000]
)
def test_a_broken_file_is_set_aside_and_a_new_journal_begins(
    path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    path.write_bytes(content)
    journal = open_journal(path)
    journal.add_event("main", PROMOTED, 5.0)
    assert [item.event for item in journal.waiting("main")] == [PROMOTED]
    journal.close()
    (aside,) = path.parent.glob("journal.db.broken-*")
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text


def filled(path: Path) -> None:
    """A journal of some pages, closed."""
    journal = Journal(path)
    events = [journal.add_event("main", PROMOTED, 5.0, str(number)) for number in range(3)]
    journal.end_run(journal.begin_run("main", "event", 1, events[:2]), True, False, "", 2, 2)
    journal.close()


def damage(path: Path, where: str) -> None:
    """Write over a part of a filled journal."""
    filled(path)
    whole = path.read_bytes()
    damaged = {
        "the schema": whole[:100] + b"\xff" * (PAGE - 100) + whole[PAGE:],
        "the end is missing": whole[: 2 * PAGE],
        "the pages after the first": whole[:PAGE] + b"\xff" * (len(whole) - PAGE),
    }
    path.write_bytes(damaged[where])


@pytest.mark.parametrize(
    "where",
    [
        "the schema",
        "the end is missing",
        "the pages after the first",
    ],
)
def test_a_file_that_is_broken_further_on_is_set_aside(path: Path, where: str) -> None:
    damage(path, where)
    journal = open_journal(path)
    journal.release_cut_off()
    journal.add_event("main", PROMOTED, 5.0)
    journal.waiting("main")
    assert list(path.parent.glob("journal.db.broken-*"))


@pytest.mark.parametrize("where", ["the schema", "the end is missing"])
def test_a_new_journal_beside_a_broken_one_is_durable(path: Path, where: str) -> None:
    """The connection to the broken file must not take the new file's write-ahead log with it when it is closed."""
    damage(path, where)
    journal = open_journal(path)
    gc.collect()
    journal.add_event("main", PROMOTED, 5.0)
    copy = path.parent / "copy"
    copy.mkdir()
    for file in path.parent.glob("journal.db*"):
        shutil.copy(file, copy)
    journal.close()
    again = Journal(copy / "journal.db")
    assert [item.event for item in again.waiting("main")] == [PROMOTED]
    again.close()


@pytest.mark.parametrize("change", ["add_event", "begin_run", "pause", "release_cut_off", "prune"])
def test_a_file_that_another_program_locks(path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.1)
    journal = Journal(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    changes = {
        "add_event": lambda: journal.add_event("main", PROMOTED, 5.0),
        "begin_run": lambda: journal.begin_run("main", "event", 1, []),
        "pause": lambda: journal.pause("main", None, ""),
        "release_cut_off": journal.release_cut_off,
        "prune": lambda: journal.prune(90),
    }
    with pytest.raises(OperationFailed, match="journal.db cannot be used: database is locked"):
        changes[change]()
    assert journal.waiting("main") == [], "reading goes on"
    other.execute("rollback")
    changes[change]()
    other.close()
    journal.close()


@pytest.mark.parametrize("moved", [True, False], ids=["moved away", "deleted"])
def test_a_file_that_goes_away_under_the_service(path: Path, moved: bool) -> None:
    """Else it would go on in a file that nobody reads, and heed no pause."""
    service = open_journal(path)
    service.remember("main", LastKnownPrimary(1, 1, "7"))
    for file in path.parent.glob("journal.db*"):
        file.rename(file.with_name(f"old-{file.name}")) if moved else file.unlink()
    by_hand = open_journal(path)
    by_hand.pause("main", None, "maintenance")
    by_hand.close()
    path.rename(path.with_name("kept"))
    path.mkdir()
    with pytest.raises(OperationFailed, match="cannot be used"):
        service.paused("main")
    path.rmdir()
    path.with_name("kept").rename(path)
    assert service.paused("main")
    service.add_event("main", Event(2, "standby_promote"), 1.0)
    looking = open_journal(path)
    assert looking.last_event("main") == (1.0, Event(2, "standby_promote"))
    looking.check(every_page=True)
    looking.close()
    service.close()


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperationFailed, match=r"file(/journal.db cannot be used| is not a directory)"):
        open_journal(tmp_path / "file" / "journal.db")
    with pytest.raises(OperationFailed, match="missing/journal.db cannot be used"):
        open_journal(tmp_path / "missing" / "journal.db")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_read_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OperationFailed, match="cannot be used"):
            open_journal(tmp_path / "journal.db")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("kind", ["directory", "link", "dangling link", "FIFO"])
def test_what_stands_in_its_place_is_set_aside(path: Path, tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to(target)
        target.write_text("root's") if kind == "link" else None
    open_journal(path).close()
    assert path.is_file()
    assert not path.is_symlink()
    assert len(list(tmp_path.glob("journal.db.broken-*"))) == 1
    assert kind != "link" or target.read_text() == "root's"
    assert kind != "dangling link" or not target.exists()


def test_nobody_else_can_read_it_or_lock_it(path: Path) -> None:
    """A reader can hold the lock that a writer needs; one that was made readable is closed up."""
    umask = os.umask(0)
    try:
        for _ in range(2):
            journal = open_journal(path)
            journal.add_event("main", PROMOTED, 5.0)
            assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.glob("journal.db*")} == {0o600}
            journal.close()
            path.chmod(0o644)
    finally:
        os.umask(umask)


def test_a_failed_change_leaves_nothing_behind(journal: Journal) -> None:
    waits = journal.add_event("main", PROMOTED, 5.0)

    def numbers() -> Iterator[int]:
        yield waits
        raise OSError("no more numbers")

    with pytest.raises(OperationFailed, match="no more numbers"):
        journal.begin_run("main", "event", 1, numbers())
    assert journal.runs(9) == []
    assert [item.id for item in journal.waiting("main")] == [waits]


# -- two at a time -----------------------------------------------------------------------------------------------------


def test_two_threads_write_at_the_same_time(journal: Journal) -> None:
    failures: list[BaseException] = []

    def write(cluster: str) -> None:
        try:
            for number in range(40):
                event = journal.add_event(cluster, FOLLOWED, float(number), f"{cluster}-{number}")
                run = journal.begin_run(cluster, "event", 1, [event])
                journal.add_step(run, step_row(cluster, str(number), 0.0, 0.0, ""))
                journal.end_run(run, True, False, str(number), 2, 2)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in ("main", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for name in ("main", "other"):
        runs = journal.runs(99, name)
        assert [run.message for run in runs] == [str(number) for number in range(40)]
        assert [journal.steps(run.id)[0].action for run in runs] == [name] * 40
        assert [len(journal.events_of(run.id)) for run in runs] == [1] * 40


def test_two_programs_write_at_the_same_time(path: Path, journal: Journal) -> None:
    """The worker, and an operator's ``reconcile``."""
    other = Journal(path)
    for number in range(10):
        (journal, other)[number % 2].add_event("main", FOLLOWED, float(number))
    assert len(journal.waiting("main")) == len(other.waiting("main")) == 10
    other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_root_makes_can_be_used_by_the_service() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.chown(place, 34, 35)
        journal = open_journal(place / "journal.db")
        journal.add_event("main", PROMOTED, 5.0)
        owners = {file.name: (file.stat().st_uid, file.stat().st_gid) for file in place.glob("journal.db*")}
        journal.close()
        assert len(owners) == 3
        assert owners == dict.fromkeys(owners, (34, 35))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
def test_root_follows_no_link_of_the_service() -> None:
    with tempfile.TemporaryDirectory() as name, tempfile.NamedTemporaryFile() as target:
        place = Path(name)
        os.chown(place, 34, 35)
        (place / "journal.db").symlink_to(target.name)
        (place / "cluster-main.lock").symlink_to(target.name)
        open_journal(place / "journal.db").close()
        assert not (place / "journal.db").is_symlink()
        with exclusive(place / "cluster-main.lock", 0):
            pass
        assert (Path(target.name).stat().st_uid, Path(target.name).stat().st_size) == (0, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be led astray")
def test_root_follows_no_link_that_takes_its_place_meanwhile() -> None:
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as roots:
        place, target = Path(name), Path(roots, "new.db")
        os.chown(place, 34, 35)
        journal = open_journal(place / "journal.db")
        (place / "journal.db").rename(place / "away.db")
        (place / "journal.db").symlink_to(target)
        with pytest.raises(OperationFailed):
            journal.add_event("main", PROMOTED, 5.0)
        assert os.geteuid() == 0
        assert not target.exists()
        journal.close()


def test_closing_waits_for_another_thread(tmp_path: Path) -> None:
    """Without that, the interpreter itself dies (seen); afterwards each use fails as any other."""
    journal = open_journal(tmp_path / "journal.db")
    busy, go_on = threading.Event(), threading.Event()
    done: list[object] = []

    def hold(db: sqlite3.Connection) -> None:
        busy.set()
        go_on.wait(60)
        done.append(db.execute("select 1").fetchone())

    holder = threading.Thread(target=journal.change, args=(hold,))
    holder.start()
    assert busy.wait(60)
    closer = threading.Thread(target=journal.close)
    closer.start()
    closer.join(0.2)
    assert closer.is_alive()
    go_on.set()
    closer.join(60)
    holder.join(60)
    assert done == [(1,)]
    with pytest.raises(OperationFailed, match="cannot be used"):
        journal.paused("main")


# -- nobody waits long -------------------------------------------------------------------------------------------------


def test_who_uses_a_locked_journal_again_and_again_waits_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a cluster's run, and for all clusters together."""
    monkeypatch.setattr(store, "PATIENCE", 1.0)
    journal, other = Journal(path), sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    begun = time.monotonic()
    for number in range(100):
        with pytest.raises(OperationFailed, match="database is locked"):
            journal.add_step(1, step_row("action", str(number), 0.0, 0.0, ""))
    assert time.monotonic() - begun < 60
    other.execute("rollback")
    journal.add_step(1, step_row("action", "it works again", 0.0, 0.0, ""))
    other.close()
    journal.close()


def test_a_disk_that_hangs_is_waited_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.5)
    monkeypatch.setattr(store, "SLOW", 0.5)
    journal = Journal(path)
    disk_works = threading.Event()
    with pytest.raises(OperationFailed, match="it does not answer"):
        journal.change(lambda db: disk_works.wait(300))
    begun = time.monotonic()
    for _ in range(200):
        with pytest.raises(OperationFailed, match="it does not answer"):
            journal.waiting("main")
    assert time.monotonic() - begun < 60
    disk_works.set()
    end = time.monotonic() + 60
    while True:
        try:
            assert journal.waiting("main") == []
            break
        except OperationFailed:
            assert time.monotonic() < end
            time.sleep(0.01)
    journal.close()


def test_one_that_cannot_be_opened_yet_is_opened_later(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    newer = sqlite3.connect(path)
    newer.execute("pragma user_version = 999")
    newer.close()
    journal = open_journal(path, later=True)
    assert "is of a newer version" in caplog.text
    with pytest.raises(OperationFailed):
        journal.paused("main")
    path.unlink()
    journal.pause("main", None, "")
    assert journal.paused("main")
    journal.close()


def test_what_is_due_is_read_again_when_somebody_has_written(journal: Journal, path: Path) -> None:
    """Each look asks it, and hardly ever has anybody written since the look before."""
    read: list[str] = []

    def asked(name: str) -> set[str]:
        read.clear()
        journal.due(name)
        return {
            table
            for table in ("event", "run", "role", "branch", "pause")
            if f"from {table} " in " ".join(" ".join(read).split())
        }

    journal.ask(lambda db: db.set_trace_callback(read.append))
    everything = asked("main")
    assert everything == {"event", "run", "role", "branch", "pause"}
    assert asked("main") == {"role", "pause"}, "what depends on the time"
    journal.begin_run("other", "event", 1, [])
    assert asked("main") == everything, "this service has written"
    assert asked("main") != everything
    with sqlite3.connect(path) as another:
        another.execute("delete from run")
    another.close()
    assert asked("main") == everything, "somebody else has"
    assert asked("other") == everything


def test_what_the_time_changes_is_due_without_a_change_of_the_journal(journal: Journal, wall: Wall) -> None:
    for number in (1, 2, 1):
        journal.remember("main", LastKnownPrimary(number, 1, "7"))
    journal.pause("main", wall() + 100, "")
    before = journal.due("main", 50)
    wall.time += 60
    between = journal.due("main", 50)
    wall.time += 60
    after = journal.due("main", 50)
    assert [due.known and due.known.changes for due in (before, between, after)] == [2, 0, 0]
    assert [bool(due.pause) for due in (before, between, after)] == [True, True, False]


def test_a_look_does_not_read_the_runs_of_other_clusters(journal: Journal) -> None:
    journal.begin_run("main", "event", 1, [])
    for _ in range(5):
        journal.begin_run("other", "event", 1, [])
    journal.begin_run("main", "hold", 1, [])
    (last,) = journal.last_run("main")
    assert (last.cluster, last.cause) == ("main", "event")
    assert journal.due("main").last == last
    plan = journal.read(f"explain query plan {LAST_RUN}", "main")
    assert [row[3] for row in plan] == ["SEARCH run USING INDEX run_cluster (cluster=?)"]


def test_a_journal_without_the_index_is_read_at_once_while_somebody_holds_a_lock(path: Path) -> None:
    """That of the version before has none."""
    connect(path, 60).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("drop index run_cluster")
    holder.execute("begin immediate")
    db = begun(lambda: connect(path, 3600)).result(60)
    assert db.execute("select count(*) from run").fetchone() == (0,)
    assert db.execute("pragma busy_timeout").fetchone() == (3600_000,)
    db.close()
    holder.execute("rollback")
    connect(path, 60).close()
    assert holder.execute("select count(*) from sqlite_master where name = 'run_cluster'").fetchone() == (1,)
    holder.close()


@pytest.mark.parametrize("how", ["moved away", "broken", "of an older version"])
def test_a_new_journal_takes_over_the_pauses_that_last(path: Path, how: str) -> None:
    """To move a broken file away is what our own hint says; a storage migration goes on for all that."""
    before = Journal(path)
    for cluster, until in (("main", None), ("over", 1.0), ("soon", time.time() + 600), ("resumed", None)):
        before.pause(cluster, until, "new disks")
        keep(path.parent, cluster, Pause(until, "new disks", time.time()))
    before.resume("resumed")
    keep(path.parent, "resumed", None)
    (path.parent / "cluster-odd.paused").write_text("no pause")
    before.close()
    if how == "moved away":
        path.rename(path.with_name("old"))
    elif how == "broken":
        path.write_bytes(bytes(512) + path.read_bytes()[512:])
    else:
        sqlite(path, f"pragma user_version = {VERSION - 1}")
    after = open_journal(path)
    found = {cluster: after.paused(cluster) for cluster in ("main", "over", "soon", "resumed", "odd")}
    after.close()
    assert [cluster for cluster, pause in found.items() if pause] == ["main", "soon"]
    assert found["main"] is not None
    assert (found["main"].until, found["main"].reason) == (None, "new disks")


def test_a_file_of_a_pause_with_odd_values_breaks_no_new_journal(path: Path) -> None:
    (path.parent / "cluster-main.paused").write_text('{"until": null, "reason": {"a": "\\ud800"}, "since": 1}')
    made = Journal(path)
    assert made.paused("main") == Pause(None, "{'a': '\\ud800'}", 1.0)
    made.close()


OPENED = """
import sys, time
from contextlib import closing
from pathlib import Path
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import open_journal
while time.time() < float(sys.argv[2]): pass
journal = open_journal(Path(sys.argv[1]))
journal.add_event("main", Event(2, "standby_promote"), time.time(), spooled=sys.argv[3])
journal.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", [b"what was in it" * 5000, None], ids=["broken", "none"])
def test_several_that_open_it_at_one_moment_lose_nothing(tmp_path: Path, before: bytes | None) -> None:
    """After an update the service, its timers and an operator find the old one together: the slowest set the new one
    aside, over the old one."""
    for number in range(4):
        path, at = tmp_path / str(number) / "journal.db", str(time.time() + 1.5)
        path.parent.mkdir()
        if before:
            path.write_bytes(before)
        programs = [
            subprocess.Popen(
                (sys.executable, "-c", OPENED, str(path), at, f"event {each}"),
                stdin=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for each in range(4)
        ]
        said = [program.communicate(timeout=60)[1] for program in programs]
        # A busy machine may be too slow for whoever waits two seconds.
        good = [program.returncode == 0 for program in programs]
        assert all(well or "database is locked" in text for well, text in zip(good, said, strict=True)), said
        assert [aside.read_bytes() for aside in path.parent.glob("*.broken-*")] == ([before] if before else [])
        with closing(open_journal(path)) as journal:
            assert len(journal.waiting("main")) == sum(good)
