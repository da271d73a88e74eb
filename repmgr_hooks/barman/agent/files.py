"""WAL files where Barman keeps them: their sums, and whether they are whole.

What only some files need is imported when one is met, and pathlib and typing not at all: this program is started
several times in each run, and its imports take most of its time.
"""

from __future__ import annotations

import os
import re
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

CHUNK = 1 << 20
WAL = re.compile(r"[0-9A-F]{24}")
READERS = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\xfd7zXZ\0": "lzma"}
"""Modules of Python's that open a file which begins so."""
PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
PAGE_MARKS = (b"\xd0", b"\xd1")
"""The second byte of each page, whatever PostgreSQL's version (xlog_internal.h, XLOG_PAGE_MAGIC)."""
CUT = "is cut short"
PAGE, HEADER, LONG_HEADER, ALIGNED = 8192, 24, 40, 8
"""Bytes (xlog_internal.h; a page of another size is not built by any packager)."""
RECORD = struct.Struct("<IIQBBxxI")
"""A record without data: its length, xid, the record before it, info, resource manager, CRC (xlogrecord.h)."""
LENGTH_OF_SWITCH = struct.pack("<I", RECORD.size)
XLOG_SWITCH, RM_XLOG = 0x40, 0
"""pg_control.h, rmgrlist.h."""


def sums(asked: dict[str, Any]) -> dict[str, Any]:
    """Return the SHA-256 of files, and the text of history files, as they are without compression; null: not read."""
    found: dict[str, str | None] = {}
    texts: dict[str, str | None] = {}
    for name in asked["names"]:
        read = list(plain(name, asked)) if name.endswith(".history") else plain(name, asked)
        try:
            if name.endswith(".history"):
                texts[name] = b"".join(read).decode(errors="replace")
            else:
                found[name] = digest(read)
        except unreadable():
            (texts if name.endswith(".history") else found)[name] = None
    return {"sums": found, "texts": texts}


def unreadable() -> tuple[type[Exception], ...]:
    """What is raised where a file cannot be read, or is not whole."""
    import subprocess

    return (OSError, subprocess.SubprocessError, *damaged())


def damaged() -> tuple[type[Exception], ...]:
    """What is raised where what stands in a file cannot be right, whatever the disk and other programs do."""
    import gzip
    import lzma
    import zlib

    return (EOFError, ValueError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)


def switches(asked: dict[str, Any]) -> dict[str, Any]:
    """Return for each file that ends with a WAL switch how many bytes it has up to there, and their SHA-256."""
    ends: dict[str, tuple[int, str] | None] = {}
    for name in asked["names"]:
        try:
            end = switched_at(plain(name, asked))
            ends[name] = (end, digest(first(end, plain(name, asked)))) if end else None
        except unreadable():
            ends[name] = None
    return {"ends": ends}


def switched_at(chunks: Iterator[bytes]) -> int | None:
    """Return the position behind the record of a WAL switch; None if there is none.

    Whatever follows it in the file, nobody reads (xlogreader.c). A record that two pages share is not looked for.
    """
    for number, page in enumerate(pages(chunks)):
        at = page.find(LENGTH_OF_SWITCH, header(number))
        while at >= 0:
            record = page[at : at + RECORD.size]
            if not at % ALIGNED and len(record) == RECORD.size:
                _, _, _, info, manager, check = RECORD.unpack(record)
                if (info & 0xF0, manager) == (XLOG_SWITCH, RM_XLOG) and check == crc32c(record[:-4]):
                    return number * PAGE + at + RECORD.size
            at = page.find(LENGTH_OF_SWITCH, at + 1)
    return None


def header(page: int) -> int:
    """Return how many bytes the header of a page has."""
    return HEADER if page else LONG_HEADER


