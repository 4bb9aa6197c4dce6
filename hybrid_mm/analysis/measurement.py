"""Time and memory of a piece of work, on a CPU or a GPU."""
import os
import time
from typing import Callable, Dict, List, Optional

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Step = Callable[[], object]

os.environ.setdefault('KINETO_LOG_LEVEL', '9')  # torch's profiler announces itself at every start


def run(model: nn.Module, x: Tensor, train: bool) -> None:
    """Inference without gradients, or a forward and a backward pass from the mean square of the outputs.

    The model takes a tensor and gives a tensor or a sequence of them.
    """
    if train:
        out = model(x)
        sum(part.square().mean() for part in ([out] if isinstance(out, Tensor) else out)).backward()
    else:
        with torch.no_grad():
            model(x)


def seconds(step: Step, at_least: float = 0.) -> float:
    """Of one run, the mean of as many as fill `at_least` seconds; waits for the GPU where there is one."""
    _wait()
    runs, start = 0, time.perf_counter()
    while True:
        step()
        runs += 1
        _wait()
        elapsed = time.perf_counter() - start
        if elapsed >= at_least:
            return elapsed / runs


def in_turn(steps: Dict[str, Step], rounds: int, at_least: float = 0., done: Optional[Step] = None,
            each_round: Optional[Callable[[Dict[str, float]], object]] = None) -> Dict[str, List[float]]:
    """Seconds of each step in each round, one step after the other within a round, so that the machine's moods hit all
    alike and ratios hold. One round before these warms up and does not count. `done` is called behind each step, outside of
    its time, and `each_round` behind each round that counts, with its seconds."""
    times: Dict[str, List[float]] = {name: [] for name in steps}
    for i in range(rounds + 1):
        for name, step in steps.items():
            taken = seconds(step, at_least if i else 0.)
            if i:
                times[name].append(taken)
            if done is not None:
                done()
        if i and each_round is not None:
            each_round({name: own[-1] for name, own in times.items()})
    return times


def peak_bytes(step: Step, device: Optional[str] = None) -> int:
    """Most memory that torch's allocator held during one run, beyond what it held before; on the current GPU if there is one,
    unless `device` says ``'cpu'``."""
    if torch.cuda.is_available() and device != 'cpu':
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda event: event.start_ns()):
        if event.name() == '[memory]':
            held += event.nbytes()
            peak = max(peak, held)
    return peak


class _Traffic(TorchDispatchMode):
    """Adds up the bytes of what operators take and give."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(leaf.nbytes for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor))
        return out


def moved_bytes(step: Step) -> int:
    """Bytes that the operators of one run read and write: the inputs and outputs of each, once, as if none were fused and no
    cache kept anything from one to the next. What a kernel outside of torch's operators moves is not seen."""
    with _Traffic() as traffic:
        step()
    return traffic.bytes


def stored_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Optional[Tensor] = None) -> Tensor:
    """Softmax attention by its definition, with the matrix of logits in memory: the baseline for
    `torch.nn.functional.scaled_dot_product_attention`, with the shapes of that one and a boolean mask."""
    logits = q @ k.transpose(-2, -1) / q.shape[-1]**0.5
    if attn_mask is not None:
        logits = logits.masked_fill(~attn_mask, float('-inf'))
    return logits.softmax(-1) @ v


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
