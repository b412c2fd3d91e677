"""What a model leaves over, and whether it is white and Gaussian."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from rnndsp.errors import ParameterError
from rnndsp.plots._style import BLUE, GREY, INK, VERMILLION, time_axis
from rnndsp.residuals import ResidualDiagnostics

__all__ = ["residual_plot"]

# P-values below this are drawn there, with an arrow.
LEAST = 1e-6
# More residuals than this are drawn as a line without points.
POINTS = 300


def residual_plot(
    diagnostics: ResidualDiagnostics,
    *,
    sample_rate: float | None = None,
    ax: tuple[Axes, Axes, Axes, Axes] | None = None,
) -> tuple[Line2D, Line2D, LineCollection, Line2D]:
    """Four looks at residuals: in time, against Gaussian quantiles, their autocorrelation, and the Ljung-Box test.

    Parameters
    ----------
    diagnostics : ResidualDiagnostics
        From :func:`rnndsp.residuals.residual_diagnostics`, or ``fit.diagnostics()``.
    sample_rate : float, optional
        In Hz, for an axis in seconds.
    ax : four matplotlib.axes.Axes, optional
        For the four of them in this order.

    Returns
    -------
    series, quantiles : Line2D
        Residuals over their standard deviation, in time and sorted.
    correlations : LineCollection
        A stem a lag, dashed where it leaves the band.
    p_values : Line2D
        Of the lags at which the test says something; those below 1e-6 at the lower edge, as arrows.
    """
    from scipy.special import ndtri

    if not isinstance(diagnostics, ResidualDiagnostics):
        raise ParameterError(f"{diagnostics!r} is no ResidualDiagnostics: take fit.diagnostics()")
    if ax is None:
        from matplotlib import pyplot  # here, as it chooses a backend when it is imported

        _, grid = pyplot.subplots(2, 2, figsize=(9.0, 6.0), layout="constrained")
        ax = tuple(grid.flat)
    in_time, sorted_, correlation, test = ax
    e, r = diagnostics.residuals, diagnostics.autocorrelation
    time, name = time_axis(e.size, sample_rate)
    (series,) = in_time.plot(time, e, ".-" if e.size <= POINTS else "-", color=BLUE, linewidth=0.8, markersize=4)
    in_time.axhline(0, color=INK, linewidth=0.8)
    for edge in (-2, 2):
        in_time.axhline(edge, color=GREY, linestyle="--", linewidth=0.8)
    in_time.set(xlabel=name, ylabel="residual / deviation", title="residuals")

    there = np.sort(e[np.isfinite(e)])
    expected = ndtri((np.arange(there.size) + 0.5) / there.size)
    (quantiles,) = sorted_.plot(expected, there, "o", color=BLUE, markersize=3.5, alpha=0.7)
    sorted_.axline((0, 0), slope=1, color=INK, linestyle="--", linewidth=0.8)
    sorted_.set(xlabel="Gaussian quantile", ylabel="residual / deviation", title="quantiles")

    lags = np.arange(1, r.size + 1)
    outside = np.abs(r) > diagnostics.band
    stems = [[(lag, 0.0), (lag, value)] for lag, value in zip(lags.tolist(), r.tolist(), strict=True)]
    correlations = LineCollection(
        stems,
        colors=[VERMILLION if out else BLUE for out in outside],
        linestyles=["--" if out else "-" for out in outside],
    )
    correlation.add_collection(correlations)
    correlation.plot(lags[~outside], r[~outside], "o", color=BLUE, markersize=3.5)
    correlation.plot(lags[outside], r[outside], "D", color=VERMILLION, markersize=5)
    correlation.axhspan(-diagnostics.band, diagnostics.band, color=GREY, alpha=0.25, linewidth=0)
    correlation.axhline(0, color=INK, linewidth=0.8)
    reach = 1.2 * max(2 * diagnostics.band, float(np.max(np.abs(r))))
    kept = f"autocorrelation, {np.count_nonzero(outside)} of {r.size} outside the 95 % band"
    correlation.set(xlim=(0, r.size + 1), ylim=(-reach, reach), xlabel="lag (samples)", title=kept)
    correlation.xaxis.set_major_locator(MaxNLocator(integer=True))

    told = np.isfinite(diagnostics.p_value)
    p = np.sqrt(np.maximum(diagnostics.p_value[told], LEAST))  # small ones apart, large ones too
    low = diagnostics.p_value[told] < LEAST
    (p_values,) = test.plot(lags[told], p, "o", color=BLUE, markersize=4, markevery=np.flatnonzero(~low).tolist())
    p_values.set_linestyle("none")
    test.plot(lags[told][low], p[low], "v", color=VERMILLION, markersize=5)
    test.axhline(np.sqrt(0.05), color=VERMILLION, linestyle="--", linewidth=1)
    test.annotate(
        "0.05",
        (1, np.sqrt(0.05)),
        (-2, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        color=VERMILLION,
        ha="right",
        fontsize=8,
    )
    test.set(xlim=(0, r.size + 1), ylim=(-0.03, 1.03), xlabel="up to lag (samples)", title="Ljung-Box p-value")
    test.xaxis.set_major_locator(MaxNLocator(integer=True))
    test.yaxis.set_major_locator(FixedLocator(np.sqrt([0.0, 0.01, 0.1, 0.25, 0.5, 1.0]).tolist()))
    test.yaxis.set_major_formatter(FuncFormatter(lambda root, _: f"{root**2:.2g}"))
    test.yaxis.set_minor_locator(NullLocator())
    return series, quantiles, correlations, p_values
