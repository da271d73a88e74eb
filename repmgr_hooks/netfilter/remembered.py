"""What was worked out last: a look asks the same for each port of a cluster, of the same rules."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import wraps
from typing import TypeVar, cast

F = TypeVar("F", bound=Callable[..., object])


class _Last(threading.local):
    asked: tuple[Hashable, ...] = ()
    answer: object = None


def last_answer(function: F) -> F:
    """Let a pure function remember its last answer in each thread, as long as it is asked the same.

    What it is given and what it returns must be of a kind that nobody changes.
    """
    last = _Last()

    @wraps(function)
    def asked(*given: Hashable) -> object:
        if last.asked != given:
            last.answer = function(*given)
            last.asked = given
        return last.answer

    return cast(F, asked)
