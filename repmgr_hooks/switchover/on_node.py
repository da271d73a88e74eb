"""repmgr on the node that is to be promoted: ``standby switchover`` must run there (repmgr-standby-switchover(1)).

Once begun it goes on whatever becomes of us and of the connection: half a switchover serves nobody.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from enum import Enum
from shlex import quote

from repmgr_hooks.cluster.repmgr_files import Identity
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.settings.barman import login
from repmgr_hooks.switchover.record import PLACE, RUN_LIMIT
from repmgr_hooks.system.steps import Host, Program, Sql

MARGIN = 15.0
MOST_SAID = 20_000
ENDED = "repmgr-hooks: ended:"
ASKS = "repmgr-hooks: it is about to stop the primary"
POLL = 0.02
"""Seconds between two looks, in the command ``sleep`` too, while clients are held."""
WORD_LIMIT = 45.0
"""Seconds for the clients to be held; without a word by then, repmgr stops nothing."""
SETTINGS = "select current_setting('data_directory')"

STOP_LIMIT = 3.0
"""Seconds for the primary to end once it was told to; then repmgr looks each second, as it does without us."""

# What repmgr meets as ssh. Its checks take seconds (some ten calls of ssh), in which clients need not wait. So all
# passes but the command that stops the primary (``node service --action=stop``), which waits for a word on the
# primary's host: a login takes longer than all the rest. Without a word, or where ssh fails, repmgr is ended: one that
# went on looking whether the primary has stopped, as it does after a failure, would promote its node when somebody
# stops the primary for another reason.
SSH = """#!/bin/sh
PATH=${{PATH#{place}/bin:}}
case "$*" in
*--list-actions*) exec ssh "$@" ;;
*' node service '*stop*) ;;
*) exec ssh "$@" ;;
esac
word() {{
    tries=0
    while [ ! -e {place}/go ] && [ $tries -lt {tries:.0f} ]; do sleep 0.02; tries=$((tries + 1)); done
    [ -e {place}/go ] || end
}}
end() {{
    session=$(cat {place}/session)
    rm -rf {place}
    kill -s KILL -- "-$session"
    exit 1
}}
found=
for each do
    shift
    [ "$found" ] || case "$each $1" in 'repmgr -f'* | */'repmgr -f'*) each={first}$each found=yes ;; esac
    set -- "$@" "$each"
done
if [ ! "$found" ]; then
    : >{place}/asks
    word
    exec ssh "$@"
fi
{{ word; echo; }} | {{ ssh "$@" {last}; [ -e {place}/go ] || end; }} | {{ read -r line && : >{place}/asks; cat; }}
"""
# A word that was sent may come minutes later, when the network goes on: by then nobody holds the clients.
FIRST = "timeout {limit:.0f} sh -c 'echo; read -r word' && "
# repmgr has the primary stopped without waiting for it (pg_ctl -W), looks whether it has ended, and if not, again after
# a second (do_standby_switchover). So this does not return before. Its file goes last (miscinit.c, UnlinkLockFiles).
LAST = """tries=0
while [ -e {file} ] && [ $tries -lt {tries:.0f} ]; do sleep 0.02; tries=$((tries + 1)); done"""

# PATH is the postmaster's, and last the directory of its program, where PGDG's RPMs have repmgr too. repmgr gets a
# session of its own and writes to a file: nobody ends it by going away. It does not begin without saying which session
# that is: whoever begins it may be cut off, or the disk be full.
START = """
cd {directory} || exit
server=$(head -n 1 postmaster.pid) || exit
path=$({{ tr '\\0' '\\n' <"/proc/$server/environ" | sed -n 's/^PATH=//p'; }} 2>/dev/null)
PATH=${{path:-$PATH}}:$(dirname "$(readlink "/proc/$server/exe")")
unset SSH_AUTH_SOCK
place={place}
mkdir -m 700 "$place" "$place/bin" || exit
printf %s {ssh} >"$place/bin/ssh" && chmod 700 "$place/bin/ssh" && [ -x "$place/bin/ssh" ] || {{
    echo "{noexec}"
    rm -rf "$place"
    exit 1
}}
PATH=$place/bin:$PATH LC_ALL=C
export PATH LC_ALL
setsid sh -c 'echo $$ >"$0/session" || {{ rm -rf "$0"; exit; }}
    timeout --foreground --kill-after=5 {limit:.0f} "$@" >"$0/said" 2>&1
    echo $? >"$0/new"; mv "$0/new" "$0/code"' "$place" {line} </dev/null >/dev/null 2>&1 &
