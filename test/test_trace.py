"""Section 11 of the contract: trace files, and what is logged and printed."""

import gc
import logging
import os
import socket
import ssl
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from contract_support import Answers, DuckContext, chunked_reply, co, get, head, reply
from servers import LIMIT, Peer
from test_proxy import ESTABLISHED, Tunnel

import dugong
from dugong import BodyFollowing, HTTPConnection


@pytest.fixture
def traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], List[bytes]]:
    """Switches tracing on; `traces()` gives the contents of all files written so far."""
    monkeypatch.setenv('DUGONG_TRACEFILE', str(tmp_path / 'trace-%d.bin'))

    def read() -> List[bytes]:
        found = sorted(tmp_path.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for path in found:
            assert path.name.startswith('trace-') and path.name.endswith('.bin')
            int(path.name[len('trace-') : -len('.bin')])
        return [path.read_bytes() for path in found]

    return read


# -- trace files --------------------------------------------------------------------------------


def test_all_bytes_are_traced_once_and_in_order(traces: Any, transport: str, connect: Any) -> None:
    replies = [reply(b'one'), chunked_reply(b'two', trailers=['X-T: 1']), head('204 No Content')]
    handler = Answers(*replies)
    conn = connect(handler)
    expected = b''
    for raw, body in zip(replies, (None, b'some data', b'')):
        conn.send_request('PUT', '/path', {'X-One': '1'}, body)
        conn.read_response()
        conn.readall()
        request = handler.requests[-1]
        expected += request.head + request.body + raw
    conn.disconnect()
    assert traces() == [expected]


def test_plaintext_is_traced_under_tls(traces: Any, connect: Any, serve: Any) -> None:
    conn = connect(serve(Answers(reply(b'the secret')), tls=True))
    get(conn, '/path')
    conn.disconnect()
    (trace,) = traces()
    assert trace.startswith(b'GET /path HTTP/1.1\r\n')
    assert trace.endswith(b'\r\n\r\nthe secret')


def test_pipelined_requests_are_traced_in_the_order_they_were_sent(
    traces: Any, transport: str, connect: Any
) -> None:
    handler = Answers(b'', b'', reply(b'one') + reply(b'two') + reply(b'three'))
    conn = connect(handler)
    for i in range(3):
        conn.send_request('GET', f'/{i}')
    for _ in range(3):
        conn.read_response()
        conn.readall()
    conn.disconnect()
    heads = b''.join(request.head for request in handler.requests)
    assert traces() == [heads + handler.replies[-1]]


@pytest.mark.parametrize('how', ['body', 'bytearray', 'write', 'one write'])
def test_partial_sends_are_traced_once(
    how: str, traces: Any, transport: str, connect: Any
) -> None:
    # More than the buffers of the kernel hold, so that sending has to wait in between.
    body = os.urandom(1 << 10) * (1 << 13)
    handler = Answers(reply(b'done'))
    conn = connect(handler)
    if how == 'body':
        conn.send_request('PUT', '/', body=body)
    elif how == 'bytearray':
        conn.send_request('PUT', '/', body=bytearray(body))
    else:
        conn.send_request('PUT', '/', body=BodyFollowing(len(body)))
        step = len(body) if how == 'one write' else 1 << 20
        for start in range(0, len(body), step):
            conn.write(body[start : start + step])
    conn.read_response()
    conn.readall()
    conn.disconnect()
    (trace,) = traces()
    # Not compared as a whole: a difference would take minutes to show.
    assert len(trace) == len(handler.request.head) + len(body) + len(reply(b'done'))
    assert hash(trace) == hash(handler.request.head + body + reply(b'done'))


@pytest.mark.parametrize('how', ['file', 'iterable', 'chunked'])
def test_bodies_from_elsewhere_are_traced_once(
    how: str, traces: Any, transport: str, connect: Any, tmp_path_factory: Any
) -> None:
    body = os.urandom(1 << 10) * (1 << 8)
    handler = Answers(reply(b'done'))
    conn = connect(handler)
    if how == 'file':
        path = tmp_path_factory.mktemp('body') / 'file'
        path.write_bytes(body)
        with open(path, 'rb') as stream:
            conn.send_request('PUT', '/', body=stream)
    elif how == 'iterable':
        conn.send_request('PUT', '/', body=iter([body]))
    else:
        conn.send_request('PUT', '/', body=BodyFollowing())
        conn.write(body)
        conn.write_eof()
    conn.read_response()
    conn.readall()
    conn.disconnect()
    (trace,) = traces()
    sent = body if how == 'file' else b'%x\r\n' % len(body) + body + b'\r\n0\r\n\r\n'
    start = handler.request.head
    assert trace.startswith(start) and trace.endswith(reply(b'done'))
    middle = trace[len(start) : -len(reply(b'done'))]
    assert len(middle) == len(sent)
    assert hash(middle) == hash(sent)


@pytest.mark.parametrize('how', ['readall', 'readinto', 'discard', 'read'])
def test_large_answers_are_traced_once(
    how: str, traces: Any, transport: str, connect: Any
) -> None:
    raw = reply(os.urandom(1 << 10) * (1 << 11))
    handler = Answers(raw)
    conn = connect(handler)
    conn.send_request('GET', '/')
    response = conn.read_response()
    if how == 'readinto':
        view = memoryview(bytearray(response.length))
        while view:
            view = view[conn.readinto(view) :]
    elif how == 'read':
        while conn.read(100_000):
            pass
    else:
        getattr(conn, how)()
    conn.disconnect()
    (trace,) = traces()
    assert len(trace) == len(handler.request.head) + len(raw)
    assert hash(trace) == hash(handler.request.head + raw)


def test_tiny_buffers_change_nothing(traces: Any, transport: str, connect: Any) -> None:
    raw = chunked_reply(b'x' * 300, b'y' * 10, extension=';z=' + 'z' * 100)
    handler = Answers(raw)
    conn = connect(handler)
    conn._rbuf = dugong._Buffer(63)
    get(conn)
    conn.disconnect()
    assert traces() == [handler.request.head + raw]


def test_what_was_received_but_not_read_is_traced_too(
    traces: Any, transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'x' * 100))
    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.read(10)
    conn.read_raw(10)
    received = len(reply(b'x' * 100))
    conn.disconnect()
    (trace,) = traces()
    assert (handler.request.head + reply(b'x' * 100)).startswith(trace)
    assert len(trace) <= len(handler.request.head) + received


