"""Bodies sent to real servers, compared with what they stored."""

import filecmp
import itertools

import pytest

from dugong import BodyFollowing, ConnectionClosed

from .drivers import DRIVERS, Reply, ask, check_body
from .uploads import KINDS, put, source

SIZES = [0, 1, 65535, 65536, 65537]

#: Statuses of a successful upload: new or replaced, with or without a content.
STORED = (200, 201, 204)

counter = itertools.count()


def feature_of(name):
    if KINDS[name].expect100:
        return '100-continue'
    return 'PUT' if KINDS[name].length else 'chunked upload'


def kinds(*names):
    """Parameters with the feature that each looks at."""
    return [pytest.param(name, marks=pytest.mark.feature(feature_of(name))) for name in names]


@pytest.fixture(scope='session')
def bodies(site, directory):
    """A file of each size."""
    files = {}
    for size in SIZES:
        files[size] = directory / f'body-{size}'
        files[size].write_bytes(site.documents['large'][:size])
    return files


@pytest.fixture(scope='session')
def large_body(site, directory):
    """A file of 100 MiB."""
    file = directory / 'body-large'
    block = site.documents['large']
    with file.open('wb') as out:
        for number in range(100):
            out.write(block[number:] + block[:number])
    assert file.stat().st_size == 100 << 20
    return file


def refusal(server, kind):
    """The status with which *server* refuses such an upload, or `None`."""
    limit = None if kind.length else server.limits.get('chunked upload')
    return limit and limit.status


def exchange_or_refusal(driver, conn, exchange):
    """The answer, even if it came while the body was being sent."""
    try:
        return DRIVERS[driver](conn, exchange)
    except ConnectionClosed:
        return Reply(conn.read_response(), conn.readall())


@pytest.mark.parametrize('name', kinds(*KINDS))
@pytest.mark.parametrize('driver', DRIVERS)
def test_what_is_sent_is_stored(server, conn, driver, name, bodies):
    kind = KINDS[name]
    refused = refusal(server, kind)
    for size, file in bodies.items():
        if refused or not server.keeps_alive:
            conn.disconnect()
        target = f'{name}-{size}-{next(counter)}'
        with source(kind, file) as body:
            exchange = put(kind, '/uploads/' + target, body, size, server.fields)
            if refused:
                assert exchange_or_refusal(driver, conn, exchange).status == refused
                continue
            reply = DRIVERS[driver](conn, exchange)
        assert reply.status in STORED, size
        stored = server.stored(target)
        check_body(stored.read_bytes(), file.read_bytes())
        stored.unlink()


@pytest.mark.slow
@pytest.mark.feature('100 MiB')
@pytest.mark.parametrize(
    'name, driver', [('file', 'blocking'), ('file', 'asyncio'), ('chunked', 'threads')]
)
def test_100_mib_are_stored(server, conn, driver, name, large_body):
    kind = KINDS[name]
    if refusal(server, kind):
        pytest.skip(f'{server.name}: refuses such uploads')
    target = f'large-{next(counter)}'
    size = large_body.stat().st_size
    if kind.source == 'file':
        with source(kind, large_body) as body:
            exchange = put(kind, '/uploads/' + target, body, size, server.fields)
            reply = DRIVERS[driver](conn, exchange)
    else:
        with large_body.open('rb') as stream:
            body = iter(lambda: stream.read(1 << 18), b'')
            exchange = put(kind, '/uploads/' + target, body, size, server.fields)
            reply = DRIVERS[driver](conn, exchange)
    assert reply.status in STORED
    stored = server.stored(target)
    try:
        assert filecmp.cmp(str(stored), str(large_body), shallow=False)
    finally:
        stored.unlink()


@pytest.mark.feature('early answer')
@pytest.mark.parametrize('name', ['bytes', 'file', 'written', 'chunked'])
def test_an_upload_refused_while_it_is_sent_has_its_answer(server, conn, name, tmp_path):
    kind = KINDS[name]
    file = tmp_path / 'body'
    file.write_bytes(bytes(16 << 20))
    with source(kind, file) as body:
        exchange = put(kind, '/refused/x', body, 16 << 20, server.fields)
        reply = exchange_or_refusal('blocking', conn, exchange)
    assert reply.status == 413
    # What was not sent spoils the connection for more; a new one works.
    conn.disconnect()
    reply = ask(server, conn, '/docs/text')
    check_body(reply.body, server.site.documents['text'])


@pytest.mark.feature('100-continue')
def test_a_refusal_comes_instead_of_100(server, conn):
    if 'early answer' in server.limits:
        pytest.skip(f'{server.name}: {server.limits["early answer"].reason}')
    conn.send_request(
        'PUT', '/refused/x', dict(server.fields), BodyFollowing(16 << 20), expect100=True
    )
    # Python's servers say so before they ask the application.
    assert conn.read_response().status == (100 if server.always_continues else 413)
