"""The servers: nginx where it is installed, and a canned server in a process of its own.

The canned server sends answers that are built once, as one run of bytes, and throws away
what is uploaded to it, so that it costs as little as a server in Python can. It does the
chunked responses and the uploads always, the rest where there is no nginx.
"""

import argparse
import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from typing import Iterator, List, NamedTuple, Optional

from workloads import EXTRA_FIELDS, MIB, OBJECTS, content

HOST = '127.0.0.1'
#: A whole body of 1 MiB fits in, so that waking up the server is no part of the work.
SEND_BUFFER = 4 * MIB
#: Seconds to wait for a server to start.
START_LIMIT = 30.0

#: PUT to these: the body is thrown away, or the answer has its checksum.
DISCARD, CHECKSUM = '/discard', '/checksum'


class Ports(NamedTuple):
    plain: int
    tls: Optional[int]


class Servers(NamedTuple):
    """Running servers; *static* is nginx or again the canned one."""

    static: Ports
    canned: Ports
    static_name: str
    authority: Optional[str]
    payload_file: str


NGINX_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 4096;
events {{ worker_connections 2100; }}
http {{
    access_log off;
    default_type application/octet-stream;
    keepalive_requests 1000000000;
    keepalive_timeout 1h;
    tcp_nodelay on;
    sendfile on;
    output_buffers 2 128k;
    open_file_cache max=100 inactive=1h;
    open_file_cache_valid 1h;
    client_header_buffer_size 16k;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen {host}:{ports.plain} backlog=1024 sndbuf={send_buffer};
        {tls}
        root {directory}/objects;
        location = /small {{
            # Head and body in one segment.
            sendfile off;
            {fields}
        }}
    }}
}}
"""

NGINX_TLS = """
        listen {host}:{port} ssl backlog=1024 sndbuf={send_buffer};
        ssl_certificate {directory}/server.pem;
        ssl_certificate_key {directory}/server.key;
"""


@contextlib.contextmanager
def start(
    python: str, tls: bool, use_nginx: bool = True, cpu: Optional[int] = None
) -> Iterator[Servers]:
    """Run the servers, on core *cpu* only if given.

    *python* is an interpreter that has trustme, if *tls*.
    """
    memory = '/dev/shm' if os.access('/dev/shm', os.W_OK) else None
    nginx = shutil.which('nginx', path=os.environ.get('PATH', '') + ':/usr/sbin:/usr/local/sbin')
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(
            tempfile.TemporaryDirectory(prefix='dugong-bench-', dir=memory)
        )
        objects = os.path.join(directory, 'objects')
        os.mkdir(objects)
        for path, (size, chunk) in OBJECTS.items():
            if chunk is None:
                with open(objects + path, 'wb') as fh:
                    fh.write(content(size))
        if tls:
            subprocess.run(
                [python, '-m', 'trustme', '-q', '-d', directory, '-i', HOST],
                check=True,
                timeout=START_LIMIT,
            )
        static = canned = stack.enter_context(_canned(directory, tls, cpu))
        name = 'canned'
        if nginx is not None and use_nginx:
            static = stack.enter_context(_nginx(nginx, directory, tls, cpu))
            version = subprocess.run([nginx, '-v'], stderr=subprocess.PIPE, check=True)
            name = version.stderr.decode().strip().rpartition(': ')[2]
        yield Servers(
            static,
            canned,
            name,
            os.path.join(directory, 'client.pem') if tls else None,
            objects + '/large',
        )


def pin(cpu: Optional[int]) -> None:
    """Keep this process on core *cpu*, where the system can do that."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})


