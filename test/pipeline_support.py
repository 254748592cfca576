"""What the tests of pipelines share: a site whose connections end in chosen ways, a client that
gets everything from it, and a pipeline driven by hand in the same thread as its server.
"""

import contextlib
import itertools
import re
import select
import socket
import ssl
import threading
import zlib
from collections import Counter, deque
from typing import (
    Any,
    Callable,
    Deque,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
)
from typing import (
    Counter as CounterType,
)

import pytest
from servers import LIMIT, Peer, Request

import dugong
from dugong import ConnectionClosed, HTTPConnection, HTTPResponse

#: Methods that may be repeated (RFC 9110, section 9.2.2), and some that may not.
IDEMPOTENT = ('GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'TRACE')
NOT_IDEMPOTENT = ('POST', 'PATCH', 'LOCK', 'get')

#: What the documentation says about requests in flight, in bytes.
MAX_BYTES = 256 * 1024

#: Time limit of the client where the server stalls, in seconds.
SHORT = 0.1

_REQUEST_LINE = re.compile(rb'([A-Za-z]+) (/\S*) HTTP/1\.1\r\n')


# Documents


def document(target: str) -> bytes:
    """The document at *target*: of a size of its own, and no part of it like another's."""
    size = zlib.crc32(target.encode()) % 900
    return (f'<{target}>'.encode() * (1 + size // (len(target) + 2)))[: size + len(target) + 2]


def expected(method: str, target: str, body: bytes) -> bytes:
    """Body of the answer to a request."""
    if method == 'HEAD':
        return b''
    if method == 'GET':
        return document(target)
    return f'{method} {target} {len(body)} {zlib.crc32(body)}'.encode()


def encoded(request: Request, close: bool = False, form: str = '') -> bytes:
    """The answer to *request* as it is sent, framed in the way *form*."""
    method, target = request.method, request.target
    body = expected(method, target, request.body)
    number = int(re.sub(r'\D', '', target) or 0)
    fields = ['Connection: close'] if close or form == 'eof' else []
    if form == 'eof':
        pass
    elif method == 'HEAD':
        fields.append('Content-Length: 12345')
    elif number % 4 == 1 or form == 'chunked':
        fields.append('Transfer-Encoding: chunked')
        middle = len(body) // 2
        parts = [part for part in (body[:middle], body[middle:]) if part]
        body = b''.join(b'%x\r\n%b\r\n' % (len(part), part) for part in parts) + b'0\r\n\r\n'
    else:
        fields.append(f'Content-Length: {len(body)}')
    interim = 'HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\n' if number % 9 == 2 else ''
    head = '\r\n'.join([f'{interim}HTTP/1.1 200 OK', *fields, '', ''])
    return head.encode() + body


def mixture(count: int, start: int = 0) -> Iterator[Any]:
    """Requests of every shape; one in ten is not idempotent. No body ends with a letter."""
    for number in range(start, start + count):
        kind = number % 10
        if kind == 3:
            yield 'PUT', f'/{number}', {'Content-Type': 'text/plain'}, b'%d' % number
        elif kind == 5:
            yield 'HEAD', f'/{number}'
        elif kind == 6:
            yield 'POST', f'/{number}', None, b'1234' * number
        elif kind == 8:
            yield ['GET', f'/{number}', {'X-Number': number}]
        elif kind == 9:
            yield 'DELETE', f'/{number}', {}
        else:
            yield f'/{number}'


def parts(given: Any) -> Tuple[str, str, bytes]:
    """Method, path and body of a request as it was given to `pipeline`."""
    if isinstance(given, str):
        return 'GET', given, b''
    method, path, _, body = (*given, None, None)[:4]
    return method, path, bytes(body or b'')


def check(response: HTTPResponse, given: Any, body: Optional[bytes] = None) -> None:
    """Check that *response* is the answer to the request *given*."""
    method, path, sent = parts(given)
    assert (response.method, response.path, response.status) == (method, path, 200)
    assert (response.body if body is None else body) == expected(method, path, sent)


# Server


class Life(NamedTuple):
    """What happens on a connection: *answers* whole answers, *cut* bytes of one more, *end*.

    The ends are:

    - `fin`: send FIN, but read on;
    - `close`: close, which sends RST if something was not read;
    - `notify`: like `close`, over TLS after a close_notify;
    - `announce`: the last whole answer says `Connection: close`;
    - `eof`: all answers say so, and end with the connection;
    - `reset`: send RST;
    - `stall`: send nothing more;
    - `blue`: send an answer nobody asked for together with the last whole one.
    """

    answers: int = 1 << 30
    end: str = 'fin'
    cut: Optional[int] = None


class Site:
    """Offers the documents, and counts what arrives.

    `arrived` holds method and target of all requests of which the request line has arrived, by
    connection. `handler(lives)` is for a `ScriptedServer`: each connection has the next one of
    *lives*; after them it goes on for ever.
    """

    def __init__(self) -> None:
        self.arrived: List[List[Tuple[str, str]]] = []
        self._active = 0
        self._changed = threading.Condition()

    def handler(self, lives: Iterable[Life] = ()) -> Callable[[Peer], None]:
        iterator = iter(lives)

        def handle(peer: Peer) -> None:
            life = next(iterator, Life())
            arrived: List[Tuple[str, str]] = []
            self.arrived.append(arrived)
            with self._changed:
                self._active += 1
            try:
                # The client may leave at any time.
                with contextlib.suppress(EOFError, OSError):
                    self._serve(peer, life, arrived)
            finally:
                with self._changed:
                    self._active -= 1
                    self._changed.notify_all()

        return handle

    def _serve(self, peer: Peer, life: Life, arrived: List[Tuple[str, str]]) -> None:
        def read() -> Request:
            request = peer.read_head()
            arrived.append((request.method, request.target))
            return peer.read_body(request)

        for index in range(life.answers):
            request = read()
            last = index == life.answers - 1
            answer = encoded(request, last and life.end == 'announce', life.end)
            if last and life.end == 'blue':
                answer += b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue'
            peer.send(answer)
        if life.cut is not None:
            answer = encoded(read())
            peer.send(answer[: max(0, min(life.cut, len(answer) - 1))])
        if life.end == 'reset':
            peer.reset()
        elif life.end in ('close', 'notify', 'eof'):
            if life.end == 'notify' and isinstance(peer.sock, ssl.SSLSocket):
                peer.sock.settimeout(0)
                # It does not wait for that of the client.
                with contextlib.suppress(ssl.SSLError):
                    peer.sock.unwrap()
            peer.close()
        else:
            if life.end in ('fin', 'announce'):
                # Not the method of SSLSocket, which would go on in plain text.
                socket.socket.shutdown(peer.sock, socket.SHUT_WR)
            rest = peer.read_to_eof()
            arrived.extend(
                (method.decode(), target.decode())
                for method, target in _REQUEST_LINE.findall(rest)
            )

    def settle(self, conn: HTTPConnection) -> None:
        """Disconnect *conn*, and wait until all that was sent has been counted."""
        conn.disconnect()
        with self._changed:
            assert self._changed.wait_for(lambda: not self._active, LIMIT)

    @property
    def counts(self) -> CounterType[Tuple[str, str]]:
        """How often each request arrived."""
        return Counter(itertools.chain.from_iterable(self.arrived))

    def check_not_repeated(self) -> None:
        """Check that no request arrived twice that must not."""
        repeated = {
            key for key, count in self.counts.items() if count > 1 and key[0] not in IDEMPOTENT
        }
        assert not repeated


# Client


class Fetched(NamedTuple):
    """What `fetch` did: number of answers, and the requests that must not be repeated."""

    answers: int
    uncertain: List[Any]
    sent: int
    connections: int


def fetch(
    conn: HTTPConnection,
    requests: Iterable[Any],
    read: Optional[Callable[[HTTPConnection], bytes]] = None,
    **options: Any,
) -> Fetched:
    """Get the answers to all *requests*, and check each.

    Goes on with a new pipeline, and without the uncertain request, after an error that is about
    one. With *read* the pipeline streams; *read* then reads the whole body.
    """
    taken: Deque[Any] = deque()

    def taking() -> Iterator[Any]:
        for given in requests:
            taken.append(given)
            yield given

    fresh = taking()
    todo: Iterable[Any] = fresh
    answers = sent = connections = 0
    uncertain: List[Any] = []
    while True:
        pipeline = conn.pipeline(todo, stream=read is not None, **options)
        try:
            for response in pipeline:
                check(response, taken.popleft(), read and read(conn))
                answers += 1
                assert pipeline.unanswered == list(taken)
            assert not taken
            break
        except ConnectionClosed as exc:
            remaining = pipeline.unanswered
            assert remaining == list(taken)
            if not pipeline.uncertain:
                raise
            assert pipeline.uncertain == remaining[:1]
            method, path, _ = parts(taken.popleft())
            assert f'{method} {path}' in str(exc)
            uncertain += pipeline.uncertain
            assert next(pipeline, None) is None
            conn.reset()
            todo = itertools.chain(remaining[1:], fresh)
        finally:
            sent += pipeline.sent
            connections += pipeline.connections
    return Fetched(answers, uncertain, sent, connections)


class CountingSockets:
    """Stands in for `dugong.create_socket`: counts the calls, and prepares each socket."""

    def __init__(self, prepare: Callable[[socket.socket], None] = lambda sock: None) -> None:
        self.count = 0
        self._prepare = prepare

    def __call__(self, address: Tuple[str, int]) -> socket.socket:
        self.count += 1
        sock = socket.socket()
        try:
            self._prepare(sock)
            sock.settimeout(LIMIT)
            sock.connect(address)
        except BaseException:
            sock.close()
            raise
        return sock

    @classmethod
    def install(cls, monkeypatch: pytest.MonkeyPatch, **options: Any) -> 'CountingSockets':
        sockets = cls(**options)
        monkeypatch.setattr(dugong, 'create_socket', sockets)
        return sockets


def shrink(sock: socket.socket) -> None:
    """Give *sock* small buffers, and segments so small that some fit in."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 500)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)


# Both ends in one thread


class HandPeer(Peer):
    """The server's end of a connection where each byte that was sent has arrived.

    `sent` is the number of bytes sent from here.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.sent = 0

    def send(self, data: bytes) -> None:
        super().send(data)
        self.sent += len(data)

    def arrived(self) -> bytes:
        """Take what has arrived, without waiting."""
        while select.select([self.sock], [], [], 0)[0]:
            if not self._receive():
                break
        data, self._buffer = self._buffer, b''
        return data

    def lines(self) -> List[str]:
        """Take what has arrived, without waiting, and return the request lines."""
        found = _REQUEST_LINE.findall(self.arrived())
        return [f'{method.decode()} {target.decode()}' for method, target in found]

    def answer(self, *targets: str, close: bool = False) -> None:
        """Answer GET requests for *targets*."""
        for target in targets:
            fields = ['Connection: close'] if close else []
            self.respond(document(target), fields=fields)

    def has_eof(self) -> bool:
        """Whether the client has closed. What else has arrived is thrown away."""
        try:
            self.arrived()
            return bool(select.select([self.sock], [], [], 0)[0])
        except ConnectionError:
            return True


class ByHand:
    """A pipeline to a server that the test plays itself, in the same thread.

    `run` lets the client go on until it has to wait. Everything has arrived then on the other
    side, as loopback delivers at once, and nothing happens before the test does it.
    """

    WAITS = 'waits'

    def __init__(self, requests: Iterable[Any], **options: Any) -> None:
        self.listener = socket.create_server(('127.0.0.1', 0), backlog=16)
        self.peers: List[HandPeer] = []
        self.conn = HTTPConnection(*self.listener.getsockname())
        self.pipeline = self.conn.co_pipeline(requests, **options)
        self._step: Any = None

    def run(self) -> Any:
        """Go on; returns a response, `None` at the end, or `WAITS`."""
        if self._step is None:
            self._step = self.pipeline.co_next()
        try:
            while next(self._step).poll(0):
                pass
        except StopIteration as exc:
            self._step = None
            return exc.value
        except BaseException:
            self._step = None
            raise
        return self.WAITS

    def waits(self) -> None:
        """Go on until it waits."""
        assert self.run() == self.WAITS

    def gets(self, *targets: str) -> None:
        """Go on and check that the next responses are for *targets*."""
        for target in targets:
            response = self.run()
            assert isinstance(response, HTTPResponse), response
            check(response, target)

    def interrupt(self, exc: Optional[BaseException] = None) -> None:
        """Stop the step that waits: throw *exc* into it, or close it."""
        step, self._step = self._step, None
        if exc is None:
            step.close()
        else:
            with pytest.raises(type(exc)):
                step.throw(exc)

    def accept(self) -> HandPeer:
        """The server's end of the next connection."""
        self.listener.settimeout(LIMIT)
        sock, _ = self.listener.accept()
        sock.settimeout(LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = HandPeer(sock)
        self.peers.append(peer)
        return peer

    def assert_no_connection(self) -> None:
        """Check that no further connection has been made."""
        assert not select.select([self.listener], [], [], 0)[0]

    def __enter__(self) -> 'ByHand':
        return self

    def __exit__(self, *_: object) -> None:
        if self._step is not None:
            self._step.close()
        self.conn.disconnect()
        for peer in self.peers:
            peer.sock.close()
        self.listener.close()
