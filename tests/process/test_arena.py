from __future__ import annotations

import errno
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from multiprocessing_kit.errors import IpcError
from multiprocessing_kit.ipc import arena as arena_module
from multiprocessing_kit.ipc import sysv
from multiprocessing_kit.ipc.arena import FIRST_SEGMENT_BYTES, Arena, Block
from multiprocessing_kit.ipc.guest import Guest
from multiprocessing_kit.ipc.pages import Pages
from multiprocessing_kit.ipc.parcel import THRESHOLD, Parcel, pack, unpack
from multiprocessing_kit.ipc.place import Place
from multiprocessing_kit.ipc.ranges import Ranges
from multiprocessing_kit.ipc.store import Store

ROOT = Path(__file__).resolve().parents[2]
TABLE = Path("/proc/sysvipc/shm")
MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")

pytestmark = [
    pytest.mark.skipif(not TABLE.exists(), reason="looks into /proc/sysvipc"),
    pytest.mark.skipif(not Arena().available, reason="blocks need System V memory on Linux"),
]


def resident(segment: int | None = None) -> int:
    """Bytes of memory in use by this process's segments, or by one; the kernel's own count."""
    head, *lines = TABLE.read_text().splitlines()
    rows = [dict(zip(head.split(), map(int, line.split()), strict=True)) for line in lines]
    return sum(row["rss"] for row in rows if row["cpid"] == os.getpid() and segment in (None, row["shmid"]))


def segments() -> set[int]:
    """The segments that this process made, while anybody is attached."""
    head, *lines = TABLE.read_text().splitlines()
    rows = [dict(zip(head.split(), map(int, line.split()), strict=True)) for line in lines]
    return {row["shmid"] for row in rows if row["cpid"] == os.getpid()}


class Child:
    """A forked child that runs one function when it is told to, with an argument that came later."""

    def __init__(self, body: Callable[[Any], object]) -> None:
        reading, self._writing = os.pipe()
        self._answer, answering = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                os.close(self._writing)
                with open(reading, "rb") as pipe:
                    argument = pickle.load(pipe)
                os.write(answering, pickle.dumps(body(argument)))
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        os.close(reading)
        os.close(answering)

    def tell(self, argument: object = None) -> None:
        os.write(self._writing, pickle.dumps(argument))
        os.close(self._writing)

    def result(self) -> Any:
        """What the function returned."""
        with open(self._answer, "rb") as pipe:
            data = pipe.read()
        assert self.wait() == 0
        return pickle.loads(data)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.close(self._answer)
        self.wait()


def ignore(_place: Place) -> None:
    """For views of which nobody needs to know when they die."""


