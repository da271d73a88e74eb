"""Two gateways under 50 applications, half of which wait for an answer: one gateway dies, then db1, then it comes back.

Run as root from the repository: ``.venv/bin/python -m tests.bench.gateways``. Prints how long clients waited, how many
connections broke, and what the first gateway did when it was back.
"""

from __future__ import annotations

import sys
import time

from tests.lab import Host, wait_for
from tests.lab.contain import contain
from tests.lab.gateways import VIRTUAL, TwoGateways
from tests.lab.many import Crowd

APPLICATIONS = 50
CONNECTED = f"select pid from pg_stat_activity where usename = 'app' and client_addr = '{VIRTUAL}' order by pid"
STREAMS = "select count(*) from pg_stat_replication where application_name = 'barman_receive_wal'"


def main() -> None:
    contain([sys.executable, "-m", "tests.bench.gateways", *sys.argv[1:]])
    with TwoGateways() as lab:
        lab.open()
        crowd = Crowd(lab, lab.app, APPLICATIONS)
        time.sleep(5)
        gateway_dies(lab, crowd)
        primary_dies(lab, crowd)
        gateway_returns(lab)


def gateway_dies(lab: TwoGateways, crowd: Crowd) -> None:
    """Power off the gateway that has the address."""
    before = connected(lab.db1)
    fault = lab.kill_gateway(lab.gateway)
    wait_for(lambda: lab.holders() == [lab.gateway2], "the address to move", every=0.02)
    moved = time.time()
    writing = [number for number in range(APPLICATIONS) if not number % 2]
    wait_for(
        lambda: len([n for n in crowd.writes_again(fault + 0.5) if n in writing]) == len(writing), "all to write again"
    )
    again = max(end for number, end in crowd.writes_again(fault + 0.5).items() if number in writing)
    print(f"gateway 1 dies under {APPLICATIONS} applications, half of them waiting for an answer")
    print(f"  the address has moved                    {moved - fault:6.2f} s")
    print(f"  all that write have written again        {again - fault:6.2f} s")
    print(f"  connections that broke                   {len(before - connected(lab.db1)):3} of {len(before)}")


def primary_dies(lab: TwoGateways, crowd: Crowd) -> None:
    """Stop db1 while that gateway is gone."""
    fault = time.time()
    lab.db1.pg_ctl("stop", "-m", "immediate")
    wait_for(lambda: lab.db2.sql("select pg_is_in_recovery()") == "f", "the promotion", every=0.02)
    promoted = time.time()
    again = crowd.wait_for_writes(fault + 1)
    print("db1 is stopped while gateway 1 is gone")
    print(f"  promotion                                {promoted - fault:6.2f} s")
    print(f"  all applications write again             {max(again.values()) - fault:6.2f} s")
    print(f"  receivers of Barman's                    {lab.db2.sql(STREAMS):>6}")


def gateway_returns(lab: TwoGateways) -> None:
    """Switch it on again, and watch for some time."""
    before = connected(lab.db2)
    lab.plug_in(lab.gateway)
    time.sleep(3)
    lab.start_gateway(lab.gateway)
    time.sleep(30)
    told = [line for line in lab.gateway2.log("worker").splitlines() if "does not watch the cluster" in line]
    print("gateway 1 comes back")
    print(f"  has the address                          {', '.join(host.name for host in lab.holders())}")
    print(f"  connections that broke                   {len(before - connected(lab.db2)):3} of {len(before)}")
    print(f"  receivers of Barman's                    {lab.db2.sql(STREAMS):>6}")
    print(f"  times that its absence was logged        {len(told):6}")


def connected(host: Host) -> set[str]:
    """The applications' sessions on a node."""
    return set(host.sql(CONNECTED).split())


if __name__ == "__main__":
    main()
