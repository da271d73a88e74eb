"""How a package is installed here: with the program that this machine has for it."""

from __future__ import annotations

import shutil


def install(debian: str, red_hat: str = "") -> str:
    """Return the command for a package, of which Red Hat's name may be another.

    >>> install("conntrack", "conntrack-tools") in ("apt install conntrack", "dnf install conntrack-tools")
    True
    """
    if shutil.which("dnf") and not shutil.which("apt"):
        return f"dnf install {red_hat or debian}"
    return f"apt install {debian}"
