"""`check` on a real cluster: all is well; then one fault after the other, and each is named, and only that one."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager as Context

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import follows, runs
from tests.endtoend.test_plain_role import grant, use_plain_role
from tests.lab import DATA, Host, Lab, wait_for, wait_for_answer
from tests.lab.barman import back_up
from tests.lab.versions import BINARIES, KEEPS_LOCKS

CONFIG = "/etc/repmgr-hooks/config.yaml"
PASSFILE = "/etc/repmgr-hooks/pgpass"
ROOT = "/etc/repmgr-hooks/root.crt"
PLAIN, VERIFIED = "timeout: 2", f"sslmode: verify-full, sslrootcert: {ROOT}"
STATE = "/var/lib/repmgr-hooks"
PATH_OF_SU = ("env", "PATH=/usr/local/bin:/usr/bin:/bin")
"""Without the places of what only root needs."""
LOOKED = f"{STATE}/cluster-main.looked"
REPMGR = "/etc/repmgr/db1.conf"
SERVER = "/etc/barman.d/main_backup.conf"
LOCK = "/var/lib/barman/.main_backup-cron.lock"
LINE = "event --cluster main %n %e %s "

Fault = Callable[[Lab], Iterator[None]]
NAMES = ("db2.example", "db2.invalid")
FAULTS: list[tuple[Callable[[Lab], Context[None]], set[tuple[str, str]]]] = []


@pytest.fixture(scope="module")
def healthy() -> Iterator[Lab]:
    """A cluster in service, looked at by a role that is no superuser. The service looks seldom, and mends no fault."""
    with fresh_lab() as lab:
        lab.build()
        use_plain_role(lab)
        grant(lab, "watcher")
        lab.db2.sql("alter system set restore_command = 'false'")
        lab.db2.pg_ctl("reload")
        config = lab.gateway.path(CONFIG)
        config.write_text(config.read_text().replace("monitor_interval: 5", "monitor_interval: 3600"))
        speak_tls(lab)
        assert lab.gateway.hooks("reconcile").returncode == 0
        back_up(lab, lab.db1)
        lab.start_passive_repmgrd()
        lab.start_cron()
        start_service(lab)
        wait_for(lambda: lab.gateway.path(LOCK).exists(), "Barman's cron")
        yield lab


def start_service(lab: Lab) -> None:
    """Its first look would repair what a test breaks."""
    lab.gateway.path(LOOKED).unlink(missing_ok=True)
    lab.start_worker()
    wait_for(lambda: lab.gateway.path(LOOKED).exists(), "the service to have looked")


def speak_tls(lab: Lab) -> None:
    """The nodes show a certificate for their addresses, and for names that some tests give them; we ask for it."""
    names = ",".join([*(f"IP:{node.address}" for node in lab.databases), *(f"DNS:{name}" for name in NAMES)])
    key, certificate = lab.gateway.path("/root/key.pem"), lab.gateway.path("/root/certificate.pem")
    key.parent.mkdir(exist_ok=True)
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    named = ("-days", "2", "-subj", "/CN=lab", "-addext", f"subjectAltName={names}")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run((*made, *named, *files), check=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    for node in lab.databases:
        lab.put(node, f"{DATA}/server.key", key.read_text(), 0o600, "postgres")
        lab.put(node, f"{DATA}/server.crt", certificate.read_text(), 0o644, "postgres")
        node.sql("alter system set ssl = on")
        node.pg_ctl("reload")
    lab.put(lab.gateway, ROOT, certificate.read_text())
    config = lab.gateway.path(CONFIG)
    config.write_text(config.read_text().replace(PLAIN, f"{PLAIN}, {VERIFIED}"))


@pytest.fixture
def watched(healthy: Lab) -> Iterator[Lab]:
    """The same with a repmgrd of db1, and what its repmgr.conf says put back afterwards."""
    before = healthy.gateway.path(REPMGR).read_text()
    healthy.start_repmgrd(1)
    yield healthy
    healthy.stop_repmgrd(1)
    healthy.gateway.path(REPMGR).write_text(before)


def wrong(result: subprocess.CompletedProcess[str]) -> set[tuple[str, str]]:
    """Key and place of everything that is not OK."""
    assert result.stderr == ""
    found = [finding for finding in json.loads(result.stdout) if finding["level"] != "OK"]
    assert result.returncode == any(finding["level"] == "FAIL" for finding in found)
    assert all(finding["hint"] for finding in found)
    return {(finding["code"], finding["where"]) for finding in found}


def checked(lab: Lab, expected: set[tuple[str, str]]) -> None:
    """Wait until ``check`` finds this and nothing else: what was put in or taken out before may still be at work."""
    wait_for_answer(
        lambda: lab.gateway.hooks("check", "--json"), lambda result: wrong(result) == expected, f"only {expected}"
    )


def test_a_good_cluster(healthy: Lab) -> None:
    checked(healthy, set())
    result = healthy.gateway.hooks("check")
    *lines, summary = result.stdout.splitlines()
    assert (result.returncode, result.stderr) == (0, "")
    assert [line for line in lines if not line.startswith("OK ")] == []
    assert summary == f"0 FAIL, 0 WARN, {len(lines)} OK"
    result = healthy.gateway.hooks("check", "--nagios")
    assert result.returncode == 0
    assert result.stdout.startswith("REPMGR_HOOKS OK - ")


def test_a_node_with_another_certificate_gets_no_password(healthy: Lab) -> None:
    other = healthy.gateway.path("/root/other.pem")
    words = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    files = ("-subj", "/CN=other", "-keyout", "/dev/null", "-out", str(other))
    subprocess.run((*words, *files), check=True, capture_output=True, timeout=20, stdin=subprocess.DEVNULL)
    right = healthy.gateway.path(ROOT).read_text()
    healthy.put(healthy.gateway, ROOT, other.read_text())
    try:
        found = json.loads(healthy.gateway.hooks("check", "--json").stdout)
    finally:
        healthy.put(healthy.gateway, ROOT, right)
    silent = {finding["where"]: finding["message"] for finding in found if finding["code"] == "nodes.answer"}
    assert len(silent) == len(healthy.databases)
    assert all("certificate verify failed" in what for what in silent.values()), silent


@pytest.mark.parametrize(
    ("user", "unseen"),
    [
        ("root", set()),
        ("barman", {"kernel.chains", "rules.foreign", "service.sudo"}),
        ("postgres", {"kernel.chains", "rules.foreign", "files.user", "service.journal", "barman.passfile"}),
    ],
)
def test_what_cannot_be_seen_is_said(healthy: Lab, user: str, unseen: set[str]) -> None:
    checked(healthy, set())
    # As Debian makes it, and as `su` hands PATH on.
    healthy.gateway.run("chmod", "0750", "/var/lib/barman")
    try:
        result = healthy.gateway.result(*PATH_OF_SU, "/usr/local/bin/repmgr-hooks", "check", "--json", user=user)
    finally:
        healthy.gateway.run("chmod", "0755", "/var/lib/barman")
    found = [finding for finding in json.loads(result.stdout) if finding["level"] != "OK"]
    assert {finding["code"] for finding in found} == unseen
    assert {finding["hint"] for finding in found} <= {"run this check as root"}
    assert result.returncode == 0


# -- the faults: each is put in, and taken out again ----------------------------------------------------------------


def fault(key: str, where: str = "") -> Callable[[Fault], Fault]:
    """Enter a fault, and what ``check`` is to find then."""

    def enter(put_in: Fault) -> Fault:
        FAULTS.append((contextlib.contextmanager(put_in), {(key, where)}))
        return put_in

    return enter


@contextlib.contextmanager
def edited(host: Host, place: str, old: str, new: str) -> Iterator[None]:
    """A file says something else for a while."""
    path = host.path(place)
    before = path.read_text()
    assert old in before
    path.write_text(before.replace(old, new))
    try:
        yield
    finally:
        path.write_text(before)


@contextlib.contextmanager
def mode(host: Host, place: str, mode: int) -> Iterator[None]:
    before = host.run("stat", "-Lc", "%a", place).strip()
    host.run("chmod", f"{mode:o}", place)
    yield
    host.run("chmod", before, place)


@contextlib.contextmanager
def owner(host: Host, place: str, owner: str, before: str) -> Iterator[None]:
    host.run("chown", owner, place)
    yield
    host.run("chown", before, place)


@contextlib.contextmanager
def said_by(lab: Lab, program: str, version: str) -> Iterator[None]:
    """A program of another version, for all that anybody can see."""
    script = f'#!/bin/sh\n[ "$1" = --version ] && echo "{version}" && exit\nexec /usr/bin/{program} "$@"\n'
    lab.put(lab.gateway, f"/usr/local/bin/{program}", script, 0o755)
    yield
    lab.gateway.path(f"/usr/local/bin/{program}").unlink()


@contextlib.contextmanager
def barman_shows(lab: Lab, line: str) -> Iterator[None]:
    """Barman shows one more option of a server, as a newer one does."""
    script = f'#!/bin/sh\n/usr/bin/barman "$@" || exit\ncase "$*" in *show-server*) printf "\\t{line}\\n";; esac\n'
    lab.put(lab.gateway, "/usr/local/bin/barman", script, 0o755)
    yield
    lab.gateway.path("/usr/local/bin/barman").unlink()


@fault("files.config", CONFIG)
def configuration_that_the_hook_cannot_read(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, CONFIG, 0o600):
        yield


@fault("files.state", STATE)
def state_directory_that_others_can_write(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, STATE, 0o777):
        yield


@fault("files.spool", f"{STATE}/spool")
def spool_closed_to_repmgrd(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, f"{STATE}/spool", 0o700):
        yield


@fault("files.spool", f"{STATE}/spool")
def spool_open_to_everybody(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, f"{STATE}/spool", 0o2777):
        yield


@fault("files.journal", STATE)
def journal_of_another_owner(lab: Lab) -> Iterator[None]:
    with owner(lab.gateway, f"{STATE}/journal.db", "root:root", "barman:postgres"):
        yield


@fault("files.program", "/usr/local/bin/repmgr-hooks")
def program_that_others_can_write(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, "/usr/local/bin/repmgr-hooks", 0o777):
        yield


@fault("files.command", "/usr/local/bin/page-somebody")
def program_that_the_service_cannot_run(lab: Lab) -> Iterator[None]:
    lab.put(lab.gateway, "/usr/local/bin/page-somebody", "#!/bin/sh\n", 0o700)
    route = "- on: [standby_failure]\n        do:\n          - command: {run: [/usr/local/bin/page-somebody]}\n      "
    with edited(lab.gateway, CONFIG, "- on: [primary_register", f"{route}- on: [primary_register"):
        yield


@fault("nodes.password", "main")
def a_password_in_clear(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, CONFIG, f", {VERIFIED}", ""):
        yield


@fault("nodes.password", "main")
def a_password_for_whoever_answers(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, CONFIG, VERIFIED, "sslmode: require"):
        yield


def named(lab: Lab, name: str) -> Context[None]:
    """The configuration has a name for db2."""
    line = f"2: {{host: {lab.db2.address}"
    return edited(lab.gateway, CONFIG, line, f"{line}, name: {name}")


@fault("nodes.name", "main node 2")
def a_name_that_leads_elsewhere(lab: Lab) -> Iterator[None]:
    hosts = edited(lab.gateway, "/etc/hosts", "127.0.0.1", f"10.0.0.99 {NAMES[0]}\n127.0.0.1")
    with named(lab, NAMES[0]), hosts:
        shown = lab.gateway.hooks("status").stdout
        assert "the name db2.example leads to 10.0.0.99 now; clients are still led to 10.0.0.12" in shown
        yield


@fault("nodes.name", "main node 2")
def a_name_that_leads_nowhere(lab: Lab) -> Iterator[None]:
    with named(lab, NAMES[1]):
        yield


@fault("files.passfile", PASSFILE)
def passfile_with_wrong_mode(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, PASSFILE, 0o644):
        yield


@fault("files.passfile", PASSFILE)
def passfile_with_wrong_owner(lab: Lab) -> Iterator[None]:
    with owner(lab.gateway, PASSFILE, "root:root", "barman:barman"):
        yield


@fault("barman.passfile", "/var/lib/barman/.pgpass")
def barmans_pgpass_with_wrong_mode(lab: Lab) -> Iterator[None]:
    with mode(lab.gateway, "/var/lib/barman/.pgpass", 0o644):
        yield


@fault("repmgr.conf", REPMGR)
def repmgr_conf_of_another_owner(lab: Lab) -> Iterator[None]:
    with owner(lab.gateway, REPMGR, "nobody", "root"):
        yield


@fault("repmgr.line", REPMGR)
def placeholder_without_quotes(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, f'{LINE}"%p" "%t"', f'{LINE}%p "%t"'):
        yield


@fault("repmgr.line", REPMGR)
def no_notification_line(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "\nevent_notification_command", "\n#event_notification_command"):
        yield


@fault("repmgr.line", REPMGR)
def notification_line_of_another_cluster(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "--cluster main", "--cluster mian"):
        yield


@fault("repmgr.shell", REPMGR)
def details_in_the_notification_line(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, '"%t"', '"%t" "%d"'):
        yield


@fault("repmgr.conf", REPMGR)
def line_that_repmgr_does_not_understand(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "failover=automatic", "failover=auto'matic"):
        yield


@fault("repmgr.filter", REPMGR)
def filter_too_narrow(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "failover=", "event_notifications='standby_promote, standby_follow'\nfailover="):
        yield


@fault("repmgr.timeout", REPMGR)
def followers_that_do_not_wait(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, REPMGR, "failover=", "primary_notification_timeout=5\nfailover="):
        yield


@fault("repmgr.version", "main")
def old_repmgr(lab: Lab) -> Iterator[None]:
    with said_by(lab, "repmgr", "repmgr 4.0.3"):
        yield


@fault("nodes.answer", "main node 2")
def node_down(lab: Lab) -> Iterator[None]:
    lab.db2.pg_ctl("stop", "-m", "fast")
    yield
    lab.db2.pg_ctl("start")
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow")


def kept_out(lab: Lab, line: str) -> Iterator[None]:
    """A line of pg_hba.conf is not there on db2."""
    with edited(lab.db2, f"{DATA}/pg_hba.conf", line, "#"):
        lab.db2.pg_ctl("reload")
        yield
    lab.db2.pg_ctl("reload")


@fault("nodes.answer", "main node 2")
def node_that_lets_us_not_in(lab: Lab) -> Iterator[None]:
    yield from kept_out(lab, "host repmgr watcher")


@fault("barman.login", "main_backup node 2")
def standby_that_lets_barman_not_stream(lab: Lab) -> Iterator[None]:
    yield from kept_out(lab, "host    replication  streaming_barman")


@fault("barman.login", "main_backup node 2")
def standby_that_lets_barman_not_ask(lab: Lab) -> Iterator[None]:
    yield from kept_out(lab, "host    postgres     barman")


@fault("nodes.rights", "main")
def missing_grant(lab: Lab) -> Iterator[None]:
    lab.db1.sql("revoke pg_signal_backend from watcher")
    yield
    lab.db1.sql("grant pg_signal_backend to watcher")


@fault("nodes.slots", "main node 2")
def slot_limit_reached(lab: Lab) -> Iterator[None]:
    lab.db2.sql("select pg_create_physical_replication_slot('other_' || n) from generate_series(1, 10) n")
    yield
    lab.db2.sql("select pg_drop_replication_slot('other_' || n) from generate_series(1, 10) n")


@contextlib.contextmanager
def setting_changed(database: Host, name: str, shipped: str, value: str) -> Iterator[None]:
    """A setting of a node, as it is in force for a new session."""

    def reload(wanted: str) -> None:
        database.pg_ctl("reload")
        wait_for(lambda: database.sql(f"show {name}") == wanted, f"{name} to be {wanted}")

    with edited(database, f"{DATA}/conf.d.conf", f"{name} = '{shipped}'", f"{name} = '{value}'"):
        reload(value)
        yield
    reload(shipped)


@fault("nodes.wal", "main node 1")
def slot_that_may_fill_the_disk(lab: Lab) -> Iterator[None]:
    with setting_changed(lab.db1, "max_slot_wal_keep_size", "50GB", "-1"):
        yield


@fault("nodes.retry", "main node 2")
def standby_that_connects_seldom(lab: Lab) -> Iterator[None]:
    """As it does by PostgreSQL's own setting."""
    with setting_changed(lab.db2, "wal_retrieve_retry_interval", "500ms", "5s"):
        yield


