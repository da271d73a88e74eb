"""A YAML file that only root can write, as a document."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import yaml

from repmgr_hooks.errors import UsageError, listed
from repmgr_hooks.files import untrusted
from repmgr_hooks.settings.document import Document

LARGEST = 256 * 1024


def document_of(path: Path) -> Document:
    """Read a file. Raises UsageError for one that is no YAML, or that others could have written."""
    try:
        text = _text(path)
        # When it has been read: in a directory of another user's it could have come, or changed, in between.
        if wrong := untrusted(path):
            raise UsageError(f"{path} is refused: {wrong}", hint=wrong.hint)
        document = Document(text)
    except RecursionError:
        raise UsageError(f"{path}: nested too deeply, or a part that contains itself") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read: {error}", hint="name the file with --config") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return document


def refuse_mistakes(path: Path, document: Document) -> None:
    """Raises UsageError with all mistakes that were found so far."""
    if count := len(document.problems):
        raise UsageError(listed(f"{path}: {count} mistake{'s'[: count != 1]}:", document.problems))


def _text(path: Path) -> str:
    """Read a file that is one: a FIFO would let us wait for ever. Raises OSError, UnicodeDecodeError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is not a file")
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        raise OSError(f"it is larger than {LARGEST // 1024} KiB")
    return text.decode()
