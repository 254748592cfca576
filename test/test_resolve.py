"""Section 7 of the contract: telling "no such host" from "the name service is down"."""

import functools
import socket
from typing import Any, Callable, Dict, List, Tuple, Union
from unittest import mock

import pytest
from contract_support import Answers, DuckContext, get, reply
from servers import LIMIT

import dugong
from dugong import DNSUnavailable, HostnameNotResolvable, HTTPConnection
from dugong._resolve import is_numeric, numeric_address

WANTED = 'wanted.example'
TESTS = [('one.test', 80), ('two.test', 81), ('three.test', 53)]

DOUBTFUL = [
    getattr(socket, name)
    for name in ('EAI_NONAME', 'EAI_NODATA', 'EAI_AGAIN')
    if hasattr(socket, name)
]
OTHER = [
    getattr(socket, name)
    for name in ('EAI_FAIL', 'EAI_FAMILY', 'EAI_MEMORY', 'EAI_SERVICE', 'EAI_BADFLAGS')
    if hasattr(socket, name)
]

#: What a look-up gives: an error number, or an address.
Result = Union[int, Tuple[str, int]]
UP = ('127.0.0.1', 9)


class Resolver:
    """A name service by script: the results of each name, the last one for ever."""

    def __init__(self, **results: List[Result]) -> None:
        self.results: Dict[str, List[Result]] = results
        self.asked: List[str] = []
        self.ports: Dict[str, Any] = {}

    def __call__(self, host: Any, port: Any, *args: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        self.asked.append(name)
        self.ports[name] = port
        results = self.results[name.split('.')[0]]
        result = results.pop(0) if len(results) > 1 else results[0]
        if isinstance(result, int):
            raise socket.gaierror(result, 'scripted')
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, '', result)]


@pytest.mark.parametrize(
    'host', ['127.0.0.1', '0.0.0.0', '255.255.255.255', '::1', '::', '2001:db8::8:800:200c:417a']
)
def test_known_address_is_that_of_getaddrinfo(host: str) -> None:
    (found,) = socket.getaddrinfo(host, 4711, type=socket.SOCK_STREAM)
    assert numeric_address(host, 4711) == found


@pytest.mark.parametrize(
    'host', ['localhost', '127.1', '2130706433', '0x7f.1', '127.0.0.01', 'fe80::1%lo', '1:2', '']
)
def test_what_is_not_plainly_an_address_is_not_known(host: str) -> None:
    assert numeric_address(host, 4711) is None


@pytest.mark.parametrize('port', ['80', 'http', -1, 65536, None])
def test_what_is_not_plainly_a_port_is_left_to_getaddrinfo(port: Any) -> None:
    assert numeric_address('127.0.0.1', port) is None


def test_replaced_getaddrinfo_is_asked_for_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(socket.getaddrinfo)
    def getaddrinfo(*args: Any, **options: Any) -> Any:
        raise AssertionError('not called here')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    assert numeric_address('127.0.0.1', 4711) is None
    monkeypatch.setattr(socket, 'getaddrinfo', mock.Mock())
    assert numeric_address('127.0.0.1', 4711) is None


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Resolver]:
    monkeypatch.setattr(dugong, 'DNS_TEST_HOSTNAMES', TESTS)

    def install(**results: List[Result]) -> Resolver:
        found = Resolver(**results)
        monkeypatch.setattr(socket, 'getaddrinfo', found)
        return found

    return install


def by_connect() -> None:
    HTTPConnection(WANTED).connect()


def by_request() -> None:
    HTTPConnection(WANTED).send_request('GET', '/')


def by_create_socket() -> None:
    dugong.create_socket((WANTED, 80))


def by_coroutine() -> None:
    dugong.eval_coroutine(HTTPConnection(WANTED).co_connect(), LIMIT)


def by_proxy() -> None:
    HTTPConnection('unused.example', proxy=(WANTED, 3128)).connect()


def by_tunnel() -> None:
    HTTPConnection('unused.example', 443, DuckContext(), (WANTED, 3128)).connect()


WAYS = [by_connect, by_request, by_create_socket, by_coroutine, by_proxy, by_tunnel]
in_every_way = pytest.mark.parametrize('connecting', WAYS, ids=lambda f: f.__name__)


@in_every_way
@pytest.mark.parametrize('number', DOUBTFUL)
def test_no_such_host(number: int, connecting: Any, resolver: Any) -> None:
    found = resolver(wanted=[number], one=[UP])
    with pytest.raises(HostnameNotResolvable) as info:
        connecting()
    assert info.value.name == WANTED
    assert WANTED in str(info.value)
    # Once more after a test name has resolved, and no other test name.
    assert found.asked == [WANTED, 'one.test', WANTED]


