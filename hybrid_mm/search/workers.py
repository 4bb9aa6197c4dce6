"""Evaluations in processes side by side: one thread each on a CPU, one GPU each otherwise.

A process starts with this module, before it imports anything of OpenMMLab.
"""
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, Callable, Dict, Iterator, Optional, Sequence, Tuple

from hybrid_mm.compat import flush_denormals, mend_torchvision

from .space import Candidate

_evaluate: Callable[[Candidate], Dict[str, float]]  # of a process


class Workers:
    """Some ``processes`` with a `CandidateEvaluator` of ``cfg``, ``settings`` and ``checkpoint`` each; the caller's own if one.

    Raises:
        ValueError: ``processes`` is below 1.
    """

    def __init__(self, cfg: Any, settings: Any, checkpoint: str, processes: int = 1) -> None:
        if not isinstance(processes, int) or processes < 1:
            raise ValueError(f'processes={processes} is not allowed; choose 1 or more')
        self._args = cfg, settings, checkpoint
        self._own: Optional[Callable] = None
        self._pool: Optional[ProcessPoolExecutor] = None
        if processes > 1:
            context = multiprocessing.get_context('spawn')
            numbers = context.Queue()
            for number in range(processes):
                numbers.put(number)
            self._pool = ProcessPoolExecutor(processes, context, _start, (numbers, *self._args))

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Tuple[Candidate, Dict[str, float]]]:
        """Each candidate with its metrics, in the order in which they are done.

        Raises:
            ChildProcessError: a process died, such as for lack of memory.
        """
        if not candidates:
            return
        if self._pool is None:
            self._own = self._own or _build(0, *self._args)
            for candidate in candidates:
                yield candidate, self._own(candidate)
            return
        futures = {self._pool.submit(_work, candidate): candidate for candidate in candidates}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise ChildProcessError('a process of the search died, perhaps for lack of memory; what was evaluated is kept: run '
                                    'the same command again, with fewer --processes if need be') from None

    def __enter__(self) -> 'Workers':
        return self

    def __exit__(self, *exception: Any) -> None:
        """End the processes; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def _start(numbers: Any, cfg: Any, settings: Any, checkpoint: str) -> None:
    """What a process does first."""
    global _evaluate
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _evaluate = _build(numbers.get(), cfg, settings, checkpoint)


def _work(candidate: Candidate) -> Dict[str, float]:
    return _evaluate(candidate)


def _end_with_parent() -> None:
    """A killed search leaves no process behind: they would wait for work for ever."""
    wait([multiprocessing.parent_process().sentinel])  # type: ignore[union-attr]  # a worker has a parent
    os._exit(1)


def _build(number: int, cfg: Any, settings: Any, checkpoint: str) -> Callable[[Candidate], Dict[str, float]]:
    flush_denormals()
    mend_torchvision()
    import cv2
    import torch
    from mmengine.utils import import_modules_from_strings

    from .evaluate import CandidateEvaluator
    if cfg.get('custom_imports'):  # done when a config is read, which was in another process
        import_modules_from_strings(**cfg['custom_imports'])
    if torch.cuda.is_available():
        torch.cuda.set_device(number % torch.cuda.device_count())
    else:
        # one thread in any number of processes: sums of other numbers of threads round in other ways
        torch.set_num_threads(1)
    cv2.setNumThreads(0)
    return CandidateEvaluator(cfg, settings, checkpoint)
