"""Shared by the tests of uploads: ways to send a body, servers that store it, both ends at hand.

`FORMS` are the ways to send a body. Each is a coroutine made of those of `HTTPConnection`, so it
runs blocking, stepped by hand or on asyncio, see `RUNNERS`.
"""

import array
import asyncio
import contextlib
import ctypes
import io
import mmap
import os
import pathlib
import select
import socket
import ssl
import struct
import threading
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)

import h11
from servers import LIMIT, Peer, Request, wait_for_events

from dugong import AioFuture, BodyFollowing, HTTPConnection, PollNeeded, eval_coroutine
from dugong._stream import TlsSocket

#: So many steps without an end mean that a coroutine spins.
_MAX_STEPS = 100000


def pattern(size: int) -> bytes:
    """*size* bytes in which no stretch can be taken for another one."""
    words = array.array('I', range(size // 4 + 1))
    return words.tobytes()[:size]


# Sources


class Unseekable(io.RawIOBase):
    """A stream that cannot tell its length; gives at most *most* bytes at a time."""

    def __init__(self, data: bytes, most: int = 5000) -> None:
        self._data = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def readinto(self, buf: Any) -> int:
        return self._data.readinto(memoryview(buf)[: self._most])


class Reader:
    """The least that a stream can be: `read`. Gives *pieces* one by one, raises exceptions."""

    def __init__(self, pieces: Iterable[Any]) -> None:
        self._pieces = iter(pieces)
        self.calls = 0

    def read(self, size: int) -> Any:
        self.calls += 1
        piece = next(self._pieces, b'')
        if isinstance(piece, BaseException):
            raise piece
        return piece


def raising(pieces: Iterable[Any]) -> Iterator[Any]:
    """Yield *pieces* one by one; raise those that are exceptions."""
    for piece in pieces:
        if isinstance(piece, BaseException):
            raise piece
        yield piece


def split(data: bytes, size: int) -> List[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def anonymous_map(data: bytes) -> mmap.mmap:
    result = mmap.mmap(-1, len(data))
    result[:] = data
    return result


class Pair(ctypes.Structure):
    _fields_ = [('first', ctypes.c_uint16), ('second', ctypes.c_uint32)]


#: Bytes-like objects of all kinds.
BYTES_LIKE: Dict[str, Callable[[], Any]] = {
    'bytes': lambda: b'some bytes',
    'bytearray': lambda: bytearray(b'a bytearray'),
    'memoryview': lambda: memoryview(b'a memoryview')[2:],
    'chars': lambda: memoryview(b'of chars').cast('c'),
    'signed': lambda: memoryview(array.array('b', [-1, -128, 127])),
    'booleans': lambda: memoryview(bytes([0, 1, 1])).cast('?'),
    'ints': lambda: memoryview(array.array('I', range(7))),
    'doubles': lambda: memoryview(array.array('d', [0.5, -0.0])),
    'two dimensions': lambda: memoryview(bytes(range(12))).cast('B', (3, 4)),
    'two dimensions of shorts': lambda: memoryview(bytes(range(12))).cast('H', (2, 3)),
    'no dimension': lambda: memoryview(bytes(range(8))).cast('Q', ()),
    'every other': lambda: memoryview(bytes(range(20)))[::2],
    'backwards': lambda: memoryview(bytes(range(20)))[::-1],
    'every other int': lambda: memoryview(array.array('i', range(10)))[1::3],
    'array': lambda: array.array('H', [1, 2, 65535]),
    'map': lambda: anonymous_map(b'memory that is mapped'),
    'ctypes array': lambda: (ctypes.c_int32 * 3)(1, -2, 3),
    'ctypes matrix': lambda: ((ctypes.c_uint16 * 2) * 2)((1, 2), (3, 4)),
    'ctypes structure': lambda: Pair(1, 2),
    'ctypes integer': lambda: ctypes.c_uint64(2**63 + 7),
}

#: Bytes-like objects without any bytes.
EMPTY: Dict[str, Callable[[], Any]] = {
    'bytes': lambda: b'',
    'memoryview': lambda: memoryview(b''),
    'ints': lambda: memoryview(array.array('I')),
    'slice': lambda: memoryview(b'abc')[::-2][:0],
    'array': lambda: array.array('d'),
    'ctypes array': lambda: (ctypes.c_int32 * 0)(),
}


# Ways to send a body


class Form(NamedTuple):
    """A way to send a body: *call* is a coroutine `(conn, data, file, fields)`.

    *file* is a file with the data. *chunked* tells how the body is framed.
    """

    call: Callable[..., Generator[PollNeeded, None, None]]
    chunked: bool = False
    expect100: bool = False


def _whole(make: Callable[[bytes, pathlib.Path], Any]) -> Callable[..., Any]:
    """Send what *make* returns along with the request."""

    def call(conn: Any, data: bytes, file: pathlib.Path, fields: Any = None) -> Any:
        body = make(data, file)
        try:
            yield from conn.co_send_request('PUT', '/upload', fields, body)
        finally:
            if hasattr(body, 'close'):
                body.close()

    return call


def _pieces(data: bytes) -> List[bytes]:
    """*data* in pieces of several sizes, and nothing in between."""
    third = len(data) // 3
    parts = [data[:1], data[1:16], b'', data[16:third], data[max(16, third) :]]
    assert b''.join(parts) == data
    return parts


def _written(length: bool, expect100: bool = False, file: bool = False) -> Callable[..., Any]:
    """Send the request, and the body behind it with `write`."""

    def call(conn: Any, data: bytes, path: pathlib.Path, fields: Any = None) -> Any:
        following = BodyFollowing(len(data)) if length else BodyFollowing()
        yield from conn.co_send_request('PUT', '/upload', fields, following, expect100=expect100)
        if expect100 and (data or not length):
            response = yield from conn.co_read_response()
            if response.status != 100:
                raise Refused(response)
        if file:
            with path.open('rb') as stream:
                if data:
                    yield from conn.co_write(stream)
        else:
            for piece in _pieces(data):
                if piece or not length:
                    yield from conn.co_write(piece)
        if not length:
            yield from conn.co_write_eof()

    return call


class Refused(Exception):
    """The server answered with the only argument instead of 100."""


FORMS: Dict[str, Form] = {
    'bytes': Form(_whole(lambda data, file: data)),
    'view': Form(_whole(lambda data, file: memoryview(data))),
    'file': Form(_whole(lambda data, file: file.open('rb'))),
    'raw file': Form(_whole(lambda data, file: file.open('rb', buffering=0))),
    'memory stream': Form(_whole(lambda data, file: io.BytesIO(data))),
    'stream': Form(_whole(lambda data, file: Unseekable(data)), chunked=True),
    'list': Form(_whole(lambda data, file: _pieces(data)), chunked=True),
    'generator': Form(_whole(lambda data, file: raising(_pieces(data))), chunked=True),
    'written': Form(_written(True)),
    'written file': Form(_written(True, file=True)),
    'chunked': Form(_written(False), chunked=True),
    'chunked file': Form(_written(False, file=True), chunked=True),
    'expect100': Form(_written(True, True), expect100=True),
    'expect100 file': Form(_written(True, True, file=True), expect100=True),
    'expect100 chunked': Form(_written(False, True), chunked=True, expect100=True),
}


class Blocking:
    """Has the coroutines of a connection, which call the blocking methods and never wait."""

    def __init__(self, conn: HTTPConnection) -> None:
        self._conn = conn

    def __getattr__(self, name: str) -> Any:
        assert name.startswith('co_')
        method = getattr(self._conn, name[3:])

        def call(*args: Any, **options: Any) -> Generator[PollNeeded, None, Any]:
            return method(*args, **options)
            yield

        return call


def run_blocking(conn: HTTPConnection, function: Callable[..., Any], *args: Any) -> Any:
    coroutine = function(Blocking(conn), *args)
    try:
        next(coroutine)
    except StopIteration as stop:
        return stop.value
    raise AssertionError('a blocking method has yielded')


def run_stepped(conn: HTTPConnection, function: Callable[..., Any], *args: Any) -> Any:
    return eval_coroutine(function(conn, *args), LIMIT)


def run_asyncio(conn: HTTPConnection, function: Callable[..., Any], *args: Any) -> Any:
    async def main() -> Any:
        return await asyncio.wait_for(AioFuture(function(conn, *args)), LIMIT)

    return asyncio.run(main())


#: Ways to run `function(conn, *args)`, a coroutine made of those of *conn*, to its end.
RUNNERS: Dict[str, Callable[..., Any]] = {
    'blocking': run_blocking,
    'stepped': run_stepped,
    'asyncio': run_asyncio,
}


def co_answer(conn: Any) -> Generator[PollNeeded, None, Tuple[int, bytes]]:
    """Read a response, return status and body."""
    response = yield from conn.co_read_response()
    body = yield from conn.co_readall()
    return response.status, bytes(body)


def answer(conn: HTTPConnection) -> Tuple[int, bytes]:
    """Read a response, return status and body."""
    return run_blocking(conn, co_answer)


# Servers


class Store:
    """A handler that stores requests and answers them with 200; says 100 where asked to."""

    def __init__(self) -> None:
        self.requests: List[Request] = []

    def __call__(self, peer: Peer) -> None:
        while True:
            try:
                request = peer.read_head()
            except (EOFError, ConnectionError):
                return
            if request.field('Expect') is not None:
                peer.send(b'HTTP/1.1 100 Continue\r\n\r\n')
            self.requests.append(peer.read_body(request))
            peer.respond(b'stored')

    @property
    def last(self) -> Request:
        return self.requests[-1]


class Parsed(NamedTuple):
    """A request as h11 understands it."""

    head: h11.Request
    chunks: List[bytes]
    trailers: List[Tuple[bytes, bytes]]

    @property
    def body(self) -> bytes:
        return b''.join(self.chunks)


# Both ends in one thread


class Link:
    """A connection (*conn*) and the server's end of it (*peer*, a socket) in one thread.

    *small* makes the buffers of the kernel small, so that sending soon has to wait. With
    *certificates* it speaks TLS. Coroutines are run step by step with `start`.
    """

    def __init__(
        self, small: bool = False, certificates: Any = None, connect: bool = True
    ) -> None:
        self._running: List[Running] = []
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._listener.settimeout(LIMIT)
        self._small = small
        self._server_context: Optional[ssl.SSLContext] = None
        options: Dict[str, Any] = {}
        if certificates is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificates.certificate.configure_cert(context)
            # Whatever the client finds to receive is then what the test has sent.
            context.num_tickets = 0
            self._server_context = context
            options['ssl_context'] = certificates.client_context
        if small:
            # Inherited by the accepted socket, and in force before the window is announced.
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.conn = HTTPConnection('127.0.0.1', self._listener.getsockname()[1], **options)
        self.conn.timeout = LIMIT
        self.peer: Any = None
        self._backlog = b''
        if connect:
            self.connect()

    def connect(self) -> None:
        """Connect, anew if necessary."""
        self.hang_up()
        accepted: List[socket.socket] = []
        thread = None
        if self._server_context is not None:
            thread = threading.Thread(target=lambda: accepted.append(self._accept()))
            thread.start()
        self.conn.connect()
        if thread is not None:
            thread.join(LIMIT)
        else:
            accepted.append(self._accept())
        (self.peer,) = accepted
        if self._small:
            self.conn._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)

    def accept_or_connect(self) -> None:
        """Take the connection that the client has made by itself, or make one."""
        if self.conn._sock is None:
            self.connect()
        else:
            self.peer = self._accept()

    def _accept(self) -> socket.socket:
        sock, _ = self._listener.accept()
        sock.settimeout(LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._server_context is not None:
            sock = self._server_context.wrap_socket(sock, server_side=True)
        return sock

    def start(self, coroutine: Generator[PollNeeded, None, Any]) -> 'Running':
        """Start *coroutine*: run it up to where it has to wait."""
        running = Running(coroutine)
        self._running.append(running)
        running.advance()
        return running

    def feed(self, data: bytes) -> None:
        """Send *data* to the client; it can be received when this returns."""
        self.peer.sendall(data)
        assert select.select([self.conn._sock], [], [], LIMIT)[0], 'sent data does not arrive'

    def end(self) -> None:
        """Send FIN; it has arrived when this returns."""
        socket.socket.shutdown(self.peer, socket.SHUT_WR)
        wait_for_events(self.conn._sock, select.POLLRDHUP)

    def reset(self) -> None:
        """Close with RST; it has arrived when this returns."""
        _close_with_reset(self.peer)
        wait_for_events(self.conn._sock, 0)

    def close_peer(self) -> None:
        """Close as the system does it: FIN, or RST if there is something unread."""
        self.peer.close()
        wait_for_events(self.conn._sock, select.POLLRDHUP)

    def available(self) -> bytes:
        """Take what has arrived at the server, without waiting."""
        self.peer.setblocking(False)
        parts = []
        try:
            while True:
                data = self.peer.recv(1 << 16)
                if not data:
                    break
                parts.append(data)
        except (BlockingIOError, ssl.SSLWantReadError):
            pass
        finally:
            self.peer.settimeout(LIMIT)
        return b''.join(parts)

    def collect(self, running: 'Running') -> bytes:
        """Run *running* to its end, return what arrives at the server meanwhile."""
        parts = []
        for _ in range(_MAX_STEPS):
            done = running.advance()
            parts.append(self.available())
            if done:
                # The kernel may still be about to deliver the rest.
                return b''.join(parts)
            if not parts[-1]:
                select.select([self.peer, self.conn._sock], [self.conn._sock], [], LIMIT)
        raise AssertionError('no end')

    def take_head(self, running: 'Running') -> None:
        """Run *running* until the server has the whole head; `parse` will see it, too."""
        while b'\r\n\r\n' not in self._backlog:
            assert not running.advance() or running.done
            self._backlog += self.available()
        running.advance()

    def parse(self, data: bytes = b'') -> Parsed:
        """Receive one request and parse it with h11; *data* are what has arrived before."""
        data, self._backlog = self._backlog + data, b''
        parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        if data:
            parser.receive_data(data)
        head = None
        chunks: List[bytes] = []
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                received = self.peer.recv(1 << 16)
                assert received, 'client closed in the middle of a request'
                parser.receive_data(received)
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                if event.chunk_start or not chunks:
                    chunks.append(b'')
                chunks[-1] += bytes(event.data)
            else:
                assert isinstance(event, h11.EndOfMessage), event
                assert head is not None
                assert not parser.trailing_data[0]
                return Parsed(head, chunks, list(event.headers))

    def hang_up(self) -> None:
        """Close the server's end with RST, which leaves no port in TIME_WAIT."""
        if self.peer is not None:
            _close_with_reset(self.peer)
            self.peer = None

    def close(self) -> None:
        for running in self._running:
            running.close()
        self.conn.disconnect()
        self.hang_up()
        self._listener.close()

    def __enter__(self) -> 'Link':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _close_with_reset(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    sock.close()


class Running:
    """A coroutine that is run step by step."""

    def __init__(self, coroutine: Generator[PollNeeded, None, Any]) -> None:
        self._coroutine = coroutine
        self.need: Optional[PollNeeded] = None
        self.done = False
        self.result: Any = None
        #: How often it was resumed.
        self.steps = 0

    def advance(self, timeout: float = 0) -> bool:
        """Run up to where it waits for what is not there; True at the end.

        *timeout* (seconds) is how long each wait may take.
        """
        begin = self.steps
        while not self.done:
            if self.need is not None and not self.need.poll(timeout):
                return False
            self.step()
            assert self.steps < begin + _MAX_STEPS, 'coroutine spins'
        return True

    def advance_once(self) -> None:
        """Resume it once if it is ready."""
        if self.need is None or self.need.poll(0):
            self.step()

    def step(self) -> None:
        """Resume it once, whether it is ready or not."""
        self.steps += 1
        try:
            self.need = next(self._coroutine)
        except StopIteration as stop:
            self._end(stop.value)
        except BaseException:
            self._end(None)
            raise

    def throw(self, exc: BaseException) -> None:
        """Raise *exc* inside the coroutine, which has to end."""
        try:
            self._coroutine.throw(exc)
        finally:
            self._end(None)
        raise AssertionError('coroutine goes on')

    def finish(self) -> Any:
        """Run it to its end, return its result."""
        assert self.advance(LIMIT), f'{self.need} is never ready'
        return self.result

    def _end(self, result: Any) -> None:
        self.done = True
        self.result = result
        self.need = None

    def close(self) -> None:
        self._coroutine.close()


# What the client sends, call by call


class Sent(NamedTuple):
    """One call that hands data to the system: its name and what it was given."""

    name: str
    pieces: List[Any]


class Tap:
    """Watches, and limits, what one socket of the client sends.

    *calls* are the calls that have sent something. *budget* is the number of bytes that may
    still be sent: from then on calls fail as if the kernel had no room. `None`: no limit.
    *swallow* makes all calls take everything without sending it. *refused* is set by a call that
    found the budget used up.
    """

    def __init__(self, monkeypatch: Any) -> None:
        self.sock: Any = None
        self.calls: List[Sent] = []
        self.budget: Optional[int] = None
        self.swallow = False
        self.refused = False
        send, sendmsg = socket.socket.send, socket.socket.sendmsg
        tls_send, sendfile = TlsSocket.send, os.sendfile

        def new_send(sock: Any, data: Any, *args: Any) -> int:
            if sock is not self.sock:
                return send(sock, data, *args)
            return self._pass('send', [data], lambda pieces: send(sock, pieces[0], *args))

        def new_tls_send(sock: Any, data: Any, *args: Any) -> int:
            if sock is not self.sock:
                return tls_send(sock, data, *args)
            return self._pass('tls', [data], lambda pieces: tls_send(sock, pieces[0], *args))

        def new_sendmsg(sock: Any, pieces: Any, *args: Any) -> int:
            if sock is not self.sock:
                return sendmsg(sock, pieces, *args)
            return self._pass('sendmsg', list(pieces), lambda parts: sendmsg(sock, parts, *args))

        def new_sendfile(out: int, file: int, offset: int, count: int) -> int:
            if self.sock is None or out != self.sock.fileno():
                return sendfile(out, file, offset, count)
            return self._pass(
                'sendfile', [count], lambda counts: sendfile(out, file, offset, counts[0])
            )

        monkeypatch.setattr(socket.socket, 'send', new_send)
        monkeypatch.setattr(socket.socket, 'sendmsg', new_sendmsg)
        monkeypatch.setattr(TlsSocket, 'send', new_tls_send)
        monkeypatch.setattr(os, 'sendfile', new_sendfile)

    def _pass(self, name: str, pieces: List[Any], call: Callable[[List[Any]], int]) -> int:
        budget = self.budget
        if budget is not None:
            if not budget:
                self.refused = True
                raise ssl.SSLWantWriteError if name == 'tls' else BlockingIOError
            pieces = _cut(pieces, budget)
        size = sum(map(_size, pieces)) if self.swallow else call(pieces)
        if budget is not None:
            self.budget = budget - size
        self.calls.append(Sent(name, pieces))
        return size

    @property
    def names(self) -> List[str]:
        return [call.name for call in self.calls]


def _size(piece: Any) -> int:
    return piece if isinstance(piece, int) else len(piece)


def _cut(pieces: List[Any], limit: int) -> List[Any]:
    result = []
    for piece in pieces:
        size = min(_size(piece), limit)
        limit -= size
        if isinstance(piece, int):
            result.append(size)
        elif size:
            result.append(memoryview(piece)[:size])
    return result
