from localllm.core.hardware import Backend, Device, DeviceKind, EngineBuild, EngineDevice, Memory
from localllm.machine.vulkan import backend_of, join
from tests.machine.trees import GIB

RAM = Memory(total_bytes=32 * GIB, available_bytes=12 * GIB)


def listed(
    name: str, description: str, total: int | None = None, kind: str = "gpu"
) -> EngineDevice:
    return EngineDevice(
        name=name, description=description, kind=kind, total_bytes=total, free_bytes=total
    )


def build(*devices: EngineDevice) -> EngineBuild:
    cpu = EngineDevice(name="CPU", description="AMD Ryzen", kind="cpu")
    backends = ("CPU", *{device.name.rstrip("0123456789") for device in devices})
    return EngineBuild(
        version="0.3.36",
        commit=None,
        backends=backends,
        gpu_offload=bool(devices),
        devices=(cpu, *devices),
    )


def nvidia(name: str = "NVIDIA GeForce RTX 3090", total: int = 24 * GIB) -> Device:
    return Device(
        kind=DeviceKind.GPU,
        name=name,
        backend=Backend.CUDA,
        total_bytes=total,
        free_bytes=total - GIB,
        driver="550",
    )


def amd(total: int = 16 * GIB) -> Device:
    return Device(
        kind=DeviceKind.GPU,
        name="AMD Navi 21 [RX 6800]",
        backend=Backend.ROCM,
        total_bytes=total,
        free_bytes=total,
        driver="amdgpu",
    )


def test_backends_are_told_from_device_names() -> None:
    names = ("CUDA0", "MTL0", "Metal", "ROCm1", "Vulkan0", "SYCL0", "GPUOpenCL", "CPU", "")
    assert [backend_of(name) for name in names] == [
        Backend.CUDA,
        Backend.METAL,
        Backend.METAL,
        Backend.ROCM,
        Backend.VULKAN,
        Backend.SYCL,
        Backend.OTHER,
        Backend.OTHER,
        Backend.OTHER,
    ]


def test_a_device_that_both_know_is_one_device() -> None:
    joined = join((nvidia(),), build(listed("CUDA0", "NVIDIA GeForce RTX 3090", 24 * GIB)), RAM)
    assert joined.devices == (nvidia(),)
    assert joined.unused == ()


def test_without_an_engine_nothing_changes() -> None:
    joined = join((nvidia(), amd()), None, RAM)
    assert joined.devices == (nvidia(), amd())


def test_a_build_for_the_processor_leaves_devices_unused() -> None:
    assert join((nvidia(), amd()), build(), RAM).unused == (nvidia(), amd())


def test_a_vulkan_build_drives_an_nvidia_card() -> None:
    engine = build(listed("Vulkan0", "NVIDIA GeForce RTX 3090", 24 * GIB))
    joined = join((nvidia(),), engine, RAM)
    (device,) = joined.devices
    assert device.backend is Backend.VULKAN
    assert device.driver == "550"
    assert joined.unused == ()


def test_one_card_under_two_backends_is_counted_once() -> None:
    engine = build(
        listed("CUDA0", "NVIDIA GeForce RTX 3090", 24 * GIB),
        listed("Vulkan0", "NVIDIA GeForce RTX 3090", 24 * GIB),
    )
    joined = join((nvidia(),), engine, RAM)
    assert joined.devices == (nvidia(),)


def test_two_equal_cards_are_two_devices() -> None:
    engine = build(*(listed(f"CUDA{n}", "NVIDIA GeForce RTX 3090", 24 * GIB) for n in range(2)))
    assert join((nvidia(), nvidia()), engine, RAM).unused == ()
    assert len(join((), engine, RAM).devices) == 2


def test_a_card_the_build_does_not_list_is_unused() -> None:
    cards = (nvidia("NVIDIA T400", 2 * GIB), nvidia())
    engine = build(listed("CUDA0", "NVIDIA GeForce RTX 3090", 24 * GIB))
    assert join(cards, engine, RAM).unused == (cards[0],)


def test_cards_of_different_vendors_are_not_mixed_up() -> None:
    engine = build(
        listed("Vulkan0", "AMD Radeon RX 6800 (RADV NAVI21)", 16 * GIB),
        listed("Vulkan1", "NVIDIA GeForce RTX 3090", 24 * GIB),
    )
    joined = join((nvidia(), amd()), engine, RAM)
    assert [device.total_bytes for device in joined.devices] == [24 * GIB, 16 * GIB]
    assert joined.unused == ()
    assert joined.devices[1].name == "AMD Radeon RX 6800 (RADV NAVI21)"


def test_only_the_engine_knows_an_intel_card_and_counts_it_once() -> None:
    engine = build(
        listed("SYCL0", "Intel(R) Arc(TM) A770 Graphics", 16 * GIB),
        listed("Vulkan0", "Intel(R) Arc(TM) A770 Graphics (DG2)", 16 * GIB),
    )
    (device,) = join((), engine, RAM).devices
    assert (device.kind, device.backend) == (DeviceKind.GPU, Backend.SYCL)
    assert (device.total_bytes, device.unified) == (16 * GIB, False)


