"""The command that looks for what would make a failover fail."""

from __future__ import annotations

import argparse
import contextlib
import json

from repmgr_hooks import checks, handlers
from repmgr_hooks.checks import database_host, finding, offline, recovery
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import acting_as, service_user
from repmgr_hooks.cli.configured import configured, world_of
from repmgr_hooks.cli.journals import journal_or_why_not
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.config import Config, load
from repmgr_hooks.config_file import config_path
from repmgr_hooks.errors import HooksError, UsageError
from repmgr_hooks.forward import settings
from repmgr_hooks.hook import forwards
from repmgr_hooks.system.answers import Answers
from repmgr_hooks.system.host import LocalHost


def do_check(arguments: argparse.Namespace) -> int:
    """Say what would go wrong."""
    note = ""
    try:
        if arguments.offline is None:
            found = examined(arguments)
        else:
            found, note = judged(arguments)
    except (HooksError, OSError) as error:
        if not arguments.nagios:
            raise
        print(finding.nagios_line("UNKNOWN", str(error)))
        return finding.NAGIOS["UNKNOWN"]
    if arguments.nagios:
        line, code = finding.nagios(found)
        print(line)
        return code
    if arguments.json:
        print(json.dumps(finding.as_dicts(found), indent=2))
    else:
        print("\n".join([*finding.lines(found), *filter(None, [note])]))
    return FAILED if finding.bad(found) else OK


def examined(arguments: argparse.Namespace) -> list[Finding]:
    """Look at everything that ``check`` knows of. Raises UsageError for a wrong configuration."""
    if forwards(str(path := config_path(arguments.config))):
        return [*database_host.findings(settings.load(path), path, LocalHost({}), arguments.end_to_end)]
    handlers.plug_ins()  # also those that no route names yet
    loaded = configured(arguments)
    answers = Answers()
    worlds = {name: world_of(managed, answers=answers) for name, managed in loaded.clusters.items()}
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded.state_dir, stack)
        found = [*checks.findings(loaded, journal, lambda one: worlds[one.cluster.name], arguments.end_to_end)]
    if error and not finding.bad(found):
        topic, owner = Topic("service.journal"), service_user(loaded.state_dir)
        found.append(topic.fail(str(error), error.hint) if owner.can_be_me else unseen(topic, error))
    # With the service's keys, and with no more rights: the lines that are run come from the nodes.
    with acting_as(service_user(loaded.state_dir)):
        for managed in loaded.clusters.values() if arguments.restore else ():
            found += recovery.findings(managed.cluster, world_of(managed, answers=answers))
    if arguments.send_test_alert:
        found += checks.alerts.sent(loaded, LocalHost({}))
    return found


def judged(arguments: argparse.Namespace) -> tuple[list[Finding], str]:
    """Judge files by themselves, and say what was not looked at. Raises UsageError with the mistakes of all of them."""
    if arguments.end_to_end or arguments.restore or arguments.send_test_alert:
        raise UsageError("--offline looks at nothing but the file", hint="leave out the other options")
    loaded: list[Config] = []
    hosts: list[Finding] = []
    refused: list[UsageError] = []
    for path in arguments.offline or [config_path(arguments.config)]:
        try:
            if forwards(str(path)):
                hosts.append(offline.of_database_host(settings.load(path, here=False), path))
            else:
                loaded.append(load(path, here=False))
        except UsageError as error:
            refused.append(error)
    if refused:
        raise UsageError("\n".join(map(str, refused)), hint=refused[0].hint)
    return [*hosts, *(found for one in loaded for found in offline.findings(one))], offline.not_looked_at(loaded)
