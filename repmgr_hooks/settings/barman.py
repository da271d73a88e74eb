"""Barman, as the configuration describes it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Annotated

from repmgr_hooks.settings.schema import Address, Identifier, NotEmpty, SlotName, Word

Words = Annotated[tuple[Word, ...], NotEmpty()]


@dataclass(frozen=True)
class OnGateway:
    """A Barman of its own on one of several gateways, with a slot of its own; and how ``barman`` is run from there."""

    slot_name: SlotName = ""
    command: Words = ()


@dataclass(frozen=True)
class Barman:
    """Barman's name for this cluster, its slot, and how to run ``barman`` (a prefix such as sudo or ssh).

    ``slot_name`` and ``streaming_archiver_name`` are Barman's own options. ``check_after_failover``: on each new
    timeline the service has the records around the switchpoint followed, once (``check-wal --deep``). ``gateways``:
    what is different on a gateway, by its own address.
    """

    server: Identifier
    slot_name: SlotName = "barman"
    command: Words = ("barman",)
    streaming_archiver_name: Identifier = "barman_receive_wal"
    check_after_failover: bool = True
    gateways: Mapping[Address, OnGateway] = field(default_factory=dict, hash=False)

    @property
    def on_each_gateway(self) -> bool:
        """Whether each gateway has a Barman of its own."""
        return any(each.slot_name for each in self.gateways.values())

    @property
    def slots(self) -> tuple[str, ...]:
        """Barman's slot; those of all gateways, if each has its own."""
        own = tuple(each.slot_name for each in self.gateways.values() if each.slot_name)
        return own or (self.slot_name,)

    def seen_from(self, gateway: str) -> Barman:
        """Return it as a gateway has it; with nobody's slot, if each has its own and this is none of them."""
        here = self.gateways.get(gateway, OnGateway())
        slot_name = here.slot_name if self.on_each_gateway else self.slot_name
        return replace(self, slot_name=slot_name, command=here.command or self.command)

    def beside(self, *argv: str) -> tuple[str, ...]:
        """Return the words that run another program where ``barman`` runs; what it says is read, so it is English.

        >>> Barman("main", command=("ssh", "barman@backup", "barman")).beside("ls")
        ('ssh', 'barman@backup', 'env', 'LC_ALL=C', 'ls')

        ssh makes one line of its words, which a shell there reads (ssh(1)).

        >>> Barman("main", command=("ssh", "backup", "barman")).beside("find", "(", "%s %p")[-2:]
        ("'('", "'%s %p'")
        """
        if not self.login:
            return (*self._way, *argv)
        # It need not pass our own locale on, and a login has one of its own.
        return (*self.login, "env", "LC_ALL=C", *map(shlex.quote, argv))

    @property
    def backup_command(self) -> str:
        """What somebody types to make a backup."""
        return f"{' '.join(self.command)} backup {self.server}"

    @property
    def login(self) -> tuple[str, ...]:
        """The words that lead to the host where ``barman`` runs, if that is another one.

        >>> Barman("main", command=("ssh", "barman@backup", "barman")).login, Barman("main").login
        (('ssh', 'barman@backup'), ())
        """
        return login(self._way)

    @property
    def _way(self) -> tuple[str, ...]:
        names = [PurePath(word).name for word in self.command]
        return self.command[: len(names) - 1 - names[::-1].index("barman") if "barman" in names else -1]


def login(way: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that lead somewhere, if that is by ssh; else none."""
    return way if "ssh" in (PurePath(word).name for word in way) else ()
