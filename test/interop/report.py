"""Collects what ran against which server, and writes it as a page of the documentation."""

from typing import Dict, List, Optional, Set, Tuple

from .servers import ALL, FEATURES, SERVERS, NotInstalled

PAGE = """\
..
    Written by the tests: DUGONG_INTEROP_TABLE=doc/interop.rst python3 -m pytest test/interop

Servers and proxies tried
=========================

The tests in ``test/interop`` run against real servers and proxies, each with and without TLS.
These tables are written by them and show the last run that was recorded.

*yes*: all tests of this feature passed. *no*, *only*: the server cannot do it, or only this way;
the number is that of a note below. *plain*, *TLS*: tried this way only. A dash: not tried.
For a proxy, *plain* stands for forwarded requests and *TLS* for a tunnel (``CONNECT``). HAProxy,
squid and tinyproxy have Python's ``http.server`` behind them.

A server that is not installed is skipped. Debian has them as ``nginx``, ``apache2-bin``,
``lighttpd``, ``lighttpd-mod-webdav``, ``lighttpd-mod-openssl``, ``haproxy``, ``squid`` and
``tinyproxy-bin``; those written in Python come with ``pip install dugong[interop]``.
"""

EXPLANATIONS = """
What the columns stand for
--------------------------

GET, HEAD, ranges, conditional, 404
    Documents of 0 bytes to 1 MiB; first, last and unsatisfiable ranges; ``If-None-Match`` and
    ``If-Modified-Since``; always with another request on the same connection afterwards.
chunked
    Responses without a length.
PUT
    Bodies of 0, 1, 65535, 65536 and 65537 bytes from ``bytes``, ``bytearray``, files, and written
    after a ``BodyFollowing`` with a length; by one thread, by two, and with asyncio. What was
    stored is compared byte by byte.
100-continue
    The same with ``expect100=True``.
chunked upload
    The same with bodies of unknown length: iterables, streams, and ``BodyFollowing()``.
early answer
    An upload that is refused while it is being sent.
100 MiB
    Uploads of this size.
pipelining
    1,000 requests sent ahead by a second thread and by a second asyncio task, and as many as the
    server takes before the first answer is read.
pipeline()
    1,000 requests with ``HTTPConnection.pipeline()``: bodies, streams, and with asyncio; 50 if the
    server closes after each response.
keep-alive limit
    The server closes after a number of requests, in the middle of a pipeline: by a setting of its
    own, or, behind ``http.server``, uvicorn and aiohttp, because the application says so.
restart
    The server is restarted between two requests and in the middle of a pipeline.
proxy authentication
    Credentials as ``proxy_headers``: right, wrong and none.
"""


class Results:
    """Outcomes by server, scheme and feature."""

    def __init__(self) -> None:
        self.complaint: Optional[str] = None
        self._cells: Dict[Tuple[str, str, str], str] = {}
        self._limits: Dict[Tuple[str, str], str] = {}

    def add(
        self, server: str, scheme: str, feature: str, outcome: str, limit: Optional[str] = None
    ) -> None:
        server = ALL[server].row or server
        key = server, scheme, feature
        if limit is not None:
            self._limits[server, feature] = limit
            outcome = 'limit' if outcome == 'passed' else outcome
        if self._cells.get(key) != 'failed':
            self._cells[key] = outcome

    def servers(self) -> List[str]:
        """Names of the servers that something was tried with."""
        ran: Set[str] = {
            server for (server, _, _), outcome in self._cells.items() if outcome == 'passed'
        }
        return [kind.name for kind in SERVERS if kind.name in ran]

    def counts(self) -> Dict[str, object]:
        """Everything, for other programs to read."""
        rows = [
            {'server': server, 'scheme': scheme, 'feature': feature, 'outcome': outcome}
            for (server, scheme, feature), outcome in self._cells.items()
        ]
        return {
            'servers': len(self.servers()),
            'versions': {name: self._version(name) for name in self.servers()},
            'results': rows,
        }

    def summary(self) -> str:
        if not self._cells and self.complaint is None:
            return ''
        names = self.servers()
        line = f'interop: {len(names)} servers ran: {", ".join(names)}'
        return line if self.complaint is None else f'{line} -- {self.complaint}'

    @staticmethod
    def _version(name: str) -> str:
        try:
            return ALL[name].version()
        except NotInstalled:
            return ''

    def page(self) -> str:
        """The page, in reStructuredText."""
        notes: List[str] = []
        parts = [PAGE]
        for group, features in FEATURES.items():
            rows = []
            for name in self.servers():
                row = [f'{name} {self._version(name)}']
                row.extend(self._cell(name, feature, notes) for feature in features)
                rows.append(row)
            parts.append(table(group, ['Server', *features], rows))
        parts.append('\nNotes\n-----\n\n')
        parts.extend(f'{number}. {note}\n' for number, note in enumerate(notes, 1))
        parts.append(EXPLANATIONS)
        return ''.join(parts)

    def _cell(self, server: str, feature: str, notes: List[str]) -> str:
        outcomes = {
            scheme: outcome
            for (name, scheme, what), outcome in self._cells.items()
            if (name, what) == (server, feature)
        }
        values = set(outcomes.values())
        if not values:
            return '—'
        if 'failed' in values:
            return '**failed**'
        if 'limit' in values:
            note = self._limits[server, feature]
            if note not in notes:
                notes.append(note)
            others = [scheme for scheme, outcome in outcomes.items() if outcome == 'passed']
            return f'{others[0] + " only" if others else "no"} ({notes.index(note) + 1})'
        return 'yes' if len(outcomes) == 2 else next(iter(outcomes))


def table(title: str, heads: List[str], rows: List[List[str]]) -> str:
    lines = ['', title, '-' * len(title), '', '.. list-table::', '   :header-rows: 1', '']
    for row in [heads, *rows]:
        lines.extend(f'   {"*" if not index else " "} - {text}' for index, text in enumerate(row))
    return '\n'.join(lines) + '\n'
