"""What can go wrong, by name: every exception that rnndsp raises on purpose."""

__all__ = ["FormatError", "NonFiniteError", "ParameterError", "RnndspError"]


class RnndspError(Exception):
    """Root of all errors raised by rnndsp."""


class ParameterError(RnndspError, ValueError):
    """An argument has a wrong value, shape, dtype or sample rate; the message names the remedy."""


class FormatError(RnndspError, ValueError):
    """A file is damaged, is not what its name says, or holds something that cannot be loaded."""


class NonFiniteError(RnndspError, ArithmeticError):
    """NaN or infinity in a signal, or a filter that blew up, under the policy ``on_nonfinite="raise"``."""
