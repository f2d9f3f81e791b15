"""The command line.  Exit codes: 0 holds, 1 violated, 3 incomplete, 2 bad input, 130 interrupted, 141 nobody reads."""

from __future__ import annotations

import copy
import errno
import gc
import json as jsonlib
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

import seqfault
from seqfault import cli_export, cli_price
from seqfault.cli_price import Json, number

app = typer.Typer(
    name="seqfault",
    help="A laboratory for page faults that do not take the address-space lock.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
EXIT = {"holds": 0, "violated": 1, "incomplete": 3}
BAD_INPUT = 2
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
NOBODY_READS = 128 + 13  # as SIGPIPE ends a program
MOST = (1 << 62) - 1  # numbers go to compiled code as 64 bits
UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


class BadInput(Exception):
    """One line for the user; exit code 2."""


def write(text: str, out: Path) -> None:
    """Write the file of ``-o``."""
    try:
        out.write_text(text)
    except OSError as e:
        raise BadInput(f"-o {out}: {e.strerror}; name a file that can be written") from None


def can_be_written(out: Path | None) -> None:
    """Refuse, before any work, a file of ``-o`` that cannot be made."""
    if out is None:
        return
    if out.is_dir() or not out.parent.is_dir():
        what = "a directory" if out.is_dir() else f"there is no directory {out.parent}"
    elif not os.access(out if out.exists() else out.parent, os.W_OK):
        what = os.strerror(errno.EACCES)
    else:
        return
    raise BadInput(f"-o {out}: {what}; name a file that can be written")


def size(text: str) -> int:
    """Bytes from ``512M``, ``2G``, ``1.5GiB``."""
    m = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?\s*", text.lower())
    if not m or float(m[1]) <= 0:
        raise BadInput(f"--max-memory {text!r} is no size; write for example 512M or 2G")
    n = int(float(m[1]) * UNITS[m[2]])
    if n < UNITS["m"]:
        raise BadInput(f"--max-memory {text!r} is less than 1M; write for example 512M or 2G")
    return min(n, MOST)


def version(show: bool) -> None:
    if show:
        print(f"seqfault {seqfault.__version__}")
        raise typer.Exit


@app.callback()
def root(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """A laboratory for page faults that do not take the address-space lock."""


Proto = Annotated[
    str,
    typer.Argument(
        metavar="PROTOCOL", help="A protocol's name (see `seqfault list`) or a file: path/to/my_protocol.py."
    ),
]
Some = Annotated[
    list[str] | None, typer.Option("--scenario", "-s", metavar="NAME|FILE", help="As for check. Default: all.")
]
States = Annotated[int, typer.Option(help="States of one scenario.", min=1, max=MOST)]
StatesOrUsual = Annotated[
    int | None,
    typer.Option(
        "--max-states",
        metavar="N",
        help="States of one scenario. Default: 40000000; tso, lkmm: 1000000, with over 100 scenarios 30000, 10000.",
        min=1,
        max=MOST,
    ),
]
Timeout = Annotated[float | None, typer.Option(metavar="S", help="Seconds for all of it.", min=0.001, callback=number)]
Jobs = Annotated[int, typer.Option("--jobs", "-j", help="Worker processes; 0: one a processor.", min=0)]


@app.command()
def check(
    protocol: Proto,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            "--scenario",
            "-s",
            metavar="NAME|FILE",
            help="A scenario, a pattern such as 'case8/*', or a TOML file. May be repeated. Default: all.",
        ),
    ] = None,
    json: Json = False,
    max_states: StatesOrUsual = None,
    max_memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Memory of one scenario's exploration, e.g. 2G.")
    ] = "4G",
    timeout: Timeout = None,
    jobs: Jobs = 0,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep results in FILE, half-done ones beside it, and go on from there."),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also the size of the automaton, every scenario, every counter.")
    ] = False,
    examples: Annotated[int, typer.Option(help="How many counterexamples to draw.", min=0)] = 1,
    locks: Annotated[bool, typer.Option("--locks", help="Also hold every access against the table of locks.")] = False,
    memory: Annotated[
        str,
        typer.Option(
            metavar="sc|tso|pso|lkmm|all,...",
            help="The memory model, or several, and a table; all: sc, tso and lkmm. tso:N, pso:N, lkmm:N: N stores.",
        ),
    ] = "sc",
    lock_starvation: Annotated[
        bool, typer.Option("--lock-starvation", help="A CPU that others keep from a lock for ever is starved, too.")
    ] = False,
    reduce: Annotated[
        str,
        typer.Option(
            metavar="auto|own|all|none|symmetry",
            help="Fewer states, same verdict. own: accesses in nobody's way begin no step; all: steps that commute with"
            " all others are taken at once; auto: own, and the latter in large scenarios that show no violation;"
            " symmetry: of a small model, which of its equal processes stands where.",
        ),
    ] = "auto",
    checkpoint_every: Annotated[
        float,
        typer.Option(
            metavar="S", help="With --resume: seconds between saves of what is explored.", min=0, callback=number
        ),
    ] = 60.0,
    threads: Annotated[
        int, typer.Option(metavar="N", help="Threads that share one scenario; progress is not looked at then.", min=1)
    ] = 1,
    load_buffering: Annotated[
        bool,
        typer.Option("--load-buffering", help="List every place where lkmm may pass load buffering over."),
    ] = False,
    races: Annotated[
        str,
        typer.Option(
            metavar="off|report|error",
            help="Also look for data races (docs/violations.md); error: they decide the exit code, too.",
        ),
    ] = "off",
) -> None:
    """Explore every interleaving of the scenarios: is the protocol right?"""
    from seqfault.report.commands import run_check

    run_check(
        protocol, scenario or [], json, max_states, size(max_memory), timeout, jobs, resume, verbose, examples, locks,
        memory, lock_starvation, reduce, checkpoint_every, threads, races, load_buffering,
    )  # fmt: skip


