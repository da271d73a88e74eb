"""The alert rules and the dashboard that are shipped: each metric that they name is one of ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from repmgr_hooks.reports.exposition import METRICS

CONFIG = Path(__file__).resolve().parents[3] / "config"
RULES, TESTS, DASHBOARD = "prometheus-alerts.yml", "prometheus-alerts-test.yml", "grafana-dashboard.json"


@pytest.mark.parametrize("name", [RULES, TESTS, DASHBOARD])
def test_each_metric_exists(name: str) -> None:
    named = set(re.findall(r"repmgr_hooks_(\w+)", (CONFIG / name).read_text()))
    assert named, name
    assert sorted(named - set(METRICS)) == []


NOWHERE = ("last_event_timestamp_seconds", "step_duration_seconds")
"""What is only for panels of one's own: the newest event, and the sum of all steps."""


def test_each_metric_is_in_a_panel_or_a_rule() -> None:
    shipped = (CONFIG / RULES).read_text() + (CONFIG / DASHBOARD).read_text()
    named = set(re.findall(r"repmgr_hooks_(\w+)", shipped))
    assert [name for name in METRICS if name not in named] == list(NOWHERE)


def test_each_rule_says_how_grave_it_is_and_of_which_cluster() -> None:
    (group,) = yaml.safe_load((CONFIG / RULES).read_text())["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("critical", "warning", "info"), rule
        assert rule["annotations"]["summary"].startswith("{{ $labels.cluster }}: "), rule
    names = [rule["alert"] for rule in group["rules"]]
    assert len(names) == len(set(names))


def test_the_rules_that_are_tested_exist() -> None:
    (group,) = yaml.safe_load((CONFIG / RULES).read_text())["groups"]
    names = {rule["alert"] for rule in group["rules"]}
    for case in yaml.safe_load((CONFIG / TESTS).read_text())["tests"]:
        assert {one["alertname"] for one in case["alert_rule_test"]} <= names


def test_the_dashboard_asks_by_cluster() -> None:
    panels = json.loads((CONFIG / DASHBOARD).read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for target in (target for panel in panels for target in panel["targets"]):
        assert '{cluster=~"$cluster"}' in target["expr"]


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed, as with tests/run --fast on a fresh machine"
)
@pytest.mark.parametrize("words", [["check", "rules", RULES], ["test", "rules", TESTS]])
def test_promtool_agrees(words: list[str]) -> None:
    ran = subprocess.run(["promtool", *words], cwd=CONFIG, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
