"""HTTP on one connection: from the first request to the moment it is closed or broken.

A `Session` holds everything that belongs to one connection: the stream, the requests whose
answers are outstanding, the bodies that are being sent and received, and why it cannot be used
any more. After `disconnect` the next request gets a new one, so that nothing of the old one,
not even a coroutine that still waits in it, can touch the new one.

What keeps a session from being used is one of these:

- `fault`: what every call raises from now on, e.g. after a framing error;
- `send_fault`: why sending raises `ConnectionClosed`, while answers may still be read;
- `closing`: no more requests are sent, but the answers to those sent are read;
- `ended`: nothing more will be received either.

In the last two cases requests count as outstanding without being sent.
"""

from __future__ import annotations

import operator
import threading
from _thread import allocate_lock
from collections import deque
from contextlib import suppress
from io import BytesIO
from threading import current_thread
from time import monotonic

from ._body import (
    AWAIT_CONTINUE,
    COMPLETE,
    DATA,
    DONE,
    WRITING,
    RequestBody,
    ResponseBody,
    closes_connection,
)
from ._buffer import ResultBuffer, _Buffer
from ._exceptions import (
    ConnectionClosed,
    InvalidResponse,
    ProxyError,
    StateError,
    UnsupportedResponse,
    _GeneralError,
)
from ._parser import BlockReader, excerpt, parse_head
from ._poll import eval_coroutine
from ._request import trailer_section
from ._response import HTTPResponse
from ._settings import package
from ._source import StreamSource, as_bytes, is_stream
from ._stream import MUCH, Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Deque, List, Mapping, Optional, Tuple, Union

    from ._parser import ResponseHead
    from ._poll import Coroutine
    from ._source import IterableSource
    from ._stream import Data

    Source = Union[StreamSource, IterableSource]

#: Interim responses to one request that are tolerated.
MAX_INTERIM_RESPONSES = 100

# Bodies up to this size are received into memory of the announced size; memory for larger ones
# grows with what really arrives, as a server may announce anything.
_MAX_ALLOCATION = 1 << 28

# Data of at least this size are received into the caller's memory without passing the buffer.
_DIRECT = 1 << 13

# Pieces smaller than this are joined rather than sent one by one where a system call takes only
# one piece; a head and a body smaller than this are always joined.
_JOIN = 1 << 14

# How long `wait_for_sender` waits for another thread to send a request, in seconds: for any
# thread, and for one that has sent on this connection before.
_WAIT_FOR_ANY_SENDER = 1.0
_WAIT_FOR_KNOWN_SENDER = 60.0

# How often it looks whether that thread is still alive.
_LIVENESS_INTERVAL = 0.1

# Reasons why a session is ending, or has ended.
_NOT_SENT_IN_FULL = 'the request body was not sent in full'
_CLOSED_AS_ANNOUNCED = 'server closed the connection after the previous response'

_PIPELINED = 'the connection is in use by a pipeline'

# What is said to who comes while another one has the role.
_SENDING_IN_USE = 'another thread or coroutine is sending on this connection'
_READING_IN_USE = 'another thread or coroutine is reading from this connection'

# So many pieces that come out of the buffer at once must be small.
_MANY = 64

# What is raised where a role is to be taken that another one has. Told by its arguments from an
# `IndexError` of a signal handler.
try:
    [].pop()
except IndexError as exc:
    _IN_USE = exc.args

# What a body is read into at a time if its length is not known.
_READ_SIZE = 1 << 18

# A read buffer smaller than this was put there by somebody who wants that size.
_MAY_GROW = 1 << 16


class Request:
    """A request whose answer is outstanding.

    `head` (bytes) is the encoded head. `content` is what is sent behind it: bytes, a source, or
    `None`; `body` keeps the place in it. The head of a request with a source is completed when
    the source has been looked at, from the text `before` and `after` the framing field.
    `sent` (bool) is false for a request that will never be sent, and `begun` (bool) for one that
    waits behind others and of which nothing was sent so far; `pipelined` tells that it belongs to
    a pipeline, which alone may send behind it and read the head of its answer, and `reserved` that
    this is so for the body of the answer, too.
    """

    __slots__ = (
        'after',
        'before',
        'begun',
        'body',
        'close',
        'content',
        'form',
        'head',
        'interim_responses',
        'method',
        'path',
        'pipelined',
        'reserved',
        'sent',
        'source',
        'upgrade',
    )

    def __init__(self, method: str, path: str, body: RequestBody, form: Any = None) -> None:
        self.method = method
        self.path = path
        self.form = form
        self.head = b''
        self.content: Optional[memoryview] = None
        self.source: Optional[Source] = None
        self.before = self.after = ''
        self.body = body
        self.close = False
        self.upgrade = False
        self.sent = True
        self.begun = True
        self.pipelined = False
        self.reserved = False
        self.interim_responses = 0

    def again(self) -> Request:
        """Return the same request, to be sent once more."""

        request = Request(self.method, self.path, NO_BODY, self.form)
        request.head = self.head
        request.content = self.content
        if self.body is not NO_BODY:
            request.body = RequestBody(self.body.length)
        request.close = self.close
        request.pipelined = self.pipelined
        request.reserved = self.reserved
        return request

    def take_form(self, other: Request) -> None:
        """Take from *other*, which is the same request, what its form decides about."""

        self.form = other.form
        self.head = other.head
        self.before, self.after = other.before, other.after
        self.close, self.upgrade = other.close, other.upgrade

    def track_content(self) -> None:
        """Let `body` tell whether the content was sent to its end, also if it is small."""

        if self.content is not None:
            self.body = RequestBody(len(self.content))

    def prepare_source(self) -> None:
        """Read the first piece of the source, and complete the head by what that showed."""

        source = self.source
        assert source is not None
        source.prepare()
        self.body = RequestBody(source.length)
        self.head = (self.before + self.body.framing_field() + self.after).encode('latin1')


#: Body of the requests that have none, or have it sent together with their head.
NO_BODY = RequestBody()


