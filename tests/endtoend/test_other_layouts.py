"""A gateway without Barman, one without an app port, and one for two clusters: as the shipped files have them."""

from __future__ import annotations

import json
import re
import time

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, routes, runs, slot
from tests.endtoend.test_alive import end_worker
from tests.lab import CONFIG_FILE, Host, Lab, wait_for
from tests.lab.versions import DATA


def open_with(lab: Lab, name: str) -> None:
    """Bring a cluster into service with another of our files; nobody but a standby acknowledges commits, if any."""
    lab.put(lab.gateway, CONFIG_FILE, lab.config(name))
    for host in lab.databases:
        lab.put(host, f"{DATA}/alone.conf", "synchronous_standby_names = ''\n", owner="postgres")
        lab.append(host, f"{DATA}/postgresql.conf", "include_if_exists 'alone.conf'\n")
        host.pg_ctl("reload")
    lab.start_worker()
    lab.start_repmgrd()


def content(lab: Lab) -> bool:
    return lab.gateway.hooks("status").returncode == 0


def failures(lab: Lab) -> list[str]:
    return [line for line in lab.gateway.hooks("check").stdout.splitlines() if re.match(r"\s*FAIL", line)]


def test_a_gateway_without_barman() -> None:
    with fresh_lab() as lab:
        lab.build()
        lab.gateway.path("/usr/local/bin/barman").write_text("#!/bin/sh\nexit 1\n")
        open_with(lab, "app-only.yaml")
        wait_for(lambda: routes(lab) == {54322: lab.db1.address}, "the port")
        wait_for(lambda: content(lab), "a status that is good", every=0.5)
        assert failures(lab) == []
        client = lab.start_client()

        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: routes(lab) == {54322: lab.db2.address}, "the port to follow")
        client.wait_for_write(runs(lab)[-1]["started"])
        assert slot(lab.db2) == ""
        assert lab.gateway.hooks("check-wal").returncode == 2
        assert "no section 'barman'" in lab.gateway.hooks("check-wal").stderr


def test_a_backup_host_without_an_app_port() -> None:
    with fresh_lab() as lab:
        lab.build()
        lab.start_cron()
        open_with(lab, "barman-only.yaml")
        wait_for(lambda: barman_streams_from(lab.db1), "Barman to stream from db1")
        wait_for(lambda: content(lab), "a status that is good", every=0.5)
        assert failures(lab) == []

        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
        wait_for(lambda: runs(lab)[-1]["ended"] and runs(lab)[-1]["ok"], "the run")
        assert routes(lab) == {54321: lab.db2.address}
        assert slot(lab.db2) == "t|t|reserved"


# -- two clusters ------------------------------------------------------------------------------------------------------

OTHER_DATA = DATA.replace("main", "other")


def led(lab: Lab) -> dict[int, int]:
    """The node that each port of both clusters leads to; those of the second listen on 5433."""
    rule = re.compile(r"--dport (54\d+) .*--to-destination 10\.0\.0\.1(\d):543(\d)$")
    found = [match for line in lab.gateway.nat() if (match := rule.search(line))]
    assert all((int(match[1]) > 54330) == (match[3] == "3") for match in found), found
    return {int(match[1]): int(match[2]) for match in found}


def in_order(lab: Lab, name: str) -> bool:
    """True if nothing is left to do in one of the clusters."""
    said = json.loads(lab.gateway.hooks("status", "--cluster", name, "--json").stdout)[name]
    return bool(said["decision"]["primary"]) and not (said["pending"] or said["failed"] or said["waiting"])


def other_config(lab: Lab) -> str:
    """The file for two clusters with equal node ids: the second is a second instance on the same hosts."""
    text = lab.config("config.yaml")
    head, main = text.split("  main:\n")
    other = main.replace("port: 5432", "port: 5433").replace("barman: 54321, app: 54322", "barman: 54331, app: 54332")
    other = other.replace("repmgr_dnat", "other_dnat").replace("repmgr_snat", "other_snat")
    other = other.replace("main_backup", "other_backup").replace("command: [barman]", "command: [/usr/local/bin/hangs]")
    return f"{head}  main:\n{main}\n  other:\n{other.replace('fail_open_after: 120', 'fail_open_after: 15')}"


