"""SQL on what is remembered of a cluster: what repmgr has promoted, and how often the primary has changed.

The order in which events and primaries came is that of the journal's own numbers: clocks are set, and the time of an
event is the name of a file that others write.
"""

from __future__ import annotations

import sqlite3

from repmgr_hooks import clock
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import CATALOGUE, RoleClaim

CLAIMS = ", ".join(f"'{name}'" for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.PRIMARY)
DENIALS = ", ".join(f"'{name}'" for name, kind in CATALOGUE.items() if kind.meaning is RoleClaim.STANDBY)
TOLD_UNDER = """
select case when :received < since and since <= :now then null else id end
  from (select id, since from role where cluster = :cluster union all select 0, 0 order by id desc limit 1)
"""
"""The primary in whose time an event is told (0: none was known yet); null if the event is older than that one. A
primary that was found in what is now the future shows that the clock was set back, and then no time says what is older.
"""
PROMOTED = f"""
select node from event where cluster = ? and role = ? and not by_hand group by node
having max(iif(name in ({CLAIMS}), id, 0)) > max(iif(name in ({DENIALS}), id, 0))
"""
CHANGES = """
select count(*) from (select "primary" <> lag("primary") over (order by id) as changed, since from role
                       where cluster = ?) where changed and abs(since - ?) < ?
"""
"""Those that bear a time of the future count too: a clock that is set back must not let the primary swing."""


def last_known(db: sqlite3.Connection, cluster: str, within: float) -> LastKnownPrimary:
    """Return what is remembered of a cluster, with how often its primary has changed in so many seconds."""
    columns = 'id, "primary", timeline, system_identifier, since'
    last = f"select {columns} from role where cluster = ? order by id desc limit 1"
    role, primary, timeline, system, since = db.execute(last, (cluster,)).fetchone() or (0, None, 0, "", 0.0)
    promoted = frozenset(node for (node,) in db.execute(PROMOTED, (cluster, role)))
    others = 'select "primary" from role where cluster = ? and "primary" <> ? order by id desc limit 1'
    before = db.execute(others, (cluster, primary)).fetchone()
    of_system = "select timeline, node from branch where cluster = ? and system_identifier = ?"
    began = dict(db.execute(of_system, (cluster, system)).fetchall())
    often = changes(db, cluster, within)
    return LastKnownPrimary(primary, timeline, system, promoted, often, began, since, before[0] if before else None)


def changes(db: sqlite3.Connection, cluster: str, within: float) -> int:
    """Return how often the primary has changed in so many seconds."""
    ((count,),) = db.execute(CHANGES, (cluster, clock.wall(), within))
    return int(count)
