#!/usr/bin/env python3
"""Measure what our code takes of a small document: `python3 test/bench/budget.py`.

The socket is replaced by an object that has the answer at hand and does nothing else, so that
nothing but the code of the library is left. Printed are microseconds, the best of all runs.
"""

import argparse
import socket
import sys
import time
from typing import Callable, Dict, List, Optional, Tuple

import webservers
from environment import ROOT
from workloads import HEADER

sys.path.insert(0, ROOT)

from dugong import HTTPConnection, HTTPResponse
from dugong._body import ResponseBody
from dugong._parser import parse_head

PATH = '/small'
ANSWER = webservers.response(PATH)


class Answering:
    """In place of a socket: takes every request, and answers."""

    send = staticmethod(len)

    def recv_into(self, view: memoryview) -> int:
        view[: len(ANSWER)] = ANSWER
        return len(ANSWER)


class Answered:
    """In place of what is waited for: it has always come."""

    def poll(self, timeout: Optional[float]) -> bool:
        return True


def connection(port: int) -> HTTPConnection:
    """A connection that needs no system call from now on."""
    conn = HTTPConnection(webservers.HOST, port)
    conn.connect()
    stream = conn._session.stream
    stream.sock = Answering()
    stream._answered = Answered()
    stream._probe = lambda timeout: []
    return conn


def exchanges(conn: HTTPConnection, count: int) -> List[float]:
    """Seconds that each step of an exchange took."""
    clock = time.perf_counter
    send, read, look, rest, idle = 0.0, 0.0, 0.0, 0.0, 0.0
    for _ in range(count):
        start = clock()
        conn.send_request('GET', PATH)
        sent = clock()
        response = conn.read_response()
        answered = clock()
        response.headers.get(HEADER)
        looked = clock()
        conn.readall()
        end = clock()
        send += sent - start
        read += answered - sent
        look += looked - answered
        rest += end - looked
        # What it takes to look at the clock.
        idle += clock() - end
    return [(part - idle) / count for part in (send, read, look, rest)]


def seconds(action: Callable[[], object], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        action()
    return (time.perf_counter() - start) / count


def budget(runs: int, count: int) -> Dict[str, float]:
    """Seconds for each part, the best of *runs* with *count* exchanges each."""
    text = ANSWER[: ANSWER.index(b'\r\n\r\n')].decode('latin1')
    head = parse_head(text)

    def respond() -> Tuple[ResponseBody, HTTPResponse]:
        body = ResponseBody('GET', head, False)
        return body, HTTPResponse('GET', PATH, head.status, head.reason, head, body.length)

    with socket.create_server((webservers.HOST, 0)) as listener:
        conn = connection(listener.getsockname()[1])
        rows = [
            [*exchanges(conn, count), seconds(lambda: parse_head(text), count)]
            + [seconds(respond, count)]
            for _ in range(runs)
        ]
    send, read, look, rest, parse, respond_ = map(min, zip(*rows))
    return {
        'send_request: build the head, send': send,
        'read_response': read,
        '- check the head, find the framing fields': parse,
        '- decide about the body, make the response': respond_,
        '- roles, waiting, filling the buffer, taking the head out of it': read - parse - respond_,
        'one header field looked up, and the message object for it': look,
        'readall out of the buffer': rest,
        'all of the Python code': send + read + look + rest,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--runs', type=int, default=30)
    parser.add_argument('--count', type=int, default=3000, help='exchanges in each run')
    options = parser.parse_args()
    for part, time_ in budget(options.runs, options.count).items():
        print(f'{part:68}{time_ * 1e6:6.1f}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
