"""The ways to send a body with a request, as exchanges for `drivers`."""

import contextlib
import io
import pathlib
from typing import Any, Dict, Generator, Iterator, List, NamedTuple, Optional

from dugong import BodyFollowing

from .drivers import Call, Reply, call


class Kind(NamedTuple):
    """How a body is sent: *source* given to `send_request`, or written after it."""

    source: str
    length: bool = True
    expect100: bool = False
    following: bool = False


KINDS: Dict[str, Kind] = {
    'bytes': Kind('bytes'),
    'bytearray': Kind('bytearray'),
    'file': Kind('file'),
    'written': Kind('pieces', following=True),
    'written-file': Kind('file', following=True),
    'expect100': Kind('pieces', following=True, expect100=True),
    'expect100-file': Kind('file', following=True, expect100=True),
    'iterable': Kind('pieces', length=False),
    'stream': Kind('stream', length=False),
    'chunked': Kind('pieces', length=False, following=True),
    'expect100-chunked': Kind('pieces', length=False, following=True, expect100=True),
}


class Endless(io.RawIOBase):
    """A stream that cannot tell its size, and gives what it likes."""

    def __init__(self, pieces: List[bytes]) -> None:
        self._data = io.BytesIO(b''.join(pieces))

    def readable(self) -> bool:
        return True

    def readinto(self, buf: Any) -> int:
        return self._data.readinto(memoryview(buf)[:5000])


@contextlib.contextmanager
def source(kind: Kind, file: pathlib.Path) -> Iterator[Any]:
    """What the content of *file* is sent from."""
    if kind.source == 'file':
        with file.open('rb') as stream:
            yield stream
        return
    data = file.read_bytes()
    pieces = [data[:1], b'', data[1:1000], data[1000:40000], data[40000:]]
    yield {
        'bytes': data,
        'bytearray': bytearray(data),
        'pieces': pieces,
        'stream': Endless(pieces),
    }[kind.source]


def put(
    kind: Kind, path: str, body: Any, size: int, fields: Optional[Dict[str, str]] = None
) -> Generator[Call, Any, Reply]:
    """Send *body*, which is what `source` gave, *size* bytes long."""
    fields = dict(fields or {})
    if kind.following:
        following = BodyFollowing(size) if kind.length else BodyFollowing()
        yield call('send_request', 'PUT', path, fields, following, expect100=kind.expect100)
        if kind.expect100 and (size or not kind.length):
            response = yield call('read_response')
            if response.status != 100:
                return Reply(response, bytes((yield call('readall'))))
        if kind.source == 'file':
            pieces = [body] if size else []
        elif kind.length:
            # Nothing may be written, not even nothing, once the body is complete.
            pieces = [piece for piece in body if piece]
        else:
            pieces = body
        for piece in pieces:
            yield call('write', piece)
        if not kind.length:
            yield call('write_eof')
    else:
        yield call('send_request', 'PUT', path, fields, body)
    response = yield call('read_response')
    return Reply(response, bytes((yield call('readall'))))
