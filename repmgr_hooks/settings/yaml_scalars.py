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


class Loader(FASTEST):  # type: ignore[misc, valid-type]
    """YAML with the plain words of ``SCALARS``."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag == f"{YAML_TAG}merge"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


for _name, (_pattern, _first, _) in SCALARS.items():
    if _first:
        Loader.add_implicit_resolver(YAML_TAG + _name, re.compile(rf"(?:{_pattern})$"), _first)
