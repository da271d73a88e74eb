"""A former primary that is found is stopped and rejoined, once it is certain; each step is written down and told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.cluster.decide import PrimaryDecision
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed, Stopped
from repmgr_hooks.former_primary import record
from repmgr_hooks.former_primary.on_node import Ended
from repmgr_hooks.former_primary.plan import RETRY_AFTER
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import Refused
from repmgr_hooks.journal.finder import primary_finder
from repmgr_hooks.journal.journal import open_journal
from repmgr_hooks.journal.rows import RunRow
from repmgr_hooks.service.former_keeper import SEEK_EVERY, SETTLED, UNHEARD_OF, FormerPrimaryKeeper
from repmgr_hooks.settings.former_primary import AttemptLimit, Fence, FormerPrimary
from repmgr_hooks.switchover import record as switchover
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, Wall
from tests.unit.conftest import CONFIG

NO_SSH = OperationFailed("ssh: connect to host 10.0.0.11 port 22: No route to host", code="program_failed")
PROGRAM = "/usr/local/sbin/power-off"


@dataclass
class FakeOnNode:
    """What is done on node 1; a job goes on until ``ends`` says how it ends."""

    host: FakeHost
    fails: OperationFailed | None = None
    ends: list[Ended] = field(default_factory=list)
    did: list[str] = field(default_factory=list)

    def look(self, former: Former) -> Former:
        return replace(former, directory="/data", conf="/etc/repmgr/db1.conf")

    def stop(self, former: Former, limit: float) -> Former:
        self._reached()
        self.did.append(f"stop {former.node}")
        self.host.nodes[former.node].reachable = False
        return replace(former, phase="fenced", path="/bin")

    def rejoin(self, former: Former, primary: NodeState, began: int | None) -> None:
        self._reached()
        self.did.append(f"rejoin {former.node} to {primary.node}")

    def clone(self, former: Former, primary: NodeState) -> None:
        self._reached()
        self.did.append(f"clone {former.node} from {primary.node}")

    def ask(self, former: Former) -> Ended | None:
        self._reached()
        ended = self.ends.pop(0) if self.ends else None
        if ended and ended.good:
            node = self.host.nodes[former.node]
            node.reachable = node.in_recovery = True
        return ended

    def _reached(self) -> None:
        if self.fails:
            raise self.fails


@dataclass
class Looks:
    """What the service's last look has decided."""

    looked: PrimaryDecision | None = None


class Kept:
    """A cluster that has failed over from node 1 to node 2, and what looks after node 1."""

    def __init__(self, place: Path, **options: object) -> None:
        file = place / "config.yaml"
        file.write_text(CONFIG.replace("state_dir: /var/lib/repmgr-hooks", f"state_dir: {place}"))
        file.chmod(0o644)
        self.loaded = config.load(file)
        managed, self.host = self.loaded.clusters["main"], FakeHost()
        settings = FormerPrimary(**options)  # type: ignore[arg-type]
        self.managed = replace(managed, cluster=replace(managed.cluster, former_primary=settings))
        self.journal = open_journal(place / "journal.db")
        self.node, self.told, self.looks = FakeOnNode(self.host), list[Alert](), Looks()
        self.host.fail_over()
        self.journal.remember("main", LastKnownPrimary(2, 2, self.host.nodes[2].system_identifier))
        self.host.nodes[1].registered = (1,)
        self.starts_anew()

    def starts_anew(self) -> None:
        """The service is killed, and another is started."""
        of = (self.managed, self.journal, self.loaded, self.looks, self.told.append)
        self.keeper = FormerPrimaryKeeper(*of, lambda cluster: self.host, lambda *_: self.node)

    def comes_back(self) -> None:
        self.host.nodes[1].reachable, self.host.nodes[1].in_recovery = True, False

    def look(self, times: int = 1, every: float = SETTLED) -> float:
        wait = 0.0
        for _ in range(times):
            self.looks.looked = primary_finder(self.managed.cluster, self.journal).decision(self.host)
            wait = self.keeper.look()
            self.host.sleep(every)
        return wait

    @property
    def record(self) -> dict[int, Former]:
        return record.read(self.managed.cluster)

    def runs(self) -> list[RunRow]:
        return self.journal.runs(100)


Make = Callable[..., Kept]


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    wall = Wall()
    monkeypatch.setattr(clock, "wall", wall)
    return wall


@pytest.fixture
def make(tmp_path: Path, wall: Wall) -> Make:
    def made(**options: object) -> Kept:
        kept = Kept(tmp_path, **options)
        wall.host = kept.host
        return kept

    return made


@pytest.fixture
def kept(make: Make) -> Kept:
    return make(clone="primary", limit=AttemptLimit(3, 86400))


