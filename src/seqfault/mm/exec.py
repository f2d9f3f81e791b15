"""Address spaces that begin with a layout that was seen, instead of an executable; processes by number.

What execve leaves (fs/exec.c begin_new_exec, fs/binfmt_elf.c load_elf_binary) is not computed from a file but told:
where each VMA is, with its flags, and whether it has an anon_vma.  For replay, with FULL and several address spaces.
"""

from __future__ import annotations

from seqfault.kernel import (
    emit,
    index_of,
    integer,
    kmem_cache_zalloc,
    pool_object,
    the,
)
from seqfault.mm.anon_vma import anon_vma_prepare
from seqfault.mm.exit import exit_mmap
from seqfault.mm.file import get_file
from seqfault.mm.fork import dup_mm
from seqfault.mm.limits import vm_stat_account
from seqfault.mm.types import (
    NR_FILES,
    NR_MMS,
    VM_FLAGS_MAX,
    VM_LOCKED,
    brk_t,
    errno_t,
    file,
    mm_struct,
    pgoff_t,
    vm_area_struct,
    vm_count_t,
    vpn_t,
)
from seqfault.mm.uapi import s64, uapi_op, uapi_process, uapi_request, uapi_world
from seqfault.mm.vma import find_vma, find_vma_links, vm_get_page_prot, vma_link

who_t = integer(0, NR_MMS - 1)
file_or_none_t = integer(0, NR_FILES)
told_flags_t = integer(0, VM_FLAGS_MAX)


def exec_mm(who: who_t, mmap_base: vpn_t, start_brk: brk_t, rlimit_as: vm_count_t, max_map_count: vm_count_t):
    """Process `who` begins, with an empty address space."""
    mm = pool_object(mm_struct, who)
    assert not the(uapi_world).alive[who] and mm.map_count == 0
    the(uapi_world).alive[who] = True
    uapi_process(who)
    mm.total_vm = 0
    mm.data_vm = 0
    mm.exec_vm = 0
    mm.stack_vm = 0
    mm.locked_vm = 0
    mm.def_flags = 0
    mm.start_brk = start_brk
    mm.brk = start_brk
    mm.mmap_base = mmap_base
    mm.rlimit_as = rlimit_as
    mm.max_map_count = max_map_count


def exec_brk(who: who_t, brk: brk_t):
    """Where the break is of a process that has run for a while; its heap is told as VMAs."""
    pool_object(mm_struct, who).brk = brk


def exec_vma(
    who: who_t,
    start: vpn_t,
    end: vpn_t,
    vm_flags: told_flags_t,
    file_or_none: file_or_none_t,
    pgoff: pgoff_t,
    touched: bool,
) -> errno_t:
    """A VMA as execve left it; `file_or_none`: number of the file plus one; `touched`: it has an anon_vma."""
    uapi_process(who)
    mm = pool_object(mm_struct, who)
    err, prev, rb_parent, rb_left = find_vma_links(mm, start, end)
    if err != 0:
        return err
    vma = kmem_cache_zalloc(vm_area_struct)
    vma.vm_mm = mm
    vma.vm_start = start
    vma.vm_end = end
    vma.vm_flags = vm_flags
    vma.vm_page_prot = vm_get_page_prot(vm_flags)
    vma.vm_pgoff = pgoff
    if file_or_none != 0:
        f = pool_object(file, file_or_none - 1)
        get_file(f)
        vma.vm_file = f
    vma_link(mm, vma, prev, rb_parent, rb_left)
    vm_stat_account(mm, vm_flags, end - start)
    if vm_flags & VM_LOCKED:
        mm.locked_vm += end - start
    if touched:
        err = anon_vma_prepare(vma)
    return err


def exec_file(number: file_or_none_t, nr_pages: pgoff_t, f_mode: integer(0, 3), shmem: bool):
    """A file that the recording names, held open; its page cache is empty."""
    f = pool_object(file, number)
    f.shmem = shmem
    f.i_size = nr_pages
    f.f_mode = f_mode
    f.f_count += 1


def exec_fork(parent: who_t, child: who_t) -> errno_t:
    """fork of any process; `child` must not exist."""
    world = the(uapi_world)
    assert world.alive[parent] and not world.alive[child]
    uapi_process(parent)
    err: errno_t = dup_mm(pool_object(mm_struct, child), pool_object(mm_struct, parent))
    if err == 0:
        world.alive[child] = True
    return err


def exec_exit(who: who_t):
    """The last task of `who` exits, or executes another program."""
    uapi_process(who)
    exit_mmap(pool_object(mm_struct, who))
    the(uapi_world).alive[who] = False


def exec_op(op: s64, who: s64, a0: s64, a1: s64, a2: s64, a3: s64, a4: s64, a5: s64) -> s64:
    """One operation of mm/opcodes.py, without the record that `uapi_step` makes."""
    r = the(uapi_request)
    r.op = op
    r.who = who
    r.a0 = a0
    r.a1 = a1
    r.a2 = a2
    r.a3 = a3
    r.a4 = a4
    r.a5 = a5
    uapi_op()
    return r.result


def exec_maps(who: who_t, addr: vpn_t, most: vm_count_t):
    """The VMAs from `addr` on, at most `most`, six words each: start, end, flags, pgoff, number of the file and of
    the anon_vma, plus one."""
    vma = find_vma(pool_object(mm_struct, who), addr)
    n: vm_count_t = 0
    while vma and n < most:
        emit(vma.vm_start)
        emit(vma.vm_end)
        emit(vma.vm_flags)
        emit(vma.vm_pgoff)
        emit(index_of(vma.vm_file) + 1 if vma.vm_file else 0)
        emit(index_of(vma.anon_vma) + 1 if vma.anon_vma else 0)
        n += 1
        vma = vma.vm_next


def exec_rlimit_as(who: who_t, limit: vm_count_t):
    """setrlimit(RLIMIT_AS): pages plus one; 0: none."""
    pool_object(mm_struct, who).rlimit_as = limit
