"""Threads: one sends and one reads, with no other synchronisation; any may disconnect."""

import contextlib
import gc
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

import pytest
from conftest import Certificates
from contract_support import DuckSocket
from servers import LIMIT, Peer
from waiting_support import (
    REPLY,
    Scene,
    Thread,
    Waits,
    answer_all,
    needs_proc,
    nothing_left,
    refused_address,
    set_small_buffer,
    waits,
)

import dugong._session
from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ExcessBodyData,
    HTTPConnection,
    StateError,
    eval_coroutine,
)
from dugong._body import RequestBody
from dugong._session import Session
from dugong._stream import Signal, Stream

__all__ = ['waits']


@pytest.fixture
def eager_switching() -> Iterator[None]:
    """Let threads take turns as often as possible."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def limits(
    monkeypatch: pytest.MonkeyPatch, any_sender: float, known_sender: float, interval: float = 0.01
) -> None:
    """Set how long a reader waits for a request of another thread."""
    monkeypatch.setattr(dugong._session, '_WAIT_FOR_ANY_SENDER', any_sender)
    monkeypatch.setattr(dugong._session, '_WAIT_FOR_KNOWN_SENDER', known_sender)
    monkeypatch.setattr(dugong._session, '_LIVENESS_INTERVAL', interval)


def waiting_reader(conn: HTTPConnection) -> Thread:
    """A thread that reads a response, and waits by now for another one to send a request."""
    reader = Thread(conn.read_response)
    end = time.monotonic() + LIMIT
    while not conn._session._sender_sought:
        assert time.monotonic() < end and reader.is_alive()
    return reader


@contextlib.contextmanager
def lasting(least: float, most: float) -> Iterator[None]:
    """Check how many seconds the block takes."""
    began = time.monotonic()
    yield
    passed = time.monotonic() - began
    assert least <= passed < most


def run_program(program: str) -> Tuple[bytes, bytes]:
    """Run *program* in a process of its own; returns what it wrote to output and error."""
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parent.parent)}
    process = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, env=environment, timeout=LIMIT + 10
    )
    return process.stdout, process.stderr


class Alive:
    """A thread that does what it is told to do, and lives in between."""

    def __init__(self) -> None:
        self._tasks: 'queue.Queue[Any]' = queue.Queue()
        self._results: 'queue.Queue[Any]' = queue.Queue()
        self._thread = Thread(self._run)

    def _run(self) -> None:
        while True:
            task = self._tasks.get()
            if task is None:
                return
            try:
                result = (task(), None)
            except BaseException as exc:
                result = (None, exc)
            self._results.put(result)
            del task, result

    def start(self, task: Callable[[], Any]) -> None:
        self._tasks.put(task)

    def finish(self) -> Any:
        """Wait for the task; returns its result, or raises what it raised."""
        result, error = self._results.get(timeout=LIMIT)
        if error is not None:
            raise error
        return result

    def has_finished(self, limit: float) -> bool:
        """Wait up to *limit* seconds for the task; whether it has come to its end."""
        end = time.monotonic() + limit
        while self._results.empty():
            if time.monotonic() > end:
                return False
            time.sleep(0.0001)
        return True

    def call(self, task: Callable[[], Any]) -> Any:
        self.start(task)
        return self.finish()

    def end(self) -> None:
        self._tasks.put(None)
        self._thread.finish()

    def __enter__(self) -> 'Alive':
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


def get(conn: HTTPConnection, path: str = '/') -> bytes:
    conn.send_request('GET', path)
    return read(conn)


def read(conn: HTTPConnection) -> bytes:
    assert conn.read_response().status == 200
    return conn.readall()


# The program of the tutorial

EMPTY_REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'
CHUNKED_REPLY = (
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n'
)


def answer_slowly(reply: bytes = REPLY) -> Callable[[Peer], None]:
    """A handler that takes and gives little at a time."""

    def handle(peer: Peer) -> None:
        data = b''
        while True:
            piece = peer.sock.recv(50)
            if not piece:
                return
            data += piece
            while b'\r\n\r\n' in data:
                _, _, data = data.partition(b'\r\n\r\n')
                peer.send(reply[:20])
                peer.send(reply[20:])

    return handle


SERVERS = {'fast': answer_all, 'slow': answer_slowly}


def tutorial(conn: HTTPConnection, number: int, body: bytes = b'hello') -> None:
    def send() -> None:
        for index in range(number):
            conn.send_request('GET', f'/{index}')

    sender = Thread(send)
    try:
        for index in range(number):
            response = conn.read_response()
            assert (response.status, response.path) == (200, f'/{index}')
            assert conn.readall() == body
    except BaseException:
        conn.disconnect()
        raise
    finally:
        sender.finish()
    assert not conn.response_pending()


@pytest.mark.parametrize('use', ['fresh', 'used'])
@pytest.mark.parametrize('server', SERVERS)
def test_tutorial(connect: Any, transport: str, server: str, use: str) -> None:
    conn = connect(SERVERS[server]())
    if use == 'used':
        # A log-in, say.
        assert get(conn) == b'hello'
    tutorial(conn, 5_000)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('use', ['fresh', 'used'])
@pytest.mark.parametrize('server', SERVERS)
def test_tutorial_at_length(connect: Any, transport: str, server: str, use: str) -> None:
    conn = connect(SERVERS[server]())
    if use == 'used':
        assert get(conn) == b'hello'
    tutorial(conn, 100_000)


@pytest.mark.parametrize(
    'reply, body', [(EMPTY_REPLY, b''), (CHUNKED_REPLY, b'hello')], ids=['empty', 'chunked']
)
def test_tutorial_with_other_bodies(
    connect: Any, transport: str, reply: bytes, body: bytes
) -> None:
    tutorial(connect(answer_all(reply)), 2_000, body)


@pytest.mark.slow
def test_tutorial_with_many_switches_of_threads(
    connect: Any, transport: str, eager_switching: None
) -> None:
    tutorial(connect(answer_all()), 2_000)
    tutorial(connect(answer_all(EMPTY_REPLY)), 2_000, b'')


@pytest.mark.slow
def test_tutorial_with_an_unhurried_sender(
    connect: Any, transport: str, eager_switching: None
) -> None:
    """The reader gets ahead of it all the time."""
    for reply, body in (REPLY, b'hello'), (EMPTY_REPLY, b''):
        conn = connect(answer_all(reply))
        number = 500
        chance = random.Random(number)

        def send(conn: HTTPConnection = conn, number: int = number) -> None:
            for index in range(number):
                conn.send_request('GET', f'/{index}')
                spin(chance.random() * 3e-4)  # noqa: B023

        sender = Thread(send)
        for _ in range(number):
            assert conn.read_response().status == 200
            assert conn.readall() == body
        sender.finish()


def spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.parametrize('reader', ['read', 'readinto', 'discard', 'TextIOWrapper'])
def test_tutorial_with_other_ways_to_read(connect: Any, transport: str, reader: str) -> None:
    conn = connect(answer_all())
    number = 500

    def send() -> None:
        for _ in range(number):
            conn.send_request('GET', '/')

    sender = Thread(send)
    for _ in range(number):
        assert conn.read_response().status == 200
        if reader == 'read':
            assert conn.read(100) == b'hello' and conn.read(1) == b''
        elif reader == 'readinto':
            buf = bytearray(100)
            assert conn.readinto(buf) == 5 and buf[:5] == b'hello'
        elif reader == 'discard':
            conn.discard()
        else:
            import io

            assert io.TextIOWrapper(conn, encoding='ascii').read() == 'hello'
    sender.finish()


def test_uploads_in_one_thread_and_answers_in_another(connect: Any, transport: str) -> None:
    """Written in many pieces; the reader is ahead all the time."""
    number, pieces = 20, 50

    def handle(peer: Peer) -> None:
        for _ in range(number):
            peer.respond(peer.read_request().body)
        peer.read_to_eof()

    conn = connect(handle)

    def send() -> None:
        for index in range(number):
            conn.send_request('PUT', '/', body=BodyFollowing(pieces * 10))
            for piece in range(pieces):
                conn.write(b'%5d%5d' % (index, piece))

    sender = Thread(send)
    for index in range(number):
        expected = b''.join(b'%5d%5d' % (index, piece) for piece in range(pieces))
        assert read(conn) == expected
    sender.finish()


@pytest.mark.slow
def test_unhurried_uploads_in_one_thread_and_answers_in_another(
    connect: Any, transport: str, eager_switching: None
) -> None:
    number, pieces = 50, 50
    chance = random.Random(1)

    def handle(peer: Peer) -> None:
        for _ in range(number):
            peer.respond(peer.read_request().body[:10])
        peer.read_to_eof()

    conn = connect(handle)

    def send() -> None:
        for _ in range(number):
            conn.send_request('PUT', '/', body=BodyFollowing())
            for piece in range(pieces):
                conn.write(b'%10d' % piece)
                spin(chance.random() * 5e-5)
            conn.write_eof()

    sender = Thread(send)
    for _ in range(number):
        assert read(conn) == b'%10d' % 0
    sender.finish()


def test_large_uploads_and_downloads_at_once(connect: Any, transport: str) -> None:
    """Neither side can take all before the other one gives way."""
    number, size = 6, 1_000_000

    def handle(peer: Peer) -> None:
        for _ in range(number):
            peer.respond(peer.read_request().body)
        peer.read_to_eof()

    conn = connect(handle)

    def send() -> None:
        for index in range(number):
            conn.send_request('PUT', '/', body=bytes([index]) * size)

    sender = Thread(send)
    for index in range(number):
        assert read(conn) == bytes([index]) * size
    sender.finish()


def test_roles_may_change_between_threads(connect: Any, transport: str) -> None:
    conn = connect(answer_all())
    with Alive() as one, Alive() as other:
        for _ in range(20):
            one.start(lambda: conn.send_request('GET', '/'))
            assert other.call(lambda: read(conn)) == b'hello'
            one.finish()
            other.start(lambda: conn.send_request('GET', '/'))
            assert one.call(lambda: read(conn)) == b'hello'
            other.finish()


# How long a reader waits for a sender (section 14 of the contract)


def test_alone_there_is_nobody_to_wait_for() -> None:
    assert threading.active_count() == 1
    with lasting(0, 0.5), pytest.raises(StateError):
        HTTPConnection('localhost').read_response()


@pytest.mark.slow
def test_alone_on_a_used_connection(serve: Any) -> None:
    server = serve(answer_all())
    program = f"""
