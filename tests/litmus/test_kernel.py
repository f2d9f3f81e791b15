"""The kernel's own litmus tests, where its source is at hand; they are not copied into this repository."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import pytest

from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse

INSIDE = "tools/memory-model/litmus-tests"


def texts() -> dict[str, str]:
    """Name to text: of SEQFAULT_LITMUS_TESTS (a directory), or of /usr/src/linux-source-6.1*, unpacked."""
    places = [Path(p) for p in [os.environ.get("SEQFAULT_LITMUS_TESTS", "")] if p]
    places += [p / INSIDE for p in Path("/usr/src").glob("linux-source-6.1*") if p.is_dir()]
    for place in places:
        if found := {p.name: p.read_text() for p in sorted(place.glob("*.litmus"))}:
            return found
    if os.environ.get("SEQFAULT_LITMUS_UNPACK"):  # the archive takes long to read
        for archive in Path("/usr/src").glob("linux-source-6.1.tar.xz"):
            with tarfile.open(archive) as tar:
                return {
                    Path(m.name).name: tar.extractfile(m).read().decode()
                    for m in tar
                    if INSIDE in m.name and m.name.endswith(".litmus")
                }
    return {}


def test_the_kernels_files():
    files = texts()
    if not files:
        pytest.skip("no litmus tests of Linux 6.1: set SEQFAULT_LITMUS_TESTS, or unpack Debian's linux-source-6.1")
    assert len(files) == 34
    wrong = {}
    for name, text in files.items():
        test = parse(text, name)
        assert test.result, name
        verdict = judge(test)
        if verdict.observation != test.result or verdict.flags:
            wrong[name] = verdict.observation, test.result, verdict.flags
    assert not wrong
