"""Section 5 of the contract: what may be done when, and what breaks a connection."""

import contextlib
import errno
import io
import select
import ssl
import threading
import time
from typing import Any, Callable, Dict, List, Optional

import pytest
from contract_support import (
    BODY_CALLS,
    Answers,
    DuckContext,
    DuckSocket,
    FailingSocket,
    chunked_reply,
    co,
    drain,
    get,
    head,
    reply,
    wait_broken,
    wait_for,
    wait_queued,
)
from servers import LIMIT, Peer

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    HTTPConnection,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
)


def pending(conn: HTTPConnection) -> Any:
    """The next response. Never waits for another thread to send something, as the blocking
    method may do when servers run in other threads."""
    return co(conn.co_read_response())


# -- pipelining ---------------------------------------------------------------------------------


@pytest.mark.parametrize('count', [2, 3, 100])
def test_answers_come_in_order(count: int, transport: str, connect: Any) -> None:
    conn = connect(Answers(*[reply(b'body %d' % i) for i in range(count)]))
    for i in range(count):
        conn.send_request('GET', f'/{i}')
    for i in range(count):
        response = conn.read_response()
        assert response.path == f'/{i}'
        assert conn.readall() == b'body %d' % i
    assert not conn.response_pending()


def test_answers_that_come_in_one_piece(transport: str, connect: Any) -> None:
    pieces = [reply(b'one'), chunked_reply(b't', b'wo'), head('204 No Content'), reply(b'four')]
    conn = connect(Answers(*[b''] * 3, b''.join(pieces)))
    for i in range(4):
        conn.send_request('GET', f'/{i}')
    bodies = []
    for i in range(4):
        assert conn.read_response().path == f'/{i}'
        bodies.append(conn.readall())
    assert bodies == [b'one', b'two', b'', b'four']


def test_requests_can_be_sent_between_reads(transport: str, connect: Any) -> None:
    conn = connect(Answers(*[reply(b'body')] * 4))
    conn.send_request('GET', '/0')
    conn.send_request('GET', '/1')
    conn.read_response()
    conn.send_request('GET', '/2')
    assert conn.read(2) == b'bo'
    conn.send_request('GET', '/3')
    assert conn.readall() == b'dy'
    for i in (1, 2, 3):
        assert conn.read_response().path == f'/{i}'
        assert conn.readall() == b'body'


def test_methods_of_a_pipeline_are_kept_apart(connect: Any) -> None:
    length = head('200 OK', 'Content-Length: 4')
    conn = connect(Answers(length, length + b'body', length))
    for method in ('HEAD', 'GET', 'HEAD'):
        conn.send_request(method, '/')
    assert conn.read_response().length == 0
    assert conn.read_response().length == 4
    assert conn.readall() == b'body'
    assert conn.read_response().length == 0


# -- nothing pending ----------------------------------------------------------------------------


def test_reading_a_response_that_was_not_asked_for_is_a_state_error() -> None:
    conn = HTTPConnection('host.invalid')
    before = time.monotonic()
    for _ in range(2):
        with pytest.raises(StateError):
            conn.read_response()
    assert time.monotonic() - before < 0.5
    assert conn._sock is None


def test_coroutine_does_not_wait_for_a_request(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    for _ in range(2):
        coroutine = conn.co_read_response()
        with pytest.raises(StateError):
            next(coroutine)
    get(conn)
    with pytest.raises(StateError):
        next(conn.co_read_response())


@pytest.mark.parametrize('raw', [reply(b'body'), chunked_reply(b'bo', b'dy')], ids=['cl', 'te'])
@pytest.mark.parametrize('taken', [0, 1, 3])
def test_next_response_before_the_end_of_the_body_is_a_state_error(
    raw: bytes, taken: int, transport: str, connect: Any
) -> None:
    conn = connect(Answers(raw, reply(b'next')))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    data = b''
    while len(data) < taken:
        data += conn.read(taken - len(data))
    for _ in range(2):
        with pytest.raises(StateError):
            conn.read_response()
        with pytest.raises(StateError):
            pending(conn)
    assert data + conn.readall() == b'body'
    assert conn.read_response().path == '/2'
    assert conn.readall() == b'next'


def test_body_that_was_read_by_count_is_at_its_end(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'body'), reply(b'next')))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    data = b''
    while len(data) < 4:
        data += conn.read(4 - len(data))
    assert conn.read_response().path == '/2'
    assert conn.readall() == b'next'


# -- an incomplete request body -----------------------------------------------------------------


def test_incomplete_body_forbids_the_next_request_and_its_own_response(
    transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'one'), reply(b'two'))
    conn = connect(handler)
    conn.send_request('PUT', '/1', body=BodyFollowing(3))
    for data in (b'a', b'b', b'c'):
        for _ in range(2):
            with pytest.raises(StateError):
                conn.send_request('GET', '/refused')
            with pytest.raises(StateError):
                pending(conn)
            before = time.monotonic()
            with pytest.raises(StateError):
                conn.read_response()
            assert time.monotonic() - before < 0.5
        conn.write(data)
    conn.send_request('GET', '/2')
    for path in ('/1', '/2'):
        assert conn.read_response().path == path
        conn.readall()
    assert [request.target for request in handler.requests] == ['/1', '/2']
    assert handler.requests[0].body == b'abc'


def test_earlier_answers_can_be_read_while_a_body_is_incomplete(
    transport: str, connect: Any
) -> None:
    conn = connect(Answers(reply(b'one'), reply(b'two'), reply(b'three')))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.send_request('PUT', '/3', body=BodyFollowing(4))
    assert conn.read_response().path == '/1'
    conn.write(b'da')
    assert conn.readall() == b'one'
    assert conn.read_response().path == '/2'
    assert conn.read(1) == b't'
    conn.write(b'ta')
    assert conn.readall() == b'wo'
    assert conn.read_response().path == '/3'
    assert conn.readall() == b'three'


