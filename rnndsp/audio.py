"""Audio files: read, write, and filter them block by block in constant memory; features of audio as filter inputs."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnndsp._files import writing
from rnndsp.errors import FormatError, NonFiniteError, ParameterError, RnndspError
from rnndsp.filter import Filter

__all__ = ["Info", "Processed", "blocks", "features", "info", "process", "read", "write"]

StrPath = str | os.PathLike[str]

# Container and default subtype of each extension that is written.
FORMATS = {
    ".wav": ("WAV", "FLOAT"),
    ".flac": ("FLAC", "PCM_24"),
    ".ogg": ("OGG", "VORBIS"),
    ".aif": ("AIFF", "PCM_24"),
    ".aiff": ("AIFF", "PCM_24"),
}
# Subtypes that hold samples beyond +-1; all others are integers, and clip.
UNBOUNDED = {"FLOAT", "DOUBLE", "VORBIS", "OPUS"}
# WAV and AIFF count their bytes in 32 bits.
MOST_BYTES = 2**32 - 2**16
WIDTHS = {"PCM_16": 2, "PCM_24": 3, "PCM_32": 4, "FLOAT": 4, "DOUBLE": 8}
# Sizes that programs writing to a pipe put into a header, as they cannot know.
UNKNOWN_SIZES = {0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000}
# Frames read or written at a time: always as many, as what a lossy encoder makes of a signal depends on it.
CHUNK = 16384
# The longest page that Ogg allows.
OGG_PAGE = 65307


@dataclass(frozen=True)
class Processed:
    """What :func:`process` did.

    Attributes
    ----------
    n_frames, n_channels : int
        Size of the written file.
    sample_rate : int
        Hz.
    peak_db : float
        Largest magnitude of the output, 0 dB being full scale; -inf for silence.
    n_nonfinite : int
        At how many samples NaN or infinity was met and replaced.
    seconds : float
        Time it took, files included, compilation not.
    """

    n_frames: int
    n_channels: int
    sample_rate: int
    peak_db: float
    n_nonfinite: int
    seconds: float

    @property
    def speed(self) -> float:
        """How many times faster than real time."""
        return self.n_frames / self.sample_rate / self.seconds


@dataclass(frozen=True)
class Info:
    """What a file holds.

    Attributes
    ----------
    n_frames, n_channels : int
    sample_rate : int
        Hz.
    """

    n_frames: int
    n_channels: int
    sample_rate: int


def info(path: StrPath) -> Info:
    """Size and sample rate of an audio file.

    Parameters
    ----------
    path : path
        Errors are those of :func:`read`.
    """
    with _source(path) as sound:
        return Info(int(sound.frames), int(sound.channels), int(sound.samplerate))


def read(path: StrPath, *, dtype: Literal["float32", "float64"] = "float32") -> tuple[NDArray[Any], int]:
    """Read a whole audio file.

    Parameters
    ----------
    path : path
        WAV, FLAC, Ogg, AIFF, MP3 or what else libsndfile reads.
    dtype : {"float32", "float64"}
        Integer formats are scaled to [-1, 1).

    Returns
    -------
    y : ndarray, shape (n_frames, n_channels)
    sample_rate : int
        Hz.

    Raises
    ------
    ParameterError
        No such file.
    FormatError
        Not audio, damaged, or cut short.
    """
    with _source(path) as sound:
        y = np.empty((sound.frames, sound.channels), dtype)
        start = 0
        for chunk in _chunks(sound, CHUNK, dtype):
            y[start : start + len(chunk)] = chunk
            start += len(chunk)
        return y, int(sound.samplerate)


def blocks(
    path: StrPath, block_size: int, *, dtype: Literal["float32", "float64"] = "float32"
) -> Iterator[NDArray[Any]]:
    """Read an audio file in blocks of shape (block_size, n_channels), the last one shorter, in constant memory.

    Parameters
    ----------
    path : path
    block_size : int
        Frames a block.
    dtype : {"float32", "float64"}
        Integer formats are scaled to [-1, 1).

    Raises
    ------
    ParameterError, FormatError
        As in :func:`read`; that a file is cut short may show only at its end.
    """
    _check_block_size(block_size)
    with _source(path) as sound:
        yield from _chunks(sound, block_size, dtype)


def write(path: StrPath, y: ArrayLike, sample_rate: int, *, subtype: str | None = None, force: bool = False) -> None:
    """Write a whole audio file; the file appears when it is complete, or not at all.

    Parameters
    ----------
    path : path
        The extension chooses the format: .wav, .flac, .ogg, .aif or .aiff.
    y : array, shape (n_frames, n_channels) or (n_frames,); float32 or float64
    sample_rate : int
        Hz.
    subtype : str, optional
        Sample format by libsndfile's name, such as "PCM_16". When absent: "FLOAT" for WAV, "PCM_24" for FLAC and AIFF.
    force : bool
        Replace an existing file.

    Raises
    ------
    ParameterError
        The file exists, the folder cannot be written, the extension or subtype is unknown, the samples do not fit.
    NonFiniteError
        NaN or infinity in ``y``.
    """
    signal = np.asarray(y)
    if signal.dtype not in (np.float32, np.float64):
        raise ParameterError(f"signal of dtype {signal.dtype}: give float32 or float64, full scale being +-1")
    if signal.ndim == 1:
        signal = signal[:, None]
    if signal.ndim != 2:
        raise ParameterError(f"signal of shape {signal.shape}: a file holds (n_frames, n_channels)")
    with _sink(path, sample_rate, *signal.shape, subtype=subtype, force=force) as sink:
        # one huge piece overflows the stack of libsndfile's Vorbis encoder
        for start in range(0, len(signal), CHUNK):
            chunk = signal[start : start + CHUNK]
            finite = np.isfinite(chunk).all(axis=1)
            if not finite.all():
                raise NonFiniteError(
                    f"NaN or infinity at sample {start + np.argmin(finite)} of the signal for {os.fspath(path)!r}"
                )
            sink.write(chunk)


def process(
    filt: Filter,
    source: StrPath,
    target: StrPath,
    *,
    block_size: int = 64,
    force: bool = False,
    controls: Mapping[str, float] | None = None,
    on_nonfinite: str = "raise",
    tail_s: float = 0.0,
    subtype: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Processed:
    """Run a filter over a file as it would run in real time, into another file, in constant memory and float32.

    A filter with as many inputs as the file has channels takes them together; one of a single input and output runs on
    each channel by itself. The filter's latency is compensated: output frame n belongs to input frame n.

    Parameters
    ----------
    filt : Filter
    source, target : path
        Files as in :func:`read` and :func:`write`; not the same one.
    block_size : int
        Frames handed to the filter at a time, 64 as in a live set-up, at most 16384. It changes the speed (1024 is
        several times as fast), never the result.
    force : bool
        Replace an existing target.
    controls : mapping of str to float, optional
        Values of the filter's controls, from the first sample on.
    on_nonfinite : {"raise", "reset", "hold"}
        What to do about NaN and infinity, see :class:`rnndsp.Stream`.
    tail_s : float
        Seconds of silence to feed after the end, so that a reverb dies away.
    subtype : str, optional
        Sample format of the target, see :func:`write`.
    progress : callable, optional
        Called now and then with the number of frames fed and their total.

    Returns
    -------
    Processed

    Raises
    ------
    ParameterError
        Sample rate or channels do not fit the filter, or as in :func:`write`; samples beyond +-1 for an integer format.
    FormatError
        The source is not audio, damaged, or cut short.
    NonFiniteError
        Under "raise". Whatever is raised, no target is written.
    """
    _check_block_size(block_size)
    if not 0 <= tail_s < np.inf:
        raise ParameterError(f"{tail_s=} must be a finite time of at least 0 s")
    if Path(source).resolve() == Path(target).resolve():
        raise ParameterError(f"source and target are the same file, {os.fspath(source)!r}; write to another one")
    with _source(source) as sound:
        rate, n_channels, size = int(sound.samplerate), int(sound.channels), int(sound.frames)
        together = filt.n_inputs == n_channels
        if not together and (filt.n_inputs, filt.n_outputs) != (1, 1):
            raise ParameterError(
                f"{os.fspath(source)!r} has {n_channels} channel{'s' * (n_channels > 1)}, the filter {filt.n_inputs} "
                f"inputs and {filt.n_outputs} outputs; what fits is a file of {filt.n_inputs} channels, a filter of "
                f"{n_channels} inputs, or a filter of one input and one output, which runs on each channel by itself"
            )
        stream = filt.stream(
            voices=() if together else (n_channels,),
            dtype=np.float32,
            sample_rate=rate,
            ramp_s=0.0,  # what is set before the first sample holds from there
            on_nonfinite=on_nonfinite,
        )
        for name, value in (controls or {}).items():
            stream.controls[name] = value
        # one frame of silence compiles what is not compiled yet, so that it does not count as time of processing
        stream.process(np.zeros((*stream.voices, 1, filt.n_inputs), np.float32))
        stream.reset()
        began = time.perf_counter()
        n_tail = round(tail_s * rate)
        total = size + n_tail + filt.latency
        n_outputs = filt.n_outputs if together else n_channels
        fed, late = 0, filt.latency
        with _sink(target, rate, size + n_tail, n_outputs, subtype=subtype, force=force) as sink:
            for chunk in _extended(_chunks(sound, CHUNK, "float32"), total - size, n_channels):
                u = chunk if together else chunk.T[..., None]
                y = np.empty((*u.shape[:-1], filt.n_outputs), u.dtype)
                for start in range(0, len(chunk), block_size):
                    block = slice(start, start + block_size)
                    y[..., block, :] = stream.process(u[..., block, :])
                y = y if together else y[..., 0].T
                sink.write(y[late:])
                fed, late = fed + len(chunk), max(0, late - len(chunk))
                if progress is not None:
                    progress(fed, total)
    peak_db = _decibels(sink.peak)
    return Processed(sink.n_frames, n_outputs, rate, peak_db, stream.n_nonfinite, time.perf_counter() - began)


def features(
    u: ArrayLike,
    sample_rate: float,
    *,
    kind: Literal["mel", "chroma", "onset"] = "mel",
    hop_length: int = 512,
    n_fft: int = 2048,
    n_mels: int = 40,
) -> NDArray[np.float32]:
    """Features of mono audio by librosa, time first: a signal for a filter that runs at the rate of the frames.

    Parameters
    ----------
    u : array, shape (n_frames,) or (n_frames, 1)
    sample_rate : float
        Hz.
    kind : {"mel", "chroma", "onset"}
        Log-mel spectrum in dB (0 dB is power 1, at least -100 dB), chroma of a short-time Fourier transform, or onset
        strength.
    hop_length, n_fft : int
        Samples from frame to frame, and in a frame.
    n_mels : int
        Number of mel bands of kind "mel".

    Returns
    -------
    ndarray, shape (1 + n_frames // hop_length, n_features), float32
        ``n_mels`` features, 12, or 1. Frames are centred, so each looks ``n_fft / 2`` samples ahead.

    Raises
    ------
    ParameterError
        Not mono, or no such kind.
    RnndspError
        librosa is not installed.
    """
    if kind not in ("mel", "chroma", "onset"):
        raise ParameterError(f"{kind=}: choose 'mel', 'chroma' or 'onset'")
    signal = np.asarray(u)
    if signal.dtype not in (np.float32, np.float64):
        raise ParameterError(f"signal of dtype {signal.dtype}: give float32 or float64, full scale being +-1")
    if signal.ndim == 2 and signal.shape[1] == 1:
        signal = signal[:, 0]
    if signal.ndim != 1 or not signal.size:
        raise ParameterError(
            f"signal of shape {signal.shape}: features are of mono audio, (n_frames,) or (n_frames, 1); mix "
            "(n_frames, n_channels) down with u.mean(axis=1)"
        )
    try:
        import librosa
    except ImportError as error:
        raise RnndspError("features need librosa, which is not installed: pip install 'rnndsp[features]'") from error
    common: dict[str, Any] = {"y": signal, "sr": sample_rate, "hop_length": hop_length, "n_fft": n_fft}
    if kind == "mel":
        # no top_db: a floor that hangs on the loudest frame would look into the future
        table = librosa.power_to_db(librosa.feature.melspectrogram(**common, n_mels=n_mels), top_db=None)
    elif kind == "chroma":
        table = librosa.feature.chroma_stft(**common)
    else:
        table = librosa.onset.onset_strength(**common)[None]
    return np.ascontiguousarray(table.T, np.float32)


# ---- reading


@contextmanager
def _source(path: StrPath) -> Iterator[Any]:
    """The open soundfile of a path, or an error that names the file."""
    import soundfile

    name = os.fspath(path)
    try:
        with Path(path).open("rb") as raw:
            complaint = _cut_short(raw)
    except OSError as error:
        raise ParameterError(f"{name!r} cannot be read: {error.strerror}") from error
    if complaint:
        raise FormatError(f"{name!r} is cut short: {complaint}; copy or record it again")
    try:
        sound = soundfile.SoundFile(name)
    except (soundfile.LibsndfileError, TypeError) as error:
        raise FormatError(f"{name!r} is damaged or not an audio file: {error}") from error
    with sound:
        if sound.frames > 2**62:
            raise FormatError(f"{name!r} does not say how long it is, as FLAC from a pipe does not; encode it again")
        yield sound


def _chunks(sound: Any, size: int, dtype: str) -> Iterator[NDArray[Any]]:
    import soundfile

    left = sound.frames
    while left:
        try:
            chunk = sound.read(min(size, left), dtype=dtype, always_2d=True)
        except soundfile.LibsndfileError as error:
            raise FormatError(
                f"{sound.name!r} is damaged or cut short, {left} of {sound.frames} frames before its end: {error}"
            ) from error
        if not len(chunk):
            raise FormatError(f"{sound.name!r} is damaged or cut short: {left} of {sound.frames} frames are missing")
        left -= len(chunk)
        yield chunk


def _extended(chunks: Iterator[NDArray[Any]], n: int, n_channels: int) -> Iterator[NDArray[Any]]:
    """The chunks, and ``n`` frames of silence."""
    yield from chunks
    for start in range(0, n, CHUNK):
        yield np.zeros((min(CHUNK, n - start), n_channels), np.float32)


def _cut_short(raw: BinaryIO) -> str:
    """What shows that a file lacks its end, where libsndfile would silently read it as a shorter one; or nothing."""
    size = raw.seek(0, os.SEEK_END)
    raw.seek(0)
    magic = raw.read(12)[:4]
    if magic == b"OggS":
        raw.seek(max(0, size - OGG_PAGE))
        tail = raw.read()
        page = tail[max(0, tail.rfind(b"OggS")) :]
        # byte 5 says whether it is the last page, byte 26 how many bytes from 27 on hold the lengths of its parts
        is_whole = len(page) > 27 and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
        return "" if is_whole and page[5] & 4 else "its last page is missing or incomplete"
    if magic not in (b"RIFF", b"RIFX", b"RF64", b"FORM"):
        return ""
    form = ">4sI" if magic in (b"RIFX", b"FORM") else "<4sI"
    audio = b"SSND" if magic == b"FORM" else b"data"
    real = None
    while len(header := raw.read(8)) == 8:
        name, length = struct.unpack(form, header)
        start = raw.tell()
        if name == b"ds64":
            real = int.from_bytes(raw.read(16)[8:], "little")
        if name == audio:
            if magic == b"RF64" and real is not None:
                length = real
            elif length in UNKNOWN_SIZES:
                return ""
            there = size - start
            return f"its header announces {length} bytes of audio, {there} are there" if there < length else ""
        raw.seek(start + length + length % 2)
    return ""


# ---- writing


class _Sink:
    """An open file to write to, with a meter."""

    def __init__(self, sound: Any) -> None:
        self._sound = sound
        self.n_frames = 0
        self.peak = 0.0

    def write(self, y: NDArray[Any]) -> None:
        self._sound.write(y)
        self.n_frames += len(y)
        self.peak = max(self.peak, float(np.abs(y).max(initial=0)))


@contextmanager
def _sink(
    path: StrPath, sample_rate: float, n_frames: int, n_channels: int, *, subtype: str | None, force: bool
) -> Iterator[_Sink]:
    """A file of a temporary name that takes its own when all went well, and is gone when not."""
    import soundfile

    path, name = Path(path), os.fspath(path)
    if path.suffix.lower() not in FORMATS:
        raise ParameterError(f"{name!r}: the extension chooses the format, {', '.join(FORMATS)}")
    container, usual = FORMATS[path.suffix.lower()]
    subtype = usual if subtype is None else subtype.upper()
    if not soundfile.check_format(container, subtype):
        known = ", ".join(soundfile.available_subtypes(container))
        raise ParameterError(f"{name!r}: {container} has no {subtype=}; it has {known}")
    if not (0 < sample_rate < 2**31 and sample_rate == int(sample_rate)):
        raise ParameterError(f"{sample_rate=}: a file has a whole number of Hz; resample the signal")
    if container in ("WAV", "AIFF") and n_frames * n_channels * WIDTHS.get(subtype, 1) > MOST_BYTES:
        raise ParameterError(f"{name!r}: {container} holds 4 GiB at most; write .flac, or subtype='PCM_16'")
    if container == "FLAC" and not n_frames:
        raise ParameterError(f"{name!r}: FLAC cannot hold a signal of no frames; write .wav")
    # resolved, so that a link stays one and the file behind it is replaced
    with writing(path.resolve(), force=force) as temporary:
        try:
            sound = soundfile.SoundFile(temporary, "w", int(sample_rate), n_channels, subtype, format=container)
        except (soundfile.LibsndfileError, ValueError) as error:
            raise ParameterError(
                f"{name!r}: {container} in {subtype} cannot hold {n_channels} channels at {sample_rate:g} Hz; "
                "time comes before channels, (n_frames, n_channels)"
            ) from error
        sink = _Sink(sound)
        try:
            with sound:
                yield sink
        except soundfile.LibsndfileError as error:
            raise RnndspError(f"{name!r} could not be written: {error} (is the disk full?)") from error
        if subtype not in UNBOUNDED and sink.peak > 1:
            over = _decibels(sink.peak)
            raise ParameterError(
                f"{name!r}: the peak is {over:+.2f} dB, and {subtype} clips at 0 dB; lower the level by {over:.2f} "
                "dB, or write floats, subtype='FLOAT' in a .wav"
            )


def _decibels(magnitude: float) -> float:
    return 20 * float(np.log10(magnitude)) if magnitude else -np.inf


def _check_block_size(block_size: int) -> None:
    if not (isinstance(block_size, int) and block_size >= 1):
        raise ParameterError(f"{block_size=} must be a whole number of frames, at least 1")
