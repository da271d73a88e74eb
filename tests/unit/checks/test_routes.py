"""What routes show by themselves: each mistake in the order, the ports and the events makes a finding of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.checks import routes
from repmgr_hooks.errors import UsageError
from tests import readme
from tests.unit.config.test_config import GOOD, changed

BARMANS, SLOT, STREAM = (
    "          - firewall: {open: barman}\n",
    "          - slot: {on: primary}\n",
    "          - barman: {stream: true, min_stream_age: 0}\n",
)
SWITCH = "          - barman: {switch_wal: {timeout: 90}}\n"
GATE = "          - firewall: {open: app, fail_open_after: 120}\n"
READERS = "          - firewall: {open: readers, to: standbys}\n"
STANDBYS = "          - slot: {on: standbys, state: absent}\n"
PROMOTIONS = "primary_register, standby_promote, repmgrd_failover_promote, standby_switchover, repmgrd_reload"
MODELS = "          - barman: {stream: true, models: {1: main-db1, 2: main-db2}}\n"


OTHER_SLOT = "          - slot: {on: primary, name: second}\n"
DROPPED = "          - slot: {on: standbys, name: second}\n"


def ordered(*lines: str) -> str:
    """The repository's file with other actions after a promotion."""
    return changed(BARMANS + SLOT + STREAM + SWITCH + GATE, "".join(lines))


def with_readers(*lines: str) -> str:
    """The same with a port for readers."""
    return ordered(*lines).replace("app: 54322}", "app: 54322, readers: 54323}")


def wrong(path: Path, text: str) -> dict[str, str]:
    """The code and the message of each finding that is not OK."""
    path.write_text(text)
    loaded = config.load(path)
    found = [
        each for managed in loaded.clusters.values() for each in routes.look(managed, loaded.service.monitor_interval)
    ]
    assert all(each.hint for each in found if each.level != "OK")
    return {each.code: f"{each.level} {each.message}" for each in found if each.level != "OK"}


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        ordered(BARMANS, GATE, SLOT, STREAM, SWITCH).replace(BARMANS + GATE + SLOT, BARMANS + SLOT + GATE),
        ordered(SLOT, MODELS, GATE).replace("barman: 54321, ", ""),
        (readme.REPOSITORY / "config/barman-only.yaml").read_text(),
        (readme.REPOSITORY / "config/app-only.yaml").read_text(),
        ordered(BARMANS, SLOT, "          - barman: {stream: true, switch_wal: {}}\n", GATE),
        with_readers(BARMANS, READERS, SLOT, STREAM, SWITCH, GATE),
    ],
)
def test_orders_that_work(tmp_path: Path, text: str) -> None:
    assert wrong(tmp_path / "config.yaml", text) == {}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (ordered(BARMANS, STREAM, SLOT, SWITCH, GATE), "routes.order", "WARN barman {stream: true} stands before slot"),
        (ordered(BARMANS, SLOT, SWITCH, STREAM, GATE), "routes.order", "WARN barman {switch_wal: ...} stands before"),
        (ordered(BARMANS, GATE, SLOT, STREAM, SWITCH), "routes.order", "WARN every port is open before slot"),
        (
            ordered(GATE, SLOT, MODELS).replace("barman: 54321, ", ""),
            "routes.order",
            "WARN every port is open before slot",
        ),
        (ordered(SLOT, STREAM, SWITCH, BARMANS, GATE), "routes.order", "WARN barman {stream: true} stands before ev"),
        (with_readers(READERS, SLOT, STREAM, SWITCH, BARMANS, GATE), "routes.order", "WARN barman {stream: true}"),
        (
            ordered(BARMANS.replace("}", ", to: standbys}"), SLOT, STREAM, SWITCH).replace(", app: 54322", ""),
            "routes.order",
            "FAIL barman {stream: true} has no port to the primary",
        ),
        (with_readers(BARMANS, GATE, READERS, SLOT, STREAM, SWITCH), "routes.order", "WARN every port is open before"),
        (
            with_readers(BARMANS, SLOT, STREAM, SWITCH, GATE, READERS.replace("}", ", max_lag: 64kB}")),
            "routes.readers",
            "WARN max_lag (64 kB) is what a busy primary writes in a moment",
        ),
        (
            with_readers(BARMANS, SLOT, STREAM, SWITCH, GATE, READERS).replace("      2: {host: 10.0.0.12}\n", ""),
            "routes.readers",
            "WARN there is one node, which is never a standby",
        ),
        (ordered(BARMANS, SLOT, STREAM, SWITCH), "routes.ports", "WARN no route opens port app"),
        (changed(PROMOTIONS, "repmgrd_reload"), "routes.ports", "WARN port barman, app is opened after no event that"),
        (
            changed(PROMOTIONS, "repmgrd_reload").replace("monitor_interval: 5", "monitor_interval: 0"),
            "routes.ports",
            "FAIL port barman, app is opened after no event that reports a promotion, and there are no looks",
        ),
        (
            ordered(BARMANS, SLOT, OTHER_SLOT, STREAM, SWITCH, GATE),
            "routes.slots",
            "WARN no route is about slot second on standbys",
        ),
        (
            ordered(BARMANS, OTHER_SLOT, DROPPED, GATE, SLOT, STREAM, SWITCH),
            "routes.order",
            "WARN every port is open before slot",
        ),
        (
            ordered(BARMANS, OTHER_SLOT, DROPPED, STREAM, SWITCH, GATE),
            "routes.barman",
            "WARN no route keeps Barman's slot on the primary",
        ),
        (
            changed(STANDBYS, STANDBYS.replace("on:", "name: second, on:")),
            "routes.barman",
            "WARN no route is about the slot on standbys",
        ),
        (ordered(BARMANS, STREAM, SWITCH, GATE), "routes.barman", "WARN no route keeps Barman's slot on the primary"),
        (ordered(BARMANS, SLOT, GATE), "routes.barman", "WARN no route moves Barman's stream"),
        (
            changed(STANDBYS, "          - notify: {}\n") + "alerts: [{mail: [a]}]\n",
            "routes.barman",
            "WARN no route is about the slot on standbys",
        ),
    ],
)  # fmt: skip
def test_each_mistake(tmp_path: Path, text: str, code: str, said: str) -> None:
    found = wrong(tmp_path / "config.yaml", text)
    assert list(found) == [code]
    assert found[code].startswith(said)


