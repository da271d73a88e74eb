"""No client hangs and none slips to the old node: a gateway, listeners instead of PostgreSQL, and many connections."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.lab import Lab, wait_for
from tests.lab.many import APP, Callers, build_gateway, swap


@pytest.fixture(
    scope="module",
    params=[(False, "iptables"), (True, "iptables"), (False, "nftables")],
    ids=["ipv4", "ipv6", "ipv4-nft"],
)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    """A gateway and its surroundings without PostgreSQL; on each node a listener that says its name."""
    six, backend = request.param
    with fresh_lab(six=six, backend=backend) as lab:
        build_gateway(lab)
        yield lab


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
    everywhere = set()
    for this, following in zip(swaps, [*swaps[1:], None], strict=True):
        until = following.begun if following else this.ended + 0.3
        reached = {call.outcome for call in hurried.calls() if this.swapped < call.begun and call.told < until}
        # Refused: who calls from a port at which somebody was told less than 10 s ago (see netfilter/reset.py).
        assert reached - {"refused"} <= {this.node}
        everywhere |= reached
    assert everywhere >= {"db1", "db2"}
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
def test_thousands_are_cut_when_the_primary_is_unplugged(lab: Lab, count: int, request: pytest.FixtureRequest) -> None:
    """Connections in which nothing is said, so that TCP would never notice, and one that is being made meanwhile."""
    request.addfinalizer(lambda: lab.plug_in(lab.db1))
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
    # It is told among the others; on a slow machine its own next try, a second later, comes first.
    assert late.calls()[0].outcome in ("reset", "db2")
    for each in (callers, late):
        each.stop()


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
