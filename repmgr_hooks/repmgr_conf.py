"""A repmgr.conf: its settings as repmgr reads them, and the command that repmgr makes of the notification line."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import dropwhile, takewhile
from pathlib import Path

from psycopg import Error, conninfo

DEEPEST = 10
LONGEST = 1023
"""Bytes of the command that repmgr hands to the shell; the rest is cut off (MAXPGPATH, dbutils.c:4246)."""
# The scanner's rules, in its order (configfile-scan.l).
BEGIN, GO_ON = r"[^\x00-@\[-^`{-\x7f]", r"[^\x00-/:-@\[-^`{-\x7f]"
"""Letters, _ and all beyond ASCII; and digits. Said by what they are not: a set of so many takes 5 ms to compile."""
NAME = rf"{BEGIN}{GO_ON}*"
TOKENS = {
    "blank": re.compile(r"[ \t\r]+|#.*"),
    "id": re.compile(NAME),
    "qualified": re.compile(rf"{NAME}\.{NAME}"),
    "string": re.compile(r"'(?:[^'\\]|\\.|'')*'"),
    "unquoted": re.compile(rf"{BEGIN}(?:{GO_ON}|[._:/-])*"),
    "integer": re.compile(r"[-+]?(?:0x[0-9a-fA-F]+|[0-9]+)[A-Za-z]*"),
    "real": re.compile(r"[-+]?[0-9]*\.[0-9]*(?:[Ee][-+]?[0-9]+)?"),
    "equals": re.compile("="),
}
NAMES = ("id", "qualified")
VALUES = ("id", "string", "integer", "real", "unquoted")
ESCAPED = re.compile(r"''|\\([0-7]{1,3}|.)", re.DOTALL)
INCLUDES = ("include", "include_if_exists", "include_dir")
WORDS = {"failover": ("automatic", "manual"), "replication_type": ("physical",)}
NUMBERS = {
    "node_id": 1,
    "priority": 0,
    "monitor_interval_secs": 1,
    "reconnect_attempts": 0,
    "reconnect_interval": 0,
    "primary_notification_timeout": 0,
}
"""Settings that we judge and repmgr takes only so: words, and numbers from the least."""
OPERATORS = frozenset("();<>|&")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=", re.ASCII)


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
    """One file; ``settings`` as they hold in the end, for the last one counts. ``wrong``: why repmgr refuses it."""

    path: Path
    settings: Mapping[str, str]
    wrong: str = ""

    @property
    def node(self) -> int | None:
        """The node id; None if there is none."""
        return number(self.settings.get("node_id", ""))

    @property
    def name(self) -> str:
        """The node's name; empty if there is none."""
        return self.settings.get("node_name", "")

    @property
    def host(self) -> str:
        """The node's address in its own ``conninfo``."""
        try:
            said = conninfo.conninfo_to_dict(self.settings.get("conninfo", ""))
        except (Error, UnicodeError):
            return ""
        return str(said.get("hostaddr") or said.get("host", ""))

    @property
    def line(self) -> str:
        """The notification command; empty if there is none."""
        return self.settings.get("event_notification_command", "")

    @property
    def events(self) -> frozenset[str]:
        """The events that repmgr reports; empty: all of them."""
        # Blanks inside a name are left out too (parse_event_notifications_list).
        return frozenset(re.sub(r"[ \t]", "", self.settings.get("event_notifications", "")).split(",")) - {""}

    def seconds(self, name: str, default: int) -> int:
        """Return a setting that is a number of seconds."""
        return default if (found := number(self.settings.get(name, ""))) is None else found


def read(path: Path) -> RepmgrConf:
    """Read a file and those that it includes. Raises OSError, ValueError (with what repmgr refuses)."""
    conf = examine(path)
    if conf.wrong:
        raise ValueError(conf.wrong)
    return conf


def examine(path: Path) -> RepmgrConf:
    """Read a file and those that it includes, as far as that goes. Raises OSError if it cannot be read at all."""
    wrong: list[str] = []
    given = list(_settings(path, 0, wrong))
    wrong += [why for name, value in given if (why := refused(name, value))]
    return RepmgrConf(path, dict(given), "; ".join(dict.fromkeys(wrong)))


def refused(name: str, value: str) -> str:
    """Return why repmgr refuses a value (configfile.c, parse_configuration_item); empty if it does not.

    Each that is given is judged, also one that a later line replaces.

    >>> refused("failover", "Automatic"), refused("priority", "high")
    ('failover must be automatic or manual, not Automatic', 'priority must be a whole number from 0, not high')
    """
    # strcasecmp for the type, strcmp for the mode
    if name in WORDS and (value.lower() if name == "replication_type" else value) not in WORDS[name]:
        return f"{name} must be {' or '.join(sorted(WORDS[name]))}, not {value}"
    if name in NUMBERS and not ((found := number(value)) is not None and NUMBERS[name] <= found < 2**31):
        return f"{name} must be a whole number from {NUMBERS[name]}, not {value}"
    if name == "conninfo":
        try:
            conninfo.conninfo_to_dict(value)
        except (Error, UnicodeError) as error:
            return no_conninfo("conninfo", error)
    return ""


