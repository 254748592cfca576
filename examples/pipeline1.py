#!/usr/bin/env python3
"""Fetch several documents from one server, all requests sent ahead, with asyncio.

    pipeline1.py URL...

Shows pipelining with two coroutines: one sends all the requests, the other one reads the
answers, which come in the same order. Neither waits for the other, so the time that an answer
needs to arrive is paid once and not once per document. The URLs must belong to one server.

This is the plain mechanism. `HTTPConnection.pipeline()` does it in one line, and sends again what
a dropped connection left unanswered: see mirror.py.
"""

import os
import signal
import ssl
import sys
from typing import Any, Coroutine, List
from urllib.parse import quote, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# start-example
import asyncio

import dugong


async def fetch(conn: dugong.HTTPConnection, paths: List[str]) -> List[bytes]:
    """Return the documents *paths*, in their order."""

    def send_requests():
        for path in paths:
            yield from conn.co_send_request('GET', path)

    def read_responses():
        bodies = []
        for path in paths:
            resp = yield from conn.co_read_response()
            body = yield from conn.co_readall()
            if resp.status != 200:
                raise RuntimeError(f'{path}: {resp.status} {resp.reason}')
            bodies.append(body)
        return bodies

    sender = dugong.AioFuture(send_requests())
    reader = dugong.AioFuture(read_responses())
    try:
        _, bodies = await asyncio.gather(sender, reader)
    except BaseException:
        # When one of the two fails, the other one would wait for ever.
        sender.cancel()
        reader.cancel()
        raise
    return bodies


# end-example


#: What can go wrong without being a mistake in this program.
EXPECTED_ERRORS = (
    RuntimeError,  # the server answered, but not with the document
    ValueError,  # not a URL
    OSError,  # connection refused, certificate not trusted, ...
    dugong.ConnectionClosed,
    dugong.ConnectionTimedOut,
    dugong.DNSUnavailable,
    dugong.HostnameNotResolvable,
    dugong.InvalidResponse,
    dugong.UnsupportedResponse,
)


def fetch_urls(urls: List[str]) -> List[bytes]:
    """Return the documents at *urls*."""
    servers = set()
    paths = []
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise ValueError(f'{url} is not an http or https URL')
        servers.add((parts.scheme, parts.hostname, parts.port))
        target = parts.path or '/'
        if parts.query:
            target += '?' + parts.query
        paths.append(quote(target, safe="/?%:@!$&'()*+,;=~"))
    if len(servers) > 1:
        raise ValueError('the URLs must belong to one server')

    scheme, hostname, port = servers.pop()
    context = ssl.create_default_context() if scheme == 'https' else None
    with dugong.HTTPConnection(hostname, port, ssl_context=context) as conn:
        return asyncio.run(interruptible(fetch(conn, paths)))


async def interruptible(coroutine: Coroutine[Any, Any, List[bytes]]) -> List[bytes]:
    """Await *coroutine*, which Ctrl-C cancels. From Python 3.11 on, it does so anyway."""
    task = asyncio.ensure_future(coroutine)
    if sys.version_info < (3, 11) and sys.platform != 'win32':
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, task.cancel)
    return await task


def main(urls: List[str]) -> int:
    if not urls:
        print('usage: pipeline1.py URL...', file=sys.stderr)
        return 2
    try:
        bodies = fetch_urls(urls)
    except EXPECTED_ERRORS as exc:
        print(f'pipeline1.py: {exc}', file=sys.stderr)
        return 1
    for url, body in zip(urls, bodies):
        print(f'{url}: {len(body)} bytes')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print('pipeline1.py: interrupted', file=sys.stderr)
        sys.exit(130)
