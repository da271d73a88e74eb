"""Programs are really run here, small ones; only the clock of ``apply`` is a fake one."""

from __future__ import annotations

import gc
import importlib.util
import io
import json
import logging
import os
import re
import shlex
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.layers import Deadline
from repmgr_hooks.system.programs import MOST_OUTPUT
from repmgr_hooks.system.steps import DropConnections, Program, Rows, Sql, Step
from repmgr_hooks.testing import ScriptedHost, ended

SYSTEM = LocalHost({})


def run(*argv: str, limit: float = 60, **more: object) -> str:
    return SYSTEM.run(Program(argv, **more), limit)  # type: ignore[arg-type]


def failure(*argv: str, limit: float = 60, **more: object) -> str:
    """What is said when the program fails."""
    with pytest.raises(OperationFailed) as failed:
        run(*argv, limit=limit, **more)
    return str(failed.value)


# -- System.run --------------------------------------------------------------------------------------------------------


def test_the_output_is_returned() -> None:
    assert run("printf", r"one\ntwo\n") == "one\ntwo\n"
    assert run("true") == ""


def test_stderr_is_no_part_of_the_output() -> None:
    assert run("sh", "-c", "echo out; echo err >&2") == "out\n"


@pytest.mark.parametrize(
    "words", [("",), ("a b", "$HOME", "`id`", "$(id)"), ("*", "~", "a;b", "|", "&", ">x"), ("-n", "'", '"', "\\", "é")]
)
def test_arguments_arrive_as_they_are(words: tuple[str, ...]) -> None:
    program = "import sys; print(ascii(sys.argv[1:]))"
    assert run(sys.executable, "-S", "-c", program, *words) == f"{ascii(list(words))}\n"


def test_a_failure_shows_command_exit_code_and_stderr() -> None:
    message = failure("sh", "-c", "echo out; echo 'no such table' >&2; exit 3")
    assert message.startswith(shlex.join(["sh", "-c", "echo out; echo 'no such table' >&2; exit 3"]))
    assert message.endswith(": exit code 3: no such table")


def test_a_failure_without_stderr_shows_stdout() -> None:
    assert failure("sh", "-c", "echo half; exit 1").endswith("exit code 1: half")
    assert failure("false").endswith("exit code 1: nothing written")


def test_of_a_long_message_the_beginning_and_the_end_are_kept() -> None:
    """sh would cut it at 750 characters, and a program may write without end."""
    message = failure("sh", "-c", "seq 200 >&2; echo the end >&2; exit 1")
    assert "\n100\n" in message
    assert message.endswith("the end")
    message = failure("sh", "-c", "seq 1000000 >&2; echo the end >&2; exit 1")
    assert "exit code 1: 1\n2\n" in message
    assert message.endswith("\n1000000\nthe end")
    assert len(message) < 5000


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["", ">&2"])
@pytest.mark.parametrize("ending", ["exit 1", "exit 0", "cat /dev/zero"])
def test_a_flood_fills_neither_memory_nor_message(stream: str, ending: str) -> None:
    """60 MB without a line's end, and a program that writes until its time is up."""
    script = f"{{ head -c 60000000 /dev/zero; {ending}; }} {stream}"
    tracemalloc.start()
    said = ""
    try:
        said = run("sh", "-c", script, limit=5 if "cat" in ending else 60, whole=False)
    except OperationFailed as error:
        said = str(error)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 5_000_000
    assert len(said) < 200_000
    assert ("killed" in said) is ("cat" in ending)


def test_output_that_is_needed_and_too_much_is_an_error_and_never_cut() -> None:
    message = failure("head", "-c", str(MOST_OUTPUT + 1), "/dev/zero")
    wrote = f"head -c {MOST_OUTPUT + 1} /dev/zero: wrote {MOST_OUTPUT + 1} bytes"
    assert message == f"{wrote}; at most {MOST_OUTPUT} are read"


def test_an_error_shows_no_character_that_does_something() -> None:
    message = failure("printf", r"\033[31mred\0\377\342\200\256", expect="blue")
    assert message.endswith(r"\x1b[31mred\x00" + "\ufffd" + r"\u202e")


@pytest.mark.parametrize(("signal", "number"), [("KILL", 9), ("USR1", 10), ("SEGV", 11)])
def test_a_program_that_a_signal_ends_has_failed(signal: str, number: int) -> None:
    assert f"exit code -{number}" in failure("sh", "-c", f"kill -{signal} $$")


