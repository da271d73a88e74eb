"""A login that stays open: by a real shell and a real Python, with an ssh of ours that notes each login."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repmgr_hooks.background import begin
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.settings.barman import Barman, login
from repmgr_hooks.system import login as login_module
from repmgr_hooks.system.login import Logins
from repmgr_hooks.system.programs import Programs, start_login
from repmgr_hooks.system.steps import Program

LIMIT = 60.0
SSH = """#!/bin/sh
echo $$ "$@" >>{log}
shift
echo 'Authorized users only'
exec env {env} sh -c "$*"
"""
ODD = f"""#!{sys.executable}
import json, os, sys
words = sys.argv[2:]
with open("{{log}}", "a") as log:
    print(os.getpid(), *words, file=log)
if not words[0].startswith("python3"):
    print("it's here")
    sys.exit()
print(json.dumps(dict()), flush=True)
sys.stdin.readline()
for line in sys.stdin:
    number = json.loads(line)["number"]
    print(json.dumps(dict(number=number, begun=True)), flush=True)
    print(json.dumps(dict(number=number, code=0, output={{text}}, errors="")), flush=True)
"""
THERE = Path(login_module.__file__).with_name("there.py")
QUIET = SSH.replace("echo 'Authorized users only'\n", "")


@dataclass(frozen=True)
class There:
    """Another host, to which one gets by ssh."""

    place: Path
    programs: Programs
    logins: Logins

    @property
    def way(self) -> tuple[str, ...]:
        return str(self.place / "ssh"), "backup"

    def calls(self) -> list[str]:
        log = self.place / "log"
        return log.read_text().splitlines() if log.exists() else []

    def run(self, *words: str, stdin: str = "", limit: float = LIMIT, tolerate: str = "") -> str:
        argv = Barman("main", command=(*self.way, "barman")).beside(*words)
        return self.programs.run(Program(argv, stdin=stdin, tolerate=tolerate, over=self.way), limit)

    def said(self, asked: Sequence[tuple[Sequence[str], str]]) -> list[str]:
        """Run programs with these words and this input, and return what is said in the end."""
        found = []
        for words, stdin in asked:
            try:
                found.append(self.run(*words, stdin=stdin))
            except OperationFailed as error:
                found.append(f"{error.code}: {error}")
        return found

    def without_logins(self) -> There:
        return replace(self, programs=Programs())

    def opened(self) -> There:
        """Use it once, and wait for it."""
        assert self.run("echo", "it's", "here").endswith("it's here\n")
        wait_for(lambda: self.logins.is_open(self.way))
        return self

    def process(self) -> int:
        """That of the login which is kept, and its group."""
        return next(int(line.split()[0]) for line in self.calls() if "python3" in line)


def wait_for(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_one_is_open_before_anything_is_run_there(there: There) -> None:
    there.logins.stay(there.way)
    wait_for(lambda: there.logins.is_open(there.way))
    for _ in range(3):
        there.logins.stay(there.way)
    there.run("true")
    assert len(there.calls()) == 1, "and it is used"


def is_there(process: int) -> bool:
    """A process that has ended, and that nobody has waited for yet, is not."""
    try:
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return False


def made(place: Path, text: str = QUIET, env: str = "") -> There:
    (place / "ssh").write_text(text.format(log=place / "log", env=env))
    (place / "ssh").chmod(0o755)
    logins = Logins(start_login)
    return There(place, Programs(logins=logins), logins)


@pytest.fixture
def there(tmp_path: Path) -> There:
    return made(tmp_path)


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """A login goes on as long as the process that has opened it."""
    yield
    log = tmp_path / "log"
    for line in log.read_text().splitlines() if log.exists() else ():
        with suppress(ProcessLookupError):
            if "python3" in line:
                os.killpg(int(line.split()[0]), signal.SIGKILL)


def test_what_is_run_afterwards_needs_no_login(there: There) -> None:
    there.opened()
    before = there.calls()
    assert [there.run("echo", str(number)) for number in range(20)] == [f"{number}\n" for number in range(20)]
    assert there.calls() == before
    assert len(before) == 2, "the first program's, and the one that is kept"


def test_it_is_the_same_as_by_a_login_of_its_own(there: There) -> None:
    asked = [
        (("printf", "%s|", "a b", "'", "$HOME", "(", "é"), ""),
        (("cat",), "some\ninput é\n"),
        (("head", "-c", "3000000", "/dev/zero"), ""),
        (("sh", "-c", "echo out; echo err >&2; exit 3"), ""),
        (("no-such-program",), ""),
    ]

    by_itself = there.without_logins().said(asked)
    there.opened()
    before = there.calls()
    assert there.said(asked) == by_itself
    assert there.calls() == before
    assert there.run("sh", "-c", "echo err >&2; exit 3", tolerate="err") == ""


def test_several_are_run_side_by_side(there: There) -> None:
    there.opened()
    fifo = there.place / "fifo"
    os.mkfifo(fifo)
    read = begin(lambda: there.run("cat", str(fifo)))
    there.run("sh", "-c", f"echo met >{fifo}")
    assert read() == "met\n"
    assert len(there.calls()) == 2


def test_what_is_late_is_ended(there: There) -> None:
    there.opened()
    pid = there.place / "pid"
    for limit in (2.0, 20.0, 60.0):  # until it has begun within it
        with pytest.raises(ProgramTimeout):
            there.run("sh", "-c", f"echo $$ >{pid}; exec sleep 600", limit=limit)
        if pid.exists() and pid.read_text().endswith("\n"):
            break
    process = int(pid.read_text())
    wait_for(lambda: not is_there(process))
    assert there.run("echo", "again") == "again\n"


def test_one_that_breaks_while_something_is_run_there(there: There) -> None:
    """It is run again, by a login of its own."""
    there.opened()
    os.killpg(there.process(), signal.SIGKILL)
    assert there.run("echo", "all the same") == "all the same\n"
    wait_for(lambda: not there.logins.is_open(there.way))
    assert there.run("echo", "and again") == "and again\n"
    assert len(there.calls()) == 4


@pytest.mark.slow
def test_one_that_says_nothing_any_more(there: There) -> None:
    """As when a firewall between has forgotten the connection."""
    there.opened()
    os.killpg(there.process(), signal.SIGSTOP)
    with pytest.raises(ProgramTimeout):
        there.run("echo", "within", limit=0.5)
    assert there.run("echo", "all the same") == "all the same\n"
    os.killpg(there.process(), signal.SIGKILL)


def test_a_login_that_begins_with_a_text(tmp_path: Path) -> None:
    there = made(tmp_path, SSH).opened()
    before = there.calls()
    assert there.run("echo", "hi") == "hi\n"
    assert there.calls() == before


def test_without_python_there_each_has_a_login_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("sh", "echo", "env"):
        (tmp_path / "bin" / name).symlink_to(f"/bin/{name}" if name != "env" else "/usr/bin/env")
    there = made(tmp_path, env=f"PATH={tmp_path}/bin")
    for number in range(3):
        assert there.run("echo", str(number)) == f"{number}\n"
    wait_for(lambda: len(there.calls()) == 4)
    assert not there.logins.is_open(there.way)


def test_it_ends_with_whoever_has_opened_it(there: There) -> None:
    """Also with one that was killed, and with all that is run there."""
    text = f"""
