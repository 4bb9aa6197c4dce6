"""The stock runner on the machine that is there."""
import os
import time
from contextlib import contextmanager
from typing import Any, Iterator, List

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from hybrid_mm import processes
from hybrid_mm.engine.hooks.preemption import INTERRUPTED

from .preflight import check_run
from .settings import AMP_OPTIONS


@contextmanager
def runner_of(cfg: Config, local_rank: int = 0, split: str = 'train') -> Iterator[Runner]:
    """Build the runner of a config, adapted to a machine without GPU where it is one; after the run its group is left.

    Args:
        cfg: the config.
        local_rank: of this process on its machine, as old launchers of torch say it; the present one sets LOCAL_RANK.
        split: ``'train'`` or ``'test'``, what the runner is for, see `check_run`.
    """
    check_run(cfg, split)
    if cfg.launcher != 'none':  # Open MPI has a name of its own
        os.environ.setdefault('LOCAL_RANK', str(processes.local_rank() or local_rank))
    if get_device() == 'cpu':
        for notice in adapt_to_cpu(cfg):
            if processes.rank() == 0:
                print(notice, flush=True)
        if cfg.launcher != 'none':
            # mmengine's own launch selects a GPU, whatever the backend; it does nothing where a group is there
            torch.distributed.init_process_group('gloo')
    try:
        yield RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    except SystemExit as end:
        if end.code in (0, INTERRUPTED):  # all processes leave together
            _leave_group()
        raise
    _leave_group()


def adapt_to_cpu(cfg: Config) -> List[str]:
    """Replace what a machine without GPU cannot do.

    Mixed precision becomes float32. With several processes SyncBN, which refuses tensors on a CPU, becomes BN, and the
    model wrapper gets no device number.

    Returns:
        A sentence for the user about each change that alters the results.
    """
    notices = []
    if cfg.get('optim_wrapper', {}).get('type') == 'AmpOptimWrapper':
        cfg.optim_wrapper.type = 'OptimWrapper'
        for key in AMP_OPTIONS:
            cfg.optim_wrapper.pop(key, None)
        notices.append('Without a GPU this trains in float32, not in mixed precision; --amp trains in bfloat16.')
    if cfg.launcher != 'none':
        if _replace_sync_bn(cfg.model) or cfg.pop('sync_bn', None):
            notices.append('Without a GPU SyncBN becomes BN: each process takes the statistics of its own batch.')
        defaults = dict(
            type='MMDistributedDataParallel',
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
        cfg.model_wrapper_cfg = {**defaults, **(cfg.get('model_wrapper_cfg') or {}), 'device_ids': None}
    return notices


def _replace_sync_bn(node: Any) -> bool:
    """Turn SyncBN into BN in a nested config; True if there was any."""
    found = isinstance(node, dict) and node.get('type') in ('SyncBN', 'MMSyncBN')
    if found:
        node['type'] = 'BN'
    parts = list(node.values()) if isinstance(node, dict) else node if isinstance(node, (list, tuple)) else []
    return any([found, *map(_replace_sync_bn, parts)])


def _leave_group() -> None:
    if not torch.distributed.is_initialized():
        return
    is_gloo = torch.distributed.get_backend() == 'gloo'
    torch.distributed.destroy_process_group()
    if is_gloo:
        # gloo's threads free the tensors of their last operation, for which they need Python. An interpreter that shuts
        # down first takes the process with it: "terminate called without an active exception".
        time.sleep(0.5)
