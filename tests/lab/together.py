"""A lab whose db2 is on db1's host: they have one address, and each has a port of its own."""

from __future__ import annotations

import re

from tests.lab import ADDRESSES, Host, Lab

PORT = 5433


class Together(Lab):
    """db2 has directories of its own, and db1's network; db1 has the port that is the default."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.db2 = Host("db2", self.db1.address, backend=self.backend, beside="db1", port=PORT)

    def config(self, name: str) -> str:
        text, one, two = super().config(name), ADDRESSES["db1"], ADDRESSES["db2"]
        if name == "postgresql-db2.conf":
            return f"{text}port = {PORT}\n"
        text = text.replace(f"{{host: {two}}}", f"{{host: {one}, port: {PORT}}}")
        return re.sub(rf"\bhost={re.escape(two)}\b", f"host={one} port={PORT}", text)

    def led(self) -> dict[int, int]:
        """To which port of that host each of the gateway's leads."""
        rule = re.compile(rf"dport (\d+) .*(?:--to-destination|dnat to) {re.escape(self.db1.address)}:(\d+)")
        return {int(found[1]): int(found[2]) for line in self.gateway.nat() if (found := rule.search(line))}