@app.command()
def why(
    protocol: Proto,
    site: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SITE]...", help="Only these: a site's name, a pattern, or A+B: together. Default: every site."
        ),
    ] = None,
    scenario: Some = None,
    memory: Annotated[
        str, typer.Option(metavar="MODELS", help="Memory models, as for check, with commas between; or all.")
    ] = "sc",
    sites: Annotated[bool, typer.Option("--sites", help="Only list the sites.")] = False,
    together: Annotated[bool, typer.Option("--together", help="The named sites are taken out all at once.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs/--no-pairs", help="Also pairs of sites, and a minimal set.")] = True,
    json: Json = False,
    max_states: Annotated[
        int, typer.Option(help="States of one scenario; larger ones are left out.", min=1, max=MOST)
    ] = 1_000_000,
    timeout: Timeout = None,
    jobs: Jobs = 0,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Keep results in FILE, and go on from there.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option(help="How many counterexamples to draw. Default: 1 if sites are named.", min=0)
    ] = None,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Instead: hold a variant (docs/why.md) against PROTOCOL. May be repeated."),
    ] = None,
    writers: Annotated[
        str | None,
        typer.Option(metavar="page-table", help="Instead: who writes page tables, and what stops a late fault there."),
    ] = None,
) -> None:
    """Take each ordering or protecting line out: is it needed, for what, and what breaks without it?"""
    from seqfault.report.why import run_why

    run_why(
        protocol, site or [], scenario or [], memory, json, sites, together, pairs, max_states, timeout, jobs, resume,
        examples, variant or [], writers,
    )  # fmt: skip


@app.command()
def replay(
    schedule: Annotated[
        str, typer.Argument(metavar="SCHEDULE", help="A schedule string, as a counterexample prints it.")
    ],
    json: Json = False,
    full: Annotated[bool, typer.Option("--full", help="Every step, not only those that matter.")] = False,
) -> None:
    """Run one interleaving again and draw it."""
    from seqfault.report.commands import run_replay

    run_replay(schedule, json, full)


