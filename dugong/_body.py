"""How long a message body is, and where in it we are (RFC 9112, sections 6 and 7).

`ResponseBody` decides what follows a response head, and keeps the place in it; `RequestBody` keeps
the place in the body of a request. Their states are drawn in the documentation ("How it works").
No I/O: data come out of a buffer that somebody else fills.
"""

from __future__ import annotations

from enum import Enum

from ._exceptions import (
    ConnectionClosed,
    ExcessBodyData,
    InvalidResponse,
    StateError,
    UnsupportedResponse,
    _GeneralError,
)
from ._parser import (
    BlockReader,
    excerpt,
    parse_chunk_size,
    parse_content_length,
    parse_fields,
)
from ._settings import package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import List, Optional, Union

    from ._buffer import _Buffer
    from ._parser import ResponseHead


class BodyFollowing:
    """Says that the body of a request will be sent with `HTTPConnection.write`.

    *length* (int, bytes) is announced as `Content-Length`. Without it the body is sent with
    chunked transfer coding, and `HTTPConnection.write_eof` ends it. `ValueError` for a negative
    length, `TypeError` for one that is no integer.
    """

    __module__ = 'dugong'
    __slots__ = ('length',)

    def __init__(self, length: Optional[int] = None) -> None:
        if length is not None:
            if not isinstance(length, int):
                raise TypeError(f'length of a body must be an int, not {type(length).__name__}')
            if length < 0:
                raise ValueError(f'length of a body cannot be negative: {length}')
        self.length = length

    def __repr__(self) -> str:
        return f'BodyFollowing({"" if self.length is None else self.length})'


# From this size on, the data of a chunk are not copied on their way out of the buffer.
_LARGE_CHUNK = 1 << 11


class ResponseState(Enum):
    """Where we are in a response body."""

    DONE = 'nothing left: no body, or all of it taken'
    DATA = 'inside the data of a body of known length, or of a chunk'
    CHUNK_END = 'at the CRLF behind the data of a chunk'
    CHUNK_SIZE = 'at, or in, a chunk-size line'
    TRAILERS = 'at, or in, the trailer section'
    UNTIL_EOF = 'inside data that end with the connection'
    UNREADABLE = 'before a body whose end cannot be found'


# Attributes of an Enum class are slow to look up on older Pythons.
DONE = ResponseState.DONE
DATA = ResponseState.DATA
CHUNK_END = ResponseState.CHUNK_END
CHUNK_SIZE = ResponseState.CHUNK_SIZE
TRAILERS = ResponseState.TRAILERS
UNTIL_EOF = ResponseState.UNTIL_EOF
UNREADABLE = ResponseState.UNREADABLE


def closes_connection(head: ResponseHead) -> bool:
    """Tell whether the server will close the connection after this response (RFC 9112, 9.3)."""

    # Looked for in the text first, as the list is mostly not worth splitting.
    if 'close' in head.framing.get('connection', '') and 'close' in head.members('connection'):
        return True
    return head.minor == 0 and 'keep-alive' not in head.members('connection')


