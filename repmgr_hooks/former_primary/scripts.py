"""What is run on the node of a former primary, by a shell of PostgreSQL's user there.

It is looked at there once more, right before anything is done, without asking its PostgreSQL: what PostgreSQL says of
itself is in pg_control, and which timelines it knows is shown by the names in pg_wal. A promotion puts a history file
and a WAL file of the new timeline there before it lets anybody write (xlog.c, StartupXLOG), so a node whose newest
timeline is the one that was seen has not been promoted since; pg_control's own timeline lags (xlog.c,
CreateEndOfRecoveryRecord).

A rewind and a clone go on whatever becomes of us and of the connection, in a session of their own and under a lock,
``flock``: what only half of it was done to is no database any more. ``--close``: PostgreSQL, which repmgr starts, must
not inherit the lock. Before the first that changes the node, its WAL is kept, and a mark says that it is being changed:
without the mark it is what it was, however the job has ended.
"""

from __future__ import annotations

from enum import IntEnum

MARK = "repmgr-hooks:"
MOST_SAID = 20_000


class Refused(IntEnum):
    """Exit codes of a job that has not touched the node; repmgr's own are below 30 (errcode.h)."""

    RUNNING = 71
    ANOTHER = 72
    TOO_MUCH = 73
    PRIMARY = 74
    BUSY = 75
    NO_BARMAN = 76
    NOT_KEPT = 77
    CUT_OFF = 78
    EARLY = 79


