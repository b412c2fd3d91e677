"""Operating points: where a filter rests, repeats itself or leaves, and how that moves with level or knob."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colorbar import Colorbar
from matplotlib.lines import Line2D
from matplotlib.quiver import Quiver
from numpy.typing import ArrayLike, NDArray

from rnndsp._checks import generator, whole_number
from rnndsp.errors import ParameterError
from rnndsp.filter import Filter
from rnndsp.plots._style import BLUE, GREEN, GREY, INK, PURPLE, VERMILLION, axes, count, rounded
from rnndsp.plots.z_plane import z_plane
from rnndsp.stability.points import Branch, FixedPoint, PeriodicResponse, PointKind, fixed_points
from rnndsp.stability.resting import Orbits, move, scattered
from rnndsp.stability.spectrum import MARGIN

__all__ = [
    "ContinuationArtists",
    "LocusArtists",
    "PortraitArtists",
    "continuation_plot",
    "floquet_plot",
    "phase_portrait",
    "pole_locus_plot",
]

Controls = Mapping[str, ArrayLike]
Real = NDArray[np.float64]

# Marker, colour, filling and legend of points of a kind, and of what lies on a branch.
LOOKS: dict[str, tuple[str, str, str, str]] = {
    "stable": ("o", BLUE, BLUE, "stable point"),
    "unstable": ("o", VERMILLION, "white", "unstable point"),
    "saddle": ("D", VERMILLION, "white", "saddle"),
    "other": ("s", GREY, "white", "marginal or unknown"),
}
SPECIAL: dict[str, tuple[str, str]] = {
    "fold": ("s", INK),
    "branch point": ("P", PURPLE),
    "flip": ("^", GREEN),
    "Neimark-Sacker": ("D", PURPLE),
    "jump": ("X", GREY),
}
# Arrows along each side of a vector field.
ARROWS = 19


class PortraitArtists(NamedTuple):
    """What :func:`phase_portrait` draws.

    Attributes
    ----------
    trajectories : list of Line2D
    points : dict of str to Line2D
        Of the kinds "stable", "unstable", "saddle", "other", those that there are.
    field : Quiver or None
        Of a filter of two states.
    """

    trajectories: list[Line2D]
    points: dict[str, Line2D]
    field: Quiver | None


def phase_portrait(
    filt: Filter,
    u: ArrayLike | None = None,
    *,
    controls: Controls | None = None,
    states: tuple[int, int] | None = None,
    points: Sequence[FixedPoint] | None = None,
    n_trajectories: int = 16,
    n_frames: int = 300,
    seed: int | np.random.Generator = 0,
    ax: Axes | None = None,
) -> PortraitArtists:
    """Trajectories on a constant input from random states, and the fixed points.

    A trajectory is a thin line with a dot at every frame, palest where it begins. A delay line is seen through the
    newest number in it.

    Parameters
    ----------
    filt : Filter
        Of two states or more.
    u : array, shape (n_inputs,), optional
        The input frame; silence when absent.
    controls : mapping of str to float, optional
    states : pair of int, optional
        The two that are drawn, counted over delay lines and other states. When absent the only two, or else the two
        leading principal components of the trajectories.
    points : sequence of FixedPoint, optional
        From :func:`rnndsp.stability.fixed_points`, where they are known already.
    n_trajectories : int
        Besides those that leave each point which repels.
    n_frames : int
    seed : int or Generator
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    PortraitArtists

    Raises
    ------
    ParameterError
        Less than two states, or ``states`` that do not exist.
    """
    whole_number("n_frames", n_frames)
    rng = generator(seed)
    orbits = Orbits(filt, u, controls)
    n = orbits.delays.size
    if n < 2:
        raise ParameterError(f"{type(filt).__name__} has {count(n, 'state')}; a phase portrait wants two or more")
    if states is not None and not (len(states) == 2 and all(0 <= whole_number("states", i, 0) < n for i in states)):
        raise ParameterError(f"{states=}: choose two numbers from 0 to {n - 1}")
    if points is None:
        points = fixed_points(filt, u, controls=controls, seed=rng)
    ax = axes(ax, 6.6, 5.2)
    flat = scattered(filt, whole_number("n_trajectories", n_trajectories) + 1, rng).ravel()[1:]
    leaving = [p.state.ravel() for p in points if not p.kind.is_stable]
    beside = [x + 0.02 * rng.uniform(-1, 1, x.shape) for x in leaving for _ in range(4)]
    ways = _trajectories(orbits, np.array([*flat, *beside]), n_frames)
    ways = ways[np.isfinite(ways).all(axis=(1, 2))]
    held = np.array([p.state.ravel()[orbits.newest] for p in points]).reshape(-1, n)

    if states is None and n > 2:
        cloud = np.concatenate([ways.reshape(-1, n), held])
        centre = cloud.mean(axis=0)
        _, size, directions = np.linalg.svd(cloud - centre, full_matrices=False)
        part = size**2 / max(float(np.sum(size**2)), 1e-300)
        names = [f"{nth} principal component ({100 * p:.3g} %)" for nth, p in zip(("1st", "2nd"), part, strict=False)]
        plane = directions[:2].T
    else:
        i, j = states or (0, 1)
        centre, plane, names = np.zeros(n), np.eye(n)[:, [i, j]], _state_names(filt, orbits, (i, j))
    ways, held = (ways - centre) @ plane, (held - centre) @ plane
    look: dict[str, Any] = {"color": GREY, "linewidth": 0.7, "marker": ".", "markersize": 2.5, "alpha": 0.75}
    trajectories = [ax.plot(*way.T, zorder=1, **look)[0] for way in ways]
    for way in ways:
        ax.plot(*way[0], "+", color=INK, markersize=5, alpha=0.6, zorder=1)
    ax.set(xlabel=names[0], ylabel=names[1])
    field = _field(orbits, ax) if n == 2 and filt.n_states == 2 and states in (None, (0, 1)) else None
    drawn: dict[str, Line2D] = {}
    for name, (marker, edge, face, label) in LOOKS.items():
        which = [i for i, p in enumerate(points) if _group(p.kind) == name]
        if which:
            (drawn[name],) = ax.plot(
                *held[which].T,
                linestyle="none",
                marker=marker,
                color=edge,
                markerfacecolor=face,
                markeredgewidth=1.8,
                markersize=9,
                label=f"{label} ({len(which)})",
                zorder=3,
            )
    ax.grid(alpha=0.2)
    if drawn:
        ax.legend(handles=list(drawn.values()), fontsize=8)
    ax.set_title(
        f"{count(len(points), 'fixed point')} found, {count(len(ways), 'trajectory').replace('ys', 'ies')} from +"
    )
    return PortraitArtists(trajectories, drawn, field)


def _group(kind: PointKind) -> str:
    if kind.is_stable:
        return "stable"
    if kind == PointKind.SADDLE:
        return "saddle"
    return "unstable" if kind in (PointKind.UNSTABLE_NODE, PointKind.UNSTABLE_FOCUS) else "other"


def _state_names(filt: Filter, orbits: Orbits, which: tuple[int, int]) -> list[str]:
    """Field and place of two states where the filter holds them itself, else their numbers."""
    named: list[str] = []
    for field in filt.fields:
        n = len(field.rings) or field.size
        named += [f"{field.name}[{i}]" for i in range(n)]
    return [named[i] if i < len(named) else f"state {i}" for i in which]


def _trajectories(orbits: Orbits, starts: Real, n_frames: int) -> Real:
    """Newest numbers of all lines, (voices, n_frames + 1, n_lines), from flat states on."""
    state = orbits.like.unravel(starts)
    u = np.broadcast_to(orbits.frame, (len(starts), 1, orbits.frame.size)).copy()
    ways = np.empty((len(starts), n_frames + 1, orbits.delays.size))
    ways[:, 0] = starts[:, orbits.newest]
    for t in range(n_frames):
        move(orbits.filt, state, u, orbits.controls)
        ways[:, t + 1] = state.ravel()[:, orbits.newest]
    return ways


def _field(orbits: Orbits, ax: Axes) -> Quiver:
    """Where each state goes next: arrows of equal length, as steps differ by orders of magnitude."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    grid = np.stack(np.meshgrid(np.linspace(left, right, ARROWS), np.linspace(low, high, ARROWS)), axis=-1)
    there = _trajectories(orbits, grid.reshape(-1, 2), 1)
    step = there[:, 1] - there[:, 0]
    length = np.hypot(*step.T)
    step = np.divide(step, length[:, None], out=np.zeros_like(step), where=length[:, None] > 0)
    return ax.quiver(*grid.reshape(-1, 2).T, *step.T, color=INK, alpha=0.35, scale=1.3 * ARROWS, width=0.003, zorder=0)


