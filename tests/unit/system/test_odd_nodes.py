"""One node answers oddly: that is its own error, printable and short, and the other nodes still decide.

Small servers here speak PostgreSQL's protocol (protocol-message-formats), or something else, to the real System.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repmgr_hooks.barman import archive
from repmgr_hooks.checks import node_settings, recovery
from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.observe import NodeState, observe
from repmgr_hooks.engine import simulation
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Postgres
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.link import MOST_ANSWER, raw_rows
from tests.fake import FakeHost
from tests.unit.cluster.test_observe import MAIN, RECEIVER, SENDER, SLOT, Answers, primary
from tests.unit.system.test_host import GREETING, message

TWO = Cluster(
    nodes={1: Node("10.0.0.11"), 2: Node("10.0.0.12")},
    gateway=Gateway("10.0.0.20", {"app": 54322}),
)
TYPES = (16, 23, 25, 25, 3802, 3802, 3802, 3802, 20, 25, 16)
ROW = (
    b"f",
    b"2",
    b"7300000000000000001",
    b"0/5000148",
    None,
    None,
    None,
    b'[[2, "primary", true, null, 100, "default"]]',
    b"16777216",
    None,
    b"f",
)

Speak = Callable[[socket.socket], None]


def column(oid: int) -> bytes:
    return b"c\0" + bytes(6) + oid.to_bytes(4, "big") + b"\xff" * 6 + b"\0\0"


def data(*values: bytes | None) -> bytes:
    fields = [b"\xff" * 4 if value is None else len(value).to_bytes(4, "big") + value for value in values]
    return message(b"D", len(values).to_bytes(2, "big") + b"".join(fields))


def answer(*rows: bytes, types: tuple[int, ...] = TYPES) -> bytes:
    """What PostgreSQL answers to Parse, Bind, Describe, Execute and Sync."""
    described = message(b"T", len(types).to_bytes(2, "big") + b"".join(map(column, types)))
    return b"".join([message(b"1"), message(b"2"), described, *rows, message(b"C", b"SELECT 1\0"), message(b"Z", b"I")])


def says(*pieces: bytes, pause: float = 0.0) -> Speak:
    """Greets, and gives the same answer to everything."""

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(GREETING)
        while connection.recv(65536):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)

    return speak


def only_says(*pieces: bytes, pause: float = 0.0) -> Speak:
    """Says this at once, whoever calls, and hangs up."""

    def speak(connection: socket.socket) -> None:
        connection.recv(65536)
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause)

    return speak


@contextmanager
def server(speak: Speak) -> Iterator[int]:
    """A server on loopback; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), connection:
                speak(connection)

        def listen() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=listen, daemon=True).start()
        yield listening.getsockname()[1]
        listening.shutdown(socket.SHUT_RDWR)


def look(odd: Speak, looks: int = 2, timeout: int = 60) -> list[NodeState]:
    """What is seen of a node that speaks so, each time, beside one that is well and decides."""
    with ExitStack() as stack:
        ports = {1: stack.enter_context(server(odd)), 2: stack.enter_context(server(says(answer(data(*ROW)))))}
        how = f"user=x dbname=x sslmode=disable gssencmode=disable connect_timeout={timeout}"
        host = LocalHost({node: f"host=127.0.0.1 port={port} {how}" for node, port in ports.items()})
        cluster = replace(TWO, postgres=Postgres(timeout=timeout))
        seen = [observe(cluster, host) for _ in range(looks)]
        host.close_idle()
        assert [decide(states).primary for states in seen] == [2] * looks
        return [states[0] for states in seen]


def look_in_time(odd: Speak) -> list[NodeState]:
    """A node that gives no answer is waited for; on a busy machine the other one may be late, too: look again."""
    for _ in range(10):
        with suppress(AssertionError):
            return look(odd, timeout=1)
    return look(odd, timeout=1)


def one(index: int, value: bytes | None) -> Speak:
    return says(answer(data(*ROW[:index], value, *ROW[index + 1 :])))


