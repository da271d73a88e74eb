"""A role that is no superuser, with the grants of config/grants.sql and no more, does all the work."""

from __future__ import annotations

from tests.endtoend.looks import barman_streams_from, routes, slot
from tests.lab import CONFIG, DATA, Host, Lab, wait_for

PLACE = "/etc/repmgr-hooks/config.yaml"


def let_in(host: Host, lab: Lab) -> None:
    lab.append(host, f"{DATA}/pg_hba.conf", "host repmgr watcher 10.0.0.20/32 scram-sha-256\n")
    host.pg_ctl("reload")


def use_plain_role(lab: Lab) -> None:
    lab.db1.sql("create role watcher login password 'watch'")
    for host in (lab.db1, lab.db2):
        let_in(host, lab)
    lab.append(lab.gateway, "/etc/repmgr-hooks/pgpass", "*:*:*:watcher:watch\n")
    text = lab.gateway.path(PLACE).read_text()
    assert "user: repmgr, " in text
    lab.put(lab.gateway, PLACE, text.replace("user: repmgr, ", "user: watcher, "))


def grant(lab: Lab, role: str) -> None:
    script = (CONFIG / "grants.sql").read_text()
    lab.db1.run("psql", "-Xq", "-v", f"role={role}", "-d", "repmgr", user="postgres", stdin=script)
    written = lab.db1.sql("select pg_current_wal_lsn()")
    replayed = f"select pg_last_wal_replay_lsn() >= '{written}'"
    wait_for(lambda: lab.db2.sql(replayed) == "t", "db2 to have replayed the grants")


def test_the_documented_grants_are_enough(built_lab: Lab) -> None:
    use_plain_role(built_lab)
    assert "permission denied for schema repmgr" in built_lab.gateway.hooks("reconcile", "--dry-run").stdout
    grant(built_lab, "watcher")

    result = built_lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout + result.stderr
    assert barman_streams_from(built_lab.db1)
    assert "node 2: no restore_command" in built_lab.gateway.hooks("check", "--restore").stdout

    built_lab.db1.pg_ctl("stop", "-m", "fast")
    built_lab.db2.sql("select pg_promote()")
    result = built_lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout + result.stderr
    assert routes(built_lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert slot(built_lab.db2) == "t|t|reserved"

    built_lab.db2.sql("revoke pg_monitor from watcher")
    shown = built_lab.gateway.hooks("reconcile", "--dry-run").stdout
    assert "our role may not see walsenders" in shown and "HINT: grant what config/grants.sql holds" in shown
