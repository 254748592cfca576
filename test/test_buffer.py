"""Section 10 of the contract: the read buffer, and everything with a tiny one."""

import gc
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List, Tuple

import pytest
from contract_support import (
    READERS,
    Answers,
    DuckSocket,
    all_readers,
    chunked_reply,
    co,
    get,
    head,
    reply,
    wait_queued,
)
from servers import Peer

import dugong
from dugong import (
    BodyFollowing,
    ConnectionClosed,
    HTTPConnection,
    InvalidResponse,
    UnsupportedResponse,
)
from dugong._buffer import ResultBuffer

# -- the buffer by itself -----------------------------------------------------------------------


def filled(data: bytes, size: int = 10, start: int = 0) -> Any:
    """A buffer of *size* bytes with *data* at offset *start*."""
    buf = dugong._Buffer(size)
    buf.d[start : start + len(data)] = data
    buf.b, buf.e = start, start + len(data)
    return buf


@pytest.mark.parametrize('size', [63, 64, 1000, 65536])
def test_new_buffer_is_empty_and_has_the_size_asked_for(size: int) -> None:
    buf = dugong._Buffer(size)
    assert type(buf.d) is bytearray
    assert len(buf.d) == size
    assert (buf.b, buf.e, len(buf)) == (0, 0, 0)


def test_memory_can_be_replaced() -> None:
    buf = dugong._Buffer(64)
    buf.d = memory = bytearray(b'hello, world')
    buf.b, buf.e = 7, 12
    assert buf.take(2) == b'wo'
    assert buf.d is memory
    assert len(buf.space()) == 9
    buf.clear()
    assert len(buf.space()) == buf.size == 12


def test_length_is_what_is_unread() -> None:
    buf = filled(b'hello')
    assert len(buf) == 5
    buf.b += 2
    assert len(buf) == 3
    buf.b += 3
    assert len(buf) == 0


def test_clear_forgets_all() -> None:
    buf = filled(b'hello', start=3)
    buf.clear()
    assert (buf.b, buf.e, len(buf), len(buf.d)) == (0, 0, 0, 10)


@pytest.mark.parametrize('start', [0, 1, 3, 5])
def test_compact_moves_the_data_to_the_front(start: int) -> None:
    buf = filled(b'hello', start=start)
    buf.compact()
    assert (buf.b, buf.e) == (0, 5)
    assert buf.d[:5] == b'hello'
    assert len(buf.d) == 10


def test_compact_of_overlapping_data() -> None:
    data = bytes(range(60))
    buf = filled(data, 63, 3)
    buf.compact()
    assert buf.d[buf.b : buf.e] == data


@pytest.mark.parametrize('at', [0, 4, 10])
def test_compact_of_an_empty_buffer(at: int) -> None:
    buf = filled(b'', start=at)
    buf.compact()
    assert (buf.b, buf.e, len(buf.d)) == (0, 0, 10)


@pytest.mark.parametrize(
    'data, start', [(b'hello', 0), (b'hello', 3), (b'hello', 5), (b'0123456789', 0), (b'', 4)]
)
def test_exhaust_hands_out_all_data(data: bytes, start: int) -> None:
    buf = filled(data, start=start)
    assert bytes(buf.exhaust()) == data
    assert (buf.b, buf.e, len(buf), len(buf.d)) == (0, 0, 0, 10)
    assert type(buf.d) is bytearray


@pytest.mark.parametrize('data', [b'hello', b'0123456789'], ids=['part', 'full'])
def test_what_exhaust_hands_out_is_never_written_to_again(data: bytes) -> None:
    buf = filled(data)
    out = buf.exhaust()
    buf.d[:] = b'XXXXXXXXXX'
    buf.e = 10
    assert bytes(out) == data
    again = buf.exhaust()
    buf.d[:] = b'YYYYYYYYYY'
    assert bytes(out) == data
    assert bytes(again) == b'XXXXXXXXXX'


def test_data_can_be_changed_while_others_look_at_it() -> None:
    # White-box tests keep views and slices of it.
    buf = filled(b'hello')
    with memoryview(buf.d) as view:
        buf.compact()
        assert bytes(view[:5]) == b'hello'


