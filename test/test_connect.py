"""Connecting: never blocks, tries all addresses, can be ended at any time, leaves nothing."""

import contextlib
import errno
import gc
import os
import re
import socket
import ssl
import threading
import time
from typing import Any, Callable, Iterator, List, Tuple

import pytest
import trustme
from conftest import Certificates
from servers import LIMIT, Peer, ScriptedServer
from waiting_support import (
    REPLY,
    Crt,
    Scene,
    Thread,
    Waits,
    answer_all,
    black_hole,
    descriptors,
    needs_proc,
    nothing_left,
    refused_address,
    resolve_to,
    waits,
)

from dugong import (
    AioFuture,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    PollNeeded,
    ProxyError,
    StateError,
    UnsupportedResponse,
    eval_coroutine,
    is_temp_network_error,
)

__all__ = ['waits']

#: A numeric address in a network that is reserved for documentation (RFC 5737).
NOWHERE = '192.0.2.1'


class StuckResolver:
    """Stands in for `socket.getaddrinfo`, and does not answer before it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = threading.Event()
        self.release = threading.Event()
        self.threads: List[threading.Thread] = []
        self.addresses: List[Tuple[str, int]] = []
        self._real = socket.getaddrinfo
        monkeypatch.setattr(socket, 'getaddrinfo', self)

    def __call__(self, *args: Any, **options: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self.threads.append(threading.current_thread())
        self.asked.set()
        assert self.release.wait(LIMIT)
        if not self.addresses:
            raise socket.gaierror(socket.EAI_FAIL, 'Non-recoverable failure')
        return [i for a in self.addresses for i in self._real(*a, 0, socket.SOCK_STREAM)]

    def finish(self) -> None:
        self.release.set()
        for thread in self.threads:
            thread.join(LIMIT)
            assert not thread.is_alive()


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckResolver]:
    resolver = StuckResolver(monkeypatch)
    yield resolver
    resolver.finish()


# Operations that connect when needed

CONNECTING = {
    'connect': (lambda conn: conn.connect(), lambda conn: conn.co_connect()),
    'send_request': (
        lambda conn: conn.send_request('GET', '/'),
        lambda conn: conn.co_send_request('GET', '/'),
    ),
    'get_ssl_peercert': (
        lambda conn: conn.get_ssl_peercert(),
        lambda conn: conn.co_get_ssl_peercert(),
    ),
    'get_ssl_cipher': (lambda conn: conn.get_ssl_cipher(), lambda conn: conn.co_get_ssl_cipher()),
}

all_connecting = pytest.mark.parametrize('how', CONNECTING)


def blocking(how: str, conn: HTTPConnection) -> Any:
    return CONNECTING[how][0](conn)


def coroutine(how: str, conn: HTTPConnection) -> 'Crt[Any]':
    return CONNECTING[how][1](conn)


# The stages at which a connect can be stuck


class Stage:
    """Connecting `conn` gets stuck at the stage `name`; `release` ends what keeps it there."""

    def __init__(self, name: str, conn: HTTPConnection, release: Callable[[], None]) -> None:
        self.name = name
        self.conn = conn
        self.release = release


STAGES = ['resolve', 'connect', 'tunnel', 'tunnel answer', 'handshake', 'tunnelled handshake']


@pytest.fixture(params=STAGES)
def stage(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    serve: Any,
) -> Iterator[Stage]:
    name = request.param
    context = certificates.client_context

    def never(peer: Peer) -> None:
        peer.read_to_eof()

    def tunnel(peer: Peer) -> None:
        # The client may give up before it has sent that.
        with contextlib.suppress(EOFError, ConnectionError):
            peer.read_head()
        if name == 'tunnel answer':
            peer.send(b'HTTP/1.1 200 Connec')
        elif name == 'tunnelled handshake':
            peer.send(b'HTTP/1.1 200 OK\r\n\r\n')
        peer.read_to_eof()

    if name == 'resolve':
        resolver = StuckResolver(monkeypatch)
        try:
            yield Stage(name, HTTPConnection('stuck.example', 1, context), resolver.finish)
        finally:
            resolver.finish()
    elif name == 'connect':
        with black_hole() as address:
            yield Stage(name, HTTPConnection(*address, context), lambda: None)
    elif name == 'handshake':
        yield Stage(name, HTTPConnection(*serve(never).address, context), lambda: None)
    else:
        conn = HTTPConnection('origin.example', 443, context, proxy=serve(tunnel).address)
        yield Stage(name, conn, lambda: None)


def run_to_the_end_of_what_happens(crt: 'Crt[Any]') -> PollNeeded:
    """Resume *crt* as long as there is something to do; returns what it waits for then."""
    need = next(crt)
    while need.poll(0.05):
        need = next(crt)
    return need


# Nothing blocks


@all_connecting
def test_coroutine_yields_instead_of_blocking(stage: Stage, how: str) -> None:
    crt = coroutine(how, stage.conn)
    began = time.monotonic()
    need = run_to_the_end_of_what_happens(crt)
    # And it can be resumed for nothing.
    for _ in range(3):
        assert next(crt) == need
    assert time.monotonic() - began < LIMIT / 2
    crt.close()
    stage.release()


@all_connecting
def test_timeout_is_obeyed(stage: Stage, how: str) -> None:
    stage.conn.timeout = 0.05
    began = time.monotonic()
    with nothing_left():
        with pytest.raises(ConnectionTimedOut):
            blocking(how, stage.conn)
        assert 0.049 <= time.monotonic() - began < LIMIT / 2
        assert stage.conn._sock is None
        stage.release()


def test_timeout_names_host_and_port() -> None:
    """Or else one would not know which of many connections it was."""
    with black_hole() as address:
        conn = HTTPConnection(*address)
        conn.timeout = 0.02
        with pytest.raises(ConnectionTimedOut) as caught:
            conn.connect()
    assert f'{address[0]}:{address[1]}' in str(caught.value)
    assert '0.02 s' in str(caught.value)


def test_connect_can_be_repeated_after_a_timeout(stage: Stage) -> None:
    stage.conn.timeout = 0.02
    for _ in range(3):
        with pytest.raises(ConnectionTimedOut):
            stage.conn.send_request('GET', '/')
        assert not stage.conn.response_pending()
        with pytest.raises(StateError):
            eval_coroutine(stage.conn.co_read_response())
    stage.release()


def test_numeric_address_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    real = socket.getaddrinfo

    def getaddrinfo(*args: Any) -> Any:
        threads.append(threading.current_thread())
        return real(*args)

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    with refused_address() as address:
        for host in '127.0.0.1', '::1', '::ffff:127.0.0.1':
            with pytest.raises(OSError, match='cannot connect'):
                HTTPConnection(host, address[1]).connect()
    assert set(threads) <= {threading.current_thread()}


def test_name_is_resolved_in_a_daemon_thread(stuck: StuckResolver) -> None:
    """So that a program can end while the name service does not answer."""
    conn = HTTPConnection('stuck.example')
    crt = conn.co_connect()
    next(crt)
    assert stuck.asked.wait(LIMIT)
    (thread,) = stuck.threads
    assert thread is not threading.current_thread() and thread.daemon
    crt.close()


def test_patched_getaddrinfo_is_used(
    monkeypatch: pytest.MonkeyPatch, serve: Any, connect: Any
) -> None:
    server = serve(answer_all())
    resolve_to(monkeypatch, server.address)
    with HTTPConnection('no.such.name.example', 4711) as conn:
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        assert conn.readall() == b'hello'


def test_resolver_that_answers_late_is_waited_for(stuck: StuckResolver, serve: Any) -> None:
    server = serve(answer_all())
    conn = HTTPConnection('slow.example', 1)
    stuck.addresses = [server.address]
    thread = Thread(conn.connect)
    assert stuck.asked.wait(LIMIT)
    stuck.release.set()
    thread.finish()
    conn.send_request('GET', '/')
    assert conn.read_response().status == 200
    conn.disconnect()


@pytest.mark.parametrize('proxy', [False, True])
@pytest.mark.parametrize(
    'failure, expected',
    [
        (socket.gaierror(socket.EAI_NONAME, 'x'), DNSUnavailable),
        (socket.gaierror(socket.EAI_FAIL, 'x'), socket.gaierror),
        (OSError(errno.EMFILE, 'x'), OSError),
        (RuntimeError('x'), RuntimeError),
        (SystemExit('x'), SystemExit),
    ],
    ids=lambda value: getattr(value, '__name__', None),
)
def test_errors_of_the_resolver_come_through(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException, expected: Any, proxy: bool
) -> None:
    def getaddrinfo(*args: Any) -> Any:
        raise failure

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    conn = HTTPConnection('example.org', proxy=('proxy.example', 3128) if proxy else None)
    with nothing_left(), pytest.raises(expected) as caught:
        conn.connect()
    if expected is DNSUnavailable:
        assert caught.value.name == ('proxy.example' if proxy else 'example.org')


def test_name_without_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        socket, 'getaddrinfo', lambda host, *args: [] if host == 'empty.example' else [1]
    )
    with pytest.raises(HostnameNotResolvable):
        HTTPConnection('empty.example').connect()


@pytest.mark.parametrize('name', ['two..dots', 64 * 'x' + '.example'])
def test_name_that_cannot_be_looked_up(name: str) -> None:
    with pytest.raises(HostnameNotResolvable) as caught:
        HTTPConnection(name).connect()
    assert caught.value.name == name


def test_name_that_takes_too_long_is_named(stuck: StuckResolver) -> None:
    conn = HTTPConnection('stuck.example')
    conn.timeout = 0.01
    with pytest.raises(ConnectionTimedOut, match='0.01 s to look up stuck.example'):
        conn.connect()


def test_port_of_a_proxy_as_a_string(serve: Any) -> None:
    server = serve(answer_all())
    proxy: Any = (server.host, str(server.port))
    with HTTPConnection('no.such.name.example', proxy=proxy) as conn:
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        conn.discard()


# Several addresses


def test_all_addresses_are_tried_in_turn(monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    server = serve(answer_all())
    with refused_address() as first, refused_address() as second:
        resolve_to(monkeypatch, first, second, server.address)
        with HTTPConnection('example.org') as conn:
            conn.connect()
            assert conn._sock.getpeername() == server.address


def test_address_that_does_not_answer_is_given_up(
    monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    server = serve(answer_all())
    with black_hole() as address:
        resolve_to(monkeypatch, address, server.address)
        with HTTPConnection('example.org') as conn:
            conn.timeout = 0.05
            conn.connect()
            assert conn._sock.getpeername() == server.address


def test_exception_thrown_in_is_no_failure_of_an_address(
    monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    server = serve(answer_all())
    with black_hole() as address:
        resolve_to(monkeypatch, address, server.address)
        with HTTPConnection(address[0]) as conn:
            attempt = conn.co_connect()
            next(attempt)
            error = TimeoutError('of a signal handler')
            with pytest.raises(TimeoutError) as info:
                attempt.throw(error)
            assert info.value is error
            assert conn._sock is None


def test_family_that_the_system_does_not_have(monkeypatch: pytest.MonkeyPatch, serve: Any) -> None:
    server = serve(answer_all())
    real = socket.socket

    class NoIPv6(real):  # type: ignore[misc,valid-type]
        def __init__(self, family: int = -1, *args: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, 'Address family not supported by protocol')
            super().__init__(family, *args, **options)

    resolve_to(monkeypatch, ('::1', 1), server.address)
    monkeypatch.setattr(socket, 'socket', NoIPv6)
    with HTTPConnection('example.org') as conn:
        conn.connect()
        assert conn._sock.getpeername() == server.address


@needs_proc
def test_error_lists_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_address() as first, refused_address() as second, black_hole() as hole:
        resolve_to(monkeypatch, first, hole, second)
        conn = HTTPConnection('example.org', 8080)
        conn.timeout = 0.05
        with nothing_left(), pytest.raises(ConnectionRefusedError) as caught:
            conn.connect()
    error = caught.value
    assert error.errno == errno.ECONNREFUSED
    assert 'example.org:8080' in str(error)
    for _, port in (first, hole, second):
        assert re.search(rf'127\.0\.0\.1\b.*\b{port}\b', str(error))
    assert str(error).count(os.strerror(errno.ECONNREFUSED)) == 2
    assert '0.05 s' in str(error)


def test_error_has_the_type_of_the_last_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_address() as refused, black_hole() as hole:
        resolve_to(monkeypatch, refused, hole)
        conn = HTTPConnection('example.org')
        conn.timeout = 0.05
        with pytest.raises(ConnectionTimedOut) as caught:
            conn.connect()
        assert os.strerror(errno.ECONNREFUSED) in str(caught.value)
        # This one cannot be used as the address of anything.
        resolve_to(monkeypatch, refused, ('127.0.0.1', 0))
        with pytest.raises(OSError) as other:
            conn.connect()
        assert str(refused[1]) in str(other.value)


def test_ipv6_addresses_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_address() as refused:
        resolve_to(monkeypatch, ('::1', refused[1]), refused)
        with pytest.raises(OSError) as caught:
            HTTPConnection('example.org').connect()
    assert '::1' in str(caught.value) and '127.0.0.1' in str(caught.value)


def test_addresses_of_the_proxy_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused_address() as refused:
        resolve_to(monkeypatch, refused)
        with pytest.raises(ConnectionRefusedError, match='proxy.example:3128'):
            HTTPConnection('origin.example', proxy=('proxy.example', 3128)).connect()


# disconnect() from another thread


@all_connecting
def test_disconnect_ends_a_connect(stage: Stage, how: str, waits: Waits) -> None:
    conn = stage.conn
    with nothing_left():
        thread = Thread(blocking, how, conn)
        waits.next()
        conn.disconnect()
        with pytest.raises(ConnectionClosed, match='disconnect'):
            thread.finish(LIMIT / 2)
        assert conn._sock is None
        stage.release()


def test_disconnect_ends_a_connect_that_is_really_stuck(stage: Stage) -> None:
    """Not only at its first wait."""
    conn = stage.conn
    crt = conn.co_connect()
    run_to_the_end_of_what_happens(crt)
    thread = Thread(eval_coroutine, crt, LIMIT)
    conn.disconnect()
    with pytest.raises(ConnectionClosed, match='disconnect'):
        thread.finish(LIMIT / 2)
    assert conn._sock is None
    stage.release()


def test_disconnect_just_before_connect_is_not_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It comes when there is a socket already, and nothing to shut down yet."""
    real = socket.socket.connect_ex
    with black_hole() as address:
        conn = HTTPConnection(*address)

        def connect_ex(sock: socket.socket, address: Any) -> int:
            Thread(conn.disconnect).finish()
            return real(sock, address)

        monkeypatch.setattr(socket.socket, 'connect_ex', connect_ex)
        with pytest.raises(ConnectionClosed, match='disconnect'):
            eval_coroutine(conn.co_connect(), LIMIT / 2)


