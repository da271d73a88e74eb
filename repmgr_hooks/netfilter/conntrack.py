"""What ``conntrack`` prints: the connections that the kernel translates, and where each really leads."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from repmgr_hooks.netfilter.reset import Flow
from repmgr_hooks.settings.endpoint import Endpoint

FIELD = re.compile(r"\b(src|dst|sport|dport)=([0-9a-f.:]+)")
LINE = re.compile(r"[^\n]+")
ALIVE = re.compile(r" (ESTABLISHED|SYN_SENT|SYN_RECV) ")
OVER = re.compile(r" (TIME_WAIT|CLOSE) ")
"""Who connects from the same port again is a new connection, led by the rules of then (nf_conntrack_proto_tcp.c)."""


@dataclass(frozen=True)
class Tracked:
    """A connection to a port of the gateway, where it really leads, and whether its client holds on."""

    flow: Flow
    leads_to: Endpoint
    alive: bool
    over: bool = False


def lines_with(listing: str, ports: Collection[int]) -> Iterator[str]:
    """Return the lines of connections that have one of these ports, whichever way: of many, most are other clusters'.

    >>> list(lines_with("tcp sport=4 dport=54322 use=1\\ntcp sport=54322 dport=5432 use=1\\n", {54322, 54321}))
    ['tcp sport=4 dport=54322 use=1']
    """
    wanted = re.compile(rf" dport=(?:{'|'.join(map(str, sorted(ports)))})\b")
    end = 0
    while found := wanted.search(listing, end):
        begin = listing.rfind("\n", 0, found.start()) + 1
        end = listing.find("\n", found.end())
        end = len(listing) if end < 0 else end
        yield listing[begin:end]


def parse_conntrack(listing: str) -> Iterator[Tracked]:
    """Parse what ``conntrack -L`` and ``-D`` print: two tuples a line, the original and the reply.

    One by one, for there may be many.

    >>> next(parse_conntrack("tcp 6 9 ESTABLISHED src=10.0.0.30 dst=10.0.0.20 sport=4 dport=54322 "
    ...                 "src=10.0.0.11 dst=10.0.0.20 sport=5432 dport=4 [ASSURED] mark=0 use=1")).leads_to
    Endpoint(host='10.0.0.11', port=5432)
    """
    for match in LINE.finditer(listing):
        line = match[0]
        fields = FIELD.findall(line)
        values, reply = dict(reversed(fields)), dict(fields)
        ports = [values.get("sport", ""), values.get("dport", ""), reply.get("sport", "")]
        if [name for name, _ in fields].count("src") == 2 and "dst" in values and all(map(str.isdecimal, ports)):
            flow = Flow(values["src"], int(ports[0]), values["dst"], int(ports[1]))
            yield Tracked(
                flow, Endpoint(reply["src"], int(ports[2])), bool(ALIVE.search(line)), bool(OVER.search(line))
            )


def answers_to(address: str, listing: str) -> Iterator[tuple[str, int]]:
    """Return who answers each connection, and to which port of an address; of one that is not over.

    >>> list(answers_to("10.0.0.20", "tcp 6 9 ESTABLISHED src=10.0.0.30 dst=10.0.0.20 sport=4 dport=54322 "
    ...                 "src=10.0.0.11 dst=10.0.0.20 sport=5432 dport=4 [ASSURED] mark=0 use=1"))
    [('10.0.0.11', 4)]
    """
    for match in LINE.finditer(listing):
        fields = FIELD.findall(match[0])
        values = dict(fields[4:])  # the reply
        if (
            len(fields) == 8
            and values.get("dst") == address
            and values["dport"].isdecimal()
            and not OVER.search(match[0])
        ):
            yield values["src"], int(values["dport"])
