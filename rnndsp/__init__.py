"""rnndsp: recurrent networks as nonlinear IIR filters.

The core (this package) is what a filter is and everything that works on any filter. The filters themselves are in
:mod:`rnndsp.filters`. Names are loaded when they are first used; the list of them is the stub beside this file.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
__version__ = "0.1.0"
