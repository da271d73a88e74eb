"""What init asks, what it writes, and what it refuses to put in place. The real thing is in endtoend/test_init.py."""

from __future__ import annotations

import configparser
import os
import pwd
import re
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cli import setup
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.repmgr_conf import RepmgrConf, read
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.setup import discover, draft, install, render
from repmgr_hooks.setup.discover import Found
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import FakeHost

REPOSITORY = Path(__file__).resolve().parents[3]
TEMPLATE = (REPOSITORY / "config/config.yaml").read_text()
FOUND = Found(
    {1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, 5432, "repmgr", "repmgr", "main_backup", "barman", "10.0.0.20"
)
NODES: Rows = [(1, "primary", "host=10.0.0.11 user=repmgr"), (2, "standby", "host=10.0.0.12 user=repmgr")]
SERVER = "Server main_backup:\n\tconninfo: host=10.0.0.20 port=54321 user=barman\n\tslot_name: barman\n"
CONF = RepmgrConf(Path("/etc/repmgr.conf"), {"node_id": "1", "conninfo": "host=10.0.0.11 user=repmgr dbname=repmgr"})


class Asked(FakeHost):
    """Nodes and a Barman that answer what a test says."""

    def __init__(self, nodes: Rows = NODES, servers: str = '{"main_backup": "Main"}', server: str = SERVER) -> None:
        super().__init__()
        self.answers = nodes
        self.programs = {"barman": lambda program: servers if "list-servers" in program.argv else server}

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return self.answers

    def run(self, program: Program, limit: float) -> str:
        return self.programs[program.argv[0]](program)


def surveyed(host: FakeHost, server: str | None = None, gateway: str | None = "10.0.0.20") -> Found:
    return discover.survey(CONF, server, gateway, host)


def test_what_there_is() -> None:
    assert surveyed(Asked()) == FOUND


def test_barman_on_another_host() -> None:
    class There(Asked):
        def run(self, program: Program, limit: float) -> str:
            assert program.argv[:7] == (*ssh, "barman@10.0.0.40", "barman")
            return self.programs["barman"](program)

    ssh = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
    found = discover.survey(CONF, None, "10.0.0.20", There(), "barman@10.0.0.40")
    assert not found.cleans_up_locks, "its barman.conf is not here"
    text = render.configuration(TEMPLATE, found, "main")
    command = f"[{', '.join(ssh)}, barman@10.0.0.40, barman]"
    assert f"    barman: {{server: main_backup, slot_name: barman, command: {command}}}\n" in text
    here = Asked()
    here.addresses = {"10.0.0.40"}
    asked_here = discover.survey(CONF, None, "10.0.0.20", here, "barman@10.0.0.40")
    assert asked_here.barman == found.barman, "as the other gateway has it"
    for wrong in ("-oProxyCommand=id", "a b", "x;id", "$(id)"):
        with pytest.raises(UsageError, match="--barman-host"):
            discover.survey(CONF, None, "10.0.0.20", There(), wrong)


def test_barmans_host_has_a_name() -> None:
    """Each name was refused with ValueError: the kernel is asked for the way to an address."""
    asked: list[str] = []

    class Named(Asked):
        def run(self, program: Program, limit: float) -> str:
            asked.append(program.argv[0])
            return self.programs["barman"](program)

    host = Named()
    host.addresses = {"127.0.0.1"}
    for name, program in (("barman@backup.invalid", "ssh"), ("barman@localhost", "barman")):
        asked.clear()
        assert discover.survey(CONF, None, "10.0.0.20", host, name).barman[-2] == name
        assert set(asked) == {program}


@pytest.mark.parametrize(
    ("host", "wanted"),
    [
        (Asked([*NODES, (4, "witness", "host=10.0.0.14")]), {"nodes": {**FOUND.nodes, 4: Node("10.0.0.14", True)}}),
        (Asked([(1, "primary", "host=localhost port=5433")]), {"nodes": {1: Node("127.0.0.1")}, "port": 5433}),
        (
            Asked(
                [
                    (1, "primary", "host=10.0.0.1"),
                    (2, "standby", "host=10.0.0.1 port=5433"),
                    (3, "standby", "host=10.0.0.3"),
                ]
            ),
            {"nodes": {1: Node("10.0.0.1"), 2: Node("10.0.0.1", port=5433), 3: Node("10.0.0.3")}, "port": 5432},
        ),
        (Asked([(1, "primary", "host=a.invalid hostaddr=10.0.0.1")]), {"nodes": {1: Node("10.0.0.1")}}),
        (Asked([(1, "primary", "postgresql://repmgr@10.0.0.1:5433/repmgr")]), {"nodes": {1: Node("10.0.0.1")}}),
        (Asked([(1, "primary", "postgresql://repmgr@[fd00::1]/repmgr")]), {"nodes": {1: Node("fd00::1")}}),
        (Asked(server=SERVER.replace("host=10.0.0.20", "host=a.invalid hostaddr=10.0.0.20")), {"barman_port": 54321}),
        (Asked(server=SERVER.replace("54321", "6000")), {"barman_port": 6000}),
        (Asked(server=SERVER.replace("10.0.0.20", "10.0.0.11")), {"barman_port": 54321}),
        (Asked(server=SERVER.replace("slot_name: barman", "slot_name: None")), {"slot": "barman"}),
        (Asked(server=SERVER.replace("slot_name: barman", "slot_name: b_main")), {"slot": "b_main"}),
    ],
)
def test_other_clusters(host: FakeHost, wanted: Mapping[str, object]) -> None:
    found = surveyed(host)
    assert {name: getattr(found, name) for name in wanted} == wanted


@pytest.mark.parametrize(
    ("host", "said"),
    [
        (Asked(servers="{}"), "not one server but 0 (none)"),
        (Asked(servers='{"a": "", "b": ""}'), "not one server but 2 (a, b)"),
        (Asked(servers="please run barman as 'barman' user"), "cannot ask Barman for its servers"),
        (Asked([(1, "primary", "user=repmgr")]), "the conninfo of node 1 names no host"),
        (Asked([(1, "primary", "host=/run/postgresql")]), "the conninfo of node 1 names no host"),
        (Asked([(1, "primary", "host=a.invalid")]), "the host 'a.invalid' of node 1 cannot be looked up"),
        (Asked([(1, "primary", "nonsense")]), "repmgr.nodes: the conninfo of node 1 is not a connection string"),
        (Asked([(1, "primary", "hots=a")]), 'repmgr.nodes: the conninfo of node 1: invalid connection option "hots"'),
        (Asked([*NODES, (3, "standby", "host=localhost")]), "'localhost' of node 3 is 127.0.0.1 here, where no other"),
        (Asked([(1, "primary", "host=a,b port=1,2")]), "port=1,2 is not one port"),
    ],
)
def test_what_cannot_be_served(host: FakeHost, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        surveyed(host)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        (["::1", "127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
        (["127.0.1.1", "10.0.0.11"], "10.0.0.11"),
        (["fd00::11", "127.0.1.1"], "fd00::11"),
        (["fd00::11", "10.0.0.11"], "10.0.0.11"),
    ],
)
def test_the_address_of_a_name(monkeypatch: pytest.MonkeyPatch, hosts: list[str], found: str) -> None:
    """Debian's /etc/hosts has ``::1 localhost``, and 127.0.1.1 for the host's own name."""
    answer = [(0, 0, 0, "", (host, 0)) for host in hosts]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer)
    assert discover.address({"host": "db1"}, 1, several=False) == found
    if found in ("127.0.0.1", "::1"):
        with pytest.raises(UsageError, match="where no other host reaches it"):
            discover.address({"host": "db1"}, 1, several=True)
    else:
        assert discover.address({"host": "db1"}, 1, several=True) == found


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ({"host": "db1.example.com"}, "db1.example.com"),
        ({"host": "db1", "hostaddr": "10.0.0.11"}, "db1"),
        ({"host": "db1", "hostaddr": "10.0.0.99"}, ""),
        ({"host": "10.0.0.11"}, ""),
        ({"host": "db_1"}, ""),
        ({"hostaddr": "10.0.0.11"}, ""),
    ],
)
def test_the_name_of_a_node(monkeypatch: pytest.MonkeyPatch, described: dict[str, object], name: str) -> None:
    """It is kept where it leads to the node: elsewhere it would be a warning from the first day on."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [(0, 0, 0, "", ("10.0.0.11", 0))])
    node = Node(discover.address(described, 1, several=True))
    assert discover.named(node, described) == replace(node, name=name)


def test_a_conninfo_as_uri_gets_its_passfile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pgpass").write_text("*:*:*:repmgr:x\n")
    monkeypatch.setattr(setup, "PASSFILE", str(tmp_path / "pgpass"))
    conf = replace(CONF, settings={"node_id": "1", "conninfo": "postgresql://repmgr@10.0.0.11:5433/repmgr"})
    words = discover.words_of(setup.with_passfile(conf.settings["conninfo"]), "here")
    assert words == {
        "user": "repmgr",
        "host": "10.0.0.11",
        "port": "5433",
        "dbname": "repmgr",
        "passfile": str(tmp_path / "pgpass"),
    }
    assert conf.host == "10.0.0.11"
    assert replace(conf, settings={"conninfo": "host=db1 hostaddr=10.0.0.12"}).host == "10.0.0.12"


def test_what_a_conninfo_says_of_its_password_is_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pgpass").write_text("*:*:*:repmgr:x\n")
    monkeypatch.setattr(setup, "PASSFILE", str(tmp_path / "pgpass"))
    for said in ("passfile=/etc/repmgr/pgpass", "password=secret", "postgresql://repmgr@db1/?passfile=/root/p"):
        assert setup.with_passfile(said) == said


BARMAN_CONF = (REPOSITORY / "config/barman.conf").read_text()


@pytest.mark.parametrize(
    "text",
    [
        BARMAN_CONF,
        "[barman]\nbarman_user = barman\n",
        "[barman]\nbarman_user = barman\n[main]\nslot_name = barman\n",
        "; mine\n[barman]\nlock_directory_cleanup = true\n\n[main]\nactive = true\n",
        "[main]\nactive = true\n\n[barman]\nlock_directory_cleanup=on",
    ],
)
def test_a_barman_that_cleans_up_its_locks_is_told_not_to(tmp_path: Path, text: str) -> None:
    (tmp_path / "barman.conf").write_text(text)
    newer = replace(FOUND, cleans_up_locks=True)

    def drafted(found: Found) -> str | None:
        return render.drafted(found, "main", REPOSITORY, [], tmp_path / "barman.conf").get(f"{tmp_path}/barman.conf")

    assert drafted(FOUND) is None, "Barman 3.4 warns of the option on every command"
    there = configparser.ConfigParser()
    there.read_string(drafted(newer) or "")
    assert there["barman"]["lock_directory_cleanup"] == "false"
    del there["barman"]["lock_directory_cleanup"]
    kept = configparser.ConfigParser()
    kept.read_string(text)
    kept.remove_option("barman", "lock_directory_cleanup")
    assert kept == there
    (tmp_path / "barman.conf").write_text(drafted(newer) or "")
    assert drafted(newer) is None, "once it is there, there is nothing to write"


def test_init_hears_barmans_version() -> None:
    assert not surveyed(Asked(server=SERVER)).cleans_up_locks
    assert surveyed(Asked(server=f"{SERVER}\n\tcluster: main_backup\n")).cleans_up_locks, "3.10 and newer shows it"


def test_the_named_server_of_several() -> None:
    assert surveyed(Asked(servers='{"a": "", "main_backup": ""}'), server="main_backup") == FOUND


def test_an_address_that_leads_to_the_nodes() -> None:
    assert discover.gateway_address(["10.255.255.1"], ["127.0.0.1"]) == "127.0.0.1"
    assert not discover.is_ours("127.0.0.1"), "nobody reaches a gateway there"
    assert not discover.is_ours("backup.example.com")


SECURE = "host=10.0.0.11 user=repmgr dbname=repmgr connect_timeout=2 sslmode=verify-full sslrootcert='/etc/my ca.pem'"


def test_libpqs_options_of_repmgrs_conninfo_are_taken_over(tmp_path: Path) -> None:
    """They were dropped without a word, and our password could go out in clear where repmgr's could not."""
    asked = replace(CONF, settings={**CONF.settings, "conninfo": SECURE})
    found = discover.survey(asked, None, "10.0.0.20", Asked())
    assert (found.libpq, found.left_out) == ({"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem"}, {})
    path = tmp_path / "config.yaml"
    path.write_text(render.configuration(TEMPLATE, found, "main"))
    assert (
        "sslmode=verify-full sslrootcert='/etc/my ca.pem'" in config.load(path).clusters["main"].cluster.conninfos()[1]
    )


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("password=hunter2", "must not be set here"),
        ("options='-c statement_timeout=5'", "is what repmgr_hooks sets itself"),
        ("application_name=db1", "is what repmgr_hooks sets itself"),
        ("target_session_attrs=any", "every node is asked"),
        ("sslkey=db1.key", "must be an absolute path"),
    ],
)
def test_what_cannot_be_taken_over_is_named_without_its_value(word: str, why: str) -> None:
    own = discover.words_of(f"{SECURE} {word}", "here")
    taken, left_out = discover.taken_over(own)
    name = word.partition("=")[0]
    assert taken == {"sslmode": "verify-full", "sslrootcert": "/etc/my ca.pem"}
    assert list(left_out) == [name]
    assert str(left_out[name]).startswith(why)
    assert "hunter2" not in str(left_out)


