"""Make gateway, replication slot and Barman follow the PostgreSQL primary that repmgr promotes."""
