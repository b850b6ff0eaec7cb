"""The core that the gateway, the worker and training stand on."""

__version__ = "0.1.0"
