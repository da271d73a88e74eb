"""What several gateways see of each other, and what follows from it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.alerts.rules import of_gateways
from repmgr_hooks.cluster import gateways
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.cluster.primary import PrimaryFinder
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event
from repmgr_hooks.journal.heartbeat import Progress, is_away
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import Publisher
from repmgr_hooks.netfilter.address import had_for
from repmgr_hooks.service.absence import Absence
from repmgr_hooks.service.controller import ClusterController
from repmgr_hooks.service.foreground import run_now
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.system.alert import Alert
from tests.fake import FakeHost, FakeNode
from tests.unit.engine.test_gateways import gateway, page
from tests.unit.engine.test_gateways import gateways as with_gateways

CONFIG = Path(__file__).resolve().parents[3] / "config/config.yaml"
MAIN = with_gateways(config.load(CONFIG).clusters["main"])
WEEK = 7 * 86400.0
FIRST, SECOND = MAIN.cluster.gateway.hosts
ACTIVE, STANDBY = "repmgr_hooks {} active", "repmgr_hooks {} standby"
PROMOTED = Event(2, "standby_promote")


@pytest.fixture
def journal() -> Iterator[Journal]:
    made = Journal(Path(":memory:"))
    yield made
    made.close()


def host_of(own: str, has_address: bool, *others: tuple[str, float]) -> FakeHost:
    host = FakeHost()
    host.addresses = {own, *([host.gateway] if has_address else [])}
    host.other_gateways = list(others)
    return host


def said(host: FakeHost) -> list[str]:
    seen = gateways.look(MAIN.cluster, 1, host)
    return [problem.code for problem in gateways.problems(MAIN.cluster, seen)]


@pytest.mark.parametrize(
    ("has_address", "others", "expected"),
    [
        (True, [(STANDBY, 1.0)], []),
        (False, [(ACTIVE, 1.0)], []),
        (True, [(ACTIVE, 1.0)], ["address_twice"]),
        (False, [(STANDBY, 1.0)], ["address_nowhere"]),
        (True, [(STANDBY, 31.0)], ["gateway_silent"]),
        (True, [], ["gateway_silent"]),
        (False, [], ["address_nowhere", "gateway_silent"]),
        (True, [("repmgr_hooks gateway", 1.0), ("repmgr_hooks x y z", 1.0)], ["gateway_silent"]),
    ],
)
def test_what_is_wrong(has_address: bool, others: Sequence[tuple[str, float]], expected: list[str]) -> None:
    host = host_of(FIRST, has_address, *((name.format(SECOND), age) for name, age in others))
    assert said(host) == expected


def test_a_host_that_is_none_of_them() -> None:
    assert said(host_of("10.0.0.99", False, (ACTIVE.format(FIRST), 1), (STANDBY.format(SECOND), 1))) == [
        "gateway_unnamed"
    ]


def test_one_gateway_asks_nobody() -> None:
    host = FakeHost()
    alone = replace(MAIN.cluster, gateway=replace(MAIN.cluster.gateway, hosts=()))
    assert gateways.look(alone, 1, host, announce=True) == ()
    assert host.announced == {}


@pytest.mark.parametrize(("own", "acts"), [(FIRST, True), (SECOND, False)])
def test_of_two_that_have_the_address_the_first_works(own: str, acts: bool) -> None:
    """Each leads its ports, for clients come to both."""
    other = SECOND if own == FIRST else FIRST
    host = gateway(True)
    host.addresses = {own, host.gateway}
    host.other_gateways = [(ACTIVE.format(other), 2.0)]
    host.programs["/bin/page"] = lambda program: ""
    route = replace(MAIN.routes[0], do=(*MAIN.routes[0].do, page("/bin/page")))
    host.fail_over()
    handle(replace(MAIN, routes=(route,)), host, [PROMOTED])
    assert host.leads_to(host.app_port) == "10.0.0.12:5432"
    assert host.connections == []
    assert ("create slot on 2" in host.what_changed()) is acts
    assert ("run /bin/page" in host.what_changed()) is acts


def test_what_the_other_said_before_it_died_is_no_reason_to_stand_back() -> None:
    host = host_of(SECOND, True, (ACTIVE.format(FIRST), 4.0))
    host.address_came = host.now() - 3.0
    assert not gateways.stands_back(MAIN.cluster, 1, host)
    host.address_came = host.now() - 6.0
    assert gateways.stands_back(MAIN.cluster, 1, host), "it has said so since"
    host.other_gateways = [(STANDBY.format(FIRST), 1.0)]
    assert not gateways.stands_back(MAIN.cluster, 1, host)


def test_for_how_long_this_host_has_had_an_address() -> None:
    """Of the kernel of the tests: 127.0.0.1 is as old as its network."""
    age = had_for("127.0.0.1")
    assert age is None or 0 <= age <= clock.monotonic() + 1
    assert had_for("203.0.113.77") is None
    assert had_for("2001:db8::77") is None


def test_an_alert_for_each() -> None:
    def alerts(host: FakeHost) -> list[Alert]:
        seen = gateways.look(MAIN.cluster, 1, host)
        return list(of_gateways(MAIN.cluster, list(gateways.problems(MAIN.cluster, seen))))

    (twice,) = alerts(host_of(FIRST, True, (ACTIVE.format(SECOND), 1)))
    assert (twice.condition, twice.severity) == ("gateways", "critical")
    assert twice.summary == "10.0.0.20 is on 10.0.0.21 and 10.0.0.22 at once"
    (silent,) = alerts(host_of(FIRST, True))
    assert (silent.severity, silent.summary) == ("warning", "the gateway 10.0.0.22 does not watch the cluster")
    assert alerts(host_of(FIRST, True, (STANDBY.format(SECOND), 1))) == []


# -- a gateway that was away -------------------------------------------------------------------------------------------


def finder(host: FakeHost, away: bool = True) -> PrimaryFinder:
    return PrimaryFinder(MAIN.cluster, LastKnownPrimary(1, 1, host.nodes[1].system_identifier, away=away))


def test_memory_alone_makes_nobody_the_primary() -> None:
    """Node 2 was promoted a week ago, and is silent now; node 1 has come back and claims to be the primary."""
    host = host_of(FIRST, True)
    host.nodes[2].reachable = False
    assert finder(host, away=False).decision(host).primary == 1
    found = finder(host).decision(host)
    assert found.primary is None
    assert "node 2 does not answer" in str(found)
    assert "repmgr-hooks reconcile" in found.hint
    host.nodes[2].reachable = True
    assert finder(host).decision(host).primary == 1, "all nodes speak for it"


@pytest.mark.parametrize("state", [ACTIVE, STANDBY])
def test_another_gateway_that_watches_it_speaks_for_it(state: str) -> None:
    host = host_of(FIRST, True, (state.format(SECOND), 2.0))
    host.nodes[2].reachable = False
    assert finder(host).decision(host).primary == 1
    host.other_gateways = [(state.format(SECOND), 3600.0)]
    assert finder(host).decision(host).primary is None
    host.other_gateways = [(state.format(FIRST), 2.0)]
    assert finder(host).decision(host).primary is None, "that is this gateway itself"


def test_more_than_half_of_the_nodes_speak_for_it() -> None:
    three = replace(MAIN.cluster, nodes={**MAIN.cluster.nodes, 3: Node("10.0.0.13")})
    host = host_of(FIRST, True)
    host.nodes[3] = FakeNode("10.0.0.13", upstream=1)
    host.nodes[2].reachable = False
    known = LastKnownPrimary(1, 1, host.nodes[1].system_identifier, away=True)
    assert PrimaryFinder(three, known).decision(host).primary == 1
    host.nodes[3].upstream = None
    assert PrimaryFinder(three, known).decision(host).primary is None


def test_a_gateway_is_away_until_the_primary_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host = host_of(FIRST, True)
    there = replace(MAIN.cluster, state_dir=str(tmp_path))
    first = Absence(there, host, Progress())
    assert first.considered(LastKnownPrimary()).away, "it has never known one"
    first.saw(finder(host).decision(host))
    assert not first.considered(LastKnownPrimary()).away
    assert not is_away(there), "it was restarted"
    now, host.nodes[2].reachable = time.time(), False
    for seconds, away in ((200, False), (400, True), (-400, True), (7 * 86400, True)):
        monkeypatch.setattr(clock, "wall", lambda at=now + seconds: at)
        assert is_away(there) is away
        if away:
            again = Absence(there, host, Progress())
            again.saw(PrimaryFinder(there, again.considered(LastKnownPrimary(1, 1))).decision(host))
            assert is_away(there), "it has not learnt who the primary is"
    assert not is_away(replace(there, gateway=replace(there.gateway, hosts=())))


def test_reconcile_by_hand_believes_the_memory(tmp_path: Path, journal: Journal) -> None:
    host = host_of(FIRST, True)
    host.nodes[2].reachable = False
    managed = replace(MAIN, cluster=replace(MAIN.cluster, state_dir=str(tmp_path)))
    assert not run_now(managed, host, [], "boot", journal).ok
    assert run_now(managed, host, [], "reconcile", journal).decision.primary == 1  # type: ignore[union-attr]
    assert run_now(managed, host, [], "boot", journal).decision.primary == 1  # type: ignore[union-attr]


# -- one that stood still ----------------------------------------------------------------------------------------------


def put_on(patch: pytest.MonkeyPatch, name: str, seconds: float) -> None:
    """One of this machine's clocks has gone on."""
    at = getattr(clock, name)() + seconds
    patch.setattr(clock, name, lambda: at)


