"""`PollNeeded` and the blocking driver, on socket pairs."""

import copy
import math
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from decimal import Decimal
from typing import Any, Iterator, List, Tuple

import pytest
from servers import LIMIT
from waiting_support import Cancelled, Crt, Thread, signal_storm, signals

import dugong
from dugong import (
    POLLIN,
    POLLOUT,
    ConnectionTimedOut,
    PollNeeded,
    eval_coroutine,
    is_temp_network_error,
)
from dugong._poll import Looks

Pair = Tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        yield ours, theirs


def fill(sock: socket.socket) -> None:
    """Send until nothing more can be sent."""
    with pytest.raises(BlockingIOError):
        while True:
            sock.send(bytes(65536))


def drain(sock: socket.socket) -> None:
    """Receive all that is there."""
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            sock.recv(1 << 20)


@pytest.fixture(params=['poll', 'select'])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With `select.poll`, and as on a system that has none."""
    if request.param == 'select':
        monkeypatch.delattr(select, 'poll')
    return request.param


# PollNeeded


def test_it_is_a_tuple() -> None:
    need = PollNeeded(3, POLLIN)
    assert isinstance(need, tuple)
    assert need == (3, POLLIN)
    fd, mask = need
    assert (fd, mask) == (need.fd, need.mask) == (3, POLLIN)
    assert hash(need) == hash((3, POLLIN))


@pytest.mark.parametrize(
    'duplicate', [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))]
)
def test_it_can_be_copied_even_after_use(duplicate: Any, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLOUT)
    need.poll(0)
    other = duplicate(need)
    assert other == need and type(other) is PollNeeded
    assert other.poll(0)


def test_masks_are_those_of_the_system() -> None:
    assert (POLLIN, POLLOUT) == (select.POLLIN, select.POLLOUT)


def test_poll_zero_returns_at_once(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN)
    assert need.poll(0) is False
    pair[1].send(b'x')
    assert need.poll(0) is True


def test_poll_none_waits_until_it_is_ready(system: str, pair: Pair) -> None:
    thread = Thread(PollNeeded(pair[0].fileno(), POLLIN).poll, None)
    pair[1].send(b'x')
    assert thread.finish() is True


def test_poll_without_argument_waits_until_it_is_ready(system: str, pair: Pair) -> None:
    thread = Thread(PollNeeded(pair[0].fileno(), POLLIN).poll)
    pair[1].send(b'x')
    assert thread.finish() is True


def test_poll_waits_for_room_to_send(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLOUT)
    assert need.poll(0) is True
    fill(pair[0])
    assert need.poll(0) is False
    drain(pair[1])
    assert need.poll(LIMIT) is True


def test_poll_for_both_ends_with_either(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN | POLLOUT)
    assert need.poll(0) is True
    fill(pair[0])
    assert need.poll(0) is False
    pair[1].send(b'x')
    assert need.poll(0) is True


@pytest.mark.parametrize('mask', [POLLIN, POLLOUT, POLLIN | POLLOUT])
def test_hang_up_ends_the_wait(system: str, pair: Pair, mask: int) -> None:
    fill(pair[0])
    pair[1].close()
    assert PollNeeded(pair[0].fileno(), mask).poll(LIMIT) is True


def test_closed_descriptor_does_not_wait(pair: Pair) -> None:
    """The call that comes next reports the error."""
    fd = os.dup(pair[0].fileno())
    os.close(fd)
    assert PollNeeded(fd, POLLIN).poll(LIMIT) is True


@pytest.mark.parametrize('timeout', [0.001, 0.0104, 0.05, 0.0999])
def test_poll_never_gives_up_early(system: str, pair: Pair, timeout: float) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN)
    began = time.monotonic()
    assert need.poll(timeout) is False
    passed = time.monotonic() - began
    # The clocks of poll() and of Python may differ by their resolution.
    assert timeout - 0.0005 <= passed < timeout + 5


class Polls:
    """Takes the place of `select.poll`: notes each timeout, and is ready when told so."""

    def __init__(self) -> None:
        self.timeouts: List[Any] = []
        #: So many polls find nothing yet.
        self.in_vain = 0

    def __call__(self) -> Any:
        return self

    def register(self, fd: int, mask: int) -> None:
        pass

    def poll(self, timeout: Any) -> List[Any]:
        self.timeouts.append(timeout)
        self.in_vain -= 1
        return [] if self.in_vain >= 0 else [(0, POLLIN)]

    def sleeps(self) -> List[Any]:
        """Return the timeouts of the polls that waited, and forget all."""
        sleeps = [timeout for timeout in self.timeouts if timeout != 0]
        self.timeouts.clear()
        return sleeps


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> Polls:
    polls = Polls()
    monkeypatch.setattr(select, 'poll', polls)
    return polls


def test_tiny_timeout_is_a_wait_not_a_look(polls: Polls) -> None:
    """Rounding down to 0 would make a busy loop of a driver that computes deadlines."""
    polls.in_vain = sys.maxsize
    for timeout in (0, 1e-9, 0.0001, 0.001, 0.0011, 2, None):
        assert PollNeeded(0, POLLIN).poll(timeout) is False
    assert polls.timeouts == [0, 1, 1, 1, 2, 2000, None]


@pytest.mark.parametrize(
    'timeout', [1e10, 2**31, 2**62, 10**30, 1e300, math.inf], ids=lambda t: f'{t:g}'
)
def test_long_timeouts_are_possible(system: str, pair: Pair, timeout: float) -> None:
    thread = Thread(PollNeeded(pair[0].fileno(), POLLIN).poll, timeout)
    pair[1].send(b'x')
    assert thread.finish() is True


def test_negative_timeout_is_over(system: str, pair: Pair) -> None:
    """A deadline that has passed is no reason to wait for ever."""
    assert PollNeeded(pair[0].fileno(), POLLIN).poll(-1) is False


def test_two_threads_may_poll_the_same_object(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN)
    threads = [Thread(need.poll, LIMIT) for _ in range(4)]
    pair[1].send(b'x')
    assert [thread.finish() for thread in threads] == [True] * 4


def test_signal_handler_that_raises_ends_the_wait(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN)

    def handle(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Cancelled

    # More than one signal, as the first may come before the wait begins.
    with signals(handle, 0.02, 0.02), pytest.raises(Cancelled):
        need.poll(LIMIT)
    pair[1].send(b'x')
    assert need.poll(0) is True


@pytest.mark.slow
def test_signals_neither_end_nor_extend_the_wait(system: str, pair: Pair) -> None:
    need = PollNeeded(pair[0].fileno(), POLLIN)
    began = time.monotonic()
    with signal_storm() as count:
        assert need.poll(0.3) is False
    assert count[0] > 10
    assert 0.2995 <= time.monotonic() - began < 5


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_descriptor_above_1024(pair: Pair) -> None:
    import fcntl

    fd = fcntl.fcntl(pair[0].fileno(), fcntl.F_DUPFD, 1500)
    try:
        need = PollNeeded(fd, POLLIN)
        assert need.poll(0) is False
        pair[1].send(b'x')
        assert need.poll(LIMIT) is True
    finally:
        os.close(fd)


# Busy waits


def brief(fd: int = 0) -> PollNeeded:
    """Return what the library waits for when it expects an answer."""
    need = PollNeeded(fd, POLLIN)
    need._busy_waits = Looks()
    return need


def test_look_is_a_single_one(polls: Polls) -> None:
    polls.in_vain = sys.maxsize
    assert brief().poll(0) is False
    assert polls.timeouts == [0]


def test_wait_that_is_soon_over_does_not_sleep(
    polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', LIMIT)
    polls.in_vain = 1000
    assert brief().poll() is True
    assert len(polls.timeouts) == 1001
    assert polls.sleeps() == []


def test_wait_that_takes_longer_sleeps(polls: Polls) -> None:
    polls.in_vain = sys.maxsize
    brief().poll()
    assert polls.timeouts[-1] is None
    assert polls.sleeps() == [None]


def test_busy_waits_in_vain_become_rare(polls: Polls) -> None:
    need = brief()
    pauses = [0]
    for _ in range(400):
        polls.in_vain = sys.maxsize
        need.poll()
        if len(polls.timeouts) == 1:
            pauses[-1] += 1
        else:
            pauses.append(0)
        assert polls.sleeps() == [None]
    assert pauses[:9] == [0, 1, 3, 7, 15, 31, 63, 64, 64]


def test_busy_waits_come_back_when_one_succeeds(
    polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = brief()
    for _ in range(1 + 1 + 1 + 3):
        polls.in_vain = sys.maxsize
        need.poll()
    polls.sleeps()
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', LIMIT)
    for _ in range(10):
        polls.in_vain = 10
        assert need.poll() is True
    assert polls.sleeps() == []


def test_busy_wait_can_be_switched_off(polls: Polls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', 0)
    polls.in_vain = sys.maxsize
    brief().poll()
    assert polls.timeouts == [0, None]


def test_timeout_limits_the_busy_wait(polls: Polls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', 100 * LIMIT)
    polls.in_vain = sys.maxsize
    began = time.monotonic()
    assert brief().poll(0.002) is False
    assert time.monotonic() - began < LIMIT
    assert polls.sleeps() == []


def test_busy_wait_is_part_of_the_timeout(polls: Polls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', 0.002)
    polls.in_vain = sys.maxsize
    assert brief().poll(0.005) is False
    assert polls.sleeps() == [3]


def test_timeout_of_a_busy_wait_may_be_any_number(polls: Polls) -> None:
    polls.in_vain = sys.maxsize
    assert brief().poll(Decimal('0.01')) is False  # type: ignore[arg-type]
    assert polls.sleeps() == [10]


def test_stopped_clock_does_not_make_a_busy_wait_endless(
    polls: Polls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr('dugong._poll.perf_counter', lambda: 1.0)
    polls.in_vain = 100_000
    brief().poll()
    assert polls.sleeps() == [None]


def test_signal_handler_ends_a_busy_wait(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dugong, 'MAX_BUSY_WAIT', 100 * LIMIT)
    need = brief(pair[0].fileno())

    def handle(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise Cancelled

    with signals(handle, 0.02, 0.02), pytest.raises(Cancelled):
        need.poll()
    pair[1].send(b'x')
    assert need.poll() is True


# eval_coroutine


def wait(sock: socket.socket, mask: int = POLLIN) -> 'Crt[None]':
    yield PollNeeded(sock.fileno(), mask)


def test_result_is_returned(pair: Pair) -> None:
    def crt() -> 'Crt[str]':
        yield from wait(pair[0], POLLOUT)
        return 'result'

    assert eval_coroutine(crt()) == 'result'


def test_result_without_a_wait() -> None:
    def crt() -> 'Crt[str]':
        return 'result'
        yield

    assert eval_coroutine(crt()) == 'result'


def test_exception_passes() -> None:
    error = LookupError('x')

    def crt() -> 'Crt[None]':
        raise error
        yield

    with pytest.raises(LookupError) as caught:
        eval_coroutine(crt())
    assert caught.value is error


def test_it_waits_until_the_descriptor_is_ready(pair: Pair) -> None:
    thread = Thread(eval_coroutine, wait(pair[0]))
    pair[1].send(b'x')
    thread.finish()


def test_timeout_is_raised_inside_the_coroutine(pair: Pair) -> None:
    seen: List[BaseException] = []

    def crt() -> 'Crt[str]':
        try:
            yield PollNeeded(pair[0].fileno(), POLLIN)
        except ConnectionTimedOut as exc:
            seen.append(exc)
        # It may go on, for instance with the next address.
        yield PollNeeded(pair[0].fileno(), POLLOUT)
        return 'went on'

    assert eval_coroutine(crt(), 0.01) == 'went on'
    assert len(seen) == 1


@pytest.mark.parametrize(
    'mask, word', [(POLLIN, 'receive'), (POLLOUT, 'send'), (POLLIN | POLLOUT, 'send or receive')]
)
def test_timeout_says_what_was_waited_for_and_how_long(pair: Pair, mask: int, word: str) -> None:
    fill(pair[0])
    with pytest.raises(ConnectionTimedOut) as caught:
        eval_coroutine(wait(pair[0], mask), 0.0125)
    message = str(caught.value)
    assert word in message and '0.0125' in message
    assert is_temp_network_error(caught.value)


def test_timeout_zero_does_not_wait(pair: Pair) -> None:
    with pytest.raises(ConnectionTimedOut):
        eval_coroutine(wait(pair[0]), 0)
    pair[1].send(b'x')
    eval_coroutine(wait(pair[0]), 0)


@pytest.mark.slow
def test_timeout_bounds_each_wait_and_not_their_sum(pair: Pair) -> None:
    def crt() -> 'Crt[None]':
        for _ in range(4):
            timer = threading.Timer(0.1, pair[1].send, [b'x'])
            timer.start()
            yield from wait(pair[0])
            pair[0].recv(1)
            timer.join()

    began = time.monotonic()
    eval_coroutine(crt(), 0.3)
    assert time.monotonic() - began >= 0.39


def test_coroutine_is_closed_when_the_driver_fails(pair: Pair) -> None:
    """Something that is no `PollNeeded` cannot be waited for."""
    ended: List[bool] = []

    def crt() -> 'Crt[None]':
        try:
            yield 42  # type: ignore[misc]
        finally:
            ended.append(True)

    with pytest.raises((AttributeError, TypeError)):
        eval_coroutine(crt())
    assert ended == [True]


@pytest.mark.parametrize('what', [None, 42, 'text'])
def test_only_coroutines_can_be_driven(what: Any) -> None:
    with pytest.raises(TypeError):
        eval_coroutine(what)


def test_finished_coroutine_gives_none() -> None:
    crt = iter_nothing()
    eval_coroutine(crt)
    assert eval_coroutine(crt) is None


def iter_nothing() -> 'Crt[str]':
    return 'once'
    yield


def test_it_is_the_driver_of_the_blocking_methods() -> None:
    assert dugong.eval_coroutine is eval_coroutine
    assert eval_coroutine.__module__ == 'dugong'