def test_connect_after_a_disconnect_does_not_wait_for_the_old_one(
    stuck: StuckResolver, serve: Any, monkeypatch: pytest.MonkeyPatch, waits: Waits
) -> None:
    server = serve(answer_all())
    conn = HTTPConnection('stuck.example', server.port)
    thread = Thread(conn.connect)
    assert stuck.asked.wait(LIMIT)
    waits.next()
    conn.disconnect()
    conn.hostname = '127.0.0.1'
    monkeypatch.setattr(socket, 'getaddrinfo', stuck._real)
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed):
        thread.finish()
    # The late answer changes nothing.
    stuck.finish()
    assert conn.read_response().status == 200
    assert conn.readall() == b'hello'
    conn.disconnect()


def test_reader_that_waits_for_the_connection_is_woken_up(stage: Stage) -> None:
    conn = stage.conn
    sender = conn.co_send_request('GET', '/')
    run_to_the_end_of_what_happens(sender)
    reader = Thread(conn.read_response)
    sending = Thread(eval_coroutine, sender, LIMIT)
    conn.disconnect()
    for thread in reader, sending:
        with pytest.raises(ConnectionClosed, match='disconnect'):
            thread.finish(LIMIT / 2)
    stage.release()


def test_connect_ends_what_is_under_way(serve: Any, connect: Any, transport: str) -> None:
    conn = connect(serve([lambda peer: peer.read_to_eof(), answer_all()]))
    conn.send_request('GET', '/')
    reader = conn.co_read_response()
    next(reader)
    conn.connect()
    with pytest.raises(ConnectionClosed):
        eval_coroutine(reader, LIMIT)
    conn.send_request('GET', '/')
    assert conn.read_response().status == 200
    assert conn.readall() == b'hello'


