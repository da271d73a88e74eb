"""The drafts for repmgrd on the database hosts."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from repmgr_hooks.checks.users import User
from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import UsageError
from repmgr_hooks.forward import settings
from repmgr_hooks.repmgr_conf import read
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.setup.database_host import FILES, KEYS, SSHD, UNIT, drafted, of_gateway
from repmgr_hooks.setup.install import Move, _not_installable
from repmgr_hooks.setup.render import CONFIGURATION, TMPFILES

SHIPPED = Path(__file__).resolve().parents[3]
POSTGRES = User("postgres", 100, 100, (), "/var/lib/postgresql")
NODES = {1: Node("10.0.0.11"), 2: Node("10.0.0.12")}


def test_the_files_of_a_host(tmp_path: Path) -> None:
    conf = tmp_path / "repmgr.conf"
    conf.write_text("node_id=1\n")
    texts = drafted(["10.0.0.21", "10.0.0.22"], "prod", SHIPPED, [read(conf)], POSTGRES)
    assert set(texts) == {*FILES, str(conf)}
    assert "repmgr-hooks event --cluster prod %n" in texts[str(conf)]
    gateways = yaml.safe_load(texts[CONFIGURATION])["forward"]["gateways"]
    assert {name: gateway["command"][-1] for name, gateway in gateways.items()} == {
        "gateway1": "repmgr-hooks@10.0.0.21",
        "gateway2": "repmgr-hooks@10.0.0.22",
    }
    path = tmp_path / "config.yaml"
    path.write_text(texts[CONFIGURATION])
    assert list(settings.load(path).gateways) == ["gateway1", "gateway2"]


def test_another_user_of_repmgrd(tmp_path: Path) -> None:
    texts = drafted(["10.0.0.20"], "main", SHIPPED, [], User("enterprisedb", 1, 1, (), "/opt/edb"))
    assert "User=enterprisedb" in texts[UNIT]
    assert "enterprisedb enterprisedb" in texts[TMPFILES]
    assert "/opt/edb/.ssh/repmgr_hooks" in texts[CONFIGURATION]


@pytest.mark.parametrize("address", ["gateway", "10.0.0.20; reboot", "127.0.0.1", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="--forward-to"):
        drafted([address], "main", SHIPPED, [], POSTGRES)


def test_the_keys_of_a_gateway() -> None:
    known = {1: Identity("pg-a", "", "/etc/repmgr.conf"), 2: Identity('x" ssh-rsa', "", "/etc/repmgr.conf")}
    texts = of_gateway(NODES, known, SHIPPED)
    lines = [line for line in texts[KEYS].splitlines() if not line.startswith("#")]
    assert lines == [
        'restrict,from="10.0.0.11",command="/usr/local/bin/repmgr-hooks receive-event --host pg-a" KEY-OF-pg-a',
        'restrict,from="10.0.0.12",command="/usr/local/bin/repmgr-hooks receive-event --host node2" KEY-OF-node2',
    ], "the name is repmgr's, and may be anything"
    assert texts[SSHD].count("Match User repmgr-hooks") == 1


def test_a_host_with_two_nodes_has_one_key() -> None:
    nodes = {1: Node("10.0.0.12"), 2: Node("10.0.0.11"), 3: Node("10.0.0.12", port=5433)}
    lines = of_gateway(nodes, {}, SHIPPED)[KEYS].splitlines()
    assert [line.rpartition(" ")[2] for line in lines if not line.startswith("#")] == ["KEY-OF-node1", "KEY-OF-node2"]


def test_keys_that_are_missing_are_not_installed(tmp_path: Path) -> None:
    draft = tmp_path / "authorized_keys"
    for text, wrong in ((of_gateway(NODES, {}, SHIPPED)[KEYS], 1), ('restrict,command="x" ssh-ed25519 AAAA\n', 0)):
        draft.write_text(text)
        found = [str(each) for each in _not_installable([Move(draft, Path(KEYS))], True, False)]
        assert len([each for each in found if "lacks the keys" in each]) == wrong
