"""Alerts reach their receivers: a mail of a gap in the backup, while a webhook hangs and a failover does not wait."""

from __future__ import annotations

import re
import signal

from tests.endtoend.looks import barman_streams_from, led_to, worker_log
from tests.endtoend.test_continuity import close_file, is_archived, promote, serve
from tests.endtoend.test_worker import kill_worker
from tests.lab import BASE, Lab, must, wait_for, wait_for_answer

MAIL = "/var/lib/barman/mail"
SENDMAIL = f"#!/bin/sh\necho arguments: $* >> {MAIL}\nexec cat >> {MAIL}\n"
ALERTS = """\
alerts:
  - {mail: [dba@example.com]}
  - {webhook: "http://10.0.0.30:8080/hangs", timeout: 120}
clusters:
"""
NOTIFY = """\
    routes:
      - on: [standby_failure]
        do:
          - notify: {severity: critical}
"""
HANGS = "import socket, time; hears = socket.create_server(('', 8080)); print('hears', flush=True); time.sleep(86400)"


def install_sendmail() -> None:
    """In this box only; see contain.py."""
    for place in ("upper", "work"):
        (BASE / place).mkdir()
    sendmail = BASE / "upper/sendmail"
    sendmail.write_text(SENDMAIL)
    sendmail.chmod(0o755)
    layers = f"lowerdir=/usr/sbin,upperdir={BASE}/upper,workdir={BASE}/work"
    must("mount", "-t", "overlay", "-o", layers, "overlay", "/usr/sbin")


def mail(lab: Lab) -> str:
    path = lab.gateway.path(MAIL)
    return path.read_text() if path.exists() else ""


def sending(lab: Lab) -> set[str]:
    """The processes that wait for the webhook; those of a mail have no connection."""
    return set(re.findall(r"pid=(\d+)", lab.gateway.run("ss", "-Htnp", "state", "established", "dport = :8080")))


def test_alerts(built_lab: Lab) -> None:
    lab = built_lab
    install_sendmail()
    try:
        lab.app.start("/opt/repmgr-hooks/bin/python", "-c", HANGS, log="hangs")
        wait_for(lambda: "hears" in lab.app.log("hangs"), "the webhook to listen")
        repair = ("stream: true,", "stream: true, repair: true,")
        serve(lab, ("\nclusters:\n", f"\n{ALERTS}"), ("    routes:\n", NOTIFY), repair, in_vain=True)

        lab.gateway.hooks("event", "--cluster", "main", "2", "standby_failure", user="postgres")
        wait_for(lambda: "Subject: CRITICAL main: standby_failure of node 2" in mail(lab), "a mail of an event")
        assert mail(lab).startswith("arguments: -t -i\n")
        webhook = wait_for_answer(lambda: sending(lab), bool, "the webhook to hang")

        promote(lab)
        wait_for(lambda: led_to(lab, lab.db2) and barman_streams_from(lab.db2), "the failover")
        assert sending(lab) == webhook, "it hangs as before"
        assert "has failed (" not in "\n".join(worker_log(lab))

        closed = [close_file(lab.db2) for _ in range(3)]
        wait_for(lambda: is_archived(lab, closed[0]), "Barman to have it where it stays")
        lab.gateway.run("find", "/var/lib/barman/main_backup", "-name", closed[0], "-delete")
        lab.gateway.hooks("event", "--cluster", "main", "2", "primary_register", user="postgres")
        subject = "Subject: CRITICAL main: ARCHIVE_GAP: Barman lacks WAL that a restore needs"
        wait_for(lambda: subject in mail(lab), "a mail of the gap")
        assert f"ARCHIVE_GAP: Barman lacks {closed[0]}" in mail(lab)
        assert "HINT: repmgr-hooks check-wal --cluster main" in mail(lab)
        wait_for(
            lambda: "Subject: CRITICAL main: firewall {open: app" in mail(lab), "a mail of the gate, which is open"
        )

        before = sending(lab)
        assert kill_worker(lab, signal.SIGTERM) == 0
        lab.start_worker()
        wait_for(lambda: sending(lab) - before, "the webhook to be tried again, while the old try ends by itself")
        assert mail(lab).count(subject) == 1, "a restart tells nothing twice"
    finally:
        must("umount", "-l", "/usr/sbin")
