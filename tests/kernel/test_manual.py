"""Every fenced example of the language's manual runs, in order, in one module."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modules import load

ROOT = Path(__file__).parents[2]
MANUAL = Path(__file__).parents[2] / "docs" / "kernel-python.md"


def test_examples_run(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", MANUAL.read_text(), re.S)
    assert len(blocks) >= 5
    f = tmp_path / "manual_examples.py"
    f.write_text("\n\n".join(blocks))
    load(f, "manual_examples")


@pytest.mark.parametrize("doc", ["README.md", "docs/questions.md", "docs/findings.md"])
def test_commands_in_documents_name_what_exists(doc: str):
    from seqfault.protocols import builtin_names
    from seqfault.scenarios import find

    text = (MANUAL.parents[1] / doc).read_text()
    found = re.findall(r"seqfault check ([\w-]+)(.*)", text)
    assert found
    for protocol, rest in found:
        if protocol == "examples":  # a file of the repository, from its root
            assert (ROOT / (protocol + rest.split("`")[0].split()[0])).is_file(), rest
            continue
        if protocol in ("PROTOCOL", "path") or protocol.startswith("my_protocol"):
            continue
        assert protocol in builtin_names(), protocol
        for s in re.findall(r"(?:--scenario|-s) '?([\w/*.~-]+)'?", rest):
            assert find([s]), s
