"""Hierarchical text classification: sorting texts into a tree of labels."""

__version__ = "0.9.0"
