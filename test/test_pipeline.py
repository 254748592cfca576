"""Pipelines: requests sent ahead, answers in order, and none lost whatever the server does."""

import asyncio
import contextlib
import gc
import itertools
import queue
import re
import socket
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from contract_support import DuckSocket
from pipeline_support import (
    IDEMPOTENT,
    MAX_BYTES,
    NOT_IDEMPOTENT,
    SHORT,
    ByHand,
    CountingSockets,
    HandPeer,
    Life,
    Site,
    check,
    document,
    encoded,
    fetch,
    mixture,
    parts,
    shrink,
)
from servers import LIMIT, Peer
from waiting_support import Thread, Waits, nothing_left, waits  # noqa: F401

import dugong
from dugong import (
    AioFuture,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    InvalidResponse,
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


def test_retry_after_the_last_response_of_a_connection(connect: Connect, transport: str) -> None:
    site = Site()
    conn = connect(site.handler([Life(1, 'announce')]))
    pipeline = conn.pipeline(['/0'], stream=True)
    next(pipeline)
    assert conn.read(3)
    pipeline.retry()
    assert next(pipeline).path == '/0'
    assert conn.readall() == document('/0')
    assert pipeline.connections == 2


def test_what_follows_a_body_is_no_answer_to_its_retry(connect: Connect, serve: Any) -> None:
    def unasked(peer: Peer) -> None:
        answer = encoded(peer.read_request())
        peer.send(answer + answer.replace(b'0', b'?'))
        peer.read_to_eof()

    conn = connect(serve([unasked, answer_all]))
    pipeline = conn.pipeline(['/0'], stream=True)
    next(pipeline)
    assert conn.read(3)
    pipeline.retry()
    next(pipeline)
    assert conn.readall() == document('/0')
    assert pipeline.connections == 2


@pytest.mark.parametrize('count', [1, 3])
def test_retries_of_broken_bodies_come_to_an_end(
    count: int, connect: Connect, transport: str
) -> None:
    def handler(peer: Peer) -> None:
        peer.send(encoded(peer.read_request())[:-1])
        peer.half_close()
        peer.read_to_eof()

    conn = connect(handler)
    pipeline = conn.pipeline(['/0'] * count, stream=True, max_retries=3)
    for _ in range(3):
        next(pipeline)
        with pytest.raises(ConnectionClosed):
            conn.readall()
        pipeline.retry()
    with pytest.raises(ConnectionClosed):
        next(pipeline)
    assert (pipeline.connections, pipeline.unanswered) == (3, ['/0'] * count)


def test_retry_after_disconnect_leaves_the_request_of_the_caller_alone(connect: Connect) -> None:
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(3), stream=True)
    next(pipeline)
    assert conn.read(3)
    conn.disconnect()
    conn.send_request('GET', '/mine')
    pipeline.retry()
    with pytest.raises(ConnectionClosed):
        next(pipeline)
    assert conn.read_response().path == '/mine'
    assert conn.readall() == document('/mine')


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


@pytest.mark.parametrize('more', [[], [('POST', '/b')]])
@pytest.mark.parametrize('read', [1, None])
def test_request_of_the_caller_behind_a_streamed_body_is_not_harmed(
    read: Optional[int], more: List[Any], connect: Connect
) -> None:
    go_on = threading.Event()

    def handler(peer: Peer) -> None:
        answer = encoded(peer.read_request())
        peer.send(answer[:-9])
        if read is not None:
            assert go_on.wait(LIMIT)
        peer.send(answer[-9:])
        answer_all(peer)

    conn = connect(handler)
    pipeline = conn.pipeline(['/0', *(more or ['/b'])], stream=True, max_pending=1)
    next(pipeline)
    assert conn.read(read)
    conn.send_request('GET', '/mine')
    with pytest.raises(StateError):
        next(pipeline)
    go_on.set()
    conn.discard()
    assert conn.read_response().path == '/mine'
    assert conn.readall() == document('/mine')


@pytest.mark.parametrize('max_retries', [0, 1])
def test_answer_that_declines_a_pipeline_is_no_failure(max_retries: int, connect: Connect) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'busy', '503 Busy', ['Connection: close'])
        peer.half_close()
        peer.read_to_eof()

    pipeline = connect(handler).pipeline(numbered(3), max_retries=max_retries)
    assert [(response.status, response.body) for response in pipeline] == [(503, b'busy')] * 3


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


# Answers that come before the request has been sent

#: More than the system takes at once.
UPLOAD = bytes(20_000_000)


@contextlib.contextmanager
def answered_upload(
    method: str, status: str = '200 OK', **options: Any
) -> Iterator[Tuple[ByHand, HandPeer]]:
    """A pipeline with an upload that is answered when its head has come, and `/last` behind it."""
    with ByHand([(method, '/upload', None, UPLOAD), '/last'], **options) as by_hand:
        by_hand.waits()
        peer = by_hand.accept()
        by_hand.waits()
        peer.read_head()
        peer.respond(b'stored', status)
        yield by_hand, peer


def take_upload(by_hand: ByHand, peer: HandPeer) -> Any:
    """Receive the upload, and go on; returns what the next step gives."""
    data = peer.arrived()
    result = ByHand.WAITS
    while len(data) < len(UPLOAD):
        if result == ByHand.WAITS:
            result = by_hand.run()
        data += peer.arrived()
    assert data.startswith(UPLOAD)
    # For `peer.lines`.
    peer._buffer = data[len(UPLOAD) :]
    return by_hand.run() if result == ByHand.WAITS else result


@pytest.mark.parametrize('status', ['200 OK', '303 See Other'])
def test_answer_that_comes_early_is_returned_when_the_request_has_been_sent(status: str) -> None:
    with answered_upload('POST', status) as (by_hand, peer):
        by_hand.waits()
        assert by_hand.pipeline.unanswered == [('POST', '/upload', None, UPLOAD)]
        response = take_upload(by_hand, peer)
        assert (response.path, response.body) == ('/upload', b'stored')
        by_hand.waits()
        assert peer.lines() == ['GET /last']
        peer.answer('/last')
        by_hand.gets('/last')
        assert by_hand.run() is None
        assert by_hand.pipeline.connections == 1


def test_rest_of_a_request_is_sent_after_its_response_was_streamed() -> None:
    with answered_upload('PUT', stream=True) as (by_hand, peer):
        response = by_hand.run()
        assert (response.path, by_hand.conn.readall()) == ('/upload', b'stored')
        assert take_upload(by_hand, peer) == ByHand.WAITS
        assert peer.lines() == ['GET /last']
        peer.answer('/last')
        assert by_hand.run().path == '/last'
        assert by_hand.conn.readall() == document('/last')
        assert by_hand.run() is None


@pytest.mark.parametrize('stream', [False, True])
def test_last_upload_is_sent_to_its_end(stream: bool, connect: Connect, transport: str) -> None:
    """Though the answer is there; the connection can be used for something else then."""
    answered = threading.Event()

    def handler(peer: Peer) -> None:
        request = peer.read_head()
        peer.respond(b'stored')
        answered.set()
        assert peer.read_body(request).body == UPLOAD
        answer_all(peer)

    conn = connect(handler)
    for response in conn.pipeline([('PUT', '/upload', None, UPLOAD)], stream=stream):
        assert (conn.readall() if stream else response.body) == b'stored'
        assert answered.wait(LIMIT)
    conn.send_request('GET', '/next')
    conn.read_response()
    assert conn.readall() == document('/next')


@pytest.mark.parametrize('end', ['close', 'reset'])
def test_upload_that_was_answered_is_repeated_if_it_could_not_be_sent(end: str) -> None:
    with answered_upload('PUT') as (by_hand, peer):
        by_hand.waits()
        getattr(peer, end)()
        by_hand.waits()
        peer = by_hand.accept()
        peer.read_head()
        assert take_upload(by_hand, peer) == ByHand.WAITS
        peer.respond(b'stored again')
        assert by_hand.run().body == b'stored again'
        assert by_hand.pipeline.repeated == 1


