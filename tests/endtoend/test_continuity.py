"""Barman behind, ahead of, and exactly at the end of what the promoted node has; real WAL, real Barman."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest

from repmgr_hooks.barman.agent import files
from repmgr_hooks.cluster.wal import file_name
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import SEGMENT, barman_files, barman_streams_from, routes, worker_log
from tests.lab import DATA, Host, Lab, wait_for, wait_for_answer
from tests.lab.barman import archive, back_up

CONFIG = "/etc/repmgr-hooks/config.yaml"
STREAMING = "/var/lib/barman/main_backup/streaming"
SERVER = "/etc/barman.d/main_backup.conf"


def configure(lab: Lab, *changes: tuple[str, str]) -> None:
    """Change the configuration before the service reads it."""
    text = lab.gateway.path(CONFIG).read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    lab.put(lab.gateway, CONFIG, text)


def serve(lab: Lab, *changes: tuple[str, str], in_vain: bool = False) -> None:
    """Bring a lab into service with such a configuration, and nodes that wait for nobody.

    ``in_vain``: the route will fail at Barman, and the app port need not wait for it as long as is shipped.
    """
    configure(lab, *changes)
    configure_nodes(lab, "synchronous_standby_names = ''\n")
    # With the limit that is shipped: on a busy machine Barman may take long to start.
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout
    if in_vain:
        configure(lab, ("fail_open_after: 120", "fail_open_after: 20"))
    lab.start_cron()
    lab.start_worker()
    close_file(lab.db1)
    wait_for(lambda: len(barman_files(lab)) > 1, "Barman's first files")


def wait_for_the_app_port(lab: Lab) -> None:
    """Longer than it may take: that is the limit of the configuration."""
    wait_for(lambda: routes(lab).get(54322) == "10.0.0.12", "the app port to lead to db2", 240)


def configure_nodes(lab: Lab, lines: str) -> None:
    for host in (lab.db1, lab.db2):
        lab.append(host, f"{DATA}/postgresql.conf", lines)
        host.pg_ctl("reload")


def close_file(host: Host) -> str:
    """Write a little, close the WAL file, and return its name. Two statements, so that nothing follows the switch."""
    name = host.sql("select pg_walfile_name(pg_current_wal_insert_lsn()) from txid_current()")
    host.sql("select pg_switch_wal()")
    return name


def end_cron(lab: Lab) -> None:
    """From here on Barman's files stay where they are: once a minute it would archive those that are complete."""
    os.killpg(lab.daemons["cron"].pid, signal.SIGKILL)
    wait_for(lambda: "archive-wal" not in lab.gateway.run("ps", "ax"), "Barman to have archived")


def barman_down(lab: Lab) -> None:
    """Its settings first: the service, and what cron has begun, would start the receiver again."""
    os.killpg(lab.daemons["cron"].pid, signal.SIGKILL)
    lab.gateway.path(SERVER).rename(lab.gateway.path(SERVER + ".away"))
    wait_for(lambda: lab.gateway.result("pkill", "-f", "receive-?wal").returncode == 1, "Barman to receive nothing")


def barman_up(lab: Lab) -> None:
    lab.gateway.path(SERVER + ".away").rename(lab.gateway.path(SERVER))


def promote(lab: Lab, meanwhile: Callable[[Lab], None] = lambda lab: None) -> None:
    """``meanwhile``: what happens while there is no primary."""
    lab.db1.pg_ctl("stop", "-m", "immediate")
    meanwhile(lab)
    lab.db2.sql("select pg_promote()")


def switchpoint(host: Host) -> int:
    """The position at which timeline 2 began, in bytes."""
    history = host.sql("select pg_read_file('pg_wal/00000002.history')")
    return int(host.sql(f"select '{history.split()[1]}'::pg_lsn - '0/0'"))


def streaming_files(lab: Lab) -> set[str]:
    return set(lab.gateway.run("ls", STREAMING).split())


def has_caught_up(lab: Lab) -> None:
    """Asked on db2: what db1 knows of its replay is up to 10 s old."""
    wait_for(
        lambda: lab.db1.sql("select pg_current_wal_lsn()") == lab.db2.sql("select pg_last_wal_replay_lsn()"),
        "db2 to have replayed all",
    )


