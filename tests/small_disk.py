"""Small disks that only one process sees."""

import ctypes
import os
from pathlib import Path

DISK_BYTES = 8 << 20
NEW_USER, NEW_MOUNTS, PRIVATE = 0x10000000, 0x00020000, 0x44000
"""Flags of unshare(2) and mount(2)."""
REMOUNT, READ_ONLY = 0x20, 0x1
NO_DISK = 77
"""Exit code of a process that cannot mount a disk."""


def mount_disk(folder: Path) -> bool:
    """Mount a disk of 8 MB in a new namespace, and return whether that is permitted here."""
    libc, uid, gid = ctypes.CDLL(None), os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_MOUNTS) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    elif libc.unshare(NEW_MOUNTS) != 0:
        return False
    folder.mkdir(exist_ok=True)
    libc.mount(None, b"/", None, PRIVATE, None)  # a mount must not reach other processes
    size = f"size={DISK_BYTES}".encode()
    return libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", 0, size) == 0


def remount_read_only(folder: Path) -> None:
    """Forbid writing to a disk of `mount_disk`."""
    result = ctypes.CDLL(None).mount(None, os.fsencode(folder), None, REMOUNT | READ_ONLY, None)
    assert result == 0
