"""Servers and networks that fail at every byte, and faults of the machine itself.

The outcome is the right data or one of our exceptions, in time, and after `reset()` the next
request works. By default each place is tried with one way of reading, and the places of a few
kinds of fault are sampled; with the environment variable DUGONG_TEST_FULL=1 it is all of them.
"""

import contextlib
import itertools
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List

import pytest
from faults_support import (
    AGAIN,
    CHUNKED,
    EXCHANGES,
    FULL,
    LENGTH,
    READERS,
    STYLES,
    Case,
    Client,
    Exchange,
    Fault,
    FaultServer,
    TrickleContext,
    TrickleSSLSocket,
    get,
    offsets,
    run_case,
)
from servers import LIMIT, Peer

import dugong
from dugong import ConnectionClosed, ConnectionTimedOut

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600 if FULL else 120)]

#: Every way of reading, in an order in which neighbours differ.
WAYS = list(itertools.product(READERS, STYLES))

#: Each exchange, plain and over TLS where that makes sense.
CORPUS = [
    (transport, exchange)
    for transport in ('plain', 'tls', 'proxy')
    for exchange in EXCHANGES
    if exchange.only == transport or (exchange.only is None and transport != 'proxy')
]


def corpus(*kinds: str) -> Any:
    """Parametrise with each exchange and each of *kinds* of fault that makes sense there."""
    return pytest.mark.parametrize(
        ('kind', 'transport', 'exchange'),
        [
            pytest.param(kind, transport, exchange, id=f'{kind}-{transport}-{exchange.name}')
            for kind in kinds
            for transport, exchange in CORPUS
            # There is no close_notify without TLS.
            if kind != 'notify' or transport != 'plain'
        ],
    )


def run_all(
    certificates: Any, transport: str, exchange: Exchange, faults: Iterable[Fault]
) -> None:
    """Run *exchange* with each of *faults*, and report which one failed."""
    ways = itertools.cycle(WAYS)
    with FaultServer(certificates.server_context, transport) as server:
        context = None if transport == 'plain' else certificates.client_context
        with server.connection(context) as conn:
            for fault in faults:
                for form, style in WAYS if FULL else [next(ways)]:
                    case = Case(exchange, fault, form, style)
                    try:
                        run_case(server, conn, case)
                    except Exception as exc:
                        raise AssertionError(f'{fault}, {style} {form}: {exc!r}') from exc


@corpus('fin', 'notify', 'reset', 'extra')
def test_at_every_byte_of_the_answers(certificates, kind, transport, exchange):
    step = 3 if kind == 'notify' else 1
    faults = [Fault(kind, sent=at) for at in offsets(exchange.size, step)]
    run_all(certificates, transport, exchange, faults)


@corpus('fin', 'reset')
def test_at_every_byte_of_the_requests(certificates, kind, transport, exchange):
    # About the size of all requests; a server that asks for more answers.
    size = 130 * len(exchange.bodies)
    faults = [Fault(kind, received=at) for at in offsets(size, 29)]
    run_all(certificates, transport, exchange, faults)


@corpus('stall')
def test_stalls(certificates, kind, transport, exchange):
    step = exchange.size // 4
    faults = [Fault(kind, sent=at) for at in offsets(exchange.size, step)]
    faults += [Fault(kind, received=at) for at in offsets(130, 65)]
    run_all(certificates, transport, exchange, faults)


@pytest.mark.parametrize('kind', ['fin', 'reset', 'stall', 'extra'])
def test_at_every_byte_of_tls_itself(certificates, kind):
    """In the handshake, and in the middle of records."""
    exchange = next(e for e in EXCHANGES if e.name == 'sequential')
    step = 397 if kind == 'stall' else 23
    faults = [Fault(kind, sent=at, wire=True) for at in offsets(2500, step)]
    run_all(certificates, 'tls', exchange, faults)


# --- signals ---


@pytest.fixture
def signals() -> Iterator[threading.Semaphore]:
    """A storm of signals whose handler, in the main thread, counts them with a semaphore."""
    handled = threading.Semaphore(0)
    over = threading.Event()
    main = threading.main_thread().ident

    def storm() -> None:
        while not over.wait(0.001):
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.release())
    thread = threading.Thread(target=storm)
    thread.start()
    yield handled
    over.set()
    thread.join(LIMIT)
    signal.signal(signal.SIGUSR1, before)


class SignalledPeer(Peer):
    """Sends, and receives what is large, only while the client handles signals."""

    def __init__(self, sock: Any, signals: threading.Semaphore) -> None:
        super().__init__(sock)
        self._signals = signals

    def send(self, data: bytes) -> None:
        for i in range(len(data)):
            assert self._signals.acquire(timeout=LIMIT)
            super().send(data[i : i + 1])

    def read_exactly(self, size: int) -> bytes:
        for _ in range(5):
            assert self._signals.acquire(timeout=LIMIT)
        return super().read_exactly(size)


