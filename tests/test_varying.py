"""Moving coefficients. Oracles: published values, brute force over words and norms, simulation of what is proved."""

from itertools import product

import numpy as np
import pytest

from rnndsp import DelayStateSpace, StateSpace, gain
from rnndsp.errors import ParameterError
from rnndsp.filters import LSTM, SOS, StateVariable
from rnndsp.stability import varying
from rnndsp.stability.varying import (
    common_norm,
    frozen_settings,
    joint_spectral_radius,
    slow_variation,
    window_products,
)
from rnndsp.stability.verdicts import Verdict

GOLDEN = [[[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 1.0]]]
ALTERNATING = [[[0.0, 1.8], [0.0, 0.0]], [[0.0, 0.0], [1.8, 0.0]]]


def chain(matrices, word):
    """The product, the first of the word applied first."""
    grown = np.eye(len(matrices[0]))
    for k in word:
        grown = np.asarray(matrices[k]) @ grown
    return grown


def radius(A):
    return np.max(np.abs(np.linalg.eigvals(A)))


# ---- published values


def test_the_golden_ratio():
    found = joint_spectral_radius(GOLDEN)
    golden = (1 + np.sqrt(5)) / 2
    assert abs(found.lower - golden) < 1e-12 and golden <= found.upper < golden + 1e-10
    assert found.verdict == Verdict.REFUTED
    assert radius(chain(GOLDEN, found.word)) ** (1 / len(found.word)) == pytest.approx(golden, rel=1e-12)


def test_poles_at_zero_that_grow():
    """All frozen poles at 0, yet in turn they grow by 1.8 a step."""
    assert max(radius(np.array(A)) for A in ALTERNATING) == 0
    for found in (joint_spectral_radius(ALTERNATING), common_norm(ALTERNATING)):
        assert found.verdict == Verdict.REFUTED
        word = getattr(found, "word", None) or found.witness
        assert sorted(word) == [0, 1] and radius(chain(ALTERNATING, word)) == pytest.approx(3.24)
    assert joint_spectral_radius(ALTERNATING).lower == pytest.approx(1.8)
    windows = window_products(ALTERNATING, 2, any_order=True)
    assert windows.verdict == Verdict.REFUTED and radius(chain(ALTERNATING, windows.witness)) > 3
    assert window_products(ALTERNATING * 5, 2).verdict == Verdict.UNKNOWN
    assert window_products(ALTERNATING * 5, 2).norm == pytest.approx(np.full(9, 3.24))
    assert slow_variation(ALTERNATING * 5).verdict == Verdict.UNKNOWN
    # and with less of it the same verdicts turn round
    tame = [0.5 * np.array(A) for A in ALTERNATING]
    for found in (joint_spectral_radius(tame), common_norm(tame), window_products(tame, 2, any_order=True)):
        assert found.verdict == Verdict.PROVED


def test_a_family_of_one_matrix():
    A = np.array([[0.9, 5.0], [0.0, 0.8]])
    found = joint_spectral_radius([A], tolerance=1e-3)
    assert found.lower == pytest.approx(0.9) and 0.9 <= found.upper < 0.95 and found.verdict == Verdict.PROVED
    norm = common_norm([A])
    assert 0.9 <= norm.gamma < 0.91 and norm.verdict == Verdict.PROVED
    assert common_norm([A], target=1).gamma < 1


@pytest.mark.parametrize("A", [[[1.0]], [[0.6, -0.8], [0.8, 0.6]], [[1.0, 1.0], [0.0, 1.0]]])
def test_a_marginal_matrix_is_neither_proved_nor_refuted(A):
    assert common_norm([A]).verdict == Verdict.UNKNOWN
    assert joint_spectral_radius([A]).verdict == Verdict.UNKNOWN
    assert window_products([A], 3, any_order=True).verdict == Verdict.UNKNOWN
    assert slow_variation([A, A]).verdict == Verdict.UNKNOWN


