"""When a password could go out in clear, and when not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from repmgr_hooks.checks import nodes, passwords
from repmgr_hooks.checks.finding import Topic
from repmgr_hooks.checks.users import User, user_of
from repmgr_hooks.engine.routes import ManagedCluster
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.settings.cluster import Cluster, Gateway, Node, Postgres
from repmgr_hooks.settings.libpq import options, protects_password

CLUSTER = Cluster({1: Node("10.0.0.11")}, Gateway("10.0.0.20", {"app": 5433}), name="main")


def found(directory: Path, libpq: Mapping[str, object], passfile: Path | None = None) -> tuple[str, str, str]:
    postgres = Postgres(passfile=str(passfile or ""), libpq=libpq)
    seen = passwords.look(replace(CLUSTER, postgres=postgres), User("barman", 1, 1, (), str(directory)))
    assert (seen.code, seen.where) == ("nodes.password", "main")
    return seen.level, seen.message, seen.hint


@pytest.mark.parametrize("given", ["passfile", ".pgpass"])
def test_a_password_without_protection_is_a_warning_with_a_way_out(tmp_path: Path, given: str) -> None:
    file = tmp_path / given
    file.write_text("*:*:*:repmgr:secret\n")
    level, what, hint = found(tmp_path, {}, file if given == "passfile" else None)
    assert (level, what) == ("WARN", passwords.EXPOSED)
    assert hint.startswith("config.yaml: clusters.main.postgres: ")
    assert "{channel_binding: require}" in hint
    assert ("require_auth: scram-sha-256}" in hint) == ("require_auth" in options())
    assert found(tmp_path, {"sslmode": "verify-ca"}, file)[0] == "OK"


def test_without_a_password_nothing_goes_out(tmp_path: Path) -> None:
    assert found(tmp_path, {})[:2] == ("OK", f"no password is used: none is in {tmp_path}/.pgpass")
    (tmp_path / "empty").touch()
    assert found(tmp_path, {}, tmp_path / "empty")[0] == "OK"


@pytest.mark.parametrize(
    ("given", "protects"),
    [
        ({}, False),
        ({"require_auth": "scram-sha-256"}, True),
        ({"require_auth": "scram-sha-256,gss"}, True),
        ({"require_auth": "none"}, True),
        ({"require_auth": "scram-sha-256, password"}, False),
        ({"require_auth": "md5"}, False),
        ({"require_auth": "!password"}, False),
        ({"require_auth": "!password,!md5"}, True),
        ({"require_auth": "!scram-sha-256"}, False),
        ({"channel_binding": "require"}, True),
        ({"channel_binding": "prefer"}, False),
        ({"sslmode": "require"}, False),
        ({"sslmode": "prefer", "sslrootcert": "/etc/ca.pem"}, False),
        ({"sslmode": "verify-ca"}, True),
        ({"sslmode": "verify-full"}, True),
        ({"gssencmode": "require"}, False),
    ],
)
def test_what_protects_a_password(given: Mapping[str, object], protects: bool) -> None:
    assert protects_password(given) is protects


def test_the_line_of_a_passfile_is_as_libpq_reads_it() -> None:
    """An IPv6 address has colons, which would end the field."""
    cluster = Cluster({1: Node("fd00::11")}, Gateway("fd00::20", {"app": 54322}), name="main")
    error = OperationFailed("node 1: fe_sendauth: no password supplied")
    found = nodes._silent(Topic("nodes.answer", "x"), ManagedCluster(cluster, ()), 1, error, user_of(0))  # noqa: SLF001
    assert found.hint.endswith(r"/.pgpass: fd00\:\:11:5432:*:repmgr:PASSWORD")
