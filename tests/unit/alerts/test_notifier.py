"""Those who are told: a real HTTP server, a real SMTP peer, real programs, and a real journal."""

from __future__ import annotations

import email
import http.server
import json
import signal
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks.alerts import receivers
from repmgr_hooks.alerts.incident import Delivery, Incident
from repmgr_hooks.alerts.letter import letter
from repmgr_hooks.alerts.notifier import Notifier, attempt
from repmgr_hooks.alerts.receivers import SEND, Receiver, validate
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost, Wall

PACKAGE = str(Path(__file__).resolve().parents[3])
SUMMARY = "ARCHIVE_GAP: Barman läcks\r\nBcc: x@y.z"
GAP = Alert("main", "backup", "critical", SUMMARY, "details", "repmgr-hooks check-wal --cluster main")
INCIDENT = Incident(GAP, 1_800_000_000.0)
WARNING = Alert("main", "run", "warning", "failed, and is tried again")
LIMIT = 20.0


@pytest.fixture(scope="module")
def system() -> LocalHost:
    return LocalHost({})


@pytest.fixture(autouse=True)
def package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PACKAGE)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


# -- one message -------------------------------------------------------------------------------------------------------


class Hook(http.server.BaseHTTPRequestHandler):
    """Notes what it gets, and answers with the code of its server."""

    def do_POST(self) -> None:  # noqa: N802 - http.server's name
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"null"
        self.server.got.append((self.path, dict(self.headers), json.loads(body)))  # type: ignore[attr-defined]
        code = self.server.code  # type: ignore[attr-defined]
        self.send_response(code)
        if code == 302:
            self.send_header("Location", "/elsewhere")
        self.end_headers()

    do_GET = do_POST  # noqa: N815

    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def hook(code: int = 204) -> Iterator[tuple[str, list[Any]]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    got: list[Any] = []
    server.code, server.got = code, got  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/in?token=secret", got
    finally:
        server.shutdown()
        server.server_close()


def test_a_webhook_gets_json(system: LocalHost) -> None:
    with hook() as (url, got):
        assert attempt(Receiver(webhook=url), INCIDENT, system) == ""
    ((path, headers, said),) = got
    assert (path, headers["Content-Type"]) == ("/in?token=secret", "application/json")
    assert said == {
        "text": "CRITICAL main: ARCHIVE_GAP: Barman läcks Bcc: x@y.z",
        "id": "main/backup/1800000000",
        "state": "open",
        "cluster": "main",
        "condition": "backup",
        "severity": "critical",
        "summary": GAP.summary,
        "details": "details",
        "hint": "repmgr-hooks check-wal --cluster main",
        "since": "2027-01-15T08:00:00+00:00",
        "ended": None,
        "host": socket.gethostname(),
    }


def test_what_is_secret_stands_in_a_file(system: LocalHost, tmp_path: Path) -> None:
    with hook() as (url, got):
        (tmp_path / "webhook").write_text(f"{url}\nAuthorization: Bearer abc\n")
        assert attempt(Receiver(webhook=str(tmp_path / "webhook")), INCIDENT, system) == ""
    assert got[0][1]["Authorization"] == "Bearer abc"


def test_what_does_not_speak_http_is_said_to_be_that(system: LocalHost) -> None:
    class Greets(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.rfile.readline()
            self.wfile.write(b"220 mail ready\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Greets) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        error = attempt(Receiver(webhook=f"http://127.0.0.1:{server.server_address[1]}/"), INCIDENT, system)
    assert "the webhook does not answer in HTTP (BadStatusLine)" in error


@pytest.mark.parametrize("code", [302, 403, 500])
def test_what_a_webhook_refuses_has_failed_and_no_redirect_is_followed(system: LocalHost, code: int) -> None:
    with hook(code) as (url, got):
        error = attempt(Receiver(webhook=url), INCIDENT, system)
    assert f"the webhook answered {code}" in error
    assert "secret" not in error
    assert len(got) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("http://127.0.0.1:1/secret", "the webhook does not answer"),
        ("file:///etc/passwd", "the URL or a header is not valid"),
        ("http://127.0.0.1:x/secret", "the URL or a header is not valid"),
        ("http://127.0.0.1:1/\n: secret", "the URL or a header is not valid"),
        ("", "the URL or a header is not valid"),
    ],
)
def test_no_failure_names_the_url(system: LocalHost, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "webhook").write_bytes(text.encode())
    error = attempt(Receiver(webhook=str(tmp_path / "webhook")), INCIDENT, system)
    assert said in error
    assert "secret" not in error


class Trickle(socketserver.BaseRequestHandler):
    """Says a byte now and then: each comes in time, the whole does not."""

    def handle(self) -> None:
        with suppress(OSError):
            while True:
                self.request.sendall(b"H")
                time.sleep(0.2)


@contextmanager
def trickle() -> Iterator[int]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Trickle) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.mark.slow
def test_a_webhook_that_never_ends_its_answer_is_not_waited_for(system: LocalHost) -> None:
    with trickle() as port:
        error = attempt(Receiver(webhook=f"http://127.0.0.1:{port}/", timeout=2), INCIDENT, system)
    assert "not finished after 2 s; killed" in error


