"""Rest states and what flips them. Oracles: the fold of tanh in closed form, published findings, a plain NumPy loop."""

import json

import matplotlib
import numpy as np
import pytest

from rnndsp import Framed, Knobs, Parallel, gain
from rnndsp.composition import Residual
from rnndsp.errors import ParameterError
from rnndsp.filters import GRU, LSTM, Dense, Elman, FeedbackDelayNetwork, StateSpace, StateVariable
from rnndsp.plots import rest_probe_plot, rest_sweep_plot
from rnndsp.stability import probe_rest_states, probing, sweep_rest_states
from rnndsp.stability.probing import ADRIFT, BLOWN_UP, NO_REST, POWER_ON

matplotlib.use("Agg")

# x = tanh(2 x), and the constant input at which that rest state meets the unstable one and is gone
WELL = 0.9575040241
FOLD = 2 * np.sqrt(0.5) - np.arctanh(np.sqrt(0.5))


def elman(W, U, **config):
    U = np.atleast_2d(np.asarray(U, float))
    return Elman(1, len(U), **config).replace(W=np.reshape(W, (-1, 1)), U=U)


@pytest.fixture
def bistable():
    return elman([1.0], [[2.0]])


@pytest.fixture(scope="module")
def shared():
    """A second input of the unit is a knob: x = tanh(2 x + u + knob) has two rest states for |knob| below the fold."""
    cell = Elman(2, 1).replace(W=[[1.0, 1.0]], U=[[2.0]])
    return Knobs(cell, {"offset": 0.0}, low=-1, high=1)


def test_the_flip_of_a_bistable_unit_is_its_fold(bistable):
    """A long pulse flips it from just above the fold on: x^2 = 1 - 1/w, |u| = w x - artanh(x), .53284 for w = 2."""
    assert abs(FOLD - 0.532840) < 1e-6
    probe = probe_rest_states(bistable, durations_s=1.0, sample_rate=48000)
    a, b, c = probe.rest_states
    assert probe.power_on == "A" and a.dc == 0 and abs(a.pole - 2) < 1e-9 and not a.attracts and a.t60_s == np.inf
    assert a.share == 0 and 0.5 < b.share < 0.6 and abs(b.share + c.share - 1) < 1e-12
    wells = {np.sign(rest.dc[0]): rest for rest in (b, c)}
    for sign, rest in wells.items():
        assert abs(rest.dc[0] - sign * WELL) < 1e-9 and abs(rest.pole - 0.166372) < 1e-6 and rest.attracts
        assert abs(rest.t60_s + 3 / (48000 * np.log10(0.166372))) < 1e-9
        assert abs(rest.dc_db[0] - 20 * np.log10(WELL)) < 1e-8
        (flip,) = (t for t in probe.transitions if t.start == rest.name)
        assert flip.end == wells[-sign].name and flip.stimulus == "DC" and flip.duration_s == 1.0
        # above the fold by what a second's passage through the bottleneck takes, and by the step of the refinement
        assert 0 < -sign * flip.level / FOLD - 1 < 5e-4
        assert abs(flip.level_db - 20 * np.log10(FOLD)) < 0.01
    # from the top of the hill the gentlest stimulus tried will do, either way
    leaving = {t.end: t for t in probe.transitions if t.start == "A"}
    assert {t.end: np.sign(t.level) for t in leaving.values()} == {rest.name: sign for sign, rest in wells.items()}
    assert all(abs(t.level) < 1e-4 * 0.02 * 1.01 for t in leaving.values())
    assert not probe.unreached and not probe.unique and probe.no_rest == 0


def test_short_pulses_need_more(bistable):
    """Bisection by hand on a pulse of five samples."""
    probe = probe_rest_states(bistable, durations_s=5 / 44100, frequencies_hz=1000)
    (flip,) = (t for t in probe.transitions if t.start == "B")
    sign = -np.sign(probe["B"].dc[0])
    levels = np.linspace(FOLD, 2, 20001)
    x = np.full(levels.size, -sign * WELL)
    for t in range(200):
        x = np.tanh(2 * x + (sign * levels if t < 5 else 0))
    least = levels[np.argmax(x * sign > 0)]
    click = np.full(levels.size, -sign * WELL)
    for t in range(200):
        click = np.tanh(2 * click + (sign * 3 * levels if t < 1 else 0))
    assert flip.stimulus == "DC" and abs(flip.level - sign * least) < 2e-3
    assert 3 * levels[np.argmax(click * sign > 0)] > least  # so that the DC is the gentlest


