"""What strangers' files have beyond linux-kernel.def: loops, words of other releases, forms of herd7 and litmus7."""

from __future__ import annotations

import pytest

from seqfault.litmus.judge import judge
from seqfault.litmus.parse import parse
from seqfault.litmus.tree import Address, Eval, Fence, If, LitmusError, Load, Lock, Rmw, Store, Unlock, prop_text

PARAMS = "int *x, int *y, int **p, spinlock_t *s, struct srcu_struct *ss, atomic_t *v"


def read(body, init="{}", asks="exists (x=1)"):
    return parse(f"C t\n{init}\n{body}\n{asks}\n", "t.litmus")


def statements(text):
    return read(f"P0({PARAMS}) {{ {text} }}").threads[0].body


def final(text, asks="0:r0", init="{ p=&y; }"):
    verdict = judge(read(f"P0({PARAMS}) {{ {text} }}", init, f"locations [{asks}] forall (true)"))
    assert len(verdict.states) == 1
    state = next(iter(verdict.states))
    return state if len(state) > 1 else state[0]


@pytest.mark.parametrize(
    ("text", "r0"),
    [
        ("int i = 3; while (i > 0) { i--; r0 += 2; }", 6),
        ("do { r0++; } while (r0 < 5);", 5),
        ("do r0 = 2; while (0);", 2),
        ("for (r1 = 0; ; r1++) { if (r1 == 4) break; if (r1 & 1) continue; r0++; }", 2),
        ("for (int i = 0, j = 3; i < j; i++, j--) r0 += 1;", 2),
        ("for (i = 0; i < 3; i++) { if (*x == i) break; r0 = i + 1; }", 0),
        ("for (i = 0; i < 3; i++) { if (*x != i) break; r0 = i + 1; }", 1),
        ("while (1) { r0 = 7; break; }", 7),
        ("for (i = 0; i < 2; i++) { for (j = 0; j < 2; j++) { if (j == 1) break; r0++; } }", 2),
        ("for (i = 1; i < 100; i *= 2) r0++;", 7),
        ("r0 = 1; if (*x == 0) return; r0 = 2;", 1),
        ("int n = 2; for (i = 0; i < n; i++) { n = 1; r0++; }", 1),
        ("r0 = r1 = 3;", 3), ("{ { ; } int r1 = 4; r0 = r1; }", 4), ("if (likely(*x == 0)) r0 = 5; else r0 = 6;", 5),
        ("const int q = 4; volatile u32 w = 1; bool b = true; r0 = q + w + b;", 6), ("r0 = (long) READ_ONCE(*x) + 1UL;", 1),
        ("r1 = 0; r0 = atomic_try_cmpxchg(v, &r1, 7); r0 = r0 * 10 + r1;", 10),
        ("r1 = 3; r0 = atomic_try_cmpxchg_acquire(v, &r1, 7); r0 = r0 * 10 + r1;", 0),
        ("r0 = atomic_fetch_add_unless(v, 2, 5);", 0), ("r0 = atomic_long_add_unless(v, 1, 0) + atomic64_read(v);", 0),
        ("r0 = rcu_dereference_check(*p, lockdep_is_held(&s) || 1) == y;", 1), ("r0 = READ_ONCE(*(int *)x) + *(int *)x;", 0),
    ],
)  # fmt: skip
def test_statements(text, r0):
    assert final(text) == r0


def test_a_jump_depends_and_what_follows_the_loop_does_not():
    (loop, after) = statements("for (i = 0; i < 1; i++) { if (READ_ONCE(*x)) break; WRITE_ONCE(*y, 1); } WRITE_ONCE(*y, 2);")[-2:]
    assert isinstance(loop, If) and isinstance(after, Store)
    assert any(isinstance(s, Store) for s in loop.other)


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("raw_spin_lock(s); raw_spin_unlock(s);", (Lock, Unlock)), ("spin_unlock_wait(s);", (Lock, Unlock)),
        ("smp_store_mb(*x, 1);", (Store, Fence)), ("set_mb(*x, 1);", (Store, Fence)), ("smp_read_barrier_depends();", ()),
        ("RCU_INIT_POINTER(*p, x);", (Store,)), ("atomic_xor(1, v); atomic64_andnot(1, v);", (Eval, Eval)),
    ],
)  # fmt: skip
def test_words(text, nodes):
    assert tuple(type(s) for s in statements(text)) == nodes


def test_fences_of_flavours_and_orders():
    words = ["rcu_read_lock_bh", "rcu_read_unlock_sched", "synchronize_sched", "cpu_relax", "mb", "wmb"]
    kinds = ["rcu-lock", "rcu-unlock", "sync-rcu", "barrier", "mb", "wmb"]
    assert [s.kind for s in statements(" ".join(f"{w}();" for w in words))] == kinds
    loads = statements("r1 = rcu_access_pointer(*p); r1 = rcu_dereference_raw(*p); r1 = rcu_dereference_protected(*p, 1);")
    assert [s.value.order for s in loads if isinstance(s.value, Load)] == ["once", "once", "plain"]
    (s,) = statements("r0 = try_cmpxchg_release(x, &r1, 7);")
    assert isinstance(s.value, Rmw) and (s.value.order, s.value.gives, s.value.keeps) == ("release", "bool", "r1")


def test_herd7_comments_in_code():
    assert final("r0 = 5; (* a comment; *) r1 = 1;") == 5
    assert final("\n (* over\n * lines; here\n *)\n r0 = (*x) + 2; (** doc **)\n") == 2
    assert final("r0 = READ_ONCE(*x) + (*y); /* (* */ // *)\n") == 0