def of_ours(name: str) -> Callable[[pytest.MonkeyPatch, FakeHost], None]:
    return lambda patch, host: put_on(patch, name, WEEK)


def of_the_node(patch: pytest.MonkeyPatch, host: FakeHost) -> None:
    """No clock here has gone on."""
    host.stood_still_for = WEEK


def of_wall_and_node(patch: pytest.MonkeyPatch, host: FakeHost) -> None:
    """NTP has set the clock on the wall before we look; the node that could tell is asked, too."""
    put_on(patch, "wall", WEEK)
    host.stood_still_for = WEEK


CLOCKS = [of_ours("monotonic"), of_wall_and_node, of_ours("since_boot")]


@pytest.mark.parametrize("clock_of", [*CLOCKS, of_the_node])
def test_a_gateway_that_stood_still_for_a_week_was_away(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, clock_of: Callable[..., None]
) -> None:
    """Nothing was started anew; node 2 was promoted meanwhile, and is silent; node 1 has come back."""
    host, queue = in_service(tmp_path, journal)
    clock_of(monkeypatch, host)
    host.nodes[2].reachable = False
    look_on(queue, host)
    assert (host.leads_to(host.app_port), host.leads_to(host.barman_port)) == (None, None)
    host.other_gateways = [(STANDBY.format(SECOND), 2.0)]
    look_on(queue, host)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432", "the other gateway speaks for node 1"


