"""What a word without quotes means in our YAML: that of YAML 1.2, which people expect, and not that of 1.1."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import yaml

SCALARS: Mapping[str, tuple[str, list[str], Callable[[str], Any]]] = {
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""], lambda text: None),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"], lambda text: text.lower() == "true"),
    "int": (r"-?(0|[1-9][0-9]*)", [*"-0123456789"], int),
    "float": (r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", [*"-0123456789"], float),
    "str": (r"(?s:.*)", [], str),
}
"""How a plain word is written that is no string, with which characters it begins, and how it is made a value.

YAML 1.1 reads 010 as eight, 5:30 as 330 and ``on`` as true. Here these are words, as in YAML 1.2; where a number is
wanted they are refused.
"""
YAML_TAG = "tag:yaml.org,2002:"


FASTEST: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's, which PyYAML may have been built without: a file of a hundred clusters takes the other one seconds."""
DEEPEST = 100
"""So deep may values be nested. libyaml's loader calls itself for each level, and Python does not count it: at some
30,000 the process ends with SIGSEGV (PyYAML 6.0 with libyaml 0.2.5; newer ones have a limit)."""


class Loader(FASTEST):  # type: ignore[misc, valid-type]
    """YAML with the plain words of ``SCALARS``. Raises RecursionError for what is nested too deeply."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == f"{YAML_TAG}merge"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def descend_resolver(self, node: yaml.Node | None, index: Any) -> None:
        """Called as each value begins; what it is for, resolvers of paths, we have none."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise RecursionError

    def ascend_resolver(self) -> None:
        """Called as each value ends."""
        self.depth -= 1


for _name, (_pattern, _first, _) in SCALARS.items():
    if _first:
        Loader.add_implicit_resolver(YAML_TAG + _name, re.compile(rf"(?:{_pattern})$"), _first)
