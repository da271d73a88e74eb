"""Every way out that ``check`` and ``status`` can print is typed by a lab test, or it is said why not."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.cluster.obstacles import Hindrance
from repmgr_hooks.cluster.probe import ProbeCode
from repmgr_hooks.cluster.reasons import ReasonCode
from tests.hints import TYPED, UNTYPED

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("barman", "checks", "cluster", "handlers")
NAMING = ("Topic", "_seen", "secret")
"""What is called with the code of a finding in front."""


def codes() -> set[str]:
    """The codes of all that has a hint, in what ``check`` and ``status`` are made of."""
    reasons = {f"primary.{code.name.lower()}" for code in ReasonCode if code.hint}
    found = reasons | {f"failover.{kind.name.lower()}" for kind in Hindrance}
    found |= {f"client.{code.value}" for code in ProbeCode if code not in (ProbeCode.WRITES, ProbeCode.READS)}
    for package in PACKAGES:
        for file in (ROOT / "repmgr_hooks" / package).rglob("*.py"):
            found |= set(codes_in(ast.parse(file.read_text())))
    return found


def codes_in(tree: ast.Module) -> Iterator[str]:
    constants = {
        target.id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.id if isinstance(call.func, ast.Name) else ""
        first = call.args[0] if call.args else None
        said = constants.get(first.id) if isinstance(first, ast.Name) else getattr(first, "value", None)
        named = {word.arg: word.value for word in call.keywords}
        with_hint = len(call.args) > 2 or "hint" in named
        if isinstance(said, str) and (name in NAMING or (name == "Problem" and with_hint)):
            yield said
        elif "hint" in named and isinstance(code := named.get("code"), ast.Constant):
            yield str(code.value)


def test_each_is_typed_or_it_is_said_why_not() -> None:
    assert TYPED.keys() & UNTYPED.keys() == set()
    assert codes() == TYPED.keys() | UNTYPED.keys()


def test_the_lab_tests_are_there() -> None:
    for code, where in TYPED.items():
        file, _, name = where.partition("::")
        text = (ROOT / "tests/endtoend" / file).read_text()
        assert re.search(rf"^def {name}\(|\b{name}\b", text, re.MULTILINE), (code, where)
