"""Constructors, exceptions, mapping, buffer, tracing and logging."""

import copy
import errno
import inspect
import logging
import os
import pickle
import socket
import ssl
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List
from unittest import mock

from compat_base import (
    CHUNKED_HELLO,
    EMPTY,
    HELLO,
    OK,
    WAIT,
    answers,
    attempt,
    connect,
    fetch,
    get,
    make,
    put,
    response,
    scenario,
    words,
)


@scenario(answers(HELLO))
def constructor(dugong: Any, port: int) -> Any:
    context = ssl.create_default_context()
    plain = dugong.HTTPConnection('host')
    full = dugong.HTTPConnection('host', 8443, context, ('proxy', 3128))
    names = dugong.HTTPConnection(hostname='h', port=1, ssl_context=None, proxy=None)
    return [
        [plain.hostname, plain.port, plain.ssl_context, plain.proxy, plain.timeout],
        [full.hostname, full.port, full.ssl_context is context, full.proxy],
        [names.hostname, names.port],
        dugong.HTTPConnection('host', ssl_context=context).port,
        attempt(dugong.HTTPConnection),
    ]


@scenario(answers(HELLO))
def settable_attributes(dugong: Any, port: int) -> Any:
    conn = make(dugong, 'wrong.invalid', 1, proxy=('wrong.invalid', 2))
    conn.hostname, conn.port, conn.proxy, conn.timeout = '127.0.0.1', port, None, WAIT
    return fetch(conn)


@scenario()
def constants(dugong: Any, port: int) -> Any:
    names = 'MAX_LINE_SIZE MAX_HEADER_SIZE BUFFER_SIZE DNS_TEST_HOSTNAMES POLLIN POLLOUT'
    return {name: getattr(dugong, name) for name in [*words(names), 'HTTP_PORT', 'HTTPS_PORT']}


#: Public names, and the private ones that suites written for 3.8.2 use.
NAMES = words(
    'HTTPConnection HTTPResponse BodyFollowing CaseInsensitiveDict PollNeeded AioFuture '
    'is_temp_network_error create_socket eval_coroutine ConnectionClosed InvalidResponse '
    'UnsupportedResponse ExcessBodyData StateError ConnectionTimedOut HostnameNotResolvable '
    'DNSUnavailable ProxyError HostnameNotResolvableOrDNSUnavailable _GeneralError _Buffer _join'
)


@scenario()
def names(dugong: Any, port: int) -> Any:
    result = {name: getattr(dugong, name, 'absent') for name in NAMES}
    return {
        name: 'function' if inspect.isfunction(value) else plain_name(value)
        for name, value in result.items()
    }


def plain_name(value: Any) -> Any:
    if not isinstance(value, type):
        return value
    return f'{value.__module__}.{value.__name__}'


@scenario()
def signatures(dugong: Any, port: int) -> Any:
    conn = dugong.HTTPConnection('host')
    calls = {
        name: getattr(conn, name)
        for name in words(
            'connect co_send_request send_request co_write write co_read_response read_response '
            'co_read read co_readinto readinto co_readall readall co_discard discard read_raw '
            'response_pending reset disconnect get_ssl_peercert get_ssl_cipher readable writable '
            'seekable'
        )
    }
    for name in words(
        'HTTPConnection HTTPResponse BodyFollowing PollNeeded AioFuture CaseInsensitiveDict '
        '_Buffer is_temp_network_error create_socket eval_coroutine _join'
    ):
        calls[name] = getattr(dugong, name)
    # What a caller of 3.8.2 can pass: parameters that came later do not matter to it.
    return {
        name: [
            f'{parameter.name}={parameter.default!r}'
            if parameter.default is not parameter.empty
            else parameter.name
            for parameter in inspect.signature(call).parameters.values()
            if parameter.name not in ADDED_PARAMETERS.get(name, ())
        ]
        for name, call in calls.items()
    }


#: Parameters that the issues add, at the end.
ADDED_PARAMETERS = {
    'AioFuture': ('timeout',),
    'HTTPConnection': ('proxy_headers',),
}


@scenario()
def http_response(dugong: Any, port: int) -> Any:
    headers = {'A': 'b'}
    short = dugong.HTTPResponse('GET', '/p', 200, 'OK', headers)
    full = dugong.HTTPResponse('GET', '/p', 404, 'No', headers, 5)
    return [short.length, full.length, full.status, full.path, full.headers is headers]


EXCEPTIONS = words(
    '_GeneralError ConnectionClosed InvalidResponse UnsupportedResponse ExcessBodyData StateError '
    'ConnectionTimedOut HostnameNotResolvable DNSUnavailable HostnameNotResolvableOrDNSUnavailable'
)


@scenario()
def exceptions_with_a_message(dugong: Any, port: int) -> Any:
    result: Dict[str, Any] = {}
    for name in EXCEPTIONS[:7]:
        error = getattr(dugong, name)('some words')
        result[name] = [str(error), repr(error), error.args]
    return result