@pytest.mark.parametrize("gateway", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "::", "fe80::1%eth0", "FD00::20", "a\nb"])
def test_a_gateway_that_no_host_can_have(gateway: str) -> None:
    with pytest.raises(UsageError, match="--gateway must be"):
        surveyed(Asked(), gateway=gateway)


@pytest.mark.parametrize("server", ["all", "-x", "a b"])
def test_a_server_that_is_not_one(server: str) -> None:
    with pytest.raises(UsageError, match="is not the name of one Barman server"):
        surveyed(Asked(), server=server)


@pytest.mark.parametrize("name", ["x; reboot", "a'b", "a\nb", "-c"])
def test_a_cluster_whose_name_repmgr_would_hand_to_a_shell(name: str) -> None:
    arguments = parser().parse_args(["init", f"--cluster={name}"])
    with pytest.raises(UsageError, match="is not a plain name"):
        setup.draft(arguments)


def test_no_repmgr_conf() -> None:
    with pytest.raises(UsageError, match="^no repmgr.conf here has node_id and conninfo"):
        discover.chosen_conf(None, [RepmgrConf(Path("/x"), {})])
    with pytest.raises(UsageError, match="^/x has no node_id and conninfo"):
        discover.chosen_conf(Path("/x"), [RepmgrConf(Path("/x"), {})])


