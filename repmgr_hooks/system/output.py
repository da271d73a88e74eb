"""What a program writes, as far as it is kept."""

from __future__ import annotations

TAIL = 32 * 1024


class Output:
    """The first ``most`` bytes, and the last of what comes after them; ``size`` counts all.

    sh gets it in the place of its own buffers, which grow for as long as the program writes.
    """

    def __init__(self, most: int) -> None:
        self.most, self.size = most, 0
        self._head, self._tail = bytearray(), bytearray()

    def write(self, chunk: bytes) -> None:
        """Take a piece."""
        self.size += len(chunk)
        room = self.most - len(self._head)
        self._head += chunk[:room]
        if rest := chunk[room:]:
            self._tail = (self._tail + rest)[-TAIL:]

    def forget(self) -> None:
        """Keep nothing more: sh's objects hold each other, and with them this, until the garbage collector comes."""
        self._head, self._tail = bytearray(), bytearray()

    @property
    def whole(self) -> bool:
        """True if nothing was left out."""
        return self.size <= self.most

    def __str__(self) -> str:
        """Return it as text, with a note in the place of what was left out."""
        left_out = self.size - len(self._head) - len(self._tail)
        note = f"\n[... {left_out} bytes ...]\n".encode() if left_out else b""
        return (bytes(self._head) + note + bytes(self._tail)).decode(errors="replace")
