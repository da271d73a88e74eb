"""What repmgr calls, as a process of its own: the event is in the spool when it has ended, and repmgrd has not waited.

A FIFO that the tests hold open stands for the worker; without a reader the hook would start a real one.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import repmgr_hooks
from repmgr_hooks import config, hook
from repmgr_hooks.errors import UsageError

PACKAGE = Path(repmgr_hooks.__file__).parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PACKAGE)}
ENVIRONMENT.pop("REPMGR_HOOKS_CONFIG", None)
WORDS = ["2", "repmgrd_failover_promote", "1", "1", "2026-11-20 03:00:00+00"]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Path]:
    """A spool at which somebody listens."""
    directory = tmp_path / "state" / "spool"
    directory.mkdir(parents=True)
    os.mkfifo(directory / "wake")
    listening = os.open(directory / "wake", os.O_RDWR | os.O_NONBLOCK)
    yield directory
    os.close(listening)


@pytest.fixture
def file(tmp_path: Path, spool: Path) -> Path:
    """A configuration that names the spool's directory."""
    path = tmp_path / "config.yaml"
    path.write_text(f"# ours\nstate_dir: {spool.parent}\nclusters: {{}}\n")
    return path


def call(*argv: str, python: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "repmgr_hooks", *argv],
        capture_output=True,
        text=True,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def stored(spool: Path) -> list[list[str]]:
    """The words of each file in the spool, in the order of the files' names."""
    files = sorted(file for file in spool.iterdir() if file.name != "wake")
    return [file.read_text().split("\n") for file in files]


# -- an event is stored ------------------------------------------------------------------------------------------------


def test_an_event_is_stored_and_nothing_is_said(spool: Path, file: Path) -> None:
    ended = call("--config", str(file), "event", *WORDS)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert stored(spool) == [["", *WORDS, ""]]


def test_the_worker_is_woken(spool: Path, file: Path) -> None:
    listening = os.open(spool / "wake", os.O_RDONLY | os.O_NONBLOCK)
    assert call("--config", str(file), "event", "2", "standby_promote").returncode == 0
    assert os.read(listening, 99) == b"."
    os.close(listening)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["2", "standby_promote"], ["", "2", "standby_promote"]),
        (["2", "standby_promote", "1", "", ""], ["", "2", "standby_promote", "1", "", ""]),
        (["2", "standby_promote", "0", "-1"], ["", "2", "standby_promote", "0", "-1"]),
        (["--cluster", "main", "2", "standby_promote"], ["main", "2", "standby_promote"]),
    ],
)
def test_the_words_are_stored_as_they_come(spool: Path, file: Path, argv: list[str], words: list[str]) -> None:
    assert call("--config", str(file), "event", *argv).returncode == 0
    assert stored(spool) == [[*words, ""]]


def test_the_file_of_the_environment(spool: Path, file: Path) -> None:
    assert call("event", "2", "standby_promote", REPMGR_HOOKS_CONFIG=str(file)).returncode == 0
    assert len(stored(spool)) == 1


@pytest.mark.parametrize("argv", [["--config={}", "event"], ["--config", "{}", "event", "--cluster=main"]])
def test_an_option_and_its_value_in_one_word(spool: Path, file: Path, argv: list[str]) -> None:
    """argparse allows it for other commands; here repmgrd would wait for the whole failover, or lose the event."""
    ended = call(*(word.format(file) for word in argv), "2", "cluster_created")
    assert ended.returncode == 0
    assert len(stored(spool)) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got 0 arguments"),
        (["2"], "got 1 arguments"),
        (["--bogus"], "got 1 arguments"),
        (["2", "standby promote"], "EVENT is a name"),
        (["1;reboot", "standby_promote"], "NODE is a repmgr node id"),
        (["-1", "standby_promote"], "NODE is a repmgr node id"),
        (["2147483648", "standby_promote"], "NODE is a repmgr node id"),
        (["2", "standby_promote", "2"], "SUCCESS is 0 or 1"),
        (["2", "standby_promote", "1", "x"], "OTHER_NODE is a repmgr node id"),
        (["2", "standby_promote", "1", "1", "a\nb"], "TIMESTAMP is at most 64 printable characters"),
        (["2", "standby_promote", "1", "1", "now", "more"], "got 6 arguments"),
    ],
)
def test_bad_words_are_refused_and_nothing_is_stored(spool: Path, file: Path, words: list[str], said: str) -> None:
    ended = call("--config", str(file), "event", *words)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("repmgr-hooks: ")
    assert said in line
    assert stored(spool) == []


