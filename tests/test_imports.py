"""Imports run one way."""

from __future__ import annotations

import ast
from pathlib import Path

import seqfault

ROOT = Path(seqfault.__file__).parent
# a package may import those that stand before it on a line of this list
MAY = {
    "kernel": set(),
    "mm": {"kernel"},
    "protocols": {"kernel", "mm"},
    "scenarios": {"kernel", "mm", "protocols"},
    "compile": {"kernel"},
    "models": {"kernel", "compile"},
    "explore": {"kernel", "mm", "protocols", "scenarios", "compile"},
    "why": {"kernel", "mm", "protocols", "scenarios", "compile", "explore"},
    "space": {"kernel", "mm", "protocols", "compile"},
    "live": {"kernel", "mm", "protocols", "compile", "space"},
    "trace": {"kernel", "mm", "protocols", "compile", "space"},
    "price": {"kernel", "mm", "protocols", "compile", "trace"},
    "litmus": {"cli"},
    "report": {"kernel", "mm", "protocols", "scenarios", "compile", "models", "explore", "why", "live", "space", "trace", "price", "cli"},
    "cli_price": {"report"},
    "cli_export": {"report", "cli_price"},
    "__main__": {"cli"},
    "cli": {"kernel", "compile", "explore", "protocols", "scenarios", "report", "litmus", "cli_price", "cli_export"},
}
LONGEST = 650


def imported(path: Path) -> set[str]:
    out = set()
    for n in ast.walk(ast.parse(path.read_text())):
        if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("seqfault."):
            out.add(n.module.split(".")[1])
        elif isinstance(n, ast.Import):
            out |= {a.name.split(".")[1] for a in n.names if a.name.startswith("seqfault.")}
    return out


def test_imports_run_one_way():
    wrong = []
    for path in ROOT.rglob("*.py"):
        part = path.relative_to(ROOT).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        for m in imported(path) - {part}:
            if m not in MAY[part]:
                wrong.append(f"{path.relative_to(ROOT)} imports {m}")
    assert not wrong


def test_mm_names_no_protocol():
    for path in (ROOT / "mm").glob("*.py"):
        assert "protocols" not in imported(path), path


def test_compile_imports_no_protocol():
    for path in (ROOT / "compile").glob("*.py"):
        assert not imported(path) & {"protocols", "mm"}, path


def test_files_fit_one_head():
    long = {str(p): n for p in ROOT.rglob("*.py") if (n := len(p.read_text().splitlines())) > LONGEST}
    assert not long
