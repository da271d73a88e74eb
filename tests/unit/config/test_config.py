"""The configuration file: what is in it, and every mistake of it at once, with its line and its path."""

from __future__ import annotations

import copy
import json
import string
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks import config, config_file
from repmgr_hooks.engine.routes import When
from repmgr_hooks.errors import UsageError
from repmgr_hooks.netfilter.route import Route
from repmgr_hooks.settings.cluster import Readers

FILE = Path(__file__).resolve().parents[3] / "config/config.yaml"
GOOD = FILE.read_text()


def mistakes(tmp_path: Path, text: str | bytes) -> str:
    """What is said about a file that must be refused."""
    path = tmp_path / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UsageError) as refused:
        config.load(path)
    assert str(refused.value).startswith(str(path))
    return str(refused.value).removeprefix(str(path))


def changed(old: str, new: str) -> str:
    """The repository's file with one thing changed."""
    assert GOOD.count(old) == 1, f"{old!r} stands there {GOOD.count(old)} times"
    return GOOD.replace(old, new)


def test_the_repositorys_file_says_what_the_article_does() -> None:
    main = config.load(FILE).clusters["main"]
    cluster, (promoted, demoted) = main.cluster, main.routes
    assert cluster.name == "main"
    assert {number: node.host for number, node in cluster.nodes.items()} == {1: "10.0.0.11", 2: "10.0.0.12"}
    assert (cluster.gateway.address, dict(cluster.gateway.ports)) == ("10.0.0.20", {"barman": 54321, "app": 54322})
    assert (cluster.gateway.chains.dnat, cluster.gateway.chains.snat) == ("repmgr_dnat", "repmgr_snat")
    assert cluster.barman and cluster.barman.command == ("barman",)
    assert promoted.on == {
        "primary_register",
        "standby_promote",
        "repmgrd_failover_promote",
        "standby_switchover",
        "repmgrd_reload",
    }
    assert [action.title for action in promoted.do] == [
        "firewall {open: barman}",
        "slot {on: primary}",
        "barman {stream: true, min_stream_age: 0}",
        "barman {switch_wal: {timeout: 90}}",
        "firewall {open: app, fail_open_after: 120}",
    ]
    assert {"node_rejoin", "repmgrd_standby_reconnect", "standby_switchover"} <= demoted.on
    assert [action.title for action in demoted.do] == ["slot {on: standbys, state: absent}"]


