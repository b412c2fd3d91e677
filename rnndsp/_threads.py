"""How many threads matrix products take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products in one thread: those of a few hundred states lose more by waiting than they gain by sharing."""
    import scipy.linalg  # noqa: F401 (loads the BLAS that Numba calls, or no limit would be set for it)
    from threadpoolctl import threadpool_limits  # here, as it looks at all libraries that are loaded

    with threadpool_limits(1, "blas"):
        yield