def test_a_long_word_is_found():
    """Pairs whose worst word is long: brute force over all words up to length 8."""
    rng = np.random.default_rng(1)
    lengths = set()
    for _ in range(25):
        family = rng.standard_normal((2, 2, 2))
        found = joint_spectral_radius(family, depth=8, tolerance=1e-9)
        words = [word for m in range(1, 9) for word in product(range(2), repeat=m)]
        best = max(radius(chain(family, word)) ** (1 / len(word)) for word in words)
        assert found.lower == pytest.approx(best, rel=1e-9)
        assert found.upper >= best * (1 - 1e-12)
        lengths.add(len(found.word))
    assert max(lengths) >= 3


def test_bounds_close_in():
    rng = np.random.default_rng(2)
    for _ in range(10):
        family = rng.standard_normal((2, 3, 3))
        coarse, fine = (joint_spectral_radius(family, depth=depth) for depth in (2, 12))
        assert coarse.lower <= fine.lower * (1 + 1e-12) <= fine.upper * (1 + 1e-12) <= coarse.upper * (1 + 2e-12)
        assert fine.upper / fine.lower < 1.05


# ---- the norm


def test_the_best_norm_of_two_by_two_by_brute_force():
    rng = np.random.default_rng(3)
    for _ in range(6):
        family = rng.standard_normal((2, 2, 2))
        b, c = np.meshgrid(np.linspace(-4, 4, 161), np.geomspace(0.1, 10, 161))
        T = np.zeros((b.size, 1, 2, 2))
        T[:, 0, 0, 0], T[:, 0, 0, 1], T[:, 0, 1, 1] = 1, b.ravel(), c.ravel()
        grid = np.linalg.norm(T @ family @ np.linalg.inv(T), 2, axis=(2, 3)).max(axis=1).min()
        gamma, found, _ = varying._best_norm(family)
        assert gamma <= grid * (1 + 2e-3)
        assert gamma == pytest.approx(
            np.linalg.norm(found @ family @ np.linalg.inv(found), 2, axis=(1, 2)).max(), rel=1e-9
        )


def test_the_certificate_checks():
    """P as given, by eigenvalues: A' P A <= gamma^2 P."""
    rng = np.random.default_rng(4)
    family = 0.3 * rng.standard_normal((3, 4, 4))
    found = common_norm(family)
    for A in family:
        slack = np.linalg.eigvalsh(found.gamma**2 * found.P - A.T @ found.P @ A)[0]
        assert slack > -1e-12 * np.linalg.norm(found.P)
    assert found.gamma < np.linalg.norm(family, 2, axis=(1, 2)).max()
    assert found.bound(3)[3] == pytest.approx(np.linalg.cond(found.T) * found.gamma**3, rel=1e-9)


def test_a_diagonal_norm_is_found():
    """Similar by a diagonal matrix to rotations: gamma = 0.9 where the 2-norm is in the thousands."""
    D = np.diag([1.0, 1e-2, 30.0])
    turns = [np.linalg.qr(np.random.default_rng(k).standard_normal((3, 3)))[0] for k in range(3)]
    family = [0.9 * D @ Q @ np.linalg.inv(D) for Q in turns]
    assert max(np.linalg.norm(A, 2) for A in family) > 100
    assert common_norm(family).gamma == pytest.approx(0.9, rel=1e-3)


def test_rounding_is_not_forgotten():
    """A norm of one but for rounding is not called below one, and a bad T costs what it loses."""
    Q = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 5)))[0]
    assert common_norm([Q * (1 - 1e-16)]).verdict == Verdict.UNKNOWN
    T = np.diag(10.0 ** -np.arange(0, 20, 4))
    bound, _ = varying.scaled_norm(Q[None] * 0.5, T)
    exact = np.linalg.norm(np.array(T @ (0.5 * Q) / np.diag(T), float), 2)
    assert bound >= exact
    assert varying.scaled_norm(Q[None], np.zeros((5, 5)))[0] == np.inf


# ---- sequences


