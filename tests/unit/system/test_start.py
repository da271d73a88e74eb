"""A program is started, and that has a limit: a forked child may hang before it is the program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HANGS = """
import os, sys, threading
from pathlib import Path
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system import start
from repmgr_hooks.system.programs import Programs, start_login
from repmgr_hooks.system.steps import Program

where, how, often, place = sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
start.BECOMES_LIMIT = 0.5 if often > 1 else 2.0  # the second child, of a busy machine, must get there
lock, we, ended = threading.Lock(), os.getpid(), threading.Semaphore(0)
lock.acquire()

def hang():
    if os.getpid() != we and len(list(place.glob("hung.*"))) < often:
        (place / f"hung.{os.getpid()}").touch()
        lock.acquire()

sys.addaudithook(lambda event, arguments: hang() if event == where else None)
if where == "fork":
    os.register_at_fork(after_in_child=hang)

def begin():
    script = ("sh", "-c", f"cat >> {place}/began; echo done")
    if how == "run":
        print(Programs().run(Program(script, stdin="in"), 60), end="")
    elif how == "login":
        (to, ours), (said, answer) = os.pipe(), os.pipe()
        os.write(ours, b"in")
        os.close(ours)
        try:
            start_login(script, to, answer)
            print(os.read(said, 100).decode(), end="")
        finally:
            for each in (to, said, answer):
                os.close(each)
    else:
        residents = Programs(ended=ended.release)
        program = Program(script, stdin="in", resident=True, heavy=how == "heavy")
        residents.run(program, 60)
        ended.acquire(timeout=60)
        print(residents.run(program, 60), end="")
        ended.acquire(timeout=60)

def seen():
    return len(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{we}/children").read_text()

before = seen()
try:
    begin()
except OperationFailed as error:
    print(error, error.code, error.hint, sep="; ")
for _ in range(600):
    if seen() == before:
        break
    threading.Event().wait(0.1)
else:
    print("left:", before, seen())
"""


def hang(tmp_path: Path, where: str, how: str, often: int) -> tuple[str, str]:
    """Start a program whose child hangs, and return what was said, and what the program has had of its stdin."""
    words = (sys.executable, "-c", HANGS, where, how, str(often), str(tmp_path))
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)
    assert ended.stderr == ""
    assert len(list(tmp_path.glob("hung.*"))) == often
    began = tmp_path / "began"
    return ended.stdout, began.read_text() if began.exists() else ""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fork", "os.listdir", "os.exec"])
@pytest.mark.parametrize("how", ["run", "login", "resident", "heavy"])
def test_a_child_that_hangs_before_it_is_the_program_is_forked_once_more(tmp_path: Path, where: str, how: str) -> None:
    """Before it has made its session, and after; ``status`` hung so for 300 s."""
    assert hang(tmp_path, where, how, 1) == ("done\n", "inin" if how in ("resident", "heavy") else "in")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["fork", "os.listdir", "os.exec"])
@pytest.mark.parametrize("how", ["run", "login", "resident", "heavy"])
def test_one_whose_children_all_hang_fails_in_time(tmp_path: Path, where: str, how: str) -> None:
    said, began = hang(tmp_path, where, how, 2)
    assert "cannot be started: 2 times its process was not the program within 0.5 s; timeout; check this host's" in said
    assert said.count("\n") == 1
    assert began == ""


INHERITS = """
import os, sys, threading
from pathlib import Path
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system import start
from repmgr_hooks.system.programs import Programs, start_login
from repmgr_hooks.system.steps import Program

start.BECOMES_LIMIT = 2.0
we, children, lock = os.getpid(), Path(f"/proc/self/task/{os.getpid()}/children"), threading.Lock()
lock.acquire()
begun, end, hangs = threading.Event(), threading.Event(), False

def hang(event, arguments):
    if hangs and event == "os.listdir" and os.getpid() != we:
        lock.acquire()

def other():
    ends.append(start_login(("sleep", "60"), 0, 1))
    begun.set()
    while not children.read_text():
        end.wait(0.01)

ends = []
sys.addaudithook(hang)
thread = threading.Thread(target=other)
thread.start()
begun.wait(60)
hangs = True
try:
    Programs().run(Program(("true",)), 60)
except OperationFailed as error:
    print(error.code)
thread.join()
for _ in range(600):  # a thread of sh's waits for the end of what was killed
    if len(children.read_text().split()) == 1:
        break
    end.wait(0.1)
print(len(children.read_text().split()))
ends[0]()
"""


@pytest.mark.slow
def test_the_child_that_hangs_is_killed_also_when_the_thread_inherits_another_one() -> None:
    """What a thread that ends has started goes to another one, which has it as its newest."""
    words = (sys.executable, "-c", INHERITS)
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "timeout\n1\n"


COLLECTS = """
import gc, os, sys
from repmgr_hooks.background import together
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program

class Kept:
    def __del__(self):
        if os.getpid() != ours:
            os.write(said, b"finalized in a child")

def make():
    kept = Kept()
    kept.itself = kept

def collect(event, arguments):
    if event in ("os.listdir", "os.exec") and os.getpid() != ours:
        make()
        [[] for _ in range(1000)]

def run():
    for _ in range(30):
        make()
        Programs().run(Program(("true",)), 60)

ours, said = os.getpid(), os.open(sys.argv[1], os.O_WRONLY)
sys.addaudithook(collect)
sys.setswitchinterval(1e-5)
gc.set_threshold(10)
together(*[run] * 8)
print(gc.isenabled())
gc.disable()
run()
print(gc.isenabled())
"""


@pytest.mark.slow
def test_nothing_is_collected_in_a_child(tmp_path: Path) -> None:
    """What is finalized may wait there for a lock of another thread's; afterwards all is as it was."""
    said = tmp_path / "said"
    said.touch()
    words = (sys.executable, "-W", "ignore", "-c", COLLECTS, str(said))
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=True)
    assert ended.stdout == "True\nFalse\n"
    assert said.read_text() == ""


