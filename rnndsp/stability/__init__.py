"""Is it stable, in which sense, and how do we know: the same questions to a biquad, a delay network and an LSTM.

Names are loaded when they are first used; the list of them is the stub beside this file.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
