"""graphopt makes multi-person pose models fast on phones: photo in, poses out."""

from importlib.metadata import version

__version__ = version("graphopt")
