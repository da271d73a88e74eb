"""The JSON schema refuses no file that the loader takes; and what it cannot say is written down here."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import main as cli
from repmgr_hooks.errors import UsageError
from repmgr_hooks.handlers import Installed, command
from repmgr_hooks.settings.document import Document
from repmgr_hooks.settings.json_schema import NUMBER_AS_KEY
from repmgr_hooks.settings.schema import NotEmpty, Range
from tests import readme
from tests.build.schema import SHIPPED, text
from tests.options import all_options
from tests.unit.config.test_config import GOOD
from tests.unit.test_fuzz import GOOD as EVERYTHING
from tests.unit.test_fuzz import places, written

jsonschema = pytest.importorskip("jsonschema")

SCHEMA: dict[str, Any] = json.loads(SHIPPED.read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker(["ipv4", "ipv6"]))

CANNOT_SAY = (
    # Cross references, and what several options say together.
    r"the gateway has no port",
    r"needs the section 'barman'",
    r"is already that of cluster|appears twice|must be two chains",
    r"mixes IPv4 and IPv6|must be of the same kind|is a node's|is node \d's",
    r"all are witnesses|'shell' is of no use",
    r"'initial_delay' \(\d+ s\) must not be above|must be less than 'start_timeout'",
    r"asks for nothing|needs 'stream: true'|needs 'stream|'state: .*' goes with|'max_retained_wal' goes with",
    r"slot \w+ of standbys cannot be both",
    r"the cluster has no node|nobody receives it",
    r"must have one of 'mail', 'webhook' and 'exec'|go with 'mail'|there is no receiver under 'alerts'",
    r"'models' has",
    # What takes a program to judge: addresses, URLs, ports in a string, and the options of the libpq that is there.
    r"must be an address that a host can have|must be an IP address|must be spelt",
    r"'webhook' must be a URL|'smtp_relay' names an invalid port",
    r"postgres\.[^:]*: (unknown option|libpq: |must be a whole number|must be an absolute path|must not be set here)",
    r"'all' are all servers",
    # JSON's own: a key is always a string, 1.0 is a whole number, and a control character is one like others.
    r"nodes\.\S*: must be (a whole number|between)|number; got '2\.0'|and 3600; got '2\.0'",
    r"holds a control character",
)
"""Why the loader refuses files that the schema takes."""
ODD: tuple[Any, ...] = (None, True, -1, 2.0, "name", "x y\x1b", ["x"], {"x": 1})
CROSS: tuple[tuple[tuple[Any, ...], Any], ...] = (
    (("retry", "initial_delay"), 500),
    (("alerts", 0, "smtp_relay"), "relay:99999"),
    (("alerts", 1, "webhook"), "ftp://example.com"),
    (("clusters", "main", "barman", "server"), "all"),
    (("clusters", "main", "nodes", 3, "shell"), ["ssh", "db3"]),
    (("clusters", "main", "nodes", 1, "host"), "127.0.0.1"),
    (("clusters", "main", "gateway", "address"), "fd00::20"),
    (("clusters", "main", "gateway", "ports", "app"), 54321),
    (("clusters", "main", "routes", 0, "do", 1, "slot"), {"on": "standbys"}),
)
"""What each type takes, and no cluster can mean."""


def as_json(value: Any) -> Any:
    """What an editor makes of a YAML file: a key is a string."""
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list) else value


def refusals(path: Path, tree: Any) -> tuple[str, str]:
    """What the loader says, and what the schema; empty if it takes the file."""
    path.write_text(written(tree))
    try:
        config.load(path, here=False)
        said = ""
    except UsageError as refused:
        said = str(refused)
    wrong = next(VALIDATOR.iter_errors(as_json(tree)), None)
    return said, str(wrong.message) if wrong else ""


def starting_point() -> dict[str, Any]:
    """A good file with every option; ``state_dir`` has a line of its own."""
    tree = copy.deepcopy(EVERYTHING)
    del tree["state_dir"], tree["clusters"]["other"]
    main = tree["clusters"]["main"]
    main |= {"probe": {"user": "app", "shell": ["ssh", "app"]}, "unknown": {"close": ["app"], "after": 60}}
    main |= {"system_identifier": "7400000000000000001", "repmgrd_timeout": 10}
    main["gateway"] |= {"snat_address": "masquerade", "backend": "nftables", "reset_clients": False}
    main["routes"][0]["do"] += [
        {"command": {"run": ["/usr/local/bin/page"], "timeout": 5}, "when": {"node": [1], "role": ["primary"]}},
        {"barman": {"stream": True, "repair": True, "models": {1: "main-db1", 2: "main-db2"}}},
        {"notify": None, "when": {"success": True, "primary": "known"}},
    ]
    return tree


def mutated() -> Iterator[tuple[str, Any]]:
    """Each option in turn: taken out, replaced by what is odd, or with an unknown one beside it."""
    for number in range(len(list(places(starting_point())))):
        for how, value in [("removed", None), ("added", 1), *(("replaced", odd) for odd in ODD)]:
            tree = starting_point()
            here, key = list(places(tree))[number]
            if how == "added" and isinstance(here, list):
                continue
            if how == "removed":
                del here[key]
            else:
                here["zzz" if how == "added" else key] = value
            yield f"{key} {how} {value!r}", tree


def crossed() -> Iterator[tuple[str, Any]]:
    """What only several options show together."""
    for path, value in CROSS:
        tree = here = starting_point()
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value
        yield f"{path} {value!r}", tree


def test_the_file_is_current() -> None:
    """Else: python -m tests.build.schema"""
    assert text() == SHIPPED.read_text()


def test_it_is_a_schema_and_takes_what_is_good(tmp_path: Path) -> None:
    VALIDATOR.check_schema(SCHEMA)
    commented = (
        GOOD.replace("# alerts:", "alerts:").replace("#   - {", "  - {").replace("    # unknown:", "    unknown:")
    )
    for good in (GOOD, commented, readme.block("alerts:")):
        assert list(VALIDATOR.iter_errors(as_json(Document(good).data))) == []
    assert refusals(tmp_path / "config.yaml", starting_point()) == ("", "")


def test_schema_and_loader_agree(tmp_path: Path) -> None:
    tried, refused_by_both, used = 0, 0, set()
    unexplained, wrongly = [], []
    for what, tree in (*mutated(), *crossed()):
        tried += 1
        loader, schema = refusals(tmp_path / "config.yaml", tree)
        refused_by_both += bool(loader and schema)
        if schema and not loader:
            wrongly.append(f"{what}: {schema}")
        if loader and not schema:
            for line in (line for line in loader.splitlines()[1:] if "HINT:" not in line):
                reasons = {reason for reason in CANNOT_SAY if re.search(reason, line)}
                used |= reasons
                unexplained += [] if reasons else [f"{what}: {line}"]
    assert wrongly == []
    assert unexplained == []
    assert sorted(set(CANNOT_SAY) - used) == []
    assert tried > 800 and refused_by_both > tried / 2


def options_of(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each option that the schema has, as the table names it."""
    extra = schema.get("additionalProperties")
    inner = {f"{path}.{name}".lstrip("."): item for name, item in schema.get("properties", {}).items()}
    if isinstance(extra, dict):
        numbers = schema["propertyNames"].get("pattern") == NUMBER_AS_KEY
        rest = "OPTION" if inner else "N" if numbers else "NAME"
        inner[f"{path}.{rest}"] = extra
    for place, item in inner.items():
        if item.get("type") == "array" and "properties" in item["items"]:
            yield from options_of(item["items"], f"{place}[]")
        elif "properties" in item or "additionalProperties" in item:
            yield from options_of(item, place)
        else:
            yield place, item


