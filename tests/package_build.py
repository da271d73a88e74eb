"""The Debian package and the wheel, built from a copy of this tree. ``tests/package`` starts this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGING = "systemd/debian"
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", "endtoend", "unit", "model", "lab", "bench"
)
LIMIT = 600
"""Seconds for one program."""
SYSTEM = {**os.environ, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
"""Debian's own Python, whatever else is on this machine."""
# Native packages have no upstream; nobody has filed the intent to package it with Debian.
SUPPRESSED = "initial-upload-closes-no-bugs"


def main(place: Path) -> int:
    """Build both, put them into ``place``, and return how lintian judges the package."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        tree = copied(Path(made, "repmgr-hooks"))
        run(tree, *wheel(made))
        shutil.copytree(tree / PACKAGING, tree / "debian")
        build = ("dpkg-buildpackage", "--unsigned-source", "--unsigned-changes", "--build=binary")
        run(tree, *build, environment=SYSTEM)
        (changes,) = Path(made).glob("*.changes")
        judge = ("lintian", "--allow-root", "--fail-on", "error,warning", "--suppress-tags", SUPPRESSED, str(changes))
        lintian = subprocess.run(judge, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False, env=SYSTEM)
        for built in (*Path(made).glob("*.deb"), *Path(made).glob("*.whl")):
            print(shutil.copy(built, place))
        return lintian.returncode


def copied(tree: Path) -> Path:
    """Copy what is built from: no tests, and nothing that building leaves behind here."""
    shutil.copytree(REPOSITORY, tree, ignore=NOT_COPIED)
    return tree


def wheel(place: str) -> tuple[str, ...]:
    """Return what makes the wheel of a tree, and asks no index for anything."""
    pip = (sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation")
    return (*pip, "--wheel-dir", place, ".")


def run(tree: Path, *words: str, environment: dict[str, str] | None = None) -> None:
    """Run a program in the tree; what it said is shown if it failed. Raises SystemExit."""
    result = subprocess.run(
        words,
        cwd=tree,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env=environment,
    )
    if result.returncode:
        sys.exit(f"{' '.join(words)}: {result.returncode}\n{result.stdout}\n{result.stderr}")


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
