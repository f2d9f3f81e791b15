"""`seqfault export litmus`: the ordering core of one run as a litmus test (docs/export.md)."""

from seqfault.report.litmus.export import ASKS, LitmusExport, export_litmus, sequential
from seqfault.report.litmus.path import ExportError

__all__ = ["ASKS", "ExportError", "LitmusExport", "export_litmus", "sequential"]