def a_new_slot_begins_where_the_primarys_does(lab: Lab) -> None:
    """PostgreSQL lets it begin at the standby's last restartpoint, which may be more than ``max_retained_wal``.

    The restartpoint is ours, and no other comes by itself meanwhile.
    """
    configure_nodes(lab, "checkpoint_timeout = '1d'\nmax_wal_size = '10GB'\n")
    for host in (lab.db1, lab.db2):
        has_caught_up(lab)
        host.sql("checkpoint", limit=120)
    restartpoint = int(lab.db2.sql("select redo_lsn - '0/0' from pg_control_checkpoint()"))
    for _ in range(3):
        close_file(lab.db1)

    def holds_less(host: Host) -> bool:
        begins = host.sql("select restart_lsn - '0/0' from pg_replication_slots")
        return bool(begins) and int(begins) - restartpoint > 2 * SEGMENT

    wait_for(lambda: holds_less(lab.db1), "Barman to have them")
    has_caught_up(lab)
    lab.db2.sql("select pg_drop_replication_slot('barman')")
    wait_for(lambda: holds_less(lab.db2), "the slot on db2 again, where Barman stands")


@pytest.mark.parametrize("state", ["synced", "absent"])
def test_barman_twenty_files_behind(built_lab: Lab, state: str) -> None:
    lab = built_lab
    serve(lab, ("state: absent", f"state: {state}"), in_vain=state == "absent")
    if state == "synced":
        wait_for(lambda: lab.db2.sql("select count(*) from pg_replication_slots") == "1", "the slot on db2")
        a_new_slot_begins_where_the_primarys_does(lab)
    configure_nodes(lab, "wal_keep_size = 0\nmin_wal_size = '32MB'\nmax_wal_size = '48MB'\n")
    barman_down(lab)
    closed = [close_file(lab.db1) for _ in range(20)]
    for host in (lab.db1, lab.db2, lab.db1, lab.db2):
        has_caught_up(lab)
        host.sql("checkpoint", limit=120)
    there = lab.db2.sql("select string_agg(name, ' ') from pg_ls_waldir()")
    assert (closed[1] in there) is (state == "synced")
    promote(lab, meanwhile=barman_up)
    wait_for_the_app_port(lab)

    if state == "synced":
        wait_for(lambda: by_hand_ok(lab), "Barman to have all")
        wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
        assert set(closed) <= barman_files(lab)
    else:
        is_said(lab, "STREAM_GAP: Barman still lacks WAL that the primary no longer has")
        log = lab.gateway.log("worker")
        assert re.search(rf"node 2 no longer has {closed[0]} to 0000000[0-9A-F]{{17}} ", log), log[-3000:]
        assert lab.gateway.hooks("check-wal").returncode == 1
        assert not barman_streams_from(lab.db2)


def is_said(lab: Lab, words: str) -> None:
    wait_for(lambda: words in lab.gateway.log("worker"), f"the service to say {words!r}")


def by_hand_ok(lab: Lab) -> bool:
    """True if no WAL is missing; most of these labs have no backup, and nothing worse may be said."""
    result = lab.gateway.hooks("check-wal")
    good = (0, "main: OK: ") if "OK" in result.stdout else (1, "main: NO_BACKUP: ")
    return result.returncode == good[0] and result.stdout.startswith(good[1])


def let_barman_get_ahead(lab: Lab) -> list[str]:
    """Two files and a bit that Barman has and db2 has not; return the complete ones."""
    lab.db2.sql("alter system set primary_conninfo = 'host=10.0.0.99 connect_timeout=1'")
    lab.db2.pg_ctl("reload")
    wait_for(lambda: lab.db2.sql("select count(*) from pg_stat_wal_receiver") == "0", "db2 to receive nothing")
    closed = [close_file(lab.db1) for _ in range(3)]
    lab.db1.sql("select txid_current()")
    wait_for(lambda: any(name[:24] > closed[-1] for name in streaming_files(lab)), "Barman to receive them and more")
    return closed


