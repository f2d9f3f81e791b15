"""Variants: a protocol changed by a few lines of TOML."""

from __future__ import annotations

from pathlib import Path

import pytest

from seqfault.explore.check import Limits, run_one
from seqfault.protocols import ProtocolError, load
from seqfault.scenarios import find

VARIANTS = Path(__file__).parents[2] / "examples/variants"


def kinds(protocol, scenario):
    return {v.key() for v in run_one(load(protocol), find([scenario])[0], Limits())[2]}


def test_without_next_is_the_protocol_without_next():
    for s in ("argued/third-question", "case2/split-next-warm-write"):
        mine = kinds(str(VARIANTS / "no-next.toml"), s) - kinds("spf-seed", s)
        assert mine == kinds("spf-seed-no-next", s) - kinds("spf-seed", s)


def test_places_and_functions(tmp_path):
    f = tmp_path / "v.toml"
    f.write_text(
        'protocol = "spf-v5"\n[at]\n"unmap_page_range/begin" = "pass"\n"unmap_page_range/end" = ""\n'
        '[in.vma_has_changed]\n"dead or seq != sequence" = "seq != sequence"\n'
    )
    s = "argued/munmap-table-goes"
    assert kinds(str(f), s) > kinds("spf-v5", s)  # with neither the count nor the mark, nothing tells a fault


@pytest.mark.parametrize(
    "text, says",
    [
        ("x = 1", "unknown key 'x'"),
        ("", "no protocol"),
        ('protocol = "spf-v5"\n[at]\n"unmap/begin" = "pass"', "did you mean"),
        ('protocol = "spf-v5"\n[at]\n"unmap_page_range/begin" = "if"', "invalid syntax"),
        ('protocol = "spf-v5"\n[in.vma_has_changed]\n"nothing" = "x"', "0 times"),
        ('protocol = "spf-v5"\nfields = ["a b"]', "write for example"),
        ('protocol = "spf-v9"', "no protocol named"),
    ],
)
def test_bad_files(tmp_path, text, says):
    f = tmp_path / "v.toml"
    f.write_text(text)
    with pytest.raises(ProtocolError, match=says):
        load(str(f))
