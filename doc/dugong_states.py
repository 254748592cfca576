"""State diagrams, made by running the library.

Nothing of a diagram is written down here but where the boxes stand and what the arrows are
called. The states and their meaning come from the tables in the library; an arrow is drawn if
that step was seen while the scenarios below were run. A state that no scenario reaches, a step
that has no name, and a name that belongs to no step are errors.
"""

import inspect
import re
import socket
from contextlib import suppress
from html import escape
from typing import Callable, Dict, List, NamedTuple, Set, Tuple

import dugong
from dugong import BodyFollowing, HTTPConnection, _body, _session
from dugong._buffer import _Buffer
from dugong._parser import parse_head

Step = Tuple[str, str]

#: Where bodies come from.
START = 'head'

#: Seconds after which a scenario that hangs is given up.
LIMIT = 10


class Diagram(NamedTuple):
    """*states* (name to meaning), the *steps* between them, and how they are drawn.

    *places* are columns and rows, *names* those of the steps.
    """

    states: Dict[str, str]
    steps: Set[Step]
    places: Dict[str, Tuple[float, float]]
    names: Dict[Step, str]

    def check(self) -> None:
        reached = {state for step in self.steps for state in step} - {START}
        for what, got, wanted in (
            ('states reached', reached, set(self.states)),
            ('states drawn', set(self.places) - {START}, set(self.states)),
            ('names of steps', set(self.names), self.steps),
        ):
            if got != wanted:
                raise ValueError(
                    f'{what}: missing {sorted(wanted - got)}, unexpected {sorted(got - wanted)}'
                )


def recording(cls: type, steps: Set[Step]) -> type:
    """Return a subclass of *cls* that notes in *steps* how its attribute `state` changes.

    What it is when the object has been made comes from `START`.
    """

    class Recording(cls):  # type: ignore[misc, valid-type]
        def __init__(self, *args):  # type: ignore[no-untyped-def]
            self._made = False
            super().__init__(*args)
            self._made = True
            steps.add((START, self.state.name))

        @property
        def state(self):  # type: ignore[no-untyped-def]
            return self._state

        @state.setter
        def state(self, state):  # type: ignore[no-untyped-def]
            if self._made and self._state is not state:
                steps.add((self._state.name, state.name))
            self._state = state

    return Recording


# Response bodies

_HEADS_AND_BODIES = (
    ('HTTP/1.1 200 OK\r\nContent-Length: 5', b'hello'),
    (
        'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked',
        b'5\r\nhello\r\n3\r\nyou\r\n0\r\nDate: today\r\n\r\n',
    ),
    ('HTTP/1.1 200 OK\r\nConnection: close', b'hello'),
    ('HTTP/1.1 200 OK\r\nContent-Length: +5', b'hello'),
    ('HTTP/1.1 204 No Content', b''),
)


def response_diagram() -> Diagram:
    """The states of a response body: all kinds of bodies, fed byte by byte."""
    steps: Set[Step] = set()
    cls = recording(_body.ResponseBody, steps)
    for head, data in _HEADS_AND_BODIES:
        body = cls('GET', parse_head(head))
        buf = _Buffer(1000)
        for position in range(len(data)):
            buf.d[buf.e] = data[position]
            buf.e += 1
            body.take_all(buf)
        if body.state is not _body.UNREADABLE:
            with suppress(dugong.ConnectionClosed):
                if body.state is not _body.DONE:
                    body.eof()
    return Diagram(
        {state.name: state.value for state in _body.ResponseState},
        steps,
        {
            START: (1.6, 0),
            'CHUNK_SIZE': (0, 1),
            'DATA': (1, 1),
            'UNTIL_EOF': (2.2, 1),
            'UNREADABLE': (3.1, 1),
            'CHUNK_END': (0.5, 2),
            'TRAILERS': (0, 3),
            'DONE': (1.6, 3),
        },
        {
            (START, 'CHUNK_SIZE'): 'chunked',
            (START, 'DATA'): 'length',
            (START, 'UNTIL_EOF'): 'close',
            (START, 'UNREADABLE'): 'no clear end',
            (START, 'DONE'): 'no body',
            ('CHUNK_SIZE', 'DATA'): 'size',
            ('DATA', 'CHUNK_END'): 'end of chunk',
            ('CHUNK_END', 'CHUNK_SIZE'): 'CRLF',
            ('CHUNK_SIZE', 'TRAILERS'): 'size 0',
            ('TRAILERS', 'DONE'): 'empty line',
            ('DATA', 'DONE'): 'all read',
            ('UNTIL_EOF', 'DONE'): 'connection ends',
        },
    )


# Connections


