"""Where a class activation map is taken: a stage of the backbone or a layer by its name, and its output as a map."""
import difflib
from typing import Any, NamedTuple, Optional, Sequence

from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.errors import SetupError

_LARGEST_STRIDE = 64


class Place(NamedTuple):
    """Where to look into a network.

    Attributes:
        name: for people.
        module: the layer.
        index: which of its outputs, None where there is one.
    """
    name: str
    module: nn.Module
    index: Optional[int] = None


class Tap:
    """Cuts the graph behind a layer and puts a module there that sees nothing but its output.

    All gradients below are saved, and what leaves the layer may be one of several tensors, which grad-cam's hooks do not know.

    Args:
        place: the layer.

    Attributes:
        module: an identity; its output is a leaf of the graph.
        runs: how often the layer ran since this was set to 0.
    """

    def __init__(self, place: Place) -> None:
        self.module = nn.Identity()
        self.runs = 0
        self._place = place
        self._handle = place.module.register_forward_hook(self._replace)

    def remove(self) -> None:
        self._handle.remove()

    def _replace(self, layer: nn.Module, args: tuple, out: Any) -> Any:
        self.runs += 1
        index = None if isinstance(out, Tensor) else self._place.index  # some backbones return their only map as it is
        tensor = out if index is None else out[index]
        if not isinstance(tensor, Tensor):
            raise SetupError(f'the output of {self._place.name} is a {type(tensor).__name__}, no map of features; give another '
                             'layer with --layer')
        # a copy goes on: what follows may work in place, which a leaf does not allow
        tapped = self.module(tensor.detach().requires_grad_()).clone()
        if index is None:
            return tapped
        maps = list(out)
        maps[index] = tapped
        return type(out)(maps)


def find_place(model: nn.Module, layer: Optional[str] = None, stage: Optional[int] = None) -> Place:
    """The layer that a user means.

    Of our backbones a stage is its last block, so that all ways from there to the result count. Where the result is read from
    a class token, nothing behind the last mixing of tokens depends on the places; there it is the norm in front of it. Of other
    backbones a stage is a map as it leaves the backbone, and the ways through this output alone count.

    Args:
        model: detector, segmentor or classifier.
        layer: dotted name of a layer.
        stage: of the backbone, counted from 1; by default the last that runs.

    Raises:
        SetupError: there is no such layer or stage.
    """
    if layer is not None:
        layers = dict(model.named_modules())
        if layer not in layers or not layer:
            near = difflib.get_close_matches(layer, layers, cutoff=0.4) or [name for name, _ in model.named_children()]
            raise SetupError(f'--layer {layer} is no layer of {type(model).__name__}; choose one such as {", ".join(near)}')
        return Place(layer, layers[layer])
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise SetupError(f'{type(model).__name__} has no backbone; give a layer with --layer')
    indices = getattr(backbone, 'out_indices', ())
    indices = (indices, ) if isinstance(indices, int) else tuple(indices)
    if not indices and stage is None:
        return Place('last output of the backbone', backbone, -1)
    if isinstance(backbone, BaseBackbone):
        last = max(indices) + 1
        stage = _check_stage(last if stage is None else stage, range(1, last + 1), backbone)
        name, module = f'backbone.stages.{stage - 1}.{len(backbone.stages[stage - 1]) - 1}', backbone.stages[stage - 1][-1]
        if stage == last and getattr(backbone, 'mode', '') == 'image':  # GLiT
            return Place(f'{name}.norm1', module.norm1)
        return Place(name, module)
    stage = _check_stage(indices[-1] + 1 if stage is None else stage, [i + 1 for i in indices], backbone)
    return Place(f'output {stage} of the backbone', backbone, indices.index(stage - 1))


def as_map(features: Tensor, image_size: Sequence[int]) -> Tensor:
    """Features with their places in two dimensions.

    Args:
        features: a map (B, C, H, W), or tokens (B, N, C), row by row, behind a class token or without one.
        image_size: height and width in pixels. The tokens' grid is this over a power of 2, rounded up or down.

    Returns:
        (B, C, H, W).

    Raises:
        SetupError: it is neither.
    """
    if features.dim() == 4:
        return features
    if features.dim() == 3:
        stride = 1
        while stride <= _LARGEST_STRIDE:
            for h, w in ([-(-side // stride) for side in image_size], [side // stride for side in image_size]):
                if 0 < h * w and features.shape[1] - h * w in (0, 1):
                    tokens = features[:, features.shape[1] - h * w:]
                    return tokens.transpose(1, 2).unflatten(2, (h, w))  # (B, N, C) -> (B, C, H, W)
            stride *= 2
    raise SetupError(f'the layer gives features of shape {tuple(features.shape)} for an image of '
                     f'{"x".join(map(str, image_size))} pixels, no map and no tokens of one; give another layer with --layer')


def _check_stage(stage: int, allowed: Sequence[int], backbone: nn.Module) -> int:
    if stage not in allowed:
        choices = ', '.join(map(str, allowed)) or 'none'
        raise SetupError(f'--stage {stage} is not among those that {type(backbone).__name__} gives here; choose from '
                         f'{choices}, or a layer with --layer')
    return stage
