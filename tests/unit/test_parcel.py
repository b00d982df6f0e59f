from __future__ import annotations

import pickle
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest

from multiprocessing_kit import SerializationError
from multiprocessing_kit.ipc import parcel as parcel_module
from multiprocessing_kit.ipc.parcel import THRESHOLD, Parcel, pack, unpack
from tests.unit.reducing import Reduces, Restores

SIZES = [0, 1, THRESHOLD - 1, THRESHOLD, THRESHOLD + 1, 64 << 10, (64 << 10) + 1, 1 << 20]


def travel(value: object) -> Any:
    """Pack and unpack, with read-only copies of the buffers, as a child sees them."""
    packed = pack(value, "the value")
    if isinstance(packed, bytes):
        return unpack(packed, [], "the value")
    stream = b"".join(packed.stream)
    assert packed.stream_size == len(stream)
    assert all((buffer.format, buffer.ndim) == ("B", 1) for buffer in packed.buffers)
    return unpack(stream, [memoryview(bytes(buffer)) for buffer in packed.buffers], "the value")


def parcel_of(value: object) -> Parcel:
    packed = pack(value, "the value")
    assert isinstance(packed, Parcel)
    return packed


@pytest.mark.parametrize(
    "value",
    [None, True, 7, 1e300, "text", b"bytes", [1, (2, {3})], {"a": ...}, ValueError, len, OrderedDict(a=1)],
    ids=repr,
)
def test_small_values_are_plain_pickles(value: object) -> None:
    for _ in range(2):  # the second time with a pickler that was used before
        packed = pack(value, "the value")
        assert packed == pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        assert unpack(packed, [], "the value") == value


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "make", [bytes, bytearray, lambda size: "é" * size], ids=["bytes", "bytearray", "str"]
)
def test_large_texts_in_containers(size: int, make: Callable[[int], Any]) -> None:
    value = {"a": [make(size), (make(size + 3),)], "n": 1}
    assert travel(value) == value


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_not_copied(kind: Callable[[bytes], bytes]) -> None:
    data = kind(b"x" * (1 << 20))
    stream = parcel_of([1, data]).stream
    if kind is bytes:
        assert any(chunk is data for chunk in stream)
    else:
        assert any(isinstance(chunk, memoryview) and chunk.obj is data for chunk in stream)


@pytest.mark.parametrize("size", SIZES)
def test_buffers_from_the_threshold_on_are_kept_out(size: int) -> None:
    numpy = pytest.importorskip("numpy")
    source = numpy.arange(size, dtype="u1")
    packed = pack({"it": source}, "the value")
    if size >= THRESHOLD:
        assert isinstance(packed, Parcel)
        (buffer,) = packed.buffers
        assert (len(buffer), buffer.obj is source) == (size, True)
        assert packed.stream_size < 500
    else:
        assert isinstance(packed, bytes) or packed.buffers == []
    copy = travel({"it": source})["it"]
    assert numpy.array_equal(copy, source)
    assert copy.dtype == source.dtype


def shapes() -> dict[str, Any]:
    numpy = pytest.importorskip("numpy")
    large = numpy.arange(2 * THRESHOLD, dtype="i4").reshape(64, -1)
    record = numpy.zeros(THRESHOLD, dtype=[("a", "i4"), ("b", "f8"), ("c", "S3")])
    record["a"] = numpy.arange(THRESHOLD)
    frozen = large.copy()
    frozen.flags.writeable = False
    return {
        "C": large,
        "Fortran": numpy.asfortranarray(large),
        "transposed": large.T,
        "every other": large[::2, ::3],
        "backwards": large[::-1],
        "big endian": large.astype(">i4"),
        "complex": large.astype("c16"),
        "0-d": numpy.array(3.5),
        "empty": numpy.zeros((0, 5)),
        "empty slice": large[:0],
        "structured": record,
        "one field": record["b"],
        "objects": numpy.array([[1], "two", None] * 100, dtype=object),
        "dates": numpy.arange(THRESHOLD).astype("M8[s]"),
        "read-only": frozen,
        "broadcast": numpy.broadcast_to(large, (3, *large.shape)),
        "many axes": large.reshape(2, 2, 2, 2, -1, 2),
        "nested": {"a": [large, (large[0], {"b": large})], "c": frozen},
    }


@pytest.mark.parametrize(
    "name",
    [
        "C", "Fortran", "transposed", "every other", "backwards", "big endian", "complex", "0-d", "empty",
        "empty slice", "structured", "one field", "objects", "dates", "read-only", "broadcast", "many axes",
    ],
)  # fmt: skip
def test_arrays_of_every_shape(name: str) -> None:
    numpy = pytest.importorskip("numpy")
    source = shapes()[name]
    copy = travel(source)
    assert (copy.shape, copy.dtype) == (source.shape, source.dtype)
    assert numpy.array_equal(copy, source)


