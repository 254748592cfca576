"""The programs in examples/, each run as its user would, with every warning an error."""

import ast
import contextlib
import hashlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Callable, Dict, Iterator, List

import pytest
from examples_support import (
    EXAMPLES,
    ChaosProxy,
    S3Server,
    finish,
    noise,
    refusing_port,
    run,
    run_on_terminal,
    site,
    start,
)
from servers import LIMIT, Peer, Request, ScriptedServer

#: Settings of objectstore.py that do for a server which does not look at them.
S3_SETTINGS = {'S3_BUCKET': 'b', 'AWS_ACCESS_KEY_ID': 'a', 'AWS_SECRET_ACCESS_KEY': 's'}

#: How each example is given a URL.
ARGUMENTS: Dict[str, Callable[[str], List[str]]] = {
    'httpcat.py': lambda url: [url],
    'extract_links.py': lambda url: [url],
    'pipeline1.py': lambda url: [url],
    'tour.py': lambda url: [url],
    'trio_get.py': lambda url: [url],
    'own_loop.py': lambda url: [url],
    'mirror.py': lambda url: [url, 'mirrored'],
    'objectstore.py': lambda url: ['--endpoint', url, '--attempts', '2', 'get', 'x'],
}


@pytest.fixture(params=sorted(ARGUMENTS))
def example(request: pytest.FixtureRequest) -> str:
    """The file name of an example: a test that asks for it runs with each."""
    if request.param == 'trio_get.py':
        pytest.importorskip('trio')
    return request.param


def url_of(server: ScriptedServer, path: str = '/') -> str:
    scheme = 'https' if server.ssl_context else 'http'
    return f'{scheme}://{server.host}:{server.port}{path}'


def only_line(err: bytes) -> str:
    """Return the one line that *err* consists of."""
    assert err.endswith(b'\n') and err.count(b'\n') == 1, err.decode()
    return err.decode().strip()