def enlarged(data: bytes, start: int = 0) -> Any:
    """A buffer of 10 bytes that has memory of 30 bytes, with *data* at offset *start*."""
    buf = dugong._Buffer(10)
    buf.enlarge(30)
    buf.d[start : start + len(data)] = data
    buf.b, buf.e = start, start + len(data)
    return buf


def test_enlarge_keeps_the_unread_data() -> None:
    buf = filled(b'hello', start=3)
    buf.enlarge(30)
    assert (len(buf.d), bytes(buf.d[buf.b : buf.e])) == (30, b'hello')


@pytest.mark.parametrize('size', [0, 9, 10])
def test_enlarge_to_no_more_than_the_size_changes_nothing(size: int) -> None:
    buf = filled(b'hello', start=3)
    before = buf.d
    buf.enlarge(size)
    assert buf.d is before
    assert (buf.b, buf.e) == (3, 8)


def test_enlarged_buffer_is_not_enlarged_again() -> None:
    buf = enlarged(b'hello')
    before = buf.d
    buf.enlarge(50)
    assert buf.d is before


def test_enlarged_buffer_has_space_up_to_its_end() -> None:
    assert len(enlarged(b'hello', start=10).space()) == 15
    # Only then are the data moved.
    buf = enlarged(b'hello', start=25)
    assert len(buf.space()) == 25
    assert (buf.b, buf.e) == (0, 5)


@pytest.mark.parametrize('data', [b'', b'hello', b'0123456789'], ids=['none', 'some', 'full'])
def test_restore_goes_back_to_the_memory_of_before(data: bytes) -> None:
    buf = filled(b'before')
    before = buf.d
    buf.enlarge(30)
    buf.clear()
    buf.d[17 : 17 + len(data)] = data
    buf.b, buf.e = 17, 17 + len(data)
    buf.restore()
    assert buf.d is before
    assert (buf.b, buf.e, bytes(buf.d[: buf.e])) == (0, len(data), data)


def test_restore_leaves_what_does_not_fit() -> None:
    buf = enlarged(b'0123456789+', start=2)
    buf.restore()
    assert (len(buf.d), bytes(buf.d[buf.b : buf.e])) == (30, b'0123456789+')
    buf.take(1)
    buf.restore()
    assert (len(buf.d), bytes(buf.d[buf.b : buf.e])) == (10, b'123456789+')


def test_restore_without_enlarge_changes_nothing() -> None:
    buf = filled(b'hello', start=3)
    buf.restore()
    assert (buf.b, buf.e, bytes(buf.d[3:8])) == (3, 8, b'hello')


# -- the memory of a result ---------------------------------------------------------------------


@pytest.mark.parametrize('size', [0, 1, 100, (1 << 17) - 1, 1 << 17, (1 << 20) + 1])
def test_result_is_what_was_put_into_its_view(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    with ResultBuffer(size) as result:
        assert len(result.view) == size
        result.view[:] = content
        data = result.finish(size)
    assert type(data) is bytes
    assert data == content


@pytest.mark.parametrize('room', [1 << 10, 1 << 20])
def test_result_may_be_less_than_there_was_room_for(room: int) -> None:
    with ResultBuffer(room) as result:
        result.view[:3] = b'abc'
        assert result.finish(3) == b'abc'


def fill(byte: bytes) -> bytes:
    with ResultBuffer(1 << 18) as result:
        result.view[:] = byte * (1 << 18)
        return result.finish(1 << 18)


def test_results_of_several_threads_have_nothing_in_common() -> None:
    contents = [bytes([value]) for value in range(200)]
    with ThreadPoolExecutor(4) as pool:
        for byte, data in zip(contents, pool.map(fill, contents, timeout=30)):
            assert data == byte * (1 << 18)


def test_result_can_be_made_by_a_finalizer_while_another_one_is_made() -> None:
    """In CPython before 3.12 the collector may run wherever an object is made."""
    results: List[bytes] = []

    def on_collection(phase: str, _: Any) -> None:
        if phase == 'start':
            try:
                results.append(fill(b'a'))
            except BaseException as exc:
                results.append(repr(exc).encode())

    threshold = gc.get_threshold()
    gc.callbacks.append(on_collection)
    gc.set_threshold(1)
    try:
        data = fill(b'b')
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(on_collection)
    assert data == b'b' * (1 << 18)
    assert results
    assert set(results) == {b'a' * (1 << 18)}


# -- the buffer of a connection -----------------------------------------------------------------


def answered(connect: Any, raw: bytes, size: int, **options: Any) -> HTTPConnection:
    """A connection with a buffer of *size*, whose request is answered with *raw*."""
    conn = connect(Answers(raw, **options))
    conn._rbuf = dugong._Buffer(size)
    conn.send_request('GET', '/')
    return conn


def test_connection_has_a_buffer_of_the_standard_size() -> None:
    conn = HTTPConnection('host.invalid')
    assert isinstance(conn._rbuf, dugong._Buffer)
    assert len(conn._rbuf.d) == dugong.BUFFER_SIZE
    assert (conn._rbuf.b, conn._rbuf.e, len(conn._rbuf)) == (0, 0, 0)


def test_buffer_can_be_replaced_before_the_first_request(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'x' * 500)))
    buf = dugong._Buffer(100)
    conn._rbuf = buf
    assert conn._rbuf is buf
    assert get(conn)[1] == b'x' * 500
    assert conn._rbuf is buf
    assert len(buf.d) == 100


