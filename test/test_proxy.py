"""Section 8 of the contract: TLS and proxies."""

import io
import select
import socket
import ssl
import threading
import time
from typing import Any, List, Optional, Tuple

import pytest
from conftest import Certificates
from contract_support import (
    Answers,
    DuckContext,
    chunked_reply,
    co,
    get,
    head,
    reply,
    resolve_to,
)
from servers import LIMIT, Peer, Request, ScriptedServer, wait_for_events
from waiting_support import Thread

import dugong
from dugong import (
    BodyFollowing,
    ConnectionClosed,
    ConnectionTimedOut,
    HostnameNotResolvable,
    HTTPConnection,
    InvalidResponse,
    ProxyError,
    UnsupportedResponse,
    eval_coroutine,
    is_temp_network_error,
)
from dugong._connection import _Form

ESTABLISHED = b'HTTP/1.1 200 Connection established\r\n\r\n'


class Tunnel:
    """A proxy that answers CONNECT and then moves octets to *target* and back.

    The name the client asks for is not looked at: all ways lead to *target*.
    """

    def __init__(self, target: Tuple[str, int], answer: bytes = ESTABLISHED) -> None:
        self.target = target
        self.answer = answer
        self.requests: List[Request] = []

    def __call__(self, peer: Peer) -> None:
        self.requests.append(peer.read_head())
        assert peer._buffer == b'', 'the client did not wait for the answer'
        with socket.create_connection(self.target, timeout=LIMIT) as there:
            peer.send(self.answer)
            self._move(peer.sock, there)

    @staticmethod
    def _move(here: socket.socket, there: socket.socket) -> None:
        poller = select.poll()
        other = {here.fileno(): (here, there), there.fileno(): (there, here)}
        for descriptor in other:
            poller.register(descriptor, select.POLLIN)
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            for descriptor, _ in poller.poll(LIMIT * 1000):
                source, sink = other[descriptor]
                try:
                    data = source.recv(65536)
                    if data:
                        sink.sendall(data)
                except OSError:
                    return
                if not data:
                    return


# -- plain HTTP by way of a proxy ---------------------------------------------------------------


@pytest.mark.parametrize(
    'hostname, port, authority',
    [
        ('host.example', 80, 'host.example'),
        ('host.example', None, 'host.example'),
        ('host.example', 8080, 'host.example:8080'),
        ('host.example', 443, 'host.example:443'),
        ('::1', 80, '[::1]'),
        ('2001:db8::7', 8080, '[2001:db8::7]:8080'),
        ('127.0.0.1', 8080, '127.0.0.1:8080'),
        ('b\xfccher.example', 80, 'xn--bcher-kva.example'),
    ],
)
def test_request_target_is_in_absolute_form(
    hostname: str, port: Any, authority: str, serve: Any
) -> None:
    handler = Answers(reply(b'by proxy'))
    proxy = serve(handler)
    with HTTPConnection(hostname, port, proxy=proxy.address) as conn:
        conn.timeout = LIMIT
        response, body = get(conn, '/some/path?query')
    assert body == b'by proxy'
    assert handler.request.target == f'http://{authority}/some/path?query'
    assert handler.request.field('Host') == authority
    assert handler.request.fields[0][0] == 'Host'
    assert response.path == '/some/path?query'
    assert response.method == 'GET'


def test_fields_of_the_caller_take_the_place_of_those_for_the_proxy(serve: Any) -> None:
    handler = Answers(reply(b''))
    fields = {'User-Agent': 'one', 'Content-MD5': 'x', 'X-Proxy': 'y', 'Connection': 'close'}
    with HTTPConnection('h.example', proxy=serve(handler).address, proxy_headers=fields) as conn:
        conn.timeout = LIMIT
        conn.send_request('PUT', '/', {'user-agent': 'two'}, b'body')
        conn.read_response()
        with pytest.raises(ConnectionClosed, match='asked the server to close'):
            conn.send_request('GET', '/')
            conn.read_response()
    sent = [(name.lower(), value) for name, value in handler.request.fields]
    assert sorted(dict(sent)) == sorted(name for name, _ in sent)
    assert dict(sent)['user-agent'] == 'two'
    assert dict(sent)['content-md5'] == 'x'
    assert dict(sent)['x-proxy'] == 'y'
    assert dict(sent)['connection'] == 'close'


def test_proxy_that_is_assigned_is_for_the_next_connection(connect: Any, serve: Any) -> None:
    """The server does not learn what is for the proxy only."""
    server = Answers(reply(b'one'), reply(b'two'))
    proxy = Answers(reply(b'three'))
    conn = connect(server)
    get(conn, '/one')
    conn.proxy = serve(proxy).address
    conn.proxy_headers = {'Proxy-Authorization': 'secret'}
    conn.hostname = 'other.example'
    conn.port = 80
    assert get(conn, '/two')[1] == b'two'
    assert server.requests[1].target == '/two'
    assert server.requests[1].field('Host') == 'other.example'
    assert server.requests[1].field('Proxy-Authorization') is None
    conn.disconnect()
    assert get(conn, '/three')[1] == b'three'
    assert proxy.request.target == 'http://other.example/three'
    assert proxy.request.field('Proxy-Authorization') == 'secret'