def pattern(size: int, seed: int = 0) -> bytes:
    unit = random.Random(seed).randbytes(min(size, 4099))
    return (unit * (size // 4099 + 1))[:size]


def filled(arena: Arena, data: bytes) -> Block:
    block = arena.allocate(len(data))
    block.memory[:] = data
    return block


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena()
    yield arena
    arena.close()


# There and back


@pytest.mark.parametrize(
    "size", [0, 1, PAGE - 1, PAGE, THRESHOLD - 1, THRESHOLD, 64 << 10, MIB, 100 * MIB], ids=str
)
def test_a_child_forked_earlier_reads_and_writes(arena: Arena, size: int) -> None:
    def body(places: tuple[Place, Place]) -> bool:
        guest = Guest()
        source = guest.view(places[0], ignore)
        guest.memory(places[1])[:] = source
        return source.readonly

    child = Child(body)
    data = pattern(size)
    given, granted = filled(arena, data), arena.allocate(size)
    child.tell((given.place, granted.place))
    assert child.result() is True
    memory = granted.memory
    assert (len(memory), memory.format, memory.readonly) == (size, "B", False)
    assert bytes(memory) == data
    given.release()
    granted.release()


@pytest.mark.stress
@pytest.mark.timeout(300)
def test_three_gibibytes(arena: Arena) -> None:
    size = 3 << 30

    def body(place: Place) -> int:
        memory = Guest().memory(place)
        memory[-MIB:] = memory[:MIB]
        return len(memory)

    child = Child(body)
    block = arena.allocate(size)
    data = pattern(MIB)
    for start in range(0, size, MIB):
        block.memory[start : start + MIB] = data
    block.memory[:MIB] = pattern(MIB, 1)
    child.tell(block.place)
    assert child.result() == size
    assert bytes(block.memory[-MIB:]) == pattern(MIB, 1)
    assert resident() >= size
    block.release()
    assert resident() <= arena_module.KEEP_BYTES


def test_parcels_through_blocks(arena: Arena) -> None:
    numpy = pytest.importorskip("numpy")
    store = Store(arena)
    guest = Guest()
    dead: deque[Place] = deque()
    source = {"a": [numpy.arange(MIB), (numpy.ones((700, 800)).T, b"z" * MIB)], "b": memoryview(bytes(MIB))}
    packed = pack(source, "it")
    assert isinstance(packed, Parcel)
    blocks = [store.place(buffer) for buffer in packed.buffers]
    stream = arena.allocate(packed.stream_size)
    at = 0
    for chunk in packed.stream:
        stream.memory[at : at + len(chunk)] = chunk
        at += len(chunk)
    views = [guest.view(block.place, dead.append) for block in blocks]
    copy = unpack(stream.memory, views, "it")
    del views
    assert numpy.array_equal(copy["a"][0], source["a"][0])
    assert numpy.array_equal(copy["a"][1][0], source["a"][1][0])
    assert copy["a"][1][1] == source["a"][1][1]
    assert copy["b"] == source["b"]
    assert not copy["a"][0].flags.writeable
    assert not dead
    del copy
    assert sorted(dead) == sorted(block.place for block in blocks)
    for block in (*blocks, stream):
        block.release()


# Memory comes back


def everything_from(view: memoryview) -> dict[str, Any]:
    numpy = pytest.importorskip("numpy")
    whole = numpy.frombuffer(view, "i4")
    return {
        "itself": view,
        "slice": view[5:7],
        "cast": view.cast("i"),
        "read-only": view.toreadonly(),
        "view of view": memoryview(view)[::2],
        "array": whole,
        "array slice": whole[3:9:2],
        "reshaped": whole.reshape(2, -1).T,
        "other type": whole.view("u1"),
        "pickled": pickle.PickleBuffer(view),
    }


DERIVED = [
    "itself", "slice", "cast", "read-only", "view of view", "array", "array slice", "reshaped", "other type",
    "pickled",
]  # fmt: skip


@pytest.mark.parametrize("name", DERIVED)
def test_a_guest_tells_when_the_last_has_died(arena: Arena, name: str) -> None:
    block = filled(arena, pattern(MIB))
    dead: deque[Place] = deque()
    guest = Guest()
    kept = everything_from(guest.view(block.place, dead.append))[name]
    assert not dead
    del kept
    assert list(dead) == [block.place]
    block.release()


def test_views_outlive_everything() -> None:
    arena = Arena()
    guest = Guest()
    data = pattern(MIB)
    block = filled(arena, data)
    theirs = guest.view(block.place, ignore)[20:]
    block.release()
    arena.close()
    guest.forget([block.place.segment])
    del arena, guest, block
    gc.collect()
    assert theirs[0] == 0, "given back by the owner"
    assert len(segments()) == 1
    del theirs
    assert segments() == set()


def test_memory_is_used_again(arena: Arena) -> None:
    seen = set()
    for number in range(200):
        block = filled(arena, pattern(MIB, number))
        seen.add(block.place)
        assert block.memory[:100] == pattern(MIB, number)[:100]
        block.release()
    assert len(seen) == 1
    assert resident() == MIB


def test_only_so_much_is_kept() -> None:
    arena = Arena(keep=10 * MIB)
    blocks = [filled(arena, bytes(3 * MIB)) for _ in range(8)]
    assert resident() == 24 * MIB
    for number, block in enumerate(blocks):
        block.release()
        left = (7 - number) * 3 * MIB
        assert resident() == left + min(10 * MIB, 24 * MIB - left)
    blocks = [filled(arena, bytes(3 * MIB)) for _ in range(3)]
    assert resident() == 10 * MIB, "warm memory first"


def test_nothing_kept_means_nothing() -> None:
    arena = Arena(keep=0)
    blocks = [filled(arena, pattern(size)) for size in (1, 100, PAGE, PAGE + 1, MIB - 1)]
    for block in random.Random(1).sample(blocks, len(blocks)):
        block.release()
    assert resident() == 0
    assert len(segments()) == 1


def test_segments_are_made_and_dropped() -> None:
    dropped: list[int] = []
    arena = Arena(keep=70 * MIB, on_drop=dropped.append)
    sizes = [MIB, FIRST_SEGMENT_BYTES, FIRST_SEGMENT_BYTES, 300 * MIB, MIB]
    blocks = [arena.allocate(size) for size in sizes]
    first, second, second_too, third, first_too = (block.place.segment for block in blocks)
    assert (second_too, first_too) == (second, first) or second_too != second
    assert len({first, second, third}) == 3
    assert len(segments()) == len({block.place.segment for block in blocks})
    for block in blocks:
        block.release()
    blocks.clear()
    assert first not in dropped
    assert segments() == {first, second, second_too, third} - set(dropped)
    arena.close()
    assert segments() == set()
    assert len(dropped) == len(set(dropped)) == len({first, second, second_too, third})


def test_after_close_nothing_is_kept(arena: Arena) -> None:
    held, given = filled(arena, pattern(MIB)), filled(arena, pattern(MIB))
    given.release()
    assert resident() == 2 * MIB
    arena.close()
    assert resident() == MIB
    assert bytes(held.memory) == pattern(MIB)
    held.release()
    del held, given
    assert segments() == set()


def test_where_pages_cannot_be_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pages, "give_back", lambda *_arguments: False)
    arena = Arena(keep=0)
    held, given = filled(arena, pattern(MIB)), filled(arena, pattern(MIB))
    given.release()
    other = filled(arena, pattern(MIB))
    assert other.place.segment != held.place.segment, "the first takes no more"
    assert bytes(held.memory) == pattern(MIB)
    held.release()
    other.release()
    del held, given, other
    assert resident() == 0
    assert segments() == set()


# Refusals


def refuse_above(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    create = sysv.create_segment

    def limited(size: int) -> Any:
        if size > limit:
            raise IpcError(errno.EINVAL, "too large", limit="kernel.shmmax")
        return create(size)

    monkeypatch.setattr(sysv, "create_segment", limited)


def test_a_smaller_segment_where_a_large_one_is_refused(
    arena: Arena, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_above(monkeypatch, MIB)
    blocks = [arena.allocate(MIB) for _ in range(3)]
    assert len({block.place.segment for block in blocks}) == 3
    with pytest.raises(IpcError, match="too large") as caught:
        arena.allocate(MIB + 1)
    assert caught.value.limit == "kernel.shmmax"
    with pytest.raises(IpcError, match="too large"):
        arena.allocate(FIRST_SEGMENT_BYTES + 1)
    for block in blocks:
        block.release()


def test_without_the_module(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    assert arena.available
    monkeypatch.setattr(sysv, "sysv_ipc", None)
    assert not arena.available
    with pytest.raises(IpcError, match="not available"):
        arena.allocate(1)


def test_not_on_macos(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not arena.available


def test_a_segment_that_is_gone(arena: Arena) -> None:
    block = arena.allocate(100)
    place = block.place
    block.release()
    arena.close()
    del block
    with pytest.raises(IpcError, match="cannot be attached"):
        Guest().view(place, ignore)
    with pytest.raises(IpcError, match="cannot be attached"):
        Guest().memory(place)


# Released at any instant


class Holder:
    """Releases a block when it dies."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def __del__(self) -> None:
        self._block.release()


def test_a_block_that_is_free(arena: Arena) -> None:
    block = arena.allocate(100)
    assert block.hold()
    block.release()
    assert len(block.memory) == 100
    block.release()
    assert not block.hold()
    with pytest.raises(ValueError, match="free"):
        _ = block.memory
    with pytest.raises(ValueError, match="free"):
        _ = block.address


def test_a_release_while_the_lock_is_held(arena: Arena) -> None:
    block = filled(arena, pattern(MIB))
    with arena._lock:
        block.release()
        assert block.place in {entry[0].place for entry in arena._ended}
    again = arena.allocate(MIB)
    assert again.place == block.place
    again.release()


def test_a_release_while_the_lock_is_held_by_another_thread(arena: Arena) -> None:
    """Who holds the lock looks again when it has let go, so nothing else has to happen."""
    block = filled(arena, pattern(MIB))
    inside, go_on = threading.Event(), threading.Event()

    def hold_for_long(_size: int) -> None:
        inside.set()
        assert go_on.wait(30)
        raise IpcError(errno.ENOSPC, "refused")

    def allocate_in_vain() -> None:
        with pytest.raises(IpcError):
            arena.allocate(1 << 40)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena_module, "ArenaSegment", hold_for_long)
        thread = threading.Thread(target=allocate_in_vain)
        thread.start()
        assert inside.wait(30)
        block.release()
        assert not block._arena._lock.acquire(blocking=False)
        go_on.set()
        thread.join()
    assert not arena._ended
    with pytest.raises(ValueError, match="free"):
        _ = block.memory


def test_a_release_in_a_garbage_collection_inside(arena: Arena) -> None:
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(300):
            block = filled(arena, pattern(5000, number))
            circle: list[Any] = [Holder(block)]
            circle.append(circle)
            assert block.memory == pattern(5000, number)
    finally:
        gc.set_threshold(*threshold)
    del circle
    gc.collect()
    assert not block.hold()
    assert resident() <= 100 * MIB
    assert not arena._ended


def test_threads_that_allocate_and_release(arena: Arena) -> None:
    wrong: list[str] = []
    inbox: deque[tuple[Block, bytes]] = deque()

    def work(seed: int) -> None:
        chance = random.Random(seed)
        for number in range(200):
            data = pattern(chance.randrange(1, 50_000), seed * 1000 + number)
            inbox.append((filled(arena, data), data))
            if chance.random() < 0.7:
                block, expected = inbox.popleft()
                if bytes(block.memory) != expected:
                    wrong.append(f"{seed}/{number}")
                block.release()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    while inbox:
        block, expected = inbox.popleft()
        assert bytes(block.memory) == expected
        block.release()
    del block
    arena.close()
    assert segments() == set()


def test_all_is_alive_at_the_end_of_the_interpreter() -> None:
    code = (
        "from multiprocessing_kit.ipc.arena import Arena\n"
        "from multiprocessing_kit.ipc.guest import Guest\n"
        "arena = Arena(); block = arena.allocate(100000); kept = block.memory\n"
        "circle = [block, kept]; circle.append(circle)\n"
        "other = Guest().view(block.place, print)\n"
        "import builtins; builtins.kept = block.memory, Guest().view(block.place, [].append)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""


class StruckError(Exception):
    """Raised by a signal handler."""


@pytest.mark.stress
def test_a_signal_handler_that_raises_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def strike(*_arguments: object) -> None:
        raise StruckError

    monkeypatch.setattr(sys, "unraisablehook", lambda _what: None)
    previous = signal.signal(signal.SIGPROF, strike)
    chance = random.Random(7)
    arena = Arena(keep=MIB)
    blocks: list[tuple[Block, Holder, bytes]] = []
    struck = 0
    try:
        while struck < 50:
            signal.setitimer(signal.ITIMER_PROF, chance.uniform(1e-5, 3e-4))
            try:
                for _ in range(20):
                    data = bytes([chance.randrange(256)]) * chance.randrange(1, 60_000)
                    block = filled(arena, data)
                    blocks.append((block, Holder(block), data))
                    del blocks[chance.randrange(len(blocks))]
                while signal.getitimer(signal.ITIMER_PROF)[0]:
                    pass
            except StruckError:
                struck += 1
            assert not arena._lock.locked()
            assert all(block.memory == data for block, _, data in blocks)
            del blocks[20:]
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, previous)


# Forks


def test_the_copies_in_a_child_do_nothing(arena: Arena) -> None:
    data = pattern(MIB)
    block, other = filled(arena, data), filled(arena, data)

    def body(_argument: object) -> list[object]:
        seen: list[object] = [arena.available, block.hold()]
        try:
            arena.allocate(10)
        except IpcError as error:
            seen.append(type(error))
        block.release()
        block.abandon()
        other.release()
        arena.close()
        gc.collect()
        return seen

    child = Child(body)
    child.tell()
    assert child.result() == [False, False, IpcError]
    assert bytes(block.memory) == data
    assert bytes(other.memory) == data
    third = filled(arena, pattern(MIB, 1))
    assert third.place not in (block.place, other.place)
    assert bytes(other.memory) == data
    for held in (block, other, third):
        held.release()


@pytest.mark.parametrize("keep", [0, 1 << 30])
def test_what_was_abandoned_is_not_used_again(keep: int) -> None:
    dropped: list[int] = []
    arena = Arena(keep=keep, on_drop=dropped.append)
    data = pattern(MIB)
    block, neighbour = filled(arena, data), filled(arena, pattern(MIB, 1))
    child = Child(lambda place: bytes(Guest().view(place, ignore)))
    looking = Guest().view(block.place, ignore)
    assert block.hold()
    block.abandon()
    assert bytes(block.memory) == data, "it is held still"
    block.release()
    others = [filled(arena, bytes(MIB)) for _ in range(3)]
    assert block.place.segment not in {other.place.segment for other in others}
    assert bytes(neighbour.memory) == pattern(MIB, 1)
    assert dropped == []
    closed = block.place.segment
    assert resident(closed) == 2 * MIB
    neighbour.release()
    assert dropped == [closed]
    assert resident(closed) == MIB, "what nobody can see has been given back"
    place = block.place
    del block, neighbour
    child.tell(place)
    assert child.result() == data
    assert bytes(looking) == data
    del looking
    assert resident(closed) == 0
    assert closed not in segments()
    for other in others:
        other.release()


def test_forks_do_not_matter(arena: Arena) -> None:
    block = filled(arena, pattern(MIB))
    child = Child(int)
    child.tell(1)
    assert child.result() == 1
    block.release()
    again = filled(arena, pattern(MIB))
    assert again.place == block.place
    again.release()


def test_a_guest_that_forks_does_not_report(arena: Arena) -> None:
    block = filled(arena, pattern(MIB))

    def body(place: Place) -> list[int]:
        guest = Guest()
        dead: deque[Place] = deque()
        early = guest.view(place, dead.append)
        del early
        kept = guest.view(place, dead.append)

        def grandchild(_argument: object) -> int:
            nonlocal kept
            kept = memoryview(b"")
            return len(dead)

        forked = Child(grandchild)
        late = guest.view(place, dead.append)
        del kept
        forked.tell()
        counts = [forked.result(), len(dead)]
        del late
        return [*counts, len(dead)]

    child = Child(body)
    child.tell(block.place)
    assert child.result() == [1, 1, 2]
    block.release()


def test_a_child_killed_while_it_holds(arena: Arena) -> None:
    """Its own child lives on and looks at the block, of which the owner knows nothing."""
    data = pattern(MIB)
    block = filled(arena, data)
    reading, writing = os.pipe()
    answer, answering = os.pipe()

    def body(place: Place) -> None:
        view = Guest().view(place, ignore)
        if os.fork() == 0:
            os.close(writing)
            os.write(answering, b"r")
            os.read(reading, 1)
            os.write(answering, b"same" if view == data else b"changed")
            os._exit(0)
        signal.pause()

    child = Child(body)
    block.hold()
    child.tell(block.place)
    os.close(reading)
    os.close(answering)
    assert os.read(answer, 1) == b"r"
    child.kill()
    block.abandon()
    block.release()
    other = filled(arena, bytes(MIB))
    assert other.place.segment != block.place.segment
    os.close(writing)
    assert os.read(answer, 10) == b"same"
    assert os.read(answer, 10) == b""
    os.close(answer)
    other.release()


def test_a_child_killed_while_it_writes(arena: Arena) -> None:
    block = arena.allocate(10 * MIB)
    reading, writing = os.pipe()

    def body(place: Place) -> None:
        memory = Guest().memory(place)
        memory[: 5 * MIB] = b"x" * (5 * MIB)
        os.write(writing, b"r")
        signal.pause()

    child = Child(body)
    child.tell(block.place)
    assert os.read(reading, 1) == b"r"
    child.kill()
    os.close(reading)
    os.close(writing)
    block.release()
    again = arena.allocate(10 * MIB)
    assert again.place == block.place
    again.release()


def test_a_killed_owner_leaves_nothing() -> None:
    def body(_argument: object) -> None:
        _block = filled(Arena(), pattern(MIB))
        os.kill(os.getpid(), signal.SIGKILL)

    before = TABLE.read_text().count("\n")
    child = Child(body)
    child.tell()
    os.close(child._answer)
    assert child.wait() == -9
    assert TABLE.read_text().count("\n") == before or segments() == set()


def test_a_guest_attaches_once_and_forgets(arena: Arena) -> None:
    block, other = arena.allocate(100), arena.allocate(100)

    def body(places: list[Place]) -> list[int]:
        def attached() -> int:
            return Path("/proc/self/maps").read_text().count("/SYSV") - inherited

        inherited = 0
        inherited = attached()
        guest = Guest()
        views = [guest.view(place, ignore) for place in places * 3]
        counts = [attached()]
        guest.forget([place.segment for place in places] + [12345])
        counts.append(attached())
        views.clear()
        return [*counts, attached()]

    child = Child(body)
    child.tell([block.place, other.place])
    assert child.result() == [1, 1, 0]
    block.release()
    other.release()


# The same source twice


@pytest.fixture
def store(arena: Arena) -> Store:
    return Store(arena)


def test_the_same_source_is_copied_once(arena: Arena, store: Store) -> None:
    source = bytearray(pattern(MIB))
    blocks = [store.place(memoryview(source)) for _ in range(5)]
    assert len(set(map(id, blocks))) == 1
    assert resident() == MIB
    part = store.place(memoryview(source)[:THRESHOLD])
    assert part is not blocks[0]
    for block in (*blocks[1:], part):
        block.release()
    assert bytes(blocks[0].memory) == source
    blocks[0].release()
    assert not blocks[0].hold()


def test_a_source_that_was_refilled(arena: Arena, store: Store) -> None:
    source = array("q", range(100_000))
    held = []
    for number in (0, 99_999, 5):
        source[number] = -1
        block = store.place(memoryview(source).cast("B"))
        held.append((block, source.tobytes()))
    assert len({block.place for block, _ in held}) == 3
    assert all(bytes(block.memory) == data for block, data in held)
    assert store.place(memoryview(source).cast("B")) is held[-1][0]
    held[-1][0].release()
    for block, _ in held:
        block.release()


@pytest.mark.parametrize("same", [True, False])
def test_another_object_at_the_same_address(arena: Arena, store: Store, same: bool) -> None:
    """Which memory an object gets is not ours to say: this refills one place, as a new object would."""
    memory = bytearray(pattern(MIB))
    source = memoryview(memory)[:]
    block = store.place(source)
    source.release()
    if not same:
        memory[-1] ^= 1
    other = store.place(memoryview(memory)[:])
    assert (other is block) == same
    assert bytes(other.memory) == memory
    block.release()
    other.release()


def test_the_source_is_not_kept(arena: Arena, store: Store) -> None:
    import weakref

    numpy = pytest.importorskip("numpy")
    source = numpy.zeros(MIB, "u1")
    gone = weakref.ref(source)
    block = store.place(memoryview(source))
    del source
    assert gone() is None
    block.release()


def test_read_only_sources(arena: Arena, store: Store) -> None:
    source = pattern(MIB)
    block = store.place(memoryview(source))
    assert store.place(memoryview(source)) is block
    assert bytes(block.memory) == source
    block.release()
    block.release()


def test_a_block_that_was_freed_is_not_found(arena: Arena, store: Store) -> None:
    source = memoryview(pattern(MIB))
    block = store.place(source)
    block.release()
    thief = filled(arena, bytes(MIB))
    assert thief.place == block.place
    other = store.place(source)
    assert other is not block
    assert other.place != thief.place
    assert bytes(other.memory) == bytes(source)
    thief.release()
    other.release()


def test_entries_do_not_pile_up(arena: Arena, store: Store) -> None:
    for number in range(100):
        store.place(memoryview(bytes(PAGE + number))).release()
    assert len(store._blocks) == 0


# Against a model


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(1, 12)), max_size=60), st.data())
def test_ranges_against_a_set(steps: list[tuple[bool, int, int]], data: st.DataObject) -> None:
    ranges, model = Ranges(), set[int]()
    for add, start, size in steps:
        numbers = set(range(start, start + size))
        if add:
            ranges.add(start, start + size)
            model |= numbers
        else:
            ranges.remove(start, start + size)
            model -= numbers
        kept = list(ranges)
        assert {number for first, end in kept for number in range(first, end)} == model
        assert all(first < end for first, end in kept)
        assert all(left[1] < right[0] for left, right in pairwise(kept))
        assert ranges.total == len(model)
        assert list(reversed(ranges)) == kept[::-1]
        wanted = data.draw(st.integers(1, 15))
        fits = [at for at in sorted(model) if set(range(at, at + wanted)) <= model]
        assert ranges.first_fit(wanted) == (fits[0] if fits else None)
        assert ranges.covers(start, start + wanted) == (start in fits)


class Owner:
    """The arena beside a model of what is live and what it must contain."""

    def __init__(self, keep: int) -> None:
        self.arena = Arena(keep=keep)
        self.keep = keep
        self.live: list[tuple[Block, int, bytes]] = []

    def allocate(self, size: int, seed: int) -> None:
        data = pattern(size, seed)
        self.live.append((filled(self.arena, data), 1, data))

    def step(self, hold: bool, chosen: int) -> None:
        at = chosen % len(self.live)
        block, holds, data = self.live[at]
        if hold:
            assert block.hold()
            holds += 1
        else:
            block.release()
            holds -= 1
        self.live[at] = block, holds, data
        if not holds:
            del self.live[at]
            assert not block.hold()

    def check(self) -> None:
        places = sorted(block.place for block, *_ in self.live)
        for left, right in pairwise(places):
            assert left.segment != right.segment or left.offset + left.length <= right.offset
        for block, _, data in self.live:
            assert block.place.offset % PAGE == 0
            assert bytes(block.memory) == data
        rooms = sum(-(-max(len(data), 1) // PAGE) * PAGE for *_, data in self.live)
        assert resident() <= rooms + self.keep


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([0, 5 * PAGE, 1 << 30]),
    st.lists(
        st.one_of(
            st.tuples(st.just("allocate"), st.integers(0, 6 * PAGE), st.integers(0, 1000)),
            st.tuples(st.just("step"), st.booleans(), st.integers(0, 1000)),
        ),
        max_size=60,
    ),
)
def test_blocks_against_a_model(keep: int, steps: list[tuple[str, int, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena_module, "FIRST_SEGMENT_BYTES", 16 * PAGE)  # so that there are many
        owner = Owner(keep)
        for kind, one, two in steps:
            if kind == "allocate":
                owner.allocate(one, two)
            elif owner.live:
                owner.step(bool(one), two)
            owner.check()
        for block, holds, _ in owner.live:
            for _ in range(holds):
                block.release()
        owner.live.clear()
        assert resident() <= keep
        owner.arena.close()
        assert segments() == set()
