"""A monthly series with gaps: the process that made it, what is left over, and what comes next.

Run it: ``python examples/forecast.py forecast.png``.
"""

import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from rnndsp import plots
from rnndsp.filters import ARIMA, select_order

N, AHEAD = 180, 36

# twelve months that repeat, a trend that wanders: a filter, and noise through it
truth = ARIMA(ma=[-0.4], d=1, seasonal_ma=[-0.6], seasonal_d=1, season=12)
series = truth.simulate(N + AHEAD, variance=0.01, seed=3)
known = series[:N].copy()
known[60:66] = np.nan  # half a year is lost
fit = select_order(known, d=1, seasonal_d=1, season=12, max_p=1, max_q=1).best
forecast = fit.forecast(AHEAD, level=0.9)
inside = np.mean((series[N:] >= forecast.lower) & (series[N:] <= forecast.upper))

figure = plt.figure(figsize=(11, 8), layout="constrained")
above, below = figure.subfigures(2, 1, height_ratios=[2, 3])
ax = above.subplots()
months = np.arange(N + AHEAD)
ax.plot(months, series, color="0.6", label="what happened")
ax.plot(months[:N], known, color="#0072b2", label="what is known")
ax.plot(months[N:], forecast.mean, "--", color="#d55e00", label="forecast")
ax.fill_between(months[N:], forecast.lower, forecast.upper, color="#d55e00", alpha=0.2, label="90 %")
ax.set(xlabel="month", title=f"{fit.filter!r}")
ax.legend()
plots.residual_plot(fit.diagnostics(), ax=tuple(below.subplots(2, 2).flat))
target = sys.argv[1] if len(sys.argv) > 1 else "forecast.png"
figure.savefig(target, dpi=80)
print(f"{fit.estimates}; {inside:.0%} of {AHEAD} months within the 90 % interval; wrote {target}")
