"""Configurations that YAML and the types let pass, and that no cluster can mean: each is refused, with its line."""

from __future__ import annotations

import os
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from psycopg import pq

from repmgr_hooks import config
from repmgr_hooks.errors import UsageError
from repmgr_hooks.handlers import slot
from tests.unit.config.test_config import GOOD, changed, mistakes, two_clusters

NODE_2, GATEWAY, PORTS = "2: {host: 10.0.0.12}", "address: 10.0.0.20", "ports: {barman: 54321, app: 54322}"
DROP, STREAM = "- slot: {on: standbys, state: absent}", "- barman: {stream: true, min_stream_age: 0}"
SWITCH, GATE = "- barman: {switch_wal: {timeout: 90}}", "- firewall: {open: app, fail_open_after: 120}"
POSTGRES, LAST = "timeout: 2}", "command: [barman]}"
ROUTE = "      - on: [repmgrd_promote_error]\n        do: [{command: {run: [/bin/true]}}]\n"


def loaded(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return config.load(path)


def only_mistake(tmp_path: Path, old: str, new: str) -> str:
    """The one mistake of the repository's file with one thing changed; its line is the changed one."""
    first, _, mistake = mistakes(tmp_path, changed(old, new)).partition("\n")
    assert first == ": 1 mistake:"
    return mistake.strip()


def test_half_a_character(tmp_path: Path) -> None:
    """libyaml refuses it itself; PyYAML without libyaml reads it."""
    said = mistakes(tmp_path, changed("command: [barman]", 'command: ["barman\\ud800"]'))
    assert re.search("barman.command.0.: holds a control character|not YAML: found invalid Unicode", said)


@pytest.mark.parametrize("place", [NODE_2, GATEWAY])
@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "reserved"),
        ("127.0.0.1", "loopback"),
        ("127.8.9.10", "loopback"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("255.255.255.255", "broadcast"),
        ("240.0.0.1", "reserved"),
        ("169.254.1.1", "link-local"),
        ("'::'", "unspecified"),
        ("'::1'", "loopback"),
        ("'ff02::1'", "multicast"),
        ("'fe80::1'", "link-local"),
        ("'::ffff:10.0.0.1'", "IPv4-mapped"),
    ],
)
def test_an_address_that_no_host_can_have_here(tmp_path: Path, place: str, address: str, kind: str) -> None:
    said = only_mistake(tmp_path, place, re.sub(r"10[0-9.]+", address, place))
    assert f"must be an address that a host can have; got {address.strip(chr(39))} ({kind})" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (GATEWAY, "address: 10.0.0.12", "clusters.main.gateway.address: 10.0.0.12 is node 2's\n    HINT: give the"),
        (
            "1: {host: 10.0.0.11}\n      2: {host: 10.0.0.12}",
            "1: {host: 10.0.0.11, witness: true}",
            "clusters.main.nodes: all are witnesses: none can be the primary",
        ),
        ("slot_name: barman,", "slot_name: barman, streaming_archiver_name: 'a\\x00b',", "clusters.main.barman.streaming_archiver_name: must be a plain name"),  # noqa: E501 - a row of a table
        ('command: [barman]', 'command: ["barman\\0"]', "barman.command[0]: holds a control character"),
        ('command: [barman]', 'command: ["bar\\e[2Jman"]', "barman.command[0]: holds a control character"),
        ('command: [barman]', 'command: ["bar\\u202eman"]', "barman.command[0]: holds a control character"),
        ('command: [barman]', 'command: [""]', "barman.command[0]: must not be empty"),
        ("server: main_backup", "server: all", "barman.server: 'all' are all servers to Barman"),
        ("retry: {initial_delay: 5, max_delay: 300, max_attempts: 20}", "retry: {initial_delay: 5, max_delay: 4}", "retry: 'initial_delay' (5 s) must not"),  # noqa: E501 - a row of a table
        ("state_dir: /var/lib/repmgr-hooks", "state_dir: /var/../repmgr-hooks", "state_dir: must be an absolute path"),
        ("passfile: /etc/repmgr-hooks/pgpass", "passfile: pgpass", "postgres.passfile: must be an absolute path"),
        ("promotion_timeout: 30", "promotion_timeout: 86400", "must be between 1 and 3600; got 86400"),
        (POSTGRES, "timeout: 86400}", "timeout: must be between 1 and 60; got 86400"),
        ("timeout: 90", "timeout: 86400", "switch_wal.timeout: must be between 1 and 3600; got 86400"),
        ("fail_open_after: 120", "fail_open_after: 86400", "must be 'never' or between 1 and 3600; got '86400'"),
        ("fail_open_after: 120", "fail_open_after: nevr", "must be 'never' or between 1 and 3600; got 'nevr'"),
        ("fail_open_after: 120", "fail_open_after: true", "must be 'never' or between 1 and 3600; got 'True'"),
        ("true, min_stream_age: 0", "true, start_timeout: 86400", "start_timeout: must be between 1 and 3600; got 86400"),  # noqa: E501 - a row of a table
        ("promotion_timeout: 30", "promotion_timeout: 010", "must be a whole number; got '010'"),
        ("promotion_timeout: 30", "promotion_timeout: 0x10", "must be a whole number; got '0x1"),
        ("promotion_timeout: 30", "promotion_timeout: 5:30", "must be a whole number; got '5:3"),
        ("promotion_timeout: 30", "promotion_timeout: 1_0", "must be a whole number; got '1_0'"),
        ("promotion_timeout: 30", "promotion_timeout: +30", "must be a whole number; got '+30'"),
        ("promotion_timeout: 30", "promotion_timeout: !!int '010'", "promotion_timeout: cannot be read as int: '010'"),
        ("promotion_timeout: 30", "promotion_timeout: .inf", "promotion_timeout: must be a whole number"),
        ("promotion_timeout: 30", "promotion_timeout: .nan", "promotion_timeout: must be a whole number"),
        ("promotion_timeout: 30", "promotion_timeout: 1e999", "promotion_timeout: must be a whole number"),
        ("promotion_timeout: 30", "promotion_timeout: 2026-11-20", "promotion_timeout: must be a whole number"),
        ("app: 54322", "app: 0o7", "ports.app: must be a whole number; got '0o7'"),
        ("2: {host: 10.0.0.12}", "010: {host: 10.0.0.12}", "nodes.010: must be a whole number"),
        ("2: {host: 10.0.0.12}", "2: {host: 10.0.0.12, witness: yes}", "witness: must be true or false; got 'yes'"),
        ("2: {host: 10.0.0.12}", "2: !!set {host: 10.0.0.12}", "nodes.2: cannot be read as set"),
        ("[primary_register, ", "[primary_register, primary_register, ", "primary_register appears twice"),
        (DROP, "- slot: {on: primary, state: absent}", "slot: 'state: absent' goes with 'on: standbys'"),
        (DROP, "- slot: {on: primary, state: synced}", "slot: 'state: synced' goes with 'on: standbys'"),
        (DROP, "- slot: {on: standbys, state: absent, max_retained_wal: 5MB}", "slot: 'max_retained_wal' goes with"),
        (DROP, "- slot: {on: standbys, max_retained_wal: 5MB}", "slot: 'max_retained_wal' goes with"),
        (SWITCH, "- barman: {switch_wal: {}, min_stream_age: 2}", "barman: 'min_stream_age' needs 'stream: true'"),
        (SWITCH, "- barman: {switch_wal: {}, start_timeout: 9}", "barman: 'start_timeout' needs 'stream: true'"),
        (SWITCH, "- barman: {switch_wal: {}, repair: true}", "barman: 'repair' needs 'stream: true'"),
        (DROP, f"{DROP}\n          - slot: {{on: standbys, state: synced}}", "routes: slot barman of standbys cannot be both"),  # noqa: E501 - a row of a table
        (DROP, "- command: {run: [/usr/bin]}", "command.run: the program is refused: /usr/bin is not a file"),
        (DROP, "- command: {run: [/bin/true, 5]}", "command.run[1]: must be a string; got '5'\n    HINT: put it"),
        (
            NODE_2,
            f"{NODE_2}\n      3: {{host: 10.0.0.13, witness: true, shell: [ssh, db3]}}",
            "clusters.main.nodes.3: 'shell' is of no use: a witness restores nothing",
        ),
    ],
)  # fmt: skip
def test_what_nobody_can_mean(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert said in only_mistake(tmp_path, old, new)


@pytest.mark.parametrize(
    "name",
    ["ACCEPT", "DROP", "RETURN", "QUEUE", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NFLOG", "TPROXY", "PREROUTING",
     "INPUT", "DOCKER", "standard", "X", "a\tb", "-j", "!x"],
)  # fmt: skip
def test_a_chain_must_not_be_named_as_a_target_or_built_in_chain(tmp_path: Path, name: str) -> None:
    assert "chains.dnat" in only_mistake(tmp_path, "dnat: repmgr_dnat", f'dnat: "{name}"'.replace("\t", "\\t"))


@pytest.mark.parametrize("name", ["REPMGR_DNAT", "MY-CHAIN", "x", "dnat"])
def test_a_chain_of_ones_own(tmp_path: Path, name: str) -> None:
    assert loaded(tmp_path, changed("dnat: repmgr_dnat", f"dnat: {name}")).clusters["main"].cluster.gateway.chains


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (GOOD[: GOOD.index("    routes:")] + "    routes: []\n", "clusters.main.routes: must not be empty"),
        (GOOD + ROUTE.replace("[repmgrd_promote_error]", "[]"), "clusters.main.routes[2].on: must not be empty"),
        (GOOD + "      - on: [repmgrd_promote_error]\n        do: []\n", "main.routes[2].do: must not be empty"),
        (GOOD + "clusters: {}\n", "clusters: this key appears twice"),
        (GOOD + "alerts: []\n", "alerts: must not be empty"),
        (GOOD + "alerts: [{webhook: 'https://['}]\n", "alerts[0]: 'webhook' must be a URL"),
        (GOOD + "alerts: [{webhook: 'https://:5'}]\n", "alerts[0]: 'webhook' must be a URL"),
        (GOOD + "alerts: [{webhook: 'https://a:99999'}]\n", "alerts[0]: 'webhook' must be a URL"),
        (GOOD + "alerts: [{mail: [a], smtp_relay: 'b:99999'}]\n", "alerts[0]: 'smtp_relay' names an invalid port"),
        (GOOD + "alerts: [{mail: [a]}, {mail: [a]}]\n", "alerts[1]: mail a appears twice"),
    ],
)
def test_lists_that_are_empty_and_entries_that_cannot_be(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistakes(tmp_path, text)


def test_a_witness_beside_the_gateway_is_seen_unless_its_port_leads_away(tmp_path: Path) -> None:
    text = changed(NODE_2, f"{NODE_2}\n      3: {{host: 10.0.0.20, witness: true}}")
    loaded(tmp_path, text)
    said = mistakes(tmp_path, text.replace("app: 54322", "app: 5432"))
    assert "gateway.ports: 5432 of 10.0.0.20 is node 3's own" in said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("10.0.1.12", "10.0.0.12", "clusters.other.nodes: port 10.0.0.12:5432 is already that of cluster 'main'"),
        ("other_backup", "main_backup", "clusters.other.barman: server main_backup is already that of cluster 'main'"),
        ("10.0.1.12", "10.0.0.20", ""),
    ],
)
def test_two_clusters_share_neither_nodes_nor_barmans_server(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = two_clusters(old, new)
    if said:
        assert said in mistakes(tmp_path, text)
    else:
        loaded(tmp_path, text)


def test_two_clusters_on_two_barmans(tmp_path: Path) -> None:
    text = two_clusters("other_backup", "main_backup").replace(
        "    barman:\n      command:\n      - barman", "    barman:\n      command: [ssh, other, barman]\n      #"
    )
    assert len(loaded(tmp_path, text).clusters) == 2


def test_a_hundred_clusters_of_three_nodes_and_ten_ports(tmp_path: Path) -> None:
    """All that one gateway is made for; written out, as an editor or a template writes it."""
    path = tmp_path / "config.yaml"
    settings = yaml.load(GOOD, yaml.BaseLoader)
    settings["clusters"] = {f"c{number}": cluster_of_ten_ports(number) for number in range(1, 101)}
    # Read as strings, dumped as strings: let the numbers be numbers again.
    path.write_text(yaml.dump(settings).replace("'", ""))
    clusters = config.load(path).clusters.values()
    assert len(clusters) == 100
    assert sum(len(each.cluster.gateway.ports) for each in clusters) == 1000


def cluster_of_ten_ports(number: int) -> dict[str, Any]:
    """The repository's cluster with three nodes and ten ports; one of many."""
    cluster: dict[str, Any] = yaml.load(GOOD, yaml.BaseLoader)["clusters"]["main"]
    cluster["nodes"] = {node: {"host": f"10.1.{number}.{node}"} for node in (1, 2, 3)}
    ports = [f"app{more}" for more in range(2, 10)]
    first = 20_000 + 10 * number
    cluster["gateway"]["ports"] = {name: first + each for each, name in enumerate(("barman", "app", *ports))}
    cluster["gateway"]["chains"] = {"dnat": f"dnat{number}", "snat": f"snat{number}"}
    cluster["barman"]["server"] = f"backup{number}"
    cluster["routes"][0]["do"] += [{"firewall": {"open": name, "fail_open_after": "120"}} for name in ports]
    return cluster


def test_true_and_false_as_yaml_spells_them(tmp_path: Path) -> None:
    for word in ("true", "True", "TRUE"):
        assert loaded(tmp_path, changed("{host: 10.0.0.12}", f"{{host: 10.0.0.12, witness: {word}}}"))


# -- a file that is none, or has no end --------------------------------------------------------------------------------

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{this}: &{this} [{','.join([f'*{last}'] * 9)}]\n"
    for last, this in zip("abcdefgh", "bcdefghi", strict=True)
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 100000 values"),
        ("a: &a [*a]\n", "a part that contains itself"),
        ("a: " + "[" * 120_000 + "]" * 120_000, "nest"),  # the newest libyaml says it in other words
        ("a:\n" + "- " * 120_000 + "\n", "nested too deeply"),
        ("a: " + "x" * 2**20, "larger than 1 MiB"),
        ("".join(f"k{number}: 1\n" for number in range(9000)), "and more"),
        ("a: [" + "[], " * 15000 + "]", "unknown option"),
    ],
    ids=["bomb", "circle", "brackets", "dashes", "large", "many mistakes", "many values"],
)
def test_a_file_that_would_take_long(tmp_path: Path, text: str, said: str) -> None:
    refused = mistakes(tmp_path, text)
    assert said in refused
    assert len(refused) < 20000


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_a_configuration_that_is_no_file(tmp_path: Path, kind: str) -> None:
    path = {"fifo": tmp_path / "fifo", "device": Path("/dev/zero"), "directory": tmp_path}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    with pytest.raises(UsageError, match="is not a file|/dev/zero can be written by others"):
        config.load(path)