@pytest.mark.parametrize('style', STYLES)
def test_signals_during_waits_change_nothing(connect, signals, transport, style):
    forms = itertools.cycle(READERS)
    for exchange in EXCHANGES:
        if exchange.only:
            continue
        conn = connect(lambda peer, e=exchange: e.serve(SignalledPeer(peer.sock, signals)))
        form = next(forms)
        client = Client(conn, form, style)
        client.run(exchange.talk(client))
        assert (
            client.answers
            == ([b''] * 9 if form == 'discard' else exchange.bodies)[: len(exchange.bodies)]
        )


@pytest.mark.parametrize('style', STYLES)
def test_signals_while_sending_change_nothing(connect, signals, transport, style):
    body = bytes(range(256)) * (1 << 14)

    def handler(peer: Peer) -> None:
        request = SignalledPeer(peer.sock, signals).read_request()
        peer.respond(str(request.body == body).encode())

    client = Client(connect(handler), 'readall', style)

    def talk() -> Iterator[Any]:
        yield from client.co_send_request('PUT', '/', body=body)
        yield from client.read_answer()

    client.run(talk())
    assert client.answers == [b'True']


@pytest.mark.parametrize('style', STYLES)
def test_signals_do_not_change_a_time_limit(connect, signals, transport, style):
    conn = connect(Peer.read_to_eof)
    conn.connect()
    conn.timeout = 0.2
    client = Client(conn, 'readall', style)
    start = time.monotonic()
    with pytest.raises(ConnectionTimedOut):
        client.run(get(client))
    assert 0.2 <= time.monotonic() - start < 5


# --- a socket that takes one byte at a time ---


@pytest.mark.parametrize('transport', ['plain', 'tls'])
@pytest.mark.parametrize('style', STYLES)
def test_one_byte_at_a_time(certificates, transport, style):
    """`send` takes one byte, receiving gives one, and in between they refuse."""
    context: Any = TrickleContext()
    if transport == 'tls':
        context = ssl.create_default_context()
        certificates.authority.configure_trust(context)
        context.sslsocket_class = TrickleSSLSocket
    with FaultServer(certificates.server_context, transport) as server, server.connection(
        context
    ) as conn:
        conn.timeout = LIMIT
        for exchange, form in itertools.product(EXCHANGES, READERS):
            if exchange.only:
                continue
            server.plan(exchange, Fault())
            client = Client(conn, form, style)
            client.run(exchange.talk(client))
            if form != 'discard':
                assert client.answers == exchange.bodies
            conn.reset()


@pytest.mark.parametrize('style', STYLES)
def test_one_byte_at_a_time_with_a_buffer_of_63_bytes(certificates, style):
    with FaultServer(certificates.server_context, 'plain') as server:
        for exchange, form in itertools.product(EXCHANGES, READERS):
            if exchange.only:
                continue
            with server.connection(TrickleContext()) as conn:
                conn._rbuf = dugong._Buffer(63)
                conn.timeout = LIMIT
                server.plan(exchange, Fault())
                client = Client(conn, form, style)
                client.run(exchange.talk(client))
                if form != 'discard':
                    assert client.answers == exchange.bodies


# --- the socket is closed behind the back of the library ---

OPERATIONS = {
    'read_response': lambda conn: conn.read_response(),
    'read': lambda conn: [conn.read_response(), conn.read(5), conn.read(5)],
    'readinto': lambda conn: [conn.read_response(), conn.read(5), conn.readinto(bytearray(5))],
    'readall': lambda conn: [conn.read_response(), conn.readall()],
    'discard': lambda conn: [conn.read_response(), conn.discard()],
    'send_request': lambda conn: conn.send_request('PUT', '/', body=bytes(16 << 20)),
}


def unresponsive(operation: str, reached: threading.Event) -> Callable[[Peer], None]:
    """Answer incompletely; *reached* is set when the client cannot get any further."""

    def handler(peer: Peer) -> None:
        peer.read_request()
        if operation != 'read_response':
            peer.send(LENGTH.data[:-4])
        if operation == 'send_request':
            # It does not read what else comes.
            assert peer.sock.recv(1) == b'P'
        reached.set()
        with contextlib.suppress(OSError):
            peer.read_to_eof()

    return handler


CLOSINGS = {
    # Not the method of SSLSocket, after which that one would go on in plain text.
    'shutdown': lambda conn: socket.socket.shutdown(conn._sock, socket.SHUT_RDWR),
    'close': lambda conn: conn._sock.close(),
    'disconnect': lambda conn: conn.disconnect(),
}


