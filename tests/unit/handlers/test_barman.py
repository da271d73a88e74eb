"""Barman streams from the primary and has its WAL: what is seen of that, and the steps that are missing."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from repmgr_hooks.barman import receive_wal, wal_continuity
from repmgr_hooks.barman.branch import Fence
from repmgr_hooks.barman.wal_continuity import StreamPosition, StreamState
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.observe import NodeState, Slot, WalSender, observe
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import barman
from repmgr_hooks.handlers.barman import Config, Seen, SwitchWal
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Host, Program, Sql, Step
from tests.fake import STREAMING as STREAMING_DIRECTORY
from tests.fake import FakeHost

CLUSTER = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")},
    gateway=Gateway("10.0.0.20", {"barman": 54321, "app": 54322}),
    barman=Barman("main_backup", "barman"),
)
STATES = {node: NodeState(node, in_recovery=False, lsn=0x5000148) for node in (1, 2)}
STATE = ClusterState(CLUSTER, primary=2, timeline=2, states=STATES)
STREAMING = Sql(2, receive_wal.STREAMING, ("0/5000148", 2, "barman"))

STREAM, SWITCH = Config(stream=True), Config(switch_wal=SwitchWal(timeout=90))
BOTH = Config(stream=True, switch_wal=SwitchWal(timeout=7), start_timeout=33)
STOP = ("receive-wal", "--stop", "main_backup")
NOTHING = Seen(streaming=False, archived=False, stop=STOP)
IDLE = Seen(streaming=False, archived=False, idle=True)
COMING = Seen(streaming=False, archived=False, coming=True)


def argvs(steps: list[Step]) -> list[str]:
    """What Barman is told by some steps."""
    programs = [step.do for step in steps]
    assert all(isinstance(program, Program) and program.argv[0] == "barman" for program in programs)
    return [" ".join(program.argv[1:]) for program in programs if isinstance(program, Program)]


START = "-q receive-wal main_backup"
RESTART = ["receive-wal --stop main_backup", START]
PROVE = ["-f json switch-wal --force main_backup"]
"""By Barman, for our role may not."""


@pytest.mark.parametrize(
    ("config", "seen", "programs"),
    [
        (STREAM, NOTHING, RESTART),
        (STREAM, IDLE, [START]),
        (STREAM, Seen(True, False), []),
        (STREAM, COMING, [START]),
        (BOTH, COMING, [START, *PROVE]),
        (SWITCH, NOTHING, PROVE),
        (SWITCH, Seen(True, False), PROVE),
        (SWITCH, Seen(False, True), []),
        (BOTH, NOTHING, [*RESTART, *PROVE]),
        (BOTH, Seen(False, True, stop=STOP), RESTART),
        (BOTH, Seen(True, False), PROVE),
        (BOTH, Seen(True, True), []),
    ],
)
def test_the_missing_steps(config: Config, seen: Seen, programs: list[str]) -> None:
    assert argvs(barman.plan(config, STATE, seen)) == programs


def test_how_long_and_until_when() -> None:
    look = Program(("find", "/wals", "-name", "000000020000000000000005"))
    stop, start, switch = barman.plan(BOTH, STATE, replace(NOTHING, written=look))
    assert (stop.limit, stop.until) == (20, None)
    assert (start.limit, start.until, start.every) == (33, STREAMING, 2)
    assert (switch.limit, switch.until, switch.every) == (37, look, 37), "one file is closed, and waited for"
    assert [step.what for step in (stop, start, switch)] == [
        "stop Barman's receive-wal",
        "start Barman's receive-wal, until it streams from node 2",
        "switch WAL and see timeline 2 on Barman's disk",
    ]


def test_barman_may_run_elsewhere() -> None:
    remote = Cluster(CLUSTER.nodes, CLUSTER.gateway, Barman("other", command=("ssh", "barman@backup", "barman")))
    (stop, start) = barman.plan(STREAM, ClusterState(remote, 1, 1, STATES), NOTHING)
    assert isinstance(stop.do, Program)
    assert isinstance(start.do, Program)
    assert stop.do.argv == ("ssh", "barman@backup", "barman", "receive-wal", "--stop", "main_backup")
    assert start.do.argv == ("ssh", "barman@backup", "barman", "-q", "receive-wal", "other")


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3.4.0", "receive-wal --stop main_backup"),
        ("3.13.3", "receive-wal --stop main_backup"),
        ("3.14.0", "terminate-process main_backup receive-wal"),
        ("3.20.1", "terminate-process main_backup receive-wal"),
        ("4.0.0", "terminate-process main_backup receive-wal"),
    ],
)
def test_the_receiver_is_stopped_in_the_words_of_the_version(host: FakeHost, version: str, words: str) -> None:
    """Barman 3.20 says that it will do without ``receive-wal --stop``; 3.14 brought the other."""
    host.barman.version = version
    host.barman.receiver_hangs = True
    stop, *_ = barman.plan(STREAM, now(host), barman.observe(STREAM, now(host), host))
    assert str(stop.do) == f"barman {words}"
    apply(stop, host)


@pytest.mark.parametrize(
    ("stderr", "tolerated"),
    [
        ("ERROR: Termination of receive-wal failed: no such process for server main_backup", True),
        ("ERROR: Cannot terminate process receive-wal (1234) for server main_backup", False),
        ("ERROR: please run barman as 'barman' user", False),
        ("sudo: a password is required", False),
        ("", False),
    ],
)
def test_only_that_nothing_runs_is_tolerated_of_stop(stderr: str, tolerated: bool) -> None:
    stop, start = barman.plan(STREAM, STATE, NOTHING)
    assert isinstance(stop.do, Program)
    assert isinstance(start.do, Program)
    assert bool(re.search(stop.do.tolerate, stderr)) is tolerated
    assert start.do.tolerate == ""


@pytest.mark.parametrize(
    ("hangs", "has_pgrep", "stopped"), [(False, True, False), (True, True, True), (False, False, True)]
)
def test_a_receiver_is_stopped_unless_there_is_certainly_none(
    host: FakeHost, hangs: bool, has_pgrep: bool, stopped: bool
) -> None:
    """That of another server, which is at work, is not ours."""
    host.barman.receiver_hangs, host.barman.has_pgrep = hangs, has_pgrep
    for step in barman.plan(STREAM, now(host), barman.observe(STREAM, now(host), host)):
        apply(step, host)
    assert ("barman receive-wal --stop" in host.what_changed()) is stopped
    assert host.barman.streams_from == 2


def test_what_must_not_be_written_meanwhile_is_stopped_all_the_same() -> None:
    """Barman's cron may start one at any moment."""
    for position in (StreamPosition.DIVERGED, StreamPosition.SEGMENT_BOUNDARY):
        stop, *_ = barman.plan(REPAIR, STATE, replace(stream_state(position), idle=True))
        assert stop.kind == "stop_stream"
    stop, *_ = barman.plan(STREAM, STATE, replace(IDLE, tail=True, stop=STOP))
    assert stop.kind == "stop_stream"


