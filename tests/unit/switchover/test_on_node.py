"""repmgr is started, waits before it stops the primary, and goes on or ends: by a real shell, with programs of ours."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.switchover.on_node import Repmgr, RepmgrState
from repmgr_hooks.system.host import LocalHost

LIMIT = 60.0
REPMGR = """#!/bin/sh
echo "repmgr $*" >>{place}/log
case "$*" in
*--list-actions*) exit ;;
*' node service '*) (sleep 0.2; rm -f {place}/primary/postmaster.pid) >/dev/null 2>&1 & exit ;;
*' node '*) exit ;;
esac
cp "${{PATH%%/bin:*}}/session" {place}/session
if [ -e {place}/refuses ]; then echo 'ERROR: it is late'; echo 'HINT: wait'; exit 8; fi
ssh -o Batchmode=yes db1 repmgr -f /etc/repmgr.conf node check --terse
case "$*" in *--dry-run*)
    ssh -o Batchmode=yes db1 repmgr -f /etc/repmgr.conf node service --terse -LERROR --list-actions --action=stop
    exit 0
esac
ssh -o Batchmode=yes db1 {there} -f /etc/repmgr.conf node service --action=stop --checkpoint
[ -e {place}/primary/postmaster.pid ] && echo 'INFO: it has not ended'
ssh -o Batchmode=yes db1 repmgr -f /etc/repmgr.conf node rejoin
if [ -e {place}/slow ]; then sleep 600; fi
case "$*" in *' -L INFO '*) [ ! -e {place}/promotes ] || echo 'NOTICE: promoting standby to primary' ;; esac
echo 'NOTICE: done'
"""
SSH = """#!/bin/sh
echo "ssh $*" >>{place}/log
[ ! -e {place}/cut ] || case "$*" in *--action=stop*) exit 255 ;; esac
shift 3
case "$*" in *--action=stop*) ;; *) exec sh -c "$*" ;; esac
if [ ! -e {place}/stalls ]; then exec sh -c "$*"; fi
{{
    while [ -e {place}/stalls ]; do sleep 0.05; done
    cat
}} | {{
    sh -c "$*"
    code=$?
    echo >{place}/ended
    exit $code
}}
"""
STOP = "node service --action=stop --checkpoint"


@dataclass(frozen=True)
class Node:
    """A node with programs of ours, and what they were called with."""

    place: Path
    repmgr: Repmgr

    @property
    def calls(self) -> str:
        log = self.place / "log"
        return log.read_text() if log.exists() else ""

    @property
    def stopped(self) -> bool:
        """Whether the primary was told to stop; ssh may be there, and wait, before that."""
        return any(STOP in line for line in self.calls.splitlines() if line.startswith("repmgr "))


@pytest.fixture
def host() -> LocalHost:
    return LocalHost({})


@pytest.fixture
def node(tmp_path: Path, there: str) -> Iterator[Node]:
    for name, text in {"repmgr": REPMGR, "ssh": SSH}.items():
        program = tmp_path / name
        program.write_text(text.format(place=tmp_path, there=there.format(place=tmp_path)))
        program.chmod(0o755)
    (tmp_path / "renamed").symlink_to("repmgr")
    server = subprocess.Popen(["sleep", "600"], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"})
    (tmp_path / "primary").mkdir()
    for directory in (tmp_path, tmp_path / "primary"):
        (directory / "postmaster.pid").write_text(f"{server.pid}\n/data\n")
    repmgr = Repmgr(("env",), str(tmp_path), "/etc/repmgr/it's.conf", str(tmp_path / "primary"))
    yield Node(tmp_path, repmgr)
    server.kill()
    server.wait(60)


@pytest.fixture
def there() -> str:
    """What repmgr of the primary is called by; tests may have it otherwise."""
    return "repmgr"


def gone(place: str) -> bool:
    return not Path(place).exists()


def test_a_rehearsal_waits_for_no_word(node: Node, host: LocalHost) -> None:
    ran = node.repmgr.rehearse(host, LIMIT)
    assert (ran.code, node.stopped) == (0, False)
    assert (
        "repmgr -f /etc/repmgr/it's.conf -L INFO standby switchover --siblings-follow --repmgrd-no-pause --dry-run"
        in node.calls
    )
    assert gone(node.repmgr.place)


@pytest.mark.parametrize("there", ["repmgr", "{place}/renamed"])
def test_it_waits_for_a_word_and_goes_on(node: Node, host: LocalHost) -> None:
    assert node.repmgr.start(host, LIMIT) is None
    assert "node check" in node.calls
    assert not node.stopped
    ran = node.repmgr.go_on(host, LIMIT)
    assert (ran.code, ran.said.splitlines()[-1], node.stopped) == (0, "NOTICE: done", True)
    assert "node rejoin" in node.calls
    assert gone(node.repmgr.place)


ANY_PLACE = pytest.mark.parametrize("there", ["repmgr", "{place}/repmgr"])


@ANY_PLACE
def test_it_has_logged_in_on_the_primarys_host_before_clients_are_held(node: Node, host: LocalHost) -> None:
    assert node.repmgr.start(host, LIMIT) is None
    assert sum(line.startswith("ssh ") and STOP in line for line in node.calls.splitlines()) == 1
    assert not node.stopped
    node.repmgr.go_on(host, LIMIT)
    assert node.calls.count(STOP) == 2, "ssh once, and repmgr there"


@ANY_PLACE
def test_the_primary_has_ended_before_repmgr_looks(node: Node, host: LocalHost) -> None:
    """It would look again only after a second, in which clients are held."""
    assert node.repmgr.start(host, LIMIT) is None
    assert node.repmgr.go_on(host, LIMIT).said == "NOTICE: done"


def test_a_primary_whose_directory_is_not_known_is_not_waited_for(node: Node, host: LocalHost) -> None:
    repmgr = replace(node.repmgr, primary="")
    assert repmgr.start(host, LIMIT) is None
    assert repmgr.go_on(host, LIMIT).code == 0


@ANY_PLACE
def test_ssh_fails_before_the_word(node: Node, host: LocalHost) -> None:
    """repmgr itself would go on looking whether the primary has stopped."""
    (node.place / "cut").touch()
    with pytest.raises(OperationFailed, match="ssh has failed"):
        node.repmgr.start(host, LIMIT)
    ends(node)


def test_it_says_whether_it_is_at_work(node: Node, host: LocalHost) -> None:
    """Its caller may be gone: repmgrd must not be unpaused beside a repmgr that is about to promote a node."""
    session = goes_on(node, host)
    assert node.repmgr.look(host, LIMIT) is RepmgrState.AT_WORK
    assert node.repmgr.look(host, LIMIT) is RepmgrState.AT_WORK
    subprocess.run(["kill", "-KILL", "--", f"-{session}"], check=True)
    until_it_ends(node, host)
    assert gone(node.repmgr.place)


def goes_on(node: Node, host: LocalHost) -> str:
    """Let it go on to what takes long, without anybody who waits; return its session."""
    (node.place / "slow").touch()
    assert node.repmgr.start(host, LIMIT) is None
    Path(node.repmgr.place, "go").touch()
    return Path(node.repmgr.place, "session").read_text().strip()


def until_it_ends(node: Node, host: LocalHost) -> None:
    """As after a boot of its node, or of one that was killed."""
    end = time.monotonic() + LIMIT
    while node.repmgr.look(host, LIMIT) is RepmgrState.AT_WORK:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_one_that_has_been_read_is_over(node: Node, host: LocalHost) -> None:
    assert node.repmgr.start(host, LIMIT) is None
    node.repmgr.go_on(host, LIMIT)
    assert node.repmgr.look(host, LIMIT) is RepmgrState.OVER


def test_one_that_waits_for_a_word_of_somebody_who_is_gone_is_ended(node: Node, host: LocalHost) -> None:
    """Else repmgrd stays paused until it gives up; and a word that comes late lets nothing go on."""
    assert node.repmgr.start(host, LIMIT) is None
    assert node.repmgr.look(host, LIMIT) is RepmgrState.UNPROMOTED
    assert gone(node.repmgr.place)
    with pytest.raises(OperationFailed):
        node.repmgr.go_on(host, LIMIT)
    ends(node)


@pytest.mark.parametrize("promotes", [False, True])
def test_one_that_has_ended_and_that_nobody_has_asked(node: Node, host: LocalHost, promotes: bool) -> None:
    """It is said whether it had begun to promote its node: if not, the old primary can serve again.

    repmgr says so as a notice, which repmgr.conf may suppress (log_level).
    """
    if promotes:
        (node.place / "promotes").touch()
    assert node.repmgr.start(host, LIMIT) is None
    Path(node.repmgr.place, "go").touch()
    end = time.monotonic() + LIMIT
    while not Path(node.repmgr.place, "code").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert node.repmgr.look(host, LIMIT) is (RepmgrState.OVER if promotes else RepmgrState.UNPROMOTED)
    assert gone(node.repmgr.place)


def test_a_node_that_says_something_else_is_not_believed(node: Node, host: LocalHost) -> None:
    with pytest.raises(OperationFailed, match="not said"):
        replace(node.repmgr, command=("echo",)).look(host, LIMIT)


def test_it_refuses(node: Node, host: LocalHost) -> None:
    (node.place / "refuses").touch()
    ran = node.repmgr.start(host, LIMIT)
    assert ran is not None
    assert (ran.code, ran.why, ran.lines("HINT")) == (8, "it is late", ["wait"])


def ends(node: Node) -> None:
    """Wait until nothing of it is left, and it has stopped nothing."""
    end = time.monotonic() + LIMIT
    while node.repmgr.place in processes() or not gone(node.repmgr.place):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not node.stopped
    assert "node rejoin" not in node.calls


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def processes() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_it_is_given_up(node: Node, host: LocalHost) -> None:
    assert node.repmgr.start(host, LIMIT) is None
    node.repmgr.give_up(host, LIMIT)
    ends(node)


def test_one_that_cannot_be_ended_stops_nothing_without_a_word(node: Node, host: LocalHost) -> None:
    """Whoever began it was cut off just then, or the disk is full: its session is not written down."""
    repmgr = replace(node.repmgr, word_limit=5.0)
    node = replace(node, repmgr=repmgr)
    assert repmgr.start(host, LIMIT) is None
    with suppress(FileNotFoundError):  # on a machine that is slow it has been ended
        Path(repmgr.place, "session").write_text("")
    until(lambda: gone(repmgr.place) and repmgr.place not in processes())
    assert not node.stopped


def test_its_session_is_known_before_it_begins(node: Node, host: LocalHost) -> None:
    """Whoever begins it may be cut off at any moment."""
    assert node.repmgr.start(host, LIMIT) is None
    assert (node.place / "session").read_text() == Path(node.repmgr.place, "session").read_text() != ""
    node.repmgr.give_up(host, LIMIT)


@pytest.mark.slow
def test_a_word_that_comes_late_stops_nothing(node: Node, host: LocalHost) -> None:
    """The network stands still just then; when it goes on, nobody holds the clients any more."""
    node = replace(node, repmgr=replace(node.repmgr, word_limit=2.0))
    stalls = node.place / "stalls"
    stalls.touch()
    assert node.repmgr.start(host, LIMIT) is None
    with suppress(FileNotFoundError):  # on a machine that is slow it has ended without a word
        Path(node.repmgr.place, "go").touch()
    until(lambda: gone(node.repmgr.place) or (node.place / "ended").exists())
    stalls.unlink()
    until(lambda: node.repmgr.place not in processes())
    assert not node.stopped


def test_without_a_word_it_ends_and_does_not_go_on_looking(node: Node, host: LocalHost) -> None:
    node = replace(node, repmgr=replace(node.repmgr, word_limit=0.5))
    assert node.repmgr.start(host, LIMIT) is None
    ends(node)
    with pytest.raises(OperationFailed):
        node.repmgr.go_on(host, LIMIT)
    assert not node.stopped
