"""`check --offline`: a good file is good on any machine, a wrong one gets the words that the loader has for it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from repmgr_hooks.cli import main as cli
from repmgr_hooks.config import load
from repmgr_hooks.errors import UsageError
from repmgr_hooks.settings import libpq
from tests.unit.config.test_config import GOOD, changed

SHIPPED = Path(__file__).resolve().parents[3] / "config/database-host.yaml"
ELSEWHERE = GOOD + (
    "      - on: [repmgrd_promote_error]\n        do: [{command: {run: [/nonexistent/page-somebody, postgres]}}]\n"
    "alerts: [{exec: [/nonexistent/page]}]\n"
)
"""A file that names programs of the gateway."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One that others could have written, as in a checkout with umask 0002."""
    path = tmp_path / "config.yaml"
    path.write_text(ELSEWHERE)
    path.chmod(0o666)
    return path


def findings(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, str]:
    """The level of each finding, by its code."""
    cli.run(["check", "--json", "--offline", *argv])
    return {found["code"]: found["level"] for found in json.loads(capsys.readouterr().out)}


def test_a_good_file_is_good_on_a_machine_that_has_nothing_of_it(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match="is refused"):
        load(file)
    assert cli.run(["check", "--offline", str(file)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "0 FAIL" in said[-2]
    assert said[-1].startswith("not looked at: /nonexistent/page, /nonexistent/page-somebody, nodes, Barman, ")


def test_the_file_that_is_configured(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--config", str(file), "check", "--offline"]) == 0
    assert f"OK    config.file         {file}: 1 cluster(s), 3 route(s)" in capsys.readouterr().out


def test_the_file_of_a_database_host(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ansible's ``validate`` is the same there."""
    (there := tmp_path / "there.yaml").write_text(SHIPPED.read_text())
    there.chmod(0o666)
    assert cli.run(["check", "--offline", str(there), str(file)]) == 0
    said = capsys.readouterr().out
    assert f"OK    config.file         {there}: a database host that hands events to gateway\n" in said
    assert f"OK    config.file         {file}: 1 cluster(s), 3 route(s)" in said
    there.write_text(SHIPPED.read_text().replace("timeout: 20", "timeout: soon"))
    assert cli.run(["check", "--offline", str(there)]) == 2
    assert "line 11: forward.gateways.gateway.timeout: must be a whole number" in capsys.readouterr().err


def test_several_files_are_judged_together(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As pre-commit names them."""
    (wrong := tmp_path / "wrong.yaml").write_text("clusters: 5\n")
    (worse := tmp_path / "worse.yaml").write_text("clusters: [\n")
    assert cli.run(["check", "--offline", str(file), str(file)]) == 0
    assert capsys.readouterr().out.count("config.file") == 2
    assert cli.run(["check", "--offline", str(wrong), str(file), str(worse)]) == 2
    said = capsys.readouterr().err
    assert f"{wrong}: " in said and f"{worse}: " in said and str(file) not in said


def test_from_stdin(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def given(text: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        code = cli.run(["check", "--offline", "-"])
        return code, "".join(capsys.readouterr())

    assert given(ELSEWHERE)[0] == 0
    assert given(GOOD.replace("state_dir: /", '"state_dir": /srv/'))[1].startswith(
        "repmgr-hooks: -: 1 mistake:\n  line 7: state_dir: the hook reads this line without YAML"
    )
    assert given("# \n" * 400_000) == (
        2,
        "repmgr-hooks: -: cannot be read: it is larger than 1 MiB\nHINT: name the file with --config\n",
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("promotion_timeout: 30", "promotion_timeuot: 30"),
        ("address: 10.0.0.20", "address: gateway.example.com"),
        ("- slot: {on: primary}", "- command: {run: [page-me]}"),
        ("- slot: {on: primary}", "- barman: {stream: yes}"),
        ("- slot: {on: primary}", "- firewall: {open: ap}"),
        ("- slot: {on: primary}", "- slott: {on: primary}"),
        ("timeout: 2}", "timeout: 2, host: db1}"),
        ("timeout: 2}", "timeout: 2, sslmod: require}"),
        ("timeout: 2}", "timeout: 2, sslmode: maybe}"),
        ("retry: {initial_delay: 5", "retry: {initial_delay: 500"),
        ("clusters:", "clusters: ["),
    ],
)
def test_a_mistake_has_the_words_and_the_code_of_the_loader(
    tmp_path: Path, old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(changed(old, new) if old != "clusters:" else GOOD.replace("\nclusters:", f"\n{new}"))
    said = []
    for argv in (["--config", str(path), "check"], ["check", "--offline", str(path)]):
        assert cli.run(argv) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] != ""


def test_an_option_that_only_a_newer_libpq_has(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A workstation or CI may have an older one than the gateway."""
    file.chmod(0o644)
    file.write_text(changed("timeout: 2}", "timeout: 2, max_protocol_version: '3.2'}"))
    old = {name: kind for name, kind in libpq.options().items() if name not in libpq.SINCE}
    monkeypatch.setattr(libpq, "options", lambda: old)
    with pytest.raises(UsageError, match="needs libpq 18 or newer"):
        load(file)
    assert load(file, here=False).unseen == ("max_protocol_version (needs libpq 18 there)",)


def test_nothing_else_is_done_with_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option in ("--end-to-end", "--restore", "--send-test-alert"):
        assert cli.run(["check", option, "--offline", str(file)]) == 2
        assert "--offline looks at nothing but the file" in capsys.readouterr().err


WATCHED = """
import sys
import psycopg  # asks ldconfig where libpq is, if it is not the one that was built with it
from repmgr_hooks.cli import main
modules = (".py", ".pyc", ".so", ".zip", "entry_points.txt", "METADATA", sys.argv[1])
def watch(event, arguments):
    strange = event == "open" and isinstance(arguments[0], str) and not arguments[0].endswith(modules)
    if strange or event.startswith(("subprocess.", "os.posix_spawn", "os.fork", "os.exec", "socket.")):
        sys.stderr.write(f"AUDIT {event} {arguments}\\n")
sys.addaudithook(watch)
sys.exit(main.main(["check", "--offline", sys.argv[1]]))
"""


def test_nothing_is_opened_but_the_file_and_nothing_started(file: Path) -> None:
    asked = subprocess.run((sys.executable, "-c", WATCHED, str(file)), capture_output=True, text=True, check=False)
    assert (asked.returncode, asked.stderr) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (", passfile: /etc/repmgr-hooks/pgpass", "", {"nodes.password": None}),
        ("timeout: 2}", "timeout: 2, sslmode: verify-full}", {"nodes.password": "OK"}),
        ("timeout: 2}", "timeout: 2, sslmode: require}", {"nodes.password": "WARN"}),
        ("probe: {user: app, dbname: app,", "probe: {dbname: app,", {"client.role": "WARN"}),
        ("primary_register,", "primary_register, standby_split,", {"routes.events": "WARN"}),
    ],
)
def test_what_the_file_alone_shows(
    file: Path, old: str, new: str, expected: dict[str, str | None], capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(changed(old, new))
    found = findings(capsys, str(file))
    assert {code: found.get(code) for code in expected} == expected
