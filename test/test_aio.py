"""`AioFuture`: good asyncio on asyncio's own event loop and on uvloop."""

import asyncio
import contextlib
import gc
import inspect
import itertools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, Iterator, List, Optional, Tuple, Type

import pytest
from servers import LIMIT, Peer
from waiting_support import (
    AIO_DRIVERS,
    REPLY,
    Asyncio,
    CountingSelector,
    Crt,
    Thread,
    answer_all,
    black_hole,
    driver_params,
    interrupts,
    needs_proc,
    nothing_left,
    resolve_to,
    set_small_buffer,
)

from dugong import (
    POLLIN,
    POLLOUT,
    AioFuture,
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    HTTPConnection,
    PollNeeded,
    StateError,
)
from dugong._poll import Looks

Pair = Tuple[socket.socket, socket.socket]
Main = Callable[[], Awaitable[Any]]


class Boom(Exception):
    pass


class Runner:
    """Runs `async` functions, each on a new event loop, with a limit; nothing may go wrong."""

    def __init__(self, driver: Asyncio) -> None:
        self._driver = driver
        self.problems: List[Dict[str, Any]] = []

    def __call__(self, main: Main, loop: Optional[asyncio.AbstractEventLoop] = None) -> Any:
        loop = loop or self._driver.new_loop()
        loop.set_exception_handler(lambda loop, context: self.problems.append(context))
        try:
            return loop.run_until_complete(asyncio.wait_for(main(), LIMIT))
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()


@pytest.fixture(params=driver_params(AIO_DRIVERS))
def run(request: pytest.FixtureRequest) -> Iterator[Runner]:
    runner = Runner(request.param)
    yield runner
    gc.collect()
    assert runner.problems == []


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.setblocking(False)
        yield ours, theirs


@pytest.fixture
def full() -> Iterator[Pair]:
    """A TCP connection on which nothing more can be sent."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), LIMIT)
        theirs, _ = listener.accept()
    with ours, theirs:
        ours.setblocking(False)
        fill(ours)
        yield ours, theirs


class Waiting:
    """A coroutine that waits for a socket, and tells how it ended."""

    def __init__(self, sock: socket.socket, mask: int = POLLIN) -> None:
        self.ended_by: Optional[str] = None
        self.crt = self._run(sock.fileno(), mask)

    def _run(self, fd: int, mask: int) -> 'Crt[str]':
        try:
            yield PollNeeded(fd, mask)
        except BaseException as exc:
            self.ended_by = type(exc).__name__
            raise
        self.ended_by = 'readiness'
        return 'result'


def immediate(result: Any = None) -> 'Crt[Any]':
    return result
    yield


async def get(conn: HTTPConnection, path: str = '/') -> bytes:
    await AioFuture(conn.co_send_request('GET', path))
    response = await AioFuture(conn.co_read_response())
    assert response.status == 200
    return await AioFuture(conn.co_readall())


def never_answer(peer: Peer) -> None:
    peer.read_to_eof()


# It is a future


def test_it_is_a_future(run: Runner) -> None:
    async def main() -> None:
        future = AioFuture(immediate(3))
        assert isinstance(future, asyncio.Future)
        assert asyncio.isfuture(future)
        assert inspect.isawaitable(future)
        assert asyncio.ensure_future(future) is future
        assert future.get_loop() is asyncio.get_running_loop()
        assert await future == 3

    run(main)


def test_request_in_an_async_function(run: Runner, connect: Any, transport: str) -> None:
    conn = connect(answer_all())

    async def main() -> None:
        assert await get(conn) == b'hello'

    run(main)


@pytest.mark.parametrize('wait_first', [False, True])
def test_exception_of_the_coroutine(run: Runner, pair: Pair, wait_first: bool) -> None:
    def crt() -> 'Crt[None]':
        if wait_first:
            yield PollNeeded(pair[0].fileno(), POLLOUT)
        raise Boom('x')

    async def main() -> None:
        with pytest.raises(Boom):
            await AioFuture(crt())

    run(main)


def test_coroutine_runs_on_without_being_awaited(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> None:
        # Nobody but the event loop refers to it.
        AioFuture(waiting.crt)
        gc.collect()
        pair[1].send(b'x')
        await turns()
        assert waiting.ended_by == 'readiness'

    run(main)


async def turns(number: int = 5) -> None:
    """Let the event loop do what there is to do."""
    for _ in range(number):
        # uvloop looks at descriptors only when it has nothing else to do.
        await asyncio.sleep(0.001)


def test_futures_start_in_the_order_in_which_they_were_made(run: Runner) -> None:
    """A reader must find the request of the sender that was made before it."""
    started: List[int] = []

    def crt(number: int) -> 'Crt[int]':
        started.append(number)
        return number
        yield

    async def main() -> None:
        futures = []
        for number in range(1000):
            futures.append(AioFuture(crt(number)))
            assert started == list(range(number + 1))
        assert await asyncio.gather(*futures) == started

    run(main)


@pytest.mark.parametrize('waits', [False, True])
def test_loop_argument_outside_of_the_loop(pair: Pair, waits: bool) -> None:
    """As in programs from before `asyncio.run`."""
    for driver in AIO_DRIVERS:
        if not driver.available():
            continue
        loop = driver.new_loop()
        try:
            crt = Waiting(pair[0], POLLOUT).crt if waits else immediate('result')
            assert loop.run_until_complete(AioFuture(crt, loop=loop)) == 'result'
            crt = Waiting(pair[0], POLLOUT).crt if waits else immediate('result')
            assert loop.run_until_complete(AioFuture(crt, loop)) == 'result'
        finally:
            loop.close()


def test_loop_that_is_stopped_and_started(run: Runner, pair: Pair) -> None:
    loop = asyncio.new_event_loop()
    try:
        future = AioFuture(Waiting(pair[0]).crt, loop)
        loop.run_until_complete(asyncio.sleep(0))
        pair[1].send(b'x')
        assert loop.run_until_complete(future) == 'result'
    finally:
        loop.close()


def test_asyncio_run(connect: Any, transport: str) -> None:
    conn = connect(answer_all())
    assert asyncio.run(get(conn)) == b'hello'
    # Another loop, the same connection.
    assert asyncio.run(get(conn)) == b'hello'


@pytest.mark.slow
def test_no_warning_whatsoever(connect: Any) -> None:
    """A program in development mode, with all warnings as errors."""
    conn = connect(answer_all())
    program = f"""
import asyncio
from dugong import AioFuture, HTTPConnection

