"""The exact Gaussian likelihood of a multiplicative seasonal ARIMA process, compiled.

Coefficients come in one vector: ar, ma, seasonal ar, seasonal ma; ``orders`` are how many there are of each, and the
season. The innovations have variance one here; the caller scales.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rnndsp._jit import inline, kernel
from rnndsp.filters.lattice import reflections

__all__ = ["COMPLETE", "DIFFUSE", "DRAWN", "VAGUE", "filtered", "natural", "objective", "profile"]

# What the initial state is taken for: known in distribution, as that of a stationary series without gaps; with levels
# of which nothing is known; with levels of a large variance. Last, as the first, but to make a series.
COMPLETE, DIFFUSE, VAGUE, DRAWN = 0, 1, 2, 3
# Of the vague levels, over the variance of the innovations.
VAGUE_VARIANCE = 1e6
# How near to one the variance of the prediction counts as settled.
SETTLED = 1e-13
# A diffuse variance is none below this part of the largest one.
NOTHING = 1e-9
# Nor is a covariance with the sample below this part of the sample's variance.
NEGLIGIBLE = 1e-20
# Nearer to a unit root the variance of the series is lost in rounding.
STATIONARY = 1 - 1e-9
# Step of central differences, for parameters of about one.
STEP = 6e-6


@kernel
def natural(x: Any, orders: Any) -> Any:
    """Coefficients of a stationary, invertible process from any real numbers: partial autocorrelations by Levinson."""
    coefficients = np.empty(x.size)
    start = 0
    for block in range(4):
        n = orders[block]
        a = coefficients[start : start + n]
        for m in range(n):
            k = x[start + m] / np.sqrt(1 + x[start + m] ** 2)
            if block % 2 == 0:
                k = min(max(k, -STATIONARY), STATIONARY)
            _step_up(a, k, m)
        if block % 2 == 1:
            for m in range(n):
                a[m] = -a[m]
        start += n
    return coefficients


@inline
def _step_up(a: Any, k: Any, m: Any) -> None:
    """The predictor of m + 1 coefficients from that of m: ``a[j] -= k a[m - 1 - j]``, and k last."""
    for j in range(m // 2):
        front, back = a[j], a[m - 1 - j]
        a[j], a[m - 1 - j] = front - k * back, back - k * front
    if m % 2 == 1:
        a[m // 2] *= 1 - k
    a[m] = k


@kernel
def _product(coefficients: Any, first: Any, second: Any, orders: Any, sign: Any) -> Any:
    """``(1 + sign a(B)) (1 + sign b(B^season))`` with the blocks ``first`` and ``second``, constant term first."""
    season = orders[4]
    starts = (0, orders[0], orders[0] + orders[1], orders[0] + orders[1] + orders[2])
    n, n_seasonal = orders[first], orders[second]
    whole = np.zeros(n + n_seasonal * season + 1)
    for j in range(n_seasonal + 1):
        outer = sign * coefficients[starts[second] + j - 1] if j else 1.0
        for i in range(n + 1):
            inner = sign * coefficients[starts[first] + i - 1] if i else 1.0
            whole[j * season + i] += outer * inner
    return whole


@kernel
def _multiplied(a: Any, b: Any) -> Any:
    """Product of two polynomials; zeros of b cost nothing."""
    whole = np.zeros(a.size + b.size - 1)
    for j in range(b.size):
        if b[j] != 0:
            for i in range(a.size):
                whole[i + j] += a[i] * b[j]
    return whole


@kernel
def _companion(ar: Any, ma: Any) -> Any:
    """``phi[i]``, the weight of the last value in what is known of the value i + 1 ahead, and ``theta[i]`` likewise."""
    r = max(ar.size - 1, ma.size)
    phi, theta = np.zeros(r), np.zeros(r)
    for i in range(ar.size - 1):
        phi[i] = -ar[i + 1]
    for i in range(ma.size):
        theta[i] = ma[i]
    return phi, theta


@kernel
def _covariances(ar: Any, ma: Any, phi: Any, theta: Any) -> Any:
    """Of the state ``sum_{j>i} phi_j y[t+i-j] + sum_{j>=i} theta_j e[t+i-j]`` with y[t]: O(r^2), O(r) memory."""
    p, q, r = ar.size - 1, ma.size - 1, phi.size
    # of the autoregression alone, by Levinson's recursion down and up
    k = reflections(phi[:p])
    a, g = np.empty(p), np.empty(p + q + 1)
    g[0] = 1.0
    for m in range(p):
        g[0] /= 1 - k[m] * k[m]
    left = g[0]
    for m in range(p):
        g[m + 1] = k[m] * left
        for j in range(m):
            g[m + 1] += a[j] * g[m - j]
        left *= 1 - k[m] * k[m]
        _step_up(a, k[m], m)
    for m in range(p + 1, p + q + 1):
        g[m] = 0.0
        for j in range(p):
            if phi[j] != 0:
                g[m] += phi[j] * g[m - 1 - j]
    # of the whole: each pair of terms of the moving average moves them
    y = np.zeros(p + 1)
    for i in range(q + 1):
        if ma[i] != 0:
            for j in range(q + 1):
                if ma[j] != 0:
                    weight = ma[i] * ma[j]
                    for m in range(p + 1):
                        y[m] += weight * g[abs(m + i - j)]
    response = np.zeros(q + 1)
    for m in range(q + 1):
        response[m] = ma[m]
        for j in range(min(m, p)):
            if phi[j] != 0:
                response[m] += phi[j] * response[m - 1 - j]
    column = np.zeros(r)
    for j in range(p):
        if phi[j] != 0:
            for i in range(j + 1):
                column[i] += phi[j] * y[j + 1 - i]
    for j in range(q + 1):
        if theta[j] != 0:
            for i in range(j + 1):
                column[i] += theta[j] * response[j - i]
    return column


@kernel
def _steady(values: Any, t: Any, phi: Any, theta: Any, errors: Any, draw: Any) -> None:
    """From frame t on with the gain of the infinite past, once it has been that for as long as the state reaches back:
    plain recursion, in which zeros cost nothing."""
    n, n_columns = values.shape
    past, shocks = np.flatnonzero(phi), np.flatnonzero(theta)[1:]
    for k in range(n_columns):
        for now in range(t, n):
            expected = 0.0
            if draw:
                for i in past:
                    expected += phi[i] * errors[now - 1 - i, k]
                for i in shocks:
                    expected += theta[i] * values[now - i, k]
                errors[now, k] = expected + values[now, k]
            else:
                for i in past:
                    expected += phi[i] * values[now - 1 - i, k]
                for i in shocks:
                    expected += theta[i] * errors[now - i, k]
                errors[now, k] = values[now, k] - expected


@kernel
def _fast(values: Any, ar: Any, ma: Any, errors: Any, variances: Any, draw: Any) -> None:
    """Without gaps, from the stationary distribution: the increment of the state's covariance has rank one.

    Chandrasekhar's recursion, O(r) a sample. ``draw``: ``values`` are standardised innovations, and the series they
    make goes to ``errors``.
    """
    phi, theta = _companion(ar, ma)
    column = _covariances(ar, ma, phi, theta)
    n, n_columns = values.shape
    r = phi.size
    state, gain = np.zeros((n_columns, r)), np.empty(r)
    for i in range(r):
        gain[i] = phi[i] * column[0] + (column[i + 1] if i + 1 < r else 0.0)
    change = gain.copy()
    f = column[0]
    m = -1 / f
    calm = 0
    for t in range(n):
        # the excess of every state has passed the front by then
        if calm > r:
            variances[t:] = 1.0
            _steady(values, t, phi, theta, errors, draw)
            return
        variances[t] = f
        for k in range(n_columns):
            expected = state[k, 0]
            v = values[t, k] * np.sqrt(f) if draw else values[t, k] - expected
            errors[t, k] = expected + v if draw else v
            ratio = v / f
            for i in range(r - 1):
                state[k, i] = state[k, i + 1] + phi[i] * expected + gain[i] * ratio
            state[k, r - 1] = phi[r - 1] * expected + gain[r - 1] * ratio
        front, before = change[0], f
        f += m * front * front
        weight, back = m * front, front / f
        for i in range(r - 1):
            moved = change[i + 1] + phi[i] * front
            gain[i] += moved * weight
            change[i] = moved - gain[i] * back
        gain[r - 1] += phi[r - 1] * front * weight
        change[r - 1] = phi[r - 1] * front - gain[r - 1] * back
        m += weight * weight / before
        calm = calm + 1 if abs(f - 1) < SETTLED else 0


@kernel
def _initial(ar: Any, ma: Any, differences: Any, phi: Any, theta: Any) -> Any:
    """Covariance of the state, and that of its levels, and how many these are.

    The state of the whole, with differences, is that of the stationary part plus what each level adds to all that
    follows: the polynomial of the factors behind it, shifted.
    """
    r = phi.size
    covariance, levels = np.zeros((r, r)), np.zeros((r, r))
    own_phi, own_theta = _companion(ar, ma)
    own = own_phi.size
    column = _covariances(ar, ma, own_phi, own_theta)
    for i in range(own - 1, -1, -1):
        # Sigma = T Sigma T' + R R' read along its diagonals, from their ends
        moved = column[i + 1] if i + 1 < own else 0.0
        for j in range(i, own):
            further, ahead = 0.0, 0.0
            if j + 1 < own:
                further, ahead = covariance[i + 1, j + 1], column[j + 1]
            outer = own_phi[i] * own_phi[j] * column[0] + own_theta[i] * own_theta[j]
            covariance[i, j] = covariance[j, i] = further + own_phi[i] * ahead + own_phi[j] * moved + outer
    behind = ar.copy()
    n_levels = 0
    for place in range(differences.size - 1, -1, -1):
        lag = differences[place]
        n_levels += lag
        for shift in range(lag):
            for i in range(behind.size):
                if behind[i] != 0:
                    for j in range(behind.size):
                        levels[i + shift, j + shift] += behind[i] * behind[j]
        factor = np.zeros(lag + 1)
        factor[0], factor[lag] = 1.0, -1.0
        behind = _multiplied(behind, factor)
    return covariance, levels, n_levels


@kernel
def _gapped(
    values: Any,
    seen: Any,
    ar: Any,
    ma: Any,
    differences: Any,
    start: Any,
    errors: Any,
    variances: Any,
    infinite: Any,
) -> Any:
    """With gaps or levels: Kalman's filter. Returns how many samples the levels took.

    What is seen has no variance left, so that the next state is the others, shifted: they stay where they are, in a
    ring, and only entries that correlate with the sample change. With a long season these are few.
    """
    whole = ar
    for lag in differences:
        factor = np.zeros(lag + 1)
        factor[0], factor[lag] = 1.0, -1.0
        whole = _multiplied(whole, factor)
    phi, theta = _companion(whole, ma)
    covariance, levels, n_levels = _initial(ar, ma, differences, phi, theta)
    r = phi.size
    if start == VAGUE:
        covariance += VAGUE_VARIANCE * levels
    unknown = n_levels if start == DIFFUSE else 0
    n, n_columns = values.shape
    past, shocks = np.flatnonzero(phi), np.flatnonzero(theta)
    state = np.zeros((n_columns, r))
    c, ci, gain, linked = np.empty(r), np.zeros(r), np.empty(r), np.empty(r, np.int64)
    last_gap = -1
    for t in range(n):
        if not seen[t]:
            last_gap = t
    taken = calm = base = 0
    for t in range(n):
        pending = taken < unknown
        f, fi, largest = covariance[base, base], 0.0, 0.0
        if pending:
            fi = levels[base, base]
            for a in range(r):
                largest = max(largest, levels[a, a])
        n_linked = 0
        for a in range(r):
            c[a] = covariance[base, a]
            ci[a] = levels[base, a] if pending else 0.0
            if c[a] != 0 or ci[a] != 0:
                covariance[base, a] = covariance[a, base] = 0.0
                if pending:
                    levels[base, a] = levels[a, base] = 0.0
                if a != base and (abs(c[a]) > NEGLIGIBLE * f or abs(ci[a]) > NEGLIGIBLE * fi):
                    linked[n_linked] = a
                    n_linked += 1
        diffuse = pending and fi > NOTHING * largest
        variances[t], infinite[t] = f, fi if diffuse else 0.0
        others = linked[:n_linked]
        for a in others:
            gain[a] = ci[a] / fi if diffuse else c[a] / f
        for k in range(n_columns):
            expected = state[k, base]
            errors[t, k] = values[t, k] - expected
            v = errors[t, k] if seen[t] else 0.0
            state[k, base] = 0.0
            for a in others:
                state[k, a] += gain[a] * v
            for i in past:
                state[k, (base + 1 + i) % r] += phi[i] * (expected + v)
        if not seen[t]:
            for i in past:
                a = (base + 1 + i) % r
                for b in others:
                    covariance[a, b] += phi[i] * c[b]
                    covariance[b, a] += phi[i] * c[b]
                    if pending:
                        levels[a, b] += phi[i] * ci[b]
                        levels[b, a] += phi[i] * ci[b]
                for j in past:
                    b = (base + 1 + j) % r
                    covariance[a, b] += phi[i] * phi[j] * f
                    if pending:
                        levels[a, b] += phi[i] * phi[j] * fi
        elif diffuse:
            for a in others:
                cross = c[a] / fi - ci[a] * f / (fi * fi)
                for b in others:
                    covariance[a, b] -= gain[a] * c[b] + cross * ci[b]
                    levels[a, b] -= gain[a] * ci[b]
            taken += 1
        else:
            for a in others:
                for b in others:
                    covariance[a, b] -= gain[a] * c[b]
        if t > last_gap and taken >= unknown:
            excess = 0.0
            for a in range(r):
                excess += covariance[a, a]
            calm = calm + 1 if excess < SETTLED else 0
            if calm > r:
                variances[t + 1 :] = 1.0
                infinite[t + 1 :] = 0.0
                _steady(values, t + 1, phi, theta, errors, start == DRAWN)  # never so: one compilation less
                return taken
        base = base + 1 if base + 1 < r else 0
        for i in shocks:
            for j in shocks:
                covariance[(base + i) % r, (base + j) % r] += theta[i] * theta[j]
    return taken


@kernel
def filtered(values: Any, seen: Any, coefficients: Any, orders: Any, differences: Any, start: Any) -> Any:
    """Each column less its prediction one sample ahead, the variance of that, its infinite part, and how many levels
    were met.

    For ``COMPLETE`` the columns are differenced already; where nothing is seen they are zero. For ``DRAWN`` they are
    standardised innovations, and what comes back first is the series that they make.
    """
    ar, ma = _product(coefficients, 0, 2, orders, -1.0), _product(coefficients, 1, 3, orders, 1.0)
    n = values.shape[0]
    errors, variances, infinite = np.empty(values.shape), np.empty(n), np.zeros(n)
    taken = 0
    if start in (COMPLETE, DRAWN):
        _fast(values, ar, ma, errors, variances, start == DRAWN)
    else:
        taken = _gapped(values, seen, ar, ma, differences, start, errors, variances, infinite)
    return errors, variances, infinite, taken


@kernel
def profile(values: Any, seen: Any, coefficients: Any, orders: Any, differences: Any, start: Any, variance: Any) -> Any:
    """Log-likelihood at the best variance (or at the one given, if positive) and the best weights of the regressors.

    The series is the last column, those before it are the regressors. Also that variance, the weights, the normal
    matrix (eliminated, upper triangle), and how many levels were met; minus infinity where it cannot be told.
    """
    errors, variances, infinite, taken = filtered(values, seen, coefficients, orders, differences, start)
    n, n_columns = values.shape
    products = np.zeros((n_columns, n_columns))
    skipped = 0
    if start == VAGUE:
        for lag in differences:
            skipped += lag
    logs, count = 0.0, 0
    for t in range(skipped, n):
        if not seen[t]:
            continue
        if infinite[t] > 0:
            logs += np.log(2 * np.pi * infinite[t])
            continue
        count += 1
        if variances[t] != 1:
            logs += np.log(variances[t])
        for i in range(n_columns):
            scaled = errors[t, i] / variances[t]
            for j in range(i, n_columns):
                products[i, j] += scaled * errors[t, j]
    last = n_columns - 1
    for k in range(last):
        for i in range(k + 1, n_columns):
            factor = products[k, i] / products[k, k]
            for j in range(i, n_columns):
                products[i, j] -= factor * products[k, j]
    weights = np.zeros(last)
    for k in range(last - 1, -1, -1):
        weights[k] = products[k, last]
        for j in range(k + 1, last):
            weights[k] -= products[k, j] * weights[j]
        weights[k] /= products[k, k]
    squares = products[last, last]
    scale = variance if variance > 0 else squares / count
    found = -0.5 * (logs + count * np.log(2 * np.pi * scale) + squares / scale)
    if not np.isfinite(found):
        found = -np.inf
    return found, scale, weights, products, taken


@kernel
def objective(x: Any, values: Any, seen: Any, orders: Any, differences: Any, start: Any) -> Any:
    """Minus the log-likelihood a sample, of unconstrained parameters, and its gradient by central differences."""
    n = 0
    for known in seen:
        n += known
    gradient, moved = np.empty(x.size), x.copy()
    found = -profile(values, seen, natural(x, orders), orders, differences, start, -1.0)[0] / n
    for i in range(x.size):
        step = STEP * max(1.0, abs(x[i]))
        moved[i] = x[i] + step
        above = profile(values, seen, natural(moved, orders), orders, differences, start, -1.0)[0]
        moved[i] = x[i] - step
        below = profile(values, seen, natural(moved, orders), orders, differences, start, -1.0)[0]
        moved[i] = x[i]
        gradient[i] = (below - above) / (2 * step * n)
    return found, gradient
