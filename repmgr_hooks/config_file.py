"""Which configuration file, its text, and its one line that is no YAML to the hook."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from repmgr_hooks.catalogue import shorten
from repmgr_hooks.errors import UsageError
from repmgr_hooks.files import untrusted
from repmgr_hooks.hook import CONFIG, state_dir
from repmgr_hooks.settings.words import DIRECTORY

LARGEST = 256 * 1024


def config_path(given: str | None) -> Path:
    """Return ``--config``, else ``$REPMGR_HOOKS_CONFIG``, else the default."""
    return Path(given or os.environ.get("REPMGR_HOOKS_CONFIG") or CONFIG)


def state_dir_of(path: Path) -> Path:
    """Return the state directory, as the hook finds it, whatever else stands in the file. Raises UsageError."""
    text_of(path)
    found = state_dir(str(path))
    if not re.fullmatch(DIRECTORY, found):
        raise UsageError(f"{path}: state_dir: {shorten(found)} is not an absolute path without blanks and '..'")
    return Path(found)


def text_of(path: Path) -> str:
    """Return the text of the file. Raises UsageError for what cannot be read, or what others could have written."""
    try:
        text = _text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", hint="name the file with --config") from None
    # When it has been read: in a directory of another user's it could have come, or changed, in between.
    if wrong := untrusted(path):
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
    if len(text) > LARGEST:
        raise OSError(f"it is larger than {LARGEST // 1024} KiB")
    return text.decode()
