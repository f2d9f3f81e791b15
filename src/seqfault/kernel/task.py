"""Tasks and interrupts: what a CPU may do where.  include/linux/preempt.h, irqflags.h, kernel.h (might_sleep)."""

from __future__ import annotations

from seqfault.kernel.places import place
from seqfault.kernel.types import Size, integer, struct
from seqfault.kernel.words import check, pool_object, process_id, smp_processor_id

NR_CPUS = Size("NR_CPUS", 2)
NR_TASKS = Size("NR_TASKS", 6)
task_t = integer(0, NR_TASKS, "task_t")  # number of a process, plus one; 0: none
taskmask_t = integer(0, 255, "taskmask_t")  # a bit for each process
RCU_ARGS = Size("RCU_ARGS", 255)
rcu_arg_t = integer(0, RCU_ARGS, "rcu_arg_t")  # number of an object whose free is deferred


@struct(pool=NR_TASKS, private=True)
class task_struct:
    """What the checker remembers of each process: how deep it is in sections that must not sleep."""

    preempt_count: integer(0, 15)
    irqs_disabled: bool


@struct(pool=NR_CPUS, static=True)
class cpu_irq:
    """Whether a CPU takes interrupts; its interrupt handler looks before it runs."""

    disabled: bool


def preempt_disable():
    t = pool_object(task_struct, process_id())
    t.preempt_count += 1


def preempt_enable():
    t = pool_object(task_struct, process_id())
    check(t.preempt_count > 0, "unbalanced-preempt")
    t.preempt_count -= 1


def might_sleep():
    """Sleeping is a bug with a spinlock held or interrupts off."""
    t = pool_object(task_struct, process_id())
    check(t.preempt_count == 0, "sleep-in-atomic")
    check(not t.irqs_disabled, "sleep-with-irqs-off")


def local_irq_disable():
    t = pool_object(task_struct, process_id())
    check(not t.irqs_disabled, "unbalanced-irq")
    t.irqs_disabled = True
    c = pool_object(cpu_irq, smp_processor_id())
    c.disabled = True


def local_irq_enable():
    t = pool_object(task_struct, process_id())
    check(t.irqs_disabled, "unbalanced-irq")
    t.irqs_disabled = False
    c = pool_object(cpu_irq, smp_processor_id())
    c.disabled = False


@place("rcu_callback/call")
def rcu_callback(arg: rcu_arg_t):
    """What a deferred callback does with the object of number `arg`."""
