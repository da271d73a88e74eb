"""An incident as a mail."""

from __future__ import annotations

import socket
from datetime import datetime
from email import policy
from email.message import EmailMessage

from repmgr_hooks.alerts.incident import Incident
from repmgr_hooks.alerts.receivers import Receiver
from repmgr_hooks.errors import hint_lines

# RFC 5322, 2.1.1: so long may a line be. Folded, a headline would be hard to find; beyond ASCII not every relay goes.
LETTER = policy.default.clone(cte_type="7bit", max_line_length=998)


def letter(receiver: Receiver, incident: Incident) -> EmailMessage:
    """Return an incident as a mail. EmailMessage refuses line breaks in a header; the headline has none."""
    alert, mail = incident.alert, EmailMessage(LETTER)
    mail["Subject"] = incident.headline
    mail["To"] = ", ".join(receiver.mail)
    if receiver.sender or receiver.smtp_relay:
        mail["From"] = receiver.sender or f"repmgr-hooks@{socket.gethostname()}"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers of an absent person
    over = f"\nOver since {_local(incident.ended)}." if incident.state == "over" else ""
    seen = f"Since {_local(incident.since)}, seen by {socket.gethostname()}.{over}"
    hint = "\n".join(hint_lines(alert.hint if incident.state != "over" else ""))
    mail.set_content("\n\n".join(filter(None, (alert.summary, seen, hint, alert.details))) + "\n")
    return mail


def _local(moment: float | None) -> str:
    return datetime.fromtimestamp(moment or 0).astimezone().isoformat(" ", timespec="seconds")
