"""The service of a database host: what the hook stores goes into the queue of each gateway, and from there to it.

A thread for each gateway: one that is gone, or slow, delays no other.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from types import FrameType

from repmgr_hooks import clock
from repmgr_hooks.errors import LockTimeout, OperationFailed
from repmgr_hooks.forward import settings
from repmgr_hooks.forward.delivery import Delivery
from repmgr_hooks.forward.letter import Letter, letter
from repmgr_hooks.forward.queue import GatewayQueue
from repmgr_hooks.hook import wake
from repmgr_hooks.lock import exclusive
from repmgr_hooks.service.event_file import read_words
from repmgr_hooks.service.spool import Spool, Stored, make_spool
from repmgr_hooks.service.systemd import notify

log = logging.getLogger(__name__)

LOOK_ROUND = 20.0
LOCK_POLL = 0.2
LOCK_WAIT = 80.0
"""Seconds for a forwarder that ``event`` has started because it was there before the service; systemd waits 90 s."""
AFTER_FAULT = 5.0
CHECK = "check the state directory's owner and disk"
STOP_LIMIT = 2.0
"""Seconds that are left to a thread at the end, besides those that its gateway's command may take."""


class Forwarder:
    """One per state directory; the lock sees to it. Raises UsageError, OperationFailed."""

    def __init__(self, path: Path) -> None:
        self._config = settings.load(path)
        self._signalled, self._signal = os.pipe()
        os.set_blocking(self._signal, False)
        self._stopping = threading.Event()
        self._queues: dict[str, GatewayQueue] = {}

    def serve(self, once: bool = False) -> None:
        """Work until SIGTERM; with ``once``, until each gateway has taken what waits, or has failed to."""
        with ExitStack() as stack:
            if not self._lock(stack, once):
                log.info("a forwarder is already running, and has been woken")
                return
            make_spool(self._config.spool)
            spool = Spool(Path(self._config.state_dir))
            stack.callback(spool.close)
            try:
                self._queues = {name: GatewayQueue(self._config.queue(name)) for name in self._config.gateways}
            except OSError as error:
                raise OperationFailed(
                    f"the queues cannot be used: {error}", hint="check their owner and disk"
                ) from None
            self._work(spool, once)

    def _lock(self, stack: ExitStack, once: bool) -> bool:
        """Become the one forwarder; False if one is there that has heard us. Raises LockTimeout."""
        lock, end = Path(self._config.state_dir, "forward.lock"), clock.monotonic() + LOCK_WAIT
        while True:
            try:
                stack.enter_context(exclusive(lock, 0.0 if once else LOCK_WAIT))
                return True
            except LockTimeout:
                if once and wake(str(self._config.spool)):
                    return False
                if clock.monotonic() >= end:
                    raise
                clock.sleep(LOCK_POLL)

    def _work(self, spool: Spool, once: bool) -> None:
        loops = [Loop(name, Delivery(name, self._config.gateways[name], queue)) for name, queue in self._queues.items()]
        if once:
            self._empty(spool, loops)
            return
        self._listen()
        for loop in loops:
            loop.start()
        notify("READY=1")
        try:
            while not self._stopping.is_set():
                taken = self._take(spool)
                for loop in loops if taken else ():
                    loop.wake()
                if all(loop.is_alive() for loop in loops):
                    notify("WATCHDOG=1")
                wait = LOOK_ROUND if taken == 0 else AFTER_FAULT if taken is None else 0.0
                spool.wait(wait, self._signalled)
        finally:
            for loop in loops:
                loop.stop()
            for loop, gateway in zip(loops, self._config.gateways.values(), strict=True):
                loop.join(gateway.timeout + STOP_LIMIT)

    def _empty(self, spool: Spool, loops: list[Loop]) -> None:
        """Hand over what waits; what comes at the last moment, before nobody listens any more, too."""
        while True:
            while spool.take(read, self._keep):
                pass
            attempts = [threading.Thread(target=loop.once, name=loop.name, daemon=True) for loop in loops]
            for thread in attempts:
                thread.start()
            for thread, gateway in zip(attempts, self._config.gateways.values(), strict=True):
                thread.join(gateway.timeout + STOP_LIMIT)
            spool.deafen()
            if not spool.take(read, self._keep):
                return

    def _take(self, spool: Spool) -> int | None:
        """Take some events out of the spool; return how many, None if that failed. They stay there until then."""
        try:
            return spool.take(read, self._keep)
        except OperationFailed as error:
            log.error("%s", error)
            return None

    def _keep(self, stored: list[Stored[Letter]]) -> None:
        for name, queue in self._queues.items():
            try:
                queue.add([each.what for each in stored])
                given_up = queue.give_up_oldest()
            except OSError as error:
                raise OperationFailed(
                    f"the queue of {name} cannot be written: {error}", hint="check its disk"
                ) from None
            if given_up:
                log.error("%s: %d event(s) more than can wait were given up, the oldest ones", name, given_up)

    def _listen(self) -> None:
        signal.set_wakeup_fd(self._signal, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._stopping.set()


class Loop(threading.Thread):
    """The thread of one gateway."""

    def __init__(self, name: str, delivery: Delivery) -> None:
        super().__init__(name=name, daemon=True)
        self._delivery = delivery
        self._woken, self._stopping = threading.Event(), threading.Event()

    def run(self) -> None:
        """Hand over what waits, until the end."""
        while not self._stopping.is_set():
            self._woken.clear()
            wait = self._delivery.work()
            if wait is None:
                self._woken.wait(LOOK_ROUND)
            else:
                self._stopping.wait(wait)

    def once(self) -> None:
        """Hand over what waits, here and now."""
        self._delivery.work()

    def wake(self) -> None:
        """There is something to hand over."""
        self._woken.set()

    def stop(self) -> None:
        """End, after what is being done."""
        self._stopping.set()
        self._woken.set()


def read(name: str, directory: int) -> Letter:
    """Return the event of a file of the spool. Raises UsageError for what is none; OSError."""
    return letter(name, read_words(name, directory))
