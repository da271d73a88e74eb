"""Tab in a real bash and a real zsh: commands and options, and what the configuration and the journal know."""

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
    (tmp_path / "completion.bash").write_text(completion.script("bash"))
    # Under the name by which zsh finds it (compinit).
    (tmp_path / "_repmgr-hooks").write_text(completion.script("zsh"))
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


def known_of(state: Path) -> None:
    """Two events, and two changes of the primary."""
    with contextlib.closing(open_journal(state / "journal.db")) as journal:
        journal.add_event("main", Event(2, "standby_promote"), 1.0)
        journal.add_event("main", Event(1, "node_rejoin"), 2.0)
        for node, timeline in ((1, 1), (2, 2), (1, 3)):
            journal.remember("main", LastKnownPrimary(node, timeline, "7400000000000000001"))


def test_what_the_configuration_and_the_journal_know(state: Path) -> None:
    known_of(state)
    found = offered(
        state,
        "repmgr-hooks status --cluster ",
        "repmgr-hooks --config other.yaml status --cluster ",
        "repmgr-hooks --config = other.yaml status --cluster ",
        "repmgr-hooks simulate-failover ",
        "repmgr-hooks switchover --to ",
        "repmgr-hooks drill --to ",
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
        ["1", "2"],
        ["1", "2"],
        ["standby_promote"],
        ["0", "1"],
        ["2", "1"],
        ["last", "2", "3"],
        [],
    ]


BEGIN = {
    "bash": "source completion.bash; PS1='READY> '\n",
    "zsh": "fpath=({state} $fpath); autoload -U compinit; compinit -u -D; bindkey -e; PS1='READY> '\n",
}
INTERACTIVE = {"bash": ("--norc", "--noprofile", "-i"), "zsh": ("-f", "-i")}
PROMPT = {"bash": b"\nREADY> ", "zsh": b"\rREADY> "}
CLEAR = b"\x15"
"""Control-U takes away what was typed."""
Terminal = Callable[[str, Callable[[bytes], bool]], bool]


@pytest.fixture(params=list(BEGIN))
def terminal(state: Path, request: pytest.FixtureRequest) -> Iterator[Terminal]:
    """An interactive shell; what is typed into it, and whether it then shows what it should."""
    shell: str = request.param
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed, as with tests/run --fast on a fresh machine")
    known_of(state)
    child, descriptor = pty.fork()
    if child == 0:
        os.chdir(state)
        os.execvpe(shell, [shell, *INTERACTIVE[shell]], environment(state))

    def typed(keys: str, is_shown: Callable[[bytes], bool]) -> bool:
        os.write(descriptor, keys.encode())
        shown, end = b"", time.monotonic() + LIMIT
        while not is_shown(shown) and time.monotonic() < end:
            if select.select([descriptor], [], [], 1.0)[0]:
                shown += os.read(descriptor, 4096)
        os.write(descriptor, CLEAR)
        return is_shown(shown)

    assert typed(BEGIN[shell].format(state=shlex.quote(str(state))), lambda shown: PROMPT[shell] in shown)
    yield typed
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("repmgr-hooks stat", "repmgr-hooks status "),
        ("repmgr-hooks status --clu", "status --cluster "),
        ("repmgr-hooks status --cluster ma", "--cluster main "),
        ("repmgr-hooks --config other.yaml status --cluster s", "--cluster shop "),
        ("repmgr-hooks replay 1 standby_prom", "replay 1 standby_promote "),
        ("cd . && repmgr-hooks status --cluster ma", "--cluster main "),
        ("repmgr-hooks --config other.yaml status; repmgr-hooks status --cluster ma", "--cluster main "),
        ("TZ=UTC repmgr-hooks status --cluster ma", "--cluster main "),
    ],
)
def test_the_key_completes_a_word(terminal: Terminal, line: str, completed: str) -> None:
    assert terminal(f"{line}\t", lambda shown: completed.encode() in shown)


@pytest.mark.parametrize("before", ["rm precious; ", "rm precious && ", "! rm precious | ", "rm precious "])
def test_the_key_runs_no_other_command_of_the_line(terminal: Terminal, state: Path, before: str) -> None:
    """What is in front of ours was run in zsh, with our words as its arguments."""
    (state / "precious").write_text("data")
    words = f"{before}repmgr-hooks status --cluster ma"
    pressed = time.monotonic()
    terminal(f"{words}\t", lambda shown: b"main " in shown or time.monotonic() > pressed + 3)
    assert (state / "precious").read_text() == "data"


@pytest.mark.parametrize(
    ("line", "among"),
    [
        ("repmgr-hooks simulate-failover ", {b"1", b"2"}),
        ("repmgr-hooks history --failover ", {b"last", b"2", b"3"}),
        ("repmgr-hooks replay --id ", {b"1", b"2"}),
    ],
)
def test_the_key_shows_what_there_is_to_choose_from(terminal: Terminal, line: str, among: set[bytes]) -> None:
    """In bash when it is pressed twice; below what was typed."""
    assert terminal(f"{line}\t\t", lambda shown: among <= set(shown.partition(line.encode())[2].split()))


def test_every_kind_can_be_asked_for() -> None:
    (kind,) = (action for action in parser()._actions if action.choices)
    (of_complete,) = (action for action in kind.choices["complete"]._actions if action.choices)
    assert sorted(of_complete.choices) == sorted(complete.KINDS) == sorted(set(completion.KINDS.values()))


def test_no_command_loads_what_makes_it() -> None:
    """It is made when the package is built: at run time it costs nothing."""
    asked = "import sys, repmgr_hooks.cli.main; print({'shtab', 'argcomplete', 'jsonschema'} & set(sys.modules))"
    said = subprocess.run((sys.executable, "-c", asked), capture_output=True, text=True, check=True)
    assert said.stdout == "set()\n"
