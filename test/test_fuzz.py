"""Properties of all responses: any split gives the same result, any damage a result or an error.

Examples are the same in each run, unless the environment variable DUGONG_TEST_FULL=1 asks for
many more, different ones. `test/fuzz/` does the same guided by coverage, for as long as one likes.
"""

import os
from pathlib import Path
from typing import Any, List, NamedTuple, Optional, Tuple

import pytest
from fuzz_support import LIMITS, check_input, check_stream
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wire_support import FORMS, Wire, fetch

import dugong

FULL = bool(os.environ.get('DUGONG_TEST_FULL'))

settings.register_profile(
    'dugong',
    max_examples=2000 if FULL else 60,
    # The same examples everywhere, and no database of those that failed.
    derandomize=not FULL,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
profile = settings(settings.get_profile('dugong'))

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800 if FULL else 120)]


class Example(NamedTuple):
    """Bytes of a response, and what a client should see of it."""

    data: bytes
    status: int
    reason: str
    fields: List[Tuple[str, str]]
    body: bytes
    trailers: List[Tuple[str, str]]


def text(alphabet: str, **sizes: int) -> Any:
    return st.text(alphabet=st.sampled_from(alphabet), **sizes)


TOKEN = "!#$%&'*+-.^_`|~09AZaz"
VALUE = '!"(),/:;<=>?@[\\]{}azAZ09\xa0\xff\x01\t '

names = text(TOKEN, min_size=1, max_size=8).map(lambda name: 'X' + name)
values = text(VALUE, max_size=12).map(lambda value: value.strip(' \t'))
whitespace = text(' \t', max_size=2)
reasons = st.one_of(st.sampled_from([None, '', 'OK']), text(VALUE, max_size=10))
bodies = st.one_of(
    st.binary(max_size=80),
    # Bodies that look like something else.
    st.sampled_from(
        [b'\r\n', b'0\r\n\r\n', b'\r\n0\r\n\r\n', b'5\r\nhello\r\n', b'HTTP/1.1 200 OK\r\n\r\n']
    ),
)


@st.composite
def field_lines(draw: Any) -> Tuple[str, List[Tuple[str, str]]]:
    """Field lines with all that is allowed around values, and the fields that they are."""
    lines, fields = '', []
    for name, first in draw(st.lists(st.tuples(names, values), max_size=4)):
        parts = [first]
        lines += f'{name}:{draw(whitespace)}{first}{draw(whitespace)}\r\n'
        for part in draw(st.lists(values.filter(bool), max_size=2)):
            lines += f'{draw(text(" 	", min_size=1, max_size=3))}{part}{draw(whitespace)}\r\n'
            parts.append(part)
        fields.append((name, ' '.join(parts).strip(' \t')))
    return lines, fields


@st.composite
def chunked(draw: Any, body: bytes) -> Tuple[bytes, List[Tuple[str, str]]]:
    """*body* in chunks of any size with extensions and trailers, and the trailer fields."""
    data = b''
    while body:
        size = draw(st.integers(1, len(body)))
        data += draw(chunk_lines(size)) + body[:size] + b'\r\n'
        body = body[size:]
    lines, fields = draw(field_lines())
    return data + draw(chunk_lines(0)) + lines.encode('latin1') + b'\r\n', fields


def chunk_lines(size: int) -> Any:
    extensions = ['', ';a', ' ; a = b', ';a="b;c"', ';a="\\"";b', '\t;a=""']
    return st.builds(
        lambda zeros, upper, extension: (
            '0' * zeros + (f'{size:X}' if upper else f'{size:x}') + extension + '\r\n'
        ).encode(),
        st.integers(0, 3),
        st.booleans(),
        st.sampled_from(extensions),
    )


@st.composite
def responses(draw: Any, last: bool = False) -> Example:
    """Valid responses; those that close the connection only if they are the *last*."""
    status = draw(st.sampled_from([200, 204, 299, 304, 404, 999]))
    reason = draw(reasons)
    lines, fields = draw(field_lines())
    head = f'HTTP/1.1 {status}' + ('' if reason is None else ' ' + reason) + '\r\n' + lines
    trailers: List[Tuple[str, str]] = []
    body = b'' if status in (204, 304) else draw(bodies)
    framing = draw(
        st.sampled_from(['length', 'chunked', 'close'] if last else ['length', 'chunked'])
    )
    data = body
    if status in (204, 304):
        own: List[Tuple[str, str]] = []
    elif framing == 'length':
        own = [('Content-Length', str(len(body)))]
    elif framing == 'close':
        own = [('Connection', 'close')]
    else:
        own = [('Transfer-Encoding', 'chunked')]
        data, trailers = draw(chunked(body))
    head += ''.join(f'{name}: {value}\r\n' for name, value in own)
    interim = draw(st.sampled_from(['', '', 'HTTP/1.1 103 X\r\nA: b\r\n\r\n']))
    return Example(
        (interim + head + '\r\n').encode('latin1') + data,
        status,
        # Without the white space around it.
        (reason or '').strip(' \t'),
        fields + own,
        body,
        trailers,
    )


