#!/usr/bin/env python3
"""Measure what no client in Python can do without: `python3 test/bench/floor.py`.

Five exchanges of the benchmark, small documents one by one and pipelined, a body as a whole and
one in pieces, and an upload in pieces, by loops that do more and more of what has to be done, from
nothing but system calls to our client. What a loop takes is a floor for every client that does as
much as this loop, however it is written. The upload comes once more without the system, as what
that takes differs more from one connection to the next than the clients do.
"""

import argparse
import contextlib
import http.client
import select
import socket
import statistics
import sys
import threading
import time
from typing import Any, Callable, List, NamedTuple, Tuple

import webservers
from clients import Server, Task, http_client, raw_client, require
from environment import ROOT
from run import cores
from workloads import HEADER, HEADER_VALUE, KIB, MIB, READ_BUFFER, WRITE_PIECE, content

sys.path.insert(0, ROOT)

from clients import dugong_client

from dugong import BodyFollowing, HTTPConnection, HTTPResponse
from dugong._buffer import ResultBuffer
from dugong._parser import parse_head

#: Requests that a loop is ahead of the answers, at most.
WINDOW = 64
#: Seconds between two requests in which the core of the server falls asleep. Every client in
#: Python needs more than that for what it does between them.
PAUSE = 8e-6
TASK = Task('/small', content(KIB))
MEDIUM = Task('/medium', content(MIB))
LARGE = Task('/large', content(64 * MIB))
LARGE_PIECES = len(LARGE.body) // READ_BUFFER
#: To wake up for less than that takes longer than to receive it.
GATHERED = 256 * KIB
#: Pieces of an upload, and what is uploaded.
PIECES = 1024
#: Length of a body that no upload here reaches.
ENDLESS = 1 << 62
UPLOAD = Task(
    webservers.DISCARD,
    webservers.upload_answer(webservers.DISCARD, PIECES * WRITE_PIECE, 0),
    content(PIECES * WRITE_PIECE),
)


class Step(NamedTuple):
    """What a loop does in addition to the one before; how to open a connection; and the loop: it
    takes what was opened, and a count."""

    title: str
    open: Callable[[Server], Any]
    run: Callable[[Any, int], None]


class Ladder(NamedTuple):
    """Loops to compare, that run *least* times on each connection, or a multiple of that."""

    name: str
    least: int
    steps: List[Step]


def read_head(buffer: bytearray, start: int, path: str) -> Tuple[HTTPResponse, int, int]:
    """The response whose head begins at *start*, where its body begins, and how long that is."""
    end = buffer.find(b'\r\n\r\n', start)
    head = parse_head(buffer[start:end].decode('latin1'))
    length = int(head.framing['content-length'])
    response = HTTPResponse('GET', path, head.status, head.reason, head, length)
    return response, end + 4, length


class Loops:
    """The loops with small documents, on one connection."""

    def __init__(self, server: Server) -> None:
        raw = raw_client.Client(server)
        self.request = raw.request(TASK.path)
        self.size = raw.head_length(TASK.path) + len(TASK.body)
        self.sock = raw.connection()
        self.sock.setblocking(False)
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        self.poll = poller.poll
        self.buffer = bytearray(4 * WINDOW * KIB)
        self.view = memoryview(self.buffer)

    def close(self) -> None:
        self.sock.close()

    def receive_busily(self) -> None:
        while not self.poll(0):
            pass
        require(self.sock.recv_into(self.view) == self.size, 'answer')

    def take(self, start: int) -> int:
        """Make a response of the octets at *start*; return where it ends."""
        response, begin, length = read_head(self.buffer, start, TASK.path)
        body = bytes(self.view[begin : begin + length])
        require(
            response.status == 200
            and response.headers[HEADER] == HEADER_VALUE
            and body == TASK.body,
            response,
        )
        return begin + length

    def busy(self, count: int) -> None:
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()

    def busy_with_pauses(self, count: int) -> None:
        clock = time.perf_counter
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()
            end = clock() + PAUSE
            while clock() < end:
                pass

    def busy_and_strict(self, count: int) -> None:
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()
            self.take(0)

    def pipeline(self, count: int, take: Callable[[int], int]) -> None:
        """Send one by one until the window is full, then take all answers that are there."""
        sent = done = end = 0
        while done < count:
            while sent < count and sent - done < WINDOW:
                self.sock.send(self.request)
                sent += 1
            self.poll(None)
            end += self.sock.recv_into(self.view[end:])
            start = 0
            while end - start >= self.size:
                start = take(start)
                done += 1
            self.view[: end - start] = self.view[start:end]
            end -= start

    def pipeline_unchecked(self, count: int) -> None:
        self.pipeline(count, lambda start: start + self.size)

    def pipeline_strict(self, count: int) -> None:
        self.pipeline(count, self.take)


