"""repmgr.conf: read as repmgr reads it, expanded as repmgr does, and judged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import repmgr, repmgrd
from repmgr_hooks.checks.users import User, owner_of
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.repmgr_conf import Placeholders, read, words_of

CONFIG = Path(__file__).resolve().parents[3] / "config"
LINE = "event_notification_command="

Level = str


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("node_id=1", {"node_id": "1"}),
        ("node_id 1\nnode_id = '2' # the last one counts", {"node_id": "2"}),
        ("  node_name = 'it''s'\n\n# a comment\n", {"node_name": "it's"}),
        (r"node_name='it\'s # no comment'", {"node_name": "it's # no comment"}),
        ("failover=automatic # why not", {"failover": "automatic"}),
        ("Failover=manual", {"Failover": "manual"}),  # which repmgr does not know
        ("node_id=1\r\nnode_name=db-1.x\r\n", {"node_id": "1", "node_name": "db-1.x"}),
        (r"node_name='\141\tb'", {"node_name": "a\tb"}),
        ("reconnect_interval=10s", {"reconnect_interval": "10s"}),
        ("include 'more.conf'\nnode_id=3", {"priority": "5", "node_id": "3"}),
        ("include_if_exists 'more.conf'\nnode_id=3", {"priority": "5", "node_id": "3"}),
        ("include_dir 'conf.d'", {"priority": "6"}),
    ],
)
def test_settings(tmp_path: Path, text: str, settings: dict[str, str]) -> None:
    (tmp_path / "more.conf").write_text("priority=5\n")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/a.conf").write_text("priority=6\n")
    (tmp_path / "repmgr.conf").write_text(text)
    assert read(tmp_path / "repmgr.conf").settings == settings


@pytest.mark.parametrize(
    "text",
    [
        "node_id=",
        "failover='auto",
        "= 5",
        "a='b'c'",
        "include 'none.conf'",
        "include_if_exists 'none.conf'",
        "include 'repmgr.conf'",
        "event_notifications=node_rejoin,standby_promote",
        "conninfo=host=10.0.0.11",
        "node_id=${NODE_ID}",
        "promote_command=/usr/bin/repmgr",
        "node_name=db.one",
        "event-notifications=node_rejoin",
        "replication_type='streaming'",
        "failover=Automatic",
        "priority=high",
        "node_id=0",
        "conninfo='host=a horst=b'",
        "failover=on\nfailover=manual",
        "node_id=1\fnode_name=x",
        "\ufeff# a comment",
    ],
)
def test_what_repmgr_refuses(tmp_path: Path, text: str) -> None:
    (tmp_path / "repmgr.conf").write_text(text)
    with pytest.raises((ValueError, OSError)):
        read(tmp_path / "repmgr.conf")


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("%n %e %s %p %t", "2 standby_promote 0 1 now"),
        ("%%n %x 5%", "%n %x 5%"),
        ("%d|%a|%c", r"a \"b\" \" `c`|$(x)|host=a password=b"),
    ],
)
def test_expansion(line: str, command: str) -> None:
    sent = Placeholders("2", "standby_promote", "0", "1", "now", r"a \"b\" " + '" `c`', "$(x)", "host=a password=b")
    assert sent.expanded(line) == command


def test_a_long_command_is_cut_off_as_repmgr_does() -> None:
    assert Placeholders("2", "x", details="d" * 2000).expanded('a "%d" %n') == 'a "' + "d" * 1019 + '"'
    assert len(Placeholders("2", "x").expanded("a" * 2000)) == 1023
    assert Placeholders("2", "x", details="ä" * 600).expanded("ab%d") == "ab" + "ä" * 510


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("a '' \"b c\" d\\ e", ["a", "", "b c", "d e"]),
        ("a b>>log 2>&1", ["a", "b"]),
        ("a b | tee log", ["a", "b"]),
        ("a b; c", ["a", "b"]),
    ],
)
def test_the_words_of_a_command(command: str, words: list[str]) -> None:
    assert words_of(command)[: len(words)] == words


# -- what is said about a file -----------------------------------------------------------------------------------------

PrimaryFinder = Callable[..., dict[str, tuple[Level, str]]]


@pytest.fixture
def finder(tmp_path: Path) -> PrimaryFinder:
    """Judge the repository's repmgr.conf of db1 with a text replaced: what is said, by key."""
    loaded = config.load(CONFIG / "config.yaml")
    program = tmp_path / "repmgr-hooks"
    for name in (program, tmp_path / "repmgr"):
        name.touch(mode=0o755)

    def judged(old: str = "", new: str = "") -> dict[str, tuple[Level, str]]:
        text = (CONFIG / "repmgr-db1.conf").read_text()
        assert old in text
        text = text.replace(old, new, 1) if old else text
        file = tmp_path / "db1.conf"
        text = text.replace("/usr/bin/repmgr", str(tmp_path / "repmgr")).replace("/etc/repmgr/db1.conf", str(file))
        file.write_text(text.replace("/usr/local/bin/repmgr-hooks", str(program)))
        user = owner_of(file)
        assert user is not None
        found = repmgr.look(loaded, loaded.clusters["main"], [file], user, {})
        return {
            item.code: (item.level, item.message) for item in found if item.where == str(file) and item.level != "OK"
        }

    return judged