# -- limits that say what they do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "seconds"), [(", fail_open_after: 120", 120), ("", None), (", fail_open_after: never", None)]
)
def test_a_port_has_a_limit_only_where_one_is_written(tmp_path: Path, written: str, seconds: int | None) -> None:
    route = loaded(tmp_path, changed(", fail_open_after: 120", written)).clusters["main"].routes[0]
    assert (route.do[0].fail_open_after, route.do[-1].fail_open_after) == (None, seconds)


def test_a_tracked_slot_has_a_limit_and_a_primarys_too() -> None:
    assert slot.Config("standbys", "synced").limit == slot.Config("primary").limit == "10GB"
    assert slot.Config("standbys", "synced", max_retained_wal="5MB").limit == "5MB"


# -- libpq's options ---------------------------------------------------------------------------------------------------


def test_options_of_libpqs_stand_beside_ours(tmp_path: Path) -> None:
    text = changed(POSTGRES, "timeout: 2, sslmode: verify-full, sslrootcert: /etc/ca.pem, keepalives_idle: 5}")
    dsn = loaded(tmp_path, text).clusters["main"].cluster.conninfos()[2]
    assert {"sslmode=verify-full", "sslrootcert=/etc/ca.pem", "keepalives_idle=5"} < set(dsn.split())


