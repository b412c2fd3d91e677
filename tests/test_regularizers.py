"""Regularisers. Oracles: the definitions in a few lines of NumPy, differences, plain training, closed forms."""

import numpy as np
import pytest

from rnndsp import ParameterError, Series, Zoned, fit, gain, load
from rnndsp.filters import GRU, LSTM, Dense, Elman, closed_loop, teacher_forced
from rnndsp.losses import squared
from rnndsp.optimizers import SGD
from rnndsp.regularizers import (
    _DROPPED,
    GradientNorm,
    Noise,
    RecurrentDropout,
    ScheduledSampling,
    VariationalDropout,
    Zoneout,
    _constraint,
    _variational,
    _zoned,
)
from rnndsp.training import evaluate

LENGTHS = (7, 4, 9, 6)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def examples(n_inputs=2, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((n, n_inputs)), rng.standard_normal((n, 1))) for n in LENGTHS]


def batch(n_voices=3, share=0.5, key=(1, 2, 3)):
    return Noise(key, tuple(range(n_voices)), n_voices, share)


def train(regularizer, *, filt=None, data=None, **settings):
    filt = filt or Elman(2, 3, seed=1) >> Dense(3, 1, seed=2)
    defaults = {"n_epochs": 3, "batch_size": 2, "rate": 0.03, "regularizer": regularizer}
    return fit(filt, data or examples(), squared, **{**defaults, **settings})


def assert_same(found, expected):
    for name, value in expected.filter.params.items():
        np.testing.assert_array_equal(found.filter.params[name], value)


def differences(function, x, step=1e-5):
    found = np.zeros(np.shape(x))
    for place in np.ndindex(found.shape):
        up, down = np.array(x), np.array(x)
        up[place] += step
        down[place] -= step
        found[place] = (function(up) - function(down)) / (2 * step)
    return found


# ---- noise


def test_masks_have_the_probabilities_that_were_asked_for():
    hits = batch().hits(0.3, 0, 3, 50, slice(0, 400))
    np.testing.assert_allclose(hits.mean(axis=(1, 2)), 0.3, atol=0.01)
    np.testing.assert_allclose(hits.mean(axis=(0, 1)), 0.3, atol=0.06)
    # no frame, unit or voice tells anything about its neighbours
    centred = hits - 0.3
    for axis in range(3):
        a, b = (np.take(centred, range(*ends), axis) for ends in ((1, hits.shape[axis]), (0, hits.shape[axis] - 1)))
        assert abs(np.mean(a * b)) / 0.21 < 4 / np.sqrt(a.size)
    assert batch().hits(1.0, 0, 3, 5).all() and not batch().hits(0.0, 0, 3, 5).any()


def test_masks_depend_on_what_they_are_for_alone():
    whole = batch().hits(0.3, 0, 3, 11, slice(0, 30))
    for start, stop in ((0, 7), (7, 8), (8, 30)):
        np.testing.assert_array_equal(batch().hits(0.3, 0, 3, 11, slice(start, stop)), whole[:, start:stop])
    shard = Noise((1, 2, 3), (2,), 3, 0.5).hits(0.3, 0, 1, 11, slice(0, 30))
    np.testing.assert_array_equal(shard, whole[2:])
    others = [
        batch(key=(1, 2, 4)).hits(0.3, 0, 3, 11, slice(0, 30)),
        batch()._replace(stream=1).hits(0.3, 0, 3, 11, slice(0, 30)),
        batch().hits(0.3, 1, 3, 11, slice(0, 30)),
    ]
    assert all(0.3 < np.mean(other != whole) < 0.55 for other in others)


# ---- units, as plain functions of arrays

STAGES = {
    "zoneout, LSTM": _zoned(LSTM(1, 1)._chain, 2, None),
    "zoneout, GRU after": _zoned(GRU(1, 1)._chain, 1, None),
    "zoneout, GRU before": _zoned(GRU(1, 1, reset="before")._chain, 1, None),
    "zoned LSTM": _zoned(LSTM(1, 1)._chain, 2, (0.3, 0.6)),
    "zoned GRU before": _zoned(GRU(1, 1, reset="before")._chain, 1, (0.3, 0.6)),
    "variational LSTM": _variational(LSTM(1, 1)._chain, 2),
    "variational GRU": _variational(GRU(1, 1)._chain, 1),
    **{f"dropped {name}": stages for name, stages in _DROPPED.items()},
}


