"""The gateway's ports: where a client arrives after the planned steps, in a nat table that is not the package's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.errors import NoSuchProgram, mistake
from repmgr_hooks.handlers import firewall
from repmgr_hooks.handlers.firewall import Config, Seen
from repmgr_hooks.netfilter import iptables
from repmgr_hooks.netfilter.backends import leads_to
from repmgr_hooks.netfilter.conntrack import Tracked, parse_conntrack
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.settings.endpoint import Endpoint
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import DropConnections, Program, Step
from tests.fake import SERVED_BY_NODE_1, Connection, FakeHost, NatTable

GATEWAY = "10.0.0.20"
MAIN = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")},
    gateway=Gateway(GATEWAY, {"barman": 54321, "app": 54322}),
    name="main",
)
MAIN_6 = Cluster(
    nodes={1: Node("fd00::11"), 2: Node("fd00::12")},
    gateway=Gateway("fd00::20", {"barman": 54321, "app": 54322}),
    name="main",
)
JUMPS = {
    "-A PREROUTING -j repmgr_dnat": "PREROUTING",
    "-A OUTPUT -j repmgr_dnat": "OUTPUT",
    "-A POSTROUTING -j repmgr_snat": "POSTROUTING",
}


def restores(steps: list[Step]) -> list[Program]:
    """The programs that change the nat table."""
    return [s.do for s in steps if isinstance(s.do, Program) and s.do.argv[0].endswith("tables-restore")]


def planned(cluster: Cluster, primary: int, port: str, saved: str) -> list[Step]:
    """The steps for a table, when nobody is connected and the kernel forwards."""
    return firewall.plan(
        Config(port), ClusterState(cluster, primary, 2), Seen(iptables.parse(saved, cluster), (), True)
    )


# -- by example --------------------------------------------------------------------------------------------------------


def test_the_transaction_after_a_failover() -> None:
    (step, *_) = planned(MAIN, 2, "barman", SERVED_BY_NODE_1)
    assert step.what == "route port barman to node 2 (10.0.0.12)"
    assert isinstance(step.do, Program)
    assert step.do.argv == ("iptables-restore", "--noflush", "--wait", "5")
    assert step.do.stdin == (
        "*nat\n"
        ":repmgr_dnat - [0:0]\n"
        ":repmgr_snat - [0:0]\n"
        "-A repmgr_dnat -d 10.0.0.20/32 -p tcp -m tcp --dport 54321 -m comment --comment repmgr_hooks:main:barman"
        " -j DNAT --to-destination 10.0.0.12:5432\n"
        "-A repmgr_snat -d 10.0.0.12/32 -p tcp -m tcp --dport 5432 -m conntrack --ctstate DNAT"
        " -m comment --comment repmgr_hooks:main:5432"
        " -j SNAT --to-source 10.0.0.20\n"
        "COMMIT\n"
    )


def test_the_transaction_on_a_fresh_ipv6_gateway() -> None:
    (step,) = planned(MAIN_6, 1, "app", "")
    assert isinstance(step.do, Program)
    assert step.do.argv == ("ip6tables-restore", "--noflush", "--wait", "5")
    assert step.do.stdin == (
        "*nat\n"
        ":repmgr_dnat - [0:0]\n"
        ":repmgr_snat - [0:0]\n"
        "-A PREROUTING -j repmgr_dnat\n"
        "-A OUTPUT -j repmgr_dnat\n"
        "-A POSTROUTING -j repmgr_snat\n"
        "-A repmgr_dnat -d fd00::20/128 -p tcp -m tcp --dport 54322 -m comment --comment repmgr_hooks:main:app"
        " -j DNAT --to-destination [fd00::11]:5432\n"
        "-A repmgr_snat -d fd00::11/128 -p tcp -m tcp --dport 5432 -m conntrack --ctstate DNAT"
        " -m comment --comment repmgr_hooks:main:5432"
        " -j SNAT --to-source fd00::20\n"
        "COMMIT\n"
    )


@pytest.mark.parametrize("port", ["barman", "app"])
@pytest.mark.parametrize("quoted", [True, False], ids=["with quotes", "without quotes"])
def test_a_table_that_is_right_is_left_alone_whatever_version_of_iptables_prints_it(port: str, quoted: bool) -> None:
    saved = SERVED_BY_NODE_1 if quoted else SERVED_BY_NODE_1.replace('"repmgr_hooks:main:app"', "repmgr_hooks:main:app")
    assert planned(MAIN, 1, port, saved) == []


def test_one_port_after_the_other() -> None:
    nat = NatTable(SERVED_BY_NODE_1)
    where = []
    for port in ("barman", "app"):
        for program in restores(planned(MAIN, 2, port, nat.save())):
            nat.restore(program.stdin)
        where.append((nat.reached(GATEWAY, 54321), nat.reached(GATEWAY, 54322)))
    assert where == [("10.0.0.12:5432", None), ("10.0.0.12:5432", "10.0.0.12:5432")]


@pytest.mark.parametrize(
    ("cluster", "switch"), [(MAIN, "net.ipv4.ip_forward"), (MAIN_6, "net.ipv6.conf.all.forwarding")]
)
def test_the_kernel_must_forward_and_the_swap_does_not_depend_on_it(cluster: Cluster, switch: str) -> None:
    swap, forward, *_ = firewall.plan(
        Config("app"), ClusterState(cluster, 1, 1), Seen(iptables.parse("", cluster), (), False)
    )
    assert isinstance(forward.do, Program)
    assert forward.do.argv == ("sysctl", "-w", f"{switch}=1")
    assert (swap.helper, forward.helper) == (False, True)


@pytest.mark.parametrize(
    ("saved", "where"),
    [
        ("", {"barman": None, "app": None}),
        (SERVED_BY_NODE_1, {"barman": 1, "app": 1}),
        (SERVED_BY_NODE_1.replace("10.0.0.11", "10.0.0.12"), {"barman": 2, "app": 2}),
        (SERVED_BY_NODE_1.replace("10.0.0.11", "10.0.0.99"), {"barman": None, "app": None}),
        (SERVED_BY_NODE_1.replace("--dport 54322", "--dport 54323"), {"barman": 1, "app": None}),
    ],
)
def test_where_the_ports_lead(saved: str, where: dict[str, int | None]) -> None:
    assert leads_to(MAIN, iptables.parse(saved, MAIN)) == where


def test_the_port_must_have_a_name() -> None:
    assert list(firewall.validate(Config("app"), MAIN)) == []
    assert list(firewall.validate(Config("ap"), MAIN)) == [
        mistake("the gateway has no port 'ap'", "did you mean 'app'?")
    ]


# -- which address the nodes see ---------------------------------------------------------------------------------------

BEFORE = SERVED_BY_NODE_1.replace("-m conntrack --ctstate DNAT ", "")
"""As versions up to 0.1.0 wrote it: what the gateway itself sent to the primary was translated too."""


def test_an_older_versions_rule_is_replaced_in_one_transaction_and_no_port_is_closed_by_it() -> None:
    nat = NatTable(BEFORE)
    assert nat.source_seen_by("10.0.0.11", 5432, led=False) == GATEWAY, "or else this shows nothing"
    (program,) = restores(planned(MAIN, 1, "barman", BEFORE))
    nat.restore(program.stdin)
    assert (nat.reached(GATEWAY, 54321), nat.reached(GATEWAY, 54322)) == ("10.0.0.11:5432", "10.0.0.11:5432")
    assert nat.source_seen_by("10.0.0.11", 5432) == GATEWAY
    assert nat.source_seen_by("10.0.0.11", 5432, led=False) is None


@pytest.mark.parametrize(
    ("snat_address", "own", "seen"),
    [
        ("", {GATEWAY}, GATEWAY),
        ("10.1.0.20", {GATEWAY, "10.1.0.20"}, "10.1.0.20"),
        ("masquerade", {GATEWAY}, "MASQUERADE"),
        ("", set(), "MASQUERADE"),
        ("10.1.0.20", {GATEWAY}, "MASQUERADE"),
    ],
    ids=["the gateway's", "another leg's", "by the kernel", "gateway's is not here", "leg's is not here"],
)
def test_the_address_that_nodes_see_is_always_one_of_this_host(snat_address: str, own: set[str], seen: str) -> None:
    cluster = replace(MAIN, gateway=replace(MAIN.gateway, snat_address=snat_address))
    host, state = FakeHost(), ClusterState(cluster, 1, 1)
    host.addresses = own
    for step in firewall.plan(Config("app"), state, firewall.observe(Config("app"), state, host)):
        apply(step, host)
    assert host.nat.source_seen_by("10.0.0.11", 5432) == seen
    assert firewall.plan(Config("app"), state, firewall.observe(Config("app"), state, host)) == []


def test_an_address_that_comes_or_goes_is_a_change() -> None:
    host, state = FakeHost(), ClusterState(MAIN, 1, 1)
    before = firewall.fingerprint(state, host)
    host.addresses = set()
    assert firewall.fingerprint(state, host) != before


# -- any starting table ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A nat table as some day left it, and what is asked for."""

    cluster: Cluster
    primary: int
    open: str
    saved: str
    led: dict[str, int]
    """The ports that a rule of our own form leads to a node."""

    def socket(self, node: int) -> str:
        host = self.cluster.nodes[node].host
        return f"[{host}]:5432" if ":" in host else f"{host}:5432"


