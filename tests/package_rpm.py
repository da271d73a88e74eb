"""The RPM, built from a copy of this tree as RHEL would build it. ``tests/package --rpm`` starts this on Debian."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.package_build import LIMIT, REPOSITORY, SYSTEM, copied, run, wheel

PACKAGING = REPOSITORY / "systemd/rpm"
WHEELS = REPOSITORY / ".venv/wheels"
"""What ``tests/setup.sh`` has fetched: the libraries of requirements.txt."""
PYTHON = Path("/usr/bin/python3").resolve()
# Debian's Python and systemd are no RPMs; and byte code is never made by a Python that others put here.
BUILD = ("rpmbuild", "-ba", "--nodeps", "--define", f"python {PYTHON}")


def main(place: Path) -> int:
    """Build, put the packages into ``place``, and return how rpmlint judges them."""
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        tree = copied(Path(made, "repmgr-hooks"))
        sources = Path(made, "SOURCES")
        shutil.copytree(WHEELS, sources)
        run(tree, *wheel(str(sources)))
        packages = built(PACKAGING / "repmgr-hooks.spec", Path(made))
        # rpm makes a database in somebody's home, even to look into a file.
        own = {**SYSTEM, "HOME": made}
        judge = ("rpmlint", "--strict", "--config", str(PACKAGING / "rpmlint.toml"), *map(str, packages))
        rpmlint = subprocess.run(judge, stdin=subprocess.DEVNULL, timeout=LIMIT, check=False, env=own)
        for package in packages:
            print(shutil.copy(package, place))
        return rpmlint.returncode


def built(spec: Path, top: Path) -> list[Path]:
    """Build below ``top``, where ``SOURCES`` are, and return the packages. Raises SystemExit."""
    shutil.copy(PACKAGING / "macros.debian", top / ".rpmmacros")
    run(top, *BUILD, "--define", f"_topdir {top}", str(spec), environment={**SYSTEM, "HOME": str(top)})
    return sorted((*top.glob("SRPMS/*.rpm"), *top.glob("RPMS/*/*.rpm")))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
