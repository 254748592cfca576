"""Both ends of a TCP connection in one thread, for tests that send exact bytes to the client.

The server's end sends without blocking, the client is stepped through its coroutines. So the
test decides which byte has arrived when the client looks, and nothing has to be synchronised.
"""

import contextlib
import select
import socket
import struct
from typing import Any, Callable, Dict, Generator, Iterable, Iterator, List, NamedTuple, Optional

from servers import LIMIT

import dugong
from dugong import HTTPConnection

#: Ways to read a body to its end. Each takes a connection, and an empty `bytearray` to which it
#: adds the data as it arrives, so that what came before an exception can be looked at.
Form = Callable[[HTTPConnection, bytearray], Generator[Any, Any, None]]


def _readall(conn: HTTPConnection, data: bytearray) -> Generator[Any, Any, None]:
    data += yield from conn.co_readall()


def _read(conn: HTTPConnection, data: bytearray) -> Generator[Any, Any, None]:
    while True:
        piece = yield from conn.co_read(7)
        if not piece:
            return
        assert len(piece) <= 7
        data += piece


def _read_none(conn: HTTPConnection, data: bytearray) -> Generator[Any, Any, None]:
    data += yield from conn.co_read()


def _readinto(conn: HTTPConnection, data: bytearray) -> Generator[Any, Any, None]:
    buf = bytearray(b'\xee' * 9)
    while True:
        size = yield from conn.co_readinto(memoryview(buf)[:8])
        if not size:
            return
        data += buf[:size]
        assert buf[8:] == b'\xee'


def _discard(conn: HTTPConnection, data: bytearray) -> Generator[Any, Any, None]:
    yield from conn.co_discard()


FORMS: Dict[str, Form] = {
    'readall': _readall,
    'read': _read,
    'read_none': _read_none,
    'readinto': _readinto,
    'discard': _discard,
}

#: Own exceptions that may be raised because of what a server sends or does not send.
SERVER_FAULTS = (
    dugong.ConnectionClosed,
    dugong.InvalidResponse,
    dugong.UnsupportedResponse,
)


class Wire:
    """An `HTTPConnection` (*conn*) and the server's end of it (*peer*, a socket)."""

    def __init__(self, **options: object) -> None:
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._listener.settimeout(LIMIT)
        self._options = options
        self.peer: Optional[socket.socket] = None
        self.conn = HTTPConnection('127.0.0.1', self._listener.getsockname()[1], **options)
        self.conn.timeout = LIMIT

    def connect(self) -> None:
        """Connect anew."""
        self.hang_up()
        self.conn.connect()
        # The kernel has completed the connection already.
        self.peer, _ = self._listener.accept()
        self.peer.settimeout(LIMIT)
        self.peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def restart(self) -> None:
        """Forget the connection and all that was set on *conn*."""
        self.conn.disconnect()
        self.hang_up()
        self.conn = HTTPConnection('127.0.0.1', self._listener.getsockname()[1], **self._options)
        self.conn.timeout = LIMIT

    def request(self, method: str = 'GET', path: str = '/', **options: Any) -> None:
        """Send a request, connecting if that has not happened yet."""
        if self.peer is None:
            self.connect()
        self.conn.send_request(method, path, **options)

    def feed(self, data: bytes) -> None:
        """Send *data* to the client; it can be received when this returns."""
        if data:
            self.peer.sendall(data)
            self.wait_for_input()

    def end(self) -> None:
        """Send FIN; it has arrived when this returns."""
        self.peer.shutdown(socket.SHUT_WR)
        self.wait_for_input()

    def wait_for_input(self) -> None:
        """Wait until the client's end has something to receive."""
        sock = self.conn._sock
        if sock is not None:
            assert select.select([sock], [], [], LIMIT)[0], 'sent data does not arrive'

    def hang_up(self) -> None:
        """Close the server's end with RST, which leaves no port in TIME_WAIT."""
        if self.peer is not None:
            with contextlib.suppress(OSError):
                self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            self.peer.close()
            self.peer = None

    def drive(self, coroutine: Generator[Any, Any, Any], pieces: Iterable[bytes] = ()) -> Any:
        """Run *coroutine* to its end and return its result.

        Whenever it waits for input, the next of *pieces* is sent, FIN after the last one.
        """
        supply = iter(pieces)
        ended = False
        while True:
            try:
                needed = next(coroutine)
            except StopIteration as stop:
                return stop.value
            if needed.poll(0):
                continue
            assert not ended, f'{coroutine} waits for {needed} although all has been sent'
            piece = next((piece for piece in supply if piece), None)
            if piece is None:
                ended = True
                self.end()
            else:
                self.feed(piece)

    def close(self) -> None:
        self.conn.disconnect()
        self.hang_up()
        self._listener.close()

    def __enter__(self) -> 'Wire':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def split(data: bytes, size: int) -> Iterator[bytes]:
    """*data* in pieces of *size* bytes."""
    return (data[i : i + size] for i in range(0, len(data), size))


class Answer(NamedTuple):
    """What a client can see of one response."""

    status: int
    reason: str
    fields: List[tuple]
    length: Optional[int]
    body: bytes
    trailers: Optional[List[tuple]]


class Outcome(NamedTuple):
    """The complete answers of a connection, and the exception that ended it, if any.

    *partial* is what was read of a body before the exception.
    """

    answers: List[Answer]
    error: Optional[BaseException]
    partial: bytes = b''


def fetch(
    wire: Wire,
    pieces: Iterable[bytes],
    count: int = 1,
    form: str = 'readall',
    method: str = 'GET',
    **options: Any,
) -> Outcome:
    """Send *count* requests on a new connection, then read *count* answers out of *pieces*.

    Only exceptions that a server may cause are caught.
    """
    pieces = iter(pieces)
    wire.connect()
    conn = wire.conn
    answers: List[Answer] = []
    data = bytearray()
    try:
        for _ in range(count):
            conn.send_request(method, '/', **options)
        for _ in range(count):
            data = bytearray()
            resp = wire.drive(conn.co_read_response(), pieces)
            wire.drive(FORMS[form](conn, data), pieces)
            trailers = None if resp.trailers is None else list(resp.trailers.items())
            answers.append(
                Answer(
                    resp.status,
                    resp.reason,
                    list(resp.headers.items()),
                    resp.length,
                    bytes(data),
                    trailers,
                )
            )
    except SERVER_FAULTS as exc:
        return Outcome(answers, exc, bytes(data))
    return Outcome(answers, None)
