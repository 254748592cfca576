"""Section 1 of the contract: the names on the package, and that it is a plain module to users."""

import asyncio
import copy
import inspect
import pickle
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any, Iterator, List
from unittest import mock

import pytest
from contract_support import Answers, co, get, head, reply, wait_queued

import dugong

NAMES = [
    'HTTPConnection',
    'HTTPResponse',
    'BodyFollowing',
    'CaseInsensitiveDict',
    'PollNeeded',
    'AioFuture',
    'is_temp_network_error',
    'create_socket',
    'eval_coroutine',
    'ConnectionClosed',
    'InvalidResponse',
    'UnsupportedResponse',
    'ExcessBodyData',
    'StateError',
    'ConnectionTimedOut',
    'HostnameNotResolvable',
    'DNSUnavailable',
    'ProxyError',
    'MAX_LINE_SIZE',
    'MAX_HEADER_SIZE',
    'BUFFER_SIZE',
    'DNS_TEST_HOSTNAMES',
    'POLLIN',
    'POLLOUT',
    'HTTP_PORT',
    'HTTPS_PORT',
    '__version__',
]

#: What callers of 3.8.2 reach for although it is underscored.
REACHED_FOR = ['_Buffer', '_join', '_GeneralError', 'HostnameNotResolvableOrDNSUnavailable']

GENERAL_ERRORS = [
    'ConnectionClosed',
    'InvalidResponse',
    'UnsupportedResponse',
    'ExcessBodyData',
    'StateError',
    'ConnectionTimedOut',
]
DNS_ERRORS = ['HostnameNotResolvable', 'DNSUnavailable']

TWINS = [
    'connect',
    'send_request',
    'write',
    'read_response',
    'read',
    'readinto',
    'readall',
    'discard',
]


