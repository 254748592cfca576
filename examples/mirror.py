#!/usr/bin/env python3
"""Copy the documents of a list or of a directory listing into a directory.

    mirror.py URL DIRECTORY

A URL that ends in a slash is taken for a directory listing, as web servers make them: the
documents it links to are fetched, and those of the listings below it. Any other URL is taken for
a list of documents, one URL per line, absolute or relative to the list.

Shows `HTTPConnection.pipeline()`: many requests are under way at the same time, and those that a
dropped connection leaves unanswered are sent again. When the program itself was interrupted, start
it again: files that are there and up to date are not transferred a second time.
"""

import os
import ssl
import sys
from email.utils import formatdate, mktime_tz, parsedate_tz
from html.parser import HTMLParser
from pathlib import Path, PurePath
from typing import Dict, Iterator, List, Optional, Set, Tuple
from urllib.parse import quote, unquote, urljoin, urlsplit

# Use the package of the source tree this file belongs to, installed or not.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dugong import (
    BUFFER_SIZE,
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
    """The server answered, but not with the document."""


#: What can go wrong without being a mistake in this program.
EXPECTED_ERRORS = (
    HTTPError,
    ValueError,  # not a URL
    OSError,  # connection refused, certificate not trusted, disk full, ...
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    HostnameNotResolvable,
    InvalidResponse,
    UnsupportedResponse,
)


class LinkCollector(HTMLParser):
    """Collects the targets of the links in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.links: List[str] = []

    def handle_starttag(self, tag: str, attrs: List[Tuple[str, Optional[str]]]) -> None:
        href = dict(attrs).get('href')
        if tag == 'a' and href:
            self.links.append(href)


class Mirror:
    """Copies what is below a URL."""

    def __init__(self, url: str, directory: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ('http', 'https') or not parts.hostname:
            raise ValueError('not an http or https URL')
        context = ssl.create_default_context() if parts.scheme == 'https' else None
        self.conn = HTTPConnection(parts.hostname, parts.port, ssl_context=context)
        self.conn.timeout = 60
        self.server = f'{parts.scheme}://{parts.netloc}'
        self.start = quote(parts.path or '/', safe="/%:@!$&'()*+,;=~")
        #: All documents are below this path; it is the part that local names do not have.
        self.root = self.start[: self.start.rindex('/') + 1]
        self.directory = directory
        self.seen: Set[str] = {self.start}
        self.lists = self.fetched = self.up_to_date = self.failed = 0
        self.size = self.repeated = 0

    def run(self) -> None:
        """Fetch the list or listing, then what it names, then what that names, ..."""
        targets = [self.start]
        try:
            while targets:
                targets = self.fetch(targets)
        finally:
            self.hide_progress()

    def fetch(self, targets: List[str]) -> List[str]:
        """Fetch *targets*; return the new ones that the listings among them name."""
        found: List[str] = []
        pipeline = self.conn.pipeline(self.requests(targets), stream=True)
        for resp in pipeline:
            try:
                if resp.status == 304:
                    self.up_to_date += 1
                elif resp.status != 200:
                    self.complain(resp.path, f'{resp.status} {resp.reason}')
                elif self.is_list(resp.path):
                    found += self.new_targets(resp)
                else:
                    self.save(resp)
            except ConnectionClosed:
                # Only part of the body came: this document is the next one again.
                pipeline.retry()
            self.show_progress()
        self.repeated += pipeline.repeated
        return found

    def requests(self, targets: List[str]) -> Iterator[Tuple[str, str, Dict[str, str]]]:
        """Yield a request for each target, as the pipeline asks for them."""
        for target in targets:
            headers = {}
            if not self.is_list(target):
                file = self.directory / self.local_name(target)
                if file.is_file():
                    modified = formatdate(file.stat().st_mtime, usegmt=True)
                    headers['If-Modified-Since'] = modified
            yield 'GET', target, headers

    def is_list(self, target: str) -> bool:
        """Tell whether *target* names documents instead of being one."""
        return target == self.start or target.endswith('/')

    def new_targets(self, resp: HTTPResponse) -> List[str]:
        """Read the list *resp*; return what it names and has not been seen before."""
        text = self.conn.readall().decode(errors='replace')
        self.lists += 1
        if resp.path.endswith('/'):
            parser = LinkCollector()
            parser.feed(text)
            parser.close()
            links = parser.links
        else:
            links = text.split()

        targets = []
        for link in links:
            url = urlsplit(urljoin(self.server + resp.path, link))
            target = quote(url.path, safe="/%:@!$&'()*+,;=~")
            inside = f'{url.scheme}://{url.netloc}' == self.server and target.startswith(self.root)
            if not inside or target in self.seen:
                continue
            self.seen.add(target)
            if self.is_list(target) or self.is_safe(target):
                targets.append(target)
            else:
                self.complain(target, 'not a name for a file')
        return targets

    def local_name(self, target: str) -> str:
        """Return the name of the document *target* below the directory."""
        return unquote(target[len(self.root) :])

    def is_safe(self, target: str) -> bool:
        """Tell whether the local name of *target* leads nowhere but below the directory."""
        return all(
            part not in ('', '.', '..') and part == PurePath(part).name and '\0' not in part
            for part in self.local_name(target).split('/')
        )

    def save(self, resp: HTTPResponse) -> None:
        """Store the body of *resp* as a file, which appears when it is complete."""
        file = self.directory / self.local_name(resp.path)
        partial = file.with_name(file.name + '.part')
        file.parent.mkdir(parents=True, exist_ok=True)
        size = 0
        buffer = memoryview(bytearray(BUFFER_SIZE))
        try:
            with partial.open('wb') as fh:
                length = self.conn.readinto(buffer)
                while length:
                    fh.write(buffer[:length])
                    size += length
                    length = self.conn.readinto(buffer)
            modified = parsedate_tz(resp.headers['Last-Modified'] or '')
            if modified:
                os.utime(partial, times=(mktime_tz(modified),) * 2)
            partial.replace(file)
        finally:
            if partial.exists():
                partial.unlink()
        self.fetched += 1
        self.size += size

    def complain(self, target: str, problem: str) -> None:
        self.hide_progress()
        print(f'mirror.py: {self.server}{target}: {problem}', file=sys.stderr)
        self.failed += 1

    def show_progress(self) -> None:
        """Say how far it is, on a terminal."""
        if sys.stderr.isatty():
            done = self.lists + self.fetched + self.up_to_date + self.failed
            text = f'{done} of {len(self.seen)} documents, {self.size / 2**20:.1f} MiB'
            print(f'\r{text:<60}', end='', file=sys.stderr, flush=True)

    def hide_progress(self) -> None:
        if sys.stderr.isatty():
            print(f'\r{"":<60}', end='\r', file=sys.stderr, flush=True)

    def summary(self) -> str:
        return (
            f'{self.fetched} documents fetched ({self.size / 2**20:.1f} MiB), '
            f'{self.up_to_date} up to date, {self.failed} failed; '
            f'{self.repeated} requests sent again'
        )


def main(arguments: List[str]) -> int:
    if len(arguments) != 2:
        print('usage: mirror.py URL DIRECTORY', file=sys.stderr)
        return 2
    url, directory = arguments
    try:
        mirror = Mirror(url, Path(directory))
        with mirror.conn:
            mirror.run()
    except EXPECTED_ERRORS as exc:
        print(f'mirror.py: {url}: {exc}', file=sys.stderr)
        return 1
    print(mirror.summary())
    return 1 if mirror.failed else 0


if __name__ == '__main__':
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print('mirror.py: interrupted', file=sys.stderr)
        sys.exit(130)
