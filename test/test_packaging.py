"""What is published: source distribution and wheel, their content and metadata."""

import email
import importlib.util
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.message import Message
from pathlib import Path
from typing import Set

import pytest

import dugong

ROOT = Path(__file__).resolve().parent.parent
NAME = f'dugong-{dugong.__version__}'

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / 'setup.py').exists(), reason='not a source tree'),
]

#: Not part of a source tree, though found in one.
RUBBISH = (
    '.git',
    '.hg',
    '.coverage*',
    '.*_cache',
    '.hypothesis',
    '.venv*',
    '__pycache__',
    '*.egg-info',
    '*.py[cod]',
    'build',
    'dist',
    'html',
)

#: Top level of the source tree: files besides the licence, and folders.
TOP = ('*.py', '*.rst', '*.toml', '*.in')
FOLDERS = ('dugong', 'test', 'doc', 'examples', '.ci', '.github')


def run(*command: object, cwd: Path = ROOT, **environment: str) -> str:
    """Run *command* with warnings as they are, return what it prints; it must succeed."""
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=environment or None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding='utf-8',
        timeout=100,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope='module')
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with both distributions, made from a copy of the source tree."""
    pytest.importorskip('build')
    pytest.importorskip('setuptools', minversion='61')
    if not importlib.util.find_spec('setuptools.command.bdist_wheel'):
        # Newer versions of setuptools make wheels by themselves.
        pytest.importorskip('wheel')
    folder = tmp_path_factory.mktemp('packaging')
    tree = folder / 'tree'
    shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(*RUBBISH))
    # Not isolated: what would be installed for the build has to be there.
    run(sys.executable, '-m', 'build', '--no-isolation', '--outdir', folder / 'dist', cwd=tree)
    return folder / 'dist'


@pytest.fixture(scope='module')
def wheel(dist: Path) -> Path:
    return dist / f'{NAME}-py3-none-any.whl'


@pytest.fixture(scope='module')
def sdist(dist: Path) -> Path:
    return dist / f'{NAME}.tar.gz'


@pytest.fixture(scope='module')
def tree(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    folder = tmp_path_factory.mktemp('unpacked')
    with tarfile.open(sdist) as archive:
        # Older Pythons do not know the argument, newer ones insist.
        archive.extractall(
            folder, **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {})
        )
    return folder / NAME


@pytest.fixture(scope='module')
def site_packages(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, alone in a new environment in which nothing is amiss."""
    folder = tmp_path_factory.mktemp('installed')
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / 'bin' / 'python'
    run(python, '-m', 'pip', 'install', '-q', '--no-index', wheel)
    assert 'No broken requirements found' in run(python, '-m', 'pip', 'check')
    (package,) = folder.glob('lib/*/site-packages')
    return package


def sources(folder: Path, pattern: str = '**/*') -> Set[str]:
    """Return the files of a source tree, relative to it."""
    found = set()
    for path in folder.glob(pattern):
        parts = path.relative_to(folder).parts
        ignored = any(Path(part).match(each) for part in parts for each in RUBBISH)
        if path.is_file() and not ignored:
            found.add('/'.join(parts))
    return found


def test_both_distributions_are_made(dist: Path, sdist: Path, wheel: Path) -> None:
    assert set(dist.iterdir()) == {sdist, wheel}


def test_sdist_has_the_source_tree(tree: Path) -> None:
    wanted = {'LICENSE', *(name for pattern in TOP for name in sources(ROOT, pattern))}
    for folder in FOLDERS:
        wanted |= {f'{folder}/{name}' for name in sources(ROOT / folder)}
    made = {'PKG-INFO', 'setup.cfg'}
    assert sources(tree) == wanted | made


def test_wheel_has_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if '.dist-info/' not in name}
    assert names == {f'dugong/{name}' for name in sources(ROOT / 'dugong')}
    assert 'dugong/py.typed' in names


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f'{NAME}.dist-info/METADATA'))


def test_metadata(wheel: Path) -> None:
    fields = metadata(wheel)
    assert fields['Name'] == 'dugong'
    assert fields['Version'] == dugong.__version__
    assert fields['Requires-Python'].replace(' ', '') == '>=3.8'
    assert fields['Description-Content-Type'].startswith('text/x-rst')
    assert 'MIT' in (fields['License'] or fields['License-Expression'])
    for name in ('Summary', 'Classifier'):
        assert fields[name], name
    assert set(fields.get_all('Provides-Extra')) >= {'test', 'doc'}


def test_nothing_is_required_at_run_time(wheel: Path) -> None:
    requirements = metadata(wheel).get_all('Requires-Dist')
    assert [each for each in requirements if 'extra ==' not in each] == []


def test_version_is_in_one_place() -> None:
    code = [
        ROOT / name for pattern in ('*.py', '*.toml', 'd*/*.py') for name in sources(ROOT, pattern)
    ]
    found = [path for path in code if dugong.__version__ in path.read_text(encoding='utf-8')]
    assert found == [ROOT / 'dugong' / '__init__.py']


def test_twine_accepts_both(dist: Path, sdist: Path, wheel: Path) -> None:
    pytest.importorskip('twine')
    output = run(sys.executable, '-m', 'twine', 'check', '--strict', sdist, wheel)
    assert output.count('PASSED') == 2


def test_wheel_contents_are_clean(wheel: Path) -> None:
    pytest.importorskip('check_wheel_contents')
    assert ': OK' in run(sys.executable, '-m', 'check_wheel_contents', wheel)


def test_sdist_installs_what_the_wheel_installs(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    options = ('-q', '--no-index', '--no-deps', '--no-build-isolation')
    for source, target in ((sdist, tmp_path / 'sdist'), (wheel, tmp_path / 'wheel')):
        run(sys.executable, '-m', 'pip', 'install', *options, '--target', target, source)
    assert sources(tmp_path / 'sdist' / 'dugong') == sources(tmp_path / 'wheel' / 'dugong')


def test_tests_pass_with_the_installed_package(tree: Path, site_packages: Path) -> None:
    # Only what is installed can be imported.
    shutil.move(str(tree / 'dugong'), str(tree / 'not-here'))
    environment = {'PYTHONPATH': str(site_packages), 'PATH': ''}
    program = 'import dugong; print(dugong.__file__)'
    shown = run(sys.executable, '-c', program, cwd=tree, **environment)
    assert Path(shown.strip()) == site_packages / 'dugong' / '__init__.py'
    modules = [f'test/test_{name}.py' for name in ('public', 'headers', 'responses')]
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', *modules]
    assert ' passed' in run(*command, cwd=tree, **environment)
