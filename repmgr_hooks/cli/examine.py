"""The command that looks for what would make a failover fail."""

from __future__ import annotations

import argparse
import contextlib
import json

from repmgr_hooks import checks, handlers
from repmgr_hooks.checks import finding, recovery
from repmgr_hooks.checks.files import unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.checks.users import acting_as, service_user
from repmgr_hooks.cli.configured import configured, world_of
from repmgr_hooks.cli.journals import journal_or_why_not
from repmgr_hooks.cli.output import FAILED, OK
from repmgr_hooks.errors import HooksError
from repmgr_hooks.system.host import LocalHost


def do_check(arguments: argparse.Namespace) -> int:
    """Say what would go wrong."""
    try:
        found = examined(arguments)
    except HooksError as error:
        if not arguments.nagios:
            raise
        print(finding.nagios_line("UNKNOWN", str(error)))
        return finding.NAGIOS["UNKNOWN"]
    if arguments.nagios:
        line, code = finding.nagios(found)
        print(line)
        return code
    print(json.dumps(finding.as_dicts(found), indent=2) if arguments.json else "\n".join(finding.lines(found)))
    return FAILED if finding.bad(found) else OK


def examined(arguments: argparse.Namespace) -> list[Finding]:
    """Look at everything that ``check`` knows of. Raises UsageError for a wrong configuration."""
    handlers.plug_ins()  # also those that no route names yet
    loaded = configured(arguments)
    worlds = {name: world_of(managed) for name, managed in loaded.clusters.items()}
    with contextlib.ExitStack() as stack:
        journal, error = journal_or_why_not(loaded.state_dir, stack)
        found = [*checks.findings(loaded, journal, lambda one: worlds[one.cluster.name], arguments.end_to_end)]
    if error and not finding.bad(found):
        topic, owner = Topic("service.journal"), service_user(loaded.state_dir)
        found.append(topic.fail(str(error), error.hint) if owner.can_be_me else unseen(topic, error))
    # With the service's keys, and with no more rights: the lines that are run come from the nodes.
    with acting_as(service_user(loaded.state_dir)):
        for managed in loaded.clusters.values() if arguments.restore else ():
            found += recovery.findings(managed.cluster, world_of(managed))
    if arguments.send_test_alert:
        found += checks.alerts.sent(loaded, LocalHost({}))
    return found
