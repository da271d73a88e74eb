"""The names of the clusters that are read without YAML are those that YAML reads, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks import config
from repmgr_hooks.config_file import names
from repmgr_hooks.config_file.outline import outline
from repmgr_hooks.errors import UsageError

SHIPPED = Path(__file__).resolve().parents[3] / "config/config.yaml"
LINES = (
    "clusters:",
    "clusters:  # all of them",
    "clusters: {a: {}}",
    "'clusters':",
    "other: 'a",
    "state_dir: /var/lib/x",
    "# a remark",
    "",
    "  main:",
    "  main:  # the first",
    "  second:",
    "  'quoted':",
    "  null:",
    "  yes: {nodes: {}}",
    "  - item",
    "   odd:",
    "    nodes: {}",
    "    text: |",
    "      main:",
    "    anchor: &a",
    "    <<: *a",
    "    more: >-",
    "\tmain:",
    "---",
    "...",
)


@given(st.lists(st.sampled_from(LINES), max_size=10))
def test_what_the_lines_say_is_what_yaml_says(tmp_path_factory: pytest.TempPathFactory, lines: list[str]) -> None:
    text = "\n".join(["state_dir: /var/lib/x", *(line for line in lines if not line.startswith("state_dir"))])
    found = names.plain(text)
    path = tmp_path_factory.getbasetemp() / "names.yaml"
    path.write_text(text)
    try:
        clusters = outline(path).clusters
    except UsageError:
        return  # it is paused all the same: the service goes on with what it has read before
    assert found in (None, clusters)


def test_the_shipped_file_is_read_without_yaml() -> None:
    assert names.plain(SHIPPED.read_text()) == ("main",)


@pytest.mark.parametrize(
    "text",
    [
        "clusters: {main: {}}\n",
        "'clusters':\n  main:\n",
        "clusters:\n  main:\nclusters:\n  other:\n",
        "clusters:\n  main: &main\n    nodes: {}\n",
        "clusters:\n  main:\n  main:\n",
        "clusters:\n    main:\n  other:\n",
        "clusters:\n\tmain:\n",
        "clusters:\r\n  main:\r\n",
        "clusters:\n  null:\n",
        "clusters:\n",
        "clusters:\n  main:\n    nodes: {1: {host: 10.0.0.11}\n}\n  other:\n",
        'clusters:\n  main:\n    text: "a\n"\n  other:\n',
        "state_dir: /x\n",
    ],
)
def test_what_is_not_plain_is_left_to_yaml(text: str) -> None:
    assert names.plain(text) is None


def test_no_configuration_is_loaded_of_which_the_lines_say_something_else(tmp_path: Path) -> None:
    """A scalar in quotes may go on further to the left than YAML allows (PyYAML and libyaml read it)."""
    path = tmp_path / "config.yaml"
    text = SHIPPED.read_text()
    path.write_text(text.replace("passfile: /etc/repmgr-hooks/pgpass", 'krbsrvname: "a\n  other:\n      "'))
    with pytest.raises(UsageError, match="without YAML"):
        config.load(path)


@pytest.mark.parametrize(
    "place",
    [
        "state_dir : /srv/hooks\n",
        "state_dir:\n  /srv/hooks\n",
        "'state_dir': /srv/hooks\n",
        "? state_dir\n: /srv/hooks\n",
        "state_dir: /srv/hooks\nstate_dir: /srv/other\n",
    ],
)
def test_nothing_is_named_of_a_file_whose_state_the_hook_looks_for_elsewhere(tmp_path: Path, place: str) -> None:
    """Else ``pause`` would write into the default directory, and say that a service is paused which goes on."""
    path = tmp_path / "config.yaml"
    path.write_text(f"{place}clusters:\n  main:\n    nodes: {{}}\n")
    with pytest.raises(UsageError, match="state_dir"):
        names.meant(path, None)


def test_where_the_state_is_may_be_said_plainly() -> None:
    clusters = "clusters:\n  main:\n    nodes: {}\n"
    for place in ("state_dir: /srv/hooks\n", "state_dir: /srv/hooks  # a disk of its own\n", "# state_dir : /x\n"):
        assert names.plain(place + clusters) == ("main",)
