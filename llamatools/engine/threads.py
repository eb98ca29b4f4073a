"""Workers are threads already: matrix products within one of them use no others.

So sums are added in one order, and processors are not fought over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread_each() -> Iterator[None]:
    """While this lasts, numpy multiplies in the thread that asks."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(1, user_api="blas"):
        yield
