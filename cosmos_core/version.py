"""Versions that decide whether two results are the same."""

__all__ = ["CORE_VERSION"]

CORE_VERSION = "1"
"""Raised whenever the same request gives other pixels; part of every job id."""
