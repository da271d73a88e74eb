"""No client hangs and none slips to the old node: a gateway, listeners instead of PostgreSQL, and many connections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import lab as module
from tests.endtoend.conftest import fresh_lab
from tests.lab import BASE, Host, Lab, wait_for

PROGRAMS = Path(module.__file__).parent
APP, PYTHON, CONFIG = "54322", "/opt/repmgr-hooks/bin/python", "/etc/repmgr-hooks/config.yaml"


@dataclass(frozen=True)
class Call:
    """A call of one of many callers: when it began and was answered or ended, and how."""

    begun: float
    told: float
    number: int
    outcome: str


@dataclass(frozen=True)
class Swap:
    """A swap of the app port: when it began, when its transaction was done and all else; see ``swapper.py``."""

    begun: float
    swapped: float
    ended: float
    node: str
    said: str
    end: str
    missing: int


@pytest.fixture(scope="module", params=[False, True], ids=["ipv4", "ipv6"])
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A gateway and its surroundings without PostgreSQL; on each node a listener that says its name."""
    lab = fresh_lab(six=request.param)
    try:
        lab.make_network()
        lab.make_directories()
        for host in lab.databases:
            program = (PROGRAMS / "listener.py").read_text()
            host.start(PYTHON, "-c", program, host.address, "5432", host.name, log="listener")
        for host in lab.databases:
            wait_for(lambda h=host: "listening" in h.log("listener"), f"the listener of {host.name}")
        yield lab
    finally:
        lab.destroy()


def swap(lab: Lab, port: str, *nodes: int) -> list[Swap]:
    """Lead the port to one node after the other."""
    words = (PYTHON, "-c", (PROGRAMS / "swapper.py").read_text(), CONFIG, port, *map(str, nodes))
    lines = [line.split() for line in lab.gateway.run(*words, user="service", limit=120).splitlines()]
    return [Swap(*map(float, line[:3]), f"db{line[3]}", line[4], line[5], int(line[6])) for line in lines]


class Callers:
    """Clients of the app port; see ``callers.py``."""

    def __init__(self, lab: Lab, host: Host, count: int, manner: str) -> None:
        self.host, self.count = host, count
        (BASE / f"{host.name}-{manner}.log").write_bytes(b"")
        self.log = manner
        words = (PYTHON, "-c", (PROGRAMS / "callers.py").read_text(), lab.gateway.address, APP, str(count), manner)
        self.process = host.start(*words, log=manner)

    def calls(self) -> list[Call]:
        whole, _, _ = self.host.log(self.log).rpartition("\n")
        lines = [line.split() for line in whole.splitlines()]
        return [Call(float(begun), float(told), int(number), outcome) for begun, told, number, outcome in lines]

    def last(self) -> list[str]:
        """How the last call of each caller has gone so far."""
        return list({call.number: call.outcome for call in self.calls()}.values())

    def wait_until(self, outcome: str) -> None:
        """Wait until that is what the last call of every caller came to."""
        wait_for(lambda: self.last() == [outcome] * self.count, f"{self.count} callers: {outcome}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


def test_nobody_slips_to_the_old_node(lab: Lab) -> None:
    """Swaps to and fro under clients that connect over and over, and one that connects right before each swap."""
    swap(lab, "app", 1)
    hurried = Callers(lab, lab.app, 4, "hurry")
    held = [Callers(lab, host, 10, "hold") for host in (lab.app, lab.gateway)]
    for callers in held:
        callers.wait_until("db1")

    swaps = swap(lab, "app", *[2, 1] * 5, 2)

    for callers in held:
        callers.wait_until("db2")
        callers.stop()
    hurried.stop()
    assert [each.missing for each in swaps] == [0] * 11, "nothing was left to a second attempt"
    assert [(each.said, each.end) for each in swaps] == [("db1", "reset"), ("db2", "reset")] * 5 + [("db1", "reset")]
    for this, following in zip(swaps, [*swaps[1:], None], strict=True):
        until = following.begun if following else this.ended + 0.3
        reached = {call.outcome for call in hurried.calls() if this.swapped < call.begun and call.told < until}
        # Refused: who calls from a port at which somebody was told less than 10 s ago (see poke.py).
        assert reached - {"refused"} == {this.node}
    assert "silent" not in {call.outcome for callers in (hurried, *held) for call in callers.calls()}


def test_who_comes_between_the_look_and_the_swap_is_cut_and_told(lab: Lab) -> None:
    """Nobody else is connected, so that the look has seen nothing to cut."""
    swap(lab, "app", 1)
    first, second = swap(lab, "app", 2, 1)
    assert (first.said, first.end, first.missing) == ("db1", "reset", 0)
    assert (second.said, second.end, second.missing) == ("db2", "reset", 0)


def test_closed_port_refuses_at_once(lab: Lab) -> None:
    """After a failover the app port is closed until the backup is safe; nobody is left waiting for an answer."""
    swap(lab, "barman", 1)
    swap(lab, "app", 1)
    swap(lab, "barman", 2)
    for host in (lab.app, lab.gateway):
        callers = Callers(lab, host, 3, "hold")
        callers.wait_until("refused")
        callers.stop()


@pytest.mark.parametrize("count", [2000])
def test_thousands_are_cut_when_the_primary_is_unplugged(lab: Lab, count: int) -> None:
    """Connections in which nothing is said, so that TCP would never notice, and one that is being made meanwhile."""
    swap(lab, "app", 1)
    callers = Callers(lab, lab.app, count, "hold")
    callers.wait_until("db1")
    lab.unplug(lab.db1)
    late = Callers(lab, lab.gateway, 1, "hold")
    wait_for(lambda: "SYN_SENT" in lab.gateway.run("conntrack", "-L", "-f", "ipv6" if lab.six else "ipv4"), "a call")

    (swapped,) = swap(lab, "app", 2)

    callers.wait_until("db2")
    late.wait_until("db2")
    resets = sorted(call.told - swapped.swapped for call in callers.calls() if call.outcome == "reset")
    assert len(resets) == count
    print(f"connections: {count} cut {resets[0]:.2f} to {resets[-1]:.2f} s after the swap")
    assert late.calls()[0].outcome == "reset", "it does not wait for its next try"
    for each in (callers, late):
        each.stop()
    lab.plug_in(lab.db1)


def test_gateway_that_lets_in_only_what_it_knows(lab: Lab) -> None:
    """Its own firewall drops what is for no service; one rule of the README's makes it refuse at our ports."""
    iptables = "ip6tables" if lab.six else "iptables"
    icmp = "ipv6-icmp" if lab.six else "icmp"
    rules = [
        f"-A INPUT -p tcp -m multiport --dports 54321,{APP} -j REJECT --reject-with tcp-reset",
        "-A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
        "-A INPUT -m conntrack --ctstate INVALID -j DROP",
        f"-A INPUT -p {icmp} -j ACCEPT",
        "-A INPUT -j DROP",
    ]
    swap(lab, "barman", 1)
    swap(lab, "app", 1)
    callers = Callers(lab, lab.app, 10, "hold")
    callers.wait_until("db1")
    for rule in rules:
        lab.gateway.run(iptables, *rule.split())
    try:
        lab.unplug(lab.db1)
        swap(lab, "barman", 2)
        callers.wait_until("refused")
        swap(lab, "app", 2)
        callers.wait_until("db2")
        assert "silent" not in {call.outcome for call in callers.calls()}
    finally:
        callers.stop()
        lab.gateway.run(iptables, "-F", "INPUT")
        lab.plug_in(lab.db1)
