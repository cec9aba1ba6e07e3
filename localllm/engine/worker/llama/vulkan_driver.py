"""The names and versions of Vulkan's drivers, which ggml does not report.

They decide whether a device computes right, so a verdict on a device holds for its driver alone.
"""

import ctypes
import sys
from collections.abc import Mapping
from contextlib import suppress
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_uint8, c_uint32, c_void_p
from functools import cache

_LOADER = {"win32": "vulkan-1.dll", "darwin": "libvulkan.1.dylib"}.get(
    sys.platform, "libvulkan.so.1"
)

# vulkan_core.h: enum VkStructureType, and Vulkan 1.1, whose functions are called.
_APPLICATION_INFO, _INSTANCE_CREATE_INFO = 0, 1
_PROPERTIES_2, _DRIVER_PROPERTIES = 1000059001, 1000196000
_VERSION_1_1 = 1 << 22 | 1 << 12


_HEAD = (("type", c_int), ("next", c_void_p))
"""The beginning of every extensible struct."""


class _ApplicationInfo(ctypes.Structure):
    _fields_ = (
        *_HEAD,
        ("application", c_char_p),
        ("application_version", c_uint32),
        ("engine", c_char_p),
        ("engine_version", c_uint32),
        ("api_version", c_uint32),
    )


class _InstanceCreateInfo(ctypes.Structure):
    _fields_ = (
        *_HEAD,
        ("flags", c_uint32),
        ("application_info", POINTER(_ApplicationInfo)),
        ("layer_count", c_uint32),
        ("layers", c_void_p),
        ("extension_count", c_uint32),
        ("extensions", c_void_p),
    )


class _DriverProperties(ctypes.Structure):
    """VkPhysicalDeviceDriverProperties."""

    _fields_ = (
        *_HEAD,
        ("driver_id", c_int),
        ("driver_name", c_char * 256),
        ("driver_info", c_char * 256),
        ("conformance_version", c_uint8 * 4),
    )


class _Properties2(ctypes.Structure):
    """VkPhysicalDeviceProperties2; `rest` is more than the limits that follow."""

    _fields_ = (
        *_HEAD,
        ("api_version", c_uint32),
        ("driver_version", c_uint32),
        ("vendor_id", c_uint32),
        ("device_id", c_uint32),
        ("device_type", c_int),
        ("device_name", c_char * 256),
        ("rest", c_uint8 * 4096),
    )


@cache
def vulkan_drivers() -> Mapping[str, str]:
    """Map the name of each Vulkan device to its driver, such as "llvmpipe Mesa 22.3.6"; empty where
    there is no loader for Vulkan 1.1."""
    with suppress(OSError, AttributeError):
        return _read(ctypes.CDLL(_LOADER))
    return {}


def _read(vulkan: ctypes.CDLL) -> Mapping[str, str]:
    application = _ApplicationInfo(type=_APPLICATION_INFO, api_version=_VERSION_1_1)
    create = _InstanceCreateInfo(
        type=_INSTANCE_CREATE_INFO, application_info=ctypes.pointer(application)
    )
    properties_of = vulkan.vkGetPhysicalDeviceProperties2
    instance = c_void_p()
    if vulkan.vkCreateInstance(byref(create), None, byref(instance)) != 0:
        return {}
    try:
        count = c_uint32()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), None)
        devices = (c_void_p * count.value)()
        vulkan.vkEnumeratePhysicalDevices(instance, byref(count), devices)
        drivers = {}
        for device in devices[: count.value]:
            driver = _DriverProperties(type=_DRIVER_PROPERTIES)
            found = _Properties2(type=_PROPERTIES_2, next=ctypes.addressof(driver))
            properties_of(c_void_p(device), byref(found))
            drivers[_text(found.device_name)] = _named(driver, found.driver_version)
        return drivers
    finally:
        vulkan.vkDestroyInstance(instance, None)


def _named(driver: _DriverProperties, version: int) -> str:
    """Name a driver; one that does not name itself has a number."""
    words = " ".join(filter(None, (_text(driver.driver_name), _text(driver.driver_info))))
    return words or f"version {version:#x}"


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace").strip()
