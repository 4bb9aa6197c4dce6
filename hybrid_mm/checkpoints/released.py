"""The initialiser ``hybrid_mm.Released``: a backbone starts from a file that fits it, or not at all."""
from typing import Dict, List, Optional, Tuple

from mmengine.logging import print_log
from torch import Tensor, nn

from hybrid_mm.registry import WEIGHT_INITIALIZERS

from . import glit
from .conversion import drop_repeats, rename_keys
from .files import backbone_part, load_released
from .fit import Mismatch, renewed, shapes_of
from .identification import optional, recognise, required
from .key_maps import KEY_MAPS


@WEIGHT_INITIALIZERS.register_module()
class Released:
    """Load a checkpoint into a backbone of ours: ``init_cfg=dict(type='hybrid_mm.Released', checkpoint=...)``.

    The file has the release's key names, or ours: what ``tools/converters/convert_released.py`` or a training writes. Of a
    detector, segmentor or classifier with the same backbone nothing outside of ``backbone.*`` is read (``encoder.*`` in files
    of ParC-Net). Every tensor of the file must have its place, and every tensor of the backbone its value. Some parts of the
    backbone may be absent, each as a whole, and keep their start: the norm of an output, which few releases have and a
    classifier has for its last output alone; BatchNorm's counters; and stages behind the last output, which never run. If
    anything does not fit, the backbone stays as it was.

    A GLiT in dense mode takes files of the image mode without their class token, see `glit.to_dense`.

    Args:
        checkpoint: path or URL of the file, see `load_released`.
        prefix: what stands before the names of the backbone in the file; by default ``backbone.`` or ``encoder.``, if any.
    """

    def __init__(self, checkpoint: str, prefix: Optional[str] = None) -> None:
        self.checkpoint = checkpoint
        self.prefix = prefix

    def __call__(self, module: nn.Module) -> None:
        """Load the file into ``module``.

        Args:
            module: a backbone of ours.

        Raises:
            TypeError: ``module`` is something else.
            ValueError: keys or shapes of file and backbone differ, or a tensor that the release lists twice does; the
                message names them.
            OSError: the file cannot be had, see `load_released`, which also raises ValueError where it cannot be read.
        """
        if not hasattr(module, 'stages') or not hasattr(module, 'out_indices'):
            raise TypeError(f'hybrid_mm.Released cannot initialise {type(module).__name__}; it belongs into the init_cfg of a '
                            'backbone of hybrid_mm')
        model, released = module.state_dict(), renewed(load_released(self.checkpoint))
        family = next((cls.__name__ for cls in type(module).__mro__ if cls.__name__ in KEY_MAPS), None)
        try:
            file = backbone_part(released, self.prefix)
            tensors, unknown = _under_our_keys(file, family, model)
        except ValueError as error:
            raise ValueError(f'{self.checkpoint}: {error}') from None
        tensors, note, keep = glit.to_dense(tensors, model) if family == 'GLiT' else (tensors, '', [])
        needed = required({key: value for key, value in model.items() if key not in keep}, optional(module), tensors)

        mismatch = Mismatch.between(shapes_of(tensors), shapes_of(needed))
        mismatch.unexpected += unknown
        if mismatch:
            archs = _compare_archs(file, tensors, model)
            raise ValueError(f'{self.checkpoint} does not fit the backbone: {archs}{mismatch}')
        module.load_state_dict(tensors, strict=False)  # only optional parts are absent, as checked above
        print_log(f'loaded {len(tensors)} of {len(needed)} tensors from {self.checkpoint}{note}', logger='current')


def _under_our_keys(file: Dict[str, Tensor], family: Optional[str],
                    model: Dict[str, Tensor]) -> Tuple[Dict[str, Tensor], List[str]]:
    """The tensors of the file under the backbone's keys, and the keys that the release does not have."""
    if family is None:  # there is no release
        return file, []
    file = drop_repeats(file, family)
    names, unknown = rename_keys(file, family)
    if sum(key in model for key in file) > len(names):  # converted before
        return file, []
    return {name: file[key] for key, name in names.items()}, unknown


def _compare_archs(file: Dict[str, Tensor], tensors: Dict[str, Tensor], model: Dict[str, Tensor]) -> str:
    """Which networks these are, if the file is a known one and not the same as the model, and in which options they differ.

    ``file`` has its own keys; ``tensors`` are the same under ours, as far as they are of the model's family.
    """
    of_file, of_model = recognise(file), recognise(model)
    networks = ''
    if of_file not in (None, of_model):
        networks = f'the file holds {of_file}, the model is {of_model or "of no released arch"}; '
    return networks + glit.compare(tensors, model) + _compare_references(tensors, model)


def _compare_references(file: Dict[str, Tensor], model: Dict[str, Tensor]) -> str:
    """Whether two SeTformers differ in ``num_references``, (h, m, k) of each block."""
    numbers = sorted({(file[key].shape[1], model[key].shape[1]) for key in file
                      if key.endswith('attn.references') and key in model and file[key].dim() == model[key].dim() == 3})
    differing = [f'{m} instead of {ours}' for m, ours in numbers if m != ours]
    return f'the file has num_references={", ".join(differing)}; ' if differing else ''