def test_barman_ahead_of_the_promoted_standby(built_lab: Lab) -> None:
    lab = built_lab
    serve(lab, in_vain=True)
    end_cron(lab)
    ahead = let_barman_get_ahead(lab)
    promote(lab)
    wait_for_the_app_port(lab)

    before = barman_files(lab)
    shown = lab.gateway.hooks("reconcile").stdout
    assert "DIVERGED: Barman has WAL of an earlier timeline from beyond the switchpoint" in shown
    assert set(ahead) <= before == barman_files(lab), "nothing was changed"
    assert not barman_streams_from(lab.db2)
    assert lab.gateway.hooks("status").returncode == 1

    # What a person would do: type what is shown.
    typed = re.search(r"To continue, run[^:]*: (.*?)\. Then make a base backup: (.*)", shown)
    assert typed
    for command in typed[1].split("; "):
        lab.gateway.run(*command.split(), user="barman", check="receive-wal" not in command)  # none may run
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    assert set(ahead) <= barman_files(lab)


def test_commits_that_only_barman_acknowledged(lab: Lab) -> None:
    """The standby dies, then the primary, and the standby comes back: what Barman alone has is kept, and said."""
    lab.stop_repmgrd()  # it would promote db2 as well
    lab.psql_app("insert into work default values")
    lab.db2.pg_ctl("stop", "-m", "immediate")
    states = "select application_name, sync_state from pg_stat_replication"
    wait_for(lambda: lab.db1.sql(states) == "barman_receive_wal|sync", "Barman to acknowledge")
    assert lab.psql_app("insert into work default values returning 'committed'").stdout == "committed\n"
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.pg_ctl("start")
    lab.db2.sql("select pg_promote()")
    wait_for_the_app_port(lab)

    assert lab.psql_app("select count(*) from work").stdout == "1\n", "the other one is lost to the cluster"
    (kept,) = lab.gateway.run("find", "/var/lib/barman/main_backup", "-name", "*.beyond-*").split()
    is_said(lab, f"keep as {kept} what node 2 never had: transactions beyond 0/")
    begin = kept.partition("beyond-")[2].replace("-", "/")
    name = kept.rpartition("/")[2][:24]
    lab.gateway.run("cp", kept, f"/var/tmp/{name}")
    shown = lab.gateway.result("pg_waldump", f"--start={begin}", f"/var/tmp/{name}").stdout
    assert "COMMIT" in shown
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")


def test_barman_ahead_is_repaired_if_we_may(built_lab: Lab) -> None:
    lab = built_lab
    serve(lab, ("stream: true", "stream: true, repair: true"))
    end_cron(lab)
    ahead = let_barman_get_ahead(lab)
    before = {name: checksum(lab, name) for name in streaming_files(lab) if name[:24] >= ahead[0]}
    assert len(before) == 4, "the three, and a partial one"
    promote(lab)
    wait_for_the_app_port(lab)

    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    assert switchpoint(lab.db2) // SEGMENT == int(ahead[0][16:], 16)
    place = f"quarantine-00000002{ahead[0][8:]}"
    assert {name: checksum(lab, f"../{place}/{name}") for name in before} == before
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")


def test_a_backup_whose_end_the_promoted_standby_never_received(built_lab: Lab) -> None:
    """All its WAL is in the archive, and PostgreSQL refuses it: "WAL ends before end of online backup"."""
    lab = built_lab
    serve(lab, ("stream: true", "stream: true, repair: true"))
    archive(lab, lab.db1)
    text = lab.gateway.path(SERVER).read_text()
    lab.put(lab.gateway, SERVER, f"{text.rstrip()}\nbandwidth_limit = 2000\n")
    backup = lab.gateway.start("barman", "backup", "--immediate-checkpoint", "main_backup", user="barman", log="backup")
    copied = "select backup_streamed > 0 from pg_stat_progress_basebackup"
    wait_for(lambda: lab.db1.sql(copied) == "t", "the backup to be copied")
    begun = lab.db1.sql("select pg_current_wal_lsn()")
    wait_for(lambda: lab.db2.sql(f"select pg_last_wal_receive_lsn() >= '{begun}'") == "t", "db2 to have its beginning")
    lab.unplug(lab.db2)
    close_file(lab.db1)
    assert lab.db1.sql(copied) == "t", "the backup is not over yet"
    assert backup.wait(150) == 0, lab.gateway.log("backup")
    lab.put(lab.gateway, SERVER, text)
    promote(lab, lambda lab: lab.plug_in(lab.db2))
    wait_for_the_app_port(lab)
    said = wait_for_answer(lambda: lab.gateway.hooks("check-wal"), lambda said: "BACKUP_BEYOND" in said.stdout, "it")
    assert said.returncode == 1
    assert "  HINT: barman backup main_backup\n" in said.stdout
    back_up(lab, lab.db2)
    wait_for(lambda: by_hand_ok(lab), "the new backup to do")
    assert "since the newest backup" in lab.gateway.hooks("check-wal").stdout


