"""On hosts that are laid out as PGDG's RPMs do it: from a gateway with nothing of ours to a failover.

On the gateway one repmgr.conf has gaps, as the example has, and the other is missing: init fills them in, and makes it.
The distribution itself is not tested.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import pytest

from repmgr_hooks.repmgr_conf import read
from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, failover_handled, routes, status
from tests.endtoend.test_check import edited, speak_tls, wrong
from tests.endtoend.test_init import DRAFT, PROGRAM, without_ours
from tests.endtoend.typist import type_in
from tests.lab import CONFIG_FILE, Lab, wait_for
from tests.lab.barman import back_up
from tests.lab.rpm import ACCOUNT, BINARIES, CONFS, VERSION

REPMGRD = "/etc/systemd/system/repmgrd@.service"
DB1, DB2 = f"{CONFS}/db1.conf", f"{CONFS}/db2.conf"

# What firewalld writes without any configuration (its core/nftables.py), shortened; on RHEL it is enabled.
FIREWALLD = """
table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    tcp dport 22 accept
    reject with icmpx admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    reject with icmpx admin-prohibited
  }
}
"""


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A cluster in service, with what init has installed."""
    with fresh_lab(rpm=True) as lab:
        lab.build()
        without_ours(lab)
        lab.gateway.run("rm", DB2)
        lab.put(
            lab.gateway,
            DB1,
            re.sub("(?m)^(data_directory|pg_bindir)=.*$", r"\1='/NN/'", lab.gateway.path(DB1).read_text()),
        )
        assert lab.gateway.result("sh", "-c", "command -v repmgr repmgrd pg_ctl apt").stdout == ""
        lab.gateway.run(PROGRAM, "init", DRAFT)
        lab.gateway.run(PROGRAM, "init", "--install", "--replace", DRAFT)
        in_service(lab)
        yield lab


def in_service(lab: Lab) -> None:
    """What the README asks for besides, and what `check` does."""
    lab.put(lab.gateway, "/etc/repmgr-hooks/pgpass", lab.pgpass(), 0o600, "barman")
    config = lab.gateway.path(CONFIG_FILE)
    config.write_text(
        re.sub(r"(?m)^(    probe: )\{user: repmgr, dbname: repmgr", r"\1{user: app, dbname: app", config.read_text())
    )
    speak_tls(lab)
    lab.gateway.run("nft", "-f", "-", stdin=FIREWALLD)
    lab.put(lab.gateway, "/etc/firewalld/firewalld.conf", "FirewallBackend=nftables\n")
    unit = lab.gateway.path("/etc/systemd/system/multi-user.target.wants/firewalld.service")
    unit.parent.mkdir(exist_ok=True)
    unit.symlink_to("/usr/lib/systemd/system/firewalld.service")
    lab.db2.sql("alter system set restore_command = 'false'")
    lab.db2.pg_ctl("reload")
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    back_up(lab, lab.db1)
    lab.start_worker()
    (line,) = re.findall("(?m)^ExecStart=(.*)$", lab.gateway.path(REPMGRD).read_text())
    for node in lab.numbers:
        words = shlex.split(line.replace("%i", f"db{node}"))
        lab.daemons[f"repmgrd{node}"] = lab.gateway.start(*words, user="postgres", log=f"repmgrd{node}")
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a green status", every=1)


def test_what_init_wrote(lab: Lab) -> None:
    """Each repmgr.conf is what the node's own host has, but for whoever may read it."""
    assert read(lab.gateway.path(DB1)).settings == read(lab.db1.path(DB1)).settings
    assert read(lab.gateway.path(DB2)).settings == read(lab.db2.path(DB2)).settings
    assert lab.gateway.run("stat", "-c", "%U:%G %a", DB2).strip() == f"root:{ACCOUNT} 640"
    assert f"ExecStart={BINARIES}/repmgrd -f {CONFS}/%i.conf " in lab.gateway.path(REPMGRD).read_text()
    assert lab.gateway.run("stat", "-c", "%U:%G", "/var/lib/repmgr-hooks/spool").strip() == f"barman:{ACCOUNT}"
    assert read(lab.gateway.path(DB2)).settings["data_directory"] == f"/var/lib/pgsql/{VERSION}/data"


def test_all_is_well(lab: Lab) -> None:
    wait_for(lambda: wrong(lab.gateway.hooks("check", "--json")) == set(), "check to be content", every=2)
    to_the_end = ("check", "--end-to-end", "--json")
    wait_for(lambda: wrong(lab.gateway.hooks(*to_the_end)) == set(), "a whole check to be content", every=2)


def test_a_command_that_is_right_on_debian_only(lab: Lab) -> None:
    right = f"promote_command='{BINARIES}/repmgr standby promote -f {DB2}'"
    with edited(lab.gateway, DB2, right, "promote_command='repmgr standby promote -f /etc/repmgr.conf'"):
        (found,) = (item for item in findings(lab) if item["level"] != "OK")
        assert (found["code"], found["where"]) == ("repmgr.commands", DB2)
        type_in(lab, found["hint"], DB2)
        assert right in lab.gateway.path(DB2).read_text()
        wait_for(lambda: wrong(lab.gateway.hooks("check", "--json")) == set(), "check to be content", every=2)


def findings(lab: Lab) -> list[dict[str, str]]:
    return list(json.loads(lab.gateway.hooks("check", "--json").stdout))


def test_hints_name_what_is_there(lab: Lab) -> None:
    repmgr = f"{BINARIES}/repmgr"
    lab.gateway.run(repmgr, "-f", DB2, "service", "pause", user="postgres")
    wait_for(lambda: status(lab)["readiness"]["obstacles"], "status to say so", every=1)
    (found,) = status(lab)["readiness"]["obstacles"]
    assert found["hint"] == f"as postgres: {repmgr} -f {DB2} service unpause"
    type_in(lab, found["hint"])
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a green status", every=1)


def test_a_failover(lab: Lab) -> None:
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    client.wait_for_write(client.writes()[-1].ended)
    client.stop()
    assert routes(lab) == {54321: "10.0.0.12", 54322: "10.0.0.12"}
    assert barman_streams_from(lab.db2)
    whole = re.compile(r"main: OK: .*\nmain: deep OK: ")
    wait_for(lambda: whole.match(lab.gateway.hooks("check-wal", "--deep").stdout), "whole WAL by content", every=2)
