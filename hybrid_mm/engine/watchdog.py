"""Threads that see whether the processes of a run live and move. No call in here touches a GPU or needs the main thread."""
import atexit
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import torch
from torch import distributed

STATUS = 124  # of a process that ends a run for standing still, as that of coreutils' timeout
_TORCH = os.path.dirname(torch.__file__)
_DEBUGGERS = ('bdb', 'pydevd')  # modules in the stack of a process in which somebody looks around
_SECONDS_TO_REPORT = 10
Position = Tuple[int, int, int]  # iteration, part of it, batch within the part; ranks that wait for each other have the same


class Watchdog:
    """Watch the thread that makes it, and the processes of the same group, until `stop`.

    Each process publishes at short intervals where it is, in the store of the group. A process whose signs of life stop is
    stopped or gone, and one that lives and does not move, though nobody in the group is behind it, is stuck. The first that
    sees it reports it, and all end with status 124, so that the launcher ends the run. Time in which a process was itself
    stopped does not count, so that a job which is suspended as a whole may go on.

    Args:
        timeout: seconds within which a process that stands still is reported.
        key: the same in all processes, and of this run alone.
        report: gets the sentence and the state of all processes, in a thread of its own, before the end.
        processes: all of the group, by rank: what `identity` gives in each.
        rank: of this process.
        frame: of the run, in this thread; without it on the stack the run was left, by an exception, say, and nothing is
            watched any more.
        store: opens the store of the group; None for one process alone.
    """

    def __init__(self, timeout: float, key: str, report: Callable[[str, List[dict]], None], processes: Sequence[dict],
                 rank: int = 0, frame: Optional[FrameType] = None, store: Optional[Callable[[], Any]] = None) -> None:
        self.period = min(timeout / 20, 5.)
        self.limit = timeout - 2 * self.period  # what is published is at most so old when it is read
        self.key, self.rank = key, rank
        self._report, self._frame, self._open_store = report, frame, store or (lambda: None)
        self._is_alone = store is None
        self._pid, self._thread = os.getpid(), threading.get_ident()
        self._here: Tuple[int, Position, str, bool] = (0, (0, -1, 0), 'prepares the run', False)
        self._clock = self._moved = self._exchanged = 0.
        self._seen = self._beats = 0
        self._over, self._wake = False, threading.Event()
        self._states = [dict(process, rank=i, beat=0, position=(0, -1, 0), doing='prepares the run', counts=False, still=0.,
                             over=False) for i, process in enumerate(processes)]
        self._last_beats = [(0, 0.)] * len(processes)  # number, and when it came, by this clock
        self._threads = [threading.Thread(target=self._watch, name='hang guard', daemon=True)]
        if not self._is_alone:
            self._threads.append(threading.Thread(target=self._exchange, name='hang guard, store', daemon=True))
        atexit.register(self.stop)  # a thread within the store when Python ends would take the process down with a message
        for thread in self._threads:
            thread.start()

    @property
    def position(self) -> Position:
        return self._here[1]

    def move(self, position: Position, doing: str, counts: bool = True) -> None:
        """Say where the process is and what it does; for work that may take any time ``counts`` is False."""
        self._here = (self._here[0] + 1, position, doing, counts)

    def stop(self) -> None:
        """End the watch; the other processes learn that this one is through."""
        if os.getpid() != self._pid:  # a fork, which has no threads
            return
        self._over = True
        self._wake.set()
        for thread in self._threads:
            thread.join(timeout=5)
        self._frame = None
        atexit.unregister(self.stop)

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._over:
            self._wake.wait(self.period)
            now = time.monotonic()
            self._clock += min(now - last, 2 * self.period)
            last = now
            if self._here[0] != self._seen:
                self._seen, self._moved = self._here[0], self._clock
            elif self._clock - self._moved > self.limit / 2:
                self._look_at_stack()
            if self._over:
                return
            if self._is_alone:
                self._states[0] = self._state()
                self._end(verdict(self._states, [0.], self.limit))
            elif self._clock - self._exchanged >= self.limit:
                silence = self._clock - self._exchanged
                self._end(f'the launcher, which holds what the processes share, has not answered {_for(silence)}; it is stopped, '
                          'or its machine is gone' if os.environ.get('TORCHELASTIC_USE_AGENT_STORE') == 'True' else
                          _silent(0, self._states, silence))

    def _look_at_stack(self) -> None:
        """Is the run still there, and nobody in a debugger? Frames keep what is in them alive, so this is for late moments."""
        stack = self._stack()
        if self._frame is not None and self._frame not in stack:
            self._over, self._frame = True, None
            self._report = _ignore  # lets go of the runner
            self._wake.set()
        elif any(_module(frame) in _DEBUGGERS for frame in stack):
            self._moved = self._clock

    def _exchange(self) -> None:
        store = None
        while True:
            over = self._over
            try:
                store = store or distributed.PrefixStore(f'hybrid_mm.HangGuardHook/{self.key}', self._open_store())
                store.set(str(self.rank), json.dumps(self._state()))
                if over:
                    return
                self._read(store)
            except RuntimeError:  # torch's errors of the network; the next round tries a new connection
                store = None
            else:
                self._exchanged = self._clock
                silence = [self._clock - since for _, since in self._last_beats]
                self._end(verdict(self._states, silence, self.limit), store)
            if self._over and store is None:
                return
            self._wake.wait(self.period)

    def _read(self, store: Any) -> None:
        for rank in range(len(self._states)):
            # the store waits for keys that are not there yet
            if not self._states[rank]['beat'] and not store.check([str(rank)]):
                continue
            state = self._states[rank] = json.loads(store.get(str(rank)))
            if state['beat'] != self._last_beats[rank][0]:
                self._last_beats[rank] = (state['beat'], self._clock)

    def _state(self) -> Dict[str, Any]:
        self._beats += 1
        _, position, doing, counts = self._here
        still = self._clock - self._moved
        state: Dict[str, Any] = dict(
            identity(), rank=self.rank, beat=self._beats, position=position, doing=doing, counts=counts, still=still,
            over=self._over)
        if still > self.limit / 2:
            # no line of the sources: they may lie on the disk that does not answer
            stack = state['stack'] = [f'{frame.f_code.co_filename}:{frame.f_lineno}, {frame.f_code.co_name}'
                                      for frame in self._stack()]
            state['in_torch'] = stack[:1] and stack[0].startswith(_TORCH)
            if self._is_alone:
                state['children'] = [child.pid for child in multiprocessing.active_children()]
        return state

    def _stack(self) -> List[FrameType]:
        """Of the watched thread, its innermost frame first."""
        frame, frames = sys._current_frames().get(self._thread), []
        while frame is not None:
            frames.append(frame)
            frame = frame.f_back
        return frames

    def _end(self, sentence: Optional[str], store: Any = None) -> None:
        """Report and leave, if there is something to report; the main thread cannot be asked to."""
        if sentence is None:
            return
        try:
            is_first = store is None or store.add('found', 1) == 1
        except RuntimeError:
            is_first = True
        if is_first:
            # whoever is stuck may hold the lock of the log, or the disk it is on
            reporter = threading.Thread(target=self._report, args=(sentence, self._states), daemon=True)
            reporter.start()
            reporter.join(_SECONDS_TO_REPORT)
        else:
            time.sleep(_SECONDS_TO_REPORT)  # the launcher ends all when one has left, and the first may still be reporting
        for child in multiprocessing.active_children():  # loaders, which otherwise stay if they are stuck themselves
            child.kill()
        os._exit(STATUS)