def test_the_result_is_a_line_of_its_own():
    def result(comment):
        return parse(f"C a\n{comment}\n{{}}\nP0(int *x) {{ }}\n", "f").result

    assert result("(*\n * Result: Never DATARACE\n *)") == "DATARACE"
    assert result("(* Result: Sometimes *)") == "Sometimes"
    assert result("// Result: Always") == "Always"
    assert result("(* Expected result: Sometimes.  Plain stores ... *)") is None
    assert result("(*\n * Result: Maybe\n *)") is None


def test_blocks_that_litmus7_copies():
    t = read('{\n#include "api.h"\n}\nP0(int *x) { WRITE_ONCE(*x, 1); }\n#define A\n')
    assert len(t.threads) == 1 and judge(t).observation == "Always"


def test_places():
    t = read("P0(int *x) { r1 = 1; }", "{ P0:r2=3; int *0:r1; int * 0:r4; 0:r3=x; *q = &x; }", "(P0:r1=1 /\\ 0:r3=x)")
    assert t.registers == {(0, "r2"): 3, (0, "r3"): Address("x")} and t.init[Address("q")] == Address("x")
    assert t.condition.kind == "exists" and judge(t).positive == 1


def test_precedence_in_conditions_is_herd7s():
    def text(asks):
        return prop_text(read("P0(int *x) { }", asks=f"exists ({asks})").condition.prop)

    assert text("x=1 /\\ x=2 => x=3") == "[x]=1 /\\ ([x]=2 => [x]=3)"
    assert text("x=1 => x=2 \\/ x=3") == "([x]=1 => [x]=2) \\/ [x]=3"
    assert text("x=1 => x=2 => x=3") == "[x]=1 => ([x]=2 => [x]=3)"


WRONG = [
    ("while (READ_ONCE(*x) == 0) cpu_relax();", "no constant bound"),
    ("while (1) { if (READ_ONCE(*x)) break; }", "no constant bound"),
    ("for (;;) *x = 1;", "no constant bound"),
    ("int n = 2; for (i = 0; i < n; i++) { n = *x; }", "no constant bound"),
    ("break;", "outside of a loop"),
    ("if (1) { continue; }", "outside of a loop"),
    ("for (i = 0; i < 3; i++) { if (*x) return; }", "`return` in a loop"),
    ("for (i = 0; i < 60; i++) for (j = 0; j < 60; j++) for (k = 0; k < 60; k++) *x = 1;", "20000 statements"),
    ("for (i = 0; i < 60; i++) { if (*x == i) continue; *y = 1; }", "statements"),
    ("call_rcu(&x, f);", "synchronize_rcu()"),
    ("smp_cond_load_acquire(x, VAL == 1);", "filter clause"),
    ("r0 = srcu_down_read(ss);", "srcu_read_lock()"),
    ("spin_lock_irqsave(s, flags);", "spin_lock()"),
    ("raw_spin_unlock_irqrestore(s, flags);", "spin_unlock()"),
    ("mutex_lock(s);", "spin_lock()"),
    ("BUG_ON(*x);", "exists clause"),
    ("READ_ONCEE(*x);", "did you mean READ_ONCE()?"),
    ("r0 = try_cmpxchg(x, y, 1);", "local variable"),
    ("r0 = r1++;", "within an expression"),
    ("if (r0 = 1) *x = 2;", "within an expression"),
    ("struct foo { int a; } f;", "a structure's definition"),
    ("out: r0 = 1;", "labels"),
    ("r0 = sizeof(int);", "sizeof"),
    ("int *q = &r1;", "a local variable has none"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=range(len(WRONG)))
def test_what_is_refused_says_so(text, message):
    with pytest.raises(LitmusError) as e:
        parse(f"C t\n{{}}\nP0({PARAMS})\n{{\n  {text}\n}}\n", "bad.litmus")
    assert str(e.value).startswith("bad.litmus:5: ") and message in str(e.value)


def test_no_values_out_of_thin_air():
    """Plain copies in a circle: herd7 drops the execution in which both read what the other copied, also if it is 0."""
    circle = "P0(int *x, int *y) { int r0 = *x; *y = r0; } P1(int *x, int *y) { int r0 = *y; *x = r0; }"
    v = judge(read(circle, asks="exists (0:r0=1)"))
    assert v.negative == 3 and "data-race" in v.flags
    known = circle.replace("*y = r0;", "*y = r0 ^ r0;")  # herd7 knows r0 ^ r0 before it knows r0
    assert judge(read(known, asks="exists (0:r0=1)")).negative == 4


@pytest.mark.parametrize(
    ("body", "threads", "executions"),
    [
        ("atomic_inc(v);", 5, 120),
        ("atomic_inc(v); atomic_inc(v);", 4, 2520),
        ("spin_lock(s); *x = *x + 1; spin_unlock(s);", 4, 24),
        ("spin_lock(s); int r0 = READ_ONCE(*x); WRITE_ONCE(*x, r0 + 1); spin_unlock(s);", 4, 24),
        ("int r0 = spin_trylock(s); if (r0) { *x += 1; spin_unlock(s); }", 3, 21),
    ],
)
def test_counters(body, threads, executions):
    """n! orders of sections or increments; of two increments each in four threads, 8! / 2!**4."""
    v = judge(read("\n".join(f"P{i}({PARAMS}) {{ {body} }}" for i in range(threads)), asks="exists (x=9)"))
    assert v.negative == executions and not v.flags - {"data-race"}
