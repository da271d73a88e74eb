"""What names do not show: check-wal follows the records, and restores; real WAL, as the Barman at hand stores it."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, routes, status, worker_log
from tests.endtoend.switchovers import STATE
from tests.endtoend.test_continuity import SEGMENT, close_file, configure_nodes, has_caught_up, promote, switchpoint
from tests.lab import Lab, wait_for, wait_for_answer
from tests.lab.barman import archive, back_up
from tests.lab.versions import DATA

HOME = "/var/lib/barman/main_backup"


BARMANS = [
    "Debian's Barman, pygzip",
    "Debian's Barman, none",
    *(f"the newest Barman, {f}" for f in ("gzip", "zstd", "lz4")),
]
MODULES = {"zstd": "zstandard", "lz4": "lz4"}


@pytest.fixture(scope="module", params=BARMANS)
def two(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A backup on timeline 1, a failover, and a few files of timeline 2 in the archive."""
    compression = request.param.rpartition(" ")[2]
    if compression in MODULES:
        barmans = Path(".venv-barman/bin/python").absolute()
        if subprocess.run(
            [barmans, "-c", f"import {MODULES[compression]}"], stderr=subprocess.DEVNULL, check=False
        ).returncode:
            pytest.skip(f"Barman cannot write {compression} here: its Python has no {MODULES[compression]}")
    with fresh_lab(newest_barman="newest" in request.param) as lab:
        lab.build()
        text = lab.gateway.path("/etc/barman.conf").read_text()
        line = "" if compression == "none" else f"compression = {compression}\n"
        lab.put(lab.gateway, "/etc/barman.conf", text.replace("compression = pygzip\n", line))
        configure_nodes(lab, "synchronous_standby_names = ''\n")
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout
        lab.start_cron()
        lab.start_worker()
        back_up(lab, lab.db1)
        write(lab, 1)
        archive(lab, lab.db1)
        write(lab, 1)
        has_caught_up(lab)
        promote(lab)
        wait_for(lambda: routes(lab).get(54322) == "10.0.0.12", "the app port to lead to db2", 120)
        wait_for(lambda: barman_streams_from(lab.db2), "Barman to stream from db2")
        for _ in range(3):
            write(lab, 2)
            archive(lab, lab.db2)
        yield lab


def write(lab: Lab, node: int) -> None:
    lab.node(node).sql("insert into work select from generate_series(1, 20000)", "app")


def archived(lab: Lab, name: str) -> Path:
    (found,) = lab.gateway.run("find", HOME, "-name", name).split()
    return lab.gateway.path(found)


FORMS = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd", b"\x04\x22": "lz4"}


def through(program: str, option: str, content: bytes) -> bytes:
    words = [program, option, "-q"] if program != "cat" else ["cat"]
    return subprocess.run(words, input=content, capture_output=True, check=True, timeout=60).stdout


def form(file: Path) -> str:
    """The program for what Barman has written; ``cat`` for what is not compressed."""
    return FORMS.get(file.read_bytes()[:2], "cat")


def plain(file: Path) -> bytes:
    return through(form(file), "-dc", file.read_bytes())


def store(file: Path, content: bytes) -> None:
    """As Barman would have stored it."""
    file.write_bytes(through(form(file), "-c", content))


def shown(lab: Lab) -> list[dict[str, object]]:
    """What ``status`` says of the records."""
    found: list[dict[str, object]] = status(lab)["wal_checks"]
    return found


def have_been_followed(lab: Lab) -> bool:
    """True when the journal knows what became of that on timeline 2: ``status`` takes half a second of a processor."""
    with closing(sqlite3.connect(f"file:{lab.gateway.path(STATE)}/journal.db?mode=ro", uri=True)) as journal:
        (rows,) = journal.execute("select count(*) from wal_check where timeline = 2").fetchone()
    return bool(rows)


def test_the_compression_is_what_was_asked_for(two: Lab, request: pytest.FixtureRequest) -> None:
    asked = request.node.callspec.params["two"].rpartition(" ")[2]
    name = f"00000002{switchpoint(two.db2) // SEGMENT + 1:016X}"
    assert form(archived(two, name)) == {"none": "cat", "pygzip": "gzip"}.get(asked, asked)


