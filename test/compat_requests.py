"""What goes out: requests, their fields and bodies, uploads."""

import array
import io
from typing import Any

from compat_base import (
    CONTINUE,
    EMPTY,
    HELLO,
    WAIT,
    Script,
    answers,
    attempt,
    attempt_within,
    connect,
    fetch,
    get,
    put,
    response,
    scenario,
)


@scenario(answers(EMPTY))
def get_request(dugong: Any, port: int) -> Any:
    return get(connect(dugong, port), '/a?b=c')


@scenario(answers(EMPTY, EMPTY, EMPTY, EMPTY))
def other_methods(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return [get(conn, '*', method) for method in ('OPTIONS', 'DELETE', 'HEAD', 'X-ODD!')]


@scenario(answers(EMPTY))
def header_spelling(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    headers = {'x-lower': '1', 'X-UPPER': '2', 'X-MiXeD': ' 3 '}
    conn.send_request('GET', '/', headers=headers)
    return [conn.read_response(), headers]


@scenario(answers(EMPTY))
def header_values_of_other_types(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    values = {'Int': 5, 'Float': 1.5, 'None': None, 'Bool': True, 'Bytes': b'x', 'List': [1]}
    conn.send_request('GET', '/', headers=values)
    return conn.read_response()


@scenario(answers(EMPTY))
def header_values_in_latin1(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/caf\xe9', headers={'X': 'caf\xe9'})
    return conn.read_response()


@scenario(answers(EMPTY))
def outside_latin1(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return {
        'header': isinstance(
            attempt(conn.send_request, 'GET', '/', headers={'X': '\u20ac'}), ValueError
        ),
        'path': isinstance(attempt(conn.send_request, 'GET', '/\u20ac'), ValueError),
        'pending': conn.response_pending(),
        'next': get(conn),
    }


@scenario(answers(EMPTY))
def fields_the_library_sets(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    headers = {'host': 'other', 'CONTENT-length': '77', 'accept-encoding': 'gzip'}
    conn.send_request('GET', '/', headers=headers)
    return conn.read_response()


@scenario(answers(EMPTY))
def fields_the_caller_may_set(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, b'hello', headers={'connection': 'close', 'content-MD5': 'mine'})
    return conn.read_response()


@scenario(lambda peer: (peer.read_head(), peer.send(EMPTY), peer.read_to_eof()))
def transfer_encoding_of_the_caller(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers={'Transfer-Encoding': 'chunked'})
    return conn.read_response()


@scenario(answers(EMPTY))
def expect_of_the_caller(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers={'Expect': 'wonder'})
    return conn.read_response()


@scenario(answers(EMPTY, EMPTY))
def headers_of_the_caller_afterwards(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    plain = {'X': '1', 'Host': 'h'}
    ignoring_case = dugong.CaseInsensitiveDict({'X': '1'})
    for headers in (plain, ignoring_case):
        conn.send_request('GET', '/', headers=headers)
        conn.read_response()
    return {'dict': plain, 'CaseInsensitiveDict': sorted(ignoring_case)}


@scenario(answers(EMPTY))
def headers_as_pairs(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers=[('A', '1'), ('B', '2')])
    return conn.read_response()


@scenario(lambda peer: (peer.read_until(b'\r\n\r\n'), peer.send(EMPTY), peer.read_to_eof()))
def path_with_a_space(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    error = attempt(conn.send_request, 'GET', '/a b')
    if not isinstance(error, Exception):
        return conn.read_response().status
    return error


@scenario(answers(EMPTY, EMPTY, EMPTY, EMPTY, EMPTY))
def bytes_like_bodies(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = (b'hello', bytearray(b'hello'), memoryview(b'xhellox')[1:6], b'', bytes(range(256)))
    result = []
    for body in bodies:
        put(conn, body)
        result.append(conn.read_response())
    return result


@scenario(answers(EMPTY, EMPTY))
def large_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result = []
    for size in (100_000, 3_000_000):
        put(conn, b'0123456789' * (size // 10))
        result.append(conn.read_response())
    return result


@scenario(answers(EMPTY))
def bodies_of_wrong_types(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = {'str': 'hello', 'int': 5, 'dict': {'a': 1}, 'text': io.StringIO('hello')}
    result = {name: attempt(put, conn, body) for name, body in bodies.items()}
    return {**result, 'pending': conn.response_pending(), 'next': get(conn)}


@scenario(answers(EMPTY))
def stream_as_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    error = attempt(put, conn, io.BytesIO(b'hello'))
    return error or conn.read_response().status


@scenario(answers(HELLO, HELLO))
def body_following(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(11))
    result = [conn.write(piece) for piece in (b'hello', bytearray(b' '), memoryview(b'world'))]
    result += [conn.read_response(), conn.readall(), fetch(conn)]
    return result


@scenario(answers(HELLO))
def body_following_in_coroutines(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)

    def upload() -> Any:
        yield from conn.co_send_request('PUT', '/', body=dugong.BodyFollowing(10))
        for _ in range(2):
            yield from conn.co_write(b'hello')
        result = yield from conn.co_read_response()
        body = yield from conn.co_readall()
        return [result, body]

    return dugong.eval_coroutine(upload(), WAIT)


@scenario(answers(EMPTY, EMPTY))
def body_following_of_length_0(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(0))
    return attempt(conn.read_response)


@scenario(lambda peer: (peer.read_head(), peer.read_to_eof()))
def body_following_without_length(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return attempt(put, conn, dugong.BodyFollowing())


@scenario(answers(EMPTY))
def more_than_announced(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    result = [conn.write(b'ab'), attempt(conn.write, b'wxyz'), attempt(conn.write, b'cde')]
    result += [attempt(conn.write, b'!'), conn.read_response().status]
    return result


@scenario(answers(EMPTY))
def upload_state_errors(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5))
    result = {'pending': conn.response_pending()}
    result['send'] = attempt(conn.send_request, 'GET', '/')
    result['read'] = attempt(conn.read_response)
    result['remaining'] = bool(conn._out_remaining)
    conn.write(b'hello')
    result['remaining after'] = bool(conn._out_remaining)
    result['status'] = conn.read_response().status
    return result


@scenario(answers(EMPTY))
def header_given_in_two_spellings(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/', headers=[('X-Name', '1'), ('x-name', '2')])
    return conn.read_response()


def _head_first(peer: Any) -> None:
    """Answer each connection after the head, whatever its length says."""
    peer.read_head()
    peer.send(EMPTY)
    peer.read_to_eof()


@scenario(_head_first)
def arrays_as_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    return attempt(put, conn, array.array('B', b'hello')) or conn.read_response().status


@scenario(_head_first)
def view_of_numbers_as_body(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    # The same in either byte order.
    put(conn, memoryview(array.array('H', [0x0101, 0x0202])))
    return conn.read_response()


@scenario(_head_first)
def writing_odd_things(dugong: Any, port: int) -> Any:
    things = {
        'nothing': b'',
        'text': 'text',
        'None': None,
        'array': array.array('B', b'hello'),
        'view of numbers': memoryview(array.array('H', [0x0101, 0x0202])),
    }
    result = {}
    for name, thing in things.items():
        conn = connect(dugong, port)
        put(conn, dugong.BodyFollowing(5))
        result[name] = [attempt_within(0.1, conn.write, thing), bool(conn._out_remaining)]
        conn.disconnect()
    return result


def _continue_script(peer: Any) -> None:
    request = peer.read_head()
    peer.send(CONTINUE)
    peer.read_body(request)
    peer.send(HELLO)
    peer.read_to_eof()


@scenario(_continue_script)
def expect100_accepted(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = {
        'pending': conn.response_pending(),
        'remaining': bool(conn._out_remaining),
        'early write': attempt(conn.write, b'x'),
        'early send': attempt(conn.send_request, 'GET', '/'),
        'interim': conn.read_response(),
        'between': [conn.response_pending(), bool(conn._out_remaining), conn.read(5)],
    }
    conn.write(b'hello')
    result['final'] = [conn.read_response(), conn.readall(), conn.response_pending()]
    return result


def _refuse_script(*fields: str) -> Script:
    def script(peer: Any) -> None:
        peer.read_head()
        peer.send(response(b'no', *fields, status='403 Forbidden'))
        if fields:
            peer.half_close()
        else:
            peer.read_request()
            peer.send(HELLO)
        peer.read_to_eof()

    return script


@scenario(_refuse_script())
def expect100_refused(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = {'answer': conn.read_response(), 'remaining': bool(conn._out_remaining)}
    result['write'] = attempt(conn.write, b'hello')
    result['body'] = conn.readall()
    result['next'] = fetch(conn)
    return result


@scenario(_refuse_script('Connection: close'))
def expect100_refused_and_closed(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    return [conn.read_response(), conn.readall(), attempt(conn.write, b'hello')]


@scenario(lambda peer: (peer.read_head(), peer.half_close(), peer.read_to_eof()))
def expect100_closed_without_answer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = [attempt(conn.read_response), attempt(conn.read_response)]
    conn.disconnect()
    return [*result, conn.response_pending()]


@scenario(
    lambda peer: (
        peer.read_request(),
        peer.read_head(),
        peer.send(HELLO + CONTINUE),
        peer.read_exactly(5),
        peer.send(EMPTY),
        peer.read_to_eof(),
    )
)
def expect100_behind_another_request(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/first')
    put(conn, dugong.BodyFollowing(5), expect100=True)
    result = [conn.read_response(), conn.readall(), conn.read_response()]
    conn.write(b'hello')
    return [*result, conn.read_response()]


@scenario(answers(EMPTY))
def expect100_needs_body_following(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    bodies = (None, b'', b'hello')
    return [*(attempt(put, conn, body, expect100=True) for body in bodies), get(conn)]
