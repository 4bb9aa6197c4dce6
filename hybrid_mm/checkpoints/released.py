"""The initialiser ``hybrid_mm.Released``: a backbone starts from its authors' weights, or not at all."""
from typing import Dict, List, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from hybrid_mm.registry import WEIGHT_INITIALIZERS

from .conversion import rename_keys
from .files import load_released
from .identification import Mismatch, recognise, shapes_of
from .key_maps import KEY_MAPS


@WEIGHT_INITIALIZERS.register_module()
class Released:
    """Load a released checkpoint into a backbone: ``init_cfg=dict(type='hybrid_mm.Released', checkpoint=...)``.

    The file has the release's key names, or ours: what ``tools/converters/convert_released.py`` writes, or a training
    checkpoint with the same backbone, of which nothing outside of ``backbone.*`` is read. Every tensor of the file must
    have its place, and every tensor of the backbone its value, except the norms of ``out_norm=True``: no release has
    them, and they keep their start, 1 and 0. If anything does not fit, the backbone stays as it was.

    Args:
        checkpoint: path or URL of the file, see `load_released`.
    """

    def __init__(self, checkpoint: str) -> None:
        self.checkpoint = checkpoint

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``.

        Args:
            module: a backbone of a family of `KEY_MAPS`.

        Raises:
            TypeError: ``module`` is something else.
            ValueError: keys or shapes of file and backbone differ; the message names them.
            OSError: the file cannot be had, see `load_released`, which also raises ValueError where it cannot be read.
        """
        family = _family(module)
        file = _backbone_part(load_released(self.checkpoint))
        model = module.state_dict()
        tensors, unknown = _under_our_keys(file, family, model)
        if not any(key.startswith('out_norms.') for key in tensors):
            model = {key: tensor for key, tensor in model.items() if not key.startswith('out_norms.')}

        mismatch = Mismatch.between(shapes_of(tensors), shapes_of(model))
        mismatch.unexpected += unknown
        if mismatch:
            raise ValueError(f'{self.checkpoint} does not fit the backbone: {_compare_archs(file, model)}{mismatch}')
        module.load_state_dict(tensors, strict=False)  # only the output norms may be absent, as checked above
        print_log(f'loaded {len(tensors)} of {len(model)} tensors from {self.checkpoint}', logger='current')


def _family(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls.__name__ in KEY_MAPS:
            return cls.__name__
    raise TypeError(f'hybrid_mm.Released cannot initialise {type(module).__name__}; it belongs into the init_cfg of a '
                    f'backbone: {", ".join(KEY_MAPS)}')


def _backbone_part(tensors: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """The tensors of ``backbone.*`` without the prefix; where there are none, all but a classifier of ours."""
    prefix = 'backbone.'
    part = {key[len(prefix):]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
    return part or {key: tensor for key, tensor in tensors.items() if not key.startswith('head.fc.')}


def _under_our_keys(file: Dict[str, Tensor], family: str,
                    model: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], List[str]]:
    """The tensors of the file under the backbone's keys, and the keys that the release does not have."""
    names, unknown = rename_keys(file, family)
    if sum(key in model for key in file) > len(names):  # converted before
        return file, []
    return {name: file[key] for key, name in names.items()}, unknown


def _compare_archs(file: Dict[str, Tensor], model: Dict[str, Tensor]) -> str:
    """Which networks these are, if the file is a known one and not the same as the model."""
    of_file, of_model = recognise(file), recognise(model)
    if of_file in (None, of_model):
        return ''
    return f'the file holds {of_file}, the model is {of_model or "of no released arch"}; '
