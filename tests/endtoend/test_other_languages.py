"""Servers whose messages are in German or Russian: each fault has the same verdict as where they are in English."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.test_check import CONFIG, edited
from tests.endtoend.test_clients import settled
from tests.endtoend.test_what_clients_meet import HBA, LINE, UNDO
from tests.lab import DATA, Host, Lab, must, wait_for
from tests.lab.versions import POSTGRESQL

ENGLISH, GERMAN, RUSSIAN = "C", "de_DE.UTF-8", "ru_RU.UTF-8"
LOCALES = "/var/lib/locales"
REPMGR = "host    repmgr       repmgr "


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster whose servers can speak several languages. The service looks seldom, and mends no fault."""
    for language in (GERMAN, RUSSIAN):
        if not Path(f"/usr/share/locale/{language[:2]}/LC_MESSAGES/postgres-{POSTGRESQL}.mo").exists():
            pytest.skip(f"this machine has left out PostgreSQL's messages in {language}")
    with fresh_lab() as lab:
        lab.build()
        for host in lab.databases:
            host.path(LOCALES).mkdir()
            for language in (GERMAN, RUSSIAN):
                must("localedef", "-i", language[:5], "-f", "UTF-8", str(host.path(f"{LOCALES}/{language}")))
            host.pg_ctl("stop", "-m", "fast")
            start(host)
        config = lab.gateway.path(CONFIG)
        config.write_text(config.read_text().replace("monitor_interval: 5", "monitor_interval: 3600"))
        lab.start_passive_repmgrd()
        assert lab.gateway.hooks("reconcile").returncode == 0
        lab.start_cron()
        lab.start_worker()
        wait_for(lambda: verdict(lab, ENGLISH)[0] == 0, "a green status", every=1)
        yield lab


def start(host: Host) -> None:
    """Start a server that finds the locales of this lab."""
    words = ("pg_ctl", "-D", DATA, "-w", "-l", f"{DATA}/server.log", "start")
    host.run("env", f"LOCPATH={LOCALES}", *words, user="postgres")


def speak(lab: Lab, language: str) -> None:
    for host in lab.databases:
        if host.result("test", "-f", f"{DATA}/postmaster.pid").returncode == 0:
            host.run("sh", "-c", f"echo \"lc_messages = '{language}'\" >>{DATA}/conf.d.conf", user="postgres")
            host.pg_ctl("reload")


def verdict(lab: Lab, language: str) -> Any:
    """What ``status`` and ``check`` make of a cluster that speaks a language, but for the messages themselves."""
    speak(lab, language)
    status = lab.gateway.hooks("status", "--json")
    (cluster,) = json.loads(status.stdout).values()
    checked = json.loads(lab.gateway.hooks("check", "--json").stdout)
    return (
        status.returncode,
        [(probe["port"], probe["code"], probe["node"], probe["hint"]) for probe in cluster["probes"]],
        cluster["decision"]["primary"],
        sorted((item["code"], item["where"], item["level"], item["hint"]) for item in checked if item["level"] != "OK"),
    )


def judged_alike(lab: Lab, *languages: str) -> Any:
    """Return the verdict, which is the same in English and in these languages; what comes to rest meanwhile is not."""
    for language in languages:
        wait_for(lambda spoken=language: verdict(lab, spoken) == verdict(lab, ENGLISH), f"one verdict in {language}")
    return verdict(lab, ENGLISH)


def test_a_healthy_cluster(lab: Lab) -> None:
    assert judged_alike(lab, GERMAN, RUSSIAN)[0] == 0
    speak(lab, RUSSIAN)
    assert "не существует" in lab.db1.result("psql", "-d", "nowhere", user="postgres").stderr


@pytest.mark.parametrize(
    ("statement", "code"),
    [
        ("alter role app nologin", "rejected"),
        ("alter role app password 'another'", "rejected"),
        ("alter role app connection limit 0", "no_connection_left"),
    ],
)
def test_a_role_that_is_not_let_in(lab: Lab, statement: str, code: str) -> None:
    settled(lab, statement)
    try:
        found = judged_alike(lab, RUSSIAN, *([GERMAN] if "password" in statement else []))
        assert {probe[1] for probe in found[1]} == {code}
    finally:
        settled(
            lab, f"alter role app password '{lab.passwords['app']}'; alter database app connection limit -1; {UNDO}"
        )


@contextlib.contextmanager
def hba(lab: Lab, old: str) -> Iterator[None]:
    """A line is not in db2's file, nor in db1's if it is about the application."""
    with contextlib.ExitStack() as stack:
        for host in lab.databases if old == LINE else [lab.db2]:
            stack.enter_context(edited(host, HBA, old, "#"))
            host.pg_ctl("reload")
            stack.callback(host.pg_ctl, "reload")
        yield
    for host in lab.databases:
        host.pg_ctl("reload")


@pytest.mark.parametrize("line", [LINE, REPMGR])
def test_pg_hba_conf(lab: Lab, line: str) -> None:
    with hba(lab, line):
        assert any("pg_hba.conf" in item[3] for item in judged_alike(lab, RUSSIAN)[3])


def test_a_node_that_does_not_run(lab: Lab) -> None:
    lab.db2.pg_ctl("stop", "-m", "fast")
    try:
        assert judged_alike(lab, RUSSIAN)[0] == 1
    finally:
        start(lab.db2)