def test_the_repositorys_file(finder: PrimaryFinder) -> None:
    assert finder() == {}


@pytest.mark.parametrize(
    ("old", "new", "key", "level", "said"),
    [
        (LINE, f"#{LINE}", "repmgr.line", "FAIL", "event_notification_command is missing"),
        ('"%p" "%t"', '%p "%t"', "repmgr.line", "FAIL", "no quotes around %p"),
        ('"%p" "%t"', '"%p" %t', "repmgr.line", "FAIL", "no quotes around %t"),
        ('"%p" "%t"', "%p %t", "repmgr.line", "FAIL", "no quotes around %p and %t"),
        ("%n %e %s", "%e %n %s", "repmgr.line", "FAIL", "wrong placeholders"),
        ('%s "%p" "%t"', '"%p" %s "%t"', "repmgr.line", "FAIL", "wrong placeholders"),
        ('%n %e %s "%p" "%t"', "%n", "repmgr.line", "FAIL", "wrong placeholders: an event is NODE EVENT"),
        ('%n %e %s "%p" "%t"', "1 %e", "repmgr.line", "", ""),
        ('%n %e %s "%p" "%t"', "2 %e", "repmgr.line", "FAIL", "wrong placeholders: ['2', 'standby_promote']"),
        (' "%p" "%t"', "", "repmgr.line", "", ""),
        (' "%p" "%t"', ' "%p" "%t" >> /var/log/hook.log', "repmgr.line", "", ""),
        ('"%t"', '"%t', "repmgr.line", "FAIL", "a shell cannot read the line"),
        ("--cluster main ", "", "repmgr.line", "", ""),
        ("/usr/local/bin/repmgr-hooks event", "; a event", "repmgr.line", "FAIL", "; a event --cluster main"),
        ("--cluster main", "--cluster=main --", "repmgr.line", "", ""),
        (
            "--cluster main",
            "--cluster mian",
            "repmgr.line",
            "FAIL",
            "the configuration has no cluster 'mian'",
        ),
        ("/usr/local/bin/repmgr-hooks", "/nowhere/hooks", "repmgr.line", "FAIL", "/nowhere/hooks does not exist"),
        ("repmgr-hooks event --cluster main", "wrapper", "repmgr.line", "WARN", "does not call 'repmgr-hooks event'"),
        ('"%t"', '"%t" "%d"', "repmgr.shell", "FAIL", "%d in the line: a shell runs what they hold"),
        ('"%p"', '"%c"', "repmgr.shell", "FAIL", "%c in the line: a shell runs what they hold, and %c shows passwords"),
        ('"%t"', '"%%d"', "repmgr.line", "FAIL", "wrong placeholders"),
        ("failover=", "event_notifications='standby_promote'\nfailover=", "repmgr.filter", "FAIL", "event_notifi"),
        ("failover=", "event_notifications='standby_promot'\nfailover=", "repmgr.filter", "FAIL", "event_notifi"),
        ("failover=", "event_notifications=''\nfailover=", "repmgr.filter", "", ""),
        ("failover=", "primary_notification_timeout=9\nfailover=", "repmgr.timeout", "WARN", "followers wait 9 s"),
        ("failover=", "primary_notification_timeout=10\nfailover=", "repmgr.timeout", "", ""),
        (
            "='/usr/bin/repmgr",
            "='/nowhere/repmgr",
            "repmgr.commands",
            "FAIL",
            "promote_command: /nowhere/repmgr does not",
        ),
        ("/usr/bin/repmgr standby follow", "ssh-x db1 a", "repmgr.commands", "FAIL", "follow_command: ssh-x does not"),
        ("/usr/bin/repmgr standby follow -f /etc/repmgr", "env ssh db1 repmgr -f /there", "repmgr.commands", "", ""),
        (
            "-f /etc/repmgr/db1.conf'",
            "-f /a/x.conf'",
            "repmgr.commands",
            "FAIL",
            "promote_command names /a/x.conf, which",
        ),
        ("standby promote", 'standby promote "', "repmgr.commands", "FAIL", "a shell cannot read promote_command"),
        ("failover=automatic", "failover=manual\npromote_command='/nowhere/x'", "repmgr.commands", "", ""),
    ],
)
def test_what_is_wrong_with_a_file(
    finder: PrimaryFinder, old: str, new: str, key: str, level: Level, said: str
) -> None:
    found = finder(old, new)
    assert {name: found_level for name, (found_level, _) in found.items()} == ({key: level} if level else {})
    assert not level or found[key][1].startswith(said)


