"""dugong: ours, the published 3.8.2, or an older commit, whichever is first on `sys.path`."""

import asyncio
import threading
import time

from workloads import AIO_CONNECTIONS, HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

import dugong
from dugong import AioFuture, BodyFollowing, HTTPConnection, StateError

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return dugong.__version__


def exchange(conn, path):
    """Coroutine: GET *path*, return the response and its body."""
    yield from conn.co_send_request('GET', path)
    response = yield from conn.co_read_response()
    return response, (yield from conn.co_readall())


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.conn = self.connection()
        self.loop = None
        self.connections = []

    def connection(self) -> HTTPConnection:
        server = self.server
        return HTTPConnection(server.host, server.port, ssl_context=server.context)

    def close(self) -> None:
        self.conn.disconnect()
        for conn in self.connections:
            conn.disconnect()
        if self.loop is not None:
            self.loop.close()

    def event_loop(self) -> asyncio.AbstractEventLoop:
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
        return self.loop

    def get(self, count: int, task: Task) -> None:
        conn, path, expected = self.conn, task.path, task.body
        for _ in range(count):
            conn.send_request('GET', path)
            response = conn.read_response()
            body = conn.readall()
            if (
                response.status != 200
                or response.headers[HEADER] != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        path, expected = task.path, task.body
        for _ in range(count):
            with self.connection() as conn:
                conn.send_request('GET', path, headers={'Connection': 'close'})
                response = conn.read_response()
                body = conn.readall()
            if (
                response.status != 200
                or response.headers[HEADER] != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def pipeline_coroutines(self, count: int, task: Task) -> None:
        conn, path, expected = self.conn, task.path, task.body

        def send():
            for _ in range(count):
                yield from conn.co_send_request('GET', path)

        def receive():
            for _ in range(count):
                response = yield from conn.co_read_response()
                body = yield from conn.co_readall()
                if (
                    response.status != 200
                    or response.headers[HEADER] != HEADER_VALUE
                    or body != expected
                ):
                    raise WrongAnswer(response)

        async def both():
            await asyncio.gather(AioFuture(send()), AioFuture(receive()))

        self.event_loop().run_until_complete(both())

    def pipeline_threads(self, count: int, task: Task) -> None:
        conn, path, expected = self.conn, task.path, task.body

        def send():
            for _ in range(count):
                conn.send_request('GET', path)

        sender = threading.Thread(target=send)
        sender.start()
        for _ in range(count):
            while True:
                try:
                    response = conn.read_response()
                    break
                except StateError:
                    # In 3.8.2 a reader that gets ahead of the sender has to try again.
                    if not sender.is_alive() and not conn.response_pending():
                        raise
                    time.sleep(0)
            body = conn.readall()
            if (
                response.status != 200
                or response.headers[HEADER] != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)
        sender.join()

    def aio(self, count: int, task: Task) -> None:
        path, expected = task.path, task.body
        while len(self.connections) < AIO_CONNECTIONS:
            self.connections.append(self.connection())

        def work(conn, share):
            for _ in range(share):
                response, body = yield from exchange(conn, path)
                if (
                    response.status != 200
                    or response.headers[HEADER] != HEADER_VALUE
                    or body != expected
                ):
                    raise WrongAnswer(response)

        async def work_all():
            share = count // AIO_CONNECTIONS
            await asyncio.gather(*[AioFuture(work(conn, share)) for conn in self.connections])

        self.event_loop().run_until_complete(work_all())

    def readall(self, count: int, task: Task) -> bytes:
        conn, path, size = self.conn, task.path, len(task.body)
        body = b''
        for _ in range(count):
            del body
            conn.send_request('GET', path)
            response = conn.read_response()
            body = conn.readall()
            if response.status != 200 or len(body) != size:
                raise WrongAnswer(response)
        return body

    def readinto(self, count: int, task: Task) -> None:
        conn, path, size, verify = self.conn, task.path, len(task.body), task.verify
        buffer = memoryview(bytearray(READ_BUFFER))
        for _ in range(count):
            conn.send_request('GET', path)
            response = conn.read_response()
            position = 0
            while True:
                got = conn.readinto(buffer)
                if not got:
                    break
                if verify is not None:
                    verify(position, buffer[:got])
                position += got
            if response.status != 200 or position != size:
                raise WrongAnswer(response)

    def upload_bytes(self, count: int, task: Task) -> None:
        conn = self.conn
        # A checksum given by the caller is not computed: no other library computes one.
        headers = {'Content-MD5': task.payload_md5}
        for _ in range(count):
            conn.send_request('PUT', task.path, headers=headers, body=task.payload)
            self.check_upload(task)

    def upload_pieces(self, count: int, task: Task) -> None:
        conn, payload = self.conn, memoryview(task.payload)
        size = len(payload)
        for _ in range(count):
            conn.send_request('PUT', task.path, body=BodyFollowing(size))
            for start in range(0, size, WRITE_PIECE):
                conn.write(payload[start : start + WRITE_PIECE])
            self.check_upload(task)

    def upload_file(self, count: int, task: Task) -> None:
        conn = self.conn
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                try:
                    conn.send_request('PUT', task.path, body=fh)
                except TypeError:
                    # Versions that take no streams: nothing has been sent yet.
                    conn.send_request('PUT', task.path, body=BodyFollowing(len(task.payload)))
                    for piece in iter(lambda: fh.read(WRITE_PIECE), b''):
                        conn.write(piece)
            self.check_upload(task)

    def check_upload(self, task: Task) -> None:
        response = self.conn.read_response()
        body = self.conn.readall()
        require(response.status == 200 and body == task.body, body)

    def hold(self, count: int) -> None:
        for _ in range(count):
            conn = self.connection()
            conn.connect()
            self.connections.append(conn)

    def use(self, task: Task) -> None:
        for conn in self.connections:
            conn.send_request('GET', task.path)
            conn.read_response()
            require(conn.readall() == task.body, task.path)
