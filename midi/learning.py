"""Teach a recurrent cell music, and say how much better it knows it than models without one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp import training
from rnndsp._checks import whole_number
from rnndsp.composition import Parallel
from rnndsp.errors import ParameterError
from rnndsp.filters import GRU, LSTM, NADE, Dense, Elman
from rnndsp.losses import bernoulli
from rnndsp.midi.corpus import Corpus
from rnndsp.midi.keys import estimate_key
from rnndsp.midi.model import Frames, MusicModel
from rnndsp.midi.piece import Piece
from rnndsp.midi.roll import Roll
from rnndsp.training import Fit, evaluate

__all__ = ["CELLS", "Training", "checkpoints", "train"]

CELLS = {"elman": Elman, "gru": GRU, "lstm": LSTM}
# Longer pieces are learnt in parts, each from rest; they are judged whole.
PART_FRAMES = 512
BATCH_SIZE = 2
# Rate and weight decay of the linear model, which is trained until it gets no better, and of the whole, which starts
# from it; chosen on the validation part of the bundled chorales.
LINEAR, WHOLE = (8e-3, 0.02), (2e-3, 0.2)
# Epochs with the cell for each one without.
CELL_EPOCHS = 0.4
# How far the first weights lie below the usual ones: of the linear map, as the notes of the last frame are many inputs
# at once, and of what is added to it.
FLAT_SCALE, DEEP_SCALE = 0.1, 0.3

Example = tuple[NDArray[np.float32], NDArray[np.float32]]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, repr=False)
class Training:
    """What :func:`train` gives.

    Attributes
    ----------
    model : MusicModel
    scores : dict of str to float
        Negative log-likelihood of the test pieces, in nats a frame, of the model and of the three baselines.
    fit : Fit
        How the training of the model went.
    """

    model: MusicModel
    scores: dict[str, float]
    fit: Fit[NADE]

    def __str__(self) -> str:
        width = max(map(len, self.scores))
        rows = (f"{name:<{width}}  {value:7.3f}" for name, value in self.scores.items())
        return "\n".join(["nats a frame on held-out pieces, less is better:", *rows])

    def _repr_html_(self) -> str:
        from rnndsp.midi import notebook

        return notebook.training_html(self)


def train(
    corpus: Corpus,
    *,
    cell: str = "gru",
    n_units: int = 64,
    n_hidden: int = 160,
    steps_per_beat: int = 4,
    n_epochs: int = 24,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a recurrent cell with an autoregressive head on a corpus.

    Every piece is put on the grid, its tracks but drums merged, and transposed to C (major or minor). The weights that
    are kept are those that did best on the validation pieces. The baselines are the marginal probability of every note;
    the last frame again, with the chances of a note to begin, to go on and to be struck again; and the same head on a
    linear map of the same inputs, without the cell, trained until it gets no better. The model starts from the latter
    and adds the cell to it.

    Parameters
    ----------
    corpus : Corpus
    cell : {"gru", "lstm", "elman"}
    n_units : int
        Of the cell.
    n_hidden : int
        Hidden units of the head.
    steps_per_beat : int
        The grid: 4 makes sixteenths, 12 holds triplets as well.
    n_epochs : int
        Of the linear model; with the cell there are 0.4 times as many more.
    seed : int
        The same seed gives the same model, to the bit, on one machine.
    checkpoint : path, optional
        A file that is written after every epoch, and a second one beside it for the linear model. When they are there,
        training goes on from them.
    progress : function, optional
        Called with the steps done, their total, and a line about the last epoch.

    Returns
    -------
    Training

    Raises
    ------
    ParameterError
        An unknown cell, a setting out of range, a part of the corpus without pieces, or the checkpoint of another
        training.
    """
    if cell not in CELLS:
        raise ParameterError(f"{cell=} is unknown; choose one of {sorted(CELLS)}")
    parts = corpus.train, corpus.validation, corpus.test
    if not all(parts):
        raise ParameterError(f"{corpus} has an empty part: each of the three needs a piece")
    Frames(steps_per_beat, 0, 128)  # or it refuses the grid
    manner = _manner(corpus.train, steps_per_beat)
    rolls = [[_roll(piece, steps_per_beat) for piece in part] for part in parts]
    frames = _frames([roll for part in rolls for roll in part], steps_per_beat)
    learnt, validation, test = ([frames.example(roll) for roll in part] for part in rolls)
    pieces = [
        (u[i : i + PART_FRAMES], x[i : i + PART_FRAMES]) for u, x in learnt for i in range(0, len(u), PART_FRAMES)
    ]
    marginals = _marginals([x for _, x in learnt])
    k, n = frames.n_inputs, 2 * frames.n_pitches
    flat = Dense(k, n + whole_number("n_hidden", n_hidden, least=0), seed=seed)
    flat = flat.replace(W=FLAT_SCALE * flat.params["W"], b=np.pad(marginals, (0, n_hidden)))
    deep = CELLS[cell](k, n_units, seed=seed) >> Dense(n_units, n + n_hidden, seed=seed)
    deep = deep.replace(**{"1.W": DEEP_SCALE * deep.params["1.W"]})

    epochs = whole_number("n_epochs", n_epochs), max(1, round(CELL_EPOCHS * n_epochs))

    def fitted(place: int, head: NADE, rate: float, weight_decay: float) -> Fit[NADE]:
        return training.fit(
            head,
            pieces,
            bernoulli,
            validation=validation,
            n_epochs=epochs[place],
            batch_size=BATCH_SIZE,
            rate=rate,
            weight_decay=weight_decay,
            seed=seed,
            checkpoint=None if checkpoint is None else checkpoints(checkpoint)[place],
            progress=None if progress is None else _part(progress, sum(epochs[:place]), epochs[place], sum(epochs)),
        )

    linear = fitted(0, NADE(flat, n_hidden=n_hidden, seed=seed), *LINEAR).filter
    whole = NADE(Parallel(deep, linear.context), n_hidden=n_hidden).replace(
        **{name: linear.params[name] for name in "VUL"}
    )
    fit = fitted(1, whole, *WHOLE)
    scores = {
        "marginals": _score(lambda u: np.broadcast_to(marginals, (len(u), n)), test),
        "the last frame again": _score(_copying(frames, learnt), test),
        "linear, same head": evaluate(linear, test, bernoulli),
        f"linear + {cell.upper()}-{n_units}": evaluate(fit.filter, test, bernoulli),
    }
    about = {"corpus": corpus.name, "n_pieces": len(corpus.train), **manner, "nats_a_frame": scores}
    # it was computed in single precision all along
    head = fit.filter.replace(**{name: value.astype(np.float32) for name, value in fit.filter.params.items()})
    return Training(MusicModel(head, frames, about), scores, fit)