def test_gain_is_that_of_the_small_signal_filter(bistable):
    """H = (1 - x^2) / (1 - 2 (1 - x^2) / z)."""
    probe = probe_rest_states(bistable, gain_hz=3000.0)
    slope = 1 - WELL**2
    expected = 20 * np.log10(abs(slope / (1 - 2 * slope * np.exp(-2j * np.pi * 3000 / 44100))))
    assert abs(probe["B"].gain_db[0] - expected) < 1e-6
    assert probe.rate_assumed and probe.sample_rate == 44100 and "44100 Hz are assumed" in str(probe)


def test_every_trial_is_what_a_plain_loop_gives(bistable):
    """Each stimulus, its sign, frequency, level and length as stated, and where it ends."""
    probe = probe_rest_states(bistable, levels=[0.3, 0.6, 1.5], durations_s=0.002, frequencies_hz=[110.0, 3000.0])
    rate = 44100
    assert {t.stimulus for t in probe.trials} == {"DC", "sine", "noise", "click"}
    assert len(probe.trials) == 3 * 3 * 7
    for trial in probe.trials:
        if trial.stimulus == "noise":
            continue
        t = np.arange(round(trial.duration_s * rate))
        assert t.size == (1 if trial.stimulus == "click" else 88)
        u = trial.level * (np.sin(2 * np.pi * trial.frequency_hz * t / rate) if trial.frequency_hz else np.ones(t.size))
        x = probe[trial.start].state.h[0]
        for value in np.append(u, np.zeros(300)):
            x = np.tanh(2 * x + value)
        assert np.abs(x - probe[trial.end].dc[0]) < 1e-6, trial


def test_the_number_of_rest_states_changes_at_the_folds(shared):
    sweep = sweep_rest_states(shared, "offset", np.linspace(-1, 1, 8), n_starts=4)
    np.testing.assert_allclose(sweep.boundaries, [-FOLD, FOLD], atol=2e-3)
    np.testing.assert_array_equal(sweep.counts, [[1, 2], [2, 1]])
    np.testing.assert_array_equal(sweep.n_rest, [1, 1, 2, 2, 2, 2, 1, 1])
    for value, found in zip(sweep.values, sweep.rest_states, strict=True):
        for rest in found:
            assert abs(rest.dc[0] - np.tanh(2 * rest.dc[0] + value)) < 1e-10 and rest.attracts
        # from zero it falls to the side of the offset
        assert np.sign(found[0].dc[0]) == np.sign(value) and found[0].power_on
    assert "two rest states" in str(sweep)
    json.dumps(sweep.as_dict(), allow_nan=False)


def test_a_state_that_random_starts_miss_is_found_beside(shared):
    """Without random starts the second state comes from the other values of the knob."""
    sweep = sweep_rest_states(shared, "offset", [-0.9, -0.4, 0.0, 0.4, 0.9], n_starts=0)
    # at 0 the third is the hill on which it stays when it is switched on
    np.testing.assert_array_equal(sweep.n_rest, [1, 2, 3, 2, 1])


def test_linear_filters_answer_at_once():
    probe = probe_rest_states(FeedbackDelayNetwork([70, 110, 130, 170], t60_s=0.5, sample_rate=48000))
    (rest,) = probe.rest_states
    assert rest.power_on and rest.share == 1 and rest.attracts and probe.unique and not probe.trials
    assert abs(rest.t60_s - 0.5) < 0.01 and np.all(rest.dc == 0)
    assert not probe.rate_assumed and "no other rest state" in str(probe)
    for radius in (1.0, 1.01):
        probe = probe_rest_states(StateSpace([[radius]], [[1]], [[1]], [[0]]), gain_hz=0)
        (rest,) = probe.rest_states
        assert rest.t60_s == np.inf and not rest.attracts and not probe.unique
    filt = StateVariable("lowpass", cutoff_hz=2000, q=2, sample_rate=48000)
    sweep = sweep_rest_states(filt, "cutoff_hz", [200.0, 2000.0])
    assert sweep.boundaries.size == 0 and list(sweep.n_rest) == [1, 1]
    assert sweep.rest_states[1][0].gain_db[0] > sweep.rest_states[0][0].gain_db[0]