@pytest.mark.parametrize("name", ["x" * 100_000, "x" * 64, "a\nb", "\x1b[2J", "\udcff", "caf\u00e9"])
def test_a_cluster_that_cannot_be_is_refused_at_once(spool: Path, file: Path, name: str) -> None:
    """More than a pipe holds would hang on the way to root (100 kB), and a line feed would make words of its own."""
    for place in (spool, spool.with_name("absent")):
        spool.rename(place) if place != spool else None
        ended = call("--config", str(file), "event", "--cluster", name, *WORDS)
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert line.startswith("repmgr-hooks: CLUSTER is the name of one in the configuration")
        assert len(line) < 200
        assert stored(place) == []


# -- how fast, how durable ---------------------------------------------------------------------------------------------

HEAVY = {"psycopg", "sh", "yaml", "sqlite3", "argparse", "re", "logging", "pathlib", "json", "subprocess", "typing"}


def test_nothing_is_imported_that_takes_time(spool: Path, file: Path) -> None:
    ended = call("--config", str(file), "event", *WORDS, python=("-S", "-X", "importtime"))
    assert ended.returncode == 0
    imported = {match[1] for match in re.finditer(r"\| +([\w.]+)$", ended.stderr, re.MULTILINE)}
    ours = {name for name in imported if name.startswith("repmgr_hooks")}
    assert "time" in imported, "the list was read"
    assert ours <= {"repmgr_hooks", "repmgr_hooks.catalogue", "repmgr_hooks.hook", "repmgr_hooks.__main__"}
    assert "repmgr_hooks.hook" in ours
    assert {name.partition(".")[0] for name in imported} & HEAVY == set()


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    """Somebody looks all the time while 200 events are stored."""
    seen: list[str] = []
    over = threading.Event()

    def look() -> None:
        last = False
        while not last:
            last = over.is_set()  # and once more in the end
            for name in os.listdir(tmp_path):  # noqa: PTH208 - quick
                if name[0] != ".":
                    seen.append((tmp_path / name).read_text())

    thread = threading.Thread(target=look)
    thread.start()
    for _ in range(200):
        hook.store(str(tmp_path), ["", *WORDS])
    over.set()
    thread.join()
    assert set(seen) == {"\n".join(["", *WORDS, ""])}
    assert len(list(tmp_path.iterdir())) == 200


def test_its_name_appears_after_its_words_and_is_on_the_disk_before_repmgrd_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, int]] = []

    def spied(name: str) -> None:
        real = getattr(os, name)

        def spy(*words: object, **handles: int) -> object:
            done = real(*words, **handles)
            calls.append((name, len([file for file in tmp_path.iterdir() if file.name[0] != "."])))
            return done

        monkeypatch.setattr(os, name, spy)

    for name in ("write", "fsync", "rename"):
        spied(name)
    hook.store(str(tmp_path), ["", *WORDS])
    assert calls == [("write", 0), ("rename", 1), ("fsync", 1)], "the last one commits the name too"


def test_whatever_repmgrds_umask_the_group_may_read_it_and_others_may_not(tmp_path: Path) -> None:
    for umask in (0o000, 0o022, 0o077, 0o177):
        before = os.umask(umask)
        try:
            hook.store(str(tmp_path), ["", *WORDS])
        finally:
            os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {0o640}


@pytest.mark.parametrize("call_that_fails", ["write", "rename", "fsync"])
def test_a_full_disk_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call_that_fails: str
) -> None:
    def full(*words: object, **handles: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call_that_fails, full)
    with pytest.raises(OSError, match="No space left"):
        hook.store(str(tmp_path), ["", *WORDS])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_fifty_at_the_same_moment(spool: Path, file: Path) -> None:
    argv = [sys.executable, "-S", "-m", "repmgr_hooks", "--config", str(file), "event"]
    running = [subprocess.Popen([*argv, str(node), "standby_promote"], env=ENVIRONMENT) for node in range(1, 51)]
    assert [process.wait(120) for process in running] == [0] * 50
    assert sorted(int(words[1]) for words in stored(spool)) == list(range(1, 51))
    assert not [name for name in spool.iterdir() if name.name.startswith(".")]


def test_two_programs_in_the_same_nanosecond(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 1_800_000_000_000_000_000)
    for pid in (7, 77):
        monkeypatch.setattr(os, "getpid", lambda pid=pid: pid)
        hook.store(str(tmp_path), ["", str(pid), "standby_promote"])
    assert len(stored(tmp_path)) == 2


