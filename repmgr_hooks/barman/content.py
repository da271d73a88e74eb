"""Is what Barman holds the primary's, byte by byte? Looks at both; ``branch.py`` says what follows.

A closed WAL file is the same wherever it came by streaming, so one sum on each side is enough. The primary makes it in
SQL, Barman's side with a small program (``agent/files.py``). One exception: behind the record of a WAL switch a file
holds nothing; the node that wrote it has zeros there. A standby whose primary died before it had sent these zeros has
what the file held before it was recycled, and is promoted with it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import resources
from typing import Any

from repmgr_hooks.barman import archive, branch
from repmgr_hooks.barman.branch import Compared
from repmgr_hooks.barman.wal_continuity import COMPLETE, ArchivedWal, PrimaryWal
from repmgr_hooks.cluster.observe import WalSender
from repmgr_hooks.cluster.wal import history_name, lsn, parse_name
from repmgr_hooks.errors import OperationFailed, Problem, answer_of
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.steps import Host, Sql

log = logging.getLogger(__name__)

LIMIT = 30.0
GOOD_FOR = 3600.0
"""Seconds for which looks take over the sums of files that nobody has written to since: a look at each archive comes
every ten minutes, and of a hundred clusters their Pythons took 2 % of a processor."""
UNREAD = r"\bnull\b"
"""What the agent says of a file that it could not read, which the next look may be able to: the disk, Barman's own
filter or a program that decompresses may have failed."""
LARGEST = 256 * 1024 * 1024
"""A file is read whole on the primary, and a bytea holds less than 1 GB."""

# What our role may use: PostgreSQL's own function shows every file of the data directory, ours (config/grants.sql)
# nothing but sums of WAL files.
RIGHTS = """
select has_function_privilege('pg_catalog.pg_read_binary_file(text,bigint,bigint,boolean)', 'execute'),
       coalesce(has_function_privilege(to_regprocedure('repmgr_hooks.wal_sha256(text, bigint)')::oid, 'execute'), false)
