"""Shaper, and the fit of Hammerstein-Wiener models.

Oracles: numpy's interp, the systems that made the data, adjoint gradients at the minimum, the conformance suite.
"""

import numpy as np
import pytest

from rnndsp import ParameterError
from rnndsp._intervals import Interval
from rnndsp.filters import Shaper, TransferFunction, fit_hammerstein_wiener
from rnndsp.stability import Boundedness
from rnndsp.stability.enclosures import Place

X, Y = np.array([-1.0, -0.3, 0.2, 0.9]), np.array([-0.5, 0.4, 0.1, 0.8])
LINEAR = TransferFunction([0.5, 0.3, -0.2], [1, -1.2, 0.6])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def uniform(n, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, n)


def test_a_shaper_is_linear_interpolation():
    u = uniform(1000)
    inside = u[(u >= -1) & (u <= 0.9)]
    np.testing.assert_allclose(Shaper(X, Y)(inside), np.interp(inside, X, Y), atol=1e-15)
    np.testing.assert_allclose(Shaper(X, Y)(X), Y, atol=1e-15)
    # and goes on straight
    np.testing.assert_allclose(Shaper(X, Y)(np.array([-2.0, 1.9])), [-0.5 - 0.9 / 0.7, 0.8 + 1.0])
    both = Shaper([X, 2 * X], [Y, -Y])(np.column_stack([inside, inside]))
    np.testing.assert_allclose(both[:, 1], -np.interp(inside / 2, X, Y), atol=1e-15)


def test_slopes_of_a_shaper():
    filt = Shaper(X, Y)
    for u, slope in ((-3.0, 9 / 7), (-0.5, 9 / 7), (0.0, -0.6), (0.5, 1.0), (7.0, 1.0)):
        assert filt.linearize(u=[u]).D[0, 0] == pytest.approx(slope)
    u = uniform(50)[:, None]
    J = filt._jacobians(u, filt.rest_state())
    np.testing.assert_allclose(J.D[:, 0, 0], [filt.linearize(u=v).D[0, 0] for v in u])


def test_what_is_known_of_a_shaper():
    whatever = Place(Interval(np.array([-np.inf]), np.array([np.inf])))
    for filt, kind in ((Shaper(X, Y), Boundedness.BOUNDED), (Shaper(X, [0, 0, 1, 1]), Boundedness.SATURATING)):
        assert filt._boundedness() == kind and filt._contraction() == "no memory"
    assert Shaper(X, Y)._energy_gain(whatever) == pytest.approx(9 / 7, rel=1e-5)
    found = Shaper(X, [0, 0, 1, 1])._enclosure(whatever)
    assert (found.y.lo[0], found.y.hi[0]) == (0, 1) and found.gain[0, 0] == pytest.approx(2.0)
    found = Shaper(X, Y)._enclosure(whatever)
    assert (found.y.lo[0], found.y.hi[0]) == (-np.inf, np.inf)


def test_bounds_of_a_shaper_hold_and_are_tight():
    rng = np.random.default_rng(1)
    for _ in range(50):
        x = np.cumsum(rng.uniform(0.1, 1, (2, 5)), axis=1) - 1
        filt = Shaper(x, rng.standard_normal((2, 5)))
        lo = rng.uniform(-2, 3, 2)
        hi = lo + rng.uniform(0, 2, 2)
        found = filt._enclosure(Place(Interval(lo, hi)))
        u = np.linspace(lo, hi, 4001)
        y = filt(u)
        assert np.all(found.y.lo <= y.min(axis=0)) and np.all(found.y.hi >= y.max(axis=0))
        np.testing.assert_allclose(found.y.lo, y.min(axis=0), atol=0.02)
        np.testing.assert_allclose(found.y.hi, y.max(axis=0), atol=0.02)
        steepest = np.abs(np.diff(y, axis=0) / np.diff(u, axis=0)).max(axis=0)
        assert np.all(np.diag(found.gain) >= steepest * (1 - 1e-9))


def test_a_hammerstein_model_is_found_exactly():
    knots = np.linspace(-1, 1, 7)
    curve = np.tanh(2 * knots) + 0.1
    u = uniform(500)
    y = (Shaper(knots, curve) >> LINEAR)(u)
    found = fit_hammerstein_wiener(u, y, n_poles=2, n_zeros=2, knots_in=knots, knots_out=0, sample_rate=8000)
    assert np.abs(found.residuals).max() < 1e-10 and found.converged
    shaper, linear = found.filter.children
    scale = np.linalg.norm(shaper.params["y"]) / np.linalg.norm(curve)
    np.testing.assert_allclose(shaper.params["y"][0], scale * curve, atol=1e-9)
    np.testing.assert_allclose(linear.params["b"], LINEAR.params["b"] / scale, atol=1e-9)
    np.testing.assert_allclose(linear.params["a"], LINEAR.params["a"], atol=1e-9)
    assert np.mean(shaper(u) ** 2) == pytest.approx(np.mean(u**2))
    assert found.filter.sample_rate == 8000