def build_other(lab: Lab) -> None:
    """Make the second cluster, from the first one's files."""
    for number, host in enumerate(lab.databases, 1):
        for place in (host, lab.gateway):
            text = lab.config(f"repmgr-db{number}.conf").replace("/main'", "/other'").replace("main %n", "other %n")
            text = text.replace(f"/db{number}.conf", f"/other{number}.conf").replace("user=", "port=5433 user=")
            lab.put(place, f"/etc/repmgr/other{number}.conf", text)
    first, second = lab.databases
    repmgr = ("repmgr", "-f", "/etc/repmgr/other1.conf")
    first.run("initdb", "--no-sync", "-A", "peer", "-D", OTHER_DATA, user="postgres")
    configure_other(lab, first)
    psql = ("psql", "-XAtq", "-p", "5433", "-v", "ON_ERROR_STOP=1")
    for user, rights in (("repmgr", "superuser"), ("barman", "superuser"), ("streaming_barman", "replication")):
        role = f"create role {user} login {rights} password '{lab.passwords[user]}'"
        first.run(*psql, "-c", role, user="postgres")
    for statement in (
        f"create role app login password '{lab.passwords['app']}'",
        "create database app owner app",
        "create database repmgr owner repmgr",
    ):
        first.run(*psql, "-c", statement, user="postgres")
    table = "create table work (id bigserial primary key); alter table work owner to app"
    first.run(*psql, "-d", "app", "-c", table, user="postgres")
    first.run(*repmgr, "primary", "register", user="postgres")
    clone = ("standby", "clone", "--fast-checkpoint", "-h", first.address, "-p", "5433", "-U", "repmgr", "-d", "repmgr")
    second.run("repmgr", "-f", "/etc/repmgr/other2.conf", *clone, user="postgres")
    configure_other(lab, second)
    streams = "select count(*) from pg_stat_replication where state = 'streaming'"
    wait_for(lambda: first.run(*psql, "-c", streams, user="postgres").strip() == "1", "the standby to stream")
    second.run("repmgr", "-f", "/etc/repmgr/other2.conf", "standby", "register", user="postgres")


def configure_other(lab: Lab, host: Host) -> None:
    """Configure and start an instance of the second cluster; no commit of it waits for anybody."""
    settings = lab.config(f"postgresql-{host.name}.conf") + "port = 5433\nsynchronous_standby_names = ''\n"
    lab.put(host, f"{OTHER_DATA}/conf.d.conf", settings, owner="postgres")
    if not host.path(f"{OTHER_DATA}/standby.signal").exists():
        lab.append(host, f"{OTHER_DATA}/postgresql.conf", "include 'conf.d.conf'\nfsync = off\n")
    lab.put(host, f"{OTHER_DATA}/pg_hba.conf", lab.config("pg_hba.conf"), owner="postgres")
    pg_ctl_other(host, "start")


def pg_ctl_other(host: Host, *words: str) -> None:
    log = f"{OTHER_DATA}/server.log"
    host.run("pg_ctl", "-D", OTHER_DATA, "-w", "-t", "120", "-l", log, *words, user="postgres", limit=150)


def test_two_clusters_with_equal_node_ids(lab: Lab) -> None:
    """Both fail over at once, and Barman of one hangs: it is in nobody's way but its own, and there for its limit."""
    build_other(lab)
    lab.put(lab.gateway, "/usr/local/bin/hangs", "#!/bin/sh\nexec sleep 1000\n", 0o755)
    lab.put(lab.gateway, CONFIG_FILE, other_config(lab))
    end_worker(lab)
    lab.start_worker()
    # Not "starting monitoring": then it still gives up at once if the primary does not answer.
    ready = re.compile("monitoring (connection to upstream|cluster primary)")
    for number in lab.numbers:
        words = ("repmgrd", "-f", f"/etc/repmgr/other{number}.conf", "--daemonize=false", "--no-pid-file")
        lab.daemons[f"other{number}"] = lab.gateway.start(*words, user="postgres", log=f"other{number}")
        wait_for(lambda n=number: ready.search(lab.gateway.log(f"other{n}")), "repmgrd of the second cluster")
    wait_for(lambda: led(lab) == {54321: 1, 54322: 1, 54331: 1, 54332: 1}, "all ports to lead to db1")
    client = lab.start_client()
    other = lab.start_client(name="other", way=f"host={lab.gateway.address} port=54332")

    pg_ctl_other(lab.db1, "stop", "-m", "immediate")
    fault = time.time()
    wait_for(lambda: led(lab).get(54331) == 2, "the second cluster's port for Barman to follow")
    assert client.wait_for_write(fault).error == ""
    assert led(lab)[54321] == led(lab)[54322] == 1, "the first cluster's ports stay"
    lab.db1.pg_ctl("stop", "-m", "immediate")
    again = time.time()
    wait_for(lambda: led(lab).get(54322) == 2, "the first cluster's app port to follow")
    wait_for(lambda: in_order(lab, "main"), "the first cluster to be in order")
    client.wait_for_write(again)
    other.wait_for_write(fault)
    assert led(lab) == {54321: 2, 54322: 2, 54331: 2, 54332: 2}
    assert not in_order(lab, "other"), "its Barman hangs"