def test_contraction_leaves_nothing_to_search():
    probe = probe_rest_states(elman([1.0], [[0.5]]).replace(b=[0.3]))
    (rest,) = probe.rest_states
    assert abs(rest.dc[0] - np.tanh(0.5 * rest.dc[0] + 0.3)) < 1e-12
    assert "no other rest state" in str(probe) and not probe.trials and probe.no_rest == 0


def test_what_never_rests_is_not_matched_by_force():
    turn = 1.2 * np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    circling = probe_rest_states(elman([1.0, 0.0], turn), settle_s=0.5, n_starts=20)
    assert [rest.name for rest in circling.rest_states] == ["A"] and not circling["A"].attracts
    assert circling.no_rest == 1 and 0.5 <= circling.waited_s < 0.6
    assert {t.end for t in circling.trials} == {NO_REST} and "no rest state within 0.5 s" in str(circling)

    # u is added up, and every number is a rest state
    sums = elman([1.0], [[1.0]], activation="relu").replace(b=[0.0])
    adrift = probe_rest_states(sums.replace(W=[[1.0]]), n_starts=20)
    assert adrift.no_rest > 0.3 and ADRIFT in {t.end for t in adrift.trials}

    blown = probe_rest_states(elman([1.0], [[2.0]], activation="relu"), n_starts=50)
    assert BLOWN_UP in {t.end for t in blown.trials} and 0.2 < blown.no_rest < 0.8
    assert blown["A"].dc == 0 and abs(blown["A"].share + blown.no_rest - 1) < 1e-12

    rising = probe_rest_states(elman([1.0], [[1.0]], activation="identity").replace(b=[0.1]), settle_s=0.1, n_starts=3)
    assert rising.power_on == NO_REST and rising.rest_states == () and "has not come to rest" in str(rising)
    for probe in (circling, adrift, blown, rising):
        json.dumps(probe.as_dict(), allow_nan=False)
        rest_probe_plot(probe)


def test_random_cells_have_the_rest_states_of_a_plain_loop():
    """Wherever 400 random states settle by NumPy alone is listed, with their share; and what is listed is true."""
    several = 0
    for seed in range(25):
        rng = np.random.default_rng(seed)
        U, b = 1.6 * rng.standard_normal((2, 2)), 0.2 * rng.standard_normal(2)
        probe = probe_rest_states(elman([1.0, 0.5], U).replace(b=b), levels=[0.5], settle_s=0.5)
        several += len(probe.rest_states) > 1
        for rest in probe.rest_states:
            x = rest.state.h
            assert np.max(np.abs(np.tanh(U @ x + b) - x)) < 1e-10
            radius = np.max(np.abs(np.linalg.eigvals((1 - x[:, None] ** 2) * U)))
            assert abs(radius - abs(rest.pole)) < 1e-8 and rest.attracts == (radius < 1)
        if not probe.trials:
            continue  # it contracts
        x = rng.uniform(-1, 1, (400, 2))
        for _ in range(6000):
            before, x = x, np.tanh(x @ U.T + b)
        rests = np.max(np.abs(x - before), axis=1) < 1e-12
        assert abs(np.mean(~rests) - probe.no_rest) < 0.12
        ends = np.array([rest.state.h for rest in probe.rest_states]).reshape(-1, 2)
        apart = np.max(np.abs(x[rests, None] - ends), axis=2)
        assert np.all(np.min(apart, axis=1, initial=np.inf) < 1e-8)
        for place, rest in enumerate(probe.rest_states):
            assert abs(np.count_nonzero(apart[:, place] < 1e-8) / 400 - rest.share) < 0.12
    assert several >= 5


