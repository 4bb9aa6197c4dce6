"""Checkpoint files of others: fetch, read weights only, unwrap."""
import re
from http.client import HTTPException
from pathlib import Path
from typing import Any, Dict, Optional
from urllib.parse import urlparse

import torch
from mmengine import dist
from torch import Tensor

from hybrid_mm import processes
from hybrid_mm.errors import SetupError, shorten

from .contents import first_nonfinite, read
from .identification import guess_family
from .integrity import fault_of
from .key_maps import KEY_MAPS

# What detectors and segmentors, OpenMMLab's and those of ParC-Net's authors, put before the names of their backbone.
_PREFIXES = ('backbone.', 'encoder.')

# Where checkpoints keep their weights, in the order of preference: where averaged weights stand beside the last ones,
# the published accuracy is theirs, but for families that say otherwise. Not mmengine's 'ema_state_dict': its hook saves the
# averaged ones as 'state_dict'.
_AVERAGED = ('state_dict_ema', 'model_ema')
_WRAPPINGS = (*_AVERAGED, 'state_dict', 'model')


def load_released(path_or_url: str) -> Dict[str, Tensor]:
    """The state dict of a checkpoint file, read weights only; a URL is fetched once, into the cache of torch.hub.

    Args:
        path_or_url: a file, or an http(s) URL. In a distributed run every rank has to call with the same URL.

    Returns:
        The file's key -> tensor on the CPU, out of its wrapping (see `unwrap`).

    Raises:
        FileNotFoundError: there is no such file.
        ConnectionError: the URL cannot be fetched.
        ValueError: the file is no complete checkpoint or damaged, holds no state dict or one with values that are not finite,
            or asks for more than weights.
    """
    if urlparse(path_or_url).scheme in ('http', 'https'):
        path = _fetch_once_a_node(path_or_url)
        advice = f'delete it to fetch {path_or_url} again'
    else:
        path = Path(path_or_url)
        advice = 'get it again'
    if not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint file {path}')
    fault = fault_of(str(path))
    if not fault:
        try:
            checkpoint = read(str(path), command_line=True)
        except SetupError as error:
            fault = str(error)
    if fault:
        raise ValueError(f'{path} {fault}' + ('' if '; give' in fault else f'; {advice}'))
    try:
        tensors = unwrap(checkpoint)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    poison = first_nonfinite(tensors)
    if poison:
        raise ValueError(f'{path} holds weights that are not finite: {poison}; {advice}')
    return tensors


def unwrap(checkpoint: Dict[str, Any]) -> Dict[str, Tensor]:
    """The state dict inside a checkpoint.

    Args:
        checkpoint: a flat state dict, or one under ``state_dict_ema``, ``model_ema``, ``state_dict`` or ``model``, in
            this order of preference; of a GLiT, whose authors report the accuracy of the last weights, the last two come
            first. The prefix ``module.`` of data-parallel training goes if every key has it.

    Raises:
        ValueError: there are no tensors, or something else among them.
    """
    if not isinstance(checkpoint, dict):
        raise ValueError(f'the checkpoint is a {type(checkpoint).__name__}, not a dict of tensors')
    wrappings = [key for key in _WRAPPINGS if isinstance(checkpoint.get(key), dict)]
    if len(wrappings) > 1 and not _averaged_is_published(checkpoint[wrappings[0]]):
        wrappings.sort(key=_AVERAGED.__contains__)
    state_dict = checkpoint[wrappings[0]] if wrappings else checkpoint
    others = [str(key) for key, value in state_dict.items() if not isinstance(value, Tensor)]
    if len(others) == len(state_dict):
        raise ValueError(f'the checkpoint holds no tensors; its keys are {shorten(others, 8) or "none"}')
    if others:
        raise ValueError(f'the checkpoint holds more than tensors, under {shorten(others, 8)}')
    if all(key.startswith('module.') for key in state_dict):
        return {key[len('module.'):]: value for key, value in state_dict.items()}
    return dict(state_dict)


def backbone_part(tensors: Dict[str, Tensor], prefix: Optional[str] = None) -> Dict[str, Tensor]:
    """The tensors of the backbone in a detector, segmentor or classifier, without what stands before their names.

    Args:
        tensors: key -> tensor, out of its wrapping.
        prefix: such as ``'backbone.'``; by default this or ``'encoder.'``.

    Returns:
        Where no key has such a prefix, all tensors but a classifier of ours, ``head.fc.*``.

    Raises:
        ValueError: no key has the prefix that is asked for.
    """
    for start in _PREFIXES if prefix is None else (f'{prefix.rstrip(".")}.', ):
        part = {key[len(start):]: tensor for key, tensor in tensors.items() if key.startswith(start)}
        if part:
            return part
    if prefix is not None:
        raise ValueError(f'no key begins with prefix={prefix!r}; the keys are {shorten(tensors)}')
    return {key: tensor for key, tensor in tensors.items() if not key.startswith('head.fc.')}


def _averaged_is_published(state_dict: Dict[str, Any]) -> bool:
    family = guess_family([re.sub(r'^module\.', '', str(key)) for key in state_dict])
    return family is None or KEY_MAPS[family].averaged


def _fetch_once_a_node(url: str) -> Path:
    if processes.local_rank() > 0:  # mmengine's own needs a group, which may be missing
        dist.barrier()
        return _fetch(url)
    try:
        return _fetch(url)
    finally:  # after a failure too: the other ranks would wait for ever
        dist.barrier()


def _fetch(url: str) -> Path:
    path = Path(torch.hub.get_dir(), 'checkpoints', Path(urlparse(url).path).name)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path))
    except (OSError, HTTPException) as error:
        raise ConnectionError(
            f'cannot fetch {url} to {path} ({error}); give a local copy with '
            '`--cfg-options model.backbone.init_cfg.checkpoint=FILE` or start from scratch with '
            '`--cfg-options model.backbone.init_cfg=None`') from error
    return path
