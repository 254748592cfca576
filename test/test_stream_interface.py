"""The connection as a readable binary stream (end of section 2 of the contract)."""

import codecs
import csv
import gc
import io
import json
import shutil
import threading
import xml.etree.ElementTree as ElementTree
from typing import Any, Callable, List, Tuple

import pytest
from contract_support import Answers, chunked_reply, get, head, reply
from servers import LIMIT, Peer

from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    InvalidResponse,
    UnsupportedResponse,
)

TEXT = 'one\nzw\xf6lf\n\u20ac\n' * 3000 + 'last line, without an end'
RAW = TEXT.encode('utf-8')

FRAMINGS: Any = {
    'length': reply,
    'chunked': lambda data: chunked_reply(*[data[i : i + 999] for i in range(0, len(data), 999)]),
    'until eof': lambda data: head('200 OK', 'Connection: close') + data,
}


@pytest.fixture(params=FRAMINGS)
def responding(request: Any, connect: Any) -> Callable[[bytes], HTTPConnection]:
    """`responding(body)`: a connection that is about to read that body."""

    def make(data: bytes) -> HTTPConnection:
        raw = FRAMINGS[request.param](data)
        conn = connect(Answers(raw, close=request.param == 'until eof'))
        conn.send_request('GET', '/')
        conn.read_response()
        return conn

    return make


