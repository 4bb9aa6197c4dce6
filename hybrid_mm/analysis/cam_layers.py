"""Where a class activation map is taken: a stage of the backbone or a layer by its name, and its output as a map."""
import difflib
from typing import Any, List, NamedTuple, Optional, Sequence

from torch import Tensor, nn

from hybrid_mm.backbones.base import BaseBackbone
from hybrid_mm.errors import SetupError

_STRIDES = (1, 2, 4, 8, 16, 32, 64)  # that a grid of tokens may have


class Place(NamedTuple):
    """Where to look into a network."""
    name: str  # for people
    module: nn.Module  # the layer
    output: Optional[int] = None  # which of its outputs, None where there is one


class Tap:
    """Cuts the graph behind a layer and puts a module there that sees nothing but its output.

    So gradients end at the layer, and of several outputs one can be looked at, which grad-cam's hooks do not know.

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
        index = None if isinstance(out, Tensor) else self._place.output  # some backbones return their only map as it is
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
    indices = out_indices(backbone)
    if not indices and stage is None:
        return Place('last output of the backbone', backbone, -1)
    ours = isinstance(backbone, BaseBackbone)
    last = (max(indices) if ours else indices[-1]) + 1 if indices else 0
    stage = last if stage is None else stage
    allowed = range(1, last + 1) if ours else [i + 1 for i in indices]
    if stage not in allowed:
        raise SetupError(f'--stage {stage} is not among those that {type(backbone).__name__} gives here; choose from '
                         f'{", ".join(map(str, allowed)) or "none"}, or a layer with --layer')
    if not ours:
        return Place(f'output {stage} of the backbone', backbone, indices.index(stage - 1))
    block = backbone.stages[stage - 1][-1]
    name = f'backbone.stages.{stage - 1}.{len(backbone.stages[stage - 1]) - 1}'
    is_read_from_token = stage == last and getattr(backbone, 'mode', '') == 'image'  # GLiT
    return Place(f'{name}.norm1', block.norm1) if is_read_from_token else Place(name, block)


def out_indices(backbone: nn.Module) -> List[int]:
    """Stages of the outputs, counted from 0; empty where the backbone does not say."""
    indices = getattr(backbone, 'out_indices', ())
    return [indices] if isinstance(indices, int) else list(indices)


def as_map(features: Tensor, image_size: Sequence[int]) -> Tensor:
    """Features with their places in two dimensions, (B, C, H, W).

    Args:
        features: a map (B, C, H, W), or tokens (B, N, C), row by row, behind a class token or without one.
        image_size: height and width in pixels. The tokens' grid is this over a power of 2, rounded up or down.

    Raises:
        SetupError: it is neither.
    """
    if features.dim() == 4:
        return features
    for stride in _STRIDES if features.dim() == 3 else ():
        for h, w in ([-(-side // stride) for side in image_size], [side // stride for side in image_size]):
            if 0 < h * w and features.shape[1] - h * w in (0, 1):
                tokens = features[:, features.shape[1] - h * w:]
                return tokens.transpose(1, 2).unflatten(2, (h, w))  # (B, N, C) -> (B, C, H, W)
    raise SetupError(f'the layer gives features of shape {tuple(features.shape)} for an image of '
                     f'{"x".join(map(str, image_size))} pixels, no map and no tokens of one; give another layer with --layer')
