"""The server closes, resets or stalls, and the caller gives up, at every offset of an upload.

The kernel takes as many bytes as the test allows (`Tap`), so that each send operation is caught
at each place it can be interrupted at.
"""

import contextlib
import pathlib
import socket
import threading
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest
from servers import LIMIT, Peer
from upload_support import FORMS, RUNNERS, Link, Refused, Running, Tap, answer, pattern

from dugong import ConnectionClosed, ConnectionTimedOut, HTTPConnection, StateError

CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'
OK = b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok'
REFUSAL = b'HTTP/1.1 413 No\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno'

#: Forms with different ways through the library.
DIFFERENT = ['bytes', 'file', 'list', 'written', 'written file', 'chunked', 'expect100']

SMALL = 50
# Large enough to be sent in several pieces.
LARGER = 40000


@pytest.fixture
def link(transport: str, certificates: Any) -> Iterator[Link]:
    with Link(certificates=certificates if transport == 'tls' else None) as link:
        link.conn.content_md5 = False
        yield link


@pytest.fixture
def tap(monkeypatch: pytest.MonkeyPatch) -> Tap:
    return Tap(monkeypatch)


class Upload:
    """An upload of *size* bytes in the given form, which can be run up to an offset."""

    def __init__(self, link: Link, tap: Tap, form: str, size: int, folder: pathlib.Path) -> None:
        self.link = link
        self.tap = tap
        self.form = FORMS[form]
        self.data = pattern(size)
        self.file = folder / 'body'
        self.file.write_bytes(self.data)
        self.received = b''
        self.running: Any = None
        # What goes over the connection as a whole.
        self.start(None)
        self.go_on()
        self.wire = self.received
        self.head = self.wire.index(b'\r\n\r\n') + 4
        link.feed(OK)
        assert answer(link.conn) == (200, b'ok')

    @property
    def conn(self) -> HTTPConnection:
        return self.link.conn

    def start(self, budget: Optional[int]) -> None:
        """Run it until *budget* bytes are sent and it wants to send more, or to its end."""
        self.received = b''
        self.tap.sock = self.conn._sock
        self.tap.budget = budget
        self._continued = not self.form.expect100
        self.running = Running(self.form.call(self.conn, self.data, self.file))
        for _ in range(1000):
            if self.running.done or self.tap.refused:
                break
            self.running.advance_once()
            self._serve()
        else:
            raise AssertionError('no end')
        self.tap.refused = False

    def _serve(self) -> None:
        """Receive what there is; answer the expectation once the head is complete."""
        self.received += self.link.available()
        if not self._continued and b'\r\n\r\n' in self.received:
            self._continued = True
            self.link.feed(CONTINUE)

    def go_on(self) -> None:
        """Run it to its end, with no limit any more."""
        self.tap.budget = None
        for _ in range(1000):
            done = self.running.advance()
            self._serve()
            if done:
                return
        raise AssertionError('no end')

    def finish(self) -> bool:
        """Run it to its end; whether it came there without `ConnectionClosed`."""
        self.tap.budget = None
        try:
            self.running.finish()
        except ConnectionClosed:
            return False
        return True

    def close(self) -> None:
        if self.running is not None:
            self.running.close()


@pytest.fixture
def start(link: Link, tap: Tap, tmp_path: pathlib.Path) -> Iterator[Callable[..., Upload]]:
    uploads: List[Upload] = []

    def make(form: str, size: int) -> Upload:
        uploads.append(Upload(link, tap, form, size, tmp_path))
        return uploads[-1]

    yield make
    for upload in uploads:
        upload.close()


def offsets(upload: Upload, every: int) -> List[int]:
    """Offsets in the upload: all around its joints, else one of *every*, in turn."""
    end = len(upload.wire)
    joints = [0, upload.head, upload.head + 1, upload.head + (1 << 14), 1 << 14, end]
    near = {joint + i for joint in joints for i in (-1, 0, 1)}
    return sorted(k for k in near | set(range(0, end, every)) if 0 <= k < end)