def load(name: str) -> ModuleType:
    """Import the example *name* as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


# What holds for all of them.


def test_all_examples_are_tested():
    assert {file.name for file in EXAMPLES.glob('*.py')} == set(ARGUMENTS)


def test_examples_share_nothing_but_the_package(example):
    tree = ast.parse((EXAMPLES / example).read_text(encoding='utf-8'))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported.update(name.name.partition('.')[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.partition('.')[0])
    assert 'dugong' in imported
    assert not imported & {file.stem for file in EXAMPLES.glob('*.py')}


def test_docstring_says_how_to_call_it(example):
    docstring = ast.get_docstring(ast.parse((EXAMPLES / example).read_text(encoding='utf-8')))
    assert f'\n    {example} ' in docstring


def test_wrong_arguments_show_the_usage(example):
    result = run(example, *(['one', 'two'] if example == 'tour.py' else []))
    assert result.returncode == 2
    assert result.stderr.startswith(f'usage: {example} '.encode())
    assert result.stdout == b''


def test_not_a_url_is_one_line(example, tmp_path):
    result = run(example, *ARGUMENTS[example]('ftp://host/'), env=S3_SETTINGS, cwd=tmp_path)
    assert result.returncode in (1, 2)
    line = only_line(result.stderr)
    assert line.startswith(f'{example}: ')
    assert 'not an http or https URL' in line


def test_refused_connection_is_one_line(example, tmp_path):
    with refusing_port() as port:
        url = f'http://127.0.0.1:{port}/'
        result = run(example, *ARGUMENTS[example](url), env=S3_SETTINGS, cwd=tmp_path)
    assert result.returncode == 1
    line = only_line(result.stderr)
    assert line.startswith(f'{example}: ')
    assert 'refused' in line


@pytest.mark.parametrize('example', sorted(set(ARGUMENTS) - {'trio_get.py'}))
def test_examples_need_no_installation(example, tmp_path):
    """Without site-packages, environment and current directory, only the tree is left."""
    with refusing_port() as port:
        arguments = ARGUMENTS[example](f'http://127.0.0.1:{port}/')
        result = subprocess.run(
            [sys.executable, '-I', '-S', '-W', 'error', EXAMPLES / example, *arguments],
            cwd=tmp_path,
            env={**os.environ, **S3_SETTINGS},
            stderr=subprocess.PIPE,
            timeout=LIMIT,
        )
    assert result.returncode == 1
    assert 'refused' in only_line(result.stderr)


def test_interrupt_is_one_line(example, serve, tmp_path):
    asked = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_head()
        asked.set()
        peer.read_to_eof()

    url = url_of(serve(handler))
    with start(example, *ARGUMENTS[example](url), env=S3_SETTINGS, cwd=tmp_path) as process:
        assert asked.wait(LIMIT)
        process.send_signal(signal.SIGINT)
        result = finish(process)
    assert result.returncode == 130
    assert only_line(result.stderr) == f'{example}: interrupted'


def test_error_status_is_one_line(example, serve, tmp_path):
    url = url_of(serve(site({})))
    result = run(example, *ARGUMENTS[example](url), env=S3_SETTINGS, cwd=tmp_path)
    assert result.returncode == 1
    line = only_line(result.stderr)
    assert line.startswith(f'{example}: ')
    assert '404 Not Found' in line


def test_body_cut_short_is_one_line(example, serve, tmp_path):
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9\r\n\r\nfrog')

    url = url_of(serve(handler))
    result = run(example, *ARGUMENTS[example](url), env=S3_SETTINGS, cwd=tmp_path)
    assert result.returncode == 1
    assert only_line(result.stderr).startswith(f'{example}: ')
    # Nothing that looks like a complete document is left behind.
    assert not [file for file in tmp_path.rglob('*') if file.is_file()]


def test_https(example, serve, certificates, tmp_path):
    authority = tmp_path / 'authority.pem'
    certificates.authority.cert_pem.write_to_path(str(authority))
    page = ('text/html', b'<a href="/">here</a>')
    url = url_of(serve(site({'/': page, '/b/x': page}), tls=True))
    env = {**S3_SETTINGS, 'SSL_CERT_FILE': str(authority)}
    result = run(example, *ARGUMENTS[example](url), env=env, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, b'')


def test_untrusted_certificate_is_one_line(example, serve, tmp_path):
    server = serve(lambda peer: None, tls=True)
    result = run(example, *ARGUMENTS[example](url_of(server)), env=S3_SETTINGS, cwd=tmp_path)
    # The server, too, finds that the handshake has failed.
    server.errors.clear()
    assert result.returncode == 1
    assert 'certificate verify failed' in only_line(result.stderr).lower()


# httpcat.py


def test_httpcat_prints_bodies_as_they_are(serve):
    bodies = {f'/{n}': noise(n, size) for n, size in enumerate((0, 5, 300_000))}
    server = serve(site({path: ('text/plain', body) for path, body in bodies.items()}))
    result = run('httpcat.py', *(url_of(server, path) for path in bodies))
    assert (result.returncode, result.stderr) == (0, b'')
    assert result.stdout == b''.join(bodies.values())


def test_httpcat_goes_on_after_a_failure(serve):
    server = serve(site({'/there': ('text/plain', b'frog')}))
    result = run('httpcat.py', url_of(server, '/not-there'), url_of(server, '/there'))
    assert result.returncode == 1
    assert result.stdout == b'frog'
    assert only_line(result.stderr) == f'httpcat.py: {url_of(server, "/not-there")}: 404 Not Found'


def test_httpcat_ends_quietly_when_nobody_reads_on(serve):
    server = serve(site({'/': ('text/plain', bytes(1 << 20))}))
    with start('httpcat.py', url_of(server)) as process:
        assert process.stdout.read(1)
        process.stdout.close()
        process.stdout = None
        result = finish(process)
    assert (result.returncode, result.stderr) == (1, b'')


def test_httpcat_quotes_what_a_target_cannot_have(serve):
    seen: List[Request] = []
    server = serve(site({}, seen))
    run('httpcat.py', url_of(server, '/a b%20c/\u00e4?q=ü&r=#fragment'))
    assert [request.target for request in seen] == ['/a%20b%20c/%C3%A4?q=%C3%BC&r=']


# extract_links.py


@pytest.mark.parametrize(
    ('charset', 'encoding'),
    [
        ('; charset=utf-8', 'utf-8'),
        ('; charset="ISO-8859-1"', 'latin1'),
        ('; charset=utf-16', 'utf-16'),
        ('', 'utf-8'),
        ('; charset=unheard-of', 'utf-8'),
        ('; charset=rot13', 'utf-8'),
    ],
)
def test_extract_links_uses_the_encoding_of_the_page(serve, charset, encoding):
    page = '<html><a href="teich/frösche?a=1&amp;b=2">x</a> <A NAME=y><a href=/z></a>'
    server = serve(site({'/sub/': ('text/html' + charset, page.encode(encoding))}))
    result = run('extract_links.py', url_of(server, '/sub/'), env={'PYTHONIOENCODING': 'utf-8'})
    assert (result.returncode, result.stderr) == (0, b'')
    assert result.stdout.decode('utf-8').splitlines() == [
        url_of(server, '/sub/teich/frösche?a=1&b=2'),
        url_of(server, '/z'),
    ]


def test_extract_links_parses_while_the_page_arrives(serve):
    more = threading.Event()

    def handler(peer: Peer) -> None:
        peer.read_head()
        first = b'<a href="/first">'.ljust(1 << 16)
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n')
        peer.send(first)
        assert more.wait(LIMIT)
        peer.send(b'<a href="/second">')

    server = serve(handler)
    with start('extract_links.py', url_of(server), env={'PYTHONUNBUFFERED': '1'}) as process:
        assert process.stdout.readline().strip().decode() == url_of(server, '/first')
        more.set()
        result = finish(process)
    assert (result.returncode, result.stderr) == (0, b'')
    assert result.stdout.strip().decode() == url_of(server, '/second')


def test_extract_links_wants_html(serve):
    server = serve(site({'/': ('image/png', b'\x89PNG')}))
    result = run('extract_links.py', url_of(server))
    assert result.returncode == 1
    assert 'not an HTML page but image/png' in only_line(result.stderr)


# pipeline1.py


def test_pipeline1_sends_ahead(serve):
    """The server answers when all requests have arrived, not before."""

    def handler(peer: Peer) -> None:
        requests = [peer.read_request() for _ in range(10)]
        for request in requests:
            peer.respond(request.target.encode() * 1000)

    server = serve([handler])
    paths = [f'/{n}' for n in range(1, 11)]
    result = run('pipeline1.py', *(url_of(server, path) for path in paths))
    assert (result.returncode, result.stderr) == (0, b'')
    assert result.stdout.decode().splitlines() == [
        f'{url_of(server, path)}: {1000 * len(path)} bytes' for path in paths
    ]


def test_pipeline1_wants_one_server():
    result = run('pipeline1.py', 'http://127.0.0.1:1/', 'http://127.0.0.1:2/')
    assert result.returncode == 1
    assert 'one server' in only_line(result.stderr)


def test_pipeline1_marks_the_part_for_the_documentation():
    text = (EXAMPLES / 'pipeline1.py').read_text(encoding='utf-8')
    part = text.partition('\n# start-example\n')[2].partition('\n# end-example\n')[0]
    names = {node.name for node in ast.parse(part).body if hasattr(node, 'name')}
    assert names == {'fetch'}


# trio_get.py and own_loop.py


@pytest.fixture(params=['trio_get.py', 'own_loop.py'])
def loop_example(request: pytest.FixtureRequest) -> str:
    if request.param == 'trio_get.py':
        pytest.importorskip('trio')
    return request.param


def test_many_connections_at_the_same_time(loop_example, serve):
    """No answer comes before all connections have asked."""
    count = 50
    barrier = threading.Barrier(count)

    def handler(peer: Peer) -> None:
        request = peer.read_request()
        barrier.wait(LIMIT)
        peer.respond(bytes(int(request.target[1:])))

    server = serve(handler)
    sizes = [n * 10_000 for n in range(count)]
    result = run(loop_example, *(url_of(server, f'/{size}') for size in sizes))
    assert (result.returncode, result.stderr) == (0, b'')
    lines = result.stdout.decode().splitlines()
    assert {line.rpartition(',')[0] for line in lines} == {
        f'{url_of(server, f"/{size}")}: {size} bytes' for size in sizes
    }
    assert server.connections == count


@pytest.mark.slow
def test_deadline_ends_one_download_and_not_the_others(loop_example, serve):
    def handler(peer: Peer) -> None:
        request = peer.read_request()
        if request.target == '/stalls':
            peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfrog')
            peer.read_to_eof()
        else:
            peer.respond(b'pond')

    server = serve(handler)
    option = '--deadline' if loop_example == 'trio_get.py' else '--timeout'
    urls = [url_of(server, path) for path in ('/one', '/stalls', '/two')]
    result = run(loop_example, option, 0.2, *urls)
    assert result.returncode == 1
    assert sorted(line.split(':', 3)[2] for line in result.stdout.decode().splitlines()) == [
        f'{server.port}/one',
        f'{server.port}/two',
    ]
    line = only_line(result.stderr)
    assert line.startswith(f'{loop_example}: {url_of(server, "/stalls")}: ')
    assert '0.2 s' in line


def test_trio_get_says_what_is_missing(tmp_path):
    """Without Trio: an empty directory stands for it."""
    (tmp_path / 'trio.py').write_text('raise ImportError')
    result = run('trio_get.py', 'http://127.0.0.1/', env={'PYTHONPATH': str(tmp_path)})
    assert result.returncode == 1
    assert 'pip install trio' in only_line(result.stderr)


# tour.py


@pytest.mark.slow
def test_tour_shows_every_step_and_that_pipelining_pays():
    result = run('tour.py')
    assert (result.returncode, result.stderr) == (0, b'')
    text = result.stdout.decode()
    for part in (
        'GET /hello: 200 OK',
        '67108864 bytes read',
        '100 Continue',
        '201 Created',
        '413 ',
        'one by one',
        'one thread sends',
        'one coroutine sends',
        'conn.pipeline()',
        'again in 20 ms',
        'GET /unreliable: 200 OK',
    ):
        assert part in text
    # The server's 5 ms are paid 200 times, or once.
    assert float(re.search(r'one by one +([\d.]+) ms', text).group(1)) >= 1000
    gains = [float(gain) for gain in re.findall(r'([\d.]+) times as fast', text)]
    assert len(gains) == 3
    assert min(gains) > 2


def test_tour_with_a_url(serve):
    seen: List[Request] = []
    server = serve(site({'/page?q': ('text/plain', b'frog')}, seen))
    result = run('tour.py', url_of(server, '/page?q'))
    assert (result.returncode, result.stderr) == (0, b'')
    assert {(request.method, request.target) for request in seen} == {('GET', '/page?q')}
    assert 'times as fast' in result.stdout.decode()


def test_tour_with_a_server_that_closes_after_each_answer(serve):
    def handler(peer: Peer) -> None:
        peer.read_request()
        peer.respond(b'frog', fields='Connection: close')

    result = run('tour.py', url_of(serve(handler)))
    assert (result.returncode, result.stderr) == (0, b'')
    assert re.search(rb'conn.pipeline\(\) +[0-9.]+ ms', result.stdout)
    assert re.search(rb'one by one .* ms  .*clos', result.stdout)


@pytest.mark.slow
@pytest.mark.parametrize('lines', [1, 4, 11, 18, 19, 20, 23])
def test_tour_can_be_interrupted_at_any_step(lines):
    """When it has printed so many lines."""
    with start('tour.py', env={'PYTHONUNBUFFERED': '1'}) as process:
        for _ in range(lines):
            process.stdout.readline()
        process.send_signal(signal.SIGINT)
        result = finish(process)
    # On a busy machine it may get to its end before it is interrupted.
    if result.returncode != 0:
        assert result.returncode == 130
        assert only_line(result.stderr) == 'tour.py: interrupted'


# mirror.py

LISTING = b"""<html><a href="../">up</a> <a href="?C=N;O=D">by name</a>
<a href="http://example.org/files/x">elsewhere</a> <a href="/other/">not below</a>
<a href="one.txt">one</a> <a href="two%20words.txt#part">two</a> <a href="one.txt">again</a>
<a href="sub/">sub</a>"""


def files_below(directory: Path) -> Dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes()
        for file in directory.rglob('*')
        if file.is_file()
    }


def test_mirror_follows_listings_below_the_url(serve, tmp_path):
    seen: List[Request] = []
    pages = {
        '/files/': ('text/html', LISTING),
        '/files/sub/': ('text/html', b'<a href="three">'),
        '/files/one.txt': ('text/plain', b'1'),
        '/files/two%20words.txt': ('text/plain', b'22'),
        '/files/sub/three': ('text/plain', noise(3, 300_000)),
    }
    server = serve(site(pages, seen))
    result = run('mirror.py', url_of(server, '/files/'), tmp_path)
    assert (result.returncode, result.stderr) == (0, b'')
    assert '3 documents fetched' in result.stdout.decode()
    assert files_below(tmp_path) == {
        'one.txt': b'1',
        'two words.txt': b'22',
        'sub/three': noise(3, 300_000),
    }
    assert sorted(request.target for request in seen) == sorted(pages)


def test_mirror_takes_a_list_of_documents(serve, tmp_path):
    pages = {f'/pond/{n}': ('text/plain', noise(n, n)) for n in range(100)}
    server = serve(site(pages))
    urls = [url_of(server, path) if int(path[6:]) % 2 else path[6:] for path in pages]
    pages['/pond/list.txt'] = ('text/plain', '\n'.join(urls).encode())
    result = run('mirror.py', url_of(server, '/pond/list.txt'), tmp_path)
    assert (result.returncode, result.stderr) == (0, b'')
    assert files_below(tmp_path) == {str(n): noise(n, n) for n in range(100)}


@pytest.mark.parametrize('name', ['%2e%2e/up', '..%2Fup', '%2Ftmp%2Fup', 'a%00b', 'a%2F%2Fb'])
def test_mirror_writes_nowhere_else(serve, tmp_path, name):
    server = serve(site({'/list': ('text/plain', name.encode())}))
    directory = tmp_path / 'mirror'
    result = run('mirror.py', url_of(server, '/list'), directory)
    assert result.returncode == 1
    assert 'not a name for a file' in only_line(result.stderr)
    assert not list(tmp_path.rglob('*'))


def test_mirror_fetches_only_what_has_changed(serve, tmp_path):
    documents = {'old': b'as ever', 'new': b'first'}
    modified = 'Wed, 21 Oct 2015 07:28:00 GMT'
    asked: List[Request] = []

    def handler(peer: Peer) -> None:
        with contextlib.suppress(EOFError):
            while True:
                request = peer.read_request()
                asked.append(request)
                name = request.target[1:]
                if name == 'list':
                    peer.respond(b'old new')
                elif name == 'old' and request.field('If-Modified-Since') == modified:
                    peer.send(b'HTTP/1.1 304 Not Modified\r\n\r\n')
                else:
                    peer.respond(documents[name], fields=f'Last-Modified: {modified}')

    server = serve(handler)
    assert run('mirror.py', url_of(server, '/list'), tmp_path).returncode == 0
    assert files_below(tmp_path) == documents
    assert not any(request.field('If-Modified-Since') for request in asked)

    documents['new'] = b'second'
    result = run('mirror.py', url_of(server, '/list'), tmp_path)
    assert (result.returncode, result.stderr) == (0, b'')
    assert '1 documents fetched' in result.stdout.decode()
    assert '1 up to date' in result.stdout.decode()
    assert files_below(tmp_path) == documents


@pytest.mark.slow
def test_mirror_survives_dropped_connections(serve, tmp_path):
    pages = {f'/{n}': ('text/plain', noise(n, 100 + 37 * n)) for n in range(300)}
    names = '\n'.join(path[1:] for path in pages)
    pages['/list'] = ('text/plain', names.encode())
    server = serve(site(pages))
    with ChaosProxy(server.address, seed=1, chance=0.9, most=300_000) as proxy:
        result = run('mirror.py', f'http://127.0.0.1:{proxy.port}/list', tmp_path)
        assert (result.returncode, result.stderr) == (0, b'')
        assert proxy.dropped > 2
    del pages['/list']
    assert files_below(tmp_path) == {path[1:]: body for path, (_, body) in pages.items()}
    assert int(re.search(rb'(\d+) requests sent again', result.stdout).group(1)) > 0


def test_mirror_shows_progress_on_a_terminal(serve, tmp_path):
    pages = {f'/{n}': ('text/plain', b'x') for n in range(20)}
    pages['/list'] = ('text/plain', '\n'.join(path[1:] for path in pages).encode())
    result = run_on_terminal('mirror.py', url_of(serve(site(pages)), '/list'), tmp_path)
    assert result.returncode == 0
    assert b'11 of 21 documents' in result.stderr


# objectstore.py


def test_objectstore_signs_as_the_manual_shows():
    """An example in the documentation of S3, "Signature Calculations", GET object."""
    objectstore = load('objectstore')
    headers = objectstore.sign(
        objectstore.Credentials(
            'AKIAIOSFODNN7EXAMPLE', 'wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY'
        ),
        'GET',
        '/test.txt',
        '',
        {'Host': 'examplebucket.s3.amazonaws.com', 'Range': 'bytes=0-9'},
        objectstore.EMPTY_DIGEST,
        datetime(2013, 5, 24, tzinfo=timezone.utc),
    )
    assert headers['Authorization'] == (
        'AWS4-HMAC-SHA256 '
        'Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,'
        'SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,'
        'Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41'
    )


def store_at(server: ScriptedServer) -> Dict[str, str]:
    return {**S3_SETTINGS, 'AWS_ENDPOINT_URL': url_of(server)}


def test_objectstore_sends_no_body_that_is_refused(serve, tmp_path):
    answer = b'<Error><Code>AccessDenied</Code><Message>no frogs</Message></Error>'
    sent: List[bytes] = []

    def handler(peer: Peer) -> None:
        request = peer.read_head()
        assert request.field('Expect') == '100-continue'
        peer.respond(answer, status='403 Forbidden')
        sent.append(peer.read_to_eof())

    file = tmp_path / 'frog'
    file.write_bytes(b'frog')
    result = run('objectstore.py', 'put', file, env=store_at(serve([handler])))
    assert result.returncode == 1
    assert only_line(result.stderr) == f'objectstore.py: {file}: AccessDenied: no frogs'
    assert sent == [b'']


def test_objectstore_reports_why_an_upload_was_cut_off(serve, tmp_path):
    def handler(peer: Peer) -> None:
        peer.read_head()
        peer.send(b'HTTP/1.1 100 Continue\r\n\r\n')
        peer.read_exactly(1000)
        answer = b'<Error><Code>EntityTooLarge</Code></Error>'
        peer.respond(answer, status='400 Bad Request', fields='Connection: close')
        peer.half_close()
        peer.read_to_eof()

    file = tmp_path / 'frog'
    file.write_bytes(bytes(20 << 20))
    result = run('objectstore.py', 'put', file, env=store_at(serve([handler])))
    assert result.returncode == 1
    assert only_line(result.stderr) == f'objectstore.py: {file}: EntityTooLarge'


def s3_object(peer: Peer, body: bytes, digest_of: bytes) -> None:
    """Answer a request for an object; *digest_of* is what was stored originally."""
    peer.read_request()
    digest = hashlib.sha256(digest_of).hexdigest()
    peer.respond(body, fields=f'x-amz-meta-sha256: {digest}')


def slow_down(peer: Peer) -> None:
    peer.read_request()
    peer.respond(b'<Error><Code>SlowDown</Code></Error>', status='503 Slow Down')


def nothing(peer: Peer) -> None:
    peer.read_request()


@pytest.mark.parametrize(
    ('failures', 'reason'),
    [
        ([nothing], 'connection'),
        ([nothing, nothing], 'connection'),
        ([slow_down], 'SlowDown'),
        ([lambda peer: s3_object(peer, b'frig', b'frog')], 'wrong checksum'),
        ([lambda peer: s3_object(peer, b'frog', b'frogs')], 'wrong checksum'),
    ],
    ids=['dropped', 'dropped-twice', 'slow-down', 'damaged', 'shortened'],
)
def test_objectstore_tries_again(serve, tmp_path, failures, reason):
    server = serve([*failures, lambda peer: s3_object(peer, b'frog', b'frog')])
    result = run('objectstore.py', '--verbose', 'get', 'x', cwd=tmp_path, env=store_at(server))
    assert result.returncode == 0
    assert files_below(tmp_path) == {'x': b'frog'}
    lines = result.stderr.decode().splitlines()
    assert len(lines) == len(failures)
    assert all(line.startswith('GET x again in 0.') and reason in line for line in lines)


def test_objectstore_keeps_no_damaged_file(serve, tmp_path):
    server = serve(lambda peer: s3_object(peer, b'frig', b'frog'))
    (tmp_path / 'x').write_bytes(b'from before')
    result = run('objectstore.py', '--attempts', 2, 'get', 'x', cwd=tmp_path, env=store_at(server))
    assert result.returncode == 1
    assert 'wrong checksum' in only_line(result.stderr)
    assert server.connections == 2
    assert files_below(tmp_path) == {'x': b'from before'}


def test_objectstore_does_not_repeat_what_is_final(serve, tmp_path):
    server = serve(site({}))
    result = run('objectstore.py', 'get', 'x', cwd=tmp_path, env=store_at(server))
    assert result.returncode == 1
    assert server.connections == 1


def test_objectstore_has_a_connection_per_thread(serve, tmp_path):
    """Two threads wait for each other's request, and each uses one connection for all."""
    barrier = threading.Barrier(2)

    def handler(peer: Peer) -> None:
        peer.read_request()
        barrier.wait(LIMIT)
        peer.respond(b'frog')
        site({f'/b/{n}': ('text/plain', b'frog') for n in range(10)})(peer)

    server = serve(handler)
    names = [str(n) for n in range(10)]
    result = run(
        'objectstore.py', '--threads', 2, 'get', *names, cwd=tmp_path, env=store_at(server)
    )
    assert (result.returncode, result.stderr) == (0, b'')
    assert files_below(tmp_path) == {name: b'frog' for name in names}
    assert server.connections == 2


