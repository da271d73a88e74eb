"""Foreign text, whatever it holds, and each place where it is shown."""

from __future__ import annotations

import io
import json
import logging
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repmgr_hooks import checks
from repmgr_hooks.alerts import receivers
from repmgr_hooks.alerts.incident import Alert, Incident
from repmgr_hooks.alerts.letter import letter
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.checks.finding import Topic
from repmgr_hooks.cli.output import complain, say
from repmgr_hooks.errors import HooksError, LockTimeout, OperationFailed, UsageError
from repmgr_hooks.log import ForJournal, ForReader
from repmgr_hooks.log_json import Json
from repmgr_hooks.reports import exposition, failover_html, failover_text
from repmgr_hooks.reports.exposition import Sample
from repmgr_hooks.reports.failover import Change, FailoverReport, Item
from repmgr_hooks.text import MOST, NAME, one_line, printable, shortened

NASTY = [
    "\x1b[2J\x1b]0;owned\x07",
    "\x00",
    "\udcff\ud800",
    "\u202egnp.exe\u2066",
    "a\r\nb\rc",
    "\u2028\u2029\x85",
    "\x9b31m",
    "\ufffe\uffff",
    "Subject: x\r\nBcc: all@example.com\r\n\r\n",
    "</td><script>alert(1)</script>&",
    "x" * 10_000,
    "\x00" * 10_000,
    "é ✓ 日本",
    "\U000e0041",
]
FOREIGN = st.one_of(
    st.sampled_from(NASTY),
    st.text(st.characters(exclude_categories=())),
    st.binary().map(lambda data: data.decode(errors="surrogateescape")),
    st.binary().map(lambda data: data.decode("latin-1")),
)


def assert_harmless(text: str) -> None:
    """It does nothing to a terminal, is UTF-8 and XML, and short."""
    assert all(line.isprintable() for line in text.split("\n"))
    text.encode()
    assert len(text) < 20 * MOST


@settings(max_examples=1500)
@given(FOREIGN)
def test_what_is_printable_is_harmless_and_stays_as_it_is(text: str) -> None:
    assert_harmless(printable(text))
    assert printable(printable(text)) == printable(text)
    assert one_line(text).isprintable()
    assert len(one_line(text)) <= NAME
    for error in (HooksError, UsageError, OperationFailed, LockTimeout):
        assert_harmless(str(error(text)))


@given(st.text(st.characters(categories=["L", "N", "P", "S"], include_characters=" \n"), max_size=MOST))
def test_what_is_harmless_is_not_touched(text: str) -> None:
    assert printable(text) == text


@given(st.text(max_size=300), st.integers(50, 200))
def test_the_beginning_and_the_end_of_a_long_text_stay(text: str, most: int) -> None:
    short = shortened(text, most)
    assert len(short) <= most
    assert short == text or (short[:5] == text[:5] and short[-5:] == text[-5:] and len(text) > most)


@settings(max_examples=300)
@given(FOREIGN, st.booleans())
def test_the_log(text: str, failed: bool) -> None:
    record = logging.LogRecord("x", logging.ERROR, "x", 1, "%s", (text,), None)
    if failed:
        try:
            raise ValueError(text)
        except ValueError as error:
            record.exc_info = (ValueError, error, error.__traceback__)
    for form in (ForJournal(), ForReader(), Json()):
        assert_harmless(form.format(record))
    assert "\n" not in Json().format(record)
    assert all(line.startswith("<3>") for line in ForJournal().format(record).splitlines())


@settings(max_examples=300)
@given(FOREIGN, st.sampled_from(["summary", "details", "hint"]))
def test_a_mail_and_a_webhook(text: str, where: str) -> None:
    alert = Alert("main", "x", "critical", **{"summary": "it fails", where: text})
    assert_harmless(f"{alert.summary}{alert.details}{alert.hint}")
    case = Incident(alert, 0.0)
    mail = letter(Receiver(mail=("dba@example.com",)), case)
    assert sorted(mail.keys()) == sorted(
        ["Subject", "To", "Auto-Submitted", "Content-Type", "Content-Transfer-Encoding", "MIME-Version"]
    )
    head = mail.as_string().partition("\n\n")[0]
    assert "\nBcc:" not in head
    mail.as_bytes().decode("ascii")
    json.loads(json.dumps(receivers.document(case)))["text"].encode()


@settings(max_examples=300)
@given(FOREIGN)
def test_the_page_the_story_and_the_screen(text: str) -> None:
    change = Change(1, "main", 10.0, 2, 2, 1, 1, 0.0, None)
    items = (Item(0.0, "step", text, 1.0, text), Item(1.0, "look", text), Item(2.0, "run", "end", None, text))
    story = FailoverReport(change, 10.0, None, 0.5, {"app": 1.0}, None, None, False, items)
    ElementTree.fromstring(failover_html.render(story))
    failover_html.render(story).encode()
    with pytest.MonkeyPatch.context() as patched:
        screen = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
        patched.setattr("sys.stdout", screen)
        patched.setattr("sys.stderr", screen)
        say([*failover_text.lines(story), text])
        complain(text)
        screen.seek(0)
        assert all(line.isprintable() for line in screen.read().split("\n"))


@settings(max_examples=300)
@given(FOREIGN)
def test_metrics_and_findings(text: str) -> None:
    rendered = exposition.render([Sample("step_failures_total", {"action": text}, 1.0)])
    assert_harmless(rendered)
    assert rendered.count("\n") == 3
    finding = Topic("kernel.nat").fail(text, text)
    assert all(line.isprintable() for line in str(finding).split("\n"))
    assert checks.finding.nagios([finding])[0].isprintable()
