"""The drafts for repmgrd on the database hosts."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import yaml

from repmgr_hooks.checks.sshd import KEYS, SSHD
from repmgr_hooks.checks.users import User
from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import UsageError
from repmgr_hooks.forward import settings
from repmgr_hooks.forward.settings import Gateway
from repmgr_hooks.repmgr_conf import read
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.setup import access, database_host
from repmgr_hooks.setup.database_host import FILES, UNIT, drafted, of_gateway
from repmgr_hooks.setup.draft import Move, _not_installable
from repmgr_hooks.setup.render import CONFIGURATION, TMPFILES
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

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


def test_keys_that_a_gateway_has_stay() -> None:
    known = {1: Identity("db1", "", ""), 2: Identity("db2", "", "")}
    there = of_gateway(NODES, known, SHIPPED)[KEYS].replace("KEY-OF-db2", "ssh-ed25519 AAAA postgres@db2")
    lines = of_gateway({**NODES, 3: Node("10.0.0.13")}, {**known, 3: Identity("db3", "", "")}, SHIPPED, there)[KEYS]
    assert [line.partition('" ')[2] for line in lines.splitlines() if line.startswith("restrict")] == [
        "KEY-OF-db1",
        "ssh-ed25519 AAAA postgres@db2",
        "KEY-OF-db3",
    ]


def test_what_a_package_has_is_not_drafted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_host, "packaged", lambda place: tmp_path / Path(place).name)
    (tmp_path / Path(UNIT).name).write_text((SHIPPED / "systemd" / Path(UNIT).name).read_text())
    (tmp_path / Path(TMPFILES).name).write_text("a gateway's\n")
    assert set(drafted(["10.0.0.20"], "main", SHIPPED, [], POSTGRES)) == {CONFIGURATION, TMPFILES}


class Accounts(FakeHost):
    """Programs are noted, and said to have done their work."""

    def run(self, program: Program, limit: float) -> str:
        self.ran.append(program)
        return "ssh-ed25519 AAAA+/= postgres@db1\n" if "-y" in program.argv else ""


def test_the_account_of_the_hosts() -> None:
    host = Accounts()
    assert list(access.account("root", "nosuchgroup", host)) == ["ok        account root"]
    assert host.ran == []
    said = list(access.account("nosuchaccount", "nosuchgroup", host))
    assert said == ["made      group nosuchgroup", "made      account nosuchaccount"]
    assert [program.argv[0] for program in host.ran] == ["groupadd", "useradd"], "what is cut off leaves no half of it"
    assert host.ran[1].argv[-3:] == ("--password", "*", "nosuchaccount"), "sshd lets nobody in to a locked account"
    assert list(access.account("nosuchaccount", "root", Accounts())) == ["made      account nosuchaccount"]


def test_a_key_is_made_once_and_by_its_user(tmp_path: Path) -> None:
    command = ("ssh", "-T", "-i", str(tmp_path / "key"), "x@10.0.0.20")
    paths = access.identity_files({"a": Gateway(command), "b": Gateway((*command[:-1], "x@10.0.0.21"))})
    assert paths == [str(tmp_path / "key")]
    assert access.identity_files({"a": Gateway(("/usr/local/bin/hand-over",))}) == []
    host = Accounts()
    assert list(access.keys(paths, "postgres", host)) == [f"made      {tmp_path}/key"]
    assert host.ran[0].argv[:5] == ("runuser", "-u", "postgres", "--", "ssh-keygen")
    (tmp_path / "key").touch()
    assert list(access.keys(paths, "postgres", host)) == [f"ok        {tmp_path}/key"]
    assert len(host.ran) == 1


def test_the_command_for_the_gateway_writes_one_hosts_key(tmp_path: Path) -> None:
    place, names = tmp_path / "authorized_keys", ("db1", "db10", "db-1", "db.1")
    known = {number: Identity(name, "", "") for number, name in enumerate(names)}
    before = of_gateway({number: Node(f"10.0.0.{number + 1}") for number in known}, known, SHIPPED)[KEYS]
    for name in ("db1", "db.1"):
        wanted = before.replace(f"KEY-OF-{name}\n", "ssh-ed25519 AAAA+/=\n")
        for text in (before, before.replace(f"KEY-OF-{name}\n", "ssh-rsa BBBB an older one\n")):
            place.write_text(text)
            command = access.to_type_on_gateway("/k", "postgres", name, str(place), Accounts())
            subprocess.run(["sh", "-c", command], check=True, timeout=60)
            assert place.read_text() == wanted


@pytest.mark.parametrize("shown", ["", "ssh-ed25519 A|e id|\n", "no key\nssh-ed25519 AAAA\n", "ssh-x $(id)\n"])
def test_what_is_no_key_is_not_shown(shown: str) -> None:
    host = Accounts()
    host.run = lambda program, limit: shown  # type: ignore[method-assign]
    with pytest.raises(UsageError, match="is not the key"):
        access.to_type_on_gateway("/k", "postgres", "db1", "/d", host)
