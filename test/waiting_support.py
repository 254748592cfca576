"""What the tests of waiting share: drivers of coroutines, and servers that keep one waiting."""

import asyncio
import contextlib
import gc
import importlib.util
import itertools
import os
import select
import selectors
import signal
import socket
import ssl
import sys
import threading
import time
from collections import deque
from pathlib import Path
from typing import (
    Any,
    Callable,
    Deque,
    Generator,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    TypeVar,
)

import pytest
from servers import LIMIT, Peer

from dugong import AioFuture, ConnectionTimedOut, HTTPConnection, PollNeeded, eval_coroutine

T = TypeVar('T')
Crt = Generator[PollNeeded, None, T]

EXAMPLES = Path(__file__).resolve().parent.parent / 'examples'

REPLY = b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello'


class Cancelled(BaseException):
    """Raised by a signal handler, as `KeyboardInterrupt` is."""


# Descriptors and threads


def descriptors() -> Set[Tuple[int, str]]:
    """The open descriptors of this process, each with what it refers to."""
    found = set()
    for name in os.listdir('/proc/self/fd'):
        # The one that lists the directory is gone by now.
        with contextlib.suppress(OSError):
            found.add((int(name), os.readlink(f'/proc/self/fd/{name}')))
    return found


needs_proc = pytest.mark.skipif(
    not os.path.isdir('/proc/self/fd'), reason='needs /proc to count descriptors'
)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Check that the block leaves no descriptor and no thread behind.

    Servers of the test that end because their client has gone may do so after the block.
    """
    fds = descriptors()
    threads = set(threading.enumerate())
    yield
    gc.collect()
    end = time.monotonic() + LIMIT
    while True:
        left = (descriptors() - fds, set(threading.enumerate()) - threads)
        if left == (set(), set()):
            return
        assert time.monotonic() < end, left
        time.sleep(0.001)


class Thread(threading.Thread):
    """A thread with a result: `finish` returns it, or raises what the function raised."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._args = args
        self.result: Any = None
        self.error: Optional[BaseException] = None
        self.start()

    def run(self) -> None:
        try:
            self.result = self._function(*self._args)
        except BaseException as exc:
            self.error = exc
        finally:
            del self._function, self._args

    def finish(self, limit: float = LIMIT) -> Any:
        self.join(limit)
        assert not self.is_alive(), 'the thread waits for ever'
        try:
            if self.error is not None:
                raise self.error
            return self.result
        finally:
            # The exception refers to this frame.
            self.error = None


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> 'Waits':
    """Tells when a thread begins to wait for the network in blocking mode."""
    observer = Waits()
    real = PollNeeded.poll

    def poll(self: PollNeeded, timeout: Optional[float] = None) -> bool:
        if timeout != 0:
            observer.begun.set()
        return real(self, timeout)

    monkeypatch.setattr(PollNeeded, 'poll', poll)
    return observer


class Waits:
    def __init__(self) -> None:
        self.begun = threading.Event()

    def next(self) -> None:
        """Wait until a thread waits; call `begun.clear()` before it is started."""
        assert self.begun.wait(LIMIT), 'nobody waits'


# Signals


@contextlib.contextmanager
def signals(handler: Callable[..., Any], delay: float, interval: float = 0.0) -> Iterator[None]:
    """Have SIGALRM arrive after *delay* seconds and then each *interval*."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, delay, interval)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def signal_storm() -> Iterator[List[int]]:
    """Have a signal arrive each millisecond; the result counts those that were handled."""
    count = [0]

    def handle(*_: object) -> None:
        count[0] += 1

    with signals(handle, 0.001, 0.001):
        yield count


@contextlib.contextmanager
def interrupts() -> Iterator[None]:
    """Make SIGINT a `KeyboardInterrupt`, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


# Drivers


class Driver:
    """One way to run dugong coroutines."""

    name = ''
    #: What `run` raises when a wait takes longer than its timeout.
    timed_out: Any = ConnectionTimedOut

    def available(self) -> bool:
        return True

    def run(self, crt: 'Crt[T]', timeout: Optional[float] = None) -> T:
        """Run *crt* to its end."""
        raise NotImplementedError

    def run_all(self, crts: Sequence['Crt[Any]']) -> List[Any]:
        """Run several coroutines side by side, started in this order."""
        raise NotImplementedError

    def cancel(self, crt: 'Crt[Any]') -> None:
        """Start *crt* and cancel it when it waits; it has ended when this returns."""
        raise NotImplementedError


