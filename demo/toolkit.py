"""The toolkit, part by part, each in a few lines.

python demo/toolkit.py

Pool, ForkExecutor, Child, delay and SignalListener, queues, lockers, Shared, Pipe. In most of them a
process is killed on the way, and what it had or did is neither lost nor in anybody's way. What is printed is
the same each time.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

from multiprocessing_kit import (
    Child,
    ConditionLocker,
    FifoQueue,
    FileLocker,
    ForkExecutor,
    LifoQueue,
    Locker,
    MutexLocker,
    Pipe,
    PipeTimeoutError,
    Pool,
    PoolFullError,
    PriorityQueue,
    ReentrantLocker,
    RWLocker,
    SemaphoreLocker,
    Shared,
    SignalListener,
    SpinLocker,
    WorkerLostError,
    current_child,
    delay,
)


def title(text: str) -> None:
    """Above each part."""
    print(f"\n{text}", flush=True)


def say(*words: object) -> None:
    """A line of a part; at once, since children print, too."""
    print("  ", *words, flush=True)


def die() -> NoReturn:
    """End as the killed do: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("it is gone by now")


# ── Pool ────────────────────────────────────────────────────────────────────────────────────────────

bombs: FifoQueue[str]


def arm(queue: FifoQueue[str]) -> None:
    """The pool's initializer: its children know the queue."""
    global bombs  # noqa: PLW0603  # functions that a pool is given are found by name, and so is this
    bombs = queue


def square(number: int) -> int:
    """Whoever finds a bomb is killed by it."""
    if number == 3 and bombs.pop():
        die()
    return number * number


def pool() -> None:
    title("Pool: multiprocessing.Pool, and a child that is killed takes nothing with it")
    with FifoQueue[str]() as queue, Pool(2, initializer=arm, initargs=(queue,), maxsize=8) as made:
        queue.put("bomb")
        say("squares:", made.map(square, range(8), chunksize=1), "- bombs left:", len(queue))
        say("starmap:", made.starmap(pow, [(2, 3), (2, 4), (2, 5)]))
        made.apply_async(square, [9], callback=lambda result: say("a callback gets", result)).wait()
        lost = made.apply_async(die)
        try:
            lost.get()
        except WorkerLostError as error:
            say(f"die: killed by {error.signal_name} in each of {error.attempts} attempts")
        try:
            made.map(square, range(9), chunksize=1)
        except PoolFullError as error:
            say("nine jobs at once: PoolFullError, maxsize", error.maxsize)


# ── ForkExecutor ────────────────────────────────────────────────────────────────────────────────────


async def gather(executor: ForkExecutor) -> None:
    """Three calls in children, while the event loop goes on."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[Any]] = [
        loop.run_in_executor(executor, pow, 2, 10),
        loop.run_in_executor(executor, os._exit, 3),
        loop.run_in_executor(executor, divmod, 17, 5),
    ]
    for result in await asyncio.gather(*futures, return_exceptions=True):
        say("asyncio:", type(result).__name__ if isinstance(result, Exception) else result)


def executor() -> None:
    title("ForkExecutor: concurrent.futures.Executor, and a crash fails one call")
    with ForkExecutor(2) as made:
        say("submit:", made.submit(sum, [1, 2, 3]).result(), "- map:", list(made.map(abs, range(-2, 3))))
        asyncio.run(gather(made))


# ── Child ───────────────────────────────────────────────────────────────────────────────────────────


def serve() -> str:
    """Until SIGTERM."""
    me = current_child()
    assert me is not None
    stopped = False

    def stop(_signum: int) -> None:
        nonlocal stopped
        stopped = True

    with SignalListener().on(signal.SIGTERM, stop):
        me.send("ready")
        while not stopped:
            time.sleep(0.01)
    return "ended in order"


def child() -> None:
    title("Child: one process with events, messages, signals and a result")
    made = Child(serve, name="server")

    def received(server: Child[str], message: str) -> None:
        say(f'"receive" of {server.name}: {message}')
        server.terminate()

    made.on("start", lambda server, pid: say(f'"start" of {server.name}, as its pid says:', pid == made.pid))
    made.on("receive", received)
    made.on("success", lambda server, value: say(f'"success" of {server.name}: {value}'))
    made.on("finish", lambda server, exitcode: say(f'"finish" of {server.name}: {exitcode}'))
    made.start()
    made.wait()

    unlucky = Child(die)
    unlucky.on("error", lambda _, exception: say('"error":', type(exception).__name__, exception.signal_name))
    unlucky.start()
    unlucky.wait()

    reminder = delay(0.05, divmod, 17, 5)
    mistake = delay(3600, die)
    mistake.terminate()
    say("delay: later there is", reminder.result(), "- one that was canceled:", mistake.wait())


# ── Queues ──────────────────────────────────────────────────────────────────────────────────────────

OTHER_PROGRAM = """
import sys
from multiprocessing_kit import FifoQueue