def test_100_continue_is_traced(traces: Any, transport: str, connect: Any) -> None:
    heads = []

    def handler(peer: Peer) -> None:
        heads.append(peer.read_head().head)
        peer.send(head('100 Continue'))
        peer.read_exactly(4)
        peer.send(reply())
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(4), expect100=True)
    conn.read_response()
    conn.write(b'data')
    conn.read_response()
    conn.disconnect()
    assert traces() == [heads[0] + head('100 Continue') + b'data' + reply()]


def test_each_connection_has_its_own_file(
    traces: Any, transport: str, connect: Any, serve: Any
) -> None:
    handlers = [Answers(reply(b'body %d' % i)) for i in range(4)]
    server = serve(handlers)
    conn, other = connect(server), connect(server)
    # One after the other on one object, and two at the same time.
    get(conn, '/0')
    get(other, '/1')
    conn.reset()
    get(conn, '/2')
    conn.disconnect()
    get(conn, '/3')
    conn.disconnect()
    other.disconnect()
    expected = [h.request.head + h.replies[0] for h in handlers]
    assert sorted(traces()) == sorted(expected)


def test_tunnel_is_traced_in_plaintext(traces: Any, serve: Any, certificates: Any) -> None:
    handler = Answers(reply(b'secret'))
    server = serve(handler, tls=True)
    tunnel = Tunnel(server.address)
    proxy = serve(tunnel, tls=False)
    context = certificates.client_context
    with HTTPConnection('localhost', server.port, context, proxy.address) as conn:
        conn.timeout = LIMIT
        get(conn)
    expected = tunnel.requests[0].head + ESTABLISHED + handler.request.head + reply(b'secret')
    assert traces() == [expected]


def test_duck_typed_context_is_traced(traces: Any, connect: Any, serve: Any) -> None:
    handler = Answers(reply(b'body'))
    conn = connect(serve(handler), ssl_context=DuckContext())
    get(conn)
    conn.disconnect()
    assert traces() == [handler.request.head + reply(b'body')]


def test_coroutines_are_traced(traces: Any, transport: str, connect: Any) -> None:
    handler = Answers(reply(b'body'))
    conn = connect(handler)
    co(conn.co_send_request('GET', '/'))
    co(conn.co_read_response())
    co(conn.co_readall())
    conn.disconnect()
    assert traces() == [handler.request.head + reply(b'body')]


