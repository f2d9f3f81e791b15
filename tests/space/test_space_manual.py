"""The examples of docs/address-space.md print what it says they print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

MANUAL = Path(__file__).parents[2] / "docs" / "address-space.md"


def test_examples(capsys: pytest.CaptureFixture[str]):
    blocks = re.findall(r"^```(python|text)\n(.*?)^```", MANUAL.read_text(), re.S | re.M)
    scope: dict[str, object] = {}
    printed = ""
    for kind, text in blocks:
        if kind == "python":
            assert not printed, f"no output is shown of: {printed}"
            exec(compile(text, str(MANUAL), "exec"), scope)
            printed = "\n".join(line.rstrip() for line in capsys.readouterr().out.splitlines()).strip()
        else:
            assert printed == text.strip()
            printed = ""
