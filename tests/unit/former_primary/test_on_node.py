"""A former primary is stopped, its WAL kept, and it is rejoined or cloned: by a real shell, with programs of ours."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repmgr_hooks.cluster.observe import NodeState
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.former_primary.on_node import ByShell, Ended
from repmgr_hooks.former_primary.record import Former
from repmgr_hooks.former_primary.scripts import Refused
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node
from repmgr_hooks.settings.former_primary import FormerPrimary
from repmgr_hooks.system.host import LocalHost
from repmgr_hooks.system.steps import Rows, Sql

SYSTEM, LIMIT = "7300000000000000001", 60.0
CONTROL = """#!/bin/sh
cat {place}/control
"""
REPMGR = """#!/bin/sh
echo "repmgr $*" >>{place}/calls
case "$*" in
*action=stop) [ -e {place}/hangs ] || {{ (sleep 0.5; kill "$(head -n 1 {data}/postmaster.pid)") & }} ;;
*'node rejoin'*) while [ -e {place}/slow ]; do sleep 0.05; done
    [ ! -e {place}/fails ] || {{ echo 'ERROR: pg_rewind execution failed'; echo 'DETAIL: no WAL'; exit 24; }} ;;
*'standby clone'*) rm -rf {data}; mkdir {data}; /bin/pwd >/dev/null || exit; echo primary >{data}/own.conf ;;
esac
"""
PG_CTL = """#!/bin/sh
echo "pg_ctl $*" >>{place}/calls
case "$*" in
*immediate*) server=$(head -n 1 postmaster.pid)
    kill -9 $server
    while [ /proc/$server/cwd -ef . ]; do sleep 0.05; done ;;
