"""The read buffer: a bytearray of fixed size with a start and an end offset.

Data are received behind the end offset and taken from the start offset; nothing is moved
before the space behind the end is needed. The memory is allocated when it is first used, so
that a connection which has not received anything yet costs next to nothing.
"""

from __future__ import annotations

from io import BufferedReader, BytesIO, RawIOBase

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Iterable, Optional, Union


_NO_MEMORY = bytearray()
_NO_VIEW = memoryview(_NO_MEMORY)


class _Buffer:
    """Fixed-size buffer of *size* bytes.

    Attributes: `d` (bytearray, its length never changes), `b` (int, offset of the first unread
    byte) and `e` (int, offset behind the last unread byte). `memory` and `view` (memoryview) are
    the same as `d`, but empty as long as nobody has asked for that or for space. `len()` gives the
    number of unread bytes. Only between `enlarge` and `restore` there is other memory than that of
    *size* bytes, which is in `usual` meanwhile, else that is `None`.
    """

    __module__ = 'dugong'
    __slots__ = ('b', 'e', 'memory', 'size', 'usual', 'view')

    def __init__(self, size: int) -> None:
        self.size = size
        self.b = 0
        self.e = 0
        self.memory = _NO_MEMORY
        self.view = _NO_VIEW
        self.usual: Optional[bytearray] = None

    @property
    def d(self) -> bytearray:
        if self.view is _NO_VIEW:
            self._allocate()
        return self.memory

    @d.setter
    def d(self, memory: bytearray) -> None:
        self._use(memory)
        self.size = len(memory)

    def _allocate(self) -> None:
        self._use(bytearray(self.size))

    def _use(self, memory: bytearray) -> None:
        self.memory = memory
        self.view = memoryview(memory)

    def __len__(self) -> int:
        return self.e - self.b

    def clear(self) -> None:
        """Forget all data."""

        self.b = self.e = 0

    def compact(self) -> None:
        """Move the unread data to the front, so that all free space is behind them."""

        length = self.e - self.b
        if self.b and length:
            self.view[:length] = self.memory[self.b : self.e]
        self.b = 0
        self.e = length

    def space(self) -> memoryview:
        """Return the free space behind the data, not empty unless the buffer is full."""

        if self.b == self.e:
            self.b = self.e = 0
            if self.view is _NO_VIEW:
                self._allocate()
            return self.view
        if self.e == len(self.view) and self.b:
            self.compact()
        return self.view[self.e :]

    def enlarge(self, size: int) -> None:
        """Use memory of *size* bytes until `restore`, unless it is as large already."""

        if self.usual is None and size > self.size:
            usual = self.d
            self._move_to(bytearray(size))
            self.usual = usual

    def restore(self) -> None:
        """Use the memory of before `enlarge` again, if the unread data fit into it."""

        usual = self.usual
        if usual is not None and self.e - self.b <= self.size:
            self._move_to(usual)
            self.usual = None

    def _move_to(self, memory: bytearray) -> None:
        length = self.e - self.b
        memory[:length] = self.view[self.b : self.e]
        self._use(memory)
        self.b = 0
        self.e = length

    def take(self, size: int) -> bytes:
        """Remove and return up to *size* unread bytes."""

        begin = self.b
        end = begin + size
        if end < self.e:
            data = self.view[begin:end].tobytes()
            self.b = end
        else:
            data = self.view[begin : self.e].tobytes()
            self.b = self.e = 0
        return data

    def exhaust(self) -> bytearray:
        """Remove and return all unread data. The result is the caller's."""

        data = self.memory[self.b : self.e]
        self.b = self.e = 0
        return data


class _FillsNothing(RawIOBase):
    """A file that says it has filled the memory that it is given, and leaves it as it is."""

    # Not a method, as no Python code is to see that memory.
    readinto: Any = len

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        # A reader that is collected closes its file, which is for all of them.
        pass


_fills_nothing = _FillsNothing()

# From so many bytes on, to clear memory takes longer than to make what spares it.
_LARGE = 1 << 17


def _memory(size: int) -> bytes:
    """Return *size* bytes of which nothing is known, to be owned and filled by a `BytesIO`.

    `bytes(size)` sets memory to zero if it was used before: a tenth of the time that it takes to
    receive 1 MiB. A reader with a block size of one byte has its file fill the result itself. Each
    result has its own, as a reader can be used by one thread at a time, and not again in a
    finalizer that happens to run meanwhile.
    """

    if size < _LARGE:
        return bytes(size)
    return BufferedReader(_fills_nothing, 1).read(size)


class ResultBuffer:
    """A `bytes` object of *size* bytes that is filled through `view` before anybody sees it.

    What is in it before is undefined. `bytearray` would have to be copied into `bytes` in the end.
    A `BytesIO` that is the only owner of its initial value neither copies it nor touches its
    memory. CPython does not cope with a `BytesIO` that is collected before the views of it, so the
    views, slices included, must be released: this is a context manager that does it for `view`.
    """

    __slots__ = ('_file', 'view')

    def __init__(self, size: int) -> None:
        self._file = BytesIO(_memory(size))
        self.view = self._file.getbuffer()

    def __enter__(self) -> ResultBuffer:
        return self

    def __exit__(self, *_: object) -> None:
        self.view.release()

    def finish(self, size: int) -> bytes:
        """Return the first *size* bytes, all filled. The view cannot be used any more."""

        full = size == len(self.view)
        self.view.release()
        if not full:
            self._file.truncate(size)
        return self._file.getvalue()


def _join(parts: Iterable[Union[bytes, bytearray, memoryview]]) -> bytes:
    """Concatenate bytes-like objects."""

    return b''.join(parts)


_join.__module__ = 'dugong'
