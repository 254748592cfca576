"""What the tests of the contract share: canned replies, scripted peers, duck-typed TLS."""

import contextlib
import functools
import inspect
import select
import socket
import ssl
import threading
from typing import Any, Callable, List, Optional, Sequence, Tuple, Union

import pytest
from servers import LIMIT, Peer, Request, wait_for_events

import dugong

#: RFC 9110 §5.6.2: the octets of a token.
TOKEN_OCTETS = frozenset(
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def reply(
    body: bytes = b'',
    status: str = '200 OK',
    fields: Union[str, Sequence[str]] = (),
    version: str = '1.1',
) -> bytes:
    """A response with a `Content-Length` and the field lines *fields*."""
    lines = [f'HTTP/{version} {status}', f'Content-Length: {len(body)}']
    lines.extend([fields] if isinstance(fields, str) else fields)
    return '\r\n'.join([*lines, '', '']).encode('latin1') + body


def head(status: str = '200 OK', *fields: str, version: str = '1.1') -> bytes:
    """The head of a response with just the field lines *fields*."""
    return '\r\n'.join([f'HTTP/{version} {status}', *fields, '', '']).encode('latin1')


def chunked(*parts: bytes, trailers: Sequence[str] = (), extension: str = '') -> bytes:
    """A chunked body of the given chunks, terminated."""
    out = b''.join(b'%x%s\r\n%s\r\n' % (len(p), extension.encode(), p) for p in parts)
    out += b'0' + extension.encode() + b'\r\n'
    return out + ''.join(f'{line}\r\n' for line in trailers).encode('latin1') + b'\r\n'


def chunked_reply(*parts: bytes, **options: Any) -> bytes:
    return head('200 OK', 'Transfer-Encoding: chunked') + chunked(*parts, **options)


class Answers:
    """A handler that takes one request for each reply, sends the reply, and keeps the requests.

    With *close* it closes after the last reply, otherwise it waits until the client does. What
    comes after the last request taken is in *rest* once *finished* is set. A client that closes
    in between is none of its business.
    """

    def __init__(self, *replies: bytes, close: bool = False) -> None:
        self.replies = replies
        self.close = close
        self.requests: List[Request] = []
        self.rest = b''
        self.finished = threading.Event()

    def __call__(self, peer: Peer) -> None:
        try:
            for data in self.replies:
                try:
                    request = peer.read_request()
                except (EOFError, ConnectionError):
                    if peer._buffer:
                        raise
                    return
                self.requests.append(request)
                try:
                    peer.send(data)
                except (ConnectionError, ssl.SSLError):
                    return
            if not self.close:
                self.rest = peer.read_to_eof()
        finally:
            self.finished.set()

    def wait(self) -> bytes:
        """Wait for the end of the connection and return *rest*."""
        assert self.finished.wait(LIMIT)
        return self.rest

    @property
    def request(self) -> Request:
        (request,) = self.requests
        return request


def co(coroutine: Any) -> Any:
    """Drive a dugong coroutine to its result."""
    return dugong.eval_coroutine(coroutine, LIMIT)


def get(conn: dugong.HTTPConnection, path: str = '/') -> Tuple[dugong.HTTPResponse, bytes]:
    """One GET: the response and its body."""
    conn.send_request('GET', path)
    response = conn.read_response()
    return response, conn.readall()


def wait_for(conn: dugong.HTTPConnection, events: int = select.POLLIN) -> None:
    """Wait until the kernel reports *events* on the connection; nothing is read."""
    wait_for_events(conn._sock, events)


def wait_broken(conn: dugong.HTTPConnection) -> None:
    """Wait until the kernel knows that the connection was reset."""
    wait_for(conn, 0)


def wait_queued(conn: dugong.HTTPConnection, size: int) -> None:
    """Wait until *size* octets lie unread in the kernel."""
    conn._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    try:
        wait_for(conn)
    finally:
        conn._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def drain(read: Callable[[], bytes], end: bytes = b'', limit: int = 1_000_000) -> bytes:
    """Call *read* until it returns *end*."""
    parts: List[bytes] = []
    for _ in range(limit):
        data = read()
        if data == end:
            return b''.join(parts)
        parts.append(bytes(data))
    raise AssertionError('the body does not end')


def _readall(conn: dugong.HTTPConnection) -> bytes:
    return conn.readall()


def _read_none(conn: dugong.HTTPConnection) -> bytes:
    return conn.read(None)


def _read_pieces(conn: dugong.HTTPConnection) -> bytes:
    return drain(lambda: conn.read(7))


def _readinto(conn: dugong.HTTPConnection) -> bytes:
    buf = bytearray(11)

    def step() -> bytes:
        count = conn.readinto(buf)
        assert 0 <= count <= len(buf)
        return bytes(buf[:count])

    return drain(step)


def _co_readall(conn: dugong.HTTPConnection) -> bytes:
    return bytes(co(conn.co_readall()))


def _co_read(conn: dugong.HTTPConnection) -> bytes:
    return drain(lambda: bytes(co(conn.co_read(13))))


def _co_readinto(conn: dugong.HTTPConnection) -> bytes:
    buf = bytearray(5)
    return drain(lambda: bytes(buf[: co(conn.co_readinto(buf))]))


#: Every way to get at the data of a body.
READERS = {
    'readall': _readall,
    'read(None)': _read_none,
    'read(7)': _read_pieces,
    'readinto': _readinto,
    'co_readall': _co_readall,
    'co_read': _co_read,
    'co_readinto': _co_readinto,
}


def all_readers(function: Callable[..., None]) -> Callable[..., None]:
    """Run a test with each way of reading a body as its argument *reader*, one after the other."""

    @functools.wraps(function)
    def run(**fixtures: Any) -> None:
        for name, reader in READERS.items():
            # Shown if the test fails.
            print('reading with', name)
            function(reader=reader, **fixtures)

    signature = inspect.signature(function)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[p for p in signature.parameters.values() if p.name != 'reader']
    )
    return run


