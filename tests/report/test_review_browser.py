"""The page of `seqfault review` in a real browser: Debian's chromium, through playwright."""

from __future__ import annotations

import pytest

from seqfault.explore.check import Limits
from seqfault.report.review import make_review, render
from seqfault.scenarios import find

SCENARIOS = ["argued/case8-alone", "argued/munmap-table-goes", "argued/third-question"]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    review = make_review("spf-seed", find(SCENARIOS), ["sc"], "seqfault review spf-seed", Limits(), jobs=1)
    path = tmp_path_factory.mktemp("review") / "review.html"
    path.write_text(render(review, ".html"))
    return path


@pytest.fixture
def opened(browser, report):
    """Opens the page; afterwards nothing was asked of the network and nothing was complained of."""
    said: list[str] = []
    asked: list[str] = []
    contexts = []

    def go(width: int = 1280, height: int = 900, scheme: str = "light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: said.append(m.text))
        page.on("pageerror", lambda e: said.append(str(e)))
        page.on("request", lambda r: asked.append(r.url))
        page.goto(report.as_uri())
        return page

    yield go
    for c in contexts:
        c.close()
    assert said == []
    assert {u for u in asked if not u.startswith("data:")} == {report.as_uri()}


def step_of(page) -> int:
    words = page.locator(".viewer .said b").first.inner_text()
    return 0 if words.startswith("Before") else int(words.split()[1])


def first(page):
    return page.locator(".viewer").first


def test_stepping_by_keyboard(opened):
    page = opened()
    events = first(page).locator(".events")
    events.focus()
    assert step_of(page) == 0
    seen = [0]
    for _ in range(5):
        page.keyboard.press("ArrowRight")
        seen.append(step_of(page))
    assert seen == sorted(set(seen))
    for want in reversed(seen[:-1]):
        page.keyboard.press("ArrowLeft")
        assert step_of(page) == want
    page.keyboard.press("End")
    assert "use-after-free" in first(page).locator(".said").inner_text()
    assert first(page).locator(".vma.freed").count() == 1
    last = step_of(page)
    page.keyboard.press("ArrowRight")
    assert step_of(page) == last
    page.keyboard.press("Home")
    assert step_of(page) == 0 and first(page).locator(".vma.freed").count() == 0


def test_stepping_by_button_slider_and_row(opened):
    page = opened()
    v = first(page)
    v.get_by_role("button", name="Step forward (Right arrow)").click()
    one = step_of(page)
    assert one > 0
    slider = v.get_by_role("slider")
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert step_of(page) > one and int(slider.input_value()) == 2
    v.locator(".ev").last.click()
    assert v.get_by_role("button", name="Last step (End)").is_disabled()
    stops = int(slider.get_attribute("max"))
    v.get_by_label("every step").check()
    assert int(slider.get_attribute("max")) > stops


def test_the_text_follows_each_cpu(opened):
    """In case 8 the violation is at the end of next's count, behind the free."""
    page = opened()
    v = first(page)
    v.locator(".events").focus()
    page.keyboard.press("End")
    at = v.locator(".lines .at")
    assert at.count() == 1
    assert "write_seqcount_end(next.vm_sequence)" in at.inner_text()
    assert at.get_attribute("aria-current") == "step"


def test_what_changed_is_marked(opened):
    page = opened()
    v = first(page)
    v.locator(".events").focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
        if "vm_sequence = 3" in v.locator(".said").inner_text():
            break
    assert v.locator(".vma .ch").all_inner_texts() == ["seq 3"]
    assert v.locator(".vma .odd").first.inner_text() == "seq 3"


def test_another_counterexample_is_opened_and_closed(opened):
    page = opened()
    v = page.locator(".viewer").nth(1)
    button = v.locator(".step-through")
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true" and v.locator(".events").count() == 1
    assert v.locator(".events").evaluate("e => e === document.activeElement")
    button.click()
    assert v.locator(".events").count() == 0


def test_every_counterexample_can_be_stepped_through(opened):
    page = opened()
    for v in page.locator(".viewer").all():
        if v.locator(".events").count() == 0:
            v.locator(".step-through").click()
        select = v.locator("select")
        for value in (select.locator("option").evaluate_all("os => os.map(o => o.value)") if select.count() else [None]):
            if value is not None:
                select.select_option(value)
            v.locator(".events").focus()
            for key in ("End", "ArrowLeft", "ArrowLeft", "Home", "ArrowRight"):
                page.keyboard.press(key)
            assert v.locator(".ev.now").count() >= 1


def paper(page) -> str:
    return page.evaluate("getComputedStyle(document.body).backgroundColor")


def test_dark_and_light(opened):
    light, dark = opened(scheme="light"), opened(scheme="dark")
    assert paper(light) == "rgb(255, 255, 255)" and paper(dark) == "rgb(20, 23, 26)"
    for page, other in ((light, "rgb(20, 23, 26)"), (dark, "rgb(255, 255, 255)")):
        page.get_by_role("button", name="Dark").click()
        assert paper(page) == other
        page.wait_for_timeout(500)  # the browser keeps it a moment later
        page.reload()
        assert paper(page) == other


CONTRAST = """() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number);
  const lum = (c) => rgb(c).slice(0, 3).map((v) => v / 255).map((v) => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((a, v, i) => a + v * [.2126, .7152, .0722][i], 0);
  const back = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; const p = rgb(c); if (p.length < 4 || p[3] > 0) return c; } return "rgb(255,255,255)"; };
  const low = [];
  for (const e of document.querySelectorAll("main *, header *")) {
    if (!e.offsetParent || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (e.closest(":disabled, .future, .sr")) continue;
    const a = lum(getComputedStyle(e).color), b = lum(back(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) low.push(`${e.className || e.tagName} ${e.textContent.slice(0, 30)} ${ratio.toFixed(2)}`);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(opened, scheme):
    """Text against its background: 4.5 to 1 at least (WCAG 2.1, 1.4.3)."""
    page = opened(scheme=scheme)
    first(page).locator(".events").focus()
    for key in ("End", "Home", "ArrowRight", "ArrowRight", "End"):
        page.keyboard.press(key)
        assert page.evaluate(CONTRAST) == []


@pytest.mark.parametrize("width", [360, 768, 1280, 2560])
def test_no_page_is_wider_than_the_screen(opened, width):
    page = opened(width=width, height=740)
    for details in page.locator("details").all():
        details.evaluate("d => { d.open = true; }")
    first(page).locator(".events").focus()
    for key in ("End", "ArrowLeft", "Home"):
        page.keyboard.press(key)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_landmarks_and_labels(opened):
    page = opened()
    assert page.get_by_role("main").count() == 1 and page.get_by_role("banner").count() == 1
    assert page.get_by_role("navigation", name="Sections").count() == 1
    assert page.get_by_role("contentinfo").count() == 1
    for control in page.locator("button, select, input").all():
        name = control.evaluate("e => e.getAttribute('aria-label') || e.textContent.trim() || (e.labels && e.labels[0] && e.labels[0].textContent.trim())")
        assert name
    assert first(page).locator(".said").get_attribute("aria-live") == "polite"
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4,h5')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_focus_is_seen(opened):
    page = opened()
    for _ in range(12):
        page.keyboard.press("Tab")
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert float(width.removesuffix("px")) >= 2


def test_print_shows_the_pictures_and_no_buttons(opened):
    page = opened()
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".drawn pre").first.is_visible()
    assert not page.locator("button").first.is_visible() and not page.locator(".stage").first.is_visible()


def test_without_scripts_the_report_can_be_read(browser, report):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("h1").inner_text().startswith("spf-seed")
    page.locator(".drawn summary").first.click()
    assert "use-after-free" in page.locator(".drawn pre").first.inner_text()
    context.close()
