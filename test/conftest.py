"""Fixtures for all tests: certificates, scripted servers and connections to them."""

import gc
import ssl
import threading
from typing import Callable, Iterator, NamedTuple, Optional, Sequence, Union

import pytest
import trustme
from servers import LIMIT, Handler, ScriptedServer

from dugong import HTTPConnection


class Certificates(NamedTuple):
    """TLS contexts for a server called `localhost` or `127.0.0.1`, and a client trusting it."""

    server_context: ssl.SSLContext
    client_context: ssl.SSLContext
    authority: trustme.CA
    certificate: trustme.LeafCert


@pytest.fixture(scope='session')
def certificates() -> Certificates:
    authority = trustme.CA()
    certificate = authority.issue_cert('localhost', '127.0.0.1', '::1')
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(server_context)
    client_context = ssl.create_default_context()
    authority.configure_trust(client_context)
    return Certificates(server_context, client_context, authority, certificate)


@pytest.fixture(params=['plain', 'tls'])
def transport(request: pytest.FixtureRequest) -> str:
    """`'plain'` or `'tls'`: a test that asks for it runs over both."""
    return request.param


@pytest.fixture
def serve(request: pytest.FixtureRequest) -> Iterator[Callable[..., ScriptedServer]]:
    """`serve(handler)` starts a scripted server for this test.

    It speaks TLS if the test asks for `transport` and that is `'tls'`, or with `tls=True`.
    """
    servers = []

    def start(
        handler: Union[Handler, Sequence[Handler]],
        tls: Optional[bool] = None,
        host: str = '127.0.0.1',
    ) -> ScriptedServer:
        if tls is None:
            tls = _wants_tls(request)
        context = request.getfixturevalue('certificates').server_context if tls else None
        server = ScriptedServer(handler, context, host)
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def connect(
    request: pytest.FixtureRequest, serve: Callable[..., ScriptedServer]
) -> Iterator[Callable[..., HTTPConnection]]:
    """`connect(handler_or_server)` returns an `HTTPConnection` to it, with a time limit.

    More keyword arguments go to `HTTPConnection`. All are disconnected when the test ends,
    before the servers stop.
    """
    connections = []

    def make(
        target: Union[ScriptedServer, Handler, Sequence[Handler]], **options: object
    ) -> HTTPConnection:
        server = target if isinstance(target, ScriptedServer) else serve(target)
        if server.ssl_context is not None and 'ssl_context' not in options:
            options['ssl_context'] = request.getfixturevalue('certificates').client_context
        conn = HTTPConnection(server.host, server.port, **options)
        conn.timeout = LIMIT
        connections.append(conn)
        return conn

    yield make
    for conn in connections:
        conn.disconnect()


def _wants_tls(request: pytest.FixtureRequest) -> bool:
    return 'transport' in request.fixturenames and request.getfixturevalue('transport') == 'tls'


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """Unclosed sockets and forgotten threads fail the test that left them."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    # What exists now need not be looked at after each of the tests to come.
    gc.freeze()
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
        assert not thread.is_alive(), f'{thread} goes on after the test'
