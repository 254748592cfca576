"""The grammar room: tables of bytes and results, fed whole, bytewise and with trailing bytes."""

import contextlib
import itertools
import time
from typing import Any, List, Optional, Tuple

import pytest
from tables_support import rows

from dugong._buffer import _Buffer
from dugong._exceptions import InvalidResponse, UnsupportedResponse
from dugong._parser import (
    TOKEN_CHARACTERS,
    BlockReader,
    check_status_line,
    excerpt,
    parse_chunk_size,
    parse_content_length,
    parse_fields,
    parse_head,
    split_fields,
)

# --- status line ---


@rows(
    ('HTTP/1.1 200 OK', (1, 200, 'OK')),
    ('HTTP/1.0 200 OK', (0, 200, 'OK')),
    ('HTTP/1.9 200 OK', (9, 200, 'OK')),
    ('HTTP/1.1 200 ', (1, 200, '')),
    ('HTTP/1.1 200', (1, 200, '')),
    ('HTTP/1.1 100 ', (1, 100, '')),
    ('HTTP/1.1 999 \t\xff ', (1, 999, '\xff')),
    ('HTTP/1.1 200  two', (1, 200, 'two')),
)
def test_status_line(case):
    line, expected = case
    head = parse_head(line)
    assert (head.minor, head.status, head.reason) == expected
    assert head.fields == '' and head.framing == {}
    check_status_line(line.encode('latin1'))


@rows(
    *['HTTP/1.1', 'HTTP/1.1 ', 'HTTP/1.1 20', 'HTTP/1.1 2000', 'HTTP/1.1 099', 'HTTP/1.1 000'],
    *['HTTP/1.1  200', 'HTTP/1.1\t200', 'HTTP/1.1 -20', 'HTTP/1.1 +20', 'HTTP/1.1 \xb200'],
    *['HTTP/1.10 200', 'HTTP/1. 200', 'HTTP/1.\xb2 200', 'HTTP/1.x 200', 'HTTP/1.1 200 \0'],
    *['HTTP/1.1 200 \r', 'HTTP/1.1 200 a\nb', 'HTTP/1.1 200\tOK', 'HTTP/1.1 200OK'],
    *['HTTP/1.1 200\n'],
)
def test_invalid_status_line(case):
    with pytest.raises(InvalidResponse):
        check_status_line(case.encode('latin1'))
    with pytest.raises(InvalidResponse):
        parse_head(case + '\r\nA: b')


@rows(
    '', 'HTTP/2 200', 'HTTP/2.0 200', 'HTTP/0.9 200', 'HTTP/1', 'http/1.1 200', 'ICY 200', '<html>'
)
def test_unsupported_status_line(case):
    with pytest.raises(UnsupportedResponse):
        check_status_line(case.encode('latin1'))
    with pytest.raises(UnsupportedResponse):
        parse_head(case + '\r\nA: b')


def test_what_may_become_a_status_line_is_not_refused_before():
    line = b'HTTP/1.1 200 OK'
    for end in range(len(line)):
        check_status_line(line[:end], complete=False)


@rows(b'h', b'HTTP/2', b'HTTPS', b'\0', b' ', b'HX', b'ICY', b'HTTP/1,')
def test_what_cannot_become_a_status_line_is_refused_at_once(case):
    with pytest.raises(UnsupportedResponse):
        check_status_line(case, complete=False)


# --- fields ---

FIELDS = [
    ([], []),
    (['A: b'], [('A', 'b')]),
    (['A:b'], [('A', 'b')]),
    (['A: \t b \t'], [('A', 'b')]),
    (['A:'], [('A', '')]),
    (['A: :'], [('A', ':')]),
    (['A: \xa0\x0b\x85'], [('A', '\xa0\x0b\x85')]),
    (["!#$%&'*+-.^_`|~09azAZ:x"], [("!#$%&'*+-.^_`|~09azAZ", 'x')]),
    (['a: 1', 'B: 2', 'A: 3'], [('a', '1'), ('B', '2'), ('A', '3')]),
    (['A: b', ' c'], [('A', 'b c')]),
    (['A: b \t', '\t c'], [('A', 'b c')]),
    (['A: b', ' c', '\td', 'E: f'], [('A', 'b c d'), ('E', 'f')]),
    (['A:', ' b'], [('A', 'b')]),
    (['A: b', ' '], [('A', 'b')]),
    (['A: b', ' ', ' c'], [('A', 'b  c')]),
]

BAD_FIELDS = [
    *['A', 'A : b', 'A\t: b', ': b', ':', 'A b: c', '(A): b', 'A/B: c', '\xe4: b', 'A\0: b'],
    *['A\x7f: b', 'A: b\0', 'A: b\rc', 'A: \r', 'A: b\nc: d', 'A: b\n', '\n', '\r', ''],
]


