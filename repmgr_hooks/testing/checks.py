"""What every handler must keep, as functions that raise Fault: the sentence says what is wrong, and where."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial, wraps
from typing import Any, TypeVar

from repmgr_hooks.cluster.decide import ClusterState
from repmgr_hooks.cluster.notice import Notice
from repmgr_hooks.engine.asking import PLUG_IN_LIMIT
from repmgr_hooks.engine.routes import LONGEST
from repmgr_hooks.errors import OperationFailed, Problem
from repmgr_hooks.handlers import breaks_contract
from repmgr_hooks.system.apply import apply
from repmgr_hooks.system.steps import Host, Step
from repmgr_hooks.testing.foreign import TEXTS, Odd, foreign_words
from repmgr_hooks.testing.host import ScriptedHost
from repmgr_hooks.testing.subject import Fault, Subject, enter, take
from repmgr_hooks.testing.supervision import PLAN
from repmgr_hooks.text import shortened

T = TypeVar("T")
Check = Callable[[Subject], None]
MOST = 200
"""Characters of what is shown of a world."""
TIMES = 2
"""How often ``fence`` is asked and its steps are taken (``engine/fencing.py``)."""
OF_THE_HOST = frozenset(vars(ScriptedHost()))


def in_each_state(check: Callable[[Subject, ClusterState], None]) -> Check:
    """Return the check for all states; its fault names the state."""

    @wraps(check)
    def checked(subject: Subject) -> None:
        for name, state in subject.states.items():
            with _about(name):
                check(subject, state)

    return checked


def contract(subject: Subject) -> None:
    """It has every name of the contract, frozen options, and answers of the right kinds."""
    handler, config = subject.handler, subject.action.config
    if breach := breaks_contract(handler):
        raise Fault(f"the handler {breach}{breach.hint and f'; {breach.hint}'}")
    if not handler.Config.__dataclass_params__.frozen:
        raise Fault("'Config' must be frozen: @dataclass(frozen=True)")
    found = subject.ask("validate", PLAN, lambda _: list(handler.validate(config, subject.cluster)))
    if strange := [each for each in found if not isinstance(each, Problem)]:
        raise Fault(f"'validate' must return what errors.mistake() returns, not {strange[0]!r}")
    if found:
        raise Fault(f"'validate' refuses the options: {'; '.join(map(str, found))}")
    after = subject.ask("fail_open_after", PLAN, lambda _: handler.fail_open_after(config))
    if after is not None and not (isinstance(after, int | float) and 0 <= after <= LONGEST):
        raise Fault(f"'fail_open_after' must return seconds up to {LONGEST:.0f}, or None, not {after!r}")
    on_tick = subject.ask("on_tick", PLAN, lambda _: handler.on_tick(config))
    helper = subject.ask("helper", PLAN, lambda _: handler.helper(config))
    shared = subject.ask("shared", PLAN, lambda _: handler.shared(config, subject.cluster))
    for name, flag in (("on_tick", on_tick), ("helper", helper), ("shared", shared)):
        if not isinstance(flag, bool):
            raise Fault(f"'{name}' must return True or False, not {flag!r}")


@in_each_state
def purity(subject: Subject, state: ClusterState) -> None:
    """``plan`` and ``warnings`` use nothing but their arguments, change none, and always say the same."""
    seen = subject.observe(state, subject.host(state))
    first = _unchanged(subject, state, seen)
    for other in subject.states.values():
        with suppress(OperationFailed):
            subject.look(other, subject.host(other))
    second = subject.plan(*_copied((state, seen)))
    if not same(first, second):
        raise Fault(f"'plan' says something else when it is asked again: {_names(first)}; then {_names(second)}")
    subject.warn(state)
    if subject.handler.observe is None:
        with _about("no primary is known"):
            subject.plan_notice(Notice(state.cluster, state.event, None, 0, state.states))


def _unchanged(subject: Subject, state: ClusterState, seen: Any) -> list[Step]:
    before = _copied((state, seen))
    steps = subject.plan(state, seen)
    for name, was, now in zip(("state", "seen"), before, (state, seen), strict=True):
        if not same(was, now):
            raise Fault(f"'plan' changes its argument '{name}'")
    return steps


@in_each_state
def convergence(subject: Subject, state: ClusterState) -> None:
    """The steps of a plan, taken, leave an empty plan; in a world that went through the states before it too."""
    if subject.handler.observe is None:
        return
    _make_true(subject, state, subject.host(state), "")
    host = subject.world()
    for before in subject.states.values():
        enter(host, before)
        if before is state:
            break
        _make_true(subject, before, host, "before that: ")
    _make_true(subject, state, host, "after the states before it: ")
    _fence(subject, state)


def _make_true(subject: Subject, state: ClusterState, host: Host, when: str) -> None:
    take(_look(subject, state, host), host, when)
    left = _look(subject, state, host)
    if left and all(step.helper for step in left):
        # What the missing steps stood before: the executor takes it when they are done.
        take(left, host, when)
        left = _look(subject, state, host)
    if left and not all(step.helper for step in left):
        raise Fault(f"{when}the steps were taken, and 'plan' still says: {_names(left)}")
    if isinstance(host, ScriptedHost) and (wrong := host.wrong()):
        raise Fault(f"{when}'plan' says that nothing is missing, and the world says: {wrong}")


def _look(subject: Subject, state: ClusterState, host: Host) -> list[Step]:
    try:
        return subject.look(state, host)
    except OperationFailed as error:
        raise Fault(f"'observe' fails, and nothing is wrong in the world: {error}") from None


def _fence(subject: Subject, state: ClusterState) -> None:
    host = subject.host(state)
    for _ in range(TIMES):
        take(subject.fence(state, host), host)
    if left := subject.fence(state, host):
        raise Fault(f"the steps of 'fence' were taken, and it still says: {_names(left)}")


@in_each_state
def dry_run(subject: Subject, state: ClusterState) -> None:
    """To look changes nothing in the world: a dry run is a look."""
    host = subject.host(state)
    before = _world(host)
    first = _look(subject, state, host)
    _not_changed(before, host)
    second = _look(subject, state, host)
    with suppress(OperationFailed):
        subject.fingerprint(state, host)
    _not_changed(before, host)
    if not same(first, second):
        raise Fault(f"two looks say different things: {_names(first)}; then {_names(second)}")


def _not_changed(before: Mapping[str, Any], host: Host) -> None:
    for name, now in _world(host).items():
        if not same(before.get(name), now):
            was, now = (shortened(repr(value), MOST) for value in (before.get(name), now))
            raise Fault(f"a look has changed the world: '{name}' was {was}, and is {now}")


@in_each_state
def interruption(subject: Subject, state: ClusterState) -> None:
    """Cut off at each step, and taken up again, it comes to the same end."""
    if subject.handler.observe is None:
        return
    for number, step in enumerate(_look(subject, state, subject.host(state))):
        for seen in (True, False):
            host = subject.host(state)
            steps = _look(subject, state, host)[: number + 1]
            take(steps[:-1], host)
            _begin(steps[-1], host, wait=seen)
            after = f"cut off {'after' if seen else 'in'} step {number + 1} ({step.what!r}) and taken up again: "
            _make_true(subject, state, host, after)


def _begin(step: Step, host: Host, wait: bool) -> None:
    """Do a step; without ``wait``, its effect is not waited for, and what it answers is lost."""
    with suppress(OperationFailed):
        apply(step if wait else dataclasses.replace(step, until=None), host)


@in_each_state
def limits(subject: Subject, state: ClusterState) -> None:
    """All that it waits for has a limit: where nothing answers it says so in time, and fails as OperationFailed."""
    for step in _look(subject, state, subject.host(state)):
        if not step.limit > 0:
            raise Fault(f"the step {step.what!r} has no time: its limit is {step.limit}")
    for number in (None, *range(_questions(subject, state))):
        for part, ask in _parts(subject, state).items():
            host = subject.host(state)
            begun = host.now()
            with suppress(OperationFailed):
                ask(Odd(host, number, None))
            if (seconds := host.now() - begun) > PLUG_IN_LIMIT:
                what = f"'{part}' takes {seconds:.0f} s where nothing answers; at most {PLUG_IN_LIMIT:.0f} s"
                raise Fault(f"{what} are waited for")


@in_each_state
def foreign_text(subject: Subject, state: ClusterState) -> None:
    """What a program, node or file says is foreign: it breaks nothing, and gets into nothing that is run."""
    for number in range(_questions(subject, state)):
        for name, text in TEXTS.items():
            with _about(f"the answer to question {number + 1} is foreign text ({name})"):
                for part, ask in _parts(subject, state).items():
                    with suppress(OperationFailed):
                        steps = ask(Odd(subject.host(state), number, text))
                        if where := next(foreign_words(steps, text), ""):
                            raise Fault(f"'{part}' lets it into {where}")


@in_each_state
def threads(subject: Subject, state: ClusterState) -> None:
    """When it has answered, no thread of its own is left, whether or not the world answered."""
    for odd in (False, True):
        for part, ask in _parts(subject, state).items():
            host = subject.host(state)
            before = set(threading.enumerate())
            with suppress(OperationFailed):
                ask(Odd(host, None if odd else -1, None))
            if left := set(threading.enumerate()) - before:
                raise Fault(f"'{part}' has answered, and its thread {left.pop().name!r} still runs")


CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (contract, purity, convergence, dry_run, interruption, limits, foreign_text, threads)
}


def _parts(subject: Subject, state: ClusterState) -> dict[str, Callable[[Host], list[Step]]]:
    """Return the parts of a handler that use a host."""

    def housekeep(host: Host) -> list[Step]:
        subject.housekeep(state, host)
        return []

    def fingerprint(host: Host) -> list[Step]:
        subject.fingerprint(state, host)
        return []

    looks = {"observe": subject.look, "fence": subject.fence}
    return {name: partial(ask, state) for name, ask in looks.items()} | {
        "housekeep": housekeep,
        "fingerprint": fingerprint,
    }


def _questions(subject: Subject, state: ClusterState) -> int:
    """Return how often the handler uses its host in one look."""
    most = 0
    for ask in _parts(subject, state).values():
        host = Odd(subject.host(state), -1, None)
        with suppress(OperationFailed):
            ask(host)
        most = max(most, host.asked)
    return most


@contextmanager
def _about(where: str) -> Iterator[None]:
    try:
        yield
    except Fault as fault:
        raise Fault(f"{fault} ({where})") from fault.__cause__


def _names(steps: Iterable[Step]) -> str:
    return ", then ".join(repr(step.what) for step in steps) or "nothing"


def _world(host: Host) -> dict[str, Any]:
    """Return what the test keeps of its world, as it is now."""
    own = {name: value for name, value in vars(host).items() if name not in OF_THE_HOST and name[0] != "_"}
    return {**_copied(own, "the world of the test"), "changes": list(getattr(host, "changes", []))}


def _copied(value: T, what: str = "what 'observe' returns") -> T:
    try:
        return copy.deepcopy(value)
    except Exception as error:
        raise Fault(f"{what} cannot be copied ({error!r}): it must be plain data") from None


def same(one: object, other: object) -> bool:
    """Return whether two values are the same, by what is in them, also where their type does not compare."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    if type(one).__eq__ is object.__eq__ and hasattr(one, "__dict__") and not callable(one):
        return same(vars(one), vars(other))
    return callable(one) or one == other
