"""Pipelining, and which call is allowed when."""

import asyncio
import errno
import socket
from typing import Any, Dict

from compat_base import (
    CHUNKED_HELLO,
    EMPTY,
    HELLO,
    OK,
    answers,
    attempt,
    connect,
    fetch,
    first_error,
    get,
    put,
    response,
    scenario,
    wait_for_end,
    wait_for_input,
)

# Pipelining


def _serve_path_as_body(peer: Any) -> None:
    while True:
        request = peer.read_request()
        peer.send(response(request.target.encode()))


@scenario(_serve_path_as_body)
def pipelined_requests(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for number in range(50):
        conn.send_request('GET', f'/{number}')
    result = []
    while conn.response_pending():
        answer = conn.read_response()
        result.append([answer.path, answer.status, conn.readall()])
    return result


@scenario(_serve_path_as_body)
def sending_while_reading(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/first')
    conn.read_response()
    result = [conn.read(2)]
    conn.send_request('GET', '/second')
    result += [conn.read(2), attempt(conn.read_response), conn.readall()]
    result += [conn.read_response().path, conn.readall(), conn.response_pending()]
    return result


@scenario(answers(OK + b'Content-Length: 5\r\n\r\n', HELLO, EMPTY))
def pipelined_methods(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('HEAD', '/1')
    conn.send_request('POST', '/2', body=b'abc')
    put(conn, dugong.BodyFollowing(3))
    early = conn.read_response()
    conn.write(b'xyz')
    return [early, conn.read_response(), conn.readall(), conn.read_response()]


@scenario(answers(HELLO, CHUNKED_HELLO, HELLO))
def unread_body_blocks_the_next_response(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for _ in range(3):
        conn.send_request('GET', '/')
    result = [conn.read_response().status, attempt(conn.read_response), conn.discard()]
    result += [conn.read_response().status, conn.read(2), attempt(conn.read_response)]
    return [*result, conn.readall(), conn.read_response().status]


@scenario(_serve_path_as_body)
def pipelined_coroutines(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    paths = [f'/{number}' for number in range(20)]

    def send() -> Any:
        for path in paths:
            yield from conn.co_send_request('GET', path)

    def receive() -> Any:
        result = []
        for _ in paths:
            yield from conn.co_read_response()
            body = yield from conn.co_readall()
            result.append(body)
        return result

    loop = asyncio.new_event_loop()
    try:
        # The way of 3.8.2: the loop is named, there is no `async def` and no running loop.
        sender = dugong.AioFuture(send(), loop=loop)
        loop.run_until_complete(sender)
        receiver = dugong.AioFuture(receive(), loop=loop)
        return [sender.result(), loop.run_until_complete(receiver)]
    finally:
        loop.close()


# States


def _state(conn: Any) -> Dict[str, Any]:
    """What every call that needs something outstanding says."""
    return {
        'read_response': attempt(conn.read_response),
        'read': attempt(conn.read, 3),
        'read all': attempt(conn.read),
        'readall': attempt(conn.readall),
        'readinto': attempt(conn.readinto, bytearray(3)),
        'discard': attempt(conn.discard),
        'write': attempt(conn.write, b'x'),
        'pending': conn.response_pending(),
    }


@scenario(answers(HELLO))
def nothing_outstanding(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = {'new': _state(conn)}
    conn.connect()
    result['connected'] = _state(conn)
    result['answer'] = fetch(conn)
    result['after an answer'] = _state(conn)
    conn.disconnect()
    result['disconnected'] = _state(conn)
    return result


@scenario(_serve_path_as_body)
def disconnect_with_an_answer_outstanding(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/lost')
    conn.disconnect()
    return {**_state(conn), 'afresh': fetch(conn, '/next')}


@scenario(_serve_path_as_body)
def disconnect_within_a_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn, '/lost')
    conn.read(2)
    conn.disconnect()
    return {key: value for key, value in _state(conn).items() if key != 'write'}


@scenario(_serve_path_as_body)
def request_after_disconnect_within_a_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    get(conn, '/lost')
    conn.read(2)
    conn.disconnect()
    return attempt(fetch, conn, '/next')


@scenario(_serve_path_as_body)
def disconnect_within_an_upload(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    conn.write(b'he')
    conn.disconnect()
    return [attempt(conn.write, b'llo'), attempt(conn.read_response)]


@scenario(_serve_path_as_body)
def disconnect_and_reset_repeated(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [conn.disconnect(), conn.disconnect(), conn.reset(), fetch(conn, '/a')]
    result += [conn.reset(), conn.reset(), conn._sock is None, fetch(conn, '/b')]
    return [*result, conn.connect(), fetch(conn, '/c')]


@scenario(_serve_path_as_body)
def context_manager(dugong: Any, port: int) -> Any:
    with connect(dugong, port) as conn:
        result = [fetch(conn, '/a'), conn._sock is not None]
    return [*result, conn._sock is None, fetch(conn, '/b')]


@scenario(answers(response(b'hello', 'Connection: close'), then='shut'))
def announced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [get(conn), conn.response_pending(), conn.readall(), conn.response_pending()]
    result += [attempt(conn.send_request, 'GET', '/2'), conn.response_pending()]
    result += [attempt(conn.read_response), attempt(conn.read_response)]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(answers(response(b'hello', 'Connection: close')))
def request_after_an_announced_close(dugong: Any, port: int) -> Any:
    """The server has not closed yet: does the request go out?"""
    conn = connect(dugong, port)
    return [fetch(conn), attempt(conn.send_request, 'GET', '/2'), conn.response_pending()]


@scenario(answers(response(b'hello', 'Connection: close')))
def upload_after_an_announced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn), attempt(put, conn, dugong.BodyFollowing(5))]
    return [*result, attempt(conn.write, b'hello')]


@scenario(answers(HELLO, response(b'last', 'Connection: close'), then='shut'))
def close_in_the_middle_of_a_pipeline(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    for path in '/1', '/2', '/3':
        conn.send_request('GET', path)
    result = [[conn.read_response().path, conn.readall()] for _ in range(2)]
    return [*result, conn.response_pending(), attempt(conn.read_response)]


@scenario(answers(HELLO, then='shut'))
def unannounced_close(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn)]
    wait_for_end(conn)
    result.append(first_error(lambda: conn.send_request('GET', '/2'), conn.read_response))
    conn.disconnect()
    return [*result, conn.response_pending(), fetch(conn, '/3')]


@scenario(answers(HELLO, then='shut'))
def unannounced_close_before_an_upload(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [fetch(conn)]
    wait_for_end(conn)
    error = first_error(
        lambda: put(conn, dugong.BodyFollowing(5)),
        lambda: conn.write(b'hello'),
        conn.read_response,
    )
    return [*result, error]


def _answer_and_close(peer: Any) -> None:
    peer.read_head()
    peer.send(response(b'no', 'Connection: close', status='413 Too Large'))
    peer.half_close()
    # Octets that are there and not read make the system send a reset.
    peer.sock.peek()
    peer.close()


@scenario(_answer_and_close)
def upload_cut_short_by_an_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(50_000_000))
    wait_for_input(conn)
    error = first_error(*[lambda: conn.write(b'x' * 10_000)] * 5000)
    result = [error, bool(conn._out_remaining), attempt(conn.read_response), attempt(conn.readall)]
    return [*result, attempt(conn.write, b'x')]


def _half_upload(peer: Any) -> None:
    peer.read_head()
    peer.read_exactly(5)
    peer.half_close()
    peer.read_to_eof()


@scenario(_half_upload)
def upload_without_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    conn.write(b'hello')
    return [attempt(conn.read_response), attempt(conn.read_response)]


@scenario(lambda peer: (peer.read_request(), peer.reset()))
def reset_instead_of_an_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    return [attempt(conn.read_response), attempt(conn.read_response)]


@scenario(answers(HELLO + b'HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad', HELLO))
def octets_beyond_the_last_response(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = fetch(conn)
    return [result, attempt(fetch, conn)]


@scenario()
def connection_refused(dugong: Any, port: int) -> Any:
    with socket.socket() as unused:
        unused.bind(('127.0.0.1', 0))
        conn = connect(dugong, unused.getsockname()[1])
        errors = [attempt(conn.connect), attempt(conn.send_request, 'GET', '/')]
        errors.append(attempt(dugong.create_socket, ('127.0.0.1', conn.port)))
    numbers = [error.errno == errno.ECONNREFUSED for error in errors]
    return [errors, numbers, conn.response_pending(), conn._sock is None, attempt(conn.read, 1)]


@scenario(answers(HELLO))
def send_state_in_out_remaining(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = [bool(conn._out_remaining)]
    put(conn, dugong.BodyFollowing(5))
    result.append(bool(conn._out_remaining))
    conn.write(b'hell')
    result.append(bool(conn._out_remaining))
    conn.write(b'o')
    result.append(bool(conn._out_remaining))
    conn.read_response()
    return [*result, bool(conn._out_remaining)]
