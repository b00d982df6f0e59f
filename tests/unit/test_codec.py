from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from multiprocessing_kit import RemoteError, SerializationError
from multiprocessing_kit.ipc.codec import decode, encode, pack_exception, unpack_exception
from tests.unit.reducing import Reduces, Restores


def refuse(error: BaseException) -> NoReturn:
    raise error


@pytest.mark.parametrize(
    "value", [None, 0, "text", b"\x00" * 70_000, [1, (2, {3})], {"a": ...}, ValueError, len, 1e300]
)
@pytest.mark.parametrize("view", [bytes, memoryview, bytearray])
def test_there_and_back(value: object, view: Callable[[bytes], bytes | memoryview]) -> None:
    assert decode(view(encode(value, "the value")), "the value") == value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (threading.Lock(), "cannot pickle"),
        (lambda: None, "<lambda>"),
        (Reduces(ValueError("no way")), "ValueError: no way"),
        (Reduces(SystemExit("at once")), "SystemExit: at once"),
        (Reduces(GeneratorExit()), "GeneratorExit"),
        (Reduces(RecursionError("deep")), "RecursionError: deep"),
    ],
)
def test_what_cannot_be_pickled(value: object, reason: str) -> None:
    with pytest.raises(SerializationError, match=reason) as caught:
        encode(value, "the result", "run-7")
    message = str(caught.value)
    assert message.startswith(f"job run-7: the result (a {type(value).__qualname__}) cannot be pickled: ")
    assert caught.value.job_id == "run-7"
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "EOFError"),
        (b"not a pickle", "UnpicklingError"),
        (encode([1] * 50, "")[:-5], "Error"),
        (encode(Restores(SystemExit("at once")), ""), "SystemExit: at once"),
        (encode(Restores(ValueError("no way")), ""), "ValueError: no way"),
        (b"cno_such_module\nname\n.", "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_unpickled(data: bytes, reason: str) -> None:
    with pytest.raises(SerializationError, match=reason) as caught:
        decode(data, "the argument", "run-7")
    assert str(caught.value).startswith("job run-7: the argument cannot be unpickled: ")
    assert caught.value.job_id == "run-7"


def test_a_structure_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match="RecursionError"):
        encode(deep, "the result")


def test_ctrl_c_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        encode(Reduces(KeyboardInterrupt()), "the result")
    with pytest.raises(KeyboardInterrupt):
        decode(encode(Restores(KeyboardInterrupt()), "it"), "it")


def test_without_a_job() -> None:
    with pytest.raises(SerializationError, match=r"^the worker \(a function\) cannot be pickled: ") as caught:
        encode(lambda: None, "the worker")
    assert caught.value.job_id == ""


class PlainError(Exception):
    pass


class TwoArgumentsError(Exception):
    """Pickles, and does not unpickle: its args are not what __init__ takes."""

    def __init__(self, code: int, url: str) -> None:
        super().__init__(f"{code} at {url}")


class HoldsLockError(Exception):
    def __init__(self) -> None:
        super().__init__("holds a lock")
        self.lock = threading.Lock()


class ReducesToAnotherError(Exception):
    def __reduce__(self) -> tuple[type, tuple[str]]:
        return ValueError, ("another",)


class ReducesToNoneError(Exception):
    def __reduce__(self) -> tuple[Callable[..., None], tuple[str]]:
        return print, ("",)


class ReduceExitsError(Exception):
    def __reduce__(self) -> NoReturn:
        raise SystemExit("in __reduce__")


class SetstateExitsError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.detail = 1

    def __setstate__(self, state: object) -> NoReturn:
        raise SystemExit("in __setstate__")


class StrRaisesError(Exception):
    def __str__(self) -> NoReturn:
        raise ValueError("no text")


def raised(error: BaseException) -> BaseException:
    try:
        refuse(error)
    except BaseException as caught:
        return caught


@pytest.mark.parametrize(
    "error",
    [
        PlainError("message", 7),
        KeyError("missing"),
        OSError(2, "No such file", "/nowhere"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"),
        SystemExit(3),
        KeyboardInterrupt(),
        SerializationError("refused", job_id="run-1"),
        StrRaisesError("x"),
    ],
)
def test_an_exception_comes_back_with_its_traceback_as_cause(error: BaseException) -> None:
    copied = unpack_exception(pack_exception(raised(error)), "run-7")
    assert type(copied) is type(error)
    assert copied.args == error.args
    assert vars(copied) == vars(error)
    cause = copied.__cause__
    assert isinstance(cause, RemoteError)
    assert cause.job_id == "run-7"
    assert "in refuse" in cause.traceback_text
    assert "in refuse" in str(cause)


def test_notes_travel() -> None:
    error = raised(PlainError("message"))
    error.__dict__["__notes__"] = ["while parsing"]
    assert vars(unpack_exception(pack_exception(error)))["__notes__"] == ["while parsing"]


@pytest.mark.parametrize(
    "error",
    [
        TwoArgumentsError(404, "/nowhere"),
        HoldsLockError(),
        ReducesToAnotherError("kept"),
        ReducesToNoneError("kept"),
        ReduceExitsError("kept"),
        SetstateExitsError("kept"),
    ],
)
def test_an_exception_that_cannot_travel_is_described(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = unpack_exception(pack_exception(raised(error)), "run-7")
    assert isinstance(copied, RemoteError)
    assert copied.job_id == "run-7"
    assert copied.type_name == f"{__name__}.{type(error).__qualname__}"
    assert "in refuse" in copied.traceback_text
    assert str(error) in str(copied)


def test_an_exception_that_unpickles_there_and_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = pack_exception(raised(PlainError("message")))
    monkeypatch.delattr(f"{__name__}.PlainError")
    copied = unpack_exception(packed, "run-7")
    assert isinstance(copied, RemoteError)
    assert copied.type_name.endswith("PlainError")
    assert "PlainError: message" in str(copied)


def test_an_exception_that_was_never_raised_has_no_cause() -> None:
    assert unpack_exception(pack_exception(ValueError("made"))).__cause__ is None


@pytest.mark.parametrize(
    ("error", "name"), [(ValueError(), "ValueError"), (PlainError(), f"{__name__}.PlainError")]
)
def test_only_builtins_go_without_their_module(error: Exception, name: str) -> None:
    cause = unpack_exception(pack_exception(raised(error))).__cause__
    assert isinstance(cause, RemoteError)
    assert cause.type_name == name
