"""What no filter can make sense of is refused by name, whatever its type: no foreign exception, nothing dropped."""

import re
from fractions import Fraction

import numpy as np
import pytest

from rnndsp import delay, gain
from rnndsp._checks import choice, number, real_array, reals, whole_numbers
from rnndsp.errors import ParameterError
from rnndsp.filters import (
    DampedNetwork,
    DelayStateSpace,
    Elman,
    FeedbackDelayNetwork,
    GerzonAllpass,
    Lattice,
    ParaunitaryFIR,
    Reverb,
    ReverbSettings,
    Shaper,
    StateVariable,
    Taps,
    absorption_filters,
    closed_allpass,
    fit_hammerstein_wiener,
    force_train,
    linear_prediction,
    named,
    nested_allpass,
    orthogonal_matrix,
    poletti_allpass,
    series_allpass,
    vector_allpass,
)
from rnndsp.filters.lattice import step_down, step_up
from rnndsp.realization import balanced, discretized, minimal, reduced, zpk
from rnndsp.residuals import residual_diagnostics
from rnndsp.smoothing import Smoothed
from rnndsp.stability import (
    allpass_test,
    complete_allpass,
    paraunitary_test,
    uniallpass_test,
    unilossless_test,
)

RATE = 48000
RAGGED = [[1, 2], [3]]
NOISE = np.random.default_rng(0).standard_normal(200)


def fdn(delays=(7, 11), **given):
    return FeedbackDelayNetwork(delays, **{"t60_s": 1.0, "sample_rate": RATE} | given)


def damped(delays=(7, 11), **given):
    return DampedNetwork(delays, **{"t60_s": 1.0, "sample_rate": RATE} | given)


def curves(**given):
    return fit_hammerstein_wiener(NOISE, NOISE, **{"n_poles": 1, "n_zeros": 1} | given)


