"""`python -m llamatools`."""

from llamatools.cli.main import run

run()
