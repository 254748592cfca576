"""The benchmark runs, reports, and notices wrong answers."""

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest

BENCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'bench')
LIMIT = 60
#: The clients that need nothing to be installed.
CLIENTS = 'dugong,http.client,raw'


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmark."""
    monkeypatch.syspath_prepend(BENCH)
    return importlib.import_module


def run(*arguments, status=0):
    """Run the benchmark as a user does, return what it prints."""
    result = subprocess.run(
        [sys.executable, os.path.join(BENCH, 'run.py'), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        text=True,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


def measure(tmp_path, *arguments):
    """Run the benchmark briefly without installing anything; what it prints and saves."""
    saved = tmp_path / 'results.json'
    options = ['--seconds', '0.001', '--rounds', '1', '--clients', CLIENTS]
    places = ['--venv', str(tmp_path / 'unused'), '--save', str(saved)]
    output = run(*options, *places, *arguments)
    assert not (tmp_path / 'unused').exists()
    return output, json.loads(saved.read_text())


@pytest.mark.slow
@pytest.mark.parametrize('server', ['canned', 'nginx'])
def test_reports_every_client_of_a_workload(tmp_path, server):
    options = ['--no-nginx'] if server == 'canned' else []
    if server == 'nginx' and shutil.which('nginx') is None:
        pytest.skip('nginx is not installed')
    names = ['get', 'get-tls', 'connect', 'readall-1M', 'asyncio', 'pipeline-threads']
    output, document = measure(tmp_path, '--only', ','.join(names), *options)
    assert document['server'].startswith(server)
    for name in names:
        clients = {'dugong', 'raw'}
        if name not in ('asyncio', 'pipeline-threads'):
            clients.add('http.client')
        assert set(document['medians'][name]) == clients, name
        for values in document['medians'][name].values():
            assert values['wall'] > 0
            assert values['cpu'] >= 0
        assert f'\n{name}: ' in output


@pytest.mark.slow
def test_runs_chunked_uploads_pipelines_imports_and_memory(tmp_path):
    names = [
        'chunked-100',
        'pipeline-coroutines',
        'upload-bytes',
        'upload-file',
        'import',
        'memory',
    ]
    _, document = measure(tmp_path, '--only', ','.join(names), '--no-nginx')
    assert set(document['medians']) == set(names)
    assert set(document['medians']['memory']['dugong']) == {'idle', 'used'}


@pytest.mark.slow
def test_saves_what_was_measured_on_what_kind_of_machine(tmp_path):
    output, document = measure(tmp_path, '--only', 'get', '--no-nginx')
    assert document['python'] == sys.version.split()[0]
    assert set(document['machine']) == {'cpu', 'cores', 'system'}
    assert set(document['versions']) == set(CLIENTS.split(','))
    bars = [(row['workload'], row['bar']) for row in document['bars']]
    assert bars == [('get', '≤ 0.35 × http.client')]
    assert '≤ 0.35 × http.client' in output
    assert os.path.dirname(BENCH) not in json.dumps(document)


@pytest.mark.parametrize('option', ['--only', '--clients'])
def test_refuses_an_unknown_name(option):
    assert "'nonsense' is none of" in run(option, 'nonsense', status=2)


def test_lists_workloads_and_clients():
    output = run('--list')
    assert 'readinto-64M-tls' in output
    assert 'dugong-3.8.2' in output


def test_bars_compare_medians(bench):
    results = {
        'connect': {'dugong': _times(0.8), 'http.client': _times(1.0)},
        'readall-1M': {'dugong': _times(1.05), 'raw': _times(1.0)},
        'memory': {'dugong': {'idle': 9000, 'used': 9000}},
    }
    rows = bench('run').evaluate_bars(results, {}, imports_asyncio=True)
    assert [(row['workload'], row['met']) for row in rows] == [
        ('connect', True),
        ('readall-1M', True),
        ('import', False),
        ('memory', False),
        ('memory', True),
    ]


def test_tls_bars_take_the_best_python_peer(bench):
    results = {
        'get-tls': {
            'dugong': _times(1.1),
            'dugong@old': _times(0.1),
            'raw': _times(0.1),
            'pycurl': _times(0.1),
            'urllib3': _times(1.5),
            'http.client': _times(1.0),
        }
    }
    (row,) = bench('run').evaluate_bars(results, {}, imports_asyncio=None)
    assert row['bar'] == '≤ 1.05 × http.client (best in Python)'
    assert not row['met']


def test_bars_compare_what_was_measured_side_by_side(bench):
    """In more rounds the machine may be slower, so a peer that was not there does not count."""
    results = {
        'get-tls': {'dugong': _times(1.0), 'h11': _times(0.9), 'aiohttp': _times(0.5)},
        'connect': {'dugong': _times(1.0), 'http.client': _times(2.0)},
    }
    more = {'get-tls': {'dugong': _times(2.0), 'h11': _times(2.0)}}
    rows = bench('run').evaluate_bars(results, more, imports_asyncio=None)
    assert {row['workload']: row['measured'] for row in rows} == {
        'get-tls': '1.000',
        'connect': '0.500',
    }


def test_what_is_near_to_a_bar_on_either_side_is_measured_more_often(bench):
    results = {
        'connect': {'dugong': _times(0.8), 'http.client': _times(1.0), 'raw': _times(0.5)},
        'readall-1M': {'dugong': _times(1.05), 'raw': _times(0.9), 'http.client': _times(2.0)},
        'get-tls': {'dugong': _times(0.5), 'http.client': _times(1.0)},
        'connect-tls': {
            'dugong': _times(1.0),
            'http.client': _times(1.1),
            'h11': _times(0.9),
            'httpx': _times(2.0),
        },
        'get': {'dugong': _times(1.0), 'pycurl': _times(1.24), 'http.client': _times(2.2)},
        'import': {'dugong': _times(1.0), 'http.client': _times(1.0)},
    }
    assert bench('run').near_bars(results) == {
        'connect': {'dugong', 'http.client'},
        'readall-1M': {'dugong', 'raw'},
        'get': {'dugong', 'pycurl'},
        'connect-tls': {'dugong', 'http.client', 'h11'},
    }


def test_more_rounds_run_only_the_clients_named(bench, monkeypatch):
    run = bench('run')
    ran = []
    monkeypatch.setattr(
        run.Bench, '_run_once', lambda self, load, one, _: not ran.append(one.name)
    )
    contenders = [run.Contender(name, name, None) for name in CLIENTS.split(',')]
    plan = run.Plan(1.0, 5, 2, 30, keep_processes=False)
    load = bench('workloads').WORKLOADS['get']
    run.Bench('python', contenders, None, plan, None).run_again(load, {'dugong', 'raw'})
    assert sorted(ran) == ['dugong', 'dugong', 'raw', 'raw']


def test_a_wrong_body_is_noticed(bench):
    measure = bench('measure')

    class Client:
        def readall(self, count, task):
            return b'x' + task.body[1:]

        def close(self):
            pass

    load = bench('workloads').WORKLOADS['readall-1M']
    with pytest.raises(bench('clients').WrongAnswer):
        measure.time_operations(Client, load, '', 0.001)


def test_every_bar_names_a_workload_and_a_client(bench):
    workloads = bench('workloads')
    clients = bench('clients').CLIENTS
    for bar in workloads.BARS:
        assert bar.workload in workloads.WORKLOADS
        assert bar.peer == '*' or bar.peer in clients


def _times(seconds):
    return {'wall': seconds, 'cpu': seconds}


DOCUMENT = {
    'python': '3.11.0',
    'implementation': 'CPython',
    'machine': {'cpu': 'any', 'cores': 2, 'system': 'Linux'},
    'server': 'canned',
    'rounds': 3,
    'more_rounds': 0,
    'versions': {'dugong': '3.9.0', 'http.client': '3.11.0', 'raw': '3.11.0'},
    'medians': {'get': {'dugong': _times(1e-5), 'http.client': _times(2e-4)}},
    'bars': [{'workload': 'get', 'bar': '≤ 1', 'measured': '0.05', 'met': True}],
}


@pytest.mark.slow
def test_charts_are_drawn(bench, tmp_path):
    matplotlib = pytest.importorskip('matplotlib')
    matplotlib.use('svg')
    from matplotlib import pyplot

    path = tmp_path / 'chart.svg'
    plot = bench('plot')
    assert plot.draw(pyplot, DOCUMENT, plot.CHARTS['requests'], str(path))
    assert b'<svg' in path.read_bytes()
    assert not plot.draw(pyplot, DOCUMENT, plot.CHARTS['uploads'], str(path))


def test_results_are_written_for_the_documentation(bench):
    lines = list(bench('plot').results(DOCUMENT, ['requests']))
    assert '.. image:: benchmark-requests.svg' in lines
    (row,) = [line.split() for line in lines if line.startswith('   get ')]
    assert row == ['get', '10', 'µs', '20.00', '-']
    assert any('0.05' in line and 'met' in line for line in lines)


def run_tool(name, *options):
    result = subprocess.run(
        [sys.executable, os.path.join(BENCH, name), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=LIMIT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout.splitlines()


def test_budget_adds_up():
    parts = [float(line.split()[-1]) for line in run_tool('budget.py', '--count', '100')]
    send, read, *parts_of_read, look, rest, total = parts
    assert sum(parts_of_read) == pytest.approx(read, abs=0.2)
    assert send + read + look + rest == pytest.approx(total, abs=0.3)


@pytest.mark.slow
def test_floor_shows_all_ladders():
    lines = run_tool('floor.py', '--no-nginx', '--rounds', '1', '--seconds', '0.001')
    assert [line.split('  ')[0] for line in lines if not line.startswith(' ')] == [
        'one by one',
        'pipelined',
        '1 MiB as a whole',
        '64 MiB in pieces of 256 KiB',
        'upload in pieces of 64 KiB',
        'the same without the system',
    ]
    assert sum('dugong' in line for line in lines) == 6
