"""The journal, for as long as a command uses it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal, open_journal

T = TypeVar("T")


@contextlib.contextmanager
def journal_of(state_dir: Path) -> Iterator[Journal]:
    """Open the journal. Raises OperationFailed."""
    journal = open_journal(state_dir / "journal.db")
    try:
        yield journal
    finally:
        journal.close()


def journal_or_why_not(state_dir: Path, stack: contextlib.ExitStack) -> tuple[Journal | None, OperationFailed | None]:
    """Open the journal, or say why that cannot be; what is true can be seen and put right without it."""
    try:
        return stack.enter_context(journal_of(state_dir)), None
    except OperationFailed as error:
        return None, error


def with_journal(state_dir: Path, use: Callable[[Journal | None], T]) -> tuple[T, OperationFailed | None]:
    """Return what is found with the journal; if it cannot be used, what is found without it, and the reason."""
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(state_dir, stack)
        if journal:
            try:
                return use(journal), None
            except OperationFailed as failure:
                error = failure
        return use(None), error
