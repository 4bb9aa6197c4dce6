"""Run a detector, a segmentor or a classifier on your own pictures or video.

This writes the pictures with what was found in them, the label maps if the network is a segmentor, and predictions.json. The
first lines of hybrid_mm/inference/outputs.py describe that file.
"""
import argparse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from mmengine.config import Config

from hybrid_mm.deploy import optimise
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.inference.inputs import Video, find_inputs, read_frames, read_picture
from hybrid_mm.inference.loops import predictions
from hybrid_mm.inference.outputs import open_writer, output_names, predictions_file, write_image, write_label_map
from hybrid_mm.inference.predictors import PREDICTORS, SCORE_THR, Detector, Predictor
from hybrid_mm.inference.weights import first_dataset
from hybrid_mm.progress import Progress

from .preflight import check_checkpoint
from .shared import add_config, add_device, add_force, check_least, check_out_folder, count, find_device, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='file with the weights of the network')
    parser.add_argument('input', metavar='IMAGE|FOLDER|VIDEO', type=Path,
                        help='a picture, a folder of pictures, or a video that OpenCV opens')
    parser.add_argument('--out', type=Path,
                        help='folder to write to; by default ./work_dirs/<name of the config>/infer_<name of the input>')
    parser.add_argument('--score-thr', type=float,
                        help=f'a detector draws and writes what has at least this score (default: {SCORE_THR})')
    parser.add_argument('--batch-size', type=int, default=1, help='pictures that are predicted at once (default: %(default)s)')
    parser.add_argument('--no-optimise', action='store_true',
                        help='run the network layer by layer as it was trained; otherwise BatchNorm layers are part of the '
                        'convolutions, and weights lie as the machine wants them: faster, and the same but for rounding')
    parser.add_argument('--half', action='store_true',
                        help='run backbone and neck in bfloat16: faster, with scores that differ in the third digit')
    add_device(parser)
    add_force(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    cfg = read_config(args.config, args.cfg_options)
    check_least(args, batch_size=1)
    check_prediction(args, cfg)
    check_checkpoint(args.checkpoint, 'checkpoint')
    out = args.out or Path(cfg.work_dir) / f'infer_{args.input.resolve().stem}'
    check_out_folder(out, args.force)
    if args.half and args.no_optimise:
        raise SetupError('--half and --no-optimise are not allowed together; leave one of them out')
    inputs = find_inputs(args.input)
    device = find_device(args.device)

    predictor = PREDICTORS[cfg.default_scope](cfg, args.checkpoint, device)
    if not args.no_optimise:
        make_ready(predictor, args.half)
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    head: Dict[str, Any] = dict(task=predictor.task, config=Path(args.config).name, checkpoint=Path(args.checkpoint).name,
                                classes=predictor.classes)
    if isinstance(predictor, Detector):
        predictor.score_thr = head['score_thr'] = SCORE_THR if args.score_thr is None else args.score_thr
    if isinstance(inputs, Video):
        run_on_video(predictor, inputs, out, head, args.batch_size)
    else:
        run_on_pictures(predictor, inputs, out, head, args.batch_size)


def make_ready(predictor: Predictor, half: bool) -> None:
    """Put a network that `optimise` makes in the place of the predictor's; it stays as it is where this cannot be done.

    Raises:
        SetupError: half precision is asked for and cannot be had.
    """
    try:
        predictor.inferencer.model = optimise(predictor.inferencer.model, 'bfloat16' if half else None)
    except SetupError as error:
        if half:
            raise SetupError(f'{error}; leave --half out') from None
        print(f'the network runs as it was trained: {error}', flush=True)


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


def run_on_pictures(predictor: Predictor, files: List[Path], out: Path, head: Dict[str, Any], batch_size: int) -> None:
    """Predict, draw and write pictures to a folder, as `hybrid_mm.inference.outputs` says; ``head`` begins the JSON file.

    Raises:
        SetupError: some pictures cannot be read; the others are written all the same.
    """
    names, unreadable = output_names(files), []

    def read() -> Iterator[Tuple[Path, np.ndarray]]:
        for file in files:
            image = read_picture(file)
            if image is not None:
                yield file, image
            else:
                unreadable.append(file.name)
                progress.advance()

    with predictions_file(out, head, 'images') as add_entry, Progress('pictures', len(files)) as progress:
        for file, image, sample in predictions(predictor, read(), batch_size):
            ending = file.suffix if file.suffix.lower() in ('.jpg', '.jpeg') else '.png'
            picture = f'pictures/{names[file]}{ending}'
            write_image(out / picture, predictor.draw(image, sample))
            entry = dict(file=file.name, width=image.shape[1], height=image.shape[0], picture=picture)
            add_entry({**entry, **write_label_map(predictor, sample, out, names[file]), **predictor.describe(sample)})
            progress.advance()
    if unreadable:
        raise SetupError(f'{len(unreadable)} of {len(files)} pictures cannot be read: {shorten(unreadable)}; what was found in '
                         f'the others is in {out}')
    print(f'{out}: {count(len(files), "picture")} and predictions.json')


def run_on_video(predictor: Predictor, video: Video, out: Path, head: Dict[str, Any], batch_size: int) -> None:
    """Predict, draw and write the frames of a video, see `run_on_pictures`."""
    head = dict(head, video=video.path.name, fps=video.fps)
    frames, writer = 0, None
    try:
        with predictions_file(out, head, 'frames') as add_entry, Progress('frames', video.total) as progress:
            for number, image, sample in predictions(predictor, read_frames(video.path), batch_size):
                height, width = image.shape[:2]
                if writer is None:
                    path, writer = open_writer(out / 'pictures' / video.path.stem, video.fps, (width, height))
                writer.write(predictor.draw(image, sample))
                entry = dict(frame=number, time=number / video.fps, width=width, height=height)
                add_entry({**entry, **write_label_map(predictor, sample, out, f'{number:06d}'), **predictor.describe(sample)})
                progress.advance()
                frames += 1
    finally:
        if writer is not None:
            writer.release()
    if video.total is not None and frames < video.total:
        print(f'{video.path} says that it has {video.total} frames; {frames} could be read')
    print(f'{path}: {frames} frames; {out / "predictions.json"}')
