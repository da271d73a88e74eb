"""What would keep a former primary from being rewound is found beforehand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from repmgr_hooks.checks import former_primary
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.settings.former_primary import Fence, FormerPrimary
from repmgr_hooks.system.shell import ENDED
from repmgr_hooks.system.steps import Program, Rows, Sql
from tests.fake import FakeHost
from tests.unit.cluster.test_decide import primary, silent, standby

CLUSTER = replace(
    Cluster({n: Node(f"10.0.0.1{n}", False, ("ssh",)) for n in (1, 2)}, Gateway("10.0.0.20", {"app": 54322})),
    name="main",
    former_primary=FormerPrimary(),
)
GOOD = ("/data", True, True, True)


class Answers(FakeHost):
    """Nodes that answer the same, and a shell on each that says the same."""

    def __init__(self, answer: tuple[object, ...] = GOOD, said: str = "", code: int = 0) -> None:
        super().__init__()
        self.answer, self.scripts = answer, list[str]()
        self.said = f"{said}\n{ENDED} {code} -1\n"

    def fetch_each(self, queries: Iterable[Sql], limit: float) -> dict[int, Rows | OperationFailed]:
        return {sql.node: [self.answer] for sql in queries}

    def run(self, program: Program, limit: float) -> str:
        self.scripts.append(program.stdin)
        return self.said


def found(host: Answers, cluster: Cluster = CLUSTER) -> list[Finding]:
    decision = decide([primary(1, 1), standby(2, 1)])
    return list(former_primary.look(cluster, decision, host))


def test_all_is_well() -> None:
    host = Answers()
    assert [(finding.level, finding.code) for finding in found(host)] == [
        ("OK", "former_primary.rewind"),
        ("OK", "former_primary.node"),
    ] * 2
    assert "/data.former" in host.scripts[0]
    assert "host=10.0.0.11" in host.scripts[0]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (("/data", False, True, True), "full_page_writes"),
        (("/data", True, False, True), "wal_log_hints"),
        (("/data", True, True, False), "grant execute on function pg_ls_dir(text,boolean,boolean) to repmgr"),
    ],
)
def test_what_pg_rewind_needs(answer: tuple[object, ...], said: str) -> None:
    wrong = [finding for finding in found(Answers(answer)) if finding.level == "FAIL"]
    assert [finding.code for finding in wrong] == ["former_primary.rewind"] * 2
    assert said in wrong[0].hint


@pytest.mark.parametrize(("said", "code"), [("no flock", 0), ("psql: error: no password supplied", 2)])
def test_what_the_node_needs(said: str, code: int) -> None:
    wrong = [finding for finding in found(Answers(said=said, code=code)) if finding.level == "FAIL"]
    assert [finding.code for finding in wrong] == ["former_primary.node"] * 2
    assert said in wrong[0].message


def test_an_answer_that_cannot_be_read_is_a_finding() -> None:
    assert {finding.level for finding in found(Answers(("/data",)))} == {"FAIL"}


def test_nothing_is_looked_at_that_is_not_needed() -> None:
    assert found(Answers(), replace(CLUSTER, former_primary=None)) == []
    codes = {item.code for item in found(Answers(), replace(CLUSTER, former_primary=FormerPrimary(rejoin=False)))}
    assert codes == {"former_primary.node"}
    assert list(former_primary.look(CLUSTER, decide([silent(1)]), Answers())) == []


def test_a_program_that_would_switch_off_another_clusters_node() -> None:
    settings = FormerPrimary(fence=Fence(program=("/usr/local/bin/power-off",)))
    off = replace(CLUSTER, former_primary=settings)
    beside = replace(CLUSTER, name="other", nodes={1: Node("10.0.0.12", port=5433), 2: Node("10.0.0.13")})
    (found,) = former_primary.shared_hosts({"main": off, "other": beside})
    assert (found.level, found.code, found.where) == ("WARN", "former_primary.fence", "main 10.0.0.12")
    assert "a node of cluster other" in found.message
    assert list(former_primary.shared_hosts({"main": CLUSTER, "other": beside})) == []
    assert list(former_primary.shared_hosts({"main": off})) == []
