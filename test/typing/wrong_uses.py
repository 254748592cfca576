"""Each line that ends with a comment `wrong` is one that `mypy --strict` has to refuse."""

import asyncio
from typing import Generator

from dugong import (
    AioFuture,
    BodyFollowing,
    CaseInsensitiveDict,
    ConnectionClosed,
    HTTPConnection,
    PollNeeded,
    ProxyError,
    create_socket,
    eval_coroutine,
    is_temp_network_error,
)

HTTPConnection()  # wrong
HTTPConnection(b'host')  # wrong
HTTPConnection('host', '80')  # wrong
HTTPConnection('host', ssl_context=True)  # wrong
HTTPConnection('host', proxy='proxy:3128')  # wrong
HTTPConnection('host', proxy=('proxy', '3128'))  # wrong
HTTPConnection('host', proxy_headers='Proxy-Authorization: Basic')  # wrong
HTTPConnection('host', timeout=5)  # wrong

conn = HTTPConnection('host')
conn.timeout = '5'  # wrong
conn.assume_close = 'yes'  # wrong
conn.port = None  # wrong
conn.closed = True  # wrong
conn.unknown = 1  # wrong

conn.send_request('GET')  # wrong
conn.send_request('GET', b'/')  # wrong
conn.send_request('GET', '/', 'Accept: text/html')  # wrong
conn.send_request('GET', '/', expect100='yes')  # wrong
print(conn.send_request('GET', '/').status)  # wrong
conn.write_eof(['Trailer-Field'])  # wrong
conn.read('5')  # wrong
conn.read_raw()  # wrong
conn.readall(5)  # wrong
text: str = conn.readall()  # wrong
read: bytearray = conn.readall()  # wrong
response = conn.read_response()
response.headers['A'] + 1  # wrong
response.status + ''  # wrong
response.body + b''  # wrong
response.length + 1  # wrong
response.trailers['A']  # wrong
response.read()  # wrong

conn.pipeline('GET', '/')  # wrong
conn.pipeline(['/'], 5)  # wrong
conn.pipeline(['/'], max_pending='5')  # wrong
conn.pipeline(5)  # wrong
conn.pipeline(['/']).sent = 'many'  # wrong
conn.pipeline(['/']).unanswered = []  # wrong
for each in conn.co_pipeline(['/']):  # wrong
    print(each)

BodyFollowing('5')  # wrong
print(BodyFollowing(5).size)  # wrong
CaseInsensitiveDict(5)  # wrong
CaseInsensitiveDict({'A': 1})[5]  # wrong
ConnectionClosed(5)  # wrong
ProxyError('refused')  # wrong
create_socket('host', 80)  # wrong
create_socket('host:80')  # wrong
is_temp_network_error('reset')  # wrong

eval_coroutine(conn.readall())  # wrong
eval_coroutine(conn.co_readall(), '5')  # wrong
whole: str = eval_coroutine(conn.co_readall())  # wrong
PollNeeded(5)  # wrong
PollNeeded('5', 1)  # wrong
PollNeeded(5, 1).poll('5')  # wrong
PollNeeded(5, 1).fd = 6  # wrong


def numbers() -> Generator[int, None, bytes]:
    yield 5
    return b''


async def main() -> None:
    AioFuture(conn.readall())  # wrong
    AioFuture(numbers())  # wrong
    AioFuture(conn.co_readall(), timeout='5')  # wrong
    result: str = await AioFuture(conn.co_readall())  # wrong
    async for each in conn.pipeline(['/']):  # wrong
        print(each, result)


asyncio.run(main)  # wrong
