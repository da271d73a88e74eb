"""Whether alerts reach their receivers: what can be seen of it, and, if asked, by a message to each."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks import clock
from repmgr_hooks.alerts.incident import Incident
from repmgr_hooks.alerts.notifier import attempt
from repmgr_hooks.alerts.receivers import SENDMAIL, is_readable_by_others
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import acting_as, service_user
from repmgr_hooks.config import Config
from repmgr_hooks.system.alert import Alert
from repmgr_hooks.system.steps import Host

MAIL = Topic("alerts.mail")
POSTDROP = "/usr/sbin/postdrop"
SET_ID = stat.S_ISUID | stat.S_ISGID


def seen(loaded: Config) -> Iterator[Finding]:
    """Look at what mail and webhooks need here."""
    for receiver in loaded.service.alerts:
        if is_readable_by_others(receiver):
            path = receiver.webhook
            yield Topic("alerts.secret").warn(f"{path} can be read by all, and may hold a secret", f"chmod o-r {path}")
        if receiver.mail and not receiver.smtp_relay:
            yield from _sendmail()


def _sendmail() -> Iterator[Finding]:
    """Postfix' postdrop and Exim are set-id programs, which NoNewPrivileges (systemd.exec(5)) makes useless."""
    if not Path(SENDMAIL).exists():
        yield MAIL.fail(f"{SENDMAIL} is not installed", "install a mail server, or name one with 'smtp_relay'")
    elif any(Path(name).exists() and Path(name).stat().st_mode & SET_ID for name in (SENDMAIL, POSTDROP)):
        why = f"{SENDMAIL} needs a set-ID program, which repmgr-hooks.service forbids (NoNewPrivileges)"
        yield MAIL.warn(why, "add 'smtp_relay: 127.0.0.1' to the mail under 'alerts'")


def sent(loaded: Config, host: Host) -> Iterator[Finding]:
    """Send a message to each, as the service will."""
    user = service_user(loaded.state_dir)
    if not loaded.service.alerts:
        yield Topic("alerts.test").fail(
            "no receiver is configured: alerts are not sent", "name a receiver under 'alerts'"
        )
    for receiver in loaded.service.alerts:
        text = "a test of repmgr-hooks check --send-test-alert; nothing is wrong"
        incident = Incident(
            Alert(next(iter(loaded.clusters)), "test", receiver.severity, text, momentary=True), clock.wall()
        )
        with acting_as(user):
            error = attempt(receiver, incident, host)
        topic = Topic("alerts.test", receiver.name)
        yield topic.fail(error, "") if error else topic.ok(f"sent{f' as {user.name}' if user.can_be_me else ''}")
