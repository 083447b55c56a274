"""fastconv once more, in a process of its own: for a case's work without padding, beside the one with lengths."""

from .fastconv import build, threads, version

__all__ = ["build", "threads", "version"]
