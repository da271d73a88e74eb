"""Whether Barman could log in on a standby, if that were the primary."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import barman_logins
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.system.visit import LATE, Visit
from tests.fake import FakeHost

CLUSTER = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster
NO_ENTRY = 'FATAL:  no pg_hba.conf entry for replication connection from host "10.0.0.20", user "streaming_barman"'
NO_SENDER = "FATAL:  number of requested standby connections exceeds max_wal_senders (currently 10)"


def look(client: Visit | None, command: tuple[str, ...] = ("barman",)) -> list[Finding]:
    host = FakeHost()
    host.nodes[2].client = client
    assert CLUSTER.barman
    return list(barman_logins.look(CLUSTER, replace(CLUSTER.barman, command=command), host, [2]))


@pytest.mark.parametrize(
    ("client", "level", "said"),
    [
        (None, "OK", "lets Barman in, as the primary does"),
        (Visit("ask", "ERROR:  syntax error", "42601"), "OK", "lets Barman in, as the primary does"),
        (Visit(error="fe_sendauth: no password supplied"), "OK", "asks Barman for a password"),
        (Visit(error='FATAL:  password authentication failed for user "barman"', rejected=True), "WARN", "is unknown"),
        (Visit(error="server does not support SSL, but SSL was required"), "WARN", "is unknown"),
        (Visit(error="FATAL:  sorry, too many clients already", rejected=True), "WARN", "is unknown"),
        (Visit(error=LATE), "WARN", "is unknown"),
        (Visit(error=NO_ENTRY, rejected=True), "FAIL", "host postgres barman 10.0.0.20/32 scram-sha-256"),
        (Visit(error=NO_SENDER, rejected=True), "FAIL", "raise max_wal_senders on node 2, and restart it"),
    ],
)
def test_what_a_standby_says_to_barman(client: Visit | None, level: str, said: str) -> None:
    (found,) = look(client)
    assert (found.code, found.where, found.level) == ("barman.login", "main_backup node 2", level)
    assert said in f"{found.message} {found.hint}"


def test_one_elsewhere_is_not_tried() -> None:
    (found,) = look(Visit(error=NO_ENTRY, rejected=True), ("ssh", "barman@backup", "barman"))
    assert (found.level, found.message[:20]) == ("OK", "not tried as Barman:")