@fault("nodes.clock", "main node 2")
def clock_skew(lab: Lab) -> Iterator[None]:
    """All hosts of the lab have one clock: our role is shown another one."""
    clock = "pg_catalog.clock_timestamp() + case inet_server_addr() when '10.0.0.12' then '1 h' else '0' end::interval"
    lab.db1.sql("create schema skewed; grant usage on schema skewed to watcher", "repmgr")
    lab.db1.sql(f"create function skewed.clock_timestamp() returns timestamptz return {clock}", "repmgr")
    lab.db1.sql("alter role watcher set search_path = skewed, pg_catalog")
    yield
    lab.db1.sql("alter role watcher reset search_path")
    lab.db1.sql("drop schema skewed cascade", "repmgr")


@fault("nodes.registered", "main")
def node_missing_from_the_configuration(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, CONFIG, "      2: {host: 10.0.0.12}\n", ""):
        yield


@fault("nodes.registered", "main")
def node_that_repmgr_holds_for_dead(lab: Lab) -> Iterator[None]:
    """A repmgrd that runs makes its node active again at once (repmgrd-physical.c, monitor_streaming_standby)."""
    lab.stop_repmgrd(2)
    lab.db1.sql("update repmgr.nodes set active = false where node_id = 2", "repmgr")
    with edited(lab.gateway, CONFIG, "repmgrd_timeout: 10\n", "repmgrd_timeout: 3600\n"):
        yield
    lab.start_passive_repmgrd()
    active = "select active from repmgr.nodes where node_id = 2"
    wait_for(lambda: lab.db1.sql(active, "repmgr") == "t", "repmgrd of db2 to make it active again")


