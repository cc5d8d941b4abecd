"""distillab: distil large language models into small ones, and know why it works or does not."""

__version__ = "0.1.0"
