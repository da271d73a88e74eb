"""What programs print that is the same for all clusters of a process: each is started once, not once for each."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks.background import begin
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.netfilter import iptables
from repmgr_hooks.system import answers as answers_module
from repmgr_hooks.system.answers import BUSY, Answers
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program


def noting(tmp_path: Path, script: str = "", constant: bool = False, counted: str | None = None) -> Program:
    """A program that notes each of its starts."""
    return Program(("sh", "-c", f"echo start >> {tmp_path}/starts; {script}"), constant=constant, counted=counted)


def starts(tmp_path: Path) -> int:
    return len((tmp_path / "starts").read_text().splitlines())


def test_a_constant_program_is_started_once_for_all_clusters_side_by_side(tmp_path: Path) -> None:
    """A hundred would each start a Python of Barman's for its version when the service begins."""
    answers, program = Answers(), noting(tmp_path, "sleep 0.2; echo 3.4", constant=True)
    asked = [begin(partial(Programs(answers=answers).run, program, 60)) for _ in range(8)]
    assert [answer() for answer in asked] == ["3.4\n"] * 8
    assert starts(tmp_path) == 1


def test_what_failed_is_asked_again(tmp_path: Path) -> None:
    answers, program = Answers(), noting(tmp_path, f"test -e {tmp_path}/there && echo well", constant=True)
    for _ in range(2):
        with pytest.raises(OperationFailed, match="exit code 1"):
            Programs(answers=answers).run(program, 60)
    (tmp_path / "there").touch()
    assert [Programs(answers=answers).run(program, 60) for _ in range(2)] == ["well\n"] * 2
    assert starts(tmp_path) == 3


def test_who_waits_for_another_cluster_does_not_wait_longer_than_for_the_program_itself(tmp_path: Path) -> None:
    answers, program = Answers(), noting(tmp_path, f"until test -e {tmp_path}/over; do sleep 0.1; done", constant=True)
    first = begin(partial(Programs(answers=answers).run, program, 60))
    for _ in range(600):
        if (tmp_path / "starts").exists():
            break
        time.sleep(0.1)
    with pytest.raises(ProgramTimeout, match="another cluster waits for it, too"):
        Programs(answers=answers).run(program, 0.1)
    (tmp_path / "over").touch()
    assert first() == ""


def test_who_has_more_time_does_not_end_with_who_came_first(tmp_path: Path) -> None:
    """What is asked in time of peace gives up early; a failover that needs the same answer waits for it."""
    answers, program, asked = Answers(), Program(("barman", "--version"), constant=True), threading.Event()

    def too_late(limit: float) -> str:
        asked.set()
        assert over.wait(60)
        raise ProgramTimeout(program, 5)

    over = threading.Event()
    first = begin(partial(answers.constant, program, 60, too_late))
    assert asked.wait(60)
    second = begin(partial(answers.constant, program, 60, lambda limit: "3.4"))
    over.set()
    with pytest.raises(ProgramTimeout):
        first()
    assert second() == "3.4"


def test_rules_are_read_once_for_each_change_whichever_cluster_has_made_it(tmp_path: Path) -> None:
    """With a hundred clusters each change of one had all of them start a program of their own."""
    now = [1]
    answers, program = Answers(lambda: now[0]), noting(tmp_path, f"cat {tmp_path}/rules", counted="")
    clusters = [Programs(answers=answers) for _ in range(5)]
    for generation in (1, 2):
        now[0] = generation
        (tmp_path / "rules").write_text(f"-A x{generation}")
        assert [programs.run(program, 60) for programs in clusters] == [f"-A x{generation}"] * 5
        assert starts(tmp_path) == generation


def test_a_change_while_they_are_read_is_seen_by_whoever_reads_them_next(tmp_path: Path) -> None:
    now = [1]
    answers = Answers(lambda: now[0])

    def changed() -> str:
        now[0] = 2
        return "old, or new"

    program = Program(("iptables-save",), counted="")
    assert answers.rules(program, changed) == "old, or new"
    assert answers.rules(program, lambda: "new") == "new"
    assert answers.rules(program, changed) == "new"


def reads(answers: Answers, program: Program, said: str) -> tuple[Callable[[], str], threading.Event]:
    """Begin to read the rules; the answer comes when the event is set."""
    asked, over = threading.Event(), threading.Event()

    def ask() -> str:
        asked.set()
        assert over.wait(60)
        if not said:
            raise OperationFailed("iptables-save: exit code 4")
        return said

    answer = begin(partial(answers.rules, program, ask))
    assert asked.wait(60)
    return answer, over


def wait_for_joined(answers: Answers, program: Program, count: int) -> None:
    """Wait until so many wait for what is being read."""
    condition: Any = answers._rules[program.given].printed._condition  # type: ignore[attr-defined]
    while len(condition._waiters) < count:
        time.sleep(0.001)


