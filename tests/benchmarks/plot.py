"""Cost against size and voices, with the bounds of the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from tests.benchmarks.cells import GATES, bandwidth, flops, peak_flops


def draw(rows: Sequence[Mapping[str, Any]], path: Path, about: Mapping[str, str]) -> None:
    peak, caches = peak_flops(), {"L1": bandwidth(24_000), "L2": bandwidth(400_000)}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    names = {row["name"]: row["value"] for row in rows if row["group"] == "scaling"}
    n = np.geomspace(4, 256, 200)
    for colour, kind in zip(("C0", "C1", "C2"), GATES, strict=True):
        units = {int(k.split()[1]): v for k, v in names.items() if k.startswith(f"{kind},")}
        left.plot(list(units), list(units.values()), "o-", ms=4, color=colour, label=kind)
        voices = {int(k.split()[1]): v / int(k.split()[1]) for k, v in names.items() if k.startswith(f"{kind}-40,")}
        right.plot(list(voices), list(voices.values()), "o-", ms=4, color=colour, label=f"{kind}-40")
        right.axhline(flops(kind, 40) / peak * 1e6, ls=":", color=colour)
    lstm = np.array([flops("LSTM", k) for k in n])
    left.plot(n, lstm / peak * 1e6, "k:", label=f"LSTM, products: {peak / 1e9:.0f} GFLOP/s")
    for style, (name, bytes_a_second) in zip(("--", "-."), caches.items(), strict=True):
        label = f"LSTM, weights from {name}: {bytes_a_second / 1e9:.0f} GB/s"
        left.plot(n, 2 * lstm / bytes_a_second * 1e6, "k" + style, lw=1, label=label)  # 4 bytes serve 2 operations
    left.set(xscale="log", yscale="log", xlabel="hidden units", ylabel="µs a sample", title="One voice")
    right.set(xscale="log", xlabel="voices", ylabel="µs a sample and voice", title="Many voices, 40 units")
    right.set_ylim(0, None)
    for ax, ticks in ((left, (4, 8, 16, 32, 64, 128, 256)), (right, (1, 2, 4, 8, 16, 32, 64))):
        ax.set_xticks(ticks, [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8)
    left.set_ylim(2e-3, None)
    figure.suptitle(f"{about['machine']}, Numba {about['numba']}; dotted: products alone at the peak", fontsize=9)
    figure.savefig(path, dpi=120)
