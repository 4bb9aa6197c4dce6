"""Draw class activation maps: where the features are that speak for what a detector, segmentor or classifier finds.

Each picture is written as the network gets it, under the heat, with the boxes or the region in question outlined. The file
activation_maps.json has the class, the value of the target, and the hottest pixel of each picture.
"""
import argparse
import json
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

import numpy as np

from hybrid_mm.analysis.class_activation import CLASS_FREE, METHODS, ActivationMap, Explainer, NothingFound, find_label
from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.inference.inputs import Video, find_inputs, read_picture
from hybrid_mm.inference.outputs import output_names, write_image
from hybrid_mm.inference.predictors import PREDICTORS, SCORE_THR, Predictor
from hybrid_mm.networks import preprocessor_of
from hybrid_mm.output import whole_file
from hybrid_mm.progress import Progress

from .infer import check_prediction
from .preflight import check_checkpoint
from .shared import add_config, add_device, add_force, check_out_folder, count, find_device, parser_of, read_config


def parser() -> argparse.ArgumentParser:
    parser = parser_of(__doc__)
    add_config(parser)
    parser.add_argument('checkpoint', help='file of the checkpoint')
    parser.add_argument('input', metavar='IMAGE|FOLDER', type=Path, help='a picture or a folder of pictures')
    parser.add_argument('--class', dest='class_name', metavar='NAME',
                        help='class to explain (default: of a classifier the best, of a segmentor the one with most pixels, of a '
                        'detector all)')
    where = parser.add_mutually_exclusive_group()
    where.add_argument('--layer', metavar='NAME', help='layer to look at, such as backbone.stages.3.1 or neck.fpn_convs.2.conv')
    where.add_argument('--stage', type=int, metavar='N',
                       help='stage of the backbone to look at, counted from 1 (default: the last)')
    parser.add_argument('--method', choices=METHODS,
                        help='how to weigh the features, see hybrid_mm/analysis/class_activation.py (default: gradcam for '
                        f'classifiers, hirescam for detectors and segmentors); {", ".join(CLASS_FREE)} knows no class')
    parser.add_argument('--score-thr', type=float,
                        help=f'for detectors: least score of a box that is explained (default: {SCORE_THR})')
    parser.add_argument('--out', type=Path,
                        help='folder to write to (default: ./work_dirs/<name of the config>/grad_cam_<name of the input>)')
    add_device(parser)
    add_force(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    cfg = read_config(args.config, args.cfg_options)
    if args.class_name is not None and args.method in CLASS_FREE:
        raise SetupError(f'--class {args.class_name} means nothing to --method {args.method}, which looks at the features '
                         'alone; leave it out, or choose another method')
    check_prediction(args, cfg)
    check_checkpoint(args.checkpoint, 'checkpoint')
    out = args.out or Path(cfg.work_dir) / f'grad_cam_{args.input.resolve().stem}'
    check_out_folder(out, args.force)
    files = find_inputs(args.input)
    if isinstance(files, Video):
        raise SetupError(f'{args.input} is a video; give a picture or a folder of pictures')
    device = find_device(args.device)

    predictor = PREDICTORS[cfg.default_scope](cfg, args.checkpoint, device)
    label = find_label(predictor.classes, args.class_name)
    loads_rgb = bool(preprocessor_of(cfg).get('rgb_to_bgr'))
    score_thr = SCORE_THR if args.score_thr is None else args.score_thr
    explainer = Explainer(predictor, args.layer, args.stage, args.method, score_thr, loads_rgb)
    out.mkdir(parents=True, exist_ok=True)
    head: Dict[str, Any] = dict(task=predictor.task, config=Path(args.config).name, checkpoint=Path(args.checkpoint).name,
                                method=explainer.method, layer=explainer.place)
    if predictor.task == 'detection':
        head.update(score_thr=score_thr)
    entries = explain_files(explainer, files, out, label)
    with whole_file(out / 'activation_maps.json') as partial:
        partial.write_text(json.dumps(dict(head, images=entries), indent=1) + '\n')
    _report(predictor, entries, out, label)


def explain_files(explainer: Explainer, files: Sequence[Path], out: Path, label: Optional[int]) -> List[Dict[str, Any]]:
    """Write the pictures; gives the entries of the JSON file, in which ``problem`` says why one has no picture."""
    names, entries = output_names(files), []
    with Progress('pictures', len(files)) as progress:
        for file in progress.over(files):
            entry: Dict[str, Any] = dict(file=file.name)
            entries.append(entry)
            image = read_picture(file)
            if image is None:
                entry['problem'] = 'cannot be read'
                continue
            try:
                found = explainer.explain(image, file, label)
            except NothingFound:
                entry['problem'] = 'nothing found'
                continue
            except SetupError as error:
                raise SetupError(f'{error} (seen with {file.name})') from None
            write_image(out / f'{names[file]}.png', found.draw())
            entry.update(picture=f'{names[file]}.png', **_describe(explainer.predictor, found))
    return entries


def _describe(predictor: Predictor, found: ActivationMap) -> Dict[str, Any]:
    """Class, value of the target, boxes in it, and the hottest pixel (x, y); None where there is none."""
    name = None if found.label is None else predictor.classes[found.label]
    y, x = np.unravel_index(found.heat.argmax(), found.heat.shape)
    boxes = dict(boxes=len(found.boxes)) if predictor.task == 'detection' and found.target is not None else {}
    return {'class': name, 'target': found.target, **boxes, 'hottest': [int(x), int(y)] if found.heat.any() else None}


def _report(predictor: Predictor, entries: List[Dict[str, Any]], out: Path, label: Optional[int]) -> None:
    """Say what was written and what was not; a `SetupError` if there is no picture at all."""
    drawn = [entry for entry in entries if 'picture' in entry]
    what = 'anything' if label is None else predictor.classes[label]
    for problem, words in (('cannot be read', 'cannot be read'), ('nothing found', f'have no prediction of {what}')):
        names = [entry['file'] for entry in entries if entry.get('problem') == problem]
        if names:
            print(f'{len(names)} of {len(entries)} pictures {words}: {shorten(names)}')
    cold = [entry['file'] for entry in drawn if entry['hottest'] is None]
    if cold:
        print(f'{len(cold)} of {len(entries)} pictures have no heat, as no feature speaks for the target: {shorten(cold)}')
    if not drawn:
        advice = '; give a lower --score-thr' if predictor.task == 'detection' else ''
        raise SetupError(f'none of {len(entries)} pictures has a map, see {out / "activation_maps.json"}{advice}')
    print(f'{out}: {count(len(drawn), "picture")} and activation_maps.json')