def test_rules_that_another_cluster_is_reading_are_not_read_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four runs side by side each started a program of their own after each change."""
    monkeypatch.setattr(answers_module, "TOGETHER", 60.0)
    answers, program = Answers(lambda: 7), Program(("iptables-save",), counted="")
    first, over = reads(answers, program, "first")
    joined = [begin(partial(answers.rules, program, lambda: "beside it")) for _ in range(3)]
    wait_for_joined(answers, program, 3)
    over.set()
    assert [answer() for answer in (first, *joined)] == ["first"] * 4


@pytest.mark.parametrize("said", ["old", ""], ids=["ends", "fails"])
def test_rules_that_have_changed_since_another_began_to_read_them_are_read_anew(said: str) -> None:
    now = [1]
    answers, program = Answers(lambda: now[0]), Program(("iptables-save",), counted="")
    first, over = reads(answers, program, said)
    now[0] = 2
    assert answers.rules(program, lambda: "new") == "new"
    over.set()
    with suppress(OperationFailed):
        assert first() == said
    assert answers.rules(program, lambda: "again") == "new", "what was begun before is not what is known since"


def test_rules_that_another_cluster_reads_and_never_gets_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "TOGETHER", 0.1)
    answers, program = Answers(lambda: 7), Program(("iptables-save",), counted="")
    hanging, over = reads(answers, program, "late")
    assert answers.rules(program, lambda: "mine") == "mine"
    assert answers.rules(program, lambda: "again") == "mine", "nor by the next one"
    over.set()
    assert hanging() == "late"
    assert answers.rules(program, lambda: "again") == "mine"


@pytest.mark.parametrize("said", ["", "# Generated by iptables-save v1.8.9 on Thu"], ids=["fails", "iptables-legacy"])
def test_what_says_nothing_for_others_is_asked_by_each(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers_module, "TOGETHER", 3600.0)
    answers, program = Answers(lambda: 7), Program(("iptables-save",), counted=iptables.COUNTED)
    first, over = reads(answers, program, said)
    heard: list[str] = []
    second = threading.Thread(target=lambda: heard.append(answers.rules(program, lambda: "mine")), daemon=True)
    second.start()
    wait_for_joined(answers, program, 1)
    over.set()
    second.join(60)
    assert heard == ["mine"], "as soon as that is known"
    if said:
        third, over = reads(answers, program, said)
        assert answers.rules(program, lambda: "mine") == "mine", "and nobody waits any more"
        over.set()
        assert third() == said
        counted = "# Generated by iptables-save v1.8.9 (nf_tables) on Thu"
        assert [answers.rules(program, lambda: counted) for _ in range(2)] == [counted] * 2
        assert answers.rules(program, lambda: "again") == counted, "until another iptables is chosen"
    if said:
        assert first() == said
    else:
        with pytest.raises(OperationFailed, match="exit code 4"):
            first()


@pytest.mark.parametrize(
    ("number", "printed"),
    [
        (None, "# Generated by iptables-save v1.8.9 (nf_tables) on Thu"),
        (7, "# Generated by iptables-save v1.8.9 on Thu"),
    ],
    ids=["no right to ask", "iptables-legacy"],
)
def test_rules_that_nobody_counts_are_read_each_time(tmp_path: Path, number: int | None, printed: str) -> None:
    answers, program = Answers(lambda: number), noting(tmp_path, f"echo '{printed}'", counted=iptables.COUNTED)
    for times in range(1, 4):
        assert Programs(answers=answers).run(program, 60) == f"{printed}\n"
        assert starts(tmp_path) == times


@pytest.mark.parametrize("program", ["iptables-save", "ip6tables-save", "iptables-nft-save"])
def test_what_iptables_prints_of_nf_tables_is_counted(program: str) -> None:
    said = f"# Generated by {program} v1.8.9 (nf_tables) on Thu Nov 26 18:42:24 2026\n*nat\nCOMMIT\n"
    answers, asked = Answers(lambda: 7), Program((program, "-t", "nat"), counted=iptables.COUNTED)
    assert [answers.rules(asked, lambda: said), answers.rules(asked, lambda: "")] == [said, said]


def test_what_nobody_needs_yet_is_refused_while_others_are_asked_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred Pythons of Barman's side by side take longer than the 5 s after which each is given up."""
    turns = threading.BoundedSemaphore(1)
    monkeypatch.setattr(answers_module, "TURNS", turns)
    answers, program = Answers(), noting(tmp_path, "echo 3.4", constant=True)
    run = Programs(answers=answers).run
    turns.acquire()
    with pytest.raises(OperationFailed) as caught:
        run(replace(program, ahead=True), 60)
    assert caught.value.code == BUSY
    assert not (tmp_path / "starts").exists()
    turns.release()
    assert run(replace(program, ahead=True), 60) == "3.4\n"
    turns.acquire()
    assert run(replace(program, ahead=True), 60) == "3.4\n", "what is known is not asked"
    assert starts(tmp_path) == 1
    turns.release()
    assert turns.acquire(blocking=False), "the turn was given back"


