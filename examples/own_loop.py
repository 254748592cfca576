#!/usr/bin/env python3
"""Fetch many URLs at the same time in one thread, with an event loop written in place.

    own_loop.py [--timeout SECONDS] URL...

Shows that `PollNeeded` is all there is between dugong and an event loop: the loop below waits with
the standard library's `selectors` for what the coroutines ask for, one connection for each URL.
"""

import argparse
import os
import selectors
import ssl
import sys
import time
from typing import Generator, List, NamedTuple, Optional
from urllib.parse import quote, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    POLLIN,
    POLLOUT,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    PollNeeded,
    UnsupportedResponse,
)

# start-example
Task = Generator[PollNeeded, None, None]


class Waiting(NamedTuple):
    """What the loop remembers about a file descriptor."""

    tasks: List[Task]
    deadline: float


class Loop:
    """Runs dugong coroutines side by side; no wait of theirs may exceed *timeout* seconds."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.selector = selectors.DefaultSelector()

    def step(self, task: Task, error: Optional[Exception] = None) -> None:
        """Run *task* up to its next wait; make it continue with *error*, if there is one."""
        try:
            need = task.throw(error) if error else next(task)
        except StopIteration:
            return

        events = 0
        if need.mask & POLLIN:
            events |= selectors.EVENT_READ
        if need.mask & POLLOUT:
            events |= selectors.EVENT_WRITE
        try:
            key = self.selector.get_key(need.fd)
        except KeyError:
            waiting = Waiting([task], time.monotonic() + self.timeout)
            self.selector.register(need.fd, events, waiting)
        else:
            # One task may send on a connection while another one reads.
            key.data.tasks.append(task)
            self.selector.modify(need.fd, key.events | events, key.data)

    def run(self) -> None:
        """Go on until all tasks have ended."""
        while self.selector.get_map():
            deadline = min(key.data.deadline for key in self.selector.get_map().values())
            events = self.selector.select(max(0, deadline - time.monotonic()))
            ready = {key.fd for key, _ in events}
            for key in list(self.selector.get_map().values()):
                error = None
                if key.fd not in ready:
                    if key.data.deadline > time.monotonic():
                        continue
                    error = ConnectionTimedOut(f'no answer for {self.timeout:g} s')
                # Resume all who wait for this descriptor: too early is harmless.
                self.selector.unregister(key.fd)
                for task in key.data.tasks:
                    self.step(task, error)

    def close(self) -> None:
        """End what still waits."""
        for key in self.selector.get_map().values():
            for task in key.data.tasks:
                task.close()
        self.selector.close()


# end-example


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


def get(url: str) -> Generator[PollNeeded, None, bytes]:
    """Return the document at *url*: a coroutine made of dugong's."""
    parts = urlsplit(url)
    if parts.scheme not in ('http', 'https') or not parts.hostname:
        raise ValueError('not an http or https URL')
    target = parts.path or '/'
    if parts.query:
        target += '?' + parts.query
    context = ssl.create_default_context() if parts.scheme == 'https' else None

    with HTTPConnection(parts.hostname, parts.port, ssl_context=context) as conn:
        yield from conn.co_send_request('GET', quote(target, safe="/?%:@!$&'()*+,;=~"))
        resp = yield from conn.co_read_response()
        if resp.status != 200:
            raise HTTPError(f'{resp.status} {resp.reason}')
        body = yield from conn.co_readall()
        return bytes(body)


def get_all(urls: List[str], timeout: float) -> int:
    """Fetch all *urls* at once and print how that went; return the exit status."""
    status = 0

    def report(url: str) -> Task:
        nonlocal status
        start = time.monotonic()
        try:
            body = yield from get(url)
        except EXPECTED_ERRORS as exc:
            print(f'own_loop.py: {url}: {exc}', file=sys.stderr)
            status = 1
        else:
            print(f'{url}: {len(body)} bytes, {time.monotonic() - start:.3f} s')

    loop = Loop(timeout)
    try:
        for url in urls:
            loop.step(report(url))
        loop.run()
    finally:
        loop.close()
    return status


def main() -> int:
    parser = argparse.ArgumentParser(description='Fetch many URLs at the same time.')
    parser.add_argument('--timeout', type=float, default=30, metavar='SECONDS')
    parser.add_argument('urls', nargs='+', metavar='URL')
    options = parser.parse_args()
    return get_all(options.urls, options.timeout)


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print('own_loop.py: interrupted', file=sys.stderr)
        sys.exit(130)
