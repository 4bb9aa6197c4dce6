"""The initialiser ``hybrid_mm.Released``: a backbone starts from its authors' weights, or not at all."""
from typing import Dict, List, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from hybrid_mm.registry import WEIGHT_INITIALIZERS

from . import glit
from .conversion import drop_repeats, rename_keys
from .files import backbone_part, load_released
from .identification import Mismatch, optional, recognise, required, shapes_of
from .key_maps import KEY_MAPS


@WEIGHT_INITIALIZERS.register_module()
class Released:
    """Load a released checkpoint into a backbone: ``init_cfg=dict(type='hybrid_mm.Released', checkpoint=...)``.

    The file has the release's key names, or ours: what ``tools/converters/convert_released.py`` writes. Of a detector,
    segmentor or training checkpoint with the same backbone nothing outside of ``backbone.*`` is read (``encoder.*`` in
    files of ParC-Net). Every tensor of the file must have its place, and every tensor of the backbone its value. Three
    parts of the backbone may be absent, each as a whole, and keep their start: the norms of ``out_norm=True``, which few
    releases have, BatchNorm's counters, and stages behind the last output, which never run. If anything does not fit, the
    backbone stays as it was.

    A GLiT in dense mode takes files of the image mode without their class token, see `glit.to_dense`.

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
            ValueError: keys or shapes of file and backbone differ, or a tensor that the release lists twice does; the
                message names them.
            OSError: the file cannot be had, see `load_released`, which also raises ValueError where it cannot be read.
        """
        family = _family(module)
        file = backbone_part(load_released(self.checkpoint))
        model = module.state_dict()
        try:
            tensors, unknown = _under_our_keys(file, family, model)
        except ValueError as error:
            raise ValueError(f'{self.checkpoint}: {error}') from None
        note, keep = '', ()
        if family == 'GLiT':
            tensors, note, keep = glit.to_dense(tensors, model)
        model = required({key: value for key, value in model.items() if key not in keep}, optional(module), tensors)

        mismatch = Mismatch.between(shapes_of(tensors), shapes_of(model))
        mismatch.unexpected += unknown
        if mismatch:
            archs = _compare_archs(file, tensors, module.state_dict())
            raise ValueError(f'{self.checkpoint} does not fit the backbone: {archs}{mismatch}')
        module.load_state_dict(tensors, strict=False)  # only optional parts are absent, as checked above
        print_log(f'loaded {len(tensors)} of {len(model)} tensors from {self.checkpoint}{note}', logger='current')


def _family(module: nn.Module) -> str:
    for cls in type(module).__mro__:
        if cls.__name__ in KEY_MAPS:
            return cls.__name__
    raise TypeError(f'hybrid_mm.Released cannot initialise {type(module).__name__}; it belongs into the init_cfg of a '
                    f'backbone: {", ".join(KEY_MAPS)}')


def _under_our_keys(file: Dict[str, Tensor], family: str,
                    model: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], List[str]]:
    """The tensors of the file under the backbone's keys, and the keys that the release does not have."""
    file = drop_repeats(file, family)
    names, unknown = rename_keys(file, family)
    if sum(key in model for key in file) > len(names):  # converted before
        return file, []
    return {name: file[key] for key, name in names.items()}, unknown


def _compare_archs(file: Dict[str, Tensor], tensors: Dict[str, Tensor], model: Dict[str, Tensor]) -> str:
    """Which networks these are, if the file is a known one and not the same as the model, and where two GLiT differ.

    Args:
        file: under the keys of the file.
        tensors: the same under our keys, as far as they are of the model's family.
        model: under our keys.
    """
    of_file, of_model = recognise(file), recognise(model)
    networks = ''
    if of_file not in (None, of_model):
        networks = f'the file holds {of_file}, the model is {of_model or "of no released arch"}; '
    return networks + glit.compare(tensors, model)
