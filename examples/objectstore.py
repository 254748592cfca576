#!/usr/bin/env python3
"""Keep files as objects on an S3-compatible server.

    objectstore.py put [--prefix PREFIX] FILE...
    objectstore.py get [--prefix PREFIX] [--to DIRECTORY] NAME...
    objectstore.py list [PREFIX]
    objectstore.py delete NAME...

Server, bucket and keys come from the environment: AWS_ENDPOINT_URL, S3_BUCKET, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY. There are options for the first two and for more: see --help.

Shows a storage back end of the kind that dugong was made for. The class `ObjectStore` streams in
both directions, asks with `Expect: 100-continue` before it sends a body, checks what it receives,
repeats what failed for a reason that may pass, after longer and longer pauses, and has a
connection for each thread that uses it.
"""

import argparse
import concurrent.futures
import hashlib
import hmac
import logging
import os
import random
import ssl
import sys
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import quote, urlsplit
from xml.etree import ElementTree

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    HTTP_PORT,
    HTTPS_PORT,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    HTTPResponse,
    InvalidResponse,
    UnsupportedResponse,
    is_temp_network_error,
)

log = logging.getLogger('objectstore')

#: Bytes read from a file or from the network at a time.
PIECE_SIZE = 256 * 1024

#: Seconds; no pause between two attempts is longer.
LONGEST_PAUSE = 30

#: SHA-256 of nothing, in the signature of requests without a body.
EMPTY_DIGEST = hashlib.sha256().hexdigest()


class Progress:
    """Is told how transfers are going, in bytes. This one takes no notice.

    The numbers are negative when an attempt has failed and its bytes have to come once more.
    """

    def expect(self, size: int) -> None:
        """There are *size* more bytes to be transferred."""

    def advance(self, size: int) -> None:
        """Another *size* bytes have been transferred."""


NO_PROGRESS = Progress()


