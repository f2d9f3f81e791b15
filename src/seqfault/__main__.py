"""The command, and `python -m seqfault`.

It takes a third of a second to import what the command line needs.  Ctrl-C in that time ends the process as a signal
does, without Python's traceback; who started it with Ctrl-C ignored goes on.
"""

from __future__ import annotations

import signal
from typing import Any


def main() -> Any:
    """Entry point."""
    before = signal.getsignal(signal.SIGINT)
    mine = before is signal.default_int_handler
    if mine:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from seqfault import cli

    if mine:
        signal.signal(signal.SIGINT, before)
    return cli.main()


if __name__ == "__main__":
    main()