"""
READ = "select encode(sha256(pg_read_binary_file('pg_wal/' || %s, 0, %s, true)), 'hex')"
ASK = "select repmgr_hooks.wal_sha256(%s, %s)"


def judged(
    held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host, began: Mapping[int, int] | None = None
) -> tuple[ArchivedWal, Problem | None]:
    """Return what Barman holds that is not damaged, and that it is of another branch than the primary's, with what to
    run; None if it is not. Raises OperationFailed.
    """
    compared = compare(held, primary, barman, host)
    whole = without(held, compared.damaged)
    found = branch.find(held, primary, compared, began)
    if found is None:
        return whole, None
    steps = branch.way_out(found, held, primary, archive.places(barman, host), barman)
    return whole, branch.explain(found, primary.node, steps, barman)


def without(held: ArchivedWal, broken: Mapping[str, str]) -> ArchivedWal:
    """Leave out what is not whole."""
    files, streaming = held.files - broken.keys(), held.streaming - broken.keys()
    return replace(held, streaming=streaming, files=files, broken={**held.broken, **broken})


def compare(held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> Compared:
    """Compare a few closed files and the history file, as far as both have them. Raises OperationFailed."""
    files = branch.to_compare(held.files, primary) if primary.lineage.segment_size <= LARGEST else ()
    history = history_name(primary.lineage.timeline)
    wanted = (*files, *([history] if history in held.files else []))
    if not wanted:
        return Compared()
    try:
        said = ask("sums", barman, host, settled=True, names=wanted, marks=[held.marks.get(name) for name in wanted])
        theirs = {name: primarys_sum(primary.node, name, host) for name in files}
        both = [name for name in files if theirs[name] and said["sums"].get(name)]
        equal = {name for name in both if theirs[name] == said["sums"][name]}
        equal |= up_to_a_switch([name for name in both if name not in equal], primary.node, barman, host)
    except OperationFailed as error:
        # What cannot be seen keeps no stream from starting; `check` says what is to be done about it.
        log.warning("what Barman has cannot be compared with the primary's: %s", error)
        return Compared()
    # One that cannot be read may be damaged, too.
    flaws = {name: _flaw(name, primary, barman, host) for name in files if theirs[name] and name not in equal}
    damaged = {name: why for name, why in flaws.items() if why}
    for name, why in damaged.items():
        _tell_once(name, why)
    same, other = (tuple(name for name in both if name in group) for group in (equal, flaws.keys() - damaged.keys()))
    return Compared(same, other, said["texts"].get(history), damaged)


@lru_cache(256)
def _tell_once(name: str, why: str) -> None:
    log.warning("Barman's %s is damaged; a restore needs a base backup that was made after it: %s", name, why)


def _flaw(name: str, primary: PrimaryWal, barman: Barman, host: Host) -> str:
    """Where nobody can tell, a file that differs is of another branch."""
    try:
        return damage(name, primary, barman, host)
    except OperationFailed as error:
        log.warning("whether %s holds together is not known: %s", name, error)
        return ""


def damage(name: str, primary: PrimaryWal, barman: Barman, host: Host) -> str:
    """Return what is wrong with the records of a file by themselves: a disk's fault. Empty if they hold together, as
    those of another branch do. Raises OperationFailed, also if it cannot be seen where Barman runs.
    """
    size = primary.lineage.segment_size
    _, number = parse_name(name, size) or (0, 0)
    with answer_of(primary.node):
        ((version,),) = host.fetch(Sql(primary.node, VERSION), LIMIT)
    ends = {"start": lsn(number * size), "end": lsn((number + 1) * size)}
    sought = {"names": [name], **ends, "segment_size": size, "version": version, "seconds": LIMIT}
    said = ask("follow", barman, host, 2 * LIMIT, module="follow", **sought)
    if said["unable"]:
        raise OperationFailed(said["unable"], code="unable")
    return str(said["problem"])


def up_to_a_switch(differing: list[str], node: int, barman: Barman, host: Host) -> set[str]:
    """Return the files that are equal up to the record of a WAL switch with which what Barman holds of them ends.

    Raises OperationFailed.
    """
    if not differing:
        return set()
    ends = ask("switches", barman, host, names=differing)["ends"]
    found = {name: (int(end[0]), str(end[1])) for name, end in ends.items() if name in differing and end}
    return {name for name, (size, total) in found.items() if primarys_sum(node, name, host, size) == total}


VERSION = "select current_setting('server_version_num')::int / 10000"
WRITTEN = """
select (write_lsn - '0/0')::bigint from pg_replication_slots join pg_stat_replication on pid = active_pid
 where slot_name = %s