def test_how_long_a_node_may_take_who_is_a_witness_and_when_to_hold(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    text = changed("timeout: 2}", "timeout: 7}").replace("10.0.0.12}", "10.0.0.12, witness: true}")
    path.write_text(text.replace("{changes: 5, window: 600}", "{changes: 3, window: 60}"))
    cluster, plain = (config.load(file).clusters["main"].cluster for file in (path, FILE))
    assert [node.witness for node in cluster.nodes.values()] == [False, True]
    assert (cluster.postgres.timeout, "connect_timeout=7" in cluster.conninfos()[1]) == (7, True)
    assert (cluster.flap_limit.changes, cluster.flap_limit.window) == (3, 60)
    assert (plain.postgres.timeout, plain.flap_limit.changes, plain.flap_limit.window) == (2, 5, 600)


def test_conninfos_carry_no_password_and_a_limit() -> None:
    dsn = config.load(FILE).clusters["main"].cluster.conninfos()[2]
    assert "host=10.0.0.12" in dsn
    assert "connect_timeout=2" in dsn
    assert "passfile=/etc/repmgr-hooks/pgpass" in dsn
    assert "password" not in dsn


def test_a_node_that_is_cut_off_is_given_up_by_the_kernel(tmp_path: Path) -> None:
    """A look at Barman's archive that had begun when the cable was pulled held a failover up until its own 30 s."""
    dsn = config.load(FILE).clusters["main"].cluster.conninfos()[2]
    assert "keepalives_idle=3 keepalives_interval=2 keepalives_count=3 tcp_user_timeout=9000" in dsn
    (file := tmp_path / "config.yaml").write_text(changed("timeout: 2}", "timeout: 2, tcp_user_timeout: 20000}"))
    assert "tcp_user_timeout=20000" in config.load(file).clusters["main"].cluster.conninfos()[2]


FIVE_MISTAKES = """\
clusters:
  main:
    nodes:
      1: {host: db1.example.org}
      2: {host: 10.0.0.12}
    promotion_timeuot: 30
    gateway: {address: 10.0.0.20, ports: {app: 70000}}
    routes:
      - on: [standby promote]
        do:
          - firewal: {open: app}
"""


def test_all_five_mistakes_are_reported_at_once_each_with_line_and_path(tmp_path: Path) -> None:
    first, *rest = mistakes(tmp_path, FIVE_MISTAKES).splitlines()
    assert first == ": 5 mistakes:"
    for expected in (
        "  line 4: clusters.main.nodes.1.host: must be an IP address",
        "    HINT: look it up, and write the address; a node may have its 'name' beside it",
        "  line 6: clusters.main.promotion_timeuot: unknown option",
        "    HINT: did you mean 'promotion_timeout'?",
        "  line 7: clusters.main.gateway.ports.app: must be between 1 and 65535; got 70000",
        "  line 9: clusters.main.routes[0].on[0]: 'standby promote' is not the name of an event",
        "  line 11: clusters.main.routes[0].do[0].firewal: no such handler",
        "    HINT: did you mean 'firewall'?",
    ):
        assert len([line for line in rest if line.startswith(expected)]) == 1, expected
    assert len(rest) == 8


def test_an_event_of_a_newer_repmgr_may_be_routed_and_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = FILE.read_text().replace("on: [primary_register,", "on: [standby_split, standby_promot, primary_register,")
    (tmp_path / "config.yaml").write_text(text)
    (route, *_) = config.load(tmp_path / "config.yaml").clusters["main"].routes
    assert {"standby_split", "standby_promot"} <= route.on
    said = "clusters.main.routes[0].on[1]: standby_promot is not an event of repmgr that this version knows"
    assert said in caplog.text
    assert [getattr(record, "hints", ()) for record in caplog.records][-1] == ("did you mean 'standby_promote'?",)


def test_when(tmp_path: Path) -> None:
    when = "            when: {node: [2], success: false, role: [primary], primary: known}\n"
    text = FILE.read_text().replace("          - slot: {on: primary}\n", f"          - slot: {{on: primary}}\n{when}")
    (tmp_path / "config.yaml").write_text(text)
    action = config.load(tmp_path / "config.yaml").clusters["main"].routes[0].do[1]
    assert action.when == When((2,), False, ("primary",), "known")
    assert action.title == "slot {on: primary} when {node: [2], success: false, role: ['primary'], primary: known}"


NODE_2, APP, SLOT, STREAM = (
    "2: {host: 10.0.0.12}",
    "app: 54322",
    "- slot: {on: primary}",
    "- barman: {stream: true, min_stream_age: 0}",
)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (NODE_2, "1: {host: 10.0.0.12}", "clusters.main.nodes.1: this key appears twice"),
        (NODE_2, "0: {host: 10.0.0.12}", "clusters.main.nodes.0: must be between 1"),
        (NODE_2, "two: {host: 10.0.0.12}", "clusters.main.nodes.two: must be a whole number"),
        (NODE_2, "2: {}", "clusters.main.nodes.2: the option 'host' is missing"),
        (NODE_2, "2: {host: 10.0.0.12/24}", "clusters.main.nodes.2.host: must be an IP address"),
        (APP, "app: true", "clusters.main.gateway.ports.app: must be a whole number; got 'True'"),
        (APP, "app: 0", "clusters.main.gateway.ports.app: must be between 1 and 65535; got 0"),
        ("snat: repmgr_snat", "snat: 'a b'", "clusters.main.gateway.chains.snat: must be a chain name of our own"),
        (
            "dnat: repmgr_dnat",
            f"dnat: {'c' * 29}",
            "clusters.main.gateway.chains.dnat: must be a chain name of our own",
        ),
        (
            "promotion_timeout: 30",
            "unknown: {close: [ap]}",
            "clusters.main.unknown.close: the gateway has no port 'ap'",
        ),
        ("promotion_timeout: 30", "unknown: {close: []}", "clusters.main.unknown.close: must not be empty"),
        (SLOT, "- {slot: {on: primary}, when: {}, firewall: {}}", "must be one handler and its options"),
        (SLOT, "- {slot: {on: primary}, when: {node: []}}", "when.node: must not be empty"),
        (SLOT, "- {slot: {on: primary}, when: {role: []}}", "when.role: must not be empty"),
        (SLOT, "- {slot: {on: primary}, when: {success: 1}}", "when.success: must be true or false"),
        (SLOT, "- {slot: {on: primary}, when: {role: [master]}}", "when.role[0]: must be one of primary, standby"),
        (SLOT, "- {slot: {on: primary}, when: {nod: [1]}}", "when.nod: unknown option\n    HINT: did you mean 'node'?"),
        ("slot_name: barman,", "slot_name: Bar,", "clusters.main.barman.slot_name: must be at most 63 of a-z"),
        ("server: main_backup", "server: -x", "clusters.main.barman.server: must be a plain name"),
        ("promotion_timeout: 30", "promotion_timeout: 1.5", "clusters.main.promotion_timeout: must be a whole number"),
        ("promotion_timeout: 30", "promotion_timeout: 0", "clusters.main.promotion_timeout: must be between 1"),
        (
            "promotion_timeout: 30",
            "system_identifier: 7400000000000000001",
            "clusters.main.system_identifier: must be a str",
        ),
        (
            "{open: barman}",
            "{open: barmann}",
            "do[0].firewall: the gateway has no port 'barmann'\n    HINT: did you mean 'barman'?",
        ),
        (SLOT, "- slot: {on: master}", "do[1].slot.on: must be one of primary, standbys"),
        (SLOT, "- slot", "do[1]: must be one handler and its options"),
        (SLOT, "- {slot: {on: primary}, barman: {}}", "do[1]: must be one handler and its options"),
        (SLOT, "- slot:", "do[1].slot: the option 'on' is missing"),
        (
            SLOT,
            "- slot: {on: primary, stat: absent}",
            "do[1].slot.stat: unknown option\n    HINT: did you mean 'state'?",
        ),
        (STREAM, "- barman: {stream: yes}", "do[2].barman.stream: must be true or false; got 'yes'"),
        (STREAM, "- barman: {}", "do[2].barman: asks for nothing"),
        (
            STREAM,
            "- command: {run: [page-me]}",
            "do[2].command.run: must be a list that begins with the absolute path",
        ),
        (STREAM, "- command: {run: /bin/true}", "do[2].command.run: must be a list"),
        ("timeout: 90", "timeout: 100000", "do[3].barman.switch_wal.timeout: must be between 1 and 3600"),
        (
            "fail_open_after: 120",
            "fail_open_after: null",
            "do[4].firewall.fail_open_after: must be 'never' or between 1 and 3600",
        ),
        ("state_dir:", "statedir:", "statedir: unknown option\n    HINT: did you mean 'state_dir'?"),
    ],
)
def test_a_mistake_is_reported_with_its_line_and_path(tmp_path: Path, old: str, new: str, said: str) -> None:
    first, _, mistake = mistakes(tmp_path, changed(old, new)).partition("\n")
    line = GOOD[: GOOD.index(old)].count("\n") + 1
    assert first == ": 1 mistake:"
    assert mistake.startswith(f"  line {line}: ")
    assert said in mistake


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("fd00::12", "mixes IPv4 and IPv6: netfilter cannot translate one into the other"),
        ("10.0.0.11", "10.0.0.11 appears twice"),
    ],
)
def test_nodes_that_do_not_go_together(tmp_path: Path, host: str, said: str) -> None:
    line = GOOD[: GOOD.index("    nodes:")].count("\n") + 1
    assert f"  line {line}: clusters.main.nodes: {said}" in mistakes(tmp_path, changed(NODE_2, f"2: {{host: {host}}}"))


