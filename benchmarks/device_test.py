"""How far a device's logits are from the processor's, by model and type of the cache.

The test that a GPU has to pass before it answers (docs/gpu.md), on the files that are given; each
with a cache of f16 and of q8_0, in a process of its own. The times are those of two loads, a text
of 32 tokens on the processor and the same on the device.

    python benchmarks/device_test.py [--device Vulkan0] MODEL.gguf...
"""

import argparse
import asyncio
import time
from pathlib import Path

from localllm.core.sizing.load import KvType, LoadSettings
from localllm.engine.client.client import ProcessEngine
from localllm.engine.messages import Loaded, LoadRequest
from localllm.errors import LocalLLMError

CONTEXT = 512


async def measured(path: Path, device: str, kv_type: KvType) -> str:
    """Return one row of the table."""
    settings = LoadSettings(
        context=CONTEXT, devices=(device,), kv_type_k=kv_type, kv_type_v=kv_type
    )
    request = LoadRequest(path=str(path), settings=settings, test_devices=True)
    engine, started = ProcessEngine(), time.monotonic()
    try:
        async for event in engine.load(request):
            if isinstance(event, Loaded) and (test := event.device_test) is not None:
                seconds = time.monotonic() - started
                verdict = "passed" if test.passed else "FAILED"
                return (
                    f"| {path.name} | {kv_type} | {test.mean_kl:.2g} | {test.agreement:.0%} of "
                    f"{test.rows} | {verdict} | {seconds:.0f} s |"
                )
    except LocalLLMError as error:
        return f"| {path.name} | {kv_type} | {error} |"
    finally:
        await engine.close()
    raise AssertionError("a load ends with Loaded")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf")
    parser.add_argument("--device", default="Vulkan0", help="the engine's name of it")
    options = parser.parse_args()
    print("| model | cache | mean KL | same token | verdict | both loads and texts |")
    print("| --- | --- | --- | --- | --- | --- |")
    for path in options.models:
        for kv_type in (KvType.F16, KvType.Q8_0):
            print(await measured(path, options.device, kv_type), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