CLOSED = '{"_INFO": ["The WAL file %s has been closed on server \'main_backup\'"]}'


@pytest.mark.parametrize(
    ("timeline", "output", "proven"),
    [
        (2, CLOSED % "0000000200000000000000FF", True),
        (2, CLOSED % "000000020000000A00000001", True),
        (2, CLOSED % "0000000100000000000000FF", False),
        (2, CLOSED % "0000002200000000000000FF", False),
        (2, CLOSED % "0000000300000002000000FF", False),
        (26, CLOSED % "0000001A00000002000000FF", True),
        (26, CLOSED % "0000002600000002000000FF", False),
        (2, '{"_INFO": ["No switch performed because server \'main_backup\' is a standby."]}', False),
        (2, '{"_INFO": ["No switch required for server \'main_backup\'"]}', False),
        (2, '{"_INFO": ["The WAL file 0000000200000000000000FF has not been received in 90 seconds"]}', False),
        (2, "", False),
    ],
)
def test_only_a_closed_file_of_the_timeline_proves_the_switch(timeline: int, output: str, proven: bool) -> None:
    (switch,) = barman.plan(SWITCH, ClusterState(CLUSTER, 2, timeline), NOTHING)
    assert isinstance(switch.do, Program)
    assert bool(re.search(switch.do.expect, output)) is proven


