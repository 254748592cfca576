"""Documents from real servers, whole and in parts."""

import pytest

from .drivers import DRIVERS, ask, check_body, fetch
from .servers import SIZES


@pytest.fixture
def usable_afterwards(server, conn):
    """The connection carries another request after the test."""
    yield
    reply = ask(server, conn, '/docs/text')
    assert reply.status == 200
    check_body(reply.body, server.site.documents['text'])


@pytest.mark.feature('GET')
@pytest.mark.parametrize('driver', DRIVERS)
def test_get_returns_the_document(server, conn, driver, usable_afterwards):
    for name, size in SIZES.items():
        if not server.keeps_alive:
            conn.disconnect()
        reply = DRIVERS[driver](conn, fetch('/docs/' + name, fields=server.fields))
        assert reply.status == 200
        assert reply.response.length in (size, None)
        check_body(reply.body, server.site.documents[name])


@pytest.mark.feature('GET')
def test_get_in_small_pieces_returns_the_document(server, conn, usable_afterwards):
    conn.send_request('GET', '/docs/medium', dict(server.fields))
    assert conn.read_response().status == 200
    pieces = list(iter(lambda: conn.read(1000), b''))
    check_body(b''.join(pieces), server.site.documents['medium'])


@pytest.mark.feature('GET')
def test_a_body_can_be_discarded(server, conn, usable_afterwards):
    conn.send_request('GET', '/docs/large', dict(server.fields))
    assert conn.read_response().status == 200
    conn.read(1)
    conn.discard()


@pytest.mark.feature('HEAD')
def test_head_has_the_length_and_no_body(server, conn, usable_afterwards):
    for name, size in SIZES.items():
        reply = ask(server, conn, '/docs/' + name, 'HEAD')
        assert (reply.status, reply.response.length, reply.body) == (200, 0, b'')
        # Some leave it out, as they may, where it is 0.
        assert reply.response.headers['Content-Length'] in ([str(size)] if size else ['0', None])


@pytest.mark.feature('ranges')
def test_a_range_returns_this_part(server, conn, usable_afterwards):
    for field, start, end in [
        ('0-0', 0, 1),
        ('1000-1999', 1000, 2000),
        ('4000-', 4000, 5000),
        ('-1', 4999, 5000),
    ]:
        reply = ask(server, conn, '/docs/text', fields={'Range': 'bytes=' + field})
        assert (reply.status, reply.response.length) == (206, end - start), field
        assert reply.response.headers['Content-Range'] == f'bytes {start}-{end - 1}/5000'
        check_body(reply.body, server.site.documents['text'][start:end])


@pytest.mark.feature('ranges')
def test_a_range_beyond_the_end_is_refused(server, conn, usable_afterwards):
    reply = ask(server, conn, '/docs/text', fields={'Range': 'bytes=5000-'})
    assert reply.status == 416


@pytest.mark.feature('conditional')
@pytest.mark.parametrize(
    'given, condition', [('ETag', 'If-None-Match'), ('Last-Modified', 'If-Modified-Since')]
)
def test_an_unchanged_document_is_not_sent_again(
    server, conn, given, condition, usable_afterwards
):
    value = ask(server, conn, '/docs/text').response.headers[given]
    assert value
    reply = ask(server, conn, '/docs/text', fields={condition: value})
    assert (reply.status, reply.response.length, reply.body) == (304, 0, b'')


@pytest.mark.feature('conditional')
def test_a_changed_document_is_sent(server, conn, usable_afterwards):
    reply = ask(server, conn, '/docs/text', fields={'If-None-Match': '"other"'})
    assert reply.status == 200
    check_body(reply.body, server.site.documents['text'])


@pytest.mark.feature('404')
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_a_missing_document_is_404(server, conn, method, usable_afterwards):
    reply = ask(server, conn, '/docs/missing', method)
    assert reply.status == 404
    if method == 'HEAD':
        assert reply.body == b''


@pytest.mark.feature('chunked')
@pytest.mark.parametrize('driver', DRIVERS)
def test_a_response_without_length_is_read_to_its_end(server, conn, driver, usable_afterwards):
    reply = DRIVERS[driver](conn, fetch('/chunked/large', fields=server.fields))
    assert (reply.status, reply.response.length) == (200, None)
    check_body(reply.body, server.site.documents['large'])