def group_store() -> Any:
    """A connection of its own to the store of torch's process group; one in use waits for whoever uses it."""
    store = distributed.distributed_c10d._get_default_store()
    while isinstance(store, distributed.PrefixStore):
        store = store.underlying_store
    if isinstance(store, distributed.TCPStore):
        store = distributed.TCPStore(
            store.host, store.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=60))
    return store


def identity() -> Dict[str, Any]:
    return dict(pid=os.getpid(), host=socket.gethostname())


def verdict(states: Sequence[dict], silence: Sequence[float], limit: float) -> Optional[str]:
    """What is wrong, in a sentence without its end; None if all processes live and move, or those behind may stand still.

    Args:
        states: of all processes, as they published them last.
        silence: seconds since a sign of life of each.
        limit: seconds that a process may be silent or stand still.
    """
    silent = [rank for rank, state in enumerate(states) if silence[rank] >= limit and not state['over']]
    if silent:
        return _join([_silent(rank, states, silence[rank]) for rank in silent])
    running = [state for state in states if not state['over']]
    if not running:
        return None
    behind = [state for state in running if tuple(state['position']) == min(tuple(state['position']) for state in running)]
    if not all(state['counts'] and state['still'] >= limit for state in behind):
        return None
    # who is in code of its own, while others wait inside of torch for its part of a sum
    stuck = [state for state in behind if not state.get('in_torch')] or behind
    ended = [f'rank {rank} has ended' for rank, state in enumerate(states) if state['over']]
    return _join([_stuck(state) for state in stuck] + ended)


def _ignore(sentence: str, states: Sequence[dict]) -> None:
    pass


def _silent(rank: int, states: Sequence[dict], seconds: float) -> str:
    step = max(state['position'][0] for state in states)  # what was published last is a little older
    return (f'rank {rank} ({_process(states[rank])}) has given no sign of life since about step {step}, {_for(seconds)}; it is '
            'stopped, its machine is gone, or code outside of Python keeps it')


def _stuck(state: dict) -> str:
    children = f'; its loader processes: {", ".join(map(str, state["children"]))}' if state.get('children') else ''
    where = state['stack'][0] if state.get('stack') else 'nowhere'
    return (f'rank {state["rank"]} ({_process(state)}) has not moved since step {state["position"][0]}, {_for(state["still"])}, '
            f'while it {state["doing"]} ({where}{children})')


def _process(state: dict) -> str:
    return f'pid {state["pid"]} on {state["host"]}'


def _for(seconds: float) -> str:
    return f'for {seconds:.0f} s'


def _join(parts: List[str], limit: int = 4) -> str:
    more = f' and {len(parts) - limit} more' if len(parts) > limit else ''
    return ', and '.join(parts[:limit]) + more


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get('__name__')).partition('.')[0]


def write_stacks(path: Path, sentence: str, states: Sequence[dict]) -> None:
    """The sentence, and where each process is, which says more than a sentence can."""
    parts = [sentence]
    for rank, state in enumerate(states):
        known = {key: value for key, value in state.items() if key not in ('rank', 'stack')}
        stack = state.get('stack', [])
        parts.append('\n  '.join([f'rank {rank}: ' + ', '.join(f'{key} {value}' for key, value in known.items()), *stack]))
    path.write_text('\n\n'.join(parts) + '\n')
