"""Scripted servers: a handler function gets the accepted socket and writes the exact bytes.

Each connection is handled in a thread of its own. All waits have a hard limit. What goes
wrong in a handler is kept and raised by `ScriptedServer.stop`, so that it fails the test.
"""

import contextlib
import select
import socket
import ssl
import struct
import threading
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple, Union

#: Seconds after which any wait of a server is given up.
LIMIT = 20.0

Handler = Callable[['Peer'], None]


class Request(NamedTuple):
    """A request as it arrived: *head* is the raw bytes up to and including the empty line."""

    method: str
    target: str
    fields: List[Tuple[str, str]]
    head: bytes
    body: bytes

    def field(self, name: str) -> Optional[str]:
        """Value of the only field *name*, or `None`."""
        values = [v for n, v in self.fields if n.lower() == name.lower()]
        assert len(values) <= 1, f'{name} sent {len(values)} times'
        return values[0] if values else None


def wait_for_events(sock: socket.socket, events: int) -> None:
    """Wait until the kernel reports *events* on *sock*, or that it is at its end."""
    poller = select.poll()
    poller.register(sock.fileno(), events)
    assert poller.poll(LIMIT * 1000), 'nothing happens'


class Peer:
    """The server's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._buffer = b''

    def _receive(self) -> bytes:
        data = self.sock.recv(65536)
        self._buffer += data
        return data

    def read_until(self, mark: bytes) -> bytes:
        """Read up to and including *mark*; `EOFError` if the client closes before."""
        while mark not in self._buffer:
            if not self._receive():
                raise EOFError(f'client closed after {self._buffer!r}')
        head, _, self._buffer = self._buffer.partition(mark)
        return head + mark

    def read_exactly(self, size: int) -> bytes:
        """Read *size* bytes; `EOFError` if the client closes before."""
        parts = [self._buffer[:size]]
        self._buffer = self._buffer[size:]
        missing = size - len(parts[0])
        while missing:
            data = self.sock.recv(min(missing, 1 << 20))
            if not data:
                raise EOFError(f'client closed, {missing} of {size} bytes missing')
            parts.append(data)
            missing -= len(data)
        return b''.join(parts)

    def read_to_eof(self) -> bytes:
        """Read all the client sends until it closes."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while self._receive():
                pass
        data, self._buffer = self._buffer, b''
        return data

    def read_head(self) -> Request:
        """Read the head of a request; its *body* is empty."""
        head = self.read_until(b'\r\n\r\n')
        request_line, *lines = head[:-4].decode('latin1').split('\r\n')
        method, target, _ = request_line.split(' ')
        fields = []
        for line in lines:
            name, _, value = line.partition(':')
            fields.append((name, value.strip(' \t')))
        return Request(method, target, fields, head, b'')

    def read_chunked(self) -> bytes:
        """Read a chunked body without extensions, trailer section included, return the data."""
        parts = []
        while True:
            size = int(self.read_until(b'\r\n'), 16)
            if size == 0:
                break
            parts.append(self.read_exactly(size))
            assert self.read_exactly(2) == b'\r\n'
        while self.read_until(b'\r\n') != b'\r\n':
            pass
        return b''.join(parts)

    def read_body(self, request: Request) -> Request:
        """Read the body that belongs to the head *request*."""
        if request.field('Transfer-Encoding') is not None:
            return request._replace(body=self.read_chunked())
        return request._replace(body=self.read_exactly(int(request.field('Content-Length') or 0)))

    def read_request(self) -> Request:
        """Read a request with its body. Does not answer `Expect: 100-continue`."""
        return self.read_body(self.read_head())

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def respond(
        self, body: bytes = b'', status: str = '200 OK', fields: Union[Sequence[str], str] = ()
    ) -> None:
        """Send a response with a `Content-Length` and the field lines *fields*."""
        lines = [f'HTTP/1.1 {status}', f'Content-Length: {len(body)}']
        lines.extend([fields] if isinstance(fields, str) else fields)
        self.send('\r\n'.join([*lines, '', '']).encode('latin1') + body)

    def hold(self) -> None:
        """Wait until the client has closed, without receiving what it sends."""
        # Its FIN cannot come through a full buffer, but the end of the server can.
        wait_for_events(self.sock, select.POLLRDHUP)

    def half_close(self) -> None:
        """Send FIN, go on reading."""
        self.sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close. Over TLS without close_notify; use `sock.unwrap()` to send one."""
        self.sock.close()

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
        self.sock.close()


class RawTls:
    """The server's end of TLS, with the records in the hands of the test.

    *greeting* is sent together with the last message of the handshake.
    """

    def __init__(self, peer: Peer, context: ssl.SSLContext, greeting: bytes = b'') -> None:
        self._peer = peer
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._call(self.tls.do_handshake)
        if greeting:
            self.tls.write(greeting)
        peer.send(self._out.read())

    def _call(self, function: Callable[..., Any], *args: Any) -> Any:
        while True:
            try:
                return function(*args)
            except ssl.SSLWantReadError:
                self._peer.send(self._out.read())
                data = self._peer.sock.recv(65536)
                assert data
                self._in.write(data)

    def read_request(self) -> None:
        data = b''
        while not data.endswith(b'\r\n\r\n'):
            data += self._call(self.tls.read, 65536)

    def record(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._out.read()

    def notice(self) -> bytes:
        """Return close_notify."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._out.read()


class ScriptedServer:
    """Listens on a loopback port and calls *handler* for each connection.

    A sequence of handlers serves one connection each, in the order of arrival; what comes
    after the last one is closed at once.
    """

    def __init__(
        self,
        handler: Union[Handler, Sequence[Handler]],
        ssl_context: Optional[ssl.SSLContext] = None,
        host: str = '127.0.0.1',
    ) -> None:
        self.host = host
        self.ssl_context = ssl_context
        self.errors: List[BaseException] = []
        self.connections = 0
        self._handler = handler
        self._peers: Dict[threading.Thread, socket.socket] = {}
        self._stopping = False
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name='scripted-server', daemon=True)
        self._thread.start()

    @property
    def address(self) -> Tuple[str, int]:
        return self.host, self.port

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            if self._stopping:
                sock.close()
                return
            index = self.connections
            self.connections += 1
            if callable(self._handler):
                handler = self._handler
            elif index < len(self._handler):
                handler = self._handler[index]
            else:
                sock.close()
                continue
            thread = threading.Thread(
                target=self._serve, args=(sock, handler), name=f'peer-{index}', daemon=True
            )
            self._peers[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket, handler: Handler) -> None:
        sock.settimeout(LIMIT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            if self.ssl_context is not None:
                sock = self.ssl_context.wrap_socket(
                    sock, server_side=True, suppress_ragged_eofs=True
                )
                self._peers[threading.current_thread()] = sock
            with sock:
                handler(Peer(sock))
        except BaseException as exc:
            if not self._stopping:
                self.errors.append(exc)
        finally:
            sock.close()

    def stop(self) -> None:
        """End all connections and threads; raise what a handler raised."""
        self._stopping = True
        with contextlib.suppress(OSError):
            # Wakes up the thread in accept().
            socket.create_connection(self._listener.getsockname()[:2], timeout=LIMIT).close()
        self._thread.join(LIMIT)
        self._listener.close()
        for thread, sock in list(self._peers.items()):
            if thread.is_alive():
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
            thread.join(LIMIT)
            assert not thread.is_alive(), 'a handler does not end'
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> 'ScriptedServer':
        return self

    def __exit__(self, exc_type: object, *_: object) -> None:
        try:
            self.stop()
        except BaseException:
            # The failure of the test itself says more.
            if exc_type is None:
                raise
