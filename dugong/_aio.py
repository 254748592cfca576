"""The bridge to asyncio: `AioFuture` drives a dugong coroutine on an event loop.

An event loop keeps one callback per descriptor and direction, but two coroutines may wait for
the same one (TLS makes that legal). So the callback is a watch shared by all futures that wait
there; all are stepped when it is called, as being stepped for nothing is harmless. When there is
an error, uvloop calls both callbacks of a descriptor, and then gives it up with whatever has been
added to it meanwhile. So the loop must not watch it any more when the first coroutine is stepped.

On a busy loop, what a coroutine waits for has mostly happened by the next turn. To look then
costs a fraction of what it takes to have the loop watch the descriptor, so that comes first as
long as it mostly succeeds.
"""

from __future__ import annotations

import asyncio
import weakref

from ._exceptions import ConnectionTimedOut
from ._poll import POLLIN, POLLOUT, Looks, PollNeeded, make_poller, timeout_message

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Generator, List, Optional, Tuple, TypeVar

    from ._poll import Coroutine

    T = TypeVar('T')
    _FutureOf = asyncio.Future
else:
    # In CPython 3.8 the class cannot be subscripted.
    _FutureOf = {'T': asyncio.Future}


class _Watch:
    """Callback for one descriptor and direction on one event loop."""

    __slots__ = ('__weakref__', '_fd', '_key', '_loop', '_mask', '_other_key', 'futures')

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, mask: int) -> None:
        self.futures: List[AioFuture[Any]] = []
        self._loop = loop
        self._fd = fd
        self._mask = mask
        self._key = (id(loop), fd, mask)
        self._other_key = (id(loop), fd, POLLIN + POLLOUT - mask)

    def __call__(self) -> None:
        futures = list(self.futures)
        try:
            self._leave()
            other = _watches.get(self._other_key)
            if other is not None and _has_error(self._fd):
                futures += [future for future in other.futures if future not in futures]
                other._leave()
            for future in futures:
                # An earlier one may have cancelled it.
                if not future.done():
                    future._resume()
        except BaseException:
            # Of a signal handler, or for who runs the loop: the others must not wait for ever.
            for future in futures:
                if not future.done():
                    self._loop.call_soon(future._resume)
            raise

    def add(self, future: AioFuture[Any]) -> None:
        """Step *future* when the descriptor is ready; raises what the loop raises."""

        if not self.futures:
            watch = self._loop.add_reader if self._mask == POLLIN else self._loop.add_writer
            try:
                watch(self._fd, self)
            except NotImplementedError as exc:
                kind = type(self._loop).__name__
                raise NotImplementedError(
                    f'{kind} cannot watch a descriptor; asyncio.SelectorEventLoop can'
                ) from exc
            _watches[self._key] = self
        self.futures.append(future)

    def remove(self, future: AioFuture[Any]) -> None:
        # In an order, and with checks, that let it be repeated if a signal handler raises within.
        if future in self.futures:
            self.futures.remove(future)
        if not self.futures:
            self._leave()

    def _leave(self) -> None:
        """Have the loop watch the descriptor no more."""

        self.futures.clear()
        if _watches.get(self._key) is not self:
            return
        if not self._loop.is_closed():
            if self._mask == POLLIN:
                self._loop.remove_reader(self._fd)
            else:
                self._loop.remove_writer(self._fd)
        # A signal handler may have done all this meanwhile.
        _watches.pop(self._key, None)


def _has_error(fd: int) -> bool:
    # Nothing to wait for, as errors are always reported.
    return bool(make_poller(fd, 0).poll(0))


# The watches in use. Only the loop keeps them, so that they go when the loop goes.
_watches: weakref.WeakValueDictionary[Tuple[int, int, int], _Watch] = weakref.WeakValueDictionary()


