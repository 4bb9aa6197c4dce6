"""What `tools/train.py` and `tools/test.py` do: parse, check, build the stock runner, run.

A fault that the user can mend ends with one sentence on stderr and exit status 1, before training; any other exception
keeps its traceback.
"""
import os
import time
from argparse import Namespace
from contextlib import contextmanager
from types import FrameType
from typing import Iterator, Optional, Sequence

import torch.distributed
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from .arguments import parse_test_args, parse_train_args
from hybrid_mm.errors import SetupError
from .libraries import require
from .preflight import check_checkpoint, check_data, check_file, check_launcher, check_starting_weights
from .settings import adapt_to_cpu, load_config, set_up_testing, set_up_training


def train(argv: Optional[Sequence[str]] = None) -> None:
    """`tools/train.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: see the module.
    """
    args = parse_train_args(argv)
    with one_sentence():
        cfg = _prepare(args)
        set_up_training(cfg, args)
        check_checkpoint(cfg.get('load_from'), '--resume' if args.resume else 'load_from')
        check_starting_weights(cfg)
        check_data(cfg, ('train', 'val'))
        _build_runner(cfg).train()
    _leave_group()


def test(argv: Optional[Sequence[str]] = None) -> None:
    """`tools/test.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: see the module.
    """
    args = parse_test_args(argv)
    with one_sentence():
        cfg = _prepare(args)
        set_up_testing(cfg, args)
        check_checkpoint(args.checkpoint, 'checkpoint')
        check_data(cfg, ('test', ))
        _build_runner(cfg).test()
    _leave_group()


@contextmanager
def one_sentence() -> Iterator[None]:
    """End the program with the message alone if the exception is a `SetupError`, or this package found a bad value."""
    try:
        yield
    except (ValueError, OSError) as error:
        frame = _raising_frame(error)
        if frame.f_code.co_name == '_serialize_data':  # mmengine's, which fails on an empty list
            error = _empty(frame.f_locals['self'])
        if isinstance(error, SetupError) or frame.f_globals['__name__'].startswith('hybrid_mm.'):
            raise SystemExit(f'Error: {error}') from None
        raise


def read_config(args: Namespace) -> Config:
    """The config that a command line names, with its options; its library is there.

    Args:
        args: with ``config``, ``cfg_options``, ``launcher`` and ``work_dir``, see `arguments`.

    Raises:
        SetupError: there is no such file, or its library is missing.
    """
    check_file(args.config, 'the config')
    cfg = load_config(args)
    require(cfg.get('default_scope'))
    return cfg


def _prepare(args: Namespace) -> Config:
    check_launcher(args.launcher)
    if args.launcher != 'none':  # Open MPI has a name of its own, old launchers of torch an option
        os.environ.setdefault('LOCAL_RANK', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK', str(args.local_rank)))
    return read_config(args)


def _build_runner(cfg: Config) -> Runner:
    if get_device() == 'cpu':
        for notice in adapt_to_cpu(cfg):
            if os.environ.get('RANK', '0') == '0':
                print(notice, flush=True)
        if cfg.launcher != 'none':
            # mmengine's own launch selects a GPU, whatever the backend; it does nothing where a group is there
            torch.distributed.init_process_group('gloo')
    return RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)


def _leave_group() -> None:
    if not torch.distributed.is_initialized():
        return
    is_gloo = torch.distributed.get_backend() == 'gloo'
    torch.distributed.destroy_process_group()
    if is_gloo:
        # gloo's threads free the tensors of their last operation, for which they need Python. An interpreter that shuts
        # down first takes the process with it: "terminate called without an active exception".
        time.sleep(0.5)


def _raising_frame(error: BaseException) -> FrameType:
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace.tb_frame


def _empty(dataset) -> SetupError:
    return SetupError(f'{type(dataset).__name__} has no images: of ann_file={dataset.ann_file!r} and '
                      f'data_prefix={dict(dataset.data_prefix)} none pass filter_cfg={dataset.filter_cfg}; '
                      'check these three')