def test_buffer_can_be_replaced_when_already_connected(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'x' * 500)))
    conn.connect()
    buf = dugong._Buffer(100)
    conn._rbuf = buf
    assert get(conn)[1] == b'x' * 500
    assert conn._rbuf is buf


def test_sock_is_the_socket_or_none(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply()))
    assert conn._sock is None
    conn.connect()
    assert conn._sock.getpeername() == (conn.hostname, conn.port)
    assert conn._sock.fileno() >= 0
    get(conn)
    conn.disconnect()
    assert conn._sock is None


@pytest.mark.parametrize('wanted', [1, 5, 62, 63])
def test_fill_makes_that_many_bytes_available(wanted: int, transport: str, connect: Any) -> None:
    raw = reply(b'x' * 500)
    conn = answered(connect, raw, 63)
    co(conn._co_fill_buffer(wanted))
    buf = conn._rbuf
    assert wanted <= len(buf) <= 63
    assert buf.d[buf.b : buf.e] == raw[: len(buf)]
    assert conn.read_response().length == 500
    assert conn.readall() == b'x' * 500


def test_fill_waits_for_all_that_was_asked_for(transport: str, connect: Any) -> None:
    raw = reply(b'body')

    def handler(peer: Peer) -> None:
        peer.read_request()
        for index in range(len(raw)):
            peer.send(raw[index : index + 1])
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/')
    co(conn._co_fill_buffer(30))
    assert len(conn._rbuf) >= 30
    assert conn.read_response().status == 200
    assert conn.readall() == b'body'


def test_fill_reads_as_much_as_fits(transport: str, connect: Any) -> None:
    raw = reply(b'x' * 500)
    conn = answered(connect, raw, 100)
    # A TLS record is more than what is in it, and it arrives as a whole or not at all.
    wait_queued(conn, len(raw))
    co(conn._co_fill_buffer(1))
    assert (conn._rbuf.b, conn._rbuf.e) == (0, 100)
    assert conn._rbuf.d == raw[:100]


def test_fill_makes_room_at_the_far_end(transport: str, connect: Any) -> None:
    raw = reply(b'x' * 500)
    conn = answered(connect, raw, 100)
    wait_queued(conn, len(raw))
    co(conn._co_fill_buffer(100))
    conn._rbuf.b = 98
    co(conn._co_fill_buffer(50))
    buf = conn._rbuf
    assert len(buf) >= 50
    assert buf.d[buf.b : buf.e] == raw[98 : 98 + len(buf)]


def test_fill_with_enough_in_the_buffer_does_not_need_the_server(connect: Any) -> None:
    conn = answered(connect, head('200 OK', 'Content-Length: 10'), 100)
    co(conn._co_fill_buffer(20))
    # Nothing more comes: this would wait for ever.
    dugong.eval_coroutine(conn._co_fill_buffer(20), 0.05)


