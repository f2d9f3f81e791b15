"""Small loops in machine code, of what a machine does over and over."""

from __future__ import annotations

import ctypes
from typing import Any

import llvmlite.binding as llvm

from seqfault.compile.target import target_machine

ODD = """
define i64 @chase(ptr %p, i64 %n) {
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  %q = phi ptr [%p, %entry], [%r, %loop]
  %a = load volatile i64, ptr %q
  %r = inttoptr i64 %a to ptr
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  %x = ptrtoint ptr %r to i64
  ret i64 %x
}
; wait until the word is odd (or even), then add one: n times
define i64 @pong(ptr %p, i64 %n, i64 %odd) {
entry:
  br label %wait
wait:
  %i = phi i64 [0, %entry], [%i, %wait], [%i1, %turn]
  %s = phi i64 [0, %entry], [%s1, %wait], [0, %turn]
  %v = load atomic volatile i64, ptr %p seq_cst, align 8
  %b = and i64 %v, 1
  %mine = icmp eq i64 %b, %odd
  %s1 = add i64 %s, 1
  %late = icmp ugt i64 %s1, 4000000000
  %go = or i1 %mine, %late
  br i1 %go, label %turn, label %wait
turn:
  %v1 = add i64 %v, 1
  store atomic volatile i64 %v1, ptr %p seq_cst, align 8
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %wait, label %end
end:
  ret i64 %i1
}
; until the word is not zero
define i64 @spin(ptr %p) {
entry:
  br label %loop
loop:
  %v = load atomic volatile i64, ptr %p seq_cst, align 8
  %c = icmp eq i64 %v, 0
  br i1 %c, label %loop, label %end
end:
  ret i64 %v
}
"""
# what is done n times, to memory at %p or with %i, and what is returned
TIMES = {
    "add": ("%o = atomicrmw volatile add ptr %p, i64 1 seq_cst", "%o"),
    "barrier": ("fence seq_cst", "0"),
    "touch": (
        """
        %o = shl i64 %i, 12
        %q = getelementptr i8, ptr %p, i64 %o
        store volatile i8 1, ptr %q
        """,
        "0",
    ),
    "getppid": ('%r = call i64 asm sideeffect "syscall", "={rax},{rax},~{rcx},~{r11},~{memory}"(i64 110)', "%r"),
    # mprotect(p, 4096, READ), then READ | WRITE, and a store
    "protect": (
        """
        %r = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"(i64 10, ptr %p, i64 4096, i64 1)
        %s = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"(i64 10, ptr %p, i64 4096, i64 3)
        store volatile i8 1, ptr %p
        """,  # noqa: E501
        "%s",
    ),
    # mmap(0, 12288, READ | WRITE, PRIVATE | ANONYMOUS) and munmap
    "map": (
        """
        %a = call i64 asm sideeffect "movl $$34, %r10d; movq $$-1, %r8; xorl %r9d, %r9d; syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r8},~{r9},~{r10},~{r11},~{memory}"(i64 9, i64 0, i64 12288, i64 3)
        %r = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},~{rcx},~{r11},~{memory}"(i64 11, i64 %a, i64 12288)
        """,  # noqa: E501
        "%r",
    ),
    # madvise(0, 0, DONTNEED), which does nothing
    "advise": (
        """
        %r = call i64 asm sideeffect "syscall", "={rax},{rax},{rdi},{rsi},{rdx},~{rcx},~{r11},~{memory}"(i64 28, i64 0, i64 0, i64 4)
        """,  # noqa: E501
        "%r",
    ),
}
LOOP = """
define i64 @{name}(ptr %p, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [0, %entry], [%i1, %loop]
  {body}
  %i1 = add i64 %i, 1
  %c = icmp ult i64 %i1, %n
  br i1 %c, label %loop, label %end
end:
  ret i64 {result}
}}
"""


class Loops:
    """The loops as machine code."""

    def __init__(self) -> None:
        tm = target_machine(2)
        llvm.initialize_native_asmparser()
        text = ODD + "".join(LOOP.format(name=n, body=b, result=r) for n, (b, r) in TIMES.items())
        mod = llvm.parse_assembly(text)
        self.engine = llvm.create_mcjit_compiler(mod, tm)
        self.engine.finalize_object()

    def __getattr__(self, name: str) -> Any:
        p, i = ctypes.c_void_p, ctypes.c_int64
        shapes: dict[str, list[Any]] = {"spin": [p], "pong": [p, i, i]}
        args = shapes.get(name, [p, i])
        f = ctypes.CFUNCTYPE(i, *args)(self.engine.get_function_address(name))
        setattr(self, name, f)
        return f