"""
WAIT = """
place={place}
tries=0
while [ -d "$place" ] && [ ! -e "$place/code" ] && [ ! -e "$place/{mark}" ] && [ $tries -lt {tries:.0f} ]; do
    sleep 0.05
    tries=$((tries + 1))
done
if [ -e "$place/code" ]; then
    tail -c {most} "$place/said"
    echo
    echo "{ended} $(cat "$place/code")"
    rm -rf "$place"
elif [ -e "$place/{mark}" ]; then
    echo "{asks}"
elif [ ! -d "$place" ]; then
    echo "it was ended before it stopped the primary: ssh has failed there, or there was no word to go on"
fi
"""
GO = """
: >{place}/go || exit
"""
STOP = """
kill -s KILL -- "-$(cat {place}/session)"
rm -rf {place}
"""

NOEXEC = "no program can be run in /tmp: it is full, or mounted noexec"
PROMOTING = "promoting standby to primary"
"""What repmgr says before it does so (repmgr-action-standby.c, _do_standby_promote_internal)."""
# Its place is gone when somebody has read how it ended, or when it has ended itself without a word. Its session lives
# as long as repmgr, or a program that it has started here and waits for. One that still waits for its word is ended:
# a word that comes later finds no place.
LOOK = """
place={place}
if [ -d "$place" ] && [ ! -e "$place/code" ] && session=$(cat "$place/session") && kill -s 0 -- "-$session"; then
    if [ -e "$place/go" ]; then
        echo "{works}"
        exit
    fi
    kill -s KILL -- "-$session"
