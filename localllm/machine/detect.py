"""Detect the machine: every reader once, in an order that lets later ones use earlier ones."""

from collections.abc import Mapping

from localllm.core.hardware import Cpu, DetectedDevices, EngineBuild, HardwareInfo, Memory
from localllm.machine import advice
from localllm.machine.amd import read_amd
from localllm.machine.apple import read_apple, read_sysctl
from localllm.machine.cpu import read_apple_cpu, read_linux_cpu, read_windows_cpu
from localllm.machine.memory import read_memory
from localllm.machine.nvidia import read_nvidia
from localllm.machine.pci import NVIDIA, read_displays, read_intel
from localllm.machine.sources import Sources
from localllm.machine.vulkan import join


def detect(engine: EngineBuild | None, sources: Sources | None = None) -> HardwareInfo:
    """Measure a machine (None: this one): what it has and what `engine` can use of it.

    Devices are listed whether or not the build can use them; a warning names those it cannot.
    `engine` None means that no build answers: that is a warning, and use is not judged.
    Nothing raises: what cannot be read is None, or a sentence in `warnings`.
    """
    sources = sources or Sources.of_this_machine()
    sysctl = read_sysctl(sources.run) if sources.system == "Darwin" else {}
    ram, memory_warnings = _read_ram(sources)
    cpu = _read_cpu(sources, sysctl)
    detected = _read_devices(sources, sysctl, ram)
    found = tuple(device for each in detected for device in each.devices)
    joined = join(found, engine, ram)
    return HardwareInfo(
        cpu=cpu,
        ram=ram,
        devices=joined.devices,
        engine=engine,
        warnings=(
            *advice.no_engine(engine),
            *advice.unused_devices(joined.unused, engine, sources.system),
            *(warning for each in detected for warning in each.warnings),
            *memory_warnings,
            *advice.few_cores(cpu),
            *advice.no_avx2(cpu, sources.machine, sources.system),
        ),
    )


def _read_ram(sources: Sources) -> tuple[Memory, tuple[str, ...]]:
    try:
        return read_memory(
            sources.root,
            sources.system_memory,
            sources.address_space_limit,
            sources.installed_bytes,
        )
    except OSError as error:
        return Memory(total_bytes=0, available_bytes=0), (
            f"The system does not tell how much memory it has ({error}), so nothing is known to "
            "fit. Make /proc visible to this process.",
        )


def _read_cpu(sources: Sources, sysctl: Mapping[str, str]) -> Cpu:
    if sources.system == "Darwin":
        return read_apple_cpu(sysctl, sources.physical_cores)
    if sources.system == "Windows":
        return read_windows_cpu(
            sources.processor_name(),
            sources.has_processor_feature,
            sources.allowed_cpus,
            sources.physical_cores,
            sources.core_information(),
        )
    return read_linux_cpu(
        sources.root, sources.machine, sources.allowed_cpus, sources.physical_cores
    )


def _read_devices(
    sources: Sources, sysctl: Mapping[str, str], ram: Memory
) -> tuple[DetectedDevices, ...]:
    """Read all devices. Readers of other systems' files find nothing, so only macOS is special."""
    if sources.system == "Darwin":
        return (read_apple(sysctl, ram),)
    displays = read_displays(sources.root)
    cards = sum(display.vendor == NVIDIA for display in displays)
    nvml = sources.load_nvml() if cards or sources.has_nvidia_driver() else None
    return (
        read_nvidia(nvml, sources.environ, ram, expected=cards),
        read_amd(sources.root, ram),
        read_intel(sources.root, displays),
    )
