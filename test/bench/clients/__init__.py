"""The clients that are compared, one module each.

A module has a class `Client` and a function `version`. The methods of `Client` that a
workload names do *count* operations in a row and raise if a response is not the right one;
a method that a library has no use for is missing. Every client does the same work per
operation: look at the status, look up one header of the small objects, check the length of
the body, and compare the content of bodies up to 1 KiB. Larger bodies are compared outside
the timed part: a `readall` method returns the last body, pieces go to `task.verify`, which
is `None` while the clock runs.
"""

import ssl
from typing import Callable, Dict, NamedTuple, Optional, Tuple


class Server(NamedTuple):
    """Where to connect; *context* is `None` without TLS."""

    host: str
    port: int
    context: Optional[ssl.SSLContext]
    authority: Optional[str]

    @property
    def url(self) -> str:
        scheme = 'http' if self.context is None else 'https'
        return f'{scheme}://{self.host}:{self.port}'


class Task(NamedTuple):
    """What one operation moves: the expected *body* of GET, the *payload* of PUT."""

    path: str
    body: bytes
    payload: bytes = b''
    payload_md5: str = ''
    payload_file: str = ''
    chunk: Optional[int] = None
    verify: Optional[Callable[[int, memoryview], None]] = None


class Info(NamedTuple):
    """Module of a client, what to install for it, and the import statement to measure."""

    module: str
    requirements: Tuple[str, ...]
    imports: str


#: The client that the others are compared with.
OURS = 'dugong'

CLIENTS: Dict[str, Info] = {
    OURS: Info('dugong_client', (), 'dugong'),
    'dugong-3.8.2': Info('dugong_client', ('dugong==3.8.2',), 'dugong'),
    'http.client': Info('http_client', (), 'http.client, ssl'),
    'urllib3': Info('urllib3_client', ('urllib3',), 'urllib3'),
    'requests': Info('requests_client', ('requests',), 'requests'),
    'httpx': Info('httpx_client', ('httpx',), 'httpx'),
    'aiohttp': Info('aiohttp_client', ('aiohttp',), 'aiohttp'),
    'h11': Info('h11_client', ('h11',), 'h11, socket, ssl'),
    'pycurl': Info('pycurl_client', ('pycurl',), 'pycurl'),
    'raw': Info('raw_client', (), 'sys'),
}


class WrongAnswer(Exception):
    """A client returned something else than the server sent."""


def require(condition: bool, what: object) -> None:
    """Raise `WrongAnswer` unless *condition*; for the places outside the tight loops."""
    if not condition:
        raise WrongAnswer(what)
