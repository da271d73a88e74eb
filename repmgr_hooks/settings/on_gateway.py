"""What is different on one of several gateways: all have the same file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from repmgr_hooks.settings.schema import NotEmpty, SlotName, Word


@dataclass(frozen=True)
class OnGateway:
    """A Barman of its own there, with a slot of its own; and how ``barman`` is run from there."""

    slot_name: SlotName = ""
    command: Annotated[tuple[Word, ...], NotEmpty()] = ()
