"""Load balancers and Prometheus ask over HTTP which node is the primary: with the real HAProxy, through a failover."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import led_to
from tests.lab import CONFIG, CONFIG_FILE, Host, Lab, prometheus, wait_for, wait_for_answer
from tests.lab import http as endpoint

INTERVAL = 1
TOO_OLD = 2 * INTERVAL + 20


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Two nodes in service, looked at each second; ``serve-http`` and HAProxy on the gateway."""
    with fresh_lab() as lab:
        lab.build_service()
        config = lab.gateway.path(CONFIG_FILE)
        config.write_text(config.read_text().replace("monitor_interval: 5", f"monitor_interval: {INTERVAL}"))
        lab.serve()
        endpoint.start(lab)
        wait_for(lambda: endpoint.primaries(lab) == [1], "node 1 to be answered for")
        start_haproxy(lab)
        yield lab


def start_haproxy(lab: Lab) -> None:
    lab.put(lab.gateway, "/etc/haproxy/haproxy.cfg", (CONFIG / "haproxy.cfg").read_text())
    lab.daemons["haproxy"] = lab.gateway.start("haproxy", "-db", "-f", "/etc/haproxy/haproxy.cfg", log="haproxy")


def behind(lab: Lab, port: int) -> str:
    """The address of the node that a client reaches through HAProxy; empty if none."""
    dsn = f"host={lab.gateway.address} port={port} user=app dbname=app connect_timeout=10"
    return lab.app.result("psql", "-XAtq", dsn, "-c", "select inet_server_addr()", user="postgres").stdout.strip()


def leads_to(lab: Lab, port: int, host: Host) -> bool:
    return behind(lab, port) == f"{host.address}"


@contextmanager
def watched(lab: Lab) -> Iterator[list[list[int]]]:
    """Ask all the time for which nodes ``/primary`` is answered by 200: each different answer, in order."""
    seen: list[list[int]] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            now = endpoint.primaries(lab)
            if not seen or now != seen[-1]:
                seen.append(now)
            over.wait(0.1)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(60)


def test_failover(lab: Lab) -> None:
    wait_for(lambda: leads_to(lab, 5000, lab.db1), "HAProxy to lead writers to db1")
    wait_for(lambda: leads_to(lab, 5001, lab.db2), "HAProxy to lead readers to db2")
    prometheus.start(lab)
    wait_for(lambda: 1 in prometheus.asked(lab, 'repmgr_hooks_primary_known{cluster="main"}'), "the first scrape")
    assert prometheus.rules_that_fail(lab) == []
    wait_for(lambda: prometheus.alerts(lab) == {}, "no alert")
    with watched(lab) as seen:
        wait_for(lambda: seen == [[1]], "the first answer")
        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: endpoint.primaries(lab) == [2], "node 2 to be answered for")
        wait_for(lambda: leads_to(lab, 5000, lab.db2), "HAProxy to lead writers to db2")
        wait_for(lambda: led_to(lab, lab.db2), "the failover")
        lab.db1.pg_ctl("start")  # the stale primary: it has not heard of anything
        assert lab.db1.sql("select pg_is_in_recovery()") == "f"
        stale = ("PostgresStalePrimary", "1")
        wait_for(lambda: prometheus.alerts(lab).get(stale) == "firing", "Prometheus to report the stale primary")
        time.sleep(3 * INTERVAL)
        assert behind(lab, 5000) != lab.db1.address
        wait_for(lambda: leads_to(lab, 5000, lab.db2), "HAProxy to lead writers to db2")
    assert [answer for answer in seen if answer] == [[1], [2]], seen
    assert len(seen) <= 3, "1, then perhaps nobody, then 2"
    answered(lab, {"/main/nodes/1/replica": 503, "/main/nodes/1/health": 200, "/health": 200})


def answered(lab: Lab, expected: dict[str, int], method: str = "GET") -> None:
    """Wait until each path is answered so: what has just been started or stopped is seen at the next look."""
    statuses = list(expected.values())
    wait_for_answer(
        lambda: endpoint.statuses(lab, *expected, method=method), lambda got: got == statuses, f"{expected}"
    )


def test_what_is_asked(lab: Lab) -> None:
    of_1, of_2 = "/main/nodes/1", "/main/nodes/10.0.0.12"
    roles = {f"{of_1}/primary": 200, f"{of_2}/primary": 503, f"{of_1}/replica": 503, f"{of_2}/replica": 200}
    for method in ("GET", "HEAD", "OPTIONS"):
        answered(lab, {**roles, "/nodes/2/read-only": 200}, method)
    answered(lab, {"/primary": 404, "/main/primary": 404, "/other/nodes/1/primary": 503})
    answered(lab, {f"{of_2}/sync": 200, f"{of_2}/async": 503})  # FIRST 1 (db2, ...)
    (status, body) = endpoint.asked(lab, f"{of_1}/primary")[0]
    assert (status, json.loads(body)["node"], json.loads(body)["primary"]) == (200, 1, 1)
    assert endpoint.statuses(lab, of_1, method="POST") == [405]
    of_metrics(lab)


def of_metrics(lab: Lab) -> None:
    """What Prometheus' own tool says of it."""
    (status, text) = endpoint.asked(lab, "/metrics")[0]
    samples = {s.name: s.value for family in text_string_to_metric_families(text + "\n") for s in family.samples}
    assert status == 200
    assert samples["repmgr_hooks_status_fresh"] == samples["repmgr_hooks_primary_known"] == 1
    assert abs(samples["repmgr_hooks_last_poll_timestamp_seconds"] - time.time()) < 60
    words = ("promtool", "check", "metrics")
    checked = subprocess.run(words, input=text + "\n", capture_output=True, text=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


def test_a_standby_that_does_not_replay(lab: Lab) -> None:
    """It receives everything, and readers would see what was."""
    near, far = "/main/nodes/2/replica?lag=1MB", "/main/nodes/2/replica"
    answered(lab, {near: 200, far: 200})
    lab.db2.sql("select pg_wal_replay_pause()")
    lab.db1.sql("create table much as select repeat('x', 1000) from generate_series(1, 10000)", "app")
    answered(lab, {near: 503, far: 200})
    lab.db2.sql("select pg_wal_replay_resume()")
    answered(lab, {near: 200, far: 200})


def test_a_service_that_hangs_or_is_gone(lab: Lab) -> None:
    """What nobody has looked at lately is not answered for; a restart and a pause take no node away."""
    worker = lab.daemons["worker"]
    lab.gateway.hooks("pause", "--for", "10m")
    with watched(lab) as seen:
        time.sleep(TOO_OLD + 3)
    assert seen == [[1]]
    lab.gateway.hooks("resume")

    worker.send_signal(signal.SIGSTOP)
    wait_for(lambda: endpoint.primaries(lab) == [], "nobody to be answered for", TOO_OLD + 30)
    answered(lab, {"/health": 503, "/main/health": 503, "/main/nodes/2/replica": 503})
    assert 'status_fresh{cluster="main"} 0' in endpoint.asked(lab, "/metrics")[0][1]
    wait_for(lambda: behind(lab, 5000) == "", "HAProxy to lead nowhere")
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: endpoint.primaries(lab) == [1], "node 1 to be answered for")

    with watched(lab) as seen:
        worker.terminate()
        worker.wait(180)
        lab.start_worker()
        time.sleep(3)
    assert seen == [[1]]
    lab.daemons["worker"].kill()
    wait_for(lambda: endpoint.primaries(lab) == [], "nobody to be answered for", TOO_OLD + 30)
