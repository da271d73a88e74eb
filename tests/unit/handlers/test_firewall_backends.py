"""The same guarantees with either back end, and when somebody changes from one to the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.engine.dry_run import DryRunHost
from repmgr_hooks.errors import NoSuchProgram, OperationFailed, ProgramTimeout
from repmgr_hooks.handlers import firewall
from repmgr_hooks.handlers.firewall import Config
from repmgr_hooks.netfilter import iptables
from repmgr_hooks.netfilter.backends import BACKENDS
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.layers import Sparing
from repmgr_hooks.system.steps import Host, Program, Step
from tests.fake import Connection, FakeHost, NatTable

BY_IPTABLES = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster
BY_NFTABLES = replace(BY_IPTABLES, gateway=replace(BY_IPTABLES.gateway, backend="nftables"))
CLUSTERS = {"iptables": BY_IPTABLES, "nftables": BY_NFTABLES}
SERVES: dict[str, Callable[[FakeHost], None]] = {"iptables": lambda host: None, "nftables": FakeHost.serve_by_nft}
each = pytest.mark.parametrize("backend", list(BACKENDS))


def serving(backend: str) -> FakeHost:
    """Both ports lead to node 1."""
    host = FakeHost()
    SERVES[backend](host)
    return host


def missing(cluster: Cluster, primary: int, port: str, host: Host) -> list[Step]:
    state = ClusterState(cluster, primary, 2)
    return firewall.plan(Config(port), state, firewall.observe(Config(port), state, host))


def take(steps: Sequence[Step], host: FakeHost) -> list[str]:
    for step in steps:
        apply(step, host)
    return [step.what for step in steps]


def ports(host: FakeHost) -> tuple[str | None, str | None]:
    return host.leads_to(54321), host.leads_to(54322)


NODE_1, NODE_2 = "10.0.0.11:5432", "10.0.0.12:5432"


@each
def test_a_failover_in_one_transaction_a_port(backend: str) -> None:
    host, cluster = serving(backend), CLUSTERS[backend]
    assert missing(cluster, 1, "barman", host) == missing(cluster, 1, "app", host) == []
    host.connections = [Connection(Flow("10.0.0.30", 40000, host.gateway, 54322), "10.0.0.11")]

    done = take(missing(cluster, 2, "barman", host), host)

    assert done[0] == "route port barman to node 2 (10.0.0.12)"
    assert ports(host) == (NODE_2, None), "the application's port waits for its turn"
    assert [flow.client for flow in host.poked] == ["10.0.0.30"]
    assert take(missing(cluster, 2, "app", host), host) == ["route port app to node 2 (10.0.0.12)"]
    assert ports(host) == (NODE_2, NODE_2)
    assert missing(cluster, 2, "app", host) == []
    changes = [what for what in host.what_changed() if what in ("iptables-restore", "nft")]
    assert changes == [{"iptables": "iptables-restore", "nftables": "nft"}[backend]] * 2


@each
def test_fence_and_close(backend: str) -> None:
    host, cluster = serving(backend), CLUSTERS[backend]
    assert firewall.fence(cluster, (2,), host) == []
    assert take(firewall.close(cluster, ["app"], host), host) == ["close port app: no primary is known"]
    assert ports(host) == (NODE_1, None)
    assert firewall.close(cluster, ["app"], host) == []
    take(firewall.fence(cluster, (1,), host), host)
    assert ports(host) == (None, None)
    assert firewall.fence(cluster, (1,), host) == []


@each
def test_a_dry_run_takes_each_step_once(backend: str) -> None:
    host, cluster = serving(backend), CLUSTERS[backend]
    imagined = DryRunHost(host, cluster)
    promised = []
    for port in ("barman", "app", "barman", "app"):
        steps = missing(cluster, 2, port, imagined)
        imagined.imagine(steps)
        promised += [step.what for step in steps if not step.helper]
    assert promised == [f"route port {port} to node 2 (10.0.0.12)" for port in ("barman", "app")]
    assert ports(host) == (NODE_1, NODE_1)


@each
def test_the_mark_is_free_and_changes_with_the_rules(backend: str) -> None:
    host, state = serving(backend), ClusterState(CLUSTERS[backend], 1, 1)
    before = firewall.fingerprint(state, host)
    assert before is not None
    assert [program for program in host.ran if not program.constant] == []
    host.nft.flush()
    assert firewall.fingerprint(state, host) != before


def test_without_iptables_nftables_have_their_mark_and_leave_nothing_behind() -> None:
    host = serving("nftables")
    host.programs = dict.fromkeys(["iptables", "iptables-save", "iptables-restore"], no_such_program)
    assert firewall.fingerprint(ClusterState(BY_NFTABLES, 1, 1), host) is not None
    assert missing(BY_NFTABLES, 1, "app", host) == []


def no_such_program(program: Program) -> str:
    raise NoSuchProgram(f"{program.argv[0]}: no such program")


OTHER = {"iptables": "nftables", "nftables": "iptables"}


@each
@pytest.mark.parametrize("primary", [1, 2])
def test_somebody_has_changed_the_back_end(backend: str, primary: int) -> None:
    """No port that is open is closed by it, and in the end there is one back end that leads clients."""
    host, cluster = serving(OTHER[backend]), CLUSTERS[backend]
    host.nat.chains["PREROUTING"].append("-A PREROUTING -i eth9 -j ACCEPT")
    host.nft.take('{"nftables": [{"add": {"table": {"family": "ip", "name": "theirs"}}}]}')
    steps = missing(cluster, primary, "barman", host)
    open_to = f"10.0.0.1{primary}:5432"

    for step in steps:
        apply(step, host)
        assert host.leads_to(54321) in (NODE_1, open_to)

    assert steps[1].what == f"remove our rules from {OTHER[backend]}: now {backend} has them"
    assert ports(host) == (open_to, open_to if primary == 1 else None)
    take(missing(cluster, primary, "app", host), host)
    assert ports(host) == (open_to, open_to)
    assert missing(cluster, primary, "app", host) == []
    there = {"iptables": "repmgr_dnat" in host.nat.chains, "nftables": ("ip", "repmgr_hooks_main") in host.nft.tables}
    assert there == {backend: True, OTHER[backend]: False}
    assert backend == "iptables" or "repmgr" not in host.nat.save()
    assert "-A PREROUTING -i eth9 -j ACCEPT" in host.nat.chains["PREROUTING"]
    assert ("ip", "theirs") in host.nft.tables


@each
def test_the_same_in_a_dry_run(backend: str) -> None:
    host, cluster = serving(OTHER[backend]), CLUSTERS[backend]
    imagined = DryRunHost(host, cluster)
    for port in ("barman", "app"):
        steps = missing(cluster, 1, port, imagined)
        imagined.imagine(steps)
        kinds = [step.kind for step in steps if step.kind != "reset_connections"]
        assert kinds == (["open_port", "remove_rules"] if port == "barman" else [])


@each
def test_what_the_other_has_is_fenced_and_closed_too(backend: str) -> None:
    host, cluster = serving(OTHER[backend]), CLUSTERS[backend]
    take(firewall.close(cluster, ["app"], host), host)
    assert ports(host) == (NODE_1, None)
    take(firewall.fence(cluster, (1,), host), host)
    assert ports(host) == (None, None)


def test_a_chain_to_which_rules_of_others_lead_is_only_emptied() -> None:
    host = serving("iptables")
    host.nat.chains["OUTPUT"].append("-A OUTPUT -d 10.0.0.99/32 -j repmgr_dnat")
    take(missing(BY_NFTABLES, 1, "app", host), host)
    assert [line for line in host.nat.save().splitlines() if "repmgr" in line] == [
        ":repmgr_dnat - [0:0]",
        "-A OUTPUT -d 10.0.0.99/32 -j repmgr_dnat",
    ]
    assert missing(BY_NFTABLES, 1, "app", host) == []


def test_jumps_that_are_there_twice_or_not_at_all_are_no_obstacle() -> None:
    host = serving("iptables")
    host.nat.chains["PREROUTING"].append("-A PREROUTING -j repmgr_dnat")
    host.nat.chains["OUTPUT"].remove("-A OUTPUT -j repmgr_dnat")
    take(missing(BY_NFTABLES, 1, "app", host), host)
    assert "repmgr" not in host.nat.save()
    assert ports(host) == (NODE_1, NODE_1)


def test_a_table_in_front_that_cannot_be_removed_is_said_and_no_port_waits_for_it() -> None:
    """iptables is to have the rules, but the program nft is gone; the kernel says that our table is still there."""
    host = serving("nftables")
    host.programs["nft"] = no_such_program
    lead, remove = missing(BY_IPTABLES, 1, "app", host)
    apply(lead, host)
    assert host.nat.reached(host.gateway, 54322) == NODE_1
    assert remove.helper
    with pytest.raises(NoSuchProgram):
        apply(remove, host)
    assert [step.what for step in missing(BY_IPTABLES, 1, "app", host)] == [remove.what]


def test_what_the_other_has_cannot_be_read(caplog: pytest.LogCaptureFixture) -> None:
    host = serving("nftables")

    def broken(program: Program) -> str:
        raise OperationFailed("iptables-save: no")

    host.programs["iptables-save"] = broken
    assert missing(BY_NFTABLES, 1, "app", host) == []
    assert "what it has of our rules is not known" in caplog.text


@each
@pytest.mark.parametrize("version_too", [False, True])
def test_a_port_is_moved_before_the_other_is_asked_which_is_waited_for_once(backend: str, version_too: bool) -> None:
    fake, hung = serving("iptables"), {"iptables": "nft", "nftables": "iptables-save"}[backend]
    take(missing(BY_NFTABLES, 1, "app", fake), fake)
    if backend == "iptables":
        fake.nat.restore(iptables.swap(BY_IPTABLES, [iptables.dnat_rule(BY_IPTABLES, "app", BY_IPTABLES.endpoint(1))]))
    fake.nft_tables = lambda: frozenset(fake.nft.tables)  # type: ignore[method-assign]
    fake.legacy = True
    waited: list[str] = []

    def hang(program: Program) -> str:
        waited.append(program.argv[0])
        raise ProgramTimeout(program, 10)

    fake.programs = dict.fromkeys([hung, *(["iptables"] if version_too else [])], hang)
    cluster, host = CLUSTERS[backend], Sparing(fake)
    swap = missing(cluster, 2, "barman", host)
    assert (swap[0].kind, waited) == ("open_port", [])
    take([step for step in swap if step.kind == "open_port"], fake)
    for _ in range(3):
        for step in missing(cluster, 2, "barman", host):
            assert step.kind == "remove_rules"
            with pytest.raises(OperationFailed, match="not tried again"):
                apply(step, host)
    assert len(waited) == len(set(waited))
    assert hung in waited


@pytest.mark.parametrize("answer", ["no json", "{}", '{"nftables": [{"rule": {}}]}', '{"nftables": 1}', "[]"])
def test_an_answer_of_nft_that_cannot_be_read(answer: str) -> None:
    host = serving("nftables")
    host.programs["nft"] = lambda program: answer
    with pytest.raises(OperationFailed, match="an answer that cannot be read"):
        missing(BY_NFTABLES, 1, "app", host)


def test_of_legacy_chains_nothing_stays_either() -> None:
    """They are in no table of nf_tables."""
    host = serving("iptables")
    host.legacy = True
    host.nft_tables = lambda: frozenset(host.nft.tables)  # type: ignore[method-assign]
    take(missing(BY_NFTABLES, 1, "app", host), host)
    assert "repmgr" not in NatTable(host.nat.save()).save()