def test_own_response_after_the_earlier_ones_is_a_state_error(connect: Any) -> None:
    conn = connect(Answers(reply(b'one'), reply(b'two')))
    conn.send_request('GET', '/1')
    conn.send_request('PUT', '/2', body=BodyFollowing(4))
    conn.read_response()
    conn.readall()
    with pytest.raises(StateError):
        pending(conn)
    conn.write(b'data')
    assert conn.read_response().path == '/2'


# -- 100-continue -------------------------------------------------------------------------------


class Continue:
    """Answers the head with *first*; after a 100, takes the body and answers again."""

    def __init__(self, *first: bytes, size: int = 3) -> None:
        self.first = first
        self.size = size
        self.body = b''
        self.rest = b''
        self.finished = threading.Event()

    def __call__(self, peer: Peer) -> None:
        try:
            for data in self.first:
                assert peer.read_head().field('Expect') == '100-continue'
                peer.send(data)
                if b' 100 ' in data:
                    self.body = peer.read_exactly(self.size)
                    peer.send(reply(b'taken'))
            self.rest = peer.read_to_eof()
        finally:
            self.finished.set()

    def wait(self) -> bytes:
        assert self.finished.wait(LIMIT)
        return self.rest


def test_before_the_100_neither_write_nor_send_request(transport: str, connect: Any) -> None:
    handler = Continue(head('100 Continue'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    assert conn._out_remaining
    for _ in range(2):
        with pytest.raises(StateError):
            conn.write(b'abc')
        with pytest.raises(StateError):
            conn.send_request('GET', '/refused')
    assert conn.read_response().status == 100
    with pytest.raises(StateError):
        conn.send_request('GET', '/refused')
    conn.write(b'abc')
    assert conn.read_response().status == 200
    assert conn.readall() == b'taken'
    conn.disconnect()
    assert (handler.wait(), handler.body) == (b'', b'abc')


def test_after_the_100_the_response_needs_the_body_first(connect: Any) -> None:
    conn = connect(Continue(head('100 Continue')))
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 100
    conn.write(b'ab')
    with pytest.raises(StateError):
        pending(conn)
    conn.write(b'c')
    assert conn.read_response().status == 200


def test_reading_after_a_100_gives_nothing(connect: Any) -> None:
    conn = connect(Continue(head('100 Continue')))
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    conn.read_response()
    assert conn.read(10) == b''
    assert conn.readall() == b''
    conn.write(b'abc')
    assert conn.read_response().status == 200


@pytest.mark.parametrize('status', ['417 Expectation Failed', '403 Forbidden', '200 OK', '302 X'])
def test_any_other_answer_is_final_and_the_body_is_not_sent(
    status: str, transport: str, connect: Any
) -> None:
    handler = Continue(reply(b'because', status), head('100 Continue'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    response = conn.read_response()
    assert f'{response.status} {response.reason}' == status
    assert not conn._out_remaining
    with pytest.raises(StateError):
        conn.write(b'abc')
    assert conn.readall() == b'because'
    with pytest.raises(StateError):
        conn.write(b'abc')
    assert not conn.response_pending()
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 100
    conn.write(b'xyz')
    assert conn.read_response().status == 200
    conn.readall()
    conn.disconnect()
    assert (handler.wait(), handler.body) == (b'', b'xyz')


def test_refusal_without_a_body_ends_the_request(connect: Any) -> None:
    handler = Continue(head('204 No Content'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 204
    assert not conn.response_pending()
    conn.disconnect()
    assert handler.wait() == b''


def test_refusal_by_closing(transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()


def test_refusal_that_announces_to_close(transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(b'no', '413 Too Large', 'Connection: close'))

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 413
    assert conn.readall() == b'no'
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed):
        conn.read_response()


def test_earlier_answers_come_before_the_100(transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.read_head()
        peer.send(reply(b'one') + head('100 Continue'))
        peer.read_exactly(3)
        peer.send(reply(b'two'))
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/1')
    conn.send_request('PUT', '/2', body=BodyFollowing(3), expect100=True)
    response = conn.read_response()
    assert (response.path, response.status) == ('/1', 200)
    with pytest.raises(StateError):
        conn.write(b'abc')
    assert conn.readall() == b'one'
    with pytest.raises(StateError):
        conn.write(b'abc')
    response = conn.read_response()
    assert (response.path, response.status) == ('/2', 100)
    conn.write(b'abc')
    assert conn.read_response().path == '/2'
    assert conn.readall() == b'two'


def test_100_for_an_earlier_request_is_not_the_one_waited_for(connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.read_head()
        peer.send(head('100 Continue') + reply(b'one') + reply(b'no', '417 No'))
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/1')
    conn.send_request('PUT', '/2', body=BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 200
    conn.readall()
    assert conn.read_response().status == 417


@pytest.mark.parametrize('asked', [True, False])
def test_out_remaining(asked: bool, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        if asked:
            peer.send(head('100 Continue'))
        peer.read_exactly(2)
        peer.send(reply())
        peer.read_to_eof()

    conn = connect(handler)
    assert not conn._out_remaining
    conn.send_request('PUT', '/', body=BodyFollowing(2), expect100=asked)
    assert conn._out_remaining
    if asked:
        conn.read_response()
        assert conn._out_remaining
    conn.write(b'a')
    assert conn._out_remaining
    conn.write(b'b')
    assert not conn._out_remaining
    conn.read_response()
    assert not conn._out_remaining


# -- sending that fails -------------------------------------------------------------------------


def failing_to_send(connect: Any, serve: Any) -> Any:
    """A connection on which sending fails, and the server, which answers on the next one."""
    server = serve([Answers(), Answers(reply(b'anew'))])
    context = DuckContext(FailingSocket)
    conn = connect(server, ssl_context=context)
    conn.connect()
    context.socket.send_error = BrokenPipeError(errno.EPIPE, 'Broken pipe')
    return conn, server


@pytest.mark.parametrize('body', [None, b'data', BodyFollowing(10)], ids=['none', 'bytes', 'more'])
def test_failing_to_send_a_head_is_connection_closed_and_nothing_is_outstanding(
    body: Any, connect: Any, serve: Any
) -> None:
    conn, _ = failing_to_send(connect, serve)
    with pytest.raises(ConnectionClosed):
        conn.send_request('PUT', '/', body=body)
    assert not conn.response_pending()
    assert not conn._out_remaining
    conn.reset()
    # With an answer outstanding this would be `ConnectionClosed`.
    with pytest.raises(StateError):
        pending(conn)
    assert get(conn)[1] == b'anew'


def test_failing_to_send_leaves_the_connection_broken(connect: Any, serve: Any) -> None:
    conn, server = failing_to_send(connect, serve)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.send_request('GET', '/')
        # Nothing is outstanding, and the connection is broken: both may be said.
        with pytest.raises((ConnectionClosed, StateError)):
            pending(conn)
    conn.disconnect()
    assert get(conn)[1] == b'anew'
    assert server.connections == 2


def test_pipelined_request_into_a_reset_connection(transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    conn = connect(handler)
    conn.send_request('GET', '/1')
    wait_broken(conn)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/2')
        conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.read_response()


def test_failing_to_connect_leaves_the_object_usable(connect: Any, serve: Any) -> None:
    server = serve(Answers(reply(b'there')))
    closed = serve(Answers())
    closed.stop()
    conn = HTTPConnection(closed.host, closed.port)
    conn.timeout = LIMIT
    with conn:
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                conn.connect()
            with pytest.raises(ConnectionRefusedError):
                conn.send_request('GET', '/')
            with pytest.raises(ConnectionRefusedError):
                conn.send_request('PUT', '/', body=BodyFollowing(3))
            assert conn._sock is None
            assert not conn._out_remaining
            assert not conn.response_pending()
            with pytest.raises(StateError):
                pending(conn)
            with pytest.raises(StateError):
                conn.write(b'abc')
            assert conn.read(10) == b''
        conn.port = server.port
        assert get(conn)[1] == b'there'


def test_failing_handshake_leaves_the_object_usable(
    connect: Any, serve: Any, certificates: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(b'secret'))
        peer.read_to_eof()

    server = serve(handler, tls=True)
    conn = connect(server, ssl_context=ssl.create_default_context())
    for _ in range(2):
        with pytest.raises(ssl.SSLError):
            conn.send_request('GET', '/')
        assert conn._sock is None
        with pytest.raises(StateError):
            pending(conn)
    conn.ssl_context = certificates.client_context
    assert get(conn)[1] == b'secret'
    # The servers of the failed attempts have seen the alert.
    server.errors[:] = [
        exc for exc in server.errors if not isinstance(exc, (ssl.SSLError, OSError))
    ]


# -- the server closes while a body is being written --------------------------------------------


class Refusing:
    """Answers an upload with *raw* when it has the head, and closes or, to *stay*, reads on."""

    def __init__(self, raw: bytes, stay: bool = False) -> None:
        self._raw = raw
        self._stay = stay
        self.answered = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.read_head()
        peer.send(self._raw)
        self.answered.set()
        if self._stay:
            peer.read_to_eof()


def upload_until_closed(
    conn: HTTPConnection, answered: Optional[threading.Event] = None, path: str = '/'
) -> None:
    """Upload more than the kernel takes, if given only when the server has *answered*."""
    block = bytes(1 << 16)
    size = 1 << 26
    conn.send_request('PUT', path, body=BodyFollowing(size))
    if answered is not None:
        assert answered.wait(LIMIT)
    with pytest.raises(ConnectionClosed):
        for _ in range(size // len(block)):
            conn.write(block)


@pytest.mark.parametrize('fields', [(), ('Connection: close',)], ids=['silent', 'announced'])
def test_answer_sent_before_closing_can_be_fetched(
    fields: Any, transport: str, connect: Any
) -> None:
    handler = Refusing(reply(b'too large', '413 Too Large', fields))
    conn = connect(handler)
    upload_until_closed(conn, handler.answered)
    # The body counts as sent.
    assert not conn._out_remaining
    response = conn.read_response()
    assert (response.status, response.path) == (413, '/')
    assert conn.readall() == b'too large'


def test_earlier_answers_can_be_fetched_after_a_broken_write(transport: str, connect: Any) -> None:
    answered = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.read_head()
        peer.send(reply(b'first') + reply(b'too large', '413 Too Large', 'Connection: close'))
        answered.set()

    conn = connect(handler)
    conn.send_request('GET', '/1')
    upload_until_closed(conn, answered, '/2')
    assert conn.read_response().path == '/1'
    assert conn.readall() == b'first'
    assert conn.read_response().path == '/2'
    assert conn.readall() == b'too large'


@pytest.mark.parametrize('how', [Peer.close, Peer.reset], ids=['close', 'reset'])
def test_closing_without_an_answer_is_connection_closed_again(
    how: Callable[[Peer], None], transport: str, connect: Any, serve: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        how(peer)

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    upload_until_closed(conn)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()
        with pytest.raises(ConnectionClosed):
            conn.write(b'x')
        with pytest.raises(ConnectionClosed):
            conn.send_request('GET', '/')
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_after_a_broken_write_the_connection_takes_no_request(connect: Any, serve: Any) -> None:
    handler = Refusing(reply(b'no', '403 Forbidden'))
    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    upload_until_closed(conn, handler.answered)
    conn.read_response()
    conn.readall()
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_reader_is_told_at_once_that_the_connection_takes_no_request(connect: Any) -> None:
    """Although another thread, the server's, could be about to send one."""
    handler = Refusing(reply(b'no', '403 Forbidden'), stay=True)
    conn = connect(handler)
    upload_until_closed(conn, handler.answered)
    conn.read_response()
    conn.readall()
    began = time.monotonic()
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    assert time.monotonic() - began < 0.5


# -- an idle connection that the server closed --------------------------------------------------


@pytest.mark.parametrize('how', ['close', 'reset'])
def test_idle_connection_that_was_closed_shows_at_the_next_request(
    how: str, transport: str, connect: Any, serve: Any
) -> None:
    taken = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(b'one'))
        assert taken.wait(LIMIT)
        getattr(peer, how)()

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    get(conn)
    taken.set()
    wait_for(conn)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'
    assert server.connections == 2


def test_connection_that_was_closed_before_the_first_request(
    transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Peer.close])
    conn = connect(server)
    conn.connect()
    wait_for(conn)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()


# -- octets that nobody asked for ---------------------------------------------------------------

STRAY = [
    reply(b'poison'),
    reply(b'poison') + reply(b'poison'),
    b'x',
    b'\r\n',
    b'HTTP/1.1 200 OK\r\n',
    reply(b'poison', fields='Connection: close'),
    head('100 Continue'),
    reply(b'too late', '408 Request Timeout'),
    reply(b'too late', '408 Request Timeout', 'Connection: close')[:-1],
    head('408 Request Timeout', 'Connection: close')[:-2],
    reply(b'no', '400 Bad Request', 'Connection: close'),
]


def stray_id(raw: bytes) -> str:
    return repr(raw)[2:28]


#: The beginning of a 408 that closes is a stray one only if it does not go on.
STRAY_AND_CLOSING = [
    (stray, closing)
    for stray in STRAY
    for closing in (False, True)
    if closing or not (stray.startswith(b'HTTP/1.1 408') and b'close' in stray)
]


@pytest.mark.parametrize('together', [True, False], ids=['together', 'later'])
@pytest.mark.parametrize(
    'stray, closing',
    STRAY_AND_CLOSING,
    ids=[f'{stray_id(s)}-{"closing" if c else "open"}' for s, c in STRAY_AND_CLOSING],
)
def test_stray_octets_are_never_taken_for_an_answer(
    stray: bytes, together: bool, closing: bool, transport: str, connect: Any, serve: Any
) -> None:
    taken = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        if together:
            peer.send(reply(b'one') + stray)
        else:
            peer.send(reply(b'one'))
            assert taken.wait(LIMIT)
            peer.send(stray)
        if not closing:
            peer.read_to_eof()

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    assert get(conn)[1] == b'one'
    if not together:
        taken.set()
        wait_for(conn)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/two')
        conn.read_response()
        conn.readall()
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()
    conn.reset()
    response, body = get(conn, '/three')
    assert (response.path, body) == ('/three', b'anew')


def test_stray_octets_after_the_last_of_a_pipeline(transport: str, connect: Any) -> None:
    conn = connect(Answers(b'', reply(b'one') + reply(b'two') + reply(b'poison'), reply(b'three')))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    for body in (b'one', b'two'):
        conn.read_response()
        assert conn.readall() == body
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/3')
        conn.read_response()


@pytest.mark.parametrize(
    'method, raw',
    [
        ('HEAD', reply(b'the body of a HEAD')),
        ('GET', head('204 No Content', 'Content-Length: 4') + b'body'),
        ('GET', head('304 Not Modified', 'Content-Length: 4') + b'body'),
        ('GET', head('200 OK', 'Content-Length: 4') + b'body and more'),
        ('GET', chunked_reply(b'body') + b'0\r\n\r\n'),
    ],
    ids=['HEAD', '204', '304', 'too long', 'chunked'],
)
def test_body_where_none_may_be_is_not_an_answer(
    method: str, raw: bytes, transport: str, connect: Any
) -> None:
    conn = connect(Answers(raw, reply(b'two')))
    conn.send_request(method, '/1')
    conn.read_response()
    conn.readall()
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/2')
        conn.read_response()


def test_stray_octets_before_the_first_request(transport: str, connect: Any) -> None:
    sent = threading.Event()

    def handler(peer: Peer) -> None:
        peer.send(reply(b'poison'))
        sent.set()
        peer.read_to_eof()

    conn = connect(handler)
    conn.connect()
    # That there is something to receive could also be a session ticket.
    assert sent.wait(LIMIT)
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()


@pytest.mark.parametrize('cut', [None, 0, 1, 20, -1])
@pytest.mark.parametrize(
    'late',
    [
        reply(b'too late', '408 Request Timeout', 'Connection: close'),
        head('408 Request Timeout', 'Connection: close') + b'too late',
        head('408 Request Timeout', 'Connection: Close', 'Transfer-Encoding: chunked')
        + b'8\r\ntoo late\r\n0\r\n\r\n',
        head('408 Request Timeout', version='1.0') + b'too late',
    ],
    ids=['length', 'until close', 'chunked', 'HTTP/1.0'],
)
def test_complete_408_that_closes_is_delivered(
    late: bytes, cut: Any, transport: str, connect: Any, serve: Any
) -> None:
    taken = threading.Event()

    def handler(peer: Peer) -> None:
        # The first part of it may come along with the answer that was asked for.
        peer.read_request()
        peer.send(reply(b'one') + late[:cut])
        if cut is not None:
            assert taken.wait(LIMIT)
            peer.send(late[cut:])

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    assert get(conn)[1] == b'one'
    taken.set()
    # It is complete when the end of the connection has arrived.
    wait_for(conn, getattr(select, 'POLLRDHUP', select.POLLIN))
    conn.send_request('GET', '/two')
    response = conn.read_response()
    assert (response.status, response.path) == (408, '/two')
    assert conn.readall() == b'too late'
    conn.send_request('GET', '/three')
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    conn.reset()
    assert get(conn)[1] == b'anew'


@pytest.mark.parametrize(
    'late',
    [
        head('408 Request Timeout', 'Connection: close', 'Content-Length: 100') + b'too late',
        head('408 Request Timeout', 'Connection: close', 'Content-Length: 100000') + b'too late',
        head('408 Request Timeout', 'Connection: close', 'Content-Length: -3') + b'too late',
        head('408 Request Timeout', 'Connection: close', 'Transfer-Encoding: foo') + b'too late',
    ],
    ids=['half', 'half, large', 'wrong length', 'unknown coding'],
)
def test_incomplete_408_is_not_delivered(late: bytes, transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(reply(b'one') + late)

    conn = connect(handler)
    assert get(conn)[1] == b'one'
    wait_for(conn, getattr(select, 'POLLRDHUP', select.POLLIN))
    conn.send_request('GET', '/two')
    with pytest.raises(ConnectionClosed):
        conn.read_response()


# -- Connection: close --------------------------------------------------------------------------

CLOSING = {
    'length': reply(b'last', fields='Connection: close'),
    'case': reply(b'last', fields='connection: CLOSE'),
    'list': reply(b'last', fields='Connection: foo, close ,bar'),
    'chunked': head('200 OK', 'Transfer-Encoding: chunked', 'Connection: close')
    + b'4\r\nlast\r\n0\r\n\r\n',
    'until eof': head('200 OK', 'Connection: close') + b'last',
    'HTTP/1.0': reply(b'last', version='1.0'),
    'HTTP/1.0 close': reply(b'last', fields='Connection: close', version='1.0'),
    'HTTP/1.0 other': reply(b'last', fields='Connection: foo', version='1.0'),
}
closing = pytest.mark.parametrize('kind', CLOSING)


class NeverRead(io.RawIOBase):
    """A stream that must not be touched."""

    def readable(self) -> bool:
        return True

    def readinto(self, buf: Any) -> int:
        raise AssertionError('read from')

    def read(self, size: Any = -1) -> bytes:
        raise AssertionError('read from')


class Closing:
    """Answers one request with *raw*, sends FIN, and keeps all that comes after it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.rest = b''
        self.finished = threading.Event()

    def __call__(self, peer: Peer) -> None:
        try:
            peer.read_request()
            peer.send(self.raw)
            peer.half_close()
            self.rest = peer.read_to_eof()
        finally:
            self.finished.set()


@closing
def test_response_that_announces_to_close_can_be_read_completely(
    kind: str, transport: str, connect: Any
) -> None:
    conn = connect(Answers(CLOSING[kind], close=True))
    assert get(conn)[1] == b'last'


@closing
def test_after_announced_close_nothing_is_sent_and_send_request_does_not_raise(
    kind: str, connect: Any, serve: Any
) -> None:
    handler = Closing(CLOSING[kind])
    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    assert get(conn)[1] == b'last'
    stream = NeverRead()
    assert conn.send_request('GET', '/1') is None
    conn.send_request('PUT', '/2', body=b'some body')
    conn.send_request('PUT', '/3', body=stream)
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()
        with pytest.raises(ConnectionClosed):
            pending(conn)
    assert server.connections == 1
    conn.reset()
    assert handler.finished.wait(LIMIT)
    assert handler.rest == b''
    assert get(conn)[1] == b'anew'


def test_after_a_refused_upload_and_announced_close_send_request_does_not_raise(
    transport: str, connect: Any
) -> None:
    handler = Refusing(reply(b'no', '413 Content Too Large', 'Connection: close'), stay=True)
    conn = connect(handler)
    upload_until_closed(conn, handler.answered)
    assert conn.read_response().status == 413
    assert conn.readall() == b'no'
    conn.send_request('GET', '/')
    assert conn.response_pending()
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()
        with pytest.raises(ConnectionClosed):
            conn.write(b'x')


def test_after_announced_close_write_raises(transport: str, connect: Any) -> None:
    conn = connect(Answers(CLOSING['length']))
    get(conn)
    conn.send_request('PUT', '/', body=BodyFollowing(3))
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.write(b'abc')
        with pytest.raises(ConnectionClosed):
            conn.read_response()


@pytest.mark.parametrize('name', ['reset', 'disconnect', 'connect'])
def test_after_announced_close_a_new_connection_is_the_way_on(
    name: str, transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Answers(CLOSING['length'], close=True), Answers(reply(b'anew'))])
    conn = connect(server)
    get(conn)
    conn.send_request('GET', '/lost')
    getattr(conn, name)()
    response, body = get(conn, '/anew')
    assert (response.path, body) == ('/anew', b'anew')


def test_after_announced_close_reading_a_response_without_a_request_is_refused(
    connect: Any,
) -> None:
    conn = connect(Answers(CLOSING['length']))
    get(conn)
    with pytest.raises((StateError, ConnectionClosed)):
        pending(conn)


@closing
def test_pipelined_requests_that_will_not_be_answered(
    kind: str, transport: str, connect: Any, serve: Any
) -> None:
    def handler(peer: Peer) -> None:
        for _ in range(3):
            peer.read_request()
        peer.send(CLOSING[kind])

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    for i in range(3):
        conn.send_request('GET', f'/{i}')
    assert conn.read_response().path == '/0'
    assert conn.readall() == b'last'
    for _ in range(3):
        with pytest.raises(ConnectionClosed):
            conn.read_response()
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_answer_after_an_announced_close_is_not_taken(connect: Any) -> None:
    conn = connect(Answers(b'', CLOSING['length'] + reply(b'poison'), close=True))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    assert conn.readall() == b'last'
    with pytest.raises(ConnectionClosed):
        conn.read_response()


def test_close_that_is_announced_while_a_body_is_incomplete(connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.read_head()
        peer.send(CLOSING['length'])
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/1')
    conn.send_request('PUT', '/2', body=BodyFollowing(10))
    conn.read_response()
    assert conn.readall() == b'last'
    with pytest.raises(ConnectionClosed):
        conn.write(b'x' * 10)
        conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.read_response()


def upload_that_met_a_reset(connect: Any, answer: Callable[[Peer], None]) -> Any:
    """A connection that was reset behind *answer*; the sender has met that, the reader has not."""

    def handler(peer: Peer) -> None:
        peer.read_head()
        answer(peer)
        peer.read_until(b'go on')
        peer.reset()

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(1 << 20))
    conn.write(b'go on')
    wait_broken(conn)
    with pytest.raises(ConnectionClosed):
        conn.write(b'x')
    return conn


def test_reset_that_a_sender_has_met_does_not_complete_a_body(
    transport: str, connect: Any
) -> None:
    """The kernel reports it once; what the reader meets is an ordinary end of the data."""

    def answer(peer: Peer) -> None:
        peer.send(head('200 OK', 'Connection: close') + b'a part')

    conn = upload_that_met_a_reset(connect, answer)
    assert conn.read_response().status == 200
    with pytest.raises(ConnectionClosed):
        conn.readall()


def test_broken_pipe_after_the_end_of_the_data_takes_nothing_from_a_body(connect: Any) -> None:
    def answer(peer: Peer) -> None:
        peer.send(head('200 OK', 'Connection: close') + b'body')
        peer.half_close()

    conn = upload_that_met_a_reset(connect, answer)
    assert conn.read_response().status == 200
    assert conn.readall() == b'body'


def test_nothing_is_resent_silently(transport: str, connect: Any, serve: Any) -> None:
    first = Answers(reply(b'one', fields='Connection: close'), close=True)
    second = Answers(reply(b'two'))
    conn = connect(serve([first, second]))
    get(conn, '/1')
    conn.send_request('PUT', '/lost', body=b'lost')
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    conn.reset()
    get(conn, '/2')
    conn.disconnect()
    assert second.wait() == b''
    assert [r.target for r in first.requests + second.requests] == ['/1', '/2']


@pytest.mark.parametrize('value', ['close', 'Close', 'foo, close'])
def test_nothing_is_sent_behind_a_request_that_asks_to_close(
    value: str, transport: str, connect: Any, serve: Any
) -> None:
    # RFC 9112 section 9.6: the client must not send further requests on that connection.
    handler = Answers(reply(b'one'))
    conn = connect(serve([handler, Answers(reply(b'anew'))]))
    conn.send_request('GET', '/1', {'connection': value})
    conn.send_request('GET', '/2')
    assert conn.read_response().path == '/1'
    assert conn.readall() == b'one'
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    conn.reset()
    assert handler.wait() == b''
    assert get(conn)[1] == b'anew'


# -- after disconnect() and reset() -------------------------------------------------------------

CALLS: Dict[str, Callable[[HTTPConnection], Any]] = {
    'read_response': lambda conn: conn.read_response(),
    'co_read_response': pending,
    'write': lambda conn: conn.write(b'x'),
    'co_write': lambda conn: co(conn.co_write(b'x')),
    **BODY_CALLS,
}


def outstanding_answer(conn: HTTPConnection) -> None:
    conn.send_request('GET', '/')


def outstanding_body(conn: HTTPConnection) -> None:
    conn.send_request('GET', '/')
    conn.read_response()
    conn.read(1)


def outstanding_request_body(conn: HTTPConnection) -> None:
    conn.send_request('GET', '/')
    conn.send_request('PUT', '/', body=BodyFollowing(3))


def outstanding_second_answer(conn: HTTPConnection) -> None:
    conn.send_request('GET', '/')
    conn.send_request('GET', '/')
    conn.read_response()
    conn.readall()


OUTSTANDING: List[Callable[[HTTPConnection], None]] = [
    outstanding_answer,
    outstanding_body,
    outstanding_request_body,
    outstanding_second_answer,
]


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
@pytest.mark.parametrize('prepare', OUTSTANDING, ids=lambda f: f.__name__)
def test_after_closing_with_something_outstanding(
    prepare: Callable[[HTTPConnection], None], name: str, transport: str, connect: Any, serve: Any
) -> None:
    def handler(peer: Peer) -> None:
        # The client may have closed before the answer is sent.
        with contextlib.suppress(OSError):
            peer.read_request()
            peer.send(reply(b'body'))
            peer.read_to_eof()

    server = serve([handler, Answers(reply(b'anew'))])
    conn = connect(server)
    prepare(conn)
    getattr(conn, name)()
    for _ in range(2):
        for call in CALLS.values():
            before = time.monotonic()
            with pytest.raises(ConnectionClosed):
                call(conn)
            assert time.monotonic() - before < 0.5
        getattr(conn, name)()
    assert not conn._out_remaining
    assert get(conn)[1] == b'anew'
    assert server.connections == 2
    assert conn.read(10) == b''


@pytest.mark.parametrize(
    'calls', [['connect'], ['disconnect', 'connect'], ['disconnect', 'get_ssl_cipher']]
)
@pytest.mark.parametrize('prepare', OUTSTANDING, ids=lambda f: f.__name__)
def test_connecting_does_not_make_up_for_what_was_outstanding(
    prepare: Callable[[HTTPConnection], None],
    calls: List[str],
    transport: str,
    connect: Any,
    serve: Any,
) -> None:
    """A body that was cut off must not end as if it had been read."""

    def handler(peer: Peer) -> None:
        with contextlib.suppress(OSError):
            peer.read_request()
            peer.send(reply(b'body'))
            peer.read_to_eof()

    conn = connect(serve([handler, Answers(reply(b'anew')), Answers(reply(b'anew'))]))
    prepare(conn)
    for name in (*calls, 'disconnect', 'connect'):
        getattr(conn, name)()
        for call in CALLS.values():
            with pytest.raises(ConnectionClosed):
                call(conn)
        assert not conn.response_pending()
    assert get(conn)[1] == b'anew'
    assert conn.read(10) == b''


@pytest.mark.parametrize('call', BODY_CALLS.values(), ids=list(BODY_CALLS))
def test_next_request_does_not_end_a_body_that_was_cut_off(
    call: Callable[[HTTPConnection], Any], transport: str, connect: Any
) -> None:
    """Who reads it may not know that somebody else has disconnected and sent another request."""

    conn = connect([Answers(reply(b'body')), Answers(reply(b'anew'), reply(b'more'))])
    outstanding_body(conn)
    conn.disconnect()
    conn.connect()
    for _ in range(2):
        conn.send_request('GET', '/')
        with pytest.raises(ConnectionClosed):
            call(conn)
    for body in (b'anew', b'more'):
        assert conn.read_response().status == 200
        assert conn.readall() == body
        assert call(conn) in (b'', 0, None)


def test_next_request_does_not_end_a_body_whose_head_was_just_received(connect: Any) -> None:
    conn = connect([Answers(reply(b'body')), Answers(reply(b'anew'))])

    class Socket(DuckSocket):
        """Somebody else connects anew before the head that was received is looked at."""

        def recv_into(self, view: Any) -> int:
            size: int = self._plain.recv_into(view)
            conn.disconnect()
            conn.send_request('GET', '/anew')
            return size

    conn.send_request('GET', '/')
    conn._sock = Socket(conn._sock)
    with pytest.raises(ConnectionClosed):
        conn.read_response()
        conn.readall()
    assert conn.read_response().path == '/anew'
    assert conn.readall() == b'anew'


def test_body_that_was_not_begun_is_not_reported_after_the_next_request(connect: Any) -> None:
    conn = connect([Answers(reply(b'body')), Answers(reply(b'anew'))])
    outstanding_answer(conn)
    conn.disconnect()
    conn.send_request('GET', '/')
    assert conn.read(10) == b''


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
@pytest.mark.parametrize('used', [False, True], ids=['fresh', 'used'])
def test_after_closing_with_nothing_outstanding_it_is_like_a_new_object(
    used: bool, name: str, transport: str, connect: Any
) -> None:
    conn = connect(Answers(reply(b'one')))
    conn.connect()
    if used:
        get(conn)
    getattr(conn, name)()
    for call in BODY_CALLS.values():
        assert call(conn) in (b'', 0, None)
    with pytest.raises(StateError):
        pending(conn)
    with pytest.raises(StateError):
        conn.write(b'x')
    assert conn._sock is None


def test_bodiless_answer_leaves_nothing_outstanding(connect: Any) -> None:
    conn = connect(Answers(head('204 No Content')))
    conn.send_request('GET', '/')
    conn.read_response()
    conn.disconnect()
    assert conn.read(10) == b''
    with pytest.raises(StateError):
        pending(conn)


# -- after something broke ----------------------------------------------------------------------

#: All that speaks HTTP.
HTTP_CALLS: Dict[str, Callable[[HTTPConnection], Any]] = {
    **CALLS,
    'send_request': lambda conn: conn.send_request('GET', '/'),
    'co_send_request': lambda conn: co(conn.co_send_request('GET', '/')),
    'send_request body': lambda conn: conn.send_request('PUT', '/', body=b'x'),
    'send_request following': lambda conn: conn.send_request('PUT', '/', body=BodyFollowing(1)),
}


def expect_from_every_call(conn: HTTPConnection, kind: Any) -> None:
    for _ in range(2):
        for name, call in HTTP_CALLS.items():
            before = time.monotonic()
            with pytest.raises(kind) as info:
                call(conn)
            assert info.type is kind, name
            assert time.monotonic() - before < 0.5, name


def test_after_read_raw_every_call_is_a_state_error(
    transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Answers(reply(b'body')), Answers(reply(b'anew'))])
    conn = connect(server)
    conn.send_request('GET', '/')
    assert conn.read_raw(8)
    expect_from_every_call(conn, StateError)
    assert conn.read_raw(8)
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_after_a_101_every_call_is_a_state_error(transport: str, connect: Any, serve: Any) -> None:
    switch = head('101 Switching Protocols', 'Upgrade: echo', 'Connection: Upgrade')
    server = serve([Answers(switch + b'raw'), Answers(reply(b'anew'))])
    conn = connect(server)
    conn.send_request('GET', '/', {'Upgrade': 'echo', 'Connection': 'Upgrade'})
    assert conn.read_response().status == 101
    expect_from_every_call(conn, StateError)
    assert drain(lambda: conn.read_raw(1) if conn._rbuf.e > conn._rbuf.b else b'') in (b'raw', b'')
    conn.reset()
    assert get(conn)[1] == b'anew'


FAULTS = {
    'version': (b'HTTP/2.0 200 OK\r\n\r\n', UnsupportedResponse),
    'status': (b'HTTP/1.1 xyz\r\n\r\n', InvalidResponse),
    'field': (b'HTTP/1.1 200 OK\r\nno field\r\n\r\n', InvalidResponse),
    'long line': (b'HTTP/1.1 200 ' + b'x' * 70_000, InvalidResponse),
    '101': (head('101 Switching Protocols', 'Upgrade: x'), UnsupportedResponse),
}


def test_coroutine_works_on_the_connection_of_its_first_step(connect: Any) -> None:
    """Not on the one that there was when it was made."""
    conn = connect([Answers(reply(b'first')), Answers(reply(b'second'))])
    get(conn, '/first')
    send = conn.co_send_request('PUT', '/second', body=BodyFollowing(4))
    write, end = conn.co_write(b'data'), conn.co_write_eof()
    receive, everything = conn.co_read_response(), conn.co_readall()
    conn.disconnect()
    for crt in (send, write, end):
        co(crt)
    assert co(receive).path == '/second'
    assert co(everything) == b'second'


@pytest.mark.parametrize('name', ['co_read', 'co_readinto', 'co_readall', 'co_discard'])
def test_coroutine_reads_the_body_of_its_first_step(name: str, connect: Any) -> None:
    conn = connect([Answers(reply(b'first')), Answers(reply(b'second'))])
    get(conn, '/first')
    target = bytearray(6)
    arguments = {'co_read': (6,), 'co_readinto': (target,)}.get(name, ())
    crt = getattr(conn, name)(*arguments)
    conn.disconnect()
    conn.send_request('GET', '/second')
    conn.read_response()
    result = co(crt)
    assert conn.readall() == b''
    if name != 'co_discard':
        assert bytes(target if name == 'co_readinto' else result) == b'second'


@pytest.mark.parametrize('fault', FAULTS)
def test_after_a_faulty_head_every_call_is_the_same_kind_of_error(
    fault: str, transport: str, connect: Any, serve: Any
) -> None:
    raw, kind = FAULTS[fault]
    server = serve([Answers(raw), Answers(reply(b'anew'))])
    conn = connect(server)
    conn.send_request('GET', '/')
    with pytest.raises(kind):
        conn.read_response()
    expect_from_every_call(conn, kind)
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


BODY_FAULTS = {
    'chunk size': (head('200 OK', 'Transfer-Encoding: chunked') + b'xyz\r\n', InvalidResponse),
    'chunk end': (
        head('200 OK', 'Transfer-Encoding: chunked') + b'2\r\nabcd\r\n',
        InvalidResponse,
    ),
    'trailer': (
        head('200 OK', 'Transfer-Encoding: chunked') + b'0\r\nno field\r\n\r\n',
        InvalidResponse,
    ),
    'length': (head('200 OK', 'Content-Length: x'), InvalidResponse),
    'coding': (head('200 OK', 'Transfer-Encoding: x'), InvalidResponse),
    'no length': (head('200 OK'), UnsupportedResponse),
}


@pytest.mark.parametrize('fault', BODY_FAULTS)
def test_after_a_faulty_body_every_call_is_the_same_kind_of_error(
    fault: str, transport: str, connect: Any, serve: Any
) -> None:
    raw, kind = BODY_FAULTS[fault]
    server = serve([Answers(raw), Answers(reply(b'anew'))])
    conn = connect(server)
    conn.send_request('GET', '/')
    assert conn.read_response().status == 200
    with pytest.raises(kind):
        conn.readall()
    expect_from_every_call(conn, kind)
    conn.disconnect()
    assert get(conn)[1] == b'anew'


def test_after_the_peer_is_gone_every_call_is_connection_closed(
    transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Answers(reply(b'body')[:-1], close=True), Answers(reply(b'anew'))])
    conn = connect(server)
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.readall()
    expect_from_every_call(conn, ConnectionClosed)
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


@pytest.mark.parametrize('fault', FAULTS)
def test_pipelined_requests_behind_a_fault_get_the_same_error(fault: str, connect: Any) -> None:
    raw, kind = FAULTS[fault]
    conn = connect(Answers(b'', b'', reply(b'one') + raw))
    for i in range(3):
        conn.send_request('GET', f'/{i}')
    conn.read_response()
    conn.readall()
    for _ in range(3):
        with pytest.raises(kind):
            conn.read_response()


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
@pytest.mark.parametrize('fault', [*FAULTS, *BODY_FAULTS])
def test_closing_ends_the_fault(fault: str, name: str, connect: Any, serve: Any) -> None:
    raw, kind = {**FAULTS, **BODY_FAULTS}[fault]
    server = serve([Answers(raw), Answers(reply(b'anew'))])
    conn = connect(server)
    with pytest.raises(kind):
        get(conn)
    # An answer, or part of a body, was outstanding.
    for _ in range(2):
        getattr(conn, name)()
        for call in CALLS.values():
            with pytest.raises(ConnectionClosed):
                call(conn)
    assert get(conn)[1] == b'anew'


def test_repeated_errors_say_what_went_wrong(connect: Any) -> None:
    conn = connect(Answers(b'HTTP/1.1 xyz\r\n\r\n'))
    conn.send_request('GET', '/')
    for _ in range(3):
        with pytest.raises(InvalidResponse, match='xyz'):
            conn.read_response()


def test_response_is_not_pending_on_a_broken_connection(connect: Any) -> None:
    conn = connect(Answers(b'', close=True))
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    assert not conn.response_pending()


def test_surplus_is_noticed_before_a_request_that_changes_something(connect: Any) -> None:
    # Whether the send or the read says so is left open; that the request is not answered by
    # octets that came before it is not.
    conn = connect(Answers(reply(b'one') + reply(b'created', '201 Created')))
    conn.send_request('GET', '/')
    wait_queued(conn, len(reply(b'one') + reply(b'created', '201 Created')))
    conn.read_response()
    conn.readall()
    with pytest.raises(ConnectionClosed):
        conn.send_request('POST', '/', body=b'x')
        conn.read_response()
