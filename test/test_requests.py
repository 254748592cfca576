"""Section 3 of the contract: what a request looks like, to the octet."""

import array
import base64
import collections.abc
import hashlib
import io
import mmap
import socket
import struct
import sys
import threading
from email.message import Message
from types import MappingProxyType
from typing import Any, Dict, Iterator, List

import pytest
from contract_support import (
    TOKEN_OCTETS,
    Answers,
    DuckContext,
    co,
    get,
    head,
    reply,
    resolve_to,
)
from servers import LIMIT, Peer, Request

from dugong import (
    BodyFollowing,
    CaseInsensitiveDict,
    ConnectionClosed,
    ExcessBodyData,
    HTTPConnection,
    StateError,
)

STANDARD = ['Accept-Encoding: identity', 'Connection: keep-alive']

PATH_REFUSED = [*range(0x21), 0x7F]
VALUE_REFUSED = [o for o in range(0x20) if o != 0x09] + [0x7F]
TOKEN_REFUSED = [o for o in range(0x100) if o not in TOKEN_OCTETS]
HOST_REFUSED = [*range(0x21), 0x7F]

#: An octet alone, at the start, in the middle and at the end.
POSITIONS = ['{}', '{}ab', 'a{}b', 'ab{}', 'a{}{}']


def placed(octet: int) -> Iterator[str]:
    for form in POSITIONS:
        yield form.format(chr(octet), chr(octet))


def lines(request: Request) -> List[str]:
    """The lines of a head; every line must end with CRLF and be a complete one."""
    assert request.head.endswith(b'\r\n\r\n')
    found = request.head[:-4].decode('latin1').split('\r\n')
    assert not any('\r' in line or '\n' in line for line in found)
    return found


def md5(data: bytes) -> str:
    try:
        digest = hashlib.md5(data, usedforsecurity=False)  # type: ignore[call-arg]
    except TypeError:
        digest = hashlib.md5(data)
    return base64.b64encode(digest.digest()).decode('ascii')


def send(connect: Any, *args: Any, **options: Any) -> Request:
    """Send one request and return it as it arrived."""
    handler = Answers(reply())
    conn = connect(handler)
    assert conn.send_request(*args, **options) is None
    conn.read_response()
    return handler.request


# -- the head -----------------------------------------------------------------------------------