def test_two_connects_at_once(stage: Stage) -> None:
    """The second one is misuse, and does not disturb the first."""
    conn = stage.conn
    crt = conn.co_connect()
    need = run_to_the_end_of_what_happens(crt)
    for how in CONNECTING:
        with pytest.raises(StateError):
            next(coroutine(how, conn))
    assert next(crt) == need
    crt.close()
    stage.release()


# What a failing connect leaves


def _certificate_of_somebody_else(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert('somebody.else.example').configure_cert(context)
    return context


def _certificate_of_another_authority(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert('localhost').configure_cert(context)
    return context


@needs_proc
@pytest.mark.parametrize(
    'reply, expected',
    [
        (b'HTTP/1.1 407 Who are you\r\nContent-Length: 3\r\n\r\nx', ProxyError),
        (b'HTTP/1.1 200 OK\r\n\r\nsurprise', InvalidResponse),
        (b'SSH-2.0-OpenSSH_9.2\r\n', UnsupportedResponse),
        (b'HTTP/1.1 200 ', ConnectionClosed),
        (b'', ConnectionClosed),
        (b'HTTP/1.1 200 OK\r\n\r\n', ConnectionClosed),
    ],
    ids=['refused', 'excess', 'no HTTP', 'part', 'nothing', 'no handshake'],
)
def test_failing_tunnel_leaves_nothing(
    serve: Any, certificates: Certificates, reply: bytes, expected: Any
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply)
        # The client may have seen enough.
        with contextlib.suppress(OSError):
            peer.half_close()
        peer.read_to_eof()

    server = serve(handle)
    conn = HTTPConnection('a.example', 443, certificates.client_context, proxy=server.address)
    for _ in range(2):
        with nothing_left():
            with pytest.raises(expected):
                conn.send_request('GET', '/')
            assert conn._sock is None
            assert not conn.response_pending()


@needs_proc
@pytest.mark.parametrize(
    'reply, expected',
    [
        (b'', ConnectionClosed),
        (b'HTTP/1.1 400 This is no TLS\r\n\r\n', ssl.SSLError),
        (b'\x16\x03\x03\x00', ConnectionClosed),
    ],
    ids=['nothing', 'no TLS', 'part'],
)
def test_failing_handshake_leaves_nothing(
    serve: Any, certificates: Certificates, reply: bytes, expected: Any
) -> None:
    def handle(peer: Peer) -> None:
        peer.sock.recv(65536)
        peer.send(reply)
        # The client may have seen enough.
        with contextlib.suppress(OSError):
            peer.half_close()
        peer.read_to_eof()

    conn = HTTPConnection(*serve(handle).address, certificates.client_context)
    for _ in range(2):
        with nothing_left():
            with pytest.raises(expected):
                conn.send_request('GET', '/')
            assert conn._sock is None


@needs_proc
@pytest.mark.parametrize(
    'server_context', [_certificate_of_somebody_else, _certificate_of_another_authority]
)
def test_wrong_certificate_leaves_nothing(
    certificates: Certificates, server_context: Callable[[Certificates], ssl.SSLContext]
) -> None:
    with Scene(server_context(certificates)) as scene:
        conn = HTTPConnection(*scene.address, certificates.client_context)
        before = descriptors()
        with pytest.raises(ssl.SSLCertVerificationError):
            scene.drive(conn.co_connect())
        assert conn._sock is None
        scene.drop()
        assert descriptors() == before


@needs_proc
def test_context_that_refuses_leaves_nothing(serve: Any) -> None:
    """It fails before the handshake has begun."""

    class Refusing(ssl.SSLContext):
        def wrap_socket(self, *args: Any, **options: Any) -> Any:
            raise Boom

    class Boom(Exception):
        pass

    server = serve(lambda peer: peer.read_to_eof())
    conn = HTTPConnection(*server.address, Refusing(ssl.PROTOCOL_TLS_CLIENT))
    with nothing_left():
        with pytest.raises(Boom):
            conn.connect()
        assert conn._sock is None


@needs_proc
def test_failing_connect_leaves_nothing_to_the_garbage_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with refused_address() as address:
        resolve_to(monkeypatch, address)
        conn = HTTPConnection('example.org')
        gc.collect()
        gc.disable()
        try:
            before = descriptors()
            for _ in range(3):
                with pytest.raises(ConnectionRefusedError):
                    conn.connect()
            assert descriptors() == before
        finally:
            gc.enable()


@needs_proc
def test_out_of_descriptors_is_an_error_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    conn = HTTPConnection('example.org')
    with nothing_left(), monkeypatch.context() as patch:
        patch.setattr(socket, 'socketpair', fail)
        with pytest.raises(OSError) as caught:
            conn.connect()
        assert caught.value.errno == errno.EMFILE
    with refused_address() as address:
        resolve_to(monkeypatch, address)
        with pytest.raises(ConnectionRefusedError):
            conn.connect()


@needs_proc
def test_no_thread_for_the_resolver_is_an_error_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    conn = HTTPConnection('example.org')
    with nothing_left(), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, 'start', start)
        with pytest.raises(RuntimeError):
            conn.connect()
    assert conn._sock is None


@pytest.mark.parametrize('size', [0, 100, 100_000, 5_000_000])
def test_missing_certificate_of_the_client_is_named_whatever_is_sent(
    size: int, certificates: Certificates
) -> None:
    """With TLS 1.3 the server refuses after the handshake, and closes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    certificates.certificate.configure_cert(context)
    certificates.authority.configure_trust(context)
    with ScriptedServer(answer_all(), context) as server:
        for _ in range(10):
            with HTTPConnection(*server.address, certificates.client_context) as conn:
                conn.timeout = LIMIT
                with pytest.raises(ssl.SSLError, match='(?i)certificate.required') as caught:
                    conn.send_request('PUT', '/', body=bytes(size))
                    conn.read_response()
                assert not is_temp_network_error(caught.value)
        server.errors.clear()


@pytest.mark.parametrize('name', ['connect', 'co_connect'])
@pytest.mark.parametrize('replaced', ['in a subclass', 'on the object'])
def test_own_way_to_connect_is_used(
    replaced: str,
    name: str,
    serve: Any,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
    transport: str,
) -> None:
    """By whatever connects when needed; the original can be called."""
    called: List[str] = []
    original = getattr(HTTPConnection, name)

    def own(conn: HTTPConnection) -> Any:
        called.append(name)
        return original(conn)

    class Own(HTTPConnection):
        pass

    server = serve(answer_all())
    context = certificates.client_context if transport == 'tls' else None
    conn = Own(server.host, server.port, context)
    if replaced == 'in a subclass':
        monkeypatch.setattr(Own, name, own)
    else:
        monkeypatch.setattr(conn, name, own.__get__(conn))
    conn.timeout = LIMIT
    uses: List[Callable[[], Any]] = [
        lambda: conn.send_request('GET', '/'),
        lambda: eval_coroutine(conn.co_send_request('GET', '/'), LIMIT),
        lambda: list(conn.pipeline(['/'])),
    ]
    if context is not None:
        uses.append(conn.get_ssl_cipher)
    for number, use in enumerate(uses, 1):
        use()
        assert called == [name] * number
        if not conn.response_pending():
            conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        assert conn.readall() == b'hello'
        conn.disconnect()
    assert len(called) == len(uses)


def test_disconnect_within_an_own_way_to_connect(serve: Any) -> None:
    calls = []

    class Own(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            calls.append('connect')
            self.disconnect()

    with Own(*serve(answer_all()).address) as conn:
        conn.timeout = LIMIT
        with pytest.raises(ConnectionClosed, match='disconnect'):
            conn.send_request('GET', '/')
        with pytest.raises(ConnectionClosed, match='disconnect'):
            next(conn.pipeline(['/']))
        assert calls == ['connect'] * 2


@pytest.mark.parametrize('left', ['closed', 'outstanding', 'unread'])
def test_pipeline_after_an_own_way_to_connect_that_leaves_something(left: str, serve: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'hello', fields=['Connection: close'] if left == 'closed' else ())
        peer.read_to_eof()

    class Own(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            self.send_request('GET', '/login')
            if left != 'outstanding':
                self.read_response()
            if left == 'closed':
                self.readall()

    with Own(*serve(handler).address) as conn:
        conn.timeout = LIMIT
        with pytest.raises(ConnectionClosed if left == 'closed' else StateError):
            next(conn.pipeline(['/'], max_retries=2))


@pytest.mark.parametrize('own', ['does nothing', 'connects anew'])
def test_own_way_to_connect_that_does_something_else(own: str, serve: Any) -> None:
    class Own(HTTPConnection):
        def connect(self) -> None:
            if own == 'connects anew':
                super().connect()
                self.disconnect()
                super().connect()

    server = serve(answer_all())
    with Own(*server.address) as conn:
        conn.timeout = LIMIT
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        assert conn.readall() == b'hello'
        conn.disconnect()
        assert [response.body for response in conn.pipeline(['/1', '/2'])] == [b'hello'] * 2


def test_reader_gets_the_cause_of_a_failing_connect() -> None:
    with refused_address() as address:
        conn = HTTPConnection(*address)
        sender = conn.co_send_request('GET', '/')
        next(sender)
        reader = conn.co_read_response()
        next(reader)
        with pytest.raises(ConnectionRefusedError):
            eval_coroutine(sender, LIMIT)
        with pytest.raises(ConnectionClosed, match=os.strerror(errno.ECONNREFUSED)):
            eval_coroutine(reader, LIMIT)


def test_interrupted_connection_attempt_goes_on(
    monkeypatch: pytest.MonkeyPatch, serve: Any
) -> None:
    """EINTR from connect() means that it goes on in the background."""
    real = socket.socket.connect_ex

    def connect_ex(sock: socket.socket, address: Any) -> int:
        real(sock, address)
        return errno.EINTR

    monkeypatch.setattr(socket.socket, 'connect_ex', connect_ex)
    with HTTPConnection(*serve(answer_all()).address) as conn:
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200


# And it works


def test_coroutine_that_is_resumed_too_early_connects_all_the_same(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Scene(certificates.server_context, proxy=True) as scene:
        resolve_to(monkeypatch, scene.address)
        conn = HTTPConnection(
            'localhost', 443, certificates.client_context, proxy=('proxy.example', 1)
        )
        crt = conn.co_connect()
        try:
            while True:
                need = next(crt)
                for _ in range(3):
                    need = next(crt)
                scene.serve(need)
        except StopIteration:
            pass
        scene.exchange(conn)
        conn.disconnect()


@pytest.mark.parametrize('how', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_certificate_getters_connect(serve: Any, certificates: Certificates, how: str) -> None:
    with HTTPConnection(
        *serve(answer_all(), tls=True).address, certificates.client_context
    ) as conn:
        assert eval_coroutine(coroutine(how, conn), LIMIT)
        sock = conn._sock
        assert blocking(how, conn)
        assert conn._sock is sock
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        conn.disconnect()
        # Each on a new connection.
        assert blocking(how, conn)


@pytest.mark.parametrize('how', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_certificate_getters_do_not_connect_without_tls(how: str) -> None:
    conn = HTTPConnection(NOWHERE)
    assert blocking(how, conn) is None
    assert eval_coroutine(coroutine(how, conn), 0) is None
    assert conn._sock is None


@pytest.mark.parametrize('how', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_certificate_getters_on_a_broken_connection(
    connect: Any, certificates: Certificates, serve: Any, how: str
) -> None:
    """`None` would mean that there is no TLS."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n')
        peer.read_to_eof()

    conn = connect(serve(handle, tls=True))
    conn.send_request('GET', '/')
    conn.read_response()
    crt = conn.co_readall()
    next(crt)
    crt.close()
    with pytest.raises(ConnectionClosed):
        blocking(how, conn)


def test_connecting_again_and_again_with_asyncio(serve: Any, transport: str, connect: Any) -> None:
    import asyncio

    conn = connect(serve(answer_all()))

    async def main() -> None:
        for _ in range(20):
            await AioFuture(conn.co_connect())
            await AioFuture(conn.co_send_request('GET', '/'))
            assert (await AioFuture(conn.co_read_response())).status == 200
            assert await AioFuture(conn.co_readall()) == REPLY[-5:]

    asyncio.run(main())
