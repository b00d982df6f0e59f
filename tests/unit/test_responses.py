"""What `map` returns does what a list does, and makes its responses when somebody looks."""

from __future__ import annotations

import copy
import functools
import operator
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from multiprocessing_kit import JobResponse, Response
from multiprocessing_kit.responses import Responses

SIZES = (3, 1, 2, 4)
LENGTH = sum(SIZES)


class Part:
    """Knows how often it was opened."""

    def __init__(self, first: int, count: int) -> None:
        self._first, self._count = first, count
        self.opened = 0

    def __len__(self) -> int:
        return self._count

    def open(self) -> list[Response]:
        self.opened += 1
        return [JobResponse(body) for body in range(self._first, self._first + self._count)]


class Place:
    """An index that is no int."""

    def __init__(self, place: int) -> None:
        self._place = place

    def __index__(self) -> int:
        return self._place


def in_parts(sizes: Sequence[int] = SIZES) -> tuple[Responses, list[Part]]:
    responses, parts = Responses(), []
    for count in sizes:
        parts.append(Part(len(responses), count))
        responses.add(parts[-1])
    return responses, parts


def twins(sizes: Sequence[int] = SIZES) -> tuple[Responses, list[Response]]:
    """Responses, and a list of equal ones."""
    return in_parts(sizes)[0], [JobResponse(body) for body in range(sum(sizes))]


def outcome(operation: Callable[[Any], object], value: object) -> object:
    """What comes out, so that two of them can be compared."""
    try:
        found = operation(value)
    except Exception as error:
        return type(error), None
    return None, list(found) if isinstance(found, Responses) else found


def body(response: Response) -> Any:
    return response.body


def value(number: int) -> JobResponse:
    return JobResponse(number)


# ── looking ───────────────────────────────────────────────────────────────────────────────────────


def split(responses: Any) -> tuple[Any, list[Any]]:
    first, *rest = responses
    return first, rest


LOOKS: dict[str, Callable[[Any], object]] = {
    "len": len,
    "bool": bool,
    "list": list,
    "tuple": tuple,
    "iteration": lambda r: [response.body for response in r],
    "reversed": lambda r: list(reversed(r)),
    "unpacking": lambda r: [*r],
    "star": split,
    "enumerate": lambda r: list(enumerate(r)),
    "zip": lambda r: list(zip(r, r, strict=True)),
    "max": lambda r: max(r, key=body),
    "sorted": lambda r: sorted(r, key=lambda response: -response.body),
    "repr": repr,
    "str": str,
    "format": lambda r: f"{r}",
    "in": lambda r: value(3) in r,
    "not in": lambda r: value(99) in r,
    "index": lambda r: r.index(value(3)),
    "index from": lambda r: r.index(value(3), 2),
    "index from behind": lambda r: r.index(value(3), 4),
    "index from negative": lambda r: r.index(value(9), -2),
    "index until": lambda r: r.index(value(3), 0, 3),
    "index of what is not there": lambda r: r.index(value(99)),
    "count": lambda r: (r.count(value(3)), r.count(value(99)), r.count(None)),
    "plus list": lambda r: r + [value(1)],  # noqa: RUF005
    "list plus": lambda r: [value(1)] + r,  # noqa: RUF005
    "plus itself": lambda r: r + r,
    "plus tuple": lambda r: r + (value(1),),  # noqa: RUF005
    "plus int": lambda r: r + 1,
    "tuple plus": lambda r: (value(1),) + r,  # noqa: RUF005
    "times": lambda r: r * 2,
    "times before": lambda r: 2 * r,
    "times 0": lambda r: r * 0,
    "times -1": lambda r: r * -1,
    "times index": lambda r: r * Place(2),
    "times text": lambda r: r * "2",
    "times float": lambda r: r * 2.0,
    "hash": hash,
    "copy": lambda r: r.copy(),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    "pickle": lambda r: pickle.loads(pickle.dumps(r)),
    "pickle, old protocol": lambda r: pickle.loads(pickle.dumps(r, 2)),
    "index by text": lambda r: r["1"],
    "index by float": lambda r: r[1.0],
    "index by None": lambda r: r[None],
    "slice by text": lambda r: r["a":"b"],
    "slice step 0": lambda r: r[::0],
    "is unequal to a tuple": lambda r: r == tuple(r),
    "is equal to a list": lambda r: r == [value(body) for body in range(LENGTH)],
    "list is equal": lambda r: [value(body) for body in range(LENGTH)] == r,
    "is equal to itself": lambda r: r == r,  # noqa: PLR0124
    "is equal to a shorter one": lambda r: r == r[:-1],
    "is equal to another": lambda r: r == [*r[:-1], value(99)],
    "is unequal to itself": lambda r: r != r,  # noqa: PLR0124
    "is unequal to a list": lambda r: r != [value(body) for body in range(LENGTH)],
    "is unequal to None": lambda r: r == None,  # noqa: E711
}

