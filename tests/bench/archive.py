"""What check-wal costs over a large archive: real WAL, real promotions, a real backup before all of it.

Run as root from the repository, with the package installed in .venv::

    .venv/bin/python -m tests.bench.archive [--files N] [--timelines N] [--segment MB] [--plain]

One node writes records without end, and is promoted now and then. What it has closed is put where Barman would have put
it, in the form that Barman gives it (gzip, or ``--plain``): Barman itself would need 10 ms for each file. With 16 MB
instead of 1, the same number of files needs sixteen times the disk and the time.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import sys
import time
import zlib
from pathlib import Path

from tests.endtoend.test_continuity import configure_nodes
from tests.lab import DATA, Lab, wait_for
from tests.lab.barman import back_up
from tests.lab.contain import contain

WALS = "/var/lib/barman/main_backup/wals"
PIECES = 8
"""What is closed is taken away so often in each timeline, for all of it is in memory."""
COMPLETE = re.compile(r"[0-9A-F]{24}|[0-9A-F]{8}\.history")
SETTINGS = (
    "synchronous_standby_names = ''\narchive_mode = off\nwal_keep_size = '40GB'\nmax_wal_size = '40GB'\n"
    "wal_recycle = off\nwal_init_zero = off\nmax_slot_wal_keep_size = '1GB'\n"
)
FILL = """
do $$ declare filled text; begin
  while pg_current_wal_insert_lsn() < pg_lsn '{until}' loop
    filled := repeat(md5(random()::text), 512);
    for i in 1..100 loop
      perform pg_logical_emit_message(false, 'bench', left(filled, 50 + (random() ^ 8 * 16000)::int));
    end loop;
  end loop;
end $$
"""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.archive")
    parser.add_argument("--files", type=int, default=50_000)
    parser.add_argument("--timelines", type=int, default=12)
    parser.add_argument("--segment", type=int, default=1, metavar="MB")
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    contain([sys.executable, "-m", "tests.bench.archive", *sys.argv[1:]])
    lab = Lab(segment_mb=arguments.segment)
    begun = time.monotonic()
    count = made(lab, arguments.files, arguments.timelines, arguments.plain)
    stored = sum(path.stat().st_size for path in lab.gateway.path(WALS).rglob("*") if path.is_file())
    print(
        f"{count} files of {arguments.segment} MB, {arguments.timelines} timelines, {stored >> 20} MiB on the disk, "
        f"made in {time.monotonic() - begun:.0f} s",
        flush=True,
    )
    for words in ((), ("--deep",)):
        begun, used = time.monotonic(), processor_time()
        result = lab.gateway.hooks("check-wal", *words, user="barman", limit=6 * 3600)
        took, used = time.monotonic() - begun, processor_time() - used
        print(result.stdout.strip().splitlines()[-1])
        load = f"{used:.0f} s of a processor, load {os.getloadavg()[0]:.1f}"
        print(f"check-wal {' '.join(words):6} {took:7.1f} s, {1000 * took / count:.2f} ms a file; {load}", flush=True)
        if result.returncode:
            print(result.stdout, result.stderr)
            return 1
    return 0


def processor_time() -> float:
    """Of all that was waited for, whatever the load."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def made(lab: Lab, files: int, timelines: int, plain: bool) -> int:
    """Make the archive, and return how many files it has."""
    lab.build()
    configure_nodes(lab, SETTINGS)
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout
    back_up(lab, lab.db1)
    lab.gateway.barman("receive-wal", "--stop", "main_backup")
    lab.db2.pg_ctl("stop", "-m", "immediate")
    lab.db1.sql("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active")
    there: set[str] = set()
    for timeline in range(1, timelines + 1):
        for _ in range(PIECES):
            size = files // timelines // PIECES * lab.segment_mb << 20
            until = lab.db1.sql(f"select pg_current_wal_insert_lsn() + {size}::numeric")
            lab.db1.sql(FILL.format(until=until), limit=3600)
            there |= archive(lab, plain, there)
        if timeline < timelines:
            promote_itself(lab)
        else:
            lab.db1.sql("select pg_switch_wal()")
            lab.db1.sql("select txid_current()")
        there |= archive(lab, plain, there)
        print(f"timeline {timeline}: {len(there)} files", flush=True)
    return len(there)


def promote_itself(lab: Lab) -> None:
    """A restore without another node: the same server is a standby for a moment, and begins a timeline."""
    lab.db1.pg_ctl("stop", "-m", "fast")
    lab.put(lab.db1, f"{DATA}/standby.signal", "", owner="postgres")
    lab.db1.pg_ctl("start")
    lab.db1.sql("select pg_promote()", limit=120)
    wait_for(lambda: lab.db1.sql("select pg_is_in_recovery()") == "f", "the promotion", 120)
    lab.db1.sql("checkpoint", limit=600)


def archive(lab: Lab, plain: bool, there: set[str]) -> set[str]:
    """Put what is closed where Barman would put it, and return its names."""
    open_file = lab.db1.sql("select pg_walfile_name(pg_current_wal_insert_lsn())")
    pg_wal, wals = lab.db1.path(f"{DATA}/pg_wal"), lab.gateway.path(WALS)
    taken = set()
    for file in sorted(pg_wal.iterdir()):
        name = file.name
        # A file of the old timeline, cut at the switchpoint, is kept as .partial.
        if not COMPLETE.fullmatch(name) or name in there or (len(name) == 24 and name[8:] >= open_file[8:]):
            continue
        place = wals / name if name.endswith(".history") else wals / name[:16] / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            store(file, place, plain or name.endswith(".history"))
        taken.add(name)
        if len(name) == 24:
            file.unlink()
    lab.gateway.run("chown", "-R", "barman:", WALS)
    return taken


def store(file: Path, place: Path, plain: bool) -> None:
    """As Barman's pygzip, but faster (level 1 instead of 9)."""
    if plain:
        shutil.copyfile(file, place)
        return
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    place.write_bytes(packer.compress(file.read_bytes()) + packer.flush())


if __name__ == "__main__":
    sys.exit(main())