class Writer:
    """Writes the body of an upload: as little as a method does that keeps two threads apart,
    knows what is left to be written, and waits for room by itself."""

    def __init__(self, server: Server) -> None:
        self.raw = raw_client.Client(server)
        self.sock = self.raw.sock
        self.role = threading.Lock()
        self.left = 0
        self.closed = False
        poller = select.poll()
        poller.register(self.sock, select.POLLOUT)
        self.poll = poller.poll

    def close(self) -> None:
        self.raw.close()

    def write(self, data: memoryview) -> None:
        require(self.role.acquire(False), 'in use')
        try:
            size = len(data)
            require(not self.closed and size <= self.left, 'state')
            try:
                sent = self.sock.send(data)
            except BlockingIOError:
                sent = 0
            while sent < size:
                self.poll(None)
                sent += self.sock.send(data[sent:])
            self.left -= size
        finally:
            self.role.release()

    def upload(self, pieces: int) -> None:
        payload = memoryview(UPLOAD.payload)
        for _ in range(pieces // PIECES):
            self.sock.setblocking(False)
            self.left = len(payload)
            self.sock.send(self.raw.upload_request(UPLOAD))
            for start in range(0, len(payload), WRITE_PIECE):
                self.write(payload[start : start + WRITE_PIECE])
            self.sock.setblocking(True)
            self.raw.check_upload(UPLOAD)


class Sink:
    """In place of a socket: takes at once all that it is to send, and does nothing with it."""

    send = sendall = staticmethod(len)


class Unsent:
    """An upload in pieces to a `Sink`: nothing but the code of the clients."""

    def __init__(self, write: Callable[[memoryview], Any], close: Callable[[], None]) -> None:
        self.write = write
        self.close = close

    @classmethod
    def with_nothing(cls, server: Server) -> 'Unsent':
        return cls(Sink().send, lambda: None)

    @classmethod
    def with_method(cls, server: Server) -> 'Unsent':
        writer = Writer(server)
        writer.sock = Sink()
        writer.left = ENDLESS
        return cls(writer.write, writer.close)

    @classmethod
    def with_dugong(cls, server: Server) -> 'Unsent':
        conn = HTTPConnection(server.host, server.port)
        conn.send_request('PUT', UPLOAD.path, body=BodyFollowing(ENDLESS))
        stream = conn._session.stream
        sock, stream.sock = stream.sock, Sink()

        def close() -> None:
            stream.sock = sock
            conn.disconnect()

        return cls(conn.write, close)

    @classmethod
    def with_http_client(cls, server: Server) -> 'Unsent':
        conn = http.client.HTTPConnection(server.host, server.port)
        conn.sock = Sink()
        return cls(conn.send, lambda: None)

    def upload(self, pieces: int) -> None:
        payload = memoryview(UPLOAD.payload)
        for _ in range(pieces // PIECES):
            for start in range(0, len(payload), WRITE_PIECE):
                self.write(payload[start : start + WRITE_PIECE])


class Reader:
    """Reads bodies without blocking: waits, and then receives what is there."""

    def __init__(self, server: Server) -> None:
        raw = raw_client.Client(server)
        self.raw = raw
        self.sock = raw.connection()
        self.sock.setblocking(False)
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        self.poll = poller.poll
        self.buffer = bytearray(64 * KIB)
        self.view = memoryview(self.buffer)
        self.target = memoryview(bytearray(READ_BUFFER))
        self.role = threading.Lock()
        self.left = 0

    def close(self) -> None:
        self.sock.close()
        self.raw.close()

    def wait_for(self, size: int) -> None:
        """Have the kernel report no less than *size* bytes, and make room for them."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)

    def begin(self, task: Task) -> int:
        """Send the request, receive what there is of the answer; returns how much."""
        self.sock.send(self.raw.request(task.path))
        self.wait_for(1)
        self.poll(None)
        return self.sock.recv_into(self.view)

    def rest(self, size: int, begin: memoryview) -> bytes:
        """The body of *size* bytes that begins with *begin*."""
        with ResultBuffer(size) as result:
            filled = len(begin)
            result.view[:filled] = begin
            while filled < size:
                self.wait_for(min(size - filled, GATHERED))
                self.poll(None)
                with result.view[filled:] as target:
                    filled += self.sock.recv_into(target)
            return result.finish(size)

    def whole(self, count: int, look: Callable[[], Tuple[int, int]]) -> None:
        """*look* tells where the body begins, and how long it is."""
        # Room for half of a body, as our client makes it.
        self.wait_for(len(MEDIUM.body) // 2)
        body = b''
        for _ in range(count):
            del body
            got = self.begin(MEDIUM)
            begin, length = look()
            body = self.rest(length, self.view[begin:got])
            require(len(body) == len(MEDIUM.body), 'body')

    def whole_unchecked(self, count: int) -> None:
        known = self.raw.head_length(MEDIUM.path), len(MEDIUM.body)
        self.whole(count, lambda: known)

    def whole_strict(self, count: int) -> None:
        self.whole(count, self.look)

    def look(self) -> Tuple[int, int]:
        response, begin, length = read_head(self.buffer, 0, MEDIUM.path)
        require(response.status == 200, response)
        return begin, length

    def readinto(self, target: memoryview) -> int:
        """As little as a method does that keeps two threads apart, knows what is left of the
        body, and waits by itself."""
        require(self.role.acquire(False), 'in use')
        try:
            if not self.left:
                return 0
            view = target[: self.left]
            try:
                got = self.sock.recv_into(view)
            except BlockingIOError:
                self.poll(None)
                got = self.sock.recv_into(view)
            require(got > 0, 'closed')
            self.left -= got
            return got
        finally:
            self.role.release()

    def pieces(self, pieces: int) -> None:
        head = self.raw.head_length(LARGE.path)
        # No more than that, as in our client.
        self.wait_for(8 * MIB)
        for _ in range(pieces // LARGE_PIECES):
            self.left = len(LARGE.body) + head - self.begin(LARGE)
            while self.readinto(self.target):
                pass


def measure(ladder: Ladder, server: Server, rounds: int, seconds: float) -> List[float]:
    """Seconds for one exchange in each of the loops, run in turn: medians."""
    counts = []
    for step in ladder.steps:
        once = _timed(step, server, ladder.least) * ladder.least
        counts.append(ladder.least * max(1, int(seconds / once)))
    times = [
        [_timed(step, server, count) for step, count in zip(ladder.steps, counts)]
        for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*times)]


def _timed(step: Step, server: Server, count: int) -> float:
    # With a new connection each time: two of them may differ much.
    with contextlib.closing(step.open(server)) as subject:
        step.run(subject, count)
        start = time.perf_counter()
        step.run(subject, count)
        return (time.perf_counter() - start) / count


def _get(client: Any, count: int) -> None:
    client.get(count, TASK)


def _pipeline(client: Any, count: int) -> None:
    client.pipeline_coroutines(count, TASK)


def _readall(client: Any, count: int) -> None:
    client.readall(count, MEDIUM)


def _readinto(client: Any, pieces: int) -> None:
    client.readinto(pieces // LARGE_PIECES, LARGE)


def _upload(client: Any, pieces: int) -> None:
    client.upload_pieces(pieces // PIECES, UPLOAD)


LADDERS = [
    Ladder(
        'one by one',
        100,
        [
            Step('raw: asleep until the answer comes', raw_client.Client, _get),
            Step('looks for the answer without sleeping', Loops, Loops.busy),
            Step(f'and {PAUSE * 1e6:.0f} µs between two requests', Loops, Loops.busy_with_pauses),
            Step('and checks and returns what it got', Loops, Loops.busy_and_strict),
            Step('dugong', dugong_client.Client, _get),
            Step('http.client', http_client.Client, _get),
        ],
    ),
    Ladder(
        'pipelined',
        100,
        [
            Step('raw: 64 requests in one call', raw_client.Client, _pipeline),
            Step('a call for each request', Loops, Loops.pipeline_unchecked),
            Step('and checks and returns what it got', Loops, Loops.pipeline_strict),
            Step('dugong, two coroutines', dugong_client.Client, _pipeline),
        ],
    ),
    Ladder(
        '1 MiB as a whole',
        10,
        [
            Step('raw: one call for all of it', raw_client.Client, _readall),
            Step('waits for what it receives', Reader, Reader.whole_unchecked),
            Step('and checks and returns what it got', Reader, Reader.whole_strict),
            Step('dugong', dugong_client.Client, _readall),
            Step('http.client', http_client.Client, _readall),
        ],
    ),
    Ladder(
        '64 MiB in pieces of 256 KiB',
        LARGE_PIECES,
        [
            Step('raw: recv_into', raw_client.Client, _readinto),
            Step('a method with a lock and a count', Reader, Reader.pieces),
            Step('dugong', dugong_client.Client, _readinto),
            Step('http.client', http_client.Client, _readinto),
        ],
    ),
    Ladder(
        'upload in pieces of 64 KiB',
        PIECES,
        [
            Step('raw: sendall', raw_client.Client, _upload),
            Step('a method with a lock and a count', Writer, Writer.upload),
            Step('dugong', dugong_client.Client, _upload),
            Step('http.client', http_client.Client, _upload),
        ],
    ),
    Ladder(
        'the same without the system',
        PIECES,
        [
            Step('nothing', Unsent.with_nothing, Unsent.upload),
            Step('a method with a lock and a count', Unsent.with_method, Unsent.upload),
            Step('dugong', Unsent.with_dugong, Unsent.upload),
            Step('http.client', Unsent.with_http_client, Unsent.upload),
        ],
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=25)
    parser.add_argument('--seconds', type=float, default=0.1, help='time of each loop, about')
    parser.add_argument('--no-nginx', action='store_true', help='use the canned server only')
    options = parser.parse_args()
    server_cpu, client_cpu = cores('apart')
    with webservers.start(sys.executable, False, not options.no_nginx, server_cpu) as running:
        webservers.pin(client_cpu)
        for ladder in LADDERS:
            # Uploads go where the benchmark sends them.
            ports = running.canned if ladder.least == PIECES else running.static
            server = Server(webservers.HOST, ports.plain, None, None)
            times = measure(ladder, server, options.rounds, options.seconds)
            print(f'{ladder.name:40}{"µs":>8}{"× first":>10}{"× last":>10}')
            for step, seconds in zip(ladder.steps, times):
                print(
                    f'  {step.title:38}{seconds * 1e6:8.2f}{seconds / times[0]:10.2f}'
                    f'{seconds / times[-1]:10.2f}'
                )
    return 0


if __name__ == '__main__':
    sys.exit(main())
