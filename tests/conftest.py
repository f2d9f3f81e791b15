"""Tests may run side by side (`pytest -n 2 --dist loadgroup`): those of a file stay in one process, and those that look at
the whole machine, its tracefs, or how long something takes are in one, too."""

from __future__ import annotations

import pytest

MACHINE = {"test_attached_retrace", "test_live", "test_qemu", "test_record", "test_retrace"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        group = "machine" if item.path.stem in MACHINE else str(item.path)
        item.add_marker(pytest.mark.xdist_group(group))