def test_two_nodes_on_one_host_have_a_port_each(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(changed(NODE_2, "2: {host: 10.0.0.11, port: 5433}"))
    cluster = config.load(path).clusters["main"].cluster
    assert [cluster.endpoint(node) for node in cluster.nodes] == [("10.0.0.11", 5432), ("10.0.0.11", 5433)]
    for port, said in (("5432", "10.0.0.11 appears twice"), ("0", "must be between 1 and 65535")):
        assert said in mistakes(tmp_path, changed(NODE_2, f"2: {{host: 10.0.0.11, port: {port}}}"))
    same = changed(NODE_2, "2: {host: 10.0.0.12, port: 5433}\n      3: {host: 10.0.0.12, port: 5433}")
    assert "10.0.0.12:5433 appears twice" in mistakes(tmp_path, same)


def test_a_witness_on_the_gateways_host_has_a_port_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(changed(NODE_2, f"{NODE_2}\n      3: {{host: 10.0.0.20, port: 5433, witness: true}}"))
    assert config.load(path).clusters["main"].cluster.endpoint(3) == ("10.0.0.20", 5433)
    taken = changed(NODE_2, f"{NODE_2}\n      3: {{host: 10.0.0.20, port: 54322, witness: true}}")
    assert "54322 of 10.0.0.20 is node 3's own" in mistakes(tmp_path, taken)


def test_a_program_that_switches_a_host_off_is_not_for_two_nodes_on_it(tmp_path: Path) -> None:
    text = with_former_primary("{fence: {program: [/bin/true]}}", *SHELLS)
    path = tmp_path / "config.yaml"
    path.write_text(text)
    config.load(path)
    together = text.replace("2: {host: 10.0.0.12", "2: {port: 5433, host: 10.0.0.11")
    said = "clusters.main.former_primary.fence.program: would switch off 10.0.0.11, and each node on it"
    assert said in mistakes(tmp_path, together)


def test_handlers_that_need_barman_say_so(tmp_path: Path) -> None:
    text = "\n".join(line for line in GOOD.splitlines() if not line.startswith("    barman:"))
    assert mistakes(tmp_path, text).count("needs the section 'barman' of the cluster") == 4


@pytest.mark.parametrize(
    "name", ["Second", "a-b", "a.b", "a b", "", "'", "x" * 64, "slöt", "a\nb", "%s", "repmgr_slot_1", "a;drop"]
)
def test_a_slot_that_postgresql_or_repmgr_would_not_let_us_have(tmp_path: Path, name: str) -> None:
    text = changed("slot: {on: primary}", f"slot: {{on: primary, name: {json.dumps(name)}}}")
    assert "slot" in mistakes(tmp_path, text)


def test_slots_of_several_names_have_states_of_their_own(tmp_path: Path) -> None:
    line = "          - slot: {on: standbys, state: absent}\n"
    more = "          - slot: {name: second, on: standbys, state: synced}\n"
    (tmp_path / "config.yaml").write_text(changed(line, line + more))
    (main,) = config.load(tmp_path / "config.yaml").clusters.values()
    assert main.kept_slots == ("barman",)
    third = more.replace("synced", "absent")
    said = "routes: slot second of standbys cannot be both absent and synced"
    assert said in mistakes(tmp_path, changed(line, line + more + third))


def test_a_route_without_do(tmp_path: Path) -> None:
    text = GOOD + "      - on: [standby_promote]\n"
    assert "clusters.main.routes[2]: the option 'do' is missing" in mistakes(tmp_path, text)


def test_on_and_off_and_no_are_words(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        changed("server: main_backup", "server: off").replace("app: 54322", "no: 54322").replace(": app", ": no")
    )
    cluster = config.load(path).clusters["main"].cluster
    assert cluster.barman and cluster.barman.server == "off"
    assert "no" in cluster.gateway.ports


def two_clusters(old: str, new: str) -> str:
    """The repository's cluster twice, the second one with other addresses, and one thing changed in it."""
    tree = yaml.load(GOOD, yaml.BaseLoader)
    again = yaml.dump(tree["clusters"]["main"]).replace("10.0.0.", "10.0.1.")
    again = again.replace("repmgr_dnat", "other_dnat").replace("repmgr_snat", "other_snat")
    again = again.replace("main_backup", "other_backup")
    assert old in again
    # Read as strings, dumped as strings: let the numbers be numbers again.
    again = again.replace(old, new).replace("'", "")
    return GOOD + "  other:\n" + "".join(f"    {line}\n" for line in again.splitlines())


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("other_dnat", "repmgr_dnat", "clusters.other.gateway: chain repmgr_dnat is already that of cluster 'main'"),
        ("other_snat", "repmgr_dnat", "clusters.other.gateway: chain repmgr_dnat is already that of cluster 'main'"),
        ("10.0.1.20", "10.0.0.20", "gateway: port 10.0.0.20:54322 is already that of cluster 'main'"),
    ],
)
def test_two_clusters_share_neither_chains_nor_ports(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in mistakes(tmp_path, two_clusters(old, new))


def test_two_clusters_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(two_clusters("10.0.1.20", "10.0.1.20"))
    assert list(config.load(path).clusters) == ["main", "other"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "the file must hold a mapping with 'clusters'"),
        (b"# nothing\n", "the file must hold a mapping with 'clusters'"),
        (b"just words", "the file must hold a mapping with 'clusters'"),
        (b"- a\n- b\n", "the file must hold a mapping with 'clusters'"),
        (b"clusters:\n", "clusters: must be a mapping with at least one entry"),
        (b"clusters: {main: 5}\n", "clusters.main"),
        (b"clusters: [\n", "not YAML"),
        (b"a: b: c\n", "line 1: not YAML"),
        (b"a: 1\n---\nb: 2\n", "line 2: not YAML"),
        (b"a: *nowhere\n", "not YAML"),
        (b"a: !!python/object:os.system {}\n", "a: cannot be read as python/object:os.system"),
        (b"? [a, b]\n: 1\n", "not a plain key"),
        (b"\x7fELF\x02\x01\x01\x00\x00\x00", "not YAML"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
        (b"clusters: \x80\n", "cannot be read"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, text: bytes, said: str) -> None:
    assert said in mistakes(tmp_path, text)


def test_a_missing_file_and_a_directory(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.yaml", tmp_path):
        with pytest.raises(UsageError, match="cannot be read: "):
            config.load(path)


def test_which_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REPMGR_HOOKS_CONFIG", raising=False)
    assert str(config_file.config_path(None)) == "/etc/repmgr-hooks/config.yaml"
    monkeypatch.setenv("REPMGR_HOOKS_CONFIG", "/from/the/environment.yaml")
    assert str(config_file.config_path(None)) == "/from/the/environment.yaml"
    assert str(config_file.config_path("/given.yaml")) == "/given.yaml"


# -- any tree at all ---------------------------------------------------------------------------------------------------

WORDS = [
    "clusters",
    "nodes",
    "gateway",
    "ports",
    "chains",
    "barman",
    "routes",
    "on",
    "do",
    "firewall",
    "slot",
    "command",
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-1, 70000)
    | st.floats()
    | st.sampled_from([*WORDS, "primary", "standby_promote", "10.0.0.11", "fd00::11", "1.2.3", "", "on", "off"])
    | st.text(string.printable, max_size=5)
    | st.text(max_size=5)
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | SCALARS, inner, max_size=4),
    max_leaves=12,
)


def nothing_but_bad_input(path: Path, tree: object) -> None:
    path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    try:
        loaded = config.load(path)
    except UsageError as refused:
        assert str(refused).startswith(str(path))
    else:
        assert loaded.clusters


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees") / "config.yaml"


@given(tree=TREES)
def test_any_tree_loads_or_is_refused(file: Path, tree: object) -> None:
    nothing_but_bad_input(file, tree)


@given(data=st.data())
def test_the_good_file_with_anything_in_any_place_loads_or_is_refused(file: Path, data: st.DataObject) -> None:
    tree = copy.deepcopy(GOOD_TREE)
    here: dict | list = tree
    while True:
        key = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
        if not isinstance(here[key], dict | list) or data.draw(st.integers(0, 4)) == 0:
            break
        here = here[key]
    if data.draw(st.booleans()):
        here[key] = data.draw(TREES)
    else:
        del here[key]
        if isinstance(here, dict):
            here[data.draw(st.sampled_from(WORDS) | st.integers(0, 3))] = data.draw(TREES)
    nothing_but_bad_input(file, tree)


GOOD_TREE = yaml.safe_load(GOOD.replace(" on:", " 'on':").replace("{on:", "{'on':"))


@pytest.mark.parametrize(
    "text",
    [
        "a: trueish",
        "a: false_alarm",
        "a: 2026-02-30",
        "a: 0x_",
        "a: !!int many",
        "a: !!bool maybe",
        "a: " + "9" * 5000,
        "a: &a [*a]",
        "[" * 2000,
    ],
    ids=lambda text: text[:16],
)
def test_yaml_that_cannot_be_made_into_values(tmp_path: Path, text: str) -> None:
    mistakes(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (APP, "app: 54321", "clusters.main.gateway.ports: 54321 appears twice"),
        ("snat: repmgr_snat", "snat: repmgr_dnat", "clusters.main.gateway.chains: dnat and snat must be two chains"),
    ],
)
def test_what_stands_twice_in_one_cluster_is_one_mistake(tmp_path: Path, old: str, new: str, said: str) -> None:
    message = mistakes(tmp_path, changed(old, new))
    assert said in message
    assert "1 mistake:" in message


