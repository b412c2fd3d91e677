"""``python -m rnndsp`` is the command ``rnndsp``."""

from rnndsp.cli import main

main()
