"""Whether sshd lets the database hosts in: what it says of itself, and what `check` makes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from repmgr_hooks.checks import sshd
from repmgr_hooks.checks.finding import Finding
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.steps import Program
from tests.fake import FakeHost

KEYS = """\
# restrict,from="10.0.0.9",command="repmgr-hooks receive-event --host db9" KEY
restrict,from="10.0.0.11",command="repmgr-hooks receive-event --host db1" KEY
restrict,from="10.0.0.12",command="repmgr-hooks receive-event --host db2" KEY
"""
READS = "usepam yes\nauthorizedkeysfile {keys}\n"
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root asks sshd")


class Sshd(FakeHost):
    """A host whose sshd says the same of each address, but for those in ``at``."""

    def __init__(self, said: str | None, at: Mapping[str, str] | None = None, groups: str = "repmgr-hooks") -> None:
        super().__init__()
        self.said, self.at, self.groups = said, at or {}, groups
        self.asked: list[str] = []

    def run(self, program: Program, limit: float) -> str:
        if program.argv[0] == "id":
            return f"{self.groups}\n"
        address = program.argv[-1].partition("addr=")[2]
        self.asked.append(address)
        if self.said is None:
            raise OperationFailed("no hostkeys available")
        return self.at.get(address, self.said)


def found(
    tmp_path: Path, said: str | None, at: Mapping[str, str] | None = None, groups: str = "repmgr-hooks"
) -> Finding:
    keys = tmp_path / "authorized_keys"
    keys.write_text(KEYS)

    def filled(text: str) -> str:
        return text.replace("{keys}", str(keys))

    host = Sshd(said and filled(said), {place: filled(text) for place, text in (at or {}).items()}, groups)
    (finding,) = sshd.let_in(host, str(keys))
    assert set(host.asked) <= {"10.0.0.11", "10.0.0.12"}
    return finding


def test_nobody_is_to_be_let_in(tmp_path: Path) -> None:
    assert list(sshd.let_in(Sshd(None), str(tmp_path / "authorized_keys"))) == []


def test_keys_that_are_bound_to_no_address(tmp_path: Path) -> None:
    keys, host = tmp_path / "authorized_keys", Sshd(f"authorizedkeysfile {tmp_path}/authorized_keys\n")
    keys.touch()
    assert [finding.level for finding in sshd.let_in(host, str(keys))] == ["OK"]
    assert host.asked == [sshd.SOMEWHERE]


@pytest.mark.parametrize(
    ("said", "level", "wanted"),
    [
        (READS, "OK", "lets database hosts in"),
        ("authorizedkeysfile .ssh/authorized_keys {keys}\n", "OK", "lets database hosts in"),
        ("authorizedkeysfile {keys} /etc/ssh/keys/%u\n", "OK", "lets database hosts in"),
        ("authorizedkeysfile .ssh/authorized_keys .ssh/authorized_keys2\n", "FAIL", "no database host gets in"),
        ("authorizedkeysfile .ssh/authorized_keys {keys}.old\n", "FAIL", "no database host gets in"),
        ("authorizedkeysfile none\n", "FAIL", "no database host gets in"),
        (f"{READS}pubkeyauthentication yes\n", "OK", "lets database hosts in"),
        (f"{READS}pubkeyauthentication no\n", "FAIL", "takes no keys"),
        (f"{READS}authenticationmethods any\n", "OK", "lets database hosts in"),
        (f"{READS}authenticationmethods publickey,password publickey\n", "OK", "lets database hosts in"),
        (f"{READS}authenticationmethods publickey,password\n", "FAIL", "more than a key"),
        (f"{READS}forcecommand none\n", "OK", "lets database hosts in"),
        (f"{READS}forcecommand internal-sftp -d /x\n", "FAIL", "(ForceCommand internal-sftp -d /x)"),
        ("AuthorizedKeysFile {keys}\n", "OK", "lets database hosts in"),  # OpenSSH 10.6
        ("AuthorizedKeysFile {keys}\nPubkeyAuthentication no\n", "FAIL", "takes no keys"),
        (None, "FAIL", "sshd cannot be asked"),
    ],
)
def test_an_sshd_that_does_not_read_our_file_is_named(
    tmp_path: Path, said: str | None, level: str, wanted: str
) -> None:
    finding = found(tmp_path, said)
    assert (finding.level, wanted in finding.message) == (level, True)


@pytest.mark.parametrize(
    ("rules", "groups", "wanted"),
    [
        ("allowusers admin", "repmgr-hooks", "AllowUsers has only admin"),
        ("allowusers admin\nallowusers root", "repmgr-hooks", "AllowUsers has only admin root"),
        ("allowusers admin\nallowusers repmgr-hooks", "repmgr-hooks", ""),
        ("allowusers repmgr*", "repmgr-hooks", ""),
        ("allowusers repmgr-hooks@10.0.0.*", "repmgr-hooks", ""),
        ("allowusers *@10.0.0.0/24", "repmgr-hooks", ""),
        ("allowusers repmgr-hooks@10.0.0.11", "repmgr-hooks", "refuses repmgr-hooks from 10.0.0.12"),
        ("allowusers *@!10.0.0.12,10.0.0.*", "repmgr-hooks", "refuses repmgr-hooks from 10.0.0.12"),
        ("denyusers *@!10.0.0.11,!10.0.0.12,*", "repmgr-hooks", ""),
        ("denyusers repmgr-hooks", "repmgr-hooks", "DenyUsers has repmgr-hooks"),
        ("denyusers *@10.0.0.12\nallowusers repmgr-hooks", "repmgr-hooks", "refuses repmgr-hooks from 10.0.0.12"),
        ("denyusers guest", "repmgr-hooks", ""),
        ("allowgroups ssh-users", "repmgr-hooks postgres", "AllowGroups has only ssh-users"),
        ("allowgroups ssh-users\nallowgroups postgres", "repmgr-hooks postgres", ""),
        ("denygroups postgres", "repmgr-hooks postgres", "DenyGroups has postgres"),
        ("denygroups other", "repmgr-hooks postgres", ""),
        ("AllowUsers admin", "repmgr-hooks", "AllowUsers has only admin"),
        ("DenyGroups postgres", "repmgr-hooks postgres", "DenyGroups has postgres"),
    ],
)
def test_who_may_log_in_at_all(tmp_path: Path, rules: str, groups: str, wanted: str) -> None:
    finding = found(tmp_path, f"{READS}{rules}\n", groups=groups)
    assert (finding.level, wanted in finding.message) == ("FAIL" if wanted else "OK", True)


def test_the_hint_adds_to_the_list_that_is_there(tmp_path: Path) -> None:
    for rules, line in (("allowusers admin", "AllowUsers repmgr-hooks"), ("allowgroups a", "AllowGroups repmgr-hooks")):
        hint = found(tmp_path, f"{READS}{rules}\n").hint
        assert hint == f"sed -i '1i {line}' /etc/ssh/sshd_config && systemctl reload sshd"


def test_each_host_is_asked_about_by_its_address(tmp_path: Path) -> None:
    """A ``Match Address`` may refuse one of them."""
    finding = found(tmp_path, READS, {"10.0.0.12": f"{READS}denyusers *\n"})
    assert finding.message == "sshd refuses repmgr-hooks from 10.0.0.12: DenyUsers has *"


def test_what_sshd_says_is_made_printable(tmp_path: Path) -> None:
    assert found(tmp_path, f"{READS}allowusers \x1b[31mroot\n").message.isprintable()
