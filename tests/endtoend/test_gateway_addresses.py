"""The addresses in the gateway's rules: one that this host has not, and a gateway with a leg in two networks."""

from __future__ import annotations

import json
import time

import pytest

from tests.endtoend.looks import barman_streams_from, led_to, nothing_missing
from tests.endtoend.test_check import CONFIG
from tests.lab import Lab, must, wait_for

SERVER = "/etc/barman.d/main_backup.conf"


def said_of(lab: Lab, key: str) -> list[dict[str, str]]:
    """What ``check`` says about one subject."""
    return [item for item in json.loads(lab.gateway.hooks("check", "--json").stdout) if item["code"] == key]


def edit(lab: Lab, place: str, old: str, new: str) -> None:
    path = lab.gateway.path(place)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def write_through(lab: Lab, address: str) -> int:
    dsn = f"host={address} port=54322 user=app dbname=app connect_timeout=5"
    words = ("psql", "-XAtq", dsn, "-c", "insert into work default values")
    return lab.app.result(*words, user="postgres").returncode


@pytest.mark.parametrize("option", ["address", "snat_address"])
def test_an_address_that_this_host_has_not_leads_nobody_astray(built_lab: Lab, option: str) -> None:
    """With it as source, the nodes' answers to repmgrd went elsewhere: db2 was promoted beside a live db1."""
    lab = built_lab
    if option == "address":
        edit(lab, CONFIG, "address: 10.0.0.20", "address: 10.0.0.99")
        edit(lab, SERVER, "10.0.0.20", "10.0.0.99")
    else:
        edit(lab, CONFIG, "address: 10.0.0.20\n", "address: 10.0.0.20\n      snat_address: 10.0.0.99\n")
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()

    (finding,) = [
        item for item in (*said_of(lab, "gateway.address"), *said_of(lab, "gateway.snat")) if item["level"] != "OK"
    ]
    assert finding["level"] == "FAIL"
    assert "this host has no address 10.0.0.99" in finding["message"]
    time.sleep(20)  # repmgrd gives a primary up after 3 attempts, a second each
    assert lab.db2.sql("select pg_is_in_recovery()") == "t"
    assert lab.db1.sql("select timeline_id from pg_control_checkpoint()") == "1"
    assert "is the primary" in lab.gateway.hooks("status").stdout or led_to(lab, lab.db1)

    if option == "address":
        assert write_through(lab, "10.0.0.99") != 0
        lab.gateway.run(*finding["hint"].split())
        wait_for(lambda: write_through(lab, "10.0.0.99") == 0, "a client to write")
    else:  # the kernel has chosen the gateway's address
        wait_for(lambda: write_through(lab, "10.0.0.20") == 0, "a client to write")


@pytest.fixture
def two_networks(built_lab: Lab) -> Lab:
    """Clients, and the address that they know, are on a network to which the nodes have no route."""
    lab = built_lab
    must("ip", "link", "add", "lan2", "type", "bridge")
    must("ip", "link", "set", "lan2", "up")
    must("ip", "link", "set", "app", "master", "lan2")
    must("ip", "-n", "app", "addr", "flush", "dev", "eth0")
    must("ip", "-n", "app", "addr", "add", "10.9.0.30/24", "dev", "eth0")
    must("ip", "link", "add", "gateway2", "type", "veth", "peer", "name", "eth1", "netns", "gateway")
    must("ip", "link", "set", "gateway2", "master", "lan2", "up")
    must("ip", "-n", "gateway", "addr", "add", "10.9.0.20/24", "dev", "eth1")
    must("ip", "-n", "gateway", "link", "set", "eth1", "up")
    edit(lab, CONFIG, "address: 10.0.0.20", "address: 10.9.0.20")
    edit(lab, SERVER, "10.0.0.20", "10.9.0.20")
    return lab


def test_a_gateway_with_two_legs(two_networks: Lab) -> None:
    lab = two_networks
    try:
        edit(lab, CONFIG, "fail_open_after: 120", "fail_open_after: 5")
        lab.gateway.hooks("reconcile")
        wrong = [item for item in said_of(lab, "gateway.snat") if item["level"] != "OK"]
        assert [item["where"] for item in wrong] == ["main node 1", "main node 2"]
        assert all(item["level"] == "FAIL" and "nothing from 10.9.0.20" in item["message"] for item in wrong)
        assert write_through(lab, "10.9.0.20") != 0
        assert "node 1: primary" in lab.gateway.hooks("status").stdout, "our own looks keep their way"

        assert "{snat_address: 10.0.0.20}" in wrong[0]["hint"]
        edit(lab, CONFIG, "fail_open_after: 5", "fail_open_after: 120")
        edit(lab, CONFIG, "address: 10.9.0.20\n", "address: 10.9.0.20\n      snat_address: 10.0.0.20\n")
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout
        wait_for(lambda: write_through(lab, "10.9.0.20") == 0, "a client to write")
        assert {item["level"] for item in said_of(lab, "gateway.snat")} == {"OK"}
        assert barman_streams_from(lab.db1)
        wait_for(lambda: nothing_missing(lab), "all to be done")
    finally:
        must("ip", "link", "del", "lan2")
