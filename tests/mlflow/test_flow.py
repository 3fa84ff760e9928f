"""How many calls go at once, given how long a server takes for them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from outgrow.adapters.mlflow.flow import ROUND, Flow

CALL = 0.15


def limits(seconds: Callable[[int], float], calls: int, callers: int = 8) -> list[int]:
    """What the gate allows after each of so many calls of a server that takes `seconds` beside n."""
    flow, seen = Flow(), []
    for _ in range(calls):
        flow.learn(beside := min(flow.limit, callers), seconds(beside))
        seen.append(flow.limit)
    return seen


def usual(seen: list[int]) -> int:
    return sorted(seen)[len(seen) // 2]


def test_a_server_that_works_on_one_call_at_a_time_gets_one() -> None:
    seen = limits(lambda beside: CALL * beside, 5 * ROUND)
    assert usual(seen) == 1
    assert max(seen) == 2


def test_a_server_with_four_processes_gets_four() -> None:
    seen = limits(lambda beside: CALL * max(1, beside / 4), 5 * ROUND)
    assert usual(seen) == 4
    assert max(seen) == 5


def test_a_server_far_away_gets_the_next_call_while_the_last_one_travels() -> None:
    assert usual(limits(lambda beside: max(0.1 + CALL, CALL * beside), 5 * ROUND)) == 2


def test_a_server_that_nothing_slows_gets_all_callers() -> None:
    assert limits(lambda _: 0.1, ROUND - 1)[-1] == 9


def test_one_slow_call_in_a_round_changes_little() -> None:
    times = iter([1, 1, 5, *[1] * ROUND])
    assert limits(lambda _: 0.1 * next(times), ROUND - 1)[-1] == 9


def test_a_store_that_slows_down_is_measured_anew() -> None:
    grown = iter(range(10 * ROUND))
    seen = limits(lambda beside: CALL * (1 + next(grown) / 100) * max(1, beside / 4), 10 * ROUND)
    assert usual(seen[-ROUND:]) in (3, 4)


def test_a_failed_call_leaves_its_place() -> None:
    flow = Flow()
    with pytest.raises(OSError, match="down"):
        _fail(flow)
    with flow.call(1):
        assert flow.limit == 1


def _fail(flow: Flow) -> None:
    with flow.call(1):
        raise OSError("down")


class Three(Flow):
    """As wide as three, whatever it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 3

    def learn(self, beside: int, seconds: float) -> None:
        assert beside <= 3


def test_threads_wait_for_a_place() -> None:
    flow, lock, together = Three(), threading.Lock(), threading.Barrier(3, timeout=30)
    running, done = 0, 0

    def work() -> None:
        nonlocal running, done
        for _ in range(3):
            with flow.call(1):
                with lock:
                    running += 1
                    assert running <= 3
                together.wait()  # so that three are in there at once
                with lock:
                    running -= 1
                    done += 1

    with ThreadPoolExecutor(9) as pool:
        for future in [pool.submit(work) for _ in range(9)]:
            future.result()
    assert (running, done) == (0, 27)