@fault("nodes.failover", "main")
def repmgrd_paused(lab: Lab) -> Iterator[None]:
    # Another fault may have just restarted a node, and then repmgrd is given time.
    up = "select clock_timestamp() - pg_postmaster_start_time() > '40 s'"
    wait_for(lambda: {host.sql(up) for host in (lab.db1, lab.db2)} == {"t"}, "nodes that have been up for long")
    lab.db2.sql("select repmgr.repmgrd_pause(true)", "repmgr")
    yield
    lab.db2.sql("select repmgr.repmgrd_pause(false)", "repmgr")


@fault("barman.answer", "other_backup")
def server_that_barman_does_not_know(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, CONFIG, "{server: main_backup", "{server: other_backup"):
        yield


@fault("barman.conninfo", "main_backup")
def barman_goes_past_the_gateway(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, SERVER, "\nconninfo = host=10.0.0.20 port=54321", "\nconninfo = host=10.0.0.11 port=5432"):
        yield


@fault("barman.primary", "main_backup")
def barman_cannot_log_in(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, SERVER, "user=barman ", "user=barmann "):
        yield


@fault("barman.keepalives", "main_backup")
def barman_without_keepalives(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, SERVER, "keepalives_idle=10 keepalives_interval=5", "keepalives_interval=5"):
        yield