def test_objectstore_lists_all_pages(serve):
    space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
    page = '<R {}>{}<Contents><Key>{}</Key><Size>{}</Size></Contents></R>'
    more = '<IsTruncated>true</IsTruncated><NextContinuationToken>a/+=</NextContinuationToken>'
    pages = {
        '/b/?list-type=2&prefix=p': page.format(space, more, 'p1', 5),
        '/b/?continuation-token=a%2F%2B%3D&list-type=2&prefix=p': page.format(space, '', 'p2', 6),
    }
    handler = site({path: ('application/xml', text.encode()) for path, text in pages.items()})
    result = run('objectstore.py', 'list', 'p', env=store_at(serve([handler])))
    assert (result.returncode, result.stderr) == (0, b'')
    assert result.stdout.split() == [b'5', b'p1', b'6', b'p2']


@pytest.mark.parametrize('bar', ['tqdm', 'plain text'])
def test_objectstore_shows_progress_on_a_terminal(serve, tmp_path, bar):
    env = store_at(serve(site({'/b/x': ('text/plain', noise(1, 3 << 20))})))
    if bar == 'tqdm':
        pytest.importorskip('tqdm')
    else:
        (tmp_path / 'tqdm.py').write_text('raise ImportError')
        env['PYTHONPATH'] = str(tmp_path)
    result = run_on_terminal('objectstore.py', 'get', 'x', cwd=tmp_path, env=env)
    assert result.returncode == 0
    assert (tmp_path / 'x').read_bytes() == noise(1, 3 << 20)
    assert (b'of 3.0 MiB' in result.stderr) == (bar == 'plain text')
    assert (b'B/s' in result.stderr) == (bar == 'tqdm')


