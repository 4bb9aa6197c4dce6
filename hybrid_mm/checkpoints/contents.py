"""What a checkpoint file holds, found without running anything in it and without reading its tensors into memory."""
import os
import re
import time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, FrozenSet, Iterator, Optional, Tuple

import torch
from mmengine.utils import digit_version
from torch import Tensor

from hybrid_mm.errors import SetupError

from .integrity import NOT_WHOLE, fault_of, file_key, is_legacy

# Older ones run what a checkpoint asks for, and cannot be told what to allow: the runner reads with them as it always did.
_TORCH_READS_WEIGHTS_ALONE = digit_version(torch.__version__) >= digit_version('2.6')


class _CommandLine:
    """Goes by the name of ``argparse.Namespace``, which training scripts in DeiT's tradition store beside the weights."""


_CommandLine.__module__, _CommandLine.__qualname__, _CommandLine.__name__ = 'argparse', 'Namespace', 'Namespace'


@dataclass(frozen=True)
class Outline:
    """What a file says of itself.

    Attributes:
        fault: why it cannot be used, in words that follow its name, or None.
        keys: of the checkpoint.
        saved: when, in seconds of the epoch; the file's own time where it does not say.
        place: iterations and epochs of the training.
    """
    fault: Optional[str]
    saved: float
    keys: FrozenSet[str] = frozenset()
    place: Tuple[int, int] = (-1, -1)

    @property
    def resumable(self) -> bool:
        """Whether a training can go on from it as if nothing had happened."""
        return self.place >= (0, 0) and {'optimizer', 'message_hub'} <= self.keys


def check_usable(path: str, what: str, command_line: bool = False, advice: str = 'give another file') -> None:
    """See that a local checkpoint is whole, holds weights alone and only finite ones; a URL and the like pass.

    Args:
        path: the file.
        what: what the file is, for the message, such as ``'load_from'``.
        command_line: whether it may hold an ``argparse.Namespace``, see `read`.
        advice: what to do if not.

    Raises:
        SetupError: it is not, or is not there.
    """
    if '://' in path:
        return
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise SetupError(f'{what} {path} does not exist; give the path of a file')
    fault = fault_in(path, command_line)
    if fault:
        raise SetupError(f'{what} {path} {fault}' + ('' if '; give' in fault else f'; {advice}'))


def fault_in(path: str, command_line: bool = False) -> Optional[str]:
    """Why a checkpoint file cannot be used, in words that follow its name, or None: it is damaged, asks for more than weights, or
    holds weights that are not finite. A file that has not changed since is not read twice by one process."""
    fault = fault_of(path) or outline(path, command_line).fault
    if fault:
        return fault
    return _poison_in(os.path.realpath(path), command_line, file_key(path))


def outline(path: str, command_line: bool = False) -> Outline:
    """What a file says of itself; its tensors are not read."""
    try:
        return _outline(os.path.realpath(path), command_line, file_key(path))
    except OSError as error:
        return Outline(f'cannot be read: {error.strerror}', 0)


def read(path: str, command_line: bool = False, lazily: bool = False) -> Any:
    """``torch.load`` of weights and plain values, on the CPU.

    Args:
        path: the file.
        command_line: whether to pass over an ``argparse.Namespace`` in it, instead of refusing the file.
        lazily: leave the tensors on the disk until they are used, as far as format and version of torch can.

    Raises:
        SetupError: it asks for more, or this is no checkpoint; the message follows the name of the file.
    """
    lazy = dict(mmap=True) if lazily and not is_legacy(path) and digit_version(torch.__version__) >= digit_version('2.1') else {}
    allow = getattr(torch.serialization, 'safe_globals', None)  # torch below 2.5 has no way to allow anything
    with allow([_CommandLine]) if allow and command_line else nullcontext():
        try:
            return torch.load(path, map_location='cpu', weights_only=True, **lazy)
        except PermissionError:
            raise
        except Exception as error:  # a broken file can raise almost anything, OSError too
            refused = re.search(r'GLOBAL (\w+(\.\w+)+) |asks for (attribute \S+)', str(error))
            if refused:
                raise SetupError(f'holds more than weights: it asks for {refused[1] or refused[3]}, which may run code and is '
                                 'not loaded; give a file with the state dict alone') from None
            raise SetupError(NOT_WHOLE) from error


