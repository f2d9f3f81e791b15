"""`seqfault review`: root causes, the data of a page, the mail, the command line."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest

from seqfault import cli
from seqfault.explore.check import Limits, check_scenario
from seqfault.explore.engine import Executor
from seqfault.explore.model import program_for, start_of
from seqfault.protocols import load
from seqfault.report.counterexample import from_schedule, from_violation
from seqfault.report.picture import PARTS, Pictures
from seqfault.report.review import make_review, render, spread
from seqfault.report.review_causes import Finder
from seqfault.report.review_data import Review, Table, limits, questions, review_data
from seqfault.report.review_mail import WIDTH, command
from seqfault.report.review_sites import read_sites
from seqfault.report.review_trace import Texts, trace_data
from seqfault.report.review_words import to_html
from seqfault.report.stacks import Stacks, event_frames
from seqfault.scenarios import find

SCENARIOS = ["argued/case8-alone", "argued/case2-alone", "argued/munmap-table-goes"]


@pytest.fixture(scope="module")
def review() -> Review:
    return make_review("spf-seed", find(SCENARIOS), ["sc"], "seqfault review spf-seed", Limits(), jobs=1)


def run(capsys, *args: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as e:
        cli.main(list(args))
    out, err = capsys.readouterr()
    return int(e.value.code or 0), out, err


def causes(protocol: str, scenario: str) -> set[str]:
    p, s = load(protocol), find([scenario])[0]
    finder = Finder(p)
    return {finder.cause(s, v).text() for v in check_scenario(p, s).violations}


# -- causes
def test_case_8_has_two_causes():
    """04 frees next before it ends its count; and with next = vma it ends the survivor's count twice."""
    assert causes("spf-seed", "argued/case8-alone") == {
        "use-after-free of vm_area_struct at __vma_adjust/next.free.after",
        "sequence-left-odd of vm_area_struct: counted an odd number of times in __vma_adjust",
    }


def test_readers_of_a_freed_vma_are_one_cause():
    """munmap frees table and VMA; a fault that meets the one, the other, or the table's pointer gone: three causes, in
    however many functions it does."""
    got = causes("spf-seed", "argued/munmap-table-goes")
    assert got == {
        "use-after-free of vm_area_struct in do_page_fault/try: freed at remove_vma/free",
        "use-after-free of pte_table in do_page_fault/try: freed at pte_free",
        "null-dereference of pte_table in do_page_fault/try: set to NULL at free_pte_range",
    }


def test_an_entry_is_laid_to_who_stored_it():
    assert any(
        t.startswith("entry-exceeds-vma of vm_area_struct in do_page_fault/try: entry stored by")
        for t in causes("spf-seed-no-next", "argued/third-question")
    )


def test_groups_hold_every_violation_once(review: Review):
    found = {(v.kind, v.object, v.function, v.line) for r in review.reports for s in r.scenarios for v in s.violations}
    grouped = [(m.violation.kind, m.violation.object, m.violation.function, m.violation.line) for g in review.groups for m in g.members.values()]
    assert sorted(grouped) == sorted(found) and len(review.groups) == 5
    assert review.groups[0].cause.how == "at"  # what the protocol's own call does comes first


# -- stacks and pictures
def test_stacks_begin_with_the_operation():
    """Of every event of a munmap that races with a fault: the functions around it are a chain of calls of the text."""
    p, s = load("spf-seed"), find(["argued/munmap-table-goes"])[0]
    v = check_scenario(p, s).violations[-1]
    cx = from_violation(p, s, v)
    seen = set()
    for e, frames in zip(cx.events, event_frames(cx), strict=True):
        if e.process == "cpu0" and frames:
            assert frames[0][0] == "sys_munmap"
        assert not frames or e.function in [f for f, _, _ in frames]
        seen.add(tuple(f for f, _, _ in frames[:4]))
    assert ("sys_munmap", "do_munmap", "unmap_region", "free_pgtables") in seen
    assert any(x[:1] == ("touch_write",) or x[:1] == ("touch_read",) for x in seen)


def test_a_process_that_has_finished_is_inside_of_nothing():
    p, s = load("mmap-sem"), find(["argued/case2-alone"])[0]
    a, words, rom = start_of(p, s)
    assert Stacks(a).callers(Executor(a, rom).start(words), 1) == []


