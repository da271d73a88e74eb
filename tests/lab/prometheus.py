"""Prometheus on the gateway of the lab: it scrapes ``serve-http``, and what ``metrics --file`` has written by way of
node_exporter, and evaluates the alert rules of ``config``."""

from __future__ import annotations

import json
import shutil
from typing import Any
from urllib.parse import quote

from tests.lab import CONFIG, Lab
from tests.lab.http import PORT

ADDRESS = "127.0.0.1:9090"
EXPORTER = "127.0.0.1:9100"
TEXT_FILES = "/var/lib/prometheus/text-files"
SETTINGS = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [/etc/prometheus/repmgr-hooks.yml]
scrape_configs:
  - {{job_name: repmgr_hooks, static_configs: [{{targets: ["127.0.0.1:{PORT}", "{EXPORTER}"]}}]}}
"""
ASK = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=30).read().decode())"


def start(lab: Lab) -> None:
    lab.put(lab.gateway, "/etc/prometheus/prometheus.yml", SETTINGS)
    lab.put(lab.gateway, "/etc/prometheus/repmgr-hooks.yml", (CONFIG / "prometheus-alerts.yml").read_text())
    place = lab.gateway.path(TEXT_FILES)
    place.mkdir(parents=True)
    shutil.chown(place, "barman")  # as which ``metrics`` of root's runs
    write_file(lab)
    lab.daemons["exporter"] = lab.gateway.start(
        "prometheus-node-exporter",
        f"--web.listen-address={EXPORTER}",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={TEXT_FILES}",
        log="exporter",
    )
    lab.daemons["prometheus"] = lab.gateway.start(
        "prometheus",
        "--config.file=/etc/prometheus/prometheus.yml",
        f"--web.listen-address={ADDRESS}",
        "--storage.tsdb.path=/var/lib/prometheus/data",
        log="prometheus",
    )


def write_file(lab: Lab) -> None:
    """Do what the timer does."""
    result = lab.gateway.hooks("metrics", "--file", f"{TEXT_FILES}/repmgr_hooks.prom")
    assert result.returncode == 0, result.stdout + result.stderr


def asked(lab: Lab, query: str) -> list[float]:
    """The values of a query in PromQL; none while Prometheus starts."""
    found = _get(lab, f"query?query={quote(query)}")
    return [float(sample["value"][1]) for sample in found.get("result", [])]


def alerts(lab: Lab) -> dict[tuple[str, str], str]:
    """Whether an alert is pending or firing, by its name and node; that the primary has changed is no trouble."""
    return {
        (alert["labels"]["alertname"], alert["labels"].get("node", "")): alert["state"]
        for alert in _get(lab, "alerts").get("alerts", [])
        if alert["labels"]["severity"] != "info"
    }


def rules_that_fail(lab: Lab) -> list[str]:
    """What Prometheus could not evaluate."""
    rules = [rule for group in _get(lab, "rules").get("groups", []) for rule in group["rules"]]
    return [f"{rule['name']}: {rule['health']}" for rule in rules if rule["health"] == "err"]


def panels_without_data(lab: Lab) -> list[str]:
    """The queries of the shipped dashboard that Prometheus refuses or that show nothing, for Grafana sends them so."""
    panels = json.loads((CONFIG / "grafana-dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return [query for query in queries if not asked(lab, query.replace("$cluster", "main"))]


def _get(lab: Lab, path: str) -> dict[str, Any]:
    words = ("python3", "-c", ASK, f"http://{ADDRESS}/api/v1/{path}")
    said = lab.gateway.run(*words, user="daemon", check=False)
    data: dict[str, Any] = json.loads(said)["data"] if said else {}
    return data
