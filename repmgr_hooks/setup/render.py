"""What is to be written: the shipped files, with the addresses and names of this cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path

from repmgr_hooks.checks.repmgr import as_it_should_be
from repmgr_hooks.files import text_of
from repmgr_hooks.hook import LOCAL, PROGRAM
from repmgr_hooks.repmgr_conf import RepmgrConf
from repmgr_hooks.settings.cluster import Node
from repmgr_hooks.setup.discover import Found

NOTIFICATION = re.compile(r"^[ \t]*event_notification_command\b.*$", re.MULTILINE | re.IGNORECASE)
ADDED = "# repmgr_hooks: quotes around what may be empty; never %d, %a or %c, which a shell would run."
BARMAN_CONF = Path("/etc/barman.conf")
POSTGRES = "postgres"
LOCKS = re.compile(r"(?mi)^[ \t]*lock_directory_cleanup\b.*$")
KEEPS_LOCKS = "lock_directory_cleanup = false"
EXAMPLE = "config/repmgr-db1.conf"
CONFIGURATION = "/etc/repmgr-hooks/config.yaml"
SYSCTL = "/etc/sysctl.d/90-repmgr-hooks.conf"
TMPFILES = "/etc/tmpfiles.d/repmgr-hooks.conf"
SUDOERS = "/etc/sudoers.d/repmgr-hooks"
UNITS = tuple(
    f"/etc/systemd/system/repmgr-hooks{unit}"
    for unit in (".service", "-boot.service", "-check-wal.service", "-check-wal.timer", "-http.service")
)
SHIPPED = {
    CONFIGURATION: "config/config.yaml",
    TMPFILES: "config/tmpfiles.conf",
    SYSCTL: "config/sysctl.conf",
    SUDOERS: "config/sudoers",
    **{unit: f"systemd/{Path(unit).name}" for unit in UNITS},
}
"""Where each of our files goes, and where it comes from."""


def packaged(place: str) -> Path:
    """Return where a package has one of our files: what stands in /etc takes its place (systemd.unit(5), tmpfiles.d(5),
    sysctl.d(5)).

    >>> packaged("/etc/tmpfiles.d/repmgr-hooks.conf")
    PosixPath('/usr/lib/tmpfiles.d/repmgr-hooks.conf')
    """
    return Path(place.replace("/etc/", "/usr/lib/", 1))


def shipped_text(shipped: Path, file: str) -> str:
    """Return a shipped file, with the program where it is. Raises OSError."""
    return (shipped / file).read_text().replace(LOCAL, PROGRAM)


def drafted(
    found: Found,
    name: str,
    shipped: Path,
    confs: Iterable[RepmgrConf],
    barman_conf: Path = BARMAN_CONF,
    repmgrd: str = POSTGRES,
) -> dict[str, str]:
    """Return the text of each file by its place, but for what a package has already, as this cluster needs it.

    ``repmgrd``: its user, and group. Raises OSError.
    """
    texts = {place: shipped_text(shipped, file) for place, file in SHIPPED.items()}
    texts |= {place: run_as(texts[place], repmgrd) for place in (TMPFILES, SUDOERS, *UNITS)}
    template = _replaced(texts[CONFIGURATION], r"(?<=\$schema=)", f"{shipped}/config/")
    texts[CONFIGURATION] = configuration(template, found, name)
    if ":" in found.gateway:
        texts[SYSCTL] = texts[SYSCTL].replace("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")
    there = {place: packaged(place) for place in texts}
    texts = {place: text for place, text in texts.items() if not has(there[place], text)}
    if found.cleans_up_locks and barman_conf.is_file():
        text = text_of(barman_conf)
        texts |= {str(barman_conf): kept} if (kept := keeps_locks(text)) != text else {}
    example = shipped_text(shipped, EXAMPLE)
    for conf in confs:
        before = text_of(conf.path)
        after = notified(before, name)
        node = found.nodes.get(conf.node or 0)
        texts[str(conf.path)] = cloned(after, example, found, node.host) if node and after != before else after
    return texts


def has(file: Path, text: str) -> bool:
    """True if the file is there, and has this text."""
    return file.is_file() and text_of(file) == text


def run_as(text: str, repmgrd: str) -> str:
    """Return one of our files for another user of repmgrd than postgres.

    >>> run_as("postgres ALL = (root)", "enterprisedb"), run_as("After=postgresql.service", "enterprisedb")
    ('enterprisedb ALL = (root)', 'After=postgresql.service')
    """
    return re.sub(rf"\b{POSTGRES}\b", repmgrd, text)


def keeps_locks(text: str) -> str:
    """Return a barman.conf that keeps lock files. Only for a Barman that knows the option: an older one warns of it.

    >>> keeps_locks("[barman]\\nbarman_user = barman\\n\\n[main]\\nslot_name = barman\\n")
    '[barman]\\nbarman_user = barman\\nlock_directory_cleanup = false\\n\\n[main]\\nslot_name = barman\\n'
    """
    if re.search(LOCKS, text):
        return re.sub(LOCKS, KEEPS_LOCKS, text)
    section = re.search(r"(?ms)^\[barman\].*?(?=\s*^\[|\s*\Z)", text)
    return f"{text[: section.end()]}\n{KEEPS_LOCKS}{text[section.end() :]}" if section else text


def configuration(template: str, found: Found, name: str) -> str:
    """Return the commented configuration, with the values of this cluster in the places of the example's."""
    nodes = "".join(f"      {number}: {_node(node)}\n" for number, node in sorted(found.nodes.items()))
    ports = f"{{barman: {found.barman_port}, app: {found.app_port}}}"
    changes = (
        (r"^  main:$", f"  {name}:"),
        (r"(?<=^    nodes:\n)(      \d+: .*\n)+", nodes),
        (r"(?<=^    postgres: \{)port: \d+, user: \w+, dbname: \w+", _postgres(found)),
        # Which application is served, nobody here can know: until somebody says so, `check` warns.
        (r"(?<=^    probe: \{)user: \w+, dbname: \w+", f"user: {found.user}, dbname: {found.dbname}"),
        (r"(?<=^      address: ).*$", _quoted(found.gateway)),
        (r"(?<=^      ports: ).*$", ports),
        (r"(?<=^      backend: ).*$", found.backend),
        (r"(?<=^    barman: \{)server: \w+, slot_name: \w+, command: \[barman\]", barman_section(found)),
    )
    for pattern, value in changes:
        template = _replaced(template, pattern, value)
    return template