def test_a_repmgr_conf_that_says_nonsense(tmp_path: Path) -> None:
    conf = RepmgrConf(Path("/x"), {"node_id": "1", "conninfo": "nonsense"})
    with pytest.raises(UsageError, match="^/x: conninfo is not a connection string$"):
        discover.chosen_conf(None, [conf])
    with pytest.raises(UsageError, match="cannot be read as a repmgr.conf: .*No such file"):
        setup.confs(tmp_path / "absent")


def test_a_gateway_that_is_no_address() -> None:
    with pytest.raises(UsageError, match="--gateway must be an IP address .*got 'shop.example.com'"):
        surveyed(Asked(), gateway="shop.example.com")


# -- the draft ---------------------------------------------------------------------------------------------------------


def test_the_articles_cluster_is_the_shipped_example() -> None:
    """But for the application's role, which nobody here can know."""
    drafted = render.configuration(TEMPLATE, FOUND, "main")
    assert drafted == TEMPLATE.replace("probe: {user: app, dbname: app,", "probe: {user: repmgr, dbname: repmgr,")


def test_the_draft_names_the_schema_that_is_installed() -> None:
    """The file will stand in /etc, the schema beside the program."""
    text = render.drafted(FOUND, "main", REPOSITORY, [])[render.CONFIGURATION]
    assert f"\n# yaml-language-server: $schema={REPOSITORY}/config/config.schema.json\n" in text