class ContinuationArtists(NamedTuple):
    """What :func:`continuation_plot` draws.

    Attributes
    ----------
    stable, unstable : list of Line2D
        Pieces of the branches.
    special : dict of str to Line2D
        Markers, by the kind of :class:`rnndsp.stability.SpecialPoint`.
    """

    stable: list[Line2D]
    unstable: list[Line2D]
    special: dict[str, Line2D]


def continuation_plot(
    branches: Branch | Sequence[Branch], *, quantity: str = "output", output: int = 0, ax: Axes | None = None
) -> ContinuationArtists:
    """Fixed points against the parameter: solid where stable, dashed where not, with what happens in between.

    Parameters
    ----------
    branches : Branch or sequence of Branch
        From :func:`rnndsp.stability.continue_points`.
    quantity : {"output", "state", "radius"}
        The constant output, the root mean square of the state's numbers, or the largest magnitude of the poles.
    output : int
        The output channel.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    ContinuationArtists
    """
    curves = _branches(branches)
    if quantity not in ("output", "state", "radius"):
        raise ParameterError(f"{quantity=}: choose 'output', 'state' or 'radius'")
    whole_number("output", output, least=0)
    if any(output >= branch.y.shape[1] for branch in curves):
        raise ParameterError(f"{output=}: there are {min(branch.y.shape[1] for branch in curves)} outputs")
    ax = axes(ax)
    pieces: dict[bool, list[Line2D]] = {True: [], False: []}
    places: dict[str, list[tuple[float, float]]] = {}
    for branch in curves:
        value = {
            "output": branch.y[:, output],
            "state": np.sqrt(np.mean(branch.states**2, axis=1)) if branch.states.size else 0 * branch.parameter,
            "radius": branch.largest,
        }[quantity]
        # a piece from point to point is stable where it is so at both of its ends, special ones apart
        special = {point.index for point in branch.special}
        stable = branch.stable
        calm = np.array([all(stable[k] or k in special for k in pair) for pair in pairwise(range(len(stable)))])
        cuts = [0, *(np.flatnonzero(calm[1:] != calm[:-1]) + 1), len(calm)]
        for first, stop in pairwise(cuts):
            if first == stop:
                continue
            kind = bool(calm[first])
            look: dict[str, Any] = (
                {"color": BLUE, "linestyle": "-"} if kind else {"color": VERMILLION, "linestyle": "--"}
            )
            part = slice(first, stop + 1)
            pieces[kind] += ax.plot(branch.parameter[part], value[part], linewidth=1.6, **look)
        for point in branch.special:
            places.setdefault(point.kind, []).append((point.parameter, float(value[point.index])))
    drawn = {}
    for kind_name, where in places.items():
        marker, colour = SPECIAL[kind_name]
        label = f"{kind_name} ({len(where)})"
        (drawn[kind_name],) = ax.plot(
            *np.array(where).T, linestyle="none", marker=marker, color=colour, markersize=7, label=label, zorder=3
        )
    if quantity == "radius":
        ax.axhline(1, color=GREY, linewidth=0.8, zorder=0)
    names = {"output": f"constant output {output}", "state": "state (RMS)", "radius": "largest magnitude of the poles"}
    ax.set(xlabel=_parameter_label(curves[0].name), ylabel=names[quantity])
    ax.grid(alpha=0.3)
    handles = [lines[0] for lines in pieces.values() if lines]
    for line in handles:
        line.set_label("stable" if line in pieces[True] else "unstable")
    ax.legend(handles=[*handles, *drawn.values()], fontsize=8)
    short = sum(end in ("lost", "steps") for branch in curves for end in branch.ends)
    title = f"{count(len(curves), 'curve')} of fixed points"
    ax.set_title(title + (f", {count(short, 'end')} not followed further" if short else ""))
    return ContinuationArtists(pieces[True], pieces[False], drawn)


