"""The linear filters that live in the core, since everything linearises to them, under the roof of the filters."""

from rnndsp.statespace import DelayStateSpace, StateSpace

__all__ = ["DelayStateSpace", "StateSpace"]
