"""What has to hold for any bytes a server sends; shared by the property tests and the fuzzer."""

from typing import Any, Dict, Iterable, List, Tuple
from unittest import mock

from wire_support import FORMS, Outcome, Wire, fetch, split

import dugong
from dugong import BodyFollowing, StateError, _body

#: Small ones, so that short inputs reach them.
LIMITS = {'MAX_LINE_SIZE': 200, 'MAX_HEADER_SIZE': 400}

_FORMS = ['readall', 'read', 'readinto', 'discard']

_KINDS: List[Tuple[str, Dict[str, Any]]] = [
    ('GET', {}),
    ('HEAD', {}),
    ('GET', {'headers': {'Upgrade': 'x'}}),
    ('PUT', {'body': BodyFollowing(4), 'expect100': True}),
]


def check_input(wire: Wire, data: bytes) -> None:
    """Run an input of the fuzzer: a character of options, then what the server sends."""
    check_stream(wire, data[1:], data[0] ^ 0x40 if data else 0)


def check_stream(wire: Wire, stream: bytes, options: int) -> Outcome:
    """Let a client read *stream*, whole, bytewise and through a small buffer.

    *options* are eight bits: two for the way of reading, two for the kind of request, and one
    each for three requests instead of one, `assume_close`, `strict_eof`, and chunks of a few bytes
    being treated as large ones.
    """
    with mock.patch.object(_body, '_LARGE_CHUNK', 4 if options & 128 else _body._LARGE_CHUNK):
        return _check_stream(wire, stream, options)


def _check_stream(wire: Wire, stream: bytes, options: int) -> Outcome:
    form = _FORMS[options & 3]
    method, arguments = _KINDS[options >> 2 & 3]
    count = 3 if options & 16 and 'body' not in arguments else 1

    def once(pieces: Iterable[bytes], buffer_size: int = 0) -> Outcome:
        wire.restart()
        conn = wire.conn
        conn.assume_close = bool(options & 32)
        conn.strict_eof = bool(options & 64)
        if buffer_size:
            conn._rbuf = dugong._Buffer(buffer_size)
        pieces = iter(pieces)
        try:
            outcome = fetch(wire, pieces, count, form, method, **arguments)
        except StateError as exc:
            # It is not HTTP any more, as the request wanted.
            assert 'headers' in arguments
            outcome = Outcome([], exc, _read_raw(wire, pieces))
        return outcome

    whole = once([stream])
    if whole.error is not None:
        _check_broken(wire, whole.error)
    for other in (once(split(stream, 1)), once([stream], 63)):
        assert other.answers == whole.answers, (whole, other)
        assert type(other.error) is type(whole.error), (whole, other)
        if isinstance(other.error, StateError):
            assert other.partial == whole.partial
    return whole


def _read_raw(wire: Wire, pieces: Iterable[bytes]) -> bytes:
    for piece in pieces:
        wire.feed(piece)
    wire.end()
    data = b''
    while True:
        piece = wire.conn.read_raw(7)
        if not piece:
            return data
        data += piece


def _check_broken(wire: Wire, error: BaseException) -> None:
    """After *error* nothing is delivered any more, until a reset; then all is well."""
    conn = wire.conn
    for form in FORMS:
        data = bytearray()
        try:
            wire.drive(FORMS[form](conn, data))
        except type(error):
            pass
        assert not data
    try:
        wire.drive(conn.co_read_response())
    except type(error):
        pass
    else:
        raise AssertionError(f'a response after {error!r}')
    conn.reset()
    again = fetch(wire, [b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nagain'])
    assert [answer.body for answer in again.answers] == [b'again']
