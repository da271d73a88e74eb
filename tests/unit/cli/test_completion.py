"""Tab in a real bash: commands and options, and what the configuration and the journal know."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from repmgr_hooks.cli import complete
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import open_journal
from tests import readme

completion = pytest.importorskip("tests.build.completion", reason="shtab is not installed")

LIMIT = 120.0
"""Seconds; a key that is pressed starts Python, and the machine may be busy."""
TYPED = """
source {script}
line=mine
for typed in {lines}; do
    read -r -a COMP_WORDS <<< "$typed"
    [[ $typed == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
    {function}
    echo "$typed: ${{COMPREPLY[*]}}"
done
[[ $line == mine ]]
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A configuration, a journal, the program under its name, and the script of each shell."""
    text = (readme.REPOSITORY / "config/config.yaml").read_text().replace("/var/lib/repmgr-hooks", str(tmp_path))
    (tmp_path / "config.yaml").write_text(text)
    (tmp_path / "other.yaml").write_text(text.replace("  main:", "  shop:"))
    (program := tmp_path / "repmgr-hooks").write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(readme.REPOSITORY))} exec {sys.executable} -m repmgr_hooks "$@"\n'
    )
    program.chmod(0o755)
    for shell in completion.PLACES:
        (tmp_path / f"completion.{shell}").write_text(completion.script(shell))
    return tmp_path


def environment(state: Path) -> dict[str, str]:
    path = f"{state}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "REPMGR_HOOKS_CONFIG": str(state / "config.yaml"), "TERM": "dumb"}


def offered(state: Path, *lines: str) -> dict[str, list[str]]:
    """What bash offers for each line, as if Tab were pressed at its end."""
    script = TYPED.format(
        script=shlex.quote(str(state / "completion.bash")), lines=shlex.join(lines), function="_shtab_repmgr_hooks"
    )
    bash = ("bash", "--norc", "--noprofile", "-c", script)
    said = subprocess.run(
        bash, capture_output=True, text=True, check=True, env=environment(state), cwd=state, timeout=LIMIT
    )
    assert said.stderr == ""
    return {line: words.split() for line, _, words in (each.partition(": ") for each in said.stdout.splitlines())}


def test_what_the_parser_knows(state: Path) -> None:
    found = offered(
        state,
        "repmgr-hooks sim",
        "repmgr-hooks comp",
        "repmgr-hooks --config config.yaml stat",
        "repmgr-hooks check --of",
        "repmgr-hooks reconcile --log ",
        "repmgr-hooks check --offline con",
        "repmgr-hooks init /et",
    )
    assert list(found.values()) == [
        ["simulate-failover"],
        [],
        ["status"],
        ["--offline"],
        ["plain", "json"],
        ["config.yaml"],
        ["/etc"],
    ]


def test_what_the_configuration_and_the_journal_know(state: Path) -> None:
    with contextlib.closing(open_journal(state / "journal.db")) as journal:
        journal.add_event("main", Event(2, "standby_promote"), 1.0)
        journal.add_event("main", Event(1, "node_rejoin"), 2.0)
        for node, timeline in ((1, 1), (2, 2), (1, 3)):
            journal.remember("main", LastKnownPrimary(node, timeline, "7400000000000000001"))
    found = offered(
        state,
        "repmgr-hooks status --cluster ",
        "repmgr-hooks --config other.yaml status --cluster ",
        "repmgr-hooks --config = other.yaml status --cluster ",
        "repmgr-hooks simulate-failover ",
        "repmgr-hooks replay ",
        "repmgr-hooks replay --cluster main 1 standby_pro",
        "repmgr-hooks event 1 standby_promote ",
        "repmgr-hooks replay --id ",
        "repmgr-hooks history --failover ",
        "repmgr-hooks --config nowhere.yaml history --failover ",
    )
    assert list(found.values()) == [
        ["main"],
        ["shop"],
        ["shop"],
        ["1", "2"],
        ["1", "2"],
        ["standby_promote"],
        ["0", "1"],
        ["2", "1"],
        ["last", "2", "3"],
        [],
    ]


@pytest.fixture
def terminal(state: Path) -> Iterator[Callable[[bytes, bytes], bytes]]:
    """An interactive bash; what is typed into it, and what it shows until something stands there."""
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(state)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment(state))

    def typed(keys: bytes, awaited: bytes) -> bytes:
        os.write(descriptor, keys)
        shown, end = b"", time.monotonic() + LIMIT
        while awaited not in shown and time.monotonic() < end:
            if select.select([descriptor], [], [], 1.0)[0]:
                shown += os.read(descriptor, 4096)
        return shown

    yield typed
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(descriptor)


def test_the_key_in_a_terminal(terminal: Callable[[bytes, bytes], bytes]) -> None:
    terminal(b"source completion.bash; PS1='READY> '\n", b"\nREADY> ")
    assert b"status " in terminal(b"repmgr-hooks stat\t", b"status ")
    assert b"--cluster main" in terminal(b"--clu\tma\t", b"main ")


def test_zsh_reads_it(state: Path) -> None:
    if not shutil.which("zsh"):
        pytest.skip("zsh is not installed")
    subprocess.run(("zsh", "-n", str(state / "completion.zsh")), check=True)


def test_every_kind_can_be_asked_for() -> None:
    (kind,) = (action for action in parser()._actions if action.choices)
    (of_complete,) = (action for action in kind.choices["complete"]._actions if action.choices)
    assert sorted(of_complete.choices) == sorted(complete.KINDS) == sorted(set(completion.KINDS.values()))


def test_no_command_loads_what_makes_it() -> None:
    """It is made when the package is built: at run time it costs nothing."""
    asked = "import sys, repmgr_hooks.cli.main; print({'shtab', 'argcomplete', 'jsonschema'} & set(sys.modules))"
    said = subprocess.run((sys.executable, "-c", asked), capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
