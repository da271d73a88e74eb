"""What keeps clients from the node that is to be promoted, and what of all that is wrong here does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli.switchover import _kept_out, would_do
from repmgr_hooks.cluster.decide import decide
from repmgr_hooks.cluster.observe import observe
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.switchover.facts import Facts
from repmgr_hooks.system.steps import Program
from repmgr_hooks.system.visit import Visit
from tests.fake import FakeHost
from tests.unit.switchover.test_journalled import PLAN

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]
UNLED = replace(MAIN, routes=tuple(replace(route, do=route.do[-1:]) for route in MAIN.routes[-1:]))
DROPPED = ":FORWARD ACCEPT [0:0]\n-A FORWARD -d 10.0.0.1{}/32 -j DROP\n"


def found(host: FakeHost, managed: ManagedCluster = MAIN) -> list[tuple[str, str]]:
    seen = Facts(managed.cluster, decide(observe(managed.cluster, host)))
    assert seen.target
    assert seen.target.node == 2
    return [(finding.level, finding.code) for finding in _kept_out(managed, seen, host)]


def test_nothing_does() -> None:
    assert found(FakeHost()) == []


@pytest.mark.parametrize(("node", "wrong"), [(2, [("FAIL", "rules.foreign")]), (1, [])])
def test_a_rule_before_a_node(node: int, wrong: list[tuple[str, str]]) -> None:
    """A primary that no client reaches is what a switchover may be for."""
    host = FakeHost()
    host.filter = DROPPED.format(node)
    assert found(host) == wrong


def test_a_standby_that_lets_no_client_in() -> None:
    host = FakeHost()
    host.nodes[2].client = Visit(error='FATAL:  no pg_hba.conf entry for host "10.0.0.20"')
    assert found(host) == [("FAIL", "client.login")]


def test_clients_that_others_lead() -> None:
    assert not UNLED.opened_ports
    host = FakeHost()
    host.filter = ":FORWARD DROP [0:0]\n"
    assert found(host, UNLED) == []


def test_what_the_service_may_not_read_hides_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """iptables-legacy-save is root's alone, and root has become the service's user: it was told to be root."""

    class Refusing(FakeHost):
        def run(self, program: Program, limit: float) -> str:
            if program.argv[0] == "iptables-legacy-save":
                raise OperationFailed(f"{program}: exit code 1: Cannot initialize: Permission denied")
            return super().run(program, limit)

    monkeypatch.setattr("shutil.which", lambda name: name)
    host = Refusing()
    seen = Facts(MAIN.cluster, decide(observe(MAIN.cluster, host)))
    (said,) = _kept_out(MAIN, seen, host)
    assert (said.level, said.where) == ("WARN", "main iptables-legacy")
    assert (said.message, said.hint) == ("cannot be looked at: Permission denied", "sudo repmgr-hooks check")
    host.filter = DROPPED.format(2)
    assert [each.level for each in _kept_out(MAIN, seen, host)] == ["FAIL", "WARN"]


@pytest.mark.parametrize(
    ("ports", "pgbouncers", "held"),
    [
        (("app",), {}, "port app"),
        (("app", "web"), {"pool": ("app",)}, "port app and web, the clients of pool"),
        ((), {}, "NO CLIENT, for no port is led to the primary for clients alone"),
    ],
)
def test_who_is_held_is_said(ports: tuple[str, ...], pgbouncers: dict[str, tuple[str, ...]], held: str) -> None:
    *_, last = would_do(replace(PLAN, ports=ports, pgbouncers=pgbouncers))
    assert last.startswith(f"  held meanwhile: {held}; repmgrd paused on node ")
