"""Effective receptive field (Luo et al., arXiv 1701.04128): how much each pixel moves the centre of a feature map."""
from contextlib import contextmanager
from typing import Any, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from torch import Tensor, nn


class ReceptiveField(NamedTuple):
    """What `effective_receptive_field` returns.

    Attributes:
        gradient: (H, W), float64, sums to 1: each pixel's share of the absolute gradient of the map's centre.
        centre: (row, column) in pixels of the centre's own place in the image, the middle of pixel (0, 0) being (0, 0).
    """
    gradient: Tensor
    centre: Tuple[float, float]


def effective_receptive_field(module: nn.Module,
                              image_size: Union[int, Sequence[int]],
                              feature: Union[int, str, None] = None,
                              num_images: int = 8,
                              in_channels: int = 3,
                              seed: int = 0,
                              images: Optional[Iterable[Tensor]] = None,
                              positive: bool = False) -> ReceptiveField:
    """Absolute gradient of a feature map's centre with respect to the image, averaged over images.

    The centre's channels are summed before the gradient, the image's channels after it. The module runs in evaluation mode
    and stays as it was.

    Args:
        module: takes (1, in_channels, H, W).
        image_size: H = W, or (H, W).
        feature: which map: the index of an output, the dotted name of a layer inside, or None where there is one output.
        num_images: number of `random_images`, where no others are given.
        in_channels: channels of these.
        seed: of these.
        images: (in_channels, H, W) each, normalised as the module takes them; by default `random_images`.
        positive: sum the positive channels of the centre alone, as RepLKNet's authors do (arXiv 2203.06717): behind a
            LayerNorm the sum of all channels depends on no pixel, and its gradient is rounding errors.

    Returns:
        The field and where its centre is.

    Raises:
        ValueError: there is no such feature map, the image has no influence on its centre, or an image has another size.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    parameter = next(module.parameters(), torch.empty(0))
    total = torch.zeros(size, dtype=torch.float64)
    with frozen_evaluation(module), torch.enable_grad():
        for image in random_images(size, num_images, in_channels, seed) if images is None else images:
            if tuple(image.shape[1:]) != size:
                raise ValueError(f'an image has the shape {tuple(image.shape)}; give (C, {size[0]}, {size[1]})')
            image = image[None].to(parameter.device, parameter.dtype, copy=True).requires_grad_()
            out = _feature_map(module, image, feature)
            row, column = (side // 2 for side in out.shape[2:])
            values = out[:, :, row, column]
            gradient, = torch.autograd.grad((values.relu() if positive else values).sum(), image)
            total += gradient.abs().sum((0, 1)).double().cpu()
    if not total.sum() > 0:
        raise ValueError('the image has no influence on the centre of this feature map')
    centre = tuple((i + 0.5) * pixels / side - 0.5 for i, pixels, side in zip((row, column), size, out.shape[2:]))
    return ReceptiveField(total / total.sum(), centre)


def random_images(size: Sequence[int], number: int, in_channels: int = 3, seed: int = 0) -> Iterator[Tensor]:
    """``number`` images of normal noise, (in_channels, H, W), of mean 0 and standard deviation 1 as normalised ones have."""
    if number < 1:
        raise ValueError(f'num_images={number} is not allowed; give 1 or more')
    generator = torch.Generator().manual_seed(seed)
    for _ in range(number):
        yield torch.randn(in_channels, *size, generator=generator)


def area(gradient: Tensor, fraction: float) -> float:
    """Smallest share of the image's positions that holds a fraction of the gradient.

    Args:
        gradient: (H, W), 0 or more.
        fraction: above 0, at most 1.

    Returns:
        Above 0, at most 1. An even gradient over the whole image gives ``fraction`` itself.
    """
    shares = gradient.flatten().double().sort(descending=True).values.cumsum(0)
    return (_first_to_reach(shares, fraction) + 1) / gradient.numel()


def square_side(gradient: Tensor, fraction: float, centre: Sequence[float]) -> int:
    """Side of the smallest square around the centre that holds a fraction of the gradient.

    Args:
        gradient: (H, W), 0 or more.
        fraction: above 0, at most 1.
        centre: (row, column) in pixels, as `ReceptiveField` has it.

    Returns:
        Side in pixels, odd around the middle of a pixel and even around the border of two. A square around a centre away
        from the middle of the image may stick out of it; only what lies inside counts.
    """
    distances = [(torch.arange(n, device=gradient.device) - c).abs() for n, c in zip(gradient.shape, centre)]
    # a square of side s reaches the pixels whose middle is at most (s - 1) / 2 away
    sides = (2 * torch.maximum(distances[0][:, None], distances[1])).round().long() + 1
    by_side = torch.zeros(int(sides.max()) + 1, dtype=torch.float64, device=gradient.device)
    by_side.index_add_(0, sides.flatten(), gradient.flatten().double())
    return _first_to_reach(by_side.cumsum(0), fraction)


def _first_to_reach(cumulated: Tensor, fraction: float) -> int:
    if not 0 < fraction <= 1:
        raise ValueError(f'fraction={fraction} is not allowed; choose from above 0 to 1')
    # half of the last digits' room: the sum of a million shares must reach all of itself
    return int((cumulated < (fraction - 1e-12) * cumulated[-1]).sum())


def _feature_map(module: nn.Module, image: Tensor, feature: Union[int, str, None]) -> Tensor:
    if isinstance(feature, str):
        layers = dict(module.named_modules())
        if feature not in layers:
            raise ValueError(f'feature={feature!r} is no layer of {type(module).__name__}')
        caught: List[Any] = []
        handle = layers[feature].register_forward_hook(lambda layer, args, out: caught.append(out))
        try:
            module(image)
        finally:
            handle.remove()
        out = caught[0] if caught else None
    else:
        out = module(image)
        if isinstance(out, (tuple, list)):
            index = 0 if feature is None and len(out) == 1 else feature
            if index is None or not -len(out) <= index < len(out):
                raise ValueError(f'feature={feature} is not allowed; {type(module).__name__} returns {len(out)} maps, counted '
                                 'from 0')
            out = out[index]
    if not isinstance(out, Tensor) or out.dim() != 4:
        got = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        raise ValueError(f'feature={feature!r} of {type(module).__name__} gives {got}, not a map (B, C, H, W)')
    return out


@contextmanager
def frozen_evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode, and no gradients of parameters, which would only cost time; afterwards all is as it was."""
    modes = [(m, m.training) for m in module.modules()]
    trained = [p for p in module.parameters() if p.requires_grad]
    try:
        for m, _ in modes:  # not by eval(), which a module may have overridden
            m.training = False
        for p in trained:
            p.requires_grad_(False)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in trained:
            p.requires_grad_()
