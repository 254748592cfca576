"""The body room: framing decisions, and bodies fed whole, bytewise and with trailing bytes."""

import itertools
from typing import Any, List, Optional, Tuple

import pytest
from tables_support import rows

import dugong
from dugong._body import (
    AWAIT_CONTINUE,
    CHUNK_END,
    CHUNK_SIZE,
    COMPLETE,
    DATA,
    DONE,
    TRAILERS,
    UNREADABLE,
    UNTIL_EOF,
    WRITING,
    BodyFollowing,
    RequestBody,
    ResponseBody,
    closes_connection,
)
from dugong._buffer import _Buffer
from dugong._exceptions import (
    ConnectionClosed,
    ExcessBodyData,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
)
from dugong._parser import parse_head


def body_for(
    *fields: str, status: int = 200, method: str = 'GET', minor: int = 1, **options: Any
) -> ResponseBody:
    head = parse_head('\r\n'.join([f'HTTP/1.{minor} {status} X', *fields]))
    return ResponseBody(method, head, **options)


# --- the decision (RFC 9112, section 6.3) ---


@rows(
    # fields, options, state, length, chunked, close_after
    ([], {'status': 204}, DONE, 0, False, False),
    ([], {'status': 304}, DONE, 0, False, False),
    ([], {'status': 100}, DONE, 0, False, False),
    ([], {'status': 199}, DONE, 0, False, False),
    ([], {'method': 'HEAD'}, DONE, 0, False, False),
    ([], {'method': 'CONNECT'}, DONE, 0, False, False),
    (['Content-Length: 5'], {'method': 'CONNECT'}, DONE, 0, False, False),
    (['Content-Length: 5'], {'method': 'CONNECT', 'status': 403}, DATA, 5, False, False),
    (['Content-Length: 5'], {'method': 'HEAD'}, DONE, 0, False, False),
    (['Content-Length: x'], {'status': 304}, DONE, 0, False, False),
    (['Transfer-Encoding: chunked'], {'status': 204}, DONE, 0, False, False),
    (['Connection: close'], {'status': 204}, DONE, 0, False, True),
    (['Content-Length: 5'], {}, DATA, 5, False, False),
    (['Content-Length: 0'], {}, DONE, 0, False, False),
    (['Content-Length: 5, 5', 'Content-Length: 5'], {}, DATA, 5, False, False),
    (['Content-Length: 5', 'Connection: close'], {}, DATA, 5, False, True),
    (['Content-Length: 5'], {'minor': 0}, DATA, 5, False, True),
    (['Content-Length: 5', 'Connection: Keep-Alive'], {'minor': 0}, DATA, 5, False, False),
    (['Content-Length: 5', 'Connection: x, CLOSE'], {'minor': 9}, DATA, 5, False, True),
    (['Transfer-Encoding: chunked'], {}, CHUNK_SIZE, None, True, False),
    (['Transfer-Encoding: Chunked'], {}, CHUNK_SIZE, None, True, False),
    (['Transfer-Encoding: ,chunked, '], {}, CHUNK_SIZE, None, True, False),
    (['Transfer-Encoding: chunked', 'Connection: close'], {}, CHUNK_SIZE, None, True, True),
    (['Transfer-Encoding: chunked', 'Content-Length: 5'], {}, CHUNK_SIZE, None, True, True),
    (['Content-Length: x', 'Transfer-Encoding: chunked'], {}, CHUNK_SIZE, None, True, True),
    (['Connection: close'], {}, UNTIL_EOF, None, False, True),
    ([], {'minor': 0}, UNTIL_EOF, None, False, True),
    ([], {'assume_close': True}, UNTIL_EOF, None, False, True),
    (['Content-Length: 5'], {'assume_close': True}, DATA, 5, False, False),
)
def test_framing(case):
    fields, options, state, length, chunked, close_after = case
    body = body_for(*fields, **options)
    assert (body.state, body.length, body.chunked) == (state, length, chunked)
    assert body.close_after is close_after
    assert body.error is None
    assert body.remaining == (length or 0)
    assert body.trailers == ('' if state is DONE else None)
    assert body.unread() == b''