@pytest.mark.parametrize("name", STAGES)
def test_adjoints_of_units(name):
    n_in = 2 if "LSTM" in name else 1
    for stage in STAGES[name]:
        rng = np.random.default_rng(0)
        masked = "zoned" not in name
        for mask in (0.0, 1.0, 2.0, 3.0) if "zoneout, LSTM" in name else (0.0, 1.0):
            a, r, s = (list(rng.standard_normal(n)) for n in (stage.n_gates, stage.n_gates, n_in))
            r[0] = 0.0 if masked else r[0]
            a[0] = mask if masked else a[0]
            d = rng.standard_normal(stage.n_out)
            if name == "zoned GRU before" and stage is STAGES[name][0]:
                d[-2] = 0  # the place of a mask, which the next stage does not look at here
            found = stage.adjoint(tuple(a), tuple(r), tuple(s), (), tuple(d))
            free = slice(1, None) if masked and stage is STAGES[name][0] else slice(None)

            def value(x, stage=stage, d=d, n=stage.n_gates):
                return np.dot(d, stage.unit(tuple(x[:n]), tuple(x[n : 2 * n]), tuple(x[2 * n :]), ()))

            expected = np.split(differences(value, np.array([*a, *r, *s])), [len(a), 2 * len(a)])
            for ours, theirs in zip(found[:3], expected, strict=True):
                kept = slice(None) if theirs is expected[2] else free
                # what the mask of a zoneout before two stages hands on is no number to differentiate by
                same = np.isclose(np.array(ours)[kept], theirs[kept], rtol=1e-7, atol=1e-8)
                assert same.all() or (theirs is expected[2] and np.all(same | (np.array(ours) == 0))), name
        n_in = stage.n_out


def test_units_are_those_of_the_papers():
    (plain,), (zoned,) = LSTM(1, 1)._chain, STAGES["zoneout, LSTM"]
    a, s = tuple(noise(4)), tuple(noise(2, seed=1))
    h, c = plain.unit(a, (0.0,) * 4, s, ())
    for code, expected in enumerate([(h, c), (s[0], c), (h, s[1]), s]):
        assert zoned.unit((float(code), *a), (0.0,) * 5, s, ()) == expected
    np.testing.assert_allclose(
        STAGES["zoned LSTM"][0].unit(a, (0.0,) * 4, s, ()), [0.3 * s[0] + 0.7 * h, 0.6 * s[1] + 0.4 * c], rtol=1e-14
    )
    # nothing is written, nothing is lost
    sigmoid = 1 / (1 + np.exp(-np.array(a)))
    _, c = _DROPPED["LSTM", None][0].unit((0.0, *a), (0.0,) * 5, s, ())
    np.testing.assert_allclose(c, sigmoid[1] * s[1], rtol=1e-14)
    (h,) = _DROPPED["GRU", "after"][0].unit((0.0, *a[:3]), (0.0,) * 4, s[:1], ())
    np.testing.assert_allclose(h, sigmoid[1] * s[0], rtol=1e-14)


# ---- in filters