@contextlib.contextmanager
def _running(command: List[str], cpu: Optional[int], **options) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(command, preexec_fn=lambda: pin(cpu), **options)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(START_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def _nginx(nginx: str, directory: str, tls: bool, cpu: Optional[int]) -> Iterator[Ports]:
    ports = Ports(_free_port(), _free_port() if tls else None)
    tls_text = ''
    if tls:
        tls_text = NGINX_TLS.format(
            directory=directory, host=HOST, port=ports.tls, send_buffer=SEND_BUFFER
        )
    text = NGINX_CONFIGURATION.format(
        directory=directory,
        host=HOST,
        ports=ports,
        send_buffer=SEND_BUFFER,
        tls=tls_text,
        fields=' '.join(f'add_header {name} "{value}";' for name, value in EXTRA_FIELDS),
    )
    configuration = os.path.join(directory, 'nginx.conf')
    with open(configuration, 'w') as fh:
        fh.write(text)
    command = [nginx, '-p', directory, '-c', configuration, '-e', 'stderr']
    with _running(command, cpu) as process:
        deadline = time.monotonic() + START_LIMIT
        while True:
            try:
                socket.create_connection((HOST, ports.plain), timeout=1).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError('nginx does not start') from None
                time.sleep(0.02)
        yield ports


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return sock.getsockname()[1]


@contextlib.contextmanager
def _canned(directory: str, tls: bool, cpu: Optional[int]) -> Iterator[Ports]:
    command = [sys.executable, os.path.abspath(__file__)]
    if tls:
        command += ['--certificate', directory]
    with _running(command, cpu, stdout=subprocess.PIPE) as process:
        numbers = [int(number) for number in process.stdout.readline().split()]
        if not numbers:
            raise RuntimeError('the canned server does not start')
        yield Ports(numbers[0], numbers[1] if tls else None)


# What follows runs in the process of the canned server.


@functools.lru_cache(maxsize=None)
def response(path: str) -> bytes:
    """The whole answer to GET *path*."""
    size, chunk = OBJECTS[path]
    body = content(size)
    fields = [
        'HTTP/1.1 200 OK',
        'Server: canned/1.0',
        'Date: Tue, 14 Nov 2023 22:13:20 GMT',
        'Content-Type: application/octet-stream',
        'Transfer-Encoding: chunked' if chunk else f'Content-Length: {size}',
        'Last-Modified: Tue, 14 Nov 2023 22:13:20 GMT',
        'Connection: keep-alive',
        'ETag: "6553f0c0-400"',
        'Accept-Ranges: bytes',
        *(f'{name}: {value}' for name, value in EXTRA_FIELDS),
        '',
        '',
    ]
    parts = ['\r\n'.join(fields).encode()]
    if chunk is None:
        parts.append(body)
    else:
        for start in range(0, size, chunk):
            data = body[start : start + chunk]
            parts += [b'%x\r\n' % len(data), data, b'\r\n']
        parts.append(b'0\r\n\r\n')
    return b''.join(parts)


def answer(sock: socket.socket, context: Optional[ssl.SSLContext]) -> None:
    """Serve one connection until the client closes it."""
    with contextlib.suppress(OSError), sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is None:
            _answer(sock)
        else:
            with context.wrap_socket(sock, server_side=True) as encrypted:
                _answer(encrypted)


def _answer(sock: socket.socket) -> None:
    received = bytearray()
    while True:
        end = received.find(b'\r\n\r\n')
        while end < 0:
            data = sock.recv(65536)
            if not data:
                return
            received += data
            end = received.find(b'\r\n\r\n')
        head = bytes(received[:end]).decode('latin1')
        del received[: end + 4]
        request_line, *lines = head.split('\r\n')
        method, path, _ = request_line.split(' ')
        fields = {}
        for line in lines:
            name, _, value = line.partition(':')
            fields[name.lower()] = value.strip()
        if method == 'GET':
            sock.sendall(response(path))
        else:
            text = _receive_upload(sock, path, int(fields['content-length']), received)
            sock.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b' % (len(text), text))
        if fields.get('connection') == 'close':
            return


def _receive_upload(sock: socket.socket, path: str, size: int, received: bytearray) -> bytes:
    """Read the request body, return what to answer."""
    checksum = zlib.crc32(received)
    left = size - len(received)
    assert left >= 0, 'pipelined uploads are not supported'
    del received[:]
    buffer = memoryview(bytearray(min(left, MIB)))
    # With this flag TCP throws the data away instead of copying it.
    discard = path == DISCARD and sys.platform == 'linux' and not isinstance(sock, ssl.SSLSocket)
    flags = socket.MSG_TRUNC if discard else 0
    while left:
        got = sock.recv_into(buffer, min(left, len(buffer)), flags)
        if not got:
            raise ConnectionError('client closed')
        if path == CHECKSUM:
            checksum = zlib.crc32(buffer[:got], checksum)
        left -= got
    return upload_answer(path, size, checksum)


def upload_answer(path: str, size: int, checksum: int) -> bytes:
    """The body of the answer to an upload."""
    return b'%d %08x' % (size, checksum if path == CHECKSUM else 0)


def main() -> None:
    parser = argparse.ArgumentParser(description='The canned server; prints its port numbers.')
    parser.add_argument('--certificate', metavar='DIR', help='also listen with TLS')
    options = parser.parse_args()
    contexts: List[Optional[ssl.SSLContext]] = [None]
    if options.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            os.path.join(options.certificate, 'server.pem'),
            os.path.join(options.certificate, 'server.key'),
        )
        contexts.append(context)
    listeners = [socket.create_server((HOST, 0), backlog=1024) for _ in contexts]
    for listener in listeners:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def accept(listener, context):
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=answer, args=(sock, context), daemon=True).start()

    for listener, context in zip(listeners, contexts):
        threading.Thread(target=accept, args=(listener, context), daemon=True).start()
    print(*[listener.getsockname()[1] for listener in listeners], flush=True)
    threading.Event().wait()


if __name__ == '__main__':
    main()