def run_python(program: str, *options: str) -> str:
    """Run *program* in a fresh interpreter that finds the package under test."""
    root = str(Path(dugong.__file__).resolve().parent.parent)
    program = f'import sys; sys.path.insert(0, {root!r})\n{program}'
    result = subprocess.run(
        [sys.executable, '-W', 'error', *options, '-c', program],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


# -- names --------------------------------------------------------------------------------------


@pytest.mark.parametrize('name', NAMES + REACHED_FOR)
def test_name_is_on_the_package(name: str) -> None:
    assert getattr(dugong, name) is not None


def test_all_lists_the_public_names_and_only_existing_ones() -> None:
    listed = dugong.__all__
    assert len(set(listed)) == len(listed)
    assert set(NAMES) - {'__version__'} <= set(listed)
    for name in listed:
        assert hasattr(dugong, name), name


def test_star_import_gives_the_public_names() -> None:
    scope: Any = {}
    exec('from dugong import *', scope)
    for name in set(NAMES) - {'__version__'}:
        assert scope[name] is getattr(dugong, name)


def test_dir_lists_the_public_names() -> None:
    assert set(NAMES) <= set(dir(dugong))


@pytest.mark.parametrize('name', NAMES + REACHED_FOR)
def test_public_objects_say_they_live_in_the_package(name: str) -> None:
    found = getattr(dugong, name)
    if inspect.isclass(found) or inspect.isfunction(found):
        assert found.__module__ == 'dugong'
        assert found.__qualname__.rpartition('.')[2] == found.__name__


@pytest.mark.parametrize(
    'name',
    [n for n in NAMES if inspect.isclass(getattr(dugong, n, None))]
    + ['is_temp_network_error', 'create_socket', 'eval_coroutine'],
)
def test_public_objects_have_a_docstring(name: str) -> None:
    assert (getattr(dugong, name).__doc__ or '').strip()


def test_public_methods_have_a_docstring() -> None:
    for name, member in vars(dugong.HTTPConnection).items():
        if not name.startswith('_') and callable(member):
            assert (inspect.getdoc(member) or '').strip(), name


def test_version() -> None:
    assert dugong.__version__ == '3.9.0'


def test_version_satisfies_the_pins_of_callers() -> None:
    assert re.fullmatch(r'\d+\.\d+\.\d+', dugong.__version__)
    assert (3, 4) <= tuple(int(part) for part in dugong.__version__.split('.')) < (4, 0)


def test_no_dependency_outside_the_standard_library() -> None:
    # -S leaves out site-packages, -E what the environment adds.
    run_python(
        f'import dugong\nfor name in {sorted(dugong.__all__)}: getattr(dugong, name)', '-S', '-E'
    )


# -- constants ----------------------------------------------------------------------------------


def test_sizes() -> None:
    assert dugong.BUFFER_SIZE == 64 * 1024
    assert dugong.MAX_LINE_SIZE == dugong.BUFFER_SIZE - 1
    assert dugong.MAX_HEADER_SIZE == dugong.BUFFER_SIZE - 1


def test_ports() -> None:
    assert (dugong.HTTP_PORT, dugong.HTTPS_PORT) == (80, 443)


def test_poll_masks_are_those_of_select() -> None:
    assert (select.POLLIN, select.POLLOUT) == (dugong.POLLIN, dugong.POLLOUT)


def test_dns_test_hostnames() -> None:
    assert [tuple(pair) for pair in dugong.DNS_TEST_HOSTNAMES] == [
        ('www.google.com', 80),
        ('www.iana.org', 80),
        ('C.root-servers.org', 53),
    ]


def test_join_concatenates_bytes_like_objects() -> None:
    parts = [b'one', bytearray(b'two'), memoryview(b'three')]
    assert dugong._join(parts) == b'onetwothree'
    assert dugong._join([]) == b''
    assert dugong._join(iter(parts)) == b'onetwothree'


# -- exceptions ---------------------------------------------------------------------------------


def error_instances() -> List[BaseException]:
    made = [getattr(dugong, name)('what went wrong') for name in GENERAL_ERRORS]
    made += [getattr(dugong, name)() for name in GENERAL_ERRORS]
    made += [getattr(dugong, name)('host.example') for name in DNS_ERRORS]
    made.append(dugong.ProxyError(407, 'Proxy Authentication Required'))
    return made


def error_id(exc: BaseException) -> str:
    return f'{type(exc).__name__}{exc.args}'


def duplicates(exc: BaseException) -> Iterator[BaseException]:
    yield copy.copy(exc)
    yield copy.deepcopy(exc)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield pickle.loads(pickle.dumps(exc, protocol))


@pytest.mark.parametrize('exc', error_instances(), ids=error_id)
def test_exceptions_survive_being_copied(exc: BaseException) -> None:
    for twin in duplicates(exc):
        assert type(twin) is type(exc)
        assert str(twin) == str(exc)
        assert repr(twin) == repr(exc)
        assert twin.args == exc.args
        assert vars(twin) == vars(exc)
        for attribute in ('name', 'status', 'reason'):
            assert getattr(twin, attribute, None) == getattr(exc, attribute, None)


@pytest.mark.parametrize('exc', error_instances(), ids=error_id)
def test_exceptions_have_a_repr_that_names_the_class(exc: Exception) -> None:
    assert type(exc).__name__ in repr(exc)


@pytest.mark.parametrize('name', GENERAL_ERRORS + DNS_ERRORS)
def test_exceptions_can_be_made_without_arguments(name: str) -> None:
    assert isinstance(str(getattr(dugong, name)()), str)


@pytest.mark.parametrize('name', [*GENERAL_ERRORS, '_GeneralError'])
def test_str_of_an_exception_gives_its_message(name: str) -> None:
    assert str(getattr(dugong, name)('what went wrong')) == 'what went wrong'


@pytest.mark.parametrize('name', GENERAL_ERRORS)
def test_general_error_is_the_base_of_all_but_dns_and_proxy(name: str) -> None:
    assert issubclass(getattr(dugong, name), dugong._GeneralError)


@pytest.mark.parametrize('name', [*DNS_ERRORS, 'ProxyError'])
def test_general_error_is_no_base_of_dns_and_proxy_errors(name: str) -> None:
    assert not issubclass(getattr(dugong, name), dugong._GeneralError)


@pytest.mark.parametrize('name', [*GENERAL_ERRORS, *DNS_ERRORS, '_GeneralError'])
def test_own_exceptions_derive_from_exception_not_oserror(name: str) -> None:
    cls = getattr(dugong, name)
    assert issubclass(cls, Exception)
    assert not issubclass(cls, OSError)


@pytest.mark.parametrize('one', GENERAL_ERRORS + DNS_ERRORS + ['ProxyError'])
def test_exceptions_of_different_kinds_are_not_caught_as_each_other(one: str) -> None:
    others = [n for n in GENERAL_ERRORS + DNS_ERRORS + ['ProxyError'] if n != one]
    for other in others:
        assert not issubclass(getattr(dugong, one), getattr(dugong, other))


@pytest.mark.parametrize('name', DNS_ERRORS)
def test_dns_errors_keep_the_name(name: str) -> None:
    exc = getattr(dugong, name)('host.example')
    assert exc.name == 'host.example'
    assert 'host.example' in str(exc)


def test_dns_errors_have_a_common_base() -> None:
    for name in DNS_ERRORS:
        assert issubclass(getattr(dugong, name), dugong.HostnameNotResolvableOrDNSUnavailable)


def test_proxy_error_is_a_connection_error_with_status_and_reason() -> None:
    exc = dugong.ProxyError(503, 'Service Unavailable')
    assert isinstance(exc, ConnectionError)
    assert (exc.status, exc.reason) == (503, 'Service Unavailable')
    assert '503' in str(exc) and 'Service Unavailable' in str(exc)


def test_proxy_error_has_no_errno_that_is_an_http_status() -> None:
    assert dugong.ProxyError(407, 'Proxy Authentication Required').errno is None


# -- the module under monkeypatch ---------------------------------------------------------------


def test_package_is_a_module() -> None:
    assert isinstance(dugong, types.ModuleType)
    assert sys.modules['dugong'] is dugong


@pytest.mark.parametrize(
    'name',
    ['MAX_LINE_SIZE', 'MAX_HEADER_SIZE', 'BUFFER_SIZE', 'DNS_TEST_HOSTNAMES', '__version__'],
)
def test_monkeypatch_sets_and_restores(name: str) -> None:
    before = getattr(dugong, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dugong, name, 17)
        assert getattr(dugong, name) == 17
        patch.setattr(f'dugong.{name}', 18)
        assert getattr(dugong, name) == 18
        assert vars(dugong)[name] == 18
    assert getattr(dugong, name) is before


@pytest.mark.parametrize('name', ['HTTPConnection', 'AioFuture', 'create_socket', '_join'])
def test_monkeypatch_replaces_objects(name: str) -> None:
    before = getattr(dugong, name)
    replacement = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dugong, name, replacement)
        assert getattr(dugong, name) is replacement
    assert getattr(dugong, name) is before


