"""What the commands share: the configuration, the journal, and the way to print and to complain."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import stat
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from repmgr_hooks import config
from repmgr_hooks.config import Config, which_cluster
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed, UsageError, did_you_mean, hint_lines
from repmgr_hooks.event import Event
from repmgr_hooks.files import atomic_write
from repmgr_hooks.hook import forwards
from repmgr_hooks.journal.journal import Journal, open_journal
from repmgr_hooks.log import Form, Lines, goes_to_journal
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.text import MOST, printable
from repmgr_hooks.writer import Writer

OK, FAILED, USAGE, BUG = 0, 1, 2, 3

log = logging.getLogger("repmgr_hooks")
T = TypeVar("T")
LIBRARIES = ("asyncio", "psycopg", "sh")


def configured(arguments: argparse.Namespace) -> Config:
    """Read the configuration file of a gateway. Raises UsageError."""
    path = config.config_path(arguments.config)
    if forwards(str(path)):
        raise UsageError(f"{path} has 'forward': it is the file of a database host", hint="run this on a gateway")
    return config.load(path)


def world_of(managed: ManagedCluster) -> LocalHost:
    """Return the host through which a cluster is reached."""
    return LocalHost(managed.cluster.conninfos())


def choose(loaded: Config, name: str | None, event: Event | None) -> list[ManagedCluster]:
    """Return the cluster of an event; without one, the named cluster, or all of them. Raises UsageError."""
    if event is None:
        if name is not None and name not in loaded.clusters:
            raise UsageError(f"{loaded.path} has no cluster {name!r}", hint=did_you_mean(name, loaded.clusters))
        return [loaded.clusters[name]] if name is not None else list(loaded.clusters.values())
    name = which_cluster(loaded.clusters, name, event.node)
    nodes = loaded.clusters[name].cluster.nodes
    if event.node not in nodes:
        known = ", ".join(str(node) for node in nodes)
        raise UsageError(f"{loaded.path}: clusters.{name}.nodes has no node {event.node} (it has {known})")
    return [loaded.clusters[name]]


@contextlib.contextmanager
def journal_of(loaded: Config) -> Iterator[Journal]:
    """Open the journal. Raises OperationFailed."""
    journal = open_journal(loaded.state_dir / "journal.db")
    try:
        yield journal
    finally:
        journal.close()


def journal_or_why_not(loaded: Config, stack: contextlib.ExitStack) -> tuple[Journal | None, OperationFailed | None]:
    """Open the journal, or say why that cannot be; what is true can be seen and put right without it."""
    try:
        return stack.enter_context(journal_of(loaded)), None
    except OperationFailed as error:
        return None, error


def with_journal(loaded: Config, use: Callable[[Journal | None], T]) -> tuple[T, OperationFailed | None]:
    """Return what is found with the journal; if it cannot be used, what is found without it, and the reason."""
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded, stack)
        if journal:
            try:
                return use(journal), None
            except OperationFailed as failure:
                error = failure
        return use(None), error


def write_whole(path: Path, text: str) -> None:
    """Write a file that others may read; it is there whole, or as it was. Raises UsageError.

    It takes the place of what is there: root would make /dev/null, or /dev/stdout, a file.
    """
    try:
        if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
            raise UsageError(f"{path} is not a file", hint="name one, or a new one")
        with atomic_write(path) as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}", hint="name another file") from None


def show_log_lines(stream: TextIO, form: Form = "plain") -> Lines:
    """Send the log to ``stream``, one line an entry."""
    output = Lines(stream, form)
    log.handlers[:] = [output]
    log.setLevel(logging.INFO)
    # Libraries (asyncio, psycopg) would write their warnings to stderr themselves, and wait for whoever reads it.
    for library in LIBRARIES:
        logging.getLogger(library).handlers[:] = [output]
    return output


def all_written() -> None:
    """Wait a moment until the log is written: then what is printed comes after it."""
    for handler in log.handlers:
        handler.flush()


def say(lines: Iterable[str]) -> None:
    """Print lines; on a terminal they are folded where it ends, elsewhere a line stays a line."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        line = printable(line, 2 * MOST)
        print(folded(line, width) if width else line)


def folded(line: str, width: int) -> str:
    """Return a line as lines that end between words, further in than it begins.

    >>> print(folded("  WARNING node 1 does not answer", 20))
      WARNING node 1
        does not answer
    """
    further = " " * (len(line) - len(line.lstrip()) + 2)
    wrapped = textwrap.wrap(line, width, subsequent_indent=further, break_long_words=False, break_on_hyphens=False)
    return "\n".join(wrapped)


def complain(error: object) -> None:
    """Say on stderr what went wrong; in the log, if that is for a collector."""
    if any(isinstance(handler, Lines) and handler.form == "json" for handler in log.handlers):
        log.error("%s", error)
        all_written()
    else:
        all_written()
        start = "<3>" if goes_to_journal(sys.stderr) else ""
        stderr = Writer(sys.stderr)
        lines = [f"repmgr-hooks: {printable(str(error), 2 * MOST)}", *hint_lines(getattr(error, "hint", ""))]
        stderr.write("".join(f"{start}{line}\n" for line in lines))
        stderr.flush()
