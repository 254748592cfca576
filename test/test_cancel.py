"""Stopping operations at every single wait, in every way, and what is left then."""

import asyncio
import contextlib
import gc
import io
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple, Optional

import pytest
from conftest import Certificates
from contract_support import DuckSocket
from servers import LIMIT, Peer
from waiting_support import (
    REPLY,
    Crt,
    Scene,
    Thread,
    descriptors,
    interrupts,
    needs_proc,
    nothing_left,
    observed,
    resolve_to,
    set_small_buffer,
)

import dugong
from dugong import (
    POLLIN,
    AioFuture,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    ExcessBodyData,
    HTTPConnection,
    PollNeeded,
    StateError,
    eval_coroutine,
)

pytestmark = needs_proc

#: Larger than what the kernel takes at once, see `set_small_buffer`.
LARGE = 60_000

#: Bodies that arrive in pieces of five bytes.
BODY = b'abcdefghijklmnopqrstuvwxy'


class Boom(Exception):
    pass


# The ways to stop: each drives `operation` up to its wait number `index`, lets nothing happen
# there, and stops it. They return False if the operation has come to its end before.


def _drive_to(scene: Scene, crt: 'Crt[Any]', index: int) -> bool:
    """Run *crt* until it waits for the time *index* (0 for the first)."""
    try:
        need = next(crt)
        for _ in range(index):
            scene.serve(need)
            need = next(crt)
    except StopIteration:
        return False
    return True


