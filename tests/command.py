"""The command, as a user with a terminal of 80 columns sees it."""

from __future__ import annotations

import pytest

from seqfault import cli


def run(capsys, monkeypatch, *args: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `seqfault ARGS`."""
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as e:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err
