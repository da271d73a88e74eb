"""Bad input from repmgr, or from whoever calls the hook: a clear error, exit code 2, and nothing is changed."""

from __future__ import annotations

import pytest

from tests.lab import Lab


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("1;reboot", "standby_promote"), "NODE is a repmgr node id"),
        (("-1", "standby_promote"), "NODE is a repmgr node id"),
        (("--", "-1", "standby_promote"), "NODE is a repmgr node id"),
        (("", "standby_promote"), "NODE is a repmgr node id"),
        (("1" * 10240, "standby_promote"), "NODE is a repmgr node id"),
        (("2", "standby promotion"), "EVENT is a name"),
        (("2",), "an event is NODE EVENT"),
    ],
)
@pytest.mark.parametrize("user", ["root", "postgres"])
def test_bad_events(shared_lab: Lab, words: tuple[str, ...], message: str, user: str) -> None:
    before = shared_lab.gateway.nat()
    result = shared_lab.gateway.hooks("event", *words, user=user)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert shared_lab.gateway.nat() == before
    assert shared_lab.gateway.run("ls", "/var/lib/repmgr-hooks/spool") == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("7", "standby_promote"), "has no node 7 (it has 1, 2)"),
        (("2", "standby_promotion"), "did you mean 'standby_promote'"),
        (("--cluster", "mian", "2", "standby_promote"), "did you mean 'main'"),
        (("--id", "99"), "the journal has no event 99"),
        (("--id", "1", "2", "standby_promote"), "either --id or the words"),
    ],
)
def test_bad_replays(shared_lab: Lab, words: tuple[str, ...], message: str) -> None:
    before = shared_lab.gateway.nat()
    result = shared_lab.gateway.hooks("replay", *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert shared_lab.gateway.nat() == before