def test_an_option_with_no_value_is_not_the_other_choice(tmp_path: Path) -> None:
    assert "slot.on: must be one of primary, standbys" in mistakes(
        tmp_path, changed("slot: {on: primary}", "slot: {on: }")
    )


@pytest.mark.parametrize("spelling", ["FD00::12", "fd00::0012", "fd00:0:0:0:0:0:0:12"])
def test_an_ipv6_address_in_a_spelling_that_iptables_does_not_print_is_refused(tmp_path: Path, spelling: str) -> None:
    text = GOOD.replace("10.0.0.12", spelling).replace("10.0.0.", "fd00::")
    assert f"clusters.main.nodes.2.host: must be spelt fd00::12; got '{spelling}'" in mistakes(tmp_path, text)


def test_an_ipv6_address_as_iptables_prints_it(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD.replace("10.0.0.", "fd00::"))
    assert config.load(path).clusters["main"].cluster.nodes[2].host == "fd00::12"


def test_an_address_with_a_scope_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace("10.0.0.12", "fe80::12%eth0").replace("10.0.0.", "fd00::")
    assert "nodes.2.host" in mistakes(tmp_path, text)


def test_a_built_in_chain_is_refused(tmp_path: Path) -> None:
    assert "gateway.chains.dnat" in mistakes(tmp_path, changed("dnat: repmgr_dnat", "dnat: PREROUTING"))