def test_no_address_comes_from_the_environment(tmp_path: Path) -> None:
    """libpq takes PGHOSTADDR where a connection string has no hostaddr, also beside a host (fe-connect.c)."""
    dsn = loaded(tmp_path, GOOD).clusters["main"].cluster.conninfos()[2]
    assert "host=10.0.0.12" in dsn
    assert "hostaddr=10.0.0.12" in dsn


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("sslmod: require", "postgres.sslmod: unknown option\n    HINT: did you mean 'sslmode'?"),
        ("timeuot: 3", "postgres.timeuot: unknown option\n    HINT: did you mean 'timeout'?"),
        ("sslmode: verify_full", 'postgres.sslmode: libpq: invalid sslmode value: "verify_full"'),
        ("channel_binding: yes", 'postgres.channel_binding: libpq: invalid channel_binding value: "yes"'),
        ("ssl_min_protocol_version: '9'", "postgres.ssl_min_protocol_version: libpq: invalid"),
        ("keepalives_idle: often", "postgres.keepalives_idle: must be a whole number"),
        ("tcp_user_timeout: -1", "postgres.tcp_user_timeout: must be a whole number"),
        ("sslrootcert: ca.pem", "postgres.sslrootcert: must be an absolute path"),
        ("sslkey: [a]", "postgres.sslkey: must be a string or a whole number"),
        ("sslsni: true", "postgres.sslsni: must be a string or a whole number"),
        ('krbsrvname: "a\\0b"', "postgres.krbsrvname: holds a control character"),
        ("host: 10.0.0.1", "postgres.host: belongs under 'nodes'"),
        ("hostaddr: 10.0.0.1", "postgres.hostaddr: belongs under 'nodes'"),
        ("password: hunter2", "postgres.password: must not be set here"),
        ("sslpassword: hunter2", "postgres.sslpassword: must not be set here"),
        ("options: -c x=y", "postgres.options: is what repmgr_hooks sets itself"),
        ("application_name: me", "postgres.application_name: is what repmgr_hooks sets itself"),
        ("client_encoding: LATIN1", "postgres.client_encoding: is what repmgr_hooks sets itself"),
        ("replication: database", "postgres.replication: is what repmgr_hooks sets itself"),
        ("connect_timeout: 5", "postgres.connect_timeout: is called 'timeout' here\n    HINT: write that"),
        ("service: main", "postgres.service: would name hosts of its own"),
        ("target_session_attrs: primary", "postgres.target_session_attrs: every node is asked, whatever it is"),
        ("requirepeer: postgres", "postgres.requirepeer: is for Unix sockets"),
    ],
)
def test_options_of_libpqs_that_are_refused(tmp_path: Path, option: str, said: str) -> None:
    refused = only_mistake(tmp_path, POSTGRES, f"timeout: 2, {option}}}")
    assert said in refused
    assert "hunter2" not in refused


