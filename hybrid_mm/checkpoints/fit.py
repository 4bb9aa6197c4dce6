"""Does a file fit a model? The one place that compares the two and loads strictly, and what a checkpoint says of its classes."""
import re
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Tuple

from torch import nn

from hybrid_mm.errors import SetupError, shorten

Shapes = Dict[str, Tuple[int, ...]]

# Parts whose num_classes is the number of the data's classes. Not rpn_head, which tells objects from background, nor
# the semantic heads of panoptic models, which count stuff too.
_CLASS_AWARE = ('bbox_head', 'mask_head', 'decode_head', 'auxiliary_head', 'head', 'data_preprocessor')


def shapes_of(tensors: Dict[str, Any]) -> Shapes:
    """Key -> shape of each tensor or array."""
    return {key: tuple(getattr(tensor, 'shape', ())) for key, tensor in tensors.items()}


@dataclass
class Mismatch:
    """Where the tensors of a file differ from those of a model; false if nowhere.

    Attributes:
        missing: keys of the model that the file lacks.
        unexpected: keys of the file that the model lacks.
        reshaped: key -> shape in the file, shape in the model.
    """
    missing: List[str]
    unexpected: List[str]
    reshaped: Dict[str, Tuple[Tuple[int, ...], Tuple[int, ...]]]

    @classmethod
    def between(cls, file: Shapes, model: Shapes) -> 'Mismatch':
        """Compare key -> shape of a file with that of a model."""
        return cls(
            missing=[key for key in model if key not in file],
            unexpected=[key for key in file if key not in model],
            reshaped={key: (file[key], model[key]) for key in file if model.get(key, file[key]) != file[key]})

    def __len__(self) -> int:
        return len(self.missing) + len(self.unexpected) + len(self.reshaped)

    def __str__(self) -> str:
        parts = []
        if self.missing:
            parts.append(f'the file lacks {shorten(self.missing)}')
        if self.unexpected:
            parts.append(f'the model has no {shorten(self.unexpected)}')
        if self.reshaped:
            shapes = (f'{key} {file} instead of {model}' for key, (file, model) in self.reshaped.items())
            parts.append(f'the file has the shapes {shorten(shapes)}')
        return '; '.join(parts)


def renewed(tensors: Dict[str, Any]) -> Dict[str, Any]:
    """Tensors as this version shapes them: factors of LayerScale, (C, 1, 1) in files of 0.1, are (C,)."""
    return {key: value.flatten() if key.endswith(('.gamma1', '.gamma2')) and value.ndim == 3 else value
            for key, value in tensors.items()}


def weights_in(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """The weights of a training checkpoint, without the prefix of data-parallel training."""
    tensors = checkpoint.get('state_dict', checkpoint)
    return {re.sub(r'^module\.', '', key): value for key, value in tensors.items()}


def starting_weights(node: Any, name: str) -> Iterator[Tuple[str, str, bool]]:
    """The files that the parts of a model start from, ``init_cfg.checkpoint``.

    Args:
        node: config of the model.
        name: of the model in the whole config.

    Yields:
        File, or URL; the name of its option in the config; whether ``hybrid_mm.Released`` reads it, which passes over the command
        line of a training script.
    """
    parts = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for key, part in parts:
        if key == 'init_cfg':
            for initialiser in part if isinstance(part, (list, tuple)) else [part]:
                if isinstance(initialiser, dict) and isinstance(initialiser.get('checkpoint'), str):
                    yield (initialiser['checkpoint'], f'{name}.init_cfg.checkpoint',
                           str(initialiser.get('type')).endswith('Released'))
        yield from starting_weights(part, f'{name}.{key}')


def fitting(tensors: Dict[str, Any],
            model: nn.Module,
            source: str,
            part: str = 'model',
            spare_heads: bool = False) -> Dict[str, Any]:
    """The tensors of a file that are for a model, after a check that they are all that it needs and no others.

    Counts that no computation of the networks uses (``num_batches_tracked``) may be absent; files of old versions lack them.

    Args:
        tensors: of the file, see `weights_in`.
        model: whose names they have.
        source: the file, for the message.
        part: ``'model'``, or ``'backbone'``: what is outside of ``backbone.*`` is neither compared nor returned.
        spare_heads: whether the file may have a head, such as an auxiliary one, of which the model has nothing.

    Raises:
        SetupError: something is missing, or is too much, or has another shape; the message names it.
    """
    wanted = shapes_of(model.state_dict())
    if part == 'backbone':
        wanted = {key: shape for key, shape in wanted.items() if key.startswith('backbone.')}
        tensors = {key: value for key, value in tensors.items() if key in wanted}
    elif spare_heads:
        tensors = {key: value for key, value in tensors.items() if not _is_of_absent_head(key, wanted)}
    tensors = renewed(tensors)
    mismatch = Mismatch.between(shapes_of(tensors), wanted)
    mismatch.missing = [key for key in mismatch.missing if not key.endswith('num_batches_tracked')]
    if mismatch:
        raise SetupError(f'the checkpoint {source} is of another network: {mismatch}; give one that was saved with the {part} of '
                         'this config')
    return tensors


def load_fitting(model: nn.Module, tensors: Dict[str, Any], source: str, spare_heads: bool = False) -> None:
    """Load the tensors of a file into a model, all or none. Arguments and errors: see `fitting`."""
    model.load_state_dict(fitting(tensors, model, source, spare_heads=spare_heads), strict=False)  # counts alone are absent


def dataset_meta(checkpoint: Dict[str, Any]) -> Dict[str, Any]:
    """What a training checkpoint says of its data: ``classes``, ``palette`` and the like; empty where it says nothing."""
    meta = checkpoint.get('meta', {}) if 'state_dict' in checkpoint else {}
    return {key.lower(): value for key, value in (meta.get('dataset_meta') or meta).items()}


def check_heads(model: nn.Module, classes: Any, split: str) -> None:
    """See that the heads of a network predict as many classes as the data have.

    Args:
        model: the network.
        classes: names of the classes.
        split: of the data, for the message, such as ``'training'``.

    Raises:
        SetupError: ``num_classes`` of a head is another number, or `classes` is one string.
    """
    if isinstance(classes, str):
        raise SetupError(f'metainfo.classes={classes!r} of the {split} data is a string; write the tuple '
                         f'({classes!r}, )')
    for name, module in model.named_modules():
        part = [word for word in name.split('.') if not word.isdigit()][-1:]  # roi_head.bbox_head.0 is a bbox_head
        count = getattr(module, 'num_classes', None)
        if part and part[0] in _CLASS_AWARE and isinstance(count, int) and count != len(classes):
            raise SetupError(f'num_classes={count} of model.{name} disagrees with the {split} data, which have '
                             f'{len(classes)} classes: {shorten(classes, 10)}; set num_classes={len(classes)} or give '
                             'other metainfo.classes')


def _is_of_absent_head(key: str, wanted: Shapes) -> bool:
    """Whether a tensor belongs to a head, such as ``roi_head.mask_head``, of which the model has nothing."""
    head = re.match(r'.*head\.', key)
    return head is not None and not any(name.startswith(head[0]) for name in wanted)
