"""What a lab has different whose hosts are laid out as PGDG's RPMs do it. The programs are this machine's all the same.

Below /usr each host sees a read-only layer over the machine's own: PostgreSQL's programs and repmgr are in
/usr/pgsql-NN/bin and not on PATH, nothing is where Debian has them, and there are no wrappers and no apt. (Only
/usr/share/postgresql stays: PostgreSQL looks for it where it was compiled to be.) Data is in /var/lib/pgsql/NN/data,
and a repmgr.conf in /etc/repmgr/NN.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from pathlib import Path

from tests.lab import versions

VERSION = versions.POSTGRESQL
BINARIES = f"/usr/pgsql-{VERSION}/bin"
CONFS = f"/etc/repmgr/{VERSION}"
PROGRAMS = ("initdb", "pg_ctl", "repmgr", "repmgrd")
"""Which the lab names without their place."""
MOUNT = "mount -t overlay -o lowerdir={layer}:/usr overlay /usr"
HIDDEN = ("share/postgresql-common", "bin/apt", "bin/apt-get", "bin/dpkg", "lib/postgresql")
ALTERNATIVES = ("psql", "pg_basebackup", "pg_dump")
"""What PGDG's RPMs put into /usr/bin, by alternatives(8)."""
# Barman's own option: it looks for PostgreSQL's programs there.
BARMAN = f"path_prefix = {BINARIES}\n"
ACCOUNT = "enterprisedb"
"""Who repmgrd runs as on the gateway: EDB's server has no user postgres."""
PLACES = {
    versions.DATA: f"/var/lib/pgsql/{VERSION}/data",
    versions.BINARIES: BINARIES,
    "/var/lib/postgresql": "/var/lib/pgsql",
    "/usr/bin/repmgr": f"{BINARIES}/repmgr",
}


def adapted(text: str) -> str:
    """Return a text, or a path, with the places of the RPMs in the place of Debian's.

    >>> adapted("/usr/bin/repmgr -f /etc/repmgr/db1.conf") == f"{BINARIES}/repmgr -f {CONFS}/db1.conf"
    True
    """
    for debians, theirs in PLACES.items():
        text = text.replace(debians, theirs)
    return re.sub(r"/etc/repmgr/(?=db\d|%i)", f"{CONFS}/", text)


def words(given: list[str] | tuple[str, ...]) -> list[str]:
    """Return a command as it is typed on such a host."""
    program, *rest = map(adapted, given)
    return [f"{BINARIES}/{program}" if program in PROGRAMS else program, *rest]


def make_layer(layer: Path) -> None:
    """Make what lies over /usr. A character device 0/0 hides what is below (overlayfs.rst, whiteouts)."""
    shutil.copytree(Path(versions.BINARIES).parent, layer / f"pgsql-{VERSION}", symlinks=True)
    links = (file for file in Path("/usr/bin").iterdir() if file.is_symlink())
    wrapped = [link for link in links if link.readlink().name == "pg_wrapper"]
    for place in (*HIDDEN, *(link.relative_to("/usr") for link in wrapped)):
        (layer / place).parent.mkdir(parents=True, exist_ok=True)
        if Path("/usr", place).exists() and Path(place).name not in ALTERNATIVES:
            os.mknod(layer / place, stat.S_IFCHR, os.makedev(0, 0))
    for program in ALTERNATIVES:
        (layer / "bin" / program).symlink_to(f"{BINARIES}/{program}")
    for program in ("dnf", "rpm"):
        (layer / "bin" / program).symlink_to("true")


def of_gateway(text: str) -> str:
    """Return a file of the gateway's with the user that repmgrd has there."""
    return re.sub(r"\bpostgres\b", ACCOUNT, text)


def make_etc(etc: Path, gateway: bool) -> None:
    """Take away what Debian's packages have in a host's own /etc, and put there what those of the RPMs have."""
    for name in ("passwd", "group", "shadow", "gshadow") if gateway else ():
        (etc / name).write_text(of_gateway((etc / name).read_text()))
    for name in ("postgresql", "postgresql-common", "nftables.conf"):
        place = etc / name
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink(missing_ok=True)
    (etc / "passwd").write_text(adapted((etc / "passwd").read_text()))
    (etc / "sysconfig").mkdir()
    (etc / "sysconfig/nftables.conf").write_text("# Rules are included here.\n")
    (etc / f"repmgr/{VERSION}").mkdir(parents=True)
    # The package's own file: every line is a comment.
    (etc / f"repmgr/{VERSION}/repmgr.conf").write_text("# repmgr configuration file\n#node_id=\n#node_name=''\n")
