"""Linear state space, with delays of one sample or of many: what every filter linearises to, and its algebra."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import _conversions
from rnndsp._checks import real_array, reals, whole_number
from rnndsp._conversions import ACCURACY, ZPK
from rnndsp._jit import inline, kernel
from rnndsp._mixing import CHAINS, add_product, affine
from rnndsp._vectors import aligned, flushed, lanes, load, store
from rnndsp.activations import TINY
from rnndsp.errors import ParameterError
from rnndsp.filter import MAX_STATES, Filter
from rnndsp.state import Field, State

__all__ = [
    "DelayStateSpace",
    "StateSpace",
    "block_diagonal",
    "delay",
    "feedback",
    "gain",
    "initial_lines",
    "lft",
    "padded",
    "parallel",
    "series",
    "stack",
    "wrapped",
]

# The largest expanded state for which a dense matrix is formed.
DENSE_LIMIT = 4000

# At most so many sums share the loading of an entry: more gain little, and every number of them is compiled anew.
GROUP = 3

# Relative to input 1, signals inside a filter may be so faint before what is flushed comes near to the subnormals.
FAINTEST = 1e-250

ONE = (None,)

# The tape of a run that records nothing.
UNTAPED = np.empty((0, 0, 0))


@kernel
def _forward(
    u: Any, y: Any, lines: Any, index: Any, delays: Any, weights: Any, tiny: Any, work: Any, tape: Any, shape: Any
) -> None:
    """``[v, y] = [[B, A], [D, C]] [u, d]``, lanes being rows of the matrix, or as many frames at a time.

    ``shape`` are tuples of None: all lanes, how wide a weight is and an entry, the sums of a block. Sums below ``tiny``
    become zero. ``work`` holds two rows, used in turn, then where each line is read and where it ends. In a row stand
    zeros that fill up the chains, u, d and the outputs: what comes of one row goes to the other, v to where d will be
    read.
    """
    lanes, weight, entry, group = shape
    n, n_frames, n_inputs, wide = delays.size, u.shape[1], u.shape[2], len(entry)
    terms = padded(n_inputs + n, len(CHAINS))
    inside = padded((terms - n) * wide, len(lanes))
    outside = inside + n * wide
    width = work.size // 2 - n
    place, stop = work[2 * width : 2 * width + n].view(np.int64), work[2 * width + n :].view(np.int64)
    # lines of one sample need no ring where they come last, as in all of StateSpace: v is the next d as it stands
    rings = n
    while rings > 0 and delays[rings - 1] == 1:
        rings -= 1
    for voice in range(u.shape[0]):
        first = voice * lines.shape[1]
        for i in range(n):
            place[i] = first + index % delays[i]
            first += delays[i]
            stop[i] = first
        row = 0
        for i in range(rings, n):
            store(work, inside + i, load(lines, place[i], ONE, ONE), ONE)
        for t in range(0, n_frames, wide):
            n_new = min(wide, n_frames - t)
            for i in range(n_inputs):
                for k in range(wide):  # past the end the last frame again, as a loop of known length is none at all
                    goal = row + inside + (i - n_inputs) * wide + k
                    store(work, goal, u[voice, min(t + k, n_frames - 1), i], ONE)
            for i in range(rings):
                goal = row + inside + i * wide
                if place[i] + wide <= stop[i]:
                    store(work, goal, load(lines, place[i], entry, entry), entry)
                else:
                    for k in range(wide):
                        source = wrapped(place[i] + k, stop[i], delays[i])
                        store(work, goal + k, load(lines, source, ONE, ONE), ONE)
            for i in range(tape.shape[2]):
                for k in range(n_new):
                    tape[voice, t + k, i] = load(work, row + inside + i * wide + k, ONE, ONE)
            at, begin = 0, row + outside - terms * wide
            row = width - row
            goal = row + inside
            while at < weights.size:
                sums = affine(weights, at, weight, work, begin, terms, entry, lanes, group)
                at += len(group) * len(weight) * (1 + terms)
                for total in sums:
                    store(work, goal, flushed(total, tiny), lanes)
                    goal += len(lanes)
            for i in range(rings):
                source = row + inside + i * wide
                if n_new == wide and place[i] + wide <= stop[i]:
                    store(lines, place[i], load(work, source, entry, entry), entry)
                else:
                    for k in range(n_new):
                        goal = wrapped(place[i] + k, stop[i], delays[i])
                        store(lines, goal, load(work, source + k, ONE, ONE), ONE)
                place[i] = wrapped(place[i] + n_new, stop[i], delays[i])
            for i in range(y.shape[2]):
                for k in range(wide):
                    if t + k < n_frames:
                        y[voice, t + k, i] = load(work, row + outside + i * wide + k, ONE, ONE)
        for i in range(rings, n):
            store(lines, place[i], load(work, row + inside + i, ONE, ONE), ONE)


@inline
def wrapped(place: Any, stop: Any, delay: Any) -> Any:
    return place if place < stop else place - delay


@inline
def padded(n: Any, step: Any) -> Any:
    """The first multiple of ``step`` from n on."""
    return -(-n // step) * step


@kernel
def _backward(dy: Any, du: Any, dd: Any, dv: Any, final: Any, delays: Any, matrices: Any) -> None:
    """``dd[t]`` is the derivative by what the lines gave, ``dv[t]`` by what they got: a delay's adjoint advances."""
    a, b, c, d = matrices
    n, n_frames = delays.size, dy.shape[1]
    for voice in range(dy.shape[0]):
        for t in range(n_frames - 1, -1, -1):
            first = 0
            for i in range(n):
                ahead = t + delays[i]
                # what is still inside a line at the end is the final state's business
                dv[voice, t, i] = dd[voice, ahead, i] if ahead < n_frames else final[voice, first + ahead - n_frames]
                first += delays[i]
            for i in range(n):
                dd[voice, t, i] = 0
            for i in range(du.shape[2]):
                du[voice, t, i] = 0
            add_product(dd[voice, t], a, dv[voice, t])
            add_product(dd[voice, t], c, dy[voice, t])
            add_product(du[voice, t], b, dv[voice, t])
            add_product(du[voice, t], d, dy[voice, t])


