"""A look asks the same for each port: it is worked out once, and anew for anything else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from repmgr_hooks import config
from repmgr_hooks.netfilter import backends, iptables
from repmgr_hooks.netfilter.remembered import last_answer

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"].cluster


def test_only_the_last_answer_is_remembered() -> None:
    asked: list[tuple[int, str]] = []

    @last_answer
    def function(number: int, word: str) -> str:
        asked.append((number, word))
        return word * number

    assert [function(2, "a"), function(2, "a"), function(3, "a"), function(2, "a")] == ["aa", "aa", "aaa", "aa"]
    assert asked == [(2, "a"), (3, "a"), (2, "a")]


def test_other_rules_and_another_cluster_have_another_answer() -> None:
    nothing = iptables.parse("", MAIN)
    assert backends.leads_to(MAIN, nothing) == {"barman": None, "app": None}
    found = backends.leads_to(MAIN, nothing)
    found["app"] = 9
    assert backends.leads_to(MAIN, nothing)["app"] is None, "what is returned may be changed"
    first = backends.lead(MAIN, nothing, {"app"}, 1, True)
    assert backends.lead(MAIN, nothing, {"app"}, 2, True) != first
    assert backends.lead(MAIN, nothing, {"app", "barman"}, 1, True) != first
    other = replace(MAIN, gateway=replace(MAIN.gateway, ports={"app": 6000}))
    assert backends.leads_to(other, nothing) == {"app": None}
    assert "6000" in backends.lead(other, nothing, {"app"}, 1, True)
