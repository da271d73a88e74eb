"""What would go wrong at 3 a.m., found now: one finding a line, with what mends it.

Nothing is changed. What needs root's eyes is looked at first; nodes and Barman are asked as the service's user, who
will do it. What cannot be known because something else is wrong is left out: one cause, one finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from repmgr_hooks import dispatcher
from repmgr_hooks.checks import barman, files, kernel, nodes, rehearsal, repmgr, service
from repmgr_hooks.checks.finding import Finding, Topic, bad
from repmgr_hooks.checks.identity import User, acting_as, owner_of, user_called
from repmgr_hooks.config import Config
from repmgr_hooks.decide import Decided, Memory
from repmgr_hooks.journal import Journal
from repmgr_hooks.judge import Judge, decided_from
from repmgr_hooks.routes import Managed
from repmgr_hooks.steps import World

WorldOf = Callable[[Managed], World]


def findings(loaded: Config, journal: Journal | None, world_of: WorldOf, as_repmgrd: bool = False) -> Iterator[Finding]:
    """Look at all that can be looked at here."""
    routes = sum(len(managed.routes) for managed in loaded.clusters.values())
    yield Topic("config.file", str(loaded.path)).ok(f"{len(loaded.clusters)} cluster(s), {routes} route(s)")
    owner = owner_of(loaded.state_dir)
    if owner is None:
        why = f"state_dir {loaded.state_dir} is not there, or belongs to nobody"
        yield Topic("files.state", str(loaded.state_dir)).fail(
            why, "systemd-tmpfiles --create; see config/tmpfiles.conf"
        )
    user = owner or user_called("barman") or user_called("root")
    repmgrd = rehearsal.repmgrds_user()
    assert user is not None
    if owner:
        yield from files.look(loaded, owner, repmgrd)
    if any(_uses(managed, "firewall") for managed in loaded.clusters.values()):
        yield kernel.managers(Path("/"), loaded.service.tick)
    yield from service.look(loaded, world_of(next(iter(loaded.clusters.values()))), repmgrd)
    if not user.can_be_me:
        yield files.unseen(Topic("files.user", user.name), "nodes and Barman, as the service's user sees them")
    conf_files = repmgr.files_here()
    yield from repmgr.unreadable(conf_files)
    for managed in loaded.clusters.values():
        world = world_of(managed)
        yield from _cluster(loaded, managed, journal, world, user)
        yield from repmgr.look(loaded, managed, conf_files, repmgrd)
        if as_repmgrd:
            yield from rehearsal.look(managed, conf_files, world, journal)


def _cluster(loaded: Config, managed: Managed, journal: Journal | None, world: World, user: User) -> Iterator[Finding]:
    cluster = managed.cluster
    yield from service.tracking(loaded, managed)
    if journal:
        yield from service.of_cluster(managed, journal)
    here = list(kernel.look(cluster, world)) if _uses(managed, "firewall") else []
    passwords = list(barman.passwords(cluster)) if cluster.barman else []
    secret = list(files.passfile(managed, user))
    yield from (*here, *passwords, *secret)
    if user.can_be_me and not bad(secret):
        yield from _outside(managed, journal, world, user, here, passwords)


def _outside(
    managed: Managed, journal: Journal | None, world: World, user: User, here: list[Finding], passwords: list[Finding]
) -> Iterator[Finding]:
    """Look at the nodes and at Barman; what was found on the way there is known already."""
    cluster = managed.cluster
    memory = journal.memory(cluster.name, cluster.role_changes.within) if journal else Memory()
    judge = Judge(cluster, memory)
    with acting_as(user):
        looked = nodes.look(managed, world, judge)
        verdict = None if bad([*here, *passwords]) else looked.verdict
        behind = list(barman.look(cluster, cluster.barman, world, verdict)) if cluster.barman else []
    yield from nodes.findings(managed, looked, user)
    yield repmgr.version(managed, world, next((node.extension for node in looked.answers.values()), ""))
    yield from behind
    if looked.verdict and looked.verdict.primary is not None:
        known = set()
        if any(finding.level != "OK" for finding in here if finding.key in ("kernel.forwarding", "kernel.chains")):
            known.add("firewall")
        if bad([*here, *passwords, *behind]):
            known.add("barman")
        yield _routes(managed, decided_from(looked.verdict, judge), world, known)


def _routes(managed: Managed, decided: Decided, world: World, known: set[str]) -> Finding:
    """Say what a run would do now; of the handlers in ``known`` it is known already why it would."""
    topic = Topic("routes.state", managed.cluster.name)
    chosen = dispatcher.select(managed.routes, [])
    looked_at = [item for item in chosen if item.action.on_tick and item.action.name not in known]
    missing = list(dict.fromkeys(dispatcher.differences(dispatcher.preview(looked_at, decided, world))))
    if missing:
        return topic.fail(f"not done: {'; '.join(missing)}", f"repmgr-hooks reconcile --cluster {managed.cluster.name}")
    if warnings := dispatcher.warnings(managed, decided):
        return topic.warn("; ".join(warnings), f"repmgr-hooks status --cluster {managed.cluster.name}")
    return topic.ok("all that the routes ask for is so")


def _uses(managed: Managed, handler: str) -> bool:
    return any(action.name == handler for action in managed.actions)