inbox = FifoQueue(name=sys.argv[1])
inbox.put(inbox.get()[::-1])
"""


def fill(queue: FifoQueue[str] | LifoQueue[str]) -> None:
    """Put three items, and be killed."""
    queue.put_many(["one", "two", "three"])
    die()


def queues() -> None:
    title("FifoQueue, LifoQueue, PriorityQueue: what the killed have put is there, and nobody waits for them")
    with FifoQueue[str]() as fifo, LifoQueue[str]() as lifo:
        for queue in (fifo, lifo):
            killed = Child(fill, queue)
            killed.start()
            killed.wait()
            say(f"{type(queue).__name__}:", queue.get(timeout=60), "-", queue.get_all())
    with PriorityQueue[str](maxsize=3) as jobs:
        jobs.put("tidy up", priority=10)
        jobs.put("answer", priority=-1)
        jobs.put("usual")
        say("PriorityQueue: full" if jobs.full() else "PriorityQueue:", jobs.get_all())

    with FifoQueue[str](name=f"demo of {os.getpid()}") as named:
        named.put("stressed")
        subprocess.run([sys.executable, "-c", OTHER_PROGRAM, f"demo of {os.getpid()}"], check=True)
        say("by name, through another program:", named.get())


# ── Lockers ─────────────────────────────────────────────────────────────────────────────────────────


def hold(locker: Locker | ConditionLocker) -> None:
    """Take it and keep it."""
    me = current_child()
    assert me is not None
    locker.acquire()
    me.send("mine")
    time.sleep(3600)


def owner_is_killed(name: str, locker: Locker | ConditionLocker) -> None:
    """What the next one sees."""
    owner = Child(hold, locker)
    owner.start()
    owner.receive()
    named = locker.owner is not None and locker.owner.pid == owner.pid
    taken = not locker.acquire(blocking=False)
    owner.kill()
    if locker.acquire(timeout=60):
        say(f"{name:<16} was taken: {taken}, owner known: {named}, owner died: {locker.owner_died}")
        locker.release()


def read(locker: RWLocker) -> int:
    """Beside another reader."""
    with locker.reader:
        return locker.readers


def announce(condition: ConditionLocker, table: Shared) -> None:
    """Change something, and say so."""
    with condition:
        table["door"] = {"state": "open"}
        condition.notify_all()


def lockers() -> None:
    title("Lockers: the owner is killed, the next one gets it at once, and is told")
    rw, condition = RWLocker(), ConditionLocker()
    with tempfile.TemporaryDirectory() as folder:
        all_kinds: dict[str, Locker | ConditionLocker] = {
            "FileLocker": FileLocker(Path(folder) / "lock"),
            "MutexLocker": MutexLocker(),
            "ReentrantLocker": ReentrantLocker(),
            "SemaphoreLocker": SemaphoreLocker(1),
            "RWLocker.writer": rw.writer,
            "SpinLocker": SpinLocker(),
            "ConditionLocker": condition,
        }
        for name, locker in all_kinds.items():
            owner_is_killed(name, locker)
    with rw.reader:
        other = Child(read, rw)
        other.start()
        say("RWLocker: readers at once:", other.result())
    with Shared({"state": (str, 8)}) as table, condition:
        delay(0, announce, condition, table)
        state = condition.wait_for(lambda: table.get("door", "state"), timeout=60)
        say("ConditionLocker: woken, the door is", state)


# ── Shared ──────────────────────────────────────────────────────────────────────────────────────────


def count(table: Shared, times: int) -> None:
    """So many hits, and be killed."""
    for _ in range(times):
        table.incr("/", "hits")
    die()


def shared() -> None:
    title("Shared: a table in shared memory, with counters that lose nothing")
    with Shared({"hits": int, "name": (str, 64)}, rows=100) as table:
        table["/"] = {"name": "the front page"}
        counting = [Child(count, table, 1000) for _ in range(4)]
        for each in counting:
            each.start()
        for each in counting:
            each.wait()
        say("four times 1000 hits:", table["/"])
        say("about:", table.incr("/about", "hits"), "- keys:", sorted(table), "- deleted:", table.delete("/"))


# ── Pipe ────────────────────────────────────────────────────────────────────────────────────────────


def pipe() -> None:
    title("Pipe: multiprocessing.Pipe, with deadlines")
    ours, theirs = Pipe()
    with ours:
        with theirs:
            doubling = Child(lambda: theirs.send(theirs.recv() * 2))
            doubling.start()
        ours.send(21)
        say("doubled:", ours.recv(timeout=60))
        doubling.wait()
        try:
            ours.recv(timeout=60)
        except EOFError:
            say("the other side has ended: EOFError, at once")
    ours, theirs = Pipe()
    with ours, theirs:
        try:
            ours.recv(timeout=0.05)
        except PipeTimeoutError as error:
            say("nothing came: PipeTimeoutError, in the middle of a message:", error.begun)


def main() -> None:
    for part in (pool, executor, child, queues, lockers, shared, pipe):
        part()


if __name__ == "__main__":
    main()