@scenario()
def exceptions_without_message(dugong: Any, port: int) -> Any:
    return {
        name: [str(getattr(dugong, name)()) != '', repr(getattr(dugong, name)())]
        for name in EXCEPTIONS[:7]
    }


@scenario()
def exceptions_with_a_host_name(dugong: Any, port: int) -> Any:
    result = {}
    for name in EXCEPTIONS[7:]:
        error = getattr(dugong, name)('some.host')
        result[name] = [error.name, 'some.host' in str(error), error.args]
    return result


@scenario()
def exceptions_copied(dugong: Any, port: int) -> Any:
    result = {}
    for name in EXCEPTIONS:
        error = getattr(dugong, name)('some words')
        copied = [copy.copy(error), pickle.loads(pickle.dumps(error))]
        result[name] = [[type(each) is type(error), str(each) == str(error)] for each in copied]
    return result


@scenario()
def exception_families(dugong: Any, port: int) -> Any:
    bases = {
        'Exception': Exception,
        'OSError': OSError,
        '_GeneralError': dugong._GeneralError,
        'common DNS error': dugong.HostnameNotResolvableOrDNSUnavailable,
    }
    return {
        name: [key for key, base in bases.items() if issubclass(getattr(dugong, name), base)]
        for name in EXCEPTIONS
    }


@scenario()
def temporary_errors(dugong: Any, port: int) -> Any:
    errors = [
        socket.timeout(),
        ConnectionError(),
        BrokenPipeError(),
        ConnectionResetError(),
        ConnectionAbortedError(),
        ConnectionRefusedError(),
        TimeoutError(),
        InterruptedError(),
        BlockingIOError(),
        FileNotFoundError(),
        PermissionError(),
        EOFError(),
        OSError(),
        OSError('words'),
        OSError('words', 'more words'),
        ValueError(),
        Exception(),
        KeyboardInterrupt(),
        socket.gaierror(socket.EAI_NONAME, 'x'),
        socket.gaierror(socket.EAI_AGAIN, 'x'),
        socket.gaierror(errno.EPIPE, 'x'),
        socket.herror(),
        ssl.SSLError(),
        ssl.SSLZeroReturnError(),
        ssl.SSLEOFError(),
        ssl.SSLSyscallError(),
        ssl.SSLWantReadError(),
        ssl.SSLCertVerificationError(),
        dugong.ConnectionClosed(),
        dugong.ConnectionTimedOut(),
        dugong.StateError(),
        dugong.InvalidResponse(),
        dugong.UnsupportedResponse(),
        dugong.ExcessBodyData(),
        dugong.DNSUnavailable('h'),
        dugong.HostnameNotResolvable('h'),
        dugong.HostnameNotResolvableOrDNSUnavailable('h'),
    ]
    return {repr(error): dugong.is_temp_network_error(error) for error in errors}


@scenario()
def temporary_error_numbers(dugong: Any, port: int) -> Any:
    return sorted(
        name
        for number, name in errno.errorcode.items()
        if dugong.is_temp_network_error(OSError(number, 'x'))
    )


@scenario()
def case_insensitive_dict(dugong: Any, port: int) -> Any:
    new = dugong.CaseInsensitiveDict
    made = new([('Some-Key', 1), ('other', 2)], third=3)
    result: Dict[str, Any] = {
        'look-up': [made['SOME-KEY'], 'Other' in made, 'none' in made, made.get('x'), len(made)],
        'missing': [attempt(lambda: made['x']), attempt(made.__delitem__, 'x')],
        'keys': list(made),
        'items': list(made.items()),
        'lower': list(made.lower_items()),
        'repr': repr(new({'Ab': 1})),
        'made from': [new(), new(None), new({'a': 1, 'A': 2}), new({'a': 1}, A=2), new(new(x=1))],
        'wrong': [attempt(new, 5), attempt(lambda: hash(made)), attempt(lambda: made[5])],
    }
    copied = made.copy()
    copied['SOME-key'] = 9
    result['copy'] = [type(copied).__name__, list(copied.items()), made['some-key']]
    result['changes'] = [made.pop('OTHER'), made.setdefault('q', 1), made.update({'Q': 2})]
    result['changed'] = list(made.items())
    del made['Q']
    result['deleted'] = list(made)
    made.clear()
    result['cleared'] = [len(made), bool(made)]
    return result


@scenario()
def case_insensitive_comparison(dugong: Any, port: int) -> Any:
    made = dugong.CaseInsensitiveDict({'Some-Key': 1, 'other': 2})
    others = [
        {'some-key': 1, 'OTHER': 2},
        {'some-key': 1},
        {'some-key': 1, 'other': 3},
        made.copy(),
        dugong.CaseInsensitiveDict(made),
        5,
        None,
        [('some-key', 1), ('other', 2)],
    ]
    return [[made == other, other == made, made != other] for other in others]


