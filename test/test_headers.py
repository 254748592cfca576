"""Section 12 of the contract: the mapping with case-insensitive keys."""

import collections.abc
import copy
import pickle
from collections import OrderedDict
from types import MappingProxyType
from typing import Any

import pytest

from dugong import CaseInsensitiveDict


@pytest.fixture
def mapping() -> Any:
    return CaseInsensitiveDict({'Content-Type': 'text/plain', 'X-One': '1'})


def test_is_a_mutable_mapping(mapping: Any) -> None:
    assert isinstance(mapping, collections.abc.MutableMapping)


def test_starts_empty() -> None:
    assert len(CaseInsensitiveDict()) == 0
    assert not CaseInsensitiveDict()


@pytest.mark.parametrize(
    'source',
    [
        {'Key': 'value'},
        [('Key', 'value')],
        iter([('Key', 'value')]),
        MappingProxyType({'Key': 'value'}),
        CaseInsensitiveDict({'Key': 'value'}),
        OrderedDict(Key='value'),
    ],
    ids=lambda source: type(source).__name__,
)
def test_can_be_made_from(source: Any) -> None:
    assert list(CaseInsensitiveDict(source).items()) == [('Key', 'value')]


def test_can_be_made_from_keywords() -> None:
    made = CaseInsensitiveDict({'KEY': 'old'}, key='value', Other='2')
    assert list(made.items()) == [('key', 'value'), ('Other', '2')]


@pytest.mark.parametrize('key', ['Content-Type', 'content-type', 'CONTENT-TYPE', 'cOnTeNt-TyPe'])
def test_looks_up_in_any_case(mapping: Any, key: str) -> None:
    assert mapping[key] == 'text/plain'
    assert mapping.get(key) == 'text/plain'
    assert key in mapping
    assert mapping.pop(key) == 'text/plain'
    assert 'Content-Type' not in mapping


@pytest.mark.parametrize('key', ['x-one', 'X-ONE'])
def test_deletes_in_any_case(mapping: Any, key: str) -> None:
    del mapping[key]
    assert list(mapping) == ['Content-Type']


def test_missing_key_is_a_key_error_that_names_it(mapping: Any) -> None:
    with pytest.raises(KeyError) as info:
        mapping['X-Two']
    assert info.value.args == ('X-Two',) or 'x-two' in str(info.value).lower()
    with pytest.raises(KeyError):
        del mapping['X-Two']
    with pytest.raises(KeyError):
        mapping.pop('X-Two')
    assert mapping.get('X-Two') is None
    assert mapping.get('X-Two', 'default') == 'default'
    assert 'X-Two' not in mapping


def test_remembers_the_last_spelling(mapping: Any) -> None:
    mapping['CONTENT-type'] = 'text/html'
    assert mapping['Content-Type'] == 'text/html'
    assert set(mapping) == {'CONTENT-type', 'X-One'}
    assert set(mapping.keys()) == {'CONTENT-type', 'X-One'}
    assert set(mapping.items()) == {('CONTENT-type', 'text/html'), ('X-One', '1')}
    assert len(mapping) == 2


def test_update_remembers_the_last_spelling(mapping: Any) -> None:
    mapping.update({'x-ONE': '2', 'New': '3'})
    assert set(mapping.items()) == {
        ('Content-Type', 'text/plain'),
        ('x-ONE', '2'),
        ('New', '3'),
    }


def test_setdefault_ignores_case(mapping: Any) -> None:
    assert mapping.setdefault('x-one', 'other') == '1'
    assert set(mapping) == {'Content-Type', 'X-One'}
    assert mapping.setdefault('X-Two', '2') == '2'
    assert mapping['x-two'] == '2'


def test_keeps_the_order_of_insertion() -> None:
    keys = ['Zulu', 'alpha', 'Mike', 'bravo']
    assert list(CaseInsensitiveDict((key, key) for key in keys)) == keys


def test_lower_items(mapping: Any) -> None:
    assert sorted(mapping.lower_items()) == [('content-type', 'text/plain'), ('x-one', '1')]


def test_copy_is_equal_and_independent(mapping: Any) -> None:
    twin = mapping.copy()
    assert type(twin) is CaseInsensitiveDict
    assert list(twin.items()) == list(mapping.items())
    twin['X-One'] = 'changed'
    twin['X-Two'] = 'new'
    del twin['content-type']
    assert dict(mapping) == {'Content-Type': 'text/plain', 'X-One': '1'}


@pytest.mark.parametrize(
    'duplicate',
    [copy.deepcopy, lambda mapping: pickle.loads(pickle.dumps(mapping))],
    ids=['deepcopy', 'pickle'],
)
def test_duplicates_are_equal_and_independent(mapping: Any, duplicate: Any) -> None:
    twin = duplicate(mapping)
    assert list(twin.items()) == list(mapping.items())
    twin['X-One'] = 'changed'
    assert mapping['X-One'] == '1'


@pytest.mark.parametrize(
    'other',
    [
        {'CONTENT-TYPE': 'text/plain', 'x-one': '1'},
        CaseInsensitiveDict({'x-one': '1', 'content-type': 'text/plain'}),
        MappingProxyType({'content-type': 'text/plain', 'X-ONE': '1'}),
        OrderedDict([('X-One', '1'), ('Content-Type', 'text/plain')]),
    ],
    ids=lambda other: type(other).__name__,
)
def test_equals_any_mapping_but_for_the_case_of_keys(mapping: Any, other: Any) -> None:
    assert mapping == other
    assert other == mapping
    assert (mapping != other) is False


@pytest.mark.parametrize(
    'other',
    [
        {},
        {'Content-Type': 'text/plain'},
        {'Content-Type': 'text/plain', 'X-One': '2'},
        {'Content-Type': 'TEXT/PLAIN', 'X-One': '1'},
        {'Content-Type': 'text/plain', 'X-One': '1', 'X-Two': '2'},
        {'Content-Type': 'text/plain', 'X-Two': '1'},
        {'Content-Type': 'text/plain', 5: '1'},
        CaseInsensitiveDict({'Content-Type': 'text/plain'}),
        [('Content-Type', 'text/plain'), ('X-One', '1')],
        'Content-Type',
        None,
        1,
    ],
    ids=repr,
)
def test_differs_from_anything_else(mapping: Any, other: Any) -> None:
    assert mapping != other
    assert (mapping == other) is False


def test_repr_shows_the_items(mapping: Any) -> None:
    assert 'Content-Type' in repr(mapping)
    assert 'text/plain' in repr(mapping)


def test_clear_and_popitem(mapping: Any) -> None:
    key, value = mapping.popitem()
    assert (key, value) in [('Content-Type', 'text/plain'), ('X-One', '1')]
    assert len(mapping) == 1
    mapping.clear()
    assert len(mapping) == 0 and list(mapping) == []