class WithOwnCoroutine(HTTPConnection):
    """Counts the calls of the coroutines behind the blocking methods."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.calls: List[str] = []

    def co_send_request(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append('send_request')
        return super().co_send_request(*args, **kwargs)

    def co_write(self, buf: Any) -> Any:
        self.calls.append('write')
        return super().co_write(buf)

    def co_read_response(self) -> Any:
        self.calls.append('read_response')
        return super().co_read_response()

    def co_readinto(self, buf: Any) -> Any:
        self.calls.append('readinto')
        return super().co_readinto(buf)

    def co_readall(self) -> Any:
        self.calls.append('readall')
        return super().co_readall()

    def co_discard(self) -> Any:
        self.calls.append('discard')
        return super().co_discard()


def test_blocking_methods_call_the_coroutines_of_a_subclass(serve: Any) -> None:
    server = serve(Answers(reply(b'first'), reply(b'second')))
    with WithOwnCoroutine(server.host, server.port) as conn:
        conn.send_request('GET', '/')
        assert conn.read_response().status == 200
        assert conn.readinto(bytearray(2)) == 2
        assert conn.readall() == b'rst'
        conn.send_request('GET', '/')
        conn.read_response()
        conn.discard()
        assert conn.calls == [
            'send_request',
            'read_response',
            'readinto',
            'readall',
            'send_request',
            'read_response',
            'discard',
        ]
        conn.calls.clear()
        conn.send_request('PUT', '/', body=BodyFollowing(4))
        conn.write(b'data')
        assert conn.calls == ['send_request', 'write']


@pytest.mark.parametrize('method', ['send_request', 'read_response', 'readinto'])
def test_blocking_method_calls_the_coroutine_of_an_object(serve: Any, method: str) -> None:
    server = serve(Answers(reply(b'first'), reply(b'second')))
    with HTTPConnection(server.host, server.port) as conn:
        real = getattr(conn, f'co_{method}')
        calls: List[Any] = []

        def counted(*args: Any) -> Any:
            calls.append(args)
            return real(*args)

        setattr(conn, f'co_{method}', counted)
        for body in (b'first', b'second'):
            conn.send_request('GET', '/')
            conn.read_response()
            target = bytearray(100)
            assert target[: conn.readinto(target)] == body
        assert len(calls) == 2


# -- the interface itself -----------------------------------------------------------------------


def test_is_readable_and_open_and_not_seekable() -> None:
    conn = HTTPConnection('host.invalid')
    assert conn.readable() is True
    assert conn.writable() is True
    assert conn.seekable() is False
    assert conn.closed is False
    assert conn.flush() is None
    assert conn._sock is None


def test_is_open_before_during_and_after_a_body(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    assert not conn.closed
    conn.send_request('GET', '/')
    conn.read_response()
    assert not conn.closed
    conn.readall()
    assert not conn.closed
    conn.disconnect()
    assert not conn.closed


def test_flush_in_the_middle_of_a_body_changes_nothing(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/')
    conn.read_response()
    conn.read(1)
    conn.flush()
    assert conn.readall() == b'ody'


def test_close_leaves_a_healthy_connection_alone(transport: str, connect: Any, serve: Any) -> None:
    server = serve(Answers(reply(b'one'), reply(b'two'), reply(b'three')))
    conn = connect(server)
    conn.close()
    get(conn)
    for _ in range(2):
        assert conn.close() is None
    conn.send_request('GET', '/')
    conn.close()
    conn.read_response()
    conn.read(1)
    conn.close()
    assert conn.readall() == b'wo'
    assert get(conn)[1] == b'three'
    assert server.connections == 1


def test_close_before_the_first_use_does_not_connect(connect: Any, serve: Any) -> None:
    conn = HTTPConnection('host.invalid')
    conn.close()
    assert conn._sock is None


@pytest.mark.parametrize(
    'raw, error',
    [
        (head('200 OK', 'Transfer-Encoding: chunked') + b'xyz\r\n', InvalidResponse),
        (head('200 OK', 'Content-Length: xyz'), InvalidResponse),
        (head('200 OK'), UnsupportedResponse),
    ],
    ids=['chunk', 'length', 'unsupported'],
)
def test_close_disconnects_after_an_error(
    raw: bytes, error: Any, transport: str, connect: Any, serve: Any
) -> None:
    handler = Answers(raw)
    conn = connect(serve([handler, Answers(reply(b'anew'))]))
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(error):
        conn.readall()
    conn.close()
    assert conn._sock is None
    handler.wait()
    assert get(conn)[1] == b'anew'


@pytest.mark.parametrize('raw', [b'HTTP/1.1 xyz\r\n\r\n', b'HTTP/2.0 200 OK\r\n\r\n'])
def test_close_disconnects_after_an_error_in_a_head(raw: bytes, connect: Any, serve: Any) -> None:
    handler = Answers(raw)
    conn = connect(serve([handler, Answers(reply(b'anew'))]))
    conn.send_request('GET', '/')
    with pytest.raises((InvalidResponse, UnsupportedResponse)):
        conn.read_response()
    conn.close()
    assert conn._sock is None
    handler.wait()
    assert get(conn)[1] == b'anew'


def test_close_disconnects_after_read_raw(connect: Any, serve: Any) -> None:
    handler = Answers(reply(b'body'))
    conn = connect(serve([handler, Answers(reply(b'anew'))]))
    conn.send_request('GET', '/')
    conn.read_raw(5)
    conn.close()
    assert conn._sock is None
    handler.wait()
    assert get(conn)[1] == b'anew'


# -- TextIOWrapper ------------------------------------------------------------------------------


@pytest.mark.parametrize('encoding', ['utf-8', 'latin-1', 'utf-16', 'utf-8-sig'])
def test_wrapper_reads_a_body_to_its_end(encoding: str, transport: str, responding: Any) -> None:
    text = TEXT.replace('\u20ac', 'E')
    conn = responding(text.encode(encoding))
    assert io.TextIOWrapper(conn, encoding=encoding).read() == text


def test_wrapper_reads_in_pieces(responding: Any) -> None:
    wrapper = io.TextIOWrapper(responding(RAW), encoding='utf-8')
    parts: List[str] = []
    while True:
        part = wrapper.read(777)
        if not part:
            break
        parts.append(part)
    assert ''.join(parts) == TEXT
    assert wrapper.read() == ''


def test_wrapper_iterates_over_lines(transport: str, responding: Any) -> None:
    wrapper = io.TextIOWrapper(responding(RAW), encoding='utf-8')
    assert list(wrapper) == TEXT.splitlines(keepends=True)


def test_wrapper_gives_single_lines(responding: Any) -> None:
    wrapper = io.TextIOWrapper(responding(RAW), encoding='utf-8')
    assert wrapper.readline() == 'one\n'
    assert wrapper.readline(2) == 'zw'
    assert wrapper.readline() == '\xf6lf\n'
    rest = wrapper.readlines()
    assert ''.join(rest) == TEXT[len('one\nzw\xf6lf\n') :]
    assert wrapper.readline() == ''


def test_wrapper_of_an_empty_body(responding: Any) -> None:
    wrapper = io.TextIOWrapper(responding(b''), encoding='utf-8')
    assert wrapper.read() == ''
    assert wrapper.readline() == ''


def test_wrapper_says_what_it_is(responding: Any) -> None:
    wrapper = io.TextIOWrapper(responding(RAW), encoding='utf-8')
    assert wrapper.readable() and not wrapper.seekable()
    assert not wrapper.closed
    repr(wrapper)
    wrapper.read()


def test_wrapper_gets_lines_as_they_come(connect: Any) -> None:
    import threading

    got = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(head('200 OK', 'Transfer-Encoding: chunked') + b'4\r\none\n\r\n')
        assert got.wait(20)
        peer.send(b'4\r\ntwo\n\r\n0\r\n\r\n')
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    wrapper = io.TextIOWrapper(conn, encoding='ascii')
    assert wrapper.readline() == 'one\n'
    got.set()
    assert wrapper.readline() == 'two\n'
    assert wrapper.readline() == ''


def leave_by_close(wrapper: io.TextIOWrapper) -> None:
    wrapper.close()


def leave_by_context(wrapper: io.TextIOWrapper) -> None:
    with wrapper:
        pass


def leave_by_detach(wrapper: io.TextIOWrapper) -> None:
    wrapper.detach()


def leave_by_collection(wrapper: io.TextIOWrapper) -> None:
    # The caller drops the last reference.
    pass


LEAVING = [leave_by_close, leave_by_context, leave_by_detach, leave_by_collection]
leaving = pytest.mark.parametrize('leave', LEAVING, ids=lambda f: f.__name__)


@leaving
@pytest.mark.parametrize('kind', ['length', 'chunked'])
def test_wrapper_that_ends_leaves_the_connection_alone(
    kind: str, leave: Any, transport: str, connect: Any, serve: Any, capfd: Any
) -> None:
    server = serve(Answers(*[FRAMINGS[kind](b'body %d' % i) for i in range(3)]))
    conn = connect(server)
    for i in range(3):
        conn.send_request('GET', f'/{i}')
        conn.read_response()
        wrapper = io.TextIOWrapper(conn, encoding='ascii')
        assert wrapper.read() == f'body {i}'
        leave(wrapper)
        del wrapper
        gc.collect()
    assert server.connections == 1
    assert capfd.readouterr() == ('', '')


@leaving
@pytest.mark.parametrize('kind', ['length', 'chunked'])
def test_wrapper_loses_no_pipelined_responses(
    kind: str, leave: Any, transport: str, connect: Any, serve: Any, capfd: Any
) -> None:
    bodies = [b'x' * 5000, b'', b'short', b'y' * 20_000, b'last']
    # All are there before the first is read.
    raw = b''.join(FRAMINGS[kind](body) for body in bodies)
    server = serve(Answers(*[b''] * (len(bodies) - 1), raw, reply(b'one more')))
    conn = connect(server)
    for i in range(len(bodies)):
        conn.send_request('GET', f'/{i}')
    for i, body in enumerate(bodies):
        assert conn.read_response().path == f'/{i}'
        wrapper = io.TextIOWrapper(conn, encoding='ascii')
        assert wrapper.read() == body.decode()
        leave(wrapper)
        del wrapper
        gc.collect()
    assert get(conn)[1] == b'one more'
    assert server.connections == 1
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('size', [1, 2, 3, 4, 5, 100, -1, None])
def test_readline_reads_one_line_of_limited_size(size: Any, connect: Any) -> None:
    conn = connect(Answers(chunked_reply(b't', b'wo\nxy', b'z', b'\n', b'\nend')))
    conn.send_request('GET', '/')
    conn.read_response()
    file = io.BytesIO(b'two\nxyz\n\nend')
    line = b'first'
    while line:
        line = conn.readline(size)
        assert line == file.readline(size)


@pytest.fixture
def stalling(connect: Any) -> Callable[..., Tuple[HTTPConnection, threading.Event]]:
    """`stalling(begin, rest, …)`: a connection whose server has sent *begin* of a body, and the
    event after which it sends the rest. More handlers are for more connections."""

    def make(begin: bytes, rest: bytes, *more: Any) -> Tuple[HTTPConnection, threading.Event]:
        go = threading.Event()

        def handle(peer: Peer) -> None:
            peer.read_request()
            length = len(begin) + len(rest)
            peer.send(head('200 OK', f'Content-Length: {length}') + begin)
            if not begin:
                assert go.wait(LIMIT)
                peer.send(rest)
            peer.read_to_eof()

        conn = connect([handle, *more])
        conn.send_request('GET', '/')
        conn.read_response()
        return conn, go

    return make


@pytest.mark.parametrize(
    'method, begin, what',
    [('readline', b'hello ', 'reading a line'), ('readlines', b'hello\n', 'reading lines')],
)
def test_lines_that_are_lost_break_the_connection(
    method: str, begin: bytes, what: str, stalling: Any, transport: str
) -> None:
    conn, _ = stalling(begin, b'world\n')
    conn.timeout = 0.1
    with pytest.raises(ConnectionTimedOut):
        getattr(conn, method)()
    with pytest.raises(ConnectionClosed, match=what):
        conn.readall()


@pytest.mark.parametrize('method', ['readline', 'readlines'])
def test_lines_of_which_nothing_has_come_can_be_asked_for_again(
    method: str, stalling: Any, transport: str
) -> None:
    conn, go = stalling(b'', b'hello\nworld\n')
    conn.timeout = 0.1
    with pytest.raises(ConnectionTimedOut):
        getattr(conn, method)()
    go.set()
    conn.timeout = LIMIT
    assert list(conn) == [b'hello\n', b'world\n']


def test_lines_that_are_lost_do_not_break_the_connection_after_theirs(stalling: Any) -> None:
    conn, _ = stalling(b'hello\n', b'world\n', Answers(reply(b'another')))

    def begin_anew() -> bytes:
        conn.disconnect()
        conn.send_request('GET', '/another')
        raise ConnectionClosed('the body is gone')

    steps = iter([conn.readline, begin_anew])
    conn.readline = lambda: next(steps)()
    with pytest.raises(ConnectionClosed):
        conn.readlines()
    conn.read_response()
    assert conn.readall() == b'another'


@pytest.mark.parametrize('hint', [-1, None, 0, 1, 4, 5, 8, 9, 100])
def test_readlines_stops_where_that_of_the_base_class_does(hint: Any, connect: Any) -> None:
    conn = connect(Answers(chunked_reply(b'one\nt', b'wo\n\nend')))
    conn.send_request('GET', '/')
    conn.read_response()
    file = io.BytesIO(b'one\ntwo\n\nend')
    assert conn.readlines(hint) == io.IOBase.readlines(file, hint)
    assert conn.readall() == file.read()


def test_read_calls_the_coroutine_of_a_subclass(serve: Any) -> None:
    class Swapping(HTTPConnection):
        def co_read(self, n: Any = None) -> Any:
            data = yield from super().co_read(n)
            return data.swapcase()

    server = serve(Answers(reply(b'hello')))
    with Swapping(server.host, server.port) as conn:
        conn.send_request('GET', '/')
        conn.read_response()
        data = conn.read(10)
        assert type(data) is bytes
        assert data == b'HELLO'


def test_readline_of_nothing(connect: Any) -> None:
    conn = connect(Answers(reply(b'line\n')))
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.readline(0) == b''
    assert conn.readlines() == [b'line\n']


@leaving
def test_wrapper_that_ends_before_the_body_leaves_the_rest(
    leave: Any, transport: str, connect: Any, serve: Any
) -> None:
    server = serve(Answers(reply(b'line\n' * 20_000), reply(b'next')))
    conn = connect(server)
    conn.send_request('GET', '/')
    conn.read_response()
    wrapper = io.TextIOWrapper(conn, encoding='ascii')
    assert wrapper.readline() == 'line\n'
    leave(wrapper)
    del wrapper
    gc.collect()
    assert conn.response_pending()
    conn.discard()
    assert get(conn)[1] == b'next'
    assert server.connections == 1


def test_wrapper_closes_a_broken_connection(connect: Any) -> None:
    raw = head('200 OK', 'Transfer-Encoding: chunked') + b'3\r\none\r\nxyz\r\n'
    handler = Answers(raw)
    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    wrapper = io.TextIOWrapper(conn, encoding='ascii')
    with pytest.raises(InvalidResponse):
        wrapper.read()
    wrapper.close()
    assert conn._sock is None
    handler.wait()


@pytest.mark.parametrize('kind', ['length', 'chunked'])
def test_wrapper_never_takes_a_cut_body_for_a_complete_one(
    kind: str, transport: str, connect: Any
) -> None:
    conn = connect(Answers(FRAMINGS[kind](b'x' * 2000)[:-50], close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    wrapper = io.TextIOWrapper(conn, encoding='ascii')
    with pytest.raises(ConnectionClosed):
        wrapper.read()
    wrapper.close()


def test_wrapper_works_line_by_line_with_a_cut_body(connect: Any) -> None:
    conn = connect(Answers(reply(b'one\ntwo\n')[:-4], close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    wrapper = io.TextIOWrapper(conn, encoding='ascii')
    with pytest.raises(ConnectionClosed):
        list(wrapper)
    wrapper.close()


# -- parsers ------------------------------------------------------------------------------------

DATA = {'key': ['value', 1, None, '\u20ac' * 5000], 'other': {str(i): i for i in range(500)}}
DOCUMENT = (
    '<root>' + ''.join(f'<item n="{i}">\u20ac{i}</item>' for i in range(3000)) + '</root>'
).encode('utf-8')


def test_json_load(transport: str, responding: Any) -> None:
    assert json.load(responding(json.dumps(DATA).encode('utf-8'))) == DATA


def test_json_load_from_a_wrapper(responding: Any) -> None:
    conn = responding(json.dumps(DATA, ensure_ascii=False).encode('utf-8'))
    assert json.load(io.TextIOWrapper(conn, encoding='utf-8')) == DATA


def test_element_tree_parse(transport: str, responding: Any) -> None:
    root = ElementTree.parse(responding(DOCUMENT)).getroot()
    assert [item.text for item in root] == [f'\u20ac{i}' for i in range(3000)]


def test_element_tree_iterparse(responding: Any) -> None:
    items = [e for _, e in ElementTree.iterparse(responding(DOCUMENT)) if e.tag == 'item']
    assert len(items) == 3000


def test_parsers_leave_the_connection_usable(transport: str, connect: Any, serve: Any) -> None:
    body = json.dumps(DATA).encode()
    server = serve(Answers(b'', reply(DOCUMENT) + chunked_reply(body), reply(b'next')))
    conn = connect(server)
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    assert len(ElementTree.parse(conn).getroot()) == 3000
    conn.read_response()
    assert json.load(conn) == DATA
    assert get(conn)[1] == b'next'
    assert server.connections == 1


def test_csv_reader(responding: Any) -> None:
    conn = responding(b'a,b\r\n1,"two\r\nlines"\r\n')
    wrapper = io.TextIOWrapper(conn, encoding='ascii', newline='')
    assert list(csv.reader(wrapper)) == [['a', 'b'], ['1', 'two\r\nlines']]


def test_copyfileobj(transport: str, responding: Any) -> None:
    target = io.BytesIO()
    shutil.copyfileobj(responding(RAW), target, 1000)
    assert target.getvalue() == RAW


def test_codecs_reader(responding: Any) -> None:
    assert codecs.getreader('utf-8')(responding(RAW)).read() == TEXT


def test_buffered_reader(responding: Any) -> None:
    conn = responding(RAW)
    reader = io.BufferedReader(conn)
    assert reader.readline() == b'one\n'
    assert reader.read() == RAW[4:]
    reader.detach()


# -- read1 ---------------------------------------------------------------------------------------


def test_read1_takes_what_is_there(responding: Any) -> None:
    conn = responding(RAW)
    parts: List[bytes] = []
    while True:
        data = conn.read1(1000)
        assert type(data) is bytes and len(data) <= 1000
        if not data:
            break
        parts.append(data)
    assert b''.join(parts) == RAW


@pytest.mark.parametrize('arguments', [(), (-1,)], ids=['none', '-1'])
def test_read1_without_a_size(arguments: Any, responding: Any) -> None:
    conn = responding(RAW)
    parts: List[bytes] = []
    while True:
        data = conn.read1(*arguments)
        if not data:
            break
        parts.append(data)
    assert b''.join(parts) == RAW
