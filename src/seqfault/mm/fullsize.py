"""The sizes with which the text is all that a program can see: for `AddressSpace`, `fuzz` and replay."""

from __future__ import annotations

RELEASES = {"4.12": 412, "6.1": 601, "6.18": 618}


def release_number(release: str) -> int:
    """"6.18" as 618; of a later kernel, or one in between, the number of its own.

    Raises `ValueError` for what is no release.
    """
    parts = release.split("-")[0].split(".")
    try:
        major, minor = int(parts[0]), int(parts[1])
    except (IndexError, ValueError):
        raise ValueError(f"{release!r} is no release of Linux; write for example 6.18") from None
    if not 0 <= minor < 100:
        raise ValueError(f"{release!r} is no release of Linux; write for example 6.18")
    return major * 100 + minor


def full_sizes(linux: int, **more: int) -> dict[str, int]:
    """Sizes by name.  `linux`: the release, major * 100 + minor; `more`: what differs from the defaults here.

    The defaults serve a window of about a thousand pages and two processes.
    """
    sizes = {
        "FULL": 1,
        "LINUX": linux,
        "NR_CPUS": 1,
        "NR_TASKS": 1,
        "NR_MMS": 2,
        "NR_PAGES": 1024,
        "PTRS_PER_PTE": 512,
        "NR_PTE_TABLES": 16,
        "NR_VMAS": 512,
        "NR_FRAMES": 1024,
        "NR_ANON_VMAS": 512,
        "NR_AVCS": 2048,
        "NR_FILES": 64,
        "FILE_PAGES": 64,
        "PGOFF_MAX": (1 << 52) + (1 << 36),
        "NR_VALUES": 255,
        "ERRNO_MAX": 133,
        "VM_FLAGS_MAX": (1 << 25) - 1,
        "STACK_GUARD_GAP": 256,
        "NR_OPS": 1,
        "NR_FILLS": 1,
        "NR_RCU": 1,
        "GATHER_BATCH": 64,
    }
    return sizes | more