@app.command()
def review(
    protocol: Proto,
    scenario: Some = None,
    memory: Annotated[
        list[str] | None,
        typer.Option(metavar="MODEL,...", help="Memory models, as for check; may be repeated; all. Default: sc."),
    ] = None,
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="A page (.html), or text for a mail, 72 columns (.md)."),
    ] = Path("review.html"),
    json: Annotated[bool, typer.Option("--json", help="Also print JSON (docs/json.md).")] = False,
    max_states: StatesOrUsual = None,
    max_memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory of one scenario's exploration.")] = "4G",
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds for exploring.", min=0.001, callback=number)
    ] = None,
    jobs: Jobs = 0,
    resume: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As for check: keep results in FILE, and take them from it.")
    ] = None,
    sites: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The table of sites: what `seqfault why --json` wrote.")
    ] = None,
    price: Annotated[
        list[str] | None,
        typer.Option(metavar="WORKLOAD,...|usual", help="Also what it buys on workloads, as `seqfault price` does."),
    ] = None,
    trace: Annotated[
        list[str] | None,
        typer.Option(metavar="TRACE|sample:NAME", help="And on a recording, as `seqfault whatif`; may be repeated."),
    ] = None,
    cpus: Annotated[
        str | None, typer.Option(metavar="N,N,...,N", help="CPUs of --price. Default: 1,2,...,64.")
    ] = None,
    machine: Annotated[
        str | None,
        typer.Option("--machine", metavar="PRESET|FILE", help="Of --price, --trace. Default: `price`'s; `whatif`'s."),
    ] = None,
) -> None:
    """Check under some memory models, and write a report that a reviewer can send. Exit codes as check's."""
    from seqfault.report.review import run_review

    given = [
        ("--max-states", max_states, None), ("--max-memory", max_memory, "4G"), ("--timeout", timeout, None),
        ("--sites", sites, None), *(("--price", p, "") for p in price or []),
        *(("--trace", t, "") for t in trace or []), ("--cpus", cpus, None), ("--machine", machine, None),
    ]  # fmt: skip
    options = [w for name, value, usual in given if value != usual for w in (name, str(value))]
    run_review(
        protocol, scenario or [], memory or [], out, json, max_states, size(max_memory), timeout, jobs, resume, sites,
        price or [], trace or [], cpus, machine, options,
    )  # fmt: skip


@app.command("list")
def list_(
    pattern: Annotated[
        list[str] | None, typer.Argument(metavar="[PATTERN]...", help="Only scenarios like these.")
    ] = None,
    json: Json = False,
) -> None:
    """The protocols and the scenarios."""
    from seqfault.report.commands import run_list

    run_list(pattern or [], json)


@app.command()
def run(
    script: Annotated[
        str, typer.Argument(metavar="SCRIPT", help="A file of operations, one a line; - for standard input.")
    ],
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", metavar="PROTOCOL", help="Whose text runs.")
    ] = "mmap-sem",
    release: Annotated[
        str | None, typer.Option(metavar="X.Y", help="Of a script of system calls: whose Linux. Default: 6.18.")
    ] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Also run a script of system calls on the running kernel, and compare.")
    ] = False,
    json: Json = False,
) -> None:
    """Run operations one after the other; print the maps and the pages after each."""
    from seqfault.report.commands import run_script

    run_script(script, protocol, json, release, live)


@app.command()
def locks(
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", metavar="PROTOCOL", help="Whose text is held against the table.")
    ] = "mmap-sem",
    field: Annotated[
        list[str] | None,
        typer.Option("--field", "-f", metavar="STRUCT.FIELD", help="Who touches this field, with which locks."),
    ] = None,
    scenario: Some = None,
    release: Annotated[
        str | None,
        typer.Option("--release", metavar="R", help="Random programs on the whole text of Linux R, one after another."),
    ] = None,
    ops: Annotated[int, typer.Option(help="Operations, with --release.", min=1)] = 500,
    seed: Annotated[int, typer.Option(help="What the programs are made from.", min=0, max=MOST)] = 0,
    json: Json = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Only the table, as docs/locks.md has it.")] = False,
    max_states: States = 40_000_000,
    timeout: Timeout = None,
    jobs: Jobs = 0,
) -> None:
    """Which lock protects which field: does every access keep to it, in every interleaving?"""
    from seqfault.report.locks import run_full, run_locks

    if release is not None:
        run_full(release, ops, seed, field or [], json)
    else:
        run_locks(protocol, field or [], scenario or [], json, markdown, max_states, timeout, jobs)


@app.command()
def text(
    protocol: Proto,
    function: Annotated[str, typer.Argument(metavar="FUNCTION", help="For example __vma_adjust.")],
) -> None:
    """A function of the mm text with the protocol's calls in their places."""
    from seqfault.report.commands import run_text

    run_text(protocol, function)


