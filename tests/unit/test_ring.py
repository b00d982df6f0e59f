from __future__ import annotations

from collections import deque

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from multiprocessing_kit.ipc import ring as ring_module
from multiprocessing_kit.ipc.ring import Ring

COUNTER = slice(0, 8)
"""The bytes of the producer's counter, whose store publishes a record."""


def memory(capacity: int) -> bytearray:
    return bytearray(Ring.bytes_for(capacity))


def ends(buf: bytearray) -> tuple[Ring, Ring]:
    """A producer and a consumer over the same bytes, each with a view of its own."""
    return Ring(memoryview(buf)), Ring(memoryview(buf))


def space(payload: bytes) -> int:
    """Bytes that a record takes."""
    return 8 + -(-len(payload) // 8) * 8


@pytest.fixture(params=[True, False], ids=["x86", "others"], autouse=True)
def processor(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the fences that x86 does not need."""
    monkeypatch.setattr(ring_module, "KEEPS_STORES_IN_ORDER", request.param)


payloads = st.one_of(st.binary(max_size=40), st.integers(0, 130).map(lambda size: b"\xff" * size))
actions = st.lists(st.one_of(st.none(), st.tuples(payloads, st.booleans())), max_size=120)
"""None reads, anything else writes."""


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(capacity=st.integers(1, 16).map(lambda words: 8 * words), actions=actions)
def test_it_behaves_like_a_queue(capacity: int, actions: list[tuple[bytes, bool] | None]) -> None:
    producer, consumer = ends(memory(capacity))
    model: deque[tuple[bytes, bool]] = deque()
    for action in actions:
        if action is None:
            assert consumer.read() == (model.popleft() if model else None)
        else:
            payload, more = action
            used = sum(space(held) for held, _ in model)
            fits = used + space(payload) <= capacity
            assert producer.free == capacity - used - 8
            assert producer.write(payload, more=more) is fits
            if fits:
                model.append(action)
        assert bool(consumer) is bool(model)
    assert [consumer.read() for _ in range(len(model) + 1)] == [*model, None]


@pytest.mark.parametrize("start", range(0, 64, 8))
def test_any_payload_at_any_place(start: int) -> None:
    for size in range(57):
        producer, consumer = ends(memory(64))
        for _ in range(start // 8):
            assert producer.write(b"")
            assert consumer.read() == (b"", False)
        payload = bytes(range(1, size + 1))
        assert producer.write(payload)
        assert consumer.read() == (payload, False)
        assert consumer.read() is None


@pytest.mark.parametrize("capacity", [8, 64, 256])
def test_the_longest_payload(capacity: int) -> None:
    producer, consumer = ends(memory(capacity))
    assert producer.free == capacity - 8
    assert not producer.write(bytes(capacity - 7))
    assert producer.write(b"x" * (capacity - 8))
    assert producer.free == -8, "not even an empty record fits now"
    assert not producer.write(b"")
    assert consumer.read() == (b"x" * (capacity - 8), False)
    assert producer.free == capacity - 8


def test_a_refused_record_leaves_no_trace() -> None:
    buf = memory(32)
    producer, consumer = ends(buf)
    assert producer.write(b"first")
    before = bytes(buf)
    assert not producer.write(b"x" * 17)
    assert bytes(buf) == before
    assert consumer.read() == (b"first", False)


@pytest.mark.parametrize("payload", [b"abc", memoryview(b"abc"), memoryview(b"xabcx")[1:4]])
def test_payloads_that_are_views(payload: bytes | memoryview) -> None:
    producer, consumer = ends(memory(24))
    for _ in range(5):
        assert producer.write(payload)
        assert consumer.read() == (b"abc", False)


def test_what_was_read_does_not_change() -> None:
    producer, consumer = ends(memory(16))
    assert producer.write(b"before")
    record = consumer.read()
    assert producer.write(b"after!")
    assert record == (b"before", False)


def test_pieces_are_marked() -> None:
    producer, consumer = ends(memory(64))
    for payload, more in [(b"one", True), (b"two", True), (b"", False)]:
        assert producer.write(payload, more=more)
    assert [consumer.read() for _ in range(4)] == [(b"one", True), (b"two", True), (b"", False), None]


class TornPayload(bytes):
    """Breaks off when it is copied: it is shorter than it says."""

    def __len__(self) -> int:
        return 24


@pytest.mark.parametrize("records_before", range(6))
def test_a_writer_that_breaks_off_in_the_payload(records_before: int) -> None:
    """The counter is stored after the payload, so the record is not there."""
    producer, consumer = ends(memory(48))
    for _ in range(records_before):
        assert producer.write(b"")
        assert consumer.read() == (b"", False)
    assert producer.write(b"whole")
    with pytest.raises(ValueError, match=r"different structures|length"):
        producer.write(TornPayload(b"short"))
    assert consumer.read() == (b"whole", False)
    assert consumer.read() is None
    assert producer.write(b"next")
    assert consumer.read() == (b"next", False)


@settings(deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    earlier=st.lists(payloads, max_size=8),
    torn=payloads,
    later=payloads,
    arrived=st.lists(st.booleans(), min_size=1, max_size=60),
)
def test_what_is_not_published_is_not_there(
    earlier: list[bytes], torn: bytes, later: bytes, arrived: list[bool]
) -> None:
    """Any part of a record may be in memory: without the counter nobody sees it, and it does no harm."""
    buf = memory(2048)
    producer, consumer = ends(buf)
    for payload in earlier:
        assert producer.write(payload)
    before = bytes(buf)
    assert producer.write(torn)
    after = bytes(buf)
    for place in range(COUNTER.stop, len(buf)):
        buf[place] = (after if arrived[place % len(arrived)] else before)[place]
    buf[COUNTER] = before[COUNTER]
    successor = Ring(memoryview(buf))
    assert [read[0] for _ in earlier if (read := consumer.read())] == earlier
    assert consumer.read() is None
    assert not consumer
    assert successor.write(later)
    assert consumer.read() == (later, False)


@pytest.mark.parametrize("capacity", [0, -8, 7, 12])
def test_capacities_that_make_no_sense(capacity: int) -> None:
    with pytest.raises(ValueError, match="positive multiple of 8"):
        Ring.bytes_for(capacity)


def test_closing_lets_go_of_the_memory() -> None:
    buf = memory(64)
    producer, consumer = ends(buf)
    producer.close()
    with pytest.raises(BufferError):
        buf.append(0)
    consumer.close()
    buf.append(0)