def test_gradient_with_masks_is_that_of_differences():
    """LSTM with zoneout, whose weights are part of wider ones, between other filters; the state goes on."""
    filt = Dense(1, 2, seed=3) >> LSTM(2, 3, seed=1) >> Dense(3, 1, seed=2)
    regularizer = Zoneout(0.4, 0.3)
    settled = regularizer.settled(filt)
    u, dy = noise(2, 6, 1), noise(2, 6, 1, seed=1)
    masked = regularizer.trained(settled, batch(2))
    tape = masked.tape(u)
    gradient = tape.adjoint(dy)
    np.testing.assert_array_equal(tape.y, masked(u))
    first, state = masked.run(u[:, :2])
    np.testing.assert_array_equal(np.concatenate([first, masked.run(u[:, 2:], state)[0]], axis=1), tape.y)
    for name, value in settled.params.items():

        def loss(x, name=name):
            return np.sum(dy * regularizer.trained(settled.replace(**{name: x}), batch(2))(u))

        expected = differences(loss, value)
        np.testing.assert_allclose(gradient.params[name], expected, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(gradient.u, differences(lambda x: np.sum(dy * masked(x)), u), rtol=1e-6, atol=1e-8)


CELLS = [LSTM(2, 3), GRU(2, 3), GRU(2, 3, reset="before", recurrence="diagonal")]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{type(cell).__name__} {cell.config.get('reset')}")
def test_weights_are_part_of_wider_ones(cell):
    cell = cell.replace(**{name: noise(*value.shape, seed=1) for name, value in cell.params.items()})
    masked = RecurrentDropout().trained(cell, batch())
    inner = dict(masked._inner.params)
    assert inner["W"].shape == (len(cell.params["W"]) + 3, 5)
    # what the masks come by is their identity and nothing else
    np.testing.assert_array_equal(inner["W"][:3], np.eye(3, 5, 2))
    assert not inner["W"][3:, 2:].any() and not any(inner[name][:3].any() for name in inner if name != "W")
    back = masked._narrow(inner)
    assert back.keys() == cell.params.keys()
    for name, value in cell.params.items():
        np.testing.assert_array_equal(back[name], value)


def test_all_kept_is_a_state_that_stands_still():
    cell = LSTM(2, 3, seed=1)
    always = Zoneout(1.0, 1.0)
    filt = always.trained(always.settled(cell), batch(1))
    start = filt.rest_state((1,)).unravel(noise(1, 6))
    y, state = filt.run(noise(1, 9, 2), start)
    np.testing.assert_array_equal(state.ravel(), start.ravel())
    np.testing.assert_array_equal(y, np.broadcast_to(start.ravel()[:, None, :3], y.shape))


def test_masks_of_zoneout_by_definition():
    cell, u = LSTM(2, 3, seed=1), noise(2, 5, 2)
    regularizer = Zoneout(0.4, 0.3)
    found = regularizer.trained(regularizer.settled(cell), batch(2))(u)
    mh, mc = (batch(2)._replace(stream=1).hits(p, k, 2, 3, slice(0, 5)) for k, p in enumerate((0.4, 0.3)))
    state = cell.rest_state((2,))
    for t in range(5):
        _, new = cell.run(u[:, t : t + 1], state)
        state = state.unravel(np.where(np.concatenate([mh[:, t], mc[:, t]], axis=1), state.ravel(), new.ravel()))
        np.testing.assert_allclose(found[:, t], state.h, rtol=1e-12)


def test_input_masks_stay_for_a_sequence():
    filt = VariationalDropout(inputs=0.5, recurrent=0).trained(Elman(4, 3), batch())
    u = noise(3, 6, 4)
    mask = ~batch()._replace(stream=1).hits(0.5, 1, 3, 4) / 0.5
    assert 0 < mask.mean() < 2
    np.testing.assert_array_equal(filt(u), Elman(4, 3)(u * mask))
    tape, dy = filt.tape(u), noise(3, 6, 3, seed=1)
    plain = Elman(4, 3).tape(u * mask).adjoint(dy)
    np.testing.assert_array_equal(tape.adjoint(dy).u, plain.u * mask)
    np.testing.assert_array_equal(tape.adjoint_of_params(dy)["W"], plain.params["W"])


NOTHING = [Zoneout(0, 0), VariationalDropout(0, 0), ScheduledSampling(0), GradientNorm(0)]


@pytest.mark.parametrize("regularizer", NOTHING, ids=lambda r: type(r).__name__)
def test_without_probability_training_is_plain(regularizer):
    assert_same(train(regularizer), train(None))


RUNS = {
    "zoneout": {"regularizer": Zoneout(), "filt": LSTM(2, 3) >> Dense(3, 1)},
    "inputs": {"regularizer": VariationalDropout(0.3, 0), "truncate": 3},
    "norm": {"regularizer": GradientNorm(0.1)},
    "sampling": {"regularizer": ScheduledSampling()},
}


@pytest.mark.parametrize("name", RUNS)
def test_two_runs_are_equal_and_so_is_one_that_goes_on(name, tmp_path):
    whole = train(**RUNS[name])
    assert_same(train(**RUNS[name]), whole)
    path = tmp_path / "run"

    def interrupt(done, total, text):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(**RUNS[name], checkpoint=path, progress=interrupt)
    assert path.exists()
    assert_same(train(**RUNS[name], checkpoint=path), whole)
    moved = train(**RUNS[name], seed=1) if name != "norm" else train(None)
    assert any(np.any(moved.filter.params[key] != value) for key, value in whole.filter.params.items())


def test_what_is_validated_is_what_is_returned(tmp_path):
    found = train(Zoneout(0.2, 0.1), filt=LSTM(2, 3) >> Dense(3, 1), validation=examples(seed=5))
    assert found.filter.children[0] == Zoned(found.filter.children[0].children[0], h=0.2, c=0.1)
    held_out = [epoch.validation for epoch in found.history]
    np.testing.assert_allclose(evaluate(found.filter, examples(seed=5), squared), held_out[found.best - 1], rtol=1e-12)
    found.filter.save(tmp_path / "zoned")
    assert load(tmp_path / "zoned") == found.filter
    # fine tuning goes on with the same cells
    assert type(train(Zoneout(0.1, 0.1), filt=found.filter).filter.children[0].children[0]) is LSTM


# ---- Pascanu's constraint


def test_constraint_and_its_derivative():
    U, g, slopes = noise(4, 4), noise(2, 5, 4, seed=1), np.random.default_rng(2).uniform(0, 1, (2, 5, 4))
    g[0, 3] = 0
    value, by_U = _constraint(U, g, slopes)
    slow = sum(
        (np.linalg.norm(D * (U.T @ v)) / np.linalg.norm(v) - 1) ** 2
        for v, D in zip(g.reshape(-1, 4), slopes.reshape(-1, 4), strict=True)
        if v.any()
    )
    np.testing.assert_allclose(value, slow, rtol=1e-12)
    np.testing.assert_allclose(by_U, differences(lambda x: _constraint(x, g, slopes)[0], U), rtol=1e-6, atol=1e-8)
    turned = np.linalg.qr(U)[0]
    assert _constraint(turned, g, np.ones_like(g))[0] < 1e-25  # an orthogonal matrix keeps all norms


def test_constraint_is_added_to_the_gradient():
    cell, u, dy = Elman(2, 3, seed=1), noise(2, 6, 2), noise(2, 6, 3, seed=1)
    W, U, b = (cell.params[name] for name in ("W", "U", "b"))
    h = cell(u)
    np.testing.assert_allclose(h[:, 0], np.tanh(u[:, 0] @ W.T + b), rtol=1e-12)
    g, back = np.zeros((2, 6, 3)), np.zeros((2, 3))
    for t in range(5, -1, -1):
        g[:, t] = (dy[:, t] + back) * (1 - h[:, t] ** 2)
        back = g[:, t] @ U
    before = np.concatenate([np.zeros((2, 1, 3)), h[:, :-1]], axis=1)
    _, by_U = _constraint(U, g, 1 - before**2)
    plain = cell.tape(u).adjoint(dy)
    found = GradientNorm(0.5).trained(cell, batch(2)).tape(u).adjoint(dy)
    np.testing.assert_allclose(found.params["U"] - plain.params["U"], 0.25 * by_U, rtol=1e-9, atol=1e-12)
    for ours, theirs in ((found.params["W"], plain.params["W"]), (found.u, plain.u)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14)


# ---- free runs


def test_training_of_a_closed_loop_is_output_error_training():
    """The gradient goes round the loop: that of a linear one in closed form."""
    a, b, n = 0.5, 0.8, 12
    u = noise(n, 1)
    loop = closed_loop(Dense(2, 1).replace(W=np.array([[b, a]]), b=np.zeros(1)))
    h = b * a ** np.arange(n)
    np.testing.assert_allclose(loop(u)[:, 0], np.convolve(h, u[:, 0])[:n], rtol=1e-12)
    by_a = b * np.arange(n) * a ** np.maximum(np.arange(n) - 1.0, 0)
    dy = noise(n, 1, seed=1)
    gradient = loop.tape(u).adjoint(dy).params["1.0.W"]
    expected = [dy[:, 0] @ np.convolve(x, u[:, 0])[:n] for x in (h / b, by_a)]
    np.testing.assert_allclose(gradient[0], expected, rtol=1e-10)
    assert set(loop.params) == {"1.0.W", "1.0.b"}  # the wires of the loop cannot be trained


def test_output_errors_are_unbiased_where_equation_errors_are_not():
    """A first-order loop measured with white noise: the pole by least squares is too small (Ljung, ch. 7)."""
    u = noise(40, 60, 1)
    true = closed_loop(Dense(2, 1).replace(W=np.array([[1.0, 0.8]]), b=np.zeros(1)))(u)
    pairs = list(zip(u, true + noise(40, 60, 1, seed=1), strict=True))
    told = [teacher_forced(*pair) for pair in pairs]
    np.testing.assert_array_equal(told[0][0][1:, 1], pairs[0][1][:-1, 0])
    x, target = (np.concatenate(parts) for parts in zip(*told, strict=True))
    equation = np.linalg.lstsq(x, target, rcond=None)[0][1, 0]
    start = Dense(2, 1).replace(W=np.array([[0.5, 0.5]]), b=np.zeros(1))
    settings = {"n_epochs": 80, "rate": 0.05, "batch_size": 40, "n_shards": 1, "optimizer": SGD(0.5)}
    output = fit(closed_loop(start), pairs, squared, **settings).filter.params["1.0.W"][0, 1]
    assert abs(output - 0.8) < 0.03 < abs(equation - 0.8)


def test_samples_are_the_truth_first_and_its_own_at_the_end():
    predictor = Elman(2, 3) >> Dense(3, 1)
    u = noise(3, 9, 2)
    told, mixed, free = (ScheduledSampling().trained(predictor, batch(share=share)) for share in (0.0, 0.5, 1.0))
    np.testing.assert_array_equal(told(u), predictor(u))
    np.testing.assert_array_equal(free(u), closed_loop(predictor)(u[..., :1]))
    own = batch().hits(0.5, 0, 3, 1, slice(0, 9))
    state, y = predictor.rest_state((3,)), np.zeros((3, 1))
    for t in range(9):
        fed = np.where(own[:, t], y, u[:, t, 1:])
        (y,), state = (
            x if place else x.swapaxes(0, 1)
            for place, x in enumerate(predictor.run(np.concatenate([u[:, t, :1], fed], axis=1)[:, None], state))
        )
        np.testing.assert_allclose(mixed(u)[:, t], y, rtol=1e-12)
    dy = noise(3, 9, 1, seed=1)
    gradient = mixed.tape(u).adjoint(dy)
    for name, value in predictor.params.items():

        def loss(x, name=name):
            return np.sum(dy * ScheduledSampling().trained(predictor.replace(**{name: x}), batch())(u))

        np.testing.assert_allclose(gradient.params[name], differences(loss, value), rtol=1e-6, atol=1e-8)


# ---- bad input


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Zoneout(h=1.1), "h=1.1"),
        (lambda: VariationalDropout(inputs=1), "inputs=1"),
        (lambda: RecurrentDropout("much"), "candidate='much'"),
        (lambda: GradientNorm(-1), "weight=-1"),
        (lambda: ScheduledSampling(ramp=0), "ramp=0"),
        (lambda: Zoned(Dense(1, 1)), "a cell"),
        (lambda: train("zoneout"), "regularizer='zoneout'"),
        (lambda: train(Zoneout(), filt=Dense(2, 1)), "acts on cells"),
        (lambda: train(Zoneout(0, 0), filt=Dense(2, 1)), "acts on cells"),
        (lambda: train(RecurrentDropout()), "not of Elman"),
        (lambda: train(VariationalDropout(), filt=Zoned(Elman(2, 1))), "zoned"),
        (lambda: train(GradientNorm(), filt=GRU(2, 1)), "not of GRU"),
        (lambda: train(VariationalDropout(), filt=GRU(2, 1, reset="before")), "reset='after'"),
        (lambda: train(ScheduledSampling(), filt=Elman(2, 3)), "last 3 inputs"),
        (lambda: closed_loop(gain(1.0)), "needs more than"),
        (lambda: teacher_forced(np.zeros((3, 1)), np.zeros((4, 1))), "(4, 1)"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(ParameterError) as error:
        make()
    assert said in str(error.value)


def test_one_part_alone_stays_one_level_down():
    """Parameters of a zoned cell keep their names while it is trained."""
    settled = Zoneout().settled(Elman(1, 2))
    assert type(Series._restore({}, {}, (settled,)).children[0]) is Zoned
    assert set(Zoneout().trained(settled, batch()).params) == {"0.W", "0.U", "0.b"} == set(settled.params)
