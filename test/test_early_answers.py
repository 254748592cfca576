"""Servers that answer before they have the whole request, and what becomes of the upload."""

import asyncio
import contextlib
import io
import pathlib
import socket
import ssl
import threading
import time
from typing import Any, Dict, Iterator, List, Optional

import pytest
from contract_support import wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import LIMIT, Peer
from upload_support import (
    FORMS,
    RUNNERS,
    Link,
    Running,
    Store,
    answer,
    co_answer,
    pattern,
)
from waiting_support import Thread

import dugong
from dugong import (
    AioFuture,
    BodyFollowing,
    ConnectionClosed,
    HTTPConnection,
    PollNeeded,
    StateError,
)

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
REFUSAL = b'HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\nno'
CLOSE = b'HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'

# More than the kernel takes while the server does not read.
SIZE = 300000
LARGE = 12 << 20

#: Final answers that show that the server has no use for the rest.
REFUSING: Dict[str, bytes] = {
    '413': REFUSAL,
    '413 close': CLOSE,
    '403': b'HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno',
    '400 chunked': b'HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n',
    '400 in lower case': b'HTTP/1.1 400 Bad\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno',
    '401': b'HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno',
    '500': b'HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno',
    '599': b'HTTP/1.1 599 Strange\r\nContent-Length: 2\r\n\r\nno',
    '200 close': b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nno',
    '302 close': b'HTTP/1.1 302 Go\r\nContent-Length: 2\r\nConnection: x, close\r\n\r\nno',
    '200 of HTTP/1.0': b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nno',
    '413 behind interim answers': CONTINUE + b'HTTP/1.1 102 Processing\r\n\r\n' + REFUSAL,
}

#: Answers after which the server may go on reading.
HARMLESS: Dict[str, bytes] = {
    '100': CONTINUE,
    '102': b'HTTP/1.1 102 Processing\r\n\r\n',
    '103 with fields': b'HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n',
    'many interim': b'HTTP/1.1 102 Processing\r\n\r\n' * 50,
    '200': OK,
    '201 without a body': b'HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n',
    '302': b'HTTP/1.1 302 Found\r\nContent-Length: 2\r\n\r\nok',
    '399': b'HTTP/1.1 399 Strange\r\nContent-Length: 2\r\n\r\nok',
    '200 of HTTP/1.0 with keep-alive': (
        b'HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nok'
    ),
    'part of a refusal': REFUSAL[:20],
}


@pytest.fixture
def link(transport: str, certificates: Any) -> Iterator[Link]:
    """Both ends of a connection in this thread, with little room in the kernel."""
    with Link(small=True, certificates=certificates if transport == 'tls' else None) as link:
        yield link


@pytest.fixture
def plain() -> Iterator[Link]:
    with Link(small=True) as link:
        yield link


