"""The commands that the READMEs show, run on a real cluster, print what is shown: the same lines, other numbers."""

from __future__ import annotations

import re

from tests import readme
from tests.endtoend.looks import failover_handled, status
from tests.lab import Lab, wait_for
from tests.readme import Sample, sample

FRONT, CLI = readme.README, readme.TEXTS["repmgr_hooks/cli/README.md"]


def compare(lab: Lab, shown: Sample, code: int = 0) -> None:
    """Run the command of a sample, and compare."""
    result = lab.gateway.hooks(*shown.words)
    # What a hint says is its own matter.
    output = tuple(re.sub("HINT: .*", "HINT: ...", line) for line in shown.output)
    assert readme.difference(output, result.stdout) == "", result.stdout + result.stderr
    assert result.returncode == code, result.stdout + result.stderr


def test_before_and_after_a_failover(lab: Lab) -> None:
    wait_for(lambda: lab.gateway.hooks("status").returncode == 0, "a good status", every=0.5)
    for command, text in (
        ("status", FRONT),
        ("check", CLI),
        ("check-wal", CLI),
        ("simulate-failover 2", CLI),
        ("handlers", CLI),
    ):
        compare(lab, sample(command, text))
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    compare(lab, sample("history --failover last", CLI))
    compare(lab, sample("check-wal", CLI))

    lab.db1.pg_ctl("start")
    wait_for(lambda: status(lab)["decision"]["stale_primaries"] == [1], "the stale primary to be seen")
    compare(lab, sample("status", CLI), 1)


def test_the_chains_are_removed(built_lab: Lab) -> None:
    """The commands of "Uninstall", after which nothing of ours is in the nat table; nobody is led there any more."""
    gateway = built_lab.gateway
    gateway.hooks("reconcile")
    assert [line for line in gateway.nat() if "repmgr" in line]
    commands = readme.block("systemctl disable", readme.TEXTS["systemd/README.md"]).splitlines()
    for command in (line for line in commands if line.startswith("iptables")):
        gateway.run("sh", "-ec", command)
    assert [line for line in gateway.nat() if "repmgr" in line] == []