def test_get_is_exactly_this(transport: str, connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('GET', '/some/path?query=1')
    conn.read_response()
    first, host, *rest = lines(handler.request)
    assert first == 'GET /some/path?query=1 HTTP/1.1'
    assert host == f'Host: 127.0.0.1:{conn.port}'
    assert sorted(rest) == sorted(['Content-Length: 0', *STANDARD])


def test_fields_of_the_caller_keep_spelling_and_order(transport: str, connect: Any) -> None:
    headers = {'x-lower': '1', 'X-UPPER': '2', 'X-mIxEd': '3', 'Accept': 'text/plain'}
    request = send(connect, 'GET', '/', headers=headers)
    first, host, *rest = lines(request)
    assert host.startswith('Host: ')
    own = [f'{name}: {value}' for name, value in headers.items()]
    assert [line for line in rest if line in own] == own
    assert sorted(rest) == sorted(['Content-Length: 0', *STANDARD, *own])


def test_host_comes_first_even_if_the_caller_gives_one_last(connect: Any) -> None:
    request = send(connect, 'GET', '/', headers={'X-One': '1', 'host': 'evil.example'})
    assert request.fields[0][0].lower() == 'host'
    assert request.fields[0][1].startswith('127.0.0.1:')


@pytest.mark.parametrize(
    'name',
    [
        'Host',
        'host',
        'HOST',
        'Content-Length',
        'content-length',
        'Accept-Encoding',
        'ACCEPT-encoding',
    ],
)
@pytest.mark.parametrize('mapping', [dict, CaseInsensitiveDict])
def test_library_sets_these_fields_itself(name: str, mapping: Any, connect: Any) -> None:
    request = send(connect, 'PUT', '/', mapping({name: '987654'}), b'body')
    assert b'987654' not in request.head
    assert request.field('Host') == f'127.0.0.1:{request.field("Host").rpartition(":")[2]}'
    assert request.field('Content-Length') == '4'
    assert request.field('Accept-Encoding') == 'identity'


@pytest.mark.parametrize('name', ['Transfer-Encoding', 'transfer-encoding'])
@pytest.mark.parametrize('body', [None, b'', b'body'], ids=repr)
def test_transfer_encoding_of_the_caller_is_dropped(name: str, body: Any, connect: Any) -> None:
    request = send(connect, 'PUT', '/', {name: 'chunked'}, body)
    assert request.field('Transfer-Encoding') is None
    assert request.field('Content-Length') == str(len(body or b''))
    assert request.body == (body or b'')


def test_transfer_encoding_of_the_caller_is_dropped_with_body_following(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', {'Transfer-Encoding': 'chunked'}, BodyFollowing(3))
    conn.write(b'abc')
    conn.read_response()
    assert handler.request.field('Transfer-Encoding') is None
    assert handler.request.body == b'abc'


@pytest.mark.parametrize('name', ['Expect', 'expect'])
def test_library_sets_expect_itself_with_expect100(name: str, connect: Any) -> None:
    handler = Answers(reply(status='417 Expectation Failed'))

    def refuse(peer: Peer) -> None:
        handler.requests.append(peer.read_head())
        peer.send(reply(status='417 Expectation Failed'))
        peer.read_to_eof()

    conn = connect(refuse)
    conn.send_request('PUT', '/', {name: 'the unexpected'}, BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 417
    assert handler.request.field('Expect') == '100-continue'


@pytest.mark.parametrize('name', ['Connection', 'connection', 'CONNECTION'])
@pytest.mark.parametrize('value', ['close', 'keep-alive, X-Hop', 'Upgrade'])
def test_connection_of_the_caller_wins(name: str, value: str, connect: Any) -> None:
    request = send(connect, 'GET', '/', {name: value})
    assert request.field('Connection') == value


@pytest.mark.parametrize('name', ['Content-MD5', 'content-md5', 'CONTENT-MD5'])
def test_content_md5_of_the_caller_wins(name: str, connect: Any) -> None:
    request = send(connect, 'PUT', '/', {name: 'bm90IHRoZSBzdW0='}, b'body')
    assert request.field('Content-MD5') == 'bm90IHRoZSBzdW0='


def test_content_md5_of_the_caller_goes_out_with_body_following(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', {'Content-MD5': md5(b'abc')}, BodyFollowing(3))
    conn.write(b'abc')
    conn.read_response()
    assert handler.request.field('Content-MD5') == md5(b'abc')


@pytest.mark.parametrize(
    'headers',
    [
        {'X-Twice': '1', 'x-twice': '2', 'X-TWICE': '3'},
        {'Host': 'a', 'host': 'b', 'HOST': 'c'},
        {'Content-Length': '5', 'content-length': '6'},
        {'connection': 'close', 'Connection': 'keep-alive'},
        {'Content-MD5': 'YQ==', 'content-md5': 'Yg=='},
    ],
    ids=lambda headers: next(iter(headers)),
)
def test_each_field_is_sent_once_whatever_the_spelling(headers: Any, connect: Any) -> None:
    request = send(connect, 'PUT', '/', headers, b'body')
    names = [name.lower() for name, _ in request.fields]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize('method', ['GET', 'get', 'PROPFIND', 'M-SEARCH', 'X', "!#$%&'*+-.^_`|~"])
def test_method_goes_out_verbatim(method: str, connect: Any) -> None:
    assert lines(send(connect, method, '/'))[0] == f'{method} / HTTP/1.1'


@pytest.mark.parametrize(
    'path',
    ['*', '/', '//', '/a/../b', '/%zz?#frag', 'http://other/x', 'a', '/"<>\\^`{|}', '/a%20b'],
)
def test_path_goes_out_verbatim(path: str, connect: Any) -> None:
    assert lines(send(connect, 'GET', path))[0] == f'GET {path} HTTP/1.1'


def test_head_is_encoded_as_latin1(transport: str, connect: Any) -> None:
    request = send(connect, 'GET', '/caf\xe9', {'X-Name': 'M\xfcller'})
    assert request.head.startswith(b'GET /caf\xe9 HTTP/1.1\r\n')
    assert b'\r\nX-Name: M\xfcller\r\n' in request.head


class Shown:
    def __str__(self) -> str:
        return 'as shown'


@pytest.mark.parametrize(
    'value', [17, -1.5, None, True, b'bytes', Shown(), '', ' ', 'a b', '\t', ('x', 1)], ids=repr
)
def test_str_of_a_value_is_sent(value: Any, connect: Any) -> None:
    request = send(connect, 'GET', '/', {'X-Value': value})
    assert b'\r\nX-Value: ' + str(value).encode('latin1') + b'\r\n' in request.head


# -- the caller's mapping -----------------------------------------------------------------------


class Frozen(collections.abc.Mapping):  # type: ignore[type-arg]
    """A mapping that is nothing else."""

    def __init__(self, data: Dict[str, Any]) -> None:
        self._data = data

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)

    def __len__(self) -> int:
        return len(self._data)


def message(data: Dict[str, Any]) -> Message:
    """What the header of a response is."""
    result = Message()
    for name, value in data.items():
        result[name] = value
    return result


class Unregistered:
    """What a mapping does, and nothing else."""

    def __init__(self, data: Dict[str, Any]) -> None:
        self.keys, self.items = data.keys, data.items
        self._data = data

    def __getitem__(self, key: str) -> Any:
        return self._data[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._data)


@pytest.mark.parametrize(
    'mapping', [dict, CaseInsensitiveDict, MappingProxyType, Frozen, message, Unregistered]
)
@pytest.mark.parametrize('body', [None, b'body'], ids=repr)
def test_headers_may_be_any_mapping_and_stay_unchanged(
    mapping: Any, body: Any, connect: Any
) -> None:
    original = {'X-One': 1, 'host': 'x', 'Content-Length': '77', 'Transfer-Encoding': 'chunked'}
    headers = mapping(dict(original))
    request = send(connect, 'PUT', '/', headers, body)
    assert request.field('X-One') == '1'
    assert list(headers.items()) == list(original.items())


def test_headers_stay_unchanged_with_expect100(connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(head('100 Continue'))
        peer.read_exactly(3)
        peer.send(reply())
        peer.read_to_eof()

    conn = connect(handler)
    headers = CaseInsensitiveDict({'X-One': '1'})
    conn.send_request('PUT', '/', headers, BodyFollowing(3), expect100=True)
    conn.read_response()
    conn.write(b'abc')
    conn.read_response()
    assert list(headers.items()) == [('X-One', '1')]


def test_one_mapping_can_be_used_again(connect: Any) -> None:
    handler = Answers(reply(), reply())
    conn = connect(handler)
    headers = CaseInsensitiveDict({'X-One': '1'})
    for body in (b'the first', b'2nd'):
        conn.send_request('PUT', '/', headers, body)
        conn.read_response()
    one, two = handler.requests
    assert (one.body, two.body) == (b'the first', b'2nd')
    assert one.field('Content-MD5') != two.field('Content-MD5')


def test_empty_mapping_is_like_none(connect: Any) -> None:
    assert len(send(connect, 'GET', '/', {}).fields) == 4


# -- Host ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'hostname, port, tls, field',
    [
        ('host.example', 80, False, 'host.example'),
        ('host.example', None, False, 'host.example'),
        ('host.example', 443, False, 'host.example:443'),
        ('host.example', 8080, False, 'host.example:8080'),
        ('host.example', 443, True, 'host.example'),
        ('host.example', 80, True, 'host.example:80'),
        ('::1', 80, False, '[::1]'),
        ('::1', 8080, False, '[::1]:8080'),
        ('2001:db8::7', 443, True, '[2001:db8::7]'),
        ('2001:db8::7', 80, True, '[2001:db8::7]:80'),
        ('b\xfccher.example', 80, False, 'xn--bcher-kva.example'),
        ('\u4f8b\u3048.test', 8080, False, 'xn--r8jz45g.test:8080'),
        ('UPPER.example', 80, False, 'UPPER.example'),
    ],
)
def test_host_field(
    hostname: str,
    port: Any,
    tls: bool,
    field: str,
    serve: Any,
    certificates: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handler = Answers(reply())
    server = serve(handler, tls=tls)
    resolve_to(monkeypatch, server.address)
    context = None
    if tls:
        import ssl

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    with HTTPConnection(hostname, port, context) as conn:
        conn.timeout = 20
        get(conn)
    (host,) = [value for name, value in handler.request.fields if name == 'Host']
    assert host.lower() == field.lower()


def test_ipv6_server(serve: Any) -> None:
    try:
        socket.create_server(('::1', 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip('no IPv6 loopback')
    handler = Answers(reply(b'six'))
    server = serve(handler, host='::1')
    with HTTPConnection('::1', server.port) as conn:
        conn.timeout = 20
        assert get(conn)[1] == b'six'
    assert handler.request.field('Host') == f'[::1]:{server.port}'


# -- bodies -------------------------------------------------------------------------------------


@pytest.mark.parametrize('method', ['GET', 'HEAD', 'POST', 'DELETE', 'OPTIONS'])
def test_no_body_sends_a_length_of_zero(method: str, connect: Any) -> None:
    request = send(connect, method, '/')
    assert request.field('Content-Length') == '0'
    assert request.field('Content-MD5') is None


def mapped(data: bytes) -> mmap.mmap:
    found = mmap.mmap(-1, len(data))
    found[:] = data
    return found


BYTES_LIKE = {
    'bytes': lambda: b'some body',
    'bytearray': lambda: bytearray(b'some body'),
    'memoryview': lambda: memoryview(b'some body'),
    'memoryview of a slice': lambda: memoryview(b'xxsome bodyxx')[2:-2],
    'array of long': lambda: array.array('q', [1, -2, 3]),
    'memoryview of double': lambda: memoryview(array.array('d', [0.5, 2.5])),
    'memoryview of two dimensions': lambda: memoryview(bytes(range(24))).cast('B', (4, 6)),
    'mmap': lambda: mapped(b'some body'),
    'large bytes': lambda: bytes(range(256)) * 4096,
    'large bytearray': lambda: bytearray(range(256)) * 4096,
}


@pytest.mark.parametrize('kind', BYTES_LIKE)
def test_bytes_like_body_sends_length_and_md5(kind: str, transport: str, connect: Any) -> None:
    body = BYTES_LIKE[kind]()
    data = bytes(body) if kind != 'memoryview of two dimensions' else body.tobytes()
    if isinstance(body, mmap.mmap):
        data = body[:]
    request = send(connect, 'PUT', '/', body=body)
    assert request.field('Content-Length') == str(len(data))
    assert request.field('Content-MD5') == md5(data)
    assert request.body == data


def test_empty_bytes_body_has_length_zero(connect: Any) -> None:
    request = send(connect, 'PUT', '/', body=b'')
    assert request.field('Content-Length') == '0'
    assert request.field('Content-MD5') in (None, md5(b''))


@pytest.mark.parametrize(
    'kind',
    [kind for kind in BYTES_LIKE if 'large' not in kind],
)
def test_write_takes_bytes_like_objects(kind: str, transport: str, connect: Any) -> None:
    body = BYTES_LIKE[kind]()
    data = memoryview(body).tobytes()
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(len(data) + 1))
    assert conn._out_remaining
    conn.write(body)
    conn.write(b'!')
    conn.read_response()
    assert handler.request.body == data + b'!'


def test_body_following_sends_its_length_and_nothing_more(transport: str, connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    assert conn.send_request('PUT', '/', body=BodyFollowing(6)) is None
    conn.write(b'abc')
    conn.write(b'')
    conn.write(bytearray(b'def'))
    conn.read_response()
    request = handler.request
    assert request.field('Content-Length') == '6'
    assert request.field('Content-MD5') is None
    assert request.field('Expect') is None
    assert request.body == b'abcdef'
    conn.disconnect()
    assert handler.wait() == b''


def test_body_following_keeps_its_length() -> None:
    assert BodyFollowing(17).length == 17


def test_large_body_in_pieces_arrives_complete(transport: str, connect: Any) -> None:
    data = bytes(range(256)) * 8192
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(len(data)))
    for start in range(0, len(data), 50_001):
        conn.write(data[start : start + 50_001])
    conn.read_response()
    assert handler.request.body == data


@pytest.mark.parametrize('expect100', [False, True])
def test_empty_body_following_is_complete_at_once(
    expect100: bool, transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'one'), reply(b'two'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(0), expect100=expect100)
    assert not conn._out_remaining
    conn.send_request('GET', '/')
    assert conn.read_response().method == 'PUT'
    assert conn.readall() == b'one'
    assert conn.read_response().method == 'GET'
    assert conn.readall() == b'two'
    request = handler.requests[0]
    assert request.field('Content-Length') == '0'
    assert request.field('Expect') is None


def test_stray_100_after_an_empty_body_following_is_skipped(connect: Any) -> None:
    conn = connect(Answers(head('100 Continue') + reply(b'final')))
    conn.send_request('PUT', '/', body=BodyFollowing(0), expect100=True)
    assert conn.read_response().status == 200
    assert conn.readall() == b'final'


def test_expect100_sends_expect_and_holds_the_body_back(transport: str, connect: Any) -> None:
    received = []

    def handler(peer: Peer) -> None:
        received.append(peer.read_head())
        peer.send(head('100 Continue'))
        received.append(peer.read_exactly(3))
        peer.send(reply())
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('PUT', '/x', {'X-One': '1'}, BodyFollowing(3), expect100=True)
    assert conn.read_response().status == 100
    conn.write(b'abc')
    assert conn.read_response().status == 200
    request, body = received
    assert request.field('Expect') == '100-continue'
    assert request.field('Content-Length') == '3'
    assert body == b'abc'


@pytest.mark.parametrize('body', [None, b'', b'body'], ids=repr)
def test_expect100_needs_body_following(body: Any, connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    with pytest.raises(ValueError):
        conn.send_request('PUT', '/refused', body=body, expect100=True)
    get(conn, '/accepted')
    assert handler.request.target == '/accepted'


REFUSED_BODIES = {
    'str': lambda: 'text',
    'empty str': lambda: '',
    'dict': lambda: {'key': 'value'},
    'empty dict': lambda: {},
    'CaseInsensitiveDict': lambda: CaseInsensitiveDict(a='b'),
    'mapping proxy': lambda: MappingProxyType({b'a': b'b'}),
    'StringIO': lambda: io.StringIO('text'),
    'TextIOWrapper': lambda: io.TextIOWrapper(io.BytesIO(b'text')),
    'int': lambda: 17,
    'float': lambda: 1.5,
    'object': object,
    'BodyFollowing itself': lambda: BodyFollowing,
}


@pytest.mark.parametrize('kind', REFUSED_BODIES)
def test_refused_body_is_a_type_error_before_anything_is_sent(
    kind: str, transport: str, connect: Any
) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.connect()
    with pytest.raises(TypeError):
        conn.send_request('PUT', '/refused', body=REFUSED_BODIES[kind]())
    assert not conn.response_pending()
    get(conn, '/accepted')
    assert handler.request.target == '/accepted'


@pytest.mark.parametrize('data', ['text', 17, None, {'a': 1}, object()], ids=repr)
def test_write_refuses_what_is_no_bytes(data: Any, connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3))
    with pytest.raises(TypeError):
        conn.write(data)
    conn.write(b'abc')
    conn.read_response()
    assert handler.request.body == b'abc'


def test_negative_length_never_reaches_the_wire(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    with pytest.raises((ValueError, TypeError)):
        conn.send_request('PUT', '/refused', body=BodyFollowing(-1))
    get(conn, '/accepted')
    assert handler.request.target == '/accepted'


@pytest.mark.parametrize('excess', [b'abcd', b'abc' * 1000])
def test_excess_body_data_is_not_sent_and_writing_may_go_on(
    excess: bytes, transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'done'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3))
    with pytest.raises(ExcessBodyData):
        conn.write(excess)
    conn.write(b'1')
    with pytest.raises(ExcessBodyData):
        conn.write(b'xyz')
    conn.write(b'23')
    assert conn.read_response().status == 200
    assert conn.readall() == b'done'
    conn.disconnect()
    assert handler.wait() == b''
    assert handler.request.body == b'123'


def test_excess_counts_bytes_not_items(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(15))
    with pytest.raises(ExcessBodyData):
        conn.write(array.array('q', [1, 2]))
    conn.write(b'x' * 15)
    conn.read_response()
    assert handler.request.body == b'x' * 15


def test_data_after_a_complete_body_is_refused(connect: Any) -> None:
    handler = Answers(reply(b'done'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3))
    conn.write(b'abc')
    with pytest.raises((StateError, ExcessBodyData)):
        conn.write(b'd')
    conn.read_response()
    assert conn.readall() == b'done'
    conn.disconnect()
    assert handler.wait() == b''


@pytest.mark.parametrize('body', [None, b'', b'body', BodyFollowing(0)], ids=repr)
def test_write_without_a_body_to_follow_is_a_state_error(body: Any, connect: Any) -> None:
    handler = Answers(reply(b'done'))
    conn = connect(handler)
    conn.send_request('PUT', '/', body=body)
    with pytest.raises((StateError, ExcessBodyData)):
        conn.write(b'd')
    conn.read_response()
    assert conn.readall() == b'done'
    conn.disconnect()
    assert handler.wait() == b''


def test_body_of_the_caller_is_not_changed_or_kept(connect: Any) -> None:
    body = bytearray(b'some body')
    send(connect, 'PUT', '/', body=body)
    # A bytearray with a view left open cannot be resized.
    body += b' grows'
    assert body == b'some body grows'


# -- octets that are refused --------------------------------------------------------------------


@pytest.fixture
def refusing(connect: Any) -> Iterator[Any]:
    """A connection that is open, on which only the last request may reach the server."""
    handler = Answers(reply())
    conn = connect(handler)
    conn.connect()
    yield conn
    assert not conn.response_pending()
    get(conn, '/the-only-one')
    conn.disconnect()
    assert handler.wait() == b''
    assert lines(handler.request)[0] == 'GET /the-only-one HTTP/1.1'


def test_refused_octets_in_the_path(transport: str, refusing: Any) -> None:
    for octet in PATH_REFUSED:
        for form in ('{}', '/{}', '/a{}b', '{}/', '/ab{}', '/{}{}'):
            path = form.format(chr(octet), chr(octet))
            with pytest.raises(ValueError):
                refusing.send_request('GET', path)


def test_empty_path_is_refused(transport: str, refusing: Any) -> None:
    with pytest.raises(ValueError):
        refusing.send_request('GET', '')


@pytest.mark.parametrize('octets', [range(0x80), range(0x80, 0x100)], ids=['ascii', 'high'])
def test_refused_octets_in_the_method(octets: Any, refusing: Any) -> None:
    for octet in octets:
        if octet in TOKEN_REFUSED:
            for method in placed(octet):
                with pytest.raises(ValueError):
                    refusing.send_request(method, '/')


def test_empty_method_is_refused(transport: str, refusing: Any) -> None:
    with pytest.raises(ValueError):
        refusing.send_request('', '/')


@pytest.mark.parametrize('octets', [range(0x80), range(0x80, 0x100)], ids=['ascii', 'high'])
@pytest.mark.parametrize('mapping', [dict, CaseInsensitiveDict])
def test_refused_octets_in_a_field_name(octets: Any, mapping: Any, refusing: Any) -> None:
    for octet in octets:
        if octet in TOKEN_REFUSED:
            for name in placed(octet):
                with pytest.raises(ValueError):
                    refusing.send_request('GET', '/', mapping({'X-One': '1', name: 'value'}))


@pytest.mark.parametrize(
    'name', ['', 'Host:', 'Host ', ' Host', 'Content-Length\t', 'X-A: b\r\nX-B']
)
def test_refused_field_names(name: str, refusing: Any) -> None:
    with pytest.raises(ValueError):
        refusing.send_request('PUT', '/', {name: 'value'}, b'body')


def test_refused_octets_in_a_field_value(transport: str, refusing: Any) -> None:
    for octet in VALUE_REFUSED:
        for value in placed(octet):
            with pytest.raises(ValueError):
                refusing.send_request('GET', '/', {'X-One': value})


@pytest.mark.parametrize('name', ['Connection', 'Content-MD5'])
def test_refused_octets_in_the_fields_where_the_caller_wins(name: str, refusing: Any) -> None:
    for octet in VALUE_REFUSED:
        for value in placed(octet):
            with pytest.raises(ValueError):
                refusing.send_request('PUT', '/', {name: value}, b'body')


@pytest.mark.parametrize(
    'name', ['Host', 'Content-Length', 'Accept-Encoding', 'Transfer-Encoding', 'Expect']
)
def test_refused_octets_in_the_fields_that_the_library_sets(name: str, connect: Any) -> None:
    # Refusing them and dropping them are both right, sending them is not.
    handler = Answers(*[reply()] * 20)
    conn = connect(handler)
    get(conn)
    for value in ('a\r\nX-Evil: 1', 'a\nX-Evil: 1', 'a\rX-Evil: 1', '\0X-Evil'):
        try:
            conn.send_request('GET', '/', {name: value})
        except ValueError:
            continue
        conn.read_response()
    conn.disconnect()
    assert handler.wait() == b''
    for request in handler.requests:
        assert b'evil' not in request.head.lower()


class Smuggler:
    """Shows another text each time."""

    def __init__(self) -> None:
        self.shown = 0

    def __str__(self) -> str:
        self.shown += 1
        return 'good' if self.shown == 1 else 'bad\r\nX-Evil: 1'


def test_value_that_is_checked_is_the_one_that_is_sent(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    conn.send_request('GET', '/', {'X-One': Smuggler()})
    conn.read_response()
    assert handler.request.field('X-One') == 'good'
    assert b'Evil' not in handler.request.head


class ShownSmuggler(str):
    """A `str` whose `str()` is not what it holds."""

    def __str__(self) -> str:
        return 'bad\r\nX-Evil: 1'


def test_str_subclass_cannot_smuggle(connect: Any) -> None:
    handler = Answers(*[reply()] * 3)
    conn = connect(handler)
    for arguments in (
        ('GET', '/', {'X-One': ShownSmuggler('good')}),
        ('GET', ShownSmuggler('/good')),
        (ShownSmuggler('GET'), '/'),
    ):
        try:
            conn.send_request(*arguments)
        except (ValueError, TypeError):
            continue
        conn.read_response()
    conn.disconnect()
    handler.wait()
    for request in handler.requests:
        assert b'Evil' not in request.head


@pytest.mark.parametrize('where', ['method', 'path', 'name', 'value'])
@pytest.mark.parametrize('char', ['\u0100', '\u20ac', '\u010d\u010a', '\U0001f40d', '\ud800'])
def test_what_latin1_cannot_encode_is_refused(where: str, char: str, refusing: Any) -> None:
    arguments = {
        'method': (f'A{char}', '/'),
        'path': ('GET', f'/{char}'),
        'name': ('GET', '/', {f'X{char}': '1'}),
        'value': ('GET', '/', {'X': char}),
    }
    with pytest.raises(ValueError):
        refusing.send_request(*arguments[where])


def test_refusal_is_the_same_for_the_coroutine(refusing: Any) -> None:
    for arguments in (
        ('G T', '/'),
        ('GET', '/ '),
        ('GET', ''),
        ('GET', '/', {'X ': '1'}),
        ('GET', '/', {'X': 'a\nb'}),
    ):
        with pytest.raises(ValueError):
            co(refusing.co_send_request(*arguments))


def test_refusal_needs_no_connection() -> None:
    conn = HTTPConnection('host.invalid')
    for arguments in (('G T', '/'), ('GET', '/ '), ('GET', '/', {'X': 'a\nb'})):
        with pytest.raises(ValueError):
            conn.send_request(*arguments)
    with pytest.raises(TypeError):
        conn.send_request('PUT', '/', body='text')


def test_refused_request_does_not_disturb_a_pipeline(transport: str, connect: Any) -> None:
    handler = Answers(reply(b'one'), reply(b'two'))
    conn = connect(handler)
    conn.send_request('GET', '/one')
    with pytest.raises(ValueError):
        conn.send_request('GET', '/refused path')
    conn.send_request('GET', '/two')
    assert conn.read_response().path == '/one'
    assert conn.readall() == b'one'
    assert conn.read_response().path == '/two'
    assert conn.readall() == b'two'


# -- octets that pass ---------------------------------------------------------------------------


def test_all_other_octets_pass_in_the_path(transport: str, connect: Any) -> None:
    octets = [o for o in range(0x100) if o not in PATH_REFUSED]
    handler = Answers(*[reply()] * len(octets))
    conn = connect(handler)
    for octet in octets:
        get(conn, f'{chr(octet)}/{chr(octet)}a{chr(octet)}')
    for octet, request in zip(octets, handler.requests):
        raw = bytes([octet])
        assert request.head.startswith(b'GET ' + raw + b'/' + raw + b'a' + raw + b' HTTP/1.1\r\n')


def test_all_other_octets_pass_in_a_field_value(transport: str, connect: Any) -> None:
    octets = [o for o in range(0x100) if o not in VALUE_REFUSED]
    handler = Answers(*[reply()] * len(octets))
    conn = connect(handler)
    for octet in octets:
        conn.send_request('GET', '/', {'X-One': f'a{chr(octet)}b'})
        conn.read_response()
    for octet, request in zip(octets, handler.requests):
        assert b'\r\nX-One: a' + bytes([octet]) + b'b\r\n' in request.head


def test_all_token_octets_pass_in_method_and_field_name(connect: Any) -> None:
    octets = sorted(TOKEN_OCTETS)
    handler = Answers(*[reply()] * len(octets))
    conn = connect(handler)
    for octet in octets:
        conn.send_request(f'{chr(octet)}A{chr(octet)}', '/', {f'{chr(octet)}x{chr(octet)}': '1'})
        conn.read_response()
    for octet, request in zip(octets, handler.requests):
        raw = bytes([octet])
        assert request.head.startswith(raw + b'A' + raw + b' / HTTP/1.1\r\n')
        assert b'\r\n' + raw + b'x' + raw + b': 1\r\n' in request.head


# -- host and proxy names -----------------------------------------------------------------------


def test_refused_octets_in_a_host_name() -> None:
    for octet in HOST_REFUSED:
        for name in placed(octet):
            with pytest.raises(ValueError):
                HTTPConnection(name)


@pytest.mark.parametrize(
    'name',
    [
        'localhost:80',
        '127.0.0.1:80',
        'beef:80',
        '[]',
        '[host]',
        '[::1]:80',
        'a]b',
        'a[b',
        ':',
        ':80',
        '::x',
        # IDNA makes a colon of it.
        'a\uff1a80',
    ],
)
def test_host_name_is_refused_with_a_port_or_brackets(name: str) -> None:
    with pytest.raises(ValueError, match='host name'):
        HTTPConnection(name)
    with pytest.raises(ValueError, match='host name'):
        HTTPConnection('host.example', proxy=(name, 3128))


@pytest.mark.parametrize(
    'name, sent',
    [
        ('::', '[::]'),
        ('::1', '[::1]'),
        ('[::1]', '[::1]'),
        ('2001:DB8::7', '[2001:DB8::7]'),
        ('1:2:3:4:5:6:7:8', '[1:2:3:4:5:6:7:8]'),
        ('::ffff:192.0.2.1', '[::ffff:192.0.2.1]'),
        ('fe80::1%eth0', '[fe80::1]'),
    ],
)
def test_ipv6_address_is_sent_in_brackets_and_without_a_zone(
    name: str, sent: str, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Answers(reply(b''))
    server = serve(handler)
    resolve_to(monkeypatch, server.address)
    with HTTPConnection(name) as conn:
        conn.timeout = LIMIT
        get(conn)
    assert handler.request.field('Host') == sent


def test_refused_octets_in_a_proxy_name() -> None:
    for octet in HOST_REFUSED:
        for name in placed(octet):
            with pytest.raises(ValueError):
                HTTPConnection('host.example', proxy=(name, 3128))


def raw_server(serve: Any) -> Any:
    """A server that keeps all it receives in its attribute `received`."""
    received = bytearray()
    done = threading.Event()

    def handler(peer: Peer) -> None:
        received.extend(peer.read_to_eof())
        done.set()

    server = serve(handler)
    server.received = received
    return server


@pytest.mark.parametrize('attribute', ['hostname', 'proxy'])
@pytest.mark.parametrize('name', ['a b', 'a\r\nX-Evil: 1', 'a\nb', 'a\0b', 'a\tb', 'a\x7fb'])
@pytest.mark.parametrize('proxied', [False, True])
def test_name_that_is_assigned_later_does_not_reach_the_wire(
    attribute: str, name: str, proxied: bool, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = raw_server(serve)
    resolve_to(monkeypatch, server.address)
    proxy = ('proxy.example', 3128) if proxied else None
    conn = HTTPConnection('host.example', 8080, proxy=proxy)
    conn.timeout = 20
    with conn, pytest.raises(ValueError):
        setattr(conn, attribute, name if attribute == 'hostname' else (name, 3128))
        conn.send_request('GET', '/')
    assert not server.received


#: Characters that normalisation turns into a space, or into something that contains one.
@pytest.mark.parametrize(
    'char', ['\u00a0', '\u2003', '\u3000', '\u00a8', '\u00b8', '\u2028', '\u0085']
)
@pytest.mark.parametrize('how', ['plain', 'proxy', 'tunnel', 'proxy name'])
def test_spaces_in_disguise_do_not_reach_the_wire(
    char: str, how: str, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = raw_server(serve)
    asked = resolve_to(monkeypatch, server.address)
    name = f'ho{char}st.example'
    proxy = ('proxy.example', 3128) if how in ('proxy', 'tunnel') else None
    with pytest.raises(ValueError):
        if how == 'proxy name':
            conn = HTTPConnection('host.example', 8080, proxy=(name, 3128))
        else:
            context = DuckContext() if how == 'tunnel' else None
            conn = HTTPConnection(name, 8080, context, proxy)
        with conn:
            conn.timeout = 0.2
            conn.send_request('GET', '/')
    assert not server.received
    assert not [
        host for host, _ in asked if b' ' in (host if isinstance(host, bytes) else host.encode())
    ]


def test_non_ascii_name_is_looked_up_in_its_ascii_form(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(Answers(reply()))
    asked = resolve_to(monkeypatch, server.address)
    with HTTPConnection('b\xfccher.example', 8080) as conn:
        conn.timeout = 20
        get(conn)
    ((host, port),) = asked
    if isinstance(host, str):
        host = host.encode('idna')
    assert (host, port) == (b'xn--bcher-kva.example', 8080)


@pytest.mark.parametrize('name', ['a' * 64 + '.example', 'a..example', '\xfc' * 64])
def test_name_that_cannot_be_encoded_is_a_value_error_or_unknown(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dugong import HostnameNotResolvableOrDNSUnavailable as DNSError

    def getaddrinfo(*args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, 'not known')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    with pytest.raises((ValueError, DNSError)), HTTPConnection(name) as conn:
        conn.connect()


# -- segments -----------------------------------------------------------------------------------


def segments_sent(sock: socket.socket) -> int:
    """How many segments with data the kernel has sent."""
    # tcpi_data_segs_out of struct tcp_info, <linux/tcp.h>.
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    return int(struct.unpack_from('=I', info, 156)[0])


def needs_tcp_info() -> None:
    if not sys.platform.startswith('linux'):
        pytest.skip('counts segments with TCP_INFO of Linux')


@pytest.mark.parametrize('body', [None, b'x', b'x' * 500], ids=['none', '1', '500'])
@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview], ids=lambda k: k.__name__)
def test_head_and_small_body_leave_in_one_segment(
    body: Any, kind: Any, transport: str, connect: Any
) -> None:
    needs_tcp_info()
    conn = connect(Answers(reply(), reply()))
    get(conn)
    before = segments_sent(conn._sock)
    conn.send_request('PUT', '/', {'X-One': '1'}, body if body is None else kind(body))
    assert segments_sent(conn._sock) == before + 1
    conn.read_response()


def test_tcp_nodelay_is_set(transport: str, connect: Any) -> None:
    conn = connect(Answers())
    conn.connect()
    assert conn._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_path_is_required_to_be_text(connect: Any) -> None:
    handler = Answers(reply())
    conn = connect(handler)
    for arguments in ((None, '/'), ('GET', None), ('GET', 17), (b'GET', '/')):
        with pytest.raises((TypeError, ValueError, AttributeError)):
            conn.send_request(*arguments)
    get(conn, '/accepted')
    assert handler.request.target == '/accepted'


def test_request_after_a_lost_connection_is_not_resent(connect: Any, serve: Any) -> None:
    server = serve(Answers(b'', close=True))
    conn = connect(server)
    with pytest.raises(ConnectionClosed):
        get(conn)
    assert server.connections == 1
