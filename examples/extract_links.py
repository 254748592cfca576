#!/usr/bin/env python3
"""Print the links of an HTML page, one absolute URL per line.

    extract_links.py URL

Shows that a connection is a readable binary stream: it goes into `io.TextIOWrapper`, and a parser
takes the text piece by piece, in the encoding that the server named, while the page arrives.
"""

import io
import os
import ssl
import sys
from html.parser import HTMLParser
from typing import List, Optional, Tuple
from urllib.parse import quote, urljoin, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    HTTPResponse,
    InvalidResponse,
    UnsupportedResponse,
)


class HTTPError(Exception):
    """The server answered, but not with an HTML page."""


#: What can go wrong without being a mistake in this program.
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


class LinkPrinter(HTMLParser):
    """Prints the target of each `<a href=...>` that it is fed, seen from the page at *base*."""

    def __init__(self, base: str) -> None:
        super().__init__()
        self.base = base

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        href = dict(attrs).get('href')
        if tag == 'a' and href:
            print(urljoin(self.base, href.strip()))


def open_text(conn: HTTPConnection, resp: HTTPResponse) -> io.TextIOWrapper:
    """Return the body of *resp* as text; as UTF-8 if the server names no encoding we know."""
    charset = resp.headers.get_content_charset('utf-8')
    try:
        return io.TextIOWrapper(conn, encoding=charset, errors='replace')
    except LookupError:
        return io.TextIOWrapper(conn, encoding='utf-8', errors='replace')


def extract_links(url: str) -> None:
    """Print the links of the page at *url*."""
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
        if resp.headers.get_content_type() not in ('text/html', 'application/xhtml+xml'):
            raise HTTPError(f'not an HTML page but {resp.headers.get_content_type()}')

        parser = LinkPrinter(url)
        page = open_text(conn, resp)
        text = page.read(8192)
        while text:
            parser.feed(text)
            text = page.read(8192)
        parser.close()


def main(arguments: List[str]) -> int:
    if len(arguments) != 1:
        print('usage: extract_links.py URL', file=sys.stderr)
        return 2
    url = arguments[0]
    try:
        extract_links(url)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough (`extract_links.py URL | head`). With nothing
        # behind it, Python's own flush at the end cannot fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except EXPECTED_ERRORS as exc:
        print(f'extract_links.py: {url}: {exc}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print('extract_links.py: interrupted', file=sys.stderr)
        sys.exit(130)
