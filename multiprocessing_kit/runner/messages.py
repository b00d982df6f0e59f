"""What travels in a lane: a fixed header, then a payload that depends on the kind.

| kind       | way  | payload                                                                      |
|------------|------|------------------------------------------------------------------------------|
| JOB        | down | the pickled argument                                                         |
| JOBS       | down | a pickled list or range of arguments, all of them plain and immutable        |
| JOBS_APART | down | a pickled list of pickled arguments                                          |
| AGAIN      | down | length of the next part, what REQUEUE brought, the pickled argument          |
| RUN        | down | pickled (run id, pickled worker or None to keep the one there is)            |
| DONE       | up   | the pickled body of one successful `JobResponse`                             |
| MANY       | up   | pickled (durations, list of bodies), for jobs in a row                       |
| MANY_APART | up   | pickled (durations, list of pickled bodies), likewise                        |
| RESPONSE   | up   | any other pickled response                                                   |
| REQUEUE    | up   | pickled (history, changes), which the caller keeps unopened                  |
| EVENT      | up   | pickled fields of its payload; the seconds are its place in `JobEvent`       |
| SKIPPED    | up   | nothing; as many jobs in a row, from number `index` on, were taken back      |
| NO_SETUP   | up   | the packed exception of `setup()`; the child ends                            |
| RENEW      | up   | why the worker could not be unpickled: the child ends, fork another          |

Values that may change, or that may share parts with one another, are pickled apart: in one pickle, two
jobs that are given the same list would find the same list, and one would see what the other did to it.
Durations are (jobs, seconds in `process()` of all of these), one pair after the other.
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
    "JOBS",
    "JOBS_APART",
    "MANY",
    "MANY_APART",
    "NO_SETUP",
    "RENEW",
    "REQUEUE",
    "RESPONSE",
    "RUN",
    "SKIPPED",
]

HEADER = struct.Struct("=BxxxIQd")
"""kind; number of jobs (JOBS, MANY, SKIPPED) or attempt (all others; REQUEUE: the next one); index of the
(first) job; seconds: in `process()` (answers), to wait (REQUEUE)"""

AGAIN_LENGTH = struct.Struct("=Q")


# Plain numbers: to look up and compare a member of an enum costs more than to unpack the header.
JOB: Final = 1
JOBS: Final = 2
JOBS_APART: Final = 3
AGAIN: Final = 4
RUN: Final = 5
DONE: Final = 6
MANY: Final = 7
MANY_APART: Final = 8
RESPONSE: Final = 9
REQUEUE: Final = 10
EVENT: Final = 11
SKIPPED: Final = 12
NO_SETUP: Final = 13
RENEW: Final = 14
