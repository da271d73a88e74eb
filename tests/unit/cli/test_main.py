"""The command line: exit codes, one clear line for a mistake, and handlers that other packages bring."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import repmgr_hooks
from repmgr_hooks.cli import configured
from repmgr_hooks.cli import main as cli
from tests.fake import FakeHost

FILE = Path(__file__).resolve().parents[3] / "config/config.yaml"
PACKAGE = Path(repmgr_hooks.__file__).parents[1]


@pytest.fixture
def all_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with every program that the repository's configuration needs, and nothing else; a fake world behind it."""
    monkeypatch.setattr(configured, "LocalHost", lambda conninfos, **_: FakeHost())
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("barman", "conntrack", "iptables-restore", "iptables-save"):
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(place))
    monkeypatch.setattr(cli, "PLACES", ())
    return place


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The line, and the hint, that a run with a mistake leaves on stderr; its exit code is 2, its stdout empty."""
    assert cli.run(argv) == 2
    output = capsys.readouterr()
    assert output.out == ""
    line, *hints = output.err.splitlines()
    assert line.startswith("repmgr-hooks: ")
    assert [hint[:6] for hint in hints] in ([], ["HINT: "])
    return " ".join([line, *hints])


@pytest.mark.usefixtures("all_programs")
def test_check_of_the_repositorys_file(capsys: pytest.CaptureFixture[str]) -> None:
    cli.run(["--config", str(FILE), "check"])
    assert f"OK    config.file         {FILE}: 1 cluster(s), 2 route(s)\n" in capsys.readouterr().out


@pytest.mark.usefixtures("all_programs")
def test_the_file_of_the_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPMGR_HOOKS_CONFIG", str(FILE))
    cli.run(["check"])
    assert f"OK    config.file         {FILE}: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "conntrack",
            "WARN  kernel.conntrack    IPv4: conntrack is not installed: after a failover, open connections ",
        ),
        ("iptables-restore", "FAIL  kernel.programs     IPv4: iptables-restore is not installed\n"),
        ("iptables-save", "FAIL  kernel.programs     IPv4: iptables-save is not installed\n"),
    ],
)
def test_check_misses_a_program(all_programs: Path, capsys: pytest.CaptureFixture[str], name: str, said: str) -> None:
    cli.run(["--config", str(FILE), "check"])
    assert said not in capsys.readouterr().out
    (all_programs / name).unlink()
    cli.run(["--config", str(FILE), "check"])
    assert said in capsys.readouterr().out


def test_check_misses_nft_and_no_iptables_where_nftables_has_the_rules(
    all_programs: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FILE.read_text().replace("backend: iptables", "backend: nftables"))
    for name in ("iptables-save", "iptables-restore"):
        (all_programs / name).unlink()
    cli.run(["--config", str(file), "check"])
    shown = capsys.readouterr().out
    assert "FAIL  kernel.programs     IPv4: nft is not installed\n      HINT: apt install nftables\n" in shown
    (all_programs / "nft").write_text("#!/bin/sh\n")
    (all_programs / "nft").chmod(0o755)
    cli.run(["--config", str(file), "check"])
    shown = capsys.readouterr().out
    assert "OK    kernel.programs     IPv4: nftables is installed\n" in shown
    assert "kernel.backend" not in shown


@pytest.mark.usefixtures("all_programs")
def test_check_says_that_nothing_ticks_although_a_slot_is_tracked(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    tracking = tmp_path / "config.yaml"
    tracking.write_text(FILE.read_text().replace("state: absent", "state: synced"))
    said = (
        "config.interval     main: 'state: synced' with 'monitor_interval: 0': the standbys' slots are never advanced"
    )
    cli.run(["--config", str(tracking), "check"])
    assert said not in capsys.readouterr().out
    tracking.write_text(tracking.read_text().replace("monitor_interval: 5", "monitor_interval: 0"))
    assert cli.run(["--config", str(tracking), "check"]) == 1
    assert f"FAIL  {said}" in capsys.readouterr().out


def test_check_shows_all_mistakes(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bad = tmp_path / "config.yaml"
    bad.write_text("clusters: {main: {nodes: {1: {host: db1}}, gateway: 5, routes: 5}}\n")
    assert cli.run(["--config", str(bad), "check"]) == 2
    first, *mistakes = capsys.readouterr().err.splitlines()
    assert first == f"repmgr-hooks: {bad}: 3 mistakes:"
    found = [line for line in mistakes if not line.startswith("    HINT: ")]
    assert len(found) == 3
    assert all(line.startswith("  line 1: clusters.main.") for line in found)


@pytest.mark.parametrize(
    "command", [["check"], ["status"], ["reconcile"], ["boot"], ["replay", "2", "standby_promote"]]
)
def test_every_command_says_that_the_file_is_missing(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    line = refused(capsys, "--config", "/nonexistent/config.yaml", *command)
    assert "/nonexistent/config.yaml: cannot be read" in line
    assert "--config" in line


@pytest.mark.parametrize("command", ["event", "replay"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "got 0 arguments"),
        (["2"], "got 1 arguments"),
        (["2", "standby promote"], "EVENT is a name"),
        (["1;reboot", "standby_promote"], "NODE is a repmgr node id"),
        (["-1", "standby_promote"], "NODE is a repmgr node id"),
        (["2", "standby_promote", "2"], "SUCCESS is 0 or 1"),
        (["2", "standby_promote", "1", "1", "now\x1b[2J"], "holds a control character"),
        (["2", "standby_promote", "1", "1", "now", "more"], "got 6 arguments"),
    ],
)
def test_a_bad_event(capsys: pytest.CaptureFixture[str], command: str, words: list[str], said: str) -> None:
    line = refused(capsys, "--config", str(FILE), command, *words)
    assert said in line
    assert line.isprintable()


@pytest.mark.parametrize("words", [["3", "standby_promote"], ["3", "cluster_created"]])
def test_an_event_of_a_node_that_the_file_does_not_know(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    line = refused(capsys, "--config", str(FILE), "replay", *words)
    assert "clusters.main.nodes has no node 3 (it has 1, 2)" in line


def test_a_cluster_that_the_file_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(capsys, "--config", str(FILE), "status", "--cluster", "mian")
    assert "has no cluster 'mian' HINT: did you mean 'main'?" in line


def test_an_event_must_name_one_of_several_clusters(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    both = tmp_path / "config.yaml"
    routes = "routes: [{on: [node_rejoin], do: [firewall: {open: app}]}]"
    both.write_text(
        "clusters:\n"
        "  main: {nodes: {1: {host: 10.0.0.11}}, gateway: {address: 10.0.0.20, ports: {app: 5}},\n"
        f"         {routes}}}\n"
        "  test: {nodes: {1: {host: 10.0.0.12}}, gateway: {address: 10.0.0.20, ports: {app: 6},\n"
        f"         chains: {{dnat: test_dnat, snat: test_snat}}}}, {routes}}}\n"
    )
    line = refused(capsys, "--config", str(both), "replay", "1", "standby_promote")
    assert "several clusters (main, test) have a node 1 HINT: name one with --cluster" in line
    assert cli.run(["--config", str(both), "replay", "--dry-run", "--cluster", "test", "1", "standby_promote"]) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        "2 standby_promote\n",
        "2\nstandby_promote\n",
        '["2", "standby_promote"]\n',
        "\n-\n",
        "[" * 9000,
        "\0" * 9000,
    ]
    + ["\n2\nstandby_promote", "\n" * 9000],
)
def test_what_no_caller_hands_over(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert "an event is NODE EVENT [SUCCESS [OTHER_NODE [TIMESTAMP]]]" in refused(capsys, "event", "-")


def test_words_that_are_handed_over_are_checked_like_all_others(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n1;reboot\nstandby_promote\n"))
    assert "NODE is a repmgr node id" in refused(capsys, "event", "-")


@pytest.mark.parametrize("argv", [[], ["promote"], ["check", "--bogus"], ["event", "2", "standby_promote", "--x"]])
def test_usage(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(argv)
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith("usage: repmgr-hooks")


@pytest.mark.parametrize(
    "command",
    [
        "event",
        "replay",
        "reconcile",
        "simulate-failover",
        "boot",
        "worker",
        "status",
        "history",
        "pause",
        "resume",
        "check",
        "handlers",
    ],
)
def test_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: repmgr-hooks {command}" in capsys.readouterr().out


def test_the_handlers_that_are_built_in(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["handlers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["barman", "command", "failover_slots", "firewall", "notify", "pgbouncer", "slot"]
    assert [line.split()[0] for line in lines] == names
    assert all(" built in " in line and len(line.split()) > 4 for line in lines)


# -- handlers of other packages ----------------------------------------------------------------------------------------

DNS = '''
"""A name in the DNS follows the primary."""
from dataclasses import dataclass

from repmgr_hooks.errors import mistake
from repmgr_hooks.handlers import contract

fail_open_after = contract.never_fails_open
on_tick = contract.looks_on_tick
helper = contract.never_helps
shared = contract.each_gateways_own
fingerprint = contract.no_fingerprint
warnings = contract.no_warnings
housekeep = contract.no_housekeeping
fence = contract.fence_nothing


@dataclass(frozen=True)
class Config:
    name: str


def validate(config, cluster):
    return [] if config.name.endswith(".") else [mistake("the name must end with a dot")]


def observe(config, state, host):
    return None


def plan(config, state, seen):
    return []
'''


def install(site: Path, source: str = DNS, name: str = "dns", package: str = "repmgr_hooks_dns") -> None:
    """Install a package that brings a handler, as pip would leave it behind."""
    (site / f"{package}.py").write_text(textwrap.dedent(source))
    info = site / f"{package}-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package.replace('_', '-')}\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[repmgr_hooks.handlers]\n{name} = {package}\n")


def hooks(site: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """Run the program as another process that finds the packages in ``site``."""
    environment = {**os.environ, "PYTHONPATH": f"{PACKAGE}{os.pathsep}{site}", "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "repmgr_hooks", *argv],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=120,
        check=False,
    )


def route(site: Path, action: str) -> str:
    """A configuration whose only route does ``action``."""
    path = site / "config.yaml"
    path.write_text(
        "clusters:\n  main:\n    nodes: {1: {host: 10.0.0.11}}\n    gateway: {address: 10.0.0.20, ports: {app: 5433}}\n"
        f"    routes:\n      - on: [standby_promote]\n        do:\n          - {action}\n"
    )
    return str(path)


def test_a_plug_in_is_listed_with_its_origin(tmp_path: Path) -> None:
    install(tmp_path)
    listed = hooks(tmp_path, "handlers")
    assert (listed.returncode, listed.stderr) == (0, "")
    (line,) = [line for line in listed.stdout.splitlines() if line.startswith("dns ")]
    assert line.split(maxsplit=3) == ["dns", "repmgr-hooks-dns", "1.5", "A name in the DNS follows the primary."]
    assert len(listed.stdout.splitlines()) == 8


def test_columns_are_as_wide_as_what_stands_in_them(tmp_path: Path) -> None:
    install(tmp_path, name="a_name_in_the_dns", package="repmgr_hooks_for_names_in_the_dns")
    listed = hooks(tmp_path, "handlers").stdout.splitlines()
    about = [line.index(word) for line in listed for word in ("A name in the DNS", "Barman streams") if word in line]
    assert len(about) == 2
    assert len(set(about)) == 1


def test_a_plug_in_is_used_in_a_route(tmp_path: Path) -> None:
    install(tmp_path)
    checked = hooks(tmp_path, "--config", route(tmp_path, "dns: {name: db.example.org.}"), "check")
    assert checked.stderr == ""
    assert "1 route(s)" in checked.stdout


@pytest.mark.parametrize(
    ("action", "said"),
    [
        ("dns: {name: db.example.org}", "line 8: clusters.main.routes[0].do[0].dns: the name must end with a dot"),
        (
            "dns: {nmae: db.}",
            "line 8: clusters.main.routes[0].do[0].dns.nmae: unknown option\n    HINT: did you mean 'name'?",
        ),
        (
            "dns: {name: 5}",
            "line 8: clusters.main.routes[0].do[0].dns.name: must be a string; got '5'\n    HINT: put it in quotes",
        ),
        (
            "dsn: {name: db.}",
            "line 8: clusters.main.routes[0].do[0].dsn: no such handler\n    HINT: did you mean 'dns'?",
        ),
    ],
)
def test_a_plug_ins_options_are_checked(tmp_path: Path, action: str, said: str) -> None:
    install(tmp_path)
    checked = hooks(tmp_path, "--config", route(tmp_path, action), "check")
    assert checked.returncode == 2
    assert said in checked.stderr


@pytest.mark.parametrize(
    ("source", "name", "said"),
    [
        (
            "import nothing_of_this_name",
            "dns",
            "handler 'dns' of repmgr-hooks-dns 1.5 cannot be loaded: ModuleNotFound",
        ),
        ("def plan(:", "dns", "handler 'dns' of repmgr-hooks-dns 1.5 cannot be loaded: SyntaxError"),
        ("1 / 0", "dns", "handler 'dns' of repmgr-hooks-dns 1.5 cannot be loaded: ZeroDivisionError"),
        (DNS.replace("def plan", "def plna"), "dns", "repmgr-hooks-dns 1.5: has 'plna'\nHINT: did you mean 'plan'?"),
        (DNS.replace("fence =", "fecne ="), "dns", "has 'fecne'\nHINT: did you mean 'fence'?"),
        (DNS.replace("fail_open_after =", "fail_open_afer ="), "dns", "HINT: did you mean 'fail_open_after'?"),
        (DNS.replace("housekeep =", "hauskeep ="), "dns", "has 'hauskeep'\nHINT: did you mean 'housekeep'?"),
        (
            DNS.replace("warnings = contract", "_w = contract"),
            "dns",
            "lacks warnings\nHINT: what a handler does not need, it takes",
        ),
        (DNS.replace("@dataclass(frozen=True)", ""), "dns", "Config must be a dataclass"),
        (DNS.replace("contract.fence_nothing", "None"), "dns", "fence must be a function"),
        (DNS + "\nobserve = 5", "dns", "observe must be a function (observe may be None)"),
        ("", "dns", "lacks Config, validate, fail_open_after, on_tick, helper, shared, observe, plan, fingerprint"),
        (DNS, "slot", "handler 'slot' of repmgr-hooks-dns 1.5 is already there (built in)"),
        (DNS, "when", "handler 'when' of repmgr-hooks-dns 1.5: in a route 'when' is the condition of an action"),
    ],
)
def test_a_plug_in_that_cannot_be_used(tmp_path: Path, source: str, name: str, said: str) -> None:
    """``check`` says so although no route uses it: at 3 a.m. it would be in the way of the others."""
    install(tmp_path, source, name)
    ended = hooks(tmp_path, "--config", route(tmp_path, "firewall: {open: app}"), "check")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert said in ended.stderr
    assert ended.stderr.splitlines()[1].startswith("HINT: ")


@pytest.mark.slow
def test_a_plug_in_whose_import_does_not_end(tmp_path: Path) -> None:
    """It held the service up until systemd's watchdog ended it, and repmgrd behind the hook."""
    install(tmp_path, f"import time\ntime.sleep(600)\n{DNS}")
    ended = hooks(tmp_path, "handlers")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (
        "handler 'dns' of repmgr-hooks-dns 1.5 cannot be loaded: plug-ins have 20 s in all\nHINT: correct or remove it"
        in ended.stderr
    )


