"""The message object with header fields behaves as one that `email` has made."""

import copy
import pickle
from email.message import Message
from typing import Any

import pytest

from dugong._fields import ResponseFields
from dugong._parser import split_fields

LINES = '\r\nServer: x\r\nETag:\t"a:b" \r\nServer: y\r\nX-Empty:\r\nX-Name: \xe4\xc4'

NAMES = [
    'server',
    'ETAG',
    'etag',
    'X-Empty',
    'x-name',
    'Name',
    'tag',
    '',
    ':',
    'server:',
    'Ser:ver',
]


def reference() -> Message:
    message = Message()
    for name, value in split_fields(LINES):
        message[name] = value
    return message


@pytest.mark.parametrize('name', [*NAMES, 'x\r\nServer', 'ETag:\t"a', 'X-N\xc4me', '\u212aelvin'])
def test_lookup_gives_what_a_message_gives(name: str) -> None:
    fields, expected = ResponseFields(LINES), reference()
    assert fields.get(name) == expected.get(name)
    assert fields.get(name, 'none') == expected.get(name, 'none')
    assert fields[name] == expected[name]
    assert (name in fields) == (name in expected)
    assert fields.get_all(name) == expected.get_all(name)
    # Now that it is split.
    assert fields.get(name) == expected.get(name)


def test_a_message_with_all_its_fields() -> None:
    fields = ResponseFields(LINES)
    assert isinstance(fields, Message)
    assert fields.items() == reference().items()
    assert len(fields) == 5 and str(fields) == str(reference())


def test_last_field_ends_with_the_text() -> None:
    assert ResponseFields('\r\nA: b')['a'] == 'b'


def test_without_fields() -> None:
    fields = ResponseFields('')
    assert fields['A'] is None
    assert fields.items() == []


def test_changes_are_seen_by_lookups() -> None:
    fields = ResponseFields(LINES)
    assert fields['Server'] == 'x'
    del fields['Server']
    fields['New'] = 'z'
    assert fields['Server'] is None
    assert fields['new'] == 'z'
    fields.replace_header('ETag', 'c')
    assert fields['etag'] == 'c'


@pytest.mark.parametrize('split', [False, True])
@pytest.mark.parametrize(
    'copied', [copy.copy, copy.deepcopy, lambda fields: pickle.loads(pickle.dumps(fields))]
)
def test_copies_hold_the_same(copied: Any, split: bool) -> None:
    fields = ResponseFields(LINES)
    if split:
        assert len(fields) == 5
    other = copied(fields)
    assert other['etag'] == '"a:b"' and other.items() == fields.items()


def test_what_is_set_first_stays() -> None:
    fields = ResponseFields(LINES)
    fields.preamble = 'before'
    fields.set_payload('content')
    assert len(fields) == 5
    assert (fields.preamble, fields.get_payload()) == ('before', 'content')
    assert (fields.defects, fields.epilogue) == ([], None)


def test_what_no_message_has() -> None:
    with pytest.raises(AttributeError, match="'ResponseFields' object has no attribute 'nothing'"):
        ResponseFields(LINES).nothing  # noqa: B018
