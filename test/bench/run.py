#!/usr/bin/env python3
"""Measure our client beside the others: `python3 test/bench/run.py [--quick] [--save FILE]`.

Every workload is run by every client in turn, each in a process of its own, for several
rounds; the tables show the medians. The other clients are installed into a virtual
environment in the user's cache directory the first time. All traffic is on the loopback
interface, the servers on one core and the clients on another.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import webservers
from clients import CLIENTS, OURS
from environment import Environment, default_directory, git, worktree
from workloads import (
    BARS,
    HELD_CONNECTIONS,
    KIB,
    MEMORY_BARS,
    NOT_PYTHON,
    WORKLOADS,
    Bar,
    Workload,
)

HERE = os.path.dirname(os.path.abspath(__file__))
#: Seconds after which a client that does not answer is stopped.
LIMIT = 120.0
#: Load average at the start above which others compete for the cores.
BUSY = 0.3
#: What is so close to its bar, on either side, is measured more often: as a part of the bar.
NEAR = 0.25


class Contender(NamedTuple):
    """One column of the comparison: a client of the table, or an older commit of ours."""

    name: str
    client: str
    path: Optional[str]


class Plan(NamedTuple):
    """How long and how often to measure."""

    seconds: float
    rounds: int
    #: More rounds for workloads and clients that are near to a bar.
    more_rounds: int
    imports: int
    #: Quick runs keep the process of a client through all workloads.
    keep_processes: bool


#: workload -> contender -> quantity ('wall', 'cpu', …) -> numbers of all rounds
Samples = Dict[str, Dict[str, Dict[str, List[float]]]]
Medians = Dict[str, Dict[str, Dict[str, float]]]


class Process:
    """A client process."""

    def __init__(self, python: str, contender: Contender, cpu: Optional[int]) -> None:
        command = [python, os.path.join(HERE, 'measure.py'), contender.client]
        if contender.path is not None:
            command += ['--path', contender.path]
        # Proxies, authorities and tracing from outside would change what is measured.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.lower().endswith(('_proxy', '_ca_bundle'))
            and not name.startswith(('PYTHON', 'DUGONG', 'SSL'))
        }
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            universal_newlines=True,
            preexec_fn=lambda: webservers.pin(cpu),
        )

    def ask(self, order: Dict[str, Any]) -> Dict[str, Any]:
        timer = threading.Timer(LIMIT, self._process.kill)
        timer.start()
        try:
            self._process.stdin.write(json.dumps(order) + '\n')
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ''
        finally:
            timer.cancel()
        if not line:
            return {'error': f'the client ended with status {self._process.wait(LIMIT)}'}
        return json.loads(line)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(LIMIT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Bench:
    """Runs workloads and collects samples, versions and failures."""

    def __init__(
        self,
        python: str,
        contenders: List[Contender],
        running: webservers.Servers,
        plan: Plan,
        cpu: Optional[int],
    ) -> None:
        self.python = python
        self.contenders = contenders
        self.running = running
        self.plan = plan
        self.cpu = cpu
        #: Of the rounds in which all took part, and of the further ones with some of them.
        self.samples: Samples = {}
        self.more_samples: Samples = {}
        self.versions: Dict[str, str] = {}
        self.failures: List[str] = []
        self._processes: Dict[str, Process] = {}
        #: What the first round found out for the others.
        self._sizes: Dict[Tuple[str, str], List[int]] = {}
        self._order = random.Random(1)

    def close(self) -> None:
        for name in list(self._processes):
            self._processes.pop(name).close()

    def run(self, load: Workload) -> None:
        """Run one workload with all clients, in all rounds."""
        if load.method == 'import':
            self._run_imports(load)
        else:
            names = {contender.name for contender in self.contenders}
            rounds = 1 if load.method == 'memory' else self.plan.rounds
            self._run_rounds(load, names, rounds, self.samples)

    def run_again(self, load: Workload, names: Set[str]) -> None:
        """Run more rounds of a workload with the clients *names*."""
        self._run_rounds(load, names, self.plan.more_rounds, self.more_samples)

    def _run_rounds(self, load: Workload, names: Set[str], rounds: int, samples: Samples) -> None:
        names = set(names)
        for _ in range(rounds):
            for contender in self._shuffled():
                if contender.name in names and not self._run_once(load, contender, samples):
                    names.remove(contender.name)

    def _shuffled(self) -> List[Contender]:
        """The contenders in another order each time, so that nobody is always after the same."""
        return self._order.sample(self.contenders, len(self.contenders))

    def _run_once(self, load: Workload, contender: Contender, samples: Samples) -> bool:
        process = self._processes.pop(contender.name, None)
        if process is None:
            process = Process(self.python, contender, self.cpu)
        ports = self.running.canned if load.canned else self.running.static
        order = {
            'workload': load.name,
            'port': ports.tls if load.tls else ports.plain,
            'authority': self.running.authority,
            'payload_file': self.running.payload_file,
            'seconds': self.plan.seconds,
            'sizes': self._sizes.get((load.name, contender.name)),
        }
        result = process.ask(order)
        if self.plan.keep_processes and 'error' not in result:
            self._processes[contender.name] = process
        else:
            process.close()
        if 'version' in result:
            self.versions[contender.name] = result.pop('version')
        if 'error' in result:
            self.failures.append(f'{load.name}, {contender.name}: {result["error"]}')
            return False
        if 'missing' in result:
            return False
        if 'sizes' in result:
            self._sizes[load.name, contender.name] = result.pop('sizes')
        _add(samples, load.name, contender.name, result)
        return True

    def all_of_more_samples(self) -> Samples:
        """What was run in further rounds, with what the same clients took in the first ones.

        Only those can be compared that were measured side by side: the speed of a machine varies.
        """
        together: Samples = {}
        for source in (self.samples, self.more_samples):
            for workload, by_contender in source.items():
                for contender, result in by_contender.items():
                    if contender in self.more_samples.get(workload, {}):
                        _add(together, workload, contender, result)
        return together

    def _run_imports(self, load: Workload) -> None:
        """Time whole interpreters that only import a library; `raw` imports nothing."""
        for attempt in range(self.plan.imports + 1):
            for contender in self._shuffled():
                command = [self.python, '-c', _import_statement(contender)]
                result = _time_process(command, self.cpu)
                # The first one may have compiled the modules.
                if attempt:
                    _add(self.samples, load.name, contender.name, result)

    def imports_asyncio(self) -> bool:
        """Whether importing our library imports asyncio."""
        ours = next(contender for contender in self.contenders if contender.name == OURS)
        statement = _import_statement(ours) + '; print("asyncio" in sys.modules)'
        output = subprocess.run(
            [self.python, '-c', statement], check=True, stdout=subprocess.PIPE, timeout=LIMIT
        ).stdout
        return output.strip() != b'False'


def _add(samples: Samples, workload: str, contender: str, result: Dict[str, List[float]]) -> None:
    entry = samples.setdefault(workload, {}).setdefault(contender, {})
    for quantity, values in result.items():
        entry.setdefault(quantity, []).extend(values)


def _import_statement(contender: Contender) -> str:
    # All get the same number of places to search.
    path = contender.path if contender.path is not None else HERE
    return f'import sys; sys.path.insert(0, {path!r}); import {CLIENTS[contender.client].imports}'


def _time_process(command: List[str], cpu: Optional[int]) -> Dict[str, List[float]]:
    wall = time.perf_counter()
    process = subprocess.Popen(command, preexec_fn=lambda: webservers.pin(cpu))
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - wall
    process.returncode = status
    if status:
        raise RuntimeError(f'{command[-1]} failed')
    return {'wall': [wall], 'cpu': [usage.ru_utime + usage.ru_stime]}


def medians(samples: Samples) -> Medians:
    """The same nesting as *samples*, with a median in place of each list."""
    return {
        workload: {
            contender: {name: statistics.median(values) for name, values in quantities.items()}
            for contender, quantities in by_contender.items()
        }
        for workload, by_contender in samples.items()
    }


def format_seconds(value: float) -> str:
    for limit, unit, factor in ((1e-3, 'µs', 1e6), (1.0, 'ms', 1e3)):
        if value < limit:
            return f'{value * factor:.4g} {unit}'
    return f'{value:.4g} s'


def workload_table(load: Workload, results: Dict[str, Dict[str, float]]) -> Iterator[str]:
    """The lines of the table of one workload, fastest first."""
    yield ''
    yield f'{load.name}: {load.title}'
    if load.method == 'memory':
        yield f'  {"":18}{"unused":>12}{"used":>12}   bytes of Python memory per connection'
        for name, values in results.items():
            yield f'  {name:18}{values["idle"]:12.0f}{values["used"]:12.0f}'
        return
    ours = results.get(OURS)
    yield f'  {"":18}{"wall":>12}{"CPU":>12}{"wall ÷ ours":>14}{"CPU ÷ ours":>14}'
    for name in sorted(results, key=lambda name: results[name]['wall']):
        values = results[name]
        line = (
            f'  {name:18}{format_seconds(values["wall"]):>12}{format_seconds(values["cpu"]):>12}'
        )
        if ours is not None:
            line += f'{values["wall"] / ours["wall"]:14.2f}'
            # Nothing is left to divide by where the clock of the system is coarse.
            if ours['cpu']:
                line += f'{values["cpu"] / ours["cpu"]:14.2f}'
        yield line


class Comparison(NamedTuple):
    """A bar, the *peer* with which it compares our client, and what was found."""

    bar: Bar
    peer: str
    ratio: float
    cpu_ratio: float


def comparisons(results: Medians) -> Iterator[Comparison]:
    """All pairs of a bar and a peer that it may be about, if both sides have been measured."""
    for bar in BARS:
        measured = results.get(bar.workload, {})
        if OURS not in measured:
            continue
        ours = measured[OURS]
        for peer, theirs in measured.items():
            candidate = peer not in NOT_PYTHON and peer != OURS and '@' not in peer
            if peer == bar.peer or (bar.peer == '*' and candidate):
                # Where the clock of the system is coarse, the CPU time may be nothing.
                cpu = theirs['cpu'] and ours['cpu'] / theirs['cpu']
                yield Comparison(bar, peer, ours['wall'] / theirs['wall'], cpu)


def near_bars(results: Medians) -> Dict[str, Set[str]]:
    """Workload -> clients to measure more often, as chance may decide whether a bar is met."""
    near: Dict[str, Set[str]] = {}
    for bar, peer, ratio, _ in comparisons(results):
        # Imports have been measured often enough.
        if abs(ratio / bar.factor - 1) <= NEAR and WORKLOADS[bar.workload].method != 'import':
            near.setdefault(bar.workload, {OURS}).add(peer)
    return near


def decisive(results: Medians, more: Medians) -> Iterator[Comparison]:
    """One comparison for each bar: with the best peer, out of *more* if it was run there."""
    chosen: Dict[Bar, Comparison] = {}
    for source in (results, more):
        found: Dict[Bar, Comparison] = {}
        for one in comparisons(source):
            if one.bar not in found or one.ratio > found[one.bar].ratio:
                found[one.bar] = one
        chosen.update(found)
    return (chosen[bar] for bar in BARS if bar in chosen)


def evaluate_bars(
    results: Medians, more: Medians, imports_asyncio: Optional[bool]
) -> List[Dict[str, Any]]:
    """One entry for each bar whose workload and peer have been measured."""
    rows: List[Dict[str, Any]] = []

    def add(workload: str, bar: str, measured: str, met: bool, **more: Any) -> None:
        rows.append({'workload': workload, 'bar': bar, 'measured': measured, 'met': met, **more})

    for bar, peer, ratio, cpu in decisive(results, more):
        text = f'≤ {bar.factor:.2f} × {peer}' + (' (best in Python)' if bar.peer == '*' else '')
        add(bar.workload, text, f'{ratio:.3f}', ratio <= bar.factor, ratio=ratio, cpu_ratio=cpu)
    if imports_asyncio is not None:
        text = 'yes' if imports_asyncio else 'no'
        add('import', 'asyncio not imported', text, not imports_asyncio)
    ours = results.get('memory', {}).get(OURS)
    if ours is not None:
        for quantity, limit in MEMORY_BARS.items():
            text = f'{ours[quantity] / KIB:.2f} KiB'
            add('memory', f'{quantity} ≤ {limit // KIB} KiB', text, ours[quantity] <= limit)
    return rows


def bar_table(rows: List[Dict[str, Any]]) -> Iterator[str]:
    yield ''
    yield 'bars (ratio of the medians of wall time; CPU for information)'
    yield f'  {"":26}{"bar":40}{"measured":>10}{"CPU":>8}'
    for row in rows:
        cpu = f'{row["cpu_ratio"]:.3f}' if 'cpu_ratio' in row else ''
        met = 'met' if row['met'] else 'MISSED'
        yield f'  {row["workload"]:26}{row["bar"]:40}{row["measured"]:>10}{cpu:>8}  {met}'


def machine() -> Dict[str, Any]:
    """What kind of machine this is, without saying which."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open('/proc/cpuinfo') as fh:
        for line in fh:
            if line.startswith('model name'):
                model = line.partition(':')[2].strip()
                break
    return {'cpu': model, 'cores': os.cpu_count(), 'system': platform.system()}


