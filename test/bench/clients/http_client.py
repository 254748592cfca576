"""`http.client` of the standard library."""

import platform
from http.client import HTTPConnection, HTTPSConnection

from workloads import HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return platform.python_version()


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.conn = self.connection()
        self.connections = []

    def connection(self) -> HTTPConnection:
        server = self.server
        if server.context is None:
            return HTTPConnection(server.host, server.port)
        return HTTPSConnection(server.host, server.port, context=server.context)

    def close(self) -> None:
        self.conn.close()
        for conn in self.connections:
            conn.close()

    def get(self, count: int, task: Task) -> None:
        conn, path, expected = self.conn, task.path, task.body
        for _ in range(count):
            conn.request('GET', path)
            response = conn.getresponse()
            body = response.read()
            if (
                response.status != 200
                or response.getheader(HEADER) != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        path, expected = task.path, task.body
        for _ in range(count):
            conn = self.connection()
            conn.request('GET', path, headers={'Connection': 'close'})
            response = conn.getresponse()
            body = response.read()
            conn.close()
            if (
                response.status != 200
                or response.getheader(HEADER) != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def readall(self, count: int, task: Task) -> bytes:
        conn, path, size = self.conn, task.path, len(task.body)
        body = b''
        for _ in range(count):
            del body
            conn.request('GET', path)
            response = conn.getresponse()
            body = response.read()
            if response.status != 200 or len(body) != size:
                raise WrongAnswer(response)
        return body

    def readinto(self, count: int, task: Task) -> None:
        conn, path, size, verify = self.conn, task.path, len(task.body), task.verify
        buffer = memoryview(bytearray(READ_BUFFER))
        for _ in range(count):
            conn.request('GET', path)
            response = conn.getresponse()
            position = 0
            while True:
                got = response.readinto(buffer)
                if not got:
                    break
                if verify is not None:
                    verify(position, buffer[:got])
                position += got
            if response.status != 200 or position != size:
                raise WrongAnswer(response)

    def upload_bytes(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.conn.request('PUT', task.path, body=task.payload)
            self.check_upload(task)

    def upload_pieces(self, count: int, task: Task) -> None:
        conn, payload = self.conn, memoryview(task.payload)
        size = len(payload)
        for _ in range(count):
            conn.putrequest('PUT', task.path)
            conn.putheader('Content-Length', str(size))
            conn.endheaders()
            for start in range(0, size, WRITE_PIECE):
                conn.send(payload[start : start + WRITE_PIECE])
            self.check_upload(task)

    def upload_file(self, count: int, task: Task) -> None:
        headers = {'Content-Length': str(len(task.payload))}
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                self.conn.request('PUT', task.path, body=fh, headers=headers)
            self.check_upload(task)

    def check_upload(self, task: Task) -> None:
        response = self.conn.getresponse()
        body = response.read()
        require(response.status == 200 and body == task.body, body)

    def hold(self, count: int) -> None:
        for _ in range(count):
            conn = self.connection()
            conn.connect()
            self.connections.append(conn)

    def use(self, task: Task) -> None:
        for conn in self.connections:
            conn.request('GET', task.path)
            require(conn.getresponse().read() == task.body, task.path)
