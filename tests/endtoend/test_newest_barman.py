"""The newest Barman there is, in the place of Debian's: what we rely on of it, and its models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from repmgr_hooks.barman import receive_wal
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import (
    barman_streams_from,
    failover_handled,
    first_file,
    follows,
    handled_events,
    missing_across_the_switch,
    nothing_missing,
    routes,
    slot,
)
from tests.endtoend.test_check import edited
from tests.endtoend.test_continuity import (
    by_hand_ok,
    checksum,
    close_file,
    end_cron,
    let_barman_get_ahead,
    promote,
    serve,
    streaming_files,
    wait_for_the_app_port,
)
from tests.lab import Lab, wait_for
from tests.lab.barman import archived, back_up, clone_from_barman, serve_standbys

CONFIG = "/etc/repmgr-hooks/config.yaml"
SERVER = "/etc/barman.d/main_backup.conf"
ARCHIVE = "/var/lib/barman/main_backup/wals"


@pytest.fixture
def newest() -> Iterator[Lab]:
    """Two nodes that replicate; ports closed, Barman idle, no repmgrd."""
    with fresh_lab(newest_barman=True) as lab:
        lab.build()
        said = lab.gateway.barman("--version")
        assert tuple(map(int, said.split()[0].split(".")[:2])) >= (3, 19), said
        yield lab


def test_failover(newest: Lab) -> None:
    lab = newest
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    close_file(lab.db1)
    # Else the switchpoint may be at the end of a file; the commit of a bare txid_current() is waited for by nobody.
    lab.db1.sql("insert into work default values", "app")
    first = first_file(lab)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")

    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert barman_streams_from(lab.db2)
    assert slot(lab.db2) == "t|t|reserved"
    wait_for(lambda: not missing_across_the_switch(lab, lab.db2, first), "Barman to have what it should have")
    wait_for(lambda: by_hand_ok(lab), "whole WAL", every=1)
    assert re.search(r"^OK +barman\.cron ", lab.gateway.hooks("check").stdout, re.MULTILINE)

    place = f"{ARCHIVE}/00000002.history"
    wait_for(lambda: archived(lab.gateway, "00000002.history"), "the history file in the archive", every=1)
    lab.gateway.run("mv", place, "/var/tmp/lost")
    assert "  MISSING 00000002.history\n" in lab.gateway.hooks("check-wal").stdout
    lab.gateway.barman("backup", "--immediate-checkpoint", "main_backup")
    assert "since the newest backup" in lab.gateway.hooks("check-wal").stdout


def test_barman_ahead_is_repaired(newest: Lab) -> None:
    lab = newest
    serve(lab, ("stream: true", "stream: true, repair: true"))
    end_cron(lab)
    ahead = let_barman_get_ahead(lab)
    before = {name: checksum(lab, name) for name in streaming_files(lab) if name[:24] >= ahead[-1]}
    promote(lab)
    wait_for_the_app_port(lab)

    assert barman_streams_from(lab.db2)
    place = f"quarantine-00000002{ahead[0][8:]}"
    assert {name: checksum(lab, f"../{place}/{name}") for name in before} == before
    wait_for(lambda: by_hand_ok(lab), "whole WAL", every=1)


def test_a_clone_after_what_check_says(newest: Lab) -> None:
    """repmgr looks for base/ID/backup.info, which Barman 3.13.2 and newer has elsewhere."""
    lab = newest
    serve_standbys(lab)
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    lab.start_worker()
    back_up(lab, lab.db1)

    def clone_test() -> str:
        result = lab.gateway.hooks("check", "--restore", user="barman")
        found = (entry for entry in re.split(r"\n(?! )", result.stdout) if "recovery.clone" in entry)
        return next(found, result.stdout + result.stderr)

    found = clone_test()
    assert found.startswith("FAIL")
    hint = re.search(r"HINT: as Barman's user: (cp .*?); .*: post_backup_script = (cp .*)$", found)
    assert hint, found
    lab.gateway.run("sh", "-ec", hint[1], user="barman")
    assert clone_test().startswith("OK")

    text = lab.gateway.path(SERVER).read_text()
    lab.put(lab.gateway, SERVER, text.replace("\nslot_name", f"\npost_backup_script = {hint[2]}\nslot_name"))
    back_up(lab, lab.db1)
    assert clone_test().startswith("OK")
    assert "standby clone (from Barman) complete" in clone_from_barman(lab, lab.db2, lab.db1, shown=True)
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow db1")


def go_by_models(lab: Lab) -> None:
    """As the comments in config/ say, and no port of the gateway for Barman."""
    text = lab.gateway.path(SERVER).read_text()
    lab.put(lab.gateway, SERVER, re.sub(r"^;(?=\S)", "", text, flags=re.MULTILINE))
    text = lab.gateway.path(CONFIG).read_text()
    for old, new in (
        ("ports: {barman: 54321, app: 54322}", "ports: {app: 54322}"),
        ("          - firewall: {open: barman}\n", ""),
        ("- barman: {stream: true, min_stream_age: 0}", "- barman: {stream: true, models: {1: main-db1, 2: main-db2}}"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    lab.put(lab.gateway, CONFIG, text)


def model(lab: Lab) -> object:
    """Barman's active model, as Barman says."""
    (said,) = json.loads(lab.gateway.barman("-f", "json", "show-servers", "main_backup")).values()
    return said["active_model"]