@fault("barman.slot", "main_backup")
def slot_of_another_name(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, SERVER, "slot_name = barman", "slot_name = barmann"):
        yield


@fault("barman.locks", "main_backup")
def barman_that_cleans_up_its_locks(lab: Lab) -> Iterator[None]:
    config = lab.gateway.path("/etc/barman.conf")
    before = config.read_text()
    config.write_text(before.replace(KEEPS_LOCKS, ""))
    with barman_shows(lab, "cluster: main_backup"):
        yield
    config.write_text(before)


@contextlib.contextmanager
def no_cron(lab: Lab) -> Iterator[None]:
    """Barman's cron does not come meanwhile, and what it has begun is at an end."""
    lab.daemons["cron"].send_signal(signal.SIGSTOP)
    running = "barman .*(cron|archive-wal main_backup)$"  # not the shell, which goes on after these words
    wait_for(lambda: not lab.gateway.result("pgrep", "-f", running).stdout, "Barman's cron to end")
    try:
        yield
    finally:
        lab.daemons["cron"].send_signal(signal.SIGCONT)


@fault("barman.cron", "main_backup")
def barmans_cron_dead(lab: Lab) -> Iterator[None]:
    with no_cron(lab):
        lab.gateway.run("touch", "-d", "10 minutes ago", LOCK, user="barman")
        yield
        lab.gateway.run("touch", LOCK, user="barman")