def listing(tmp_path: Path, **more: Any) -> Program:
    """A program whose answer is good enough for looks for a minute."""
    return replace(noting(tmp_path, f"cat {tmp_path}/seen"), good_for=60.0, **more)


def test_a_look_takes_over_what_another_clusters_has_just_heard(tmp_path: Path) -> None:
    """All connections stand in one listing: a hundred clusters had a hundred printed every five minutes."""
    (tmp_path / "seen").write_text("first")
    answers, program = Answers(lambda: 1), listing(tmp_path, by_look=True)
    assert [Programs(answers=answers).run(program, 60) for _ in range(5)] == ["first"] * 5
    assert starts(tmp_path) == 1


def test_a_run_asks_anew_and_looks_after_it_take_its_answer(tmp_path: Path) -> None:
    """Else they would find again what the run has put right."""
    answers, look = Answers(lambda: 1), listing(tmp_path, by_look=True)
    programs = Programs(answers=answers)
    for seen in ("wrong", "right"):
        (tmp_path / "seen").write_text(seen)
        assert programs.run(replace(look, by_look=False), 60) == programs.run(look, 60) == seen
    assert starts(tmp_path) == 2


@pytest.mark.parametrize("generations", [(1, 2), (None, None)])
@pytest.mark.parametrize("settled", [False, True])
def test_what_is_not_settled_is_taken_over_until_a_rule_may_have_changed(
    tmp_path: Path, generations: tuple[int | None, ...], settled: bool
) -> None:
    now = list(generations)
    answers, look = Answers(lambda: now.pop(0)), listing(tmp_path, by_look=True, settled=settled)
    (tmp_path / "seen").write_text("first")
    Programs(answers=answers).run(look, 60)
    (tmp_path / "seen").write_text("second")
    assert Programs(answers=answers).run(look, 60) == ("first" if settled else "second")


def test_a_look_that_began_before_a_run_does_not_bring_back_what_that_has_put_right(tmp_path: Path) -> None:
    """Of 200,000 connections a list takes a second, in which another cluster's run cuts some and lists the rest."""
    answers, look = Answers(lambda: 1), listing(tmp_path, by_look=True)

    def overtaken() -> str:
        assert answers.recent(replace(look, by_look=False), lambda: "right") == "right"
        return "wrong"

    assert answers.recent(look, overtaken) == "wrong"
    assert answers.recent(look, lambda: "asked anew") == "right"


@pytest.mark.parametrize("settled", [False, True])
def test_what_a_run_has_heard_while_the_kernel_did_not_answer_is_not_older_than_what_a_look_has(
    tmp_path: Path, settled: bool
) -> None:
    now: list[int | None] = [1, None, 1]
    answers, look = Answers(lambda: now.pop(0)), listing(tmp_path, by_look=True, settled=settled)
    answers.recent(look, lambda: "wrong")
    answers.recent(replace(look, by_look=False), lambda: "right")
    assert answers.recent(look, lambda: "asked anew") == ("right" if settled else "asked anew")


def test_what_may_soon_be_otherwise_is_asked_again(tmp_path: Path) -> None:
    answers, look = Answers(lambda: 1), listing(tmp_path, by_look=True, settled=True, passing="null")
    said = [answers.recent(look, partial(str, answer)) for answer in ("null", "it", "null")]
    assert said == ["null", "it", "it"]


def test_so_many_answers_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The words of each look at an archive are others, 13 kB, as soon as Barman has another file."""
    monkeypatch.setattr(answers_module, "MOST_RECENT", 2)
    answers, look = Answers(lambda: 1), listing(tmp_path, by_look=True, settled=True)
    for number in (1, 2, 3):
        answers.recent(replace(look, stdin=f"{number}"), lambda: "first")
    said = [answers.recent(replace(look, stdin=f"{number}"), lambda: "anew") for number in (3, 2, 1)]
    assert said == ["first", "first", "anew"]


class Said(str):
    """An answer whose end can be seen."""


def test_what_is_old_is_not_taken_over_and_not_kept(tmp_path: Path) -> None:
    answers, look = Answers(lambda: 1), replace(listing(tmp_path, by_look=True), good_for=1e-9)
    said = [answers.recent(look, partial(Said, number)) for number in (1, 2)]
    assert said == ["1", "2"]
    left = weakref.ref(said.pop())
    answers.recent(replace(look, stdin="another"), str)
    assert left() is None