def test_repmgr_is_named_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PGDG's RPMs put it beside PostgreSQL's programs, and not on PATH; of several the newest counts."""
    monkeypatch.setattr(repmgr_files, "BINARIES", [f"{tmp_path}/usr/pgsql-{{}}/bin".lstrip("/")])
    for version in (9, 16, 17):
        place = tmp_path / f"usr/pgsql-{version}/bin"
        place.mkdir(parents=True)
        (place / "repmgr").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(place))
    assert repmgr_files.program() == "repmgr"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert repmgr_files.program() == f"{place}/repmgr"
    assert repmgr_files.beside_postgres("repmgr", 16) == [tmp_path / "usr/pgsql-16/bin/repmgr"]
    assert repmgr_files.program("repmgrd") == "repmgrd", "there is none"
    file = tmp_path / "db1.conf"
    file.write_text("node_id=1\npromote_command='/usr/bin/repmgr standby promote -f /etc/x.conf --log-to-file'\n")
    found = repmgr.commands(read(file), str(tmp_path), "then")
    right = f"promote_command='{place}/repmgr standby promote -f {file} --log-to-file'"
    assert (found.level, found.hint) == ("FAIL", f"{right}  # then: then")


@pytest.mark.parametrize(
    "line",
    [
        "exec /nowhere/repmgr standby promote",
        "cd /tmp && /bin/true",
        "if true; then /bin/true; fi",
        ". /etc/profile; repmgr standby promote",
        "{ true; }",
        "$HOME/bin/promote",
        "~/bin/promote",
        "PATH=/usr/pgsql-17/bin:$PATH repmgr standby promote",
        "/bin/true && repmgr standby promote",
        "repmgr standby promote -f $HOME/db1.conf",
        "repmgr standby promote -f ~/db1.conf",
    ],
)
def test_what_only_a_shell_can_tell_is_no_fault(tmp_path: Path, line: str) -> None:
    (tmp_path / "repmgr").touch(mode=0o755)
    file = tmp_path / "db1.conf"
    file.write_text(f"node_id=1\npromote_command='{line}'\n")
    found = repmgr.commands(read(file), "/nowhere" if "PATH" in line else f"{tmp_path}:/bin", "then")
    assert (found.level, found.hint) == ("OK", "")


def test_the_filter_that_is_wide_enough(finder: PrimaryFinder) -> None:
    loaded = config.load(CONFIG / "config.yaml")
    needed = ", ".join(repmgr.named(loaded.clusters["main"]))
    assert finder("failover=", f"event_notifications='{needed}'\nfailover=") == {}


def test_a_route_for_the_rehearsal_asks_nothing_of_repmgr(tmp_path: Path) -> None:
    rehearsing = tmp_path / "config.yaml"
    rehearsing.write_text((CONFIG / "config.yaml").read_text().replace("[primary_register,", "[repmgr_hooks_check,"))
    named = repmgr.named(config.load(rehearsing).clusters["main"])
    assert "standby_promote" in named
    assert "repmgr_hooks_check" not in named


@pytest.mark.parametrize(("old", "new"), [("node_id=1", "node_id=7"), ("host=10.0.0.11", "host=192.0.2.1")])
def test_a_file_of_another_node_is_left_alone(tmp_path: Path, old: str, new: str) -> None:
    loaded = config.load(CONFIG / "config.yaml")
    (tmp_path / "db1.conf").write_text((CONFIG / "repmgr-db1.conf").read_text().replace(old, new))
    user = owner_of(tmp_path)
    assert user is not None
    found = list(repmgr.look(loaded, loaded.clusters["main"], [tmp_path / "db1.conf"], user, {}))
    assert [(item.level, item.where) for item in found] == [("WARN", "main node 1"), ("WARN", "main node 2")]


def test_a_host_name_may_be_any_nodes(finder: PrimaryFinder) -> None:
    assert finder("host=10.0.0.11", "host=db1.example.org") == {}


def test_a_file_that_others_can_write(tmp_path: Path) -> None:
    file = tmp_path / "db1.conf"
    file.write_text((CONFIG / "repmgr-db1.conf").read_text())
    file.chmod(0o664)
    user = owner_of(file)
    assert user is not None
    assert repmgr.access(read(file), user).message.startswith("can be written by others")


@pytest.mark.parametrize("words", ["-f\0{}", "-f{}", "--config-file\0{}", "-v\0--config-file={}"])
def test_the_file_that_a_repmgrd_was_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: str) -> None:
    """It may be a link to what was looked at, or stand where nobody looks."""
    link, real = tmp_path / "link.conf", tmp_path / "real.conf"
    real.touch()
    link.symlink_to(real)
    found = repmgrd.GIVEN.search(f"repmgrd\0{words.format(link)}\0--daemonize=false\0")
    assert found
    user, other = User("postgres", 1, 1, (), "/"), User("eve", 2, 2, (), "/")
    ours = repmgrd.Daemon(user, {"A": "b"}, Path(found[1]))
    eves = repmgrd.Daemon(other, {}, tmp_path / "eve.conf")
    (tmp_path / "eve.conf").touch()
    monkeypatch.setattr(repmgrd, "running", lambda: iter([eves, ours]))
    monkeypatch.setattr(repmgrd, "files_here", lambda: [tmp_path / "here.conf"])
    assert repmgrd.daemon_of(real) == ours
    assert repmgrd.confs_here() == [tmp_path / "here.conf", real]

    def refused(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr(Path, "stat", refused)
    assert real in repmgrd.confs_here(), "what may not be looked at is said to be that, and ends no check"
