"""The initialiser ``hybrid_mm.Released``: a backbone starts from its authors' weights, or not at all."""
from typing import Dict, List, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from hybrid_mm.registry import WEIGHT_INITIALIZERS

from .conversion import rename_keys
from .files import load_released, unwrap
from .identification import Mismatch, find_arch, guess_family, shapes_of
from .key_maps import KEY_MAPS


@WEIGHT_INITIALIZERS.register_module()
class Released:
    """Load a released checkpoint into a backbone: ``init_cfg=dict(type='hybrid_mm.Released', checkpoint=...)``.

    The file has the release's key names, or ours: what ``tools/converters/convert_released.py`` writes, or a training
    checkpoint with the same backbone, of which everything outside of ``backbone.*`` is left. Every tensor of the file must
    have its place and every tensor of the backbone its value, except the norms of ``out_norm=True``, which no release has
    and which keep their start, 1 and 0. If anything does not fit, the backbone stays as it was.

    Args:
        checkpoint: path or URL, see `load_released`; wrapped in any way that `unwrap` knows.
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
            OSError, ValueError: the file cannot be had or read, see `load_released`.
        """
        family = _family(module)
        tensors = unwrap(load_released(self.checkpoint))
        model = shapes_of(module.state_dict())
        renamed, unknown = _to_backbone(tensors, family, model)
        if not any(key.startswith('out_norms.') for key in renamed):
            model = {key: shape for key, shape in model.items() if not key.startswith('out_norms.')}

        mismatch = Mismatch.between(shapes_of(renamed), model)
        mismatch.unexpected += unknown
        if mismatch:
            raise ValueError(f'{self.checkpoint} does not fit the backbone'
                             f'{_say_which(family, tensors, renamed, model)}: {mismatch}')
        module.load_state_dict(renamed, strict=False)  # not strict, for the output norms; all else is checked above
        print_log(f'loaded {len(renamed)} of {len(model)} tensors from {self.checkpoint}', logger='current')


def _family(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls.__name__ in KEY_MAPS:
            return cls.__name__
    raise TypeError(f'hybrid_mm.Released initialises the backbones {", ".join(KEY_MAPS)}, not {type(module).__name__}; '
                    'it belongs into the init_cfg of the backbone')


def _to_backbone(tensors: Dict[str, Tensor], family: str, model: Dict[str, tuple]) -> Tuple[Dict[str, Tensor], List[str]]:
    """The tensors under the keys of the backbone, and the keys that have no place in it."""
    prefix = 'backbone.'
    if any(key.startswith(prefix) for key in tensors):
        return {key[len(prefix):]: tensor for key, tensor in tensors.items() if key.startswith(prefix)}, []
    names, unknown = rename_keys(tensors, family)
    if sum(key in model for key in tensors) > len(names):  # converted before
        return {key: tensor for key, tensor in tensors.items() if not key.startswith('head.fc.')}, []
    return {name: tensors[key] for key, name in names.items()}, unknown


def _say_which(family: str, tensors: Dict[str, Tensor], renamed: Dict[str, Tensor], model: Dict[str, tuple]) -> str:
    ...
