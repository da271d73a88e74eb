"""Who is told: mail, a webhook, or a program of the user's. Each is a program to run, with the message on its stdin."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email import policy
from email.message import EmailMessage
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from repmgr_hooks.alerts.incident import Incident
from repmgr_hooks.errors import Problem, hint_lines, mistake
from repmgr_hooks.files import program_problem
from repmgr_hooks.settings.schema import Pattern, Positive, Range, Word
from repmgr_hooks.system.alert import Severity
from repmgr_hooks.system.steps import Program

SENDMAIL = "/usr/sbin/sendmail"
SEND = (sys.executable, "-P", "-m", "repmgr_hooks.alerts.deliver")

# RFC 5322, 2.1.1: so long may a line be. Folded, a headline would be hard to find; beyond ASCII not every relay goes.
LETTER = policy.default.clone(cte_type="7bit", max_line_length=998)

MailAddress = Annotated[str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._+-]*(@[A-Za-z0-9.-]+)?", "a mail address")]


@dataclass(frozen=True)
class Receiver:
    """One entry under ``alerts``: one of ``mail``, ``webhook`` and ``exec``, for alerts of a ``severity`` or worse.

    ``webhook`` is a URL, or the path of a file whose first line is the URL and whose other lines are headers. Mail
    goes through sendmail, or by SMTP to the relay ``smtp_relay`` (HOST or HOST:PORT), as from ``from``.
    ``timeout`` is in seconds; what is still wrong is told again every ``repeat_interval`` seconds.
    """

    severity: Severity = "warning"
    mail: tuple[MailAddress, ...] = ()
    webhook: str = ""
    exec: tuple[Word, ...] = ()
    smtp_relay: Annotated[str, Pattern(r"[A-Za-z0-9.-]+(:[0-9]{1,5})?", "HOST or HOST:PORT")] = ""
    sender: MailAddress = field(default="", metadata={"option": "from"})
    timeout: Annotated[int, Range(1, 120)] = 10
    repeat_interval: Positive = 3600

    @property
    def name(self) -> str:
        """What it is called in the log and in the journal; of a URL, which may be a secret, only the host."""
        if self.mail:
            return f"mail {', '.join(self.mail)}"
        if self.exec:
            return f"exec {shlex.join(self.exec)}"
        if self.webhook.startswith("/"):
            return f"webhook {self.webhook}"
        return f"webhook {urlsplit(self.webhook).hostname} ({hashlib.sha256(self.webhook.encode()).hexdigest()[:6]})"

    def wants(self, case: Incident) -> bool:
        """Whether a case is grave enough."""
        return self.severity in ("warning", case.alert.severity)


def validate(target: Receiver) -> Iterator[Problem]:
    """Return what is wrong with a receiver."""
    if sum(map(bool, (target.mail, target.webhook, target.exec))) != 1:
        yield mistake("must have one of 'mail', 'webhook' and 'exec'")
    if target.webhook and not _can_be_a_webhook(target.webhook):
        yield mistake("'webhook' must be a URL (http or https), or the absolute path of a file that holds it")
    if target.smtp_relay and ":" in target.smtp_relay and not 1 <= int(target.smtp_relay.rpartition(":")[2]) <= 65535:
        yield mistake(f"'smtp_relay' names a port that is none: {target.smtp_relay}")
    if target.exec and (wrong := program_problem(target.exec, "exec")):
        yield wrong
    if (target.smtp_relay or target.sender) and not target.mail:
        yield mistake("'smtp_relay' and 'from' go with 'mail'")


def _can_be_a_webhook(text: str) -> bool:
    if not re.fullmatch(r"https?://[!-~]+|/[!-~]+", text):
        return False
    try:
        return text.startswith("/") or (bool(urlsplit(text).hostname) and urlsplit(text).port != 0)
    except ValueError:  # a bracket that is not closed, a port that is none
        return False


def program(target: Receiver, case: Incident) -> Program:
    """Return the program that tells a target of a case."""
    if target.exec:
        return Program(target.exec, stdin=json.dumps(document(case)) + "\n", whole=False)
    if target.webhook:
        return _sent(target, webhook=target.webhook, body=json.dumps(document(case)))
    mail = letter(target, case)
    if target.smtp_relay:
        return _sent(target, smtp=target.smtp_relay, sender=mail["From"], to=list(target.mail), body=mail.as_string())
    return Program((SENDMAIL, "-t", "-i"), stdin=mail.as_string(), whole=False)


def _sent(target: Receiver, **order: Any) -> Program:
    """Through a process of its own: it can be ended whatever it waits for, and what is secret is no argument."""
    return Program(SEND, stdin=json.dumps({**order, "timeout": target.timeout}), whole=False)


def document(case: Incident) -> dict[str, Any]:
    """Return a case as plain data; the README describes it. ``text``: the headline, where many chats look for it."""
    alert = dataclasses.asdict(case.alert)
    del alert["momentary"]
    return {
        "text": case.headline,
        "id": f"{case.alert.cluster}/{case.alert.condition}/{case.since:.0f}",
        "state": case.state,
        **alert,
        "since": _utc(case.since),
        "ended": None if case.ended is None else _utc(case.ended),
        "host": socket.gethostname(),
    }


def letter(target: Receiver, case: Incident) -> EmailMessage:
    """Return a case as a mail. EmailMessage refuses line breaks in a header; the headline has none."""
    alert, mail = case.alert, EmailMessage(LETTER)
    mail["Subject"] = case.headline
    mail["To"] = ", ".join(target.mail)
    if target.sender or target.smtp_relay:
        mail["From"] = target.sender or f"repmgr-hooks@{socket.gethostname()}"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers of an absent person
    over = f"\nOver since {_local(case.ended)}." if case.state == "over" else ""
    seen = f"Since {_local(case.since)}, seen by {socket.gethostname()}.{over}"
    hint = "\n".join(hint_lines(alert.hint if case.state != "over" else ""))
    mail.set_content("\n\n".join(filter(None, (alert.summary, seen, hint, alert.details))) + "\n")
    return mail


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def _local(moment: float | None) -> str:
    return datetime.fromtimestamp(moment or 0).astimezone().isoformat(" ", timespec="seconds")


def is_readable_by_others(target: Receiver) -> bool:
    """True if a webhook's file shows what may be a secret."""
    path = Path(target.webhook)
    return target.webhook.startswith("/") and path.exists() and bool(path.stat().st_mode & 0o004)
