"""What travels in a lane: a fixed header, then a payload that depends on the kind.

| kind       | way  | payload                                                                      |
|------------|------|------------------------------------------------------------------------------|
| JOB        | down | the pickled argument                                                         |
| JOBS       | down | a pickled list or range of arguments, all of them plain and immutable        |
| JOBS_APART | down | a pickled list of pickled arguments                                          |
| JOB_LARGE  | down | where the argument lies, see `freight`                                       |
| AGAIN      | down | length of the next part, what REQUEUE brought, the pickled argument          |
| AGAIN_LARGE| down | likewise, with where the argument lies                                       |
| RUN        | down | pickled (run id, pickled worker or None to keep the one there is)            |
| DONE       | up   | the pickled body of one successful `JobResponse`                             |
| MANY       | up   | pickled (durations, list of bodies), for jobs in a row                       |
| MANY_APART | up   | pickled (durations, list of pickled bodies), likewise                        |
| RESPONSE   | up   | any other pickled response                                                   |
| WANT       | up   | nothing; so many bytes as `index` says are to be granted                     |
| DONE_LARGE | up   | what lies where in the granted block; as DONE                                |
| RESPONSE_LARGE | up | likewise; as RESPONSE                                                      |
| FREED      | up   | pickled places whose views have died                                         |
| REQUEUE    | up   | pickled (history, changes), which the caller keeps unopened                  |
| EVENT      | up   | pickled fields of its payload; the seconds are its place in `JobEvent`       |
| SKIPPED    | up   | nothing; as many jobs in a row, from number `index` on, were taken back      |
| NO_SETUP   | up   | the packed exception of `setup()`; the child ends                            |
| RENEW      | up   | why the worker could not be unpickled: the child ends, fork another          |
| TOO_LARGE  | up   | nothing; the child has grown beyond what it may, and ends                    |

Values that may change, or that may share parts with one another, are pickled apart: in one pickle, two
jobs that are given the same list would find the same list, and one would see what the other did to it.
Durations are (jobs, seconds in `process()` of all of these), one pair after the other.
"""

from __future__ import annotations

import struct
from typing import Final

__all__ = [
    "AGAIN",
    "AGAIN_LARGE",
    "AGAIN_LENGTH",
    "DONE",
    "DONE_LARGE",
    "EVENT",
    "FREED",
    "HEADER",
    "JOB",
    "JOBS",
    "JOBS_APART",
    "JOB_LARGE",
    "MANY",
    "MANY_APART",
    "NO_SETUP",
    "RENEW",
    "REQUEUE",
    "RESPONSE",
    "RESPONSE_LARGE",
    "RUN",
    "SKIPPED",
    "TOO_LARGE",
    "WANT",
]

HEADER = struct.Struct("=BxxxIQd")
"""kind; number of jobs (JOBS, MANY, SKIPPED) or attempt (all others; REQUEUE: the next one); index of the
(first) job; seconds: in `process()` (answers), to wait (REQUEUE)"""

AGAIN_LENGTH = struct.Struct("=Q")


# Plain numbers: to look up and compare a member of an enum costs more than to unpack the header.
JOB: Final = 1
JOBS: Final = 2
JOBS_APART: Final = 3
JOB_LARGE: Final = 4
AGAIN: Final = 5
AGAIN_LARGE: Final = 6
RUN: Final = 7
DONE: Final = 8
MANY: Final = 9
MANY_APART: Final = 10
RESPONSE: Final = 11
DONE_LARGE: Final = 12
RESPONSE_LARGE: Final = 13
WANT: Final = 14
FREED: Final = 15
REQUEUE: Final = 16
EVENT: Final = 17
SKIPPED: Final = 18
NO_SETUP: Final = 19
RENEW: Final = 20
TOO_LARGE: Final = 21