@pytest.mark.parametrize("newest", [False, True], ids=["debian", "newest"])
def test_a_restore_of_a_compressed_backup(newest: bool) -> None:
    """Barman 3.4 wants to be told where to unpack it; that is no fault of the backup."""
    with fresh_lab(newest_barman=newest) as lab:
        lab.build()
        text = lab.gateway.path(SERVER).read_text()
        lab.put(lab.gateway, SERVER, f"{text.rstrip()}\nbackup_compression = gzip\n")
        lab.reconcile()
        back_up(lab, lab.db1)
        result = lab.gateway.hooks("check-wal", "--restore", user="barman")
        assert "main: restore OK: a restore reaches 0/" in result.stdout, result.stdout
        assert result.returncode == 0
        assert not lab.gateway.run("find", "/var/lib/barman", "-name", ".repmgr-hooks-*")


def checksum(lab: Lab, name: str) -> str:
    """Of a complete file; one that is being received goes on growing until the primary is gone, and has none."""
    whole = lab.gateway.run("sha256sum", f"{STREAMING}/{name}").split()[0]
    return "" if name.endswith(".partial") else whole


@pytest.mark.parametrize("repair", [False, True])
def test_fork_at_the_end_of_a_file(built_lab: Lab, repair: bool) -> None:
    lab = built_lab
    serve(lab, ("stream: true", f"stream: true, repair: {str(repair).lower()}"), in_vain=not repair)
    wait_for(lambda: cut_off_at_a_boundary(lab), "a moment at which nothing follows a switch")
    promote(lab)
    assert switchpoint(lab.db2) % SEGMENT == 0
    wait_for_the_app_port(lab)
    if not repair:
        is_said(lab, "SEGMENT_BOUNDARY: Barman has all up to a switchpoint that is the end of a file")
        assert not barman_streams_from(lab.db2)
        # Barman by itself does not get over it either.
        lab.gateway.barman("-q", "cron")
        refused, log = "could not send replication command", lab.gateway.path("/var/log/barman/barman.log")
        wait_for(lambda: refused in log.read_text(), "Barman to be refused")
        assert not barman_streams_from(lab.db2)
        return
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")


