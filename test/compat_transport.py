"""TLS, proxies, name resolution."""

import errno
import socket
import ssl
from typing import Any, Dict, List, Tuple
from unittest import mock

from compat_base import (
    CHUNKED_HELLO,
    CONTINUE,
    HELLO,
    OK,
    UNTIL_CLOSE,
    Script,
    answers,
    attempt,
    connect,
    fetch,
    first_error,
    get,
    make,
    put,
    response,
    scenario,
    secured,
    trusting_context,
    wait_for_input,
)

# TLS


@scenario(answers(HELLO, CHUNKED_HELLO), tls=True)
def tls_requests(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    result = [fetch(conn), fetch(conn)]
    cipher, certificate = conn.get_ssl_cipher(), conn.get_ssl_peercert()
    return [*result, len(cipher), sorted(certificate), conn._sock is not None]


@scenario(answers(HELLO), tls=True)
def tls_details_connect(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [sorted(conn.get_ssl_peercert()), conn._sock is not None, fetch(conn)]


@scenario(answers(HELLO), tls=True)
def tls_certificate_as_der(dugong: Any, port: int) -> Any:
    return type(secured(dugong, port).get_ssl_peercert(True))


@scenario(answers(HELLO))
def tls_details_without_tls(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [conn.get_ssl_cipher(), conn.get_ssl_peercert()]
    return [*result, fetch(conn), conn.get_ssl_cipher(), conn.get_ssl_peercert()]


@scenario(tls=True)
def tls_untrusted_certificate(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port, ssl_context=ssl.create_default_context())
    error = attempt(conn.connect)
    return [error, isinstance(error, ssl.SSLError), conn._sock is None, conn.response_pending()]


@scenario(answers(HELLO))
def tls_with_a_context_of_another_class(dugong: Any, port: int) -> Any:
    class Context:
        def wrap_socket(self, sock: Any, **options: Any) -> Any:
            calls.append(options)
            return sock

    calls: List[Dict[str, Any]] = []
    conn = connect(dugong, port, ssl_context=Context())
    return [conn.port == port, fetch(conn), calls]


@scenario(answers(response(b'hello' * 10_000)), tls=True)
def tls_large_body(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    put(conn, b'x' * 300_000)
    return [conn.read_response(), conn.readall()]


def _serve_numbers(peer: Any) -> None:
    for _ in range(10):
        peer.send(response(peer.read_request().target.encode()))
    peer.read_to_eof()


@scenario(_serve_numbers, tls=True)
def tls_pipelining(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    for number in range(10):
        conn.send_request('GET', f'/{number}')
    result = []
    while conn.response_pending():
        result.append([conn.read_response().path, conn.readall()])
    return result


@scenario(
    lambda peer: (
        peer.read_head(),
        peer.send(CONTINUE),
        peer.read_exactly(100_000),
        peer.send(HELLO),
        peer.read_to_eof(),
    ),
    tls=True,
)
def tls_upload_after_100(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    put(conn, dugong.BodyFollowing(100_000), expect100=True)
    result = [conn.read_response()]
    for _ in range(10):
        conn.write(b'0123456789' * 1000)
    return [*result, conn.read_response(), conn.readall()]


@scenario(tls=True)
def tls_timeout(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    conn.send_request('GET', '/')
    conn.timeout = 0.03
    return [attempt(conn.read_response), conn.response_pending()]


@scenario(lambda peer: (peer.read_request(), peer.send(HELLO), peer.close()), tls=True)
def tls_unannounced_close(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    result = [get(conn), conn.readall()]
    wait_for_input(conn)
    return [*result, first_error(lambda: conn.send_request('GET', '/'), conn.read_response)]


def _end_tls(announced: bool, *responses: bytes) -> Script:
    def script(peer: Any) -> None:
        for item in responses:
            peer.read_request()
            peer.send(item)
        if announced:
            # Ends once the client closes, too.
            peer.sock.unwrap()
        peer.close()

    return script


@scenario(_end_tls(True, UNTIL_CLOSE), tls=True)
def tls_body_until_close(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), conn.read(2), conn.readall()]


@scenario(_end_tls(False, UNTIL_CLOSE), tls=True)
def tls_body_until_unannounced_close(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


@scenario(_end_tls(False, OK + b'Content-Length: 10\r\n\r\nhello'), tls=True)
def tls_truncated_body(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


@scenario(_end_tls(True, OK + b'Content-Length: 10\r\n\r\nhello'), tls=True)
def tls_body_ended_early(dugong: Any, port: int) -> Any:
    conn = secured(dugong, port)
    return [get(conn), attempt(conn.readall)]


# Proxies


def through_proxy(dugong: Any, port: int, *target: Any, **options: Any) -> Any:
    conn = make(dugong, *target, proxy=('127.0.0.1', port), **options)
    return conn


@scenario(answers(HELLO, HELLO))
def proxy(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'example.org')
    result = [get(conn, '/a?b=c'), conn.readall()]
    put(conn, b'hello')
    return [*result, conn.read_response(), conn.readall()]


@scenario(answers(HELLO))
def proxy_other_port(dugong: Any, port: int) -> Any:
    return get(through_proxy(dugong, port, 'example.org', 8080))


@scenario(answers(HELLO))
def proxy_to_ipv6(dugong: Any, port: int) -> Any:
    return get(through_proxy(dugong, port, '::1', 8080))


def _tunnel(peer: Any) -> None:
    peer.read_until(b'\r\n\r\n')
    peer.send(b'HTTP/1.1 200 Connection established\r\nX-Proxy: y\r\n\r\n')
    peer.start_tls()
    peer.read_request()
    peer.send(HELLO)
    peer.read_to_eof()


@scenario(_tunnel)
def proxy_tunnel(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', 4433, ssl_context=trusting_context())
    return [get(conn, '/a'), conn.readall(), sorted(conn.get_ssl_peercert())]


def _refuse_tunnel(answer: bytes) -> Script:
    def script(peer: Any) -> None:
        peer.read_until(b'\r\n\r\n')
        peer.send(answer)
        peer.read_to_eof()

    return script


@scenario(_refuse_tunnel(b'HTTP/1.1 407 Proxy Authentication Required\r\n\r\n'))
def proxy_refuses_tunnel(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', ssl_context=trusting_context())
    error = attempt(conn.send_request, 'GET', '/')
    return {
        'error': error,
        'builtin': isinstance(error, ConnectionError),
        'state': [conn._sock is None, conn.response_pending(), conn.port],
    }


@scenario(_refuse_tunnel(b'nonsense\r\n\r\n'))
def proxy_talks_nonsense(dugong: Any, port: int) -> Any:
    conn = through_proxy(dugong, port, 'localhost', ssl_context=trusting_context())
    return attempt(conn.connect)


# Names and addresses


def _resolver(dugong: Any, number: int, working: Tuple[str, ...]) -> Any:
    """Patch name resolution: only *working* names resolve, others fail with *number*."""

    def lookup(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        if host in working:
            address = ('127.0.0.1', port)
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', address)]
        raise socket.gaierror(number, 'made up')

    asked: List[str] = []
    conn = make(dugong, 'wanted.invalid', 80)
    with mock.patch.object(socket, 'getaddrinfo', lookup), mock.patch.object(
        dugong, 'DNS_TEST_HOSTNAMES', (('one.invalid', 80), ('two.invalid', 80))
    ):
        errors = [
            attempt(conn.connect),
            attempt(conn.send_request, 'GET', '/'),
            attempt(dugong.create_socket, ('wanted.invalid', 80)),
        ]
    return {
        'errors': errors,
        'names': [getattr(error, 'name', None) for error in errors],
        'asked': asked[: len(asked) // 3],
        'idle': [conn._sock is None, conn.response_pending()],
    }


@scenario()
def unknown_host(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NONAME, ('one.invalid',))


@scenario()
def unknown_host_of_second_test_name(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NODATA, ('two.invalid',))


@scenario()
def no_name_service(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_NONAME, ())


@scenario()
def name_service_that_asks_to_try_again(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_AGAIN, ('one.invalid',))


@scenario()
def other_resolver_failure(dugong: Any, port: int) -> Any:
    return _resolver(dugong, socket.EAI_FAIL, ('one.invalid',))


@scenario(answers(HELLO))
def patched_name_resolution(dugong: Any, port: int) -> Any:
    def lookup(host: str, port: int, *_: Any, **__: Any) -> Any:
        asked.append(host)
        address = ('127.0.0.1', port)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', address)]

    asked: List[str] = []
    conn = make(dugong, 'some.invalid', port)
    with mock.patch.object(socket, 'getaddrinfo', lookup):
        return [fetch(conn), asked]


@scenario(answers(HELLO))
def several_addresses(dugong: Any, port: int) -> Any:
    """The first address of a name refuses, the second one works; then both refuse."""

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '')
        return [(*kind, ('127.0.0.1', number)) for number in ports]

    with socket.socket() as unused, mock.patch.object(socket, 'getaddrinfo', lookup):
        unused.bind(('127.0.0.1', 0))
        refusing = unused.getsockname()[1]
        ports = [refusing, port]
        result = [fetch(make(dugong, 'some.invalid', port))]
        ports = [refusing, refusing]
        error = attempt(make(dugong, 'some.invalid', port).connect)
        return [*result, error, error.errno == errno.ECONNREFUSED]


@scenario(answers(HELLO))
def patched_create_socket(dugong: Any, port: int) -> Any:
    def create(address: Any) -> Any:
        asked.append(address[0])
        return original(('127.0.0.1', port))

    asked: List[str] = []
    original = dugong.create_socket
    conn = make(dugong, 'some.invalid', port)
    with mock.patch.object(dugong, 'create_socket', create):
        return [fetch(conn), asked]


@scenario(answers(HELLO))
def created_socket(dugong: Any, port: int) -> Any:
    with dugong.create_socket(('127.0.0.1', port)) as sock:
        return [type(sock), sock.getpeername()[1] == port]