@pytest.mark.parametrize('end', ['close', 'reset'])
def test_upload_that_was_answered_but_could_not_be_sent_is_reported(end: str) -> None:
    """If it must not be repeated."""
    with answered_upload('POST') as (by_hand, peer):
        by_hand.waits()
        getattr(peer, end)()
        with pytest.raises(ConnectionClosed, match='POST /upload'):
            by_hand.run()
        assert by_hand.pipeline.uncertain == [('POST', '/upload', None, UPLOAD)]
        assert by_hand.run() is None
        by_hand.assert_no_connection()


@pytest.mark.parametrize('end', ['close', 'reset'])
@pytest.mark.parametrize('method', ['PUT', 'POST'])
def test_streamed_response_to_a_request_that_could_not_be_sent(method: str, end: str) -> None:
    """The caller has got the response, so that it cannot be taken back."""
    with answered_upload(method, stream=True) as (by_hand, peer):
        by_hand.run()
        assert by_hand.conn.readall() == b'stored'
        getattr(peer, end)()
        with pytest.raises(ConnectionClosed, match=f'after an answer to {method} /upload'):
            by_hand.run()
        assert by_hand.run() is None


@pytest.mark.parametrize('stream', [False, True])
def test_refused_upload_need_not_be_sent(stream: bool) -> None:
    with answered_upload('PUT', '413 Content Too Large', stream=stream) as (by_hand, peer):
        response = by_hand.run()
        assert response.status == 413
        if stream:
            assert by_hand.conn._session.stream.along is None
            assert by_hand.conn.readall() == b'stored'
        by_hand.waits()
        peer = by_hand.accept()
        by_hand.waits()
        assert peer.lines() == ['GET /last']


def test_interruption_while_an_answered_request_is_sent_loses_nothing() -> None:
    with answered_upload('PUT') as (by_hand, peer):
        for _ in range(3):
            by_hand.waits()
            by_hand.interrupt()
            by_hand.waits()
            by_hand.interrupt(KeyboardInterrupt())
        assert take_upload(by_hand, peer).body == b'stored'


@pytest.mark.parametrize('retry', [False, True])
def test_nothing_is_sent_behind_a_part_of_a_request(retry: bool) -> None:
    """The server would take it for the rest, whatever the pipeline has been given up for."""
    with answered_upload('PUT', stream=True, max_retries=1) as (by_hand, peer):
        by_hand.run()
        assert by_hand.conn.readall() == b'stored'
        if retry:
            by_hand.pipeline.retry()
        by_hand.waits()
        with pytest.raises((ConnectionClosed, ConnectionTimedOut)):
            by_hand._step.throw(ConnectionTimedOut('too late'))
        by_hand._step = None
        peer.arrived()
        with pytest.raises(ConnectionClosed):
            by_hand.conn.send_request('GET', '/taken-for-the-rest')
        assert b'GET' not in peer.arrived()


@pytest.mark.parametrize('size', [1000, len(UPLOAD)])
@pytest.mark.parametrize('stream', [False, True])
def test_upload_that_asks_to_close_is_sent_to_its_end(
    stream: bool, size: int, connect: Connect, transport: str
) -> None:
    bodies: queue.Queue[bytes] = queue.Queue()

    def handler(peer: Peer) -> None:
        request = peer.read_head()
        peer.respond(b'stored')
        bodies.put(peer.read_body(request).body)

    conn = connect(handler)
    given = ('PUT', '/upload', {'Connection': 'close'}, UPLOAD[:size])
    for response in conn.pipeline([given], stream=stream):
        assert (conn.readall() if stream else response.body) == b'stored'
    assert bodies.get(timeout=LIMIT) == UPLOAD[:size]


def test_step_that_is_about_to_be_refused_does_not_keep_the_rest_from_being_sent() -> None:
    with answered_upload('PUT', stream=True) as (by_hand, peer):
        by_hand.run()
        stream = by_hand.conn._session.stream
        # As if another thread was in the middle of its step.
        by_hand.pipeline._stepping = True
        assert stream._send_along() is not None
        by_hand.pipeline._stepping = False
        assert stream.along is not None


def test_reading_role_that_is_taken_for_a_moment_does_not_harm_an_answered_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with answered_upload('PUT') as (by_hand, peer):
        by_hand.waits()
        by_hand.interrupt()
        token = by_hand.conn._session.stream.reading
        token.pop()
        monkeypatch.setattr('dugong._stream.sleep', lambda seconds: token.append(None))
        by_hand.waits()
        assert take_upload(by_hand, peer).body == b'stored'


@slow
@pytest.mark.parametrize('how', ['blocking', 'coroutine'])
def test_server_that_reads_as_its_response_is_read(
    how: str, connect: Connect, transport: str
) -> None:
    """The rest of the request is sent while the caller reads the streamed response."""

    def echo(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.read_head()
                left = int(request.field('Content-Length') or 0)
                peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % left)
                while left:
                    data = peer.read_exactly(min(left, 65536))
                    left -= len(data)
                    peer.send(data)

    conn = connect(echo)
    bodies = [bytes([number]) * 20_000_000 for number in range(3)]
    pipeline = conn.co_pipeline([('PUT', '/', None, body) for body in bodies], stream=True)
    for body in bodies:
        assert eval_coroutine(pipeline.co_next(), LIMIT).status == 200
        if how == 'blocking':
            assert conn.readall() == body
        else:
            assert eval_coroutine(conn.co_readall(), LIMIT) == body
    assert eval_coroutine(pipeline.co_next(), LIMIT) is None
    assert pipeline.connections == 1


# Others that use the connection


def test_step_while_another_thread_reads_the_body_harms_nobody(
    connect: Connect,
    waits: Waits,  # noqa: F811
    transport: str,
) -> None:
    go_on = threading.Event()

    def handler(peer: Peer) -> None:
        answer = encoded(peer.read_request())
        peer.send(answer[:-1])
        assert go_on.wait(LIMIT)
        peer.send(answer[-1:])
        answer_all(peer)

    taken = []

    def requests() -> Iterator[str]:
        for path in numbered(3):
            taken.append(path)
            yield path

    conn = connect(handler)
    pipeline = conn.pipeline(requests(), stream=True, max_pending=1)
    next(pipeline)
    waits.begun.clear()
    reader = Thread(conn.readall)
    assert waits.begun.wait(LIMIT)
    with pytest.raises(StateError, match='another thread or coroutine is reading'):
        next(pipeline)
    # Nothing was done.
    assert taken == ['/0']
    go_on.set()
    assert reader.finish() == document('/0')
    assert [(resp.path, conn.readall()) for resp in pipeline] == [
        (path, document(path)) for path in ('/1', '/2')
    ]


