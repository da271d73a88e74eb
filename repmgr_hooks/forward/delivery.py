"""Hands the events of one queue over to its gateway: by a program such as ssh, as often as it takes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from repmgr_hooks import clock
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.forward.letter import MOST_EVENTS, Answer, Letter, answers, written
from repmgr_hooks.forward.queue import GatewayQueue
from repmgr_hooks.forward.settings import Gateway
from repmgr_hooks.settings.backoff import Backoff
from repmgr_hooks.system.programs import Programs
from repmgr_hooks.system.steps import Program

log = logging.getLogger(__name__)

AGAIN = Backoff(initial_delay=1, max_delay=30)
REMIND = 600.0
"""Seconds after which it is said again that a gateway takes nothing."""
RunProgram = Callable[[Program, float], str]


def hand_over(letters: list[Letter], gateway: Gateway, run: RunProgram) -> dict[str, Answer]:
    """Return what a gateway answers to these events, by their numbers. Raises OperationFailed."""
    program = Program(gateway.command, stdin=written(letters, clock.wall()))
    said = answers(run(program, gateway.timeout))
    if letters[0].number not in said:
        raise OperationFailed(
            f"{program}: answered 0, but not for the events that it was given",
            hint="the command must lead to 'repmgr-hooks receive-event --host NAME' on the gateway",
        )
    return said


def hand_over_to_each(event: Letter, gateways: Mapping[str, Gateway]) -> bool:
    """Hand one event to all gateways side by side; True if one has taken it. repmgrd waits."""
    taken: list[str] = []

    def to(name: str, gateway: Gateway) -> None:
        try:
            answer = hand_over([event], gateway, Programs().run)[event.number]
            taken.extend([name] if answer.taken else [])
            log.info("%s: %s", name, "taken" if answer.taken else f"refused: {answer.why}")
        except OperationFailed as error:
            log.error("%s: the event is lost to it: %s", name, error)

    threads = [threading.Thread(target=to, args=each, daemon=True) for each in gateways.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return bool(taken)


class Delivery:
    """What is done for one gateway: all that waits is handed over, in order; after a failure, later."""

    def __init__(self, name: str, gateway: Gateway, queue: GatewayQueue, run: RunProgram | None = None) -> None:
        self._name, self._gateway, self._queue = name, gateway, queue
        self._run = run or Programs().run
        self._failures, self._next, self._say_again = 0, 0.0, 0.0

    def work(self) -> float | None:
        """Hand over what waits, if it is time to; return the seconds until the next attempt, None if nothing waits."""
        if (wait := self._next - clock.monotonic()) > 0:
            return wait
        try:
            while queued := self._queue.first(MOST_EVENTS):
                said = hand_over([each.letter for each in queued], self._gateway, self._run)
                for each in queued:
                    if each.letter.number not in said:
                        break  # those after it wait for it
                    self._done(each.name, each.letter, said[each.letter.number])
                self._well()
        except (OperationFailed, OSError) as error:
            return self._failed(error)
        return None

    def _done(self, name: str, letter: Letter, answer: Answer) -> None:
        """An event that the gateway refuses is refused for ever, and must not hold up the rest."""
        self._queue.remove(name)  # first, for that needs no room on the disk
        if answer.taken:
            log.info("%s: taken: %s of node %s (%s)", self._name, letter.words[1], letter.words[0], letter.number)
            self._queue.note_taken(letter)
        else:
            log.error("%s: %s was refused, and is given up: %s", self._name, letter.number, answer.why)

    def _well(self) -> None:
        if self._failures:
            log.info("%s: takes events again", self._name)
        self._failures = 0

    def _failed(self, error: Exception) -> float:
        self._failures += 1
        wait = AGAIN.after(self._failures)
        self._next = clock.monotonic() + wait
        if self._failures == 1 or clock.monotonic() >= self._say_again:
            self._say_again = clock.monotonic() + REMIND
            waiting = len(self._queue.names())
            what = "%s: %d event(s) wait, and are handed over again and again until they are taken: %s"
            log.error(what, self._name, waiting, error)
        return wait
