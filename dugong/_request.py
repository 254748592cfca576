"""The head of a request: method, target and header fields in, bytes out (RFC 9112, section 3).

Whatever could change the meaning of the message is refused with `ValueError`, so that nothing a
caller passes through can end a line or add a field. Error messages do not contain field values,
which may be credentials.
"""

from __future__ import annotations

import re

from ._exceptions import HostnameNotResolvable
from ._parser import TOKEN_CHARACTERS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Dict, Iterable, Mapping, Optional, Tuple, Union

_is_token = re.compile(rf'[{TOKEN_CHARACTERS}]+').fullmatch
_is_target = re.compile('[\x21-\x7e\x80-\xff]+').fullmatch
_is_value = re.compile('[\t\x20-\x7e\x80-\xff]*').fullmatch
_bad_host_character = re.compile(r'[\x00-\x20\x7f/?#@\\\[\]]').search
# Good enough to tell it from a name or IPv4 address with a port.
_is_ipv6_address = re.compile(r'[0-9A-Fa-f.]*(?::[0-9A-Fa-f.]*){2,8}(?:%.+)?').fullmatch

#: Fields that are the library's: what the caller passes of them is dropped.
_OWN_FIELDS = frozenset(('host', 'content-length', 'transfer-encoding', 'accept-encoding'))

#: Fields not allowed in a trailer section (RFC 9110, section 6.5.1): framing, routing, request
#: modifiers, authentication and content format.
_NOT_IN_TRAILERS = frozenset(
    (
        'age authorization cache-control connection content-encoding content-length '
        'content-location content-range content-type cookie date expect expires host if-match '
        'if-modified-since if-none-match if-range if-unmodified-since keep-alive location '
        'max-forwards pragma proxy-authenticate proxy-authorization proxy-connection range '
        'retry-after set-cookie te trailer transfer-encoding upgrade vary www-authenticate'
    ).split()
)


def plain(text: str, what: str) -> str:
    """Return *text* as an exact `str`, so that what is sent is what was checked.

    `TypeError` that says *what* it is if it is no `str` at all.
    """

    if type(text) is str:
        return text
    if not isinstance(text, str):
        raise TypeError(f'{what} must be a str, not {type(text).__name__}')
    return str.__str__(text)


def checked_method(method: str) -> str:
    """Return *method*; `ValueError` unless it is a token (RFC 9110, section 9.1)."""

    method = plain(method, 'method')
    if not _is_token(method):
        raise ValueError(f'invalid request method: {method[:80]!r}')
    return method


def checked_target(path: str) -> str:
    """Return *path*; `ValueError` if it is empty or no request target can have its characters."""

    if type(path) is not str:
        path = plain(path, 'path')
    if not _is_target(path):
        if not path:
            raise ValueError('path of a request must not be empty')
        raise ValueError(
            'path contains a space, a control character, or one that is not latin1 '
            f'(quote it with urllib.parse.quote): {path[:80]!r}'
        )
    return path


def absolute_target(origin: str, target: str) -> str:
    """Return *target* in the absolute form that a proxy needs (RFC 9112, section 3.2.2).

    *origin* is scheme and authority. `ValueError` for a target that would change that.
    """

    if target == '*':
        # RFC 9112, section 3.2.4.
        return origin
    if target[0] not in '/?':
        raise ValueError(f"path for a proxy must begin with '/', or be '*': {target[:80]!r}")
    return origin + target


def encoded_field(name: str, value: Any) -> Tuple[str, str, str]:
    """Return *name* in lower case, the text of *value*, and the field line with its CRLF.

    `ValueError` for what a field cannot hold.
    """

    name = plain(name, 'header name')
    if not _is_token(name):
        raise ValueError(f'invalid header name: {name[:80]!r}')
    text = plain(value if type(value) is str else str(value), 'header value')
    if not _is_value(text):
        raise ValueError(
            f'value of header {name!r} contains a control character, or one that is not latin1'
        )
    return name.lower(), text, f'{name}: {text}\r\n'


def pairs(
    headers: Union[Mapping[str, Any], Iterable[Tuple[str, Any]]],
) -> Iterable[Tuple[str, Any]]:
    """Return the pairs of name and value of *headers*: a mapping, or such pairs already."""

    if hasattr(headers, 'items'):
        return headers.items()
    if isinstance(headers, (str, bytes)) or not hasattr(headers, '__iter__'):
        raise TypeError(f'headers must be a mapping, not {type(headers).__name__}')
    return [_pair(item) for item in headers]


def _pair(item: Any) -> Tuple[str, Any]:
    try:
        name, value = item
    except (TypeError, ValueError):
        raise TypeError('headers must be a mapping, or pairs of name and value') from None
    return name, value