@app.command()
def fuzz(
    ops: Annotated[int, typer.Option(help="Operations.", min=1)] = 100_000,
    seed: Annotated[int, typer.Option(help="What the random programs are made from.", min=0, max=MOST)] = 0,
    seconds: Annotated[
        float, typer.Option("--time", metavar="S", help="End after S seconds; 0: never.", min=0, callback=number)
    ] = 0,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Processes, each with a kernel side.", min=1)] = 1,
    release: Annotated[
        str | None, typer.Option(metavar="X.Y", help="Whose Linux the text is. Default: the kernel's.")
    ] = None,
    kernel: Annotated[str, typer.Option(metavar="host|debian-6.1", help="Which kernel to compare with.")] = "host",
    image: Annotated[Path | None, typer.Option(metavar="FILE", help="A kernel image for --kernel debian-6.1.")] = None,
    first: Annotated[
        int, typer.Option("--from", metavar="N", help="Number of the first program.", min=0, max=MOST)
    ] = 0,
    sample: Annotated[float, typer.Option(help="The share of operations that plain Python repeats.")] = 0.01,
    keep_going: Annotated[int, typer.Option(metavar="N", help="End at N mismatches.", min=1)] = 1,
    program_ops: Annotated[int, typer.Option(help="Operations in each program.", min=1, max=5000)] = 250,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where mismatches are written. Default: seqfault-found.")
    ] = None,
    json: Json = False,
) -> None:
    """Random operations on the model and on a live kernel, compared after each: is the model Linux?"""
    from seqfault.report.fuzz import options, run_fuzz

    o = options(ops, seed, seconds, jobs, release, kernel, first, sample, keep_going, program_ops, image)
    run_fuzz(o, json, out)


@app.command()
def retrace(
    recording: Annotated[
        str,
        typer.Argument(
            metavar="TRACE|DIR|FILE",
            help="What `seqfault record` wrote (perf, as root; not with --sample); what python -m "
            "seqfault.trace.record wrote; or a file of strace.",
        ),
    ],
    maps: Annotated[Path | None, typer.Option(metavar="FILE", help="The layouts, if they are not in DIR/maps.")] = None,
    events: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The faults, if they are not in DIR/events.")
    ] = None,
    release: Annotated[
        str | None, typer.Option(metavar="X.Y", help="Whose Linux the text is. Default: the recording's.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every difference.")] = False,
    json: Json = False,
) -> None:
    """Replay a recorded program in the model: are its results and its maps those that were recorded?"""
    from seqfault.report.retrace import run_retrace

    run_retrace(recording, maps, events, release, json, verbose)


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def record(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="-- COMMAND...", help="The program and its arguments.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The trace.")] = Path("trace.parquet"),
    pid: Annotated[
        int | None, typer.Option("--pid", "-p", metavar="PID", help="Instead: a process that runs.", min=1)
    ] = None,
    use: Annotated[
        str | None, typer.Option("--with", metavar="perf|strace", help="Only this tool. Default: what can be had.")
    ] = None,
    stacks: Annotated[bool, typer.Option("--stacks", help="Also who called: frame pointers (perf).")] = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Short bursts, 10 ms about every 5 s: for machines that have work to do.")
    ] = False,
    seconds: Annotated[
        float | None, typer.Option(metavar="S", help="End after so long.", min=0.01, callback=number)
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--import", metavar="FILE", help="Instead: a perf.data, or the text of perf script or strace."),
    ] = None,
    json: Json = False,
) -> None:
    """Record a program's page faults, map calls, and waits for mmap_lock, as a trace (Parquet).

    \b
    seqfault record -- ./server --port 80         everything, as root
    seqfault record --pid 1234 --sample --seconds 60 -o web.parquet
    seqfault record --with strace -- ./server     calls only, by anybody
    seqfault record --import perf.data            what perf has recorded
    """
    from seqfault.report.record import run_record

    run_record(command or [], out, pid, use, stacks, sample, seconds, source, json)


@app.command()
def summary(
    trace: Annotated[str, typer.Argument(metavar="TRACE", help="A trace, or sample:NAME for one of the package's.")],
    top: Annotated[int, typer.Option(help="How many sites and stacks to name.", min=1)] = 6,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also which events were not used.")] = False,
    json: Json = False,
) -> None:
    """What a trace says: rates, durations, overlap of faults and calls, who waits, who splits VMAs.

    \b
    seqfault summary trace.parquet
    seqfault summary sample:ebizzy --json
    """
    from seqfault.report.summary import run_summary

    run_summary(trace, json, top, verbose)


