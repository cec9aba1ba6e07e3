"""Read the owner and the rights of a file on Windows as SDDL, through advapi32."""

import sys


def read_sddl(path: str) -> str:
    """Return owner and rights of a file or directory. Raises OSError, also on other systems."""
    if sys.platform != "win32":
        raise OSError("only Windows has such lists of rights")
    import ctypes
    from ctypes import wintypes

    file_object, owner_and_dacl, revision = 1, 0x1 | 0x4, 1  # accctrl.h, winnt.h, sddl.h
    advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
    kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    kernel32.LocalFree.argtypes = [ctypes.c_void_p]
    descriptor, text = ctypes.c_void_p(), wintypes.LPWSTR()
    status = advapi32.GetNamedSecurityInfoW(
        wintypes.LPCWSTR(path),
        ctypes.c_int(file_object),
        wintypes.DWORD(owner_and_dacl),
        None,
        None,
        None,
        None,
        ctypes.byref(descriptor),
    )
    if status:
        raise OSError(status, ctypes.FormatError(status))
    try:
        done = advapi32.ConvertSecurityDescriptorToStringSecurityDescriptorW(
            descriptor,
            wintypes.DWORD(revision),
            wintypes.DWORD(owner_and_dacl),
            ctypes.byref(text),
            None,
        )
        if not done:
            raise ctypes.WinError(ctypes.get_last_error())
        return str(text.value or "")
    finally:
        kernel32.LocalFree(text)
        kernel32.LocalFree(descriptor)
