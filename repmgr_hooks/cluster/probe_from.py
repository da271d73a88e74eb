"""The same visit from another host, where clients are: by psql, through words that lead to a shell there, such as ssh.

``system/shell.py`` goes to the nodes in the same way. The password is what psql finds there.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import replace

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system import client
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.system.visit import LATE, Visit

MARGIN = 5.0
# The script comes on stdin, so nothing has to survive the quoting of ssh; psql asks for no password (-w).
SCRIPT = """
PGAPPNAME={application} PGCONNECT_TIMEOUT={limit} LC_ALL=C timeout --kill-after=1 {limit} \\
    psql -XAtq -w -v ON_ERROR_STOP=1 -v VERBOSITY=verbose {dsn} 2>&1 <<'SQL'
{ask};
{spill};
{write};
SQL
echo "repmgr-hooks: ended: $?"
"""
ANSWER = re.compile(r"([0-9a-f.:]*)\|([tf])\|([tf])\|(\d+)\|(\d*)")
TOO_LATE = 124
"""What ``timeout`` gives for a program that it has ended."""


def visit_from(cluster: Cluster, dsn: str, host: Host) -> Visit:
    """Visit through a port from where the configuration says; ``dsn`` names no password file of this host."""
    limit = cluster.client.timeout
    script = SCRIPT.format(
        application=shlex.quote(client.APPLICATION),
        limit=limit,
        dsn=shlex.quote(dsn),
        ask=client.ASK.strip(),
        spill=client.SPILL.strip(),
        write=client.WRITE,
    )
    begun = host.now()
    try:
        said = host.run(Program((*cluster.client.shell, "sh"), stdin=script), limit + MARGIN)
    except OperationFailed as error:
        return Visit(error=str(error), seconds=host.now() - begun)
    return replace(parse(said), seconds=host.now() - begun)


def parse(said: str) -> Visit:
    r"""Return the visit that psql's output tells of.

    >>> parse("10.0.0.11|f|f|77|5432\n0/5000060\nrepmgr-hooks: ended: 0\n").stage
    'done'
    >>> parse("psql: error: FATAL:  no such\nrepmgr-hooks: ended: 2\n").error
    'psql: error: FATAL:  no such'
    """
    output, mark, code = said.rpartition("repmgr-hooks: ended: ")
    if not mark:
        return Visit(error=f"psql was not run to its end: {said.strip()[-200:]}")
    sqlstate = re.search(r":  ([0-9A-Z]{5}): ", output)  # of a statement; who is not let in is told none
    lines = [line for line in output.splitlines() if line.strip()]
    answers = [found for line in lines if (found := ANSWER.fullmatch(line))]
    error = LATE if int(code) == TOO_LATE else " ".join(lines)[-300:]
    if not answers:
        return Visit(error=error, rejected=client.is_servers(output))
    server, in_recovery, read_only, pid, port = answers[0].groups()
    source = "client" if read_only == "t" else ""
    seen = Visit("ask", "", "", server, in_recovery == "t", source, int(pid), port=int(port or 0))
    if seen.in_recovery or seen.read_only:
        return seen
    return (
        replace(seen, stage="done")
        if int(code) == 0
        else replace(seen, stage="commit", error=error, sqlstate=sqlstate[1] if sqlstate else "")
    )
