"""Replies of a Redis server, as they come from a socket: whole, in pieces, soon, late, or not at all."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import InvalidResponse, ResponseError

from multiprocessing_kit.service.brokers.redis.replies import Replies

REPLIES: list[tuple[bytes, Any]] = [
    (b"+OK\r\n", b"OK"),
    (b":-7\r\n", -7),
    (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
    (b"$0\r\n\r\n", b""),
    (b"$-1\r\n", None),
    (b"*-1\r\n", None),
    (b"*0\r\n", []),
    (b"*3\r\n:1\r\n*2\r\n$1\r\nx\r\n$-1\r\n+y\r\n", [1, [b"x", None], b"y"]),
]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


@pytest.mark.parametrize(("data", "value"), REPLIES, ids=[repr(data) for data, _ in REPLIES])
@pytest.mark.parametrize("looks", [False, True], ids=["sleeps", "looks"])
def test_pieces(ends: tuple[socket.socket, socket.socket], data: bytes, value: Any, looks: bool) -> None:
    """Wherever a reply is cut in two, it is read whole, and so is the next."""
    ours, theirs = ends
    replies = Replies(ours)
    for cut in range(len(data) + 1):
        theirs.sendall(data[:cut])
        if looks:
            replies.look()
        theirs.sendall(data[cut:] + b":1\r\n")
        assert replies.read() == value
        assert replies.read() == 1


def test_an_error_is_a_value(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b"*2\r\n-ERR no such thing\r\n:1\r\n")
    error, one = Replies(ours).read()
    assert isinstance(error, ResponseError)
    assert str(error) == "ERR no such thing"
    assert one == 1


def test_no_reply_of_redis(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(InvalidResponse, match="HTTP"):
        Replies(ours).read()


@pytest.mark.parametrize("looks", [False, True], ids=["sleeps", "looks"])
def test_the_server_hangs_up(ends: tuple[socket.socket, socket.socket], looks: bool) -> None:
    ours, theirs = ends
    theirs.sendall(b"$5\r\nab")
    theirs.close()
    replies = Replies(ours)
    if looks:
        replies.look()
    with pytest.raises(RedisConnectionError, match="closed"):
        (replies.look if looks else replies.read)()


def test_a_server_that_says_nothing(ends: tuple[socket.socket, socket.socket]) -> None:
    """Who looks for its reply comes back, and waits no longer than the socket's time."""
    ours, _ = ends
    ours.settimeout(0.05)
    replies = Replies(ours)
    for _ in range(20):
        replies.look()
    with pytest.raises(TimeoutError):
        replies.read()


def test_a_connection_that_was_reset() -> None:
    """Its peer has no address any more: that is told where it is read, and not before."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as ours,
    ):
        theirs, _ = server.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        replies = Replies(ours)
        with pytest.raises(ConnectionResetError):
            replies.read()