def test_an_empty_barman_command_is_refused(tmp_path: Path) -> None:
    assert "barman.command" in mistakes(tmp_path, changed("command: [barman]}", "command: []}"))


FORMER = "    # former_primary:\n    #   clone: primary\n    #   config_files: [postgresql.conf, pg_hba.conf]\n"
SHELLS = {f"{n}: {{host: 10.0.0.1{n}}}": f"{n}: {{host: 10.0.0.1{n}, shell: [ssh, postgres@db{n}]}}" for n in (1, 2)}


def with_former_primary(options: str, *shells: str) -> str:
    text = changed(FORMER, f"    former_primary: {options}\n")
    for line in shells:
        text = text.replace(f"      {line}", f"      {SHELLS[line]}")
    return text


def test_the_example_of_a_former_primary(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(with_former_primary("{clone: primary, config_files: [postgresql.conf, pg_hba.conf]}", *SHELLS))
    settings = config.load(path).clusters["main"].cluster.former_primary
    assert settings is not None
    assert (settings.clone, settings.config_files) == ("primary", ("postgresql.conf", "pg_hba.conf"))
    assert settings.area("main", 1, "/data/") == "/data.former"
    path.write_text(with_former_primary("{directory: /srv/wal}", *SHELLS))
    settings = config.load(path).clusters["main"].cluster.former_primary
    assert settings is not None
    assert settings.area("main", 1, "/data") == "/srv/wal/main-1"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("{}", "needs a shell on each node, which is missing in nodes.1 and nodes.2"),
        ("{rejoin: false}", "needs a shell on each node"),
        ("{clone: elsewhere}", "must be one of never, primary, barman"),
        ("{config_files: [../pg_hba.conf]}", "must be the name of a file in the data directory"),
        ("{config_files: [/etc/passwd]}", "must be the name of a file in the data directory"),
        ("{fence: {program: [power-off]}}", "must be a list that begins with the absolute path of a program"),
        ("{limit: {attempts: 0}}", "must be between 1 and 86400"),
        ("{rejoin: false, clone: primary}", "is of no use with 'rejoin: false'"),
    ],
)
def test_a_former_primary_that_cannot_be(tmp_path: Path, options: str, said: str) -> None:
    assert said in mistakes(tmp_path, with_former_primary(options))