async def main():
    with HTTPConnection({conn.hostname!r}, {conn.port}) as conn:
        await AioFuture(conn.co_send_request('GET', '/'), timeout=20)
        assert (await AioFuture(conn.co_read_response())).status == 200
        print(bytes(await AioFuture(conn.co_readall())).decode())

asyncio.run(main())
loop = asyncio.new_event_loop()
conn = HTTPConnection({conn.hostname!r}, {conn.port})
loop.run_until_complete(AioFuture(conn.co_connect(), loop=loop))
conn.disconnect()
loop.close()
"""
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).resolve().parent.parent)}
    process = subprocess.run(
        [sys.executable, '-X', 'dev', '-W', 'error', '-c', program],
        capture_output=True,
        env=environment,
        timeout=LIMIT + 10,
    )
    assert (process.stdout, process.stderr, process.returncode) == (b'hello\n', b'', 0)


# What asyncio has to combine futures


def test_gather(run: Runner, serve: Any, transport: str, connect: Any) -> None:
    server = serve(answer_all())
    connections = [connect(server) for _ in range(10)]

    async def main() -> None:
        assert await asyncio.gather(*(get(conn) for conn in connections)) == [b'hello'] * 10
        await asyncio.gather(*(AioFuture(c.co_send_request('GET', '/')) for c in connections))
        responses = await asyncio.gather(*(AioFuture(c.co_read_response()) for c in connections))
        assert [response.status for response in responses] == [200] * 10

    run(main)


def test_wait_and_as_completed(run: Runner, pair: Pair) -> None:
    async def main() -> None:
        slow = AioFuture(Waiting(pair[0]).crt)
        done, pending = await asyncio.wait([AioFuture(immediate()), slow], timeout=0.01)
        assert pending == {slow} and len(done) == 1
        pair[1].send(b'x')
        for future in asyncio.as_completed([slow]):
            assert await future == 'result'

    run(main)


def test_shield(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> None:
        future = AioFuture(waiting.crt)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.shield(future), 0.01)
        assert waiting.ended_by is None
        pair[1].send(b'x')
        assert await future == 'result'

    run(main)


def test_wait_for(run: Runner, connect: Any, transport: str) -> None:
    conn = connect(never_answer)

    async def main() -> None:
        await AioFuture(conn.co_send_request('GET', '/'))
        for _ in range(2):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(AioFuture(conn.co_read_response()), 0.02)
        assert conn.response_pending()

    run(main)


def test_wait_for_what_breaks_the_connection(run: Runner, connect: Any, transport: str) -> None:
    conn = connect(lambda peer: peer.send(b'') or peer.hold())
    conn.connect()
    set_small_buffer(conn._sock)

    async def main() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(
                AioFuture(conn.co_send_request('PUT', '/', body=bytes(1_000_000))), 0.02
            )
        with pytest.raises(ConnectionClosed):
            await AioFuture(conn.co_read_response())

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason='needs asyncio.TaskGroup')
def test_task_group(run: Runner, pair: Pair, connect: Any, transport: str) -> None:
    conn = connect(answer_all())
    waiting = Waiting(pair[0])

    async def wait() -> None:
        await AioFuture(waiting.crt)

    async def fail() -> None:
        assert await get(conn) == b'hello'
        raise Boom

    async def main() -> None:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(wait())
                group.create_task(fail())
        except BaseException as exc:
            assert [type(e) for e in exc.exceptions] == [Boom]
        # The others were cancelled.
        assert waiting.ended_by == 'GeneratorExit'

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 11), reason='needs asyncio.timeout')
def test_timeout_context(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await AioFuture(waiting.crt)
        assert waiting.ended_by == 'GeneratorExit'

    run(main)


def test_sender_and_reader(run: Runner, connect: Any, transport: str) -> None:
    conn = connect(answer_all())
    number = 500

    async def send() -> None:
        for _ in range(number):
            await AioFuture(conn.co_send_request('GET', '/'))

    async def main() -> None:
        sender = asyncio.ensure_future(send())
        for _ in range(number):
            while not conn.response_pending():
                await asyncio.sleep(0)
            assert (await AioFuture(conn.co_read_response())).status == 200
            assert await AioFuture(conn.co_readall()) == b'hello'
        await sender

    run(main)


def test_two_readers(run: Runner, connect: Any, transport: str) -> None:
    go = threading.Event()

    def handle(peer: Peer) -> None:
        peer.read_request()
        assert go.wait(LIMIT)
        peer.send(REPLY)
        peer.read_to_eof()

    conn = connect(handle)

    async def main() -> None:
        await AioFuture(conn.co_send_request('GET', '/'))
        first = AioFuture(conn.co_read_response())
        with pytest.raises(StateError):
            await AioFuture(conn.co_read_response())
        go.set()
        assert (await first).status == 200
        assert await AioFuture(conn.co_readall()) == b'hello'

    run(main)


# Cancelling


def test_cancel_closes_the_coroutine_at_once(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> None:
        future = AioFuture(waiting.crt)
        assert future.cancel()
        assert waiting.ended_by == 'GeneratorExit'
        assert future.cancelled()
        assert not future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await future

    run(main)


def test_cancelled_task_closes_the_coroutine(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def work() -> None:
        await AioFuture(waiting.crt)

    async def main() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert waiting.ended_by == 'GeneratorExit'

    run(main)


def test_cancel_of_what_is_done(run: Runner) -> None:
    async def main() -> None:
        future = AioFuture(immediate(1))
        assert not future.cancel()
        assert await future == 1

    run(main)


@pytest.mark.parametrize('turns_later', range(6))
def test_task_that_is_cancelled_when_its_data_are_there_loses_nothing(
    run: Runner, pair: Pair, turns_later: int
) -> None:
    ours, theirs = pair

    def receive() -> 'Crt[bytes]':
        yield PollNeeded(ours.fileno(), POLLIN)
        return ours.recv(1)

    async def main() -> None:
        async def wait() -> bytes:
            return await AioFuture(receive())

        def cancel(turns_left: int) -> None:
            if turns_left:
                loop.call_soon(cancel, turns_left - 1)
            else:
                task.cancel()

        loop = asyncio.get_running_loop()
        task = loop.create_task(wait())
        await turns()
        theirs.send(b'x')
        cancel(turns_later)
        try:
            assert await task == b'x'
        except asyncio.CancelledError:
            assert await asyncio.wait_for(AioFuture(receive()), LIMIT) == b'x'

    run(main)


@pytest.mark.parametrize('woken', [False, True])
def test_future_goes_on_when_the_task_that_awaits_it_is_destroyed(
    run: Runner, pair: Pair, woken: bool
) -> None:
    async def main() -> None:
        future = AioFuture(Waiting(pair[0]).crt)
        await turns()
        task = future.__await__()
        next(task)
        if woken:
            pair[1].send(b'x')
            await turns()
            assert not future.done()
        task.close()
        pair[1].send(b'x')
        await turns()
        assert future.result() == 'result'

    run(main)


def test_future_times_out_when_the_task_that_awaits_it_is_destroyed(
    run: Runner, pair: Pair
) -> None:
    async def main() -> None:
        timeout = 0.1
        future = AioFuture(Waiting(pair[0]).crt, timeout=timeout)
        task = future.__await__()
        waker = next(task)
        waker._asyncio_future_blocking = False
        await asyncio.wait_for(waker, LIMIT)
        task.close()
        # Long before it could be timed out anew.
        await turns(2)
        assert isinstance(future.exception(), ConnectionTimedOut)

    run(main)


def test_future_is_awaited_twice_before_either_waits(run: Runner, pair: Pair) -> None:
    async def main() -> None:
        future = AioFuture(Waiting(pair[0]).crt)
        both = [future.__await__(), future.__await__()]
        for one in both:
            next(one)
        pair[1].send(b'x')
        await turns()
        for one in both:
            with pytest.raises(StopIteration) as caught:
                next(one)
            assert caught.value.value == 'result'

    run(main)


def test_several_tasks_await_the_same_future(run: Runner, pair: Pair) -> None:
    async def main() -> None:
        async def wait() -> str:
            return await future

        future = AioFuture(Waiting(pair[0]).crt)
        tasks = [asyncio.ensure_future(wait()) for _ in range(3)]
        await turns()
        pair[1].send(b'x')
        assert await asyncio.gather(*tasks) == 3 * ['result']

    run(main)


@pytest.mark.skipif(sys.version_info < (3, 9), reason='needs messages of cancel()')
def test_cancel_message(run: Runner, pair: Pair) -> None:
    async def main() -> None:
        future = AioFuture(Waiting(pair[0]).crt)
        future.cancel('reason')
        with pytest.raises(asyncio.CancelledError):
            await future

    run(main)


@pytest.mark.parametrize('when', ['first', 'later'])
@pytest.mark.parametrize('then', ['waits', 'returns', 'raises'])
def test_cancel_from_within(run: Runner, pair: Pair, when: str, then: str) -> None:
    """By a signal handler, or by something the coroutine calls."""
    ended = []
    futures: List[Any] = []

    def crt() -> 'Crt[str]':
        try:
            if when == 'later':
                yield PollNeeded(pair[0].fileno(), POLLOUT)
            cancel()
            if then == 'waits':
                yield PollNeeded(pair[0].fileno(), POLLIN)
            elif then == 'raises':
                raise Boom
            return 'result'
        finally:
            ended.append(True)

    def cancel() -> None:
        # The future of the first step is not known yet to those who made it, but to the loop.
        (future,) = futures or [o for o in gc.get_objects() if type(o) is AioFuture]
        future.cancel()

    async def main() -> None:
        gc.collect()
        future = AioFuture(crt())
        futures.append(future)
        if then == 'returns':
            # It may be something that was received, and be lost else.
            assert await asyncio.wait_for(future, LIMIT) == 'result'
        else:
            with pytest.raises(Boom if then == 'raises' else asyncio.CancelledError):
                await asyncio.wait_for(future, LIMIT)
        assert ended == [True]

    run(main)


def test_loop_that_cannot_watch_a_descriptor_is_named(pair: Pair) -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, *args: Any) -> Any:
            raise NotImplementedError

    loop = Proactor()

    def crt() -> 'Crt[None]':
        yield PollNeeded(pair[0].fileno(), POLLIN)

    with contextlib.closing(loop):
        with pytest.raises(NotImplementedError, match='Proactor cannot watch a descriptor'):
            loop.run_until_complete(AioFuture(crt(), loop))


@pytest.mark.parametrize('waits', [True, False])
def test_cancel_by_a_signal_handler_at_any_moment(
    looking: None, run: Runner, pair: Pair, waits: bool
) -> None:
    """The bridge is hit at each of its lines in turn."""
    file = AioFuture.cancel.__code__.co_filename
    ours, theirs = pair
    fd = ours.fileno()
    trace_before = sys.gettrace()
    ran: List[str] = []
    results: List[str] = []
    lines = number = 0
    future: Any = None

    def trace(frame: Any, event: str, _: Any) -> Any:
        code = frame.f_code
        known = code.co_filename == file and code.co_name != '__init__'
        return trace_lines if known else None

    def trace_lines(frame: Any, event: str, _: Any) -> Any:
        nonlocal future, lines
        if isinstance(frame.f_locals.get('self'), AioFuture):
            future = frame.f_locals['self']
        lines += event == 'line' and future is not None
        if event == 'line' and lines == number:
            # This does what a handler would do: it runs between two steps of the interpreter.
            future.cancel()
        return trace_lines

    def wait() -> 'Crt[str]':
        ran.append('from the beginning')
        try:
            if waits:
                yield PollNeeded(fd, POLLOUT)
            readable = PollNeeded(fd, POLLIN)
            # Watched, found by a look, and watched after a look in vain.
            for _ in range(3 * waits):
                yield readable
                ours.recv(1)
            results.append('result')
            return 'result'
        finally:
            ran.append('to the end')

    async def main() -> bool:
        nonlocal future, lines
        future, lines = None, 0
        theirs.send(b'he')
        sys.settrace(trace)
        try:
            waiting = AioFuture(wait())
            await turns(6)
            theirs.send(b'y')
            with contextlib.suppress(asyncio.CancelledError):
                assert await waiting == 'result'
        finally:
            sys.settrace(trace_before)
        assert ran in ([], ['from the beginning', 'to the end']), number
        # None that there was is lost.
        assert waiting.cancelled() is not bool(results), number
        ran.clear()
        results.clear()
        loop = asyncio.get_running_loop()
        assert not loop.remove_reader(fd)
        assert not loop.remove_writer(fd)
        await turns(2)
        with contextlib.suppress(BlockingIOError):
            ours.recv(10)
        return waiting.cancelled()

    async def all_lines() -> None:
        nonlocal number
        cancelled = 0
        while lines >= number:
            number += 1
            AioFuture._looks = Looks()
            cancelled += await main()
            assert run.problems == [], number
        assert cancelled > (50 if waits else 0)

    run(all_lines)


def raises_when_closed(sock: socket.socket) -> 'Crt[None]':
    try:
        yield PollNeeded(sock.fileno(), POLLIN)
    finally:
        raise Boom


def test_cancel_if_closing_raises(run: Runner, pair: Pair) -> None:
    async def main() -> None:
        future = AioFuture(raises_when_closed(pair[0]))
        with contextlib.suppress(Boom):
            future.cancel()
        with pytest.raises(Boom):
            await asyncio.wait_for(future, LIMIT)

    run(main)


@pytest.mark.parametrize('both', [False, True])
def test_cancelled_task_if_closing_raises(run: Runner, pair: Pair, both: bool) -> None:
    """It gets the error, unless the future had it before; then nobody is told of it."""

    async def main() -> None:
        async def wait() -> None:
            await future

        future = AioFuture(raises_when_closed(pair[0]))
        task = asyncio.ensure_future(wait())
        await turns()
        if both:
            future.cancel()
        task.cancel()
        with pytest.raises(asyncio.CancelledError if both else Boom):
            await task

    run(main)


def test_signal_handler_that_raises_while_a_future_is_cancelled(run: Runner, pair: Pair) -> None:
    """Who waits for it, asyncio at the end of the program for instance, does not wait for ever."""

    def crt() -> 'Crt[None]':
        try:
            yield PollNeeded(pair[0].fileno(), POLLIN)
        finally:
            raise KeyboardInterrupt

    async def main() -> None:
        future = AioFuture(crt())
        with pytest.raises(KeyboardInterrupt):
            future.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(future, LIMIT)

    run(main)


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason='a frame that is kept keeps the frames of its callers'
)
@pytest.mark.parametrize('timeout', [None, 0.01])
def test_failed_future_keeps_nothing_alive(
    run: Runner, connect: Any, timeout: Optional[float]
) -> None:
    """The memory of the caller is free when the exception has been dealt with."""

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n')
        if timeout is not None:
            peer.read_to_eof()

    async def main() -> None:
        conn = connect(handle)
        await AioFuture(conn.co_send_request('GET', '/'))
        await AioFuture(conn.co_read_response())
        buf = bytearray(100000)
        with contextlib.suppress(ConnectionClosed, ConnectionTimedOut):
            await AioFuture(conn.co_readinto(buf), timeout=timeout)
            raise AssertionError('there is nothing to read')
        # In this turn, the loop itself still refers to the future.
        await asyncio.sleep(0)
        buf.append(0)

    gc.collect()
    gc.disable()
    try:
        run(main)
    finally:
        gc.enable()


def test_cancel_after_the_loop_was_closed(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> 'AioFuture[Any]':
        return [AioFuture(waiting.crt)]

    (future,) = run(main)
    future.cancel()
    assert waiting.ended_by == 'GeneratorExit'


OPERATIONS = {
    'read_response': lambda conn: conn.co_read_response(),
    'readall': lambda conn: conn.co_readall(),
    'read': lambda conn: conn.co_read(10),
    'discard': lambda conn: conn.co_discard(),
    'send': lambda conn: conn.co_send_request('PUT', '/', body=bytes(1_000_000)),
}


def stalled(name: str) -> Callable[[Peer], None]:
    """A handler that lets the operation *name* wait."""

    def handle(peer: Peer) -> None:
        if name == 'send':
            peer.hold()
            return
        peer.read_request()
        if name != 'read_response':
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n')
        peer.read_to_eof()

    return handle


def prepare(name: str, conn: HTTPConnection) -> None:
    conn.connect()
    set_small_buffer(conn._sock)
    if name != 'send':
        conn.send_request('GET', '/')
        if name != 'read_response':
            conn.read_response()


@needs_proc
@pytest.mark.parametrize('end', ['cancel', 'disconnect'])
@pytest.mark.parametrize('name', OPERATIONS)
def test_watchers_go_before_the_descriptor(
    connect: Any, transport: str, name: str, end: str
) -> None:
    """An event loop that is told too late has closed, or reused, descriptors in its books."""
    conn = connect(stalled(name))
    prepare(name, conn)
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)

    async def main() -> None:
        number = len(selector.get_map())
        future = AioFuture(OPERATIONS[name](conn))
        await asyncio.sleep(0)
        assert not future.done() and len(selector.get_map()) == number + 1
        if end == 'cancel':
            future.cancel()
            conn.disconnect()
        else:
            conn.disconnect()
            with pytest.raises(ConnectionClosed):
                await future
        assert len(selector.get_map()) == number
        assert conn._sock is None

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert selector.late == []


# disconnect()


@pytest.mark.parametrize('name', OPERATIONS)
def test_disconnect_completes_a_waiting_future(
    run: Runner, connect: Any, transport: str, name: str
) -> None:
    conn = connect(stalled(name))
    prepare(name, conn)

    async def main() -> None:
        future = AioFuture(OPERATIONS[name](conn))
        await turns(2)
        assert not future.done()
        conn.disconnect()
        with pytest.raises(ConnectionClosed, match='disconnect'):
            await future

    run(main)


def test_disconnect_completes_a_future_that_connects(run: Runner) -> None:
    async def main() -> None:
        with black_hole() as address:
            conn = HTTPConnection(*address)
            future = AioFuture(conn.co_send_request('GET', '/'))
            reader = AioFuture(conn.co_read_response())
            await turns(2)
            conn.disconnect()
            for waiting in future, reader:
                with pytest.raises(ConnectionClosed, match='disconnect'):
                    await waiting

    run(main)


def test_disconnect_completes_sender_and_reader(run: Runner, connect: Any, transport: str) -> None:
    conn = connect(Peer.hold)
    prepare('send', conn)

    async def main() -> None:
        sender = AioFuture(OPERATIONS['send'](conn))
        reader = AioFuture(conn.co_read_response())
        await turns(2)
        conn.disconnect()
        for future in sender, reader:
            with pytest.raises(ConnectionClosed, match='disconnect'):
                await future
        assert conn._sock is None

    run(main)


def test_new_connection_while_the_old_one_is_being_closed(
    run: Runner, serve: Any, connect: Any, transport: str
) -> None:
    """The futures of the old one have not been told yet."""
    conn = connect(serve([never_answer, answer_all()]))

    async def main() -> None:
        await AioFuture(conn.co_send_request('GET', '/'))
        old = AioFuture(conn.co_read_response())
        conn.disconnect()
        new = asyncio.ensure_future(get(conn))
        with pytest.raises(ConnectionClosed):
            await old
        assert await new == b'hello'

    run(main)


# Exceptions are not lost


@pytest.mark.parametrize('kind', [KeyboardInterrupt, SystemExit])
def test_interrupt_in_the_first_step_is_not_reported_again(
    kind: Type[BaseException], run: Runner
) -> None:
    """The constructor raises it, so nobody can ask the future for it."""

    def crt() -> 'Crt[None]':
        raise kind
        yield

    async def main() -> None:
        with pytest.raises(kind):
            AioFuture(crt())

    run(main)
    gc.collect()
    assert run.problems == []


def test_exception_that_nobody_asks_for_is_reported(run: Runner, pair: Pair) -> None:
    def crt() -> 'Crt[None]':
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        raise Boom

    async def main() -> None:
        AioFuture(crt())
        await turns()

    run(main)
    gc.collect()
    (problem,) = run.problems
    assert type(problem['exception']) is Boom
    assert 'never retrieved' in problem['message']
    run.problems.clear()


@pytest.mark.parametrize('later', [False, True])
@pytest.mark.parametrize('value', [None, 42, 'x', (3, POLLIN), asyncio.sleep])
def test_wrong_value_is_a_type_error(run: Runner, pair: Pair, value: Any, later: bool) -> None:
    ended = []

    def crt() -> 'Crt[None]':
        try:
            if later:
                yield PollNeeded(pair[0].fileno(), POLLOUT)
            yield value
        finally:
            ended.append(True)

    async def main() -> None:
        with pytest.raises(TypeError, match='PollNeeded'):
            await asyncio.wait_for(AioFuture(crt()), LIMIT)
        assert ended == [True]

    run(main)


@pytest.mark.parametrize('later', [False, True])
@pytest.mark.parametrize('mask', [POLLIN, POLLOUT, POLLIN | POLLOUT])
def test_descriptor_that_cannot_be_watched(
    run: Runner, pair: Pair, later: bool, mask: int
) -> None:
    """The error comes to the coroutine, and does no harm to those who use the number next."""
    fd = os.dup(pair[0].fileno())
    os.close(fd)

    def crt() -> 'Crt[None]':
        if later:
            yield PollNeeded(pair[0].fileno(), POLLOUT)
        yield PollNeeded(fd, mask)

    async def main() -> None:
        # Event loops have descriptors of their own.
        nonlocal fd
        fd = os.dup(pair[0].fileno())
        os.close(fd)
        with pytest.raises(OSError):
            await asyncio.wait_for(AioFuture(crt()), LIMIT)
        os.dup2(pair[0].fileno(), fd)
        try:
            pair[1].send(b'x')
            with socket.socket(fileno=fd) as same:
                waiting = Waiting(same, mask)
                assert await asyncio.wait_for(AioFuture(waiting.crt), LIMIT) == 'result'
        finally:
            with contextlib.suppress(OSError):
                os.close(fd)

    run(main)


@pytest.mark.parametrize('driver', driver_params(AIO_DRIVERS))
def test_interrupt_inside_the_coroutine(driver: Asyncio, pair: Pair) -> None:
    """It ends the event loop, as usual, and the future, too."""

    def crt() -> 'Crt[None]':
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        raise KeyboardInterrupt

    loop = driver.new_loop()
    try:
        future = AioFuture(crt(), loop)
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(future)
        assert type(future.exception()) is KeyboardInterrupt
    finally:
        loop.close()


@pytest.mark.parametrize('driver', driver_params(AIO_DRIVERS))
def test_interrupt_inside_the_coroutine_that_a_task_awaits(driver: Asyncio, pair: Pair) -> None:
    """The task gets it, so it is not an exception that nobody has asked for."""

    def crt() -> 'Crt[None]':
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        raise KeyboardInterrupt

    async def main() -> None:
        await AioFuture(crt())

    loop = driver.new_loop()
    problems: List[str] = []
    loop.set_exception_handler(lambda loop, context: problems.append(context['message']))
    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        assert type(task.exception()) is KeyboardInterrupt
        del task
    finally:
        loop.close()
    gc.collect()
    assert problems == []


def test_ctrl_c_ends_asyncio_run(connect: Any, transport: str) -> None:
    conn = connect(never_answer)
    operations: List[Any] = []

    async def main() -> None:
        await AioFuture(conn.co_send_request('GET', '/'))
        asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
        operations.append(conn.co_read_response())
        await AioFuture(operations[0])

    with interrupts(), pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert inspect.getgeneratorstate(operations[0]) == inspect.GEN_CLOSED
    # Reading the response can be retried.
    assert conn.response_pending()


def test_loop_that_ends_while_a_future_waits_frees_everything(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> List[Any]:
        future = AioFuture(waiting.crt)
        del waiting.crt
        return list(map(weakref.ref, (asyncio.get_running_loop(), future)))

    references = run(main)
    gc.collect()
    assert [reference() for reference in references] == [None, None]
    assert waiting.ended_by == 'GeneratorExit'


# Nobody starves


class Ticker:
    """Counts how often others get their turn."""

    async def __aenter__(self) -> 'Ticker':
        self.ticks = 0
        self._task = asyncio.ensure_future(self._tick())
        return self

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.ticks += 1

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


class Endless:
    """Stands in for a socket for which there is always something to receive, and room."""

    def __init__(self, sock: Any, data: Callable[[int], bytes]) -> None:
        self._real = sock
        self._data = data
        self.bytes = 0
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recv_into(self, view: Any, *args: Any) -> int:
        data = self._data(len(view))
        view[: len(data)] = data
        self.bytes += len(data)
        self.calls += 1
        return len(data)

    def send(self, data: Any) -> int:
        size = min(len(data), 1 << 18)
        self.bytes += size
        self.calls += 1
        return size


#: What one step may do, in bytes or in calls of the system.
BYTES, CALLS = 4 << 20, 20_000


def steps(conn: HTTPConnection, crt: 'Crt[Any]', number: int = 6) -> None:
    """Run up to *number* steps of *crt*, each of which must be bounded."""
    sock = conn._sock
    for _ in range(number):
        sock.bytes = sock.calls = 0
        began = time.process_time()
        try:
            next(crt)
        except StopIteration:
            break
        assert sock.bytes <= BYTES and sock.calls <= CALLS
        assert time.process_time() - began < 1
    crt.close()


HEADS = {
    'length': b'HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n',
    'chunked': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
    'small chunks': b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
    'close': b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n',
}


def test_reads_that_never_wait_let_others_have_their_turn(run: Runner, connect: Any) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        # The descriptor remains readable.
        peer.send(HEADS['length'] + bytes(100_000))
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    conn._sock = Endless(conn._sock, bytes)

    async def main() -> None:
        async with Ticker() as ticker:
            for _ in range(10_000):
                assert await AioFuture(conn.co_read(1000))
            assert ticker.ticks >= 8

    run(main)


@pytest.mark.parametrize('method', ['co_write', 'co_send_request'])
def test_sends_that_never_wait_let_others_have_their_turn(
    run: Runner, connect: Any, method: str
) -> None:
    conn = connect(never_answer)
    arguments: Tuple[Any, ...] = ('GET', '/')
    if method == 'co_write':
        conn.send_request('PUT', '/', body=BodyFollowing(1 << 50))
        arguments = (b'x',)
    else:
        conn.connect()
    conn._sock = Endless(conn._sock, bytes)

    async def main() -> None:
        async with Ticker() as ticker:
            for _ in range(10_000):
                await AioFuture(getattr(conn, method)(*arguments))
            assert ticker.ticks >= 100

    run(main)


@pytest.mark.parametrize('framing', HEADS)
@pytest.mark.parametrize('method', ['co_readall', 'co_discard'])
def test_response_that_never_waits_is_read_in_steps(
    connect: Any, framing: str, method: str
) -> None:
    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.send(HEADS[framing])
        peer.read_to_eof()

    conn = connect(handle)
    conn.send_request('GET', '/')
    conn.read_response()
    pattern = b''
    if framing == 'chunked':
        pattern = b'1000\r\n' + bytes(0x1000) + b'\r\n'
    elif framing == 'small chunks':
        pattern = b'1\r\nx\r\n'
    position = 0

    def data(size: int) -> bytes:
        nonlocal position
        if not pattern:
            return bytes(size)
        begin = position % len(pattern)
        position += size
        return (pattern * (size // len(pattern) + 2))[begin : begin + size]

    conn._sock = Endless(conn._sock, data)
    steps(conn, getattr(conn, method)())


def test_interim_responses_without_end_are_bounded(connect: Any) -> None:
    conn = connect(never_answer)
    conn.send_request('GET', '/')
    line = b'HTTP/1.1 102 Processing\r\n\r\n'
    conn._sock = Endless(conn._sock, lambda size: line * (size // len(line)) or b'H')
    with contextlib.suppress(Exception):
        steps(conn, conn.co_read_response())


@pytest.mark.parametrize('size', [1, 10_000])
@pytest.mark.parametrize('kind', ['iterable', 'write', 'large'])
def test_upload_that_never_waits_is_sent_in_steps(connect: Any, kind: str, size: int) -> None:
    conn = connect(never_answer)
    conn.connect()
    conn._sock = Endless(conn._sock, bytes)

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(size)

    if kind == 'iterable':
        crt = conn.co_send_request('PUT', '/', body=endless())
    elif kind == 'large':
        crt = conn.co_send_request('PUT', '/', body=[bytes(10_000 * size)])
    else:

        class Stream:
            def read(self, number: int) -> bytes:
                return bytes(min(size, number))

        conn.send_request('PUT', '/', body=BodyFollowing(1 << 50))
        crt = conn.co_write(Stream())
    steps(conn, crt)


@pytest.mark.slow
def test_file_upload_that_never_waits_is_sent_in_steps(connect: Any, tmp_path: Path) -> None:
    """As the kernel does it, only the number of steps can be seen."""
    path = tmp_path / 'body'
    size = 32 << 20
    with path.open('wb') as file:
        file.truncate(size)

    def handle(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'hello')
        peer.read_to_eof()

    conn = connect(handle)
    conn.connect()
    with path.open('rb') as file:
        crt = conn.co_send_request('PUT', '/', body=file)
        count = 0
        for need in crt:
            count += 1
            assert need.poll(LIMIT)
    assert count >= size // BYTES
    assert conn.read_response().status == 200


# Nor is time wasted


def test_operation_that_need_not_wait_takes_no_turn_of_the_loop(
    run: Runner, connect: Any, transport: str
) -> None:
    number = 10

    def handle(peer: Peer) -> None:
        for _ in range(number):
            peer.read_request()
        peer.send(REPLY * number)
        peer.read_to_eof()

    conn = connect(handle)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turns: List[str] = []
        await AioFuture(conn.co_connect())
        loop.call_soon(turns.append, 'while sending')
        for _ in range(number):
            await AioFuture(conn.co_send_request('GET', '/'))
        assert turns == []
        assert (await AioFuture(conn.co_read_response())).status == 200
        del turns[:]
        # All the rest has been received by now.
        loop.call_soon(turns.append, 'while reading')
        assert await AioFuture(conn.co_readall()) == b'hello'
        for _ in range(1, number):
            assert (await AioFuture(conn.co_read_response())).status == 200
            assert await AioFuture(conn.co_readall()) == b'hello'
        assert turns == []

    run(main)


def test_waiting_takes_one_turn_of_the_loop(pair: Pair) -> None:
    selector = CountingSelector()
    loop = asyncio.SelectorEventLoop(selector)

    async def main() -> int:
        number = selector.turns
        for _ in range(10):
            await AioFuture(Waiting(pair[0], POLLOUT).crt)
        return selector.turns - number

    try:
        # One to see that it is ready, one to wake up the task.
        assert loop.run_until_complete(main()) <= 20
    finally:
        loop.close()


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often it is told to watch a descriptor."""

    watched = 0

    def add_reader(self, *args: Any) -> Any:
        self.watched += 1
        return super().add_reader(*args)


