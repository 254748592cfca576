"""Where a response ends, and what is no response: RFC 9112 as seen from outside the library."""

import gc
import itertools
import logging
import os
import re
import select
import ssl
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, List

import pytest
from contract_support import unwrap
from servers import LIMIT, Peer, ScriptedServer
from tables_support import rows
from wire_support import FORMS, Wire, fetch, split

import dugong
from dugong import (
    BodyFollowing,
    CaseInsensitiveDict,
    ConnectionClosed,
    ConnectionTimedOut,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
)

OK = b'HTTP/1.1 200 OK\r\n'
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
NEXT = OK + b'Content-Length: 4\r\n\r\nnext'
UPGRADE = CaseInsensitiveDict({'Upgrade': 'other', 'Connection': 'upgrade'})


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture(params=['whole', 'bytewise'])
def feeding(request: pytest.FixtureRequest) -> Callable[[bytes], Iterable[bytes]]:
    """How the bytes of the server arrive."""
    return (lambda data: [data]) if request.param == 'whole' else (lambda data: split(data, 1))


def fields(*lines: bytes, status: bytes = OK) -> bytes:
    """Head of a response with the field *lines*."""
    return status + b''.join(line + b'\r\n' for line in lines) + b'\r\n'


def expect_answer(outcome: Any, body: bytes, then: bool = True) -> None:
    """The first answer has *body*, and the next one is not damaged."""
    assert outcome.answers[0].body == body
    if then:
        assert outcome.error is None
        assert outcome.answers[1].body == b'next'


def expect_bad_body(wire: Wire, pieces: Iterable[bytes], method: str = 'GET') -> None:
    """Status and headers can be seen, the body is `InvalidResponse` in all ways of reading it."""
    wire.connect()
    pieces = iter(pieces)
    wire.request(method)
    resp = wire.drive(wire.conn.co_read_response(), pieces)
    assert resp.status == 200
    for form in [*FORMS, *FORMS]:
        data = bytearray()
        with pytest.raises(InvalidResponse):
            wire.drive(FORMS[form](wire.conn, data), pieces)
        assert not data


def expect_bad_head(wire: Wire, pieces: Iterable[bytes], **options: Any) -> str:
    """`read_response` says `InvalidResponse`. Returns its message."""
    wire.connect()
    wire.request(**options)
    with pytest.raises(InvalidResponse) as caught:
        wire.drive(wire.conn.co_read_response(), pieces)
    return str(caught.value)


# --- Content-Length (RFC 9110 section 8.6, RFC 9112 section 6.3) ---


@rows(b'5', b'05', b'0000005', b'5 ', b'5 \t ', b' \t5')
def test_content_length_in_digits_is_taken(wire, feeding, case):
    stream = fields(b'Content-Length:' + case) + b'hello' + NEXT
    expect_answer(fetch(wire, feeding(stream), 2), b'hello')


@rows(
    *[b'+5', b'-1', b'-5', b'1_0', b'0x5', b'\xb2', b'\xd9\xa5', b'', b'9' * 30, b'0' * 29 + b'5'],
    *[b'\xa05', b'5\xa0', b'\x0b5', b'5\x0c', b'\x855', b'5.0', b'5e0', b'5 5', b'5;', b'five'],
    *[b'"5"'],
)
def test_content_length_of_anything_else_is_a_bad_body(wire, feeding, case):
    expect_bad_body(wire, feeding(fields(b'Content-Length: ' + case) + b'hello' + NEXT))


@rows(
    [b'Content-Length: 5', b'Content-Length: 5'],
    [b'Content-Length: 5', b'content-length: 5', b'CONTENT-LENGTH: 5'],
    [b'Content-Length: 5, 5'],
    [b'Content-Length: 5,5'],
    [b'Content-Length: 5 ,\t5'],
    [b'Content-Length: 5, 5', b'Content-Length: 5'],
)
def test_equal_content_lengths_are_one(wire, feeding, case):
    outcome = fetch(wire, feeding(fields(*case) + b'hello' + NEXT), 2)
    expect_answer(outcome, b'hello')
    assert outcome.answers[0].length == 5


@rows(
    [b'Content-Length: 5', b'Content-Length: 6'],
    [b'Content-Length: 6', b'Content-Length: 5'],
    [b'Content-Length: 5, 6'],
    [b'Content-Length: 5', b'Content-Length: 5, 6'],
    [b'Content-Length: 5', b'Content-Length: +5'],
    [b'Content-Length: 5', b'Content-Length: x'],
    [b'Content-Length: 5', b'Content-Length:'],
)
def test_differing_content_lengths_are_a_bad_body(wire, feeding, case):
    expect_bad_body(wire, feeding(fields(*case) + b'hello' + NEXT))


@rows(b'9' * 18, b'9223372036854775807', b'9223372036854775808', b'18446744073709551616')
@pytest.mark.parametrize('form', FORMS)
def test_a_huge_content_length_costs_no_memory(wire, case, form):
    """It is a length like any other, or refused; never `MemoryError` or `OverflowError`."""
    outcome = fetch(wire, [fields(b'Content-Length: ' + case) + b'hello'], form=form)
    assert not outcome.answers
    assert isinstance(outcome.error, (ConnectionClosed, InvalidResponse))


@rows(b'5', b'+5', b'nonsense')
@pytest.mark.parametrize('answer', ['HEAD', '204', '304'])
def test_content_length_means_nothing_where_there_is_no_body(wire, feeding, case, answer):
    status = b'HTTP/1.1 %s X\r\n' % (b'200' if answer == 'HEAD' else answer.encode())
    method = 'HEAD' if answer == 'HEAD' else 'GET'
    head = fields(b'Content-Length: ' + case, status=status)
    last = fields(b'Content-Length: 4') if answer == 'HEAD' else NEXT
    outcome = fetch(wire, feeding(head + last), 2, method=method)
    assert outcome.error is None
    assert [a.length for a in outcome.answers] == [0, 0 if answer == 'HEAD' else 4]
    assert outcome.answers[0].body == b''


# --- Transfer-Encoding (RFC 9112 section 6.1, 6.3, 7.1) ---


@rows(
    *[b'chunked', b'Chunked', b'CHUNKED', b'chunked ', b'chunked\t', b'\t chunked', b'chunked,'],
    *[b',chunked', b' , chunked ,, '],
)
def test_chunked_in_any_spelling_is_taken(wire, feeding, case):
    stream = fields(b'Transfer-Encoding:' + case) + b'5\r\nhello\r\n0\r\n\r\n' + NEXT
    outcome = fetch(wire, feeding(stream), 2)
    expect_answer(outcome, b'hello')
    assert outcome.answers[0].length is None


@rows(
    *[[b'gzip, chunked'], [b'chunked, gzip'], [b'gzip'], [b'identity'], [b'identity, chunked']],
    *[[b'chunked, chunked'], [b'chunked', b'chunked'], [b'gzip', b'chunked']],
    *[[b'chunked', b'gzip']],
    *[[b''], [b'chunked;q=1'], [b'xchunked'], [b'chunkedx'], [b'"chunked"'], [b'chunk']],
    *[[b'\x0bchunked']],
    *[[b'chunked\xa0'], [b'chunked\x0c'], [b'chunked', b'identity'], [b'chunked chunked']],
    *[[b','], [b'chunked,chunked'], [b'chunked', b'', b'chunked']],
)
@pytest.mark.parametrize('length', [b'', b'Content-Length: 5'], ids=['alone', 'with length'])
def test_a_coding_that_is_not_just_chunked_is_a_bad_body(wire, feeding, case, length):
    lines = [b'Transfer-Encoding: ' + value for value in case]
    head = fields(*lines, *([length] if length else []))
    expect_bad_body(wire, feeding(head + b'5\r\nhello\r\n0\r\n\r\n' + NEXT))


def test_http_1_0_with_a_transfer_coding_is_a_bad_body(wire, feeding):
    head = fields(b'Transfer-Encoding: chunked', status=b'HTTP/1.0 200 OK\r\n')
    expect_bad_body(wire, feeding(head + b'5\r\nhello\r\n0\r\n\r\n'))


