r"""The words between a database host and a gateway, read without trust on both sides.

The host writes one line for itself, then one for each event; fields are separated by tabs, which no field can hold:

    repmgr-hooks 1	CLOCK
    NUMBER	CLUSTER	NODE	EVENT	SUCCESS	OTHER_NODE	TIMESTAMP

CLOCK is the host's time now, NUMBER what its hook has called the event: the time when it was stored, in nanoseconds,
and a process. The gateway answers each line when the event is on its disk: ``taken NUMBER``, or ``refused NUMBER`` and
why. Who speaks is not in it: the gateway knows that from the key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from repmgr_hooks.catalogue import cluster_problem, problem, shorten
from repmgr_hooks.errors import UsageError
from repmgr_hooks.text import one_line

FIRST = "repmgr-hooks 1"
NUMBER = re.compile(r"[0-9]{20}-[0-9]{1,10}", re.ASCII)
MOST_EVENTS = 100
"""In one letter; what is left goes with the next."""
LONGEST = 512
"""Bytes of a line: the words of an event have at most 63 + 10 + 63 + 1 + 10 + 64 characters, its number 31."""
WORDS = 5
ANSWER = re.compile(rf"(taken|refused) ({NUMBER.pattern})(?: (.*))?", re.ASCII)


@dataclass(frozen=True)
class Letter:
    """One event as a host hands it over: its number there, the cluster that repmgr.conf names, and repmgr's words."""

    number: str
    cluster: str
    words: tuple[str, ...]

    @property
    def stored(self) -> float:
        """When the hook stored it, on the host's clock."""
        return int(self.number[:20]) / 1e9

    def line(self) -> str:
        """Return it as a line."""
        return "\t".join([self.number, self.cluster, *self.words])


@dataclass(frozen=True)
class Answer:
    """What the gateway says of one event; ``why`` it was refused."""

    number: str
    taken: bool
    why: str = ""


def letter(number: str, stored: list[str]) -> Letter:
    """Return the event of a file of the spool: the cluster, and the words that repmgr gave. Raises UsageError.

    >>> letter("00000000000000000001-7", ["main", "2", "standby_promote"]).line().split("\\t")
    ['00000000000000000001-7', 'main', '2', 'standby_promote', '1', '', '']
    """
    cluster, *words = stored or [""]
    if wrong := problem(words) or cluster_problem(cluster):
        raise UsageError(wrong)
    return Letter(number, cluster, tuple(words + ["1", "", ""][len(words) - 2 :]))


def written(letters: Iterable[Letter], now: float) -> str:
    """Return what a host sends."""
    return "".join(f"{line}\n" for line in (f"{FIRST}\t{now:.3f}", *(each.line() for each in letters)))


def clock_in(line: str) -> float:
    """Return the host's time in its first line. Raises UsageError."""
    first, _, clock = line.partition("\t")
    if first != FIRST or not re.fullmatch(r"[0-9]{1,11}\.[0-9]{3}", clock, re.ASCII):
        raise UsageError(
            f"the first line is not that of a database host: {shorten(line)}",
            hint="install the same version of repmgr_hooks on both hosts",
        )
    return float(clock)


def read(line: str) -> Letter:
    """Return the event in a line. Raises UsageError for what is none."""
    number, *fields = line.split("\t")
    if not NUMBER.fullmatch(number):
        raise UsageError(f"not the number of an event: {shorten(number)}")
    if len(fields) != 1 + WORDS:
        raise UsageError(f"an event has {1 + WORDS} fields after its number; got {len(fields)}")
    return letter(number, fields)


def answers(said: str) -> dict[str, Answer]:
    """Return the gateway's answers by their numbers; what a shell has printed besides is none of them.

    >>> answers("Welcome!\\ntaken 00000000000000000001-7\\nrefused 00000000000000000002-7 no such event\\n")[
    ...     "00000000000000000002-7"].why
    'no such event'
    """
    found = (ANSWER.fullmatch(line.strip()) for line in said.splitlines())
    return {each[2]: Answer(each[2], each[1] == "taken", one_line(each[3] or "")) for each in found if each}
