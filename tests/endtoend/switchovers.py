"""What the tests of a planned change of the primary share: a lab that is ready for one, and how it is looked at."""

from __future__ import annotations

import re
import subprocess

from tests.endtoend.looks import follows, wait_until_good
from tests.lab import CONFIG_FILE, Failed, Host, Lab, wait_for

SHELL = "shell: [ssh, -o, BatchMode=yes, postgres@{}]"


def opened(lab: Lab) -> None:
    """Bring a lab into service whose nodes the service's user may reach."""
    lab.build()
    config = lab.gateway.path(CONFIG_FILE)
    text = re.sub(r"\{host: (10\.0\.0\.\d+)\}", lambda m: f"{{host: {m[1]}, {SHELL.format(m[1])}}}", config.read_text())
    config.write_text(text.replace("{changes: 5, window: 600}", "{changes: 50, window: 600}"))


def serving(lab: Lab) -> None:
    """Open the ports, start all daemons, and wait until a switchover may begin."""
    result = lab.gateway.hooks("reconcile")
    assert result.returncode == 0, result.stdout + result.stderr
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    # Else the events of repmgrd's start may still wait for a run, and a switchover is refused.
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)


def switchover(lab: Lab, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command; what it said is shown if the test fails."""
    result = lab.gateway.hooks("switchover", *words)
    print(result.stdout, result.stderr)
    return result


def nothing_left(lab: Lab) -> bool:
    """True if nobody is held, no repmgrd is paused, and no record is left."""
    try:
        paused = [host.sql("select repmgr.repmgrd_is_paused()", "repmgr") for host in lab.databases]
    except Failed:
        return False
    held = [line for line in lab.gateway.nat() if "NFQUEUE" in line or line.endswith("drop")]
    state = lab.gateway.path("/var/lib/repmgr-hooks")
    return paused == ["f"] * lab.nodes and not held and not [*state.glob("*.switchover"), *state.glob("*.hold")]


def is_good(lab: Lab, old: Host, new: Host) -> None:
    """The old primary is a standby again, all leads to the new one, and nothing is left."""
    wait_for(lambda: follows(old, new), f"{old.name} to follow {new.name}")
    wait_until_good(lab, new, [host for host in lab.databases if host is not new])
    assert nothing_left(lab)
