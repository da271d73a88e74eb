"""The files of a database host where repmgrd runs, and what its gateway needs besides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from repmgr_hooks.checks.sshd import KEYS, SSHD
from repmgr_hooks.checks.users import User
from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import text_of
from repmgr_hooks.repmgr_conf import RepmgrConf
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.settings.schema import IpAddress
from repmgr_hooks.setup.access import NO_KEY, keys_in, name_of
from repmgr_hooks.setup.render import CONFIGURATION, TMPFILES, has, notified, packaged, run_as, shipped_text

UNIT = "/etc/systemd/system/repmgr-hooks-forward.service"
HOME = "/var/lib/postgresql"
FILES = {
    CONFIGURATION: "config/database-host.yaml",
    TMPFILES: "config/database-host-tmpfiles.conf",
    UNIT: "systemd/repmgr-hooks-forward.service",
}
"""Where each file of a database host goes, and where it comes from."""
OF_GATEWAY = {SSHD: "config/sshd.conf", KEYS: "config/authorized_keys"}


def drafted(
    gateways: Iterable[str], name: str, shipped: Path, confs: Iterable[RepmgrConf], repmgrd: User
) -> dict[str, str]:
    """Return the text of each file of a database host by its place, but for what a package has already.

    Raises UsageError, OSError.
    """
    texts = {place: shipped_text(shipped, file) for place, file in FILES.items()}
    texts |= {place: run_as(texts[place], repmgrd.name) for place in (TMPFILES, UNIT)}
    texts[CONFIGURATION] = _configuration(texts[CONFIGURATION], list(gateways), repmgrd.home)
    there = {place: packaged(place) for place in texts}
    texts = {place: text for place, text in texts.items() if not has(there[place], text)}
    return texts | {str(conf.path): notified(text_of(conf.path), name) for conf in confs}


def _configuration(example: str, gateways: list[str], home: str) -> str:
    for address in gateways:
        if wrong := IpAddress().problem(address):
            raise UsageError(f"--forward-to {wrong}", hint="name the gateway's address, such as 10.0.0.20")
    line = next(line for line in example.splitlines() if line.startswith("    gateway:"))
    names = ["gateway"] if len(gateways) == 1 else [f"gateway{number}" for number in range(1, len(gateways) + 1)]
    lines = [
        line.replace("gateway:", f"{name}:").replace("10.0.0.20", address).replace(HOME, home)
        for name, address in zip(names, gateways, strict=True)
    ]
    return example.replace(line, "\n".join(lines))


def of_gateway(
    nodes: Mapping[int, Node], known: Mapping[int, Identity], shipped: Path, there: str = ""
) -> dict[str, str]:
    """Return the files with which a gateway lets the hosts of these nodes in, by their places. Raises OSError.

    ``there``: the authorized_keys that it has already, whose keys stay.
    """
    texts = {place: shipped_text(shipped, file) for place, file in OF_GATEWAY.items()}
    head, line = (list(part) for part in _parts(texts[KEYS]))
    names = {number: name_of(number, known[number].name if number in known else "") for number in nodes}
    first = dict[str, str]()  # a host has one key, however many nodes are on it
    for number, node in sorted(nodes.items()):
        first.setdefault(node.host, names[number])
    had = keys_in(there)
    keys = [
        line[0]
        .replace("10.0.0.11", host)
        .replace(f"{NO_KEY}db1", had.get(name, f"{NO_KEY}{name}"))
        .replace("--host db1", f"--host {name}")
        for host, name in first.items()
    ]
    return texts | {KEYS: "\n".join([*head, *keys, ""])}


def _parts(text: str) -> tuple[list[str], list[str]]:
    """Return the comments of the example, and its lines."""
    lines = text.splitlines()
    return [line for line in lines if line.startswith("#")], [line for line in lines if not line.startswith("#")]
