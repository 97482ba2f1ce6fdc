"""Processor time to pack a graph of one piece into jobs, for graphs of several shapes.

python benchmarks/packing.py [STEPS...]
"""

import random
import sys
import time
from collections.abc import Iterable

from neuroferry.engine.slurm.pack import StepPlan, pack_steps


def step(
    number: int, after: Iterable[int], *, small: bool = True, minutes: float = 1.0
) -> StepPlan:
    """Make a step of one processor that waits for others."""
    name = f"s{number:06d}"
    return StepPlan(name, name, name, 1, 0.2, minutes, small, tuple(sorted(after)))


def chains(n: int) -> list[StepPlan]:
    """Chains of four steps between a first and a last one."""
    steps = [step(0, ())]
    ends = []
    for _ in range((n - 2) // 4):
        before = 0
        for place in range(4):
            steps.append(step(len(steps), (before,), small=place != 2))
            before = len(steps) - 1
        ends.append(before)
    return [*steps, step(len(steps), ends)]


def tangle(n: int) -> list[StepPlan]:
    """Wait for one to three of the fifty steps before, at random."""
    choose = random.Random(0)
    return [
        step(
            i,
            {choose.randrange(max(0, i - 50), i) for _ in range(choose.randint(1, 3))}
            if i
            else (),
            small=choose.random() < 0.6,
            minutes=choose.choice([0.1, 1.0, 5.0]),
        )
        for i in range(n)
    ]


def chain(n: int) -> list[StepPlan]:
    """Wait each for the one before."""
    return [step(i, (i - 1,) if i else ()) for i in range(n)]


def star(n: int) -> list[StepPlan]:
    """Wait all for the first."""
    return [step(0, ()), *(step(i, (0,)) for i in range(1, n))]


def layers(n: int) -> list[StepPlan]:
    """Wait each for all twenty of the layer before."""
    return [
        step(i, range((i // 20 - 1) * 20, i // 20 * 20) if i >= 20 else (), small=i % 3 != 0)
        for i in range(n)
    ]


def main() -> None:
    """Print a table."""
    numbers = [int(word) for word in sys.argv[1:]] or [100, 1000, 10000]
    for shape in (chains, tangle, chain, star, layers):
        for number in numbers:
            steps = shape(number)
            started = time.process_time()
            packs = pack_steps(steps)
            seconds = time.process_time() - started
            print(f"{shape.__name__:8} {number:6} steps {len(packs):6} jobs {seconds:7.2f} s")


if __name__ == "__main__":
    main()