def test_names_sort_by_time(tmp_path: Path) -> None:
    for node in range(1, 30):
        hook.store(str(tmp_path), ["", str(node), "standby_promote"])
    assert [int(words[1]) for words in stored(tmp_path)] == list(range(1, 30))


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_an_event_that_cannot_be_stored_is_handled_now(tmp_path: Path) -> None:
    """The file knows neither cluster nor node, so the handling ends at once, with its own message."""
    path = tmp_path / "config.yaml"
    path.write_text(f"state_dir: {tmp_path}\nclusters: {{}}\n")
    if os.geteuid() != 0:
        pytest.skip("as another user it asks sudo")
    ended = call("--config", str(path), "event", *WORDS)
    assert ended.returncode == 2
    first, *rest = ended.stderr.splitlines()
    assert first.startswith("repmgr-hooks: the event cannot be stored ([Errno 2] ")
    assert first.endswith("it is handled now, and repmgrd waits for it")
    assert f"{path}" in rest[0]


def test_the_words_go_to_root_on_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """sudoers then needs no wildcard. The program ends where ``execvp`` would."""
    done: list[list[str]] = []
    standard_input = os.dup(0)
    monkeypatch.setattr(os, "geteuid", lambda: 999)
    monkeypatch.setattr(os, "execvp", lambda file, argv: done.append(argv))
    try:
        hook.handle_now("/etc/other.yaml", ["main", *WORDS])
        assert os.read(0, 4096).decode() == "\n".join(["main", *WORDS, ""])
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)
    assert done == [["sudo", "-n", "/usr/local/bin/repmgr-hooks", "event", "-"]]


@pytest.mark.parametrize(("user", "leads"), [(0, True), (999, False)])
def test_who_starts_a_worker(monkeypatch: pytest.MonkeyPatch, user: int, leads: bool) -> None:
    """Only root may name a configuration: sudo leads to the default one."""
    monkeypatch.setattr(os, "geteuid", lambda: user)
    argv = hook.as_root("/tmp/evil.yaml")
    assert ("/tmp/evil.yaml" in argv) is leads
    assert (argv[:2] == ["sudo", "-n"]) is not leads


def test_without_a_worker_and_without_a_way_to_start_one(
    spool: Path, file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "wake", lambda directory: False)
    monkeypatch.setattr(hook, "as_root", lambda path: ["/no/such/program"])
    assert hook.hand_in(str(file), WORDS) == 0, "it is stored"
    assert "stored, but no worker runs and none can be started" in capfd.readouterr().err
    assert len(stored(spool)) == 1


