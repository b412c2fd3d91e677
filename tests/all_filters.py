"""One list of all filters, for every test that runs over them."""

from collections.abc import Callable

import numpy as np
from scipy import signal

import rnndsp
from rnndsp import Crossfade, Feedback, Framed, Knobs, Latency, Parallel, Residual, Smoothed, Stack, Zoned
from rnndsp.filters import (
    ARIMA,
    GRU,
    LMS,
    LSTM,
    NADE,
    NLMS,
    REN,
    RLS,
    SOS,
    AffineProjection,
    CoupledForm,
    DampedNetwork,
    DelayStateSpace,
    Dense,
    DiodeClipper,
    Elman,
    FeedbackDelayNetwork,
    GerzonAllpass,
    KalmanFilter,
    Lattice,
    Oversampled,
    ParaunitaryFIR,
    Reverb,
    Shaper,
    StateSpace,
    StateVariable,
    Taps,
    TransferFunction,
    closed_loop,
    named,
    nested_allpass,
    vector_allpass,
)

RATE = 48000


def _random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _stable(n: int, seed: int = 0) -> np.ndarray:
    A = _random(n, n, seed=seed)
    return 0.9 * A / np.max(np.abs(np.linalg.eigvals(A)))


FILTERS: dict[str, Callable[[], rnndsp.Filter]] = {
    "gain": lambda: rnndsp.gain(_random(2, 3)),
    "state space": lambda: StateSpace(_stable(5), _random(5, 2), _random(3, 5), _random(3, 2)),
    "delay state space": lambda: DelayStateSpace(
        0.2 * _random(3, 3), _random(3, 2), _random(2, 3), _random(2, 2), [1, 4, 13]
    ),
    "delay": lambda: rnndsp.delay(5, 2),
    "latency": lambda: Latency(7, 2),
    "sections": lambda: SOS(signal.ellip(6, 1, 60, 0.3, output="sos"), sample_rate=RATE),
    "transfer function": lambda: TransferFunction(*signal.butter(3, 0.2)),
    "fir": lambda: TransferFunction([0.5, 0.3, -0.2, 0.1], [1.0]),
    "arima": lambda: ARIMA([0.5, -0.2], [0.4], seasonal_ar=[0.3], seasonal_ma=[0.2, 0.1], season=4),
    "arima integrated": lambda: ARIMA(ma=[-0.4], d=1, seasonal_ma=[-0.5], seasonal_d=1, season=5),
    "dense": lambda: Dense(3, 2, seed=1),
    "dense tanh": lambda: Dense(2, 2, activation="tanh", seed=1),
    "dense sigmoid": lambda: Dense(2, 3, activation="sigmoid", seed=1),
    "state variable": lambda: StateVariable("lowpass", cutoff_hz=2000, q=2, sample_rate=RATE),
    "peaking": lambda: StateVariable("peaking", cutoff_hz=2000, q=2, gain_db=5, sample_rate=RATE),
    "high shelf": lambda: StateVariable("high_shelf", cutoff_hz=2000, gain_db=-9, sample_rate=RATE),
    "lattice": lambda: Lattice([-0.5, 0.7, 0.3], _random(4)),
    "modulated lattice": lambda: Lattice([-0.5, 0.7, 0.3], _random(4), modulated=True),
    "coupled form": lambda: CoupledForm(3000, t60_s=0.01, taps=[0.3, 1], sample_rate=RATE),
    "smoothed": lambda: Smoothed(StateVariable("lowpass", cutoff_hz=2000, q=2, sample_rate=RATE), 0.001),
    "smoothed cells": lambda: Smoothed(
        Knobs(LSTM(2, 3) >> Dense(3, 1), {"drive": 0.5}) >> rnndsp.delay(7), 0.001, sample_rate=RATE
    ),
    "elman": lambda: Elman(2, 5),
    "elman relu": lambda: Elman(1, 5, activation="relu").replace(b=0.1 * _random(5)),
    "elman identity": lambda: Elman(2, 4, activation="identity", recurrence="orthogonal").replace(b=np.zeros(4)),
    "elman orthogonal": lambda: Elman(1, 6, recurrence="orthogonal"),
    "elman diagonal": lambda: Elman(1, 6, recurrence="diagonal", sample_rate=RATE),
    "lstm": lambda: LSTM(2, 5).replace(b=0.3 * _random(20)),
    "lstm one unit": lambda: LSTM(1, 1),
    "lstm diagonal": lambda: LSTM(1, 9, recurrence="diagonal"),
    "lstm orthogonal": lambda: LSTM(1, 4, recurrence="orthogonal"),
    "gru after": lambda: GRU(2, 5).replace(b_rec=0.3 * _random(15)),
    "gru before": lambda: GRU(2, 5, reset="before").replace(b_rec=0.3 * _random(15)),
    "gru before diagonal": lambda: GRU(1, 17, reset="before", recurrence="diagonal"),
    "gru before orthogonal": lambda: GRU(1, 4, reset="before", recurrence="orthogonal"),
    "elman contracting": lambda: Elman(2, 5, recurrence="contracting", seed=2),
    "elman oscillating": lambda: Elman(1, 5, recurrence="oscillating"),
    "elman stable diagonal": lambda: Elman(1, 6, recurrence="stable_diagonal"),
    "gru antisymmetric": lambda: GRU(1, 4, recurrence="antisymmetric"),
    "lstm householder": lambda: LSTM(1, 4, recurrence="householder"),
    "ren": lambda: REN(2, 3, n_states=4, n_units=5, rate=0.95).replace(b_x=0.1 * _random(4), b_v=_random(5)),
    "ren relu": lambda: REN(1, 1, n_states=3, n_units=9, activation="relu", gain_bound=2).replace(b_v=_random(9)),
    "ren identity": lambda: REN(1, 2, n_states=3, n_units=2, activation="identity"),
    "nade": lambda: NADE(Elman(2, 4) >> Dense(4, 8), n_hidden=3),
    "nade without hidden units": lambda: NADE(Knobs(Dense(2, 3), {"temper": 0.5}), n_hidden=0),
    "gerzon allpass": lambda: GerzonAllpass([5, 7, 11], gain=0.5, matrix="random"),
    "nested allpass": lambda: nested_allpass([3, 5, 9], gains=[0.5, -0.6, 0.7]),
    "paraunitary fir": lambda: ParaunitaryFIR.random(2, 3, delays=[1, 4, 2]),
    "vector allpass": lambda: vector_allpass(rnndsp.delay(2, 2) >> GerzonAllpass([3, 5]), gain=-0.4),
    "elman givens": lambda: Elman(1, 6, recurrence="givens:3"),
    "gru urnn": lambda: GRU(1, 4, recurrence="urnn"),
    "schroeder allpass": lambda: GerzonAllpass([13], gain=-0.7),
    "fdn": lambda: FeedbackDelayNetwork(
        [7, 11, 13, 17], t60_s=0.01, sample_rate=RATE, n_channels=2, matrix="hadamard", dry=0.5
    ),
    "series": lambda: LSTM(1, 4) >> Dense(4, 2) >> GerzonAllpass([3, 5]),
    "stack": lambda: Stack(
        Dense(2, 1, activation="tanh", seed=1), StateVariable(sample_rate=RATE), rnndsp.delay(3) >> Latency(4)
    ),
    "stack shared": lambda: Stack(StateVariable(sample_rate=RATE), StateVariable(sample_rate=RATE), shared=True),
    "parallel with latency": lambda: Parallel(LSTM(1, 3) >> Dense(3, 1), rnndsp.gain(0.5) >> Latency(9)),
    "residual": lambda: Residual(GRU(1, 4) >> Dense(4, 1, activation="tanh")),
    "knobs": lambda: Residual(Knobs(LSTM(3, 4) >> Dense(4, 1), {"drive": 0.5, "tone": 0.2})),
    "feedback linear": lambda: Feedback(
        SOS(signal.butter(2, 0.3, output="sos")),
        StateSpace(_stable(2), _random(2, 1), 0.1 * _random(1, 2), [[0.2]]),
        delay=6,
    ),
    "feedback one sample": lambda: Feedback(Elman(1, 3) >> Dense(3, 1), -0.5, delay=1),
    "feedback nested": lambda: Feedback(
        Knobs(LSTM(2, 3) >> Dense(3, 1), {"drive": 0.5}),
        Feedback(StateVariable("bandpass", cutoff_hz=900, q=1, sample_rate=RATE), 0.3, delay=2),
        delay=4,
    ),
    "framed": lambda: Framed.spectral_gain(np.linspace(1, 0, 9), n_fft=16, hop_length=4),
    "framed recurrent": lambda: Framed(Elman(10, 6) >> Dense(6, 10), n_fft=8, hop_length=2),
    "echo": lambda: named("echo:delay_s=0.001", sample_rate=RATE),
    "reverb": lambda: named("reverb:t60_s=0.05,size=0.05", sample_rate=8000, n_channels=2),
    "lms": lambda: LMS(4, step=0.1),
    "nlms": lambda: NLMS(3, step=0.5, n_references=2, leak=0.01),
    "affine projection": lambda: AffineProjection(5, 3, step=0.7),
    "rls": lambda: RLS(3, forgetting=0.95, initial_covariance=1.0, n_references=2),
    "kalman": lambda: KalmanFilter(
        StateSpace(_stable(3), _random(3, 2), _random(2, 3), _random(2, 2)),
        process_noise=0.1,
        measurement_noise=[[0.3, 0.1], [0.1, 0.2]],
    ),
    "kalman joseph": lambda: KalmanFilter(
        StateSpace(_stable(3), _random(3, 1), _random(1, 3), _random(1, 1)),
        process_noise=0.1,
        measurement_noise=0.3,
        known_inputs=False,
        output="measurement",
        form="joseph",
    ),
    "shaper": lambda: Shaper([[-1, -0.3, 0.2], [-0.5, 0, 0.1]], [[-1, 0, 0.3], [0.1, 0.5, -0.2]]),
    "damped network": lambda: DampedNetwork(
        [7, 11, 13, 17, 19], t60_s=[0.01, 0.005], bands_hz=[1000, 9000], sample_rate=RATE, n_channels=2, dry=0.5
    ),
    "damped network with a knob": lambda: DampedNetwork(
        [7, 11, 13, 17, 19], t60_s=[0.01, 0.005], bands_hz=[1000, 9000], sample_rate=RATE, n_channels=2, control_s=0.01
    ),
    "crossfade": lambda: Crossfade(LSTM(1, 3) >> Dense(3, 1), StateVariable(sample_rate=RATE) >> Latency(4), mix=0.3),
    "damped network modulated": lambda: DampedNetwork(
        [7, 11, 13, 17, 19], t60_s=0.01, sample_rate=RATE, n_channels=2, modulation=0.5, modulation_hz=50
    ),
    "taps": lambda: Taps([0, 3, 11, 3], _random(4, 3, 2)),
    "diode clipper": lambda: DiodeClipper(gain_db=20, thermal_v=(0.09, 0.045), sample_rate=RATE),
    "oversampled": lambda: Oversampled(
        DiodeClipper(gain_db=20, knob="drive_db", sample_rate=3 * RATE) >> Latency(2), 3, reach=4
    ),
    "zoned": lambda: Zoned(Elman(1, 5), h=0.3),
    "closed loop": lambda: closed_loop(Elman(2, 5) >> Dense(5, 1)),
    "reverb modulated": lambda: Reverb("plate", t60_s=0.1, size=0.05, modulation=1.0, sample_rate=8000),
}
