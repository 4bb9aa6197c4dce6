"""A small synthetic data set of shapes in the layouts of COCO (instances) and ADE20K (semantic segmentation).

`make_shapes` writes the same pictures in two layouts::

    <out>/coco/annotations/instances_{train,val}2017.json      every visible object; crowd regions with iscrowd=1
    <out>/coco/{train,val}2017/000000000001.jpg
    <out>/ade/ADEChallengeData2016/images/{training,validation}/ADE_{train,val}_00000001.jpg
    <out>/ade/ADEChallengeData2016/annotations/{training,validation}/ADE_{train,val}_00000001.png

A larger set begins with the pictures of a smaller.
"""
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import cv2
import numpy as np
from tqdm import tqdm

from .drawing import FIRST_ID, LOOKS, MAX_COUNT, Instance, draw_scene

MIN_SIDE = 64
_IDS_PER_PICTURE = 100       # of annotations
_ADE_SPLITS = {'train': 'training', 'val': 'validation'}
_STAMP = 'make_shapes.json'  # first and last file written: marks a folder as ours, and says what it holds


# ---- COCO's notation ----

def _outlines(mask: np.ndarray) -> Optional[List[List[int]]]:
    """Polygons [x1, y1, x2, y2, ...] along the pixels' edges, or None where the mask (H, W) has a hole.

    They follow the edges, not the centres, so that pycocotools fills them to exactly the mask that they came from.
    """
    scale = 4
    enlarged = mask.repeat(scale, axis=0).repeat(scale, axis=1).view(np.uint8)
    contours, hierarchy = cv2.findContours(enlarged, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if (hierarchy[..., 3] >= 0).any():
        return None
    polygons = []
    for contour in contours:
        # contours run through the outermost pixels of the enlarged mask: less than half a pixel of ours from the edge
        corners = np.rint((contour[:, 0] + 0.5) / scale).astype(int)
        corners = corners[np.any(corners != np.roll(corners, 1, axis=0), axis=1)]
        polygons.append(corners.ravel().tolist())
    return polygons


def _run_lengths(mask: np.ndarray) -> Dict[str, List[int]]:
    """Uncompressed RLE of a mask (H, W): lengths of runs of 0 and 1 in turn, column by column, 0 first."""
    pixels = mask.ravel(order='F')
    starts = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs = np.diff([0, *starts, pixels.size]).tolist()
    return dict(size=list(mask.shape), counts=[0, *runs] if pixels[0] else runs)


def _annotation(annotation_id: int, image_id: int, instance: Instance) -> dict:
    polygons = None if instance.is_crowd else _outlines(instance.mask)
    ys, xs = np.nonzero(instance.mask)
    left, top = int(xs.min()), int(ys.min())
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=instance.label + 1,
        segmentation=polygons or _run_lengths(instance.mask),
        area=len(xs),
        bbox=[left, top, int(xs.max()) + 1 - left, int(ys.max()) + 1 - top],
        iscrowd=int(instance.is_crowd))


def _coco_header() -> dict:
    """A COCO annotation file without images and annotations."""
    date = '2017-01-01 00:00:00'
    return dict(
        info=dict(description='Shapes, made by make_shapes.py', url='', version='1.0', year=2017,
                  contributor='hybrid_mm', date_created=date),
        licenses=[dict(id=1, name='Apache License 2.0', url='https://www.apache.org/licenses/LICENSE-2.0')],
        images=[],
        annotations=[],
        categories=[dict(id=i, name=name, supercategory=outline) for i, (name, outline, _) in enumerate(LOOKS, 1)])


# ---- Files ----

def _write(path: Path, image: np.ndarray, *options: int) -> None:
    # where imwrite fails, it only returns False
    if not cv2.imwrite(str(path), image, options):
        raise OSError(f'{path} could not be written')


