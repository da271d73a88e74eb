"""Each folder imports only what is to its right in one line; so the folders tell the way of an event."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import repmgr_hooks

PACKAGE = Path(repmgr_hooks.__file__).parent

LAYERS = """
    __main__ testing > cli > setup > drill > service reports checks > forward config > alerts
    > switchover former_primary > engine > handlers > journal barman > cluster > system > netfilter > config_file
    > settings event hook > lock log log_json catalogue
    > errors files background repmgr_conf > text writer clock __init__
"""
RANK = {name: rank for rank, layer in enumerate(LAYERS.split(">")) for name in layer.split()}


def layer(module: str) -> str:
    """Return the layer of a module.

    >>> layer("repmgr_hooks.cluster.decide"), layer("repmgr_hooks.errors"), layer("repmgr_hooks")
    ('cluster', 'errors', '__init__')
    """
    return [*module.split("."), "__init__"][1]


def imported(source: str) -> set[str]:
    """Return the modules of ours that a source imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "repmgr_hooks":
            found |= {f"repmgr_hooks.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {module for module in found if module.split(".")[0] == "repmgr_hooks"}


def to_the_left(place: str, source: str) -> list[str]:
    """Return what a module imports from layers on its left, or beside it."""
    return [
        f"{place} imports {module}"
        for module in sorted(imported(source))
        if RANK[layer(module)] < RANK[place] or (RANK[layer(module)] == RANK[place] and not _same(place, module))
    ]


def _same(place: str, module: str) -> bool:
    """Packages of one layer do not know each other; modules at the bottom may."""
    return layer(module) == place or not (PACKAGE / place).is_dir()


def test_every_module_has_a_layer() -> None:
    there = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there - {"py", "repmgr-hooks", "README", "CHANGELOG"} == set(RANK)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_to_the_right(path: Path) -> None:
    place = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert to_the_left(place, path.read_text()) == []


def test_the_hook_loads_nothing_that_python_has_not_loaded() -> None:
    """Before its first line, that is: repmgrd waits for every module."""
    asked = "import sys; before = set(sys.modules); import repmgr_hooks.hook; print(*set(sys.modules) - before)"
    said = subprocess.run((sys.executable, "-c", asked), capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert set(said.stdout.split()) == {"repmgr_hooks", "repmgr_hooks.catalogue", "repmgr_hooks.hook"}


OWN_TIME = ("clock.py", "hook.py", "barman/agent/")
"""``hook.py`` imports nothing that takes time; the agent runs on Barman's host, without any module of ours."""


def asked_times(source: str) -> list[int]:
    """Return the lines that ask the time, or wait, without ``clock``."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if (isinstance(node, ast.ImportFrom) and node.module in ("time", "datetime") and _imports_clock(node))
        or (isinstance(node, ast.Attribute) and ast.unparse(node) in TIMES)
    ]


TIMES = ("time.time", "time.monotonic", "time.sleep", "time.perf_counter", "datetime.now", "datetime.utcnow")


def _imports_clock(node: ast.ImportFrom) -> bool:
    return any(f"{node.module}.{alias.name}" in TIMES for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_time_is_asked_in_one_place(path: Path) -> None:
    if not str(path.relative_to(PACKAGE)).startswith(OWN_TIME):
        assert asked_times(path.read_text()) == []


@pytest.mark.parametrize(
    "line", ["begun = time.time()", "from time import monotonic", "wait = time.sleep", "now = datetime.now(UTC)"]
)
def test_a_clock_of_its_own_is_seen(line: str) -> None:
    assert asked_times(line)


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("netfilter", "from repmgr_hooks.system.steps import Program"),
        ("handlers", "from repmgr_hooks.alerts.incident import Alert"),
        ("system", "from repmgr_hooks.alerts.incident import Alert"),
        ("cluster", "from repmgr_hooks.journal.journal import Journal"),
        ("cluster", "def f():\n    from repmgr_hooks.engine.run import RunObserver"),
        ("reports", "from repmgr_hooks import checks"),
        ("hook", "import repmgr_hooks.config"),
        ("catalogue", "from repmgr_hooks.event import Event"),
    ],
)
def test_an_import_to_the_left_is_seen(place: str, line: str) -> None:
    """The first five stood in the code before the folders were made."""
    assert to_the_left(place, line)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_fits_in_one_reading(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 300


def test_unit_tests_lie_as_what_they_test() -> None:
    """A directory of tests for each package, and no other; what has no directory is at the top."""
    tests = {path.name for path in Path(__file__).parent.iterdir() if (path / "__init__.py").exists()}
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert tests == packages - {"settings"}, "settings are tested as the file that holds them: config/test_config.py"
