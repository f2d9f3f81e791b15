"""`seqfault calibrate`."""

from __future__ import annotations

import platform
from pathlib import Path

from rich.table import Table

from seqfault.cli import BadInput, can_be_written, dump, write
from seqfault.price.calibrate import LIKE, as_toml, calibrate
from seqfault.price.machines import CONSTANTS, kept
from seqfault.report.consoles import console, stderr_console


def run_calibrate(out: Path | None, json: bool) -> None:
    """Measure, show, keep."""
    if platform.machine() != "x86_64" or platform.system() != "Linux":
        raise BadInput("calibrate measures Linux on x86-64 only; take one of the presets of `seqfault price --list`")
    path = out or kept()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise BadInput(f"-o {path}: {e.strerror}; name a file that can be written") from None
    can_be_written(path)
    with stderr_console().status("") as status:
        c = calibrate(lambda what: status.update(f"measuring {what}"))
    write(as_toml(c), path)
    if json:
        dump({
            "file": str(path), "date": c.machine.date, "cpus": c.machine.cpus, "seconds": c.seconds,
            "fault_ns": c.fault, "modelled_fault_ns": c.modelled, "measured": c.measured,
            "constants": dict(c.machine.costs), "recorder": c.recorder,
        })  # fmt: skip
        return
    t = Table(box=None, pad_edge=False)
    for head, side in (("constant", "left"), ("ns", "right"), ("what", "left")):
        t.add_column(head, justify=side)  # type: ignore[arg-type]
    for k in c.measured:
        t.add_row(k, f"{c.measured[k]:.1f}", CONSTANTS[k])
    con = console()
    con.print(t)
    for name, values in c.recorder.items():
        with_ = " with stacks" if name else ""
        con.print(f"recording{with_}, ns: " + ", ".join(f"{k} {v:.0f}" for k, v in values.items()))
    if not c.recorder:
        con.print("what recording costs was not measured: that takes root and perf")
    con.print(f"an anonymous write fault: {c.fault:.0f} ns here, {c.modelled:.0f} ns in the model")
    con.print(f"{len(c.machine.costs) - len(c.measured)} other constants are those of {LIKE}")
    con.print(f"kept in {path} ({c.seconds:.0f} s): use it with --machine {'here' if out is None else path}")
