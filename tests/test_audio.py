"""Audio files: what is read, written and refused, and that a processed file is the filter's output to the bit."""

import os
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import scipy.signal
import soundfile

from rnndsp import audio
from rnndsp.errors import FormatError, NonFiniteError, ParameterError, RnndspError
from rnndsp.framed import Framed
from rnndsp.statespace import DelayStateSpace, StateSpace, gain

RATE = 44100
BLOCK_SIZES = (1, 7, 64, 1000, 4096)


@pytest.fixture
def noise():
    return 0.2 * np.random.default_rng(1).standard_normal((5000, 2)).clip(-4, 4).astype(np.float32)


@pytest.fixture
def lowpass():
    return StateSpace(*scipy.signal.tf2ss(*scipy.signal.butter(2, 0.1)))


@pytest.fixture
def rotation():
    """Two channels that feed each other."""
    return StateSpace(0.9 * np.array([[0.8, -0.6], [0.6, 0.8]]), np.eye(2), np.eye(2), 0.1 * np.ones((2, 2)))


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


# ---- reading and writing


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a.wav", 0), ("a.flac", 2**-23), ("a.aiff", 2**-23), ("a.AIF", 2**-23)]
)
def test_a_file_gives_back_what_was_written(tmp_path, noise, name, tolerance):
    audio.write(tmp_path / name, noise, RATE)
    y, rate = audio.read(tmp_path / name)
    assert (rate, y.dtype, y.shape) == (RATE, np.float32, noise.shape)
    assert np.abs(y - noise).max() <= tolerance
    assert not leftovers(tmp_path)


def test_ogg_is_near_and_long_ones_do_not_crash_the_encoder(tmp_path):
    t = np.arange(20 * RATE) / RATE
    u = 0.5 * np.sin(2 * np.pi * 440 * t)
    audio.write(tmp_path / "a.ogg", u, RATE)
    y, _ = audio.read(tmp_path / "a.ogg")
    assert y.shape == (u.size, 1)
    assert np.corrcoef(u, y[:, 0])[0, 1] > 0.999


def test_integers_are_read_as_fractions_of_full_scale(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([-(2**15), 2**14, 1], np.int16), 8000)
    y, rate = audio.read(tmp_path / "a.wav")
    assert rate == 8000
    assert y[:, 0].tolist() == [-1, 0.5, 2**-15]


def test_the_default_subtypes(tmp_path, noise):
    for name, subtype in [("a.wav", "FLOAT"), ("a.flac", "PCM_24"), ("a.aiff", "PCM_24"), ("a.ogg", "VORBIS")]:
        audio.write(tmp_path / name, noise, RATE)
        assert soundfile.info(tmp_path / name).subtype == subtype
    audio.write(tmp_path / "b.wav", noise, RATE, subtype="pcm_16")
    assert soundfile.info(tmp_path / "b.wav").subtype == "PCM_16"


def test_no_frames(tmp_path, lowpass):
    audio.write(tmp_path / "a.wav", np.zeros(0), RATE)
    assert audio.read(tmp_path / "a.wav")[0].shape == (0, 1)
    report = audio.process(lowpass, tmp_path / "a.wav", tmp_path / "b.wav")
    assert (report.n_frames, report.peak_db) == (0, -np.inf)
    with pytest.raises(ParameterError, match="no frames"):
        audio.write(tmp_path / "a.flac", np.zeros(0), RATE)


def test_samples_beyond_full_scale(tmp_path):
    loud = np.array([0.5, -2.0, 0.25])
    with pytest.raises(ParameterError, match=r"peak is \+6\.02 dB.*lower the level by 6\.02 dB.*FLOAT"):
        audio.write(tmp_path / "a.flac", loud, RATE)
    assert not list(tmp_path.iterdir())
    audio.write(tmp_path / "a.wav", loud, RATE)
    assert np.array_equal(audio.read(tmp_path / "a.wav")[0][:, 0], loud)
    audio.write(tmp_path / "b.wav", loud / 2, RATE, subtype="PCM_16")


