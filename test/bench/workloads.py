"""What is measured: the workloads, the data they move, and the bars our own client has to meet.

Used by `run.py`, by the processes it starts, and by `plot.py`. Only tables and pure functions.
"""

import functools
import random
from typing import Dict, List, NamedTuple, Optional, Tuple

KIB = 1 << 10
MIB = 1 << 20

#: The response header that the clients look up in the workloads with small objects.
HEADER = 'X-Object-Meta-Mtime'
HEADER_VALUE = '1700000000.25'

#: Fields that the server adds to its own eight, which makes 14 in a response.
EXTRA_FIELDS = (
    ('X-Request-Id', '6f2d1c1e6a6c4f0fb9a55d1c7f4f3e21'),
    ('X-Object-Version', '3HL4kqtJlcpXroDTDmJ.rmSpXd3dIbrHY'),
    ('X-Object-Class', 'STANDARD'),
    (HEADER, HEADER_VALUE),
    ('Cache-Control', 'private, max-age=0'),
    ('Vary', 'Origin'),
)

#: Buffer of the `readinto` workloads; other libraries stream in pieces of this size.
READ_BUFFER = 256 * KIB
#: Piece of the `upload-pieces` workloads.
WRITE_PIECE = 64 * KIB
#: Connections of the asyncio workloads.
AIO_CONNECTIONS = 50
#: Connections that the memory workload holds open.
HELD_CONNECTIONS = 1000

#: path -> size of the body, and size of its chunks if it is chunked
OBJECTS: Dict[str, Tuple[int, Optional[int]]] = {
    '/small': (1 * KIB, None),
    '/medium': (1 * MIB, None),
    '/large': (64 * MIB, None),
    '/chunked-100': (1 * MIB, 100),
    '/chunked-16K': (16 * MIB, 16 * KIB),
    '/chunked-1M': (64 * MIB, 1 * MIB),
}


@functools.lru_cache(maxsize=4)
def content(size: int) -> bytes:
    """The body with *size* bytes: no two blocks of 64 KiB are equal, so misplaced data shows."""
    block_size = 64 * KIB
    block = random.Random(size).getrandbits(8 * block_size).to_bytes(block_size, 'little')
    if size < block_size:
        return block[:size]
    assert size % block_size == 0
    return b''.join(index.to_bytes(8, 'little') + block[8:] for index in range(size // block_size))


class Workload(NamedTuple):
    """One row of the result: *method* of each client is timed on object *path*."""

    name: str
    title: str
    #: Name of a method of the `Client` classes, or how `run.py` measures it itself.
    method: str
    path: str = '/small'
    tls: bool = False
    #: Always served by the canned server, although nginx is there.
    canned: bool = False
    #: Fewest operations that make sense in one call.
    minimum: int = 1
    group: str = 'requests'

    @property
    def size(self) -> int:
        """Bytes of body that one operation moves."""
        return OBJECTS[self.path][0]


def _workloads() -> List[Workload]:
    plain = [
        Workload('get', '1 KiB GET, one after the other', 'get'),
        Workload(
            'pipeline-coroutines', '1 KiB GET, pipelined, two coroutines', 'pipeline_coroutines'
        ),
        Workload('pipeline-threads', '1 KiB GET, pipelined, two threads', 'pipeline_threads'),
        Workload('connect', '1 KiB GET, one connection per request', 'connect'),
        Workload(
            'asyncio',
            f'1 KiB GET, asyncio, {AIO_CONNECTIONS} connections',
            'aio',
            minimum=AIO_CONNECTIONS,
        ),
        Workload('readall-1M', 'read 1 MiB at once', 'readall', '/medium', group='bodies'),
        Workload('readall-64M', 'read 64 MiB at once', 'readall', '/large', group='bodies'),
        Workload(
            'readinto-64M',
            'read 64 MiB in pieces of 256 KiB',
            'readinto',
            '/large',
            group='bodies',
        ),
        Workload(
            'chunked-100',
            'read 1 MiB in chunks of 100 B',
            'readall',
            '/chunked-100',
            canned=True,
            group='bodies',
        ),
        Workload(
            'chunked-16K',
            'read 16 MiB in chunks of 16 KiB',
            'readall',
            '/chunked-16K',
            canned=True,
            group='bodies',
        ),
        Workload(
            'chunked-1M',
            'read 64 MiB in chunks of 1 MiB',
            'readall',
            '/chunked-1M',
            canned=True,
            group='bodies',
        ),
        Workload(
            'upload-bytes',
            'send 64 MiB of bytes',
            'upload_bytes',
            '/large',
            canned=True,
            group='uploads',
        ),
        Workload(
            'upload-pieces',
            'send 64 MiB in pieces of 64 KiB',
            'upload_pieces',
            '/large',
            canned=True,
            group='uploads',
        ),
        Workload(
            'upload-file',
            'send 64 MiB from a file',
            'upload_file',
            '/large',
            canned=True,
            group='uploads',
        ),
    ]
    also_tls = {
        'get',
        'pipeline-coroutines',
        'connect',
        'asyncio',
        'readall-1M',
        'readall-64M',
        'readinto-64M',
        'chunked-16K',
        'upload-bytes',
        'upload-pieces',
        'upload-file',
    }
    encrypted = [
        load._replace(name=f'{load.name}-tls', title=f'{load.title}, TLS', tls=True, group='tls')
        for load in plain
        if load.name in also_tls
    ]
    return [
        *plain,
        *encrypted,
        Workload(
            'import',
            'import of the library (raw: of nothing)',
            'import',
            group='footprint',
        ),
        Workload(
            'memory',
            f'memory of {HELD_CONNECTIONS} connections',
            'memory',
            group='footprint',
        ),
    ]


WORKLOADS: Dict[str, Workload] = {load.name: load for load in _workloads()}


class Bar(NamedTuple):
    """Ours must take at most *factor* times the time of *peer* (`'*'`: the best Python peer)."""

    workload: str
    peer: str
    factor: float


#: Clients that are no Python HTTP library: they do not count as "best Python peer".
NOT_PYTHON = ('pycurl', 'raw')

BARS = [
    Bar('get', 'pycurl', 1.0),
    Bar('get', 'http.client', 0.35),
    Bar('get', 'dugong-3.8.2', 0.10),
    Bar('pipeline-coroutines', 'dugong-3.8.2', 0.10),
    Bar('pipeline-coroutines', 'raw', 2.5),
    Bar('connect', 'http.client', 0.9),
    Bar('readall-64M', 'http.client', 1.0),
    Bar('readall-64M', 'raw', 1.1),
    Bar('readall-1M', 'http.client', 1.0),
    Bar('readall-1M', 'raw', 1.1),
    Bar('readinto-64M', 'http.client', 1.0),
    Bar('readinto-64M', 'raw', 1.1),
    Bar('chunked-16K', 'pycurl', 1.1),
    Bar('chunked-1M', 'pycurl', 1.1),
    Bar('chunked-100', 'aiohttp', 0.6),
    Bar('upload-bytes', 'http.client', 1.0),
    Bar('upload-bytes', 'raw', 1.1),
    Bar('upload-pieces', 'http.client', 1.0),
    Bar('upload-pieces', 'raw', 1.1),
    Bar('upload-file', 'http.client', 0.8),
    *(Bar(load.name, '*', 1.05) for load in WORKLOADS.values() if load.tls),
    Bar('asyncio', 'aiohttp', 0.55),
    Bar('import', 'http.client', 1.1),
]

#: Most bytes of Python memory per connection: before it has read an answer, and afterwards.
MEMORY_BARS = {'idle': 8 * KIB, 'used': 72 * KIB}
