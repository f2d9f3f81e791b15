"""This machine as LLVM's target, and the passes that text goes through before it."""

from __future__ import annotations

from functools import cache
from typing import Any

import llvmlite.binding as llvm


def optimise(mod: Any, tm: Any, level: int) -> None:
    """Level 1: a few passes over each function: most of the speed for a tenth of the time.  2: LLVM's -O2."""
    pto = llvm.create_pipeline_tuning_options(speed_level=2)
    pto.loop_vectorization = pto.slp_vectorization = False
    pb = llvm.create_pass_builder(tm, pto)
    if level > 1:
        pb.getModulePassManager().run(mod, pb)
        return
    passes = llvm.create_new_function_pass_manager()
    passes.add_sroa_pass()
    passes.add_simplify_cfg_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    for f in mod.functions:
        if not f.is_declaration:
            passes.run(f, pb)


@cache
def host() -> str:
    """This CPU, on which machine code depends."""
    return f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}"


_ready = False


def target_machine(level: int) -> Any:
    global _ready
    if not _ready:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        _ready = True
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=level, jit=True
    )


def linked_objects(*objects: bytes, level: int = 1) -> Any:
    """Object files in memory, linked: what knows their functions' addresses, and holds them as long as it is there."""
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target_machine(level))
    for x in objects:
        engine.add_object_file(llvm.ObjectFileRef.from_data(x))
    engine.finalize_object()
    return engine