def test_it_has_every_option_with_what_the_table_says() -> None:
    top = copy.deepcopy(SCHEMA)
    cluster = top["properties"].pop("clusters")["additionalProperties"]
    routes = cluster["properties"].pop("routes")["items"]["properties"]
    actions = routes["do"]["items"]["properties"]
    del actions["when"]
    found = [*options_of(top, ""), *options_of(cluster, "clusters.NAME")]
    found += [each for name, item in actions.items() for each in options_of(item, name)]
    # A database host's file is another one, of two options: it needs no schema.
    of_gateway = [option.path for option in all_options() if not option.path.startswith("forward.")]
    assert sorted(name for name, _ in found) == sorted(of_gateway)
    assert [name for name, item in found if not item.get("description")] == []


class Odd:
    """A check of a plug-in's own, which says nothing in JSON schema."""

    def problem(self, value: object) -> None:
        return None


@dataclasses.dataclass(frozen=True)
class OfAPlugIn:
    path: Annotated[str, NotEmpty(), Odd()]
    retries: Annotated[int, Range(1, 9)] = 3


def test_an_option_of_a_plug_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    plug_in = type("primary_file", (), {**vars(command), "Config": OfAPlugIn, "__doc__": "A file.\n\nMore."})
    found = {"primary_file": Installed("primary_file", plug_in, "package 1.0")}  # type: ignore[arg-type]
    monkeypatch.setattr("repmgr_hooks.cli.setup.plug_ins", lambda here: found)
    assert cli.run(["config-schema"]) == 0
    made = json.loads(capsys.readouterr().out)
    action = made["properties"]["clusters"]["additionalProperties"]["properties"]["routes"]["items"]["properties"]["do"]
    assert action["items"]["properties"]["primary_file"] == {
        "type": "object",
        "properties": {
            "path": {"type": "string", "minLength": 1},
            "retries": {"type": "integer", "default": 3, "minimum": 1, "maximum": 9},
        },
        "additionalProperties": False,
        "required": ["path"],
        "description": "A file.",
    }
    assert {"required": ["primary_file"]} in action["items"]["oneOf"]


def test_the_example_names_the_schema_beside_it() -> None:
    """yaml-language-server takes a path from the file that names it, or an absolute one."""
    (named,) = re.findall(r"^# yaml-language-server: \$schema=(.*)$", GOOD, re.MULTILINE)
    assert (readme.REPOSITORY / "config" / named) == SHIPPED
