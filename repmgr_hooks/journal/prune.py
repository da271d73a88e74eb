"""What the journal drops when it has grown old, and what it keeps all the same."""

from __future__ import annotations

from repmgr_hooks.journal.memory import CLAIMS

LAST = "select max(id) from run group by cluster"
PROVES = f"""
select run from event join role on role.id = event.role
 where name in ({CLAIMS}) and run is not null and node <> "primary"
"""
OLD = f"select id from run where ended < ? and id not in ({LAST} union {PROVES})"
# A primary is of the time until the next was found; that of yesterday may be from long ago.
LATER = "select 1 from role later where later.cluster = role.cluster and later.id > role.id"

PRUNE = (
    f"delete from step where run in ({OLD})",
    f"delete from failed_action where run in ({OLD})",
    f"delete from event where run in ({OLD})",
    f"delete from run where id in ({OLD})",
    "delete from observation where at < ?",
    "delete from probe where at < ?",
    f"delete from role where exists ({LATER} and later.since < ?)",
)
"""Each statement takes the time before which all is old."""

FORGET = (
    "delete from role where cluster = ?",
    "update event set role = null where cluster = ?",  # the numbers are given again
)
"""Each takes the cluster that is forgotten, after it was restored or made anew."""