def test_monkeypatch_refuses_an_unknown_name() -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(AttributeError):
        patch.setattr(dugong, 'NO_SUCH_NAME', 1)


def test_monkeypatch_adds_and_removes_a_name() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dugong, 'NEW_NAME', 1, raising=False)
        assert dugong.NEW_NAME == 1
    assert not hasattr(dugong, 'NEW_NAME')


def test_monkeypatch_deletes_and_restores() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(dugong, '_join')
        assert '_join' not in vars(dugong)
    assert dugong._join([b'x']) == b'x'


def test_mock_patch_object_works() -> None:
    before = dugong.MAX_LINE_SIZE
    with mock.patch.object(dugong, 'MAX_LINE_SIZE', 100):
        assert dugong.MAX_LINE_SIZE == 100
    assert before == dugong.MAX_LINE_SIZE


def test_unknown_attribute_is_an_attribute_error_that_names_it() -> None:
    with pytest.raises(AttributeError, match='no_such_thing'):
        dugong.no_such_thing  # noqa: B018


# -- limits that are assigned on the package ----------------------------------------------------


def status_line(length: int) -> bytes:
    line = b'HTTP/1.1 200 '
    return line + b'x' * (length - len(line)) + b'\r\nContent-Length: 0\r\n\r\n'


def test_max_line_size_takes_effect_at_the_next_use(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = connect(Answers(*[status_line(200)] * 3))
    assert get(conn)[0].status == 200
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 200)
    assert get(conn)[0].status == 200
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 199)
    conn.send_request('GET', '/')
    with pytest.raises(dugong.InvalidResponse):
        conn.read_response()


