"""The command that sets everything up: a draft to review, and its installation."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

import repmgr_hooks
from repmgr_hooks.catalogue import shorten
from repmgr_hooks.checks.repmgrd import repmgrds_user
from repmgr_hooks.checks.sshd import KEYS
from repmgr_hooks.cli import examine
from repmgr_hooks.cli.arguments import parser
from repmgr_hooks.cli.output import OK
from repmgr_hooks.cluster import repmgr_files
from repmgr_hooks.config import json_schema
from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import text_of
from repmgr_hooks.forward import settings
from repmgr_hooks.handlers import built_in, plug_ins
from repmgr_hooks.hook import PACKAGED
from repmgr_hooks.repmgr_conf import RepmgrConf, read
from repmgr_hooks.settings.words import PLAIN_NAME
from repmgr_hooks.setup import access, database_host, gateways, new_confs
from repmgr_hooks.setup.discover import LIMIT, chosen_conf, survey
from repmgr_hooks.setup.draft import is_database_hosts, write
from repmgr_hooks.setup.install import PASSFILE, install
from repmgr_hooks.setup.render import CONFIGURATION, drafted
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Host


def do_init(arguments: argparse.Namespace) -> int:
    """Write a draft, or install it."""
    if os.geteuid() != 0:
        raise UsageError("init looks into files of several users, and installs files of root's", hint="run it as root")
    try:
        if arguments.install:
            tell(install(arguments.directory, arguments.replace, LocalHost({})))
            return left_to_do(arguments.directory)
        texts, notes = draft(arguments)
        tell(write(arguments.directory, texts))
        tell(notes)
    except (OSError, UnicodeError) as error:
        hint = "check that place, or name another DIRECTORY; what was written stays"
        raise UsageError(str(error), hint=hint) from None
    print(f"\nReview them, correct what is wrong, and then run: repmgr-hooks init --install {arguments.directory}")
    return OK


def do_config_schema(arguments: argparse.Namespace) -> int:
    """Print what an editor needs, with the options of the plug-ins that are installed here."""
    known = {**built_in(), **{name: found.module for name, found in plug_ins(here=False).items()}}
    print(json.dumps(json_schema.schema((shipped() / "config/README.md").read_text(), known), indent=2))
    return OK


def draft(arguments: argparse.Namespace) -> tuple[dict[str, str], list[str]]:
    """Ask what there is, and return the files for it, and what is to be said of them. Raises UsageError."""
    if arguments.cluster and not re.fullmatch(PLAIN_NAME, arguments.cluster):
        raise UsageError(f"--cluster {shorten(arguments.cluster)} is not a plain name (letters, digits, _ . -)")
    name = arguments.cluster or "main"
    readable = confs(arguments.repmgr_conf)
    if arguments.forward_to:
        given = {"--barman": arguments.barman, "--barman-host": arguments.barman_host, "--gateway": arguments.gateway}
        if useless := [option for option, value in given.items() if value]:
            what = f"{' and '.join(useless)} is of no use with --forward-to: a database host only hands its events on"
            raise UsageError(what, hint="leave it out")
        ours = [conf for conf in readable if conf.node is not None]
        notes = [] if ours else ["unknown   where repmgr.conf is: --repmgr-conf FILE names it"]
        return database_host.drafted(arguments.forward_to, name, shipped(), ours, repmgrds_user()), notes
    asked = chosen_conf(arguments.repmgr_conf, readable)
    host = LocalHost({asked.node or 0: with_passfile(asked.settings["conninfo"])})
    found = survey(asked, arguments.barman, arguments.gateway, host, arguments.barman_host)
    known = repmgr_files.identities(asked.node or 0, host, LIMIT)
    here = {conf.path: conf for conf in confs(None)}
    here |= {conf.path: conf for conf in readable if new_confs.is_conf(conf.path)}
    nodes = {path: repmgr_files.node_of(conf, found.nodes, known) for path, conf in here.items()}
    notes = [f"left out  {option} of repmgr's conninfo: {why}" for option, why in found.left_out.items()]
    ours = [conf for path, conf in here.items() if nodes[path] is not None]
    texts = drafted(found, name, shipped(), ours, repmgrd=repmgrds_user().name)
    if arguments.other_gateway:
        way = host.route(next(iter(found.nodes.values())).host)
        texts = gateways.drafted(texts, found, arguments.other_gateway, way, shipped())
    if arguments.repmgrd_on_nodes:
        authorized = Path(KEYS)
        there = text_of(authorized) if authorized.exists() else ""
        texts |= database_host.of_gateway(found.nodes, known, shipped(), there)
        return {place: text for place, text in texts.items() if Path(place) not in here}, notes
    missing = [number for number, node in found.nodes.items() if not (node.witness or number in nodes.values())]
    copied = {
        node: conf.path for conf in ours if new_confs.unfilled(texts[str(conf.path)]) and (node := nodes[conf.path])
    }
    if missing or copied:
        everywhere = LocalHost({node: with_passfile(identity.conninfo) for node, identity in known.items()})
        cluster = new_confs.cluster(name, known, found.nodes, everywhere)
        texts |= {str(path): new_confs.filled(texts[str(path)], node, cluster) for node, path in copied.items()}
        texts |= new_confs.drafted(missing, cluster, shipped(), repmgrds_user().name)
        notes += new_confs.notes({node: cluster.place(node) for node in missing} | copied, cluster)
        notes += [new_confs.later(missing, cluster)] if missing else []
    return texts, notes


def confs(given: Path | None) -> list[RepmgrConf]:
    """Return the given repmgr.conf, else all that can be read. Raises UsageError."""
    if given is None:
        return list(repmgr_files.readable(repmgr_files.files_here()))
    try:
        return [read(given.resolve())]
    except (OSError, ValueError) as error:
        raise UsageError(f"{given} cannot be read as a repmgr.conf: {error}", hint="name another one") from None


def with_passfile(conninfo: str) -> str:
    """Return how repmgr connects: with its own password or passfile, else with that of repmgrd's user."""
    if {"password", "passfile"} & conninfo_to_dict(conninfo).keys():
        return conninfo
    places = (Path(PASSFILE), Path(repmgrds_user().home, ".pgpass"))
    passfile = next(filter(has_text, places), None)
    return make_conninfo(conninfo, **({"passfile": str(passfile)} if passfile else {}))