def test_an_existing_file_stays_unless_forced(tmp_path, noise):
    path = tmp_path / "a.wav"
    path.write_text("precious")
    with pytest.raises(ParameterError, match=r"exists.*force=True.*-f"):
        audio.write(path, noise, RATE)
    assert path.read_text() == "precious"
    audio.write(path, noise, RATE, force=True)
    assert np.array_equal(audio.read(path)[0], noise)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, noise, monkeypatch):
    path = tmp_path / "a.wav"
    audio.write(path, noise, RATE)

    def interrupted(self, y):
        raise KeyboardInterrupt

    monkeypatch.setattr(audio._Sink, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        audio.write(path, 0 * noise, RATE, force=True)
    assert np.array_equal(audio.read(path)[0], noise)
    assert not leftovers(tmp_path)


def test_a_link_stays_a_link(tmp_path, noise):
    (tmp_path / "real.wav").touch()
    (tmp_path / "link.wav").symlink_to("real.wav")
    audio.write(tmp_path / "link.wav", noise, RATE, force=True)
    assert (tmp_path / "link.wav").is_symlink()
    assert np.array_equal(audio.read(tmp_path / "real.wav")[0], noise)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, noise):
    resource = pytest.importorskip("resource", reason="file size limits are a matter of POSIX")
    program = f"""
import resource, signal, numpy as np
from rnndsp import audio
from rnndsp.errors import RnndspError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, {resource.RLIM_INFINITY}))
try:
    audio.write({str(tmp_path / "a.wav")!r}, np.zeros(100_000), 8000)
except RnndspError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "a.wav' could not be written" in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("a.mp4", {}, r"\.wav, \.flac, \.ogg"),
        ("a", {}, r"\.wav, \.flac, \.ogg"),
        ("a.wav", {"subtype": "PCM_17"}, "PCM_16"),
        ("a.wav", {"sample_rate": 44100.5}, "whole number of Hz"),
        ("a.wav", {"sample_rate": 0}, "whole number of Hz"),
        ("a.wav", {"y": np.zeros((2, 5000))}, r"5000 channels.*\(n_frames, n_channels\)"),
        ("a.flac", {"y": np.zeros((5, 9))}, "cannot hold 9 channels"),
        ("a.wav", {"y": np.zeros((2, 3, 4))}, r"\(2, 3, 4\)"),
        ("a.wav", {"y": np.zeros(9, np.int16)}, "int16"),
        ("folder.wav", {}, "is a folder"),
        ("absent/a.wav", {}, "absent does not exist"),
    ],
)
def test_what_cannot_be_written(tmp_path, name, change, message):
    (tmp_path / "folder.wav").mkdir()
    with pytest.raises(ParameterError, match=message):
        audio.write(tmp_path / name, **{"y": np.zeros(9), "sample_rate": RATE, **change})
    assert [path.name for path in tmp_path.iterdir()] == ["folder.wav"]


def test_longer_than_wav_can_count(tmp_path, noise, monkeypatch):
    monkeypatch.setattr(audio, "MOST_BYTES", noise.nbytes - 1)
    with pytest.raises(ParameterError, match=r"WAV holds 4 GiB.*PCM_16"):
        audio.write(tmp_path / "a.wav", noise, RATE)
    audio.write(tmp_path / "a.wav", noise, RATE, subtype="PCM_16")
    audio.write(tmp_path / "a.flac", noise, RATE)


def test_an_unwritable_folder(tmp_path, noise, lowpass):
    audio.write(tmp_path / "a.wav", noise, RATE)
    folder = tmp_path / "closed"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(ParameterError, match=r"closed.*Permission denied"):
        audio.process(lowpass, tmp_path / "a.wav", folder / "a.wav")


def test_nan_is_not_written(tmp_path):
    with pytest.raises(NonFiniteError, match="sample 2"):
        audio.write(tmp_path / "a.wav", np.array([0, 1, np.nan]), RATE)
    assert not list(tmp_path.iterdir())


def test_blocks_are_the_file(tmp_path, noise):
    audio.write(tmp_path / "a.wav", noise, RATE)
    pieces = list(audio.blocks(tmp_path / "a.wav", 999))
    assert [len(piece) for piece in pieces] == [999] * 5 + [5]
    assert np.array_equal(np.concatenate(pieces), noise)
    with pytest.raises(ParameterError, match="block_size=0"):
        next(audio.blocks(tmp_path / "a.wav", 0))


# ---- damaged files


@pytest.mark.parametrize("name", ["a.wav", "a.flac", "a.aiff", "a.ogg"])
def test_a_truncated_file(tmp_path, noise, lowpass, name):
    audio.write(tmp_path / name, noise, RATE)
    whole = (tmp_path / name).read_bytes()
    for kept in (len(whole) // 3, len(whole) * 2 // 3, len(whole) - 2):
        (tmp_path / name).write_bytes(whole[:kept])
        with pytest.raises(FormatError, match=f"{name}.*(cut short|damaged)"):
            audio.read(tmp_path / name)
        with pytest.raises(FormatError, match=name):
            audio.process(lowpass, tmp_path / name, tmp_path / "y.wav")
        assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("container", "subtype"), [("RF64", "PCM_16"), ("WAVEX", "FLOAT"), ("RF64", "FLOAT")])
def test_other_wav_headers(tmp_path, noise, container, subtype):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, RATE, format=container, subtype=subtype)
    assert audio.read(path)[0].shape == noise.shape
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FormatError, match="cut short"):
        audio.read(path)


def test_a_big_endian_wav(tmp_path, noise):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, RATE, format="WAV", subtype="PCM_16", endian="BIG")
    assert path.read_bytes()[:4] == b"RIFX"
    assert audio.read(path)[0].shape == noise.shape
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(FormatError, match="cut short"):
        audio.read(path)


def test_chunks_after_the_audio_and_sizes_from_a_pipe_are_no_damage(tmp_path, noise):
    path = tmp_path / "a.wav"
    soundfile.write(path, noise, RATE, subtype="PCM_16")
    whole = path.read_bytes()
    path.write_bytes(whole + b"LIST" + struct.pack("<I", 4) + b"abcd")
    assert audio.read(path)[0].shape == noise.shape
    place = whole.index(b"data") + 4
    path.write_bytes(whole[:place] + b"\xff\xff\xff\xff" + whole[place + 4 :])
    assert audio.read(path)[0].shape == noise.shape


def test_a_flac_of_unknown_length(tmp_path, noise):
    path = tmp_path / "a.flac"
    audio.write(path, noise, RATE)
    data = bytearray(path.read_bytes())
    n_frames = int.from_bytes(data[21:26], "big") & (2**36 - 1)
    assert n_frames == len(noise)
    data[21:26] = (int.from_bytes(data[21:26], "big") - n_frames).to_bytes(5, "big")
    path.write_bytes(data)
    with pytest.raises(FormatError, match="does not say how long"):
        audio.read(path)


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"This is no music, only text.\n" * 99, bytes(999), b"OggS", b"fLaC"]
)
@pytest.mark.parametrize("name", ["a.wav", "a.raw"])
def test_not_audio(tmp_path, lowpass, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=name):
        audio.process(lowpass, path, tmp_path / "y.wav")
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_flac(tmp_path, noise):
    path = tmp_path / "a.flac"
    audio.write(path, noise, RATE)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(0).bytes(3000)
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"a\.flac.*damaged"):
        audio.read(path)


def test_no_such_file(tmp_path, lowpass):
    with pytest.raises(ParameterError, match=r"absent\.wav.*No such file"):
        audio.process(lowpass, tmp_path / "absent.wav", tmp_path / "y.wav")
    with pytest.raises(ParameterError, match="cannot be read"):
        audio.read(tmp_path)


# ---- processing


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_a_processed_file_is_the_filters_output_to_the_bit(tmp_path, noise, lowpass, rotation, block_size):
    audio.write(tmp_path / "stereo.wav", noise, RATE)
    audio.write(tmp_path / "mono.wav", noise[:, 0], RATE)
    cases = [
        ("mono", lowpass, lowpass(noise[:, :1])),
        ("stereo", rotation, rotation(noise)),
        ("stereo", lowpass, lowpass(noise.T[..., None])[..., 0].T),
        ("mono", gain([[1.0], [-2.0]]), noise[:, :1] * np.float32([1, -2])),
    ]
    for name, filt, expected in cases:
        report = audio.process(filt, tmp_path / f"{name}.wav", tmp_path / "y.wav", block_size=block_size, force=True)
        y, rate = audio.read(tmp_path / "y.wav")
        assert np.array_equal(y, expected)
        assert (report.n_frames, report.n_channels, report.sample_rate) == (*expected.shape, rate)
        assert report.peak_db == pytest.approx(20 * np.log10(np.abs(expected).max()))
        assert report.n_nonfinite == 0
        assert report.speed > 0


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_latency_is_compensated(tmp_path, noise, block_size):
    audio.write(tmp_path / "u.wav", noise, RATE)
    identity = Framed.spectral_gain(np.ones(129), n_fft=256)
    audio.process(identity, tmp_path / "u.wav", tmp_path / "y.wav", block_size=block_size)
    y, _ = audio.read(tmp_path / "y.wav")
    assert y.shape == noise.shape
    assert np.abs(y - noise).max() < 1e-6
    direct = identity(np.concatenate([noise, np.zeros((256, 2), np.float32)]).T[..., None])[:, 256:, 0].T
    assert np.array_equal(y, direct)


def test_a_lossy_encoder_gets_the_same_pieces_from_any_block_size(tmp_path, lowpass):
    audio.write(tmp_path / "u.wav", 0.1 * np.random.default_rng(0).standard_normal(50000), RATE)
    decoded = []
    for block_size in (64, 1000, 30000):
        audio.process(lowpass, tmp_path / "u.wav", tmp_path / "y.ogg", block_size=block_size, force=True)
        decoded.append(audio.read(tmp_path / "y.ogg")[0])
    assert np.array_equal(decoded[0], decoded[1])
    assert np.array_equal(decoded[0], decoded[2])


def test_the_tail_of_a_reverb(tmp_path):
    comb = DelayStateSpace([[0.5]], [[1]], [[1]], [[0]], [100])
    audio.write(tmp_path / "u.wav", np.eye(1, 50)[0], 1000)
    report = audio.process(comb, tmp_path / "u.wav", tmp_path / "y.wav", tail_s=0.4)
    y = audio.read(tmp_path / "y.wav")[0][:, 0]
    assert report.n_frames == y.size == 450
    assert {int(t): float(y[t]) for t in np.flatnonzero(y)} == {100: 1, 200: 0.5, 300: 0.25, 400: 0.125}
    with pytest.raises(ParameterError, match="tail_s=-1"):
        audio.process(comb, tmp_path / "u.wav", tmp_path / "z.wav", tail_s=-1)


def test_real_guitar(tmp_path, data_path, lowpass):
    source = data_path / "audio" / "pyneuralfx_example.wav"
    u, rate = soundfile.read(source, dtype="float32")
    report = audio.process(lowpass, source, tmp_path / "y.wav")
    y, _ = audio.read(tmp_path / "y.wav")
    assert (report.n_frames, report.sample_rate) == (u.size, rate)
    assert np.array_equal(y[:, 0], lowpass(u))
    assert report.speed > 1


@pytest.mark.parametrize("name", ["nam_input.wav", "nam_loudness_input.wav", "pyneuralfx_example.wav"])
def test_real_files_read_as_soundfile_reads_them(data_path, name):
    y, rate = audio.read(data_path / "audio" / name)
    expected, expected_rate = soundfile.read(data_path / "audio" / name, dtype="float32", always_2d=True)
    assert rate == expected_rate
    assert np.array_equal(y, expected)


def test_controls_hold_from_the_first_sample(tmp_path, noise):
    composition = pytest.importorskip("rnndsp.composition")
    product = composition.Knobs(gain([[1.0, 1.0]]), {"offset": 0.0})
    audio.write(tmp_path / "u.wav", noise[:, 0], RATE)
    audio.process(product, tmp_path / "u.wav", tmp_path / "y.wav", controls={"offset": 0.5})
    assert np.array_equal(audio.read(tmp_path / "y.wav")[0][:, 0], noise[:, 0] + np.float32(0.5))
    with pytest.raises(ParameterError, match=r"offfset.*offset"):
        audio.process(product, tmp_path / "u.wav", tmp_path / "z.wav", controls={"offfset": 0.5})
    assert not (tmp_path / "z.wav").exists()


def test_progress(tmp_path, lowpass):
    audio.write(tmp_path / "u.wav", np.zeros(40000), RATE)
    seen = []
    audio.process(lowpass, tmp_path / "u.wav", tmp_path / "y.wav", progress=lambda *now: seen.append(now), tail_s=1)
    assert [total for _, total in seen] == [40000 + RATE] * len(seen)
    assert len(seen) > 4
    assert seen == sorted(seen)
    assert seen[-1] == (40000 + RATE, 40000 + RATE)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_nan_in_a_file(tmp_path, noise, lowpass, block_size):
    bad = noise.copy()
    bad[1234, 0] = np.nan
    bad[2000, 1] = np.inf
    soundfile.write(tmp_path / "u.wav", bad, RATE, subtype="FLOAT")
    paths = tmp_path / "u.wav", tmp_path / "y.wav"
    with pytest.raises(NonFiniteError, match="sample 1234"):
        audio.process(lowpass, *paths, block_size=block_size)
    assert [path.name for path in tmp_path.iterdir()] == ["u.wav"]

    report = audio.process(lowpass, *paths, block_size=block_size, on_nonfinite="hold")
    held = noise.copy()
    held[1234, 0], held[2000, 1] = held[1233, 0], held[1999, 1]
    assert report.n_nonfinite == 2
    assert np.array_equal(audio.read(paths[1])[0], lowpass(held.T[..., None])[..., 0].T)

    report = audio.process(lowpass, *paths, block_size=block_size, on_nonfinite="reset", force=True)
    y = audio.read(paths[1])[0]
    assert report.n_nonfinite == 2
    assert y[1234, 0] == 0
    assert np.array_equal(y[:1234, 0], lowpass(noise[:1234, 0]))
    assert np.array_equal(y[1235:, 0], lowpass(noise[1235:, 0]))


def test_what_does_not_fit(tmp_path, noise, lowpass, rotation):
    audio.write(tmp_path / "stereo.wav", noise, RATE)
    audio.write(tmp_path / "mono.wav", noise[:, 0], RATE)
    stereo, mono, target = tmp_path / "stereo.wav", tmp_path / "mono.wav", tmp_path / "y.wav"
    with pytest.raises(ParameterError, match=r"has 1 channel, the filter 2 inputs.*a file of 2 channels"):
        audio.process(rotation, mono, target)
    with pytest.raises(ParameterError, match=r"has 2 channels, the filter 1 inputs and 2 outputs.*of 1 channels"):
        audio.process(gain([[1.0], [1.0]]), stereo, target)
    with pytest.raises(ParameterError, match="made for 48000 Hz; resample"):
        audio.process(lowpass.replace(sample_rate=48000), mono, target)
    with pytest.raises(ParameterError, match="same file"):
        audio.process(lowpass, mono, tmp_path / ".." / tmp_path.name / "mono.wav", force=True)
    with pytest.raises(ParameterError, match="block_size=0"):
        audio.process(lowpass, mono, target, block_size=0)
    with pytest.raises(ParameterError, match=r"peak is \+26.*PCM_24 clips"):
        audio.process(gain([[20 / np.abs(noise[:, 0]).max()]]), mono, tmp_path / "y.flac")
    stereo.replace(target)
    with pytest.raises(ParameterError, match="exists"):
        audio.process(lowpass, mono, target)
    assert np.array_equal(audio.read(target)[0], noise)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mono.wav", "y.wav"]


def test_memory_stays_constant(tmp_path, rotation):
    with soundfile.SoundFile(tmp_path / "u.wav", "w", RATE, 2, "PCM_16") as sound:
        second = 0.1 * np.random.default_rng(0).standard_normal((RATE, 2))
        for _ in range(60):
            sound.write(second)
    audio.process(rotation, tmp_path / "u.wav", tmp_path / "warm.wav", block_size=1024)
    tracemalloc.start()
    try:
        audio.process(rotation, tmp_path / "u.wav", tmp_path / "y.wav", block_size=1024)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # the signal takes 21 MB
    assert peak < 1e6


# ---- features


@pytest.mark.parametrize(("kind", "n_features"), [("mel", 40), ("chroma", 12), ("onset", 1)])
def test_features_are_librosas_with_time_first(data_path, kind, n_features):
    librosa = pytest.importorskip("librosa")
    u, rate = audio.read(data_path / "audio" / "pyneuralfx_example.wav")
    table = audio.features(u, rate, kind=kind)
    signal = u[:, 0]
    if kind == "mel":
        power = librosa.feature.melspectrogram(y=signal, sr=rate, n_fft=2048, hop_length=512, n_mels=40)
        expected = 10 * np.log10(np.maximum(power, 1e-10))
    elif kind == "chroma":
        expected = librosa.feature.chroma_stft(y=signal, sr=rate, n_fft=2048, hop_length=512)
    else:
        expected = librosa.onset.onset_strength(y=signal, sr=rate, hop_length=512)[None]
    assert table.shape == (1 + len(u) // 512, n_features)
    assert (table.dtype, table.flags.c_contiguous) == (np.float32, True)
    np.testing.assert_allclose(table, expected.T, rtol=1e-5, atol=1e-4)
    assert np.array_equal(audio.features(signal, rate, kind=kind), table)


def test_a_sine_lights_its_mel_band_and_its_chroma():
    pytest.importorskip("librosa")
    u = np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    chroma = audio.features(u, RATE, kind="chroma")
    assert chroma[10:-10].mean(axis=0).argmax() == 9  # A, of C = 0
    short = audio.features(u, RATE, hop_length=1000, n_mels=20)
    assert short.shape == (45, 20)
    quiet = audio.features(u / 10, RATE, hop_length=1000, n_mels=20)
    band = short.mean(axis=0).argmax()
    np.testing.assert_allclose(short[5:-5, band] - quiet[5:-5, band], 20, atol=1e-3)


def test_features_of_what_is_not_mono(monkeypatch):
    for u in (np.zeros((2000, 2)), np.zeros((2, 2000)), np.zeros(0), np.zeros((1, 1, 9))):
        with pytest.raises(ParameterError, match=r"mono.*u\.mean\(axis=1\)"):
            audio.features(u, RATE)
    with pytest.raises(ParameterError, match="int16"):
        audio.features(np.zeros(2000, np.int16), RATE)
    with pytest.raises(ParameterError, match="'mel', 'chroma' or 'onset'"):
        audio.features(np.zeros(2000), RATE, kind="mfcc")
    monkeypatch.setitem(sys.modules, "librosa", None)
    with pytest.raises(RnndspError, match=r"pip install 'rnndsp\[features\]'"):
        audio.features(np.zeros(2000), RATE)


def test_the_module_is_light():
    program = (
        "import sys, rnndsp.audio; print([m for m in ('soundfile', 'librosa', 'scipy.signal') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