def test_passing_by_a_saddle_is_no_rest():
    """diag(1.001, 0.5): after a sound the quick unit comes home to zero at once, the other goes away for seconds."""
    saddle = elman([1e-5, 1.0], [[1.001, 0], [0, 0.5]])
    probe = probe_rest_states(saddle, n_starts=20, levels=[0.5], durations_s=0.001)
    assert {np.sign(rest.dc[0]) for rest in probe.rest_states} == {-1, 0, 1}
    ends = {(t.stimulus, t.frequency_hz, t.level): probe[t.end].dc[0] for t in probe.trials if t.start == "A"}
    assert len(ends) == 9 and all(ends.values())
    assert ends["DC", None, 0.5] > 0 > ends["DC", None, -0.5] and ends["click", None, 0.5] > 0


def test_a_tail_is_not_waited_for(bistable):
    """Combs that ring for 100 s: after seconds of silence they are still far from rest, but where they go is clear."""
    ring = FeedbackDelayNetwork([50, 61], t60_s=100, sample_rate=8000, n_channels=1)
    probe = probe_rest_states(bistable >> ring, n_starts=20, settle_s=20)
    assert sorted(np.sign(rest.dc[0]) for rest in probe.rest_states) == [-1, 0, 1] and probe.no_rest == 0
    # DC gain of the ring: the rest states of the whole are those of the unit, through it
    dc = ring.linearize().frequency_response(0)[0, 0, 0].real
    assert abs(abs(probe["B"].dc[0]) / (WELL * dc) - 1) < 1e-6
    assert {(t.start, t.end) for t in probe.transitions} == {("A", "B"), ("A", "C"), ("B", "C"), ("C", "B")}


def test_several_inputs_are_played_together_or_one_alone():
    cell = Elman(2, 1).replace(W=[[1.0, 0.0]], U=[[2.0]])
    loud = probe_rest_states(cell, n_starts=20)
    assert loud.channel is None and ("B", "C") in {(t.start, t.end) for t in loud.transitions}
    deaf = probe_rest_states(cell, n_starts=20, channel=1)
    # the second input does nothing, also not on the hill, from which nothing else leads
    assert not deaf.transitions and set(deaf.unreached) == {"B", "C"} and deaf["B"].gain_db == -np.inf
    assert "No stimulus tried leads to B or C" in str(deaf)
    heard = probe_rest_states(cell, n_starts=20, channel=0)
    assert heard.transitions == loud.transitions


def test_seeds_reproduce_and_batches_do_not_matter(bistable, monkeypatch):
    one = probe_rest_states(bistable, n_starts=30, seed=3)
    monkeypatch.setattr(probing, "BUFFER", 2**14)
    assert probe_rest_states(bistable, n_starts=30, seed=3).as_dict() == one.as_dict()
    assert probe_rest_states(bistable, n_starts=30, seed=4)["B"].share != one["B"].share


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"levels": []}, "levels"),
        ({"levels": [0.1, -1]}, "levels"),
        ({"levels": "loud"}, "levels"),
        ({"levels": np.linspace(0.1, 1, 9000)}, "leave some out"),
        ({"durations_s": [np.nan]}, "durations_s"),
        ({"durations_s": 1e6}, "samples"),
        ({"frequencies_hz": [30000.0]}, "frequencies_hz"),
        ({"gain_hz": 30000.0}, "gain_hz"),
        ({"n_starts": -1}, "n_starts"),
        ({"n_starts": 10**9}, "n_starts"),
        ({"seed": 0.5}, "seed"),
        ({"channel": 1}, "channel"),
        ({"settle_s": 0}, "settle_s"),
        ({"sample_rate": -1}, "sample_rate"),
        ({"controls": {"drive": 1}}, "drive"),
    ],
)
def test_wrong_arguments(bistable, arguments, said):
    with pytest.raises(ParameterError, match=said):
        probe_rest_states(bistable, **arguments)


def test_wrong_filters_and_knobs(shared):
    with pytest.raises(ParameterError, match="frames"):
        probe_rest_states(Framed.spectral_gain(np.ones(9), n_fft=16, hop_length=4))
    with pytest.raises(ParameterError, match="48000"):
        probe_rest_states(StateVariable("lowpass", cutoff_hz=2000, q=2, sample_rate=48000), sample_rate=44100)
    for controls in ({"offset": np.nan}, {"offset": [0.1, 0.2]}, {"offset": 7}):
        with pytest.raises(ParameterError, match="offset"):
            probe_rest_states(shared, controls=controls)
    for values in (1, [0.5], [0.1, np.nan], [0, 3], "all"):
        with pytest.raises(ParameterError, match=r"values|offset"):
            sweep_rest_states(shared, "offset", values)
    with pytest.raises(ParameterError, match="no control"):
        sweep_rest_states(shared, "drive")


