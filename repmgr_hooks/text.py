"""Make foreign text, from nodes, tables, programs and plug-ins, fit for a terminal, a log, a page and a mail."""

from __future__ import annotations

import re

MOST = 4000
"""Characters of a text that are shown: some fifty lines, more than a program needs to say why it failed."""
NAME = 200
NOTE = 40
"""Room for the note that says how much was left out."""
CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What no line of text holds: control characters, those that turn the order of letters round, halves of characters."""


def printable(text: str, most: int = MOST) -> str:
    r"""Return a text of which every character is only shown; of a long one the beginning and the end.

    What Python does not call printable is written as in its source: control characters, escape sequences, bidirectional
    overrides, surrogates, and what XML forbids. Line breaks stay.

    >>> print(printable("a\x1b[31m\u202eb\udcff"))
    a\x1b[31m\u202eb\udcff
    """
    text = shortened(text, most)
    if text.replace("\n", "").isprintable():
        return text
    text = text.replace("\r\n", "\n").expandtabs()
    return shortened(
        "".join(letter if letter.isprintable() or letter == "\n" else _shown(letter) for letter in text), most
    )


def one_line(text: str, most: int = NAME) -> str:
    """Return the same on one line: a name that somebody foreign has given himself, or a word of a node's.

    >>> one_line(" a  b\\nWRONG ")
    'a b WRONG'
    """
    if len(text) <= most and text.isprintable() and " " not in text:
        return text  # almost all: a look asks this of dozens
    return printable(" ".join(shortened(text, 2 * most).split()), most)


def shortened(text: str, most: int) -> str:
    """Return a text, or of one that is longer than ``most`` (50 at least) the beginning and the end.

    >>> shortened("The beginning of what never seems to end, and the end", 50)
    'The b[... 43 characters ...]e end'
    """
    half = (most - NOTE) // 2
    return text if len(text) <= most else f"{text[:half]}[... {len(text) - 2 * half} characters ...]{text[-half:]}"


def _shown(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