class Scenario:
    """A connection to a server that this object plays itself."""

    def __init__(self, note: Callable[[HTTPConnection], None]) -> None:
        self._note = note
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.conn = HTTPConnection('127.0.0.1', self._listener.getsockname()[1])
        self.conn.timeout = LIMIT
        note(self.conn)

    def call(self, name: str, *args: object, **kwargs: object) -> None:
        """Call a method of the connection, whatever comes of it."""
        with suppress(dugong._GeneralError):
            getattr(self.conn, name)(*args, **kwargs)
        self._note(self.conn)

    def request(self, **kwargs: object) -> None:
        self.call('send_request', 'PUT', '/', **kwargs)

    def accept(self) -> None:
        self.peer, _ = self._listener.accept()
        self.peer.settimeout(LIMIT)

    def answer(self, status: str, *fields: str, body: bytes = b'') -> None:
        lines = [f'HTTP/1.1 {status}', f'Content-Length: {len(body)}', *fields, '', '']
        self.peer.sendall('\r\n'.join(lines).encode() + body)

    def end(self) -> None:
        self.conn.disconnect()
        self.peer.close()
        self._listener.close()


def _accepted(it: Scenario) -> None:
    it.request(body=BodyFollowing(5), expect100=True)
    it.accept()
    it.peer.sendall(b'HTTP/1.1 100 Continue\r\n\r\n')
    it.call('read_response')
    it.call('write', b'hello')
    it.answer('201 Created')
    it.call('read_response')


def _refused(it: Scenario) -> None:
    it.request(body=BodyFollowing(5), expect100=True)
    it.accept()
    it.answer('413 Content Too Large')
    it.call('read_response')


def _refused_in_the_middle(it: Scenario) -> None:
    it.request(body=BodyFollowing(1 << 30))
    it.accept()
    it.answer('413 Content Too Large')
    # More than what the buffers of both sides hold.
    it.call('write', memoryview(bytes(1 << 26)))
    it.call('read_response')


def _hung_up_on(it: Scenario) -> None:
    it.request(body=BodyFollowing(1 << 30))
    it.accept()
    it.peer.close()
    it.call('write', bytes(1 << 26))
    it.call('write', bytes(1 << 26))
    it.call('read_response')
    it.call('reset')


def _closing(it: Scenario) -> None:
    it.request(body=BodyFollowing(0))
    it.accept()
    it.answer('200 OK', 'Connection: close', body=b'hello')
    it.call('read_response')
    it.call('readall')
    it.request()


def _asked_to_close(it: Scenario) -> None:
    it.request(headers={'Connection': 'close'})
    it.accept()
    it.answer('200 OK')
    it.call('read_response')


def _nonsense(it: Scenario) -> None:
    it.request()
    it.accept()
    it.peer.sendall(b'nonsense\r\n\r\n')
    it.call('read_response')
    it.call('reset')


def _given_up(it: Scenario) -> None:
    it.request()
    it.accept()
    it.call('disconnect')
    it.request()


def _idle(it: Scenario) -> None:
    it.request()
    it.accept()
    it.answer('200 OK')
    it.call('read_response')
    it.call('disconnect')


_SCENARIOS = (
    _accepted,
    _refused,
    _refused_in_the_middle,
    _hung_up_on,
    _closing,
    _asked_to_close,
    _nonsense,
    _given_up,
    _idle,
)


def request_diagram() -> Diagram:
    """The states of a request body, in all scenarios."""
    from dugong import _connection

    steps: Set[Step] = set()
    original = _body.RequestBody
    _connection.RequestBody = recording(original, steps)  # type: ignore[misc]
    try:
        for scenario in _SCENARIOS:
            it = Scenario(lambda conn: None)
            scenario(it)
            it.end()
    finally:
        _connection.RequestBody = original  # type: ignore[misc]
    return Diagram(
        {state.name: state.value for state in _body.RequestState},
        steps,
        {
            START: (0, 1),
            'AWAIT_CONTINUE': (1.1, 0),
            'WRITING': (1.1, 2),
            'COMPLETE': (2.2, 1),
        },
        {
            (START, 'AWAIT_CONTINUE'): 'expect100',
            (START, 'WRITING'): 'body follows',
            (START, 'COMPLETE'): 'nothing follows',
            ('AWAIT_CONTINUE', 'WRITING'): '100 (Continue)',
            ('AWAIT_CONTINUE', 'COMPLETE'): 'final response',
            ('WRITING', 'COMPLETE'): 'all written, or refused',
        },
    )


_CONNECTION_STATES = {
    'unconnected': 'nothing was sent yet, or everything was taken back by reset or disconnect',
    'open': 'connected, and fit for requests',
    'forgotten': 'disconnected locally while something was outstanding',
}


def connection_state(conn: HTTPConnection) -> str:
    session = conn._session
    if session.stream.forgotten:
        return 'forgotten'
    for name in ('fault', 'ended', 'send_fault', 'closing'):
        if getattr(session, name) is not None:
            return name
    return 'open' if session.stream.connected else 'unconnected'