def test_what_is_silent_is_left_alone(kept: Kept) -> None:
    assert kept.look(5) == SEEK_EVERY
    assert (kept.node.did, kept.told, kept.record) == ([], [], {})


def test_it_is_stopped_rejoined_and_told(kept: Kept) -> None:
    kept.comes_back()
    kept.look()
    assert kept.node.did == [], "not at first sight"
    kept.look(2)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2"]
    assert kept.record[1].phase == "rejoin"
    kept.look(3)
    kept.node.ends = [Ended(0)]
    kept.look(3)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2"]
    assert kept.record[1].phase == "done"
    phases = ("fence", "rejoin begins", "rejoin", "over")
    conditions = [f"former_primary: node 1, {phase}" for phase in phases]
    assert [(alert.condition, alert.severity) for alert in kept.told] == [(each, "warning") for each in conditions]
    assert [alert.summary for alert in kept.told] == [
        "stopped node 1, a stale primary on timeline 1",
        "begins: keep the own WAL of node 1, and rejoin it by pg_rewind; the primary is node 2",
        "node 1 was rewound, and was started",
        "node 1 is no stale primary any more",
    ]
    assert [(run.cause, run.ok) for run in kept.runs()] == [("former_primary", True)] * 2
    steps = [step for run in kept.runs() for step in kept.journal.steps(run.id)]
    assert [(step.kind, step.node, step.error) for step in steps] == [("fence_node", 1, ""), ("rejoin_node", 1, "")]
    assert kept.journal.due("main").last is None, "a run of its own makes no route true"


def test_without_the_address_it_goes_on_with_what_it_has_stopped(kept: Kept) -> None:
    """The other gateway does not know of it: the node stayed stopped for ever."""
    gateway = replace(kept.managed.cluster.gateway, hosts=("10.0.0.21", "10.0.0.22"))
    kept.managed = replace(kept.managed, cluster=replace(kept.managed.cluster, gateway=gateway))
    kept.host.addresses = {"10.0.0.21"}
    kept.starts_anew()
    kept.comes_back()
    assert kept.look(4) == SEEK_EVERY
    assert kept.node.did == [], "the one that has the address stops it"
    kept.host.addresses = {"10.0.0.21", gateway.address}
    kept.look(2)
    assert kept.node.did == ["stop 1"]
    kept.host.addresses, kept.host.other_gateways = {"10.0.0.21"}, [("repmgr_hooks 10.0.0.22 active", 1.0)]
    kept.look()
    assert kept.node.did == ["stop 1", "rejoin 1 to 2"]
    kept.node.ends = [Ended(0)]
    kept.look(3)
    assert kept.record[1].phase == "done"


def test_nothing_is_done_while_a_run_has_something_to_do(kept: Kept) -> None:
    """The ports come first."""
    kept.comes_back()
    for _ in range(5):
        kept.looks.looked = None
        kept.keeper.look()
        kept.host.sleep(SETTLED)
    assert kept.node.did == []


def test_one_that_is_started_again_waits_for_the_ports_too(kept: Kept) -> None:
    kept.comes_back()
    kept.look(2)
    kept.comes_back()
    kept.looks.looked = None
    for _ in range(5):
        kept.keeper.look()
        kept.host.sleep(SETTLED)
    assert kept.node.did == ["stop 1"]


def test_while_there_is_nothing_to_do_no_node_is_asked(make: Make) -> None:
    kept = make(limit=AttemptLimit(3, 600))
    kept.comes_back()
    kept.look(3)
    kept.node.ends = [Ended(0)]
    kept.look(3)
    assert kept.record[1].phase == "done"
    asked = kept.host.rests
    for _ in range(5):
        kept.keeper.look()
    assert kept.host.rests == asked
    kept.host.sleep(700)
    kept.look()
    assert kept.record == {}, "its attempts are forgotten in their time"


def test_nothing_is_done_in_a_pause(kept: Kept) -> None:
    kept.comes_back()
    kept.journal.pause("main", None, "maintenance")
    kept.look(5)
    assert kept.node.did == []
    kept.journal.resume("main")
    kept.look(2)
    assert kept.node.did == ["stop 1"]


def test_nothing_is_done_while_a_switchover_is_under_way(kept: Kept) -> None:
    kept.comes_back()
    switchover.keep(kept.managed.cluster, switchover.begun(2, 1, 60))
    kept.look(5)
    assert kept.node.did == []


