"""requests: one session."""

import requests
from workloads import HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return requests.__version__


class Pieces:
    """An iterable with a length, which requests sends with Content-Length."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload

    def __len__(self) -> int:
        return len(self.payload)

    def __iter__(self):
        view = memoryview(self.payload)
        return (view[i : i + WRITE_PIECE] for i in range(0, len(view), WRITE_PIECE))


class Client:
    def __init__(self, server: Server) -> None:
        self.url = server.url
        self.session = requests.Session()
        if server.authority is not None:
            self.session.verify = server.authority

    def close(self) -> None:
        self.session.close()

    def get(self, count: int, task: Task, headers=None) -> None:
        session, url, expected = self.session, self.url + task.path, task.body
        for _ in range(count):
            response = session.get(url, headers=headers)
            if (
                response.status_code != 200
                or response.headers[HEADER] != HEADER_VALUE
                or response.content != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        self.get(count, task, headers={'Connection': 'close'})

    def readall(self, count: int, task: Task) -> bytes:
        session, url, size = self.session, self.url + task.path, len(task.body)
        response = None
        for _ in range(count):
            del response
            response = session.get(url)
            if response.status_code != 200 or len(response.content) != size:
                raise WrongAnswer(response)
        return response.content

    def readinto(self, count: int, task: Task) -> None:
        session, url, size = self.session, self.url + task.path, len(task.body)
        verify = task.verify
        for _ in range(count):
            position = 0
            with session.get(url, stream=True) as response:
                for piece in response.iter_content(READ_BUFFER):
                    if verify is not None:
                        verify(position, memoryview(piece))
                    position += len(piece)
            if response.status_code != 200 or position != size:
                raise WrongAnswer(response)

    def upload(self, task: Task, body) -> None:
        response = self.session.put(self.url + task.path, data=body)
        require(response.status_code == 200 and response.content == task.body, response)

    def upload_bytes(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.upload(task, task.payload)

    def upload_pieces(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.upload(task, Pieces(task.payload))

    def upload_file(self, count: int, task: Task) -> None:
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                self.upload(task, fh)
