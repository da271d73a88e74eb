"""What is done in a thread of its own, so that nobody waits for a disk that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from repmgr_hooks import background, config, hook, lock
from repmgr_hooks.background import may_be_there, on_disk, together
from repmgr_hooks.journal.heartbeat import last_heartbeat, write_heartbeat
from repmgr_hooks.journal.pauses import known
from repmgr_hooks.lock import exclusive, holder
from repmgr_hooks.service.seen import forget_removed


@pytest.fixture
def hung(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The disk hangs: what somebody else does there does not end."""
    monkeypatch.setattr(background, "DISK_LIMIT", 0.2)
    background._disk.cache_clear()
    let_go = threading.Event()
    with pytest.raises(TimeoutError, match="the disk does not answer"):
        on_disk(lambda: let_go.wait(600))
    yield
    let_go.set()
    background._disk.cache_clear()


def test_what_needs_a_disk_that_hangs_is_done_without(hung: None, tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    begun = time.monotonic()
    for _ in range(100):
        with exclusive(tmp_path / "lock", 60):
            pass
        write_heartbeat(tmp_path, "main")
        assert holder(tmp_path / "lock") is None
        assert known(tmp_path, "main") is None
        assert last_heartbeat(tmp_path, "main") is None
    assert time.monotonic() - begun < 60


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_lock_is_let_go_although_its_holder_could_not_sign(tmp_path: Path) -> None:
    place, before = tmp_path / "lock", descriptors()
    for _ in range(5):
        with exclusive(place, 60):
            assert holder(place)
        assert holder(place) is None
    assert descriptors() <= before, "what other tests have left may be closed meanwhile"


def test_the_hook_does_not_wait_for_a_disk_that_hangs() -> None:
    let_go = threading.Event()
    with pytest.raises(TimeoutError, match="does not answer"):
        hook.in_time(lambda: print(let_go.wait(600)), 0.1)
    let_go.set()
    with pytest.raises(FileNotFoundError):
        hook.in_time(Path("/no/such/place").rmdir, 60)
    hook.in_time(lambda: None, 60)


def test_a_lock_is_let_go_although_the_disk_hung_before_its_holder_could_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Callable[[], Any]] = []

    def hangs_later(job: Callable[[], Any]) -> Any:
        asked.append(job)
        if len(asked) > 1:
            raise TimeoutError("the disk does not answer")
        return job()

    with monkeypatch.context() as patch:
        patch.setattr(lock, "on_disk", hangs_later)
        with exclusive(tmp_path / "lock", 60):
            pass
    assert len(asked) == 2
    with exclusive(tmp_path / "lock", 0):
        assert holder(tmp_path / "lock")


def test_when_one_of_several_jobs_raises_the_others_have_ended() -> None:
    ended = threading.Event()

    def late() -> None:
        time.sleep(0.2)
        ended.set()

    def broken() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        together(broken, late)
    assert ended.is_set()
    assert together(lambda: 1, lambda: 2) == [1, 2]


def test_what_is_removed_on_a_disk_that_hangs_is_not_waited_for(hung: None, tmp_path: Path) -> None:
    """The service, which reads a configuration with a cluster less, has others to look after."""
    loaded = config.load(Path(__file__).resolve().parents[2] / "config/config.yaml")
    loaded = replace(loaded, service=replace(loaded.service, state_dir=str(tmp_path)))
    (tmp_path / "cluster-former.looked").touch()
    forget_removed(loaded, None)
    assert (tmp_path / "cluster-former.looked").exists()


def test_a_directory_is_listed_once_for_all_that_look_for_their_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A hundred clusters woke the thread of the disk forty times a second for files that are hardly ever there."""
    (tmp_path / "here").touch()
    monkeypatch.setattr(background, "LISTED_FOR", 600.0)
    seen = [may_be_there(tmp_path / name) for name in ("here", "gone")]
    (tmp_path / "gone").touch()
    assert [*seen, may_be_there(tmp_path / "gone")] == [True, False, False]
    monkeypatch.setattr(background, "LISTED_FOR", 0.0)
    assert may_be_there(tmp_path / "gone")


def test_what_cannot_be_listed_may_be_there(hung: None, tmp_path: Path) -> None:
    assert may_be_there(tmp_path / "it")
    assert may_be_there(tmp_path / "nowhere" / "it")