import time
from dugong import HTTPConnection, StateError
with HTTPConnection({server.host!r}, {server.port}) as conn:
    for _ in range(2):
        conn.send_request('GET', '/')
        conn.read_response()
        conn.readall()
        began = time.monotonic()
        try:
            conn.read_response()
        except StateError:
            print(time.monotonic() - began < 0.5)
"""
    assert run_program(program) == (b'True\nTrue\n', b'')


def test_coroutine_does_not_wait_for_a_sender(connect: Any) -> None:
    conn = connect(answer_all())
    assert get(conn) == b'hello'
    with Alive() as other:
        other.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        with lasting(0, 0.5), pytest.raises(StateError):
            eval_coroutine(conn.co_read_response())


@pytest.mark.parametrize('use', ['fresh', 'connected', 'used'])
def test_reader_waits_for_any_other_thread(
    connect: Any, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    limits(monkeypatch, 0.1, 60)
    conn = connect(answer_all())
    if use == 'connected':
        conn.connect()
    elif use == 'used':
        assert get(conn) == b'hello'
    with Alive():
        with lasting(0.1, 5), pytest.raises(StateError):
            conn.read_response()
        # And again.
        with lasting(0.1, 5), pytest.raises(StateError):
            conn.read_response()


def test_limits_are_those_of_the_contract() -> None:
    assert dugong._session._WAIT_FOR_ANY_SENDER == 1
    assert dugong._session._WAIT_FOR_KNOWN_SENDER == 60


@pytest.mark.parametrize('use', ['fresh', 'connected', 'used'])
def test_reader_gets_what_another_thread_sends_later(
    connect: Any, transport: str, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    limits(monkeypatch, LIMIT, LIMIT)
    conn = connect(answer_all())
    if use == 'connected':
        conn.connect()
    elif use == 'used':
        assert get(conn) == b'hello'
    timer = threading.Timer(0.05, conn.send_request, ('GET', '/'))
    timer.start()
    assert read(conn) == b'hello'
    timer.join()


def test_reader_waits_longer_for_the_thread_that_sent_last(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0.02, 0.15)
    conn = connect(answer_all())
    with Alive() as sender:
        sender.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        with lasting(0.15, 5), pytest.raises(StateError):
            conn.read_response()


def test_thread_that_sent_before_a_reconnect_is_known(
    connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0.02, 0.15)
    conn = connect(serve(answer_all()))
    with Alive() as sender:
        sender.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        conn.disconnect()
        conn.connect()
        # Whoever connects does not send.
        with lasting(0.02, 5), pytest.raises(StateError):
            conn.read_response()


def test_reader_does_not_wait_for_the_dead(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    limits(monkeypatch, 0.05, 60)
    conn = connect(answer_all())
    with Alive():
        with Alive() as sender:
            sender.call(lambda: conn.send_request('GET', '/'))
            assert read(conn) == b'hello'
        with lasting(0.05, 5), pytest.raises(StateError):
            conn.read_response()


def test_reader_stops_waiting_when_the_sender_dies(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0.01, 60)
    conn = connect(answer_all())
    sender = Alive()
    sender.call(lambda: conn.send_request('GET', '/'))
    assert read(conn) == b'hello'
    timer = threading.Timer(0.1, sender.end)
    timer.start()
    with lasting(0.1, 5), pytest.raises(StateError):
        conn.read_response()
    timer.join()


@pytest.mark.parametrize('known', [False, True])
@pytest.mark.parametrize(
    'timeout, least, most', [(0, 0, 0.5), (0.05, 0.05, 0.5), (5, 0.6, 5)], ids=str
)
def test_timeout_limits_the_wait_for_a_sender(
    connect: Any,
    monkeypatch: pytest.MonkeyPatch,
    timeout: float,
    least: float,
    most: float,
    known: bool,
) -> None:
    if timeout == 5:
        limits(monkeypatch, 0.6, 0.6)
    else:
        limits(monkeypatch, 2, 2)
    conn = connect(answer_all())
    with Alive() as sender:
        if known:
            sender.call(lambda: conn.send_request('GET', '/'))
        else:
            conn.send_request('GET', '/')
        assert read(conn) == b'hello'
        conn.timeout = timeout
        with lasting(least, most), pytest.raises(StateError):
            conn.read_response()


def test_stopped_clock_does_not_make_the_wait_for_a_sender_endless() -> None:
    program = """