@pytest.fixture
def host() -> FakeHost:
    """Node 2 was promoted, Barman's port leads to it, and it has the slot."""
    made = FakeHost()
    made.fail_over()
    made.barman.receiver_hangs = False
    made.nat.chains["repmgr_dnat"] = [rule.replace("10.0.0.11", "10.0.0.12") for rule in made.nat.chains["repmgr_dnat"]]
    made.nodes[2].slots = dict(made.nodes[1].slots)
    return made


def now(host: Host) -> ClusterState:
    """The decision, with what the nodes say now."""
    return replace(STATE, states={state.node: state for state in observe(CLUSTER, host)})


def asked(host: FakeHost) -> list[str]:
    """The programs that were run, and forget them."""
    words = [str(program) for program in host.ran]
    host.ran.clear()
    return words


def test_the_stream_is_seen(host: FakeHost) -> None:
    assert barman.observe(STREAM, now(host), host) == IDLE
    assert [words.split()[:2] for words in asked(host)] == [
        ["barman", "show-server"],
        ["find", "-L"],
        ["python3", "-I"],
        ["pgrep", "-a"],
    ]
    host.barman.streams_from, host.nodes[2].slots["barman"].active = 2, True
    assert barman.observe(STREAM, now(host), host) == Seen(True, False)
    assert [words.split()[0] for words in asked(host)] == ["find", "python3"], "what it has is compared"


def test_a_stream_that_goes_on_is_looked_into_now_and_then(host: FakeHost) -> None:
    assert barman.fingerprint(now(host), host) is None
    host.barman.streams_from, host.nodes[2].slots["barman"].active = 2, True
    before = barman.fingerprint(now(host), host)
    assert before is not None
    assert barman.fingerprint(now(host), host) == before
    host.sleep(barman.COMPARE_EVERY)
    assert barman.fingerprint(now(host), host) != before


FOUND = Problem("branch_conflict", "BRANCH_CONFLICT: ...", "move it")
CONFLICT = Seen(False, False, conflict=FOUND, stop=STOP, fence=Fence("/streaming", "fence.partial"))
THERE = replace(CONFLICT, fence=Fence("/streaming", "fence.partial", frozenset(["fence.partial"])))


def test_another_branch_is_let_in_by_nobody() -> None:
    """Barman's own cron may have begun: first nobody may start another receive-wal, then that one is ended."""
    fence, give, stop = barman.plan(STREAM, STATE, replace(CONFLICT, attached=True))
    assert isinstance(fence.do, Program)
    assert fence.do.argv == ("touch", "/streaming/fence.partial")
    assert isinstance(give.do, Program)
    assert isinstance(stop.do, Program)
    assert stop.do.argv == ("barman", "receive-wal", "--stop", "main_backup")
    assert stop.until == Sql(2, receive_wal.INACTIVE, ("barman",))
    assert [step.what for step in barman.plan(STREAM, STATE, CONFLICT)] == [fence.what, give.what]
    assert [step.what for step in barman.plan(STREAM, STATE, replace(THERE, attached=True))] == [stop.what]
    with pytest.raises(OperationFailed, match="BRANCH_CONFLICT"):
        barman.plan(STREAM, STATE, THERE)


def test_the_fence_goes_when_the_branch_is_one_again() -> None:
    seen = Seen(False, False, stop=STOP, fence=replace(THERE.fence, begin="000000010000000000000005"))
    steps = barman.plan(STREAM, STATE, seen)
    stop, begin, give, away, start = (step.do for step in steps)
    assert isinstance(begin, Program)
    assert begin.argv == ("touch", "/streaming/000000010000000000000005.partial")
    assert isinstance(away, Program)
    assert away.argv == ("rm", "-f", "/streaming/fence.partial")


