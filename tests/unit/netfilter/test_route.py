"""The kernel's answer about a route, and the kernel itself."""

from __future__ import annotations

import struct

import pytest

from repmgr_hooks.netfilter.route import HEADER, NOWHERE, UNKNOWN, Route, parse, route_to


def answer(route_type: int, *attributes: bytes, kind: int = 24) -> bytes:
    body = b"".join(attributes)
    return HEADER.pack(HEADER.size + len(body), kind, 0, 1, 0, 2, 32, 0, 0, 254, 2, 0, route_type, 0) + body


def attribute(name: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), name) + value


def test_what_the_kernel_answers() -> None:
    source = attribute(7, bytes([10, 0, 0, 20]))
    assert parse(answer(1, attribute(4, b"\xff\xff\xff\x7f"), source)) == Route(False, "10.0.0.20")
    assert parse(answer(2, attribute(15, b"\xff\0\0\0"), source)) == Route(True, "10.0.0.20")
    assert parse(answer(1, attribute(7, bytes(15) + b"\1"))) == Route(False, "::1")
    assert parse(answer(1)) == Route()
    assert parse(answer(0, struct.pack("=i", -101), kind=2)) == NOWHERE, "network is unreachable"


@pytest.mark.parametrize("length", [0, 3, 15])
def test_an_answer_that_is_cut(length: int) -> None:
    with pytest.raises(struct.error):
        parse(answer(1)[:length])


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_this_host(address: str) -> None:
    found = route_to(address)
    assert found in (Route(True, address, "lo"), NOWHERE, UNKNOWN), "not the first: without IPv6, or while lo is down"
