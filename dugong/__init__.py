"""HTTP/1.1 client library with pipelining, 100-continue and coroutines for any event loop.

`HTTPConnection` is where to start. The promise of this package are the names that can be reached
as `dugong.NAME`; all modules are private.
"""

from __future__ import annotations

from ._body import BodyFollowing
from ._buffer import _Buffer, _join
from ._connection import HTTPConnection
from ._exceptions import (
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    ExcessBodyData,
    HostnameNotResolvable,
    HostnameNotResolvableOrDNSUnavailable,
    InvalidResponse,
    ProxyError,
    StateError,
    UnsupportedResponse,
    _GeneralError,
    is_temp_network_error,
)
from ._headers import CaseInsensitiveDict
from ._poll import POLLIN, POLLOUT, PollNeeded, eval_coroutine
from ._response import HTTPResponse
from ._settings import (
    BUFFER_SIZE,
    DNS_TEST_HOSTNAMES,
    HTTP_PORT,
    HTTPS_PORT,
    MAX_BUSY_WAIT,
    MAX_HEADER_SIZE,
    MAX_LINE_SIZE,
)
from ._stream import create_socket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._aio import AioFuture

__version__ = '3.9.0'

__all__ = [
    'AioFuture',
    'BUFFER_SIZE',
    'BodyFollowing',
    'CaseInsensitiveDict',
    'ConnectionClosed',
    'ConnectionTimedOut',
    'DNSUnavailable',
    'DNS_TEST_HOSTNAMES',
    'ExcessBodyData',
    'HTTPConnection',
    'HTTPResponse',
    'HTTPS_PORT',
    'HTTP_PORT',
    'HostnameNotResolvable',
    'HostnameNotResolvableOrDNSUnavailable',
    'InvalidResponse',
    'MAX_BUSY_WAIT',
    'MAX_HEADER_SIZE',
    'MAX_LINE_SIZE',
    'POLLIN',
    'POLLOUT',
    'PollNeeded',
    'ProxyError',
    'StateError',
    'UnsupportedResponse',
    '_Buffer',
    '_GeneralError',
    '_join',
    '__version__',
    'create_socket',
    'eval_coroutine',
    'is_temp_network_error',
]


def __getattr__(name: str) -> object:
    # asyncio takes longer to import than everything else here, and many never need it.
    if name == 'AioFuture':
        from ._aio import AioFuture

        globals()[name] = AioFuture
        return AioFuture
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
