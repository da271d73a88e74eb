"""`check` with a fake world: each thing that is wrong makes its own finding; output for people and for machines."""

from __future__ import annotations

import errno
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from repmgr_hooks.checks import finding, kernel, service
from repmgr_hooks.checks.barman import backups
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.checks.packages import install
from repmgr_hooks.checks.users import User
from repmgr_hooks.cli import main as cli
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Program
from repmgr_hooks.system.visit import Visit
from tests.fake import KEEPALIVES, FakeHost, FakeNode, FakeSlot, NatTable

CONFIG = (Path(__file__).resolve().parents[3] / "config/config.yaml").read_text()
CONFIG = CONFIG.replace(", passfile: /etc/repmgr-hooks/pgpass", "")

RunResult = Callable[..., int]
Change = Callable[[FakeHost], object]


@pytest.fixture
def run(tmp_path: Path, host: FakeHost) -> RunResult:
    (tmp_path / "spool").mkdir()
    (tmp_path / "config.yaml").write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(tmp_path)))
    return lambda *argv: cli.run(["--config", str(tmp_path / "config.yaml"), "check", *argv])


def wrong(run: RunResult, capsys: pytest.CaptureFixture[str]) -> set[tuple[str, str]]:
    """Key and place of all that is not OK, as far as the fake world has a say in it."""
    run("--json")
    found = json.loads(capsys.readouterr().out)
    ours = ("nodes", "barman", "routes", "kernel", "repmgr.version", "rules", "gateway", "client", "recovery")
    bad = {(item["code"], item["where"]) for item in found if item["level"] != "OK" and item["code"].startswith(ours)}
    return {item for item in bad if item[0] not in ("kernel.managers", "barman.passfile")}


def lose_the_slot(host: FakeHost) -> None:
    host.nodes[1].slots["barman"].reserved = False


def flush(host: FakeHost) -> None:
    host.nat = NatTable()


def both_back_ends(host: FakeHost) -> None:
    saved = host.nat.save()
    host.serve_by_nft()
    host.nat = NatTable(saved)


def lead_a_port_elsewhere(host: FakeHost) -> None:
    host.nat = NatTable(host.nat.save().replace("10.0.0.11:5432", "10.0.0.12:5432"))


def settings(**said: str) -> Change:
    return lambda host: host.barman.settings.update(said)


def node(number: int, **said: object) -> Change:
    return lambda host: [setattr(host.nodes[number], name, value) for name, value in said.items()]


def both(*changes: Change) -> Change:
    return lambda host: [change(host) for change in changes]


def barman(**said: object) -> Change:
    return lambda host: [setattr(host.barman, name, value) for name, value in said.items()]


def of_world(**said: object) -> Change:
    return lambda host: [setattr(host, name, value) for name, value in said.items()]


DOCKERS = "-A INPUT -j ACCEPT\n-A FORWARD -o docker0 -j DOCKER\n-A FORWARD -i docker0 ! -o docker0 -j ACCEPT\n"
KEPT = {"lock_directory_cleanup": False}
WAITS = "Size: 30.6 MiB - WAL Size: 0 B - WAITING_FOR_WALS"
FAILED = "main_backup 20261124T225439 - FAILED\n"
BACKUPS = "main_backup 20261125T225439 - Wed Nov 25 22:54:42 2026 - Size: 30.6 MiB - WAL Size: 0 B\n"
FORWARD = "main iptables -t filter FORWARD"
GOOD_WAY = "host=10.0.0.20 port=54321 user=barman"
ALIVE = f"{GOOD_WAY} connect_timeout=5 {KEEPALIVES}"


