"""Every exception of the package, and what counts as a temporary network problem.

Exceptions keep their data as attributes and take it again when they are copied or
unpickled. Translation of `socket` and `ssl` errors happens where the socket is (`_stream`).
"""

from __future__ import annotations

import errno
import socket
import ssl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional, Tuple, Type

#: Errors that mean "the network is not there at the moment".
_TEMPORARY_ERRNOS = frozenset(
    getattr(errno, name)
    for name in (
        'EHOSTDOWN EHOSTUNREACH ENETDOWN ENETRESET ENETUNREACH ENOLINK ENONET ENOTCONN ENXIO '
        'EPIPE EREMCHG ESHUTDOWN ETIMEDOUT EAGAIN'
    ).split()
    if hasattr(errno, name)
)


class _GeneralError(Exception):
    """Base of the exceptions of this package.

    *msg* (str) says what happened; without it the class says it in general.
    """

    __module__ = 'dugong'
    msg = 'general HTTP error'

    def __init__(self, msg: Optional[str] = None) -> None:
        if msg is None:
            super().__init__()
        else:
            super().__init__(msg)
            self.msg = msg

    def __str__(self) -> str:
        return self.msg


class ConnectionClosed(_GeneralError):
    """The connection is gone: closed by either side, or broken by an earlier event.

    `HTTPConnection.reset` makes the object usable again.
    """

    __module__ = 'dugong'
    msg = 'connection closed unexpectedly'


class InvalidResponse(_GeneralError):
    """The server sent something that is not HTTP/1.x as RFC 9112 has it."""

    __module__ = 'dugong'
    msg = 'server sent an invalid response'


class UnsupportedResponse(_GeneralError):
    """The server sent something that this library does not handle."""

    __module__ = 'dugong'
    msg = 'server sent an unsupported response'


class ExcessBodyData(_GeneralError):
    """More request body data was given to `HTTPConnection.write` than announced."""

    __module__ = 'dugong'
    msg = 'cannot send more data than announced'


class StateError(_GeneralError):
    """The call does not fit the present state of the connection.

    Nothing was changed, except for a body stream that ends before its announced length.
    """

    __module__ = 'dugong'
    msg = 'operation not possible in this state'


class ConnectionTimedOut(_GeneralError):
    """A wait for the network took longer than the time limit."""

    __module__ = 'dugong'
    msg = 'connection timed out'


class HostnameNotResolvableOrDNSUnavailable(Exception):
    """Base of the two resolver errors. *name* (str) is the host name that was looked up."""

    __module__ = 'dugong'

    def __init__(self, name: str = '') -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f'cannot resolve host name {self.name!r}'


class HostnameNotResolvable(HostnameNotResolvableOrDNSUnavailable):
    """The name service works, and does not know an address for this host name."""

    __module__ = 'dugong'

    def __str__(self) -> str:
        return f'host name {self.name!r} does not exist or has no address'


class DNSUnavailable(HostnameNotResolvableOrDNSUnavailable):
    """The name service does not answer, so that nothing is known about the host name."""

    __module__ = 'dugong'

    def __str__(self) -> str:
        return f'cannot resolve host name {self.name!r}, name service is not available'


class ProxyError(ConnectionError):
    """The proxy refused the `CONNECT` request with *status* (int) and *reason* (str)."""

    __module__ = 'dugong'

    def __init__(self, status: int = 0, reason: str = '') -> None:
        super().__init__(f'proxy refused to connect: {status} {reason}'.rstrip())
        self.status = status
        self.reason = reason

    def __reduce__(self) -> Tuple[Type[ProxyError], Tuple[Any, ...]]:
        return type(self), (self.status, self.reason)


def is_temp_network_error(exc: BaseException) -> bool:
    """Tell whether *exc* is a network problem that may go away, so that a retry makes sense.

    True for lost, refused, reset and timed out connections, an unavailable name service,
    unreachable networks and hosts, and a proxy that answers 408, 429 or 5xx. False for
    everything else, a host name that does not exist and a bad certificate among them.
    Neither waits nor raises.
    """

    if isinstance(exc, ProxyError):
        return exc.status in (408, 429) or 500 <= exc.status <= 599
    if isinstance(exc, (socket.gaierror, socket.herror)):
        # They have numbers of their own.
        return False
    if isinstance(
        exc,
        (
            ConnectionError,
            TimeoutError,
            InterruptedError,
            socket.timeout,
            ConnectionClosed,
            ConnectionTimedOut,
            DNSUnavailable,
            ssl.SSLZeroReturnError,
            ssl.SSLEOFError,
            ssl.SSLSyscallError,
        ),
    ):
        return True
    return isinstance(exc, OSError) and exc.errno in _TEMPORARY_ERRNOS


is_temp_network_error.__module__ = 'dugong'