def test_the_switchpoint_is_looked_at_without_being_asked(two: Lab) -> None:
    lab, begun = two, "nice -n 19 /usr/local/bin/repmgr-hooks"
    wait_for(lambda: begun in "\n".join(worker_log(lab)), "the service to begin", 240, every=1)
    wait_for(lambda: have_been_followed(lab), "the service to have the records of db2 followed", 240, every=1)
    # Of db1, too, if it had the time before the failover.
    columns, good = ("part", "primary", "timeline", "problem", "unable"), ("newest", 2, 2, "", "")
    wait_for_answer(
        lambda: shown(lab),
        lambda rows: [tuple(row[name] for name in columns) for row in rows] == [good],
        "the service to have the records followed",
        240,
    )
    assert "  archive: the records of " in lab.gateway.hooks("status").stdout


def test_what_is_wrong_is_known_until_it_is_not_wrong(two: Lab) -> None:
    lab = two
    name = f"00000002{switchpoint(lab.db2) // SEGMENT + 1:016X}"
    kept = archived(lab, name).read_bytes()
    flip(lab, name)
    assert lab.gateway.hooks("check-wal", "--deep", user="barman").returncode == 1
    (row,) = [row for row in shown(lab) if row["part"] == "all"]
    assert "error in WAL record at" in str(row["problem"])
    said = lab.gateway.hooks("status").stdout
    assert "WARNING a restore from Barman would fail: error in WAL record at" in said
    archived(lab, name).write_bytes(kept)
    assert lab.gateway.hooks("check-wal", "--deep", user="barman").returncode == 0
    # What the service has looked at meanwhile it looks at again.
    wait_for_answer(lambda: shown(lab), lambda rows: [row["problem"] for row in rows] == [""], "no problem", 240)


def test_all_is_well(two: Lab) -> None:
    result = two.gateway.hooks("check-wal", "--deep", user="barman")
    assert result.returncode == 0, result.stdout
    assert re.search(r"^main: deep OK: the records of \d+ files follow each other, 0/", result.stdout, re.MULTILINE)
    assert re.search(r"^main: (\d+) of \1 files, 100 %$", result.stderr, re.MULTILINE)


def test_a_restore(two: Lab) -> None:
    lab = two
    result = lab.gateway.hooks("check-wal", "--restore", "--json", user="barman")
    assert result.returncode == 0, result.stdout
    (said,) = json.loads(result.stdout).values()
    assert re.match(r"a restore reaches 0/[0-9A-F]+, last transaction 20", said["restore"]["text"])
    assert not lab.gateway.run("find", HOME, "-name", ".repmgr-hooks-*")
    assert "postgres -D" not in lab.gateway.run("ps", "axww").replace(f"postgres -D {'/var/lib/postgresql'}", "")


def flip(lab: Lab, name: str) -> None:
    file = archived(lab, name)
    content = bytearray(plain(file))
    content[300_000] ^= 1
    store(file, bytes(content))


