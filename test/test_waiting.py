"""What every driver of coroutines must do, whichever event loop it belongs to.

The drivers are the blocking one, `AioFuture` on asyncio's and on uvloop's event loop, and the
recipes of `examples/trio_get.py` and `examples/own_loop.py`.
"""

import fcntl
import os
import resource
import select
import socket
import ssl
import sys
import termios
import threading
import time
from decimal import Decimal
from typing import Any, Callable, Iterator, List, Optional, Tuple

import pytest
from conftest import Certificates
from contract_support import DuckSocket
from servers import Peer, RawTls
from waiting_support import (
    DRIVERS,
    LIMIT,
    REPLY,
    Blocking,
    Counted,
    Crt,
    Driver,
    Thread,
    Trio,
    answer_all,
    black_hole,
    driver_params,
    needs_proc,
    nothing_left,
    notified,
    set_small_buffer,
    signal_storm,
)

import dugong
from dugong import (
    POLLIN,
    POLLOUT,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    _stream,
)

Pair = Tuple[socket.socket, socket.socket]


@pytest.fixture(params=driver_params(DRIVERS))
def driver(request: pytest.FixtureRequest) -> Driver:
    return request.param


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


#: More than the kernel takes without anybody receiving it, see `set_small_buffer`.
SIZE = 1_000_000


class Boom(Exception):
    pass


def wait(sock: socket.socket, mask: int) -> 'Crt[int]':
    yield PollNeeded(sock.fileno(), mask)
    return sock.fileno()


