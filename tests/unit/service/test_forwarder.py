"""The forwarder as a process, with real gateways at the other end of a pipe instead of ssh."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import repmgr_hooks
from repmgr_hooks import hook
from repmgr_hooks.errors import LockTimeout, UsageError
from repmgr_hooks.forward import settings
from repmgr_hooks.forward.queue import last_taken
from repmgr_hooks.service.forwarder import Forwarder

US = (sys.executable, "-P", "-m", "repmgr_hooks")
GONE = ("false",)


class DatabaseHost:
    """A database host and its gateways, each a state directory."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.config = place / "config.yaml"
        self.spool = place / "db2" / "spool"
        self.spool.mkdir(parents=True)
        self.running: list[subprocess.Popen[bytes]] = []

    def gateway(self, name: str) -> tuple[str, ...]:
        """Make a gateway, and return the command that leads to it."""
        (self.place / name / "spool").mkdir(parents=True)
        (self.place / f"{name}.yaml").write_text(f"state_dir: {self.place / name}\n")
        return (*US, "--config", str(self.place / f"{name}.yaml"), "receive-event", "--host", "db2")

    def leads_to(self, **commands: tuple[str, ...]) -> None:
        gateways = {name: {"command": list(command), "timeout": 300} for name, command in commands.items()}
        text = f"state_dir: {self.place / 'db2'}\nforward:\n  gateways: {json.dumps(gateways)}\n"
        self.config.write_text(text)

    def event(self, *words: str) -> None:
        hook.store(str(self.spool), ["main", *words])
        hook.wake(str(self.spool))

    def start(self) -> subprocess.Popen[bytes]:
        argv = (*US, "--config", str(self.config), "forward")
        made = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(made)
        return made

    def taken(self, name: str) -> list[str]:
        """What a gateway has in its spool, in the order in which it came; an event that came twice is there twice."""
        files = sorted(file for file in (self.place / name / "spool").iterdir() if file.name[0] != ".")
        return [file.read_text().split("\n")[2] for file in files]

    def waiting(self, name: str) -> int:
        return sum(file.name[0] != "." for file in (self.place / "db2" / "forward" / name).iterdir())


@pytest.fixture
def db2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DatabaseHost]:
    monkeypatch.setenv("PYTHONPATH", str(Path(repmgr_hooks.__file__).parents[1]))
    made = DatabaseHost(tmp_path)
    yield made
    for process in made.running:
        process.kill()
        process.wait(60)


