"""Our rules, whichever back end keeps them in the kernel; and what a back end is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from repmgr_hooks.netfilter.family import Family
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.settings.endpoint import Endpoint

Leading = tuple[int, Endpoint]
"""A port of the gateway, and where it leads."""


@dataclass(frozen=True)
class Rule:
    """A rule in our chains: its ``text`` for its back end; ``key`` and ``comment``, by which two are the same rule.

    ``port`` and ``to``: what it leads where; ``port`` is None if it names none, ``to`` if it leads nowhere.
    """

    text: str
    key: str
    comment: str = ""
    port: int | None = None
    to: Endpoint | None = None

    @property
    def form(self) -> tuple[str, str]:
        """What two rules that are the same have in common."""
        return self.key, self.comment


@dataclass(frozen=True)
class OurRules:
    """What a back end has of ours in the kernel.

    ``there``: anything at all; ``missing``: what is to lead packets into our chains and does not, in words;
    ``repairs``: what is wrong beside the rules in our chains, in the back end's own words; ``shared``: the chains to
    which rules of others lead too, and which therefore cannot be removed.
    """

    backend: str
    rules: tuple[Rule, ...] = ()
    there: bool = False
    missing: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()
    shared: tuple[str, ...] = ()

    @property
    def leading(self) -> set[Leading]:
        """The gateway's ports that are led on, and where."""
        return led_by(self.rules)


class Backend(Protocol):
    """What writes our rules into the kernel; a module of pure functions."""

    PACKAGES: tuple[str, ...]
    """What has its programs: the name that Debian has for it, and Red Hat's if that is another."""
    OWN_TABLE: bool
    """Whether nobody else has rules in its table."""
    SHARES: str
    """The kernel's module that leads one of several connections by a rule."""
    ABSENT: str
    """A regular expression: what ``reading`` says on stderr if there is nothing of ours."""
    VERSION: tuple[str, ...]
    """The words whose output has ``nf_tables`` in it if its rules are kept there; empty: they always are."""

    def programs(self, family: Family) -> tuple[str, ...]:
        """Return the programs that it needs."""

    def table(self, cluster: Cluster) -> tuple[str, str]:
        """Return family and name of the table that has our rules."""

    def reading(self, cluster: Cluster) -> tuple[str, ...]:
        """Return the words that print our rules."""

    def writing(self, cluster: Cluster) -> tuple[str, ...]:
        """Return the words that take a change on stdin, as one transaction."""

    def trying(self, cluster: Cluster) -> tuple[str, ...]:
        """Return the words that take one on stdin, ask the kernel whether it can be made, and make none."""

    def parse(self, printed: str, cluster: Cluster) -> OurRules:
        """Read what ``reading`` has printed. May raise ValueError, LookupError, TypeError or AttributeError."""

    def dnat_rule(self, cluster: Cluster, port: str, to: Endpoint, one_of: int = 1) -> Rule:
        """Return the rule that leads a named port to a node; or, of so many new connections, every one in turn."""

    def hold_rule(self, cluster: Cluster, port: str) -> Rule:
        """Return the rule by which new connections to a named port wait: their SYN is dropped, so it is sent again.

        It stands before the rule that leads the port; a connection that is made already goes on.
        """

    def snat_rules(self, cluster: Cluster, to: Endpoint, here: bool = True) -> list[Rule]:
        """Return the rules that make a node answer through the gateway, and only to what a DNAT rule has led.

        What goes to a node from this host itself, as repmgrd's looks and ours do, keeps its way. With an address that
        is not ``here``, every answer would go elsewhere; then the kernel chooses one that is (masquerade).

        Of several gateways each has the same rules, whichever has the virtual address: what comes from a client gets
        that address, so a connection goes on when the address moves, and what this host itself has sent through its
        own port (Barman, our probe) gets one that stays here.
        """

    def swap(self, cluster: Cluster, rules: Iterable[Rule], repairs: Iterable[str] = ()) -> str:
        """Return the change after which our chains have these rules and no others."""

    def removal(self, cluster: Cluster, ours: OurRules) -> str:
        """Return the change after which nothing of ours is there, and nothing leads to what must stay."""

    def after(self, printed: str, change: str) -> str:
        """Return what ``reading`` would print after a change."""


def led_by(rules: Iterable[Rule]) -> set[Leading]:
    """Return the ports that rules lead on, and where."""
    return {(rule.port, rule.to) for rule in rules if rule.port is not None and rule.to}