def cores(choice: str) -> List[Optional[int]]:
    """A core for the servers and one for the clients, or `None` for both."""
    if choice != 'any' and hasattr(os, 'sched_getaffinity'):
        available = sorted(os.sched_getaffinity(0))
        return [available[0] if choice == 'apart' else available[-1], available[-1]]
    return [None, None]


def parse_arguments(arguments: Optional[List[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])

    def names(known):
        def split(text):
            chosen = text.split(',')
            for name in chosen:
                if name not in known:
                    raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(known)}')
            return chosen

        return split

    parser.add_argument('--quick', action='store_true', help='less exact, under two minutes')
    parser.add_argument('--rounds', type=int, help='how often each client runs each workload')
    parser.add_argument(
        '--more-rounds',
        type=int,
        metavar='N',
        help='how often what is near to a bar is run in addition; 0 if --rounds is given',
    )
    parser.add_argument('--seconds', type=float, help='how long each run takes, about')
    parser.add_argument(
        '--only', type=names(WORKLOADS), default=list(WORKLOADS), metavar='WORKLOAD[,…]'
    )
    parser.add_argument(
        '--clients', type=names(CLIENTS), default=list(CLIENTS), metavar='CLIENT[,…]'
    )
    parser.add_argument(
        '--against',
        action='append',
        default=[],
        metavar='REV',
        help='measure this older commit of ours, too (may be repeated)',
    )
    parser.add_argument('--save', metavar='FILE', help='write all results as JSON')
    parser.add_argument('--venv', metavar='DIR', default=default_directory())
    parser.add_argument('--no-nginx', action='store_true', help='use the canned server only')
    parser.add_argument(
        '--cores',
        choices=['apart', 'together', 'any'],
        default='apart',
        help='servers and clients on different cores (default), on one, or left to the system: '
        'apart, a short exchange is mostly the time that the cores need to wake each other up',
    )
    parser.add_argument('--list', action='store_true', help='list workloads and clients')
    return parser.parse_args(arguments)


