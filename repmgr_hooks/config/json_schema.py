"""The JSON schema of the configuration file, made from the types that read it and from the table of options.

It refuses nothing that the loader takes. What one value does not show, such as a port that no section names, it
cannot say. Its keywords are those that editors know: of draft 7, which mean the same in 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from repmgr_hooks import catalogue
from repmgr_hooks.config import Service
from repmgr_hooks.engine.routes import When
from repmgr_hooks.errors import UsageError
from repmgr_hooks.handlers.contract import Handler
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.json_schema import Describer, Schema
from repmgr_hooks.settings.schema import Identifier

DRAFT = "https://json-schema.org/draft/2020-12/schema"
TABLE = re.compile(r"^(?:### (?P<heading>.*)|\| `(?P<row>.*\.) \|)$", re.MULTILINE)
EVENT = "^[a-z][a-z0-9_]{0,62}$"
"""What ``catalogue.is_event`` takes."""


def schema(readme: str, handlers: Mapping[str, Handler]) -> Schema:
    """Return the schema; ``readme`` is the text with the table of options, config/README.md."""
    describer = Describer(meanings(readme))
    top, cluster = describer.mapping(Service, ""), describer.mapping(Cluster, "clusters.NAME")
    cluster["properties"]["routes"] = {"type": "array", "minItems": 1, "items": _route(describer, handlers)}
    cluster["required"] = [*cluster["required"], "routes"]
    top["properties"]["clusters"] = describer.schema(Mapping[Identifier, Any], "") | {"additionalProperties": cluster}
    return {"$schema": DRAFT, "title": "The configuration of repmgr_hooks", **top, "required": ["clusters"]}


def _route(describer: Describer, handlers: Mapping[str, Handler]) -> Schema:
    events = {"anyOf": [{"enum": list(catalogue.EVENTS)}, {"type": "string", "pattern": EVENT}]}
    return {
        "type": "object",
        "properties": {
            "on": {"type": "array", "minItems": 1, "uniqueItems": True, "items": events},
            "do": {"type": "array", "minItems": 1, "items": _action(describer, handlers)},
        },
        "required": ["on", "do"],
        "additionalProperties": False,
    }


def _action(describer: Describer, handlers: Mapping[str, Handler]) -> Schema:
    """One handler and its options, and possibly ``when``. A handler without options may stand there without a value."""
    known = {name: _options(describer, name, handler) for name, handler in sorted(handlers.items())}
    return {
        "type": "object",
        "properties": {**known, "when": describer.mapping(When, "when")},
        "oneOf": [{"required": [name]} for name in known],
        "additionalProperties": False,
    }


def _options(describer: Describer, name: str, handler: Handler) -> Schema:
    try:
        options = describer.mapping(handler.Config, name)
    except (TypeError, KeyError, NameError, AttributeError) as error:
        raise UsageError(f"handler {name!r}: a bug in it: its Config cannot be read: {error!r}") from error
    kind = "object" if "required" in options else ["object", "null"]
    return options | {"type": kind, "description": (handler.__doc__ or "").partition("\n")[0].replace("``", "`")}


def meanings(readme: str) -> dict[str, str]:
    """Return what the tables of options say about each option, by its path, with its unit.

    >>> meanings("### `alerts[]`\\n| `timeout` | integer | s | 10 | The [time](#x) limit. |\\n")
    {'alerts[].timeout': 'The time limit. Unit: s.'}
    """
    found, before = {}, ""
    for line in TABLE.finditer(readme):
        if line["row"] is None:
            before = f"{line['heading'].strip('`')}." if line["heading"].startswith("`") else ""
        elif len(cells := line["row"].split("|")) == 5:
            name, _, unit, _, meaning = map(str.strip, cells)
            text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", meaning)
            found[before + name.strip("`")] = f"{text} Unit: {unit}." if unit else text
    return found