class Unreadable(Journal):
    """Whose disk has gone."""

    def last_known(self, cluster: str, within: float = 0.0) -> LastKnownPrimary:
        raise OperationFailed("the journal cannot be used: disk I/O error")


@pytest.mark.parametrize("clock_of", [*CLOCKS, of_the_node])
def test_one_that_stood_still_was_away_also_if_its_journal_is_broken(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, clock_of: Callable[..., None]
) -> None:
    """As when the storage of a virtual machine was away with it."""
    host, queue = in_service(tmp_path, journal)
    monkeypatch.setattr(journal, "__class__", Unreadable)
    clock_of(monkeypatch, host)
    host.nodes[2].reachable = False
    look_on(queue, host)
    assert (host.leads_to(host.app_port), host.leads_to(host.barman_port)) == (None, None)


@pytest.mark.parametrize("clock_of", CLOCKS)
def test_one_that_stood_still_in_a_pause_has_not_learnt_who_the_primary_is(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, clock_of: Callable[..., None]
) -> None:
    """A look in a pause shows others what is seen, and a restart ends what the service knows of its own."""
    host, queue = in_service(tmp_path, journal, Publisher(tmp_path, MAIN.cluster.name))
    journal.pause(MAIN.cluster.name, None, "a change")
    look_on(queue, host, 1)
    clock_of(monkeypatch, host)
    host.nodes[2].reachable = False
    look_on(queue, host)
    assert is_away(queue._managed.cluster)  # noqa: SLF001


