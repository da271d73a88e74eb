"""What programs print that is the same for all clusters of this process: each is started once, not once for each."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import NamedTuple

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed, ProgramTimeout
from repmgr_hooks.netfilter.ruleset import rules_generation
from repmgr_hooks.system.steps import Given, Program

TURNS = threading.BoundedSemaphore(4)
"""So many constant programs run at once: all clusters ask theirs when the service begins, and a hundred Pythons of
Barman's would leave neither time nor memory for a look at the nodes."""
MOST_RECENT = 1000
"""So many answers that looks share are kept, the last ones: Barman's sums are asked for with 13 kB of Python, and with
other words as soon as it has another file."""
TOGETHER = 0.5
"""Seconds for which whoever asks for the rules waits for what another has just asked: 0.03 s of a processor."""
BUSY = "busy"
"""The code of a program that was refused, for others of its kind run."""
NOT_ROOT = "not_root"
"""The code of a program that says that one must be root, as iptables and nft do."""


class Answers:
    """The answers that clusters share; ``generation`` changes with the rules in nf_tables."""

    def __init__(self, generation: Callable[[], int | None] = rules_generation) -> None:
        self._generation = generation
        self._constants: dict[Given, Future[str]] = {}
        self._asking = threading.Lock()
        self._rules: dict[Given, _Reading] = {}
        self._uncounted: set[Given] = set()
        """What prints rules that are not in nf_tables."""
        self._recent: dict[Given, _Recent] = {}

    def constant(self, program: Program, limit: float, ask: Callable[[float], str]) -> str:
        """Return what a constant program prints; whoever comes first asks it, and what failed is asked again.

        Who has more time than who came first does not end with that one. Raises OperationFailed.
        """
        end = clock.monotonic() + limit
        while True:
            with self._asking:
                first = program.given not in self._constants
                has_turn = first and program.ahead and TURNS.acquire(blocking=False)
                if first and program.ahead and not has_turn:
                    raise OperationFailed(f"{program}: others are asked theirs", code=BUSY)
                answer = self._constants.setdefault(program.given, Future())
            left = end - clock.monotonic()
            if first:
                self._ask(program, answer, left, ask, has_turn)
            try:
                return answer.result(max(left, 0.0))
            except TimeoutError:
                raise ProgramTimeout(program, limit, "another cluster waits for it, too") from None
            except ProgramTimeout:
                if first or clock.monotonic() >= end:
                    raise

    def _ask(
        self, program: Program, answer: Future[str], limit: float, ask: Callable[[float], str], has_turn: bool
    ) -> None:
        try:
            with _turn(limit, has_turn) as left:
                answer.set_result(ask(left))
        except BaseException as error:  # whoever waits for it is to hear it too
            with self._asking:
                del self._constants[program.given]
            answer.set_exception(error)

    def rules(self, program: Program, ask: Callable[[], str]) -> str:
        """Return what a program prints of the rules, of those of one generation once, whoever asks for them.

        One that hangs is waited for by its own cluster alone. The generation is read first: what changes meanwhile is
        another one, and asked for anew. Raises OperationFailed.
        """
        if (generation := self._generation()) is None or program.given in self._uncounted:
            return self._read(program, Future(), ask)
        mine = _Reading(generation, clock.monotonic() + TOGETHER, Future())
        with self._asking:
            under_way = self._rules.setdefault(program.given, mine)
            if under_way.generation != generation:
                under_way = self._rules[program.given] = mine
        if under_way is mine:
            return self._read(program, mine.printed, ask)
        with suppress(OperationFailed, TimeoutError):
            return under_way.printed.result(max(under_way.until - clock.monotonic(), 0.0))
        with self._asking:
            if self._rules.get(program.given) in (None, under_way):
                self._rules[program.given] = mine
        return self._read(program, mine.printed, ask)

    def _read(self, program: Program, printed: Future[str], ask: Callable[[], str]) -> str:
        """Ask, and tell it to who waits for it, if it counts for others."""
        try:
            answer = ask()
            if re.search(program.counted or "", answer):
                self._uncounted.discard(program.given)
                printed.set_result(answer)
            else:
                self._uncounted.add(program.given)
            return answer
        finally:
            if not printed.done():
                with self._asking:
                    known = self._rules.get(program.given)
                    if known and known.printed is printed:
                        del self._rules[program.given]
                printed.set_exception(OperationFailed(f"{program}: no answer that counts for others"))

    def recent(self, program: Program, ask: Callable[[], str]) -> str:
        """Return what a program prints; to a look what it has just printed for another one, or for a run.

        A run has each answer for itself, and what it hears takes the place of what was heard before it: a look after it
        does not find again what the run has put right.
        """
        now, generation = clock.monotonic(), self._generation()
        known = self._recent.get(program.given)
        same = program.settled or (known and known.generation == generation is not None)
        if program.by_look and known and now < known.until and same:
            return known.printed
        printed = ask()
        if not (program.passing and re.search(program.passing, printed)):
            self._keep(program.given, _Recent(printed, now + program.good_for, generation))
        return printed

    def _keep(self, given: Given, heard: _Recent) -> None:
        """Keep what was asked last: a look that takes long may have begun before a run that has ended meanwhile."""
        with self._asking:
            before, now = self._recent.get(given), clock.monotonic()
            if before is None or before.until <= heard.until:
                others = [(key, one) for key, one in self._recent.items() if key != given and now < one.until]
                self._recent = dict([*others, (given, heard)][-MOST_RECENT:])


class _Reading(NamedTuple):
    """The rules of one generation, which somebody reads or has read, and until when others wait for that."""

    generation: int
    until: float
    printed: Future[str]


class _Recent(NamedTuple):
    """What a program has printed, until when that counts, and the generation of the rules before it was asked."""

    printed: str
    until: float
    generation: int | None


@contextmanager
def _turn(limit: float, has_turn: bool) -> Iterator[float]:
    """Wait for one's turn, half of the time at most; what is left of it is for the program."""
    begun = clock.monotonic()
    has_turn = has_turn or TURNS.acquire(timeout=limit / 2)
    try:
        yield limit - (clock.monotonic() - begun)
    finally:
        if has_turn:
            TURNS.release()