def test_fill_that_meets_the_end_is_connection_closed(transport: str, connect: Any) -> None:
    conn = answered(connect, b'short', 100, close=True)
    with pytest.raises(ConnectionClosed):
        co(conn._co_fill_buffer(10))


@pytest.mark.parametrize('kind', ['length', 'chunked'])
def test_empty_buffer_at_its_far_end_is_simply_refilled(
    kind: str, transport: str, connect: Any
) -> None:
    raw = reply(b'x' * 500) if kind == 'length' else chunked_reply(b'x' * 250, b'x' * 250)
    conn = connect(Answers(raw, raw))
    for _ in range(2):
        conn._rbuf.b = conn._rbuf.e = len(conn._rbuf.d)
        assert get(conn)[1] == b'x' * 500


def test_empty_buffer_at_its_far_end_in_the_middle_of_a_body(transport: str, connect: Any) -> None:
    body = bytes(range(256)) * 4
    conn = answered(connect, reply(body), 64)
    conn.read_response()
    data = b''
    while len(data) < len(body):
        if len(conn._rbuf) == 0:
            conn._rbuf.b = conn._rbuf.e = len(conn._rbuf.d)
        piece = conn.read(17)
        assert piece
        data += piece
    assert data == body
    assert conn.read(17) == b''


# A body of this size in chunks of 1 KiB is received a quarter of a MiB at a time in the end.
MUCH = bytes(range(250)) * 2400


def much_in_chunks() -> bytes:
    return chunked_reply(*[MUCH[at : at + 1000] for at in range(0, len(MUCH), 1000)])