def test_another_cluster(tmp_path: Path) -> None:
    six = Found(
        {1: Node("fd00::1", name="no"), 7: Node("fd00::7", name="db7.example"), 9: Node("fd00::9", True)},
        *(5433, "rep", "rep_db", "shop", "b_shop", "fd00::20", 6000),
    )
    file = tmp_path / "config.yaml"
    file.write_text(render.configuration(TEMPLATE, six, "shop"))
    cluster = config.load(file).clusters["shop"].cluster
    assert (cluster.nodes, cluster.gateway.address) == (six.nodes, "fd00::20")
    assert cluster.gateway.ports == {"barman": 6000, "app": 6001}
    assert (cluster.postgres.port, cluster.postgres.user, cluster.postgres.dbname) == (5433, "rep", "rep_db")
    assert cluster.barman
    assert (cluster.barman.server, cluster.barman.slot_name) == ("shop", "b_shop")


@pytest.mark.parametrize(
    ("programs", "backend"),
    [
        (["iptables-save", "nft"], "iptables"),
        (["iptables-save"], "iptables"),
        (["nft"], "nftables"),
        ([], "iptables"),
    ],
)
def test_what_can_write_the_gateways_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], backend: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in programs:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    found = surveyed(Asked())
    assert found.backend == backend
    file = tmp_path / "config.yaml"
    file.write_text(render.configuration(TEMPLATE, found, "main"))
    assert config.load(file).clusters["main"].cluster.gateway.backend == backend


