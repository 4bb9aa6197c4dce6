"""What `tools/infer.py` does: parse, check, build the network, run it."""
import argparse
from pathlib import Path
from typing import Optional, Sequence

import torch
from mmengine.config import Config
from mmengine.device import get_device

from hybrid_mm.engine.arguments import add_config
from hybrid_mm.errors import SetupError
from hybrid_mm.engine.launch import one_sentence, read_config
from hybrid_mm.engine.output import check_out_folder
from hybrid_mm.engine.preflight import check_checkpoint

from .inputs import Video, find_inputs
from .loops import run_on_pictures, run_on_video
from .predictors import PREDICTORS, SCORE_THR, Detector
from .weights import first_dataset


def infer(argv: Optional[Sequence[str]] = None) -> None:
    """`tools/infer.py`.

    Args:
        argv: arguments of the command line, by default those of this process.

    Raises:
        SystemExit: a fault that the user can mend, as one sentence.
    """
    args = parse_args(argv)
    with one_sentence():
        run_inference(args)


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Run a detector, a segmentor or a classifier on your own pictures or video. Writes the pictures with what '
        'was found, label maps of a segmentor, and predictions.json, whose form the docstring of '
        'hybrid_mm/inference/outputs.py describes.')
    add_config(parser)
    parser.add_argument('checkpoint', help='file of the checkpoint')
    parser.add_argument('input', metavar='IMAGE|FOLDER|VIDEO', type=Path,
                        help='a picture, a folder of pictures, or a video that OpenCV opens')
    parser.add_argument('--out', type=Path,
                        help='folder to write to; by default ./work_dirs/<name of the config>/infer_<name of the input>')
    parser.add_argument('--score-thr', type=float,
                        help=f'least score of an instance that is drawn and written, of detectors only (default: {SCORE_THR})')
    parser.add_argument('--batch-size', type=int, default=1, help='pictures at a time (default: %(default)s)')
    parser.add_argument('--device', help='such as cpu or cuda:1; by default a GPU if there is one')
    parser.add_argument('--force', action='store_true', help='write into a folder that is not empty')
    return parser.parse_args(argv)


def run_inference(args: argparse.Namespace) -> None:
    """Check, predict, write.

    Raises:
        ValueError, OSError: see `hybrid_mm.engine.launch.one_sentence`; the message names the value and what is allowed.
    """
    cfg = read_config(args)
    if args.batch_size < 1:
        raise SetupError(f'--batch-size {args.batch_size} is not allowed; choose 1 or more')
    check_prediction(args, cfg)
    check_checkpoint(args.checkpoint, 'checkpoint')
    out = args.out or Path(cfg.work_dir) / f'infer_{args.input.resolve().stem}'
    check_out_folder(out, args.force)
    inputs = find_inputs(args.input)
    device = find_device(args.device)

    options = {} if args.score_thr is None else dict(score_thr=args.score_thr)
    predictor = PREDICTORS[cfg.default_scope](cfg, args.checkpoint, device, **options)
    out.mkdir(parents=True, exist_ok=True)
    head = dict(task=predictor.task, config=Path(args.config).name, checkpoint=Path(args.checkpoint).name,
                classes=predictor.classes)
    if isinstance(predictor, Detector):
        head.update(score_thr=predictor.score_thr)
    if isinstance(inputs, Video):
        run_on_video(predictor, inputs, out, head, args.batch_size)
    else:
        run_on_pictures(predictor, inputs, out, head, args.batch_size)


def find_device(name: Optional[str]) -> str:
    """The device of this name, by default a GPU if there is one.

    Raises:
        SetupError: it is not there.
    """
    if name is None:
        return get_device()
    there = ['cpu', *(f'cuda:{i}' for i in range(torch.cuda.device_count()))]
    there += [get_device()] if get_device() not in ('cpu', 'cuda') else []
    if name not in there and not (name == 'cuda' and torch.cuda.is_available()):
        raise SetupError(f'--device {name} is not there; choose from {", ".join(there)}')
    return name


def check_prediction(args: argparse.Namespace, cfg: Config) -> None:
    """Raise a SetupError where ``args.score_thr`` is not allowed, or the config does not say how to prepare pictures."""
    if args.score_thr is not None and not 0 <= args.score_thr <= 1:
        raise SetupError(f'--score-thr {args.score_thr} is not allowed; choose 0 to 1')
    if args.score_thr is not None and cfg.default_scope != 'mmdet':
        raise SetupError(f'--score-thr {args.score_thr} is for detectors, but default_scope of the config is '
                         f'{cfg.default_scope!r}; leave it out')
    if cfg.get('test_dataloader') is None or not first_dataset(cfg).get('pipeline'):
        raise SetupError('the config has no test_dataloader with a data set and its pipeline, which prepares the pictures; '
                         'give another config')
