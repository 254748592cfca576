"""The programs in the documentation, and the servers that they are run against."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

from servers import LIMIT, Peer

import dugong

ROOT = Path(__file__).resolve().parent.parent

#: Pages in which each piece of Python is a complete program.
PAGES = ('README.rst', 'doc/tutorial.rst', 'doc/coroutines.rst')

#: Addresses that appear in the programs. They lead to servers of the tests.
ORIGIN = ('www.example.com', 80)
TLS_ORIGIN = ('www.example.com', 443)
PROXY = ('proxy.example.net', 3128)

#: Runs a program with the addresses above replaced, and nothing else changed.
_RUNNER = """
import json, runpy, socket, sys
addresses = {(host, port): real for host, port, real in json.loads(sys.argv[1])}
getaddrinfo = socket.getaddrinfo
def replaced(host, port, *args, **kwargs):
    if isinstance(host, bytes):
        host = host.decode()
    return getaddrinfo('127.0.0.1', addresses[host, int(port)], *args, **kwargs)
socket.getaddrinfo = replaced
runpy.run_path(sys.argv[2], run_name='__main__')
"""


class Program(NamedTuple):
    """A program as it is in *page*, beginning in *line*, with the *output* shown below it."""

    page: str
    line: int
    code: str
    output: Optional[str]


class Block(NamedTuple):
    language: str
    line: int
    text: str


def programs() -> Iterator[Program]:
    """Find the programs of all pages."""
    for page in PAGES:
        found = blocks((ROOT / page).read_text(encoding='utf-8'))
        for block, following in zip(found, [*found[1:], None]):
            if block.language != 'python':
                continue
            output = None
            if following is not None and following.language == 'none':
                output = following.text
            yield Program(page, block.line, block.text, output)


def blocks(text: str) -> List[Block]:
    """Return the code blocks of a page."""
    found = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        directive, _, language = line.strip().partition('::')
        if directive != '.. code-block':
            continue
        margin = len(line) - len(line.lstrip())
        content: List[str] = []
        begin = number + 1
        for follower in lines[begin:]:
            if follower.strip() and len(follower) - len(follower.lstrip()) <= margin:
                break
            content.append(follower[margin + 3 :])
        while content and not content[0].strip():
            del content[0]
            begin += 1
        found.append(Block(language.strip(), begin + 1, '\n'.join(content).rstrip() + '\n'))
    return found


def run_program(
    path: Path, addresses: Mapping[Tuple[str, int], int], cafile: Path
) -> 'subprocess.CompletedProcess[str]':
    """Run the program in the file *path*, in its folder, with warnings as errors."""
    replaced = json.dumps([(*address, port) for address, port in addresses.items()])
    environment = {
        **os.environ,
        'PYTHONPATH': str(Path(dugong.__file__).parents[1]),
        'PYTHONIOENCODING': 'utf-8',
        # What ssl.create_default_context() trusts.
        'SSL_CERT_FILE': str(cafile),
    }
    return subprocess.run(
        [sys.executable, '-W', 'error', '-c', _RUNNER, replaced, str(path)],
        cwd=path.parent,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding='utf-8',
        timeout=LIMIT,
    )


#: What the site serves: content type and body.
DOCUMENTS: Dict[str, Tuple[str, bytes]] = {
    '/': (
        'text/html; charset=utf-8',
        b'<!DOCTYPE html>\n<title>A site</title>\n<a href="/documents/1">One</a>\n',
    ),
    '/poem': (
        'text/plain; charset=iso-8859-1',
        'Über dem Meer\nwächst kein Gras.\n'.encode('latin1'),
    ),
    '/status.json': ('application/json', b'{"documents": 1000}'),
    '/feed.xml': ('text/xml', b'<feed><title>News of the sea</title></feed>'),
    '/archive': ('application/octet-stream', bytes(4 << 20)),
}

#: Bodies that are larger are refused.
LARGEST = 1 << 20


class Site:
    """A site with documents that can be read and written, and some peculiarities."""

    def __init__(self) -> None:
        self.failures = 2

    def serve(self, peer: Peer) -> None:
        """Handle one connection."""
        with contextlib.suppress(EOFError, ConnectionError):
            while self._answer(peer):
                pass

    def _answer(self, peer: Peer) -> bool:
        request = peer.read_head()
        target = request.target
        size = int(request.field('Content-Length') or 0)
        if size > LARGEST:
            # RFC 9110, section 10.1.1: nothing follows if the client was asked to wait.
            asked = request.field('Expect') is not None
            peer.respond(status='413 Content Too Large')
            return asked
        if request.field('Expect') is not None:
            peer.send(b'HTTP/1.1 100 Continue\r\n\r\n')
        request = peer.read_body(request)
        if request.method in ('PUT', 'POST'):
            peer.respond(status='201 Created')
        elif target == '/unreliable' and self.failures:
            self.failures -= 1
            return False
        elif target == '/unreliable':
            peer.respond(b'in the end')
        elif target == '/slow':
            # Longer than the program is willing to wait at first.
            time.sleep(1)
            peer.respond(b'worth waiting for')
        elif target in DOCUMENTS:
            content_type, body = DOCUMENTS[target]
            peer.respond(body, fields=f'Content-Type: {content_type}')
        elif target.startswith('/documents/'):
            body = f'document {target.rpartition("/")[2]}'.encode()
            if request.method == 'HEAD':
                peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n' % len(body))
            else:
                peer.respond(body, fields='Content-Type: text/plain')
        else:
            peer.respond(b'no such document', status='404 Not Found')
        return True

    def proxy(self, peer: Peer) -> None:
        """Handle one connection as a proxy that asks for credentials."""
        request = peer.read_request()
        assert request.target.startswith('http://www.example.com/')
        assert request.field('Proxy-Authorization') == 'Basic ZnJvZzpzZWNyZXQ='
        peer.respond(b'document ' + request.target.rpartition('/')[2].encode())
        peer.read_to_eof()