def test_proxy_that_is_not_to_be_used_any_more_gets_its_requests_to_the_end(serve: Any) -> None:
    proxy = Answers(reply(b'one'), reply(b'two'))
    with HTTPConnection('host.example', proxy=serve(proxy).address) as conn:
        conn.timeout = LIMIT
        get(conn, '/one')
        conn.proxy = None
        assert get(conn, '/two')[1] == b'two'
    assert proxy.requests[1].target == 'http://host.example/two'


def test_tunnel_remains_one_without_tls_for_the_next_connection(
    serve: Any, certificates: Certificates
) -> None:
    origin = Answers(reply(b'one'), reply(b'two'))
    tunnel = Tunnel(serve(origin, tls=True).address)
    conn = HTTPConnection(
        'localhost',
        443,
        certificates.client_context,
        proxy=serve(tunnel, tls=False).address,
        proxy_headers={'Proxy-Authorization': 'secret'},
    )
    with conn:
        conn.timeout = LIMIT
        get(conn, '/one')
        conn.ssl_context = None
        assert get(conn, '/two')[1] == b'two'
    assert origin.requests[1].target == '/two'
    assert origin.requests[1].field('Host') == 'localhost'
    assert origin.requests[1].field('Proxy-Authorization') is None


def check_form(request: Request, proxied: bool) -> None:
    """What *request* looks like must fit to whom it went."""
    assert request.target.startswith('http:' if proxied else '/')
    assert request.field('Proxy-Authorization') == ('secret' if proxied else None)


class Way:
    """A connection object, and the servers at both ends of the ways that it may go."""

    def __init__(self, serve: Any, proxied: bool, *replies: bytes, close: bool = False) -> None:
        self.handlers = {
            way: Answers(*replies, close=close and way is proxied) for way in (True, False)
        }
        self.proxy = serve(self.handlers[True]).address
        self.conn = HTTPConnection(
            *serve(self.handlers[False]).address, proxy_headers={'Proxy-Authorization': 'secret'}
        )
        self.conn.timeout = LIMIT
        self.go(proxied)

    def go(self, proxied: bool) -> None:
        self.conn.proxy = self.proxy if proxied else None

    def check(self, way: bool, count: int) -> None:
        requests = self.handlers[way].requests
        assert len(requests) == count
        for request in requests:
            check_form(request, way)


@pytest.mark.parametrize('proxied', [False, True])
@pytest.mark.parametrize('between', [('disconnect', 'connect'), ('connect',), ('disconnect',)])
def test_requests_have_the_form_of_the_connection_that_is_made_next(
    between: Tuple[str, ...], proxied: bool, serve: Any
) -> None:
    way = Way(serve, proxied, reply(b''))
    with way.conn as conn:
        get(conn, '/')
        way.go(not proxied)
        for name in between:
            getattr(conn, name)()
        get(conn, '/')
    way.check(proxied, 1)
    way.check(not proxied, 1)


def test_tunnel_is_asked_for_with_the_fields_that_were_assigned(
    serve: Any, certificates: Certificates
) -> None:
    origin = serve(Answers(reply(b'one')), tls=True)
    tunnel = Tunnel(origin.address)
    proxy = serve(tunnel, tls=False)
    conn = HTTPConnection('localhost', 443, certificates.client_context, proxy=proxy.address)
    with conn:
        conn.timeout = LIMIT
        conn.connect()
        conn.proxy_headers = {'Proxy-Authorization': 'secret'}
        conn.disconnect()
        conn.connect()
    assert [r.field('Proxy-Authorization') for r in tunnel.requests] == [None, 'secret']


@pytest.mark.parametrize('proxied', [False, True])
def test_pipeline_repeats_requests_in_the_form_of_the_new_connection(
    proxied: bool, serve: Any
) -> None:
    """The first server closes after two answers."""
    way = Way(serve, proxied, *[reply(b'')] * 2, close=True)
    way.handlers[not proxied].replies = (reply(b''),) * 3
    with way.conn as conn:
        paths = iter([f'/{number}' for number in range(5)])
        headers = {'X-Field': 'a'}
        pipeline = conn.pipeline(('GET', path, headers) for path in paths)
        for number, response in enumerate(pipeline):
            assert response.path == f'/{number}'
            way.go(not proxied)
            headers.clear()
    way.check(proxied, 2)
    way.check(not proxied, 3)
    first = [
        request for request in way.handlers[not proxied].requests if request.target[-1] == '2'
    ]
    assert first[0].field('X-Field') == 'a'