@rows(
    (['Content-Length: +5'], {}, InvalidResponse),
    (['Content-Length: 5', 'Content-Length: 6'], {}, InvalidResponse),
    (['Content-Length:'], {'assume_close': True}, InvalidResponse),
    (['Transfer-Encoding: gzip, chunked'], {}, InvalidResponse),
    (['Transfer-Encoding: gzip', 'Transfer-Encoding: chunked'], {}, InvalidResponse),
    (['Transfer-Encoding: chunked', 'Transfer-Encoding: chunked'], {}, InvalidResponse),
    (['Transfer-Encoding: identity'], {}, InvalidResponse),
    (['Transfer-Encoding:'], {'assume_close': True}, InvalidResponse),
    (['Transfer-Encoding: x', 'Content-Length: 5', 'Connection: close'], {}, InvalidResponse),
    (['Transfer-Encoding: chunked'], {'minor': 0}, InvalidResponse),
    ([], {}, UnsupportedResponse),
    (['Connection: keep-alive'], {'minor': 0}, UnsupportedResponse),
)
def test_bad_framing(case):
    fields, options, kind = case
    body = body_for(*fields, **options)
    assert body.state is UNREADABLE
    assert type(body.error) is kind
    assert body.length is None
    assert body.trailers is None


@rows(
    ('HTTP/1.1 200', False),
    ('HTTP/1.1 200\r\nConnection: close', True),
    ('HTTP/1.1 200\r\nConnection: a, Close, b', True),
    ('HTTP/1.1 200\r\nConnection: a\r\nconnection: close', True),
    ('HTTP/1.1 200\r\nConnection: keep-alive', False),
    ('HTTP/1.1 200\r\nConnection: closed', False),
    ('HTTP/1.0 200', True),
    ('HTTP/1.0 200\r\nConnection: Keep-Alive', False),
    ('HTTP/1.0 200\r\nConnection: keep-alive, close', True),
    ('HTTP/1.2 200', False),
)
def test_connection_options(case):
    text, closes = case
    assert closes_connection(parse_head(text)) is closes


# --- feeding ---

#: How many bytes there are in the buffer at a time, and its size.
FEEDINGS = [(10000, 10000), (1, 10000), (1, 63), (2, 10000), (7, 63), (63, 63)]


class Feeder:
    """Feeds *data* through a buffer, as much at a time as *step* and the *size* allow."""

    def __init__(self, data: bytes, step: int, size: int) -> None:
        self.data = data
        self.step = step
        self.buf = _Buffer(size)

    def more(self) -> bool:
        space = self.buf.space()
        piece = self.data[: min(self.step, len(space))]
        space[: len(piece)] = piece
        self.buf.e += len(piece)
        self.data = self.data[len(piece) :]
        return bool(piece)

    def rest(self) -> bytes:
        return bytes(self.buf.exhaust()) + self.data


def read_by_taking(body: ResponseBody, feeder: Feeder, most: int = 5) -> bytes:
    """Take the data piece by piece, at most *most* bytes at a time."""
    result = b''
    while body.state is not DONE:
        if body.advance(feeder.buf) and body.state in (DATA, UNTIL_EOF):
            size = most if body.state is UNTIL_EOF else min(most, body.remaining)
            piece = feeder.buf.take(size)
            if piece:
                if body.state is DATA:
                    body.taken(len(piece))
                result += piece
                continue
        if body.state is not DONE and not feeder.more():
            body.eof()
    return result


def read_by_take_all(body: ResponseBody, feeder: Feeder) -> bytes:
    result = b''
    while body.state is not DONE:
        # The pieces are valid only until more is received.
        result += b''.join(body.take_all(feeder.buf))
        # The first byte of a CRLF may have to wait for the second one.
        assert body.state is DONE or bytes(feeder.buf.d[feeder.buf.b : feeder.buf.e]) in (
            b'',
            b'\r',
        )
        if body.state is not DONE and not feeder.more():
            body.eof()
    return result


def read_by_take_into(body: ResponseBody, feeder: Feeder) -> bytes:
    result = b''
    target = bytearray(8)
    while body.state is not DONE:
        size = body.take_into(feeder.buf, memoryview(target)[:6])
        assert target[6:] == b'\0\0'
        result += target[:size]
        if not size and body.state is not DONE and not feeder.more():
            body.eof()
    return result


READERS = [read_by_taking, read_by_take_all, read_by_take_into]

CHUNKED = 'Transfer-Encoding: chunked'

