"""Nobody gets more rights: what postgres and barman can lead root's commands to, as the users in question.

Nothing of root's is read, changed, created or deleted; and whatever stands in the way, an event is handled.
"""

from __future__ import annotations

import re

import pytest

from tests.endtoend.looks import routes
from tests.lab import Lab, wait_for

STATE = "/var/lib/repmgr-hooks"
SPOOL = f"{STATE}/spool"
HOOKS = "/usr/local/bin/repmgr-hooks"
OPEN = {54321: "10.0.0.11", 54322: "10.0.0.11"}
VICTIM = "/etc/victim"
SECURE_PATH = 'Defaults secure_path="/usr/sbin:/usr/bin:/sbin:/bin"\n'
"""Of Debian sid and RHEL."""
# What the wrapper around Barman's program sees of itself, and that it waits while a file is there.
BARMAN = """#!/bin/sh
grep -E '^(Uid|Gid|Groups|CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs):' /proc/self/status > /tmp/rights
for n in 1 2 3 4 5 6 7 8 9 10; do if [ -e /tmp/hold ]; then sleep 1; fi; done
exec /usr/bin/barman "$@"
"""


@pytest.fixture
def lab(built_lab: Lab) -> Lab:
    """Nothing runs, and nothing looks around by itself; there is a directory of root's that must stay as it is."""
    config = built_lab.gateway.path("/etc/repmgr-hooks/config.yaml")
    config.write_text(config.read_text().replace("monitor_interval: 5", "monitor_interval: 0"))
    for name in ("wake", "secret", "01800000000000000100-7", "repmgr.conf"):
        built_lab.put(built_lab.gateway, f"{VICTIM}/{name}", "root's\n", 0o600)
    return built_lab


def roots(lab: Lab) -> list[tuple[object, ...]]:
    """All that can be changed of root's directory."""
    place = lab.gateway.path(VICTIM)
    status = {file: file.lstat() for file in (place, *sorted(place.iterdir()))}
    return [
        (file.name, seen.st_mode, seen.st_uid, seen.st_gid, seen.st_size, seen.st_mtime_ns, seen.st_nlink)
        for file, seen in status.items()
    ]


def as_postgres(lab: Lab, script: str) -> None:
    lab.gateway.run("sh", "-ec", script, user="postgres")


def as_barman(lab: Lab, script: str) -> None:
    lab.gateway.run("sh", "-ec", script, user="barman")


def named(lab: Lab, text: str) -> bool:
    return text in lab.gateway.log("worker")


# -- postgres, who may write into the spool ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what", [f"ln -s {VICTIM}/secret wake", f"ln -s {VICTIM} wake", "touch wake", "mkdir -p wake/in"]
)
def test_what_stands_under_the_name_of_the_fifo(lab: Lab, what: str) -> None:
    """Root's knock goes nowhere; the service goes on, names it, and can be woken again."""
    lab.start_worker()
    before = roots(lab)
    as_postgres(lab, f"cd {SPOOL}; rm wake; {what}")
    assert lab.gateway.hooks("resume").returncode == 0
    assert lab.gateway.hooks("event", "--cluster", "main", "1", "repmgrd_reload").returncode == 0
    once = lab.gateway.result("sudo", "-n", HOOKS, "worker", "--once", user="postgres", limit=60)
    assert once.returncode == 0, once.stderr
    assert roots(lab) == before
    wait_for(lambda: named(lab, "wake"), "the service to name it")
    wait_for(lab.gateway.path(f"{SPOOL}/wake").is_fifo, "the service to make it anew")
    assert lab.daemons["worker"].poll() is None


def test_a_service_starts_whatever_stands_in_its_spool(lab: Lab) -> None:
    before = roots(lab)
    as_postgres(
        lab,
        f"""cd {SPOOL}
        mkdir wake 01800000000000000200-1
        ln -s {VICTIM}/secret 01800000000000000201-1
        mkfifo 01800000000000000202-1
        printf '\\n1\\nprimary_register\\n' > 01800000000000000203-1
        chmod 000 01800000000000000203-1
        printf '\\n1\\nprimary_register\\n' > 01800000000000000204-1
        ln 01800000000000000204-1 01800000000000000205-1""",
    )
    lab.start_worker()
    as_postgres(
        lab, f"printf '\\n1\\nprimary_register\\n' > {SPOOL}/.new; mv {SPOOL}/.new {SPOOL}/01800000000000000206-1"
    )
    lab.gateway.hooks("event", "--cluster", "main", "1", "repmgrd_reload", user="postgres")
    wait_for(lambda: routes(lab) == OPEN, "the events behind it")
    for number in (200, 201, 202, 203):
        assert lab.gateway.log("worker").count(f"01800000000000000{number}-1") == 1, number
    assert roots(lab) == before


