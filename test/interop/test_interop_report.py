"""The report itself: table, counts, and the number of servers that has to run."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from . import report
from .servers import LIMIT, Aiohttp, HttpServer11, NotInstalled, find


@pytest.fixture
def results():
    found = report.Results()
    for scheme in ('plain', 'TLS'):
        found.add('nginx', scheme, 'GET', 'passed')
        found.add('moto (S3)', scheme, 'chunked', 'passed', 'cannot')
    found.add('nginx', 'TLS', 'HEAD', 'passed')
    found.add('nginx', 'plain', 'PUT', 'passed')
    found.add('nginx', 'TLS', 'PUT', 'failed')
    found.add('nginx', 'TLS', 'PUT', 'passed')
    found.add('squid', 'TLS', 'GET', 'failed')
    return found


def test_a_server_ran_if_something_passed(results):
    assert results.servers() == ['nginx']
    assert results.counts()['servers'] == 1


def test_a_failure_stays(results):
    assert '**failed**' in results.page()


def test_a_limit_has_a_note(results):
    results.add('moto (S3)', 'plain', 'GET', 'passed')
    assert '- no (1)' in results.page()
    assert '1. cannot\n' in results.page()


def test_a_missing_program_is_named():
    with pytest.raises(NotInstalled, match='^no-such-server is not installed$'):
        find('no-such-server', 'nor-this')


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(Aiohttp, 'modules', ('no_such_package',))
    with pytest.raises(NotInstalled, match='^no_such_package is not installed$'):
        Aiohttp.version()


@pytest.mark.slow
@pytest.mark.parametrize('minimum, status', [(1, 0), (2, 1)])
def test_too_few_servers_fail_the_run(tmp_path, minimum, status):
    counts, page = tmp_path / 'counts.json', tmp_path / 'page.rst'
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider']
    command += ['-k', 'HttpServer11-plain and missing', str(pathlib.Path(__file__).parent)]
    run = subprocess.run(
        command,
        env=dict(
            os.environ,
            DUGONG_INTEROP_MINIMUM=str(minimum),
            DUGONG_INTEROP_COUNTS=str(counts),
            DUGONG_INTEROP_TABLE=str(page),
        ),
        stdout=subprocess.PIPE,
        timeout=2 * LIMIT,
    )
    assert run.returncode == status, run.stdout.decode()
    assert ('servers had to run' in run.stdout.decode()) == bool(status)
    assert json.loads(counts.read_text())['servers'] == 1
    assert HttpServer11.name in page.read_text()