class Blocking(Driver):
    name = 'blocking'

    def run(self, crt: 'Crt[T]', timeout: Optional[float] = None) -> T:
        return eval_coroutine(crt, timeout)

    def run_all(self, crts: Sequence['Crt[Any]']) -> List[Any]:
        threads = []
        for crt in crts:
            waiting = threading.Event()
            threads.append(Thread(eval_coroutine, notified(crt, waiting), LIMIT))
            # Or has ended.
            assert waiting.wait(LIMIT)
        return [thread.finish() for thread in threads]

    def cancel(self, crt: 'Crt[Any]') -> None:
        raised = []

        def handle(*_: object) -> None:
            # Signals go on, as the first one might have come too early to interrupt the wait.
            if not raised:
                raised.append(True)
                raise Cancelled

        with pytest.raises(Cancelled), signals(handle, 0.02, 0.02):
            eval_coroutine(crt, LIMIT)


def notified(crt: 'Crt[T]', waiting: threading.Event) -> 'Crt[T]':
    """Run *crt*; set *waiting* before its first wait, or at its end."""
    try:
        return (yield from observed(crt, lambda index: waiting.set()))
    finally:
        waiting.set()


def observed(crt: 'Crt[T]', observe: Callable[[int], None]) -> 'Crt[T]':
    """Run *crt*; call *observe* before each wait, with its number from 0."""
    try:
        need = next(crt)
        for index in itertools.count():
            observe(index)
            try:
                yield need
            except GeneratorExit:
                raise
            except BaseException as exc:
                need = crt.throw(exc)
            else:
                need = next(crt)
    except StopIteration as exc:
        return exc.value
    finally:
        crt.close()


class Asyncio(Driver):
    name = 'asyncio'

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def run(self, crt: 'Crt[T]', timeout: Optional[float] = None) -> T:
        loop = self.new_loop()
        try:
            return loop.run_until_complete(AioFuture(crt, loop, timeout))
        finally:
            loop.close()

    def run_all(self, crts: Sequence['Crt[Any]']) -> List[Any]:
        async def main() -> List[Any]:
            return list(await asyncio.gather(*(AioFuture(crt) for crt in crts)))

        loop = self.new_loop()
        try:
            return loop.run_until_complete(asyncio.wait_for(main(), LIMIT))
        finally:
            loop.close()

    def cancel(self, crt: 'Crt[Any]') -> None:
        async def main() -> None:
            future = AioFuture(crt)
            await asyncio.sleep(0.02)
            assert future.cancel()
            with pytest.raises(asyncio.CancelledError):
                await future

        loop = self.new_loop()
        try:
            loop.run_until_complete(main())
        finally:
            loop.close()


class Uvloop(Asyncio):
    name = 'uvloop'

    def available(self) -> bool:
        return importlib.util.find_spec('uvloop') is not None

    def new_loop(self) -> asyncio.AbstractEventLoop:
        import uvloop

        return uvloop.new_event_loop()


class Trio(Driver):
    """The recipe of `examples/trio_get.py`; time limits are those of Trio."""

    name = 'trio'

    def available(self) -> bool:
        return importlib.util.find_spec('trio') is not None

    @property
    def timed_out(self) -> Any:
        import trio

        return trio.TooSlowError

    def run(self, crt: 'Crt[T]', timeout: Optional[float] = None) -> T:
        import trio

        async def main() -> T:
            with trio.fail_after(LIMIT if timeout is None else timeout):
                return await load_example('trio_get').run(crt)

        return trio.run(main)

    def run_all(self, crts: Sequence['Crt[Any]']) -> List[Any]:
        import trio

        results = [None] * len(crts)

        async def one(index: int, crt: 'Crt[Any]') -> None:
            results[index] = await load_example('trio_get').run(crt)

        async def main() -> None:
            with trio.fail_after(LIMIT):
                async with trio.open_nursery() as nursery:
                    for index, crt in enumerate(crts):
                        nursery.start_soon(one, index, crt)
                        # A nursery starts its tasks in any order.
                        await trio.testing.wait_all_tasks_blocked()

        import trio.testing

        trio.run(main)
        return results

    def cancel(self, crt: 'Crt[Any]') -> None:
        import trio
        import trio.testing

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load_example('trio_get').run, crt)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        trio.run(main)


