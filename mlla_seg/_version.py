"""The version of the package, which nothing else defines."""

__version__ = "0.1.0"
