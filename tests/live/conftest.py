"""A live kernel to compare with, or a skip that names what is missing."""

from __future__ import annotations

import platform

import pytest


@pytest.fixture(scope="session")
def pair():
    """The model of the running kernel's release and the kernel itself."""
    from seqfault.live.campaign import Options, open_pair
    from seqfault.live.errors import KernelError
    from seqfault.mm.fullsize import release_number

    release = release_number(platform.release())
    if release < 618:
        pytest.skip(f"the text is 6.18's; this kernel is {platform.release()}")
    try:
        p = open_pair(Options(release=release))
    except KernelError as e:
        pytest.skip(f"no live kernel to compare with: {e}")
    yield p
    p.close()