# -- barman, whose directory it is -------------------------------------------------------------------------------------


def test_the_spool_and_the_journal_exchanged_under_a_run_of_roots(lab: Lab) -> None:
    """In one go each, or again: whoever finds nothing there makes it anew. sudo's PATH is not the service's."""
    lab.put(lab.gateway, "/usr/local/bin/barman", BARMAN, 0o755)
    lab.put(lab.gateway, "/etc/sudoers.d/secure_path", SECURE_PATH, 0o440)
    lab.gateway.path("/tmp/hold").touch()
    before = roots(lab)
    lab.gateway.hooks("event", "--cluster", "main", "1", "primary_register", user="postgres")
    wait_for(lambda: lab.gateway.path("/tmp/rights").exists(), "the run that root has started")
    as_barman(
        lab,
        f"""cd {STATE}
        mv spool away; until ln -sT {VICTIM} spool; do rm -r spool; done
        ln -sfT {VICTIM}/new.db journal.db
        ln -sfT {VICTIM}/secret cluster-main.looked""",
    )
    lab.gateway.path("/tmp/hold").unlink()
    wait_for(lambda: not lab.gateway.result("pgrep", "-f", "worker --once").stdout, "the end of the run")
    for words in (["check"], ["status"], ["history"], ["reconcile"], ["pause"], ["resume"], ["worker", "--once"]):
        lab.gateway.hooks(*words)
    lab.gateway.hooks("event", "--cluster", "main", "1", "primary_register")
    assert roots(lab) == before
    assert routes(lab) == OPEN


@pytest.mark.parametrize("command", ["reconcile", "boot", "event", "worker"])
def test_root_becomes_what_the_unit_is(lab: Lab, command: str) -> None:
    """The programs that it starts have exactly the rights that the unit's have."""
    lab.put(lab.gateway, "/usr/local/bin/barman", BARMAN, 0o755)
    rights = lab.gateway.path("/tmp/rights")
    lab.gateway.result(HOOKS, "status", user="service")
    the_units = rights.read_text()
    assert "NoNewPrivs:\t1" in the_units
    rights.unlink()
    if command == "event":
        lab.gateway.result(HOOKS, "event", "-", stdin="main\n1\nprimary_register\n")
    elif command == "worker":
        lab.gateway.hooks("event", "--cluster", "main", "1", "primary_register")
        wait_for(rights.exists, "the run")
        wait_for(lambda: not lab.gateway.result("pgrep", "-f", "worker --once").stdout, "its end")
    else:
        lab.gateway.hooks(command)
    assert rights.read_text() == the_units
    assert routes(lab) == OPEN
    made = {place.name: place.stat() for place in lab.gateway.path(STATE).iterdir() if place.name != "spool"}
    assert "journal.db" in made
    assert {status.st_uid for status in made.values()} == {lab.gateway.path(STATE).stat().st_uid}
    assert {status.st_mode & 0o077 for status in made.values()} == {0}
    reader = ("/opt/repmgr-hooks/bin/python", "-c", f"open('{STATE}/journal.db')")
    assert lab.gateway.result(*reader, user="postgres").returncode != 0


def test_a_first_run_without_a_state_directory(lab: Lab) -> None:
    lab.gateway.run("rm", "-r", STATE)
    assert lab.gateway.hooks("reconcile").returncode == 0
    assert routes(lab) == OPEN
    assert lab.gateway.run("stat", "-c", "%U:%G %a", STATE).strip() == "barman:postgres 710"
    lab.gateway.run("rm", "-r", STATE)
    lab.gateway.run("ln", "-s", VICTIM, STATE)
    before = roots(lab)
    for words in (["worker", "--once"], ["reconcile"], ["event", "--cluster", "main", "1", "repmgrd_reload"]):
        lab.gateway.hooks(*words)
    assert roots(lab) == before


# -- an event is handled when nothing can be written -------------------------------------------------------------------