def test_a_freed_vma_is_drawn_as_it_was():
    p, s = load("spf-seed"), find(["argued/case1-alone"])[0]
    v = next(v for v in check_scenario(p, s).violations if v.site)
    cx = from_violation(p, s, v)
    pictures = Pictures(cx.automaton, program_for(p, s).layout())
    _, words, _ = start_of(p, s)
    before = pictures.snapshot(words.view("int64"))["vmas"]
    assert [r[:4] for r in before] == [["vma[0]", "listed", 0, 2], ["vma[1]", "listed", 3, 5]]
    last = [pictures.snapshot(st.words) for st in cx.steps][-1]
    rows = {r[0]: r for r in last["vmas"]}
    assert rows["vma[0]"][1:4] == ["listed", 0, 5] and rows["vma[0]"][8] % 2 == 1  # grown, its count odd still
    assert rows["vma[1]"][1:4] == ["freed", 3, 5]
    assert ["mm.mmap_sem (write)", "CPU 0"] in last["locks"]


def test_stores_on_their_way_are_drawn():
    p, s = load("spf-seed"), find(["argued/case8-alone"])[0]
    v = check_scenario(p, s, memory="tso").violations[0]
    cx = from_violation(p, s, v)
    pictures = Pictures(cx.automaton, program_for(p, s).layout())
    assert any(row[0] == "CPU 0" for st in cx.steps for row in pictures.snapshot(st.words)["pending"])


def test_what_a_cpu_has_not_seen_is_drawn():
    """Under lkmm: a VMA that is linked before its links are seen."""
    p, s = load("spf-v5"), find(["split-head/mprotect-page0-warm-read~1.0"])[0]
    cx = from_violation(p, s, check_scenario(p, s, memory="lkmm").violations[0])
    d = trace_data(cx, Texts(p))
    at = [d["parts"]["pending"][st[PARTS.index("pending")]] for st in d["states"]]
    assert at[0] == [] and {who for rows in at for who, _ in rows} == {"CPU 1"}  # CPU 0 stored what there is
    assert "vma[2].rb_left may still be undefined or NULL" in at[-1][0][1]
    loaded = next(e.step for e in cx.events if e.process == "cpu1" and e.kind == "load" and e.cell.endswith("mm_rb"))
    before, after = at[loaded], at[loaded + 1]  # the state before a step, and after it
    assert "mm.mm_rb may still be vma[0]" in before[0][1]
    assert not any("mm_rb" in x for x in after[0][1])  # it has seen the new root now


# -- data
def test_data(review: Review):
    d = review_data(review)
    json.dumps(d)
    assert d["verdict"] == "violated" and d["exit"] == 1 and d["memories"] == ["sc"]
    total = d["matrix"]["total"]["sc"]
    assert (total["scenarios"], total["holds"], total["violated"], total["own"]) == (3, 1, 2, 2)
    assert d["matrix"]["families"][0]["not_holding"].keys() == {"argued/case8-alone", "argued/munmap-table-goes"}
    for g in d["groups"]:
        for m in g["members"]:
            assert m["schedule"].startswith("spf-seed:argued/") and m["trace"] is not None
            assert from_schedule(m["schedule"]).violations


def test_traces_are_what_is_replayed(review: Review):
    """Each state that a page shows is the one after that step of the schedule; each event stands at a line of its text."""
    d = review_data(review)
    for t in d["traces"]:
        cx = from_schedule(t["schedule"])
        assert len(t["steps"]) == len(cx.steps) and len(t["states"]) == len(cx.steps) + 1
        for step in t["steps"]:
            for column, kind, words, text, line, stack, key, *_ in step:
                assert -1 <= column < len(t["columns"]) and stack < len(t["stacks"]) and key in (0, 1) and kind and words
                assert text < 0 or 0 <= line < len(d["texts"][text]["lines"])
        assert t["steps"][-1][-1][1] == "violation"


