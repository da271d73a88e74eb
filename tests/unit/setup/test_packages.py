"""Each package has every unit, and each of its services is restarted and stopped with it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[3] / "systemd"
UNITS = {file.stem.removeprefix("repmgr-hooks").removeprefix("-") for file in SYSTEMD.glob("repmgr-hooks*.*")}
SERVICES = [file.name for file in SYSTEMD.glob("repmgr-hooks*.service") if "Restart=always" in file.read_text()]


def test_every_unit_is_in_it() -> None:
    """dh_installsystemd takes what it is given by name."""
    rules = (SYSTEMD / "debian/rules").read_text()
    (line,) = [line for line in rules.splitlines() if "for unit in " in line]
    named = {
        *line.partition("for unit in ")[2].partition(";")[0].split(),
        *re.findall(r"--name=(repmgr-hooks-\S+)", rules),
    }
    assert named == {f"repmgr-hooks-{unit}".removesuffix("-") for unit in UNITS}


@pytest.mark.parametrize("script", ["postinst", "prerm"])
def test_every_service_is_seen_to(script: str) -> None:
    files = list((SYSTEMD / "debian").glob(f"*.{script}"))
    assert len(files) == 2, "of a database host, and of a gateway"
    text = "".join(file.read_text() for file in files)
    assert len(SERVICES) >= 2
    assert [name for name in SERVICES if name not in text] == []


def spec() -> str:
    return (SYSTEMD / "rpm/repmgr-hooks.spec").read_text().replace("%{gateway_units}", gateway_units())


def gateway_units() -> str:
    text = (SYSTEMD / "rpm/repmgr-hooks.spec").read_text()
    return text.partition("%global gateway_units ")[2].partition("\n")[0]


@pytest.mark.parametrize("macro", ["post", "preun"])
def test_the_rpms_see_to_every_unit(macro: str) -> None:
    named = " ".join(re.findall(rf"(?m)^%systemd_{macro} (.*)", spec())).split()
    assert sorted(named) == sorted(file.name for file in SYSTEMD.glob("repmgr-hooks*.*"))


def test_the_rpms_restart_every_service() -> None:
    named = " ".join(re.findall(r"(?m)^%systemd_postun_with_restart (.*)", spec())).split()
    assert sorted(named) == sorted(SERVICES)


def test_the_rpm_says_what_it_carries() -> None:
    project = tomllib.loads((SYSTEMD.parent / "pyproject.toml").read_text())["project"]
    assert re.findall(r"(?m)^Version: +(\S+)", spec()) == [project["version"]]
    text = (SYSTEMD / "rpm/requirements.txt").read_text()
    pinned = dict(re.findall(r"(?m)^([\w-]+)==(\S+) --hash=sha256:\w{64}$", text))
    assert {re.split(r"\W", each)[0].lower() for each in project["dependencies"]} <= set(pinned)
    wheels = re.findall(r"(?m)^Source[1-9]: +(\S+)-([\d.]+)-py3-none-any.whl$", spec())
    assert dict(wheels) == pinned
    bundled = re.findall(r"(?m)^Provides: +bundled\(python3dist\((\S+)\)\) = (\S+)$", spec())
    assert {name.replace("-", "_"): version for name, version in bundled} == pinned


def test_the_service_may_open_what_many_clusters_need() -> None:
    """A visit to each port and a look at each node, of 300 clusters, while nobody answers."""
    (limit,) = re.findall(r"(?m)^LimitNOFILE=(\d+)$", (SYSTEMD / "repmgr-hooks.service").read_text())
    assert int(limit) >= 300 * (10 + 3) + 1000
