"""A corpus of exchanges, and a server that goes wrong at a chosen byte of them."""

import contextlib
import itertools
import os
import queue
import socket
import ssl
import threading
from typing import Any, Callable, Generator, Iterator, List, NamedTuple, Optional, Tuple, Union

from servers import LIMIT, Peer, ScriptedServer
from wire_support import FORMS, SERVER_FAULTS

import dugong
from dugong import BodyFollowing, ConnectionClosed, ConnectionTimedOut, HTTPConnection

#: Try every combination instead of a selection (minutes instead of seconds).
FULL = bool(os.environ.get('DUGONG_TEST_FULL'))

#: Time limit of the client where the server stalls.
SHORT = 0.05

#: What the client reads with. `read_none` is `readall` by another name.
READERS = [name for name in FORMS if name != 'read_none']
STYLES = ['blocking', 'coroutine']


class Cut(Exception):
    """The chosen byte has been reached."""


class Fault(NamedTuple):
    """What goes wrong.

    *kind*: `fin`, `reset` and `stall` happen after *sent* bytes were sent or *received* bytes
    were received; `notify` is `fin` after a close_notify; `extra` sends a NUL after *sent* bytes
    and goes on. With *wire*, what counts is the bytes on the wire, ciphertext for TLS.
    """

    kind: str = 'fin'
    sent: Optional[int] = None
    received: Optional[int] = None
    wire: bool = False


class Meter:
    """Counts the bytes of one connection down to those at which the fault happens."""

    def __init__(self, fault: Fault) -> None:
        self.kind = fault.kind
        self.sent = fault.sent
        self.received = fault.received


class MeteredSocket:
    """`recv` and `sendall` of a socket, or of something like it, with a fault."""

    def __init__(self, sock: Any, meter: Meter) -> None:
        self._sock = sock
        self._meter = meter

    def recv(self, size: int) -> bytes:
        meter = self._meter
        if meter.received is None:
            return self._sock.recv(size)
        if not meter.received:
            raise Cut
        data = self._sock.recv(min(size, meter.received))
        meter.received -= len(data)
        return data

    def sendall(self, data: bytes) -> None:
        meter = self._meter
        if meter.sent is None or len(data) < meter.sent:
            self._sock.sendall(data)
            if meter.sent is not None:
                meter.sent -= len(data)
        elif meter.kind == 'extra':
            self._sock.sendall(data[: meter.sent] + b'\0' + data[meter.sent :])
            meter.sent = None
        else:
            if meter.sent:
                self._sock.sendall(data[: meter.sent])
            raise Cut


class TlsSocket:
    """The server's side of TLS on top of anything with `recv` and `sendall`."""

    def __init__(self, sock: Any, context: ssl.SSLContext) -> None:
        self._sock = sock
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._run(self._tls.do_handshake)

    def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                result = function(*args)
            except ssl.SSLWantReadError:
                self._flush()
                data = self._sock.recv(65536)
                if data:
                    self._incoming.write(data)
                else:
                    self._incoming.write_eof()
            else:
                self._flush()
                return result

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._sock.sendall(self._outgoing.read())

    def recv(self, size: int) -> bytes:
        try:
            return self._run(self._tls.read, size)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b''

    def sendall(self, data: bytes) -> None:
        self._run(self._tls.write, data)

    def notify(self) -> None:
        """Send close_notify."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()


class FaultyPeer(Peer):
    """The server's end of a connection with a *fault*; TLS with *context* from the beginning."""

    def __init__(
        self, sock: socket.socket, fault: Fault, context: ssl.SSLContext, tls: bool
    ) -> None:
        self._raw = sock
        self._fault = fault
        self._meter = Meter(fault)
        self._context = context
        self._tls: Optional[TlsSocket] = None
        super().__init__(MeteredSocket(sock, self._meter))
        if tls:
            self.start_tls()

    def start_tls(self) -> None:
        if self._fault.wire:
            self.sock = self._tls = TlsSocket(self.sock, self._context)
        else:
            self._tls = TlsSocket(self._raw, self._context)
            self.sock = MeteredSocket(self._tls, self._meter)

    def fail(self) -> None:
        """End the connection in the way of the fault."""
        if self._fault.kind == 'reset':
            Peer(self._raw).reset()
            return
        if self._fault.kind == 'notify' and self._tls is not None:
            self._tls.notify()
        if self._fault.kind != 'stall':
            self._raw.shutdown(socket.SHUT_WR)
        # The client ends it. Closing earlier would make the kernel send a reset.
        while self._raw.recv(65536):
            pass