@pytest.mark.parametrize("stderr", ["2>/dev/full", "2>&-", "0<&- 2>&-", "0<&- 1>&- 2>&-", "2>&1 | true"])
def test_an_event_that_can_neither_be_stored_nor_complained_of(lab: Lab, stderr: str) -> None:
    lab.gateway.path(SPOOL).chmod(0o755)
    script = f"{HOOKS} event --cluster main 1 primary_register {stderr}"
    daemon = lab.gateway.start("sh", "-c", script, user="postgres", log="hook")
    wait_for(lambda: routes(lab) == OPEN, "the event to be handled")
    daemon.kill()


# -- init --------------------------------------------------------------------------------------------------------------


def test_a_draft_in_a_directory_that_another_user_has_made(lab: Lab) -> None:
    before = roots(lab)
    for place, script in (
        ("one", f"mkdir -p one/etc/sudoers.d; ln -s {VICTIM}/new one/etc/sudoers.d/repmgr-hooks"),
        ("two", f"mkdir -p two/etc; ln -s {VICTIM} two/etc/repmgr-hooks"),
        ("three", f"ln -s {VICTIM} three"),
    ):
        as_postgres(lab, f"cd /var/tmp; {script}")
        for more in ([], ["--install", "--replace"]):
            result = lab.gateway.hooks("init", *more, f"/var/tmp/{place}")
            assert result.returncode == 2, result.stdout + result.stderr
            assert "Traceback" not in result.stderr
    assert roots(lab) == before


def test_a_draft_with_a_password_and_its_way_into_place(lab: Lab) -> None:
    """repmgr.conf may lie in a directory of postgres', and hold a password: nobody else may read it at any time."""
    gateway = lab.gateway
    gateway.run("chown", "-R", "postgres", "/etc/repmgr")
    for node in (1, 2):
        text = re.sub(
            r"\n# Quotes around.*", "", gateway.path(f"/etc/repmgr/db{node}.conf").read_text(), flags=re.DOTALL
        )
        lab.put(gateway, f"/etc/repmgr/db{node}.conf", f"{text}event_notification_command='old'\n", 0o600, "postgres")
    assert gateway.hooks("init", "/var/tmp/draft").returncode == 0
    drafts = gateway.path("/var/tmp/draft/etc/repmgr")
    assert {file.stat().st_mode & 0o077 for file in drafts.iterdir()} == {0}
    before = roots(lab)
    as_postgres(lab, f"ln -s {VICTIM}/new /etc/repmgr/db1.conf.before-repmgr-hooks")
    result = gateway.hooks("init", "--install", "--replace", "/var/tmp/draft")
    assert result.returncode == 0, result.stderr
    assert roots(lab) == before
    found = gateway.run("stat", "-c", "%n %U %a", *(f"/etc/repmgr/db{n}.conf{rest}" for n, rest in ((1, ""), (1, OLD))))
    assert found.split() == ["/etc/repmgr/db1.conf", "postgres", "600", f"/etc/repmgr/db1.conf{OLD}", "postgres", "600"]


OLD = ".before-repmgr-hooks.2"


# -- who may not see all -----------------------------------------------------------------------------------------------


def test_whoever_may_not_see_all_is_told_so(lab: Lab) -> None:
    """What is not seen is neither pending, nor a node that does not answer, nor a broken journal."""
    lab.reconcile()
    shown = lab.gateway.hooks("status", user="barman")
    assert (shown.returncode, shown.stderr) == (1, "")
    unseen = (
        "  WARNING where the ports lead cannot be seen: netfilter shows its rules to root\n  HINT: run it as root\n"
    )
    assert unseen in shown.stdout
    assert "PENDING" not in shown.stdout
    assert "reconcile" not in shown.stdout
    dry = lab.gateway.hooks("reconcile", "--dry-run", user="barman")
    assert "netfilter shows its rules to root" in dry.stdout

    password = "repmgr-hooks: you may not read /etc/repmgr-hooks/pgpass: "
    for words in (
        ("status",),
        ("metrics",),
        ("check-wal",),
        ("simulate-failover", "2"),
        ("reconcile", "--dry-run"),
        ("replay", "--dry-run", "2", "standby_promote"),
    ):
        said = lab.gateway.hooks(*words, user="postgres")
        assert said.stderr.count(password) == 1, words
        assert "HINT: run it as root" in said.stderr
        assert password not in lab.gateway.hooks(*words).stderr, "this is root"
    assert (
        f"the journal {STATE}/journal.db cannot be used"
        in (said := lab.gateway.hooks("status", user="postgres")).stderr
    )
    assert "HINT: run this as root; else check the file's owner" in said.stderr
