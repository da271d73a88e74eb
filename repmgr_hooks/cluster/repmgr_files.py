"""Which repmgr.conf of this machine is about which node, and what repmgr itself says of it."""

from __future__ import annotations

import contextlib
import glob
import ipaddress
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from psycopg import Error, conninfo

from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.repmgr_conf import RepmgrConf, read
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.system.steps import Host, Program, Sql
from repmgr_hooks.text import one_line

PLACES = ("etc/repmgr.conf", "etc/repmgr/*.conf", "etc/repmgr/*/*.conf", "etc/postgresql/*/*/repmgr.conf")
BINARIES = ("usr/pgsql-{}/bin", "usr/lib/postgresql/{}/bin")
"""Where PGDG's RPMs and Debian put PostgreSQL's programs, and repmgr beside them."""
LIMIT = 10.0
DEFAULT_PORT = 5432
"""libpq's."""
IDENTITIES = "select node_id, node_name, conninfo, config_file from repmgr.nodes order by node_id limit 1000"
REFUSED = re.compile(r"errors? (?:was|were) found in the configuration file:?\s*(.*)", re.DOTALL)
"""What repmgr and repmgrd print before they exit (configfile.c, exit_with_config_file_errors)."""


@dataclass(frozen=True)
class Identity:
    """A node as repmgr knows it: its name, the address in its conninfo, which may be of another network, and where its
    repmgr.conf stands there."""

    name: str
    host: str
    conf: str = "/etc/repmgr.conf"
    conninfo: str = field(default="", repr=False)
    """Which may hold a password."""
    port: int | None = None
    """None if its conninfo names several."""


def files_here() -> list[Path]:
    """Return every repmgr.conf that stands where packages and people put it; of a link, the file that it leads to."""
    found = (Path("/", name) for place in PLACES for name in glob.glob(place, root_dir="/"))  # noqa: PTH207
    return sorted({Path(os.path.realpath(file)) if file.is_symlink() else file for file in found})


def program(name: str = "repmgr", version: int = 0) -> str:
    """Return one of repmgr's programs as it can be run here: by its name, if that is on PATH, else with its place.

    Where there is none, the name is returned. Of several the newest, or that for a ``version`` of PostgreSQL.
    """
    if shutil.which(name):
        return name
    found = beside_postgres(name, version)
    return str(found[0]) if found else name


def beside_postgres(name: str, version: int = 0) -> list[Path]:
    """Return where a program stands beside PostgreSQL's, of a ``version`` or of each; the newest first."""
    files = [file for place in BINARIES for file in Path("/").glob(f"{place.format(version or '*')}/{name}")]
    return sorted(files, key=lambda file: [int(part) for part in re.findall(r"\d+", str(file.parent))], reverse=True)


def readable(files: Iterable[Path]) -> Iterator[RepmgrConf]:
    """Return the files that can be read."""
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            yield read(file)


def identities(node: int, host: Host, limit: float) -> dict[int, Identity]:
    """Ask a node whom repmgr knows. Raises OperationFailed."""
    rows = host.fetch(Sql(node, IDENTITIES), limit)
    with answer_of(node):
        return {
            int(number): Identity(str(name), _host(str(text)), _path(conf), str(text), _port(str(text)))
            for number, name, text, conf in rows
        }


def _path(conf: object) -> str:
    """A path that may stand in a command as it is; another, which a table holds, is not repeated."""
    return conf if isinstance(conf, str) and re.fullmatch(r"/[\w./-]+", conf) else Identity.conf


def _host(text: str) -> str:
    try:
        said = conninfo.conninfo_to_dict(text)
    except Error:
        return ""
    return str(said.get("hostaddr") or said.get("host", ""))


def node_of(conf: RepmgrConf, nodes: Mapping[int, Node], known: Mapping[int, Identity]) -> int | None:
    """Return the node of the cluster that the file is about; other clusters may have the same node ids, and names.

    Its id and name tell, and the address that repmgr itself has for it. While repmgr's nodes cannot be asked, a file
    with another address than ours is left alone.
    """
    number = conf.node
    if number is None:  # its line may be the one that repmgr cannot read
        number = next((number for number, identity in known.items() if identity.name == conf.name), 0)
    node, identity = nodes.get(number), known.get(number)
    if node is None:
        return None
    if identity:
        return number if conf.name == identity.name and conf.host in ("", identity.host, node.host) else None
    return number if conf.host == node.host or not is_address(conf.host) else None


def _port(text: str) -> int | None:
    try:
        said = str(conninfo.conninfo_to_dict(text).get("port") or DEFAULT_PORT)
    except Error:
        return None
    return int(said) if re.fullmatch("[0-9]{1,5}", said) else None


def is_address(text: str) -> bool:
    """True for an IP address; False for a name."""
    try:
        return bool(ipaddress.ip_address(text))
    except ValueError:
        return False


def refusal(path: Path, host: Host) -> str:
    """Return in repmgr's own words why it refuses a file; empty if it does not, or cannot be asked here.

    This command reads the file and asks no database (repmgr-action-node.c, do_node_service). The value of a conninfo,
    which repmgr repeats, may hold a password.
    """
    words = (program(), "-f", str(path), "node", "service", "--list-actions", "--action=stop")
    try:
        host.run(Program(words), LIMIT)
    except OperationFailed as error:
        found = REFUSED.search(re.sub(r"\(provided: .*", "", str(error)))
        return one_line(" ".join(found[1].split()), 300) if found else ""
    return ""