@pytest.mark.parametrize(
    ("when", "said"),
    [
        ("{node: [1]}", True),
        ("{success: false}", True),
        ("{role: [standby]}", True),
        ("{primary: unknown}", True),
        ("{role: [silent], primary: known}", True),
        ("{primary: known}", False),
    ],
)
def test_a_port_that_is_opened_for_some_events_only(tmp_path: Path, when: str, said: bool) -> None:
    """After the failover it stayed shut, `check` was green, and `reconcile` had nothing to do."""
    gate = GATE.replace("- firewall", f"- when: {when}\n            firewall")
    found = wrong(tmp_path / "config.yaml", ordered(BARMANS, SLOT, STREAM, SWITCH, gate))
    what = "WARN port app is opened only for some events: not at boot, and not by a look or 'reconcile'"
    assert found == ({"routes.ports": what} if said else {})


def test_when_names_a_node_that_is_there(tmp_path: Path) -> None:
    gate = GATE.replace("- firewall", "- when: {node: [9]}\n            firewall")
    with pytest.raises(UsageError, match=r"when.node: the cluster has no node 9\n +HINT: its nodes: 1, 2"):
        wrong(tmp_path / "config.yaml", ordered(BARMANS, SLOT, STREAM, SWITCH, gate))


def test_a_notice_that_nobody_receives(tmp_path: Path) -> None:
    text = changed(GATE, GATE + "          - notify: {}\n")
    critical = text + "alerts:\n  - {exec: [/bin/true], severity: critical}\n"
    with pytest.raises(UsageError, match=r"do\[\d\].notify: nobody receives it"):
        wrong(tmp_path / "config.yaml", critical)
    wrong(tmp_path / "config.yaml", critical.replace("notify: {}", "notify: {severity: critical}"))
    both = critical.replace("notify: {}", "notify: {}\n          - notify: {severity: critical}")
    with pytest.raises(UsageError, match="nobody receives it"):
        wrong(tmp_path / "config.yaml", both)
    wrong(tmp_path / "config.yaml", critical + "  - {exec: [/bin/false]}\n")
