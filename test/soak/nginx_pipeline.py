#!/usr/bin/env python3
"""Get 100,000 small documents from nginx with one call of `HTTPConnection.pipeline`.

nginx keeps its default limit of requests per connection. Checked are: each body, their order,
that memory does not grow, and the throughput: with 1 ms of added latency against one request at
a time, and without it against two coroutines written by hand, one that sends and one that reads.
Prints figures; the exit status tells whether all is as it should be. Run it on an idle machine:

    python test/soak/nginx_pipeline.py [--count 100000]
"""

import argparse
import asyncio
import contextlib
import os
import queue
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Callable, Iterator, List, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from dugong import AioFuture, HTTPConnection, __version__

HOST = '127.0.0.1'
#: Seconds to wait for anything.
LIMIT = 30.0
#: Seconds that each request is held back.
LATENCY = 0.001
#: Documents per measurement: less than what nginx serves on one connection.
BATCH = 900
ROUNDS = 9

MIN_SPEED_UP = 5.0
MAX_OVERHEAD = 1.3
#: Bytes that the process may grow by after a tenth of the documents.
MAX_GROWTH = 4 << 20

CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host}:{port};
        location / {{ return 200 "document $uri"; }}
    }}
}}
"""


def body_of(path: str) -> bytes:
    return f'document {path}'.encode()


@contextlib.contextmanager
def nginx() -> Iterator[Tuple[str, int]]:
    program = shutil.which('nginx', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
    if program is None:
        raise SystemExit('nginx is not installed')
    with socket.create_server((HOST, 0)) as listener:
        address = listener.getsockname()
    with tempfile.TemporaryDirectory(prefix='dugong-soak-') as directory:
        file = Path(directory, 'nginx.conf')
        file.write_text(CONFIGURATION.format(directory=directory, host=HOST, port=address[1]))
        process = subprocess.Popen([program, '-p', directory, '-c', str(file)])
        try:
            await_server(address)
            yield address
        finally:
            process.terminate()
            process.wait(LIMIT)


@contextlib.contextmanager
def delayed(target: Tuple[str, int]) -> Iterator[Tuple[str, int]]:
    """A proxy in a process of its own that holds back what the client sends."""
    with socket.create_server((HOST, 0)) as listener:
        address = listener.getsockname()
    process = subprocess.Popen(
        [sys.executable, __file__, '--proxy', str(address[1]), str(target[1])]
    )
    try:
        await_server(address)
        yield address
    finally:
        process.terminate()
        process.wait(LIMIT)


def await_server(address: Tuple[str, int]) -> None:
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            socket.create_connection(address, timeout=LIMIT).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def run_proxy(port: int, target: int) -> None:
    with socket.create_server((HOST, port)) as listener:
        while True:
            client, _ = listener.accept()
            server = socket.create_connection((HOST, target))
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting: 'queue.Queue[Tuple[float, bytes]]' = queue.Queue()
            for function, *args in (
                (receive, client, waiting),
                (send_late, waiting, server),
                (forward, server, client),
            ):
                threading.Thread(target=function, args=args, daemon=True).start()


def receive(source: socket.socket, waiting: 'queue.Queue[Tuple[float, bytes]]') -> None:
    data = b'.'
    while data:
        try:
            data = source.recv(1 << 16)
        except OSError:
            data = b''
        waiting.put((time.monotonic() + LATENCY, data))


def send_late(waiting: 'queue.Queue[Tuple[float, bytes]]', target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            due, data = waiting.get()
            time.sleep(max(0.0, due - time.monotonic()))
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def forward(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(1 << 16)
            if not data:
                break
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    source.close()


# Ways to get documents


def sequential(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    bodies = []
    for path in paths:
        conn.send_request('GET', path)
        conn.read_response()
        bodies.append(conn.readall())
    return bodies


def pipelined(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    return [response.body for response in conn.pipeline(paths)]


def two_coroutines(conn: HTTPConnection, paths: List[str]) -> List[bytes]:
    bodies = []

    def send() -> Iterator[Any]:
        for path in paths:
            yield from conn.co_send_request('GET', path)

    def read() -> Iterator[Any]:
        for _ in paths:
            yield from conn.co_read_response()
            bodies.append((yield from conn.co_readall()))

    async def main() -> None:
        await asyncio.gather(AioFuture(send()), AioFuture(read()))

    asyncio.run(main())
    return bodies


def measure(
    address: Tuple[str, int], ways: List[Callable[[HTTPConnection, List[str]], List[bytes]]]
) -> List[float]:
    """Seconds per document for each of *ways*: the best of some rounds."""
    paths = [f'/{number}' for number in range(BATCH)]
    expected = [body_of(path) for path in paths]
    best = [float('inf')] * len(ways)
    for _ in range(ROUNDS):
        for index, way in enumerate(ways):
            with HTTPConnection(*address) as conn:
                conn.timeout = LIMIT
                conn.connect()
                began = time.perf_counter()
                bodies = way(conn, paths)
                elapsed = time.perf_counter() - began
            if bodies != expected:
                raise SystemExit(f'{way.__name__}: wrong bodies')
            best[index] = min(best[index], elapsed / BATCH)
    return best


def memory() -> int:
    """Bytes of memory that the process has now."""
    try:
        pages = int(Path('/proc/self/statm').read_text().split()[1])
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return pages * os.sysconf('SC_PAGE_SIZE')


def soak(address: Tuple[str, int], count: int) -> bool:
    paths = (f'/{number}' for number in range(count))
    received = begin = end = 0
    began = time.perf_counter()
    with HTTPConnection(*address) as conn:
        conn.timeout = LIMIT
        pipeline = conn.pipeline(paths)
        for response in pipeline:
            path = f'/{received}'
            if (response.path, response.status, response.body) != (path, 200, body_of(path)):
                print(f'wrong answer to {path}: {response.path} {response.body!r}')
                return False
            received += 1
            if received == count // 10:
                begin = memory()
        end = memory()
    elapsed = time.perf_counter() - began
    print(
        f'{received} of {count} documents in order in {elapsed:.1f} s '
        f'({received / elapsed:.0f} per second); {pipeline.connections} connections, '
        f'{pipeline.sent} requests sent, {pipeline.repeated} of them again'
    )
    growth = end - begin
    print(f'memory: {begin >> 10} KiB after a tenth, {end >> 10} KiB in the end')
    return received == count and not pipeline.unanswered and growth <= MAX_GROWTH


def main() -> int:
    parser = argparse.ArgumentParser(description='Get small documents from nginx by pipeline().')
    parser.add_argument('--count', type=int, default=100_000)
    parser.add_argument('--proxy', type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.proxy is not None:
        with contextlib.suppress(KeyboardInterrupt):
            run_proxy(*options.proxy)
        return 0

    print(f'dugong {__version__}, Python {sys.version.split()[0]}, load {os.getloadavg()[0]:.1f}')
    with nginx() as address:
        well = soak(address, options.count)
        with delayed(address) as proxy:
            slow, fast = measure(proxy, [sequential, pipelined])
        print(
            f'{1000 * LATENCY:g} ms of latency: {slow * 1e6:.0f} us per document one at a time, '
            f'{fast * 1e6:.0f} us with pipeline(): {slow / fast:.1f} times as fast '
            f'(at least {MIN_SPEED_UP:g})'
        )
        by_hand, piped = measure(address, [two_coroutines, pipelined])
        print(
            f'loopback: {by_hand * 1e6:.0f} us per document with two coroutines, '
            f'{piped * 1e6:.0f} us with pipeline(): {piped / by_hand:.2f} times the time '
            f'(at most {MAX_OVERHEAD:g})'
        )
    well = well and slow / fast >= MIN_SPEED_UP and piped / by_hand <= MAX_OVERHEAD
    print('all is as it should be' if well else 'NOT as it should be')
    return 0 if well else 1


if __name__ == '__main__':
    sys.exit(main())
