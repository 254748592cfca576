"""h11 with a plain blocking socket."""

import socket

import h11
from workloads import HEADER, HEADER_VALUE, WRITE_PIECE

from . import Server, Task, WrongAnswer, require

RECEIVE = 64 * 1024


def version() -> str:
    return h11.__version__


class Connection:
    """A socket and the state machine that belongs to it."""

    def __init__(self, server: Server) -> None:
        self.host = f'{server.host}:{server.port}'
        self.sock = socket.create_connection((server.host, server.port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.context is not None:
            self.sock = server.context.wrap_socket(self.sock, server_hostname=server.host)
        self.state = h11.Connection(h11.CLIENT)

    def request(self, method: str, path: str, fields=()) -> None:
        state = self.state
        head = state.send(
            h11.Request(method=method, target=path, headers=[('Host', self.host), *fields])
        )
        if method == 'GET':
            head += state.send(h11.EndOfMessage())
        self.sock.sendall(head)

    def event(self):
        state = self.state
        event = state.next_event()
        while event is h11.NEED_DATA:
            state.receive_data(self.sock.recv(RECEIVE))
            event = state.next_event()
        return event

    def response(self):
        """Read a response, return it and its body."""
        response = self.event()
        parts = []
        for event in iter(self.event, None):
            if type(event) is h11.EndOfMessage:
                break
            parts.append(event.data)
        if self.state.our_state is h11.DONE:
            self.state.start_next_cycle()
        return response, b''.join(parts)


def header(response, name: bytes):
    for key, value in response.headers:
        if key == name:
            return value
    return None


class Client:
    NAME = HEADER.lower().encode()
    VALUE = HEADER_VALUE.encode()

    def __init__(self, server: Server) -> None:
        self.server = server
        self._conn = None
        self.connections = []

    @property
    def conn(self) -> Connection:
        if self._conn is None:
            self._conn = Connection(self.server)
        return self._conn

    def close(self) -> None:
        for conn in [self._conn, *self.connections]:
            if conn is not None:
                conn.sock.close()

    def get(self, count: int, task: Task) -> None:
        conn, path, expected = self.conn, task.path, task.body
        for _ in range(count):
            conn.request('GET', path)
            response, body = conn.response()
            if (
                response.status_code != 200
                or header(response, self.NAME) != self.VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        path, expected = task.path, task.body
        for _ in range(count):
            conn = Connection(self.server)
            conn.request('GET', path, [('Connection', 'close')])
            response, body = conn.response()
            conn.sock.close()
            if (
                response.status_code != 200
                or header(response, self.NAME) != self.VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def readall(self, count: int, task: Task) -> bytes:
        conn, path, size = self.conn, task.path, len(task.body)
        body = b''
        for _ in range(count):
            del body
            conn.request('GET', path)
            response, body = conn.response()
            if response.status_code != 200 or len(body) != size:
                raise WrongAnswer(response)
        return body

    def readinto(self, count: int, task: Task) -> None:
        conn, path, size, verify = self.conn, task.path, len(task.body), task.verify
        for _ in range(count):
            conn.request('GET', path)
            response = conn.event()
            position = 0
            while True:
                event = conn.event()
                if type(event) is h11.EndOfMessage:
                    break
                if verify is not None:
                    verify(position, memoryview(event.data))
                position += len(event.data)
            conn.state.start_next_cycle()
            if response.status_code != 200 or position != size:
                raise WrongAnswer(response)

    def upload(self, task: Task, pieces) -> None:
        conn = self.conn
        conn.request('PUT', task.path, [('Content-Length', str(len(task.payload)))])
        for piece in pieces:
            # Hands a piece back as it is, where `send` would copy it.
            for part in conn.state.send_with_data_passthrough(h11.Data(data=piece)):
                conn.sock.sendall(part)
        conn.state.send(h11.EndOfMessage())
        response, body = conn.response()
        require(response.status_code == 200 and body == task.body, body)

    def upload_bytes(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.upload(task, [task.payload])

    def upload_pieces(self, count: int, task: Task) -> None:
        payload = memoryview(task.payload)
        size = len(payload)
        for _ in range(count):
            pieces = (payload[i : i + WRITE_PIECE] for i in range(0, size, WRITE_PIECE))
            self.upload(task, pieces)

    def upload_file(self, count: int, task: Task) -> None:
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                self.upload(task, iter(lambda: fh.read(WRITE_PIECE), b''))

    def hold(self, count: int) -> None:
        self.connections.extend(Connection(self.server) for _ in range(count))

    def use(self, task: Task) -> None:
        for conn in self.connections:
            conn.request('GET', task.path)
            require(conn.response()[1] == task.body, task.path)