def test_a_role_that_changes_at_the_last_moment(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked at once more, right before: node 1 is promoted, and node 2 gone."""
    kept.comes_back()
    kept.look()
    looks, fetch_each = [], kept.host.fetch_each

    def changed(*asked: object) -> object:
        looks.append(1)
        if len(looks) == 3:  # the service's own, the first of the keeper, and the last
            kept.host.promote(1)
            kept.host.nodes[1].timeline = 3
            kept.host.lose(2)
        return fetch_each(*asked)  # type: ignore[arg-type]

    monkeypatch.setattr(kept.host, "fetch_each", changed)
    kept.look()
    assert len(looks) == 3
    assert kept.node.did == []
    assert kept.record == {}


def test_a_service_that_was_killed_is_followed_by_one_that_goes_on(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    kept.starts_anew()
    kept.node.ends = [Ended(0)]
    kept.look(3)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2"]
    assert kept.record[1].phase == "done"


def test_one_that_was_killed_before_it_was_known_whether_it_is_stopped(kept: Kept) -> None:
    seen = kept.host.nodes[1]
    former = Former(1, seen.system_identifier, 1, 2, since=0.0, directory="/data")
    record.keep(kept.managed.cluster, {1: former})
    kept.look()
    kept.look()
    assert kept.node.did[:1] == ["stop 1"], "its host is asked, which is silent to PostgreSQL's clients alone"


def test_one_that_cannot_be_reached_is_not_said_to_be_stopped(kept: Kept) -> None:
    kept.comes_back()
    kept.node.fails = NO_SSH
    kept.look(4)
    assert kept.record[1].phase == "fence"
    (alert,) = kept.told
    assert alert.severity == "critical"
    assert "is a stale primary and could not be stopped: ssh: connect to host" in alert.summary
    kept.look(3, RETRY_AFTER)
    assert len(kept.told) == 1, "the same is said once"
    kept.node.fails = None
    kept.look(2, RETRY_AFTER)
    assert kept.node.did[0] == "stop 1"


def test_a_program_stands_in_for_the_stop(make: Make) -> None:
    kept = make(fence=Fence(program=(PROGRAM,)))
    kept.comes_back()
    kept.node.fails = NO_SSH
    given: list[Program] = []

    def power_off(program: Program) -> str:
        given.append(program)
        kept.host.nodes[1].reachable = False
        return ""

    kept.host.programs[PROGRAM] = power_off
    kept.look(2)
    (program,) = given
    assert dict(program.env) == {
        "REPMGR_HOOKS_NODE": "1",
        "REPMGR_HOOKS_HOST": "10.0.0.11",
        "REPMGR_HOOKS_CLUSTER": "main",
    }
    assert kept.record[1].by_power
    assert kept.told[0].summary.endswith("that its PostgreSQL is stopped was not seen")


@pytest.mark.parametrize("fails", [True, False])
def test_a_program_that_has_not_worked_is_not_believed(make: Make, fails: bool) -> None:
    kept = make(fence=Fence(program=(PROGRAM,)))
    kept.comes_back()
    kept.node.fails = NO_SSH

    def does_nothing(program: Program) -> str:
        if fails:
            raise OperationFailed("exit code 1: no such plug", code="program_failed")
        return ""

    kept.host.programs[PROGRAM] = does_nothing
    kept.look(2)
    assert (kept.record[1].phase, kept.record[1].by_power) == ("fence", False)
    assert ("no such plug" if fails else "still answers") in kept.told[0].summary


def test_no_program_for_a_node_that_is_something_else_by_now(make: Make) -> None:
    kept = make(fence=Fence(program=(PROGRAM,)))
    kept.comes_back()
    kept.node.fails = OperationFailed("node 1 is not what it was seen to be", code="another")
    kept.look(2)
    assert kept.record[1].phase == "fence"


def test_what_cannot_be_rewound_is_cloned(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    kept.node.ends = [Ended(24, "ERROR: pg_rewind execution failed")]
    kept.look(2, 0.1)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2", "clone 1 from 2"]
    kept.node.ends = [Ended(0)]
    kept.look(2, 0.1)
    assert kept.record[1].phase == "done"
    assert "node 1 could not be rewound: pg_rewind execution failed" in [alert.summary for alert in kept.told]


def test_after_its_attempts_it_stays_stopped_and_that_is_said(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    kept.node.ends = [Ended(24, "ERROR: no")] + [Ended(1, "ERROR: no disk")] * 9
    kept.look(20, RETRY_AFTER)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2", "clone 1 from 2", "clone 1 from 2"]
    last = kept.told[-1]
    assert (last.condition, last.severity) == ("former_primary: node 1, stay", "critical")
    assert last.summary == "node 1 stays stopped: 3 attempt(s) to rejoin it in 86400 s; the last: no disk"
    assert "repmgr -f REPMGR_CONF node rejoin -d 'host=10.0.0.12" in last.hint
    kept.comes_back()
    kept.look(2)
    assert kept.node.did[-1] == "stop 1", "whoever starts it again"
    kept.look(5, RETRY_AFTER)
    assert kept.node.did[-1] == "stop 1"


def test_one_that_keeps_coming_back_is_limited_too(kept: Kept) -> None:
    for _ in range(5):
        kept.comes_back()
        kept.node.ends = [Ended(0)]
        kept.look(6)
    assert kept.node.did.count("rejoin 1 to 2") == 3
    assert kept.node.did.count("stop 1") >= 4


def test_what_repmgr_does_there_itself_uses_up_no_attempt(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    kept.node.ends = [Ended(Refused.BUSY)] * 5
    kept.look(10, RETRY_AFTER)
    assert kept.node.did.count("rejoin 1 to 2") > 3


def test_a_node_that_is_switched_off_uses_up_no_attempt(kept: Kept) -> None:
    kept.comes_back()
    kept.look(2)
    kept.node.fails = NO_SSH
    kept.look(9, RETRY_AFTER)
    assert kept.record[1].attempts == ()
    assert len(kept.runs()) == 2, "that it stays stopped for now is said once"
    kept.node.fails = None
    kept.look(2, RETRY_AFTER)
    assert kept.node.did[-1] == "rejoin 1 to 2"


def test_a_job_on_a_node_that_is_silent_is_asked_for_until_it_answers(make: Make) -> None:
    """It may never have begun: a clone would delete WAL that nobody has kept."""
    kept = make(timeout=600, clone="primary")
    kept.comes_back()
    kept.look(3)
    kept.node.fails = NO_SSH
    with pytest.raises(OperationFailed):
        kept.look()
    kept.host.sleep(600 + UNHEARD_OF)
    kept.look()
    assert kept.told[-1].severity == "critical"
    assert "it is not known how it goes on: ssh" in kept.told[-1].summary
    said = len(kept.told)
    with pytest.raises(OperationFailed):
        kept.look()
    assert len(kept.told) == said
    assert (bool(kept.record[1].job), kept.record[1].rewound) == (True, False)
    kept.node.fails, kept.node.ends = None, [Ended(Refused.CUT_OFF)]
    kept.look(2, RETRY_AFTER)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2", "rejoin 1 to 2"]


def test_a_host_that_was_restarted_meanwhile_may_start_a_whole_standby(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    kept.node.ends = [Ended(None)]
    kept.look(3)
    assert kept.node.did == ["stop 1", "rejoin 1 to 2"]
    kept.look(2, RETRY_AFTER)
    assert kept.node.did[-1] == "clone 1 from 2"


def test_a_node_that_is_silent_keeps_nobody_from_the_others(kept: Kept) -> None:
    kept.comes_back()
    kept.look(3)
    gone = replace(kept.record[1], node=9, job="")
    record.keep(kept.managed.cluster, {**kept.record, 9: gone})
    kept.node.fails = NO_SSH
    with pytest.raises(OperationFailed):
        kept.look()
    assert list(kept.record) == [1]


def test_it_stays_stopped_if_it_is_not_to_be_rejoined(make: Make) -> None:
    kept = make(rejoin=False)
    kept.comes_back()
    kept.look(9, RETRY_AFTER)
    assert kept.node.did == ["stop 1"]
    assert len(kept.told) == 1


def test_one_that_is_to_end_begins_nothing_and_leaves_the_record_to_the_next(kept: Kept) -> None:
    kept.comes_back()
    kept.look()
    stop, before = kept.node.stop, kept.keeper

    def reloads(former: Former, limit: float) -> Former:
        before.stop()
        return stop(former, limit)

    kept.node.stop = reloads  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        kept.look()
    assert kept.record[1].phase == "fence"
    kept.starts_anew()
    kept.look(2)
    assert kept.node.did == ["stop 1", "stop 1", "rejoin 1 to 2"]


def test_without_a_journal_nothing_is_done(kept: Kept) -> None:
    """What was the primary so far is not known."""
    kept.comes_back()
    kept.looks.looked = primary_finder(kept.managed.cluster, kept.journal).decision(kept.host)
    kept.journal.close()
    with pytest.raises(OperationFailed):
        kept.keeper.look()
    assert kept.node.did == []


def test_without_a_record_nothing_is_done(kept: Kept) -> None:
    kept.comes_back()
    place = Path(kept.managed.cluster.state_dir, "cluster-main.former")
    for text in ("{", '[{"node": 1}]', "[1]", "null", "x" * 200_000):
        place.write_text(text)
        with pytest.raises(OperationFailed) as error:
            kept.look()
        assert error.value.code == record.NO_RECORD
    assert kept.node.did == []


def test_a_node_that_somebody_has_rejoined_is_left_to_him(kept: Kept) -> None:
    kept.comes_back()
    kept.look(2)
    assert kept.record[1].phase == "fenced"
    node = kept.host.nodes[1]
    node.reachable = node.in_recovery = True
    kept.look(3)
    assert kept.node.did == ["stop 1"]
    assert kept.record == {}
