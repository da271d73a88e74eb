"""What the file of a database host says: where its events go. That of a gateway has ``clusters`` instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repmgr_hooks.config_file import outline
from repmgr_hooks.errors import UsageError
from repmgr_hooks.hook import STATE_DIR
from repmgr_hooks.settings.document import Document
from repmgr_hooks.settings.schema import Directory, Identifier, NotEmpty, Range, Word


@dataclass(frozen=True)
class Gateway:
    """One gateway: the command that leads to ``receive-event`` there, and how many seconds it may take."""

    command: Annotated[tuple[Word, ...], NotEmpty()]
    timeout: Annotated[int, Range(1, 300)] = 20


@dataclass(frozen=True)
class Forward:
    """Where events go: to each of these gateways."""

    gateways: Mapping[Identifier, Gateway]


@dataclass(frozen=True)
class DatabaseHost:
    """The whole file."""

    forward: Forward
    state_dir: Directory = STATE_DIR

    @property
    def gateways(self) -> Mapping[str, Gateway]:
        """The gateways by their names."""
        return self.forward.gateways

    @property
    def spool(self) -> Path:
        """Where the hook stores events."""
        return Path(self.state_dir, "spool")

    def queue(self, gateway: str) -> Path:
        """Where the events are that a gateway has not taken yet."""
        return Path(self.state_dir, "forward", gateway)


def load(path: Path, here: bool = True) -> DatabaseHost:
    """Read the file; ``here``: as that of this host. Raises UsageError that lists every mistake."""
    document = outline.read(path, Document, here)
    if isinstance(document.data, dict) and "clusters" in document.data:
        raise UsageError(
            f"{path} has 'clusters': it is the file of a gateway, which handles its events itself",
            hint="on a database host write 'forward' in the place of all clusters: config/README.md",
        )
    with outline.size_limited(path):
        found = document.read(DatabaseHost, document.data, "")
        outline.check_state_dir(document, found.state_dir if found else STATE_DIR)
    outline.refuse(path, document)
    assert isinstance(found, DatabaseHost)
    return found
