"""Every filter passes the conformance suite, and the suite catches filters that break a promise."""

import numpy as np
import pytest
from all_filters import FILTERS

from rnndsp import StateSpace
from rnndsp.filters import Elman
from rnndsp.testing import check_filter


@pytest.mark.parametrize("name", FILTERS)
def test_conformance(name):
    check_filter(FILTERS[name]())


ONE = ([[0.5]], [[1.0]], [[1.0]], [[0.3]])


class SaturatesNot(Elman):
    def _setup(self):
        super()._setup()
        self.saturating = True


class SeesBlocks(StateSpace):
    def _advance(self, u, state, y):
        super()._advance(u, state, y)
        y[:, :1] += 1e-12


class LooksAhead(StateSpace):
    def _advance(self, u, state, y):
        super()._advance(u, state, y)
        y += u.sum() * (u.shape[1] > 90)


class WrongSlope(StateSpace):
    def _adjoint(self, memory, dy, dx):
        du, dx, params = super()._adjoint(memory, dy, dx)
        return du, dx, {**params, "B": params["B"] * 1.001}


class WrongJacobian(Elman):
    def _linearize(self, state, u):
        linear = super()._linearize(state, u)
        return linear.replace(D=0 * linear.D)


class ChangesItsInput(StateSpace):
    def _accept(self, u, controls, sample_rate):
        if isinstance(u, np.ndarray) and u.flags.writeable and u.dtype == np.float32:
            u *= 2
        return super()._accept(u, controls, sample_rate)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda: SaturatesNot(1, 3, activation="identity"), "said to saturate"),
        (lambda: SeesBlocks(*ONE), "blocks change the output"),
        (lambda: LooksAhead(*ONE), "blocks change the output|future"),
        (lambda: WrongSlope(*ONE), "gradient by B"),
        (lambda: WrongJacobian(1, 3), "D of linearize"),
        (lambda: ChangesItsInput(*ONE), "input was changed"),
    ],
)
def test_the_suite_catches(broken, said):
    with pytest.raises(AssertionError, match=said):
        check_filter(broken())