def test_an_expected_failure_is_tolerated_by_its_stderr() -> None:
    script = "echo out; echo 'ERROR: no such process for server main_backup' >&2; exit 1"
    assert run("sh", "-c", script, tolerate="no such process") == "out\n"
    assert "exit code 1" in failure("sh", "-c", script, tolerate="no such table")
    assert "exit code 1" in failure("sh", "-c", "echo no such process; exit 1", tolerate="no such process")


def test_success_without_the_expected_output_is_none() -> None:
    assert run("echo", "file 5 has been closed", expect="file [0-9] has been closed")
    message = failure("echo", "nothing to do", expect="file [0-9] has been closed")
    assert "answered 0, but its output is not what was asked for: nothing to do" in message


@pytest.mark.parametrize("program", ["no-such-program-anywhere", "/no/such/program", "/etc/passwd", "/tmp"])
def test_a_missing_program(program: str) -> None:
    assert failure(program) == f"{program}: no such program"


@pytest.mark.parametrize("text", ["", "one line\n", "no end", "é ✓ \x00 %s $HOME\n", "x" * 1_000_000])
def test_stdin_is_delivered_and_closed(text: str) -> None:
    assert run("cat", stdin=text) == text


def test_a_program_that_does_not_read_its_stdin() -> None:
    assert run("echo", "done", stdin="x" * 1_000_000) == "done\n"


@pytest.mark.slow
def test_a_large_output_is_complete() -> None:
    output = run(sys.executable, "-S", "-c", "for i in range(500_000): print(f'{i:09d}')")
    assert len(output) == 5_000_000
    assert output.endswith("\n000499999\n")
    assert output.count("\n") == 500_000


@pytest.mark.slow
def test_the_output_of_quick_programs_is_never_lost() -> None:
    assert [run("echo", str(number)) for number in range(200)] == [f"{number}\n" for number in range(200)]


def test_output_that_is_no_text() -> None:
    assert run("printf", r"a\377b") == "a\ufffdb"


def test_the_environment() -> None:
    shown = dict(line.split("=", 1) for line in run("env", env={"REPMGR_HOOKS_NODE": "2"}).splitlines() if "=" in line)
    assert shown["REPMGR_HOOKS_NODE"] == "2"
    assert shown["LC_ALL"] == "C.UTF-8", "messages are matched, so they must be English"
    assert shown["PATH"] == os.environ["PATH"]


def test_no_terminal_and_a_session_of_its_own() -> None:
    program = "import os, sys; print([os.isatty(fd) for fd in (0, 1, 2)], os.getsid(0) == os.getpid())"
    assert run(sys.executable, "-S", "-c", program) == "[False, False, False] True\n"


