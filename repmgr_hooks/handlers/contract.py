"""What a handler offers: the whole contract, and a default for each part that a handler may do without.

A handler is a module. It looks (``observe``) and says which steps are missing (``plan``); it changes nothing itself.
Every name of the contract is in the module: what a handler does not need is assigned from here
(``fence = contract.fence_nothing``), so that the type checker and the loader see all of it, and a misspelt name is an
error instead of silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from repmgr_hooks.cluster.decide import ClusterState
    from repmgr_hooks.errors import Problem
    from repmgr_hooks.settings.cluster import Cluster
    from repmgr_hooks.system.steps import Host, Step


class Handler(Protocol):
    """The names that a handler module has, in the order in which they are used."""

    @property
    def Config(self) -> type[Any]:  # noqa: N802 - it is a class
        """A frozen dataclass: the options in the route."""

    @property
    def validate(self) -> Callable[[Any, Cluster], Iterable[Problem]]:
        """``validate(config, cluster)`` returns what is wrong with the options in this cluster (``errors.mistake``).

        It looks at nothing else: ``check --offline`` calls it on any machine (``settings.schema.OnThisHost``)."""

    @property
    def fail_open_after(self) -> Callable[[Any], float | None]:
        """``fail_open_after(config)``: seconds after the start of a run at which the action is carried out although one
        before it has failed; None: never."""

    @property
    def on_tick(self) -> Callable[[Any], bool]:
        """``on_tick(config)``: whether to look every few seconds, without an event."""

    @property
    def helper(self) -> Callable[[Any], bool]:
        """``helper(config)``: whether this is only a helper: nothing waits for it, and its failure stops nothing."""

    @property
    def shared(self) -> Callable[[Any, Cluster], bool]:
        """``shared(config, cluster)``: whether this works on what exists once, however many gateways there are. Of
        several gateways, only the one that has the virtual address takes its steps."""

    @property
    def observe(self) -> Callable[[Any, Any, Host], Any] | None:
        """``observe(config, state, host)`` returns what ``plan`` needs to know; it may raise OperationFailed.

        None: there is nothing to look at. Such a handler (a notification) is called for its events only, at once and
        beside everything else, also while no primary is known; its ``plan`` gets a ``Notice`` as ``state``.
        """

    @property
    def plan(self) -> Callable[[Any, Any, Any], Sequence[Step]]:
        """``plan(config, state, seen)`` is pure and returns the missing steps; none if the state is the desired one."""

    @property
    def fingerprint(self) -> Callable[[ClusterState, Host], object]:
        """``fingerprint(state, host)``, cheap: while it returns the same, ``observe`` would see the same, and a look
        without an event may be spared. None: that cannot be known."""

    @property
    def warnings(self) -> Callable[[Any, ClusterState], Iterable[Problem]]:
        """``warnings(config, state)`` is pure and returns what is wrong and no step can fix."""

    @property
    def housekeep(self) -> Callable[[Any, ClusterState, Host], None]:
        """``housekeep(config, state, host)`` does the routine work of every look that repairs nothing."""

    @property
    def fence(self) -> Callable[[Cluster, Sequence[int], Host], Sequence[Step]]:
        """``fence(cluster, nodes, host)`` returns the steps after which nothing leads to these stale primaries; it is
        asked while the primary is unknown."""


NAMES = tuple(name for name in vars(Handler) if not name.startswith("_"))


def always_valid(config: object, cluster: Cluster) -> Iterable[Problem]:
    """The types of the options say all."""
    return ()


def never_fails_open(config: object) -> float | None:
    """What comes before must have succeeded."""
    return None


def looks_on_tick(config: object) -> bool:
    """Look without an event too."""
    return True


def never_helps(config: object) -> bool:
    """What comes after it waits for it."""
    return False


def always_helps(config: object) -> bool:
    """Nothing waits for it."""
    return True


def exists_once(config: object, cluster: Cluster) -> bool:
    """Of several gateways, one works on it."""
    return True


def one_barman(config: object, cluster: Cluster) -> bool:
    """It is about Barman; unless each gateway has its own, there is one."""
    return not (cluster.barman and cluster.barman.on_each_gateway)


def each_gateways_own(config: object, cluster: Cluster) -> bool:
    """Each gateway has its own."""
    return False


def no_fingerprint(state: ClusterState, host: Host) -> object:
    """Only a look shows whether anything has changed."""
    return None


def no_warnings(config: object, state: ClusterState) -> Iterable[Problem]:
    """Whatever is wrong, a step can fix."""
    return ()


def no_housekeeping(config: object, state: ClusterState, host: Host) -> None:
    """There is nothing to do but steps."""


def fence_nothing(cluster: Cluster, nodes: Sequence[int], host: Host) -> Sequence[Step]:
    """Nothing of this handler's leads clients anywhere."""
    return ()