def test_the_line_of_a_place_is_the_protocols(review: Review):
    """At a place the row is the statement of the protocol that ran, also where it calls a function of mm."""
    d = review_data(review)
    rows = {d["texts"][e[3]]["lines"][e[4]][1].strip() for t in d["traces"] for st in t["steps"] for e in st if e[3] >= 0 and e[7] == "vma_rb_erase/end"}
    assert {"write_sequnlock(mm.mm_seq)", "RB_CLEAR_NODE(vma)"} <= rows


def test_tables_of_other_commands(review: Review):
    review.sites = Table("Sites", "seqfault why spf-seed", ["site", "verdict"], [["unmap_page_range/begin", "necessary"]])
    try:
        html, mail = render(review, ".html"), render(review, ".md")
    finally:
        review.sites = None
    assert "<code>unmap_page_range/begin</code>" in html and "- unmap_page_range/begin: verdict: necessary" in mail
    assert "seqfault why spf-seed" in render(review, ".html")


ANSWER = {
    "protocol": "spf-seed", "memory": ["sc", "pso"], "scenarios": 7, "left_out": 0, "complete": True,
    "sites": [
        {
            "sites": [{"name": "vma_adjust/end", "kind": "end", "place": "", "function": "f", "file": "a.py", "line": 3, "text": "end(vma)"}],
            "verdict": "redundant",
            "models": [{"memory": m, "verdict": "redundant", "reason": "nothing new", "violations": [], "operations": {"case 2": {"scenarios": 3, "needed": 0}}} for m in ("sc", "pso")],
        },
        {
            "sites": [{"name": "smp_wmb", "kind": "barrier", "place": "", "function": "f", "file": "b.py", "line": 4, "text": "smp_wmb()"}],
            "verdict": "necessary",
            "models": [
                {"memory": "sc", "verdict": "redundant", "reason": "nothing new", "violations": [], "operations": {}},
                {"memory": "pso", "verdict": "necessary", "reason": "",
                 "violations": [{"kind": "leak", "object": "page", "functions": [], "scenarios": ["a", "b"]}],
                 "operations": {"case 5": {"scenarios": 4, "needed": 2}, "case 2": {"scenarios": 3, "needed": 0}}},
            ],
        },
        {"sites": [{"name": "READ_ONCE", "kind": "once", "text": "", "file": "", "line": 1}], "verdict": "redundant", "models": []},
    ],
}  # fmt: skip


def test_sites_of_why(tmp_path):
    path = tmp_path / "why.json"
    path.write_text(json.dumps(ANSWER))
    t = read_sites(path, "spf-seed")
    assert t.rows == [
        ["smp_wmb", "smp_wmb() (b.py:4)", "necessary (sc: redundant; pso: necessary)", "leak of page in 2 scenarios", "case 5 (2 of 4)", "case 2 (3)"],
        ["vma_adjust/end", "end(vma) (a.py:3)", "redundant", "nothing new", "", ""],
    ]
    assert "1 READ_ONCE" in t.note and t.command == "seqfault why spf-seed --memory sc,pso"


@pytest.mark.parametrize(
    "text,said",
    [(None, "No such file"), ("{", "no JSON"), ("{}", "no answer of why"), ('{"protocol": "x", "sites": []}', "it is about 'x'"), ('{"protocol": "spf-seed", "sites": [{}]}', "no answer of this seqfault's why")],
)
def test_sites_that_are_none(text, said, tmp_path, capsys):
    path = tmp_path / "why.json"
    if text is not None:
        path.write_text(text)
    code, _, err = run(capsys, "review", "spf-seed", "--sites", str(path), "-o", str(tmp_path / "r.html"))
    assert code == 2 and said in err.replace("\n", " ") and "seqfault why spf-seed --json" in err


def test_documents_come_with_the_package():
    assert [s.title for s in limits()][-1] == "What a verdict covers" and len(limits()) == 4
    assert len(questions(load("spf-seed"))) == len(questions(load("spf-v5"))) == 3
    assert not questions(load("mmap-sem"))


def test_words():
    html = to_html("a `b<c` *d* **e** [f](g.md)\n\n    code &\n\n    more\n\n| x | y |\n|---|---|\n| 1 \\| 2 | `3` |\n\n- one\n  goes on\n- two")
    assert html.split("\n", 1)[0] == "<p>a <code>b&lt;c</code> <em>d</em> <strong>e</strong> f</p>"
    assert "<pre><code>code &amp;\n\nmore</code></pre>" in html
    assert "<td>1 | 2</td><td><code>3</code></td>" in html
    assert "<li>one\n  goes on</li><li>two</li>" in html