@fault("kernel.forwarding", "IPv4")
def forwarding_off(lab: Lab) -> Iterator[None]:
    lab.gateway.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    yield
    lab.gateway.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1")


@fault("kernel.chains", "main")
def chain_flushed_by_another_tool(lab: Lab) -> Iterator[None]:
    """Not that of Barman's own connection: a packet that came meanwhile would reset it."""
    before = lab.gateway.run("iptables-save", "-t", "nat")
    lab.gateway.run("iptables", "-t", "nat", "-F", "PREROUTING")
    yield
    lab.gateway.run("iptables-restore", stdin=before)


@fault("rules.foreign", "main iptables -t filter FORWARD")
def nothing_is_let_through(lab: Lab) -> Iterator[None]:
    lab.gateway.run("iptables", "-P", "FORWARD", "DROP")
    yield
    lab.gateway.run("iptables", "-P", "FORWARD", "ACCEPT")


@fault("kernel.managers")
def another_firewall_manager(lab: Lab) -> Iterator[None]:
    unit = lab.gateway.path("/etc/systemd/system/sysinit.target.wants/nftables.service")
    rules = lab.gateway.path("/etc/nftables.conf")
    before = rules.read_text() if rules.exists() else None
    rules.write_text("#!/usr/sbin/nft -f\nflush ruleset\n")
    unit.symlink_to("/lib/systemd/system/nftables.service")
    yield
    unit.unlink()
    rules.write_text(before) if before is not None else rules.unlink()


