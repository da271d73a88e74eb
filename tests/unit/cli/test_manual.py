"""The manual pages: all that parser and tables know is in them, and the programs that show them do not complain."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.main import COMMANDS
from repmgr_hooks.setup.install import MANUAL
from tests import readme
from tests.build import man
from tests.build.markdown import blocks, inline, roff
from tests.options import all_options

HIDDEN = {"complete"}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return man.pages()


def test_the_command_page_has_every_command_and_option(pages: dict[str, str]) -> None:
    top, page = parser(), pages["repmgr-hooks.1"]
    assert set(man.subparsers(top)) == set(COMMANDS) - HIDDEN
    for name, command in man.subparsers(top).items():
        below = page.partition(f'.SS "{name}"\n')[2].partition(".S")[0]
        for action in command._get_optional_actions()[1:]:
            for option in action.option_strings:
                assert rf"\fB{man.typed(option)}\fP" in below, (name, option)
    for heading in ("NAME", "SYNOPSIS", "EXIT STATUS", "CHECK", "LOGS", "FILES", "SEE ALSO"):
        assert f'.SH "{heading}"' in page or f".SH {heading}\n" in page


def test_the_page_of_the_file_has_every_option_with_its_default(pages: dict[str, str]) -> None:
    lines = pages["repmgr-hooks.yaml.5"].splitlines()
    for option in all_options():
        below = ("clusters.NAME.", "alerts[].", "forward.gateways.NAME.")
        names = [option.path, *map(option.path.removeprefix, below)]
        at = next(n for n, line in enumerate(lines) if line in [rf"\fB{man.typed(name)}\fP" for name in names])
        assert option.default in lines[at + 1].replace(r"\-", "-"), option


def test_nothing_of_markdown_is_left(pages: dict[str, str]) -> None:
    for page in pages.values():
        prose = "\n".join(part.partition(".fi")[2] for part in page.split(".nf"))
        assert [mark for mark in ("**", "](", "| ", "`") if mark in prose] == []


def test_a_text_as_roff() -> None:
    text = "## What\n\n.a `b\\'`\n\n    'c' -d\n\n- e\n  f\n\n| g | h |\n|---|---|\n| `i` | j |\n"
    assert list(roff(blocks(text))) == [
        '.SH "WHAT"', r"\&.a \fBb\e\(aq\fP", ".PP", ".RS 4", ".nf", r"\(aqc\(aq \-d", ".fi", ".RE",
        r".IP \(bu 2", "e f", ".TP", r"\fBi\fP", "j",
    ]  # fmt: skip
    assert inline("**`--offline`.** Then") == r"\fB\-\-offline.\fP Then"


@pytest.mark.parametrize(
    ("program", "argv"),
    [
        # As lintian calls it.
        ("man", ["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]),
        ("mandoc", ["-Tlint", "-W", "warning"]),
    ],
)
@pytest.mark.parametrize("name", [man.COMMAND, man.FILE])
def test_who_shows_them_has_no_complaint(
    pages: dict[str, str], tmp_path: Path, program: str, argv: list[str], name: str
) -> None:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    (path := tmp_path / name).write_text(pages[name])
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    asked = subprocess.run([program, *argv, str(path)], capture_output=True, text=True, check=False, env=environment)
    said = asked.stderr + (asked.stdout if program == "mandoc" else "")
    assert [line for line in said.splitlines() if "missing date" not in line] == []


def test_the_date_is_the_packagers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there is none: two builds of one source are the same."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1795651200")
    assert '.TH "REPMGR-HOOKS" "1" "2026-11-26"' in man.pages()["repmgr-hooks.1"]


def test_they_are_made_without_a_library_of_the_programs() -> None:
    """pip builds in an environment that has nothing but hatchling and shtab."""
    pytest.importorskip("shtab")
    made = (
        "import sys; sys.modules.update(dict.fromkeys(('psycopg', 'yaml', 'sh')))\n"
        "from tests.build import completion, man\n"
        "print(len(man.pages()), len(completion.script('bash')) > 1000)"
    )
    asked = subprocess.run(
        (sys.executable, "-c", made), capture_output=True, text=True, cwd=readme.REPOSITORY, check=False
    )
    assert (asked.stdout, asked.stderr) == ("2 True\n", "")


def test_what_is_built_is_what_init_links(tmp_path: Path) -> None:
    for name in ("hatchling", "shtab"):
        pytest.importorskip(name)
    from tests.build.completion import PLACES
    from tests.build.hook import write

    (tmp_path / "old").touch()
    write(tmp_path)
    built = {f"share/{path.relative_to(tmp_path)}" for path in tmp_path.rglob("*") if path.is_file()}
    assert built == set(MANUAL) and set(PLACES) == {"bash", "zsh"}
