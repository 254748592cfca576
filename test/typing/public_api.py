"""Uses everything that is public, as `mypy --strict` has to accept it. Not to be run."""

import asyncio
import io
import ssl
from email.message import Message
from typing import Any, Dict, Generator, Iterator, List, Optional, Tuple

import dugong
from dugong import (
    BUFFER_SIZE,
    DNS_TEST_HOSTNAMES,
    HTTP_PORT,
    HTTPS_PORT,
    MAX_BUSY_WAIT,
    MAX_HEADER_SIZE,
    MAX_LINE_SIZE,
    POLLIN,
    POLLOUT,
    AioFuture,
    BodyFollowing,
    CaseInsensitiveDict,
    ConnectionClosed,
    ConnectionTimedOut,
    DNSUnavailable,
    ExcessBodyData,
    HostnameNotResolvable,
    HostnameNotResolvableOrDNSUnavailable,
    HTTPConnection,
    HTTPResponse,
    InvalidResponse,
    PollNeeded,
    ProxyError,
    StateError,
    UnsupportedResponse,
    create_socket,
    eval_coroutine,
    is_temp_network_error,
)

version: str = dugong.__version__
limit: float = MAX_BUSY_WAIT
sizes: List[int] = [BUFFER_SIZE, MAX_LINE_SIZE, MAX_HEADER_SIZE, HTTP_PORT, HTTPS_PORT]
masks: List[int] = [POLLIN, POLLOUT]
hosts: List[Tuple[str, int]] = list(DNS_TEST_HOSTNAMES)
dugong.MAX_LINE_SIZE = 1000
dugong.MAX_BUSY_WAIT = 0.0
dugong.DNS_TEST_HOSTNAMES = (('localhost', 80), ('localhost', 81), ('localhost', 82))


def construct() -> None:
    HTTPConnection('host')
    HTTPConnection('host', 8080)
    HTTPConnection(
        'host',
        port=None,
        ssl_context=ssl.create_default_context(),
        proxy=('proxy', 3128),
        proxy_headers={'Proxy-Authorization': 'Basic'},
    )


def attributes(conn: HTTPConnection) -> None:
    conn.hostname = 'other'
    conn.port = 81
    conn.ssl_context = None
    conn.proxy = ('proxy', 3128)
    conn.proxy = None
    conn.proxy_headers = CaseInsensitiveDict({'A': 1})
    conn.timeout = 1.5
    conn.timeout = None
    conn.assume_close = True
    conn.strict_eof = True
    conn.content_md5 = False
    context: Optional[ssl.SSLContext] = conn.ssl_context
    proxy: Optional[Tuple[str, int]] = conn.proxy
    timeout: Optional[float] = conn.timeout
    print(conn.hostname + conn.name, conn.port + 1, context, proxy, timeout)


def blocking(conn: HTTPConnection, fh: io.BufferedReader) -> None:
    with conn as same:
        same.connect()
    conn.send_request('GET', '/')
    conn.send_request('PUT', '/', {'A': 'b', 'C': 1}, b'data')
    conn.send_request('PUT', '/', headers=None, body=fh)
    conn.send_request('PUT', '/', CaseInsensitiveDict(A=1), iter([b'data']))
    conn.send_request('PUT', '/', body=BodyFollowing(5), expect100=True)
    conn.send_request('PUT', '/', body=BodyFollowing())
    conn.write(b'data')
    conn.write(bytearray(b'data'))
    conn.write(memoryview(b'data'))
    conn.write(fh)
    conn.write_eof()
    conn.write_eof({'Trailer-Field': 'value'})
    response: HTTPResponse = conn.read_response()
    data: bytes = conn.read(5) + conn.read() + conn.readall() + conn.read_raw(5)
    data += conn.read1(5) + conn.peek() + conn.readline(5)
    size: int = conn.readinto(bytearray(5)) + conn.readinto1(memoryview(bytearray(5)))
    conn.discard()
    pending: bool = conn.response_pending() or conn.closed
    flags: List[bool] = [conn.readable(), conn.writable(), conn.seekable()]
    certificate: Any = conn.get_ssl_peercert()
    der: Any = conn.get_ssl_peercert(binary_form=True)
    cipher: Any = conn.get_ssl_cipher()
    conn.flush()
    conn.close()
    conn.reset()
    conn.disconnect()
    print(response, data, size, pending, flags, certificate, der, cipher)


def stream(conn: HTTPConnection) -> str:
    lines: List[bytes] = conn.readlines()
    text: str = io.TextIOWrapper(conn, encoding='utf-8').read()
    return text + str(lines)


