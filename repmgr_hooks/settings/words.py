"""How words are written that are also checked where no type of ``schema`` is needed."""

from __future__ import annotations

import re

PLAIN_NAME = r"[A-Za-z_][A-Za-z0-9_.-]{0,62}"
DIRECTORY = r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._-]+)+"
AMOUNT = re.compile(r"([1-9][0-9]{0,6})(kB|MB|GB|TB)", re.ASCII)


def amount(text: str) -> int:
    """Return an amount in bytes, as PostgreSQL reads its units: powers of 1024 (postgresql.org/docs: 20.1.1).

    >>> amount("10GB")
    10737418240
    """
    found = AMOUNT.fullmatch(text)
    assert found
    return int(found[1]) << {"kB": 10, "MB": 20, "GB": 30, "TB": 40}[found[2]]
