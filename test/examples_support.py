"""Helpers of test_examples.py: running a program, a site, a proxy that drops connections, S3."""

import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import pty
import random
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
from importlib import metadata
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import urlencode
from xml.etree import ElementTree

from servers import LIMIT, Peer, Request

EXAMPLES = Path(__file__).resolve().parent.parent / 'examples'


def start(
    name: str, *arguments: object, env: Optional[Mapping[str, str]] = None, **options: object
) -> 'subprocess.Popen[bytes]':
    """Start the example *name* with warnings as errors; *env* is added to the environment."""
    environment = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'COLUMNS')}
    environment.update(env or {})
    command = [sys.executable, '-W', 'error', str(EXAMPLES / name), *map(str, arguments)]
    with _default_interrupt():
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            env=environment,
            **{'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, **options},
        )


def run(
    name: str, *arguments: object, limit: float = LIMIT, **options: object
) -> 'subprocess.CompletedProcess[bytes]':
    """Run the example *name* to its end."""
    with start(name, *arguments, **options) as process:
        return finish(process, limit)


def finish(
    process: 'subprocess.Popen[bytes]', limit: float = LIMIT
) -> 'subprocess.CompletedProcess[bytes]':
    """Wait for the end of *process*, not longer than *limit* seconds."""
    try:
        out, err = process.communicate(timeout=limit)
    except BaseException:
        process.kill()
        raise
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


