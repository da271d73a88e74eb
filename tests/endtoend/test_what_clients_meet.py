"""Other members of each kind of fault of the server's that keep clients from writing: named, and undone as printed."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.endtoend.looks import status
from tests.endtoend.test_clients import a_client_writes, code, served, settled, writes
from tests.endtoend.typist import type_in
from tests.lab import DATA, Host, Lab, must, wait_for

__all__ = ["served"]
HBA = f"{DATA}/pg_hba.conf"
LINE = "host    app          app               10.0.0.20/32   scram-sha-256\n"
UNDO = (
    "alter role app reset all; alter role app login connection limit -1 valid until 'infinity'; "
    "alter database app allow_connections true; grant connect on database app to public; "
    "alter system reset synchronous_standby_names; alter system reset default_transaction_read_only"
)


def red(lab: Lab, expected: str, words: str) -> str:
    """A client cannot write, and ``status`` says why; returns its hint."""
    with contextlib.suppress(subprocess.TimeoutExpired):  # a commit that waits
        assert not writes(lab)
    assert code(lab) == expected
    (hint,) = {probe["hint"] for probe in status(lab)["probes"]}
    shown = lab.gateway.hooks("status")
    assert shown.returncode == 1
    assert words in shown.stdout
    assert f"HINT: {hint}\n" in shown.stdout
    return hint


def green(lab: Lab) -> None:
    wait_for(lambda: code(lab) == "writes", "a client to write", every=1)
    a_client_writes(lab)


@pytest.mark.parametrize(
    ("put_in", "expected", "words"),
    [
        (
            "update pg_database set datallowconn = false where datname = 'app'",
            *("failed", 'database "app" is not currently accepting connections'),
        ),
        ("revoke connect on database app from public, app", "failed", 'permission denied for database "app"'),
        ("alter role app connection limit 1", "no_connection_left", 'too many connections for role "app"'),
        (
            "alter system set synchronous_standby_names = 'FIRST 2 (db2, nobody)'",
            *("commit_waits", "synchronous_standby_names = 'FIRST 2 (db2, nobody)'"),
        ),
        (
            "alter role all set default_transaction_read_only = on",
            *("read_only", "sessions of app on node 1 are read-only"),
        ),
    ],
)
def test_a_setting_of_the_server(served: Lab, put_in: str, expected: str, words: str) -> None:
    if "connection limit" in put_in:
        hold = ("psql", "-XAtq", f"{served.app_port} user=app dbname=app", "-c", "select pg_sleep(600)")
        holder = served.app.start(*hold, user="postgres", log="holder")
        wait_for(lambda: served.db1.sql("select count(*) from pg_stat_activity where usename = 'app'") == "1", "it")
    settled(served, put_in)
    try:
        hint = red(served, expected, words)
        type_in(served, hint.replace("start a standby that it names; or, without its safety, ", ""))
        settled(served, "select 1")
        green(served)
    finally:
        settled(served, f"{UNDO}; alter role all reset all")
        if "connection limit" in put_in:
            holder.terminate()
            holder.wait(60)


def hba(lab: Lab, text: str) -> None:
    for host in lab.databases:
        lab.put(host, HBA, text, 0o600, "postgres")
        host.pg_ctl("reload")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (LINE, f"host app app 10.0.0.20/32 reject\n{LINE}", 'pg_hba.conf rejects connection for host "10.0.0.20"'),
        (LINE, LINE.replace("host ", "hostssl "), 'no pg_hba.conf entry for host "10.0.0.20", user "app"'),
        (LINE, LINE.replace("10.0.0.20/32", "10.0.0.30/32"), 'no pg_hba.conf entry for host "10.0.0.20", user "app"'),
    ],
)
def test_pg_hba_conf(served: Lab, old: str, new: str, words: str) -> None:
    """The last line would let in the application's host; but a node sees the gateway's address."""
    before = served.db1.path(HBA).read_text()
    assert old in before
    hba(served, before.replace(old, new))
    try:
        type_in(served, red(served, "rejected", words))
        green(served)
    finally:
        hba(served, before)


def kept_out(lab: Lab) -> list[dict[str, str]]:
    """What `check` finds against a client's login on a standby."""
    found = json.loads(lab.gateway.hooks("check", "--json").stdout)
    return [each for each in found if each["code"] == "client.login" and each["level"] != "OK"]


def test_a_standby_that_lets_no_client_in(served: Lab) -> None:
    """All is green until it is promoted, and then no client can log in."""
    before = served.db2.path(HBA).read_text()
    served.put(served.db2, HBA, before.replace(LINE, ""), 0o600, "postgres")
    served.db2.pg_ctl("reload")
    try:
        assert status(served)["healthy"]
        (finding,) = kept_out(served)
        assert (finding["level"], finding["where"]) == ("FAIL", "main node 2")
        assert 'no pg_hba.conf entry for host "10.0.0.20", user "app"' in finding["message"]
        type_in(served, finding["hint"])
        assert kept_out(served) == []
    finally:
        served.put(served.db2, HBA, before, 0o600, "postgres")
        served.db2.pg_ctl("reload")


@pytest.fixture
def small_disk(served: Lab) -> Iterator[Host]:
    """The application's database is on a disk of its own, of 40 MB; the WAL is not. For the last test of this lab."""
    place, db1 = "/var/lib/postgresql/small", served.db1
    for host in served.databases:
        host.path(place).mkdir()
        if host is db1:
            must("mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(host.path(place)))
        shutil.chown(host.path(place), "postgres", "postgres")
        host.path(place).chmod(0o700)
    db1.pg_ctl("restart", "-m", "fast")
    wait_for(lambda: code(served) == "writes", "a client to write", every=1)
    db1.sql(f"create tablespace small location '{place}'")
    db1.sql("select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = 'app'")
    db1.sql("alter database app set tablespace small")
    yield db1
    must("umount", "--lazy", str(db1.path(place)))


def test_a_full_disk(served: Lab, small_disk: Host) -> None:
    """Its WAL is on another disk: what only wrote WAL would find nothing."""
    green(served)
    filler = small_disk.path("/var/lib/postgresql/small/filler")
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            pass
    insert = "insert into work select from generate_series(1, 10000)"
    assert "No space left on device" in served.psql_app(insert).stderr
    assert code(served) == "disk_full"
    shown = served.gateway.hooks("status")
    assert shown.returncode == 1
    assert "No space left on device" in shown.stdout
    assert "HINT: on node 1, make room where that file is: df -h\n" in shown.stdout
    filler.unlink()
    green(served)
