"""Pipelines, keep-alive limits and restarts: what becomes of many requests on one connection."""

import asyncio
import contextlib
import functools
import itertools

import pytest

import dugong
from dugong import ConnectionClosed

from .drivers import DRIVERS, ask, background, check_body, fetch
from .servers import LIMIT, NUMBERED

DEPTH = 1000

#: Of the servers that are told to close a connection after some requests.
KEEPALIVE = 40
MORE_THAN_KEEPALIVE = 100


def paths(count):
    return [f'/docs/n/{number % NUMBERED}' for number in range(count)]


def requests(server, count):
    return [('GET', path, dict(server.fields)) for path in paths(count)]


def document(server, number):
    return server.site.documents[f'n/{number % NUMBERED}']


class Reader:
    """Compares answers in order."""

    def __init__(self, server):
        self.server = server
        self.answers = 0

    def check(self, response, body):
        assert response.status == 200
        check_body(body, document(self.server, self.answers))
        self.answers += 1


def exchange_in_threads(server, conn, count, reader):
    """Send *count* requests in a second thread; stop where the server stops."""

    def send():
        for method, path, fields in requests(server, count):
            conn.send_request(method, path, fields)

    with background(send):
        while reader.answers < count:
            response = conn.read_response()
            reader.check(response, conn.readall())


def exchange_in_tasks(server, conn, count, reader):
    """Send *count* requests in a second task."""

    async def send():
        for method, path, fields in requests(server, count):
            await dugong.AioFuture(conn.co_send_request(method, path, fields))

    async def run():
        both = asyncio.gather(send(), read(conn, reader, count), return_exceptions=True)
        # The answers that are there can be read even if the server takes no more requests.
        for result in reversed(await asyncio.wait_for(both, LIMIT)):
            if isinstance(result, BaseException):
                raise result

    asyncio.run(run())


async def read(conn, reader, count):
    while reader.answers < count:
        response = await dugong.AioFuture(conn.co_read_response())
        reader.check(response, await dugong.AioFuture(conn.co_readall()))


PIPELINES = {'threads': exchange_in_threads, 'asyncio': exchange_in_tasks}


@pytest.mark.feature('pipelining')
@pytest.mark.parametrize('pipeline', PIPELINES)
def test_requests_sent_ahead_are_answered_in_order(server, conn, pipeline):
    reader = Reader(server)
    PIPELINES[pipeline](server, conn, DEPTH, reader)
    assert reader.answers == DEPTH
    assert not conn.response_pending()


@pytest.mark.feature('pipelining')
def test_requests_sent_before_the_first_answer_is_read(server, conn):
    sent = 0

    def send():
        nonlocal sent
        for method, path, fields in requests(server, DEPTH):
            yield from conn.co_send_request(method, path, fields)
            sent += 1

    # As far as the server and the buffers between take them while nothing is read.
    sending = send()
    while any(need.poll(0.1) for need in itertools.islice(sending, 1)):
        pass
    assert sent > DEPTH // 10
    reader = Reader(server)

    async def run():
        rest = [dugong.AioFuture(sending)] if sent < DEPTH else []
        await asyncio.wait_for(asyncio.gather(*rest, read(conn, reader, DEPTH)), LIMIT)

    asyncio.run(run())
    assert reader.answers == DEPTH


def pipeline_of_bodies(conn, wanted, reader):
    pipeline = conn.pipeline(wanted, max_pending=reader.server.max_pending)
    for response in pipeline:
        reader.check(response, response.body)
    return pipeline


def pipeline_of_streams(conn, wanted, reader):
    pipeline = conn.pipeline(wanted, max_pending=reader.server.max_pending, stream=True)
    for response in pipeline:
        reader.check(response, conn.readall())
    return pipeline


def pipeline_in_asyncio(conn, wanted, reader):
    async def run():
        pipeline = conn.co_pipeline(wanted, max_pending=reader.server.max_pending)
        async for response in pipeline:
            reader.check(response, response.body)
        return pipeline

    return asyncio.run(run())


