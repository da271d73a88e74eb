"""``metrics``: what Prometheus' own parser reads, and that a counter never goes down."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.event import Event
from repmgr_hooks.journal.heartbeat import write_heartbeat
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.reports import exposition
from repmgr_hooks.reports.exposition import Sample
from tests.fake import FakeHost, FakeSlot, step_row

PROMOTED = Event(2, "standby_promote")
Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]
Ask = Callable[..., Numbers]


@pytest.fixture
def ask(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Ask:
    """Run ``metrics`` and return what a parser reads, without the prefix and the label that all have."""

    def asked(code: int = 0) -> Numbers:
        assert run("metrics") == code
        return parsed(capsys.readouterr().out)

    return asked


def parsed(text: str) -> Numbers:
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all(sample.name.startswith("repmgr_hooks_") and sample.timestamp is None for sample in samples)
    return {
        (
            sample.name.removeprefix("repmgr_hooks_"),
            frozenset(set(sample.labels.items()) - {("cluster", "main")}),
        ): sample.value
        for sample in samples
    }


def of(numbers: Numbers, name: str) -> dict[str, float]:
    """The samples of a metric, by the values of their labels."""
    return {
        " ".join(value for _, value in sorted(labels)): number
        for (metric, labels), number in numbers.items()
        if metric == name
    }


def counters(numbers: Numbers) -> Numbers:
    return {key: number for key, number in numbers.items() if key[0].endswith(("_total", "_sum", "_count"))}


def past(journal: Journal, ok: bool, seconds: float) -> None:
    """A run with one event and one step, which has ended."""
    run = journal.begin_run("main", "event", 1, [journal.add_event("main", PROMOTED, time.time())])
    error = "" if ok else "no such node"
    journal.add_step(run, step_row("slot {on: primary}", "create slot", time.time(), seconds, error))
    journal.end_run(run, ok, not ok, "", 2, 2)


def test_all_as_it_should_be(ask: Ask, host: FakeHost) -> None:
    host.nodes[2].behind = 4096
    found = ask()
    single = {"healthy": 1, "primary_known": 1, "timeline": 1, "pending_steps": 0, "warnings": 0, "events_pending": 0}
    for name, value in {**single, "paused": 0, "retry_attempts": 0, "barman_streaming": 1}.items():
        assert of(found, name) == {"": value}, name
    assert of(found, "node_up") == {"1": 1, "2": 1}
    assert of(found, "node_is_primary") == {"1": 1, "2": 0}
    assert of(found, "node_lag_bytes") == {"2": 4096}
    assert of(found, "port_target") == {"1 app": 1, "2 app": 0, "1 barman": 1, "2 barman": 0}
    assert of(found, "client_can_write") == {" app": 1, " barman": 1}
    assert of(found, "slot_retained_bytes") == {"1 barman": 672}
    assert of(found, "runs_total")["drift"] == of(found, "run_failures_total")["event"] == 0, "there from the start"
    assert of(found, "events_total") == of(found, "primary_changes_total") == {"": 0}
    assert of(found, "last_event_timestamp_seconds") == of(found, "last_poll_timestamp_seconds") == {}


def test_in_trouble(ask: Ask, host: FakeHost, journal: Journal) -> None:
    host.fail_over()
    journal.add_event("main", PROMOTED, 5.5)
    journal.pause("main", None, "new disks")
    found = ask()
    for name, value in {"healthy": 0, "events_pending": 1, "paused": 1, "last_event_timestamp_seconds": 5.5}.items():
        assert of(found, name) == {"": value}, name
    assert of(found, "pending_steps")[""] >= 4
    assert of(found, "client_can_write") == {" app": 0, " barman": 0}
    assert of(found, "client_write_seconds") == {}
    assert of(found, "node_up") == {"1": 0, "2": 1}
    assert of(found, "node_is_primary") == {"1": 0, "2": 1}
    assert of(found, "port_target") == {"1 app": 1, "2 app": 0, "1 barman": 1, "2 barman": 0}
    assert of(found, "barman_streaming") == {"": 0}
    assert (of(found, "barman_lag_bytes"), of(found, "slot_retained_bytes")) == ({}, {})


def test_nobody_is_the_primary_and_one_is_a_stale_primary(ask: Ask, host: FakeHost, journal: Journal) -> None:
    journal.remember("main", LastKnownPrimary(2, 2, host.nodes[1].system_identifier))
    host.lose(2)
    found = ask()
    assert (of(found, "primary_known"), of(found, "timeline")) == ({"": 0}, {})
    assert of(found, "node_is_primary") == {"1": 0, "2": 0}
    assert of(found, "node_is_stale_primary") == {"1": 1, "2": 0}
    assert of(found, "last_primary_change_timestamp_seconds")[""] == pytest.approx(time.time(), abs=60)


def test_what_a_slot_left_behind_on_a_standby_keeps(ask: Ask, host: FakeHost) -> None:
    host.nodes[2].slots["barman"] = FakeSlot(active=False)
    assert set(of(ask(), "slot_retained_bytes")) == {"1 barman", "2 barman"}


def test_a_closed_port_leads_to_nobody(ask: Ask, host: FakeHost) -> None:
    host.nat = type(host.nat)()
    assert set(of(ask(), "port_target").values()) == {0}


def test_when_the_service_last_looked(ask: Ask, tmp_path: Path) -> None:
    write_heartbeat(tmp_path, "main")
    os.utime(tmp_path / "cluster-main.looked", (1e9, 1_700_000_000.5))
    assert of(ask(), "last_poll_timestamp_seconds") == {"": 1_700_000_000.5}
    write_heartbeat(tmp_path, "main")
    assert of(ask(), "last_poll_timestamp_seconds")[""] == pytest.approx(time.time(), abs=60)


def test_what_was_counted(ask: Ask, journal: Journal, host: FakeHost) -> None:
    for last_known in (
        LastKnownPrimary(1, 1, "7"),
        LastKnownPrimary(2, 2, "7"),
        LastKnownPrimary(2, 3, "7"),
        LastKnownPrimary(1, 4, "7"),
    ):
        journal.remember("main", last_known)
    journal.remember("other", LastKnownPrimary(1, 1, "8"))
    past(journal, False, 2.0)
    past(journal, True, 0.5)
    cut_off = journal.begin_run("main", "boot", 1, [])
    for _ in range(2):
        journal.add_event("main", PROMOTED, 5.0, "the same file of the spool")
    found = ask()
    assert of(found, "events_total") == {"": 3}
    assert of(found, "primary_changes_total") == {"": 2}
    assert (of(found, "runs_total")["event"], of(found, "run_failures_total")["event"]) == (2, 1)
    assert of(found, "runs_total")["boot"] == 0, "it has not ended"
    action = "slot {on: primary}"
    assert of(found, "step_duration_seconds_sum") == {action: 2.5}
    assert of(found, "step_duration_seconds_count") == {action: 2}
    assert of(found, "step_last_duration_seconds") == {action: 0.5}
    assert of(found, "step_failures_total") == {action: 1}
    journal.release_cut_off()
    journal.end_run(cut_off, True, False, "it was not dead", 1, 1)
    found = ask()
    assert (of(found, "runs_total")["boot"], of(found, "run_failures_total")["boot"]) == (1, 1)


def test_a_counter_does_not_go_down_when_the_journal_forgets(
    ask: Ask, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    for last_known in (LastKnownPrimary(1, 1, "7"), LastKnownPrimary(2, 2, "7")):
        journal.remember("main", last_known)
    for ok in (True, False, True):
        past(journal, ok, 1.5)
    before, now = counters(ask()), time.time()
    monkeypatch.setattr(time, "time", lambda: now + 100 * 86400)
    journal.prune(90)
    journal.forget("main")
    assert len(journal.runs(9)) == 1
    assert counters(ask()) == before
    past(journal, True, 1.0)
    after = counters(ask())
    assert all(after[key] >= number for key, number in before.items())
    assert of(after, "events_total") == {"": 4}


def test_without_a_journal_there_is_no_counter(
    ask: Ask, tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """A zero would look like a restart of the counter."""
    past(journal, True, 1.0)
    journal.close()
    with sqlite3.connect(tmp_path / "journal.db") as other:
        other.execute("pragma user_version = 99")
    other.close()
    found = ask(1)
    assert of(found, "node_up") == {"1": 1, "2": 1}
    assert counters(found) == {}


# -- the text ----------------------------------------------------------------------------------------------------------


def test_strange_words_come_back_as_they_were() -> None:
    words = 'a "b" \\ c\n{d} \\n ü,='
    assert parsed(exposition.render([Sample("step_failures_total", {"action": words}, 1.5)])) == {
        ("step_failures_total", frozenset({("action", words)})): 1.5
    }


def test_what_belongs_to_a_metric_stands_together() -> None:
    samples = [Sample(name, {"cluster": cluster}, 1) for cluster in "ab" for name in ("healthy", "paused")]
    lines = exposition.render(samples).splitlines()
    assert [line.split("{")[0] for line in lines if not line.startswith("#")] == [
        *["repmgr_hooks_healthy"] * 2,
        *["repmgr_hooks_paused"] * 2,
    ]
    assert lines.count("# TYPE repmgr_hooks_healthy gauge") == 1


def test_names_and_units() -> None:
    for name, (kind, text) in exposition.METRICS.items():
        assert name.endswith("_total") == (kind == "counter"), name
        assert not {"timestamp", "duration", "lag", "retained"} & set(name.split("_")) or name.endswith(
            ("_seconds", "_bytes")
        ), name
        assert "\n" not in text and "\\" not in text


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_for_the_collector(run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "collector"
    target.mkdir()
    before = os.umask(0o077)
    try:
        assert run("metrics", "--file", str(target / "repmgr_hooks.prom")) == 0
    finally:
        os.umask(before)
    assert capsys.readouterr().out == ""
    (only,) = target.iterdir()
    assert only.stat().st_mode & 0o777 == 0o644
    assert parsed(only.read_text())["healthy", frozenset()] == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("x.txt", "the collector of node_exporter reads only files that end in .prom"),
        (".prom", "the collector of node_exporter reads only files that end in .prom"),
        ("missing/x.prom", "missing/x.prom cannot be written: "),
    ],
)
def test_a_file_that_nobody_would_read(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, said: str
) -> None:
    before = sorted(tmp_path.rglob("*.prom"))
    assert run("metrics", "--file", str(tmp_path / name)) == 2
    assert said in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*.prom")) == before


def test_a_link_in_its_place_is_not_followed(run: Callable[..., int], tmp_path: Path) -> None:
    """The collector's directory belongs to another user."""
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / "x.prom").symlink_to(tmp_path / "victim")
    (tmp_path / f".x.prom.{os.getpid()}").symlink_to(tmp_path / "victim")
    assert run("metrics", "--file", str(tmp_path / "x.prom")) == 2, "it is not a file"
    (tmp_path / "x.prom").unlink()
    assert run("metrics", "--file", str(tmp_path / "x.prom")) == 0
    assert (tmp_path / "victim").read_text() == "as it was"
    assert not (tmp_path / "x.prom").is_symlink()
