"""What a program may do with dugong: one small function for each scenario.

A scenario gets the module `dugong`, which is 3.8.2 or this checkout, and the port of a server
on 127.0.0.1 that follows the script given to the decorator. It returns JSON-able data (see
`compat_runner.plain`); an exception is recorded by the name of its type. It must not depend on
how the octets happen to be split on their way.
"""

import asyncio
import errno
import inspect
import io
import json
import logging
import os
import select
import shutil
import signal
import socket
import ssl
import tempfile
import threading
from pathlib import Path
from types import ModuleType
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple
from unittest import mock
from xml.etree import ElementTree

Script = Callable[[Any], None]


class Scenario(NamedTuple):
    function: Callable[[Any, int], Any]
    script: Script
    tls: bool

    def run(self, dugong: ModuleType, port: int) -> Any:
        try:
            return self.function(dugong, port)
        finally:
            while _connections:
                _connections.pop().disconnect()


#: All scenarios by name.
SCENARIOS: Dict[str, Scenario] = {}

# What `connect` made in the scenario that runs, to be closed at its end.
_connections: List[Any] = []

#: Seconds for each wait of the client, when a scenario says nothing else.
WAIT = 10


def words(text: str) -> List[str]:
    return text.split()


def silent(peer: Any) -> None:
    peer.read_to_eof()


