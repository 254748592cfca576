"""The rooms of the package: which may import which, and what happens in one of them only.

The modules are read, not imported. A new room must be entered here, in the order of the table.
"""

import ast
import functools
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set

import pytest

import dugong

HOUSE = Path(dugong.__file__).parent

ALL_ABOVE = None

#: Each room with the rooms it may import; all of these must stand above it.
ROOMS: Dict[str, Optional[Set[str]]] = {
    '_exceptions': set(),
    '_settings': set(),
    '_headers': set(),
    '_buffer': set(),
    '_poll': {'_exceptions'},
    '_parser': {'_exceptions', '_headers'},
    '_request': {'_exceptions', '_headers', '_parser'},
    '_response': {'_exceptions', '_headers', '_parser'},
    '_source': {'_exceptions'},
    '_body': {'_exceptions', '_parser'},
    '_resolve': {'_exceptions', '_settings'},
    '_stream': {'_exceptions', '_settings', '_buffer', '_poll', '_resolve'},
    '_session': ALL_ABOVE,
    # It works on a connection that it is given: nothing of the rooms that make one.
    '_pipeline': {'_exceptions', '_settings', '_poll', '_source', '_response'},
    '_connection': ALL_ABOVE,
    # Steps a coroutine, and knows nothing of HTTP.
    '_aio': {'_exceptions', '_poll'},
    '__init__': ALL_ABOVE,
}

#: Rooms without input and output, and without state that outlives a message.
PURE = ['_exceptions', '_headers', '_buffer', '_parser', '_request', '_response', '_body']

#: Modules of the standard library that only these rooms may import.
RESERVED: Dict[str, Set[str]] = {
    'asyncio': {'_aio'},
    'select': {'_poll', '_stream'},
    'selectors': set(),
    'socket': {'_exceptions', '_resolve', '_stream'},
    'ssl': {'_exceptions', '_stream'},
    'threading': {'_session', '_stream'},
    '_thread': {'_session', '_stream'},
    'concurrent': set(),
    'subprocess': set(),
    'http': set(),
    'urllib': set(),
    're': {'_parser', '_request'},
    'email': {'_response'},
    'logging': {'_session', '_connection'},
}

#: The only import inside a function: asyncio is not imported before it is used.
LATE = {('__init__', '__getattr__', '_aio')}

#: Calls of methods that move octets, or open connections.
SOCKET_CALLS = {
    'recv',
    'recv_into',
    'recvfrom',
    'recvmsg',
    'recvmsg_into',
    'send',
    'sendall',
    'sendfile',
    'sendmsg',
    'sendto',
    'accept',
    'bind',
    'listen',
    'connect_ex',
    'wrap_socket',
    'do_handshake',
}


class Import(NamedTuple):
    """One imported module: *name* is that of a room if *local*, else of a top-level module."""

    name: str
    local: bool
    line: int
    function: Optional[str]
    typing_only: bool


@functools.lru_cache(maxsize=None)
def tree(room: str) -> ast.Module:
    return ast.parse((HOUSE / f'{room}.py').read_text(encoding='utf-8'), f'{room}.py')


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and any(
        getattr(part, 'id', getattr(part, 'attr', None)) == 'TYPE_CHECKING'
        for part in ast.walk(node.test)
    )


def imports(
    node: ast.AST, function: Optional[str] = None, typing_only: bool = False
) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                top = alias.name.partition('.')[0]
                yield Import(top, False, child.lineno, function, typing_only)
        elif isinstance(child, ast.ImportFrom):
            if child.level == 0:
                assert child.module is not None
                top = child.module.partition('.')[0]
                yield Import(top, False, child.lineno, function, typing_only)
            elif child.module is not None:
                yield Import(child.module, True, child.lineno, function, typing_only)
            else:
                for alias in child.names:
                    yield Import(alias.name, True, child.lineno, function, typing_only)
        elif isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(child, child.name, typing_only)
        elif isinstance(child, ast.Lambda):
            yield from imports(child, '<lambda>', typing_only)
        elif is_type_checking(child):
            assert isinstance(child, ast.If)
            for statement in child.body:
                yield from imports(ast.Module([statement], []), function, True)
            for statement in child.orelse:
                yield from imports(ast.Module([statement], []), function, typing_only)
        else:
            yield from imports(child, function, typing_only)


def at_run_time(room: str) -> List[Import]:
    return [found for found in imports(tree(room)) if not found.typing_only]


def may_import(room: str) -> Set[str]:
    above = list(ROOMS)[: list(ROOMS).index(room)]
    allowed = ROOMS[room]
    return set(above) if allowed is ALL_ABOVE else allowed


each_room = pytest.mark.parametrize('room', ROOMS)


