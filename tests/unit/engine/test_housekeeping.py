"""The small work of every look: of ours what went well is not done again, what was refused is done at the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from repmgr_hooks import config
from repmgr_hooks.cluster.last_known import LastKnownPrimary
from repmgr_hooks.engine.drift import find_drift
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.answers import BUSY
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

MAIN = config.load(Path(__file__).resolve().parents[3] / "config/config.yaml").clusters["main"]


class Asked(FakeHost):
    """Notes what is asked ahead, and refuses it with a ``code``."""

    def __init__(self) -> None:
        super().__init__()
        self.ahead = 0
        self.code = ""

    def run(self, program: Program, limit: float) -> str:
        self.ahead += program.ahead
        if program.ahead and self.code:
            raise OperationFailed("refused", code=self.code)
        return super().run(program, limit)


@pytest.mark.parametrize(("code", "said"), [(BUSY, []), ("no_answer", ["no_answer"])])
def test_it_is_done_until_it_went_well(code: str, said: list[str]) -> None:
    host, prints = Asked(), dict[str, object]()
    look = lambda: find_drift(MAIN, host, LastKnownPrimary(), prints)  # noqa: E731
    host.code = code
    assert [problem.code for problem in look().warnings][:1] == said
    host.code, host.ahead = "", 0
    assert look().warnings == ()
    assert host.ahead > 0
    host.ahead = 0
    look()
    assert host.ahead == 0