@pytest.fixture(scope='module')
def s3() -> Iterator[S3Server]:
    pytest.importorskip('moto')
    server = S3Server()
    yield server
    server.stop()


@pytest.mark.slow
def test_objectstore_round_trip(s3, tmp_path):
    files = {
        'empty': b'',
        'frösche + (100%)~.bin' if s3.takes_any_name else 'frogs and toads': noise(1, 70_000),
        'large': noise(2, 5_000_000),
    }
    source, target = tmp_path / 'source', tmp_path / 'target'
    for directory in source, target:
        directory.mkdir()
    for name, content in files.items():
        (source / name).write_bytes(content)

    def objectstore(*arguments: object) -> bytes:
        env = {**s3.environment(), 'PYTHONIOENCODING': 'utf-8'}
        result = run('objectstore.py', *arguments, env=env)
        assert (result.returncode, result.stderr) == (0, b'')
        return result.stdout

    prefix = ['--prefix', 'round/trip/']
    objectstore('put', *prefix, *(source / name for name in files))
    listed = objectstore('list', 'round').decode().splitlines()
    assert sorted(line.split(None, 1) for line in listed) == sorted(
        [str(len(content)), f'round/trip/{name}'] for name, content in files.items()
    )
    objectstore('get', *prefix, '--to', target, *files)
    assert files_below(target) == files
    objectstore('delete', *(f'round/trip/{name}' for name in files), 'never-was-there')
    assert objectstore('list', 'round') == b''