@pytest.mark.parametrize('number', DOUBTFUL)
def test_address_in_the_zone_of_no_interface_is_not_the_fault_of_the_name_service(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def fail(host: str, *args: Any) -> Any:
        asked.append(host)
        raise socket.gaierror(number, 'scripted')

    monkeypatch.setattr(socket, 'getaddrinfo', fail)
    with pytest.raises(HostnameNotResolvable, match='fe80::1%nowhere'):
        HTTPConnection('fe80::1%nowhere').connect()
    assert asked == ['fe80::1%nowhere']


def test_only_an_ipv6_address_has_a_zone() -> None:
    assert is_numeric('fe80::1%lo')
    assert not is_numeric('127.0.0.1%lo')


@in_every_way
@pytest.mark.parametrize('number', DOUBTFUL)
def test_name_service_is_down(number: int, connecting: Any, resolver: Any) -> None:
    for tests in DOUBTFUL + OTHER:
        found = resolver(wanted=[number], one=[tests], two=[tests], three=[tests])
        with pytest.raises(DNSUnavailable) as info:
            connecting()
        assert info.value.name == WANTED
        assert WANTED in str(info.value)
        assert found.asked == [WANTED, 'one.test', 'two.test', 'three.test']


@pytest.mark.parametrize('number', DOUBTFUL)
@pytest.mark.parametrize('up', ['one', 'two', 'three'])
def test_any_test_name_will_do(number: int, up: str, resolver: Any) -> None:
    results = {name: [UP if name == up else number] for name in ('one', 'two', 'three')}
    found = resolver(wanted=[number], **results)
    with pytest.raises(HostnameNotResolvable):
        by_connect()
    assert found.asked[-2:] == [f'{up}.test', WANTED]
    assert found.ports[f'{up}.test'] in (80, 81, 53)


@pytest.mark.parametrize('number', DOUBTFUL)
def test_wanted_name_that_resolves_after_all(number: int, serve: Any, resolver: Any) -> None:
    server = serve(Answers(reply(b'there')))
    found = resolver(wanted=[number, server.address], one=[number], two=[UP])
    with HTTPConnection(WANTED, 8080) as conn:
        conn.timeout = LIMIT
        assert get(conn)[1] == b'there'
    assert found.asked == [WANTED, 'one.test', 'two.test', WANTED]


@pytest.mark.parametrize('first', DOUBTFUL)
@pytest.mark.parametrize('second', DOUBTFUL)
def test_wanted_name_that_fails_in_another_way(first: int, second: int, resolver: Any) -> None:
    resolver(wanted=[first, second], one=[UP])
    with pytest.raises(HostnameNotResolvable):
        by_connect()


@in_every_way
@pytest.mark.parametrize('number', OTHER)
def test_other_resolver_errors_pass_through(number: int, connecting: Any, resolver: Any) -> None:
    found = resolver(wanted=[number])
    with pytest.raises(socket.gaierror) as info:
        connecting()
    assert type(info.value) is socket.gaierror
    assert info.value.errno == number
    assert found.asked == [WANTED]


def test_errors_of_another_kind_pass_through(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: Any, **options: Any) -> Any:
        raise OSError(5, 'Input/output error')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    for connecting in WAYS:
        with pytest.raises(OSError) as info:
            connecting()
        assert info.value.errno == 5


def test_name_that_resolves_needs_no_test(serve: Any, resolver: Any) -> None:
    server = serve(Answers(reply(b'there')))
    found = resolver(wanted=[server.address])
    with HTTPConnection(WANTED, 8080) as conn:
        conn.timeout = LIMIT
        assert get(conn)[1] == b'there'
    assert found.asked == [WANTED]
    assert found.ports[WANTED] == 8080


def test_name_is_looked_up_anew_for_each_connection(serve: Any, resolver: Any) -> None:
    server = serve(Answers(reply(b'there')))
    found = resolver(wanted=[server.address])
    with HTTPConnection(WANTED, 8080) as conn:
        conn.timeout = LIMIT
        for _ in range(2):
            get(conn)
            conn.reset()
    assert found.asked == [WANTED, WANTED]


@pytest.mark.parametrize('exception', [HostnameNotResolvable, DNSUnavailable])
def test_failed_look_up_leaves_the_object_usable(
    exception: Any, serve: Any, resolver: Any
) -> None:
    server = serve(Answers(reply(b'there')))
    up: Result = UP if exception is HostnameNotResolvable else socket.EAI_NONAME
    resolver(
        wanted=[socket.EAI_NONAME] * (2 if exception is HostnameNotResolvable else 1)
        + [server.address],
        one=[up],
        two=[up],
        three=[up],
    )
    with HTTPConnection(WANTED, 8080) as conn:
        conn.timeout = LIMIT
        with pytest.raises(exception):
            conn.send_request('GET', '/')
        assert conn._sock is None
        assert not conn.response_pending()
        assert get(conn)[1] == b'there'


def test_resolver_error_is_the_cause(resolver: Any) -> None:
    resolver(wanted=[socket.EAI_NONAME], one=[UP])
    with pytest.raises(HostnameNotResolvable) as info:
        by_connect()
    chain = (info.value.__cause__, info.value.__context__)
    assert any(isinstance(exc, socket.gaierror) for exc in chain)


def test_no_test_names_means_the_name_service_is_down(
    resolver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver(wanted=[socket.EAI_NONAME])
    monkeypatch.setattr(dugong, 'DNS_TEST_HOSTNAMES', ())
    with pytest.raises(DNSUnavailable):
        by_connect()


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost'])
def test_local_names_work_with_the_real_resolver(host: str, serve: Any) -> None:
    server = serve(Answers(reply(b'there')))
    with HTTPConnection(host, server.port) as conn:
        conn.timeout = LIMIT
        assert get(conn)[1] == b'there'
