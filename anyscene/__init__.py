"""Scene customization: composited foregrounds and prompts in, whole scenes out."""

__version__ = "0.1.0"