def until(true: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_each_event_comes_to_each_gateway_in_order(db2: DatabaseHost) -> None:
    db2.leads_to(gw1=db2.gateway("gw1"), gw2=db2.gateway("gw2"))
    db2.event("2", "repmgrd_start")
    forwarder = db2.start()
    until(lambda: db2.taken("gw1") and db2.taken("gw2"))
    db2.event("2", "standby_promote")
    db2.event("2", "repmgrd_failover_promote", "1", "1", "2026-11-20 03:00:00+00")
    for name in ("gw1", "gw2"):
        until(lambda n=name: len(db2.taken(n)) == 3)  # type: ignore[misc]
        assert db2.taken(name) == ["repmgrd_start", "standby_promote", "repmgrd_failover_promote"]
        until(lambda n=name: db2.waiting(n) == 0)  # type: ignore[misc]
        assert "repmgrd_failover_promote\t1\t1\t2026" in last_taken(db2.place / "db2" / "forward" / name)
    forwarder.send_signal(signal.SIGTERM)
    assert forwarder.wait(120) == 0
    assert list(db2.spool.iterdir()) == []


def test_a_gateway_that_is_gone_delays_no_other_and_misses_nothing(db2: DatabaseHost) -> None:
    way = db2.gateway("gw2")
    db2.leads_to(gw1=db2.gateway("gw1"), gw2=GONE)
    forwarder = db2.start()
    for name in ("standby_failure", "standby_recovery"):
        db2.event("2", name)
    until(lambda: len(db2.taken("gw1")) == 2)
    until(lambda: db2.waiting("gw2") == 2)
    assert db2.taken("gw2") == []
    forwarder.kill()  # as a host that goes down
    forwarder.wait(60)

    db2.event("2", "repmgrd_start")
    db2.leads_to(gw1=GONE, gw2=way)
    db2.start()
    until(lambda: len(db2.taken("gw2")) == 3)
    assert db2.taken("gw2") == ["standby_failure", "standby_recovery", "repmgrd_start"]
    assert db2.taken("gw1") == ["standby_failure", "standby_recovery"]


def test_a_gateway_that_hangs_delays_no_other(db2: DatabaseHost) -> None:
    db2.leads_to(gw1=("sleep", "300"), gw2=db2.gateway("gw2"))
    db2.start()
    db2.event("2", "standby_promote")
    until(lambda: db2.taken("gw2") == ["standby_promote"])


def test_without_a_forwarder_the_hook_starts_one_that_ends(db2: DatabaseHost) -> None:
    db2.leads_to(gw1=db2.gateway("gw1"), gw2=GONE)
    assert hook.hand_in(str(db2.config), ["2", "standby_promote"]) == 0
    until(lambda: db2.taken("gw1") == ["standby_promote"])
    assert hook.as_root(str(db2.config))[1:4] == ["-P", "-m", "repmgr_hooks"], "nobody needs sudo for that"


def test_an_event_that_comes_while_the_last_one_is_handed_over_is_not_left_behind(db2: DatabaseHost) -> None:
    """Without the service nobody would look again."""
    slow = ("sh", "-c", 'sleep 1; exec "$@"', "sh", *db2.gateway("gw1"))
    db2.leads_to(gw1=slow)
    for name in ("standby_promote", "repmgrd_failover_promote", "repmgrd_reload"):
        assert hook.hand_in(str(db2.config), ["2", name]) == 0
        time.sleep(0.6)  # one comes before, one while, and one after the first is handed over, whichever is which
    until(lambda: len(db2.taken("gw1")) == 3)


def test_an_event_that_cannot_be_stored_is_handed_over_at_once(db2: DatabaseHost) -> None:
    db2.leads_to(gw1=db2.gateway("gw1"), gw2=GONE)
    db2.spool.rmdir()
    said = subprocess.run(
        (*US, "--config", str(db2.config), "event", "--cluster", "main", "2", "standby_promote"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert said.returncode == 0, said.stderr
    assert db2.taken("gw1") == ["standby_promote"]
    assert "gw2: the event is lost to it" in said.stderr


def test_what_is_no_event_in_the_spool_holds_up_nothing(db2: DatabaseHost) -> None:
    db2.leads_to(gw1=db2.gateway("gw1"))
    (db2.spool / "01800000000000000100-7").write_text("main\n2;reboot\nstandby_promote\n")
    (db2.spool / "01800000000000000101-7").symlink_to("/etc/passwd")
    (db2.spool / "standby_promote").write_text("main\n2\nstandby_promote\n")
    db2.event("2", "repmgrd_start")
    Forwarder(db2.config).serve(once=True)
    assert db2.taken("gw1") == ["repmgrd_start"]
    assert [file.name for file in db2.spool.iterdir() if file.name[0] != "."] == []


def test_there_is_one_forwarder(db2: DatabaseHost, monkeypatch: pytest.MonkeyPatch) -> None:
    db2.leads_to(gw1=db2.gateway("gw1"))
    db2.start()
    until(lambda: (db2.spool / "wake").exists())
    Forwarder(db2.config).serve(once=True)
    monkeypatch.setattr("repmgr_hooks.service.forwarder.LOCK_WAIT", 0.1)
    with pytest.raises(LockTimeout):
        Forwarder(db2.config).serve()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("clusters: {}\nforward: {gateways: {gw1: {command: [ssh]}}}\n", "it is the file of a gateway"),
        ("forward: {gateways: {}}\n", "at least one entry"),
        ("forward: {gateways: {gw1: {command: []}}}\n", "must not be empty"),
        ("forward: {gateways: {gw1: {command: ['']}}}\n", "must not be empty"),
        ("forward: {gateways: {../x: {command: [ssh]}}}\n", "plain name"),
        ("forward: {gateways: {gw1: {command: [ssh], timeout: 0}}}\n", "between 1 and 300"),
        ("forward: {gateways: {gw1: {comand: [ssh]}}}\n", "did you mean 'command'"),
        ("state_dir: {}\nforward: {gateways: {gw1: {command: [ssh]}}}\n", "must be a string"),
        (" state_dir: /x\n forward: {gateways: {gw1: {command: [ssh]}}}\n", "without YAML"),
        ("state_dir: /x\n", "'forward' is missing"),
        ("", "mapping"),
        ("{", "not YAML"),
    ],
)
def test_a_file_that_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said):
        settings.load(path)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("forward: {gateways: {gw1: {command: [ssh]}}}\n")
    path.chmod(0o666)
    with pytest.raises(UsageError, match="refused"):
        settings.load(path)