def named(name: str, address: str) -> Change:
    """Barman knows the gateway by a name."""

    def change(host: FakeHost) -> None:
        host.barman.names = {name: address} if address else {}
        for option in ("conninfo", "streaming_conninfo"):
            host.barman.settings[option] = ALIVE.replace("10.0.0.20", name)

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda host: None, set()),
        (lambda host: host.lose(2), {("nodes.answer", "main node 2")}),
        (lambda host: host.lose(1), {("nodes.answer", "main node 1")}),
        (lambda host: [host.lose(1), host.lose(2)], {("nodes.answer", f"main node {n}") for n in (1, 2)}),
        (node(2, clock_ahead=3600.0), {("nodes.clock", "main node 2")}),
        (node(2, clock_ahead=-5.0), {("nodes.clock", "main node 2")}),
        (node(2, clock_ahead=1.5), set()),
        (node(2, most_slots=0), {("nodes.slots", "main node 2")}),
        (node(1, most_wal="-1"), {("nodes.wal", "main node 1")}),
        (node(2, idle_timeout="1h"), {("nodes.idle_slots", "main node 2")}),
        (node(1, waited_for='repmgr_slot_2, "barman"'), {("nodes.logical", "main node 1")}),
        (node(1, waited_for="barman2"), set()),
        (node(2, cannot_archive=True), {("nodes.archiving", "main node 2")}),
        (both(node(1, summarizes="on"), node(2, summarizes="off")), {("nodes.summaries", "main node 2")}),
        (both(node(1, summarizes="on"), node(2, summarizes="on")), set()),
        (both(node(1, summarizes="off"), node(2, summarizes="off")), set()),
        (node(2, retry_interval=5000), {("nodes.retry", "main node 2")}),
        (both(node(2, retry_interval=5000), node(1, waits_for="")), {("nodes.retry", "main node 2")}),
        (both(node(1, retry_interval=5000, waits_for=""), node(2, waits_for="  ")), set()),
        (node(2, retry_interval=1000), set()),
        (node(1, lacking=("pg_monitor", "replication")), {("nodes.rights", "main")}),
        (node(2, in_recovery=False), {("nodes.primary", "main")}),
        (node(1, in_recovery=True, registered=(2,)), {("nodes.primary", "main")}),
        (node(1, registered=(2,)), {("nodes.registered", "main")}),
        (node(1, inactive=(2,)), {("nodes.registered", "main")}),
        (lambda host: [host.lose(2), setattr(host.nodes[1], "inactive", (2,))], {("nodes.answer", "main node 2")}),
        (node(2, paused=True), {("nodes.failover", "main")}),
        (node(2, port=5433), {("nodes.port", "main node 2")}),
        (node(2, host="10.9.9.9", port=5433), set()),
        (node(2, unseen_for=24), {("nodes.failover", "main")}),
        (node(1, unelectable=(2,)), {("nodes.failover", "main")}),
        (of_world(repmgr="repmgr 4.0.3"), {("repmgr.version", "main")}),
        (of_world(repmgr="of no version"), {("repmgr.version", "main")}),
        (of_world(forwarding=False), {("kernel.forwarding", "IPv4")}),
        (of_world(not_forwarding={"eth0"}), {("kernel.forwarding", "main eth0")}),
        (flush, {("kernel.chains", "main")}),
        (
            lead_a_port_elsewhere,
            {("routes.state", "main"), ("barman.primary", "main_backup"), ("client.write", "main")},
        ),
        (of_world(filter=":FORWARD DROP [0:0]\n"), {("rules.foreign", FORWARD)}),
        (of_world(filter=":FORWARD DROP [0:0]\n-A FORWARD -m conntrack --ctstate DNAT -j ACCEPT\n"), set()),
        (of_world(filter=f":FORWARD DROP [0:0]\n{DOCKERS}"), {("rules.foreign", FORWARD)}),
        (of_world(filter=f":FORWARD DROP [0:0]\n{DOCKERS}-A FORWARD -i eth0 -o eth0 -j ACCEPT\n"), set()),
        (of_world(native_tables={("inet", "theirs")}), {("rules.foreign", "main nft")}),
        (of_world(native_tables={("ip", "nat"), ("ip6", "theirs"), ("bridge", "theirs")}), set()),
        (of_world(addresses=set()), {("gateway.address", "main")}),
        (of_world(no_way_back={("10.0.0.20", "10.0.0.12")}), set()),
        (node(1, client=Visit("connect", "FATAL:  no pg_hba.conf entry")), {("client.write", "main")}),
        (of_world(tracked=(9500, 10000)), {("kernel.conntrack", "IPv4")}),
        (lose_the_slot, {("routes.state", "main")}),
        (lambda host: host.nodes[2].slots.update(barman=FakeSlot()), {("routes.state", "main")}),
        (barman(health="ruins"), {("barman.answer", "main_backup")}),
        (barman(health="hangs"), {("barman.answer", "main_backup")}),
        (settings(conninfo="host=10.0.0.11 user=barman"), {("barman.conninfo", "main_backup")}),
        (settings(conninfo="user=barman port=54321"), {("barman.conninfo", "main_backup")}),
        (settings(streaming_conninfo="host=10.0.0.20 port=5432"), None),
        (settings(streaming_conninfo=GOOD_WAY), {("barman.keepalives", "main_backup")}),
        (settings(postgres_systemid="None"), {("barman.primary", "main_backup")}),
        (settings(streaming_systemid="7300000000000000002"), {("barman.primary", "main_backup")}),
        (settings(timeline="2"), {("barman.primary", "main_backup")}),
        (settings(slot_name="None"), {("barman.slot", "main_backup")}),
        (settings(create_slot="auto"), {("barman.slot", "main_backup")}),
        (settings(active="False"), {("barman.active", "main_backup")}),
        (settings(disabled="True"), {("barman.active", "main_backup")}),
        (settings(passive_node="True"), {("barman.active", "main_backup")}),
        (settings(streaming_archiver="False"), {("barman.active", "main_backup")}),
        (settings(streaming_archiver_name="other"), {("barman.active", "main_backup")}),
        # WAL may have ways of its own, and backups come from a standby.
        (settings(wal_streaming_conninfo="host=10.0.0.11 user=x"), None),
        (settings(wal_streaming_conninfo=ALIVE, wal_conninfo="host=10.0.0.11 user=x"), None),
        (settings(wal_streaming_conninfo=ALIVE, wal_conninfo="None", conninfo="host=10.0.0.12 user=x"), set()),
        (settings(wal_streaming_conninfo=ALIVE, is_in_recovery="True", timeline="2"), set()),
        (settings(wal_streaming_conninfo=ALIVE, postgres_systemid="73"), {("barman.primary", "main_backup")}),
        (settings(wal_streaming_conninfo=ALIVE, wal_conninfo=GOOD_WAY, conninfo="host=10.0.0.12 user=x"), set()),
        # By a service nobody can say where it leads; a name is looked up where Barman runs.
        (settings(conninfo="service=main"), {("barman.conninfo", "main_backup")}),
        (named("gateway", "10.0.0.20"), set()),
        (named("gateway", "10.0.0.11"), {("barman.conninfo", "main_backup")}),
        (named("unknown", ""), {("barman.conninfo", "main_backup")}),
        (barman(errors=("000000020000000000000005.20261125T010101Z.duplicate",)), {("barman.errors", "main_backup")}),
        (barman(errors=("000000010000000000000005.partial.2026.duplicate",)), {("barman.errors", "main_backup")}),
        (barman(late=("000000010000000000000004",)), set()),
        (
            barman(late=("000000010000000000000003", "000000010000000000000004")),
            {("barman.backlog", "main_backup")},
        ),
        (node(2, restore_command=""), {("recovery.history", "main node 2")}),
        (barman(version="3.14.0"), {("barman.locks", "main_backup")}),
        (barman(version="3.14.0", general={"lock_directory_cleanup": False}), set()),
        (barman(version="3.14.0", general={"lock_directory_cleanup": "true"}), {("barman.locks", "main_backup")}),
        (barman(version="3.19.1"), {("barman.locks", "main_backup")}),
        (barman(version="3.19.1", general=KEPT), set()),
        (barman(version="3.13.3", general=KEPT, has_file=False), set()),
        (barman(version="3.14.0", general=KEPT, has_file=False), {("barman.backup", "main_backup")}),
        (barman(backups=BACKUPS), set()),
        (barman(backups=""), {("barman.backup", "main_backup")}),
        (barman(backups="", unnoted=True), {("barman.backup", "main_backup")}),
        (barman(backups=FAILED), {("barman.backup", "main_backup")}),
        (barman(backups=FAILED, unnoted=True), {("barman.backup", "main_backup")}),
        (barman(backups=BACKUPS + FAILED), set()),
        (barman(backups=BACKUPS.replace("Size: 30.6 MiB - WAL Size: 0 B", WAITS)), {("barman.backup", "main_backup")}),
        (
            barman(backups=BACKUPS.replace("Size: 30.6 MiB - WAL Size: 0 B", WAITS), unnoted=True),
            {("barman.backup", "main_backup")},
        ),
        (barman(cron_ran=600.0), {("barman.cron", "main_backup")}),
        (barman(cron_ran=None), {("barman.cron", "main_backup")}),
        (barman(cron_ran=100.0), set()),
        (barman(cron_ran=-3600.0), {("barman.cron", "main_backup")}),
        (barman(room=2**20), {("barman.disk", "main_backup")}),
        (barman(room=2**30), set()),
        (barman(closed=("/var/lib/barman/main_backup/wals",)), {("barman.disk", "main_backup")}),
    ],
)
def test_each_fault_makes_its_own_finding(
    run: RunResult,
    capsys: pytest.CaptureFixture[str],
    host: FakeHost,
    change: Change,
    expected: set[tuple[str, str]] | None,
) -> None:
    change(host)
    found = wrong(run, capsys)
    assert found == expected if expected is not None else ("barman.conninfo", "main_backup") in found
    assert not [what for what in host.what_changed() if not what.startswith("barman show")]