@pytest.mark.parametrize("by", [WEEK, 400.0, -WEEK])
def test_a_clock_that_is_set_is_no_absence(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, by: float
) -> None:
    """It closed the ports of a cluster that had lost a standby: the primary's clock shows that nobody stood still."""
    host, queue = in_service(tmp_path, journal)
    look_on(queue, host, 2)
    host.nodes[2].reachable = False
    put_on(monkeypatch, "wall", by)
    look_on(queue, host, 5)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def test_without_the_primarys_word_a_clock_that_jumps_is_an_absence(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node that could tell is silent; another one is a primary now, and may be one of long ago."""
    host, queue = in_service(tmp_path, journal)
    look_on(queue, host, 2)
    host.promote(2)
    host.nodes[1].reachable = False
    put_on(monkeypatch, "wall", WEEK)
    look_on(queue, host, 5)
    assert host.leads_to(host.app_port) is None


def test_reconcile_by_hand_ends_the_doubt_of_the_service(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, queue = in_service(tmp_path, journal)
    put_on(monkeypatch, "since_boot", WEEK)
    host.nodes[2].reachable = False
    look_on(queue, host)
    assert host.leads_to(host.app_port) is None
    assert run_now(queue._managed, host, [], "reconcile", journal).decision.primary == 1  # type: ignore[union-attr] # noqa: SLF001
    look_on(queue, host)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def test_all_nodes_speak_for_the_primary_of_one_that_stood_still(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, queue = in_service(tmp_path, journal)
    before = host.what_changed()
    put_on(monkeypatch, "wall", WEEK)
    host.stood_still_for = WEEK
    look_on(queue, host)
    assert host.what_changed() == before
    assert not is_away(queue._managed.cluster)  # noqa: SLF001


def test_one_that_stood_still_for_a_minute_or_waited_long_was_not_away(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may take long, and a primary may be gone for hours: the gateway was there."""
    host, queue = in_service(tmp_path, journal)
    host.nodes[2].reachable = False
    host.stood_still_for = 60.0
    put_on(monkeypatch, "wall", 60.0)
    look_on(queue, host)
    with queue.progress.waiting("a step", 3600.0):
        put_on(monkeypatch, "monotonic", 3000.0)
    host.nodes[1].reachable = False
    look_on(queue, host, 30)
    host.nodes[1].reachable = True
    look_on(queue, host)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"


def in_service(
    tmp_path: Path, journal: Journal, publisher: Publisher | None = None
) -> tuple[FakeHost, ClusterController]:
    """The first of two gateways, whose address has come to it; the other is dead."""
    host, loaded = gateway(True), config.load(CONFIG)
    managed = replace(MAIN, cluster=replace(MAIN.cluster, state_dir=str(tmp_path)))
    loaded = replace(loaded, service=replace(loaded.service, state_dir=str(tmp_path)))
    queue = ClusterController(managed, journal, host, loaded, publisher=publisher)
    look_on(queue, host)
    assert host.leads_to(host.app_port) == "10.0.0.11:5432"
    return host, queue


def look_on(queue: ClusterController, host: FakeHost, times: int = 4) -> None:
    for _ in range(times):
        queue.work()
        host.sleep(5.0)


@pytest.mark.parametrize("word", [gateways.HAS, gateways.WATCHES])
def test_the_name_of_a_session_is_not_cut(word: str) -> None:
    """PostgreSQL cuts it at 63 bytes; with a longer one nobody was seen to have an IPv6 address of 36 characters."""
    assert len(gateways.NAME.format("2001:0db8:1234:5678:021a:2bff:fe3c:4d5e", word)) <= 63