def test_plots_show_the_numbers(bistable, shared, ax):
    probe = probe_rest_states(bistable)
    artists = rest_probe_plot(probe, ax=ax)
    assert len(artists) == len(probe.rest_states) + len(probe.transitions) == 7
    for circle, rest in zip(artists, probe.rest_states, strict=False):
        np.testing.assert_allclose(circle.get_offsets(), [[rest.dc[0], rest.gain_db[0]]])
    assert ax.get_legend().get_texts()[0].get_text().startswith("1  A → B: a click")
    sizes = [circle.get_sizes()[0] for circle in artists[:3]]
    assert sizes[0] < min(sizes[1:])
    ax.clear()
    sweep = sweep_rest_states(shared, "offset", np.linspace(-1, 1, 8), n_starts=4)
    for quantity in ("dc", "gain"):
        power_on, others = rest_sweep_plot(sweep, quantity, ax=ax)
        assert power_on.get_xdata().size == 8 and others.get_xdata().size == 4
    np.testing.assert_allclose(
        others.get_ydata(), [found[1].gain_db[0] for found in sweep.rest_states if len(found) > 1]
    )
    for wrong in (lambda: rest_probe_plot(probe, output=1), lambda: rest_sweep_plot(sweep, "phase")):
        with pytest.raises(ParameterError):
            wrong()


# ---- real captures


@pytest.fixture(scope="module")
def captures(data_path):
    folder = data_path / "models" / "guitarml"
    if not folder.is_dir():
        pytest.skip(f"no captures: {folder} is absent")
    return folder


def weights(path):
    model = json.loads(path.read_text())
    return model["model_data"], {name: np.array(value) for name, value in model["state_dict"].items()}


def capture(path):
    """y = dense(cell(u, knob)) + u, at 44.1 kHz."""
    about, arrays = weights(path)
    kind = {"LSTM": LSTM, "GRU": GRU}[about["unit_type"]]
    parts = [{k: v for k, v in arrays.items() if k.startswith(room)} for room in ("rec.", "lin.")]
    net = kind.from_torch(parts[0], prefix="rec.") >> Dense.from_torch(parts[1], prefix="lin.")
    if net.n_inputs == 1:
        return Residual(net)
    return Knobs(Parallel(net, gain(np.eye(1, net.n_inputs))), {"knob": 0.5})