LOOKS |= {
    f"[{place}]": operator.itemgetter(place) for place in (0, 2, 3, 5, 9, 10, -1, -10, -11, 10**30, -(10**30))
}

LOOKS |= {f"[Place({place})]": operator.itemgetter(Place(place)) for place in (0, 4, -4, 10)}

BOUNDS = (None, 0, 2, 3, 7, 10, 99, -1, -4, -99)


def slices(start: int | None, step: int | None, responses: Any) -> list[list[Response]]:
    return [responses[start:stop:step] for stop in BOUNDS]


LOOKS |= {
    f"[{start}:…:{step}]": functools.partial(slices, start, step)
    for start in BOUNDS
    for step in (None, 1, 3, -1, -2)
}
LOOKS["slice of places"] = operator.itemgetter(slice(Place(1), Place(7), Place(2)))


@pytest.mark.parametrize("sizes", [SIZES, (LENGTH,), (1,) * LENGTH], ids=["parts", "one part", "tiny parts"])
@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking(look: Callable[[Any], object], sizes: Sequence[int]) -> None:
    responses, expected = twins(sizes)
    assert outcome(look, responses) == outcome(look, expected)
    assert list(responses) == expected, "nothing has changed"


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_looking_at_none(look: Callable[[Any], object]) -> None:
    assert outcome(look, Responses()) == outcome(look, [])


def test_both_are_equal_in_both_directions() -> None:
    responses, expected = twins()
    again, _ = twins((5, 5))
    assert responses == expected == responses == again
    assert not responses != expected  # noqa: SIM202
    assert not expected != responses  # noqa: SIM202
    responses[4].body = "changed"  # type: ignore[misc]
    assert responses != expected
    assert expected != responses
    assert responses != again


class Odd:
    """A response that is equal to nothing, as one with an array is."""

    ok, exception, exit_code, body = True, None, 0, None

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_a_response_is_equal_to_itself_in_a_list_even_if_it_says_otherwise() -> None:
    odd: list[Response] = [Odd()]
    assert odd == [odd[0]]
    assert Responses(odd) == odd
    assert odd[0] in Responses(odd)


# ── identity ──────────────────────────────────────────────────────────────────────────────────────


def test_it_is_the_same_object_each_time() -> None:
    responses, _ = in_parts()
    seen = list(responses)
    for place in range(LENGTH):
        assert responses[place] is seen[place]
        assert responses[place - LENGTH] is seen[place]
        assert responses[Place(place)] is seen[place]
    for again in (
        responses[:],
        responses.copy(),
        copy.copy(responses),
        responses + [],  # noqa: RUF005
        [] + responses,  # noqa: RUF005
        responses * 1,
        [*responses],
        list(reversed(list(reversed(responses)))),
    ):
        assert all(map(operator.is_, again, seen))
    assert not any(map(operator.is_, copy.deepcopy(responses), seen))


def test_a_copy_is_its_own() -> None:
    responses, expected = twins()
    for make in (copy.copy, copy.deepcopy, lambda r: r.copy(), lambda r: r[:], Responses):
        other = make(responses)
        del other[0]
        assert (len(other), len(responses)) == (LENGTH - 1, LENGTH)
    assert responses == expected


def test_what_was_changed_in_a_response_stays() -> None:
    responses, _ = in_parts()
    responses[4].body = "changed"  # type: ignore[misc]
    list(responses)[7].body = "changed, too"  # type: ignore[misc]
    responses.insert(0, value(-1))
    assert [responses[5].body, responses[8].body] == ["changed", "changed, too"]
    assert pickle.loads(pickle.dumps(responses))[5].body == "changed"


