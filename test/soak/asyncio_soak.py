#!/usr/bin/env python3
"""Many connections in one event loop, each pipelining, with cancels and disconnects at random.

    asyncio_soak.py [--connections N] [--tls] [--uvloop] [--seed N] [SECONDS]

Runs for SECONDS (default 120) against a server in another process, and checks that each response
is the right one, that operations fail only if they were made to, that none of them hangs, and
that nothing is left in the end: no descriptor, watcher, task, future, thread, or warning. Needs
trustme for --tls and uvloop for --uvloop. Exit status 1 if something is wrong.
"""

import argparse
import asyncio
import collections
import contextlib
import gc
import logging
import os
import random
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import warnings
import zlib
from pathlib import Path
from typing import Any, Counter, Dict, List, NamedTuple, Optional, Set, Tuple

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from dugong import (
    AioFuture,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    StateError,
)

#: Seconds that a round of requests may take, however it ends, before it counts as hanging.
LIMIT = 60.0

HOST = '127.0.0.1'


def pattern(size: int) -> bytes:
    """The body of a response of *size* bytes."""
    unit = b'%d|' % size
    return (unit * (size // len(unit) + 1))[:size]


# The server


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer requests on one connection, until the client goes or asks for the end."""
    try:
        while True:
            head = await reader.readuntil(b'\r\n\r\n')
            method, path, _ = head.split(b'\r\n', 1)[0].decode('ascii').split(' ')
            fields = dict(
                line.split(': ', 1) for line in head.decode('ascii').split('\r\n')[1:] if line
            )
            checksum, length = await receive_body(reader, fields)
            size, framing, pause = path[1:].split('/')
            if float(pause):
                await asyncio.sleep(float(pause))
            body = pattern(int(size)) if method == 'GET' else b'%d %d' % (length, checksum)
            if framing == 'chunked':
                writer.write(b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n')
                step = max(1, len(body) // 3)
                for begin in range(0, len(body), step):
                    piece = body[begin : begin + step]
                    writer.write(b'%x\r\n%b\r\n' % (len(piece), piece))
                writer.write(b'0\r\n\r\n')
            else:
                close = b'Connection: close\r\n' if framing == 'close' else b''
                writer.write(
                    b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%b\r\n' % (len(body), close)
                )
                writer.write(body)
            await writer.drain()
            if framing == 'close':
                break
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            # TLS waits for an answer to its farewell.
            await asyncio.wait_for(writer.wait_closed(), 5)


async def receive_body(reader: asyncio.StreamReader, fields: Dict[str, str]) -> Tuple[int, int]:
    """Checksum and length of a request body."""
    checksum = length = 0
    if fields.get('Transfer-Encoding') == 'chunked':
        while True:
            size = int(await reader.readuntil(b'\r\n'), 16)
            data = (await reader.readexactly(size + 2))[:-2]
            if not size:
                return checksum, length
            checksum = zlib.crc32(data, checksum)
            length += size
    left = int(fields.get('Content-Length', 0))
    while left:
        data = await reader.read(min(left, 1 << 16))
        if not data:
            raise asyncio.IncompleteReadError(b'', left)
        checksum = zlib.crc32(data, checksum)
        length += len(data)
        left -= len(data)
    return checksum, length


async def run_server(certificate: str) -> None:
    """Serve until standard input ends; print the port. *certificate* is a PEM file, or empty."""
    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
    # Connections that are cut off are what this is about.
    logging.disable(logging.CRITICAL)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    server = await asyncio.start_server(serve, HOST, 0, ssl=context, backlog=1000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    # Without tidying up.
    os._exit(0)


class Server:
    """Runs `serve` in a process of its own, with or without TLS."""

    def __init__(self, tls: bool) -> None:
        certificate = ''
        self.client_context: Optional[ssl.SSLContext] = None
        if tls:
            import trustme

            authority = trustme.CA()
            self.client_context = ssl.create_default_context()
            authority.configure_trust(self.client_context)
            pem = authority.issue_cert(HOST).private_key_and_cert_chain_pem
            with tempfile.NamedTemporaryFile(suffix='.pem', delete=False) as file:
                file.write(pem.bytes())
            certificate = file.name
        try:
            self._process = subprocess.Popen(
                [sys.executable, __file__, '--serve', certificate],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            assert self._process.stdout is not None
            self.port = int(self._process.stdout.readline())
        finally:
            if certificate:
                os.unlink(certificate)

    def stop(self) -> None:
        self._process.communicate()


# The client


class Request(NamedTuple):
    method: str
    path: str
    body: Any
    #: Pieces that are written one by one after the request, if there are any.
    pieces: List[bytes]
    #: What the response will contain.
    expected: bytes
    closes: bool


def make_request(chance: random.Random) -> Request:
    size = int(10 ** chance.uniform(0, chance.choice((2, 4, 5.7)))) - 1
    pause = chance.choice((0, 0, 0, 0, 0.001, 0.02))
    framing = chance.choices(('length', 'chunked', 'close'), (20, 20, 1))[0]
    closes = framing == 'close'
    path = f'/{size}/{framing}/{pause}'
    kind = chance.choice(('GET', 'GET', 'bytes', 'write', 'chunks', 'iterable'))
    if kind == 'GET':
        return Request('GET', path, None, [], pattern(size), closes)
    data = pattern(size)
    step = max(1, size // 4)
    pieces = [data[begin : begin + step] for begin in range(0, size, step)]
    expected = b'%d %d' % (size, zlib.crc32(data))
    if kind == 'bytes':
        return Request('PUT', path, data, [], expected, closes)
    if kind == 'iterable':
        return Request('PUT', path, pieces, [], expected, closes)
    body = BodyFollowing(size if kind == 'write' else None)
    return Request('PUT', path, body, pieces, expected, closes)


class Wrong(Exception):
    """What must not happen has happened."""


class Client:
    """One connection, used again and again."""

    def __init__(self, conn: HTTPConnection, seed: int, counts: 'Counter[str]') -> None:
        self.conn = conn
        self.chance = random.Random(seed)
        self.counts = counts
        # Whether something was done that lets operations fail.
        self.disturbed = False
        self.disconnected = False

    async def run(self, end: float) -> None:
        while time.monotonic() < end:
            try:
                await asyncio.wait_for(self.round(), LIMIT)
            except asyncio.TimeoutError:
                raise Wrong('a round of requests hangs') from None
            if self.disturbed or self.chance.random() < 0.02:
                self.conn.reset()
                self.disturbed = self.disconnected = False
                self.counts['connections'] += 1

    async def round(self) -> None:
        """A number of requests, and something that disturbs them or not."""
        requests = [make_request(self.chance) for _ in range(self.chance.randint(1, 20))]
        self.disturbed = any(request.closes for request in requests)
        started = asyncio.Semaphore(0)
        sender = asyncio.ensure_future(self.send(requests, started))
        reader = asyncio.ensure_future(self.receive(requests, started))
        tasks = {sender, reader}
        disturbance = self.chance.choices(
            ('nothing', 'cancel sender', 'cancel reader', 'cancel both', 'disconnect'),
            (10, 2, 2, 1, 3),
        )[0]
        delay = 10 ** self.chance.uniform(-5, -1)
        if disturbance == 'nothing':
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        else:
            await asyncio.wait(tasks, timeout=delay)
            self.disturbed = True
            self.counts[disturbance] += 1
        if disturbance in ('cancel sender', 'cancel both'):
            sender.cancel()
        if disturbance in ('cancel reader', 'cancel both'):
            reader.cancel()
        if disturbance == 'disconnect':
            self.disconnected = True
            self.conn.disconnect()
        # One cannot go on without the other, if that has failed or been stopped.
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            if task.done() and (task.cancelled() or task.exception() is not None):
                for other in tasks:
                    other.cancel()
        for result in await asyncio.gather(*tasks, return_exceptions=True):
            if result is None or isinstance(result, asyncio.CancelledError):
                continue
            allowed: Tuple[Any, ...] = (ConnectionClosed,) if self.disturbed else ()
            if disturbance in ('disconnect', 'cancel sender', 'cancel both'):
                # It may leave no request whose answer could be read.
                allowed += (StateError,)
            if not isinstance(result, allowed):
                raise result

    async def send(self, requests: List[Request], started: asyncio.Semaphore) -> None:
        conn = self.conn
        for request in requests:
            future = AioFuture(
                conn.co_send_request(request.method, request.path, body=request.body),
                timeout=LIMIT,
            )
            # From now on its answer can be waited for.
            started.release()
            await future
            for piece in request.pieces:
                await AioFuture(conn.co_write(piece), timeout=LIMIT)
            if isinstance(request.body, BodyFollowing):
                await AioFuture(conn.co_write_eof(), timeout=LIMIT)
            self.counts['requests'] += 1

    async def receive(self, requests: List[Request], started: asyncio.Semaphore) -> None:
        conn = self.conn
        for request in requests:
            await started.acquire()
            response = await self.retried(conn.co_read_response)
            if (response.status, response.path) != (200, request.path):
                if self.disconnected:
                    # The sender has connected anew.
                    raise ConnectionClosed('disconnected')
                raise Wrong(f'{response.status} {response.path} instead of {request.path}')
            body = await self.read(request.expected)
            if body != request.expected:
                raise Wrong(f'wrong body for {request.path}: {len(body)} bytes')
            self.counts['responses'] += 1
            self.counts['bytes'] += len(body)

    async def read(self, expected: bytes) -> bytes:
        conn = self.conn
        way = self.chance.choice(('readall', 'readall', 'read', 'readinto', 'discard'))
        if way == 'readall':
            return bytes(await AioFuture(conn.co_readall(), timeout=LIMIT))
        if way == 'discard':
            await AioFuture(conn.co_discard(), timeout=LIMIT)
            return expected
        data = bytearray()
        size = int(10 ** self.chance.uniform(2, 6))
        buffer = bytearray(size)
        while True:
            if way == 'read':
                piece = await self.retried(conn.co_read, size)
            else:
                piece = buffer[: await self.retried(conn.co_readinto, buffer)]
            if not piece:
                return bytes(data)
            data += piece

    async def retried(self, operation: Any, *arguments: Any) -> Any:
        """Call what can be retried; now and then, give up and try again."""
        await self.body_written(operation)
        if self.chance.random() < 0.1:
            way = self.chance.choice(('cancel', 'wait_for', 'timeout'))
            delay = 10 ** self.chance.uniform(-5, -2)
            self.counts[f'retry after {way}'] += 1
            try:
                if way == 'timeout':
                    return await AioFuture(operation(*arguments), timeout=delay)
                if way == 'wait_for':
                    return await wait_for(AioFuture(operation(*arguments)), delay)
                future = AioFuture(operation(*arguments))
                try:
                    await asyncio.sleep(0)
                finally:
                    done = not give_up(future)
                if done:
                    return future.result()
            except (ConnectionTimedOut, asyncio.TimeoutError):
                pass
        await self.body_written(operation)
        return await AioFuture(operation(*arguments), timeout=LIMIT)

    async def body_written(self, operation: Any) -> None:
        """Reading the answer to an incomplete request is an error between two writes."""
        while operation == self.conn.co_read_response and self.conn._out_remaining:
            await asyncio.sleep(0.001)


def give_up(future: 'AioFuture[Any]') -> bool:
    """Cancel *future*; false if it is done already, and then nobody minds how."""
    if future.cancel():
        return True
    if not future.cancelled():
        future.exception()
    return False


async def wait_for(future: 'AioFuture[Any]', delay: float) -> Any:
    """As `asyncio.wait_for`, which before CPython 3.12 may forget that it is cancelled."""
    if sys.version_info >= (3, 12):
        return await asyncio.wait_for(future, delay)
    try:
        done, _ = await asyncio.wait([future], timeout=delay)
    except asyncio.CancelledError:
        give_up(future)
        raise
    if not done:
        give_up(future)
        raise asyncio.TimeoutError
    return future.result()


# What is left in the end


def descriptors() -> Set[Tuple[int, str]]:
    found = set()
    if os.path.isdir('/proc/self/fd'):
        for name in os.listdir('/proc/self/fd'):
            with contextlib.suppress(OSError):
                found.add((int(name), os.readlink(f'/proc/self/fd/{name}')))
    return found


class Problems(logging.Handler):
    """Collects all that goes wrong without being raised anywhere."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: List[str] = []
        logging.getLogger().addHandler(self)
        warnings.simplefilter('always')
        warnings.showwarning = lambda message, *args, **kwargs: self.add(f'warning: {message}')
        if hasattr(sys, 'unraisablehook'):
            sys.unraisablehook = lambda args: self.add(
                f'ignored: {args.exc_value!r} in {args.object!r}'
            )

    def emit(self, record: logging.LogRecord) -> None:
        self.add(f'logged: {record.getMessage()}')

    def add(self, text: str) -> None:
        if len(self.found) < 20:
            self.found.append(text)


async def run_clients(options: argparse.Namespace, server: Server, counts: 'Counter[str]') -> None:
    end = time.monotonic() + options.seconds
    connections = [
        HTTPConnection(HOST, server.port, server.client_context)
        for _ in range(options.connections)
    ]
    loop = asyncio.get_running_loop()
    selector = getattr(loop, '_selector', None)
    watched = None if selector is None else set(selector.get_map())
    tasks = [
        asyncio.ensure_future(Client(conn, options.seed * 10_000 + index, counts).run(end))
        for index, conn in enumerate(connections)
    ]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for conn in connections:
            conn.disconnect()
    # For what has been scheduled.
    await asyncio.sleep(0.01)
    if selector is not None and set(selector.get_map()) != watched:
        raise Wrong('descriptors are still being watched')
    if asyncio.all_tasks() != {asyncio.current_task()}:
        raise Wrong(f'tasks are left: {asyncio.all_tasks()}')


def soak(options: argparse.Namespace) -> 'Counter[str]':
    counts: Counter[str] = collections.Counter()
    new_event_loop: Any = asyncio.new_event_loop
    if options.uvloop:
        import uvloop

        new_event_loop = uvloop.new_event_loop
    problems = Problems()
    server = Server(options.tls)
    try:
        # Some descriptors belong to what is there for ever, once it has been used.
        new_event_loop().close()
        gc.collect()
        before = descriptors()
        threads = set(threading.enumerate())
        loop = new_event_loop()
        loop.set_exception_handler(
            lambda loop, context: problems.add(f'{context["message"]}: {context}')
        )
        try:
            loop.run_until_complete(run_clients(options, server, counts))
            loop.run_until_complete(loop.shutdown_asyncgens())
        finally:
            loop.close()
        del loop
        gc.collect()
        left = descriptors() - before
        if left:
            raise Wrong(f'descriptors are left: {left}')
    finally:
        server.stop()

    if problems.found:
        raise Wrong('\n'.join(problems.found))
    if set(threading.enumerate()) - threads:
        raise Wrong(f'threads are left: {set(threading.enumerate()) - threads}')
    objects = collections.Counter(
        type(item).__name__
        for item in gc.get_objects()
        if type(item) in (AioFuture, HTTPConnection, PollNeeded)
    )
    if objects:
        raise Wrong(f'objects are left: {dict(objects)}')
    if not counts['responses']:
        raise Wrong('nothing has happened')
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description='Soak test of AioFuture.')
    parser.add_argument('--connections', type=int, default=100, metavar='N')
    parser.add_argument('--tls', action='store_true')
    parser.add_argument('--uvloop', action='store_true')
    parser.add_argument('--seed', type=int, default=1, metavar='N')
    parser.add_argument('--serve', metavar='PEM', help=argparse.SUPPRESS)
    parser.add_argument('seconds', type=float, nargs='?', default=120, metavar='SECONDS')
    options = parser.parse_args()
    if options.serve is not None:
        asyncio.run(run_server(options.serve))
    try:
        counts = soak(options)
    except Wrong as exc:
        print(f'asyncio_soak.py: {exc}', file=sys.stderr)
        return 1
    for name, count in sorted(counts.items()):
        print(f'{name}: {count}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