def test_two_plug_ins_of_one_name(tmp_path: Path) -> None:
    install(tmp_path)
    install(tmp_path, package="another_dns")
    ended = hooks(tmp_path, "handlers")
    assert ended.returncode == 2
    line, hint = ended.stderr.splitlines()
    assert "handler 'dns' of" in line
    assert "is already there" in line
    assert hint == "HINT: rename it"


def test_a_plug_in_without_a_docstring_is_listed(tmp_path: Path) -> None:
    install(tmp_path, DNS.replace('"""A name in the DNS follows the primary."""', ""))
    assert hooks(tmp_path, "handlers").returncode == 0


@pytest.mark.parametrize(
    "source",
    [
        DNS.replace("@dataclass(frozen=True)", ""),
        DNS.replace("name: str", "name: dict"),
        DNS.replace("def plan(config, state, seen):\n    return []", "plan = 5"),
        DNS.replace(
            'return [] if config.name.endswith(".") else [mistake("the name must end with a dot")]', "return 1 / 0"
        ),
    ],
    ids=["Config is no dataclass", "Config has an unknown type", "plan is no function", "problems fails"],
)
def test_a_plug_in_that_breaks_the_contract_is_named(tmp_path: Path, source: str) -> None:
    install(tmp_path, source)
    ended = hooks(tmp_path, "--config", route(tmp_path, "dns: {name: db.example.org.}"), "check")
    assert ended.returncode == 2
    assert "repmgr-hooks-dns" in ended.stderr


