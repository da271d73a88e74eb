"""Each line of a repmgr.conf that we judge is judged as repmgr judges it."""

from __future__ import annotations

import pytest

from repmgr_hooks.repmgr_conf import examine
from tests.lab import BASE, Lab

FILES = (
    "node_id=2",
    "node_id=2\r",
    "node_id 2",
    "node_id=",
    "node_id=${NODE_ID}",
    "node_id=0",
    "event_notifications=node_rejoin,standby_promote",
    "event_notifications='node_rejoin,standby_promote'",
    "conninfo=host=10.0.0.12",
    "conninfo='host=10.0.0.12 horst=x'",
    "replication_type='streaming'",
    "replication_type='Physical'",
    "include_if_exists 'none.conf'",
    "include 'none.conf'",
    "include_dir 'none'",
    "include 'odd.conf'",
    "failover=Automatic",
    "Failover=nonsense",
    "priority=high",
    "priority=-1",
    "priority=10x",
    "priority='0'",
    "node_name=db-2.example",
    "node_name=db.two",
    "node_name='it''s'",
    r"node_name='it\'s'",
    "promote_command=/usr/bin/repmgr",
    "event-notifications=x",
    "log_level=INFO # a comment",
    "log_level='INFO' 'DEBUG'",
    "log_level==INFO",
    "monitor_interval_secs=0",
    "reconnect_interval=10s",
    "\tlog_level\t=\tINFO\t",
    "log_level=INFO\f",
    "\ufeff# a comment",
    "= 5",
    "log_file='/tmp/x",
)


@pytest.mark.parametrize("line", FILES)
def test_a_file_is_read_as_repmgr_reads_it(shared_lab: Lab, line: str) -> None:
    lab = shared_lab
    place = "/etc/repmgr-odd/odd.conf"
    lab.put(lab.gateway, place, lab.config("repmgr-db2.conf") + line + "\n")
    words = ("repmgr", "-f", place, "node", "service", "--list-actions", "--action=stop")
    result = lab.gateway.result(*words, user="postgres")
    assert bool(examine(BASE / "gateway" / place.lstrip("/")).wrong) == (result.returncode != 0), result.stderr