class Reply(NamedTuple):
    """Bytes that the server sends, and the body of the response that they are.

    *body* is `None` if the caller does not get to see it.
    """

    data: bytes
    body: Optional[bytes] = None


class Client:
    """Reads answers in one *form*, by blocking methods or by coroutines, whatever the *style*.

    `answers` are the complete bodies, `partial` is what came of one that was not.
    """

    def __init__(self, conn: HTTPConnection, form: str, style: str) -> None:
        self._conn = conn
        self._form = form
        self._style = style
        self.answers: List[bytes] = []
        self.partial = b''

    def __getattr__(self, name: str) -> Any:
        """The method `co_x`, which runs the method `x` if that is the style."""
        if self._style == 'coroutine':
            return getattr(self._conn, name)

        def run(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
            return getattr(self._conn, name[len('co_') :])(*args, **options)
            yield

        return run

    def read_answer(self) -> Generator[Any, Any, None]:
        yield from self.co_read_response()
        data = bytearray()
        try:
            yield from FORMS[self._form](self, data)
        except BaseException:
            self.partial = bytes(data)
            raise
        self.answers.append(bytes(data))

    def run(self, talk: Generator[Any, Any, None]) -> None:
        timeout = None if self._style == 'blocking' else self._conn.timeout
        dugong.eval_coroutine(talk, timeout)


class Exchange(NamedTuple):
    """What server and client do on one connection.

    The server's *steps* are things to do with the peer, and replies; replies in a row leave in
    one segment. *talk* is the client's side.
    """

    name: str
    steps: List[Union[Callable[[Any], Any], Reply]]
    talk: Callable[[Client], Generator[Any, Any, None]]
    until_close: bool = False
    only: Optional[str] = None

    @property
    def replies(self) -> List[Reply]:
        return [step for step in self.steps if isinstance(step, Reply)]

    @property
    def bodies(self) -> List[bytes]:
        """What the client gets."""
        return [reply.body for reply in self.replies if reply.body is not None]

    @property
    def spans(self) -> List[Tuple[int, int]]:
        """Where the answers begin and end in what the server sends."""
        result = []
        end = 0
        for reply in self.replies:
            begin, end = end, end + len(reply.data)
            if reply.body is not None:
                result.append((begin, end))
        return result

    @property
    def size(self) -> int:
        """Bytes that the server sends."""
        return sum(len(reply.data) for reply in self.replies)

    def serve(self, peer: FaultyPeer) -> None:
        pending = b''
        for step in self.steps:
            if isinstance(step, Reply):
                pending += step.data
                continue
            if pending:
                peer.send(pending)
                pending = b''
            step(peer)
        peer.send(pending)


OK = b'HTTP/1.1 200 OK\r\n'
EMPTY = Reply(b'HTTP/1.1 204 No\r\n\r\n', b'')
LENGTH = Reply(OK + b'Content-Length: 9\r\n\r\nsome body', b'some body')
CHUNKED = Reply(
    OK + b'Transfer-Encoding: chunked\r\n\r\n5;x="y"\r\nsome \r\n4\r\nbody\r\n0\r\nA: b\r\n\r\n',
    b'some body',
)
UNTIL_CLOSE = Reply(OK + b'Connection: close\r\n\r\nsome body', b'some body')
LAST = Reply(OK + b'Content-Length: 4\r\nConnection: close\r\n\r\nlast', b'last')
CONTINUE = Reply(b'HTTP/1.1 100 Continue\r\n\r\n', b'')
INTERIM = b'HTTP/1.1 102 Wait\r\nA: b\r\n\r\n'


def get(client: Client) -> Generator[Any, Any, None]:
    yield from client.co_send_request('GET', '/')
    yield from client.read_answer()


def get_twice(client: Client) -> Generator[Any, Any, None]:
    yield from get(client)
    yield from get(client)


def get_pipelined(client: Client) -> Generator[Any, Any, None]:
    for _ in range(3):
        yield from client.co_send_request('GET', '/')
    for _ in range(3):
        yield from client.read_answer()


def post(client: Client) -> Generator[Any, Any, None]:
    yield from client.co_send_request('POST', '/', body=b'data')
    yield from client.read_answer()


def put_after_100(client: Client) -> Generator[Any, Any, None]:
    yield from client.co_send_request('PUT', '/', body=BodyFollowing(4), expect100=True)
    yield from client.read_answer()
    yield from client.co_write(b'da')
    yield from client.co_write(b'ta')
    yield from client.read_answer()


EXCHANGES = [
    Exchange('length', [Peer.read_request, LENGTH], get),
    Exchange('chunked', [Peer.read_request, CHUNKED], get),
    Exchange('until close', [Peer.read_request, UNTIL_CLOSE], get, until_close=True),
    Exchange('upload', [Peer.read_request, Reply(INTERIM + LENGTH.data, LENGTH.body)], post),
    Exchange(
        '100-continue',
        [Peer.read_head, CONTINUE, lambda peer: peer.read_exactly(4), LENGTH],
        put_after_100,
    ),
    Exchange('sequential', [Peer.read_request, CHUNKED, Peer.read_request, LAST], get_twice),
    Exchange('pipelined', [*[Peer.read_request] * 3, LENGTH, CHUNKED, EMPTY], get_pipelined),
    Exchange(
        'CONNECT',
        [
            Peer.read_head,
            Reply(b'HTTP/1.1 200 Connected\r\nA: b\r\n\r\n'),
            FaultyPeer.start_tls,
            Peer.read_request,
            LENGTH,
        ],
        get,
        only='proxy',
    ),
]

AGAIN = Exchange('again', [Peer.read_request, Reply(LENGTH.data, LENGTH.body)], get)


class FaultServer:
    """Serves one exchange with one fault per connection."""

    def __init__(self, context: ssl.SSLContext, transport: str) -> None:
        self._context = context
        self._tls = transport == 'tls'
        self._proxy = transport == 'proxy'
        self._plans: queue.SimpleQueue[Tuple[Exchange, Fault]] = queue.SimpleQueue()
        self._started = threading.Semaphore(0)
        self.server = ScriptedServer(self._handle)

    def plan(self, exchange: Exchange, fault: Fault) -> None:
        """Say what the next connection will be."""
        self._plans.put((exchange, fault))

    def wait_until_started(self) -> None:
        """Wait until the connection for the last plan has arrived.

        A client that gives up early could otherwise be overtaken by the next connection.
        """
        assert self._started.acquire(timeout=LIMIT)

    def _handle(self, plain: Peer) -> None:
        exchange, fault = self._plans.get(timeout=LIMIT)
        self._started.release()
        peer: Optional[FaultyPeer] = None
        # The client may hang up at any time, or refuse what is sent.
        with contextlib.suppress(OSError, EOFError):
            try:
                peer = FaultyPeer(plain.sock, fault, self._context, self._tls)
                exchange.serve(peer)
            except Cut:
                pass
            if peer is None:
                # It happened during the handshake.
                peer = FaultyPeer(plain.sock, fault, self._context, False)
            peer.fail()

    def __enter__(self) -> 'FaultServer':
        return self

    def __exit__(self, *exc_info: Any) -> None:
        self.server.__exit__(*exc_info)

    def connection(self, client_context: Any) -> HTTPConnection:
        host, port = self.server.address
        if self._proxy:
            return HTTPConnection('localhost', 443, client_context, proxy=(host, port))
        return HTTPConnection(host, port, client_context)


class Case(NamedTuple):
    exchange: Exchange
    fault: Fault
    form: str
    style: str


def run_case(server: FaultServer, conn: HTTPConnection, case: Case) -> None:
    """Run one case, judge the outcome, and see whether the connection works after a reset."""
    client = Client(conn, case.form, case.style)
    # With an octet too many, both sides may come to wait for the other one.
    conn.timeout = {'stall': SHORT, 'extra': 4 * SHORT}.get(case.fault.kind, LIMIT)
    server.plan(case.exchange, case.fault)
    error: Optional[BaseException] = None
    try:
        client.run(case.exchange.talk(client))
    except (*SERVER_FAULTS, ConnectionTimedOut) as exc:
        error = exc
    except ssl.SSLError as exc:
        # Only an octet that is out of place in the TLS protocol may come out as one.
        if case.fault.kind != 'extra':
            raise
        error = exc
    except ConnectionResetError as exc:
        # Nothing has been connected then.
        if case.fault.kind != 'reset' or 0 not in (case.fault.sent, case.fault.received):
            raise
        error = ConnectionClosed(str(exc))
    judge(case, client, error)
    server.wait_until_started()
    conn.reset()
    conn.timeout = LIMIT
    # Through the proxy it takes that exchange to get anywhere.
    again = case.exchange if case.exchange.only else AGAIN
    server.plan(again, Fault())
    client = Client(conn, 'readall', case.style)
    client.run(again.talk(client))
    assert client.answers == again.bodies
    server.wait_until_started()
    conn.reset()


def judge(case: Case, client: Client, error: Optional[BaseException]) -> None:
    """Check that what the client got is right, and if it is not all, that it was told so."""
    exchange, fault, form, _ = case
    expected = exchange.bodies
    count = len(client.answers)
    if count < len(expected):
        kinds: Tuple[type, ...] = (ConnectionClosed,)
        if fault.kind == 'stall':
            kinds = (ConnectionTimedOut,)
        elif fault.kind == 'extra':
            kinds = (*SERVER_FAULTS, ConnectionTimedOut, ssl.SSLError)
        assert isinstance(error, kinds)
    else:
        assert error is None
    if form == 'discard':
        assert client.answers == [b''] * count
    elif fault.kind == 'extra':
        judge_extra(case, client)
    elif exchange.until_close and fault.kind in ('fin', 'notify'):
        # Nobody can know that more would have come.
        assert expected[0].startswith(b''.join(client.answers))
    else:
        assert client.answers == expected[:count]
        assert b''.join(expected[count : count + 1]).startswith(client.partial)
    if exchange.until_close and fault.kind == 'reset':
        assert error is not None, 'a reset is no end of a body'
    if fault.kind in ('fin', 'notify') and fault.sent is not None and not fault.wire:
        # What was sent completely before such an end has arrived, and nothing else.
        ends = [end for _, end in exchange.spans]
        if exchange.until_close:
            ends = [ends[0] - len(expected[0])]
        assert count == sum(end <= fault.sent for end in ends)


def judge_extra(case: Case, client: Client) -> None:
    """An octet too many must not damage more than the body it is in."""
    exchange, fault, _, _ = case
    for (begin, end), body, answer in zip(exchange.spans, exchange.bodies, client.answers):
        # What comes at the end of a body is only part of it if nothing else ends it.
        if fault.wire or not begin <= fault.sent < end + exchange.until_close:
            assert answer == body
        else:
            # In a body it is data; of a body of known length, the last octet is then beyond the
            # end, which is noticed when the next answer is read.
            longer = [body[:i] + b'\0' + body[i:] for i in range(len(body) + 1)]
            assert answer in [b[: None if exchange.until_close else len(body)] for b in longer]
            assert client.answers[-1] is answer


class TrickleSocket:
    """A socket that takes and gives one byte at a time, each time after having refused once."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._refuse = itertools.cycle([True, False])

    def recv_into(self, view: memoryview) -> int:
        if next(self._refuse):
            raise BlockingIOError
        return self._sock.recv_into(view[:1])

    def send(self, data: Any) -> int:
        if next(self._refuse):
            raise BlockingIOError
        return self._sock.send(memoryview(data)[:1])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class TrickleContext:
    """Stands in for a TLS context, and puts a `TrickleSocket` on top of the socket."""

    def wrap_socket(self, sock: Any, **_: Any) -> TrickleSocket:
        return TrickleSocket(sock)


class TrickleSSLSocket(ssl.SSLSocket):
    """The same for TLS: one byte in each record sent, one byte received at a time."""

    def recv_into(self, buffer: Any, nbytes: Any = None, flags: int = 0) -> int:
        return super().recv_into(memoryview(buffer)[:1], None, flags)

    def send(self, data: Any, flags: int = 0) -> int:
        return super().send(memoryview(data)[:1], flags)


def offsets(size: int, step: int) -> Iterator[int]:
    """0 to *size*: all of them, or with a *step*, those at the ends among them."""
    if FULL:
        step = 1
    yield from range(0, size, step)
    yield size
