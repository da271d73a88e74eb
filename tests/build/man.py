"""The manual pages, from the parser of the command line and the READMEs: python -m tests.build.man PAGE"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from repmgr_hooks.cli.arguments import parser
from tests.build.markdown import Block, blocks, inline, roff, section, typed

ROOT = Path(__file__).resolve().parents[2]
COMMAND, FILE = "repmgr-hooks.1", "repmgr-hooks.yaml.5"
SEE_ALSO = r"\fBrepmgr\fP(1), \fBrepmgrd\fP(1), \fBbarman\fP(1), \fBiptables\fP(8), \fBnft\fP(8)"


def pages() -> dict[str, str]:
    """Return each manual page by the name of its file."""
    texts = {name: (ROOT / name).read_text() for name in ("README.md", "config/README.md", "systemd/README.md")}
    commands = (ROOT / "repmgr_hooks/cli/README.md").read_text()
    return {
        COMMAND: "".join(f"{line}\n" for line in command_page(texts, commands)),
        FILE: "".join(f"{line}\n" for line in file_page(texts)),
    }


def command_page(texts: dict[str, str], commands: str) -> Iterator[str]:
    """Yield repmgr-hooks(1)."""
    top = parser()
    yield from head("REPMGR-HOOKS", 1, "repmgr-hooks", str(top.description))
    yield from (".SH SYNOPSIS", synopsis(top))
    intro, rest = before_sections(commands)
    about = [block for block in intro if block.kind == "paragraph"]
    yield from (".SH DESCRIPTION", *roff([*until_a_list(texts["README.md"]), about[0]]))
    yield from (".SH OPTIONS", *options(top))
    yield ".SH COMMANDS"
    for name, command in subparsers(top).items():
        yield from (f'.SS "{name}"', synopsis(command), ".PP", inline(sentence(str(command.description))))
        yield from itertools.islice(options(command), 3, None)  # without --help
    codes = [block for block in intro if block.kind == "table"]
    yield from (".SH EXIT STATUS", *roff([*codes, *about[1:]]))
    yield from roff(rest)
    files = [block for block in blocks(section(texts["systemd/README.md"], "Install")) if block.kind == "table"]
    yield from (".SH FILES", *roff(files))
    yield from (".SH SEE ALSO", rf"\fBrepmgr\-hooks.yaml\fP(5), {SEE_ALSO}")


def file_page(texts: dict[str, str]) -> Iterator[str]:
    """Yield repmgr-hooks.yaml(5)."""
    yield from head("REPMGR-HOOKS.YAML", 5, "repmgr-hooks.yaml", "configuration of repmgr-hooks")
    yield from (".SH SYNOPSIS", r"\fB/etc/repmgr\-hooks/config.yaml\fP")
    intro, rest = before_sections(texts["config/README.md"])
    yield from (".SH DESCRIPTION", *roff(itertools.islice((b for b in intro if b.kind == "paragraph"), 1)))
    yield from roff(rest)
    example = [block for block in blocks(section(texts["README.md"], "Configuration")) if block.kind == "code"]
    yield from (".SH EXAMPLE", *roff(example))
    yield from (".SH SEE ALSO", rf"\fBrepmgr\-hooks\fP(1), {SEE_ALSO}")


def head(title: str, number: int, name: str, what: str) -> Iterator[str]:
    """Yield what a page begins with; flush right would stretch lines that hold names which cannot be divided."""
    yield r".\" Made by tests/build/man.py; do not edit."
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    built = os.environ.get("SOURCE_DATE_EPOCH")  # reproducible-builds.org: what a packager says the time is
    date = datetime.fromtimestamp(int(built), UTC).date() if built else ""
    yield rf'.TH "{title}" "{number}" "{date}" "repmgr_hooks {version}" "repmgr_hooks"'
    yield from (".nh", ".ad l", ".SH NAME", rf"{typed(name)} \- {what[:1].lower()}{what[1:].rstrip('.')}")


def before_sections(text: str) -> tuple[list[Block], list[Block]]:
    """Return the blocks before the first heading of the second level, and the others."""
    found = list(blocks(text))
    first = next(number for number, block in enumerate(found) if block.kind == "heading" and block.level == 2)
    return found[:first], found[first:]


def until_a_list(text: str) -> list[Block]:
    """Return the paragraphs that a text begins with; the one with a colon introduces a list."""
    found = itertools.dropwhile(lambda block: block.kind == "heading", blocks(text))
    return list(itertools.takewhile(lambda b: b.kind == "paragraph" and not b.lines[0].endswith(":"), found))


def subparsers(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command that the help names."""
    (action,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    listed = {choice.dest for choice in action._get_subactions()}
    return {name: command for name, command in action.choices.items() if name in listed}


def synopsis(command: argparse.ArgumentParser) -> str:
    """Return how to call it, on one line."""
    usage = " ".join(command.format_usage().removeprefix("usage: ").split()).replace(" [-h]", "")
    return rf"\fB{typed(command.prog)}\fP{typed(usage.removeprefix(command.prog))}"


def options(command: argparse.ArgumentParser) -> Iterator[str]:
    """Yield each option with its help."""
    for action in command._get_optional_actions():
        value = "" if action.nargs == 0 else rf" \fI{typed(metavar(action))}\fP"
        names = ", ".join(rf"\fB{typed(name)}\fP" for name in action.option_strings)
        yield from (".TP", f"{names}{value}", inline(sentence(str(action.help or "").replace("%%", "%"))))


def metavar(action: argparse.Action) -> str:
    """Return the word for the value of an option, as its help has it."""
    shown = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    word = str(action.metavar or shown)
    return f"[{word} ...]" if action.nargs == "*" else word


def sentence(text: str) -> str:
    """Return the text of a help as a sentence.

    >>> sentence("print JSON"), sentence("json: one object per line")
    ('Print JSON.', 'json: one object per line.')
    """
    begins = text[:1] if text.partition(" ")[0].endswith(":") else text[:1].upper()
    return f"{begins}{text[1:].rstrip('.')}." if text else r"\&"


if __name__ == "__main__":
    sys.stdout.write(pages()[sys.argv[1]])