def test_products_along_a_sequence():
    rng = np.random.default_rng(5)
    family = rng.standard_normal((9, 3, 3))
    found = window_products(family, 4)
    expected = [np.linalg.norm(chain(family, range(k, k + 4)), 2) for k in range(6)]
    np.testing.assert_allclose(found.norm, expected, rtol=1e-9)
    assert found.worst == tuple(range(np.argmax(expected), np.argmax(expected) + 4))
    assert found.gamma == pytest.approx(max(expected) ** 0.25)
    words = window_products(family[:3], 2, any_order=True)
    expected = [np.linalg.norm(chain(family, word), 2) for word in product(range(3), repeat=2)]
    np.testing.assert_allclose(words.norm, expected, rtol=1e-9)


def test_a_window_sees_what_single_matrices_do_not():
    swell, shrink = np.diag([1.5, 0.2]), np.diag([0.2, 1.5])
    assert window_products([swell, shrink] * 4, 1).verdict == Verdict.UNKNOWN
    assert window_products([swell, shrink] * 4, 2).verdict == Verdict.PROVED
    assert window_products([swell, shrink] * 4, 2).norm == pytest.approx(np.full(7, 0.3))


def test_slow_variation():
    """A pole that glides: the criterion as published, and the sharper one."""
    angles = np.linspace(0.2, 2.0, 200)
    tilt = np.array([[1.0, 0.3], [0.0, 0.9]])
    sequence = [0.8 * tilt @ [[np.cos(w), -np.sin(w)], [np.sin(w), np.cos(w)]] @ np.linalg.inv(tilt) for w in angles]
    found = slow_variation(sequence)
    assert found.verdict == Verdict.PROVED
    P = [np.array(p) for p in found.P]
    for A, p in zip(sequence, P, strict=True):
        np.testing.assert_allclose(A.T @ p @ A - p, -np.eye(2), atol=1e-10)
    expected = [
        np.linalg.norm(A, 2) ** 2 * np.linalg.norm(q - p, 2)
        for A, p, q in zip(sequence[:-1], P[:-1], P[1:], strict=True)
    ]
    np.testing.assert_allclose(found.variation, [*expected, 0], rtol=1e-6, atol=1e-10)
    assert np.all(found.margin >= 1 - found.variation - 1e-9)
    grown = [np.linalg.norm(chain(sequence, range(k)), 2) for k in range(len(sequence) + 1)]
    assert np.all(grown <= found.bound) and found.bound[-1] < 1
    jumping = [sequence[k] for k in np.random.default_rng(0).permutation(200)]
    assert slow_variation(jumping).variation.max() > found.variation.max()


def test_one_unstable_filter_leaves_it_open():
    found = slow_variation([[[0.5]], [[1.1]], [[0.5]]])
    assert found.verdict == Verdict.UNKNOWN and np.isinf(found.bound[1:]).all()
    assert slow_variation([[[0.5]]]).verdict == Verdict.PROVED
    assert slow_variation([[[0.5]], [[1.0]]]).verdict == Verdict.UNKNOWN


# ---- a wrong "proved" is the worst bug this project can have


def families(seed, n_families):
    """Random families of two or three, from far inside to outside, most of them near the edge."""
    rng = np.random.default_rng(seed)
    for _ in range(n_families):
        count, n = int(rng.integers(2, 4)), int(rng.integers(1, 5))
        family = rng.standard_normal((count, n, n))
        if rng.random() < 0.3:
            family = np.triu(family, 0 if rng.random() < 0.5 else 1) * rng.choice([1, 5.0], family.shape)
            family[1:] = np.swapaxes(family[1:], 1, 2) if rng.random() < 0.5 else family[1:]
        size = np.max(np.abs(np.linalg.eigvals(family))) + 0.05 * np.linalg.norm(family, 2, axis=(1, 2)).max() + 1e-9
        yield rng, family * rng.uniform(0.6, 1.15) / size


def worst_growth(rng, family, n_steps=32):
    """Norms of the state, of length one at first: random switching, and the choice that lets it grow the most."""
    x = rng.standard_normal((8, family.shape[1], 1))
    x /= np.sqrt(np.sum(x**2, axis=1, keepdims=True))
    chosen, sizes = rng.integers(len(family), size=(n_steps, 8)), np.ones((n_steps + 1, 8))
    for t in range(n_steps):
        following = family[:, None] @ x
        squares = np.sum(following**2, axis=(2, 3))
        chosen[t, 4:] = np.argmax(squares, axis=0)[4:]
        x = following[chosen[t], np.arange(8)]
        sizes[t + 1] = np.sqrt(squares[chosen[t], np.arange(8)])
    return sizes.max(axis=1)