def test_require_auth_is_known_to_libpq_16_and_newer(tmp_path: Path) -> None:
    text = changed(POSTGRES, "timeout: 2, require_auth: scram-sha-256}")
    if pq.version() >= 160000:
        assert "require_auth=scram-sha-256" in loaded(tmp_path, text).clusters["main"].cluster.conninfos()[1]
    else:
        said = f"postgres.require_auth: needs libpq 16 or newer; this one is {pq.version() // 10000}"
        assert said in mistakes(tmp_path, text)


def test_a_plug_ins_numbers_are_finite(tmp_path: Path) -> None:
    from repmgr_hooks.settings.document import Document

    for text in (".inf", "-.inf", ".nan", "1e999", "1.0e+999", "1:30.5"):
        document = Document(f"a: {text}")
        assert document.read(float, document.data["a"], "a") is None, text
        assert document.problems
    document = Document("a: 1.5")
    assert document.read(float, document.data["a"], "a") == 1.5


def test_every_line_is_named(tmp_path: Path) -> None:
    text = textwrap.dedent("""\
        clusters:
          main:
            nodes:
              1: {host: 127.0.0.1}
            gateway:
              address: 10.0.0.20
              ports: {app: 010}
            routes: []
        """)
    first, *rest = mistakes(tmp_path, text).splitlines()
    assert [line.split(":")[0].strip() for line in rest if "HINT:" not in line] == ["line 8", "line 4", "line 7"]
