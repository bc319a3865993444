"""Version of the package (single source)."""

__version__ = "0.1.0"