def step(transport: str, upload: Upload) -> int:
    """How many offsets apart the default run looks: there is a handshake to each over TLS."""
    return max(1, len(upload.wire) // (4 if transport == 'tls' else 30))


# The kernel takes part of it


@pytest.mark.parametrize('size', [SMALL, LARGER])
@pytest.mark.parametrize('form', FORMS)
def test_upload_that_is_held_up_at_an_offset_goes_on_there(
    form: str, size: int, start: Any
) -> None:
    upload = start(form, size)
    every = 1 if size == SMALL else 2999
    for offset in offsets(upload, every):
        upload.start(offset)
        assert not upload.running.done
        if form in ('written', 'chunked', 'expect100') and offset >= upload.head:
            assert upload.conn._out_remaining
        upload.go_on()
        assert upload.received == upload.wire
        upload.link.feed(OK)
        assert answer(upload.conn) == (200, b'ok')


@pytest.mark.parametrize('form', FORMS)
def test_trace_holds_each_byte_once(
    form: str, transport: str, certificates: Any, tap: Tap, monkeypatch: Any, tmp_path: Any
) -> None:
    monkeypatch.setenv('DUGONG_TRACEFILE', str(tmp_path / 'trace-%d'))
    monkeypatch.setattr(HTTPConnection, 'content_md5', False)
    with Link(certificates=certificates if transport == 'tls' else None) as link:
        upload = Upload(link, tap, form, SMALL, tmp_path)
        expected = upload.wire
        for offset in (1, upload.head, upload.head + 1, upload.head + SMALL // 2):
            upload.start(offset)
            upload.go_on()
            expected += upload.wire
            link.feed(OK)
            assert answer(link.conn) == (200, b'ok')
        upload.close()
    (trace,) = tmp_path.glob('trace-*')
    sent = trace.read_bytes().replace(OK, b'').replace(CONTINUE, b'')
    assert sent == expected


@pytest.mark.parametrize('form', FORMS)
def test_upload_that_is_sent_byte_by_byte(form: str, start: Any) -> None:
    upload = start(form, SMALL)
    tap = upload.tap
    upload.start(0)
    while not upload.running.done:
        tap.budget = 1
        tap.refused = False
        while not (upload.running.done or tap.refused):
            upload.running.advance_once()
            upload._serve()
    assert upload.received == upload.wire
    upload.link.feed(OK)
    assert answer(upload.conn) == (200, b'ok')


# Faults of the server


class Fault(NamedTuple):
    """What the server does: it sends *reply*, and the connection ends with *end*."""

    reply: bytes
    end: Callable[[Link], None]


FAULTS: Dict[str, Fault] = {
    'close': Fault(b'', Link.close_peer),
    'end': Fault(b'', Link.end),
    'reset': Fault(b'', Link.reset),
    'answer, close': Fault(REFUSAL, Link.close_peer),
    'answer, end': Fault(REFUSAL, Link.end),
    'answer, reset': Fault(REFUSAL, Link.reset),
    'part of an answer, close': Fault(REFUSAL[:20], Link.close_peer),
    'part of an answer, reset': Fault(REFUSAL[:20], Link.reset),
}


def check_fault(upload: Upload, fault: Fault, offset: int) -> None:
    link, conn = upload.link, upload.conn
    upload.start(offset)
    if fault.reply:
        link.feed(fault.reply)
    fault.end(link)
    final: Optional[Tuple[int, bytes]] = None
    try:
        complete = upload.finish()
    except Refused as exc:
        # The answer came in place of 100.
        complete = True
        assert exc.args[0].status == 413
        final = 413, bytes(conn.readall())
    with contextlib.suppress(ConnectionClosed, StateError):
        final = final or answer(conn)
    if fault.reply != REFUSAL:
        assert final is None
    elif complete or offset >= upload.head:
        # It was there before the connection ended.
        assert final == (413, b'no')
    for use in (
        lambda: conn.write(b'x'),
        lambda: (conn.send_request('GET', '/'), conn.read_response()),
        conn.write_eof,
    ):
        with pytest.raises((ConnectionClosed, StateError)):
            use()
    upload.running.close()
    link.connect()


@pytest.mark.parametrize('kind', FAULTS)
@pytest.mark.parametrize('form', DIFFERENT)
def test_server_ends_the_connection_at_an_offset(
    form: str, kind: str, transport: str, start: Any
) -> None:
    upload = start(form, SMALL)
    for offset in offsets(upload, step(transport, upload)):
        check_fault(upload, FAULTS[kind], offset)
    works(upload)


@pytest.mark.parametrize('kind', ['close', 'reset', 'answer, close', 'answer, reset'])
@pytest.mark.parametrize('form', DIFFERENT)
def test_server_ends_the_connection_at_an_offset_of_a_larger_body(
    form: str, kind: str, start: Any
) -> None:
    upload = start(form, LARGER)
    for offset in offsets(upload, len(upload.wire)):
        check_fault(upload, FAULTS[kind], offset)
    works(upload)


@pytest.mark.slow
@pytest.mark.parametrize('kind', FAULTS)
@pytest.mark.parametrize('form', FORMS)
def test_server_ends_the_connection_at_every_offset(form: str, kind: str, start: Any) -> None:
    upload = start(form, SMALL)
    for offset in range(len(upload.wire)):
        check_fault(upload, FAULTS[kind], offset)
    works(upload)


def works(upload: Upload) -> None:
    """Check that the object can be used again."""
    upload.start(None)
    upload.go_on()
    assert upload.received == upload.wire
    upload.link.feed(OK)
    assert answer(upload.conn) == (200, b'ok')


# The caller gives up


def _time_out(upload: Upload) -> None:
    with pytest.raises(ConnectionTimedOut):
        upload.running.throw(ConnectionTimedOut('too late'))


def _interrupt(upload: Upload) -> None:
    with pytest.raises(KeyboardInterrupt):
        upload.running.throw(KeyboardInterrupt())


def _abandon(upload: Upload) -> None:
    upload.running.close()


@pytest.mark.parametrize('give_up', [_time_out, _interrupt, _abandon])
@pytest.mark.parametrize('form', DIFFERENT)
def test_caller_gives_up_at_an_offset(
    form: str, give_up: Callable[[Upload], None], transport: str, start: Any
) -> None:
    upload = start(form, SMALL)
    for offset in offsets(upload, step(transport, upload)):
        upload.start(offset)
        give_up(upload)
        upload.tap.budget = None
        check_broken(upload, offset)
        upload.link.connect()
    works(upload)


def check_broken(upload: Upload, offset: int) -> None:
    conn = upload.conn
    for use in (
        conn.read_response,
        lambda: conn.write(b'x'),
        conn.write_eof,
        lambda: conn.send_request('GET', '/'),
    ):
        with pytest.raises(ConnectionClosed):
            use()
    # The server learns that there will not be any more.
    with contextlib.suppress(ConnectionResetError):
        while True:
            data = upload.link.peer.recv(1 << 16)
            if not data:
                break
            upload.received += data
    assert upload.received == upload.wire[:offset]


@pytest.mark.parametrize('form', DIFFERENT)
def test_reset_by_the_caller_at_an_offset(form: str, transport: str, start: Any) -> None:
    upload = start(form, SMALL)
    for offset in offsets(upload, step(transport, upload)):
        upload.start(offset)
        upload.conn.reset()
        with pytest.raises(ConnectionClosed):
            upload.running.step()
        for use in (upload.conn.read_response, lambda: upload.conn.write(b'x')):
            with pytest.raises(ConnectionClosed):
                use()
        assert not upload.conn._out_remaining
        upload.tap.budget = None
        upload.link.connect()
    works(upload)


# Real sockets with real buffers


class Ending:
    """A handler that receives *amount* bytes, and then does what *how* says."""

    def __init__(self, how: str, amount: int) -> None:
        self.how = how
        self.amount = amount
        self.over = threading.Event()

    def __call__(self, peer: Peer) -> None:
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        left = self.amount
        head = b''
        while left:
            data = peer.sock.recv(min(left, 65536))
            if not data:
                return
            left -= len(data)
            if b'\r\n\r\n' not in head:
                head += data
                if b'\r\n\r\n' in head and b'\r\nExpect:' in head:
                    peer.send(CONTINUE)
        if self.how == 'close':
            peer.close()
        elif self.how == 'reset':
            peer.reset()
        else:
            assert self.over.wait(LIMIT)


REAL_SIZE = 6 << 20


@pytest.mark.parametrize('how', ['close', 'reset', 'stall'])
@pytest.mark.parametrize('form', [*DIFFERENT, 'stream', 'expect100 file'])
def test_real_server_ends_or_stalls(
    form: str, how: str, transport: str, serve: Any, connect: Any, tmp_path: pathlib.Path
) -> None:
    amounts = [0, 300000] if how == 'stall' else [0, 1, 100, 1000, 300000]
    endings = [Ending(how, amount) for amount in amounts]
    conn = connect(serve(endings))
    conn.content_md5 = False
    path = tmp_path / 'large'
    with path.open('wb') as file:
        file.truncate(REAL_SIZE)
    expected: Any = {
        'close': ConnectionClosed,
        # If it comes very early, the connection could not be made.
        'reset': (ConnectionClosed, ConnectionResetError),
        'stall': ConnectionTimedOut,
    }[how]
    try:
        for _ in endings:
            if how == 'stall':
                conn.connect()
                conn.timeout = 0.03
            with pytest.raises(expected):
                RUNNERS['blocking'](conn, FORMS[form].call, bytes(REAL_SIZE), path)
                answer(conn)
            conn.reset()
            conn.timeout = LIMIT
    finally:
        for ending in endings:
            ending.over.set()