@pytest.mark.parametrize("config", [STREAM, SWITCH])
def test_a_file_of_another_branch_under_the_right_name_is_none(host: FakeHost, config: Config) -> None:
    host.nodes[2].segment = 6
    host.barman.archived = {"000000010000000000000004", "000000020000000000000005", "00000002.history"}
    host.barman.branch["000000020000000000000005"] = "other bytes"
    try:
        said = barman.observe(config, now(host), host).conflict
    except OperationFailed as error:
        said = Problem.of(error)
    assert said
    assert said.code == "branch_conflict"
    words = "BRANCH_CONFLICT: Barman holds other bytes than the primary in 000000020000000000000005: "
    assert said.message.startswith(words)
    assert "barman rebuild-xlogdb main_backup" in said.hint


def test_a_young_stream_is_waited_for_and_not_stopped(host: FakeHost) -> None:
    host.barman.streams_from, host.nodes[2].slots["barman"].active = 2, True
    host.barman.streams_since = host.now()
    assert barman.observe(STREAM, now(host), host) == COMING
    assert barman.observe(Config(stream=True, min_stream_age=0), now(host), host) == Seen(True, False)
    (wait,) = barman.plan(STREAM, now(host), COMING)
    apply(wait, host)
    assert host.now() == pytest.approx(2, abs=0.2)
    assert host.barman.streams_since == 0, "the same walsender"
    assert barman.observe(STREAM, now(host), host) == Seen(True, False)


def test_a_stream_that_breaks_off_at_once_is_none(host: FakeHost) -> None:
    """Each time it is started anew, and streams for a moment."""

    def break_off() -> None:
        host.after("barman receive-wal", break_off)
        host.at(host.now() + 1, host._end_stream)

    (stop, start) = barman.plan(STREAM, now(host), NOTHING)
    host.after("barman receive-wal", break_off)
    with pytest.raises(OperationFailed, match="until it streams from node 2: not seen within 60 s"):
        apply(start, host)
    assert host.what_changed().count("barman receive-wal") > 5


def test_what_has_not_reached_the_new_timeline_is_no_stream(host: FakeHost) -> None:
    """At the end of the old one a walsender says 'streaming' too."""
    (stop, start) = barman.plan(STREAM, now(host), NOTHING)
    host.nodes[2].behind = 0x100
    with pytest.raises(OperationFailed, match="not seen within 60 s"):
        apply(start, host)


MISSING = Seen(True, False, may_switch=True)


def test_the_disk_is_not_looked_at_before_a_file_of_the_new_timeline_is_closed(host: FakeHost) -> None:
    barman.housekeep(SWITCH, now(host), host)
    asked(host)
    assert not barman.observe(SWITCH, now(host), host).archived
    assert asked(host) == []
    host.nodes[2].segment += 1
    assert not barman.observe(SWITCH, now(host), host).archived
    assert [words.split()[0] for words in asked(host)] == ["find"]


def test_the_archive_is_seen(host: FakeHost) -> None:
    host.barman.streams_from, host.nodes[2].slots["barman"].active = 2, True
    host.nodes[2].segment, host.barman.archived = 6, {"000000010000000000000004"}
    barman.housekeep(SWITCH, now(host), host)
    said = ["barman show-server main_backup"]
    assert asked(host) == said, "later it may try in vain to connect first"

    def not_archived() -> Seen:
        seen = barman.observe(SWITCH, now(host), host)
        home = "/var/lib/barman/main_backup"
        places = f"{home}/streaming {home}/incoming {home}/wals"
        assert str(seen.written) == f"find -L {places} -type f -name 000000020000000000000006"
        return replace(seen, written=None)

    assert not_archived() == MISSING
    host.barman.archived |= {"000000010000000000000005", "000000020000000000000004"}
    assert not_archived() == MISSING
    host.barman.streaming = {"000000020000000000000005", "00000002.history"}
    assert barman.observe(SWITCH, now(host), host) == Seen(True, True)