def test_table_has_all_rooms_and_no_others() -> None:
    assert {path.stem for path in HOUSE.glob('**/*.py')} == set(ROOMS)


@each_room
def test_table_allows_only_rooms_above(room: str) -> None:
    above = list(ROOMS)[: list(ROOMS).index(room)]
    assert may_import(room) <= set(above)


@each_room
def test_room_is_underscored(room: str) -> None:
    assert room.startswith('_')


@each_room
def test_room_imports_only_the_rooms_it_may(room: str) -> None:
    found = {one.name: one.line for one in at_run_time(room) if one.local}
    wrong = {name: line for name, line in found.items() if name not in may_import(room)}
    assert not wrong, f'{room} imports {wrong}'


@each_room
def test_room_is_imported_by_its_relative_name(room: str) -> None:
    assert not [one for one in imports(tree(room)) if not one.local and one.name == 'dugong']


@each_room
def test_imports_for_types_name_existing_rooms(room: str) -> None:
    for one in imports(tree(room)):
        if one.local and one.typing_only:
            assert one.name in ROOMS, f'line {one.line}'


@each_room
def test_room_imports_no_more_of_the_standard_library_than_is_its_own(room: str) -> None:
    for one in at_run_time(room):
        if not one.local and one.name in RESERVED:
            assert room in RESERVED[one.name], f'{room} imports {one.name} in line {one.line}'


@each_room
def test_room_imports_nothing_outside_the_standard_library(room: str) -> None:
    names = getattr(sys, 'stdlib_module_names', None)
    if names is None:
        pytest.skip('the interpreter does not know the names')
    for one in imports(tree(room)):
        assert one.local or one.name in names, f'line {one.line}'


@each_room
def test_nothing_is_imported_inside_functions(room: str) -> None:
    for one in at_run_time(room):
        if one.function is not None:
            assert (room, one.function, one.name) in LATE, f'line {one.line}'


@each_room
def test_nothing_is_imported_behind_the_back_of_this_table(room: str) -> None:
    for node in ast.walk(tree(room)):
        if isinstance(node, ast.Name):
            assert node.id not in ('__import__', 'importlib', 'exec', 'eval'), node.lineno
        if isinstance(node, ast.Attribute):
            assert node.attr != 'import_module', node.lineno


@each_room
def test_only_the_stream_moves_octets(room: str) -> None:
    if room == '_stream':
        return
    for node in ast.walk(tree(room)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            assert node.func.attr not in SOCKET_CALLS, f'{room} line {node.lineno}'


@each_room
def test_only_the_stream_yields(room: str) -> None:
    # The others are composed with `yield from`; iterators of values are no coroutines.
    if room == '_stream':
        return
    for node in ast.walk(tree(room)):
        assert not isinstance(node, ast.Yield), f'{room} line {node.lineno}'


def test_the_stream_yields() -> None:
    assert any(isinstance(node, ast.Yield) for node in ast.walk(tree('_stream')))


@pytest.mark.parametrize('room', PURE)
def test_pure_rooms_have_no_coroutines(room: str) -> None:
    for node in ast.walk(tree(room)):
        assert not isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await)), node.lineno


@pytest.mark.parametrize('room', [room for room in PURE if room != '_exceptions'])
def test_pure_rooms_import_nothing_that_reaches_outside(room: str) -> None:
    outside = {'socket', 'ssl', 'select', 'os', 'sys', 'threading', 'time', 'logging', 'asyncio'}
    for one in at_run_time(room):
        assert one.name not in outside, f'line {one.line}'


def test_there_is_no_async_def_but_for_asyncio() -> None:
    for room in ROOMS:
        if room in ('_aio', '_pipeline'):
            continue
        for node in ast.walk(tree(room)):
            assert not isinstance(node, (ast.AsyncFunctionDef, ast.Await)), (room, node.lineno)


def test_public_face_has_no_logic() -> None:
    """`__init__` re-exports; its functions are the hooks of a module, and its loops do naming."""
    for node in tree('__init__').body:
        if isinstance(node, ast.FunctionDef):
            assert node.name in ('__getattr__', '__dir__')
        assert not isinstance(node, (ast.ClassDef, ast.While, ast.With, ast.Try))


def test_all_of_the_public_names_are_listed() -> None:
    """What `__init__` imports under a public name is in `__all__`."""
    for node in ast.walk(tree('__init__')):
        if isinstance(node, ast.ImportFrom) and node.level and node.module != '_settings':
            for alias in node.names:
                name = alias.asname or alias.name
                assert name.startswith('_') or name in dugong.__all__, name


@each_room
def test_room_says_what_it_is_for(room: str) -> None:
    assert (ast.get_docstring(tree(room)) or '').strip()