esac
"""
PGREP = """#!/bin/sh
for process in $(/usr/bin/pgrep "$@"); do grep -qsz '^PATH={place}/bin:' "/proc/$process/environ" && exit; done
exit 1
"""
"""The real one, of what this test has started: others test beside it."""
PSQL = "#!/bin/sh\ncat {place}/verified\n"
HISTORY = "1\t0/4000050\tno recovery target specified\n"
PRIMARY = NodeState(2, in_recovery=False, timeline=2, system_identifier=SYSTEM)
SAID = "Database system identifier:  {}\nDatabase cluster state:      {}\nLatest checkpoint location:  0/5000028\n"
REDO = "Latest checkpoint's REDO WAL file:    000000010000000000000005\n"


class NodesAnswer(LocalHost):
    """Programs are run; nodes are not there, and answer all the same."""

    def fetch(self, sql: Sql, limit: float) -> Rows:
        assert sql == Sql(2, "TIMELINE_HISTORY 2", walsender=True)
        return [("00000002.history", HISTORY)]


@dataclass(frozen=True)
class Place:
    """A node with programs of ours, and what they were called with."""

    path: Path
    former: Former
    node: ByShell

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def calls(self) -> str:
        calls = self.path / "calls"
        return calls.read_text() if calls.exists() else ""

    @property
    def kept(self) -> list[Path]:
        return sorted((self.path / "data.former").glob("wal-*"))

    def says(self, state: str, system: str = SYSTEM) -> None:
        (self.path / "control").write_text(SAID.format(system, state) + REDO)

    def starts(self) -> subprocess.Popen[bytes]:
        """Something that stands for a postmaster, with the data directory as its own."""
        program = subprocess.Popen(("sleep", "600"), cwd=self.data, stdin=subprocess.DEVNULL)
        (self.data / "postmaster.pid").write_text(f"{program.pid}\n")
        self.says("in production")
        return program

    def has_wal(self, *names: str) -> None:
        for name in names:
            (self.data / "pg_wal" / name).write_text(name)

    def ends(self, former: Former | None = None) -> Ended:
        """Wait for the end of a job."""
        end = time.monotonic() + LIMIT
        while (found := self.node.ask(former or self.former)) is None:
            assert time.monotonic() < end
            time.sleep(0.02)
        return found

    def rejoin(self, began: int | None = None) -> Ended:
        former = replace(self.former, job=secrets.token_hex(8))
        self.node.rejoin(former, PRIMARY, began)
        return self.ends(former)

    def clone(self, rewound: bool = False) -> Ended:
        former = replace(self.former, job=secrets.token_hex(8), rewound=rewound)
        self.node.clone(former, PRIMARY)
        return self.ends(former)


MakePlace = Callable[..., Place]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePlace:
    data = tmp_path / "data"
    (data / "pg_wal").mkdir(parents=True)
    (data / "global").mkdir()
    (data / "global/pg_control").touch()
    (data / "PG_VERSION").write_text("15\n")
    programs = tmp_path / "bin"
    programs.mkdir()
    texts = {"repmgr": REPMGR, "pg_controldata": CONTROL, "pg_ctl": PG_CTL, "psql": PSQL, "pgrep": PGREP}
    for name, text in texts.items():
        (programs / name).write_text(text.format(place=tmp_path, data=data))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    (tmp_path / "verified").write_text(f"f|{SYSTEM}|2|2\n")
    (tmp_path / "repmgr.conf").write_text("node_id=1\n")
    host = NodesAnswer({})

    def made(**options: object) -> Place:
        cluster = Cluster(
            {n: Node(f"10.0.0.1{n}", False, ("env",)) for n in (1, 2)}, Gateway("10.0.0.20", {"app": 5433})
        )
        former = Former(
            *(1, SYSTEM, 1, 2, 0.0), directory=str(data), conf=str(tmp_path / "repmgr.conf"), job="0a", phase="fenced"
        )
        place = Place(tmp_path, former, ByShell(cluster, FormerPrimary(**options), host))  # type: ignore[arg-type]
        place.says("shut down")
        place.has_wal(*(f"00000001000000000000000{n}" for n in "34567"))
        return place

    return made


@pytest.fixture
def place(make: MakePlace) -> Place:
    return make()


@pytest.fixture
def running(place: Place) -> Iterator[subprocess.Popen[bytes]]:
    program = place.starts()
    yield program
    program.kill()
    program.wait(LIMIT)


def test_it_is_stopped_by_repmgr(place: Place, running: subprocess.Popen[bytes]) -> None:
    former = place.node.stop(place.former, 10)
    assert former.phase == "fenced"
    assert "/bin" in former.path
    running.wait(LIMIT)
    assert place.calls == f"repmgr -f {place.path}/repmgr.conf node service --action=stop\n"


def test_what_does_not_stop_is_stopped_at_once(place: Place, running: subprocess.Popen[bytes]) -> None:
    (place.path / "hangs").touch()
    assert place.node.stop(place.former, 1).phase == "fenced"
    assert "immediate" in place.calls
    running.wait(LIMIT)


@pytest.mark.parametrize(
    "change",
    [
        lambda place: place.says("in production", "7300000000000000002"),
        lambda place: place.says("in archive recovery"),
        lambda place: place.has_wal("00000003.history"),
        lambda place: place.has_wal("000000020000000000000007"),
        lambda place: place.has_wal("000000020000000000000007.partial"),
        lambda place: (place.data / "standby.signal").touch(),
    ],
    ids=["another system", "a standby", "promoted: its history", "promoted: its WAL", "partial", "standby.signal"],
)
def test_what_is_not_what_was_seen_is_not_touched(
    place: Place, running: subprocess.Popen[bytes], change: Callable[[Place], None]
) -> None:
    change(place)
    with pytest.raises(OperationFailed) as refused:
        place.node.stop(place.former, 10)
    assert refused.value.code == "another"
    assert running.poll() is None
    assert place.calls == ""


CONF = "node_id=1\n  data_directory = '{}'  # where\n"


def test_repmgr_of_another_server_on_its_host_is_not_used(place: Place, running: subprocess.Popen[bytes]) -> None:
    """The table says where repmgr.conf is: with a wrong one repmgr would stop, rewind or delete another server."""
    (place.path / "repmgr.conf").write_text(CONF.format(place.path))
    with pytest.raises(OperationFailed, match=f"repmgr.conf is about {place.path}"):
        place.node.stop(place.former, 5)
    assert running.poll() is None
    running.kill()
    running.wait(60)
    for ended in (place.rejoin(), place.clone(rewound=True)):
        assert (ended.code, ended.untouched) == (Refused.ANOTHER, True), ended
    assert place.calls == ""


def test_its_own_repmgr_conf_may_name_it_by_a_link(place: Place, running: subprocess.Popen[bytes]) -> None:
    (place.path / "link").symlink_to(place.data)
    (place.path / "repmgr.conf").write_text(CONF.format(place.path / "link"))
    assert place.node.stop(place.former, 5).phase == "fenced"


def test_what_still_runs_is_not_said_to_be_stopped(place: Place, running: subprocess.Popen[bytes]) -> None:
    (place.path / "hangs").touch()
    (place.path / "bin/pg_ctl").write_text("#!/bin/sh\n")
    with pytest.raises(OperationFailed) as failed:
        place.node.stop(place.former, 1)
    assert failed.value.code == "not_stopped"


def test_one_that_cannot_be_reached_is_not_said_to_be_stopped(place: Place) -> None:
    cluster = replace(place.node.cluster, nodes={1: Node("10.0.0.11", False, ("false",)), 2: Node("10.0.0.12")})
    with pytest.raises(OperationFailed):
        replace(place.node, cluster=cluster).stop(place.former, 10)


def test_its_own_wal_is_kept_and_it_is_rejoined(place: Place) -> None:
    assert place.rejoin() == Ended(0, f"its own WAL is kept: 2 file(s) in {place.kept[0]}")
    (copy,) = place.kept
    assert copy.name == "wal-00000001-0000000000000004-0-5000028"
    assert sorted(file.name[-1] for file in copy.iterdir()) == ["4", "5"], "from the switchpoint to the shutdown"
    assert "node rejoin -d host=10.0.0.12 port=5432 user=repmgr dbname=repmgr --force-rewind" in place.calls


def test_all_is_kept_of_which_nobody_knows_where_it_ends_or_began(place: Place) -> None:
    place.says("in production")
    assert place.rejoin(began=2).good
    (copy,) = place.kept
    assert len(list(copy.iterdir())) == 5, "it was killed, and another node has begun a timeline of that number"


def test_the_same_wal_is_kept_once_and_the_oldest_copies_go(make: MakePlace) -> None:
    place = make(kept_copies=2)
    assert place.rejoin().good
    assert place.rejoin().good
    assert len(place.kept) == 1
    for number in (1, 2, 3):
        os.utime(place.kept[0], (number, number))
        (place.path / "control").write_text(SAID.format(SYSTEM, "shut down").replace("5000028", f"500002{number}"))
        assert place.rejoin().good
    assert [copy.name[-1] for copy in place.kept] == ["2", "3"]


def test_a_job_whose_end_is_known_may_have_the_lock_for_a_moment(place: Place) -> None:
    """On a busy machine: the next one was refused."""
    assert place.rejoin().good
    lock = place.path / "data.former/lock"
    with subprocess.Popen(("flock", lock, "sh", "-c", "echo held; sleep 0.5"), stdout=subprocess.PIPE) as holds:
        assert holds.stdout and holds.stdout.readline() == b"held\n"
        assert place.rejoin().good


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda place: (place.path / "verified").write_text(f"f|{SYSTEM}|3|3\n"), Refused.PRIMARY),
        (lambda place: (place.path / "verified").write_text(f"t|{SYSTEM}|2|2\n"), Refused.PRIMARY),
        (lambda place: (place.path / "verified").write_text(f"f|{SYSTEM}|2|1\n"), Refused.EARLY),
        (lambda place: place.has_wal("00000002.history"), Refused.ANOTHER),
        (lambda place: (place.data / "standby.signal").touch(), Refused.ANOTHER),
        (lambda place: place.says("shut down in recovery"), Refused.ANOTHER),
        (lambda place: (place.path / "data.former").joinpath("files").touch(), None),
    ],
    ids=["another primary", "a standby", "no checkpoint yet", "promoted", "standby.signal", "was a standby", "nothing"],
)
def test_it_is_looked_at_again_before(place: Place, change: Callable[[Place], None], refused: Refused | None) -> None:
    (place.path / "data.former").mkdir()
    change(place)
    ended = place.rejoin()
    assert ended.code == (refused or 0)
    assert ended.untouched == (refused is not None)
    assert ("rejoin" in place.calls) == (refused is None)


def test_nothing_is_begun_beside_what_somebody_else_does_there(place: Place) -> None:
    """With the real pgrep."""
    program = place.path / "pg_basebackup"
    shutil.copy("/bin/sleep", program)
    with subprocess.Popen((program, "600"), stdin=subprocess.DEVNULL) as works:
        try:
            assert place.rejoin().code == Refused.BUSY
        finally:
            works.kill()
    assert place.calls == ""
    assert place.rejoin().good


def test_more_wal_than_may_be_kept(make: MakePlace) -> None:
    place = make(max_kept_wal="16MB")
    ended = place.rejoin()
    assert (ended.code, place.kept, place.calls) == (Refused.TOO_MUCH, [], "")
    assert ended.why == (
        "it has more WAL of its own than may be kept (2 WAL files are its own, and at most 1 are kept)"
    )
    assert "max_kept_wal" in ended.hint


def test_one_that_runs_is_not_rejoined(place: Place, running: subprocess.Popen[bytes]) -> None:
    assert place.rejoin().code == Refused.RUNNING
    assert place.clone().code == Refused.RUNNING
    assert place.calls == ""


def test_what_repmgr_says_is_why(place: Place) -> None:
    (place.path / "fails").touch()
    ended = place.rejoin()
    assert (ended.code, ended.untouched, ended.why) == (24, False, "pg_rewind execution failed; no WAL")


def test_it_goes_on_without_us_and_one_at_a_time(place: Place) -> None:
    (place.path / "slow").touch()
    place.node.rejoin(place.former, PRIMARY, None)
    assert place.node.ask(place.former) is None
    with pytest.raises(OperationFailed) as busy:
        place.node.rejoin(replace(place.former, job="0b"), PRIMARY, None)
    assert busy.value.code == "not_begun"
    assert place.node.ask(place.former) is None
    (place.path / "slow").unlink()
    assert place.ends().good


def test_what_never_ran_has_changed_nothing(place: Place) -> None:
    """The service was killed between its record and the beginning: a clone would delete WAL that nobody has kept."""
    assert place.node.ask(place.former) == Ended(Refused.CUT_OFF)
    assert place.rejoin().good
    assert place.node.ask(replace(place.former, job="0c")) == Ended(Refused.CUT_OFF)


def test_what_was_killed_before_the_wal_was_kept_has_changed_nothing(place: Place) -> None:
    (place.path / "bin/psql").write_text("#!/bin/sh\nkill -9 0\n")
    ended = place.rejoin()
    assert (ended.code, ended.untouched, place.kept) == (Refused.CUT_OFF, True, [])


def test_a_part_of_it_that_was_killed_before_has_changed_nothing(place: Place) -> None:
    area = place.path / "data.former"
    area.mkdir()
    (area / f"code-{place.former.job}").write_text("137\n")
    (area / f"said-{place.former.job}").write_text("Killed\n")
    ended = place.ends()
    assert (ended.untouched, ended.why) == (True, "it was cut off before it had changed anything there (Killed)")


def test_how_far_a_rewind_came_that_was_killed_is_not_known(place: Place) -> None:
    (place.path / "bin/repmgr").write_text("#!/bin/sh\nkill -s KILL -- -$(($(ps -o sid= -p $$)))\n")
    assert place.rejoin() == Ended(None)
    assert len(place.kept) == 1


def test_a_clone_leaves_the_nodes_own_files(make: MakePlace) -> None:
    place = make(clone="primary", config_files=("own.conf", "missing.conf"))
    (place.data / "own.conf").write_text("own")
    ended = place.clone()
    assert ended.good, ended
    assert (place.data / "own.conf").read_text() == "own"
    assert place.calls.splitlines() == [
        f"repmgr -f {place.path}/repmgr.conf -h 10.0.0.12 -p 5432 -U repmgr -d repmgr standby clone --force "
        "--fast-checkpoint --without-barman",
        f"pg_ctl -D . -w -t 60 -l {place.path}/data.former/server.log start",
        f"repmgr -f {place.path}/repmgr.conf standby register --force",
    ]


def test_a_clone_that_has_failed_is_tried_again(make: MakePlace) -> None:
    place = make(clone="primary", config_files=("own.conf",))
    (place.data / "own.conf").write_text("own")
    assert place.clone().good
    subprocess.run(("rm", "-r", str(place.data)), check=True, timeout=60, stdin=subprocess.DEVNULL)
    assert place.clone(rewound=True).good
    assert (place.data / "own.conf").read_text() == "own"


def test_a_clone_from_barman_needs_one_in_repmgr_conf(make: MakePlace) -> None:
    place = make(clone="barman")
    assert place.clone().code == Refused.NO_BARMAN
    assert place.calls == ""
    (place.path / "repmgr.conf").write_text("barman_host='backup'\nservice_start_command='start'\n")
    assert place.clone().good
    assert "--without-barman" not in place.calls
    assert "node service --action=start" in place.calls
    assert "pg_ctl" not in place.calls


@pytest.mark.parametrize(
    ("state", "timeline", "marks", "cloned"),
    [
        ("shut down", 3, (), False),
        ("in production", 2, (), False),
        ("in production", 2, ("standby.signal",), True),
        ("in production", 2, ("backup_label",), True),
        ("in archive recovery", 2, (), True),
        ("shut down", 1, (), True),
    ],
)
def test_a_node_that_was_a_primary_since_is_not_cloned(
    make: MakePlace, state: str, timeline: int, marks: tuple[str, ...], cloned: bool
) -> None:
    """What it has written on its own timeline is nowhere else; what a rewind or a clone has left is told apart."""
    place = make(clone="primary")
    place.says(state)
    with (place.path / "control").open("a") as control:
        control.write(f"Latest checkpoint's TimeLineID:       {timeline}\n")
    for mark in marks:
        (place.data / mark).touch()
    ended = place.clone(rewound=True)
    assert ended.good is cloned
    assert ("clone" in place.calls) is cloned
    assert cloned or ended.code == Refused.ANOTHER


def test_a_node_of_another_system_is_not_cloned(make: MakePlace) -> None:
    place = make(clone="primary")
    place.says("shut down", "7300000000000000002")
    assert place.clone().code == Refused.ANOTHER
    assert place.calls == ""
