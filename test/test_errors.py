"""Section 6 of the contract: which error means what."""

import contextlib
import errno
import os
import socket
import ssl
import struct
import threading
import traceback
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from contract_support import (
    BODY_CALLS,
    Answers,
    DuckContext,
    FailingSocket,
    all_readers,
    get,
    head,
    reply,
    resolve_to,
    wait_broken,
)
from servers import LIMIT, Peer

import dugong
from dugong import (
    BodyFollowing,
    ConnectionClosed,
    HTTPConnection,
    ProxyError,
    is_temp_network_error,
)


def ssl_error(number: int, reason: str, kind: Any = ssl.SSLError) -> ssl.SSLError:
    """An `SSLError` as the ssl module makes it."""
    exc = kind(number, f'[SSL: {reason}] {reason.lower().replace("_", " ")} (_ssl.c:1000)')
    exc.library, exc.reason = 'SSL', reason
    return exc


#: What the peer being gone looks like.
GONE: Dict[str, Callable[[], BaseException]] = {
    'ECONNRESET': lambda: ConnectionResetError(errno.ECONNRESET, 'Connection reset by peer'),
    'EPIPE': lambda: BrokenPipeError(errno.EPIPE, 'Broken pipe'),
    'ECONNABORTED': lambda: ConnectionAbortedError(errno.ECONNABORTED, 'aborted'),
    'ESHUTDOWN': lambda: OSError(errno.ESHUTDOWN, 'Cannot send after shutdown'),
    'ENOTCONN': lambda: OSError(errno.ENOTCONN, 'not connected'),
    'EBADF': lambda: OSError(errno.EBADF, 'Bad file descriptor'),
    'SSLZeroReturnError': lambda: ssl.SSLZeroReturnError(
        ssl.SSL_ERROR_ZERO_RETURN, 'TLS/SSL connection has been closed (EOF) (_ssl.c:1000)'
    ),
    'SSLEOFError': lambda: ssl.SSLEOFError(
        ssl.SSL_ERROR_EOF, 'EOF occurred in violation of protocol (_ssl.c:1000)'
    ),
    'UNEXPECTED_EOF_WHILE_READING': lambda: ssl_error(1, 'UNEXPECTED_EOF_WHILE_READING'),
    'UNEXPECTED_EOF as SSLEOFError': lambda: ssl_error(
        8, 'UNEXPECTED_EOF_WHILE_READING', ssl.SSLEOFError
    ),
}

#: What says something else, and is not for us to hide.
OTHER: Dict[str, Callable[[], BaseException]] = {
    'EIO': lambda: OSError(errno.EIO, 'Input/output error'),
    'EHOSTUNREACH': lambda: OSError(errno.EHOSTUNREACH, 'No route to host'),
    'ENOBUFS': lambda: OSError(errno.ENOBUFS, 'No buffer space available'),
    'ETIMEDOUT': lambda: TimeoutError(errno.ETIMEDOUT, 'Connection timed out'),
    'BAD_RECORD_MAC': lambda: ssl_error(1, 'DECRYPTION_FAILED_OR_BAD_RECORD_MAC'),
    'CERTIFICATE_VERIFY_FAILED': lambda: ssl_error(
        1, 'CERTIFICATE_VERIFY_FAILED', ssl.SSLCertVerificationError
    ),
}


@pytest.fixture
def failing(connect: Any, serve: Any) -> Callable[..., Tuple[HTTPConnection, DuckContext]]:
    """`failing(*replies)`: a connection whose socket can be told to fail."""

    def make(*replies: bytes) -> Tuple[HTTPConnection, DuckContext]:
        context = DuckContext(FailingSocket)
        # The server closes, so that the client never waits in vain before it looks.
        conn = connect(
            serve([Answers(*replies, close=True), Answers(reply(b'anew'))]), ssl_context=context
        )
        conn.connect()
        return conn, context

    return make


