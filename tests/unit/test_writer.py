"""A log that nobody reads keeps nobody waiting."""

from __future__ import annotations

import io
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from repmgr_hooks import writer as module
from repmgr_hooks.cli import logged, output
from repmgr_hooks.writer import Writer

log = logging.getLogger("repmgr_hooks.somewhere")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full: its reader, its writer."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    yield reader, writer
    os.set_blocking(reader, False)
    with suppress(OSError):
        os.read(reader, 2**20)
    os.close(reader)


def test_a_reader_who_has_stopped_keeps_nobody_waiting(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_WORDS", 0.1)
    monkeypatch.setattr(module, "MOST", 1000)
    reader, writer = pipe
    logged.show_log_lines(os.fdopen(writer, "w"))
    for number in range(10_000):
        log.info("line %d", number)
    os.set_blocking(reader, False)
    text = b""
    end = time.monotonic() + 60
    while b"are missing here" not in text:
        assert time.monotonic() < end
        with suppress(BlockingIOError):
            text += os.read(reader, 2**20)
        log.info("one more")
    kept = text.decode().lstrip("x").splitlines()
    assert kept[0].endswith("line 0")
    assert [int(line.split()[0]) for line in kept if "are missing here" in line][0] > 9000


def test_all_is_written_before_what_comes_after() -> None:
    stream = io.StringIO()
    made = Writer(stream)
    for number in range(1000):
        made.write(f"{number}\n")
    assert made.flush()
    assert stream.getvalue().split() == [str(number) for number in range(1000)]


def test_a_stream_that_is_closed_is_no_error() -> None:
    stream = io.StringIO()
    made = Writer(stream)
    stream.close()
    made.write("nobody hears it\n")
    assert made.flush()


def test_a_library_does_not_write_past_it() -> None:
    stream = io.StringIO()
    logged.show_log_lines(stream)
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    logging.getLogger("psycopg").warning("error ignored")
    output.all_written()
    assert "Task exception" in stream.getvalue()
    assert "error ignored" in stream.getvalue()


@pytest.mark.slow
def test_a_program_ends_although_nobody_reads_its_last_words(pipe: tuple[int, int]) -> None:
    script = (
        "import logging, sys; from repmgr_hooks.cli import logged, output; logged.show_log_lines(sys.stderr)\n"
        "logging.getLogger('repmgr_hooks').error('to nobody'); output.complain('to nobody either'); sys.exit(5)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.DEVNULL, stderr=pipe[1])
    try:
        assert process.wait(120) == 5
    finally:
        process.send_signal(signal.SIGKILL)
        os.close(pipe[1])
