-- What the role in 'postgres: {user: ...}' of config.yaml needs if it is not a superuser. Once, on the primary:
--   sudo -u postgres psql -v role=repmgr -f grants.sql repmgr
\set ON_ERROR_STOP on
alter role :"role" with login replication;                      -- create and drop Barman's slot
grant pg_monitor to :"role";                                    -- walsenders, walreceivers, pg_control
grant pg_signal_backend to :"role";                             -- end a walsender that a dead connection of Barman's holds
grant execute on function pg_switch_wal() to :"role";           -- close a file at once; else Barman does it, after a checkpoint
grant usage on schema repmgr to :"role";
grant select on repmgr.nodes to :"role";
-- To compare Barman's WAL with the primary's: checksums of WAL files, and nothing else of their content.
create schema if not exists repmgr_hooks;
drop function if exists repmgr_hooks.wal_sha256(text);
create or replace function repmgr_hooks.wal_sha256(name text, bytes bigint) returns text
    language sql stable security definer set search_path = pg_catalog, pg_temp
    as $$ select encode(sha256(pg_read_binary_file('pg_wal/' || name, 0, bytes, true)), 'hex')
           where name ~ '^[0-9A-F]{24}$' $$;
revoke all on function repmgr_hooks.wal_sha256(text, bigint) from public;
grant usage on schema repmgr_hooks to :"role";
grant execute on function repmgr_hooks.wal_sha256(text, bigint) to :"role";

-- For `failover_slots` in a route (PostgreSQL 17 and newer):
--   grant alter system on parameter primary_conninfo to repmgr;
--   grant execute on function pg_reload_conf() to repmgr;

-- `probe` in config.yaml needs a login and nothing else. The application's own role is best. If its password must not be
-- on the gateway, create a separate role, with a line in pg_hba.conf like the application's, for the same database:
--   create role probe login connection limit 4 password '...';
