"""What the service does with a switchover that was left: it asks its node, lets somebody serve, unpauses repmgrd."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from repmgr_hooks import clock
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds
from repmgr_hooks.journal.heartbeat import Progress
from repmgr_hooks.journal.holds import Holder
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.lock import exclusive
from repmgr_hooks.service.guard import RECENT, SwitchoverGuard
from repmgr_hooks.service.monitor import Monitor
from repmgr_hooks.settings.cluster import Cluster, Node
from repmgr_hooks.switchover import record
from repmgr_hooks.switchover.on_node import RepmgrState
from repmgr_hooks.switchover.record import Record, lock_name
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import FakeHost
from tests.unit.service.test_monitor import MAIN

PLACE = "/tmp/repmgr-hooks-0123456789abcdef"
REPMGRS = ((1, "/data1", "/conf1"), (2, "/data2", "/conf2"))
LIMIT = 60.0


class Left:
    """A switchover from node 1 to node 2 whose command is gone; ``repmgr``: what node 2 says of its repmgr.

    ``old``: what has become of the old primary.
    """

    def __init__(self, place: Path) -> None:
        self.host = FakeHost()
        self.host.programs["ssh"] = self._ssh
        self.repmgr: RepmgrState | OperationFailed = RepmgrState.OVER
        self.old: Literal["died", "stopped", "hangs"] = "died"
        self.asked: list[str] = []
        """What the nodes were asked and had to do."""
        nodes = {number: Node(node.host, shell=("ssh", f"db{number}")) for number, node in MAIN.cluster.nodes.items()}  # noqa: S604
        self.cluster: Cluster = replace(MAIN.cluster, nodes=nodes, state_dir=str(place))
        self.journal: Journal | None = None
        self.guard = self.new_guard()
        for node in self.host.nodes.values():
            node.paused = True

    def new_guard(self) -> SwitchoverGuard:
        """As that of a service that has begun anew."""
        monitor = Monitor(MAIN, self.host, 5.0, Progress())
        return SwitchoverGuard(self.cluster, self.journal, monitor, self.host, lambda _: self.host)

    def keep(self, **changes: object) -> Record:
        """Leave it behind; the command has just let repmgr go on."""
        gone = Holder(2**22, 1, holds.boot_id())  # no process has this number
        until = clock.monotonic() + 600
        left = Record(gone, 1, 2, clock.wall(), until, "switch", (1, 2), True, PLACE, True, 1, REPMGRS)
        record.keep(self.cluster, left := replace(left, **changes))  # type: ignore[arg-type]
        return left

    @property
    def there(self) -> Record | None:
        return record.read(self.cluster)

    def look(self, times: int = 4) -> None:
        """Let the service look, and wait each time for what it has begun."""
        for _ in range(times):
            self.guard.look()
            end = clock.monotonic() + LIMIT
            while (job := self.guard._job) and not job[2].done():  # noqa: SLF001
                assert clock.monotonic() < end
                time.sleep(0.01)
            self.host.sleep(5)

    def _ssh(self, program: Program) -> str:
        node, text = program.argv[1], program.stdin
        if RepmgrState.AT_WORK.value in text:
            self.asked.append("stands")
            assert f"place={PLACE}" in text
            if isinstance(self.repmgr, OperationFailed):
                raise self.repmgr
            return f"{self.repmgr.value}\n"
        if "standby promote" in text:
            self.asked.append(f"promote {node}")
            self.host.promote(int(node[-1]))
            return "NOTICE: promoted"
        if self.old != ("hangs" if "stopping" in text else "stopped"):
            return ""
        self.asked.append(f"start {node}")
        self.host.nodes[1].reachable = True
        return "started"


@pytest.fixture
def left(tmp_path: Path) -> Left:
    return Left(tmp_path)


def test_a_node_that_stays_silent_is_said_once(left: Left, caplog: pytest.LogCaptureFixture) -> None:
    left.host.fail_over()
    left.keep()
    left.look()
    assert len([line for line in caplog.messages if "node 1 is still paused" in line]) == 1
    assert left.there is not None
    left.host.nodes[1].reachable = True
    left.look()
    assert left.there is None
    assert not left.host.nodes[1].paused


@pytest.mark.parametrize("said", [RepmgrState.AT_WORK, OperationFailed("ssh: no route to host")])
def test_nothing_is_begun_while_repmgr_may_be_at_work(left: Left, said: RepmgrState | OperationFailed) -> None:
    left.host.lose(1)
    left.repmgr = said
    kept = left.keep()
    left.look()
    assert left.asked == ["stands"] * 4
    assert left.there == kept
    assert left.guard.due_in() <= 2, "also where the service itself looks seldom, or is paused"


def test_a_node_that_does_not_say_how_it_goes_is_given_the_time_that_repmgr_has(left: Left) -> None:
    left.host.lose(1)
    left.repmgr = OperationFailed("ssh: no route to host")
    left.keep(until=clock.monotonic() - 1)
    left.look()
    assert left.asked == ["stands", "promote db2"]


def test_a_node_is_asked_for_what_repmgr_did_also_when_its_time_is_over(left: Left) -> None:
    """As after a boot of ours: the old primary has more WAL than the node that was not promoted."""
    left.host.lose(1)
    left.repmgr, left.old = RepmgrState.UNPROMOTED, "stopped"
    left.keep(until=clock.monotonic() - 1)
    left.look()
    assert left.asked == ["stands", "start db1"]


def test_the_node_is_promoted_where_the_old_primary_has_died(left: Left) -> None:
    left.host.lose(1)
    left.keep()
    left.look(2)
    assert left.asked == ["stands", "promote db2"]
    assert not left.host.nodes[2].in_recovery
    assert not left.host.nodes[2].paused
    assert left.there is not None, "node 1 is owed its repmgrd"


def test_what_it_did_stands_in_the_journal(left: Left, journal: Journal) -> None:
    left.journal = journal
    left.guard = left.new_guard()
    left.host.lose(1)
    left.keep()
    left.look()
    (run,) = journal.runs(10, "main")
    said = "a switchover to node 2 was cut off (switch); node 1 is down: node 2 is promoted"
    assert (run.cause, run.ok, run.message) == ("switchover", True, said)


def test_the_old_primary_serves_again_where_repmgr_promoted_nobody(left: Left) -> None:
    """To promote the node instead could lose what it has not received: for that repmgr has given up."""
    left.host.lose(1)
    left.repmgr, left.old = RepmgrState.UNPROMOTED, "stopped"
    left.keep()
    left.look()
    assert left.asked == ["stands", "start db1"]
    assert left.there is None
    assert not left.host.nodes[1].paused


def test_the_old_primary_is_ended_where_it_does_not_stop(left: Left) -> None:
    left.host.lose(1)
    left.old = "hangs"
    left.keep()
    left.look()
    assert left.asked == ["stands", "start db1"]
    assert left.there is None


def test_one_that_was_killed_before_repmgr_was_let_go_on(left: Left) -> None:
    """The primary dies just then; repmgrd, which was paused, lets that pass."""
    left.host.lose(1)
    left.keep(repmgr=False, place="", promoting=False, phase="hold")
    left.look()
    assert left.asked == ["promote db2"]


def test_while_the_primary_serves_nothing_is_done_but_to_unpause(left: Left) -> None:
    left.keep()
    left.look()
    assert left.asked == ["stands"]
    assert left.there is None
    assert not left.host.nodes[1].paused
    assert left.guard.due_in() > 2


def newer_was_known(left: Left) -> None:
    class Remembers:
        def last_known(self, cluster: str, within: float) -> LastKnownPrimary:
            return LastKnownPrimary(2, 2)

        def paused(self, cluster: str) -> None: ...

    left.journal = Remembers()  # type: ignore[assignment]
    left.guard = left.new_guard()


def one_follows_a_newer_one(left: Left) -> None:
    left.host.nodes[2].timeline = 2


def repmgrd_is_not_paused(left: Left) -> None:
    left.host.nodes[2].paused = False


def paused_by_somebody(left: Left) -> None:
    (Path(left.cluster.state_dir) / "cluster-main.paused").write_text("")

    class Pauses:
        def last_known(self, cluster: str, within: float) -> LastKnownPrimary:
            return LastKnownPrimary(1, 1)

        def paused(self, cluster: str) -> str:
            return "maintenance"

    left.journal = Pauses()  # type: ignore[assignment]
    left.guard = left.new_guard()


DANGERS = [newer_was_known, one_follows_a_newer_one, repmgrd_is_not_paused, paused_by_somebody]


@pytest.mark.parametrize("danger", DANGERS)
def test_there_are_never_two_primaries(left: Left, danger: object) -> None:
    left.host.lose(1)
    danger(left)  # type: ignore[operator]
    left.keep()
    left.look()
    assert "promote db2" not in left.asked
    assert "start db1" not in left.asked
    assert not left.host.nodes[2].paused, "this is repmgrd's"


@pytest.mark.parametrize(
    "when", [{"since": 0.0, "holder": Holder(7, 123, "boot")}, {"until": clock.monotonic() - RECENT - 1}]
)
def test_one_of_another_day_lets_nobody_serve(left: Left, when: dict[str, object]) -> None:
    left.host.lose(1)
    left.keep(**when)
    left.look()
    assert left.asked == ["stands"]


@pytest.mark.parametrize("ahead", [100.0, 1e6, -2 * RECENT])
def test_a_clock_that_was_set_since_keeps_nobody_from_serving(left: Left, ahead: float) -> None:
    """Set back by 100 s, and nobody ever served; what counts within a boot is the clock that nobody sets."""
    left.host.lose(1)
    left.keep(since=clock.wall() + ahead)
    left.look()
    assert left.asked == ["stands", "promote db2"]


def test_a_host_that_boots_with_its_clock_behind_lets_a_node_serve(left: Left) -> None:
    left.host.lose(1)
    left.keep(since=clock.wall() + 1e6, holder=Holder(7, 123, "boot"))
    left.look()
    assert left.asked[0] == "stands" and len(left.asked) == 2


def test_it_is_never_done_beside_the_command(left: Left) -> None:
    """Its lock says that it lives; so does one that carries out the next switchover."""
    left.host.lose(1)
    left.keep()
    with exclusive(Path(left.cluster.state_dir) / lock_name("main"), 0.0):
        left.look()
        assert left.asked == [], "what repmgr did its node says once"
        assert left.there is not None
    left.look()
    assert left.asked[-1] == "promote db2"


def test_one_that_the_service_was_killed_in_is_done_after_its_time(left: Left) -> None:
    """repmgr may still be promoting the node: nobody begins that again before it has ended."""
    left.host.lose(1)
    left.keep(place="", until=clock.monotonic() + 600)
    left.look()
    assert left.asked == []
    left.keep(place="", until=clock.monotonic() - 1)
    left.look()
    assert left.asked == ["promote db2"]


def test_what_the_service_has_taken_up_it_knows_for_its_own(left: Left) -> None:
    """It was told to read its configuration again, or its guard had a bug."""
    left.host.lose(1)
    left.keep(holder=holds.this_process(), repmgr=False, place="")
    left.look()
    assert left.asked == ["promote db2"]


def test_after_a_boot_a_primary_is_given_time_to_come_back(left: Left) -> None:
    """Its host may have been started anew, too."""
    left.host.lose(1)
    left.host.at(30, lambda: setattr(left.host.nodes[1], "reachable", True))
    left.keep(holder=Holder(7, 123, "another boot"), repmgr=False)
    left.look()
    assert "promote db2" not in left.asked
    assert left.there is None


def test_without_a_shell_only_its_time_ends_it(left: Left) -> None:
    left.host.lose(1)
    left.cluster = replace(left.cluster, nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")})
    left.guard = left.new_guard()
    kept = left.keep()
    left.look()
    assert (left.asked, left.there) == ([], kept)


class Broken(FakeHost):
    """Where a bug of ours shows."""

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        raise ZeroDivisionError


def test_a_bug_in_it_keeps_no_event_waiting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    left = Left(tmp_path)
    host = Broken()
    left.guard = SwitchoverGuard(left.cluster, None, Monitor(MAIN, host, 5.0, Progress()), host, lambda _: left.host)
    left.host.lose(1)
    left.keep(until=clock.monotonic() - 1)
    left.look(8)
    assert caplog.text.count("a bug in repmgr_hooks") == 1