def test_what_is_proved_decays():
    """2000 random families: no certificate is ever broken by random, greedy or the worst periodic switching."""
    proved, refuted, undecided = {"norm": 0, "windows": 0, "radius": 0}, 0, 0
    for place, (rng, family) in enumerate(families(0, 2000)):
        norm = common_norm(family, target=1.0)
        windows = window_products(family, 4, any_order=True)
        verdicts = {"norm": norm.verdict, "windows": windows.verdict}
        if place % 4 == 0:
            bounds = joint_spectral_radius(family, depth=6, tolerance=1e-2)
            verdicts["radius"] = bounds.verdict
        words = np.indices((len(family),) * 5).reshape(5, -1).T
        grown = np.eye(family.shape[1])[None].repeat(len(words), 0)
        fastest = 0.0
        for length, column in enumerate(words.T, 1):
            grown = family[column] @ grown
            fastest = max(fastest, np.abs(np.linalg.eigvals(grown)).max() ** (1 / length))
        said = set(verdicts.values())
        assert not {Verdict.PROVED, Verdict.REFUTED} <= said
        if Verdict.PROVED in said:
            assert fastest < 1
            size = worst_growth(rng, family)
            if norm.verdict == Verdict.PROVED:
                assert np.all(size <= norm.bound(32))
                assert fastest <= norm.gamma * (1 + 1e-12)
            if windows.verdict == Verdict.PROVED:
                assert np.all(size[4::4] <= windows.norm.max() ** np.arange(1, 9) * (1 + 1e-9))
        if place % 4 == 0:
            assert fastest <= bounds.upper * (1 + 1e-9)
        if norm.verdict == Verdict.REFUTED:
            assert radius(chain(family, norm.witness)) > 1
        for name, verdict in verdicts.items():
            proved[name] += verdict == Verdict.PROVED
        refuted += Verdict.REFUTED in said
        undecided += said == {Verdict.UNKNOWN}
    assert min(proved.values()) >= 200, proved
    assert refuted >= 200 and undecided < 600


def test_what_varies_slowly_decays():
    rng = np.random.default_rng(7)
    proved = 0
    for _ in range(2000):
        n = int(rng.integers(1, 4))
        ends = rng.standard_normal((2, n, n))
        ends *= rng.uniform(0.3, 0.98) / np.max(np.abs(np.linalg.eigvals(ends)), axis=1)[:, None, None]
        share = np.linspace(0, 1, int(rng.integers(1, 12)))[:, None, None]
        sequence = (1 - share) * ends[0] + share * ends[1]
        found = slow_variation(sequence)
        if found.verdict == Verdict.PROVED:
            proved += 1
            grown = [np.linalg.norm(chain(sequence, range(k)), 2) for k in range(len(sequence) + 1)]
            assert np.all(grown <= found.bound)
    assert 200 <= proved < 1900


# ---- filters


def test_a_swept_filter_is_proved_by_a_common_norm():
    filt = StateVariable("lowpass", sample_rate=48000)
    frozen = frozen_settings(filt, {"cutoff_hz": [100.0, 1000.0, 10000.0], "q": [0.5, 5.0]})
    assert len(frozen) == 6
    expected = filt.linearize(controls={"cutoff_hz": 1000.0, "q": 5.0})
    np.testing.assert_array_equal(frozen[3].A, expected.A)  # the last control varies fastest
    found = common_norm(frozen)
    assert found.verdict == Verdict.PROVED
    assert found.gamma >= max(f.spectral_radius() for f in frozen)
    # modulated at audio rate among those settings, with no input
    rng = np.random.default_rng(0)
    start = filt.rest_state().unravel(np.array([1.0, -0.5]))
    controls = {"cutoff_hz": rng.choice([100.0, 1000.0, 10000.0], 400), "q": rng.choice([0.5, 5.0], 400)}
    end = filt.run(np.zeros((400, 1)), start, controls=controls)[1].ravel()
    assert np.linalg.norm(end) <= found.bound(400)[-1] * np.linalg.norm([1.0, -0.5])