def lines_of(lines: List[str]) -> str:
    return ''.join('\r\n' + line for line in lines)


@rows(*FIELDS)
def test_fields(case):
    lines, expected = case
    fields = parse_fields(lines_of(lines))
    assert split_fields(fields) == expected
    head = parse_head('HTTP/1.1 200 OK' + lines_of(lines))
    assert head.fields == fields


@rows(*BAD_FIELDS)
def test_invalid_fields(case):
    for lines in ([case], [case, 'C: d'], ['C: d', case], ['C: d', ' e', case]):
        with pytest.raises(InvalidResponse) as caught:
            parse_fields(lines_of(lines))
        assert repr(case.partition('\n')[0].encode('latin1'))[2:-1] in str(caught.value)
        with pytest.raises(InvalidResponse):
            parse_head('HTTP/1.1 200 OK' + lines_of(lines))


@rows(' A: b', '\tA: b', ' ', '\t')
def test_a_continuation_of_nothing_is_invalid(case):
    with pytest.raises(InvalidResponse):
        parse_fields(lines_of([case]))
    with pytest.raises(InvalidResponse):
        parse_fields(lines_of([case, 'C: d']))
    with pytest.raises(InvalidResponse):
        parse_head('HTTP/1.1 200 OK' + lines_of([case, 'C: d']))


def test_tokens_are_those_of_the_grammar():
    special = "!#$%&'*+-.^_`|~"
    for code in range(256):
        char = chr(code)
        if char in special or (char.isascii() and char.isalnum()):
            assert split_fields(parse_fields(f'\r\n{char}:')) == [(char, '')]
        else:
            with pytest.raises(InvalidResponse):
                parse_fields(f'\r\n{char}:')
    assert TOKEN_CHARACTERS.replace('\\', '').startswith(special[:6])


def test_values_hold_every_octet_but_three():
    for code in set(range(256)) - {0, 10, 13}:
        char = chr(code)
        expected = '' if char in ' \t' else char
        assert split_fields(parse_fields(f'\r\nA:{char}')) == [('A', expected)]


def test_values_of_a_framing_field_in_lower_case_and_in_order():
    lines = ['Connection: One', 'Connections: x', 'coNNection:\t TWO ', 'X: connection: no']
    head = parse_head('HTTP/1.1 200 OK' + lines_of([*lines, 'CONNECTION:']))
    assert head.framing == {'connection': 'one, two, '}


def test_members_of_a_list_field():
    head = parse_head(
        'HTTP/1.1 200 OK\r\nConnection: b, C ,,\td\r\nconnection:\r\nConnection: e f,'
    )
    assert head.members('connection') == ['b', 'c', 'd', 'e f']
    assert head.members('transfer-encoding') == []


def cpu_time(function: Any, *args: Any) -> float:
    def once() -> float:
        start = time.process_time()
        with contextlib.suppress(InvalidResponse):
            function(*args)
        return time.process_time() - start

    return min(once() for _ in range(3))