@pytest.fixture
def sample(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / 'sample'
    path.write_bytes(pattern(SIZE))
    return path


def upload(link: Link, form: str, sample: pathlib.Path) -> Running:
    """Start an upload that has to wait."""
    # What was sent before belongs to other requests.
    link.available()
    running = link.start(FORMS[form].call(link.conn, pattern(SIZE), sample))
    link.take_head(running)
    if FORMS[form].expect100:
        link.feed(CONTINUE)
        running.advance()
    assert not running.done
    return running


def start_write(link: Link, size: int = SIZE) -> Running:
    """Start to write a body that has to wait."""
    link.conn.send_request('PUT', '/upload', body=BodyFollowing(size))
    running = link.start(link.conn.co_write(pattern(size)))
    assert not running.done
    return running


def refused(running: Running) -> ConnectionClosed:
    """Check that the upload ends with `ConnectionClosed`."""
    with pytest.raises(ConnectionClosed) as caught:
        running.finish()
    return caught.value


def closed_for_requests(conn: HTTPConnection) -> None:
    """Check that no further request is sent, and that whoever waits for an answer learns it."""
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/never')
        conn.read_response()
    with pytest.raises((ConnectionClosed, StateError)):
        conn.write(b'x')
    with pytest.raises((ConnectionClosed, StateError)):
        conn.write_eof()


# An answer that ends the wait


@pytest.mark.parametrize('form', FORMS)
def test_refusal_ends_the_upload(form: str, link: Link, sample: pathlib.Path) -> None:
    running = upload(link, form, sample)
    link.feed(REFUSAL)
    error = refused(running)
    assert '413' in str(error)
    assert answer(link.conn) == (413, b'no')
    closed_for_requests(link.conn)


@pytest.mark.parametrize('size', [40_000, 60_000])
def test_refusal_of_a_body_that_goes_out_together_with_its_head(size: int, link: Link) -> None:
    """TLS does not tell what it has sent of them."""
    running = link.start(link.conn.co_send_request('PUT', '/upload', body=bytes(size)))
    link.take_head(running)
    assert not running.done
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


@pytest.mark.parametrize('kind', REFUSING)
def test_answers_that_refuse(kind: str, link: Link) -> None:
    running = start_write(link)
    link.feed(REFUSING[kind])
    refused(running)
    # The body counts as sent.
    assert not link.conn._out_remaining
    assert link.conn.response_pending()
    status, body = answer(link.conn)
    assert status == int(kind[:3])
    assert body == b'no'
    closed_for_requests(link.conn)
    link.conn.reset()
    link.connect()
    link.conn.send_request('GET', '/again')
    assert link.available().startswith(b'GET /again ')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_refusal_that_arrives_byte_by_byte(link: Link) -> None:
    running = start_write(link)
    end = REFUSAL.index(b'no')
    for i in range(end - 1):
        link.feed(REFUSAL[i : i + 1])
        assert not running.advance()
    link.feed(REFUSAL[end - 1 : end])
    refused(running)
    link.feed(b'no')
    assert answer(link.conn) == (413, b'no')


def test_refusal_with_a_large_head(plain: Link) -> None:
    running = start_write(plain)
    fields = b''.join(b'X-%d: %b\r\n' % (i, b'x' * 1000) for i in range(60))
    plain.peer.settimeout(LIMIT)
    data = REFUSAL.replace(b'\r\n', b'\r\n' + fields, 1)
    with contextlib.suppress(ConnectionClosed):
        while data:
            plain.feed(data[:1000])
            data = data[1000:]
            running.advance()
    assert running.done
    plain.feed(data) if data else None
    response = plain.conn.read_response()
    assert response.headers['X-59'] == 'x' * 1000
    assert plain.conn.readall() == b'no'


@pytest.mark.parametrize('framing', ['length', 'chunked', 'close'])
def test_large_body_of_a_refusal_can_be_read(framing: str, link: Link) -> None:
    running = start_write(link)
    data = pattern(100000)
    head = b'HTTP/1.1 413 No\r\n'
    if framing == 'length':
        head += b'Content-Length: 100000\r\n\r\n'
        tail = b''
    elif framing == 'chunked':
        head += b'Transfer-Encoding: chunked\r\n\r\n186a0\r\n'
        tail = b'\r\n0\r\n\r\n'
    else:
        head += b'Connection: close\r\n\r\n'
        tail = b''
    link.feed(head + data[:10])
    refused(running)

    def send_the_rest() -> None:
        link.peer.sendall(data[10:] + tail)
        # The client may have closed by now.
        with contextlib.suppress(OSError):
            socket.socket.shutdown(link.peer, socket.SHUT_WR)

    thread = threading.Thread(target=send_the_rest)
    thread.start()
    try:
        assert answer(link.conn) == (413, data)
    finally:
        thread.join(LIMIT)


def test_iterable_is_not_consumed_after_the_refusal(link: Link) -> None:
    taken = []

    def items() -> Iterator[bytes]:
        for number in range(1000):
            taken.append(number)
            yield bytes(100000)

    running = link.start(link.conn.co_send_request('PUT', '/', body=items()))
    assert not running.done
    before = len(taken)
    link.feed(REFUSAL)
    refused(running)
    assert len(taken) == before
    assert answer(link.conn) == (413, b'no')


def test_refusal_in_a_later_write(link: Link) -> None:
    link.conn.send_request('PUT', '/', body=BodyFollowing())
    link.conn.write(b'one')
    running = link.start(link.conn.co_write(pattern(SIZE)))
    assert not running.done
    link.available()
    running.advance()
    link.feed(REFUSAL)
    refused(running)
    for use in (lambda: link.conn.write(b'more'), link.conn.write_eof):
        with pytest.raises(ConnectionClosed):
            use()
    assert answer(link.conn) == (413, b'no')


def refuses_to_write_on(link: Link, times: int) -> None:
    """Check that the refusal is noticed when so many more pieces are written."""
    with pytest.raises(ConnectionClosed):
        for _ in range(times):
            link.conn.write(b'x')
    assert link.conn.read_response().status == 413


def test_refusal_of_an_upload_that_never_has_to_wait(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('dugong._stream.BURST', 3 << 14)
    link.conn.send_request('PUT', '/', body=BodyFollowing(100))
    for _ in range(10):
        link.conn.write(b'x')
    link.feed(REFUSAL)
    wait_for(link.conn)
    refuses_to_write_on(link, 4)


def test_refusal_that_came_together_with_the_answer_before(
    link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the buffer, so that the socket does not tell of it."""
    monkeypatch.setattr('dugong._stream.BURST', 1)
    link.conn.send_request('GET', '/')
    link.conn.send_request('PUT', '/', body=BodyFollowing(100))
    link.feed(OK + REFUSAL)
    assert link.conn.read_response().status == 200
    assert link.conn.readall() == b'ok'
    refuses_to_write_on(link, 2)


def test_upload_does_not_wait_as_long_as_nothing_has_come(
    plain: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poll(*_: object) -> bool:
        raise AssertionError('it waits')

    plain.conn.send_request('PUT', '/', body=BodyFollowing(10))
    monkeypatch.setattr('dugong._stream.BURST', 1)
    monkeypatch.setattr(PollNeeded, 'poll', poll)
    for _ in range(10):
        plain.conn.write(b'x')


def test_refusal_that_comes_after_reading_went_on(link: Link) -> None:
    running = start_write(link)
    for _ in range(5):
        while not link.available():
            running.advance()
        assert not running.advance()
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


def test_refusal_of_a_request_that_follows_others(link: Link) -> None:
    for _ in range(3):
        link.conn.send_request('GET', '/')
    link.feed(OK * 3)
    for _ in range(3):
        assert answer(link.conn) == (200, b'ok')
    running = start_write(link)
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


def test_connection_is_closed_when_the_refusal_was_read(link: Link) -> None:
    """The server must not be left waiting for the rest of the body."""
    running = start_write(link)
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')
    received = 0
    # A reset is an end, too: the answer has been read.
    with contextlib.suppress(ConnectionResetError):
        while True:
            data = link.peer.recv(1 << 16)
            if not data:
                break
            received += len(data)
    assert received < SIZE


def test_refusal_of_a_body_that_is_complete_is_an_ordinary_answer(link: Link) -> None:
    running = link.start(link.conn.co_send_request('PUT', '/', body=pattern(SIZE)))
    link.collect(running)
    link.available()
    link.feed(REFUSAL)
    assert answer(link.conn) == (413, b'no')
    link.conn.send_request('GET', '/next')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_refusal_before_a_body_that_needs_no_wait(link: Link) -> None:
    """Nothing has to wait, so the body is sent in full, and the connection remains usable."""
    link.conn.send_request('PUT', '/', body=BodyFollowing(8))
    link.feed(REFUSAL)
    link.conn.write(b'da')
    link.conn.write(b'ta')
    with pytest.raises(StateError):
        link.conn.read_response()
    link.conn.write(b'data')
    assert answer(link.conn) == (413, b'no')
    assert link.available().endswith(b'\r\n\r\ndatadata')
    link.conn.send_request('GET', '/next')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_end_of_the_connection_ends_the_wait(link: Link) -> None:
    running = start_write(link)
    link.end()
    refused(running)
    with pytest.raises(ConnectionClosed):
        link.conn.read_response()


def test_refusal_and_end_of_the_connection(link: Link) -> None:
    running = start_write(link)
    link.feed(CLOSE)
    link.end()
    refused(running)
    assert answer(link.conn) == (413, b'no')
    closed_for_requests(link.conn)


@pytest.mark.parametrize('reply', [b'', REFUSAL, REFUSAL[:20]], ids=['none', 'whole', 'part'])
@pytest.mark.parametrize('end', [False, True], ids=['open', 'end'])
def test_close_notify_ends_the_wait(end: bool, reply: bytes, certificates: Any) -> None:
    with Link(small=True, certificates=certificates) as link:
        running = start_write(link)
        if reply:
            link.feed(reply)
            if reply != REFUSAL:
                running.advance()
        link.peer.setblocking(False)
        with contextlib.suppress(ssl.SSLError):
            # It is not answered, there are data on the way.
            link.peer.unwrap()
        if end:
            link.end()
        refused(running)
        link.conn.timeout = 5
        if reply == REFUSAL:
            assert answer(link.conn) == (413, b'no')
        else:
            with pytest.raises(ConnectionClosed):
                link.conn.read_response()


def test_refusal_while_the_end_of_the_body_is_sent(link: Link) -> None:
    link.conn.send_request('PUT', '/upload', body=BodyFollowing())
    trailers = {f'X-{i}': 'x' * 1000 for i in range(300)}
    running = link.start(link.conn.co_write_eof(trailers))
    assert not running.done
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')
    closed_for_requests(link.conn)


def test_refusal_of_a_request_that_asked_to_close(link: Link) -> None:
    running = link.start(
        link.conn.co_send_request('PUT', '/', {'Connection': 'close'}, pattern(SIZE))
    )
    link.take_head(running)
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


def test_what_is_no_answer_ends_the_wait(link: Link) -> None:
    running = start_write(link)
    link.feed(b'what is this?\r\n\r\n')
    refused(running)
    for _ in range(2):
        with pytest.raises((dugong.InvalidResponse, dugong.UnsupportedResponse)):
            link.conn.read_response()


def test_too_many_interim_answers_end_the_wait(link: Link) -> None:
    running = start_write(link)
    with pytest.raises(ConnectionClosed):
        for _ in range(1000):
            link.feed(b'HTTP/1.1 102 Processing\r\n\r\n' * 10)
            running.advance()
    with pytest.raises(dugong.InvalidResponse):
        link.conn.read_response()


# What does not end the wait


def test_continue_that_comes_while_the_head_is_sent_is_kept(connect: Any) -> None:
    """Only when it has the whole head can a server mean it, but it is the answer."""

    def handler(peer: Peer) -> None:
        received = peer.sock.recv(1)
        peer.send(CONTINUE)
        end = b'\r\n\r\nhello'
        while not received.endswith(end):
            received = received[-len(end) :] + peer.sock.recv(1 << 16)
        peer.send(OK)

    conn = connect(handler)
    conn.timeout = LIMIT
    conn.connect()
    conn._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    fields = {'X-Large': 'x' * SIZE}
    conn.send_request('PUT', '/', headers=fields, body=BodyFollowing(5), expect100=True)
    assert conn.read_response().status == 100
    conn.write(b'hello')
    assert conn.read_response().status == 200
    assert conn.readall() == b'ok'


@pytest.mark.parametrize('kind', HARMLESS)
@pytest.mark.parametrize('form', ['bytes', 'file', 'list', 'written', 'chunked'])
def test_answers_that_do_not_end_the_upload(
    form: str, kind: str, link: Link, sample: pathlib.Path
) -> None:
    running = upload(link, form, sample)
    link.feed(HARMLESS[kind])
    assert not running.advance()
    parsed = link.parse(link.collect(running))
    assert parsed.body == pattern(SIZE)
    if kind == 'part of a refusal':
        link.feed(REFUSAL[20:])
        assert answer(link.conn) == (413, b'no')
    else:
        status, _ = divmod(int(kind[:3]) if kind[0].isdigit() else 100, 1)
        if status < 200:
            link.feed(OK)
            status = 200
        assert answer(link.conn)[0] == status
    # The body was sent in full.
    link.conn.send_request('GET', '/next')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('kind', ['200', '302', 'part of a refusal', '102'])
def test_waiting_goes_on_without_spinning(kind: str, link: Link) -> None:
    running = start_write(link)
    for data in (HARMLESS[kind], b'HTTP/1.1 10'):
        steps = running.steps
        link.feed(data)
        assert not running.advance()
        assert running.steps - steps < 5


def test_refusal_of_an_earlier_request_does_not_end_the_upload(link: Link) -> None:
    for path in ('/a', '/b'):
        link.conn.send_request('GET', path)
    running = start_write(link)
    steps = running.steps
    link.feed(CLOSE.replace(b'Connection: close\r\n', b'') + REFUSAL)
    assert not running.advance()
    assert running.steps - steps < 5
    sent = link.collect(running)
    assert sent.endswith(pattern(SIZE)[-1000:])
    assert [answer(link.conn) for _ in range(2)] == [(413, b'no')] * 2
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')
    link.conn.send_request('GET', '/next')


@pytest.mark.parametrize('form', ['bytes', 'file', 'written', 'chunked', 'list'])
def test_unread_answers_to_earlier_requests_are_kept(
    form: str, link: Link, sample: pathlib.Path
) -> None:
    link.conn.send_request('GET', '/a')
    link.feed(REFUSAL)
    running = upload(link, form, sample)
    link.collect(running)
    assert answer(link.conn) == (413, b'no')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_early_answer_is_not_lost_to_the_next_request(link: Link) -> None:
    running = start_write(link)
    link.feed(OK)
    link.collect(running)
    link.conn.send_request('GET', '/next')
    link.feed(OK.replace(b'ok', b'2.'))
    assert answer(link.conn) == (200, b'ok')
    assert answer(link.conn) == (200, b'2.')


def test_second_upload_behind_an_early_answer(link: Link) -> None:
    """The early answer to the first one is unread while the second one waits and is refused."""
    running = start_write(link)
    link.feed(OK)
    link.collect(running)
    running = start_write(link)
    assert answer(link.conn) == (200, b'ok')
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


# Somebody else reads


@pytest.mark.parametrize('form', FORMS)
def test_reader_gets_the_refusal_and_the_upload_ends(
    form: str, link: Link, sample: pathlib.Path
) -> None:
    running = upload(link, form, sample)
    reader = link.start(co_answer(link.conn))
    link.feed(REFUSAL)
    assert reader.finish() == (413, b'no')
    refused(running)
    closed_for_requests(link.conn)
    with pytest.raises((ConnectionClosed, StateError)):
        link.conn.read_response()


@pytest.mark.parametrize('kind', REFUSING)
def test_reader_gets_any_refusal(kind: str, link: Link) -> None:
    running = start_write(link)
    reader = link.start(co_answer(link.conn))
    link.feed(REFUSING[kind])
    assert reader.finish() == (int(kind[:3]), b'no')
    refused(running)
    closed_for_requests(link.conn)


def test_upload_ends_before_the_body_of_the_refusal_is_read(link: Link) -> None:
    running = start_write(link)
    reader = link.start(link.conn.co_read_response())
    link.feed(REFUSAL)
    assert reader.finish().status == 413
    refused(running)
    assert link.conn.readall() == b'no'
    closed_for_requests(link.conn)


def test_server_can_send_the_rest_of_its_refusal(link: Link) -> None:
    """It reads what the client has sent before it gave up, and then goes on with its answer."""
    running = start_write(link)
    link.take_head(running)
    reader = link.start(link.conn.co_read_response())
    link.feed(REFUSAL[:-2])
    assert reader.finish().status == 413
    refused(running)
    # A part of a TLS record with an end behind it would end the connection for the server.
    link.available()
    link.feed(b'no')
    assert link.conn.readall() == b'no'


@pytest.mark.parametrize('kind', ['200', '302', '201 without a body'])
def test_reader_gets_an_early_answer_and_the_upload_goes_on(kind: str, link: Link) -> None:
    running = start_write(link)
    reader = link.start(co_answer(link.conn))
    link.feed(HARMLESS[kind])
    assert reader.finish()[0] == int(kind[:3])
    assert not running.advance()
    parsed = link.parse(link.collect(running))
    assert parsed.body == pattern(SIZE)
    link.conn.send_request('GET', '/next')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_reader_between_two_writes_ends_the_upload(link: Link) -> None:
    link.conn.send_request('PUT', '/', body=BodyFollowing(SIZE))
    running = link.start(link.conn.co_write(pattern(SIZE - 4)))
    reader = link.start(co_answer(link.conn))
    link.collect(running)
    link.feed(REFUSAL)
    assert reader.finish() == (413, b'no')
    for use in (lambda: link.conn.write(b'last'), link.conn.write_eof):
        with pytest.raises(ConnectionClosed):
            use()
    closed_for_requests(link.conn)


@pytest.mark.parametrize('leave', ['close', 'time out'])
@pytest.mark.parametrize('form', FORMS)
def test_refusal_is_noticed_after_the_reader_has_left(
    form: str, leave: str, link: Link, sample: pathlib.Path
) -> None:
    running = upload(link, form, sample)
    reader = link.start(link.conn.co_read_response())
    # The upload goes on for a while, so that it waits knowing that somebody reads.
    while not link.available():
        running.advance()
    assert not running.advance()
    if leave == 'close':
        reader.close()
    else:
        with pytest.raises(dugong.ConnectionTimedOut):
            reader.throw(dugong.ConnectionTimedOut('too late'))
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


@pytest.mark.parametrize('form', ['bytes', 'file', 'list', 'written', 'chunked'])
def test_refusal_is_noticed_after_the_earlier_answers_were_read(
    form: str, link: Link, sample: pathlib.Path
) -> None:
    for path in ('/a', '/b'):
        link.conn.send_request('GET', path)
    running = upload(link, form, sample)
    link.feed(OK + OK)
    assert not running.advance()
    assert answer(link.conn) == (200, b'ok')
    assert link.conn.read_response().status == 200
    assert not running.advance()
    assert link.conn.readall() == b'ok'
    link.feed(REFUSAL)
    refused(running)
    assert answer(link.conn) == (413, b'no')


def test_refusal_that_came_with_an_earlier_answer_is_noticed(link: Link) -> None:
    """It is in the buffer of the client already when the way to it becomes free."""
    link.conn.send_request('GET', '/')
    running = start_write(link)
    link.feed(OK + REFUSAL)
    assert not running.advance()
    assert answer(link.conn) == (200, b'ok')
    refused(running)
    assert answer(link.conn) == (413, b'no')


def test_refusal_is_noticed_by_an_upload_that_starts_after_it_was_received(link: Link) -> None:
    link.conn.send_request('GET', '/')
    link.conn.send_request('PUT', '/upload', body=BodyFollowing(SIZE))
    link.feed(OK + REFUSAL)
    assert answer(link.conn) == (200, b'ok')
    with pytest.raises(ConnectionClosed):
        link.start(link.conn.co_write(pattern(SIZE))).finish()
    assert answer(link.conn) == (413, b'no')


def test_two_refused_uploads_in_a_row_need_two_connections(link: Link) -> None:
    for _ in range(2):
        running = start_write(link)
        link.feed(REFUSAL)
        refused(running)
        assert answer(link.conn) == (413, b'no')
        link.conn.reset()
        link.connect()


class Pausing:
    """A socket, by way of duck typing, whose `recv_into` can be made to pause."""

    def __init__(self, sock: socket.socket) -> None:
        self._plain = sock
        self.pausing = False
        self.inside = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plain, name)

    def recv_into(self, *args: Any) -> int:
        if self.pausing:
            self.pausing = False
            self.inside.set()
            assert self.go_on.wait(LIMIT)
        return self._plain.recv_into(*args)


class PausingContext:
    def wrap_socket(self, sock: socket.socket, server_hostname: Optional[str]) -> Pausing:
        self.socket = Pausing(sock)
        return self.socket


def test_reader_that_comes_while_the_sender_looks() -> None:
    """The sender looks for an answer while a reader thread comes: no conflict between them."""
    context = PausingContext()
    listener = socket.create_server(('127.0.0.1', 0))
    conn = HTTPConnection('127.0.0.1', listener.getsockname()[1], ssl_context=context)
    conn.timeout = LIMIT
    results: List[Any] = []

    def write() -> None:
        conn.send_request('PUT', '/', body=BodyFollowing(LARGE))
        conn.write(bytes(LARGE))

    def read() -> None:
        try:
            results.append(answer(conn))
        except BaseException as exc:
            results.append(exc)

    with listener, conn:
        conn.connect()
        peer, _ = listener.accept()
        peer.settimeout(LIMIT)
        with peer:
            writer = threading.Thread(target=write)
            writer.start()
            received = len(peer.recv(1 << 16))
            context.socket.pausing = True
            peer.sendall(b'HTTP/1.1 102 Processing\r\n\r\n')
            assert context.socket.inside.wait(LIMIT)
            reader = threading.Thread(target=read)
            reader.start()
            # It has to wait now, or has failed.
            reader.join(0.1)
            context.socket.go_on.set()
            while received < LARGE:
                received += len(peer.recv(1 << 20))
            peer.sendall(OK)
            reader.join(LIMIT)
            writer.join(LIMIT)
    assert results == [(200, b'ok')]


# Resets


@pytest.mark.parametrize('kind', ['413', '413 close', '200', '413 behind interim answers'])
@pytest.mark.parametrize('form', ['bytes', 'file', 'list', 'written', 'chunked', 'expect100 file'])
def test_answer_that_arrived_before_a_reset_is_delivered(
    form: str, kind: str, link: Link, sample: pathlib.Path
) -> None:
    running = upload(link, form, sample)
    link.feed({**HARMLESS, **REFUSING}[kind])
    link.reset()
    refused(running)
    status = int(kind[:3])
    assert answer(link.conn) == (status, b'ok' if status == 200 else b'no')
    closed_for_requests(link.conn)


def test_answer_that_was_seen_before_a_reset_is_delivered(link: Link) -> None:
    running = start_write(link)
    link.feed(OK)
    assert not running.advance()
    link.reset()
    refused(running)
    assert answer(link.conn) == (200, b'ok')


def test_earlier_answers_that_arrived_before_a_reset_are_delivered(link: Link) -> None:
    for _ in range(2):
        link.conn.send_request('GET', '/')
    running = start_write(link)
    link.feed(OK + OK + REFUSAL)
    link.reset()
    refused(running)
    assert [answer(link.conn) for _ in range(2)] == [(200, b'ok')] * 2
    assert answer(link.conn) == (413, b'no')


def test_answer_in_the_system_is_delivered_to_a_reader_despite_a_reset(link: Link) -> None:
    running = start_write(link)
    reader = link.start(co_answer(link.conn))
    link.feed(REFUSAL)
    link.reset()
    # The sender finds out first.
    refused(running)
    assert reader.finish() == (413, b'no')


def test_reset_without_an_answer(link: Link) -> None:
    running = start_write(link)
    link.reset()
    refused(running)
    with pytest.raises(ConnectionClosed):
        link.conn.read_response()


def test_part_of_an_answer_before_a_reset_is_no_answer(link: Link) -> None:
    running = start_write(link)
    link.feed(REFUSAL[:30])
    link.reset()
    refused(running)
    with pytest.raises(ConnectionClosed):
        link.conn.read_response()


def test_part_of_a_body_before_a_reset_is_not_a_body(link: Link) -> None:
    running = start_write(link)
    link.feed(REFUSAL[:-1])
    link.reset()
    refused(running)
    assert link.conn.read_response().status == 413
    with pytest.raises(ConnectionClosed):
        link.conn.readall()


# Time limits


def test_server_that_neither_reads_nor_answers_runs_into_the_time_limit(link: Link) -> None:
    link.conn.send_request('PUT', '/', body=BodyFollowing(SIZE))
    link.conn.timeout = 0.05
    with pytest.raises(dugong.ConnectionTimedOut):
        link.conn.write(pattern(SIZE))
    for use in (link.conn.read_response, lambda: link.conn.write(b'x'), link.conn.write_eof):
        with pytest.raises(ConnectionClosed):
            use()


def test_early_answer_does_not_take_away_the_time_limit(link: Link) -> None:
    link.conn.send_request('PUT', '/', body=BodyFollowing(SIZE))
    link.feed(OK)
    link.conn.timeout = 0.05
    with pytest.raises(dugong.ConnectionTimedOut):
        link.conn.write(pattern(SIZE))


def test_unread_earlier_answer_does_not_take_away_the_time_limit(link: Link) -> None:
    link.conn.send_request('GET', '/')
    link.feed(OK + REFUSAL)
    link.conn.timeout = 0.05
    with pytest.raises(dugong.ConnectionTimedOut):
        link.conn.send_request('PUT', '/', body=pattern(SIZE))


# Any order of events


class Course:
    """An upload behind *earlier* requests, a reader that comes and goes, and a server.

    The server sends *script* in pieces, and reads when it likes.
    """

    def __init__(self, link: Link, form: str, file: pathlib.Path, earlier: int, final: bytes):
        self.link = link
        for _ in range(earlier):
            link.conn.send_request('GET', '/')
        link.available()
        self.earlier = earlier
        self.script = OK * earlier + final
        self.answers: List[Any] = []
        self.head: Any = None
        self.body = bytearray()
        self.reader: Optional[Running] = None
        self.received = b''
        self.error: Optional[BaseException] = None
        self.upload = link.start(FORMS[form].call(link.conn, pattern(SIZE), file))
        link.take_head(self.upload)

    def _co_read(self) -> Any:
        """Read one answer, or the rest of one."""
        conn = self.link.conn
        if self.head is None:
            self.head = yield from conn.co_read_response()
        while True:
            piece = yield from conn.co_read(50)
            if not piece:
                break
            self.body += piece
        self.answers.append((self.head.status, bytes(self.body)))
        self.head = None
        self.body.clear()

    def advance(self, size: int = 0) -> None:
        if not self.upload.done:
            try:
                self.upload.advance()
            except ConnectionClosed as exc:
                self.error = exc
        if self.reader is not None and self.reader.advance():
            self.reader = None

    def feed(self, size: int) -> None:
        data, self.script = self.script[:size], self.script[size:]
        if data and self.link.conn._sock is not None:
            self.link.feed(data)

    def receive(self, size: int) -> None:
        self.received += self.link.available()

    def come(self, size: int) -> None:
        wanted = self.head is not None or (
            len(self.answers) <= self.earlier and not self.upload.done
        )
        if self.reader is None and wanted:
            self.reader = self.link.start(self._co_read())
            self.advance()

    def leave(self, size: int) -> None:
        if self.reader is not None:
            self.reader.close()
            self.reader = None

    def read_earlier(self) -> None:
        """Read the answers that come before that of the upload."""
        if self.reader is not None:
            self.reader.finish()
            self.reader = None
        while len(self.answers) < self.earlier or self.head is not None:
            self.link.start(self._co_read()).finish()


EVENTS = ['advance', 'feed', 'receive', 'come', 'leave']


@given(
    form=st.sampled_from(['bytes', 'file', 'memory stream', 'list', 'written', 'chunked']),
    earlier=st.integers(0, 2),
    interim=st.integers(0, 2),
    final=st.sampled_from([OK, REFUSAL, CLOSE]),
    events=st.lists(st.tuples(st.sampled_from(EVENTS), st.integers(1, 100)), max_size=30),
)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_upload_ends_as_it_should_in_any_order_of_events(
    form: str,
    earlier: int,
    interim: int,
    final: bytes,
    events: List[Any],
    transport: str,
    certificates: Any,
    sample: pathlib.Path,
) -> None:
    final = b'HTTP/1.1 102 Processing\r\n\r\n' * interim + final
    with Link(small=True, certificates=certificates if transport == 'tls' else None) as link:
        link.conn.content_md5 = False
        course = Course(link, form, sample, earlier, final)
        for name, size in events:
            getattr(course, name)(size)
        course.feed(len(course.script))
        refusing = not final.endswith(OK)
        if refusing:
            # The server reads no more.
            course.advance()
            course.read_earlier()
            if not course.upload.done:
                refused(course.upload)
        else:
            while not course.upload.done:
                course.advance()
                course.receive(0)
            assert course.error is None
            course.read_earlier()
        if len(course.answers) == earlier:
            link.start(course._co_read()).finish()
        expected = (413, b'no') if refusing else (200, b'ok')
        assert course.answers == [(200, b'ok')] * earlier + [expected]
        if refusing:
            closed_for_requests(link.conn)
        else:
            assert link.parse(course.received).body == pattern(SIZE)
            link.conn.send_request('GET', '/next')
            link.feed(OK)
            assert answer(link.conn) == (200, b'ok')


# Real waits: a server thread that refuses and stops reading


class Refuse:
    """A handler that reads *amount* bytes of the body, sends *reply*, and reads no more.

    It goes on when `resume` is set, and waits for the end of the connection.
    """

    def __init__(self, reply: bytes, amount: int = 0, end: str = 'open') -> None:
        self.reply = reply
        self.amount = amount
        self.end = end
        self.resume = threading.Event()

    def __call__(self, peer: Peer) -> None:
        # Else the kernel would take more and more.
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        head = peer.read_head()
        if head.field('Expect') is not None:
            peer.send(CONTINUE)
        if self.amount:
            peer.read_exactly(self.amount)
        peer.send(self.reply)
        if self.end == 'open':
            assert self.resume.wait(LIMIT)
            with contextlib.suppress(OSError):
                while peer.sock.recv(1 << 20):
                    pass
        elif self.end == 'reset':
            peer.reset()


@pytest.fixture
def large(tmp_path: pathlib.Path) -> pathlib.Path:
    path = tmp_path / 'large'
    with path.open('wb') as file:
        file.truncate(LARGE)
    return path


@pytest.mark.parametrize(
    'runner, end',
    [(runner, 'open') for runner in RUNNERS] + [('blocking', 'close'), ('blocking', 'reset')],
)
@pytest.mark.parametrize('form', ['view', 'file', 'list', 'written', 'chunked', 'expect100 file'])
def test_server_that_refuses_and_stops_reading(
    form: str, runner: str, end: str, transport: str, connect: Any, large: pathlib.Path
) -> None:
    refuse = Refuse(CLOSE if end != 'open' else REFUSAL, 70000, end)
    conn = connect(refuse)
    conn.content_md5 = False
    data = bytes(LARGE)
    try:
        with pytest.raises(ConnectionClosed):
            RUNNERS[runner](conn, FORMS[form].call, data, large)
        if end == 'open':
            assert answer(conn) == (413, b'no')
        else:
            # The system may throw away what has not been received when the reset arrives.
            with contextlib.suppress(ConnectionClosed):
                assert answer(conn) == (413, b'no')
        closed_for_requests(conn)
        conn.disconnect()
    finally:
        refuse.resume.set()


@pytest.mark.parametrize('form', ['view', 'file', 'list', 'written', 'chunked', 'expect100 file'])
def test_refusal_with_a_reader_thread(
    form: str, transport: str, connect: Any, large: pathlib.Path
) -> None:
    if FORMS[form].expect100:
        pytest.skip('reads by itself')
    refuse = Refuse(REFUSAL, 70000)
    conn = connect(refuse)
    conn.content_md5 = False
    conn.connect()
    results: List[Any] = []
    reader = threading.Thread(target=lambda: results.append(answer(conn)))
    try:
        reader.start()
        with pytest.raises(ConnectionClosed):
            RUNNERS['blocking'](conn, FORMS[form].call, bytes(LARGE), large)
        reader.join(LIMIT)
        assert results == [(413, b'no')]
        closed_for_requests(conn)
        conn.disconnect()
    finally:
        refuse.resume.set()
        reader.join(LIMIT)


@pytest.mark.parametrize('form', ['view', 'file', 'list', 'written', 'chunked'])
def test_refusal_with_a_reader_on_asyncio(
    form: str, transport: str, connect: Any, large: pathlib.Path
) -> None:
    refuse = Refuse(REFUSAL, 70000)
    conn = connect(refuse)
    conn.content_md5 = False

    async def main() -> List[Any]:
        upload = AioFuture(FORMS[form].call(conn, bytes(LARGE), large))
        reader = AioFuture(co_answer(conn))
        return await asyncio.wait_for(
            asyncio.gather(upload, reader, return_exceptions=True), LIMIT
        )

    try:
        error, result = asyncio.run(main())
        assert isinstance(error, ConnectionClosed)
        assert result == (413, b'no')
        conn.disconnect()
    finally:
        refuse.resume.set()


def test_reader_with_a_time_limit_gives_up_and_the_writer_sees_the_refusal(
    transport: str, connect: Any
) -> None:
    answer_now = threading.Event()
    done = threading.Event()

    def handle(peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        peer.read_head()
        assert answer_now.wait(LIMIT)
        peer.send(REFUSAL)
        assert done.wait(LIMIT)

    conn = connect(handle)
    conn.content_md5 = False
    conn.connect()
    errors: List[BaseException] = []

    def write() -> None:
        try:
            conn.send_request('PUT', '/', body=bytes(LARGE))
        except BaseException as exc:
            errors.append(exc)

    try:
        writer = threading.Thread(target=write)
        writer.start()
        with pytest.raises(dugong.ConnectionTimedOut):
            dugong.eval_coroutine(_co_patient(conn), 0.05)
        answer_now.set()
        writer.join(LIMIT)
        assert not writer.is_alive()
        assert [type(exc) for exc in errors] == [ConnectionClosed]
        assert answer(conn) == (413, b'no')
        conn.disconnect()
    finally:
        answer_now.set()
        done.set()


def test_reader_does_not_wait_for_a_body_that_takes_long_to_be_made(
    connect: Any, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be in an event loop, which is not to stop."""
    asked, go_on = threading.Event(), threading.Event()

    def pieces() -> Iterator[bytes]:
        yield b'first'
        asked.set()
        assert go_on.wait(LIMIT)
        yield b'second'

    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.respond(b'no', '413 Content Too Large')
        with contextlib.suppress(OSError):
            peer.read_to_eof()

    slept: List[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        time.sleep(seconds)

    conn = connect(handler)
    conn.connect()
    writer = Thread(lambda: conn.send_request('PUT', '/', body=pieces()))
    assert asked.wait(LIMIT)
    monkeypatch.setattr('dugong._stream.sleep', sleep)
    assert dugong.eval_coroutine(conn.co_read_response(), LIMIT).status == 413
    # In vain it would be a second.
    assert sum(slept) < 0.3
    go_on.set()
    # The rest is small enough to be sent without a look at the answer.
    writer.finish()


def _co_patient(conn: HTTPConnection) -> Any:
    """Read a response as soon as the request is being sent."""
    deadline = time.monotonic() + LIMIT
    while not conn.response_pending():
        assert time.monotonic() < deadline
    return (yield from conn.co_read_response())


@pytest.mark.parametrize('runner', RUNNERS)
def test_upload_after_a_refused_one(
    runner: str, transport: str, connect: Any, serve: Any, large: pathlib.Path
) -> None:
    refuse = Refuse(REFUSAL)
    store = Store()
    conn = connect(serve([refuse, store]))
    try:
        with pytest.raises(ConnectionClosed):
            RUNNERS[runner](conn, FORMS['file'].call, b'', large)
        assert answer(conn) == (413, b'no')
        conn.reset()
    finally:
        refuse.resume.set()
    RUNNERS[runner](conn, FORMS['file'].call, b'', large)
    assert answer(conn) == (200, b'stored')
    assert len(store.last.body) == LARGE


def test_early_answers_of_a_server_that_goes_on_reading(
    transport: str, connect: Any, large: pathlib.Path
) -> None:
    """Interim answers all the time, the final one in the middle, from a slow reader."""
    total: List[int] = []

    def handle(peer: Peer) -> None:
        peer.read_head()
        received = 0
        for number in range(20):
            received += len(peer.read_exactly(100000))
            peer.send(b'HTTP/1.1 102 Processing\r\n\r\n')
            if number == 19:
                peer.send(OK)
        received += len(peer.read_exactly(LARGE - received))
        total.append(received)
        peer.read_request()
        peer.send(OK)

    conn = connect(handle)
    with large.open('rb') as stream:
        conn.send_request('PUT', '/', body=stream)
    assert answer(conn) == (200, b'ok')
    conn.send_request('GET', '/next')
    assert answer(conn) == (200, b'ok')
    assert total == [LARGE]


def test_echo_with_one_who_sends_and_one_who_reads(transport: str, connect: Any) -> None:
    """A server that answers while it reads, more than the buffers hold in either direction."""

    def echo(peer: Peer) -> None:
        peer.read_head()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % LARGE)
        left = LARGE
        while left:
            data = peer.read_exactly(min(left, 1 << 16))
            peer.send(data)
            left -= len(data)

    conn = connect(echo)
    conn.content_md5 = False
    conn.connect()
    results: List[Any] = []
    reader = threading.Thread(target=lambda: results.append(answer(conn)))
    reader.start()
    data = pattern(LARGE)
    conn.send_request('PUT', '/', body=io.BytesIO(data))
    reader.join(LIMIT)
    assert results == [(200, data)]
