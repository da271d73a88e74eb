"""Two gateways of one cluster: which of them does what, and what their rules say whoever has the address."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.engine.drift import find_drift
from repmgr_hooks.engine.routes import ManagedCluster, Route
from repmgr_hooks.event import Event
from repmgr_hooks.handlers import firewall
from repmgr_hooks.netfilter import nftables
from repmgr_hooks.netfilter.backends import BACKENDS
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.system.apply import apply
from tests.fake import Connection, FakeHost
from tests.unit.engine.test_dispatcher import page

LOADED = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
HOSTS = ("10.0.0.21", "10.0.0.22")
PROMOTED = Event(2, "standby_promote")
NODE_1, NODE_2 = "10.0.0.11:5432", "10.0.0.12:5432"


def gateways(managed: ManagedCluster = LOADED, backend: str = "iptables") -> ManagedCluster:
    """The shipped cluster with two gateways."""
    gateway = replace(managed.cluster.gateway, hosts=HOSTS, backend=backend)
    return replace(managed, cluster=replace(managed.cluster, gateway=gateway))


MAIN = gateways()


def gateway(has_address: bool) -> FakeHost:
    """One of the two, in service; a client is connected through it."""
    host = FakeHost()
    host.addresses = {HOSTS[0], *([host.gateway] if has_address else [])}
    for port in ("barman", "app"):
        state = ClusterState(MAIN.cluster, 1, 1)
        for step in firewall.plan(firewall.Config(port), state, firewall.observe(firewall.Config(port), state, host)):
            apply(step, host)
    host.changes.clear()
    host.connections = [Connection(Flow("10.0.0.30", 40000, host.gateway, host.app_port), "10.0.0.11")]
    return host


def ports(host: FakeHost) -> tuple[str | None, str | None]:
    return host.leads_to(host.barman_port), host.leads_to(host.app_port)


def done_by_the_other(host: FakeHost) -> None:
    """Let the gateway that has the address have done its work."""
    host.nodes[2].slots["barman"] = replace(host.nodes[1].slots["barman"], active=True)
    host.barman.streams_from, host.barman.streams_since = 2, host.now() - 60
    host.nodes[2].segment += 1
    host.barman.archived |= {"000000010000000000000005", "00000002.history", "000000020000000000000005"}


# -- rules -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", list(BACKENDS))
@pytest.mark.parametrize("has_address", [True, False])
def test_the_rules_are_the_same_whoever_has_the_address(backend: str, has_address: bool) -> None:
    """A client's connection keeps its source when the address moves; one of the gateway's own does not move."""
    host, cluster = FakeHost(), gateways(backend=backend).cluster
    host.addresses = {HOSTS[0], *([host.gateway] if has_address else [])}
    host.nat.restore("*nat\n:repmgr_dnat - [0:0]\n:repmgr_snat - [0:0]\nCOMMIT\n")
    state, option = ClusterState(cluster, 1, 1), firewall.Config("app")
    for step in firewall.plan(option, state, firewall.observe(option, state, host)):
        apply(step, host)
    table = host.nft if backend == "nftables" else host.nat
    assert table.source_seen_by("10.0.0.11", 5432) == host.gateway
    assert table.source_seen_by("10.0.0.11", 5432, own=True) == "MASQUERADE"
    assert table.source_seen_by("10.0.0.11", 5432, led=False, own=True) is None
    assert host.leads_to(host.app_port) == NODE_1
    assert firewall.plan(option, state, firewall.observe(option, state, host)) == []
    host.addresses ^= {host.gateway}
    assert firewall.plan(option, state, firewall.observe(option, state, host)) == [], "the address has moved"


def test_one_gateway_without_the_address_lets_the_kernel_choose() -> None:
    host = FakeHost()
    host.addresses = set()
    state, option = ClusterState(LOADED.cluster, 1, 1), firewall.Config("app")
    for step in firewall.plan(option, state, firewall.observe(option, state, host)):
        apply(step, host)
    assert host.nat.source_seen_by("10.0.0.11", 5432) == "MASQUERADE"


def test_a_newer_nft_prints_a_single_flag_without_a_list() -> None:
    cluster = gateways(backend="nftables").cluster
    text = nftables.swap(cluster, nftables.snat_rules(cluster, cluster.endpoint(1)))
    printed = json.dumps({"nftables": [item["add"] for item in json.loads(text)["nftables"][2:]]})
    newer = printed.replace('["saddr"]', '"saddr"')
    assert newer != printed
    assert nftables.parse(newer, cluster).rules == nftables.parse(printed, cluster).rules


# -- a failover --------------------------------------------------------------------------------------------------------


def test_the_gateway_with_the_address_does_all_of_it() -> None:
    host = gateway(True)
    host.fail_over()
    assert handle(MAIN, host, [PROMOTED]).ok
    assert ports(host) == (NODE_2, NODE_2)
    assert host.nodes[2].slots["barman"].active
    assert host.connections == []


def test_the_other_leads_its_ports_and_opens_the_app_port_when_the_backup_is_safe() -> None:
    host = gateway(False)
    host.fail_over()
    host.at(host.now() + 20, lambda: done_by_the_other(host))
    begun, opened = host.now(), list[float]()
    host.after("iptables-restore", lambda: host.after("iptables-restore", lambda: opened.append(host.now())))
    run = handle(MAIN, host, [PROMOTED])
    assert run.ok, run.message
    assert ports(host) == (NODE_2, NODE_2)
    assert set(host.what_changed()) == {"iptables-restore"}, "nothing that exists once, no client, was touched"
    assert 20 <= opened[0] - begun < 30


def test_the_gates_limit_counts_on_both() -> None:
    host = gateway(False)
    host.fail_over()
    begun = host.now()
    run = handle(MAIN, host, [PROMOTED])
    assert ports(host) == (NODE_2, NODE_2)
    assert host.now() - begun >= 119
    assert not run.ok
    assert run.again
    assert "left to the gateway that has 10.0.0.20: create slot barman on node 2" in run.message


def test_the_address_comes_in_the_middle_of_a_run() -> None:
    host = gateway(False)
    host.fail_over()
    host.at(host.now() + 5, lambda: host.addresses.add(host.gateway))
    assert handle(MAIN, host, [PROMOTED]).ok
    assert host.nodes[2].slots["barman"].active
    assert host.barman.streams_from == 2
    assert ports(host) == (NODE_2, NODE_2)


def test_the_address_goes_in_the_middle_of_a_run() -> None:
    """What was begun is left to the other; no step of ours comes after it."""
    host = gateway(True)
    host.fail_over()
    host.after("create slot on 2", lambda: host.addresses.discard(host.gateway))
    handle(MAIN, host, [PROMOTED])
    there = host.what_changed()
    assert set(there[there.index("create slot on 2") + 1 :]) == {"iptables-restore"}


@pytest.mark.parametrize("has_address", [True, False])
def test_a_program_is_run_once(has_address: bool) -> None:
    host = gateway(has_address)
    host.programs["/bin/page"] = lambda program: ""
    managed = replace(MAIN, routes=(*MAIN.routes, Route(frozenset({PROMOTED.name}), (page("/bin/page"),))))
    host.fail_over()
    done_by_the_other(host)
    handle(managed, host, [PROMOTED])
    assert ("run /bin/page" in host.what_changed()) is has_address
    only = replace(MAIN, routes=(Route(frozenset({PROMOTED.name}), (page("/bin/page"),)),))
    host.changes.clear()
    assert handle(only, host, [PROMOTED]).ok
    assert ("run /bin/page" in host.what_changed()) is has_address


def test_what_comes_last_is_not_waited_for() -> None:
    """The other gateway does it; nothing here depends on it."""
    do = MAIN.routes[0].do
    host = gateway(False)
    host.fail_over()
    managed = replace(MAIN, routes=(Route(frozenset({PROMOTED.name}), (do[0], do[4], do[1], do[2])),))
    assert handle(managed, host, [PROMOTED]).ok
    assert ports(host) == (NODE_2, NODE_2)
    assert host.now() < 60


def test_a_look_and_a_dry_run_show_what_is_this_gateways() -> None:
    host = gateway(False)
    host.nodes[1].slots.clear()
    known = LastKnownPrimary(1, 1, host.nodes[1].system_identifier)
    assert find_drift(MAIN, host, known, {}).pending == ()
    assert handle(MAIN, host, [], dry_run=True).message.startswith("nothing to do")
    host.addresses.add(host.gateway)
    assert find_drift(MAIN, host, known, {}).pending != ()
    assert "would take" in handle(MAIN, host, [], dry_run=True).message


def test_no_port_leads_to_a_stale_primary_on_either() -> None:
    """Its clients are cut where they are: by the gateway that has the address."""
    for has_address in (True, False):
        host = gateway(has_address)
        known = LastKnownPrimary(2, 2, host.nodes[2].system_identifier)
        host.nodes[2].reachable = False
        assert not handle(MAIN, host, [], last_known=known).ok
        assert ports(host) == (None, None)
        assert ("poke" in host.what_changed()) is has_address


def test_every_handler_but_the_firewall_works_on_what_exists_once() -> None:
    shared = {action.name for action in (*MAIN.actions, page("/bin/x")) if action.shared_in(MAIN.cluster)}
    assert shared == {"slot", "barman", "command"}
    assert not any(action.shared_in(LOADED.cluster) for action in LOADED.actions), "with one gateway all is its own"
