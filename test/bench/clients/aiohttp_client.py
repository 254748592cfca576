"""aiohttp: one session; the loop runs once per call, not once per request."""

import asyncio

import aiohttp
from workloads import AIO_CONNECTIONS, HEADER, HEADER_VALUE, READ_BUFFER, WRITE_PIECE

from . import Server, Task, WrongAnswer, require


def version() -> str:
    return aiohttp.__version__


class Client:
    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.url
        self.loop = asyncio.new_event_loop()
        self.session = self.loop.run_until_complete(self.new_session())

    async def new_session(self, **options) -> aiohttp.ClientSession:
        if self.server.context is not None:
            options['ssl'] = self.server.context
        connector = aiohttp.TCPConnector(limit=AIO_CONNECTIONS, **options)
        return aiohttp.ClientSession(connector=connector)

    def close(self) -> None:
        self.loop.run_until_complete(self.session.close())
        # Lets closed TLS transports say goodbye before the loop is closed.
        self.loop.run_until_complete(asyncio.sleep(0.01))
        self.loop.close()

    def get(self, count: int, task: Task) -> None:
        self.loop.run_until_complete(self.work(self.session, count, task))

    async def work(self, session, count: int, task: Task) -> None:
        url, expected = self.url + task.path, task.body
        for _ in range(count):
            async with session.get(url) as response:
                body = await response.read()
            if (
                response.status != 200
                or response.headers[HEADER] != HEADER_VALUE
                or body != expected
            ):
                raise WrongAnswer(response)

    def connect(self, count: int, task: Task) -> None:
        async def run():
            async with await self.new_session(force_close=True) as session:
                await self.work(session, count, task)

        self.loop.run_until_complete(run())

    def aio(self, count: int, task: Task) -> None:
        async def work_all():
            share = count // AIO_CONNECTIONS
            await asyncio.gather(
                *[self.work(self.session, share, task) for _ in range(AIO_CONNECTIONS)]
            )

        self.loop.run_until_complete(work_all())

    def readall(self, count: int, task: Task) -> bytes:
        async def run():
            url, size = self.url + task.path, len(task.body)
            response = body = None
            for _ in range(count):
                # The response keeps its body, so both are let go before the next one.
                del response, body
                async with self.session.get(url) as response:
                    body = await response.read()
                if response.status != 200 or len(body) != size:
                    raise WrongAnswer(response)
            return body

        return self.loop.run_until_complete(run())

    def readinto(self, count: int, task: Task) -> None:
        async def run():
            url, size, verify = self.url + task.path, len(task.body), task.verify
            for _ in range(count):
                position = 0
                async with self.session.get(url) as response:
                    async for piece in response.content.iter_chunked(READ_BUFFER):
                        if verify is not None:
                            verify(position, memoryview(piece))
                        position += len(piece)
                if response.status != 200 or position != size:
                    raise WrongAnswer(response)

        self.loop.run_until_complete(run())

    async def upload(self, task: Task, body) -> None:
        headers = {'Content-Length': str(len(task.payload))}
        async with self.session.put(self.url + task.path, data=body, headers=headers) as response:
            answer = await response.read()
        require(response.status == 200 and answer == task.body, answer)

    def upload_bytes(self, count: int, task: Task) -> None:
        async def run():
            for _ in range(count):
                await self.upload(task, task.payload)

        self.loop.run_until_complete(run())

    def upload_pieces(self, count: int, task: Task) -> None:
        payload = memoryview(task.payload)

        async def pieces():
            for start in range(0, len(payload), WRITE_PIECE):
                yield payload[start : start + WRITE_PIECE]

        async def run():
            for _ in range(count):
                await self.upload(task, pieces())

        self.loop.run_until_complete(run())

    def upload_file(self, count: int, task: Task) -> None:
        async def run():
            for _ in range(count):
                with open(task.payload_file, 'rb') as fh:
                    await self.upload(task, fh)

        self.loop.run_until_complete(run())
