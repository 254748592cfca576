"""The types that the package ships, as seen by those who use it."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Set

import pytest

import dugong

FOLDER = Path(__file__).parent / 'typing'

pytestmark = pytest.mark.slow


def mypy(program: str, tmp_path: Path) -> Set[int]:
    """Check the file *program* strictly; return the numbers of the lines that are refused."""
    pytest.importorskip('mypy')
    command = [
        *(sys.executable, '-m', 'mypy', '--strict', '--config-file=', '--no-error-summary'),
        # An installed package is taken as it is.
        *('--follow-imports=silent', '--no-color-output'),
        *('--hide-error-context', '--cache-dir', str(tmp_path / 'cache')),
        str(FOLDER / program),
    ]
    result = subprocess.run(
        command,
        # Where the package is found.
        cwd=Path(dugong.__file__).parents[1],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding='utf-8',
        timeout=100,
    )
    assert result.stderr == ''
    found = set()
    for line in result.stdout.splitlines():
        match = re.match(r'(.*?):(\d+): (error|note): ', line)
        assert match, line
        # Notes may be about the package.
        if match[3] == 'error':
            assert Path(match[1]).name == program, line
            found.add(int(match[2]))
    return found


def test_a_program_that_uses_everything_is_accepted(tmp_path: Path) -> None:
    assert mypy('public_api.py', tmp_path) == set()


def test_wrong_uses_are_refused_line_by_line(tmp_path: Path) -> None:
    lines = (FOLDER / 'wrong_uses.py').read_text(encoding='utf-8').splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if line.endswith('# wrong')}
    assert wrong
    assert mypy('wrong_uses.py', tmp_path) == wrong


def test_everything_public_is_used_in_the_program() -> None:
    program = (FOLDER / 'public_api.py').read_text(encoding='utf-8')
    names = {name for name in dugong.__all__ if not name.startswith('_')}
    names |= {name for name in vars(dugong.HTTPConnection) if not name.startswith('_')}
    assert {name for name in names if not re.search(rf'\b{name}\b', program)} == set()


def test_the_marker_of_typed_packages_is_shipped() -> None:
    assert (Path(dugong.__file__).parent / 'py.typed').exists()
