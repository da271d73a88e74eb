"""What ``status`` says of a port for readers, and of what load balancers are answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from repmgr_hooks import clock, config
from repmgr_hooks.checks import clients
from repmgr_hooks.cluster.readers import Fitness, Reading
from repmgr_hooks.engine.dispatcher import handle
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.last_seen import LastSeen, NodeSeen, Publisher
from repmgr_hooks.reports import endpoint
from repmgr_hooks.reports.look import look
from repmgr_hooks.reports.metrics import measure
from repmgr_hooks.reports.readers_port import ReadersPort
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Readers
from tests.fake import FakeHost

MB = 1024 * 1024
REPOSITORY = Path(__file__).resolve().parents[3]
MAIN = Cluster({1: Node("10.0.0.11"), 2: Node("10.0.0.12")}, Gateway("10.0.0.20", {"app": 54322}), name="main")


def test_why_one_is_left_out() -> None:
    nodes = (
        Reading(1, Fitness.PRIMARY),
        Reading(2, Fitness.FIT, 0),
        Reading(3, Fitness.CATCHING_UP, 40 * MB),
        Reading(4, Fitness.LAGS, 80 * MB),
        Reading(5, Fitness.YOUNG, 0, 3.0),
        Reading(6, Fitness.SILENT),
    )
    port = ReadersPort(Readers(64 * MB), (2, 3), nodes)
    assert port.where == "leads to node 2 and node 3"
    assert list(port.lines()) == [
        "node 2: 0 B to replay",
        "node 3: 40 MB to replay",
        "node 4: 80 MB to replay, gets no new connections",
        "node 5: 0 B to replay, has streamed for 3 s only, gets no new connections",
        "node 6: does not answer, gets no new connections",
    ]
    assert ReadersPort(Readers(1), ()).where == "closed"


def test_as_status_and_check_show_it(tmp_path: Path, journal: Journal) -> None:
    text = (REPOSITORY / "config/config.yaml").read_text()
    for before, after in (
        ("app: 54322}", "app: 54322, readers: 54323}"),
        ("# - firewall: {open: readers", "- firewall: {open: readers"),
        ("state_dir: /var/lib/repmgr-hooks", f"state_dir: {tmp_path}"),
    ):
        text = text.replace(before, after)
    (tmp_path / "config.yaml").write_text(text)
    loaded = config.load(tmp_path / "config.yaml")
    managed, host = loaded.clusters["main"], FakeHost()
    host.nodes[2].upstream = 1
    assert handle(managed, host, []).ok
    seen = look(managed, host, journal, loaded)
    assert seen.healthy
    at = seen.lines().index("  port 54323 (readers): leads to node 2, and a client reads there")
    assert seen.lines()[at + 1] == "    node 2: 0 B to replay"
    numbers = {str(sample) for sample in measure(seen, None, tmp_path)}
    where = '{cluster="main",port="readers",node="2"}'
    assert {f"repmgr_hooks_{name}{where} 1" for name in ("port_target", "reader_fit")} <= numbers
    assert 'repmgr_hooks_client_can_read{cluster="main",port="readers",origin=""} 1' in numbers
    (data,) = seen.as_dict()["readers"].values()
    assert (data["leads_to"], data["nodes"][1]["fitness"]) == ([2], "fit")

    host.nodes[2].replay_paused = True
    assert handle(managed, host, []).ok
    seen = look(managed, host, journal, loaded)
    lines = seen.lines()
    assert not seen.healthy
    assert lines[at : at + 2] == [
        "  port 54323 (readers): leads to node 1, and a client reads there",
        "    node 2: 0 B to replay, its replay is paused, gets no new connections",
    ]
    why = "port readers: a client reads on node 1: it is the primary, for no standby is fit for readers"
    assert f"  WARNING {why}" in lines
    finding, *_ = clients.writes(managed, host, seen.decision)
    assert (finding.level, finding.message) == ("WARN", why)


def process(proc: Path, number: int, *words: str) -> None:
    (proc / str(number)).mkdir(parents=True)
    (proc / str(number) / "cmdline").write_bytes(b"\0".join(word.encode() for word in words) + b"\0")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("/opt/x/bin/python /usr/local/bin/repmgr-hooks --config /etc/other.yaml serve-http", True),
        ("/opt/x/bin/python /usr/local/bin/repmgr-hooks --config=/etc/other.yaml serve-http --log json", True),
        ("/usr/bin/python3 -P /usr/bin/repmgr-hooks serve-http", True),
        ("/usr/bin/python3 -m repmgr_hooks serve-http", True),
        ("/opt/repmgr-hooks/bin/python /usr/bin/other serve-http", False),
        ("journalctl -u repmgr-hooks-http -g serve-http", False),
        ("", False),
    ],
)
def test_which_process_answers_load_balancers(tmp_path: Path, line: str, found: bool) -> None:
    process(tmp_path, 7, *line.split(" "))
    assert any(endpoint.running(tmp_path)) is found


def test_what_load_balancers_are_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "since_boot", lambda: 100.0)
    nodes = (NodeSeen(1, "10.0.0.11", True, "primary", 1), NodeSeen(2, "10.0.0.12", True, "standby", 1))
    Publisher(tmp_path, "main").publish(LastSeen("main", 1, 1, "only", "x", nodes, interval=5))
    proc = tmp_path / "proc"
    process(proc, 7, "vi", "serve-http")
    process(proc, 8, "/opt/x/bin/python", "/usr/local/bin/repmgr-hooks", "worker")
    found = endpoint.look([MAIN], tmp_path, proc)["main"]
    assert (found.running, str(found)) == (False, "serve-http is not running")
    assert found.answers == {"primary": {1: 200, 2: 503}, "replica": {1: 503, 2: 200}}
    process(proc, 9, "/opt/x/bin/python", "/usr/local/bin/repmgr-hooks", "serve-http", "--listen", "127.0.0.1:8008")
    said = str(endpoint.look([MAIN], tmp_path, proc)["main"])
    assert said == "/primary answers 200 for node 1; /replica answers 200 for node 2"
    monkeypatch.setattr(clock, "since_boot", lambda: 1000.0)
    said = str(endpoint.look([MAIN], tmp_path, proc)["main"])
    assert said == "/primary answers 200 for no node; /replica answers 200 for no node"
