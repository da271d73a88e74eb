"""The gateway's kernel: it forwards, has our chains, tracks connections, and nobody else will flush the nat table."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.cluster import Cluster
from repmgr_hooks.errors import NoSuchProgram, StepFailed
from repmgr_hooks.handlers.firewall import Family, forwarding, jumps, nat_rules
from repmgr_hooks.steps import Program, World

LIMIT = 10.0
FULL = 0.9
TRACKED = "/proc/sys/net/netfilter/nf_conntrack_"


def look(cluster: Cluster, world: World) -> Iterator[Finding]:
    """Look at what the firewall handler needs."""
    family, name = Family(cluster.gateway.address), cluster.name
    topic = Topic("kernel.forwarding", name)
    mend = f"sysctl -w {family.forwarding}=1; and for ever: config/sysctl.conf"
    try:
        on = forwarding(family, world)
        yield topic.ok("the kernel forwards") if on else topic.fail("the kernel does not forward packets", mend)
    except StepFailed as error:
        yield topic.fail(str(error), mend)
    yield _chains(Topic("kernel.chains", name), cluster, world)
    yield _filter(Topic("kernel.filter", name), family, world)
    yield _tracking(Topic("kernel.conntrack", name), world)


def _chains(topic: Topic, cluster: Cluster, world: World) -> Finding:
    try:
        rules = nat_rules(cluster.gateway, world)
    except NoSuchProgram as error:
        return topic.fail(f"the routes need what is not installed: {error}", "apt install iptables")
    except StepFailed as error:
        return unseen(topic, error)
    chains = cluster.gateway.chains
    ours = [rule for rule in rules if rule.startswith((f"-A {chains.dnat} ", f"-A {chains.snat} "))]
    lacking = [jump for jump in jumps(cluster.gateway) if jump not in rules]
    if lacking or not ours:
        what = f"our chains have been flushed: {lacking[0]} is gone" if lacking else "our chains are empty"
        return topic.fail(what, f"repmgr-hooks reconcile --cluster {cluster.name}")
    return topic.ok(f"{chains.dnat} and {chains.snat} are in the nat table")


def _filter(topic: Topic, family: Family, world: World) -> Finding:
    """Docker, for one, sets this policy and lets nothing through but its own."""
    try:
        saved = world.run(Program((f"{family.iptables}-save", "-t", "filter")), LIMIT)
    except NoSuchProgram as error:
        return topic.fail(str(error), "apt install iptables")
    except StepFailed as error:
        return unseen(topic, error)
    accepts = re.search(r"^-A FORWARD .*-j ACCEPT$", saved, re.MULTILINE)
    if ":FORWARD DROP" in saved and not accepts:
        mend = f"{family.iptables} -I FORWARD -m conntrack --ctstate DNAT -j ACCEPT; the way back likewise"
        return topic.fail("the policy of FORWARD is DROP, and no rule lets a client through", mend)
    return topic.ok("the filter table lets clients through")


def _tracking(topic: Topic, world: World) -> Finding:
    if shutil.which("conntrack") is None:
        what = "conntrack is not installed: after a failover, open connections go on to the old primary"
        return topic.warn(what, "apt install conntrack")
    try:
        count, most = (int(world.read(f"{TRACKED}{name}")) for name in ("count", "max"))
    except (StepFailed, ValueError):
        return topic.ok("conntrack is installed")
    if count > FULL * most:
        what = f"{count} of at most {most} connections are tracked: new ones will be dropped"
        return topic.fail(what, f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}")
    return topic.ok(f"{count} of at most {most} connections are tracked")


def managers(root: Path, tick: int) -> Finding:
    """Look for another program that flushes or rejects what is ours, at its next start or reload."""
    topic = Topic("kernel.managers")
    found = [f"{name}: {harm}" for name, (is_on, harm) in OTHERS.items() if is_on(root)]
    mended = f"our service mends it within {tick} s" if tick else "nothing mends it, for 'tick' is 0"
    if found:
        return topic.warn(f"{'; '.join(found)} ({mended})", f"systemctl disable --now {found[0].partition(':')[0]}")
    return topic.ok("no other firewall manager is enabled")


def _text(root: Path, place: str) -> str:
    try:
        return (root / place).read_text(errors="replace")
    except OSError:
        return ""


def _enabled(root: Path, unit: str) -> bool:
    return any((wants / unit).is_symlink() for wants in (root / "etc/systemd/system").glob("*.wants"))


def _firewalld(root: Path) -> bool:
    return _enabled(root, "firewalld.service")


def _nftables(root: Path) -> bool:
    return _enabled(root, "nftables.service") and "flush ruleset" in _text(root, "etc/nftables.conf")


def _persistent(root: Path) -> bool:
    saved = _text(root, "etc/iptables/rules.v4") + _text(root, "etc/iptables/rules.v6")
    return _enabled(root, "netfilter-persistent.service") and "*nat" in saved


def _ufw(root: Path) -> bool:
    drops = re.search(r'^DEFAULT_FORWARD_POLICY="?(DROP|REJECT)', _text(root, "etc/default/ufw"), re.MULTILINE)
    return bool(drops) and re.search(r"^ENABLED=yes", _text(root, "etc/ufw/ufw.conf"), re.MULTILINE) is not None


OTHERS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "firewalld": (_firewalld, "its zones reject what is forwarded, its reload may flush our chains"),
    "nftables": (_nftables, "/etc/nftables.conf flushes every table when it is loaded"),
    "netfilter-persistent": (_persistent, "it loads a nat table of its own over ours"),
    "ufw": (_ufw, "it drops what is forwarded (DEFAULT_FORWARD_POLICY)"),
}
