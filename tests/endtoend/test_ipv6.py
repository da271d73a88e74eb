"""The same over IPv6: a failover, the clients' connections, and nothing in the tables of IPv4."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import (
    assert_nothing_lost,
    barman_streams_from,
    led_to,
    nothing_missing,
    slot,
    unplugged_under_open_connections,
    wait_until_good,
)
from tests.endtoend.test_gateway import reboot
from tests.lab import Lab, wait_for
from tests.lab.three import rejoin


@pytest.fixture(scope="module", params=["iptables", "nftables"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A cluster in service with IPv6 addresses; the tests tell one story, in their order."""
    with fresh_lab(six=True, backend=request.param) as lab:
        lab.open()
        yield lab


RULES = {
    "iptables": [
        ":repmgr_dnat -",
        ":repmgr_snat -",
        "-A PREROUTING -j repmgr_dnat",
        "-A OUTPUT -j repmgr_dnat",
        "-A POSTROUTING -j repmgr_snat",
        '-A repmgr_dnat -d fd00::20/128 -p tcp -m tcp --dport 54321 -m comment --comment "repmgr_hooks:main:barman" '
        "-j DNAT --to-destination [fd00::11]:5432",
        '-A repmgr_dnat -d fd00::20/128 -p tcp -m tcp --dport 54322 -m comment --comment "repmgr_hooks:main:app" '
        "-j DNAT --to-destination [fd00::11]:5432",
        "-A repmgr_snat -d fd00::11/128 -p tcp -m tcp --dport 5432 -m conntrack --ctstate DNAT "
        '-m comment --comment "repmgr_hooks:main:5432" '
        "-j SNAT --to-source fd00::20",
    ],
    "nftables": [
        "table ip6 repmgr_hooks_main {",
        "chain repmgr_dnat {",
        'ip6 daddr fd00::20 tcp dport 54321 dnat to [fd00::11]:5432 comment "repmgr_hooks:main:barman"',
        'ip6 daddr fd00::20 tcp dport 54322 dnat to [fd00::11]:5432 comment "repmgr_hooks:main:app"',
        "chain repmgr_snat {",
        'ip6 daddr fd00::11 tcp dport 5432 ct status dnat snat to fd00::20 comment "repmgr_hooks:main:5432"',
        "jump repmgr_dnat",
        "jump repmgr_dnat",
        "jump repmgr_snat",
    ],
}


def test_ports_lead_to_the_primary_in_the_tables_of_ipv6_alone(lab: Lab) -> None:
    assert [line for line in lab.gateway.nat() if "repmgr" in line] == RULES[lab.backend]
    assert lab.gateway.run("iptables-save") == ""
    assert lab.gateway.run("cat", "/proc/sys/net/ipv4/ip_forward") == "0\n"
    assert barman_streams_from(lab.db1)
    assert lab.psql_app("select inet_client_addr()").stdout == "fd00::20\n"


def test_what_clients_get(lab: Lab) -> None:
    """A client writes, each node answers the gateway's address, and no rule of others is in the way until there is."""

    def said() -> dict[str, str]:
        findings = json.loads(lab.gateway.hooks("check", "--json").stdout)
        return {item["code"]: item["level"] for item in findings if re.match("client|gateway|rules", item["code"])}

    assert set(said().values()) == {"OK"}
    of_clients = {"client.login", "client.role", "client.write"}
    assert set(said()) == of_clients | {"gateway.address", "gateway.snat", "rules.foreign"}
    lab.gateway.run("ip6tables", "-I", "FORWARD", "-d", "fd00::12", "-j", "DROP")
    assert said()["rules.foreign"] == "FAIL"
    lab.gateway.run("ip6tables", "-D", "FORWARD", "-d", "fd00::12", "-j", "DROP")


def test_boot(lab: Lab) -> None:
    before = lab.gateway.nat()
    lab.daemons["worker"].terminate()
    lab.daemons["worker"].wait(60)
    reboot(lab)

    result = lab.gateway.hooks("boot")

    assert result.returncode == 0, result.stdout + result.stderr
    assert lab.gateway.nat() == before
    assert barman_streams_from(lab.db1)
    lab.start_worker()


def test_failover_and_rejoin(lab: Lab) -> None:
    client = lab.start_client()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    client.wait_for_write(time.time())
    wait_for(lambda: nothing_missing(lab), "the end of the failover")
    assert led_to(lab, lab.db2)
    assert slot(lab.db2) == "t|t|reserved"

    rejoin(lab.db1, lab.db2)
    wait_until_good(lab, lab.db2, [lab.db1])
    assert_nothing_lost(client, lab.db2)
    client.stop()


def test_primary_unplugged_under_open_connections(lab: Lab) -> None:
    """No reset comes from db2, neither to the application nor to a client on the gateway itself, as Barman is one."""
    wait_for(lambda: lab.db2.sql("select count(*) from pg_stat_replication where sync_state = 'sync'") == "1", "db1")
    unplugged_under_open_connections(lab, lab.db2)
    assert led_to(lab, lab.db1)
    assert lab.gateway.run("iptables-save") == ""
