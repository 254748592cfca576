"""Section 4 of the contract: what a response may look like; and reading it (section 2)."""

import array
import email.message
import threading
from typing import Any, Callable, List, Sequence, Tuple

import pytest
from contract_support import (
    BODY_CALLS,
    Answers,
    all_readers,
    chunked,
    chunked_reply,
    co,
    drain,
    get,
    head,
    reply,
    unwrap,
)
from servers import LIMIT, Peer

import dugong
from dugong import (
    BodyFollowing,
    ConnectionClosed,
    HTTPResponse,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
)

BODY = bytes(range(256)) * 3


def respond(connect: Any, raw: bytes, method: str = 'GET', close: bool = False) -> Tuple[Any, Any]:
    """Send a request that is answered with *raw*; the connection and the response."""
    conn = connect(Answers(raw, close=close))
    conn.send_request(method, '/')
    return conn, conn.read_response()


# -- the response object ------------------------------------------------------------------------


def test_response_has_what_the_server_sent(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'body', '418 I am a teapot', 'X-One: 1')))
    conn.send_request('GET', '/some/path')
    response = conn.read_response()
    assert isinstance(response, HTTPResponse)
    assert response.method == 'GET'
    assert response.path == '/some/path'
    assert response.status == 418 and type(response.status) is int
    assert response.reason == 'I am a teapot' and type(response.reason) is str
    assert response.length == 4
    assert response.headers['X-One'] == '1'


@pytest.mark.parametrize('path', ['/caf\xe9', '*', '//x', '/a%20b?c#d'])
@pytest.mark.parametrize('method', ['GET', 'options'])
def test_method_and_path_are_as_the_caller_gave_them(method: str, path: str, connect: Any) -> None:
    conn = connect(Answers(reply()))
    conn.send_request(method, path)
    response = conn.read_response()
    assert (response.method, response.path) == (method, path)