@pytest.mark.parametrize("lost", ["000000010000000000000003", "000000020000000000000005", "00000002.history"])
def test_a_hole_on_the_way_to_the_last_closed_file(host: FakeHost, lost: str) -> None:
    host.nodes[2].segment = host.nodes[2].segment + 2
    whole = {"000000010000000000000002", "000000010000000000000003", "000000010000000000000004", "00000002.history"}
    whole |= {"000000020000000000000005", "000000020000000000000006"}
    host.barman.archived = whole
    assert barman.observe(SWITCH, now(host), host) == Seen(False, True)
    assert "barman show-backup main_backup latest" not in asked(host), "a whole archive needs no second question"
    host.barman.archived = whole - {lost}
    seen = barman.observe(SWITCH, now(host), host)
    assert seen == Seen(False, True, missing=(lost,))
    with pytest.raises(OperationFailed, match=f"ARCHIVE_GAP: Barman lacks {lost}: ") as error:
        barman.plan(SWITCH, STATE, seen)
    assert (error.value.code, error.value.hint.rpartition(": ")[2]) == ("archive_gap", "barman backup main_backup")
    host.barman.begin_wal = "000000020000000000000006"
    assert barman.observe(SWITCH, now(host), host) == Seen(False, True), "of no matter to the newest backup"


REPAIR = Config(stream=True, repair=True)
FORK = 5 * 0x100_0000


def stream_state(position: StreamPosition, *missing: str) -> Seen:
    newest, marker = "000000010000000000000006", "000000020000000000000005.partial"
    stray = (newest,) if position is StreamPosition.DIVERGED else ()
    state = StreamState(position, newest, FORK, missing, stray, marker, STREAMING_DIRECTORY, 2)
    return Seen(False, False, state, stop=STOP)


@pytest.mark.parametrize(
    ("config", "seen", "repaired"),
    [
        (STREAM, stream_state(StreamPosition.DIVERGED), False),
        (STREAM, stream_state(StreamPosition.SEGMENT_BOUNDARY), False),
        (STREAM, stream_state(StreamPosition.STREAM_GAP, "000000010000000000000002"), False),
        (STREAM, stream_state(StreamPosition.NOT_IN_HISTORY), False),
        (REPAIR, stream_state(StreamPosition.DIVERGED), True),
        (REPAIR, stream_state(StreamPosition.SEGMENT_BOUNDARY), True),
        (REPAIR, stream_state(StreamPosition.DIVERGED, "000000020000000000000005"), False),
        (REPAIR, stream_state(StreamPosition.STREAM_GAP, "000000010000000000000002"), False),
        (REPAIR, stream_state(StreamPosition.NOT_IN_HISTORY), False),
    ],
)
def test_what_cannot_go_on_is_repaired_only_if_we_may_and_nothing_is_lost(
    config: Config, seen: Seen, repaired: bool
) -> None:
    remedy = [str(step.do) for step in wal_continuity.remedy(seen.stream_state, CLUSTER.barman)]
    whole = ["barman receive-wal --stop main_backup", *remedy]
    if repaired:
        steps = barman.plan(config, STATE, seen)
        assert [str(step.do) for step in steps] == [*whole, "barman -q receive-wal main_backup"]
        return
    with pytest.raises(OperationFailed) as error:
        barman.plan(config, STATE, seen)
    said = str(error.value)
    assert said.startswith(f"{seen.stream_state.position.name}: Barman ")
    assert error.value.code == seen.stream_state.position.code
    assert "; ".join([*whole, "barman -q cron"]) in error.value.hint, "what is typed is what we would do, and returns"
    assert error.value.hint.endswith(": barman backup main_backup")
    assert all(name in said for name in seen.stream_state.missing)


def test_a_stream_that_can_go_on_is_not_touched_by_repair() -> None:
    assert barman.plan(REPAIR, STATE, NOTHING) == barman.plan(STREAM, STATE, NOTHING)


MODELS = Config(stream=True, models={1: "main-db1", 2: "main-db2"})