fi
if [ -e "$place/said" ] && ! grep -q "{promoting}" "$place/said"; then echo "{unpromoted}"; else echo "{over}"; fi
rm -rf "$place"
"""


class RepmgrState(Enum):
    """How it goes on the node, as the node says it."""

    AT_WORK = "repmgr-hooks: it is at work"
    UNPROMOTED = "repmgr-hooks: it has ended before it began to promote its node"
    OVER = "repmgr-hooks: it has ended"


def look(command: tuple[str, ...], place: str, host: Host, limit: float) -> RepmgrState:
    """Ask the node whether the repmgr that was begun in a place has ended. Raises OperationFailed if it does not say.

    One that nobody has let go on is ended. What has ended stops and promotes nothing any more: then others may, as in a
    failover.
    """
    works, unpromoted, over = (each.value for each in RepmgrState)
    script = LOOK.format(place=quote(place), works=works, unpromoted=unpromoted, over=over, promoting=PROMOTING)
    said = host.run(Program((*command, "sh"), stdin=script), limit).strip()
    try:
        return RepmgrState(said)
    except ValueError:
        what = f"{' '.join(command)} sh: whether repmgr has ended is not said: {said[-300:]}"
        raise OperationFailed(what, code="no_answer") from None


@dataclass(frozen=True)
class Ran:
    """How repmgr ended: its exit code, and what it wrote."""

    code: int
    said: str

    def lines(self, *levels: str) -> list[str]:
        """Return what it wrote at these levels, without the level.

        >>> Ran(8, "[2026] [ERROR] it is late\\nHINT: wait").lines("ERROR")
        ['it is late']
        """
        level = rf"(?:\[[^]]*\] )?\[?(?:{'|'.join(levels)})[\]:]+ (.*)"
        return [found[1] for line in self.said.splitlines() if (found := re.match(level, line))]

    @property
    def why(self) -> str:
        """The errors that it named, or else the warnings; without any, the end of what it wrote.

        >>> Ran(1, "WARNING: node 2 is behind\\nDETAIL: by 40 bytes\\nNOTICE: aborting").why
        'node 2 is behind; by 40 bytes'
        """
        level = next((level for level in ("ERROR", "WARNING") if self.lines(level)), None)
        named = self.lines(level, "DETAIL") if level else []
        return "; ".join(named) or " ".join(self.said.split())[-300:] or f"exit code {self.code}"


@dataclass(frozen=True)
class Repmgr:
    """repmgr of one node, run there; ``command`` leads to PostgreSQL's user on it, ``place`` is a new directory."""

    command: tuple[str, ...]
    directory: str
    conf: str
    primary: str = ""
    """The data directory of the primary that it is to stop; whether that has ended is seen there."""
    word_limit: float = WORD_LIMIT
    place: str = field(default_factory=lambda: PLACE + secrets.token_hex(8))

    def rehearse(self, host: Host, limit: float) -> Ran:
        """Have repmgr say whether it would work. Raises OperationFailed."""
        return self._ended(self._run(self._start(limit, "--dry-run") + self._wait(limit), host, limit))

    def start(self, host: Host, limit: float) -> Ran | None:
        """Let it begin; None when it is about to stop the primary, else how it ended before. Raises OperationFailed."""
        output = self._run(self._start(RUN_LIMIT) + self._wait(limit, "asks"), host, limit)
        return None if output.rstrip().endswith(ASKS) else self._ended(output)

    def go_on(self, host: Host, limit: float) -> Ran:
        """Let it stop the primary, and return how it ended.

        Raises OperationFailed if it is not known how it ended; it goes on all the same.
        """
        return self._ended(self._run(GO.format(place=self.place) + self._wait(limit), host, limit))

    def give_up(self, host: Host, limit: float) -> None:
        """End it before it has stopped anything. Raises OperationFailed; then it ends by itself."""
        self._run(STOP.format(place=self.place), host, limit)

    def look(self, host: Host, limit: float) -> RepmgrState:
        """Ask whether it is still at work. Raises OperationFailed if that is not known."""
        return look(self.command, self.place, host, limit)

    def _start(self, limit: float, *more: str) -> str:
        """repmgrd is not repmgr's to pause: it sees only one that runs on the database's own host.

        What it says is needed (``PROMOTING``), whatever ``log_level`` repmgr.conf has.
        """
        said = ("repmgr", "-f", self.conf, "-L", "INFO")
        words = (*said, "standby", "switchover", "--siblings-follow", "--repmgrd-no-pause", *more)
        return START.format(
            directory=quote(self.directory),
            line=" ".join(map(quote, words)),
            limit=limit,
            place=self.place,
            noexec=NOEXEC,
            ssh=quote(self._ssh()),
        )

    def _ssh(self) -> str:
        wait = LAST.format(file=quote(f"{self.primary}/postmaster.pid"), tries=STOP_LIMIT / POLL)
        last = quote(f"&& sh -c {quote(wait)}") if self.primary else ""
        first = FIRST.format(limit=self.word_limit + MARGIN)
        return SSH.format(place=self.place, tries=self.word_limit / POLL, first=quote(first), last=last)

    def _wait(self, limit: float, mark: str = "no") -> str:
        tries = (limit + MARGIN) / 0.05
        return WAIT.format(place=self.place, mark=mark, tries=tries, most=MOST_SAID, ended=ENDED, asks=ASKS)

    def _run(self, script: str, host: Host, limit: float) -> str:
        return host.run(Program((*self.command, "sh"), stdin=script, over=login(self.command)), limit + MARGIN)

    def _ended(self, output: str) -> Ran:
        said, mark, code = output.rpartition(ENDED)
        if not mark or not code.strip().isdigit():
            what = f"{' '.join(self.command)} sh: repmgr did not run to its end: {output.strip()[-300:]}"
            raise OperationFailed(what, code="no_end")
        return Ran(int(code), said.strip())


def repmgr_of(node: int, command: tuple[str, ...], known: Identity, host: Host, limit: float) -> Repmgr:
    """Return repmgr of a node. Raises OperationFailed."""
    with answer_of(node):
        ((directory,),) = host.fetch(Sql(node, SETTINGS), limit)
        return Repmgr(command, str(directory), known.conf)