BODIES = [
    ('Content-Length: 5', b'hello', b'hello', ''),
    ('Content-Length: 300', bytes(300), bytes(300), ''),
    (CHUNKED, b'0\r\n\r\n', b'', ''),
    (CHUNKED, b'5\r\nhello\r\n0\r\n\r\n', b'hello', ''),
    (CHUNKED, b'5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n', b'hello world', ''),
    (CHUNKED, b'3\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n0\r\n\r\n', b'abcdefghi', ''),
    (CHUNKED, b'3;x\r\nabc\r\n3\r\ndef\r\n3\r\nghi\r\n0\r\n\r\n', b'abcdefghi', ''),
    (CHUNKED, b'003\r\nabc\r\n3 \r\ndef\r\n3\r\nghi\r\n0;a="\\""\r\n\r\n', b'abcdefghi', ''),
    (CHUNKED, b'2\r\n\r\n\r\n2\r\n\r\n\r\n1\r\n\n\r\n0\r\n\r\n', b'\r\n\r\n\n', ''),
    (CHUNKED, b'2\r\n\r\n\r\n3\r\n0\r\n\r\n0\r\n\r\n', b'\r\n0\r\n', ''),
    (CHUNKED, b'1\r\nx\r\n0\r\nA: b\r\nC: d\r\n e\r\n\r\n', b'x', '\r\nA: b\r\nC: d e'),
    (CHUNKED, b'64\r\n' + bytes(100) + b'\r\n0\r\n\r\n', bytes(100), ''),
    (CHUNKED, b'1\r\nx\r\n' * 50 + b'0\r\n\r\n', b'x' * 50, ''),
]


#: What may follow without being looked at.
TRAILING = [b'', b'X', b'\r\n', b'HTTP/1.1 200 OK\r\n\r\n']


@pytest.mark.slow
@rows(*itertools.product(BODIES, FEEDINGS, READERS, TRAILING))
def test_bodies(case):
    (field, data, expected, trailers), feeding, reader, trailing = case
    body = body_for(field)
    feeder = Feeder(data + trailing, *feeding)
    assert reader(body, feeder) == expected
    assert feeder.rest() == trailing
    assert body.state is DONE
    assert body.trailers == trailers
    # Nothing is left, and nobody takes it.
    feeder = Feeder(b'more', *feeding)
    feeder.more()
    assert body.advance(feeder.buf)
    assert body.take_all(feeder.buf) == []
    assert body.take_into(feeder.buf, memoryview(bytearray(5))) == 0
    assert feeder.rest() == b'more'


#: Chunks that are handed out as they lie in the buffer, and small ones between them.
LARGE = [bytes([i]) * size for i, size in enumerate([9000, 5, 5, 9000, 9000, 1, 8000, 20000, 3])]


@pytest.mark.slow
@rows(*itertools.product([(1 << 20, 1 << 20), (5000, 1 << 16), (16384, 16384)], READERS))
def test_large_and_small_chunks(case):
    feeding, reader = case
    body = body_for(CHUNKED)
    chunks = b''.join(b'%x\r\n%b\r\n' % (len(chunk), chunk) for chunk in LARGE)
    feeder = Feeder(chunks + b'0\r\n\r\nrest', *feeding)
    assert reader(body, feeder) == b''.join(LARGE)
    assert feeder.rest() == b'rest'


@rows(*itertools.product(FEEDINGS, READERS))
def test_a_body_until_eof_ends_there(case):
    feeding, reader = case
    body = body_for('Connection: close')
    assert reader(body, Feeder(b'hello\r\n0\r\n\r\n', *feeding)) == b'hello\r\n0\r\n\r\n'
    assert body.state is DONE
    assert body.trailers == ''


@pytest.mark.slow
@rows(*itertools.product(BODIES, FEEDINGS, READERS))
def test_the_end_of_the_connection_inside_a_body(case):
    (field, data, _, _), feeding, reader = case
    for end in range(min(len(data), 60)):
        body = body_for(field)
        with pytest.raises(ConnectionClosed) as caught:
            reader(body, Feeder(data[:end], *feeding))
        assert 'missing' in str(caught.value)
        assert body.state is not DONE
        assert body.trailers is None