READERS = changed("app: 54322}", "app: 54322, readers: 54323}")
GATE = "          - firewall: {open: app, fail_open_after: 120}\n"
LINE = "          - firewall: {open: readers, to: standbys, max_lag: 1GB, if_none: close}\n"


def test_a_port_for_readers(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(READERS.replace(GATE, GATE + LINE))
    assert config.load(path).clusters["main"].cluster.readers == {"readers": Readers(1024**3, "close")}
    path.write_text(READERS.replace(GATE, GATE + "          - firewall: {open: readers, to: standbys}\n"))
    assert config.load(path).clusters["main"].cluster.readers == {"readers": Readers(64 * 1024**2, "primary")}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (LINE + LINE.replace("1GB", "2GB"), "port 'readers' is opened in two ways"),
        (LINE + "          - firewall: {open: readers}\n", "port 'readers' is opened in two ways"),
        (LINE.replace("to: standbys, ", ""), "'max_lag' and 'if_none' are for 'to: standbys'"),
        (LINE.replace("standbys", "readers"), "to: must be"),
        (LINE.replace("to: s", "fail_open_after: 9, to: s"), "'fail_open_after' is of no use with 'to: standbys'"),
    ],
)
def test_what_is_wrong_about_readers(tmp_path: Path, lines: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(READERS.replace(GATE, GATE + lines))
    with pytest.raises(UsageError) as error:
        config.load(path)
    assert said in str(error.value)


# -- Barman and several gateways ---------------------------------------------------------------------------------------

PAIR = FILE.parent / "two-gateways.yaml"
EACH = """\
        10.0.0.21: {slot_name: barman_1}
        10.0.0.22: {slot_name: barman_2}
"""


def of_pair(new: str) -> str:
    """The file of two gateways with something else below ``barman.gateways``."""
    text = PAIR.read_text()
    assert EACH in text
    return text.replace(EACH, new)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("        10.0.0.22: {slot_name: barman_2}\n", "no 'slot_name' for 10.0.0.21"),
        (EACH.replace("barman_1", "barman_2"), "slot barman_2 appears twice"),
        (EACH + "        10.0.0.23: {slot_name: barman_3}\n", "is no gateway under 'gateway.hosts'"),
        ("        10.0.0.21: {}\n", "says nothing"),
        ("        gateway2: {slot_name: barman_2}\n", "must be an IP address"),
        (EACH.replace("barman_1", "Barman"), "slot"),
        (EACH + "      slot_name: another\n", "barman.slot_name: is of no use: each gateway has its own"),
    ],
)
def test_a_barman_of_its_own_has_a_slot_of_its_own(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, of_pair(text))


