"""Try to connect to a port every 50 ms, every 10 ms while it is closed; runs on its own, on the application's host.

The article's handler opens the port for some 40 ms between its two calls, which 50 ms may miss; a refusal costs nobody
anything.

Prints one line a try: the seconds since the epoch when it began, and ``open``, ``refused`` or ``silent``.
"""

import socket
import struct
import sys
import time

INTERVAL = {"open": 0.05, "refused": 0.01, "silent": 0.01}
PATIENCE = 0.25
RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # leaves no connection behind that the gateway would have to remember


def probe(address: tuple[str, int]) -> str:
    try:
        with socket.create_connection(address, PATIENCE) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        return "open"
    except TimeoutError:
        return "silent"
    except OSError:
        return "refused"


def main(host: str, port: str) -> None:
    while True:
        begun = time.time()
        outcome = probe((host, int(port)))
        print(f"{begun:.3f} {outcome}", flush=True)
        time.sleep(max(0.0, begun + INTERVAL[outcome] - time.time()))


if __name__ == "__main__":
    main(*sys.argv[1:])