@pytest.fixture
def looking() -> Iterator[None]:
    """No looks in vain before, whatever other tests have waited for."""
    AioFuture._looks = Looks()
    yield


def receive(sock: socket.socket, number: int) -> 'Crt[bytes]':
    """Wait for something to receive, and receive it, *number* times."""
    need = PollNeeded(sock.fileno(), POLLIN)
    received = b''
    for _ in range(number):
        yield need
        received += sock.recv(1)
    return received


def test_what_has_happened_by_the_next_turn_of_the_loop_needs_no_watch(
    looking: None, pair: Pair
) -> None:
    pair[1].send(b'hello')

    async def main() -> bytes:
        return await AioFuture(receive(pair[0], 5))

    loop = CountingLoop()
    try:
        assert loop.run_until_complete(main()) == b'hello'
        # To see that it can be.
        assert loop.watched == 1
    finally:
        loop.close()


def test_what_has_not_happened_by_the_next_turn_of_the_loop_is_watched(
    looking: None, run: Runner, pair: Pair
) -> None:
    pair[1].send(b'h')

    async def main() -> None:
        future = AioFuture(receive(pair[0], 2))
        await turns(10)
        assert not future.done()
        pair[1].send(b'e')
        assert await future == b'he'

    run(main)


def test_looks_in_vain_are_few(looking: None, run: Runner, pair: Pair) -> None:
    number = 1000
    looks = 0

    class Slow(PollNeeded):
        def poll(self, timeout: Optional[float] = None) -> bool:
            nonlocal looks
            looks += 1
            return False

    def crt() -> 'Crt[None]':
        need = Slow(pair[0].fileno(), POLLIN)
        for _ in range(number):
            yield need

    async def main() -> None:
        await AioFuture(crt())

    pair[1].send(b'x')
    run(main)
    assert 0 < looks < number // 20