"""
PAGE = 8192


def receives(sender: WalSender, held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> bool:
    """True if what a receiver says that it has written is in Barman's directory. Raises OperationFailed.

    Another Barman that uses our slot, under the same name, lets it move on, and ours gets nothing. Asked twice, for a
    file may be moved meanwhile, and the end of a switched file is written as zeros.
    """
    if sender.written is None or _is_there(sender.written, held, primary, barman, host):
        return True
    with answer_of(primary.node):
        rows = host.fetch(Sql(primary.node, WRITTEN, (barman.slot_name,)), LIMIT)
        written = rows[0][0] if rows else None
    return written is None or _is_there(written, archive.look_at_archive(barman, host), primary, barman, host)


def _is_there(written: int, held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> bool:
    size = primary.lineage.segment_size
    number, offset = divmod(written, size)
    if not offset:
        return True  # at the beginning of a file there may be nothing yet
    found = {name: parsed[1] for name in held.files if (parsed := parse_name(name, size))}
    if any(n > number or (n == number and len(name) == COMPLETE) for name, n in found.items()):
        return True
    # After a switchpoint both timelines have a partial file of this number; the receiver writes to the newer one.
    partial = max((name for name, n in found.items() if n == number and name in held.streaming), default="")
    if not partial:
        return False
    # pg_receivewal makes a file with zeros; a page that was written begins with PostgreSQL's mark.
    page = (offset - 1) // PAGE * PAGE
    words = ("cmp", f"--ignore-initial={page}:0", "--bytes=8", f"{held.directory}/{partial}", "/dev/zero")
    return "differ" in host.run(archive.look_beside(barman, *words, tolerate="EOF on|No such file|^$"), LIMIT)


def look_closer(held: ArchivedWal, primary: PrimaryWal, barman: Barman, host: Host) -> ArchivedWal:
    """Leave out what is not whole: of a wrong size, or compressed and cut short. Raises OperationFailed."""
    wrong = ask("whole", barman, host, 300.0, segment_size=primary.lineage.segment_size)["wrong"]
    return without(held, wrong)


PACKAGE = "repmgr_hooks.barman.agent"
AGENT_PYTHON = ("python3", "-I", "-S", "-")
"""Without ``site``, which is a third of its start: the agent needs the standard library alone."""
AGENT = """import json, sys, types
for name, text in json.loads({modules!r}):
    sys.modules[name] = module = types.ModuleType(name)
    exec(compile(text, name, "exec"), module.__dict__)
asked = json.loads({asked!r})
print(json.dumps(module.{what}(asked)))
"""
"""The whole of what ``python3`` gets where Barman is; the last module is the one that is asked."""


def ask(
    what: str,
    barman: Barman,
    host: Host,
    limit: float = LIMIT,
    module: str = "files",
    settled: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Run a module of ``agent/`` on Barman's files, where Barman runs. Raises OperationFailed.

    ``settled``: the same answer as long as the same is given, such as the marks of the files.
    """
    known = archive.places(barman, host)
    asked = {
        "barman": barman.command[-1],
        "server": barman.server,
        "backup_directory": known["backup_directory"],
        "directories": [known[name] for name in archive.DIRECTORIES],
        "other_forms": archive.has_other_forms(known),
        **more,
    }
    folder = resources.files(PACKAGE)
    names = dict.fromkeys(("files", "follow", module) if module != "files" else ("files",))
    texts = [(f"{PACKAGE}.{name}", folder.joinpath(f"{name}.py").read_text(encoding="utf-8")) for name in names]
    text = AGENT.format(modules=json.dumps(texts), asked=json.dumps(asked), what=what)
    program = archive.look_beside(barman, *AGENT_PYTHON, what, stdin=text)
    program = replace(program, settled=settled, good_for=GOOD_FOR if settled else 0.0, passing=UNREAD)
    try:
        return dict(json.loads(host.run(program, limit)))
    except (ValueError, TypeError):
        raise OperationFailed(f"{program}: did not answer with what was asked for", code="odd_answer") from None


def primarys_sum(node: int, name: str, host: Host, size: int = LARGEST) -> str:
    """Return the sum of the first ``size`` bytes of a file in a node's pg_wal; empty if it is not there any more.

    Raises OperationFailed.
    """
    with answer_of(node):
        ((may_read, may_ask),) = host.fetch(Sql(node, RIGHTS), LIMIT)
        if not (may_read or may_ask):
            what = f"node {node}: our role may not see sums of WAL files"
            raise OperationFailed(what, code="no_rights", hint="grant what config/grants.sql holds")
        # A closed file of pg_wal changes no more.
        ((found,),) = host.fetch(Sql(node, READ if may_read else ASK, (name, size), settled=True), LIMIT)
        return str(found or "")


def look(barman: Barman, node: int, timeline: int, host: Host) -> tuple[ArchivedWal, PrimaryWal]:
    """Look at Barman first: it may receive meanwhile, and must not seem to be ahead. Raises OperationFailed."""
    held = archive.look_at_archive(barman, host)
    return held, archive.look_at_primary(node, timeline, host)