def test_barman_goes_by_its_model(host: FakeHost) -> None:
    host.barman.version, host.barman.model = "3.19.1", "main-db1"
    seen = barman.observe(MODELS, now(host), host)
    assert seen == replace(IDLE, model="main-db1")
    steps = barman.plan(MODELS, now(host), seen)
    assert argvs(steps) == ["-q config-switch main_backup main-db2", START]
    for step in steps:
        apply(step, host)
    assert host.barman.streams_from == 2
    assert barman.plan(MODELS, now(host), barman.observe(MODELS, now(host), host)) == []


def test_a_model_that_is_applied_is_not_applied_again() -> None:
    assert argvs(barman.plan(MODELS, STATE, replace(NOTHING, model="main-db2"))) == RESTART


def test_the_model_is_applied_after_a_repair() -> None:
    """It starts receive-wal at once."""
    steps = barman.plan(replace(MODELS, repair=True), STATE, stream_state(StreamPosition.DIVERGED))
    programs = [str(step.do) for step in steps]
    assert programs.index("barman -q config-switch main_backup main-db2") == len(programs) - 2


@pytest.mark.parametrize("version", ["3.4.0", "3.9.0", "2.19"])
def test_a_barman_that_knows_no_models(host: FakeHost, version: str) -> None:
    host.barman.version = version
    with pytest.raises(OperationFailed, match="'models' needs Barman 3.10 or newer, .* shows no .cluster."):
        barman.observe(MODELS, now(host), host)
    with pytest.raises(OperationFailed, match="'models' needs") as error:
        barman.housekeep(MODELS, now(host), host)
    assert error.value.hint == "update Barman, or lead it through a port of the gateway"


def test_where_the_model_is_noted_is_known_before_it_is_needed(host: FakeHost) -> None:
    """Barman would connect through its model, to a node that may be gone by then."""
    host.barman.version = "3.10.0"
    barman.housekeep(MODELS, now(host), host)
    assert asked(host) == ["barman show-server main_backup"]
    barman.housekeep(MODELS, now(host), host)
    assert asked(host) == []
    barman.housekeep(SWITCH, now(FakeHost()), FakeHost())


SLOT = Slot("barman", True, 4711, 0, "reserved")
SENDER = WalSender(4711, "barman_receive_wal", "10.0.0.20", "streaming", 0)


@pytest.mark.parametrize(
    ("slots", "senders", "expected"),
    [
        ((SLOT,), (SENDER,), Seen(True, False)),
        ((SLOT,), (replace(SENDER, pid=9), SENDER), Seen(True, False)),
        ((SLOT,), (replace(SENDER, age=2.0),), Seen(True, False)),
        ((SLOT,), (replace(SENDER, age=1.9),), COMING),
        ((SLOT,), (replace(SENDER, age=0.0),), COMING),
        ((SLOT,), (replace(SENDER, age=-3600.0),), Seen(True, False)),
        ((SLOT,), (replace(SENDER, age=3600.0, state="catchup"),), COMING),
        ((SLOT,), (replace(SENDER, age=0.1, state="catchup"),), COMING),
        ((SLOT,), (replace(SENDER, state="startup"),), IDLE),
        ((SLOT,), (replace(SENDER, state="stopping"),), IDLE),
        ((replace(SLOT, active_pid=None),), (SENDER,), IDLE),
        ((SLOT,), (replace(SENDER, pid=9),), IDLE),
        ((SLOT,), (), IDLE),
        ((), (SENDER,), IDLE),
        ((replace(SLOT, name="another"),), (SENDER,), IDLE),
    ],
)
def test_barman_streams_if_the_user_of_its_slot_does(
    slots: tuple[Slot, ...], senders: tuple[WalSender, ...], expected: Seen
) -> None:
    state = NodeState(2, in_recovery=False, timeline=2, slots=slots, senders=senders)
    other = NodeState(1, in_recovery=False, slots=(SLOT,), senders=(SENDER,))
    host = FakeHost()
    host.fail_over()
    host.barman.receiver_hangs = False
    seen = barman.observe(STREAM, replace(STATE, states={1: other, 2: state}), host)
    assert seen == expected


