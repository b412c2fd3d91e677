"""Adaptive filters against padasip."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from rnndsp.filters import LMS, NLMS, RLS
from tests.benchmarks.measuring import Row, medians


def adaptive() -> Iterator[Row]:
    """A path to be found in a second of audio, by RLS in an eighth of it; padasip gets its regressors ready made."""
    try:
        from padasip import filters as rivals
    except ImportError:
        return
    rng = np.random.default_rng(0)
    for n in (16, 64):
        pairs = (
            ("LMS", 48_000, LMS(n, step=0.002), lambda n: rivals.FilterLMS(n, mu=0.002, w="zeros")),
            ("NLMS", 48_000, NLMS(n), lambda n: rivals.FilterNLMS(n, mu=0.5, eps=1e-3, w="zeros")),
            ("RLS", 6_000, RLS(n), lambda n: rivals.FilterRLS(n, mu=0.999, eps=1e-2, w="zeros")),
        )
        for name, n_frames, ours, rival in pairs:
            u = rng.standard_normal(n_frames)
            d = np.convolve(u, rng.standard_normal(n))[:n_frames] + 0.1 * rng.standard_normal(n_frames)
            padded = np.concatenate([np.zeros(n - 1), u])
            regressors = np.lib.stride_tricks.sliding_window_view(padded, n)[:, ::-1].copy()
            signal = np.column_stack([u, d])
            calls = {
                "ours": lambda f=ours, x=signal: f(x),
                "rival": lambda r=rival, n=n, d=d, x=regressors: r(n).run(d, x),
            }
            times = medians(calls, n_frames, repeats=5)
            ratio = times["rival"] / times["ours"]
            yield Row(f"{name}, {n} taps", times["ours"], "us/frame", "padasip", times["rival"], ratio, at_least=50)
