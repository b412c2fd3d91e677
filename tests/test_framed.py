"""Frames of spectra: perfect reconstruction, block splits, adjoint, and inner filters with a memory."""

import numpy as np
import pytest

from rnndsp.composition import Knobs
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.framed import Framed, SpectralGain
from rnndsp.statespace import StateSpace, delay, gain


def identity(n_fft, hop_length):
    return Framed.spectral_gain(np.ones(n_fft // 2 + 1), n_fft=n_fft, hop_length=hop_length)


def smoother(n_fft, hop_length, seed=0):
    """Each bin a leaky average over frames, all of them mixed a little: an inner filter with a memory."""
    rng = np.random.default_rng(seed)
    n = 2 * (n_fft // 2 + 1)
    A, B, C, D = (0.2 * rng.standard_normal((n, n)) / np.sqrt(n) + scale * np.eye(n) for scale in (0.6, 0.4, 1, 0.1))
    return Framed(StateSpace(A, B, C, D), n_fft=n_fft, hop_length=hop_length)


class Gate(Filter):
    """Magnitudes of each bin decide on a gain by their running mean: nonlinear, with a knob, for the tests alone."""

    def __init__(self, n_bins):
        super().__init__({"n_bins": n_bins}, {})

    def _setup(self):
        from rnndsp.filter import Control
        from rnndsp.state import Field

        n = self.config["n_bins"]
        self.n_inputs = self.n_outputs = 2 * n
        self.fields = (Field("mean", (n,)),)
        self.controls = (Control("depth", 1.0, 0.0, 2.0),)

    def _advance(self, u, state, y):
        n = self.config["n_bins"]
        for t in range(u.shape[1]):
            power = u[:, t, :n] ** 2 + u[:, t, n : 2 * n] ** 2
            state.rows[...] = (3 * state.rows + power) / 4
            mask = state.rows / (state.rows + u[:, t, 2 * n :])
            y[:, t, :n], y[:, t, n:] = u[:, t, :n] * mask, u[:, t, n : 2 * n] * mask

    def _record(self, u, state):
        raise AssertionError("this gate is only run")

    _adjoint = _linearize = _record


@pytest.mark.parametrize(("n_fft", "hop_length"), [(1024, None), (64, 32), (64, 16), (60, 20), (9, 3), (64, 1), (2, 1)])
def test_an_identity_inside_is_a_delay_by_the_latency(n_fft, hop_length):
    u = np.random.default_rng(0).standard_normal(4 * n_fft + 5)
    filt = Framed.spectral_gain(np.ones(n_fft // 2 + 1), n_fft=n_fft, hop_length=hop_length)
    y = filt(u)
    assert filt.latency == n_fft
    assert filt.period == (hop_length or n_fft // 4)
    np.testing.assert_allclose(y[n_fft:], u[:-n_fft], rtol=0, atol=1e-12)
    np.testing.assert_allclose(y[:n_fft], 0, atol=1e-12)
    y32 = filt(u.astype(np.float32))
    assert y32.dtype == np.float32
    np.testing.assert_allclose(y32, y, atol=3e-6)


def test_the_inner_filters_latency_counts_in_hops():
    late = delay(3, 34)
    late.__dict__["latency"] = 3  # as a filter that declares its delay would
    filt = Framed(late, n_fft=32, hop_length=8)
    assert filt.latency == 32 + 3 * 8
    u = np.random.default_rng(0).standard_normal(200)
    np.testing.assert_allclose(filt(u)[56:], u[:-56], atol=1e-12)


def test_a_sine_has_its_amplitude_in_its_bin():
    seen = []

    class Probe(SpectralGain):
        def _advance(self, u, state, y):
            seen.append(u.copy())
            super()._advance(u, state, y)

    n_fft, k = 64, 8
    u = 0.3 * np.cos(2 * np.pi * k * np.arange(512) / n_fft)
    Framed(Probe(np.ones(33)), n_fft=n_fft)(u)
    del Filter.registry[Probe.registered_name()]
    spectrum = seen[-1][0, 0, :33] + 1j * seen[-1][0, 0, 33:]
    assert len(seen) == 512 // 16
    assert abs(spectrum).argmax() == k
    assert abs(spectrum[k]) == pytest.approx(0.3, rel=2e-3)  # the bin at -k leaks in


def test_a_spectral_gain_halves_the_level_of_a_sine_in_its_bin():
    n_fft, k = 256, 20
    gains = np.ones(129)
    gains[k - 8 : k + 9] = 0.5
    filt = Framed.spectral_gain(gains, n_fft=n_fft, hop_length=64)
    t = np.arange(4096)
    for place, factor in [(k, 0.5), (60, 1.0)]:
        u = np.sin(2 * np.pi * place * t / n_fft)
        y = filt(u)[filt.latency :]
        np.testing.assert_allclose(y[256:], factor * u[256 : -filt.latency], atol=2e-3)
        level = 10 * np.log10(np.mean(y[256:] ** 2) / np.mean(u**2))
        assert level == pytest.approx(20 * np.log10(factor), abs=0.01)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_any_split_gives_the_same_bits(dtype):
    u = np.random.default_rng(0).standard_normal((2, 700, 1)).astype(dtype)
    for filt in (identity(64, 16), smoother(16, 8), Framed(Gate(17), n_fft=32)):
        whole, end = filt.run(u)
        for size in (1, 7, 16, 64, 333):
            state, pieces = None, []
            for start in range(0, 700, size):
                y, state = filt.run(u[:, start : start + size], state)
                pieces.append(y)
            assert np.array_equal(np.concatenate(pieces, axis=1), whole)
            assert state == end
        for voice in range(2):
            np.testing.assert_allclose(filt(u[voice]), whole[voice], rtol=0, atol=1e-6)


def test_voices_do_not_change_a_bit_of_the_transform():
    u = np.random.default_rng(0).standard_normal((5, 300, 1)).astype(np.float32)
    filt = identity(64, 16)
    assert np.array_equal(filt(u), np.stack([filt(voice) for voice in u]))


def test_against_a_plain_loop():
    n_fft, hop, n = 16, 4, 100
    rng = np.random.default_rng(0)
    u = rng.standard_normal(n)
    filt = smoother(n_fft, hop)
    inner = filt.children[0]
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(n_fft) / n_fft))
    padded, y, x = np.concatenate([np.zeros(n_fft), u]), np.zeros(n + n_fft), inner.rest_state()
    for b in range(hop, n + 1, hop):
        spectrum = np.fft.rfft(padded[b : b + n_fft] * window) * 2 / window.sum()
        out, x = inner.run(np.concatenate([spectrum.real, spectrum.imag])[None], x)
        frame = np.fft.irfft(out[0, : n_fft // 2 + 1] + 1j * out[0, n_fft // 2 + 1 :])
        y[b : b + n_fft] += frame * window * window.sum() / 2 * (2 * hop / n_fft)
    np.testing.assert_allclose(filt(u), y[:n], atol=1e-13)


def test_a_state_is_oldest_first():
    filt = identity(8, 4)
    u = np.arange(1.0, 14)
    _, state = filt.run(u)
    flat = state.ravel()
    assert flat[:8].tolist() == u[-8:].tolist()
    y, _ = filt.run(np.zeros(3), state)
    np.testing.assert_allclose(flat[8:11], y, atol=1e-15)  # no frame ends before the third sample


def test_controls_are_read_at_the_end_of_a_frame():
    u = np.random.default_rng(0).standard_normal(400)
    filt = Framed(Gate(9), n_fft=16, hop_length=4)
    assert [control.name for control in filt.controls] == ["depth"]
    np.testing.assert_allclose(filt(u, controls={"depth": 0.0})[16:], u[:-16], atol=1e-12)
    closed = filt(u, controls={"depth": 2.0})
    assert np.abs(closed[16:] - u[:-16]).max() > 0.1
    depth = np.where(np.arange(400) % 4 == 3, 2.0, 0.5)
    assert np.array_equal(filt(u, controls={"depth": depth}), closed)


def test_tiny_values_are_flushed():
    _, state = smoother(16, 4).run(np.full(64, 1e-35, np.float32))
    assert not state.vector.any()


# ---- the adjoint


def cases():
    rng = np.random.default_rng(3)
    equaliser = Framed.spectral_gain(rng.standard_normal(9), n_fft=16, hop_length=4)
    odd = Framed.spectral_gain(rng.standard_normal(5), n_fft=9, hop_length=3)
    n = 2 * 5
    space = StateSpace(
        0.1 * rng.standard_normal((3, 3)),
        rng.standard_normal((3, n + 1)),
        rng.standard_normal((n, 3)),
        np.eye(n, n + 1),
    )
    return {
        "equaliser": equaliser,
        "odd": odd,
        "memory": smoother(8, 4),
        "knob": Framed(Knobs(space, {"knob": 0.5}), n_fft=8, hop_length=2),
    }


@pytest.mark.parametrize("name", ["equaliser", "odd", "memory", "knob"])
@pytest.mark.parametrize("n_frames", [1, 5, 29])
def test_the_adjoint_against_central_differences(name, n_frames):
    filt = cases()[name]
    rng = np.random.default_rng(4)
    _, start = filt.run(rng.standard_normal((2, 13, 1)))  # amid a hop
    u = rng.standard_normal((2, n_frames, 1))
    tape = filt.tape(u, start)
    y, end = filt.run(u, start)
    assert np.array_equal(tape.y, y)
    assert tape.state == end
    dy, dx = rng.standard_normal(y.shape), rng.standard_normal(end.ravel().shape)
    gradient = tape.adjoint(dy, dx)

    def loss(filt, u, start):
        y, end = filt.run(u, start)
        return float(np.sum(y * dy) + np.sum(end.ravel() * dx))

    def difference(function, direction_of):
        direction = rng.standard_normal(direction_of.shape)
        h = 1e-6
        return (function(direction_of + h * direction) - function(direction_of - h * direction)) / (2 * h), direction

    slope, direction = difference(lambda v: loss(filt, v, start), u)
    assert np.sum(gradient.u * direction) == pytest.approx(slope, rel=1e-7, abs=1e-8)
    slope, direction = difference(lambda v: loss(filt, u, start.unravel(v)), start.ravel())
    assert np.sum(gradient.state * direction) == pytest.approx(slope, rel=1e-7, abs=1e-8)
    assert set(gradient.params) == set(filt.params)
    for key, value in filt.params.items():
        slope, direction = difference(lambda v, key=key: loss(filt.replace(**{key: v}), u, start), value)
        assert np.sum(gradient.params[key] * direction) == pytest.approx(slope, rel=1e-7, abs=1e-8)


def test_the_gradient_of_a_control_reaches_the_last_sample_of_each_frame():
    filt = cases()["knob"]
    u = np.random.default_rng(0).standard_normal((1, 11, 1))
    full = filt._extend(u, None)
    y, memory = filt._tape(full, filt.rest_state((1,)))
    du, _, _ = filt._adjoint(memory, np.ones_like(y), np.zeros((1, filt.n_states)))
    assert du.shape == full.shape
    for t in range(11):
        values = []
        for sign in (1, -1):
            knob = np.full(11, 0.5)
            knob[t] += sign * 1e-6
            values.append(filt(u[0], controls={"knob": knob}).sum())
        assert du[0, t, 1] == pytest.approx((values[0] - values[1]) / 2e-6, abs=1e-8)
    # frames end after samples 1, 3, ...; what the last ones change comes out later
    assert np.flatnonzero(du[0, :, 1]).tolist() == [1, 3, 5]


# ---- the gain alone, and what is refused


def test_spectral_gain_is_a_diagonal_matrix():
    rng = np.random.default_rng(0)
    g, u = rng.standard_normal(5), rng.standard_normal((2, 7, 10))
    filt = SpectralGain(g)
    assert filt.n_states == 0
    np.testing.assert_array_equal(filt(u), u * np.tile(g, 2))
    assert filt.linearize() == gain(np.diag(np.tile(g, 2)))
    dy = rng.standard_normal(u.shape)
    gradient = filt.tape(u).adjoint(dy)
    np.testing.assert_allclose(gradient.u, dy * np.tile(g, 2))
    np.testing.assert_allclose(gradient.params["gain"], np.sum(dy * u, axis=(0, 1)).reshape(2, 5).sum(axis=0))


def test_the_inner_filters_stability_is_ones_own():
    assert identity(16, 4)._contraction().endswith("forgets: no memory")
    assert identity(16, 4)._boundedness()
    n = 2 * 9
    stable, unstable = (
        Framed(StateSpace(a * np.eye(n), np.eye(n), np.eye(n), 0 * np.eye(n)), n_fft=16) for a in (0.9, 1.1)
    )
    assert "inside the unit circle" in stable._contraction()
    assert stable._boundedness()
    assert unstable._contraction() is None
    assert not unstable._boundedness()


def test_replace_reaches_the_gains():
    filt = identity(8, 4)
    half = filt.replace(**{"0.gain": np.full(5, 0.5)})
    u = np.random.default_rng(0).standard_normal(50)
    np.testing.assert_allclose(half(u), 0.5 * filt(u), atol=1e-15)
    assert half != filt


def test_what_is_refused():
    bins = np.ones(9)
    for n_fft, hop in [(16, 5), (16, 16), (16, 0), (16, 12), (1, 1), (16.0, 4)]:
        with pytest.raises(ParameterError, match=r"the hop must be a half|whole number"):
            Framed(SpectralGain(bins), n_fft=n_fft, hop_length=hop)
    with pytest.raises(ParameterError, match=r"18 inputs and 18 outputs; frames of n_fft=1024 need 1026.*513 real"):
        Framed(SpectralGain(bins))
    with pytest.raises(ParameterError, match="give Framed that of the signal"):
        Framed(SpectralGain(bins, sample_rate=100), n_fft=16)
    assert Framed(SpectralGain(bins), n_fft=16, sample_rate=44100).sample_rate == 44100
    with pytest.raises(ParameterError, match=r"every 4 samples.*no poles"):
        identity(16, 4).linearize()