def _branches(branches: Branch | Sequence[Branch]) -> list[Branch]:
    curves = [branches] if isinstance(branches, Branch) else list(branches)
    if not curves or not all(isinstance(branch, Branch) for branch in curves):
        raise ParameterError("no branch is given: take those of rnndsp.stability.continue_points")
    return curves


def _parameter_label(name: str) -> str:
    return f"constant level of {name}" if name.startswith("input ") else name


class LocusArtists(NamedTuple):
    """What :func:`pole_locus_plot` draws.

    Attributes
    ----------
    ways : list of Line2D
        One a pole and branch.
    poles, outside : PathCollection
        Dots inside the circle, triangles on it or outside.
    colorbar : Colorbar
    """

    ways: list[Line2D]
    poles: PathCollection
    outside: PathCollection
    colorbar: Colorbar


def pole_locus_plot(
    branches: Branch | Sequence[Branch], *, sample_rate: float | None = None, ax: Axes | None = None
) -> LocusArtists:
    """Poles of the small-signal filter in the z-plane while a level or a knob moves the operating point.

    Parameters
    ----------
    branches : Branch or sequence of Branch
        From :func:`rnndsp.stability.continue_points`.
    sample_rate : float, optional
        Hz.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    LocusArtists
    """
    curves = _branches(branches)
    ax = axes(ax, 6.8, 5.6)
    z_plane(ax, sample_rate, max(1.3, 1.15 * max(float(np.max(branch.largest)) for branch in curves)))
    ways = [ax.plot(way.real, way.imag, color=GREY, linewidth=0.8, zorder=1.5)[0] for b in curves for way in b.poles.T]
    z = np.concatenate([branch.poles.ravel() for branch in curves])
    value = np.concatenate([np.repeat(branch.parameter, branch.poles.shape[1]) for branch in curves])
    everywhere = np.concatenate([branch.parameter for branch in curves])
    out = np.abs(z) >= 1 - MARGIN
    scale: dict[str, Any] = {"vmin": everywhere.min(), "vmax": everywhere.max(), "cmap": "viridis", "zorder": 2}
    poles = ax.scatter(z[~out].real, z[~out].imag, 9, value[~out], marker="o", linewidths=0, **scale)
    outside = ax.scatter(z[out].real, z[out].imag, 26, value[out], marker="^", linewidths=0.4, ec=VERMILLION, **scale)
    colorbar = ax.figure.colorbar(poles, ax=ax, label=_parameter_label(curves[0].name), shrink=0.8)
    largest = np.concatenate([branch.largest for branch in curves])
    span = " to ".join(rounded(float(edge(largest))) for edge in (np.min, np.max))
    title = f"{count(len(curves), 'curve')} of fixed points, spectral radius {span}"
    ax.set_title(title + ("\n▲ on or outside the circle" if out.any() else ""))
    return LocusArtists(ways, poles, outside, colorbar)


