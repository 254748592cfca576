#!/usr/bin/env python3
"""Print what is behind one or more URLs, as cat(1) does with files.

    httpcat.py URL...

Shows the least that a program has to do: connect with or without TLS, send a request, look at
the status, and read the body piece by piece, so that a document of any size needs no more
memory than one buffer.
"""

import os
import ssl
import sys
from typing import List
from urllib.parse import quote, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    BUFFER_SIZE,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    UnsupportedResponse,
)


class HTTPError(Exception):
    """The server answered, but not with the document."""


#: What can go wrong with one URL without being a mistake in this program.
EXPECTED_ERRORS = (
    HTTPError,
    ValueError,  # not a URL
    OSError,  # connection refused, certificate not trusted, ...
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
)


def cat(url: str) -> None:
    """Write the document at *url* to the standard output."""
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError('not an http or https URL')
    target = parts.path or '/'
    if parts.query:
        target += '?' + parts.query
    context = ssl.create_default_context() if parts.scheme == 'https' else None

    with HTTPConnection(parts.hostname, parts.port, ssl_context=context) as conn:
        conn.timeout = 60
        conn.send_request('GET', quote(target, safe="/?%:@!$&'()*+,;=~"))
        resp = conn.read_response()
        if resp.status != 200:
            raise HTTPError(f'{resp.status} {resp.reason}')

        buffer = memoryview(bytearray(BUFFER_SIZE))
        length = conn.readinto(buffer)
        while length:
            sys.stdout.buffer.write(buffer[:length])
            length = conn.readinto(buffer)
    sys.stdout.buffer.flush()


def main(urls: List[str]) -> int:
    if not urls:
        print('usage: httpcat.py URL...', file=sys.stderr)
        return 2
    status = 0
    for url in urls:
        try:
            cat(url)
        except BrokenPipeError:
            # Whoever read our output has seen enough (`httpcat.py URL | head`). With nothing
            # behind it, Python's own flush at the end cannot fail again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except EXPECTED_ERRORS as exc:
            print(f'httpcat.py: {url}: {exc}', file=sys.stderr)
            status = 1
    return status


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print('httpcat.py: interrupted', file=sys.stderr)
        sys.exit(130)
