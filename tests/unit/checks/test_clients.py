"""Whether a client could log in on a standby, if that were the primary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks.clients import logins
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.settings.cluster import ProbeSettings
from repmgr_hooks.system.visit import LATE, Visit
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
NO_ENTRY = 'FATAL:  no pg_hba.conf entry for host "10.0.0.20", user "app", database "app", no encryption'
TOO_MANY = 'FATAL:  too many connections for role "app"'


def said(client: Visit | None, host: FakeHost | None = None) -> list[tuple[str, str, str]]:
    host = host or FakeHost()
    host.nodes[2].client = client
    return [(found.level, found.message, found.hint) for found in logins(MAIN, host, [2])]


def test_a_standby_that_lets_clients_in() -> None:
    assert said(None) == [("OK", "lets app in, as the primary does", "")]


def test_what_a_standby_refuses_only_once_logged_in_is_no_fault() -> None:
    """The role may have default_transaction_isolation = serializable."""
    refused = Visit("ask", "ERROR:  cannot use serializable mode in a hot standby", "0A000")
    assert said(refused) == [("OK", "lets app in, as the primary does", "")]


@pytest.mark.parametrize(
    ("error", "level", "hint"),
    [
        (NO_ENTRY, "FAIL", "host app app 10.0.0.20/32 scram-sha-256"),
        ('FATAL:  password authentication failed for user "app"', "FAIL", "check the role's password"),
        ('FATAL:  role "app" is not permitted to log in', "FAIL", "alter role app login"),
        (TOO_MANY, "FAIL", "alter role app connection limit -1"),
        ("FATAL:  remaining connection slots are reserved for roles with SUPERUSER", "FAIL", "raise max_connections"),
        (LATE, "WARN", "repmgr-hooks check"),
        # The passfile has a line for the gateway's port alone: through that a client gets in.
        ("fe_sendauth: no password supplied", "WARN", "*:*:app:app:PASSWORD"),
    ],
)
def test_one_that_does_not(error: str, level: str, hint: str) -> None:
    ((found, message, what),) = said(Visit(error=error))
    assert found == level
    assert "no client could log in" in message or level == "WARN"
    assert hint in what


def test_what_the_primary_says_too_is_said_once() -> None:
    """A limit of the role is the same on all nodes; a line of pg_hba.conf is not."""
    host = FakeHost()
    host.nodes[2].client = Visit(error=TOO_MANY)
    (alone,) = logins(MAIN, host, [2])
    known = [Finding("FAIL", f"port app: no client can write: {TOO_MANY}", alone.hint, "client.write", "main")]
    for error, level in ((TOO_MANY, "OK"), (NO_ENTRY, "FAIL")):
        host.nodes[2].client = Visit(error=error)
        (found,) = logins(MAIN, host, [2], known)
        assert found.level == level


def test_one_that_sees_us_as_somebody_else_is_not_tried() -> None:
    """What it lets in is the address of the clients, and none of ours."""
    host = FakeHost()
    host.gateway = "10.0.0.99"
    ((level, message, _),) = said(Visit(error=NO_ENTRY), host)
    assert (level, message.startswith("not tried")) == ("OK", True)


def test_nothing_is_known_of_a_role_that_nobody_has_named() -> None:
    cluster = replace(MAIN.cluster, probe=ProbeSettings())
    host = FakeHost()
    host.nodes[2].client = Visit(error=NO_ENTRY)
    assert list(logins(replace(MAIN, cluster=cluster), host, [2])) == []
