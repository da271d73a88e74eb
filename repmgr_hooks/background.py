"""Something that is done on the side while something else is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context


@contextmanager
def meanwhile(do: Callable[[threading.Event], object]) -> Iterator[None]:
    """Let ``do`` run in a thread; it gets an event that is set when it is to end, and is waited for."""
    over = threading.Event()
    thread = threading.Thread(target=copy_context().run, args=(do, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
