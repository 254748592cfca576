"""The documentation is true: its programs run, its lists are complete, and it builds."""

import ast
import importlib
import re
import shlex
import ssl
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Callable

import pytest
from conftest import Certificates
from documentation_support import (
    ORIGIN,
    PROXY,
    ROOT,
    TLS_ORIGIN,
    Program,
    Site,
    programs,
    run_program,
)
from servers import ScriptedServer
from test_compat import EXPECTED_DIFFERENCES

import dugong

PROGRAMS = list(programs())


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding='utf-8')


# Programs


@pytest.fixture(scope='session')
def server_context(certificates: Certificates) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificates.authority.issue_cert(TLS_ORIGIN[0]).configure_cert(context)
    return context


@pytest.fixture(scope='session')
def cafile(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('documentation') / 'authority.pem'
    certificates.authority.cert_pem.write_to_path(str(path))
    return path


@pytest.mark.slow
@pytest.mark.parametrize('program', PROGRAMS, ids=lambda each: f'{each.page}:{each.line}')
def test_program_runs_and_prints_what_is_shown(
    program: Program,
    serve: Callable[..., ScriptedServer],
    server_context: ssl.SSLContext,
    cafile: Path,
    tmp_path: Path,
) -> None:
    site = Site()
    path = tmp_path / 'program.py'
    path.write_text(program.code, encoding='utf-8')
    with ScriptedServer(site.serve, server_context) as tls_origin:
        addresses = {
            ORIGIN: serve(site.serve).port,
            TLS_ORIGIN: tls_origin.port,
            PROXY: serve(site.proxy).port,
        }
        result = run_program(path, addresses, cafile)
    assert result.stderr == ''
    assert result.returncode == 0
    assert result.stdout == (program.output or result.stdout)


def test_programs_are_found() -> None:
    assert {program.page for program in PROGRAMS} == {
        'README.rst',
        'doc/coroutines.rst',
        'doc/tutorial.rst',
    }
    assert len(PROGRAMS) > 20


@pytest.mark.parametrize('program', PROGRAMS, ids=lambda each: f'{each.page}:{each.line}')
def test_program_is_complete(program: Program) -> None:
    imported = re.findall(r'^(?:from|import) (\S+)', program.code, re.MULTILINE)
    assert 'dugong' in imported
    compile(program.code, program.page, 'exec')


def test_example_of_the_readme_has_four_lines() -> None:
    (program,) = (each for each in PROGRAMS if each.page == 'README.rst')
    assert len([line for line in program.code.splitlines() if line]) == 4


# Commands


TEST_COMMANDS = re.findall(
    r'^ +(?:\w+=\S+ )?\.venv/bin/python -m pytest(.*?)(?: +#.*)?$', page('CONTRIBUTING.rst'), re.M
)


@pytest.mark.slow
@pytest.mark.parametrize('arguments', TEST_COMMANDS)
def test_command_for_contributors_selects_tests(arguments: str) -> None:
    command = [sys.executable, '-m', 'pytest', '--collect-only', '-q', *shlex.split(arguments)]
    result = subprocess.run(command, cwd=str(ROOT), stdout=subprocess.PIPE, timeout=100)
    assert result.returncode == 0, result.stdout


def test_commands_for_contributors_are_found() -> None:
    assert len(TEST_COMMANDS) == 5


# Lists


def test_every_public_name_is_in_the_reference() -> None:
    text = page('doc/api.rst')
    for name in dugong.__all__:
        if not name.startswith('_'):
            assert re.search(rf'\b{name}$', text, re.MULTILINE), name


def test_every_method_of_a_connection_is_in_the_reference() -> None:
    listed = re.findall(
        r'^   \.\. auto(?:method|attribute|property):: (\w+)$', page('doc/api.rst'), re.M
    )
    members = {name for name in vars(dugong.HTTPConnection) if not name.startswith('_')}
    assert sorted(listed) == sorted(members | {'timeout'})


def test_everything_in_the_reference_has_a_description() -> None:
    for name in dugong.__all__:
        value = getattr(dugong, name)
        if not name.startswith('_') and callable(value):
            assert value.__doc__, name
    for name, value in vars(dugong.HTTPConnection).items():
        if not name.startswith('_') and (callable(value) or isinstance(value, property)):
            assert value.__doc__, name


def test_every_expected_difference_is_in_the_migration_guide() -> None:
    section, _, _ = page('doc/migration.rst').partition('.. _from-http-client:')
    rows = re.findall(r'^   \* - .*\n(?:     .*\n)*', section, re.MULTILINE)
    cells = [re.split(r'^     -', row, flags=re.MULTILINE) for row in rows]
    assert {len(row) for row in cells} == {3}
    assert set(re.findall(r'``(\w+)``', ' '.join(row[2] for row in cells))) == set(
        EXPECTED_DIFFERENCES
    )


def test_rooms_are_described_in_an_order_in_which_they_can_be_imported() -> None:
    package = Path(dugong.__file__).parent
    described = re.findall(r'^``(_\w+)``', page('doc/internals.rst'), re.MULTILINE)
    assert sorted(described) == sorted(path.stem for path in package.glob('_[a-z]*.py'))
    for number, room in enumerate(described):
        tree = ast.parse((package / f'{room}.py').read_text(encoding='utf-8'))
        # At the top level, that is, not those for type checkers.
        imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level]
        assert {node.module for node in imports} <= set(described[:number]), room


def test_version_is_in_the_changes() -> None:
    assert f'\n{dugong.__version__}\n=====' in page('Changes.rst')


# State diagrams


@pytest.fixture(scope='module')
def states() -> ModuleType:
    sys.path.insert(0, str(ROOT / 'doc'))
    try:
        return importlib.import_module('dugong_states')
    finally:
        del sys.path[0]


@pytest.mark.parametrize('name', ['connection', 'request', 'response'])
def test_every_state_and_step_is_drawn(states: ModuleType, name: str) -> None:
    diagram = states.DIAGRAMS[name]()
    diagram.check()
    drawing = states.svg(diagram)
    for state, meaning in diagram.states.items():
        assert f'>{state}</text>' in drawing
        assert meaning
    assert drawing.count('<line ') == len(diagram.steps)
    assert f'state-diagram:: {name}\n' in page('doc/internals.rst')


def test_diagrams_have_the_states_of_the_library(states: ModuleType) -> None:
    from dugong import _body

    for name, table in (('response', _body.ResponseState), ('request', _body.RequestState)):
        assert list(states.DIAGRAMS[name]().states) == [state.name for state in table]
    assert {'fault', 'send_fault', 'closing', 'ended'} < set(
        states.DIAGRAMS['connection']().states
    )


# Building


@pytest.mark.slow
def test_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip('sphinx')
    result = subprocess.run(
        [
            *(sys.executable, '-m', 'sphinx', '-W', '-n', '-q'),
            *('-d', tmp_path / 'cache', ROOT / 'doc', tmp_path / 'html'),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding='utf-8',
        timeout=100,
    )
    assert (result.returncode, result.stderr) == (0, '')
    assert (tmp_path / 'html' / 'api.html').exists()