BAD_CHUNKS = [
    # the bytes, how many of them it takes to see that they are wrong, what of them is data
    (b'g\r\n', 3, b''),
    (b'\r\n', 1, b''),
    (b' 5\r\n', 1, b''),
    (b'+5\r\n', 1, b''),
    (b'-5\r\n', 1, b''),
    (b'5_0\r\n', 2, b''),
    (b'5\n', 2, b''),
    (b'5 \n', 3, b''),
    (b'5a\n', 3, b''),
    (b'5;a\nb\r\n', 4, b''),
    (b'5;a\0\r\n', 6, b''),
    (b'5 5\r\n', 3, b''),
    (b'00000000000000005\r\n', 19, b''),
    (b'5\r\nhelloX', 9, b'hello'),
    (b'5\r\nhello\n', 9, b'hello'),
    (b'5\r\nhello\r\r', 10, b'hello'),
    (b'5\r\nhello\rX', 10, b'hello'),
    (b'2\r\nab\r\n2\r\ncd\r\n2x\r\n', 18, b'abcd'),
    (b'2\r\nab\r\n2\r\ncdX', 13, b'abcd'),
    (b'0\r\nA\r\n\r\n', 8, b''),
    (b'0\r\n A: b\r\n\r\n', 12, b''),
    (b'0\r\nA : b\r\n\r\n', 12, b''),
    (b'0\r\nA: b\n', 8, b''),
    (b'0\r\n\n', 4, b''),
]


@rows(*itertools.product(BAD_CHUNKS, FEEDINGS, READERS))
def test_bad_chunks(case):
    (data, needed, _), feeding, reader = case
    body = body_for(CHUNKED)
    feeder = Feeder(data + b'THE REST', *feeding)
    with pytest.raises(InvalidResponse):
        reader(body, feeder)
    assert body.trailers is None
    # What is wrong can be shown to the caller.
    assert (body.unread() + feeder.rest()).endswith(b'THE REST')
    # The bytes before are not wrong yet.
    with pytest.raises(ConnectionClosed):
        reader(body_for(CHUNKED), Feeder(data[: needed - 1], *feeding))


@rows(*itertools.product(BAD_CHUNKS, [f for f in FEEDINGS if f[0] == 1], READERS))
def test_bad_chunks_are_refused_early(case):
    (data, needed, _), feeding, reader = case
    with pytest.raises(InvalidResponse):
        reader(body_for(CHUNKED), Feeder(data[:needed], *feeding))


@rows(*BAD_CHUNKS)
def test_data_before_a_bad_chunk_can_be_taken(case):
    data, _, expected = case
    body = body_for(CHUNKED)
    feeder = Feeder(data, 1, 100)
    taken = b''
    with pytest.raises(InvalidResponse):
        while feeder.more():
            while body.advance(feeder.buf) and body.state is DATA and len(feeder.buf):
                taken += feeder.buf.take(1)
                body.taken(1)
    assert taken == expected


LONG_LINES = [
    (b'5;%s\r\nhello\r\n0\r\n\r\n', 2),
    (b'0;%s\r\n\r\n', 2),
    (b'0\r\nA: %s\r\n\r\n', 3),
    (b'5\r\nhello\r\n5;%s\r\nworld\r\n0\r\n\r\n', 2),
]


@rows(*itertools.product(LONG_LINES, FEEDINGS, READERS))
def test_line_limits_in_a_chunked_body(case, monkeypatch):
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 40)
    (template, others), feeding, reader = case
    data = template % (b'x' * (40 - others))
    assert reader(body_for(CHUNKED), Feeder(data, *feeding)) in (
        b'',
        b'hello',
        b'helloworld',
    )
    data = template % (b'x' * (41 - others))
    with pytest.raises(InvalidResponse):
        reader(body_for(CHUNKED), Feeder(data, *feeding))
    # A line that has no end is refused as well.
    endless = template.partition(b'%s')[0] + b'x' * 41
    with pytest.raises(InvalidResponse):
        reader(body_for(CHUNKED), Feeder(endless, *feeding))


@rows(*itertools.product(FEEDINGS, READERS))
def test_the_limit_of_a_trailer_section(case, monkeypatch):
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 30)
    feeding, reader = case
    block = b'A: ' + b'x' * 15 + b'\r\nB: ' + b'x' * 15 + b'\r\n'
    for limit, fits in ((38, True), (37, False)):
        monkeypatch.setattr(dugong, 'MAX_HEADER_SIZE', limit)
        body = body_for(CHUNKED)
        feeder = Feeder(b'0\r\n' + block + b'\r\n', *feeding)
        if fits:
            assert reader(body, feeder) == b''
            assert body.trailers == '\r\n' + block[:-2].decode()
        else:
            with pytest.raises(InvalidResponse):
                reader(body, feeder)


