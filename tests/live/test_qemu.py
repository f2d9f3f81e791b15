"""Another kernel under qemu.  What needs qemu or a kernel image is skipped by name where they are missing."""

from __future__ import annotations

import io
import lzma
import shutil
import struct
import subprocess
import tarfile

import pytest

from seqfault.live import image, qemu


def deb(path, name, content):
    """A Debian package with one file."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:xz") as tar:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    members = [("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), ("data.tar.xz", raw.getvalue())]
    out = b"!<arch>\n"
    for member, data in members:
        out += f"{member:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
    path.write_bytes(out)
    return path


def bzimage(payload):
    """A bzImage whose setup part is two sectors, and whose payload begins 8 bytes behind it."""
    head = bytearray(1024)
    head[0x1F1] = 1
    head[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", head, 0x248, 8, len(payload))
    return bytes(head) + b"\0" * 8 + payload + b"tail"


ELF = b"\x7fELF" + b"k" * 100


def test_the_elf_is_taken_out_of_a_package(tmp_path):
    packed = bzimage(lzma.compress(ELF) + struct.pack("<I", len(ELF)))
    package = deb(tmp_path / "linux-image-6.1.0-1-amd64.deb", "./boot/vmlinuz-6.1.0-1-amd64", packed)
    kept = image.bootable(package, tmp_path / "cache")
    assert kept.read_bytes() == ELF
    assert image.bootable(package, tmp_path / "cache") == kept


def test_what_cannot_be_unpacked_is_booted_as_it_is(tmp_path):
    packed = bzimage(b"\x28\xb5\x2f\xfdzstd")
    (tmp_path / "vmlinuz").write_bytes(packed)
    assert image.bootable(tmp_path / "vmlinuz", tmp_path / "cache").read_bytes() == packed


@pytest.mark.parametrize("content", [b"", b"MZ" * 1000])
def test_no_image(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(image.BadImage):
        image.bootable(tmp_path / "x", tmp_path)


def test_a_package_without_a_kernel(tmp_path):
    with pytest.raises(image.BadImage, match="vmlinuz"):
        image.bootable(deb(tmp_path / "a.deb", "./usr/share/doc/a", b"a"), tmp_path)


def test_cpio_is_what_cpio_says():
    """The archive, read by another program."""
    cpio = shutil.which("cpio")
    if not cpio:
        pytest.skip("cpio is not installed")
    out = subprocess.run([cpio, "-tv"], input=image.initramfs(b"init!"), capture_output=True, check=True).stdout
    lines = {line.split()[-1]: line.split() for line in out.decode().splitlines()}
    assert lines["init"][0] == "-rwxr-xr-x" and lines["init"][4] == "5"
    assert lines["dev/mem"][0][0] == "c" and lines["dev/mem"][4:6] == ["1,", "1"]


def test_cpio_by_hand():
    a = image.newc([image.Entry("ab", 0o100644, b"xyz")])
    # 110 bytes of header, "ab\0" and 3 of padding, 3 bytes and 1 of padding
    assert a[:6] == b"070701" and a[110:113] == b"ab\0" and a[116:120] == b"xyz\0"
    assert a[120:126] == b"070701" and a[230:241] == b"TRAILER!!!\0" and len(a) % 4 == 0


def test_what_is_missing_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    monkeypatch.delenv(image.KERNEL_VARIABLE, raising=False)
    monkeypatch.setattr(image, "BOOT", tmp_path)
    with pytest.raises(image.NotInstalled) as e:
        image.find_image("debian-6.1")
    text = str(e.value)
    assert "apt-get download" in text and str(tmp_path / "debian-6.1") in text and image.KERNEL_VARIABLE in text
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(image.NotInstalled, match="qemu-system-x86"):
        image.find_qemu()
    monkeypatch.setenv(image.KERNEL_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(image.NotInstalled, match="none"):
        image.find_image("debian-6.1")


def test_the_newest_image_is_taken(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQFAULT_CACHE", str(tmp_path))
    monkeypatch.delenv(image.KERNEL_VARIABLE, raising=False)
    folder = tmp_path / "debian-6.1"
    folder.mkdir()
    package = folder / "linux-image-6.1.0-9-amd64_6.1.1-1_amd64.deb"
    package.write_bytes(b"")
    assert image.find_image("debian-6.1") == package
    assert image.find_image("debian-6.1", package) == package


@pytest.fixture(scope="module")
def debian():
    """The image of Debian's 6.1, and qemu; else the test is skipped, with what is missing."""
    try:
        image.find_qemu()
        return image.find_image("debian-6.1")
    except image.NotInstalled as e:
        pytest.skip(str(e).splitlines()[0])


def test_a_guest_that_cannot_start_is_reported(debian):
    """An init that is no program: the kernel panics, qemu ends, and the report shows the panic."""
    guest = qemu.boot("debian-6.1", b"no program", debian)
    try:
        with pytest.raises(qemu.GuestDied, match="panic"):
            guest.wait(lambda: False, lambda: 0, 60)
    finally:
        guest.close()
    assert "panic" in guest.console(100)


def test_a_guest_that_hangs_is_reported(debian):
    guest = qemu.boot("debian-6.1", b"no program", debian)
    with pytest.raises(qemu.GuestDied, match="did nothing"):
        guest.wait(lambda: False, lambda: 0, 0.2)
    assert guest.process.poll() is not None


# -- the runner in a guest
@pytest.fixture(scope="module")
def kernel(debian):
    from seqfault.live.generate import Geometry

    k = qemu.open_qemu(Geometry(), 16, str(debian))
    yield k
    k.close()


def test_what_the_guest_is_asked_is_answered(kernel):
    """Results by hand: a write to fresh memory, a read of it, mseal, which 6.1 does not have, and a guard region, which
    is no advice that it knows."""
    from seqfault.live.script import parse_script

    rows = parse_script(
        "mmap(W+520p, 2p, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_FIXED|MAP_ANONYMOUS, -1, 0)\n"
        "write(W+520p, 7)\n"
        "read(W+520p)\n"
        "mseal(W+520p, 1p, 0)\n"
        "madvise(W+520p, 1p, MADV_GUARD_INSTALL)\n"
        "read(W+530p)\n"
    )
    stream, at, why = kernel.run(rows)
    assert not why
    assert [int(stream[i]) for i in at[:-1]] == [0, 0x100000000000 + 520 * 4096, 0, 7, -38, -22, -1011]


def test_model_and_guest_agree(kernel):
    """Random programs: every record the same, and no case of merging left out."""
    from seqfault.live.fuzz import Pair, merge_counts, run_chunk
    from seqfault.live.generate import Geometry, Plan
    from seqfault.live.model import ModelSide

    g = Geometry()
    pair = Pair(ModelSide(601, g, 16, **kernel.sizes), kernel)
    t = run_chunk(pair, Plan(31, 100, g, 0), 0, 40, False)
    pair.pool.shutdown()
    assert not t.found, t.found[0]
    assert not t.unstable
    assert t.ops == 4000
    assert all(merge_counts(t).values()), merge_counts(t)


def test_a_guest_that_dies_is_replaced(kernel):
    from seqfault.live.generate import Geometry, Plan, programs

    rows = programs(Plan(1, 50, Geometry(), 0), 0, 2, False)
    before, at, _ = kernel.run(rows)
    boots = kernel.boots
    kernel.guest.process.kill()
    kernel.guest.process.wait()
    _, _, why = kernel.run(rows)
    assert "qemu ended" in why
    after, at_after, why = kernel.run(rows)
    assert not why and kernel.boots == boots + 1
    assert len(before) == len(after) and (at == at_after).all()
