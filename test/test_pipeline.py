"""Pipelines: requests sent ahead, answers in order, and none lost whatever the server does."""

import asyncio
import contextlib
import gc
import itertools
import re
import socket
import ssl
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from pipeline_support import (
    IDEMPOTENT,
    MAX_BYTES,
    NOT_IDEMPOTENT,
    SHORT,
    ByHand,
    CountingSockets,
    Life,
    Site,
    check,
    document,
    encoded,
    expected,
    fetch,
    mixture,
    parts,
    shrink,
)
from servers import LIMIT, Peer, Request, ScriptedServer
from waiting_support import Thread, Waits, nothing_left, waits  # noqa: F401

import dugong
from dugong import (
    AioFuture,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    InvalidResponse,
    PollNeeded,
    StateError,
    UnsupportedResponse,
    eval_coroutine,
)

slow = pytest.mark.slow

Connect = Callable[..., HTTPConnection]


def numbered(count: int, start: int = 0) -> List[str]:
    return [f'/{number}' for number in range(start, start + count)]


def answer_all(peer: Peer) -> None:
    """Answer each request as it comes, until the client leaves."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            peer.send(encoded(peer.read_request()))


def paths_and_bodies(responses: Any) -> List[Tuple[str, bytes]]:
    return [(resp.path, resp.body) for resp in responses]


# Requests


def test_all_shapes_of_requests(connect: Connect, transport: str) -> None:
    requests: List[Any] = []

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_request()
                requests.append((request.method, request.target, request.field('X'), request.body))
                peer.respond(b'' if request.method == 'HEAD' else request.target.encode())

    given = [
        '/path',
        ('HEAD', '/pair'),
        ('GET', '/triple', {'X': 1}),
        ('PUT', '/quadruple', {'X': 'y'}, b'body'),
        ['DELETE', '/list'],
        ('PUT', '/no-fields', None, b'body'),
        ('PUT', '/empty', None, b''),
        ('GET', '/nothing', None, None),
    ]
    responses = list(connect(handler).pipeline(given))
    assert requests == [
        ('GET', '/path', None, b''),
        ('HEAD', '/pair', None, b''),
        ('GET', '/triple', '1', b''),
        ('PUT', '/quadruple', 'y', b'body'),
        ('DELETE', '/list', None, b''),
        ('PUT', '/no-fields', None, b'body'),
        ('PUT', '/empty', None, b''),
        ('GET', '/nothing', None, b''),
    ]
    assert [(resp.method, resp.path) for resp in responses] == [r[:2] for r in requests]
    assert [resp.body for resp in responses if resp.method != 'HEAD'] == [
        r[1].encode() for r in requests if r[0] != 'HEAD'
    ]


def test_everything_comes_in_order(connect: Connect, transport: str) -> None:
    site = Site()
    assert fetch(connect(site.handler()), mixture(150)) == (150, [], 150, 1)
    assert site.arrived == [[parts(given)[:2] for given in mixture(150)]]


def test_endless_generator_is_consumed_lazily(connect: Connect) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield f'/{taken - 1}'

    pipeline = connect(Site().handler()).pipeline(endless(), max_pending=16)
    assert taken == 0
    for answers, response in enumerate(itertools.islice(pipeline, 300), 1):
        check(response, f'/{answers - 1}')
        assert taken <= answers + 17
        assert taken == answers + len(pipeline.unanswered)
        assert pipeline.in_flight <= 16
    pipeline.close()


def test_request_is_taken_only_when_it_could_be_sent() -> None:
    taken: List[str] = []
    source = (taken.append(path) or path for path in numbered(100))  # type: ignore[func-returns-value]
    with ByHand(source, max_pending=2) as hand:
        assert taken == []
        hand.waits()
        assert len(taken) == hand.pipeline.in_flight == 2


def test_iterable_may_be_a_list_a_tuple_or_an_iterator(connect: Connect) -> None:
    conn = connect(Site().handler())
    paths = ['/0', '/2']
    for requests in (paths, tuple(paths), iter(paths), dict.fromkeys(paths)):
        assert [resp.path for resp in conn.pipeline(requests)] == paths


def test_without_requests_nothing_is_connected(connect: Connect, serve: Any) -> None:
    server = serve([])
    pipeline = connect(server).pipeline([])
    assert list(pipeline) == []
    assert (pipeline.sent, pipeline.connections, server.connections) == (0, 0, 0)


@pytest.mark.parametrize('requests', ['/path', b'/path', 5, None])
def test_what_is_no_iterable_of_requests_is_refused_at_once(requests: Any) -> None:
    with pytest.raises(TypeError):
        HTTPConnection('localhost').pipeline(requests)


@pytest.mark.parametrize('name, value', [('max_pending', 0), ('max_retries', -1)])
def test_options_out_of_range_are_refused_at_once(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        HTTPConnection('localhost').pipeline([], **{name: value})


def test_options_are_keywords() -> None:
    with pytest.raises(TypeError):
        HTTPConnection('localhost').pipeline([], 5)  # type: ignore[misc]


@pytest.mark.parametrize(
    'wrong, error',
    [
        ((), ValueError),
        (('GET',), ValueError),
        (('GET', '/', {}, b'', 5), ValueError),
        (7, TypeError),
        (None, TypeError),
        ('', ValueError),
        ('/with space', ValueError),
        ('/line\r\nbreak', ValueError),
        (('GE T', '/'), ValueError),
        (('GET', '/', {'X': 'a\r\nb'}), ValueError),
        (('PUT', '/', None, 'text'), TypeError),
        (('PUT', '/', None, 5), TypeError),
        (('GET', '/', {'Upgrade': 'websocket', 'Connection': 'upgrade'}), ValueError),
        (('CONNECT', 'host:1'), ValueError),
    ],
)
def test_wrong_request_is_reported_after_the_answers_before_it(
    wrong: Any, error: type, connect: Connect
) -> None:
    site = Site()
    conn = connect(site.handler())
    pipeline = conn.pipeline(['/0', '/2', wrong, '/never'])
    check(next(pipeline), '/0')
    check(next(pipeline), '/2')
    with pytest.raises(error):
        next(pipeline)
    assert next(pipeline, None) is None
    assert pipeline.unanswered == pipeline.uncertain == []
    assert site.arrived == [[('GET', '/0'), ('GET', '/2')]]
    # The connection has not suffered.
    assert fetch(conn, ['/4']) == (1, [], 1, 1)
    assert len(site.arrived) == 1


def test_error_of_the_iterable_comes_after_the_answers_before_it(connect: Connect) -> None:
    class OwnError(Exception):
        pass

    def requests() -> Iterator[str]:
        yield from ('/0', '/2', '/4')
        raise OwnError

    pipeline = connect(Site().handler()).pipeline(requests())
    for path in ('/0', '/2', '/4'):
        check(next(pipeline), path)
    with pytest.raises(OwnError):
        next(pipeline)
    assert next(pipeline, None) is None


@pytest.mark.parametrize('kind', [bytearray, memoryview])
def test_body_is_copied_when_it_is_taken(kind: Any, connect: Connect) -> None:
    """The caller may use the memory again, although the request may have to be repeated."""
    memory = bytearray(b'first')
    bodies = []

    def requests() -> Iterator[Any]:
        yield 'PUT', '/0', None, kind(memory)
        memory[:] = b'other'
        yield 'PUT', '/1', None, kind(memory)
        memory[:] = b'third'

    def lost(peer: Peer) -> None:
        bodies.append(peer.read_request().body)

    def answered(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                bodies.append(peer.read_request().body)
                peer.respond()

    assert len(list(connect([lost, answered]).pipeline(requests()))) == 2
    assert bodies == [b'first', b'first', b'other']


# Responses


def test_body_is_bytes_here_and_none_elsewhere(connect: Connect) -> None:
    conn = connect(Site().handler())
    [response] = conn.pipeline(['/0'])
    assert type(response.body) is bytes
    conn.send_request('GET', '/0')
    assert conn.read_response().body is None
    assert conn.readall() == response.body
    for response in conn.pipeline(['/0'], stream=True):
        assert response.body is None


@pytest.mark.parametrize(
    'method, answer, body',
    [
        ('GET', b'200 OK\r\nContent-Length: 2\r\n\r\nhi', b'hi'),
        ('GET', b'200 OK\r\nContent-Length: 0\r\n\r\n', b''),
        ('HEAD', b'200 OK\r\nContent-Length: 9\r\n\r\n', b''),
        ('GET', b'204 No Content\r\n\r\n', b''),
        ('GET', b'304 Not Modified\r\nContent-Length: 9\r\n\r\n', b''),
        ('GET', b'200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n', b'hi'),
        ('GET', b'200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n', b''),
        ('GET', b'404 Not Found\r\nContent-Length: 2\r\n\r\nno', b'no'),
        ('GET', b'500 Oops\r\nContent-Length: 2\r\n\r\nno', b'no'),
        ('GET', b'100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi', b'hi'),
        ('GET', b'200 OK\r\nConnection: close\r\n\r\nuntil the end', b'until the end'),
    ],
)
def test_every_kind_of_answer(method: str, answer: bytes, body: bytes, connect: Connect) -> None:
    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                peer.read_request()
                peer.send(b'HTTP/1.1 ' + answer)
                if b'close' in answer:
                    return

    pipeline = connect(handler).pipeline([(method, path) for path in numbered(6)])
    status = int(answer[:3]) if answer[:1] != b'1' else 200
    for path, response in zip(numbered(6), pipeline):
        assert (response.path, response.status, response.body) == (path, status, body)
    assert pipeline.unanswered == []


def test_trailers_are_there(connect: Connect) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n')

    [response] = connect(handler).pipeline(['/'])
    assert response.trailers['X'] == 'y'


def test_assume_close_of_the_connection_counts(connect: Connect) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\n\r\nuntil the end')

    conn = connect(handler)
    with pytest.raises(UnsupportedResponse):
        list(conn.pipeline(['/']))
    conn.reset()
    conn.assume_close = True
    assert [resp.body for resp in conn.pipeline(numbered(3))] == [b'until the end'] * 3


def test_strict_eof_of_the_connection_counts(serve: Any, connect: Connect) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nunti')

    conn = connect(serve(handler, tls=True))
    conn.strict_eof = True
    with pytest.raises(ConnectionClosed):
        list(conn.pipeline(['/']))


def test_tiny_read_buffer(connect: Connect, transport: str) -> None:
    conn = connect(Site().handler([Life(7, 'announce'), Life(5), Life(11, 'reset', 30)]))
    conn._rbuf = dugong._Buffer(63)
    assert fetch(conn, mixture(60)).answers == 60


# Streaming


def test_streamed_bodies_are_read_with_the_connection(connect: Connect, transport: str) -> None:
    conn = connect(Site().handler([Life(5, 'announce')]))
    readers = itertools.cycle(
        [
            lambda: conn.readall(),
            lambda: b''.join(iter(lambda: conn.read(7), b'')),
            lambda: conn.read(),
        ]
    )
    assert fetch(conn, mixture(60), read=lambda conn: next(readers)()).answers == 60


@pytest.mark.parametrize('size', [0, 1, 100])
def test_what_is_left_unread_is_discarded(size: int, connect: Connect, transport: str) -> None:
    conn = connect(Site().handler([Life(5, 'announce')]))
    paths = numbered(40)
    for path, response in zip(paths, conn.pipeline(paths, stream=True)):
        assert response.path == path
        assert document(path).startswith(conn.read(size))


def test_large_rest_of_a_body_is_discarded(connect: Connect, transport: str) -> None:
    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                peer.respond(peer.read_request().target.encode() * 500_000)

    conn = connect(handler)
    paths = []
    for response in conn.pipeline(numbered(4), stream=True):
        paths.append(response.path)
        assert conn.read(2) == response.path.encode()
    assert paths == numbered(4)


def cut_bodies(*targets: str) -> Callable[[Peer], None]:
    """Answer, but end connections in the body for each of *targets*, once."""
    left = list(targets)

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_request()
                answer = encoded(request)
                if request.target in left:
                    left.remove(request.target)
                    peer.send(answer[:-7])
                    return
                peer.send(answer)

    return handler


@pytest.mark.parametrize('first', [0, 2])
def test_broken_body_is_not_continued(first: int, connect: Connect, transport: str) -> None:
    """The read raises, again and again, and the next step goes on with the next request."""
    paths = [f'/{number}' for number in range(0, 40, 4)]
    conn = connect(cut_bodies(paths[first]))
    pipeline = conn.pipeline(paths, stream=True)
    broken = []
    for path, response in zip(paths, pipeline):
        assert response.path == path
        try:
            assert conn.readall() == document(path)
        except ConnectionClosed:
            broken.append(path)
            for read in (conn.readall, lambda: conn.read(5), conn.discard):
                with pytest.raises(ConnectionClosed):
                    read()
    assert broken == [paths[first]]
    assert pipeline.connections == 2


@pytest.mark.parametrize('first', [0, 2])
def test_broken_body_is_repeated_after_retry(first: int, connect: Connect, transport: str) -> None:
    paths = [f'/{number}' for number in range(0, 40, 4)]
    conn = connect(cut_bodies(paths[first]))
    pipeline = conn.pipeline(paths, stream=True)
    seen, bodies = [], []
    for response in pipeline:
        seen.append(response.path)
        try:
            bodies.append(conn.readall())
        except ConnectionClosed:
            pipeline.retry()
            assert pipeline.unanswered[0] == response.path
    assert seen == [*paths[: first + 1], *paths[first:]]
    assert bodies == [document(path) for path in paths]
    assert (pipeline.connections, pipeline.unanswered) == (2, [])
    assert pipeline.sent == len(paths) + pipeline.repeated


@pytest.mark.parametrize('read', [0, 3, None])
def test_retry_of_a_body_that_is_not_broken(read: Optional[int], connect: Connect) -> None:
    """It is in front again, although others are under way."""
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(6), stream=True)
    seen = []
    for response in pipeline:
        seen.append(response.path)
        conn.read(read)
        if seen == ['/0', '/1']:
            pipeline.retry()
    assert seen == ['/0', '/1', *numbered(5, 1)]


def test_retry_repeats_what_must_not_be_repeated_unasked(connect: Connect) -> None:
    conn = connect(cut_bodies('/0'))
    pipeline = conn.pipeline([('POST', '/0', None, b'body')], stream=True)
    next(pipeline)
    with pytest.raises(ConnectionClosed):
        conn.readall()
    pipeline.retry()
    assert pipeline.unanswered == pipeline.uncertain == [('POST', '/0', None, b'body')]
    check(next(pipeline), ('POST', '/0', None, b'body'), conn.readall())
    assert next(pipeline, None) is None
    assert pipeline.uncertain == []


def test_retry_sends_the_same_again(connect: Connect) -> None:
    """Also if the caller has used the mapping for something else meanwhile."""
    values = []

    def handler(peer: Peer) -> None:
        request = peer.read_request()
        values.append(request.field('X'))
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n')
        if len(values) == 2:
            peer.send(b'whole')

    fields = {'X': 'first'}
    conn = connect(handler)
    pipeline = conn.pipeline([('GET', '/', fields)], stream=True)
    next(pipeline)
    fields['X'] = 'second'
    with pytest.raises(ConnectionClosed):
        conn.readall()
    pipeline.retry()
    next(pipeline)
    assert conn.readall() == b'whole'
    assert values == ['first', 'first']


def test_retry_needs_a_streamed_response(connect: Connect) -> None:
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(2))
    next(pipeline)
    with pytest.raises(StateError):
        pipeline.retry()
    assert len(list(pipeline)) == 1
    pipeline = conn.pipeline(numbered(2), stream=True)
    with pytest.raises(StateError):
        pipeline.retry()
    next(pipeline)
    pipeline.retry()
    with pytest.raises(StateError):
        pipeline.retry()
    assert [resp.path for resp in pipeline] == ['/0', '/1']
    with pytest.raises(StateError):
        pipeline.retry()


@pytest.mark.parametrize('count', [1, 2, 3, 6])
@pytest.mark.parametrize('retry', [False, True])
def test_badly_framed_streamed_body(count: int, retry: bool, connect: Connect) -> None:
    """The caller has seen the error when it reads; the next step goes on with the others."""
    answers = iter([b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n'])

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.read_request()
                peer.send(next(answers, encoded(request)))

    conn = connect(handler)
    pipeline = conn.pipeline(numbered(count), stream=True)
    assert next(pipeline).path == '/0'
    with pytest.raises(InvalidResponse):
        conn.readall()
    if retry:
        pipeline.retry()
    assert [(resp.path, conn.readall()) for resp in pipeline] == [
        (path, document(path)) for path in numbered(count)[not retry :]
    ]


def test_connection_can_be_used_between_two_pipelines(connect: Connect) -> None:
    site = Site()
    conn = connect(site.handler())
    for stream in (False, True, False):
        pipeline = conn.pipeline(numbered(3), stream=stream)
        assert [resp.path for resp in pipeline] == numbered(3)
        assert pipeline.connections == 1
        conn.send_request('GET', '/4')
        conn.read_response()
        assert conn.readall() == document('/4')
    assert len(site.arrived) == 1


# Never a deadlock


@slow
@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('sizes', [(300_000, 1_000_000), (1_000_000, 20), (20, 1_000_000)])
def test_large_bodies_both_ways(
    sizes: Tuple[int, int],
    stream: bool,
    connect: Connect,
    transport: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server answers in full before it reads the body, through buffers of the least size."""
    upload, download = sizes
    CountingSockets.install(monkeypatch, prepare=shrink)
    bodies = []

    def handler(peer: Peer) -> None:
        shrink(peer.sock)
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_head()
                peer.respond(request.target.encode() * (download // 2))
                bodies.append(peer.read_body(request).body)

    conn = connect(handler)
    requests = [('PUT', path, None, path.encode() * (upload // 2)) for path in numbered(6)]
    for path, response in zip(numbered(6), conn.pipeline(requests, stream=stream)):
        body = conn.readall() if stream else response.body
        assert body == path.encode() * (download // 2)
    # The last body may not have been needed.
    assert bodies[:5] == [body for *_, body in requests][:5]


@slow
def test_many_requests_to_a_server_that_reads_slowly(
    connect: Connect, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests fill all buffers in one direction while answers do in the other."""
    CountingSockets.install(monkeypatch, prepare=shrink)

    def handler(peer: Peer) -> None:
        shrink(peer.sock)
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.read_request()
                peer.send(encoded(request) + b'HTTP/1.1 103 Hint\r\n\r\n' * 20)

    fields = {'X-Long': 'x' * 3000}
    requests = [('GET', path, fields) for path in numbered(200)]
    assert fetch(connect(handler), requests) == (200, [], 200, 1)


@pytest.mark.parametrize('status', ['200 OK', '404 Not Found'])
def test_uploads_that_are_answered_while_the_next_is_sent(
    status: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such an answer refuses nothing, as its request was sent in full."""
    CountingSockets.install(monkeypatch, prepare=shrink)

    def handler(peer: Peer) -> None:
        shrink(peer.sock)
        with contextlib.suppress(EOFError):
            while True:
                peer.read_request()
                peer.respond(b'x', status)

    pipeline = connect(handler).pipeline(
        [('PUT', path, None, bytes(100_000)) for path in numbered(20)]
    )
    assert [resp.path for resp in pipeline] == numbered(20)
    assert (pipeline.sent, pipeline.connections) == (20, 1)


@pytest.mark.parametrize('ending', ['close', 'stay'])
@pytest.mark.parametrize('status', ['413 Too Large', '200 OK'])
def test_upload_answered_before_it_was_read(
    status: str, ending: str, connect: Connect, transport: str
) -> None:
    """What was not sent of its body does not get in the way of the next requests."""
    lines = []

    def early(peer: Peer) -> None:
        peer.read_head()
        peer.respond(b'early', status, ['Connection: close'] if ending == 'close' else [])
        if status.startswith('2') and ending == 'stay':
            peer.read_exactly(20_000_000)
            answer_all(peer)
        else:
            peer.read_to_eof()

    def other(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_request()
                lines.append(request.head.partition(b'\r\n')[0])
                peer.send(encoded(request))

    conn = connect([early, other])
    with nothing_left():
        pipeline = conn.pipeline([('PUT', '/upload', None, bytes(20_000_000)), '/0', '/2'])
        assert next(pipeline).body == b'early'
        check(next(pipeline), '/0')
        check(next(pipeline), '/2')
        assert next(pipeline, None) is None
        if status.startswith('4') or ending == 'close':
            assert lines == [b'GET /0 HTTP/1.1', b'GET /2 HTTP/1.1']
        assert pipeline.in_flight == 0
        conn.disconnect()


@pytest.mark.parametrize('ending', ['close', 'stay'])
def test_upload_refused_when_it_is_repeated(
    ending: str, connect: Connect, transport: str
) -> None:
    """The server reads no more of a refused upload; the client does not wait for that."""

    def lost(peer: Peer) -> None:
        peer.read_request()

    def refuse(peer: Peer) -> None:
        peer.read_head()
        peer.respond(b'no', '413 Too Large', ['Connection: close'] if ending == 'close' else [])
        gone.wait(LIMIT)

    gone = threading.Event()
    pipeline = connect([lost, refuse, answer_all]).pipeline(
        [('PUT', '/upload', None, bytes(20_000_000)), '/0', '/2']
    )
    assert next(pipeline).status == 413
    check(next(pipeline), '/0')
    gone.set()
    check(next(pipeline), '/2')
    assert pipeline.connections == 3


# In flight


def test_number_in_flight_is_bounded() -> None:
    with ByHand(map('/{}'.format, itertools.count()), max_pending=10) as hand:
        hand.waits()
        peer = hand.accept()
        number = 0
        for _ in range(40):
            lines = peer.lines()
            assert len(lines) <= 10 >= hand.pipeline.in_flight
            targets = [line[4:] for line in lines]
            assert targets == numbered(len(lines), number)
            number += len(lines)
            peer.answer(*targets)
            hand.gets(*targets)
            hand.waits()
        # It has grown as far as it may.
        assert hand.pipeline.in_flight == len(peer.lines()) == 10


@pytest.mark.parametrize('size', [20_000, 100_000, 200_000, 500_000])
def test_bytes_in_flight_are_bounded(size: int) -> None:
    requests = itertools.chain(numbered(200), itertools.repeat(('PUT', '/', None, bytes(size))))
    with ByHand(requests) as hand:
        hand.waits()
        peer = hand.accept()
        answered = received = 0
        while answered < 200:
            data = peer.arrived()
            received += data.count(b'\0')
            targets = re.findall('GET (/\\d+) ', data.decode())
            peer.answer(*targets)
            hand.gets(*targets)
            hand.waits()
            answered += len(targets)
        while True:
            piece = peer.arrived().count(b'\0')
            if not piece:
                break
            received += piece
            hand.waits()
        assert hand.pipeline.in_flight == received // size == max(1, MAX_BYTES // size)


# Lost connections

ENDINGS = [
    Life(7, 'fin'),
    Life(7, 'close'),
    Life(7, 'notify'),
    Life(7, 'announce'),
    Life(7, 'reset'),
    Life(7, 'fin', 20),
    Life(7, 'reset', 20),
    Life(7, 'fin', 60),
    Life(7, 'reset', 60),
]


@pytest.mark.parametrize('life', ENDINGS, ids='{0.end}-{0.cut}'.format)
def test_unanswered_requests_are_sent_again_in_order(
    life: Life, connect: Connect, transport: str
) -> None:
    site = Site()
    pipeline = connect(site.handler([life])).pipeline(numbered(60))
    for path, response in zip(numbered(60), pipeline):
        check(response, path)
    assert next(pipeline, None) is None
    assert pipeline.connections == 2
    first, second = ([target for _, target in arrived] for arrived in site.arrived)
    assert first == numbered(len(first))
    answered = 60 - len(second)
    # What was answered only in part, or lost on its way, is repeated.
    assert answered <= 7
    assert second == numbered(len(second), answered)
    assert pipeline.sent == 60 + pipeline.repeated >= len(first) + len(second)
    if life.end != 'reset':
        assert answered == 7


@pytest.mark.parametrize('method', IDEMPOTENT)
def test_idempotent_request_is_repeated(method: str, connect: Connect, transport: str) -> None:
    site = Site()
    body = None if method in ('GET', 'HEAD', 'TRACE') else b'1234'
    requests = [(method, '/1', None, body), (method, '/2', None, body)]
    assert fetch(connect(site.handler([Life(0)])), requests).answers == 2
    assert site.counts == {(method, '/1'): 2, (method, '/2'): 2}


@pytest.mark.parametrize('end', ['fin', 'close', 'reset', 'stall'])
@pytest.mark.parametrize('cut', [0, 20, 45])
@pytest.mark.parametrize('method', NOT_IDEMPOTENT)
def test_request_that_is_not_idempotent_is_not_repeated(
    method: str, cut: int, end: str, connect: Connect, transport: str
) -> None:
    site = Site()
    conn = connect(site.handler([Life(1, end, cut)]))
    if end == 'stall':
        conn.timeout = SHORT
    given = (method, '/order', None, b'body')
    pipeline = conn.pipeline(iter(['/0', given, '/2', '/4']))
    check(next(pipeline), '/0')
    with pytest.raises(ConnectionClosed, match=f'{method} /order'):
        next(pipeline)
    assert pipeline.uncertain == [given]
    assert pipeline.unanswered[0] == given
    assert next(pipeline, None) is None
    # Nothing was sent behind it, and all on one connection.
    assert site.arrived == [[('GET', '/0'), (method, '/order')]]
