"""What is seen of Barman's files where Barman is: sums and cuts, in every form that Barman gives them."""

from __future__ import annotations

import base64
import errno
import hashlib
import itertools
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks.barman import archive, content, deep, receive_wal
from repmgr_hooks.barman.agent import files, follow
from repmgr_hooks.barman.backup import Report
from repmgr_hooks.barman.deep import ALL, Effort, Proof
from repmgr_hooks.barman.wal_continuity import PrimaryWal
from repmgr_hooks.cluster.wal import TimelineHistory
from repmgr_hooks.errors import Problem
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.layers import AskedOnce
from repmgr_hooks.system.programs import MOST_OUTPUT
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import asked as asked_of

SIZE = 1024 * 1024
NAME = "000000010000000000000003"
HISTORY = "1\t0/5000050\tno recovery target specified\n"
PROGRAMS = {"gzip": "-f", "bzip2": "-f", "xz": "-f", "zstd": "-qf", "lz4": "-qf"}
TEXT = random.Random(0).randbytes(SIZE // 2) + bytes(SIZE // 2)


def store(place: Path, form: str) -> Path:
    """A WAL file as Barman archives it, under its own name in any form."""
    file = place / NAME[:16] / NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(TEXT)
    if form != "plain":
        if not shutil.which(form):
            pytest.skip(f"no {form} here")
        packed = subprocess.run([form, PROGRAMS[form], "-c"], input=TEXT, capture_output=True, check=True, timeout=120)
        file.write_bytes(packed.stdout)
    return file


def test_what_runs_beside_barman_passes_a_shell_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ssh gives one line to a shell there, for which brackets, blanks and stars are something else."""
    wals = tmp_path / "wals of (main)"
    wals.mkdir()
    (wals / NAME).write_bytes(TEXT)
    said = "".join(f"{name}: {wals}\n" for name in (*archive.DIRECTORIES, "backup_directory"))
    for program, does in (("ssh", 'shift; exec sh -c "$*"'), ("barman", f"printf '%s' '{said}'")):
        (tmp_path / program).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings, host = Barman("main", command=("ssh", "backup", "barman")), LocalHost({})
    assert archive.look_at_archive(settings, host).files == {NAME}
    assert host.run(archive.look_for(NAME, settings, host), 30)
    assert content.ask("sums", settings, host, names=[NAME])["sums"][NAME]
    assert not receive_wal.receiver_runs(settings, host)
    host.close_idle()


class Printing(LocalHost):
    """Keeps what programs print."""

    printed = ""

    def run(self, program: Program, limit: float) -> str:
        self.printed = super().run(program, limit)
        return self.printed


def test_a_large_archive_is_read_whole(tmp_path: Path) -> None:
    """A week of a primary that closes a file every two seconds is 300,000 files."""
    file = tmp_path / "wals" / NAME
    file.parent.mkdir()
    file.write_bytes(TEXT)
    said = "".join(f"{name}: {file.parent}\n" for name in (*archive.DIRECTORIES, "backup_directory"))
    (tmp_path / "barman").write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    (tmp_path / "barman").chmod(0o755)
    host = Printing({})
    assert archive.look_at_archive(Barman("main", command=(str(tmp_path / "barman"),)), host).files == {NAME}
    host.close_idle()
    first = host.printed.splitlines(keepends=True)[0]
    usual = first.replace(str(file), f"/var/lib/barman/main_backup/wals/{NAME[:16]}/{NAME}")
    assert 350_000 * len(usual) < MOST_OUTPUT


SUMS = """import sys
exec(open(sys.argv[1]).read())
assert sums({"directories": [sys.argv[2]], "names": [sys.argv[3]], "other_forms": False})["sums"][sys.argv[3]]
print(*sys.modules)
"""


@pytest.mark.parametrize(("form", "needed"), [("plain", set()), ("gzip", {"gzip"}), ("xz", {"lzma"})])
def test_what_only_some_files_need_is_imported_for_them(tmp_path: Path, form: str, needed: set[str]) -> None:
    """It is started several times in each run, and its imports take most of its time."""
    store(tmp_path, form)
    words = (sys.executable, "-I", "-S", "-c", SUMS, files.__file__, str(tmp_path), NAME)
    said = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60, stdin=subprocess.DEVNULL)
    assert {"bz2", "gzip", "lzma", "pathlib", "subprocess", "typing"} & set(said.stdout.split()) == needed


@pytest.mark.parametrize(
    ("line", "runs"),
    [
        ("/usr/bin/python3 /usr/bin/barman -q receive-wal main", True),
        ("barman receive-wal main", True),
        ("/usr/bin/python3 /usr/bin/barman -q receive-wal other", False),
        ("ssh -o BatchMode=yes barman@backup barman -q receive-wal main", False),
        ("/usr/bin/ssh backup barman receive-wal main", False),
    ],
)
def test_what_is_a_receiver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, runs: bool) -> None:
    """The ssh of a gateway that has started one on another host is none, and may hang long after that has ended."""
    (tmp_path / "pgrep").write_text(f"#!/bin/sh\necho '79 {line}'\n")
    (tmp_path / "pgrep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert receive_wal.receiver_runs(Barman("main"), LocalHost({})) == runs


def asked(place: Path, **more: Any) -> dict[str, Any]:
    return {
        "directories": [str(place)],
        "segment_size": SIZE,
        "names": [NAME],
        "barman": "barman",
        "server": "x",
        "other_forms": False,
        **more,
    }


@pytest.mark.parametrize("form", ["plain", *PROGRAMS])
def test_a_whole_file(tmp_path: Path, form: str) -> None:
    store(tmp_path, form)
    assert files.whole(asked(tmp_path)) == {"wrong": {}}
    if form in ("plain", "gzip", "bzip2", "xz"):
        assert files.sums(asked(tmp_path))["sums"] == {NAME: hashlib.sha256(TEXT).hexdigest()}


@pytest.mark.parametrize("form", ["plain", *PROGRAMS])
@pytest.mark.parametrize("kept", [0.999, 0.5, 0.0001])
def test_a_file_that_is_cut_short(tmp_path: Path, form: str, kept: float) -> None:
    file = store(tmp_path, form)
    os.truncate(file, int(file.stat().st_size * kept))
    assert files.whole(asked(tmp_path))["wrong"].keys() == {NAME}


def test_a_form_that_only_barman_can_read(tmp_path: Path) -> None:
    """A filter of the user's, or encrypted: not judged by its size, and read through Barman."""
    file, barman = store(tmp_path / "wals", "plain"), tmp_path / "barman"
    file.write_bytes(base64.b64encode(TEXT))
    barman.write_text(f"#!/bin/sh\nexec base64 -d {file}\n")
    barman.chmod(0o755)
    what = asked(tmp_path / "wals", barman=str(barman), other_forms=True)
    assert files.whole(what) == {"wrong": {}}
    assert files.sums(what)["sums"] == {NAME: hashlib.sha256(TEXT).hexdigest()}
    assert files.whole({**what, "other_forms": False})["wrong"].keys() == {NAME}


@pytest.mark.parametrize(
    ("said", "has"),
    [
        ({}, False),
        ({"compression": "None"}, False),
        ({"compression": "zstd", "encryption": "none"}, False),
        ({"compression": "custom"}, True),
        ({"compression": "snappy"}, True),
        ({"compression": "gzip", "encryption": "gpg"}, True),
    ],
)
def test_whether_barman_has_such_forms(said: dict[str, str], has: bool) -> None:
    assert archive.has_other_forms(said) == has


def test_a_cut_file_is_one_in_spite_of_them(tmp_path: Path) -> None:
    file = store(tmp_path, "plain")
    file.write_bytes(b"\x10\xd1" + TEXT[2 : SIZE // 2])
    assert files.whole(asked(tmp_path, other_forms=True))["wrong"].keys() == {NAME}


def test_an_empty_file(tmp_path: Path) -> None:
    store(tmp_path, "plain").write_bytes(b"")
    (tmp_path / "00000002.history").write_bytes(b"")
    assert files.whole(asked(tmp_path)) == {"wrong": {NAME: "is empty", "00000002.history": "is empty"}}


def test_a_file_that_cannot_be_read_has_no_sum(tmp_path: Path) -> None:
    file = store(tmp_path, "gzip")
    os.truncate(file, file.stat().st_size // 2)
    assert files.sums(asked(tmp_path, names=[NAME, "000000010000000000000004"]))["sums"] == {
        NAME: None,
        "000000010000000000000004": None,
    }


def test_what_is_sent_runs_in_another_python(tmp_path: Path) -> None:
    """As it is sent to Barman's host: with nothing of ours there."""
    store(tmp_path / "wals", "gzip")
    (tmp_path / "wals/00000002.history").write_text(HISTORY)
    said = "".join(
        f"\\t{option}_directory: {tmp_path}/{name}\\n"
        for option, name in (
            ("streaming_wals", "streaming"),
            ("incoming_wals", "incoming"),
            ("wals", "wals"),
            ("backup", ""),
        )
    )
    barman = tmp_path / "barman"
    barman.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    barman.chmod(0o755)
    answer = content.ask(
        "sums", Barman("main", command=(str(barman),)), LocalHost({}), names=[NAME, "00000002.history"]
    )
    assert answer == {"sums": {NAME: hashlib.sha256(TEXT).hexdigest()}, "texts": {"00000002.history": HISTORY}}


def test_what_could_not_be_read_is_read_by_the_next_look(tmp_path: Path) -> None:
    """What could be is good for an hour; Barman's own filter may have failed just now."""
    store(tmp_path / "wals", "plain").write_bytes(b"mine")
    places = ("streaming_wals", "incoming_wals", "wals", "backup")
    said = "".join(f"{option}_directory: {tmp_path}/{option.removesuffix('_wals')}\\n" for option in places)
    barman = tmp_path / "barman"
    barman.write_text(
        f"#!/bin/sh\ncase $1 in get-wal) cat {tmp_path}/filtered;; *) printf '{said}compression: custom\\n';; esac\n"
    )
    barman.chmod(0o755)
    settings, host = Barman("main", command=(str(barman),)), LocalHost({})

    def looked() -> object:
        asked = content.ask("sums", settings, AskedOnce(host), settled=True, names=[NAME], marks=["1"])
        return asked["sums"][NAME]

    assert looked() is None
    (tmp_path / "filtered").write_bytes(TEXT)
    assert looked() == hashlib.sha256(TEXT).hexdigest()
    (tmp_path / "filtered").unlink()
    assert looked() == hashlib.sha256(TEXT).hexdigest()


def test_what_a_killed_run_has_left_is_removed(tmp_path: Path) -> None:
    left, used = tmp_path / f"{follow.PREFIX}999999999-x", tmp_path / f"{follow.PREFIX}{os.getpid()}-x"
    left.mkdir()
    used.mkdir()
    with follow.scratch(str(tmp_path)) as place:
        assert {path.name for path in tmp_path.iterdir()} == {used.name, Path(place).name}
    assert list(tmp_path.iterdir()) == [used]


def page(rest: int) -> bytes:
    """The first page of a file, in which so many bytes of a record from before stand."""
    return struct.pack("<HHIQI", 0xD110, 1 if rest else 0, 1, 0, rest).ljust(8192, b"\0")


@pytest.mark.parametrize(
    ("rest", "begins"), [(0, True), (100, True), (SIZE // 2, True), (SIZE - 4000, False), (5 * SIZE, False)]
)
def test_where_a_record_begins(tmp_path: Path, rest: int, begins: bool) -> None:
    file = tmp_path / NAME
    file.write_bytes(page(rest).ljust(SIZE, b"\0"))
    assert follow.begins_record(file) == begins


class BarmansHost:
    """What is asked of the files of a Barman with 1 MB segments; ``rest``: in which of them no record begins."""

    def __init__(self, rest: set[int], slow: float = 0.0) -> None:
        self.rest, self.slow, self.time = rest, slow, 0.0
        self.asked: list[tuple[int, int]] = []

    def now(self) -> float:
        return self.time

    def fetch(self, sql: Sql, limit: float) -> Rows:
        return [(15,)]

    def run(self, program: Program, limit: float) -> str:
        if "show-server" in program.argv:
            return "".join(f"\t{name}: /x/{name}\n" for name in (*archive.DIRECTORIES, "backup_directory"))
        if "show-backup" in program.argv:
            return "    Begin LSN  : 0/700028\n"
        numbers = [int(name[8:16], 16) * 4096 + int(name[16:], 16) for name in asked_of(program)["names"]]
        self.asked.append((numbers[0], numbers[-1] + 1))
        self.time += self.slow
        again = next((back for back, n in enumerate(reversed(numbers), 1) if n not in self.rest), len(numbers) + 1)
        return json.dumps({"problem": "", "unable": "", "again": again})


PRIMARY = PrimaryWal(1, TimelineHistory(1, (), SIZE), 1008 * SIZE, frozenset())
FOUND = Report("x", f"{1:08X}{0:08X}{7:08X}", f"{1:08X}{0:08X}{1006:08X}", 1000, f"{1:08X}{0:08X}{7:08X}")


def followed(host: BarmansHost, effort: Effort = ALL, found: Report = FOUND) -> tuple[Proof, list[int]]:
    """Follow 1,000 files, 256 at once."""
    shown: list[int] = []
    proof = deep.follow(found, PRIMARY, Barman("x"), host, lambda done, _: shown.append(done), effort)  # type: ignore[arg-type]
    return proof, shown


@pytest.mark.parametrize(
    "rest",
    [set(), {262}, {260, 261, 262}, set(range(100, 260)), set(range(100, 600)), set(range(8, 1007))],
    ids=lambda rest: f"{len(rest)} files without a beginning",
)
def test_no_record_is_left_out(rest: set[int]) -> None:
    """Each part begins where a record begins, in a file of the part before; so none that goes on beyond it is lost."""
    host = BarmansHost(rest)
    proof, shown = followed(host)
    assert proof.healthy
    assert proof.text == "the records of 1000 files follow each other, 0/700028 to 0/3EF00000"
    assert shown == sorted(set(shown))
    assert shown[-1] == 1000
    assert (host.asked[0][0], host.asked[-1][1]) == (7, 1007)
    for (begun, stopped), (again, stops) in itertools.pairwise(host.asked):
        assert again not in rest
        assert begun <= again < stopped < stops


def test_records_are_followed_without_a_backup_too() -> None:
    """The service follows them after each failover; that there is no backup is said besides."""
    proof, _ = followed(BarmansHost(set()), found=replace(FOUND, backup="", no_backup=Problem("no_backup", "none")))
    assert proof.text == "the records of 1000 files follow each other, 0/700000 to 0/3EF00000"
    proof, _ = followed(BarmansHost(set()), found=replace(FOUND, missing=("000000010000000000000008",)))
    assert proof.unable.startswith("not all files are there")


def test_only_the_newest_and_not_for_ever() -> None:
    host = BarmansHost(set(), slow=400.0)
    proof, _ = followed(host, Effort(300 * SIZE))
    assert proof.text == "the records of 300 files follow each other, 0/2C300000 to 0/3EF00000"
    assert host.asked == [(707, 963), (962, 1007)]
    proof, _ = followed(host, Effort(within=900.0))
    assert (proof.unable, proof.healthy) == ("not all was followed within 900 s", False)
    assert proof.text == "followed from 0/700028 to 0/30400000"


# -- a WAL switch: what stands behind it is nothing --------------------------------------------------------------------


def with_a_switch(at: int, xid: int = 7, damage: bool = False) -> bytes:
    """A file as its node wrote it: behind the switch only page headers."""
    record = files.RECORD.pack(files.RECORD.size, xid, max(at - 64, 0), 0x40, 0, 0)[:-4]
    record += struct.pack("<I", files.crc32c(record) ^ damage)
    text = bytearray(random.Random(1).randbytes(at).replace(b"\0", b"\1") + record)
    text += bytes(SIZE - len(text))
    for page in range(0, SIZE, files.PAGE):
        text[page : page + 4] = b"\x10\xd1\2\0"
    return bytes(text)


@pytest.mark.parametrize("at", [40, 4096, 8192 - 24, 8192 + 24, 100_000 // 8 * 8, SIZE - 24])
@pytest.mark.parametrize("chunk", [1 << 20, 5000])
def test_where_a_switch_ends_a_file(at: int, chunk: int) -> None:
    text = with_a_switch(at)
    chunks = (text[start : start + chunk] for start in range(0, SIZE, chunk))
    assert files.switched_at(chunks) == at + files.RECORD.size


def test_what_stands_behind_a_switch_does_not_matter() -> None:
    """As one flipped bit in the zeros of a file that archive_timeout has ended."""
    assert files.switched_at(iter([with_a_switch(4096)[:-1] + b"\1"])) == 4096 + files.RECORD.size


@pytest.mark.parametrize(
    "text",
    [
        bytes(SIZE),
        b"",
        b"\xd1",
        TEXT,
        with_a_switch(4096, damage=True),
        with_a_switch(4096).replace(b"\x40\0\0\0", b"\x41\0\0\0"),
    ],
)
def test_where_none_does(text: bytes) -> None:
    assert files.switched_at(iter([text])) is None


def test_crc32c() -> None:
    """RFC 3720, B.4."""
    assert files.crc32c(b"123456789") == 0xE3069283


def test_a_directory_that_the_disk_does_not_give_is_not_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not looked at is not good; one that has gone meanwhile holds nothing."""
    assert files.whole(asked(tmp_path / "gone")) == {"wrong": {}}

    def broken(path: str) -> None:
        raise OSError(errno.EIO, "Input/output error", path)

    monkeypatch.setattr(os, "scandir", broken)
    with pytest.raises(OSError, match="Input/output error"):
        files.whole(asked(tmp_path))
