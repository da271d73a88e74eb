"""The kernel's count of rule changes: its answer, byte by byte, and answers that are none."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repmgr_hooks.netfilter.ruleset import parse, rules_generation

# Captured on Linux 6.1: generation 2, the process 126096, its name.
HEADER = "30000000 0f0a 0000 01000000 90ec0100 00 00 0002"
GENERATION, PROCESS, NAME = "0800 0100 00000002", "0800 0200 0001ec90", "0b00 0300 707974686f6e0000"
ANSWER = bytes.fromhex(HEADER + GENERATION + PROCESS + NAME)


def number(answer: bytes) -> int | None:
    """What ``rules_generation`` makes of an answer."""
    try:
        return parse(answer)
    except struct.error:
        return None


def test_the_kernels_answer() -> None:
    assert len(ANSWER) == 48
    assert parse(ANSWER) == 2
    assert parse(ANSWER.replace(bytes.fromhex("0000000208"), bytes.fromhex("fffffffe08"))) == 0xFFFFFFFE


@pytest.mark.parametrize("attributes", [PROCESS + NAME + GENERATION, NAME + GENERATION], ids=["last", "after a name"])
def test_the_place_of_the_attribute_does_not_matter(attributes: str) -> None:
    """A name of 7 bytes fills 12: each attribute begins at a multiple of 4."""
    assert parse(bytes.fromhex(HEADER + attributes)) == 2


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(ANSWER[:10], id="half a header"),
        pytest.param(ANSWER[:20], id="no attribute"),
        pytest.param(ANSWER[:22], id="half an attribute's header"),
        pytest.param(ANSWER[:26], id="half the number"),
        pytest.param(bytes.fromhex(HEADER + PROCESS + NAME), id="other attributes only"),
        pytest.param(bytes.fromhex(HEADER) + bytes(400), id="attributes of no length"),
        pytest.param(bytes.fromhex(HEADER) + b"\xff" * 40, id="an attribute longer than the answer"),
        pytest.param(ANSWER.replace(b"\x0f\x0a", b"\x02\x00", 1), id="an error"),
        pytest.param(ANSWER.replace(b"\x0f\x0a", b"\x10\x0a", 1), id="another message"),
    ],
)
def test_what_holds_no_number_is_none(answer: bytes) -> None:
    assert number(answer) is None


@given(st.binary(max_size=60))
def test_rubbish_never_ends_in_an_endless_loop(rubbish: bytes) -> None:
    found = number(bytes.fromhex(HEADER) + rubbish)
    assert found is None or 0 <= found < 2**32


def test_the_kernel_itself_is_asked_and_two_answers_agree() -> None:
    """A machine without nf_tables says nothing; neither does one that forbids netlink."""
    first = rules_generation()
    assert first is None or first >= 0
    assert (first is None) == (rules_generation() is None)
