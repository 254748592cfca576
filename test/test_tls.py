"""The socket with TLS in memory: what passes through it, and what it says when it has to wait."""

import contextlib
import errno
import functools
import random
import select
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional

import pytest
from conftest import Certificates
from servers import LIMIT, Peer, RawTls

from dugong import ConnectionClosed, HTTPConnection
from dugong._stream import _IGNORE_UNEXPECTED_EOF, TlsSocket, _is_ragged_eof

MIB = 1 << 20


def go_on(sock: socket.socket, call: Callable[[], Any]) -> Any:
    """Repeat *call* until it need not wait any more."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        try:
            return call()
        except ssl.SSLWantReadError:
            assert select.select([sock], [], [], LIMIT)[0]
        except ssl.SSLWantWriteError:
            assert select.select([], [sock], [], LIMIT)[1]
    raise AssertionError('it goes on and on')


class Ends:
    """Both ends of a connection; the server's is a `ssl.SSLSocket` that waits."""

    def __init__(
        self, certificates: Certificates, version: ssl.TLSVersion, tickets: Optional[int] = None
    ) -> None:
        with socket.create_server(('127.0.0.1', 0)) as listener:
            ours = socket.create_connection(listener.getsockname())
            theirs, _ = listener.accept()
        # So that not much fits in between.
        for sock in (ours, theirs):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        context = certificates.server_context
        if tickets is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificates.certificate.configure_cert(context)
            context.num_tickets = tickets
        theirs.settimeout(LIMIT)
        self.theirs = context.wrap_socket(
            theirs, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=False
        )
        client_context = ssl.create_default_context()
        certificates.authority.configure_trust(client_context)
        # CPython 3.8 and 3.9 set it.
        client_context.options &= ~_IGNORE_UNEXPECTED_EOF
        client_context.minimum_version = client_context.maximum_version = version
        self.ours = TlsSocket(ours, client_context, '127.0.0.1')
        self.at_work: List[threading.Thread] = []

    def shake_hands(self) -> None:
        self.in_thread(self.theirs.do_handshake)
        go_on(self.ours, self.ours.do_handshake)
        self.wait()

    def in_thread(self, work: Callable[[], Any]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self.at_work.append(thread)
        thread.start()

    def wait(self) -> None:
        while self.at_work:
            thread = self.at_work.pop()
            thread.join(LIMIT)
            assert not thread.is_alive()

    def receive(self, size: int) -> bytes:
        """Receive *size* bytes at our end."""
        buffer = bytearray(size)
        view = memoryview(buffer)
        while view:
            got = go_on(self.ours, functools.partial(self.ours.recv_into, view))
            assert got
            view = view[got:]
        return bytes(buffer)

    def receive_there(self, size: int) -> bytes:
        """Receive *size* bytes at the other end."""
        pieces = []
        while size:
            pieces.append(self.theirs.recv(size))
            assert pieces[-1]
            size -= len(pieces[-1])
        return b''.join(pieces)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        self.wait()


@pytest.fixture(params=['TLSv1_2', 'TLSv1_3'])
def ends(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Ends]:
    with contextlib.closing(Ends(certificates, ssl.TLSVersion[request.param])) as ends:
        ends.shake_hands()
        yield ends


@pytest.mark.parametrize('seed', range(3))
def test_octets_pass_in_both_directions_at_once(ends: Ends, seed: int) -> None:
    """The server returns what it gets, and both directions are full most of the time."""
    chance = random.Random(seed)
    size = MIB
    data = memoryview(chance.getrandbits(8 * size).to_bytes(size, 'big'))

    def echo() -> None:
        left = size
        while left:
            piece = ends.theirs.recv(chance.choice([1000, 20_000]))
            ends.theirs.sendall(piece)
            left -= len(piece)

    ends.in_thread(echo)
    received = bytearray()
    buffer = memoryview(bytearray(50_000))
    sent = 0
    part = data[:0]
    end = time.monotonic() + LIMIT
    while len(received) < size:
        assert time.monotonic() < end
        if not part:
            part = data[sent : sent + chance.choice([1, 100, 16_384, 16_385, 65_536, 200_000])]
        events = {'receive': True, 'send': bool(part)}
        with contextlib.suppress(ssl.SSLWantReadError):
            got = ends.ours.recv_into(buffer[: chance.choice([1, 1000, 50_000])])
            received += buffer[:got]
            events['receive'] = False
        if part:
            with contextlib.suppress(ssl.SSLWantWriteError):
                assert ends.ours.send(part) == len(part)
                sent += len(part)
                part = data[:0]
                events['send'] = False
        if events['receive'] and (events['send'] or not part) and not ends.ours.pending():
            writers = [ends.ours] if part else []
            assert any(select.select([ends.ours], writers, [], LIMIT))
    assert received == data
    ends.wait()


def test_what_had_to_wait_is_sent_once(ends: Ends) -> None:
    data = bytes(range(256)) * (4 * MIB // 256)
    with pytest.raises(ssl.SSLWantWriteError) as caught:
        ends.ours.send(data)
    assert caught.value.errno == ssl.SSL_ERROR_WANT_WRITE
    received: List[bytes] = []
    ends.in_thread(lambda: received.append(ends.receive_there(len(data))))
    assert go_on(ends.ours, lambda: ends.ours.send(data)) == len(data)
    ends.wait()
    assert received == [data]


def test_much_leaves_in_portions_of_one_packet(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loopback interface has packets of 65,483 bytes, and to split a portion takes time."""
    sizes: List[int] = []

    def send(sock: Any, data: Any) -> int:
        sizes.append(len(data))
        return len(data)

    monkeypatch.setattr('dugong._stream._send', send)
    assert ends.ours.send(bytes(MIB)) == MIB
    *portions, rest = sizes
    assert set(portions) == {65483}
    # That of TLS is added to it.
    assert MIB < sum(sizes) < MIB + 5000
    assert rest < 2 * 65483


def test_less_than_before_cannot_be_sent(ends: Ends) -> None:
    with pytest.raises(ssl.SSLWantWriteError):
        ends.ours.send(bytes(4 * MIB))
    with pytest.raises(ValueError, match='less data'):
        ends.ours.send(b'x')


def test_memory_of_the_caller_is_free_after_a_wait(ends: Ends) -> None:
    data = bytearray(4 * MIB)
    with pytest.raises(ssl.SSLWantWriteError):
        ends.ours.send(data)
    # Not possible as long as somebody has a view of it.
    data.clear()


def test_records_in_memory_are_pending(ends: Ends) -> None:
    assert ends.ours.pending() == 0
    ends.theirs.sendall(b'first')
    ends.theirs.sendall(b'second')
    # Both have to be there when the first one is received.
    assert select.select([ends.ours], [], [], LIMIT)[0]
    end = time.monotonic() + LIMIT
    # Each has a tag of 16 bytes.
    while len(ends.ours.recv(MIB, socket.MSG_PEEK)) < 2 * len(b'first') + 2 * 16:
        assert time.monotonic() < end
    assert ends.receive(5) == b'first'
    assert ends.ours.pending() > 0
    assert ends.receive(6) == b'second'
    with pytest.raises(ssl.SSLWantReadError) as caught:
        ends.ours.recv_into(bytearray(1))
    assert caught.value.errno == ssl.SSL_ERROR_WANT_READ
    assert ends.ours.pending() == 0


def test_rest_of_a_record_is_pending(ends: Ends) -> None:
    ends.theirs.sendall(b'hello')
    assert ends.receive(2) == b'he'
    assert ends.ours.pending() >= 3
    assert ends.receive(3) == b'llo'


def test_end_can_be_asked_for_again(ends: Ends) -> None:
    ends.theirs.sendall(b'hello')
    ends.theirs.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.theirs.unwrap()
    assert ends.receive(5) == b'hello'
    buffer = bytearray(10)
    for _ in range(3):
        assert go_on(ends.ours, lambda: ends.ours.recv_into(buffer)) == 0
        assert ends.ours.pending() > 0


def test_end_without_notice_is_an_error(ends: Ends) -> None:
    ends.theirs.sendall(b'hello')
    socket.socket.shutdown(ends.theirs, socket.SHUT_WR)
    assert ends.receive(5) == b'hello'
    with pytest.raises(ssl.SSLError) as caught:
        go_on(ends.ours, lambda: ends.ours.recv_into(bytearray(10)))
    assert _is_ragged_eof(caught.value)
    # The next time it has another name.
    with pytest.raises(ssl.SSLError):
        go_on(ends.ours, lambda: ends.ours.recv_into(bytearray(10)))


def test_reset_is_the_error_of_the_system(ends: Ends) -> None:
    ends.theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
    ends.theirs.close()
    with pytest.raises(ConnectionResetError):
        go_on(ends.ours, lambda: ends.ours.recv_into(bytearray(10)))


def test_reset_that_meets_an_answer_of_tls_itself_comes_after_the_data(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sock: Any, data: Any) -> int:
        raise ConnectionResetError(errno.ECONNRESET, 'reset')

    # It stands for the answer.
    ends.ours._outgoing.write(b'answer')
    monkeypatch.setattr('dugong._stream._send', fail)
    with pytest.raises(ssl.SSLWantReadError):
        ends.ours.recv_into(bytearray(10))
    ends.theirs.sendall(b'hello')
    socket.socket.shutdown(ends.theirs, socket.SHUT_WR)
    assert ends.receive(5) == b'hello'
    for call in (lambda: ends.ours.recv_into(bytearray(10)), lambda: ends.ours.send(b'x')):
        with pytest.raises(ConnectionResetError):
            go_on(ends.ours, call)


def test_server_is_told_that_the_connection_ends(ends: Ends) -> None:
    with contextlib.suppress(ssl.SSLWantReadError):
        ends.ours.unwrap()
    ends.ours.close()
    assert ends.theirs.recv(10) == b''


def test_nothing_more_of_what_was_given_up_is_sent_at_the_end(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ssl.SSLWantWriteError):
        ends.ours.send(bytes(4 * MIB))
    sent: List[bytes] = []
    monkeypatch.setattr('dugong._stream._send', lambda sock, data: sent.append(data))
    ends.ours.unwrap()
    assert sent == []


def test_server_is_told_why_the_handshake_failed(certificates: Certificates) -> None:
    with contextlib.closing(Ends(certificates, ssl.TLSVersion.TLSv1_3)) as ends:
        errors: List[str] = []

        def work() -> None:
            try:
                ends.theirs.do_handshake()
                # With TLS 1.3 that is when the server gets to know.
                ends.theirs.recv(1)
            except ssl.SSLError as exc:
                errors.append(exc.reason)

        ends.in_thread(work)
        sock = ends.ours
        plain = socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        # It trusts nobody.
        ends.ours = TlsSocket(plain, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), '127.0.0.1')
        with pytest.raises(ssl.SSLCertVerificationError):
            go_on(ends.ours, ends.ours.do_handshake)
        ends.wait()
        assert errors == ['TLSV1_ALERT_UNKNOWN_CA']


def test_messages_of_tls_itself_are_not_received_for_ever(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others get their turn although there is always more to receive."""
    with contextlib.closing(Ends(certificates, ssl.TLSVersion.TLSv1_3, tickets=40)) as ends:
        ends.shake_hands()
        ends.theirs.sendall(b'data')
        monkeypatch.setattr('dugong._stream._tls_buffers', [memoryview(bytearray(200))])
        target = bytearray(10)
        turns = 0
        while True:
            try:
                size = ends.ours.recv_into(target)
                break
            except ssl.SSLWantReadError:
                turns += bool(select.select([ends.ours], [], [], 0)[0])
                assert select.select([ends.ours], [], [], LIMIT)[0]
        assert target[:size] == b'data'
        assert turns > 3


def test_socket_is_left_alone_if_the_context_refuses() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(ValueError):
            TlsSocket(ours, ssl.create_default_context(), '.example')
        assert ours.fileno() >= 0


def test_certificate_and_the_like_can_be_asked_for(ends: Ends) -> None:
    assert ('IP Address', '127.0.0.1') in ends.ours.getpeercert()['subjectAltName']
    assert ends.ours.cipher() == ends.theirs.cipher()
    assert isinstance(ends.ours, socket.socket)
    with pytest.raises(AttributeError):
        _ = ends.ours.no_such_thing


@pytest.mark.parametrize('version', ['TLSv1_2', 'TLSv1_3'])
def test_what_comes_with_the_handshake_is_not_waited_for(
    connect: Any, serve: Any, certificates: Certificates, version: str
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.certificate.configure_cert(context)
    context.maximum_version = ssl.TLSVersion[version]
    answer = b'HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\nhi'

    def handle(peer: Peer) -> None:
        RawTls(peer, context, answer)
        peer.read_to_eof()

    conn = connect(serve(handle), ssl_context=certificates.client_context)
    conn.send_request('GET', '/')
    assert conn.read_response().status == 503
    assert conn.readall() == b'hi'


def test_end_behind_a_response_is_noticed_before_the_next_request(
    connect: Any, serve: Any, certificates: Certificates
) -> None:
    def handle(peer: Peer) -> None:
        server = RawTls(peer, certificates.server_context)
        server.read_request()
        response = server.record(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello')
        # All at once; the TCP connection stays open.
        peer.send(response + server.notice())
        peer.read_to_eof()

    conn = connect(serve(handle), ssl_context=certificates.client_context)
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readall() == b'hello'
    conn.send_request('POST', '/')
    with pytest.raises(ConnectionClosed, match='closed the idle connection'):
        conn.read_response()


def test_excess_is_noticed_even_if_others_should_have_a_turn(
    connect: Any, serve: Any, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('dugong._stream.BURST', 1)

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello')
        assert go.wait(LIMIT)
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        peer.read_to_eof()

    go = threading.Event()
    conn = connect(serve(handle, tls=True))
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readall() == b'hello'
    go.set()
    assert select.select([conn._sock], [], [], LIMIT)[0]
    conn.send_request('POST', '/')
    with pytest.raises(ConnectionClosed, match='beyond the end'):
        conn.read_response()


def test_reset_that_only_an_answer_of_tls_itself_meets_is_not_lost(
    connect: Any, serve: Any, certificates: Certificates
) -> None:
    """The kernel reports it once, to what OpenSSL sends while something is received."""
    reset = threading.Event()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.certificate.configure_cert(context)
    certificates.authority.configure_trust(context)
    context.post_handshake_auth = True
    context.verify_mode = ssl.CERT_OPTIONAL

    def handle(peer: Peer) -> None:
        server = RawTls(peer, context)
        server.read_request()
        peer.send(server.record(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n'))
        server.tls.verify_client_post_handshake()
        with contextlib.suppress(ssl.SSLError):
            server.tls.do_handshake()
        peer.send(server.record(b'part of a body'))
        peer.reset()
        reset.set()

    client_context = ssl.create_default_context()
    certificates.authority.configure_trust(client_context)
    client_context.post_handshake_auth = True
    conn = connect(serve(handle), ssl_context=client_context)
    conn.send_request('GET', '/')
    assert conn.read_response().status == 200
    assert reset.wait(LIMIT)
    with pytest.raises(ConnectionClosed):
        conn.readall()


class OwnSocket(ssl.SSLSocket):
    """What somebody wants to have instead."""


def test_context_that_makes_its_own_sockets_is_asked_for_one(
    connect: Any, serve: Any, certificates: Certificates
) -> None:
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context.sslsocket_class = OwnSocket
    conn = connect(serve(lambda peer: peer.read_to_eof(), tls=True), ssl_context=context)
    conn.connect()
    assert type(conn._sock) is OwnSocket


@pytest.fixture
def openssl_server(certificates: Certificates, tmp_path: Path) -> Iterator[Any]:
    """`openssl s_server` and its port: it sends what it is given, and can change the keys."""
    openssl = shutil.which('openssl')
    if openssl is None:
        pytest.skip('needs the openssl command')
    certificate = certificates.authority.issue_cert('127.0.0.1')
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / 'server.pem'))
    with socket.create_server(('127.0.0.1', 0)) as sock:
        port = sock.getsockname()[1]
    process = subprocess.Popen(
        [openssl, 's_server', '-accept', str(port), '-cert', str(tmp_path / 'server.pem')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        yield process, port
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize('command', [b'k', b'K'], ids=['new keys', 'new keys for both'])
def test_server_changes_the_keys(
    openssl_server: Any, certificates: Certificates, command: bytes
) -> None:
    process, port = openssl_server
    shown = bytearray()

    def wait_for(text: bytes) -> None:
        while text not in shown:
            assert select.select([process.stdout], [], [], LIMIT)[0]
            data = process.stdout.read1(MIB)
            assert data, bytes(shown)
            shown.extend(data)
        shown.clear()

    def type_in(text: bytes) -> None:
        process.stdin.write(text)
        process.stdin.flush()

    wait_for(b'ACCEPT')
    with HTTPConnection('127.0.0.1', port, certificates.client_context) as conn:
        conn.timeout = LIMIT
        for number in range(4):
            conn.send_request('GET', f'/{number}')
            wait_for(b'GET /%d HTTP/1.1' % number)
            # The first time, there are session tickets to receive.
            if number:
                type_in(command + b'\n')
                assert select.select([conn._sock], [], [], LIMIT)[0]
            type_in(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello')
            assert conn.read_response().status == 200
            assert conn.readall() == b'hello'
