"""The worker's side of the spool: what is taken in, what is refused, and that nothing there can stop the rest."""

from __future__ import annotations

import errno
import grp
import os
import resource
import socket
import stat
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from repmgr_hooks import hook
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.event import Event, Origin
from repmgr_hooks.journal.hosts import origins
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.service.spool import Spool, make_spool
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node

GOOD = "\n2\nstandby_promote\n"


def clusters(**nodes: tuple[int, ...]) -> dict[str, ManagedCluster]:
    """Clusters with these nodes."""
    gateway = Gateway("10.0.0.20", {"app": 54322})
    return {
        name: ManagedCluster(Cluster({number: Node(f"10.0.0.1{number}") for number in numbers}, gateway, name=name), ())
        for name, numbers in nodes.items()
    }


MAIN = clusters(main=(1, 2, 3))
TWO = clusters(main=(1, 2, 3), other=(2, 4))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """The directory, as tmpfiles.d makes it."""
    made = tmp_path / "spool"
    made.mkdir()
    return made


@pytest.fixture
def spool(directory: Path) -> Iterator[Spool]:
    made = Spool(directory.parent)
    yield made
    made.close()


def put(directory: Path, name: str, content: str | bytes = GOOD) -> Path:
    path = directory / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def left(directory: Path) -> list[str]:
    """What is still there, without the FIFO."""
    return sorted(file.name for file in directory.iterdir() if file.name != "wake")


# -- what is taken in --------------------------------------------------------------------------------------------------


def test_events_are_taken_in_by_the_order_of_their_time(spool: Spool, directory: Path, journal: Journal) -> None:
    put(directory, "01800000000000000300-7", "\n3\nstandby_follow\n")
    put(directory, "01800000000000000100-99999", "\n1\nnode_rejoin\n")
    put(directory, "01800000000000000200-12", "\n2\nstandby_promote\n0\n1\n2026-11-20 03:00:00+00\n")
    assert spool.take_in(journal, MAIN) == 3
    assert [item.event for item in journal.waiting("main")] == [
        Event(1, "node_rejoin"),
        Event(2, "standby_promote", False, 1, "2026-11-20 03:00:00+00"),
        Event(3, "standby_follow"),
    ]
    assert left(directory) == []
    assert spool.take_in(journal, MAIN) == 0


def test_what_the_hook_stores_is_taken_in(spool: Spool, directory: Path, journal: Journal) -> None:
    hook.store(str(directory), ["main", "2", "repmgrd_failover_promote", "1", "", "2026-11-20 03:00:00+00"])
    hook.store(str(directory), ["", "2", "standby_promote", "1", "-1"])
    assert spool.take_in(journal, MAIN) == 2
    assert [item.event for item in journal.waiting("main")] == [
        Event(2, "repmgrd_failover_promote", True, None, "2026-11-20 03:00:00+00"),
        Event(2, "standby_promote"),
    ]


def test_a_file_that_is_still_there_after_a_crash_is_no_second_event(
    spool: Spool, directory: Path, journal: Journal
) -> None:
    for _ in range(2):
        put(directory, "01800000000000000100-7")
        spool.take_in(journal, MAIN)
    assert len(journal.waiting("main")) == 1
    assert left(directory) == []


def test_what_is_still_written_is_left_alone(spool: Spool, directory: Path, journal: Journal) -> None:
    put(directory, ".01800000000000000100-7", "\n2\nstandby_pro")
    assert spool.take_in(journal, MAIN) == 0
    assert left(directory) == [".01800000000000000100-7"]


def test_events_go_to_their_clusters(spool: Spool, directory: Path, journal: Journal) -> None:
    put(directory, "01800000000000000100-7", "other\n2\nstandby_promote\n")
    put(directory, "01800000000000000200-7", "main\n1\nstandby_promote\n")
    spool.take_in(journal, TWO)
    assert [item.event.node for item in journal.waiting("main")] == [1]
    assert [item.event.node for item in journal.waiting("other")] == [2]


def test_a_journal_that_cannot_be_written_leaves_the_file_where_it_is(
    spool: Spool, directory: Path, tmp_path: Path
) -> None:
    class Broken(Journal):
        def add_events(self, events: object) -> None:
            raise OperationFailed("the journal cannot be used: disk full")

    put(directory, "01800000000000000100-7")
    journal = Broken(tmp_path / "journal.db")
    with pytest.raises(OperationFailed):
        spool.take_in(journal, MAIN)
    assert left(directory) == ["01800000000000000100-7"]
    journal.close()