class Watched(DuckSocket):
    """A socket that keeps the sizes of the memory into which it received."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.sizes: List[int] = []

    def recv_into(self, view: memoryview) -> int:
        self.sizes.append(len(view))
        return self._plain.recv_into(view)


@pytest.mark.parametrize(
    'size, most', [(dugong.BUFFER_SIZE, 1 << 18), (1000, 1000)], ids=['standard', 'chosen']
)
def test_most_of_a_large_body_in_small_chunks_is_received_at_a_time(
    size: int, most: int, connect: Any
) -> None:
    conn = answered(connect, much_in_chunks(), size)
    conn.read_response()
    conn._sock = watched = Watched(conn._sock)
    assert conn.readall() == MUCH
    assert max(watched.sizes) == most
    assert len(conn._rbuf.d) == size


def test_what_follows_a_large_body_in_small_chunks_is_kept(connect: Any) -> None:
    second = bytes(reversed(range(250))) * 1000
    first = much_in_chunks()
    conn = connect(Answers(first, reply(second), reply(b'third')))
    for path in ('/1', '/2'):
        conn.send_request('GET', path)
    wait_queued(conn, len(first) + len(second))
    conn.read_response()
    assert conn.readall() == MUCH
    # More than what the buffer usually holds.
    assert len(conn._rbuf) > dugong.BUFFER_SIZE
    conn.read_response()
    assert conn.readall() == second
    assert len(conn._rbuf.d) == dugong.BUFFER_SIZE
    assert get(conn, '/3')[1] == b'third'


def test_buffer_of_the_next_connection_has_the_usual_size(connect: Any) -> None:
    conn = connect(Answers(much_in_chunks()[:-10], close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.readall()
    assert len(conn._rbuf.d) > dugong.BUFFER_SIZE
    conn.disconnect()
    conn.send_request('GET', '/')
    assert len(conn._rbuf.d) == dugong.BUFFER_SIZE


@pytest.mark.parametrize('how', ['read', 'co_read', 'readinto', 'readall'])
@pytest.mark.parametrize('size', [100, 101, 1000])
def test_read_that_takes_everything_leaves_the_buffer_at_its_start(
    how: str, size: int, transport: str, connect: Any
) -> None:
    raw = reply(b'x' * 100)
    conn = answered(connect, raw, 1000)
    wait_queued(conn, len(raw))
    conn.read_response()
    assert len(conn._rbuf) == 100
    if how == 'readinto':
        assert conn.readinto(bytearray(size)) == 100
    elif how == 'readall':
        assert conn.readall() == b'x' * 100
    elif how == 'read':
        assert conn.read(size) == b'x' * 100
    else:
        assert co(conn.co_read(size)) == b'x' * 100
    assert (conn._rbuf.b, conn._rbuf.e) == (0, 0)


def test_read_that_leaves_something_leaves_just_that(connect: Any) -> None:
    raw = reply(b'x' * 60 + b'y' * 40)
    conn = answered(connect, raw, 1000)
    wait_queued(conn, len(raw))
    conn.read_response()
    assert conn.read(60) == b'x' * 60
    buf = conn._rbuf
    assert buf.d[buf.b : buf.e] == b'y' * 40


@pytest.mark.parametrize('size', [63, 100, 1000])
def test_what_was_handed_out_does_not_change_when_the_buffer_is_filled_again(
    size: int, transport: str, connect: Any
) -> None:
    body = bytes(range(256)) * 20
    conn = answered(connect, reply(body), size)
    conn.read_response()
    pieces: List[Tuple[Any, bytes]] = []
    while True:
        data = co(conn.co_read(size))
        if not data:
            break
        pieces.append((data, bytes(data)))
    assert b''.join(copy for _, copy in pieces) == body
    for data, copy in pieces:
        assert data == copy
    assert len(conn._rbuf.d) == size


# -- everything with tiny buffers ---------------------------------------------------------------

SIZES = [63, 64, 100]
tiny = pytest.mark.parametrize('size', SIZES)

BODY = bytes(range(256)) * 4

LONG = 'x' * 500

REPLIES: Dict[str, bytes] = {
    'length': reply(BODY),
    'empty': reply(),
    'short': reply(b'x'),
    'long status line': reply(BODY, f'200 {LONG}'),
    'long field': reply(BODY, fields=f'X-Long: {LONG}'),
    'long name': reply(BODY, fields=f'X-{LONG}: 1'),
    'many fields': reply(BODY, fields=[f'X-{i}: {i}' for i in range(100)]),
    'folded field': reply(BODY, fields='X-Folded: a\r\n ' + '\r\n '.join('bcdefghij' * 5)),
    'one chunk': chunked_reply(BODY),
    'small chunks': chunked_reply(*[BODY[i : i + 3] for i in range(0, len(BODY), 3)]),
    'chunks of the size of the buffer': chunked_reply(
        *[BODY[i : i + 63] for i in range(0, len(BODY), 63)]
    ),
    'long extensions': chunked_reply(BODY[:500], BODY[500:], extension=f';ext="{LONG}"'),
    'long trailers': chunked_reply(BODY, trailers=[f'X-Long: {LONG}', *['X-A: b'] * 50]),
    'interim': head('103 Early Hints', f'Link: <{LONG}>') * 3 + reply(BODY),
}


def body_of(kind: str) -> bytes:
    return {'empty': b'', 'short': b'x'}.get(kind, BODY)


@tiny
@pytest.mark.parametrize('kind', REPLIES)
def test_replies_with_a_tiny_buffer(kind: str, size: int, transport: str, connect: Any) -> None:
    handler = Answers(*[REPLIES[kind]] * len(READERS))
    conn = connect(handler)
    conn._rbuf = dugong._Buffer(size)
    for name, reader in READERS.items():
        print('reading with', name)
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        assert reader(conn) == body_of(kind)
        assert len(conn._rbuf.d) == size


@tiny
@pytest.mark.parametrize('kind', REPLIES)
def test_replies_that_come_bytewise_with_a_tiny_buffer(kind: str, size: int, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        for index in range(len(REPLIES[kind])):
            peer.send(REPLIES[kind][index : index + 1])
        peer.read_to_eof()

    conn = connect(handler)
    conn._rbuf = dugong._Buffer(size)
    assert get(conn)[1] == body_of(kind)


@tiny
def test_headers_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    conn = answered(connect, REPLIES['many fields'], size)
    response = conn.read_response()
    assert [response.headers[f'X-{i}'] for i in range(100)] == [str(i) for i in range(100)]


@tiny
def test_pipeline_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    # All the answers come at once, so their borders lie anywhere in the buffer.
    kinds = list(REPLIES)
    raw = b''.join(REPLIES[kind] for kind in kinds)
    conn = connect(Answers(*[b''] * (len(kinds) - 1), raw))
    conn._rbuf = dugong._Buffer(size)
    for kind in kinds:
        conn.send_request('GET', f'/{kinds.index(kind)}')
    for kind in kinds:
        assert conn.read_response().path == f'/{kinds.index(kind)}'
        assert conn.readall() == body_of(kind)
    assert not conn.response_pending()


@tiny
@all_readers
def test_body_until_eof_with_a_tiny_buffer(
    reader: Any, size: int, transport: str, connect: Any
) -> None:
    conn = answered(connect, head('200 OK', 'Connection: close') + BODY, size, close=True)
    assert conn.read_response().length is None
    assert reader(conn) == BODY


@tiny
@all_readers
def test_cut_bodies_with_a_tiny_buffer(
    reader: Any, size: int, transport: str, connect: Any
) -> None:
    for raw in (reply(BODY)[:-1], chunked_reply(BODY)[:-1]):
        conn = answered(connect, raw, size, close=True)
        conn.read_response()
        with pytest.raises(ConnectionClosed):
            reader(conn)


@tiny
def test_100_continue_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(head('100 Continue', f'X-Long: {LONG}'))
        assert peer.read_exactly(len(BODY)) == BODY
        peer.send(reply(BODY))
        peer.read_head()
        peer.send(reply(BODY, '417 Expectation Failed'))
        peer.read_to_eof()

    conn = connect(handler)
    conn._rbuf = dugong._Buffer(size)
    following = BodyFollowing(len(BODY))
    conn.send_request('PUT', '/', body=following, expect100=True)
    response = conn.read_response()
    assert (response.status, response.headers['X-Long']) == (100, LONG)
    conn.write(BODY)
    assert conn.read_response().status == 200
    assert conn.readall() == BODY
    conn.send_request('PUT', '/', body=following, expect100=True)
    assert conn.read_response().status == 417
    assert conn.readall() == BODY


@tiny
def test_large_request_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn._rbuf = dugong._Buffer(size)
    conn.send_request('PUT', '/' + LONG, {'X-Long': LONG}, BODY * 100)
    conn.read_response()
    assert handler.request.body == BODY * 100


@tiny
def test_text_and_parsers_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    text = 'line \u20ac\n' * 300
    data = {str(i): [i] * 10 for i in range(50)}
    conn = connect(
        Answers(b'', chunked_reply(text.encode()) + reply(json.dumps(data).encode()), reply(b'x'))
    )
    conn._rbuf = dugong._Buffer(size)
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    assert io.TextIOWrapper(conn, encoding='utf-8').read() == text
    conn.read_response()
    assert json.load(conn) == data
    assert get(conn)[1] == b'x'


@tiny
def test_discard_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    conn = connect(Answers(*[REPLIES[kind] for kind in REPLIES], reply(b'last')))
    conn._rbuf = dugong._Buffer(size)
    for _ in REPLIES:
        conn.send_request('GET', '/')
        conn.read_response()
        conn.discard()
    assert get(conn)[1] == b'last'


@tiny
def test_read_raw_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    conn = answered(connect, head('200 OK') + BODY, size, close=True)
    conn.read_response()
    with pytest.raises(UnsupportedResponse):
        conn.readall()
    data = b''
    while True:
        piece = conn.read_raw(1000)
        if not piece:
            break
        data += piece
    assert data == BODY


@tiny
@pytest.mark.parametrize(
    'raw, error',
    [
        (b'HTTP/2.0 200 ' + b'x' * 200 + b'\r\n\r\n', UnsupportedResponse),
        (b'HTTP/1.1 xyz ' + b'x' * 200 + b'\r\n\r\n', InvalidResponse),
        (b'HTTP/1.1 200 OK\r\n' + b'x' * 200 + b'\r\n\r\n', InvalidResponse),
        (b'HTTP/1.1 200 ' + b'x' * 70_000, InvalidResponse),
        (b'HTTP/1.1 200 OK\r\nX-Long: ' + b'x' * 70_000, InvalidResponse),
        (b'HTTP/1.1 200 OK\r\n' + b'X: y\r\n' * 20_000, InvalidResponse),
    ],
    ids=['version', 'status', 'field', 'long line', 'long field', 'many fields'],
)
def test_errors_with_a_tiny_buffer(raw: bytes, error: Any, size: int, connect: Any) -> None:
    conn = answered(connect, raw, size)
    with pytest.raises(error):
        conn.read_response()


@tiny
@pytest.mark.parametrize('line', [b'3;x=' + b'y' * 70_000, b'3' * 100], ids=['long', 'digits'])
def test_faulty_chunk_lines_with_a_tiny_buffer(line: bytes, size: int, connect: Any) -> None:
    raw = head('200 OK', 'Transfer-Encoding: chunked') + line + b'\r\n'
    conn = answered(connect, raw, size)
    conn.read_response()
    with pytest.raises(InvalidResponse):
        conn.readall()


@tiny
def test_limits_do_not_depend_on_the_buffer(size: int, transport: str, connect: Any) -> None:
    start = b'HTTP/1.1 200 '
    line = start + b'x' * (dugong.MAX_LINE_SIZE - len(start))
    conn = answered(connect, line + b'\r\nContent-Length: 4\r\n\r\nbody', size)
    assert len(conn.read_response().reason) == dugong.MAX_LINE_SIZE - len(start)
    assert conn.readall() == b'body'


@tiny
@pytest.mark.parametrize('together', [True, False])
def test_stray_octets_with_a_tiny_buffer(
    together: bool, size: int, transport: str, connect: Any
) -> None:
    poison = reply(b'poison' * 20)
    conn = answered(connect, reply(b'body' * (20 if together else 1)) + poison, size)
    conn.read_response()
    conn.readall()
    with pytest.raises(ConnectionClosed):
        conn.send_request('GET', '/')
        conn.read_response()


@tiny
def test_408_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    late = reply(BODY, '408 Request Timeout', ['Connection: close', f'X-Long: {LONG}'])
    conn = answered(connect, reply(b'body') + late, size, close=True)
    conn.read_response()
    assert conn.readall() == b'body'
    wait_queued(conn, 1)
    conn.send_request('GET', '/')
    assert conn.read_response().status == 408
    assert conn.readall() == BODY


@tiny
def test_tunnel_with_a_tiny_buffer(size: int, serve: Any, certificates: Any) -> None:
    from test_proxy import Tunnel

    answer = head('200 Connection established', f'X-Long: {LONG}')
    server = serve(Answers(reply(BODY)), tls=True)
    proxy = serve(Tunnel(server.address, answer), tls=False)
    context = certificates.client_context
    with HTTPConnection('localhost', server.port, context, proxy.address) as conn:
        conn.timeout = 20
        conn._rbuf = dugong._Buffer(size)
        assert get(conn)[1] == BODY


@tiny
def test_upgrade_with_a_tiny_buffer(size: int, transport: str, connect: Any) -> None:
    switch = head('101 Switching Protocols', 'Upgrade: x', 'Connection: Upgrade', f'X-L: {LONG}')
    conn = connect(Answers(switch + BODY))
    conn._rbuf = dugong._Buffer(size)
    conn.send_request('GET', '/', {'Upgrade': 'x', 'Connection': 'Upgrade'})
    assert conn.read_response().status == 101
    data = b''
    while len(data) < len(BODY):
        data += conn.read_raw(1000)
    assert data == BODY


READ_SIZES: List[Callable[[int], int]] = [
    lambda size: 1,
    lambda size: size - 1,
    lambda size: size,
    lambda size: size + 1,
    lambda size: 10 * size,
]


@tiny
@pytest.mark.parametrize('kind', ['length', 'one chunk', 'small chunks', 'long extensions'])
def test_reads_of_any_size_with_a_tiny_buffer(
    kind: str, size: int, transport: str, connect: Any
) -> None:
    conn = connect(Answers(*[REPLIES[kind]] * len(READ_SIZES)))
    conn._rbuf = dugong._Buffer(size)
    for wanted in READ_SIZES:
        conn.send_request('GET', '/')
        conn.read_response()
        parts = []
        while True:
            data = conn.read(wanted(size))
            assert len(data) <= wanted(size)
            if not data:
                break
            parts.append(data)
        assert b''.join(parts) == BODY
