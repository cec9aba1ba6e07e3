"""Reads the computer. One reader a file; `detect` is the only name other rooms need."""

from localllm.machine.detect import detect

__all__ = ["detect"]
