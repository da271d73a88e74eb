"""The story of a change of the primary, and its page: a journal that the test fills, moment by moment."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from repmgr_hooks import config
from repmgr_hooks.cli import main as cli
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.errors import UsageError
from repmgr_hooks.event import Event
from repmgr_hooks.journal.journal import Journal
from repmgr_hooks.journal.rows import Observation, ProbeRow
from repmgr_hooks.reports import failover, failover_html, failover_text
from repmgr_hooks.service.foreground import run_now
from tests.fake import FakeHost, step_row

CONFIG = Path(__file__).resolve().parents[3] / "config/config.yaml"
SYSTEM = "7300000000000000001"
T = 1_800_000_000.0
"""The moment of the first sign in these stories."""
LOST, PROMOTED, FOLLOWED = Event(1, "repmgrd_local_disconnect"), Event(2, "standby_promote"), Event(1, "node_rejoin")
SILENT, TAKEN_OVER = (
    "the primary is unknown: no node is out of recovery",
    "the primary is node 2, timeline 2",
)


Done = tuple[Any, ...]


class Past:
    """Fills a journal; every moment is in seconds since ``T``."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.journal = journal
        self._now = T
        self.reword: Callable[[str], str] = lambda what: what
        monkeypatch.setattr(time, "time", lambda: self._now)

    def at(self, moment: float) -> Journal:
        self._now = T + moment
        return self.journal

    def primary(self, moment: float, node: int, timeline: int, cluster: str = "main") -> None:
        self.at(moment).remember(cluster, LastKnownPrimary(node, timeline, SYSTEM))

    def look(self, moment: float, before: float | None, node: int | None, timeline: int, words: str = "") -> None:
        nodes = "node 1: Connection refused\nnode 2: whatever"
        self.journal.saw("main", Observation(T + moment, before and T + before, node, timeline, "a_code", words, nodes))

    def event(self, moment: float, event: Event) -> int:
        return self.journal.add_event("main", event, T + moment)

    def run(
        self,
        begun: float,
        ended: float | None,
        *steps: Done,
        events: tuple[int, ...] = (),
        ok: bool = True,
        attempt: int = 1,
        message: str = "done; the primary is node 2",
    ) -> None:
        """A run with steps (begun, seconds, what, error), and what a report goes by (kind, target, node)."""
        run = self.at(begun).begin_run("main", "event", attempt, events)
        for moment, took, what, error, *facts in steps:
            kind, target, node = facts or ("a_kind", "", None)
            row = step_row("an action", self.reword(what), T + moment, took, error)
            self.journal.add_step(run, row._replace(kind=kind, target=target, node=node))
        if ended is not None:
            self.at(ended).end_run(run, ok, not ok, message, 2, 2)

    def probe(self, moment: float, code: str, node: int | None, port: str = "port app") -> None:
        self.journal.probed("main", [ProbeRow(T + moment, T + moment - 1, port, code, node, f"{port}: {code}")])


