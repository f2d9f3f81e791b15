"""Commands of virtual time: price, calibrate, whatif."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer


def number(value: float | None) -> float | None:
    """What is given as a number is one: nan is within every range."""
    if value is not None and math.isnan(value):
        raise typer.BadParameter("nan is no number")
    return value


Json = Annotated[bool, typer.Option("--json", help="Print JSON (docs/json.md) instead of text.")]
Names = Annotated[
    list[str] | None,
    typer.Option("--protocol", "-p", metavar="NAME|FILE", help="A protocol. May be repeated. Default: the main ones."),
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Also write a page of curves (.html).")]
Policy = Annotated[
    str,
    typer.Option(
        metavar="fifo|stealing|handoff|no-spin|readers-first|writers-first",
        help="Who gets a semaphore next. Default: as in the protocol's release.",
    ),
]
Mach = Annotated[
    str, typer.Option("--machine", "-m", metavar="PRESET|FILE", help="A preset, or what `seqfault calibrate` wrote.")
]


def price(
    workload: Annotated[
        list[str] | None,
        typer.Option("--workload", "-w", metavar="NAME|FILE", help="A workload. May be repeated. Default: ebizzy."),
    ] = None,
    protocol: Names = None,
    cpus: Annotated[str, typer.Option(metavar="N,N,...,N", help="Numbers of CPUs; 1,2,...,64 doubles.")] = "1,2,...,64",
    machine: Mach = "skylake-4s",
    policy: Policy = "",
    seeds: Annotated[int, typer.Option(help="Runs of each point.", min=1, max=100)] = 1,
    ms: Annotated[
        float | None,
        typer.Option(
            help="Virtual time of a run. Default: the workload's.", min=0.2, max=100_000, callback=number
        ),
    ] = None,
    json: Json = False,
    out: Out = None,
    list_: Annotated[bool, typer.Option("--list", help="Workloads, machines and policies, and exit.")] = False,
) -> None:
    """What a protocol buys: its text on N CPUs in virtual time, against mmap_sem."""
    if list_:
        from seqfault.report.price_list import run_list

        run_list(json)
        return
    from seqfault.report.price import run_price

    run_price(workload or [], protocol or [], cpus, machine, policy, seeds, ms, json, out)


def calibrate(
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Keep it there. Default: where --machine here finds it."),
    ] = None,
    json: Json = False,
) -> None:
    """Measure this machine's constants of virtual time, in less than a minute."""
    from seqfault.report.calibrate import run_calibrate

    run_calibrate(out, json)


def whatif(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="What `seqfault record` wrote, or sample:NAME.")],
    protocol: Names = None,
    cpus: Annotated[int | None, typer.Option(metavar="N", help="CPUs. Default: as recorded.", min=1)] = None,
    machine: Annotated[
        str,
        typer.Option("--machine", "-m", metavar="PRESET|FILE", help="Default: this one, if it was calibrated."),
    ] = "",
    policy: Policy = "",
    rewrite: Annotated[
        list[str] | None,
        typer.Option(
            metavar="batch|dontneed|guard|keep|processes",
            help="Change the program, and replay it under the recorded design; may be repeated. batch: munmaps "
            "together; dontneed: munmap to MADV_DONTNEED; keep: to nothing; guard: guard pages by MADV_GUARD_INSTALL "
            "(6.13); processes: each thread with an address space of its own.",
        ),
    ] = None,
    pid: Annotated[int | None, typer.Option(help="The process. Default: the busiest.")] = None,
    seeds: Annotated[int, typer.Option(help="Replays of each design.", min=1, max=100)] = 3,
    json: Json = False,
) -> None:
    """What each design would do for a recorded program: its threads again, in virtual time."""
    from seqfault.report.whatif import run_whatif

    run_whatif(trace, protocol or [], cpus, machine, policy, rewrite or [], pid, seeds, json)
