"""From host name to addresses, and what it means if there are none.

"No such host" and "the name service is down" look alike to `getaddrinfo`. Where it matters,
some host names that exist for certain are looked up, too. Nothing is cached.
"""

from __future__ import annotations

import socket

from ._exceptions import DNSUnavailable, HostnameNotResolvable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, List, Optional, Sequence, Tuple

    #: What `socket.getaddrinfo` returns an item of.
    AddressInfo = Tuple[Any, Any, int, str, Tuple[Any, ...]]

# EAI_AGAIN should mean a temporary problem, but some systems return it for names that do not
# exist. EAI_NODATA is not known to all systems.
_AMBIGUOUS = frozenset(
    getattr(socket, name)
    for name in ('EAI_NONAME', 'EAI_NODATA', 'EAI_AGAIN')
    if hasattr(socket, name)
)


def is_numeric(host: str) -> bool:
    """Tell whether *host* is an IPv4 address, or an IPv6 address with or without a zone.

    These need no name service.
    """

    family, address = socket.AF_INET, host
    if ':' in host:
        family, address = socket.AF_INET6, host.partition('%')[0]
    try:
        socket.inet_pton(family, address)
    except (OSError, ValueError):
        return False
    return True


def numeric_address(host: str, port: int) -> Optional[AddressInfo]:
    """Return what `getaddrinfo` gives for *host* if that can be told without it, else `None`.

    So it is for an IPv4 or IPv6 address without a zone. The Python part of `getaddrinfo` takes
    longer than to make a socket. It is asked all the same if somebody has replaced it.
    """

    genuine = getattr(socket.getaddrinfo, '__globals__', None) is vars(socket)
    plain = '%' not in host and type(port) is int and 0 <= port <= 65535
    if not genuine or not plain or not is_numeric(host):
        return None
    kind = socket.SOCK_STREAM, socket.IPPROTO_TCP, ''
    if ':' in host:
        return (socket.AF_INET6, *kind, (host, port, 0, 0))
    return (socket.AF_INET, *kind, (host, port))


def resolve(host: str, port: int, test_hosts: Sequence[Tuple[str, int]]) -> List[AddressInfo]:
    """Look up *host*; waits for the name service, so call it where that does no harm.

    *test_hosts* are the host names that tell whether the name service works. Returns a non-empty
    list. Raises `HostnameNotResolvable`, `DNSUnavailable`, or other `socket.gaierror`s.
    """

    try:
        return _look_up(host, port)
    except UnicodeError as exc:
        # With a label that is empty or too long, it cannot even be asked for.
        raise HostnameNotResolvable(host) from exc
    except socket.gaierror as exc:
        if not _is_ambiguous(exc):
            raise
        if is_numeric(host):
            # Its zone is not that of an interface.
            raise HostnameNotResolvable(host) from exc
        first_error = exc
    if not any(_resolves(name, test_port) for name, test_port in test_hosts):
        raise DNSUnavailable(host) from first_error
    # The name service may have come back in the meantime.
    try:
        return _look_up(host, port)
    except socket.gaierror as exc:
        if not _is_ambiguous(exc):
            raise
        raise HostnameNotResolvable(host) from exc


def _is_ambiguous(exc: socket.gaierror) -> bool:
    # An error made with a single argument has no errno.
    return exc.errno in _AMBIGUOUS or (len(exc.args) == 1 and exc.args[0] in _AMBIGUOUS)


def _look_up(host: str, port: int) -> List[AddressInfo]:
    known = numeric_address(host, port)
    if known is not None:
        return [known]
    addresses = socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, 'getaddrinfo returned an empty list')
    return addresses


def _resolves(host: str, port: int) -> bool:
    try:
        return bool(socket.getaddrinfo(host, port))
    except OSError:
        return False