def test_forwarding_of_the_gateways_family() -> None:
    assert "\nnet.ipv4.ip_forward = 1\n" in render.drafted(FOUND, "main", REPOSITORY, [])[render.SYSCTL]
    six = render.drafted(replace(FOUND, gateway="fd00::20"), "main", REPOSITORY, [])[render.SYSCTL]
    assert "\nnet.ipv6.conf.all.forwarding = 1\n" in six
    assert "ip_forward" not in six


OURS = 'event_notification_command=\'/usr/local/bin/repmgr-hooks event --cluster main %n %e %s "%p" "%t"\''


@pytest.mark.parametrize("before", ["node_id=1\n", "node_id=1", "node_id=1\nevent_notification_command='old.sh %n'\n"])
def test_the_line_of_repmgr(before: str, tmp_path: Path) -> None:
    after = render.notified(before, "main")
    assert after.endswith(f"\n{OURS}\n")
    assert after.startswith("node_id=1\n")
    assert ("# before repmgr_hooks: event_notification_command='old.sh %n'\n" in after) is ("old.sh" in before)
    assert render.notified(after, "main") == after
    (tmp_path / "repmgr.conf").write_text(after)
    assert read(tmp_path / "repmgr.conf").line in OURS


@pytest.mark.parametrize(
    ("before", "shown"),
    [
        ("node_id=7\nconninfo='host=192.0.2.7 user=rep'\n", True),
        ("node_id=7\nbarman_host='backup'\n", False),
        (f"node_id=7\n{OURS}\n", False),
    ],
)
def test_a_repmgr_conf_that_is_changed_shows_how_barman_clones(tmp_path: Path, before: str, shown: bool) -> None:
    file = tmp_path / "repmgr.conf"
    file.write_text(before)
    found = replace(FOUND, nodes={7: Node("192.0.2.7")}, gateway="192.0.2.20", server="shop")
    text = render.drafted(found, "main", REPOSITORY, [read(file)])[str(file)]
    file.write_text(text)
    assert [name for name in read(file).settings if "barman" in name] == ["barman_host"] * ("backup" in before)
    lines = [
        "# barman_host='barman@192.0.2.20'",
        "# pg_backupapi_host='192.0.2.20'",
        "# pg_backupapi_node_name='shop'",
        "# pg_backupapi_remote_ssh_command='ssh postgres@192.0.2.7'",
    ]
    assert [line in text.splitlines() for line in lines] == [shown] * 4