def test_states_on_the_way_through_a_chunked_body():
    body = body_for(CHUNKED)
    feeder = Feeder(b'2\r\nab\r\n0\r\n\r\n', 1, 100)
    seen: List[Tuple[Any, int]] = [(body.state, body.remaining)]
    while feeder.more():
        if body.advance(feeder.buf) and body.state is DATA and feeder.buf.take(1):
            body.taken(1)
        seen.append((body.state, body.remaining))
    assert seen == [
        *[(CHUNK_SIZE, 0)] * 3,
        (DATA, 2),
        (DATA, 1),
        *[(CHUNK_END, 0)] * 2,
        *[(CHUNK_SIZE, 0)] * 3,
        *[(TRAILERS, 0)] * 2,
        (DONE, 0),
    ]


# --- request bodies ---


@rows((0, False, COMPLETE), (0, True, COMPLETE), (5, False, WRITING), (5, True, AWAIT_CONTINUE))
def test_state_of_a_new_request_body(case):
    length, await_continue, state = case
    body = RequestBody(length, await_continue)
    assert (body.state, body.length, body.remaining, body.chunked) == (
        state,
        length,
        length,
        False,
    )


@pytest.mark.parametrize('await_continue', [False, True])
def test_state_of_a_new_chunked_request_body(await_continue):
    body = RequestBody(None, await_continue)
    assert body.state is (AWAIT_CONTINUE if await_continue else WRITING)
    assert (body.length, body.remaining, body.chunked) == (None, 0, True)


def test_a_request_body_is_complete_when_all_is_written():
    body = RequestBody(5)
    body.check_writable()
    body.check_size(5)
    body.written(3)
    assert (body.state, body.remaining) == (WRITING, 2)
    with pytest.raises(ExcessBodyData):
        body.check_size(3)
    body.check_size(2)
    body.written(2)
    assert (body.state, body.remaining) == (COMPLETE, 0)
    with pytest.raises(StateError):
        body.check_writable()


def test_a_chunked_request_body_is_complete_when_it_is_finished():
    body = RequestBody(None)
    body.check_size(1 << 40)
    body.written(1 << 40)
    assert body.state is WRITING
    body.finish()
    assert body.state is COMPLETE


def test_nothing_is_written_before_the_answer_to_expect():
    with pytest.raises(StateError):
        RequestBody(5, True).check_writable()


@rows((None, 'Transfer-Encoding: chunked\r\n'), (5, 'Content-Length: 5\r\n'))
def test_the_field_that_frames_a_request_body(case):
    length, expected = case
    assert RequestBody(length).framing_field() == expected


def test_the_end_of_a_request_body_can_be_checked():
    body = RequestBody(5)
    body.written(3)
    with pytest.raises(StateError, match='2 of the announced 5 bytes'):
        body.check_complete()
    body.written(2)
    body.check_complete()
    assert body.awaits_eof
    body.finish()
    assert not body.awaits_eof


def test_what_is_sent_of_a_body_that_was_given_up_does_not_count():
    body = RequestBody(5)
    body.finish()
    body.written(3)
    assert (body.state, body.remaining) == (COMPLETE, 0)


def test_giving_up_a_request_body():
    body = RequestBody(5)
    body.written(1)
    body.finish()
    assert (body.state, body.remaining) == (COMPLETE, 0)


def test_body_following():
    lengths: List[Optional[int]] = [BodyFollowing(n).length for n in (0, 5, None)]
    assert lengths == [0, 5, None]
    assert BodyFollowing().length is None
    assert repr(BodyFollowing(5)) == 'BodyFollowing(5)'
    assert repr(BodyFollowing()) == 'BodyFollowing()'
    with pytest.raises(ValueError, match='negative'):
        BodyFollowing(-1)
    for length in ('5', 5.0, b'5'):
        with pytest.raises(TypeError):
            BodyFollowing(length)


@rows(UNTIL_EOF, UNREADABLE, DONE)
def test_states_are_told_in_words(case):
    assert case.value