@fault("routes.state", "main")
def slot_left_on_the_standby(lab: Lab) -> Iterator[None]:
    lab.db2.sql("select pg_create_physical_replication_slot('barman', true)")
    yield
    lab.db2.sql("select pg_drop_replication_slot('barman')")


@fault("service.paused", "main")
def forgotten_pause(lab: Lab) -> Iterator[None]:
    lab.gateway.hooks("pause", "--reason", "new disks")
    yield
    lab.gateway.hooks("resume")


@fault("service.sudo", "postgres")
def no_line_in_sudoers(lab: Lab) -> Iterator[None]:
    with edited(lab.gateway, "/etc/sudoers.d/repmgr-hooks", ", /usr/local/bin/repmgr-hooks event -", ""):
        yield


@fault("service.spool", f"{STATE}/spool")
def something_strange_in_the_spool(lab: Lab) -> Iterator[None]:
    """The service would move it aside."""
    strange = lab.gateway.path(f"{STATE}/spool/directory")
    lab.daemons["worker"].send_signal(signal.SIGSTOP)
    strange.mkdir()
    lab.gateway.run("touch", "-d", "10 minutes ago", f"{STATE}/spool/directory")
    yield
    strange.rmdir()
    lab.daemons["worker"].send_signal(signal.SIGCONT)