def floquet_plot(
    response: PeriodicResponse, *, sample_rate: float | None = None, ax: Axes | None = None
) -> tuple[Line2D, Line2D]:
    """Floquet multipliers and the unit circle: what becomes of small differences in a period of the drive.

    Parameters
    ----------
    response : PeriodicResponse
        From :func:`rnndsp.stability.floquet_multipliers`.
    sample_rate : float, optional
        Hz. With it the dotted circles say how long a difference takes to fade by 60 dB.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    fading, lasting : Line2D
        Crosses inside the circle, triangles on it or outside.
    """
    ax = axes(ax, 6.2, 5.6)
    found, period = response.multipliers, len(response.y)
    radius = float(np.max(np.abs(found), initial=0))
    limit = max(1.3, 1.15 * radius)
    # without a rate the circle stays blank, as its labels would count samples, not periods
    z_plane(ax, sample_rate / period if sample_rate else None, limit if sample_rate else 3.0)
    ax.set(xlim=(-1.16 * limit, 1.16 * limit), ylim=(-limit, limit))
    out = np.abs(found) >= 1 - MARGIN
    look: dict[str, Any] = {"linestyle": "none", "markersize": 8}
    (fading,) = ax.plot(found[~out].real, found[~out].imag, marker="x", color=BLUE, **look)
    (lasting,) = ax.plot(found[out].real, found[out].imag, marker="^", color=VERMILLION, **look)
    settles = {0: "the run does not repeat itself", 1: "the run settles"}
    said = settles.get(response.repeats, f"the run repeats after {response.repeats} periods")
    ax.set_title(
        f"{count(found.size, 'multiplier')}, a period of {count(period, 'sample')}, largest {rounded(radius)}\n"
        f"{response.kind}; {said}"
    )
    return fading, lasting