import time
time.monotonic = time.perf_counter = lambda: 1.0
import threading
from dugong import HTTPConnection, StateError
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    HTTPConnection('localhost').read_response()
except StateError:
    print('nothing')
"""
    assert run_program(program) == (b'nothing\n', b'')


@pytest.mark.parametrize('expect100', [False, True])
def test_own_incomplete_body_is_an_error_at_once(connect: Any, expect100: bool) -> None:
    conn = connect(lambda peer: peer.read_to_eof())
    with Alive():
        conn.send_request('PUT', '/', body=BodyFollowing(10))
        with lasting(0, 0.5), pytest.raises(StateError):
            conn.read_response()
        conn.write(b'12345')
        with lasting(0, 0.5), pytest.raises(StateError):
            conn.read_response()


def test_body_of_another_thread_is_waited_for(connect: Any, transport: str) -> None:
    def handle(peer: Peer) -> None:
        assert peer.read_request().body == b'0123456789'
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    with Alive() as sender:
        sender.call(lambda: conn.send_request('PUT', '/', body=BodyFollowing(10)))
        reader = Thread(read, conn)
        sender.call(lambda: conn.write(b'01234'))
        sender.call(lambda: conn.write(b'56789'))
        assert reader.finish() == b'hello'


def test_body_that_another_thread_never_completes(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, 0.02, 0.1)
    conn = connect(lambda peer: peer.read_to_eof())
    with Alive() as sender:
        sender.call(lambda: conn.send_request('PUT', '/', body=BodyFollowing(10)))
        sender.call(lambda: conn.write(b'01234'))
        with lasting(0.1, 5), pytest.raises(StateError):
            conn.read_response()
        # The sender is not disturbed.
        sender.call(lambda: conn.write(b'56789'))


def test_continue_goes_to_the_reader(connect: Any, transport: str) -> None:
    def handle(peer: Peer) -> None:
        request = peer.read_head()
        peer.send(b'HTTP/1.1 100 Continue\r\n\r\n')
        assert peer.read_body(request).body == b'0123456789'
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    with Alive() as sender:
        reader = Thread(conn.read_response)
        sender.call(lambda: conn.send_request('PUT', '/', body=BodyFollowing(10), expect100=True))
        assert reader.finish().status == 100
        sender.call(lambda: conn.write(b'0123456789'))
        assert read(conn) == b'hello'


def test_reader_between_two_writes_of_another_thread(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write that was under way when the reader came is over when it looks again."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    conn.connect()
    holding, go = threading.Event(), threading.Event()

    class Holding(DuckSocket):
        def send(self, data: Any) -> int:
            if bytes(data) == b'01234':
                holding.set()
                assert go.wait(LIMIT)
            return self._plain.send(data)

    conn._sock = Holding(conn._sock)
    real = conn.co_read_response

    def come_late(*args: Any) -> Any:
        # The reader has seen a write under way.
        go.set()
        sender.finish()
        return real(*args)

    monkeypatch.setattr(conn, 'co_read_response', come_late)
    with Alive() as sender:
        sender.call(lambda: conn.send_request('PUT', '/', body=BodyFollowing(10)))
        sender.start(lambda: conn.write(b'01234'))
        assert holding.wait(LIMIT)
        timer = threading.Timer(0.05, lambda: sender.call(lambda: conn.write(b'56789')))
        timer.start()
        assert read(conn) == b'hello'
        timer.join()


def test_reader_of_a_sender_that_cannot_connect() -> None:
    """It learns of it, whenever it comes."""
    with refused_address() as address, Alive() as sender:
        conn = HTTPConnection(*address)
        conn.timeout = 0.2
        for _ in range(10):
            sender.start(lambda: conn.send_request('GET', '/'))
            with pytest.raises((ConnectionClosed, StateError)):
                conn.read_response()
            with pytest.raises(ConnectionRefusedError):
                sender.finish()


def test_reader_of_a_request_that_is_refused(connect: Any) -> None:
    """Wrong arguments send nothing, and the reader goes on waiting."""
    conn = connect(answer_all())
    with Alive() as sender:
        sender.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        reader = Thread(read, conn)
        with pytest.raises(ValueError):
            sender.call(lambda: conn.send_request('GET', '/ '))
        sender.call(lambda: conn.send_request('GET', '/'))
        assert reader.finish() == b'hello'


def test_request_that_is_not_sent_does_not_keep_the_reader_waiting(connect: Any) -> None:
    """After `Connection: close` it counts as outstanding without being sent."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'hello', fields='Connection: close')
        peer.read_to_eof()

    conn = connect(handle)
    with Alive() as sender:
        sender.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        reader = Thread(conn.read_response)
        sender.call(lambda: conn.send_request('GET', '/'))
        with pytest.raises(ConnectionClosed):
            reader.finish()