def test_barmans_gateways_need_gateways(tmp_path: Path) -> None:
    text = of_pair(EACH).replace("      hosts: [10.0.0.21, 10.0.0.22]\n", "")
    assert "10.0.0.22: is no gateway under 'gateway.hosts'" in mistakes(tmp_path, text)


def test_nobody_else_keeps_the_slot_of_a_gateways_barman(tmp_path: Path) -> None:
    text = of_pair(EACH).replace("slot: {on: primary}", "slot: {on: primary, name: barman_2}")
    assert "slot barman_2 is that of a gateway's own Barman" in mistakes(tmp_path, text)


def test_no_gateways_barman_has_a_slot_of_repmgrs(tmp_path: Path) -> None:
    text = of_pair(EACH.replace("barman_2", "repmgr_slot_2"))
    assert "slot repmgr_slot_2 is repmgr's" in mistakes(tmp_path, text)


ON_FIRST = """\
      command: [ssh, barman@10.0.0.21, barman]
      gateways:
        10.0.0.21: {command: [barman]}
"""
"""One Barman, on the first gateway."""


def two_pairs(first: str, second: str, hosts: str = "") -> str:
    """Two clusters of two gateways; the second one with other addresses, and what stands for its Barman."""
    text = PAIR.read_text()
    given = "      gateways:\n" + EACH
    assert given in text
    main = text[text.index("  main:") :]
    again = main.replace("  main:", "  other:").replace("address: 10.0.0.20", "address: 10.0.0.30")
    again = again.replace("10.0.0.1", "10.0.1.1").replace(
        "ports:", "chains: {dnat: o_dnat, snat: o_snat}\n      ports:"
    )
    again = again.replace("      hosts: [10.0.0.21, 10.0.0.22]\n", hosts or "      hosts: [10.0.0.21, 10.0.0.22]\n")
    return text.replace(given, first) + again.replace(given, second)