INTERRUPTED = """
import os, signal
from functools import partial
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program

{handler}
os.register_at_fork(before=partial(os.kill, os.getpid(), signal.SIGINT))
try:
    print(Programs().run(Program(("echo", "done")), 60), end="")
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        ("", "interrupted\n"),
        ("signal.signal(signal.SIGINT, lambda *_: print('seen'))", "seen\ndone\n"),
        ("signal.signal(signal.SIGINT, signal.SIG_IGN)", "done\n"),
    ],
    ids=["as usual", "taken", "ignored"],
)
def test_who_is_interrupted_in_the_midst_of_a_start_hears_of_it(handler: str, said: str) -> None:
    """Python ignores what is raised around a fork, and a drill went on after Ctrl-C."""
    words = (sys.executable, "-c", INTERRUPTED.format(handler=handler))
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert (ended.stdout, ended.stderr) == (said, "")


HANGS_TWICE = """
import os, signal
from repmgr_hooks.system import start

with start._interrupted_afterwards():
    for number in (1, 2):
        print(number, flush=True)
        os.kill(os.getpid(), signal.SIGINT)
    print("it goes on", flush=True)
"""


def test_a_start_that_hangs_is_interrupted_by_the_second_one() -> None:
    words = (sys.executable, "-c", HANGS_TWICE)
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "1\n2\n"
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt"


INTERRUPTED_CHILD = """
import os, signal, sys
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program

we = os.getpid()

def interrupt(event, arguments):
    if event == "fcntl.fcntl" and os.getpid() != we:
        for _ in range(2):
            signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
try:
    Programs().run(Program(("true",)), 60)
except (KeyboardInterrupt, OperationFailed) as error:
    os.write(1, b"us" if os.getpid() == we else b"the child")
    os.write(1, f": {error}".encode())
"""


def test_a_child_that_is_interrupted_does_not_go_on_as_a_second_one_of_us() -> None:
    """A terminal interrupts the child as well, and a drill ended twice, side by side."""
    words = (sys.executable, "-c", INTERRUPTED_CHILD)
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout == "us: true: cannot be started: its process was killed before it was the program"


LACKS = """
import gc, os, resource, sys, threading
from pathlib import Path
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system import programs
from repmgr_hooks.system.steps import Program

at, threads = [0], [0]

def refuse_a_thread(frame, event, argument):
    if frame.f_code is threading.Thread.start.__code__ and event in ("call", "return"):
        threads[0] += event == "call"
        threading.stack_size(2**46 if event == "call" and threads[0] == at[0] else 0)

def refuse_a_process(event, arguments):
    if event == "os.fork" and at[0] == 10:
        raise BlockingIOError("no processes")

def seen():
    return (
        os.listdir("/proc/self/fd"),
        Path(f"/proc/self/task/{os.getpid()}/children").read_text(),
        gc.isenabled(),
        programs.HEAVY._value,
    )

def run(lack):
    at[0], threads[0] = lack, 0
    try:
        programs.Programs().run(Program(("sleep", "0.5"), stdin=10**6 * "x", resident=True, heavy=True), 60)
    except OperationFailed:
        return False
    return True

def nothing_is_left():
    for _ in range(50):  # a thread of sh's closes the program's stdin
        if seen() == before:
            return True
        threading.Event().wait(0.1)
    return False

sys.addaudithook(refuse_a_process)
sys.setprofile(refuse_a_thread)
before = seen()
for lack in (1, 2, 3, 4, 5, 10):
    print(lack, run(lack), nothing_is_left())
limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
free = 0
while True:
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(before[0]) - 1 + free, most))
    begun = run(0)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    if begun or free > 50:
        break
    if seen() != before:
        print("with", free, "descriptors:", seen())
    free += 1
print(free)
"""


@pytest.mark.slow
def test_a_start_for_which_something_is_lacking_leaves_nothing_behind() -> None:
    """Neither descriptors nor a process, which nobody would wait for; nor a collector that is off from then on."""
    words = (sys.executable, "-c", LACKS)
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True)
    *lacking, most = ended.stdout.splitlines()
    assert lacking == [f"{lack} False True" for lack in (1, 2, 3, 4, 5, 10)]
    assert int(most) >= 10
    assert ended.stderr == ""
