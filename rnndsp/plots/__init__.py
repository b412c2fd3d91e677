"""Pictures of a filter: poles, responses, decay, spectrograms and losses, thin functions on top of the data functions.

Each takes ``ax``, a matplotlib axes to draw into, and returns the artists it drew; without it a new pyplot figure is
opened. Colours are those of Okabe and Ito, which the colour-blind tell apart, and nothing is told by colour alone.
Frequencies and times are in Hz and seconds where the filter has a sample rate, else relative to it and in samples.
"""

import lazy_loader as _lazy

__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)
