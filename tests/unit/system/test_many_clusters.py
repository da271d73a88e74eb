"""What is the same for a hundred clusters, or for the ten ports of one, is not done again for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.cli import show
from repmgr_hooks.config import Config
from repmgr_hooks.engine.last_look import LastLook
from repmgr_hooks.journal.last_seen import LastSeen
from repmgr_hooks.netfilter.conntrack import parse_conntrack
from repmgr_hooks.reports import endpoint
from repmgr_hooks.system import client, link, rules
from repmgr_hooks.system.steps import Program
from repmgr_hooks.system.tracked import to_ports
from tests.fake import FakeHost
from tests.unit.handlers.test_firewall import LISTING


class Printing(FakeHost):
    """``iptables-save`` prints this: the same text, the same object."""

    printed = ""

    def run(self, program: Program, limit: float) -> str:
        return self.printed if program.argv[0] == "iptables-save" else super().run(program, limit)


def test_rules_that_have_not_changed_are_parsed_once_for_all_ports(loaded: Config) -> None:
    cluster, host = loaded.clusters["main"].cluster, Printing()
    host.printed = host.nat.save()
    first = rules.our_rules(cluster, host)
    assert rules.our_rules(cluster, host) is first
    other = replace(cluster, name="other")
    assert rules.our_rules(other, host) is not first
    host.printed = host.nat.save() + "# changed"
    assert rules.our_rules(cluster, host) is not first


@pytest.mark.parametrize("ports", [{54322}, {54321, 54322}, {5432, 40001}, {54321}])
def test_of_a_long_listing_only_the_clusters_own_lines_are_taken_apart(ports: set[int]) -> None:
    wanted = tuple(t for t in parse_conntrack(LISTING) if t.flow.gateway_port in ports and not t.over)
    assert to_ports(LISTING, frozenset(ports)) == wanted
    assert to_ports(LISTING.rstrip("\n"), frozenset(ports)) == wanted
    assert to_ports(LISTING, frozenset(ports)) is to_ports(LISTING, frozenset(ports))


def test_a_thousand_ports_are_known_again() -> None:
    """One after the other they come round: a smaller cache would never have the next one."""
    dsns = [f"host=10.0.0.20 port={port} connect_timeout=5" for port in range(54321, 55321)]
    for known in (link.connect_limit, client._named):
        known.cache_clear()
        for _ in range(2):
            for dsn in dsns:
                known(dsn)
        assert known.cache_info().misses == len(dsns)
        known.cache_clear()


def test_what_load_balancers_are_answered_is_read_once(
    loaded: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def read_all(directory: Path) -> Iterator[tuple[str, LastSeen | None, float]]:
        read.append(directory)
        return iter(())

    monkeypatch.setattr(endpoint, "read_all", read_all)
    clusters = [replace(loaded.clusters["main"].cluster, name=f"c{number}") for number in range(20)]
    assert set(endpoint.look(clusters, tmp_path, tmp_path)) == {cluster.name for cluster in clusters}
    assert read == [tmp_path]


@pytest.mark.parametrize(("more", "taken_over"), [(0, False), (1, True)])
def test_of_many_clusters_the_last_looks_are_asked_for(
    loaded: Config, monkeypatch: pytest.MonkeyPatch, more: int, taken_over: bool
) -> None:
    """Of few, and of the one that is named, everything is looked at."""
    managed, asked = loaded.clusters["main"], []

    def last(directory: Path, cluster: str) -> tuple[LastLook | None, float]:
        asked.append((directory, cluster))
        return None, 0.0

    monkeypatch.setattr(show, "last_look", last)
    monkeypatch.setattr(show, "world_of", lambda managed, answers: FakeHost())
    names = [f"c{number}" for number in range(show.MANY + more)]
    chosen = [replace(managed, cluster=replace(managed.cluster, name=name)) for name in names]
    assert [found.cluster.name for found in show.looks(chosen, None, loaded)] == names
    assert sorted(asked) == [(endpoint.RUNTIME, name) for name in sorted(names) if taken_over]
