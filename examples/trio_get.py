#!/usr/bin/env python3
"""Fetch URLs side by side with Trio, each within a deadline.

    trio_get.py [--deadline SECONDS] URL...

Shows how a dugong coroutine runs in an event loop that dugong knows nothing of: `run()` below is
the whole recipe. Deadlines and cancellation are those of Trio; Ctrl-C cancels what is under way.
"""

import argparse
import os
import signal
import ssl
import sys
from typing import List
from urllib.parse import quote, urlsplit

try:
    import trio
except ImportError:
    sys.exit('trio_get.py: this example needs Trio: python3 -m pip install trio')

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    POLLIN,
    POLLOUT,
    ConnectionClosed,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    PollNeeded,
    UnsupportedResponse,
)


# start-example
async def run(crt):
    """Run the dugong coroutine *crt* in Trio and return its result."""
    try:
        while True:
            await wait(next(crt))
    except StopIteration as exc:
        return exc.value
    finally:
        # A coroutine that was cancelled half-way leaves a connection that says so.
        crt.close()


async def wait(need: PollNeeded) -> None:
    """Wait for what a coroutine asks for: input, output, or whichever comes first."""

    async def watch(event):
        try:
            await event(need.fd)
        except trio.BusyResourceError:
            # Trio lets only one task wait for each direction of a socket. This one looks again
            # in a moment: resuming a coroutine too early is harmless.
            await trio.sleep(0.05)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        if need.mask & POLLIN:
            nursery.start_soon(watch, trio.lowlevel.wait_readable)
        if need.mask & POLLOUT:
            nursery.start_soon(watch, trio.lowlevel.wait_writable)


# end-example


class HTTPError(Exception):
    """The server answered, but not with the document."""


#: What can go wrong with one URL without being a mistake in this program.
EXPECTED_ERRORS = (
    HTTPError,
    ValueError,  # not a URL
    OSError,  # connection refused, certificate not trusted, ...
    trio.TooSlowError,
    ConnectionClosed,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
)


async def get(url: str) -> bytes:
    """Return the document at *url*."""
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError('not an http or https URL')
    target = parts.path or '/'
    if parts.query:
        target += '?' + parts.query
    context = ssl.create_default_context() if parts.scheme == 'https' else None

    with HTTPConnection(parts.hostname, parts.port, ssl_context=context) as conn:
        await run(conn.co_send_request('GET', quote(target, safe="/?%:@!$&'()*+,;=~")))
        resp = await run(conn.co_read_response())
        if resp.status != 200:
            raise HTTPError(f'{resp.status} {resp.reason}')
        return await run(conn.co_readall())


async def get_all(urls: List[str], deadline: float) -> int:
    """Fetch all *urls* at once and print how that went; return the exit status."""
    status = 0

    async def report(url: str) -> None:
        nonlocal status
        start = trio.current_time()
        try:
            with trio.fail_after(deadline):
                body = await get(url)
        except EXPECTED_ERRORS as exc:
            reason = f'no complete answer within {deadline:g} s'
            if not isinstance(exc, trio.TooSlowError):
                reason = str(exc)
            print(f'trio_get.py: {url}: {reason}', file=sys.stderr)
            status = 1
        else:
            print(f'{url}: {len(body)} bytes, {trio.current_time() - start:.3f} s')

    async def cancel_on_ctrl_c() -> None:
        nonlocal status
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                print('trio_get.py: interrupted', file=sys.stderr)
                status = 130
                watcher.cancel_scope.cancel()

    async with trio.open_nursery() as watcher:
        watcher.start_soon(cancel_on_ctrl_c)
        async with trio.open_nursery() as downloads:
            for url in urls:
                downloads.start_soon(report, url)
        watcher.cancel_scope.cancel()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description='Fetch URLs side by side with Trio.')
    parser.add_argument('--deadline', type=float, default=30, metavar='SECONDS')
    parser.add_argument('urls', nargs='+', metavar='URL')
    options = parser.parse_args()
    return trio.run(get_all, options.urls, options.deadline)


if __name__ == '__main__':
    sys.exit(main())
