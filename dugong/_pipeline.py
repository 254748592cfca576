"""Many requests over one connection at a time, with the answers in order and none lost.

A pipeline sends ahead as far as the server keeps up with it, reads whenever something is there,
and sends again on a new connection what an old one did not answer, if that cannot do harm. It
works on the session directly: several requests leave with one system call, and one coroutine
both sends and receives, so that neither side can block the other.

*How many are in flight.* The window begins small and grows by one with each answer, like the
window of a TCP connection, up to `max_pending`. When a connection is lost it shrinks to half of
what that connection has answered; it grows again only after a connection has answered more than
the lost one did. So a server that closes after each response is soon sent one request at a time.
"""

from __future__ import annotations

import contextlib
import functools
import weakref
from collections import deque

from ._exceptions import (
    ConnectionClosed,
    ConnectionTimedOut,
    InvalidResponse,
    ProxyError,
    StateError,
    UnsupportedResponse,
    is_temp_network_error,
)
from ._poll import eval_coroutine
from ._request import pairs
from ._settings import package
from ._source import as_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, Iterable, Iterator, List, Optional

    from ._connection import HTTPConnection
    from ._poll import Coroutine, PollNeeded
    from ._response import HTTPResponse
    from ._session import Request, Session
    from ._stream import Data

#: Methods whose requests may be repeated without harm (RFC 9110, section 9.2.2).
IDEMPOTENT = frozenset(('GET', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'TRACE'))

#: What `pipeline` takes if nothing else is said.
MAX_PENDING = 64
MAX_RETRIES = 3

# Requests in flight on the first connection, before the first answer.
_FIRST_WINDOW = 4

# Bytes of requests in flight, unless a single request is larger.
_MAX_BYTES = 1 << 18

# Bytes of a body that are read at a time.
_READ_SIZE = 1 << 18

# Responses that a server or proxy gives, and closes, if it cannot deal with pipelined requests.
_PIPELINING_ERRORS = frozenset((400, 408, 500, 501, 502, 503, 504))


_CLOSED = 'the pipeline was closed before all answers were read'
_TORN = 'the pipeline was interrupted in the middle of its work'


class _Item:
    """A request of the caller: *given* as it came, and as method, path, headers and body."""

    __slots__ = (
        'alone',
        'arguments',
        'behind',
        'cut',
        'given',
        'idempotent',
        'request',
        'sent',
        'size',
    )

    def __init__(self, given: Any) -> None:
        self.given = given
        arguments = ('GET', given) if isinstance(given, str) else tuple(given)
        if not 2 <= len(arguments) <= 4:
            raise ValueError(
                'a request is a path, or a tuple of method, path, and optionally headers and '
                f'body, not a sequence of {len(arguments)}'
            )
        self.arguments = (*arguments, None, None)[:4]
        body = self.arguments[3]
        if body is not None and type(body) is not bytes:
            view = as_bytes(body)
            if view is None:
                raise TypeError(
                    f'body of a pipelined request must be bytes-like, not {type(body).__name__}'
                )
            # A copy, as the caller may change it before it has to be sent again.
            self.arguments = (*self.arguments[:3], bytes(view))
        self.idempotent = self.arguments[0] in IDEMPOTENT
        self.request: Optional[Request] = None
        # Bytes of head and body.
        self.size = 0
        # Not to be sent behind unanswered requests, nor others behind it.
        self.alone = not self.idempotent
        # Whether it was sent behind unanswered requests, and whether at all.
        self.behind = False
        self.sent = False
        # Whether the connection was lost before its end was sent.
        self.cut = False

    def encode(self, conn: HTTPConnection, session: Session, stream: bool) -> Request:
        """Make the request as it is sent on *session*.

        *stream* tells that the body of the answer is for the caller to read.
        """

        method, path, headers, body = self.arguments
        if headers is not None and self.request is None:
            # The caller may change them afterwards.
            headers = tuple(pairs(headers))
            self.arguments = (method, path, headers, body)
        request = conn._make_request(conn._form_on(session), method, path, headers, body, False)
        if request.upgrade or method == 'CONNECT':
            raise ValueError('a request that changes the protocol cannot be pipelined')
        request.pipelined = True
        request.reserved = not stream
        request.track_content()
        self.size = len(request.head) + len(request.content or b'')
        self.request = request
        return request


