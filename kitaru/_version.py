"""The version and the name of the distribution, in a file that imports nothing."""

__version__ = "0.1.0"

DISTRIBUTION = "kitaru-gitops"
"""The name of the package on an index; ``kitaru`` is the name to import."""
