"""What is done on the node of a former primary, and how that ended."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from shlex import quote
from typing import Protocol

from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.cluster.wal import TimelineHistory, file_name, parse_history
from repmgr_hooks.errors import OperationFailed, answer_of
from repmgr_hooks.former_primary import scripts
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import MARK, Refused
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.system.steps import Host, Program, Sql
from repmgr_hooks.text import one_line

TOUCH = scripts.TOUCH.format(not_kept=Refused.NOT_KEPT.value)
STOP_AT_ONCE, MARGIN, ASK_LIMIT, START_LIMIT = 20.0, 15.0, 20.0, 60.0
"""Seconds."""
DIRECTORY = "select current_setting('data_directory')"
LEVELS = re.compile(r"(?:\[[^]]*\] )?\[?(ERROR|DETAIL|FATAL|HINT)[\]:]+ (.*)|(?:pg_rewind|pg_basebackup): (error:.*)")
MEANINGS = {
    Refused.RUNNING: "its PostgreSQL is running",
    Refused.ANOTHER: "it is not what it was when it was stopped",
    Refused.TOO_MUCH: "it has more WAL of its own than may be kept",
    Refused.PRIMARY: "it does not see the primary that was verified",
    Refused.BUSY: "repmgr, pg_rewind or pg_basebackup is at work there",
    Refused.NO_BARMAN: "its repmgr.conf names no Barman",
    Refused.NOT_KEPT: "its own WAL, or its own files, could not be kept",
    Refused.CUT_OFF: "it was cut off before it had changed anything there",
    Refused.EARLY: "the primary has had no checkpoint since it was promoted",
}
HINTS = {
    Refused.TOO_MUCH: "raise former_primary.max_kept_wal, or rejoin it by hand",
    Refused.PRIMARY: "the node must reach the primary, with a password in its own .pgpass",
    Refused.NO_BARMAN: "set barman_host there, or clone: primary",
    Refused.NOT_KEPT: "see former_primary.directory, and whether its disk is full",
    Refused.ANOTHER: "rejoin it by hand",
}


@dataclass(frozen=True)
class Ended:
    """How a job ended: its exit code (None: it is not known), and what it wrote."""

    code: int | None
    said: str = ""

    @property
    def good(self) -> bool:
        """True if all was done."""
        return self.code == 0

    @property
    def untouched(self) -> bool:
        """True if the node is what it was before."""
        return self.code in [*Refused]

    @property
    def why(self) -> str:
        """What went wrong, in repmgr's own words if it said something."""
        if self.code is None:
            return "it did not run to its end: the host was restarted, or it was killed"
        said = " ".join(self.said.split())[-300:]
        if self.untouched:
            return f"{MEANINGS[Refused(self.code)]} ({said})" if said else MEANINGS[Refused(self.code)]
        named = [found[2] or found[3] for line in self.said.splitlines() if (found := LEVELS.match(line.strip()))]
        late = "not finished in time: " if self.code in (124, 137) else ""
        return one_line(late + ("; ".join(named[-4:]) or said or f"exit code {self.code}"), 500)

    @property
    def hint(self) -> str:
        """What to do about it."""
        return HINTS.get(Refused(self.code), "") if self.untouched and self.code else ""


class OnNode(Protocol):
    """What can be done on the node of a former primary; ``ByShell`` is the real one. Each raises OperationFailed."""

    def look(self, former: Former) -> Former:
        """Return it with where its data directory and its repmgr.conf are."""

    def stop(self, former: Former, limit: float) -> Former:
        """Stop it, if it still is what it was, and return it once it is seen to be stopped."""

    def rejoin(self, former: Former, primary: NodeState, began: int | None) -> None:
        """Begin to make it a standby; ``began``: the node that is known to have begun its timeline."""

    def clone(self, former: Former, primary: NodeState) -> None:
        """Begin to make it anew."""

    def ask(self, former: Former) -> Ended | None:
        """Return how what was begun has ended; None while it goes on."""


