"""The repmgr.conf of nodes that have none here: for Debian's layout, for that of PGDG's RPMs, for none."""

from __future__ import annotations

import grp
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks.checks.repmgr import as_it_should_be
from repmgr_hooks.checks.repmgrd import Daemon, likely
from repmgr_hooks.checks.users import User
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import OperationFailed, UsageError
from repmgr_hooks.repmgr_conf import read, settings_in
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.setup import draft, install, new_confs
from repmgr_hooks.system.steps import Rows, Sql
from tests.fake import FakeHost

REPOSITORY = Path(__file__).resolve().parents[3]
NODES = {1: Node("10.0.0.11"), 2: Node("10.0.0.12")}
KNOWN = {
    1: Identity("db1", "10.0.0.11", "/etc/repmgr/16/repmgr.conf", "host=10.0.0.11 user=repmgr"),
    2: Identity("db2", "10.0.0.12", "/etc/repmgr/16/repmgr.conf", "host=10.0.0.12 user=repmgr password='it''s'"),
}
Layout = Callable[..., None]


class Saying(FakeHost):
    """Nodes that say where their data is, or what a test lets them say."""

    def __init__(self, data: str | None = "/var/lib/pgsql/16/data", silent: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.data, self.mute = data, silent

    def fetch_each(self, queries: object, limit: float) -> dict[int, Rows | OperationFailed]:
        asked: list[Sql] = list(queries)  # type: ignore[call-overload]
        return {sql.node: OperationFailed("no answer") if sql.node in self.mute else [(16, self.data)] for sql in asked}


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """A root directory with repmgr in some places; what stands in the real one is not seen."""
    root = str(tmp_path).lstrip("/")
    monkeypatch.setattr(repmgr_files, "BINARIES", [f"{root}/{place}" for place in repmgr_files.BINARIES])
    monkeypatch.setattr(new_confs, "CONFS", tmp_path / "etc/repmgr")
    monkeypatch.setattr(new_confs, "REPMGRD", str(tmp_path / "etc/systemd/system/repmgrd@.service"))
    monkeypatch.setenv("PATH", str(tmp_path / "usr/bin"))

    def made(*programs: str, confs: str = "etc/repmgr") -> None:
        (tmp_path / confs).mkdir(parents=True, exist_ok=True)
        for program in programs:
            place = tmp_path / program
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch(0o755)

    return made


def both(bindir: str) -> list[str]:
    return [f"{bindir}/repmgr", f"{bindir}/repmgrd"]


def drafted(host: FakeHost, nodes: dict[int, Node] | None = None) -> tuple[dict[str, str], list[str]]:
    """The new files of node 2, and what was said."""
    cluster = new_confs.cluster("shop", KNOWN, nodes or NODES, host)
    said = [*new_confs.notes({2: cluster.place(2)}, cluster), new_confs.later([2], cluster)]
    return new_confs.drafted([2], cluster, REPOSITORY), said


def test_pgdgs_rpms(layout: Layout, tmp_path: Path) -> None:
    layout(*both("usr/pgsql-16/bin"), *both("usr/pgsql-15/bin"), confs="etc/repmgr/16")
    texts, said = drafted(Saying())
    place, bindir = f"{tmp_path}/etc/repmgr/16/db2.conf", f"{tmp_path}/usr/pgsql-16/bin"
    assert list(texts) == [place, new_confs.REPMGRD]
    settings = settings_in(texts[place])
    assert (settings["node_id"], settings["node_name"], settings["conninfo"]) == ("2", "db2", KNOWN[2].conninfo)
    assert (settings["data_directory"], settings["pg_bindir"]) == ("/var/lib/pgsql/16/data", bindir)
    assert settings["promote_command"] == f"{bindir}/repmgr standby promote -f {place}"
    assert settings["follow_command"] == f"{bindir}/repmgr standby follow -f {place} --upstream-node-id=%n"
    assert settings["event_notification_command"] in as_it_should_be("shop")
    assert f"\nExecStart={bindir}/repmgrd -f {tmp_path}/etc/repmgr/16/%i.conf " in texts[new_confs.REPMGRD]
    assert said == ["later     systemctl enable --now repmgrd@db2"]


def test_debian(layout: Layout, tmp_path: Path) -> None:
    layout(*both("usr/lib/postgresql/16/bin"), *both("usr/bin"))
    texts, said = drafted(Saying("/var/lib/postgresql/16/main"))
    settings = settings_in(texts[f"{tmp_path}/etc/repmgr/db2.conf"])
    assert settings["data_directory"] == "/var/lib/postgresql/16/main"
    assert settings["pg_bindir"] == f"{tmp_path}/usr/lib/postgresql/16/bin"
    assert settings["promote_command"].startswith(f"{tmp_path}/usr/bin/repmgr standby promote -f ")
    assert f"\nExecStart={tmp_path}/usr/bin/repmgrd -f {tmp_path}/etc/repmgr/%i.conf " in texts[new_confs.REPMGRD]
    assert len(said) == 1


@pytest.mark.parametrize("host", [Saying(None), Saying(silent=(2,)), Saying("relative")])
def test_what_a_node_does_not_say(layout: Layout, tmp_path: Path, host: FakeHost) -> None:
    layout(*both("usr/pgsql-16/bin"))
    texts, said = drafted(host)
    assert new_confs.unfilled(texts[f"{tmp_path}/etc/repmgr/db2.conf"]) == ["data_directory"]
    assert said[0].startswith("unknown   node 2 does not say its data_directory")


def test_no_repmgr_here(layout: Layout, tmp_path: Path) -> None:
    """That of another version would be a wrong one."""
    layout(*both("usr/pgsql-15/bin"))
    texts, said = drafted(Saying())
    assert new_confs.unfilled(texts[f"{tmp_path}/etc/repmgr/db2.conf"]) == ["pg_bindir"]
    assert said[0] == "unknown   where repmgr for PostgreSQL 16 is on this host: install it, and run init again"


def test_a_copy_of_the_example_is_filled_in(layout: Layout, tmp_path: Path) -> None:
    layout(*both("usr/pgsql-16/bin"))
    cluster = new_confs.cluster("shop", KNOWN, NODES, Saying())
    copy = (REPOSITORY / "config/repmgr-db2.conf").read_text().replace("data_directory=", " data_directory = ")
    filled = new_confs.filled(copy, 2, cluster)
    assert new_confs.unfilled(filled) == []
    changed = {name: value for name, value in settings_in(filled).items() if settings_in(copy)[name] != value}
    assert changed == {"data_directory": "/var/lib/pgsql/16/data", "pg_bindir": f"{tmp_path}/usr/pgsql-16/bin"}
    assert new_confs.filled(filled, 2, new_confs.cluster("shop", KNOWN, NODES, Saying("/elsewhere"))) == filled


def test_a_file_of_another_cluster_stays(layout: Layout, tmp_path: Path) -> None:
    layout("etc/repmgr/db2.conf")
    assert list(drafted(Saying())[0])[0] == f"{tmp_path}/etc/repmgr/shop-db2.conf"


@pytest.mark.parametrize("name", ["../../etc/passwd", "a b", "", "x;reboot"])
def test_a_name_that_is_no_path(layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    layout()
    monkeypatch.setitem(KNOWN, 2, Identity(name, "10.0.0.12", conninfo="host=10.0.0.12"))
    text = drafted(Saying())[0][f"{tmp_path}/etc/repmgr/node2.conf"]
    assert settings_in(text)["node_name"] == name
    assert settings_in(text)["promote_command"].endswith("/etc/repmgr/node2.conf")


@pytest.mark.parametrize("text", ["it's", "back\\slash", "a\nevent_notification_command='x'", "'"])
def test_foreign_text_stays_one_value(layout: Layout, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    layout()
    monkeypatch.setitem(KNOWN, 2, Identity("db2", "10.0.0.12", conninfo=text))
    settings = settings_in(next(iter(drafted(Saying())[0].values())))
    assert settings["conninfo"] == text.replace("\n", " ")
    assert settings["event_notification_command"] in as_it_should_be("shop")


def test_of_three_nodes_the_others_follow_where_their_data_is(layout: Layout) -> None:
    """repmgr reads pg_control there; a witness has none."""
    layout()
    for third, by_ssh in ((Node("10.0.0.13"), True), (Node("10.0.0.13", witness=True), False)):
        text = next(iter(drafted(Saying(), {**NODES, 3: third})[0].values()))
        there = "ssh -o BatchMode=yes 10.0.0.12 /usr/bin/repmgr standby follow -f /etc/repmgr/16/repmgr.conf "
        assert settings_in(text)["follow_command"].startswith(there) is by_ssh


def test_a_unit_that_is_there_stays(layout: Layout) -> None:
    layout("etc/systemd/system/repmgrd@.service")
    assert new_confs.REPMGRD not in drafted(Saying())[0]


def test_a_draft_with_a_placeholder_is_not_installed(tmp_path: Path) -> None:
    (tmp_path / "db2.conf").write_text("data_directory='/var/lib/postgresql/NN/main'\nnode_name='NN'\n")
    move = draft.Move(tmp_path / "db2.conf", Path("/etc/repmgr/16/absent.conf"))
    with pytest.raises(UsageError, match=r"db2.conf has NN in data_directory\n    HINT: write where it is on the node"):
        draft.examine(tmp_path, [move], True, FakeHost())
    assert "has no place here" not in str(pytest.raises(UsageError, draft.examine, tmp_path, [move], True, FakeHost()))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_only_repmgrds_group_reads_a_new_file(tmp_path: Path) -> None:
    """Its conninfo may hold a password."""
    (tmp_path / "draft").write_text("node_id=1\n")
    move = draft.Move(tmp_path / "draft", tmp_path / "etc/repmgr/db1.conf")
    tmpfiles = tmp_path / install.TMPFILES.lstrip("/")
    tmpfiles.parent.mkdir(parents=True)
    tmpfiles.write_text((REPOSITORY / "config/tmpfiles.conf").read_text().replace(" postgres ", " daemon "))
    group = install.repmgrds_group(tmp_path)
    assert install.put(move, group) == f"installed {move.place}"
    assert move.place.stat().st_mode & 0o777 == 0o640
    assert move.place.stat().st_gid == group == grp.getgrnam("daemon").gr_gid
    assert read(move.place).node == 1


def test_a_draft_whose_group_is_not_known_is_not_installed(tmp_path: Path) -> None:
    tmpfiles = tmp_path / install.TMPFILES.lstrip("/")
    tmpfiles.parent.mkdir(parents=True)
    for text in ("", "d /var/lib/repmgr-hooks 0710 barman nosuchgroup -\n"):
        tmpfiles.write_text(text)
        with pytest.raises(
            UsageError, match=r"repmgr-hooks\.conf (does not name the owner|names the group nosuchgroup, which)"
        ):
            install.repmgrds_group(tmp_path)


def test_whoever_runs_a_program_of_that_name_is_not_taken_for_repmgrds_user() -> None:
    """It would be drafted into sudoers, and its group could read what a new file holds."""
    mallory, postgres = (Daemon(User(name, 1000, 1000, (1000,), "/"), {}) for name in ("mallory", "postgres"))
    assert likely([mallory, postgres]) == likely([postgres, mallory]) == postgres
    assert likely([mallory]) == mallory
    assert likely([]) is None


@pytest.mark.parametrize(
    ("place", "known"),
    [
        ("/etc/repmgr.conf", True),
        ("/etc/repmgr/db1.conf", True),
        ("/etc/repmgr/16/db1.conf", True),
        ("/etc/postgresql/15/main/repmgr.conf", True),
        ("/etc/repmgr/16/deeper/db1.conf", False),
        ("/tmp/etc/repmgr.conf", False),
    ],
)
def test_where_a_repmgr_conf_is_looked_for(place: str, known: bool) -> None:
    assert new_confs.is_conf(Path(place)) is known
