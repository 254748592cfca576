"""Request bodies of all kinds: chunked ones, streams, files sent by the kernel, iterables."""

import array
import base64
import bz2
import collections
import contextlib
import errno
import gc
import gzip
import hashlib
import io
import mmap
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import textwrap
import tracemalloc
import weakref
from types import MappingProxyType
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest
from contract_support import FailingSocket
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from servers import LIMIT, Peer
from upload_support import (
    BYTES_LIKE,
    EMPTY,
    FORMS,
    RUNNERS,
    Link,
    Reader,
    Store,
    Tap,
    Unseekable,
    anonymous_map,
    answer,
    pattern,
    raising,
    split,
)

import dugong
from dugong import (
    BodyFollowing,
    CaseInsensitiveDict,
    ConnectionClosed,
    ExcessBodyData,
    HTTPConnection,
    StateError,
)

OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'

needs_sendfile = pytest.mark.skipif(not hasattr(os, 'sendfile'), reason='no os.sendfile')


@pytest.fixture
def link() -> Iterator[Link]:
    """Both ends of a plain connection in this thread."""
    with Link() as link:
        yield link


@pytest.fixture
def narrow() -> Iterator[Link]:
    """The same, with as little room in the kernel as possible."""
    with Link(small=True) as link:
        yield link


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    return Tap(monkeypatch)


