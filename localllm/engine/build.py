"""The installed llama.cpp, asked what it is by a process that lives only for that."""

import asyncio

from localllm.core.hardware import EngineBuild
from localllm.engine.client import ProcessEngine

ENGINE_TIMEOUT_S = 60.0
"""A first import from a cold disk takes seconds; a hung driver for ever."""


async def engine_build() -> EngineBuild:
    """Ask the installed engine what it is. Raises EngineError classes and TimeoutError."""
    engine = ProcessEngine()
    try:
        async with asyncio.timeout(ENGINE_TIMEOUT_S):
            return await engine.describe()
    finally:
        await engine.close()
