"""From a gateway with repmgr and Barman, and nothing of ours, to a failover through exactly what init installed."""

from __future__ import annotations

import re

from tests import readme
from tests.endtoend.looks import barman_streams_from, failover_handled, routes
from tests.lab import CONFIG, Lab, wait_for

PROGRAM = "/opt/repmgr-hooks/bin/repmgr-hooks"
DRAFT = "/var/tmp/draft"
INSTALLATION = readme.TEXTS["systemd/README.md"]
PLACES = {
    "/etc/repmgr-hooks/config.yaml": "root:root 644",
    "/etc/tmpfiles.d/repmgr-hooks.conf": "root:root 644",
    "/etc/sysctl.d/90-repmgr-hooks.conf": "root:root 644",
    "/etc/sudoers.d/repmgr-hooks": "root:root 440",
    "/etc/systemd/system/repmgr-hooks.service": "root:root 644",
    "/etc/systemd/system/repmgr-hooks-boot.service": "root:root 644",
    "/etc/systemd/system/repmgr-hooks-check-wal.service": "root:root 644",
    "/etc/systemd/system/repmgr-hooks-check-wal.timer": "root:root 644",
    "/etc/systemd/system/repmgr-hooks-http.service": "root:root 644",
    "/etc/repmgr-hooks/pgpass": "barman:barman 600",
    "/var/lib/repmgr-hooks": "barman:postgres 710",
    "/var/lib/repmgr-hooks/spool": "barman:postgres 2770",
}

TAKEN_OVER = "keepalives_idle: 5, keepalives_interval: 2, keepalives_count: 3, tcp_user_timeout: 10000"
"""What config/repmgr-db*.conf say of libpq's options."""


def without_ours(lab: Lab) -> None:
    """The gateway as somebody has it who knows repmgr and Barman only."""
    gateway = lab.gateway
    gateway.run("rm", "-r", "/etc/repmgr-hooks", "/var/lib/repmgr-hooks", "/usr/local/bin/repmgr-hooks")
    gateway.run("rm", "/etc/tmpfiles.d/repmgr-hooks.conf", "/etc/sudoers.d/repmgr-hooks")
    gateway.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
    for node, line in ((1, ""), (2, "event_notification_command = '/root/old.sh %n %e'\n")):
        place = f"/etc/repmgr/db{node}.conf"
        text = re.sub(r"\n# Quotes around.*", "", gateway.path(place).read_text(), flags=re.DOTALL)
        lab.put(gateway, place, text + line)


def init(lab: Lab, *words: str) -> str:
    result = lab.gateway.result(PROGRAM, "init", *words)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def put_a_link_in_the_place_of(lab: Lab, place: str) -> None:
    """The file that repmgrd reads is elsewhere, and lacks the line: the link stays, and the line gets there."""
    gateway, real = lab.gateway, "/var/tmp/repmgr/node1.conf"
    before = gateway.path(place).read_text()
    lab.put(gateway, real, re.sub("(?m)^event_notification_command.*", "", before))
    gateway.run("ln", "-sf", real, place)
    shown = gateway.hooks("check").stdout
    assert f"FAIL  repmgr.line         {real}: event_notification_command is missing" in shown, shown
    assert "pkill -HUP -f 'repmgrd.*db1.conf'" in shown, "by the name that repmgrd was given"
    refused = gateway.result(PROGRAM, "init", "--install", "--replace", DRAFT)
    hint = f"mkdir -p {DRAFT}/var/tmp/repmgr && mv {DRAFT}{place} {DRAFT}{real}"
    assert refused.returncode == 2
    assert f"  {place} is a link to {real}\n    HINT: {hint}\n" in refused.stderr
    gateway.run("sh", "-ec", hint)
    assert f"replaced  {real}; " in init(lab, "--install", "--replace", DRAFT)
    assert "event_notification_command" in gateway.run("cat", place)
    assert gateway.run("readlink", place).strip() == real
    assert f"OK    repmgr.line         {real}: " in gateway.hooks("check").stdout
    init(lab, "/var/tmp/anew")
    assert gateway.path(f"/var/tmp/anew{real}").exists() and not gateway.path(f"/var/tmp/anew{place}").exists()


def test_from_nothing_to_a_failover(built_lab: Lab) -> None:
    lab, gateway = built_lab, built_lab.gateway
    without_ours(lab)
    written = init(lab, DRAFT)
    assert readme.difference(readme.sample(f"init {DRAFT}", INSTALLATION).output, written) == ""
    assert written.count("written   ") == 11
    assert init(lab, DRAFT).count("ok        ") == 11
    shipped = (CONFIG / "config.yaml").read_text().replace("dbname: repmgr", f"dbname: repmgr, {TAKEN_OVER}")
    shipped = shipped.replace("probe: {user: app, dbname: app,", "probe: {user: repmgr, dbname: repmgr,")
    schema = "/opt/repmgr-hooks/share/repmgr-hooks/config/config.schema.json"
    shipped = shipped.replace("$schema=config.schema.json", f"$schema={schema}")
    assert gateway.path(f"{DRAFT}/etc/repmgr-hooks/config.yaml").read_text() == shipped
    assert gateway.run("test", "-s", schema) == ""

    refused = gateway.result(PROGRAM, "init", "--install", DRAFT)
    assert refused.returncode == 2
    assert "/etc/repmgr/db2.conf would be replaced\n    HINT: see diff /etc/repmgr/db2.conf" in refused.stderr
    assert "db1.conf" not in refused.stderr, "to add a line takes nothing away"
    assert gateway.result("test", "-e", "/etc/repmgr-hooks").returncode == 1, "nothing was changed"

    done = init(lab, "--install", "--replace", DRAFT)
    assert readme.difference(readme.sample(f"init --install --replace {DRAFT}", INSTALLATION).output, done) == ""
    assert done.count("installed /") == 10
    assert "replaced  /etc/repmgr/db2.conf; the old one is /etc/repmgr/db2.conf.before-repmgr-hooks" in done
    for place, owner in PLACES.items():
        assert gateway.run("stat", "-c", "%U:%G %a", place).strip() == owner, place
    assert gateway.run("sysctl", "-n", "net.ipv4.ip_forward").strip() == "1"
    again = init(lab, "--install", DRAFT)
    assert again.count("ok        /") == 12 + done.count("linked    /"), again
    assert "REPMGR-HOOKS" in gateway.run("head", "-n", "2", "/usr/local/share/man/man1/repmgr-hooks.1")
    assert not re.search("^(installed|replaced|linked|made)", again, re.MULTILINE)

    lab.put(gateway, "/etc/repmgr-hooks/pgpass", lab.pgpass(), 0o600, "barman")
    assert gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    put_a_link_in_the_place_of(lab, "/etc/repmgr/db1.conf")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert barman_streams_from(lab.db2)