# The argument that the message names, a function of it, and values that it refuses.
REFUSED = (
    ("n_channels", lambda x: fdn(n_channels=x), -1, 2.0, "a"),
    ("t60_s", lambda x: fdn(t60_s=x), "a", None, np.nan, 0, [1.0]),
    ("sample_rate", lambda x: fdn(sample_rate=x), "a", None, -1),
    ("delays", fdn, [], "ab", [7.5, 11], RAGGED, [0, 3], [[1, 2]], [3, 10**30], None),
    ("matrix", lambda x: fdn(matrix=x), RAGGED, None, 1j * np.eye(2)),
    ("dry", lambda x: fdn(dry=x), "a", np.nan),
    ("wet", lambda x: fdn(wet=x), "a", np.inf),
    ("seed", lambda x: fdn(seed=x), "a", -1),
    ("kind", lambda x: orthogonal_matrix(4, x), ["hadamard"], None),
    ("t60_s", lambda x: damped(t60_s=x), "a", None, RAGGED, [1 + 1j]),
    ("bands_hz", lambda x: damped(t60_s=[0.1, 0.2], bands_hz=x), "ab", RAGGED, [1j, 2]),
    ("corners_hz", lambda x: damped(t60_s=[0.1, 0.2], bands_hz=[100, 200], corners_hz=x), "ab", RAGGED),
    ("delays", damped, [], "ab", RAGGED, [7.5, 11]),
    ("n_channels", lambda x: damped(n_channels=x), -1, 2.0),
    ("wet", lambda x: damped(wet=x), "a"),
    ("dry", lambda x: damped(dry=x), "a"),
    ("delays", lambda x: absorption_filters(x, 1.0, sample_rate=RATE), "a", [], [[1, 2]], [-3]),
    ("w", damped().absorption_response, "a", 1j),
    ("gain", lambda x: GerzonAllpass([3, 5], gain=x), "a", np.nan, [0.1, 0.2], 0.1j),
    ("delays", GerzonAllpass, [], "ab", RAGGED),
    ("matrix", lambda x: GerzonAllpass.from_matrix(x, [1]), RAGGED, "a"),
    ("delays", lambda x: GerzonAllpass.from_matrix(np.eye(3), x), RAGGED, [1.5]),
    ("gain", lambda x: poletti_allpass([3], gain=x), "a"),
    ("gains", lambda x: series_allpass([3], gains=x), "a", [0.1j]),
    ("delays", lambda x: series_allpass(x, gains=[0.1]), RAGGED),
    ("gains", lambda x: nested_allpass([3], gains=x), ["a"], RAGGED),
    ("gain", lambda x: vector_allpass(delay(3), gain=x), "a"),
    ("loop", vector_allpass, 3, None),
    ("matrix", lambda x: closed_allpass(x, delay(3)), RAGGED, "a"),
    ("vectors", ParaunitaryFIR, "a", RAGGED, [[1 + 1j, 0]]),
    ("delays", lambda x: ParaunitaryFIR([[1, 0]], delays=x), "a", RAGGED, 1.5),
    ("preset", lambda x: Reverb(x, sample_rate=RATE), ["hall"], None),
    ("t60_s", lambda x: ReverbSettings(t60_s=x), [1.0], 10**400),
    ("delays", lambda x: Taps(x, [[[1.0]]]), "a", RAGGED, [-1], [0.5]),
    ("gains", lambda x: Taps([1], x), RAGGED, [[["a"]]], [[[1j]]]),
    ("k", Lattice, "a", RAGGED, [0.1j]),
    ("taps", lambda x: Lattice([0.1], x), "ab", RAGGED),
    ("modulated", lambda x: Lattice([0.1], modulated=x), "yes"),
    ("b", lambda x: Lattice.from_ba(x, [1, 0.1]), "a", RAGGED, [1j]),
    ("poles", Lattice.from_poles, "a", RAGGED, []),
    ("a", step_down, "a", RAGGED),
    ("k", step_up, "a", RAGGED, [0.1j], 0.1),
    ("x", lambda x: Shaper(x, [1, 2]), "a", RAGGED),
    ("knots_in", lambda x: curves(knots_in=x), -np.inf, "a", RAGGED, [-np.inf, 1], 10**12),
    ("knots_out", lambda x: curves(knots_out=x), -np.inf, -3, "a", RAGGED, [-np.inf, 1], None),
    ("u", lambda x: fit_hammerstein_wiener(x, NOISE, n_poles=1, n_zeros=1), "a", RAGGED, 1j * NOISE),
    ("target", lambda x: force_train(Elman(1, 3), x), "a", RAGGED),
    ("filter", lambda x: force_train(x, NOISE), 3, None),
    ("sample_rate", lambda x: linear_prediction(NOISE, 2, sample_rate=x), -1, "a", 0),
    ("x", lambda x: linear_prediction(x, 2), "a", RAGGED, 1j * NOISE),
    ("method", lambda x: linear_prediction(NOISE, 2, method=x), ["burg"], np.array(["burg", "burg"])),
    ("frequency", linear_prediction(NOISE, 2).envelope, "a", 1j, [np.nan]),
    ("spec", lambda x: named(x, sample_rate=RATE), None, 3, ["lowpass"]),
    ("sample_rate", lambda x: named("lowpass", sample_rate=x), "a", None),
    ("n_channels", lambda x: named("reverb", sample_rate=RATE, n_channels=x), "a", 2.5),
    *(
        ("filter", function, 3, None, "a")
        for function in (zpk, minimal, balanced, uniallpass_test, paraunitary_test, allpass_test)
    ),
    ("filter", lambda x: reduced(x, order=1), 3),
    ("filter", lambda x: Smoothed(x, time_s=0.1), 3),
    ("A", lambda x: discretized(x, [[1]], [[1]], [[1]], sample_rate=RATE), RAGGED, "a"),
    ("method", lambda x: discretized([[1]], [[1]], [[1]], [[1]], sample_rate=RATE, method=x), ["zoh"]),
    ("A", unilossless_test, RAGGED, "a", [[1j]]),
    ("A", lambda x: complete_allpass(x, [1]), RAGGED),
    ("delays", lambda x: complete_allpass([[0.5]], x), "a", RAGGED),
    ("matrix", gain, "a", RAGGED, 1j, None),
    ("A", lambda x: DelayStateSpace(x, [[1]], [[1]], [[1]], [1]), RAGGED, "a"),
    ("delays", lambda x: DelayStateSpace([[0.1]], [[1]], [[1]], [[1]], x), RAGGED, "a"),
    ("n_channels", lambda x: delay(3, x), "a", -1),
    ("residuals", residual_diagnostics, "a", RAGGED, None, 1j * NOISE),
    ("kind", lambda x: StateVariable(x, sample_rate=RATE), ["lowpass"]),
    ("activation", lambda x: Elman(1, 3, activation=x), ["tanh"]),
)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_odd_arguments_are_refused_by_name(case):
    name, function, *values = REFUSED[case]
    for value in values:
        with pytest.raises(ParameterError, match=rf"\b{name}\b"):
            function(value)


def test_what_is_a_number_is_taken():
    assert number("x", Fraction(1, 4)) == 0.25 and number("x", np.float32(2)) == 2
    assert reals("x", [True, 2]).tolist() == [1, 2] and reals("x", []).size == 0
    assert real_array("x", np.float32([1])).dtype == np.float32
    assert whole_numbers("m", np.uint8([0, 3]), least=0).tolist() == [0, 3]
    assert choice("kind", "b", ("b", "a")) == "b"
    with pytest.raises(ParameterError, match=re.escape("kind='c': choose one of ['a', 'b']")):
        choice("kind", "c", ("b", "a"))


@pytest.mark.parametrize("level", [1e200, 1e-200])
def test_residuals_of_any_size_are_judged_alike(level):
    found, plain = residual_diagnostics(level * NOISE), residual_diagnostics(NOISE)
    for name in ("residuals", "autocorrelation", "statistic", "p_value"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name), rtol=1e-12)
