"""Our table of nftables: what the real nft prints of it is read as right, and whatever is wrong with it is replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.netfilter import backends, nftables
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from tests.fake_nft import NftTables

RECORDED = Path(__file__).parent / "nft"
VERSIONS = ["1.0.6", "1.1.3", "1.1.7"]
"""Those of Debian 12, 13 and sid."""


def cluster_of(six: bool) -> Cluster:
    base = "fd00::" if six else "10.0.0."
    gateway = Gateway(f"{base}20", {"barman": 54321, "app": 54322}, backend="nftables")
    return Cluster({1: Node(f"{base}11"), 2: Node(f"{base}12")}, gateway, name="main")


MAIN, MAIN_6 = cluster_of(False), cluster_of(True)
OPEN = ("barman", "app")


def recorded(version: str, six: bool = False) -> str:
    """What a version printed after ``swap`` had led both ports to node 1."""
    return (RECORDED / f"{version}{'-ipv6' if six else ''}.json").read_text()


def changed(printed: str, change: Callable[[list[Any]], object]) -> str:
    items = json.loads(printed)["nftables"]
    change(items)
    return json.dumps({"nftables": items})


def led(printed: str, node: int = 1, cluster: Cluster = MAIN) -> str:
    """The change after which both ports lead to a node."""
    return backends.lead(cluster, nftables.parse(printed, cluster), OPEN, node, True)


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_table_that_is_right_is_left_alone_whatever_version_prints_it(version: str, six: bool) -> None:
    cluster = cluster_of(six)
    ours = nftables.parse(recorded(version, six), cluster)
    assert (ours.there, ours.missing, ours.repairs) == (True, (), ())
    assert ours.leading == {(54321, cluster.endpoint(1)), (54322, cluster.endpoint(1))}
    assert backends.leads_to(cluster, ours) == {"barman": 1, "app": 1}
    assert led(recorded(version, six), 1, cluster) == ""
    assert led(recorded(version, six), 2, cluster) != ""


def items_of(kind: str, items: list[Any], **named: str) -> list[Any]:
    return [i[kind] for i in items if kind in i and all(i[kind].get(k) == v for k, v in named.items())]


NOTHING: list[tuple[str, Callable[[list[Any]], object]]] = [
    ("other handles", lambda items: [v.update(handle=99) for i in items for v in i.values()]),
    (
        "packets counted",
        lambda items: [
            s["counter"].update(packets=7) for r in items_of("rule", items) for s in r["expr"] if "counter" in s
        ],
    ),
    ("another version", lambda items: items[0]["metainfo"].update(version="9.9")),
    ("another order", lambda items: items.reverse()),
]


@pytest.mark.parametrize("change", [case[1] for case in NOTHING], ids=[case[0] for case in NOTHING])
def test_what_is_no_difference(change: Callable[[list[Any]], object]) -> None:
    assert led(changed(recorded("1.0.6"), change)) == ""


def drop(kind: str, **named: str) -> Callable[[list[Any]], object]:
    def without(items: list[Any]) -> None:
        items[:] = [item for item in items if not items_of(kind, [item], **named)]

    return without


def again(**named: str) -> Callable[[list[Any]], object]:
    return lambda items: items.append({"rule": items_of("rule", items, **named)[0]})


TO_NO_ADDRESS = [
    {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 54322}},
    {"dnat": {"port": 5432}},
]
"""``tcp dport 54322 dnat to :5432``"""
TEXT = "jump {\n\t\t\tcounter packets 0 bytes 0 accept\n\t\t}"
"""Of a chain without a name, nft 1.0.6 prints this, and on stderr that the statement has no "json callback"."""

WRONG: list[tuple[str, Callable[[list[Any]], object]]] = [
    ("all is gone", lambda items: items.clear()),
    ("table dormant", lambda items: items[1]["table"].update(flags=["dormant"])),
    ("no PREROUTING", drop("chain", name="PREROUTING")),
    ("no jump", drop("rule", chain="OUTPUT")),
    ("a jump twice", again(chain="OUTPUT")),
    ("no rules", drop("rule", chain="repmgr_dnat")),
    ("a rule twice", again(chain="repmgr_dnat")),
    ("another priority", lambda items: items_of("chain", items, name="PREROUTING")[0].update(prio=-100)),
    ("a policy", lambda items: items_of("chain", items, name="POSTROUTING")[0].update(policy="drop")),
    ("a rule of others", lambda items: items.append({"rule": {"chain": "repmgr_dnat", "expr": [{"accept": None}]}})),
    ("a port led to no address", lambda items: items.append({"rule": {"chain": "repmgr_dnat", "expr": TO_NO_ADDRESS}})),
    ("what nft has no JSON for", lambda items: items_of("rule", items, chain="repmgr_dnat")[0]["expr"].insert(0, TEXT)),
    ("a chain of others", lambda items: items.append({"chain": {"name": "theirs"}})),
    ("a set", lambda items: items.append({"set": {"name": "theirs", "type": "ipv4_addr"}})),
    ("no ct status", lambda items: items_of("rule", items, chain="repmgr_snat")[0]["expr"].pop(2)),
    ("a comment", lambda items: items_of("rule", items, chain="repmgr_snat")[0].update(comment="theirs")),
]


@pytest.mark.parametrize("change", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
def test_whatever_is_wrong_the_table_is_made_anew(change: Callable[[list[Any]], object]) -> None:
    tables = NftTables()
    tables.take(led(changed(recorded("1.0.6"), change)))
    right = tables.list("ip", "repmgr_hooks_main")
    assert right is not None
    assert led(right) == ""
    assert tables.reached("10.0.0.20", 54322) == "10.0.0.11:5432"


def test_the_table_and_what_it_does() -> None:
    for cluster, socket in ((MAIN, "10.0.0.12:5432"), (MAIN_6, "[fd00::12]:5432")):
        tables, node, gateway = NftTables(), cluster.nodes[2].host, cluster.gateway.address
        tables.take(led("", 2, cluster))
        for hook in ("prerouting", "output"):
            assert tables.reached(gateway, 54321, hook) == tables.reached(gateway, 54322, hook) == socket
            assert tables.reached(gateway, 22, hook) is None
            assert tables.reached(node, 54322, hook) is None
        assert tables.source_seen_by(node, 5432) == gateway
        assert tables.source_seen_by(node, 5432, led=False) is None, "repmgrd's looks and ours keep their way"
        assert tables.source_seen_by(cluster.nodes[1].host, 5432) is None


def test_what_refers_to_something_else_is_not_written_again() -> None:
    """A rule with a set of its own would make the whole transaction fail, and the stale primary keep its clients."""
    blocked = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "@blocked"}}
    theirs = [
        {"rule": {"chain": "repmgr_dnat", "expr": [blocked, {"drop": None}]}},
        {"rule": {"chain": "repmgr_dnat", "expr": [{"xt": None}]}},
        {"rule": {"chain": "repmgr_dnat", "expr": [{"counter": {"packets": 1, "bytes": 60}}, {"accept": None}]}},
    ]
    ours = nftables.parse(changed(recorded("1.0.6"), lambda items: items.extend(theirs)), MAIN)
    text = backends.close(MAIN, ours, {54321})
    tables = NftTables()
    tables.take(text)
    assert (tables.reached("10.0.0.20", 54321), tables.reached("10.0.0.20", 54322)) == (None, "10.0.0.11:5432")
    assert "blocked" not in text
    assert "xt" not in text
    assert '{"accept": null}' in text


def test_after_a_change_the_same_is_read_as_after_the_real_one() -> None:
    change, tables = led(recorded("1.0.6"), 2), NftTables()
    tables.take(change)
    said = tables.list("ip", "repmgr_hooks_main")
    assert said is not None
    imagined, real = (nftables.parse(text, MAIN) for text in (nftables.after(recorded("1.0.6"), change), said))
    assert backends.leads_to(MAIN, imagined) == backends.leads_to(MAIN, real) == {"barman": 2, "app": 2}
    assert imagined.repairs == real.repairs == ()
    gone = nftables.after(said, nftables.removal(MAIN, real))
    assert nftables.parse(gone, MAIN) == nftables.parse("", MAIN)


@st.composite
def listings(draw: st.DrawFn) -> str:
    """Our table as some day left it."""
    items = json.loads(recorded("1.0.6"))["nftables"]
    rules = [item for item in items if items_of("rule", [item]) and item["rule"]["chain"].startswith("repmgr")]
    others = [item for item in items if item not in rules]
    there = draw(st.lists(st.sampled_from(rules), max_size=5))
    text = json.dumps([*draw(st.permutations(others))[: draw(st.integers(1, len(others)))], *there])
    return (
        f'{{"nftables": {text.replace("10.0.0.11", draw(st.sampled_from(["10.0.0.11", "10.0.0.12", "10.0.0.99"])))}}}'
    )


@given(listings(), st.sampled_from([1, 2]), st.sets(st.sampled_from(OPEN)))
def test_whatever_the_table_was_exactly_the_named_ports_lead_to_the_primary(
    printed: str, primary: int, ports: set[str]
) -> None:
    host = MAIN.nodes[primary].host
    tables = NftTables()
    tables.take('{"nftables": [{"add": {"table": {"family": "ip", "name": "theirs"}}}]}')
    change = backends.lead(MAIN, nftables.parse(printed, MAIN), ports, primary, True)
    tables.take(change or backends.BACKENDS["nftables"].swap(MAIN, nftables.parse(printed, MAIN).rules))
    for name, number in MAIN.gateway.ports.items():
        for hook in ("prerouting", "output"):
            assert tables.reached("10.0.0.20", number, hook) == (f"{host}:5432" if name in ports else None)
    assert ("ip", "theirs") in tables.tables
    said = tables.list("ip", "repmgr_hooks_main")
    assert said is not None
    assert backends.lead(MAIN, nftables.parse(said, MAIN), ports, primary, True) == "", "a second run has nothing to do"


@given(listings(), st.sets(st.sampled_from([1, 2]), min_size=1))
def test_whatever_the_table_was_nothing_leads_to_a_stale_primary(printed: str, nodes: set[int]) -> None:
    ours, stale = nftables.parse(printed, MAIN), {MAIN.nodes[node].host for node in nodes}
    change = backends.close(MAIN, ours, (), nodes)
    assert bool(change) == any(to.host in stale for _, to in ours.leading)
    if change:
        tables = NftTables()
        tables.take(change)
        for number in MAIN.gateway.ports.values():
            reached = tables.reached("10.0.0.20", number)
            assert reached is None or reached.partition(":")[0] not in stale
