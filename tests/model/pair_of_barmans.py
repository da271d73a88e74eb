"""Two gateways of one simulated cluster, and a Barman on each: a slot and a stream for each of them.

Each gateway must see to its own, whether it has the address or not, and must not touch the other's. A gateway that is
switched off takes its Barman with it, and leaves its slot where it was.
"""

from __future__ import annotations

from dataclasses import replace

from repmgr_hooks.settings.barman import Barman, OnGateway
from tests.fake import FakeSlot
from tests.model.pair import HOSTS, Pair, Side

SLOTS = ("barman_1", "barman_2")
BARMAN = Barman("main_backup", gateways={host: OnGateway(slot) for host, slot in zip(HOSTS, SLOTS, strict=True)})


class PairOfBarmans(Pair):
    """Rules are those of two gateways."""

    def share_barman(self) -> None:
        """Nothing is shared: each has its own."""
        self.cluster.nodes[1].slots = {slot: FakeSlot(active=True) for slot in SLOTS}
        for number, side in enumerate(self.sides):
            cluster = replace(side.managed.cluster, barman=BARMAN.seen_from(HOSTS[number]))
            side.managed = replace(side.managed, cluster=cluster)
            side.host.barman_slot, side.host.other_barmans = SLOTS[number], (SLOTS[1 - number],)
            side.start_worker()

    def switch_off(self, number: int) -> None:
        """Its Barman ends with it."""
        super().switch_off(number)
        self.hosts()[number].end_stream()

    def must_be_led(self, side: Side, number: int, serves: bool) -> None:
        """And its own Barman streams from this primary."""
        side.must_be_right(list(side.wrong_slots(number)), number)
        super().must_be_led(side, number, serves)
        if side.host.barman.health == "good":
            side.must_be_right(side.wrong_stream(number), number)