@pytest.fixture
def sendmail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sendmail that keeps its arguments and the letter."""
    made = tmp_path / "sendmail"
    made.write_text('#!/bin/sh\nd=$(dirname "$0")\necho "$@" > "$d/arguments"\ncat > "$d/letter"\n')
    made.chmod(0o755)
    monkeypatch.setattr(receivers, "SENDMAIL", str(made))
    return made


def test_a_mail_goes_through_sendmail(system: LocalHost, sendmail: Path) -> None:
    assert attempt(Receiver(mail=("dba@example.com", "root")), INCIDENT, system) == ""
    assert (sendmail.parent / "arguments").read_text() == "-t -i\n"
    text = (sendmail.parent / "letter").read_bytes()
    assert text.isascii()
    letter = email.message_from_bytes(text, policy=email.policy.default)
    assert letter["Subject"] == "CRITICAL main: ARCHIVE_GAP: Barman läcks Bcc: x@y.z"
    assert (letter["To"], letter["Bcc"], letter["From"]) == ("dba@example.com, root", None, None)
    body = letter.get_content()
    assert "details" in body
    assert "HINT: repmgr-hooks check-wal --cluster main" in body


def test_a_headline_is_not_folded() -> None:
    incident = Incident(Alert("main", "x", "critical", "a long " * 20), 0.0)
    assert f"Subject: {incident.headline}\n" in letter(Receiver(mail=("root",)), incident).as_string()


class Relay(socketserver.StreamRequestHandler):
    """Takes one mail by SMTP."""

    def handle(self) -> None:
        self.wfile.write(b"220 relay\r\n")
        letter: list[bytes] | None = None
        for line in self.rfile:
            self.server.got.append(line)  # type: ignore[attr-defined]
            if letter is not None:
                letter.append(line)
                if line != b".\r\n":
                    continue
                letter = None
            elif line.upper().startswith(b"DATA"):
                letter = []
                self.wfile.write(b"354 go on\r\n")
                continue
            self.wfile.write(b"250 ok\r\n")


def test_a_mail_goes_through_a_relay(system: LocalHost) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Relay) as server:
        got: list[bytes] = []
        server.got, server.daemon_threads = got, True  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        relay = f"127.0.0.1:{server.server_address[1]}"
        receiver = Receiver(mail=("dba@example.com",), smtp_relay=relay, sender="gateway@example.com")
        assert attempt(receiver, INCIDENT, system) == ""
        server.shutdown()
    text = b"".join(got).decode()
    assert "mail from:<gateway@example.com>" in text.lower()
    assert "rcpt to:<dba@example.com>" in text.lower()
    assert "From: gateway@example.com\r\n" in text


def test_a_mail_server_that_refuses_is_named(system: LocalHost) -> None:
    error = attempt(
        Receiver(mail=("dba@example.com",), smtp_relay="127.0.0.1:1", sender="gateway@example.com"), INCIDENT, system
    )
    assert "the mail server 127.0.0.1:1: ConnectionRefusedError: " in error


def test_a_program_gets_json(system: LocalHost, tmp_path: Path) -> None:
    program = tmp_path / "page"
    program.write_text(f'#!/bin/sh\ncat > {tmp_path}/got\necho "$1" >> {tmp_path}/got\n')
    program.chmod(0o755)
    assert attempt(Receiver(exec=(str(program), "postgres")), INCIDENT, system) == ""
    document, argument = (tmp_path / "got").read_text().splitlines()
    assert (json.loads(document)["condition"], argument) == ("backup", "postgres")


@pytest.mark.parametrize(
    ("receiver", "said"),
    [
        (Receiver(), "one of 'mail', 'webhook' and 'exec'"),
        (Receiver(mail=("a@b",), webhook="http://x/"), "one of 'mail', 'webhook' and 'exec'"),
        (Receiver(webhook="ftp://x/"), "must be a URL"),
        (Receiver(webhook="https://user:pw@x/"), "must be a URL"),
        (Receiver(webhook="https://x/ y"), "must be a URL"),
        (Receiver(webhook="http://x/", smtp_relay="y"), "go with 'mail'"),
    ],
)
def test_a_receiver_that_cannot_be(receiver: Receiver, said: str) -> None:
    assert said in " ".join(map(str, validate(receiver)))


def test_two_that_run_one_program_are_two() -> None:
    assert Receiver(exec=("/page", "a b")).name != Receiver(exec=("/page", "c")).name


def test_a_url_is_not_named() -> None:
    name = Receiver(webhook="https://user:secret@hooks.example.com/secret").name
    assert name.startswith("webhook hooks.example.com (")
    assert "secret" not in name


# -- the outbox --------------------------------------------------------------------------------------------------------


class Post(FakeHost):
    """The world of the messengers: keeps what each program gets; ``broken`` names those that fail."""

    def __init__(self, *broken: str) -> None:
        super().__init__()
        self.broken = set(broken)
        self.got: list[tuple[str, str]] = []
        self.documents: list[dict[str, Any]] = []
        self.hanging = threading.Event()
        self.hanging.set()

    def run(self, program: Program, limit: float) -> str:
        name = program.argv[0]
        if name == "/hangs":
            assert self.hanging.wait(LIMIT)
        self.documents.append(json.loads(program.stdin))
        self.got.append((name, self.documents[-1]["text"].split(":")[0]))
        if name in self.broken:
            raise OperationFailed("no answer")
        return ""

    def texts(self, name: str = "/a") -> list[str]:
        return [text for who, text in self.got if who == name]


A, B, HANGS = Receiver(exec=("/a",)), Receiver(exec=("/b",), severity="critical"), Receiver(exec=("/hangs",))


@contextmanager
def notifier(journal: Journal, host: Post, *wanted: Receiver) -> Iterator[Notifier]:
    made = Notifier(journal, host)
    made.use(wanted, ["main"])
    try:
        yield made
    finally:
        made.close(LIMIT)


def test_each_is_told_what_is_grave_enough_for_it(journal: Journal) -> None:
    host = Post()
    with notifier(journal, host, A, B) as made:
        made.note("main", [WARNING])
        until(lambda: host.texts("/a"))
        made.note("main", [WARNING, GAP])
    assert host.texts("/a") == ["WARNING main", "CRITICAL main"]
    assert host.texts("/b") == ["CRITICAL main"]


def test_whoever_was_told_hears_how_it_goes_on_and_of_the_end() -> None:
    """A receiver of what is critical missed the next time that it was, and never heard that it was over."""
    told = {B.name: Delivery("CRITICAL main: no failover", 1.0, 1.0)}
    milder = Incident(Alert("main", "failover", "warning", "one standby"), 0.0, deliveries=told)
    assert not B.wants(replace(milder, deliveries={}))
    assert B.wants(milder)
    assert milder.wait(B.name, 3600, 1e6) == 0
    assert B.wants(over := replace(milder, ended=2.0))
    assert over.headline == "OVER main: one standby"
    assert not B.wants(replace(over, deliveries={B.name: Delivery(over.headline, 3.0, 3.0)}))


def test_two_former_primaries_that_stay_stopped_are_told_once_an_hour(journal: Journal) -> None:
    """Each took the place of the other, at each look."""
    host = Post()
    with notifier(journal, host, A) as made:
        for _ in range(3):
            for node in (1, 3):
                condition = f"former_primary: node {node}, stay"
                made.tell(Alert("main", condition, "critical", f"node {node} stays stopped", momentary=True))
            until(lambda: len(host.got) >= 2)
    assert len(host.got) == 2


def test_a_restart_tells_nothing_twice_and_takes_up_what_is_left(journal: Journal) -> None:
    host = Post("/b")
    with notifier(journal, host, A, B) as made:
        made.note("main", [GAP])
        until(lambda: len(host.got) == 2)
    ((deliveries,),) = journal.read("select deliveries from alert")
    assert {name: item["failures"] for name, item in json.loads(deliveries).items()} == {"exec /a": 0, "exec /b": 1}
    journal.change(
        lambda db: db.execute("update alert set deliveries = replace(deliveries, '\"tried\": ', '\"tried\": -')")
    )
    host.broken.clear()
    with notifier(journal, host, A, B) as made:
        made.note("main", [GAP])
        until(lambda: len(host.got) == 3)
    assert host.texts("/a") == ["CRITICAL main"]
    assert host.texts("/b") == ["CRITICAL main"] * 2


def test_who_hangs_keeps_back_neither_the_others_nor_the_runs(journal: Journal) -> None:
    host = Post()
    with notifier(journal, host, HANGS, A) as made:
        host.hanging.clear()
        for _ in range(3):
            made.note("main", [GAP])
            made.tell(Alert("main", "standby_failure of node 2", "warning", "so it is", momentary=True))
        until(lambda: len(host.texts("/a")) == 2)
        assert host.texts("/hangs") == []
        host.hanging.set()
    assert len(host.texts("/hangs")) == 2


def test_a_pause_keeps_messages_back(journal: Journal) -> None:
    host = Post()
    journal.pause("main", None, "")
    with notifier(journal, host, A) as made:
        made.note("main", [GAP])
    assert host.got == []
    journal.resume("main")
    with notifier(journal, host, A):
        pass
    assert host.texts() == ["CRITICAL main"]


@pytest.mark.parametrize("set_by", [-400 * 86400.0, 400 * 86400.0])
def test_a_clock_that_is_set_keeps_no_end_back(journal: Journal, wall: Wall, set_by: float) -> None:
    host = Post()
    with notifier(journal, host, A) as made:
        made.note("main", [GAP])
        until(lambda: host.texts())
        made.note("main", [])
    wall.time += set_by
    with notifier(journal, host, A):
        pass
    assert host.texts() == ["CRITICAL main", "OVER main"]
    wall.time += 90000.0
    with notifier(journal, host, A):
        pass
    assert journal.read("select * from alert") == []


def test_without_a_journal_they_are_told_all_the_same(journal: Journal) -> None:
    host = Post()
    with notifier(journal, host, A) as made:
        journal.close()
        made.note("main", [GAP])
        until(lambda: host.got)
        made.note("main", [GAP])
    assert host.texts() == ["CRITICAL main"]


def test_what_another_gateway_tells_from_now_on_ends_here(journal: Journal, wall: Wall) -> None:
    """Also after a restart: whoever was told of it by this gateway waits for its end, and nobody else knows of it."""
    host, pair = Post(), Alert("main", "gateways", "critical", "no gateway has the address")
    with notifier(journal, host, A) as made:
        made.note("main", [GAP, pair])
        until(lambda: len(host.got) == 2)
        for _ in range(2):  # as each look says it
            made.leave("main", ("gateways",))
            made.leave("other", ())
            made.note("main", [pair])
    assert len(host.got) == 2
    wall.time += 61.0
    with notifier(journal, host, A) as made:
        made.leave("main", ("gateways",))
        until(lambda: len(host.got) == 3)
    assert host.documents[-1]["text"].startswith("OVER main: left to the other gateway: ARCHIVE_GAP")
    ids = [document["id"] for document in host.documents if document["condition"] == "backup"]
    assert (len(ids), len(set(ids))) == (2, 1), "one incident to whoever keeps count of them"


def test_the_address_that_comes_back_at_once_ends_nothing(journal: Journal, wall: Wall) -> None:
    host = Post()
    with notifier(journal, host, A) as made:
        made.note("main", [GAP])
        until(lambda: host.got)
        made.leave("main", ())
        made.note("main", [])
        wall.time += 5.0
        made.note("main", [GAP])
    wall.time += 61.0
    with notifier(journal, host, A):
        pass
    assert host.texts() == ["CRITICAL main"]


def test_what_nobody_was_told_of_is_left_without_a_word(journal: Journal, wall: Wall) -> None:
    host = Post()
    with notifier(journal, host, B) as made:
        made.note("main", [WARNING])
        made.leave("main", ())
        wall.time += 61.0
    assert (host.got, journal.read("select * from alert")) == ([], [])


def test_what_is_being_sent_while_the_address_leaves_is_ended_too(journal: Journal, wall: Wall) -> None:
    """A receiver takes up to its time-out, and then nobody knew any more what it was told."""
    began, leave = threading.Event(), threading.Event()

    class Slow(Post):
        def run(self, program: Program, limit: float) -> str:
            began.set()
            assert leave.wait(60)
            return super().run(program, limit)

    host = Slow()
    with notifier(journal, host, A) as made:
        made.note("main", [GAP])
        assert began.wait(60)
        made.leave("main", ())
        made.note("main", [])
        leave.set()
        until(lambda: host.got)
    wall.time += 61.0
    with notifier(journal, host, A):
        pass
    assert host.texts() == ["CRITICAL main", "OVER main"]


def test_nobody_wants_to_know(journal: Journal) -> None:
    with notifier(journal, Post()) as made:
        made.note("main", [GAP])
        made.tell(WARNING)
    assert journal.read("select count(*) from alert") == [(0,)]


def test_a_configuration_that_is_read_again(journal: Journal) -> None:
    host = Post()
    with notifier(journal, host, A) as made:
        made.note("main", [GAP])
        until(lambda: host.texts("/a"))
        made.use([B], ["main"])
        until(lambda: host.texts("/b"))
        made.use([B], ["other"])
        made.use([B], ["main"])
    assert host.got == [("/a", "CRITICAL main"), ("/b", "CRITICAL main")]


def test_a_bug_in_a_message_ends_no_thread(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    host = Post()
    program = receivers.program

    def broken(receiver: Receiver, incident: Incident) -> Program:
        if incident.alert is WARNING:
            raise KeyError("a bug")
        return program(receiver, incident)

    monkeypatch.setattr(receivers, "program", broken)
    with notifier(journal, host, A) as made:
        made.note("main", [WARNING])
        made.note("main", [WARNING, GAP])
    assert host.texts() == ["CRITICAL main"]


@pytest.mark.slow
def test_a_sender_that_is_left_alone_ends_by_itself() -> None:
    """The service has died meanwhile, and the peer says a byte now and then."""
    with trickle() as port:
        order = {"webhook": f"http://127.0.0.1:{port}/", "body": "{}", "timeout": 1}
        ended = subprocess.run(
            SEND, input=json.dumps(order), text=True, capture_output=True, timeout=LIMIT, check=False
        )
    assert ended.returncode == -signal.SIGALRM
