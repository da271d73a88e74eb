"""Models: Barman's own way to follow the primary, for sites that do not use the gateway's port for it.

A model overrides settings of a server, such as where to connect; ``barman config-switch`` applies it, and restarts
receive-wal (Barman 3.10 and newer).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from repmgr_hooks.barman import archive
from repmgr_hooks.errors import OperationFailed, Problem, mistake
from repmgr_hooks.settings.barman import Barman
from repmgr_hooks.settings.cluster import Cluster
from repmgr_hooks.system.steps import Host, Program, Step

LIMIT = 30.0
SINCE = (3, 10)


def validate(models: Mapping[int, str], cluster: Cluster) -> Iterable[Problem]:
    """Check that each node that can be the primary has a model of its own."""
    electable = {number for number, node in cluster.nodes.items() if not node.witness}
    for node in sorted(electable - models.keys()):
        yield mistake(f"'models' has none for node {node}")
    for node in sorted(models.keys() - electable):
        yield mistake(f"'models' has one for {node}, which can be no primary", "take it out")
    if len(set(models.values())) < len(models):
        yield mistake(
            "'models' has the same model for two nodes, but a model leads to one", "name a model of its own for each"
        )


def active(barman: Barman, host: Host) -> str:
    """Return the model that is applied; empty if none is. Raises OperationFailed."""
    return host.run(archive.look_beside(barman, "cat", place(barman, host), tolerate="No such file"), LIMIT).strip()


def place(barman: Barman, host: Host, limit: float = LIMIT) -> str:
    """Return the file in which Barman notes its model (config.py:1042 of 3.19.1): to be asked, Barman would connect.

    Raises OperationFailed, also if this Barman is too old.
    """
    known = archive.places(barman, host, limit)
    if archive.at_least(known) < SINCE:
        raise OperationFailed(
            f"'models' needs Barman {SINCE[0]}.{SINCE[1]} or newer, and this one is older: "
            f"'barman show-server {barman.server}' shows no 'cluster'",
            code="barman_too_old",
            hint="update Barman, or lead it through a port of the gateway",
        )
    return str(PurePosixPath(known["backup_directory"], ".active-model.auto"))


def switch(barman: Barman, model: str) -> Step:
    """Apply a model. Quietly: else Barman would write the connection strings, and the passwords in them."""
    words = (*barman.command, "-q", "config-switch", barman.server, model)
    return Step(f"switch Barman to its model {model}", Program(words), LIMIT, kind="switch_model", target=model)
