"""httpx: one client, and one asynchronous client for the asyncio workloads."""

import asyncio

import httpx
from workloads import AIO_CONNECTIONS, HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return httpx.__version__


class Client:
    def __init__(self, server: Server) -> None:
        self.url = server.url
        # Without TLS a context would be built for nothing.
        self.verify = False if server.context is None else server.context
        self.client = httpx.Client(verify=self.verify)
        self.loop = None
        self.async_client = None

    def close(self) -> None:
        self.client.close()
        if self.loop is not None:
            self.loop.run_until_complete(self.async_client.aclose())
            self.loop.close()

    def get(self, count: int, task: Task, headers=None) -> None:
        client, url, expected = self.client, self.url + task.path, task.body
        for _ in range(count):
            response = client.get(url, headers=headers)
            if (
                response.status_code != 200
                or response.headers[HEADER] != HEADER_VALUE
                or response.content != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        self.get(count, task, headers={'Connection': 'close'})

    def aio(self, count: int, task: Task) -> None:
        url, expected = self.url + task.path, task.body
        if self.loop is None:
            self.loop = asyncio.new_event_loop()
            limits = httpx.Limits(
                max_connections=AIO_CONNECTIONS, max_keepalive_connections=AIO_CONNECTIONS
            )
            self.async_client = httpx.AsyncClient(verify=self.verify, limits=limits)
        client = self.async_client

        async def work(share):
            for _ in range(share):
                response = await client.get(url)
                if (
                    response.status_code != 200
                    or response.headers[HEADER] != HEADER_VALUE
                    or response.content != expected
                ):
                    raise WrongAnswer(response)

        async def work_all():
            share = count // AIO_CONNECTIONS
            await asyncio.gather(*[work(share) for _ in range(AIO_CONNECTIONS)])

        self.loop.run_until_complete(work_all())

    def readall(self, count: int, task: Task) -> bytes:
        client, url, size = self.client, self.url + task.path, len(task.body)
        response = None
        for _ in range(count):
            del response
            response = client.get(url)
            if response.status_code != 200 or len(response.content) != size:
                raise WrongAnswer(response)
        return response.content

    def readinto(self, count: int, task: Task) -> None:
        client, url, size = self.client, self.url + task.path, len(task.body)
        verify = task.verify
        for _ in range(count):
            position = 0
            with client.stream('GET', url) as response:
                for piece in response.iter_bytes(READ_BUFFER):
                    if verify is not None:
                        verify(position, memoryview(piece))
                    position += len(piece)
            if response.status_code != 200 or position != size:
                raise WrongAnswer(response)

    def upload(self, task: Task, body) -> None:
        headers = {'Content-Length': str(len(task.payload))}
        response = self.client.put(self.url + task.path, content=body, headers=headers)
        require(response.status_code == 200 and response.content == task.body, response)

    def upload_bytes(self, count: int, task: Task) -> None:
        for _ in range(count):
            self.upload(task, task.payload)

    def upload_pieces(self, count: int, task: Task) -> None:
        payload = memoryview(task.payload)
        size = len(payload)
        for _ in range(count):
            pieces = (bytes(payload[i : i + WRITE_PIECE]) for i in range(0, size, WRITE_PIECE))
            self.upload(task, pieces)

    def upload_file(self, count: int, task: Task) -> None:
        for _ in range(count):
            with open(task.payload_file, 'rb') as fh:
                self.upload(task, fh)