@contextlib.contextmanager
def _default_interrupt() -> Iterator[None]:
    """A shell that runs the tests in the background has them ignore SIGINT; a child must not."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def site(
    pages: Mapping[str, Tuple[str, bytes]], seen: Optional[List[Request]] = None
) -> Callable[[Peer], None]:
    """Return a handler that serves *pages*: a content type and a body for each target.

    What is asked for is appended to *seen*.
    """

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError, ConnectionError):
            while True:
                request = peer.read_request()
                if seen is not None:
                    seen.append(request)
                if request.target in pages:
                    content_type, body = pages[request.target]
                    peer.respond(body, fields=f'Content-Type: {content_type}')
                else:
                    peer.respond(b'no such page', status='404 Not Found')

    return handler


def noise(seed: object, size: int) -> bytes:
    """Return *size* bytes without a pattern, the same ones for the same *seed*."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def run_on_terminal(
    name: str, *arguments: object, **options: object
) -> 'subprocess.CompletedProcess[bytes]':
    """Run the example *name* with its standard error on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, 80, 0, 0))
    shown = []
    try:
        with start(name, *arguments, stderr=theirs, **options) as process:
            os.close(theirs)
            # The end of a terminal whose other side is closed is EIO.
            with contextlib.suppress(OSError):
                while select.select([ours], [], [], LIMIT)[0]:
                    shown.append(os.read(ours, 65536))
            result = finish(process)
    finally:
        os.close(ours)
    result.stderr = b''.join(shown)
    return result


@contextlib.contextmanager
def refusing_port() -> Iterator[int]:
    """A port on which connections are refused for as long as this lasts."""
    with socket.socket() as sock:
        # Bound and not listening: nobody else can get it either.
        sock.bind(('127.0.0.1', 0))
        yield sock.getsockname()[1]


class ChaosProxy:
    """Forwards TCP connections to *target* and drops some of them, in the same way every time.

    Of all connections, the share *chance* is dropped after a number of bytes, counted in both
    directions together, that is less than *most*; one half with FIN, the other with RST.
    """

    def __init__(
        self, target: Tuple[str, int], seed: int, chance: float = 0.3, most: int = 3000
    ) -> None:
        self.target = target
        self.chance = chance
        self.most = most
        self.connections = 0
        self.dropped = 0
        self._random = random.Random(seed)
        self._stopping = False
        self._threads: Dict[threading.Thread, List[socket.socket]] = {}
        self._listener = socket.create_server(('127.0.0.1', 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name='chaos', daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if self._stopping:
                client.close()
                return
            self.connections += 1
            limit = None
            if self._random.random() < self.chance:
                limit = self._random.randrange(self.most)
            reset = self._random.random() < 0.5
            thread = threading.Thread(
                target=self._forward, args=(client, limit, reset), name='chaos-pair', daemon=True
            )
            self._threads = {t: s for t, s in self._threads.items() if t.is_alive()}
            self._threads[thread] = [client]
            thread.start()

    def _forward(self, client: socket.socket, limit: Optional[int], reset: bool) -> None:
        left = float('inf') if limit is None else limit
        with contextlib.suppress(OSError), client:
            server = socket.create_connection(self.target, timeout=LIMIT)
            self._threads[threading.current_thread()].append(server)
            with server:
                client.settimeout(LIMIT)
                for sock in client, server:
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                open_ends = {client: server, server: client}
                while open_ends:
                    for source in select.select(list(open_ends), [], [], LIMIT)[0]:
                        data = source.recv(65536)
                        if not data:
                            open_ends.pop(source).shutdown(socket.SHUT_WR)
                            continue
                        if len(data) > left:
                            open_ends[source].sendall(data[: int(left)])
                            self.dropped += 1
                            if reset:
                                linger = struct.pack('ii', 1, 0)
                                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                            return
                        open_ends[source].sendall(data)
                        left -= len(data)

    def stop(self) -> None:
        """End all connections and threads."""
        self._stopping = True
        socket.create_connection(('127.0.0.1', self.port), timeout=LIMIT).close()
        self._accepting.join(LIMIT)
        self._listener.close()
        for thread, socks in self._threads.items():
            for sock in socks:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT)
            assert not thread.is_alive(), 'a pair of connections does not end'

    def __enter__(self) -> 'ChaosProxy':
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class S3Server:
    """Moto's S3 server in a process of its own, with one bucket, checking signatures."""

    bucket = 'pond'

    _program = """
import logging, sys
logging.getLogger('werkzeug').setLevel(logging.ERROR)
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer('127.0.0.1', 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""

    def __init__(self) -> None:
        # Older versions calculate wrong signatures for most names that have to be quoted.
        version = [int(part) for part in metadata.version('moto').split('.')[:2]]
        self.takes_any_name = version >= [5, 2]
        self._process = subprocess.Popen(
            [sys.executable, '-c', self._program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert self._process.stdout is not None
            ready, _, _ = select.select([self._process.stdout], [], [], 60)
            assert ready, 'moto does not start'
            self.port = int(self._process.stdout.readline())
            self._prepare()
        except BaseException:
            self.stop()
            raise

    def _prepare(self) -> None:
        """Make a bucket and a user who may do everything with it."""
        self._call('PUT', f'/{self.bucket}')
        self._iam(Action='CreateUser', UserName='frog')
        policy = {
            'Version': '2012-10-17',
            'Statement': [{'Effect': 'Allow', 'Action': 's3:*', 'Resource': '*'}],
        }
        self._iam(
            Action='PutUserPolicy',
            UserName='frog',
            PolicyName='all',
            PolicyDocument=json.dumps(policy),
        )
        answer = self._iam(Action='CreateAccessKey', UserName='frog')
        self.access_key = answer.findtext('.//{*}AccessKeyId')
        self.secret_key = answer.findtext('.//{*}SecretAccessKey')
        # From now on every request must be signed correctly.
        self._call('POST', '/moto-api/reset-auth', b'0')

    def _iam(self, **parameters: str) -> ElementTree.Element:
        scope = 'AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/iam/aws4_request'
        headers = {
            'Authorization': f'{scope}, SignedHeaders=host, Signature=x',
            'Content-Type': 'application/x-www-form-urlencoded',
        }
        body = urlencode({**parameters, 'Version': '2010-05-08'}).encode()
        return ElementTree.fromstring(self._call('POST', '/', body, headers))

    def _call(
        self, method: str, path: str, body: bytes = b'', headers: Optional[Dict[str, str]] = None
    ) -> bytes:
        conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=LIMIT)
        with contextlib.closing(conn):
            conn.request(method, path, body, headers or {})
            resp = conn.getresponse()
            answer = resp.read()
            assert resp.status == 200, answer
            return answer

    def environment(self, port: Optional[int] = None) -> Dict[str, str]:
        """Return the settings of objectstore.py for this server, or for a proxy at *port*."""
        return {
            'AWS_ENDPOINT_URL': f'http://127.0.0.1:{port or self.port}',
            'S3_BUCKET': self.bucket,
            'AWS_ACCESS_KEY_ID': self.access_key,
            'AWS_SECRET_ACCESS_KEY': self.secret_key,
        }

    def stop(self) -> None:
        try:
            self._process.communicate(timeout=LIMIT)
        finally:
            self._process.kill()
            self._process.wait()