def test_arrays_in_containers() -> None:
    numpy = pytest.importorskip("numpy")
    source = shapes()["nested"]
    packed = parcel_of(source)
    assert len(packed.buffers) == 2, "an array that occurs twice is sent once"
    copy = travel(source)
    large, (row, inner) = copy["a"]
    assert numpy.array_equal(large, source["a"][0])
    assert numpy.array_equal(row, source["a"][1][0])
    assert inner["b"] is large


def test_what_was_read_only_comes_back_so_from_writable_buffers() -> None:
    pytest.importorskip("numpy")
    found = shapes()
    packed = parcel_of([found["C"], found["read-only"]])
    assert [buffer.readonly for buffer in packed.buffers] == [False, True]
    buffers = [memoryview(bytearray(buffer)) for buffer in packed.buffers]
    written, frozen = unpack(b"".join(packed.stream), buffers, "it")
    assert (written.flags.writeable, frozen.flags.writeable) == (True, False)
    written[0, 0] = 77
    assert memoryview(buffers[0]).cast("i")[0] == 77, "not copied"


def test_read_only_buffers_make_read_only_arrays() -> None:
    pytest.importorskip("numpy")
    assert not travel(shapes()["C"]).flags.writeable


def test_pandas() -> None:
    pandas = pytest.importorskip("pandas")
    numpy = pytest.importorskip("numpy")
    source = pandas.DataFrame(
        {"a": numpy.arange(THRESHOLD), "b": numpy.arange(THRESHOLD) / 3, "c": ["x", "y"] * (THRESHOLD // 2)}
    )
    assert parcel_of(source).buffers
    assert travel(source).equals(source)
    assert travel(source["a"]).sum() == source["a"].sum()


def test_pyarrow() -> None:
    pyarrow = pytest.importorskip("pyarrow")
    source = pyarrow.table({"a": list(range(THRESHOLD)), "b": ["x"] * THRESHOLD})
    packed = parcel_of(source)
    assert packed.buffers
    assert travel(source) == source


# memoryviews, which pickle refuses


@pytest.mark.parametrize("size", [1, 1000, THRESHOLD // 8 - 1, THRESHOLD // 8, THRESHOLD])
@pytest.mark.parametrize("format", ["B", "b", "c", "i", "q", "d", "?"])
def test_memoryviews(size: int, format: str) -> None:
    source = memoryview(b"\1" * 8 * size).cast(format)  # type: ignore[call-overload]
    copy = travel([source])[0]
    assert isinstance(copy, memoryview)
    assert (copy.format, copy.shape, copy.readonly) == (format, source.shape, True)
    assert copy == source


@pytest.mark.parametrize("shape", [(), (2, 3), (200, 300, 4), (1,)], ids=str)
def test_memoryviews_with_dimensions(shape: tuple[int, ...]) -> None:
    count = 1
    for length in shape:
        count *= length
    source = memoryview(bytes(range(256)) * (count * 4 // 256 + 1))[: count * 4].cast("i", shape)
    copy = travel(source)
    assert (copy.shape, copy.format, copy.tolist()) == (source.shape, "i", source.tolist())


@pytest.mark.parametrize("size", [10, 3 * THRESHOLD])
def test_memoryviews_that_are_not_contiguous(size: int) -> None:
    source = memoryview(array("i", range(size)))[::-3]
    copy = travel(source)
    assert (copy.tolist(), copy.format) == (source.tolist(), "i")


@pytest.mark.parametrize("size", [3, 300])
def test_memoryviews_of_fortran_arrays(size: int) -> None:
    numpy = pytest.importorskip("numpy")
    source = numpy.asfortranarray(numpy.arange(size * size, dtype="i4").reshape(size, size))
    assert travel(memoryview(source)).tolist() == source.tolist()


@pytest.mark.parametrize("size", [8, 8 * THRESHOLD])
@pytest.mark.parametrize("step", [1, 2])
def test_a_memoryview_stays_writable_where_its_buffer_is(size: int, step: int) -> None:
    packed = pack(memoryview(bytearray(size))[::step], "it")
    if isinstance(packed, bytes):
        copy = unpack(packed, [], "it")
    else:
        buffers = [memoryview(bytearray(buffer)) for buffer in packed.buffers]
        copy = unpack(b"".join(packed.stream), buffers, "it")
    assert not copy.readonly


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)], ids=str)
def test_an_empty_memoryview(shape: tuple[int, ...]) -> None:
    numpy = pytest.importorskip("numpy")
    copy = travel(memoryview(numpy.zeros(shape)))
    assert (copy.nbytes, copy.format) == (0, "d")


def test_a_memoryview_is_not_copied() -> None:
    source = bytearray(THRESHOLD)
    (buffer,) = parcel_of(memoryview(source)).buffers
    source[5] = 7
    assert buffer[5] == 7


@pytest.mark.parametrize("format", [">i4", [("a", "i4"), ("b", "f8")]], ids=str)
def test_a_memoryview_of_a_foreign_format(format: Any) -> None:
    numpy = pytest.importorskip("numpy")
    with pytest.raises(SerializationError, match="cannot be pickled: ValueError"):
        pack(memoryview(numpy.zeros(3, dtype=format)), "it")


def test_a_released_memoryview() -> None:
    view = memoryview(b"abc")
    view.release()
    with pytest.raises(SerializationError, match="released"):
        pack(view, "it")


# Pickling runs the value's own code


class PacksInside:
    """Packs something while it is packed."""

    def __init__(self, inside: object) -> None:
        self.inside = inside

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        packed = pack(self.inside, "the inside")
        assert isinstance(packed, bytes)
        return pickle.loads, (packed,)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (threading.Lock(), "cannot pickle"),
        (lambda: None, "<lambda>"),
        (Reduces(ValueError("no way")), "ValueError: no way"),
        (Reduces(SystemExit("at once")), "SystemExit: at once"),
        (Reduces(GeneratorExit()), "GeneratorExit"),
    ],
)
def test_what_cannot_be_pickled(value: object, reason: str) -> None:
    for subject in (value, [b"x" * (1 << 20), value]):
        with pytest.raises(SerializationError, match=reason) as caught:
            pack(subject, "the result", "run-7")
        name = type(subject).__qualname__
        assert str(caught.value).startswith(f"job run-7: the result (a {name}) cannot be pickled: ")
        assert caught.value.job_id == "run-7"
        assert caught.value.__cause__ is not None
        assert pack([1, 2], "it") == pickle.dumps([1, 2], pickle.HIGHEST_PROTOCOL), "nothing of it stayed"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (pickle.dumps(Restores(SystemExit("at once"))), "SystemExit: at once"),
        (pickle.dumps(bytearray(9), 5)[:-3], "Error"),
    ],
)
def test_what_cannot_be_unpickled(data: bytes, reason: str) -> None:
    with pytest.raises(SerializationError, match=reason) as caught:
        unpack(data, [], "the argument", "run-7")
    assert str(caught.value).startswith("job run-7: the argument cannot be unpickled: ")