def test_an_event_of_a_database_host(spool: Spool, directory: Path, journal: Journal) -> None:
    """As ``forward/receive.py`` leaves it: with the host, its number there, and how far its clock is ahead."""
    words = "main\n2\nstandby_promote\n1\n\n\ndb2\n01700000000000000100-7\n-3.250\n"
    put(directory, "01800000000000000100-7", words)
    put(directory, "01800000000000000101-7", words)
    assert spool.take_in(journal, MAIN) == 2
    (waits,) = journal.waiting("main")
    assert waits.event == Event(2, "standby_promote")
    run = journal.begin_run("main", "event", 1, [waits.id])
    assert origins(journal, run)[waits.id] == Origin("db2", "01700000000000000100-7", -3.25)


@pytest.mark.parametrize(
    "origin",
    [
        "db2\n01700000000000000100-7\n",
        "db2\n01700000000000000100-7\nnan\n",
        "db2\n1-7\n0.000\n",
        "../db2\n01700000000000000100-7\n0.000\n",
        "\n01700000000000000100-7\n0.000\n",
        "db2\n01700000000000000100-7\n0.000\nmore\n",
        "db2\n0170000000000000010\u0660-7\n0.000\n",
    ],
)
def test_an_origin_that_is_none(
    spool: Spool, directory: Path, journal: Journal, origin: str, caplog: pytest.LogCaptureFixture
) -> None:
    put(directory, "01800000000000000100-7", f"main\n2\nstandby_promote\n1\n\n\n{origin}")
    spool.take_in(journal, MAIN)
    assert journal.waiting("main") == []
    assert "refused: an event is NODE EVENT" in caplog.text


# -- what is refused ---------------------------------------------------------------------------------------------------

BEFORE, RUBBISH, AFTER = "01800000000000000100-7", "01800000000000000200-7", "01800000000000000300-7"


def taken_in_around(spool: Spool, directory: Path, journal: Journal, known: dict[str, ManagedCluster]) -> None:
    """Take in a good file before and one after the rubbish; both must arrive."""
    put(directory, BEFORE, "main\n1\nstandby_promote\n")
    put(directory, AFTER, "main\n2\nstandby_promote\n")
    spool.take_in(journal, known)
    assert [item.event.node for item in journal.waiting("main")] == [1, 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "got 0 arguments"),
        (b"\n", "got 0 arguments"),
        (b"main\n2\nstandby_promote", "got 1 arguments"),
        (b"2\nstandby_promote\n", "got 1 arguments"),
        (b"\n2\nstandby promote\n", "EVENT is a name"),
        (b"\n1;reboot\nstandby_promote\n", "NODE is a repmgr node id"),
        (b"\n2\nstandby_promote\n1\n1\n\x1b[2J\n", "TIMESTAMP is at most 64 printable characters"),
        (b"\n2\nstandby_promote\n1\n1\nnow\nmore\n", "got 6 arguments"),
        (b"\xff\xfe\x00\x01" * 200, "cannot be read"),
        (b"\0" * 4000, "got 0 arguments"),
        (b"x\n" * 2_000_000, "got 2047 arguments"),
        (b"x" * 4_000_000, "got 0 arguments"),
        (b"mian\n2\nstandby_promote\n", "standby_promote of node 2: the configuration has no cluster 'mian'"),
        (b"\x1b[2J\n2\nstandby_promote\n", r"no cluster '\x1b[2J'"),
    ],
    ids=lambda value: ascii(value[:24]),
)
def test_garbage_is_refused_and_removed_and_the_good_files_arrive(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, content: bytes, said: str
) -> None:
    put(directory, RUBBISH, content)
    taken_in_around(spool, directory, journal, MAIN)
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.message.startswith(f"{RUBBISH}: refused: ")
    assert said in record.message
    assert record.message.isprintable()
    assert len(record.message) < 300
    assert left(directory) == []


@pytest.mark.parametrize(
    ("node", "said"),
    [
        (2, "several clusters (main, other) have a node 2"),
        (5, "none of the clusters main, other has a node 5"),
    ],
)
def test_an_event_that_may_be_about_several_clusters_is_refused(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, node: int, said: str
) -> None:
    put(directory, RUBBISH, f"\n{node}\nstandby_promote\n")
    taken_in_around(spool, directory, journal, TWO)
    assert said in caplog.text
    (record,) = caplog.records
    assert getattr(record, "hints", ()) == ("name one with --cluster, also in repmgr.conf",)
    assert journal.waiting("other") == []
    assert left(directory) == []


