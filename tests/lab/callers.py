"""Many clients of a port behind which a ``listener.py`` is: each calls again when it is cut off.

Run as ``callers.py ADDRESS PORT COUNT hold|hurry``, on its own. Who holds keeps its connection until it breaks; who
hurries hangs up at once. Prints one line for each call when it is answered, or when that fails, and one when it
breaks: the seconds since the epoch when the call began and now, the caller's number, and the listener's name,
``refused``, ``reset`` or ``silent``.
"""

import asyncio
import resource
import sys
import time

PATIENCE = 100.0
PAUSE = {"hold": 0.02, "hurry": 0.005}


async def call(number: int, address: str, port: int, manner: str) -> None:
    while True:
        begun, writer = time.time(), None

        def tell(outcome: str, begun: float = begun) -> None:
            print(f"{begun:.4f} {time.time():.4f} {number} {outcome}", flush=True)

        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, port), PATIENCE)
            tell((await asyncio.wait_for(reader.readline(), PATIENCE)).decode().strip() or "reset")
            if manner == "hold":
                await reader.read()
                tell("reset")
        except TimeoutError:
            tell("silent")
        except ConnectionRefusedError:
            tell("refused")
        except OSError:
            tell("reset")
        if writer:
            writer.transport.abort()
        await asyncio.sleep(PAUSE[manner])


async def main(address: str, port: str, count: str, manner: str) -> None:
    await asyncio.gather(*(call(number, address, int(port), manner) for number in range(int(count))))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
    asyncio.run(main(*sys.argv[1:]))
