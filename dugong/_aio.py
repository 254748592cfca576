"""The bridge to asyncio: `AioFuture` drives a dugong coroutine on an event loop.

An event loop keeps one callback per descriptor and direction, but two coroutines may wait for
the same one (TLS makes that legal). So the callback belongs to a list of waiting futures, all of
which are stepped when it is called; being stepped for nothing is harmless.
"""

from __future__ import annotations

import asyncio
import weakref

from ._exceptions import ConnectionTimedOut
from ._poll import POLLIN, POLLOUT, PollNeeded, timeout_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, List, Optional, Tuple, TypeVar

    from ._poll import Coroutine

    T = TypeVar('T')
    _Base = asyncio.Future[T]
    _Waiting = Dict[Tuple[int, int], List['AioFuture[Any]']]
else:
    _Base = asyncio.Future

#: So many futures may complete without waiting, one after the other, before one has to wait for
#: a turn of the loop, so that a coroutine for which data are always there cannot starve others.
_MAX_IMMEDIATE = 64

_waiting: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Waiting] = (
    weakref.WeakKeyDictionary()
)


class AioFuture(_Base):
    """An `asyncio.Future` for the result of the dugong coroutine *crt*.

    Can be awaited, and used wherever asyncio takes a future. *loop* is the event loop, by default
    the running one. *timeout* (seconds; `None`: no limit) bounds each single wait for the
    network: when one is longer, `ConnectionTimedOut` is raised inside the coroutine.

    The coroutine starts at once. If it ends without having to wait, so does the future. It runs
    on by itself, whether the future is awaited or not. `cancel` closes the coroutine; see
    `HTTPConnection` for what that means to the connection. `TypeError` is the result if the
    coroutine yields anything but `PollNeeded`.
    """

    __module__ = 'dugong'

    # Shared by all loops; it need not be exact.
    _immediate = 0

    def __init__(
        self,
        crt: Coroutine[T],
        loop: Optional[asyncio.AbstractEventLoop] = None,
        timeout: Optional[float] = None,
    ) -> None:
        if loop is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                loop = asyncio.get_event_loop()
        super().__init__(loop=loop)
        self._crt = crt
        self._aio_loop = loop
        self._aio_timeout = timeout
        self._timer: Optional[asyncio.TimerHandle] = None
        self._need: Optional[PollNeeded] = None
        self._start: Optional[asyncio.Handle] = None
        if AioFuture._immediate < _MAX_IMMEDIATE:
            AioFuture._immediate += 1
            self._step()
        else:
            AioFuture._immediate = 0
            self._start = loop.call_soon(self._step)

    def _step(self, error: Optional[BaseException] = None) -> None:
        """Run the coroutine until it has to wait again, or ends."""

        # The watchers have to go before the coroutine gets a chance to close the descriptor.
        self._stop_waiting()
        try:
            need = next(self._crt) if error is None else self._crt.throw(error)
        except StopIteration as exc:
            self.set_result(exc.value)
        except asyncio.CancelledError:
            super().cancel()
        except (KeyboardInterrupt, SystemExit) as exc:
            self.set_exception(exc)
            raise
        except BaseException as exc:
            self.set_exception(exc)
        else:
            if isinstance(need, PollNeeded):
                self._wait(need)
            else:
                self._crt.close()
                self.set_exception(
                    TypeError(f'coroutine must yield PollNeeded, not {type(need).__name__}')
                )

    def _wait(self, need: PollNeeded) -> None:
        AioFuture._immediate = 0
        loop = self._aio_loop
        waiting = _waiting.get(loop)
        if waiting is None:
            waiting = _waiting[loop] = {}
        fd, mask = need
        if mask & POLLIN:
            futures = waiting.get((fd, POLLIN))
            if futures is None:
                futures = waiting[fd, POLLIN] = []
                loop.add_reader(fd, _wake, futures)
            futures.append(self)
        if mask & POLLOUT:
            futures = waiting.get((fd, POLLOUT))
            if futures is None:
                futures = waiting[fd, POLLOUT] = []
                loop.add_writer(fd, _wake, futures)
            futures.append(self)
        self._need = need
        if self._aio_timeout is not None:
            self._timer = loop.call_later(self._aio_timeout, self._time_out)

    def _time_out(self) -> None:
        assert self._need is not None
        self._step(ConnectionTimedOut(timeout_message(self._need, self._aio_timeout)))

    def _stop_waiting(self) -> None:
        need = self._need
        if need is None:
            return
        self._need = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        loop = self._aio_loop
        waiting = _waiting[loop]
        fd, mask = need
        for direction, remove in ((POLLIN, loop.remove_reader), (POLLOUT, loop.remove_writer)):
            if mask & direction:
                futures = waiting[fd, direction]
                futures.remove(self)
                if not futures:
                    del waiting[fd, direction]
                    if not loop.is_closed():
                        remove(fd)

    def cancel(self, *args: Any, **kwargs: Any) -> bool:
        """Cancel the future and close the coroutine, now. False if it is done already."""

        if self.done():
            return False
        if self._start is not None:
            self._start.cancel()
        # The watchers have to go before the coroutine gets a chance to close the descriptor.
        self._stop_waiting()
        self._crt.close()
        return super().cancel(*args, **kwargs)


def _wake(futures: List[AioFuture[Any]]) -> None:
    for future in tuple(futures):
        # An earlier one may have completed or cancelled it.
        if future in futures:
            future._step()