FATAL = b"SFATAL\0C57P03\0M\x1b[2J\x1b]0;owned\x07 \xff\xfe \xe2\x80\xae gone\nWRONG\0\0"
MANY = json.dumps([[n, "standby", True, 1, 100, "default"] for n in range(300_000)]).encode()
ODD: dict[str, tuple[Speak, str]] = {
    "no row": (says(answer()), "cannot be read"),
    "two rows": (says(answer(data(*ROW), data(*ROW))), "cannot be read"),
    "too few columns": (says(answer(data(*ROW[:3]), types=TYPES[:3])), "cannot be read"),
    "too many columns": (says(answer(data(*ROW, b"f"), types=(*TYPES, 16))), "cannot be read"),
    "other types": (says(answer(data(*ROW), types=(25,) * len(TYPES))), "cannot be read"),
    "nulls": (says(answer(data(*[None] * len(TYPES)))), "cannot be read"),
    "a timeline that is none": (one(1, b"two"), "cannot be read"),
    "a timeline below zero": (one(1, b"-1"), "cannot be read"),
    "no UTF-8": (one(2, b"73\xff\xfe"), "UnicodeDecodeError"),
    "an escape sequence": (one(2, b"\x1b[31m1"), r"\x1b[31m1"),
    "a position that is none": (one(3, b"x/y"), "not a WAL position"),
    "a position with three parts": (one(3, b"0/1/2"), "not a WAL position"),
    "no JSON": (one(7, b"[[2, "), "JSONDecodeError"),
    "JSON of another kind": (one(7, b'{"a": 1}'), "cannot be read"),
    "JSON in JSON in JSON": (one(7, b"[" * 100_000), "cannot be read"),
    "rows of another kind": (one(7, b"[[2]]"), "cannot be read"),
    "300,000 rows of repmgr.nodes": (one(7, MANY), "more than 4194304 bytes"),
    "some thousand rows of repmgr.nodes": (one(7, MANY[:50_000].rpartition(b", [")[0] + b"]"), "rows where at most"),
    "many rows": (says(answer(*[data(*ROW)] * 60_000)), "60000 rows"),
    "a huge string": (one(2, b"7" * (MOST_ANSWER + 1)), "more than 4194304 bytes"),
    "an error with escape sequences": (says(message(b"E", FATAL) + message(b"Z", b"I")), r"\x1b[2J\x1b]0;owned"),
    "an error instead of a greeting": (only_says(message(b"E", FATAL)), r"\x1b[2J\x1b]0;owned"),
    "an answer that breaks off": (says(answer(data(*ROW))[:40], b""), "no answer"),
    "HTTP": (only_says(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "expected authentication request"),
    "SSH": (only_says(b"SSH-2.0-OpenSSH_9.2\r\n"), "expected authentication request"),
    "nothing, and hangs up": (only_says(b""), "closed the connection"),
    "byte by byte": (says(*(bytes([byte]) for byte in answer(data(*ROW))), pause=0.2), "no answer"),
    "a greeting byte by byte": (only_says(*(bytes([byte]) for byte in GREETING), pause=0.2), "no answer"),
    "without end": (says(message(b"1") + message(b"2"), *[message(b"N", FATAL) * 100] * 100, pause=0.05), "no answer"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("odd", "named"), ODD.values(), ids=ODD)
def test_an_odd_answer_is_one_nodes_error_and_the_other_node_decides(odd: Speak, named: str) -> None:
    first, second = look_in_time(odd) if named == "no answer" else look(odd)
    for state in (first, second):
        assert state.error.isprintable()
        assert len(state.error) < 600
    assert named in first.error
    if "no answer" not in named:
        assert named in second.error, "the reason stays"


def test_a_sound_answer_is_read() -> None:
    (state,) = look(says(answer(data(b"t", b"2", *ROW[2:]))), 1)
    assert (state.error, state.role, state.timeline) == ("", "standby", 2)


@settings(max_examples=25)
@given(st.lists(st.binary(max_size=60), max_size=4))
def test_whatever_bytes_a_node_says(pieces: list[bytes]) -> None:
    (state,) = look(only_says(*([GREETING] if len(pieces) % 2 else []), *pieces), 1)
    assert state.error
    assert state.error.isprintable()


# -- what a row holds --------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=()), max_size=20),
    st.sampled_from(["0/5000148", "x/y", "", "primary", "witness", 2, 2**64, "streaming"]),
)
FIELDS = st.dictionaries(st.sampled_from([*SLOT, *SENDER, *RECEIVER]), SCALARS, max_size=3)
JSON = st.one_of(SCALARS, FIELDS, st.lists(st.one_of(SCALARS, FIELDS, st.lists(SCALARS, max_size=4)), max_size=3))
WELL = primary(nodes=[[2, "primary", True, None, 100, "default"]])
SOUND = primary()


@st.composite
def rows(draw: st.DrawFn) -> tuple[Any, ...]:
    """A row in which a column, or a field of one, is something else; or in which everything is."""
    row, index = list(SOUND), draw(st.integers(0, len(SOUND)))
    if index == len(SOUND):
        return tuple(draw(st.lists(JSON, max_size=9)))
    row[index] = draw(JSON)
    if index in (5, 6):
        sound: dict[str, Any] = SLOT if index == 5 else SENDER
        row[index] = [sound | {draw(st.sampled_from(list(sound))): draw(JSON)}]
    return tuple(row)


@pytest.mark.slow
@settings(max_examples=2500)
@given(rows())
def test_whatever_a_row_holds_the_other_node_decides(row: tuple[Any, ...]) -> None:
    odd, well, _ = observe_with(row)
    for text in (str(odd), odd.error, *(slot.name for slot in odd.slots), *(one.application for one in odd.senders)):
        assert text.isprintable()
    assert not well.error
    decision = decide((odd, well))
    assert str(decision).isprintable()
    if odd.error:
        assert decision.primary == 2
    else:
        assert 0 <= odd.timeline < 2**32
        assert type(odd.in_recovery) is bool


def observe_with(row: tuple[Any, ...]) -> tuple[NodeState, ...]:
    return observe(MAIN, Answers({1: row, 2: WELL}))


@pytest.mark.parametrize(
    "answered",
    [[], [()], [(None,) * 5], [("x/y", 1 << 24, 1, [], False)], [("0/1", 0, 1, [], False)], [("0/1", "a", 1, [], 0)]],
)
def test_an_odd_answer_about_wal_is_the_nodes_error(answered: list[Any]) -> None:
    host = FakeHost()
    host.fetch = lambda sql, limit: answered  # type: ignore[method-assign]
    with pytest.raises(OperationFailed, match="node 1: an answer that cannot be read"):
        archive.look_at_primary(1, 1, host)


@pytest.mark.parametrize("answered", [[], [()], [(None,) * 6], [("x", "y", "z", 1, None, 2)], [("\x1b",) * 3]])
def test_odd_answers_to_check_to_a_rehearsal_and_to_init(answered: list[Any]) -> None:
    host = FakeHost()
    host.fetch = lambda sql, limit: answered  # type: ignore[method-assign]
    examined = node_settings.examined(1, answered)
    assert isinstance(examined, OperationFailed)
    assert str(examined).startswith("node 1: an answer that cannot be read")
    (said,) = simulation._slots(2, "barman", host)
    assert said.message.startswith("node 2: an answer that cannot be read")
    with pytest.raises(OperationFailed, match="node 1: an answer that cannot be read"):
        list(recovery._standby(MAIN, Barman("main_backup"), 1, "main node 1", (), host))


def test_rows_without_columns_take_their_place_too() -> None:
    few, many = (SimpleNamespace(ntuples=number, nfields=0) for number in (MOST_ANSWER, 2**31 - 1))
    assert next(raw_rows(few)) == []  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="2147483647 rows"):
        list(raw_rows(many))  # type: ignore[arg-type]
