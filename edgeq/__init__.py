"""edgeq: exact, measured quantization of vision models for small devices."""

__version__ = "0.1.0"
