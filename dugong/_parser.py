"""Parsing of response heads, trailer sections and chunk-size lines (RFC 9112).

Pure functions and one collector: bytes in, values out, no I/O. What is not in the grammar is
refused. Departures from the grammar, each tested:

- a status line may lack the space before an absent reason phrase;
- obs-fold becomes one space (RFC 9112, section 5.2);
- control characters other than NUL, CR and LF pass in field values, as servers send them;
- blanks may end a chunk-size line, as some servers pad it.

A line ends with CRLF. A bare LF or CR is refused everywhere.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ._exceptions import InvalidResponse, UnsupportedResponse

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Dict, List, Optional, Tuple, Union

    from ._buffer import _Buffer

#: The characters of a token (RFC 9110, section 5.6.2), for use in a character class.
TOKEN_CHARACTERS = r"!#$%&'*+\-.0-9A-Z^_`a-z|~"

# All of latin1 but NUL, CR and LF. A class that excludes those three takes half as long again.
_VALUE_CHARACTERS = r'\x01-\x09\x0b\x0c\x0e-\xff'

# A field line (RFC 9112, section 5): a token directly followed by a colon.
_FIELD_LINE = rf'[{TOKEN_CHARACTERS}]+:[{_VALUE_CHARACTERS}]*'
_match_one_field = re.compile(_FIELD_LINE).fullmatch

# RFC 9112, section 4. Any minor version counts (RFC 9110, section 2.5).
_STATUS_LINE = rf'HTTP/1\.([0-9]) ([1-9][0-9]{{2}})(?: ([{_VALUE_CHARACTERS}]*))?'
_match_status_line = re.compile(_STATUS_LINE).fullmatch
_VERSION = b'HTTP/1.'

# At each CR of a block in lower case: a field that decides about the end of a response; or
# nothing, where no name and colon follow. To look only there takes less time than a pattern
# for all of the block.
_find_notable_lines = re.compile(
    r'\r(?:\n(connection|content-length|transfer-encoding):[ \t]*([^\r]*)'
    rf'|(?!\n[{TOKEN_CHARACTERS}]+:))'
).findall

# RFC 9112, section 7.1: chunk-size [ chunk-ext ]. An extension is a token with an optional
# token or quoted string as value; quoted strings may contain semicolons.
_TOKEN = rf'[{TOKEN_CHARACTERS}]+'.encode()
_QUOTED = rb'"(?:[^\0-\x08\x0a-\x1f\x7f"\\]|\\[^\0-\x08\x0a-\x1f\x7f])*"'
_EXTENSION = rb'[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?' % (_TOKEN, _TOKEN, _QUOTED)
_match_chunk_line = re.compile(rb'([0-9A-Fa-f]{1,16})(?:%b)*[ \t]*' % _EXTENSION).fullmatch

# Bytes shown in error messages.
_EXCERPT = 80

#: Most digits of a Content-Length; 18 digits always fit into 64 bits.
MAX_LENGTH_DIGITS = 18


def excerpt(data: Union[bytes, bytearray, str]) -> str:
    """Return the `repr` of the beginning of *data*, for an error message."""

    raw = data.encode('latin1', 'replace') if isinstance(data, str) else bytes(data)
    return repr(raw[:_EXCERPT]) + ('…' if len(raw) > _EXCERPT else '')


class ResponseHead:
    """A parsed response head.

    *minor* (int) is the minor HTTP version, *status* (int) and *reason* (str) are from the status
    line, too. *fields* (str) are the field lines, each with a CRLF before it, and *lowered* (str)
    the same in lower case. *framing* maps the names of those fields that tell where the message
    ends, and whether it is the last one, to their values, all in lower case, with the blanks that
    may follow them; several values are joined by commas (RFC 9110, section 5.3).
    """

    __slots__ = ('fields', 'framing', 'lowered', 'minor', 'reason', 'status')

    def __init__(
        self,
        minor: int,
        status: int,
        reason: str,
        fields: str,
        lowered: str,
        framing: Dict[str, str],
    ) -> None:
        self.minor = minor
        self.status = status
        self.reason = reason
        self.fields = fields
        self.lowered = lowered
        self.framing = framing

    def members(self, name: str) -> List[str]:
        """Return the members of the list-valued field *name* (RFC 9110, section 5.6.1)."""

        members = [member.strip(' \t') for member in self.framing.get(name, '').split(',')]
        return [member for member in members if member]


def parse_head(text: str) -> ResponseHead:
    """Parse *text*, a response head without the CRLF of its last line and the empty line."""

    end = text.find('\r\n')
    if end < 0:
        end = len(text)
    minor, status, reason = parse_status_line(text[:end])
    fields = text[end:]
    lowered = fields.lower()
    found = _framing_fields(lowered)
    if found is None:
        # Either a line is folded, or it is wrong and to be shown.
        fields = parse_fields(fields)
        lowered = fields.lower()
        found = _framing_fields(lowered)
        assert found is not None
    framing = dict(found)
    if len(framing) < len(found):
        framing = {
            name: ', '.join(value.strip(' \t') for other, value in found if other == name)
            for name in framing
        }
    return ResponseHead(minor, status, reason, fields, lowered, framing)


# A server has few of them, and sends them again and again.
@lru_cache(maxsize=32)
def parse_status_line(line: str) -> Tuple[int, int, str]:
    """Return minor version, status and reason phrase; errors as for `check_status_line`."""

    match = _match_status_line(line)
    if match is None:
        check_status_line(line.encode('latin1'))
    assert match is not None
    minor, status, reason = match.groups()
    # Only digits get here, three of them at the most.
    return int(minor), int(status), (reason or '').strip(' \t')


def _framing_fields(lowered: str) -> Optional[List[Tuple[str, str]]]:
    """Return name and value of the fields that decide about the end of a response.

    *lowered* are field lines, each with a CRLF before it, in lower case. `None` if they are not
    what they should be.
    """

    found = _find_notable_lines(lowered)
    # After each CR there is an LF, unless the pattern has noted that, so they are as many if there
    # is no LF by itself.
    if ('', '') in found or '\0' in lowered or lowered.count('\n') != lowered.count('\r'):
        return None
    return found


def parse_fields(text: str) -> str:
    """Check the field lines *text*, each with a CRLF before it, and return them unfolded.

    Raises `InvalidResponse`, showing the first line that is not a field line.
    """

    if _framing_fields(text.lower()) is not None:
        return text
    lines = text.split('\r\n')[1:]
    if lines[0][:1] in (' ', '\t'):
        raise InvalidResponse(f'header begins with a continuation line: {excerpt(lines[0])}')
    fields: List[List[str]] = []
    for line in lines:
        if line[:1] in (' ', '\t'):
            # RFC 9112, section 5.2: each fold is replaced by a space.
            fields[-1].append(line.strip(' \t'))
        else:
            fields.append([line.rstrip(' \t')])
    unfolded = [' '.join(parts) for parts in fields]
    for line in unfolded:
        if not _match_one_field(line):
            raise InvalidResponse(f'invalid header line: {excerpt(line)}')
    return ''.join(f'\r\n{line}' for line in unfolded)


def split_fields(fields: str) -> List[Tuple[str, str]]:
    """Split checked field lines, each with a CRLF before it, into names and values."""

    return [
        (name, value.strip(' \t'))
        for name, _, value in [line.partition(':') for line in fields.split('\r\n')[1:]]
    ]


def check_status_line(line: bytes, complete: bool = True) -> None:
    """Check a status line, or if not *complete* what has been received of it so far.

    Raises `UnsupportedResponse` for anything but HTTP/1.x, else `InvalidResponse`.
    """

    if not line.startswith(_VERSION) and (complete or not _VERSION.startswith(line)):
        found = excerpt(line) if line else 'an empty line'
        raise UnsupportedResponse(f'server did not answer with HTTP/1.x, but {found}')
    if complete and not _match_status_line(line.decode('latin1')):
        raise InvalidResponse(f'invalid status line: {excerpt(line)}')


def parse_chunk_size(line: bytes) -> int:
    """Return the size in a chunk-size line (without its CRLF); extensions are ignored."""

    match = _match_chunk_line(line)
    if match is None:
        raise InvalidResponse(f'invalid chunk size line: {excerpt(line)}')
    # One to sixteen hexadecimal digits.
    return int(match.group(1), 16)


def _is_length(value: str) -> bool:
    return value.isdigit() and value.isascii() and len(value) <= MAX_LENGTH_DIGITS


def parse_content_length(value: str) -> int:
    """Return the length that the Content-Length *value* gives (RFC 9112, section 6.3).

    It may be a list of equal numbers. Raises `InvalidResponse`.
    """

    if _is_length(value):
        return int(value)
    value = value.strip(' \t')
    lengths = [
        int(m) if _is_length(m) else None for m in (m.strip(' \t') for m in value.split(','))
    ]
    length = lengths[0]
    if length is None or None in lengths:
        raise InvalidResponse(f'invalid Content-Length: {excerpt(value)}')
    if lengths.count(length) != len(lengths):
        raise InvalidResponse(f'conflicting Content-Length values: {excerpt(value)}')
    return length


class BlockReader:
    """Collects lines up to an empty one, out of a buffer that may be smaller than a line.

    Everything is looked at once, so that a slow drip of bytes costs linear time. Used for heads
    that are not in the buffer as a whole, and for trailer sections.
    """

    __slots__ = ('_has_status_line', '_lines', '_max_block', '_max_line', '_partial', '_size')

    def __init__(self, has_status_line: bool, max_line: int, max_block: int) -> None:
        self._has_status_line = has_status_line
        self._max_line = max_line
        self._max_block = max_block
        self._lines: List[bytes] = []
        self._partial = bytearray()
        self._size = 0

    def collected(self) -> bytes:
        """Return all bytes taken out of the buffer so far."""

        return b''.join(line + b'\r\n' for line in self._lines) + self._partial

    def feed(self, buf: _Buffer) -> Optional[str]:
        """Take lines out of *buf*; return the block without its last two CRLFs, once complete.

        The empty string is a block without lines, `None` means that more bytes are needed.
        Raises `InvalidResponse` or `UnsupportedResponse` as soon as it is clear that it will
        come to that; then the offending bytes are in `collected()`.
        """

        data = buf.memory
        while buf.b < buf.e:
            end = data.find(b'\n', buf.b, buf.e) + 1
            self._partial += buf.view[buf.b : end or buf.e]
            if not end:
                buf.clear()
                break
            buf.b = end
            self._check_partial(complete=True)
            line = bytes(self._partial[:-2])
            if not line and (self._lines or not self._has_status_line):
                self._partial.clear()
                text = b'\r\n'.join(self._lines).decode('latin1')
                # The empty line has been taken, too, should the block turn out to be wrong.
                self._lines.append(b'')
                return text
            if self._lines or not self._has_status_line:
                # The size of a block is that of its lines with the line ends between them.
                self._size += len(line) + 2
            else:
                check_status_line(line)
            self._partial.clear()
            self._lines.append(line)
        if self._partial:
            self._check_partial(complete=False)
        return None

    def _check_partial(self, complete: bool) -> None:
        partial = self._partial
        is_status_line = self._has_status_line and not self._lines
        if is_status_line:
            # Before anything else, so that the error does not depend on how the bytes arrive.
            check_status_line(bytes(partial[: _EXCERPT + 1]), complete=False)
        if complete and not partial.endswith(b'\r\n'):
            raise InvalidResponse(f'line does not end with CRLF: {excerpt(bytes(partial))}')
        length = len(partial)
        if complete:
            length -= 2
        elif partial.endswith(b'\r'):
            length -= 1
        if length > self._max_line:
            raise InvalidResponse(
                f'line is longer than {self._max_line} bytes: {excerpt(bytes(partial))}'
            )
        if not is_status_line and length and self._size + length > self._max_block:
            raise InvalidResponse(f'header is larger than {self._max_block} bytes')
