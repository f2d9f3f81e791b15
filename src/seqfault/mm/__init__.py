"""Linux's memory management, 4.12 unless a size says otherwise: its functions, its structs, its locks.

The order in which locks are taken; each only under those it stands below (mm/locks.py has it as data):

    mm_struct.mmap_sem
      file.i_mmap_rwsem
        anon_vma.rwsem
          mm_struct.page_table_lock
          pte_table.ptl

Which of them protects which field: `seqfault locks`, docs/locks.md.
"""
