"""The public face of tuner; each name is loaded when it is first used."""

__version__ = "0.1.0"