@app.command()
def litmus(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="FILE|DIR...", help="C litmus files of the kernel; all *.litmus of a directory."),
    ],
    json: Json = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also the cycle that forbids the state, and which accesses race.")
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(metavar="S", help="Seconds for each file.", min=0.001, callback=number)
    ] = None,
    max_candidates: Annotated[int, typer.Option(help="Candidate executions of each file.", min=1)] = 10_000_000,
    machine: Annotated[
        bool, typer.Option("--machine", help="Also run it, step by step: are the final states those of the axioms?")
    ] = False,
    linux: Annotated[
        str, typer.Option(metavar="6.1|6.12", help="Whose memory model: 6.12 has what came with Linux 6.3 and 6.4.")
    ] = "6.1",
) -> None:
    """Judge litmus tests by the kernel's memory model, as herd7 does."""
    from seqfault.litmus.command import run_litmus

    run_litmus(paths, json, verbose, timeout, max_candidates, machine, linux)


app.add_typer(cli_export.app, name="export")
app.command()(cli_price.price)
app.command()(cli_price.calibrate)
app.command()(cli_price.whatif)


def fail(message: str) -> int:
    Console(stderr=True, soft_wrap=True, highlight=False, emoji=False).print(f"seqfault: {message}", markup=False)
    return BAD_INPUT


def main(argv: list[str] | None = None) -> Any:
    """Entry point; returns by `SystemExit` with the exit code."""
    return _with_room(lambda: _main(argv))


def _with_room(run: Callable[[], Any]) -> Any:
    return run()


# CPython keeps its frames in pieces of 16 KiB, each mapped when a call crosses into it and unmapped when that returns;
# a loop at that depth does so all the time (23,000 times while numba is imported).  A frame as large as this one gets a
# piece of its own, of which half a megabyte is left for those that it calls.
_with_room.__code__ = _with_room.__code__.replace(co_stacksize=(1 << 16) + 100)


def asked_for(argv: list[str]) -> typer.Typer:
    """`app` with the command that `argv` begins with and no other: typer makes all that it is given, 3 ms each."""
    wanted = [c for c in app.registered_commands if argv and (c.name or getattr(c.callback, "__name__", "")) == argv[0]]
    if not wanted:
        return app
    one = copy.copy(app)
    one.registered_commands, one.registered_groups = wanted, []
    return one


def _main(argv: list[str] | None) -> Any:
    from seqfault.compile.ir import CompileError
    from seqfault.kernel.types import KernelTypeError

    gc.set_threshold(200_000, 50, 100)  # what is read at the start stays: a tenth of a second less
    try:
        code = asked_for(sys.argv[1:] if argv is None else argv)(args=argv, standalone_mode=False)
        if code == 130:  # what typer makes of Ctrl-C
            fail("interrupted")
    except BadInput as e:
        code = fail(str(e))
    except (CompileError, KernelTypeError) as e:
        code = fail(str(e))
    except KeyboardInterrupt:
        code = fail("interrupted") and 130
    except BrokenPipeError:
        code = NOBODY_READS
    except SystemExit as e:
        if not isinstance(e.__context__, BrokenPipeError):
            raise
        code = NOBODY_READS  # rich's own end, which is 1
    except Exception as e:
        from seqfault.protocols import ProtocolError
        from seqfault.scenarios.model import ScenarioError

        if isinstance(e, typer.Exit):
            code = e.exit_code
        elif isinstance(e, typer.Abort):
            code = 130
        elif type(e).__name__ == "NoArgsIsHelpError":  # its message is the help
            print(e.format_message(), file=sys.stderr)  # type: ignore[attr-defined]
            code = BAD_INPUT
        elif hasattr(e, "format_message"):  # a usage error of typer's
            code = fail(e.format_message().replace("\n", " "))
        elif isinstance(e, ProtocolError | ScenarioError):
            code = fail(str(e))
        else:
            if not (isinstance(e, OSError) and e.errno in NO_ROOM):
                raise
            code = unwritten() or fail(f"{e.filename or 'the output is not whole'}: {e.strerror}")
    raise SystemExit(unwritten() or code or 0)


def unwritten() -> int:
    """The exit code if standard output does not take what is left to be written, or 0."""
    try:
        sys.stdout.flush()
    except OSError as e:
        null = os.open(os.devnull, os.O_WRONLY)  # else Python tries again at its end, and says so
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        return NOBODY_READS if isinstance(e, BrokenPipeError) else fail(f"the output is not whole: {e.strerror}")
    return 0


def dump(value: Any) -> None:
    """Print JSON."""
    print(jsonlib.dumps(value, indent=2))


if __name__ == "__main__":
    from seqfault import cli  # its errors, not those of a second copy of this module

    cli.main()