@pytest.mark.parametrize(
    ("number", "name", "slot", "segment", "named"),
    [
        (1, "dr", FakeSlot(), 100, True),
        (2, "dr", FakeSlot(), 100, True),
        (1, "dr", FakeSlot(), 60, False),
        (1, "dr", FakeSlot(active=True), 100, False),
        (1, "dr", FakeSlot(reserved=False), 100, False),
        (1, "sub", FakeSlot(physical=False, failover=True), 100, True),
        (2, "sub", FakeSlot(physical=False, failover=True, synced=True), 100, False),
        (1, "barman", FakeSlot(), 100, False),
        (1, "repmgr_slot_2", FakeSlot(), 100, False),
        (2, "repmgr_slot_1", FakeSlot(), 100, True),
        (1, "repmgr_slot_7", FakeSlot(), 100, True),
    ],
)
def test_a_slot_that_holds_wal_for_nobody(
    run: RunResult,
    capsys: pytest.CaptureFixture[str],
    host: FakeHost,
    number: int,
    name: str,
    slot: FakeSlot,
    segment: int,
    named: bool,
) -> None:
    """A route that named it was taken out; or repmgr left it on an old primary."""
    host.nodes[number].slots[name] = slot
    for each in host.nodes.values():
        each.segment = segment
    assert (("nodes.unused_slots", f"main node {number}") in wrong(run, capsys)) is named


