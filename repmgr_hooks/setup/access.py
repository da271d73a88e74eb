"""How database hosts get in on a gateway: the account there, and a key of each host, which it makes itself."""

from __future__ import annotations

import grp
import itertools
import os
import pwd
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from repmgr_hooks.errors import UsageError
from repmgr_hooks.forward.settings import Gateway
from repmgr_hooks.settings.words import PLAIN_NAME
from repmgr_hooks.system.steps import Host, Program

LIMIT = 30.0
NO_KEY = "KEY-OF-"
KEY = re.compile(r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w.@-]+ [A-Za-z0-9+/]+=*)(?=\s|$)", re.ASCII)
"""A public key, without the comment."""
LINE = re.compile(r'^restrict,.*receive-event --host (\S+)" (.+)$', re.MULTILINE)
"""A line of authorized_keys as init writes it: the host and its key."""


def name_of(node: int, name: str) -> str:
    """Return what the gateway calls a database host: the name is repmgr's, and may be anything.

    >>> name_of(1, "db1"), name_of(2, 'x" ssh-rsa')
    ('db1', 'node2')
    """
    return name if re.fullmatch(PLAIN_NAME, name, re.ASCII) else f"node{node}"


def keys_in(authorized: str) -> dict[str, str]:
    """Return the key of each host that a file of ours lets in.

    >>> keys_in('restrict,from="10.0.0.11",command="repmgr-hooks receive-event --host db1" ssh-ed25519 AAAA\\n')
    {'db1': 'ssh-ed25519 AAAA'}
    """
    return {host: key for host, key in LINE.findall(authorized) if not key.startswith(NO_KEY)}


def account(name: str, group: str, host: Host) -> Iterator[str]:
    """Make the gateway's account for the hosts, and say so. Raises OperationFailed."""
    with suppress(KeyError):
        pwd.getpwnam(name)
        yield f"ok        account {name}"
        return
    try:
        grp.getgrnam(group)
    except KeyError:
        # repmgrd's: where it does not run there may be no PostgreSQL either, and the service is in this group.
        host.run(Program(("groupadd", "--system", group)), LIMIT)
        yield f"made      group {group}"
    # A shell, for sshd runs the command of a key with it; what that is, root's file says. No password fits "*"; with
    # none it would be "!", a locked account, to which sshd without PAM lets nobody in. In one step, for an account that
    # is there is taken for whole.
    words = ("--system", "--gid", group, "--home-dir", "/nonexistent", "--shell", "/bin/sh", "--password", "*")
    host.run(Program(("useradd", *words, name)), LIMIT)
    yield f"made      account {name}"


def identity_files(gateways: Mapping[str, Gateway]) -> list[str]:
    """Return the keys that the commands of a database host name, by ssh's option -i."""
    pairs = (pair for gateway in gateways.values() for pair in itertools.pairwise(gateway.command))
    return list(dict.fromkeys(path for option, path in pairs if option == "-i"))


def keys(paths: Sequence[str], user: str, host: Host) -> Iterator[str]:
    """Make the keys that are missing, and say so. Raises OperationFailed."""
    for path in paths:
        if os.path.lexists(path):
            yield f"ok        {path}"
            continue
        # As that user, whose directory it is; ssh-keygen makes ~/.ssh. A unit cannot type a passphrase.
        host.run(_as(user, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path), LIMIT)
        yield f"made      {path}"


def to_type_on_gateway(path: str, user: str, name: str, authorized: str, host: Host) -> str:
    """Return the command that writes a key into a gateway's draft of authorized_keys, over an older one too.

    ``authorized``: where that is. Raises UsageError, OperationFailed.
    """
    shown = host.run(_as(user, "ssh-keygen", "-y", "-P", "", "-f", path), LIMIT)
    if not (found := KEY.match(shown)):
        raise UsageError(f"{path} is not the key of an ssh user", hint="remove it, and run this again")
    pattern = name.replace(".", r"\.")
    return f"""sed -i 's|--host {pattern}" .*|--host {name}" {found[1]}|' {authorized}"""


def _as(user: str, *words: str) -> Program:
    return Program(("runuser", "-u", user, "--", *words))