@fault("service.running")
def service_down(lab: Lab) -> Iterator[None]:
    lab.daemons["worker"].terminate()
    lab.daemons["worker"].wait(90)
    yield
    start_service(lab)


@pytest.mark.parametrize(("put_in", "expected"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_each_fault_is_named_and_no_other(
    healthy: Lab, put_in: Callable[[Lab], Context[None]], expected: set[tuple[str, str]]
) -> None:
    with put_in(healthy):
        checked(healthy, expected)


def test_all_is_well_again(healthy: Lab) -> None:
    checked(healthy, set())


# -- as repmgrd -------------------------------------------------------------------------------------------------------


def arrived(lab: Lab, user: str = "root") -> str:
    """The line about db1's event, after its OK or FAIL."""
    result = lab.gateway.hooks("check", "--end-to-end", user=user)
    (line,) = [line for line in result.stdout.splitlines() if f"  hook.arrived        {REPMGR}: " in line]
    level, _, said = line.partition(f"  hook.arrived        {REPMGR}: ")
    return f"{level.strip()} {said}"


def arrives(lab: Lab, said: str) -> None:
    """An event that takes more than 10 s is said not to have arrived: then another one may."""
    wait_for_answer(lambda: arrived(lab), lambda line: line.startswith(said), said)


def test_an_event_arrives_whole(healthy: Lab) -> None:
    before = len(runs(healthy))
    arrives(healthy, "OK sent as postgres, arrived whole: repmgr_hooks_check of node 1, 20")
    wait_for(lambda: sum(len(run["events"]) for run in runs(healthy)[before:] if run["ended"]) >= 2, "both events")
    assert [run["steps"] for run in runs(healthy)[before:] if run["steps"]] == []


def test_an_event_of_the_repmgrd_that_runs(watched: Lab) -> None:
    """Its environment is the one that the line sees, not ours."""
    seen = "/tmp/seen"
    with edited(watched.gateway, REPMGR, "/usr/local/bin/repmgr-hooks event", f"env > {seen}; repmgr-hooks event"):
        arrives(watched, "OK sent as postgres, arrived whole: ")
        said = watched.gateway.run("cat", seen)
    assert "\nHOME=/var/lib/postgresql\n" in f"\n{said}"
    assert f"{BINARIES}:" in said, "this is not the PATH that the lab gives to repmgrd"


@pytest.mark.parametrize(
    ("placeholders", "said"),
    [
        ('%n %e %s %p "%t"', 'FAIL as postgres: "exit code 2: repmgr-hooks: OTHER_NODE is a repmgr node id'),
        ('%n %e %s "%p" "%d"', "FAIL a shell has executed text from the event"),
        ("%n %e %s ''%d''", "FAIL a shell has executed text from the event"),
        ("%n %e %s %a", "FAIL a shell has executed text from the event"),
        ('%n %e %s "%p" "" "%c"', "FAIL a shell has executed text from the event"),
        ('%n %e %s "%p"', "FAIL another event arrived than was sent: repmgr_hooks_check of node 1"),
    ],
)
def test_a_line_that_loses_or_runs_what_is_sent(healthy: Lab, placeholders: str, said: str) -> None:
    with edited(healthy.gateway, REPMGR, '%n %e %s "%p" "%t"', placeholders):
        arrives(healthy, said)


def test_without_root_nobody_can_send_and_see_it_arrive(healthy: Lab) -> None:
    said = "WARN cannot be looked at: only the service may read the journal, so the arrival cannot be verified"
    assert arrived(healthy, user="postgres").startswith(said)
    assert arrived(healthy, user="barman").startswith("WARN cannot be looked at: only root can act as postgres")
