"""The Secateur service: prunes language models for the languages their users speak."""

from importlib.metadata import version

__version__ = version("secateur")
