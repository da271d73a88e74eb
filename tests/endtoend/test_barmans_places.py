"""Where Barman keeps files and settings is its business: links, other places, and another Barman's receiver."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, slot
from tests.endtoend.test_check import CONFIG, edited
from tests.endtoend.test_continuity import close_file, configure_nodes
from tests.lab import Lab, wait_for, wait_for_answer
from tests.lab.barman import archive, back_up

HOME = "/var/lib/barman/main_backup"


def move_to_another_disk(lab: Lab, name: str) -> None:
    """As when the disk became full: the directory is a link now."""
    lab.gateway.run("mkdir", "-p", "/var/lib/barman/disk", user="barman")
    lab.gateway.run("mv", f"{HOME}/{name}", f"/var/lib/barman/disk/{name}", user="barman")
    lab.gateway.run("ln", "-s", f"/var/lib/barman/disk/{name}", f"{HOME}/{name}", user="barman")


def receives_nothing(lab: Lab) -> None:
    """Stop Barman's receiver, until the primary knows: a moment later its slot would still be taken."""
    wait_for(lambda: lab.gateway.result("pkill", "-f", "receive-?wal").returncode == 1, "Barman's receiver to end")
    wait_for(lambda: slot(lab.db1).startswith("f"), "the slot to be free")


def level(shown: str, key: str) -> str:
    found = re.search(rf"^(\w+) +{re.escape(key)} ", shown, re.MULTILINE)
    return found[1] if found else ""


def test_barmans_places(built_lab: Lab) -> None:
    lab = built_lab
    configure_nodes(lab, "synchronous_standby_names = ''\n")
    assert lab.gateway.hooks("reconcile").returncode == 0
    back_up(lab, lab.db1)
    archive(lab, lab.db1)
    receives_nothing(lab)
    for name in ("wals", "streaming"):
        move_to_another_disk(lab, name)

    # Links are followed, by `reconcile` and by `check-wal`; one that leads nowhere is no empty archive.
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout
    assert barman_streams_from(lab.db1)
    result = lab.gateway.hooks("check-wal", "--deep")
    assert result.returncode == 0, result.stdout
    assert re.search(r"main: OK: 0{7}1[0-9A-F]{16} to 0{7}1[0-9A-F]{16}, [2-9] files", result.stdout), result
    lab.gateway.run("mv", "/var/lib/barman/disk", "/var/lib/barman/away")
    result = lab.gateway.hooks("check-wal")
    assert result.returncode == 1
    assert "a dangling symbolic link" in result.stdout
    lab.gateway.run("mv", "/var/lib/barman/away", "/var/lib/barman/disk")

    # Barman's file in another of its places, and what it could not archive.
    lab.gateway.run("mkdir", "-p", "/etc/barman")
    lab.gateway.run("mv", "/etc/barman.conf", "/etc/barman/barman.conf")
    lab.gateway.barman("-q", "cron")
    keys = ("active", "answer", "backlog", "conninfo", "content", "cron", "errors", "locks", "primary", "slot")
    shown = wait_for_answer(
        lambda: lab.gateway.hooks("check").stdout,
        lambda said: {level(said, f"barman.{key}") for key in keys} == {"OK"},
        "what cron has begun to end",
    )
    assert level(shown, "recovery.history") == "WARN"
    lab.gateway.run("touch", f"{HOME}/errors/000000010000000000000002.20261125T010101Z.duplicate")
    assert level(lab.gateway.hooks("check").stdout, "barman.errors") == "FAIL"

    # Another Barman takes what our slot gives, under the same name.
    receives_nothing(lab)
    lab.gateway.run("mkdir", "/var/tmp/other", user="barman")
    dsn = "host=10.0.0.20 port=54321 user=streaming_barman application_name=barman_receive_wal"
    words = ("pg_receivewal", "-d", dsn, "-D", "/var/tmp/other", "-S", "barman", "--no-loop")
    lab.daemons["another Barman"] = lab.gateway.start(*words, user="barman", log="other")
    wait_for(lambda: barman_streams_from(lab.db1), "the other receiver to stream")
    lab.db1.sql("insert into work select from generate_series(1, 1000)", "app")
    there = (
        "select write_lsn + 1000 > pg_current_wal_lsn() from pg_stat_replication "
        "where application_name = 'barman_receive_wal'"
    )
    wait_for(lambda: lab.db1.sql(there) == "t", "the other receiver to have it")
    said = f"does not come into {HOME}/streaming: it is another Barman's"
    wait_for_answer(
        lambda: lab.gateway.hooks("status").stdout, lambda shown: said in shown, "status to say whose it is"
    )
    close_file(lab.db1)
    assert lab.gateway.hooks("reconcile").returncode == 1


SERVER = "/etc/barman.d/main_backup.conf"
SERVICES = """\
[main]
host=10.0.0.20
port=54321
user=barman
dbname=postgres
[main_stream]
host=10.0.0.20
port=54321
user=streaming_barman
"""