def reading_response(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('GET', '/')
    context.socket.receive_error = error
    conn.read_response()


def reading_body(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('GET', '/')
    conn.read_response()
    context.socket.receive_error = error
    conn.readall()


def reading_in_pieces(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('GET', '/')
    conn.read_response()
    context.socket.receive_error = error
    while conn.read(10):
        pass


def discarding(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('GET', '/')
    conn.read_response()
    context.socket.receive_error = error
    conn.discard()


def filling_a_buffer(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('GET', '/')
    conn.read_response()
    context.socket.receive_error = error
    while conn.readinto(bytearray(1 << 20)):
        pass


def sending_a_head(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    context.socket.send_error = error
    conn.send_request('GET', '/')


def sending_a_body(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    context.socket.send_error = error
    conn.send_request('PUT', '/', body=b'x' * 1000)


def writing(conn: HTTPConnection, context: DuckContext, error: BaseException) -> None:
    conn.send_request('PUT', '/', body=BodyFollowing(1000))
    context.socket.send_error = error
    conn.write(b'x' * 1000)


PHASES = [
    reading_response,
    reading_body,
    reading_in_pieces,
    discarding,
    filling_a_buffer,
    sending_a_head,
    sending_a_body,
    writing,
]
in_each_phase = pytest.mark.parametrize('phase', PHASES, ids=lambda f: f.__name__)


@in_each_phase
@pytest.mark.parametrize('kind', GONE)
def test_peer_that_is_gone_is_connection_closed(kind: str, phase: Any, failing: Any) -> None:
    conn, context = failing(head('200 OK', 'Content-Length: 100000') + b'x')
    with pytest.raises(ConnectionClosed):
        phase(conn, context, GONE[kind]())
    conn.reset()
    assert get(conn)[1] == b'anew'


@in_each_phase
@pytest.mark.parametrize('kind', OTHER)
def test_other_errors_pass_through(kind: str, phase: Any, failing: Any) -> None:
    conn, context = failing(head('200 OK', 'Content-Length: 100000') + b'x')
    error = OTHER[kind]()
    with pytest.raises(type(error)) as info:
        phase(conn, context, error)
    # As it was, so that to follow the causes comes to an end.
    assert info.value is error
    assert error.__cause__ is None
    conn.reset()
    assert get(conn)[1] == b'anew'


@pytest.mark.parametrize('end', ['reset', 'no TLS record'])
@pytest.mark.parametrize('call', ['readall', 'read'])
def test_error_does_not_keep_views_of_the_result(
    call: str, end: str, connect: Any, serve: Any
) -> None:
    """They would outlive their `BytesIO`, which CPython complains about on standard error."""
    go_on = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(head('200 OK', 'Content-Length: 100000'))
        assert go_on.wait(LIMIT)
        with socket.socket(fileno=peer.sock.detach()) as sock:
            if end == 'reset':
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
            else:
                sock.sendall(b'garbage' * 10)

    server = serve(handler, tls=True)
    conn = connect(server)
    conn.send_request('GET', '/')
    conn.read_response()
    go_on.set()
    with pytest.raises((ConnectionClosed, ssl.SSLError)) as info:
        getattr(conn, call)(*([] if call == 'readall' else [100000]))
    stop_quietly(server)
    assert list(views_kept_by(info.value)) == []


def views_kept_by(exc: Optional[BaseException]) -> Iterator[memoryview]:
    """Find the views of `BytesIO` objects that the frames of *exc* and its causes keep alive."""
    while exc is not None:
        for frame, _ in traceback.walk_tb(exc.__traceback__):
            for value in frame.f_locals.values():
                # A released one has no owner any more.
                with contextlib.suppress(ValueError):
                    if isinstance(value, memoryview) and not isinstance(
                        value.obj, (bytes, bytearray)
                    ):
                        yield value
        exc = exc.__context__


@in_each_phase
def test_cause_of_connection_closed_is_kept(phase: Any, failing: Any) -> None:
    conn, context = failing(head('200 OK', 'Content-Length: 100000') + b'x')
    error = GONE['ECONNRESET']()
    with pytest.raises(ConnectionClosed) as info:
        phase(conn, context, error)
    assert error in (info.value.__cause__, info.value.__context__)


@pytest.mark.parametrize(
    'kind', [k for k in GONE if k.startswith('SSL') or k.startswith('UNEXPECTED')]
)
@all_readers
def test_tls_eof_ends_a_body_until_eof(kind: str, reader: Any, failing: Any) -> None:
    conn, context = failing(head('200 OK', 'Connection: close') + b'body')
    conn.send_request('GET', '/')
    conn.read_response()
    data = b''
    while len(data) < 4:
        data += conn.read(4 - len(data))
    context.socket.receive_error = GONE[kind]()
    assert data == b'body'
    assert reader(conn) == b''


@pytest.mark.parametrize('kind', ['ECONNRESET', 'ECONNABORTED'])
@all_readers
def test_reset_does_not_end_a_body_until_eof(kind: str, reader: Any, failing: Any) -> None:
    conn, context = failing(head('200 OK', 'Connection: close') + b'body')
    conn.send_request('GET', '/')
    conn.read_response()
    context.socket.receive_error = GONE[kind]()
    with pytest.raises(ConnectionClosed):
        reader(conn)


@all_readers
def test_real_reset_does_not_end_a_body_until_eof(
    reader: Any, transport: str, connect: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(head('200 OK', 'Connection: close') + b'body')
        peer.reset()

    conn = connect(handler)
    conn.send_request('GET', '/')
    wait_broken(conn)
    with pytest.raises(ConnectionClosed):
        conn.read_response()
        reader(conn)


@pytest.mark.parametrize('transport_call', ['read_response', 'read', 'write', 'send_request'])
def test_use_after_local_close_is_connection_closed(
    transport_call: str, transport: str, connect: Any
) -> None:
    conn = connect(Answers(head('200 OK', 'Content-Length: 100000')))
    if transport_call == 'write':
        conn.send_request('PUT', '/', body=BodyFollowing(10))
    elif transport_call != 'send_request':
        conn.send_request('GET', '/')
    else:
        conn.connect()
    if transport_call == 'read':
        conn.read_response()
    conn._sock.close()
    with pytest.raises(ConnectionClosed):
        if transport_call == 'write':
            conn.write(b'x' * 10)
        elif transport_call == 'send_request':
            conn.send_request('GET', '/')
            conn.read_response()
        else:
            BODY_CALLS['readall'](conn) if transport_call == 'read' else conn.read_response()


def test_use_after_local_shutdown_is_connection_closed(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.connect()
    conn._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()


@pytest.mark.parametrize('when', ['head', 'body'])
def test_reset_by_the_peer_is_connection_closed(when: str, transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        if when == 'body':
            peer.send(head('200 OK', 'Content-Length: 100') + b'some')
        peer.reset()

    conn = connect(handler)
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed):
        conn.read_response()
        conn.readall()


# -- certificates -------------------------------------------------------------------------------


def forget_tls_errors(server: Any) -> None:
    """The server sees the alert of the client, or that it closes; that is not its fault."""
    server.errors[:] = [exc for exc in server.errors if not isinstance(exc, OSError)]


@pytest.mark.parametrize('call', ['connect', 'send_request', 'get_ssl_peercert'])
def test_unknown_authority_is_an_ssl_error(call: str, connect: Any, serve: Any) -> None:
    server = serve(Answers(), tls=True)
    conn = connect(server, ssl_context=ssl.create_default_context())
    with pytest.raises(ssl.SSLCertVerificationError):
        getattr(conn, call)(*(('GET', '/') if call == 'send_request' else ()))
    assert conn._sock is None
    conn.disconnect()
    stop_quietly(server)


def stop_quietly(server: Any) -> None:
    for thread in list(server._peers):
        thread.join(LIMIT)
    forget_tls_errors(server)


def test_wrong_host_name_is_an_ssl_error(
    connect: Any, serve: Any, certificates: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Answers(), tls=True)
    resolve_to(monkeypatch, server.address)
    conn = HTTPConnection('other.example', server.port, certificates.client_context)
    conn.timeout = LIMIT
    with conn, pytest.raises(ssl.SSLCertVerificationError):
        conn.connect()
    stop_quietly(server)


def test_server_that_speaks_no_tls_is_an_ssl_error(
    connect: Any, serve: Any, certificates: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.sock.recv(10_000)
        peer.send(b'HTTP/1.1 400 This is not TLS\r\n\r\n')
        peer.read_to_eof()

    server = serve(handler, tls=False)
    conn = connect(server, ssl_context=certificates.client_context)
    with pytest.raises(ssl.SSLError):
        conn.connect()
    assert conn._sock is None
    stop_quietly(server)


def test_server_that_closes_in_the_handshake_is_connection_closed(
    connect: Any, serve: Any, certificates: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.sock.recv(10_000)

    conn = connect(serve(handler, tls=False), ssl_context=certificates.client_context)
    with pytest.raises(ConnectionClosed):
        conn.connect()
    assert conn._sock is None


# -- connecting ---------------------------------------------------------------------------------


def refused_ports(count: int) -> List[int]:
    """Ports of the loopback interface where nobody listens."""
    socks = [socket.socket() for _ in range(count)]
    try:
        for sock in socks:
            sock.bind(('127.0.0.1', 0))
        return [sock.getsockname()[1] for sock in socks]
    finally:
        for sock in socks:
            sock.close()


def addresses(monkeypatch: pytest.MonkeyPatch, *found: Tuple[str, int]) -> None:
    def getaddrinfo(*args: Any, **options: Any) -> Any:
        return [
            (
                socket.AF_INET6 if ':' in host else socket.AF_INET,
                socket.SOCK_STREAM,
                socket.IPPROTO_TCP,
                '',
                (host, port, 0, 0) if ':' in host else (host, port),
            )
            for host, port in found
        ]

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)


#: A multicast address: the kernel refuses at once to open a stream to it.
UNREACHABLE = ('224.0.0.1', 80)


def unreachable_errno() -> int:
    with socket.socket() as sock:
        try:
            sock.connect(UNREACHABLE)
        except OSError as exc:
            assert exc.errno is not None
            return exc.errno
    raise AssertionError('a stream to a multicast address')


@pytest.mark.parametrize('how', ['connect', 'create_socket'])
def test_all_addresses_refuse(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = refused_ports(3)
    addresses(monkeypatch, *[('127.0.0.1', port) for port in ports])
    with pytest.raises(ConnectionRefusedError) as info:
        if how == 'connect':
            HTTPConnection('host.example', 8080).connect()
        else:
            dugong.create_socket(('host.example', 8080))
    assert info.value.errno == errno.ECONNREFUSED
    message = str(info.value)
    for port in ports:
        assert '127.0.0.1' in message and str(port) in message
    assert message.count(os.strerror(errno.ECONNREFUSED)) >= 3


@pytest.mark.parametrize('last', ['refused', 'unreachable'])
def test_error_is_that_of_the_last_address_and_lists_all(
    last: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = unreachable_errno()
    refused = ('127.0.0.1', refused_ports(1)[0])
    found = [refused, UNREACHABLE] if last == 'unreachable' else [UNREACHABLE, refused]
    addresses(monkeypatch, *found)
    with pytest.raises(OSError) as info:
        HTTPConnection('host.example', 8080).connect()
    expected = number if last == 'unreachable' else errno.ECONNREFUSED
    assert info.value.errno == expected
    assert type(info.value) is type(OSError(expected, ''))
    message = str(info.value)
    for text in (
        '127.0.0.1',
        '224.0.0.1',
        os.strerror(errno.ECONNREFUSED),
        os.strerror(number),
    ):
        assert text in message


def test_next_address_is_tried(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(Answers(reply(b'there')))
    addresses(monkeypatch, UNREACHABLE, ('127.0.0.1', refused_ports(1)[0]), server.address)
    with HTTPConnection('host.example', 8080) as conn:
        conn.timeout = LIMIT
        assert get(conn)[1] == b'there'


def test_ipv6_address_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = refused_ports(1)
    addresses(monkeypatch, ('::1', port), ('127.0.0.1', port))
    with pytest.raises(OSError) as info:
        HTTPConnection('host.example', 8080).connect()
    assert '::1' in str(info.value) and '127.0.0.1' in str(info.value)


def test_single_address_that_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = refused_ports(1)
    with pytest.raises(ConnectionRefusedError) as info:
        HTTPConnection('127.0.0.1', port).connect()
    assert info.value.errno == errno.ECONNREFUSED
    assert '127.0.0.1' in str(info.value) and str(port) in str(info.value)


# -- is_temp_network_error ----------------------------------------------------------------------

TEMPORARY_ERRNOS = {
    getattr(errno, name)
    for name in (
        'EHOSTDOWN',
        'EHOSTUNREACH',
        'ENETDOWN',
        'ENETRESET',
        'ENETUNREACH',
        'ENOLINK',
        'ENONET',
        'ENOTCONN',
        'ENXIO',
        'EPIPE',
        'EREMCHG',
        'ESHUTDOWN',
        'ETIMEDOUT',
        'EAGAIN',
    )
    if hasattr(errno, name)
}

TEMPORARY_TYPES = (ConnectionError, TimeoutError, InterruptedError)


def test_temporary_errnos() -> None:
    for number, name in errno.errorcode.items():
        exc = OSError(number, os.strerror(number))
        expected = number in TEMPORARY_ERRNOS or isinstance(exc, TEMPORARY_TYPES)
        assert is_temp_network_error(exc) is expected, name


class OwnTimeout(TimeoutError):
    pass


class OwnClosed(ConnectionClosed):
    pass


TEMPORARY = [
    socket.timeout(),
    socket.timeout('timed out'),
    ConnectionError(),
    ConnectionResetError(),
    ConnectionAbortedError(),
    ConnectionRefusedError(),
    BrokenPipeError(),
    TimeoutError(),
    InterruptedError(),
    OwnTimeout(),
    OwnClosed(),
    dugong.ConnectionClosed(),
    dugong.ConnectionClosed('message'),
    dugong.ConnectionTimedOut(),
    dugong.DNSUnavailable('host.example'),
    ssl.SSLZeroReturnError(),
    ssl.SSLEOFError(),
    ssl.SSLSyscallError(),
    ssl.SSLEOFError(8, 'EOF occurred in violation of protocol'),
    BlockingIOError(errno.EAGAIN, 'Resource temporarily unavailable'),
]


@pytest.mark.parametrize('exc', TEMPORARY, ids=repr)
def test_temporary_errors(exc: BaseException) -> None:
    assert is_temp_network_error(exc) is True


PERMANENT = [
    dugong.StateError(),
    dugong.ExcessBodyData(),
    dugong.InvalidResponse(),
    dugong.UnsupportedResponse(),
    dugong.HostnameNotResolvable('host.example'),
    dugong.HostnameNotResolvableOrDNSUnavailable('host.example'),
    dugong._GeneralError(),
    OSError(),
    OSError('no errno'),
    FileNotFoundError(errno.ENOENT, 'No such file or directory'),
    PermissionError(errno.EACCES, 'Permission denied'),
    ssl.SSLError(),
    ssl.SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version number'),
    ssl.SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'),
    socket.gaierror(socket.EAI_NONAME, 'Name or service not known'),
    socket.gaierror(socket.EAI_AGAIN, 'Temporary failure in name resolution'),
    socket.herror(1, 'Unknown host'),
    # Numbers of resolver errors are not numbers of the operating system.
    socket.gaierror(errno.EPIPE, 'not a pipe at all'),
    socket.herror(errno.ETIMEDOUT, 'not a timeout at all'),
    ValueError(),
    Exception('connection reset'),
    KeyboardInterrupt(),
    StopIteration(errno.EPIPE),
]


@pytest.mark.parametrize('exc', PERMANENT, ids=repr)
def test_permanent_errors(exc: BaseException) -> None:
    assert is_temp_network_error(exc) is False


def test_temporary_proxy_errors() -> None:
    for status in range(100, 600):
        expected = status in (408, 429) or status >= 500
        assert is_temp_network_error(ProxyError(status, 'reason')) is expected, status


def test_real_refusal_is_temporary() -> None:
    (port,) = refused_ports(1)
    with pytest.raises(OSError) as info:
        HTTPConnection('127.0.0.1', port).connect()
    assert is_temp_network_error(info.value) is True