def fill(sock: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def drain(sock: socket.socket) -> None:
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sock.recv(1 << 20)


def when_waiting(crt: 'Crt[Any]', function: Callable[..., Any], *args: Any) -> 'Crt[Any]':
    """Run *crt*; another thread calls *function* once it waits."""
    waiting = threading.Event()

    def work() -> None:
        assert waiting.wait(LIMIT)
        function(*args)

    thread = Thread(work)
    try:
        return (yield from notified(crt, waiting))
    finally:
        thread.finish()


# Results


def test_result_without_a_wait(driver: Driver) -> None:
    def crt() -> 'Crt[str]':
        return 'result'
        yield

    assert driver.run(crt()) == 'result'


def test_exception_without_a_wait(driver: Driver) -> None:
    def crt() -> 'Crt[None]':
        raise Boom
        yield

    with pytest.raises(Boom):
        driver.run(crt())


def test_exception_after_a_wait(driver: Driver, pair: Pair) -> None:
    def crt() -> 'Crt[None]':
        yield from wait(pair[0], POLLOUT)
        raise Boom

    with pytest.raises(Boom):
        driver.run(crt())


# Readiness


@pytest.mark.parametrize('mask', [POLLIN, POLLIN | POLLOUT])
def test_input_that_is_there_already(driver: Driver, pair: Pair, mask: int) -> None:
    fill(pair[0])
    pair[1].send(b'x')
    assert driver.run(wait(pair[0], mask)) == pair[0].fileno()


@pytest.mark.parametrize('mask', [POLLIN, POLLIN | POLLOUT])
def test_input_that_comes_later(driver: Driver, pair: Pair, mask: int) -> None:
    fill(pair[0])
    driver.run(when_waiting(wait(pair[0], mask), pair[1].send, b'x'))


@pytest.mark.parametrize('mask', [POLLOUT, POLLIN | POLLOUT])
def test_room_that_is_there_already(driver: Driver, pair: Pair, mask: int) -> None:
    driver.run(wait(pair[0], mask))


@pytest.mark.parametrize('mask', [POLLOUT, POLLIN | POLLOUT])
def test_room_that_comes_later(driver: Driver, pair: Pair, mask: int) -> None:
    fill(pair[0])
    driver.run(when_waiting(wait(pair[0], mask), drain, pair[1]))


@pytest.mark.parametrize('mask', [POLLIN, POLLOUT, POLLIN | POLLOUT])
def test_hang_up(driver: Driver, pair: Pair, mask: int) -> None:
    fill(pair[0])
    driver.run(when_waiting(wait(pair[0], mask), pair[1].close))


def test_one_wait_after_the_other(driver: Driver, pair: Pair) -> None:
    """In changing directions, on one descriptor and on another."""
    other, another = socket.socketpair()

    def crt() -> 'Crt[bytes]':
        result = b''
        for _ in range(50):
            yield PollNeeded(pair[0].fileno(), POLLOUT)
            pair[0].send(b'a')
            pair[1].send(b'b')
            yield PollNeeded(pair[0].fileno(), POLLIN)
            result += pair[0].recv(1)
            another.send(b'c')
            yield PollNeeded(other.fileno(), POLLIN | POLLOUT)
            result += other.recv(1)
        return result

    with other, another:
        assert driver.run(crt()) == b'bc' * 50


def test_two_wait_for_the_two_directions_of_a_socket(driver: Driver, pair: Pair) -> None:
    fill(pair[0])

    def make_room() -> 'Crt[str]':
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        return 'sent'

    def receive() -> 'Crt[bytes]':
        yield PollNeeded(pair[0].fileno(), POLLIN)
        drain(pair[1])
        return pair[0].recv(10)

    def send() -> 'Crt[str]':
        pair[1].send(b'x')
        return 'started'
        yield

    assert driver.run_all([make_room(), receive(), send()]) == ['sent', b'x', 'started']


def test_two_wait_for_the_same_direction_of_a_socket(driver: Driver, pair: Pair) -> None:
    """TLS makes that legal: a sender may have to receive, and a receiver to send."""

    def send() -> 'Crt[None]':
        pair[1].send(b'x')
        return
        yield

    waits = [wait(pair[0], mask) for mask in (POLLIN, POLLIN, POLLIN | POLLOUT)]
    fill(pair[0])
    assert driver.run_all([*waits, send()]) == [pair[0].fileno()] * 3 + [None]


# Time limits


def test_timeout(driver: Driver, pair: Pair) -> None:
    ended = []

    def crt() -> 'Crt[None]':
        try:
            yield from wait(pair[0], POLLIN)
        finally:
            ended.append(True)

    began = time.monotonic()
    with pytest.raises(driver.timed_out):
        driver.run(crt(), 0.05)
    assert 0.049 <= time.monotonic() - began < 5
    assert ended == [True]


def test_timeout_of_an_operation(driver: Driver, connect: Any, transport: str) -> None:
    conn = connect(lambda peer: peer.read_to_eof())
    conn.send_request('GET', '/')
    for _ in range(2):
        with pytest.raises(driver.timed_out):
            driver.run(conn.co_read_response(), 0.02)
    assert conn.response_pending()


def test_no_timeout_if_it_happens_in_time(driver: Driver, pair: Pair) -> None:
    driver.run(when_waiting(wait(pair[0], POLLIN), pair[1].send, b'x'), LIMIT)


@pytest.mark.slow
def test_timeout_bounds_each_wait_and_not_their_sum(driver: Driver, pair: Pair) -> None:
    if isinstance(driver, Trio):
        pytest.skip('time limits of Trio are of another kind')

    def crt() -> 'Crt[None]':
        for _ in range(3):
            timer = threading.Timer(0.12, pair[1].send, [b'x'])
            timer.start()
            yield from wait(pair[0], POLLIN)
            pair[0].recv(1)
            timer.join()

    began = time.monotonic()
    driver.run(crt(), 0.3)
    assert time.monotonic() - began >= 0.35


# Cancelling


def test_cancel_ends_the_coroutine(driver: Driver, pair: Pair) -> None:
    ended = []

    def crt() -> 'Crt[None]':
        try:
            yield from wait(pair[0], POLLIN)
        finally:
            ended.append(True)

    driver.cancel(crt())
    assert ended == [True]
    # Nothing is left that watches the descriptor.
    pair[1].send(b'x')
    driver.run(wait(pair[0], POLLIN))


def test_cancelled_read_loses_nothing(driver: Driver, connect: Any, transport: str) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        assert go.wait(LIMIT)
        peer.respond(b'hello')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    driver.cancel(conn.co_read_response())
    go.set()
    assert driver.run(conn.co_read_response()).status == 200
    assert driver.run(conn.co_readall()) == b'hello'


def test_cancelled_upload_breaks_the_connection(
    driver: Driver, connect: Any, transport: str
) -> None:
    conn = connect(Peer.hold)
    conn.connect()
    set_small_buffer(conn._sock)
    driver.cancel(conn.co_send_request('PUT', '/', body=bytes(SIZE)))
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    assert conn._sock is None


@needs_proc
def test_cancelled_connect_leaves_nothing(driver: Driver) -> None:
    with black_hole() as address, nothing_left():
        conn = HTTPConnection(*address)
        driver.cancel(conn.co_connect())
        assert conn._sock is None


def test_upload_behind_an_unread_answer_times_out_in_sending(connect: Any, transport: str) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'body')
        peer.hold()

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.read(1)
    conn.timeout = 0.05
    with pytest.raises(ConnectionTimedOut, match='0.05 s to send'):
        conn.send_request('PUT', '/', body=bytes(20_000_000))


# Closed by another thread


