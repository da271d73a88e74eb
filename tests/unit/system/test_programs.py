"""Programs that cannot be started, that cannot be killed, and whose children go on: all that has a limit."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from repmgr_hooks.background import begin
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.system.answers import BUSY
from repmgr_hooks.system.output import Output
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> int:
    return len(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


@pytest.mark.parametrize(
    "text", ["echo hi\n", "#!/no/such/interpreter\n", "\x7fELF"], ids=["no first line", "no interpreter", "half a file"]
)
def test_a_program_that_cannot_be_started_leaves_nothing(tmp_path: Path, text: str) -> None:
    """As after an upgrade that has taken Barman's Python away: it is tried at every look."""
    place = tmp_path / "barman"
    place.write_text(text)
    place.chmod(0o755)
    programs, before = Programs(), (descriptors(), children())
    for _ in range(20):
        with pytest.raises(OperationFailed, match=r"cannot be started: \w") as refused:
            programs.run(Program((str(place),)), 5)
        assert "Traceback" not in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    # What other tests have left may be closed, or end, meanwhile.
    assert descriptors() <= before[0]
    assert children() <= before[1]


@pytest.mark.slow
def test_a_program_that_cannot_be_killed_is_not_waited_for(tmp_path: Path) -> None:
    """It waits for a disk that hangs, say; another one would too."""
    kept: list[int] = []
    programs, program = Programs(kill=kept.append), Program(("sleep", "60"))
    with pytest.raises(ProgramTimeout, match="has not ended yet"):
        programs.run(program, 0.1)
    for _ in range(3):
        with pytest.raises(OperationFailed, match=f"process {kept[0]} was killed and has not ended"):
            programs.run(program, 0.1)
    assert len(kept) == 1
    assert programs.run(Program(("echo", "another")), 5) == "another\n"
    os.killpg(kept[0], signal.SIGKILL)
    select.select([os.pidfd_open(kept[0])], [], [], 60)
    with pytest.raises(ProgramTimeout):
        programs.run(program, 0.1)
    os.killpg(kept[1], signal.SIGKILL)


def test_what_a_program_has_printed_is_not_kept() -> None:
    """While the rules of 100 clusters were read 14 times a second, memory grew by 2 MB a second."""
    programs = Programs()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            assert len(programs.run(Program(("seq", "1000")), 10)) == 3893
        left = [kept for kept in gc.get_objects() if isinstance(kept, Output) and kept.size == 3893]
        assert not any(kept._head for kept in left)
    finally:
        gc.enable()


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 3])
def test_a_child_of_another_session_that_holds_the_output_is_not_waited_for(code: int) -> None:
    program = Program(("sh", "-c", f"setsid sleep 30 & echo $! said; exit {code}"), whole=False)
    try:
        said = Programs().run(program, 60)
    except OperationFailed as error:
        assert code
        said = str(error).rpartition("exit code 3: ")[2]
    assert said.strip().endswith("said")
    os.kill(int(said.split()[0]), signal.SIGKILL)


def test_not_all_clusters_start_their_constant_programs_at_once(tmp_path: Path) -> None:
    """When the service begins with a hundred clusters. What is no constant waits for none of them."""
    script = f"mkdir {tmp_path}/$$; sleep 0.3; ls {tmp_path} | wc -l; rmdir {tmp_path}/$$"
    constants = [Program(("env", f"CLUSTER={number}", "sh", "-c", script), constant=True) for number in range(10)]
    asked = [begin(partial(Programs().run, program, 60)) for program in constants]
    assert Programs().run(Program(("echo", "at once")), 60) == "at once\n"
    most = max(int(answer()) for answer in asked)
    assert 1 <= most <= 4


def test_a_constant_program_that_is_given_something_else_is_asked_by_itself() -> None:
    programs = Programs()
    words = ("sh", "-c", 'echo "$WHICH $(cat)"')
    given = [("a", ""), ("b", ""), ("a", "x"), ("a", "")]
    asked = [Program(words, stdin=stdin, env={"WHICH": which}, constant=True) for which, stdin in given]
    assert [programs.run(program, 60) for program in asked] == ["a \n", "b \n", "a x\n", "a \n"]


def test_of_heavy_residents_few_run_at_once_and_a_turn_comes_back(tmp_path: Path) -> None:
    """After ten failovers each of ten clusters would follow its WAL, and hold up the eleventh."""
    clusters = [Programs() for _ in range(4)]
    script = f"until test -e {tmp_path}/over; do sleep 0.1; done"
    refused = 0
    for number, programs in enumerate(clusters):
        try:
            programs.run(Program(("sh", "-c", script, str(number)), resident=True, heavy=True), 60)
        except OperationFailed as error:
            assert error.code == BUSY
            refused += 1
    assert refused == 2
    assert Programs().run(Program(("true",), resident=True), 60) == "", "what is not heavy waits for none"
    (tmp_path / "over").touch()
    run_two_heavy_ones()


def test_a_heavy_resident_that_cannot_be_started_keeps_no_turn() -> None:
    for _ in range(3):
        with pytest.raises(OperationFailed, match="no such program"):
            Programs().run(Program(("/nowhere/check",), resident=True, heavy=True), 60)
    run_two_heavy_ones()


def run_two_heavy_ones() -> None:
    """Run them at the same time, as soon as there are turns for both; then there are again."""
    over = [threading.Event(), threading.Event()]
    for each in over:
        until = time.monotonic() + 60
        while True:
            try:
                Programs(ended=each.set).run(Program(("sleep", "0.2"), resident=True, heavy=True), 60)
                break
            except OperationFailed as error:
                assert error.code == BUSY
                assert time.monotonic() < until
                time.sleep(0.1)
    assert all(each.wait(60) for each in over)
