"""What ``iptables-save`` prints, as chains that a packet can walk."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from repmgr_hooks.netfilter.packet import UNKNOWN, Chain, Match, Rule

# linux/netfilter_ipv4.h, enum nf_ip_hook_priorities; of nat that of its DNAT half, and below that of its SNAT half.
PRIORITY = {"raw": -300, "mangle": -150, "nat": -100, "filter": 0, "security": 50}
NAT_SRC = 100
BUILT_IN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
KEYS = {
    "-s": "source",
    "-d": "destination",
    "-p": "protocol",
    "-i": "indev",
    "-o": "outdev",
    "--dport": "dport",
    "--sport": "sport",
    "--dports": "dport",
    "--sports": "sport",
    "--ports": "port",
    "--ctstate": "state",
    "--state": "state",
    "--dst-type": "type",
    "--src-range": "source",
    "--dst-range": "destination",
    "--tcp-flags": "flags",
}
LISTS = ("--dports", "--sports", "--ports", "--ctstate", "--state")
SILENT = ("--comment",)
"""Options that ask for nothing."""
HARMLESS = (
    "LOG",
    "NFLOG",
    "MARK",
    "CONNMARK",
    "TCPMSS",
    "TRACE",
    "CLASSIFY",
    "SET",
    "DSCP",
    "TOS",
    "CHECKSUM",
    "AUDIT",
)
"""Targets after which the packet goes on."""


def parse(saved: str, program: str) -> list[Chain]:
    """Return the chains that the kernel calls; ``program``: the iptables that has them.

    >>> [chain.where for chain in parse("*nat\\n:PREROUTING ACCEPT [0:0]\\n:x - [0:0]\\nCOMMIT", "iptables")]
    ['iptables -t nat PREROUTING']
    """
    found: list[Chain] = []
    table, policies, chains = "", dict[str, str](), dict[str, list[Rule]]()
    for line in saved.splitlines():
        if line.startswith("*"):
            table, policies, chains = line[1:].strip(), {}, {}
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            policies[name] = policy
            chains.setdefault(name, [])
        elif line.startswith("-A "):
            rule = _rule(line)
            chains.setdefault(line.split()[1], []).append(rule)
        elif line == "COMMIT":
            found += _called(table, policies, chains, program)
    return found


def _called(table: str, policies: dict[str, str], chains: dict[str, list[Rule]], program: str) -> Iterator[Chain]:
    for name in BUILT_IN:
        if name in policies:
            where = f"{program} -t {table} {name}"
            priority = NAT_SRC if table == "nat" and name in ("INPUT", "POSTROUTING") else PRIORITY.get(table, 0)
            kind = "nat" if table == "nat" else "filter"
            yield Chain(where, name.lower(), kind, priority, policies[name], name, chains, f"{program} -t {table} -D ")


def _rule(line: str) -> Rule:
    """Return a rule; an option that is not known here is a match of which nothing is known.

    >>> _rule("-A x ! -s 10.0.0.0/24 -p tcp -m tcp --dport 5432 -m mark --mark 0x1 -j DROP").matches[-1]
    Match(key='--mark', values=(), negated=False)
    """
    try:
        words = shlex.split(line)[2:]
    except ValueError:
        return Rule(line, (), UNKNOWN)
    matches: list[Match] = []
    target, options, goto = "", list[str](), False
    index, negated = 0, False
    while index < len(words):
        word, index = words[index], index + 1
        if word == "!":
            negated = True
            continue
        values = []
        while index < len(words) and not words[index].startswith("-") and words[index] != "!":
            values.append(words[index])
            index += 1
        if target:
            options.append(word)
        elif word in ("-j", "-g"):
            target, goto = (values[0] if values else ""), word == "-g"
        elif word != "-m" and word not in SILENT:
            matches.append(_match(word, values, negated))
        negated = False
    if target == "CT":
        target = "NOTRACK" if "--notrack" in options else ""
    return Rule(line, tuple(matches), "" if target in HARMLESS else target, goto)


def _match(word: str, values: list[str], negated: bool) -> Match:
    if word not in KEYS or not values:
        return Match(word)
    if word == "--tcp-flags":
        return Match("flags", ("/".join(values),), negated)
    said = values[0].split(",") if word in LISTS else values[:1]
    return Match(KEYS[word], tuple(said), negated)
