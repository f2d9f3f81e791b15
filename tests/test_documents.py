"""Documents agree with the code."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from seqfault.cli import app
from seqfault.explore.model import automaton_for
from seqfault.protocols import builtin_names, load
from seqfault.scenarios import find

DOCS = Path(__file__).parents[1] / "docs"


def test_every_kind_of_violation_is_listed():
    listed = (DOCS / "violations.md").read_text()
    kinds = {"new-outcome", "lock-order-inversion"}
    for name in builtin_names():
        kinds |= set(automaton_for(load(name), find(["argued/case1-alone"])[0]).kinds)
    assert {k for k in kinds if f"`{k}`" not in listed} == set()


def test_every_protocol_is_in_the_readme():
    readme = (DOCS.parent / "README.md").read_text()
    assert all(f"`{n}`" in readme for n in builtin_names())


@pytest.mark.parametrize(("page", "protocol", "scenario"), [
    ("README.md", "spf-seed", "argued/case1-alone"),
    ("docs/questions.md", "spf-seed-no-next", "argued/third-question"),
])
def test_a_quoted_counterexample_is_what_check_prints(page, protocol, scenario, monkeypatch):
    """Replay strings apart: they name the program's text, which changes with any of its lines."""
    monkeypatch.setenv("COLUMNS", "80")
    printed = CliRunner().invoke(app, ["check", protocol, "-s", scenario, "--jobs", "1"])
    assert printed.exit_code == 1
    schedule = printed.stdout.split("\n\n")[0].rpartition(":")[0]
    quoted = (DOCS.parent / page).read_text().splitlines()
    assert schedule in "\n".join(line.removeprefix("    ") for line in quoted)
