"""The virtual environment with the other clients, and the places of ours."""

import contextlib
import os
import subprocess
import sys
import tempfile
from typing import Dict, Iterable, Iterator, List, Optional

from clients import CLIENTS

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
#: Published versions of dugong go into a folder of their own, so that they do not hide ours.
OLD_DUGONG = 'dugong=='


def default_directory() -> str:
    """The virtual environment for this Python, in the user's cache."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    python = f'{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}'
    return os.path.join(cache, 'dugong-bench', python)


class Environment:
    """A virtual environment in *directory*, made when something has to be installed."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.python = os.path.join(directory, 'bin', 'python')

    def _pip(self, *arguments: str) -> bool:
        result = subprocess.run(
            [self.python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
            + list(arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        return result.returncode == 0

    def add(self, requirement: str) -> bool:
        """Install *requirement* unless that has been done; False if it cannot be had."""
        mark = os.path.join(self.directory, 'installed-' + requirement)
        if os.path.exists(mark):
            return True
        if not os.path.exists(self.python):
            subprocess.run([sys.executable, '-m', 'venv', self.directory], check=True)
        options: List[str] = []
        if requirement.startswith(OLD_DUGONG):
            options = ['--no-deps', '--upgrade', '--target', self.folder(requirement)]
        if not self._pip(*options, requirement):
            return False
        with open(mark, 'w'):
            return True

    def folder(self, requirement: str) -> str:
        """Where an old version of dugong is installed."""
        return os.path.join(self.directory, requirement)

    def add_clients(self, names: Iterable[str]) -> Dict[str, Optional[str]]:
        """Install what the clients need; name -> first entry of `sys.path` of those there are."""
        found: Dict[str, Optional[str]] = {}
        for name in names:
            requirements = CLIENTS[name].requirements
            if not all(self.add(requirement) for requirement in requirements):
                print(f'{name} cannot be installed here and is left out')
                continue
            found[name] = ROOT if CLIENTS[name].imports == 'dugong' else None
            for requirement in requirements:
                if requirement.startswith(OLD_DUGONG):
                    found[name] = self.folder(requirement)
        return found


def git(*arguments: str) -> str:
    """Output of a git command in the repository of this file; empty if there is none."""
    try:
        return subprocess.run(
            ['git', '-C', ROOT, *arguments],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return ''


@contextlib.contextmanager
def worktree(revision: str) -> Iterator[str]:
    """A checkout of *revision* in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix='dugong-bench-') as directory:
        path = os.path.join(directory, 'tree')
        command = ['git', '-C', ROOT, 'worktree']
        subprocess.run([*command, 'add', '--quiet', '--detach', path, revision], check=True)
        try:
            yield path
        finally:
            subprocess.run([*command, 'remove', '--force', path], check=False)
