"""Request bodies that are read while they are sent: binary streams and iterables.

A source hands out the body in pieces. The first one is read before the head of the request is
sent, so that an unusable source is found while nothing has happened yet.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from stat import S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple, Union

#: Bytes that are read from a stream at a time.
PIECE = 1 << 18


def as_bytes(data: Any) -> Optional[memoryview]:
    """Return the bytes of any bytes-like object without copying, if it is contiguous.

    `None` if it is no bytes-like object.
    """

    try:
        view = memoryview(data)
    except TypeError:
        return None
    if view.ndim == 1 and view.format == 'B' and view.contiguous:
        return view
    try:
        return view.cast('B')
    except (TypeError, ValueError):
        # Not contiguous, empty, or of a format that cannot be cast.
        return memoryview(view.tobytes())


def is_stream(data: Any) -> bool:
    """Tell whether *data* is a binary stream; `TypeError` if it is a text stream."""

    if isinstance(data, io.TextIOBase):
        raise TypeError('body must be a binary stream, not a text stream')
    return hasattr(data, 'read')


def open_source(body: Any) -> Union[StreamSource, IterableSource]:
    """Return the source for *body*, which is not bytes-like; `TypeError` if it cannot be one."""

    if not isinstance(body, (str, Mapping)):
        if is_stream(body):
            return StreamSource(body)
        if isinstance(body, Iterable):
            return IterableSource(body)
    raise TypeError(
        'body must be None, bytes-like, a binary stream, an iterable of bytes-like objects, or '
        f'BodyFollowing, not {type(body).__name__}'
    )


class StreamSource:
    """Reads a binary stream from its present position.

    `length` (int or None) is the number of bytes to the end, if the stream can tell.
    """

    __slots__ = ('_first', '_stream', 'length')

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._first: Optional[memoryview] = None
        self.length = _remaining_length(stream)

    def prepare(self) -> None:
        """Read the first piece; raises what the stream raises, or `TypeError`."""

        if self.length and self.kernel_file() is not None:
            return
        self._first = self._read(PIECE if not self.length else min(PIECE, self.length))
        if self.length == 0 and self._first:
            # Devices and files made up by the kernel do not know how long they are.
            self.length = None

    def read(self, limit: Optional[int] = None) -> memoryview:
        """Return the next piece, at most *limit* bytes; empty at the end."""

        piece, self._first = self._first, None
        if piece is None:
            piece = self._read(PIECE if limit is None else min(PIECE, limit))
        # A stream may give more than it was asked for.
        return piece if limit is None else piece[:limit]

    def _read(self, size: int) -> memoryview:
        data = self._stream.read(size)
        view = as_bytes(data)
        if view is None:
            raise TypeError(f'stream must give bytes, not {type(data).__name__}')
        return view

    def kernel_file(self) -> Optional[Tuple[int, int]]:
        """Return descriptor and position if the kernel can send the stream, a plain file."""

        stream = self._stream
        raw = stream.raw if type(stream) in (io.BufferedReader, io.BufferedRandom) else stream
        if type(raw) is not io.FileIO or not stream.readable() or self._first is not None:
            return None
        if not S_ISREG(os.fstat(raw.fileno()).st_mode):
            return None
        if stream is not raw:
            stream.flush()
        return raw.fileno(), stream.tell()

    def descriptor(self) -> int:
        """Return the descriptor; `ValueError` if the stream has been closed meanwhile."""

        fileno: int = self._stream.fileno()
        return fileno

    def skip(self, size: int) -> None:
        """Note that the kernel has sent *size* bytes."""

        # If it has been closed meanwhile, that is reported by who uses it next.
        with suppress(ValueError):
            self._stream.seek(size, io.SEEK_CUR)


class IterableSource:
    """Takes the pieces from an iterable of bytes-like objects."""

    __slots__ = ('_first', '_items')

    length = None

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items
        self._first: Optional[memoryview] = None

    def prepare(self) -> None:
        """Take the first piece; raises what the iterable raises, or `TypeError`."""

        self._items = iter(self._items)
        self._first = self._next()

    def read(self, limit: Optional[int] = None) -> memoryview:
        """Return the next piece that is not empty; an empty one at the end."""

        first, self._first = self._first, None
        return self._next() if first is None else first

    def _next(self) -> memoryview:
        for item in self._items:
            view = as_bytes(item)
            if view is None:
                raise TypeError(f'items of a body must be bytes-like, not {type(item).__name__}')
            if view.nbytes:
                return view
        return memoryview(b'')

    def kernel_file(self) -> None:
        return None


def _remaining_length(stream: Any) -> Optional[int]:
    try:
        # Spooled temporary files do not have it before Python 3.11, and seek without a result.
        if hasattr(stream, 'seekable') and not stream.seekable():
            return None
        position = stream.tell()
        end = stream.seek(0, io.SEEK_END)
        if end is None:
            end = stream.tell()
        stream.seek(position)
    except (AttributeError, OSError, ValueError, NotImplementedError, TypeError):
        # It cannot seek, or not from the end, as compressed files.
        return None
    return max(0, end - position) if isinstance(end, int) and isinstance(position, int) else None