def main(arguments: Optional[List[str]] = None) -> int:
    options = parse_arguments(arguments)
    if options.list:
        for load in WORKLOADS.values():
            print(f'{load.name:26}{load.title}')
        print('clients:', ', '.join(CLIENTS))
        return 0
    plan = Plan(1.0, 5, 10, 30, keep_processes=False)
    if options.quick:
        plan = Plan(0.08, 2, 0, 5, keep_processes=True)
    if options.rounds is not None:
        plan = plan._replace(rounds=options.rounds, more_rounds=0, imports=options.rounds)
    if options.more_rounds is not None:
        plan = plan._replace(more_rounds=options.more_rounds)
    if options.seconds is not None:
        plan = plan._replace(seconds=options.seconds)
    loads = [WORKLOADS[name] for name in options.only]
    # Servers and clients are stopped on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    environment = Environment(options.venv)
    places = environment.add_clients(options.clients)
    tls = any(load.tls for load in loads)
    trustme = sys.executable
    if tls and importlib.util.find_spec('trustme') is None:
        trustme = environment.python
        if not environment.add('trustme'):
            print('trustme cannot be installed here: no TLS')
            loads = [load for load in loads if not load.tls]
            tls = False
    # The same interpreter for all; without packages to install there may be no environment.
    python = environment.python if os.path.exists(environment.python) else sys.executable

    server_cpu, client_cpu = cores(options.cores)
    with contextlib.ExitStack() as stack:
        contenders = [Contender(name, name, path) for name, path in places.items()]
        for revision in options.against:
            path = stack.enter_context(worktree(revision))
            contenders.append(Contender(f'{OURS}@{revision}', OURS, path))
        running = stack.enter_context(
            webservers.start(trustme, tls, not options.no_nginx, server_cpu)
        )
        bench = Bench(python, contenders, running, plan, client_cpu)
        stack.callback(bench.close)
        print(f'Python {platform.python_version()}, {running.static_name}, {plan.rounds} rounds')
        load_before = os.getloadavg()[0]
        if load_before > BUSY:
            print(f'the machine is busy (load {load_before:.2f}): wall times will be wrong')
        for load in loads:
            bench.run(load)
            measured = medians(bench.samples).get(load.name)
            if measured:
                print('\n'.join(workload_table(load, measured)), flush=True)
        near = near_bars(medians(bench.samples)) if plan.more_rounds else {}
        for name, names in near.items():
            bench.run_again(WORKLOADS[name], names)
        if near:
            print(f'\n{plan.more_rounds} more rounds near to a bar: {", ".join(near)}')
        imports_asyncio = None
        if 'import' in bench.samples and OURS in places:
            imports_asyncio = bench.imports_asyncio()
    results = medians(bench.samples)
    bars = evaluate_bars(results, medians(bench.all_of_more_samples()), imports_asyncio)
    print('\n'.join(bar_table(bars)))
    for failure in bench.failures:
        print('failed:', failure)
    if options.save:
        document = {
            'python': platform.python_version(),
            'implementation': platform.python_implementation(),
            'machine': machine(),
            'commit': git('rev-parse', 'HEAD').strip() or None,
            'modified': bool(git('status', '--porcelain', 'dugong')),
            'server': running.static_name,
            'cores': options.cores,
            'quick': options.quick,
            'load_before': load_before,
            'seconds': plan.seconds,
            'rounds': plan.rounds,
            'more_rounds': plan.more_rounds,
            'held_connections': HELD_CONNECTIONS,
            'versions': bench.versions,
            'medians': results,
            'samples': bench.samples,
            'more_samples': bench.more_samples,
            'bars': bars,
        }
        with open(options.save, 'w') as fh:
            json.dump(document, fh, indent=1, sort_keys=True)
            fh.write('\n')
    return 1 if bench.failures else 0


if __name__ == '__main__':
    sys.exit(main())