class CallerFields:
    """Header fields of the caller, checked and encoded; the mapping itself is not changed.

    `lines` (str) are their field lines without the fields that the library sets itself,
    `names` maps their names in lower case to their values as text.
    """

    __slots__ = ('lines', 'names')

    def __init__(
        self,
        headers: Union[Mapping[str, Any], Iterable[Tuple[str, Any]]],
        expect_continue: bool = False,
    ) -> None:
        lines: Dict[str, str] = {}
        names: Dict[str, str] = {}
        for name, value in pairs(headers):
            lowered, text, line = encoded_field(name, value)
            if lowered in _OWN_FIELDS or (expect_continue and lowered == 'expect'):
                continue
            # Spellings of one name: the last one counts.
            names[lowered] = text
            lines[lowered] = line
        self.lines = ''.join(lines.values())
        self.names = names


def trailer_section(trailers: Optional[Mapping[str, Any]]) -> bytes:
    """Return the encoded trailer section, with the empty line that ends it.

    `ValueError` for fields that are not allowed there.
    """

    if not trailers:
        return b'\r\n'
    lines: Dict[str, str] = {}
    for name in trailers:
        lowered, _, line = encoded_field(name, trailers[name])
        if lowered in _NOT_IN_TRAILERS:
            raise ValueError(f'field {name!r} is not allowed in a trailer section')
        lines[lowered] = line
    return (''.join(lines.values()) + '\r\n').encode('latin1')


def encode_host(name: str) -> str:
    """Return *name* as it is looked up and sent; non-ASCII names are IDNA-encoded.

    Raises `ValueError` for characters that a host name or address cannot have.
    """

    name = plain(name, 'host name')
    if name[:1] == '[' and name[-1:] == ']' and _is_ipv6_address(name[1:-1]):
        # As it is written in a URL.
        name = name[1:-1]
    if not name or _bad_host_character(name):
        hint = ' (a URL is none)' if '/' in name else ''
        raise ValueError(f'invalid host name{hint}: {name[:80]!r}')
    if not name.isascii():
        try:
            name = name.encode('idna').decode('ascii')
        except UnicodeError as exc:
            raise ValueError(f'invalid host name: {name[:80]!r}') from exc
        if _bad_host_character(name):
            raise ValueError(f'invalid host name: {name[:80]!r}')
    if ':' in name and not _is_ipv6_address(name):
        raise ValueError(f'invalid host name (the port is not part of it): {name[:80]!r}')
    return name


def host_and_port(host: str, port: int, default_port: Optional[int]) -> str:
    """Return `host[:port]` with brackets around an IPv6 address (RFC 9110, section 4.2).

    Its zone means nothing to others (RFC 6874, section 4).
    """

    if ':' in host:
        host = f'[{host.partition("%")[0]}]'
    return host if port == default_port else f'{host}:{port}'


def tls_server_name(host: str) -> str:
    """Return what TLS calls *host*: without the zone of an address, and the dot of the root.

    `HostnameNotResolvable` for what cannot be the name of a host (RFC 1035, section 2.3.4).
    """

    if ':' in host:
        return host.partition('%')[0]
    name = host[:-1] if host[-1:] == '.' else host
    if not all(0 < len(label) < 64 for label in name.split('.')):
        raise HostnameNotResolvable(host)
    return name


def connect_request(host: str, port: int, proxy_lines: str) -> bytes:
    """Return the head of a CONNECT request (RFC 9110, section 9.3.6)."""

    authority = host_and_port(host, port, None)
    return (f'CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{proxy_lines}\r\n').encode(
        'latin1'
    )


def check_address(address: Tuple[str, int]) -> Tuple[str, int]:
    """Check a `(host name, port)` pair and return it with the name encoded."""

    try:
        host, port = address
    except (TypeError, ValueError) as exc:
        raise type(exc)(f'not a pair of host name and port: {address!r:.80}') from None
    return encode_host(host), check_port(port)


def check_port(port: Union[int, str]) -> int:
    """Return *port*; `TypeError` or `ValueError` unless it is a number from 0 to 65535.

    A string of digits, from a configuration file for instance, will do.
    """

    if isinstance(port, str) and port.isascii() and port.isdigit() and len(port) <= 5:
        port = int(port)
    if not isinstance(port, int):
        kind = type(port).__name__
        raise TypeError(f'port must be an int or a string of digits, not {kind} {port!r:.40}')
    if not 0 <= port <= 65535:
        raise ValueError(f'port must be from 0 to 65535, not {port}')
    return port
