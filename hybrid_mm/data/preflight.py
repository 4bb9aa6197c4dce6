"""Annotation files before training: stop, warn or mend; done once a machine, and remembered beside the run's logs.

A file is known by its absolute path, its size and the time of its last change. What was found of it is kept, as JSON, in
``<work_dir>/annotations``: the next start with the same file takes a fraction of a second, and of several processes on a machine
the first reads the file, of which COCO's largest takes 3 GB and half a minute, while the others wait for its verdict.
"""
import hashlib
import json
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence

from mmengine.config import Config
from mmengine.logging import print_log

from hybrid_mm import processes
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

from . import faults as kinds
from .coco_faults import find_faults, read_coco
from .coco_fix import mend, write_coco
from .coco_images import has_name, sizes_unlike
from .datasets import dataset_class, evaluators_of, is_evaluated, leaf_datasets, reads_instances, wants_masks
from .faults import ADVICE, FAULT, Fault, by_kind, ids
from .pictures import read_sizes

_VERSION = 1  # of what is found, and of the JSON
_LOOKS = 200  # pictures whose size is compared, evenly spread; `check.py` reads all
_REMEDY = ('look with `python tools/datasets/check.py CONFIG`, which makes a cleaned copy with --fix FILE, or let the training '
           "make one with annotations='mend' of hybrid_mm.CheckSetupHook")
PATIENCE = 3600.  # seconds that other processes wait


@dataclass(frozen=True)
class AnnotationFile:
    """A COCO annotation file, and what it serves for.

    Attributes:
        path: of the file.
        folder: of its pictures.
        masks, evaluated: see `hybrid_mm.data.coco_faults.find_faults`.
        with_annotations: whether it has to have annotations.
    """
    path: str
    folder: str
    masks: bool
    evaluated: bool
    with_annotations: bool = True

    def verdict(self, folder: Path) -> Path:
        """Where the verdict on the file, in its present state, and on this use of it is kept."""
        state = os.stat(self.path)
        facts = (_VERSION, os.path.abspath(self.path), state.st_size, state.st_mtime_ns, os.path.abspath(self.folder), self.masks,
                 self.evaluated, self.with_annotations)
        return folder / f'{Path(self.path).stem}_{hashlib.sha256(repr(facts).encode()).hexdigest()[:12]}.verdict'


def annotation_files(cfg: Config, splits: Sequence[str]) -> List[AnnotationFile]:
    """The COCO files on a disk of this machine that data sets and evaluators of a config read, each once."""
    files: Dict[str, AnnotationFile] = {}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader is None:
            continue
        evaluated = {os.path.abspath(evaluator.get('ann_file') or '') for evaluator in evaluators_of(cfg, split)
                     if not evaluator.get('format_only')}
        segm = is_evaluated(cfg, split, 'segm')
        for _, leaf in leaf_datasets(loader.dataset, ''):
            kind = dataset_class(leaf, cfg.default_scope)
            root = leaf.get('data_root') or ''
            path = os.path.join(root, leaf.get('ann_file') or '')
            if kind is None or not reads_instances(kind) or leaf.get('backend_args') or not os.path.isfile(path):
                continue
            place = os.path.abspath(path)
            folder = os.path.join(root, (leaf.get('data_prefix') or {}).get('img') or '')
            file = AnnotationFile(path, folder, wants_masks(leaf.get('pipeline')), False, not leaf.get('test_mode'))
            if place in evaluated:
                file = replace(file, masks=file.masks or segm, evaluated=True, with_annotations=True)
            if place in files:
                other = files[place]
                file = replace(file, masks=file.masks or other.masks, evaluated=file.evaluated or other.evaluated,
                               with_annotations=file.with_annotations or other.with_annotations)
            files[place] = file
    return list(files.values())