def describe(response: HTTPResponse) -> str:
    headers: Message = response.headers
    charset: Optional[str] = headers.get_content_charset()
    trailers: Optional[Message] = response.trailers
    length: Optional[int] = response.length
    body: Optional[bytes] = response.body
    code: int = response.status
    text: str = response.method + response.path + response.reason
    return f'{charset} {trailers} {length} {body!r} {code} {text}'


def get(conn: HTTPConnection, path: str) -> Generator[PollNeeded, None, bytes]:
    yield from conn.co_connect()
    yield from conn.co_send_request('PUT', path, {'A': 'b'}, BodyFollowing(), expect100=False)
    yield from conn.co_write(b'data')
    yield from conn.co_write_eof()
    response: HTTPResponse = yield from conn.co_read_response()
    some: bytearray = yield from conn.co_read(5)
    some += yield from conn.co_read()
    size: int = yield from conn.co_readinto(some)
    rest: bytes = yield from conn.co_readall()
    yield from conn.co_discard()
    raw: bytes = yield from conn.co_read_raw(size)
    certificate: Any = yield from conn.co_get_ssl_peercert(binary_form=True)
    cipher: Any = yield from conn.co_get_ssl_cipher()
    print(response, certificate, cipher)
    return bytes(some) + rest + raw


def drive(conn: HTTPConnection) -> bytes:
    need: PollNeeded = next(get(conn, '/'))
    fd, mask = need
    ready: bool = need.poll() or need.poll(0) or need.poll(timeout=None)
    same: bool = PollNeeded(fd, mask) == need and need.fd + need.mask > 0
    print(ready, same)
    return eval_coroutine(get(conn, '/')) + eval_coroutine(get(conn, '/'), timeout=5)


async def with_asyncio(conn: HTTPConnection) -> bytes:
    future: 'AioFuture[bytes]' = AioFuture(get(conn, '/'))
    limited = AioFuture(get(conn, '/'), loop=asyncio.get_running_loop(), timeout=5)
    done: bool = future.cancel() or future.done()
    both: List[bytes] = [*await asyncio.gather(future, limited)]
    one: bytes = await asyncio.wait_for(AioFuture(get(conn, '/')), 5)
    print(done)
    return b''.join(both) + one


def requests() -> Iterator[Any]:
    yield '/path'
    yield 'GET', '/path'
    yield 'PUT', '/path', {'A': 'b'}, b'data'


def pipelined(conn: HTTPConnection) -> int:
    pipeline = conn.pipeline(requests(), max_pending=10, max_retries=5, stream=True)
    for response in pipeline:
        pipeline.retry()
        print(response.status, response.body)
    first: HTTPResponse = next(conn.pipeline(['/path', ('GET', '/path')]))
    left: List[Any] = pipeline.unanswered + pipeline.uncertain
    pipeline.close()
    print(first, left)
    return pipeline.sent + pipeline.repeated + pipeline.connections + pipeline.in_flight


async def pipelined_in_asyncio(conn: HTTPConnection) -> None:
    async for response in conn.co_pipeline(requests(), stream=False):
        print(response.status)
    step: Generator[PollNeeded, None, Optional[HTTPResponse]] = conn.co_pipeline([]).co_next()
    last: Optional[HTTPResponse] = await AioFuture(step)
    print(last)


def mappings() -> Dict[str, Any]:
    fields = CaseInsensitiveDict({'A': 1}, B=2)
    fields['C'] = 3
    del fields['c']
    lowered: Dict[str, Any] = dict(fields.lower_items())
    copied: CaseInsensitiveDict = fields.copy()
    print(copied == {'a': 1}, len(copied), list(copied))
    return lowered


def errors(exc: Exception) -> bool:
    made: List[Exception] = [
        ConnectionClosed(),
        ConnectionTimedOut('message'),
        InvalidResponse('message'),
        UnsupportedResponse(),
        StateError(),
        ExcessBodyData(),
        ProxyError(407, 'Proxy Authentication Required'),
    ]
    try:
        create_socket(('host', 80)).close()
    except (HostnameNotResolvable, DNSUnavailable) as failure:
        both: HostnameNotResolvableOrDNSUnavailable = failure
        print(both.name + '!')
    except ProxyError as refusal:
        print(refusal.status + 1, refusal.reason + '!')
    except ConnectionError:
        raise made[0] from None
    following: Optional[int] = BodyFollowing(5).length
    return is_temp_network_error(exc) or following == 5
