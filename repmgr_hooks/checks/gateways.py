"""Several gateways: keepalived and conntrackd on this one, and what the gateways see of each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.packages import install
from repmgr_hooks.cluster import gateways
from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import MASQUERADE, Cluster
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
KEEPALIVED, CONNTRACKD = "/etc/keepalived/keepalived.conf", "/etc/conntrackd/conntrackd.conf"
TRACK = "/etc/keepalived/repmgr-hooks-track"


def here(cluster: Cluster, host: Host, root: Path = Path("/")) -> Iterator[Finding]:
    """Look at what this gateway needs to share the address; nothing, if it is the only one."""
    if not cluster.gateway.hosts:
        return
    if cluster.gateway.snat == MASQUERADE:
        what = "the nodes see an address of the gateway that a client came through: its connection ends when that dies"
        hint = f"config.yaml: clusters.{cluster.name}.gateway: take 'snat_address' out, or name one that moves too"
        yield Topic("gateway.snat", cluster.name).warn(what, hint)
    yield _daemon(Topic("gateway.keepalived", cluster.name), "keepalived", _keepalived(cluster, host, root), host)
    yield _daemon(Topic("gateway.conntrackd", cluster.name), "conntrackd", _conntrackd(cluster, host, root), host)


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


def _daemon(topic: Topic, name: str, wrong: tuple[str, str] | None, host: Host) -> Finding:
    try:
        host.run(Program(("pgrep", "-x", name)), LIMIT)
    except OperationFailed:
        return topic.fail(f"{name} does not run", f"{install(name)}; systemctl enable --now {name}")
    return topic.warn(*wrong) if wrong else topic.ok(f"{name} runs")


def _keepalived(cluster: Cluster, host: Host, root: Path) -> tuple[str, str] | None:
    """What would make the address go to and fro, stay with a gateway that is ill, or never come."""
    text, like = _text(root, KEEPALIVED), f"compare {KEEPALIVED} with the shipped config/keepalived.conf"
    own = [address for address in cluster.gateway.hosts if host.route(address).local]
    if text is None:
        return f"{KEEPALIVED} cannot be read, so it is not known what it does", "run this as root"
    if not re.search(rf"(?<![0-9a-f.:]){re.escape(cluster.gateway.address)}(?![0-9a-f.:])", text):
        return f"{KEEPALIVED} does not name {cluster.gateway.address}", like
    if re.search(r"(?m)^\s*state\s+MASTER", text):
        return "a gateway that is 'state MASTER' takes the address back when it returns", like
    priorities = {int(number) for number in re.findall(r"(?m)^\s*priority\s+(\d+)", text)}
    if not priorities or min(priorities) <= 50:
        return "the weight of the track script (-50) needs a priority above 50, the same on each gateway", like
    if TRACK not in text or not (root / TRACK.lstrip("/")).is_file():
        return "no track script: a gateway whose service does not run keeps the address", like
    source = re.search(r"(?m)^\s*unicast_src_ip\s+(\S+)", text)
    if own and source and source[1] not in own:
        return f"unicast_src_ip {source[1]} is not this host's", f"unicast_src_ip {own[0]}"
    return None


def _conntrackd(cluster: Cluster, host: Host, root: Path) -> tuple[str, str] | None:
    """What would make connections end when the address moves."""
    text, like = _text(root, CONNTRACKD), f"compare {CONNTRACKD} with the shipped config/conntrackd.conf"
    if text is None:
        return f"{CONNTRACKD} cannot be read, so it is not known what it does", "run this as root"
    if not re.search(r"(?mi)^\s*DisableExternalCache\s+(yes|on)", text):
        return "what the other gateway tracks is not in this one's kernel when the address comes", like
    there = [address for address in cluster.gateway.hosts if not host.route(address).local]
    if not any(address in text for address in there):
        return f"{CONNTRACKD} does not name {' or '.join(there)}", like
    return None


def _text(root: Path, place: str) -> str | None:
    """Return what a file says beside its comments; None if it cannot be read."""
    try:
        return re.sub(r"[#!].*", "", (root / place.lstrip("/")).read_text(errors="replace"))
    except OSError:
        return None