# Two of a kind


@pytest.mark.parametrize(
    'second',
    [
        lambda conn: conn.send_request('GET', '/'),
        lambda conn: conn.write(b'x'),
        lambda conn: conn.write_eof(),
    ],
    ids=['send_request', 'write', 'write_eof'],
)
def test_second_sender_is_refused_and_the_first_unharmed(
    connect: Any, transport: str, waits: Waits, second: Callable[[HTTPConnection], None]
) -> None:
    size = 300_000
    go = threading.Event()

    def handle(peer: Peer) -> None:
        request = peer.read_head()
        assert go.wait(LIMIT)
        assert peer.read_body(request).body == bytes(size)
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    conn.connect()
    set_small_buffer(conn._sock)
    conn.send_request('PUT', '/', body=BodyFollowing(size))
    waits.begun.clear()
    first = Thread(conn.write, bytes(size))
    waits.next()
    with pytest.raises(StateError):
        second(conn)
    go.set()
    first.finish()
    assert read(conn) == b'hello'


class Vanishing(deque):  # type: ignore[type-arg]
    """Requests that another thread takes when somebody has just seen that there are any."""

    def __len__(self) -> int:
        length = super().__len__()
        self.clear()
        return length


def test_sender_does_not_rely_on_a_request_that_a_reader_may_take(connect: Any) -> None:
    def handle(peer: Peer) -> None:
        for _ in range(2):
            peer.read_head()
        peer.send(2 * REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/1')
    (first,) = conn._session.pending
    conn._session.pending = Vanishing([first])
    conn.send_request('GET', '/2')
    second = conn._session.pending[0]
    conn._session.pending = deque([first, second])
    for path in ('/1', '/2'):
        assert conn.read_response().path == path
        assert conn.readall() == b'hello'


class GivenUp(deque):  # type: ignore[type-arg]
    """Requests of which none is there any more when it has got an answer."""

    def remove(self, value: Any) -> None:
        raise ValueError


def test_answer_to_a_request_that_a_sender_has_just_given_up(connect: Any) -> None:
    conn = connect(answer_all())
    conn.send_request('GET', '/')
    conn._session.pending = GivenUp(conn._session.pending)
    with pytest.raises(ConnectionClosed, match='was not sent in full'):
        conn.read_response()


def test_writer_does_not_rely_on_a_request_that_a_reader_may_take(connect: Any) -> None:
    conn = connect(Peer.read_to_eof)
    conn.connect()
    set_small_buffer(conn._sock)
    size = 10_000_000
    conn.send_request('PUT', '/', body=BodyFollowing(size))
    coroutine = conn.co_write(bytes(size))
    next(coroutine)
    conn._session.pending = Vanishing(conn._session.pending)
    # Resumed for nothing, it looks again for what it has to wait for.
    for _ in range(3):
        assert next(coroutine) is not None
    coroutine.close()


@pytest.mark.parametrize(
    'second',
    [
        lambda conn: conn.read_response(),
        lambda conn: conn.read(10),
        lambda conn: conn.read(),
        lambda conn: conn.readinto(bytearray(10)),
        lambda conn: conn.readall(),
        lambda conn: conn.discard(),
    ],
    ids=['read_response', 'read', 'read(None)', 'readinto', 'readall', 'discard'],
)
def test_second_reader_is_refused_and_the_first_unharmed(
    connect: Any, transport: str, waits: Waits, second: Callable[[HTTPConnection], None]
) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello')
        assert go.wait(LIMIT)
        peer.send(b'world')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.read(5) == b'hello'
    waits.begun.clear()
    first = Thread(conn.readall)
    waits.next()
    with pytest.raises(StateError):
        second(conn)
    go.set()
    assert first.finish() == b'world'


def test_second_reader_of_a_head_is_refused(connect: Any, transport: str, waits: Waits) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        assert go.wait(LIMIT)
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    waits.begun.clear()
    first = Thread(read, conn)
    waits.next()
    with pytest.raises(StateError):
        conn.read_response()
    go.set()
    assert first.finish() == b'hello'


def test_reader_beside_one_of_a_lost_connection_is_told_nothing_else(connect: Any) -> None:
    conn = connect(Peer.read_to_eof)
    conn.send_request('GET', '/')
    first = conn.co_read_response()
    next(first)
    conn.disconnect()
    with pytest.raises(ConnectionClosed) as info:
        conn.read(1)
    assert info.value.__context__ is None or info.value.__suppress_context__
    first.close()


def test_sender_and_reader_do_not_get_in_each_others_way(connect: Any) -> None:
    """A sender looks whether an idle server has closed. A reader may come just then."""
    conn = connect(answer_all(EMPTY_REPLY))
    assert get(conn) == b''
    looking, done = threading.Event(), threading.Event()

    class Looking:
        def __init__(self, sock: Any) -> None:
            self._real = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def recv_into(self, view: Any) -> int:
            if threading.current_thread() is sender:
                looking.set()
                # The reader may have to wait until this is over.
                done.wait(0.1)
            return self._real.recv_into(view)

    # As if there were something to receive.
    sock = conn._sock
    conn._session.stream._probe = lambda timeout: [(sock.fileno(), 1)]
    conn._sock = Looking(sock)
    sender: Any = threading.Thread(target=conn.send_request, args=('GET', '/'))
    sender.start()
    assert looking.wait(LIMIT)
    # The previous body was empty, so this is no error, and nothing to wait for.
    assert conn.readall() == b''
    done.set()
    sender.join(LIMIT)
    assert read(conn) == b''


def test_too_much_of_one_thread_does_not_end_the_reading_of_another(
    connect: Any, transport: str
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    with Alive() as sender:
        sender.call(lambda: conn.send_request('PUT', '/', body=BodyFollowing(3)))
        reader = Thread(read, conn)
        with pytest.raises(ExcessBodyData):
            sender.call(lambda: conn.write(b'1234'))
        sender.call(lambda: conn.write(b'123'))
        assert reader.finish() == b'hello'


# Disconnecting while others are at work


def test_disconnect_wakes_up_a_reader_that_waits_for_a_sender(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits(monkeypatch, LIMIT, LIMIT)
    conn = connect(answer_all())
    with Alive() as sender:
        sender.call(lambda: conn.send_request('GET', '/'))
        assert read(conn) == b'hello'
        reader = Thread(conn.read_response)
        with lasting(0, 5), pytest.raises((ConnectionClosed, StateError)) as caught:
            while reader.is_alive():
                conn.disconnect()
                reader.join(0.001)
            reader.finish()
        assert caught.type is ConnectionClosed


#: More than the kernel takes without anybody receiving it.
LARGE = bytes(20_000_000)

POISON = b'HTTP/1.1 200 Poison\r\nContent-Length: 6\r\n\r\npoison'


class Trap:
    """Descriptors that take the numbers which have just become free.

    Who still uses such a number receives poison, or leaves a trace.
    """

    def __init__(self) -> None:
        self._pairs = [socket.socketpair() for _ in range(3)]
        for ours, theirs in self._pairs:
            for sock in ours, theirs:
                sock.setblocking(False)
                sock.send(POISON)

    def check(self) -> None:
        """Check that all is as it was, and close."""
        for pair in self._pairs:
            for sock in pair:
                with sock:
                    assert sock.recv(1000) == POISON


class Race(Scene):
    """A server that does nothing while a client waits for it and is disconnected."""

    def prepare(self, conn: HTTPConnection, operation: str) -> None:
        self.drive(conn.co_connect())
        self.step()
        if operation in ('write', 'send_request'):
            set_small_buffer(conn._sock)
        if operation == 'write':
            self.drive(conn.co_send_request('PUT', '/', body=BodyFollowing(len(LARGE))))
        elif operation != 'send_request':
            self.drive(conn.co_send_request('GET', '/'))
            self.step()
        if operation in RACING_READS:
            self.reply(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhel')
            assert self.drive(conn.co_read_response()).status == 200
            assert self.drive(conn.co_read(3)) == b'hel'


RACING_READS = {
    'read': lambda conn: conn.read(7),
    'readinto': lambda conn: conn.readinto(bytearray(7)),
    'readall': lambda conn: conn.readall(),
    'discard': lambda conn: conn.discard(),
}
RACING = {
    **RACING_READS,
    'read_response': lambda conn: conn.read_response(),
    'write': lambda conn: conn.write(LARGE),
    'send_request': lambda conn: conn.send_request('PUT', '/', body=LARGE),
}


def race(
    conn: HTTPConnection, scene: Race, operation: str, number: int, worker: Alive, seed: int = 0
) -> None:
    """Disconnect again and again while *worker* is in *operation*, or about to be."""
    chance = random.Random(seed)
    for index in range(number):
        scene.prepare(conn, operation)
        started = threading.Event()

        def work(started: threading.Event = started) -> None:
            started.set()
            result = RACING[operation](conn)
            raise AssertionError(f'{operation} came to an end: {result!r}')

        worker.start(work)
        if index % 2:
            started.wait(LIMIT)
        spin(chance.random() * 2e-4)
        conn.disconnect()
        trap = Trap()
        if operation == 'send_request':
            # If it comes too late it connects anew, which is right.
            while not worker.has_finished(0.005):
                conn.disconnect()
        with pytest.raises(ConnectionClosed):
            worker.finish()
        trap.check()
        # Nobody is left who could need it.
        if operation != 'send_request':
            assert conn._sock is None


@needs_proc
@pytest.mark.parametrize('operation', RACING)
def test_disconnect_race(
    transport: str, certificates: Certificates, operation: str, eager_switching: None
) -> None:
    _races(transport, certificates, operation, 300 if transport == 'plain' else 100)


@needs_proc
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize('operation', RACING)
def test_many_disconnect_races(
    transport: str, certificates: Certificates, operation: str, eager_switching: None
) -> None:
    _races(transport, certificates, operation, 4_000)


def _races(transport: str, certificates: Certificates, operation: str, number: int) -> None:
    tls = transport == 'tls'
    with Race(certificates.server_context if tls else None, size=100) as scene, Alive() as worker:
        conn = HTTPConnection(*scene.address, certificates.client_context if tls else None)
        # That would take more time than all the rest.
        conn.content_md5 = False
        scene.prepare(conn, operation)
        conn.disconnect()
        scene.drop()
        with nothing_left():
            race(conn, scene, operation, number, worker)
            conn.disconnect()
            scene.step()
            scene.drop()


@needs_proc
@pytest.mark.parametrize('number', [200, pytest.param(5_000, marks=pytest.mark.slow)])
def test_disconnect_race_with_sender_and_reader(
    transport: str, certificates: Certificates, number: int, eager_switching: None
) -> None:
    tls = transport == 'tls'
    chance = random.Random(number)
    with Race(certificates.server_context if tls else None, size=100) as scene:
        conn = HTTPConnection(*scene.address, certificates.client_context if tls else None)
        with nothing_left(), Alive() as reader, Alive() as writer:
            for _ in range(number):
                scene.drive(conn.co_connect())
                scene.step()
                set_small_buffer(conn._sock)
                scene.drive(conn.co_send_request('GET', '/'))
                scene.drive(conn.co_send_request('PUT', '/', body=BodyFollowing(len(LARGE))))
                writer.start(lambda: conn.write(LARGE))
                reader.start(conn.read_response)
                spin(chance.random() * 2e-4)
                conn.disconnect()
                trap = Trap()
                for thread in reader, writer:
                    with pytest.raises(ConnectionClosed):
                        thread.finish()
                trap.check()
                assert conn._sock is None
            scene.step()
            scene.drop()


@needs_proc
@pytest.mark.parametrize('number', [100, pytest.param(2_000, marks=pytest.mark.slow)])
def test_disconnect_race_while_connecting(
    transport: str,
    certificates: Certificates,
    serve: Any,
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    eager_switching: None,
) -> None:
    """Through all stages: the name, TCP, TLS, the request."""
    server = serve(_answer_until_gone(), tls=False)
    tls = certificates.client_context if transport == 'tls' else None
    chance = random.Random(number)
    resolved = socket.getaddrinfo(*server.address, 0, socket.SOCK_STREAM)
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args: resolved)
    conn = HTTPConnection('localhost', server.port, tls)
    outcomes = {'closed': 0, 'sent': 0}
    with nothing_left(), Alive() as worker:
        for _ in range(number):
            worker.start(lambda: conn.send_request('GET', '/'))
            spin(chance.random() * 1e-3)
            conn.disconnect()
            # If it comes too late it connects anew, which is right.
            while not worker.has_finished(0.005):
                conn.disconnect()
            try:
                worker.finish()
            except ConnectionClosed:
                outcomes['closed'] += 1
            else:
                outcomes['sent'] += 1
            conn.disconnect()
            assert conn._sock is None
    # Otherwise the delays are wrong.
    assert outcomes['closed'] > number // 10


def _answer_until_gone() -> Callable[[Peer], None]:
    def handle(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            peer.read_to_eof()

    return handle


@needs_proc
def test_disconnect_by_many_threads_at_once(
    transport: str, certificates: Certificates, eager_switching: None
) -> None:
    tls = transport == 'tls'
    with Race(certificates.server_context if tls else None, size=100) as scene:
        conn = HTTPConnection(*scene.address, certificates.client_context if tls else None)
        with nothing_left(), Alive() as one, Alive() as other, Alive() as reader:
            for _ in range(100):
                scene.prepare(conn, 'read_response')
                reader.start(conn.read_response)
                for thread in one, other:
                    thread.start(conn.disconnect)
                conn.disconnect()
                for thread in one, other:
                    thread.finish()
                with pytest.raises(ConnectionClosed):
                    reader.finish()
                assert conn._sock is None
            scene.step()
            scene.drop()


# `ssl` leaves its socket open if it finds, at its begin, that the connection was reset.
@pytest.mark.filterwarnings('ignore:unclosed <ssl.SSLSocket:ResourceWarning')
def test_disconnect_race_with_a_tutorial(serve: Any, connect: Any, transport: str) -> None:
    """While data flow both ways: what is read before is right, and then it is over."""
    server = serve(_answer_until_gone_with(answer_all()))
    for index in range(30):
        conn = connect(server)
        conn.connect()

        def send(conn: HTTPConnection = conn) -> None:
            while True:
                conn.send_request('GET', '/')

        def receive(conn: HTTPConnection = conn) -> None:
            while True:
                assert conn.read_response().status == 200
                assert conn.readall() == b'hello'

        sender = Thread(_until_closed, send)
        reader = Thread(_until_closed, receive)
        time.sleep(0.001 * index)
        # A sender that comes between connects anew.
        end = time.monotonic() + LIMIT
        while sender.is_alive() or reader.is_alive():
            conn.disconnect()
            sender.join(0.001)
            reader.join(0.001)
            assert time.monotonic() < end
        sender.finish()
        reader.finish()
    # Handshakes that were cut off.
    with contextlib.suppress(OSError):
        server.stop()
    server.errors.clear()


def _until_closed(work: Callable[[], None]) -> None:
    with pytest.raises(ConnectionClosed):
        work()


def _answer_until_gone_with(handler: Callable[[Peer], None]) -> Callable[[Peer], None]:
    def handle(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            handler(peer)

    return handle


# --- moments between two steps ---


@pytest.mark.parametrize('then', ['disconnect', 'send'])
def test_reader_does_not_wait_for_a_connection_that_was_refused(then: str, serve: Any) -> None:
    with refused_address() as address:
        conn = HTTPConnection(*address)
        reader = waiting_reader(conn)
        with pytest.raises(ConnectionRefusedError):
            conn.send_request('GET', '/1')
    if then == 'disconnect':
        conn.disconnect()
        with pytest.raises(ConnectionClosed):
            reader.finish()
        return
    conn.port = serve(answer_all()).port
    conn.send_request('GET', '/2')
    try:
        response = reader.finish()
    except ConnectionClosed:
        # It has taken part in the first attempt.
        response = conn.read_response()
    assert response.path == '/2'
    conn.discard()
    conn.disconnect()


def test_wait_for_a_sender_that_cannot_connect_is_limited() -> None:
    """However often it tries."""
    with refused_address() as address:
        conn = HTTPConnection(*address)
        conn.timeout = 0.3
        reader = Thread(conn.read_response)
        end = time.monotonic() + LIMIT
        while reader.is_alive():
            with contextlib.suppress(ConnectionRefusedError):
                conn.connect()
            assert time.monotonic() < end, 'it waits on'
        with pytest.raises(StateError):
            reader.finish()


def test_reader_whose_sender_could_not_connect_learns_that_another_thread_disconnects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = Session.wait_for_sender

    def disconnect_then(session: Session, *args: Any) -> Any:
        result = wait(session, *args)
        monkeypatch.setattr(Session, 'wait_for_sender', wait)
        conn.disconnect()
        return result

    monkeypatch.setattr(Session, 'wait_for_sender', disconnect_then)
    with refused_address() as address:
        conn = HTTPConnection(*address)
        reader = waiting_reader(conn)
        with pytest.raises(ConnectionRefusedError):
            conn.connect()
    with pytest.raises(ConnectionClosed, match='disconnect'):
        reader.finish()


def test_what_refers_to_an_old_session_does_not_keep_those_after_it(connect: Any) -> None:
    conn = connect(answer_all())
    conn.connect()
    old = conn._session
    conn.reset()
    assert conn._session is not old
    assert not any(found is conn._session for found in gc.get_referents(old))


def test_request_that_is_sent_while_another_thread_disconnects_is_lost(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = connect(Peer.read_to_eof)
    conn.connect()
    abort = Stream.abort

    def send_first(stream: Stream, cause: Any = None) -> None:
        monkeypatch.setattr(Stream, 'abort', abort)
        conn.send_request('GET', '/')
        stream.abort(cause)

    monkeypatch.setattr(Stream, 'abort', send_first)
    conn.disconnect()
    with pytest.raises(ConnectionClosed):
        conn.read_response()


def test_request_that_is_not_sent_while_another_thread_disconnects_is_refused(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has announced that it closes. If nobody disconnects, the reader learns of it."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n')

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    finish = RequestBody.finish

    def disconnect_first(body: RequestBody) -> None:
        monkeypatch.setattr(RequestBody, 'finish', finish)
        conn.disconnect()
        body.finish()

    monkeypatch.setattr(RequestBody, 'finish', disconnect_first)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')


def test_sender_never_sees_neither_a_request_nor_a_body(connect: Any) -> None:
    """It would take the body for something that nobody has asked for."""
    reading: List[bool] = []

    class Requests(deque):  # type: ignore[type-arg]
        def remove(self, request: Any) -> None:
            reading.append(session.reading_body)
            super().remove(request)

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'body')
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    session = conn._session
    session.pending = Requests(session.pending)
    conn.read_response()
    assert reading == [True]
    conn.discard()


def test_error_of_a_connection_that_is_given_up_is_not_that_of_its_address(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = connect(answer_all())

    def fail(stream: Stream, info: Any) -> Any:
        conn.disconnect()
        raise ConnectionResetError('reset')
        yield

    monkeypatch.setattr(Stream, '_co_connect_address', fail)
    with pytest.raises(ConnectionClosed, match='disconnect'):
        conn.connect()


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_connection_ends_although_its_descriptor_was_inherited(
    connect: Any, transport: str
) -> None:
    """A process may have been forked while TLS sent its end."""
    ended = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_to_eof()
        # That was the end of TLS.
        peer.sock.settimeout(LIMIT / 2)
        if not socket.socket.recv(peer.sock, 1):
            ended.set()

    conn = connect(handle)
    conn.connect()
    inherited = os.dup(conn._sock.fileno())
    try:
        conn.disconnect()
        assert ended.wait(LIMIT)
    finally:
        os.close(inherited)


def being_opened(conn: HTTPConnection) -> Stream:
    """The stream of *conn*, as it is when that begins to connect."""
    stream = conn._session.stream
    stream.opened = True
    return stream


def in_child_process(work: Callable[[], Any]) -> None:
    """Run *work* in a forked process, and check that it comes to an end."""
    child = os.fork()
    if not child:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(LIMIT))
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_child_process_that_disconnects_wakes_up_nobody_in_its_parent() -> None:
    conn = HTTPConnection('localhost')
    waiting, sender = Signal(), Signal()
    stream = being_opened(conn)
    stream._waiters.append(waiting)
    stream.role_waiter = sender
    in_child_process(conn.disconnect)
    assert not waiting.need.poll(0)
    assert not sender.need.poll(0)
    stream._waiters.clear()
    stream.role_waiter = None
    waiting.close()
    sender.close()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_child_process_does_not_wait_for_threads_of_its_parent() -> None:
    conn = HTTPConnection('localhost')
    waiting = Signal()
    stream = being_opened(conn)
    stream._waiters.append(waiting)
    taken, go = threading.Event(), threading.Event()

    def take_locks() -> None:
        with stream.lock, waiting._lock:
            taken.set()
            assert go.wait(2 * LIMIT)

    thread = Thread(take_locks)
    assert taken.wait(LIMIT)
    try:
        in_child_process(conn.disconnect)
    finally:
        go.set()
        thread.finish()
        stream._waiters.clear()
        waiting.close()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('then', ['disconnect', 'send'])
def test_child_process_can_use_a_connection_that_was_about_to_be_made(
    then: str, serve: Any
) -> None:
    """Another thread had its lock when the process was forked."""
    conn = HTTPConnection(*serve(answer_all()).address)
    stream = conn._session.stream
    taken, go = threading.Event(), threading.Event()

    def begin() -> None:
        with stream.lock:
            taken.set()
            assert go.wait(2 * LIMIT)

    def use() -> None:
        if then == 'send':
            conn.send_request('GET', '/')
            assert conn.read_response().status == 200
            conn.discard()
        conn.disconnect()

    thread = Thread(begin)
    assert taken.wait(LIMIT)
    try:
        in_child_process(use)
    finally:
        go.set()
        thread.finish()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_child_process_does_not_have_the_request_that_was_about_to_be_sent(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = HTTPConnection(*serve(answer_all()).address)
    co_open = Stream.co_open

    def use() -> None:
        monkeypatch.setattr(Stream, 'co_open', co_open)
        conn.send_request('GET', '/child')
        assert conn.read_response().path == '/child'
        conn.discard()
        assert not conn.response_pending()
        conn.disconnect()

    def fork_first(stream: Stream) -> Any:
        monkeypatch.setattr(Stream, 'co_open', co_open)
        in_child_process(use)
        return co_open(stream)

    monkeypatch.setattr(Stream, 'co_open', fork_first)
    conn.send_request('GET', '/parent')
    assert conn.read_response().path == '/parent'
    conn.discard()
    conn.disconnect()


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_child_process_has_no_descriptor_of_a_connection(
    connect: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv('DUGONG_TRACEFILE', str(tmp_path / '%d'))
    conn = connect(answer_all())
    conn.connect()
    stream = conn._session.stream
    trace, sock = stream._trace, stream.sock

    def check() -> None:
        assert trace.closed
        assert sock.fileno() == -1

    in_child_process(check)
    assert not trace.closed


def test_end_of_a_body_wakes_up_a_reader(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)
    limits(monkeypatch, 2 * LIMIT, 2 * LIMIT, 2 * LIMIT)
    conn.send_request('PUT', '/', body=BodyFollowing())
    conn.write(b'data')
    reader = waiting_reader(conn)
    conn.write_eof()
    assert reader.finish().status == 200
    conn.discard()


@pytest.mark.parametrize('transport', ['tls'], indirect=True)
def test_nothing_is_held_by_a_connection_that_another_thread_has_closed(
    connect: Any, transport: str
) -> None:
    conn = connect(answer_all())
    conn.connect()
    stream = conn._session.stream
    conn.disconnect()
    assert not stream.holds_something


def test_sender_that_is_late_to_wait_learns_of_the_refusal_that_a_reader_has_read(
    connect: Any, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    released, go, known = threading.Event(), threading.Event(), threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_head()
        assert go.wait(LIMIT)
        peer.send(b'HTTP/1.1 413 Too Large\r\nContent-Length: 5\r\n\r\nlarge')
        assert released.wait(LIMIT)

    conn = connect(handle)
    conn.timeout = 2
    wait = Stream.co_wait_send_or_reader

    def be_late(stream: Stream, still_open: Any) -> Any:
        go.set()
        assert known.wait(LIMIT)
        yield from wait(stream, still_open)

    monkeypatch.setattr(Stream, 'co_wait_send_or_reader', be_late)

    def read() -> Any:
        assert go.wait(LIMIT)
        try:
            return conn.read_response()
        finally:
            known.set()

    reader = Thread(read)
    with pytest.raises(ConnectionClosed, match='413'):
        conn.send_request('PUT', '/', body=bytes(20_000_000))
    assert reader.finish().status == 413
    assert conn.readall() == b'large'
    released.set()