@rows(b'5', b'0', b'1000')
@pytest.mark.parametrize('first', ['length', 'coding'])
def test_chunked_wins_over_content_length_and_ends_the_connection(wire, feeding, case, first):
    lines = [b'Content-Length: ' + case, b'Transfer-Encoding: chunked']
    head = fields(*(lines if first == 'length' else reversed(lines)))
    outcome = fetch(wire, feeding(head + b'6\r\nhello!\r\n0\r\n\r\n' + NEXT), 2)
    expect_answer(outcome, b'hello!', then=False)
    assert outcome.answers[0].length is None
    assert len(outcome.answers) == 1
    assert isinstance(outcome.error, ConnectionClosed)


def test_nothing_is_sent_after_content_length_with_chunked(wire):
    wire.request()
    wire.feed(fields(b'Content-Length: 5', b'Transfer-Encoding: chunked') + b'0\r\n\r\n')
    assert wire.conn.read_response().status == 200
    assert wire.conn.readall() == b''
    wire.peer.recv(65536)
    wire.conn.send_request('GET', '/second')
    with pytest.raises(ConnectionClosed):
        wire.conn.read_response()
    wire.conn.disconnect()
    assert wire.peer.recv(65536) == b''


@rows('HEAD', '204', '304')
def test_a_transfer_coding_means_nothing_where_there_is_no_body(wire, feeding, case):
    status = b'HTTP/1.1 %s X\r\n' % (b'200' if case == 'HEAD' else case.encode())
    head = fields(b'Transfer-Encoding: chunked', status=status)
    outcome = fetch(wire, feeding(head + head), 2, method='HEAD' if case == 'HEAD' else 'GET')
    assert outcome.error is None
    assert [(a.length, a.body) for a in outcome.answers] == [(0, b'')] * 2


# --- chunks (RFC 9112 section 7.1) ---


@rows(b'b', b'B', b'0b', b'0000b', b'000000000000000b', b'000000000000000B')
def test_chunk_sizes_of_1_to_16_hex_digits_are_taken(wire, feeding, case):
    stream = CHUNKED + case + b'\r\nhello world\r\n0\r\n\r\n' + NEXT
    expect_answer(fetch(wire, feeding(stream), 2), b'hello world')


@rows(b'0', b'00', b'0000000000000000', b'0;last', b'000;a=b')
def test_any_zero_is_the_last_chunk(wire, feeding, case):
    stream = CHUNKED + b'5\r\nhello\r\n' + case + b'\r\n\r\n' + NEXT
    expect_answer(fetch(wire, feeding(stream), 2), b'hello')


@pytest.mark.slow
@rows(
    *[b'', b'+5', b'-5', b'-0', b'0x5', b'5_0', b'g', b'5g', b'\xb2', b' 5', b'\t5', b'5 5'],
    *[b'5,5', b'5.'],
    *[b'5\x0c', b'5\xa0', b'\x0b5', b'0' * 16 + b'5', b'f' * 17, b'5\0', b'5;a\0', b'5\r;a'],
    *[b'5;a\rb'],
    *[b'5;a="b', b'5;a="b\\"', b'5\n', b'5;a\nb', b'5;a="\0"', b'5;a="\r"', b'5 x', b'5"', b';a'],
    *[b';5'],
)
def test_other_chunk_sizes_are_invalid(wire, feeding, case):
    stream = CHUNKED + b'3\r\nabc\r\n' + case + b'\r\nhello\r\n0\r\n\r\n' + NEXT
    for form in ('readall', 'read', 'readinto', 'discard'):
        outcome = fetch(wire, feeding(stream), 2, form)
        assert not outcome.answers
        assert isinstance(outcome.error, InvalidResponse)
        assert b'abc'.startswith(outcome.partial)


@rows(
    *[b';a', b';a=b', b';a="b"', b' ; a = b', b'\t;\ta\t=\t"b"', b';a="x;y"', b';a="x\\";y"'],
    *[b';a="\\\\"'],
    *[b';a;b=c;d="e"', b' ;a ;b', b';a=""', b';a="x=y"', b';a="tab\there"', b';a="\xfc"'],
)
def test_chunk_extensions_are_ignored(wire, feeding, case):
    stream = CHUNKED + b'5' + case + b'\r\nhello\r\n0' + case + b'\r\n\r\n' + NEXT
    expect_answer(fetch(wire, feeding(stream), 2), b'hello')


@rows(b' ', b'\t', b'          ', b';a ', b';a="b" \t')
def test_a_padded_chunk_size_is_taken(wire, feeding, case):
    stream = CHUNKED + b'5' + case + b'\r\nhello\r\n0' + case + b'\r\n\r\n' + NEXT
    expect_answer(fetch(wire, feeding(stream), 2), b'hello')


@rows(
    *[b'', b'\n', b'\r', b'\r\r', b'\n\n', b'\n\r', b'XX', b'X\r\n', b'\r\n\r\n', b'\0\r\n'],
    *[b' \r\n'],
)
def test_the_line_end_after_each_chunk_is_checked(wire, feeding, case):
    stream = CHUNKED + b'5\r\nhello' + case + b'5\r\nworld\r\n0\r\n\r\n' + NEXT
    for form in ('readall', 'read', 'readinto', 'discard'):
        outcome = fetch(wire, feeding(stream), 2, form)
        assert not outcome.answers
        assert isinstance(outcome.error, InvalidResponse)
        assert b'hello'.startswith(outcome.partial)


@rows(b'f' * 16, b'7' + b'f' * 15, b'8' + b'0' * 15)
@pytest.mark.parametrize('form', FORMS)
def test_a_huge_chunk_costs_no_memory(wire, case, form):
    outcome = fetch(wire, [CHUNKED + case + b'\r\nhello'], form=form)
    assert not outcome.answers
    assert isinstance(outcome.error, (ConnectionClosed, InvalidResponse))


@pytest.mark.slow
@rows(*itertools.product(FORMS, [1, 2, 7, 8, 9, 100]))
def test_chunks_of_any_size_give_the_whole_body(wire, feeding, case):
    form, size = case
    body = bytes(range(256))
    chunks = b''.join(b'%x\r\n%s\r\n' % (len(c), c) for c in split(body, size))
    outcome = fetch(wire, feeding(CHUNKED + chunks + b'0\r\n\r\n' + NEXT), 2, form)
    assert outcome.error is None
    assert [a.body for a in outcome.answers] == (
        [b'', b''] if form == 'discard' else [body, b'next']
    )


@pytest.mark.slow
@rows(*FORMS)
def test_chunks_larger_and_smaller_than_the_buffer(wire, case):
    chunks = [bytes([i]) * size for i, size in enumerate([5000, 3, 2048, 2047, 70000, 1, 65536])]
    data = b''.join(b'%x\r\n%s\r\n' % (len(chunk), chunk) for chunk in chunks)
    for size in (1 << 20, 65536, 4096, 1000):
        outcome = fetch(wire, split(CHUNKED + data + b'0\r\n\r\n' + NEXT, size), 2, case)
        assert outcome.error is None
        if case != 'discard':
            assert [a.body for a in outcome.answers] == [b''.join(chunks), b'next']


# --- trailers (RFC 9112 section 7.1.2) ---


def read_trailers(wire: Wire, pieces: Iterable[bytes], form: str = 'readall') -> Any:
    pieces = iter(pieces)
    wire.connect()
    wire.request()
    resp = wire.drive(wire.conn.co_read_response(), pieces)
    assert resp.trailers is None
    wire.drive(FORMS[form](wire.conn, bytearray()), pieces)
    return resp.trailers


@rows(
    ([], []),
    ([b'X-Sum: abc'], [('X-Sum', 'abc')]),
    ([b'X-Sum:abc \t'], [('X-Sum', 'abc')]),
    ([b'a: 1', b'b: 2', b'a: 3'], [('a', '1'), ('b', '2'), ('a', '3')]),
    ([b'a: 1', b' 2', b'\t3'], [('a', '1 2 3')]),
    ([b'a:'], [('a', '')]),
    ([b'Content-Length: 100'], [('Content-Length', '100')]),
)
@pytest.mark.parametrize('form', FORMS)
def test_trailers_are_offered_when_the_body_has_been_read(wire, feeding, case, form):
    lines, expected = case
    trailer = b''.join(line + b'\r\n' for line in lines)
    stream = CHUNKED + b'5\r\nhello\r\n0\r\n' + trailer + b'\r\n'
    assert read_trailers(wire, feeding(stream), form).items() == expected