def add_readers(file: Path) -> None:
    opened = "- firewall: {open: app, fail_open_after: 120}"
    text = file.read_text().replace("app: 54322", "app: 54322, readers: 54323")
    text = text.replace("2: {host: 10.0.0.12}", "2: {host: 10.0.0.12}\n      3: {host: 10.0.0.13}")
    file.write_text(text.replace(opened, f"{opened}\n          - firewall: {{open: readers, to: standbys}}"))


@pytest.mark.parametrize("backend", ["iptables", "nftables"])
@pytest.mark.parametrize("able", [True, False])
def test_a_kernel_that_cannot_share_connections(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost, tmp_path: Path, backend: str, able: bool
) -> None:
    file = tmp_path / "config.yaml"
    add_readers(file)
    file.write_text(file.read_text().replace("backend: iptables", f"backend: {backend}"))
    host.nodes[3] = FakeNode("10.0.0.13", upstream=1)
    if backend == "nftables":
        host.serve_by_nft()

    given = host.run

    def lacking(program: Program, limit: float) -> str:
        if "numgen" in program.stdin or "statistic" in program.stdin:
            raise OperationFailed("missing kernel module?")
        return given(program, limit)

    if not able:
        host.run = lacking  # type: ignore[method-assign]
    found = wrong(run, capsys)
    assert (("kernel.sharing", "main") in found) is not able
    assert not [what for what in host.what_changed() if not what.startswith("barman show")]
    assert not {code for code, _ in found} & {"rules.foreign", "kernel.chains"}