def test_cancel_before_the_look(looking: None, run: Runner, pair: Pair) -> None:
    pair[1].send(b'he')

    def be_cancelled_in_between() -> 'Crt[None]':
        need = PollNeeded(pair[0].fileno(), POLLIN)
        yield need
        assert pair[0].recv(1) == b'h'
        asyncio.get_running_loop().call_soon(futures[0].cancel)
        yield need
        pair[0].recv(1)

    async def main() -> None:
        futures.append(AioFuture(be_cancelled_in_between()))
        with pytest.raises(asyncio.CancelledError):
            await futures[0]
        await turns()
        assert pair[0].recv(2) == b'e'

    futures: List[Any] = []
    run(main)


@pytest.mark.parametrize('seen', [True, False])
def test_descriptor_that_goes_before_the_look(
    looking: None, run: Runner, pair: Pair, seen: bool
) -> None:
    """The error comes from its use, or if the look does not show it, from the loop."""

    class Need(PollNeeded):
        def poll(self, timeout: Optional[float] = None) -> bool:
            return seen and super().poll(timeout)

    other = socket.socket(fileno=os.dup(pair[0].fileno()))
    pair[1].send(b'h')

    def close_in_between() -> 'Crt[None]':
        need = Need(other.fileno(), POLLIN)
        yield need
        assert other.recv(1) == b'h'
        asyncio.get_running_loop().call_soon(other.close)
        yield need
        other.recv(1)

    async def main() -> None:
        with other, pytest.raises(OSError):
            await AioFuture(close_in_between())

    run(main)


