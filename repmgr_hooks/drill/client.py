"""A client that writes all the time, through each port and each PgBouncer, and notes what was acknowledged.

Its transactions leave no row: an empty message, as that of a visit (``system/client.py``). The number of each and the
position of its message say afterwards whether the primary has it (``facts.missing``).

Through a port it logs in anew each time, for that is what a switchover must not refuse. Through PgBouncer it keeps its
session, as an application does, until a transaction fails.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from psycopg import conninfo

from repmgr_hooks import clock
from repmgr_hooks.background import meanwhile
from repmgr_hooks.barman import archive
from repmgr_hooks.cluster.probe import way_through
from repmgr_hooks.cluster.wal import position
from repmgr_hooks.drill.facts import Transaction, Way, has, missing
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.switchover.phases import HOLD_LIMIT
from repmgr_hooks.system.client import PREFIX, brief
from repmgr_hooks.system.link import Link, Talk, linked, side_by_side
from repmgr_hooks.system.steps import Host, Sql, console_name
from repmgr_hooks.system.visit import LATE

INTERVAL = 0.1
LIMIT = HOLD_LIMIT + 15
"""Seconds for one transaction: by then nobody is held any more."""
APPLICATION = "repmgr_hooks drill"
# The first 8 digits of a WAL file's name are the timeline.
WRITE = f"""
select txid_current(), pg_logical_emit_message(true, '{PREFIX}', ''), pg_walfile_name(pg_current_wal_insert_lsn())
"""
NOT_COMMITTED = "select id from unnest(%s::bigint[]) id where txid_status(id) is distinct from 'committed'"
CHECK_LIMIT = 30.0
PROTECTION = ("sslmode", "sslrootcert", "sslcert", "sslkey", "channel_binding", "require_auth")


def ways(cluster: Cluster, ports: Sequence[str], pgbouncers: Mapping[str, Sequence[str]]) -> tuple[Way, ...]:
    """Return each way to the primary whose clients a switchover holds."""
    direct = [Way(f"port {port}", _named(way_through(cluster, port))) for port in ports]
    pooled = [
        Way(f"PgBouncer {console_name(console)}, database {name}", _named(_pooled(cluster, console, name)), pooled=True)
        for console, names in pgbouncers.items()
        for name in names
    ]
    return (*direct, *pooled)


def _pooled(cluster: Cluster, console: str, dbname: str) -> str:
    """The console's address, and the probe's role."""
    given, settings = conninfo.conninfo_to_dict(console), cluster.client
    kept = {name: given[name] for name in ("host", "hostaddr", "port", *PROTECTION) if name in given}
    passfile = settings.passfile or given.get("passfile")
    return conninfo.make_conninfo(
        "", **kept, user=settings.user, dbname=dbname, **({"passfile": passfile} if passfile else {})
    )


def _named(dsn: str) -> str:
    return conninfo.make_conninfo(dsn, application_name=APPLICATION, client_encoding="UTF8")


class Client:
    """One client on its way; ``did`` are its transactions."""

    def __init__(self, way: Way) -> None:
        self.way, self.did = way, list[Transaction]()
        self._link: Link | None = None

    def write_until(self, over: threading.Event) -> None:
        """Write until it is over, and not during a transaction."""
        while not over.is_set():
            self.did.append(self.transact(LIMIT))
            over.wait(INTERVAL)
        self.close()

    def transact(self, limit: float) -> Transaction:
        """Do one transaction, and return what became of it."""
        began = clock.wall()
        end = side_by_side({"": self._talk()}, limit).get("", LATE)
        ended = clock.wall()
        if not isinstance(end, tuple):
            self.close()
            return Transaction(self.way, began, ended, error=brief(end) if isinstance(end, Exception) else end)
        if not self.way.pooled:
            self.close()
        xid, lsn, file = end
        return Transaction(self.way, began, ended, int(xid), int(file[:8], 16), position(lsn) or 0)

    def _talk(self) -> Talk[tuple[int, str, str]]:
        if self._link is None:
            self._link = yield from linked(self.way.dsn)
        ((xid, lsn, file),) = yield from self._link.say(WRITE)
        return xid, lsn, file

    def close(self) -> None:
        """Log out."""
        if self._link:
            self._link.close()
            self._link = None


@contextmanager
def writing(clients: Sequence[Client]) -> Iterator[None]:
    """Let all of them write meanwhile, each in a thread of its own."""
    with ExitStack() as stack:
        for client in clients:
            stack.enter_context(meanwhile(client.write_until))
        yield


def lost(did: Sequence[Transaction], primary: int, timeline: int, host: Host) -> tuple[Transaction, ...]:
    """Return the acknowledged transactions that the primary does not have. Raises OperationFailed."""
    acknowledged = [one for one in did if not one.error]
    lineage = archive.look_at_primary(primary, timeline, host).lineage
    there = [str(one.xid) for one in acknowledged if has(lineage, one)]
    rows = host.fetch(Sql(primary, NOT_COMMITTED, (f"{{{','.join(there)}}}",)), CHECK_LIMIT)
    return missing(acknowledged, lineage, {int(row[0]) for row in rows})
