"""Whether a gateway's sshd lets the database hosts in, with their keys: what it does is asked of sshd itself."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from repmgr_hooks.checks.files import absent, unseen
from repmgr_hooks.checks.finding import Finding, Topic
from repmgr_hooks.errors import OperationFailed
from repmgr_hooks.system.steps import Host, Program
from repmgr_hooks.text import one_line

ACCOUNT = "repmgr-hooks"
KEYS = "/etc/repmgr-hooks/authorized_keys"
SSHD = "/etc/ssh/sshd_config.d/repmgr-hooks.conf"
LIMIT = 120.0
SOMEWHERE = "192.0.2.1"
"""An address that no host has (RFC 5737), where the keys name none."""


@dataclass(frozen=True)
class Refusal:
    """Why sshd does not let a host in, and what to do about it."""

    why: str
    hint: str


def let_in(host: Host, keys: str = KEYS) -> Iterator[Finding]:
    """Ask sshd whether it lets the database hosts in with their keys, if there are some."""
    if absent(Path(keys)):
        return
    topic = Topic("hook.sshd", keys)
    if os.geteuid() != 0:
        yield unseen(topic, "only root can ask sshd")
        return
    try:
        refused = _first_refusal(keys, host)
    except OperationFailed as error:
        yield topic.fail(f"sshd cannot be asked whom it lets in: {error}", "sshd -t")
        return
    if refused:
        yield topic.fail(refused.why, refused.hint)
    else:
        yield topic.ok(f"sshd lets database hosts in with them, as {ACCOUNT}")


def _first_refusal(keys: str, host: Host) -> Refusal | None:
    def groups() -> list[str]:
        return host.run(Program(("id", "-Gn", ACCOUNT)), LIMIT).split()

    for address in addresses_in(Path(keys).read_text(errors="replace")) or [SOMEWHERE]:
        # The test mode wants all three, and asks nobody whether they exist (sshd(8)).
        asked = Program(("/usr/sbin/sshd", "-T", "-C", f"user={ACCOUNT},host={address},addr={address}"))
        if refused := refusal(host.run(asked, LIMIT), keys, address, groups):
            return refused
    return None


def addresses_in(text: str) -> list[str]:
    """Return the addresses from which keys are taken, each once.

    >>> addresses_in('# from="10.0.0.9"\\nrestrict,from="10.0.0.11",command="x" K\\nfrom="fd00::12" K\\nfrom="*.net" K')
    ['10.0.0.11', 'fd00::12']
    """
    found = re.findall(r'^[^#\n]*\bfrom="([0-9a-fA-F.:]+)"', text, re.MULTILINE)
    return list(dict.fromkeys(found))


def refusal(said: str, keys: str, address: str, groups: Callable[[], Sequence[str]]) -> Refusal | None:
    """Say why a host with this address does not get in, by what ``sshd -T`` said; in sshd's own order (auth.c)."""

    def of(option: str) -> list[str]:
        # In small letters before OpenSSH 10.6, which writes them as the manual does.
        lines = (line.partition(" ") for line in said.splitlines())
        return [value for name, _, value in lines if name.lower() == option]

    # There may be several files, and each is read (sshd_config(5)).
    if keys not in " ".join(of("authorizedkeysfile")).split():
        hint = f"sed -i '1i Include {SSHD}' /etc/ssh/sshd_config && systemctl reload sshd"
        return Refusal("sshd does not read them, so no database host gets in", hint)
    if "no" in of("pubkeyauthentication"):
        hint = f"in {SSHD}, below 'Match User': PubkeyAuthentication yes; then: systemctl reload sshd"
        return Refusal("sshd takes no keys (PubkeyAuthentication no), so no database host gets in", hint)
    return _other_block(of) or _refused_user(of, address) or _refused_groups(of, address, groups)


def _other_block(of: Callable[[str], list[str]]) -> Refusal | None:
    """A block of somebody else's that stands before ours goes first (sshd_config(5), Match), with what it says."""
    hint = f"sed -i '1i Include {SSHD}' /etc/ssh/sshd_config && systemctl reload sshd"
    methods = " ".join(of("authenticationmethods"))
    if methods and not {"any", "publickey"} & set(methods.split()):
        what = f"sshd wants more than a key (AuthenticationMethods {one_line(methods)}), so no database host gets in"
        return Refusal(what, hint)
    if (forced := "".join(of("forcecommand")[:1])) not in ("", "none"):
        what = f"sshd runs another program than that of the keys (ForceCommand {one_line(forced)})"
        return Refusal(what, f"in {SSHD}, below 'Match User': ForceCommand none; and {hint}")
    return None


def _refused_user(of: Callable[[str], list[str]], address: str) -> Refusal | None:
    if denying := [pattern for pattern in of("denyusers") if names(pattern, ACCOUNT, address)]:
        return _denied("DenyUsers", denying, address)
    allowed = of("allowusers")
    if allowed and not any(names(pattern, ACCOUNT, address) for pattern in allowed):
        return _not_allowed("AllowUsers", allowed, address, ACCOUNT)
    return None


def _refused_groups(
    of: Callable[[str], list[str]], address: str, groups: Callable[[], Sequence[str]]
) -> Refusal | None:
    denied, allowed = of("denygroups"), of("allowgroups")
    if not (denied or allowed):
        return None
    own = groups()
    if denying := [pattern for pattern in denied if any(alike(pattern, group) for group in own)]:
        return _denied("DenyGroups", denying, address)
    if allowed and not any(alike(pattern, group) for pattern in allowed for group in own):
        return _not_allowed("AllowGroups", allowed, address, own[0] if own else ACCOUNT)
    return None


def _denied(option: str, patterns: Sequence[str], address: str) -> Refusal:
    what = f"sshd refuses {ACCOUNT} from {address}: {option} has {one_line(' '.join(patterns))}"
    return Refusal(what, f"take that out of {option} in /etc/ssh/sshd_config; then: systemctl reload sshd")


def _not_allowed(option: str, patterns: Sequence[str], address: str, name: str) -> Refusal:
    what = f"sshd refuses {ACCOUNT} from {address}: {option} has only {one_line(' '.join(patterns))}"
    # Another line of these adds to the list (servconf.c, process_server_config_line).
    return Refusal(what, f"sed -i '1i {option} {name}' /etc/ssh/sshd_config && systemctl reload sshd")


def names(pattern: str, user: str, address: str) -> bool:
    """Whether a pattern of AllowUsers, USER or USER@HOST, is about this user at this address (match.c, match_user).

    >>> patterns = ("repmgr-*", "root", "*@10.0.0.*", "*@10.0.0.0/24", "*@db1", "*@10.0.0.*,!10.0.0.11")
    >>> [names(each, "repmgr-hooks", "10.0.0.11") for each in patterns]
    [True, False, True, True, False, False]
    """
    who, at, where = pattern.partition("@")
    if not alike(who, user):
        return False
    wheres = where.split(",")
    if any(each.startswith("!") and _at(each[1:], address) for each in wheres):
        return False
    return not at or any(_at(each, address) for each in wheres)


def _at(pattern: str, address: str) -> bool:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(pattern)
    except ValueError:
        return alike(pattern, address)


def alike(pattern: str, word: str) -> bool:
    """Whether a pattern with ``*`` and ``?`` matches.

    >>> alike("repmgr?hooks", "repmgr-hooks"), alike("[r]*", "repmgr-hooks")
    (True, False)
    """
    expression = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(expression, word) is not None