def walsender(lab: Lab) -> str:
    return lab.db1.sql("select active_pid from pg_replication_slots where slot_name = 'barman'")


def counts(lab: Lab, position: str, min_stream_age: int) -> str:
    """What db1 answers to the question that a step asks."""
    question = receive_wal.STREAMING.replace("%s", "{}").format(f"'{position}'", min_stream_age, "'barman'")
    return lab.db1.sql(question)


def test_failover_by_models(newest: Lab) -> None:
    lab = newest
    go_by_models(lab)
    lab.gateway.barman("check", "main_backup", check=False)  # makes its directories: without, it cannot note a model
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout
    assert model(lab) == "main-db1"
    assert barman_streams_from(lab.db1)

    assert [counts(lab, "0/0", 1), counts(lab, "0/0", 3600), counts(lab, "FF/0", 1)] == ["t", "f", "f"]

    # A young stream is waited for, and not restarted; on a busy machine it may be some seconds old before it is seen.
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    lab.gateway.barman("-q", "cron")
    wait_for(lambda: barman_streams_from(lab.db1), "Barman to stream again")
    before = walsender(lab)
    with edited(lab.gateway, CONFIG, "{stream: true, models", "{stream: true, min_stream_age: 30, models"):
        said = lab.gateway.hooks("reconcile").stdout
    assert "start Barman's receive-wal, until it streams from node 1" in said
    assert "stop Barman's receive-wal" not in said
    assert walsender(lab) == before

    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    # Once it has looked at the archive it knows where Barman's files are; Barman would connect through the old model.
    lab.gateway.hooks("event", "1", "repmgrd_reload")
    wait_for(lambda: (1, "repmgrd_reload") in handled_events(lab), "a run of the service")
    lab.unplug(lab.db1)
    wait_for(lambda: routes(lab) == {54322: "10.0.0.12"}, "the app port to lead to db2")
    wait_for(lambda: nothing_missing(lab), "the end of the failover")
    assert model(lab) == "main-db2"
    assert barman_streams_from(lab.db2)
    wait_for(lambda: by_hand_ok(lab), "whole WAL", every=1)
    shown = lab.gateway.hooks("check").stdout
    assert re.search(r"^OK +barman\.conninfo .*leads to a node by its model", shown, re.MULTILINE)
    assert re.search(r"^OK +barman\.primary .*reaches node 2", shown, re.MULTILINE)


def test_a_barman_that_is_too_old_for_models(newest: Lab) -> None:
    lab = newest
    go_by_models(lab)
    lab.gateway.run("mv", "/usr/local/bin/barman", "/usr/local/bin/newest")
    script = "#!/bin/sh\nnewest \"$@\" | sed -E '/^\\s*(cluster|encryption):/d'\n"
    lab.put(lab.gateway, "/usr/local/bin/barman", script, 0o755)
    result = lab.gateway.hooks("reconcile", "--dry-run")
    assert result.returncode == 1
    assert "'models' needs Barman 3.10 or newer, and this one is older" in result.stdout