def test_a_role_that_may_not_see_walsenders_is_no_missing_stream() -> None:
    hidden = WalSender(4711, "barman_receive_wal", "", "", None)
    state = NodeState(2, in_recovery=False, timeline=2, slots=(SLOT,), senders=(hidden,))
    with pytest.raises(OperationFailed, match="node 2: our role may not see walsenders"):
        barman.observe(STREAM, replace(STATE, states={2: state}), FakeHost())


def test_a_slot_that_somebody_else_uses_is_no_stream_of_barmans() -> None:
    other = replace(SENDER, application="pg_receivewal", client="10.0.0.66")
    state = NodeState(2, in_recovery=False, timeline=2, slots=(SLOT,), senders=(other,))
    with pytest.raises(
        OperationFailed, match="'barman' is in use by 'pg_receivewal' from 10.0.0.66, not by 'barman_rec"
    ):
        barman.observe(STREAM, replace(STATE, states={2: state}), FakeHost())
    named = replace(CLUSTER, barman=Barman("main_backup", streaming_archiver_name="pg_receivewal"))
    assert barman.observe(STREAM, replace(STATE, cluster=named, states={2: state}), FakeHost()).streaming


def test_barman_that_does_not_answer_is_no_missing_file(host: FakeHost) -> None:
    host.barman.health = "ruins"
    with pytest.raises(OperationFailed, match="No space left"):
        barman.observe(SWITCH, now(host), host)


def test_the_steps_lead_there(host: FakeHost) -> None:
    for step in barman.plan(BOTH, STATE, barman.observe(BOTH, now(host), host)):
        apply(step, host)
    assert host.barman.streams_from == 2
    assert barman.plan(BOTH, STATE, barman.observe(BOTH, now(host), host)) == []


def test_a_role_that_may_has_the_file_closed_by_sql_without_a_checkpoint(host: FakeHost) -> None:
    (switch,) = barman.plan(SWITCH, now(host), barman.observe(SWITCH, now(host), host))
    assert switch.do == Sql(2, receive_wal.SWITCH)
    host.nodes[2].may_switch = False
    (switch,) = barman.plan(SWITCH, now(host), barman.observe(SWITCH, now(host), host))
    assert str(switch.do) == f"barman {PROVE[0]}"


@pytest.mark.parametrize(("may_switch", "said"), [(False, "not what was asked for"), (True, "recovery is in progress")])
def test_switch_wal_on_a_standby_has_failed(host: FakeHost, may_switch: bool, said: str) -> None:
    """Barman answers 0 then."""
    host.nodes[2].in_recovery = True
    (step,) = barman.plan(SWITCH, STATE, replace(NOTHING, may_switch=may_switch))
    with pytest.raises(OperationFailed, match=said):
        apply(step, host)


@pytest.mark.parametrize(
    ("config", "there", "said"),
    [
        (STREAM, True, []),
        (SWITCH, True, []),
        (Config(switch_wal=SwitchWal(), repair=True), True, ["'repair' needs 'stream: true'"]),
        (
            Config(stream=True, min_stream_age=60),
            True,
            ["'min_stream_age' (60 s) must be less than 'start_timeout' (60 s)"],
        ),
        (MODELS, True, []),
        (Config(switch_wal=SwitchWal(), models=MODELS.models), True, ["'models' needs 'stream: true'"]),
        (replace(MODELS, models={1: "main-db1"}), True, ["'models' has none for node 2"]),
        (
            replace(MODELS, models={1: "a", 2: "a"}),
            True,
            ["'models' has the same model for two nodes, but a model leads to one"],
        ),
        (replace(MODELS, models={1: "a", 2: "b", 3: "c"}), True, ["'models' has one for 3, which can be no primary"]),
        (Config(), True, ["asks for nothing"]),
        (STREAM, False, ["needs the section 'barman' of the cluster"]),
    ],
)
def test_problems(config: Config, there: bool, said: list[str]) -> None:
    cluster = CLUSTER if there else Cluster(CLUSTER.nodes, CLUSTER.gateway)
    assert list(map(str, barman.validate(config, cluster))) == said
