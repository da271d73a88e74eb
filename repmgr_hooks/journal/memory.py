"""SQL on what is remembered of a cluster: what repmgr has promoted, and how often the primary has changed.

The order in which events and primaries came is that of the journal's own numbers: clocks are set, and the time of an
event is the name of a file that others write.
"""

from __future__ import annotations

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