def test_max_line_size_can_be_raised(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_LINE_SIZE', 200_000)
    conn = connect(Answers(status_line(200_000)))
    assert get(conn)[0].reason == 'x' * (200_000 - len('HTTP/1.1 200 '))


def big_head(size: int) -> bytes:
    """A response whose header block, its last empty line included, has *size* octets."""
    lines = b'Content-Length: 0\r\n'
    while size - len(lines) > 120:
        lines += b'X-Field: ' + b'x' * 60 + b'\r\n'
    lines += b'X-Last: ' + b'y' * (size - len(lines) - len(b'X-Last: \r\n\r\n')) + b'\r\n\r\n'
    assert len(lines) == size
    return b'HTTP/1.1 200 OK\r\n' + lines


def test_max_header_size_takes_effect_at_the_next_use(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    conn = connect(Answers(*[big_head(1000)] * 3))
    assert get(conn)[0].status == 200
    monkeypatch.setattr(dugong, 'MAX_HEADER_SIZE', 1000)
    assert get(conn)[0].status == 200
    # Whether the last line ends count is left open.
    monkeypatch.setattr(dugong, 'MAX_HEADER_SIZE', 995)
    conn.send_request('GET', '/')
    with pytest.raises(dugong.InvalidResponse):
        conn.read_response()


def test_max_header_size_can_be_raised(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_HEADER_SIZE', 300_000)
    conn = connect(Answers(big_head(300_000)))
    assert len(get(conn)[0].headers.get_all('X-Field')) > 3000


def test_buffer_size_takes_effect_at_the_next_use(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, 'BUFFER_SIZE', 1234)
    conn = connect(Answers(reply(b'x' * 5000)))
    assert len(conn._rbuf.d) == 1234
    assert get(conn)[1] == b'x' * 5000
    assert len(conn._rbuf.d) == 1234


def test_dns_test_hostnames_take_effect_at_the_next_use(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
        asked.append(host.decode() if isinstance(host, bytes) else host)
        if host == 'up.test':
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, '', ('127.0.0.1', 9))]
        raise socket.gaierror(socket.EAI_NONAME, 'not known')

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    monkeypatch.setattr(dugong, 'DNS_TEST_HOSTNAMES', [('down.test', 80)])
    with pytest.raises(dugong.DNSUnavailable):
        dugong.HTTPConnection('wanted.test').connect()
    monkeypatch.setattr(dugong, 'DNS_TEST_HOSTNAMES', (('up.test', 53),))
    with pytest.raises(dugong.HostnameNotResolvable):
        dugong.HTTPConnection('wanted.test').connect()
    assert set(asked) == {'wanted.test', 'down.test', 'up.test'}


# -- importing ----------------------------------------------------------------------------------


def test_import_does_not_import_asyncio() -> None:
    run_python('import dugong\nassert "asyncio" not in sys.modules')


def test_blocking_use_does_not_import_asyncio() -> None:
    # A request to a closed port goes through all of the connecting and the waiting.
    run_python(
        'import dugong, socket\n'
        'with socket.socket() as sock:\n'
        '    sock.bind(("127.0.0.1", 0))\n'
        '    conn = dugong.HTTPConnection(*sock.getsockname())\n'
        '    try:\n'
        '        conn.send_request("GET", "/")\n'
        '    except ConnectionRefusedError:\n'
        '        pass\n'
        'assert "asyncio" not in sys.modules'
    )


def test_aio_future_works_when_asyncio_was_not_imported_before() -> None:
    run_python(
        'import dugong\n'
        'assert "asyncio" not in sys.modules\n'
        'assert "AioFuture" in dir(dugong)\n'
        'cls = dugong.AioFuture\n'
        'import asyncio\n'
        'assert issubclass(cls, asyncio.Future)\n'
        'from dugong import AioFuture\n'
        'assert AioFuture is cls and dugong.AioFuture is cls'
    )


def test_import_prints_nothing_and_configures_no_logging() -> None:
    assert run_python('import dugong, logging\nassert not logging.getLogger().handlers') == ''


def test_aio_future_is_a_future() -> None:
    assert issubclass(dugong.AioFuture, asyncio.Future)


# -- signatures ---------------------------------------------------------------------------------


def parameters(function: Any) -> List[inspect.Parameter]:
    return [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(function).parameters.values()
    ]


def described(function: Any) -> List[str]:
    """Names of the positional parameters with their defaults, without *self*."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [str(p) for p in parameters(function) if p.kind in kinds and p.name != 'self']


SIGNATURES = {
    'HTTPConnection': ['hostname', 'port=None', 'ssl_context=None', 'proxy=None'],
    'HTTPConnection.connect': [],
    'HTTPConnection.send_request': [
        'method',
        'path',
        'headers=None',
        'body=None',
        'expect100=False',
    ],
    'HTTPConnection.write': ['buf'],
    'HTTPConnection.read_response': [],
    'HTTPConnection.read': ['n=None'],
    'HTTPConnection.readinto': ['buf'],
    'HTTPConnection.readall': [],
    'HTTPConnection.discard': [],
    'HTTPConnection.read_raw': ['size'],
    'HTTPConnection.response_pending': [],
    'HTTPConnection.reset': [],
    'HTTPConnection.disconnect': [],
    'HTTPConnection.get_ssl_peercert': ['binary_form=False'],
    'HTTPConnection.get_ssl_cipher': [],
    'eval_coroutine': ['crt', 'timeout=None'],
    'is_temp_network_error': ['exc'],
}


@pytest.mark.parametrize('name', SIGNATURES)
def test_signature_starts_as_the_contract_says(name: str) -> None:
    found = dugong
    for part in name.split('.'):
        found = getattr(found, part)
    wanted = SIGNATURES[name]
    assert described(found)[: len(wanted)] == wanted
    # More parameters of later versions must be optional.
    for extra in described(found)[len(wanted) :]:
        assert '=' in extra


@pytest.mark.parametrize('name', TWINS)
def test_blocking_method_and_coroutine_take_the_same_arguments(name: str) -> None:
    blocking = getattr(dugong.HTTPConnection, name)
    coroutine = getattr(dugong.HTTPConnection, f'co_{name}')
    assert parameters(blocking) == parameters(coroutine)


def test_every_coroutine_method_has_a_blocking_twin() -> None:
    twins = {n[3:] for n in dir(dugong.HTTPConnection) if n.startswith('co_')}
    assert set(TWINS) <= twins
    for name in twins:
        assert callable(getattr(dugong.HTTPConnection, name))


@pytest.mark.parametrize('name', TWINS)
def test_coroutine_twin_returns_a_generator(name: str) -> None:
    conn = dugong.HTTPConnection('host.invalid')
    arguments: Any = {
        'send_request': ('GET', '/'),
        'write': (b'x',),
        'readinto': (bytearray(1),),
    }.get(name, ())
    coroutine = getattr(conn, f'co_{name}')(*arguments)
    assert isinstance(coroutine, types.GeneratorType)
    coroutine.close()


# -- HTTPConnection as an object ----------------------------------------------------------------


def test_port_defaults_to_80() -> None:
    assert dugong.HTTPConnection('host.example').port == 80


def test_port_defaults_to_443_with_an_ssl_context(certificates: Any) -> None:
    conn = dugong.HTTPConnection('host.example', ssl_context=certificates.client_context)
    assert conn.port == 443


def test_attributes_are_what_was_given(certificates: Any) -> None:
    conn = dugong.HTTPConnection(
        'host.example', 8000, certificates.client_context, ('proxy.example', 3128)
    )
    assert conn.hostname == 'host.example'
    assert conn.port == 8000
    assert conn.ssl_context is certificates.client_context
    assert conn.proxy == ('proxy.example', 3128)
    assert conn.timeout is None


def test_attributes_default_to_none() -> None:
    conn = dugong.HTTPConnection('host.example')
    assert conn.ssl_context is None
    assert conn.proxy is None
    assert conn.timeout is None


def test_attributes_can_be_set(certificates: Any) -> None:
    conn = dugong.HTTPConnection('host.example')
    for name, value in {
        'hostname': 'other.example',
        'port': 81,
        'ssl_context': certificates.client_context,
        'proxy': ('proxy.example', 3128),
        'timeout': 2.5,
    }.items():
        setattr(conn, name, value)
        assert getattr(conn, name) == value


def test_attributes_that_were_set_are_used(connect: Any, serve: Any) -> None:
    handler = Answers(reply(b'there'))
    server = serve(handler)
    conn = dugong.HTTPConnection('host.invalid', 1)
    conn.hostname, conn.port, conn.timeout = server.host, server.port, 20
    with conn:
        assert get(conn)[1] == b'there'
    assert handler.request.field('Host') == f'{server.host}:{server.port}'


def test_nothing_is_connected_until_first_use(serve: Any) -> None:
    server = serve(Answers())
    conn = dugong.HTTPConnection(server.host, server.port)
    assert conn._sock is None
    conn.disconnect()
    server.stop()
    assert server.connections == 0


def test_instance_is_a_context_manager_that_disconnects(connect: Any) -> None:
    handler = Answers(reply(b'x'))
    conn = connect(handler)
    with conn as entered:
        assert entered is conn
        get(conn)
        assert conn._sock is not None
    assert conn._sock is None
    assert handler.wait() == b''


def test_context_manager_disconnects_after_an_exception_and_passes_it_on(connect: Any) -> None:
    handler = Answers(reply(b'x'))
    conn = connect(handler)
    with pytest.raises(ZeroDivisionError), conn:
        get(conn)
        raise ZeroDivisionError
    assert conn._sock is None
    handler.wait()


def test_connect_connects_now(transport: str, connect: Any) -> None:
    handler = Answers()
    conn = connect(handler)
    assert conn.connect() is None
    assert conn._sock is not None
    conn.disconnect()
    handler.wait()


def test_connect_closes_an_open_connection_first(transport: str, connect: Any, serve: Any) -> None:
    first, second = Answers(), Answers(reply(b'x'))
    server = serve([first, second])
    conn = connect(server)
    conn.connect()
    conn.connect()
    first.wait()
    assert get(conn)[1] == b'x'
    assert server.connections == 2


def test_connect_forgets_what_was_outstanding(connect: Any, serve: Any) -> None:
    first, second = Answers(reply(b'old')), Answers(reply(b'new'))
    conn = connect(serve([first, second]))
    conn.send_request('GET', '/old')
    conn.connect()
    response, body = get(conn, '/new')
    assert (response.path, body) == ('/new', b'new')


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
def test_closing_never_raises_never_connects_and_may_be_repeated(name: str) -> None:
    conn = dugong.HTTPConnection('host.invalid')
    for _ in range(3):
        assert getattr(conn, name)() is None
    assert conn._sock is None


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
def test_closing_an_open_connection_may_be_repeated(
    name: str, transport: str, connect: Any
) -> None:
    handler = Answers(reply(b'body'))
    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    for _ in range(3):
        getattr(conn, name)()
        assert conn._sock is None
    handler.wait()


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
def test_closing_a_connection_whose_descriptor_is_gone_does_not_raise(
    name: str, connect: Any
) -> None:
    conn = connect(Answers())
    conn.connect()
    conn._sock.close()
    getattr(conn, name)()
    assert conn._sock is None


@pytest.mark.parametrize('name', ['reset', 'disconnect'])
def test_next_request_after_closing_connects_anew(
    name: str, transport: str, connect: Any, serve: Any
) -> None:
    server = serve([Answers(reply(b'one')), Answers(reply(b'two'))])
    conn = connect(server)
    assert get(conn)[1] == b'one'
    getattr(conn, name)()
    assert get(conn)[1] == b'two'
    assert server.connections == 2


def test_disconnect_closes_the_tcp_connection_at_once(transport: str, connect: Any) -> None:
    handler = Answers(reply(b'x'))
    conn = connect(handler)
    get(conn)
    conn.disconnect()
    # The object and everything it refers to are still alive.
    handler.wait()
    assert conn._sock is None


def test_disconnect_does_not_wait_for_the_peer(transport: str, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.read_head()
        peer.send(head('200 OK', 'Content-Length: 5'))
        peer.read_to_eof()

    conn = connect(handler)
    conn.send_request('GET', '/')
    conn.read_response()
    conn.timeout = 0
    conn.disconnect()
    assert conn._sock is None


# -- certificates -------------------------------------------------------------------------------


@pytest.mark.parametrize('name', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_tls_getters_give_none_without_tls(name: str, connect: Any) -> None:
    conn = connect(Answers())
    assert getattr(conn, name)() is None


@pytest.mark.parametrize('name', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_tls_getters_give_none_if_the_connection_was_made_without_tls(
    name: str, connect: Any
) -> None:
    conn = connect(Answers(reply(b'x')))
    conn.connect()
    conn.ssl_context = ssl.create_default_context()
    assert getattr(conn, name)() is None


@pytest.mark.parametrize('name', ['get_ssl_peercert', 'get_ssl_cipher'])
def test_tls_getters_connect_if_needed(name: str, connect: Any, serve: Any) -> None:
    server = serve(Answers(reply(b'x')), tls=True)
    conn = connect(server)
    assert getattr(conn, name)()
    assert conn._sock is not None
    assert get(conn)[1] == b'x'
    assert server.connections == 1


def test_peercert_is_a_dictionary(connect: Any, serve: Any) -> None:
    conn = connect(serve(Answers(), tls=True))
    certificate = conn.get_ssl_peercert()
    assert ('DNS', 'localhost') in certificate['subjectAltName']
    assert conn.get_ssl_peercert(False) == certificate


def test_peercert_in_binary_form_is_der(certificates: Any, connect: Any, serve: Any) -> None:
    conn = connect(serve(Answers(), tls=True))
    der = conn.get_ssl_peercert(True)
    assert isinstance(der, bytes)
    (pem,) = [blob.bytes() for blob in certificates.certificate.cert_chain_pems[:1]]
    assert ssl.DER_cert_to_PEM_cert(der).split() == pem.decode().split()
    assert conn.get_ssl_peercert(binary_form=True) == der


def test_cipher_is_a_triple(connect: Any, serve: Any) -> None:
    conn = connect(serve(Answers(), tls=True))
    name, protocol, bits = conn.get_ssl_cipher()
    assert isinstance(name, str) and isinstance(protocol, str) and bits >= 128


# -- driving coroutines -------------------------------------------------------------------------


def test_eval_coroutine_returns_the_result() -> None:
    def coroutine() -> Any:
        return 'result'
        yield

    assert dugong.eval_coroutine(coroutine()) == 'result'


def test_eval_coroutine_passes_on_exceptions() -> None:
    def coroutine() -> Any:
        raise ZeroDivisionError
        yield

    with pytest.raises(ZeroDivisionError):
        dugong.eval_coroutine(coroutine())


def test_eval_coroutine_polls_as_needed(transport: str, connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    co(conn.co_send_request('GET', '/'))
    assert co(conn.co_read_response()).status == 200
    assert bytes(co(conn.co_readall())) == b'body'


def test_eval_coroutine_times_out() -> None:
    here, there = socket.socketpair()
    with here, there:

        def coroutine() -> Any:
            yield dugong.PollNeeded(here.fileno(), dugong.POLLIN)

        with pytest.raises(dugong.ConnectionTimedOut):
            dugong.eval_coroutine(coroutine(), 0.01)
        with pytest.raises(dugong.ConnectionTimedOut):
            dugong.eval_coroutine(coroutine(), timeout=0)


def test_create_socket_returns_a_connected_socket(serve: Any) -> None:
    handler = Answers(reply(b'x'))
    server = serve(handler)
    sock = dugong.create_socket((server.host, server.port))
    with sock:
        assert isinstance(sock, socket.socket)
        assert sock.getpeername() == server.address
        sock.sendall(b'GET / HTTP/1.1\r\n\r\n')
        assert sock.recv(100).startswith(b'HTTP/1.1 200')
    handler.wait()


# -- timeouts of the blocking methods -----------------------------------------------------------


@pytest.mark.parametrize('timeout', [0, 0.01])
def test_timeout_bounds_waiting_for_a_response(
    timeout: float, transport: str, connect: Any
) -> None:
    conn = connect(Answers(b''))
    conn.send_request('GET', '/')
    conn.timeout = timeout
    with pytest.raises(dugong.ConnectionTimedOut):
        conn.read_response()


@pytest.mark.parametrize('name', ['read', 'readall', 'discard'])
def test_timeout_bounds_waiting_for_a_body(name: str, transport: str, connect: Any) -> None:
    conn = connect(Answers(head('200 OK', 'Content-Length: 5')))
    conn.send_request('GET', '/')
    conn.read_response()
    conn.timeout = 0.01
    with pytest.raises(dugong.ConnectionTimedOut):
        getattr(conn, name)()


def test_timeout_bounds_sending(transport: str, connect: Any) -> None:
    def handler(peer: Any) -> None:
        peer.read_head()
        released.wait(20)

    released = threading.Event()
    conn = connect(handler)
    size = 1 << 28
    conn.send_request('PUT', '/', body=dugong.BodyFollowing(size))
    conn.timeout = 0.05
    try:
        with pytest.raises(dugong.ConnectionTimedOut):
            for _ in range(size >> 20):
                conn.write(bytes(1 << 20))
    finally:
        conn.disconnect()
        released.set()


def test_a_response_that_is_there_needs_no_waiting(connect: Any) -> None:
    conn = connect(Answers(reply(b'body')))
    conn.send_request('GET', '/')
    wait_queued(conn, len(reply(b'body')))
    conn.timeout = 0
    assert conn.read_response().status == 200
    assert conn.readall() == b'body'
