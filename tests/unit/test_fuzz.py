"""Thousands of inputs, mostly near to good ones: each is taken or refused, in words and at once, and none is a bug.

An oracle of its own looks at each configuration that was taken, for what must not be in one.
"""

from __future__ import annotations

import copy
import dataclasses
import ipaddress
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repmgr_hooks import catalogue, config, hook
from repmgr_hooks.cli import configured
from repmgr_hooks.cli import main as cli
from repmgr_hooks.config import Config
from repmgr_hooks.errors import UsageError
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.service.spool import Spool
from tests.fake import FakeHost

pytestmark = pytest.mark.slow

MANY = settings(
    max_examples=1500, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
LONGEST = 5.0
"""Seconds of work after which an input is said to hang; most take a thousandth of that, and others' work is none."""

CLUSTER: dict[str, Any] = {
    "nodes": {1: {"host": "10.0.0.11"}, 2: {"host": "10.0.0.12"}, 3: {"host": "10.0.0.13", "witness": True}},
    "postgres": {"port": 5432, "user": "repmgr", "sslmode": "verify-full", "passfile": "/etc/pgpass"},
    "promotion_timeout": 30,
    "flap_limit": {"changes": 5, "window": 600},
    "gateway": {"address": "10.0.0.20", "ports": {"barman": 54321, "app": 54322}, "chains": {"dnat": "d", "snat": "s"}},
    "barman": {"server": "main", "slot_name": "barman", "command": ["barman"]},
    "routes": [
        {
            "on": ["standby_promote", "repmgrd_failover_promote"],
            "do": [
                {"firewall": {"open": "barman"}},
                {"slot": {"on": "primary"}},
                {"barman": {"stream": True, "min_stream_age": 0, "start_timeout": 60}},
                {"barman": {"switch_wal": {"timeout": 90}}},
                {"firewall": {"open": "app", "fail_open_after": 120}},
            ],
        },
        {
            "on": ["node_rejoin"],
            "do": [{"slot": {"on": "standbys", "state": "synced", "max_retained_wal": "5MB"}}, {"notify": {}}],
        },
    ],
}
OTHER = {
    "nodes": {1: {"host": "10.0.1.11"}},
    "gateway": {"address": "10.0.1.20", "ports": {"barman": 54321, "app": 54322}, "chains": {"dnat": "e", "snat": "t"}},
    "barman": {"server": "other", "slot_name": "barman", "command": ["barman"]},
    "routes": [{"on": ["standby_promote"], "do": [{"slot": {"on": "standbys"}}]}],
}
GOOD = {
    "state_dir": "/var/lib/repmgr-hooks",
    "retry": {"initial_delay": 5, "max_delay": 300, "max_attempts": 20},
    "monitor_interval": 5,
    "alerts": [{"mail": ["dba@example.com"], "smtp_relay": "relay:25"}, {"webhook": "https://example.com/x"}],
    "clusters": {"main": CLUSTER, "other": OTHER},
}
ADDRESSES = ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.0.1", "10.0.0.11", "10.0.0.12"]
ADDRESSES += ["10.0.0.20", "10.0.1.11", "::1", "fe80::1", "fe80::1%eth0", "ff02::1", "::", "010.0.0.1", "fd00::1"]
TARGETS = ["ACCEPT", "RETURN", "DNAT", "DROP", "LOG", "MASQUERADE", "POSTROUTING", "standard", "d", "s", "e"]
STRANGE = [
    "",
    "\0",
    "\ud800",
    "a\nb",
    "\x1b[2J",
    "\u202e",
    "all",
    "never",
    "on",
    "no",
    "yes",
    "system",
    "../..",
    "é",
    "\U0001f40d",
]
NUMBERS = [0, 1, -1, 5432, 54321, 65536, 86400, 2**31, 10**400, 1.5, float("inf"), float("-inf"), float("nan"), 1e308]
NAMES = [
    "host",
    "password",
    "options",
    "sslmode",
    "witness",
    "command",
    "state",
    "max_retained_wal",
    "min_stream_age",
    "fail_open_after",
    "models",
]
ODD = (
    st.sampled_from([*ADDRESSES, *TARGETS, *STRANGE, *NUMBERS, *NAMES, None, True, False])
    | st.just([]) | st.just({}) | st.text(max_size=4) | st.integers() | st.floats()
)  # fmt: skip
WORDS_OF_YAML = ["010", "0x1F", "5:30", "1_000", ".inf", ".nan", "1e999", "on", "no", "yes", "~", "=", "<<", "&a", "*a",
                 "!!int", "!!set", "!x", "2026-11-20", "'", '"', "- ", "? ", ": ", "{", "}", "[", "]", "#", "|", ">",
                 "---", "\n", "\t", "\\0", "%", "@", "`"]  # fmt: skip


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree that holds something."""
    for key, inner in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield tree, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def written(tree: Any) -> str:
    """A tree as YAML: JSON is YAML, but for keys that are no strings."""
    if isinstance(tree, dict):
        return "{" + ", ".join(f"{written(key)}: {written(item)}" for key, item in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ", ".join(map(written, tree)) + "]"
    if isinstance(tree, float):
        return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(tree), repr(tree))
    return json.dumps(tree)


def taken(file: Path, text: str | bytes) -> Config | None:
    """The configuration; None if it was refused, in a few lines of plain text that name the file."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode(errors="surrogatepass"))
    begun = time.thread_time()
    try:
        return config.load(file)
    except UsageError as refused:
        said = str(refused)
        assert said.startswith(str(file))
        assert len(said) < 30_000
        assert all(line.isprintable() for line in said.splitlines()), ascii(said)
        return None
    finally:
        assert time.thread_time() - begun < LONGEST


def nonsense(loaded: Config) -> Iterator[str]:
    """What a configuration that was taken must not hold, found without the code that refuses it."""
    text = repr(loaded)
    strange = r"\\x[01][0-9a-f]|\\x[7-9][0-9a-f]|\\[nrt]|\\ud[89a-f]|\\u20(2[89a-e]|6[6-9])|(?<!')\b(inf|nan)\b(?!')"
    if re.search(strange, text):
        yield "a control character, half a character, or a number that is none"
    retry = loaded.service.retry
    if retry.initial_delay > retry.max_delay:
        yield "first above most"
    nodes: list[tuple[str, int]] = []
    chains: list[str] = []
    ports: list[tuple[str, int]] = []
    for managed in loaded.clusters.values():
        cluster = managed.cluster
        hosts = [node.host for node in cluster.nodes.values()]
        for host in [*hosts, cluster.gateway.address]:
            found = ipaddress.ip_address(host)
            if not (found.is_global or found.is_private) or found.is_loopback or found.is_unspecified:
                yield f"no host can have {host}"
            if found.is_multicast or found.is_link_local or host.startswith(("0.", "255.", "24")):
                yield f"no host can have {host}"
        electable = [node.host for node in cluster.nodes.values() if not node.witness]
        if not electable or cluster.gateway.address in electable:
            yield "only witnesses, or a gateway that is a node"
        if not managed.routes or not all(route.on and route.do for route in managed.routes):
            yield "a route without an event, or without an action"
        chains += [cluster.gateway.chains.dnat, cluster.gateway.chains.snat]
        nodes += [(host, cluster.postgres.port) for host in electable]
        ports += [(cluster.gateway.address, port) for port in cluster.gateway.ports.values()]
        waits = [cluster.promotion_timeout, cluster.postgres.timeout]
        for action in managed.actions:
            given = dataclasses.asdict(action.config)
            waits += [given.get("timeout") or 0, given.get("start_timeout") or 0, action.fail_open_after or 0]
            if given.get("on") == "primary" and given.get("state"):
                yield "state with on: primary"
            if given.get("on") == "standbys" and given.get("state") != "synced" and given.get("max_retained_wal"):
                yield "max_retained_wal with drop"
            if given.get("stream") is False and (
                given["min_stream_age"] is not None or given["start_timeout"] is not None
            ):
                yield "min_stream_age or start_timeout without stream"
        if max(waits) > 3600:
            yield "a wait of a day"
        if set(cluster.postgres.libpq) & {"host", "hostaddr", "password", "options", "service", "client_encoding"}:
            yield "an option of libpq's that is ours"
    for values in (nodes, chains, [*ports, *nodes]):
        if len(set(values)) < len(values):
            yield f"twice: {values}"
    if any(chain.isupper() and chain.isalpha() for chain in chains) or "standard" in chains:
        yield "a chain that is named as a target"


def test_what_is_changed_here_is_good(file: Path) -> None:
    loaded = taken(file, written(GOOD).replace('{"state_dir": "/var/lib/repmgr-hooks", ', "{"))
    assert loaded
    assert list(nonsense(loaded)) == []


@settings(MANY, max_examples=700)
@given(data=st.data())
def test_a_configuration_with_anything_anywhere(file: Path, data: st.DataObject) -> None:
    tree = copy.deepcopy(GOOD)
    del tree["state_dir"]  # the hook wants it on a line of its own
    for _ in range(data.draw(st.integers(1, 2))):
        here, key = data.draw(st.sampled_from(list(places(tree))))
        value = data.draw(ODD)
        how = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "replace":
            here[key] = value
        elif how == "remove":
            del here[key]
        elif isinstance(here, list):
            here.append(value)
        else:
            here[data.draw(st.sampled_from([*NAMES, *STRANGE, 7]) | st.text(max_size=3))] = value
    if loaded := taken(file, written(tree)):
        assert list(nonsense(loaded)) == []


MAIN = ("clusters", "main")
DO = (*MAIN, "routes", 0, "do")
NAMED: list[tuple[tuple[Any, ...], Any]] = [
    *(((*MAIN, "gateway", "address"), address) for address in [*ADDRESSES[:7], "::1", "fe80::1", "ff02::1", "::"]),
    *(
        ((*MAIN, "nodes", 1, "host"), address)
        for address in [*ADDRESSES[:5], "10.0.0.20", "10.0.1.11", "::1", "fe80::1"]
    ),
    *(((*MAIN, "gateway", "chains", "dnat"), name) for name in [*TARGETS[:8], "s", "e"]),
    *(((*MAIN, "barman", "command"), [f"bar{strange}man"]) for strange in STRANGE[1:6]),
    *(
        ((*MAIN, "promotion_timeout"), number)
        for number in [0, -1, 86400, float("inf"), float("nan"), 1.5, "010", True]
    ),
    *(((*DO, 3, "barman", "switch_wal", "timeout"), number) for number in [0, 86400, float("inf"), "5:30"]),
    *(((*DO, 4, "firewall", "fail_open_after"), limit) for limit in [0, 86400, "nevr", float("nan"), True, None]),
    *(((*DO, 3, "barman", name), 5) for name in ("min_stream_age", "start_timeout")),
    *(((*MAIN, "postgres", name), "x") for name in ("host", "password", "options", "service", "nonsense")),
    *(((*MAIN, *path), []) for path in [("routes",), ("routes", 0, "on"), ("routes", 0, "do")]),
    ((*DO, 1, "slot", "state"), "synced"),
    ((*MAIN, "routes", 1, "do", 0, "slot"), {"on": "standbys", "state": "absent", "max_retained_wal": "5MB"}),
    ((*MAIN, "nodes"), {3: {"host": "10.0.0.13", "witness": True}}),
    (("clusters", "other", "nodes"), {1: {"host": "10.0.0.11"}}),
    (("clusters", "other", "barman", "server"), "main"),
    (("clusters", "other", "gateway", "address"), "10.0.0.20"),
    (("retry",), {"initial_delay": 5, "max_delay": 4}),
]
"""Where what is to be refused, whatever else is in the file."""


@settings(MANY, max_examples=500)
@given(data=st.data(), named=st.sampled_from(NAMED))
def test_what_is_to_be_refused_is_whatever_else_stands_there(
    file: Path, data: st.DataObject, named: tuple[tuple[Any, ...], Any]
) -> None:
    tree = copy.deepcopy(GOOD)
    del tree["state_dir"]
    where, value = named
    here: Any = tree
    for key in where[:-1]:
        here = here[key]
    here[where[-1]] = value
    # Not among what clusters claim: two that are at odds would be well if the other one claims something else.
    free = [
        (tree, "monitor_interval"),
        (tree, "alerts"),
        *places(tree["alerts"]),
        *places(tree["clusters"]["main"]["routes"]),
    ]
    other, key = data.draw(st.sampled_from([place for place in free if place[1] not in where]))
    other[key] = data.draw(ODD)
    assert taken(file, written(tree)) is None


SMALL = """\
clusters:
  main:
    nodes: {1: {host: 10.0.0.11}}
    gateway: {address: 10.0.0.20, ports: {app: 5433}}
    routes:
      - on: [standby_promote]
        do: [firewall: {open: app, fail_open_after: 120}]
"""


@MANY
@given(at=st.integers(0, len(SMALL)), cut=st.integers(0, 12), put=st.sampled_from(WORDS_OF_YAML) | st.text(max_size=3))
def test_a_text_with_something_else_in_it(file: Path, at: int, cut: int, put: str) -> None:
    if loaded := taken(file, SMALL[:at] + put + SMALL[at + cut :]):
        assert list(nonsense(loaded)) == []


@MANY
@given(junk=st.binary(max_size=60))
def test_any_bytes(file: Path, junk: bytes) -> None:
    assert taken(file, junk) is None


# -- arguments ---------------------------------------------------------------------------------------------------------

COMMANDS = [
    "status",
    "history",
    "pause",
    "resume",
    "reconcile",
    "simulate-failover",
    "replay",
    "event",
    "metrics",
    "handlers",
    "check-wal",
    "boot",
]
OPTIONS = ["--cluster", "--log", "--json", "--failed", "-n", "--failover", "--html", "--file", "--for", "--reason",
           "--dry-run", "--reset-state", "--id", "--help", "--", "-"]  # fmt: skip
ARGUMENT = (
    st.sampled_from([*OPTIONS, "main", "1", "2", "9", "last", "standby_promote", "30m", "x.prom", "plain", "json", ""])
    | st.sampled_from(["\udcff", "a\nb", "\x1b[2J", "\ud800", "9" * 30, "-1", "1_0", "\u0661", "1e3", "0x1", "é"])
    | st.text(st.characters(exclude_characters="\0/", codec=None), max_size=6)
)


@settings(MANY, max_examples=400)
@given(command=st.sampled_from(COMMANDS) | ARGUMENT, words=st.lists(ARGUMENT, max_size=5))
def test_any_arguments(run_in: Path, capsys: pytest.CaptureFixture[str], command: str, words: list[str]) -> None:
    argv = ["--config", str(run_in / "config.yaml"), command, *words]
    begun = time.thread_time()
    code: object
    try:
        code = hook.taken(argv)
        code = cli.run(argv) if code is None else code
    except SystemExit as ended:
        code = ended.code
    said = capsys.readouterr()
    assert code in (0, 1, 2), (argv, said.err)
    assert "Traceback" not in said.out + said.err
    assert time.thread_time() - begun < LONGEST


@pytest.fixture
def run_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(configured, "LocalHost", lambda conninfos, **_: FakeHost())
    monkeypatch.setattr(hook, "start_worker", lambda config: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(f"state_dir: {tmp_path}\n{SMALL}")
    (tmp_path / "spool").mkdir()
    yield tmp_path


# -- the spool ---------------------------------------------------------------------------------------------------------

LINE = (
    st.sampled_from(
        [b"", b"main", b"2", b"1", b"-1", b"0", b"standby_promote", b"2026-11-20 03:00:00+00", b"\xff", b"\0"]
    )
    | st.sampled_from([b"\x1b[2J", b"2147483648", b"\xd9\xa1", b"repmgr-hooks_check", b"a" * 300])
    | st.binary(max_size=6)
)
NAME = st.sampled_from(["17000000000000000000-1", "0" * 20 + "-1", "9" * 20 + "-9999999999"]) | st.text(
    st.characters(exclude_characters="\0/", codec="utf-8"), min_size=1, max_size=8
).filter(lambda name: name not in (".", "..", "wake"))


@settings(MANY, max_examples=600)
@given(files=st.dictionaries(NAME, st.lists(LINE, max_size=7).map(b"\n".join), max_size=3))
def test_any_files_in_the_spool(taking: tuple[Path, Spool, Journal], files: dict[str, bytes]) -> None:
    directory, spool, journal = taking
    clusters = config.load(directory / "config.yaml").clusters
    for name, content in files.items():
        (directory / "spool" / name).write_bytes(content)
    begun = time.thread_time()
    spool.take_in(journal, clusters)
    assert time.thread_time() - begun < LONGEST
    assert spool.take_in(journal, clusters) == 0, "what was refused is gone"
    for row in journal.waiting("main"):
        assert catalogue.is_event(row.event.name)
        assert row.event.node >= 1
        assert str(row.event).isprintable()


@pytest.fixture
def taking(run_in: Path) -> Iterator[tuple[Path, Spool, Journal]]:
    spool, journal = Spool(run_in), open_journal(run_in / "journal.db")
    yield run_in, spool, journal
    journal.close()
    spool.close()
