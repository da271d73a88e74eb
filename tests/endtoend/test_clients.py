"""Green means that a client can write: what keeps clients from it, each fault put in, named, and undone by its hint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import status
from tests.endtoend.rules import rules
from tests.endtoend.test_check import CONFIG, LOOKED, edited
from tests.endtoend.test_plain_role import grant, use_plain_role
from tests.lab import DATA, Lab, three, wait_for, wait_for_answer
from tests.lab.barman import back_up


@pytest.fixture(scope="module")
def served() -> Iterator[Lab]:
    """A cluster in service, looked at by a role that is no superuser. The service looks seldom, and mends no fault."""
    with fresh_lab() as lab:
        lab.build()
        lab.start_passive_repmgrd()
        use_plain_role(lab)
        grant(lab, "watcher")
        config = lab.gateway.path(CONFIG)
        config.write_text(
            config.read_text()
            .replace("monitor_interval: 5", "monitor_interval: 3600")
            .replace("timeout: 5, i", "timeout: 2, i")
        )
        assert lab.gateway.hooks("reconcile").returncode == 0
        back_up(lab, lab.db1)
        lab.start_cron()
        lab.start_worker()
        # Its first look would repair what a test breaks.
        wait_for(lambda: lab.gateway.path(LOOKED).exists(), "the service to have looked")
        yield lab


def found(lab: Lab) -> list[dict[str, str]]:
    """What ``check`` finds wrong; that these nodes have no certificate and no restore_command is another matter."""
    findings = json.loads(lab.gateway.hooks("check", "--json").stdout)
    other = ("nodes.password", "recovery.history")
    return [item for item in findings if item["level"] != "OK" and item["code"] not in other]


def only_finding(lab: Lab, code: str) -> dict[str, str]:
    """The one thing that ``check`` finds wrong; what was put in before may take a moment to be mended."""
    (finding,) = wait_for_answer(lambda: found(lab), lambda said: [each["code"] for each in said] == [code], code)
    return finding


def code(lab: Lab, port: str = "app") -> str:
    """What a client finds, in one word, as ``status`` has it."""
    (probe,) = [probe for probe in status(lab)["probes"] if probe["port"] == port]
    return str(probe["code"])


def sql_of(hint: str) -> str:
    """The statements of a hint, as somebody would type them on the node that it names."""
    return re.search(r"on (?:node 1|the primary): (.*?)(?:;? or see |$)", hint)[1]  # type: ignore[index]


def sessions(lab: Lab) -> str:
    return lab.db1.sql("select count(*) from pg_stat_activity where application_name = 'repmgr_hooks probe'")


def seen_by_all(lab: Lab, expected: str, words: str) -> str:
    """``status``, ``check``, and the metrics say so; nothing is left behind; returns the hint of ``check``."""
    wait_for(lambda: code(lab) == expected, f"the clients to find {expected}", every=0.5)
    shown = lab.gateway.hooks("status")
    assert shown.returncode == 1
    assert f"WARNING port barman, app: no client can write: {words}" in shown.stdout
    finding = only_finding(lab, "client.write")
    assert (finding["level"], finding["where"]) == ("FAIL", "main")
    assert words in finding["message"]
    assert f"HINT: {finding['hint']}" in shown.stdout
    numbers = lab.gateway.hooks("metrics").stdout
    assert 'client_can_write{cluster="main",port="app",origin=""} 0' in numbers
    assert 'repmgr_hooks_healthy{cluster="main"} 0' in numbers
    wait_for(lambda: sessions(lab) == "0", "the probes' sessions to end")
    return str(finding["hint"])


def all_is_well(lab: Lab) -> None:
    wait_for(lambda: code(lab) == "writes", "clients to write", every=0.5)
    wait_for_answer(lambda: found(lab), lambda said: said == [], "all to be well")


def test_a_healthy_cluster(served: Lab) -> None:
    # Not n_dead_tup: autovacuum takes those away meanwhile.
    rows = (
        "select n_tup_ins, n_tup_upd, n_tup_del from pg_stat_all_tables "
        "where relname in ('work', 'pg_class', 'pg_attribute')"
    )
    shown = wait_for_answer(lambda: served.gateway.hooks("status"), lambda said: not said.returncode, "a good status")
    before = served.db1.sql(rows, "app")
    assert "  port 54322 (app): leads to node 1, and a client writes there\n" in shown.stdout
    all_is_well(served)
    assert served.db1.sql(rows, "app") == before
    wait_for(lambda: sessions(served) == "0", "the probes' sessions to end")


def test_pg_hba_rejects_the_application(served: Lab) -> None:
    place, line = f"{DATA}/pg_hba.conf", "host    app          app               10.0.0.20/32   scram-sha-256\n"
    before = served.db1.path(place).read_text()
    assert line in before
    try:
        served.db1.path(place).write_text(before.replace(line, ""))
        served.db1.pg_ctl("reload")
        hint = seen_by_all(served, "rejected", 'FATAL: no pg_hba.conf entry for host "10.0.0.20", user "app"')
        (typed,) = re.findall(r"then reload: (.*)", hint)
        served.append(served.db1, place, f"{typed}\n")
        served.db1.pg_ctl("reload")
        all_is_well(served)
    finally:
        served.db1.path(place).write_text(before)
        served.db1.pg_ctl("reload")


@pytest.mark.parametrize(
    ("put_in", "expected", "words"),
    [
        ("alter system set default_transaction_read_only = on", "read_only", "sessions of app on node 1 are read-only"),
        ("alter role app set default_transaction_read_only = on", "read_only", "sessions of app on node 1 are"),
        ("alter database app set default_transaction_read_only = on", "read_only", "sessions of app on node 1 are"),
        (
            "alter role app in database app set default_transaction_read_only = on",
            *("read_only", "sessions of app on node 1 are read-only"),
        ),
        ("alter role app connection limit 0", "no_connection_left", 'FATAL: too many connections for role "app"'),
        (
            "alter database app connection limit 0",
            *("no_connection_left", 'FATAL: too many connections for database "app"'),
        ),
        ("alter role app nologin", "rejected", 'FATAL: role "app" is not permitted to log in'),
        (
            "alter system set synchronous_standby_names = 'FIRST 1 (nobody)'",
            *("commit_waits", "commits on node 1 wait for a synchronous standby: synchronous_standby_names = 'FIRST 1"),
        ),
    ],
)
def test_the_server_lets_nobody_write(served: Lab, put_in: str, expected: str, words: str) -> None:
    """Each is undone by what the hint says."""
    settled(served, put_in)
    try:
        hint = seen_by_all(served, expected, words)
        settled(served, sql_of(hint))
        all_is_well(served)
    finally:
        settled(served, "alter system reset all; alter role app login connection limit -1; alter role app reset all")
        settled(served, "alter database app connection limit -1; alter database app reset all")
        settled(served, "alter role app in database app reset all")


def settled(lab: Lab, statements: str) -> None:
    """Type statements on db1, in a session that could still do it; and let the server read its configuration."""
    options = "PGOPTIONS=-c synchronous_commit=local -c default_transaction_read_only=off"
    words = [word for statement in statements.split(";") if statement.strip() for word in ("-c", statement)]
    with lab.db1.reloading():
        lab.db1.run("env", options, "psql", "-XAtq", *words, "-c", "select pg_reload_conf()", user="postgres")


# -- the gateway's rules: from here a probe takes OUTPUT, and clients take PREROUTING and FORWARD ----------------------

DNAT = "-p tcp --dport 54322 -j DNAT --to-destination 10.0.0.12:5432"
NATIVE = "add table ip theirs; add chain ip theirs c {{ type {} ; }}; add rule ip theirs c {}"


def writes(lab: Lab) -> bool:
    """True if an application on its own host can write."""
    return lab.psql_app("insert into work default values", patience=3).returncode == 0


def a_client_writes(lab: Lab) -> None:
    wait_for(lambda: lab.psql_app("insert into work default values").returncode == 0, "a client to write")


def typed(lab: Lab, hint: str) -> None:
    lab.gateway.run(*hint.split(" -> ")[-1].split("; or ")[-1].split())


@pytest.mark.parametrize(
    ("commands", "who", "words"),
    [
        ([f"iptables -t nat -I PREROUTING 1 {DNAT}"], "port 54322 (app): ", "a rule of others takes it before ours"),
        ([f"iptables -t nat -I OUTPUT 1 {DNAT}"], "port 54322 (app): ", "a rule of others takes it before ours"),
        (
            ["iptables -t nat -I PREROUTING 1 -d 10.0.0.20/32 -j ACCEPT"],
            "port 54321 (barman), port 54322 (app): ",
            "a rule of others takes it before ours",
        ),
        (
            ["nft " + NATIVE.format("nat hook prerouting priority -110", "tcp dport 54322 dnat to 10.0.0.12:5432")],
            "port 54322 (app): ",
            "a rule of others takes it before ours",
        ),
        (["iptables -P FORWARD DROP"], "clients to node 1, ", "dropped by the policy of iptables -t filter FORWARD"),
        (
            ["iptables -P FORWARD DROP", "iptables -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
            "clients to node 1, ",
            "dropped by the policy of iptables -t filter FORWARD",
        ),
        (
            [
                "iptables -P FORWARD DROP",
                "iptables -A FORWARD -d 10.0.0.11 -j ACCEPT",
                "iptables -A FORWARD -s 10.0.0.11 -j ACCEPT",
            ],
            "clients to node 2, node 2 to clients: ",
            "dropped by the policy of iptables -t filter FORWARD",
        ),
        (
            ["iptables -A FORWARD -s 10.0.0.12 -p tcp --sport 5432 -j DROP"],
            "node 2 to clients: ",
            "dropped by iptables -t filter -A FORWARD -s 10.0.0.12/32",
        ),
        (
            ["iptables-legacy -A FORWARD -p tcp --dport 5432 -j DROP"],
            "clients to node 1, ",
            "dropped by iptables-legacy -t filter -A FORWARD",
        ),
        (
            ["nft " + NATIVE.format("filter hook forward priority 10", "ct state new tcp dport 5432 drop")],
            "clients to node 1, ",
            "dropped by nft rule ip theirs c handle",
        ),
    ],
)
def test_a_rule_that_takes_or_drops_what_clients_send(served: Lab, commands: list[str], who: str, words: str) -> None:
    with rules(served, *commands):
        finding = only_finding(served, "rules.foreign")
        assert finding["level"] == "FAIL"
        assert finding["message"].startswith(who)
        assert words in finding["message"]
        typed(served, finding["hint"])
        wait_for_answer(lambda: found(served), lambda said: said == [], "all to be well")
        a_client_writes(served)


def test_answers_that_are_not_tracked(served: Lab) -> None:
    """Barman's stream ends by this too."""
    with rules(served, "iptables -t raw -A PREROUTING -p tcp --sport 5432 -j CT --notrack"):
        finding, *_ = wait_for_answer(
            lambda: [each for each in found(served) if each["code"] == "rules.foreign"], bool, "the rule to be found"
        )
        assert finding["message"].startswith("node 1 to clients, node 2 to clients: not tracked, so not translated")
        typed(served, finding["hint"])
        wait_for(lambda: served.gateway.hooks("reconcile").returncode == 0, "Barman to stream again")
        all_is_well(served)


