"""Which graphopt this is: what every file that it writes says."""

from importlib.metadata import version

VERSION = version("graphopt")