def test_method_and_path_are_on_a_100_too(connect: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(head('100 Continue'))
        peer.read_exactly(1)
        peer.send(reply(b'x'))
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('PUT', '/some/path', body=BodyFollowing(1), expect100=True)
    interim = conn.read_response()
    conn.write(b'x')
    final = conn.read_response()
    for response in (interim, final):
        assert (response.method, response.path) == ('PUT', '/some/path')
    assert (interim.status, interim.reason, interim.length) == (100, 'Continue', 0)
    assert conn.readall() == b'x'


@pytest.mark.parametrize(
    'line, status, reason',
    [
        (b'HTTP/1.1 200 OK', 200, 'OK'),
        (b'HTTP/1.1 200 ', 200, ''),
        (b'HTTP/1.1 200', 200, ''),
        (b'HTTP/1.1 200 Two  words ', 200, 'Two  words'),
        (b'HTTP/1.1 299 M\xfcller', 299, 'M\xfcller'),
        (b'HTTP/1.1 999 High', 999, 'High'),
        (b'HTTP/1.0 404 Not Found', 404, 'Not Found'),
        (b'HTTP/1.2 200 OK', 200, 'OK'),
        (b'HTTP/1.9 200 OK', 200, 'OK'),
    ],
)
def test_status_line(line: bytes, status: int, reason: str, connect: Any) -> None:
    conn, response = respond(connect, line + b'\r\nContent-Length: 2\r\n\r\nok', close=True)
    assert response.status == status
    assert response.reason.rstrip() == reason
    assert conn.readall() == b'ok'


@pytest.mark.parametrize(
    'raw',
    [
        b'HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/2 200 OK\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/0.9 200 OK\r\nContent-Length: 0\r\n\r\n',
        b'HTTP/3.1 200 OK\r\nContent-Length: 0\r\n\r\n',
    ],
)
def test_other_http_version_is_unsupported(raw: bytes, transport: str, connect: Any) -> None:
    conn = connect(Answers(raw))
    conn.send_request('GET', '/')
    with pytest.raises(UnsupportedResponse):
        conn.read_response()


@pytest.mark.parametrize(
    'raw',
    [
        b'ICY 200 OK\r\n\r\n',
        b'<html>\r\n<body>\r\n\r\n',
        b'SSH-2.0-OpenSSH_9.0\r\n',
        b'http/1.1 200 OK\r\n\r\n',
        b'HTTP/11 200 OK\r\n\r\n',
        b'HTTP/1. 200 OK\r\n\r\n',
        b'HTTP/1.10 200 OK\r\n\r\n',
        b'HTTP 200 OK\r\n\r\n',
        b' HTTP/1.1 200 OK\r\n\r\n',
        b'\0\0\0\0\r\n\r\n',
        b'220 mail.example ESMTP\r\n',
    ],
)
def test_what_is_no_http_is_refused_at_once(raw: bytes, transport: str, connect: Any) -> None:
    # The server waits for the client here: nothing but the line itself may be needed.
    conn = connect(Answers(raw))
    conn.send_request('GET', '/')
    with pytest.raises((UnsupportedResponse, InvalidResponse)) as info:
        conn.read_response()
    shown = raw.split(b'\r\n')[0].decode('latin1').strip()[:20]
    assert shown in str(info.value).replace('\\x00', '\0')


@pytest.mark.parametrize(
    'line',
    [
        b'HTTP/1.1 20 OK',
        b'HTTP/1.1 2000 OK',
        b'HTTP/1.1 2x0 OK',
        b'HTTP/1.1 099 OK',
        b'HTTP/1.1 000 OK',
        b'HTTP/1.1 -20 OK',
        b'HTTP/1.1 +20 OK',
        b'HTTP/1.1 2_0 OK',
        b'HTTP/1.1 \xb2\xb2\xb2 OK',
        b'HTTP/1.1  200 OK',
        b'HTTP/1.1\t200 OK',
        b'HTTP/1.1 OK',
        b'HTTP/1.1 ',
        b'HTTP/1.1',
        b'HTTP/1.1 200OK',
    ],
)
def test_without_a_three_digit_status_it_is_invalid(line: bytes, connect: Any) -> None:
    conn = connect(Answers(line + b'\r\nContent-Length: 0\r\n\r\n'))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


# -- headers ------------------------------------------------------------------------------------


def headers(connect: Any, *raw: bytes) -> email.message.Message:
    block = b''.join(line + b'\r\n' for line in raw)
    _, response = respond(connect, b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n' + block + b'\r\n')
    return response.headers


def test_headers_are_a_message(transport: str, connect: Any) -> None:
    found = headers(connect, b'X-One: 1', b'X-Two: 2')
    assert isinstance(found, email.message.Message)
    assert found.items() == [('Content-Length', '0'), ('X-One', '1'), ('X-Two', '2')]
    assert found.keys() == ['Content-Length', 'X-One', 'X-Two']
    assert len(found) == 3
    assert 'x-ONE' in found and 'X-Three' not in found


def test_missing_field_is_none_with_brackets(connect: Any) -> None:
    found = headers(connect)
    assert found['X-Missing'] is None
    assert found.get('X-Missing') is None
    assert found.get('X-Missing', 'default') == 'default'
    assert found.get_all('X-Missing') is None


VALUES = [
    (b'plain', 'plain'),
    (b'', ''),
    (b'M\xfcller \xff', 'M\xfcller \xff'),
    (b'  both sides \t ', 'both sides'),
    (b'\ttab\t', 'tab'),
    (b'in  the\tmiddle', 'in  the\tmiddle'),
    (b'=?utf-8?q?encoded_word?=', '=?utf-8?q?encoded_word?='),
    (b'Sun, 06 Nov 1994 08:49:37 GMT', 'Sun, 06 Nov 1994 08:49:37 GMT'),
    (b'Sunday, 06-Nov-94 08:49:37 GMT', 'Sunday, 06-Nov-94 08:49:37 GMT'),
    (b'no date at all', 'no date at all'),
    (b';;;', ';;;'),
    (b'"unterminated', '"unterminated'),
    (b'text/html; charset="utf-8', 'text/html; charset="utf-8'),
    (b'a, , b,,', 'a, , b,,'),
    (b'a@b, <c@d', 'a@b, <c@d'),
    (b':', ':'),
    (b'a: b', 'a: b'),
    (b'x' * 2500, 'x' * 2500),
    (b'\xc3\xa9', '\xc3\xa9'),
]

#: Names to which the email package gives a meaning of its own.
NAMES = [
    'X-Plain',
    'Date',
    'Content-Type',
    'From',
    'To',
    'Subject',
    'Content-Disposition',
    'MIME-Version',
    'Content-Transfer-Encoding',
    'Message-ID',
    'Sender',
]


@pytest.mark.parametrize('name', NAMES)
def test_values_are_plain_strings_as_sent(name: str, connect: Any) -> None:
    replies = [
        b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\n' + name.encode() + b':' + raw + b'\r\n\r\n'
        for raw, _ in VALUES
    ]
    conn = connect(Answers(*replies))
    for _, value in VALUES:
        response, _ = get(conn)
        found = response.headers[name]
        assert found == value
        assert type(found) is str
        assert response.headers.get(name) == value
        assert response.headers.get_all(name) == [value]
        assert dict(response.headers.items())[name] == value
        assert value in response.headers.values()


def test_names_keep_the_spelling_of_the_server(connect: Any) -> None:
    assert headers(connect, b'x-LOWER: 1', b'X-uPPER: 2').keys()[1:] == ['x-LOWER', 'X-uPPER']


@pytest.mark.parametrize('fold', [b'\r\n ', b'\r\n\t', b'\r\n    \t ', b' \r\n ', b'\t\r\n\t'])
def test_obs_fold_becomes_one_space(fold: bytes, connect: Any) -> None:
    found = headers(connect, b'X-Folded: one' + fold + b'two' + fold + b'three', b'X-Next: 4')
    assert found['X-Folded'] == 'one two three'
    assert found['X-Next'] == '4'


@pytest.mark.parametrize('name', NAMES)
def test_repeated_fields_are_kept_in_order(name: str, connect: Any) -> None:
    raw = name.encode()
    found = headers(
        connect, raw + b': z', b'X-Between: 1', raw.lower() + b': a', raw.upper() + b': z'
    )
    assert found.get_all(name) == ['z', 'a', 'z']
    assert found[name] in ('z', 'a')
    assert [value for key, value in found.items() if key.lower() == name.lower()] == [
        'z',
        'a',
        'z',
    ]


def test_set_cookie_may_be_repeated(connect: Any) -> None:
    found = headers(connect, b'Set-Cookie: a=1, x', b'Set-Cookie: b=2')
    assert found.get_all('Set-Cookie') == ['a=1, x', 'b=2']


@pytest.mark.parametrize('raw, _', VALUES, ids=[repr(raw[:20]) for raw, _ in VALUES])
def test_methods_of_the_message_never_raise(raw: bytes, _: str, connect: Any) -> None:
    lines = [name.encode() + b': ' + raw for name in NAMES]
    found = headers(connect, *lines, *lines)
    found.get_content_type()
    found.get_content_maintype()
    found.get_content_charset()
    found.get_content_disposition()
    found.get_filename()
    found.get_params()
    found.get_boundary()
    found.is_multipart()
    found.as_string()
    str(found)
    repr(found)
    assert len(found) == 2 * len(NAMES) + 1


def test_content_type_can_be_asked_for_as_usual(connect: Any) -> None:
    found = headers(connect, b'Content-Type: Text/HTML; charset=UTF-8')
    assert found.get_content_type() == 'text/html'
    assert found.get_content_charset() == 'utf-8'


def test_a_response_without_fields(connect: Any) -> None:
    _, response = respond(connect, b'HTTP/1.1 204 No Content\r\n\r\n')
    assert response.headers.items() == []


@pytest.mark.parametrize(
    'line',
    [
        b'no colon at all',
        b': no name',
        b'Space : before the colon',
        b'Tab\t: before the colon',
        b'Sp ace: in the name',
        b'Nul: a\0b',
        b'Bare: a\rb',
        b'N\xe4me: value',
        b'N(ame: value',
        b' folded: without a line before',
    ],
)
def test_malformed_header_line_is_invalid(line: bytes, connect: Any) -> None:
    first = b'' if line.startswith(b' ') else b'Content-Length: 0\r\n'
    conn = connect(Answers(b'HTTP/1.1 200 OK\r\n' + first + line + b'\r\nX-Next: 1\r\n\r\n'))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


# -- limits -------------------------------------------------------------------------------------


def status_line(length: int) -> bytes:
    return b'HTTP/1.1 200 '.ljust(length, b'x') + b'\r\nContent-Length: 2\r\n\r\nok'


def header_block(size: int) -> bytes:
    """A head whose field lines, each with its CRLF, add up to *size* octets."""
    lines = b'Content-Length: 2\r\n'
    while size - len(lines) > 30_000:
        lines += b'X-Field: ' + b'x' * 20_000 + b'\r\n'
    lines += b'X-Last: '.ljust(size - len(lines) - 2, b'y') + b'\r\n'
    assert len(lines) == size
    return b'HTTP/1.1 200 OK\r\n' + lines + b'\r\nok'


def test_status_line_of_exactly_the_limit_passes(transport: str, connect: Any) -> None:
    conn, response = respond(connect, status_line(dugong.MAX_LINE_SIZE))
    assert len(response.reason) == dugong.MAX_LINE_SIZE - len('HTTP/1.1 200 ')
    assert conn.readall() == b'ok'


def test_status_line_over_the_limit_is_invalid(transport: str, connect: Any) -> None:
    conn = connect(Answers(status_line(dugong.MAX_LINE_SIZE + 1)))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


def test_status_line_without_an_end_is_invalid(connect: Any) -> None:
    conn = connect(Answers(b'HTTP/1.1 200 ' + b'x' * 300_000))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


@pytest.mark.parametrize('distance', [-2, 0, 2])
def test_header_block_of_the_limit_passes(distance: int, transport: str, connect: Any) -> None:
    # The line end of the last line does not count.
    conn, response = respond(connect, header_block(dugong.MAX_HEADER_SIZE - distance))
    assert len(response.headers['X-Last']) > 1000
    assert conn.readall() == b'ok'


def test_header_block_over_the_limit_is_invalid(transport: str, connect: Any) -> None:
    conn = connect(Answers(header_block(dugong.MAX_HEADER_SIZE + 3)))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


def test_header_block_without_an_end_is_invalid(connect: Any) -> None:
    conn = connect(Answers(b'HTTP/1.1 200 OK\r\n' + b'X-Field: value\r\n' * 20_000))
    conn.send_request('GET', '/')
    with pytest.raises(InvalidResponse):
        conn.read_response()


@pytest.mark.parametrize('size, passes', [(0, True), (1, False)])
def test_limit_of_a_chunk_line(
    size: int, passes: bool, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = b'2;name='.ljust(dugong.MAX_LINE_SIZE + size, b'x')
    raw = head('200 OK', 'Transfer-Encoding: chunked') + line + b'\r\nok\r\n0\r\n\r\n'
    conn, _ = respond(connect, raw)
    if passes:
        assert conn.readall() == b'ok'
    else:
        with pytest.raises(InvalidResponse):
            conn.readall()


@pytest.mark.parametrize('size, passes', [(0, True), (3, False)])
def test_limit_of_the_trailers(size: int, passes: bool, connect: Any) -> None:
    trailers = header_block(dugong.MAX_HEADER_SIZE + size).partition(b'\r\n')[2][:-2]
    raw = head('200 OK', 'Transfer-Encoding: chunked') + b'2\r\nok\r\n0\r\n' + trailers
    # Content-Length is forbidden in trailers, though not to be choked on.
    raw = raw.replace(b'0\r\nContent-Length', b'0\r\nContent-Abcdef')
    conn, _ = respond(connect, raw)
    if passes:
        assert conn.readall() == b'ok'
    else:
        with pytest.raises(InvalidResponse):
            conn.readall()


# -- length -------------------------------------------------------------------------------------

NO_BODY: List[Tuple[str, str, bytes]] = [
    ('HEAD', 'with a length', head('200 OK', 'Content-Length: 10')),
    ('HEAD', 'chunked', head('200 OK', 'Transfer-Encoding: chunked')),
    ('HEAD', 'with nothing', head('200 OK')),
    ('HEAD', 'not found', head('404 Not Found', 'Content-Length: 10')),
    ('GET', '204', head('204 No Content')),
    ('GET', '204 with a length', head('204 No Content', 'Content-Length: 10')),
    ('GET', '204 chunked', head('204 No Content', 'Transfer-Encoding: chunked')),
    ('GET', '304', head('304 Not Modified')),
    ('GET', '304 with a length', head('304 Not Modified', 'Content-Length: 10')),
    ('GET', '304 chunked', head('304 Not Modified', 'Transfer-Encoding: chunked')),
    ('GET', 'length 0', head('200 OK', 'Content-Length: 0')),
]
no_body = pytest.mark.parametrize(
    'method, raw', [(m, r) for m, _, r in NO_BODY], ids=[f'{m} {n}' for m, n, _ in NO_BODY]
)


@no_body
def test_length_is_zero_without_a_body(method: str, raw: bytes, connect: Any) -> None:
    _, response = respond(connect, raw, method)
    assert response.length == 0


@no_body
def test_body_with_nothing_left_needs_no_read_call(
    method: str, raw: bytes, transport: str, connect: Any
) -> None:
    conn = connect(Answers(raw, raw, reply(b'last')))
    for _ in range(2):
        conn.send_request(method, '/')
    conn.send_request('GET', '/last')
    for _ in range(2):
        assert conn.read_response().method == method
    assert conn.read_response().path == '/last'
    assert conn.readall() == b'last'


@all_readers
@no_body
def test_reading_a_body_with_nothing_left(
    method: str, raw: bytes, reader: Any, connect: Any
) -> None:
    conn = connect(Answers(raw, reply(b'last')))
    conn.send_request(method, '/')
    conn.read_response()
    for _ in range(2):
        assert reader(conn) == b''
        assert conn.discard() is None
        assert conn.readinto(bytearray(3)) == 0
    assert not conn.response_pending()
    assert get(conn)[1] == b'last'


def test_length_is_that_of_the_body(connect: Any) -> None:
    conn, response = respond(connect, reply(BODY))
    assert response.length == len(BODY)
    conn.read(100)
    assert response.length == len(BODY)


@pytest.mark.parametrize('method, length', [('GET', 10), ('HEAD', 0)])
def test_length_header_stays_readable(method: str, length: int, connect: Any) -> None:
    _, response = respond(connect, head('200 OK', 'Content-Length: 10'), method)
    assert response.headers['Content-Length'] == '10'
    assert response.length == length


@pytest.mark.parametrize(
    'raw',
    [
        head('200 OK', 'Transfer-Encoding: chunked'),
        head('200 OK', 'Connection: close'),
        head('200 OK', version='1.0'),
        head('200 OK'),
    ],
    ids=['chunked', 'until close', 'HTTP/1.0', 'nothing said'],
)
def test_length_is_none_if_unknown(raw: bytes, connect: Any) -> None:
    _, response = respond(connect, raw)
    assert response.length is None


# -- reading bodies -----------------------------------------------------------------------------

FRAMINGS = {
    'content-length': reply(BODY),
    'one chunk': chunked_reply(BODY),
    'chunks': chunked_reply(*[BODY[i : i + 50] for i in range(0, len(BODY), 50)]),
    'chunks of one': chunked_reply(*[BODY[i : i + 1] for i in range(len(BODY))]),
    'chunks with extensions and trailers': chunked_reply(
        BODY[:100], BODY[100:], extension=';a=b;c="d;e"', trailers=['X-Trailer: 1', 'X-More: 2']
    ),
}
framed = pytest.mark.parametrize('framing', FRAMINGS)


@all_readers
@framed
def test_body_is_read_to_its_end(framing: str, reader: Any, transport: str, connect: Any) -> None:
    conn = connect(Answers(FRAMINGS[framing], reply(b'next')))
    conn.send_request('GET', '/')
    conn.read_response()
    assert reader(conn) == BODY
    assert reader(conn) == b''
    assert not conn.response_pending()
    assert get(conn)[1] == b'next'


@all_readers
@framed
def test_body_that_comes_bytewise(framing: str, reader: Any, connect: Any) -> None:
    raw = FRAMINGS[framing]

    def handler(peer: Peer) -> None:
        peer.read_request()
        for index in range(len(raw)):
            peer.send(raw[index : index + 1])
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    assert reader(conn) == BODY


@framed
def test_discard_throws_the_rest_away(framing: str, transport: str, connect: Any) -> None:
    conn = connect(Answers(FRAMINGS[framing], FRAMINGS[framing], reply(b'next')))
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.discard() is None
    assert conn.read(10) == b''
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.read(10) == BODY[:10]
    assert co(conn.co_discard()) is None
    assert get(conn)[1] == b'next'


@framed
def test_read_calls_can_be_mixed(framing: str, transport: str, connect: Any) -> None:
    conn = connect(Answers(FRAMINGS[framing]))
    conn.send_request('GET', '/')
    conn.read_response()
    parts = []
    for size in (1, 5, 3, 60, 2):
        parts.append(conn.read(size))
        assert 1 <= len(parts[-1]) <= size
        buf = bytearray(size)
        count = conn.readinto(buf)
        assert 1 <= count <= size
        parts.append(bytes(buf[:count]))
        parts.append(bytes(co(conn.co_read(size))))
    parts.append(conn.readall())
    assert b''.join(parts) == BODY
    assert conn.readall() == b''


@framed
def test_read_returns_at_most_what_was_asked_for(framing: str, connect: Any) -> None:
    conn = connect(Answers(FRAMINGS[framing]))
    conn.send_request('GET', '/')
    conn.read_response()
    while True:
        data = conn.read(33)
        assert len(data) <= 33
        if not data:
            break


def test_read_of_zero_is_empty_and_takes_nothing(transport: str, connect: Any) -> None:
    conn, _ = respond(connect, reply(b'body'))
    assert conn.read(0) == b''
    assert conn.readinto(bytearray()) == 0
    assert bytes(co(conn.co_read(0))) == b''
    assert conn.response_pending()
    assert conn.readall() == b'body'


def test_read_of_zero_does_not_wait(connect: Any) -> None:
    conn, _ = respond(connect, head('200 OK', 'Content-Length: 5'))
    conn.timeout = 0
    assert conn.read(0) == b''


@pytest.mark.parametrize('size', [None, -1, -17])
@framed
def test_read_of_none_or_less_than_zero_means_all(framing: str, size: Any, connect: Any) -> None:
    conn, _ = respond(connect, FRAMINGS[framing])
    assert conn.read(3) == BODY[:3]
    assert conn.read(size) == BODY[3:]


def test_read_without_an_argument_means_all(connect: Any) -> None:
    conn, _ = respond(connect, reply(BODY))
    assert conn.read() == BODY


def test_read_returns_bytes(transport: str, connect: Any) -> None:
    conn, _ = respond(connect, reply(BODY))
    assert type(conn.read(10)) is bytes
    assert type(conn.read(0)) is bytes
    assert type(conn.read()) is bytes
    assert type(conn.read(10)) is bytes


@framed
def test_readall_returns_bytes(framing: str, connect: Any) -> None:
    conn, _ = respond(connect, FRAMINGS[framing])
    assert type(conn.readall()) is bytes
    assert type(conn.readall()) is bytes


@framed
def test_co_read_returns_a_bytearray_that_the_caller_owns(
    framing: str, transport: str, connect: Any
) -> None:
    conn = connect(Answers(FRAMINGS[framing], reply(b'next')))
    conn.send_request('GET', '/')
    conn.read_response()
    parts, kept = [], []
    while True:
        data = co(conn.co_read(40))
        assert type(data) is bytearray
        if not data:
            break
        parts.append(bytes(data))
        # Neither changing nor resizing what was handed out may show in later reads.
        data[:] = b'\xaa' * len(data)
        data.extend(b'more' * 100)
        kept.append((data, bytes(data)))
    assert b''.join(parts) == BODY
    assert get(conn)[1] == b'next'
    for data, copy in kept:
        assert data == copy


def test_all_that_is_buffered_is_owned_by_the_caller_too(connect: Any) -> None:
    # The server has sent both: the first read may hand out the whole buffer.
    conn = connect(Answers(b'', reply(b'one') + reply(b'two')))
    conn.send_request('GET', '/1')
    conn.send_request('GET', '/2')
    conn.read_response()
    data = co(conn.co_read(1000))
    assert data == b'one'
    data[:] = b'XXX' * 50
    assert conn.read_response().status == 200
    assert conn.readall() == b'two'
    assert data == b'XXX' * 50


@pytest.mark.parametrize(
    'make',
    [
        bytearray,
        lambda size: memoryview(bytearray(size)),
        lambda size: array.array('B', bytes(size)),
        lambda size: memoryview(bytearray(size + 20))[10:-10],
    ],
    ids=['bytearray', 'memoryview', 'array', 'slice'],
)
def test_readinto_fills_a_writable_buffer(
    make: Callable[[int], Any], transport: str, connect: Any
) -> None:
    conn, _ = respond(connect, reply(BODY))
    parts = []
    while True:
        buf = make(50)
        count = conn.readinto(buf)
        if count == 0:
            break
        parts.append(bytes(buf)[:count])
    assert b''.join(parts) == BODY


def test_readinto_counts_bytes_not_items(connect: Any) -> None:
    conn, _ = respond(connect, reply(BODY[:64]))
    buf = array.array('I', [0] * 16)
    done = 0
    while True:
        count = conn.readinto(memoryview(buf).cast('B')[done:])
        if count == 0:
            break
        done += count
    assert buf.tobytes() == BODY[:64]


def test_readinto_any_item_size(connect: Any) -> None:
    body = bytes(range(64))
    conn, _ = respond(connect, reply(body))
    buf = array.array('I', [0] * 32)
    count = conn.readinto(buf)
    assert 1 <= count <= 64
    assert buf.tobytes()[:count] == body[:count]


@pytest.mark.parametrize('buf', [b'immutable', 'text', None, 17, memoryview(b'view')], ids=repr)
def test_readinto_what_is_not_writable_is_a_type_error(buf: Any, connect: Any) -> None:
    conn, _ = respond(connect, reply(b'body'))
    with pytest.raises((TypeError, BufferError)):
        conn.readinto(buf)
    assert conn.readall() == b'body'


@pytest.mark.parametrize('call', BODY_CALLS)
def test_reading_without_a_body_gives_nothing(call: str) -> None:
    conn = dugong.HTTPConnection('host.invalid')
    assert BODY_CALLS[call](conn) in (b'', 0, None)
    assert conn._sock is None


def test_reading_before_the_response_gives_nothing(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/')
    assert conn.read(10) == b''
    assert conn.readinto(bytearray(10)) == 0
    assert conn.readall() == b''
    conn.discard()
    assert conn.read_response().status == 200
    assert conn.readall() == b'body'


def test_large_body_into_large_buffer(transport: str, connect: Any) -> None:
    body = bytes(range(256)) * 8192
    conn, _ = respond(connect, reply(body))
    buf = bytearray(len(body))
    view, done = memoryview(buf), 0
    while done < len(body):
        count = conn.readinto(view[done:])
        assert count > 0
        done += count
    assert conn.readinto(buf) == 0
    assert buf == body


def test_large_body_with_readall(transport: str, connect: Any) -> None:
    body = bytes(range(256)) * 8192
    conn, _ = respond(connect, reply(body))
    assert conn.readall() == body


def test_large_body_with_large_reads(transport: str, connect: Any) -> None:
    body = bytes(range(256)) * 8192
    conn, _ = respond(connect, reply(body))
    assert drain(lambda: conn.read(300_000)) == body


@pytest.mark.parametrize('kind', ['length', 'chunked', 'until eof'])
@pytest.mark.parametrize('name', ['read', 'readinto', 'co_read', 'co_readinto', 'read1'])
def test_what_is_there_is_returned_without_waiting_for_more(
    name: str, kind: str, transport: str, connect: Any
) -> None:
    start, end = {
        'length': (head('200 OK', 'Content-Length: 6') + b'one', b'two'),
        'chunked': (
            head('200 OK', 'Transfer-Encoding: chunked') + b'3\r\none\r\n',
            b'3\r\ntwo\r\n0\r\n\r\n',
        ),
        'until eof': (head('200 OK', 'Connection: close') + b'one', b'two'),
    }[kind]
    taken = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(start)
        assert taken.wait(LIMIT)
        peer.send(end)

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.timeout = LIMIT / 4
    buf = bytearray(1000)
    data = b''
    while len(data) < 3:
        result = getattr(conn, name)(buf if 'into' in name else 1000)
        if name.startswith('co_'):
            result = co(result)
        piece = bytes(buf[:result]) if 'into' in name else bytes(result)
        assert piece
        data += piece
    assert data == b'one'
    taken.set()
    assert conn.readall() == b'two'


# -- response_pending ---------------------------------------------------------------------------


def test_response_pending(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'body'), reply(b'next')))
    assert conn.response_pending() is False
    conn.send_request('GET', '/')
    assert conn.response_pending() is True
    conn.read_response()
    assert conn.response_pending() is True
    conn.read(2)
    assert conn.response_pending() is True
    conn.send_request('GET', '/')
    conn.readall()
    assert conn.response_pending() is True
    conn.read_response()
    conn.readall()
    assert conn.response_pending() is False


def test_response_pending_needs_an_open_connection(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/')
    conn.disconnect()
    assert conn.response_pending() is False


# -- interim responses --------------------------------------------------------------------------


@pytest.mark.parametrize(
    'interim',
    [
        head('100 Continue'),
        head('102 Processing'),
        head('103 Early Hints', 'Link: </style.css>; rel=preload'),
        head('199 Whatever', 'Content-Length: 10'),
        head('102 Processing') * 5 + head('100 Continue') * 5,
        head('103 Early Hints', 'Transfer-Encoding: chunked', 'Connection: close'),
    ],
    ids=['100', '102', '103', '199 with length', 'many', '103 with framing'],
)
@pytest.mark.parametrize('expect100', [False, None], ids=['get', 'body following'])
def test_interim_responses_are_skipped(
    interim: bytes, expect100: Any, transport: str, connect: Any
) -> None:
    conn = connect(Answers(interim + reply(b'final'), reply(b'next')))
    if expect100 is None:
        conn.send_request('PUT', '/', body=BodyFollowing(1))
        conn.write(b'x')
    else:
        conn.send_request('GET', '/')
    response = conn.read_response()
    assert response.status == 200
    assert response.headers['Link'] is None
    assert conn.readall() == b'final'
    assert get(conn)[1] == b'next'


def test_other_interim_responses_are_skipped_while_waiting_for_a_100(
    transport: str, connect: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(head('102 Processing') + head('103 Early Hints') + head('100 Go On', 'X-A: 1'))
        peer.read_exactly(3)
        peer.send(head('102 Processing') + reply(b'final'))
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(3), expect100=True)
    response = conn.read_response()
    assert (response.status, response.reason, response.length) == (100, 'Go On', 0)
    assert response.headers['X-A'] == '1'
    conn.write(b'abc')
    assert conn.read_response().status == 200
    assert conn.readall() == b'final'


@pytest.mark.parametrize('name', ['Upgrade', 'upgrade'])
def test_101_is_returned_if_the_request_carried_upgrade(
    name: str, transport: str, connect: Any
) -> None:
    raw = head('101 Switching Protocols', 'Upgrade: echo', 'Connection: Upgrade') + b'\0first'

    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(raw)
        peer.send(b' second')
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/chat', {name: 'echo', 'Connection': 'Upgrade'})
    response = conn.read_response()
    assert (response.status, response.path, response.length) == (101, '/chat', 0)
    assert response.headers['Upgrade'] == 'echo'
    data = b''
    while len(data) < len(b'\0first second'):
        data += conn.read_raw(100)
    assert data == b'\0first second'


def test_101_without_having_asked_is_unsupported(transport: str, connect: Any) -> None:
    conn = connect(Answers(head('101 Switching Protocols', 'Upgrade: echo') + b'raw'))
    conn.send_request('GET', '/')
    with pytest.raises(UnsupportedResponse):
        conn.read_response()


# -- until EOF ----------------------------------------------------------------------------------

UNTIL_EOF = {
    'close': head('200 OK', 'Connection: close'),
    'Close': head('200 OK', 'Connection: Close'),
    'close in a list': head('200 OK', 'Connection: X-Hop , CLOSE,foo'),
    'close in a second field': head('200 OK', 'Connection: foo', 'Connection: close'),
    'HTTP/1.0': head('200 OK', version='1.0'),
    'HTTP/1.0 close': head('200 OK', 'Connection: close', version='1.0'),
    'HTTP/1.0 other connection': head('200 OK', 'Connection: foo', version='1.0'),
}


@pytest.mark.parametrize('notify', [False, True], ids=['cut', 'close_notify'])
@pytest.mark.parametrize('kind', UNTIL_EOF)
@all_readers
def test_body_until_eof(
    kind: str, notify: bool, reader: Any, transport: str, connect: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(UNTIL_EOF[kind] + BODY)
        if notify:
            unwrap(peer)

    conn = connect(handler)
    conn.send_request('GET', '/')
    assert conn.read_response().length is None
    assert reader(conn) == BODY
    assert reader(conn) == b''


@pytest.mark.parametrize('kind', UNTIL_EOF)
def test_after_a_body_until_eof_the_connection_counts_as_closed(
    kind: str, transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Answers(UNTIL_EOF[kind] + BODY, close=True), Answers(reply(b'anew'))])
    conn = connect(server)
    assert get(conn)[1] == BODY
    conn.send_request('GET', '/')
    with pytest.raises(ConnectionClosed):
        conn.read_response()
    assert server.connections == 1
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_empty_body_until_eof(transport: str, connect: Any) -> None:
    conn = connect(Answers(head('200 OK', 'Connection: close'), close=True))
    assert get(conn)[1] == b''


def test_discard_of_a_body_until_eof(transport: str, connect: Any) -> None:
    conn = connect(Answers(head('200 OK', 'Connection: close') + BODY, close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    conn.discard()
    assert conn.readall() == b''


@pytest.mark.parametrize(
    'raw',
    [
        head('200 OK'),
        head('200 OK', 'Connection: keep-alive'),
        head('200 OK', 'Connection: not-close, closed'),
        head('200 OK', 'Connection: keep-alive', version='1.0'),
        head('200 OK', 'Connection: Keep-Alive, foo', version='1.0'),
    ],
    ids=['nothing', 'keep-alive', 'only like close', '1.0 keep-alive', '1.0 in a list'],
)
def test_body_without_any_length_is_unsupported(raw: bytes, transport: str, connect: Any) -> None:
    conn, response = respond(connect, raw + b'data')
    assert response.status == 200
    assert response.length is None
    for _ in range(2):
        for call in BODY_CALLS.values():
            with pytest.raises(UnsupportedResponse):
                call(conn)


def test_http_10_with_keep_alive_can_be_reused(transport: str, connect: Any) -> None:
    raw = reply(b'one', fields='Connection: Keep-Alive', version='1.0')
    conn = connect(Answers(raw, reply(b'two')))
    assert get(conn)[1] == b'one'
    assert get(conn)[1] == b'two'


# -- chunked ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'coding',
    ['chunked', 'Chunked', 'CHUNKED', 'chunked ', ' \tchunked\t'],
)
def test_chunked_is_case_insensitive(coding: str, connect: Any) -> None:
    conn, response = respond(
        connect, head('200 OK', f'Transfer-Encoding:{coding}') + chunked(b'one', b'two')
    )
    assert response.length is None
    assert conn.readall() == b'onetwo'


@pytest.mark.parametrize('name', ['Transfer-Encoding', 'transfer-encoding', 'TRANSFER-ENCODING'])
def test_name_of_the_coding_field_is_case_insensitive(name: str, connect: Any) -> None:
    conn, _ = respond(connect, head('200 OK', f'{name}: chunked') + chunked(b'one'))
    assert conn.readall() == b'one'


@pytest.mark.parametrize(
    'body',
    [
        b'3\r\none\r\n0\r\n\r\n',
        b'003\r\none\r\n000\r\n\r\n',
        b'3;ext\r\none\r\n0;ext=1\r\n\r\n',
        b'3 ; ext = "a;b\\"c"\r\none\r\n0\r\n\r\n',
        b'3\r\none\r\n0\r\nX-Trailer: 1\r\nX-Trailer: 2\r\n\r\n',
        b'1\r\no\r\n2\r\nne\r\n0\r\n\r\n',
    ],
    ids=['plain', 'zeros', 'extensions', 'quoted extension', 'trailers', 'two'],
)
def test_chunked_bodies(body: bytes, transport: str, connect: Any) -> None:
    conn = connect(Answers(head('200 OK', 'Transfer-Encoding: chunked') + body, reply(b'next')))
    assert get(conn)[1] == b'one'
    assert get(conn)[1] == b'next'


@pytest.mark.parametrize('digits', ['a', 'A', 'fF', '0Ff', '000000000000000a'])
def test_chunk_sizes_are_hexadecimal(digits: str, connect: Any) -> None:
    data = b'x' * int(digits, 16)
    raw = head('200 OK', 'Transfer-Encoding: chunked')
    raw += digits.encode() + b'\r\n' + data + b'\r\n0\r\n\r\n'
    conn, _ = respond(connect, raw)
    assert conn.readall() == data


def test_empty_chunked_body(transport: str, connect: Any) -> None:
    conn = connect(Answers(chunked_reply(), reply(b'next')))
    assert get(conn)[1] == b''
    assert get(conn)[1] == b'next'


@pytest.mark.parametrize(
    'body',
    [
        b'g\r\n',
        b'-1\r\n',
        b'+3\r\none\r\n',
        b'0x3\r\none\r\n',
        b' 3\r\none\r\n',
        b'1_0\r\n',
        b'\r\n',
        b';ext\r\n',
        b'3\r\noneXX0\r\n\r\n',
        b'3\r\none\n\n0\r\n\r\n',
        b'3\r\nonetwo\r\n0\r\n\r\n',
        b'11111111111111111\r\n',
        b'3\0\r\none\r\n0\r\n\r\n',
        b'3\r;\r\none\r\n0\r\n\r\n',
        b'3\r\none\r\n0\r\nno trailer\r\n\r\n',
    ],
    ids=repr,
)
def test_faulty_chunks_are_invalid(body: bytes, connect: Any) -> None:
    conn, _ = respond(connect, head('200 OK', 'Transfer-Encoding: chunked') + body)
    for _ in range(2):
        with pytest.raises(InvalidResponse):
            conn.readall()


# -- framing that cannot be relied on -----------------------------------------------------------

BAD_FRAMING: Sequence[Tuple[str, ...]] = [
    ('Transfer-Encoding: gzip',),
    ('Transfer-Encoding: identity',),
    ('Transfer-Encoding: gzip', 'Content-Length: 4'),
    ('Transfer-Encoding: gzip', 'Connection: close'),
    ('Transfer-Encoding: chunked, gzip',),
    ('Transfer-Encoding: xchunked',),
    ('Content-Length: abc',),
    ('Content-Length: -4',),
    ('Content-Length: +4',),
    ('Content-Length: 4_0',),
    ('Content-Length: 0x4',),
    ('Content-Length: 4.0',),
    ('Content-Length: \xb2',),
    ('Content-Length: 4 4',),
    ('Content-Length:',),
    ('Content-Length: ' + '9' * 30,),
    ('Content-Length: 4', 'Content-Length: 5'),
    ('Content-Length: 4, 5',),
    ('Content-Length: abc', 'Connection: close'),
]


@pytest.mark.parametrize('fields', BAD_FRAMING, ids=' '.join)
def test_bad_framing_still_yields_status_and_headers(
    fields: Sequence[str], transport: str, connect: Any
) -> None:
    conn, response = respond(connect, head('207 Odd', 'X-One: 1', *fields) + b'data')
    assert (response.status, response.reason) == (207, 'Odd')
    assert response.headers['X-One'] == '1'
    for _ in range(2):
        for call in BODY_CALLS.values():
            with pytest.raises(InvalidResponse):
                call(conn)


@pytest.mark.parametrize('fields', [BAD_FRAMING[0], BAD_FRAMING[6]], ids=' '.join)
def test_bad_framing_is_over_after_a_reset(
    fields: Sequence[str], connect: Any, serve: Any
) -> None:
    server = serve([Answers(head('200 OK', *fields) + b'data'), Answers(reply(b'good'))])
    conn = connect(server)
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(InvalidResponse):
        conn.readall()
    conn.reset()
    assert get(conn)[1] == b'good'


@pytest.mark.parametrize(
    'fields', [('Content-Length: 4', 'content-length: 4'), ('Content-Length: 4, 4',)], ids=' '.join
)
def test_equal_lengths_are_one(fields: Sequence[str], connect: Any) -> None:
    conn, response = respond(connect, head('200 OK', *fields) + b'data')
    assert response.length == 4
    assert conn.readall() == b'data'


@pytest.mark.parametrize('digits', ['04', '0000000004'])
def test_leading_zeros_in_a_length(digits: str, connect: Any) -> None:
    conn, response = respond(connect, head('200 OK', f'Content-Length: {digits}') + b'data')
    assert response.length == 4
    assert conn.readall() == b'data'


# -- EOF where none may be ----------------------------------------------------------------------


def cut_at(raw: bytes, *marks: bytes) -> List[bytes]:
    return [raw[: raw.index(mark)] for mark in marks]


CUT_HEADS = cut_at(
    reply(b'body', fields='X-One: 1'),
    b'P/1',
    b'200',
    b'\r\nC',
    b'\nC',
    b'tent',
    b'\r\n\r\n',
    b'\nbody',
)


@pytest.mark.parametrize('raw', [b'', *CUT_HEADS], ids=lambda raw: raw[-12:].decode())
@pytest.mark.parametrize('notify', [False, True], ids=['cut', 'close_notify'])
def test_eof_in_a_head_is_connection_closed(
    raw: bytes, notify: bool, transport: str, connect: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(raw)
        if notify:
            unwrap(peer)

    conn = connect(handler)
    conn.send_request('GET', '/')
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            conn.read_response()


CUT_BODIES = {
    'length, nothing': head('200 OK', 'Content-Length: 768'),
    'length, some': head('200 OK', 'Content-Length: 768') + BODY[:-1],
    'chunked, nothing': head('200 OK', 'Transfer-Encoding: chunked'),
    'chunked, in the size': head('200 OK', 'Transfer-Encoding: chunked') + b'30',
    'chunked, after the size': head('200 OK', 'Transfer-Encoding: chunked') + b'300\r\n',
    'chunked, in the data': head('200 OK', 'Transfer-Encoding: chunked') + b'300\r\n' + BODY[:99],
    'chunked, after the data': head('200 OK', 'Transfer-Encoding: chunked') + b'300\r\n' + BODY,
    'chunked, in the last line': chunked_reply(BODY)[:-4],
    'chunked, before the end': chunked_reply(BODY)[:-2],
    'chunked, in the end': chunked_reply(BODY)[:-1],
    'chunked, in the trailers': chunked_reply(BODY, trailers=['X-One: 1'])[:-5],
}


@pytest.mark.parametrize('kind', CUT_BODIES)
@pytest.mark.parametrize('notify', [False, True], ids=['cut', 'close_notify'])
@all_readers
def test_eof_in_a_body_is_connection_closed_never_a_short_body(
    kind: str, notify: bool, reader: Any, transport: str, connect: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.send(CUT_BODIES[kind])
        if notify:
            unwrap(peer)

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    for _ in range(2):
        with pytest.raises(ConnectionClosed):
            reader(conn)


@pytest.mark.parametrize('kind', ['length, some', 'chunked, in the data'])
def test_eof_while_discarding_is_connection_closed(kind: str, connect: Any) -> None:
    conn = connect(Answers(CUT_BODIES[kind], close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.discard()


def test_data_before_the_cut_can_be_read_first(transport: str, connect: Any) -> None:
    conn = connect(Answers(CUT_BODIES['length, some'], close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    data = b''
    with pytest.raises(ConnectionClosed):
        while True:
            piece = conn.read(100)
            assert piece
            data += piece
    assert data == BODY[:-1]


# -- read_raw -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    'raw',
    [b'ICY 200 OK\r\n\r\nmusic', b'HTTP/2.0 200 OK\r\n\r\n', b'HTTP/1.1 xxx\r\n\r\nwhat'],
)
def test_read_raw_shows_what_the_server_sent(raw: bytes, transport: str, connect: Any) -> None:
    conn = connect(Answers(raw, close=True))
    conn.send_request('GET', '/')
    with pytest.raises((UnsupportedResponse, InvalidResponse)):
        conn.read_response()
    data = drain(lambda: conn.read_raw(5))
    assert raw.endswith(data)
    assert raw.partition(b'\r\n')[2] in data
    assert conn.read_raw(5) == b''


def test_read_raw_gives_up_to_the_size_asked_for(transport: str, connect: Any) -> None:
    conn = connect(Answers(head('200 OK') + b'some data', close=True))
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(UnsupportedResponse):
        conn.read(100)
    data = conn.read_raw(4)
    assert 1 <= len(data) <= 4
    assert isinstance(data, (bytes, bytearray))
    assert data + drain(lambda: conn.read_raw(1000)) == b'some data'


@pytest.mark.parametrize('size', [-1, -(1 << 70), None, 3.0, '3', []])
def test_read_raw_with_a_wrong_size_changes_nothing(size: Any, connect: Any) -> None:
    """Memory of the buffer, with earlier responses in it, is nobody else's."""
    conn = connect(Answers(reply(b'secret'), reply(b'secret')))
    assert get(conn)[1] == b'secret'
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises((ValueError, TypeError)):
        conn.read_raw(size)
    assert conn.readall() == b'secret'


@pytest.mark.parametrize('size', [3.0, '3', []])
@pytest.mark.parametrize('read', [dugong.HTTPConnection.read, dugong.HTTPConnection.read1])
def test_read_with_a_wrong_size_changes_nothing(read: Any, size: Any, connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(TypeError):
        read(conn, size)
    assert conn.readall() == b'body'


@all_readers
def test_after_read_raw_the_connection_is_unusable_for_http(reader: Any, connect: Any) -> None:
    conn = connect(Answers(head('200 OK') + b'some data'))
    conn.send_request('GET', '/')
    conn.read_response()
    conn.read_raw(4)
    for _ in range(2):
        with pytest.raises(StateError):
            reader(conn)
        with pytest.raises(StateError):
            conn.send_request('GET', '/')
        with pytest.raises(StateError):
            conn.read_response()