@pytest.mark.parametrize(
    ('operation', 'closing'),
    # Nothing would end the wait of a send whose descriptor is closed.
    sorted(set(itertools.product(OPERATIONS, CLOSINGS)) - {('send_request', 'close')}),
)
def test_the_socket_is_closed_by_another_thread(connect, transport, operation, closing):
    reached = threading.Event()
    handlers: List[Callable[[Peer], None]] = [unresponsive(operation, reached), AGAIN.serve]
    conn = connect(handlers)
    conn.timeout = 0.2 if closing == 'close' else LIMIT
    conn.send_request('GET', '/')
    outcome: List[BaseException] = []

    def operate() -> None:
        try:
            OPERATIONS[operation](conn)
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=operate)
    thread.start()
    assert reached.wait(LIMIT)
    CLOSINGS[closing](conn)
    thread.join(LIMIT)
    assert not thread.is_alive()
    # A wait that has begun already does not notice that a descriptor is closed.
    kinds = (ConnectionClosed, ConnectionTimedOut) if closing == 'close' else ConnectionClosed
    assert isinstance(outcome[0], kinds)
    conn.reset()
    conn.timeout = LIMIT
    assert fetch_again(conn) == b'some body'


def fetch_again(conn: dugong.HTTPConnection) -> bytes:
    conn.send_request('GET', '/')
    conn.read_response()
    return conn.readall()


@pytest.mark.parametrize('closing', CLOSINGS)
@pytest.mark.parametrize('pending', [False, True], ids=['idle', 'pending'])
def test_the_socket_is_closed_between_two_calls(connect, transport, closing, pending):
    conn = connect([AGAIN.serve if not pending else Peer.read_to_eof, AGAIN.serve])
    if pending:
        conn.send_request('GET', '/')
    else:
        assert fetch_again(conn) == b'some body'
    CLOSINGS[closing](conn)
    if pending or closing != 'disconnect':
        with pytest.raises(ConnectionClosed):
            if not pending:
                conn.send_request('GET', '/')
            conn.read_response()
        with pytest.raises(ConnectionClosed):
            conn.read_response()
        conn.reset()
    assert fetch_again(conn) == b'some body'


# --- no more file descriptors ---

NO_DESCRIPTORS = """
import errno, os, resource, socket, sys, threading
import dugong

host, port = '127.0.0.1', int(sys.argv[1])

def fetch(conn):
    conn.send_request('GET', '/')
    assert conn.read_response().status == 200
    assert conn.readall() == b'some body'

def descriptors():
    return len(os.listdir('/proc/self/fd'))

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
for name in (host, 'localhost'):
    with dugong.HTTPConnection(name, port) as conn:
        # So that all that is needed has been imported.
        fetch(conn)
    before = descriptors()
    for spare in range(8):
        conn = dugong.HTTPConnection(name, port)
        conn.timeout = 10
        free = os.dup(0)
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + spare, most))
        try:
            conn.connect()
        except OSError as exc:
            # A resolver that cannot open its files has errors of its own.
            assert exc.errno == errno.EMFILE or isinstance(exc, socket.gaierror), exc
            error = exc
        except dugong.HostnameNotResolvableOrDNSUnavailable as exc:
            assert name != host
            error = exc
        else:
            error = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        if spare == 0:
            assert error is not None
        if error is not None:
            # Nothing is left behind, and the object is as good as new.
            assert descriptors() == before, (descriptors(), before, error)
        fetch(conn)
        conn.disconnect()
        assert descriptors() == before
"""


@pytest.mark.skipif(not Path('/proc/self/fd').exists(), reason='needs /proc/self/fd')
@pytest.mark.parametrize('traced', [False, True], ids=['plain', 'traced'])
def test_no_more_file_descriptors(serve, tmp_path, traced):
    def handler(peer: Peer) -> None:
        # Some of the connections are given up.
        with contextlib.suppress(EOFError):
            AGAIN.serve(peer)

    server = serve(handler)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
    if traced:
        environment['DUGONG_TRACEFILE'] = str(tmp_path / 'trace-%d')
    subprocess.run(
        [sys.executable, '-W', 'error', '-c', NO_DESCRIPTORS, str(server.port)],
        env=environment,
        timeout=60,
        check=True,
    )


def test_an_open_connection_needs_no_more_file_descriptors(connect):
    import resource

    def handler(peer: Peer) -> None:
        for _ in range(5):
            peer.read_request()
            peer.send(CHUNKED.data)

    conn = connect(handler)
    assert fetch_again(conn) == b'some body'
    conn.send_request('GET', '/')
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(OSError, match='Too many open files'):
            os.dup(0)
        for _ in range(3):
            assert conn.read_response().status == 200
            assert conn.readall() == b'some body'
            conn.send_request('GET', '/')
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert conn.read_response().status == 200