@pytest.mark.feature('pipeline()')
@pytest.mark.parametrize(
    'run', [pipeline_of_bodies, pipeline_of_streams, pipeline_in_asyncio], ids=lambda f: f.__name__
)
def test_pipeline_loses_nothing(server, conn, run):
    count = DEPTH if server.keeps_alive else DEPTH // 20
    reader = Reader(server)
    pipeline = run(conn, requests(server, count), reader)
    assert reader.answers == count
    assert (pipeline.in_flight, list(pipeline.unanswered)) == (0, [])
    if server.keeps_alive:
        assert (pipeline.connections, pipeline.repeated) == (1, 0)


@pytest.mark.feature('pipeline()')
def test_pipeline_mixes_methods(server, conn):
    target = '/uploads/mixed'
    wanted = [
        ('PUT', target, dict(server.fields), b'first'),
        ('GET', '/docs/text', dict(server.fields)),
        ('HEAD', '/docs/large', dict(server.fields)),
        ('GET', '/docs/missing', dict(server.fields)),
        ('GET', '/docs/empty', dict(server.fields)),
        ('PUT', target, dict(server.fields), b'second'),
    ] * 5
    replies = [
        (response.status, response.body)
        for response in conn.pipeline(wanted, max_pending=server.max_pending)
    ]
    for number, (status, body) in enumerate(replies):
        if wanted[number][0] == 'PUT':
            assert status in (200, 201, 204)
        elif wanted[number][1] == '/docs/missing':
            assert status == 404
        else:
            assert status == 200
            expected = b'' if number % 6 in (2, 4) else server.site.documents['text']
            check_body(body, expected)
    assert len(replies) == len(wanted)
    assert server.stored('mixed').read_bytes() == b'second'


@pytest.fixture(scope='session')
def start_limited(server, make_starter):
    """Function that returns one more server of the same kind, started when it is first called."""
    starter = make_starter()
    yield functools.lru_cache()(lambda: starter(type(server), server.tls is not None, KEEPALIVE))
    starter.close()


@pytest.fixture
def limited(start_limited):
    """A server that closes connections after some requests."""
    return start_limited()


@pytest.mark.feature('keep-alive limit')
@pytest.mark.parametrize('pipeline', PIPELINES)
def test_where_the_limit_is_reached_the_pipeline_ends(limited, pipeline):
    reader = Reader(limited)
    with limited.connection() as conn:
        with pytest.raises(ConnectionClosed):
            PIPELINES[pipeline](limited, conn, MORE_THAN_KEEPALIVE, reader)
        assert 0 < reader.answers < MORE_THAN_KEEPALIVE
        conn.disconnect()
        reply = ask(limited, conn, '/docs/text')
        check_body(reply.body, limited.site.documents['text'])


@pytest.mark.feature('keep-alive limit')
def test_pipeline_goes_on_over_the_limit(limited):
    reader = Reader(limited)
    with limited.connection() as conn:
        pipeline = conn.pipeline(requests(limited, 5 * MORE_THAN_KEEPALIVE))
        for response in pipeline:
            reader.check(response, response.body)
        assert reader.answers == 5 * MORE_THAN_KEEPALIVE
        assert pipeline.connections > 1


@pytest.mark.slow
@pytest.mark.feature('restart')
def test_a_restart_between_requests_shows_and_a_new_connection_works(server):
    with contextlib.ExitStack() as stack:
        connections = {name: stack.enter_context(server.connection()) for name in DRIVERS}
        for conn in connections.values():
            ask(server, conn, '/docs/text')
        server.restart()
        for name, conn in connections.items():
            with pytest.raises(ConnectionClosed) as caught:
                DRIVERS[name](conn, fetch('/docs/text', fields=server.fields))
            assert dugong.is_temp_network_error(caught.value)
            conn.disconnect()
            reply = DRIVERS[name](conn, fetch('/docs/text', fields=server.fields))
            check_body(reply.body, server.site.documents['text'])


@pytest.mark.slow
@pytest.mark.feature('restart')
def test_pipeline_goes_on_over_a_restart(server, conn):
    count = 300 if server.keeps_alive else 30
    reader = Reader(server)
    # Not so many in flight that the rest is answered when the server stops.
    pipeline = conn.pipeline(requests(server, count), max_pending=min(50, server.max_pending))
    for response in pipeline:
        reader.check(response, response.body)
        if reader.answers == count // 2:
            server.restart()
    assert reader.answers == count
    assert pipeline.connections > 1
