"""Which configuration file, its text, and its one line that is no YAML to the hook."""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import untrusted
from repmgr_hooks.hook import CONFIG, forwards, state_dir
from repmgr_hooks.settings.words import DIRECTORY

LARGEST = 1024 * 1024
STDIN = Path("-")


def config_path(given: str | None) -> Path:
    """Return ``--config``, else ``$REPMGR_HOOKS_CONFIG``, else the default."""
    return Path(given or os.environ.get("REPMGR_HOOKS_CONFIG") or CONFIG)


def of_gateway(given: str | None) -> Path:
    """Return the same for what only a gateway can do. Raises UsageError for the file of a database host."""
    path = config_path(given)
    if forwards(str(path)):
        raise UsageError(f"{path} has 'forward': it is the file of a database host", hint="run this on a gateway")
    return path


def state_dir_of(path: Path) -> Path:
    """Return the state directory, as the hook finds it, whatever else stands in the file. Raises UsageError."""
    text_of(path)
    found = state_dir(str(path))
    if not re.fullmatch(DIRECTORY, found):
        raise UsageError(f"{path}: state_dir: {shorten(found)} is not an absolute path without blanks and '..'")
    return Path(found)


def text_of(path: Path, here: bool = True) -> str:
    """Return the text of the file. Raises UsageError for what cannot be read, or what others could have written.

    ``here``: as that of this host. Otherwise it may be anybody's, and STDIN.
    """
    try:
        text = _text(path) if here or path != STDIN else _decoded(sys.stdin.buffer.read(LARGEST + 1))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", hint="name the file with --config") from None
    # When it has been read: in a directory of another user's it could have come, or changed, in between.
    if here and (wrong := untrusted(path)):
        raise UsageError(f"{path} is refused: {wrong}", hint=wrong.hint)
    return text


def _text(path: Path) -> str:
    """Read a file that is one: a FIFO would let us wait for ever. Raises OSError, UnicodeDecodeError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a file")
        text = b""
        while len(text) <= LARGEST and (part := os.read(descriptor, LARGEST)):
            text += part
    finally:
        os.close(descriptor)
    return _decoded(text)


def _decoded(text: bytes) -> str:
    if len(text) > LARGEST:
        raise OSError(f"it is larger than {LARGEST // 2**20} MiB")
    return text.decode()
