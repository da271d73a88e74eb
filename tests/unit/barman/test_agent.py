"""What is seen of Barman's files where Barman is: sums and cuts, in every form that Barman gives them."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks.barman import content
from repmgr_hooks.barman.agent import files, follow
from repmgr_hooks.barman.deep import parts
from repmgr_hooks.settings.cluster import Barman
from repmgr_hooks.system.host import LocalHost

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
        packed = subprocess.run([form, PROGRAMS[form], "-c"], input=TEXT, capture_output=True, check=True, timeout=30)
        file.write_bytes(packed.stdout)
    return file


def asked(place: Path, **more: Any) -> dict[str, Any]:
    return {
        "directories": [str(place)],
        "segment_size": SIZE,
        "names": [NAME],
        "barman": "barman",
        "server": "x",
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


def test_what_a_killed_run_has_left_is_removed(tmp_path: Path) -> None:
    left, used = tmp_path / f"{follow.PREFIX}999999999-x", tmp_path / f"{follow.PREFIX}{os.getpid()}-x"
    left.mkdir()
    used.mkdir()
    with follow.scratch(str(tmp_path)) as place:
        assert {path.name for path in tmp_path.iterdir()} == {used.name, Path(place).name}
    assert list(tmp_path.iterdir()) == [used]


@pytest.mark.parametrize("length", [2, 3, 16])
@pytest.mark.parametrize("count", [1, 2, 3, 5, 16, 17, 50])
def test_the_way_from_each_file_to_the_next_is_in_a_part(count: int, length: int) -> None:
    made = list(parts(7, 7 + count, length))
    steps = {(n, n + 1) for a, b in made for n in range(a, b - 1)}
    assert steps == {(n, n + 1) for n in range(7, 6 + count)}
    assert {n for a, b in made for n in range(a, b)} == set(range(7, 7 + count))
    assert all(b - a <= length for a, b in made)