def pages(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Return what is read in pages."""
    left = b""
    for chunk in chunks:
        left += chunk
        whole = len(left) // PAGE * PAGE
        yield from (left[start : start + PAGE] for start in range(0, whole, PAGE))
        left = left[whole:]


def first(size: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Return the first bytes of what is read."""
    for chunk in chunks:
        yield chunk[:size]
        size -= len(chunk[:size])


def crc32c(data: bytes) -> int:
    """Return the CRC-32C (Castagnoli) with which PostgreSQL checks a record (pg_crc32c.h)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def digest(chunks: Iterator[bytes] | list[bytes]) -> str:
    """Return the SHA-256 of what is read."""
    import hashlib

    made = hashlib.sha256()
    for chunk in chunks:
        made.update(chunk)
    return made.hexdigest()


def plain(name: str, asked: dict[str, Any]) -> Iterator[bytes]:
    """Return the content of a file of Barman's, decompressed, in chunks. Raises OSError and the like."""
    path = place(name, asked["directories"])
    start = first_bytes(path)
    if start[:4] in PROGRAMS or (asked["other_forms"] and not is_known(path)):
        # What Barman itself has written it can read, with or without the program; but it takes half a second to start.
        import shutil

        program = shutil.which(PROGRAMS.get(start[:4], ""))
        by_barman = [asked["barman"], "get-wal", asked["server"], name]
        yield from run([program, "-dc", path] if program else by_barman)
        return
    reader = next((module for magic, module in READERS.items() if start.startswith(magic)), "io")
    with __import__(reader).open(path, "rb") as file:
        yield from chunks_of(file)


def first_bytes(path: str) -> bytes:
    """Return what tells in which form a file is."""
    with open(path, "rb") as file:
        return file.read(6)


def is_packed(path: str) -> bool:
    """True if a file is compressed, in one of the forms that we know."""
    start = first_bytes(path)
    return start[:4] in PROGRAMS or any(start.startswith(magic) for magic in READERS)


def is_known(path: str) -> bool:
    """True if it is compressed so, or begins as WAL and history files do."""
    return is_packed(path) or first_bytes(path)[1:2] in PAGE_MARKS or path.endswith(".history")


def chunks_of(file: Any) -> Iterator[bytes]:
    """Return a file in chunks."""
    while chunk := file.read(CHUNK):
        yield chunk


def run(words: list[str]) -> Iterator[bytes]:
    """Return what a program writes. Raises OSError, or SubprocessError if it fails."""
    import subprocess

    with subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as started:
        yield from chunks_of(started.stdout)
    if started.returncode:
        raise subprocess.CalledProcessError(started.returncode, words)


def place(name: str, directories: list[str]) -> str:
    """Return where a file is, on its way from pg_receivewal's directory into the archive. Raises FileNotFoundError."""
    for directory in directories:
        # Barman keeps 2^32 bytes of a timeline in a directory of their own (xlog.py, hash_dir).
        for path in (f"{directory}/{name}", f"{directory}/{name[:16]}/{name}"):
            if os.path.isfile(path):
                return path
    raise FileNotFoundError(name)


def whole(asked: dict[str, Any]) -> dict[str, Any]:
    """Return what is wrong with each file that is not whole, as far as that shows without reading all of it."""
    size, others = asked["segment_size"], asked["other_forms"]
    trees = (tree for directory in asked["directories"] for tree in os.walk(directory, onerror=refuse))
    files = ((name, f"{place}/{name}") for place, _, names in trees for name in names if counts(name))
    return {"wrong": {name: what for name, path in files if (what := flaw(path, size, others))}}


def refuse(error: OSError) -> None:
    """Pass a directory over that has gone, or is not for us. Raises OSError where the disk fails."""
    if not isinstance(error, (FileNotFoundError, NotADirectoryError, PermissionError)):
        raise error


def counts(name: str) -> bool:
    """True for a complete WAL file or a history file."""
    return bool(WAL.fullmatch(name)) or name.endswith(".history")


def flaw(path: str, segment_size: int, other_forms: bool = False) -> str:
    """Return what is wrong with a file; empty if nothing shows. ``other_forms``: only Barman can read some."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, 2)
            file.seek(0)
            start = file.read(6)
            if not size:
                return "is empty"
            if path.endswith(".history"):
                return ""
            if start.startswith(b"\x1f\x8b"):
                # RFC 1952: the last four bytes are the size without compression.
                file.seek(max(size - 4, 0))
                return "" if file.read() == struct.pack("<I", segment_size & 0xFFFFFFFF) else CUT
            if start.startswith(b"\xfd7zXZ\0"):
                file.seek(max(size - 2, 0))
                return "" if file.read() == b"YZ" else CUT
            if start.startswith(b"BZh"):
                return flaw_of_bzip2(path, segment_size)
            if start[:4] in PROGRAMS:
                file.seek(0)
                return "" if (ends_zstd if PROGRAMS[start[:4]] == "zstd" else ends_lz4)(file, size) else CUT
            if size == segment_size or (other_forms and not is_known(path)):
                return ""
            return f"has {size} bytes, and a WAL file has {segment_size}"
    except FileNotFoundError:
        return ""  # moved meanwhile
    except (OSError, struct.error, IndexError) as error:
        return f"cannot be read: {error}"


def flaw_of_bzip2(path: str, segment_size: int) -> str:
    """bzip2 says its end at no place that could be found without reading all."""
    import bz2

    try:
        with bz2.open(path) as file:
            size = sum(map(len, chunks_of(file)))
    except EOFError:
        return CUT
    return "" if size == segment_size else f"has {size} bytes, and a WAL file has {segment_size}"


def ends_zstd(file: BinaryIO, size: int) -> bool:
    """True if the last block of a zstd frame is there (RFC 8878, 3.1.1)."""
    flags = file.read(5)[4]
    single = flags >> 5 & 1
    file.seek((not single) + (0, 1, 2, 4)[flags & 3] + (single, 2, 4, 8)[flags >> 6], 1)
    while True:
        header = int.from_bytes(file.read(3).ljust(3, b"\xff"), "little")
        last, kind, length = header & 1, header >> 1 & 3, header >> 3
        end = file.seek(1 if kind == 1 else length, 1)
        if last or end > size:
            return end + 4 * (flags >> 2 & 1) <= size


def ends_lz4(file: BinaryIO, size: int) -> bool:
    """True if the end mark of an lz4 frame is there (lz4_Frame_format.md)."""
    flags = file.read(6)[4]
    file.seek(8 * (flags >> 3 & 1) + 4 * (flags & 1) + 1, 1)
    while True:
        header = file.read(4)
        if len(header) < 4:
            return False
        length = struct.unpack("<I", header)[0] & 0x7FFFFFFF
        if not length:
            return file.tell() + 4 * (flags >> 2 & 1) <= size
        if file.seek(length + 4 * (flags >> 4 & 1), 1) > size:
            return False
