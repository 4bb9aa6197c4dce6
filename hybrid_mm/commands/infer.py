"""Run a detector, a segmentor or a classifier on your own pictures or video.

Writes the pictures with what was found, label maps of a segmentor, and predictions.json, whose form the docstring of
hybrid_mm/inference/outputs.py describes.
"""
import argparse
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np
from mmengine.config import Config

from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.inference.inputs import Video, find_inputs, read_frames, read_picture
from hybrid_mm.inference.loops import predictions
from hybrid_mm.inference.outputs import PredictionsFile, open_writer, output_names, write_image, write_label_map
from hybrid_mm.inference.predictors import PREDICTORS, SCORE_THR, Detector, Predictor
from hybrid_mm.inference.weights import first_dataset
from hybrid_mm.progress import Progress

from .preflight import check_checkpoint
from .shared import add_config, add_device, add_force, check_least, check_out_folder, count, find_device, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='file of the checkpoint')
    parser.add_argument('input', metavar='IMAGE|FOLDER|VIDEO', type=Path,
                        help='a picture, a folder of pictures, or a video that OpenCV opens')
    parser.add_argument('--out', type=Path,
                        help='folder to write to; by default ./work_dirs/<name of the config>/infer_<name of the input>')
    parser.add_argument('--score-thr', type=float,
                        help=f'least score of an instance that is drawn and written, of detectors only (default: {SCORE_THR})')
    parser.add_argument('--batch-size', type=int, default=1, help='pictures at a time (default: %(default)s)')
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
    inputs = find_inputs(args.input)
    device = find_device(args.device)

    options = {} if args.score_thr is None else dict(score_thr=args.score_thr)
    predictor = PREDICTORS[cfg.default_scope](cfg, args.checkpoint, device, **options)
    (out / 'pictures').mkdir(parents=True, exist_ok=True)
    head = dict(task=predictor.task, config=Path(args.config).name, checkpoint=Path(args.checkpoint).name,
                classes=predictor.classes)
    if isinstance(predictor, Detector):
        head.update(score_thr=predictor.score_thr)
    run_on = run_on_video if isinstance(inputs, Video) else run_on_pictures
    run_on(predictor, inputs, out, head, args.batch_size)


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
    """Predict, draw and write pictures.

    Args:
        predictor: the network.
        files: the pictures.
        out: folder for what is described in `hybrid_mm.inference.outputs`; it is there.
        head: what stands in front of the entries of the JSON file.
        batch_size: most pictures at a time.

    Raises:
        SetupError: some pictures cannot be read; the others are written all the same.
    """
    unreadable: List[str] = []
    names = output_names(files)

    def read() -> Iterator[Tuple[Path, np.ndarray]]:
        for file in files:
            image = read_picture(file)
            if image is not None:
                yield file, image
            else:
                unreadable.append(file.name)
                progress.advance()

    with PredictionsFile(out, head, 'images') as json_file, Progress('pictures', len(files)) as progress:
        for file, image, sample in predictions(predictor, read(), batch_size):
            ending = file.suffix if file.suffix.lower() in ('.jpg', '.jpeg') else '.png'
            picture = f'pictures/{names[file]}{ending}'
            write_image(out / picture, predictor.draw(image, sample))
            entry = dict(file=file.name, width=image.shape[1], height=image.shape[0], picture=picture)
            json_file.add({**entry, **write_label_map(predictor, sample, out, names[file]), **predictor.describe(sample)})
            progress.advance()
    if unreadable:
        raise SetupError(f'{len(unreadable)} of {len(files)} pictures cannot be read: {shorten(unreadable)}; what was found in '
                         f'the others is in {out}')
    print(f'{out}: {count(len(files), "picture")} and predictions.json')


def run_on_video(predictor: Predictor, video: Video, out: Path, head: Dict[str, Any], batch_size: int) -> None:
    """Predict, draw and write the frames of a video. Arguments as of `run_on_pictures`."""
    head = dict(head, video=video.path.name, fps=video.fps)
    frames, writer = 0, None
    try:
        with PredictionsFile(out, head, 'frames') as json_file, Progress('frames', video.total) as progress:
            for number, image, sample in predictions(predictor, read_frames(video.path), batch_size):
                height, width = image.shape[:2]
                if writer is None:
                    path, writer = open_writer(out / 'pictures' / video.path.stem, video.fps, (width, height))
                writer.write(predictor.draw(image, sample))
                entry = dict(frame=number, time=number / video.fps, width=width, height=height)
                json_file.add({**entry, **write_label_map(predictor, sample, out, f'{number:06d}'), **predictor.describe(sample)})
                progress.advance()
                frames += 1
    finally:
        if writer is not None:
            writer.release()
    if video.total is not None and frames < video.total:
        print(f'{video.path} says that it has {video.total} frames; {frames} could be read')
    print(f'{path}: {frames} frames; {out / "predictions.json"}')
