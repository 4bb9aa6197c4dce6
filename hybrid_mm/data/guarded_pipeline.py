"""A pipeline that says which sample it cannot read, or passes over it and counts, and lets boxes and pixels agree."""
import copy
import logging
from typing import Any, Callable, Dict, Iterable, List, Optional

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from mmengine.logging import print_log
from PIL import Image

from hybrid_mm.errors import first_line

from .datasets import leaf_datasets
from .samples import exif_orientation, is_truncated, label_map_fault, picture_fault, sides
from .tally import SampleError, Tally

# what MMCV calls a picture with and without the turn that EXIF asks for
_OTHER_TURN = {name: f'{name}_ignore_orientation' for name in ('color', 'grayscale')}
_OTHER_TURN.update({value: key for key, value in _OTHER_TURN.items()})


def guard(dataset: Any, name: str, tally: Optional[Tally] = None, skip: bool = False, ignored: Iterable[int] = (255, )) -> None:
    """Put a `GuardedPipeline` around the pipeline of each data set inside of wrappers; those that have one keep it.

    Args:
        dataset: the built data set.
        name: its name in the config.
        tally: counts the samples.
        skip: let the data set draw another sample for one that cannot be read; where its class has no way to, and in test mode,
            such a sample stops all the same.
        ignored: numbers in label maps that are no class.
    """
    for path, leaf in leaf_datasets(dataset, name):
        pipeline: Any = getattr(leaf, 'pipeline', None)
        if not isinstance(getattr(pipeline, 'transforms', None), list) or isinstance(pipeline, GuardedPipeline):
            continue
        draws_another = getattr(type(leaf), '__getitem__', None) is BaseDataset.__getitem__ and not leaf.test_mode
        if skip and not draws_another:
            print_log(f'{path}: {type(leaf).__name__} draws no other sample for one that cannot be read, which therefore stops '
                      'the run', logger='current', level=logging.WARNING)
        leaf.pipeline = GuardedPipeline(pipeline.transforms, (getattr(leaf, 'metainfo', None) or {}).get('classes'), tally,
                                        skip and draws_another, {getattr(leaf, 'ignore_index', 255), *ignored})