def test_direct_form_sections_may_not_be_switched():
    """Two resonances, each stable, in direct form: switching between them grows; a witness shows it."""
    low, high = ([1, 0, 0, 1, -2 * 0.999 * np.cos(w), 0.999**2] for w in (0.05, 2.5))
    filters = [SOS([sos]) for sos in (low, high)]
    assert max(f.spectral_radius() for f in filters) < 1
    found = joint_spectral_radius(filters)
    assert found.verdict == Verdict.REFUTED
    word = [filters[k].linearize().A for k in found.word]
    assert radius(chain(word, range(len(word)))) > 1


def test_delay_lines_are_expanded():
    loop = DelayStateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]], [3])
    other = DelayStateSpace([[-0.7]], [[1.0]], [[1.0]], [[0.0]], [3])
    found = joint_spectral_radius([loop, other])
    # three steps of any order multiply each sample by 0.5 or 0.7 once
    assert found.lower == pytest.approx(0.7 ** (1 / 3)) and found.verdict == Verdict.PROVED


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: common_norm([]), "empty"),
        (lambda: common_norm(3), "list"),
        (lambda: common_norm(gain(1.0)), "frozen_settings"),
        (lambda: common_norm([np.eye(2), np.eye(3)]), "shape"),
        (lambda: common_norm([np.ones((2, 3))]), "square"),
        (lambda: common_norm(np.eye(3)), "square"),
        (lambda: common_norm([[[np.nan]]]), "NaN"),
        (lambda: common_norm([[[1e200]]]), "1e"),
        (lambda: common_norm([[[1j]]]), "complex"),
        (lambda: common_norm([["a"]]), "neither"),
        (lambda: common_norm([LSTM(1, 2)]), "linearize"),
        (lambda: common_norm([gain(1.0)]), "square|state"),
        (lambda: common_norm([DelayStateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]], [5000])]), "400"),
        (lambda: common_norm(GOLDEN, target=np.nan), "target"),
        (lambda: window_products(GOLDEN, 0), "window"),
        (lambda: window_products(GOLDEN, 3), "longer"),
        (lambda: window_products(GOLDEN, 30, any_order=True), "words"),
        (lambda: joint_spectral_radius(GOLDEN, depth=0), "depth"),
        (lambda: joint_spectral_radius(GOLDEN, tolerance=0), "tolerance"),
        (lambda: frozen_settings(LSTM(1, 2), {}), "linear"),
        (lambda: frozen_settings(StateVariable(sample_rate=48000), {"drive": [1.0]}), "drive"),
        (lambda: frozen_settings(StateVariable(sample_rate=48000), {"q": [1e9]}), "q"),
        (lambda: frozen_settings(StateVariable(sample_rate=48000), {"q": np.ones(20000)}), "combinations"),
        (lambda: frozen_settings(StateVariable(sample_rate=48000), {"q": "loud"}), "q"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ParameterError, match=said):
        call()


def test_extremes_are_answered():
    """Nothing at all, tiny, huge and defective matrices: a verdict without an error."""
    for family, verdict in (
        (np.zeros((2, 3, 3)), Verdict.PROVED),
        (np.full((1, 2, 2), 1e-300), Verdict.PROVED),
        (np.full((2, 2, 2), 1e90), Verdict.REFUTED),
        (np.array([[[0.0, 1e30], [0.0, 0.0]]]), None),
        (np.array([[[1e-30, 1e30], [0.0, 1e-30]], [[1e-30, -1e30], [0.0, 0.0]]]), None),
        (StateSpace([[0.5]], [[1.0]], [[1.0]], [[0.0]]).A[None], Verdict.PROVED),
    ):
        for found in (common_norm(family), joint_spectral_radius(family), window_products(family, 2, any_order=True)):
            assert verdict is None or found.verdict == verdict
        slow_variation(family)
