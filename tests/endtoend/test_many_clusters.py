"""A gateway of more clusters than are looked at wholly each time: what clients of each of them meet."""

from __future__ import annotations

import re

import yaml

from tests.bench.scale_failovers import with_ports_only
from tests.bench.tick import give_addresses, many
from tests.endtoend.test_check import CONFIG
from tests.lab import PYTHON, Lab, wait_for_answer

CLUSTERS = 10
LIMIT = 120
ASK = """
import psycopg, sys
for port in sys.argv[2:]:
    try:
        where = f"host={sys.argv[1]} port={port} user=app dbname=app connect_timeout=2"
        with psycopg.connect(where, autocommit=True) as client:
            client.execute("create temp table if not exists written (by int)")
            print(client.execute("select host(inet_server_addr())").fetchone()[0][-1])
    except psycopg.Error:
        print("nobody")
"""
"""The number of the node on which a client writes, by port: the last figure of its address in each cluster."""


def written_on(lab: Lab, ports: list[int]) -> set[str]:
    asked = lab.app.run(PYTHON, "-c", ASK, lab.known_address, *map(str, ports), user="postgres", limit=150)
    return set(asked.split())


def test_clients_of_each_cluster_get_through_after_a_start_a_flush_and_a_failover(built_lab: Lab) -> None:
    lab = built_lab
    # A bare "on" is true in YAML 1.1.
    settings = yaml.safe_load(re.sub(r"\bon:", "'on':", lab.gateway.path(CONFIG).read_text()))
    clusters = many(settings["clusters"]["main"], CLUSTERS)
    give_addresses(lab, clusters)
    for host in lab.databases:  # Barman, which commits would wait for, is none of these clusters'
        host.sql("alter system set synchronous_standby_names = ''")
        host.sql("select pg_reload_conf()")
    chosen = {name: with_ports_only(cluster) for name, cluster in clusters.items()}
    lab.put(lab.gateway, CONFIG, yaml.safe_dump({**settings, "clusters": chosen}))
    ports = [port for cluster in chosen.values() for port in cluster["gateway"]["ports"].values()]
    lab.start_worker()
    wait_for_answer(lambda: written_on(lab, ports), {"1"}.__eq__, "the ports of all, after a start", LIMIT)
    lab.start_repmgrd()
    lab.gateway.run("iptables", "-t", "nat", "-F")
    wait_for_answer(lambda: written_on(lab, ports), {"1"}.__eq__, "the ports of all, after a flush", LIMIT)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for_answer(lambda: written_on(lab, ports), {"2"}.__eq__, "the ports of all, after a failover", LIMIT)