def test_what_stands_behind_a_wal_switch_is_nothing(built_lab: Lab) -> None:
    """db1 dies before it has sent the zeros behind a switch: db2 has what the file held before it was recycled."""
    lab = built_lab
    serve(lab, ("stream: true", "stream: true, repair: true"))
    wait_for(lambda: cut_off_at_a_boundary(lab), "a moment at which nothing follows a switch")
    number = int(lab.db1.sql("select pg_current_wal_lsn() - '0/0'")) // SEGMENT - 1
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.pg_ctl("stop", "-m", "fast")
    with lab.db2.path(f"{DATA}/pg_wal/{file_name(1, number, SEGMENT)}").open("r+b") as written:
        end = files.switched_at(files.chunks_of(written))
        assert end
        written.seek(-(-end // files.PAGE) * files.PAGE)
        written.write(b"left" * ((SEGMENT - written.tell()) // 4))
    lab.db2.pg_ctl("start")
    lab.db2.sql("select pg_promote()")
    assert switchpoint(lab.db2) % SEGMENT == 0
    wait_for_the_app_port(lab)
    wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")
    assert "BRANCH_CONFLICT" not in "\n".join(worker_log(lab))


def at_a_boundary(lab: Lab) -> bool:
    """A checkpoint, or the snapshot of every 15 s, may come after the switch: then another one is needed."""
    name = close_file(lab.db1)
    wait_for(lambda: name in barman_files(lab), "Barman to have the file")
    has_caught_up(lab)
    return lab.db1.sql(f"select (pg_current_wal_lsn() - '0/0') % {SEGMENT}") == "0"


def cut_off_at_a_boundary(lab: Lab) -> bool:
    """db1 loses its network at a boundary, so that nothing it writes before its end gets to db2 or Barman."""
    if at_a_boundary(lab):
        lab.unplug(lab.db1)
        sent = f"select count(*), bool_and((sent_lsn - '0/0') % {SEGMENT} = 0) from pg_stat_replication"
        if lab.db1.sql(sent) == "2|t":
            return True
        lab.plug_in(lab.db1)
    return False


def whereabouts(lab: Lab, name: str) -> list[str]:
    return lab.gateway.run("find", "/var/lib/barman", "-name", name).split()


def is_archived(lab: Lab, name: str) -> bool:
    """True if a file is where it stays, and Barman has taken it out of the streaming directory."""
    places = whereabouts(lab, name)
    return len(places) == 1 and "/streaming/" not in places[0]


def test_by_hand(built_lab: Lab) -> None:
    lab = built_lab
    serve(lab, in_vain=True)
    for _ in range(3):
        close_file(lab.db1)
    lab.db1.sql("select txid_current()")  # else the switchpoint may be at the end of a file
    has_caught_up(lab)
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")
    promote(lab)
    wait_for_the_app_port(lab)
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")
    said = lab.gateway.hooks("check-wal", "--cluster", "main").stdout
    assert said == (
        "main: NO_BACKUP: Barman has no complete backup: nothing can be restored\n  HINT: barman backup main_backup\n"
    )
    warning = (
        "  WARNING NO_BACKUP: Barman has no complete backup: nothing can be restored\n"
        "  HINT: barman backup main_backup; and then: repmgr-hooks check-wal --cluster main\n"
    )
    shown = lab.gateway.hooks("status")
    assert (shown.returncode, warning in shown.stdout) == (1, True)
    assert 'archive_healthy{cluster="main"} 0' in lab.gateway.hooks("metrics").stdout

    close_file(lab.db2)
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")
    before, after = switchpoint(lab.db2) // SEGMENT - 1, switchpoint(lab.db2) // SEGMENT
    lab.gateway.barman("archive-wal", "main_backup", check=False)
    for lost in (f"00000001{before:016X}", "00000002.history", f"00000002{after:016X}"):
        wait_for(lambda name=lost: is_archived(lab, name), "Barman to leave it where it is", 120)
        (place,) = whereabouts(lab, lost)
        lab.gateway.run("mv", place, "/var/tmp/lost")
        result = lab.gateway.hooks("check-wal")
        assert result.returncode == 1
        assert f"  MISSING {lost}\n" in result.stdout
        assert result.stdout.count("MISSING") == 1
        assert "barman backup main_backup" in result.stdout
        assert f"ARCHIVE_GAP: Barman lacks {lost}" in lab.gateway.hooks("reconcile").stdout
        lab.gateway.run("mv", "/var/tmp/lost", place)
    wait_for(lambda: by_hand_ok(lab), "Barman to have all")

    lab.gateway.run("mv", place, "/var/tmp/lost")
    lab.gateway.barman("backup", "--immediate-checkpoint", "main_backup")
    close_file(lab.db2)
    wait_for(lambda: by_hand_ok(lab), "a hole before the newest backup to be no hole")
    assert "since the newest backup" in lab.gateway.hooks("check-wal").stdout
    wait_for(lambda: lab.gateway.hooks("reconcile").returncode == 0, "nothing to be wrong")
    assert "BACKUP" not in lab.gateway.hooks("status").stdout, "check-wal was typed since"
    assert lab.gateway.hooks("check-wal", "--cluster", "nowhere").returncode == 2
