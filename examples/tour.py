#!/usr/bin/env python3
"""A tour of what dugong does, with the time that each step takes.

    tour.py [URL]

Without a URL, the steps are shown on a small server that this program starts on a loopback port.
It answers each request 5 ms after the request has arrived, as a server in the next town would, and
those that arrive together it answers together. With a URL, the steps that only read are shown
with the server of that URL.
"""

import asyncio
import concurrent.futures
import contextlib
import io
import os
import queue
import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Iterator, List, Optional
from urllib.parse import quote, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    BUFFER_SIZE,
    AioFuture,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    UnsupportedResponse,
    is_temp_network_error,
)

#: Seconds from the arrival of a request at the embedded server to its answer.
LATENCY = 0.005

#: How many documents to fetch in different ways from the embedded server, and from another one.
DOCUMENTS = 200
DOCUMENTS_ELSEWHERE = 20

MiB = 2**20


class TourError(Exception):
    """The server did not answer as this program needs it."""


#: What can go wrong without being a mistake in this program.
EXPECTED_ERRORS = (
    TourError,
    ValueError,  # not a URL
    OSError,  # connection refused, certificate not trusted, ...
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
)


# The steps. Each prints its own lines.


def a_request(conn: HTTPConnection, path: str) -> None:
    start = time.perf_counter()
    conn.send_request('GET', path)
    resp = conn.read_response()
    body = conn.readall()
    report(f'GET {path}: {resp.status} {resp.reason}, {len(body)} bytes', start)
    if resp.status != 200:
        raise TourError(f'{path}: {resp.status} {resp.reason}')


def a_streamed_download(conn: HTTPConnection, path: str) -> None:
    start = time.perf_counter()
    conn.send_request('GET', path)
    conn.read_response()
    buffer = bytearray(BUFFER_SIZE)
    size = 0
    length = conn.readinto(buffer)
    while length:
        size += length
        length = conn.readinto(buffer)
    speed = size / MiB / (time.perf_counter() - start)
    note = f'{speed:.0f} MiB/s' if size > MiB else ''
    report(f'{size} bytes read into one buffer of {len(buffer)} bytes', start, note)


def an_upload(conn: HTTPConnection, path: str) -> None:
    piece = bytes(BUFFER_SIZE)
    pieces = 128
    start = time.perf_counter()
    body = BodyFollowing(pieces * len(piece))
    conn.send_request('PUT', path, body=body, expect100=True)
    resp = conn.read_response()
    report(f'PUT {path}, {body.length} bytes: {resp.status} {resp.reason}', start)
    if resp.status == 100:
        start = time.perf_counter()
        for _ in range(pieces):
            conn.write(piece)
        resp = conn.read_response()
        conn.discard()
        report(f'data sent: {resp.status} {resp.reason}', start)
    else:
        conn.discard()
        report('nothing sent, the connection remains usable', start)