def test_who_may_not_read_the_rules_is_not_said_to_have_a_kernel_that_cannot_share(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost, tmp_path: Path
) -> None:
    add_readers(tmp_path / "config.yaml")
    host.nodes[3] = FakeNode("10.0.0.13", upstream=1)

    def denied(program: Program) -> str:
        raise OperationFailed(f"{program.argv[0]}: Permission denied (you must be root)")

    host.programs.update({"iptables-save": denied, "iptables-restore": denied})
    assert "kernel.sharing" not in {code for code, _ in wrong(run, capsys)}


def test_a_kernel_is_asked_before_our_chains_are_there(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost, tmp_path: Path
) -> None:
    add_readers(tmp_path / "config.yaml")
    host.nodes[3] = FakeNode("10.0.0.13", upstream=1)
    flush(host)
    tried: list[Program] = []
    host.programs["iptables-restore"] = lambda program: str(tried.append(program) or "")
    assert ("kernel.chains", "main") in wrong(run, capsys)
    assert "--test" in tried[0].argv


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (FakeHost.serve_by_nft, set()),
        # What iptables has is to be removed: that is all, for it leads to the primary.
        (lambda host: None, {("kernel.chains", "main")}),
        (lambda host: [flush(host), host.serve_by_nft(), host.nft.flush()], {("kernel.chains", "main")}),
        (both_back_ends, {("routes.state", "main")}),
    ],
)
def test_the_same_with_nftables(
    run: RunResult,
    capsys: pytest.CaptureFixture[str],
    host: FakeHost,
    tmp_path: Path,
    change: Change,
    expected: set[tuple[str, str]],
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(file.read_text().replace("backend: iptables", "backend: nftables"))
    change(host)
    assert wrong(run, capsys) == expected


@pytest.mark.parametrize(
    ("legacy", "mode", "said"),
    [
        (False, None, "OK    iptables writes to nf_tables"),
        (True, None, "FAIL  iptables-legacy, as which 'iptables' is installed, locks {lock}: it does not exist, and"),
        (True, 0o600, "FAIL  iptables-legacy, as which 'iptables' is installed, locks {lock}: x may not read"),
        (True, 0o640, "OK    iptables writes to iptables-legacy"),
    ],
)
def test_who_may_take_the_lock_of_iptables_legacy(host: FakeHost, legacy: bool, mode: int | None, said: str) -> None:
    """It is opened with O_CREAT and 0600: whoever comes first makes it, and then only root may change a rule."""
    host.legacy = legacy
    with tempfile.TemporaryDirectory(dir="/tmp") as run:
        Path(run).chmod(0o755)
        lock, group = Path(run, "xtables.lock"), os.getegid()
        if mode is not None:
            lock.touch()
            lock.chmod(mode)
        (found,) = kernel.backend(User("x", 12345, group, (group,), "/"), host, lock)
    assert f"{found.level:4}  {found.message}".startswith(said.format(lock=lock))
    assert (found.hint == "systemd-tmpfiles --create /etc/tmpfiles.d/repmgr-hooks.conf") is (found.level == "FAIL")


def test_a_role_without_rights_is_told_all_of_them(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost
) -> None:
    host.nodes[1].lacking = ("replication", "pg_monitor")
    assert run() == 1
    shown = capsys.readouterr().out
    assert "main: repmgr lacks replication, pg_monitor\n      HINT: on the primary: psql -v role=repmgr" in shown


def test_what_is_wrong_stands_first_and_the_numbers_last(
    run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost
) -> None:
    host.lose(2)
    host.nodes[1].most_wal = "-1"
    assert run() == 1
    lines = capsys.readouterr().out.splitlines()
    levels = [line.split()[0] for line in lines[:-1] if not line.startswith("      HINT: ")]
    assert levels == sorted(levels, key=["FAIL", "WARN", "OK"].index)
    counts = [f"{levels.count(level)} {level}" for level in ("FAIL", "WARN", "OK")]
    assert lines[-1] == ", ".join(counts)
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL  nodes.answer        main node 2: ")]
    assert lines[at + 1].startswith("      HINT: start PostgreSQL there; see it: sudo -u ")


def test_every_finding_can_be_told_from_every_other(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    run("--json")
    found = json.loads(capsys.readouterr().out)
    assert {frozenset(item) for item in found} == {frozenset({"level", "message", "hint", "code", "where"})}
    names = [(item["code"], item["where"]) for item in found]
    assert len(names) == len(set(names))
    assert all(item["hint"] for item in found if item["level"] != "OK")


def test_two_clusters_side_by_side(run: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """What the machine has once is said once."""
    (tmp_path / "config.yaml").write_text(
        f"state_dir: {tmp_path}\nclusters:\n"
        "  a: {nodes: {1: {host: 10.0.0.11}}, gateway: {address: 10.0.0.20, ports: {app: 5}},\n"
        "      routes: [{on: [standby_promote], do: [{firewall: {open: app}}]}]}\n"
        "  b: {nodes: {2: {host: 10.0.0.12}}, gateway: {address: 10.0.0.20, ports: {app: 6},\n"
        "      chains: {dnat: b_dnat, snat: b_snat}},\n"
        "      routes: [{on: [standby_promote], do: [{firewall: {open: app}}]}]}\n"
    )
    run("--json")
    found = json.loads(capsys.readouterr().out)
    names = [(item["code"], item["where"]) for item in found]
    assert len(names) == len(set(names))
    assert [where for key, where in names if key == "kernel.forwarding"] == ["IPv4"]
    assert sorted(where for key, where in names if key == "kernel.chains") == ["a", "b"]


@pytest.mark.parametrize(
    ("levels", "line", "code"),
    [
        (["OK"], "REPMGR_HOOKS OK - 0 FAIL, 0 WARN, 1 OK | fail=0 warn=0 ok=1", 0),
        (
            ["OK", "WARN"],
            "REPMGR_HOOKS WARNING - 0 FAIL, 1 WARN, 1 OK: nodes.wal db: so/ so | fail=0 warn=1 ok=1",
            1,
        ),
        (
            ["WARN", "FAIL"],
            "REPMGR_HOOKS CRITICAL - 1 FAIL, 1 WARN, 0 OK: nodes.wal db: so/ so; nodes.wal db: so/ so"
            " | fail=1 warn=1 ok=0",
            2,
        ),
    ],
)
def test_the_line_for_nagios(levels: list[finding.Level], line: str, code: int) -> None:
    found = [Finding(level, "so|\nso", "hint", "nodes.wal", "db") for level in levels]
    assert finding.nagios(found) == (line, code)


def test_nagios_is_told_of_a_wrong_configuration(
    run: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text("clusters: {}\nbogus: |\n")
    assert run("--nagios") == 3
    output = capsys.readouterr()
    assert output.err == ""
    (line,) = output.out.splitlines()
    assert line.startswith("REPMGR_HOOKS UNKNOWN - ")
    assert "|" not in line
    assert run() == 2


def test_nagios_is_told_of_what_cannot_be_looked_at(
    run: RunResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> list[Finding]:
        raise PermissionError(errno.EACCES, "Permission denied", "/var/lib/barman/.pgpass")

    monkeypatch.setattr("repmgr_hooks.checks.findings", refused)
    assert run("--nagios") == 3
    assert capsys.readouterr().out.startswith("REPMGR_HOOKS UNKNOWN - [Errno 13] Permission denied: '/var/lib/barman")


def test_nagios_is_told_of_a_fault(run: RunResult, capsys: pytest.CaptureFixture[str], host: FakeHost) -> None:
    host.lose(2)
    assert run("--nagios") == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("REPMGR_HOOKS CRITICAL - ")
    assert "nodes.answer main node 2: " in line


def test_json_and_nagios_are_two_things(run: RunResult, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run("--json", "--nagios")
    assert ended.value.code == 2


def test_a_state_directory_that_is_not_there_is_not_made(
    run: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = tmp_path / "gone"
    (tmp_path / "config.yaml").write_text(CONFIG.replace("/var/lib/repmgr-hooks", str(gone)))
    assert run() == 1
    assert f"FAIL  files.state         {gone}: " in capsys.readouterr().out
    assert not gone.exists()


def test_a_pause_and_a_failed_run(
    run: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path, host: FakeHost
) -> None:
    cli.run(["--config", str(tmp_path / "config.yaml"), "pause", "--reason", "new disks"])
    capsys.readouterr()
    run()
    shown = capsys.readouterr().out
    assert "WARN  service.paused      main: paused (new disks): events are stored, nothing is done" in shown
    assert "      HINT: repmgr-hooks resume --cluster main" in shown
    assert "OK    service.failed      main: the last run did not fail" in shown


def test_a_run_that_has_failed(run: RunResult, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db")
    number = journal.begin_run("main", "event", 20, [])
    journal.end_run(number, False, True, "FAILED after 9.0 s: barman is in ruins", 1, 1)
    assert run() == 1
    shown = capsys.readouterr().out
    assert "FAIL  service.failed      main: the last run failed: FAILED after 9.0 s: barman is in ruins\n" in shown
    assert "      HINT: repmgr-hooks reconcile --cluster main\n" in shown


@pytest.mark.parametrize(("disabled", "level"), [([], "OK"), (["repmgr-hooks-boot.service"], "WARN")])
def test_a_unit_that_is_not_enabled(host: FakeHost, disabled: list[str], level: str) -> None:
    def systemctl(program: Program) -> str:
        if program.argv[2] in disabled:
            raise OperationFailed("disabled")
        return "enabled\n"

    host.programs["systemctl"] = systemctl
    found = service.enabled(host)
    assert found.level == level
    assert found.hint.endswith(" ".join(disabled))


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        (["apt"], "apt install conntrack"),
        (["apt", "dnf"], "apt install conntrack"),
        (["dnf"], "dnf install conntrack-tools"),
        ([], "apt install conntrack"),
    ],
)
def test_a_package_is_named_for_the_program_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: list[str], said: str
) -> None:
    for program in programs:
        (tmp_path / program).touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install("conntrack", "conntrack-tools") == said


# -- other firewall managers -------------------------------------------------------------------------------------------

FIREWALLD = "firewalld/firewalld.conf"
DROPS = 'DEFAULT_FORWARD_POLICY="DROP"\n'


@pytest.mark.parametrize(
    ("files", "enabled", "named"),
    [
        ({}, [], ""),
        ({"nftables.conf": "flush ruleset\n"}, [], ""),
        ({"nftables.conf": "flush ruleset\n"}, ["nftables"], "nftables"),
        ({"nftables.conf": "table inet filter {}\n"}, ["nftables"], ""),
        ({}, ["firewalld"], "firewalld"),
        ({FIREWALLD: "FirewallBackend=iptables\n"}, ["firewalld"], "firewalld"),
        ({FIREWALLD: "FirewallBackend=nftables\nStrictForwardPorts=no\n"}, ["firewalld"], ""),
        ({FIREWALLD: "FirewallBackend=nftables\nStrictForwardPorts=yes\n"}, ["firewalld"], "firewalld"),
        ({"iptables/rules.v4": "*filter\nCOMMIT\n"}, ["netfilter-persistent"], ""),
        ({"iptables/rules.v4": "*nat\nCOMMIT\n"}, ["netfilter-persistent"], "netfilter-persistent"),
        ({"sysconfig/nftables.conf": "# nothing\n"}, ["nftables"], "nftables"),
        ({"sysconfig/nftables.conf": "# nothing\n"}, [], ""),
        ({"sysconfig/iptables": "*filter\nCOMMIT\n"}, ["iptables"], "iptables"),
        ({"sysconfig/ip6tables": "*filter\nCOMMIT\n"}, ["ip6tables"], "iptables"),
        ({"sysconfig/iptables": "*filter\nCOMMIT\n"}, [], ""),
        ({"ufw/ufw.conf": "ENABLED=yes\n", "default/ufw": DROPS}, [], "ufw"),
        ({"ufw/ufw.conf": "ENABLED=no\n", "default/ufw": DROPS}, [], ""),
        ({"ufw/ufw.conf": "ENABLED=yes\n", "default/ufw": DROPS.replace("DROP", "ACCEPT")}, [], ""),
    ],
)
def test_another_firewall_manager(tmp_path: Path, files: dict[str, str], enabled: list[str], named: str) -> None:
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for unit in enabled:
        (wants / f"{unit}.service").symlink_to(f"/lib/systemd/system/{unit}.service")
    for name, text in files.items():
        (tmp_path / "etc" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "etc" / name).write_text(text)
    found = kernel.managers(tmp_path, 5)
    assert found.level == ("WARN" if named else "OK")
    assert found.message.startswith(named)


BASE, META = "/var/lib/barman/main/base", "/var/lib/barman/main/meta"
OLD, NEW = "20261124T225439", "20261125T225439"


@pytest.mark.parametrize(
    ("printed", "known"),
    [
        ([], {}),
        ([f"{BASE}/{OLD}/backup.info:status=WAITING_FOR_WALS", f"{BASE}/{OLD}"], {OLD: "WAITING_FOR_WALS"}),
        ([f"{BASE}/{OLD}", f"{META}/{OLD}-backup.info:status=WAITING_FOR_WALS"], {OLD: "WAITING_FOR_WALS"}),
        # A copy for repmgr, or what an older Barman has left.
        ([f"{META}/{OLD}-backup.info:status=DONE", f"{BASE}/{OLD}/backup.info:status=WAITING_FOR_WALS"], {OLD: "DONE"}),
        ([f"{META}/{n}-backup.info:status=FAILED" for n in (OLD, NEW)], {OLD: "FAILED", NEW: "FAILED"}),
        ([f"{META}/{OLD}-backup.info:status=DONE", f"{BASE}/{NEW}"], None),
    ],
)
def test_what_barman_notes_of_its_backups(printed: list[str], known: dict[str, str] | None) -> None:
    class Noted(FakeHost):
        def run(self, program: Program, limit: float) -> str:
            if program.argv[0] == "find":
                return "".join(f"{line}\n" for line in printed)
            assert program.argv == ("barman", "list-backup", "main")
            return f"main {NEW} - Wed Nov 25 22:54:42 2026 - {WAITS}\n"

    found = backups({"basebackups_directory": BASE, "backup_directory": BASE}, Barman("main"), Noted())
    assert found == ({NEW: "WAITING_FOR_WALS"} if known is None else known)


@pytest.mark.parametrize(
    ("change", "more"),
    [
        (barman(backups=BACKUPS), set()),
        (barman(backups=BACKUPS, version="3.14.0", general=KEPT), set()),
        (barman(backups=BACKUPS, version="3.19.1", general=KEPT), {("barman", "diagnose")}),
        (barman(backups=BACKUPS, unnoted=True), {("barman", "list-backup", "main_backup")}),
    ],
)
def test_barman_is_asked_once(run: RunResult, host: FakeHost, change: Change, more: set[tuple[str, ...]]) -> None:
    """Each start of it takes longer than all the rest; several checks, and the routes, want to know the same."""
    change(host)
    asked: list[tuple[str, ...]] = []
    run_program = host.run

    def counted(program: Program, limit: float) -> str:
        asked.append(program.argv)
        return run_program(program, limit)

    host.run = counted  # type: ignore[method-assign]
    run()
    again = {words for words in asked if asked.count(words) > 1 and words[0] in ("barman", "find")}
    assert not again
    assert {words for words in asked if words[0] == "barman"} == {("barman", "show-server", "main_backup")} | more