class ObjectStoreError(Exception):
    """The server refused a request. *code* is what S3 calls the reason."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f'{code}: {message}' if message else code)
        self.status = status
        self.code = code


class DamagedObject(Exception):
    """What was received is not what was once stored."""


#: What can go wrong with one object without being a mistake in this program.
EXPECTED_ERRORS = (
    ObjectStoreError,
    DamagedObject,
    OSError,  # no such file, connection refused, certificate not trusted, ...
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
    ElementTree.ParseError,
)


class Credentials(NamedTuple):
    access_key: str
    secret_key: str
    region: str = 'us-east-1'
    session_token: Optional[str] = None


def sign(
    credentials: Credentials,
    method: str,
    path: str,
    query: str,
    headers: Dict[str, str],
    digest: str,
    now: datetime,
) -> Dict[str, str]:
    """Return *headers* and those of AWS signature version 4, all of them signed.

    *path* and *query* are in the form in which they are sent, the parameters of *query* sorted
    by name. *headers* includes the Host field. *digest* is the SHA-256 of the body, in hex.
    """
    timestamp = now.strftime('%Y%m%dT%H%M%SZ')
    headers = {**headers, 'x-amz-date': timestamp, 'x-amz-content-sha256': digest}
    if credentials.session_token:
        headers['x-amz-security-token'] = credentials.session_token

    fields = sorted((name.lower(), value.strip()) for name, value in headers.items())
    signed_names = ';'.join(name for name, _ in fields)
    canonical_fields = ''.join(f'{name}:{value}\n' for name, value in fields)
    request = '\n'.join([method, path, query, canonical_fields, signed_names, digest])

    scope = f'{timestamp[:8]}/{credentials.region}/s3/aws4_request'
    request_digest = hashlib.sha256(request.encode()).hexdigest()
    message = '\n'.join(['AWS4-HMAC-SHA256', timestamp, scope, request_digest])

    key = b'AWS4' + credentials.secret_key.encode()
    for part in [*scope.split('/'), message]:
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()

    headers['Authorization'] = (
        f'AWS4-HMAC-SHA256 Credential={credentials.access_key}/{scope},'
        f'SignedHeaders={signed_names},Signature={key.hex()}'
    )
    return headers


class ObjectStore:
    """The objects in one bucket. May be used by several threads at the same time.

    *attempts* is how often a request is sent before its failure is reported, *pause* the number
    of seconds after the first failure; the pause doubles with every further one.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        credentials: Credentials,
        attempts: int = 6,
        pause: float = 0.1,
    ) -> None:
        parts = urlsplit(endpoint)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise ValueError(f'{endpoint!r} is not an http or https URL')
        self.hostname = parts.hostname
        self.port = parts.port
        # What the connection will send, because it is part of the signature.
        self.host_field = f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname
        if parts.port not in (None, HTTPS_PORT if parts.scheme == 'https' else HTTP_PORT):
            self.host_field += f':{parts.port}'
        self.ssl_context = ssl.create_default_context() if parts.scheme == 'https' else None
        self.bucket = bucket
        self.credentials = credentials
        self.attempts = attempts
        self.pause = pause
        self._thread = threading.local()
        self._connections: List[HTTPConnection] = []
        self._closed = threading.Event()

    def put(self, name: str, path: Path, progress: Progress = NO_PROGRESS) -> None:
        """Store the file *path* as the object *name*."""
        digest, size = digest_of(path)
        progress.expect(size)

        def send(conn: HTTPConnection) -> None:
            buffer = memoryview(bytearray(PIECE_SIZE))
            sent = 0
            try:
                with path.open('rb') as fh:
                    while sent < size:
                        length = fh.readinto(buffer[: size - sent])
                        if not length:
                            raise OSError(f'{path} was cut short while it was sent')
                        conn.write(buffer[:length])
                        progress.advance(length)
                        sent += length
            except BaseException:
                progress.advance(-sent)
                raise

        # The server compares the body with the signed digest, and keeps a copy for `get`.
        headers = {'x-amz-meta-sha256': digest}
        self._request('PUT', name, headers=headers, digest=digest, size=size, send=send)

    def get(self, name: str, path: Path, progress: Progress = NO_PROGRESS) -> None:
        """Write the object *name* to the file *path*, which appears when it is complete."""
        partial = path.with_name(path.name + '.part')

        def receive(conn: HTTPConnection, resp: HTTPResponse) -> None:
            digest = hashlib.sha256()
            buffer = memoryview(bytearray(PIECE_SIZE))
            received = 0
            size = resp.length or 0
            progress.expect(size)
            try:
                with partial.open('wb') as fh:
                    while True:
                        length = conn.readinto(buffer)
                        if not length:
                            break
                        fh.write(buffer[:length])
                        digest.update(buffer[:length])
                        progress.advance(length)
                        received += length
                # Objects that other programs stored may come without.
                expected = resp.headers['x-amz-meta-sha256']
                if expected is not None and expected != digest.hexdigest():
                    raise DamagedObject(f'{received} bytes with the wrong checksum received')
            except BaseException:
                progress.advance(-received)
                progress.expect(-size)
                raise

        try:
            self._request('GET', name, receive=receive)
            partial.replace(path)
        finally:
            if partial.exists():
                partial.unlink()

    def list(self, prefix: str = '') -> Iterator[Tuple[str, int]]:
        """Yield name and size of each object whose name starts with *prefix*."""
        parameters = {'list-type': '2', 'prefix': prefix}
        more = True
        while more:
            page = self._request(
                'GET', parameters=parameters, receive=lambda conn, _: ElementTree.parse(conn)
            )
            for entry in page.iterfind('{*}Contents'):
                yield entry.findtext('{*}Key', ''), int(entry.findtext('{*}Size', '0'))
            more = page.findtext('{*}IsTruncated') == 'true'
            parameters['continuation-token'] = page.findtext('{*}NextContinuationToken', '')

    def delete(self, name: str) -> None:
        """Remove the object *name*; nothing happens if there is none."""
        self._request('DELETE', name)

    def close(self) -> None:
        """Close all connections. Threads that are still at work end with `ConnectionClosed`."""
        self._closed.set()
        for conn in self._connections:
            conn.disconnect()

    def _connection(self) -> HTTPConnection:
        """Return the connection that belongs to the calling thread."""
        conn: Optional[HTTPConnection] = getattr(self._thread, 'conn', None)
        if conn is None:
            conn = HTTPConnection(self.hostname, self.port, ssl_context=self.ssl_context)
            conn.timeout = 60
            self._thread.conn = conn
            self._connections.append(conn)
        return conn

    def _request(self, method: str, name: str = '', **details: Any) -> Any:
        """Do what `_request_once` does, again and again while its errors may be temporary."""
        conn = self._connection()
        pause = self.pause
        for attempts_left in reversed(range(self.attempts)):
            if self._closed.is_set():
                break
            try:
                return self._request_once(conn, method, name, **details)
            except Exception as exc:
                # There may be an unread answer or worse: what comes next starts afresh.
                conn.reset()
                if not attempts_left or not is_temporary(exc):
                    raise
                # Clients that failed together shall not come back together.
                delay = pause * random.uniform(0.5, 1)
                log.info('%s %s again in %.1f s: %s', method, name, delay, exc)
                self._closed.wait(delay)
                pause = min(2 * pause, LONGEST_PAUSE)
        raise ConnectionClosed('the object store was closed')

    def _request_once(
        self,
        conn: HTTPConnection,
        method: str,
        name: str,
        headers: Optional[Dict[str, str]] = None,
        parameters: Optional[Dict[str, str]] = None,
        digest: str = EMPTY_DIGEST,
        size: Optional[int] = None,
        send: Optional[Callable[[HTTPConnection], None]] = None,
        receive: Optional[Callable[[HTTPConnection, HTTPResponse], Any]] = None,
    ) -> Any:
        """Send a request for the object *name*, or for the bucket if that is empty.

        If there is a body, of *size* bytes, *send* is called to send it. When the request has
        been successful, *receive* is called to read the answer, and its result returned.
        """
        path = quote(f'/{self.bucket}/{name}')
        query = '&'.join(
            f'{quote(key, safe="")}={quote(value, safe="")}'
            for key, value in sorted((parameters or {}).items())
        )
        headers = {**(headers or {}), 'Host': self.host_field}
        now = datetime.now(timezone.utc)
        headers = sign(self.credentials, method, path, query, headers, digest, now)
        target = f'{path}?{query}' if query else path

        if size is None or send is None:
            conn.send_request(method, target, headers)
            resp = conn.read_response()
        else:
            conn.send_request(method, target, headers, body=BodyFollowing(size), expect100=True)
            resp = conn.read_response()
            if resp.status == 100:
                try:
                    send(conn)
                except ConnectionClosed:
                    # The server may have told why before it hung up. If not, reading its answer
                    # fails in the same way.
                    resp = conn.read_response()
                    if resp.status < 400:
                        raise
                else:
                    resp = conn.read_response()

        if not 200 <= resp.status <= 299:
            raise error_from(resp, conn.readall())
        result = receive(conn, resp) if receive else None
        conn.discard()
        if 'close' in resp.headers.get('Connection', '').lower():
            conn.disconnect()
        return result


