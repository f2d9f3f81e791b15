"""The automaton as a Promela model: `promela_of` (docs/export.md).

`expr`: expressions over a state; `frames`: registers to variables; `steps`: what one step does, as a tree;
`flow`: which steps and values there are at all; `text`: the model.
"""

from seqfault.report.promela.expr import ExportError
from seqfault.report.promela.text import Export, export_promela, promela_of

__all__ = ["Export", "ExportError", "export_promela", "promela_of"]