@rows(
    ('whitespace before a fold', lambda n: '\r\nA: ' + ' ' * n + 'x\r\n b'),
    ('whitespace between folds', lambda n: '\r\nA: b' + ('\r\n' + ' ' * 100) * (n // 102)),
    ('whitespace in a fold', lambda n: '\r\nA: b\r\n ' + '\t ' * (n // 2)),
    ('folds', lambda n: '\r\nA: b' + '\r\n c' * (n // 4)),
    ('one bad line', lambda n: '\r\nA: b' * (n // 6) + '\r\nA'),
    ('a long bad name', lambda n: '\r\n' + 'A' * n),
    ('a long bad value', lambda n: '\r\nA:' + 'b' * n + '\0'),
)
def test_folding_is_linear(case):
    _, make = case
    short = cpu_time(parse_fields, make(4000))
    long = cpu_time(parse_fields, make(32000))
    assert long < 20 * short + 0.02


# --- chunk size ---


@rows(
    *[(b'0', 0), (b'5', 5), (b'a', 10), (b'F', 15), (b'1f', 31), (b'00000000000000ff', 255)],
    *[(b'f' * 16, 16**16 - 1), (b'5;a', 5), (b'5;a=b', 5), (b'5;a="b"', 5), (b'5 ; a = b', 5)],
    *[(b'5\t;\ta\t=\t"b"', 5), (b'5;a="x;y"', 5), (b'5;a="\\"";b', 5), (b'5;a="\\\\"', 5)],
    *[(b'5;a;b=c;d="e"', 5), (b'5;a=""', 5), (b'5;a="\t \xff"', 5), (b'5;a="\\\t"', 5)],
)
def test_chunk_size(case):
    line, expected = case
    assert parse_chunk_size(line) == expected
    assert parse_chunk_size(bytearray(line)) == expected


@rows(
    *[b'', b'g', b'+5', b'-5', b'0x5', b'5_0', b' 5', b'\t5', b'5 5', b'5.0', b'\xb2', b'5,'],
    *[b'0' * 17],
    *[b'5\r', b'5\n', b'5\0', b'5;a\0', b'5;a\r', b'5;a\nb', b'5;a="b', b'5;a="b\\"', b'5;a="\0"'],
    *[b'5;a="\n"', b'5;a="\x7f"', b'5;a="\\\0"', b'5"', b'5 a', b'5;"a"', b'5;a=b c', b'5=a'],
    *[b';a', b'5\x0c'],
    *[b'5\xa0', b'5;\xe4', b'5;a="b"c'],
)
def test_invalid_chunk_size(case):
    with pytest.raises(InvalidResponse) as caught:
        parse_chunk_size(case)
    assert repr(case) in str(caught.value)


@rows(
    ('one long name', lambda n: b'5;' + b'a' * n + b'\0'),
    ('many names', lambda n: b'5' + b';a' * (n // 2) + b'\0'),
    ('a long string', lambda n: b'5;a="' + b'b' * n),
    ('backslashes', lambda n: b'5;a="' + b'\\' * n),
    ('whitespace', lambda n: b'5' + b' ' * n + b'x'),
    ('whitespace after a name', lambda n: b'5;a' + b' ' * n + b'x'),
    ('whitespace everywhere', lambda n: b'5' + b' ; a = b' * (n // 8) + b'\0'),
)
def test_chunk_extensions_are_linear(case):
    _, make = case
    short = cpu_time(parse_chunk_size, make(4000))
    long = cpu_time(parse_chunk_size, make(32000))
    assert long < 20 * short + 0.02


# --- Content-Length ---


@rows(
    *[(['5'], 5), (['0'], 0), (['005'], 5), (['9' * 18], 10**18 - 1), (['5', '5'], 5)],
    *[(['5, 5'], 5), (['5,5', '5'], 5), (['5 ,\t5'], 5), (['05', '5'], 5)],
)
def test_content_length(case):
    values, expected = case
    assert parse_content_length(', '.join(values)) == expected


@rows(
    *[[''], ['+5'], ['-5'], [' +5'], ['5_0'], ['0x5'], ['\xb2'], ['\u0665'], ['5.'], ['five']],
    *[['5 5']],
    *[['9' * 30], ['0' * 29 + '5'], ['5,'], [',5'], ['5,,5'], ['5', ''], ['\xa05'], ['5\x0b']],
    *[['5;']],
    *[['5', '6'], ['5, 6'], ['5', '5, 6'], ['5', 'x'], ['0', '5']],
)
def test_invalid_content_length(case):
    with pytest.raises(InvalidResponse) as caught:
        parse_content_length(', '.join(case))
    assert 'Content-Length' in str(caught.value)


# --- blocks of lines ---

BLOCKS = [
    (b'HTTP/1.1 200 OK\r\n\r\n', 'HTTP/1.1 200 OK'),
    (b'HTTP/1.1 200 OK\r\nA: b\r\n\r\n', 'HTTP/1.1 200 OK\r\nA: b'),
    (b'HTTP/1.1 200\r\nA: b\r\n c\r\nD: \xff\r\n\r\n', 'HTTP/1.1 200\r\nA: b\r\n c\r\nD: \xff'),
]
TRAILERS = [
    (b'\r\n', ''),
    (b'A: b\r\n\r\n', 'A: b'),
    (b'A: b\r\nC: d\r\n\r\n', 'A: b\r\nC: d'),
    (b'anything \0\r goes\r\n\r\n', 'anything \0\r goes'),
]
#: What may follow without being looked at.
TRAILING = [b'', b'X', b'\r\n', b'HTTP/1.1 200 OK\r\n\r\n']
#: How many bytes there are in the buffer at a time, and its size.
FEEDINGS = [(10000, 10000), (1, 10000), (1, 63), (2, 10000), (7, 63), (63, 63)]


def feed(reader: BlockReader, data: bytes, step: int, size: int) -> Tuple[Optional[str], bytes]:
    """Feed *data* in pieces of *step* bytes; return the result and the bytes not taken."""
    buf = _Buffer(size)
    while data:
        space = buf.space()
        piece = data[: min(step, len(space))]
        space[: len(piece)] = piece
        buf.e += len(piece)
        data = data[len(piece) :]
        result = reader.feed(buf)
        if result is not None:
            return result, bytes(buf.exhaust()) + data
        assert not len(buf)
    return None, b''


@rows(*itertools.product(FEEDINGS, TRAILING, [True, False]))
def test_blocks_end_with_an_empty_line(case):
    feeding, trailing, has_status_line = case
    for data, expected in BLOCKS if has_status_line else TRAILERS:
        reader = BlockReader(has_status_line, 1000, 1000)
        assert feed(reader, data + trailing, *feeding) == (expected, trailing)


@rows(*FEEDINGS)
def test_incomplete_blocks_need_more(case):
    for has_status_line, table in ((True, BLOCKS), (False, TRAILERS)):
        for data, _ in table:
            for end in range(len(data)):
                reader = BlockReader(has_status_line, 1000, 1000)
                assert feed(reader, data[:end], *case) == (None, b'')
                assert reader.collected() == data[:end]


BAD_BLOCKS = [
    (True, b'I', UnsupportedResponse),
    (True, b'HTTP/2', UnsupportedResponse),
    (True, b'\r', UnsupportedResponse),
    (True, b'\n', UnsupportedResponse),
    (True, b'X', UnsupportedResponse),
    (True, b'HTTP/1.1 2 OK\r\n', InvalidResponse),
    (True, b'HTTP/1.1 200 OK\n', InvalidResponse),
    (True, b'HTTP/1.1 200 OK\r\nA: b\n', InvalidResponse),
    (True, b'HTTP/1.1 200 OK\r\n\n', InvalidResponse),
    (True, b'HTTP/1.1 200 OK\r\nA: b\r\n\n', InvalidResponse),
    (False, b'\n', InvalidResponse),
    (False, b'A: b\n', InvalidResponse),
    (False, b'A: b\r\n\n', InvalidResponse),
]


@rows(*FEEDINGS)
def test_bad_blocks_are_refused_as_soon_as_possible(case):
    for has_status_line, data, kind in BAD_BLOCKS:
        reader = BlockReader(has_status_line, 1000, 1000)
        with pytest.raises(kind):
            feed(reader, data, *case)
        # Nothing is lost: it can be shown to the caller.
        assert data.startswith(reader.collected())
        # And not before.
        reader = BlockReader(has_status_line, 1000, 1000)
        assert feed(reader, data[:-1], *case) == (None, b'')


def padded(start: bytes, size: int) -> bytes:
    return start + b'x' * (size - len(start))


LINE_STARTS = [(True, b'HTTP/1.1 200 '), (True, b'HTTP/1.1 200 OK\r\nA: '), (False, b'A: ')]


@rows(*itertools.product(FEEDINGS, LINE_STARTS))
def test_a_line_may_have_exactly_the_limit(case):
    feeding, (has_status_line, start) = case
    *before, last = start.split(b'\r\n')
    for size, fits in ((50, True), (51, False)):
        data = b'\r\n'.join([*before, padded(last, size), b'', b''])
        reader = BlockReader(has_status_line, 50, 1000)
        if fits:
            assert feed(reader, data + b'rest', *feeding)[1] == b'rest'
        else:
            with pytest.raises(InvalidResponse):
                feed(reader, data, *feeding)
            # It does not take the end of that line to know.
            reader = BlockReader(has_status_line, 50, 1000)
            with pytest.raises(InvalidResponse):
                feed(reader, data[:-4], *feeding)


@rows(*itertools.product(FEEDINGS, [b'HTTP/1.1 200 OK\r\n', b'']))
def test_a_block_may_have_exactly_the_limit(case):
    """Field lines count with the line ends between them; status line and empty line do not."""
    feeding, start = case
    for size, fits in ((60, True), (61, False)):
        lines = padded(b'A: ', 28) + b'\r\n' + padded(b'B: ', size - 30)
        assert len(lines) == size
        reader = BlockReader(bool(start), 50, 60)
        if fits:
            assert feed(reader, start + lines + b'\r\n\r\nrest', *feeding)[1] == b'rest'
        else:
            with pytest.raises(InvalidResponse):
                feed(reader, start + lines + b'\r\n\r\n', *feeding)


# --- messages ---


def test_excerpts_are_cut():
    assert excerpt(b'abc\r\n') == r"b'abc\r\n'"
    assert excerpt(bytearray(b'a')) == "b'a'"
    assert excerpt('\xfc\u20ac') == r"b'\xfc?'"
    assert excerpt(b'x' * 81) == repr(b'x' * 80) + '…'
    assert excerpt(b'x' * 80) == repr(b'x' * 80)