class OwnLoop(Driver):
    """The recipe of `examples/own_loop.py`."""

    name = 'selectors'

    def run(self, crt: 'Crt[T]', timeout: Optional[float] = None) -> T:
        (result,) = self._run([crt], LIMIT if timeout is None else timeout)
        return result

    def run_all(self, crts: Sequence['Crt[Any]']) -> List[Any]:
        return self._run(crts, LIMIT)

    @staticmethod
    def _run(crts: Sequence['Crt[Any]'], timeout: float) -> List[Any]:
        results = [None] * len(crts)

        def task(index: int, crt: 'Crt[Any]') -> 'Crt[None]':
            results[index] = yield from crt

        loop = load_example('own_loop').Loop(timeout)
        try:
            for index, crt in enumerate(crts):
                loop.step(task(index, crt))
            loop.run()
        finally:
            loop.close()
        return results

    def cancel(self, crt: 'Crt[Any]') -> None:
        loop = load_example('own_loop').Loop(LIMIT)
        loop.step(crt)
        loop.close()


_examples = {}


def load_example(name: str) -> Any:
    """Import `examples/NAME.py`."""
    if name not in _examples:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        path = sys.path[:]
        try:
            spec.loader.exec_module(module)
        finally:
            # The example puts the source tree in front, for a run from the command line.
            sys.path[:] = path
        _examples[name] = module
    return _examples[name]


DRIVERS = [Blocking(), Asyncio(), Uvloop(), Trio(), OwnLoop()]
AIO_DRIVERS = [d for d in DRIVERS if isinstance(d, Asyncio)]


def driver_params(drivers: Sequence[Driver]) -> List[Any]:
    return [
        pytest.param(
            driver,
            id=driver.name,
            marks=() if driver.available() else pytest.mark.skip(f'{driver.name} is missing'),
        )
        for driver in drivers
    ]


class Counted:
    """A coroutine that counts its waits."""

    def __init__(self, crt: 'Crt[Any]') -> None:
        self.waits = 0
        self.crt = observed(crt, self._count)

    def _count(self, index: int) -> None:
        self.waits = index + 1


# Servers that keep a client waiting


@contextlib.contextmanager
def black_hole() -> Iterator[Tuple[str, int]]:
    """An address that does not answer to attempts to connect: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(('127.0.0.1', 0))
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(64):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(address)
            if not select.select([], [sock], [], 0.05)[1]:
                break
        else:
            pytest.skip('the queue of a listening socket has no end here')
        yield address


@contextlib.contextmanager
def refused_address() -> Iterator[Tuple[str, int]]:
    """An address that refuses connections."""
    with socket.socket() as sock:
        # Bound and not listening, so that nobody else gets the port.
        sock.bind(('127.0.0.1', 0))
        yield sock.getsockname()


def resolve_to(monkeypatch: pytest.MonkeyPatch, *addresses: Tuple[str, int]) -> None:
    """Let `socket.getaddrinfo` find *addresses* for every name."""
    infos = [
        (
            socket.AF_INET6 if ':' in host else socket.AF_INET,
            socket.SOCK_STREAM,
            6,
            '',
            (host, port),
        )
        for host, port in addresses
    ]
    monkeypatch.setattr(socket, 'getaddrinfo', lambda *args, **kwargs: list(infos))


def set_small_buffer(sock: socket.socket, size: int = 8192) -> None:
    """Let the kernel take little at a time, so that sending has to wait."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)


def answer_all(reply: bytes = REPLY) -> Callable[[Peer], None]:
    """A handler that sends *reply* to each bodyless request, as fast as it can."""

    def handle(peer: Peer) -> None:
        tail = b''
        while True:
            data = peer.sock.recv(1 << 16)
            if not data:
                return
            data = tail + data
            count = data.count(b'\r\n\r\n')
            tail = b'' if data.endswith(b'\r\n\r\n') else data[-3:]
            if count:
                peer.send(reply * count)

    return handle


