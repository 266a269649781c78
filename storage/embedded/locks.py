"""Advisory file locks that die with their process.

The kernel keeps the count: a lock belongs to an open file, so a client killed with -9 leaks nothing, and a descriptor
opened here is not inherited by a program the client starts (PEP 446).
"""

import contextlib
import os
import sys
import time
from collections.abc import Generator
from pathlib import Path

from storage.embedded.account import open_private
from storage.embedded.errors import DirectoryUnusableError, ServerTimeoutError

_POLL_S = 0.005

if sys.platform == "win32":  # written from the documentation, not tested
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _EXCLUSIVE = 0x2
    _FAIL_IMMEDIATELY = 0x1

    class _Overlapped(ctypes.Structure):
        """https://learn.microsoft.com/windows/win32/api/minwinbase/ns-minwinbase-overlapped."""

        _fields_ = (
            ("internal", ctypes.c_void_p),
            ("internal_high", ctypes.c_void_p),
            ("offset", wintypes.DWORD),
            ("offset_high", wintypes.DWORD),
            ("event", wintypes.HANDLE),
        )

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        flags = _FAIL_IMMEDIATELY if shared else _FAIL_IMMEDIATELY | _EXCLUSIVE
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
        return bool(_kernel32.LockFileEx(handle, flags, 0, 1, 0, ctypes.byref(_Overlapped())))

else:
    import fcntl

    def _try_lock(descriptor: int, *, shared: bool) -> bool:
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextlib.contextmanager
def exclusive(path: Path, *, timeout_s: float) -> Generator[None]:
    """Hold the lock file at `path` alone, in this process as well as among processes.

    Raises:
        ServerTimeoutError: another holder kept it for `timeout_s`.
        DirectoryUnusableError: the lock file cannot be opened.
    """
    descriptor = open_private(path)
    try:
        deadline = time.monotonic() + timeout_s
        while not _try_lock(descriptor, shared=False):
            if time.monotonic() > deadline:
                raise ServerTimeoutError(
                    f"waiting for {str(path)!r}", timeout_s, "another process is starting or stopping the server"
                )
            time.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def share(path: Path) -> int:
    """Join the holders of the lock file at `path`; closing the returned descriptor, or dying, leaves them.

    To be called under the mutex: only then is nobody probing with `is_shared`.
    """
    descriptor = open_private(path)
    if not _try_lock(descriptor, shared=True):
        os.close(descriptor)
        raise DirectoryUnusableError(path, "another program holds it exclusively")
    return descriptor


def is_shared(path: Path) -> bool:
    """Whether anybody holds the lock file at `path`. To be called under the mutex."""
    descriptor = open_private(path)
    try:
        return not _try_lock(descriptor, shared=False)
    finally:
        os.close(descriptor)
