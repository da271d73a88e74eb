"""Who gets alerts: by mail, a webhook, or a program of the user's. Each is a program that gets the message on stdin."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from repmgr_hooks.alerts.incident import Incident
from repmgr_hooks.errors import Problem, mistake
from repmgr_hooks.settings.schema import Pattern, Positive, ProgramWords, Range
from repmgr_hooks.system.alert import Severity
from repmgr_hooks.system.steps import Program

SENDMAIL = "/usr/sbin/sendmail"
SEND = (sys.executable, "-P", "-m", "repmgr_hooks.alerts.deliver")

MailAddress = Annotated[str, Pattern(r"[A-Za-z0-9][A-Za-z0-9._+-]*(@[A-Za-z0-9.-]+)?", "a mail address")]


@dataclass(frozen=True)
class Receiver:
    """One entry under ``alerts``: one of ``mail``, ``webhook`` and ``exec``, for alerts of a ``severity`` or worse.

    ``webhook`` is a URL, or the path of a file whose first line is the URL and whose other lines are headers. Mail
    goes through sendmail, or by SMTP to the relay ``smtp_relay`` (HOST or HOST:PORT), as from ``from``.
    ``timeout`` is in seconds; what is still wrong is sent again every ``repeat_interval`` seconds.
    """

    severity: Severity = "warning"
    mail: tuple[MailAddress, ...] = ()
    webhook: str = ""
    exec: ProgramWords = ()
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
        import hashlib  # OpenSSL's; most commands need no sum

        return f"webhook {urlsplit(self.webhook).hostname} ({hashlib.sha256(self.webhook.encode()).hexdigest()[:6]})"

    def takes(self, severity: Severity) -> bool:
        """Whether that is grave enough."""
        return self.severity in ("warning", severity)

    def wants(self, incident: Incident) -> bool:
        """Whether an incident is grave enough, or was: whoever was told of it hears how it goes on, and of its end."""
        return self.takes(incident.alert.severity) or incident.goes_on_for(self.name)


def validate(receiver: Receiver) -> Iterator[Problem]:
    """Return what is wrong with a receiver."""
    if sum(map(bool, (receiver.mail, receiver.webhook, receiver.exec))) != 1:
        yield mistake("must have one of 'mail', 'webhook' and 'exec'")
    if receiver.webhook and not _can_be_a_webhook(receiver.webhook):
        hint = "a password goes into that file, as a header: Authorization: Basic ..."
        yield mistake("'webhook' must be a URL (http or https), or the absolute path of a file that holds it", hint)
    relay, port = receiver.smtp_relay, receiver.smtp_relay.rpartition(":")[2]
    if ":" in relay and not 1 <= int(port) <= 65535:
        yield mistake(f"'smtp_relay' names an invalid port: {receiver.smtp_relay}")
    if (receiver.smtp_relay or receiver.sender) and not receiver.mail:
        yield mistake("'smtp_relay' and 'from' go with 'mail'")


def _can_be_a_webhook(text: str) -> bool:
    """urllib looks for a host called user:password@host."""
    if not re.fullmatch(r"https?://[!-~]+|/[!-~]+", text):
        return False
    try:
        url = urlsplit(text)
        return text.startswith("/") or (bool(url.hostname) and url.port != 0 and "@" not in url.netloc)
    except ValueError:  # a bracket that is not closed, a port that is none
        return False


def program(receiver: Receiver, incident: Incident) -> Program:
    """Return the program that sends an incident to a receiver."""
    if receiver.exec:
        return Program(receiver.exec, stdin=json.dumps(document(incident)) + "\n", whole=False)
    if receiver.webhook:
        return _sent(receiver, webhook=receiver.webhook, body=json.dumps(document(incident)))
    from repmgr_hooks.alerts.letter import letter  # Python's email takes as long as all else here

    mail = letter(receiver, incident)
    if receiver.smtp_relay:
        return _sent(
            receiver, smtp=receiver.smtp_relay, sender=mail["From"], to=list(receiver.mail), body=mail.as_string()
        )
    return Program((SENDMAIL, "-t", "-i"), stdin=mail.as_string(), whole=False)


def _sent(receiver: Receiver, **order: Any) -> Program:
    """Through a process of its own: it can be ended whatever it waits for, and what is secret is no argument."""
    return Program(SEND, stdin=json.dumps({**order, "timeout": receiver.timeout}), whole=False)


def document(incident: Incident) -> dict[str, Any]:
    """Return an incident as plain data; see config/README.md. ``text``: the headline, where many chats look for it."""
    alert = dataclasses.asdict(incident.alert)
    del alert["momentary"]
    return {
        "text": incident.headline,
        "id": f"{incident.alert.cluster}/{incident.alert.condition}/{incident.since:.0f}",
        "state": incident.state,
        **alert,
        "since": _utc(incident.since),
        "ended": None if incident.ended is None else _utc(incident.ended),
        "host": socket.gethostname(),
    }


def _utc(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="seconds")


def is_readable_by_others(receiver: Receiver) -> bool:
    """True if a webhook's file shows what may be a secret."""
    path = Path(receiver.webhook)
    return receiver.webhook.startswith("/") and path.exists() and bool(path.stat().st_mode & 0o004)