def scenario(
    script: Script = silent, tls: bool = False
) -> Callable[[Callable[[Any, int], Any]], Callable[[Any, int], Any]]:
    def register(function: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
        assert function.__name__ not in SCENARIOS
        SCENARIOS[function.__name__] = Scenario(function, script, tls)
        return function

    return register


# What servers do


def answers(*responses: bytes, then: str = 'wait') -> Script:
    """Read as many requests as there are *responses*, answer each at once.

    Then wait for the client to close (`'wait'`), close at once (`'close'`), or announce the end
    and wait (`'shut'`).
    """

    def script(peer: Any) -> None:
        for response in responses:
            peer.read_request()
            peer.send(response)
        finish(peer, then)

    return script


def finish(peer: Any, then: str) -> None:
    if then == 'close':
        peer.close()
        return
    if then == 'shut':
        peer.half_close()
    peer.read_to_eof()


def response(body: bytes = b'', *fields: str, status: str = '200 OK') -> bytes:
    lines = [f'HTTP/1.1 {status}', f'Content-Length: {len(body)}', *fields, '', '']
    return '\r\n'.join(lines).encode('latin1') + body


OK = b'HTTP/1.1 200 OK\r\n'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
EMPTY = response()
HELLO = response(b'hello')
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
CHUNKED_HELLO = CHUNKED + b'5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n'
UNTIL_CLOSE = OK + b'Connection: close\r\n\r\nhello'


# What clients do


def connect(dugong: Any, port: int, **options: Any) -> Any:
    conn = dugong.HTTPConnection('127.0.0.1', port, **options)
    conn.timeout = WAIT
    _connections.append(conn)
    return conn


def secured(dugong: Any, port: int) -> Any:
    return connect(dugong, port, ssl_context=trusting_context())


def trusting_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ['COMPAT_CAFILE'])


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call, or the exception it raised."""
    try:
        return function(*args, **kwargs)
    except Exception as exc:
        return exc


def attempt_within(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """Like `attempt`; `'hangs'` if the call has not ended after *seconds*."""

    class Expired(BaseException):
        pass

    def expire(*_: object) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return attempt(function, *args)
    except Expired:
        return 'hangs'
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def get(conn: Any, path: str = '/', method: str = 'GET') -> Any:
    conn.send_request(method, path)
    return conn.read_response()


def fetch(conn: Any, path: str = '/', method: str = 'GET') -> Any:
    """Status and body of a request."""
    result = get(conn, path, method)
    return [result.status, conn.readall()]


def put(conn: Any, body: Any, headers: Any = None, **options: Any) -> Any:
    conn.send_request('PUT', '/doc', headers=headers, body=body, **options)


def wait_for_input(conn: Any) -> None:
    """Wait until the server has sent something, or has closed."""
    ready = select.select([conn._sock], [], [], WAIT)[0]
    assert ready


def wait_for_end(conn: Any) -> None:
    """Wait until the server has closed the connection, all octets of it having been read."""
    wait_for_input(conn)
    assert conn._sock.recv(1, socket.MSG_PEEK) == b''


def first_error(*calls: Callable[[], Any]) -> Any:
    """The first exception that one of *calls* raises, made in turn."""
    for call in calls:
        result = attempt(call)
        if isinstance(result, Exception):
            return result
    return 'no error'


def readers(dugong: Any) -> Dict[str, Callable[[Any], Any]]:
    """All ways to read a body to its end, by name."""

    def pieces(read: Callable[[int], Any], size: int) -> bytes:
        return b''.join(bytes(piece) for piece in iter(lambda: read(size), b''))

    def into(read: Callable[[Any], int], size: int) -> bytes:
        buffer = bytearray(size)
        return b''.join(bytes(buffer[:n]) for n in iter(lambda: read(buffer), 0))

    def run(coroutine: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: dugong.eval_coroutine(coroutine(*args), WAIT)

    return {
        'read': lambda conn: conn.read(),
        'read_none': lambda conn: conn.read(None),
        'read_1': lambda conn: pieces(conn.read, 1),
        'read_4': lambda conn: pieces(conn.read, 4),
        'read_9999': lambda conn: pieces(conn.read, 9999),
        'readall': lambda conn: conn.readall(),
        'readinto_1': lambda conn: into(conn.readinto, 1),
        'readinto_4': lambda conn: into(conn.readinto, 4),
        'readinto_9999': lambda conn: into(conn.readinto, 9999),
        'discard': lambda conn: conn.discard(),
        'co_read': lambda conn: run(conn.co_read)(),
        'co_read_4': lambda conn: pieces(run(conn.co_read), 4),
        'co_readall': lambda conn: run(conn.co_readall)(),
        'co_readinto_4': lambda conn: into(run(conn.co_readinto), 4),
        'co_discard': lambda conn: run(conn.co_discard)(),
        'read_2_readall': lambda conn: b''.join([conn.read(2), conn.readall()]),
        'read_2_discard': lambda conn: [len(conn.read(2)) > 0, conn.discard(), conn.read(2)],
    }


def read_each_way(dugong: Any, port: int) -> Any:
    """The same body with each reader, on one connection after the other."""
    result = {}
    for name, reader in readers(dugong).items():
        conn = connect(dugong, port)
        head = get(conn)
        length, pending = head.length, conn.response_pending()
        body = attempt(reader, conn)
        result[name] = [length, pending, body, conn.read(3), conn.read(), conn.response_pending()]
        conn.disconnect()
    return result


# Requests


@scenario(answers(EMPTY))
def get_request(dugong: Any, port: int) -> Any:
    return get(connect(dugong, port), '/a?b=c')


@scenario(answers(EMPTY, EMPTY, EMPTY, EMPTY))
def other_methods(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [get(conn, '*', method) for method in ('OPTIONS', 'DELETE', 'HEAD', 'X-ODD!')]


@scenario(answers(EMPTY))
def header_spelling(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    headers = {'x-lower': '1', 'X-UPPER': '2', 'X-MiXeD': ' 3 '}
    conn.send_request('GET', '/', headers=headers)
    return [conn.read_response(), headers]


@scenario(answers(EMPTY))
def header_values_of_other_types(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    values = {'Int': 5, 'Float': 1.5, 'None': None, 'Bool': True, 'Bytes': b'x', 'List': [1]}
    conn.send_request('GET', '/', headers=values)
    return conn.read_response()


@scenario(answers(EMPTY))
def header_values_in_latin1(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/caf\xe9', headers={'X': 'caf\xe9'})
    return conn.read_response()


@scenario(answers(EMPTY))
def outside_latin1(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return {
        'header': isinstance(
            attempt(conn.send_request, 'GET', '/', headers={'X': '\u20ac'}), ValueError
        ),
        'path': isinstance(attempt(conn.send_request, 'GET', '/\u20ac'), ValueError),
        'pending': conn.response_pending(),
        'next': get(conn),
    }


@scenario(answers(EMPTY))
def fields_the_library_sets(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    headers = {'host': 'other', 'CONTENT-length': '77', 'accept-encoding': 'gzip'}
    conn.send_request('GET', '/', headers=headers)
    return conn.read_response()


@scenario(answers(EMPTY))
def fields_the_caller_may_set(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, b'hello', headers={'connection': 'close', 'content-MD5': 'mine'})
    return conn.read_response()


@scenario(lambda peer: (peer.read_head(), peer.send(EMPTY), peer.read_to_eof()))
def transfer_encoding_of_the_caller(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers={'Transfer-Encoding': 'chunked'})
    return conn.read_response()


@scenario(answers(EMPTY))
def expect_of_the_caller(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers={'Expect': 'wonder'})
    return conn.read_response()


@scenario(answers(EMPTY, EMPTY))
def headers_of_the_caller_afterwards(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    plain = {'X': '1', 'Host': 'h'}
    ignoring_case = dugong.CaseInsensitiveDict({'X': '1'})
    for headers in (plain, ignoring_case):
        conn.send_request('GET', '/', headers=headers)
        conn.read_response()
    return {'dict': plain, 'CaseInsensitiveDict': sorted(ignoring_case)}


@scenario(answers(EMPTY))
def headers_as_pairs(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers=[('A', '1'), ('B', '2')])
    return conn.read_response()


@scenario(lambda peer: (peer.read_until(b'\r\n\r\n'), peer.send(EMPTY), peer.read_to_eof()))
def path_with_a_space(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    error = attempt(conn.send_request, 'GET', '/a b')
    if not isinstance(error, Exception):
        return conn.read_response().status
    return error


@scenario(answers(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY))
def bytes_like_bodies(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = (b'hello', bytearray(b'hello'), memoryview(b'xhellox')[1:6], b'', bytes(range(256)))
    result = []
    for body in bodies:
        put(conn, body)
        result.append(conn.read_response())
    return result


@scenario(answers(EMPTY, EMPTY))
def large_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = []
    for size in (100_000, 3_000_000):
        put(conn, b'0123456789' * (size // 10))
        result.append(conn.read_response())
    return result


@scenario(answers(EMPTY))
def bodies_of_wrong_types(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = {'str': 'hello', 'int': 5, 'dict': {'a': 1}, 'text': io.StringIO('hello')}
    result = {name: attempt(put, conn, body) for name, body in bodies.items()}
    return {**result, 'pending': conn.response_pending(), 'next': get(conn)}


@scenario(answers(EMPTY))
def stream_as_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    error = attempt(put, conn, io.BytesIO(b'hello'))
    return error or conn.read_response().status


@scenario(answers(HELLO, HELLO))
def body_following(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(11))
    result = [conn.write(piece) for piece in (b'hello', bytearray(b' '), memoryview(b'world'))]
    result += [conn.read_response(), conn.readall(), fetch(conn)]
    return result


@scenario(answers(HELLO))
def body_following_in_coroutines(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def upload() -> Any:
        yield from conn.co_send_request('PUT', '/', body=dugong.BodyFollowing(10))
        for _ in range(2):
            yield from conn.co_write(b'hello')
        result = yield from conn.co_read_response()
        body = yield from conn.co_readall()
        return [result, body]

    return dugong.eval_coroutine(upload(), WAIT)


@scenario(answers(EMPTY, EMPTY))
def body_following_of_length_0(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(0))
    return attempt(conn.read_response)


@scenario(lambda peer: (peer.read_head(), peer.read_to_eof()))
def body_following_without_length(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return attempt(put, conn, dugong.BodyFollowing())


@scenario(answers(EMPTY))
def more_than_announced(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    result = [conn.write(b'ab'), attempt(conn.write, b'wxyz'), attempt(conn.write, b'cde')]
    result += [attempt(conn.write, b'!'), conn.read_response().status]
    return result


@scenario(answers(EMPTY))
def upload_state_errors(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    result = {'pending': conn.response_pending()}
    result['send'] = attempt(conn.send_request, 'GET', '/')
    result['read'] = attempt(conn.read_response)
    result['remaining'] = bool(conn._out_remaining)
    conn.write(b'hello')
    result['remaining after'] = bool(conn._out_remaining)
    result['status'] = conn.read_response().status
    return result


def _continue_script(peer: Any) -> None:
    request = peer.read_head()
    peer.send(CONTINUE)
    peer.read_body(request)
    peer.send(HELLO)
    peer.read_to_eof()


@scenario(_continue_script)
def expect100_accepted(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = {
        'pending': conn.response_pending(),
        'remaining': bool(conn._out_remaining),
        'early write': attempt(conn.write, b'x'),
        'early send': attempt(conn.send_request, 'GET', '/'),
        'interim': conn.read_response(),
        'between': [conn.response_pending(), bool(conn._out_remaining), conn.read(5)],
    }
    conn.write(b'hello')
    result['final'] = [conn.read_response(), conn.readall(), conn.response_pending()]
    return result


def _refuse_script(*fields: str) -> Script:
    def script(peer: Any) -> None:
        peer.read_head()
        peer.send(response(b'no', *fields, status='403 Forbidden'))
        if fields:
            peer.half_close()
        else:
            peer.read_request()
            peer.send(HELLO)
        peer.read_to_eof()

    return script


@scenario(_refuse_script())
def expect100_refused(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = {'answer': conn.read_response(), 'remaining': bool(conn._out_remaining)}
    result['write'] = attempt(conn.write, b'hello')
    result['body'] = conn.readall()
    result['next'] = fetch(conn)
    return result


@scenario(_refuse_script('Connection: close'))
def expect100_refused_and_closed(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    return [conn.read_response(), conn.readall(), attempt(conn.write, b'hello')]


@scenario(lambda peer: (peer.read_head(), peer.half_close(), peer.read_to_eof()))
def expect100_closed_without_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = [attempt(conn.read_response), attempt(conn.read_response)]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(
    lambda peer: (
        peer.read_request(),
        peer.read_head(),
        peer.send(HELLO + CONTINUE),
        peer.read_exactly(5),
        peer.send(EMPTY),
        peer.read_to_eof(),
    )
)
def expect100_behind_another_request(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/first')
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = [conn.read_response(), conn.readall(), conn.read_response()]
    conn.write(b'hello')
    return [*result, conn.read_response()]


@scenario(answers(EMPTY))
def expect100_needs_body_following(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = (None, b'', b'hello')
    return [*(attempt(put, conn, body, expect100=True) for body in bodies), get(conn)]


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


# Pipelining


def _serve_path_as_body(peer: Any) -> None:
    while True:
        request = peer.read_request()
        peer.send(response(request.target.encode()))


@scenario(_serve_path_as_body)
def pipelined_requests(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for number in range(50):
        conn.send_request('GET', f'/{number}')
    result = []
    while conn.response_pending():
        answer = conn.read_response()
        result.append([answer.path, answer.status, conn.readall()])
    return result


@scenario(_serve_path_as_body)
def sending_while_reading(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/first')
    conn.read_response()
    result = [conn.read(2)]
    conn.send_request('GET', '/second')
    result += [conn.read(2), attempt(conn.read_response), conn.readall()]
    result += [conn.read_response().path, conn.readall(), conn.response_pending()]
    return result


@scenario(answers(OK + b'Content-Length: 5\r\n\r\n', HELLO, EMPTY))
def pipelined_methods(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('HEAD', '/1')
    conn.send_request('POST', '/2', body=b'abc')
    put(conn, dugong.BodyFollowing(3))
    early = conn.read_response()
    conn.write(b'xyz')
    return [early, conn.read_response(), conn.readall(), conn.read_response()]


@scenario(answers(HELLO, CHUNKED_HELLO, HELLO))
def unread_body_blocks_the_next_response(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for _ in range(3):
        conn.send_request('GET', '/')
    result = [conn.read_response().status, attempt(conn.read_response), conn.discard()]
    result += [conn.read_response().status, conn.read(2), attempt(conn.read_response)]
    return [*result, conn.readall(), conn.read_response().status]


@scenario(_serve_path_as_body)
def pipelined_coroutines(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    paths = [f'/{number}' for number in range(20)]

    def send() -> Any:
        for path in paths:
            yield from conn.co_send_request('GET', path)

    def receive() -> Any:
        result = []
        for _ in paths:
            yield from conn.co_read_response()
            body = yield from conn.co_readall()
            result.append(body)
        return result

    loop = asyncio.new_event_loop()
    try:
        # The way of 3.8.2: the loop is named, there is no `async def` and no running loop.
        sender = dugong.AioFuture(send(), loop=loop)
        loop.run_until_complete(sender)
        receiver = dugong.AioFuture(receive(), loop=loop)
        return [sender.result(), loop.run_until_complete(receiver)]
    finally:
        loop.close()


# States


def _state(conn: Any) -> Dict[str, Any]:
    """What every call that needs something outstanding says."""
    return {
        'read_response': attempt(conn.read_response),
        'read': attempt(conn.read, 3),
        'read all': attempt(conn.read),
        'readall': attempt(conn.readall),
        'readinto': attempt(conn.readinto, bytearray(3)),
        'discard': attempt(conn.discard),
        'write': attempt(conn.write, b'x'),
        'pending': conn.response_pending(),
    }


@scenario(answers(HELLO))
def nothing_outstanding(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = {'new': _state(conn)}
    conn.connect()
    result['connected'] = _state(conn)
    result['answer'] = fetch(conn)
    result['after an answer'] = _state(conn)
    conn.disconnect()
    result['disconnected'] = _state(conn)
    return result


@scenario(_serve_path_as_body)
def disconnect_with_an_answer_outstanding(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/lost')
    conn.disconnect()
    return {**_state(conn), 'afresh': fetch(conn, '/next')}


@scenario(_serve_path_as_body)
def disconnect_within_a_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn, '/lost')
    conn.read(2)
    conn.disconnect()
    return {key: value for key, value in _state(conn).items() if key != 'write'}


@scenario(_serve_path_as_body)
def request_after_disconnect_within_a_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn, '/lost')
    conn.read(2)
    conn.disconnect()
    return attempt(fetch, conn, '/next')


@scenario(_serve_path_as_body)
def disconnect_within_an_upload(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    conn.write(b'he')
    conn.disconnect()
    return [attempt(conn.write, b'llo'), attempt(conn.read_response)]


@scenario(_serve_path_as_body)
def disconnect_and_reset_repeated(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [conn.disconnect(), conn.disconnect(), conn.reset(), fetch(conn, '/a')]
    result += [conn.reset(), conn.reset(), conn._sock is None, fetch(conn, '/b')]
    return [*result, conn.connect(), fetch(conn, '/c')]


@scenario(_serve_path_as_body)
def context_manager(dugong: Any, port: int) -> Any:
    with connect(dugong, port) as conn:
        result = [fetch(conn, '/a'), conn._sock is not None]
    return [*result, conn._sock is None, fetch(conn, '/b')]


@scenario(answers(response(b'hello', 'Connection: close'), then='shut'))
def announced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [get(conn), conn.response_pending(), conn.readall(), conn.response_pending()]
    result += [attempt(conn.send_request, 'GET', '/2'), conn.response_pending()]
    result += [attempt(conn.read_response), attempt(conn.read_response)]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(answers(response(b'hello', 'Connection: close')))
def request_after_an_announced_close(dugong: Any, port: int) -> Any:
    """The server has not closed yet: does the request go out?"""
    conn = connect(dugong, port)
    return [fetch(conn), attempt(conn.send_request, 'GET', '/2'), conn.response_pending()]


@scenario(answers(response(b'hello', 'Connection: close')))
def upload_after_an_announced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn), attempt(put, conn, dugong.BodyFollowing(5))]
    return [*result, attempt(conn.write, b'hello')]


@scenario(answers(HELLO, response(b'last', 'Connection: close'), then='shut'))
def close_in_the_middle_of_a_pipeline(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for path in '/1', '/2', '/3':
        conn.send_request('GET', path)
    result = [[conn.read_response().path, conn.readall()] for _ in range(2)]
    return [*result, conn.response_pending(), attempt(conn.read_response)]


@scenario(answers(HELLO, then='shut'))
def unannounced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn)]
    wait_for_end(conn)
    result.append(first_error(lambda: conn.send_request('GET', '/2'), conn.read_response))
    conn.disconnect()
    return [*result, conn.response_pending(), fetch(conn, '/3')]


@scenario(answers(HELLO, then='shut'))
def unannounced_close_before_an_upload(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn)]
    wait_for_end(conn)
    error = first_error(
        lambda: put(conn, dugong.BodyFollowing(5)),
        lambda: conn.write(b'hello'),
        conn.read_response,
    )
    return [*result, error]


def _answer_and_close(peer: Any) -> None:
    peer.read_head()
    peer.send(response(b'no', 'Connection: close', status='413 Too Large'))
    peer.half_close()
    # Octets that are there and not read make the system send a reset.
    peer.sock.peek()
    peer.close()


@scenario(_answer_and_close)
def upload_cut_short_by_an_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(50_000_000))
    wait_for_input(conn)
    error = first_error(*[lambda: conn.write(b'x' * 10_000)] * 5000)
    result = [error, bool(conn._out_remaining), attempt(conn.read_response), attempt(conn.readall)]
    return [*result, attempt(conn.write, b'x')]


def _half_upload(peer: Any) -> None:
    peer.read_head()
    peer.read_exactly(5)
    peer.half_close()
    peer.read_to_eof()


@scenario(_half_upload)
def upload_without_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    conn.write(b'hello')
    return [attempt(conn.read_response), attempt(conn.read_response)]


@scenario(lambda peer: (peer.read_request(), peer.reset()))
def reset_instead_of_an_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    return [attempt(conn.read_response), attempt(conn.read_response)]


@scenario(answers(HELLO + b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad', HELLO))
def octets_beyond_the_last_response(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = fetch(conn)
    return [result, attempt(fetch, conn)]


@scenario()
def connection_refused(dugong: Any, port: int) -> Any:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        conn = connect(dugong, unused.getsockname()[1])
        errors = [attempt(conn.connect), attempt(conn.send_request, 'GET', '/')]
        errors.append(attempt(dugong.create_socket, ('127.0.0.1', conn.port)))
    numbers = [error.errno == errno.ECONNREFUSED for error in errors]
    return [errors, numbers, conn.response_pending(), conn._sock is None, attempt(conn.read, 1)]


@scenario(answers(HELLO))
def send_state_in_out_remaining(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [bool(conn._out_remaining)]
    put(conn, dugong.BodyFollowing(5))
    result.append(bool(conn._out_remaining))
    conn.write(b'hell')
    result.append(bool(conn._out_remaining))
    conn.write(b'o')
    result.append(bool(conn._out_remaining))
    conn.read_response()
    return [*result, bool(conn._out_remaining)]


# Waiting


@scenario()
def timeout_while_reading(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.timeout = 0.03
    conn.send_request('GET', '/')
    result = [attempt(conn.read_response), attempt(conn.read_response), conn.response_pending()]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(
    lambda peer: (
        peer.read_request(),
        peer.read_request(),
        peer.send(HELLO + HELLO),
        peer.read_to_eof(),
    )
)
def answer_after_a_timeout(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.timeout = 0.03
    conn.send_request('GET', '/1')
    result = [attempt(conn.read_response)]
    conn.timeout = WAIT
    conn.send_request('GET', '/2')
    return [*result, conn.read_response(), conn.readall(), conn.read_response(), conn.readall()]


_write_ended = threading.Semaphore(0)


def _not_reading(peer: Any) -> None:
    """Read the head only, until a second connection says that the client has ended."""
    if peer.read_exactly(3) == b'END':
        _write_ended.release()
        return
    peer.read_until(b'\r\n\r\n')
    peer.send(CONTINUE)
    _write_ended.acquire(timeout=WAIT)
    peer.reset()


@scenario(_not_reading)
def timeout_while_writing(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(50_000_000))
    wait_for_input(conn)
    conn.timeout = 0.03
    result = first_error(*[lambda: conn.write(b'x' * 500_000)] * 100)
    with socket.create_connection(('127.0.0.1', port), WAIT) as control:
        control.sendall(b'END')
        conn.disconnect()
        control.recv(1)
    return result


@scenario()
def timeout_of_0(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    conn.timeout = 0
    return attempt_within(0.1, conn.read_response)


@scenario(answers(HELLO))
def poll_needed(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reading = dugong.PollNeeded(ours.fileno(), dugong.POLLIN)
        writing = dugong.PollNeeded(ours.fileno(), dugong.POLLOUT)
        result = {
            'tuple': [isinstance(reading, tuple), len(reading), reading == (ours.fileno(), 1)],
            'attributes': [reading.fd == ours.fileno(), reading.mask, writing.mask],
            'read': reading.poll(0.01),
            'write': [writing.poll(), writing.poll(None), writing.poll(timeout=5)],
        }
        theirs.send(b'x')
        result['readable'] = [reading.poll(), reading.poll(5)]
        result['at once'] = attempt_within(0.1, reading.poll, 0)
        ours.recv(1)
        result['at once, nothing there'] = attempt_within(0.1, reading.poll, 0)
    return result


def _coroutines(dugong: Any, descriptor: int) -> Dict[str, Callable[[], Iterator[Any]]]:
    def returns() -> Iterator[Any]:
        return 5
        yield

    def waits() -> Iterator[Any]:
        yield dugong.PollNeeded(descriptor, dugong.POLLIN)
        return 'ready'

    def fails() -> Iterator[Any]:
        raise KeyError('mine')
        yield

    def fails_later() -> Iterator[Any]:
        yield dugong.PollNeeded(descriptor, dugong.POLLIN)
        raise KeyError('mine')

    def yields_a_number() -> Iterator[Any]:
        yield 7

    return {
        function.__name__: function
        for function in (returns, waits, fails, fails_later, yields_a_number)
    }


@scenario()
def eval_coroutine(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        functions = _coroutines(dugong, ours.fileno())
        result = {'too slow': attempt(dugong.eval_coroutine, functions['waits'](), 0.01)}
        result['too slow by name'] = attempt(
            dugong.eval_coroutine, functions['waits'](), timeout=0.01
        )
        theirs.send(b'x')
        for name, function in functions.items():
            result[name] = attempt(dugong.eval_coroutine, function())
        result['not a coroutine'] = attempt(dugong.eval_coroutine, 5)
    return result


@scenario()
def aio_future(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    loop = asyncio.new_event_loop()
    try:
        with ours, theirs:
            functions = _coroutines(dugong, ours.fileno())
            waiting = dugong.AioFuture(functions['waits'](), loop=loop)
            result = {
                'is a future': isinstance(waiting, asyncio.Future),
                'done early': waiting.done(),
            }
            loop.call_soon(theirs.send, b'x')
            result['waited'] = loop.run_until_complete(asyncio.wait_for(waiting, WAIT))
            for name, function in functions.items():
                future = dugong.AioFuture(function(), loop=loop)
                result[name] = attempt(loop.run_until_complete, asyncio.wait_for(future, WAIT))
        return result
    finally:
        loop.close()


@scenario()
def several_futures_on_one_socket(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()

    async def both() -> Any:
        loop = asyncio.get_running_loop()
        waits = _coroutines(dugong, ours.fileno())['waits']
        futures = [dugong.AioFuture(waits(), loop=loop) for _ in range(2)]
        theirs.send(b'x')
        return await asyncio.wait_for(asyncio.gather(*futures), WAIT)

    with ours, theirs:
        return attempt(asyncio.run, both())


@scenario(answers(HELLO, CHUNKED_HELLO))
def coroutines_on_a_connection(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def job() -> Any:
        yield from conn.co_send_request('GET', '/', headers={'X': 'y'})
        first = yield from conn.co_read_response()
        buffer = bytearray(9)
        size = yield from conn.co_readinto(buffer)
        end = yield from conn.co_readinto(buffer)
        yield from conn.co_send_request('GET', '/')
        yield from conn.co_read_response()
        piece = yield from conn.co_read(2)
        rest = yield from conn.co_read()
        return [first, buffer[:size], end, piece, rest]

    coroutine = job()
    while True:
        try:
            needed = next(coroutine)
        except StopIteration as exc:
            return exc.value
        assert needed.poll(WAIT)


@scenario()
def waiting_in_a_coroutine(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    coroutine = conn.co_read_response()
    needed = next(coroutine)
    result = [
        inspect.isgenerator(coroutine),
        type(needed),
        needed.fd == conn._sock.fileno(),
        needed.mask == dugong.POLLIN,
        needed.poll(0.01),
    ]
    coroutine.close()
    return [*result, conn.response_pending()]


# TLS


@scenario(answers(HELLO, CHUNKED_HELLO), tls=True)
def tls_requests(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    result = [fetch(conn), fetch(conn)]
    cipher, certificate = conn.get_ssl_cipher(), conn.get_ssl_peercert()
    return [*result, len(cipher), sorted(certificate), conn._sock is not None]


@scenario(answers(HELLO), tls=True)
def tls_details_connect(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [sorted(conn.get_ssl_peercert()), conn._sock is not None, fetch(conn)]


@scenario(answers(HELLO), tls=True)
def tls_certificate_as_der(dugong: Any, port: int) -> Any:
    return type(secured(dugong, port).get_ssl_peercert(True))


@scenario(answers(HELLO))
def tls_details_without_tls(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [conn.get_ssl_cipher(), conn.get_ssl_peercert()]
    return [*result, fetch(conn), conn.get_ssl_cipher(), conn.get_ssl_peercert()]


@scenario(tls=True)
def tls_untrusted_certificate(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port, ssl_context=ssl.create_default_context())
    error = attempt(conn.connect)
    return [error, isinstance(error, ssl.SSLError), conn._sock is None, conn.response_pending()]


@scenario(answers(HELLO))
def tls_with_a_context_of_another_class(dugong: Any, port: int) -> Any:
    class Context:
        def wrap_socket(self, sock: Any, **options: Any) -> Any:
            calls.append(options)
            return sock

    calls: List[Dict[str, Any]] = []
    conn = connect(dugong, port, ssl_context=Context())
    return [conn.port == port, fetch(conn), calls]


@scenario(answers(response(b'hello' * 10_000)), tls=True)
def tls_large_body(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    put(conn, b'x' * 300_000)
    return [conn.read_response(), conn.readall()]


def _end_tls(announced: bool, *responses: bytes) -> Script:
    def script(peer: Any) -> None:
        for item in responses:
            peer.read_request()
            peer.send(item)
        if announced:
            # Ends once the client closes, too.
            peer.sock.unwrap()
        peer.close()

    return script


@scenario(_end_tls(True, UNTIL_CLOSE), tls=True)
def tls_body_until_close(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), conn.read(2), conn.readall()]


@scenario(_end_tls(False, UNTIL_CLOSE), tls=True)
def tls_body_until_unannounced_close(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


@scenario(_end_tls(False, OK + b'Content-Length: 10\r\n\r\nhello'), tls=True)
def tls_truncated_body(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


@scenario(_end_tls(True, OK + b'Content-Length: 10\r\n\r\nhello'), tls=True)
def tls_body_ended_early(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


# Proxies


def through_proxy(dugong: Any, port: int, *target: Any, **options: Any) -> Any:
    conn = dugong.HTTPConnection(*target, proxy=('127.0.0.1', port), **options)
    conn.timeout = WAIT
    _connections.append(conn)
    return conn


@scenario(answers(HELLO, HELLO))
def proxy(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'example.org')
    result = [get(conn, '/a?b=c'), conn.readall()]
    put(conn, b'hello')
    return [*result, conn.read_response(), conn.readall()]


@scenario(answers(HELLO))
def proxy_other_port(dugong: Any, port: int) -> Any:
    return get(through_proxy(dugong, port, 'example.org', 8080))


@scenario(answers(HELLO))
def proxy_to_ipv6(dugong: Any, port: int) -> Any:
    return get(through_proxy(dugong, port, '::1', 8080))


def _tunnel(peer: Any) -> None:
    peer.read_until(b'\r\n\r\n')
    peer.send(b'HTTP/1.1 200 Connection established\r\nX-Proxy: y\r\n\r\n')
    peer.start_tls()
    peer.read_request()
    peer.send(HELLO)
    peer.read_to_eof()


@scenario(_tunnel)
def proxy_tunnel(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', 4433, ssl_context=trusting_context())
    return [get(conn, '/a'), conn.readall(), sorted(conn.get_ssl_peercert())]


def _refuse_tunnel(answer: bytes) -> Script:
    def script(peer: Any) -> None:
        peer.read_until(b'\r\n\r\n')
        peer.send(answer)
        peer.read_to_eof()

    return script


@scenario(_refuse_tunnel(b'HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'))
def proxy_refuses_tunnel(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', ssl_context=trusting_context())
    error = attempt(conn.send_request, 'GET', '/')
    return {
        'error': error,
        'builtin': isinstance(error, ConnectionError),
        'state': [conn._sock is None, conn.response_pending(), conn.port],
    }


@scenario(_refuse_tunnel(b'nonsense\r\n\r\n'))
def proxy_talks_nonsense(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', ssl_context=trusting_context())
    return attempt(conn.connect)


# Names and addresses


def _resolver(dugong: Any, number: int, working: Tuple[str, ...]) -> Any:
    """Patch name resolution: only *working* names resolve, others fail with *number*."""

    def lookup(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        if host in working:
            address = ('127.0.0.1', port)
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', address)]
        raise socket.gaierror(number, 'made up')

    asked: List[str] = []
    conn = dugong.HTTPConnection('wanted.invalid', 80)
    _connections.append(conn)
    with mock.patch.object(socket, 'getaddrinfo', lookup), mock.patch.object(
        dugong, 'DNS_TEST_HOSTNAMES', (('one.invalid', 80), ('two.invalid', 80))
    ):
        errors = [
            attempt(conn.connect),
            attempt(conn.send_request, 'GET', '/'),
            attempt(dugong.create_socket, ('wanted.invalid', 80)),
        ]
    return {
        'errors': errors,
        'names': [getattr(error, 'name', None) for error in errors],
        'asked': asked[: len(asked) // 3],
        'idle': [conn._sock is None, conn.response_pending()],
    }


@scenario()
def unknown_host(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NONAME, ('one.invalid',))


@scenario()
def unknown_host_of_second_test_name(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NODATA, ('two.invalid',))


@scenario()
def no_name_service(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NONAME, ())


@scenario()
def name_service_that_asks_to_try_again(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_AGAIN, ('one.invalid',))


@scenario()
def other_resolver_failure(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_FAIL, ('one.invalid',))


@scenario(answers(HELLO))
def patched_name_resolution(dugong: Any, port: int) -> Any:
    def lookup(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        address = ('127.0.0.1', port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', address)]

    asked: List[str] = []
    conn = dugong.HTTPConnection('some.invalid', port)
    _connections.append(conn)
    with mock.patch.object(socket, 'getaddrinfo', lookup):
        return [fetch(conn), asked]


@scenario(answers(HELLO))
def patched_create_socket(dugong: Any, port: int) -> Any:
    def create(address: Any) -> Any:
        asked.append(address[0])
        return original(('127.0.0.1', port))

    asked: List[str] = []
    original = dugong.create_socket
    conn = dugong.HTTPConnection('some.invalid', port)
    _connections.append(conn)
    with mock.patch.object(dugong, 'create_socket', create):
        return [fetch(conn), asked]


@scenario(answers(HELLO))
def created_socket(dugong: Any, port: int) -> Any:
    with dugong.create_socket(('127.0.0.1', port)) as sock:
        return [type(sock), sock.getpeername()[1] == port]


# Everything else


@scenario(answers(HELLO))
def constructor(dugong: Any, port: int) -> Any:
    context = ssl.create_default_context()
    plain = dugong.HTTPConnection('host')
    full = dugong.HTTPConnection('host', 8443, context, ('proxy', 3128))
    names = dugong.HTTPConnection(hostname='h', port=1, ssl_context=None, proxy=None)
    return [
        [plain.hostname, plain.port, plain.ssl_context, plain.proxy, plain.timeout],
        [full.hostname, full.port, full.ssl_context is context, full.proxy],
        [names.hostname, names.port],
        dugong.HTTPConnection('host', ssl_context=context).port,
        attempt(dugong.HTTPConnection),
    ]


@scenario(answers(HELLO))
def settable_attributes(dugong: Any, port: int) -> Any:
    conn = dugong.HTTPConnection('wrong.invalid', 1, proxy=('wrong.invalid', 2))
    _connections.append(conn)
    conn.hostname, conn.port, conn.proxy, conn.timeout = '127.0.0.1', port, None, WAIT
    return fetch(conn)


@scenario()
def constants(dugong: Any, port: int) -> Any:
    names = 'MAX_LINE_SIZE MAX_HEADER_SIZE BUFFER_SIZE DNS_TEST_HOSTNAMES POLLIN POLLOUT'
    return {name: getattr(dugong, name) for name in [*words(names), 'HTTP_PORT', 'HTTPS_PORT']}


#: Public names, and the private ones that suites written for 3.8.2 use.
NAMES = words(
    'HTTPConnection HTTPResponse BodyFollowing CaseInsensitiveDict PollNeeded AioFuture '
    'is_temp_network_error create_socket eval_coroutine ConnectionClosed InvalidResponse '
    'UnsupportedResponse ExcessBodyData StateError ConnectionTimedOut HostnameNotResolvable '
    'DNSUnavailable ProxyError HostnameNotResolvableOrDNSUnavailable _GeneralError _Buffer _join'
)


@scenario()
def names(dugong: Any, port: int) -> Any:
    result = {name: getattr(dugong, name, 'absent') for name in NAMES}
    return {
        name: 'function' if inspect.isfunction(value) else plain_name(value)
        for name, value in result.items()
    }


def plain_name(value: Any) -> Any:
    if not isinstance(value, type):
        return value
    return f'{value.__module__}.{value.__name__}'


@scenario()
def signatures(dugong: Any, port: int) -> Any:
    conn = dugong.HTTPConnection('host')
    calls = {
        name: getattr(conn, name)
        for name in words(
            'connect co_send_request send_request co_write write co_read_response read_response '
            'co_read read co_readinto readinto co_readall readall co_discard discard read_raw '
            'response_pending reset disconnect get_ssl_peercert get_ssl_cipher readable writable '
            'seekable'
        )
    }
    for name in words(
        'HTTPConnection HTTPResponse BodyFollowing PollNeeded AioFuture CaseInsensitiveDict '
        '_Buffer is_temp_network_error create_socket eval_coroutine _join'
    ):
        calls[name] = getattr(dugong, name)
    # What a caller of 3.8.2 can pass: parameters that came later do not matter to it.
    return {
        name: [
            f'{parameter.name}={parameter.default!r}'
            if parameter.default is not parameter.empty
            else parameter.name
            for parameter in inspect.signature(call).parameters.values()
            if parameter.name not in ADDED_PARAMETERS.get(name, ())
        ]
        for name, call in calls.items()
    }


#: Parameters that the issues add, at the end.
ADDED_PARAMETERS = {
    'AioFuture': ('timeout',),
    'HTTPConnection': ('proxy_headers',),
}


@scenario()
def http_response(dugong: Any, port: int) -> Any:
    headers = {'A': 'b'}
    short = dugong.HTTPResponse('GET', '/p', 200, 'OK', headers)
    full = dugong.HTTPResponse('GET', '/p', 404, 'No', headers, 5)
    return [short.length, full.length, full.status, full.path, full.headers is headers]


EXCEPTIONS = words(
    '_GeneralError ConnectionClosed InvalidResponse UnsupportedResponse ExcessBodyData StateError '
    'ConnectionTimedOut HostnameNotResolvable DNSUnavailable HostnameNotResolvableOrDNSUnavailable'
)


@scenario()
def exceptions_with_a_message(dugong: Any, port: int) -> Any:
    result: Dict[str, Any] = {}
    for name in EXCEPTIONS[:7]:
        error = getattr(dugong, name)('some words')
        result[name] = [str(error), repr(error), error.args]
    return result


@scenario()
def exceptions_without_message(dugong: Any, port: int) -> Any:
    return {
        name: [str(getattr(dugong, name)()) != '', repr(getattr(dugong, name)())]
        for name in EXCEPTIONS[:7]
    }


@scenario()
def exceptions_with_a_host_name(dugong: Any, port: int) -> Any:
    result = {}
    for name in EXCEPTIONS[7:]:
        error = getattr(dugong, name)('some.host')
        result[name] = [error.name, 'some.host' in str(error), error.args]
    return result


@scenario()
def exception_families(dugong: Any, port: int) -> Any:
    bases = {
        'Exception': Exception,
        'OSError': OSError,
        '_GeneralError': dugong._GeneralError,
        'common DNS error': dugong.HostnameNotResolvableOrDNSUnavailable,
    }
    return {
        name: [key for key, base in bases.items() if issubclass(getattr(dugong, name), base)]
        for name in EXCEPTIONS
    }


@scenario()
def temporary_errors(dugong: Any, port: int) -> Any:
    errors = [
        socket.timeout(),
        ConnectionError(),
        BrokenPipeError(),
        ConnectionResetError(),
        ConnectionAbortedError(),
        ConnectionRefusedError(),
        TimeoutError(),
        InterruptedError(),
        BlockingIOError(),
        FileNotFoundError(),
        PermissionError(),
        EOFError(),
        OSError(),
        OSError('words'),
        OSError('words', 'more words'),
        ValueError(),
        Exception(),
        KeyboardInterrupt(),
        socket.gaierror(socket.EAI_NONAME, 'x'),
        socket.gaierror(socket.EAI_AGAIN, 'x'),
        socket.gaierror(errno.EPIPE, 'x'),
        socket.herror(),
        ssl.SSLError(),
        ssl.SSLZeroReturnError(),
        ssl.SSLEOFError(),
        ssl.SSLSyscallError(),
        ssl.SSLWantReadError(),
        ssl.SSLCertVerificationError(),
        dugong.ConnectionClosed(),
        dugong.ConnectionTimedOut(),
        dugong.StateError(),
        dugong.InvalidResponse(),
        dugong.UnsupportedResponse(),
        dugong.ExcessBodyData(),
        dugong.DNSUnavailable('h'),
        dugong.HostnameNotResolvable('h'),
        dugong.HostnameNotResolvableOrDNSUnavailable('h'),
    ]
    return {repr(error): dugong.is_temp_network_error(error) for error in errors}


@scenario()
def temporary_error_numbers(dugong: Any, port: int) -> Any:
    return sorted(
        name
        for number, name in errno.errorcode.items()
        if dugong.is_temp_network_error(OSError(number, 'x'))
    )


@scenario()
def case_insensitive_dict(dugong: Any, port: int) -> Any:
    new = dugong.CaseInsensitiveDict
    made = new([('Some-Key', 1), ('other', 2)], third=3)
    result: Dict[str, Any] = {
        'look-up': [made['SOME-KEY'], 'Other' in made, 'none' in made, made.get('x'), len(made)],
        'missing': [attempt(lambda: made['x']), attempt(made.__delitem__, 'x')],
        'keys': list(made),
        'items': list(made.items()),
        'lower': list(made.lower_items()),
        'repr': repr(new({'Ab': 1})),
        'made from': [new(), new(None), new({'a': 1, 'A': 2}), new({'a': 1}, A=2), new(new(x=1))],
        'wrong': [attempt(new, 5), attempt(lambda: hash(made)), attempt(lambda: made[5])],
    }
    copied = made.copy()
    copied['SOME-key'] = 9
    result['copy'] = [type(copied).__name__, list(copied.items()), made['some-key']]
    result['changes'] = [made.pop('OTHER'), made.setdefault('q', 1), made.update({'Q': 2})]
    result['changed'] = list(made.items())
    del made['Q']
    result['deleted'] = list(made)
    made.clear()
    result['cleared'] = [len(made), bool(made)]
    return result


@scenario()
def case_insensitive_comparison(dugong: Any, port: int) -> Any:
    made = dugong.CaseInsensitiveDict({'Some-Key': 1, 'other': 2})
    others = [
        {'some-key': 1, 'OTHER': 2},
        {'some-key': 1},
        {'some-key': 1, 'other': 3},
        made.copy(),
        dugong.CaseInsensitiveDict(made),
        5,
        None,
        [('some-key', 1), ('other', 2)],
    ]
    return [[made == other, other == made, made != other] for other in others]


@scenario()
def buffer(dugong: Any, port: int) -> Any:
    made = dugong._Buffer(10)
    result: Dict[str, Any] = {
        'new': [made.b, made.e, len(made), len(made.d), type(made.d).__name__],
    }

    def fill(begin: int, end: int) -> None:
        made.d[:] = b'0123456789'
        made.b, made.e = begin, end

    for begin, end in ((3, 7), (0, 10), (0, 4), (10, 10), (5, 5)):
        fill(begin, end)
        length = len(made)
        data = made.exhaust()
        copied = bytes(data)
        made.d[:] = b'abcdefghij'
        same = bytes(data) == copied
        result[f'exhaust {begin} {end}'] = [length, copied, same, made.b, made.e, len(made.d)]
        fill(begin, end)
        made.compact()
        result[f'compact {begin} {end}'] = [made.b, made.e, made.d[made.b : made.e], len(made.d)]
        fill(begin, end)
        made.clear()
        result[f'clear {begin} {end}'] = [made.b, made.e, len(made), len(made.d)]
    return result


@scenario(answers(response(b'hello' * 100), CHUNKED_HELLO))
def smallest_buffer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn._rbuf = dugong._Buffer(63)
    result = [get(conn), conn.readall(), conn._rbuf.b, conn._rbuf.e, len(conn._rbuf.d)]
    return [*result, get(conn), conn.readall()]


@scenario(answers(HELLO + b'', then='wait'))
def buffer_of_a_connection(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    fill = conn._co_fill_buffer(len(HELLO))
    result = [dugong.eval_coroutine(fill, WAIT), bytes(conn._rbuf.d[: conn._rbuf.e])]
    conn.read_response()
    result += [len(conn._rbuf), conn.read(2), len(conn._rbuf), conn.read(9)]
    return [*result, conn._rbuf.b, conn._rbuf.e]


@scenario(answers(HELLO))
def replaced_socket(dugong: Any, port: int) -> Any:
    class Other:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

    conn = connect(dugong, port)
    conn.connect()
    original = conn._sock
    conn._sock = Other()
    result = [fetch(conn), type(conn._sock).__name__]
    conn.disconnect()
    return [*result, conn._sock is None, original.fileno()]


@scenario()
def join(dugong: Any, port: int) -> Any:
    parts = [b'a', bytearray(b'b'), memoryview(b'c')]
    return [dugong._join(parts), dugong._join([]), type(dugong._join(parts))]


@scenario()
def body_following_object(dugong: Any, port: int) -> Any:
    made = [dugong.BodyFollowing(5), dugong.BodyFollowing(length=5), dugong.BodyFollowing()]
    return [each.length for each in made]


def _traced(dugong: Any, port: int, use: Callable[[Any], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, DUGONG_TRACEFILE=f'{folder}/trace-%d.log'):
            conn = connect(dugong, port)
            use(conn)
            conn.disconnect()
        files = sorted(Path(folder).iterdir())
        content = b''.join(file.read_bytes() for file in files)
    # The order of the header lines and the port are none of this scenario's business.
    lines = content.replace(b':%d' % port, b':PORT').decode('latin1').splitlines()
    named = all(file.name[len('trace-') : -len('.log')].isdigit() for file in files)
    return [len(files), named, sorted(lines)]


@scenario(answers(EMPTY, EMPTY))
def tracing(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> None:
        get(conn, '/1')
        put(conn, dugong.BodyFollowing(5))
        conn.write(b'he')
        conn.write(b'llo')
        conn.read_response()

    return _traced(dugong, port, use)


@scenario(answers(HELLO))
def tracing_of_a_body(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> None:
        get(conn)
        conn.readall()

    return _traced(dugong, port, use)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.records.append(record)


def _logged(use: Callable[[], Any]) -> List[logging.LogRecord]:
    logger, collector = logging.getLogger('dugong'), _Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    try:
        use()
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
    return collector.records


@scenario(answers(HELLO, CHUNKED_HELLO))
def debug_logging(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    records = _logged(lambda: [fetch(conn), fetch(conn)])
    return [
        bool(records),
        sorted({record.levelname for record in records}),
        sorted({record.name.split('.')[0] for record in records}),
    ]


@scenario(answers(HELLO))
def read_none_with_debug_logging(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result: List[Any] = []
    _logged(lambda: result.append([get(conn), attempt(conn.read, None)]))
    return result


@scenario(answers(OK + b'Transfer-Encoding: gzip\r\n\r\n'))
def warnings_in_the_log(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    records = _logged(lambda: [get(conn), attempt(conn.readall)])
    return sorted({record.levelname for record in records if record.levelno > logging.DEBUG})
