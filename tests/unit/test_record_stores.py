"""The ring, the stack and the heap of records against lists, their writers killed between any two stores."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from multiprocessing_kit.queues import blocks, ring
from multiprocessing_kit.queues import heap as heap_module
from multiprocessing_kit.queues.heap import RecordHeap, prefix
from multiprocessing_kit.queues.ring import RecordRing
from multiprocessing_kit.queues.stack import RecordStack
from tests.unit.torn import Killed, TornMemory, killed_at_each_store

SIZE = 2048
Entry = tuple[float, int, bytes]
"""Priority, number, payload: the order of a heap."""


def drained(layout: Any, memory: bytes | bytearray) -> list[bytes]:
    """All payloads in a copy of this memory, in the order in which they come."""
    store = layout(memoryview(bytearray(memory)), 0)
    return list(iter(store.take_one, None))


def check_blocks(memory: bytearray) -> None:
    """All that is derived in a heap is as the truth says."""
    heap = RecordHeap(memoryview(memory), 0)
    if not heap.words[heap_module._WHOLE]:
        return  # whoever comes next makes it anew
    words, lists = heap.words, heap._blocks
    block, end, before_free = lists._first, lists._end, 0
    free: dict[int, int] = {}
    used = []
    while block < end:
        size = words[block] >> 8
        assert size >= blocks.SMALLEST
        assert words[block] & 2 == before_free
        if words[block] & 1:
            used.append(block)
        else:
            assert not before_free, "two free ones side by side"
            assert words[block + size - 1] == size
            free[block] = size
        before_free = 0 if words[block] & 1 else 2
        block += size
    assert (block, words[end]) == (end, 1 | before_free)
    first, count = heap_module._HEAP, words[heap_module._COUNT]
    assert sorted(words[first : first + count]) == used
    listed = {}
    for number in range(64):
        previous, block = 0, words[lists._lists + number]
        assert bool(block) == bool(words[lists._classes] >> number & 1)
        while block:
            assert words[block + 2] == previous
            assert blocks._class(free[block]) == number
            listed[block] = free[block]
            previous, block = block, words[block + 1]
    assert listed == free


payloads = st.one_of(st.binary(min_size=1, max_size=60), st.integers(1, 900).map(lambda size: b"\xff" * size))
priorities = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(allow_nan=False))
deaths = st.one_of(st.none(), st.integers(0, 40))
"""How many stores a process makes before it is killed; None: it is not."""


class StoreMachine(RuleBasedStateMachine):
    """A store, and a list that says what is in it: the first one is the first to come."""

    layout: Any
    size = SIZE

    @initialize(bound=st.sampled_from([0, 0, 1, 5]))
    def begin(self, bound: int) -> None:
        self.bound = bound
        self.memory = bytearray(self.layout.bytes_for(self.size))
        self.model: list[bytes] = []
        self.numbers = itertools.count()

    def run(self, death: int | None, action: Callable[[Any], object], states: list[list[bytes]]) -> object:
        """Run `action`. If it is killed, one of these states is there; then that is the model."""
        if death is None:
            return action(self.layout(memoryview(self.memory), self.bound))
        try:
            return action(self.layout(TornMemory(memoryview(self.memory), death), self.bound))
        except Killed:
            found = drained(self.layout, self.memory)
            assert found in states
            self.adopt(found)
            return Killed

    def adopt(self, found: list[bytes]) -> None:
        self.model = found

    @rule(death=deaths)
    def clear(self, death: int | None) -> None:
        if self.run(death, lambda store: store.clear(), [self.model, []]) is not Killed:
            self.adopt([])

    @rule(death=deaths)
    def take_one(self, death: int | None) -> None:
        first = self.model[0] if self.model else None
        got = self.run(death, lambda store: store.take_one(), [self.model, self.model[1:]])
        if got is not Killed:
            assert got == first
            self.adopt(self.model[1:])

    @rule(most=st.integers(1, 5), death=deaths)
    def take(self, most: int, death: int | None) -> None:
        states = [self.model[count:] for count in range(most + 1)]

        def action(store: Any) -> list[bytes]:
            taken = store.take(most)
            return [bytes(payload) for payload in store.split(taken)] if taken else []

        got = self.run(death, action, states)
        if got is not Killed:
            assert got == self.model[:most]
            self.adopt(self.model[most:])

    @rule(death=deaths, size=st.integers(1, 900))
    def look(self, death: int | None, size: int) -> None:
        count = self.run(death, lambda store: store.count(), [self.model])
        assert count in (Killed, len(self.model))
        room = self.run(death, lambda store: store.has_room(size + 8), [self.model])
        if self.bound and len(self.model) >= self.bound:
            assert room in (Killed, False)

    @invariant()
    def what_is_there(self) -> None:
        if hasattr(self, "memory"):
            assert drained(self.layout, self.memory) == self.model
            store = self.layout(memoryview(self.memory), self.bound)
            assert not self.model or store.has_records()


near_deaths = st.one_of(st.none(), st.integers(0, 8))


class RingMachine(StoreMachine):
    """So small that records go on at its first word all the time, and so does the ring when it is empty."""

    layout = RecordRing
    size = 120

    @initialize(near=st.sampled_from([0, 8, 1000]))
    def begin_ring(self, near: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(ring, "_NEAR", near)

    def teardown(self) -> None:
        if hasattr(self, "patch"):
            self.patch.undo()

    def fitting(self, batch: list[bytes]) -> int:
        """How many of these find room."""
        room = self.size - sum(map(self.taken, self.model))
        number = self.bound - len(self.model) if self.bound else len(batch)
        ends = itertools.accumulate(map(self.taken, batch[:number]))
        return sum(end <= room for end in ends)

    @staticmethod
    def taken(payload: bytes) -> int:
        """Bytes that a record takes."""
        return 16 + -(-len(payload) // 8) * 8

    @rule(batch=st.lists(st.binary(min_size=1, max_size=24), min_size=1, max_size=4), death=near_deaths)
    def append(self, batch: list[bytes], death: int | None) -> None:
        fits = self.fitting(batch)
        after, left = self.model + batch[:fits], batch.copy()
        done = self.run(death, lambda store: store.append(left), [self.model, after])
        if done is not Killed:
            assert (done, left) == (fits, batch[fits:])
            self.model = after

    @rule(payload=st.binary(min_size=1, max_size=110), death=near_deaths)
    def append_one(self, payload: bytes, death: int | None) -> None:
        fits = self.fitting([payload])
        after = self.model + [payload] * fits
        done = self.run(death, lambda store: store.append_one(payload), [self.model, after])
        if done is not Killed:
            assert done == bool(fits)
            self.model = after

    @rule(size=st.integers(1, 40))
    def fill(self, size: int) -> None:
        store, payload = self.layout(memoryview(self.memory), self.bound), bytes(size)
        new = [payload] * self.fitting([payload] * self.size)
        assert all(store.append_one(each) for each in new)
        assert not store.append_one(payload)
        self.model = self.model + new

    @precondition(lambda self: not self.model)
    @rule(size=st.integers(1, 104))
    def go_on(self, size: int) -> None:
        """An empty ring is at any position."""
        store = self.layout(memoryview(self.memory), self.bound)
        assert store.append_one(bytes(size))
        assert store.take_one() == bytes(size)

    @rule(size=st.integers(1, 104), death=near_deaths)
    def has_room(self, size: int, death: int | None) -> None:
        room = self.run(death, lambda store: store.has_room(size), [self.model])
        assert room in (Killed, self.fitting([bytes(size)]) == 1)


class StackMachine(StoreMachine):
    layout = RecordStack

    @rule(batch=st.lists(payloads, min_size=1, max_size=4), death=deaths)
    def append(self, batch: list[bytes], death: int | None) -> None:
        states, fits = [self.model], []
        for payload in batch:
            after = [payload, *states[-1]]
            room = sum(16 + -(-len(each) // 8) * 8 for each in after) <= SIZE
            if not room or len(after) > (self.bound or len(after)):
                break
            states.append(after)
            fits.append(payload)
        left = batch.copy()
        done = self.run(death, lambda store: store.append(left), states)
        if done is not Killed:
            assert (done, left) == (len(fits), batch[len(fits) :])
            self.model = states[-1]


class HeapMachine(StoreMachine):
    layout = RecordHeap

    @initialize()
    def begin_heap(self) -> None:
        self.entries: list[Entry] = []

    def adopt(self, found: list[bytes]) -> None:
        """The entries of these payloads, each of which is told apart by its first bytes."""
        super().adopt(found)
        left = set(found)
        self.entries = [entry for entry in self.entries if entry[2] in left]

    @rule(batch=st.lists(st.tuples(priorities, payloads), min_size=1, max_size=4), death=deaths)
    def append(self, batch: list[tuple[float, bytes]], death: int | None) -> None:
        before = self.entries
        numbered = [(priority, next(self.numbers), payload) for priority, payload in batch]
        new = [(priority, number, b"%d:%b" % (number, payload)) for priority, number, payload in numbered]
        states = [sorted([*before, *new[:count]]) for count in range(len(new) + 1)]
        records = [prefix(priority) + payload for priority, _, payload in new]
        left = records.copy()
        self.entries = states[-1]
        found = [[entry[2] for entry in state] for state in states]
        done = self.run(death, lambda store: store.append(left), found)
        if done is Killed:
            return
        assert isinstance(done, int)
        assert left == records[done:]
        if left:
            self.check_that_there_is_no_room(len(left[0]), before, done)
        self.entries = states[done]
        self.model = found[done]

    def check_that_there_is_no_room(self, size: int, before: list[Entry], done: int) -> None:
        heap = RecordHeap(memoryview(self.memory), self.bound)
        assert not heap.has_room(size)
        assert before or done, "everything fits into an empty one"
        if not self.bound or len(before) + done < self.bound:
            largest = max((heap.words[each] >> 8 for each in self.free_blocks(heap)), default=0)
            assert largest * 8 < size + 16

    @staticmethod
    def free_blocks(heap: RecordHeap) -> list[int]:
        words, block, found = heap.words, heap._blocks._first, []
        while block < heap._blocks._end:
            if not words[block] & 1:
                found.append(block)
            block += words[block] >> 8
        return found

    @precondition(lambda self: self.model)
    @rule(death=st.integers(0, 200))
    def killed_while_making_it_whole(self, death: int) -> None:
        self.memory[:8] = bytes(8)
        self.run(death, lambda store: store.count(), [self.model])

    @invariant()
    def all_that_is_derived(self) -> None:
        if hasattr(self, "memory"):
            check_blocks(self.memory)


TestRing = RingMachine.TestCase
TestStack = StackMachine.TestCase
TestHeap = HeapMachine.TestCase
TestStack.settings = TestHeap.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestRing.settings = settings(TestHeap.settings, max_examples=200)


def holed_heap() -> bytearray:
    """Records of many sizes between holes of many sizes."""
    chance = random.Random(5)
    memory = bytearray(RecordHeap.bytes_for(SIZE))
    heap = RecordHeap(memoryview(memory), 0)
    while heap.append_one(prefix(chance.choice([1, 2, chance.random()])) + b"x" * chance.randint(1, 90)):
        pass
    for _ in range(9):
        heap.take_one()
    return memory


def high_stack() -> bytearray:
    memory = bytearray(RecordStack.bytes_for(SIZE))
    stack = RecordStack(memoryview(memory), 0)
    assert stack.append([bytes([count]) * count for count in range(1, 30)]) == 29
    return memory


NEW = b"new" * 9
ACTIONS: list[tuple[str, Callable[[Any], object]]] = [
    ("append_one", lambda store: store.append_one(prefix(1.5) + NEW)),
    ("take_one", lambda store: store.take_one()),
    ("take", lambda store: store.take(3)),
    ("clear", lambda store: store.clear()),
    ("whole", lambda store: (store.words.__setitem__(0, 0), store.count())),
]


@pytest.mark.parametrize(
    ("layout", "memory", "name", "action"),
    [
        (layout, memory, name, action)
        for layout, made in ((RecordHeap, holed_heap), (RecordStack, high_stack))
        for memory in (bytes(layout.bytes_for(SIZE)), bytes(made()))
        for name, action in ACTIONS
        if name != "whole" or layout is RecordHeap
    ],
)
def test_killed_at_each_store(layout: Any, memory: bytes, name: str, action: Callable[[Any], object]) -> None:
    before = drained(layout, memory)
    done = bytearray(memory)
    action(layout(memoryview(done), 0))
    after = drained(layout, done)
    steps = [before, *([before[1:], before[2:]] if name == "take" and layout is RecordHeap else []), after]
    seen = 0
    for copy, _ in killed_at_each_store(memory, lambda torn: action(layout(torn, 0))):
        found = drained(layout, copy)
        while steps[seen] != found:
            seen += 1
        if layout is RecordHeap:
            check_blocks(copy)
            RecordHeap(memoryview(copy), 0).count()
            check_blocks(copy)
        store = layout(memoryview(copy), 0)
        while store.take_one() is not None:
            pass
        assert store.append_one(prefix(0) + b"x" * (store.max_payload - 8)), "no memory is lost"
    assert steps[seen] == after


def test_an_emptied_heap_is_one_piece_again() -> None:
    memory = holed_heap()
    heap = RecordHeap(memoryview(memory), 0)
    while heap.take_one() is not None:
        pass
    assert heap.append_one(prefix(0) + b"x" * heap.max_payload)
    assert not heap.append_one(prefix(0) + b"x")
    assert heap.take_one() == b"x" * heap.max_payload


def test_a_hole_behind_many_that_are_too_small() -> None:
    """All of one class, and no larger one: the last word is that of the whole list."""
    memory = bytearray(RecordHeap.bytes_for(SIZE))
    heap = RecordHeap(memoryview(memory), 0)
    sizes = [23, *[16] * 10]
    for number, words in enumerate(sizes):
        assert heap.append_one(prefix(number) + b"x" * (words * 8 - 24))
        assert heap.append_one(prefix(100) + b"x")
    while heap.append_one(prefix(100) + b"x"):
        pass
    assert len(heap.take(len(sizes))) == len(sizes)
    assert heap.append_one(prefix(0) + b"y" * (23 * 8 - 24))
    check_blocks(memory)


def test_small_holes_are_used_first() -> None:
    memory = bytearray(RecordHeap.bytes_for(1 << 20))
    heap = RecordHeap(memoryview(memory), 0)
    for _ in range(2000):
        assert heap.append_one(prefix(0) + b"x" * 100)
        assert heap.append_one(prefix(0) + b"x" * 50)
        heap.take(2)
    assert not any(memory[len(memory) - SIZE : -16]), "memory that was never needed is never touched"