def no_conninfo(where: str, error: Exception) -> str:
    """Say why libpq takes something for no connection string; it may repeat a part of it, which may be a password."""
    said = str(error).strip()
    known = said.startswith("invalid connection option")
    return f"{where}: {said}" if known else f"{where} is not a connection string"


def number(text: str) -> int | None:
    """Return the number with which a text begins, as strtol(3) finds it: repmgr does not look at the rest.

    >>> number("10s"), number("ten")
    (10, None)
    """
    found = re.match(r"\s*([-+]?[0-9]{1,19})", text, re.ASCII)
    return int(found[1]) if found else None


def _settings(path: Path, depth: int, wrong: list[str], above: Path | None = None) -> Iterator[tuple[str, str]]:
    """Return the settings in order; ``wrong`` is filled with what repmgr does not understand. Raises OSError."""
    if depth > DEEPEST or path == above:
        raise OSError(f"{path} includes itself, or files are included more than {DEEPEST} deep")
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is not a file")  # a FIFO would let us wait for ever
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="surrogateescape").split("\n"), 1):
        found = tokens(line)
        setting = _setting(found)
        if found and setting is None:
            wrong.append(f"{path}: line {number} is not a setting; values with other signs than - . _ : / need quotes")
        elif setting and setting[0].lower() in INCLUDES:
            try:
                yield from _included(setting[0].lower(), path.parent / setting[1], depth, wrong, path)
            except OSError as error:
                wrong.append(f"{path}: line {number}: {error}")
        elif setting:
            yield setting


def _included(how: str, place: Path, depth: int, wrong: list[str], by: Path) -> Iterator[tuple[str, str]]:
    """Follow a line that includes. repmgr 5.3 to 5.5 refuses the whole file if one that need not exist does not."""
    if how != "include_dir":
        yield from _settings(place, depth + 1, wrong, by)
        return
    for file in sorted(file.name for file in place.iterdir() if not file.is_dir()):
        if file.endswith(".conf") and not file.startswith("."):
            yield from _settings(place / file, depth + 1, wrong, by)


def settings_in(text: str) -> dict[str, str]:
    r"""Return the settings of a file's text; files that it includes are not followed.

    >>> settings_in("node_id=2\n# barman_host='old'\nbarman_host = 'barman@backup' # ssh\nbarman_server=main\n")
    {'node_id': '2', 'barman_host': 'barman@backup', 'barman_server': 'main'}
    """
    return dict(filter(None, (_setting(tokens(line)) for line in text.split("\n"))))


def tokens(line: str) -> list[tuple[str, str]]:
    """Return the words of a line with their kinds; of several kinds that fit, the longest, and then the first.

    >>> tokens("node_name=db-1 # ours")
    [('id', 'node_name'), ('equals', '='), ('unquoted', 'db-1')]
    """
    found, place = [], 0
    while place < len(line):
        fits = [(kind, match[0]) for kind, rule in TOKENS.items() if (match := rule.match(line, place))]
        kind, text = max(fits, key=lambda fit: len(fit[1]), default=("error", line[place]))
        if kind != "blank":
            found.append((kind, text))
        place += len(text)
    return found


def _setting(found: list[tuple[str, str]]) -> tuple[str, str] | None:
    """A name, an equal sign or none, and one value (configfile-scan.l, ProcessConfigFp)."""
    kinds = [kind for kind, _ in found if kind != "equals"]
    equals = [index for index, (kind, _) in enumerate(found) if kind == "equals"]
    if len(kinds) != 2 or equals not in ([], [1]) or kinds[0] not in NAMES or kinds[1] not in VALUES:
        return None
    return found[0][1], _plain(found[-1][1])


def _plain(value: str) -> str:
    return value if not value.startswith("'") else ESCAPED.sub(_unescaped, value[1:-1])


def _unescaped(found: re.Match[str]) -> str:
    """What an escape stands for (CONF_scanstr)."""
    text = found[1] or "'"
    if text[0] in "01234567":
        return chr(int(text, 8) & 0xFF)
    return {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}.get(text, text)


def words_of(command: str) -> list[str]:
    """Return the words that a shell would run, from the program to the first redirection, pipe or second command.

    Raises ValueError for a quote that is not closed.

    >>> words_of("LOG=x hook 2 node_rejoin '' >> /var/log/hook.log")
    ['hook', '2', 'node_rejoin', '']
    """
    lexer = shlex.shlex(command, posix=True, punctuation_chars="".join(sorted(OPERATORS)))
    lexer.whitespace_split, lexer.commenters = True, ""
    words = takewhile(lambda word: not word or not set(word) <= OPERATORS, lexer)
    return list(dropwhile(ASSIGNMENT.match, words))
