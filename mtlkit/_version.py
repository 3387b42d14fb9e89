"""The version of mtlkit, written here and nowhere else: the build and ``mtlkit --version`` both read it."""

__version__ = "0.1.0"