class Scene:
    """A server that does nothing but what the test tells it to, one step at a time.

    It runs in the thread of the test, so a client coroutine that waits goes on waiting until
    `step` is called, which takes at most 16 KiB from the client and delivers the next piece of
    what the server has to send. The handshake and each TLS record come in two pieces.
    With *proxy*, it first answers a CONNECT request.
    """

    def __init__(
        self, context: Optional[ssl.SSLContext] = None, proxy: bool = False, size: int = 5
    ) -> None:
        self.context = context
        self.proxy = proxy
        self.size = size
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.listener.bind(('127.0.0.1', 0))
        self.listener.listen(8)
        self.listener.setblocking(False)
        self.address: Tuple[str, int] = self.listener.getsockname()
        self.sock: Optional[socket.socket] = None
        self.received = 0
        self._raw = b''
        self._pieces: Deque[bytes] = deque()
        self._tunnelled = False
        self._tls: Optional[ssl.SSLObject] = None
        self._shaken = False

    def _accept(self) -> None:
        """Accept what has connected; only the latest connection counts."""
        new = None
        while True:
            try:
                sock, _ = self.listener.accept()
            except BlockingIOError:
                break
            if new is not None:
                new.close()
            new = sock
        if new is not None:
            self._take(new)

    def _take(self, sock: socket.socket) -> None:
        self.drop()
        self.sock = sock
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = 0
        self._raw = b''
        self._pieces.clear()
        self._tunnelled = not self.proxy
        self._tls = None
        if self._tunnelled:
            self._start_tls()

    def _start_tls(self) -> None:
        if self.context is not None:
            self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = self.context.wrap_bio(self._in, self._out, server_side=True)
            self._shaken = False

    def _receive(self) -> None:
        assert self.sock is not None
        try:
            data = self.sock.recv(16384)
        except (BlockingIOError, ConnectionError):
            return
        if not self._tunnelled:
            self._raw += data
            if b'\r\n\r\n' in self._raw:
                assert self._raw.startswith(b'CONNECT ')
                self._tunnelled = True
                self._send_in_halves(b'HTTP/1.1 200 OK\r\n\r\n')
                self._start_tls()
        elif self._tls is None:
            self.received += len(data)
        elif data:
            self._in.write(data)
            self._work()

    def _work(self) -> None:
        """Let the TLS object go on; *what* it wants to send becomes pieces."""
        assert self._tls is not None
        with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
            if not self._shaken:
                self._tls.do_handshake()
                self._shaken = True
            while True:
                data = self._tls.read(65536)
                if not data:
                    break
                self.received += len(data)
        self._send_in_halves(self._out.read())

    def _send_in_halves(self, data: bytes) -> None:
        middle = len(data) // 2
        self._pieces.extend(filter(None, (data[:middle], data[middle:])))

    def reply(self, data: bytes) -> None:
        """Have *data* delivered, `size` bytes with each step, over TLS as records of this size."""
        for begin in range(0, len(data), self.size):
            piece = data[begin : begin + self.size]
            if self._tls is None:
                self._pieces.append(piece)
            else:
                self._tls.write(piece)
                self._send_in_halves(self._out.read())

    def step(self) -> None:
        self._accept()
        if self.sock is not None:
            self._receive()
            if self._pieces:
                with contextlib.suppress(ConnectionError):
                    self.sock.send(self._pieces.popleft())

    def serve(self, need: PollNeeded) -> None:
        """Take steps until what a client waits for has happened."""
        end = time.monotonic() + LIMIT
        while not need.poll(0):
            self.step()
            # A thread that resolves a name takes its time.
            if need.poll(0.001):
                return
            assert time.monotonic() < end, f'{need} never happens'

    def drive(self, crt: 'Crt[T]') -> T:
        """Run *crt* to its end."""
        try:
            while True:
                self.serve(next(crt))
        except StopIteration as exc:
            return exc.value

    def exchange(self, conn: HTTPConnection) -> None:
        """A request with its response, from beginning to end."""
        self.drive(conn.co_send_request('GET', '/'))
        self.step()
        self.reply(REPLY)
        response = self.drive(conn.co_read_response())
        assert response.status == 200
        assert self.drive(conn.co_readall()) == b'hello'

    def drop(self) -> None:
        """Close the connection."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def close(self) -> None:
        self.drop()
        self.listener.close()

    def __enter__(self) -> 'Scene':
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class CountingSelector(selectors.DefaultSelector):  # type: ignore[misc,valid-type]
    """Counts the turns of an event loop, and checks that watchers go before descriptors do."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = 0
        self.late: List[int] = []

    def select(self, timeout: Optional[float] = None) -> Any:
        self.turns += 1
        return super().select(timeout)

    def unregister(self, fileobj: Any) -> Any:
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        try:
            os.fstat(fd)
        except OSError:
            self.late.append(fd)
        return super().unregister(fileobj)