def test_a_buffer_is_missing() -> None:
    packed = parcel_of(memoryview(bytes(THRESHOLD)))
    with pytest.raises(SerializationError, match="not enough out-of-band buffers"):
        unpack(b"".join(packed.stream), [], "it")


def test_ctrl_c_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        pack(Reduces(KeyboardInterrupt()), "it")
    with pytest.raises(KeyboardInterrupt):
        unpack(pickle.dumps(Restores(KeyboardInterrupt())), [], "it")


def test_packing_inside_packing() -> None:
    shared = ["x"]
    value = [shared, PacksInside([shared, PacksInside(shared)]), shared, PacksInside(shared)]
    copy = travel(value)
    assert copy == [["x"], [["x"], ["x"]], ["x"], ["x"]]
    assert copy[0] is copy[2]


def test_nothing_is_remembered_between_values() -> None:
    shared = ["x"]
    first, second = pack(shared, "it"), pack(shared, "it")
    assert first == second
    assert unpack(second, [], "it") == ["x"]  # type: ignore[arg-type]


def test_a_pickler_that_saw_many_objects_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spare: list[Any] = []
    monkeypatch.setattr(parcel_module, "_spare", spare)
    pack([str(number) for number in range(1000)], "it")
    assert spare == []
    pack(1, "it")
    assert len(spare) == 1


def test_an_extension_of_pickle_made_later_is_used() -> None:
    import copyreg

    class Own:
        pass

    pack(1, "it")
    copyreg.pickle(Own, lambda own: (int, (5,)))  # type: ignore[arg-type,return-value]
    try:
        assert travel(Own()) == 5
    finally:
        copyreg.dispatch_table.pop(Own)


def test_threads_do_not_share_a_pickler() -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for _ in range(300):
            value = [number, PacksInside([number] * 3)]
            if travel(value) != [number, [number] * 3]:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
