"""One client, in a process of its own: reads tasks from standard input, writes results.

Both are one JSON object per line. `run.py` starts this; it is of no use alone.
"""

import argparse
import contextlib
import functools
import gc
import importlib
import json
import resource
import ssl
import sys
import time
import tracemalloc
import zlib
from base64 import b64encode
from hashlib import md5
from typing import Any, Callable, Dict, Optional, Tuple

from clients import CLIENTS, Server, Task, require
from webservers import CHECKSUM, DISCARD, HOST, upload_answer
from workloads import HELD_CONNECTIONS, KIB, MIB, OBJECTS, WORKLOADS, Workload, content

#: The parts of a run, each with a connection of its own.
SLICES_MIN, SLICES_MAX = 2, 10

Operation = Callable[[int, Task], Any]


@functools.lru_cache(maxsize=None)
def _context(authority: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority)


@functools.lru_cache(maxsize=2)
def _payload_md5(size: int) -> str:
    return b64encode(md5(content(size)).digest()).decode()


def make_task(load: Workload, payload_file: str, check: bool) -> Task:
    """The task to check a client with, or the one to time."""
    body = content(load.size)
    if load.method.startswith('upload'):
        path = CHECKSUM if check else DISCARD
        expected = upload_answer(path, load.size, zlib.crc32(body) if check else 0)
        return Task(
            path, expected, body, payload_md5=_payload_md5(load.size), payload_file=payload_file
        )

    # A bytearray, because it compares itself with a memoryview by memcmp.
    comparable = bytearray(body) if check else bytearray()

    def verify(position: int, piece: memoryview) -> None:
        require(comparable[position : position + len(piece)] == piece, f'body at {position}')

    return Task(load.path, body, chunk=OBJECTS[load.path][1], verify=verify if check else None)


def time_operations(
    make_client: Callable[[], Any],
    load: Workload,
    payload_file: str,
    seconds: float,
    sizes: Optional[Tuple[int, int]] = None,
) -> Dict[str, Any]:
    """Time operations for about *seconds*, in slices with a new client (connection) each.

    Some connections move large bodies with many more wake-ups than others, and keep doing so;
    the sizes that the kernel gives to their buffers have to do with it. With one connection
    per run, luck would decide; the median over several depends on it less.

    *sizes* is the entry `sizes` of an earlier result: slices, and operations in each.
    """
    task = make_task(load, payload_file, check=False)
    slices, count = sizes or _check_and_calibrate(make_client, load, payload_file, seconds)
    result: Dict[str, Any] = {'wall': [], 'cpu': [], 'sizes': [slices, count]}
    for _ in range(slices):
        with contextlib.closing(make_client()) as client:
            operate = getattr(client, load.method)
            # Opens the connection.
            if load.size > MIB:
                client.get(1, make_task(WORKLOADS['get'], '', check=False))
            else:
                operate(load.minimum, task)
            wall, cpu, body = _timed(operate, count, task)
        require(body is None or body == task.body, 'body')
        del body
        result['wall'].append(wall / count)
        result['cpu'].append(cpu / count)
    return result


def _check_and_calibrate(
    make_client: Callable[[], Any], load: Workload, payload_file: str, seconds: float
) -> Tuple[int, int]:
    """Number of slices, and of operations in each, that take about *seconds* together."""
    task = make_task(load, payload_file, check=False)
    with contextlib.closing(make_client()) as client:
        operate = getattr(client, load.method)
        if load.size > KIB:
            # The content of large bodies is compared here and after the timed parts; the
            # timed parts look at their lengths.
            wall, _, body = _timed(operate, 1, make_task(load, payload_file, check=True))
            require(body is None or body == task.body, 'body')
            del body
            if wall > seconds:
                # Then there is nothing to find out with one more.
                return SLICES_MIN, load.minimum
        else:
            # Some libraries import parts of themselves when they need them first.
            operate(load.minimum, task)
        count = load.minimum
        while True:
            wall = _timed(operate, count, task)[0]
            if wall > seconds / 20:
                break
            count *= max(2, min(10, int(seconds / 15 / wall)))
    wall /= count
    slices = max(SLICES_MIN, min(SLICES_MAX, int(seconds / (2 * wall * load.minimum))))
    count = max(load.minimum, int(seconds / slices / wall))
    return slices, count - count % load.minimum


def _timed(operate: Operation, count: int, task: Task) -> Any:
    gc.collect()
    cpu = time.process_time()
    wall = time.perf_counter()
    body = operate(count, task)
    wall = time.perf_counter() - wall
    cpu = time.process_time() - cpu
    return wall, cpu, body


def weigh_connections(make_client: Callable[[], Any], load: Workload) -> Dict[str, Any]:
    """Python memory of a connection, before it has read an answer and afterwards."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY or hard > 2 * HELD_CONNECTIONS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * HELD_CONNECTIONS), hard))
    task = make_task(load, '', check=False)
    with contextlib.closing(make_client()) as client:
        # What is made once and kept does not belong to the connections.
        client.hold(1)
        client.use(task)
        gc.collect()
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            client.hold(HELD_CONNECTIONS)
            gc.collect()
            idle = tracemalloc.get_traced_memory()[0] - before
            client.use(task)
            gc.collect()
            used = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
    return {'idle': [idle / HELD_CONNECTIONS], 'used': [used / HELD_CONNECTIONS]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument('client', help='name in the table of clients')
    parser.add_argument('--path', help='where to look for the library first')
    options = parser.parse_args()
    if options.path:
        sys.path.insert(0, options.path)
    module = importlib.import_module('clients.' + CLIENTS[options.client].module)
    # What a library prints must not get between the results.
    results, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        order = json.loads(line)
        load = WORKLOADS[order['workload']]
        authority = order['authority'] if load.tls else None
        server = Server(HOST, order['port'], _context(authority) if load.tls else None, authority)
        methods = ['hold', 'use'] if load.method == 'memory' else [load.method]
        result: Dict[str, Any] = {'version': module.version()}
        if all(hasattr(module.Client, method) for method in methods):
            make_client = functools.partial(module.Client, server)
            try:
                if load.method == 'memory':
                    result.update(weigh_connections(make_client, load))
                else:
                    result.update(
                        time_operations(
                            make_client,
                            load,
                            order['payload_file'],
                            order['seconds'],
                            order['sizes'],
                        )
                    )
            except Exception as exc:
                result['error'] = f'{type(exc).__name__}: {exc}'[:200]
        else:
            result['missing'] = True
        print(json.dumps(result), file=results, flush=True)


if __name__ == '__main__':
    main()