def throw(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    crt = operation.coroutine(conn)
    if not _drive_to(scene, crt, index):
        return False
    boom = Boom('enough')
    with pytest.raises(Boom) as caught:
        crt.throw(boom)
    assert caught.value is boom
    return True


def close(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    crt = operation.coroutine(conn)
    waits = _drive_to(scene, crt, index)
    crt.close()
    return waits


def drop(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    return _drive_to(scene, operation.coroutine(conn), index)


def cancel(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    async def main() -> bool:
        end = time.monotonic() + LIMIT
        loop = asyncio.get_running_loop()
        stopped: List[bool] = []

        def stop() -> None:
            stopped.append(future.cancel())

        def observe(count: int) -> None:
            if count == index:
                # What it waits for may have happened already; this comes before the loop looks.
                loop.call_soon(stop)

        future = AioFuture(observed(operation.coroutine(conn), observe))
        while not future.done():
            assert time.monotonic() < end
            # Not before the future has been stopped, if it is to be stopped now.
            await asyncio.sleep(0)
            scene.step()
        if not future.cancelled():
            future.result()
            return False
        assert stopped == [True]
        return True

    return asyncio.run(main())


@contextlib.contextmanager
def _polls(scene: Scene, index: int, stop: Callable[[], bool]) -> Iterator[None]:
    """Serve the waits of a blocking call up to number *index*; what happens there is *stop*."""
    real = PollNeeded.poll
    count = -1

    def poll(need: PollNeeded, timeout: Optional[float] = None) -> bool:
        nonlocal count
        if timeout == 0:
            return real(need, timeout)
        count += 1
        if count == index:
            return stop()
        PollNeeded.poll = real
        try:
            scene.serve(need)
        finally:
            PollNeeded.poll = poll
        return True

    PollNeeded.poll = poll
    try:
        yield
    finally:
        PollNeeded.poll = real


def time_out(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    conn.timeout = 12.5
    try:
        with _polls(scene, index, lambda: False):
            operation.blocking(conn)
    except ConnectionTimedOut as exc:
        assert '12.5' in str(exc)
        return True
    return False


def interrupt(scene: Scene, conn: HTTPConnection, operation: 'Operation', index: int) -> bool:
    def stop() -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        # The handler runs now, in the middle of the wait.
        raise AssertionError('the signal did not arrive')

    try:
        with interrupts(), _polls(scene, index, stop):
            operation.blocking(conn)
    except KeyboardInterrupt:
        return True
    return False


class Way(NamedTuple):
    stop: Callable[..., bool]
    #: Found in the message of later errors.
    cause: str


WAYS = [
    Way(throw, 'enough'),
    Way(close, 'abandoned|closed|dropped'),
    Way(drop, 'abandoned|closed|dropped'),
    Way(cancel, 'abandoned|closed|dropped|cancel'),
    Way(time_out, 'timed out|ConnectionTimedOut'),
    Way(interrupt, 'KeyboardInterrupt'),
]

all_ways = pytest.mark.parametrize('way', WAYS, ids=lambda way: way.stop.__name__)


# The operations


class Operation(NamedTuple):
    name: str
    coroutine: Callable[[HTTPConnection], Any]
    blocking: Callable[[HTTPConnection], Any]
    #: What has to happen before, on a connection that is established.
    prepare: Callable[[Scene, HTTPConnection], None]
    #: The response that arrives during the operation.
    reply: bytes = b''

    @classmethod
    def of(
        cls,
        name: str,
        arguments: Callable[[], tuple] = tuple,
        prepare: Callable[[Scene, HTTPConnection], None] = lambda scene, conn: None,
        reply: bytes = b'',
        label: str = '',
        **options: Any,
    ) -> 'Operation':
        """The method *name* and its coroutine twin, called with the same arguments."""
        return cls(
            label or name,
            lambda conn: getattr(conn, f'co_{name}')(*arguments(), **options),
            lambda conn: getattr(conn, name)(*arguments(), **options),
            prepare,
            reply,
        )


def _ids(operation: Operation) -> str:
    return operation.name


def _upload(length: Optional[int]) -> Callable[[Scene, HTTPConnection], None]:
    def prepare(scene: Scene, conn: HTTPConnection) -> None:
        scene.drive(conn.co_send_request('PUT', '/', body=BodyFollowing(length)))

    return prepare


def _request(scene: Scene, conn: HTTPConnection) -> None:
    scene.drive(conn.co_send_request('GET', '/'))
    scene.step()


def _body(head: bytes, data: bytes) -> Callable[[Scene, HTTPConnection], None]:
    def prepare(scene: Scene, conn: HTTPConnection) -> None:
        _request(scene, conn)
        scene.reply(b'HTTP/1.1 200 OK\r\n' + head + b'\r\n\r\n')
        scene.drive(conn.co_read_response())
        scene.reply(data)

    return prepare


FIXED = _body(b'Content-Length: 25', BODY)
CHUNKED = _body(
    b'Transfer-Encoding: chunked',
    b'A\r\nabcdefghij\r\n0000000000000f;x=y\r\nklmnopqrstuvwxy\r\n0\r\nTrailer: 1\r\n\r\n',
)


SENDING = [
    Operation.of('send_request', lambda: ('GET', '/' + LARGE * 'x'), label='request-head'),
    Operation.of('send_request', lambda: ('PUT', '/', None, bytes(LARGE)), label='request-bytes'),
    Operation.of(
        'send_request',
        lambda: ('PUT', '/', None, io.BytesIO(bytes(LARGE))),
        label='request-stream',
    ),
    Operation.of(
        'send_request', lambda: ('PUT', '/', None, iter([bytes(9000)] * 8)), label='request-chunks'
    ),
    Operation.of('write', lambda: (bytes(LARGE),), _upload(LARGE)),
    Operation.of('write', lambda: (bytes(LARGE),), _upload(2 * LARGE), label='write-part'),
    Operation.of(
        'write', lambda: (io.BytesIO(bytes(LARGE)),), _upload(LARGE), label='write-stream'
    ),
    Operation.of('write', lambda: (bytes(LARGE),), _upload(None), label='write-chunk'),
    Operation.of('write_eof', lambda: ({'X-Trailer': 'x' * LARGE},), _upload(None)),
]

READING = [
    Operation.of(method, arguments, prepare, label=f'{method}{label}-{framing}')
    for method, arguments, label in [
        ('readall', tuple, ''),
        ('read', lambda: (None,), '(None)'),
        ('discard', tuple, ''),
    ]
    for framing, prepare in [('length', FIXED), ('chunked', CHUNKED)]
]


def connected(scene: Scene, conn: HTTPConnection) -> None:
    scene.drive(conn.co_connect())
    set_small_buffer(conn._sock)


@pytest.fixture
def scene(transport: str, certificates: Certificates) -> Iterator[Scene]:
    with Scene(certificates.server_context if transport == 'tls' else None) as scene:
        yield scene


@pytest.fixture
def new(scene: Scene, certificates: Certificates) -> Iterator[Callable[[], HTTPConnection]]:
    """Makes connections to the scene."""
    connections: List[HTTPConnection] = []

    def make() -> HTTPConnection:
        context = None if scene.context is None else certificates.client_context
        conn = HTTPConnection('127.0.0.1', scene.address[1], context)
        connections.append(conn)
        return conn

    yield make
    for conn in connections:
        conn.disconnect()


def stops(
    scene: Scene,
    new: Callable[[], HTTPConnection],
    way: Way,
    operation: Operation,
    start: Callable[[Scene, HTTPConnection], None] = connected,
    has_to_wait: bool = True,
) -> Iterator[HTTPConnection]:
    """Stop the operation at its first wait, on another connection at its second, and so on."""
    for index in range(200):
        conn = new()
        start(scene, conn)
        operation.prepare(scene, conn)
        scene.reply(operation.reply)
        if not way.stop(scene, conn, operation, index):
            conn.disconnect()
            # Otherwise nothing has been tested.
            assert index > 0 or not has_to_wait, 'the operation did not wait'
            return
        yield conn
        conn.disconnect()
    raise AssertionError('the operation never ends')


USES = {
    'send_request': lambda conn: conn.send_request('GET', '/'),
    'read_response': lambda conn: conn.read_response(),
    'read': lambda conn: conn.read(10),
    'read(None)': lambda conn: conn.read(),
    'readinto': lambda conn: conn.readinto(bytearray(10)),
    'readall': lambda conn: conn.readall(),
    'discard': lambda conn: conn.discard(),
    'write': lambda conn: conn.write(b'x'),
    'write_eof': lambda conn: conn.write_eof(),
}


def assert_broken(conn: HTTPConnection, cause: str) -> None:
    """Check that each further use of *conn* is a `ConnectionClosed` that names the *cause*."""
    for _ in range(2):
        for name, use in USES.items():
            with pytest.raises(ConnectionClosed) as caught:
                use(conn)
            assert re.search(cause, str(caught.value)), (name, str(caught.value))
    assert not conn.response_pending()


@all_ways
@pytest.mark.parametrize('operation', SENDING, ids=_ids)
def test_stopped_sending_breaks_the_connection(
    scene: Scene, new: Callable[[], HTTPConnection], operation: Operation, way: Way
) -> None:
    for conn in stops(scene, new, way, operation):
        assert_broken(conn, way.cause)
        conn.reset()
        scene.exchange(conn)


@all_ways
@pytest.mark.parametrize('operation', READING, ids=_ids)
def test_stopped_reading_to_the_end_breaks_the_connection(
    scene: Scene, new: Callable[[], HTTPConnection], operation: Operation, way: Way
) -> None:
    for conn in stops(scene, new, way, operation):
        assert_broken(conn, way.cause)
        conn.reset()
        scene.exchange(conn)


@all_ways
@pytest.mark.parametrize('operation', [SENDING[0], SENDING[4], READING[0]], ids=_ids)
def test_broken_connection_keeps_no_descriptor(
    scene: Scene, new: Callable[[], HTTPConnection], operation: Operation, way: Way
) -> None:
    for conn in stops(scene, new, way, operation):
        gc.collect()
        assert conn._sock is None
        conn.reset()
        scene.exchange(conn)
        conn.disconnect()
        # Ends the last connection at the side of the scene.
        other = new()
        scene.drive(other.co_connect())
        before = descriptors()
        conn.disconnect()
        assert descriptors() == before


@all_ways
def test_stopped_file_upload_breaks_the_connection(way: Way, tmp_path: Path) -> None:
    path = tmp_path / 'body'
    # The kernel takes more of a file, as it need not copy it.
    path.write_bytes(bytes(32 * LARGE))
    with Scene() as scene, path.open('rb') as file, contextlib.ExitStack() as stack:

        def new() -> HTTPConnection:
            return stack.enter_context(HTTPConnection(*scene.address))

        def rewind(scene: Scene, conn: HTTPConnection) -> None:
            file.seek(0)

        operation = Operation.of('send_request', lambda: ('PUT', '/', None, file), rewind)
        for conn in stops(scene, new, way, operation):
            assert_broken(conn, way.cause)
            conn.reset()
            scene.exchange(conn)


@all_ways
def test_earlier_answers_are_lost_with_a_stopped_request(
    scene: Scene, new: Callable[[], HTTPConnection], way: Way
) -> None:
    """A half-sent request leaves nothing that could be trusted, not even answers before it."""

    def outstanding(scene: Scene, conn: HTTPConnection) -> None:
        _request(scene, conn)
        scene.reply(REPLY)

    operation = SENDING[0]._replace(prepare=outstanding)
    for conn in stops(scene, new, way, operation):
        assert_broken(conn, way.cause)


# Reads that lose nothing


HEAD = (
    b'HTTP/1.1 102 Processing\r\nX: y\r\n\r\n'
    b'HTTP/1.1 200 Fine\r\nContent-Length: 25\r\nX-Field: value\r\n\r\n'
)

READ_RESPONSE = Operation.of('read_response', prepare=_request, reply=HEAD + BODY)


@all_ways
def test_stopped_read_response_can_be_retried(
    scene: Scene, new: Callable[[], HTTPConnection], way: Way
) -> None:
    for conn in stops(scene, new, way, READ_RESPONSE):
        assert conn.response_pending()
        response = scene.drive(conn.co_read_response())
        assert (response.status, response.reason) == (200, 'Fine')
        assert response.headers['X-Field'] == 'value'
        assert scene.drive(conn.co_readall()) == BODY
        scene.exchange(conn)


@all_ways
def test_stopped_read_of_a_continue_can_be_retried(
    scene: Scene, new: Callable[[], HTTPConnection], way: Way
) -> None:
    def prepare(scene: Scene, conn: HTTPConnection) -> None:
        scene.drive(conn.co_send_request('PUT', '/', body=BodyFollowing(3), expect100=True))
        scene.step()

    operation = Operation.of(
        'read_response', prepare=prepare, reply=b'HTTP/1.1 100 Continue\r\n\r\n'
    )
    for conn in stops(scene, new, way, operation):
        assert scene.drive(conn.co_read_response()).status == 100
        scene.drive(conn.co_write(b'abc'))
        scene.reply(REPLY)
        assert scene.drive(conn.co_read_response()).status == 200
        assert scene.drive(conn.co_readall()) == b'hello'


PIECES = {
    'read': Operation.of('read', lambda: (100,)),
    'read-small': Operation.of('read', lambda: (3,)),
    'readinto': Operation.of('readinto', lambda: (bytearray(100),)),
    'readinto-small': Operation.of('readinto', lambda: (bytearray(3),)),
}


@all_ways
@pytest.mark.parametrize('framing', [FIXED, CHUNKED], ids=['length', 'chunked'])
@pytest.mark.parametrize('name', PIECES)
def test_stopped_read_of_a_piece_can_be_retried(
    scene: Scene,
    new: Callable[[], HTTPConnection],
    name: str,
    framing: Callable[[Scene, HTTPConnection], None],
    way: Way,
) -> None:
    size = 3 if 'small' in name else 100
    stopped = 0
    for taken in range(0, 25, 5):

        def prepare(scene: Scene, conn: HTTPConnection, taken: int = taken) -> None:
            framing(scene, conn)
            head = bytearray()
            while len(head) < taken:
                head += scene.drive(conn.co_read(taken - len(head)))
            assert head == BODY[:taken]

        operation = PIECES[name]._replace(prepare=prepare)
        # There may be something in the buffer already.
        for conn in stops(scene, new, way, operation, has_to_wait=False):
            stopped += 1
            assert conn.response_pending()
            data = bytearray()
            while True:
                piece = scene.drive(conn.co_read(size))
                if not piece:
                    break
                data += piece
            assert data == BODY[taken:]
            scene.exchange(conn)
    assert stopped >= 5


@all_ways
def test_stopped_read_of_the_end_of_a_chunked_body_can_be_retried(
    scene: Scene, new: Callable[[], HTTPConnection], way: Way
) -> None:
    """The last data were read, the chunk of size 0 and the trailers are still to come."""

    def prepare(scene: Scene, conn: HTTPConnection) -> None:
        CHUNKED(scene, conn)
        data = b''
        while len(data) < len(BODY):
            data += scene.drive(conn.co_read(len(BODY) - len(data)))

    for conn in stops(scene, new, way, PIECES['read']._replace(prepare=prepare)):
        assert scene.drive(conn.co_read(5)) == b''
        scene.exchange(conn)


@all_ways
def test_stopped_read_does_not_disturb_a_suspended_write(
    scene: Scene, new: Callable[[], HTTPConnection], way: Way
) -> None:
    conn = new()
    connected(scene, conn)
    _request(scene, conn)
    writer = conn.co_send_request('PUT', '/', body=bytes(LARGE))
    next(writer)
    assert way.stop(scene, conn, READ_RESPONSE, 0)
    scene.drive(writer)
    scene.reply(REPLY + REPLY)
    for _ in range(2):
        assert scene.drive(conn.co_read_response()).status == 200
        assert scene.drive(conn.co_readall()) == b'hello'


# Connecting


CONNECTING = [
    Operation.of('connect'),
    Operation.of('send_request', lambda: ('GET', '/')),
]
TLS_CONNECTING = [
    Operation.of('get_ssl_peercert'),
    Operation.of('get_ssl_cipher'),
]


@pytest.fixture(params=['plain', 'tls', 'tunnel'])
def route(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Any]:
    """A scene, and a function that makes connections to it which have to resolve a name."""
    tls = request.param != 'plain'
    proxy = request.param == 'tunnel'
    with Scene(certificates.server_context if tls else None, proxy) as scene:
        resolve_to(monkeypatch, scene.address)
        context = certificates.client_context if tls else None

        def new() -> HTTPConnection:
            return HTTPConnection('localhost', 1, context, ('proxy.example', 2) if proxy else None)

        yield scene, new


def assert_nothing_is_left(route: Any, operation: Operation, way: Way) -> None:
    scene, new = route

    def start(scene: Scene, conn: HTTPConnection) -> None:
        # The connection before is gone from the side of the scene, too.
        scene.step()
        scene.drop()

    with nothing_left():
        for conn in stops(scene, new, way, operation, start):
            assert conn._sock is None
            assert not conn.response_pending()
            with pytest.raises(StateError):
                conn.read_response()
            assert conn.read() == b''
            # Usable as it is, without reset().
            scene.exchange(conn)
        start(scene, new())


@all_ways
@pytest.mark.parametrize('operation', CONNECTING, ids=_ids)
def test_stopped_connect_leaves_nothing(route: Any, operation: Operation, way: Way) -> None:
    assert_nothing_is_left(route, operation, way)


@all_ways
@pytest.mark.parametrize('operation', TLS_CONNECTING, ids=_ids)
@pytest.mark.parametrize('route', ['tls', 'tunnel'], indirect=True)
def test_stopped_look_at_the_certificate_leaves_nothing(
    route: Any, operation: Operation, way: Way
) -> None:
    assert_nothing_is_left(route, operation, way)


@all_ways
def test_reader_of_a_stopped_connect_gets_the_cause(route: Any, way: Way) -> None:
    scene, new = route
    readers: List[Any] = []

    def send(conn: HTTPConnection) -> 'Crt[None]':
        def observe(index: int) -> None:
            # A reader comes when the sender waits for the first time.
            if index == 0:
                readers.append(conn.co_read_response())
                next(readers[-1])

        return observed(conn.co_send_request('GET', '/'), observe)

    def start(scene: Scene, conn: HTTPConnection) -> None:
        pass

    operation = Operation(
        'send_request', send, lambda conn: eval_coroutine(send(conn), conn.timeout), start
    )
    for conn in stops(scene, new, way, operation, start):
        with pytest.raises(ConnectionClosed, match=way.cause):
            eval_coroutine(readers.pop(), LIMIT)
        scene.exchange(conn)
    # That of the request that was not stopped.
    readers.pop().close()


def test_stopped_reader_does_not_stop_the_connecting_sender(route: Any) -> None:
    scene, new = route
    for way in WAYS:
        conn = new()
        sender = conn.co_send_request('GET', '/')
        next(sender)
        assert way.stop(scene, conn, Operation.of('read_response'), 0)
        scene.drive(sender)
        scene.step()
        scene.reply(REPLY)
        assert scene.drive(conn.co_read_response()).status == 200
        assert scene.drive(conn.co_readall()) == b'hello'
        conn.disconnect()


# The state of an object whose coroutine is stopped before, or after, it does anything


def test_coroutine_that_was_never_started_has_done_nothing(
    scene: Scene, new: Callable[[], HTTPConnection]
) -> None:
    conn = new()
    for make in (
        lambda: conn.co_connect(),
        lambda: conn.co_send_request('GET', '/'),
        lambda: conn.co_read_response(),
        lambda: conn.co_readall(),
        lambda: conn.co_write(b'x'),
    ):
        make().close()
        crt = make()
        with pytest.raises(Boom):
            crt.throw(Boom())
    assert conn._sock is None
    scene.exchange(conn)


def test_interrupt_at_every_line_of_the_driver_ends_the_coroutine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver ends what it drives even if the interrupt comes between two waits.

    The traceback may live for long, so ending must not be left to the garbage collector.
    """
    code = eval_coroutine.__code__
    trace_before = sys.gettrace()
    # Three waits that end for nothing, then a timeout.
    polls: List[bool] = []
    monkeypatch.setattr(PollNeeded, 'poll', lambda need, timeout=None: polls.pop())
    for number in range(1, 100):
        lines = 0
        started = ended = False

        def trace(frame: Any, event: str, _: Any) -> Any:
            return trace_lines if frame.f_code is code else None

        def trace_lines(frame: Any, event: str, _: Any, number: int = number) -> Any:
            nonlocal lines
            lines += event == 'line'
            if lines == number:
                raise KeyboardInterrupt
            return trace_lines

        def wait() -> 'Crt[None]':
            nonlocal started, ended
            started = True
            try:
                while True:
                    yield PollNeeded(0, POLLIN)
            finally:
                ended = True

        polls[:] = [False, True, True, True]
        sys.settrace(trace)
        try:
            eval_coroutine(wait(), 1)
        except (KeyboardInterrupt, ConnectionTimedOut) as exc:
            sys.settrace(trace_before)
            # Not garbage yet, as the driver's frame is kept by the exception.
            assert ended == started, number
            if isinstance(exc, ConnectionTimedOut):
                return
        finally:
            sys.settrace(trace_before)
    raise AssertionError('the driver never ends')


class Strikes:
    """Raises `KeyboardInterrupt` at one line of the package after the other, time after time.

    Not in the driver, which has nothing to do when it has got the result.
    """

    def __init__(self) -> None:
        self._package = os.path.dirname(dugong.__file__)
        self._left = 0
        #: How many there were, and whether the last one has struck.
        self.number = 0
        self.struck = True

    def __iter__(self) -> Iterator[int]:
        while self.struck:
            self.number += 1
            yield self.number

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        before = sys.gettrace()
        self._left = self.number
        self.struck = False
        # It would not raise out of the finalizer of something from before.
        gc.disable()
        sys.settrace(self._trace)
        try:
            yield
        except KeyboardInterrupt:
            assert self.struck
        finally:
            sys.settrace(before)
            gc.enable()

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        file = frame.f_code.co_filename
        known = file.startswith(self._package) and not file.endswith('_poll.py')
        return self._trace_lines if known else None

    def _trace_lines(self, frame: Any, event: str, _: Any) -> Any:
        self._left -= event == 'line'
        if event == 'line' and self._left == 0:
            self.struck = True
            raise KeyboardInterrupt
        return self._trace_lines


#: How often the path is repeated.
MANY = 30


def answer_with_paths(peer: Peer) -> None:
    """The body is the path, many times; in chunks if it begins so."""
    with contextlib.suppress(OSError, EOFError):
        while True:
            path = peer.read_request().target.encode()
            if path.startswith(b'/chunks'):
                chunk = b'%x\r\n%b\r\n' % (len(path), path)
                peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
                peer.send(chunk * MANY + b'0\r\n\r\n')
            else:
                peer.respond(path * MANY)


def read_some(conn: HTTPConnection) -> bytes:
    return conn.read(100)


def read_into(conn: HTTPConnection) -> bytes:
    buf = bytearray(100)
    return bytes(buf[: conn.readinto(buf)])


@pytest.mark.skipif(sys.version_info < (3, 11), reason='traces the line of "finally" as well')
# Of views that are not released because it struck at that very line.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
@pytest.mark.parametrize('read', [HTTPConnection.readall, read_some, read_into])
@pytest.mark.parametrize('kind', ['/length', '/chunks'])
def test_interrupted_read_loses_nothing_in_silence(
    kind: str, read: Any, connect: Any, serve: Any
) -> None:
    """A signal strikes at each line in turn. Then the body is complete, or an error is raised."""
    server = serve(answer_with_paths)
    strikes = Strikes()
    failures = 0
    for number in strikes:
        conn = connect(server)
        for name in ('1', '2'):
            conn.send_request('GET', kind + name)
        sock = conn._sock
        conn.read_response()
        data = b''
        with strikes():
            data = read(conn)
        try:
            data += conn.readall()
            assert data == (kind + '1').encode() * MANY, number
            assert conn.read_response().path == kind + '2', number
            assert conn.readall() == (kind + '2').encode() * MANY, number
        except (ConnectionClosed, StateError):
            failures += 1
        conn.disconnect()
        # If the strike came when the role of the reader had just been taken, nobody leaves it.
        sock.close()
    assert failures > 10


class Beginnings(Strikes):
    """Strikes where the role of a sender is taken."""

    def _trace(self, frame: Any, event: str, _: Any) -> Any:
        return self._trace_lines if frame.f_code.co_name == 'enter_sending' else None


def test_nobody_waits_for_a_sender_that_was_struck_when_it_began(connect: Any, serve: Any) -> None:
    def handle(peer: Peer) -> None:
        with contextlib.suppress(OSError, EOFError):
            peer.read_request()

    strikes = Beginnings()
    server = serve([handle] * 20)
    broken = 0
    for _ in strikes:
        conn = connect(server)
        conn.timeout = LIMIT / 4
        conn.send_request('PUT', '/', body=BodyFollowing(2))
        sock = conn._sock
        with strikes():
            conn.write(b'no')
        if strikes.struck:
            # Not a time-out: an answer is waited for only if the body was written.
            with pytest.raises((ConnectionClosed, StateError)) as caught:
                conn.read_response()
            broken += caught.type is ConnectionClosed
            with contextlib.suppress(ConnectionClosed):
                conn.write(b'no')
        conn.disconnect()
        sock.close()
    assert 2 <= broken < strikes.number


class StruckRole(list):  # type: ignore[type-arg]
    """The token of a role; a signal handler raises *exc* at the moment it is taken."""

    def __init__(self, exc: Exception) -> None:
        super().__init__([None])
        self.exc = exc

    def pop(self, *args: Any) -> Any:
        super().pop()
        raise self.exc


@pytest.mark.parametrize('kind', [IndexError, StateError, Boom])
def test_exception_of_a_signal_handler_is_not_taken_for_that_of_a_role(
    kind: Any, connect: Any, serve: Any
) -> None:
    conn = connect(serve(answer_with_paths))
    conn.send_request('PUT', '/', body=BodyFollowing(2))
    exc = kind('of the handler')
    conn._session.stream.sending = StruckRole(exc)
    with pytest.raises(kind) as info:
        conn.write(b'no')
    assert info.value is exc
    with pytest.raises(ConnectionClosed, match='the beginning of an operation was interrupted'):
        conn.read_response()
    conn._session.stream.sending.append(None)


class Look:
    """The lock of a sender that looks at what has come, and does not end; a signal handler may
    raise *exc* meanwhile."""

    def __init__(self, exc: Optional[Exception]) -> None:
        self.exc = exc
        self.asked = 0

    def locked(self) -> bool:
        self.asked += 1
        if self.exc is not None and self.asked > 3:
            raise self.exc
        return True


@pytest.mark.slow
@pytest.mark.parametrize(
    'exc, expected',
    [
        pytest.param(Boom(), Boom, id='a signal handler raises'),
        pytest.param(None, StateError, id='the sender does not come to an end'),
    ],
)
def test_reader_that_waits_in_vain_for_a_sender_to_look_can_try_again(
    exc: Any, expected: Any, connect: Any, serve: Any
) -> None:
    conn = connect(serve(answer_with_paths))
    conn.send_request('GET', '/length1')
    conn._session.stream.peeking = Look(exc)
    with pytest.raises(expected):
        conn.read_response()
    conn._session.stream.peeking = threading.Lock()
    assert conn.read_response().path == '/length1'


@pytest.mark.skipif(sys.version_info < (3, 11), reason='traces the line of "finally" as well')
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_interrupted_read_past_the_buffer_loses_nothing_in_silence(
    connect: Any, serve: Any
) -> None:
    """The same where data are received into the memory of the caller."""
    path = '/length' + 1000 * 'x'
    server = serve(answer_with_paths)
    strikes = Strikes()
    failures = 0
    for number in strikes:
        conn = connect(server)
        conn._rbuf = dugong._Buffer(1 << 10)
        conn.send_request('GET', path)
        sock = conn._sock
        conn.read_response()
        data = conn.read(1 << 10)
        assert len(conn._rbuf) == 0
        target = bytearray(1 << 14)
        with strikes():
            data += target[: conn.readinto(target)]
        try:
            data += conn.readall()
            assert data == path.encode() * MANY, number
        except (ConnectionClosed, StateError):
            failures += 1
        conn.disconnect()
        sock.close()
    assert failures > 10


@pytest.mark.parametrize('stream', [False, True])
def test_interrupted_pipeline_confuses_and_repeats_nothing(
    stream: bool, connect: Any, serve: Any
) -> None:
    """A signal strikes at each line in turn. Then it goes on, or says that it cannot."""
    posts: List[str] = []

    def handler(peer: Peer) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                request = peer.read_request()
                if request.method == 'POST':
                    posts.append(request.target)
                peer.respond(request.target.encode() * MANY)

    server = serve(handler)
    requests = ['/1', '/2', '/3', ('POST', '/4', None, b'content'), '/5']
    paths = ['/1', '/2', '/3', '/4', '/5']
    strikes = Strikes()
    broken = 0
    for number in strikes:
        posts.clear()
        conn = connect(server)
        conn.connect()
        sock = conn._sock
        pipeline = conn.pipeline(requests, stream=stream)
        seen: List[str] = []
        try:
            while len(seen) < 5:
                response = None
                # In the third step, with several requests in flight, and once.
                with strikes() if len(seen) == 2 else contextlib.nullcontext():
                    response = next(pipeline)
                if response is None:
                    response = next(pipeline)
                body = conn.readall() if stream else response.body
                assert body == response.path.encode() * MANY, number
                seen.append(response.path)
            assert seen == paths, number
        except ConnectionClosed:
            broken += 1
            assert seen == paths[:2]
            assert pipeline.unanswered + list(pipeline._source or ()) == requests[2:], number
        assert len(posts) <= 1, number
        conn.disconnect()
        # If the strike came when a role had just been taken, nobody leaves it.
        sock.close()
    assert broken > 100


@pytest.mark.parametrize('body', [None, b'content', BodyFollowing(7)], ids=str)
def test_interrupted_request_is_never_answered_by_the_answer_to_another(
    body: Any, connect: Any, serve: Any
) -> None:
    """A signal strikes at each line in turn."""
    server = serve(answer_with_paths)
    strikes = Strikes()
    for number in strikes:
        conn = connect(server)
        conn.send_request('GET', '/before')
        conn.read_response()
        conn.readall()
        sock = conn._sock
        with strikes():
            conn.send_request('PUT', '/interrupted', body=body)
            if isinstance(body, BodyFollowing):
                conn.write(b'content')
        with contextlib.suppress(ConnectionClosed, StateError):
            conn.send_request('GET', '/after')
            while conn.response_pending():
                path = conn.read_response().path
                assert conn.readall() == path.encode() * MANY, number
        # If the strike came when the role of the sender had just been taken, nobody leaves it.
        conn.reset()
        sock.close()
        conn.send_request('GET', '/anew')
        assert conn.read_response().path == '/anew', number
        assert conn.readall() == b'/anew' * MANY, number
        conn.disconnect()
    assert strikes.number > 40


def wait_before_each_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each `write` but the first one look for an answer before it sends."""
    monkeypatch.setattr('dugong._stream.BURST', 1)
    monkeypatch.setattr('dugong._stream.Stream._something_has_come', lambda _: True)


@pytest.mark.skipif(sys.version_info < (3, 11), reason='traces the line of "finally" as well')
@pytest.mark.parametrize('waits', [False, True])
def test_interrupted_write_never_lets_another_body_pass_for_complete(
    waits: bool, connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal strikes at each line in turn, and the caller writes the piece again."""

    def echo(peer: Peer) -> None:
        with contextlib.suppress(OSError, EOFError):
            while True:
                peer.respond(peer.read_request().body)

    if waits:
        wait_before_each_piece(monkeypatch)
    server = serve(echo)
    pieces = [b'first', b'second', b'third']
    strikes = Strikes()
    complete = 0
    for number in strikes:
        conn = connect(server)
        conn.send_request('PUT', '/', body=BodyFollowing(sum(map(len, pieces))))
        sock = conn._sock
        conn.write(pieces[0])
        with strikes():
            conn.write(pieces[1])
        with contextlib.suppress(ConnectionClosed, StateError, ExcessBodyData):
            if strikes.struck:
                conn.write(pieces[1])
            conn.write(pieces[2])
            conn.read_response()
            assert conn.readall() == b''.join(pieces), number
            complete += 1
        conn.disconnect()
        # If the strike came when the role of the sender had just been taken, nobody leaves it.
        sock.close()
    assert 3 < complete < number


@pytest.mark.parametrize('begun', [False, True])
def test_interrupt_of_a_write_that_is_about_to_wait_leaves_the_role(
    begun: bool, connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(crt: 'Crt[None]') -> None:
        if begun:
            next(crt)
        raise KeyboardInterrupt

    wait_before_each_piece(monkeypatch)
    conn = connect(serve(answer_with_paths))
    conn.send_request('PUT', '/', body=BodyFollowing(2))
    conn.write(b'x')
    monkeypatch.setattr('dugong._session.next', interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        conn.write(b'y')
    with pytest.raises(ConnectionClosed, match='interrupted|abandoned'):
        conn.write(b'y')


def test_garbage_collection_during_disconnect_may_end_a_coroutine(
    new: Callable[[], HTTPConnection], scene: Scene
) -> None:
    """The collector may run anywhere, also while a lock is held."""

    class Collecting(DuckSocket):
        def shutdown(self, how: int) -> None:
            gc.collect()
            self._plain.shutdown(how)

        def close(self) -> None:
            gc.collect()
            self._plain.close()

    conn = new()
    connected(scene, conn)
    _request(scene, conn)
    conn._sock = Collecting(conn._sock)
    crt = conn.co_read_response()
    next(crt)
    cycle = [crt]
    cycle.append(cycle)
    del crt, cycle
    _finish_in_thread(conn.disconnect)
    scene.exchange(conn)


def test_signal_handler_may_disconnect_during_disconnect(
    new: Callable[[], HTTPConnection], scene: Scene
) -> None:
    class Signalling(DuckSocket):
        def close(self) -> None:
            # What a handler that runs here does.
            conn.disconnect()
            self._plain.close()

    conn = new()
    connected(scene, conn)
    conn._sock = Signalling(conn._sock)
    _finish_in_thread(conn.disconnect)
    scene.exchange(conn)


def _finish_in_thread(function: Callable[[], None]) -> None:
    """Call *function* in a thread, as a deadlock could not be interrupted otherwise."""
    Thread(function).finish(5)