def test_changing_a_slice_changes_nothing_else() -> None:
    responses, expected = twins()
    responses[:].clear()
    (responses + []).clear()  # noqa: RUF005
    list(responses).clear()
    responses.copy().clear()
    assert responses == expected


def test_a_pickle_knows_its_class() -> None:
    assert isinstance(pickle.loads(pickle.dumps(in_parts()[0])), Responses)
    assert isinstance(copy.deepcopy(in_parts()[0]), Responses)


def test_made_from_any_iterable() -> None:
    made = Responses(value(number) for number in range(3))
    assert made == [value(0), value(1), value(2)]
    given: list[Response] = [value(0)]
    made = Responses(given)
    made.append(value(1))
    assert len(given) == 1


# ── opened when looked at ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("look", "opened"),
    [
        (len, ""),
        (bool, ""),
        (lambda r: r == [], ""),
        (lambda r: r.add([value(10)]), ""),
        (lambda r: r[0], "0"),
        (lambda r: r[2], "0"),
        (lambda r: r[3], "1"),
        (lambda r: r[-1], "3"),
        (lambda r: r[-6], "2"),
        (lambda r: r[1:4], "01"),
        (lambda r: r[::5], "02"),
        (lambda r: r[5:5], ""),
        (lambda r: next(iter(r)), "0"),
        (lambda r: next(reversed(r)), "3"),
        (lambda r: [response for response, _ in zip(r, range(4), strict=False)], "012"),
        (lambda r: value(3) in r, "01"),
        (lambda r: r.index(value(4)), "012"),
        (iter, ""),
        (list, "0123"),
        (lambda r: [list(r), r[3], r[4:], list(reversed(r)), r == list(r)], "0123"),
    ],
)
def test_parts_are_opened_once_and_only_when_somebody_looks(
    look: Callable[[Responses], object], opened: str
) -> None:
    responses, parts = in_parts()
    look(responses)
    look(responses)
    assert {part.opened for part in parts} <= {0, 1}
    assert "".join(str(number) for number, part in enumerate(parts) if part.opened) == opened


def iadd(responses: Any, more: Any) -> Any:
    responses += more
    return responses


def imul(responses: Any, count: int) -> Any:
    responses *= count
    return responses


# ── changing ──────────────────────────────────────────────────────────────────────────────────────

CHANGES: dict[str, Callable[[Any], object]] = {
    "append": lambda r: r.append(value(20)),
    "insert": lambda r: r.insert(4, value(20)),
    "insert at the front": lambda r: r.insert(0, value(20)),
    "insert far behind": lambda r: r.insert(99, value(20)),
    "insert negative": lambda r: r.insert(-2, value(20)),
    "extend": lambda r: r.extend([value(20), value(21)]),
    "extend with a generator": lambda r: r.extend(value(number) for number in (20, 21)),
    "extend with itself": lambda r: r.extend(r),
    "extend with nothing": lambda r: r.extend([]),
    "extend with None": lambda r: r.extend(None),
    "iadd": lambda r: iadd(r, [value(20)]),
    "iadd tuple": lambda r: iadd(r, (value(20),)),
    "iadd itself": lambda r: iadd(r, r),
    "iadd int": lambda r: iadd(r, 1),
    "imul": lambda r: imul(r, 2),
    "set": lambda r: operator.setitem(r, 4, value(20)),
    "set negative": lambda r: operator.setitem(r, -1, value(20)),
    "set by place": lambda r: operator.setitem(r, Place(3), value(20)),
    "set out of range": lambda r: operator.setitem(r, 10, value(20)),
    "set slice": lambda r: operator.setitem(r, slice(2, 5), [value(20)]),
    "set longer slice": lambda r: operator.setitem(
        r, slice(2, 3), [value(number) for number in range(20, 25)]
    ),
    "set slice to a generator": lambda r: operator.setitem(r, slice(2, 5), (value(n) for n in (20, 21))),
    "set slice to itself": lambda r: operator.setitem(r, slice(2, 5), r),
    "set step": lambda r: operator.setitem(r, slice(0, 6, 3), [value(20), value(21)]),
    "set step to too few": lambda r: operator.setitem(r, slice(0, 9, 3), [value(20)]),
    "set all": lambda r: operator.setitem(r, slice(None), []),
    "set slice to int": lambda r: operator.setitem(r, slice(1, 2), 1),
    "del": lambda r: operator.delitem(r, 4),
    "del negative": lambda r: operator.delitem(r, -10),
    "del out of range": lambda r: operator.delitem(r, 10),
    "del slice": lambda r: operator.delitem(r, slice(2, 5)),
    "del step": lambda r: operator.delitem(r, slice(None, None, 2)),
    "del all": lambda r: operator.delitem(r, slice(None)),
    "pop": lambda r: r.pop(),
    "pop first": lambda r: r.pop(0),
    "pop negative": lambda r: r.pop(-3),
    "pop out of range": lambda r: r.pop(10),
    "pop by place": lambda r: r.pop(Place(3)),
    "remove": lambda r: r.remove(value(5)),
    "remove what is not there": lambda r: r.remove(value(99)),
    "clear": lambda r: r.clear(),
    "reverse": lambda r: r.reverse(),
    "sort": lambda r: r.sort(key=lambda response: -response.body),
    "sort by two": lambda r: r.sort(key=lambda response: response.body % 2),
    "sort reversed": lambda r: r.sort(key=lambda response: response.body % 3, reverse=True),
    "sort what has no order": lambda r: r.sort(),
    "sort with an argument": lambda r: r.sort(body),
}