@pytest.fixture
def past(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Past:
    return Past(journal, monkeypatch)


LEAD_BARMAN = (3.0, 0.25, "route port barman to node 2 (10.0.0.12)", "", "open_port", "barman", 2)
CUT = (3.25, 0.25, "reset connections of port 54322 to 10.0.0.11", "", "reset_connections", "app", 1)
SWITCH = (3.5, 1.0, "switch WAL and see timeline 2 on Barman's disk", "", "switch_wal", "main_backup", 2)
BACK = (3, 1, "route port app to node 1 (10.0.0.11)", "", "open_port", "app", 1)
LEAD_APP = (4.5, 0.5, "route port app to node 2 (10.0.0.12)", "", "open_port", "app", 2)


def fail_over(past: Past) -> None:
    """Node 1 is lost at 0, node 2 promoted by 2.5, the app port open at 5; db1 comes back much later."""
    past.primary(-5000, 1, 1)
    past.look(-5000, None, 1, 1)
    past.look(0.5, -4, None, 0, SILENT)
    past.look(2.5, 2.375, 2, 2, TAKEN_OVER)
    past.event(-400, LOST)
    past.event(-10, Event(2, "repmgrd_reload"))
    past.event(-9, Event(3, "primary_register"))
    lost = past.event(0, LOST)
    past.run(0.25, 0.375, events=(lost,), message="no route for it: nothing to do")
    past.journal._db.execute('update run set "primary" = null')
    past.primary(2.75, 2, 2)
    past.run(2.625, 5.5, LEAD_BARMAN, CUT, SWITCH, LEAD_APP)
    said = past.event(3.75, PROMOTED)
    past.run(5.5, 5.75, events=(said,), message="nothing to do: in the desired state; the primary is node 2")
    later = past.event(900, FOLLOWED)
    past.run(900, 901, (900.5, 0.1, "drop slot barman on standby 1", ""), events=(later,))


@pytest.mark.parametrize(
    "reword", [lambda what: "une autre langue", lambda what: "", lambda what: f"route port x to node 2 ({what}"]
)
def test_a_report_goes_by_facts_and_no_sentence_is_read(
    past: Past, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reword: Callable[[str], str]
) -> None:
    fail_over(past)
    told = the_report(past.journal)
    assert (told.ports, told.cut, told.archived) == ({"barman": 3.25, "app": 5.0}, 3.5, 4.5)
    other = Past(Journal(tmp_path / "reworded.db"), monkeypatch)
    other.reword = reword
    fail_over(other)
    again = the_report(other.journal)
    other.journal.close()
    assert [replace(item, what="") for item in again.items] == [replace(item, what="") for item in told.items]
    assert replace(again, items=()) == replace(told, items=())
    assert failover_text.figures(again) == failover_text.figures(told)


def the_report(journal: Journal, which: str = "last") -> failover.FailoverReport:
    return failover.report(journal, failover.find(journal, which, ["main"]))


def told(found: failover.FailoverReport) -> list[tuple[float, str]]:
    return [(item.at, item.what.splitlines()[0]) for item in found.items]


def test_a_failover(past: Past, journal: Journal) -> None:
    fail_over(past)
    found = the_report(journal)
    assert (found.change.was, found.change.node, found.change.was_timeline, found.change.timeline) == (1, 2, 1, 2)
    assert (found.zero, found.last_good, found.promoted) == (T, -4, 2.5)
    assert (found.ports, found.last_port) == ({"barman": 3.25, "app": 5.0}, "app")
    assert (found.cut, found.archived, found.ok) == (3.5, 4.5, True)
    assert told(found) == [
        (-4, "node 1 is the primary: the last look that says so"),
        (0, "event: repmgrd_local_disconnect of node 1"),
        (0.5, "the primary is unknown: no node is out of recovery"),
        (2.5, "the primary is node 2, timeline 2"),
        (3, LEAD_BARMAN[2]),
        (3.25, CUT[2]),
        (3.5, SWITCH[2]),
        (3.75, "event: standby_promote of node 2"),
        (4.5, LEAD_APP[2]),
        (5.5, "end of run 2 (event): done: 4 step(s)"),
        (5.75, "end of run 3 (event): nothing to do: in the desired state"),
    ]


def test_the_same_on_the_screen(past: Past, journal: Journal) -> None:
    fail_over(past)
    first, second, _, *rest = failover_text.lines(the_report(journal))
    assert first == "main: node 2 took over from node 1"
    assert re.fullmatch(r"change 2, timeline 1 to 2, first sign 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}", second)
    assert rest[:6] == [
        "    5.00 s  from the first sign until port app led to node 2",
        "    2.50 s  from the first sign until node 2 was seen to be the primary",
        "    2.50 s  from the promotion until port app was open",
        "    2.00 s  from the promotion until Barman had WAL of timeline 2",
        "  Clients may have waited up to 4.00 s longer: that long before, node 1 was",
        "  still seen to be the primary.",
    ]
    assert "    0.50 s            the primary is unknown: no node is out of recovery" in rest
    assert "                      node 1: Connection refused" in rest
    assert "    4.50 s    0.50 s  route port app to node 2 (10.0.0.12)" in rest


def test_without_a_tick_the_first_sign_is_the_first_event(past: Past, journal: Journal) -> None:
    past.primary(-100, 1, 1)
    past.event(-90, Event(1, "primary_register"))
    event = past.event(0, PROMOTED)
    past.primary(1, 2, 2)
    past.run(0.5, 3, LEAD_APP, events=(event,))
    found = the_report(journal)
    assert (found.zero, found.last_good, found.promoted, found.cut, found.archived) == (T, None, 1, None, None)
    assert told(found)[0] == (0, "event: standby_promote of node 2")


def test_by_hand_and_without_any_sign_it_begins_with_the_run(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.run(-40, -39, (-40, 1, "route port app to node 1 (10.0.0.11)", "", "open_port", "app", 1))
    past.primary(1, 2, 2)
    past.run(0, 2, LEAD_APP)
    assert (the_report(journal).zero, the_report(journal).promoted) == (T, 1)


def test_a_promotion_between_two_looks(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.look(-5000, None, 1, 1)
    past.look(0, -5, 2, 2, TAKEN_OVER)
    past.primary(0.5, 2, 2)
    past.run(0.25, 6, LEAD_APP)
    found = the_report(journal)
    assert (found.zero, found.last_good, found.promoted, found.ports) == (T, -5, 0, {"app": 5.0})


def test_a_primary_that_came_back_once_was_not_lost_then(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    for moment, node in ((-300, None), (-200, 1), (0, None)):
        past.look(moment, moment - 1, node, 1 if node else 0, SILENT)
    past.primary(2, 2, 2)
    assert (the_report(journal).zero, the_report(journal).last_good) == (T, -1)


def test_a_worker_that_began_in_the_middle_has_no_last_good_look(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.look(0, None, None, 0, SILENT)
    past.primary(2, 2, 2)
    assert (the_report(journal).zero, the_report(journal).last_good) == (T, None)


def test_the_failover_right_before_is_another_story(past: Past, journal: Journal) -> None:
    past.primary(-5000, 3, 1)
    past.event(-35, Event(3, "repmgrd_local_disconnect"))
    past.primary(-30, 1, 2)
    past.run(-32, -20, (-25, 1, "route port app to node 1 (10.0.0.11)", "", "open_port", "app", 1))
    past.event(0, LOST)
    past.primary(1, 2, 3)
    past.run(0.5, 5, LEAD_APP)
    last, before = the_report(journal), the_report(journal, "2")
    assert (last.change.id, last.zero, last.ports) == (3, T, {"app": 5.0})
    assert (before.zero, before.ports, before.change.node) == (T - 35, {"app": 11.0}, 1)
    assert told(before)[-1] == (15, "end of run 1 (event): done: 1 step(s)")


def test_the_attempts_after_a_failure_belong_to_it(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.event(0, LOST)
    past.primary(2, 2, 2)
    refused = (2.5, 1.0, "start Barman's receive-wal", "no space left on device")
    past.run(
        2, 4, refused, (3.5, *refused[1:]), LEAD_APP, ok=False, message="FAILED after 2.0 s: barman: no space left"
    )
    past.run(304, 305, (304.5, 0.5, "start Barman's receive-wal", ""), attempt=2)
    past.run(400, 401, (400.5, 0.5, "drop slot barman on standby 1", ""))
    found = the_report(journal)
    assert found.ok is True
    assert told(found)[-2:] == [
        (304.5, "start Barman's receive-wal"),
        (305, "end of run 2 (event, attempt 2): done: 1 step(s)"),
    ]
    text = "\n".join(failover_text.lines(found))
    assert (
        "2.50 s    1.00 s  start Barman's receive-wal\n                      FAILED: no space left on device\n" in text
    )
    assert "3.50 s    1.00 s  start Barman's receive-wal\n                      FAILED: as at 2.50 s\n" in text
    assert "end of run 1 (event)\n                      FAILED: FAILED after 2.0 s: barman: no space left\n" in text


@pytest.mark.parametrize(
    ("ended", "ok", "said"), [(None, None, "The last run has NOT ENDED."), (9, False, "The last run FAILED.")]
)
def test_what_has_not_ended_well_says_so(
    past: Past, journal: Journal, ended: float | None, ok: bool | None, said: str
) -> None:
    past.primary(-5000, 1, 1)
    past.event(0, LOST)
    past.primary(2, 2, 2)
    past.run(1, ended, LEAD_BARMAN, ok=False)
    past.event(8, PROMOTED)
    found = the_report(journal)
    assert (found.ok, (8, "event: standby_promote of node 2") in told(found)) == (ok, True)
    assert said in "\n".join(failover_text.lines(found))
    assert said in failover_html.render(found)


def test_a_change_that_led_no_port(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.primary(0, 2, 2)
    found = the_report(journal)
    assert failover_text.figures(found) == [(0, "from the first sign until node 2 was seen to be the primary")]
    assert "NO PORT was routed to the new primary." in failover_html.render(found)


def test_a_port_that_could_not_be_led_was_not_open(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.primary(2, 2, 2)
    past.run(1, 9, (3, 1, LEAD_APP[2], "iptables-restore failed", *LEAD_APP[4:]), (6, 1, *LEAD_APP[2:]))
    past.run(20, 21, (20, 1, *LEAD_APP[2:]), message="the chains had been wiped")
    assert the_report(journal).ports == {"app": 6.0}, "7 since T, and the run is the first sign, at 1"


def test_a_port_that_was_never_led_was_never_open(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.primary(2, 2, 2)
    past.run(
        1,
        9,
        (3, 1, LEAD_APP[2], "iptables-restore failed", *LEAD_APP[4:]),
        (3, 1, "route port app to node 1 (10.0.0.11)", "", "open_port", "app", 1),
    )
    assert the_report(journal).ports == {}


def test_the_same_node_on_a_new_timeline_is_a_change(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.look(-5000, None, 1, 1)
    past.look(0, -5, None, 0, SILENT)
    past.look(3, 2, 1, 2, "the primary is node 1, timeline 2")
    past.primary(4, 1, 2)
    assert (the_report(journal).zero, the_report(journal).promoted) == (T, 3)


def test_which_one(past: Past, journal: Journal) -> None:
    with pytest.raises(UsageError, match="knows of no change of the primary of main and other"):
        failover.find(journal, "last", ["main", "other"])
    past.primary(-100, 1, 1)
    past.primary(-90, 1, 1, "other")
    with pytest.raises(UsageError, match="knows of no change"):
        failover.find(journal, "last", ["main", "other"])
    past.primary(-80, 2, 2)
    past.primary(-70, 2, 2, "other")
    past.primary(-60, 1, 3)
    for which, clusters, number in (("last", ["main", "other"], 5), ("last", ["other"], 4), ("3", ["main"], 3)):
        assert failover.find(journal, which, clusters).id == number
    for wrong in ("1", "4", "", "LAST", "-1", "9" * 99, "last'; drop table role"):
        with pytest.raises(UsageError, match="has no change of the primary .*; it has 3, 5, and 'last'"):
            failover.find(journal, wrong, ["main"])


def test_the_words_of_the_handlers_are_known(journal: Journal) -> None:
    """A real run in a fake world: whoever renames a step must see that the story still finds it."""
    managed, host = config.load(CONFIG).clusters["main"], FakeHost()
    journal.remember("main", LastKnownPrimary(1, 1, host.nodes[1].system_identifier))
    host.fail_over()
    assert run_now(managed, host, [], "drift", journal).ok
    found = the_report(journal)
    assert set(found.ports) == {"barman", "app"}
    assert found.archived is not None


# -- on the screen and as a page ---------------------------------------------------------------------------------------

EVIL = "<script>alert('&amp;')</script>\n]]> \"quoted\" " + "x" * 300


def evil(past: Past) -> None:
    """Words of others, long and strange, in every place where they can stand."""
    past.primary(-5000, 1, 1)
    past.look(0, -5, None, 0, EVIL)
    past.primary(2, 2, 2)
    past.run(
        1,
        60,
        (3, 0.5, EVIL, EVIL),
        (4, 1e6, "route port <b> to node 2 (x)", "", "open_port", "<b>", 2),
        ok=False,
        message=EVIL,
    )


def test_no_line_is_wider_than_80_columns(past: Past, journal: Journal) -> None:
    evil(past)
    assert max(map(len, failover_text.lines(the_report(journal)))) <= 80


@pytest.mark.parametrize("make", [fail_over, evil])
def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(
    past: Past, journal: Journal, make: Callable[[Past], None]
) -> None:
    make(past)
    found = the_report(journal)
    text = failover_html.render(found)
    root = ElementTree.fromstring(text)
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not names & {"script", "link", "img", "iframe", "object", "b"}
    assert {"svg", "table", "style"} <= names
    addresses = set(re.findall(r"https?://[^\s\"'<>]+", text))
    assert addresses == {"http://www.w3.org/1999/xhtml", "http://www.w3.org/2000/svg"}, "names, which nobody fetches"
    assert not re.search(r"url\((?!#)|@import|\bon\w+=", text)
    rows = ["".join(row.itertext()) for row in root.iter("{http://www.w3.org/1999/xhtml}tr")]
    for item in found.items:
        assert any(item.what in row and item.error in row for row in rows)
    shown = "".join(root.itertext())
    for seconds, what in failover_text.figures(found):
        assert f"{what}{seconds:.2f} s" in shown


def test_what_failed_is_said_in_words_and_not_by_a_colour_alone(past: Past, journal: Journal) -> None:
    evil(past)
    drawing = failover_html.render(the_report(journal))
    assert re.search(r'<text class="bad"[^>]*>FAILED: &lt;script&gt;', drawing)
    assert '<span class="bad">FAILED: &lt;script&gt;' in drawing


def test_every_bar_and_word_is_on_the_chart(past: Past, journal: Journal) -> None:
    fail_over(past)
    svg = ElementTree.fromstring(failover_html.render(the_report(journal))).find(".//{http://www.w3.org/2000/svg}svg")
    assert svg is not None
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    bars = [shape for shape in svg.iter("{http://www.w3.org/2000/svg}rect") if shape.get("class") == "bar"]
    assert len(bars) == 4
    for shape in bars:
        assert 0 <= float(shape.attrib["x"]) <= float(shape.attrib["x"]) + float(shape.attrib["width"]) <= width
        assert 0 <= float(shape.attrib["y"]) <= height
    texts = ["".join(text.itertext()) for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"first sign", "promotion seen, 2.50 s", "port app open, 5.00 s", "0 s", "5 s"} <= set(texts)


def test_a_row_without_room_beside_its_bars_has_its_words_above(past: Past, journal: Journal) -> None:
    past.primary(-5000, 1, 1)
    past.event(0, LOST)
    past.primary(1, 2, 2)
    past.run(1, 100, *((1 + 20 * number, 15, "a step " + "x" * 60, "no") for number in range(5)), ok=False)
    assert ">FAILED 5 of 5 times: a step xxx" in failover_html.render(the_report(journal))


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path, past: Past) -> Callable[..., int]:
    """The program, with the journal of a failover."""
    fail_over(past)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.read_text().replace("/var/lib/repmgr-hooks", str(tmp_path)))
    return lambda *argv: cli.run(["--config", str(path), *argv])


def test_for_people(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    for which in ("last", "2"):
        assert run("history", "--failover", which) == 0
        assert capsys.readouterr().out.startswith("main: node 2 took over from node 1\nchange 2, timeline 1 to 2, ")


def test_for_machines(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("history", "--failover", "last", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["zero"], plain["last_good"], plain["promoted"], plain["archived"]) == (T, -4, 2.5, 4.5)
    assert plain["ports"] == {"barman": 3.25, "app": 5.0}
    assert (plain["change"]["was"], plain["change"]["node"], plain["change"]["until"]) == (1, 2, None)
    facts = {"step": "open_port", "target": "barman", "node": 2, "code": "", "hint": ""}
    item = {"at": 3.0, "kind": "step", "what": LEAD_BARMAN[2], "took": 0.25, "error": "", **facts}
    assert plain["items"][4] == item


def test_as_a_page_that_takes_the_place_of_an_older_one(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    before = {file.name for file in tmp_path.iterdir()}
    assert run("history", "--failover", "last", "--html", str(target)) == 0
    assert capsys.readouterr().out == ""
    assert target.read_text().startswith("<!DOCTYPE html>")
    assert target.stat().st_mode & 0o777 == 0o644
    assert {file.name for file in tmp_path.iterdir()} == before, "no temporary file stays"


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--html", "x.html"], "--html shows one change of the primary: add '--failover last'"),
        (["--failover", ""], "the journal has no change of the primary ''; it has 2, and 'last'"),
        (["--failover", "7"], "the journal has no change of the primary '7'; it has 2, and 'last'"),
        (["--failover", "last", "--html", "/nowhere/x.html"], "/nowhere/x.html cannot be written: "),
        (["--failover", "last", "--html", "/"], "/ is not a file"),
        (["--failover", "last", "--html", ""], ". is not a file"),
    ],
)
def test_what_cannot_be_shown(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str], argv: list[str], said: str
) -> None:
    assert run("history", *argv) == 2
    out, err = capsys.readouterr()
    assert (out, said in err) == ("", True)


def test_a_full_disk_leaves_the_old_page(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("history", "--failover", "last", "--html", "/dev/full/x") == 2
    (tmp_path / "is a directory").mkdir()
    assert run("history", "--failover", "last", "--html", str(tmp_path / "is a directory")) == 2
    assert [file.name for file in tmp_path.glob(".*")] == []


# -- as a client has it ------------------------------------------------------------------------------------------------


def test_how_long_no_client_could_write(past: Past) -> None:
    """From the first that could not, which may come before our first sign, to the first on the new primary."""
    fail_over(past)
    past.probe(-5000, "writes", 1)
    past.probe(-30, "silent", None)
    past.probe(-20, "writes", 2)
    past.probe(-15, "writes", 1)
    past.probe(-1, "silent", None)
    past.probe(2.5, "closed", None)
    past.probe(5.25, "writes", 2)
    past.probe(40, "silent", None)
    found = the_report(past.journal)
    assert found.outages == {"port app": (-1, 5.25)}
    clients = [(item.at, item.what) for item in found.items if item.kind == "client"]
    assert clients == [(-1, "port app: silent"), (2.5, "port app: closed"), (5.25, "port app: writes")]
    assert (6.25, "for a client of port app: from the first that could not write") in failover_text.figures(found)
    assert "port app: closed" in failover_html.render(found)


@pytest.mark.parametrize(
    "probes",
    [
        [],
        [(-5000, "writes", 1)],
        [(0, "silent", None), (1, "writes", 1)],  # it could again on the old primary
        [(0, "silent", None)],  # and never again
    ],
)
def test_what_no_probe_has_seen_is_not_told(past: Past, probes: list[tuple[float, str, int | None]]) -> None:
    fail_over(past)
    for probe in probes:
        past.probe(*probe)
    assert the_report(past.journal).outages == {}
