"""Passes TCP connections on, and resets them all at SIGUSR1: `python -m benchmarks.service_chaos.proxy PORT`.

Prints the port it listens at. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["Proxy", "proxied"]

_RESET = struct.pack("ii", 1, 0)  # of SO_LINGER: closing sends a reset


class Proxy:
    """One that runs, from `proxied`.

    Attributes:
        url: Of the broker, through it.
    """

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.url = url
        self._process = process

    def cut(self) -> None:
        """Reset all connections."""
        self._process.send_signal(signal.SIGUSR1)


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy before the broker of this URL."""
    parts = urlsplit(url)
    assert parts.port is not None
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.service_chaos.proxy", str(parts.port)],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:  # which closes the pipes, and waits
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield Proxy(process, url.replace(f":{parts.port}", f":{port}", 1))


async def _serve(target: int) -> None:
    writers: set[asyncio.StreamWriter] = set()

    def cut() -> None:
        for writer in writers:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, back}
        writers.update(both)
        try:
            await asyncio.gather(pipe(reader, back), pipe(there, writer))
        finally:
            writers.difference_update(both)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, cut)
    print(server.sockets[0].getsockname()[1], flush=True)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    await over.wait()
    cut()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
