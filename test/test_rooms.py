"""The rooms of the package: which may import which, and what happens in one of them only.

The modules are read, not imported. A new room must be entered here, in the order of the table.
"""

import ast
import functools
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import dugong

HOUSE = Path(dugong.__file__).parent

ALL_ABOVE = None

#: Each room with the rooms it may import; all of these must stand above it.
ROOMS: Dict[str, Optional[Set[str]]] = {
    '_exceptions': set(),
    '_settings': set(),
    '_log': set(),
    '_headers': set(),
    '_buffer': set(),
    '_poll': {'_exceptions', '_settings'},
    '_parser': {'_exceptions', '_headers'},
    '_request': {'_exceptions', '_headers', '_parser'},
    '_fields': {'_parser'},
    '_response': {'_parser', '_fields'},
    '_source': {'_exceptions'},
    '_body': {'_exceptions', '_settings', '_parser'},
    '_resolve': {'_exceptions', '_settings'},
    '_stream': {'_exceptions', '_settings', '_buffer', '_poll', '_resolve'},
    '_session': ALL_ABOVE,
    # It works on a connection that it is given: nothing of the rooms that make one.
    '_pipeline': {'_exceptions', '_settings', '_poll', '_request', '_source', '_response'},
    '_connection': ALL_ABOVE,
    # Steps a coroutine, and knows nothing of HTTP.
    '_aio': {'_exceptions', '_poll'},
    '__init__': ALL_ABOVE,
}

#: Rooms without input and output, and without state that outlives a message.
PURE = ['_headers', '_buffer', '_parser', '_request', '_fields', '_response', '_body']

#: Modules of the standard library that only these rooms may import.
RESERVED: Dict[str, Set[str]] = {
    'asyncio': {'_aio'},
    'select': {'_poll', '_stream'},
    'selectors': set(),
    'socket': {'_exceptions', '_resolve', '_stream'},
    'ssl': {'_exceptions', '_stream'},
    'threading': {'_connection', '_session', '_stream'},
    '_thread': {'_session', '_stream'},
    'concurrent': set(),
    'subprocess': set(),
    'http': set(),
    'urllib': set(),
    're': {'_parser', '_request'},
    'email': {'_fields', '_response'},
    # Not even that: it is found in `sys.modules` if somebody wants to see messages.
    'logging': set(),
}

#: Modules that reach outside of the process, or of the message at hand.
OUTSIDE = {'socket', 'ssl', 'select', 'os', 'sys', 'threading', 'time', 'logging', 'asyncio'}

#: The only imports inside functions, of what takes long to import and is not always needed.
LATE = {
    ('__init__', '__getattr__', '_aio'),
    ('_connection', '_md5', 'hashlib'),
    ('_response', '_fields_class', '_fields'),
}

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


@pytest.fixture(autouse=True, scope='module')
def forget_trees() -> Iterator[None]:
    """So many objects would slow down every garbage collection of the tests that follow."""
    yield
    tree.cache_clear()


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


def nodes(*left_out: str) -> Iterator[Tuple[str, ast.AST]]:
    """All nodes of the trees of all rooms but *left_out*."""
    for room in ROOMS:
        if room not in left_out:
            for node in ast.walk(tree(room)):
                yield room, node


def test_table_has_all_rooms_and_no_others() -> None:
    assert {path.stem for path in HOUSE.glob('**/*.py')} == set(ROOMS)


def test_table_allows_only_rooms_above() -> None:
    for index, room in enumerate(ROOMS):
        assert may_import(room) <= set(list(ROOMS)[:index]), room


def test_rooms_are_underscored() -> None:
    assert all(room.startswith('_') for room in ROOMS)


def test_rooms_say_what_they_are_for() -> None:
    assert [room for room in ROOMS if not (ast.get_docstring(tree(room)) or '').strip()] == []


# Each of these lists what is wrong, as a room and a line with what is found there.


def test_rooms_import_only_the_rooms_they_may() -> None:
    assert [
        (room, one.line, one.name)
        for room in ROOMS
        for one in at_run_time(room)
        if one.local and one.name not in may_import(room)
    ] == []


