"""The Debian package has every unit, and each of its services is restarted and stopped with it."""

from __future__ import annotations

from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"
UNITS = {file.stem.removeprefix("repmgr-hooks").removeprefix("-") for file in SYSTEMD.glob("repmgr-hooks*.*")}
SERVICES = [file.name for file in SYSTEMD.glob("repmgr-hooks*.service") if "Restart=always" in file.read_text()]


def test_every_unit_is_in_it() -> None:
    """dh_installsystemd takes what has the package's name, and what it is given by name."""
    (line,) = [line for line in (SYSTEMD / "debian/rules").read_text().splitlines() if "for unit in " in line]
    assert set(line.partition("for unit in ")[2].partition(";")[0].split()) == UNITS - {""}


@pytest.mark.parametrize("script", ["postinst", "prerm"])
def test_every_service_is_seen_to(script: str) -> None:
    text = (SYSTEMD / "debian" / script).read_text()
    assert len(SERVICES) >= 2
    assert [name for name in SERVICES if name not in text] == []
