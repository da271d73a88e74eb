"""Several gateways: keepalived and conntrackd on this one, and what the gateways see of each other."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.checks import conntrackd
from repmgr_hooks.checks.finding import Finding, Topic, bad
from repmgr_hooks.checks.packages import install
from repmgr_hooks.cluster import gateways
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.netfilter.conntrackd import CONFIGURATION as CONNTRACKD
from repmgr_hooks.netfilter.conntrackd import fills_kernel, without_comments
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
KEEPALIVED = "/etc/keepalived/keepalived.conf"
TRACK = "/etc/keepalived/repmgr-hooks-track"
SCRIPT = re.compile(r'(?m)^\s*(?:script|notify(?:_\w+)?)\s+"?(/[^"\s]+)')
"""What it runs. It looks at the directories as they are written (2.3, lib/notify.c, check_security): behind /bin, which
is a link, it runs nothing, and says "Wrong file type found in script path" once."""


def here(cluster: Cluster, host: Host, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at what this gateway needs to share the address; nothing, if it is the only one."""
    if not cluster.gateway.hosts:
        return
    if cluster.gateway.snat == MASQUERADE:
        what = "the nodes see an address of the gateway that a client came through: its connection ends when that dies"
        hint = f"config.yaml: clusters.{cluster.name}.gateway: take 'snat_address' out, or name one that moves too"
        yield Topic("gateway.snat", cluster.name).warn(what, hint)
    topic = Topic("gateway.keepalived", cluster.name)
    yield from _daemon(topic, "keepalived", _keepalived(cluster, host, root), host)
    topic = Topic("gateway.conntrackd", cluster.name)
    found = list(_daemon(topic, "conntrackd", _conntrackd(cluster, host, root), host))
    yield from found
    if not bad(found):
        yield conntrackd.heard(cluster, _text(root, CONNTRACKD) or "", host)


def others(cluster: Cluster, primary: NodeState | None, host: Host) -> Iterator[Finding]:
    """Look at what can be seen of the other gateways."""
    if not cluster.gateway.hosts or primary is None:
        return
    topic = Topic("gateway.others", cluster.name)
    seen, wrong = gateways.seen_and_wrong(cluster, primary, host)
    for problem in wrong:
        reserve = problem.code in gateways.OF_RESERVES
        yield topic.warn(str(problem), problem.hint) if reserve else topic.fail(str(problem), problem.hint)
    if not wrong:
        yield topic.ok("; ".join(map(str, seen)))


def _daemon(topic: Topic, name: str, wrong: Iterator[tuple[str, str]], host: Host) -> Iterator[Finding]:
    try:
        host.run(Program(("pgrep", "-x", name)), LIMIT)
    except OperationFailed:
        yield topic.fail(f"{name} does not run", f"{install(name)}; systemctl enable --now {name}")
        return
    found = [topic.warn(*each) for each in wrong]
    yield from found or [topic.ok(f"{name} runs")]


def _keepalived(cluster: Cluster, host: Host, root: Path) -> Iterator[tuple[str, str]]:
    """What would make the address go to and fro, stay with a gateway that is ill, or never come."""
    text, like = _text(root, KEEPALIVED), f"compare {KEEPALIVED} with the shipped config/keepalived.conf"
    own = [address for address in cluster.gateway.hosts if host.route(address).local]
    if text is None:
        yield f"{KEEPALIVED} cannot be read, so it is not known what it does", "run this as root"
        return
    if not re.search(rf"(?<![0-9a-f.:]){re.escape(cluster.gateway.address)}(?![0-9a-f.:])", text):
        yield f"{KEEPALIVED} does not name {cluster.gateway.address}", like
        return
    if re.search(r"(?m)^\s*state\s+MASTER", text):
        yield "a gateway that is 'state MASTER' takes the address back when it returns", like
    priorities = {int(number) for number in re.findall(r"(?m)^\s*priority\s+(\d+)", text)}
    if not priorities or min(priorities) <= 50:
        yield "the weight of the track script (-50) needs a priority above 50, the same on each gateway", like
    if TRACK not in text or not (root / TRACK.lstrip("/")).is_file():
        yield "no track script: a gateway whose service does not run keeps the address", like
    for script in sorted(set(SCRIPT.findall(text))):
        directory = str((root / script.lstrip("/")).parent)
        if (real := os.path.realpath(directory)) != directory:
            right = str(Path("/", Path(real).relative_to(os.path.realpath(root)), Path(script).name))
            yield f"keepalived 2.3 and newer runs no script behind a link: {script}", f"{KEEPALIVED}: {right}"
    if not conntrackd.runs("-R", text, root):
        what = "connections that this gateway takes over break when the other one, back again, gets the address"
        yield what, f"{KEEPALIVED}: notify_master that runs conntrackd -R"
    source = re.search(r"(?m)^\s*unicast_src_ip\s+(\S+)", text)
    if own and source and source[1] not in own:
        yield f"unicast_src_ip {source[1]} is not this host's", f"unicast_src_ip {own[0]}"


def _conntrackd(cluster: Cluster, host: Host, root: Path) -> Iterator[tuple[str, str]]:
    """What would make connections end when the address moves."""
    text = _text(root, CONNTRACKD)
    if text is None:
        yield f"{CONNTRACKD} cannot be read, so it is not known what it does", "run this as root"
        return
    if not (fills_kernel(text) or conntrackd.runs("-c", _text(root, KEEPALIVED) or "", root)):
        what = "what the other gateway tracks is not in this one's kernel when the address comes"
        yield what, f"{CONNTRACKD}: DisableExternalCache yes; or {KEEPALIVED}: a notify_master that runs conntrackd -c"
    yield from conntrackd.wrong(text, cluster, host)


def _text(root: Path, place: str) -> str | None:
    """Return what a file says beside its comments; None if it cannot be read."""
    try:
        return without_comments((root / place.lstrip("/")).read_text(errors="replace"))
    except OSError:
        return None
