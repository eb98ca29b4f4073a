"""Where the console script begins, before anything is imported that takes time."""

from __future__ import annotations

import signal
import sys


def run() -> None:
    """Run the command line. Ctrl-C while modules load ends the process without a traceback."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from llamatools.cli.main import main

    sys.exit(main())
