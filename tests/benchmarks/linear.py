"""Linear filters against SciPy and pedalboard."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import signal

from rnndsp.filters import SOS, DelayStateSpace, StateSpace
from tests.benchmarks.measuring import Row, medians

RATE = 48000


def linear(seconds: float = 2.0) -> Iterator[Row]:
    rng = np.random.default_rng(0)
    u = rng.standard_normal(round(seconds * RATE))
    many = rng.standard_normal((16, round(seconds * RATE / 8)))
    for order in (2, 4, 12):
        sos = signal.butter(order, 0.2, output="sos")
        ours = SOS(sos)
        for name, x, bound in (("", u, 1), (", 16 channels", many, 3)):
            calls = {
                "ours": lambda f=ours, x=x: f(x if x.ndim == 1 else x[..., None]),
                "scipy": lambda s=sos, x=x: signal.sosfilt(s, x),
            }
            times = medians(calls, x.shape[-1])
            ratio = times["scipy"] / times["ours"]
            yield Row(
                f"SOS order {order}{name}",
                times["ours"],
                "us/frame",
                "scipy sosfilt",
                times["scipy"],
                ratio,
                at_least=bound,
            )
    A = rng.standard_normal((16, 16))
    A *= 0.95 / np.abs(np.linalg.eigvals(A)).max()
    space = (A, rng.standard_normal((16, 2)), rng.standard_normal((2, 16)), np.zeros((2, 2)))
    mimo, x = StateSpace(*space), rng.standard_normal((5000, 2))
    times = medians({"ours": lambda: mimo(x), "scipy": lambda: signal.dlsim((*space, 1), x)}, len(x), repeats=5)
    ratio = times["scipy"] / times["ours"]
    yield Row(
        "StateSpace, 16 states, 2x2", times["ours"], "us/frame", "scipy dlsim", times["scipy"], ratio, at_least=50
    )
    yield from reverb(u)


def reverb(u: np.ndarray) -> Iterator[Row]:
    """A stereo feedback delay network with 16 lines."""
    try:
        import pedalboard
    except ImportError:
        return
    rng = np.random.default_rng(0)
    delays = [601, 773, 911, 1063, 1201, 1399, 1523, 1669, 1801, 1931, 2069, 2203, 2333, 2473, 2617, 2749]
    Q = np.linalg.qr(rng.standard_normal((16, 16)))[0]
    gains = 10 ** (-3 * np.array(delays) / (2.0 * RATE))  # 60 dB in 2 s
    network = DelayStateSpace(
        gains[:, None] * Q, rng.standard_normal((16, 2)), rng.standard_normal((2, 16)) / 16, np.eye(2), delays
    )
    stereo = np.stack([u, u[::-1]], axis=1).astype(np.float32)
    rival, planes = pedalboard.Reverb(), np.ascontiguousarray(stereo.T)
    times = medians({"ours": lambda: network(stereo), "rival": lambda: rival(planes, RATE)}, len(u))
    ratio = times["ours"] / times["rival"]
    yield Row(
        "FDN, 16 lines, stereo", times["ours"], "us/frame", "pedalboard Reverb", times["rival"], ratio, at_most=2.5
    )
