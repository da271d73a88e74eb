"""The SYN that makes a client notice at once: its bytes, checked against a checksum computed another way."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.netfilter import reset
from repmgr_hooks.netfilter.reset import Flow, checksum, syn

PORTS = st.integers(1, 65535)


def ones_complement_sum(data: bytes) -> int:
    """Add 16-bit words with end-around carry, word by word, as RFC 1071 says; no folding at the end."""
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] * 256 + data[index + 1]
        if total > 0xFFFF:
            total -= 0xFFFF
    return total


def as_received(flow: Flow, segment: bytes) -> bytes:
    """The pseudo header (RFC 9293 for IPv4, RFC 8200 for IPv6) and the segment."""
    source, target = ipaddress.ip_address(flow.gateway).packed, ipaddress.ip_address(flow.client).packed
    if len(source) == 4:
        return source + target + b"\0\6" + len(segment).to_bytes(2, "big") + segment
    return source + target + len(segment).to_bytes(4, "big") + b"\0\0\0\6" + segment


@pytest.mark.parametrize(
    "flow",
    [
        Flow("10.0.0.30", 40001, "10.0.0.20", 54322),
        Flow("255.255.255.255", 65535, "255.255.255.255", 65535),
        Flow("0.0.0.1", 1, "0.0.0.1", 1),
        Flow("2001:db8::30", 40001, "2001:db8::20", 54322),
        Flow("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 65535, "::1", 1),
    ],
)
def test_the_header_is_a_bare_syn_from_the_gateways_port(flow):
    header = syn(flow)
    assert len(header) == 20
    assert int.from_bytes(header[0:2], "big") == flow.gateway_port
    assert int.from_bytes(header[2:4], "big") == flow.client_port
    assert header[12] >> 4 == 5, "five 32-bit words, no options"
    assert header[13] == 0b00000010, "SYN and no other flag"
    assert header[18:20] == b"\0\0", "no urgent data"
    assert ones_complement_sum(as_received(flow, header)) == 0xFFFF


@given(st.ip_addresses(v=4), PORTS, st.ip_addresses(v=4), PORTS)
def test_the_checksum_holds_for_ipv4(client, client_port, gateway, port):
    flow = Flow(str(client), client_port, str(gateway), port)
    assert ones_complement_sum(as_received(flow, syn(flow))) == 0xFFFF


@given(st.ip_addresses(v=6), PORTS, st.ip_addresses(v=6), PORTS)
def test_the_checksum_holds_for_ipv6(client, client_port, gateway, port):
    flow = Flow(str(client), client_port, str(gateway), port)
    assert ones_complement_sum(as_received(flow, syn(flow))) == 0xFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("0001f203f4f5f6f7", 0x220D),  # the example of RFC 1071
        ("4500003c1c4640004006" + "0000" + "ac100a63ac100a0c", 0xB1E6),  # an IPv4 header with a known checksum
        ("", 0xFFFF),
        ("ffff", 0x0000),
        ("ffff" * 70_000, 0x0000),
    ],
)
def test_known_checksums(data, expected):
    assert checksum(bytes.fromhex(data)) == expected


class Network:
    """Packets that were sent, in order; some addresses cannot be reached."""

    def __init__(self, unreachable: str = "") -> None:
        self.unreachable, self.reached = unreachable, []

    def __call__(self, *family):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def bind(self, address):
        pass

    def sendto(self, packet, address):
        if address[0] == self.unreachable:
            raise OSError("Network is unreachable")
        self.reached.append(address[0])


def test_one_client_that_cannot_be_reached_keeps_no_other_uninformed(monkeypatch):
    network = Network("10.0.0.31")
    monkeypatch.setattr(reset.socket, "socket", network)
    flows = [Flow(f"10.0.0.{number}", 40000, "10.0.0.20", 54322) for number in (30, 31, 32)]
    with pytest.raises(OSError, match="unreachable"):
        reset.send_resets(flows)
    assert network.reached == ["10.0.0.30", "10.0.0.32"]


def test_one_host_with_many_connections_keeps_no_other_waiting(monkeypatch):
    network = Network()
    monkeypatch.setattr(reset.socket, "socket", network)
    monkeypatch.setattr(reset.clock, "sleep", lambda seconds: network.reached.append("pause"))
    pooler = [Flow("10.0.0.30", number, "10.0.0.20", 54322) for number in range(1000, 3000)]
    assert reset.send_resets([*pooler, Flow("10.0.0.31", 40000, "10.0.0.20", 54322)]) == 2001
    assert network.reached.index("10.0.0.31") < network.reached.index("pause")
    assert network.reached.count("pause") == 19, "100 at a time"


def test_who_may_send_nothing_does_not_try_thousands_of_times(monkeypatch):
    class Forbidden(Network):
        def sendto(self, packet, address):
            self.reached.append(address[0])
            raise PermissionError("Operation not permitted")

    network = Forbidden()
    monkeypatch.setattr(reset.socket, "socket", network)
    with pytest.raises(PermissionError):
        reset.send_resets(Flow("10.0.0.30", number, "10.0.0.20", 54322) for number in range(1000, 3000))
    assert len(network.reached) == 1


@pytest.mark.parametrize(("clients", "paused"), [(1, True), (5000, False)])
def test_only_many_connections_of_one_host_are_told_slowly_and_not_for_ever(monkeypatch, clients, paused):
    pauses: list[float] = []
    monkeypatch.setattr(reset.socket, "socket", Network())
    monkeypatch.setattr(reset.clock, "sleep", pauses.append)
    reset.send_resets(
        [Flow(f"10.1.{n % clients // 250}.{n % clients % 250}", n, "10.0.0.20", 54322) for n in range(30_000)]
    )
    assert bool(pauses) is paused
    assert sum(pauses) <= 30
