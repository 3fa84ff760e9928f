"""Work on many items at once, results in order, only a few items ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def ordered_map(call: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """`map` with threads; an error is raised at its item's turn."""
    with ThreadPoolExecutor(max(1, workers), thread_name_prefix="outgrow-read") as pool:
        ahead: deque[Future[R]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(call, item))
                if len(ahead) >= workers * 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