COMMON = r"""
LC_ALL=C
PGCONNECT_TIMEOUT=10
export LC_ALL PGCONNECT_TIMEOUT
unset SSH_AUTH_SOCK
cd {directory} || exit {another}
server=$(head -n 1 postmaster.pid 2>/dev/null)
server=${{server#-}}
version=$(cat PG_VERSION 2>/dev/null)
running() {{ [ -n "$server" ] && [ "/proc/$server/cwd" -ef . ]; }}
path={path}
if running; then
    path=$({{ tr '\0' '\n' <"/proc/$server/environ" | sed -n 's/^PATH=//p'; }} 2>/dev/null)
    path=${{path:-$PATH}}:$(dirname "$(readlink "/proc/$server/exe")")
fi
PATH=${{path:-$PATH}}:/usr/lib/postgresql/$version/bin:/usr/pgsql-$version/bin
export PATH
control() {{ pg_controldata -D . | sed -n "s/^$1: *//p"; }}
newest() {{ ls pg_wal/ | sed -nE 's/^([0-9A-F]{{8}})([0-9A-F]{{16}}(\.partial)?|\.history)$/\1/p' | sort | tail -n 1; }}
# Its place is said by a table: repmgr with that of another server on this host would stop, or delete, that one.
blank='[[:space:]]*'
named=$(sed -nE "s/^${{blank}}data_directory$blank[=[:space:]]$blank'?([^'#]*[^'#[:space:]]).*/\1/p" {conf} | tail -n 1)
ours() {{ [ -z "$named" ] || [ "$named" -ef . ] || {{ echo {conf} "is about $named"; false; }}; }}
# True if it is the node that was seen: of this system, on this timeline, and no standby.
same() {{
    identifier=$(control 'Database system identifier') state=$(control 'Database cluster state') timeline=$(newest)
    [ "$identifier $timeline" = {identity} ] || return 1
    case $state in 'in production' | 'shut down' | 'shutting down') ;; *) return 1 ;; esac
    {signal}[ ! -e standby.signal ]
}}
"""
# Fast, by repmgr, which knows the command of the host (service_stop_command) and does not wait for the end
# (repmgr-client.c, get_server_action). A walsender whose receiver is gone holds that up (walsender.c, WalSndDone):
# after the limit it is stopped at once, for every commit there is one more that will be lost.
FENCE = """
if running; then
    if ! same; then
        echo "{mark} another $identifier, timeline $timeline, $state"
        exit
    fi
    ours || {{ echo "{mark} running"; exit; }}
    timeout --kill-after=5 {limit:.0f} repmgr -f {conf} node service --action=stop </dev/null 2>&1
    tries=0
    while running && [ $tries -lt {tries:.0f} ]; do
        sleep 0.1
        tries=$((tries + 1))
    done
    running && timeout --kill-after=5 {now:.0f} pg_ctl -D . -m immediate -w stop </dev/null 2>&1
elif ! same; then
    echo "{mark} another $identifier, timeline $timeline, $state"
    exit
fi
if running; then echo "{mark} running"; else echo "{mark} stopped $PATH"; fi
"""
START = """
umask 077
area={area}
mkdir -p "$area" || exit
cat >"$area/job-{job}" <<'{end}'
area={area} job={job}
: >"$area/begun-$job"
find "$area" -maxdepth 1 -type f ! -name "*-$job*" ! -name lock ! -name server.log -delete
(
{work}
)
echo $? >"$area/code-$job.new"
mv "$area/code-$job.new" "$area/code-$job"
{end}
setsid flock --wait 2 --close "$area/lock" sh "$area/job-{job}" </dev/null >"$area/said-{job}" 2>&1 &
tries=0
while [ ! -e "$area/begun-{job}" ] && [ $tries -lt 200 ]; do
    sleep 0.05
    tries=$((tries + 1))
done
if [ -e "$area/begun-{job}" ]; then echo "{mark} begun"; else cat "$area/said-{job}"; echo "{mark} late"; fi
"""
ASK = """
cd {area} 2>/dev/null || {{ echo "{mark} refused"; exit; }}
flock --nonblock --close lock true && free=1
if [ -e code-{job} ]; then
    tail -c {most} said-{job}
    echo
    if [ -e touched-{job} ]; then word=ended; else word=refused; fi
    echo "{mark} $word $(cat code-{job})"
elif [ "$free" ]; then
    if [ -e touched-{job} ]; then echo "{mark} gone"; else echo "{mark} refused"; fi
else
    echo "{mark} runs"
fi
"""
# One name at a time: of a pattern longer than 15 characters pgrep finds nothing (pgrep(1)).
READY = """
running && exit {running}
ours || exit {another}
for name in repmgr pg_rewind pg_basebackup; do
    pgrep -u "$(id -u)" -x $name >/dev/null && exit {busy}
done
"""
# Until the first checkpoint after its promotion, which takes its time, pg_control of the primary has the timeline of
# before; pg_rewind up to PostgreSQL 15 goes by that, and rewinds nothing (pg_rewind.c, main): it is tried again later.
PRIMARY = """
query="select pg_is_in_recovery(), (select system_identifier from pg_control_system()),
              ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int,
              (select timeline_id from pg_control_checkpoint())"
said=$(psql -XAtqw -d {primary} -c "$query" </dev/null)
case $said in
{verified}"|"{timeline}) ;;
{verified}"|"*) exit {early} ;;
*) echo "the primary says: $said"; exit {refused} ;;
esac
"""
# Of segments that are recycled, for WAL to come, only a clean shutdown tells. The copies bear the position of the last
# checkpoint: the same WAL is kept once. pg_rewind writes into the files of pg_wal, so links would not do.
KEEP = """
last=
[ "$state" = 'shut down' ] && last=$(control "Latest checkpoint's REDO WAL file" | cut -c 9-)
kept=$area/wal-{timeline:08X}-{first}-$(control 'Latest checkpoint location' | tr / -)
if [ ! -d "$kept" ]; then
    files=$(ls pg_wal/ | awk -v first={first} -v last="$last" '/^[0-9A-F]+$/ && length($0) == 24 {{
        segment = substr($0, 9) ""
        if (segment >= first "" && (last == "" || segment <= last "")) print
    }}')
    count=$(echo "$files" | grep -c .)
    if [ "$count" -gt {most} ]; then
        echo "$count WAL files are its own, and at most {most} are kept"
        exit {too_much}
    fi
    rm -rf "$area"/wal-*.new
    mkdir "$kept.new" || exit {not_kept}
    for file in $files $(ls pg_wal/ | grep '^[0-9A-F]*\\.history$'); do
        cp -p "pg_wal/$file" "$kept.new/" || exit {not_kept}
    done
    sync -f "$kept.new" && mv "$kept.new" "$kept" || exit {not_kept}
    echo "its own WAL is kept: $count file(s) in $kept"
    ls -dt "$area"/wal-* | tail -n +{beyond} | while read -r old; do rm -rf "$old"; done
fi
"""
TOUCH = """
: >"$area/touched-$job" && sync -f "$area" || exit {not_kept}
"""
REJOIN = """
same || {{ echo "it is $identifier, timeline $timeline, $state"; exit {another}; }}
{primary}
{keep}
{touch}
timeout --kill-after=10 {limit} repmgr -f {conf} node rejoin -d {conninfo} --force-rewind {files}
"""
# repmgr deletes the data directory and makes another (dirutil.c, create_pg_dir): not that of a node that was promoted
# since; and repmgr must not stand in it, for rsync, by which it clones from Barman, needs the directory that it is in.
# What is left of a rewind or a clone that was cut off has the old timeline in pg_control, or is no primary by it, or
# has a backup_label (pg_rewind.c, basebackup.c: pg_control is written last). repmgr waits for the end of what it starts
# PostgreSQL with (repmgr-action-node.c, do_node_service), and what pg_ctl writes to, PostgreSQL keeps open without
# ``-l``.
CLONE = """
if [ -e global/pg_control ]; then
    identifier=$(control 'Database system identifier')
    [ "$identifier" = {system} ] || {{ echo "it is $identifier"; exit {another}; }}
    state=$(control 'Database cluster state') timeline=$(control "Latest checkpoint's TimeLineID")
    case $state in 'in production' | 'shut down' | 'shutting down')
        if [ "${{timeline:-0}}" -gt {timeline} ] && [ ! -e backup_label ] && [ ! -e standby.signal ]; then
            echo "it was a primary on timeline $timeline since"
            exit {another}
        fi
    esac
fi
{primary}
{source}
for file in {own_files}; do
    [ -e "$file" ] || continue
    mkdir -p "$area/files/$(dirname "$file")" && cp -p "$file" "$area/files/$file" || exit {not_kept}
done
{touch}
cd / || exit
timeout --kill-after=10 {limit} repmgr -f {conf} {node} standby clone --force --fast-checkpoint {way} || exit
cd {directory} || exit
for file in {own_files}; do
    if [ -e "$area/files/$file" ]; then cp -p "$area/files/$file" "$file" || exit; fi
done
if grep -q '^[[:space:]]*service_start_command' {conf}; then
    timeout {start} repmgr -f {conf} node service --action=start || exit
else
    timeout {start} pg_ctl -D . -w -t {start} -l "$area/server.log" start || exit
fi
tries=0
until repmgr -f {conf} standby register --force; do
    tries=$((tries + 1))
    [ $tries -lt 10 ] || exit 1
    sleep 3
done
"""
BARMAN_IN_CONF = "grep -Eq '^[[:space:]]*(barman_host|pg_backupapi_host)' {conf} || exit {no_barman}"
