"""Restores the newest backup into a directory of its own, lets PostgreSQL recover there, and says how far it came.

It stays a standby without a primary: it replays what there is, promotes itself never, and writes nothing of its own.
Nobody can connect but through a socket in a directory of ours.
"""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from repmgr_hooks.barman.agent.follow import be_modest, end_with_parent, program, scratch

QUIET = 20.0
"""Seconds without progress after which all is replayed; a standby looks for more every 5 s."""
ASK = "select pg_last_wal_replay_lsn() - '0/0', pg_last_wal_replay_lsn(), pg_last_xact_replay_timestamp()"
NEEDED = {
    "max_connections": "max_connections",
    "max_worker_processes": "max_worker_processes",
    "max_wal_senders": "max_wal_senders",
    "max_prepared_xacts": "max_prepared_transactions",
    "max_locks_per_xact": "max_locks_per_transaction",
}
"""A standby needs at least as much of these as its primary had (pg_controldata's names, and the settings')."""


class Failed(Exception):
    """The backup cannot be restored."""


def restore(asked: dict[str, Any]) -> dict[str, Any]:
    """Return how far a restore gets: ``lsn``, in ``bytes`` too, and the ``time`` of the last transaction."""
    be_modest()
    end = time.monotonic() + asked["seconds"]
    postgres, control, psql = (program(name, asked["version"]) for name in ("postgres", "pg_controldata", "psql"))
    if not (postgres and control and psql):
        return {"unable": f"there are no programs of PostgreSQL {asked['version']}", "problem": ""}
    with scratch(asked["backup_directory"]) as place, tempfile.TemporaryDirectory(prefix="rh-") as sockets:
        data = f"{place}/data"
        try:
            recover(asked, data, end)
            configure(asked, data, sockets, control)
            words = [postgres, "-D", data, "-c", f"config_file={place}/postgresql.conf"]
            with Path(place, "log").open("wb") as log:
                server = started(words, log)
            try:
                return {**replayed([psql, "-XAtqwh", sockets], asked, server, end), "problem": "", "unable": ""}
            finally:
                end_server(server)
        except Failed as error:
            lines = Path(place, "log").read_text(errors="replace").splitlines() if Path(place, "log").exists() else []
            said = [line for line in lines if re.search(r"(FATAL|PANIC|ERROR):", line)]
            return {"problem": "; ".join([str(error), *said[-2:]]), "unable": ""}


def end_server(server: subprocess.Popen[bytes]) -> None:
    """End the server at once, for nothing of it is kept."""
    server.send_signal(signal.SIGQUIT)
    try:
        server.wait(60)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def tablespaces(asked: dict[str, Any], data: str) -> list[str]:
    """Return the options that keep tablespaces out of the places that they have on the primary's machine."""
    words = [asked["barman"], "show-backup", asked["server"], "latest"]
    run = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
    found = re.findall(r"^\s+(\S+)\s*: \S.* \(oid: (\d+)\)", run.stdout, re.MULTILINE)
    if len(found) != run.stdout.count("(oid: "):
        raise Failed("the backup has tablespaces whose names cannot be read from 'barman show-backup'")
    return [word for name, oid in found for word in ("--tablespace", f"{name}:{data}-{oid}")]


def recover(asked: dict[str, Any], data: str, end: float, staging: tuple[str, ...] = ()) -> None:
    """Let Barman bring back the base backup; WAL is fetched one by one later, as in a recovery with get-wal.

    A compressed backup needs a place beside it where no setting of Barman's names one (Barman 3.4).
    """
    more = [*staging, *tablespaces(asked, data)]
    words = [asked["barman"], "recover", "--get-wal", *more, asked["server"], "latest", data]
    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=die_with_me
    ) as run:
        try:
            said, _ = run.communicate(timeout=max(end - time.monotonic(), 1))
        except subprocess.TimeoutExpired:
            run.kill()
            raise Failed("'barman recover' did not end in time") from None
    if run.returncode:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        if staging or "staging path" not in last:
            raise Failed(f"'barman recover' failed: {last or run.returncode}")
        recover(asked, data, end, ("--recovery-staging-path", str(Path(data).parent)))


def configure(asked: dict[str, Any], data: str, sockets: str, control: str) -> None:
    """Write settings of our own; what the backup has of them is of the primary's machine."""
    said = subprocess.run([control, data], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False).stdout
    needed = {
        NEEDED[name]: value
        for name, value in re.findall(r"^(\w+) setting:\s+(\d+)$", said, re.MULTILINE)
        if name in NEEDED
    }
    get_wal = shlex.join([asked["barman"], "get-wal", asked["server"]]) + " %f > %p"
    settings = {
        **needed,
        "listen_addresses": "",
        "unix_socket_directories": sockets,
        "unix_socket_permissions": "0700",
        "hba_file": f"{data}/../hba.conf",
        "shared_buffers": "128MB",
        "huge_pages": "off",
        "hot_standby": "on",
        "restore_command": get_wal,
        "recovery_target_timeline": "latest",
        "archive_mode": "off",
        "logging_collector": "off",
        "log_destination": "stderr",
        "lc_messages": "C",
    }
    text = "".join(f"{name} = {quoted(value)}\n" for name, value in settings.items())
    Path(data, "../postgresql.conf").write_text(text)
    Path(data, "../hba.conf").write_text("local all all trust\n")
    Path(data, "postgresql.auto.conf").write_text("")
    Path(data, "recovery.signal").unlink(missing_ok=True)
    Path(data, "standby.signal").touch()
    Path(data).chmod(0o700)


def quoted(value: str) -> str:
    """Return a value for postgresql.conf."""
    return "'" + value.replace("'", "''") + "'"


def started(words: list[str], log: Any) -> subprocess.Popen[bytes]:
    """Start a server that ends when we end."""
    return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_me)


def die_with_me() -> None:
    end_with_parent(signal.SIGQUIT)


def replayed(psql: list[str], asked: dict[str, Any], server: subprocess.Popen[bytes], end: float) -> dict[str, Any]:
    """Wait until nothing more is replayed, and return where that is."""
    words = [*psql, "-U", asked["user"], "-d", asked["dbname"], "-F", "|", "-c", ASK]
    seen, since = "", time.monotonic()
    while time.monotonic() < end:
        if server.poll() is not None:
            raise Failed(f"PostgreSQL ended, exit code {server.returncode}")
        run = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30, check=False)
        if run.returncode == 0 and run.stdout != seen:
            seen, since = run.stdout, time.monotonic()
        if seen and (time.monotonic() - since > QUIET or int(seen.split("|")[0]) >= asked["target"]):
            number, lsn, moment = seen.strip().split("|")
            return {"bytes": int(number), "lsn": lsn, "time": moment}
        time.sleep(0.5)
    raise Failed("the recovery did not end in time" if seen else "nobody could connect in time")