class _Pipeline:
    """What both kinds of pipeline have in common, see `HTTPConnection.pipeline`."""

    def __init__(
        self,
        conn: HTTPConnection,
        requests: Iterable[Any],
        max_pending: int,
        max_retries: int,
        stream: bool,
    ) -> None:
        if max_pending < 1:
            raise ValueError(f'max_pending must be at least 1, not {max_pending}')
        if max_retries < 0:
            raise ValueError(f'max_retries cannot be negative: {max_retries}')
        if isinstance(requests, (str, bytes)):
            raise TypeError('requests must be an iterable of requests, not a single path')
        self._conn = conn
        self._source: Optional[Iterator[Any]] = iter(requests)
        self._source_error: Optional[Exception] = None
        # A request that cannot be sent any more, nor those after it.
        self._refused: Optional[_Item] = None
        self._max_pending = max_pending
        self._max_retries = max_retries
        self._stream = stream
        self._session: Optional[Session] = None
        # Taken and still to be sent on this connection; sent and not answered.
        self._waiting: Deque[_Item] = deque()
        self._flight: Deque[_Item] = deque()
        # The request that is being prepared, as it was given.
        self._taken: List[Any] = []
        self._flight_bytes = 0
        # What could not be sent yet. The sending role is held as long as there is something.
        self._out: List[Data] = []
        # Whether the sending role is held.
        self._sends = False
        # Whether there are bodies among what was sent last.
        self._uploading = False
        self._current: Optional[_Item] = None
        # The one whose response the present step returns.
        self._delivered: Optional[_Item] = None
        # The response whose body is being read, and what has been read of that.
        self._response: Optional[HTTPResponse] = None
        # The last response whose body is for the caller to read.
        self._streamed: Optional[HTTPResponse] = None
        self._parts: List[bytes] = []
        self._finished = False
        self._closed = False
        # Whether an exception came at a place where it is not known what has been done.
        self._torn = False
        # Whether the coroutine is suspended, or connects: then an exception does no harm.
        self._waits = False
        # Whether it is connecting.
        self._connects = False
        # Whether the server is not to blame if the connection is lost.
        self._blameless = False
        self._stepping = False
        self._window = min(max_pending, _FIRST_WINDOW)
        # Complete answers on this connection, and on the last one that was lost.
        self._answered = 0
        self._answered_before_loss = 0
        # Connections in a row that brought no complete answer.
        self._failures = 0
        #: Number of requests sent so far, repeats included.
        self.sent = 0
        #: Number of times that a request was sent again.
        self.repeated = 0
        #: Number of connections used so far.
        self.connections = 0

    @property
    def in_flight(self) -> int:
        """Number of requests that were sent and are not answered."""
        return len(self._flight)

    @property
    def unanswered(self) -> List[Any]:
        """The requests taken from *requests* and not answered, as they were given, in order."""
        return [item.given for item in (*self._flight, *self._waiting)] + self._taken

    @property
    def uncertain(self) -> List[Any]:
        """Those of the unanswered requests that were sent and are not idempotent."""
        items = (*self._flight, *self._waiting)
        return [item.given for item in items if item.sent and not item.idempotent]

    def retry(self) -> None:
        """Put the request of the last response in front again, for a body that could not be read.

        `StateError` without *stream*, or if there is no such request.
        """

        if not self._stream or self._current is None or self._finished:
            raise StateError('there is no streamed response whose request could be repeated')
        repeated = self._current
        self._current = None
        if self._flight:
            # Their answers would come first on this connection.
            session = self._session
            assert session is not None
            self._drop_unsent(session)
            self._take_back()
            self._blameless = session.fault is None
            session.fail(ConnectionClosed('the connection was given up to repeat a request'))
        self._waiting.appendleft(repeated)
        self.repeated += 1

    def close(self) -> None:
        """Give up the rest. If answers are outstanding, the connection is broken afterwards."""

        if self._stepping:
            # In another thread or coroutine, which puts the rest in order when it is woken up.
            self._closed = True
            if self._session is not None:
                self._session.stream.abort(_CLOSED)
        elif not self._finished:
            self._finish(_CLOSED)

    def __del__(self) -> None:
        # It may not have got through its constructor.
        if not getattr(self, '_finished', True):
            self.close()

    def co_next(self) -> Coroutine[Optional[HTTPResponse]]:
        """Coroutine that returns the next response, or `None` after the last one.

        Errors are those of `HTTPConnection.pipeline`; the pipeline is finished then. If the
        coroutine is closed or dropped while it waits, the next call goes on.
        """

        if self._stepping:
            raise StateError('another thread or coroutine waits for the next response')
        if self._torn:
            raise ConnectionClosed(_TORN)
        if self._finished:
            return None
        self._delivered = None
        session = self._session
        if session is not None and self._reading_own_body(session) and not session.stream.reading:
            session.refuse_reading()
        try:
            self._stepping = True
            self._waits = self._connects = False
            return (yield from self._co_next())
        except Exception as exc:
            if self._comes_from_elsewhere(exc):
                self._struck()
            elif self._session is None or not self._session.tells_in_use(exc):
                self._keep_delivered()
                self._finish('the pipeline has failed')
            raise
        except BaseException:
            self._struck()
            raise
        finally:
            self._stepping = False
            if self._closed and not self._finished:
                # It was closed by another thread when nothing waited any more.
                self._finish(_CLOSED)

    def _co_next(self) -> Coroutine[Optional[HTTPResponse]]:
        while (
            self._flight
            or self._next_item() is not None
            or (self._session is not None and (self._session.reading_body or self._unfinished()))
        ):
            try:
                session = yield from self._co_session()
                if session.reading_body and self._response is None:
                    yield from self._co_drive(session, session.co_discard)
                    continue
                if not self._flight and self._next_item() is None:
                    continue
                session.assume_close = self._conn.assume_close
                session.strict_eof = self._conn.strict_eof
                return (yield from self._co_answer(session))
            except (ConnectionClosed, ConnectionTimedOut) as exc:
                self._lost(exc)
            except (InvalidResponse, UnsupportedResponse) as exc:
                # It may be the confused answer to too many requests at once.
                if not self._flight or not self._repeat_alone(self._flight[0]):
                    raise
                self._lost(exc)
            except OSError as exc:
                if self._comes_from_elsewhere(exc) or not is_temp_network_error(exc):
                    raise
                self._lost(exc)
        self._finish(None)
        if self._source_error is not None:
            raise self._source_error
        return None

    # Connections

    def _co_session(self) -> Coroutine[Session]:
        """Return the session to work on, connected and fit for what comes next."""

        conn, session = self._conn, self._session
        if session is None:
            session = conn._session_for_sending()
            session.raise_fault()
            session.lost = None
            self._check_alone(session.outstanding)
            self._session = session
            self.connections += session.stream.connected
        self._check_not_closed()
        stream = session.stream
        if stream.forgotten:
            raise ConnectionClosed(stream.cause)
        if session.fault is not None:
            # Broken by what the caller, or an interruption, did with a streamed body.
            raise ConnectionClosed(session.fault.msg)
        session.raise_fault()
        if session.reading_body or self._response is not None:
            pending, flight = session.pending, self._flight
            self._check_alone(
                (session.reading_body and not self._reading_own_body(session))
                or bool(pending and not (flight and pending[-1] is flight[-1].request))
            )
            return session
        if self._unfinished():
            assert self._current is not None and self._streamed is not None
            yield from self._co_send_rest(session, self._current, self._streamed)
        self._completed()
        if self._flight:
            if session.ended is not None:
                raise ConnectionClosed(session.ended)
            return session
        if self._next_item() is None:
            return session
        self._check_alone(session.outstanding)
        if stream.connected and session.usable:
            # A request that cannot be repeated must not go to a server that has left.
            session.check_idle()
        if not session.usable or session.ended or session.closing or session.send_fault:
            self._answered_before_loss = self._answered
            self._drop_unsent(session)
            session = self._next_session()
        if not session.stream.connected:
            self.connections += 1
            self._waits = self._connects = True
            while True:
                try:
                    self._session = session = yield from conn._co_connect(session)
                    break
                except StateError as exc:
                    if not _is_free_now(session, session.stream.sending, exc):
                        raise
            self._waits = self._connects = False
            self._check_not_closed()
            # A subclass may have used it to connect.
            self._check_alone(session.outstanding)
            if session.ended or session.closing:
                raise ConnectionClosed(session.ended or session.closing)
        return session

    def _check_not_closed(self) -> None:
        """Called for each new session: `close` may have come when there was none, or another."""

        if self._closed:
            raise ConnectionClosed(_CLOSED)

    def _check_alone(self, other: bool) -> None:
        if other:
            # It is not broken by the end of this.
            self._session = None
            raise StateError('a pipeline cannot go on while something else is outstanding')

    def _next_session(self) -> Session:
        old = self._session
        assert old is not None
        old.stream.abort('the connection was given up by the pipeline')
        new = self._conn._start_session(old)
        self._answered = 0
        self._response = None
        self._parts.clear()
        # Looked at last, as `disconnect` may come from another thread at any moment. The new
        # session may be in use there by now.
        if old.stream.forgotten:
            raise ConnectionClosed(old.stream.cause)
        self._session = new
        self._check_not_closed()
        return new

    def _lost(self, exc: Exception) -> None:
        """Take back what the lost connection did not answer; raise *exc* if that is enough."""

        self._waits = self._connects = False
        session = self._session
        if session is None:
            raise exc
        self._drop_unsent(session)
        unfinished = self._unfinished()
        current, self._current = self._current, None
        if self._closed:
            raise ConnectionClosed(_CLOSED) from exc
        if session.stream.forgotten:
            raise exc
        if current is not None and unfinished:
            method, path = current.arguments[:2]
            raise ConnectionClosed(
                f'connection was lost after an answer to {method} {path}, but before that was '
                f'sent to its end: {exc}'
            ) from exc
        flight = self._flight
        if flight and not flight[0].idempotent:
            method, path = flight[0].arguments[:2]
            raise ConnectionClosed(
                f'connection was lost before {method} {path} was sent and answered, which is not '
                f'repeated because the server may have carried it out: {exc}'
            ) from exc
        if self._answered:
            self._failures = 0
        elif not self._blameless:
            self._failures += 1
        self._blameless = False
        if self._failures and self._failures >= self._max_retries:
            raise exc
        self._window = max(1, min(self._window, self._answered // 2))
        self._answered_before_loss = self._answered
        self._take_back()
        self._next_session()

    def _take_back(self) -> None:
        """Let what was sent and not answered wait again."""

        flight = self._flight
        for item in flight:
            assert item.request is not None
            item.request = item.request.again()
        self.repeated += len(flight)
        self._waiting.extendleft(reversed(flight))
        flight.clear()
        self._flight_bytes = 0

    def _drop_unsent(self, session: Session) -> None:
        """Forget what could not be sent; requests of which nothing was sent wait again."""

        if not self._out:
            return
        left = sum(map(len, self._out))
        unsent = self._unsent(session)
        self._out = []
        flight = self._flight
        while flight and flight[-1].size <= unsent:
            item = flight[-1]
            # In this order, in case that a signal handler raises between.
            self._waiting.appendleft(item)
            flight.pop()
            assert item.request is not None
            item.request = item.request.again()
            item.sent = False
            unsent -= item.size
            left -= item.size
            self._flight_bytes -= item.size
            self.sent -= 1
            session.pending.pop()
        if left > 0 and session.send_fault is None:
            # What is sent now would be taken for the rest.
            session.send_fault = 'only a part of a request was sent'
        for last in (*reversed(flight), self._current):
            if left <= 0 or last is None:
                break
            last.cut = True
            left -= last.size
        self._leave_sending(session)

    def _unsent(self, session: Session) -> int:
        """Bytes of `_out` of which the server cannot have got any."""

        return max(0, sum(map(len, self._out)) - session.stream.perhaps_sent)

    def _unfinished(self) -> bool:
        """Whether the request of the last streamed response is still to be sent to its end."""

        item, session, response = self._current, self._session, self._streamed
        if item is None or session is None or response is None or _is_final(session, response):
            return False
        return self._is_unsent(item)

    def _is_unsent(self, item: _Item) -> bool:
        """Whether *item*, which was answered, is still to be sent to its end."""

        behind = self._flight_bytes
        if self._flight and self._flight[0] is item:
            behind -= item.size
        return item.cut or sum(map(len, self._out)) > behind

    def _reading_own_body(self, session: Session) -> bool:
        """Whether the body that is being read is that of a response of this pipeline."""

        own = self._response or self._streamed
        return session.reading_body and session.response is own

    def _comes_from_elsewhere(self, exc: Exception) -> bool:
        """Whether *exc*, though it looks like one, is no error of the network.

        A signal handler may raise `TimeoutError`, to limit the time of the whole. The system gives
        each of its errors a number; only what connects in another way may raise some without.
        """

        return (
            isinstance(exc, OSError)
            and exc.errno is None
            and not isinstance(exc, ProxyError)
            and not self._connects
        )

    def _struck(self) -> None:
        """Put things in order after an exception that may have come between any two instructions.

        If that was not in a wait, it is not known what has been done: all that is in flight may
        have been sent, so it can be neither repeated nor believed to be answered in order.
        """

        self._stepping = False
        if self._waits:
            self._blameless = True
            return
        self._torn = True
        self._keep_delivered()
        flight = self._flight
        # They may just have been moved from one to the other.
        if self._taken and self._waiting and self._waiting[-1].given is self._taken[0]:
            self._taken.clear()
        self._waiting = deque(item for item in self._waiting if item not in flight)
        self._finished = True
        session = self._session
        if session is None:
            return
        session.fail(ConnectionClosed(_TORN))
        self._out = []
        if self._sends:
            self._leave_sending(session)

    def _keep_delivered(self) -> None:
        """Let the request of a response that the caller has not got count as unanswered."""

        if self._delivered is not None and self._delivered not in self._flight:
            self._flight.appendleft(self._delivered)

    def _finish(self, cause: Optional[str]) -> None:
        self._finished = True
        session = self._session
        if session is None:
            return
        if self._out:
            self._drop_unsent(session)
            session.fail(ConnectionClosed('only a part of a request was sent'))
        if cause is not None and (self._flight or self._reading_own_body(session)):
            session.fail(ConnectionClosed(cause))

    # Sending

    def _next_item(self) -> Optional[_Item]:
        """Return the request to be sent next, without removing it; `None` if there is none."""

        if self._waiting:
            item = self._waiting[0]
            return None if item is self._refused else item
        if self._source is None:
            return None
        taken = self._taken
        try:
            taken.append(next(self._source))
            item = _Item(taken[0])
            item.encode(self._conn, self._session or self._conn._session, self._stream)
        except Exception as exc:
            # The answers that are outstanding come before the error.
            self._source = None
            taken.clear()
            if not isinstance(exc, StopIteration):
                self._source_error = exc
            return None
        self._waiting.append(item)
        taken.clear()
        return item

    def _send_ahead(self, session: Session) -> None:
        """Send what may be sent now, as far as that is possible without waiting."""

        flight, pieces = self._flight, self._out
        if session.send_fault is not None:
            self._drop_unsent(session)
            return
        while (
            session.closing is None
            and session.ended is None
            and len(flight) < self._window
            and not (flight and flight[-1].alone)
        ):
            item = self._next_item()
            if item is None or (
                flight and (item.alone or self._flight_bytes + item.size > _MAX_BYTES)
            ):
                break
            if item.alone and (self._current is not None or session.reading_body):
                # As long as the body before it may be broken, and repeated, it waits.
                break
            request = item.request
            if request is None or request.form is not session.form:
                # It was made for another connection.
                try:
                    request = item.encode(self._conn, session, self._stream)
                except Exception as exc:
                    self._refused, self._source, self._source_error = item, None, exc
                    break
            if not pieces:
                self._enter_sending(session)
            item.behind = bool(flight)
            item.sent = True
            item.cut = False
            # In this order, in case that a signal handler raises between.
            flight.append(item)
            self._waiting.popleft()
            self._flight_bytes += item.size
            self.sent += 1
            session.pending.append(request)
            pieces.append(request.head)
            if request.content is not None:
                pieces.append(request.content)
                self._uploading = True
            if request.close:
                session.closing = 'the request asked the server to close the connection'
        if pieces:
            self._send_out(session)

    def _send_out(self, session: Session) -> None:
        """Send what is in `_out`, as far as that is possible without waiting."""

        pieces = self._out
        try:
            session.send_now(pieces)
        except ConnectionClosed as exc:
            # Answers that came before can still be read.
            session.send_fault = exc.msg
            self._drop_unsent(session)
            return
        if pieces is not self._out:
            # Another thread has closed the pipeline meanwhile.
            return
        if pieces or self._uploading:
            self._note_sent(session)
        if not pieces:
            self._leave_sending(session)

    def _enter_sending(self, session: Session) -> None:
        """Take the sending role, which a call that is refused may have for a moment."""

        while True:
            try:
                session.enter_sending()
            except StateError as exc:
                if not _is_free_now(session, session.stream.sending, exc):
                    raise
            else:
                self._sends = True
                break
        if session.pending and not self._flight:
            # Another thread has sent a request just before.
            self._leave_sending(session)
            self._check_alone(True)

    def _leave_sending(self, session: Session) -> None:
        self._sends = False
        session.leave_role(session.stream.sending)

    def send_along(self) -> bool:
        """Send on while the caller reads a streamed body; tell whether something is left.

        The server may read the rest of a request only as its response is read.
        """

        session = self._session
        if session is None or not self._out:
            return False
        if self._stepping:
            # In another thread, which is about to be refused.
            return True
        try:
            self._waits = False
            self._send_out(session)
        except BaseException:
            self._struck()
            raise
        return bool(self._out)

    def _co_send_rest(
        self, session: Session, item: _Item, response: HTTPResponse
    ) -> Coroutine[None]:
        """Send *item* to its end, although *response* came before that.

        `ConnectionClosed` if that cannot be done.
        """

        while self._is_unsent(item) and not _is_final(session, response):
            try:
                more = yield from self._co_send_until_more(session, item)
            except StateError as exc:
                if not _is_free_now(session, session.stream.reading, exc):
                    raise
                continue
            if more:
                # TLS gives no account of what it has sent before it could send no more, so it may
                # be the answer to the next request.
                behind = [other.request for other in self._flight if other is not item]
                if behind and behind[0] is not None and behind[0].begun:
                    return
                raise ConnectionClosed('server answered a request that was not sent yet')

    def _co_send_until_more(self, session: Session, item: _Item) -> Coroutine[bool]:
        """Send *item* to its end, or until something comes: tell whether it has."""

        with contextlib.closing(session.co_wait_for_more()) as crt:
            while self._is_unsent(item):
                if item.cut:
                    assert session.send_fault is not None
                    raise ConnectionClosed(session.send_fault)
                try:
                    need = next(crt)
                except StopIteration:
                    return True
                self._send_ahead(session)
                if self._is_unsent(item) and not item.cut:
                    yield from self._co_wait(session, need)
        return False

    def _note_sent(self, session: Session) -> None:
        """Note which requests were sent, to their end or at all.

        An answer to one with a body that was sent to its end refuses nothing. Before anything of
        a request was sent, there can be no answer to it.
        """

        self._uploading = bool(self._out)
        unsent = self._unsent(session)
        for item in reversed(self._flight):
            request = item.request
            if request is not None:
                request.begun = unsent < item.size
                if unsent <= 0:
                    request.body.finish()
            unsent -= item.size

    # Receiving

    def _co_answer(self, session: Session) -> Coroutine[HTTPResponse]:
        """Return the next response."""

        flight = self._flight
        # A system call for a few requests is better than one for each.
        if len(flight) * 2 <= self._window:
            self._send_ahead(session)
        if not flight:
            if self._refused is not None:
                assert self._source_error is not None
                raise self._source_error
            assert session.send_fault is not None
            raise ConnectionClosed(session.send_fault)
        item = flight[0]
        response = self._response
        if response is None:
            if not session.pending or session.pending[0] is not item.request:
                raise StateError('the connection was used for something else meanwhile')
            response = yield from self._co_drive(session, session.co_read_response, True)
            assert response is not None
            if (
                response.status in _PIPELINING_ERRORS
                and session.ended is not None
                and self._repeat_alone(item)
            ):
                # It did answer.
                self._blameless = True
                raise ConnectionClosed('server does not answer pipelined requests')
        if not self._stream:
            # An interruption in the middle loses nothing of it.
            self._response = response
            parts = self._parts
            while session.reading_body:
                data = yield from self._co_drive(session, session.co_read, _READ_SIZE, True)
                parts.append(data)
            if self._out or item.cut:
                # Until then it may have to be repeated.
                yield from self._co_send_rest(session, item, response)
            response.body = b''.join(parts)
            self._response = None
            parts.clear()
        # With *stream*, it may have to be repeated.
        assert item.request is not None
        item.request = item.request.again() if self._stream else None
        self._flight_bytes -= item.size
        self._current = item
        if self._stream:
            self._streamed = response
            if self._out and not _is_final(session, response):
                session.stream.along = functools.partial(_send_along, weakref.ref(self))
        else:
            self._completed()
        self._delivered = item
        flight.popleft()
        return response

    def _repeat_alone(self, item: _Item) -> bool:
        """Note that *item* is to be sent alone next time; False if it was alone already."""

        if item.alone or not (item.behind or len(self._flight) > 1):
            return False
        item.alone = True
        return True

    def _completed(self) -> None:
        """Count the present response, if there is one, as a complete answer."""

        if self._current is None:
            return
        self._current = None
        self._answered += 1
        self._failures = 0
        if self._answered > self._answered_before_loss and self._window < self._max_pending:
            self._window += 1

    def _co_drive(
        self, session: Session, begin: Callable[..., Coroutine[Any]], *args: Any
    ) -> Coroutine[Any]:
        """Drive the reading coroutine that *begin* returns; send ahead whenever it has to wait."""

        crt = begin(*args)
        try:
            while True:
                try:
                    need = next(crt)
                except StateError as exc:
                    # A call that is refused may have the role for a moment, but who reads a
                    # streamed body may have it for long.
                    streams = session.reading_body and self._response is None
                    if streams or not _is_free_now(session, session.stream.reading, exc):
                        raise
                    crt = begin(*args)
                    continue
                try:
                    self._send_ahead(session)
                    yield from self._co_wait(session, need)
                except BaseException as exc:
                    crt.throw(exc)
        except StopIteration as exc:
            return exc.value

    def _co_wait(self, session: Session, need: PollNeeded) -> Coroutine[None]:
        """Wait for *need*, of a reading coroutine, or until what is left can be sent."""

        self._waits = True
        if self._out:
            yield from session.stream.co_wait_send_or_receive()
        else:
            yield from session.stream.co_wait(need)
        self._waits = False


def _is_free_now(session: Session, role: List[None], exc: Exception) -> bool:
    """Whether *exc* tells that a role was taken, and *role* is free after a moment."""

    return session.tells_in_use(exc) and session.stream.let_role_go(role)


def _send_along(reference: weakref.ReferenceType[_Pipeline]) -> bool:
    pipeline = reference()
    return pipeline is not None and pipeline.send_along()


def _is_final(session: Session, response: HTTPResponse) -> bool:
    """Whether the server, with *response*, does not want the rest of the request, if any."""

    return response.status >= 400 or session.ended is not None


class Pipeline(_Pipeline):
    """Iterator over responses that `HTTPConnection.pipeline` returns."""

    __module__ = 'dugong'

    def __iter__(self) -> Pipeline:
        return self

    def __next__(self) -> HTTPResponse:
        # The caller has got that. Not below, where `_struck` may come first.
        self._delivered = None
        try:
            response = eval_coroutine(self.co_next(), self._conn.timeout)
            if response is None:
                raise StopIteration
            return response
        except Exception:
            raise
        except BaseException:
            # It may have come when the coroutine had ended.
            self._struck()
            raise


class AsyncPipeline(_Pipeline):
    """Asynchronous iterator over responses that `HTTPConnection.co_pipeline` returns.

    `async for` waits for at most `HTTPConnection.timeout` at a time. For event loops other than
    asyncio's: `co_next` is the dugong coroutine behind it.
    """

    __module__ = 'dugong'

    def __aiter__(self) -> AsyncPipeline:
        return self

    async def __anext__(self) -> HTTPResponse:
        response = await package.AioFuture(self.co_next(), timeout=self._conn.timeout)
        if response is None:
            raise StopAsyncIteration
        result: HTTPResponse = response
        return result
