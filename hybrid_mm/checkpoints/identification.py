"""Which network do these tensors belong to? Keys and shapes answer, compared with the networks themselves."""
import re
from functools import lru_cache
from typing import Any, Dict, Iterable, Iterator, NamedTuple, Optional, Tuple, Union

import torch
from torch import nn

from hybrid_mm.errors import shorten
from hybrid_mm.registry import MODELS

from .conversion import convert, rename_keys
from .fit import Mismatch, Shapes, shapes_of
from .key_maps import KEY_MAPS

Arch = Union[str, int, float]


class Network(NamedTuple):
    """A network that there are public weights of.

    Attributes:
        family: type of our backbone.
        arch: name of its variant, the backbone's first argument.
        is_baseline: is it the network that the family improves on?
    """
    family: str
    arch: Arch
    is_baseline: bool = False

    @property
    def options(self) -> Dict[str, Any]:
        """What our backbone needs beside the arch."""
        return KEY_MAPS[self.family].baseline or {} if self.is_baseline else {}

    @property
    def variant(self) -> str:
        """Such as ``'base'``, or ``'50 with insert_locations=()'``."""
        return ' with '.join([str(self.arch), *(f'{key}={value}' for key, value in self.options.items())])

    def __str__(self) -> str:
        return f'{self.family} {self.variant}'


def identify(state_dict: Dict[str, Any]) -> Tuple[str, Arch]:
    """Family and arch of a released state dict, with or without its classifier.

    Of the networks that our families improve on, such as ResNet-50, it tells the family and arch that they become here;
    `identify_network` tells the two apart.

    Args:
        state_dict: released key -> tensor or array, without a wrapping (see `unwrap`).

    Returns:
        Such as ``('TransCNN', 'base')`` or ``('ParCResNet', 50)``.

    Raises:
        ValueError: some keys are of no family, or the tensors fit no arch of their family; the message names the keys.
    """
    network = identify_network(state_dict)
    return network.family, network.arch


def identify_network(state_dict: Dict[str, Any]) -> Network:
    """As `identify`, and whether it is the family's network or the one that the family improves on."""
    family = guess_family(state_dict)
    if family is None:
        raise ValueError(f'no key is of a known release ({", ".join(KEY_MAPS)}): {shorten(state_dict, 8)}')
    shapes = shapes_of(convert(state_dict, family))
    network = find_network(family, shapes)
    if network is None:
        apart = {network: Mismatch.between(shapes, required(*backbone_shapes(network), shapes))
                 for network in networks(family)}
        closest = min(apart, key=lambda network: len(apart[network]))
        archs = ', '.join(map(str, MODELS.get(family).arch_settings))
        raise ValueError(f'the tensors fit no arch of {family} ({archs}); compared with {closest.variant}, '
                         f'{apart[closest]}')
    return network


def guess_family(keys: Iterable[str]) -> Optional[str]:
    """The family that knows the most of these released keys; None if none knows any."""
    known = {family: len(rename_keys(keys, family, head=True)[0]) for family in KEY_MAPS}
    best = max(known, key=lambda family: known[family])
    return best if known[best] else None


def recognise(tensors: Dict[str, Any]) -> Optional[Network]:
    """The network of these tensors, under the release's keys or ours; None if they make no known backbone."""
    shapes = shapes_of(tensors)
    for family in KEY_MAPS:
        renamed = {name: shapes[key] for key, name in rename_keys(shapes, family)[0].items()}
        network = find_network(family, shapes) or find_network(family, renamed)
        if network:
            return network
    return None


def find_network(family: str, shapes: Shapes) -> Optional[Network]:
    """The network of a family whose backbone has exactly these tensors, under our keys; None if there is none."""
    for network in networks(family):
        for form in range(len(KEY_MAPS[family].forms)):
            if required(*backbone_shapes(network, form), shapes) == shapes:
                return network
    return None


def networks(family: str) -> Iterator[Network]:
    """The networks of a family, those that it improves on behind."""
    for is_baseline in (False, True) if KEY_MAPS[family].baseline else (False, ):
        for arch in MODELS.get(family).arch_settings:
            yield Network(family, arch, is_baseline)


@lru_cache(maxsize=None)
def backbone_shapes(network: Network, form: int = 0) -> Tuple[Shapes, Tuple[str, ...]]:
    """Our key -> shape of a backbone with output norms, and its `optional` keys; no memory is taken for its weights.

    ``form`` is a number among the forms of its family, 0 the release's.
    """
    with torch.device('meta'):
        backbone = MODELS.get(network.family)(
            network.arch, out_norm=True, **KEY_MAPS[network.family].forms[form], **network.options)
    return shapes_of(backbone.state_dict()), optional(backbone)


def optional(backbone: nn.Module) -> Tuple[str, ...]:
    """Patterns of keys that a file may all lack: each stands for a part that is not needed, or has its start.

    They are the norms of outputs, which few releases have, and a classifier for its last output alone; BatchNorm's counters,
    which old files of torchvision do not have; and stages behind the last output, which never run.
    """
    stages = range(len(backbone.stages))
    unused = stages[max(backbone.out_indices) + 1:]
    return (*(rf'out_norms\.{i}\..*' for i in stages), r'.*\.num_batches_tracked',
            *(rf'(downsamples|stages)\.{i}\..*' for i in unused))


def required(model: Dict[str, Any], patterns: Iterable[str], file: Iterable[str]) -> Dict[str, Any]:
    """The part of a model, by our keys, that a file with these keys has to hold: all but `optional` parts that it lacks."""
    absent = [pattern for pattern in patterns if not any(re.fullmatch(pattern, key) for key in file)]
    return {key: value for key, value in model.items() if not any(re.fullmatch(pattern, key) for pattern in absent)}
