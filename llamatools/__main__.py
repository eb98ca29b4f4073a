"""`python -m llamatools`."""

from llamatools.cli.start import run

run()