def one_by_one(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    bodies = []
    for path in paths:
        conn.send_request('GET', path)
        conn.read_response()
        bodies.append(conn.readall())
    return bodies


def with_two_threads(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    def send_requests() -> None:
        for path in paths:
            conn.send_request('GET', path)

    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        sender = pool.submit(send_requests)
        bodies = []
        try:
            for _ in paths:
                conn.read_response()
                bodies.append(conn.readall())
        except BaseException:
            # Also ends a send that is still waiting.
            conn.disconnect()
            raise
        sender.result()
    return bodies


def with_two_coroutines(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    def send_requests():
        for path in paths:
            yield from conn.co_send_request('GET', path)

    def read_responses():
        bodies = []
        for _ in paths:
            yield from conn.co_read_response()
            body = yield from conn.co_readall()
            bodies.append(bytes(body))
        return bodies

    async def run_both():
        sender = AioFuture(send_requests())
        reader = AioFuture(read_responses())
        try:
            _, bodies = await asyncio.gather(sender, reader)
        except BaseException:
            # When one of the two fails, the other one would wait for ever.
            sender.cancel()
            reader.cancel()
            raise
        return bodies

    return asyncio.run(run_both())


def with_pipeline(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    return [resp.body for resp in conn.pipeline(paths)]


def a_retry(conn: HTTPConnection, path: str) -> None:
    start = time.perf_counter()
    pause = 0.01
    while True:
        try:
            conn.send_request('GET', path)
            resp = conn.read_response()
            conn.discard()
            break
        except Exception as exc:
            if not is_temp_network_error(exc):
                raise
            conn.reset()
            report(str(exc), start, f'again in {pause * 1000:.0f} ms')
        time.sleep(pause)
        pause *= 2
    report(f'GET {path}: {resp.status} {resp.reason}', start)


def report(text: str, start: float, note: str = '') -> float:
    """Print what happened since *start* and how long it took; return the latter."""
    seconds = time.perf_counter() - start
    print(f'   {text:<64}{seconds * 1000:8.1f} ms  {note}'.rstrip(), flush=True)
    return seconds


def compare(conn: HTTPConnection, paths: List[str], expected: Optional[List[bytes]]) -> None:
    """Fetch the documents *paths* in four ways, and make sure that they are *expected*."""
    baseline = 0.0
    for title, fetch in (
        ('one by one', one_by_one),
        ('pipelined: one thread sends, one reads', with_two_threads),
        ('pipelined: one coroutine sends, one reads', with_two_coroutines),
        ('conn.pipeline()', with_pipeline),
    ):
        conn.reset()
        start = time.perf_counter()
        try:
            bodies = fetch(conn, paths)
        except ConnectionClosed as exc:
            # The first three are for servers that keep a connection open as long as it takes.
            report(title, start, str(exc))
            continue
        note = f'{baseline / (time.perf_counter() - start):.1f} times as fast' if baseline else ''
        seconds = report(title, start, note)
        if fetch is one_by_one:
            baseline = seconds
        if expected is not None and bodies != expected:
            raise TourError('a document is not what it should be')


# The embedded server.


class LateWriter(io.RawIOBase):
    """Passes on to *sink* what is written to it, each piece `LATENCY` seconds after it came.

    Writing does not wait, so what is written at about the same time arrives at about the same
    time. That is how the distance to a server is felt.
    """

    def __init__(self, sink: io.RawIOBase) -> None:
        super().__init__()
        self.sink = sink
        self.pieces: queue.SimpleQueue = queue.SimpleQueue()
        self.thread = threading.Thread(target=self.pass_on, daemon=True)
        self.thread.start()

    def pass_on(self) -> None:
        while True:
            due, piece = self.pieces.get()
            if piece is None:
                return
            time.sleep(max(0, due - time.monotonic()))
            # After an error the client is gone; what is left cannot interest anybody.
            with contextlib.suppress(OSError):
                self.sink.write(piece)

    def writable(self) -> bool:
        return True

    def write(self, piece: bytes) -> int:
        self.pieces.put((time.monotonic() + LATENCY, piece))
        return len(piece)

    def close(self) -> None:
        if not self.closed:
            self.pieces.put((0, None))
            self.thread.join()
        super().close()


class Handler(BaseHTTPRequestHandler):
    """Answers the requests of the tour."""

    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self.wfile = LateWriter(self.wfile)

    def do_GET(self) -> None:
        if self.path == '/hello':
            self.respond(b'Hello, world!\n')
        elif self.path == '/download':
            self.respond(bytes(MiB), copies=64)
        elif self.path.startswith('/documents/'):
            self.respond(document(int(self.path.rpartition('/')[2])))
        elif self.path == '/unreliable' and self.server.drops_left:
            self.server.drops_left -= 1
            self.close_connection = True
        else:
            self.respond(b'Here you are.\n')

    def handle_expect_100(self) -> bool:
        if self.path == '/too-large':
            self.respond(b'No more than 1 MiB, please.\n', status=413)
            return False
        return super().handle_expect_100()

    def do_PUT(self) -> None:
        left = int(self.headers['Content-Length'])
        while left:
            left -= len(self.rfile.read(min(left, BUFFER_SIZE)))
        self.respond(b'Thank you.\n', status=201)

    def respond(self, body: bytes, copies: int = 1, status: int = 200) -> None:
        self.send_response(status)
        self.send_header('Content-Length', str(copies * len(body)))
        self.end_headers()
        for _ in range(copies):
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    #: So many requests for `/unreliable` get no answer: the connection is closed instead.
    drops_left = 2

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is nothing to talk about."""


def document(number: int) -> bytes:
    return f'This is document number {number}.\n'.encode() * 32


@contextlib.contextmanager
def embedded_server() -> Iterator[int]:
    """Run the server in a thread; gives its port."""
    with Server(('127.0.0.1', 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


# The tour.


def tour_here() -> None:
    """Show everything on the embedded server."""
    with embedded_server() as port, HTTPConnection('127.0.0.1', port) as conn:
        print(f'A small server is at http://127.0.0.1:{port}; it answers after 5 ms.')
        conn.timeout = 10

        print('\nA request')
        a_request(conn, '/hello')

        print('\nA download, in pieces')
        a_streamed_download(conn, '/download')

        print('\nAn upload that the server accepts with 100-continue')
        an_upload(conn, '/upload')

        print('\nAn upload that it refuses')
        an_upload(conn, '/too-large')

        print(f'\nThe same {DOCUMENTS} documents in four ways')
        numbers = range(DOCUMENTS)
        compare(conn, [f'/documents/{n}' for n in numbers], [document(n) for n in numbers])

        print('\nA server that drops the connection, and a client that tries again')
        a_retry(conn, '/unreliable')


def tour_elsewhere(url: str) -> None:
    """Show the steps that only read with the server of *url*."""
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError(f'{url} is not an http or https URL')
    path = parts.path or '/'
    if parts.query:
        path += '?' + parts.query
    path = quote(path, safe="/?%:@!$&'()*+,;=~")
    context = ssl.create_default_context() if parts.scheme == 'https' else None

    with HTTPConnection(parts.hostname, parts.port, ssl_context=context) as conn:
        conn.timeout = 30
        print('A request')
        a_request(conn, path)

        print('\nA download, in pieces')
        # Some servers close a connection after each answer.
        conn.reset()
        a_streamed_download(conn, path)

        print(f'\nThe same document {DOCUMENTS_ELSEWHERE} times, in four ways')
        compare(conn, [path] * DOCUMENTS_ELSEWHERE, expected=None)


def main(arguments: List[str]) -> int:
    if len(arguments) > 1 or arguments[:1] in (['-h'], ['--help']):
        print('usage: tour.py [URL]', file=sys.stderr)
        return 2
    try:
        if arguments:
            tour_elsewhere(arguments[0])
        else:
            tour_here()
    except EXPECTED_ERRORS as exc:
        print(f'tour.py: {exc}', file=sys.stderr)
        return 1
    return 0


def interrupted(*_: object) -> None:
    """End the tour at once: there is nothing that would have to be tidied up."""
    os.write(2, b'tour.py: interrupted\n')
    os._exit(130)


if __name__ == '__main__':
    signal.signal(signal.SIGINT, interrupted)
    sys.exit(main(sys.argv[1:]))
