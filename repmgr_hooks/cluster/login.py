"""Why a server does not let a role in, whatever language its messages are in (``lc_messages``).

What it says to a client that may not log in reaches libpq without SQLSTATE, and a role cannot choose its language. So
the catalogue is asked instead, and the reason returned in PostgreSQL's own English.
"""

from __future__ import annotations

import re

from repmgr_hooks.cluster.repmgr_files import is_address
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Sql

LIMIT = 5.0
# In the order of postinit.c and proc.c. Of what is not in the catalogue, a password is what remains. PostgreSQL 16 and
# newer have reserved_connections too; who has pg_use_reserved_connections, may use those, and is not full by then.
REASON = """
select case
         when d.oid is null then format('database "%%s" does not exist', asked.datname)
         when not r.rolcanlogin then format('role "%%s" is not permitted to log in', asked.rolname)
         when not d.datallowconn then format('database "%%s" is not currently accepting connections', asked.datname)
         when not has_database_privilege(r.oid, d.oid, 'connect')
         then format('permission denied for database "%%s"', asked.datname)
         when r.rolconnlimit between 0 and (select count(*) from pg_stat_activity where usesysid = r.oid)
         then format('too many connections for role "%%s"', asked.rolname)
         when d.datconnlimit between 0 and (select count(*) from pg_stat_activity where datid = d.oid)
         then format('too many connections for database "%%s"', asked.datname)
         when (select count(*) from pg_stat_activity where backend_type = 'client backend')
              >= current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                 - coalesce(current_setting('reserved_connections', true), '0')::int
         then 'sorry, too many clients already'
         else format('password authentication failed for user "%%s"', asked.rolname)
       end
  from (select %s::name as rolname, %s::name as datname) asked
       left join pg_roles r on r.rolname = asked.rolname left join pg_database d on d.datname = asked.datname
 where not pg_is_in_recovery() and current_setting('lc_messages') !~* '^(C|POSIX|en)'
"""


def in_english(said: str, cluster: Cluster, host: Host) -> str:
    """Return why the primary does not let the client in, and what it ``said``; only that, if it speaks English."""
    if "pg_hba.conf" in said:
        return said  # the name of the file is the same in all languages
    asked = (cluster.client.user, cluster.client.dbname)
    answers = host.fetch_each([Sql(node, REASON, asked) for node in cluster.nodes], LIMIT)
    rows = [rows for rows in answers.values() if not isinstance(rows, OperationFailed) and rows]
    return f"{rows[0][0][0]} ({said})" if rows else said


def address_in(message: str) -> str:
    """Return the address of the client that a message of a server's is about, in any language; empty if there is none.

    >>> address_in('no pg_hba.conf entry for host "10.0.0.20", user "db"'), address_in("для компьютера fd00::20.")
    ('10.0.0.20', 'fd00::20')
    """
    words = re.findall(r"(?<![\w.:])[0-9a-f]+(?:[.:]+[0-9a-f]+)+(?![\w:])", message)
    return next((word for word in reversed(words) if is_address(word)), "")