def test_an_ipv6_address_of_barmans_api_has_brackets() -> None:
    text = render.cloned("", (REPOSITORY / render.EXAMPLE).read_text(), replace(FOUND, gateway="fd00::20"), "fd00::1")
    assert "# pg_backupapi_host='[fd00::20]'\n" in text


def test_the_shipped_repmgr_conf_needs_nothing() -> None:
    text = (REPOSITORY / "config/repmgr-db1.conf").read_text()
    assert render.notified(text, "main") == text


def test_repmgrd_that_runs_as_another_user_than_postgres() -> None:
    texts = render.drafted(FOUND, "main", REPOSITORY, [], repmgrd="enterprisedb")
    assert "\nenterprisedb ALL = (root)" in texts[render.SUDOERS]
    assert "/spool 2770 barman enterprisedb -" in texts[render.TMPFILES]
    assert sum("\nSupplementaryGroups=enterprisedb\n" in texts[unit] for unit in render.UNITS) == 2
    assert not any(re.search(r"\bpostgres\b", texts[place]) for place in (render.TMPFILES, *render.UNITS))
    assert "\n    postgres: {" in texts[render.CONFIGURATION], "which is no user"


# -- into place --------------------------------------------------------------------------------------------------------


def test_a_changed_draft_is_kept(tmp_path: Path) -> None:
    texts = {"/etc/a": "1", "/etc/b": "2"}
    assert [line.split()[0] for line in draft.write(tmp_path, texts)] == ["written", "written"]
    (tmp_path / "etc/b").write_text("mine")
    said = list(draft.write(tmp_path, texts))
    assert [line.split()[0] for line in said] == ["ok", "CHANGED"]
    assert (tmp_path / "etc/b").read_text() == "mine"


def test_only_root_reads_what_may_hold_a_password(tmp_path: Path) -> None:
    """A repmgr.conf: its conninfo may have one. Our own files have none."""
    list(draft.write(tmp_path, {"/etc/repmgr/db1.conf": "conninfo", render.CONFIGURATION: "", render.SUDOERS: ""}))
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {"db1.conf": 0o600, "config.yaml": 0o644, "repmgr-hooks": 0o440}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("how", ["its own", "a link", "a link above", "a link in it", "a file in it", "writable"])
def test_a_draft_that_another_user_can_change(how: str) -> None:
    """Root would write, and later install, what that user wants."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as roots:
        victim, above = Path(roots), Path(name)
        directory = above / "draft"
        if how == "its own":
            directory.mkdir()
            os.chown(directory, 34, 35)
        elif how.startswith("a link") and how != "a link in it":
            link = directory if how == "a link" else above / "link"
            link.symlink_to(victim)
            os.lchown(link, 34, 35)
            directory = link if how == "a link" else link / "draft"
        elif how == "a link in it":
            (directory / "etc").mkdir(parents=True)
            (directory / "etc/repmgr").symlink_to(victim)
            os.lchown(directory / "etc/repmgr", 34, 35)
        elif how == "a file in it":
            (directory / "etc/repmgr").mkdir(parents=True)
            (directory / "etc/repmgr/db1.conf").touch()
            os.chown(directory / "etc/repmgr/db1.conf", 34, 35)
        else:
            directory.mkdir()
            directory.chmod(0o777)
        with pytest.raises(UsageError, match="belongs to another user|can be written by others") as error:
            list(draft.write(directory, {"/etc/repmgr/db1.conf": "conninfo"}))
        assert error.value.hint.endswith(", or name another DIRECTORY")
        assert list(victim.iterdir()) == []
        if how in ("its own", "writable", "a link"):
            with pytest.raises(UsageError, match="is refused"):
                draft.examine(directory, [], True, FakeHost())


def confs_at(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Path:
    """Let repmgr.conf be looked for there, where a link leads to one that stands elsewhere."""
    monkeypatch.setattr(repmgr_files, "PLACES", (f"{directory}/etc/*.conf".lstrip("/"),))
    real = directory / "srv/node1.conf"
    for place in (directory / "etc", real.parent):
        place.mkdir()
    real.write_bytes("# Rechner in K\u00f6ln\nnode_id=1\n".encode("latin-1"))
    (directory / "etc/db1.conf").symlink_to(real)
    return real


def test_a_link_of_repmgr_conf_stays_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A copy in its place was not what repmgrd read; and what is no UTF-8 stays what it is."""
    real, drafts = confs_at(monkeypatch, tmp_path), tmp_path / "draft"
    assert repmgr_files.files_here() == [real]
    assert setup.confs(tmp_path / "etc/db1.conf") == [read(real)]
    texts = render.drafted(FOUND, "main", REPOSITORY, setup.confs(None))
    list(draft.write(drafts, {str(real): texts[str(real)]}))
    (move,) = draft.moves_of(drafts)
    assert (move.place, move.replaces) == (real, False)
    install.put(move)
    assert real.read_bytes().startswith(b"# Rechner in K\xf6ln\nnode_id=1\n")
    assert "event_notification_command" in read(real).settings
    assert (tmp_path / "etc/db1.conf").is_symlink()