def has_text(path: Path) -> bool:
    """True if the file is there, and not empty."""
    return path.is_file() and path.stat().st_size > 0


def shipped() -> Path:
    """Return where config/ and systemd/ are: beside the installed program, or in a checkout. Raises UsageError."""
    # Debian's Python names /usr/local, where its packages put nothing.
    data = "/usr" if PACKAGED else sysconfig.get_path("data")
    places = (Path(data, "share/repmgr-hooks"), Path(repmgr_hooks.__file__).parents[1])
    for place in places:
        if (place / "config/config.yaml").is_file():
            return place
    raise UsageError(
        f"the shipped files are not in {places[0]}", hint="install repmgr_hooks with pip, into an environment"
    )


def tell(lines: Iterable[str]) -> None:
    """Show what is done while it is done."""
    for line in lines:
        print(line, flush=True)


def left_to_do(directory: Path) -> int:
    """Show what ``check`` says about what was installed; that is no failure of the installation."""
    on_database_host = is_database_hosts(directory)
    if on_database_host:
        tell(commands_for_gateways(LocalHost({})))
    print("\nWhat is left to do, as 'repmgr-hooks check' sees it; then:")
    units = "repmgr-hooks-boot.service repmgr-hooks.service repmgr-hooks-check-wal.timer"
    units = Path(database_host.UNIT).name if on_database_host else units
    print(f"  systemctl enable --now {units}\n")
    examine.do_check(parser().parse_args(["--config", CONFIGURATION, "check"]))
    return OK


def commands_for_gateways(host: Host) -> Iterator[str]:
    """Yield what is to be typed on each gateway, whose draft lacks the keys of this host. Raises HooksError."""
    keys = access.identity_files(settings.load(Path(CONFIGURATION)).gateways)
    names = [access.name_of(conf.node, conf.settings.get("node_name", "")) for conf in confs(None) if conf.node]
    if keys and names:
        yield "\nOn each gateway, where init has made a draft with --repmgrd-on-nodes:"
    for path, name in itertools.product(keys, names):
        draft = f"/var/tmp/draft{KEYS}"
        yield f"  {access.to_type_on_gateway(path, repmgrds_user().name, name, draft, host)}"
