"""Where the verbs that size find the machine as it is now."""

from localllm.planning import machine_now

__all__ = ["machine_now"]