def test_a_wiener_model_is_found_exactly():
    u, knots = uniform(500), np.linspace(-1.5, 1.5, 7)
    y = (LINEAR >> Shaper(knots, np.tanh(knots)))(u)
    found = fit_hammerstein_wiener(u, y, n_poles=2, n_zeros=2, knots_in=0, knots_out=knots)
    assert np.abs(found.residuals).max() < 1e-10
    linear, shaper = found.filter.children
    np.testing.assert_allclose(linear.params["a"], LINEAR.params["a"], atol=1e-8)
    np.testing.assert_allclose(shaper.params["y"][0], np.tanh(knots), atol=1e-8)


def test_a_smooth_system_is_approximated_and_so_is_what_it_did_not_hear():
    def truth(u):
        return np.tanh(1.5 * LINEAR(0.6 * np.tanh(2 * u) + 0.2 * u**2))

    u = uniform(2000, seed=2)
    y = truth(u) + 0.01 * noise(2000, seed=3)
    found = fit_hammerstein_wiener(u, y, n_poles=2, n_zeros=2, knots_in=11, knots_out=11)
    fresh = uniform(2000, seed=4)
    error = found.filter(fresh) - truth(fresh)
    assert np.sqrt(np.mean(error**2)) < 0.01 * np.sqrt(np.mean(truth(fresh) ** 2))
    np.testing.assert_allclose(found.residuals.std(), 0.01, rtol=0.1)
    np.testing.assert_allclose(np.abs(found.filter.children[1].poles()), np.sqrt(0.6), atol=2e-3)


def test_a_delay_is_respected():
    u, delayed = uniform(400), TransferFunction([0, 0, 0, 0.5, 0.3], [1, -0.7])
    y = (Shaper([-1, 0, 1], [-1, 0, 0.3]) >> delayed)(u)
    found = fit_hammerstein_wiener(u, y, n_poles=1, n_zeros=1, delay=3, knots_in=[-1, 0, 1], knots_out=0)
    assert np.abs(found.residuals).max() < 1e-10
    assert not found.filter.children[1].params["b"][0, :3].any()


def test_the_gradient_of_the_squared_error_vanishes_there():
    # by the adjoint of the series, which knows nothing of the Jacobian that the search used
    u = uniform(600, seed=5)
    y = np.tanh(2 * LINEAR(np.sin(2 * u))) + 0.05 * noise(600, seed=6)
    found = fit_hammerstein_wiener(u, y, n_poles=2, n_zeros=2, knots_in=5, knots_out=5)
    tape = found.filter.tape(u)
    np.testing.assert_allclose(tape.y + found.residuals, y, atol=1e-14)
    gradient = tape.adjoint(-2 * found.residuals).params
    begun = fit_hammerstein_wiener(u, y, n_poles=2, n_zeros=2, knots_in=5, knots_out=5, max_steps=1)
    assert not begun.converged
    tape = begun.filter.tape(u)
    before = tape.adjoint(-2 * begun.residuals).params
    for name in ("0.y", "1.b", "1.a", "2.y"):
        assert np.abs(gradient[name]).max() < 1e-4 * np.abs(before[name]).max(), name
    assert np.sum(found.residuals**2) < np.sum(begun.residuals**2)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"u": np.full(300, np.nan)}, "u must be one channel"),
        ({"y": np.full(300, 1e200)}, "y must be one channel"),
        ({"y": np.zeros((300, 2))}, "y must be one channel"),
        ({"y": np.zeros(299)}, "same length"),
        ({"u": np.zeros(300)}, "does not change"),
        ({"u": np.zeros(300), "knots_in": 0}, "exciting of order 0"),
        ({"u": np.sin(np.arange(300.0))}, "exciting of order 2"),
        ({"u": np.sign(uniform(300))}, "all knots"),
        ({"y": np.zeros(300)}, "does not depend"),
        ({"knots_in": 1}, "knots_in"),
        ({"knots_out": [1.0, 0.0]}, "knots_out"),
        ({"knots_in": "many"}, "knots_in"),
        ({"n_poles": -1}, "n_poles"),
        ({"max_steps": 0}, "max_steps"),
        ({"n_zeros": 60}, "too few"),
    ],
)
def test_bad_input(change, match):
    given = {"u": uniform(300), "y": LINEAR(uniform(300)), "n_poles": 2, "n_zeros": 2, **change}
    with pytest.raises(ParameterError, match=match):
        fit_hammerstein_wiener(given.pop("u"), given.pop("y"), **given)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ([0.0, 0.0], [0.0, 1.0], "rise"),
        ([1.0, 0.0], [0.0, 1.0], "rise"),
        ([0.0, 5e-324], [0.0, 1.0], "slope"),
        ([0.0], [1.0], "n_knots"),
        ([0.0, 1.0], [1.0], "shape"),
        ([0.0, np.nan], [1.0, 2.0], "NaN"),
    ],
)
def test_impossible_shapers_are_refused(x, y, match):
    with pytest.raises(ParameterError, match=match):
        Shaper(x, y)