def test_without_a_worker_one_is_started_and_not_waited_for(
    spool: Path, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    note, goes_on = tmp_path / "started", tmp_path / "goes_on"
    program = tmp_path / "program"
    program.write_text(
        f"#!/bin/sh\nuntil [ -e {goes_on} ]; do sleep 0.1; done\n"
        f'echo "$@" $(cut -d " " -f 6 /proc/$$/stat) > {note}.new; mv {note}.new {note}\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(hook, "wake", lambda directory: False)
    monkeypatch.setattr(hook, "as_root", lambda path: [str(program), path])
    assert hook.hand_in(str(file), WORDS) == 0
    goes_on.touch()
    begun = time.monotonic()
    while not note.exists():
        assert time.monotonic() - begun < 60
        time.sleep(0.01)
    path, *command, session = note.read_text().split()
    assert (path, command) == (str(file), ["worker", "--once"])
    assert int(session) != os.getsid(0), "it outlives repmgrd's session"


# -- where others may write --------------------------------------------------------------------------------------------


def test_no_link_is_followed(tmp_path: Path, spool: Path) -> None:
    """Neither the spool nor the state directory may be one: root calls this too."""
    for link, target in ((tmp_path / "other" / "spool", spool), (tmp_path / "link", spool.parent)):
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(target)
        place = str(link if link.name == "spool" else link / "spool")
        with pytest.raises(NotADirectoryError):
            hook.store(place, ["", *WORDS])
        assert hook.wake(place) is False
    assert stored(spool) == []


@pytest.mark.parametrize(
    "kind", ["file", "hard link", "link to a file", "link to a FIFO", "hard link to a FIFO", "directory"]
)
def test_only_the_workers_fifo_is_written_to(tmp_path: Path, spool: Path, kind: str) -> None:
    fifo, target = spool / "wake", tmp_path / "target"
    fifo.rename(tmp_path / "fifo")
    target.write_text("root's")
    if kind == "file":
        fifo.write_text("root's")
    elif kind == "directory":
        fifo.mkdir()
    elif kind.startswith("hard"):
        fifo.hardlink_to(tmp_path / "fifo" if "FIFO" in kind else target)
    else:
        fifo.symlink_to(tmp_path / "fifo" if "FIFO" in kind else target)
    listening = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert hook.wake(str(spool)) is False
    assert target.read_text() == "root's"
    with pytest.raises(BlockingIOError):
        os.read(listening, 9)
    os.close(listening)


@pytest.mark.parametrize("stderr", ["2>&-", "2>/dev/full", "0<&- 1>&- 2>&-", "2>&1 | true", "2>&1 | cat"])
def test_nobody_who_listens_costs_no_event(tmp_path: Path, stderr: str) -> None:
    """The words come through, whatever is closed, full or gone; ``root`` writes down what it gets."""
    root, note, script = tmp_path / "root", tmp_path / "note", tmp_path / "script"
    root.write_text(f'#!/bin/sh\n[ "$*" = "event -" ] && cat > {note}\n')
    root.chmod(0o755)
    script.write_text(
        "import sys\n"
        "from repmgr_hooks import hook\n"
        f"hook.as_root = lambda config: [{str(root)!r}]\n"
        f"hook.STATE_DIR = {str(tmp_path / 'absent')!r}\n"
        "sys.exit(hook.hand_in('/absent', ['2', 'standby_promote']))\n"
    )
    line = f"{sys.executable} {script} {stderr}"
    subprocess.run(["sh", "-c", line], check=False, timeout=120, env=ENVIRONMENT)
    assert note.read_text() == "\n2\nstandby_promote\n"


def test_no_way_to_root_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    standard_input = os.dup(0)
    monkeypatch.setattr(hook, "as_root", lambda config: ["/no/such/sudo"])
    try:
        assert hook.handle_now("/etc/other.yaml", ["main", *WORDS]) == 1
    finally:
        os.dup2(standard_input, 0)
        os.close(standard_input)
    assert "/no/such/sudo event -: cannot be started" in capfd.readouterr().err


# -- state_dir ---------------------------------------------------------------------------------------------------------


def text_of(line: str) -> str:
    """A whole configuration with one line of its own."""
    return (
        f"# where we stand\n{line}\nclusters:\n  main:\n    nodes: {{1: {{host: 10.0.0.11}}}}\n"
        "    gateway: {address: 10.0.0.20, ports: {app: 5433}}\n"
        "    routes: [{on: [standby_promote], do: [firewall: {open: app}]}]\n"
    )


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("state_dir: /srv/hooks", "/srv/hooks"),
        ("state_dir:   /srv/hooks   ", "/srv/hooks"),
        ('state_dir: "/srv/hooks"', "/srv/hooks"),
        ("state_dir: '/srv/hooks' # ours", "/srv/hooks"),
        ("state_dir: /srv/hooks # not /srv/others", "/srv/hooks"),
        ("state_dir: /srv/hooks\r", "/srv/hooks"),
        ("#state_dir: /srv/hooks", hook.STATE_DIR),
        ("# state_dir: /srv/hooks", hook.STATE_DIR),
        ("retention_days: 5", hook.STATE_DIR),
        ("", hook.STATE_DIR),
    ],
)
def test_the_hook_and_the_worker_find_the_same_directory(tmp_path: Path, line: str, found: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(text_of(line).encode())
    assert hook.state_dir(str(path)) == found
    assert str(config.load(path).state_dir) == found


@pytest.mark.parametrize(
    "line",
    [
        "state_dir : /srv/hooks",
        "'state_dir': /srv/hooks",
        "state_dir:\n  /srv/hooks",
        "state_dir: !!str /srv/hooks",
        "state_dir: &here /srv/hooks",
        "state_dir: >-\n  /srv/hooks",
        '"state_dir": /srv/hooks',
    ],
)
def test_a_spelling_that_the_hook_cannot_read_is_refused(tmp_path: Path, line: str) -> None:
    """Else ``event`` stores where no worker looks."""
    path = tmp_path / "config.yaml"
    path.write_text(text_of(line))
    with pytest.raises(UsageError, match="state_dir"):
        config.load(path)


def test_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("\ufeff" + text_of("x: y").replace("# where we stand\nx: y", "state_dir: /srv/hooks"))
    try:
        loaded = str(config.load(path).state_dir)
    except UsageError:
        return
    assert loaded == hook.state_dir(str(path))


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00state_dir: /srv/hooks"])
def test_a_file_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_bytes(content)
    assert hook.state_dir(str(path)) == hook.STATE_DIR
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"repmgr-hooks: {path}: cannot be read (")
    assert line.endswith(f"the event goes to {hook.STATE_DIR}")


def test_a_missing_file_does_not_lose_the_event(
    spool: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hook, "STATE_DIR", str(spool.parent))
    assert hook.hand_in("/nonexistent/config.yaml", WORDS) == 0
    assert stored(spool) == [["", *WORDS, ""]]
    assert "/nonexistent/config.yaml: cannot be read" in capfd.readouterr().err


# -- every other command -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("argv", [["event", "--help"], ["event", "-h"], ["--help"], ["check", "--help"]])
def test_the_other_commands_are_those_of_the_command_line(argv: list[str]) -> None:
    ended = call(*argv)
    assert ended.returncode == 0
    assert ended.stdout.startswith("usage: repmgr-hooks")