@pytest.mark.slow
def test_objectstore_with_a_wrong_key_is_one_line(s3, tmp_path):
    env = {**s3.environment(), 'AWS_SECRET_ACCESS_KEY': 'wrong'}
    result = run('objectstore.py', 'get', 'x', cwd=tmp_path, env=env)
    assert result.returncode == 1
    assert only_line(result.stderr).startswith('objectstore.py: x: SignatureDoesNotMatch: ')


@pytest.mark.slow
@pytest.mark.parametrize('count', [100, 1000])
def test_objectstore_loses_nothing_when_connections_are_dropped(s3, tmp_path, count):
    source, target = tmp_path / 'source', tmp_path / 'target'
    for directory in source, target:
        directory.mkdir()
    for n in range(count):
        (source / f'{n:04}').write_bytes(noise(n, n * 7 % 4000))
    names = sorted(file.name for file in source.iterdir())

    with ChaosProxy(('127.0.0.1', s3.port), seed=count) as proxy:
        # So many attempts that failing by chance is out of the question.
        options = ['--attempts', 15, '--threads', 8]
        env = s3.environment(proxy.port)
        prefix = ['--prefix', f'{count}/']
        for command in (
            ['put', *prefix, *(source / name for name in names)],
            ['get', *prefix, '--to', target, *names],
        ):
            result = run('objectstore.py', *options, *command, env=env, limit=60)
            assert (result.returncode, result.stderr) == (0, b'')
        assert proxy.dropped > count / 4
    assert files_below(target) == files_below(source)