def use_copies(cfg: Config, splits: Sequence[str], copies: Mapping[str, str]) -> None:
    """Let data sets and evaluators of a config read the mended copies, given by the path of the file."""
    by_place = {os.path.abspath(path): copy for path, copy in copies.items()}
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        for _, leaf in leaf_datasets(loader.dataset, '') if loader is not None else ():
            place = os.path.abspath(os.path.join(leaf.get('data_root') or '', leaf.get('ann_file') or ''))
            if place in by_place:
                leaf.update(ann_file=by_place[place])
        for evaluator in evaluators_of(cfg, split):
            place = os.path.abspath(evaluator.get('ann_file') or '')
            if place in by_place:
                evaluator.update(ann_file=by_place[place])


def settings_of(cfg: Config) -> Dict[str, Any]:
    """``annotations`` and ``max_share`` of `hybrid_mm.CheckSetupHook` in a config; nothing where it says nothing."""
    return {key: hook[key] for hook in hooks_of(cfg, 'CheckSetupHook')[:1] for key in ('annotations', 'max_share') if key in hook}


def hooks_of(cfg: Config, name: str) -> List[dict]:
    """The hooks of a type among those of a config, which may name it with its scope or its module, or hold the class."""
    hooks = [*(cfg.get('custom_hooks') or []), *(cfg.get('default_hooks') or {}).values()]
    return [hook for hook in hooks if isinstance(hook, dict) and
            getattr(hook.get('type'), '__name__', str(hook.get('type'))).rpartition('.')[2] == name]


def check_settings(annotations: Any, max_share: Any) -> None:
    """Raise a SetupError where the settings of `hybrid_mm.CheckSetupHook` are none of the allowed ones."""
    if annotations not in ('stop', 'mend'):
        raise SetupError(f"annotations={annotations!r} of hybrid_mm.CheckSetupHook is not allowed; choose 'stop' or 'mend'")
    check_share(max_share, 'CheckSetupHook')


def check_share(max_share: Any, hook: str) -> None:
    """Raise a SetupError where ``max_share`` of a hook of ours is no share."""
    if isinstance(max_share, bool) or not isinstance(max_share, (int, float)) or not 0 <= max_share <= 1:
        raise SetupError(f'max_share={max_share!r} of hybrid_mm.{hook} is not allowed; choose 0 to 1')


def check_annotations(files: Sequence[AnnotationFile], work_dir: str, annotations: str = 'stop', max_share: float = 0.01,
                      patience: float = PATIENCE, keep: bool = True) -> Dict[str, str]:
    """Look through annotation files before anything is built from them.

    Mild faults, which the loader leaves out itself, are told in one warning; more than a share of them stop, as any other fault.

    Args:
        files: the files.
        work_dir: of the run.
        annotations: ``'stop'``, or ``'mend'`` for a copy of a faulty file in ``<work_dir>/annotations``.
        max_share: of mild faults among all annotations that is borne.
        patience: seconds that a process waits for the first one of its machine.
        keep: whether to remember what was found; a run of one process that writes nothing else does without, but for a copy.

    Returns:
        Path of the mended copy by path of the file, of those that had faults.

    Raises:
        SetupError: a file has faults, or is none of COCO's.
    """
    check_settings(annotations, max_share)
    copies = {}
    for file in files:
        verdict = _verdict(file, Path(work_dir) / 'annotations', annotations == 'mend', patience, keep)
        if verdict.get('error'):
            raise SetupError(verdict['error'])
        if annotations == 'mend' and verdict.get('copy'):
            copies[file.path] = verdict['copy']
            _log(verdict['mended'])
        elif verdict['stop'] or verdict['mild'] > max_share * verdict['annotations']:
            reason = '' if verdict['stop'] else (f', more than the share of {max_share:g} of its {verdict["annotations"]} '
                                                 'annotations that max_share of hybrid_mm.CheckSetupHook bears')
            raise SetupError(f'{file.path} has faults{reason}: {verdict["told"]}; {_REMEDY}')
        elif verdict['mild']:
            _log(f'{file.path} has {verdict["told"]}; the loader leaves these out or clips them, and '
                 '`python tools/datasets/check.py CONFIG` lists them')
    return copies


def _log(text: str) -> None:
    if processes.rank() == 0:
        print_log(text, logger='current', level=30)  # a warning


