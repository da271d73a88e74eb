"""A gateway whose ``iptables`` is iptables-legacy: the service may lock it, or check says why not."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.endtoend.conftest import fresh_lab
from tests.endtoend.looks import barman_streams_from, failover_handled, led_to
from tests.lab import Lab, wait_for

LOCK = "/run/xtables.lock"


@pytest.fixture
def legacy() -> Iterator[Lab]:
    """Two nodes that replicate; on the gateway, and only there, ``update-alternatives`` has been used."""
    with fresh_lab() as lab:
        lab.build()
        for name in ("iptables", "iptables-save", "iptables-restore"):
            link = lab.gateway.path(f"/etc/alternatives/{name}")
            link.unlink()
            link.symlink_to(f"/usr/sbin/{name.replace('iptables', 'iptables-legacy')}")
        assert "legacy" in lab.gateway.run("iptables", "-V")
        yield lab


def backend(lab: Lab) -> str:
    """What check says of the rule sets."""
    said = lab.gateway.hooks("check").stdout
    return next(entry for entry in re.split(r"\n(?! )", said) if "kernel.backend" in entry)


def test_a_failover_by_iptables_legacy(legacy: Lab) -> None:
    lab = legacy
    lab.gateway.run("chmod", "600", LOCK)
    found = backend(lab)
    assert found.startswith("FAIL")
    hint = re.search(r"HINT: (.*)$", found)
    assert hint
    lab.gateway.run(*hint[1].split())
    assert backend(lab).startswith("OK")

    assert lab.gateway.hooks("reconcile").returncode == 0
    lab.start_cron()
    lab.start_worker()
    lab.start_repmgrd()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: failover_handled(lab), "the end of the events")
    assert led_to(lab, lab.db2)
    assert barman_streams_from(lab.db2)