def test_an_event_without_a_cluster_goes_to_the_only_one_that_has_its_node(
    spool: Spool, directory: Path, journal: Journal
) -> None:
    put(directory, "01800000000000000100-7", "\n4\nstandby_promote\n")
    put(directory, "01800000000000000200-7", "\n3\nstandby_promote\n")
    spool.take_in(journal, TWO)
    assert [[item.event.node for item in journal.waiting(name)] for name in ("main", "other")] == [[3], [4]]


def test_a_symbolic_link_is_not_followed(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    secret = put(tmp_path, "secret", GOOD)
    (directory / RUBBISH).symlink_to(secret)
    taken_in_around(spool, directory, journal, MAIN)
    assert f"{RUBBISH}: refused" in caplog.text
    assert left(directory) == []
    assert secret.read_text() == GOOD


@pytest.mark.parametrize("held_open", [True, False])
def test_a_fifo_does_not_hold_it_up(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, held_open: bool
) -> None:
    os.mkfifo(directory / RUBBISH)
    other = os.open(directory / RUBBISH, os.O_RDWR | os.O_NONBLOCK) if held_open else None
    taken_in_around(spool, directory, journal, MAIN)
    assert f"{RUBBISH}: refused" in caplog.text
    assert left(directory) == []
    if other is not None:
        os.close(other)


def test_a_socket_is_refused(spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / RUBBISH))
        taken_in_around(spool, directory, journal, MAIN)
    assert f"{RUBBISH}: refused" in caplog.text
    assert left(directory) == []


@pytest.mark.parametrize("full", [True, False])
def test_a_directory_does_not_stop_the_rest(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, full: bool
) -> None:
    (directory / RUBBISH).mkdir()
    if full:
        put(directory / RUBBISH, "x")
    taken_in_around(spool, directory, journal, MAIN)
    assert f"{RUBBISH}: cannot be read: Is a directory; it is now {directory}/.aside-" in caplog.text
    assert len(left(directory)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "1-",
        f"{BEFORE}~",
        "0" + "9" * 200,
        "0note",
        "\u00b2-7",
        "017e9-7",
        "-",
    ],
)
def test_a_good_event_under_a_strange_name_does_not_stop_the_rest(
    spool: Spool, directory: Path, journal: Journal, name: str
) -> None:
    put(directory, name, GOOD)
    put(directory, AFTER, "\n1\nnode_rejoin\n")
    spool.take_in(journal, MAIN)
    assert Event(1, "node_rejoin") in [item.event for item in journal.waiting("main")]