class ResponseBody:
    """The body of one response, as its bytes pass through the read buffer.

    `state` is a `ResponseState`; `remaining` (int, bytes) is what is left of the body of known
    length or of the chunk, in state DATA. `length` (int or None) is the length of the whole
    body if it was known beforehand; `close_after` (bool) tells that the connection must not be
    used after it; `error` is what makes it UNREADABLE; `trailers` (str or None) are the checked
    field lines of the trailer section, each with a CRLF before it, once the body is DONE.
    """

    __slots__ = (
        '_partial',
        '_separator',
        '_size',
        '_trailer_reader',
        'close_after',
        'chunked',
        'error',
        'length',
        'remaining',
        'state',
        'trailers',
    )

    def __init__(self, method: str, head: ResponseHead, assume_close: bool = False) -> None:
        """Decide how the body is framed, by the numbered rules of RFC 9112, section 6.3."""

        status = head.status
        framing = head.framing
        self.state = DONE
        self.length: Optional[int] = 0
        self.remaining = 0
        self.chunked = False
        # The call is spared where it would find nothing.
        self.close_after = (
            head.minor == 0 or 'close' in framing.get('connection', '')
        ) and closes_connection(head)
        self.error: Optional[_GeneralError] = None
        self.trailers: Optional[str] = ''
        # Rules 1 and 2
        if (
            method == 'HEAD'
            or status < 200
            or status in (204, 304)
            or (method == 'CONNECT' and status < 300)
        ):
            return
        # Rules 3 and 4
        codings = framing.get('transfer-encoding')
        length = framing.get('content-length')
        if codings is not None:
            self.length = None
            if head.minor == 0:
                # Section 6.1: the framing of such a message is faulty.
                self.close_after = True
                self._refuse(InvalidResponse('HTTP/1.0 response has a Transfer-Encoding'))
            elif head.members('transfer-encoding') == ['chunked']:
                self._start_chunked()
                # Section 6.1: close after a message with both, it may be an attack.
                self.close_after = self.close_after or length is not None
            else:
                shown = excerpt(codings.strip(' \t'))
                self._refuse(InvalidResponse(f'unsupported Transfer-Encoding: {shown}'))
        # Rules 5 and 6
        elif length is not None:
            try:
                size = parse_content_length(length)
            except InvalidResponse as exc:
                self.length = None
                self._refuse(exc)
            else:
                self.length = self.remaining = size
                if size:
                    self.state = DATA
                    self.trailers = None
        # Rule 8
        else:
            self.length = None
            if self.close_after or assume_close:
                self.close_after = True
                self.state = UNTIL_EOF
                self.trailers = None
            else:
                self._refuse(
                    UnsupportedResponse(
                        'response has neither a length nor chunked coding, and the server does '
                        'not close the connection after it (see HTTPConnection.assume_close)'
                    )
                )

    def _refuse(self, error: _GeneralError) -> None:
        self.error = error
        self.state = UNREADABLE
        self.trailers = None

    def _start_chunked(self) -> None:
        self.chunked = True
        self.state = CHUNK_SIZE
        self.trailers = None
        # What has been received of a chunk-size line, if that is no longer in the buffer.
        self._partial = bytearray()
        # The bytes between two chunks if the second one has the size of the first, and that size.
        self._separator = b''
        self._size = 0
        self._trailer_reader: Optional[BlockReader] = None

    def taken(self, size: int) -> None:
        """Note that *size* bytes of data, at most `remaining`, went to the caller."""

        self.remaining -= size
        if not self.remaining:
            if self.chunked:
                self.state = CHUNK_END
            else:
                # As `_finish`, without a call.
                self.state = DONE
                self.trailers = ''

    def eof(self) -> None:
        """Note that the server has closed the connection.

        `ConnectionClosed` unless that is how the body ends.
        """

        if self.state is not UNTIL_EOF:
            if not self.chunked:
                missing = f'{self.remaining} of {self.length} bytes of the body missing'
            elif self.state is DATA:
                missing = f'{self.remaining} bytes of a chunk missing'
            else:
                missing = 'the end of the chunked body missing'
            raise ConnectionClosed(f'server closed the connection with {missing}')
        self._finish('')

    def _finish(self, trailers: str) -> None:
        self.state = DONE
        self.trailers = trailers

    def advance(self, buf: _Buffer) -> bool:
        """Go on to where data can be taken, or to the end of the body.

        Returns False if that needs more bytes than there are in *buf*. Raises
        `InvalidResponse`; the bytes that are wrong are then in `unread()` and *buf*.
        """

        while True:
            state = self.state
            if state is CHUNK_SIZE:
                size = self._next_size(buf)
                if size is None:
                    return False
                if size:
                    self.remaining = size
                    self.state = DATA
                    return True
                self.state = TRAILERS
                self._trailer_reader = BlockReader(
                    False, package.MAX_LINE_SIZE, package.MAX_HEADER_SIZE
                )
            elif state is CHUNK_END:
                end = buf.memory[buf.b : min(buf.b + 2, buf.e)]
                if not b'\r\n'.startswith(end):
                    raise InvalidResponse(f'no CRLF after the data of a chunk: {excerpt(end)}')
                if len(end) < 2:
                    return False
                buf.b += 2
                self.state = CHUNK_SIZE
            elif state is TRAILERS:
                assert self._trailer_reader is not None
                text = self._trailer_reader.feed(buf)
                if text is None:
                    return False
                self._finish(parse_fields('\r\n' + text) if text else '')
                return True
            else:
                return True

    def _next_size(self, buf: _Buffer) -> Optional[int]:
        begin = buf.b
        end = buf.memory.find(b'\n', begin, buf.e) + 1
        partial = self._partial
        if end and not partial:
            line = buf.memory[begin:end]
        else:
            partial += buf.view[begin : end or buf.e]
            buf.b = end or buf.e
            line = partial
        length = len(line)
        if end:
            length -= 2
        elif line.endswith(b'\r'):
            length -= 1
        if length > package.MAX_LINE_SIZE:
            raise InvalidResponse(
                f'chunk size line is longer than {package.MAX_LINE_SIZE} bytes: {excerpt(line)}'
            )
        if not end:
            # Not to wait for the rest of what cannot become a chunk size line.
            if partial and not partial[:17].partition(b';')[0].rstrip(b' \t\r').isalnum():
                parse_chunk_size(bytes(partial))
            return None
        if not line.endswith(b'\r\n'):
            raise InvalidResponse(f'chunk size line does not end with CRLF: {excerpt(line)}')
        size = parse_chunk_size(bytes(line[:-2]))
        self._separator = b'\r\n' + line
        self._size = size
        partial.clear()
        buf.b = end
        return size

    def unread(self) -> bytes:
        """Return bytes that were taken out of the buffer but belong to no finished line."""

        if not self.chunked:
            return b''
        if self._trailer_reader is not None:
            return self._trailer_reader.collected()
        return bytes(self._partial)

    def take_into(self, buf: _Buffer, target: memoryview) -> int:
        """Take data of the body out of *buf*, as many as there are and fit into *target*."""

        filled = 0
        room = len(target)
        while filled < room and buf.e > buf.b and self.advance(buf):
            state = self.state
            if state is DONE:
                break
            begin = buf.b
            end = min(buf.e, begin + room - filled)
            if state is DATA:
                end = min(end, begin + self.remaining)
            size = end - begin
            target[filled : filled + size] = buf.view[begin:end]
            buf.b = end
            if state is DATA:
                self.taken(size)
            filled += size
        if buf.b == buf.e:
            buf.b = buf.e = 0
        return filled

    def take_all(self, buf: _Buffer) -> List[Union[bytes, memoryview]]:
        """Take all data of the body out of *buf*, in pieces, for a body in any readable state.

        When it returns, *buf* holds nothing that belongs to the body, or the body is DONE. The
        pieces are valid until something is received into *buf*.
        """

        pieces: List[Union[bytes, memoryview]] = []
        if not self.chunked:
            if self.state is UNTIL_EOF:
                pieces.append(buf.take(len(buf)))
            elif self.remaining and buf.e > buf.b:
                pieces.append(buf.take(self.remaining))
                self.taken(len(pieces[0]))
            return pieces
        origin = buf.b
        copy = b''
        while buf.e > buf.b and self.advance(buf) and self.state is DATA:
            source: Union[bytes, memoryview]
            if self.remaining >= _LARGE_CHUNK:
                source = buf.view[: buf.e]
                startswith = buf.memory.startswith
                base = 0
            else:
                # Slices of bytes are the cheapest there are; for many of them it pays to copy
                # the whole buffer first.
                source = copy = copy or buf.view[origin : buf.e].tobytes()
                startswith = copy.startswith
                base = origin
            available = buf.e - base
            begin = buf.b - base
            end = begin + self.remaining
            pieces.append(source[begin:end])
            if end < available:
                # Servers send runs of chunks of the same size. What separates two of those is
                # the same each time, so one comparison checks the CRLF and the size line.
                separator, size = self._separator, self._size
                while startswith(separator, end):
                    begin = end + len(separator)
                    if begin + size > available:
                        break
                    end = begin + size
                    pieces.append(source[begin:end])
                self.remaining = 0
                self.state = CHUNK_END
            else:
                end = available
                self.taken(end - begin)
            buf.b = base + end
        if buf.b == buf.e:
            buf.b = buf.e = 0
        return pieces