def _verdict(file: AnnotationFile, folder: Path, with_copy: bool, patience: float, keep: bool) -> Dict[str, Any]:
    """What was found of a file, now or before, here or by the first process of this machine."""
    path = file.verdict(folder)
    rank = processes.local_rank()
    end = time.monotonic() + patience
    while True:
        known = _read(path, with_copy)
        if known is not None:
            return known
        if rank == 0:
            return _judge(file, path, with_copy, keep)
        if time.monotonic() > end:
            raise SetupError(f'the first process of this machine has not looked through {file.path} within {patience:.0f} s, or '
                             f'process {rank} does not see {path}, which it writes; use a work folder that both see')
        time.sleep(0.2)


def _read(path: Path, with_copy: bool) -> Optional[Dict[str, Any]]:
    """A verdict, if there is one, and the copy of a faulty file, if there has to be one."""
    try:
        verdict = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None
    needs_copy = with_copy and not verdict.get('error') and verdict['stop'] + verdict['mild'] > 0
    return None if needs_copy and not os.path.isfile(verdict.get('copy', '')) else verdict


def _judge(file: AnnotationFile, path: Path, with_copy: bool, keep: bool) -> Dict[str, Any]:
    """Look through a file, and keep the verdict."""
    try:
        content = read_coco(file.path, file.with_annotations)
    except SetupError as error:
        passes = isinstance(error.__cause__, OSError)  # such as a disk that does not answer now
        return _keep(path, dict(error=str(error))) if keep and not passes else dict(error=str(error))
    faults = find_faults(content, file.path, file.masks, file.evaluated)
    faults += sizes_unlike(content['images'], file.path, _sizes(content, file.folder, _LOOKS))
    faults = [fault for fault in faults if fault.severity != ADVICE]
    number = len(content.get('annotations', []))
    verdict: Dict[str, Any] = dict(
        file=os.path.abspath(file.path), annotations=number, stop=sum(fault.severity == FAULT for fault in faults),
        mild=sum(fault.severity != FAULT for fault in faults), told=_summary(faults))
    if faults and with_copy:
        needs_sizes = any(fault.kind in (kinds.SWAPPED, kinds.OTHER_SIZE, kinds.IMAGE_KEYS) for fault in faults)
        sizes = _sizes(content, file.folder) if needs_sizes else {}
        mended, changes = mend(content, file.path, file.masks, file.evaluated, sizes)
        copy = path.with_suffix('.json').resolve()
        write_coco(mended, copy)
        left = len(mended.get('annotations', []))
        verdict.update(copy=str(copy), mended=(
            f'{copy} takes the place of {file.path}, with {len(mended["images"])} of {len(content["images"])} images and {left} '
            f'of {number} annotations: {_summary(changes, with_remedy=True)}'))
        _keep(replace(file, path=str(copy)).verdict(path.parent), dict(file=str(copy), annotations=left, stop=0, mild=0, told=''))
    return _keep(path, verdict) if keep or 'copy' in verdict else verdict


def _keep(path: Path, verdict: Dict[str, Any]) -> Dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as partial:
        partial.write_text(json.dumps(verdict), encoding='utf-8')
    return verdict


def _sizes(content: Mapping[str, Any], folder: str, number: int = 0) -> Dict[str, Any]:
    """Sizes as stored and orientations of pictures by file name, of some, evenly spread, or of all; as far as they are there."""
    names = list(dict.fromkeys(image['file_name'] for image in content['images'] if has_name(image)))
    if number and len(names) > number:
        names = [names[i * len(names) // number] for i in range(number)]
    sizes = zip(names, read_sizes([os.path.join(folder, name) for name in names]))
    return {name: size for name, size in sizes if size is not None}


def _summary(faults: List[Fault], with_remedy: bool = False) -> str:
    """Kinds, how many of each, and ids."""
    parts = []
    for name, found in by_kind(faults).items():
        where = ids(found) or found[0].message
        parts.append(f'{len(found)} × {name} ({where})' + (f', {found[0].kind.remedy}' if with_remedy else ''))
    return '; '.join(parts)
