"""A repmgr.conf: its settings as repmgr reads them, and the command that repmgr makes of the notification line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from psycopg import Error, conninfo

DEEPEST = 10
LONGEST = 1023
"""Bytes of the command that repmgr hands to the shell; the rest is cut off (MAXPGPATH, dbutils.c:4246)."""
# A name, an equal sign or none, and a value (configfile-scan.l); a quoted one with '' or \' for a quote inside.
SETTING = re.compile(r"\s*([A-Za-z_][\w.]*)(?:\s*=\s*|\s+)('(?:[^'\\\n]|\\.|'')*'|[^\s#']+)\s*(?:#.*)?")
OPERATORS = frozenset("();<>|&")


@dataclass(frozen=True)
class Placeholders:
    """What repmgr puts in the place of ``%n %e %s %p %t %d %a %c``."""

    node: str
    event: str
    success: str = "1"
    other: str = ""
    timestamp: str = "2026-11-21 03:00:00.123456+00"
    details: str = ""
    name: str = ""
    conninfo: str = ""

    def expanded(self, line: str) -> str:
        """Return the command as repmgr builds it (dbutils.c:4290-4394): ``%d`` is escaped for quotes only.

        >>> Placeholders("2", "node_rejoin", details='a "b"').expanded('hook %n %e "%p" "%d" 100%% %x')
        'hook 2 node_rejoin "" "a \\\\"b\\\\"" 100% %x'
        """
        values = {"n": self.node, "e": self.event, "s": self.success, "p": self.other, "t": self.timestamp}
        values |= {"d": re.sub(r'(?<!\\)"', r"\"", self.details), "a": self.name, "c": self.conninfo, "%": "%"}
        command = b""
        for part in re.findall(r"%[nesptdac%]|.", line, re.DOTALL):
            room = LONGEST - len(command)
            # A value that does not fit is cut one byte earlier than a character would be (strlcpy).
            command += values[part[1]].encode()[: max(room - 1, 0)] if len(part) > 1 else part.encode()[:room]
        return command.decode(errors="ignore")


@dataclass(frozen=True)
class RepmgrConf:
    """One file; ``settings`` as they hold in the end, for the last one counts."""

    path: Path
    settings: Mapping[str, str]

    @property
    def node(self) -> int | None:
        text = self.settings.get("node_id", "")
        return int(text) if text.isascii() and text.isdigit() else None

    @property
    def host(self) -> str:
        """The node's address in its own ``conninfo``."""
        try:
            words = conninfo.conninfo_to_dict(self.settings.get("conninfo", ""))
            return str(words.get("hostaddr") or words.get("host", ""))
        except Error:
            return ""

    @property
    def line(self) -> str:
        return self.settings.get("event_notification_command", "")

    @property
    def events(self) -> frozenset[str]:
        """The events that repmgr reports; empty: all of them."""
        return frozenset(re.split(r"[\s,]+", self.settings.get("event_notifications", "").strip(" ,\t"))) - {""}

    def seconds(self, name: str, default: int) -> int:
        text = self.settings.get(name, "")
        return int(text) if text.isascii() and text.isdigit() else default


def read(path: Path) -> RepmgrConf:
    """Read a file and those that it includes. Raises OSError, ValueError (with what repmgr would not understand)."""
    return RepmgrConf(path, dict(_settings(path, 0)))


def _settings(path: Path, depth: int) -> Iterator[tuple[str, str]]:
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")  # a FIFO would let us wait for ever
    lines = path.read_text(encoding="utf-8").splitlines() if depth <= DEEPEST else []
    for number, line in enumerate(lines, 1):
        if not line.partition("#")[0].strip():
            continue
        found = _setting(line)
        if not found:
            raise ValueError(f"{path}: line {number} is no setting")
        name, value = found
        if name in ("include", "include_if_exists"):
            included = path.parent / value
            if name == "include" or included.exists():
                yield from _settings(included, depth + 1)
        elif name == "include_dir":
            for file in sorted((path.parent / value).glob("*.conf")):
                yield from _settings(file, depth + 1)
        else:
            yield name, value


def settings_in(text: str) -> dict[str, str]:
    r"""Return the settings of a file's text; files that it includes are not followed.

    >>> settings_in("node_id=2\n# barman_host='old'\nbarman_host = 'barman@backup' # ssh\nbarman_server=main\n")
    {'node_id': '2', 'barman_host': 'barman@backup', 'barman_server': 'main'}
    """
    return dict(filter(None, map(_setting, text.splitlines())))


def _setting(line: str) -> tuple[str, str] | None:
    found = SETTING.fullmatch(line)
    return (found[1].lower(), _plain(found[2])) if found else None


def _plain(value: str) -> str:
    if not value.startswith("'"):
        return value
    return re.sub(r"''|\\(.)", lambda found: found[1] or "'", value[1:-1])


def words_of(command: str) -> list[str]:
    """Return the words that a shell would run, up to the first redirection, pipe or second command.

    Raises ValueError for a quote that is not closed.

    >>> words_of("hook 2 node_rejoin '' >> /var/log/hook.log")
    ['hook', '2', 'node_rejoin', '']
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="".join(sorted(OPERATORS)))
    lexer.whitespace_split, lexer.commenters = True, ""
    return list(takewhile(lambda word: not word or not set(word) <= OPERATORS, lexer))