def test_a_card_known_from_the_bus_gets_its_memory_from_the_engine() -> None:
    arc = Device(kind=DeviceKind.GPU, name="Intel GPU 0x56a0", backend=Backend.VULKAN)
    engine = build(
        listed("Vulkan0", "Intel(R) UHD Graphics 770", 16 * GIB, kind="igpu"),
        listed("Vulkan1", "Intel(R) Arc(TM) A770 Graphics", 15 * GIB),
    )
    joined = join((arc,), engine, RAM)
    assert [(d.name, d.kind, d.total_bytes) for d in joined.devices] == [
        ("Intel(R) Arc(TM) A770 Graphics", DeviceKind.GPU, 15 * GIB),
        ("Intel(R) UHD Graphics 770", DeviceKind.IGPU, 16 * GIB),
    ]


def test_an_integrated_gpu_has_no_more_free_than_the_system() -> None:
    engine = build(listed("Vulkan0", "Intel(R) Iris(R) Xe Graphics", 16 * GIB, kind="igpu"))
    (device,) = join((), engine, RAM).devices
    assert device.unified
    assert device.free_bytes == RAM.available_bytes


def test_the_driver_knows_better_that_a_device_is_integrated() -> None:
    engine = build(listed("Vulkan0", "AMD Radeon Graphics (RADV PHOENIX)", 16 * GIB, kind="igpu"))
    (device,) = join((amd(2 * GIB),), engine, RAM).devices
    assert device.unified
    assert device.kind is DeviceKind.IGPU
    assert (device.total_bytes, device.free_bytes) == (16 * GIB, RAM.available_bytes)


def test_metal_says_how_much_the_gpu_may_keep() -> None:
    apple = Device(
        kind=DeviceKind.IGPU,
        name="Apple M3",
        backend=Backend.METAL,
        total_bytes=10 * GIB,
        free_bytes=9 * GIB,
        unified=True,
    )
    joined = join((apple,), build(listed("MTL0", "Apple M3", 14 * GIB)), RAM)
    (device,) = joined.devices
    assert (device.total_bytes, device.free_bytes) == (14 * GIB, RAM.available_bytes)
    assert joined.unused == ()


def test_a_renderer_on_the_processor_is_no_gpu() -> None:
    engine = build(listed("Vulkan0", "llvmpipe (LLVM 17.0.6, 256 bits)", 32 * GIB))
    assert join((), engine, RAM).devices == ()


def test_unknown_devices_with_different_names_stay_apart() -> None:
    engine = build(listed("Vulkan0", "Mali-G610"), listed("GPUOpenCL", "Adreno 740"))
    assert [device.name for device in join((), engine, RAM).devices] == ["Mali-G610", "Adreno 740"]


def apu(total_gib: float, free_gib: float, description: str = "AMD Radeon 8060S") -> EngineBuild:
    device = EngineDevice(
        name="Vulkan0",
        description=description,
        kind="igpu",
        total_bytes=int(total_gib * GIB),
        free_bytes=int(free_gib * GIB),
    )
    return build(device)


def test_an_apu_that_only_the_engine_lists_has_what_no_system_memory_can_be() -> None:
    ram = Memory(total_bytes=31 * GIB, available_bytes=25 * GIB)
    (device,) = join((), apu(112, 110), ram).devices
    assert (device.dedicated_bytes, device.dedicated_free_bytes) == (81 * GIB, 79 * GIB)
    assert device.free_bytes == (79 + 25) * GIB


def test_on_windows_what_is_built_in_says_how_much_was_set_aside() -> None:
    ram = Memory(
        total_bytes=32 * GIB,
        available_bytes=20 * GIB,
        installed_bytes=128 * GIB,
    )
    (device,) = join((), apu(112, 111), ram).devices
    assert (device.dedicated_bytes, device.dedicated_free_bytes) == (96 * GIB, 95 * GIB)
    # 4 GiB on a laptop: 16 built in, 11.5 for the system, which lends half of these
    laptop = Memory(total_bytes=int(11.5 * GIB), available_bytes=6 * GIB, installed_bytes=16 * GIB)
    (device,) = join((), apu(9.75, 9.75, "AMD Radeon(TM) 780M"), laptop).devices
    assert device.dedicated_bytes == 4 * GIB
    assert device.free_bytes == int(9.75 * GIB)


def test_other_makers_integrated_gpus_have_nothing_set_aside() -> None:
    # a container may see less memory than the GPU's driver does (lxcfs)
    ram = Memory(total_bytes=8 * GIB, available_bytes=6 * GIB, installed_bytes=32 * GIB)
    for name in ("Intel(R) Arc(TM) 140V GPU (16GB)", "Intel Iris Xe Graphics"):
        (device,) = join((), apu(18, 18, name), ram).devices
        assert device.dedicated_bytes is None
        assert device.free_bytes == 6 * GIB
