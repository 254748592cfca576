"""Timeouts, `PollNeeded`, coroutines, `AioFuture`."""

import asyncio
import inspect
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List

from compat_base import (
    CHUNKED_HELLO,
    CONTINUE,
    HELLO,
    WAIT,
    answers,
    attempt,
    attempt_within,
    connect,
    first_error,
    put,
    scenario,
    wait_for_input,
)


@scenario()
def timeout_while_reading(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.timeout = 0.03
    conn.send_request('GET', '/')
    result = [attempt(conn.read_response), attempt(conn.read_response), conn.response_pending()]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(
    lambda peer: (
        peer.read_request(),
        peer.read_request(),
        peer.send(HELLO + HELLO),
        peer.read_to_eof(),
    )
)
def answer_after_a_timeout(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.timeout = 0.03
    conn.send_request('GET', '/1')
    result = [attempt(conn.read_response)]
    conn.timeout = WAIT
    conn.send_request('GET', '/2')
    return [*result, conn.read_response(), conn.readall(), conn.read_response(), conn.readall()]


_write_ended = threading.Semaphore(0)


def _not_reading(peer: Any) -> None:
    """Read the head only, until a second connection says that the client has ended."""
    if peer.read_exactly(3) == b'END':
        _write_ended.release()
        return
    peer.read_until(b'\r\n\r\n')
    peer.send(CONTINUE)
    _write_ended.acquire(timeout=WAIT)
    peer.reset()


@scenario(_not_reading)
def timeout_while_writing(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(50_000_000))
    wait_for_input(conn)
    conn.timeout = 0.03
    result = first_error(*[lambda: conn.write(b'x' * 500_000)] * 100)
    with socket.create_connection(('127.0.0.1', port), WAIT) as control:
        control.sendall(b'END')
        conn.disconnect()
        control.recv(1)
    return result


@scenario()
def timeout_of_0(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    conn.timeout = 0
    return attempt_within(0.1, conn.read_response)


@scenario(answers(HELLO))
def poll_needed(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reading = dugong.PollNeeded(ours.fileno(), dugong.POLLIN)
        writing = dugong.PollNeeded(ours.fileno(), dugong.POLLOUT)
        result = {
            'tuple': [isinstance(reading, tuple), len(reading), reading == (ours.fileno(), 1)],
            'attributes': [reading.fd == ours.fileno(), reading.mask, writing.mask],
            'read': reading.poll(0.01),
            'write': [writing.poll(), writing.poll(None), writing.poll(timeout=5)],
        }
        theirs.send(b'x')
        result['readable'] = [reading.poll(), reading.poll(5)]
        result['at once'] = attempt_within(0.1, reading.poll, 0)
        ours.recv(1)
        result['at once, nothing there'] = attempt_within(0.1, reading.poll, 0)
    return result


def _coroutines(dugong: Any, descriptor: int) -> Dict[str, Callable[[], Iterator[Any]]]:
    def returns() -> Iterator[Any]:
        return 5
        yield

    def waits() -> Iterator[Any]:
        yield dugong.PollNeeded(descriptor, dugong.POLLIN)
        return 'ready'

    def fails() -> Iterator[Any]:
        raise KeyError('mine')
        yield

    def fails_later() -> Iterator[Any]:
        yield dugong.PollNeeded(descriptor, dugong.POLLIN)
        raise KeyError('mine')

    def yields_a_number() -> Iterator[Any]:
        yield 7

    return {
        function.__name__: function
        for function in (returns, waits, fails, fails_later, yields_a_number)
    }


@scenario()
def eval_coroutine(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        functions = _coroutines(dugong, ours.fileno())
        result = {'too slow': attempt(dugong.eval_coroutine, functions['waits'](), 0.01)}
        result['too slow by name'] = attempt(
            dugong.eval_coroutine, functions['waits'](), timeout=0.01
        )
        theirs.send(b'x')
        for name, function in functions.items():
            result[name] = attempt(dugong.eval_coroutine, function())
        result['not a coroutine'] = attempt(dugong.eval_coroutine, 5)
    return result


@scenario()
def aio_future(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    loop = asyncio.new_event_loop()
    try:
        with ours, theirs:
            functions = _coroutines(dugong, ours.fileno())
            waiting = dugong.AioFuture(functions['waits'](), loop=loop)
            result = {
                'is a future': isinstance(waiting, asyncio.Future),
                'done early': waiting.done(),
            }
            loop.call_soon(theirs.send, b'x')
            result['waited'] = loop.run_until_complete(asyncio.wait_for(waiting, WAIT))
            for name, function in functions.items():
                future = dugong.AioFuture(function(), loop=loop)
                result[name] = attempt(loop.run_until_complete, asyncio.wait_for(future, WAIT))
        return result
    finally:
        loop.close()


@scenario()
def cancelled_future(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()
    loop = asyncio.new_event_loop()
    complaints: List[str] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context['message']))

    async def cancel() -> Any:
        future = dugong.AioFuture(_coroutines(dugong, ours.fileno())['waits'](), loop=loop)
        await asyncio.sleep(0)
        cancelled = future.cancel()
        theirs.send(b'x')
        await asyncio.sleep(0.01)
        return [cancelled, future.cancelled()]

    try:
        with ours, theirs:
            result = loop.run_until_complete(cancel())
            return [*result, loop.remove_reader(ours), sorted(set(complaints)) != []]
    finally:
        loop.close()


@scenario()
def several_futures_on_one_socket(dugong: Any, port: int) -> Any:
    ours, theirs = socket.socketpair()

    async def both() -> Any:
        loop = asyncio.get_running_loop()
        waits = _coroutines(dugong, ours.fileno())['waits']
        futures = [dugong.AioFuture(waits(), loop=loop) for _ in range(2)]
        theirs.send(b'x')
        return await asyncio.wait_for(asyncio.gather(*futures), WAIT)

    with ours, theirs:
        return attempt(asyncio.run, both())


@scenario(answers(HELLO, CHUNKED_HELLO))
def coroutines_on_a_connection(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def job() -> Any:
        yield from conn.co_send_request('GET', '/', headers={'X': 'y'})
        first = yield from conn.co_read_response()
        buffer = bytearray(9)
        size = yield from conn.co_readinto(buffer)
        end = yield from conn.co_readinto(buffer)
        yield from conn.co_send_request('GET', '/')
        yield from conn.co_read_response()
        piece = yield from conn.co_read(2)
        rest = yield from conn.co_read()
        return [first, buffer[:size], end, piece, rest]

    coroutine = job()
    while True:
        try:
            needed = next(coroutine)
        except StopIteration as exc:
            return exc.value
        assert needed.poll(WAIT)


@scenario()
def waiting_in_a_coroutine(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    coroutine = conn.co_read_response()
    needed = next(coroutine)
    result = [
        inspect.isgenerator(coroutine),
        type(needed),
        needed.fd == conn._sock.fileno(),
        needed.mask == dugong.POLLIN,
        needed.poll(0.01),
    ]
    coroutine.close()
    return [*result, conn.response_pending()]
