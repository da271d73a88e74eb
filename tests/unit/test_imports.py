"""A command imports what it needs, and no more: who types it waits for every module."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from repmgr_hooks import handlers

CONFIG = (Path(__file__).resolve().parents[2] / "config/config.yaml").read_text()

RUN = """
import sys
from repmgr_hooks.cli import main
before = set(sys.modules)
try:
    code = main.run(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(code, *sys.modules, file=sys.stderr)
"""
OF_ARGPARSE = """
import argparse, sys
argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80)).format_usage()
print(*sys.modules)
"""
OF_THE_CLUSTER = {"psycopg", "asyncio", "sh", "http", "smtplib", "hashlib"}
NEVER = {"shutil", "psycopg", "asyncio", "sh", "html", "email", "difflib", "smtplib", "http", "hypothesis", "socket"}
YAML, SQLITE, TYPES, PLUG_INS = {"yaml"}, {"sqlite3"}, {"dataclasses", "logging", "pathlib"}, {"importlib.metadata"}
EVERYTHING = YAML | SQLITE | TYPES | PLUG_INS | {"typing", "json"}
LAYERS = {"engine", "checks", "service", "reports", "cluster", "alerts", "barman", "system", "config", "handlers"}


def imported(tmp_path: Path, *words: str, code: int = 0) -> set[str]:
    """Return what a fresh Python has imported when a command has ended."""
    (tmp_path / "config.yaml").write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)))
    argv = (sys.executable, "-c", RUN, "--config", str(tmp_path / "config.yaml"), *words)
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    got, *modules = ended.stderr.splitlines()[-1].split()
    assert got == str(code), ended.stderr
    return set(modules)


@cache
def of_argparse() -> set[str]:
    """Return what Python's own parser imports; that of 3.14 wants colours, and for these dataclasses.

    It is told the width, as by ours: else it imports shutil, which must be seen where ours does.
    """
    argv = (sys.executable, "-c", OF_ARGPARSE)
    return set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())


def ours(modules: set[str]) -> set[str]:
    """Return the packages and modules of ours at the top."""
    return {name.split(".")[1] for name in modules if name.startswith("repmgr_hooks.")}


@pytest.mark.parametrize(
    ("words", "code", "may", "packages", "most"),
    [
        (("--help",), 0, set(), set(), 12),
        (("status", "--help"), 0, set(), set(), 12),
        (("no-such-command",), 2, set(), set(), 12),
        (("pause", "--for", "never"), 2, set(), set(), 12),
        (("history",), 0, SQLITE | TYPES | {"typing", "json"}, {"cluster", "reports"}, 39),
        (("history", "--failed", "--json"), 0, SQLITE | TYPES | {"typing", "json"}, {"cluster", "reports"}, 39),
        (("history", "--cluster", "main"), 0, SQLITE | TYPES | {"typing", "json"}, {"cluster", "reports"}, 39),
        (("pause", "--for", "5m"), 0, SQLITE | TYPES - {"dataclasses"} | {"typing", "json"}, set(), 27),
        (("handlers",), 0, {"dataclasses", "pathlib", "typing"}, {"handlers"}, 20),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_asks_no_node_imports_nothing_that_could(
    tmp_path: Path, words: tuple[str, ...], code: int, may: set[str], packages: set[str], most: int
) -> None:
    modules = imported(tmp_path, *words, code=code)
    assert modules & (NEVER | EVERYTHING) - may - of_argparse() == set()
    assert ours(modules) & LAYERS == packages
    assert len([name for name in modules if name.startswith("repmgr_hooks")]) <= most, sorted(modules)


def test_a_configuration_imports_only_the_handlers_that_it_names(tmp_path: Path) -> None:
    text = (
        CONFIG.split("    routes:")[0]
        + "    routes:\n      - on: [standby_promote]\n        do: [{firewall: {open: app}}]"
    )
    (tmp_path / "config.yaml").write_text(text)
    asked = "import sys, pathlib; from repmgr_hooks import config; config.load(pathlib.Path(sys.argv[1])); "
    argv = (sys.executable, "-c", asked + "print(*sys.modules)", str(tmp_path / "config.yaml"))
    modules = set(subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split())
    named = {name for name in handlers.BUILT_IN if f"repmgr_hooks.handlers.{name}" in modules}
    assert named == {"firewall"}
    assert modules & (OF_THE_CLUSTER | PLUG_INS) == set()


def test_resume_reads_the_configuration_without_what_asks_nodes(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(CONFIG + "no_such_option: 1\n")
    argv = (sys.executable, "-c", RUN, "--config", str(tmp_path / "config.yaml"), "resume")
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    code, *modules = ended.stderr.splitlines()[-1].split()
    assert code == "2"
    assert set(modules) & OF_THE_CLUSTER == set()


@pytest.mark.parametrize("name", handlers.BUILT_IN)
def test_what_a_handler_says_of_itself_is_listed(name: str) -> None:
    found = handlers.handler(name)
    assert found
    assert handlers.BUILT_IN[name] == (found.module.__doc__ or "").partition("\n")[0]


def test_the_program_does_not_end_before_a_thread_that_is_waited_for() -> None:
    """Clients are reset in one: those of a failover that somebody carries out by hand, too."""
    program = """
import sys, threading, time
from repmgr_hooks import __main__ as program
from repmgr_hooks.cli import main as cli
def begin(argv):
    threading.Thread(target=lambda: (time.sleep(0.5), print("done", flush=True))).start()
    return 4
cli.main = begin
sys.argv[1:] = ["status"]
program.main()
"""
    ended = subprocess.run((sys.executable, "-c", program), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (4, "done\n")