# Several futures at one descriptor


@pytest.mark.parametrize('masks', [(POLLIN,) * 3, (POLLIN, POLLIN | POLLOUT, POLLIN)])
def test_futures_that_wait_for_the_same_direction_all_wake_up(
    run: Runner, pair: Pair, masks: Tuple[int, ...]
) -> None:
    fill(pair[0])

    async def main() -> None:
        futures = [AioFuture(Waiting(pair[0], mask).crt) for mask in masks]
        await turns(2)
        assert not any(future.done() for future in futures)
        pair[1].send(b'x')
        assert await asyncio.gather(*futures) == ['result'] * len(masks)

    run(main)


def fill(sock: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(65536))


@pytest.mark.parametrize('masks', [(POLLIN, POLLIN), (POLLIN, POLLIN | POLLOUT)])
@pytest.mark.parametrize('cancelled', [0, 1])
def test_cancelled_future_does_not_take_the_watcher_from_others(
    run: Runner, pair: Pair, masks: Tuple[int, int], cancelled: int
) -> None:
    fill(pair[0])

    async def main() -> None:
        futures = [AioFuture(Waiting(pair[0], mask).crt) for mask in masks]
        await turns(2)
        futures[cancelled].cancel()
        pair[1].send(b'x')
        assert await futures[1 - cancelled] == 'result'

    run(main)


