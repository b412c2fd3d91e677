"""Feedback delay networks: reverberation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import choice, generator, number, reals, whole_number, whole_numbers
from rnndsp.errors import ParameterError
from rnndsp.statespace import DelayStateSpace

__all__ = ["FeedbackDelayNetwork", "orthogonal_matrix"]

Real = NDArray[np.float64]

# How far the columns of a matrix may be from orthonormal.
ORTHOGONAL = 1e-9


def orthogonal_matrix(n: int, kind: str = "householder", *, seed: int | np.random.Generator = 0) -> NDArray[np.float64]:
    r"""An orthogonal matrix to close a loop with.

    Parameters
    ----------
    n : int
    kind : str
        ===================  =========================================================================================
        ``householder``      I - (2/n) 1 1^T: every line into every other, most of it back into itself if n is large
        ``hadamard``         +-1/sqrt(n), n a power of two: every line into every other alike, the densest echoes
        ``random``           drawn uniformly (Haar)
        ``circulant``        every row the one above moved on by one, the eigenvalues having random phases
        ``anderson``         blocks of four lines, mixed by Hadamard's matrix, feed each other in a ring; n a multiple
                             of four. A quarter of the lines is mixed at a time, and the response is flatter.
        ``tiny_rotation``    near to the identity: all eigenvalues are exp(+-2 pi i 0.01), a tenth more or less
        ``nested_allpass``   [[A, B], [C, D]] of n - 1 Schroeder allpasses nested in each other, gains about 0.7; each
                             line into itself and all before it, and the next
        ===================  =========================================================================================
    seed : int or Generator
        For the random ones: ``random``, ``circulant``, ``tiny_rotation`` and ``nested_allpass``.

    Raises
    ------
    ParameterError
        An unknown kind, or a Hadamard or Anderson matrix of a size for which there is none.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators" (Householder's). D.
    Rocchesso, J. O. Smith (1997), "Circulant and elliptic feedback delay networks for artificial reverberation". H.
    Anderson, K. W. E. Lin, C. So, S. Lui (2015), "Flatter frequency response from feedback delay network reverbs". S.
    J. Schlecht, E. A. P. Habets (2015), "Time-varying feedback matrices in feedback delay networks and their
    application in artificial reverberation" (tiny rotations). W. G. Gardner (1992), "A real-time multichannel room
    simulator" (nested allpasses). S. J. Schlecht (2020), "FDNTB: the feedback delay network toolbox".
    """
    n = whole_number("n", n)
    return np.asarray(_GALLERY[choice("kind", kind, _GALLERY)](n, generator(seed)))


def _householder(n: int, rng: np.random.Generator) -> Real:
    return np.eye(n) - 2 / n * np.ones((n, n)) if n > 1 else np.eye(1)


def _hadamard(n: int, rng: np.random.Generator) -> Real:
    if n & (n - 1):
        raise ParameterError(f"a Hadamard matrix needs a power of two, not {n}; take 'householder' or 'random'")
    H = np.ones((1, 1))
    while len(H) < n:
        H = np.block([[H, H], [H, -H]])
    return np.asarray(H / np.sqrt(n))


def _random(n: int, rng: np.random.Generator) -> Real:
    Q, R = np.linalg.qr(rng.standard_normal((n, n)))
    return np.asarray(Q * np.sign(np.diag(R)))


def _circulant(n: int, rng: np.random.Generator) -> Real:
    # unit eigenvalues, those of a real row: its Fourier transform
    values = np.fft.rfft(rng.standard_normal(n))
    row = np.fft.irfft(values / np.abs(values), n)
    return np.asarray(row[(np.arange(n) - np.arange(n)[:, None]) % n])


def _anderson(n: int, rng: np.random.Generator) -> Real:
    if n % 4:
        raise ParameterError(f"an Anderson matrix needs a multiple of four lines, not {n}; take 'circulant'")
    return np.asarray(np.kron(np.roll(np.eye(n // 4), 1, axis=1), _hadamard(4, rng)), np.float64)


def _tiny_rotation(n: int, rng: np.random.Generator) -> Real:
    Q, whole = _random(n, rng), np.eye(n)
    angle = 2 * np.pi * 0.01 * rng.uniform(0.9, 1.1, n // 2)
    even = 2 * np.arange(n // 2)
    whole[even, even] = whole[even + 1, even + 1] = np.cos(angle)
    whole[even + 1, even], whole[even, even + 1] = np.sin(angle), -np.sin(angle)
    return np.asarray(Q @ whole @ Q.T)


def _nested_allpass(n: int, rng: np.random.Generator) -> Real:
    # wrapping an allpass in a delay and a gain of g is, with energies of one, a rotation of what comes out
    V = np.eye(1)
    for k, g in enumerate(rng.uniform(0.6, 0.8, n - 1), 1):
        through, around = np.sqrt(1 - g * g), np.eye(k + 1)
        around[k - 1 :, k - 1 :] = [[g, through], [through, -g]]
        V = around @ np.block([[V, np.zeros((k, 1))], [np.zeros((1, k)), np.eye(1)]])
    return V


_GALLERY: dict[str, Callable[[int, np.random.Generator], Real]] = {
    "anderson": _anderson,
    "circulant": _circulant,
    "hadamard": _hadamard,
    "householder": _householder,
    "nested_allpass": _nested_allpass,
    "random": _random,
    "tiny_rotation": _tiny_rotation,
}


def require_orthogonal(U: ArrayLike) -> NDArray[np.float64]:
    """The matrix, or a :class:`ParameterError` that says by how much it is not orthogonal."""
    matrix = reals("matrix", U)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ParameterError(f"an orthogonal matrix is square, not of shape {matrix.shape}")
    error = np.max(np.abs(matrix @ matrix.T - np.eye(len(matrix))), initial=0)
    if not error <= ORTHOGONAL:
        raise ParameterError(f"the matrix is not orthogonal: U U^T differs from the identity by {error:.3g}")
    return matrix


def lines_and_matrix(
    delays: Sequence[int] | NDArray[np.integer], matrix: str | ArrayLike, seed: int | np.random.Generator
) -> tuple[NDArray[np.int64], Real]:
    """Lengths of delay lines, and the orthogonal matrix that closes their loop: a kind of it, or the matrix itself."""
    m = whole_numbers("delays", delays)
    U = orthogonal_matrix(m.size, matrix, seed=seed) if isinstance(matrix, str) else require_orthogonal(matrix)
    if len(U) != m.size:
        raise ParameterError(f"{m.size} delays and a matrix of shape {U.shape} do not fit: it has a row for each line")
    return m, U


def sign_gains(n: int, n_channels: int, rng: np.random.Generator) -> tuple[Real, Real]:
    """B and C with which each channel drives and hears every line, signs telling the channels apart."""
    n_channels = whole_number("n_channels", n_channels)
    return rng.choice([-1.0, 1.0], (n, n_channels)) / np.sqrt(n), rng.choice([-1.0, 1.0], (n_channels, n))


class FeedbackDelayNetwork(DelayStateSpace):
    r"""Delay lines that feed each other through an orthogonal matrix, every echo losing level at the same rate.

    .. math:: d_i[t] = v_i[t - m_i], \quad v = U\,\Gamma d + B u, \quad y = C\,d + D\,u, \qquad
              \Gamma = \mathrm{diag}(\gamma^{m_i}), \quad \gamma = 10^{-3 / (f_s T_{60})}

    Parameters
    ----------
    delays : sequence of int
        Lengths m_i in samples; mutually prime ones give the smoothest tail.
    t60_s : float
        Time in which the tail decays by 60 dB.
    sample_rate : float
        Hz.
    n_channels : int
        Inputs and outputs.
    matrix : str or array
        U, orthogonal: a kind of :func:`orthogonal_matrix`, or the matrix itself.
    dry, wet : float
        Gains of the direct sound, and of the network, which is normalised to about unit energy of its impulse response.
    seed : int or Generator
        For the random matrix and the signs of B and C.

    Notes
    -----
    *State*: field ``lines``, see :class:`DelayStateSpace`; zero at rest.

    *Stability*: as designed, with U orthogonal, all poles lie on the circle of radius γ < 1, whatever the delays, since
    diag(z^m) - UΓ is singular only where diag((z/γ)^m) - U is. That is what makes the decay time exact. A
    copy with other matrices or another sample rate, by ``replace``, is any :class:`DelayStateSpace`: ask
    ``stability()``.

    Raises
    ------
    ParameterError
        A decay time that is not positive, a matrix that is not orthogonal, or of another size than the number of
        delays.

    References
    ----------
    J.-M. Jot, A. Chaigne (1991), "Digital delay networks for designing artificial reverberators". M. A. Gerzon (1976),
    "Unitary (energy-preserving) multichannel networks with feedback".
    """

    def __init__(
        self,
        delays: Sequence[int] | NDArray[np.integer],
        *,
        t60_s: float,
        sample_rate: float,
        n_channels: int = 1,
        matrix: str | ArrayLike = "householder",
        dry: float = 0.0,
        wet: float = 1.0,
        seed: int | np.random.Generator = 0,
    ) -> None:
        if not (number("t60_s", t60_s) > 0 and number("sample_rate", sample_rate) > 0):
            raise ParameterError(f"{t60_s=} and {sample_rate=} must be positive")
        rng = generator(seed)
        m, U = lines_and_matrix(delays, matrix, rng)
        decay = 10 ** (-3 * m / (sample_rate * t60_s))
        B, signs = sign_gains(m.size, n_channels, rng)
        # the mean energy of a response: what B sends in, over what is lost in the average line
        kept = np.mean(decay**2)
        if not 0 < kept < 1:
            raise ParameterError(f"{t60_s=} is beyond double precision for delays from {m.min()} to {m.max()} samples")
        energy = n_channels * kept / (1 - kept)
        C = number("wet", wet) * (signs * decay) / np.sqrt(energy)
        super().__init__(U * decay, B, C, number("dry", dry) * np.eye(n_channels), m, sample_rate=sample_rate)