class GuardedPipeline(Compose):
    """Transforms of a data set, with a look at what those that load give.

    Refused, with one sentence that names file and ids, or skipped, is a sample whose picture or label map is missing, empty,
    truncated or no picture; whose picture has another size than the annotation file says; whose label map is in colour, of
    another size than the picture, or holds numbers that are no class; and whose annotations cannot be loaded.

    A picture whose EXIF orientation turns it is loaded as OpenCV does, turned, unless height and width of the annotation file,
    or those of the label map, are the ones of the picture as it lies in the file: then it is loaded so. Boxes and pixels
    agree either way. Where both have the same size, as in square pictures or with half a turn, it is turned.

    Args:
        transforms: of the pipeline; they run as they would without.
        classes: of the data set, None if it has none.
        tally: counts the samples.
        skip: return None for a sample that cannot be used, and mmengine's data sets draw another.
        ignored: numbers in label maps that are no class.
    """

    def __init__(self, transforms: List[Callable], classes: Optional[List[str]] = None, tally: Optional[Tally] = None,
                 skip: bool = False, ignored: Iterable[int] = (255, )) -> None:
        self.transforms = list(transforms)
        self._classes = classes
        self._tally = tally
        self._skip = skip
        self._ignored = tuple(ignored)
        self._kinds = [{kind.__name__ for kind in type(transform).__mro__} for transform in transforms]
        self._as_stored = [_with_other_turn(transform) for transform in transforms]
        # faults of files are looked for where these are files of this machine
        self._is_local = all((getattr(transform, 'backend_args', None) or {}).get('backend', 'local') == 'local' and
                             not getattr(transform, 'file_client_args', None) for transform in transforms)
        for transform in transforms:
            if hasattr(transform, 'subroutines'):  # test-time augmentation, which may load the annotations
                transform.subroutines = [GuardedPipeline(part.transforms, classes, ignored=self._ignored)
                                         for part in transform.subroutines]

    def __call__(self, data: dict) -> Optional[dict]:
        # transforms change what is in the dict, such as the list of fields
        given = {key: value[:] if isinstance(value, list) else value for key, value in data.items()}
        if self._tally is not None:
            self._tally.see()
        try:
            try:
                return self._run(self.transforms, data, given)
            except _OtherSize as fault:
                return self._run_as_stored(given, fault)
        except _Fault as fault:
            if self._skip and self._tally is not None:
                self._tally.skip(str(fault))
                return None
            advice = ('' if self._tally is None else
                      ", or train without such samples by samples='skip' of hybrid_mm.DataGuardHook, in our "
                      'configs default_hooks.data_guard')
            raise SampleError(f'{fault}; mend it or take it out of the data{advice}') from fault.__cause__

    def _run_as_stored(self, given: Dict[str, Any], fault: '_OtherSize') -> Optional[dict]:
        """The sample with its picture as it lies in the file; the fault if the sizes do not agree then either."""
        path = given.get('img_path')
        if self._as_stored == self.transforms or not isinstance(path, str) or exif_orientation(path) < 5:
            raise fault
        try:
            result = self._run(self._as_stored, dict(given), given)
        except _OtherSize:
            raise fault from None
        if self._tally is not None:
            self._tally.load_as_stored()
        return result

    def _run(self, transforms: List[Callable], data: Dict[str, Any], given: Dict[str, Any]) -> Optional[dict]:
        for transform, kinds in zip(transforms, self._kinds):
            try:
                result = transform(data)
            except (SampleError, MemoryError):
                raise
            except Exception as error:
                fault = self._fault_of(transform, data, given, error)
                if fault is None:
                    raise
                raise _Fault(fault) from error
            if result is None:
                return None
            data = result
            if 'LoadImageFromFile' in kinds:
                self._check_picture(data, given)
            elif 'LoadAnnotations' in kinds:
                self._check_label_map(data, given)
        return data

    def _check_picture(self, data: Dict[str, Any], given: Dict[str, Any]) -> None:
        path, image = given.get('img_path'), data.get('img')
        if isinstance(path, str) and is_truncated(path):
            raise _Fault(f'{_named(given)} is truncated')
        expected = given.get('height') or 0, given.get('width') or 0
        if isinstance(image, np.ndarray) and all(expected) and image.shape[:2] != expected:
            swapped = '; width and height are swapped there' if image.shape[1::-1] == expected else ''
            raise _OtherSize(f'{_named(given)} has {sides(image.shape)} pixels, and the annotation file says {sides(expected)}'
                             f'{swapped}')

    def _check_label_map(self, data: Dict[str, Any], given: Dict[str, Any]) -> None:
        labels, shape, path = data.get('gt_seg_map'), data.get('ori_shape'), given.get('seg_map_path')
        if not isinstance(labels, np.ndarray) or shape is None or not isinstance(path, str):
            return
        if is_truncated(path):
            raise _Fault(f'{path}, the label map of {_named(given)}, is truncated')
        # the numbers are known to be classes in data sets of MMSegmentation's kind
        count = len(self._classes) if self._classes is not None and 'reduce_zero_label' in given else None
        # MMSegmentation keeps eight bits of a number
        is_wide = count is not None and self._is_local and _is_wide(path)
        if not is_wide and labels.shape == tuple(shape) and (count is None or not self._holds_others(labels, count)):
            return
        reduced, label_map = bool(given.get('reduce_zero_label')), given.get('label_map')  # to another list of classes
        stored = np.array(Image.open(path)) if self._is_local else labels + np.uint8(reduced)
        stored = np.where(np.isin(stored, [number + reduced for number in self._ignored if number != 255]), 255, stored)
        fault = label_map_fault(stored, shape, 256 if count is None else len(label_map or self._classes or ()), reduced)
        if fault is not None:
            fault = f'{path}, the label map of {_named(given)}, {fault}'
            raise (_OtherSize if stored.ndim == 2 and stored.shape != tuple(shape) else _Fault)(fault)

    def _holds_others(self, labels: np.ndarray, count: int) -> bool:
        """Whether a label map holds numbers that are neither a class nor ignored."""
        if labels.dtype == np.uint8 and (labels + np.uint8(1)).max() <= count:  # 255 becomes 0; this is fast
            return False
        return np.setdiff1d(labels[labels >= count], self._ignored).size > 0

    def _fault_of(self, transform: Callable, data: Dict[str, Any], given: Dict[str, Any], error: Exception) -> Optional[str]:
        """What is wrong with the sample on which a transform fails; None if that is not known and the transform does not load."""
        for key in ('img_path', 'seg_map_path') if self._is_local else ():
            fault = picture_fault(given[key]) if isinstance(given.get(key), str) else None
            if fault is not None:
                named = _named(given) if key == 'img_path' else f'{given[key]}, the label map of {_named(given)},'
                return f'{named} {fault}'
        name, shape = type(transform).__name__, data.get('ori_shape')
        for instance in given.get('instances') or [] if getattr(transform, 'with_mask', False) else []:
            mask, fault = instance.get('mask'), None
            if not mask:
                fault = 'has no segmentation'
            elif isinstance(mask, dict) and shape is not None and tuple(mask.get('size', shape)) != tuple(shape):
                fault = f'has a segmentation of {sides(mask["size"])} pixels, and the picture has {sides(shape)}'
            if fault is not None:
                label = instance.get('bbox_label')
                kind = self._classes[label] if self._classes is not None and label is not None else 'object'
                return f'{_named(given)}: the {kind} with the box {instance.get("bbox")} (x1, y1, x2, y2) {fault}'
        if name.startswith('Load'):
            return f'{name} fails on {_named(given)}: {type(error).__name__}: {first_line(error)}'
        print_log(f'{name} fails on {_named(given)}', logger='current', level=logging.ERROR)
        return None


class _Fault(Exception):
    """What is wrong with a sample."""


class _OtherSize(_Fault):
    """Picture and annotation have different sizes, which the picture as it lies in the file may mend."""


def _named(given: Dict[str, Any]) -> str:
    """The file of a sample with the id of its picture, as far as there are."""
    path = given.get('img_path') or f'sample {given.get("sample_idx")}'
    return f'{path} (image id {given["img_id"]})' if 'img_id' in given else str(path)


def _with_other_turn(transform: Callable) -> Callable:
    """A copy of a transform that loads pictures, which turns them as EXIF says if this one does not, and the other way round;
    the transform itself if there is no such way."""
    other = _OTHER_TURN.get(getattr(transform, 'color_type', ''))
    if other is None or getattr(transform, 'imdecode_backend', None) not in ('cv2', 'pillow'):
        return transform
    copied: Any = copy.copy(transform)
    copied.color_type = other
    return copied


def _is_wide(path: str) -> bool:
    """Whether the file of a label map has more than eight bits a pixel."""
    try:
        with open(path, 'rb', buffering=0) as file:
            head = file.read(25)
            if head.startswith(b'\x89PNG'):
                return head[-1] > 8
        with Image.open(path) as image:
            return image.mode.startswith(('I', 'F'))
    except OSError:
        return False