def test_rooms_are_imported_by_their_relative_names() -> None:
    assert [
        (room, one.line)
        for room in ROOMS
        for one in imports(tree(room))
        if not one.local and one.name == 'dugong'
    ] == []


def test_imports_for_types_name_existing_rooms() -> None:
    assert [
        (room, one.line, one.name)
        for room in ROOMS
        for one in imports(tree(room))
        if one.local and one.name not in ROOMS
    ] == []


def test_rooms_import_no_more_of_the_standard_library_than_is_theirs() -> None:
    assert [
        (room, one.line, one.name)
        for room in ROOMS
        for one in at_run_time(room)
        if not one.local and room not in RESERVED.get(one.name, ROOMS)
    ] == []


def test_pure_rooms_import_nothing_that_reaches_outside() -> None:
    assert [
        (room, one.line, one.name)
        for room in PURE
        for one in at_run_time(room)
        if one.name in OUTSIDE
    ] == []


def test_nothing_outside_the_standard_library_is_imported() -> None:
    names = getattr(sys, 'stdlib_module_names', None)
    if names is None:
        pytest.skip('the interpreter does not know the names')
    assert [
        (room, one.line, one.name)
        for room in ROOMS
        for one in imports(tree(room))
        if not one.local and one.name not in names
    ] == []


def test_nothing_is_imported_inside_functions() -> None:
    assert [
        (room, one.line, one.name)
        for room in ROOMS
        for one in at_run_time(room)
        if one.function is not None and (room, one.function, one.name) not in LATE
    ] == []


def test_nothing_is_imported_behind_the_back_of_the_table() -> None:
    assert [
        (room, node.lineno)
        for room, node in nodes()
        if (isinstance(node, ast.Name) and node.id in ('__import__', 'importlib', 'exec', 'eval'))
        or (isinstance(node, ast.Attribute) and node.attr == 'import_module')
    ] == []


def test_only_the_stream_moves_octets() -> None:
    assert [
        (room, node.lineno, node.func.attr)
        for room, node in nodes('_stream')
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in SOCKET_CALLS
    ] == []


def test_only_the_stream_yields() -> None:
    # The others are composed with `yield from`.
    assert [
        (room, node.lineno) for room, node in nodes('_stream') if isinstance(node, ast.Yield)
    ] == []
    assert any(isinstance(node, ast.Yield) for node in ast.walk(tree('_stream')))


def test_pure_rooms_have_no_coroutines() -> None:
    assert [
        (room, node.lineno)
        for room, node in nodes()
        if room in PURE and isinstance(node, (ast.Yield, ast.YieldFrom, ast.Await))
    ] == []


def test_there_is_no_async_def_but_for_asyncio() -> None:
    assert [
        (room, node.lineno)
        for room, node in nodes('_aio', '_pipeline')
        if isinstance(node, (ast.AsyncFunctionDef, ast.Await))
    ] == []


def test_attributes_are_looked_up_without_python_code() -> None:
    # In a class with one of these methods, each attribute takes about ten times as long. A message
    # object is split when somebody asks for more than a field.
    assert [
        (room, node.name)
        for room, node in nodes('__init__')
        if isinstance(node, ast.ClassDef)
        for member in node.body
        if getattr(member, 'name', None) in ('__getattr__', '__getattribute__')
    ] == [('_fields', 'ResponseFields')]


def test_public_face_has_no_logic() -> None:
    # Its functions are the hooks of a module, and its loops do naming.
    for node in tree('__init__').body:
        if isinstance(node, ast.FunctionDef):
            assert node.name in ('__getattr__', '__dir__')
        assert not isinstance(node, (ast.ClassDef, ast.While, ast.With, ast.Try))


def test_all_of_the_public_names_are_listed() -> None:
    for node in ast.walk(tree('__init__')):
        if isinstance(node, ast.ImportFrom) and node.level and node.module != '_settings':
            for alias in node.names:
                name = alias.asname or alias.name
                assert name.startswith('_') or name in dugong.__all__, name