@scenario()
def buffer(dugong: Any, port: int) -> Any:
    made = dugong._Buffer(10)
    result: Dict[str, Any] = {
        'new': [made.b, made.e, len(made), len(made.d), type(made.d).__name__],
    }

    def fill(begin: int, end: int) -> None:
        made.d[:] = b'0123456789'
        made.b, made.e = begin, end

    for begin, end in ((3, 7), (0, 10), (0, 4), (10, 10), (5, 5)):
        fill(begin, end)
        length = len(made)
        data = made.exhaust()
        copied = bytes(data)
        made.d[:] = b'abcdefghij'
        same = bytes(data) == copied
        result[f'exhaust {begin} {end}'] = [length, copied, same, made.b, made.e, len(made.d)]
        fill(begin, end)
        made.compact()
        result[f'compact {begin} {end}'] = [made.b, made.e, made.d[made.b : made.e], len(made.d)]
        fill(begin, end)
        made.clear()
        result[f'clear {begin} {end}'] = [made.b, made.e, len(made), len(made.d)]
    return result


@scenario(answers(response(b'hello' * 100), CHUNKED_HELLO))
def smallest_buffer(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn._rbuf = dugong._Buffer(63)
    result = [get(conn), conn.readall(), conn._rbuf.b, conn._rbuf.e, len(conn._rbuf.d)]
    return [*result, get(conn), conn.readall()]


@scenario(answers(HELLO + b'', then='wait'))
def buffer_of_a_connection(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    conn.send_request('GET', '/')
    fill = conn._co_fill_buffer(len(HELLO))
    result = [dugong.eval_coroutine(fill, WAIT), bytes(conn._rbuf.d[: conn._rbuf.e])]
    conn.read_response()
    result += [len(conn._rbuf), conn.read(2), len(conn._rbuf), conn.read(9)]
    return [*result, conn._rbuf.b, conn._rbuf.e]


@scenario(answers(HELLO))
def replaced_socket(dugong: Any, port: int) -> Any:
    class Other:
        def __getattr__(self, name: str) -> Any:
            return getattr(original, name)

    conn = connect(dugong, port)
    conn.connect()
    original = conn._sock
    conn._sock = Other()
    result = [fetch(conn), type(conn._sock).__name__]
    conn.disconnect()
    return [*result, conn._sock is None, original.fileno()]


@scenario()
def join(dugong: Any, port: int) -> Any:
    parts = [b'a', bytearray(b'b'), memoryview(b'c')]
    return [dugong._join(parts), dugong._join([]), type(dugong._join(parts))]


@scenario()
def body_following_object(dugong: Any, port: int) -> Any:
    made = [dugong.BodyFollowing(5), dugong.BodyFollowing(length=5), dugong.BodyFollowing()]
    return [each.length for each in made]


def _traced(dugong: Any, port: int, use: Callable[[Any], Any]) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        with mock.patch.dict(os.environ, DUGONG_TRACEFILE=f'{folder}/trace-%d.log'):
            conn = connect(dugong, port)
            use(conn)
            conn.disconnect()
        files = sorted(Path(folder).iterdir())
        content = b''.join(file.read_bytes() for file in files)
    # The order of the header lines and the port are none of this scenario's business.
    lines = content.replace(b':%d' % port, b':PORT').decode('latin1').splitlines()
    named = all(file.name[len('trace-') : -len('.log')].isdigit() for file in files)
    return [len(files), named, sorted(lines)]


@scenario(answers(EMPTY, EMPTY))
def tracing(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> None:
        get(conn, '/1')
        put(conn, dugong.BodyFollowing(5))
        conn.write(b'he')
        conn.write(b'llo')
        conn.read_response()

    return _traced(dugong, port, use)


@scenario(answers(HELLO))
def tracing_of_a_body(dugong: Any, port: int) -> Any:
    def use(conn: Any) -> None:
        get(conn)
        conn.readall()

    return _traced(dugong, port, use)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: List[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        record.getMessage()
        self.records.append(record)


def _logged(use: Callable[[], Any]) -> List[logging.LogRecord]:
    logger, collector = logging.getLogger('dugong'), _Collector()
    level = logger.level
    logger.addHandler(collector)
    logger.setLevel(logging.DEBUG)
    try:
        use()
    finally:
        logger.removeHandler(collector)
        logger.setLevel(level)
    return collector.records


@scenario(answers(HELLO, CHUNKED_HELLO))
def debug_logging(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    records = _logged(lambda: [fetch(conn), fetch(conn)])
    return [
        bool(records),
        sorted({record.levelname for record in records}),
        sorted({record.name.split('.')[0] for record in records}),
    ]


@scenario(answers(HELLO))
def read_none_with_debug_logging(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    result: List[Any] = []
    _logged(lambda: result.append([get(conn), attempt(conn.read, None)]))
    return result


@scenario(answers(OK + b'Transfer-Encoding: gzip\r\n\r\n'))
def warnings_in_the_log(dugong: Any, port: int) -> Any:
    conn = connect(dugong, port)
    records = _logged(lambda: [get(conn), attempt(conn.readall)])
    return sorted({record.levelname for record in records if record.levelno > logging.DEBUG})
