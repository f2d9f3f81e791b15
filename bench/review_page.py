"""How long a page of `seqfault review` takes to open in chromium, and how large it is.

    python bench/review_page.py review.html [--rounds N]

Opened: from the request to where its script has run and a frame with the first counterexample was drawn.  Stepping: each
key press until the next frame, from the first step to the last, of the longest counterexample.  Needs playwright and chromium.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from statistics import median

from playwright.sync_api import sync_playwright

FRAME = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
STEPS = """() => new Promise((done) => {
  const box = document.querySelector(".viewer .events"), took = [];
  const next = () => {
    const forth = document.querySelectorAll(".viewer .controls button")[2];
    if (forth.disabled) return done(took);
    const t = performance.now();
    box.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
    document.querySelector(".stage").getBoundingClientRect();
    took.push(performance.now() - t);
    setTimeout(next, 0);
  };
  document.querySelector(".viewer label input").click();
  next();
})"""


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    args.add_argument("page", type=Path)
    args.add_argument("--rounds", type=int, default=7)
    a = args.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as p:
        opened, dom, steps = [], [], []
        for _ in range(a.rounds):  # a browser each, so that nothing is in a cache
            b = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = b.new_page(viewport={"width": 1440, "height": 900})
            page.goto(a.page.resolve().as_uri())
            opened.append(page.evaluate(FRAME))
            dom.append(page.evaluate("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd"))
            steps += page.evaluate(STEPS) if page.locator(".viewer .events").count() else []
            b.close()
    size = a.page.stat().st_size / 1e6
    print(f"{a.page.name}: {size:.2f} MB; {a.rounds} rounds, median (least-most)")
    for what, ms in (("script has run", dom), ("opened", opened), ("a step", steps)):
        if ms:
            print(f"  {what:<15} {median(ms):6.0f} ms ({min(ms):.0f}-{max(ms):.0f})")


if __name__ == "__main__":
    main()
