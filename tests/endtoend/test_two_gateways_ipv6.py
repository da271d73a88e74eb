"""Two gateways whose addresses are IPv6's, and whose rules nftables has; see ``test_two_gateways.py``.

Each test goes on with the lab as the one before has left it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import needs_box
from tests.endtoend.test_two_gateways import in_step, streams
from tests.lab import Client, wait_for
from tests.lab.gateways import TwoGateways

NODE_1 = {54321: "fd00::11", 54322: "fd00::11"}
NODE_2 = {54321: "fd00::12", 54322: "fd00::12"}
SESSION = "select pid from pg_stat_activity where usename = 'app' and client_addr = 'fd00::20'"


@pytest.fixture(scope="module")
def pair() -> Iterator[TwoGateways]:
    """Both in service; the first has the address."""
    needs_box()
    with TwoGateways(six=True, backend="nftables") as lab:
        lab.open()
        yield lab


@pytest.fixture(scope="module")
def client(pair: TwoGateways) -> Client:
    return pair.start_client()


def test_a_gateway_dies_and_no_connection_breaks(pair: TwoGateways, client: Client) -> None:
    lab = pair
    assert [lab.led(host) for host in lab.gateways] == [NODE_1, NODE_1]
    wait_for(lambda: streams(lab, lab.db1) == 1, "Barman's stream")
    wait_for(lambda: "dport=54322" in lab.tracked(lab.gateway2), "the second gateway to know the client's connection")
    before = lab.db1.sql(SESSION)
    assert before
    died = lab.kill_gateway(lab.gateway)
    client.wait_for_write(time.time())
    assert lab.holders() == [lab.gateway2]
    assert set(before.split()) & set(lab.db1.sql(SESSION).split()), "the client's connection goes on"
    wait_for(lambda: streams(lab, lab.db1) == 1, "Barman's stream")
    print(f"the client waited {client.outage(died):.1f} s")


def test_it_comes_back_and_knows_the_connection(pair: TwoGateways, client: Client) -> None:
    lab = pair
    lab.plug_in(lab.gateway)
    lab.start_gateway(lab.gateway)
    wait_for(lambda: lab.led(lab.gateway) == NODE_1, "the first gateway to lead its ports")
    wait_for(lambda: "dport=54322" in lab.tracked(lab.gateway), "the first gateway to know the client's connection")
    for host in lab.gateways:
        wait_for(lambda h=host: in_step(h), f"{host.name} to be in step", every=2)  # type: ignore[misc]
    client.wait_for_write(time.time())


def test_a_gateway_stands_still_while_the_primary_dies(pair: TwoGateways, client: Client) -> None:
    """As a paused machine: it goes on with the address, and with rules that lead to the former primary."""
    lab = pair
    wait_for(lambda: len(lab.holders()) == 1, "one gateway to have the address")
    (still,) = lab.holders()
    (other,) = (host for host in lab.gateways if host is not still)
    lab.pause(still)
    wait_for(lambda: other in lab.holders(), "the other gateway to have the address")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    client.wait_for_write(time.time())
    wait_for(lambda: streams(lab, lab.db2) == 1, "Barman's stream")
    assert lab.led(still) == NODE_1
    again = lab.go_on(still)
    wait_for(lambda: lab.led(still) == NODE_2, "the gateway that stood still to lead to db2")
    wait_for(lambda: len(lab.holders()) == 1, "one gateway to have the address")
    client.wait_for_write(time.time())
    wait_for(lambda: streams(lab, lab.db2) == 1, "one stream of Barman's")
    print(f"the client waited {client.outage(again):.1f} s when it went on")