def initial_lines(dd: NDArray[Any], final: NDArray[Any], delays: NDArray[np.int64]) -> NDArray[Any]:
    """The derivative by the lines at the start, from those by what they gave and by what they hold at the end."""
    initial, n_frames = np.zeros_like(final), dd.shape[1]
    first = 0
    for i, m in enumerate(delays):
        held = min(int(m), n_frames)
        initial[:, first : first + held] = dd[:, :held, i]
        # what has not come out by the end is still there, nearer to the exit
        initial[:, first + held : first + m] = final[:, first : first + m - held]
        first += m
    return initial


class DelayStateSpace(Filter):
    r"""Linear network of delay lines.

    .. math:: d_i[t] = v_i[t - m_i], \qquad v[t] = A\,d[t] + B\,u[t], \qquad y[t] = C\,d[t] + D\,u[t]

    With every :math:`m_i = 1` this is ordinary state space, scipy's: ``x[t+1] = A x[t] + B u[t]``, ``y[t] = C x[t] + D
    u[t]``. A feedback delay network has long lines; no matrix of their total length is formed.

    Parameters
    ----------
    A, B, C, D : array, shapes (n, n), (n, n_inputs), (n_outputs, n), (n_outputs, n_inputs)
    delays : sequence of n ints
        Lengths m_i of the lines in samples, at least 1.
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: field ``lines``, the n delay lines one after the other, ``sum(delays)`` numbers; zero at rest. Computed in
    float64 whatever the signal's dtype, as float32 coefficients move poles near z = 1.

    *Stability*: bounded-input bounded-output if all roots of det(diag(z^m_i) - A) lie within the unit circle, and only
    then if no mode is hidden from input or output.

    Raises
    ------
    ParameterError
        Shapes that do not fit, delays that are not whole numbers of at least 1.

    References
    ----------
    D. Rocchesso, J. O. Smith (1997), "Circulant and elliptic feedback delay networks for artificial reverberation".
    """

    is_linear = True

    def __init__(
        self,
        A: ArrayLike,
        B: ArrayLike,
        C: ArrayLike,
        D: ArrayLike,
        delays: Sequence[int] | NDArray[np.integer[Any]],
        *,
        sample_rate: float | None = None,
    ) -> None:
        matrices = {name: real_array(name, value) for name, value in zip("ABCD", (A, B, C, D), strict=True)}
        super().__init__(_space_config(matrices, delays), matrices, sample_rate=sample_rate)

    def _setup(self) -> None:
        delays = self.config["delays"]
        if not (isinstance(delays, tuple) and all(type(m) is int and 1 <= m <= MAX_STATES for m in delays)):
            raise ParameterError(
                f"{delays=}: every delay must be a whole number of samples, at least 1 and at most {MAX_STATES}"
            )
        self._no_children()
        self.n_inputs = whole_number("n_inputs", self.config["n_inputs"])
        self.n_outputs = whole_number("n_outputs", self.config["n_outputs"])
        lengths = np.array(delays, np.int64)
        lengths.flags.writeable = False
        self.delays = lengths.view()
        self.fields = (Field("lines", (sum(delays),), tuple(delays)),)

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        n, k, p = self.delays.size, self.n_inputs, self.n_outputs
        return {"A": (n, n), "B": (n, k), "C": (p, n), "D": (p, k)}

    @property
    def A(self) -> NDArray[Any]:
        return self.params["A"]

    @property
    def B(self) -> NDArray[Any]:
        return self.params["B"]

    @property
    def C(self) -> NDArray[Any]:
        return self.params["C"]

    @property
    def D(self) -> NDArray[Any]:
        return self.params["D"]

    def _state_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        return np.dtype(np.float64)

    def _packed(self) -> tuple[Any, ...]:
        """What :func:`_forward` gets beside signals, state and delays: weights, tiny, shape, and how to make work."""
        n, rows = self.delays.size, self.delays.size + self.n_outputs
        wide = (None,) * lanes(np.dtype(np.float64))
        # lanes are frames where no line gives back within them what it got, else rows of the matrix
        weight, entry = (ONE, wide) if np.all(self.delays >= len(wide)) else (wide, ONE)
        group = min(-(-rows // len(weight)), GROUP)
        width = padded(rows, group * len(weight))
        # in the order in which they are read: of a block of rows zeros to start from, then the columns
        terms = padded(self.n_inputs + n, len(CHAINS))
        columns = np.zeros((1 + terms, width))
        A, B, C, D = self._matrices
        columns[1 + terms - n - self.n_inputs :, :rows] = np.block([[B, A], [D, C]]).T
        weights = aligned((columns.size,), np.float64)
        weights[...] = columns.reshape(1 + terms, -1, group * len(weight)).transpose(1, 0, 2).ravel()
        row = padded((terms - n) * len(entry), len(wide)) + width * len(entry)
        shape = wide, weight, entry, (None,) * group
        # a cascade whose first gains are 1e-60 in all works at that level
        level = np.max(np.abs(np.vstack([B, D])), initial=0)
        tiny = TINY["float64"] * float(np.clip(level, FAINTEST, 1))
        return weights, tiny, shape, partial(aligned, (2 * (row + n),), np.float64)

    @property
    def _matrices(self) -> tuple[NDArray[Any], ...]:
        return tuple(self._own[name].astype(np.float64, order="C") for name in "ABCD")

    def _run(self, u: NDArray[Any], state: State, y: NDArray[Any], tape: NDArray[np.float64]) -> None:
        weights, tiny, shape, make = self._derived("packed", self._packed)
        work = state.workspace("work", make)
        _forward(u, y, state.rows, state.index, self.delays, weights, tiny, work, tape, shape)

    def _advance(self, u: NDArray[Any], state: State, y: NDArray[Any]) -> None:
        self._run(u, state, y, UNTAPED)

    def _record(self, u: NDArray[Any], state: State) -> tuple[NDArray[Any], Any]:
        y = np.empty((*u.shape[:2], self.n_outputs), u.dtype)
        d = np.empty((*u.shape[:2], self.delays.size))
        self._run(u, state, y, d)
        return y, (u, d)

    def _adjoint(
        self, memory: Any, dy: NDArray[Any], dx: NDArray[Any]
    ) -> tuple[NDArray[Any], NDArray[Any], dict[str, NDArray[Any]]]:
        u, d = memory
        dy64, final = dy.astype(np.float64), dx.astype(np.float64)
        du, dd, dv = np.empty(u.shape), np.empty(d.shape), np.empty(d.shape)
        _backward(dy64, du, dd, dv, final, self.delays, self._matrices)
        initial = initial_lines(dd, final, self.delays)
        outer = "vti,vtj->ij"
        params = {
            "A": np.einsum(outer, dv, d),
            "B": np.einsum(outer, dv, u),
            "C": np.einsum(outer, dy64, d),
            "D": np.einsum(outer, dy64, u),
        }
        return du.astype(u.dtype), initial.astype(dx.dtype), params

    def _linearize(self, state: State, u: NDArray[Any]) -> DelayStateSpace:
        A, B, C, D = self._matrices
        return space(A, B, C, D, self.delays, sample_rate=self.sample_rate)

    def expand(self) -> StateSpace:
        """The same filter as dense state space, one state a delayed sample, in the order of ``state.ravel()``.

        Raises
        ------
        ParameterError
            More than 4000 states: ask ``poles``, ``frequency_response`` instead, which never form that matrix.
        """
        total = int(self.delays.sum())
        if total > DENSE_LIMIT:
            raise ParameterError(f"expanding {total} states would take a matrix of {8 * total**2 / 1e6:.0f} MB")
        stop = np.cumsum(self.delays)
        first, last = stop - self.delays, stop - 1
        A = np.zeros((total, total))
        A[np.arange(total - 1), np.arange(1, total)] = 1
        A[last, :] = 0
        A[np.ix_(last, first)] = self.A
        B, C = np.zeros((total, self.n_inputs)), np.zeros((self.n_outputs, total))
        B[last], C[:, first] = self.B, self.C
        return StateSpace(A, B, C, self.D, sample_rate=self.sample_rate)

    def to_scipy(self) -> Any:
        """The same filter as a ``scipy.signal.StateSpace`` in discrete time, with dt = 1 / sample_rate, or True.

        Raises
        ------
        ParameterError
            More than 4000 states: its matrix is dense.
        """
        return _conversions.to_scipy(self.expand()._matrices, self.sample_rate)

    def to_control(self) -> Any:
        """The same filter as a ``control.StateSpace`` in discrete time, with dt = 1 / sample_rate, or True.

        Raises
        ------
        ParameterError
            More than 4000 states, as its matrix is dense; or the package ``control`` is not installed.
        """
        return _conversions.to_control(self.expand()._matrices, self.sample_rate)

    def to_zpk(self, *, entry: tuple[int, int] | None = None) -> ZPK:
        """Zeros, poles and gain, scipy's ``(z, p, k)``: see :func:`rnndsp.realization.zpk`.

        Parameters
        ----------
        entry : (int, int), optional
            Output and input, counted from 0, of a filter that has several.
        """
        from rnndsp import realization

        return realization.zpk(self, entry=entry)

    def to_sos(self, *, entry: tuple[int, int] | None = None) -> NDArray[np.float64]:
        """Second-order sections, scipy's table for ``sosfilt`` and :class:`rnndsp.filters.SOS`, by :meth:`to_zpk`.

        Parameters
        ----------
        entry : (int, int), optional
            Output and input, counted from 0, of a filter that has several.
        """
        return _conversions.zpk_to_sos(*self.to_zpk(entry=entry))

    def to_ba(
        self, *, entry: tuple[int, int] | None = None, tolerance: float = ACCURACY
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Numerator and denominator in rising powers of 1/z, scipy's ``(b, a)``, by :meth:`to_zpk`.

        Parameters
        ----------
        entry : (int, int), optional
            Output and input, counted from 0, of a filter that has several.
        tolerance : float
            By how much of itself rounding the coefficients may change the frequency response.

        Raises
        ------
        ParameterError
            It would change by more, as it does for sharp filters of high order; the message says by how much.
        """
        return _conversions.sos_to_ba(self.to_sos(entry=entry), tolerance)

    def frequency_response(self, w: ArrayLike) -> NDArray[np.complex128]:
        """H(e^{jw}) = D + C (diag(z^m) - A)^-1 B at angles ``w`` (radians a sample), shape (n, n_outputs, n_inputs)."""
        w = np.atleast_1d(np.asarray(w, np.float64))
        loop = np.zeros((w.size, self.delays.size, self.delays.size), np.complex128)
        np.einsum("wii->wi", loop)[...] = np.exp(1j * w[:, None] * self.delays)
        loop -= self.A
        inside = np.empty((w.size, *self.B.shape), np.complex128)
        # part after part of a chain: pivots across them would cost a steep cascade all of its digits
        n = self.delays.size
        cuts = [0, *(i for i in range(1, n) if not self.A[:i, i:].any()), n]
        for first, stop in pairwise(cuts):
            part = slice(first, stop)
            entering = self.B[part] + self.A[part, :first] @ inside[:, :first]
            inside[:, part] = np.linalg.solve(loop[:, part, part], entering)
        response: NDArray[np.complex128] = self.D + self.C @ inside
        return response


class StateSpace(DelayStateSpace):
    r"""Linear state space, as scipy writes it: the output reads the state *before* the update.

    .. math:: x[t+1] = A\,x[t] + B\,u[t], \qquad y[t] = C\,x[t] + D\,u[t]

    Parameters
    ----------
    A, B, C, D : array, shapes (n, n), (n, n_inputs), (n_outputs, n), (n_outputs, n_inputs)
    sample_rate : float, optional
        Hz.

    Notes
    -----
    *State*: field ``lines``, the n numbers x; zero at rest. It is a :class:`DelayStateSpace` with delays of one sample.

    *Stability*: x decays for zero input if and only if the spectral radius of A is below one.

    References
    ----------
    R. E. Kalman (1960), "A new approach to linear filtering and prediction problems".

    Examples
    --------
    >>> import scipy.signal
    >>> lowpass = StateSpace(*scipy.signal.tf2ss([0.1], [1, -0.9]))
    >>> lowpass([1.0, 0.0, 0.0])
    array([0.  , 0.1 , 0.09])
    """

    def __init__(
        self, A: ArrayLike, B: ArrayLike, C: ArrayLike, D: ArrayLike, *, sample_rate: float | None = None
    ) -> None:
        super().__init__(A, B, C, D, np.ones(len(np.atleast_2d(real_array("A", A))), np.int64), sample_rate=sample_rate)

    def _setup(self) -> None:
        if set(self.config["delays"]) - {1}:
            raise ParameterError(
                f"StateSpace has delays of one sample, not {self.config['delays']}: use DelayStateSpace"
            )
        super()._setup()

    @classmethod
    def from_sos(cls, sos: ArrayLike, *, sample_rate: float | None = None) -> StateSpace:
        """From second-order sections: a chain, in which each keeps its two poles to the last digits.

        Parameters
        ----------
        sos : array, shape (n_sections, 6)
            Rows b0, b1, b2, a0, a1, a2. The gain is spread over them by powers of two.
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            Another shape, a0 = 0, NaN, or more than 2000 sections.
        """
        return cls(*_conversions.sos_to_ss(_conversions.sections(sos)), sample_rate=sample_rate)

    @classmethod
    def from_zpk(cls, z: ArrayLike, p: ArrayLike, k: float, *, sample_rate: float | None = None) -> StateSpace:
        """From zeros, poles and gain: a chain of second-order sections, never polynomials of a higher order.

        Parameters
        ----------
        z, p : array of complex numbers
            At most as many zeros as poles; what they are fewer is latency.
        k : float
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            More zeros than poles, complex ones without their conjugates, or more than 4000 poles.
        """
        return cls(*_conversions.sos_to_ss(_conversions.zpk_to_sos(z, p, k)), sample_rate=sample_rate)

    @classmethod
    def from_ba(cls, b: ArrayLike, a: ArrayLike, *, sample_rate: float | None = None) -> StateSpace:
        """From numerator and denominator in rising powers of 1/z: direct form II transposed, scipy's ``zi`` the state.

        The filter is that of the coefficients as they stand; what they have lost before is lost.

        Parameters
        ----------
        b, a : array, one-dimensional
        sample_rate : float, optional
            Hz.

        Raises
        ------
        ParameterError
            Coefficients that are not one-dimensional or missing, or a[0] = 0.
        """
        numerator, denominator = _conversions.polynomials(b, a)
        return cls(*_conversions.section(numerator, denominator[1:]), sample_rate=sample_rate)

    @classmethod
    def from_scipy(cls, system: Any) -> StateSpace:
        """From a discrete-time system of scipy: coefficients, zeros and poles, or matrices.

        Parameters
        ----------
        system : scipy.signal.dlti
            Its ``dt``, where it is a number, becomes the sample rate 1 / dt. Coefficients of a high order have lost
            digits before they come here; zeros and poles have not, and become a chain of sections.

        Raises
        ------
        ParameterError
            A continuous system, one that is not causal, or no system of scipy.
        """
        matrices, rate = _conversions.from_scipy(system)
        return cls(*matrices, sample_rate=rate)

    @classmethod
    def from_control(cls, system: Any) -> StateSpace:
        """From a discrete-time linear system of python-control.

        Parameters
        ----------
        system : control.StateSpace or control.TransferFunction
            Its ``dt``, where it is a number, becomes the sample rate 1 / dt.

        Raises
        ------
        ParameterError
            A continuous system, one without ``dt``, another kind; or the package ``control`` is not installed.
        """
        matrices, rate = _conversions.from_control(system)
        return cls(*matrices, sample_rate=rate)


def _space_config(matrices: dict[str, NDArray[Any]], delays: Any) -> dict[str, Any]:
    for name, value in matrices.items():
        if value.ndim != 2:
            raise ParameterError(f"{name} has shape {value.shape}: the matrices A, B, C, D are two-dimensional")
    whole = real_array("delays", delays)
    if whole.ndim != 1 or not (np.issubdtype(whole.dtype, np.integer) or whole.size == 0):
        raise ParameterError(f"{delays=}: give one whole number of samples a line")
    n_outputs, n_inputs = matrices["D"].shape
    return {"delays": tuple(int(m) for m in whole), "n_inputs": n_inputs, "n_outputs": n_outputs}


# ---- algebra: each result's states are the operands' states in order, a loop's line first


def space(
    A: NDArray[Any],
    B: NDArray[Any],
    C: NDArray[Any],
    D: NDArray[Any],
    delays: NDArray[np.int64],
    *,
    sample_rate: float | None = None,
) -> DelayStateSpace:
    """A :class:`StateSpace` where all delays are one sample, else a :class:`DelayStateSpace`."""
    if np.all(delays == 1):
        return StateSpace(A, B, C, D, sample_rate=sample_rate)
    return DelayStateSpace(A, B, C, D, delays, sample_rate=sample_rate)


def gain(matrix: ArrayLike, *, sample_rate: float | None = None) -> StateSpace:
    """A filter without memory, ``y = D u``.

    Parameters
    ----------
    matrix : array, shape (n_outputs, n_inputs), or float
        D; a number is a gain of one channel.
    sample_rate : float, optional
        Hz.
    """
    D = np.atleast_2d(reals("matrix", matrix))
    return StateSpace(
        np.zeros((0, 0)), np.zeros((0, D.shape[1])), np.zeros((D.shape[0], 0)), D, sample_rate=sample_rate
    )


def delay(n_samples: int, n_channels: int = 1, *, sample_rate: float | None = None) -> DelayStateSpace:
    """``y[t] = u[t - n_samples]`` on each channel.

    Parameters
    ----------
    n_samples : int
        At least 0.
    n_channels : int
    sample_rate : float, optional
        Hz.
    """
    one = np.eye(whole_number("n_channels", n_channels))
    if n_samples == 0:
        return gain(one, sample_rate=sample_rate)
    return DelayStateSpace(0 * one, one, one, 0 * one, [n_samples] * n_channels, sample_rate=sample_rate)


def _common_rate(first: DelayStateSpace, second: DelayStateSpace) -> float | None:
    """That of either, which have to agree where both have one."""
    rates = {rate for rate in (first.sample_rate, second.sample_rate) if rate is not None}
    if len(rates) > 1:
        raise ParameterError(f"sample rates differ: {' and '.join(f'{rate:g}' for rate in sorted(rates))} Hz")
    return rates.pop() if rates else None


def series(first: DelayStateSpace, second: DelayStateSpace) -> DelayStateSpace:
    """``first``, then ``second``, as one linear filter."""
    if first.n_outputs != second.n_inputs:
        raise ParameterError(f"the first has {first.n_outputs} outputs, the second {second.n_inputs} inputs")
    A1, B1, C1, D1 = first.A, first.B, first.C, first.D
    A2, B2, C2, D2 = second.A, second.B, second.C, second.D
    A = np.block([[A1, np.zeros((len(A1), len(A2)))], [B2 @ C1, A2]])
    return space(
        A,
        np.vstack([B1, B2 @ D1]),
        np.hstack([D2 @ C1, C2]),
        D2 @ D1,
        np.concatenate([first.delays, second.delays]),
        sample_rate=_common_rate(first, second),
    )


def parallel(first: DelayStateSpace, second: DelayStateSpace) -> DelayStateSpace:
    """The sum of both outputs on the same input, as one linear filter."""
    if first.D.shape != second.D.shape:
        raise ParameterError(f"outputs and inputs, {first.D.shape} and {second.D.shape}, must be the same for a sum")
    return space(
        block_diagonal(first.A, second.A),
        np.vstack([first.B, second.B]),
        np.hstack([first.C, second.C]),
        first.D + second.D,
        np.concatenate([first.delays, second.delays]),
        sample_rate=_common_rate(first, second),
    )


def stack(first: DelayStateSpace, second: DelayStateSpace) -> DelayStateSpace:
    """Both side by side, each with inputs and outputs of its own, as one linear filter."""
    A, B, C, D = (block_diagonal(first.params[name], second.params[name]) for name in "ABCD")
    delays = np.concatenate([first.delays, second.delays])
    return space(A, B, C, D, delays, sample_rate=_common_rate(first, second))


def block_diagonal(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """``[[first, 0], [0, second]]``."""
    (n, m), (p, q) = first.shape, second.shape
    return np.block([[first, np.zeros((n, q))], [np.zeros((p, m)), second]])


def feedback(forward: DelayStateSpace, backward: DelayStateSpace, n_samples: int) -> DelayStateSpace:
    """``y = forward(u + backward(y delayed by n_samples))`` as one linear filter, the loop's delay lines first."""
    if backward.D.shape != forward.D.shape[::-1]:
        raise ParameterError(f"backward has outputs and inputs {backward.D.shape}, must have {forward.D.shape[::-1]}")
    p = forward.n_outputs
    # open the loop at the line: (u, z) -> y with z = y[t - n]; backward reads z, forward reads u + backward(z)
    k = forward.n_inputs
    A1, B1, C1, D1 = forward.A, forward.B, forward.C, forward.D
    A2, B2, C2, D2 = backward.A, backward.B, backward.C, backward.D
    n1, n2 = len(A1), len(A2)
    A = np.block(
        [
            [D1 @ D2, C1, D1 @ C2],
            [B1 @ D2, A1, B1 @ C2],
            [B2, np.zeros((n2, n1)), A2],
        ]
    )
    B = np.vstack([D1, B1, np.zeros((n2, k))])
    C = np.hstack([D1 @ D2, C1, D1 @ C2])
    delays = np.concatenate([np.full(p, n_samples, np.int64), forward.delays, backward.delays])
    return space(A, B, C, D1, delays, sample_rate=_common_rate(forward, backward))


def lft(plant: DelayStateSpace, around: DelayStateSpace) -> DelayStateSpace:
    r"""Linear fractional transformation: the last outputs of one filter go through another back into its last inputs.

    .. math:: \begin{bmatrix} y \\ v \end{bmatrix} = P \begin{bmatrix} u \\ w \end{bmatrix}, \quad w = K v
              \qquad \Rightarrow \qquad y = \left( P_{11} + P_{12} K (1 - P_{22} K)^{-1} P_{21} \right) u

    Any wiring of linear filters is one: stack them, and let a matrix P be what joins them. Unlike
    :class:`rnndsp.Feedback` a loop here needs no delay.

    Parameters
    ----------
    plant : StateSpace or DelayStateSpace
        P.
    around : StateSpace or DelayStateSpace
        K, with at most as many inputs as P has outputs, and at most as many outputs as P has inputs.

    Returns
    -------
    StateSpace or DelayStateSpace
        States of P, then those of K.

    Raises
    ------
    ParameterError
        Numbers of channels that do not fit, sample rates that differ, or a loop without delay that has no solution.
    """
    k, p = plant.n_inputs - around.n_outputs, plant.n_outputs - around.n_inputs
    if k < 0 or p < 0:
        raise ParameterError(
            f"a filter with {around.n_inputs} inputs and {around.n_outputs} outputs does not fit around one with "
            f"{plant.n_outputs} outputs and {plant.n_inputs} inputs"
        )
    rate = _common_rate(plant, around)
    A, B, C, D = plant._matrices
    Ak, Bk, Ck, Dk = around._matrices
    loop = np.eye(len(Dk)) - Dk @ D[p:, k:]
    if not np.linalg.cond(loop) < 1 / np.finfo(np.float64).eps if loop.size else False:
        raise ParameterError("the loop has no delay and a gain of 1, so no solution: put a delay into it")
    # w and v by the states of both and u
    w = np.linalg.solve(loop, np.hstack([Dk @ C[p:], Ck, Dk @ D[p:, :k]]))
    v = np.hstack([C[p:], np.zeros((len(C) - p, len(Ak))), D[p:, :k]]) + D[p:, k:] @ w
    states = np.hstack([block_diagonal(A, Ak), np.vstack([B[:, :k], np.zeros((len(Ak), k))])])
    states += np.vstack([B[:, k:] @ w, Bk @ v])
    outputs = np.hstack([C[:p], np.zeros((p, len(Ak))), D[:p, :k]]) + D[:p, k:] @ w
    n = len(A) + len(Ak)
    return space(
        states[:, :n],
        states[:, n:],
        outputs[:, :n],
        outputs[:, n:],
        np.concatenate([plant.delays, around.delays]),
        sample_rate=rate,
    )