@dataclass(frozen=True)
class ByShell:
    """Through the node's ``shell``."""

    cluster: Cluster
    settings: FormerPrimary
    host: Host

    def look(self, former: Former) -> Former:
        known = repmgr_files.identities(former.primary, self.host, self.cluster.postgres.timeout)
        if former.node not in known:
            what = f"node {former.node} is not in repmgr.nodes of node {former.primary}"
            raise OperationFailed(what, code="unregistered", hint="register it")
        former = replace(former, conf=known[former.node].conf)
        if former.directory:
            return former
        with answer_of(former.node):
            ((directory,),) = self.host.fetch(Sql(former.node, DIRECTORY), self.cluster.postgres.timeout)
            return replace(former, directory=str(directory))

    def stop(self, former: Former, limit: float) -> Former:
        text = self._common(former) + scripts.FENCE.format(
            mark=MARK, conf=quote(former.conf), limit=limit, tries=limit / 0.1, now=STOP_AT_ONCE
        )
        word, rest, said = self._said(former, text, 2 * limit + STOP_AT_ONCE)
        if word == "stopped":
            return replace(former, phase="fenced", path=rest)
        if word == "another":
            what = f"node {former.node} is not what it was seen to be: {rest}"
            raise OperationFailed(what, code="another", hint="repmgr-hooks status")
        raise OperationFailed(f"node {former.node} is still running: {said}", code="not_stopped")

    def rejoin(self, former: Former, primary: NodeState, began: int | None) -> None:
        files = ",".join(self.settings.config_files)
        work = scripts.REJOIN.format(
            another=Refused.ANOTHER.value,
            primary=self._primary(primary),
            keep=self._keep(former, primary, began),
            touch=TOUCH,
            limit=self.settings.timeout,
            conf=quote(former.conf),
            conninfo=quote(self.cluster.upstream(primary.node)),
            files=quote(f"--config-files={files}") if files else "",
        )
        self._begin(former, work)

    def clone(self, former: Former, primary: NodeState) -> None:
        postgres, barman = self.cluster.postgres, self.settings.clone == "barman"
        host, port = self.cluster.endpoint(primary.node)
        node = ("-h", host, "-p", str(port), "-U", postgres.user)
        conf = quote(former.conf)
        work = scripts.CLONE.format(
            another=Refused.ANOTHER.value,
            not_kept=Refused.NOT_KEPT.value,
            system=former.system_identifier,
            timeline=former.timeline,
            touch=TOUCH,
            primary=self._primary(primary),
            source=scripts.BARMAN_IN_CONF.format(conf=conf, no_barman=Refused.NO_BARMAN.value) if barman else "",
            own_files=" ".join(map(quote, self.settings.config_files)),
            limit=self.settings.timeout,
            conf=conf,
            node=" ".join(map(quote, (*node, "-d", postgres.dbname))),
            way="" if barman else "--without-barman",
            directory=quote(former.directory),
            start=int(START_LIMIT),
        )
        # A clone that has failed may have left none.
        self._begin(former, work, f"mkdir -p -m 700 {quote(former.directory)}\n" if former.rewound else "")

    def ask(self, former: Former) -> Ended | None:
        area = quote(self._area(former))
        text = scripts.ASK.format(area=area, job=former.job, most=scripts.MOST_SAID, mark=MARK)
        word, rest, said = self._said(former, text, ASK_LIMIT)
        code = int(rest) if rest.isdigit() else None
        if word == "ended":
            return Ended(code, said)
        if word == "refused":
            return Ended(code if code in [*Refused] else Refused.CUT_OFF, said)
        return Ended(None) if word == "gone" else None

    def _begin(self, former: Former, work: str, first: str = "") -> None:
        ready = scripts.READY.format(
            running=Refused.RUNNING.value, another=Refused.ANOTHER.value, busy=Refused.BUSY.value
        )
        text = scripts.START.format(
            area=quote(self._area(former)),
            job=former.job,
            work=first + self._common(former) + ready + work,
            end=f"end-of-{former.job}",
            mark=MARK,
        )
        word, _, said = self._said(former, text, ASK_LIMIT)
        if word != "begun":
            what = f"nothing can be begun on node {former.node}: {said or 'something else is under way there'}"
            raise OperationFailed(what, code="not_begun")

    def _common(self, former: Former) -> str:
        identity = f"{former.system_identifier} {former.timeline:08X}"
        return scripts.COMMON.format(
            directory=quote(former.directory),
            path=quote(former.path),
            identity=quote(identity),
            another=Refused.ANOTHER.value,
            conf=quote(former.conf),
            # A rewind that has failed may have left it there (repmgr-action-node.c, do_node_rejoin).
            signal="true || " if former.rewound else "",
        )

    def _primary(self, primary: NodeState) -> str:
        return scripts.PRIMARY.format(
            primary=quote(self.cluster.upstream(primary.node)),
            verified=quote(f"f|{primary.system_identifier}|{primary.timeline}"),
            timeline=primary.timeline,
            early=Refused.EARLY.value,
            refused=Refused.PRIMARY.value,
        )

    def _keep(self, former: Former, primary: NodeState, began: int | None) -> str:
        size = primary.segment_size
        name = file_name(former.timeline, self._diverged(former, primary, began) // size, size)
        return scripts.KEEP.format(
            timeline=former.timeline,
            first=name[8:],
            most=max(self.settings.most_bytes // size, 1),
            beyond=self.settings.kept_copies + 1,
            too_much=Refused.TOO_MUCH.value,
            not_kept=Refused.NOT_KEPT.value,
        )

    def _diverged(self, former: Former, primary: NodeState, began: int | None) -> int:
        """Return where its WAL may have left the primary's; where that is not known, all that it has is kept.

        Two nodes may have begun timelines of the same number.
        """
        if began not in (None, former.node):
            return 0
        sql = Sql(primary.node, f"TIMELINE_HISTORY {primary.timeline}", walsender=True)
        with answer_of(primary.node):
            text = self.host.fetch(sql, self.cluster.postgres.timeout)[0][1]
            said = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
            return TimelineHistory(primary.timeline, parse_history(said)).end_of(former.timeline) or 0

    def _area(self, former: Former) -> str:
        return self.settings.area(self.cluster.name, former.node, former.directory)

    def _said(self, former: Former, script: str, limit: float) -> tuple[str, str, str]:
        """Return the word of ours that a script ends with, what stands behind it, and what came before."""
        shell = self.cluster.nodes[former.node].shell
        if not shell:
            raise OperationFailed(f"node {former.node} has no 'shell'", code="no_shell", hint="see nodes.N.shell")
        output = self.host.run(Program((*shell, "sh"), stdin=script), limit + MARGIN)
        said, mark, last = output.rpartition(MARK)
        if not mark:
            what = f"{' '.join(shell)} sh on node {former.node} did not do it: {one_line(output.strip()[-300:])}"
            raise OperationFailed(what, code="no_end")
        word, _, rest = last.strip().partition(" ")
        return word, rest, said.strip() if word in ("ended", "refused") else one_line(said, 500)
