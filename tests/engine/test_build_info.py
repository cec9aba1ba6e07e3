"""What the build says of its devices: the real library, and figures that other backends give."""

import pytest

from localllm.engine.client.client import ProcessEngine
from localllm.engine.worker.llama.build_info import buffer_cap

GIB = 2**30
NO_LIMIT = 2**64 - 1  # SIZE_MAX: what a backend without `get_max_size` answers


@pytest.mark.parametrize(
    ("device", "size_bytes", "cap"),
    [
        ("CPU", NO_LIMIT, None),
        ("CUDA0", NO_LIMIT, None),
        ("MTL0", 9 * GIB, 9 * GIB),  # maxBufferLength
        ("SYCL0", 4 * GIB, 4 * GIB),
        ("GPUOpenCL", GIB, GIB),
        ("Vulkan0", GIB, None),  # the size of its blocks: larger tensors get a block of their own
        ("RPC0", 0, None),
    ],
)
def test_a_backends_largest_buffer_is_a_cap_only_where_it_means_one(
    device: str, size_bytes: int, cap: int | None
) -> None:
    assert buffer_cap(device, size_bytes) == cap


async def test_the_processor_takes_a_buffer_of_any_size() -> None:
    engine = ProcessEngine()
    build = await engine.describe()
    await engine.close()
    (processor,) = [device for device in build.devices if device.kind == "cpu"]
    assert processor.max_buffer_bytes is None
    assert processor.total_bytes