def _replaced(template: str, pattern: str, value: str) -> str:
    text, times = re.subn(pattern, lambda _: value, template, flags=re.MULTILINE)
    assert times == 1, pattern
    return text


def _postgres(found: Found) -> str:
    further = "".join(f", {name}: {_scalar(value)}" for name, value in found.libpq.items())
    return f"port: {found.port}, user: {found.user}, dbname: {found.dbname}{further}"


def barman_section(found: Found) -> str:
    """Return what the section of Barman says, if there is one."""
    words = ", ".join(json.dumps(word) if ":" in word else word for word in found.barman)
    return f"server: {found.server}, slot_name: {found.slot}, command: [{words}]"


def _scalar(value: str) -> str:
    """Return a value as YAML: a number that is written as one, else in quotes.

    >>> _scalar("5"), _scalar("010"), _scalar("/etc/ca.pem")
    ('5', '"010"', '"/etc/ca.pem"')
    """
    return value if re.fullmatch(r"0|[1-9][0-9]*", value, re.ASCII) else json.dumps(value)


def _node(node: Node) -> str:
    name = f", name: {_quoted(node.name)}" if node.name else ""
    port = f", port: {node.port}" if node.port else ""
    return f"{{host: {_quoted(node.host)}{port}{name}{', witness: true' if node.witness else ''}}}"


def _quoted(text: str) -> str:
    """A host may be named "no"; with a dot in it, it is text to YAML."""
    return text if "." in text else f"'{text}'"


def notified(text: str, name: str) -> str:
    """Return a repmgr.conf that calls us; a line that calls somebody else stays as a comment."""
    line = as_it_should_be(name)
    found = list(NOTIFICATION.finditer(text))
    if [match[0].strip() for match in found] == [line]:
        return text
    rest = NOTIFICATION.sub(lambda match: f"# before repmgr_hooks: {match[0].strip()}", text)
    return f"{rest.rstrip()}\n\n{ADDED}\n{line}\n"


def cloned(text: str, example: str, found: Found, node: str) -> str:
    """Return a repmgr.conf that shows, as comments, how Barman clones a standby; one that names Barman stays so."""
    if re.search(r"barman_host|pg_backupapi_host", text):
        return text
    shown = example[example.index("# Clone from Barman") :]
    if ":" in found.gateway:
        shown = shown.replace("host='10.0.0.20'", f"host='[{found.gateway}]'")  # it becomes part of a URL
    shown = shown.replace("10.0.0.20", found.gateway)
    return f"{text}\n{shown.replace('main_backup', found.server).replace('10.0.0.11', node)}"