def test_call_that_is_about_to_be_refused_does_not_keep_a_pipeline_from_connecting(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = connect(answer_all)
    token = conn._session.stream.sending
    token.pop()
    monkeypatch.setattr('dugong._stream.sleep', lambda seconds: token.append(None))
    pipeline = conn.pipeline(numbered(3))
    assert paths_and_bodies(pipeline) == [(path, document(path)) for path in numbered(3)]
    assert pipeline.connections == 1


@pytest.mark.parametrize('role', ['sending', 'reading'])
def test_call_that_is_about_to_be_refused_does_not_harm_a_pipeline(
    role: str, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the role for a moment before it is refused."""
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(9), max_pending=2)
    next(pipeline)
    token = getattr(conn._session.stream, role)
    token.pop()
    waited = []

    def leave(seconds: float) -> None:
        waited.append(seconds)
        token.append(None)

    monkeypatch.setattr('dugong._stream.sleep', leave)
    assert paths_and_bodies(pipeline) == [(path, document(path)) for path in numbered(8, 1)]
    assert len(waited) == 1


@pytest.mark.parametrize(
    'read',
    [
        lambda conn: conn.readall(),
        lambda conn: conn.read(3),
        lambda conn: conn.readinto(bytearray(3)),
        lambda conn: conn.discard(),
        lambda conn: conn.peek(),
    ],
)
def test_nobody_else_reads_the_body_for_a_pipeline(
    read: Callable[[HTTPConnection], Any],
) -> None:
    with ByHand(['/0', '/1']) as by_hand:
        by_hand.waits()
        peer = by_hand.accept()
        by_hand.waits()
        answer = encoded(peer.read_head())
        peer.send(answer[:-5])
        by_hand.waits()
        with pytest.raises(StateError, match='another thread or coroutine is reading'):
            read(by_hand.conn)
        by_hand.interrupt()
        with pytest.raises(StateError, match='in use by a pipeline'):
            read(by_hand.conn)
        peer.send(answer[-5:])
        by_hand.gets('/0')
        peer.answer('/1')
        by_hand.gets('/1')


def test_retry_of_what_must_be_alone_waits_for_the_end_of_the_body() -> None:
    given = ('POST', '/0', None, b'body')
    with ByHand([given], stream=True) as by_hand:
        by_hand.waits()
        peer = by_hand.accept()
        by_hand.waits()
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf')
        by_hand.run()
        by_hand.pipeline.retry()
        by_hand.waits()
        assert peer.lines() == []
        peer.send(b'half')
        by_hand.waits()
        assert peer.lines() == ['POST /0']
        assert by_hand.pipeline.connections == 1


def test_step_in_another_thread_than_the_one_before_does_not_wait_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A refusal of what was begun by the other one is not kept back."""
    with ByHand([('PUT', '/upload', None, UPLOAD)]) as by_hand:
        by_hand.waits()
        peer = by_hand.accept()
        by_hand.waits()
        peer.read_head()
        peer.respond(b'no', '413 Content Too Large')
        waited: List[float] = []
        monkeypatch.setattr('dugong._stream.sleep', waited.append)
        assert Thread(by_hand.run).finish().status == 413
        assert waited == []


def test_pipeline_that_was_struck_leaves_the_sending_role(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the descriptor is closed when the caller disconnects."""
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(9))
    next(pipeline)
    session = conn._session
    send_now = type(session).send_now

    def struck(self: Any, pieces: List[Any]) -> None:
        send_now(self, pieces)
        raise KeyboardInterrupt

    monkeypatch.setattr(type(session), 'send_now', struck)
    with pytest.raises(KeyboardInterrupt):
        list(pipeline)
    conn.disconnect()
    assert session.stream.sock is None


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
    bodies: queue.Queue[bytes] = queue.Queue()

    def handler(peer: Peer) -> None:
        shrink(peer.sock)
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_head()
                peer.respond(request.target.encode() * (download // 2))
                bodies.put(peer.read_body(request).body)

    conn = connect(handler)
    requests = [('PUT', path, None, path.encode() * (upload // 2)) for path in numbered(6)]
    for response, path in zip(conn.pipeline(requests, stream=stream), numbered(6)):
        body = conn.readall() if stream else response.body
        assert body == path.encode() * (download // 2)
    for *_, sent in requests:
        assert bodies.get(timeout=LIMIT) == sent


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
    ending: str, connect: Connect, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server reads no more of a refused upload; the client does not wait for that."""

    def sleep(seconds: float) -> None:
        raise AssertionError('waits for a sender, which is itself')

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
    monkeypatch.setattr('dugong._stream.sleep', sleep)
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
    conn = connect(site.handler([life]))
    pipeline = conn.pipeline(numbered(60))
    for path, response in zip(numbered(60), pipeline):
        check(response, path)
    assert next(pipeline, None) is None
    assert pipeline.connections == 2
    site.settle(conn)
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
    conn = connect(site.handler([Life(0, 'fin', 0)]))
    assert fetch(conn, requests).answers == 2
    site.settle(conn)
    assert site.counts == {(method, '/1'): 2, (method, '/2'): 2}


@pytest.mark.parametrize('end', ['fin', 'close', 'reset', 'stall'])
@pytest.mark.parametrize('cut', [0, 20, 45])
@pytest.mark.parametrize('method', NOT_IDEMPOTENT)
def test_request_that_is_not_idempotent_is_not_repeated(
    method: str, cut: int, end: str, connect: Connect, transport: str
) -> None:
    site = Site()
    conn = connect(site.handler([Life(1, end, cut)]))
    given = (method, '/order', None, b'body')
    pipeline = conn.pipeline(iter(['/0', given, '/2', '/4']))
    check(next(pipeline), '/0')
    if end == 'stall':
        conn.timeout = SHORT
    with pytest.raises(ConnectionClosed, match=f'{method} /order'):
        next(pipeline)
    assert pipeline.uncertain == [given]
    assert pipeline.unanswered[0] == given
    assert next(pipeline, None) is None
    # Nothing was sent behind it, and all on one connection.
    site.settle(conn)
    assert site.arrived == [[('GET', '/0'), (method, '/order')]]


def test_request_that_has_arrived_in_part_is_not_repeated(
    connect: Connect, transport: str
) -> None:
    lines = []

    def handler(peer: Peer) -> None:
        lines.append(peer.read_head().target)
        peer.read_exactly(100_000)
        peer.reset()

    given = ('POST', '/order', None, bytes(20_000_000))
    pipeline = connect(handler).pipeline([given])
    with pytest.raises(ConnectionClosed, match='POST /order'):
        next(pipeline)
    assert pipeline.uncertain == [given]
    assert lines == ['/order']


@pytest.fixture
def narrow(connect: Connect, serve: Any, monkeypatch: pytest.MonkeyPatch) -> Connect:
    """`narrow(handlers)`: a connection like that of `connect`, through which little fits."""

    def make(handlers: Any) -> HTTPConnection:
        CountingSockets.install(monkeypatch, prepare=shrink)
        server = serve(handlers)
        server._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        return connect(server)

    return make


@pytest.mark.parametrize('fields', ['', 'Connection: close'])
@pytest.mark.parametrize('status', ['200 OK', '404 Not Found'])
def test_answer_while_later_uploads_are_being_sent(
    status: str, fields: str, narrow: Connect, transport: str
) -> None:
    number = 6

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                peer.read_request()
                peer.respond(b'yes', status, [fields] if fields else ())
                if fields:
                    break

    pipeline = narrow(handler).pipeline(
        ('PUT', f'/{n}', None, bytes(40_000)) for n in range(number)
    )
    assert [(r.path, r.body) for r in pipeline] == [(f'/{n}', b'yes') for n in range(number)]


@pytest.mark.parametrize('fields', ['', 'Connection: close'])
@pytest.mark.parametrize('status', ['200 OK', '400 Bad Request'])
def test_answer_to_a_request_that_was_not_sent_yet_is_none(
    status: str, fields: str, narrow: Connect, transport: str
) -> None:
    given_up = threading.Event()

    def forge(peer: Peer) -> None:
        peer.read_until(b'\r\n\r\n')
        # An early answer that refuses nothing; the request behind it is still to come.
        peer.respond(b'', '302 Found')
        peer.respond(b'forged', status, [fields] if fields else ())
        # Not before, as the request could be sent then.
        assert given_up.wait(LIMIT)
        with contextlib.suppress(OSError):
            peer.read_to_eof()

    def answer(peer: Peer) -> None:
        given_up.set()
        # The first one was answered, but not sent to its end.
        for target in ('/0', '/1'):
            assert peer.read_request().target == target
            peer.respond(b'right')
        peer.read_to_eof()

    pipeline = narrow([forge, answer]).pipeline([('PUT', '/0', None, bytes(200_000)), '/1'])
    assert [(r.path, r.status, r.body) for r in pipeline] == [
        ('/0', 200, b'right'),
        ('/1', 200, b'right'),
    ]


def test_more_requests_than_the_kernel_takes_in_one_call(connect: Connect) -> None:
    number = 2000

    def handler(peer: Peer) -> None:
        peer.sock.settimeout(0.05)
        count = 0
        with contextlib.suppress(EOFError):
            while True:
                try:
                    peer.read_request()
                    count += 1
                except socket.timeout:
                    # All of a window at once, so that the next window is sent at once.
                    peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx' * count)
                    count = 0

    conn = connect(handler)
    requests = [('PUT', '/', None, b'x')] * number
    pipeline = conn.pipeline(requests, max_pending=number)
    # As if it had been in use for long.
    pipeline._window = number
    assert sum(len(response.body) for response in pipeline) == number


def test_upload_that_is_taken_at_once_lets_others_have_their_turn(connect: Connect) -> None:
    class Taking(DuckSocket):
        """Takes whatever is to be sent."""

        taken = 0

        def send(self, data: Any) -> int:
            size = min(len(data), 1 << 18)
            self.taken += size
            return size

    conn = connect(lambda peer: peer.read_to_eof())
    conn.connect()
    sock: Any = Taking(conn._sock)
    conn._sock = sock
    step = conn.co_pipeline([('PUT', '/', None, bytes(20_000_000))]).co_next()
    taken = 0
    while taken < 20_000_000:
        next(step)
        assert taken < sock.taken <= taken + (1 << 20) + (1 << 18)
        taken = sock.taken
    step.close()


@pytest.mark.parametrize('body', [b'', bytes(3_000_000)])
def test_request_that_was_sent_in_part_is_not_repeated(
    body: bytes, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However the system calls are divided: the second one fails after the first."""

    class Socket(socket.socket):
        calls = 0

        def send(self, data: Any, *flags: int) -> int:
            Socket.calls += 1
            if Socket.calls == 1:
                return super().send(bytes(data)[:20])
            if Socket.calls == 2:
                raise ConnectionResetError(104, 'reset')
            return super().send(data, *flags)

    def create_socket(address: Tuple[str, int]) -> socket.socket:
        sock = Socket()
        sock.connect(address)
        return sock

    lines = []

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            lines.append(peer.read_until(b' '))

    monkeypatch.setattr(dugong, 'create_socket', create_socket)
    pipeline = connect(handler).pipeline([('POST', '/order', None, body), '/0'])
    with pytest.raises(ConnectionClosed, match='POST /order'):
        next(pipeline)
    assert pipeline.uncertain == [('POST', '/order', None, body)]
    assert lines in ([], [b'POST '])


def test_request_of_which_nothing_was_sent_is_sent_later(connect: Connect) -> None:
    """A connection that is lost while others are unanswered says nothing about those behind."""
    site = Site()
    requests = ['/0', '/2', ('POST', '/order'), '/4']
    conn = connect(site.handler([Life(1)]))
    assert fetch(conn, requests) == (4, [], 5, 2)
    site.settle(conn)
    assert site.counts['POST', '/order'] == 1


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('retries', [1, 2, 3, 7])
@pytest.mark.parametrize('answers', [0, 1])
@pytest.mark.parametrize(
    'life',
    [Life(0), Life(0, 'reset', 0), Life(0, 'fin', 20), Life(0, 'fin', 60), Life(0, 'stall')],
    ids='{0.end}-{0.cut}'.format,
)
def test_error_after_so_many_connections_without_an_answer(
    life: Life, answers: int, retries: int, stream: bool, connect: Connect
) -> None:
    site = Site()
    lives = itertools.chain([Life(1, 'announce')] * answers, itertools.repeat(life))
    conn = connect(site.handler(lives))
    if life.end == 'stall':
        conn.timeout = SHORT
    pipeline = conn.pipeline(numbered(5, 2), max_retries=retries, stream=stream)
    number = 0
    with pytest.raises(ConnectionTimedOut if life.end == 'stall' else ConnectionClosed):
        for response in pipeline:
            try:
                body = conn.readall() if stream else None
            except ConnectionClosed:
                assert stream and life.cut == 60
                pipeline.retry()
                continue
            check(response, f'/{2 + number}', body)
            number += 1
    assert number == answers
    assert len(site.arrived) == pipeline.connections == retries + answers
    assert next(pipeline, None) is None
    assert pipeline.unanswered[0] == f'/{2 + answers}'
    assert pipeline.uncertain == []


def test_complete_answers_start_the_count_again(connect: Connect) -> None:
    lives = [Life(0), Life(0), Life(1), Life(0), Life(0), Life(2), Life(0), Life(0)]
    assert fetch(connect(Site().handler(lives)), numbered(20)).connections == 9


def test_failing_connects_count(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        address = listener.getsockname()
    sockets = CountingSockets.install(monkeypatch)
    pipeline = HTTPConnection(*address).pipeline(numbered(3), max_retries=4)
    with pytest.raises(ConnectionRefusedError):
        next(pipeline)
    assert sockets.count == pipeline.connections == 4
    assert (pipeline.sent, pipeline.unanswered[:1]) == (0, ['/0'])


def test_unknown_host_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def create_socket(address: Tuple[str, int]) -> socket.socket:
        calls.append(address)
        raise dugong.HostnameNotResolvable(address[0])

    monkeypatch.setattr(dugong, 'create_socket', create_socket)
    with pytest.raises(dugong.HostnameNotResolvable):
        list(HTTPConnection('some.invalid').pipeline(['/']))
    assert calls == [('some.invalid', 80)]


def test_what_remains_can_be_given_to_another_pipeline(connect: Connect) -> None:
    site = Site()
    conn = connect(site.handler([Life(3), *[Life(0)] * 3]))
    source = iter(numbered(20))
    pipeline = conn.pipeline(source)
    seen = []
    with pytest.raises(ConnectionClosed):
        for response in pipeline:
            seen.append(response.path)
    conn.reset()
    rest = conn.pipeline([*pipeline.unanswered, *source])
    assert seen + [resp.path for resp in rest] == numbered(20)


# Beginning


def test_broken_connection_is_reported(connect: Connect) -> None:
    conn = connect([lambda peer: peer.send(encoded(peer.read_request())[:-3]), answer_all])
    conn.send_request('GET', '/0')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.readall()
    pipeline = conn.pipeline(['/0'])
    with pytest.raises(ConnectionClosed):
        next(pipeline)
    assert pipeline.connections == pipeline.sent == 0
    conn.reset()
    assert fetch(conn, ['/0']).answers == 1


def test_it_does_not_begin_while_something_is_outstanding(connect: Connect) -> None:
    conn = connect(answer_all)
    conn.send_request('GET', '/0')
    for _ in range(2):
        with pytest.raises(StateError):
            next(conn.pipeline(['/2']))
        if not conn._session.reading_body:
            conn.read_response()
    assert conn.readall() == document('/0')
    assert fetch(conn, ['/2']).connections == 1


@pytest.mark.parametrize('method', ['GET', 'POST'])
def test_idle_connection_that_the_server_has_left(method: str) -> None:
    """The end is waiting, so that not even a POST is at risk."""
    with ByHand([]) as hand:
        hand.pipeline = hand.conn.co_pipeline([(method, '/0'), (method, '/2')])
        for number in range(2):
            hand.waits()
            peer = hand.accept()
            assert peer.lines()[:1] == [f'{method} /{2 * number}']
            peer.respond(b'fine')
            assert hand.run().body == b'fine'
            peer.close()
        assert hand.run() is None
        assert (hand.pipeline.connections, hand.pipeline.uncertain) == (2, [])


@pytest.mark.parametrize('method', ['GET', 'POST'])
@pytest.mark.parametrize('excess', [b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nblue', b'\0'])
def test_answer_out_of_the_blue_is_nobodys(method: str, excess: bytes) -> None:
    with ByHand([(method, '/0'), (method, '/2')], max_pending=1) as hand:
        hand.waits()
        first = hand.accept()
        first.send(b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nfine' + excess)
        assert hand.run().body == b'fine'
        hand.waits()
        assert first.lines() == [f'{method} /0']
        second = hand.accept()
        assert second.lines() == [f'{method} /2']
        second.respond(b'more')
        assert hand.run().body == b'more'
        assert hand.run() is None


# Local closing


@pytest.mark.parametrize('close', ['disconnect', 'reset'])
def test_closing_between_steps_ends_it(close: str, connect: Connect, transport: str) -> None:
    site = Site()
    conn = connect(site.handler())
    for wanted in (1, 2, 5):
        pipeline = conn.pipeline(numbered(10))
        list(itertools.islice(pipeline, wanted))
        getattr(conn, close)()
        with pytest.raises(ConnectionClosed):
            next(pipeline)
        assert next(pipeline, None) is None
        assert pipeline.unanswered[0] == f'/{wanted}'
        assert pipeline.connections == 1
    assert len(site.arrived) == 3
    assert fetch(conn, numbered(3)).answers == 3


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('end', ['closed', 'dropped'])
def test_end_of_a_pipeline_without_requests_in_flight_harms_nothing(
    end: str, stream: bool, connect: Connect, transport: str
) -> None:
    site = Site()
    conn = connect(site.handler())
    pipeline = conn.pipeline(['/0'], stream=stream)
    next(pipeline)
    conn.discard()
    assert not pipeline.in_flight
    conn.send_request('GET', '/later')
    if end == 'closed':
        pipeline.close()
    else:
        del pipeline
        gc.collect()
    assert conn.read_response().path == '/later'
    assert conn.readall()
    assert len(site.arrived) == 1


def test_end_of_a_pipeline_leaves_another_one_alone(connect: Connect, transport: str) -> None:
    site = Site()
    conn = connect(site.handler())
    first = conn.pipeline(['/0'])
    next(first)
    second = conn.pipeline(numbered(10))
    next(second)
    first.close()
    assert len(list(second)) == 9
    assert second.connections == 1


def test_end_of_a_pipeline_in_the_middle_of_a_body_breaks_the_connection(
    connect: Connect, transport: str
) -> None:
    conn = connect(Site().handler())
    pipeline = conn.pipeline(['/0'], stream=True)
    next(pipeline)
    assert not pipeline.in_flight
    pipeline.close()
    with pytest.raises(ConnectionClosed):
        conn.readall()


@pytest.mark.parametrize('lives', [[], [Life(1, 'announce')]])
@pytest.mark.parametrize('first', [[], ['/0']])
def test_closing_while_the_next_request_is_awaited_ends_a_step(
    first: List[str], lives: List[Life], connect: Connect, transport: str
) -> None:
    awaited, proceed = threading.Event(), threading.Event()

    def requests() -> Iterator[str]:
        yield from first
        awaited.set()
        assert proceed.wait(LIMIT)
        yield '/late'

    site = Site()
    pipeline = connect(site.handler(lives)).pipeline(requests(), max_pending=1)
    assert [next(pipeline).path for _ in first] == first
    thread = Thread(next, pipeline)
    assert awaited.wait(LIMIT)
    pipeline.close()
    proceed.set()
    with pytest.raises(ConnectionClosed, match='the pipeline was closed'):
        thread.finish()
    assert pipeline.unanswered == ['/late']
    assert sum(site.arrived, []) == [('GET', path) for path in first]


def test_close_in_the_last_moment_of_a_step(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing waits any more; the response is there, and the connection given up."""
    conn = connect(answer_all)
    pipeline = conn.pipeline(numbered(9))
    completed = type(pipeline)._completed

    def close(self: Any) -> None:
        completed(self)
        if self.sent > 1:
            self.close()

    monkeypatch.setattr(type(pipeline), '_completed', close)
    assert next(pipeline).path == '/0'
    assert next(pipeline, None) is None
    with pytest.raises(ConnectionClosed, match='the pipeline was closed'):
        conn.read_response()
    assert conn._sock is None


def test_request_that_another_thread_sends_in_the_last_moment(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not harmed by the pipeline that was about to send its first one."""
    conn = connect(answer_all)
    conn.connect()
    token = conn._session.stream.sending
    token.pop()

    def send(seconds: float) -> None:
        token.append(None)
        conn.send_request('GET', '/mine')

    monkeypatch.setattr('dugong._stream.sleep', send)
    with pytest.raises(StateError, match='something else is outstanding'):
        next(conn.pipeline(['/0']))
    assert conn.read_response().path == '/mine'
    assert conn.readall() == document('/mine')


@pytest.mark.parametrize('after', range(1, 6))
def test_interrupt_while_the_next_request_is_made_breaks_the_pipeline(
    after: int, connect: Connect, transport: str
) -> None:
    def requests() -> Iterator[str]:
        yield from numbered(after)
        raise KeyboardInterrupt

    conn = connect(Site().handler())
    pipeline = conn.pipeline(requests())
    responses = []
    with pytest.raises(KeyboardInterrupt):
        while True:
            responses.append(next(pipeline))
    for _ in range(2):
        with pytest.raises(ConnectionClosed, match='interrupted'):
            next(pipeline)
    paths = [response.path for response in responses]
    assert paths + pipeline.unanswered == numbered(after)
    conn.reset()
    assert len(list(conn.pipeline(numbered(3)))) == 3


class StrikingSocket(DuckSocket):
    """A socket with which *exc* comes in place of the result when something has been sent."""

    def __init__(self, sock: Any, exc: BaseException) -> None:
        super().__init__(sock)
        self._exc: Optional[BaseException] = exc

    def send(self, data: Any) -> int:
        size = self._plain.send(data)
        if self._exc is not None:
            exc, self._exc = self._exc, None
            raise exc
        return size


@pytest.mark.parametrize('exc', [TimeoutError('late'), RuntimeError('late'), KeyboardInterrupt()])
def test_request_sent_as_a_signal_handler_raises_is_uncertain(
    exc: BaseException, connect: Connect, transport: str
) -> None:
    """It has come in place of the number of bytes that were sent."""
    site = Site()
    conn = connect(site.handler())
    assert len(list(conn.pipeline(['/0']))) == 1
    conn._sock = StrikingSocket(conn._sock, exc)
    post = ('POST', '/3', None, b'3')
    pipeline = conn.pipeline([post])
    with pytest.raises(type(exc), match='late' if exc.args else None):
        next(pipeline)
    assert pipeline.uncertain == pipeline.unanswered == [post]
    site.settle(conn)
    assert site.counts == {('GET', '/0'): 1, ('POST', '/3'): 1}


@pytest.mark.parametrize('first', [[], ['/0']])
def test_closing_while_it_connects_ends_a_step(
    first: List[str], serve: Any, transport: str, certificates: Any
) -> None:
    """However the connection is made: nothing is sent on it."""
    site = Site()
    server = serve(site.handler([Life(1, 'announce')] if first else []))

    class Own(HTTPConnection):
        connects = 0

        def connect(self) -> None:
            super().connect()
            self.connects += 1
            if self.connects > len(first):
                pipeline.close()

    context = certificates.client_context if transport == 'tls' else None
    with Own(*server.address, context) as conn:
        conn.timeout = LIMIT
        pipeline = conn.pipeline([*first, '/late'], max_pending=1)
        assert [next(pipeline).path for _ in first] == first
        with pytest.raises(ConnectionClosed, match='the pipeline was closed'):
            next(pipeline)
        assert pipeline.unanswered == ['/late']
    assert sum(site.arrived, []) == [('GET', path) for path in first]


@pytest.mark.parametrize('close', ['disconnect', 'reset', 'pipeline'])
@pytest.mark.parametrize('cut', [None, 20, 60])
def test_closing_in_another_thread_ends_a_step(
    cut: Optional[int],
    close: str,
    connect: Connect,
    serve: Any,
    transport: str,
    waits: Waits,  # noqa: F811
) -> None:
    there = threading.Event()

    def handler(peer: Peer) -> None:
        peer.send(encoded(peer.read_request()))
        request = peer.read_request()
        peer.send(encoded(request)[: cut or 0])
        there.set()
        peer.read_to_eof()

    server = serve(handler)
    conn = connect(server)
    pipeline = conn.pipeline(['/0', '/2', '/4'])
    next(pipeline)
    waits.begun.clear()
    thread = Thread(next, pipeline)
    assert there.wait(LIMIT)
    waits.next()
    pipeline.close() if close == 'pipeline' else getattr(conn, close)()
    with pytest.raises(ConnectionClosed):
        thread.finish()
    assert next(pipeline, None) is None
    assert pipeline.unanswered == ['/2', '/4']
    assert server.connections == 1


@slow
def test_closing_at_any_line_ends_it(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As another thread, or a signal handler, may do: no connection is made after that."""
    sockets = CountingSockets.install(monkeypatch)
    server = serve(Site().handler(itertools.repeat(Life(1))))
    files = ('_pipeline.py', '_connection.py')
    for line in itertools.count(1):
        conn = HTTPConnection(*server.address)
        conn.timeout = LIMIT
        seen = []
        counter = 0
        closed: List[int] = []

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal counter
            if not frame.f_code.co_filename.endswith(files):
                return None
            if event == 'line':
                counter += 1
                if counter == line:  # noqa: B023
                    sys.settrace(None)
                    # Before it has begun, it has nothing to do with the connection yet.
                    begun = pipeline._session is not None  # noqa: B023
                    conn.disconnect()  # noqa: B023
                    closed.append(sockets.count if begun else 1 << 30)  # noqa: B023
            return trace

        pipeline = conn.pipeline(['/0', '/2', '/4'])
        before = sys.gettrace()
        sys.settrace(trace)
        try:
            for response in pipeline:
                seen.append(response.path)
        except ConnectionClosed:
            assert closed, 'nobody has closed it'
        else:
            assert seen == ['/0', '/2', '/4'], line
        finally:
            sys.settrace(before)
            conn.disconnect()
        if not closed:
            break
        assert sockets.count <= closed[0], f'connected after line event {line}'
    assert line > 200


# Adaptation


def pipelining_proxy(kind: str) -> Callable[[Peer], None]:
    """A server that does not cope with a request that comes together with another one."""

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                request = peer.read_request()
                more = bool(peer._buffer)
                if more and kind == 'refuses all':
                    peer.respond(b'bad', '400 Bad Request', 'Connection: close')
                    break
                if more and kind == 'leaves':
                    break
                peer.send(encoded(request, close=more and kind == 'answers one'))
                if not more:
                    continue
                if kind == 'answers one':
                    break
                if kind == 'refuses the second':
                    peer.respond(b'bad', '501 Not Implemented', 'Connection: close')
                    break
                if kind == 'talks nonsense':
                    peer.send(b'what was that?\r\n\r\n')
                    break
                # Forgets what it has read.
                peer.read_to_eof()
            peer.half_close()
            peer.read_to_eof()

    return handler


@pytest.mark.parametrize(
    'kind',
    [
        'refuses all',
        'refuses the second',
        'leaves',
        'answers one',
        'talks nonsense',
    ],
)
def test_server_that_does_not_cope_with_pipelining(
    kind: str, connect: Connect, transport: str
) -> None:
    result = fetch(connect(pipelining_proxy(kind)), mixture(60))
    assert (result.answers, result.uncertain) == (60, [])
    # It goes on trying, but not all the time.
    assert result.sent <= 150


@slow
def test_server_that_stalls_when_it_gets_several_requests(connect: Connect) -> None:
    conn = connect(pipelining_proxy('stalls'))
    conn.timeout = SHORT
    assert fetch(conn, numbered(20), max_retries=10).answers == 20


@pytest.mark.parametrize('end', ['announce', 'fin', 'close', 'eof'])
def test_one_request_per_connection(end: str, connect: Connect, transport: str) -> None:
    """It soon sends one at a time, so that at most that one is sent in vain."""
    site = Site()
    conn = connect(site.handler(itertools.repeat(Life(1, end))))
    result = fetch(conn, numbered(40))
    assert (result.answers, result.connections) == (40, 40)
    site.settle(conn)
    assert all(len(arrived) <= 2 for arrived in site.arrived[2:])
    if end in ('announce', 'eof'):
        assert result.sent <= 44


@pytest.mark.parametrize('answers', [3, 10, 50])
def test_server_that_closes_early_is_sent_little_in_vain(answers: int, connect: Connect) -> None:
    site = Site()
    lives = itertools.repeat(Life(answers, 'announce'))
    result = fetch(connect(site.handler(lives)), numbered(10 * answers))
    assert (result.answers, result.connections) == (10 * answers, 10)
    assert result.sent <= 16 * answers


def test_it_grows_again() -> None:
    with ByHand(map('/{}'.format, itertools.count()), max_pending=12) as hand:
        for number in range(5):
            hand.waits()
            peer = hand.accept()
            peer.lines()
            peer.answer(f'/{number}', close=True)
            hand.gets(f'/{number}')
            peer.close()
        hand.waits()
        peer = hand.accept()
        sizes = []
        for _ in range(20):
            targets = [line[4:] for line in peer.lines()]
            sizes.append(len(targets))
            peer.answer(*targets)
            hand.gets(*targets)
            hand.waits()
        assert sizes[0] == 1
        assert max(sizes) >= 6
        assert hand.pipeline.in_flight == 12


# What must not be sent


@pytest.mark.parametrize('method', NOT_IDEMPOTENT)
def test_nothing_is_sent_beside_what_is_not_idempotent(method: str) -> None:
    requests = ['/0', '/2', (method, '/order'), (method, '/order'), '/4', '/6']
    with ByHand(requests) as hand:
        hand.waits()
        peer = hand.accept()
        assert peer.lines() == ['GET /0', 'GET /2']
        peer.answer('/0')
        hand.gets('/0')
        hand.waits()
        assert peer.lines() == []
        peer.answer('/2')
        hand.gets('/2')
        for _ in range(2):
            hand.waits()
            assert peer.lines() == [f'{method} /order']
            assert hand.pipeline.uncertain == [(method, '/order')]
            answer = b'HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n'
            for piece in (answer, b'don'):
                peer.send(piece)
                hand.waits()
                assert peer.lines() == []
            peer.send(b'e')
            assert hand.run().body == b'done'
            assert hand.pipeline.uncertain == []
        hand.waits()
        assert peer.lines() == ['GET /4', 'GET /6']


def test_nothing_is_sent_behind_connection_close() -> None:
    requests = ['/0', ('GET', '/2', {'connection': 'Close'}), '/4', '/6']
    with ByHand(requests) as hand:
        hand.waits()
        first = hand.accept()
        assert first.lines() == ['GET /0', 'GET /2']
        # Although the server does not say that it closes.
        first.answer('/0', '/2')
        hand.gets('/0', '/2')
        hand.waits()
        assert first.lines() == []
        second = hand.accept()
        assert second.lines() == ['GET /4', 'GET /6']
        second.answer('/4', '/6')
        hand.gets('/4', '/6')
        assert hand.run() is None


def test_nothing_is_sent_behind_an_announced_end() -> None:
    with ByHand(numbered(20)) as hand:
        hand.waits()
        first = hand.accept()
        lines = first.lines()
        first.answer('/0', close=True)
        hand.gets('/0')
        hand.waits()
        assert first.lines() == []
        second = hand.accept()
        assert second.lines()[0] == 'GET /1'
        assert len(lines) < 20


# Coroutines, threads, interruptions


def test_async_for(connect: Connect, transport: str) -> None:
    conn = connect(Site().handler([Life(5), Life(9, 'announce')]))

    async def main() -> List[Tuple[str, bytes]]:
        return [(resp.path, resp.body) async for resp in conn.co_pipeline(numbered(50))]

    assert asyncio.run(main()) == [(path, document(path)) for path in numbered(50)]


def test_time_limit_of_the_connection_counts_in_async_for(connect: Connect) -> None:
    conn = connect(Site().handler([Life(5, 'stall'), Life(9)]))
    conn.timeout = SHORT

    async def main() -> List[str]:
        return [resp.path async for resp in conn.co_pipeline(numbered(10))]

    assert asyncio.run(asyncio.wait_for(main(), LIMIT)) == numbered(10)


def test_async_for_with_streamed_bodies(connect: Connect, transport: str) -> None:
    conn = connect(Site().handler([Life(5), Life(9, 'announce')]))

    async def main() -> List[bytes]:
        bodies = []
        async for _ in conn.co_pipeline(numbered(50), stream=True):
            bodies.append(await AioFuture(conn.co_readall()))
        return bodies

    assert asyncio.run(main()) == [document(path) for path in numbered(50)]


def test_several_pipelines_in_one_event_loop(connect: Connect) -> None:
    connections = [connect(Site().handler([Life(5)])) for _ in range(5)]

    async def get(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
        return [resp.body async for resp in conn.co_pipeline(paths)]

    async def main() -> List[List[bytes]]:
        paths = [numbered(30, 100 * number) for number in range(5)]
        return list(await asyncio.gather(*map(get, connections, paths)))

    assert asyncio.run(main()) == [
        [document(path) for path in numbered(30, 100 * number)] for number in range(5)
    ]


def test_co_next_by_hand(connect: Connect, transport: str) -> None:
    pipeline = connect(Site().handler([Life(5)])).co_pipeline(numbered(30))
    for path in numbered(30):
        check(eval_coroutine(pipeline.co_next(), LIMIT), path)
    for _ in range(2):
        assert eval_coroutine(pipeline.co_next(), LIMIT) is None


def test_errors_come_out_of_async_for(connect: Connect) -> None:
    conn = connect(Site().handler([Life(1, 'fin', 0)]))

    async def main() -> List[str]:
        seen = []
        with pytest.raises(ConnectionClosed, match='POST /order'):
            async for resp in conn.co_pipeline(['/0', ('POST', '/order')]):
                seen.append(resp.path)
        return seen

    assert asyncio.run(main()) == ['/0']


def test_second_step_at_a_time_is_refused_and_the_first_unharmed() -> None:
    with ByHand(numbered(3)) as hand:
        hand.waits()
        peer = hand.accept()
        with pytest.raises(StateError):
            next(hand.pipeline.co_next())
        peer.answer(*numbered(3))
        hand.gets(*numbered(3))
        assert hand.run() is None


class Interruption(BaseException):
    pass


INTERRUPTIONS: Dict[str, Optional[BaseException]] = {
    'closed': None,
    'KeyboardInterrupt': KeyboardInterrupt(),
    'other': Interruption(),
}

# While it connects, this one counts as a failure of that.
INTERRUPTIONS_OF_WAITS = {**INTERRUPTIONS, 'TimeoutError': TimeoutError('too late')}


@pytest.mark.parametrize('stream', [False, True])
@pytest.mark.parametrize('name', INTERRUPTIONS_OF_WAITS)
def test_interrupted_while_waiting_for_a_head_it_goes_on(name: str, stream: bool) -> None:
    """As often as it happens, and on the same connection."""
    with ByHand(numbered(4), stream=stream) as hand:
        hand.waits()
        peer = hand.accept()
        for path in numbered(4):
            head, _, body = _plain_answer(path).partition(b'\r\n\r\n')
            for piece in (head[:3], head[3:], b'\r\n\r'):
                hand.interrupt(INTERRUPTIONS_OF_WAITS[name])
                peer.send(piece)
                hand.waits()
            peer.send(b'\n' + body)
            response = hand.run()
            assert response.path == path
            if not stream:
                assert response.body == document(path)
            if path != '/3':
                hand.waits()
        assert hand.pipeline.connections == 1
        assert peer.lines() == [f'GET {path}' for path in numbered(4)]


def _plain_answer(path: str) -> bytes:
    body = document(path)
    return b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b' % (len(body), body)


@pytest.mark.parametrize('name', INTERRUPTIONS_OF_WAITS)
def test_interrupted_in_a_body_it_goes_on(name: str) -> None:
    """It may begin again with this request, but what the caller does is no failure."""
    with ByHand(numbered(3)) as hand:
        hand.waits()
        peer = hand.accept()
        for _ in range(5):
            peer.send(_plain_answer('/0')[peer.sent : -5])
            hand.waits()
            hand.interrupt(INTERRUPTIONS_OF_WAITS[name])
            hand.waits()
            if peer.has_eof():
                peer = hand.accept()
        peer.send(_plain_answer('/0')[peer.sent :])
        hand.gets('/0')


@slow
@pytest.mark.parametrize('name', INTERRUPTIONS)
@pytest.mark.parametrize('stream', [False, True])
def test_interrupted_at_any_wait_it_goes_on(
    stream: bool, name: str, connect: Connect, serve: Any, transport: str
) -> None:
    """Connecting included; all answers are right, and nothing is repeated that must not be."""
    site = Site()

    def lives() -> Iterator[Life]:
        while True:
            yield from (Life(4, 'announce'), Life(3), Life())

    server = serve(site.handler(lives()))
    conn = connect(server)
    requests = ['/0', '/1', ('POST', '/3'), '/4', ('PUT', '/5', None, b'1'), '/6', '/8']
    for wait in itertools.count():
        site.arrived.clear()
        pipeline = conn.co_pipeline(requests, stream=stream)
        waited = 0
        seen = []
        with contextlib.suppress(ConnectionClosed):
            while True:
                step = pipeline.co_next()
                try:
                    while True:
                        need = next(step)
                        waited += 1
                        if waited == wait + 1:
                            exc = INTERRUPTIONS[name]
                            if exc is None:
                                step.close()
                                break
                            with pytest.raises(type(exc)):
                                step.throw(exc)
                            break
                        assert need.poll(LIMIT)
                except StopIteration as stop:
                    if stop.value is None:
                        break
                    body = conn.readall() if stream else stop.value.body
                    check(stop.value, requests[len(seen)], body)
                    seen.append(stop.value.path)
        if len(seen) < len(requests):
            assert pipeline.uncertain == [('POST', '/3')]
            assert pipeline.unanswered[0] == ('POST', '/3')
        site.settle(conn)
        site.check_not_repeated()
        if waited <= wait:
            break
    assert wait > 3
    conn.disconnect()
    # Handshakes that came to nothing.
    server.errors = [exc for exc in server.errors if not isinstance(exc, OSError)]


def test_cancelled_task_can_go_on(connect: Connect) -> None:
    go_on = threading.Event()

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            peer.send(encoded(peer.read_request()))
            request = peer.read_request()
            assert go_on.wait(LIMIT)
            peer.send(encoded(request))
            answer_all(peer)

    pipeline = connect(handler).co_pipeline(numbered(5))

    async def main() -> List[str]:
        seen = [(await pipeline.__anext__()).path]
        for _ in range(5):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(pipeline.__anext__(), 0.01)
        go_on.set()
        async for resp in pipeline:
            seen.append(resp.path)
        return seen

    assert asyncio.run(main()) == numbered(5)
    assert pipeline.connections == 1


@slow
def test_stall_is_a_lost_connection(connect: Connect) -> None:
    site = Site()
    conn = connect(site.handler([Life(5, 'stall'), Life(3, 'stall', 60)]))
    conn.timeout = SHORT
    assert fetch(conn, numbered(20))[:2] == (20, [])
    assert len(site.arrived) == 3


# The end


@pytest.mark.parametrize('how', ['dropped', 'closed', 'broken off'])
@pytest.mark.parametrize('stream', [False, True])
def test_given_up_with_answers_outstanding(
    how: str, stream: bool, connect: Connect, transport: str
) -> None:
    """The answers that come are for nobody else; after `reset` all is well."""
    conn = connect(Site().handler())
    with nothing_left():
        pipeline = conn.pipeline(map('/{}'.format, itertools.count()), stream=stream)
        if how == 'broken off':
            for _ in pipeline:
                break
        else:
            next(pipeline)
        if how == 'closed':
            pipeline.close()
            assert next(pipeline, None) is None
            pipeline.close()
            assert pipeline.unanswered[0] == '/1'
        del pipeline
        gc.collect()
        for use in (conn.read_response, lambda: conn.send_request('GET', '/')):
            with pytest.raises(ConnectionClosed):
                use()
        conn.disconnect()
    conn.send_request('GET', '/7')
    assert conn.read_response().path == '/7'
    assert conn.readall() == document('/7')


def test_other_calls_are_refused_while_requests_are_in_flight(connect: Connect) -> None:
    site = Site()
    conn = connect(site.handler())
    pipeline = conn.pipeline(numbered(5))
    answers = [next(pipeline)]
    assert pipeline.in_flight
    for call in (
        lambda: conn.send_request('GET', '/other'),
        conn.read_response,
        lambda: next(conn.pipeline(['/other'])),
    ):
        with pytest.raises(StateError, match='pipeline'):
            call()
    answers += pipeline
    assert [answer.path for answer in answers] == numbered(5)
    assert site.arrived == [[('GET', path) for path in numbered(5)]]
    # It has come to its end.
    assert fetch(conn, ['/0']).answers == 1


@pytest.mark.parametrize('head_read', [False, True])
@pytest.mark.parametrize('stream', [False, True])
def test_other_request_between_two_of_a_pipeline_ends_it(
    stream: bool, head_read: bool, connect: Connect
) -> None:
    """Its answer is not taken for that of the next one, nor its body thrown away."""
    conn = connect(Site().handler())
    pipeline = conn.pipeline(numbered(3), max_pending=1, stream=stream)
    assert next(pipeline).path == '/0'
    conn.readall()
    conn.send_request('GET', '/7')
    if head_read:
        conn.read_response()
    with pytest.raises(StateError, match='outstanding'):
        next(pipeline)
    if not head_read:
        assert conn.read_response().path == '/7'
    assert conn.readall() == document('/7')


def test_answered_request_between_two_of_a_pipeline_does_no_harm(connect: Connect) -> None:
    conn = connect(Site().handler())
    pipeline = conn.pipeline(numbered(3), max_pending=1)
    assert next(pipeline).path == '/0'
    conn.send_request('GET', '/7')
    assert conn.read_response().path == '/7'
    assert conn.readall() == document('/7')
    assert [answer.path for answer in pipeline] == numbered(3)[1:]


def test_given_up_at_its_end_it_leaves_the_connection_alone(connect: Connect) -> None:
    site = Site()
    conn = connect(site.handler())
    pipeline = conn.pipeline(numbered(2))
    next(pipeline)
    next(pipeline)
    pipeline.close()
    del pipeline
    assert fetch(conn, ['/0']).answers == 1
    assert len(site.arrived) == 1


def test_attributes(connect: Connect) -> None:
    order = ('POST', '/order', None, b'1')
    with ByHand(['/0', '/1', '/2', order, '/4']) as hand:
        pipeline = hand.pipeline

        def state() -> Tuple[Any, ...]:
            return (
                pipeline.sent,
                pipeline.repeated,
                pipeline.connections,
                pipeline.in_flight,
                pipeline.unanswered,
                pipeline.uncertain,
            )

        assert state() == (0, 0, 0, 0, [], [])
        hand.waits()
        peer = hand.accept()
        assert state() == (3, 0, 1, 3, ['/0', '/1', '/2', order], [])
        peer.answer('/0')
        hand.gets('/0')
        assert state() == (3, 0, 1, 2, ['/1', '/2', order], [])
        peer.close()
        hand.waits()
        peer = hand.accept()
        # It is careful now.
        assert state() == (4, 2, 2, 1, ['/1', '/2', order], [])
        peer.answer('/1')
        hand.gets('/1')
        hand.waits()
        peer.answer('/2')
        hand.gets('/2')
        assert state() == (5, 2, 2, 0, [order], [])
        hand.waits()
        assert state() == (6, 2, 2, 1, [order], [order])
        peer.respond(b'done')
        assert hand.run().body == b'done'
        assert state()[3:] == (0, [], [])
        hand.waits()
        peer.answer('/4')
        hand.gets('/4')
        assert hand.run() is None
        assert state() == (7, 2, 2, 0, [], [])


# Ten thousand documents


class Campaign(NamedTuple):
    """So many documents from a site with these connections, with a time limit or a limit."""

    name: str
    count: int
    lives: Callable[[], Iterator[Life]]
    timeout: float = LIMIT
    options: Dict[str, Any] = {}


def _every_k(end: str) -> Callable[[], Iterator[Life]]:
    return lambda: (Life(k, end) for k in itertools.cycle(range(1, 21)))


def _every_byte(end: str) -> Callable[[], Iterator[Life]]:
    """One byte more of an answer arrives on each connection."""
    return lambda: (Life(1 + cut % 3, end, cut % 120) for cut in itertools.count())


CAMPAIGNS = [
    *(
        Campaign(f'{end} after k', 630, _every_k(end))
        for end in ('fin', 'close', 'notify', 'announce', 'reset')
    ),
    Campaign('fin at every byte', 480, _every_byte('fin')),
    Campaign('reset at every byte', 480, _every_byte('reset')),
    Campaign('one per connection', 150, lambda: itertools.repeat(Life(1, 'eof'))),
    Campaign('out of the blue', 300, _every_k('blue'), LIMIT, {'max_pending': 1}),
    Campaign(
        'stall',
        240,
        lambda: (Life(20 + k, 'stall', 7 * k) for k in range(10)),
        SHORT,
        # On a busy machine, more than the stalls takes longer than that.
        {'max_retries': 50},
    ),
    Campaign('well', 200, lambda: iter(())),
]


def test_there_are_ten_thousand_documents() -> None:
    assert 2 * sum(campaign.count for campaign in CAMPAIGNS) == 10_000


@slow
@pytest.mark.parametrize('campaign', CAMPAIGNS, ids=lambda campaign: campaign.name)
def test_ten_thousand_documents(
    campaign: Campaign, connect: Connect, serve: Any, transport: str
) -> None:
    """Each is right, none is lost, and what must not be repeated arrives at most once."""
    site = Site()
    server = serve(site.handler(campaign.lives()))
    conn = connect(server)
    conn.timeout = campaign.timeout
    result = fetch(conn, mixture(campaign.count), **campaign.options)
    assert result.answers + len(result.uncertain) == campaign.count
    site.settle(conn)
    site.check_not_repeated()
    counts = site.counts
    for given in mixture(campaign.count):
        method, path, _ = parts(given)
        assert counts[method, path] or given in result.uncertain
    if campaign.timeout < LIMIT:
        # Handshakes that took too long.
        server.errors = [exc for exc in server.errors if not isinstance(exc, OSError)]