def cut(lab: Lab, name: str) -> None:
    file = archived(lab, name)
    stored = file.read_bytes()
    file.write_bytes(stored[: len(stored) * 2 // 3])


def empty(lab: Lab, name: str) -> None:
    archived(lab, name).write_bytes(b"")


def take_away(lab: Lab, name: str) -> None:
    archived(lab, name).unlink()


def another_segment(lab: Lab, name: str) -> None:
    """A whole file of a good Barman, under the wrong name."""
    other = f"{name[:16]}{int(name[16:], 16) + 1:08X}"
    store(archived(lab, name), plain(archived(lab, other)))


def another_segment_before(lab: Lab, name: str) -> None:
    store(archived(lab, name), plain(archived(lab, f"{name[:16]}{int(name[16:], 16) - 1:08X}")))


def another_history(lab: Lab, name: str) -> None:
    store(archived(lab, "00000002.history"), b"1\t0/4000050\tno recovery target specified\n")


def no_history(lab: Lab, name: str) -> None:
    archived(lab, "00000002.history").unlink()


def another_branch(lab: Lab, name: str) -> None:
    """The old primary has gone on alone, and Barman has got one of its files under the right name."""
    lab.db1.pg_ctl("start")
    try:
        own = f"00000001{name[8:]}"
        while close_file(lab.db1) < own:
            write(lab, 1)
        content = lab.db1.path(f"{DATA}/pg_wal/{own}").read_bytes()
    finally:
        lab.db1.pg_ctl("stop", "-m", "immediate")
    store(archived(lab, name), content)


def zeros(lab: Lab, name: str) -> None:
    store(archived(lab, name), bytes(SEGMENT))


def newest(lab: Lab) -> str:
    found = lab.gateway.run("find", f"{HOME}/wals", "-name", f"00000002{16 * '?'}").split()
    return max(Path(line).name for line in found)


@contextmanager
def harmed(lab: Lab, harm: Callable[[Lab, str], None], name: str) -> Iterator[None]:
    lab.gateway.run("cp", "-a", f"{HOME}/wals", "/var/tmp/wals")
    try:
        harm(lab, name)
        yield
    finally:
        # Not another directory in its place: Barman's cron makes one as soon as there is none.
        lab.gateway.run("cp", "-a", "/var/tmp/wals/.", f"{HOME}/wals/")
        lab.gateway.run("rm", "-r", "/var/tmp/wals")
    wait_for(lambda: lab.gateway.hooks("check-wal", user="barman").returncode == 0, "all to be well")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (flip, "deep BROKEN: error in WAL record at"),
        (another_segment, "deep BROKEN: error in WAL record at"),
        (another_branch, "deep BROKEN: error in WAL record at"),
        (cut, "BROKEN {name}: "),
        (empty, "BROKEN {name}: is empty"),
        (take_away, "MISSING {name}"),
        (another_history, "BRANCH_CONFLICT: Barman holds another history of timeline 2 than the primary"),
        (no_history, "MISSING 00000002.history"),
    ],
)
def test_what_is_found(two: Lab, harm: Callable[[Lab, str], None], said: str) -> None:
    """In a file that is neither the newest nor the oldest of its timeline: these are compared with the primary's."""
    lab = two
    name = f"00000002{switchpoint(lab.db2) // SEGMENT + 1:016X}"
    with harmed(lab, harm, name):
        result = lab.gateway.hooks("check-wal", "--deep", user="barman")
        assert result.returncode == 1, result.stdout
        assert said.format(name=name) in result.stdout


@pytest.mark.parametrize("two", BARMANS[:1], indirect=True)
@pytest.mark.parametrize("harm", [flip, zeros, another_segment_before])
def test_a_damaged_newest_file_is_no_other_branch(two: Lab, harm: Callable[[Lab, str], None]) -> None:
    """It is compared with the primary's, and is another: a disk's fault, for which no stream may be ended."""
    lab = two
    name = newest(lab)
    with harmed(lab, harm, name):
        restore = ("--restore",) if harm is flip else ()  # which takes 20 s
        result = lab.gateway.hooks("check-wal", *restore, user="barman")
        assert result.returncode == 1, result.stdout
        assert f"  BROKEN {name}: " in result.stdout
        assert ("main: restore BROKEN: " in result.stdout) == bool(restore)
        said = lab.gateway.hooks("reconcile", "--dry-run").stdout
        assert f"ARCHIVE_GAP: Barman lacks {name}" in said
        assert "BRANCH_CONFLICT" not in result.stdout + said
        lab.daemons["worker"].terminate()
        lab.daemons["worker"].wait(60)
        lab.start_worker()  # and looks into the stream at once
        wait_for(lambda: f"Barman's {name} is damaged" in "\n".join(worker_log(lab)), "the service to have seen it")
        assert barman_streams_from(lab.db2)
        assert not lab.gateway.run("find", HOME, "-name", "FFFFFFFF*")


@pytest.mark.parametrize("two", BARMANS[:1], indirect=True)
def test_a_newest_file_of_another_branch_is_one(two: Lab) -> None:
    lab = two
    name = newest(lab)
    with harmed(lab, another_branch, name):
        said = lab.gateway.hooks("check-wal").stdout
        assert f"BRANCH_CONFLICT: Barman holds other bytes than the primary in {name}" in said