class Session:
    """The HTTP side of one connection, see the head of this module.

    `assume_close` and `strict_eof` are those of `HTTPConnection`. `buf` is the read buffer.
    """

    __slots__ = (
        '_block_reader',
        '_consumed',
        '_early_head',
        '_sender_sought',
        '_sent',
        'assume_close',
        'body',
        'buf',
        'closing',
        'disconnects',
        'ended',
        'fault',
        'form',
        'lost',
        'lost_body',
        'patient',
        'pending',
        'replaced',
        'reserved',
        'response',
        'send_fault',
        'sender',
        'strict_eof',
        'stream',
        'upload',
    )

    def __init__(self, stream: Stream, buf: _Buffer) -> None:
        self.stream = stream
        self.buf = buf
        self.assume_close = False
        self.strict_eof = False
        self.pending: Deque[Request] = deque()
        self.response: Optional[HTTPResponse] = None
        self.body: Optional[ResponseBody] = None
        # Whether that is for a pipeline only.
        self.reserved = False
        # The last request with a body that is written piece by piece.
        self.upload: Optional[RequestBody] = None
        self.fault: Optional[_GeneralError] = None
        self.send_fault: Optional[str] = None
        self.closing: Optional[str] = None
        self.ended: Optional[str] = None
        # Collects a head that does not fit into the buffer, or arrives in pieces.
        self._block_reader: Optional[BlockReader] = None
        # A final head that came while the body of its request was being sent.
        self._early_head: Optional[ResponseHead] = None
        # What `read_raw` has left of what had been taken out of the buffer; `None` before it.
        self._consumed: Optional[bytes] = None
        # Whether the coroutine that is about to read a response for a thread is to be patient.
        self.patient = False
        # Why something was lost with the session before this one. Reading and writing report that
        # until a request is sent.
        self.lost: Optional[str] = None
        # The same if it was part of a body. Who was reading that may not know of the next request,
        # so reading data reports it until the next response is asked for.
        self.lost_body: Optional[str] = None
        # Bytes that the present send operation has sent.
        self._sent = 0
        # The thread that sent last, and what wakes up a reader that waits for one to send.
        self.sender: Optional[threading.Thread] = None
        self._sender_sought: List[Any] = []
        # Whether there is another session in its place, and how often `disconnect` had been called
        # for those before.
        self.replaced = False
        self.disconnects = 0
        # What its requests have in common, once it is connected.
        self.form: Any = None

    # State

    @property
    def usable(self) -> bool:
        """Whether the connection is open, and neither broken nor given up."""

        return self.fault is None and not self.stream.closed

    @property
    def outstanding(self) -> bool:
        """Whether an answer is outstanding or partly read, or a request partly sent."""

        return bool(self.pending) or self.reading_body or self.writing_body

    @property
    def loss(self) -> Optional[str]:
        """Why something is lost with this session, which is given up; `None` if nothing is."""

        return self.stream.cause if self.outstanding else self.lost

    @property
    def body_loss(self) -> Optional[str]:
        """The same for the body of a response."""

        # In this order: a reader may have the head of the response, and only now get to its body.
        stream = self.stream
        if (stream.connected and not stream.reading) or self.reading_body:
            return stream.cause
        return self.lost_body

    @property
    def response_pending(self) -> bool:
        """Whether `co_read_response` or the rest of a body is worth a call."""

        stream = self.stream
        if stream.forgotten or (self.fault is not None and stream.closed):
            return False
        return bool(self.pending) or self.reading_body

    @property
    def reading_body(self) -> bool:
        body = self.body
        return body is not None and body.state is not DONE

    @property
    def writing_body(self) -> bool:
        upload = self.upload
        return upload is not None and upload.state is not COMPLETE

    @property
    def answer_coming(self) -> bool:
        """Whether `co_read_response` has something to wait for, or an error to report."""

        first = self._pending_at(0)
        if first is not None and first.body.state is not WRITING:
            return True
        if self.fault is not None or self.reading_body or self.stream.forgotten:
            return True
        if first is None:
            return self.lost is not None or self.send_fault is not None
        return not self.stream.sending

    def _pending_at(self, index: int) -> Optional[Request]:
        """Return that one of the outstanding requests, `None` if there is none.

        A look whether there is one proves nothing: another thread may take it the next moment.
        """

        try:
            return self.pending[index]
        except IndexError:
            return None

    def wait_for_sender(self, timeout: Optional[float], waited: float) -> Tuple[bool, float]:
        """Wait until another thread sends a request, or until it is clear that none does.

        Returns whether there is something to read now, and how many seconds were waited, with
        those that had been *waited* before; *timeout* (seconds) limits these. Blocks the thread,
        as no coroutine may wait here.
        """

        stream = self.stream
        me = current_thread()
        if threading.active_count() <= 1 or (self.writing_body and self.sender is me):
            return False, waited
        # Not a condition: a signal handler that raises could leave its lock taken.
        waker = allocate_lock()
        waker.acquire()
        self._sender_sought.append(waker)
        try:
            while not self.replaced and not self.answer_coming:
                sender = self.sender
                limit = _WAIT_FOR_ANY_SENDER
                if sender is not None and sender is not me and sender.is_alive():
                    limit = _WAIT_FOR_KNOWN_SENDER
                if timeout is not None:
                    limit = min(limit, timeout)
                if waited >= limit:
                    return False, waited
                interval = min(limit - waited, _LIVENESS_INTERVAL)
                begin = monotonic()
                # A test may have stopped the clock.
                woken = waker.acquire(True, interval)
                waited += monotonic() - begin if woken else interval
        finally:
            self._sender_sought.remove(waker)
        if stream.forgotten:
            raise ConnectionClosed(stream.cause)
        return not self.replaced, waited

    def announce(self) -> None:
        """Wake up the threads in `wait_for_sender`."""

        for waker in list(self._sender_sought):
            # It may be awake already.
            with suppress(RuntimeError):
                waker.release()

    def _present_fault(self) -> Optional[_GeneralError]:
        """Return what keeps the session from being used at all, to be raised."""

        stream = self.stream
        fault = self.fault
        if fault is not None and not stream.forgotten:
            return type(fault)(fault.msg)
        if stream.closed and (self.ended is None or stream.forgotten):
            return ConnectionClosed(stream.cause)
        return None

    def raise_fault(self) -> None:
        """Raise what keeps the session from being used at all."""

        fault = self._present_fault()
        try:
            if fault is not None:
                raise fault
        finally:
            # The traceback refers to this frame; do not let the frame refer to it.
            del fault

    def _raise_loss(self) -> None:
        lost = self.lost
        if lost is not None:
            raise ConnectionClosed(lost)

    def _raise_send_fault(self) -> None:
        if self.send_fault is not None:
            raise ConnectionClosed(self.send_fault)

    def _check_connected(self) -> None:
        if self.stream.sock is None:
            raise ConnectionClosed(self.stream.cause if self.stream.closed else 'not connected')

    def fail(self, fault: _GeneralError, abort: bool = True) -> None:
        """Let every call from now on raise *fault*, unless there is an earlier one."""

        if self.fault is None:
            # Not the exception itself, whose traceback would keep buffers of the caller alive.
            self.fault = type(fault)(fault.msg)
        upload = self.upload
        if upload is not None:
            upload.finish()
        if abort:
            self.stream.abort(fault.msg)

    def _interrupted(self, what: str, exc: BaseException) -> None:
        """Note that *what* came to an end in the middle because of *exc*."""

        self.fail(ConnectionClosed(f'connection is broken because {what} {how_it_ended(exc)}'))

    def _role_not_taken(self, role: List[None], exc: BaseException, in_use: str) -> None:
        """Deal with *exc*, which came where *role* was to be taken.

        If another one has the role, `StateError` with *in_use*.
        """

        if type(exc) is IndexError and exc.args == _IN_USE:
            raise (self._present_fault() or StateError(in_use)) from None
        # Of a signal handler. If the role was taken, nobody will leave it, and others would wait.
        if not role:
            self._interrupted('the beginning of an operation', exc)

    @staticmethod
    def tells_in_use(exc: Exception) -> bool:
        """Whether *exc* tells that another one has the role: then nothing was changed."""

        return type(exc) is StateError and exc.msg in (_SENDING_IN_USE, _READING_IN_USE)

    def refuse_reading(self) -> None:
        """Raise what is said to who would read while another one does."""

        raise StateError(_READING_IN_USE)

    def leave_role(self, role: List[None]) -> None:
        try:
            role.append(None)
            stream = self.stream
            waiter = stream.role_waiter
            if waiter is not None and role is stream.reading:
                waiter.set()
            if stream.closed:
                stream.close_if_idle()
        except BaseException as exc:
            # Of a signal handler: the caller does not get the result, and must not go on without.
            self._interrupted('the end of an operation', exc)
            raise

    # Sending

    def enter_sending(self) -> None:
        # First, as it is Python code: a signal handler that raises there leaves the role free.
        sender = current_thread()
        stream = self.stream
        try:
            stream.sending.pop()
            self.sender = sender
            stream.sender_waits = False
            stream.perhaps_sent = 0
        except BaseException as exc:
            self._role_not_taken(stream.sending, exc, _SENDING_IN_USE)
            raise

    def co_connect(self, connect: Callable[[Session], Coroutine[None]]) -> Coroutine[None]:
        """Connect with the coroutine that *connect* returns."""

        self.enter_sending()
        try:
            if not self.stream.connected:
                yield from connect(self)
        finally:
            self.leave_role(self.stream.sending)

    def send_request(self, request: Request, timeout: Optional[float]) -> None:
        """Like `co_send_request` on an open connection, but the thread waits.

        `ConnectionTimedOut` after *timeout* seconds. There is no coroutine if the system takes all
        at once, as it mostly does.
        """

        self.enter_sending()
        try:
            if not self._can_be_sent(request):
                return
            try:
                self.pending.append(request)
                if self._sender_sought:
                    self.announce()
                left = self._send_head(request, True)
                if left or request.source is not None:
                    eval_coroutine(self._co_send_left(request, left), timeout)
            except BaseException as exc:
                self._sending_failed(request, exc)
                raise
        finally:
            # The caller may want to do something with its memory again.
            request.content = request.source = None
            self.leave_role(self.stream.sending)

    def co_send_request(
        self,
        request: Request,
        connect: Optional[Callable[[Session], Coroutine[None]]] = None,
        make: Optional[Callable[[Any], Request]] = None,
    ) -> Coroutine[None]:
        """Send the head of *request* and its content.

        If the session was not connected when the request was made, *connect* does that, and *make*
        makes the same one in another form, if that of the session is another one then.
        """

        self.enter_sending()
        try:
            connected = self.stream.connected
            if make is not None and connected and request.form is not self.form:
                request.take_form(make(self.form))
            if not self._can_be_sent(request):
                return
            try:
                # It is outstanding from now on, so that a reader can wait for the answer.
                self.pending.append(request)
                if self._sender_sought:
                    self.announce()
                if not connected:
                    assert connect is not None and make is not None
                    yield from connect(self)
                    if request.form is not self.form:
                        request.take_form(make(self.form))
                    if request.source is not None:
                        # Not before, as a failing connect must not take anything from it.
                        request.prepare_source()
                    connected = True
                left = self._send_head(request)
                if left or request.source is not None:
                    yield from self._co_send_left(request, left)
            except BaseException as exc:
                if connected:
                    self._sending_failed(request, exc)
                else:
                    self._withdraw(request)
                raise
        finally:
            request.content = request.source = None
            self.leave_role(self.stream.sending)

    def _can_be_sent(self, request: Request) -> bool:
        """Raise what keeps *request* from being sent; if it is not to be sent, let it wait for an
        answer that will not come, and return False."""

        stream, pending = self.stream, self.pending
        # The calls are spared where they would find nothing.
        if self.fault is not None or stream.closed:
            self.raise_fault()
        if pending:
            last = self._pending_at(-1)
            if last is not None and last.pipelined:
                raise StateError(_PIPELINED)
        if self.send_fault is not None and self.ended is not _CLOSED_AS_ANNOUNCED:
            self._raise_send_fault()
        upload = self.upload
        if upload is not None and upload.state is not COMPLETE:
            if upload.state is AWAIT_CONTINUE:
                raise StateError('the answer to Expect: 100-continue was not read yet')
            raise StateError('the body of the previous request is not complete')
        self.lost = None
        connected = stream.connected
        if (
            connected
            and not pending
            and self.closing is self.ended is None
            and not self.reading_body
            and (self.buf.b < self.buf.e or stream.may_receive())
        ):
            self.check_idle()
        if self.closing is not None or self.ended is not None:
            # It could not be answered, so it is not sent.
            request.sent = False
            request.body.finish()
            self.upload = None
            pending.append(request)
            self.announce()
            if stream.forgotten:
                # Who disconnects may have looked for it before, and nobody would learn of it.
                raise ConnectionClosed(stream.cause)
            return False
        if connected and request.source is not None:
            request.prepare_source()
        return True

    def _send_head(self, request: Request, blocking: bool = False) -> List[Data]:
        """Send the head of *request*, with content if that is small, without waiting.

        Returns what is left to be sent; large content is another piece. *blocking* as for
        `Stream.try_send`.
        """

        stream = self.stream
        # Without what was sent for a tunnel.
        self._sent = 0
        message = request.head
        content = request.content
        # Set first: if a signal handler strikes after the head has gone, nothing but the body may
        # follow.
        follows = content is None and request.source is None
        self.upload = request.body if follows and request.body is not NO_BODY else None
        if content is not None:
            if len(content) >= _JOIN:
                return [message, content]
            # One segment, and one TLS record, for a small message.
            message += content
        self._sent = size = stream.try_send(message, blocking) or 0
        if size:
            stream.perhaps_sent = 0
        if size < len(message):
            return [memoryview(message)[size:]]
        self._note_sent(request)
        return []

    def _co_send_left(self, request: Request, left: List[Data]) -> Coroutine[None]:
        """Send what `_send_head` has *left* of *request*, and its source."""

        if left:
            # If only a head is left, an answer to that is for the reader.
            yield from self._co_send(left, request.body if len(left) > 1 else None)
            self._note_sent(request)
        if request.source is not None:
            yield from self._co_send_source_of(request, request.source)

    def _note_sent(self, request: Request) -> None:
        """Note that the head of *request* has been sent, and content that is no source."""

        if request.close:
            self.closing = 'the request asked the server to close the connection'
        if request.content is not None:
            request.body.finish()

    def _withdraw(self, request: Request) -> None:
        """Note that *request*, of which nothing was sent, is not outstanding any more."""

        with suppress(ValueError):
            self.pending.remove(request)
        if self.stream.connected and not self.stream.reading:
            self.fail(ConnectionClosed('the request that a reader waits for could not be sent'))

    def _sending_failed(self, request: Request, exc: BaseException) -> None:
        """Put things in order after *exc* ended a send operation for *request*."""

        if self._sent + self.stream.perhaps_sent < len(request.head):
            with suppress(ValueError):
                self.pending.remove(request)
        self._body_failed(request.body, exc, 'sending a request')

    def _body_failed(self, body: RequestBody, exc: BaseException, what: str) -> None:
        if isinstance(exc, ConnectionClosed):
            # Answers that the server sent before it closed can still be read.
            self.send_fault = exc.msg
            body.finish()
            self._look_for_alert()
        else:
            self._interrupted(what, exc)

    def _look_for_alert(self) -> None:
        """Raise the TLS alert that says why the server has closed, if there is one.

        With TLS 1.3 a server can refuse the certificate of the client only after the handshake,
        and then closes while the client is sending. The alert is there to be received.
        """

        if not self.stream.tls or len(self.buf):
            return
        try:
            self._peek(self._receive_at_once)
        except ConnectionClosed:
            pass
        except OSError as exc:
            self.stream.raise_alert(exc)

    def _co_send_source_of(self, request: Request, source: Source) -> Coroutine[None]:
        """Send the body of *request* from *source*, to its end."""

        body = request.body
        yield from self._co_send_source(body, source)
        if body.chunked:
            yield from self._co_send([b'0\r\n\r\n'], body)
            body.finish()
        elif body.remaining:
            assert body.length is not None
            raise StateError(
                f'the request body ended after {body.length - body.remaining} bytes, but '
                f'{body.length} bytes were announced'
            )

    def _co_send_source(self, body: RequestBody, source: Source) -> Coroutine[None]:
        """Send what *source* has, up to the announced length of *body*."""

        if body.chunked:
            piece = self._read_source(source, None)
            while piece:
                yield from self._co_send(_chunk(piece), body)
                # The source may want to use its memory again.
                piece.release()
                piece = self._read_source(source, None)
            return
        # Counted here as well, as a reader that sees a refusal ends the body.
        left = body.remaining
        if self.stream.can_send_files and isinstance(source, StreamSource):
            left -= yield from self._co_send_file(body, source)
        while left:
            piece = self._read_source(source, left)
            if not piece:
                break
            yield from self._co_send([piece], body)
            body.written(len(piece))
            left -= len(piece)
            piece.release()
        if left:
            # A reader may have seen that the server refuses the rest.
            self._raise_send_fault()

    def _read_source(self, source: Source, limit: Optional[int]) -> memoryview:
        try:
            return source.read(limit)
        except BaseException as exc:
            # Whatever it is, it is not the server that has closed.
            self._interrupted('reading the request body', exc)
            raise

    def _co_send_file(self, body: RequestBody, source: StreamSource) -> Coroutine[int]:
        """Let the kernel send *source* as far as it can, and return how many bytes that is."""

        stream = self.stream
        file = source.kernel_file()
        if file is None:
            return 0
        _, begin = file
        offset = begin
        try:
            while body.remaining:
                try:
                    # Not the descriptor from before the wait: the file may have been closed.
                    size = stream.try_send_file(source.descriptor(), offset, body.remaining)
                except NotImplementedError:
                    break
                if size is None:
                    yield from self._co_wait_to_send(body)
                elif size == 0:
                    break
                else:
                    offset += size
                    body.written(size)
            return offset - begin
        finally:
            source.skip(offset - begin)

    def _co_send(self, pieces: List[Data], body: Optional[RequestBody] = None) -> Coroutine[None]:
        """Send all *pieces*; with *body*, they are part of a message that has it."""

        stream = self.stream
        vectored = len(pieces) > 1 and stream.vectored
        if not vectored and len(pieces) > 1:
            pieces = _joined(pieces)
        while pieces:
            size = stream.try_send_all(pieces) if vectored else stream.try_send(pieces[0])
            if size is None:
                yield from self._co_wait_to_send(body)
            else:
                self._sent += size
                pieces = _without(pieces, size)
                stream.perhaps_sent = 0

    def send_now(self, pieces: List[Data]) -> None:
        """Send as much of *pieces* as is possible without waiting, and remove it from the list."""

        stream = self.stream
        while pieces:
            if stream.vectored:
                size = stream.try_send_all(pieces)
            else:
                if len(pieces) > 1:
                    pieces[:] = [b''.join(pieces)]
                # Not all of it, as TLS would give no account of what it has sent.
                size = stream.try_send(memoryview(pieces[0])[: 4 * _JOIN])
            if size is None:
                break
            pieces[:] = _without(pieces, size)
            stream.perhaps_sent = 0

    def _co_wait_to_send(self, body: Optional[RequestBody]) -> Coroutine[None]:
        """Wait until sending can go on, or the answer to this request shows that it need not.

        A server may refuse an upload and stop reading it (RFC 9112, section 9.3): who waits only
        for the server to read on would wait for ever. As long as somebody else reads, or answers
        to earlier requests are not read, the answer cannot be looked for, so that is waited for,
        too.
        """

        stream = self.stream
        if body is None or body is NO_BODY or self._early_head is not None:
            yield from stream.co_wait_send()
        elif self._may_look_for_refusal(body):
            # A reader may have received it together with an earlier answer.
            if self.buf.b == self.buf.e and not stream.holds_something:
                yield from stream.co_wait_send_or_reader(lambda: self.send_fault is None)
            self._peek(self._look_for_refusal, body)
        else:
            yield from stream.co_wait_send_or_role(
                lambda: self.send_fault is None and not self._may_look_for_refusal(body)
            )
        if body is not None:
            # A reader may have seen that the server refuses the rest.
            self._raise_send_fault()

    def _may_look_for_refusal(self, body: RequestBody) -> bool:
        """Whether what is received next is the answer to the request with *body*."""

        first = self._pending_at(0)
        return (
            first is not None
            and first.body is body
            and not self.reading_body
            and bool(self.stream.reading)
        )

    def _peek(self, look: Callable[..., Any], *args: Any) -> None:
        """Call *look*, which receives without waiting, unless somebody else reads."""

        stream = self.stream
        # A reader that comes in this moment waits for the end of it, see `_enter_reading`.
        with stream.peeking:
            if stream.reading:
                look(*args)

    def _receive_at_once(self) -> Optional[int]:
        """Receive into the buffer what is there; returns like `Stream.try_receive`."""

        stream, buf = self.stream, self.buf
        size = stream.try_receive(buf.space()) if stream.may_receive() else None
        if size:
            buf.e += size
        return size

    def _look_for_refusal(self, body: RequestBody) -> None:
        """Receive what is there; `ConnectionClosed` if it is an answer that ends the upload."""

        # A reader may have come and gone meanwhile.
        if not self._may_look_for_refusal(body):
            return
        request = self.pending[0]
        if not len(self.buf):
            size = self._receive_at_once()
            if size is None:
                return
            if not size:
                raise ConnectionClosed('server closed the connection during the upload')
        try:
            head = self._buffered_head()
            while head is not None and head.status < 200 and head.status != 101:
                self._count_interim_response(request)
                head = self._buffered_head()
        except _GeneralError as exc:
            self._reading_failed('reading a response', exc, True)
            raise ConnectionClosed(f'server answered too early, and wrong: {exc}') from exc
        self._early_head = head
        if head is not None and _refuses(head):
            self.closing = _NOT_SENT_IN_FULL
            raise ConnectionClosed(_refusal(head))

    def check_idle(self) -> None:
        """Look whether the server has closed, or sent something, while nothing was outstanding.

        What it sent cannot be the answer to a request that is yet to be sent, except that some
        servers announce with a response of status 408 that they close (RFC 9110, 15.5.9).
        """

        try:
            self._peek(self._look_for_excess)
        except ConnectionClosed as exc:
            if self.stream.forgotten:
                # It was not the server.
                raise
            self.ended = exc.msg
            self.stream.abort(exc.msg)
        except BaseException as exc:
            # Something may have been received, and be lost.
            self._interrupted('looking at the idle connection', exc)
            raise

    def _look_for_excess(self) -> None:
        """Receive what is there; `ConnectionClosed` if that is the end, or cannot be right."""

        # A reader may have come and gone meanwhile.
        if self.pending or self.reading_body:
            return
        buf = self.buf
        found = bytes(buf.memory[buf.b : buf.e]) if buf.b < buf.e else b''
        try:
            head = self._buffered_head() if found else None
            while head is None:
                size = self._receive_at_once()
                if not size:
                    if size == 0 and not found:
                        raise ConnectionClosed('server closed the idle connection')
                    break
                found += buf.view[buf.e - size : buf.e]
                head = self._buffered_head()
        except (InvalidResponse, UnsupportedResponse):
            head = None
        if head is not None and self._is_idle_timeout(head):
            self._early_head = head
            self.closing = 'server closed the idle connection with status 408'
        elif found:
            raise ConnectionClosed(
                f'server sent {len(found)} bytes beyond the end of the last response: '
                f'{excerpt(found)}'
            )

    def _is_idle_timeout(self, head: ResponseHead) -> bool:
        """Whether *head* announces that an idle connection is closed, and its body is there.

        As far as that can be seen: the buffer may be too small, and a body without a length shows
        its end when it is read.
        """

        if head.status != 408 or not closes_connection(head):
            return False
        body = ResponseBody('GET', head, self.assume_close)
        if body.state is not DATA:
            return body.error is None
        buf = self.buf
        size = min(body.remaining, buf.size)
        while len(buf) < size and self._receive_at_once():
            pass
        return len(buf) >= size

    def write(self, data: Any, blocking: bool = False) -> Optional[Coroutine[None]]:
        """Send body data: a bytes-like object, or what a binary stream has.

        Returns `None` if the system has taken all of it at once, as it mostly does, else the
        coroutine that goes on. That one has the role, and gives it back even if it is dropped.
        *blocking* tells that there is no event loop in which others wait for their turn.
        """

        rest: Optional[Coroutine[None]] = None
        stream = self.stream
        self.enter_sending()
        try:
            body = self.upload
            # For each write: a call that finds nothing to raise would take a tenth of its time.
            # Whatever else keeps from writing has ended the body.
            if (
                body is None
                or body.state is not WRITING
                or stream.closed
                or self.fault is not None
                or self.closing is not None
            ):
                body = self._body_to_write()
            view = data if type(data) is bytes else as_bytes(data)
            if view is None:
                left: Union[Source, List[Data]] = self._source_to_write(data, body)
            else:
                size = len(view)
                if not size:
                    return None
                if body.chunked:
                    left = _chunk(view)
                elif size > body.remaining:
                    self._check_writing()
                    body.check_size(size)
            if self._sender_sought:
                self.announce()
            try:
                if view is not None and not body.chunked:
                    # A refusal may be in the buffer, where the socket does not tell of it.
                    at_once = blocking and self.buf.b == self.buf.e
                    sent = stream.try_send(view, at_once) or 0
                    body.written(sent)
                    if sent == size:
                        return None
                    left = [memoryview(view)[sent:]]
                held = [stream.sending]
                rest = self._co_write_rest(body, left, held)
                next(rest)
                return rest
            except BaseException as exc:
                if rest is not None:
                    # Of a signal handler, before the coroutine has begun, or after it.
                    rest.close()
                    rest = None if held else rest
                self._body_failed(body, exc, 'writing a request body')
                raise
        finally:
            if rest is None:
                self.leave_role(stream.sending)

    def _source_to_write(self, data: Any, body: RequestBody) -> StreamSource:
        if not is_stream(data):
            raise TypeError(
                'data must be bytes-like or a binary stream, not ' + type(data).__name__
            )
        source = StreamSource(data)
        source.length = body.remaining or None
        source.prepare()
        return source

    def _co_write_rest(
        self, body: RequestBody, data: Union[Source, List[Data]], held: List[Any]
    ) -> Coroutine[None]:
        """Go on with what `write` has begun; takes the role out of *held* when it leaves that."""

        try:
            yield from self.stream.co_begin()
            if isinstance(data, list):
                yield from self._co_send(data, body)
                body.written(sum(map(len, data)))
            else:
                yield from self._co_send_source(body, data)
        except BaseException as exc:
            self._body_failed(body, exc, 'writing a request body')
            raise
        finally:
            self.leave_role(held.pop())

    def co_write(self, data: Any) -> Coroutine[None]:
        """Coroutine twin of `write`."""

        rest = self.write(data)
        if rest is not None:
            yield from rest

    def co_write_eof(self, trailers: Optional[Mapping[str, Any]] = None) -> Coroutine[None]:
        """End a request body."""

        self.enter_sending()
        try:
            body = self.upload
            if self._sender_sought:
                self.announce()
            if body is None or body.state is AWAIT_CONTINUE or not body.awaits_eof:
                body = self._body_to_write()
            else:
                self._check_writing()
            if trailers and not body.chunked:
                raise ValueError('only a chunked request body can have trailers')
            section = trailer_section(trailers)
            if not body.chunked:
                body.check_complete()
                body.awaits_eof = False
                return
            try:
                yield from self._co_send([b'0\r\n' + section], body)
            except BaseException as exc:
                self._body_failed(body, exc, 'writing a request body')
                raise
            body.finish()
        finally:
            self.leave_role(self.stream.sending)

    def _check_writing(self) -> None:
        self.raise_fault()
        self._raise_loss()
        self._raise_send_fault()
        cause = self.ended
        if cause is None:
            last = self._pending_at(-1)
            if last is not None and not last.sent:
                cause = self.closing
        if cause is not None:
            raise ConnectionClosed(cause)

    def _body_to_write(self) -> RequestBody:
        """Return the request body that is being written, or raise why there is none."""

        # In this order: another thread may have ended the body a moment ago.
        body = self.upload
        self._check_writing()
        if body is None:
            raise StateError('no request body is being written')
        body.check_writable()
        return body

    # Receiving

    def _enter_reading(self) -> None:
        stream = self.stream
        try:
            stream.reading.pop()
            if stream.peeking.locked():
                self._let_sender_look()
        except BaseException as exc:
            self._role_not_taken(stream.reading, exc, _READING_IN_USE)
            raise

    def _let_sender_look(self) -> None:
        """Wait while a sender receives what is there. Who cannot read then leaves the role."""

        try:
            if not self.stream.let_sender_look():
                raise IndexError(*_IN_USE)
        except BaseException:
            self.stream.reading.append(None)
            raise

    def read_response(self, patient: bool, timeout: Optional[float]) -> HTTPResponse:
        """Like `co_read_response`, but the thread waits.

        `ConnectionTimedOut` after *timeout* seconds. There is no coroutine if the head is there
        after one wait, as it mostly is.
        """

        stream = self.stream
        self._enter_reading()
        try:
            request = self._request_to_answer(False, patient)
            try:
                if stream.connected or self._early_head is not None:
                    response = self._take_response(request)
                    if response is None:
                        size = stream.receive_answer(self.buf.space(), timeout)
                        if size is not None:
                            response = self._take_received_response(request, size)
                    if response is not None:
                        return response
            except BaseException as exc:
                self._reading_failed('reading a response', exc, True)
                raise
        finally:
            self.leave_role(stream.reading)
        return eval_coroutine(self.co_read_response(patient=patient), timeout)

    def co_read_response(
        self, pipelined: bool = False, patient: bool = False
    ) -> Coroutine[HTTPResponse]:
        """Read the next response head that is for the caller, or with *pipelined* for a pipeline.

        A *patient* reader, who has another thread that sends, waits even if the request body is
        left incomplete at the moment.
        """

        stream = self.stream
        self._enter_reading()
        try:
            request = self._request_to_answer(pipelined, patient)
            try:
                if not stream.connected and self._early_head is None:
                    yield from stream.co_wait_connected()
                    self.raise_fault()
                    if self._pending_at(0) is not request:
                        raise ConnectionClosed('the request could not be sent')
                response = self._take_response(request)
                while response is None:
                    size = yield from stream.co_receive(self.buf.space(), True)
                    response = self._take_received_response(request, size)
                return response
            except BaseException as exc:
                self._reading_failed('reading a response', exc, True)
                raise
        finally:
            self.leave_role(stream.reading)

    def _request_to_answer(self, pipelined: bool, patient: bool) -> Request:
        """Return the request whose answer is to be read, or raise why there is none to read."""

        stream = self.stream
        # As in `_can_be_sent`, calls that would find nothing are spared.
        if self.fault is not None or stream.closed:
            self.raise_fault()
        body = self.body
        if body is not None and body.state is not DONE:
            raise StateError(
                'the body of the previous response was not read to its end; see discard()'
            )
        request = self._pending_at(0)
        if request is None:
            self._raise_loss()
            self._raise_send_fault()
            raise StateError('no response is outstanding')
        self.lost_body = None
        if self._early_head is None:
            if not request.sent:
                raise ConnectionClosed(self.ended or self.closing)
            if self.ended is not None:
                raise ConnectionClosed(self.ended)
        if request.pipelined is not pipelined:
            raise StateError(_PIPELINED)
        if request.body.state is WRITING and not (pipelined or patient) and stream.sending:
            raise StateError('the request body was not written to its end')
        return request

    def _take_response(self, request: Request) -> Optional[HTTPResponse]:
        """Return the next response that is for the caller if its head is there, else `None`."""

        while True:
            head = self._early_head
            if head is not None:
                self._early_head = None
            else:
                head = self._buffered_head()
                if head is None:
                    return None
            if not request.begun:
                raise ConnectionClosed('server answered a request that was not sent yet')
            response = self._accept(request, head)
            if response is not None:
                return response

    def _take_received_response(self, request: Request, size: int) -> Optional[HTTPResponse]:
        """The same when *size* bytes were received into the buffer; 0 is the end."""

        if not size:
            raise ConnectionClosed(self._end_in_head())
        self.buf.e += size
        return self._take_response(request)

    def _end_in_head(self) -> str:
        if self._block_reader is not None:
            return 'server closed the connection in the middle of a response head'
        number = len(self.pending)
        answers = 'one answer' if number == 1 else f'{number} answers'
        return f'server closed the connection with {answers} outstanding'

    def _buffered_head(self) -> Optional[ResponseHead]:
        """Take a response head out of the buffer; `None` if it is not there as a whole."""

        buf = self.buf
        if buf.b == buf.e:
            return None
        reader = self._block_reader
        if reader is None:
            begin = buf.b
            end = buf.memory.find(b'\r\n\r\n', begin, buf.e)
            # A head within the smaller limit is within both; the others are counted exactly.
            size = end - begin
            if 0 <= size <= package.MAX_LINE_SIZE and size <= package.MAX_HEADER_SIZE:
                head = parse_head(buf.memory[begin:end].decode('latin1'))
                buf.b = end + 4
                if buf.b == buf.e:
                    buf.b = buf.e = 0
                return head
            reader = self._block_reader = BlockReader(
                True, package.MAX_LINE_SIZE, package.MAX_HEADER_SIZE
            )
        text = reader.feed(buf)
        if text is None:
            return None
        head = parse_head(text)
        self._block_reader = None
        return head

    def _count_interim_response(self, request: Request) -> None:
        request.interim_responses += 1
        if request.interim_responses > MAX_INTERIM_RESPONSES:
            raise InvalidResponse(
                f'server sent more than {MAX_INTERIM_RESPONSES} interim responses to one request'
            )

    def _accept(self, request: Request, head: ResponseHead) -> Optional[HTTPResponse]:
        """Return what the caller gets for *head*: `None` for an interim response."""

        status = head.status
        if status < 200:
            if status == 100 and request.body.state is AWAIT_CONTINUE:
                request.body.state = WRITING
                response = HTTPResponse(request.method, request.path, status, head.reason, head, 0)
                response._trailers = ''
                return response
            if status != 101:
                self._count_interim_response(request)
                return None
            if not request.upgrade:
                raise UnsupportedResponse('server switched protocols (101) without being asked')
        body = ResponseBody(request.method, head, self.assume_close)
        response = HTTPResponse(
            request.method, request.path, status, head.reason, head, body.length
        )
        # In this order, as a sender takes what comes when nothing is outstanding for wrong.
        self.body = body
        try:
            self.pending.remove(request)
        except ValueError:
            self.body = None
            # Whoever was sending it has just given up.
            raise ConnectionClosed('server answered a request that was not sent in full') from None
        self.reserved = request.reserved
        self.response = response
        if request.body.state is not COMPLETE:
            self._end_upload(request, head)
        if status == 101 or (request.method == 'CONNECT' and status < 300):
            self.fail(StateError('the connection does not speak HTTP any more'), abort=False)
        elif body.error is not None:
            self.fail(body.error, abort=False)
        elif body.close_after:
            self.ended = _CLOSED_AS_ANNOUNCED
            upload = self.upload
            if upload is not None:
                # It belongs to this request or a later one, which will not be answered.
                upload.finish()
        elif self.closing is not None and request.body.state is COMPLETE:
            following = self._pending_at(0)
            if following is None or not following.sent:
                self.ended = self.closing
        if body.state is DONE:
            self._body_done()
        return response

    def _end_upload(self, request: Request, head: ResponseHead) -> None:
        """Deal with a final answer to a request whose body was not sent to its end."""

        body = request.body
        if body.state is AWAIT_CONTINUE:
            # RFC 9110, section 10.1.1: the server does not want it, and does not expect it.
            body.finish()
        elif _refuses(head):
            # The sender in a pipeline is who reads this.
            if self.sender is not current_thread() and not request.pipelined:
                self.stream.let_sender_settle()
            if body.state is COMPLETE:
                # It was the answer to the last byte.
                return
            body.finish()
            self.closing = _NOT_SENT_IN_FULL
            self.send_fault = _refusal(head)
            if self.stream.sender_waits:
                self.stream.stop_sending(self.sender is not current_thread())

    def _body_done(self) -> None:
        """Note that the body was read to its end."""

        body, response = self.body, self.response
        assert body is not None
        if response is not None:
            response._trailers = body.trailers
            self.response = None
        # Asked here to spare most responses a call.
        if self.buf.usual is not None:
            # Unless what is behind this body does not fit; then it is done after a later one.
            self.buf.restore()
        if self.ended is not None and self.fault is None:
            self.stream.finish(self.ended)

    def _reading_failed(self, what: str, exc: BaseException, retriable: bool) -> None:
        """Put things in order after *exc* ended a read operation."""

        waiting, self.stream.waiting_to_receive = self.stream.waiting_to_receive, False
        if isinstance(exc, (InvalidResponse, UnsupportedResponse)):
            # Not closed: `read_raw` shows what the server sent.
            self.fail(exc, abort=False)
        elif isinstance(exc, ConnectionClosed):
            self.fail(exc)
        elif not (retriable and waiting):
            self._interrupted(what, exc)

    def _readable_body(self, pipelined: bool = False) -> Optional[ResponseBody]:
        """Return the body that is being read, `None` if nothing is left of it.

        *pipelined* tells that it is a pipeline that reads.
        """

        body = self.body
        if body is None or self.fault is not None or self.stream.closed:
            self.raise_fault_of_reading()
        if body is None or body.state is DONE:
            return None
        if self.reserved is not pipelined:
            raise StateError(_PIPELINED)
        return body

    def raise_fault_of_reading(self) -> None:
        """Raise what keeps body data from being read."""

        self._raise_loss()
        if self.lost_body is not None:
            raise ConnectionClosed(self.lost_body)
        stream = self.stream
        fault = self.fault
        if fault is not None and not stream.forgotten:
            raise type(fault)(fault.msg)
        if stream.closed and (self.reading_body or (stream.forgotten and self.pending)):
            raise ConnectionClosed(stream.cause)

    def readall(self, timeout: Optional[float]) -> bytes:
        """Like `co_readall`, but the thread waits, and if all is in the buffer, not at all."""

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None:
                return b''
            try:
                data = self._take_rest(body)
                if data is None:
                    data = eval_coroutine(self._co_read_rest(body), timeout)
                self._body_done()
                return data
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, False)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _take_rest(self, body: ResponseBody) -> Optional[bytes]:
        buf = self.buf
        size = body.remaining
        if size > buf.e - buf.b or body.chunked or body.state is not DATA:
            return None
        data = buf.take(size)
        body.taken(size)
        return data

    def co_readall(self) -> Coroutine[bytes]:
        """Read the rest of the body."""

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None:
                return b''
            try:
                data = self._take_rest(body)
                if data is None:
                    data = yield from self._co_read_rest(body)
                self._body_done()
                return data
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, False)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _co_read_rest(self, body: ResponseBody) -> Coroutine[bytes]:
        if body.state is DATA and not body.chunked and body.remaining <= _MAX_ALLOCATION:
            return self._co_read_known(body)
        return self._co_read_unknown(body)

    def _co_read_known(self, body: ResponseBody) -> Coroutine[bytes]:
        """Receive a body of known length into memory of that size."""

        size = body.remaining
        self.stream.expect(size)
        with ResultBuffer(size) as result:
            begin = body.take_into(self.buf, result.view)
            yield from self._co_receive_data(body, result.view, begin)
            return result.finish(size)

    def _co_receive_data(
        self, body: ResponseBody, target: memoryview, begin: int
    ) -> Coroutine[None]:
        """Receive data into *target*, from *begin* to its end, not through the buffer."""

        while begin < len(target):
            with target[begin:] as rest:
                received = yield from self.stream.co_receive(rest, fill=True)
            if not received:
                body.eof()
            body.taken(received)
            begin += received

    def _co_read_unknown(self, body: ResponseBody) -> Coroutine[bytes]:
        """Receive a body piece by piece."""

        buf = self.buf
        result = BytesIO()
        while True:
            pieces = body.take_all(buf)
            # Many small pieces are joined faster than written one by one.
            if len(pieces) > _MANY:
                result.write(b''.join(pieces))
            else:
                result.writelines(pieces)
            if body.state is DONE:
                return result.getvalue()
            # Nobody knows how much, but as much again may well come.
            self.stream.expect(2 * result.tell())
            if body.state is DATA and body.remaining >= buf.size:
                yield from self._co_receive_chunk(body, result)
                continue
            if len(pieces) > 1 and result.tell() >= _READ_SIZE and buf.size >= _MAY_GROW:
                # Much has come in small chunks, so more of them are received at a time.
                buf.enlarge(_READ_SIZE)
            yield from self._co_fill(body)

    def _co_receive_chunk(self, body: ResponseBody, result: BytesIO) -> Coroutine[None]:
        """Receive some of a large chunk behind what is in *result*, not through the buffer."""

        begin = result.tell()
        size = min(body.remaining, _READ_SIZE)
        # Space is made piece by piece: the chunk need not come, whatever its size line says.
        result.seek(begin + size - 1)
        result.write(b'\0')
        with result.getbuffer() as view:
            yield from self._co_receive_data(body, view, begin)

    def _co_fill(self, body: ResponseBody) -> Coroutine[None]:
        """Receive into the buffer; at the end of the connection, end *body* or raise."""

        size = yield from self.stream.co_receive(self.buf.space())
        if size:
            self.buf.e += size
        else:
            self._end_of_connection(body)

    def _end_of_connection(self, body: ResponseBody) -> None:
        stream = self.stream
        noticed = not (stream.ended_without_notice or stream.ignores_missing_notice)
        if stream.reset_while_sending and not (stream.tls and noticed):
            raise ConnectionClosed('connection was reset; the response body may be incomplete')
        if self.strict_eof and stream.ended_without_notice:
            raise ConnectionClosed(
                'connection ended without close_notify; the response body may be incomplete'
            )
        if self.strict_eof and stream.ignores_missing_notice:
            raise ConnectionClosed(
                'connection ended, and OP_IGNORE_UNEXPECTED_EOF in the options of the TLS context '
                'hides whether with close_notify; the response body may be incomplete'
            )
        body.eof()

    def co_discard(self) -> Coroutine[None]:
        """Read the rest of the body and drop it."""

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None:
                return
            try:
                body.take_all(self.buf)
                while body.state is not DONE:
                    yield from self._co_fill(body)
                    body.take_all(self.buf)
                self._body_done()
            except BaseException as exc:
                self._reading_failed('discarding a response body', exc, False)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def co_wait_for_more(self) -> Coroutine[None]:
        """Wait, after a response, until something that comes behind it is in the buffer.

        `ConnectionClosed` if that is the end of the connection.
        """

        self._enter_reading()
        try:
            self.raise_fault_of_reading()
            try:
                if not len(self.buf):
                    size = yield from self.stream.co_receive(self.buf.space())
                    if not size:
                        raise ConnectionClosed('server closed before it had the whole request')
                    self.buf.e += size
            except BaseException as exc:
                self._reading_failed('waiting for more', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def co_read(self, size: int, pipelined: bool = False) -> Coroutine[bytes]:
        """Read up to *size* bytes, at least one unless the body is at its end.

        *pipelined* tells that it is a pipeline that reads.
        """

        size = operator.index(size)
        self._enter_reading()
        try:
            body = self._readable_body(pipelined)
            if body is None or not size:
                return b''
            try:
                data = yield from self._co_read_some(body, size)
                if body.state is DONE:
                    self._body_done()
                return data
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _co_read_some(self, body: ResponseBody, size: int) -> Coroutine[bytes]:
        buf = self.buf
        available = buf.e - buf.b
        if available and not body.chunked:
            if body.state is DATA:
                data = buf.take(min(size, body.remaining))
                body.taken(len(data))
            else:
                data = buf.take(size)
            return data
        if body.chunked:
            # What is buffered holds at least as many bytes of framing as of data at its worst.
            size = min(size, max(available, buf.size))
        elif body.state is DATA:
            size = min(size, body.remaining, _READ_SIZE)
        else:
            size = min(size, _READ_SIZE)
        with ResultBuffer(size) as result:
            received = yield from self._co_read_into(body, result.view)
            return result.finish(received)

    def readinto(self, target: memoryview, timeout: Optional[float]) -> int:
        """Like `co_readinto`, but the thread waits.

        There is no coroutine if much has come already.
        """

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None or not len(target):
                return 0
            try:
                size = self._receive_into(body, target)
                if size is None:
                    size = eval_coroutine(self._co_read_into(body, target), timeout)
                if body.state is DONE:
                    self._body_done()
                return size
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _receive_into(self, body: ResponseBody, target: memoryview) -> Optional[int]:
        """Receive into *target* as `_co_read_into` does with much, but return `None` instead of
        waiting."""

        buf = self.buf
        if buf.b < buf.e or body.state is not DATA or not body.remaining >= _DIRECT <= len(target):
            return None
        with target[: body.remaining] as part:
            size = self.stream.receive_now(part)
        if size:
            body.taken(size)
        # The end is for `_co_read_into`, which meets it again.
        return size or None

    def co_readinto(self, target: memoryview) -> Coroutine[int]:
        """Fill *target* with what there is."""

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None or not len(target):
                return 0
            try:
                size = yield from self._co_read_into(body, target)
                if body.state is DONE:
                    self._body_done()
                return size
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _co_read_into(self, body: ResponseBody, target: memoryview) -> Coroutine[int]:
        """Read at least one byte into *target*, unless the body is at its end."""

        buf = self.buf
        while True:
            if buf.b < buf.e:
                size = body.take_into(buf, target)
                if size:
                    return size
            if body.state is DONE:
                return 0
            if body.state is DATA and body.remaining >= _DIRECT <= len(target):
                with target[: body.remaining] as part:
                    if len(part) >= MUCH:
                        self.stream.expect(body.remaining)
                    size = yield from self.stream.co_receive(part, much=len(part) >= MUCH)
                if not size:
                    body.eof()
                body.taken(size)
                return size
            yield from self._co_fill(body)

    def co_peek(self) -> Coroutine[bytes]:
        """Return body data that can be read next without removing them; empty at the end."""

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None:
                return b''
            try:
                begin, end = yield from self._co_find_data(body)
                if body.state is DONE:
                    self._body_done()
                return self.buf.view[begin:end].tobytes()
            except BaseException as exc:
                self._reading_failed('reading a response body', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def _co_find_data(self, body: ResponseBody) -> Coroutine[Tuple[int, int]]:
        """Return where data of the body are in the buffer, nowhere only at its end."""

        buf = self.buf
        while not body.advance(buf) or (buf.b == buf.e and body.state is not DONE):
            yield from self._co_fill(body)
        if body.state is DONE:
            return buf.b, buf.b
        if body.state is DATA:
            return buf.b, min(buf.e, buf.b + body.remaining)
        return buf.b, buf.e

    def co_readline(self, limit: int) -> Coroutine[bytes]:
        """Read up to and including the next LF, and at most *limit* bytes if that is not negative.

        What a line has lost when it is interrupted cannot be put back.
        """

        self._enter_reading()
        try:
            body = self._readable_body()
            if body is None or not limit:
                return b''
            buf = self.buf
            pieces: List[bytes] = []
            line_ends = False
            try:
                while limit and not line_ends:
                    begin, end = yield from self._co_find_data(body)
                    if begin == end:
                        break
                    if limit > 0:
                        end = min(end, begin + limit)
                    found = buf.memory.find(b'\n', begin, end) + 1
                    line_ends = found > 0
                    size = (found or end) - begin
                    pieces.append(buf.take(size))
                    if body.state is DATA:
                        body.taken(size)
                    # One that is negative remains so.
                    limit -= size
                if body.state is DONE:
                    self._body_done()
                return b''.join(pieces)
            except BaseException as exc:
                self._reading_failed('reading a line', exc, not pieces)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def lines_lost(self, exc: BaseException) -> None:
        """Break the connection after *exc*, with which whole lines were lost."""

        self._interrupted('reading lines', exc)

    def co_fill_buffer(self, size: int) -> Coroutine[None]:
        """Make at least *size* bytes available in the buffer."""

        self._enter_reading()
        try:
            self.raise_fault_of_reading()
            self._check_connected()
            buf = self.buf
            if size > buf.size:
                raise ValueError(f'buffer has only {buf.size} bytes')
            if buf.size - buf.b < size:
                buf.compact()
            try:
                while len(buf) < size:
                    received = yield from self.stream.co_receive(buf.space())
                    if not received:
                        raise ConnectionClosed('server closed the connection')
                    buf.e += received
            except BaseException as exc:
                self._reading_failed('filling the buffer', exc, True)
                raise
        finally:
            self.leave_role(self.stream.reading)

    def co_read_raw(self, size: int) -> Coroutine[bytes]:
        """Read up to *size* bytes as they come from the server."""

        size = operator.index(size)
        if size < 0:
            raise ValueError('read_raw needs a number of bytes that is not negative')
        self._enter_reading()
        try:
            self._check_connected()
            self.fault = StateError('the connection was read from with read_raw')
            if self._consumed is None:
                self._consumed = self._unfinished()
            if self._consumed:
                data, self._consumed = self._consumed[:size], self._consumed[size:]
                return data
            if not size:
                return b''
            if not len(self.buf):
                received = yield from self.stream.co_receive(self.buf.space())
                self.buf.e += received
            return self.buf.take(size)
        finally:
            self.stream.waiting_to_receive = False
            self.leave_role(self.stream.reading)

    def _unfinished(self) -> bytes:
        """Return what was taken out of the buffer for a head or line that is not complete."""

        if self._block_reader is not None:
            return self._block_reader.collected()
        if self.body is not None and self.body.state is not DONE:
            return self.body.unread()
        return b''

    # Tunnel

    def co_tunnel(self, request_head: bytes) -> Coroutine[None]:
        """Have the proxy connect to the origin (RFC 9110, section 9.3.6)."""

        yield from self._co_send([request_head])
        try:
            head = yield from self._co_read_answer_of_proxy()
        except (InvalidResponse, UnsupportedResponse) as exc:
            raise type(exc)(f'proxy: {exc.msg}') from exc
        if not 200 <= head.status < 300:
            raise ProxyError(head.status, head.reason)
        if len(self.buf):
            # The server speaks only after the client has started TLS.
            raise InvalidResponse('proxy sent data beyond its answer to CONNECT')

    def _co_read_answer_of_proxy(self) -> Coroutine[ResponseHead]:
        request = Request('CONNECT', '', NO_BODY)
        while True:
            head = self._buffered_head()
            while head is None:
                size = yield from self.stream.co_receive(self.buf.space())
                if not size:
                    raise ConnectionClosed('proxy closed the connection before it had answered')
                self.buf.e += size
                head = self._buffered_head()
            if head.status >= 200 or head.status == 101:
                return head
            self._count_interim_response(request)


def how_it_ended(exc: BaseException) -> str:
    """Say what *exc* did to an operation."""

    if isinstance(exc, GeneratorExit):
        return 'was abandoned'
    return f'was interrupted by {type(exc).__name__}: {exc}'.rstrip(': ')


def _chunk(data: Data) -> List[Data]:
    """Return *data* as a chunk (RFC 9112, section 7.1)."""

    return [b'%x\r\n' % len(data), data, b'\r\n']


def _joined(pieces: List[Data]) -> List[Data]:
    """Return *pieces* in as few as possible without copying much, to be sent one by one."""

    if sum(map(len, pieces)) <= 4 * _JOIN:
        return [b''.join(pieces)]
    # One large piece in the middle: the small ones go out together with a part of it.
    head, data, *tail = pieces
    view = memoryview(data)
    begin = _JOIN - len(head)
    end = len(view) - _JOIN if tail else len(view)
    joined: List[Data] = [b''.join([head, view[:begin]]), view[begin:end]]
    if tail:
        joined.append(b''.join([view[end:], *tail]))
    return joined


def _without(pieces: List[Data], size: int) -> List[Data]:
    """Return *pieces* without their first *size* bytes."""

    for index, piece in enumerate(pieces):
        if size < len(piece):
            return [memoryview(piece)[size:], *pieces[index + 1 :]]
        size -= len(piece)
    return []


def _refusal(head: ResponseHead) -> str:
    return f'server answered {head.status} {head.reason} before it had the whole request body'


def _refuses(head: ResponseHead) -> bool:
    """Tell whether a final answer shows that the server has no use for the rest of the request."""

    return head.status >= 400 or closes_connection(head)