@rows(*FORMS)
def test_trailers_are_none_before_the_end(wire, case):
    wire.request()
    wire.feed(CHUNKED + b'5\r\nhello\r\n')
    resp = wire.conn.read_response()
    assert wire.conn.read(5) == b'hello'
    assert resp.trailers is None
    wire.feed(b'0\r\nA: b\r\n\r\n')
    wire.drive(FORMS[case](wire.conn, bytearray()))
    assert resp.trailers['a'] == 'b'


@rows(b'Content-Length: 5', b'Connection: close')
def test_without_chunks_the_trailers_are_empty_at_the_end(wire, feeding, case):
    assert read_trailers(wire, feeding(fields(case) + b'hello')).items() == []


@rows(
    *[b'X-Sum : abc', b': abc', b'no colon', b'a\0: b', b'a: \0', b'a: b\rc', b'a b: c'],
    *[b'\xe4: b'],
    *[b' a: b', b'\ta: b', b' ', b'a: b\nc: d', b'a: b\n', b'(a): b'],
)
def test_malformed_trailers_are_invalid(wire, feeding, case):
    stream = CHUNKED + b'5\r\nhello\r\n0\r\n' + case + b'\r\n\r\n' + NEXT
    for form in ('readall', 'read', 'readinto', 'discard'):
        outcome = fetch(wire, feeding(stream), 2, form)
        assert not outcome.answers
        assert isinstance(outcome.error, InvalidResponse)


# --- limits ---


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 40)
    monkeypatch.setattr(dugong, 'MAX_HEADER_SIZE', 120)


def padded(start: bytes, size: int) -> bytes:
    """A line (without line end) of *size* bytes that begins with *start*."""
    return start + b'x' * (size - len(start))


LINE_PLACES = {
    'status line': lambda n: padded(b'HTTP/1.1 200 ', n) + b'\r\nContent-Length: 0\r\n\r\n',
    'field line': lambda n: fields(padded(b'A: ', n), b'Content-Length: 0'),
    'folded line': lambda n: fields(b'A: b', padded(b' ', n), b'Content-Length: 0'),
    'chunk line': lambda n: CHUNKED + padded(b'1;a=', n) + b'\r\nX\r\n0\r\n\r\n',
    'last chunk line': lambda n: CHUNKED + padded(b'0;a=', n) + b'\r\n\r\n',
    'trailer line': lambda n: CHUNKED + b'0\r\n' + padded(b'A: ', n) + b'\r\n\r\n',
}


@rows(*LINE_PLACES)
@pytest.mark.usefixtures('small_limits')
def test_a_line_of_exactly_the_limit_passes(wire, feeding, case):
    outcome = fetch(wire, feeding(LINE_PLACES[case](40) + NEXT), 2)
    assert outcome.error is None
    assert outcome.answers[1].body == b'next'


@rows(*LINE_PLACES)
@pytest.mark.usefixtures('small_limits')
def test_a_line_above_the_limit_is_invalid(wire, feeding, case):
    outcome = fetch(wire, feeding(LINE_PLACES[case](41) + NEXT), 2)
    assert not outcome.answers
    assert isinstance(outcome.error, InvalidResponse)


@rows(*LINE_PLACES)
def test_the_line_limit_without_assignment_is_just_below_64_kib(wire, case):
    assert dugong.MAX_LINE_SIZE == 65535
    outcome = fetch(wire, split(LINE_PLACES[case](1000) + NEXT, 4096), 2)
    assert outcome.error is None
    # The header block counts more than the one line in it.
    most = 65535 - (40 if 'line' in case and case[:2] in ('fi', 'fo', 'tr') else 0)
    outcome = fetch(wire, split(LINE_PLACES[case](most) + NEXT, 4096), 2)
    assert outcome.error is None
    assert outcome.answers[1].body == b'next'
    outcome = fetch(wire, split(LINE_PLACES[case](65536) + NEXT, 4096), 2)
    assert isinstance(outcome.error, InvalidResponse)


@rows(*LINE_PLACES)
@pytest.mark.usefixtures('small_limits')
def test_a_line_without_end_is_refused_before_it_ends(wire, case):
    """The server goes on and on; nobody waits for the end of that line."""
    endless = LINE_PLACES[case](5000).partition(b'x' * 200)[0] + b'x' * 200
    wire.request()
    with pytest.raises(InvalidResponse):
        pieces = iter([endless])
        wire.drive(wire.conn.co_read_response(), pieces)
        wire.drive(wire.conn.co_readall(), pieces)


