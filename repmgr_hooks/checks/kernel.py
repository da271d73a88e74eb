"""The gateway's kernel: it forwards, has our chains, tracks connections, and nobody else will flush the nat table."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.packages import install
from repmgr_hooks.checks.users import READ, User, hindrance
from repmgr_hooks.errors import NoSuchProgram, OperationFailed
from repmgr_hooks.handlers.firewall import forwarding
from repmgr_hooks.netfilter.backends import BACKENDS, all_shares, chosen
from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.rules import our_rules
from repmgr_hooks.system.steps import Host, Program

LIMIT = 10.0
FULL = 0.9
LOCK = Path("/run/xtables.lock")
TRACKED = "/proc/sys/net/netfilter/nf_conntrack_"


def look(family: Family, backends: Iterable[str], host: Host) -> Iterator[Finding]:
    """Look at what the firewall handler needs of IPv4, or of IPv6, and of these back ends."""
    name = "IPv6" if family.six else "IPv4"
    for backend in (BACKENDS[each] for each in sorted(backends)):
        topic = Topic("kernel.programs", name)
        missing = [program for program in backend.programs(family) if shutil.which(program) is None]
        yield (
            topic.fail(f"{missing[0]} is not installed", install(*backend.PACKAGES))
            if missing
            else topic.ok(f"{backend.PACKAGES[0]} is installed")
        )
    topic = Topic("kernel.forwarding", name)
    hint = f"sysctl -w {family.forwarding}=1; install -m 0644 config/sysctl.conf /etc/sysctl.d/90-repmgr-hooks.conf"
    try:
        on = forwarding(family, host)
        yield topic.ok("the kernel forwards") if on else topic.fail("the kernel does not forward packets", hint)
    except OperationFailed as error:
        yield topic.fail(str(error), hint)
    yield _tracking(Topic("kernel.conntrack", name), host)


def devices(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Look whether the kernel forwards what comes from clients and from nodes: each device has a switch of its own."""
    family = Family(cluster.gateway.address)
    sides = [cluster.gateway.address, *(node.host for node in cluster.nodes.values())]
    for device in sorted({host.route(address).device for address in sides} - {"", "lo"}):
        switch = f"net/{'ipv6' if family.six else 'ipv4'}/conf/{device}/forwarding"
        with contextlib.suppress(OperationFailed):
            if forwarding(family, host) and host.read(f"/proc/sys/{switch}").strip() == "0":
                what = f"the kernel does not forward what comes in through {device}"
                yield Topic("kernel.forwarding", f"{cluster.name} {device}").fail(what, f"sysctl -w {switch}=1")


