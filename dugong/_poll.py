"""What a coroutine yields when it has to wait, and the one loop that waits in blocking mode.

A dugong coroutine is a generator. It yields a `PollNeeded` whenever it has to wait for a file
descriptor, and is to be resumed once that one is ready; resuming it too early is harmless. Its
return value is the result. That is the whole contract: `eval_coroutine` is the driver for
blocking calls, `AioFuture` the one for asyncio, and any other event loop can have its own.
"""

from __future__ import annotations

import math
import select
from collections import namedtuple
from contextlib import suppress
from time import perf_counter

from ._exceptions import ConnectionTimedOut
from ._settings import package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generator, NamedTuple, Optional, Tuple, TypeVar

    T = TypeVar('T')

    #: A dugong coroutine with a result of type T.
    Coroutine = Generator['PollNeeded', None, T]

    class _PollNeeded(NamedTuple):
        fd: int
        mask: int
else:
    _PollNeeded = namedtuple('_PollNeeded', 'fd mask')

#: Bits of `PollNeeded.mask`: wait until data can be received, or sent, without waiting.
POLLIN: int = getattr(select, 'POLLIN', 1)
POLLOUT: int = getattr(select, 'POLLOUT', 4)

# poll() takes a C int of milliseconds. Nobody will notice that infinity ends after 24 days.
_MAX_SECONDS = (2**31 - 1) // 1000


class Looks:
    """Decides which waits begin with a look, as one that is in vain costs more than it may save.

    After one in vain, some waits begin without: 1, then 3, 7, … and at most `_MAX`, until a look
    succeeds. It need not be exact when several threads use it.
    """

    __slots__ = ('_left', '_pause')

    _MAX = 64

    def __init__(self) -> None:
        # The waits that are still to begin without a look, and how many there were at last.
        self._left = 0
        self._pause = 0

    def due(self) -> bool:
        """Tell whether the wait that begins now is to have a look."""

        if self._left:
            self._left -= 1
            return False
        return True

    def note(self, found: bool) -> None:
        """Note the outcome of a look."""

        self._left = self._pause = 0 if found else min(2 * self._pause + 1, self._MAX)


class PollNeeded(_PollNeeded):
    """A file descriptor *fd* (int) and what to wait for there.

    *mask* (int) is `POLLIN`, `POLLOUT` or both, which means either of them. An error or a
    hang-up on the descriptor also ends the wait.
    """

    __module__ = 'dugong'

    # What is waited for if the descriptor does not tell.
    _purpose: Optional[str] = None

    # Whether an event loop has shown that it can wait for this.
    _watched = False

    # There if what is waited for may come so soon that to sleep would take longer.
    _busy_waits: Optional[Looks] = None

    def __reduce__(self) -> Tuple[Any, ...]:
        # Without the poll object.
        return type(self), tuple(self)

    def poll(self, timeout: Optional[float] = None) -> bool:
        """Wait until the descriptor is ready; return False if it is not after *timeout* seconds.

        `None` waits for ever, 0 does not wait. A signal handler that raises ends the wait.
        """

        # The poll object is kept, as making one costs as much as polling. It is taken away
        # for the time of the wait because it refuses to be used by two threads at once.
        poller = self.__dict__.pop('_poller', None)
        if poller is None:
            poller = make_poller(self.fd, self.mask)
        busy_waits = self._busy_waits
        ready = False
        if busy_waits is not None and (timeout is None or timeout > 0) and busy_waits.due():
            ready = _busy_wait(poller, timeout)
            busy_waits.note(ready)
            if timeout is not None:
                timeout = float(timeout) - package.MAX_BUSY_WAIT
        if not ready:
            if timeout is None:
                milliseconds = None
            else:
                # Rounded up: a wait must not end before its time and count as timed out.
                milliseconds = math.ceil(min(max(0, timeout), _MAX_SECONDS) * 1000)
            ready = bool(poller.poll(milliseconds))
        self.__dict__['_poller'] = poller
        return ready


def _busy_wait(poller: Any, timeout: Optional[float]) -> bool:
    """Look again and again for up to `MAX_BUSY_WAIT` seconds.

    For the system, to put a thread to sleep and to wake it up is tens of microseconds of work, on
    a virtual machine more.
    """

    if poller.poll(0):
        return True
    limit = min(package.MAX_BUSY_WAIT, _MAX_SECONDS if timeout is None else float(timeout))
    end = perf_counter() + limit
    # A test may have stopped the clock, hence a number of looks that takes longer than that.
    for _ in range(int(limit * 10_000_000)):
        if perf_counter() >= end:
            break
        if poller.poll(0):
            return True
    return False


class _SelectPoller:
    """Stands in for a poll object with one descriptor where the system has no `poll`."""

    def __init__(self, fd: int, mask: int) -> None:
        self._readable = [fd] if mask & POLLIN else []
        self._writable = [fd] if mask & POLLOUT else []
        # Windows reports a failed connect as an exceptional condition.
        self._exceptional = [fd]

    def poll(self, milliseconds: Optional[int]) -> bool:
        timeout = None if milliseconds is None else milliseconds / 1000
        return any(select.select(self._readable, self._writable, self._exceptional, timeout))


def make_poller(fd: int, mask: int) -> Any:
    """Return a poll object, or what stands in for it, with one descriptor."""

    if not hasattr(select, 'poll'):
        return _SelectPoller(fd, mask)
    poller = select.poll()
    poller.register(fd, mask)
    return poller


def eval_coroutine(crt: Coroutine[T], timeout: Optional[float] = None) -> T:
    """Drive the dugong coroutine *crt* to its end, waiting as needed, and return its result.

    *timeout* (seconds; `None`: no limit) bounds each single wait, not the whole: when one is
    longer, `ConnectionTimedOut` is raised inside the coroutine, which can put its affairs in
    order. So is what a signal handler raises during a wait, `KeyboardInterrupt` for instance.
    """

    try:
        need = next(crt)
        while True:
            if need.poll(timeout):
                need = next(crt)
            else:
                need = crt.throw(ConnectionTimedOut(timeout_message(need, timeout)))
    except StopIteration as exc:
        result: T = exc.value
        return result
    except BaseException as exc:
        # If it was not the coroutine that raised this, it has to be told now, as nobody will
        # resume it: a signal may strike in a wait, or anywhere here.
        if getattr(crt, 'gi_frame', None) is not None:
            with suppress(BaseException):
                crt.throw(exc)
            crt.close()
        raise


eval_coroutine.__module__ = 'dugong'


def timeout_message(need: PollNeeded, timeout: Optional[float]) -> str:
    """Say what was waited for in vain for *timeout* seconds."""

    if need._purpose is not None:
        what = need._purpose
    elif need.mask == POLLIN:
        what = 'receive'
    elif need.mask == POLLOUT:
        what = 'send'
    else:
        what = 'send or receive'
    return f'timed out after waiting {timeout:g} s to {what}'
