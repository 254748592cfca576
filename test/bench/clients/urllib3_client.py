"""urllib3: one pool with one connection, kept alive."""

import urllib3
from workloads import HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return urllib3.__version__


class Client:
    def __init__(self, server: Server) -> None:
        if server.context is None:
            self.pool = urllib3.HTTPConnectionPool(server.host, server.port, maxsize=1)
        else:
            self.pool = urllib3.HTTPSConnectionPool(
                server.host, server.port, maxsize=1, ssl_context=server.context
            )

    def close(self) -> None:
        self.pool.close()

    def get(self, count: int, task: Task, headers=None) -> None:
        pool, path, expected = self.pool, task.path, task.body
        for _ in range(count):
            response = pool.request('GET', path, headers=headers)
            if (
                response.status != 200
                or response.headers[HEADER] != HEADER_VALUE
                or response.data != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        self.get(count, task, headers={'Connection': 'close'})

    def readall(self, count: int, task: Task) -> bytes:
        pool, path, size = self.pool, task.path, len(task.body)
        response = None
        for _ in range(count):
            del response
            response = pool.request('GET', path)
            if response.status != 200 or len(response.data) != size:
                raise WrongAnswer(response)
        return response.data

    def readinto(self, count: int, task: Task) -> None:
        pool, path, size, verify = self.pool, task.path, len(task.body), task.verify
        for _ in range(count):
            response = pool.request('GET', path, preload_content=False)
            position = 0
            for piece in response.stream(READ_BUFFER):
                if verify is not None:
                    verify(position, memoryview(piece))
                position += len(piece)
            response.release_conn()
            if response.status != 200 or position != size:
                raise WrongAnswer(response)

    def upload(self, task: Task, body, headers=None) -> None:
        response = self.pool.request('PUT', task.path, body=body, headers=headers)
        require(response.status == 200 and response.data == task.body, response.data)

    def upload_bytes(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.upload(task, task.payload)

    def upload_pieces(self, count: int, task: Task) -> None:
        payload = memoryview(task.payload)
        size = len(payload)
        headers = {'Content-Length': str(size)}
        for _ in range(count):
            pieces = (payload[i : i + WRITE_PIECE] for i in range(0, size, WRITE_PIECE))
            self.upload(task, pieces, headers)

    def upload_file(self, count: int, task: Task) -> None:
        headers = {'Content-Length': str(len(task.payload))}
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                self.upload(task, fh, headers)
