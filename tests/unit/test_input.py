"""What people and programs hand to the command line: arguments that are no text, streams that are closed or full."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repmgr_hooks.cli import main as cli
from repmgr_hooks.hook import STATE_DIR, state_dir
from tests.unit.conftest import CONFIG

pytestmark = pytest.mark.slow  # each test is a process of its own, or several

FILE = Path(__file__).resolve()
CLOSED = "closed"
PROGRAM = """
from repmgr_hooks.cli import configured
from repmgr_hooks.__main__ import main
from tests.fake import FakeHost
configured.LocalHost = lambda conninfos, **_: FakeHost()
main()
"""
"""The program as it is, but for the nodes: no test asks real ones."""


def hooks(
    tmp_path: Path, *argv: str | bytes, output: str = "", error: str = "", given: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run the program; ``output`` and ``error`` are files, or closed."""
    config = tmp_path / "config.yaml"
    if not os.path.lexists(config):
        config.write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)))
        (tmp_path / "spool").mkdir(exist_ok=True)

    def close() -> None:
        for descriptor, name in ((1, output), (2, error)):
            if name == CLOSED:
                os.close(descriptor)

    with contextlib.ExitStack() as stack:
        out, err = (
            stack.enter_context(open(name, "wb")) if name not in ("", CLOSED) else subprocess.PIPE  # noqa: PTH123
            for name in (output, error)
        )
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *argv],
            stdout=out,
            stderr=err,
            input=b"" if given is None else given,
            env={**os.environ, "REPMGR_HOOKS_CONFIG": str(config), "PATH": str(tmp_path)},
            cwd=FILE.parents[2],
            preexec_fn=close,
            timeout=120,
            check=False,
        )  # fmt: skip


@pytest.mark.parametrize("reason", [b"\xff", b"new\ndisks", b"\x1b[2J", b"\xe2\x80\xae", b"\xed\xa0\x80"])
def test_a_reason_that_is_no_text_is_refused_and_nothing_is_paused(tmp_path: Path, reason: bytes) -> None:
    refused = hooks(tmp_path, "pause", "--reason", reason)
    assert (refused.returncode, refused.stdout) == (2, b"")
    line, hint = refused.stderr.decode().splitlines()
    assert line.endswith("holds a control character, or is not UTF-8")
    assert (line.isprintable(), hint) == (True, "HINT: write it as plain text")
    assert not (tmp_path / "journal.db").exists()


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", b"\xff", "status"],
        ["status", "--cluster", b"\xff"],
        ["history", "--failover", b"\xff"],
        ["history", "--failover", "last", "--html", b"\xff"],
        ["metrics", "--file", b"\xff.prom"],
        ["continuity", b"\xff"],
        ["init", b"\xff"],
        ["replay", "2", b"\xff"],
        ["event", "2", b"\xff"],
        ["event", "--cluster", b"\xff", "2", "standby_promote"],
        ["event", "--cluster", b"a\nb", "2", "standby_promote"],
        ["event", "--cluster", "x" * 5000, "2", "standby_promote"],
        [b"\xff"],
    ],
)
def test_an_argument_that_is_no_text_is_refused(tmp_path: Path, argv: list[str | bytes]) -> None:
    refused = hooks(tmp_path, *argv)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"Traceback" not in refused.stderr
    assert len(refused.stderr) < 300
    assert [path.name for path in (tmp_path / "spool").iterdir()] == []


@pytest.mark.parametrize("locale", ["C", "C.UTF-8"])
def test_an_event_on_stdin_that_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, locale: str) -> None:
    """In the C locale Python reads such bytes as halves of characters, else not at all."""
    monkeypatch.setenv("LC_ALL", locale)
    monkeypatch.setenv("PYTHONCOERCECLOCALE", "0")
    refused = hooks(tmp_path, "event", "-", given=b"\n2\nstandby_promote\n\xff\n")
    assert (refused.returncode, b"Traceback" in refused.stderr) == (2, False)


@pytest.mark.parametrize("argv", [["handlers"], ["history"], ["--help"], ["check", "--help"], ["pause"], ["resume"]])
def test_a_full_output_is_a_failure_that_is_named(tmp_path: Path, argv: list[str]) -> None:
    ended = hooks(tmp_path, *argv, output="/dev/full")
    assert b"Traceback" not in ended.stderr
    assert b"Exception" not in ended.stderr
    assert b"Logging error" not in ended.stderr
    if argv[-1] not in ("--help", "resume"):
        assert ended.returncode == 1
        assert b"output cannot be written" in ended.stderr


@pytest.mark.parametrize(
    "argv", [["handlers"], ["history"], ["status"], ["pause"], ["resume"], ["check"], ["metrics"], ["--help"], ["x"]]
)
@pytest.mark.parametrize("stream", ["output", "error"])
@pytest.mark.parametrize("where", [CLOSED, "/dev/full"])
def test_closed_and_full_streams_make_no_bug(tmp_path: Path, argv: list[str], stream: str, where: str) -> None:
    ended = hooks(tmp_path, *argv, output=where if stream == "output" else "", error=where if stream == "error" else "")
    said = (ended.stdout or b"") + (ended.stderr or b"")
    assert ended.returncode in (0, 1, 2)
    assert b"Traceback" not in said
    assert b"bug" not in said
    assert b"Exception" not in said


def test_what_is_done_does_not_depend_on_its_output(tmp_path: Path) -> None:
    assert hooks(tmp_path, "pause", "--reason", "disks", output=CLOSED).returncode == 0
    assert b"(disks)" in hooks(tmp_path, "status").stdout
    assert hooks(tmp_path, "resume", output="/dev/full", error="/dev/full").returncode in (0, 1)
    assert b"(disks)" not in hooks(tmp_path, "status").stdout


def test_a_fifo_as_configuration_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    refused = hooks(tmp_path, "status")
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"is not a file" in refused.stderr


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_the_hook_does_not_wait_for_a_configuration_that_is_no_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    path = {"fifo": tmp_path / "fifo", "device": Path("/dev/zero"), "directory": tmp_path}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    assert state_dir(str(path)) == STATE_DIR
    assert "cannot be read" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["simulate-failover", "1_0"], "is not a repmgr node id"),
        (["simulate-failover", "\u0661"], "is not a repmgr node id"),
        (["simulate-failover", "0"], "is not a repmgr node id"),
        (["simulate-failover", "9" * 5000], "is not a repmgr node id"),
        (["reconcile", "--forg"], "unrecognized arguments: --forg"),
        (["pause", "--reas", "x"], "unrecognized arguments: --reas"),
        (["pause", "--reason", "x" * 201], "201 characters are more than 200"),
    ],
)
def test_arguments_that_are_nearly_right(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(argv)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err