# -- the page
class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids += [a["id"]] if "id" in a else []
        self.links += [a["href"]] if tag == "a" else []
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith(("#", "data:"))]


def test_page_needs_nothing_else(review: Review):
    html = render(review, ".html")
    page = Page()
    page.feed(html)
    assert not page.outside and len(page.ids) == len(set(page.ids))
    assert {x[1:] for x in page.links} <= set(page.ids)
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    assert data and json.loads(data[1])["traces"]


# -- the mail
def test_mail_fits(review: Review):
    mail = render(review, ".md")
    assert max(map(len, mail.splitlines())) <= WIDTH
    assert "violated 2/3" in mail and "*** use-after-free of vma" in mail
    joined = mail.replace("\\\n", "").replace("        '", "'")
    for schedule in re.findall(r"seqfault replay +'([^']+)'", joined.split("## Questions")[0]):
        assert from_schedule(schedule).violations


def test_a_long_command_is_still_one():
    long = "spf-seed:argued/x+" + "a" * 150 + ":0x3:123456"
    lines = command(f"seqfault replay '{long}'")
    assert all(len(x) <= WIDTH for x in lines)
    assert "".join(x.removesuffix("\\") for x in lines).split("replay", 1)[1].strip() == f"'{long}'"


# -- the command line
def test_command(tmp_path, capsys):
    out = tmp_path / "r.md"
    code, said, _ = run(capsys, "review", "spf-v5", "-s", "argued/case2-alone", "--memory", "sc,tso", "-j", "1", "-o", str(out))
    assert code == 0 and "spf-v5 under sc, tso: holds; 0 root causes" in said
    text = out.read_text()
    assert "seqfault review spf-v5 -s argued/case2-alone --memory sc,tso -o r.md" in re.sub(r" \\\n +", " ", text)
    code, said, _ = run(capsys, "review", "spf-seed", "-s", "argued/case8-alone", "--json", "-j", "1", "-o", str(tmp_path / "r.html"))
    assert code == 1 and json.loads(said)["groups"]


def slowly(task: int) -> int:
    if task:
        time.sleep(60)
    return task


def test_ctrl_c_does_not_wait_for_the_workers():
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        for _ in spread(slowly, [0, 1, 1, 1, 1], 2, None, "root causes"):
            me = threading.main_thread().ident
            threading.Timer(0.2, signal.pthread_kill, [me, signal.SIGINT]).start()
    assert time.monotonic() - begun < 30


def test_a_limit_is_no_pass(tmp_path, capsys):
    out = tmp_path / "r.md"
    code, _, _ = run(capsys, "review", "spf-v5", "-s", "argued/same-page-writes", "--max-states", "50", "-j", "1", "-o", str(out))
    assert code == 3 and "incomplete 1/1" in out.read_text() and "limit of 50 states" in out.read_text()


@pytest.mark.parametrize(
    "args,said",
    [
        (["nothing"], "nothing"),
        (["spf-seed", "-o", "r.pdf"], "-o r.pdf: what it is to be is told by its name"),
        (["spf-seed", "-o", "/no/such/r.html"], "there is no directory"),
        (["spf-seed", "--memory", "sc,xyz"], "--memory: no memory model 'xyz'"),
        (["spf-seed", "-s", "nothing/*"], "no scenario"),
    ],
)
def test_bad_input(args, said, capsys):
    code, _, err = run(capsys, "review", *args)
    assert code == 2 and said in err and len(err.splitlines()) == 1


def test_a_small_model_is_reviewed_once(capsys, tmp_path):
    model = Path(__file__).parents[2] / "examples/seqcount/seqcount.py"
    out = tmp_path / "r.html"
    code, said, _ = run(capsys, "review", str(model), "-o", str(out), "-j", "1")
    assert code == 0 and "seqcount under sc: holds; 0 root causes" in said and out.stat().st_size < 100_000
    assert "argued/" not in out.read_text()