def test_woken_future_may_cancel_another_one(run: Runner, pair: Pair) -> None:
    """Both were waiting for what has happened."""
    victim = Waiting(pair[0])

    def cancel_other() -> 'Crt[None]':
        yield PollNeeded(pair[0].fileno(), POLLIN)
        futures[1].cancel()

    async def main() -> None:
        futures.append(AioFuture(cancel_other()))
        futures.append(AioFuture(victim.crt))
        pair[1].send(b'x')
        # Not awaited directly: a task would run the first one only after the second one.
        await asyncio.wait(futures[:1])
        assert futures[1].cancelled()

    futures: List[Any] = []
    run(main)


def test_both_directions_of_one_socket(run: Runner, pair: Pair) -> None:
    fill(pair[0])

    async def main() -> None:
        writer = AioFuture(Waiting(pair[0], POLLOUT).crt)
        reader = AioFuture(Waiting(pair[0], POLLIN).crt)
        pair[1].send(b'x')
        assert await reader == 'result'
        assert not writer.done()
        with pytest.raises(BlockingIOError):
            while True:
                pair[1].recv(65536)
        assert await writer == 'result'

    run(main)


# timeout=


def test_timeout_is_raised_inside_the_coroutine(run: Runner, pair: Pair) -> None:
    waiting = Waiting(pair[0])

    async def main() -> None:
        with pytest.raises(ConnectionTimedOut, match='0.0125'):
            await AioFuture(waiting.crt, timeout=0.0125)
        assert waiting.ended_by == 'ConnectionTimedOut'

    run(main)


