"""Ways to run one exchange: by blocking calls, by two threads, with asyncio.

An exchange is written once, as a generator that yields `call(method, ...)` and gets the result.
"""

import asyncio
import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Generator, Iterator, List, NamedTuple, Optional, Tuple

import dugong
from dugong import ConnectionClosed

from .servers import LIMIT, HTTPConnection, Server


class Call(NamedTuple):
    method: str
    args: Tuple[Any, ...]
    options: Dict[str, Any]


def call(method: str, *args: Any, **options: Any) -> Call:
    """A call of a method of the connection."""
    return Call(method, args, options)


Exchange = Generator[Call, Any, Any]

SENDING = ('send_request', 'write', 'write_eof')


def run_blocking(conn: HTTPConnection, exchange: Exchange) -> Any:
    """Call the blocking methods."""
    result = None
    while True:
        try:
            step = exchange.send(result)
        except StopIteration as exc:
            return exc.value
        result = getattr(conn, step.method)(*step.args, **step.options)


def run_threads(conn: HTTPConnection, exchange: Exchange) -> Any:
    """Send in a second thread and read in this one, which does not wait for the other."""
    with ThreadPoolExecutor(1) as sender:
        sent: List[Future[Any]] = []
        result = None
        while True:
            try:
                step = exchange.send(result)
            except StopIteration as exc:
                reply = exc.value
                break
            method = getattr(conn, step.method)
            if step.method in SENDING:
                sent.append(sender.submit(method, *step.args, **step.options))
                result = None
            else:
                result = method(*step.args, **step.options)
        # What the sender is told of a refusal, the reader has got as the answer.
        known = [ConnectionClosed] if reply.status >= 400 else []
        for future in sent:
            with contextlib.suppress(*known):
                future.result(LIMIT)
        return reply


def run_asyncio(conn: HTTPConnection, exchange: Exchange) -> Any:
    """Await the coroutines."""

    async def run() -> Any:
        result = None
        while True:
            try:
                step = exchange.send(result)
            except StopIteration as exc:
                return exc.value
            coroutine = getattr(conn, 'co_' + step.method)(*step.args, **step.options)
            result = await asyncio.wait_for(dugong.AioFuture(coroutine), LIMIT)

    return asyncio.run(run())


DRIVERS: Dict[str, Callable[[HTTPConnection, Exchange], Any]] = {
    'blocking': run_blocking,
    'threads': run_threads,
    'asyncio': run_asyncio,
}


class Reply(NamedTuple):
    response: Any
    body: bytes

    @property
    def status(self) -> int:
        return self.response.status


def fetch(
    path: str, method: str = 'GET', fields: Optional[Dict[str, str]] = None
) -> Generator[Call, Any, Reply]:
    """The exchange of a request without a body."""
    yield call('send_request', method, path, dict(fields or {}))
    response = yield call('read_response')
    body = yield call('readall')
    return Reply(response, bytes(body))


def check_body(got: bytes, expected: bytes) -> None:
    """Compare without printing a megabyte."""
    if got != expected:
        same = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), 'all common')
        raise AssertionError(
            f'got {len(got)} bytes instead of {len(expected)}, of which {same} are the same'
        )


def ask(
    server: Server,
    conn: HTTPConnection,
    path: str,
    method: str = 'GET',
    fields: Optional[Dict[str, str]] = None,
) -> Reply:
    """Fetch *path* with blocking calls, on a new connection if the server closes each."""
    if not server.keeps_alive:
        conn.disconnect()
    return run_blocking(conn, fetch(path, method, {**server.fields, **(fields or {})}))


@contextlib.contextmanager
def background(function: Callable[[], Any]) -> Iterator[None]:
    """Run *function* in a second thread meanwhile, and raise what it raised."""
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(function)
        yield
        future.result(LIMIT)
