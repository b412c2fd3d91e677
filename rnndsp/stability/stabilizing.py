"""The filter next to one that fails a test of stability which passes it, and what that changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp.composition import Feedback
from rnndsp.engine import Cell
from rnndsp.errors import ParameterError, RnndspError
from rnndsp.filter import Filter
from rnndsp.stability._decay import decay_certificate
from rnndsp.stability.certificates import Case
from rnndsp.stability.overview import certify
from rnndsp.stability.resting import rest_states
from rnndsp.stability.verdicts import CONTRACTION, DECAY, ISS, UNIQUE, Property, Verdict
from rnndsp.statespace import DelayStateSpace, space

__all__ = ["Stabilized", "stabilize"]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

# How exactly the least change is found, and frequencies at which responses are compared.
STEPS, N_FREQUENCIES = 14, 512


@dataclass(frozen=True)
class Stabilized:
    """A filter that passes, and how it differs from the one that was asked for.

    Attributes
    ----------
    filter : Filter
    verdict : Property
        That of the new filter.
    changes : dict of str to float
        By parameter, how much of it was changed: Frobenius norm of the difference, in parts of that of the old one.
    frequency : ndarray, shape (n,)
        In Hz where the filter has a sample rate, else in cycles a sample.
    before_db, after_db : ndarray, shape (n, n_outputs, n_inputs)
        Magnitudes of the frequency responses, of nonlinear filters for small signals at rest.
    """

    filter: Filter
    verdict: Property
    changes: dict[str, float]
    frequency: Real
    before_db: Real
    after_db: Real

    @property
    def largest_change_db(self) -> float:
        """Between the responses, over frequencies at which either is within 60 dB of its largest."""
        heard = np.maximum(self.before_db - self.before_db.max(), self.after_db - self.after_db.max()) > -60
        return float(np.max(np.abs(self.after_db - self.before_db)[heard], initial=0))

    def __str__(self) -> str:
        lines = [f"{self.verdict.name}: {self.verdict.verdict.value}", f"    {self.verdict.statement}"]
        lines += [f"    {name} changed by {100 * part:.3g} %" for name, part in self.changes.items()]
        lines.append(f"    response changed by up to {self.largest_change_db:.3g} dB")
        return "\n".join(lines)


def stabilize(
    filt: Filter,
    *,
    property: str = CONTRACTION,
    input_bound: float = 1.0,
    radius: float = 1 - 1e-4,
    controls: Controls | None = None,
) -> Stabilized:
    r"""The nearest filter of its kind for which a property is proved.

    Parameters
    ----------
    filt : Filter
    property : {"contraction", "input-to-state stability", "unique rest state", "decay"}
    input_bound : float
        Largest magnitude of the inputs that the proof for a nonlinear filter supposes.
    radius : float
        Largest magnitude of the poles of a linear filter, within (0, 1).
    controls : mapping of str to float, optional
        Where the knobs stand.

    Returns
    -------
    Stabilized
        With the filter itself, unchanged, where it passes as it is.

    Raises
    ------
    ParameterError
        A property that cannot be brought about, a radius outside (0, 1), a filter with no part that could be changed.
    RnndspError
        No change was found that is enough.

    Notes
    -----
    *Linear filters* come back as state space. Of ordinary ones only the poles beyond ``radius`` are moved, straight
    inwards, in an orthogonal (Schur) basis, where the change of the matrix is no larger than that of the poles; of
    networks of long delay lines all by one factor g, each line losing g to the power of its length.

    *Elman cells*: singular values of D U D^-1 are cut off at .999, D being the scaling in which they are least: in the
    Frobenius norm weighted by D nothing nearer has so small a norm.

    *Other cells*: all recurrent weights are multiplied by the largest factor, to 1e-4, with which it is proved; in
    loops the return is turned down by the same factor. There may be nearer ones. Trained gated cells often have to lose
    most of their memory before a *proof* goes through, long after they are stable in fact: see :func:`certified_level`
    for what holds of them as they are.
    """
    if property not in (CONTRACTION, ISS, UNIQUE, DECAY):
        raise ParameterError(f"{property=}: choose one of {[CONTRACTION, ISS, UNIQUE, DECAY]}")
    if not 0 < radius < 1:
        raise ParameterError(f"{radius=} must lie within (0, 1)")
    if filt.period > 1:
        raise ParameterError(f"a filter that works in frames of {filt.period} samples has no poles to move")

    def verdict(some: Filter) -> Property:
        return certify(some, property=property, input_bound=input_bound, controls=controls)

    def passes(some: Filter) -> bool:
        if some.is_linear:
            return verdict(some).verdict == Verdict.PROVED
        return Case(some, controls, input_bound=input_bound).proves(property)

    new = filt
    if not passes(filt):
        if filt.is_linear:
            new = _linear(filt.linearize(controls=controls), radius)
        else:
            if property == DECAY:
                raise ParameterError("decay of a nonlinear filter is local: ask for contraction or a unique rest state")
            new = _nonlinear(filt, passes)
    found = verdict(new)
    if found.verdict != Verdict.PROVED:
        raise RnndspError(f"{property} could not be brought about: {found.statement}")
    old = filt.linearize(controls=controls) if new is not filt and filt.is_linear else filt
    changes = {
        name: float(np.linalg.norm(value - old.params[name])) / max(float(np.linalg.norm(old.params[name])), 1e-300)
        for name, value in new.params.items()
        if not np.array_equal(value, old.params[name])
    }
    w = np.linspace(0, np.pi, N_FREQUENCIES)
    before, after = (_magnitude_db(some, w, controls) for some in (filt, new))
    return Stabilized(new, found, changes, w * (filt.sample_rate or 1.0) / (2 * np.pi), before, after)


def _magnitude_db(filt: Filter, w: Real, controls: Controls | None) -> Real:
    rest = () if filt.is_linear else rest_states(filt, controls=controls)
    linear = filt.linearize(rest[0] if rest else None, controls=controls)
    with np.errstate(divide="ignore"):
        return np.asarray(20 * np.log10(np.maximum(np.abs(linear.frequency_response(w)), 1e-15)))


def _linear(linear: DelayStateSpace, radius: float) -> DelayStateSpace:
    from rnndsp.stability.spectrum import poles

    A, m = np.asarray(linear.A, np.float64), linear.delays
    if np.any(m > 1):
        g = min(1.0, radius / float(np.max(np.abs(poles(linear)))))
        while decay_certificate(A * g**m, m) is None:
            g = g * radius
            if g < 0.5:
                raise RnndspError("no loss was found that lets this network decay for certain")
        A = A * g**m
    else:
        from scipy.linalg import schur

        T, Z = schur(A)
        k = 0
        while k < len(T):
            size = 2 if k + 1 < len(T) and T[k + 1, k] else 1
            block = slice(k, k + size)
            largest = float(np.max(np.abs(np.linalg.eigvals(T[block, block]))))
            T[block, block] *= min(1.0, radius / largest) if largest else 1.0
            k += size
        A = Z @ T @ Z.T
    return space(A, linear.B, linear.C, linear.D, m, sample_rate=linear.sample_rate)


def _nonlinear(filt: Filter, passes: Callable[[Filter], bool]) -> Filter:
    """The least change of recurrent weights that passes: norms cut off, else all of them scaled."""
    if isinstance(filt, Cell) and (nearest := filt._nearest_contraction()) is not None:
        return nearest
    names = list(_recurrent(filt))
    if not names:
        raise ParameterError(
            f"{type(filt).__name__} has no recurrent weights that could be turned down: recurrences other than 'dense' "
            "and 'diagonal' are what they are; 'contracting' is stable by construction"
        )

    def scaled(factor: float) -> Filter:
        return filt.replace(**{name: factor * filt.params[name] for name in names})

    low, high = 0.0, 1.0
    if not passes(scaled(low)):
        raise RnndspError("not even without recurrent weights is it proved: the gates themselves hold on for too long")
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if passes(scaled(middle)) else (low, middle)
    return scaled(low)


def _recurrent(filt: Filter, prefix: str = "") -> list[str]:
    """Names of what feeds back: recurrent weights of cells, and what a loop's return is multiplied by last."""
    if isinstance(filt, Cell):
        return [] if filt._contraction() or "U" not in filt.params else [f"{prefix}U"]
    found = []
    for place, child in enumerate(filt.children):
        found += _recurrent(child, f"{prefix}{place}.")
    if isinstance(filt, Feedback) and isinstance(filt.children[1], DelayStateSpace):
        found += [f"{prefix}1.C", f"{prefix}1.D"]
    return found
