"""What another kernel needs to boot: its image, out of a bzImage or a Debian package, and an initramfs.

Formats: Linux's Documentation/x86/boot.rst (bzImage) and driver-api/early-userspace/buffer-format.rst; deb(5).
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from seqfault.compile.cache import cache_dir

QEMU = "qemu-system-x86_64"
KERNEL_VARIABLE = "SEQFAULT_KERNEL"
BOOT = Path("/boot")
# The kernels that `fuzz --kernel` knows: the release of the text, and how Debian calls image and package.
KERNELS = {"debian-6.1": (601, "6.1.")}


class NotInstalled(Exception):
    """Something that a foreign kernel needs is missing; the text says what, and how to get it."""


class BadImage(Exception):
    """The file is no kernel image that can be read."""


def cache_folder(kernel: str) -> Path:
    return cache_dir() / kernel


def find_qemu() -> str:
    path = shutil.which(QEMU)
    if path is None:
        raise NotInstalled(
            f"{QEMU} is missing: install Debian's package qemu-system-x86\n"
            "  apt-get install --no-install-recommends qemu-system-x86"
        )
    return path


def find_image(kernel: str = "debian-6.1", given: Path | None = None) -> Path:
    """The image of `kernel`: the given file or $SEQFAULT_KERNEL, else what lies in the cache folder or in /boot."""
    series = KERNELS[kernel][1]
    if given is None and os.environ.get(KERNEL_VARIABLE):
        given = Path(os.environ[KERNEL_VARIABLE])
    if given is not None:
        if not given.is_file():
            raise NotInstalled(f"no kernel image at {given}")
        return given
    folder = cache_folder(kernel)
    found = [
        *folder.glob(f"linux-image-{series}*.deb"),
        *folder.glob("vmlinuz*"),
        *BOOT.glob(f"vmlinuz-{series}*"),
    ]
    for path in sorted(found, key=lambda p: p.stat().st_mtime, reverse=True):
        return path
    raise NotInstalled(
        f"the image of Linux {series}* is missing: no linux-image-{series}*.deb or vmlinuz* in {folder}, "
        f"no vmlinuz-{series}* in {BOOT}, ${KERNEL_VARIABLE} not set.\n"
        "Debian's package serves as it is, it need not be installed (on Debian 12):\n"
        f"  mkdir -p {folder} && cd {folder}\n"
        f"  apt-get download $(apt-cache depends linux-image-amd64 | grep -o 'linux-image-{series}[^ ]*')\n"
        f"Or give a bzImage, a vmlinux or a .deb: --image FILE, or {KERNEL_VARIABLE}=FILE."
    )


def deb_member(path: Path, prefix: str) -> bytes:
    """The first file of a Debian package whose name begins so."""
    with path.open("rb") as f:
        if f.read(8) != b"!<arch>\n":
            raise BadImage(f"{path} is no Debian package")
        while header := f.read(60):
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if not name.startswith("data.tar"):
                f.seek(size + size % 2, io.SEEK_CUR)
                continue
            with tarfile.open(fileobj=io.BytesIO(f.read(size)), mode="r|*") as tar:
                for member in tar:
                    stream = tar.extractfile(member) if member.name.startswith(prefix) else None
                    if stream is not None:
                        return stream.read()
            break
    raise BadImage(f"{path} has no file {prefix}*")


def vmlinux_of(image: bytes) -> bytes | None:
    """The ELF within a bzImage; None if it is packed in a way that Python 3.11 cannot undo."""
    if image[:4] == b"\x7fELF":
        return image
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        raise BadImage("neither a bzImage nor an ELF")
    setup_sects = image[0x1F1] or 4
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[(setup_sects + 1) * 512 + offset :][:length]
    # the packed stream is followed by its unpacked size, 4 bytes
    if payload[:6] == b"\xfd7zXZ\x00":
        return lzma.LZMADecompressor().decompress(payload)
    if payload[:2] == b"\x1f\x8b":
        return gzip.decompress(payload[:-4])
    return None


def bootable(path: Path, cache: Path) -> Path:
    """A file that qemu's -kernel takes, from a .deb, a bzImage or an ELF.

    The ELF is preferred (entered by PVH): unpacking xz takes seconds in an emulated CPU, and here 0.8 s, once.
    """
    stamp = path.stat()
    kept = cache / f"vmlinux-{path.name}-{stamp.st_size}-{stamp.st_mtime_ns}"
    if kept.is_file():
        return kept
    image = deb_member(path, "./boot/vmlinuz-") if path.suffix == ".deb" else path.read_bytes()
    try:
        elf = vmlinux_of(image)
    except BadImage as e:
        raise BadImage(f"{path}: {e}; give a bzImage, a vmlinux or a Debian package (.deb)") from None
    if elf is image:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    part = kept.with_suffix(f".{os.getpid()}")
    part.write_bytes(image if elf is None else elf)
    part.replace(kept)
    return kept


@dataclass(frozen=True)
class Entry:
    """One file of an initramfs: `mode` with its type bits, `device` for nodes."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def newc(entries: Iterable[Entry]) -> bytes:
    """A cpio archive in the format "newc"."""
    out = bytearray()
    for ino, e in enumerate([*entries, Entry("TRAILER!!!", 0)], 1):
        name = e.name.encode() + b"\0"
        fields = (ino, e.mode, 0, 0, 1, 0, len(e.data), 0, 0, *e.device, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % x for x in fields) + name
        out += b"\0" * (-len(out) % 4)
        out += e.data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def initramfs(init: bytes) -> bytes:
    """/init and the folders and nodes that it mounts on and opens."""
    folder = 0o40755
    return newc(
        [
            *(Entry(name, folder) for name in ("dev", "proc", "sys", "tmp")),
            Entry("dev/console", 0o20600, device=(5, 1)),
            Entry("dev/null", 0o20666, device=(1, 3)),
            Entry("dev/mem", 0o20600, device=(1, 1)),
            Entry("init", 0o100755, init),
        ]
    )
