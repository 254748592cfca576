"""What the scenarios are made of: register, server scripts, calls of a client.

A scenario gets the module `dugong`, which is 3.8.2 or this checkout, and the port of a server
on 127.0.0.1 that follows the script given to the decorator. It returns JSON-able data (see
`compat_runner.plain`); an exception is recorded by the name of its type. It must not depend on
how the octets happen to be split on their way.
"""

import os
import select
import signal
import socket
import ssl
from types import ModuleType
from typing import Any, Callable, Dict, List, NamedTuple

Script = Callable[[Any], None]


class Scenario(NamedTuple):
    function: Callable[[Any, int], Any]
    script: Script
    tls: bool

    def run(self, dugong: ModuleType, port: int) -> Any:
        try:
            return self.function(dugong, port)
        finally:
            while _connections:
                _connections.pop().disconnect()


#: All scenarios by name.
SCENARIOS: Dict[str, Scenario] = {}

# What `make` made in the scenario that runs, to be closed at its end.
_connections: List[Any] = []

#: Seconds for each wait of the client, when a scenario says nothing else.
WAIT = 10


def words(text: str) -> List[str]:
    return text.split()


def silent(peer: Any) -> None:
    peer.read_to_eof()


def scenario(
    script: Script = silent, tls: bool = False
) -> Callable[[Callable[[Any, int], Any]], Callable[[Any, int], Any]]:
    def register(function: Callable[[Any, int], Any]) -> Callable[[Any, int], Any]:
        assert function.__name__ not in SCENARIOS
        SCENARIOS[function.__name__] = Scenario(function, script, tls)
        return function

    return register


# What servers do


def answers(*responses: bytes, then: str = 'wait') -> Script:
    """Read as many requests as there are *responses*, answer each at once.

    Then wait for the client to close (`'wait'`), close at once (`'close'`), or announce the end
    and wait (`'shut'`).
    """

    def script(peer: Any) -> None:
        for response in responses:
            peer.read_request()
            peer.send(response)
        finish(peer, then)

    return script


def finish(peer: Any, then: str) -> None:
    if then == 'close':
        peer.close()
        return
    if then == 'shut':
        peer.half_close()
    peer.read_to_eof()


def response(body: bytes = b'', *fields: str, status: str = '200 OK') -> bytes:
    lines = [f'HTTP/1.1 {status}', f'Content-Length: {len(body)}', *fields, '', '']
    return '\r\n'.join(lines).encode('latin1') + body


OK = b'HTTP/1.1 200 OK\r\n'
CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
EMPTY = response()
HELLO = response(b'hello')
CHUNKED = OK + b'Transfer-Encoding: chunked\r\n\r\n'
CHUNKED_HELLO = CHUNKED + b'5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n'
UNTIL_CLOSE = OK + b'Connection: close\r\n\r\nhello'


# What clients do


def make(dugong: Any, *args: Any, **options: Any) -> Any:
    """An `HTTPConnection` with a time limit that is closed at the end of the scenario."""
    conn = dugong.HTTPConnection(*args, **options)
    conn.timeout = WAIT
    _connections.append(conn)
    return conn


def connect(dugong: Any, port: int, **options: Any) -> Any:
    return make(dugong, '127.0.0.1', port, **options)


def secured(dugong: Any, port: int) -> Any:
    return connect(dugong, port, ssl_context=trusting_context())


def trusting_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=os.environ['COMPAT_CAFILE'])


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call, or the exception it raised."""
    try:
        return function(*args, **kwargs)
    except Exception as exc:
        return exc


def attempt_within(seconds: float, function: Callable[..., Any], *args: Any) -> Any:
    """Like `attempt`; `'hangs'` if the call has not ended after *seconds*."""

    class Expired(BaseException):
        pass

    def expire(*_: object) -> None:
        raise Expired

    before = signal.signal(signal.SIGALRM, expire)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return attempt(function, *args)
    except Expired:
        return 'hangs'
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def get(conn: Any, path: str = '/', method: str = 'GET') -> Any:
    conn.send_request(method, path)
    return conn.read_response()


def fetch(conn: Any, path: str = '/', method: str = 'GET') -> Any:
    """Status and body of a request."""
    result = get(conn, path, method)
    return [result.status, conn.readall()]


def put(conn: Any, body: Any, headers: Any = None, **options: Any) -> Any:
    conn.send_request('PUT', '/doc', headers=headers, body=body, **options)


def wait_for_input(conn: Any) -> None:
    """Wait until the server has sent something, or has closed."""
    ready = select.select([conn._sock], [], [], WAIT)[0]
    assert ready


def wait_for_end(conn: Any) -> None:
    """Wait until the server has closed the connection, all octets of it having been read."""
    wait_for_input(conn)
    assert conn._sock.recv(1, socket.MSG_PEEK) == b''


def first_error(*calls: Callable[[], Any]) -> Any:
    """The first exception that one of *calls* raises, made in turn."""
    for call in calls:
        result = attempt(call)
        if isinstance(result, Exception):
            return result
    return 'no error'


def readers(dugong: Any) -> Dict[str, Callable[[Any], Any]]:
    """All ways to read a body to its end, by name."""

    def pieces(read: Callable[[int], Any], size: int) -> bytes:
        return b''.join(bytes(piece) for piece in iter(lambda: read(size), b''))

    def into(read: Callable[[Any], int], size: int) -> bytes:
        buffer = bytearray(size)
        return b''.join(bytes(buffer[:n]) for n in iter(lambda: read(buffer), 0))

    def run(coroutine: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: dugong.eval_coroutine(coroutine(*args), WAIT)

    return {
        'read': lambda conn: conn.read(),
        'read_none': lambda conn: conn.read(None),
        'read_1': lambda conn: pieces(conn.read, 1),
        'read_4': lambda conn: pieces(conn.read, 4),
        'read_9999': lambda conn: pieces(conn.read, 9999),
        'readall': lambda conn: conn.readall(),
        'readinto_1': lambda conn: into(conn.readinto, 1),
        'readinto_4': lambda conn: into(conn.readinto, 4),
        'readinto_9999': lambda conn: into(conn.readinto, 9999),
        'discard': lambda conn: conn.discard(),
        'co_read': lambda conn: run(conn.co_read)(),
        'co_read_4': lambda conn: pieces(run(conn.co_read), 4),
        'co_readall': lambda conn: run(conn.co_readall)(),
        'co_readinto_4': lambda conn: into(run(conn.co_readinto), 4),
        'co_discard': lambda conn: run(conn.co_discard)(),
        'read_2_readall': lambda conn: b''.join([conn.read(2), conn.readall()]),
        'read_2_discard': lambda conn: [len(conn.read(2)) > 0, conn.discard(), conn.read(2)],
    }


def read_each_way(dugong: Any, port: int) -> Any:
    """The same body with each reader, on one connection after the other."""
    result = {}
    for name, reader in readers(dugong).items():
        conn = connect(dugong, port)
        head = get(conn)
        length, pending = head.length, conn.response_pending()
        body = attempt(reader, conn)
        result[name] = [length, pending, body, conn.read(3), conn.read(), conn.response_pending()]
        conn.disconnect()
    return result