def test_another_name_of_a_file_is_not_read(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """A hard link to what we may read would show it in the log."""
    secret = put(tmp_path, "secret", "\n2\nsecret\n")
    (directory / RUBBISH).hardlink_to(secret)
    taken_in_around(spool, directory, journal, MAIN)
    assert "secret" not in caplog.text
    assert secret.read_text() == "\n2\nsecret\n"
    assert left(directory) == []


@pytest.mark.parametrize("error", [errno.EACCES, errno.EIO, errno.EPERM])
def test_what_cannot_be_read_is_set_aside_and_the_rest_goes_on(
    spool: Spool,
    directory: Path,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: int,
) -> None:
    failing(monkeypatch, "open", RUBBISH, error)
    put(directory, RUBBISH)
    taken_in_around(spool, directory, journal, MAIN)
    spool.take_in(journal, MAIN)
    (record,) = caplog.records
    assert record.message.startswith(f"{RUBBISH}: cannot be read: {os.strerror(error)}; it is now {directory}/.aside-")
    (aside,) = directory.glob(".aside-*")
    assert aside.read_text() == GOOD


def test_without_descriptors_it_is_read_later(
    spool: Spool, directory: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing(patch, "open", RUBBISH, errno.EMFILE)
        put(directory, RUBBISH)
        with pytest.raises(OperationFailed, match="cannot be read now"):
            spool.take_in(journal, MAIN)
    assert spool.take_in(journal, MAIN) == 1


@pytest.mark.parametrize("most", [0, 1000])
def test_of_many_that_are_moved_aside_a_few_are_named(
    spool: Spool, directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    for number in range(300):
        (directory / f"{number:020d}-1").mkdir()
    spool.take_in(journal, MAIN, most)
    assert len(caplog.records) == 6
    assert caplog.records[-1].message == "295 more files refused or moved aside"
    assert all(name.startswith(".aside-") for name in left(directory))


@pytest.mark.parametrize("readable", [True, False])
def test_what_can_be_neither_removed_nor_moved_is_passed_by_and_named_once(
    spool: Spool,
    directory: Path,
    journal: Journal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    readable: bool,
) -> None:
    """Such as an immutable file (chattr(1))."""
    for call in ("unlink", "rename") if readable else ("open", "rename"):
        failing(monkeypatch, call, RUBBISH, errno.EPERM)
    put(directory, RUBBISH, "\n3\nstandby_follow\n")
    put(directory, BEFORE)
    put(directory, AFTER)
    assert [spool.take_in(journal, MAIN) for _ in range(3)] == [3, 0, 0]
    assert [item.event.node for item in journal.waiting("main")] == ([2, 3, 2] if readable else [2, 2])
    (record,) = caplog.records
    assert "is skipped" in record.message
    assert left(directory) == [RUBBISH]


def failing(monkeypatch: pytest.MonkeyPatch, call: str, name: str, error: int) -> None:
    """Let a call of the operating system fail for one file."""
    real = getattr(os, call)

    def fail(path: object, *words: object, **handles: object) -> object:
        if path == name:
            raise OSError(error, os.strerror(error))
        return real(path, *words, **handles)

    monkeypatch.setattr(os, call, fail)


def test_what_is_hidden_for_long_is_removed(
    directory: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hook that died while it wrote leaves it; the owner can set a file's times, but not that of its status."""
    put(directory, f".{BEFORE}")
    os.utime(directory / f".{BEFORE}", (2**33, 2**33))
    (directory / ".aside-1").mkdir()
    put(tmp_path, "target")
    (directory / ".link").symlink_to(tmp_path / "target")
    for days, there in ((6, 3), (8, 0)):
        now = time.time() + days * 86400
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            spool = Spool(directory.parent)
            spool.take_in(journal, MAIN)
            spool.close()
        assert len(left(directory)) == there
    assert (tmp_path / "target").exists()


# -- the FIFO ----------------------------------------------------------------------------------------------------------


def waited(spool: Spool, seconds: float, also: int) -> float:
    begun = time.monotonic()
    spool.wait(seconds, also)
    return time.monotonic() - begun


def test_a_knock_ends_the_wait_and_is_over_then(spool: Spool, directory: Path) -> None:
    reader, writer = os.pipe()
    for _ in range(3):
        assert hook.wake(str(directory)) is True
    assert waited(spool, 600, reader) < 300
    assert waited(spool, 0.1, reader) >= 0.1
    assert waited(spool, -5, reader) < 300
    thread = threading.Timer(0.05, hook.wake, [str(directory)])
    thread.start()
    assert waited(spool, 600, reader) < 300
    thread.join()
    os.write(writer, b"x")
    assert waited(spool, 600, reader) < 300, "a signal"
    os.close(reader)
    os.close(writer)


def test_a_fifo_with_another_name_is_replaced(spool: Spool, directory: Path, journal: Journal) -> None:
    """The hook does not write to such a one, and would start a run for each event."""
    (directory / ".mine").hardlink_to(directory / "wake")
    assert not hook.wake(str(directory))
    spool.take_in(journal, MAIN)
    assert hook.wake(str(directory))


def test_a_knock_at_a_high_descriptor(directory: Path) -> None:
    """select(2) ends at 1024; a service of a hundred clusters has more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        spool = Spool(directory.parent)
        reader, writer = os.pipe()
        assert hook.wake(str(directory))
        assert spool.wait(60, reader)
        spool.close()
        os.close(reader)
        os.close(writer)
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_full_fifo_does_not_hold_up_the_hook(spool: Spool, directory: Path) -> None:
    for _ in range(70_000):
        if hook.wake(str(directory)) is not True:
            raise AssertionError("somebody reads there")
    reader, writer = os.pipe()
    assert waited(spool, 20, reader) < 5
    os.close(reader)
    os.close(writer)


def test_nobody_is_there_before_and_after(directory: Path) -> None:
    assert hook.wake(str(directory)) is False
    spool = Spool(directory.parent)
    assert hook.wake(str(directory)) is True
    spool.close()
    assert hook.wake(str(directory)) is False
    assert left(directory) == []


def test_a_fifo_that_a_killed_worker_left_is_nobody(directory: Path) -> None:
    os.mkfifo(directory / "wake")
    assert hook.wake(str(directory)) is False
    spool = Spool(directory.parent)
    assert hook.wake(str(directory)) is True
    spool.close()


def test_only_the_group_may_knock(spool: Spool, directory: Path) -> None:
    status = (directory / "wake").stat()
    assert stat.S_ISFIFO(status.st_mode)
    assert stat.S_IMODE(status.st_mode) == 0o620


@pytest.mark.parametrize(
    "kind", ["directory", "full directory", "file", "link", "link to nowhere", "socket", "our own"]
)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_stands_under_its_name(
    directory: Path, journal: Journal, tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, when: str
) -> None:
    spool = Spool(directory.parent) if when == "meanwhile" else None
    wake = directory / "wake"
    wake.unlink(missing_ok=True)
    target = put(tmp_path, "target", "root's")
    if kind.endswith("directory"):
        wake.mkdir()
        put(wake, "in", "x") if kind == "full directory" else None
    elif kind == "file":
        put(directory, "wake")
    elif kind.startswith("link"):
        wake.symlink_to(target if kind == "link" else tmp_path / "nowhere")
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(wake))
    else:
        os.mkfifo(wake)
    spool = spool or Spool(directory.parent)
    spool.take_in(journal, MAIN)
    assert hook.wake(str(directory)) is True
    assert ("it is not the worker's FIFO; it is now" in caplog.text) is (kind != "our own")
    assert target.read_text() == "root's"
    assert not (tmp_path / "nowhere").exists()
    spool.close()
    assert not wake.exists()


def test_without_a_fifo_it_looks_every_second(
    directory: Path, journal: Journal, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Something immutable stands there."""
    (directory / "wake").mkdir()
    reader, writer = os.pipe()
    with monkeypatch.context() as patch:
        failing(patch, "rename", "wake", errno.EPERM)
        spool = Spool(directory.parent)
        put(directory, BEFORE)
        assert [spool.take_in(journal, MAIN) for _ in range(3)] == [1, 0, 0]
        assert waited(spool, 20, reader) < 5
    (record,) = caplog.records
    assert "wake cannot be made" in record.message
    assert spool.take_in(journal, MAIN) == 0
    assert hook.wake(str(directory)) is True, "it is gone"
    spool.close()
    os.close(reader)
    os.close(writer)


def test_a_fifo_of_another_workers_stays(directory: Path) -> None:
    first = Spool(directory.parent)
    second = Spool(directory.parent)
    first.close()
    assert hook.wake(str(directory)) is True
    second.close()


# -- the directory -----------------------------------------------------------------------------------------------------


def test_a_spool_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("a file stands in its place")
    with pytest.raises(OperationFailed, match="spool cannot be used"):
        Spool(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_missing_spool_is_made_for_the_group_of_repmgrd(tmp_path: Path) -> None:
    group = types.SimpleNamespace(gr_gid=77)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grp, "getgrnam", {"postgres": group}.__getitem__)
        make_spool(tmp_path / "state" / "spool")
    status = (tmp_path / "state" / "spool").stat()
    assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o2770, 77)
    Spool(tmp_path / "state").close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_repmgrd_may_run_as_another_user_than_postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then the state directory has its group, by a tmpfiles.conf that init wrote."""
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    os.chown(tmp_path, -1, 77)
    make_spool(tmp_path / "spool")
    assert (tmp_path / "spool").stat().st_gid == 77


@pytest.mark.parametrize("how", ["another directory", "a link", "a file", "nothing"])
def test_a_spool_that_is_exchanged_while_the_worker_runs(
    spool: Spool,
    directory: Path,
    journal: Journal,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """What a link leads to stays as it is; and the worker is found where the hook looks for it."""
    monkeypatch.setattr(grp, "getgrnam", lambda name: types.SimpleNamespace(gr_gid=os.getgid()))
    directory.rename(tmp_path / "away")
    victim = tmp_path / "victim"
    victim.mkdir()
    put(victim, BEFORE)
    if how == "another directory":
        directory.mkdir()
    elif how == "a link":
        directory.symlink_to(victim)
    elif how == "a file":
        directory.touch()
    spool.take_in(journal, MAIN)
    assert journal.waiting("main") == []
    assert [file.name for file in victim.iterdir()] == [BEFORE]
    put(directory, AFTER)
    assert hook.wake(str(directory)) is True
    assert spool.take_in(journal, MAIN) == 1
    assert caplog.text.count("is not the directory any more") == 1


def test_a_machine_without_the_group_of_repmgrd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grp, "getgrnam", {}.__getitem__)
    with pytest.raises(OperationFailed, match="postgres"):
        make_spool(tmp_path / "state" / "spool")


def test_the_spool_of_tmpfiles_d_is_the_one_that_we_make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``config/tmpfiles.conf`` and ``make_spool`` must not drift apart."""
    text = (Path(__file__).resolve().parents[3] / "config/tmpfiles.conf").read_text()
    monkeypatch.setattr(grp, "getgrnam", lambda name: types.SimpleNamespace(gr_gid=os.getgid()))
    make_spool(tmp_path / "spool")
    (line,) = [line.split() for line in text.splitlines() if "/spool" in line]
    assert (int(line[2], 8), line[4]) == (stat.S_IMODE((tmp_path / "spool").stat().st_mode), "postgres")
