"""Run the published dugong 3.8.2 and this checkout side by side, as black boxes.

Each implementation gets a process of its own (`compat_runner.py`), without other threads, that
runs one scenario of `compat_scenarios.py` after the other. The scripted servers live in the
process of the test and write down what they receive. An outcome is plain JSON data; two outcomes
are compared value by value.
"""

import contextlib
import hashlib
import json
import os
import re
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

from servers import LIMIT, Peer, ScriptedServer

#: The release to compare with.
PUBLISHED = '3.8.2'

#: Seconds that the package index has for its answer, and that a build may take.
INSTALL_LIMIT = 120


class Unavailable(Exception):
    """The published release cannot be had or used here; the text says why."""


def install(folder: Path) -> Path:
    """Install the published release into *folder* from the package index.

    Raises `Unavailable` without an index, without pip, or if the package cannot be built here.
    """
    command = [sys.executable, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    command += ['--no-deps', '--retries=0', '--timeout=15', '--target', str(folder)]
    # Comes as source only, so that pip fetches setuptools, too, to build it.
    command += [f'dugong=={PUBLISHED}']
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=INSTALL_LIMIT,
            # A configuration that asks for questions or user installs does not fit --target.
            env={**os.environ, 'PIP_NO_INPUT': '1', 'PIP_USER': '0'},
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f'pip did not end within {INSTALL_LIMIT} s') from None
    if result.returncode:
        lines = result.stdout.decode(errors='replace').splitlines() or ['no message']
        reason = next((line for line in lines if line.startswith('ERROR')), lines[-1])
        raise Unavailable(f'pip cannot install dugong=={PUBLISHED}: {reason}')
    return folder


class Recorder:
    """A socket that writes down what is received."""

    def __init__(self, sock: socket.socket, received: bytearray) -> None:
        self._sock = sock
        self._received = received

    def recv(self, size: int) -> bytes:
        data = self._sock.recv(size)
        self._received += data
        return data

    def peek(self) -> None:
        """Wait until something has come, without taking it."""
        self._sock.recv(1, socket.MSG_PEEK)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class RecordingPeer(Peer):
    """The server's end of a connection; *received* grows, across `start_tls` too."""

    def __init__(self, sock: Any, received: bytearray, server_context: ssl.SSLContext) -> None:
        super().__init__(Recorder(sock, received))  # type: ignore[arg-type]
        self.received = received
        self._server_context = server_context

    def start_tls(self) -> None:
        """Go on in TLS on the same connection."""
        plain = self.sock._sock  # type: ignore[attr-defined]
        secured = self._server_context.wrap_socket(plain, server_side=True)
        self.sock = Recorder(secured, self.received)  # type: ignore[assignment]


Script = Callable[[RecordingPeer], None]


class Recording:
    """A scripted server together with what its connections received, in order of arrival."""

    def __init__(self, script: Script, server_context: ssl.SSLContext, tls: bool) -> None:
        # By the names of the threads that serve them, which the server numbers.
        self._connections: Dict[str, bytearray] = {}
        self._script = script
        self._context = server_context
        self.server = ScriptedServer(self._handle, server_context if tls else None)

    def _handle(self, peer: Peer) -> None:
        received = self._connections[threading.current_thread().name] = bytearray()
        recording = RecordingPeer(peer.sock, received, self._context)
        try:
            self._script(recording)
        finally:
            # After start_tls(), the server closes the plain socket, which has been detached.
            recording.sock.close()

    def received(self) -> List[bytes]:
        """What the connections received, in the order in which they were made.

        Only those that sent something: the one of `settle` does not count.
        """
        numbered = ((int(name[len('peer-') :]), data) for name, data in self._connections.items())
        return [bytes(data) for _, data in sorted(numbered) if data]

    def settle(self) -> None:
        """Wait until all connections made so far have been accepted."""
        with socket.create_connection(self.server.address, LIMIT) as last:
            last.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionError):
                while last.recv(4096):
                    pass


#: The beginning of a request in a stream of requests. No body of a scenario looks like one.
_REQUEST_LINE = re.compile(rb'[A-Z][A-Z!-]* [^\r\n]*HTTP/1\.[01]\r\n')


