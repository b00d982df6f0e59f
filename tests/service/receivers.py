"""A server of somebody's to whom alerts are sent."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Receiver"]

_SERVER = """
import http.server
import sys
import time


class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/slow":
            time.sleep(3600)
        with open(sys.argv[1], "ab") as file:
            file.write(body.replace(b"\\n", b" ") + b"\\n")
        self.send_response(500 if self.path == "/broken" else 200)
        self.end_headers()

    def log_message(self, *words):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Receiver:
    """Notes what is posted to it; at /slow it never answers, at /broken it says 500.

    Args:
        file: Where it notes.

    Attributes:
        port: On 127.0.0.1.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, str(file)], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())

    def url(self, path: str = "/alerts") -> str:
        """For apprise, with a user and a password."""
        return f"json://watcher:pass-of-the-test@127.0.0.1:{self.port}{path}"

    def received(self) -> list[dict[str, Any]]:
        """All so far, the oldest first."""
        if not self._file.exists():
            return []
        return [json.loads(line) for line in self._file.read_text().splitlines()]

    def titles(self) -> list[str]:
        """Of all so far, sorted."""
        return sorted(one["title"] for one in self.received())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()