def first_nonfinite(tensors: Dict[str, Any]) -> Optional[str]:
    """Which of some tensors have NaN or infinite values, in words, or None. Whole numbers and the like are passed over."""
    bad = list(_nonfinite(tensors))
    more = f', and so have {len(bad) - 1} more tensors' if len(bad) > 1 else ''
    return f'{bad[0]} has NaN or infinite values{more}' if bad else None


def all_weights(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """The weights of a checkpoint, and those that a moving average goes with."""
    last, other = (part if isinstance(part, dict) else {} for part in map(checkpoint.get, ('state_dict', 'ema_state_dict')))
    return {**(last or checkpoint), **{f'ema_state_dict.{key}': value for key, value in other.items()}}


def _nonfinite(tensors: Dict[str, Any]) -> Iterator[str]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.is_meta:
            continue
        values = tensor.detach().float() if tensor.element_size() == 1 else tensor.detach()
        # a sum is finite only if all values are, and takes a hundredth of the time; that of many finite ones may overflow
        if not values.sum().isfinite() and not values.isfinite().all() and not _is_mask(values):
            yield str(name)


def _is_mask(values: Tensor) -> bool:
    """Whether these are what is added to logits to forbid some: 0 and minus infinity."""
    return bool((values == 0).any() and ((values == 0) | (values == -torch.inf)).all())


@lru_cache(maxsize=None)
def _outline(path: str, command_line: bool, key: Tuple[object, ...]) -> Outline:
    written = os.path.getmtime(path)
    fault = fault_of(path, pickle_alone=True)
    if fault:
        return Outline(fault, written)
    try:
        checkpoint = read(path, command_line, lazily=True)
    except SetupError as error:
        refused_by_old_torch = str(error).startswith('holds more') and not _TORCH_READS_WEIGHTS_ALONE
        return _guess(path, written) if refused_by_old_torch else Outline(str(error), written)
    if not isinstance(checkpoint, dict):
        return Outline(None, written)
    meta = checkpoint.get('meta')
    meta = meta if isinstance(meta, dict) else {}
    counts = [meta[key] for key in ('iter', 'epoch') if isinstance(meta.get(key), int)]
    place = (counts[0], counts[1]) if len(counts) == 2 else (-1, -1)
    return Outline(None, _time_in(meta, written), frozenset(map(str, checkpoint)), place)


@lru_cache(maxsize=None)
def _poison_in(path: str, command_line: bool, key: Tuple[object, ...]) -> Optional[str]:
    try:
        checkpoint = read(path, command_line, lazily=True)
    except SetupError:  # as `outline` found, by an old torch; the hook looks at the weights when they are there
        return None
    found = first_nonfinite(all_weights(checkpoint)) if isinstance(checkpoint, dict) else None
    return f'holds weights that are not finite: {found}' if found else None


def _time_in(meta: Dict[str, Any], otherwise: float) -> float:
    if isinstance(meta.get('saved'), float):  # of `hybrid_mm.CheckpointHook`
        return meta['saved']
    try:
        return time.mktime(time.strptime(meta['time'], '%Y%m%d_%H%M%S'))
    except (KeyError, TypeError, ValueError):
        return otherwise


def _guess(path: str, written: float) -> Outline:
    """By the name of a file that the present torch could only read by running what is in it."""
    number = re.fullmatch(r'(epoch|iter)_(\d+)\.\w+', os.path.basename(path))
    if number is None:
        return Outline(None, written)
    return Outline(None, written, frozenset({'optimizer', 'message_hub'}), (int(number[2]), 0))