def chains(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Look whether our chains are there, and something leads into them; without their program nothing is said here."""
    topic = Topic("kernel.chains", cluster.name)
    try:
        ours = our_rules(cluster, host)
    except NoSuchProgram:
        return
    except OperationFailed as error:
        yield unseen(topic, error)
        return
    dnat, snat = cluster.gateway.chains.dnat, cluster.gateway.chains.snat
    hint = f"repmgr-hooks reconcile --cluster {cluster.name}"
    if ours.missing:
        yield topic.fail(f"not set up, or flushed by another: {ours.missing[0]} is missing", hint)
    elif not ours.rules:
        yield topic.fail(f"not set up, or flushed by another: {dnat} and {snat} are empty", hint)
    else:
        yield topic.ok(f"{ours.backend} has {dnat} and {snat}")


def sharing(cluster: Cluster, host: Host) -> Iterator[Finding]:
    """Try whether the kernel can share connections, without changing a rule: what that needs may be a module that is
    not installed.
    """
    if not cluster.readers or sum(not node.witness for node in cluster.nodes.values()) < 3:
        return  # there is one standby, or none
    topic, backend = Topic("kernel.sharing", cluster.name), chosen(cluster)
    try:
        our_rules(cluster, host)
    except OperationFailed:
        return  # which kernel.programs and kernel.chains say: who may not read them may not try it
    try:
        host.run(Program(backend.trying(cluster), stdin=all_shares(cluster)), LIMIT)
    except OperationFailed as error:
        what = f"the kernel cannot share connections between standbys: {error}"
        yield topic.fail(what, f"modprobe {backend.SHARES}")
    else:
        yield topic.ok(f"the kernel can share connections ({backend.SHARES})")


def _tracking(topic: Topic, host: Host) -> Finding:
    if shutil.which("conntrack") is None:
        what = "conntrack is not installed: after a failover, open connections go on to the old primary"
        return topic.warn(what, install("conntrack", "conntrack-tools"))
    try:
        count, most = (int(host.read(f"{TRACKED}{name}")) for name in ("count", "max"))
    except (OperationFailed, ValueError):
        return topic.ok("conntrack is installed")
    if count > FULL * most:
        what = f"{count} of at most {most} connections are tracked: new ones will be dropped"
        return topic.fail(what, f"sysctl -w net.netfilter.nf_conntrack_max={most * 4}")
    return topic.ok(f"{count} of at most {most} connections are tracked")


def backend(user: User, host: Host, lock: Path = LOCK) -> Iterator[Finding]:
    """Look whether the service may take the lock of iptables-legacy, if that is what writes the rules."""
    try:
        legacy = "legacy" in host.run(Program(("iptables", "-V"), constant=True), LIMIT)
    except OperationFailed:
        return  # which kernel.programs says
    topic = Topic("kernel.backend")
    if legacy and (wrong := _locked(user, lock)):
        what = f"iptables-legacy, as which 'iptables' is installed, locks {lock}: {wrong}"
        yield topic.fail(what, "systemd-tmpfiles --create /etc/tmpfiles.d/repmgr-hooks.conf")
    else:
        yield topic.ok(f"iptables writes to {'iptables-legacy' if legacy else 'nf_tables'}, and the service may")


def _locked(user: User, lock: Path) -> str:
    try:
        return hindrance(user, lock, READ)
    except FileNotFoundError:
        return "it does not exist, and whoever runs iptables first creates it for root alone"


def managers(root: Path, monitor_interval: int) -> Finding:
    """Look for another program that flushes or rejects what is ours, at its next start or reload."""
    topic = Topic("kernel.managers")
    fixed = (
        f"our service repairs it within {monitor_interval} s"
        if monitor_interval
        else "nothing repairs it, because 'monitor_interval' is 0"
    )
    found = {name: harm for name, (is_on, harm) in OTHERS.items() if is_on(root)}
    if found:
        what = "; ".join(f"{name}: {harm}" for name, harm in found.items()).format(fixed=fixed)
        return topic.warn(what, f"systemctl disable --now {' '.join(found)}")
    return topic.ok("no other firewall manager is enabled")


def _text(root: Path, place: str) -> str:
    try:
        return (root / place).read_text(errors="replace")
    except OSError:
        return ""


def _enabled(root: Path, unit: str) -> bool:
    return any((wants / unit).is_symlink() for wants in (root / "etc/systemd/system").glob("*.wants"))


def _firewalld(root: Path) -> bool:
    """With nftables it touches its own table alone, and accepts what others route ("ct status dnat accept", firewalld's
    core/nftables.py), unless it is to accept nothing but its own forward-ports."""
    text = _text(root, "etc/firewalld/firewalld.conf")
    keeps_out = re.search("(?m)^FirewallBackend=nftables", text) and not re.search("(?m)^StrictForwardPorts=yes", text)
    return _enabled(root, "firewalld.service") and not keeps_out


def _nftables(root: Path) -> bool:
    """Red Hat's unit flushes on its own when it is reloaded or stopped (nftables.service, ExecReload)."""
    flushes = "flush ruleset" in _text(root, "etc/nftables.conf") or (root / "etc/sysconfig/nftables.conf").exists()
    return _enabled(root, "nftables.service") and flushes


def _persistent(root: Path) -> bool:
    saved = _text(root, "etc/iptables/rules.v4") + _text(root, "etc/iptables/rules.v6")
    return _enabled(root, "netfilter-persistent.service") and "*nat" in saved


def _iptables_services(root: Path) -> bool:
    return _enabled(root, "iptables.service") or _enabled(root, "ip6tables.service")


def _ufw(root: Path) -> bool:
    drops = re.search(r'^DEFAULT_FORWARD_POLICY="?(DROP|REJECT)', _text(root, "etc/default/ufw"), re.MULTILINE)
    return bool(drops) and re.search(r"^ENABLED=yes", _text(root, "etc/ufw/ufw.conf"), re.MULTILINE) is not None


OTHERS: dict[str, tuple[Callable[[Path], bool], str]] = {
    "firewalld": (
        _firewalld,
        "with FirewallBackend=iptables its reload flushes our chains ({fixed}); with StrictForwardPorts=yes it rejects "
        "what we route",
    ),
    "nftables": (_nftables, "it flushes every table when it is loaded or reloaded ({fixed})"),
    "netfilter-persistent": (_persistent, "it loads a nat table of its own over ours ({fixed})"),
    "iptables": (_iptables_services, "it flushes every chain when it is stopped or restarted ({fixed})"),
    "ufw": (_ufw, "it drops what is forwarded (DEFAULT_FORWARD_POLICY)"),
}
