"""Objects that hold values and never touch the network: what they show, take and refuse."""

from email.message import Message
from typing import Any, Type

import pytest

import dugong
from dugong import HTTPConnection, HTTPResponse


@pytest.mark.parametrize('port', [-1, 65536, 10**9])
def test_port_out_of_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match=str(port)):
        HTTPConnection('localhost', port)


@pytest.mark.parametrize(
    'port', ['http', '', '-1', '+80', '8_0', ' 80', '\u0668\u0660', '0' * 9, 80.0, b'80']
)
def test_port_of_another_type_is_refused(port: Any) -> None:
    with pytest.raises(TypeError, match=type(port).__name__):
        HTTPConnection('localhost', port)


def test_port_may_be_a_string_of_digits() -> None:
    """As it comes from a configuration file."""
    conn: Any = HTTPConnection('localhost', '8080')
    assert conn.port == 8080
    with pytest.raises(ValueError, match='65536'):
        conn.port = '65536'


@pytest.mark.parametrize('name', [b'localhost', 1, None])
def test_host_name_of_another_type_is_refused(name: Any) -> None:
    with pytest.raises(TypeError, match=type(name).__name__):
        HTTPConnection(name)


@pytest.mark.parametrize('name', ['http://localhost', 'localhost/', 'user@localhost', 'a?b', 'a#'])
def test_url_is_no_host_name(name: str) -> None:
    with pytest.raises(
        ValueError, match=r'host name \(a URL is none\)' if '/' in name else 'host name'
    ):
        HTTPConnection(name)


@pytest.mark.parametrize(
    'arguments, what',
    [
        ((b'GET', '/'), 'method must be a str, not bytes'),
        (('GET', b'/'), 'path must be a str, not bytes'),
        (('GET', '/', {1: 2}), 'header name must be a str, not int'),
        (('GET', '/', 'name: value'), 'headers must be a mapping, not str'),
        (('GET', '/', 5), 'headers must be a mapping, not int'),
        (('GET', '/', ['name: value']), 'headers must be a mapping, or pairs of name and value'),
    ],
)
def test_argument_of_another_type_is_named(arguments: Any, what: str) -> None:
    with pytest.raises(TypeError, match=f'^{what}$'):
        HTTPConnection('localhost').send_request(*arguments)


def test_what_is_no_tls_context_is_refused() -> None:
    context: Any = True
    with pytest.raises(TypeError, match='SSLContext, not bool'):
        HTTPConnection('localhost', ssl_context=context)
    conn = HTTPConnection('localhost')
    with pytest.raises(TypeError, match='SSLContext, not bool'):
        conn.ssl_context = context
    assert conn.ssl_context is None


@pytest.mark.parametrize(
    'proxy, error',
    [
        ('proxy', ValueError),
        (('proxy',), ValueError),
        (('proxy', 1, 2), ValueError),
        (5, TypeError),
    ],
)
def test_proxy_is_a_pair(proxy: Any, error: Type[Exception]) -> None:
    with pytest.raises(error, match='pair of host name and port'):
        HTTPConnection('localhost', proxy=proxy)


def test_constructor_that_failed_leaves_nothing_to_close() -> None:
    conn = HTTPConnection.__new__(HTTPConnection)
    conn.close()


@pytest.mark.parametrize('attribute', ['hostname', 'port', 'ssl_context', 'proxy'])
def test_where_to_connect_to_can_be_read_and_assigned(attribute: str) -> None:
    values = {'hostname': 'other', 'port': 81, 'ssl_context': None, 'proxy': ('proxy', 3128)}
    conn = HTTPConnection('localhost')
    setattr(conn, attribute, values[attribute])
    assert getattr(conn, attribute) == values[attribute]


def test_proxy_headers_can_be_read_and_assigned() -> None:
    conn = HTTPConnection('localhost', proxy=('proxy', 3128), proxy_headers={'A': 'b'})
    assert conn.proxy_headers == {'A': 'b'}
    conn.proxy_headers = None
    assert conn.proxy_headers is None


@pytest.mark.parametrize(
    'attribute, value',
    [
        ('hostname', 'a b'),
        ('port', 65536),
        ('proxy', ('a b', 3128)),
        ('proxy_headers', {'A': 'x\r\n'}),
    ],
)
def test_value_that_is_refused_is_not_assigned(attribute: str, value: Any) -> None:
    conn = HTTPConnection('localhost', proxy=('proxy', 3128), proxy_headers={'A': 'b'})
    before = getattr(conn, attribute)
    with pytest.raises(ValueError):
        setattr(conn, attribute, value)
    assert getattr(conn, attribute) == before
    # Another one can be.
    conn.proxy = None


def test_name_that_cannot_be_encoded_is_refused() -> None:
    with pytest.raises(ValueError, match='host name'):
        HTTPConnection('é' * 100)


def test_base_of_the_resolver_errors_shows_the_name() -> None:
    exc = dugong.HostnameNotResolvableOrDNSUnavailable('some.example')
    assert str(exc) == "cannot resolve host name 'some.example'"


def test_response_can_be_made_with_a_message_and_shows_itself() -> None:
    headers = Message()
    headers['A'] = 'b'
    response = HTTPResponse('GET', '/path', 200, 'OK', headers, 5)
    assert response.headers is headers
    assert (response.trailers, response.body) == (None, None)
    assert repr(response) == "<HTTPResponse GET '/path': 200 OK>"


def test_headers_of_a_response_can_be_assigned() -> None:
    response = HTTPResponse('GET', '/', 200, 'OK', Message())
    response.headers = headers = Message()
    assert response.headers is headers


def test_buffer_allocates_its_memory_when_it_is_needed() -> None:
    buf = dugong._Buffer(100)
    with pytest.raises(AttributeError, match='nothing'):
        buf.nothing  # noqa: B018
    assert len(buf.d) == 100


def test_case_insensitive_dict_copies_itself() -> None:
    first = dugong.CaseInsensitiveDict({'A': 1})
    second = first.copy()
    second['a'] = 2
    assert first['A'] == 1


def test_logging_that_nobody_imported_is_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from dugong import _log

    monkeypatch.setattr(_log, '_logger', None)
    monkeypatch.setitem(sys.modules, 'logging', None)
    _log.debug('nobody sees this')
    assert _log._logger is None
