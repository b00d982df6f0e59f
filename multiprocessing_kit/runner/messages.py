"""What travels in a lane: a fixed header, then a payload that depends on the kind.

| kind     | way  | payload                                                                        |
|----------|------|--------------------------------------------------------------------------------|
| JOB      | down | the pickled argument                                                           |
| AGAIN    | down | length of the next part, what REQUEUE brought, the pickled argument            |
| RUN      | down | pickled (run id, pickled worker or None to keep the one there is)              |
| DONE     | up   | the pickled body of a successful `JobResponse`                                 |
| RESPONSE | up   | any other pickled response                                                     |
| REQUEUE  | up   | pickled (history, changes), which the caller keeps unopened                    |
| EVENT    | up   | pickled fields of its payload; the seconds are its place in `JobEvent`         |
| SKIPPED  | up   | nothing; the seconds are the number in the lane of a job that was taken back   |
| NO_SETUP | up   | the packed exception of `setup()`; the child ends                              |
| RENEW    | up   | why the worker could not be unpickled: the child ends, fork another            |
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "AGAIN",
    "AGAIN_LENGTH",
    "DONE",
    "EVENT",
    "HEADER",
    "JOB",
    "NO_SETUP",
    "RENEW",
    "REQUEUE",
    "RESPONSE",
    "RUN",
    "SKIPPED",
]

HEADER = struct.Struct("=BxxxIQd")
"""kind, attempt (REQUEUE: the next one), job index, seconds: in `process()` (answers), to wait (REQUEUE)"""

AGAIN_LENGTH = struct.Struct("=Q")


# Plain numbers: to look up and compare a member of an enum costs more than to unpack the header.
JOB: Final = 1
AGAIN: Final = 2
RUN: Final = 3
DONE: Final = 4
RESPONSE: Final = 5
REQUEUE: Final = 6
EVENT: Final = 7
NO_SETUP: Final = 8
RENEW: Final = 9
SKIPPED: Final = 10
