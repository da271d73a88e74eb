"""A fresh real cluster for every test. Runs inside the box of ``tests/lab/contain.py`` (``tests/run`` sees to it)."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.endtoend.looks import failover_handled, follows, wait_until_good
from tests.endtoend.switchovers import opened, pooled_service, serving
from tests.lab import BASE, Lab, wait_for
from tests.lab.contain import contained
from tests.lab.pgbouncer import Pooler, use
from tests.lab.three import rejoin

LAST_WORDS = 4000


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.lab)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the daemons of the lab wrote last."""
    report = yield
    if report.failed and contained():
        for log in (*BASE.glob("gateway*-*.log"), BASE / "gateway/var/log/barman/barman.log"):
            if log.exists():
                report.sections.append((log.name, log.read_text(errors="replace")[-LAST_WORDS:]))
    return report


def needs_box() -> None:
    if not contained():
        pytest.skip("the lab needs its box: use tests/run")


def fresh_lab(
    nodes: int = 2,
    six: bool = False,
    newest_barman: bool = False,
    segment_mb: int = 16,
    rpm: bool = False,
    backend: str = "iptables",
) -> Lab:
    needs_box()
    return Lab(nodes, six, newest_barman, segment_mb, rpm, backend)


with_each_backend = pytest.mark.parametrize("backend", ["iptables", "nftables"])
"""For tests of the gateway's rules, and of who may lead clients; others use iptables."""


@pytest.fixture
def backend() -> str:
    """What writes the gateway's rules."""
    return "iptables"


@pytest.fixture
def built_lab(backend: str) -> Iterator[Lab]:
    """Two nodes that replicate; ports closed, Barman idle, no repmgrd."""
    with fresh_lab(backend=backend) as lab:
        lab.build()
        yield lab


@pytest.fixture
def lab(backend: str) -> Iterator[Lab]:
    """A cluster in service: ports open, Barman streaming, repmgrd watching."""
    with fresh_lab(backend=backend) as lab:
        lab.open()
        yield lab


@pytest.fixture(scope="module")
def shared_lab() -> Iterator[Lab]:
    """A cluster with open ports that a test does not change; for many quick looks at it."""
    with fresh_lab() as lab:
        lab.build()
        result = lab.gateway.hooks("reconcile")
        assert result.returncode == 0, result.stdout + result.stderr
        yield lab


@pytest.fixture
def three() -> Iterator[Lab]:
    """Three nodes in service: ports open, Barman streaming, repmgrd watching."""
    with fresh_lab(3) as lab:
        lab.open()
        yield lab


@pytest.fixture
def three_without_repmgrd() -> Iterator[Lab]:
    """Three nodes in service, and no repmgrd: nobody tells the gateway anything."""
    with fresh_lab(3) as lab:
        lab.open(repmgrd=False)
        yield lab


@pytest.fixture
def pooled() -> Iterator[tuple[Lab, Pooler]]:
    """Three nodes in service, ready for a switchover, and a PgBouncer on the gateway."""
    with fresh_lab(3) as lab:
        opened(lab)
        pooler = Pooler(lab, lab.gateway)
        use(lab, pooler)
        serving(lab)
        yield lab, pooler


@pytest.fixture(scope="module")
def pooled_three() -> Iterator[tuple[Lab, Pooler]]:
    """Three nodes in service behind a PgBouncer; each test leaves node 1 or 2 as the primary of all others."""
    with fresh_lab(3) as lab:
        yield lab, pooled_service(lab)


@pytest.fixture
def pooler(pooled_three: tuple[Lab, Pooler]) -> Pooler:
    return pooled_three[1]


@pytest.fixture(scope="module")
def failed_over() -> Iterator[Lab]:
    """Three nodes in service after a failover to db2, db1 its standby again; each test leaves it as it was."""
    with fresh_lab(3) as lab:
        lab.open()
        lab.db1.pg_ctl("stop", "-m", "immediate")
        wait_for(lambda: failover_handled(lab), "the end of the events")
        rejoin(lab.db1, lab.db2)
        for host in (lab.db1, lab.db3):
            wait_for(lambda h=host: follows(h, lab.db2), f"{host.name} to follow db2")
        wait_until_good(lab, lab.db2, [lab.db1, lab.db3])
        yield lab