from pathlib import Path
from tests.unit.system.test_login import Logins, Programs, There, start_login
logins = Logins(start_login)
there = There(Path({str(there.place)!r}), Programs(logins=logins), logins).opened()
there.run("sh", "-c", "echo $$ >{there.place}/pid; exec sleep 600")
"""
    opener = subprocess.Popen([sys.executable, "-c", text])
    pid = there.place / "pid"
    wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
    opener.kill()
    opener.wait(LIMIT)
    wait_for(lambda: not is_there(int(pid.read_text())) and not is_there(there.process()))


def test_it_ends_with_all_that_it_runs_where_it_is_asked_something_odd(tmp_path: Path) -> None:
    """Such as half a message, behind which nothing more could be sent in time."""
    pid = tmp_path / "pid"
    line = json.dumps({"number": 1, "line": f"echo $$ >{pid}; exec sleep 600", "stdin": ""})
    words = (sys.executable, "-I", str(THERE))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        assert other.stdin
        other.stdin.write(f"{line}\n".encode())
        other.stdin.flush()
        wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
        other.stdin.write(f"{line[:20]}{line}\n".encode())
        other.stdin.flush()
        other.wait(LIMIT)
        wait_for(lambda: not is_there(int(pid.read_text())))


@pytest.mark.parametrize("text", ["\ud800", "\udc80 is no text"])
def test_an_odd_answer_is_an_answer(there: There, text: str) -> None:
    """JSON has characters that no text may have; a host that sends them must not look like a bug of ours."""
    (there.place / "ssh").write_text(ODD.format(log=there.place / "log", text=json.dumps(text)))
    there.opened()
    assert "?" in there.run("true")


@pytest.mark.parametrize(
    ("way", "is_one"), [(("ssh", "backup"), True), (("/usr/bin/ssh", "b"), True), (("sudo", "-u", "barman"), False)]
)
def test_only_another_host_has_one(way: tuple[str, ...], is_one: bool) -> None:
    assert login(way) == (way if is_one else ())