class AioFuture(_FutureOf['T']):
    """An `asyncio.Future` for the result of the dugong coroutine *crt*.

    Can be awaited, and used wherever asyncio takes a future. *loop* is the event loop, by default
    the running one. *timeout* (seconds; `None`: no limit) bounds each single wait for the
    network: when one is longer, `ConnectionTimedOut` is raised inside the coroutine.

    The coroutine starts at once. If it ends without having to wait, so does the future. It runs
    on by itself, whether the future is awaited or not.

    `cancel` closes the coroutine; see `HTTPConnection` for what that means to the connection.
    While a task awaits the future, that task runs the coroutine. So if the task is cancelled, be
    it in the moment in which data arrive, the coroutine is closed while it waits, and no result
    is lost. A coroutine that yields anything but `PollNeeded` gets a `TypeError`.
    """

    __module__ = 'dugong'

    # Shared by all loops; it need not be exact.
    _looks = Looks()

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
        self._watching: List[_Watch] = []
        self._look_handle: Optional[asyncio.Handle] = None
        # Wakes up the task that runs the coroutine.
        self._waker: Optional[asyncio.Future[Optional[BaseException]]] = None
        self._stepping = False
        self._must_cancel = False
        # Now, so that a reader finds the request of the sender made before it.
        self._step()

    def __await__(self) -> Generator[Any, None, T]:
        """Wait for the result."""

        return super().__await__() if self.done() else self._run_in_task()

    __iter__ = __await__

    def _run_in_task(self) -> Generator[Any, None, T]:
        """Run the coroutine to its end in the task that awaits the future.

        If the loop ran it, the last step would be a turn of the loop ahead of the task. A task
        that is cancelled in between, as by `asyncio.wait_for`, would lose the result.
        """

        if self._waker is None:
            self.add_done_callback(AioFuture._wake)
            waker: Optional[asyncio.Future[Optional[BaseException]]] = None
            try:
                while not self.done():
                    self._waker = waker = self._aio_loop.create_future()
                    self._step((yield from waker))
            except asyncio.CancelledError:
                if not self.cancel() or self.cancelled():
                    if not self.cancelled():
                        # The task does not get the error, so it must not be reported as forgotten.
                        self.exception()
                    raise
            finally:
                self._waker = None
                self.remove_done_callback(AioFuture._wake)
                if waker is not None and waker.done() and not self.done():
                    # The task was destroyed when it was to take a step. The coroutine goes on.
                    error = None if waker.cancelled() else waker.result()
                    if not self._aio_loop.is_closed():
                        self._aio_loop.call_soon(self._step, error)
                # The traceback of an error refers to this frame, so this must not refer to it.
                error = waker = None
        # Else another task runs it.
        result = super().__await__()
        del self
        return (yield from result)

    def _wake(self, error: Optional[BaseException] = None) -> None:
        """Have the task run the coroutine; *error* is thrown into it."""

        # A task that has been cancelled, or woken up already, needs nothing.
        if self._waker is not None and not self._waker.done():
            self._waker.set_result(error)

    def _resume(self, error: Optional[BaseException] = None) -> None:
        """Run the coroutine, here or in the task that awaits the future."""

        if self._waker is None:
            self._step(error)
        else:
            self._wake(error)

    def _step(
        self, error: Optional[BaseException] = None, unmet: Optional[PollNeeded] = None
    ) -> None:
        """Run the coroutine until it has to wait again, or ends.

        After a look in vain, *unmet* is what it still has to wait for before it is run.
        """

        self._stepping = True
        try:
            # The watchers have to go before the coroutine gets a chance to close the descriptor.
            self._stop_waiting()
            need = unmet
            # A signal handler may have cancelled it just before.
            while not self.done():
                if need is None:
                    need = next(self._crt) if error is None else self._crt.throw(error)
                if self._must_cancel:
                    self._crt.close()
                    super().cancel()
                    return
                try:
                    self._wait(need, look=need is not unmet)
                    return
                except Exception as exc:
                    # It cannot wait for that, and shall know.
                    self._stop_waiting()
                    need = None
                    error = exc
        except StopIteration as exc:
            # Even if a signal handler has just cancelled it: what was received would be lost, and
            # the connection would not know.
            self.set_result(exc.value)
        except asyncio.CancelledError:
            super().cancel()
        except (KeyboardInterrupt, SystemExit) as exc:
            self.set_exception(exc)
            # It is raised here, so it must not be reported as forgotten.
            self.exception()
            raise
        except BaseException as exc:
            # Without this frame, which refers to the future.
            assert exc.__traceback__ is not None
            self.set_exception(exc.with_traceback(exc.__traceback__.tb_next))
        finally:
            error = None
            self._stepping = False
            if self._must_cancel and not self.done():
                # A signal handler has asked for that after the coroutine had to wait.
                self.cancel()

    def _wait(self, need: PollNeeded, look: bool) -> None:
        if not isinstance(need, PollNeeded):
            raise TypeError(f'coroutine must yield PollNeeded, not {type(need).__name__}')
        if not need._watched:
            # What cannot be watched, a file for instance, may look as if it were always ready.
            self._watch(need)
            need._watched = True
        elif look and AioFuture._looks.due():
            self._look_handle = self._aio_loop.call_soon(self._look, need)
        else:
            self._watch(need)

    def _look(self, need: PollNeeded) -> None:
        """Go on if *need* is met by now, else have the loop watch for it."""

        try:
            found = need.poll(0)
            AioFuture._looks.note(found)
        except Exception as exc:
            self._resume(exc)
            return
        if found:
            self._resume()
        else:
            self._step(unmet=need)

    def _watch(self, need: PollNeeded) -> None:
        loop = self._aio_loop
        fd, mask = need
        for direction in (POLLIN, POLLOUT):
            if mask & direction:
                watch = _watches.get((id(loop), fd, direction)) or _Watch(loop, fd, direction)
                # In this order, in case that a signal handler raises between.
                self._watching.append(watch)
                watch.add(self)
        if self._aio_timeout is not None:
            self._timer = loop.call_later(self._aio_timeout, self._time_out, need)

    def _time_out(self, need: PollNeeded) -> None:
        self._resume(ConnectionTimedOut(timeout_message(need, self._aio_timeout)))

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._look_handle is not None:
            self._look_handle.cancel()
            self._look_handle = None
        while self._watching:
            self._watching[-1].remove(self)
            self._watching.pop()

    def cancel(self, *args: Any, **kwargs: Any) -> bool:
        """Cancel the future and close the coroutine. False if it is done already.

        That happens now, or if the coroutine is just running, as soon as it waits; if it ends
        instead, its result or exception counts, although this has returned True. An exception that
        the coroutine raises when it is closed becomes that of the future.
        """

        if self.done():
            return False
        if self._stepping:
            # The coroutine itself, or a signal handler, has called this.
            self._must_cancel = True
            return True
        self._stepping = True
        try:
            # Before the coroutine gets a chance to close the descriptor.
            self._stop_waiting()
            self._crt.close()
        except Exception as exc:
            self.set_exception(exc)
            return True
        except BaseException:
            # Of a signal handler. Whoever waits for this must not wait for ever.
            super().cancel(*args, **kwargs)
            raise
        return super().cancel(*args, **kwargs)