def test_broken_connection_is_traced_as_far_as_it_went(
    traces: Any, transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'body')[:-2], close=True)
    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    with pytest.raises(dugong.ConnectionClosed):
        conn.readall()
    conn.disconnect()
    assert traces() == [handler.request.head + reply(b'body')[:-2]]


def test_variable_is_read_when_connecting(
    tmp_path: Path, connect: Any, serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('DUGONG_TRACEFILE', raising=False)
    server = serve([Answers(reply(b'x')), Answers(reply(b'one'), reply(b'two')), Answers(reply())])
    conn = connect(server)
    get(conn)
    conn.disconnect()
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv('DUGONG_TRACEFILE', str(tmp_path / '%d'))
    get(conn)
    # Too late for this connection.
    monkeypatch.delenv('DUGONG_TRACEFILE')
    get(conn)
    conn.disconnect()
    get(conn)
    conn.disconnect()
    (path,) = tmp_path.iterdir()
    trace = path.read_bytes()
    assert trace.count(b'GET / HTTP/1.1') == 2
    assert b'one' in trace and b'two' in trace


def test_no_variable_no_file(
    tmp_path: Path, connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv('DUGONG_TRACEFILE', raising=False)
    monkeypatch.chdir(tmp_path)
    get(connect(Answers(reply(b'x'))))
    assert list(tmp_path.iterdir()) == []


def test_failed_connect_leaves_no_open_file(traces: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as sock:
        sock.bind(('127.0.0.1', 0))
        conn = HTTPConnection(*sock.getsockname())
        with pytest.raises(ConnectionRefusedError):
            conn.connect()
    gc.collect()
    assert b''.join(traces()) == b''


# -- logging and printing -----------------------------------------------------------------------


def test_debug_logging_goes_to_the_logger_of_the_package(
    transport: str, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    get(connect(Answers(reply(b'body'))))
    assert caplog.records
    assert {record.name for record in caplog.records} == {'dugong'}
    assert all(record.levelno <= logging.DEBUG for record in caplog.records)


def exercise(conn: HTTPConnection) -> None:
    """A bit of everything."""
    assert get(conn)[1] == b'length'
    conn.send_request('GET', '/')
    conn.read_response()
    assert conn.read(None) == b'chunked'
    conn.send_request('PUT', '/', {'X-One': 1}, b'body')
    conn.read_response()
    assert conn.read(2) + conn.read(100) == b'length'
    conn.send_request('PUT', '/', body=BodyFollowing(3))
    conn.write(b'abc')
    conn.read_response()
    buf = bytearray(100)
    while conn.readinto(buf):
        pass
    conn.send_request('GET', '/')
    conn.read_response()
    conn.discard()


EXERCISE = [
    reply(b'length'),
    chunked_reply(b'chunk', b'ed', trailers=['X-T: 1']),
    reply(b'length'),
    chunked_reply(b'chunked'),
    head('200 OK', 'Connection: close') + b'to the end',
]


def test_everything_works_with_debug_logging(
    transport: str, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    exercise(connect(Answers(*EXERCISE, close=True)))
    # Records are formatted when they are emitted: an error in one would show.
    for record in caplog.records:
        assert record.getMessage()


def test_nothing_is_logged_without_debug_logging(
    transport: str, connect: Any, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.INFO)
    exercise(connect(Answers(*EXERCISE, close=True)))
    assert caplog.records == []
    assert capfd.readouterr() == ('', '')


@pytest.mark.parametrize('secret', ['Authorization', 'Proxy-Authorization', 'Cookie'])
def test_credentials_are_not_logged(
    secret: str, transport: str, connect: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/', {secret: 'Basic OpenSesame'})
    conn.read_response()
    conn.readall()
    assert 'OpenSesame' not in caplog.text


def failing_read(raw: bytes) -> Callable[[Any, Any], None]:
    def situation(connect: Any, serve: Any) -> None:
        conn = connect(Answers(raw, close=True))
        for _ in range(2):
            try:
                get(conn)
            except (dugong._GeneralError, OSError):
                pass
            else:
                raise AssertionError('nothing went wrong')

    return situation


def timeout(connect: Any, serve: Any) -> None:
    conn = connect(Answers(b''))
    conn.send_request('GET', '/')
    conn.timeout = 0.01
    with pytest.raises(dugong.ConnectionTimedOut):
        conn.read_response()


def refused(connect: Any, serve: Any) -> None:
    server = serve(Answers(), tls=False)
    server.stop()
    with pytest.raises(ConnectionRefusedError):
        HTTPConnection(server.host, server.port).connect()


def reset(connect: Any, serve: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.reset()

    conn = connect(handler)
    with pytest.raises(dugong.ConnectionClosed):
        get(conn)


def closed_while_writing(connect: Any, serve: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()

    conn = connect(handler)
    conn.send_request('PUT', '/', body=BodyFollowing(1 << 26))
    with pytest.raises(dugong.ConnectionClosed):
        for _ in range(1 << 10):
            conn.write(bytes(1 << 16))


def misuse(connect: Any, serve: Any) -> None:
    conn = connect(Answers(reply()))
    conn.send_request('PUT', '/', body=BodyFollowing(2))
    for wrong in (
        lambda: conn.send_request('GET', '/'),
        lambda: conn.write(b'abc'),
        lambda: co(conn.co_read_response()),
        lambda: conn.send_request('G T', '/'),
        lambda: HTTPConnection('a b'),
    ):
        with pytest.raises((dugong._GeneralError, ValueError)):
            wrong()


def dropped_coroutines(connect: Any, serve: Any) -> None:
    conn = connect(Answers(b''))
    conn.send_request('GET', '/')
    coroutine = conn.co_read_response()
    next(coroutine)
    del coroutine
    gc.collect()
    coroutine = conn.co_read_response()
    next(coroutine)
    conn.disconnect()
    with pytest.raises(dugong.ConnectionClosed):
        next(coroutine)
    del coroutine
    # Never started.
    conn.co_send_request('GET', '/')
    gc.collect()


def dropped_connection(connect: Any, serve: Any) -> None:
    server = serve(Answers(reply(b'body')), tls=False)
    conn = HTTPConnection(server.host, server.port)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.disconnect()
    del conn
    gc.collect()


def untrusted(connect: Any, serve: Any) -> None:
    server = serve(Answers(), tls=True)
    conn = connect(server, ssl_context=ssl.create_default_context())
    with pytest.raises(ssl.SSLError):
        conn.connect()
    for thread in list(server._peers):
        thread.join(LIMIT)
    server.errors.clear()


def refused_tunnel(connect: Any, serve: Any) -> None:
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(reply(b'no', '403 Forbidden'))

    proxy = serve(handler, tls=False)
    conn = HTTPConnection('host.example', 443, DuckContext(), proxy.address)
    with conn, pytest.raises(dugong.ProxyError):
        conn.connect()


SITUATIONS: Dict[str, Callable[[Any, Any], None]] = {
    'nothing comes': failing_read(b''),
    'cut head': failing_read(b'HTTP/1.1 200 OK\r\nX'),
    'cut body': failing_read(reply(b'body')[:-1]),
    'cut chunk': failing_read(chunked_reply(b'body')[:-9]),
    'wrong version': failing_read(b'HTTP/2.0 200 OK\r\n\r\n'),
    'no status': failing_read(b'HTTP/1.1 xyz\r\n\r\n'),
    'bad field': failing_read(b'HTTP/1.1 200 OK\r\nbad\r\n\r\n'),
    'bad length': failing_read(head('200 OK', 'Content-Length: x')),
    'bad coding': failing_read(head('200 OK', 'Transfer-Encoding: x')),
    'bad chunk': failing_read(head('200 OK', 'Transfer-Encoding: chunked') + b'x\r\n'),
    'no length': failing_read(head('200 OK', 'Connection: keep-alive')),
    'stray octets': failing_read(b'stray' + reply()),
    'unasked 101': failing_read(head('101 Switching Protocols')),
    'timeout': timeout,
    'refused': refused,
    'reset': reset,
    'closed while writing': closed_while_writing,
    'misuse': misuse,
    'dropped coroutines': dropped_coroutines,
    'dropped connection': dropped_connection,
    'untrusted': untrusted,
    'refused tunnel': refused_tunnel,
}


@pytest.mark.parametrize('situation', SITUATIONS)
def test_what_an_exception_reports_is_neither_logged_nor_printed(
    situation: str,
    transport: str,
    connect: Any,
    serve: Any,
    caplog: pytest.LogCaptureFixture,
    capfd: Any,
) -> None:
    caplog.set_level(logging.DEBUG)
    SITUATIONS[situation](connect, serve)
    gc.collect()
    assert [r for r in caplog.records if r.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ('', '')
