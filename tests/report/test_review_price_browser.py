"""The price in the page of `seqfault review`, in a real browser."""

from __future__ import annotations

import pytest

from seqfault.cli import main


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("review") / "review.html"
    price = ["--price", "page_fault1,malloc1", "--cpus", "1,2,4", "--machine", "x86-small", "--trace", "sample:numpy"]
    with pytest.raises(SystemExit):
        main(["review", "spf-v5", "-s", "argued/case2-alone", "--jobs", "1", *price, "-o", str(path)])
    return path


def opened(browser, report, width=1280, scheme="light", scripts=True):
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, java_script_enabled=scripts
    )
    page = context.new_page()
    page.goto(report.as_uri())
    return page


@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits(browser, report, width):
    page = opened(browser, report, width)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    box = page.locator("#prices svg.curve").first.bounding_box()
    assert box["width"] > 250 and box["x"] + box["width"] <= width
    assert page.locator("#prices svg.curve").count() == 2
    assert page.locator("#prices table.figures").count() == 3


def strokes(page):
    return page.evaluate("[...document.querySelectorAll('#prices polyline')].map(e => getComputedStyle(e).stroke)")


def test_light_dark_and_print(browser, report):
    light, dark = opened(browser, report), opened(browser, report, scheme="dark")
    assert strokes(light) != strokes(dark) and len(set(strokes(light))) == 2
    dark.emulate_media(media="print")
    assert strokes(dark) == strokes(light)


def test_curves_are_named_and_the_misses_are_reached(browser, report):
    page = opened(browser, report)
    assert page.get_by_role("img", name="malloc1: calls a second by CPUs, spf-v5 against mmap-sem").count() == 1
    page.locator("#prices a[href='#misses']").click()
    assert page.locator("#misses").is_visible()


def test_without_scripts(browser, report):
    page = opened(browser, report, scripts=False)
    assert page.locator("#prices svg.curve").first.is_visible()