def test_coroutine_may_go_on_after_a_timeout(run: Runner, pair: Pair) -> None:
    def crt() -> 'Crt[str]':
        with pytest.raises(ConnectionTimedOut):
            yield PollNeeded(pair[0].fileno(), POLLIN)
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        return 'went on'

    async def main() -> None:
        assert await AioFuture(crt(), None, 0.01) == 'went on'

    run(main)


@pytest.mark.slow
def test_timeout_bounds_each_wait_and_not_their_sum(run: Runner, pair: Pair) -> None:
    def crt() -> 'Crt[None]':
        for _ in range(3):
            yield PollNeeded(pair[0].fileno(), POLLIN)
            pair[0].recv(1)

    async def main() -> None:
        future = AioFuture(crt(), timeout=0.2)
        for _ in range(3):
            await asyncio.sleep(0.12)
            pair[1].send(b'x')
        await future

    run(main)


def test_timeout_zero(run: Runner, pair: Pair) -> None:
    """Nothing is waited for, but what is there is taken."""

    async def main() -> None:
        with pytest.raises(ConnectionTimedOut):
            await AioFuture(Waiting(pair[0]).crt, timeout=0)
        pair[1].send(b'x')
        assert await AioFuture(Waiting(pair[0]).crt, timeout=0) == 'result'

    run(main)


