"""Whether a failover could happen: each thing that keeps repmgr from promoting a standby, and no false alarm."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster import readiness
from repmgr_hooks.cluster.election import election
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.cluster.obstacles import MAY_WIN, WINS, Hindrance, Obstacle
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.cluster.readiness import NO_FILES, Files, Readiness, ReadinessProbe
from repmgr_hooks.cluster.repmgr_files import Identity, node_of
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.repmgr_conf import RepmgrConf, examine
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, FakeNode, FakeSlot

NODES = {1: Node("10.0.0.11"), 2: Node("10.0.0.12"), 3: Node("10.0.0.13")}
THREE = Cluster(nodes=NODES, gateway=Gateway("10.0.0.20", {"app": 54322}), name="main")


def three() -> FakeHost:
    host = FakeHost()
    host.nodes[3] = FakeNode("10.0.0.13")
    return host


def found(host: FakeHost, since: float = 0.0, files: Files = NO_FILES) -> Readiness:
    decision = PrimaryFinder(THREE, LastKnownPrimary()).decision(host)
    standbys = [state for state in decision.states if state.role == "standby"]
    asked = readiness.ask([1, 2, 3], THREE, host)
    settled = not 0 <= time.time() - since < readiness.SETTLED
    return readiness.judge(decision, standbys, asked, files, THREE.repmgrd_timeout, settled)


def codes(seen: Readiness) -> set[tuple[Hindrance, tuple[int, ...], bool]]:
    return {(item.code, item.nodes, item.nobody) for item in seen.obstacles}


def of(*numbers: int, **changes: object) -> Callable[[FakeHost], object]:
    return lambda host: [setattr(host.nodes[n], name, value) for n in numbers for name, value in changes.items()]


@pytest.mark.parametrize(
    ("change", "candidates", "expected"),
    [
        (of(), (2, 3), set()),
        (of(2, unseen_for=11, repmgrd_known=False), (3,), {(Hindrance.SILENT, (2,), False)}),
        (of(2, unseen_for=11), (), {(Hindrance.SILENT, (2,), True)}),
        (of(3, unseen_for=11), (2,), {(Hindrance.SILENT, (3,), False)}),
        (of(2, unseen_for=9), (2, 3), set()),
        (of(2, paused=True), (), {(Hindrance.PAUSED, (2,), True)}),
        (of(3, paused=True), (2,), {(Hindrance.PAUSED, (3,), False)}),
        (of(2, 3, unseen_for=24), (), {(Hindrance.SILENT, (2, 3), True)}),
        (of(2, 3, unseen_for=-1), (), {(Hindrance.SILENT, (2, 3), True)}),
        (of(2, unseen_for=-1, up_for=3.0), (2, 3), set()),
        (of(2, unseen_for=None, repmgrd_known=False), (3,), {(Hindrance.SILENT, (2,), False)}),
        (of(1, 2, 3, paused=True), (), {(Hindrance.PAUSED, (2, 3), True)}),
        (lambda host: [of(1, 2, 3, paused=True)(host), of(1, checkpoint=True)(host)], (2, 3), set()),
        (of(1, unelectable=(2,)), (3,), set()),
        (of(1, unelectable=(2, 3)), (), {(Hindrance.PRIORITY, (2, 3), True)}),
        (of(1, inactive=(2, 3)), (), {(Hindrance.INACTIVE, (2, 3), True)}),
        (of(1, 2, 3, unseen_for=24, up_for=4.0), (2, 3), set()),
        (
            lambda host: [of(1, unelectable=(2,))(host), of(3, unseen_for=24)(host)],
            (),
            {(Hindrance.PRIORITY, (2,), True), (Hindrance.SILENT, (3,), True)},
        ),
    ],
)
def test_what_repmgrd_says(
    change: Callable[[FakeHost], object],
    candidates: tuple[int, ...],
    expected: set[tuple[Hindrance, tuple[int, ...], bool]],
) -> None:
    host = three()
    change(host)
    seen = found(host)
    assert (seen.candidates, codes(seen)) == (candidates, expected)


@pytest.mark.parametrize(("in_recovery", "nodes"), [(False, {(2,)}), (True, set())])
def test_a_primary_of_another_system_would_be_followed(in_recovery: bool, nodes: set[tuple[int, ...]]) -> None:
    host = three()
    of(3, system_identifier="4711", in_recovery=in_recovery)(host)
    decision = PrimaryFinder(THREE, LastKnownPrimary(1, 1, host.nodes[1].system_identifier)).decision(host)
    asked = readiness.ask([2], THREE, host)
    standbys = [state for state in decision.states if state.reachable and state.role == "standby"]
    seen = readiness.judge(decision, standbys, asked, NO_FILES, 10, True)
    assert {item.nodes for item in seen.obstacles if item.code is Hindrance.OTHER_PRIMARY and item.nobody} == nodes
    assert all("node 3 is out of recovery too" in str(item) for item in seen.obstacles)


@pytest.mark.parametrize("ago", [0.0, 14.0])
def test_repmgrd_has_time_to_find_a_new_primary(ago: float) -> None:
    host = three()
    of(2, 3, unseen_for=24, paused=True)(host)
    assert found(host, time.time() - ago).obstacles == ()
    assert found(host, time.time() - ago - 60).obstacles
    assert found(host, time.time() + 3600).obstacles, "the clock was set back"


@pytest.mark.parametrize("code", [Hindrance.MANUAL, Hindrance.NO_COMMAND])
def test_a_standby_for_reports_is_no_fault(code: Hindrance) -> None:
    """With priority 0, or without a repmgrd."""
    for change in (of(1, unelectable=(3,)), of(3, repmgrd_known=False)):
        host = three()
        change(host)
        seen = found(host, files=Files({}, {3: (code, "")}))
        assert (seen.candidates, seen.obstacles) == ((2,), ())
    seen = found(three(), files=Files({2: Path("/etc/repmgr/db2.conf")}, {2: (code, ""), 3: (code, "")}))
    assert codes(seen) == {(code, (2, 3), True)}
    assert "/etc/repmgr/db2.conf" in seen.obstacles[0].hint


@pytest.mark.parametrize(
    ("idle", "priorities", "nobody"),
    [
        (2, {}, True),
        (3, {}, False),
        (3, {3: 101}, True),
        (2, {3: 101}, False),
        (2, {2: 50}, False),
    ],
)
def test_a_standby_that_would_win_and_promotes_nothing(idle: int, priorities: dict[int, int], nobody: bool) -> None:
    """Of equal WAL the highest priority wins, then the lowest id; the others wait for it in vain."""
    host = three()
    host.nodes[1].priorities = priorities
    seen = found(host, files=Files({}, {idle: (Hindrance.MANUAL, "")}))
    assert codes(seen) == {(Hindrance.MANUAL, (idle,), nobody)}
    assert seen.candidates == (() if nobody else (5 - idle,))
    assert ("it would win the election" in str(seen.obstacles[0])) == nobody
    assert "standby register --force" in seen.obstacles[0].hint


def election_of(host: FakeHost, cluster: Cluster = THREE) -> Readiness | None:
    return ReadinessProbe().look(PrimaryFinder(cluster, LastKnownPrimary()).decision(host), cluster, host)


FOUR = replace(THREE, nodes={**NODES, 4: Node("10.0.0.14")})
WITNESSED = replace(THREE, nodes={**NODES, 3: Node("10.0.0.13", witness=True)})


@pytest.mark.parametrize(
    ("cluster", "change", "expected"),
    [
        (THREE, of(3, reachable=False), {(Hindrance.MAJORITY, (2,), True)}),
        (THREE, lambda host: [of(3, reachable=False)(host), of(1, inactive=(3,))(host)], set()),
        (THREE, lambda host: [of(3, reachable=False)(host), of(1, cascades={3: 2})(host)], set()),
        (FOUR, of(3, reachable=False), set()),
        (FOUR, of(3, 4, reachable=False), {(Hindrance.MAJORITY, (2,), True)}),
        (WITNESSED, of(3, reachable=False), {(Hindrance.MAJORITY, (2,), True)}),
        (THREE, of(1, locations={2: "dc2", 3: "dc2"}), {(Hindrance.LOCATION, (2, 3), True)}),
        (THREE, of(1, locations={1: "dc1"}), {(Hindrance.LOCATION, (2, 3), True)}),
        (THREE, of(1, locations={3: "dc2"}), set()),
        (WITNESSED, of(1, locations={2: "dc2"}), set()),
        (THREE, of(1, cascades={3: 2}), set()),
        (THREE, of(1, cascades={2: 3, 3: 2}), {(Hindrance.CASCADED, (2, 3), True)}),
        (THREE, of(1, cascades={2: None, 3: None}), set()),
    ],
)
def test_repmgrs_own_election(
    cluster: Cluster, change: Callable[[FakeHost], object], expected: set[tuple[Hindrance, tuple[int, ...], bool]]
) -> None:
    host = three()
    host.nodes[4] = FakeNode("10.0.0.14")
    if 4 not in cluster.nodes:
        del host.nodes[4]
    change(host)
    seen = election_of(host, cluster)
    assert seen is not None and codes(seen) == expected
    assert bool(seen.candidates) == (not expected)


def test_whom_we_do_not_reach_the_others_may() -> None:
    """It streams through its slot, or has an answer for us: the majority is there."""
    host = three()
    host.nodes[1].slots["repmgr_slot_3"] = FakeSlot(active=True)
    of(3, reachable=False)(host)
    seen = election_of(host)
    assert seen is not None and (seen.candidates, seen.obstacles) == ((2,), ())


@pytest.mark.parametrize(
    ("idle", "streaming", "vote"), [(2, (3,), ""), (3, (3,), WINS), (3, (2,), ""), (2, (), WINS), (3, (2, 3), MAY_WIN)]
)
def test_who_receives_wal_wins_over_one_that_does_not(idle: int, streaming: tuple[int, ...], vote: str) -> None:
    host = three()
    for node in (2, 3):
        host.nodes[node].upstream = 1 if node in streaming else None
    voting = election(PrimaryFinder(THREE, LastKnownPrimary()).decision(host))
    assert voting is not None and voting.votes_for(idle, [5 - idle]) == vote


@pytest.mark.parametrize("active", [True, False])
def test_repmgr_promotes_nobody_beside_one_that_it_holds_for_active(active: bool) -> None:
    host = three()
    of(3, in_recovery=False, timeline=2, registered=(1,))(host)
    of(1, inactive=() if active else (3,))(host)
    decision = PrimaryFinder(THREE, LastKnownPrimary(1, 1, host.nodes[1].system_identifier)).decision(host)
    seen = ReadinessProbe().look(decision, THREE, host)
    assert decision.primary == 1 and seen is not None
    assert (Hindrance.OTHER_PRIMARY in {code for code, _, _ in codes(seen)}) == active


def test_a_cascaded_standby_is_not_promoted_and_no_fault() -> None:
    host = three()
    host.nodes[1].cascades = {3: 2}
    seen = election_of(host)
    assert seen is not None and (seen.candidates, seen.obstacles) == ((2,), ())


def test_a_node_that_cannot_be_asked_still_answers() -> None:
    """repmgr 4.2 has no such functions: that is said to be unknown, and the node is no silent one."""
    host = three()
    answer = host._answer

    def without_functions(sql: object) -> object:
        refused = OperationFailed("node 2: function repmgr.repmgrd_is_paused() does not exist")
        return refused if getattr(sql, "statement", "") == readiness.ASK else answer(sql)  # type: ignore[arg-type]

    host._answer = without_functions  # type: ignore[assignment,method-assign]
    assert all(state.reachable for state in observe(THREE, host))
    seen = found(host)
    assert (seen.candidates, seen.obstacles, set(seen.unknown)) == ((), (), {2, 3})
    assert str(seen).startswith("UNKNOWN; node 2 cannot be asked: function repmgr.repmgrd_is_paused()")


def test_without_a_primary_or_a_standby_there_is_nothing_to_say() -> None:
    host = three()
    finder = PrimaryFinder(THREE, LastKnownPrimary())
    assert ReadinessProbe().look(finder.decision(host), THREE, host) is not None
    host.lose(1)
    assert ReadinessProbe().look(finder.decision(host), THREE, host) is None


CONF = RepmgrConf(Path("x.conf"), {"node_id": "1", "node_name": "db1", "conninfo": "host=192.168.56.11"})
OTHERS = {1: Identity("db1", "10.9.9.9")}


@pytest.mark.parametrize(
    ("conf", "known", "node"),
    [
        (CONF, {1: Identity("db1", "192.168.56.11")}, 1),  # a replication network
        (CONF, {}, None),
        (CONF, OTHERS, None),  # another cluster's node 1, of the same name
        (CONF, {1: Identity("pg1", "192.168.56.11")}, None),
        (replace(CONF, settings={**CONF.settings, "conninfo": "host=10.0.0.11"}), {}, 1),
        (replace(CONF, settings={**CONF.settings, "conninfo": "host=db1.example.com"}), {}, 1),
        (replace(CONF, settings={**CONF.settings, "conninfo": "host=db1.a"}), {1: Identity("db1", "db1.b")}, None),
        (replace(CONF, settings={"node_name": "db1"}, wrong="node_id"), {1: Identity("db1", "10.0.0.11")}, 1),
        (replace(CONF, settings={**CONF.settings, "node_id": "7"}), {}, None),
    ],
)
def test_which_node_a_file_is_about(conf: RepmgrConf, known: dict[int, Identity], node: int | None) -> None:
    assert node_of(conf, NODES, known) == node


GOOD = (Path(__file__).resolve().parents[3] / "config/repmgr-db1.conf").read_text()


def asked_repmgr(host: FakeHost, said: str) -> None:
    def answer(program: Program) -> str:
        raise OperationFailed(f"{program}: exit code 1: {said}")

    host.programs["repmgr"] = answer


@pytest.mark.parametrize(
    ("text", "against"),
    [
        (GOOD, None),
        (GOOD.replace("failover=automatic", ""), Hindrance.MANUAL),
        (GOOD.replace("failover=automatic", "failover=manual"), Hindrance.MANUAL),
        (GOOD.replace("promote_command", "# promote_command"), Hindrance.NO_COMMAND),
        (GOOD + "event_notifications=a,b\n", Hindrance.REFUSED),
    ],
)
def test_what_a_file_says(tmp_path: Path, text: str, against: Hindrance | None) -> None:
    path = tmp_path / "db1.conf"
    path.write_text(text)
    files = readiness.read_files(map(examine, [path]), THREE, {}, FakeHost())
    assert (files.places, {n: kind for n, (kind, _) in files.against.items()}) == (
        {1: path},
        {1: against} if against else {},
    )
    other = tmp_path / "old.conf"
    other.write_text(GOOD)
    assert readiness.read_files(map(examine, [path, other]), THREE, {}, FakeHost()).against == {}, (
        "it is not known which counts"
    )


@pytest.mark.parametrize(("here", "there"), [("10.0.0.11", "10.9.0.11"), ("db1.a.example", "db1.b.example")])
def test_two_clusters_with_equal_node_ids_and_names(tmp_path: Path, here: str, there: str) -> None:
    """What repmgr itself has for each tells which file is whose."""
    ours, theirs = tmp_path / "a.conf", tmp_path / "b.conf"
    ours.write_text(GOOD.replace("10.0.0.11", here))
    theirs.write_text(GOOD.replace("10.0.0.11", there).replace("failover=automatic", "failover=manual"))

    def read(address: str) -> Files:
        cluster, known = replace(THREE, nodes={**NODES, 1: Node(address)}), {1: Identity("db1", address)}
        return readiness.read_files(map(examine, [ours, theirs]), cluster, known, FakeHost())

    assert read(here) == Files({1: ours}, {})
    assert read(there) == Files({1: theirs}, {1: (Hindrance.MANUAL, "")})


def test_repmgrs_own_words_without_a_password(tmp_path: Path) -> None:
    path = tmp_path / "db1.conf"
    path.write_text(GOOD)
    host = FakeHost()
    said = 'ERROR: following errors were found in the configuration file:\n  "conninfo": bad (provided: "password=x y")'
    host.repmgr = ""
    asked_repmgr(host, said)
    run = host.run
    host.run = lambda program, limit: (  # type: ignore[method-assign]
        host.programs["repmgr"](program) if program.argv[0] == "repmgr" else run(program, limit)
    )
    ((kind, words),) = readiness.read_files(map(examine, [path]), THREE, {}, host).against.values()
    assert (kind, words) == (Hindrance.REFUSED, '"conninfo": bad')
    asked_repmgr(host, "repmgr: cannot be run as root")
    assert readiness.read_files(map(examine, [path]), THREE, {}, host).against == {}


def test_each_obstacle_has_its_words_and_its_way_out() -> None:
    for kind in Hindrance:
        obstacle = Obstacle(kind, (2, 3), nobody=True, detail="syntax error")
        assert "node 2 and node 3" in str(obstacle)
        assert str(obstacle).startswith("no standby would be promoted: ")
        assert obstacle.hint


def test_a_node_that_is_alone_by_design_lacks_no_standby() -> None:
    host, alone = three(), replace(THREE, nodes={1: NODES[1]})
    for number in (2, 3):
        host.lose(number)
    seen = [
        ReadinessProbe().look(PrimaryFinder(cluster, LastKnownPrimary()).decision(host), cluster, host)
        for cluster in (alone, THREE)
    ]
    assert seen == [None, readiness.NO_STANDBY]