@pytest.mark.parametrize("looked", [False, True], ids=["unopened", "opened"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changing(change: Callable[[Any], object], looked: bool) -> None:
    responses, expected = twins()
    if looked:
        assert responses == expected
    kept = responses
    assert outcome(change, responses) == outcome(change, expected)
    assert kept is responses
    assert (len(responses), list(responses)) == (len(expected), expected)
    assert [responses[place] for place in range(len(expected))] == expected


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_changing_none(change: Callable[[Any], object]) -> None:
    responses = Responses()
    expected: list[Response] = []
    assert outcome(change, responses) == outcome(change, expected)
    assert list(responses) == expected


def test_adding_to_it_in_place_is_seen_by_all_who_have_it() -> None:
    responses, _ = in_parts()
    other = responses
    responses += [value(10)]
    assert other is responses
    assert len(other) == LENGTH + 1


WHILE: dict[str, Callable[[Any, int], object]] = {
    "append": lambda r, step: r.append(value(20 + step)) if step < 5 else None,
    "remove this": lambda r, step: operator.delitem(r, step) if len(r) > 5 else None,
    "remove the first": lambda r, step: operator.delitem(r, 0),
    "remove the last": lambda r, step: r.pop(),
    "insert": lambda r, step: r.insert(0, value(20 + step)) if step < 5 else None,
    "replace the next": lambda r, step: (
        operator.setitem(r, slice(step + 1, step + 2), [value(50 + step)]) if step < 9 else None
    ),
    "reverse once": lambda r, step: r.reverse() if step == 1 else None,
    "clear": lambda r, step: r.clear() if step == 3 else None,
    "sort": lambda r, step: r.sort(key=lambda response: -response.body),
    "replace all": lambda r, step: operator.setitem(r, slice(None), [value(7)] * 4) if step == 1 else None,
}


@pytest.mark.parametrize("sizes", [SIZES, (LENGTH,), (1,) * LENGTH], ids=["parts", "one part", "tiny parts"])
@pytest.mark.parametrize("change", WHILE.values(), ids=WHILE)
def test_changed_while_iterated(change: Callable[[Any, int], object], sizes: Sequence[int]) -> None:
    def seen(responses: Any) -> list[Any]:
        found = []
        for step, response in enumerate(responses):
            found.append(response.body)
            change(responses, step)
        return found

    responses, expected = twins(sizes)
    assert seen(responses) == seen(expected)
    assert responses == expected


def test_two_iterators_at_once() -> None:
    responses, expected = twins()
    assert list(zip(responses, responses, strict=True)) == list(zip(expected, expected, strict=True))
    one, other = iter(responses), iter(responses)
    assert [next(one) for _ in range(5)] == expected[:5]
    responses.append(value(10))
    assert list(other) == [*expected, value(10)]
    assert [response.body for response in one] == [5, 6, 7, 8, 9, 10]


def test_added_to_while_iterated() -> None:
    """As `map` does with a queue that is full."""
    responses, _ = in_parts((2,))
    found = []
    for response in responses:
        found.append(response.body)
        if len(responses) < 6:
            responses.add([value(len(responses))])
    assert found == [0, 1, 2, 3, 4, 5]


# ── any of these, in any order ────────────────────────────────────────────────────────────────────

places = st.integers(-12, 12)
bounds = st.none() | places
steps = st.sampled_from([None, 1, 2, -1, -3])


class LikeAList(RuleBasedStateMachine):
    """Both are given the same objects, apart from those in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.responses = Responses()
        self.expected: list[Response] = []
        self.next = 0

    def both(self, operation: Callable[[Any], object]) -> None:
        assert outcome(operation, self.responses) == outcome(operation, self.expected)

    @precondition(lambda self: len(self.expected) < 30)
    @rule(count=st.integers(1, 4))
    def add(self, count: int) -> None:
        self.responses.add(Part(self.next, count))
        self.expected += [value(number) for number in range(self.next, self.next + count)]
        self.next += count

    @rule(place=places)
    def get(self, place: int) -> None:
        self.both(lambda r: r[place])

    @rule(start=bounds, stop=bounds, step=steps)
    def get_slice(self, start: int | None, stop: int | None, step: int | None) -> None:
        self.both(lambda r: r[start:stop:step])

    @rule(place=places)
    def set(self, place: int) -> None:
        self.both(lambda r: operator.setitem(r, place, value(-1)))

    @rule(start=bounds, stop=bounds, step=steps, count=st.integers(0, 3))
    def set_slice(self, start: int | None, stop: int | None, step: int | None, count: int) -> None:
        self.both(lambda r: operator.setitem(r, slice(start, stop, step), [value(-2)] * count))

    @rule(place=places)
    def delete(self, place: int) -> None:
        self.both(lambda r: operator.delitem(r, place))

    @rule(start=bounds, stop=bounds, step=steps)
    def delete_slice(self, start: int | None, stop: int | None, step: int | None) -> None:
        self.both(lambda r: operator.delitem(r, slice(start, stop, step)))

    @rule(place=places)
    def insert(self, place: int) -> None:
        self.both(lambda r: r.insert(place, value(-3)))

    @rule(place=places)
    def pop(self, place: int) -> None:
        self.both(lambda r: r.pop(place))

    @rule(number=st.integers(-3, 30))
    def remove(self, number: int) -> None:
        self.both(lambda r: r.remove(value(number)))

    @rule(number=st.integers(-3, 30), start=places)
    def find(self, number: int, start: int) -> None:
        self.both(lambda r: (value(number) in r, r.count(value(number))))
        self.both(lambda r: r.index(value(number), start))

    @rule()
    def reverse(self) -> None:
        self.both(lambda r: r.reverse())

    @rule(factor=st.integers(-3, 3))
    def sort(self, factor: int) -> None:
        self.both(lambda r: r.sort(key=lambda response: factor * response.body))

    @rule()
    def copy(self) -> None:
        self.responses = copy.copy(self.responses)

    @rule()
    def pickle(self) -> None:
        self.responses = pickle.loads(pickle.dumps(self.responses))

    @rule(change=st.sampled_from(list(WHILE.values())), until=st.integers(0, 9))
    def change_in_a_loop(self, change: Callable[[Any, int], object], until: int) -> None:
        def loop(responses: Any) -> list[Response]:
            seen = []
            for step, response in enumerate(responses):
                seen.append(response)
                if step > until:
                    break
                change(responses, step)
            return seen

        self.both(loop)

    @invariant()
    def lengths_are_equal(self) -> None:
        assert (len(self.responses), bool(self.responses)) == (len(self.expected), bool(self.expected))

    def teardown(self) -> None:
        assert self.responses == self.expected
        assert list(self.responses) == self.expected


TestLikeAList = LikeAList.TestCase
TestLikeAList.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
