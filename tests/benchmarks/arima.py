"""ARIMA likelihoods and fits against statsmodels."""

from __future__ import annotations

import resource
import sys
import warnings
from collections.abc import Iterator
from time import perf_counter

import numpy as np

from rnndsp.filters import ARIMA, fit_arima
from rnndsp.filters._arima_likelihood import COMPLETE, profile
from tests.benchmarks.measuring import Row, medians


def arima(n_frames: int = 1000) -> Iterator[Row]:
    """One likelihood of a model that is set up, the same with its set-up, a whole fit; then a season of a year."""
    process = ARIMA([0.6, -0.2], [0.4])
    y = process.simulate(n_frames, seed=1)
    level = ARIMA([0.6, -0.2], [0.4], d=1).simulate(n_frames, seed=1)
    fit_arima(level, order=(2, 1, 1))
    try:
        from statsmodels.tsa.statespace.sarimax import SARIMAX
    except ImportError:
        SARIMAX = None
    if SARIMAX is not None:
        params = [0.6, -0.2, 0.4, 1.0]
        model = SARIMAX(y, order=(2, 0, 1))
        columns, seen, none = y[:, None], np.ones(n_frames, bool), np.zeros(0, np.int64)
        coefficients = np.array(params[:3])
        calls = {
            "ours": lambda: profile(columns, seen, coefficients, (2, 1, 0, 0, 0), none, COMPLETE, 1.0),
            "theirs": lambda: model.loglike(params),
        }
        yield _row("ARMA(2,1) likelihood", medians(calls, 1, repeats=101), 20)
        calls = {
            "ours": lambda: process.log_likelihood(y, variance=1.0),
            "theirs": lambda: SARIMAX(y, order=(2, 0, 1)).loglike(params),
        }
        yield _row("... from the data", medians(calls, 1, repeats=31), None)
        calls = {
            "ours": lambda: fit_arima(level, order=(2, 1, 1)),
            "theirs": lambda: SARIMAX(level, order=(2, 1, 1)).fit(disp=0),
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield _row("ARIMA(2,1,1) fit", medians(calls, 1), 10)
    yield from _year()


def _row(name: str, times: dict[str, float], bound: float | None) -> Row:
    ratio = times["theirs"] / times["ours"]
    return Row(name, times["ours"], "us", "statsmodels SARIMAX", times["theirs"], ratio, at_least=bound)


def _year(n_frames: int = 3000) -> Iterator[Row]:
    """Eight years of days, with both seasonal parts; then one day in fifty missing."""
    truth = ARIMA([0.5], [0.3], seasonal_ar=[0.3], seasonal_ma=[-0.5], seasonal_d=1, season=365)
    y = truth.simulate(n_frames, seed=2)
    gaps = y.copy()
    gaps[::50] = np.nan
    cases = (
        ("SARIMA(1,0,1)(1,1,1), s = 365", y, (1, 0, 1), (1, 1, 1, 365)),
        ("SARIMA(1,0,0)(0,1,1), 2 % gone", gaps, (1, 0, 0), (0, 1, 1, 365)),
    )
    for name, series, order, seasonal in cases:
        started = perf_counter()
        fit = fit_arima(series, order=order, seasonal=seasonal)
        seconds = perf_counter() - started
        fit.forecast(365)
        # ratio: of the time to the minute that it may take
        yield Row(name, seconds, "s", ratio=seconds / 60, at_most=1)
    # of the whole process, with all that is imported: tracemalloc does not see what kernels allocate; bytes on macOS
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
    yield Row("... peak memory", peak, "MB", ratio=peak / 500, at_most=1)
