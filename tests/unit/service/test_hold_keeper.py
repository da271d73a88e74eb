"""A hold is taken back by the service whatever has died: nobody waits for ever."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.engine import hold as engine
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal import holds, pauses
from repmgr_hooks.journal.holds import Hold
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.journal.maintenance import Pause
from repmgr_hooks.service.hold_keeper import KEPT, SEEK_EVERY, HoldKeeper
from repmgr_hooks.switchover.phases import HOLD_LIMIT
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.pgbouncer import shares_its_port
from repmgr_hooks.system.steps import console_name
from tests.fake import FakeHost
from tests.fake_pgbouncer import FakePgBouncer
from tests.unit.conftest import CONFIG

OPEN = "- firewall: {open: app, fail_open_after: 120}"
ACTION = "- pgbouncer: {databases: [app], on: [host=10.0.0.20 user=hooks, host=10.0.0.30 user=hooks]}"
NEAR, FAR = "10.0.0.20:6432", "10.0.0.30:6432"
DEAD = OperationFailed(f"PgBouncer {NEAR}: Connection refused", code="no_answer")


class Kept:
    """A cluster with two PgBouncers, and what looks after its hold; ``hosts``: several gateways."""

    def __init__(self, place: Path, hosts: str = "") -> None:
        text = CONFIG.replace("state_dir: /var/lib/repmgr-hooks", f"state_dir: {place}")
        text = text.replace("      address: 10.0.0.20\n", f"      address: 10.0.0.20\n{hosts}")
        file = place / "config.yaml"
        file.write_text(text.replace(OPEN, f"{OPEN}\n          {ACTION}"))
        file.chmod(0o644)
        self.managed: ManagedCluster = config.load(file).clusters["main"]
        self.host, self.told = FakeHost(), list[Alert]()
        self.host.pgbouncers = {NEAR: FakePgBouncer(), FAR: FakePgBouncer()}
        self.journal: Journal = open_journal(place / "journal.db")
        self.keeper = HoldKeeper(self.managed, self.journal, self.told.append, lambda: self.host)

    def begin(self) -> Hold:
        can = engine.holdable(self.managed, self.host)
        how = {"limit": 60.0, "why": "a switchover to node 2"}
        hold = engine.begin(self.managed, 1, 1, means=["pgbouncer"], pgbouncers=can.pgbouncers, **how)  # type: ignore[arg-type]
        for pgbouncer in self.host.pgbouncers.values():
            pgbouncer.paused.add("app")
        return hold

    @property
    def record(self) -> Path:
        return Path(self.managed.cluster.state_dir, "cluster-main.hold")

    def paused(self) -> list[str]:
        return [name for name, each in self.host.pgbouncers.items() if each.paused]


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def gone(kept: Kept) -> None:
    hold = kept.begin()
    holds.write(kept.managed.cluster, replace(hold, holder=replace(hold.holder, started=1)))


def test_nothing_is_done_while_it_goes_on(kept: Kept) -> None:
    kept.keeper.look()
    kept.begin()
    kept.keeper.look()
    assert kept.paused() == [NEAR, FAR]
    assert kept.told == []


def test_it_is_taken_back_said_and_written_down_when_its_holder_is_gone(kept: Kept) -> None:
    gone(kept)
    kept.keeper.look()
    kept.keeper.look()
    assert kept.paused() == []
    assert not kept.record.exists()
    (alert,) = kept.told
    assert (alert.condition, alert.severity) == ("hold", "warning")
    assert "(a switchover to node 2); taken back, because process" in alert.summary
    (run,) = kept.journal.runs(9)
    assert (run.cause, run.ok, run.message) == ("hold", True, alert.summary)
    assert kept.journal.due("main").last is None, "a failed run is tried again all the same"


def test_what_is_dead_stays_written_down_until_it_is_back(kept: Kept) -> None:
    gone(kept)
    kept.host.pgbouncers[NEAR].failed = DEAD
    for _ in range(3):
        kept.keeper.look()
    assert kept.paused() == [NEAR]
    assert [alert.severity for alert in kept.told] == ["critical"], "once"
    left = holds.read(kept.managed.cluster)
    assert left is not None
    assert [console_name(console) for console in left.pgbouncers] == [NEAR]
    kept.host.pgbouncers[NEAR].failed = None
    kept.keeper.look()
    assert kept.paused() == []
    assert not kept.record.exists()


def test_what_cannot_be_written_down_stops_nothing(kept: Kept) -> None:
    gone(kept)
    kept.journal.close()
    kept.keeper.look()
    assert kept.paused() == []


def test_a_record_that_holds_something_else_lets_all_go_on(kept: Kept) -> None:
    kept.begin()
    kept.record.write_text("{")
    kept.keeper.look()
    assert kept.paused() == []
    assert not kept.record.exists()
    assert "taken back, because its record holds something else" in kept.told[0].summary
    kept.begin()


def test_a_record_that_cannot_be_read_is_what_it_was(kept: Kept, tmp_path: Path) -> None:
    gone(kept)
    kept.host.pgbouncers[NEAR].failed = DEAD
    kept.keeper.look()
    kept.record.unlink()
    kept.record.symlink_to("/dev/null")
    kept.host.pgbouncers[NEAR].failed = None
    kept.keeper.look()
    assert kept.paused() == []


def test_a_record_that_could_never_be_read_is_said_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    kept.record.symlink_to("/dev/null")
    for _ in range(3):
        kept.keeper.look()
    assert caplog.text.count("whether clients are held cannot be seen") == 1


def test_who_releases_a_hold_ends_no_other(kept: Kept) -> None:
    first = kept.begin()
    with pytest.raises(OperationFailed, match="clients are held already: a switchover to node 2"):
        kept.begin()
    assert engine.release(kept.managed, first, kept.host) == []
    assert kept.paused() == []
    second = kept.begin()
    engine._note(kept.managed, first, None)  # noqa: SLF001 - a late one
    assert holds.read(kept.managed.cluster) == second


def test_what_cannot_be_held_is_said(kept: Kept) -> None:
    near, far = kept.host.pgbouncers[NEAR], kept.host.pgbouncers[FAR]
    near.paused.add("app")
    far.databases = {"other": ("10.0.0.20", 54322)}
    can = engine.holdable(kept.managed, kept.host)
    assert can.pgbouncers == {}
    assert [problem.code for problem in can.problems] == ["paused_by_hand", "no_database"]
    near.failed = DEAD
    assert [problem.code for problem in engine.holdable(kept.managed, kept.host).problems] == [
        "no_answer",
        "no_database",
    ]


def test_processes_that_share_a_port_are_not_held(kept: Kept) -> None:
    """PAUSE reached one of them, and RESUME another: clients of the first waited for ever."""
    kept.host.pgbouncers[NEAR].config["so_reuseport"] = "1"
    can = engine.holdable(kept.managed, kept.host)
    assert ([console_name(each) for each in can.pgbouncers], [problem.code for problem in can.problems]) == (
        [FAR],
        ["shared_port"],
    )
    by_socket = "host=/run/pgbouncer1 user=hooks dbname=pgbouncer"
    assert shares_its_port(by_socket, {"so_reuseport": "1"}) is None, "each by its own"


def test_a_limit_that_is_over(kept: Kept) -> None:
    hold = kept.begin()
    holds.write(kept.managed.cluster, replace(hold, begun=clock.monotonic() - 61))
    kept.keeper.look()
    assert kept.paused() == []
    assert "its limit of 60 s is over" in kept.told[0].summary


def late(kept: Kept) -> Hold:
    """A hold whose limit is over, of a process that lives: it was stopped, and does not know."""
    hold = kept.begin()
    holds.write(kept.managed.cluster, replace(hold, begun=clock.monotonic() - 61))
    found = holds.read(kept.managed.cluster)
    assert found is not None
    return found


def test_who_is_late_learns_it(kept: Kept) -> None:
    hold = kept.begin()
    engine.confirm(kept.managed, hold)
    assert engine.release(kept.managed, hold, kept.host) == []
    with pytest.raises(OperationFailed, match="not held any more"):
        engine.confirm(kept.managed, hold)
    hold = late(kept)
    for _ in range(2):  # before and after the service has seen it
        with pytest.raises(OperationFailed, match="not held any more"):
            engine.confirm(kept.managed, hold)
        kept.keeper.look()
    assert engine.release(kept.managed, hold, kept.host) == []
    assert not kept.record.exists()


def test_what_a_process_holds_that_was_stopped_for_too_long_is_taken_back_too(kept: Kept) -> None:
    """It goes on where it was, between the record and PAUSE, or the rule that holds a port."""
    hold = late(kept)
    kept.keeper.look()
    kept.host.pgbouncers[NEAR].paused.add("app")
    kept.keeper.look()
    assert kept.paused() == []
    assert len(kept.told) == 1
    holds.write(kept.managed.cluster, replace(hold, over=True, holder=replace(hold.holder, started=1)))
    kept.keeper.look()
    assert not kept.record.exists()


def test_a_process_is_not_waited_for_for_ever(kept: Kept) -> None:
    hold = kept.begin()
    holds.write(kept.managed.cluster, replace(hold, begun=clock.monotonic() - KEPT))
    kept.keeper.look()
    assert not kept.record.exists()


# -- what another gateway has held -------------------------------------------------------------------------------------

PAIR = "      hosts: [10.0.0.21, 10.0.0.22]\n"


def looks(kept: Kept, seconds: float) -> None:
    """Look every few seconds, for so long."""
    end = kept.host.now() + seconds
    while kept.host.now() < end:
        kept.keeper.look()
        kept.host.sleep(SEEK_EVERY)


def reserve(place: Path, hosts: str = PAIR) -> Kept:
    """A gateway that has not the address, and has looked for a while."""
    kept = Kept(place, hosts)
    kept.host.addresses = {"10.0.0.22"}
    looks(kept, 60)
    return kept


def held_elsewhere(kept: Kept) -> None:
    for each in kept.host.pgbouncers.values():
        each.paused.add("app")


def address_comes(kept: Kept) -> None:
    kept.host.addresses.add("10.0.0.20")
    kept.host.address_came = kept.host.now()


@pytest.mark.parametrize("before", [0, 12, 45])
def test_what_a_gateway_held_that_is_dead_is_let_go(tmp_path: Path, before: float) -> None:
    """Its record died with it; nobody else would ever let these clients go."""
    kept = reserve(tmp_path)
    held_elsewhere(kept)
    looks(kept, before)
    address_comes(kept)
    looks(kept, HOLD_LIMIT - SEEK_EVERY)
    assert kept.paused() == [NEAR, FAR], "if it lives it lets them go itself"
    looks(kept, 3 * SEEK_EVERY)
    assert kept.paused() == []
    (alert,) = kept.told
    assert (alert.condition, alert.severity, alert.momentary) == ("hold", "warning", True)
    assert f"app of PgBouncer {NEAR}, app of PgBouncer {FAR}" in alert.summary


def test_one_that_is_silent_is_let_go_when_it_is_back(tmp_path: Path) -> None:
    kept = reserve(tmp_path)
    held_elsewhere(kept)
    kept.host.pgbouncers[NEAR].failed = DEAD
    address_comes(kept)
    looks(kept, 2 * HOLD_LIMIT)
    assert kept.paused() == [NEAR]
    kept.host.pgbouncers[NEAR].failed = None
    looks(kept, 2 * SEEK_EVERY)
    assert kept.paused() == []


@pytest.mark.parametrize(
    ("hosts", "when"),
    [
        (PAIR, "long before"),
        (PAIR, "since"),
        (PAIR, "before we began to look"),
        (PAIR, "here"),
        (PAIR, "and the address does not come"),
        ("", "shortly before"),
    ],
)
def test_what_somebody_has_paused_is_left_alone(tmp_path: Path, hosts: str, when: str) -> None:
    kept = Kept(tmp_path, hosts) if "began" in when else reserve(tmp_path, hosts)
    if when == "here":
        address_comes(kept)
        looks(kept, 300)
    if when != "since":
        held_elsewhere(kept)
    looks(kept, 200 if when == "long before" else 10)
    if "address" not in when and when != "here":
        address_comes(kept)
    looks(kept, 10)
    held_elsewhere(kept)
    looks(kept, 5 * HOLD_LIMIT)
    assert kept.paused() == [NEAR, FAR]
    assert kept.told == []


def test_what_somebody_has_paused_before_the_address_was_made_anew_here_is_left_alone(tmp_path: Path) -> None:
    """A keepalived that is started anew takes the address off and puts it back: nobody else had it."""
    kept = reserve(tmp_path)
    address_comes(kept)
    looks(kept, 300)
    held_elsewhere(kept)
    looks(kept, 10)
    kept.host.addresses.discard("10.0.0.20")
    looks(kept, SEEK_EVERY)
    address_comes(kept)
    looks(kept, 5 * HOLD_LIMIT)
    assert kept.paused() == [NEAR, FAR]
    assert kept.told == []


def test_during_a_pause_nothing_is_done(tmp_path: Path) -> None:
    """Who moves the address by hand may have paused the service, and then PgBouncer."""
    kept = reserve(tmp_path)
    pauses.keep(tmp_path, "main", Pause(None, "the gateways change places", clock.wall()))
    held_elsewhere(kept)
    address_comes(kept)
    rests = kept.host.rests
    looks(kept, 5 * HOLD_LIMIT)
    assert kept.paused() == [NEAR, FAR]
    assert kept.host.rests - rests == 5 * HOLD_LIMIT / SEEK_EVERY, "a PgBouncer that is to end waits for each client"
    pauses.keep(tmp_path, "main", None)
    looks(kept, 2 * SEEK_EVERY)
    assert kept.paused() == []
