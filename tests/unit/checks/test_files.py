"""Who may do what with a file, and which files `check` finds fault with."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from repmgr_hooks.checks import files
from repmgr_hooks.checks.users import ENTER, READ, WRITE, User, acting_as, hindrance, user_of

ME, MINE = os.geteuid(), os.getegid()
OWNER = User("owner", ME, MINE, (MINE,), "/")
MEMBER = User("member", ME + 1, 1, (1, MINE), "/")
OTHER = User("other", ME + 1, 1, (1,), "/")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory that everybody can reach, whatever pytest thinks of its own."""
    for directory in (tmp_path, *tmp_path.parents):
        if directory.stat().st_uid == ME and str(directory) != "/":
            directory.chmod(directory.stat().st_mode | 0o055)
    return tmp_path


@pytest.mark.parametrize(
    ("mode", "want", "allowed"),
    [
        (0o640, READ, {"owner", "member"}),
        (0o644, READ, {"owner", "member", "other"}),
        (0o604, READ, {"owner", "other"}),
        (0o660, WRITE, {"owner", "member"}),
        (0o640, READ | WRITE, {"owner"}),
        (0o710, ENTER, {"owner", "member"}),
        (0o710, WRITE | ENTER, {"owner"}),
    ],
)
def test_the_modes_decide(place: Path, mode: int, want: int, allowed: set[str]) -> None:
    file = place / "file"
    file.touch()
    file.chmod(mode)
    owner = OWNER if ME else User("owner", 0, 0, (0,), "/")
    assert {user.name for user in (owner, MEMBER, OTHER) if not hindrance(user, file, want)} == allowed


def test_a_closed_directory_on_the_way_is_named(place: Path) -> None:
    (place / "closed").mkdir(mode=0o700)
    (place / "closed/file").touch(mode=0o644)
    assert hindrance(OTHER, place / "closed/file", READ) == f"other may not enter {place / 'closed'}"


def test_a_file_that_is_not_there(place: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hindrance(OTHER, place / "none", READ)


@pytest.mark.parametrize(
    ("mode", "level", "said"),
    [
        (0o600, "OK", "owner can read it, and nobody else"),
        (0o400, "OK", "owner can read it, and nobody else"),
        (0o640, "FAIL", "has mode 640: libpq does not use what others may read"),
        (0o604, "FAIL", "has mode 604: libpq does not use what others may read"),
        (0o200, "FAIL", "owner may not read"),
    ],
)
def test_a_password_file(place: Path, mode: int, level: str, said: str) -> None:
    file = place / "pgpass"
    file.touch()
    file.chmod(mode)
    if ME == 0:
        os.chown(file, 12345, 12345)
    found = files.secret("files.passfile", file, User("owner", 12345 if ME == 0 else ME, MINE, (), "/"))
    assert (found.level, found.code, found.where) == (level, "files.passfile", str(file))
    assert found.message.startswith(said)


def test_a_password_file_of_somebody_else_or_nowhere(place: Path) -> None:
    file = place / "pgpass"
    file.touch(mode=0o600)
    assert files.secret("k", file, OTHER).hint == f"chown other {file}"
    assert files.secret("k", place / "none", OTHER).message == "does not exist"


def test_nobody_is_acted_as_without_root() -> None:
    if ME == 0:
        pytest.skip("this is what root may do; see tests/endtoend/test_check.py")
    with acting_as(User("other", ME + 1, 1, (), "/nowhere")):
        assert os.geteuid() == ME
        assert os.environ.get("HOME") != "/nowhere"


def test_root_is_itself_again_afterwards() -> None:
    if ME != 0:
        pytest.skip("only root can be another")
    home, groups = os.environ.get("HOME"), os.getgroups()
    with pytest.raises(ValueError, match="out"), acting_as(User("other", 12345, 12346, (12347,), "/nowhere")):
        assert os.getresuid() == (12345, 12345, 0)
        assert os.getresgid() == (12346, 12346, 0)
        assert os.getgroups() == [12347]
        assert os.environ["HOME"] == "/nowhere"
        raise ValueError("out")
    assert (os.getresuid(), os.getresgid(), os.getgroups()) == ((0, 0, 0), (0, 0, 0), groups)
    assert os.environ.get("HOME") == home


def test_an_interrupt_makes_no_thread_root_again() -> None:
    if ME != 0:
        pytest.skip("only root can be another")
    child = os.fork()
    if not child:
        with contextlib.suppress(KeyboardInterrupt), acting_as(User("other", 12345, 12346, (12347,), "/nowhere")):
            raise KeyboardInterrupt
        os._exit(os.geteuid() == 12345)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_we_are_ourselves() -> None:
    assert user_of(ME).is_me
    assert user_of(ME).can_be_me