@pytest.mark.parametrize('read', ['co_read_response', 'co_read', 'co_readall', 'co_discard'])
def test_disconnect_by_another_thread_ends_a_read(
    driver: Driver, connect: Any, transport: str, read: str
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        if read != 'co_read_response':
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    arguments: Tuple[Any, ...] = ()
    if read != 'co_read_response':
        conn.read_response()
        arguments = (10,) if read == 'co_read' else ()
    crt = getattr(conn, read)(*arguments)
    with pytest.raises(ConnectionClosed, match='disconnect'):
        driver.run(when_waiting(crt, conn.disconnect))
    assert conn._sock is None


def test_disconnect_by_another_thread_ends_a_send(
    driver: Driver, connect: Any, transport: str
) -> None:
    conn = connect(Peer.hold)
    conn.connect()
    set_small_buffer(conn._sock)
    crt = conn.co_send_request('PUT', '/', body=bytes(SIZE))
    with pytest.raises(ConnectionClosed, match='disconnect'):
        driver.run(when_waiting(crt, conn.disconnect))
    assert conn._sock is None


def test_disconnect_by_another_thread_ends_a_connect(driver: Driver) -> None:
    with black_hole() as address:
        conn = HTTPConnection(*address)
        with pytest.raises(ConnectionClosed, match='disconnect'):
            driver.run(when_waiting(conn.co_connect(), conn.disconnect))
        assert conn._sock is None


def test_disconnect_ends_a_sender_and_a_reader(
    driver: Driver, connect: Any, transport: str
) -> None:
    """Both wait for one socket when it is closed."""
    conn = connect(Peer.hold)
    conn.connect()
    set_small_buffer(conn._sock)

    def expect_closed(crt: 'Crt[Any]') -> 'Crt[bool]':
        with pytest.raises(ConnectionClosed, match='disconnect'):
            yield from crt
        return True

    def disconnect() -> 'Crt[None]':
        conn.disconnect()
        return
        yield

    assert driver.run_all(
        [
            expect_closed(conn.co_send_request('PUT', '/', body=bytes(SIZE))),
            expect_closed(conn.co_read_response()),
            disconnect(),
        ]
    ) == [True, True, None]
    assert conn._sock is None


# Large descriptors


def test_descriptor_above_1024(driver: Driver, pair: Pair) -> None:
    fd = fcntl.fcntl(pair[0].fileno(), fcntl.F_DUPFD, 1500)
    try:
        with socket.socket(fileno=os.dup(fd)) as sock:
            driver.run(when_waiting(wait(sock, POLLIN), pair[1].send, b'x'))
    finally:
        os.close(fd)


@pytest.mark.slow
def test_connection_with_descriptors_above_1024(
    driver: Driver, connect: Any, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is opened on the way, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 2000:
        pytest.skip('cannot have so many descriptors')
    if soft != resource.RLIM_INFINITY and soft < 2000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (2000, hard))
    conn = connect(answer_all())
    conn.hostname = 'localhost'
    resolved = socket.getaddrinfo('127.0.0.1', conn.port, 0, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args: resolved)
    null = os.open(os.devnull, os.O_RDONLY)
    occupied = [null]
    try:
        while occupied[-1] < 1100:
            occupied.append(os.dup(null))
        driver.run(conn.co_send_request('GET', '/'))
        assert conn._sock.fileno() > 1024
        assert driver.run(conn.co_read_response()).status == 200
        assert driver.run(conn.co_readall()) == b'hello'
    finally:
        for fd in occupied:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# No busy loops


@pytest.mark.slow
def test_idle_wait_wakes_up_once(driver: Driver, pair: Pair) -> None:
    timer = threading.Timer(0.2, pair[1].send, [b'x'])
    timer.start()
    counted = Counted(wait(pair[0], POLLIN))
    used = time.process_time()
    driver.run(counted.crt)
    used = time.process_time() - used
    timer.join()
    assert counted.waits == 1
    # Not by waking up in a place where it is not counted, either.
    assert used < 0.15


@pytest.mark.slow
def test_waiting_for_a_response_wakes_up_once(
    driver: Driver, connect: Any, transport: str
) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        assert go.wait(LIMIT)
        peer.respond(b'hello')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    counted = Counted(conn.co_read_response())
    timer = threading.Timer(0.2, go.set)
    timer.start()
    driver.run(counted.crt)
    timer.join()
    # TLS may have session tickets arrive before.
    assert counted.waits <= 3


class Waits:
    """Notes how `select.poll` is used."""

    def __init__(self) -> None:
        self._system_poll = select.poll
        self.looked = threading.Semaphore(0)
        self.slept = threading.Semaphore(0)
        self.sleeps = 0

    def __call__(self) -> Any:
        return self._Poller(self, self._system_poll())

    class _Poller:
        def __init__(self, waits: 'Waits', poller: Any) -> None:
            self._waits = waits
            self._poller = poller
            self.register = poller.register

        def poll(self, timeout: Any = None) -> List[Any]:
            if timeout == 0:
                self._waits.looked.release()
            else:
                self._waits.sleeps += 1
                self._waits.slept.release()
            return self._poller.poll(timeout)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    """Has answers looked for until the test fails."""
    waits = Waits()
    monkeypatch.setattr(select, 'poll', waits)
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', 100 * LIMIT)
    return waits


def test_answer_is_looked_for(connect: Any, waits: Waits) -> None:
    def handle(peer: Peer) -> None:
        for _ in range(2):
            peer.read_request()
            for _ in range(10):
                assert waits.looked.acquire(timeout=LIMIT)
            peer.respond(b'hello')
        peer.read_to_eof()

    conn = connect(handle)
    conn.connect()
    waits.sleeps = 0
    for _ in range(2):
        conn.send_request('GET', '/')
        conn.read_response()
        assert conn.readall() == b'hello'
    assert waits.sleeps == 0


def test_body_is_slept_for_and_the_next_answer_is_looked_for(connect: Any, waits: Waits) -> None:
    """While a thread sleeps, more of a body arrives, and it is received with fewer calls."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        # Those from connecting.
        while waits.slept.acquire(blocking=False):
            pass
        peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
        # Less than the time limit of the connection, which ends a busy wait, too.
        assert waits.slept.acquire(timeout=LIMIT / 4)
        peer.send(b'5\r\nhello\r\n0\r\n\r\n')
        peer.read_request()
        while waits.looked.acquire(blocking=False):
            pass
        for _ in range(10):
            assert waits.looked.acquire(timeout=LIMIT)
        peer.respond(b'hello again')
        peer.read_to_eof()

    conn = connect(handle)
    for body in (b'hello', b'hello again'):
        conn.send_request('GET', '/')
        conn.read_response()
        assert conn.readall() == body


@pytest.mark.parametrize('blocking', [True, False])
def test_reader_waits_until_tls_can_send_first(connect: Any, blocking: bool) -> None:
    """What TLS has in its memory meanwhile is not what the descriptor tells of."""

    class SendsFirst(DuckSocket):
        received = b''

        def recv_into(self, view: memoryview) -> int:
            if not self.received:
                self.received = self._plain.recv(len(view))
                raise ssl.SSLWantWriteError
            size = len(self.received)
            view[:size] = self.received
            return size

    conn = connect(answer_all())
    conn.connect()
    conn.timeout = LIMIT / 4
    conn._sock = SendsFirst(conn._sock)
    conn.send_request('GET', '/')
    if blocking:
        assert conn.read_response().status == 200
    else:
        assert dugong.eval_coroutine(conn.co_read_response(), conn.timeout).status == 200


def test_blocking_readinto_waits_for_no_turn(connect: Any, waits: Waits) -> None:
    """However much has come: nothing else could be done in this thread meanwhile."""

    class Endless(socket.socket):
        __slots__ = ()

        def recv_into(self, view: Any, *args: Any) -> int:
            return len(view)

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n')
        assert headed.wait(LIMIT)
        peer.send(bytes(1 << 10))
        peer.read_to_eof()

    headed = threading.Event()
    target = bytearray(1 << 20)
    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    conn._sock.__class__ = Endless
    headed.set()
    assert conn.readinto(target) == len(target)
    before = waits.sleeps
    for _ in range(8):
        assert conn.readinto(target) == len(target)
    assert waits.sleeps == before


def test_answer_after_a_large_body_is_not_received_in_vain(connect: Any) -> None:
    """A failing call costs more than to wait first."""
    in_vain = 0

    class Counting(socket.socket):
        __slots__ = ()

        def recv_into(self, *args: Any) -> int:
            nonlocal in_vain
            try:
                return super().recv_into(*args)
            except BlockingIOError:
                in_vain += 1
                raise

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(body)
        peer.read_request()
        assert asked.wait(LIMIT)
        peer.respond(b'small')
        peer.read_to_eof()

    body = bytes(1_000_000)
    asked = threading.Event()
    conn = connect(handle)
    conn.connect()
    conn._sock.__class__ = Counting
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readall() == body
    conn.send_request('GET', '/')
    in_vain = 0
    response = conn.co_read_response()
    # It waits.
    next(response)
    assert in_vain == 0
    asked.set()
    assert dugong.eval_coroutine(response, LIMIT).status == 200
    assert conn.readall() == b'small'


def receive_buffer(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)


def low_water(sock: socket.socket) -> int:
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel is another one')
def test_large_body_has_the_kernel_receive_ahead(connect: Any) -> None:
    size, ahead = 1 << 20, 1 << 19
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, ahead)
        if receive_buffer(other) < ahead:
            pytest.skip('the kernel does not do that')

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(bytes(1000))
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        assert asked.wait(LIMIT)
        peer.send(bytes(size))
        peer.read_to_eof()

    asked = threading.Event()
    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.readall()
    assert receive_buffer(conn._sock) < ahead
    conn.send_request('GET', '/')
    conn.read_response()
    body = conn.co_readall()
    next(body)
    assert receive_buffer(conn._sock) >= ahead
    # In an event loop each byte wakes it up.
    assert low_water(conn._sock) == 1
    asked.set()
    assert len(dugong.eval_coroutine(body, LIMIT)) == size
    assert low_water(conn._sock) == 1


class Received:
    """Notes what each call that receives has brought, once `watch` has the connection."""

    def __init__(self) -> None:
        self.sizes: List[int] = []
        self.one_more = threading.Semaphore(0)

    def watch(self, conn: HTTPConnection) -> None:
        received = self

        class Watched(socket.socket):
            __slots__ = ()

            def recv_into(self, *args: Any) -> int:
                size = super().recv_into(*args)
                received.sizes.append(size)
                received.one_more.release()
                return size

        conn.connect()
        conn._sock.__class__ = Watched


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel is another one')
def test_pieces_of_a_large_body_are_received_together(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        assert received.one_more.acquire(timeout=LIMIT)
        for _ in range(100):
            peer.send(bytes(size // 100))
        peer.read_to_eof()

    monkeypatch.setattr(_stream, '_GATHER_SECONDS', LIMIT / 2)
    size = 200_000
    received = Received()
    conn = connect(handle)
    received.watch(conn)
    conn.send_request('GET', '/')
    conn.read_response()
    assert len(conn.readall()) == size
    assert received.sizes[1:] == [size]


def read_pieces(conn: HTTPConnection, size: int) -> List[bytes]:
    """Read a body into a buffer of *size* bytes."""
    buffer = bytearray(size)
    pieces = []
    while True:
        length = conn.readinto(buffer)
        if not length:
            return pieces
        pieces.append(bytes(buffer[:length]))


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel is another one')
@pytest.mark.parametrize('tls', [False, True])
def test_large_buffer_is_filled_at_once(
    connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """If it does not take long."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
        assert asked.wait(LIMIT)
        for number in range(100):
            peer.send(bytes([number]) * (size // 100))
        peer.read_to_eof()

    def receive(*args: Any) -> int:
        received.append(real(*args))
        return received[-1]

    monkeypatch.setattr(_stream, '_GATHER_SECONDS', LIMIT / 2)
    size = 200_000
    asked = threading.Event()
    received: List[int] = []
    conn = connect(serve(handle, tls=tls))
    conn.send_request('GET', '/')
    conn.read_response()
    real = _stream._recv_into
    monkeypatch.setattr(_stream, '_recv_into', receive)
    asked.set()
    pieces = read_pieces(conn, 2 * size)
    assert b''.join(pieces) == b''.join(bytes([n]) * (size // 100) for n in range(100))
    if tls:
        # The first one is a part of what was waited for, as its memory is smaller.
        assert received[0] == _stream._TLS_RECEIVED
    else:
        assert len(pieces) == 1


@pytest.mark.parametrize('tls', [False, True])
def test_slow_pieces_are_read_into_a_large_buffer(connect: Any, serve: Any, tls: bool) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n')
        for _ in range(5):
            assert go.acquire(timeout=LIMIT)
            peer.send(b'x')
        peer.read_to_eof()

    go = threading.Semaphore(0)
    conn = connect(serve(handle, tls=tls))
    conn.send_request('GET', '/')
    conn.read_response()
    buffer = bytearray(1_000_000)
    for _ in range(5):
        go.release()
        assert conn.readinto(buffer) == 1
    conn.timeout = 0.1
    with pytest.raises(ConnectionTimedOut):
        conn.readinto(buffer)


def trickle(peer: Peer, size: int, received: Received) -> None:
    """Answer with a body of *size* bytes, of which five come one at a time."""
    peer.read_request()
    peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
    for _ in range(5):
        assert received.one_more.acquire(timeout=LIMIT)
        peer.send(b'x')
    assert received.one_more.acquire(timeout=LIMIT)
    peer.send(bytes(size - 5))
    peer.read_to_eof()


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel is another one')
def test_pieces_are_not_waited_for_where_that_has_taken_long(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow line, one piece is taken while the next one arrives."""

    def handle(peer: Peer) -> None:
        for first in size, 1:
            peer.read_request()
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % size)
            assert received.one_more.acquire(timeout=LIMIT)
            peer.send(bytes(first))
            assert received.one_more.acquire(timeout=LIMIT)
            peer.send(bytes(size - first))
        peer.read_to_eof()

    monkeypatch.setattr(_stream, '_GATHER_SECONDS', 2 * LIMIT)
    monkeypatch.setattr(_stream, '_NAP', 0)
    monkeypatch.setattr(_stream, '_FAST', 1e30)
    size = 200_000
    received = Received()
    conn = connect(handle)
    received.watch(conn)
    conn.timeout = None
    for _ in range(2):
        conn.send_request('GET', '/')
        conn.read_response()
        assert len(conn.readall()) == size
    # After one such wait comes one without.
    assert received.sizes[1] == size and received.sizes[3:] == [1, size - 1]


@pytest.mark.parametrize('size', [100_000, 1_000_000, 10_000_000])
def test_slow_piece_of_a_large_body_is_received(connect: Any, size: int) -> None:
    received = Received()
    conn = connect(lambda peer: trickle(peer, size, received))
    received.watch(conn)
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readall() == b'xxxxx' + bytes(size - 5)
    assert received.sizes[1:6] == [1] * 5


def test_slow_pieces_of_a_large_body_do_not_time_out(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if much is waited for as long as anything is."""
    monkeypatch.setattr(_stream, '_GATHER_SECONDS', LIMIT)
    size = 1_000_000
    received = Received()
    conn = connect(lambda peer: trickle(peer, size, received))
    received.watch(conn)
    conn.timeout = 0.5
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readall() == b'xxxxx' + bytes(size - 5)


@pytest.mark.skipif(sys.platform != 'linux', reason='the kernel is another one')
def test_driver_may_go_on_after_a_wait_for_much_was_broken_off(connect: Any) -> None:
    """Anything that comes then must end the next wait, as ever."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
        assert received.one_more.acquire(timeout=LIMIT)
        peer.send(bytes(50_000))
        assert received.one_more.acquire(timeout=LIMIT)
        peer.send(bytes(50_000))
        peer.read_to_eof()

    received = Received()
    conn = connect(handle)
    received.watch(conn)
    conn.send_request('GET', '/')
    conn.read_response()
    body = conn.co_readall()
    need = next(body)
    # As if a signal handler had raised just before it is put right.
    need.raised = True
    conn._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 100_000)
    assert next(body) is not need
    assert low_water(conn._sock) == 1
    assert dugong.eval_coroutine(body, LIMIT) == bytes(100_000)


@pytest.mark.parametrize('limit', [Decimal('0.0005'), Decimal('0.3'), 0.0005, 0])
def test_kinds_of_time_limits_of_a_large_body(connect: Any, limit: Any) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n')
        peer.hold()

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.timeout = limit
    with pytest.raises(ConnectionTimedOut):
        conn.readall()


@pytest.mark.parametrize('gathered', [0.001, 10.0])
def test_time_limit_of_a_large_body(
    connect: Any, monkeypatch: pytest.MonkeyPatch, gathered: float
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n' + bytes(500_000))
        peer.hold()

    monkeypatch.setattr(_stream, '_GATHER_SECONDS', gathered)
    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.timeout = 0.3
    begin = time.monotonic()
    with pytest.raises(ConnectionTimedOut, match='0.3 s to receive'):
        conn.readall()
    # Once while more was to come, and once when it had stopped.
    assert 0.3 <= time.monotonic() - begin < LIMIT / 2
    with pytest.raises(ConnectionClosed):
        conn.readall()


@pytest.mark.slow
def test_part_of_a_tls_record_does_not_keep_the_reader_busy(
    driver: Driver, serve: Any, certificates: Certificates
) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        server = RawTls(peer, certificates.server_context)
        server.read_request()
        record = server.record(REPLY)
        peer.send(record[:20])
        assert go.wait(LIMIT)
        peer.send(record[20:])
        peer.read_to_eof()

    server = serve(handle)
    conn = HTTPConnection(server.host, server.port, certificates.client_context)
    with conn:
        driver.run(conn.co_send_request('GET', '/'))
        counted = Counted(conn.co_read_response())
        timer = threading.Timer(0.2, go.set)
        timer.start()
        assert driver.run(counted.crt).status == 200
        timer.join()
        assert counted.waits <= 5
        assert driver.run(conn.co_readall()) == b'hello'


#: Three TLS records, and few enough that a kernel takes them without being asked.
RECORDS = 3 * 16384


class OddContext:
    """No `ssl.SSLContext`, but with TLS behind it."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def wrap_socket(self, sock: socket.socket, server_hostname: Optional[str]) -> socket.socket:
        sock.settimeout(LIMIT)
        sock = self._context.wrap_socket(sock, server_hostname=server_hostname)
        sock.setblocking(False)
        return sock


@pytest.fixture(params=[lambda context: context, OddContext], ids=['TLS', 'OddContext'])
def received(
    request: pytest.FixtureRequest,
    connect: Any,
    serve: Any,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> HTTPConnection:
    """A connection over TLS with a body of `RECORDS` bytes, all in the hands of the kernel.

    Others are to get their turn after each record.
    """
    monkeypatch.setattr('dugong._stream.BURST', 16384)
    # So much is received for decryption at a time, into memory of that size.
    monkeypatch.setattr('dugong._stream._TLS_RECEIVED', 16384)
    monkeypatch.setattr('dugong._stream._tls_buffers', [])
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % RECORDS)
        assert go.wait(LIMIT)
        peer.send(bytes(RECORDS))
        peer.read_to_eof()

    context = request.param(certificates.client_context)
    conn: HTTPConnection = connect(serve(handle, tls=True), ssl_context=context)
    # Data that are read go straight to who reads them.
    conn._rbuf = dugong._Buffer(1000)
    # Before the server gives up.
    conn.timeout = LIMIT / 4
    conn.send_request('GET', '/')
    conn.read_response()
    go.set()
    end = time.monotonic() + LIMIT
    there = bytes(4)
    while int.from_bytes(there, sys.byteorder) < RECORDS:
        assert time.monotonic() < end
        there = fcntl.ioctl(conn._sock, termios.FIONREAD, there)
    return conn


@pytest.mark.parametrize('rest', [1, 1000, 16383])
def test_rest_of_a_tls_record_is_there_when_others_get_their_turn(
    received: HTTPConnection, rest: int
) -> None:
    """The descriptor does not become readable for what the TLS object holds already."""
    for left in (RECORDS - rest, rest):
        while left:
            size = len(received.read(left))
            assert size
            left -= size


def test_others_get_their_turn_even_if_tls_records_are_read_in_part(
    received: HTTPConnection,
) -> None:
    waits = 0
    left = RECORDS
    while left:
        counted = Counted(received.co_read(5001))
        left -= len(dugong.eval_coroutine(counted.crt, received.timeout))
        waits += counted.waits
    # The first one is for the first record.
    assert waits >= 3


@pytest.mark.slow
@pytest.mark.parametrize(
    'early',
    [b'HTTP/1.1 100 Continue\r\n\r\n', b'HTTP/1.1 200 OK\r\n', b'HTTP/1.1 200 OK\r\n\r\n'],
    ids=['interim', 'part', 'final'],
)
def test_early_answer_does_not_keep_the_sender_busy(
    driver: Driver, connect: Any, transport: str, early: bytes
) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_head()
        peer.send(early)
        assert go.wait(LIMIT)
        peer.read_exactly(SIZE)
        peer.read_to_eof()

    conn = connect(handle)
    conn.connect()
    set_small_buffer(conn._sock)
    run_while_stalled(driver, conn.co_send_request('PUT', '/', body=bytes(SIZE)), go)


def run_while_stalled(driver: Driver, crt: 'Crt[None]', go: threading.Event) -> None:
    """Run *crt*, which waits until *go* is set, and check that it really waits until then."""
    counted = Counted(crt)
    waiting = threading.Event()
    waits: List[int] = []

    def watch() -> None:
        assert waiting.wait(LIMIT)
        for _ in range(2):
            # Time for thousands of turns of a busy loop.
            assert not go.wait(0.1)
            waits.append(counted.waits)
        go.set()

    thread = Thread(watch)
    driver.run(notified(counted.crt, waiting))
    thread.finish()
    assert waits[1] - waits[0] <= 5


@pytest.mark.slow
def test_unread_answers_do_not_keep_the_sender_busy(
    driver: Driver, connect: Any, transport: str
) -> None:
    """The answer to an earlier request has arrived and nobody reads it."""
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'hello')
        peer.read_head()
        assert go.wait(LIMIT)
        peer.read_exactly(SIZE)
        peer.respond(b'world')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    set_small_buffer(conn._sock)
    run_while_stalled(driver, conn.co_send_request('PUT', '/', body=bytes(SIZE)), go)
    for body in (b'hello', b'world'):
        assert driver.run(conn.co_read_response()).status == 200
        assert driver.run(conn.co_readall()) == body


def test_refusal_behind_an_unread_answer_ends_the_upload(
    driver: Driver, connect: Any, transport: str
) -> None:
    """The reader takes the earlier answer while the sender waits, and then is done.

    What it receives may contain both answers.
    """
    answered = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'hello')
        peer.read_head()
        peer.respond(b'too much', '413 Content Too Large', 'Connection: close')
        answered.set()
        peer.hold()

    conn = connect(handle)
    conn.send_request('GET', '/')
    set_small_buffer(conn._sock)

    def upload() -> 'Crt[bool]':
        with pytest.raises(ConnectionClosed):
            yield from conn.co_send_request('PUT', '/', body=bytes(SIZE))
        return True

    def read() -> 'Crt[bytes]':
        assert answered.wait(LIMIT)
        response = yield from conn.co_read_response()
        assert response.status == 200
        return (yield from conn.co_readall())

    assert driver.run_all([upload(), read()]) == [True, b'hello']
    assert driver.run(conn.co_read_response()).status == 413
    assert driver.run(conn.co_readall()) == b'too much'


# Signals

# When its loop ends, Trio closes the socket that signals are reported to while they are. Some
# versions of CPython and pytest do not tell the two parts of that message apart.
ignore_late_signals = pytest.mark.filterwarnings(
    'ignore:Exception ignored (when trying to write to the signal wakeup fd|in. None)'
)


@ignore_late_signals
@pytest.mark.slow
def test_signal_storm(driver: Driver, connect: Any, transport: str) -> None:
    """Signals come at any moment, and nothing is lost or done twice."""
    size = 1_000_000
    # A fast machine does not need long for one.
    times = 20

    def handle(peer: Peer) -> None:
        for number in range(times):
            request = peer.read_request()
            peer.respond(request.body + b'%d' % number)
        peer.read_to_eof()

    conn = connect(handle)
    with signal_storm() as count:
        for number in range(times):
            body = bytes([number]) * size
            driver.run(conn.co_send_request('PUT', '/', body=BodyFollowing(size)))
            driver.run(conn.co_write(body))
            assert driver.run(conn.co_read_response()).status == 200
            assert driver.run(conn.co_readall()) == body + b'%d' % number
    assert count[0] > 3


@ignore_late_signals
@pytest.mark.slow
def test_timeout_in_a_signal_storm(driver: Driver, pair: Pair) -> None:
    began = time.monotonic()
    with signal_storm() as count, pytest.raises(driver.timed_out):
        driver.run(wait(pair[0], POLLIN), 0.3)
    assert count[0] > 10
    assert 0.299 <= time.monotonic() - began < 5


# One sends, one reads


def test_reader_that_comes_first_waits_for_the_connection(
    driver: Driver, connect: Any, transport: str
) -> None:
    conn = connect(answer_all())

    def read() -> 'Crt[bytes]':
        response = yield from conn.co_read_response()
        assert response.status == 200
        return (yield from conn.co_readall())

    # The sender has started, and is suspended, before the reader looks.
    assert driver.run_all([conn.co_send_request('GET', '/'), read()]) == [None, b'hello']


def test_sender_and_reader_side_by_side(driver: Driver, connect: Any, transport: str) -> None:
    """More than fits into all buffers, both ways: each depends on the other."""
    number, size = 12, 700_000

    def handle(peer: Peer) -> None:
        for _ in range(number):
            peer.respond(peer.read_request().body)
        peer.read_to_eof()

    def body(index: int) -> bytes:
        return bytes([index]) * size

    conn = connect(handle)
    conn.connect()

    def send() -> 'Crt[None]':
        for index in range(number):
            yield from conn.co_send_request('PUT', '/', body=body(index))

    def read() -> 'Crt[int]':
        for index in range(number):
            # Coroutines do not wait for a request that has not been started.
            while not conn.response_pending():
                yield PollNeeded(conn._sock.fileno(), POLLOUT)
            response = yield from conn.co_read_response()
            assert response.status == 200
            assert (yield from conn.co_readall()) == body(index)
        return number

    assert driver.run_all([send(), read()]) == [None, number]


def test_blocking_driver_is_the_one_of_the_methods(connect: Any, transport: str) -> None:
    """The first of the drivers is not one made up for the tests."""
    conn = connect(lambda peer: peer.read_to_eof())
    conn.timeout = 0.02
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionTimedOut):
        conn.read_response()
    assert isinstance(DRIVERS[0], Blocking)
