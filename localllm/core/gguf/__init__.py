"""GGUF header bytes in, a ModelSpec that native code may be shown out: the gatekeeper.

llama.cpp's reader has been crashed, made to over-allocate and made to read beyond its buffers by
crafted files (the list is in SECURITY.md). No file reaches it before `read` has passed it.
"""

from localllm.core.gguf.byte_reader import HeaderIncomplete
from localllm.core.gguf.header import read

__all__ = ["HeaderIncomplete", "read"]