@pytest.mark.parametrize(
    ("place", "hint"), [("config.yaml", "rm {place}"), ("http.service", "or, to keep it: rm {file}")]
)
def test_a_link_is_not_replaced(monkeypatch: pytest.MonkeyPatch, made: Path, place: str, hint: str) -> None:
    """Such as a unit that is masked (systemctl mask), or a configuration that lies in a repository."""
    link, file = made / "there" / place, made / "file"
    link.parent.mkdir()
    link.symlink_to("/dev/null")
    file.write_text("x")
    monkeypatch.setattr(draft, "CONFIGURATION", str(made / "there/config.yaml"))
    monkeypatch.setattr(draft, "SHIPPED", {str(link): ""})
    (said,) = draft._not_installable([draft.Move(file, link)], True, True)
    assert str(said) == f"{link} is a link to /dev/null"
    assert said.hint.endswith(hint.format(place=link, file=file))
    assert list(draft._not_installable([], True, True)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("theirs", ["srv", "srv/pg"])
def test_root_writes_nowhere_that_another_user_can_change(
    monkeypatch: pytest.MonkeyPatch, made: Path, theirs: str
) -> None:
    """Who owns the directory of a repmgr.conf makes a link of it, to a name and a place of his choice."""
    with tempfile.TemporaryDirectory() as name:
        real, file = Path(name, "srv/pg/evil.sh"), made / "file"
        real.parent.mkdir(parents=True)
        real.write_text("node_id=1\n")
        file.write_text("node_id=1\nrm x\n")
        monkeypatch.setattr(draft, "SHIPPED", {})
        move = draft.Move(file, real)
        assert list(draft._not_installable([move], True, True)) == []
        os.chown(Path(name, theirs), 34, 35)
        (said,) = draft._not_installable([move], True, True)
        assert str(said).startswith(f"{real} is refused: {name}/{theirs} belongs to another user")


@pytest.fixture
def made(tmp_path: Path) -> Path:
    texts = render.drafted(FOUND, "main", REPOSITORY, [])
    list(draft.write(tmp_path, texts))
    return tmp_path


class Refusing(FakeHost):
    """Programs that find fault with everything."""

    def run(self, program: Program, limit: float) -> str:
        raise OperationFailed(f"{program}: parse error")


def refusal(directory: Path, host: FakeHost) -> str:
    """What is said of a draft; nothing is put anywhere."""
    drafts = sorted(path for path in (directory / "etc").rglob("*") if path.is_file())
    moves = [draft.Move(path, Path("/", path.relative_to(directory))) for path in drafts]
    with pytest.raises(UsageError) as refused:
        draft.examine(directory, moves, True, host)
    return str(refused.value)


def test_an_empty_draft(tmp_path: Path) -> None:
    said = refusal(tmp_path, FakeHost())
    assert all(f"{place} is not in it" in said for place in render.SHIPPED)
    assert "nothing was changed" in said


def test_a_foreign_file(made: Path) -> None:
    (made / "etc/foreign.conf").write_text("")
    assert f"{made}/etc/foreign.conf has no place here" in refusal(made, FakeHost())


def test_a_wrong_configuration(made: Path) -> None:
    file = made / "etc/repmgr-hooks/config.yaml"
    file.write_text(file.read_text().replace("fail_open_after: 120", "fail_open_after: soon"))
    assert "fail_open_after" in refusal(made, FakeHost())


def test_wrong_sudoers(made: Path) -> None:
    assert refusal(made, Refusing()).endswith("parse error; nothing was changed")


@pytest.mark.parametrize(
    ("there", "replaces"), [("a\n", False), ("a\n\n", False), ("", False), ("b\n", True), ("a\nb\nc\n", True)]
)
def test_what_would_be_lost(tmp_path: Path, there: str, replaces: bool) -> None:
    (tmp_path / "draft").write_text("a\n\nb\n")
    (tmp_path / "there").write_text(there)
    assert draft.Move(tmp_path / "draft", tmp_path / "there").replaces is replaces
    assert not draft.Move(tmp_path / "draft", tmp_path / "absent").replaces


def test_the_old_one_stays_beside(tmp_path: Path) -> None:
    (tmp_path / "draft").write_text("new")
    (tmp_path / "there").write_text("old")
    (tmp_path / "there").chmod(0o640)
    move = draft.Move(tmp_path / "draft", tmp_path / "there")
    assert install.put(move) == f"replaced  {tmp_path}/there; the old one is {tmp_path}/there.before-repmgr-hooks"
    assert (tmp_path / "there").read_text() == "new"
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "there.before-repmgr-hooks").read_text() == "old"
    assert move.done
    (tmp_path / "draft").write_text("another")
    assert install.put(move).endswith("the old one is " + str(tmp_path / "there.before-repmgr-hooks.2"))
    assert (tmp_path / "there.before-repmgr-hooks").read_text() == "old", "what was there at first"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_passfile_is_the_services(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the user whom the draft's tmpfiles.d names; the number of one who is gone has no name."""
    path, nobody = tmp_path / "pgpass", pwd.getpwnam("nobody")
    monkeypatch.setattr(install, "PASSFILE", str(path))
    assert install.passfile("nobody") == f"made      {path}: empty"
    assert install.passfile("nobody") == f"ok        {path}"
    path.write_text("*:*:*:repmgr:x")
    os.chown(path, 54321, 54321)
    assert install.passfile("nobody") == f"changed   {path}: owner nobody, mode 0600"
    status = path.stat()
    assert (status.st_uid, status.st_mode & 0o777, path.read_text()) == (nobody.pw_uid, 0o600, "*:*:*:repmgr:x")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_passfile_that_is_a_link_takes_nobodys_password_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given to the service, repmgr's own could not be read by repmgr any more."""
    theirs = tmp_path / "theirs"
    theirs.touch(0o600)
    os.chown(theirs, 54321, 54321)
    (tmp_path / "pgpass").symlink_to(theirs)
    monkeypatch.setattr(install, "PASSFILE", str(tmp_path / "pgpass"))
    assert install.passfile("nobody") == f"ok        {tmp_path}/pgpass"
    assert theirs.stat().st_uid == 54321


def test_what_is_kept_is_not_written_through_a_link(tmp_path: Path) -> None:
    """repmgr.conf may lie in a directory of postgres'."""
    (tmp_path / "draft").write_text("new")
    (tmp_path / "there").write_text("old")
    (tmp_path / "there.before-repmgr-hooks").symlink_to(tmp_path / "absent")
    kept = tmp_path / "there.before-repmgr-hooks.2"
    assert install.put(draft.Move(tmp_path / "draft", tmp_path / "there")).endswith(str(kept))
    assert kept.read_text() == "old"
    assert not (tmp_path / "absent").exists()


def test_a_directory_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(setup, "draft", lambda arguments: ({"/etc/file": ""}, []))
    (tmp_path / "file").touch()
    assert cli.run(["init", str(tmp_path / "file")]) == 2
    assert "Not a directory" in (said := capsys.readouterr().err) and "name another DIRECTORY" in said