@pytest.fixture
def sample(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file of 300000 bytes."""
    path = tmp_path / 'sample'
    path.write_bytes(pattern(300000))
    return path


def begin(link: Link, length: Optional[int] = None, **options: Any) -> bytes:
    """Send a request whose body follows, return its head."""
    body = BodyFollowing() if length is None else BodyFollowing(length)
    link.conn.send_request('PUT', '/upload', body=body, **options)
    return link.available()


def usable(link: Link) -> None:
    """Check that nothing is outstanding, nothing was sent, and the next request goes through."""
    assert link.available() == b''
    assert not link.conn.response_pending()
    link.conn.send_request('GET', '/next')
    assert link.available().startswith(b'GET /next HTTP/1.1\r\n')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def broken(link: Link) -> None:
    """Check that the connection is broken, and works again after `reset`."""
    conn = link.conn
    for _ in range(2):
        for use in (
            lambda: conn.send_request('GET', '/'),
            conn.read_response,
            lambda: conn.write(b'x'),
            conn.write_eof,
        ):
            with pytest.raises(ConnectionClosed):
                use()
    conn.reset()
    link.connect()
    usable(link)


# Chunked bodies


def test_body_following_without_length_is_announced_as_chunked(link: Link) -> None:
    fields = begin(link).lower().split(b'\r\n')
    assert fields.count(b'transfer-encoding: chunked') == 1
    assert not [line for line in fields if line.startswith((b'content-length', b'content-md5'))]


@pytest.mark.parametrize('name', ['Content-Length', 'content-length', 'Transfer-Encoding'])
def test_framing_fields_of_the_caller_are_dropped(name: str, link: Link) -> None:
    link.conn.send_request('PUT', '/', {name: '17'}, body=BodyFollowing())
    head = link.available()
    assert b': 17\r\n' not in head
    assert head.lower().count(b'transfer-encoding') == 1


@pytest.mark.parametrize('runner', RUNNERS)
def test_each_write_is_one_chunk(runner: str, link: Link) -> None:
    def upload(conn: Any) -> Any:
        yield from conn.co_send_request('PUT', '/', body=BodyFollowing())
        yield from conn.co_write(b'one')
        yield from conn.co_write(b'sixteen bytes !!')
        yield from conn.co_write_eof()

    RUNNERS[runner](link.conn, upload)
    sent = link.available().partition(b'\r\n\r\n')[2]
    assert sent.lower() == b'3\r\none\r\n10\r\nsixteen bytes !!\r\n0\r\n\r\n'


def test_chunk_has_left_when_write_returns(link: Link) -> None:
    begin(link)
    link.conn.write(b'one')
    assert link.available() == b'3\r\none\r\n'


@pytest.mark.parametrize('kind', EMPTY)
def test_empty_write_sends_nothing_and_does_not_end_the_body(kind: str, link: Link) -> None:
    begin(link)
    link.conn.write(EMPTY[kind]())
    assert link.available() == b''
    link.conn.write(b'data')
    assert link.available() == b'4\r\ndata\r\n'
    assert link.conn._out_remaining


@pytest.mark.parametrize('kind', BYTES_LIKE)
def test_chunk_holds_the_bytes_of_any_bytes_like_object(kind: str, link: Link) -> None:
    begin(link)
    link.conn.write(BYTES_LIKE[kind]())
    data = memoryview(BYTES_LIKE[kind]()).tobytes()
    assert link.available().lower() == b'%x\r\n%b\r\n' % (len(data), data)


def test_size_of_a_chunk(link: Link) -> None:
    head = begin(link)
    sizes = [1, 9, 10, 15, 16, 17, 255, 256, 4095, 4096, 65535, 65536, 65537]
    data = [pattern(size) for size in sizes]

    def write() -> Any:
        for piece in data:
            yield from link.conn.co_write(piece)
        yield from link.conn.co_write_eof()

    sent = link.collect(link.start(write()))
    assert link.parse(head + sent).chunks == data


@pytest.mark.parametrize('trailers', [None, {}, CaseInsensitiveDict()])
def test_write_eof_ends_the_body(trailers: Any, link: Link) -> None:
    begin(link)
    link.conn.write_eof(trailers)
    assert link.available() == b'0\r\n\r\n'
    assert not link.conn._out_remaining
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('mapping', [dict, CaseInsensitiveDict, MappingProxyType])
@pytest.mark.parametrize('runner', RUNNERS)
def test_trailers_are_sent_behind_the_last_chunk(runner: str, mapping: Any, link: Link) -> None:
    trailers = mapping({'Content-MD5': 'abc=', 'X-Count': 7, 'x-latin': 'caf\xe9'})

    def upload(conn: Any) -> Any:
        headers = {'Trailer': 'Content-MD5, X-Count, X-Latin'}
        yield from conn.co_send_request('PUT', '/', headers, BodyFollowing())
        yield from conn.co_write(b'data')
        yield from conn.co_write_eof(trailers)

    RUNNERS[runner](link.conn, upload)
    sent = link.available()
    end = b'0\r\nContent-MD5: abc=\r\nX-Count: 7\r\nx-latin: caf\xe9\r\n\r\n'
    assert sent.endswith(b'\r\n\r\n4\r\ndata\r\n' + end)
    assert b'\r\nTrailer: Content-MD5, X-Count, X-Latin\r\n' in sent
    assert trailers == {'Content-MD5': 'abc=', 'X-Count': 7, 'x-latin': 'caf\xe9'}


def test_trailers_are_parsed_by_h11(link: Link) -> None:
    head = begin(link)
    link.conn.write(b'data')
    link.conn.write_eof({'X-One': 'a b', 'X-Two': ''})
    parsed = link.parse(head)
    assert parsed.body == b'data'
    assert parsed.trailers == [(b'x-one', b'a b'), (b'x-two', b'')]


#: Fields that a recipient needs before the content (RFC 9110, section 6.5.1).
# fmt: off
FORBIDDEN_TRAILERS = [
    'Transfer-Encoding', 'Content-Length', 'Host', 'Connection', 'Keep-Alive', 'TE', 'Trailer',
    'Upgrade', 'Cache-Control', 'Expect', 'Max-Forwards', 'Pragma', 'Range', 'If-Match',
    'If-None-Match', 'If-Modified-Since', 'If-Unmodified-Since', 'If-Range', 'Authorization',
    'Proxy-Authorization', 'WWW-Authenticate', 'Proxy-Authenticate', 'Cookie', 'Set-Cookie',
    'Content-Encoding', 'Content-Type', 'Content-Range', 'Age', 'Date', 'Expires', 'Location',
    'Retry-After', 'Vary',
]
# fmt: on


@pytest.mark.parametrize('name', FORBIDDEN_TRAILERS)
def test_forbidden_trailer_is_refused_and_writing_may_go_on(name: str, link: Link) -> None:
    head = begin(link)
    for spelling in (name, name.lower(), name.upper()):
        with pytest.raises(ValueError, match=spelling):
            link.conn.write_eof({'X-Good': 'x', spelling: 'chunked'})
    assert link.available() == b''
    link.conn.write(b'data')
    link.conn.write_eof({'X-Good': 'x'})
    assert link.parse(head).chunks == [b'data']


@pytest.mark.parametrize(
    'trailers',
    [
        {'X': 'a\r\nInjected: b'},
        {'X': 'a\nb'},
        {'X': 'a\rb'},
        {'X': 'a\0b'},
        {'X': 'a\x7fb'},
        {'X': 'snow \u2603'},
        {'X\r\nInjected': 'b'},
        {'X Y': 'b'},
        {'X:': 'b'},
        {'': 'b'},
        {'\xe9': 'b'},
    ],
    ids=repr,
)
def test_trailer_that_cannot_be_sent_is_refused(trailers: Dict[str, str], link: Link) -> None:
    head = begin(link)
    with pytest.raises(ValueError):
        link.conn.write_eof(trailers)
    assert link.available() == b''
    link.conn.write_eof()
    assert link.parse(head).trailers == []


def test_trailers_need_a_chunked_body(link: Link) -> None:
    begin(link, 4)
    for _ in range(2):
        with pytest.raises(ValueError):
            link.conn.write_eof({'X-Trailer': 'x'})
    link.conn.write(b'data')
    with pytest.raises(ValueError):
        link.conn.write_eof({'X-Trailer': 'x'})
    assert link.available() == b'data'
    link.conn.write_eof()
    assert link.available() == b''
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_write_eof_before_the_length_is_reached_names_what_is_missing(link: Link) -> None:
    begin(link, 7190)
    link.conn.write(b'x' * 12)
    with pytest.raises(StateError, match='7178'):
        link.conn.write_eof()
    link.conn.write(b'y' * 7177)
    with pytest.raises(StateError, match=r'\b1\b'):
        link.conn.write_eof()
    link.conn.write(b'z')
    link.conn.write_eof()
    assert link.available() == b'x' * 12 + b'y' * 7177 + b'z'


@pytest.mark.parametrize('length', [None, 0, 4])
def test_write_eof_is_allowed_once(length: Optional[int], link: Link) -> None:
    begin(link, length)
    if length != 0:
        link.conn.write(b'data')
    link.conn.write_eof()
    sent = link.available()
    for _ in range(2):
        with pytest.raises(StateError):
            link.conn.write_eof()
        with pytest.raises(StateError):
            link.conn.write(b'more')
    assert link.available() == b''
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')
    with pytest.raises(StateError):
        link.conn.write_eof()
    assert sent == {None: b'4\r\ndata\r\n0\r\n\r\n', 0: b'', 4: b'data'}[length]


def test_write_eof_of_a_body_with_length_is_not_needed(link: Link) -> None:
    begin(link, 4)
    link.conn.write(b'data')
    assert not link.conn._out_remaining
    link.conn.send_request('GET', '/next')
    with pytest.raises(StateError):
        link.conn.write_eof()


@pytest.mark.parametrize('body', [None, b'bytes', [b'iter', b'able'], io.BytesIO(b'stream')])
def test_write_eof_without_a_body_to_end_is_a_state_error(body: Any, link: Link) -> None:
    with pytest.raises(StateError):
        link.conn.write_eof()
    link.conn.send_request('PUT', '/', body=body)
    sent = link.available()
    with pytest.raises(StateError):
        link.conn.write_eof()
    assert link.available() == b''
    assert sent
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('length', [None, 4])
def test_nothing_can_be_written_or_ended_before_the_100(length: Optional[int], link: Link) -> None:
    head = begin(link, length, expect100=True)
    assert b'\r\nExpect: 100-continue\r\n' in head
    for _ in range(2):
        with pytest.raises(StateError):
            link.conn.write_eof()
        with pytest.raises(StateError):
            link.conn.write(b'data')
        with pytest.raises(StateError):
            link.conn.write(io.BytesIO(b'data'))
        with pytest.raises(StateError):
            link.conn.send_request('GET', '/')
    assert link.available() == b''
    assert link.conn._out_remaining
    link.feed(CONTINUE)
    assert link.conn.read_response().status == 100
    assert link.conn._out_remaining
    link.conn.write(b'data')
    link.conn.write_eof()
    assert not link.conn._out_remaining
    assert link.parse(head).body == b'data'
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('status', ['200 OK', '302 Found', '417 Expectation Failed'])
def test_chunked_body_is_not_sent_after_another_answer_than_100(status: str, link: Link) -> None:
    begin(link, expect100=True)
    link.feed(b'HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n' % status.encode())
    assert link.conn.read_response().status == int(status[:3])
    with pytest.raises(StateError):
        link.conn.write(b'data')
    with pytest.raises(StateError):
        link.conn.write_eof()
    assert not link.conn._out_remaining
    usable(link)


def test_incomplete_chunked_body_forbids_the_next_request_and_its_own_response(
    link: Link,
) -> None:
    head = begin(link)
    for data in (b'', b'data', b''):
        link.conn.write(data)
        with pytest.raises(StateError):
            link.conn.send_request('GET', '/')
        with pytest.raises(StateError):
            link.conn.read_response()
        assert link.conn._out_remaining
    link.conn.write_eof()
    assert link.parse(head).chunks == [b'data']
    link.conn.send_request('GET', '/next')
    link.feed(OK + OK)
    assert [answer(link.conn) for _ in range(2)] == [(200, b'ok')] * 2


def test_earlier_answers_can_be_read_while_a_chunked_body_is_incomplete(link: Link) -> None:
    link.conn.send_request('GET', '/first')
    link.conn.send_request('PUT', '/second', body=BodyFollowing())
    link.conn.write(b'one')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')
    with pytest.raises(StateError):
        link.conn.read_response()
    link.conn.write(b'two')
    link.conn.write_eof()
    assert link.available().endswith(b'\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n')
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_a_chunked_body_may_be_empty(link: Link) -> None:
    head = begin(link)
    link.conn.write_eof()
    assert link.parse(head).chunks == []


@pytest.mark.parametrize('data', ['text', None, 5, [b'list'], {'a': b'b'}], ids=repr)
@pytest.mark.parametrize('length', [None, 4])
def test_write_refuses_what_is_neither_bytes_like_nor_a_stream(
    length: Optional[int], data: Any, link: Link
) -> None:
    head = begin(link, length)
    with pytest.raises(TypeError):
        link.conn.write(data)
    assert link.available() == b''
    link.conn.write(b'data')
    link.conn.write_eof()
    assert link.parse(head).body == b'data'


@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=40),
            st.binary(max_size=40).map(bytearray),
            st.integers(0, 20000).map(bytes),
            # What looks like framing must not be taken for it.
            st.sampled_from([b'\r\n', b'0\r\n\r\n', b'5\r\n', b'\n']),
            st.binary(max_size=40).map(lambda data: memoryview(data)[::-1]),
            st.binary(max_size=300).map(io.BytesIO),
            st.tuples(st.binary(max_size=300), st.integers(1, 20)).map(lambda t: Unseekable(*t)),
        ),
        max_size=8,
    ),
    trailers=st.dictionaries(
        st.sampled_from(['X-One', 'x-two', 'Content-MD5']),
        st.text('\t !abc~', max_size=8).map(str.strip),
        max_size=3,
    ),
)
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_chunked_upload_parsed_by_h11_is_what_was_written(
    pieces: List[Any], trailers: Dict[str, str], shared_link: Link
) -> None:
    expected = b''.join(
        piece.getvalue()
        if isinstance(piece, io.BytesIO)
        else piece._data.getvalue()
        if isinstance(piece, Unseekable)
        else bytes(piece)
        for piece in pieces
    )
    for piece in pieces:
        if hasattr(piece, 'seek'):
            getattr(piece, '_data', piece).seek(0)

    def upload(conn: Any) -> Any:
        yield from conn.co_send_request('PUT', '/', body=BodyFollowing())
        for piece in pieces:
            yield from conn.co_write(piece)
        yield from conn.co_write_eof(trailers)

    link = shared_link
    parsed = link.parse(link.collect(link.start(upload(link.conn))))
    assert parsed.body == expected
    assert dict(parsed.trailers) == {
        name.lower().encode(): value.encode() for name, value in trailers.items()
    }
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@given(pieces=st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 9000).map(bytes))))
@settings(deadline=None, max_examples=40, suppress_health_check=list(HealthCheck))
def test_iterable_parsed_by_h11_is_what_was_given(pieces: List[bytes], shared_link: Link) -> None:
    link = shared_link
    running = link.start(link.conn.co_send_request('PUT', '/', body=iter(pieces)))
    parsed = link.parse(link.collect(running))
    assert parsed.chunks == [piece for piece in pieces if piece]
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


@pytest.fixture(scope='module')
def shared_link() -> Iterator[Link]:
    """One connection for all examples of a property."""
    with Link() as link:
        yield link


# System calls and copies


@pytest.mark.parametrize('size', [1, 100, 10000, 16384, 65536, 1 << 20, 32 << 20])
def test_head_data_and_tail_of_a_chunk_leave_in_one_call(size: int, link: Link, tap: Tap) -> None:
    begin(link)
    tap.sock = link.conn._sock
    tap.swallow = True
    data = bytes(size)
    link.conn.write(data)
    (call,) = tap.calls
    assert sum(map(len, call.pieces)) == len(b'%x' % size) + size + 4


@pytest.mark.parametrize('size', [1, 100, 10000])
def test_small_chunk_leaves_as_one_tls_record(size: int, certificates: Any, tap: Tap) -> None:
    with Link(certificates=certificates) as link:
        begin(link)
        tap.sock = link.conn._sock
        link.conn.write(bytes(size))
        assert len(tap.calls) == 1


def test_end_with_trailers_leaves_in_one_call(link: Link, tap: Tap) -> None:
    begin(link)
    tap.sock = link.conn._sock
    link.conn.write_eof({'X-One': 'a', 'X-Two': 'b'})
    assert len(tap.calls) == 1


@pytest.mark.parametrize('size', [70000, 1 << 20, 32 << 20])
def test_head_and_large_body_leave_in_one_call_without_a_copy(
    size: int, link: Link, tap: Tap
) -> None:
    body = bytes(size)
    tap.sock = link.conn._sock
    tap.swallow = True
    link.conn.send_request('PUT', '/', body=body)
    (call,) = tap.calls
    head, content = call.pieces
    assert bytes(head).endswith(b'\r\n\r\n')
    assert content is body or (memoryview(content).obj is body and len(content) == size)


@pytest.mark.parametrize('form', ['bytes', 'view', 'written', 'chunked', 'list'])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_data_are_not_copied(
    tls: bool, form: str, certificates: Any, sample: pathlib.Path, monkeypatch: Any
) -> None:
    data = bytes(8 << 20)
    monkeypatch.setattr(HTTPConnection, 'content_md5', False)
    # Only part of a body goes out at once, so that the rest has to be kept.
    with Link(small=True, certificates=certificates if tls else None) as link:
        monkeypatch.setattr('upload_support._pieces', lambda data: [data])
        tracemalloc.start()
        try:
            running = link.start(FORMS[form].call(link.conn, data, sample))
            received = 0
            while received < 1 << 17:
                received += len(link.available())
                assert not running.advance()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    # What the server's end receives counts, too.
    assert peak < 1 << 20


def test_large_head_and_body_over_tls(certificates: Any) -> None:
    # Both are larger than a record.
    headers = {f'X-{i}': 'x' * 1000 for i in range(40)}
    data = pattern(100000)
    with Link(certificates=certificates) as link:
        running = link.start(link.conn.co_send_request('PUT', '/', headers, data))
        parsed = link.parse(link.collect(running))
    assert parsed.body == data


# Every form


SIZES = [0, 1, 16383, 16384, 65535, 65536, 65537, 300001]


@pytest.mark.parametrize('runner', ['blocking', 'stepped'])
@pytest.mark.parametrize('form', FORMS)
def test_body_arrives_as_it_was_given(
    form: str, runner: str, transport: str, connect: Any, tmp_path: pathlib.Path
) -> None:
    store = Store()
    conn = connect(store)
    for size in SIZES:
        data = pattern(size)
        file = tmp_path / 'body'
        file.write_bytes(data)
        RUNNERS[runner](conn, FORMS[form].call, data, file)
        assert answer(conn) == (200, b'stored')
        assert store.last.body == data
        framing = {name.lower(): value for name, value in store.last.fields}
        if FORMS[form].chunked:
            assert framing['transfer-encoding'] == 'chunked'
            assert 'content-length' not in framing
        else:
            assert framing['content-length'] == str(size)
            assert 'transfer-encoding' not in framing
        assert ('content-md5' in framing) == (form in ('bytes', 'view'))


@pytest.mark.parametrize('form', FORMS)
def test_large_body_on_asyncio(
    form: str, transport: str, connect: Any, tmp_path: pathlib.Path
) -> None:
    store = Store()
    conn = connect(store)
    data = pattern((1 << 20) + 17)
    file = tmp_path / 'body'
    file.write_bytes(data)
    RUNNERS['asyncio'](conn, FORMS[form].call, data, file)
    assert answer(conn) == (200, b'stored')
    assert store.last.body == data


@pytest.mark.parametrize('form', FORMS)
def test_bodies_can_be_pipelined(
    form: str, transport: str, connect: Any, sample: pathlib.Path
) -> None:
    if FORMS[form].expect100:
        pytest.skip('waits for an answer')
    store = Store()
    conn = connect(store)
    data = sample.read_bytes()[:50000]
    sample.write_bytes(data)
    for _ in range(3):
        RUNNERS['blocking'](conn, FORMS[form].call, data, sample)
        conn.send_request('GET', '/between')
    assert [answer(conn) for _ in range(6)] == [(200, b'stored')] * 6
    assert [request.body for request in store.requests] == [data, b''] * 3


@pytest.mark.parametrize('form', ['file', 'raw file', 'memory stream', 'stream', 'list'])
def test_sources_are_sent_through_a_proxy(
    form: str, serve: Any, connect: Any, sample: pathlib.Path
) -> None:
    store = Store()
    server = serve(store)
    conn = HTTPConnection('origin.example', proxy=server.address)
    conn.timeout = LIMIT
    with conn:
        RUNNERS['blocking'](conn, FORMS[form].call, sample.read_bytes(), sample)
        assert answer(conn) == (200, b'stored')
    assert store.last.target == 'http://origin.example/upload'
    assert store.last.body == sample.read_bytes()


# Streams


def _open(path: pathlib.Path, mode: str = 'rb', **options: Any) -> Any:
    return path.open(mode, **options)


def _pipe(data: bytes, **options: Any) -> Any:
    receiver, sender = os.pipe()
    with open(sender, 'wb') as stream:
        stream.write(data)
    return open(receiver, 'rb', **options)


def _compressed(module: Any, path: pathlib.Path) -> Any:
    target = path.with_suffix('.compressed')
    target.write_bytes(module.compress(path.read_bytes(), 1))
    return module.open(target, 'rb')


def _spooled(path: pathlib.Path, roll: bool) -> Any:
    stream = tempfile.SpooledTemporaryFile(max_size=0)
    stream.write(path.read_bytes())
    if roll:
        stream.rollover()
    stream.seek(0)
    return stream


def _temporary(path: pathlib.Path, make: Callable[[], Any]) -> Any:
    stream = make()
    # Not flushed yet.
    stream.write(path.read_bytes())
    stream.seek(0)
    return stream


class Overridden(io.FileIO):
    """A file that is not what the kernel sees."""

    def read(self, size: int = -1) -> bytes:
        return bytes(255 - byte for byte in super().read(size))

    def readinto(self, buf: Any) -> int:
        data = self.read(len(buf))
        buf[: len(data)] = data
        return len(data)


#: Streams with the contents of a file. Those in KNOWN can tell their length.
STREAMS: Dict[str, Callable[[pathlib.Path], Any]] = {
    'file': _open,
    'raw file': lambda path: _open(path, buffering=0),
    'file opened for update': lambda path: _open(path, 'r+b'),
    'raw file opened for update': lambda path: _open(path, 'r+b', buffering=0),
    'memory': lambda path: io.BytesIO(path.read_bytes()),
    'buffered memory': lambda path: io.BufferedReader(io.BytesIO(path.read_bytes())),
    'temporary file': lambda path: _temporary(path, tempfile.TemporaryFile),
    'named temporary file': lambda path: _temporary(path, tempfile.NamedTemporaryFile),
    'spooled file': lambda path: _spooled(path, False),
    'spooled file on disk': lambda path: _spooled(path, True),
    'pipe': lambda path: _pipe(path.read_bytes()[:60000]),
    'raw pipe': lambda path: _pipe(path.read_bytes()[:60000], buffering=0),
    'unseekable': lambda path: Unseekable(path.read_bytes()),
    'only read': lambda path: Reader(split(path.read_bytes(), 7777)),
    'only read, other types': lambda path: Reader(
        [array.array('H', [1, 2]), bytearray(b'abc'), memoryview(bytes(8)).cast('I')]
    ),
    'gzip': lambda path: _compressed(gzip, path),
    'bz2': lambda path: _compressed(bz2, path),
}
KNOWN = [name for name in STREAMS if 'file' in name or 'memory' in name]


def contents(kind: str, path: pathlib.Path) -> bytes:
    """What the stream of this kind gives, read by other means."""
    stream = STREAMS[kind](path)
    parts = []
    with contextlib.closing(stream) if hasattr(stream, 'close') else contextlib.nullcontext():
        while True:
            part = stream.read(50000)
            if not part:
                return b''.join(parts)
            parts.append(memoryview(part).tobytes())


@contextlib.contextmanager
def opened(kind: str, path: pathlib.Path) -> Iterator[Any]:
    stream = STREAMS[kind](path)
    with contextlib.closing(stream) if hasattr(stream, 'close') else contextlib.nullcontext():
        yield stream


@pytest.mark.parametrize('kind', STREAMS)
def test_stream_is_sent_to_its_end(
    kind: str, transport: str, connect: Any, sample: pathlib.Path
) -> None:
    store = Store()
    conn = connect(store)
    with opened(kind, sample) as stream:
        conn.send_request('PUT', '/', body=stream)
        assert answer(conn) == (200, b'stored')
        # Nothing is left.
        assert not stream.read(1)
    request = store.last
    assert request.body == contents(kind, sample)
    assert request.field('Content-MD5') is None
    if kind in KNOWN:
        assert request.field('Content-Length') == str(len(request.body))
        assert request.field('Transfer-Encoding') is None
    elif kind not in ('gzip', 'bz2'):
        # The length of a compressed file can be found out, but at a price.
        assert request.field('Content-Length') is None
        assert request.field('Transfer-Encoding') == 'chunked'


@pytest.mark.parametrize('kind', KNOWN)
def test_stream_is_sent_from_its_position(kind: str, link: Link, sample: pathlib.Path) -> None:
    for skip in (1, 65536, 299999, 300000, 300001):
        with opened(kind, sample) as stream:
            stream.seek(skip)
            running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
            parsed = link.parse(link.collect(running))
            assert stream.tell() == max(skip, 300000)
        assert parsed.body == sample.read_bytes()[skip:]
        lengths = [value for name, value in parsed.head.headers if name == b'content-length']
        assert lengths == [b'%d' % len(parsed.body)]


def test_what_was_read_ahead_into_the_buffer_of_a_file_is_sent(
    link: Link, sample: pathlib.Path
) -> None:
    with sample.open('rb') as stream:
        assert stream.readline()
        stream.peek(1)
        position = stream.tell()
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        parsed = link.parse(link.collect(running))
        assert stream.read() == b''
    assert parsed.body == sample.read_bytes()[position:]


def test_a_file_class_of_the_caller_is_read_not_bypassed(link: Link, sample: pathlib.Path) -> None:
    expected = bytes(255 - byte for byte in sample.read_bytes())
    for make in (lambda: Overridden(sample), lambda: io.BufferedReader(Overridden(sample))):
        with make() as stream:
            running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
            assert link.parse(link.collect(running)).body == expected
        link.feed(OK)
        assert answer(link.conn) == (200, b'ok')


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='no /proc')
@pytest.mark.parametrize('name', ['/proc/filesystems', '/proc/self/cmdline', '/dev/null'])
@pytest.mark.parametrize('buffering', [-1, 0])
def test_file_that_does_not_know_its_length_is_sent_to_its_end(
    buffering: int, name: str, transport: str, connect: Any
) -> None:
    store = Store()
    conn = connect(store)
    with open(name, 'rb', buffering=buffering) as stream:
        conn.send_request('PUT', '/', body=stream)
    assert answer(conn) == (200, b'stored')
    assert store.last.body == pathlib.Path(name).read_bytes()


def test_response_of_another_connection_is_a_stream(
    transport: str, connect: Any, sample: pathlib.Path
) -> None:
    data = sample.read_bytes()
    chunks = b''.join(b'%x\r\n%b\r\n' % (len(part), part) for part in split(data, 9000))

    def give(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n' + chunks)
        peer.send(b'0\r\n\r\n')

    store = Store()
    source = connect(give)
    conn = connect(store)
    source.send_request('GET', '/')
    source.read_response()
    conn.send_request('PUT', '/', body=source)
    assert answer(conn) == (200, b'stored')
    assert store.last.body == data


def test_content_md5_of_the_caller_goes_out_with_a_stream(link: Link) -> None:
    link.conn.send_request('PUT', '/', {'Content-MD5': 'abc='}, io.BytesIO(b'data'))
    assert link.available().count(b'\r\nContent-MD5: abc=\r\n') == 1


class TextReader:
    def read(self, size: int = -1) -> str:
        return ''


TEXT: Dict[str, Callable[[pathlib.Path], Any]] = {
    'file': lambda path: path.open('r', encoding='latin1'),
    'empty file': lambda path: open(os.devnull, encoding='latin1'),
    'memory': lambda path: io.StringIO('text'),
    'empty memory': lambda path: io.StringIO(),
    'wrapper': lambda path: io.TextIOWrapper(io.BytesIO(b'text'), encoding='latin1'),
    'temporary file': lambda path: tempfile.NamedTemporaryFile('w+'),
    'spooled file': lambda path: tempfile.SpooledTemporaryFile(mode='w+'),
    'anything that gives str': lambda path: TextReader(),
}


@pytest.mark.parametrize('kind', TEXT)
@pytest.mark.parametrize('connected', [False, True])
def test_text_stream_is_refused_before_anything_is_sent(
    connected: bool, kind: str, sample: pathlib.Path
) -> None:
    with Link(connect=connected) as link:
        stream = TEXT[kind](sample)
        with pytest.raises(TypeError):
            link.conn.send_request('PUT', '/', body=stream)
        if hasattr(stream, 'close'):
            stream.close()
        if not connected:
            link.accept_or_connect()
        usable(link)


@pytest.mark.parametrize('kind', TEXT)
@pytest.mark.parametrize('length', [None, 4])
def test_text_stream_is_not_written_and_writing_may_go_on(
    length: Optional[int], kind: str, link: Link, sample: pathlib.Path
) -> None:
    head = begin(link, length)
    stream = TEXT[kind](sample)
    with pytest.raises(TypeError):
        link.conn.write(stream)
    if hasattr(stream, 'close'):
        stream.close()
    assert link.available() == b''
    link.conn.write(b'data')
    link.conn.write_eof()
    assert link.parse(head).body == b'data'


@pytest.mark.parametrize(
    'body',
    ['text', {'a': b'b'}, CaseInsensitiveDict(), 5, object(), pathlib.Path('x'), ''],
    ids=repr,
)
def test_what_cannot_be_a_body_is_refused_before_anything_is_sent(body: Any, link: Link) -> None:
    with pytest.raises(TypeError):
        link.conn.send_request('PUT', '/', body=body)
    usable(link)


# Order of tests


def test_bytes_like_object_comes_before_stream(link: Link, tmp_path: pathlib.Path) -> None:
    path = tmp_path / 'mapped'
    path.write_bytes(b'the whole buffer')
    with path.open('r+b') as file, mmap.mmap(file.fileno(), 0) as mapped:
        assert mapped.read(4) == b'the '
        running = link.start(link.conn.co_send_request('PUT', '/', body=mapped))
        parsed = link.parse(link.collect(running))
        assert mapped.tell() == 4
    assert parsed.body == b'the whole buffer'
    digest = base64.b64encode(hashlib.md5(parsed.body).digest())
    assert (b'content-md5', digest) in list(parsed.head.headers)


def test_bytes_like_object_comes_before_iterable(link: Link) -> None:
    # An iterable of int by itself.
    running = link.start(link.conn.co_send_request('PUT', '/', body=array.array('B', b'data')))
    assert link.parse(link.collect(running)).body == b'data'


def test_refused_type_comes_before_stream(link: Link) -> None:
    class Both(Dict[str, bytes]):
        def read(self, size: int = -1) -> bytes:
            raise AssertionError('read from a mapping')

    with pytest.raises(TypeError):
        link.conn.send_request('PUT', '/', body=Both())
    usable(link)


def test_stream_comes_before_iterable(link: Link) -> None:
    class Both(Reader):
        def __iter__(self) -> Iterator[bytes]:
            raise AssertionError('iterated over a stream')

    link.conn.send_request('PUT', '/', body=Both([b'one', b'two']))
    assert link.parse().body == b'onetwo'


# Iterables


ITERABLES: Dict[str, Callable[[List[Any]], Any]] = {
    'list': list,
    'tuple': tuple,
    'deque': collections.deque,
    'iterator': iter,
    'generator': raising,
    'map': lambda pieces: map(bytes, pieces),
    'values': lambda pieces: dict(enumerate(pieces)).values(),
}


@pytest.mark.parametrize('kind', ITERABLES)
def test_each_item_of_an_iterable_is_one_chunk(
    kind: str, transport: str, certificates: Any
) -> None:
    pieces = [b'one', b'x' * 70000, b'3']
    with Link(certificates=certificates if transport == 'tls' else None) as link:
        body = ITERABLES[kind](pieces)
        running = link.start(link.conn.co_send_request('PUT', '/', body=body))
        parsed = link.parse(link.collect(running))
    assert parsed.chunks == pieces
    assert (b'transfer-encoding', b'chunked') in list(parsed.head.headers)
    names = [name for name, _ in parsed.head.headers]
    assert b'content-md5' not in names and b'content-length' not in names


def test_items_may_be_any_bytes_like_objects(link: Link) -> None:
    pieces = [make() for make in BYTES_LIKE.values()]
    running = link.start(link.conn.co_send_request('PUT', '/', body=pieces))
    parsed = link.parse(link.collect(running))
    assert parsed.chunks == [memoryview(make()).tobytes() for make in BYTES_LIKE.values()]


@pytest.mark.parametrize(
    'pieces, expected',
    [
        ([], b''),
        ([b''], b''),
        ([b'', bytearray(), memoryview(b'')], b''),
        ([b'', b'one', b'', b'', b'two', b''], b'3\r\none\r\n3\r\ntwo\r\n'),
    ],
)
@pytest.mark.parametrize('kind', ['list', 'generator'])
def test_empty_items_write_nothing(
    kind: str, pieces: List[Any], expected: bytes, link: Link
) -> None:
    link.conn.send_request('PUT', '/', body=ITERABLES[kind](pieces))
    head, _, body = link.available().partition(b'\r\n\r\n')
    assert b'\r\nTransfer-Encoding: chunked' in head
    assert body == expected + b'0\r\n\r\n'
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


def test_items_are_taken_as_they_are_sent(narrow: Link) -> None:
    taken: List[int] = []

    def items() -> Iterator[bytes]:
        for number in range(100):
            taken.append(number)
            yield bytes(100000)

    running = narrow.start(narrow.conn.co_send_request('PUT', '/', body=items()))
    assert not running.done
    assert len(taken) < 5


# The first piece


def _failures(exc: bool) -> Dict[str, Callable[[List[Any]], Any]]:
    """Bodies that give good pieces, and then something bad."""
    result: Dict[str, Callable[[List[Any]], Any]] = {}
    for name, make in (('stream', Reader), ('generator', raising)):
        for bad in [OSError(5, 'broken')] if exc else ['text', None, 5, ['list']]:
            result[f'{name} {bad!r}'] = lambda good, make=make, bad=bad: make([*good, bad])
    return result


@pytest.mark.parametrize('kind', _failures(True))
@pytest.mark.parametrize('runner', RUNNERS)
def test_body_that_raises_at_first_leaves_the_connection_usable(
    runner: str, kind: str, transport: str, certificates: Any
) -> None:
    with Link(certificates=certificates if transport == 'tls' else None) as link:
        for _ in range(2):
            with pytest.raises(OSError, match='broken') as caught:
                RUNNERS[runner](
                    link.conn,
                    lambda conn: conn.co_send_request('PUT', '/', body=_failures(True)[kind]([])),
                )
            assert caught.value.errno == 5
            usable(link)


@pytest.mark.parametrize('kind', _failures(False))
def test_bad_first_piece_is_a_type_error_and_leaves_the_connection_usable(
    kind: str, link: Link
) -> None:
    for _ in range(2):
        with pytest.raises(TypeError):
            link.conn.send_request('PUT', '/', body=_failures(False)[kind]([]))
        usable(link)


def test_bad_piece_behind_empty_ones_is_still_the_first(link: Link) -> None:
    with pytest.raises(TypeError):
        link.conn.send_request('PUT', '/', body=[b'', b'', 'text'])
    usable(link)


@pytest.mark.parametrize('kind', ['generator', 'stream'])
def test_first_piece_is_read_before_the_head_is_sent(kind: str, link: Link) -> None:
    seen = []

    def pieces() -> Iterator[bytes]:
        seen.append(link.available())
        yield b'data'

    body = pieces() if kind == 'generator' else Reader(pieces())
    link.conn.send_request('PUT', '/', body=body)
    assert seen == [b'']
    assert link.parse().body == b'data'


@pytest.mark.parametrize('kind', ['generator', 'stream'])
def test_bad_first_piece_does_not_disturb_a_pipeline(kind: str, link: Link) -> None:
    link.conn.send_request('GET', '/first')
    with pytest.raises(TypeError):
        link.conn.send_request(
            'PUT', '/', body=iter(['text']) if kind == 'generator' else Reader(['text'])
        )
    link.conn.send_request('GET', '/second')
    assert link.available().count(b'HTTP/1.1\r\n') == 2
    link.feed(OK + OK)
    assert [answer(link.conn) for _ in range(2)] == [(200, b'ok')] * 2


@pytest.mark.parametrize('good', [[b'one'], [b'x' * 70000, b'y' * 70000]], ids=['small', 'large'])
@pytest.mark.parametrize('kind', _failures(False))
def test_bad_piece_later_is_a_type_error_and_breaks_the_connection(
    kind: str, good: List[bytes], link: Link
) -> None:
    with pytest.raises(TypeError):
        link.collect(
            link.start(link.conn.co_send_request('PUT', '/', body=_failures(False)[kind](good)))
        )
    broken(link)


class OwnError(BaseException):
    pass


@pytest.mark.parametrize(
    'exc',
    [
        OSError(5, 'broken'),
        ValueError('broken'),
        BlockingIOError(11, 'broken'),
        NotImplementedError('broken'),
        ConnectionResetError(104, 'broken'),
        ConnectionClosed('broken'),
        StateError('broken'),
        ExcessBodyData('broken'),
        OwnError('broken'),
    ],
    ids=lambda exc: type(exc).__name__,
)
@pytest.mark.parametrize('kind', ['generator', 'stream', 'written', 'written chunked'])
@pytest.mark.parametrize('runner', ['blocking', 'stepped'])
def test_exception_of_the_body_passes_through_and_breaks_the_connection(
    runner: str, kind: str, exc: BaseException, link: Link
) -> None:
    def upload(conn: Any) -> Any:
        pieces = [b'one', b'two', exc]
        if kind == 'generator':
            yield from conn.co_send_request('PUT', '/', body=raising(pieces))
        elif kind == 'stream':
            yield from conn.co_send_request('PUT', '/', body=Reader(pieces))
        else:
            body = BodyFollowing(100) if kind == 'written' else BodyFollowing()
            yield from conn.co_send_request('PUT', '/', body=body)
            yield from conn.co_write(Reader(pieces))

    with pytest.raises(type(exc)) as caught:
        RUNNERS[runner](link.conn, upload)
    assert caught.value is exc
    # The server is not left waiting for the rest.
    assert b'one' in link.peer.recv(1 << 16)
    assert link.peer.recv(1 << 16) in (b'', b'two', b'3\r\ntwo\r\n')
    broken(link)


def test_stream_is_not_touched_if_the_server_has_announced_to_close(link: Link) -> None:
    link.conn.send_request('GET', '/')
    link.feed(b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n')
    assert answer(link.conn) == (200, b'')
    stream = Reader([b'data'])
    link.conn.send_request('PUT', '/', body=stream)
    assert stream.calls == 0
    items = iter([b'data'])
    link.conn.send_request('PUT', '/', body=items)
    assert list(items) == [b'data']
    memory = io.BytesIO(b'data')
    link.conn.send_request('PUT', '/', body=memory)
    assert memory.tell() == 0
    for write in (lambda: link.conn.write(stream), link.conn.write_eof, link.conn.read_response):
        with pytest.raises(ConnectionClosed):
            write()
    assert stream.calls == 0


@pytest.mark.parametrize('kind', ['stream', 'iterator', 'memory', 'file'])
def test_failing_connect_leaves_the_body_for_another_attempt(
    kind: str, serve: Any, sample: pathlib.Path
) -> None:
    store = Store()
    server = serve(store)
    with socket.create_server(('127.0.0.1', 0)) as unused:
        port = unused.getsockname()[1]
    with sample.open('rb') as file:
        body = {
            'stream': Reader([b'one', b'two']),
            'iterator': iter([b'one', b'two']),
            'memory': io.BytesIO(b'onetwo'),
            'file': file,
        }[kind]
        conn = HTTPConnection('127.0.0.1', port)
        with pytest.raises(OSError):
            conn.send_request('PUT', '/', body=body)
        conn.port = server.port
        conn.timeout = LIMIT
        with conn:
            conn.send_request('PUT', '/', body=body)
            assert answer(conn) == (200, b'stored')
    assert store.last.body == (sample.read_bytes() if kind == 'file' else b'onetwo')


@pytest.mark.parametrize('state', ['incomplete body', 'awaiting 100'])
def test_body_is_not_touched_if_the_request_cannot_be_sent_now(state: str, link: Link) -> None:
    begin(link, 5, expect100=state == 'awaiting 100')
    stream = Reader([b'data'])
    items = iter([b'data'])
    for body in (stream, items):
        with pytest.raises(StateError):
            link.conn.send_request('PUT', '/', body=body)
    assert stream.calls == 0
    assert list(items) == [b'data']


# write() with a stream


@pytest.mark.parametrize('kind', STREAMS)
@pytest.mark.parametrize('length', [True, False], ids=['length', 'chunked'])
def test_stream_can_be_written(
    length: bool, kind: str, transport: str, connect: Any, sample: pathlib.Path
) -> None:
    store = Store()
    conn = connect(store)
    expected = contents(kind, sample)
    conn.send_request('PUT', '/', body=BodyFollowing(len(expected) if length else None))
    with opened(kind, sample) as stream:
        conn.write(stream)
    assert conn._out_remaining != length
    conn.write_eof()
    assert answer(conn) == (200, b'stored')
    assert store.last.body == expected


@pytest.mark.parametrize('kind', [*KNOWN, 'pipe', 'raw pipe', 'gzip'])
def test_stream_is_written_up_to_the_announced_length(
    kind: str, transport: str, certificates: Any, sample: pathlib.Path
) -> None:
    data = contents(kind, sample)
    with Link(certificates=certificates if transport == 'tls' else None) as link:
        for announced in (1, 1000, 50000):
            link.conn.send_request('PUT', '/', body=BodyFollowing(announced))
            with opened(kind, sample) as stream:
                link.conn.write(stream)
                assert not link.conn._out_remaining
                assert link.parse().body == data[:announced]
                # The surplus has not been read.
                assert stream.read() == data[announced:]
            link.feed(OK)
            assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('length', [True, False], ids=['length', 'chunked'])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_more_may_be_written_behind_a_stream(
    tls: bool, length: bool, certificates: Any, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / 'short'
    path.write_bytes(b'from the file')
    with Link(certificates=certificates if tls else None) as link:
        size = len(b'onefrom the file' + b'two' + b'from the file' + b'from memory' + b'three')
        head = begin(link, size if length else None)
        conn = link.conn
        conn.write(b'one')
        with path.open('rb') as stream:
            conn.write(stream)
            # At its end by now.
            conn.write(stream)
        conn.write(b'two')
        with path.open('rb') as stream:
            conn.write(stream)
        conn.write(io.BytesIO(b'from memory'))
        conn.write(io.BytesIO())
        if length:
            with pytest.raises(StateError, match=r'\b5\b'):
                conn.write_eof()
            with pytest.raises(StateError):
                conn.read_response()
        conn.write(b'three')
        conn.write_eof()
        body = link.parse(head).body
    assert body == b'onefrom the filetwofrom the filefrom memorythree'


@pytest.mark.parametrize('length', [4, None])
def test_stream_that_fails_at_first_is_not_written_and_writing_may_go_on(
    length: Optional[int], link: Link
) -> None:
    head = begin(link, length)
    for bad in (OSError(5, 'broken'), 'text', None):
        with pytest.raises((OSError, TypeError)):
            link.conn.write(Reader([bad]))
    with sample_closed() as stream, pytest.raises(ValueError):
        link.conn.write(stream)
    assert link.available() == b''
    link.conn.write(b'data')
    link.conn.write_eof()
    assert link.parse(head).body == b'data'


@contextlib.contextmanager
def sample_closed() -> Iterator[Any]:
    stream = open(os.devnull, 'rb')
    stream.close()
    yield stream


def test_closed_file_as_body_leaves_the_connection_usable(link: Link) -> None:
    with sample_closed() as stream:
        for _ in range(2):
            with pytest.raises(ValueError):
                link.conn.send_request('PUT', '/', body=stream)
    usable(link)


def test_stream_that_gives_text_later_breaks_the_connection(link: Link) -> None:
    begin(link, 100)
    with pytest.raises(TypeError):
        link.conn.write(Reader([b'good', 'bad']))
    broken(link)


def test_no_stream_is_read_once_the_length_is_reached(link: Link) -> None:
    begin(link, 4)
    link.conn.write(b'data')
    stream = Reader([b'more'])
    with pytest.raises(StateError):
        link.conn.write(stream)
    assert stream.calls == 0


@pytest.mark.parametrize('name', ['/dev/zero', '/dev/urandom'])
@pytest.mark.skipif(not os.path.exists('/dev/zero'), reason='no /dev/zero')
def test_device_is_written_up_to_the_announced_length(
    name: str, transport: str, connect: Any
) -> None:
    store = Store()
    conn = connect(store)
    conn.send_request('PUT', '/', body=BodyFollowing(200000))
    with open(name, 'rb') as stream:
        conn.write(stream)
    assert answer(conn) == (200, b'stored')
    assert len(store.last.body) == 200000
    assert name != '/dev/zero' or not any(store.last.body)


# Streams that change their size


class Announcing(io.BytesIO):
    """A stream that announces *length* bytes, whatever it has."""

    def __init__(self, data: bytes, length: int) -> None:
        super().__init__(data)
        self._length = length

    def seek(self, position: int, whence: int = 0) -> int:
        super().seek(position, whence)
        return self._length if whence == io.SEEK_END else self.tell()


@pytest.mark.parametrize('given', [0, 10, 65536, 70000])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_stream_that_ends_early_is_an_error_and_breaks_the_connection(
    tls: bool, given: int, certificates: Any
) -> None:
    with Link(certificates=certificates if tls else None) as link:
        stream = Announcing(bytes(given), 100000)
        with pytest.raises(StateError) as caught:
            link.collect(link.start(link.conn.co_send_request('PUT', '/', body=stream)))
        assert str(given) in str(caught.value) and '100000' in str(caught.value)
        broken(link)


@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_surplus_of_a_stream_is_not_read(tls: bool, certificates: Any) -> None:
    with Link(certificates=certificates if tls else None) as link:
        stream = Announcing(pattern(100000), 70001)
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        assert link.parse(link.collect(running)).body == pattern(100000)[:70001]
        assert stream.tell() == 70001
        link.feed(OK)
        assert answer(link.conn) == (200, b'ok')


@pytest.mark.parametrize('buffering', [-1, 0])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_file_that_shrinks_while_it_is_sent(
    tls: bool, buffering: int, certificates: Any, sample: pathlib.Path
) -> None:
    # So large that what is left is not read ahead.
    sample.write_bytes(pattern(600000))
    with Link(small=True, certificates=certificates if tls else None) as link, sample.open(
        'rb', buffering=buffering
    ) as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        assert not running.done
        os.truncate(sample, 400000)
        with pytest.raises(StateError) as caught:
            link.collect(running)
        assert '400000' in str(caught.value) and '600000' in str(caught.value)
        broken(link)


@pytest.mark.parametrize('buffering', [-1, 0])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_file_that_grows_while_it_is_sent(
    tls: bool, buffering: int, certificates: Any, sample: pathlib.Path
) -> None:
    with Link(small=True, certificates=certificates if tls else None) as link, sample.open(
        'rb', buffering=buffering
    ) as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        assert not running.done
        with sample.open('ab') as end:
            end.write(b'surplus')
        parsed = link.parse(link.collect(running))
        assert parsed.body == pattern(300000)
        assert stream.read() == b'surplus'
        link.feed(OK)
        assert answer(link.conn) == (200, b'ok')


def test_written_file_that_shrinks_can_be_completed(narrow: Link, sample: pathlib.Path) -> None:
    narrow.conn.send_request('PUT', '/', body=BodyFollowing(300000))
    with sample.open('rb') as stream:
        running = narrow.start(narrow.conn.co_write(stream))
        assert not running.done
        os.truncate(sample, 200000)
        received = narrow.collect(running)
    with pytest.raises(StateError, match='100000'):
        narrow.conn.write_eof()
    running = narrow.start(narrow.conn.co_write(bytes(100000)))
    received += narrow.collect(running)
    assert narrow.parse(received).body == pattern(300000)[:200000] + bytes(100000)


@pytest.mark.parametrize('form', ['memory stream', 'stream'])
def test_stream_that_gives_more_than_it_was_asked_for_loses_nothing(form: str, link: Link) -> None:
    class Generous(Reader):
        def seekable(self) -> bool:
            return form == 'memory stream'

        def tell(self) -> int:
            return 0

        def seek(self, position: int, whence: int = 0) -> int:
            return 150000

    stream = Generous([pattern(100000), pattern(50000)])
    running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
    assert link.parse(link.collect(running)).body == pattern(100000) + pattern(50000)


# Files sent by the kernel


@needs_sendfile
@pytest.mark.parametrize('kind', ['file', 'raw file', 'file opened for update', 'temporary file'])
@pytest.mark.parametrize('write', [False, True], ids=['send_request', 'write'])
def test_regular_file_is_sent_by_the_kernel(
    write: bool, kind: str, link: Link, tap: Tap, sample: pathlib.Path
) -> None:
    tap.sock = link.conn._sock
    with opened(kind, sample) as stream:
        stream.seek(1000)
        if write:
            link.conn.send_request('PUT', '/', body=BodyFollowing(299000))
            running = link.start(link.conn.co_write(stream))
        else:
            running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        parsed = link.parse(link.collect(running))
        assert stream.tell() == 300000
    assert parsed.body == pattern(300000)[1000:]
    assert set(tap.names[1:]) == {'sendfile'}


@needs_sendfile
@pytest.mark.parametrize('kind', ['memory', 'pipe', 'gzip', 'unseekable'])
def test_other_streams_are_not_sent_by_the_kernel(
    kind: str, link: Link, tap: Tap, sample: pathlib.Path
) -> None:
    tap.sock = link.conn._sock
    with opened(kind, sample) as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        link.parse(link.collect(running))
    assert 'sendfile' not in tap.names


@needs_sendfile
def test_file_over_tls_is_not_sent_by_the_kernel(
    certificates: Any, monkeypatch: Any, sample: pathlib.Path
) -> None:
    def sendfile(*args: Any) -> int:
        raise AssertionError('plain text sent over TLS')

    monkeypatch.setattr(os, 'sendfile', sendfile)
    with Link(certificates=certificates) as link, sample.open('rb') as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        assert link.parse(link.collect(running)).body == sample.read_bytes()


@needs_sendfile
@pytest.mark.parametrize('code', ['EINVAL', 'ENOSYS', 'EOPNOTSUPP', 'EOVERFLOW'])
@pytest.mark.parametrize('after', [0, 1, 99999])
@pytest.mark.parametrize('write', [False, True], ids=['send_request', 'write'])
def test_file_is_read_where_the_kernel_cannot_send_it(
    write: bool, after: int, code: str, link: Link, monkeypatch: Any, sample: pathlib.Path
) -> None:
    sendfile = os.sendfile
    left = after

    def limited(out: int, file: int, offset: int, count: int) -> int:
        nonlocal left
        if not left:
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        sent = sendfile(out, file, offset, min(count, left))
        left -= sent
        return sent

    monkeypatch.setattr(os, 'sendfile', limited)
    with sample.open('rb') as stream:
        if write:
            link.conn.send_request('PUT', '/', body=BodyFollowing(300000))
            running = link.start(link.conn.co_write(stream))
        else:
            running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        parsed = link.parse(link.collect(running))
        assert stream.tell() == 300000
    assert parsed.body == pattern(300000)


def test_file_is_read_where_there_is_no_sendfile(
    link: Link, monkeypatch: Any, sample: pathlib.Path
) -> None:
    monkeypatch.delattr(os, 'sendfile', raising=False)
    with sample.open('rb') as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        assert link.parse(link.collect(running)).body == sample.read_bytes()


@pytest.mark.parametrize('form', FORMS)
def test_upload_waits_by_yielding(form: str, narrow: Link, sample: pathlib.Path) -> None:
    """Nothing blocks when the kernel has no room: the coroutine says what it waits for."""
    running = narrow.start(FORMS[form].call(narrow.conn, pattern(300000), sample))
    if FORMS[form].expect100:
        narrow.feed(CONTINUE)
        running.advance()
    assert not running.done
    assert running.need.fd == narrow.conn._sock.fileno()
    assert running.need.mask & dugong.POLLOUT
    assert narrow.parse(narrow.collect(running)).body == pattern(300000)


@pytest.mark.parametrize('kind', ['file', 'memory', 'generator', 'unseekable', 'written', 'tls'])
def test_upload_gives_way_to_others(
    kind: str, certificates: Any, tap: Tap, tmp_path: pathlib.Path
) -> None:
    """An event loop gets its turn even if the network always has room."""
    size = 32 << 20
    path = tmp_path / 'large'
    with path.open('wb') as file:
        file.truncate(size)
    with Link(certificates=certificates if kind == 'tls' else None) as link, path.open(
        'rb'
    ) as stream:
        tap.sock = link.conn._sock
        tap.swallow = True
        coroutines = {
            'file': lambda: link.conn.co_send_request('PUT', '/', body=stream),
            'memory': lambda: link.conn.co_send_request('PUT', '/', body=io.BytesIO(bytes(size))),
            'generator': lambda: link.conn.co_send_request(
                'PUT', '/', body=(bytes(1 << 16) for _ in range(size >> 16))
            ),
            'unseekable': lambda: link.conn.co_send_request(
                'PUT', '/', body=Unseekable(bytes(size), 1 << 16)
            ),
            'written': lambda: link.conn.co_write(io.BytesIO(bytes(size))),
            'tls': lambda: link.conn.co_send_request('PUT', '/', body=stream),
        }
        if kind == 'written':
            link.conn.send_request('PUT', '/', body=BodyFollowing(size))
        running = link.start(coroutines[kind]())
        assert running.done
        assert running.steps > size >> 22


@needs_sendfile
def test_file_that_is_closed_while_it_is_sent(narrow: Link, sample: pathlib.Path) -> None:
    """Whatever file gets its descriptor next must not be sent."""
    other = sample.with_name('other')
    other.write_bytes(b'\xff' * 300000)
    stream = sample.open('rb')
    running = narrow.start(narrow.conn.co_send_request('PUT', '/', body=stream))
    assert not running.done
    descriptor = stream.fileno()
    stream.close()
    with other.open('rb') as stream:
        assert stream.fileno() == descriptor
        received = b''
        with pytest.raises(ValueError):
            for _ in range(10000):
                received += narrow.available()
                if running.advance(LIMIT if not received else 0):
                    break
    received += narrow.available()
    assert b'\xff' * 100 not in received
    broken(narrow)


@pytest.mark.parametrize('body', ['file', 'written file'])
def test_exception_names_the_cause_even_if_the_file_is_closed(
    body: str, narrow: Link, sample: pathlib.Path
) -> None:
    stream = sample.open('rb')
    if body == 'file':
        running = narrow.start(narrow.conn.co_send_request('PUT', '/', body=stream))
    else:
        narrow.conn.send_request('PUT', '/', body=BodyFollowing(300000))
        running = narrow.start(narrow.conn.co_write(stream))
    assert not running.done
    stream.close()
    narrow.reset()
    with pytest.raises((ConnectionClosed, ValueError)):
        running.finish()
    with pytest.raises(ConnectionClosed):
        narrow.conn.read_response()


@pytest.mark.parametrize('kind', ['file', 'memory'])
@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
def test_trace_shows_what_was_sent(
    tls: bool, kind: str, certificates: Any, monkeypatch: Any, sample: pathlib.Path
) -> None:
    monkeypatch.setenv('DUGONG_TRACEFILE', str(sample.with_name('trace-%d')))
    with Link(certificates=certificates if tls else None) as link, opened(kind, sample) as stream:
        running = link.start(link.conn.co_send_request('PUT', '/', body=stream))
        received = link.collect(running)
        while len(received) < 300000:
            received += link.peer.recv(1 << 16)
        received += link.available()
    (trace,) = sample.parent.glob('trace-*')
    assert trace.read_bytes() == received


# Buffers of the caller


PINNED: Dict[str, Tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    'bytearray': (lambda: bytearray(200000), lambda data: data.append(1)),
    'array': (lambda: array.array('I', bytes(200000)), lambda data: data.append(1)),
    'map': (lambda: anonymous_map(bytes(200000)), lambda data: data.close()),
    'view': (lambda: memoryview(bytes(200000)), lambda data: data.release()),
    'memory stream': (lambda: io.BytesIO(bytes(200000)), lambda data: data.truncate(0)),
}


@pytest.mark.parametrize('kind', PINNED)
@pytest.mark.parametrize('how', ['send_request', 'iterable', 'write', 'chunk'])
def test_buffer_is_free_again_when_it_has_been_sent(how: str, kind: str, connect: Any) -> None:
    make, change = PINNED[kind]
    if kind == 'memory stream' and how == 'iterable':
        pytest.skip('not bytes-like')
    store = Store()
    conn = connect(store)
    data = make()
    if how == 'send_request':
        conn.send_request('PUT', '/', body=data)
    elif how == 'iterable':
        conn.send_request('PUT', '/', body=(item for item in [data]))
    else:
        conn.send_request('PUT', '/', body=BodyFollowing(200000 if how == 'write' else None))
        conn.write(data)
    # The answer is still outstanding.
    change(data)
    if how in ('write', 'chunk'):
        conn.write_eof()
    assert answer(conn) == (200, b'stored')
    assert store.last.body == bytes(200000)


@pytest.mark.parametrize('how', ['send_request', 'write', 'chunk'])
def test_buffer_is_free_again_when_sending_it_has_failed(how: str, narrow: Link) -> None:
    data = bytearray(200000)
    if how == 'send_request':
        running = narrow.start(narrow.conn.co_send_request('PUT', '/', body=data))
    else:
        begin(narrow, 200000 if how == 'write' else None)
        running = narrow.start(narrow.conn.co_write(data))
    assert not running.done
    narrow.reset()
    with contextlib.suppress(ConnectionClosed):
        running.finish()
        raise AssertionError('nothing raised')
    data.append(1)


class Reusing:
    """A stream that gives its own buffer each time."""

    def __init__(self, pieces: List[bytes]) -> None:
        self._pieces = reusing(pieces)

    def read(self, size: int) -> Any:
        return next(self._pieces, b'')


def reusing(pieces: List[bytes]) -> Iterator[bytearray]:
    """Yield *pieces* in the same buffer."""
    buf = bytearray()
    for piece in pieces:
        buf += piece
        yield buf
        buf.clear()


@pytest.mark.parametrize('kind', ['generator', 'stream', 'written', 'written with length'])
def test_source_may_reuse_its_buffer(kind: str, transport: str, certificates: Any) -> None:
    pieces = [bytes([i]) * i * 30000 for i in range(1, 8)]

    def upload(conn: Any) -> Any:
        if kind == 'generator':
            yield from conn.co_send_request('PUT', '/', body=reusing(pieces))
        elif kind == 'stream':
            yield from conn.co_send_request('PUT', '/', body=Reusing(pieces))
        else:
            length = 28 * 30000 if kind == 'written with length' else None
            yield from conn.co_send_request('PUT', '/', body=BodyFollowing(length))
            yield from conn.co_write(Reusing(pieces))
            yield from conn.co_write_eof()

    with Link(certificates=certificates if transport == 'tls' else None) as link:
        parsed = link.parse(link.collect(link.start(upload(link.conn))))
    assert parsed.body == b''.join(pieces)


@pytest.mark.parametrize('how', ['send_request', 'write', 'chunk'])
def test_body_larger_than_a_c_int_over_tls(how: str, certificates: Any) -> None:
    size = 3 << 30
    with tempfile.TemporaryFile() as file, Link(certificates=certificates) as link:
        # It takes no room, neither on the disk nor in memory.
        file.truncate(size)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as body:
            link.conn.content_md5 = False
            if how == 'send_request':
                coroutine = link.conn.co_send_request('PUT', '/', body=body)
            else:
                begin(link, size if how == 'write' else None)
                coroutine = link.conn.co_write(body)
            running = link.start(coroutine)
            received = 0
            while received < 1 << 20:
                received += len(link.available())
                assert not running.advance()
            running.close()
            link.conn.reset()


def test_body_of_an_earlier_response_on_the_same_connection_is_a_stream(link: Link) -> None:
    data = pattern(100000)
    link.conn.send_request('GET', '/')
    link.available()
    link.feed(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n' + data)
    assert link.conn.read_response().status == 200
    link.conn.send_request('PUT', '/', body=link.conn)
    assert link.parse().body == data
    link.feed(OK)
    assert answer(link.conn) == (200, b'ok')


# Content-MD5


def _md5(head: bytes) -> Optional[str]:
    for line in head.decode('latin1').split('\r\n'):
        name, _, value = line.partition(': ')
        if name.lower() == 'content-md5':
            return value
    return None


@pytest.mark.parametrize('size', [0, 1, 1000, 100000])
def test_bytes_like_body_has_content_md5(size: int, link: Link) -> None:
    data = pattern(size)
    running = link.start(link.conn.co_send_request('PUT', '/', body=data))
    assert _md5(link.collect(running)) == base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.mark.parametrize('kind', BYTES_LIKE)
def test_content_md5_is_that_of_the_bytes_sent(kind: str, link: Link) -> None:
    link.conn.send_request('PUT', '/', body=BYTES_LIKE[kind]())
    data = memoryview(BYTES_LIKE[kind]()).tobytes()
    sent = link.available()
    assert sent.endswith(b'\r\n\r\n' + data)
    assert b'\r\nContent-Length: %d\r\n' % len(data) in sent
    assert _md5(sent) == base64.b64encode(hashlib.md5(data).digest()).decode()


@pytest.mark.parametrize('where', ['instance', 'class', 'subclass'])
def test_content_md5_can_be_switched_off(where: str, link: Link, monkeypatch: Any) -> None:
    assert HTTPConnection.content_md5 is True
    if where == 'instance':
        link.conn.content_md5 = False
    elif where == 'class':
        monkeypatch.setattr(HTTPConnection, 'content_md5', False)
    else:

        class Without(HTTPConnection):
            content_md5 = False

        link.conn.disconnect()
        link.conn = Without('127.0.0.1', link.conn.port)
        link.connect()
    link.conn.send_request('PUT', '/', body=b'data')
    sent = link.available()
    assert _md5(sent) is None
    assert sent.endswith(b'\r\n\r\ndata')
    # What the caller asks for is still sent.
    link.conn.send_request('PUT', '/', {'content-md5': 'mine'}, b'data')
    assert _md5(link.available()) == 'mine'


@pytest.mark.skipif(sys.version_info < (3, 9), reason='no usedforsecurity')
def test_content_md5_does_not_fail_under_fips_rules(link: Link, monkeypatch: Any) -> None:
    md5 = hashlib.md5

    def strict(data: Any = b'', *, usedforsecurity: bool = True) -> Any:
        if usedforsecurity:
            raise ValueError('[digital envelope routines] unsupported')
        return md5(data, usedforsecurity=False)

    monkeypatch.setattr(hashlib, 'md5', strict)
    link.conn.send_request('PUT', '/', body=b'data')
    assert _md5(link.available()) == base64.b64encode(md5(b'data').digest()).decode()


def test_content_md5_works_where_hashlib_is_older(link: Link, monkeypatch: Any) -> None:
    md5 = hashlib.md5
    monkeypatch.setattr(hashlib, 'md5', lambda data=b'': md5(data))
    link.conn.send_request('PUT', '/', body=b'data')
    assert _md5(link.available()) == base64.b64encode(md5(b'data').digest()).decode()


def test_no_digest_is_computed_when_it_is_not_sent(link: Link, monkeypatch: Any) -> None:
    def md5(*args: Any, **options: Any) -> Any:
        raise AssertionError('digest computed')

    monkeypatch.setattr(hashlib, 'md5', md5)
    link.conn.send_request('PUT', '/', {'Content-MD5': 'mine'}, b'data')
    link.conn.content_md5 = False
    link.conn.send_request('PUT', '/', body=b'data')
    link.conn.content_md5 = True
    link.conn.send_request('PUT', '/', body=io.BytesIO(b'data'))
    link.conn.send_request('PUT', '/', body=[b'data'])
    assert _md5(link.available()) == 'mine'


# Memory


_CLIENT = textwrap.dedent(
    """
    import resource, ssl, sys
    import dugong

    port, path, how, authority = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
    context = ssl.create_default_context(cafile=authority) if authority else None
    conn = dugong.HTTPConnection('127.0.0.1', port, ssl_context=context)
    conn.timeout = 60


    def upload(path):
        with open(path, 'rb') as stream:
            if how == 'send_request':
                conn.send_request('PUT', '/', body=stream)
            elif how == 'chunked':
                conn.send_request('PUT', '/', body=iter(lambda: stream.read(1 << 16), b''))
            else:
                conn.send_request('PUT', '/', body=dugong.BodyFollowing(1 << 30))
                conn.write(stream)
        response = conn.read_response()
        assert response.status == 200, response.status
        print(conn.readall().decode())


    def resident(name):
        with open('/proc/self/status') as status:
            for line in status:
                if line.startswith(name):
                    return int(line.split()[1])


    conn.connect()
    # Whatever is imported or set up at the first use counts as idle.
    conn.send_request('PUT', '/', body=[b'x' * 65536] * 4)
    conn.read_response()
    conn.discard()
    before = resident('VmRSS')
    with open('/proc/self/clear_refs', 'w') as refs:
        refs.write('5')
    upload(path)
    print(resident('VmHWM') - before)
    conn.disconnect()
    """
)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists('/proc/self/clear_refs'), reason='no /proc')
@pytest.mark.parametrize('how', ['send_request', 'write', 'chunked'])
def test_memory_for_a_large_upload(
    how: str, transport: str, serve: Any, certificates: Any, tmp_path: pathlib.Path
) -> None:
    size = 1 << 30
    path = tmp_path / 'sparse'
    with path.open('wb') as file:
        file.truncate(size)
    authority = tmp_path / 'authority.pem'
    certificates.authority.cert_pem.write_to_path(str(authority))
    buffer = bytearray(1 << 20)

    def count(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'warm')
        head = peer.read_head()
        left = size
        if head.field('Transfer-Encoding') is not None:
            # Each piece is a chunk of 64 KiB.
            left = (size >> 16) * ((1 << 16) + len(b'10000\r\n\r\n')) + len(b'0\r\n\r\n')
        left -= len(peer.read_exactly(min(left, len(peer._buffer))))
        while left:
            received = peer.sock.recv_into(buffer, min(left, len(buffer)))
            assert received
            left -= received
        peer.respond(b'counted')

    server = serve(count)
    root = pathlib.Path(dugong.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, '-c', _CLIENT, str(server.port), str(path), how]
        + [str(authority) if transport == 'tls' else ''],
        env={**os.environ, 'PYTHONPATH': str(root)},
        stdout=subprocess.PIPE,
        timeout=100,
        check=True,
    )
    counted, grown = done.stdout.split()
    assert counted == b'counted'
    assert int(grown) < 1024


def test_memory_while_a_stream_is_sent(narrow: Link) -> None:
    tracemalloc.start()
    try:
        running = narrow.start(
            narrow.conn.co_send_request('PUT', '/', body=Unseekable(bytes(1 << 22), 1 << 22))
        )
        begin_peak = tracemalloc.get_traced_memory()[0]
        tracemalloc.clear_traces()
        while not running.advance():
            narrow.available()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert begin_peak
    assert peak < 1 << 20


class Memory(bytearray):
    """A bytearray that can be referred to weakly."""


@pytest.mark.parametrize('tls', [False, True], ids=['plain', 'tls'])
@pytest.mark.parametrize('code', [errno.EIO, errno.ECONNRESET])
def test_failed_send_does_not_keep_the_data_alive(code: int, tls: bool, certificates: Any) -> None:
    """Not even until the garbage collector comes, once the exception is gone."""

    with Link(certificates=certificates if tls else None) as link:
        begin(link, 100000)
        link.conn._sock = failing = FailingSocket(link.conn._sock)
        failing.send_error = OSError(code, 'failed')
        data = Memory(1000)
        reference = weakref.ref(data)
        gc.disable()
        try:
            try:
                link.conn.write(data)
            except (OSError, ConnectionClosed):
                pass
            else:
                raise AssertionError('it was sent')
            failing.send_error = None
            del data
            assert reference() is None
        finally:
            gc.enable()
