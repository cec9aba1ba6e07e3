"""The machine as it is now, for verbs that plan without loading."""

import asyncio

from localllm.cli.hardware import engine_build
from localllm.core.hardware import HardwareInfo
from localllm.errors import EngineError
from localllm.machine import detect


def machine_now() -> HardwareInfo:
    """Detect; the engine is asked what it can use only when there is a device to be used, so
    that planning on a machine without a GPU starts no process."""
    found = detect(None)
    if not found.devices:
        return found
    try:
        return detect(asyncio.run(engine_build()))
    except (EngineError, TimeoutError):
        return found
