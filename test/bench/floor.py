#!/usr/bin/env python3
"""Measure what no client in Python can do without: `python3 test/bench/floor.py`.

Two exchanges of the benchmark, small documents one by one and pipelined, by loops that do more
and more of what has to be done, from nothing but system calls to our client. What a loop takes
is a floor for every client that does as much as this loop, however it is written.
"""

import argparse
import contextlib
import select
import statistics
import sys
import time
from typing import Any, Callable, List, NamedTuple

import webservers
from clients import Server, Task, http_client, raw_client, require
from environment import ROOT
from run import cores
from workloads import HEADER, HEADER_VALUE, KIB, content

sys.path.insert(0, ROOT)

from clients import dugong_client

from dugong import HTTPResponse
from dugong._parser import parse_head

#: Requests that a loop is ahead of the answers, at most.
WINDOW = 64
#: Seconds between two requests in which the core of the server falls asleep. Every client in
#: Python needs more than that for what it does between them.
PAUSE = 8e-6
TASK = Task('/small', content(KIB))


class Step(NamedTuple):
    """What a loop does in addition to the one before, and the loop: it takes a count."""

    title: str
    run: Callable[[int], None]


class Loops:
    """The loops, on one connection."""

    def __init__(self, server: Server) -> None:
        raw = raw_client.Client(server)
        self.request = raw.request(TASK.path)
        self.size = raw.head_length(TASK.path) + len(TASK.body)
        self.sock = raw.connection()
        self.sock.setblocking(False)
        poller = select.poll()
        poller.register(self.sock, select.POLLIN)
        self.poll = poller.poll
        self.buffer = bytearray(4 * WINDOW * KIB)
        self.view = memoryview(self.buffer)

    def receive_busily(self) -> None:
        while not self.poll(0):
            pass
        require(self.sock.recv_into(self.view) == self.size, 'answer')

    def take(self, start: int) -> int:
        """Make a response of the octets at *start*; return where it ends."""
        buffer = self.buffer
        end = buffer.find(b'\r\n\r\n', start)
        head = parse_head(buffer[start:end].decode('latin1'))
        (length,) = map(int, head.framing['content-length'])
        response = HTTPResponse('GET', TASK.path, head.status, head.reason, head.fields, length)
        body = bytes(self.view[end + 4 : end + 4 + length])
        require(
            response.status == 200
            and response.headers[HEADER] == HEADER_VALUE
            and body == TASK.body,
            response,
        )
        return end + 4 + length

    def busy(self, count: int) -> None:
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()

    def busy_with_pauses(self, count: int) -> None:
        clock = time.perf_counter
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()
            end = clock() + PAUSE
            while clock() < end:
                pass

    def busy_and_strict(self, count: int) -> None:
        for _ in range(count):
            self.sock.send(self.request)
            self.receive_busily()
            self.take(0)

    def pipeline(self, count: int, take: Callable[[int], int]) -> None:
        """Send one by one until the window is full, then take all answers that are there."""
        sent = done = end = 0
        while done < count:
            while sent < count and sent - done < WINDOW:
                self.sock.send(self.request)
                sent += 1
            self.poll(None)
            end += self.sock.recv_into(self.view[end:])
            start = 0
            while end - start >= self.size:
                start = take(start)
                done += 1
            self.view[: end - start] = self.view[start:end]
            end -= start

    def pipeline_unchecked(self, count: int) -> None:
        self.pipeline(count, lambda start: start + self.size)

    def pipeline_strict(self, count: int) -> None:
        self.pipeline(count, self.take)


def measure(steps: List[Step], rounds: int, seconds: float) -> List[float]:
    """Seconds for one exchange in each of the loops, run in turn: medians."""
    counts = []
    for step in steps:
        step.run(100)
        counts.append(max(100, int(seconds / _timed(step, 100))))
    times: List[List[float]] = [
        [_timed(step, count) for step, count in zip(steps, counts)] for _ in range(rounds)
    ]
    return [statistics.median(column) for column in zip(*times)]


def _timed(step: Step, count: int) -> float:
    start = time.perf_counter()
    step.run(count)
    return (time.perf_counter() - start) / count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--seconds', type=float, default=0.3, help='time of each loop, about')
    parser.add_argument('--no-nginx', action='store_true', help='use the canned server only')
    options = parser.parse_args()
    server_cpu, client_cpu = cores('apart')
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(
            webservers.start(sys.executable, False, not options.no_nginx, server_cpu)
        )
        webservers.pin(client_cpu)
        server = Server(webservers.HOST, running.static.plain, None, None)
        loops = Loops(server)
        stack.callback(loops.sock.close)
        modules = (raw_client, http_client, dugong_client)
        clients: List[Any] = [module.Client(server) for module in modules]
        for client in clients:
            stack.callback(client.close)
        raw, standard, ours = clients

        def of(client: Any, method: str) -> Callable[[int], None]:
            function = getattr(client, method)
            return lambda count: function(count, TASK)

        ladders = {
            'one by one': [
                Step('raw: asleep until the answer comes', of(raw, 'get')),
                Step('looks for the answer without sleeping', loops.busy),
                Step(f'and {PAUSE * 1e6:.0f} µs between two requests', loops.busy_with_pauses),
                Step('and checks and returns what it got', loops.busy_and_strict),
                Step('dugong', of(ours, 'get')),
                Step('http.client', of(standard, 'get')),
            ],
            'pipelined': [
                Step('raw: 64 requests in one call', of(raw, 'pipeline_coroutines')),
                Step('a call for each request', loops.pipeline_unchecked),
                Step('and checks and returns what it got', loops.pipeline_strict),
                Step('dugong, two coroutines', of(ours, 'pipeline_coroutines')),
            ],
        }
        for name, steps in ladders.items():
            print(f'{name:40}{"µs":>8}{"× first":>10}{"× last":>10}')
            times = measure(steps, options.rounds, options.seconds)
            for step, seconds in zip(steps, times):
                print(
                    f'  {step.title:38}{seconds * 1e6:8.1f}{seconds / times[0]:10.2f}'
                    f'{seconds / times[-1]:10.2f}'
                )
    return 0


if __name__ == '__main__':
    sys.exit(main())