def plain_ends(path, knob, x, u, n_silent=30000):
    """Output after silence of voices that start at states (n, 2 H) of an LSTM and hear u (n, n_frames): NumPy alone."""
    _, a = weights(path)
    W, U, b = a["rec.weight_ih_l0"], a["rec.weight_hh_l0"], a["rec.bias_ih_l0"] + a["rec.bias_hh_l0"]
    b = b + (W[:, 1] * knob if W.shape[1] > 1 else 0)
    h, c = np.split(np.array(x), 2, axis=1)

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    for frame in np.vstack([u.T, np.zeros((n_silent, len(h)))]):
        i, f, g, o = np.split(frame[:, None] * W[:, 0] + h @ U.T + b, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
    return h @ a["lin.weight"][0] + a["lin.bias"]


@pytest.fixture(scope="module")
def ts9(captures):
    return probe_rest_states(capture(captures / "NeuralPi_TS9.json"), sample_rate=44100)


@pytest.fixture(scope="module")
def rat(captures):
    return probe_rest_states(capture(captures / "NeuralPi_ProCoRat.json"), sample_rate=44100)


def test_ts9(ts9):
    """Published: two rest states, a quarter of the random ones in the second, 6.9 dB between them at 1 kHz."""
    a, b = ts9.rest_states
    assert ts9.power_on == "A" and a.attracts and b.attracts and ts9.no_rest == 0
    assert abs(a.gain_db[0] - 25.8) < 0.05 and abs(b.gain_db[0] - 18.9) < 0.05
    assert abs(b.share - 0.25) < 0.1
    # from power-on a DC of 0.5 for 0.2 s leads there, but no simple stimulus from the settled state
    ends = {(t.start, t.stimulus, t.level): t.end for t in ts9.trials if t.frequency_hz is None}
    assert ends[POWER_ON, "DC", 0.5] == "B" and ends[POWER_ON, "DC", -0.5] == "A"
    assert {t.end for t in ts9.trials if t.start == "A"} == {"A"}
    assert [(t.start, t.end) for t in ts9.transitions] == [(POWER_ON, "B"), ("B", "A")] and not ts9.unreached
    said = str(ts9)
    assert "knob at 0.5: two rest states" in said and "6.9 dB quieter than in A" in said
    assert "Right after power-on, a thump (DC) at 0.365 (-8.8 dB) for 0.2 s leaves it in B." in said
    assert "None of the 72 stimuli played in A changes where it ends." in said


def test_ts9_is_bistable_between_046_and_061_only(captures):
    filt = capture(captures / "NeuralPi_TS9.json")
    sweep = sweep_rest_states(filt, "knob", 11, n_starts=16)
    np.testing.assert_array_equal(sweep.n_rest, [1, 1, 1, 1, 1, 2, 2, 1, 1, 1, 1])
    # by a plain loop that follows each state in steps of the knob: it is gone at .449, and at .617 the other
    np.testing.assert_allclose(sweep.boundaries, [0.4495, 0.6165], atol=1.5e-3)
    for knob in (0.0, 1.0):
        probe = probe_rest_states(filt, controls={"knob": knob}, n_starts=50)
        assert len(probe.rest_states) == 1 and not probe.transitions and probe["A"].share == 1


def test_procorat(rat):
    """Published: an ordinary 1 kHz sine at 0.02 for 0.2 s throws it from its settled state into another."""
    assert rat.power_on == "A" and rat.no_rest == 0
    (end,) = (t.end for t in rat.trials if (t.start, t.frequency_hz, t.level) == ("A", 1000.0, 0.02))
    assert end != "A" and abs(rat[end].dc[0] - rat["A"].dc[0] - 1.07e-3) < 1e-5
    assert abs(rat[end].gain_db[0] - rat["A"].gain_db[0]) < 0.5
    assert all(rest.attracts for rest in rat.rest_states)
    # and it is told, though a soft thump does the same
    (flip,) = (t for t in rat.transitions if (t.start, t.end) == ("A", end))
    assert flip.stimulus == "DC" and "sine" in [other.stimulus for other in rat.others(flip)]
    assert "and so does a 1000 Hz sine at 0.02" in str(rat)
    assert len(rat.rest_states) == 3 and not rat.unreached  # the third is reached by a loud DC, which was not published


def test_captures_against_a_plain_loop(captures, ts9, rat):
    """The gentlest level of each flip by DC does it, and one a hundredth lower does not."""
    for name, probe in (("NeuralPi_TS9.json", ts9), ("NeuralPi_ProCoRat.json", rat)):
        flips = [t for t in probe.transitions if t.stimulus == "DC"]
        assert len(flips) >= 2
        start = {POWER_ON: np.zeros(40), **{rest.name: rest.state.ravel() for rest in probe.rest_states}}
        x = [start[t.start] for t in flips for _ in range(2)]
        u = np.array([part * t.level for t in flips for part in (1.0, 0.99)])[:, None] * np.ones(8820)
        ends = plain_ends(captures / name, 0.5, x, u).reshape(-1, 2)
        for flip, (done, kept) in zip(flips, ends, strict=True):
            stays = probe.power_on if flip.start == POWER_ON else flip.start
            assert abs(done - probe[flip.end].dc[0]) < 1e-6, flip
            assert abs(kept - probe[flip.end].dc[0]) > 1e-4, (flip, stays)


@pytest.mark.parametrize(
    "name",
    [
        "NeuralPi_BluesJr",
        "ht1_lstm32",
        "ht1_gru32",
        "Proteus_BlackstarHT40_AmpHighGain",
        "Proteus_TS9_DriveKnob",
    ],
)
def test_healthy_captures_have_one_rest_state(captures, name):
    probe = probe_rest_states(capture(captures / f"{name}.json"), n_starts=40, levels=[0.1, 1.0], sample_rate=44100)
    (rest,) = probe.rest_states
    assert rest.share == 1 and rest.attracts and not probe.transitions and probe.power_on == "A"