def test_last_host_name_counts_that_was_assigned_while_it_was_connected(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Answers(reply(b''))
    conn = connect(server)
    create_socket, with_origin = dugong.create_socket, _Form.with_origin

    def assign(address: Any) -> Any:
        conn.hostname = 'first.example'
        return create_socket(address)

    def assign_again(form: _Form, host: str, port: int) -> _Form:
        monkeypatch.setattr(_Form, 'with_origin', with_origin)
        conn.hostname = 'second.example'
        return form.with_origin(host, port)

    monkeypatch.setattr(dugong, 'create_socket', assign)
    monkeypatch.setattr(_Form, 'with_origin', assign_again)
    get(conn, '/')
    assert server.request.field('Host') == f'second.example:{conn.port}'


@pytest.mark.parametrize('answered', [8, 10])
def test_pipeline_sends_what_can_be_sent_before_it_says_what_cannot(
    answered: int, serve: Any
) -> None:
    """That comes out when the connection to a proxy takes the place of the first one."""
    way = Way(serve, False, *[reply(b'')] * answered, close=True)
    way.handlers[True].replies = (reply(b''),) * (11 - answered)
    with way.conn as conn:
        pipeline = conn.pipeline([*[f'/{number}' for number in range(10)], 'path', '/end'])
        for number in range(10):
            assert next(pipeline).path == f'/{number}'
            way.go(True)
        with pytest.raises(ValueError, match='path for a proxy'):
            next(pipeline)
        assert pipeline.unanswered == ['path', '/end']
        get(conn, '/after')
    way.check(False, answered)
    way.check(True, 11 - answered)


@pytest.mark.parametrize('name', ['connect', 'co_connect'])
@pytest.mark.parametrize('proxied', [False, True])
def test_subclass_may_choose_another_way_when_it_connects(
    proxied: bool, name: str, serve: Any
) -> None:
    way = Way(serve, proxied, *[reply(b'')] * 2)

    class Subclass(HTTPConnection):
        pass

    def connect(self: HTTPConnection) -> None:
        way.go(not proxied)
        HTTPConnection.connect(self)

    def co_connect(self: HTTPConnection) -> Any:
        way.go(not proxied)
        yield from HTTPConnection.co_connect(self)

    setattr(Subclass, name, {'connect': connect, 'co_connect': co_connect}[name])
    old, way.conn = way.conn, Subclass(way.conn.hostname, way.conn.port, proxy=way.conn.proxy)
    way.conn.proxy_headers = old.proxy_headers
    way.conn.timeout = LIMIT
    with way.conn as conn:
        conn.send_request('PUT', '/1', iter([('X-Field', 'a')]), iter([b'da', b'ta']))
        conn.read_response()
        get(conn, '/2')
    way.check(proxied, 0)
    way.check(not proxied, 2)
    # Nothing was taken from the iterators but for the request that was sent.
    request = way.handlers[not proxied].requests[0]
    assert request.field('X-Field') == 'a'
    assert request.body == b'data'


def test_path_that_the_proxy_cannot_be_asked_for_is_refused_once_that_is_connected_to(
    serve: Any,
) -> None:
    way = Way(serve, False, reply(b''))

    class Subclass(HTTPConnection):
        def connect(self) -> None:
            self.proxy = way.proxy
            super().connect()

    with Subclass('host.example') as conn:
        conn.timeout = LIMIT
        with pytest.raises(ValueError, match='path for a proxy'):
            conn.send_request('GET', 'path')
        assert not conn.response_pending()
        get(conn, '/')


def test_connection_that_was_given_up_has_no_influence_on_the_form_of_the_next_one(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = Way(serve, True, *[reply(b'')] * 2)
    create_socket = dugong.create_socket
    begun, ended = threading.Event(), threading.Event()

    def wait(address: Any) -> Any:
        monkeypatch.setattr(dugong, 'create_socket', create_socket)
        sock = create_socket(address)
        begun.set()
        assert ended.wait(LIMIT)
        return sock

    monkeypatch.setattr(dugong, 'create_socket', wait)
    with way.conn as conn:
        first = Thread(conn.send_request, 'GET', '/first')
        assert begun.wait(LIMIT)
        conn.disconnect()
        way.go(False)
        get(conn, '/1')
        ended.set()
        with pytest.raises(ConnectionClosed):
            first.finish()
        get(conn, '/2')
    way.check(False, 2)


@pytest.mark.parametrize('name', ['x..y', '.example', 'a' * 64 + '.example'])
def test_name_that_no_host_can_have_is_found_before_the_tunnel(
    name: str, certificates: Certificates
) -> None:
    with socket.create_server(('127.0.0.1', 0)) as listener:
        listener.settimeout(0)
        address = listener.getsockname()
        conn = HTTPConnection(name, 443, certificates.client_context, proxy=address)
        with pytest.raises(HostnameNotResolvable):
            conn.connect()
        with pytest.raises(BlockingIOError):
            listener.accept()


@pytest.mark.parametrize(
    'hostname, expected',
    [('fe80::1%eth0', 'fe80::1'), ('host.example.', 'host.example'), ('::1', '::1')],
)
def test_server_name_of_tls_is_neither_a_zone_nor_the_root(
    hostname: str, expected: str, serve: Any
) -> None:
    names: List[Optional[str]] = []

    class Context:
        def wrap_socket(
            self, sock: socket.socket, server_hostname: Optional[str]
        ) -> socket.socket:
            names.append(server_hostname)
            return sock

    proxy = serve(Tunnel(serve(Answers(reply(b'')), tls=False).address), tls=False)
    with HTTPConnection(hostname, 443, Context(), proxy=proxy.address) as conn:
        conn.timeout = LIMIT
        get(conn, '/')
    assert names == [expected]


@pytest.mark.parametrize(
    'path, target', [('*', 'http://host.example:81'), ('?query', 'http://host.example:81?query')]
)
def test_request_target_without_a_path(path: str, target: str, serve: Any) -> None:
    handler = Answers(reply(b'by proxy'))
    with HTTPConnection('host.example', 81, proxy=serve(handler).address) as conn:
        conn.timeout = LIMIT
        conn.send_request('OPTIONS', path)
        assert conn.read_response().path == path
    assert handler.request.target == target


@pytest.mark.parametrize(
    'path', ['@evil.example/', '.evil.example/', ':81/', 'http://other.example/', 'path', '**']
)
def test_path_that_would_change_the_authority_is_refused(path: str) -> None:
    conn = HTTPConnection('host.example', proxy=('proxy.example', 3128))
    with pytest.raises(ValueError, match='path'):
        conn.send_request('GET', path)
    assert not conn.response_pending()


def test_host_behind_a_proxy_is_not_looked_up(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve(Answers(reply(b'x')))
    asked = resolve_to(monkeypatch, proxy.address)
    with HTTPConnection('host.example', proxy=('proxy.example', 3128)) as conn:
        conn.timeout = LIMIT
        get(conn)
    assert asked in ([('proxy.example', 3128)], [(b'proxy.example', 3128)])


def test_all_kinds_of_requests_by_proxy(serve: Any) -> None:
    def handler(peer: Peer) -> None:
        for raw in (reply(b'one'), chunked_reply(b'two')):
            requests.append(peer.read_request())
            peer.send(raw)
        requests.append(peer.read_head())
        peer.send(head('100 Continue'))
        assert peer.read_exactly(4) == b'data'
        peer.send(reply(b'three'))
        peer.read_to_eof()

    requests: List[Request] = []
    proxy = serve(handler)
    with HTTPConnection('host.example', 8080, proxy=proxy.address) as conn:
        conn.timeout = LIMIT
        conn.send_request('GET', '/1')
        conn.send_request('PUT', '/2', body=b'data')
        for path, body in (('/1', b'one'), ('/2', b'two')):
            assert conn.read_response().path == path
            assert conn.readall() == body
        conn.send_request('PUT', '/3', body=BodyFollowing(4), expect100=True)
        response = conn.read_response()
        assert (response.status, response.path) == (100, '/3')
        conn.write(b'data')
        response = conn.read_response()
        assert (response.status, response.path) == (200, '/3')
        assert conn.readall() == b'three'
    assert [r.target for r in requests] == [f'http://host.example:8080/{i}' for i in (1, 2, 3)]
    assert proxy.connections == 1


def test_error_of_a_plain_proxy_is_an_ordinary_response(serve: Any) -> None:
    proxy = serve(Answers(reply(b'who are you', '407 Proxy Authentication Required')))
    with HTTPConnection('host.example', proxy=proxy.address) as conn:
        conn.timeout = LIMIT
        response, body = get(conn)
    assert (response.status, body) == (407, b'who are you')


def test_proxy_that_refuses_the_connection(serve: Any) -> None:
    proxy = serve(Answers())
    proxy.stop()
    with HTTPConnection('host.example', proxy=proxy.address) as conn:
        conn.timeout = LIMIT
        with pytest.raises(ConnectionRefusedError):
            conn.connect()
        assert conn._sock is None


def test_proxy_can_be_set_later(serve: Any) -> None:
    handler = Answers(reply(b'by proxy'))
    proxy = serve(handler)
    conn = HTTPConnection('host.example')
    conn.proxy = proxy.address
    conn.timeout = LIMIT
    with conn:
        assert get(conn, '/x')[1] == b'by proxy'
    assert handler.request.target == 'http://host.example/x'


# -- TLS by way of a proxy ----------------------------------------------------------------------


@pytest.fixture
def tunnelled(serve: Any, certificates: Any) -> Any:
    """`tunnelled(handler)`: a connection through a tunnel to a TLS server, and the tunnel."""
    connections = []

    def make(handler: Any, hostname: str = 'localhost', answer: bytes = ESTABLISHED) -> Any:
        server = serve(handler, tls=True)
        tunnel = Tunnel(server.address, answer)
        proxy = serve(tunnel, tls=False)
        conn = HTTPConnection(hostname, server.port, certificates.client_context, proxy.address)
        conn.timeout = LIMIT
        connections.append(conn)
        return conn, tunnel

    yield make
    for conn in connections:
        conn.disconnect()


def test_connect_comes_first_then_tls(tunnelled: Any) -> None:
    handler = Answers(reply(b'secret'))
    conn, tunnel = tunnelled(handler)
    response, body = get(conn, '/some/path')
    assert (body, response.path) == (b'secret', '/some/path')
    (request,) = tunnel.requests
    assert request.head.startswith(b'CONNECT localhost:%d HTTP/1.1\r\n' % conn.port)
    assert request.field('Host') == f'localhost:{conn.port}'
    # What goes through the tunnel is as without a proxy.
    assert handler.request.target == '/some/path'
    assert handler.request.field('Host') == f'localhost:{conn.port}'


def test_fields_of_the_caller_do_not_go_to_the_proxy(tunnelled: Any) -> None:
    handler = Answers(reply(b'secret'))
    conn, tunnel = tunnelled(handler)
    conn.send_request(
        'PUT', '/private', {'Authorization': 'Basic c2VjcmV0', 'X-One': '1'}, b'data'
    )
    conn.read_response()
    seen = tunnel.requests[0].head.lower()
    for secret in (b'authorization', b'c2vjcmv0', b'x-one', b'/private', b'data'):
        assert secret not in seen
    assert handler.request.field('Authorization') == 'Basic c2VjcmV0'


def test_tunnel_is_kept_for_later_requests(tunnelled: Any) -> None:
    conn, tunnel = tunnelled(Answers(*[reply(b'%d' % i) for i in range(5)]))
    for i in range(2):
        assert get(conn)[1] == b'%d' % i
    for _ in range(3):
        conn.send_request('GET', '/')
    for i in range(2, 5):
        conn.read_response()
        assert conn.readall() == b'%d' % i
    assert len(tunnel.requests) == 1


def test_tunnel_by_coroutines(tunnelled: Any) -> None:
    conn, _ = tunnelled(Answers(reply(b'secret')))
    co(conn.co_send_request('GET', '/'))
    assert co(conn.co_read_response()).status == 200
    assert co(conn.co_readall()) == b'secret'


def test_large_bodies_through_a_tunnel(tunnelled: Any) -> None:
    body = bytes(range(256)) * 8192
    handler = Answers(reply(body))
    conn, _ = tunnelled(handler)
    conn.send_request('PUT', '/', body=body)
    assert conn.read_response().length == len(body)
    assert conn.readall() == body
    assert handler.request.body == body


@pytest.mark.parametrize('bytewise', [False, True], ids=['whole', 'bytewise'])
@pytest.mark.parametrize(
    'answer',
    [
        ESTABLISHED,
        b'HTTP/1.0 200 OK\r\n\r\n',
        b'HTTP/1.1 200\r\n\r\n',
        b'HTTP/1.1 299 Fine\r\nX-Proxy: 1\r\n\r\n',
        # RFC 9110 section 9.3.6: framing of a 2xx answer to CONNECT is ignored.
        b'HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n',
        b'HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n',
        b'HTTP/1.1 100 Continue\r\n\r\n' + ESTABLISHED,
        b'HTTP/1.1 200 OK\r\n' + b'X-Long: ' + b'x' * 3000 + b'\r\n\r\n',
    ],
    ids=['plain', '1.0', 'no reason', '299', 'length', 'chunked', 'close', 'interim', 'long'],
)
def test_answers_that_open_the_tunnel(answer: bytes, bytewise: bool, tunnelled: Any) -> None:
    conn, tunnel = tunnelled(Answers(reply(b'secret')))
    if bytewise:
        tunnel.answer = b''
        move = tunnel._move

        def drip(here: socket.socket, there: socket.socket) -> None:
            for index in range(len(answer)):
                here.sendall(answer[index : index + 1])
            move(here, there)

        tunnel._move = drip
    else:
        tunnel.answer = answer
    assert get(conn)[1] == b'secret'


class HelloServer:
    """A TLS server that keeps the names it was asked for."""

    def __init__(self, certificates: Any, handler: Any) -> None:
        self.names: List[Any] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificates.certificate.configure_cert(context)
        context.sni_callback = lambda sock, name, _: self.names.append(name)
        self.server = ScriptedServer(handler, context)


@pytest.mark.parametrize('proxied', [False, True], ids=['direct', 'tunnel'])
def test_server_name_is_that_of_the_real_host(
    proxied: bool, serve: Any, certificates: Any
) -> None:
    hello = HelloServer(certificates, Answers(reply(b'x')))
    with hello.server as server:
        proxy = serve(Tunnel(server.address)).address if proxied else None
        with HTTPConnection('localhost', server.port, certificates.client_context, proxy) as conn:
            conn.timeout = LIMIT
            get(conn)
    assert hello.names == ['localhost']


@pytest.mark.parametrize('proxied', [False, True], ids=['direct', 'tunnel'])
def test_server_name_is_sent_without_host_check_too(
    proxied: bool, serve: Any, certificates: Any
) -> None:
    hello = HelloServer(certificates, Answers(reply(b'x')))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with hello.server as server:
        proxy = serve(Tunnel(server.address)).address if proxied else None
        with HTTPConnection('localhost', server.port, context, proxy) as conn:
            conn.timeout = LIMIT
            get(conn)
    assert hello.names == ['localhost']


def test_certificate_is_checked_for_the_real_host(tunnelled: Any) -> None:
    # The tunnel leads to a server that is not the one asked for.
    conn, tunnel = tunnelled(Answers(reply(b'secret')), hostname='other.example')
    with pytest.raises(ssl.SSLCertVerificationError):
        conn.connect()
    assert conn._sock is None
    assert tunnel.requests[0].target == f'other.example:{conn.port}'


@pytest.fixture(autouse=True)
def tls_alerts_are_no_fault_of_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = ScriptedServer.stop

    def stop_after_alerts(server: ScriptedServer) -> None:
        try:
            stop(server)
        except (ssl.SSLError, ConnectionError):
            if len([exc for exc in server.errors if not isinstance(exc, OSError)]):
                raise

    monkeypatch.setattr(ScriptedServer, 'stop', stop_after_alerts)


def test_context_without_host_check_is_used_as_given(tunnelled: Any, certificates: Any) -> None:
    conn, _ = tunnelled(Answers(reply(b'secret')), hostname='other.example')
    context = ssl.create_default_context()
    certificates.authority.configure_trust(context)
    context.check_hostname = False
    conn.ssl_context = context
    assert get(conn)[1] == b'secret'


@pytest.mark.parametrize(
    'hostname, port, target',
    [
        ('::1', 443, '[::1]:443'),
        ('2001:db8::7', 8443, '[2001:db8::7]:8443'),
        ('127.0.0.1', 443, '127.0.0.1:443'),
        ('host.example', 80, 'host.example:80'),
        ('host.example', None, 'host.example:443'),
        ('b\xfccher.example', 443, 'xn--bcher-kva.example:443'),
    ],
)
def test_target_of_connect(
    hostname: str, port: Any, target: str, serve: Any, certificates: Any
) -> None:
    def handler(peer: Peer) -> None:
        requests.append(peer.read_head())
        peer.send(reply(b'', '403 Forbidden'))

    requests: List[Request] = []
    proxy = serve(handler)
    conn = HTTPConnection(hostname, port, certificates.client_context, proxy.address)
    conn.timeout = LIMIT
    with conn, pytest.raises(ProxyError):
        conn.connect()
    assert requests[0].method == 'CONNECT'
    assert requests[0].target == target
    assert requests[0].field('Host') == target


def test_ipv6_literal_through_a_tunnel(tunnelled: Any) -> None:
    handler = Answers(reply(b'six'))
    conn, tunnel = tunnelled(handler, hostname='::1')
    assert get(conn)[1] == b'six'
    assert tunnel.requests[0].target == f'[::1]:{conn.port}'
    assert handler.request.field('Host') == f'[::1]:{conn.port}'


def test_certificate_of_a_tunnelled_server(tunnelled: Any) -> None:
    conn, tunnel = tunnelled(Answers(reply(b'x')))
    assert ('DNS', 'localhost') in conn.get_ssl_peercert()['subjectAltName']
    assert conn.get_ssl_cipher()
    assert get(conn)[1] == b'x'
    assert len(tunnel.requests) == 1


# -- refused CONNECT ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    'status, reason, temporary',
    [
        (407, 'Proxy Authentication Required', False),
        (403, 'Forbidden', False),
        (404, '', False),
        (301, 'Moved Permanently', False),
        (408, 'Request Timeout', True),
        (429, 'Too Many Requests', True),
        (502, 'Bad Gateway', True),
        (504, 'Gateway Timeout', True),
    ],
)
@pytest.mark.parametrize(
    'rest',
    [
        ('Content-Length: 5', b'sorry'),
        ('Transfer-Encoding: chunked', b'5\r\nsorry\r\n0\r\n\r\n'),
        ('Connection: close', b'sorry'),
        ('X-Nothing: 1', b''),
    ],
    ids=['length', 'chunked', 'close', 'nothing'],
)
def test_refused_connect_is_a_proxy_error(
    status: int, reason: str, temporary: bool, rest: Any, serve: Any, certificates: Any
) -> None:
    def refuse(peer: Peer) -> None:
        peer.read_head()
        peer.send(head(f'{status} {reason}', rest[0]) + rest[1])

    proxy = serve(refuse)
    conn = HTTPConnection('host.example', 443, certificates.client_context, proxy.address)
    conn.timeout = LIMIT
    with conn:
        with pytest.raises(ProxyError) as info:
            conn.send_request('GET', '/')
        assert (info.value.status, info.value.reason) == (status, reason)
        assert isinstance(info.value, ConnectionError)
        assert is_temp_network_error(info.value) is temporary
        assert conn._sock is None
        assert not conn.response_pending()


def test_after_a_refused_connect_the_object_is_usable(tunnelled: Any) -> None:
    conn, tunnel = tunnelled(Answers(reply(b'secret')))
    good, tunnel.answer = tunnel.answer, head('503 Busy', 'Content-Length: 0')
    for _ in range(2):
        with pytest.raises(ProxyError):
            conn.send_request('GET', '/')
        assert conn._sock is None
    tunnel.answer = good
    assert get(conn)[1] == b'secret'


@pytest.mark.parametrize('raw', [b'', b'HTTP/1.1 20', b'HTTP/1.1 200 OK\r\n', ESTABLISHED[:-1]])
def test_proxy_that_closes_before_it_has_answered(
    raw: bytes, serve: Any, certificates: Any
) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(raw)

    proxy = serve(handler)
    conn = HTTPConnection('host.example', 443, certificates.client_context, proxy.address)
    conn.timeout = LIMIT
    with conn, pytest.raises(ConnectionClosed):
        conn.connect()
    assert conn._sock is None


def test_proxy_that_closes_after_it_has_answered(serve: Any, certificates: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(ESTABLISHED)
        peer.sock.recv(10_000)

    proxy = serve(handler)
    conn = HTTPConnection('host.example', 443, certificates.client_context, proxy.address)
    conn.timeout = LIMIT
    with conn, pytest.raises(ConnectionClosed):
        conn.connect()


@pytest.mark.parametrize(
    'raw',
    [b'HTTP/2.0 200 OK\r\n\r\n', b'SSH-2.0-x\r\n', b'HTTP/1.1 xyz\r\n\r\n', b'\x15\x03\x01\r\n'],
)
def test_proxy_that_speaks_no_http(raw: bytes, serve: Any, certificates: Any) -> None:
    proxy = serve(Answers(raw))
    conn = HTTPConnection('host.example', 443, certificates.client_context, proxy.address)
    conn.timeout = LIMIT
    with conn, pytest.raises((InvalidResponse, UnsupportedResponse), match='^proxy'):
        conn.connect()
    assert conn._sock is None


def test_proxy_that_stalls(serve: Any, certificates: Any) -> None:
    proxy = serve(Answers(b'HTTP/1.1 '))
    conn = HTTPConnection('host.example', 443, certificates.client_context, proxy.address)
    conn.timeout = 0.05
    with conn, pytest.raises(ConnectionTimedOut):
        conn.connect()
    assert conn._sock is None


def test_octets_behind_the_answer_of_the_proxy_are_not_taken_for_the_servers(
    tunnelled: Any,
) -> None:
    # Anybody between client and proxy could have put them there.
    conn, _ = tunnelled(Answers(reply(b'secret')), answer=ESTABLISHED + reply(b'forged'))
    try:
        _, body = get(conn)
    except (ConnectionClosed, InvalidResponse, UnsupportedResponse, ProxyError, ssl.SSLError):
        assert not conn.response_pending()
    else:
        assert body == b'secret'


# -- contexts by duck typing --------------------------------------------------------------------


def test_duck_typed_context(connect: Any, serve: Any) -> None:
    context = DuckContext()
    handler = Answers(reply(b'one'), chunked_reply(b'two'))
    conn = connect(serve(handler), ssl_context=context)
    assert get(conn)[1] == b'one'
    conn.send_request('PUT', '/', body=b'data' * 10_000)
    conn.read_response()
    assert conn.readall() == b'two'
    assert context.names == ['127.0.0.1']
    assert handler.requests[1].body == b'data' * 10_000


def test_duck_typed_context_through_connect(serve: Any) -> None:
    context = DuckContext()
    handler = Answers(reply(b'one'), reply(b'two'))
    server = serve(handler)
    tunnel = Tunnel(server.address)
    proxy = serve(tunnel)
    with HTTPConnection('host.example', 8443, context, proxy.address) as conn:
        conn.timeout = LIMIT
        assert get(conn, '/path')[1] == b'one'
        assert get(conn)[1] == b'two'
    assert context.names == ['host.example']
    assert tunnel.requests[0].target == 'host.example:8443'
    assert handler.requests[0].target == '/path'


class HandingOn:
    """An `ssl_context` by duck typing that leaves the work to a real one."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context

    def wrap_socket(self, sock: socket.socket, server_hostname: Optional[str]) -> socket.socket:
        return self.context.wrap_socket(sock, server_hostname=server_hostname)


def test_duck_typed_context_that_hands_on_to_a_real_one(
    connect: Any, serve: Any, certificates: Certificates
) -> None:
    def cut(peer: Peer) -> None:
        peer.read_request()
        peer.send(head('200 OK', 'Connection: close') + b'a part')

    server = serve([Answers(reply(b'one'), reply(b'two')), cut], tls=True)
    conn = connect(server, ssl_context=HandingOn(certificates.client_context))
    for body in (b'one', b'two'):
        assert get(conn)[1] == body
    assert conn.get_ssl_cipher()
    # It does not wait inside of TLS, and tells an end without close_notify.
    conn.timeout = 0
    with pytest.raises(ConnectionTimedOut):
        get(conn)
    conn.reset()
    conn.timeout = LIMIT
    conn.strict_eof = True
    with pytest.raises(ConnectionClosed, match='close_notify'):
        get(conn)


@pytest.mark.parametrize('timeout', [0, 0.05])
def test_duck_typed_context_that_hands_on_to_a_real_one_has_a_time_limit(
    timeout: float, serve: Any, certificates: Certificates
) -> None:
    address = serve(lambda peer: peer.read_to_eof()).address
    conn = HTTPConnection(*address, ssl_context=HandingOn(certificates.client_context))
    conn.timeout = timeout
    with pytest.raises(ConnectionTimedOut):
        # The limit of the handshake is always that of the connection.
        eval_coroutine(conn.co_connect(), LIMIT)
    assert conn._sock is None


def test_disconnect_ends_the_handshake_of_a_duck_typed_context(
    connect: Any, serve: Any, certificates: Certificates
) -> None:
    begun = threading.Event()

    def handler(peer: Peer) -> None:
        # The first flight of the handshake.
        peer._receive()
        begun.set()
        peer.read_to_eof()

    conn = connect(serve(handler), ssl_context=HandingOn(certificates.client_context))
    conn.timeout = None
    thread = Thread(conn.connect)
    assert begun.wait(LIMIT)
    conn.disconnect()
    with pytest.raises(ConnectionClosed):
        thread.finish()


@pytest.mark.parametrize('size', [100, 20_000])
def test_request_of_which_nothing_was_sent_through_the_tunnel_is_not_outstanding(
    size: int, serve: Any
) -> None:
    go = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(ESTABLISHED)
        assert go.wait(LIMIT)
        peer.reset()

    class Context:
        """The connection is reset as soon as TLS is there."""

        def wrap_socket(
            self, sock: socket.socket, server_hostname: Optional[str]
        ) -> socket.socket:
            go.set()
            wait_for_events(sock, 0)
            return sock

    conn = HTTPConnection(
        'localhost',
        443,
        Context(),
        proxy=serve(handler).address,
        # More to send for the tunnel than for the request.
        proxy_headers={'X-Long': 1000 * 'x'},
    )
    with conn:
        with pytest.raises(ConnectionClosed):
            conn.send_request('PUT', '/', body=bytes(size))
        assert not conn.response_pending()


def test_duck_typed_context_with_everything_else(connect: Any, serve: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(head('100 Continue'))
        peer.read_exactly(1 << 20)
        peer.send(head('200 OK', 'Connection: close') + b'until the end')

    conn = connect(serve(handler), ssl_context=DuckContext())
    conn.send_request('PUT', '/', body=BodyFollowing(1 << 20), expect100=True)
    assert conn.read_response().status == 100
    for _ in range(16):
        conn.write(bytes(1 << 16))
    assert conn.read_response().status == 200
    assert io.TextIOWrapper(conn, encoding='ascii').read() == 'until the end'


def test_duck_typed_context_and_a_cut_body(connect: Any, serve: Any) -> None:
    server = serve([Answers(reply(b'body')[:-1], close=True), Answers(reply(b'anew'))])
    conn = connect(server, ssl_context=DuckContext())
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(ConnectionClosed):
        conn.readall()
    conn.reset()
    assert get(conn)[1] == b'anew'


def test_duck_typed_context_with_a_file_as_body(connect: Any, serve: Any, tmp_path: Any) -> None:
    # Whatever the wrapped socket does with the data, a file must not go round it.
    path = tmp_path / 'file'
    path.write_bytes(b'from a file' * 1000)
    handler = Answers(reply(b'x'))
    conn = connect(serve(handler), ssl_context=DuckContext())
    with open(path, 'rb') as stream:
        conn.send_request('PUT', '/', body=stream)
    conn.read_response()
    assert handler.request.body == b'from a file' * 1000