def _in_c(piece: Piece) -> Piece:
    """The piece on C; as it is, where that would take notes out of MIDI's range."""
    semitones = estimate_key(piece).semitones_to_c
    for shift in (semitones, semitones - 12, semitones + 12):
        with suppress(ParameterError):
            return piece.transposed(shift)
    return piece


def _roll(piece: Piece, steps_per_beat: int) -> Roll:
    try:
        return _in_c(piece).roll(steps_per_beat).merged()
    except ParameterError as error:
        raise ParameterError(f"piece {piece.name!r}: {error}") from error


def _frames(rolls: Sequence[Roll], steps_per_beat: int) -> Frames:
    """Frames that hold all the pitches of all pieces."""
    heard = np.any([roll.sounding[0].any(axis=0) for roll in rolls], axis=0)
    lowest, highest = np.flatnonzero(heard)[[0, -1]].tolist()
    return Frames(steps_per_beat, lowest, highest - lowest + 1)


def _manner(pieces: Sequence[Piece], steps_per_beat: int) -> dict[str, Any]:
    """How to play: tempo, meter, pickup and instrument that most pieces begin with."""
    programs = Counter(track.program for piece in pieces for track in piece.tracks if not track.is_drum)
    beginnings = Counter(form for piece in pieces if (form := _beginning(piece, steps_per_beat)))
    if not beginnings:
        raise ParameterError(f"{steps_per_beat=}: no piece has bars of a whole number of steps; take more of them")
    (numerator, denominator, pickup), _ = beginnings.most_common(1)[0]
    return {
        "tempo_bpm": round(6e7 / float(np.median([piece.tempos[0][1] for piece in pieces])), 2),
        "meter": [numerator, denominator],
        "pickup_beats": pickup / steps_per_beat,
        "program": programs.most_common(1)[0][0],
    }


def _beginning(piece: Piece, steps_per_beat: int) -> tuple[int, int, int] | None:
    """Numerator and denominator of the first meter with notes, and the steps from the first note to its bar line."""
    first = min(int(track.notes["start"].min(initial=piece.end)) for track in piece.tracks if not track.is_drum)
    _, a, b = [meter for meter in piece.meters if meter[0] <= max(first, piece.pickup)][-1]
    bar, rest = divmod(4 * a * steps_per_beat, b)
    return None if rest else (a, b, round(float(-piece.positions(first)) * steps_per_beat) % bar)


def checkpoints(path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """The files that :func:`train` leaves when it is interrupted: the linear model's, and the model's own.

    Parameters
    ----------
    path : path
        As given to it.
    """
    own = Path(path)
    return own.with_name(f"{own.stem}.linear{own.suffix}"), own


def _part(progress: Progress, before: int, n_epochs: int, all_epochs: int) -> Progress:
    """The progress of a training of some epochs, with others before it, in that of all."""
    return lambda done, total, text: progress(before * total // n_epochs + done, all_epochs * total // n_epochs, text)


# ---- baselines


def _log_odds(hits: ArrayLike, chances: ArrayLike) -> NDArray[np.float32]:
    """Of something that came so often; half a hit and a miss are added, so that nothing is impossible."""
    came, missed = np.asarray(hits), np.subtract(chances, hits)
    return np.asarray(np.log((came + 0.5) / (missed + 0.5)), np.float32)


def _marginals(bits: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    hits = sum(np.nansum(x, axis=0, dtype=np.float64) for x in bits)
    return _log_odds(hits, sum(np.count_nonzero(~np.isnan(x), axis=0) for x in bits))


def _copying(frames: Frames, examples: Sequence[Example]) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """The last frame again: one chance for any note to begin, one to go on, one to be struck again."""
    n = frames.n_pitches
    counts = np.zeros((3, 2), np.int64)  # of beginning, going on and striking again: hits and chances
    for u, bits in examples:
        u, bits = u[scored := ~np.isnan(bits[:, 0])], bits[scored]
        last, now, again = u[:, :n] > 0, bits[:, :n] > 0, bits[:, n:]
        for row, (hits, chances) in enumerate(
            ((now & ~last, ~last), (now & last, last), (again > 0, ~np.isnan(again)))
        ):
            counts[row] += np.count_nonzero(hits), np.count_nonzero(chances)
    begin, go_on, strike = _log_odds(counts[:, 0], counts[:, 1])
    return lambda u: np.hstack([np.where(u[:, :n] > 0, go_on, begin), np.full((len(u), n), strike)])


def _score(log_odds: Callable[[NDArray[Any]], NDArray[Any]], examples: Sequence[Example]) -> float:
    values = [bernoulli(log_odds(u), bits)[0][~np.isnan(bits[:, 0])] for u, bits in examples]
    return float(np.mean(np.concatenate(values)))