@pytest.mark.parametrize('timeout', [None, 1e10, float('inf')])
def test_timeout_that_never_comes(run: Runner, pair: Pair, timeout: Optional[float]) -> None:
    async def main() -> None:
        future = AioFuture(Waiting(pair[0]).crt, timeout=timeout)
        await turns(2)
        assert not future.done()
        pair[1].send(b'x')
        assert await future == 'result'

    run(main)


@pytest.mark.parametrize('end', ['result', 'cancel'])
def test_no_timer_is_left(pair: Pair, end: str) -> None:
    loop = asyncio.new_event_loop()
    timers = []
    call_later = loop.call_later

    def watched(delay: float, *args: Any, **options: Any) -> asyncio.TimerHandle:
        timers.append(call_later(delay, *args, **options))
        return timers[-1]

    loop.call_later = watched  # type: ignore[method-assign]

    async def main() -> None:
        future = AioFuture(Waiting(pair[0]).crt, timeout=1000)
        if end == 'cancel':
            future.cancel()
        else:
            pair[1].send(b'x')
            await future

    try:
        loop.run_until_complete(main())
    finally:
        loop.close()
    assert timers and all(timer.cancelled() for timer in timers)


def test_timeout_of_a_connect_that_goes_nowhere(
    run: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    with black_hole() as address:
        resolve_to(monkeypatch, address, address)
        conn = HTTPConnection('example.org', address[1])

        async def main() -> None:
            began = time.monotonic()
            with pytest.raises(ConnectionTimedOut, match='127.0.0.1'):
                await AioFuture(conn.co_connect(), timeout=0.05)
            # Each address is waited for.
            assert 0.099 <= time.monotonic() - began < 5

        run(main)


# The program is never blocked


@pytest.mark.parametrize('by', ['resolver', 'black hole', 'handshake'])
def test_loop_goes_on_while_a_connect_is_stuck(
    run: Runner, monkeypatch: pytest.MonkeyPatch, by: str, serve: Any, certificates: Any
) -> None:
    release = threading.Event()
    address = ('127.0.0.1', 1)
    context = None
    with contextlib.ExitStack() as stack:
        if by == 'resolver':

            def getaddrinfo(*args: Any) -> Any:
                assert release.wait(LIMIT)
                raise socket.gaierror(socket.EAI_FAIL, 'failed')

            monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
        else:
            if by == 'black hole':
                address = stack.enter_context(black_hole())
            else:
                address = serve(never_answer).address
                context = certificates.client_context
            resolve_to(monkeypatch, address)
        conn = HTTPConnection('localhost', address[1], context)

        async def main() -> None:
            future = AioFuture(conn.co_send_request('GET', '/'))
            async with Ticker() as ticker:
                await asyncio.sleep(0.02)
                assert ticker.ticks > 10
            assert not future.done()
            future.cancel()

        try:
            with nothing_left():
                run(main)
                # The look-up cannot be interrupted, but must not last longer than it takes.
                release.set()
        finally:
            release.set()


# Several loops


def test_loops_in_several_threads(serve: Any, transport: str, connect: Any) -> None:
    server = serve(answer_all())

    def work() -> None:
        async def main() -> None:
            conn = connect(server)
            try:
                for _ in range(50):
                    assert await get(conn) == b'hello'
            finally:
                conn.disconnect()

        for _ in range(4):
            asyncio.run(main())

    threads = [Thread(work) for _ in range(4)]
    for thread in threads:
        thread.finish()


def test_one_loop_after_the_other_at_the_same_descriptor(pair: Pair) -> None:
    """Loops are told apart although the memory of an old one may be that of a new one."""
    for index in range(50):
        loop = asyncio.new_event_loop()
        try:
            left = AioFuture(Waiting(pair[0]).crt, loop)
            pair[1].send(b'x')
            assert loop.run_until_complete(AioFuture(Waiting(pair[0]).crt, loop)) == 'result'
            assert left.result() == 'result'
            pair[0].recv(1)
            # Waits when the loop ends.
            left = AioFuture(Waiting(pair[0]).crt, loop)
            if index % 2:
                del left
        finally:
            loop.close()


# uvloop gives up a descriptor that has an error, when it has called who waits for it


@pytest.mark.parametrize('order', [''.join(names) for names in itertools.permutations('abc')])
def test_all_who_wait_for_a_connection_that_is_reset_can_wait_again(
    order: str, run: Runner, full: Pair
) -> None:
    ours, theirs = full

    def waits(*masks: int) -> 'Crt[int]':
        for mask in masks:
            yield PollNeeded(ours.fileno(), mask)
        return len(masks)

    coroutines = {
        'a': waits(POLLOUT),
        'b': waits(POLLOUT, POLLIN, POLLOUT),
        'c': waits(POLLIN, POLLIN, POLLOUT),
    }

    async def main() -> None:
        futures = [AioFuture(coroutines[name]) for name in order]
        Peer(theirs).reset()
        done, pending = await asyncio.wait(futures, timeout=LIMIT)
        assert not pending
        assert sorted(future.result() for future in done) == [1, 3, 3]

    run(main)


@pytest.mark.parametrize('masks', [(POLLIN, POLLOUT), (POLLOUT, POLLIN)])
def test_another_can_wait_before_the_task_that_was_woken_up_has_its_turn(
    masks: Tuple[int, int], run: Runner, full: Pair
) -> None:
    ours, theirs = full

    def waits(mask: int, then: Callable[[], None] = lambda: None) -> 'Crt[None]':
        yield PollNeeded(ours.fileno(), mask)
        then()

    async def main() -> None:
        first, second = masks

        async def wait_for(future: Any) -> None:
            await future

        others = []
        # Not awaited, so it is run at once when the loop calls it.
        AioFuture(waits(first, lambda: others.append(AioFuture(waits(second)))))
        task = asyncio.ensure_future(wait_for(AioFuture(waits(first))))
        await asyncio.sleep(0)
        Peer(theirs).reset()
        await task
        await others[0]

    run(main)
