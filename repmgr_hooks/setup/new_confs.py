"""A repmgr.conf for each node that has none on this host, and the unit of its repmgrd, made from the shipped examples.

Where a node's data is, the node says. Where repmgr is, this host says: packages put it beside PostgreSQL's programs
(Debian's in /usr/lib/postgresql/NN/bin, PGDG's RPMs in /usr/pgsql-NN/bin), and only some put it on PATH too.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from repmgr_hooks.cluster.repmgr_files import PLACES, Identity, beside_postgres
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.repmgr_conf import settings_in
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.settings.words import PLAIN_NAME
from repmgr_hooks.setup.render import POSTGRES, run_as, shipped_text
from repmgr_hooks.system.steps import Host, Sql

LIMIT = 10.0
CONFS = Path("/etc/repmgr")
CONF, UNIT = "config/repmgr-db1.conf", "systemd/repmgrd@.service"
REPMGRD = "/etc/systemd/system/repmgrd@.service"
UNKNOWN = "NN"
"""Stands in the example for the version of PostgreSQL, and stays where nothing was found to put in its place."""
# pg_settings has no row of a setting that a role may not see; `show` would be an error.
WHERE = """
select current_setting('server_version_num')::int / 10000,
       (select setting from pg_settings where name = 'data_directory')
"""


@dataclass(frozen=True)
class Programs:
    """Where repmgr is on this host for a version of PostgreSQL; empty: it was not found."""

    bindir: str = ""
    repmgr: str = ""
    repmgrd: str = ""


@dataclass(frozen=True)
class Cluster:
    """What the new files are made of; ``data``: the data directory of each node that has said it."""

    name: str
    known: Mapping[int, Identity]
    nodes: Mapping[int, Node]
    version: int
    data: Mapping[int, str]
    programs: Programs
    confs: Path

    @property
    def follows_by_ssh(self) -> bool:
        """True with three nodes: ``standby follow`` reads pg_control, so it must run where the data is."""
        return sum(not node.witness for node in self.nodes.values()) > 2

    def place(self, node: int) -> Path:
        """Return where the repmgr.conf of a node goes; its name may be no path, or that of another cluster's file."""
        name = self.known[node].name
        file = f"{name if re.fullmatch(PLAIN_NAME, name) else f'node{node}'}.conf"
        return self.confs / (f"{self.name}-{file}" if (self.confs / file).exists() else file)


def cluster(name: str, known: Mapping[int, Identity], nodes: Mapping[int, Node], host: Host) -> Cluster:
    """Ask the nodes and look round. PGDG's RPMs have a directory of repmgr.conf for each version of PostgreSQL."""
    version, data = _versions_and_data(nodes, host)
    found = {word: next(map(str, beside_postgres(word, version)), "") for word in ("repmgr", "repmgrd")}
    bindir = str(Path(found["repmgr"]).parent) if found["repmgr"] else ""
    programs = Programs(bindir, *(shutil.which(word) or place for word, place in found.items()))
    confs = CONFS / str(version) if (CONFS / str(version)).is_dir() else CONFS
    return Cluster(name, known, nodes, version, data, programs, confs)


def _versions_and_data(nodes: Iterable[int], host: Host) -> tuple[int, dict[int, str]]:
    """Return the version of PostgreSQL (0: no node has said it), and each data directory that repmgr's role may see."""
    version, data = 0, dict[int, str]()
    for node, answer in host.fetch_each([Sql(node, WHERE) for node in nodes], LIMIT).items():
        with contextlib.suppress(OperationFailed), answer_of(node):
            if isinstance(answer, OperationFailed):
                raise answer
            ((its_version, directory),) = answer
            version = max(version, int(its_version))
            data |= {node: directory} if isinstance(directory, str) and directory.startswith("/") else {}
    return version, data


def drafted(missing: Iterable[int], found: Cluster, shipped: Path, repmgrd: str = POSTGRES) -> dict[str, str]:
    """Return the text of each new file by its place; ``repmgrd``: its user. Raises OSError."""
    example, unit = shipped_text(shipped, CONF), shipped_text(shipped, UNIT)
    texts = {str(found.place(node)): conf(example, node, found) for node in missing}
    if texts and not Path(REPMGRD).exists():
        unit = unit.replace("/usr/bin/repmgrd", found.programs.repmgrd or "/usr/bin/repmgrd")
        texts[REPMGRD] = run_as(unit, repmgrd).replace("/etc/repmgr/%i.conf", f"{found.confs}/%i.conf")
    return texts


def conf(example: str, node: int, found: Cluster) -> str:
    """Return the repmgr.conf of a node for this host."""
    place, identity, programs = found.place(node), found.known[node], found.programs
    repmgr = programs.repmgr or "/usr/bin/repmgr"
    follow, there = f"{repmgr} standby follow", place
    if found.follows_by_ssh:
        follow, there = f"ssh -o BatchMode=yes {found.nodes[node].host} {follow}", Path(identity.conf)
    values = {
        "node_id": str(node),
        "node_name": _quoted(identity.name),
        "conninfo": _quoted(identity.conninfo),
        "promote_command": f"'{repmgr} standby promote -f {place}'",
        "follow_command": f"'{follow} -f {there} --upstream-node-id=%n'",
    }
    text = re.sub(r"\A(#.*\n)+", lambda _: f"# {place} on the gateway, for the repmgrd of node {node}.\n", example)
    for name, value in values.items():
        text = _set(text, name, value)
    return filled(text, node, found).replace("--cluster main ", f"--cluster {found.name} ")


def filled(text: str, node: int, found: Cluster) -> str:
    """Return a repmgr.conf in which nothing stands for what was found."""
    values = {"data_directory": found.data.get(node, ""), "pg_bindir": found.programs.bindir}
    for name in unfilled(text):
        if value := values.get(name):
            text = _set(text, name, _quoted(value))
    return text


def _set(text: str, name: str, value: str) -> str:
    return re.sub(rf"(?m)^[ \t]*{name}\b.*$", lambda _: f"{name}={value}", text)


def _quoted(value: str) -> str:
    r"""Return a value as a repmgr.conf has it (CONF_scanstr).

    >>> print(_quoted("password='it''s'"))
    'password=''it''''s'''
    """
    plain = " ".join(value.splitlines()).replace("\\", "\\\\").replace("'", "''")
    return f"'{plain}'"


def notes(places: Mapping[int, Path], found: Cluster) -> Iterator[str]:
    """Say what could not be found for the files of some nodes."""
    for node, place in places.items():
        if node not in found.data:
            why = "node {} does not say its data_directory (grant pg_read_all_settings to repmgr's role, or start it)"
            yield f"unknown   {why.format(node)}: write it into {place}"
    if not found.programs.repmgrd:
        yield f"unknown   where repmgr for PostgreSQL {found.version} is on this host: install it, and run init again"


def later(missing: Iterable[int], found: Cluster) -> str:
    """Return what is to be done for the new files after the installation."""
    return f"later     systemctl enable --now {' '.join(f'repmgrd@{found.place(node).stem}' for node in missing)}"


def is_conf(place: Path) -> bool:
    """True where a repmgr.conf is looked for."""
    return any(PurePath(place).match(f"/{pattern}") for pattern in PLACES)


def unfilled(text: str) -> list[str]:
    """Return the settings in which the example's placeholder still stands.

    >>> unfilled("data_directory='/var/lib/pgsql/NN/data'\\npg_bindir='/usr/pgsql-16/bin'")
    ['data_directory']
    """
    return [name for name, value in settings_in(text).items() if re.search(rf"[/-]{UNKNOWN}/", value)]
