"""The one room that touches the socket and yields `PollNeeded`.

A `Stream` is one attempt to connect and the connection that comes of it. It is used in two
roles, which may be played by two threads or coroutines: one receives and one sends. Each has
taken the token of its role while it is at work or suspended.

*Waiting.* Sockets are non-blocking. A call is tried first, and on "would block" a `PollNeeded`
is yielded and the call tried again; being resumed for nothing is harmless. Where the previous
call has shown that nothing can be there, the wait comes first, as a failing call costs more. A
thread that needs much is not woken up for each piece of it, see `_MuchNeeded`.

*TLS.* Receiving may need to send and the reverse, so each call says itself what to wait for.
Before CPython 3.14 a TLS object must not be used by two threads at once: the calls, which never
wait, exclude each other. What TLS holds in memory is invisible to `poll`.

*Closing.* Any thread may close at any time, but a descriptor must not be closed, and its number
given to another file, while a role may still use it. `abort` therefore shuts the connection
down, which ends it at once and wakes up whoever waits for it, and leaves closing the descriptor
to the last role that is still at work, if there is one.

*Errors.* Whatever means "the peer is gone" becomes `ConnectionClosed` here, everything else
passes through.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import ssl
import sys
import threading
import weakref
from _thread import allocate_lock
from contextlib import suppress
from operator import attrgetter
from time import monotonic, perf_counter, sleep

from ._exceptions import ConnectionClosed, ConnectionTimedOut
from ._poll import POLLIN, POLLOUT, Looks, PollNeeded, eval_coroutine, make_poller, timeout_message
from ._resolve import is_numeric, resolve
from ._settings import package

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, List, NoReturn, Optional, Sequence, Set, Tuple, Union

    from ._poll import Coroutine
    from ._resolve import AddressInfo

    Data = Union[bytes, bytearray, memoryview]

_IN_PROGRESS = frozenset(
    getattr(errno, name)
    for name in ('EINPROGRESS', 'EWOULDBLOCK', 'EALREADY', 'EINTR', 'WSAEWOULDBLOCK')
    if hasattr(errno, name)
)

# Errors of an established connection that mean it is gone, besides `ConnectionError`.
_GONE = frozenset((errno.ENOTCONN, errno.ESHUTDOWN, errno.EBADF, errno.ENOTSOCK))

# What `ssl` calls an end of the connection in some version or other.
_TLS_EOF_REASONS = frozenset(
    ('UNEXPECTED_EOF_WHILE_READING', 'UNEXPECTED_EOF', 'PROTOCOL_IS_SHUTDOWN')
)

# OpenSSL 3 has this option, which CPython 3.8 and 3.9 always set and do not name.
_IGNORE_UNEXPECTED_EOF = 0x80 if ssl.OPENSSL_VERSION_INFO >= (3,) else 0

# A context with another one makes its own kind of sockets.
_WRAP_SOCKET = ssl.SSLContext.wrap_socket

#: Bytes after which coroutines of a connection that never had to wait give way to others once, and
#: what each system call counts at least.
BURST = 1 << 20
_COST = 1 << 14

# A TLS record holds at most this many bytes; a full one tends to be followed by another.
_TLS_RECORD = 1 << 14

# Records are received one after the other up to this many bytes; then a sender in another thread
# gets its turn.
_TLS_RUN = 1 << 18

# So much is encrypted before it is sent, and received before it is decrypted. It stays in the
# cache of the processor meanwhile.
_TLS_PIECE = 1 << 16
_TLS_RECEIVED = 1 << 17

# While there is more to come, what is encrypted leaves in portions of this size: they fit into one
# packet of the loopback interface, and it would take longer to split them.
_TLS_PACKET = 65483

# How often that is done for messages of TLS itself before others get their turn.
_TLS_FILLS = 8

# In so many seconds, what was sent is noted, if that does not go through `perhaps_sent`.
_NOTED = 0.02

# Memory to receive into, as much as was ever needed by several threads at the same moment. If it
# was made anew each time, the system would have to clear it.
_tls_buffers: List[memoryview] = []

# What a plain socket does.
_send = socket.socket.send
_recv_into = socket.socket.recv_into

#: So many bytes are worth a word with the kernel.
MUCH = 1 << 17

# It is to be ready to receive at most that many ahead of who wants much.
_RECEIVE_AHEAD = 1 << 23

# A thread that has use for so many bytes, from `_GATHER_MIN` to `_GATHER_MAX`, is woken up not
# before all of them have come, or `_GATHER_SIZE`, or that many seconds have passed. Of a larger
# body more arrives while a part is taken, so there is less to wait for.
_GATHER_MIN = 1 << 16
_GATHER_MAX = 1 << 23
_GATHER_SIZE = 1 << 18
_GATHER_SECONDS = 0.001

# What comes more slowly, in bytes per second, can as well be taken while the rest arrives. Nothing
# comes faster than it is encrypted. To fall asleep and wake up takes so many seconds besides.
_FAST = 2e9
_FAST_TLS = 5e8
_NAP = 20e-6

# Seconds for a context that waits by itself; it cannot go on another time, so not 0.
_LEAST_TIMEOUT = 0.001

# The kernel takes so many pieces at a time.
_MAX_PIECES = 16
with suppress(AttributeError, ValueError, OSError):
    _MAX_PIECES = max(_MAX_PIECES, os.sysconf('SC_IOV_MAX'))

_trace_numbers = itertools.count()

# For the child process after a fork, which must not use the connections of its parent.
# Not a `WeakSet`: a signal handler may raise in its callback, and nobody gets the exception.
_streams: Set[weakref.ref[Stream]] = set()


#: What those who use a connection are told that was closed by the caller.
DISCONNECTED = 'the connection was closed by disconnect() or reset()'


class Signal:
    """Wakes up a coroutine that waits for something other than the network."""

    __slots__ = ('_lock', '_receiver', '_sender', 'need', 'poller')

    def __init__(self) -> None:
        # What waits for this and for something else.
        self.poller: Any = None
        self._lock = threading.RLock()
        self._receiver, self._sender = socket.socketpair()
        self._sender.setblocking(False)
        self.need = PollNeeded(self._receiver.fileno(), POLLIN)

    def set(self) -> None:
        """Wake up whoever waits, now or later. For any thread, even after `close`."""

        # Locked so that the descriptor cannot be closed, and its number reused, meanwhile.
        with self._lock:
            # It fails if it was set often enough, or closed.
            with suppress(OSError):
                self._sender.send(b'\0')

    def close(self) -> None:
        with self._lock:
            self._sender.close()
            self._receiver.close()
        if self.poller is not None:
            self.poller.close()

    def forget(self) -> None:
        """Close the descriptors in a child process, in which no other thread has the lock."""

        self._lock = threading.RLock()
        self.close()


class _MuchNeeded(PollNeeded):
    """Something to receive on *sock*, of which who waits has use for `size` bytes.

    *descriptor* is that of *sock*, or was, if somebody has closed it in the meantime. *fast* is
    the rate, in bytes per second, from which on a wait for all of them pays.

    A server tends to send a large body in many small steps. To wake up for each takes longer
    than to receive it, and slows the server down, so a thread that waits lets some of them come
    together. For an event loop this is like any other `PollNeeded`.
    """

    size = 1

    #: Whether less than `size` does not end any wait at the moment. Who is resumed in that state,
    #: as a signal handler raised, has to call `lower`.
    raised = False

    _sock: socket.socket
    _fast: float
    # There is none in what `_replace` makes of it.
    _looks: Optional[Looks] = None

    def __new__(cls, sock: socket.socket, descriptor: int, fast: float) -> _MuchNeeded:
        need = super().__new__(cls, descriptor, POLLIN)
        need._sock = sock
        need._fast = fast
        need._looks = Looks()
        return need

    def __reduce__(self) -> Tuple[Any, ...]:
        return PollNeeded, tuple(self)

    def poll(self, timeout: Optional[float] = None) -> bool:
        if timeout is not None:
            timeout = float(timeout)
        if self._looks is not None and (timeout is None or timeout > 0) and self._looks.due():
            limit = _GATHER_SECONDS if timeout is None else min(timeout, _GATHER_SECONDS)
            begin = perf_counter()
            found = self._gather(limit)
            self._looks.note(found and perf_counter() - begin <= _NAP + self.size / self._fast)
            if found:
                return True
            # There may be less, so this need not be a wait.
            timeout = None if timeout is None else max(0, timeout - limit)
        return super().poll(timeout)

    def _gather(self, limit: float) -> bool:
        self.raised = True
        try:
            _set_low_water(self._sock, self.size)
            return super().poll(limit)
        finally:
            self.lower()

    def lower(self) -> None:
        """Let anything that comes end a wait."""

        _set_low_water(self._sock, 1)
        self.raised = False


class TlsSocket(socket.socket):
    """The connected *sock*, which it takes over, with TLS as *context* says, to *server_hostname*.

    Takes the place of an `ssl.SSLSocket` that does not wait, and raises the same exceptions:
    `SSLWantReadError` and `SSLWantWriteError` mean that a call is to be repeated, with the same
    arguments, when the descriptor is ready. The difference is that OpenSSL does not touch the
    descriptor. It encrypts into memory and decrypts out of it, so that many records pass through
    one system call, where `ssl.SSLSocket` needs one for each record that it sends, and two for
    each that it receives; and an error of the connection is the `OSError` that it is.

    `ValueError` or `SSLError` for what *context* refuses; then *sock* is as it was.
    """

    __slots__ = (
        '_encrypted',
        '_holds_something',
        '_incoming',
        '_lost',
        '_object',
        '_outgoing',
        '_unsent',
    )

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, server_hostname: Optional[str]
    ) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname=server_hostname)
        super().__init__(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self.setblocking(False)
        self._object = tls
        self._incoming = incoming
        self._outgoing = outgoing
        # Whether there may be something to do without receiving more.
        self._holds_something = True
        # Records that were taken out of `_outgoing`, and are yet to be sent.
        self._unsent: Union[bytes, memoryview] = b''
        # Bytes of what is to be sent by `send` that are encrypted already.
        self._encrypted = 0
        # The error that has shown in `recv_into` that the connection is gone.
        self._lost: Optional[Tuple[Any, ...]] = None

    def do_handshake(self) -> None:
        """Shake hands as far as that goes."""

        while True:
            self._flush()
            if not self._holds_something:
                self._fill()
            try:
                self._object.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._holds_something = False
            except ssl.SSLError:
                # The server is to be told why, if that is possible.
                self._try_to_flush()
                raise
        self._holds_something = self._incoming.pending > 0
        # Else by who sends the first request.
        self._try_to_flush()

    def send(self, data: Any, flags: int = 0) -> int:
        """Encrypt and send all of *data*. It may be more of it the next time, but not less."""

        size = len(data)
        if size < self._encrypted:
            raise ValueError('less data than were to be sent before')
        if self._lost is not None:
            raise OSError(*self._lost)
        if self._unsent:
            self._flush()
        while self._encrypted < size:
            begin = self._encrypted
            try:
                if size <= _TLS_PIECE and not begin:
                    self._encrypted = self._object.write(data)
                else:
                    with memoryview(data) as view, view[begin : begin + _TLS_PIECE] as piece:
                        self._encrypted = begin + self._object.write(piece)
            except ssl.SSLWantReadError:
                # TLS 1.2 renegotiates. Nothing more than that is taken, as somebody may wait for
                # what comes after it.
                self._flush()
                self._fill(1)
            if self._encrypted < size and self._outgoing.pending >= _TLS_PACKET:
                self._flush(_TLS_PACKET)
        self._flush()
        self._encrypted = 0
        return size

    def recv_into(self, buffer: Any, nbytes: Optional[int] = None, flags: int = 0) -> int:
        """Receive and decrypt at most one record into *buffer*; 0 after close_notify."""

        for _ in range(_TLS_FILLS):
            if self._holds_something:
                try:
                    return self.decrypt_into(buffer)
                except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                    pass
            try:
                self._fill()
            except ssl.SSLWantReadError:
                self._answer()
                raise
        # All of that was no data. Others get their turn before there is more of it.
        return self.decrypt_into(buffer)

    def decrypt_into(self, buffer: Any) -> int:
        """The same for a record that has been received as a whole already."""

        room = len(buffer)
        try:
            size: Any = self._object.read(room, buffer)
        except ssl.SSLWantReadError:
            self._holds_something = False
            self._answer()
            raise
        except ssl.SSLError:
            self._try_to_flush()
            raise
        # If there was room for more, it is not inside of a record. The end can be asked for again.
        self._holds_something = size == room or not size or self._incoming.pending > 0
        if self._outgoing.pending:
            self._try_to_flush()
        return size  # type: ignore[no-any-return]

    def pending(self) -> int:
        """Return how many bytes, or 1 for the end, `poll` may not see that are there."""

        if not self._holds_something:
            return 0
        return self._object.pending() + self._incoming.pending or 1

    def unwrap(self) -> None:
        """Send close_notify, unless it would look as if something had been sent to its end."""

        if self._unsent or self._encrypted:
            return
        try:
            self._object.unwrap()
        finally:
            self._flush()

    def _fill(self, limit: int = 0) -> None:
        """Receive what is there, at most *limit* bytes if not 0, or `SSLWantReadError`."""

        try:
            buffer = _tls_buffers.pop()
        except IndexError:
            buffer = memoryview(bytearray(_TLS_RECEIVED))
        try:
            size = _recv_into(self, buffer, limit)
            # First, as a signal handler may raise in the middle.
            self._holds_something = True
            if size:
                self._incoming.write(buffer[:size])
            elif self._lost is not None:
                raise OSError(*self._lost)
            else:
                self._incoming.write_eof()
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, 'nothing to receive') from None
        finally:
            _tls_buffers.append(buffer)

    def _answer(self) -> None:
        """Send what answers a message of TLS itself, or `SSLWantWriteError`."""

        # Who is in the middle of `send` does it, too.
        if not self._encrypted and not self._try_to_flush():
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, 'no room')

    def _flush(self, portion: int = -1) -> None:
        """Send what is encrypted; `SSLWantWriteError` if there is no room for all of it.

        With *portion*, what is less than so many bytes is left for the next time.
        """

        records = self._unsent or self._outgoing.read(portion)
        while records:
            self._unsent = records
            try:
                size = _send(self, records)
            except BlockingIOError:
                raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, 'no room') from None
            if size < len(records):
                records = memoryview(records)[size:]
            else:
                self._unsent = b''
                if portion > 0 and self._outgoing.pending < portion:
                    break
                records = self._outgoing.read(portion)

    def _try_to_flush(self) -> bool:
        """Send of what is encrypted as much as there is room for; tell whether that was all of it.

        A connection that is gone is for who sends next, or has received all that is still there.
        """

        try:
            self._flush()
        except ssl.SSLWantWriteError:
            return False
        except BrokenPipeError:
            # The server had ended its data before, and nothing of those is missing.
            pass
        except OSError as exc:
            # What a signal handler raises has no number.
            if exc.errno is None:
                raise
            # The kernel reports it only once, and then an end.
            self._lost = exc.args
        return True


# `getpeercert`, `cipher` and whatever else tells about the TLS connection. Not by `__getattr__`,
# as all attributes of a class that has it are slow.
for _name in dir(ssl.SSLObject):
    if not (_name.startswith('_') or hasattr(TlsSocket, _name) or _name in ('read', 'write')):
        setattr(TlsSocket, _name, property(attrgetter(f'_object.{_name}')))
del _name


class Stream:
    """A TCP connection to *host* and *port*, with or without TLS, and its way there.

    `sock` is the socket or `None`; `connected` (bool) becomes true when it can carry requests;
    `closed` (bool) tells that it was closed locally, `forgotten` (bool) that the caller wanted
    so or that it belongs to the parent process, `cause` (str) why it cannot be used;
    `ended_without_notice` (bool) tells that TLS ended without close_notify, and
    `ignores_missing_notice` (bool) that this cannot be seen. `reset_while_sending` (bool) tells
    that an error has come to a sender, which a reader does not get any more. `perhaps_sent` (int)
    bytes of those that were to be sent last may have been sent without an account of it: TLS gives
    none of the records that it has sent before it could send no more, and an exception of a signal
    handler may take the place of the result. Who has noted the result sets it to 0. `reading` and
    `sending` are the tokens of the two roles: lists whose only item is taken out by who plays the
    role, for which a lock takes ten times as long. `role_waiter` is the `Signal` of a sender that
    waits for the reading role to become free, if there is one. `along` is a function, or `None`,
    that is called whenever a reader of a body has to wait: it sends what it can, and tells whether
    something is left, which is waited for, too; if not, it is forgotten.
    """

    __slots__ = (
        '__weakref__',
        '_answered',
        '_at_end',
        '_both_ready',
        '_burst',
        '_drained',
        '_expected',
        '_has_pending',
        '_much',
        '_need_receive',
        '_need_send',
        '_probe',
        '_readable',
        '_sent_burst',
        '_tls_error',
        '_tls_lock',
        '_trace',
        '_waiters',
        '_writable',
        'along',
        'cause',
        'closed',
        'connected',
        'ended_without_notice',
        'forgotten',
        'host',
        'ignores_missing_notice',
        'lock',
        'opened',
        'peeking',
        'perhaps_sent',
        'port',
        'reading',
        'reset_while_sending',
        'role_waiter',
        'sender_waits',
        'sending',
        'sock',
        'tls',
        'waiting_to_receive',
    )

    def __init__(self, host: str, port: int) -> None:
        self.host = host
        self.port = port
        self.sock: Any = None
        self.tls = False
        self.opened = False
        self.connected = False
        self.closed = False
        self.ended_without_notice = False
        self.ignores_missing_notice = False
        self.reset_while_sending = False
        self.perhaps_sent = 0
        self.forgotten = False
        # True while suspended in a wait of `co_receive`: nothing has been lost then.
        self.waiting_to_receive = False
        # True while the sending role is suspended in a wait.
        self.sender_waits = False
        self.reading: List[None] = [None]
        self.sending: List[None] = [None]
        # Held for a moment by a sender that receives what is there while nobody reads.
        self.peeking = allocate_lock()
        # Held to close it, and to put another one in its place. Reentrant, as a finalizer or a
        # signal handler may strike while it is held.
        self.lock = threading.RLock()
        self._tls_lock: Any = None
        # An error that came after data; the next attempt to receive reports it.
        self._tls_error: Optional[Exception] = None
        self.cause = DISCONNECTED
        # The server has closed its direction.
        self._at_end = False
        # Nothing more can have arrived after what was received last.
        self._drained = True
        # What the kernel was told to be ready to receive.
        self._expected = 0
        # Bytes received, and sent, since the last wait for that.
        self._burst = 0
        self._sent_burst = 0
        self.role_waiter: Optional[Signal] = None
        self.along: Optional[Callable[[], bool]] = None
        # What `try_receive` and `try_send` have to wait for, when they return None.
        self._need_receive: Any = None
        self._need_send: Any = None
        self._readable: Any = None
        self._answered: Any = None
        self._much: Optional[_MuchNeeded] = None
        self._probe: Any = None
        self._writable: Any = None
        self._both_ready: Any = None
        self._trace: Any = None
        self._waiters: List[Signal] = []
        _streams.add(weakref.ref(self, _streams.discard))

    # Connecting

    def co_open(self) -> Coroutine[None]:
        """Connect for a session: `co_connect`, or what has been put in its place."""

        self.opened = True
        self._check_open()
        factory = package.create_socket
        if factory is create_socket:
            yield from self.co_connect()
        else:
            self._set_socket(factory((self.host, self.port)))
            self.sock.setblocking(False)
        self._open_trace()

    def co_connect(self) -> Coroutine[None]:
        """Resolve the host name and connect to the first address that answers.

        Raises the errors of `resolve`, or if no address answers, an error of the kind of the
        last failure that lists all of them. Leaves nothing behind then.
        """

        addresses = yield from self._co_resolve()
        # Without tracebacks, which would refer to this frame.
        failures: List[Tuple[Any, Exception]] = []
        for info in addresses:
            try:
                yield from self._co_connect_address(info)
                break
            except ConnectionTimedOut as exc:
                self.sender_waits = False
                failures.append((info[4], exc.with_traceback(None)))
            except OSError as exc:
                if self.sender_waits:
                    # Thrown in by who drives this: not a failure of the address.
                    raise
                failures.append((info[4], exc.with_traceback(None)))
        else:
            self._check_open()
            raise self._all_failed(failures) from failures[-1][1]
        self._set_socket(self.sock)

    def _co_resolve(self) -> Coroutine[List[AddressInfo]]:
        host, port, test_hosts = self.host, self.port, package.DNS_TEST_HOSTNAMES
        if is_numeric(host):
            return resolve(host, port, test_hosts)
        result: List[List[AddressInfo]] = []
        failure: List[BaseException] = []

        def work() -> None:
            try:
                result.append(resolve(host, port, test_hosts))
            except BaseException as exc:
                failure.append(exc)
            finally:
                done.set()

        done = Signal()
        done.need._purpose = f'look up {host}'
        self._waiters.append(done)
        try:
            thread = threading.Thread(target=work, name=f'dugong resolves {host}', daemon=True)
            thread.start()
            while not (result or failure):
                yield done.need
                self._check_open()
        finally:
            self._no_waiter(done)
        # It has nothing left to do; nobody shall find it still running.
        thread.join()
        if failure:
            try:
                raise failure[0]
            finally:
                # The exception refers to this frame; do not let the frame refer to it.
                failure.clear()
        return result[0]

    def _co_connect_address(self, info: AddressInfo) -> Coroutine[None]:
        family, kind, protocol, _, address = info
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            # Requests leave in one piece; waiting for more to send would only delay them.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # From here on `abort` can interrupt it.
            self.sock = sock
            self._check_open()
            code = sock.connect_ex(address)
            if code in _IN_PROGRESS:
                need = PollNeeded(sock.fileno(), POLLOUT)
                result = None
                while result is None:
                    yield from self._co_sender_waits(need)
                    self._check_open()
                    result = _connect_result(sock)
                code = result
            if code:
                raise OSError(code, os.strerror(code))
        except BaseException:
            self.sock = None
            sock.close()
            raise

    def _all_failed(self, failures: Sequence[Tuple[Any, Exception]]) -> Exception:
        listed = '; '.join(
            f'{address[0]} port {address[1]}: '
            f'{exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}'
            for address, exc in failures
        )
        message = f'cannot connect to {self.host}:{self.port} ({listed})'
        last = failures[-1][1]
        if isinstance(last, OSError) and last.errno is not None:
            return OSError(last.errno, message)
        if isinstance(last, OSError):
            return type(last)(message)
        return ConnectionTimedOut(message)

    def co_start_tls(
        self, context: Any, hostname: str, timeout: Optional[float]
    ) -> Coroutine[None]:
        """Put TLS on top of the connection, as *context* says, to the server *hostname*.

        Certificate problems are `ssl.SSLError`s; `ConnectionClosed` if the server hangs up.
        *timeout* (seconds) is for a context that waits by itself.
        """

        when = 'during the TLS handshake'
        if not isinstance(context, ssl.SSLContext):
            self._wrap_socket(context, hostname, timeout, when)
            return
        try:
            # `wrap_socket` makes another kind of object of a socket that is not connected.
            self.sock.getpeername()
            sock: Any
            if _makes_usual_sockets(context):
                sock = TlsSocket(self.sock, context, hostname)
            else:
                # End of file without close_notify is told apart here, not suppressed.
                sock = context.wrap_socket(
                    self.sock,
                    server_hostname=hostname,
                    do_handshake_on_connect=False,
                    suppress_ragged_eofs=False,
                )
        except OSError as exc:
            self._reraise(exc, when)
        self._set_tls_socket(sock)
        while True:
            self._check_open()
            try:
                sock.do_handshake()
                # A server may speak first.
                self._drained = not self.holds_something
                return
            except ssl.SSLWantReadError:
                need = self._readable
            except ssl.SSLWantWriteError:
                need = self._writable
            except (OSError, ValueError) as exc:
                self._reraise(exc, when)
            yield need

    def _wrap_socket(
        self, context: Any, hostname: str, timeout: Optional[float], when: str
    ) -> None:
        """Put on top what *context*, which only looks like a context, makes of the socket.

        Only the oldest part of the interface is used, and the handshake is its own affair: it
        may wait, so it gets a socket with which it can.
        """

        sock = self.sock
        # A context may take the descriptor away from the socket; `abort` needs one.
        self.sock = sock.dup()
        try:
            sock.settimeout(None if timeout is None else max(timeout, _LEAST_TIMEOUT))
            wrapped = context.wrap_socket(sock, server_hostname=hostname)
            (wrapped if hasattr(wrapped, 'setblocking') else sock).setblocking(False)
        except socket.timeout as exc:
            raise ConnectionTimedOut(f'timed out {when}') from exc
        except OSError as exc:
            self._reraise(exc, when)
        finally:
            with self.lock:
                self.sock.close()
                self.sock = sock
        if isinstance(wrapped, ssl.SSLSocket):
            # End of file without close_notify is told apart here.
            wrapped.suppress_ragged_eofs = False  # type: ignore[attr-defined]
            self._set_tls_socket(wrapped)
        else:
            self._set_socket(wrapped)
            self.tls = True
        self._check_open()

    def _set_tls_socket(self, sock: Any) -> None:
        self._set_socket(sock)
        self.tls = True
        self.ignores_missing_notice = bool(sock.context.options & _IGNORE_UNEXPECTED_EOF)
        self._tls_lock = allocate_lock()

    def set_connected(self) -> None:
        """Let those go on who wait for the connection."""

        self.connected = True
        self._wake_waiters()

    def co_wait_connected(self) -> Coroutine[None]:
        """Wait until another coroutine or thread has connected, or has failed to."""

        signal = Signal()
        self._waiters.append(signal)
        try:
            while not (self.connected or self.closed):
                self.waiting_to_receive = True
                yield signal.need
                self.waiting_to_receive = False
        finally:
            self._no_waiter(signal)

    def _no_waiter(self, signal: Signal) -> None:
        # It is not there any more after a fork.
        with suppress(ValueError):
            self._waiters.remove(signal)
        signal.close()

    def _wake_waiters(self) -> None:
        for signal in list(self._waiters):
            signal.set()

    def _set_socket(self, sock: Any) -> None:
        self.sock = sock
        self._has_pending = hasattr(sock, 'pending')
        descriptor = sock.fileno()
        self._readable = PollNeeded(descriptor, POLLIN)
        # The same, but for the answer to a request that has just been sent.
        self._answered = PollNeeded(descriptor, POLLIN)
        self._answered._busy_waits = Looks()
        # Those for much of a body and for either direction are made when they are needed.
        self._much = self._both_ready = None
        # The bare method of a poll object, for a look before each request.
        self._probe = make_poller(descriptor, POLLIN).poll
        self._writable = PollNeeded(descriptor, POLLOUT)

    def _open_trace(self) -> None:
        pattern = os.environ.get('DUGONG_TRACEFILE')
        if not pattern:
            return
        while self._trace is None:
            name = pattern.replace('%d', str(next(_trace_numbers)))
            try:
                # Unbuffered: the last bytes before a crash are those one wants to see. Exclusive,
                # unless all connections are to share one file: another process may trace, too.
                self._trace = open(name, 'ab' if name == pattern else 'xb', buffering=0)
            except FileExistsError:
                continue

    # Receiving

    def try_receive(self, view: memoryview, give_way: bool = False) -> Optional[int]:
        """Receive into *view* without waiting.

        Returns the number of bytes, 0 at the end of the connection, or `None` if nothing is
        there; then wait for `_need_receive`. *give_way* tells that others should get a turn, so
        that the result is also `None` if TLS needs more from the kernel.
        """

        if self.closed:
            raise self._closed_error()
        if self._at_end:
            return 0
        lock = self._tls_lock
        try:
            if lock is None:
                size: int = self.sock.recv_into(view)
                self._drained = size < len(view)
            else:
                size = self._receive_records(view, lock, give_way)
        except (BlockingIOError, ssl.SSLWantReadError):
            self._need_receive = self._readable
            return None
        except ssl.SSLWantWriteError:
            self._need_receive = self._writable
            return None
        except (OSError, ValueError, AttributeError) as exc:
            if self.closed:
                raise self._closed_error() from exc
            if isinstance(exc, ssl.SSLZeroReturnError):
                self._at_end = True
                return 0
            if isinstance(exc, ssl.SSLError) and _is_ragged_eof(exc):
                self._at_end = self.ended_without_notice = True
                return 0
            self._reraise(exc, 'while receiving')
        if size:
            if self._trace is not None:
                self._trace.write(view[:size])
            self._burst += size if size > _COST else _COST
            if self._burst >= BURST:
                # Nobody can wait for what TLS holds of a record; its end is the next occasion.
                self._drained = not self.holds_something
        elif self.closed:
            # Not the server's end of file, but that of `abort`.
            raise self._closed_error()
        else:
            # Not asked for again: TLS would have another name for it each time.
            self._at_end = len(view) > 0
        return size

    def _receive_records(self, view: memoryview, lock: Any, give_way: bool) -> int:
        """Receive from TLS, which gives one record at a time, as many as are there and fit."""

        error, self._tls_error = self._tls_error, None
        if error is not None:
            try:
                raise error
            finally:
                # The traceback refers to this frame; do not let the frame refer to it.
                del error
        sock = self.sock
        receive = sock.recv_into
        if give_way and isinstance(sock, TlsSocket):
            receive = sock.decrypt_into
        limit = min(len(view), _TLS_RUN)
        drained = False
        # The slices are released because the traceback of an error keeps the frames of `ssl`.
        with lock:
            with view[:limit] as part:
                size: int = receive(part)
            last = size
            try:
                while last and size < limit:
                    if last < _TLS_RECORD and not sock.pending():
                        drained = True
                        break
                    with view[size:limit] as part:
                        last = receive(part)
                    size += last
            except ssl.SSLWantReadError:
                drained = True
            except (OSError, ValueError) as exc:
                # Without its traceback, which would keep the memory of the caller alive.
                self._tls_error = exc.with_traceback(None)
        self._drained = drained
        return size

    def expect(self, size: int) -> None:
        """Have the kernel be ready to receive much of *size* bytes, which are to come.

        The receive buffer that it begins with, for 64 KiB, may hardly grow where the network is
        fast, and the server has to wait for the client again and again. To set the size of the
        buffer would keep the kernel from making it larger still. Linux also makes room for what
        it is told to wait for, and that has no such effect. What has waited there for long is not
        in the cache of the processor any more, so that it is no more than half of *size*.
        """

        ahead = min(size // 2, _RECEIVE_AHEAD)
        # Nothing is gained by many small steps.
        if size >= MUCH and ahead >= 2 * self._expected:
            self._expected = ahead
            if sys.platform == 'linux':
                _set_low_water(self.sock, ahead)
                _set_low_water(self.sock, 1)

    def _gathered(self, room: int, fill: bool) -> int:
        """Return for how many bytes the kernel is to be told to wait, 0 for any.

        There is *room* for so many; *fill* as for `co_receive`.
        """

        if not _GATHER_MIN <= room <= _GATHER_MAX or sys.platform != 'linux':
            return 0
        size = min(room, _GATHER_SIZE)
        sock = self.sock
        if isinstance(sock, TlsSocket):
            # A part of a record may have been received already. To decrypt takes so long that the
            # rest of a small body better arrives meanwhile.
            return 0 if fill else size - _TLS_RECORD
        hidden = self.tls or self._has_pending
        return size if isinstance(sock, socket.socket) and not hidden else 0

    def receive_answer(self, view: memoryview, timeout: Optional[float]) -> Optional[int]:
        """Like `co_receive` for a response head, but the thread waits, and only once.

        Returns `None` if there is more to wait for. `ConnectionTimedOut` after *timeout* seconds.
        """

        if self._drained and not self._at_end:
            self._burst = 0
            self.waiting_to_receive = True
            if not self._answered.poll(timeout):
                raise ConnectionTimedOut(timeout_message(self._answered, timeout))
            self.waiting_to_receive = False
        size = self.try_receive(view)
        if size is None:
            # Another attempt will find out for what.
            self._drained = False
        return size

    def receive_now(self, view: memoryview) -> Optional[int]:
        """Like `co_receive` for a body, but return `None` instead of waiting.

        For a thread, in which nobody else waits for a turn.
        """

        # After a burst it is only said to be drained, for others to get their turn.
        if self._drained and self._burst < BURST and not self._at_end:
            return None
        self._burst = -len(view)
        return self.try_receive(view)

    def co_receive(
        self, view: memoryview, head: bool = False, fill: bool = False, much: bool = False
    ) -> Coroutine[int]:
        """Receive at least one byte into *view*; returns their number, 0 at the end.

        *head* tells that a response head is to come, for which a busy wait may pay. Not for a
        body: while a thread sleeps, more of it arrives, so that fewer calls are needed. *fill*
        tells that the caller will come again until *view* is full, and has no use for a part of
        it; *much* that all of *view* can be filled.
        """

        if self._drained and not self._at_end:
            self._burst = 0
            either = None if self.along is None else self._send_along()
            self.waiting_to_receive = True
            if either is not None:
                yield either
            elif head:
                yield self._answered
            else:
                wanted = self._gathered(len(view), fill) if fill or much else 0
                if wanted:
                    yield from self._co_wait_for_much(wanted)
                else:
                    yield self._readable
            self.waiting_to_receive = False
        size = self.try_receive(view, self._burst >= BURST)
        while size is None:
            self._burst = 0
            either = None if self.along is None else self._send_along()
            self.waiting_to_receive = True
            yield self._need_receive if either is None else either
            self.waiting_to_receive = False
            size = self.try_receive(view)
        return size

    def _send_along(self) -> Optional[PollNeeded]:
        """Have `along` send; return what to wait for if something is left."""

        assert self.along is not None
        self._sent_burst = 0
        if self.along():
            return self._either
        self.along = None
        return None

    def _co_wait_for_much(self, size: int) -> Coroutine[None]:
        """Wait until *size* bytes have come, or less if that takes long."""

        need = self._much
        if need is None:
            fast = _FAST_TLS if self.tls else _FAST
            need = self._much = _MuchNeeded(self.sock, self._readable.fd, fast)
        need.size = size
        yield need
        if need.raised:
            need.lower()

    def raise_alert(self, exc: OSError) -> None:
        """Raise *exc* if it is an alert that the server has sent over TLS. Readers get it, too."""

        if isinstance(exc, ssl.SSLError) and 'ALERT' in (exc.reason or ''):
            # Not the same, whose traceback would keep the memory of the caller alive.
            again = type(exc)(*exc.args)
            again.reason = exc.reason
            self._tls_error = again
            raise exc

    @property
    def holds_something(self) -> bool:
        """Whether `try_receive` will find something, or the end, that `poll` cannot see."""

        if self._at_end or self._tls_error is not None:
            return True
        sock = self.sock
        # Another thread may close it at any moment.
        return self._has_pending and sock is not None and sock.pending() > 0

    def may_receive(self) -> bool:
        """Tell without waiting whether `try_receive` may find something, or the end."""

        if self.closed or self.sock is None:
            return False
        # The first part is there to spare a call before each request.
        if (self._at_end or self._has_pending or self._tls_error) and self.holds_something:
            return True
        found = bool(self._probe(0))
        if self._tls_lock is None:
            # After a body that was received to its last byte, this is the first to tell. Not over
            # TLS: a reader in another thread may have received a record at this moment.
            self._drained = not found
        return found

    # Sending

    def try_send(self, data: Data, blocking: bool = False) -> Optional[int]:
        """Send as much of *data* as is possible without waiting.

        Returns the number of bytes, or `None` if there is no room, or others should have a turn
        after so much without a wait; then wait for `_need_send`. *blocking* tells that there is
        no event loop, so that it is worth a wait only if something has come meanwhile.
        """

        # The first part is there to spare `write` a call.
        if (self._sent_burst >= BURST or self.closed) and self._must_wait_to_send(blocking):
            return None
        lock = self._tls_lock
        if lock is not None and len(data) > BURST:
            data = memoryview(data)[:BURST]
        wanted = self.perhaps_sent = len(data)
        try:
            if lock is None:
                size: int = self.sock.send(data)
            else:
                with lock:
                    size = self.sock.send(data)
        except BaseException as exc:
            self._not_sent(exc)
            return None
        if self._trace is not None:
            self._trace.write(memoryview(data)[:size])
        # As `_count_sent` does it, without one more call for each write.
        if size == wanted:
            self._sent_burst += size if size > _COST else _COST
        else:
            self._sent_burst = BURST
        return size

    def _not_sent(self, exc: BaseException) -> None:
        """Note what has to be waited for, as *exc* says, or raise what else it means."""

        try:
            # The system gives each of its errors a number. Whatever else may have struck when the
            # data were gone.
            if isinstance(exc, OSError) and exc.errno is not None:
                records = (self.perhaps_sent - 1) // _TLS_RECORD if self._has_pending else 0
                # The last record cannot be among those that TLS has sent.
                self.perhaps_sent = records * _TLS_RECORD
            if isinstance(exc, (BlockingIOError, ssl.SSLWantWriteError)):
                self._need_send = self._writable
            elif isinstance(exc, ssl.SSLWantReadError):
                self._need_send = self._readable
            elif isinstance(exc, (OSError, ValueError, AttributeError)):
                # The kernel reports a reset only once. It is a broken pipe if the server had ended
                # its data before, and nothing of those is missing. The `ssl.SSLSocket` of CPython
                # 3.10 to 3.12 does not tell one from the other, and that counts as a reset.
                if not isinstance(exc, BrokenPipeError):
                    self.reset_while_sending = True
                self._reraise(exc, 'while sending')
            else:
                raise exc
        finally:
            # The traceback refers to this frame; do not let the frame refer to it.
            del exc

    @property
    def vectored(self) -> bool:
        """Whether several pieces can be sent with one system call."""

        return type(self.sock) is socket.socket and hasattr(socket.socket, 'sendmsg')

    def try_send_all(self, pieces: Sequence[Data]) -> Optional[int]:
        """Like `try_send` for all *pieces* at once; only if `vectored`."""

        if self._must_wait_to_send():
            return None
        if len(pieces) > _MAX_PIECES:
            pieces = pieces[:_MAX_PIECES]
        wanted = self.perhaps_sent = sum(map(len, pieces))
        try:
            size: int = self.sock.sendmsg(pieces)
        except BaseException as exc:
            self._not_sent(exc)
            return None
        if self._trace is not None:
            self._trace.write(b''.join(pieces)[:size])
        self._count_sent(size, wanted)
        return size

    @property
    def can_send_files(self) -> bool:
        """Whether the kernel can send files: no TLS on top, no trace to write."""

        return type(self.sock) is socket.socket and hasattr(os, 'sendfile') and self._trace is None

    def try_send_file(self, descriptor: int, offset: int, size: int) -> Optional[int]:
        """Like `try_send` for a part of a file; only if `can_send_files`.

        0 means that the file ends at *offset*. `NotImplementedError` if the kernel cannot send
        this file.
        """

        if self._must_wait_to_send():
            return None
        try:
            size = min(size, BURST)
            sent = os.sendfile(self.sock.fileno(), descriptor, offset, size)
        except Exception as exc:
            if isinstance(exc, OSError) and exc.errno in (
                errno.EINVAL,
                errno.ENOSYS,
                errno.EOPNOTSUPP,
                errno.EOVERFLOW,
                errno.EIO,
            ):
                raise NotImplementedError from exc
            self._not_sent(exc)
            return None
        self._count_sent(sent, size)
        return sent

    def co_begin(self) -> Coroutine[None]:
        """Suspend without a wait. A coroutine that was never started does not get to its end."""

        yield  # type: ignore[misc]

    def co_wait(self, need: PollNeeded) -> Coroutine[None]:
        """Wait for *need*, which a coroutine has yielded that is driven here by hand."""

        yield need

    def co_wait_send(self) -> Coroutine[None]:
        """Wait for what the last `try_send…` needs."""

        yield from self._co_sender_waits(self._need_send)

    def _co_sender_waits(self, need: PollNeeded) -> Coroutine[None]:
        self._sent_burst = 0
        self.sender_waits = True
        yield need
        self.sender_waits = False

    def let_sender_settle(self) -> None:
        """Wait, for a moment, until a sender in another thread waits or has ended.

        Until then it may be in the middle of a system call, the outcome of which is not noted.
        But it may also read the source of a body, which may take for ever.
        """

        soon = monotonic() + _NOTED

        def settled() -> bool:
            if self.sender_waits or self.sending:
                return True
            return not self.perhaps_sent and monotonic() >= soon

        _wait_a_moment(settled)

    def let_role_go(self, role: List[None]) -> bool:
        """Wait, for a moment, until nobody has *role*; tell whether that is so.

        A call that is refused has it until then.
        """

        return _wait_a_moment(lambda: bool(role))

    def let_sender_look(self) -> bool:
        """Wait, for a moment, while a sender receives what is there; tell whether that is over.

        It does so without waiting, but this may be a signal handler in the middle of that.
        """

        return _wait_a_moment(lambda: not self.peeking.locked())

    def co_wait_send_or_role(self, still_barred: Callable[[], bool]) -> Coroutine[None]:
        """Like `co_wait_send`, but also wait for the reading role to become free.

        *still_barred* tells, after the preparations, whether that has not happened yet.
        """

        yield from self._co_wait_or_signal(self._need_send, still_barred)

    def co_wait_send_or_receive(self) -> Coroutine[None]:
        """Wait until there is something to receive, or the last `try_send…` can go on."""

        yield from self._co_sender_waits(self._either)

    def co_wait_send_or_reader(self, still_open: Callable[[], bool]) -> Coroutine[None]:
        """Like `co_wait_send_or_receive`, but somebody else may read what has come.

        Over TLS, also wait for `stop_sending`, so that it need not shut down the connection;
        *still_open* tells, after the preparations, whether it was not called.
        """

        # If it is only the turn of others, nobody takes the room.
        if self.tls and (self._sent_burst < BURST or not self._writable.poll(0)):
            yield from self._co_wait_or_signal(self._either, still_open)
        else:
            yield from self._co_wait_if_due(self._either, still_open)

    def _co_wait_if_due(self, need: PollNeeded, is_due: Callable[[], bool]) -> Coroutine[None]:
        # Set first: from here on `stop_sending` wakes it up.
        self.sender_waits = True
        if is_due():
            yield from self._co_sender_waits(need)
        else:
            self.sender_waits = False

    def _co_wait_or_signal(self, need: PollNeeded, is_due: Callable[[], bool]) -> Coroutine[None]:
        """Wait for *need* or `role_waiter`, if that *is_due* after the preparations."""

        signal = None
        try:
            # At once, so that a child process that is forked meanwhile finds it.
            signal = self.role_waiter = Signal()
            poller = signal.poller = select.epoll()
        except (AttributeError, OSError):
            # No such thing on this system, or no descriptors left for it.
            if signal is not None:
                signal.close()
                self.role_waiter = None
            yield from self._co_wait_if_due(need, is_due)
            return
        try:
            # Two descriptors in one.
            poller.register(signal.need.fd, POLLIN)
            poller.register(*need)
            both = PollNeeded(poller.fileno(), POLLIN)
            both._purpose = 'send'
            yield from self._co_wait_if_due(both, is_due)
        finally:
            signal.close()
            self.role_waiter = None

    @property
    def _either(self) -> PollNeeded:
        if self._both_ready is None:
            self._both_ready = PollNeeded(self._readable.fd, POLLIN | POLLOUT)
        need: PollNeeded = self._both_ready
        return need

    def _count_sent(self, size: int, wanted: int) -> None:
        if size == wanted:
            self._sent_burst += size if size > _COST else _COST
        else:
            # To try again at once would cost a call that fails.
            self._sent_burst = BURST

    def _must_wait_to_send(self, blocking: bool = False) -> bool:
        if self.closed:
            raise self._closed_error()
        if self._sent_burst < BURST:
            return False
        if blocking and not self._something_has_come():
            self._sent_burst = 0
            return False
        self._need_send = self._writable
        return True

    def _something_has_come(self) -> bool:
        """Whether there is something to receive, or the end; for a sender beside a reader."""

        lock = self._tls_lock
        if lock is not None:
            with lock:
                found = self.holds_something
        else:
            found = self.holds_something
        return found or bool(self._probe(0))

    def stop_sending(self, from_another_thread: bool) -> None:
        """Wake up a sender that waits in another thread or coroutine, as there is no use in it.

        Receiving goes on. The connection is shut down for sending only if there is no other way:
        over TLS that happens in the middle of a record, and the server may give up its answer.
        """

        signal = self.role_waiter
        if signal is not None:
            signal.set()
        elif from_another_thread or not self.tls:
            # What it waits for besides may be gone before it has seen it.
            with suppress(OSError):
                _shut_down(self.sock, socket.SHUT_WR)

    # Errors and closing

    def _closed_error(self) -> ConnectionClosed:
        return ConnectionClosed(self.cause)

    def _check_open(self) -> None:
        if self.closed:
            raise self._closed_error()

    def _reraise(self, exc: Exception, when: str) -> NoReturn:
        """Raise what *exc*, an error of the socket that is being handled, means to the caller."""

        try:
            if self.closed:
                raise self._closed_error() from exc
            where = f'{when}, {self.host}:{self.port}'
            if isinstance(exc, ConnectionError) or _is_tls_eof(exc):
                raise ConnectionClosed(f'server closed the connection {where}: {exc}') from exc
            if isinstance(exc, OSError) and exc.errno in _GONE or self._is_descriptor_closed():
                raise ConnectionClosed(f'socket was closed {where}: {exc}') from exc
            raise exc
        finally:
            # The traceback refers to this frame; do not let the frame refer to it.
            del exc

    def _is_descriptor_closed(self) -> bool:
        try:
            return bool(self.sock.fileno() < 0)
        except (OSError, ValueError, AttributeError):
            return True

    def abort(self, cause: Optional[str] = None) -> None:
        """Close the connection at once, from any thread; *cause* is what later uses report.

        Without a cause it is the caller who disconnects.
        Whoever waits for the connection wakes up with `ConnectionClosed`. Never raises.
        """

        if cause is None:
            self.forgotten = True
        elif not self.closed:
            self.cause = cause
        with self.lock:
            self.closed = True
            if self.reading and self.sending:
                self._close()
            elif self.sock is not None:
                # It fails if it is not connected yet, or not any more.
                with suppress(OSError, ValueError, AttributeError):
                    _shut_down(self.sock, socket.SHUT_RDWR)
        self._wake_waiters()

    def finish(self, cause: str) -> None:
        """Like `abort`, for the reading role, which closes by itself when it is left."""

        if not self.sending:
            self.abort(cause)
        elif not self.closed:
            self.cause = cause
            self.closed = True

    def close_if_idle(self) -> None:
        """Close what `abort` left open; to be called after a role was released."""

        with self.lock:
            if self.reading and self.sending:
                self._close()

    def _close(self) -> None:
        sock, self.sock = self.sock, None
        trace, self._trace = self._trace, None
        if trace is not None:
            trace.close()
        if sock is None:
            return
        if self._tls_lock is not None and self.connected:
            # RFC 9112, section 9.8: send close_notify, without waiting for the server's.
            with suppress(OSError, ValueError):
                sock.unwrap()
            # A child process that was forked meanwhile may have the descriptor, too.
            with suppress(OSError, ValueError, AttributeError):
                _shut_down(sock, socket.SHUT_RDWR)
        with suppress(OSError):
            sock.close()

    def detach(self) -> Any:
        """Hand over the connected socket, in blocking mode."""

        sock, self.sock = self.sock, None
        self.closed = True
        sock.setblocking(True)
        return sock

    def forget(self) -> None:
        """Close the descriptors, but not the connection, which belongs to the parent process.

        One that nobody has begun to use is as good as new.
        """

        sock, self.sock = self.sock, None
        trace, self._trace = self._trace, None
        if self.opened or not (self.reading and self.sending):
            self.closed = self.forgotten = True
            self.cause = 'the connection belongs to the parent process'
        self.lock = threading.RLock()
        self._tls_lock = None
        # Threads that had them do not exist in this process.
        self.reading, self.sending = [None], [None]
        self.peeking = allocate_lock()
        # To set them would wake up the parent process.
        for signal in (*self._waiters, self.role_waiter):
            if signal is not None:
                signal.forget()
        self._waiters = []
        self.role_waiter = None
        for descriptor in (sock, trace):
            if descriptor is not None:
                with suppress(OSError):
                    descriptor.close()


def _wait_a_moment(is_over: Callable[[], bool]) -> bool:
    """Wait until *is_over* returns true, at most a second, and tell whether it does."""

    end = monotonic() + 1
    # A test may have stopped the clock.
    for _ in range(5000):
        if is_over():
            return True
        if monotonic() >= end:
            break
        sleep(0.0002)
    return False


def _connect_result(sock: socket.socket) -> Optional[int]:
    """Return the outcome of connecting: 0, an errno, or `None` if there is none yet."""

    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        return code
    try:
        sock.getpeername()
    except OSError as exc:
        # Resumed for nothing, or it failed and somebody else was told why.
        return None if exc.errno == errno.ENOTCONN else exc.errno
    return 0


def _set_low_water(sock: Any, size: int) -> None:
    """Have the kernel report *sock* as readable when *size* bytes have come, or the end."""

    # It may be closed, which is for who receives to find out, or no real socket.
    with suppress(OSError, ValueError, AttributeError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)


def _shut_down(sock: Any, how: int) -> None:
    if isinstance(sock, socket.socket):
        # Not the method of SSLSocket, which would go on in plain text.
        socket.socket.shutdown(sock, how)
    else:
        sock.shutdown(how)


def _makes_usual_sockets(context: ssl.SSLContext) -> bool:
    """Tell whether nobody has an opinion on what `wrap_socket` returns."""

    wrap_socket = getattr(context.wrap_socket, '__func__', None)
    return wrap_socket is _WRAP_SOCKET and context.sslsocket_class is ssl.SSLSocket


def _is_ragged_eof(exc: ssl.SSLError) -> bool:
    """Tell whether *exc* means the end of the TCP connection without close_notify."""

    if ssl.OPENSSL_VERSION_INFO < (3,) or not hasattr(exc, 'reason'):
        return isinstance(exc, ssl.SSLEOFError)
    # The `ssl.SSLSocket` of CPython 3.10 to 3.12 has the same class, but no reason, for a reset.
    return exc.reason in _TLS_EOF_REASONS


def _is_tls_eof(exc: Exception) -> bool:
    """Tell whether *exc* means that the server hung up, without or after close_notify."""

    return isinstance(exc, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)) or (
        isinstance(exc, ssl.SSLError) and getattr(exc, 'reason', None) in _TLS_EOF_REASONS
    )


def create_socket(address: Tuple[str, int]) -> socket.socket:
    """Connect to *address*, a pair of host name (str) and port (int), and return the socket.

    Waits as long as the system does; the socket is in blocking mode. All addresses of the host
    are tried in turn. Raises `HostnameNotResolvable`, `DNSUnavailable`, or `OSError` with the
    errors of all addresses.
    """

    stream = Stream(*address)
    eval_coroutine(stream.co_connect())
    sock: socket.socket = stream.detach()
    return sock


create_socket.__module__ = 'dugong'


def _forget_all() -> None:
    for reference in _streams.copy():
        stream = reference()
        if stream is not None:
            stream.forget()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_forget_all)