def connection_diagram() -> Diagram:
    """What keeps a connection from being used, in all scenarios."""
    steps: Set[Step] = set()
    for scenario in _SCENARIOS:
        seen: List[str] = []

        def note(conn: HTTPConnection, seen: List[str] = seen) -> None:
            seen.append(connection_state(conn))

        it = Scenario(note)
        scenario(it)
        it.end()
        steps.update((a, b) for a, b in zip(seen, seen[1:]) if a != b)
    listed = re.findall(
        r'^- `(\w+)`: (.*?)[;.]$', inspect.getdoc(_session) or '', re.MULTILINE | re.DOTALL
    )
    return Diagram(
        {**_CONNECTION_STATES, **{name: ' '.join(text.split()) for name, text in listed}},
        steps,
        {
            'unconnected': (0, 1),
            'open': (1.1, 1),
            'closing': (1.1, 0),
            'ended': (2.2, 0),
            'send_fault': (2.2, 1),
            'fault': (2.2, 2.2),
            'forgotten': (1.1, 2.2),
        },
        {
            ('unconnected', 'open'): 'request',
            ('unconnected', 'closing'): 'request that asks to close',
            ('open', 'unconnected'): 'disconnect',
            ('open', 'forgotten'): 'disconnect',
            ('forgotten', 'open'): 'request',
            ('open', 'ended'): 'response that closes',
            ('open', 'send_fault'): 'upload refused',
            ('open', 'fault'): 'framing error',
            ('closing', 'ended'): 'last response',
            ('send_fault', 'fault'): 'no answer',
            ('send_fault', 'ended'): 'its answer',
            ('fault', 'forgotten'): 'disconnect',
        },
    )


DIAGRAMS = {
    'connection': connection_diagram,
    'request': request_diagram,
    'response': response_diagram,
}


# Drawing

COLUMN, ROW = 250, 110
BOX_WIDTH, BOX_HEIGHT = 130, 36


def svg(diagram: Diagram) -> str:
    """Draw *diagram*."""
    centres = {
        name: (x * COLUMN + BOX_WIDTH / 2 + 10, y * ROW + BOX_HEIGHT / 2 + 10)
        for name, (x, y) in diagram.places.items()
    }
    width = max(x for x, _ in centres.values()) + BOX_WIDTH / 2 + 10
    height = max(y for _, y in centres.values()) + BOX_HEIGHT / 2 + 10
    steps = '; '.join(f'{a} to {b}: {diagram.names[a, b]}' for a, b in sorted(diagram.steps))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
        f' style="max-width: {width:.0f}px" font-family="sans-serif" font-size="13"'
        f' role="img" aria-label="{escape(steps)}">',
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8"'
        ' markerHeight="8" orient="auto"><path d="M0 1 L10 5 L0 9 z" fill="#555"/></marker>'
        '</defs>',
    ]
    lines, labels, boxes = [], [], []
    for begin, end in sorted(diagram.steps):
        (x1, y1), (x2, y2) = centres[begin], centres[end]
        shift = 14 if (end, begin) in diagram.steps else 0
        length = ((x2 - x1) ** 2 + (y2 - y1) ** 2) ** 0.5
        dx, dy = (x2 - x1) / length, (y2 - y1) / length
        # Steps back and forth are drawn beside each other.
        x1, y1, x2, y2 = x1 - dy * shift, y1 + dx * shift, x2 - dy * shift, y2 + dx * shift
        x1, y1 = _leave_box(x1, y1, dx, dy, centres[begin])
        x2, y2 = _leave_box(x2, y2, -dx, -dy, centres[end])
        lines.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="#555"'
            ' marker-end="url(#tip)"/>'
        )
        # Two names side by side would cover each other.
        share = 0.35 if shift else 0.5
        labels.append(
            _label(diagram.names[begin, end], x1 + (x2 - x1) * share, y1 + (y2 - y1) * share)
        )
    for name, (x, y) in centres.items():
        radius = BOX_HEIGHT / 2 if name == START else 6
        boxes.append(
            f'<rect x="{x - BOX_WIDTH / 2:.1f}" y="{y - BOX_HEIGHT / 2:.1f}" width="{BOX_WIDTH}"'
            f' height="{BOX_HEIGHT}" rx="{radius}" fill="#eef3f8" stroke="#4a6a8a"/>'
            f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#123"'
            f' font-family="monospace">{escape(name)}</text>'
        )
    return '\n'.join([*parts, *lines, *labels, *boxes, '</svg>'])


def _label(name: str, x: float, y: float) -> str:
    """Return the name of a step, on a background that hides the line."""
    width = 7 * len(name) + 6
    return (
        f'<rect x="{x - width / 2:.1f}" y="{y - 9:.1f}" width="{width}" height="18" fill="#fff"/>'
        f'<text x="{x:.1f}" y="{y + 4:.1f}" text-anchor="middle" fill="#333">{escape(name)}</text>'
    )


def _leave_box(
    x: float, y: float, dx: float, dy: float, centre: Tuple[float, float]
) -> Tuple[float, float]:
    """Go from (x, y) in the direction (dx, dy) to the border of the box around *centre*."""
    distances = []
    for position, middle, direction, half in (
        (x, centre[0], dx, BOX_WIDTH / 2),
        (y, centre[1], dy, BOX_HEIGHT / 2),
    ):
        if abs(direction) > 1e-9:
            border = middle + (half if direction > 0 else -half)
            distances.append((border - position) / direction)
    distance = min(distances)
    return x + dx * distance, y + dy * distance
