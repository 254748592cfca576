"""Runs every test against every server, and reports what ran as a table.

The servers that are installed are started one after the other. Environment variables:

`DUGONG_INTEROP_TABLE=FILE`
    write the results as a page of the documentation (doc/interop.rst);
`DUGONG_INTEROP_COUNTS=FILE`
    write the results as JSON;
`DUGONG_INTEROP_MINIMUM=N`
    fail the test run if fewer than N servers ran.
"""

import gc
import json
import os
import pathlib
import shutil
import tempfile
from typing import Callable, Iterator, List, Optional

import pytest

from . import report
from .servers import (
    ALL,
    SERVERS,
    HTTPConnection,
    NotInstalled,
    Server,
    Site,
    TLSFiles,
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        'markers', 'feature(name): what of a server the test looks at, a column of the table'
    )


# -- results --------------------------------------------------------------------------------

results = report.Results()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    made = outcome.get_result()
    marker = item.get_closest_marker('feature')
    callspec = getattr(item, 'callspec', None)
    server, scheme = callspec.params.get('server', (None, None)) if callspec else (None, None)
    if marker is None or server is None:
        return
    limit = dict(item.user_properties).get('limit')
    if made.failed:
        results.add(server, scheme, marker.args[0], 'failed')
    elif made.when == 'call' and made.passed or limit is not None:
        results.add(server, scheme, marker.args[0], 'passed', limit)


def pytest_terminal_summary(terminalreporter: object) -> None:
    line = results.summary()
    if line:
        terminalreporter.write_line(line)  # type: ignore[attr-defined]


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    table = os.environ.get('DUGONG_INTEROP_TABLE')
    if table:
        pathlib.Path(table).write_text(results.page())
    counts = os.environ.get('DUGONG_INTEROP_COUNTS')
    if counts:
        pathlib.Path(counts).write_text(json.dumps(results.counts(), indent=2) + '\n')
    minimum = int(os.environ.get('DUGONG_INTEROP_MINIMUM', 0))
    if len(results.servers()) < minimum:
        results.complaint = f'{minimum} servers had to run'
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# -- servers --------------------------------------------------------------------------------


def set_apart_what_lives() -> None:
    """The garbage collection after each test need not look at everything there is again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope='session')
def directory() -> Iterator[pathlib.Path]:
    """Not one of pytest's own: servers that run as another user must be able to get in."""
    path = pathlib.Path(tempfile.mkdtemp(prefix='dugong-interop-'))
    path.chmod(0o755)
    yield path
    shutil.rmtree(str(path))


@pytest.fixture(scope='session')
def site(directory: pathlib.Path) -> Site:
    return Site(directory / 'site')


@pytest.fixture(scope='session')
def tls_files(directory: pathlib.Path, certificates) -> TLSFiles:
    leaf = certificates.certificate
    files = TLSFiles(
        directory / 'certificate.pem',
        directory / 'key.pem',
        directory / 'both.pem',
        certificates.client_context,
    )
    leaf.cert_chain_pems[0].write_to_path(str(files.certificate))
    leaf.private_key_pem.write_to_path(str(files.key))
    leaf.private_key_and_cert_chain_pem.write_to_path(str(files.both))
    for file in files[:3]:
        # A key for tests; the servers that read it run as another user.
        file.chmod(0o644)
    return files


class Starter:
    """Starts servers in directories of their own, stops them all at the end."""

    def __init__(self, site: Site, directory: pathlib.Path, tls_files: TLSFiles) -> None:
        self.site, self.directory, self.tls_files = site, directory, tls_files
        self.started: List[Server] = []

    def __call__(self, kind: type, tls: bool = False, keepalive: Optional[int] = None) -> Server:
        try:
            kind.version()
            path = self.directory / f'{kind.__name__}-{len(list(self.directory.iterdir()))}'
            server = kind(self.site, path, self.tls_files if tls else None, keepalive)
            self.started.append(server)
            server.start()
        except NotInstalled as exc:
            pytest.skip(str(exc))
        return server

    def close(self) -> None:
        for server in reversed(self.started):
            server.close()


@pytest.fixture(scope='session')
def make_starter(
    site: Site, directory: pathlib.Path, tls_files: TLSFiles
) -> Callable[[], Starter]:
    return lambda: Starter(site, directory, tls_files)


@pytest.fixture(
    scope='session',
    params=[(kind.name, scheme) for kind in SERVERS for scheme in ('plain', 'TLS')],
    ids=lambda param: f'{ALL[param[0]].__name__}-{param[1]}',
)
def server(request: pytest.FixtureRequest, make_starter: Callable[[], Starter]):
    """Every server in turn, plain and with TLS."""
    name, scheme = request.param
    starter = make_starter()
    set_apart_what_lives()
    try:
        yield starter(ALL[name], tls=scheme == 'TLS')
    finally:
        starter.close()


@pytest.fixture(autouse=True)
def limit(request: pytest.FixtureRequest):
    """The `Limit` of the server as to the feature under test, or `None`.

    A test is skipped if the server cannot be asked for the feature at all.
    """
    marker = request.node.get_closest_marker('feature')
    if marker is None or 'server' not in request.fixturenames:
        return None
    server = request.getfixturevalue('server')
    found = server.limits.get(marker.args[0])
    if found is not None:
        request.node.user_properties.append(('limit', found.reason))
        if found.status is None:
            pytest.skip(f'{server.name}: {found.reason}')
    return found


@pytest.fixture
def conn(server: Server) -> Iterator[HTTPConnection]:
    """A connection to the server."""
    with server.connection() as connection:
        yield connection