class RequestState(Enum):
    """Where we are in a request body."""

    COMPLETE = 'all sent, or given up'
    AWAIT_CONTINUE = 'the head was sent with Expect: 100-continue, the answer is not read'
    WRITING = 'some of the body is still to be written'


COMPLETE = RequestState.COMPLETE
AWAIT_CONTINUE = RequestState.AWAIT_CONTINUE
WRITING = RequestState.WRITING


class RequestBody:
    """The body of one request, as it is written.

    `length` (int, bytes; None: chunked) is what was announced, `remaining` (int, bytes) what is
    still to be written of it. `awaits_eof` (bool) tells that `write_eof` has still to, or may be
    called once.
    """

    __slots__ = ('awaits_eof', 'chunked', 'length', 'remaining', 'state')

    def __init__(self, length: Optional[int] = 0, await_continue: bool = False) -> None:
        self.length = length
        self.chunked = length is None
        self.remaining = length or 0
        self.awaits_eof = True
        if length == 0:
            self.state = COMPLETE
        else:
            self.state = AWAIT_CONTINUE if await_continue else WRITING

    def framing_field(self) -> str:
        """Return the field line that tells the server where the body ends."""

        if self.length is None:
            return 'Transfer-Encoding: chunked\r\n'
        return f'Content-Length: {self.length}\r\n'

    def check_complete(self) -> None:
        """`StateError` if some of the announced length is still to be written."""

        if self.remaining:
            raise StateError(
                f'{self.remaining} of the announced {self.length} bytes were not written yet'
            )

    def check_writable(self) -> None:
        """`StateError` unless data can be written now."""

        if self.state is AWAIT_CONTINUE:
            raise StateError('cannot write before the answer to Expect: 100-continue was read')
        if self.state is COMPLETE:
            raise StateError('no request body is being written')

    def check_size(self, size: int) -> None:
        """`ExcessBodyData` if *size* bytes are more than what is left to be written."""

        if self.length is not None and size > self.remaining:
            raise ExcessBodyData(
                f'cannot write {size} bytes: only {self.remaining} of the announced '
                f'{self.length} bytes are left'
            )

    def written(self, size: int) -> None:
        """Note that *size* bytes were sent."""

        if self.length is not None and self.state is WRITING:
            self.remaining -= size
            if not self.remaining:
                self.state = COMPLETE

    def finish(self) -> None:
        """Note that the body has been ended, or will not be sent any further."""

        self.state = COMPLETE
        self.remaining = 0
        self.awaits_eof = False