def requests_in(received: bytes, port: int) -> List[Dict[str, Any]]:
    """Split what a server received into requests: line, count of each field line, body.

    The server's *port* is written as `PORT`, so that two servers can be compared.
    """
    received = re.sub(rb':%d\b' % port, b':PORT', received)
    starts = [match.start() for match in _REQUEST_LINE.finditer(received)]
    if received and starts[:1] != [0]:
        return [{'unexpected': describe(received)}]
    result = []
    for start, end in zip(starts, [*starts[1:], len(received)]):
        head, separator, body = received[start:end].partition(b'\r\n\r\n')
        line, *fields = head.decode('latin1').split('\r\n')
        if not separator:
            line += ' (cut short)'
        result.append({'line': line, 'fields': dict(Counter(fields)), 'body': describe(body)})
    return result


def describe(data: bytes) -> str:
    """*data* as text; a long one by size and digest."""
    if len(data) > 200:
        return f'{len(data)} bytes, SHA-256 {hashlib.sha256(data).hexdigest()[:16]}'
    return repr(bytes(data))


class Implementation:
    """A process that has imported the dugong below *folder* and runs scenarios with it.

    *options* are for the interpreter. What it prints is collected in the file *printed*.
    """

    def __init__(
        self, folder: Path, cafile: Path, printed: Path, options: Tuple[str, ...] = ()
    ) -> None:
        runner = Path(__file__).with_name('compat_runner.py')
        self._command = [sys.executable, *options, str(runner), str(folder)]
        # Tracing and other settings of the caller are not for the scenarios.
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith('DUGONG')}
        self._environment['PYTHONDONTWRITEBYTECODE'] = '1'
        self._environment['COMPAT_CAFILE'] = str(cafile)
        self._printed = printed.open('w+b', buffering=0)
        self.version = self._start()

    def _start(self) -> str:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._printed,
            env=self._environment,
        )
        self._unread = b''
        greeting = self._receive()
        if 'version' not in greeting:
            self.stop()
            raise Unavailable(greeting['failed'])
        version: str = greeting['version']
        return version

    def _receive(self) -> Dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + LIMIT
        while b'\n' not in self._unread:
            wait = deadline - time.monotonic()
            if wait <= 0 or not select.select([descriptor], [], [], wait)[0]:
                self._end()
                return {'failed': f'no result after {LIMIT} s'}
            data = os.read(descriptor, 65536)
            if not data:
                code = self._process.wait(LIMIT)
                self._end()
                return {'failed': f'process ended with code {code}: {self.printed()[-300:]}'}
            self._unread += data
        line, _, self._unread = self._unread.partition(b'\n')
        answer: Dict[str, Any] = json.loads(line)
        return answer

    def run(self, name: str, port: int) -> Any:
        """Run the scenario *name* against the server at *port*, return its result."""
        if self._process.returncode is not None:
            self._start()
        assert self._process.stdin is not None
        job = json.dumps({'scenario': name, 'port': port})
        self._process.stdin.write(job.encode() + b'\n')
        self._process.stdin.flush()
        answer = self._receive()
        assert 'result' in answer, f'scenario {name} is broken: {answer}'
        return answer['result']

    def printed(self) -> str:
        """What the process has printed since the last call."""
        return self._printed.read().decode(errors='replace')

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()

    def stop(self) -> None:
        """End the process."""
        if self._process.returncode is None:
            try:
                self._process.communicate(timeout=LIMIT)
            except subprocess.TimeoutExpired:
                self._end()
        self._printed.close()


#: Stands for a value that one of the implementations does not have at all.
ABSENT = 'absent'


def differences(old: Any, new: Any, path: str = '') -> Dict[str, Tuple[Any, Any]]:
    """Where two outcomes differ: path to (old value, new value).

    Lists of different lengths differ in `len(path)`, and are compared as far as both go.
    """
    found: Dict[str, Tuple[Any, Any]] = {}
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f'{path}.{key}' if path else key
            found.update(differences(old.get(key, ABSENT), new.get(key, ABSENT), inner))
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            found[f'len({path})'] = (len(old), len(new))
        for index, pair in enumerate(zip(old, new)):
            found.update(differences(*pair, f'{path}[{index}]'))
    elif old != new:
        found[path] = (old, new)
    return found


def outcome(
    implementation: Implementation,
    name: str,
    script: Script,
    server_context: ssl.SSLContext,
    tls: bool,
) -> Dict[str, Any]:
    """Run one scenario against a server of its own; its result and the requests received."""
    recording = Recording(script, server_context, tls)
    try:
        result = implementation.run(name, recording.server.port)
        recording.settle()
    finally:
        # A client that goes away is part of many scenarios; it shows in what was received.
        with contextlib.suppress(OSError, EOFError):
            recording.server.stop()
    port = recording.server.port
    requests = [requests_in(data, port) for data in recording.received()]
    return {'result': result, 'requests': requests}
