"""What comes in: ways to read bodies, response heads, framing, limits."""

import io
import json
import shutil
from typing import Any, Callable, Dict, List
from unittest import mock
from xml.etree import ElementTree

from compat_base import (
    CHUNKED,
    CHUNKED_HELLO,
    CONTINUE,
    EMPTY,
    HELLO,
    OK,
    UNTIL_CLOSE,
    WAIT,
    Script,
    answers,
    attempt,
    connect,
    fetch,
    finish,
    first_error,
    get,
    read_each_way,
    readers,
    response,
    scenario,
    wait_for_input,
)

# Reading


@scenario(answers(HELLO))
def body_of_known_length(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(answers(CHUNKED + b'1\r\nh\r\n4\r\nello\r\n3\r\nabc\r\n0\r\n\r\n'))
def chunked_body(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(
    answers(
        CHUNKED + b'5;name=value\r\nhello\r\n03;x="a;b"\r\nabc\r\n000;q\r\nX: y\r\nZ: w\r\n\r\n'
    )
)
def chunk_extensions_and_trailers(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(answers(UNTIL_CLOSE, then='shut'))
def body_until_close(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(answers(EMPTY))
def empty_body(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(answers(CHUNKED + b'0\r\n\r\n'))
def empty_chunked_body(dugong: Any, port: int) -> Any:
    return read_each_way(dugong, port)


@scenario(answers(response(b'0123456789abcdef' * 65536)))
def megabyte(dugong: Any, port: int) -> Any:
    result = {}
    for name in ('read', 'readall', 'read_9999', 'readinto_9999', 'discard', 'co_readall'):
        conn = connect(dugong, port)
        get(conn)
        result[name] = readers(dugong)[name](conn)
        conn.disconnect()
    return result


@scenario(answers(CHUNKED + b'8000\r\n' + b'x' * 0x8000 + b'\r\n1\r\ny\r\n0\r\n\r\n'))
def large_chunks(dugong: Any, port: int) -> Any:
    result = {}
    for name in ('read', 'readall', 'read_9999', 'readinto_9999', 'discard', 'co_readall'):
        conn = connect(dugong, port)
        get(conn)
        result[name] = readers(dugong)[name](conn)
        conn.disconnect()
    return result


@scenario(answers(HELLO, HELLO, HELLO, HELLO, HELLO, HELLO, HELLO))
def types_of_what_is_read(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def run(coroutine: Any) -> Any:
        return dugong.eval_coroutine(coroutine, WAIT)

    calls: Dict[str, Callable[[], Any]] = {
        'read': lambda: conn.read(9),
        'read all': lambda: conn.read(),
        'readall': lambda: conn.readall(),
        'co_read': lambda: run(conn.co_read(9)),
        'co_read all': lambda: run(conn.co_read()),
        'co_readall': lambda: run(conn.co_readall()),
        'read at end': lambda: conn.discard() or conn.read(9),
    }
    result = {}
    for name, call in calls.items():
        get(conn)
        result[name] = type(call())
        conn.discard()
    return result


@scenario(answers(HELLO))
def empty_requests_to_read(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    result = [conn.read(0), conn.readinto(bytearray()), conn.response_pending(), conn.read(9)]
    return [*result, conn.response_pending()]


@scenario(answers(HELLO, HELLO, CHUNKED_HELLO))
def body_read_to_its_last_byte(dugong: Any, port: int) -> Any:
    """All octets have been read, but no call has said yet that this is the end."""
    conn = connect(dugong, port)
    result = {}
    for name, read in {
        'read': lambda: conn.read(5),
        'readinto': lambda: conn.readinto(bytearray(5)),
        'chunked': lambda: conn.read(5) + conn.read(3),
    }.items():
        get(conn)
        result[name] = [read(), conn.response_pending(), conn.read(1), conn.response_pending()]
    return result


@scenario(answers(HELLO))
def negative_size_to_read(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    return attempt(conn.read, -1)


@scenario(answers(HELLO))
def reading_into_other_buffers(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    target = bytearray(b'.......')
    result = [attempt(conn.readinto, b'read-only'), conn.readinto(memoryview(target)[1:3])]
    return [*result, target, conn.readall()]


@scenario(answers(HELLO, CHUNKED_HELLO, HELLO))
def text_wrapper(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for path in '/a', '/b', '/c':
        conn.send_request('GET', path)
    result: List[Any] = []
    for use in (lambda wrapper: wrapper.read(), list, lambda wrapper: wrapper.readline()):
        conn.read_response()
        wrapper = io.TextIOWrapper(conn, encoding='utf-8')
        result.append(use(wrapper))
        del wrapper
    return [*result, conn.response_pending(), conn._sock is not None]


@scenario(answers(response(b'{"a": [1]}'), response(b'<a><b/></a>'), CHUNKED_HELLO))
def parsers_that_read_streams(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    result = {'json': json.load(conn)}
    get(conn)
    tree = attempt(ElementTree.parse, conn)
    result['xml'] = tree if isinstance(tree, Exception) else tree.getroot().tag
    conn.discard()
    get(conn)
    target = io.BytesIO()
    shutil.copyfileobj(conn, target)
    result['copyfileobj'] = target.getvalue()
    return result


@scenario(answers(HELLO))
def stream_attributes(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def look() -> List[Any]:
        return [conn.readable(), conn.writable(), conn.seekable(), conn.closed]

    result = {'new': look()}
    get(conn)
    result['reading'] = look()
    conn.disconnect()
    result['disconnected'] = look()
    return result


@scenario(answers(HELLO))
def read_raw(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    wait_for_input(conn)
    octets = b''.join(bytes(conn.read_raw(1)) for _ in range(20))
    return octets


@scenario(answers(b'HTTP/2.0 200 OK\r\n\r\nbinary', then='shut'))
def read_raw_after_an_unsupported_response(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    return [attempt(conn.read_response), attempt(conn.read_raw, 0)]


# Responses


@scenario(
    answers(
        OK + b'Content-Length: 5\r\n\r\n', OK + b'Transfer-Encoding: chunked\r\n\r\n', OK + b'\r\n'
    )
)
def head_requests(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [[get(conn, '/', 'HEAD'), conn.response_pending(), conn.read()] for _ in range(3)]


@scenario(
    answers(
        b'HTTP/1.1 204 No Content\r\n\r\n',
        b'HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n',
        HELLO,
    )
)
def statuses_without_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [[get(conn), conn.response_pending(), conn.read()] for _ in range(4)]


@scenario(
    answers(
        b'HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n' + HELLO,
        CONTINUE + HELLO,
    )
)
def interim_responses(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [[get(conn), conn.readall()] for _ in range(2)]


@scenario(answers(b'HTTP/1.1 101 Switching Protocols\r\n\r\n' + HELLO))
def switching_protocols_unasked(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    return attempt(conn.read_response)


@scenario(
    answers(
        b'HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 200 Bien s\xfbr, oui\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/1.0 404 Not Found\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nno',
    )
)
def status_lines(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [[get(conn), conn.readall()] for _ in range(5)]


def _one_of(variants: Dict[str, bytes], then: str = 'wait') -> Script:
    """Answer a request for `/N` with variant N; each on a connection of its own."""

    def script(peer: Any) -> None:
        request = peer.read_request()
        peer.send(list(variants.values())[int(request.target[1:])])
        finish(peer, then)

    return script


def _each(dugong: Any, port: int, variants: Dict[str, bytes], use: Callable[[Any], Any]) -> Any:
    """What *use* gives after the request for each of *variants*, see `_one_of`."""
    result = {}
    for number, name in enumerate(variants):
        conn = connect(dugong, port)
        conn.send_request('GET', f'/{number}')
        result[name] = use(conn)
        conn.disconnect()
    return result


def _head_and_body(conn: Any) -> Any:
    result = attempt(conn.read_response)
    if isinstance(result, Exception):
        return result
    return [result.status, result.length, attempt(conn.readall)]


BAD_STATUS_LINES = {
    line: line.encode() + b'\r\n\r\n'
    for line in (
        'HTTP/2.0 200 OK',
        'ICY 200 OK',
        'HTTP/1.1 abc OK',
        'HTTP/1.1 099 OK',
        'HTTP/1.1 1000 OK',
        'HTTP/1.1 20 OK',
    )
}


@scenario(_one_of(BAD_STATUS_LINES))
def bad_status_lines(dugong: Any, port: int) -> Any:
    return _each(dugong, port, BAD_STATUS_LINES, _head_and_body)


LENGTHS = {
    value: OK + f'Content-Length: {value}\r\n\r\nhello'.encode()
    for value in ('5', '05', '5 ', 'abc', '', '5 5', '0x5', '-5', '+5', '1_0', '5, 5')
}


@scenario(_one_of(LENGTHS, 'shut'))
def content_lengths(dugong: Any, port: int) -> Any:
    return _each(dugong, port, LENGTHS, _head_and_body)


SEVERAL_LENGTHS = {
    'the same': OK + b'Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello',
    'others': OK + b'Content-Length: 5\r\nContent-Length: 3\r\n\r\nhello',
    'and chunked': OK
    + b'Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
}


@scenario(_one_of(SEVERAL_LENGTHS))
def several_lengths(dugong: Any, port: int) -> Any:
    return _each(dugong, port, SEVERAL_LENGTHS, _head_and_body)


@scenario(answers(OK + b'Content-Length: abc\r\n\r\nhello'))
def bad_length_again_and_again(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [get(conn)]
    for call in (conn.read, conn.readall, conn.discard, lambda: conn.readinto(bytearray(2))):
        result.append(attempt(call))
    return [*result, attempt(conn.read, 1), attempt(conn.read_response)]


@scenario(answers(OK + b'Content-Length: abc\r\n\r\nhello'))
def pending_after_a_broken_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    return [conn.response_pending(), attempt(conn.readall), conn.response_pending()]


CODINGS = {
    value: OK + f'Transfer-Encoding: {value}\r\n\r\n5\r\nhello\r\n0\r\n\r\n'.encode()
    for value in ('chunked', 'CHUNKED', 'identity', 'gzip', 'gzip, chunked', 'chunked, gzip')
}


@scenario(_one_of(CODINGS))
def transfer_codings(dugong: Any, port: int) -> Any:
    return _each(dugong, port, CODINGS, _head_and_body)


CHUNK_SIZES = {
    size: CHUNKED + f'{size}\r\nhello\r\n0\r\n\r\n'.encode()
    for size in ('5', '005', '5 ', '5 ;a', 'zz', '', '0x5', '+5', '-5', ' 5', '1_0')
}


@scenario(_one_of(CHUNK_SIZES, 'shut'))
def chunk_sizes(dugong: Any, port: int) -> Any:
    return _each(dugong, port, CHUNK_SIZES, _head_and_body)


@scenario(answers(CHUNKED + b'5\r\nhelloXX0\r\n\r\n', then='shut'))
def chunk_without_line_end(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn)
    return attempt(conn.readall)


@scenario(answers(OK + b'\r\nhello', then='shut'))
def neither_length_nor_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = get(conn)
    return [result, attempt(conn.read, 2), attempt(conn.readall), attempt(conn.discard)]


HTTP10_BODIES = {
    field: f'HTTP/1.0 200 OK\r\n{field}\r\n\r\nhello'.encode()
    for field in ('Nothing: 1', 'Connection: close', 'Content-Length: 5', 'Connection: keep-alive')
}


@scenario(_one_of(HTTP10_BODIES, 'shut'))
def http10_bodies(dugong: Any, port: int) -> Any:
    return _each(dugong, port, HTTP10_BODIES, _head_and_body)


CONNECTION_FIELDS = {
    value: OK + f'Connection: {value}\r\n\r\nhello'.encode()
    for value in ('close', 'Close', 'close, x-hop', 'x-hop, close', 'keep-alive')
}


@scenario(_one_of(CONNECTION_FIELDS, 'shut'))
def connection_fields(dugong: Any, port: int) -> Any:
    return _each(dugong, port, CONNECTION_FIELDS, _head_and_body)


@scenario(
    answers(
        response(
            b'', 'Set-Cookie: a', 'X-Word: one two', 'set-cookie:b', 'X-Latin: caf\xe9', 'X-Empty:'
        )
    )
)
def response_fields(dugong: Any, port: int) -> Any:
    headers = get(connect(dugong, port)).headers
    return {
        'all': headers,
        'missing': [headers['nothing'], headers.get('nothing', 'x'), headers.get_all('nothing')],
        'any case': [headers['x-WORD'], 'X-word' in headers, len(headers)],
        'repeated': headers.get_all('Set-Cookie'),
        'types': sorted({type(value).__mro__[-2].__name__ for value in headers.values()}),
    }


@scenario(
    answers(
        response(
            b'',
            'Date: Fri, 01 Jan 2021 00:00:00 GMT',
            'X-Encoded: =?utf-8?q?=C3=A9?=',
            'X-Folded: one\r\n  two',
            'X-Space: \t padded \t',
        )
    )
)
def field_values_as_sent(dugong: Any, port: int) -> Any:
    return dict(get(connect(dugong, port)).headers.items())


FIELD_LINES = {
    name: OK + f'Content-Length: 0\r\n{line}\r\nX-Last: y\r\n\r\n'.encode()
    for name, line in {
        'no colon': 'no colon',
        'space': 'X-Space : v',
        'no name': ': v',
        'NUL': 'X-Nul: a\0b',
        'bare LF': 'X: y\nZ: w',
    }.items()
}


@scenario(_one_of(FIELD_LINES))
def malformed_field_lines(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> Any:
        result = attempt(conn.read_response)
        return result if isinstance(result, Exception) else result.headers['X-Last']

    return _each(dugong, port, FIELD_LINES, use)


def _sized(kind: str, size: int) -> bytes:
    """A response of which the status line, chunk line or header block has *size* octets.

    Lines are counted without their end, the block with the empty line that ends it.
    """
    if kind == 'status line':
        return b'HTTP/1.1 200 '.ljust(size, b'x') + b'\r\nContent-Length: 0\r\n\r\n'
    if kind == 'chunk line':
        return CHUNKED + b'5;'.ljust(size, b'x') + b'\r\nhello\r\n0\r\n\r\n'
    if kind == 'header block':
        return OK + b'Content-Length: 0\r\nX: '.ljust(size - 4, b'x') + b'\r\n\r\n'
    raise ValueError(kind)


def _sized_script(peer: Any) -> None:
    _, kind, size = peer.read_request().target.split('/')
    peer.send(_sized(kind.replace('-', ' '), int(size)))
    peer.read_to_eof()


@scenario(_sized_script)
def limits(dugong: Any, port: int) -> Any:
    cases = {
        'status line': (1000, 65533, 65534, 65535, 65536, 70000),
        'chunk line': (1000, 65533, 65534, 65535, 65536, 70000),
        'header block': (1000, 65535, 65536, 65539, 65540, 70000),
    }
    result = {}
    for kind, sizes in cases.items():
        for size in sizes:
            conn = connect(dugong, port)
            path = f'/{kind}/{size}'.replace(' ', '-')
            outcome = attempt(fetch, conn, path)
            result[f'{kind} {size}'] = 'passes' if isinstance(outcome, list) else outcome
            conn.disconnect()
    return result


@scenario(_sized_script)
def limits_assigned_on_the_package(dugong: Any, port: int) -> Any:
    result = []
    with mock.patch.object(dugong, 'MAX_LINE_SIZE', 100):
        for size in (90, 110):
            outcome = attempt(fetch, connect(dugong, port), f'/status-line/{size}')
            result.append('passes' if isinstance(outcome, list) else outcome)
    with mock.patch.object(dugong, 'MAX_HEADER_SIZE', 200):
        for size in (190, 210):
            outcome = attempt(fetch, connect(dugong, port), f'/header-block/{size}')
            result.append('passes' if isinstance(outcome, list) else outcome)
    return [*result, fetch(connect(dugong, port), '/header-block/210')[0]]


TRUNCATED = {
    'nothing': b'',
    'part of the status line': b'HTTP/1.1 2',
    'status line': OK,
    'part of the fields': OK + b'X: y\r\n',
    'head': OK + b'Content-Length: 5\r\n\r\n',
    'part of a body': OK + b'Content-Length: 5\r\n\r\nhell',
    'head of chunks': CHUNKED,
    'part of a chunk line': CHUNKED + b'5',
    'part of a chunk': CHUNKED + b'5\r\nhel',
    'chunk without its end': CHUNKED + b'5\r\nhello',
    'chunk': CHUNKED + b'5\r\nhello\r\n',
    'last chunk': CHUNKED + b'5\r\nhello\r\n0\r\n',
    'trailer': CHUNKED + b'5\r\nhello\r\n0\r\nX: y\r\n',
}


@scenario(_one_of(TRUNCATED, 'shut'))
def truncated_responses(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> Any:
        return first_error(conn.read_response, conn.readall)

    return _each(dugong, port, TRUNCATED, use)