def gone(pid: int) -> bool:
    """True if a process has ended (a zombie, which nobody has buried, has)."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True
    return state == "Z"


def soon(true: Callable[[], bool]) -> bool:
    """True if something becomes true; a kill takes a moment to be seen."""
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def test_when_the_time_is_up_grandchildren_die_too(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = f"sleep 300 & echo $! >> {pids}; sh -c 'trap \"\" TERM INT HUP; echo $$ >> {pids}; sleep 300; :'"
    for limit in (1, 10, 60):  # until both have begun within it
        message = failure("sh", "-c", script, limit=limit)
        assert message == f"{Program(('sh', '-c', script))}: not finished after {limit} s; killed"
        grandchildren = [int(line) for line in pids.read_text().split()] if pids.exists() else []
        assert soon(lambda begun=grandchildren: all(gone(pid) for pid in begun))
        if len(grandchildren) == 2:
            break
        pids.unlink(missing_ok=True)
    assert len(grandchildren) == 2


def test_a_program_that_ends_in_time_is_left_alone() -> None:
    assert run("sh", "-c", "sleep 0.05; echo done", limit=5) == "done\n"
    assert soon(lambda: not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)])


@pytest.mark.slow
def test_programs_start_while_other_threads_hold_locks() -> None:
    """Of logging, of imports and of memory: sh's child must not wait for one that nobody sets free there."""
    over = threading.Event()
    logger = logging.Logger("busy")
    logger.addHandler(logging.StreamHandler(io.StringIO()))

    def be_busy() -> None:
        while not over.is_set():
            logger.warning("%s", json.dumps({str(number): bytes(number).hex() for number in range(100)}))
            importlib.util.find_spec("no_such_module")
            gc.collect(0)

    threads = [threading.Thread(target=be_busy, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    runs = threading.Thread(target=lambda: [run("true") for _ in range(20)], daemon=True)
    runs.start()
    runs.join(60)
    over.set()
    assert not runs.is_alive()


# -- System.fetch, without a network -----------------------------------------------------------------------------------


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    system = LocalHost({1: f"host={tmp_path} user=repmgr dbname=repmgr password=secret"})
    with pytest.raises(OperationFailed, match="node 1: ") as failed:
        system.fetch(Sql(1, "select 1"), 5)
    assert "secret" not in str(failed.value)
    assert len(str(failed.value).splitlines()) == 1


def test_a_server_that_is_silent_costs_the_limit_and_no_other_answer(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(f"{tmp_path}/.s.PGSQL.5432")
        silent.listen()
        system = LocalHost({1: f"host={tmp_path}", 2: f"host={tmp_path}/nothing"})
        answers = system.fetch_each([Sql(1, "select 1"), Sql(2, "select 1")], 3)
    assert "no answer within" in str(answers[1])
    assert "no answer within" not in str(answers[2])


def test_no_question_no_answer() -> None:
    assert LocalHost({}).fetch_each([], 5) == {}


# -- apply -------------------------------------------------------------------------------------------------------------


class Clock:
    """A world in which a program takes ``takes`` seconds, and a question is answered by the time."""

    def __init__(self, takes: float = 0.0, true_from: float = 0.0) -> None:
        self.time, self.takes, self.true_from = 100.0, takes, true_from
        self.runs: list[tuple[float, float]] = []
        self.questions: list[float] = []
        self.poked: list[Flow] = []

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds

    def run(self, program: Program, limit: float) -> str:
        self.runs.append((round(self.time - 100, 1), round(limit, 1)))
        self.time += min(self.takes, limit)
        if self.takes > limit:
            raise OperationFailed(f"{program}: not finished")
        return ""

    def fetch(self, sql: Sql, limit: float) -> Rows:
        assert limit > 0
        self.questions.append(self.time - 100)
        return [(self.time >= 100 + self.true_from,)] if sql.statement == "select works" else []

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        raise NotImplementedError

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        self.poked += flows

    def close_idle(self) -> None:
        raise NotImplementedError


START = Program(("/bin/start", "it"))
WORKS = Sql(1, "select works")


def test_without_a_question_a_step_is_done_once() -> None:
    host = Clock(takes=3)
    apply(Step("start it", START, 10), host)
    assert host.runs == [(0, 10)]
    assert host.questions == []


@pytest.mark.parametrize(("own", "given", "limit"), [(10, 60, 10), (60, 10, 10)])
def test_the_smaller_limit_holds(own: float, given: float, limit: float) -> None:
    host = Clock()
    apply(Step("start it", START, own), Deadline(host, 100 + given))
    assert host.runs == [(0, limit)]


@pytest.mark.parametrize(
    ("takes", "true_from", "runs"),
    [
        (0, 0, [(0, 60)]),
        (0, 4.9, [(0, 60)]),
        (0, 12, [(0, 60), (5, 55), (10, 50)]),
        (2, 12, [(0, 60), (7, 53)]),
        (0, 60, [(second, 60 - second) for second in range(0, 60, 5)]),
    ],
)
def test_it_is_done_again_until_it_is_seen_to_work(
    takes: float, true_from: float, runs: list[tuple[float, float]]
) -> None:
    host = Clock(takes, true_from)
    apply(Step("start it", START, 60, until=WORKS, every=5), Deadline(host, 190))
    assert host.runs == [pytest.approx(run, abs=0.21 * index) for index, run in enumerate(runs)]
    assert host.time - 100 == pytest.approx(max(takes, true_from), abs=0.3)


def test_what_is_not_seen_to_work_fails_at_the_limit() -> None:
    host = Clock(true_from=1000)
    with pytest.raises(OperationFailed, match=re.escape("start it: not seen") + ".* within 12 s"):
        apply(Step("start it", START, 12, until=WORKS, every=5), host)
    assert host.time - 100 == pytest.approx(12, abs=0.2)
    assert [begun for begun, _ in host.runs] == pytest.approx([0, 5, 10], abs=0.5)


def test_nothing_takes_longer_than_until_the_deadline() -> None:
    host = Clock(true_from=1000)
    with pytest.raises(OperationFailed):
        apply(Step("start it", START, 60, until=WORKS, every=5), Deadline(host, 112))
    assert host.time - 100 == pytest.approx(12, abs=0.2)
    assert [limit for _, limit in host.runs] == pytest.approx([12, 7, 2], abs=0.5)


def test_what_runs_into_the_deadline_is_named() -> None:
    with pytest.raises(OperationFailed, match="start it: not seen within") as error:
        apply(Step("start it", START, 60, until=WORKS, hint="see the log"), Deadline(Clock(true_from=1000), 112))
    assert (error.value.code, error.value.hint) == ("no_effect", "see the log")


def test_no_row_is_no_yes() -> None:
    with pytest.raises(OperationFailed, match="not seen"):
        apply(Step("start it", START, 3, until=Sql(1, "select nothing"), every=1), Clock())


@pytest.mark.parametrize(
    ("expect", "seconds"), [("", 0), ("is (up|down)", 3), (r"\bup\b", 6)], ids=["anything", "either", "up"]
)
def test_a_program_is_asked_until_it_prints_what_is_expected(expect: str, seconds: float) -> None:
    """What it prints before is not wrong: it is not there yet."""
    host = ScriptedHost()
    said = ["starts"]
    host.at(3, lambda: said.append("is down"))
    host.at(6, lambda: said.append("is up"))
    host.programs = {"start": lambda program: "", "look": lambda program: ended(program, 0, said[-1])}
    apply(Step("start it", START, 60, until=Program(("look",), expect=expect)), host)
    assert host.now() == pytest.approx(seconds, abs=0.3)


def test_a_failing_program_fails_its_step_at_once() -> None:
    host = Clock(takes=20)
    with pytest.raises(OperationFailed, match="not finished"):
        apply(Step("start it", START, 10, until=WORKS), host)
    assert host.questions == []


def test_sql_is_a_step_too() -> None:
    host = Clock()
    apply(Step("ask", Sql(1, "select works"), 10), host)
    assert len(host.questions) == 1


DELETED = """\
tcp      6 431997 ESTABLISHED src=10.0.0.30 dst=10.0.0.20 sport=40000 dport=54322 src=10.0.0.11 dst=10.0.0.20 \
sport=5432 dport=40000 [ASSURED] mark=0 use=1
tcp      6 118 SYN_SENT src=10.0.0.31 dst=10.0.0.20 sport=40001 dport=54322 [UNREPLIED] src=10.0.0.11 dst=10.0.0.20 \
sport=5432 dport=40001 mark=0 use=1
tcp      6 96 TIME_WAIT src=10.0.0.32 dst=10.0.0.20 sport=40002 dport=54322 src=10.0.0.11 dst=10.0.0.20 \
sport=5432 dport=40002 [ASSURED] mark=0 use=1
"""
FORGET = Program(("conntrack", "-D"))


class Deleting(Clock):
    """A world in which conntrack deletes three entries; nobody may be ``refused`` to send packets."""

    refused = False

    def run(self, program: Program, limit: float) -> str:
        return DELETED if program == FORGET else ""

    def reset_clients(self, flows: Iterable[Flow]) -> None:
        if self.refused:
            raise OperationFailed("cannot send packets (needs CAP_NET_RAW)")
        super().reset_clients(flows)


def test_who_still_holds_on_to_a_deleted_connection_is_told() -> None:
    host = Deleting()
    apply(Step("cut", DropConnections(FORGET), 10), host)
    assert [(flow.client, flow.client_port) for flow in host.poked] == [("10.0.0.30", 40000), ("10.0.0.31", 40001)]


def test_no_step_waits_until_all_clients_are_reset() -> None:
    """With thousands of one host that takes seconds."""
    senders: list[str] = []

    def flows() -> Iterable[Flow]:
        senders.append(threading.current_thread().name)
        yield from ()

    SYSTEM.reset_clients(flows())
    for thread in threading.enumerate():
        if thread.name == "resets":
            thread.join(60)
    assert senders == ["resets"]


def test_nobody_is_told_if_that_is_not_wanted_or_cannot_be(caplog: pytest.LogCaptureFixture) -> None:
    host = Deleting()
    apply(Step("cut", DropConnections(FORGET, reset_clients=False), 10), host)
    assert (host.poked, caplog.text) == ([], "")
    host.refused = True
    apply(Step("cut", DropConnections(FORGET), 10), host)
    assert "clients not reset: cannot send packets (needs CAP_NET_RAW)" in caplog.text


class Printing(Clock):
    """A world in which a program prints something from a moment on."""

    def run(self, program: Program, limit: float) -> str:
        super().run(program, limit)
        return "/wals/000000020000000000000005\n" if self.time >= 100 + self.true_from else "\n"


@pytest.mark.parametrize("true_from", [0, 3, 7.5])
def test_a_program_that_prints_something_says_yes(true_from: float) -> None:
    host = Printing(true_from=true_from)
    apply(Step("switch", START, 10, until=Program(("find",)), every=10), host)
    assert host.time - 100 == pytest.approx(true_from, abs=0.2)
    with pytest.raises(OperationFailed, match="switch: not seen within 10 s"):
        apply(Step("switch", START, 10, until=Program(("find",)), every=10), Printing(true_from=99))


# -- what goes on running ----------------------------------------------------------------------------------------------


class Receiving(Clock):
    """A world in which what should go on running has ended each time, and says why."""

    def run(self, program: Program, limit: float) -> str:
        super().run(program, limit)
        return "ERROR: the slot is in use\n" if len(self.runs) > 1 else ""


def test_what_has_ended_again_and_again_says_why() -> None:
    start = Program(("barman", "receive-wal"), resident=True)
    with pytest.raises(OperationFailed, match="not seen within 9 s; ERROR: the slot is in use"):
        apply(Step("start it", start, 9, until=WORKS, every=2, hint="see the log"), Receiving(true_from=99))


@pytest.mark.parametrize(("limit", "tries"), [(9.5, [0, 3, 6]), (10.5, [0, 3, 6, 9]), (3.9, [0])])
def test_nothing_is_tried_again_with_less_than_a_second_left(limit: float, tries: list[float]) -> None:
    """ "not finished after 0 s; killed" would be all that is said."""
    host = Clock(takes=0, true_from=99)
    with pytest.raises(OperationFailed, match="not seen within"):
        apply(Step("start it", START, limit, until=WORKS, every=3), host)
    assert [begun for begun, _ in host.runs] == pytest.approx(tries, abs=0.5)
    assert host.time - 100 == pytest.approx(limit, abs=0.2)


def test_a_resident_is_started_once_and_outlives_its_starter(tmp_path: Path) -> None:
    """It is in a session of its own, and what it writes when nobody reads any more does not matter."""
    pids, go = tmp_path / "pids", tmp_path / "go"
    os.mkfifo(go)
    script = f"trap '' PIPE; echo begun; echo $$ >> {pids}; read line < {go}; echo over >&2; echo over >> {pids}"
    starter = f"""
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Program
host = LocalHost({{}})
receive = Program(("sh", "-c", {script!r}), resident=True)
print([host.run(receive, 1) for _ in range(3)])
while not {str(pids)!r} or not __import__("os").path.exists({str(pids)!r}): pass
"""
    assert run(sys.executable, "-c", starter) == "['', '', '']\n"
    (pid,) = map(int, pids.read_text().split())
    assert os.getsid(pid) == pid
    go.write_text("end\n")
    assert soon(lambda: pids.read_text().split() == [str(pid), "over"])


def test_a_resident_that_has_ended_is_started_anew_and_leaves_no_zombie(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    receive = Program(("sh", "-c", f"echo $$ >> {pids}; echo why; echo because >&2; exit 1"), resident=True)
    host = LocalHost({})
    assert host.run(receive, 1) == ""
    assert soon(lambda: pids.exists() and bool(pids.read_text()) and gone(int(pids.read_text())))
    assert soon(lambda: host.run(receive, 1) != "") or pids.read_text().count("\n") > 1
    with pytest.raises(OperationFailed, match="no such program"):
        host.run(Program(("/nowhere/barman", "receive-wal"), resident=True), 1)


def test_what_is_killed_says_what_it_had_said() -> None:
    message = failure("sh", "-c", "echo 'cannot connect' >&2; sleep 60", limit=0.5)
    assert message.endswith(": not finished after 0.5 s; killed (cannot connect)")


@pytest.mark.parametrize(
    ("what", "shown"),
    [
        (Program(("barman", "-q", "a b")), "barman -q 'a b'"),
        (Sql(2, "select  f(%s,\n %s)", ("slot", True)), "node 2: select f('slot', True)"),
        (DropConnections(FORGET), "conntrack -D, and reset the clients"),
        (DropConnections(FORGET, reset_clients=False), "conntrack -D"),
    ],
)
def test_how_a_step_is_shown(what: object, shown: str) -> None:
    assert str(what) == shown


@pytest.mark.parametrize("text", ["echo no first line\n", "#!/no/such/interpreter\n"])
def test_a_script_that_cannot_be_executed(tmp_path: Path, text: str) -> None:
    script = tmp_path / "page-somebody"
    script.write_text(text)
    script.chmod(0o755)
    assert str(script) in failure(str(script))


@pytest.mark.slow
def test_a_daemon_that_keeps_the_output_open_breaks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken: list[object] = []
    monkeypatch.setattr(threading, "excepthook", broken.append)
    pid = tmp_path / "pid"
    with suppress(OperationFailed):
        run("sh", "-c", f"sleep 300 & echo $! > {pid}; echo started", limit=5)
    os.kill(int(pid.read_text()), 9)
    assert broken == []