@pytest.mark.parametrize(
    ("first", "second", "shared"),
    [
        (ON_FIRST, ON_FIRST, True),
        (ON_FIRST, "      command: [barman]\n", True),
        (
            ON_FIRST,
            "      command: [ssh, barman@10.0.0.21, barman]\n      gateways:\n        10.0.0.21: {command: [ssh, b]}\n",
            True,
        ),
        ("      gateways:\n" + EACH, "      gateways:\n" + EACH.replace("barman_", "other_"), True),
        (ON_FIRST, "      command: [ssh, barman@10.0.0.40, barman]\n", False),
        (ON_FIRST, ON_FIRST.replace("10.0.0.21", "10.0.0.22"), False),
    ],
)
def test_a_server_of_barmans_is_one_clusters_from_each_gateway(
    tmp_path: Path, first: str, second: str, shared: bool
) -> None:
    said = "clusters.other.barman: server main_backup is already that of cluster 'main'"
    if shared:
        assert said in mistakes(tmp_path, two_pairs(first, second))
    else:
        (tmp_path / "config.yaml").write_text(two_pairs(first, second))
        assert list(config.load(tmp_path / "config.yaml").clusters) == ["main", "other"]


@pytest.mark.parametrize(
    ("command", "shared"), [("[ssh, barman@10.0.0.40, barman]", True), ("[barman]", False)], ids=str
)
def test_gateways_that_share_nothing_may_share_a_barman_elsewhere(tmp_path: Path, command: str, shared: bool) -> None:
    """What is run here is another Barman on each gateway; what ssh leads to is the same one from all."""
    barman = f"      command: {command}\n"
    text = two_pairs(barman, barman, hosts="      hosts: [10.0.0.31, 10.0.0.32]\n")
    if shared:
        assert "server main_backup is already that of cluster 'main'" in mistakes(tmp_path, text)
    else:
        (tmp_path / "config.yaml").write_text(text)
        assert list(config.load(tmp_path / "config.yaml").clusters) == ["main", "other"]


def test_a_cluster_without_gateways_of_its_own_meets_each(tmp_path: Path) -> None:
    text = two_pairs(ON_FIRST, "      command: [barman]\n", hosts="\n")
    assert "server main_backup is already that of cluster 'main'" in mistakes(tmp_path, text)


@pytest.mark.parametrize(
    ("own", "slot"), [("10.0.0.21", "barman_1"), ("10.0.0.22", "barman_2"), ("10.0.0.99", "")], ids=str
)
def test_the_file_is_read_as_that_of_this_gateway(monkeypatch: pytest.MonkeyPatch, own: str, slot: str) -> None:
    monkeypatch.setattr(config, "route_to", lambda address: Route(address == own))
    (main,) = config.load(PAIR).clusters.values()
    assert main.cluster.barman
    assert main.cluster.barman.slot_name == slot
    assert main.kept_slots == ("barman_1", "barman_2")
    assert not config.is_out_of_date(config.load(PAIR))
    (anywhere,) = config.load(PAIR, here=False).clusters.values()
    assert anywhere.cluster.barman
    assert anywhere.cluster.barman.slots == ("barman_1", "barman_2")


def test_an_address_that_comes_after_the_file_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    own: list[str] = []
    monkeypatch.setattr(config, "route_to", lambda address: Route(address in own))
    loaded = config.load(PAIR)
    assert not config.is_out_of_date(loaded)
    own.append("10.0.0.21")
    assert config.is_out_of_date(loaded)
    assert not config.is_out_of_date(config.load(PAIR))


def test_how_barman_is_run_is_known_when_the_address_comes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One Barman for all, reached in another way from each gateway: of that, too, the address decides."""
    path = tmp_path / "config.yaml"
    path.write_text(of_pair("        10.0.0.21: {command: [barman]}\n        10.0.0.22: {command: [ssh, b, barman]}\n"))
    path.chmod(0o600)
    own: list[str] = []
    monkeypatch.setattr(config, "route_to", lambda address: Route(address in own))
    loaded = config.load(path)
    assert not config.is_out_of_date(loaded)
    own.append("10.0.0.22")
    assert config.is_out_of_date(loaded)
    assert not config.is_out_of_date(config.load(path))
    own.clear()
    assert not config.is_out_of_date(config.load(path)), "without an address there is nothing to learn"