def digest_of(path: Path) -> Tuple[str, int]:
    """Return the SHA-256 of the file *path*, in hex, and its size."""
    digest = hashlib.sha256()
    size = 0
    with path.open('rb') as fh:
        for piece in iter(lambda: fh.read(PIECE_SIZE), b''):
            digest.update(piece)
            size += len(piece)
    return digest.hexdigest(), size


def error_from(resp: HTTPResponse, body: bytes) -> ObjectStoreError:
    """Return the error that *body* describes, which should be XML."""
    try:
        description = ElementTree.fromstring(body)
    except ElementTree.ParseError:
        return ObjectStoreError(resp.status, f'{resp.status} {resp.reason}', '')
    code = description.findtext('{*}Code', f'{resp.status} {resp.reason}')
    return ObjectStoreError(resp.status, code, description.findtext('{*}Message', ''))


def is_temporary(exc: Exception) -> bool:
    """Tell whether the request that ended with *exc* may work when it is sent again."""
    if isinstance(exc, ObjectStoreError):
        return exc.status in (408, 429, 500, 502, 503, 504) or exc.code == 'RequestTimeout'
    return isinstance(exc, DamagedObject) or is_temp_network_error(exc)


# The rest is the command line.


class ProgressBar(Progress):
    """Shows the sum of all transfers as one bar, or as text where tqdm is not installed.

    On anything but a terminal it shows nothing.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown = sys.stderr.isatty()
        self._bar = None
        if self._shown and tqdm is not None:
            self._bar = tqdm(total=0, unit='B', unit_scale=True, unit_divisor=1024, leave=False)
        self._expected = 0
        self._done = 0
        self._next_time = 0.0

    def expect(self, size: int) -> None:
        with self._lock:
            self._expected += size
            self._show(0)

    def advance(self, size: int) -> None:
        with self._lock:
            self._done += size
            self._show(size)

    def _show(self, size: int) -> None:
        if self._bar is not None:
            self._bar.total = self._expected
            self._bar.update(size)
        elif self._shown and time.monotonic() >= self._next_time:
            self._next_time = time.monotonic() + 0.1
            text = f'{self._done / 2**20:.1f} of {self._expected / 2**20:.1f} MiB'
            print(f'\r{text:<60}', end='', file=sys.stderr, flush=True)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
        elif self._next_time:
            print(f'\r{"":<60}', end='\r', file=sys.stderr, flush=True)


def in_threads(
    store: ObjectStore, threads: int, work: Callable[[str], None], names: List[str]
) -> int:
    """Call *work* with each of *names*, several at a time; return the exit status."""
    status = 0
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        futures = {pool.submit(work, name): name for name in names}
        try:
            for future in concurrent.futures.as_completed(futures):
                try:
                    future.result()
                except EXPECTED_ERRORS as exc:
                    print(f'objectstore.py: {futures[future]}: {exc}', file=sys.stderr)
                    status = 1
        except BaseException:
            # The pool waits for its threads, so end what they are doing.
            for future in futures:
                future.cancel()
            store.close()
            raise
    return status


def parse_arguments() -> argparse.Namespace:
    environ = os.environ
    parser = argparse.ArgumentParser(
        description='Keep files as objects on an S3-compatible server.',
        epilog='The keys are taken from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for '
        'temporary ones, AWS_SESSION_TOKEN.',
    )
    parser.add_argument('--endpoint', metavar='URL', default=environ.get('AWS_ENDPOINT_URL'))
    parser.add_argument('--bucket', metavar='NAME', default=environ.get('S3_BUCKET'))
    parser.add_argument('--region', default=environ.get('AWS_DEFAULT_REGION', 'us-east-1'))
    parser.add_argument('--threads', type=int, default=4, help='transfers at the same time')
    parser.add_argument('--attempts', type=int, default=6, help='before giving up')
    parser.add_argument('--verbose', action='store_true', help='tell what is tried again')
    commands = parser.add_subparsers(dest='command', metavar='COMMAND', required=True)

    put = commands.add_parser('put', help='store files under their names')
    put.add_argument('--prefix', default='', help='goes before each name')
    put.add_argument('names', nargs='+', metavar='FILE')

    get = commands.add_parser('get', help='fetch objects into files')
    get.add_argument('--prefix', default='', help='goes before each name')
    get.add_argument('--to', default='.', metavar='DIRECTORY')
    get.add_argument('names', nargs='+', metavar='NAME')

    list_ = commands.add_parser('list', help='print sizes and names')
    list_.add_argument('prefix', nargs='?', default='')

    delete = commands.add_parser('delete', help='remove objects')
    delete.add_argument('names', nargs='+', metavar='NAME')

    options = parser.parse_args()
    for option, variable in ('endpoint', 'AWS_ENDPOINT_URL'), ('bucket', 'S3_BUCKET'):
        if not getattr(options, option):
            parser.error(f'--{option} or the variable {variable} is needed')
    for variable in 'AWS_ACCESS_KEY_ID', 'AWS_SECRET_ACCESS_KEY':
        if variable not in environ:
            parser.error(f'the variable {variable} is needed')
    return options


def run(options: argparse.Namespace, store: ObjectStore) -> int:
    """Carry out one command; return the exit status."""
    bar = ProgressBar()

    def put(file: str) -> None:
        store.put(options.prefix + Path(file).name, Path(file), bar)

    def get(name: str) -> None:
        # Whatever an object is called, its file is placed in the directory and not elsewhere.
        store.get(options.prefix + name, Path(options.to, name.replace('/', '_')), bar)

    if options.command == 'list':
        for name, size in store.list(options.prefix):
            print(f'{size:12}  {name}')
        return 0
    work = {'put': put, 'get': get, 'delete': store.delete}[options.command]
    try:
        return in_threads(store, options.threads, work, options.names)
    finally:
        bar.close()


def main() -> int:
    options = parse_arguments()
    if options.verbose:
        logging.basicConfig(format='%(message)s', level=logging.INFO)
    credentials = Credentials(
        os.environ['AWS_ACCESS_KEY_ID'],
        os.environ['AWS_SECRET_ACCESS_KEY'],
        options.region,
        os.environ.get('AWS_SESSION_TOKEN'),
    )
    try:
        store = ObjectStore(options.endpoint, options.bucket, credentials, options.attempts)
    except ValueError as exc:
        print(f'objectstore.py: {exc}', file=sys.stderr)
        return 2
    try:
        return run(options, store)
    except EXPECTED_ERRORS as exc:
        print(f'objectstore.py: {exc}', file=sys.stderr)
        return 1
    finally:
        store.close()


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('objectstore.py: interrupted', file=sys.stderr)
        sys.exit(130)
