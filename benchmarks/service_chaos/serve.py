"""A service in the foreground: `python -m benchmarks.service_chaos.serve FILE`, a configuration as JSON."""

from __future__ import annotations

import ctypes
import signal
import sys
from pathlib import Path

from multiprocessing_kit.service.config import ServiceConfig
from multiprocessing_kit.service.service import Service

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def main(path: str) -> int:
    """Returns the exit status."""
    if sys.platform == "linux":  # who has started it may be killed, and would leave it behind
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    return Service(ServiceConfig.model_validate_json(Path(path).read_text())).manager.run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