def block(size: int) -> bytes:
    """Field lines: *size* bytes, and the line end of the last one, which does not count."""
    lines = [padded(b'A: ', 28) + b'\r\n'] * ((size - 3) // 30)
    return b''.join([*lines, padded(b'B: ', size - 30 * len(lines)) + b'\r\n'])


BLOCK_PLACES = {
    'header': lambda n: OK + b'Content-Length: 0\r\n' + block(n - 19) + b'\r\n',
    'trailer': lambda n: CHUNKED + b'1\r\nX\r\n0\r\n' + block(n) + b'\r\n',
    'interim': lambda n: b'HTTP/1.1 103 X\r\n' + block(n) + b'\r\n' + fields(b'Content-Length: 0'),
}


@rows(*BLOCK_PLACES)
@pytest.mark.usefixtures('small_limits')
def test_a_block_of_exactly_the_limit_passes(wire, feeding, case):
    outcome = fetch(wire, feeding(BLOCK_PLACES[case](120) + NEXT), 2)
    assert outcome.error is None
    assert outcome.answers[1].body == b'next'


@rows(*BLOCK_PLACES)
@pytest.mark.usefixtures('small_limits')
def test_a_block_above_the_limit_is_invalid(wire, feeding, case):
    outcome = fetch(wire, feeding(BLOCK_PLACES[case](121) + NEXT), 2)
    assert not outcome.answers
    assert isinstance(outcome.error, InvalidResponse)


@rows(*BLOCK_PLACES)
def test_the_block_limit_without_assignment_is_just_below_64_kib(wire, case):
    assert dugong.MAX_HEADER_SIZE == 65535
    outcome = fetch(wire, split(BLOCK_PLACES[case](65535) + NEXT, 4096), 2)
    assert outcome.error is None
    assert outcome.answers[1].body == b'next'
    outcome = fetch(wire, split(BLOCK_PLACES[case](65536) + NEXT, 4096), 2)
    assert isinstance(outcome.error, InvalidResponse)


@rows(b'100 Continue', b'102 Processing', b'103 Early Hints', b'199 X')
def test_100_interim_responses_are_skipped(wire, case):
    interim = b'HTTP/1.1 ' + case + b'\r\nA: b\r\n\r\n'
    outcome = fetch(wire, [(interim * 100 + NEXT) * 2], 2)
    assert outcome.error is None
    assert [a.body for a in outcome.answers] == [b'next', b'next']


def test_101_interim_responses_are_invalid(wire):
    outcome = fetch(wire, [b'HTTP/1.1 102 Processing\r\n\r\n' * 101 + NEXT])
    assert not outcome.answers
    assert isinstance(outcome.error, InvalidResponse)


def test_interim_responses_before_and_after_a_100_are_counted_together(wire):
    interim = b'HTTP/1.1 102 Processing\r\n\r\n'
    wire.request('PUT', body=BodyFollowing(4), expect100=True)
    wire.feed(interim * 60 + b'HTTP/1.1 100 Continue\r\n\r\n')
    assert wire.conn.read_response().status == 100
    wire.conn.write(b'data')
    wire.feed(interim * 41 + NEXT)
    with pytest.raises(InvalidResponse):
        wire.conn.read_response()


# --- field lines (RFC 9112 section 5) ---


@rows(
    ([b'A: b'], [('A', 'b')]),
    ([b'A:b'], [('A', 'b')]),
    ([b'A:  \t b \t '], [('A', 'b')]),
    ([b'A:'], [('A', '')]),
    ([b'A: \t'], [('A', '')]),
    ([b'A: b:c'], [('A', 'b:c')]),
    ([b'A: b  c'], [('A', 'b  c')]),
    ([b'A: \xe4\xff'], [('A', '\xe4\xff')]),
    ([b'A: \xa0b\xa0'], [('A', '\xa0b\xa0')]),
    ([b"!#$%&'*+-.^_`|~09azAZ: b"], [("!#$%&'*+-.^_`|~09azAZ", 'b')]),
    ([b'A: b', b'a: c', b'B: d', b'A: e'], [('A', 'b'), ('a', 'c'), ('B', 'd'), ('A', 'e')]),
    ([b'A: b', b' c'], [('A', 'b c')]),
    ([b'A: b', b'\t \t c'], [('A', 'b c')]),
    ([b'A: b \t', b' c'], [('A', 'b c')]),
    ([b'A: b', b' c', b'\td'], [('A', 'b c d')]),
    ([b'A:', b' b'], [('A', 'b')]),
    ([b'A: b', b' c: d', b'E: f'], [('A', 'b c: d'), ('E', 'f')]),
    ([b'A: =?utf-8?q?=C3=BC?='], [('A', '=?utf-8?q?=C3=BC?=')]),
)
def test_fields_are_offered_as_sent(wire, feeding, case):
    lines, expected = case
    outcome = fetch(wire, feeding(fields(*lines, b'Content-Length: 5') + b'hello' + NEXT), 2)
    expect_answer(outcome, b'hello')
    assert outcome.answers[0].fields == [*expected, ('Content-Length', '5')]
    assert {type(value) for _, value in outcome.answers[0].fields} == {str}


@rows(
    *[b'A : b', b'A\t: b', b': b', b':', b'A', b'A b', b'A b: c', b'A\0: b', b'A\x01: b'],
    *[b'A\x7f: b'],
    *[b'\xe4: b', b'(A): b', b'A"B": c', b'A,B: c', b'A/B: c', b'A@B: c', b'A\x0b: b'],
    *[b'A\xa0: b'],
    *[b'A: b\0c', b'A: \0', b'A: b\rc', b'A: b\r', b'A: \r', b'\r', b'A\r: b', b'\0'],
    *[b'HTTP/1.1 200 OK'],
)
@pytest.mark.parametrize('place', ['first', 'last'])
def test_malformed_field_lines_are_invalid(wire, feeding, case, place):
    lines = [case, b'Content-Length: 5']
    head = fields(*(lines if place == 'first' else reversed(lines)))
    expect_bad_head(wire, feeding(head + b'hello' + NEXT))


@rows(b' A: b', b'\tA: b', b' ', b'\t', b'  x')
def test_whitespace_before_the_first_field_is_invalid(wire, feeding, case):
    expect_bad_head(wire, feeding(fields(case, b'Content-Length: 5') + b'hello' + NEXT))


@rows(
    b'HTTP/1.1 200 OK\nContent-Length: 5\n\nhello',
    b'HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\n\r\nhello',
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\nhello',
    b'HTTP/1.1 200 OK\r\nContent-Length: 5\n\nhello',
    b'HTTP/1.1 200 OK\r\nA: b\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 200 OK\r\nA: b\n c\r\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 200 OK\r\n\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 200\nContent-Length: 5\r\n\r\nhello',
    b'HTTP/1.1 200 OK\n\n',
)
def test_a_bare_line_feed_in_a_head_is_invalid(wire, feeding, case):
    expect_bad_head(wire, feeding(case + NEXT))


@rows(
    b'5\nhello\r\n0\r\n\r\n',
    b'5 \nhello\r\n0\r\n\r\n',
    b'5X\nhello\r\n0\r\n\r\n',
    b'5\r\nhello\n0\r\n\r\n',
    b'5\r\nhello\r\n0\n\r\n',
    b'5\r\nhello\r\n0\r\n\n',
    b'5\r\nhello\r\n0\r\nA: b\n\r\n',
    b'5;a\nb\r\nhello\r\n0\r\n\r\n',
)
def test_a_bare_line_feed_in_a_chunked_body_is_invalid(wire, feeding, case):
    outcome = fetch(wire, feeding(CHUNKED + case + NEXT), 2)
    assert not outcome.answers
    assert isinstance(outcome.error, InvalidResponse)


@rows(
    *[b'close', b'Close', b'CLOSE', b'close ', b'close\t', b'keep-alive, close', b'x,Close , y'],
    *[b'close,'],
)
def test_connection_is_a_list_of_options_in_any_case(wire, feeding, case):
    outcome = fetch(wire, feeding(fields(b'Connection: ' + case) + b'hello'), 2)
    expect_answer(outcome, b'hello', then=False)
    assert len(outcome.answers) == 1
    assert isinstance(outcome.error, ConnectionClosed)


def test_connection_may_be_several_fields(wire, feeding):
    head = fields(b'Connection: keep-alive', b'connection: close')
    expect_answer(fetch(wire, feeding(head + b'hello')), b'hello', then=False)


@rows(b'closed', b'xclose', b'close;x', b'"close"', b'clo se', b'keep-alive')
def test_other_connection_options_do_not_close(wire, feeding, case):
    head = fields(b'Connection: ' + case, b'Content-Length: 5')
    expect_answer(fetch(wire, feeding(head + b'hello' + NEXT), 2), b'hello')


# --- status line (RFC 9112 section 4) ---


@rows(
    (b'HTTP/1.1 200 OK', 200, 'OK'),
    (b'HTTP/1.0 200 OK', 200, 'OK'),
    (b'HTTP/1.2 200 OK', 200, 'OK'),
    (b'HTTP/1.9 200 OK', 200, 'OK'),
    (b'HTTP/1.1 200 ', 200, ''),
    (b'HTTP/1.1 200', 200, ''),
    (b'HTTP/1.1 200 Not  really\tOK', 200, 'Not  really\tOK'),
    (b'HTTP/1.1 200 \xfcber', 200, '\xfcber'),
    (b'HTTP/1.1 200  \tOK', 200, 'OK'),
    (b'HTTP/1.1 200 O\x0bK\x1b', 200, 'O\x0bK\x1b'),
    (b'HTTP/1.1 299 x', 299, 'x'),
    (b'HTTP/1.1 600 x', 600, 'x'),
    (b'HTTP/1.1 999 x', 999, 'x'),
    (b'HTTP/1.1 404 HTTP/1.1 200 OK', 404, 'HTTP/1.1 200 OK'),
)
def test_status_lines_that_are_taken(wire, feeding, case):
    line, status, reason = case
    head = fields(b'Content-Length: 5', b'Connection: keep-alive', status=line + b'\r\n')
    outcome = fetch(wire, feeding(head + b'hello' + NEXT), 2)
    expect_answer(outcome, b'hello')
    assert outcome.answers[0][:2] == (status, reason)


@rows(b'HTTP/1.1', b'HTTP/1.2', b'HTTP/1.9')
def test_later_minor_versions_are_persistent(wire, feeding, case):
    head = fields(b'Content-Length: 5', status=case + b' 200 OK\r\n')
    expect_answer(fetch(wire, feeding(head + b'hello' + NEXT), 2), b'hello')


def test_http_1_0_is_not_persistent(wire, feeding):
    head = fields(b'Content-Length: 5', status=b'HTTP/1.0 200 OK\r\n')
    outcome = fetch(wire, feeding(head + b'hello' + NEXT), 2)
    assert [a.body for a in outcome.answers] == [b'hello']
    assert isinstance(outcome.error, ConnectionClosed)


BAD_STATUS_LINES = [
    *[b'HTTP/1.1  200 OK', b'HTTP/1.1 20 OK', b'HTTP/1.1 2000 OK', b'HTTP/1.1 099 OK'],
    *[b'HTTP/1.1 000 OK'],
    *[b'HTTP/1.1 -20 OK', b'HTTP/1.1 +20 OK', b'HTTP/1.1 2 0 OK', b'HTTP/1.1 \xb2\xb2\xb2 OK'],
    *[b'HTTP/1.1 20a OK', b'HTTP/1.1 0x2 OK', b'HTTP/1.1 2_0 OK', b'HTTP/1.1\t200 OK'],
    *[b'HTTP/1.1 200OK'],
    *[b'HTTP/1.1 200\tOK', b'HTTP/1.1', b'HTTP/1.1 ', b'HTTP/1.1 OK', b'HTTP/1.1200 OK'],
    *[b'HTTP/1.10 200 OK'],
    *[b'HTTP/11 200 OK', b'HTTP/1. 200 OK', b'HTTP/.1 200 OK', b'HTTP/1 200 OK'],
    *[b'HTTP/1,1 200 OK'],
    *[b'HTTP/01.1 200 OK', b'HTTP/1.a 200 OK', b'HTTP/1.\xb2 200 OK', b'HTTP/-1.1 200 OK'],
    *[b'HTTP/1.1 200 O\0K'],
    *[b'HTTP/1.1 200 O\rK', b'HTTP/1.1 200\r', b'HTTP/1.1 200 \0', b'HTTP/1.1 200 OK\r'],
    *[b'HTTP/2 200 OK', b'HTTP/2.0 200 OK', b'HTTP/3 200', b'HTTP/0.9 200 OK', b'HTTP/9.9 200 OK'],
    *[b'ICY 200 OK', b'<html>', b'<!DOCTYPE html>', b'http/1.1 200 OK', b'HTTPS/1.1 200 OK'],
    *[b' HTTP/1.1 200 OK'],
    *[b'', b'\0', b'SSH-2.0-OpenSSH', b'220 ready', b'\x15\x03\x01\x00\x02\x02\x46', b'\r'],
    *[b'XHTTP/1.1 200 OK'],
    *[b'HTTP /1.1 200 OK', b'HTTP\\1.1 200 OK', b'H', b'HTTP', b'GET / HTTP/1.1'],
]


@rows(*BAD_STATUS_LINES)
def test_other_status_lines_are_refused(wire, feeding, case):
    stream = case + b'\r\nContent-Length: 5\r\n\r\nhello' + NEXT
    outcome = fetch(wire, feeding(stream), 2)
    assert not outcome.answers
    assert isinstance(outcome.error, (InvalidResponse, UnsupportedResponse))


@rows(*BAD_STATUS_LINES)
def test_a_refused_status_line_is_refused_as_soon_as_it_is_there(wire, case):
    """The server sends that line and nothing else, and does not close."""
    wire.request()
    wire.feed(case + b'\r\n')
    wire.conn.timeout = 2
    with pytest.raises((InvalidResponse, UnsupportedResponse)) as caught:
        wire.conn.read_response()
    # The message shows the beginning of the line.
    assert repr(case[:20])[2:-1] in str(caught.value)


@rows(
    *[b'HTTP/2', b'HTTP/2.0 200', b'HTTP/3', b'HTTP/0.9', b'ICY', b'<html>', b'SSH-2'],
    *[b'\x15\x03\x01'],
)
def test_other_protocols_are_refused_without_a_line_end(wire, case):
    wire.request()
    wire.feed(case)
    wire.conn.timeout = 2
    with pytest.raises((InvalidResponse, UnsupportedResponse)):
        wire.conn.read_response()


@rows(b'HTTP/2', b'HTTP/2.0', b'HTTP/3', b'ICY', b'RTSP/1.0', b'<html>')
def test_what_is_not_http_1_is_unsupported(wire, feeding, case):
    outcome = fetch(wire, feeding(case + b' 200 OK\r\n\r\n'))
    assert isinstance(outcome.error, UnsupportedResponse)


@rows(
    *[b'', b'H', b'HTTP/1.', b'HTTP/1.1 200', b'HTTP/1.1 200 OK\r', OK],
    *[OK + b'A: b', OK + b'A: b\r\n', OK + b'A: b\r\n\r'],
)
def test_the_end_inside_a_head_is_connection_closed(wire, feeding, case):
    outcome = fetch(wire, feeding(case))
    assert not outcome.answers
    assert isinstance(outcome.error, ConnectionClosed)


# --- 101 Switching Protocols (RFC 9110 section 15.2.2) ---

SWITCHING = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: upgrade\r\n\r\n'


def http_calls(conn: dugong.HTTPConnection) -> List[Callable[[], Any]]:
    """Every call that sends or reads HTTP, blocking and as a coroutine."""
    buf = bytearray(10)
    calls = [
        ('send_request', ('GET', '/')),
        ('write', (b'data',)),
        ('read_response', ()),
        ('read', (10,)),
        ('read', ()),
        ('readinto', (buf,)),
        ('readall', ()),
        ('discard', ()),
    ]
    result: List[Callable[[], Any]] = []
    for name, args in calls:
        result.append(lambda name=name, args=args: getattr(conn, name)(*args))
        result.append(
            lambda name=name, args=args: dugong.eval_coroutine(
                getattr(conn, 'co_' + name)(*args), LIMIT
            )
        )
    return result


def test_101_is_returned_if_the_request_asked_for_it(wire, feeding):
    wire.request(headers=UPGRADE)
    resp = wire.drive(wire.conn.co_read_response(), feeding(SWITCHING))
    assert (resp.status, resp.length) == (101, 0)


def test_after_101_read_raw_gives_the_bytes(wire):
    wire.request(headers=UPGRADE)
    wire.feed(SWITCHING + b'raw bytes')
    assert wire.conn.read_response().status == 101
    assert wire.conn.read_raw(3) == b'raw'
    assert wire.conn.read_raw(100) == b' bytes'
    wire.feed(b'\0more')
    assert wire.conn.read_raw(100) == b'\0more'
    wire.end()
    assert wire.conn.read_raw(100) == b''


@pytest.mark.parametrize('raw', [False, True], ids=['at once', 'after read_raw'])
def test_after_101_every_http_call_is_a_state_error(wire, raw):
    wire.request(headers=UPGRADE)
    wire.feed(SWITCHING + NEXT)
    assert wire.conn.read_response().status == 101
    if raw:
        assert wire.conn.read_raw(1) == b'H'
    for call in http_calls(wire.conn):
        with pytest.raises(StateError):
            call()


def test_101_out_of_the_blue_is_unsupported(wire, feeding):
    outcome = fetch(wire, feeding(SWITCHING + NEXT))
    assert not outcome.answers
    assert isinstance(outcome.error, UnsupportedResponse)


def test_an_upgrade_that_the_server_ignores_is_an_ordinary_request(wire, feeding):
    outcome = fetch(wire, feeding(NEXT + NEXT), 2, headers=UPGRADE)
    assert [a.body for a in outcome.answers] == [b'next', b'next']


# --- octets beyond the end (SPEC section 5) ---

FORGED = OK + b'Content-Length: 6\r\n\r\nforged'
STATUS_408 = b'HTTP/1.1 408 Request Timeout\r\n'
TIMEOUT_408 = fields(b'Connection: close', b'Content-Length: 4', status=STATUS_408) + b'idle'

COMPLETE = {
    'length': fields(b'Content-Length: 5') + b'hello',
    'chunked': CHUNKED + b'5\r\nhello\r\n0\r\n\r\n',
    'empty': fields(b'Content-Length: 0'),
    '204': fields(status=b'HTTP/1.1 204 X\r\n'),
    '304': fields(b'Content-Length: 5', status=b'HTTP/1.1 304 X\r\n'),
}

LEFTOVERS = [
    *[b'X', b'\r\n', b'\n', b'\0', FORGED, FORGED[:20], b'HTTP/1.1 102 Processing\r\n\r\n'],
    # Only a complete 408 that closes the connection is an answer nobody asked for.
    TIMEOUT_408.replace(b'Connection: close\r\n', b''),
    TIMEOUT_408.replace(b'408', b'200'),
    TIMEOUT_408.replace(b'408', b'503'),
    TIMEOUT_408[:30],
    TIMEOUT_408[:-5],
    b'\r\n' + TIMEOUT_408,
]


@rows(*LEFTOVERS)
@pytest.mark.parametrize('response', COMPLETE)
@pytest.mark.parametrize('arrival', ['same segment', 'later segment'])
def test_octets_beyond_the_end_never_answer_the_next_request(wire, case, response, arrival):
    wire.request()
    stream = COMPLETE[response]
    wire.feed(stream + case if arrival == 'same segment' else stream)
    wire.conn.read_response()
    assert wire.conn.readall() == (b'hello' if b'hello' in stream else b'')
    if arrival != 'same segment':
        wire.feed(case)
    with pytest.raises(ConnectionClosed):
        wire.conn.send_request('GET', '/next')
        wire.conn.read_response()
    # It stays like that.
    with pytest.raises(ConnectionClosed):
        wire.conn.read_response()
    assert wire.conn._sock is None or not wire.conn.response_pending()


@rows(b'X', FORGED)
def test_after_octets_beyond_the_end_a_reset_helps(wire, case):
    wire.request()
    wire.feed(COMPLETE['length'] + case)
    wire.conn.read_response()
    wire.conn.readall()
    with pytest.raises(ConnectionClosed):
        wire.conn.send_request('GET', '/next')
        wire.conn.read_response()
    wire.conn.reset()
    assert fetch(wire, [NEXT]).answers[0].body == b'next'


@rows(b'X', FORGED)
def test_octets_beyond_a_head_response_never_answer_the_next_request(wire, case):
    wire.request('HEAD')
    wire.feed(fields(b'Content-Length: 5') + case)
    wire.conn.read_response()
    with pytest.raises(ConnectionClosed):
        wire.conn.send_request('GET', '/next')
        wire.conn.read_response()


@rows(b'X', b'\r\n', FORGED)
def test_octets_that_wait_before_the_first_request_never_answer_it(wire, case):
    wire.connect()
    wire.feed(case)
    with pytest.raises(ConnectionClosed):
        wire.conn.send_request('GET', '/')
        wire.conn.read_response()


@rows(
    TIMEOUT_408,
    TIMEOUT_408.replace(b'close', b'Keep-Alive, Close'),
    fields(b'Connection: close', status=STATUS_408) + b'idle',
    fields(status=b'HTTP/1.0 408 X\r\n') + b'idle',
    fields(b'Connection: close', b'Transfer-Encoding: chunked', status=STATUS_408)
    + b'4\r\nidle\r\n0\r\n\r\n',
)
@pytest.mark.parametrize('arrival', ['same segment', 'later segment'])
@pytest.mark.parametrize('response', COMPLETE)
def test_a_complete_408_that_closes_is_delivered(wire, case, response, arrival):
    """Some servers announce an idle timeout that way."""
    wire.request()
    stream = COMPLETE[response]
    wire.feed(stream + case if arrival == 'same segment' else stream)
    wire.conn.read_response()
    wire.conn.readall()
    if arrival != 'same segment':
        wire.feed(case)
    wire.end()
    wire.conn.send_request('GET', '/next')
    resp = wire.conn.read_response()
    assert (resp.status, resp.path) == (408, '/next')
    assert wire.conn.readall() == b'idle'
    wire.conn.send_request('GET', '/third')
    with pytest.raises(ConnectionClosed):
        wire.conn.read_response()


def test_a_408_with_half_a_body_is_not_complete(wire):
    wire.request()
    wire.feed(NEXT + TIMEOUT_408[:-1])
    wire.end()
    wire.conn.read_response()
    wire.conn.readall()
    wire.conn.send_request('GET', '/next')
    with pytest.raises(ConnectionClosed):
        wire.conn.read_response()
        wire.conn.readall()


def test_leftovers_of_a_pipeline_are_noticed_after_its_last_answer(wire, feeding):
    """Before that they are, as far as anybody can know, the next answer."""
    outcome = fetch(wire, feeding(NEXT + NEXT + FORGED), 2)
    assert outcome.error is None
    assert [a.body for a in outcome.answers] == [b'next', b'next']


def test_one_octet_too_many_inside_a_pipeline_damages_no_answer(wire, feeding):
    outcome = fetch(wire, feeding(NEXT + b'X' + FORGED), 2)
    assert [a.body for a in outcome.answers] == [b'next']
    assert isinstance(outcome.error, (InvalidResponse, UnsupportedResponse))


# --- broken stays broken ---

FRAMING_ERRORS = {
    'status line': (b'HTTP/1.1 20 OK\r\n\r\n', InvalidResponse),
    'not HTTP/1': (b'HTTP/2 200 OK\r\n\r\n', UnsupportedResponse),
    'field line': (OK + b'A : b\r\n\r\n', InvalidResponse),
    'content-length': (fields(b'Content-Length: +5'), InvalidResponse),
    'transfer-encoding': (fields(b'Transfer-Encoding: gzip'), InvalidResponse),
    'chunk size': (CHUNKED + b'+5\r\nhello', InvalidResponse),
    'chunk size later': (CHUNKED + b'5\r\nhello\r\n-1\r\n', InvalidResponse),
    'chunk end': (CHUNKED + b'5\r\nhelloXX', InvalidResponse),
    'trailer': (CHUNKED + b'0\r\nA : b\r\n\r\n', InvalidResponse),
    'interim': (b'HTTP/1.1 102 X\r\n\r\n' * 101, InvalidResponse),
    '101': (SWITCHING, UnsupportedResponse),
    'no framing': (fields(b'A: b'), UnsupportedResponse),
}


@pytest.mark.slow
@rows(*itertools.product(FRAMING_ERRORS, ['readall', 'read', 'readinto', 'discard']))
def test_a_framing_error_lasts_until_reset(wire, feeding, case):
    error, form = case
    stream, kind = FRAMING_ERRORS[error]
    outcome = fetch(wire, feeding(stream + NEXT * 3), 3, form)
    assert not outcome.answers
    assert type(outcome.error) is kind
    conn = wire.conn
    for call in http_calls(conn):
        with pytest.raises(kind) as caught:
            call()
        assert type(caught.value) is kind
        assert str(caught.value)
    conn.reset()
    outcome = fetch(wire, feeding(NEXT))
    assert outcome.error is None
    assert outcome.answers[0].body == b'next'


@rows(*FRAMING_ERRORS)
def test_close_disconnects_after_a_framing_error(wire, case):
    stream, _ = FRAMING_ERRORS[case]
    assert fetch(wire, [stream]).error is not None
    wire.conn.close()
    assert wire.conn._sock is None


HEAD_ERRORS = [
    *[b'nonsense\r\n\r\n', b'HTTP/1.1 20 OK\r\n\r\n', b'HTTP/1.1 200 OK\r\nA : b\r\nC: d\r\n\r\n'],
    *[b'HTTP/1.1 200 OK\nA: b\n\n', b'HTTP/1.1 200 OK\r\nA: b\nC: d\r\n\r\n'],
    *[b'HTTP/2 200 OK\r\n\r\n'],
]


@rows(*HEAD_ERRORS)
def test_read_raw_shows_every_byte_of_a_wrong_head(wire, feeding, case):
    wire.request()
    pieces = iter(feeding(case + b'THE REST'))
    with pytest.raises((InvalidResponse, UnsupportedResponse)):
        wire.drive(wire.conn.co_read_response(), pieces)
    for piece in pieces:
        wire.feed(piece)
    wire.end()
    seen = b''
    while True:
        piece = wire.conn.read_raw(5)
        if not piece:
            break
        seen += piece
    assert seen == case + b'THE REST'


@pytest.mark.parametrize('trailers', [b'', b'X: y\r\n'])
def test_read_raw_shows_nothing_of_the_response_before(wire, trailers):
    wire.request()
    wire.feed(fields(b'Transfer-Encoding: chunked') + b'4\r\nbody\r\n0\r\n' + trailers + b'\r\n')
    wire.conn.read_response()
    assert wire.conn.readall() == b'body'
    wire.request()
    wire.feed(b'nonsense\r\n\r\n')
    with pytest.raises(UnsupportedResponse):
        wire.conn.read_response()
    assert wire.conn.read_raw(100) == b'nonsense\r\n\r\n'


@pytest.mark.parametrize(
    'understood, unread',
    [
        (b'', b'HTTP/1.1 200 OK\r\nConte'),
        (fields(b'Content-Length: 5') + b'body', b''),
        (fields(b'Transfer-Encoding: chunked') + b'4\r\nbody\r\n', b'1'),
        (fields(b'Transfer-Encoding: chunked') + b'4\r\nbody\r\n0\r\n', b'X: y\r\nZ'),
    ],
)
def test_read_raw_shows_what_a_read_that_timed_out_has_taken(wire, understood, unread):
    wire.conn.timeout = 0.01
    wire.request()
    wire.feed(understood + unread)
    with pytest.raises(ConnectionTimedOut):
        wire.conn.read_response()
        while True:
            wire.conn.read(10)
    wire.feed(b' and more')
    wire.conn.timeout = LIMIT
    raw = b''
    while not raw.endswith(b' and more'):
        piece = wire.conn.read_raw(5)
        assert piece
        raw += piece
    assert raw == unread + b' and more'


@rows(*FRAMING_ERRORS)
def test_read_raw_shows_what_the_server_sent(wire, case):
    stream, kind = FRAMING_ERRORS[case]
    assert type(fetch(wire, [stream + b'THE REST']).error) is kind
    seen = b''
    while not seen.endswith(b'THE REST'):
        piece = wire.conn.read_raw(100)
        assert piece
        seen += piece
    with pytest.raises((StateError, kind)):
        wire.conn.read_response()


# --- bodies that end with the connection (RFC 9112 section 6.3, 9.8) ---


def test_without_framing_the_body_is_unsupported(wire, feeding):
    outcome = fetch(wire, feeding(fields(b'A: b') + b'hello'))
    assert isinstance(outcome.error, UnsupportedResponse)


def test_assume_close_reads_such_a_body_until_the_end(wire, feeding):
    assert wire.conn.assume_close is False
    wire.conn.assume_close = True
    for form in ('readall', 'read', 'readinto'):
        outcome = fetch(wire, feeding(fields(b'A: b') + b'hello'), 2, form)
        expect_answer(outcome, b'hello', then=False)
        assert outcome.answers[0].length is None
        assert isinstance(outcome.error, ConnectionClosed)


@rows(
    fields(b'Content-Length: 5') + b'hello',
    CHUNKED + b'5\r\nhello\r\n0\r\n\r\n',
)
def test_assume_close_changes_nothing_for_framed_bodies(wire, feeding, case):
    wire.conn.assume_close = True
    expect_answer(fetch(wire, feeding(case + NEXT), 2), b'hello')


@rows(b'Transfer-Encoding: gzip', b'Content-Length: x', b'Transfer-Encoding:', b'Content-Length:')
def test_assume_close_does_not_excuse_bad_framing(wire, feeding, case):
    wire.conn.assume_close = True
    expect_bad_body(wire, feeding(fields(case) + b'hello'))


@rows('HEAD', '204', '304')
def test_assume_close_does_not_invent_bodies(wire, feeding, case):
    wire.conn.assume_close = True
    method = 'HEAD' if case == 'HEAD' else 'GET'
    head = fields(status=b'HTTP/1.1 %s X\r\n' % (b'200' if case == 'HEAD' else case.encode()))
    outcome = fetch(wire, feeding(head + head), 2, method=method)
    assert outcome.error is None
    assert [a.length for a in outcome.answers] == [0, 0]


@pytest.mark.parametrize('strict', [False, True])
def test_strict_eof_changes_nothing_without_tls(wire, strict):
    wire.conn.strict_eof = strict
    outcome = fetch(wire, [fields(b'Connection: close') + b'hello'])
    expect_answer(outcome, b'hello', then=False)


def test_a_reset_never_ends_a_body_until_close(wire):
    wire.request()
    wire.feed(fields(b'Connection: close') + b'hello')
    wire.conn.read_response()
    assert wire.conn.read(5) == b'hello'
    wire.hang_up()
    with pytest.raises(ConnectionClosed):
        wire.conn.read(5)


# --- TLS: truncation ---

TRUNCATED = {
    'length': fields(b'Content-Length: 10') + b'hello',
    'chunk data': CHUNKED + b'a\r\nhello',
    'chunk end': CHUNKED + b'5\r\nhello',
    'chunk size': CHUNKED + b'5\r\nhello\r\n',
    'last chunk': CHUNKED + b'5\r\nhello\r\n0\r\n',
    'head': OK + b'Content-Length: 5\r\n',
}


#: Set by CPython 3.8 and 3.9; ends with and without close_notify look the same then.
SSL_OP_IGNORE_UNEXPECTED_EOF = 0x80


def tls_ending(data: bytes, notify: bool) -> Callable[[Peer], None]:
    """Answer with *data* and end the connection with or without close_notify."""

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(data)
        if notify:
            unwrap(peer)
        peer.close()

    return handler


@pytest.mark.parametrize('notify', [True, False], ids=['close_notify', 'no close_notify'])
@rows(*itertools.product(TRUNCATED, ['readall', 'read', 'readinto', 'discard']))
def test_a_truncated_message_over_tls_is_connection_closed(connect, serve, notify, case):
    case, form = case
    conn = connect(serve(tls_ending(TRUNCATED[case], notify), tls=True))
    conn.send_request('GET', '/')
    data = bytearray()
    with pytest.raises(ConnectionClosed):
        conn.read_response()
        dugong.eval_coroutine(FORMS[form](conn, data), LIMIT)
    assert b'hello'.startswith(data)


@pytest.mark.parametrize('notify', [True, False], ids=['close_notify', 'no close_notify'])
@pytest.mark.parametrize('strict', [True, False], ids=['strict', 'tolerant'])
@pytest.mark.parametrize('form', ['readall', 'read', 'readinto', 'discard'])
def test_a_body_until_close_over_tls(connect, serve, certificates, notify, strict, form):
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context.options &= ~SSL_OP_IGNORE_UNEXPECTED_EOF
    server = serve(tls_ending(fields(b'Connection: close') + b'hello', notify), tls=True)
    conn = connect(server, ssl_context=context)
    assert conn.strict_eof is False
    conn.strict_eof = strict
    conn.send_request('GET', '/')
    conn.read_response()
    data = bytearray()
    if strict and not notify:
        with pytest.raises(ConnectionClosed):
            dugong.eval_coroutine(FORMS[form](conn, data), LIMIT)
        # An end that may be an attacker's is none, however often one asks.
        with pytest.raises(ConnectionClosed):
            conn.read(1)
    else:
        dugong.eval_coroutine(FORMS[form](conn, data), LIMIT)
        assert conn.read(1) == b''
        assert data == (b'' if form == 'discard' else b'hello')


@pytest.mark.parametrize('notify', [True, False], ids=['close_notify', 'no close_notify'])
def test_strict_eof_trusts_no_end_if_the_context_hides_how_it_came(
    connect, serve, certificates, notify
):
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context.options |= SSL_OP_IGNORE_UNEXPECTED_EOF
    server = serve(tls_ending(fields(b'Connection: close') + b'hello', notify), tls=True)
    conn = connect(server, ssl_context=context)
    conn.strict_eof = True
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.readall()


#: The most that one record can hold; a client looks for another one behind it.
TLS_RECORD = 1 << 14


@pytest.mark.parametrize('end', ['close_notify', 'no close_notify', 'garbage'])
@pytest.mark.parametrize('length', ['known', 'chunked', 'until close'])
def test_what_is_wrong_behind_tls_data_is_reported_after_the_data(connect, serve, end, length):
    begin = {
        'known': fields(b'Content-Length: %d' % (2 * TLS_RECORD)),
        'chunked': fields(b'Transfer-Encoding: chunked') + b'%x\r\n' % (2 * TLS_RECORD),
        'until close': fields(b'Connection: close'),
    }
    head_was_read = threading.Event()
    ended = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(begin[length])
        assert head_was_read.wait(LIMIT)
        peer.send(bytes(TLS_RECORD))
        if end == 'garbage':
            os.write(peer.sock.fileno(), bytes(100))
        elif end == 'close_notify':
            unwrap(peer)
        peer.close()
        ended.set()

    conn = connect(serve(handler, tls=True))
    conn.send_request('GET', '/')
    conn.read_response()
    head_was_read.set()
    # Now the data and what is behind them are there together.
    assert ended.wait(LIMIT)
    assert conn.read(4 * TLS_RECORD) == bytes(TLS_RECORD)
    if end == 'garbage':
        with pytest.raises(ssl.SSLError):
            conn.read(1)
    if end != 'garbage' and length == 'until close':
        assert conn.read(1) == b''
    else:
        with pytest.raises(ConnectionClosed):
            conn.read(1)


# --- a slow drip costs linear time ---

DRIPS = {
    'one long field line': lambda n: OK + b'A: ' + b'x' * n,
    'many short field lines': lambda n: OK + b'A: b\r\n' * (n // 6),
    'one long folded field': lambda n: OK + b'A: b\r\n' + b' x\r\n' * (n // 4),
    'long status line': lambda n: b'HTTP/1.1 200 ' + b'x' * n,
    'chunk extension': lambda n: CHUNKED + b'5;a="' + b'x' * n,
    'chunk extensions': lambda n: CHUNKED + b'5' + b';a' * (n // 2),
    'backslashes': lambda n: CHUNKED + b'5;a="' + b'\\x' * (n // 2),
    'trailers': lambda n: CHUNKED + b'0\r\n' + b'A: b\r\n' * (n // 6),
    'interim responses': lambda n: b'HTTP/1.1 102 Processing\r\n\r\n' * (n // 900),
    'whitespace': lambda n: OK + b'A: ' + b' ' * n,
    'carriage returns': lambda n: OK + b'A: ' + b'\r' * n,
}


def drip_time(wire: Wire, data: bytes, size: int) -> float:
    """Processor seconds to take *data* in pieces of *size* bytes, until it is refused or ends."""
    gc.collect()
    start = time.process_time()
    fetch(wire, split(data, size))
    return time.process_time() - start


@pytest.mark.slow
@pytest.mark.parametrize('case', DRIPS)
def test_a_slow_drip_costs_linear_time(wire, case):
    """Four times the data in pieces of the same size takes four times as long, not sixteen."""
    short = min(drip_time(wire, DRIPS[case](6000), 5) for _ in range(3))
    long = min(drip_time(wire, DRIPS[case](24000), 5) for _ in range(2))
    assert long < 9 * short + 0.05


# --- memory ---

ENDLESS = {
    'status line': (b'HTTP/1.1 200 ', b'x' * 65536),
    'field line': (OK + b'A: ', b'x' * 65536),
    'field lines': (OK, b'A: b\r\n' * 10000),
    'folds': (OK + b'A: b\r\n', b' b\r\n' * 10000),
    'interim': (b'', b'HTTP/1.1 102 Processing\r\n\r\n' * 2000),
    'chunk extension': (CHUNKED + b'1;a=', b'x' * 65536),
    'trailers': (CHUNKED + b'0\r\n', b'A: b\r\n' * 10000),
    'garbage': (b'\0', b'\0' * 65536),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', ENDLESS)
def test_an_endless_head_is_refused_with_bounded_memory(wire, case):
    start, more = ENDLESS[case]

    def endless() -> Iterator[bytes]:
        yield start
        for _ in range(64):
            yield from split(more, 32768)

    fetch(wire, [NEXT])
    tracemalloc.start()
    try:
        outcome = fetch(wire, endless())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert isinstance(outcome.error, (InvalidResponse, UnsupportedResponse))
    assert peak < 6 << 20


@pytest.mark.parametrize('form', ['read', 'readinto', 'discard'])
@pytest.mark.parametrize('framing', ['length', 'chunked', 'close'])
def test_a_large_body_in_small_reads_needs_little_memory(wire, form, framing):
    size = 40
    piece = b'x' * 16384
    heads = {
        'length': fields(b'Content-Length: %d' % (len(piece) * size)),
        'chunked': CHUNKED,
        'close': fields(b'Connection: close'),
    }

    def stream() -> Iterator[bytes]:
        yield heads[framing]
        for _ in range(size):
            yield b'4000\r\n' + piece + b'\r\n' if framing == 'chunked' else piece
        if framing == 'chunked':
            yield b'0\r\n\r\n'

    def consume(conn: dugong.HTTPConnection) -> Iterator[Any]:
        buf = bytearray(1000)
        if form == 'discard':
            yield from conn.co_discard()
        elif form == 'readinto':
            while (yield from conn.co_readinto(buf)):
                pass
        else:
            while (yield from conn.co_read(1000)):
                pass

    wire.request()
    pieces = stream()
    wire.drive(wire.conn.co_read_response(), pieces)
    tracemalloc.start()
    try:
        wire.drive(consume(wire.conn), pieces)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * 65536


# --- no credentials where they do not belong ---

SECRET = 'c2VjcmV0'
CREDENTIALS = CaseInsensitiveDict(
    {
        'Authorization': 'Basic ' + SECRET,
        'Proxy-Authorization': 'Basic ' + SECRET,
        'Cookie': 'session=' + SECRET,
    }
)


@rows(*FRAMING_ERRORS, 'none', 'closed', 'reset')
def test_no_credential_is_logged_or_in_an_exception(wire, caplog, case):
    error = case
    caplog.set_level(logging.DEBUG)
    wire.request(headers=CREDENTIALS)
    if error == 'reset':
        wire.hang_up()
    elif error != 'closed':
        wire.feed(NEXT if error == 'none' else FRAMING_ERRORS[error][0])
    if error != 'reset':
        wire.end()
    try:
        wire.conn.read_response()
        wire.conn.readall()
        assert error == 'none'
    except (ConnectionClosed, InvalidResponse, UnsupportedResponse) as exc:
        while exc is not None:
            assert SECRET not in repr(exc) + str(exc)
            exc = exc.__context__
    wire.conn.disconnect()
    assert SECRET not in caplog.text


@pytest.mark.parametrize('name', CREDENTIALS)
@rows('\n', '\r', '\0', '\x7f', '\u20ac')
def test_a_refused_credential_is_not_quoted(wire, caplog, name, case):
    caplog.set_level(logging.DEBUG)
    wire.connect()
    with pytest.raises(ValueError) as caught:
        wire.conn.send_request('GET', '/', headers={name: SECRET + case})
    exc = caught.value
    while exc is not None:
        assert SECRET not in repr(exc) + str(exc)
        exc = exc.__context__
    assert SECRET not in caplog.text


@pytest.mark.parametrize('name', CREDENTIALS)
def test_a_credential_that_cannot_become_a_string_is_not_quoted(wire, caplog, name):
    caplog.set_level(logging.DEBUG)
    wire.connect()
    with pytest.raises((TypeError, ValueError)):
        wire.conn.send_request('GET', '/', headers={name: CREDENTIALS[name]}, body='text')
    assert SECRET not in caplog.text


@rows(b'X', NEXT, b'\x15\x03\x01\x00\x02\x02\x46')
def test_octets_behind_the_answer_to_connect_are_invalid(certificates, case):
    def proxy(peer: Peer) -> None:
        peer.read_head()
        peer.send(b'HTTP/1.1 200 OK\r\n\r\n' + case)

    with ScriptedServer(proxy) as server, dugong.HTTPConnection(
        'localhost', 443, certificates.client_context, proxy=server.address
    ) as conn:
        conn.timeout = LIMIT
        with pytest.raises(InvalidResponse):
            conn.connect()


@rows(
    b'HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n',
    b'HTTP/1.1 200 OK\r\nA : b\r\n\r\n',
    b'SSH-2.0-OpenSSH\r\n',
    b'HTTP/1.1 200 OK\r\n\r\nnot TLS at all',
    b'',
)
def test_no_credential_for_a_proxy_is_logged_or_in_an_exception(certificates, caplog, case):
    caplog.set_level(logging.DEBUG)

    def proxy(peer: Peer) -> None:
        assert SECRET in peer.read_head().field('Proxy-Authorization')
        peer.send(case)

    with ScriptedServer(proxy) as server:
        conn = dugong.HTTPConnection(
            'localhost',
            443,
            certificates.client_context,
            proxy=server.address,
            proxy_headers={'Proxy-Authorization': 'Basic ' + SECRET},
        )
        conn.timeout = LIMIT
        with pytest.raises(Exception) as caught:
            conn.connect()
        conn.disconnect()
    exc: Any = caught.value
    while exc is not None:
        assert SECRET not in repr(exc) + str(exc)
        exc = exc.__context__
    assert SECRET not in caplog.text


# --- the documentation ---


def test_the_tests_that_the_documentation_names_exist():
    here = Path(__file__).parent
    page = (here.parent / 'doc' / 'conformance.rst').read_text()
    named = set(re.findall(r'``(test_\w+)``', page))
    assert len(named) > 70
    sources = ''.join(path.read_text() for path in here.glob('test_*.py'))
    assert named <= set(re.findall(r'^def (test_\w+)\(', sources, re.MULTILINE))


def test_interrupted_look_at_the_idle_connection_breaks_it(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been received by then may be lost, and with it that nobody has asked for it."""
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        assert go.wait(LIMIT)
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n')
        peer.read_to_eof()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    go.set()
    assert select.select([conn._sock], [], [], LIMIT)[0]
    with monkeypatch.context() as patch:
        patch.setattr('dugong._stream.Stream.try_receive', interrupted)
        with pytest.raises(KeyboardInterrupt):
            conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed, match='looking at the idle connection'):
        conn.send_request('GET', '/')
