"""Commands of `seqfault export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from seqfault.cli_price import Json

One = Annotated[
    str | None, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="The scenario, one, of a protocol.")
]
Out = Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Default: standard output.")]
Size = Annotated[str | None, typer.Option(metavar="N,N,N,N", help="Sizes of a small model (docs/export.md).")]

app = typer.Typer(
    help="A model or a scenario in the words of another tool.", no_args_is_help=True, rich_markup_mode=None
)


@app.callback()
def export_root() -> None:
    """A model or a scenario in the words of another tool."""


@app.command("promela")
def export_promela(
    what: Annotated[
        str, typer.Argument(metavar="PROTOCOL|MODEL", help="A protocol (as for check), or a small model: seq, record.")
    ],
    scenario: One = None,
    out: Out = None,
    size: Size = None,
    mode: Annotated[
        str | None, typer.Option(metavar="full|merged", help="Steps of a small model. Default: full, a statement each.")
    ] = None,
    json: Json = False,
) -> None:
    """Promela, for Spin: as many states as check explores."""
    from seqfault.report.export import run_promela

    run_promela(what, scenario, size, mode, out, json)


@app.command("litmus")
def export_litmus(
    what: Annotated[
        str,
        typer.Argument(
            metavar="PROTOCOL|MODEL|SCHEDULE",
            help="A protocol (as for check), a small model (seq, record), or a counterexample's schedule.",
        ),
    ],
    scenario: One = None,
    out: Out = None,
    ask: Annotated[
        str | None,
        typer.Option(metavar="bad|seen", help="May a check fail on this path; may loads return what they returned."),
    ] = None,
    plain: Annotated[
        bool, typer.Option("--plain", help="Plain accesses stay plain, not READ_ONCE and WRITE_ONCE.")
    ] = False,
    cells: Annotated[
        list[str] | None, typer.Option("--cells", metavar="PATTERN", help="Only cells whose name has this in it.")
    ] = None,
    size: Size = None,
    json: Json = False,
) -> None:
    """A litmus test, for herd7 and `seqfault litmus`: what one run's CPUs do to shared cells, with its orderings."""
    from seqfault.report.export import run_litmus

    run_litmus(what, scenario, size, ask, plain, cells or [], out, json)


@app.command("perfetto")
def export_perfetto(
    schedule: Annotated[
        str, typer.Argument(metavar="SCHEDULE", help="A schedule string, as a counterexample prints it.")
    ],
    out: Out = None,
    json: Json = False,
) -> None:
    """Chrome JSON trace events, for ui.perfetto.dev: a track a CPU, functions, accesses, who read what from whom."""
    from seqfault.report.perfetto import run_perfetto

    run_perfetto(schedule, out, json)
