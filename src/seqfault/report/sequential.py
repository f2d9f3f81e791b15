"""`seqfault run`: operations one after the other, as plain Python, with the address space after each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from seqfault.cli import BadInput, dump
from seqfault.explore.model import program_for
from seqfault.kernel.machine import KernelBug, Machine, WouldBlock
from seqfault.kernel.places import Protocol
from seqfault.report.view import view
from seqfault.scenarios.model import Scenario, ScenarioError, execute, make_machine, parse_line

ERRNO = {1: "EPERM", 11: "EAGAIN", 12: "ENOMEM", 13: "EACCES", 14: "EFAULT", 17: "EEXIST", 22: "EINVAL"}
SIGNALS = {7: "SIGBUS", 11: "SIGSEGV"}


def result_text(op: str, ret: int) -> str:
    """A result in words: 0, a value, -ENOMEM, SIGSEGV."""
    if ret <= -100:
        return SIGNALS.get(-100 - ret, f"signal {-100 - ret}")
    if ret < 0:
        return f"-{ERRNO.get(-ret, -ret)}"
    return str(ret)


def read_text(path: str) -> str:
    """A file's text, or standard input's.  Raises `BadInput`."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as e:
        raise BadInput(
            f"{path}: {e.strerror}; name a file of operations, one a line, or - for standard input"
        ) from None
    except UnicodeDecodeError:
        raise BadInput(f"{path} is not text; name a file of operations, one a line") from None


def read_script(text: str) -> list[tuple[int, str]]:
    """The lines that hold operations, with their numbers."""
    lines = [(i, line.split("#")[0].strip()) for i, line in enumerate(text.splitlines(), 1)]
    return [(i, line) for i, line in lines if line]


def run_file(path: str, text: str, protocol: Protocol, json: bool, console: Console) -> bool:
    """Run a script; True if no oracle spoke."""
    steps: list[dict[str, Any]] = []
    parsed = []
    for n, line in read_script(text):
        try:
            parsed.append((n, line, *parse_line(line)))
        except ScenarioError as e:
            raise BadInput(f"{path}:{n}: {e}") from None
    if not parsed:
        raise BadInput(f"{path} has no operations; write for example `mmap 2-4 rw` on a line")
    ncpus = max(2, 1 + max(c for _, _, c, _ in parsed))
    program = program_for(protocol, Scenario("run", (), tuple(() for _ in range(ncpus))))
    m: Machine = make_machine(program.layout(), protocol)
    ok = True
    for n, line, cpu, op in parsed:
        bug = ""
        ret = 0
        try:
            with m:
                ret = execute(m, cpu, op)
                m.settle()
        except (KernelBug, WouldBlock) as e:
            bug, ok = str(e) or type(e).__name__, False
        v = view(m.layout, m.cells)
        steps.append(
            {
                "line": n,
                "operation": line,
                "cpu": cpu,
                "result": None if bug else ret,
                "violation": bug,
                "maps": [x.line() for x in v.vmas],
                "page_tables": [x.line() for x in v.ptes],
            }
        )
        if not json:
            console.print(f"{line}  =>  {bug or result_text(line, ret)}", markup=False)
            for shown in v.lines():
                console.print(f"    {shown}", markup=False)
        if bug:
            break
    if json:
        dump({"protocol": protocol.name, "steps": steps})
    return ok
