"""Stands for PostgreSQL where thousands of connections are wanted: says its name to each client, and waits.

Run as ``listener.py ADDRESS PORT NAME``, on its own.
"""

import asyncio
import sys

BACKLOG = 4096


async def main(address: str, port: str, name: str) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(f"{name}\n".encode())
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(greet, address, int(port), backlog=BACKLOG)
    print("listening", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