def test_the_file_that_was_named_holds_for_words_on_stdin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n2147483647\nstandby_promote\n"))
    assert cli.run(["--config", "/nonexistent/config.yaml", "event", "-"]) == 2
    assert "/nonexistent/config.yaml: cannot be read" in capsys.readouterr().err


def test_the_first_line_on_stdin_is_the_cluster(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("mian\n2\nstandby_promote\n"))
    assert "has no cluster 'mian' HINT: did you mean 'main'?" in refused(capsys, "--config", str(FILE), "event", "-")


@pytest.mark.parametrize(
    ("uid", "path"),
    [
        (0, "/usr/local/sbin:/usr/sbin:/opt/bin:/usr/bin:/usr/local/bin"),
        (34, "/opt/bin:/usr/bin:/usr/local/bin:/usr/local/sbin:/usr/sbin"),
    ],
)
def test_programs_are_found_where_the_service_finds_them(monkeypatch: pytest.MonkeyPatch, uid: int, path: str) -> None:
    """`su` and cron leave out the sbin."""
    monkeypatch.setattr("os.geteuid", lambda: uid)
    monkeypatch.setenv("PATH", "/opt/bin::/usr/bin:/usr/local/bin")
    cli.complete_path()
    assert os.environ["PATH"] == path


def test_what_a_plug_in_prints_is_no_output_of_ours(tmp_path: Path) -> None:
    """A program reads it as JSON."""
    install(tmp_path, "print('hello')\n" + DNS)
    done = hooks(tmp_path, "config-schema")
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert "hello" in done.stderr


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_what_the_locale_has_no_letter_for_is_shown_all_the_same(tmp_path: Path, stream: str) -> None:
    """In ISO-8859-1 a dash in the reason of a pause cut `status` off, as a bug of ours."""
    script = f"import sys; from repmgr_hooks.cli import streams; streams.reopen(); print('\\u2013', file=sys.{stream})"
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "PYTHONIOENCODING": "iso-8859-1"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, env=environment, timeout=60, check=True, cwd=tmp_path
    )
    assert getattr(done, stream) == b"\\u2013\n"