@st.composite
def streams(draw: Any) -> List[Example]:
    """Answers to pipelined requests."""
    examples = draw(st.lists(responses(), max_size=2))
    return [*examples, draw(responses(last=True))]


@st.composite
def splits(draw: Any, data: bytes) -> List[bytes]:
    """*data* in pieces."""
    cuts = draw(st.lists(st.integers(0, len(data)), max_size=8))
    places = [0, *sorted(cuts), len(data)]
    return [data[begin:end] for begin, end in zip(places, places[1:])]


@profile
@given(data=st.data())
@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('size', [None, 63])
def test_any_split_of_a_valid_response_gives_the_same(form, size, data):
    examples = data.draw(streams())
    pieces = data.draw(splits(b''.join(example.data for example in examples)))
    with Wire() as wire:
        if size is not None:
            wire.conn._rbuf = dugong._Buffer(size)
        outcome = fetch(wire, pieces, len(examples), form)
    assert outcome.error is None
    for example, answer in zip(examples, outcome.answers):
        assert (answer.status, answer.reason) == (example.status, example.reason)
        assert answer.fields == example.fields
        assert answer.body == (b'' if form == 'discard' else example.body)
        assert answer.trailers == example.trailers
    assert len(outcome.answers) == len(examples)


INTERESTING = [
    *[b'\r', b'\n', b'\r\n', b'\0', b' ', b'\t', b':', b';', b',', b'"', b'\\', b'0', b'1', b'9'],
    *[b'-', b'+', b'_', b'x', b'\xff', b'\xb2', b'f' * 16, b'9' * 20, b'HTTP/1.1 200 OK\r\n'],
    *[b'Content-Length: 3\r\n', b'Transfer-Encoding: chunked\r\n', b'Connection: close\r\n'],
    *[
        b'HTTP/1.0',
        b'HTTP/2',
        b'\r\n\r\n',
        b'0\r\n\r\n',
        b'HTTP/1.1 100 X\r\n\r\n',
        b'101',
        b'204',
    ],
]


@st.composite
def damaged(draw: Any) -> bytes:
    """Responses in which something was deleted, inserted, replaced, repeated or cut off."""
    stream = b''.join(example.data for example in draw(streams()))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(stream)))
        end = min(len(stream), begin + draw(st.sampled_from([0, 0, 1, 2, 5, 30])))
        new = draw(
            st.one_of(
                st.sampled_from([b'', stream[begin:end] * 2, *INTERESTING]), st.binary(max_size=3)
            )
        )
        stream = stream[:begin] + new + stream[end:]
    return stream


@profile
@given(stream=damaged(), options=st.integers(0, 255))
def test_any_damage_gives_a_result_or_an_error(stream, options):
    with Wire() as wire:
        check_stream(wire, stream, options)


@profile
@given(stream=st.binary(max_size=50), options=st.integers(0, 255))
def test_any_bytes_give_a_result_or_an_error(stream, options):
    with Wire() as wire:
        check_stream(wire, stream, options)
        check_stream(wire, b'HTTP/1.1 200 OK\r\n' + stream, options)


def test_the_seeds_of_the_fuzzer(monkeypatch):
    for name, value in LIMITS.items():
        monkeypatch.setattr(dugong, name, value)
    seeds = sorted(Path(__file__).parent.joinpath('fuzz', 'corpus').iterdir())
    assert len(seeds) > 50
    failed = {}
    with Wire() as wire:
        for seed in seeds:
            try:
                check_input(wire, seed.read_bytes())
            except Exception as exc:
                failed[seed.name] = exc
    assert not failed


def h11_answers(stream: bytes, count: int) -> List[Tuple[int, bytes]]:
    """The answers to *count* requests that h11 finds in *stream* before anything it refuses."""
    h11 = pytest.importorskip('h11')
    conn = h11.Connection(h11.CLIENT)
    fed = False
    answers: List[Tuple[int, bytes]] = []
    for _ in range(count):
        conn.send(h11.Request(method='GET', target='/', headers=[('Host', 'x')]))
        conn.send(h11.EndOfMessage())
        if not fed:
            conn.receive_data(stream)
            conn.receive_data(b'')
            fed = True
        status: Optional[int] = None
        body = b''
        while True:
            try:
                event = conn.next_event()
            except h11.RemoteProtocolError:
                return answers
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert status is not None
                answers.append((status, body))
                break
            elif not isinstance(event, h11.InformationalResponse):
                return answers
        try:
            conn.start_next_cycle()
        except h11.ProtocolError:
            return answers
    return answers


@profile
@given(stream=damaged())
def test_a_damaged_response_means_the_same_to_h11(stream):
    """Another parser may be stricter here and more tolerant there, but not see another body."""
    with Wire() as wire:
        wire.conn.assume_close = True
        outcome = fetch(wire, [stream], 3)
    ours = [(answer.status, answer.body) for answer in outcome.answers]
    theirs = h11_answers(stream, 3)
    common = min(len(ours), len(theirs))
    assert ours[:common] == theirs[:common]
