"""A node's name that leads elsewhere is said; no rule follows it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from psycopg.conninfo import conninfo_to_dict

from repmgr_hooks.cluster.host_names import EVERY, NameWatch, moved
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster, Gateway, HostName, Node
from repmgr_hooks.settings.document import Document
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

NODES = {1: Node("10.0.0.11", name="db1.example.com"), 2: Node("10.0.0.12")}
CLUSTER = Cluster(NODES, Gateway("10.0.0.20", {"app": 54322}), name="main")


def answering(host: FakeHost, *addresses: str) -> Callable[[Program], str]:
    def getent(program: Program) -> str:
        assert program.argv == ("getent", "ahosts", "db1.example.com")
        if not addresses:
            raise OperationFailed("getent: 2")
        return "".join(f"{address}  STREAM db1\n{address}  DGRAM\n" for address in addresses)

    return getent


@pytest.mark.parametrize(
    ("addresses", "there"),
    [
        (("10.0.0.11",), None),
        (("10.0.0.99", "10.0.0.11"), None),
        (("10.0.0.99",), "10.0.0.99"),
        (("fd00::9", "10.0.0.99"), "10.0.0.99, fd00::9"),
        (("\x1b[2J",), "\\x1b[2J"),
        ((), None),
    ],
)
def test_where_a_name_leads(addresses: tuple[str, ...], there: str | None) -> None:
    """One that cannot be looked up says nothing: DNS may be away, and nothing of ours needs it."""
    host = FakeHost()
    host.programs["getent"] = answering(host, *addresses)
    said = [str(problem) for problem in moved(CLUSTER, host)]
    text = f"node 1: the name db1.example.com leads to {there} now; clients are still led to 10.0.0.11"
    assert said == ([] if there is None else [text])


def test_nobody_waits_for_dns() -> None:
    host, hangs = FakeHost(), threading.Event()

    def getent(program: Program) -> str:
        hangs.wait(60)
        return "10.0.0.99 STREAM db1\n"

    host.programs["getent"] = getent
    watch = NameWatch()
    for _ in range(3):
        assert watch.look(CLUSTER, host) == ()
        host.sleep(EVERY)
    (asking,) = (thread for thread in threading.enumerate() if thread.name == "names")
    hangs.set()
    asking.join(60)
    assert [problem.code for problem in watch.look(CLUSTER, host)] == ["name_moved"]


def test_while_dns_is_away_the_last_answer_counts() -> None:
    """Else an alert would be taken back, and sent again."""
    host, watch = FakeHost(), NameWatch()

    def asked(*addresses: str) -> list[str]:
        host.programs["getent"] = answering(host, *addresses)
        host.sleep(EVERY)
        watch.look(CLUSTER, host)
        for thread in threading.enumerate():
            if thread.name == "names":
                thread.join(60)
        return [problem.code for problem in watch.look(CLUSTER, host)]

    assert [asked("10.0.0.99"), asked(), asked("10.0.0.11"), asked()] == [["name_moved"], ["name_moved"], [], []]


def test_without_names_nothing_is_asked() -> None:
    host = FakeHost()
    assert NameWatch().look(replace(CLUSTER, nodes={2: NODES[2]}), host) == ()
    assert (host.ran, [thread.name for thread in threading.enumerate()].count("names")) == ([], 0)


def test_libpq_checks_the_name_and_goes_to_the_address() -> None:
    first, second = (conninfo_to_dict(text) for text in CLUSTER.conninfos().values())
    assert (first["host"], first["hostaddr"]) == ("db1.example.com", "10.0.0.11")
    assert (second["host"], second["hostaddr"]) == ("10.0.0.12", "10.0.0.12")


@pytest.mark.parametrize("name", ["db1", "db1.example.com", "a", "1a.b-c.x1", "no", "a" * 63, "DB1"])
def test_names(name: str) -> None:
    document = Document("")
    assert document.read(HostName, name, "name") == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a..b", "a_b", "10.0.0.11", "a.1", "7", "a b", "é", "a" * 64, "a;b"])
def test_what_is_no_name(name: str) -> None:
    document = Document("")
    assert document.read(HostName, name, "name") is None
    assert len(document.problems) == 1