@pytest.mark.parametrize(
    "commands",
    [
        ["iptables -P FORWARD DROP", "iptables -A FORWARD -m conntrack --ctstate DNAT -j ACCEPT"],
        [
            "iptables -N DOCKER-USER",
            "iptables -P FORWARD DROP",
            "iptables -A FORWARD -j DOCKER-USER",
            "iptables -A DOCKER-USER -i eth0 -o eth0 -j ACCEPT",
        ],
        [
            "nft "
            + NATIVE.format("filter hook forward priority 10; policy drop", "ct state established,related accept")
            + "; add rule ip theirs c ct status dnat accept; add rule ip theirs c reject"
        ],
        ["iptables -P FORWARD DROP", "iptables -A FORWARD -s 10.0.0.0/24 -j ACCEPT"],
        ["iptables -t nat -I PREROUTING 1 -i eth9 " + DNAT, "iptables -t nat -I PREROUTING 1 -p udp -j ACCEPT"],
        ["iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP"],
    ],
)
def test_rules_that_let_clients_through_are_no_fault(served: Lab, commands: list[str]) -> None:
    with rules(served, *commands):
        wait_for_answer(lambda: found(served), lambda said: "FAIL" not in {each["level"] for each in said}, "no fault")
        a_client_writes(served)


def test_what_cannot_be_judged_is_said(served: Lab) -> None:
    with rules(served, "iptables -A FORWARD -m mark --mark 0x1 -j DROP"):
        (finding, *_) = found(served)
        assert (finding["level"], finding["code"]) == ("WARN", "rules.foreign")
        assert "cannot be judged" in finding["message"]


def test_from_where_clients_are(served: Lab) -> None:
    """A rule that stops what is forwarded is nothing to the gateway's own probe, and all to a client's."""
    three.start_ssh(served)
    words = "ssh -o BatchMode=yes postgres@10.0.0.12"
    shell = f"interval: 30, shell: [{', '.join(words.split())}]}}"
    with edited(served.gateway, CONFIG, "interval: 30}", shell):
        assert {probe["origin"] for probe in status(served)["probes"]} == {"", words}
        wait_for(lambda: served.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
        with rules(served, "iptables -A FORWARD -j DROP"):
            wait_for(
                lambda: seen(served) == {("writes", False), ("silent", True)}, "the clients to be kept out", every=0.5
            )
            shown = served.gateway.hooks("status")
            assert shown.returncode == 1
            assert f"WARNING port barman, app from {words}: no client can write: no answer within 2 s" in shown.stdout
        wait_for(lambda: served.gateway.hooks("status").returncode == 0, "a good status", every=0.5)


def seen(lab: Lab) -> set[tuple[str, bool]]:
    """What each probe finds, and whether it comes from elsewhere."""
    return {(probe["code"], bool(probe["origin"])) for probe in status(lab)["probes"]}