def _make_split(out: Path, split: str, count: int, size: Sequence[int], seed: int) -> None:
    """Writes one split in both layouts."""
    coco_images = out / 'coco' / f'{split}2017'
    ade = out / 'ade' / 'ADEChallengeData2016'
    ade_images, ade_maps = ade / 'images' / _ADE_SPLITS[split], ade / 'annotations' / _ADE_SPLITS[split]
    for folder in (coco_images, ade_images, ade_maps):
        folder.mkdir(parents=True)

    coco = _coco_header()
    for index in tqdm(range(1, count + 1), desc=f'shapes, {split}', unit=' pictures', disable=None):
        scene = draw_scene(seed, split, index, size)
        image_id = FIRST_ID[split] + index - 1
        image_path = coco_images / f'{image_id:012d}.jpg'
        _write(image_path, np.rint(scene.image).clip(0, 255).astype(np.uint8), cv2.IMWRITE_JPEG_QUALITY, 95)
        ade_name = f'ADE_{split}_{index:08d}'
        _link(image_path, ade_images / f'{ade_name}.jpg')
        _write(ade_maps / f'{ade_name}.png', scene.segmentation())

        coco['images'].append(dict(
            id=image_id, file_name=image_path.name, height=size[0], width=size[1], license=1, coco_url='',
            flickr_url='', date_captured=coco['info']['date_created']))
        coco['annotations'] += [_annotation(_IDS_PER_PICTURE * image_id + i, image_id, instance)
                                for i, instance in enumerate(scene.instances)]
    annotation_file = out / 'coco' / 'annotations' / f'instances_{split}2017.json'
    annotation_file.parent.mkdir(exist_ok=True)
    annotation_file.write_text(json.dumps(coco))


def _link(source: Path, target: Path) -> None:
    """Makes `target` a second name of the file `source`, or a copy where the file system has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _check_arguments(counts: Dict[str, int], size: Sequence[int], seed: int) -> None:
    for split, count in counts.items():
        if not 1 <= count <= MAX_COUNT:
            raise ValueError(f'{split}={count} pictures is not allowed; choose from 1 to {MAX_COUNT}')
    if len(size) != 2 or min(size) < MIN_SIDE:
        raise ValueError(f'size={tuple(size)} is not allowed; give height and width, both {MIN_SIDE} or more')
    if seed < 0:
        raise ValueError(f'seed={seed} is not allowed; choose 0 or more')


def _check_free(folder: Path) -> None:
    """Raises FileExistsError unless `folder` is missing, empty or made here."""
    if folder.is_dir():
        if (folder / _STAMP).is_file() or not any(folder.iterdir()):
            return
        raise FileExistsError(f'{folder} holds files that make_shapes.py did not make; choose another or empty it')
    if folder.exists():
        raise FileExistsError(f'{folder} is a file; choose a folder')


def _is_complete(out: Path, stamp: dict) -> bool:
    """Whether `out` holds all that `stamp` says."""
    try:
        if json.loads((out / _STAMP).read_text()) != stamp:
            return False
    except (OSError, json.JSONDecodeError):
        return False
    ade = out / 'ade' / 'ADEChallengeData2016'
    for split, ade_split in _ADE_SPLITS.items():
        folders = (out / 'coco' / f'{split}2017', ade / 'images' / ade_split, ade / 'annotations' / ade_split)
        if any(len(list(folder.glob('[!.]*'))) != stamp[split] for folder in folders):
            return False
        if not (out / 'coco' / 'annotations' / f'instances_{split}2017.json').is_file():
            return False
    return True


def _remove(folder: Path) -> None:
    """Removes a folder of ours, the stamp last, so that what an interruption leaves is still known as ours."""
    if not folder.exists():
        return
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
    shutil.rmtree(folder)


def make_shapes(out: os.PathLike,
                train: int = 400,
                val: int = 100,
                size: Sequence[int] = (192, 256),
                seed: int = 0) -> bool:
    """Makes the data set, unless it is there already.

    It is made beside `out` and renamed when it is whole. A data set of other parameters, or a damaged one, is replaced.

    Args:
        out: folder to make.
        train: pictures for training.
        val: pictures for validation.
        size: height and width in pixels.
        seed: of all random numbers.

    Returns:
        False if `out` held the very data set already.

    Raises:
        ValueError: a count, the size or the seed is not allowed.
        FileExistsError: `out` holds something else.
    """
    counts = dict(train=train, val=val)
    _check_arguments(counts, size, seed)
    out = Path(out).resolve()
    # another version of these files may draw other pictures
    code = b''.join(Path(__file__).with_name(name).read_bytes() for name in ('drawing.py', 'shapes.py'))
    stamp = dict(generator=hashlib.sha256(code).hexdigest(), seed=seed, size=list(size), **counts)
    if _is_complete(out, stamp):
        return False

    unfinished = out.with_name(f'{out.name}.unfinished')
    for folder in (out, unfinished):
        _check_free(folder)
    _remove(unfinished)
    unfinished.mkdir(parents=True)
    stamp_file = unfinished / _STAMP
    stamp_file.write_text('{}')
    for split, count in counts.items():
        _make_split(unfinished, split, count, size, seed)
    stamp_file.write_text(json.dumps(stamp))
    _remove(out)
    unfinished.rename(out)
    return True
