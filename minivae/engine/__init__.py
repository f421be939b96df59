"""How a step runs: backends, tracing, and the engines that make a list of operations fast."""

from .backend import get_backend
from .tracing import rows

__all__ = ["get_backend", "rows"]