def foreign(six: bool) -> dict[str, list[str]]:
    """Rules of others; none of them takes a packet that is for our ports."""
    one, net, home = (
        ("fd00::aa/128", "fd00:17::/64", "::1/128") if six else ("10.0.0.99/32", "172.17.0.0/16", "127.0.0.0/8")
    )
    to = "[fd00:17::2]:80" if six else "172.17.0.2:80"
    return {
        "PREROUTING": [
            "-m addrtype --dst-type LOCAL -j DOCKER",
            f"-i eth9 -p tcp -m tcp --dport 54321 -j DNAT --to-destination {to}",
            f"-d {one} -p tcp -m tcp --dport 54322 -j DNAT --to-destination {to}",
            f"-p udp -m udp --dport 54321 -j DNAT --to-destination {to}",
            rf'-p tcp -m tcp --dport 80 -m comment --comment "it\'s \"the\" web, 100%" -j DNAT --to-destination {to}',
            f"-d {one} -j repmgr_dnat",
            f"-s {net} -j RETURN",
        ],
        "OUTPUT": [f"! -d {home} -m addrtype --dst-type LOCAL -j DOCKER", f"-d {one} -j ACCEPT"],
        "POSTROUTING": [f"-s {net} ! -o docker0 -j MASQUERADE", "-o eth0 -j MASQUERADE", f"-d {one} -j repmgr_snat"],
        "DOCKER": ["-i docker0 -j RETURN", f"! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination {to}"],
        "repmgr_dnat2": [f"-d {one} -j LOG"],
    }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    six = draw(st.booleans())
    base, bits = ("fd00::", 128) if six else ("10.0.0.", 32)
    nodes = {number: Node(f"{base}1{number}") for number in range(1, draw(st.integers(2, 5)) + 1)}
    ports = {
        name: 54321 + index for index, name in enumerate(["barman", "app", "web", "reports"][: draw(st.integers(1, 4))])
    }
    gateway = f"{base}20"
    led, ours = {}, []
    for name, number in ports.items():
        node = draw(st.none() | st.sampled_from(list(nodes)))
        form = draw(st.sampled_from(["ours", "ours", "the article's"]))
        if node is None:
            continue
        comment = f'-m comment --comment "repmgr_hooks:main:{name}" ' if form == "ours" else ""
        to = f"[{nodes[node].host}]:5432" if six else f"{nodes[node].host}:5432"
        ours.append(
            f"-A repmgr_dnat -d {gateway}/{bits} -p tcp -m tcp --dport {number} {comment}-j DNAT --to-destination {to}"
        )
        led[name] = node
    for node in draw(st.lists(st.sampled_from(list(nodes)), max_size=2)):
        host, led_only = nodes[node].host, draw(st.sampled_from(["", "-m conntrack --ctstate DNAT "]))
        ours.append(
            f"-A repmgr_snat -d {host}/{bits} -p tcp -m tcp --dport 5432 {led_only}"
            f'-m comment --comment "repmgr_hooks:main:5432" -j SNAT --to-source {gateway}'
        )
    ours += draw(
        st.lists(
            st.sampled_from(["-A repmgr_dnat -p tcp -m tcp --dport 9 -j ACCEPT", "-A repmgr_snat -j LOG"]), max_size=2
        )
    )
    others = [f"-A {chain} {rule}" for chain, rules in foreign(six).items() for rule in rules]
    chosen = draw(st.lists(st.sampled_from(others), unique=True, max_size=8))
    jumps = draw(st.lists(st.sampled_from(list(JUMPS)), max_size=6))
    rules = draw(st.permutations([*ours, *chosen, *jumps]))
    needed = {word for rule in rules for word in (rule.split()[1], rule.split(" -j ")[1].split()[0])}
    chains = [
        chain
        for chain in ("DOCKER", "repmgr_dnat", "repmgr_snat", "repmgr_dnat2")
        if chain in needed or draw(st.booleans())
    ]
    header = [f":{chain} ACCEPT [1:2]" for chain in ("PREROUTING", "INPUT", "OUTPUT", "POSTROUTING")]
    saved = "\n".join(["*nat", *header, *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT", ""])
    cluster = Cluster(nodes, Gateway(gateway, ports), name="main")
    return Case(cluster, draw(st.sampled_from(list(nodes))), draw(st.sampled_from(list(ports))), saved, led)


def others(nat: NatTable) -> dict[str, list[str]]:
    """All that is not ours."""
    return {
        chain: [rule for rule in rules if rule not in JUMPS]
        for chain, rules in nat.chains.items()
        if chain not in ("repmgr_dnat", "repmgr_snat")
    }


@pytest.mark.slow
@settings(max_examples=200)
@given(cases())
def test_whatever_the_table_was_the_named_port_reaches_the_primary_and_no_port_another_node(case: Case) -> None:
    before, nat = NatTable(case.saved), NatTable(case.saved)
    programs = restores(planned(case.cluster, case.primary, case.open, case.saved))
    assert len(programs) <= 1, "one transaction"
    for program in programs:
        assert program.argv[:2] == (
            "ip6tables-restore" if ":" in case.cluster.gateway.address else "iptables-restore",
            "--noflush",
        )
        nat.restore(program.stdin)

    gateway, primary = case.cluster.gateway, case.socket(case.primary)
    for chain in ("PREROUTING", "OUTPUT"):
        for name, number in gateway.ports.items():
            was, now = before.reached(gateway.address, number, chain), nat.reached(gateway.address, number, chain)
            if name == case.open or (was == primary and name in case.led):
                assert now == primary, f"{name} must be open"
            elif was not in (None, primary):
                assert now is None, f"{name} led to {was} and must be closed"
            else:
                assert now in (None, primary)
            if name != case.open and case.led.get(name) != case.primary:
                assert now is None
    for node in case.cluster.nodes.values():
        led = gateway.address if node.host == case.cluster.nodes[case.primary].host else None
        assert nat.source_seen_by(node.host, 5432) == led
        assert nat.source_seen_by(node.host, 5432, led=False) is None, "repmgrd's looks and ours keep their way"

    assert others(nat) == others(before)
    for jump, chain in JUMPS.items():
        assert nat.chains[chain].count(jump) == 1
    assert planned(case.cluster, case.primary, case.open, nat.save()) == [], "a second run has nothing to do"


# -- connections -------------------------------------------------------------------------------------------------------

LISTING = """\
tcp      6 431999 ESTABLISHED src=10.0.0.30 dst=10.0.0.20 sport=40000 dport=54322 src=10.0.0.11 dst=10.0.0.20 \
sport=5432 dport=40000 [ASSURED] mark=0 use=1
tcp      6 118 SYN_SENT src=10.0.0.31 dst=10.0.0.20 sport=40001 dport=54322 [UNREPLIED] src=10.0.0.20 dst=10.0.0.31 \
sport=54322 dport=40001 mark=0 use=1
tcp      6 96 TIME_WAIT src=10.0.0.32 dst=10.0.0.20 sport=40002 dport=54322 packets=9 bytes=901 src=10.0.0.12 \
dst=10.0.0.20 packets=7 bytes=701 sport=5432 dport=40002 [ASSURED] mark=0 use=1
tcp      6 431999 ESTABLISHED src=fd00::30 dst=fd00::20 sport=40003 dport=54322 src=fd00::11 dst=fd00::20 \
sport=5432 dport=40003 [ASSURED] mark=0 use=1
conntrack v1.4.7 (conntrack-tools): 4 flow entries have been shown.
"""


def test_what_conntrack_prints() -> None:
    assert list(parse_conntrack(LISTING)) == [
        Tracked(Flow("10.0.0.30", 40000, "10.0.0.20", 54322), Endpoint("10.0.0.11", 5432), True),
        Tracked(Flow("10.0.0.31", 40001, "10.0.0.20", 54322), Endpoint("10.0.0.20", 54322), True),
        Tracked(Flow("10.0.0.32", 40002, "10.0.0.20", 54322), Endpoint("10.0.0.12", 5432), False, over=True),
        Tracked(Flow("fd00::30", 40003, "fd00::20", 54322), Endpoint("fd00::11", 5432), True),
    ]
    assert list(parse_conntrack("")) == []


@pytest.mark.parametrize(
    ("cluster", "gateway", "client", "old", "family"),
    [
        (MAIN, "10.0.0.20", "10.0.0.30", "10.0.0.11", "ipv4"),
        (MAIN_6, "fd00::20", "fd00::30", "fd00::11", "ipv6"),
    ],
)
def test_a_stale_connection_is_cut_and_its_client_told(
    cluster: Cluster, gateway: str, client: str, old: str, family: str
) -> None:
    flow = Flow(client, 40000, gateway, 54322)
    seen = Seen(iptables.parse("", cluster), (Tracked(flow, Endpoint(old, 5432), True),), True)
    *_, cut = firewall.plan(Config("barman"), ClusterState(cluster, 2, 2), seen)
    assert isinstance(cut.do, DropConnections)
    assert cut.do.reset_clients
    assert (
        str(cut.do.forget)
        == f"conntrack -D -f {family} -p tcp --orig-dst {gateway} --orig-port-dst 54322 --reply-src {old} "
        "--reply-port-src 5432"
    )


@pytest.mark.parametrize("cluster", [MAIN, MAIN_6], ids=["ipv4", "ipv6"])
def test_a_swap_cuts_also_who_has_come_since_the_look(cluster: Cluster) -> None:
    old, new = (cluster.nodes[node].host for node in (1, 2))
    nat = NatTable()
    for port in ("barman", "app"):
        (step, *_) = planned(cluster, 1, port, nat.save())
        assert isinstance(step.do, Program)
        nat.restore(step.do.stdin)
    _, *cuts = planned(cluster, 2, "barman", nat.save())
    assert [step.what for step in cuts] == [f"reset connections of port {port} to {old}" for port in (54321, 54322)]
    seen = Seen(iptables.parse(nat.save(), cluster), None, True)
    (swap,) = firewall.plan(Config("barman"), ClusterState(cluster, 2, 2), seen)
    assert isinstance(swap.do, Program), "without conntrack there is nothing to cut with"
    assert new in swap.do.stdin


@pytest.mark.parametrize(
    ("ports", "gone"),
    [
        ({"barman": 54321, "app": 54399}, [54322]),
        ({"app": 54322}, [54321]),
        ({"barman": 54322, "app": 54321}, []),
        ({"app": 54323, "barman": 54324}, [54321, 54322]),
    ],
    ids=["renumbered", "taken out", "changed with each other", "all"],
)
def test_who_came_through_a_port_that_is_no_more_is_cut_while_that_is_known(
    ports: dict[str, int], gone: list[int]
) -> None:
    """The primary is the same: after the next failover no rule would tell of them any more."""
    cluster = replace(MAIN, gateway=replace(MAIN.gateway, ports=ports))
    swap, *cuts = planned(cluster, 1, "app", SERVED_BY_NODE_1)
    assert (swap.kind, [step.target for step in cuts]) == ("open_port", list(map(str, gone)))


def test_an_entry_that_has_gone_meanwhile_is_no_failure() -> None:
    host = FakeHost()
    flow = Flow("10.0.0.30", 40000, GATEWAY, 54322)
    seen = Seen(iptables.parse(host.nat.save(), MAIN), (Tracked(flow, Endpoint("10.0.0.12", 5432), False),), True)
    (cut,) = firewall.plan(Config("app"), ClusterState(MAIN, 1, 1), seen)
    apply(cut, host)


def opened_by_others() -> FakeHost:
    """Port barman leads to node 1, port app to node 2, and there are rules of others."""
    host = FakeHost()
    chain = host.nat.chains["repmgr_dnat"]
    chain[1] = chain[1].replace("10.0.0.11", "10.0.0.12")
    host.connections = [
        Connection(Flow("10.0.0.30", 40000, GATEWAY, 54322), "10.0.0.12"),
        Connection(Flow("10.0.0.31", 40001, GATEWAY, 54321), "10.0.0.11"),
        Connection(Flow("10.0.0.32", 40002, GATEWAY, 54322), "10.0.0.11"),
        Connection(Flow("10.0.0.33", 40003, GATEWAY, 54322), "10.0.0.11", "TIME_WAIT"),
        Connection(Flow("10.0.0.34", 40004, GATEWAY, 22), "10.0.0.11"),
    ]
    return host


def test_nothing_leads_to_a_stale_primary_and_all_else_stays() -> None:
    host = opened_by_others()
    before = NatTable(host.nat.save())
    done: list[str] = []
    for _ in range(2):
        for step in firewall.fence(MAIN, (1,), host):
            done.append(step.what)
            apply(step, host)
    assert done == [
        "close what leads to node 1",
        "reset connections of port 54321 to 10.0.0.11",
        "reset connections of port 54322 to 10.0.0.11",
    ], "the rules first; then what they do not tell of"
    assert (host.leads_to(54321), host.leads_to(54322)) == (None, "10.0.0.12:5432")
    assert others(host.nat) == others(before)
    assert host.nat.chains["repmgr_snat"] == before.chains["repmgr_snat"]
    assert [connection.flow.client for connection in host.connections] == ["10.0.0.30", "10.0.0.34"]
    assert [flow.client for flow in host.poked] == ["10.0.0.31", "10.0.0.32"]
    assert firewall.fence(MAIN, (1,), host) == [], "a second time there is nothing to do"


def test_a_rule_with_a_comment_of_several_words_in_our_chain_keeps_no_stale_primary_in() -> None:
    host = opened_by_others()
    rule = f"-A repmgr_dnat -d {GATEWAY}/32 -p tcp -m tcp --dport 9 -m comment --comment two\\ words -j ACCEPT"
    host.nat.restore(f"*nat\n{rule}\nCOMMIT")
    assert '"two words"' in host.nat.save()
    for step in firewall.fence(MAIN, (1,), host):
        apply(step, host)
    assert host.leads_to(54321) is None
    assert '"two words"' in host.nat.save()


def test_no_rule_comes_to_light_behind_the_stale_primaries() -> None:
    host = opened_by_others()
    chain = host.nat.chains["repmgr_dnat"]
    chain.append(chain[0].replace("10.0.0.11", "10.0.0.12"))
    for step in firewall.fence(MAIN, (1,), host):
        apply(step, host)
    assert host.leads_to(54321) is None


def test_a_rule_for_no_port_of_ours_leads_to_no_stale_primary_either() -> None:
    host = opened_by_others()
    host.nat.restore("*nat\n-A repmgr_dnat -p tcp -j DNAT --to-destination 10.0.0.11:5432\nCOMMIT")
    for step in firewall.fence(MAIN, (1,), host):
        apply(step, host)
    assert host.leads_to(9) is None
    assert host.leads_to(54322) == "10.0.0.12:5432"


def test_two_stale_primaries_and_none() -> None:
    host = opened_by_others()
    assert firewall.fence(MAIN, (), host) == []
    (close, *_) = steps = firewall.fence(MAIN, (1, 2), host)
    assert close.what == "close what leads to node 1 and node 2"
    for step in steps:
        apply(step, host)
    assert (host.leads_to(54321), host.leads_to(54322)) == (None, None)


def test_on_ipv6_and_for_the_articles_own_rules() -> None:
    listing = LISTING.replace("conntrack v1.4.7 (conntrack-tools): 4 flow entries have been shown.", "")
    saved = "-A repmgr_dnat -d fd00::20/128 -p tcp -m tcp --dport 54322 -j DNAT --to-destination [fd00::11]:5432\n"
    kept = saved.replace("fd00::11", "fd00::111").replace("54322", "54321")
    host = FakeHost()
    host.programs = {"ip6tables-save": lambda program: saved + kept}
    host.connections = []
    host._conntrack = lambda program, words: listing  # type: ignore[method-assign]
    close, cut = firewall.fence(MAIN_6, (1,), host)
    assert isinstance(close.do, Program)
    assert close.do.argv[0] == "ip6tables-restore"
    assert close.do.stdin == f"*nat\n:repmgr_dnat - [0:0]\n:repmgr_snat - [0:0]\n{kept}COMMIT\n"
    assert cut.what == "reset connections of port 54322 to fd00::11"


@settings(max_examples=100)
@given(cases(), st.sets(st.integers(1, 5), min_size=1, max_size=2))
def test_whatever_the_table_was_no_rule_of_ours_leads_to_a_stale_primary(case: Case, chosen: set[int]) -> None:
    stale_primaries = tuple(sorted(chosen & set(case.cluster.nodes)))
    host, before = FakeHost(), NatTable(case.saved)
    host.nat = NatTable(case.saved)
    six = ":" in case.cluster.gateway.address
    host.programs = {"ip6tables-save": lambda program: host.nat.save()} if six else {}
    for program in restores(firewall.fence(case.cluster, stale_primaries, host)):
        host.nat.restore(program.stdin)
    dead = [case.socket(node) for node in stale_primaries]
    for name, number in case.cluster.gateway.ports.items():
        was = before.reached(case.cluster.gateway.address, number)
        now = host.nat.reached(case.cluster.gateway.address, number)
        assert now not in dead
        assert now == was or was in dead, f"{name} has nothing to do with a stale primary"
    assert others(host.nat) == others(before)
    for jump, chain in JUMPS.items():
        assert host.nat.chains[chain].count(jump) == before.chains[chain].count(jump)
    assert restores(firewall.fence(case.cluster, stale_primaries, host)) == []


@settings(max_examples=100)
@given(cases())
def test_whatever_the_table_was_it_can_be_left_to_another_back_end(case: Case) -> None:
    before, nat = NatTable(case.saved), NatTable(case.saved)
    ours = iptables.parse(case.saved, case.cluster)
    if ours.there:
        nat.restore(iptables.removal(case.cluster, ours))
    assert others(nat) == others(before)
    assert not iptables.parse(nat.save(), case.cluster).there
    assert iptables.parse(iptables.after(case.saved, iptables.removal(case.cluster, ours)), case.cluster).there is False
    for chain in JUMPS.values():
        assert set(JUMPS).isdisjoint(nat.chains[chain])


MARKS: list[tuple[str, Callable[[FakeHost], object], bool]] = [
    ("nothing", lambda host: None, False),
    ("seconds go by", lambda host: host.sleep(30), False),
    ("five minutes go by", lambda host: host.sleep(300), True),
    ("a rule is changed", lambda host: host.nat.restore("*nat\nCOMMIT"), True),
    ("forwarding is switched off", lambda host: setattr(host, "forwarding", False), True),
]


@pytest.mark.parametrize(("change", "differs"), [case[1:] for case in MARKS], ids=[case[0] for case in MARKS])
def test_the_mark_changes_with_what_is_looked_at(change: Callable[[FakeHost], object], differs: bool) -> None:
    host, state = FakeHost(), ClusterState(MAIN, 1, 1)
    before = firewall.fingerprint(state, host)
    assert before is not None
    change(host)
    assert (firewall.fingerprint(state, host) != before) is differs
    assert [program for program in host.ran if not program.constant] == []


def test_the_fingerprint_of_another_primary_is_another_one() -> None:
    host = FakeHost()
    assert firewall.fingerprint(ClusterState(MAIN, 1, 1), host) != firewall.fingerprint(ClusterState(MAIN, 2, 2), host)


def test_there_is_no_mark_where_the_kernel_does_not_count() -> None:
    host = FakeHost()
    host.counts_rules = False
    assert firewall.fingerprint(ClusterState(MAIN, 1, 1), host) is None


CONNECTIONS = st.lists(
    st.builds(
        Connection,
        st.builds(
            Flow,
            client=st.sampled_from(["10.0.0.30", "10.0.0.31", GATEWAY]),
            client_port=st.integers(40000, 40009),
            gateway=st.sampled_from([GATEWAY, GATEWAY, GATEWAY, "10.0.0.21"]),
            gateway_port=st.sampled_from([54321, 54322, 54322, 22]),
        ),
        st.sampled_from(["10.0.0.11", "10.0.0.12", GATEWAY, "172.17.0.2"]),
        st.sampled_from(["ESTABLISHED", "ESTABLISHED", "SYN_SENT", "TIME_WAIT", "CLOSE_WAIT"]),
    ),
    unique_by=lambda connection: connection.flow,
    max_size=12,
)


@given(CONNECTIONS, st.sampled_from([1, 2]), st.sampled_from(["barman", "app"]))
def test_exactly_the_connections_that_lead_elsewhere_are_cut(
    connections: list[Connection], primary: int, port: str
) -> None:
    host, state = FakeHost(), ClusterState(MAIN, primary, 2)
    host.connections = list(connections)
    for _ in range(2):  # behind a swap another look shows to what else connections lead
        for step in firewall.plan(Config(port), state, firewall.observe(Config(port), state, host)):
            apply(step, host)
    stale = [
        connection
        for connection in connections
        if (connection.flow.gateway, connection.flow.gateway_port) in ((GATEWAY, 54321), (GATEWAY, 54322))
        and connection.host not in (f"10.0.0.1{primary}", GATEWAY)
    ]
    # What is over leads nobody; it goes with the others of its port and host, or stays.
    left = [connection for connection in connections if connection not in stale]
    assert [c for c in host.connections if c.state != "TIME_WAIT"] == [c for c in left if c.state != "TIME_WAIT"]
    assert sorted(host.poked) == sorted(c.flow for c in stale if c.state in ("ESTABLISHED", "SYN_SENT"))
    assert firewall.plan(Config(port), state, firewall.observe(Config(port), state, host)) == []


@pytest.mark.parametrize(("first", "second", "primary"), [(2, 1, 1), (2, 1, 2)])
def test_of_two_rules_for_a_port_the_first_one_counts(first: int, second: int, primary: int) -> None:
    rules = [rule for rule in SERVED_BY_NODE_1.splitlines() if "--dport 54322" in rule]
    twice = "\n".join(rule.replace("10.0.0.11", f"10.0.0.1{node}") for node in (first, second) for rule in rules)
    saved = SERVED_BY_NODE_1.replace(rules[0], twice)
    assert NatTable(saved).reached(GATEWAY, 54322) == f"10.0.0.1{first}:5432"
    assert leads_to(MAIN, iptables.parse(saved, MAIN))["app"] == first
    nat = NatTable(saved)
    for program in restores(planned(MAIN, primary, "barman", saved)):
        nat.restore(program.stdin)
    assert nat.reached(GATEWAY, 54322) == (f"10.0.0.1{primary}:5432" if first == primary else None)


class WithoutConntrack(FakeHost):
    """A gateway on which nobody has installed conntrack."""

    def run(self, program: Program, limit: float) -> str:
        if program.argv[0] == "conntrack":
            raise NoSuchProgram("conntrack: no such program")
        return super().run(program, limit)


def test_without_conntrack_the_ports_are_led_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    host = WithoutConntrack()
    state = ClusterState(MAIN, 2, 2)
    lead, *cuts = firewall.plan(Config("app"), state, firewall.observe(Config("app"), state, host))
    apply(lead, host)
    assert host.leads_to(54322) == "10.0.0.12:5432"
    assert all(step.helper for step in cuts)
    assert firewall.plan(Config("app"), state, firewall.observe(Config("app"), state, host)) == []
    assert "connections to a former primary are not cut" in caplog.text


def test_clients_are_not_told_if_the_configuration_says_so() -> None:
    quiet = replace(MAIN, gateway=replace(MAIN.gateway, reset_clients=False))
    tracked = Tracked(Flow("10.0.0.30", 40000, GATEWAY, 54322), Endpoint("10.0.0.11", 5432), True)
    seen = Seen(iptables.parse("", quiet), (tracked,), True)
    *_, cut = firewall.plan(Config("app"), ClusterState(quiet, 2, 2), seen)
    assert isinstance(cut.do, DropConnections)
    assert not cut.do.reset_clients
