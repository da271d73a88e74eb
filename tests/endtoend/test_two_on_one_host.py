"""Two nodes on one host, each with a port of its own: one fails over to the other, and back.

The tests go on with the lab as the one before has left it.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.endpoint import Endpoint
from tests.endtoend.conftest import needs_box
from tests.endtoend.looks import (
    assert_nothing_lost,
    barman_streams_from,
    first_file,
    follows,
    missing_across_the_switch,
    slot,
    status,
)
from tests.lab import Client, Host, must, wait_for
from tests.lab.barman import back_up
from tests.lab.three import rejoin
from tests.lab.together import Together
from tests.lab.versions import DATA

NEIGHBOUR = "select pid from pg_stat_activity where application_name = 'neighbour'"
"""Somebody on the gateway who is on db2, past the gateway's ports."""
CONNECTED = "select pid from pg_stat_activity where usename = 'app' and query like 'insert into work%'"


@pytest.fixture(scope="module")
def lab() -> Iterator[Together]:
    """In service, with repmgrd."""
    needs_box()
    with Together() as lab:
        lab.open()
        back_up(lab, lab.db1)
        yield lab


@pytest.fixture(scope="module")
def client(lab: Together) -> Client:
    return lab.start_client()


def serves(lab: Together, host: Host) -> bool:
    """True if both ports lead to a node, and Barman streams from it through its slot."""
    led = lab.led() == {54321: host.port, 54322: host.port}
    return led and barman_streams_from(host) and slot(host) == "t|t|reserved"


def wait_until_good(lab: Together, primary: Host, standby: Host) -> None:
    wait_for(lambda: follows(standby, primary), f"{standby.name} to follow {primary.name}")
    wait_for(lambda: serves(lab, primary), f"{primary.name} to serve")
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a status that is good", every=0.5)


def on_node(lab: Together, host: Host) -> bool:
    """True if a client of the application's port is on a node, which sees the gateway's address."""
    said = lab.psql_app("select inet_server_port(), host(inet_client_addr())")
    return said.stdout.strip() == f"{host.port}|{lab.gateway.address}"


def tracked_to(lab: Together) -> set[int]:
    """The ports of that host to which connections through the application's port lead."""
    listing = lab.gateway.run("conntrack", "-L", "-p", "tcp", "--orig-dst", lab.gateway.address)
    lines = [line for line in listing.splitlines() if " dport=54322 " in line and "ESTABLISHED" in line]
    return {int(re.findall(r"sport=(\d+)", line)[1]) for line in lines}


def signal_all(host: Host, number: signal.Signals) -> None:
    """Send a signal to all processes of a node's PostgreSQL, the postmaster first."""
    postmaster = host.path(f"{DATA}/postmaster.pid").read_text().split()[0]
    os.kill(int(postmaster), number)
    for process in must("pgrep", "-P", postmaster).split():
        with suppress(ProcessLookupError):
            os.kill(int(process), number)


def test_each_is_one_node(lab: Together, client: Client) -> None:
    wait_until_good(lab, lab.db1, lab.db2)
    wait_for(lambda: on_node(lab, lab.db1), "a client to be on db1")
    wait_for(lambda: [probe["node"] for probe in status(lab)["probes"]] == [1, 1], "both ports to be tried", every=0.5)
    wait_for(lambda: "\n0 FAIL" in lab.gateway.hooks("check").stdout, "a check that is good", every=0.5)


def test_a_failover_on_the_host_cuts_the_clients_of_the_old_primary_alone(lab: Together, client: Client) -> None:
    first = first_file(lab)
    dsn = f"host={lab.db2.address} port={lab.db2.port} user=app dbname=app application_name=neighbour"
    # It asks nothing, for what a standby replays may cancel a query.
    lab.gateway.start("sh", "-c", f"sleep 36000 | psql -X '{dsn}'", user="postgres", log="neighbour")
    wait_for(lambda: lab.db2.sql(NEIGHBOUR), "somebody to be on db2")
    before = lab.db2.sql(NEIGHBOUR)

    signal_all(lab.db1, signal.SIGSTOP)  # it keeps its connections, so only a reset gets its clients away from it
    wait_for(lambda: serves(lab, lab.db2), "db2 to serve", 120)
    client.wait_for_write(time.time())
    wait_for(lambda: on_node(lab, lab.db2), "a client to be on db2")
    wait_for(lambda: tracked_to(lab) == {lab.db2.port}, "the connections to lead to db2 alone")
    assert lab.db2.sql(NEIGHBOUR) == before, "nobody has cut who was on db2"
    assert_nothing_lost(client, lab.db2)
    wait_for(lambda: not missing_across_the_switch(lab, lab.db2, first), "Barman to have what it should have")


def test_a_stale_primary_costs_the_clients_of_its_neighbour_nothing(lab: Together, client: Client) -> None:
    before = lab.db2.sql(CONNECTED)
    signal_all(lab.db1, signal.SIGCONT)
    since = lab.db1.sql("select clock_timestamp()")
    wait_for(lambda: "split-brain" in lab.gateway.hooks("status").stdout.lower(), "a stale primary", every=0.5)
    client.wait_for_write(time.time())
    assert before
    assert lab.db2.sql(CONNECTED) == before, "its connection is the same"
    assert lab.led() == {54321: lab.db2.port, 54322: lab.db2.port}
    gateway, stale = lab.gateway.address, Endpoint(lab.db1.address, lab.db1.port)
    cut = lab.gateway.result(*Family(gateway).delete_connections(gateway, 54322, stale))
    assert "0 flow entries have been deleted" in cut.stderr
    wait_for(lambda: tracked_to(lab) == {lab.db2.port}, "the connections to lead to db2 alone")
    come = f"select count(*) from pg_stat_activity where usename = 'app' and backend_start > '{since}'"
    assert lab.db1.sql(come) == "0", "nobody has come to it since"


def test_it_rejoins_and_takes_over_again(lab: Together, client: Client) -> None:
    lab.db1.pg_ctl("stop", "-m", "immediate")
    rejoin(lab.db1, lab.db2)
    wait_until_good(lab, lab.db2, lab.db1)
    lab.db2.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: serves(lab, lab.db1), "db1 to serve", 120)
    client.wait_for_write(time.time())
    wait_for(lambda: on_node(lab, lab.db1), "a client to be on db1")
    assert_nothing_lost(client, lab.db1)
    # The file that the last switch began is whole once Barman has it; until then it is not known to be.
    wait_for(lambda: lab.gateway.hooks("check-wal", user="barman").returncode == 0, "whole WAL by content", every=1)
