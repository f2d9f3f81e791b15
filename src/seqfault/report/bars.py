"""Progress bars on the terminal: their columns."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

_COUNT = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()
OF_HOW_MANY = (*_COUNT, TimeElapsedColumn())
WITH_WHAT = (*_COUNT, TextColumn("{task.fields[what]}"), TimeElapsedColumn())  # and what is at work
