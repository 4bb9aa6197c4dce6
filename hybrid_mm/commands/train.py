"""Train a detector, a segmentor or a classifier."""
import argparse
import os
from pathlib import Path
from typing import Optional

from hybrid_mm import processes
from hybrid_mm.checkpoints.resumable import folders_of

from .preflight import check_checkpoint, check_data, check_launcher, check_starting_weights
from .runner import runner_of
from .settings import set_up_training
from .shared import add_config, read_config


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add_config(parser, data=True)
    parser.add_argument('--work-dir', help='folder for logs and checkpoints; by default ./work_dirs/<name of the config>')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision: float16 on a GPU, bfloat16 on a CPU')
    parser.add_argument('--auto-scale-lr', action='store_true',
                        help='scale the learning rate to the total batch size, from the base size in auto_scale_lr of the config')
    parser.add_argument('--resume', nargs='?', const='auto', metavar='CHECKPOINT',
                        help='go on from a checkpoint; "auto", or nothing, stands for the newest whole one in the work '
                        'folder; without one the training starts as the config says')
    parser.add_argument('--resume-schedule', choices=['new', 'old'],
                        help='what holds where the config has another schedule or optimizer setting than the checkpoint to '
                        'resume from: the config, which is the default, or the checkpoint')
    parser.add_argument('--hang-timeout', type=float, metavar='SECONDS',
                        help='name a process that is stopped or stuck within this time and end the run; by default 600, 0 for '
                        'never')
    add_compile(parser)
    add_launcher(parser)
    return parser


def add_compile(parser: argparse.ArgumentParser) -> None:
    """See `hybrid_mm.engine.CompileHook`."""
    parser.add_argument('--compile', action='store_true',
                        help='send the backbone through torch.compile, unless that is slower or fails, as the log says then')


def add_launcher(parser: argparse.ArgumentParser) -> None:
    """What tools/dist_train.sh and the like set, see `check_launcher`."""
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none',
                        help='what started the processes; tools/dist_train.sh and the like set it')
    # from old launchers of torch; the present one sets the variable LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    check_launcher(args.launcher)
    cfg = read_config(args.config, args.cfg_options, args.work_dir, args.launcher, args.data_root)
    if _goes_on(Path(cfg.work_dir), ((cfg.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')):
        args.resume = 'auto'
    set_up_training(cfg, args)
    check_checkpoint(cfg.get('load_from'), '--resume' if args.resume and cfg.resume else 'load_from', bool(cfg.get('resume')))
    check_starting_weights(cfg)
    check_data(cfg, ('train', 'val'))
    with runner_of(cfg, args.local_rank) as runner:
        runner.train()


def _goes_on(work_dir: Path, out_dir: Optional[str] = None) -> bool:
    """Whether a launcher has started this process again, and there is a checkpoint from after its first start.

    `.started` in the work folder holds that time, since there may be checkpoints of an earlier training.
    """
    starts = [os.environ[name] for name in ('TORCHELASTIC_RESTART_COUNT', 'SLURM_RESTART_COUNT') if name in os.environ]
    mark = work_dir / '.started'
    if any(map(int, starts)) and mark.exists():
        files = [path for folder in folders_of(str(work_dir), out_dir) for path in Path(folder).glob('*.pth')]
        return any(path.stat().st_mtime_ns > mark.stat().st_mtime_ns for path in files)
    if (starts or 'SLURM_JOB_ID' in os.environ) and processes.rank() == 0:
        work_dir.mkdir(parents=True, exist_ok=True)
        mark.touch()
    return False
