"""What matters less is broken, or somebody talks nonsense: the ports follow all the same, and it is said."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from tests.endtoend.looks import barman_streams_from, failover_handled, follows, led_to, worker_log
from tests.lab import Lab, wait_for, wait_for_answer

BROKEN = {
    "fails": "#!/bin/sh\necho 'conntrack v1.4.7 (conntrack-tools): Operation failed: \x1b[31mnothing' >&2\nexit 1\n",
    "hangs": "#!/bin/sh\nexec sleep 600\n",
    "floods": "#!/bin/sh\nexec cat /dev/zero >&2\n",
}
NAMED = {"fails": r"exit code 1: conntrack v1.4.7", "hangs": "not finished after", "floods": "not finished after"}

NONSENSE = """
import socket, sys
error = b"SFATAL\\0C57P03\\0M\\x1b[31mno PostgreSQL \\xff\\xe2\\x80\\xae\\0\\0"
with socket.create_server((sys.argv[1], 5432)) as listening:
    while True:
        connection, _ = listening.accept()
        with connection:
            if b"\\x04\\xd2\\x16" in connection.recv(4096):  # SSL, or GSSAPI
                connection.sendall(b"N")
                connection.recv(4096)
            connection.sendall(b"E" + (len(error) + 4).to_bytes(4, "big") + error)
"""


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_conntrack_keeps_no_port_at_the_old_primary(lab: Lab, how: str) -> None:
    lab.put(lab.gateway, "/usr/local/bin/conntrack", BROKEN[how], 0o755)
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: led_to(lab, lab.db2), "both ports to lead to db2", limit=90)
    wait_for(lambda: NAMED[how] in lab.gateway.hooks("history", "--failed").stdout, "the fault to be named")
    assert lab.psql_app("select pg_is_in_recovery()").stdout.strip() == "f"
    for lines in (lab.gateway.hooks("history").stdout.splitlines(), worker_log(lab)):
        assert all(line.isprintable() for line in lines)
        assert sum(map(len, lines)) < 1_000_000
    lab.gateway.run("rm", "/usr/local/bin/conntrack")
    wait_for(lambda: failover_handled(lab), "the rest to be done when conntrack works again", limit=120)


def test_a_table_that_somebody_has_filled_hides_no_failover(built_lab: Lab) -> None:
    lab = built_lab
    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.db1.sql(
        "insert into repmgr.nodes (node_id, node_name, type, active, location, priority, conninfo, repluser, "
        "config_file) select n, 'n' || n, 'standby', false, 'x', 0, 'host=192.0.2.1', 'x', 'x' "
        "from generate_series(1000, 300000) n",
        dbname="repmgr",
        limit=60,
    )
    count = "select count(*) > 290000 from repmgr.nodes"
    wait_for(lambda: lab.db2.sql(count, "repmgr") == "t", "db2 to have replayed it")
    found = json.loads(lab.gateway.hooks("status", "--json").stdout)["main"]
    assert found["decision"]["primary"] == 1
    assert [state["error"] for state in found["decision"]["states"]] == ["", ""]
    assert [len(state["registered"]) for state in found["decision"]["states"]] == [100, 100]
    wait_for(lambda: follows(lab.db2, lab.db1), "db2 to follow db1")
    lab.db1.pg_ctl("stop", "-m", "fast")
    lab.db2.sql("select pg_promote()")
    assert lab.gateway.hooks("reconcile").returncode == 0
    assert led_to(lab, lab.db2)


def test_one_node_that_talks_nonsense_hides_no_failover(three_without_repmgrd: Lab) -> None:
    """db3's PostgreSQL is gone, and something else answers at its port."""
    lab = three_without_repmgrd
    lab.db3.pg_ctl("stop", "-m", "immediate")
    lab.daemons["nonsense"] = lab.db3.start("python3", "-c", NONSENSE, lab.db3.address, log="nonsense")
    wait_for(lambda: "\\x1b[31mno PostgreSQL" in lab.gateway.hooks("status").stdout, "the nonsense to be shown")
    lab.db1.pg_ctl("stop", "-m", "immediate")
    lab.db2.sql("select pg_promote()")
    wait_for(lambda: led_to(lab, lab.db2), "both ports to lead to db2", limit=60)
    assert all(line.isprintable() for line in worker_log(lab))


def test_a_receiver_that_hangs_is_killed_by_the_hint(lab: Lab) -> None:
    """Barman sends SIGTERM, which nothing that is stopped hears, and gives up."""
    for number in lab.gateway.run("pgrep", "-f", "receive-?wal.*[ /]main_backup").split():
        os.kill(int(number), signal.SIGSTOP)
    lab.db1.sql("select pg_terminate_backend(active_pid) from pg_replication_slots where active")
    said = r"if it hangs, kill it, and what it has started: (pkill -KILL -f .*)"
    (hint, *_) = wait_for_answer(lambda: re.findall(said, "\n".join(worker_log(lab))), bool, "the hint", 120)
    assert not barman_streams_from(lab.db1)
    lab.gateway.run("sh", "-ec", hint)
    wait_for(lambda: barman_streams_from(lab.db1), "Barman to stream", 120)
