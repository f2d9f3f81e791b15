"""Words of the texts that keep virtual time: addresses of fields, memory without a cost, stacks.

They are known to price/timed.py only; plain Python has no clocks and refuses them.
"""

from __future__ import annotations

from typing import Any, NoReturn

from seqfault.kernel.words import word


def _refuse(name: str) -> NoReturn:
    raise NotImplementedError(f"{name}() means something in virtual time only")


@word
def cell_of(field: Any) -> int:
    """The number of a field's cell of memory."""
    _refuse("cell_of")


@word
def line_of(field: Any) -> int:
    """The number of the cache line that a field lies in."""
    _refuse("line_of")


@word
def peek(cell: int) -> int:
    """What a cell holds; costs nothing."""
    _refuse("peek")


@word
def poke(cell: int, value: int) -> None:
    """Store to a cell; costs nothing."""
    _refuse("poke")


@word
def set_current(task: int) -> None:
    """What smp_processor_id() and process_id() give from now on."""
    _refuse("set_current")


@word
def swap_stack(save: int, to: int) -> None:
    """Keep the stack pointer in cell `save` and go on with the one in cell `to`."""
    _refuse("swap_stack")


@word
def ahead(cell: int) -> None:
    """Bring cell `cell` and those that follow it into the caches of the machine that this runs on."""
    _refuse("ahead")


@word
def stack_ahead(cell: int) -> None:
    """The same for the stack whose pointer cell `cell` holds."""
    _refuse("stack_ahead")