@pytest.fixture(params=[False, True], ids=["debians", "newest"])
def streaming(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """Two nodes, and each Barman streams."""
    with fresh_lab(newest_barman=request.param) as lab:
        lab.build()
        assert lab.gateway.hooks("reconcile").returncode == 0
        lab.gateway.barman("-q", "cron")
        yield lab


def started(lab: Lab, *command: str) -> list[str]:
    """Which commands of Barman a command of ours starts."""
    wrapper, noted = "/var/tmp/asked/barman", lab.gateway.path("/var/tmp/asked/noted")
    noted.parent.mkdir(exist_ok=True)
    real = lab.gateway.run("sh", "-c", "command -v barman").strip()
    lab.put(lab.gateway, wrapper, f'#!/bin/sh\necho "$*" >>/var/tmp/asked/noted\nexec {real} "$@"\n', 0o755)
    lab.put(lab.gateway, "/var/tmp/asked/noted", "", 0o666)
    with edited(lab.gateway, CONFIG, "command: [barman]", f"command: [{wrapper}]"):
        lab.gateway.hooks(*command)
    return sorted(noted.read_text().splitlines())


def with_settings(lab: Lab, text: str, **settings: str) -> str:
    """Let Barman's file say so, and return what ``check`` shows."""
    for name, value in settings.items():
        text = re.sub(rf"^{name} *=.*\n", "", text, flags=re.MULTILINE) + f"{name} = {value}\n"
    lab.put(lab.gateway, SERVER, text)
    return lab.gateway.hooks("check").stdout


def test_barmans_settings(streaming: Lab) -> None:
    """As Barman itself says them: what is off is found before a failover; ways that lead right are no fault."""
    lab = streaming
    text = lab.gateway.path(SERVER).read_text()
    # Each start of Barman costs more than all the rest of a command. Of an empty archive its backups are asked, too.
    back_up(lab, lab.db1)
    newer = {"diagnose"} if lab.barman >= (3, 19) else set()
    for options in ((), ("--restore",)):
        assert started(lab, "check", *options) == sorted({"show-server main_backup"} | newer), options
    for command in ("status", "reconcile", "reconcile --dry-run", "metrics"):
        assert started(lab, *command.split()) == ["show-server main_backup"], command
    # Whether a backup waits for WAL is read in what Barman notes of it.
    places = f"ls {HOME}/meta/*-backup.info {HOME}/base/*/backup.info 2>/dev/null | head -1"
    note = lab.gateway.run("sh", "-c", places).strip()
    with edited(lab.gateway, note, "status=DONE", "status=WAITING_FOR_WALS"):
        assert level(lab.gateway.hooks("check").stdout, "barman.backup") == "WARN"
    ways = {
        name: found[1]
        for name in ("conninfo", "streaming_conninfo")
        if (found := re.search(rf"^{name} *= *(.*)$", text, re.M))
    }
    shown = with_settings(lab, text)
    assert level(shown, "barman.active") == level(shown, "barman.conninfo") == level(shown, "barman.primary") == "OK", (
        shown
    )

    for name, value in (("active", "false"), ("streaming_archiver", "off"), ("streaming_archiver_name", "another")):
        shown = with_settings(lab, text, **{name: value})
        assert level(shown, "barman.active") == "FAIL", (name, shown)

    # By names, and by a service: that it leads to the primary is seen, where it leads is not.
    with lab.gateway.path("/etc/hosts").open("a") as hosts:
        hosts.write("10.0.0.20 gateway.example\n")
    named = {name: way.replace("10.0.0.20", "gateway.example") for name, way in ways.items()}
    assert named != ways
    shown = with_settings(lab, text, **named)
    assert (level(shown, "barman.conninfo"), level(shown, "barman.primary")) == ("OK", "OK"), shown
    lab.put(lab.gateway, "/var/lib/barman/.pg_service.conf", SERVICES, 0o600, "barman")
    shown = with_settings(lab, text, conninfo="service=main", streaming_conninfo="service=main_stream")
    assert (level(shown, "barman.conninfo"), level(shown, "barman.primary")) == ("WARN", "OK"), shown
    receives_nothing(lab)
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout
    assert barman_streams_from(lab.db1)

    # Backups from a standby, WAL from the primary (3.10); and WAL from a node, past our port.
    if lab.barman < (3, 10):
        return
    standby = {
        name: re.sub("port=54321", "port=5432", way.replace("10.0.0.20", "10.0.0.12")) for name, way in ways.items()
    }
    wal = {f"wal_{name}": way for name, way in ways.items()}
    shown = with_settings(lab, text, **standby, **wal)
    assert level(shown, "barman.conninfo") == level(shown, "barman.primary") == "OK", shown
    shown = with_settings(lab, text, **ways, wal_streaming_conninfo=standby["streaming_conninfo"])
    assert level(shown, "barman.conninfo") == "FAIL", shown