#: Every call that touches a body which is being received.
BODY_CALLS = {
    'read': lambda conn: conn.read(10),
    'read(None)': lambda conn: conn.read(None),
    'readinto': lambda conn: conn.readinto(bytearray(10)),
    'readall': lambda conn: conn.readall(),
    'discard': lambda conn: conn.discard(),
    'co_read': lambda conn: co(conn.co_read(10)),
    'co_readinto': lambda conn: co(conn.co_readinto(bytearray(10))),
    'co_readall': lambda conn: co(conn.co_readall()),
    'co_discard': lambda conn: co(conn.co_discard()),
}


class DuckSocket:
    """What the `wrap_socket` of `DuckContext` returns: it hands all on to the plain socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._plain = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)


class FailingSocket(DuckSocket):
    """Raises *receive_error* and *send_error*, as soon as they are set, instead of working."""

    receive_error: Optional[BaseException] = None
    send_error: Optional[BaseException] = None

    def recv(self, *args: Any) -> bytes:
        if self.receive_error is not None:
            raise self.receive_error
        return self._plain.recv(*args)

    def recv_into(self, *args: Any) -> int:
        if self.receive_error is not None:
            raise self.receive_error
        return self._plain.recv_into(*args)

    def send(self, *args: Any) -> int:
        if self.send_error is not None:
            raise self.send_error
        return self._plain.send(*args)

    def sendall(self, *args: Any) -> None:
        if self.send_error is not None:
            raise self.send_error
        self._plain.sendall(*args)

    def sendmsg(self, *args: Any) -> int:
        if self.send_error is not None:
            raise self.send_error
        return self._plain.sendmsg(*args)


class DuckContext:
    """An `ssl_context` by duck typing, as suites of older versions use it: no TLS at all.

    `wrap_socket` takes just these two arguments. *kind* is the class of what it returns; the
    last one is in *socket*, the names it was called with are in *names*.
    """

    def __init__(self, kind: Callable[[socket.socket], DuckSocket] = DuckSocket) -> None:
        self.kind = kind
        self.names: List[Optional[str]] = []
        self.socket: Any = None

    def wrap_socket(self, socket: socket.socket, server_hostname: Optional[str]) -> DuckSocket:
        self.names.append(server_hostname)
        self.socket = self.kind(socket)
        return self.socket


def unwrap(peer: Peer) -> None:
    """Send close_notify, if this is TLS, so that the end of the connection is a clean one."""
    if isinstance(peer.sock, ssl.SSLSocket):
        # The client need not answer with a close_notify of its own.
        with contextlib.suppress(OSError):
            peer.sock.settimeout(0)
            peer.sock.unwrap()


def resolve_to(monkeypatch: pytest.MonkeyPatch, address: Tuple[str, int]) -> List[Tuple[Any, ...]]:
    """Let every name resolve to *address*; returns the list of what was asked for."""
    asked: List[Tuple[Any, ...]] = []
    family = socket.AF_INET6 if ':' in address[0] else socket.AF_INET

    def getaddrinfo(host: Any, port: Any, *args: Any, **options: Any) -> List[Any]:
        asked.append((host, port))
        return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', address)]

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    return asked
