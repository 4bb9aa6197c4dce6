"""Which network do these tensors belong to? Keys and shapes answer, compared with the networks themselves."""
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Dict, Iterable, List, Optional, Tuple

import torch

from hybrid_mm.registry import MODELS

from .conversion import convert, list_keys, rename_keys
from .key_maps import KEY_MAPS

Shapes = Dict[str, Tuple[int, ...]]


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
            parts.append(f'the file lacks {list_keys(self.missing)}')
        if self.unexpected:
            parts.append(f'the model has no {list_keys(self.unexpected)}')
        if self.reshaped:
            shapes = (f'{key} {file} instead of {model}' for key, (file, model) in self.reshaped.items())
            parts.append(f'the file has the shapes {list_keys(shapes)}')
        return '; '.join(parts)


def identify(state_dict: Dict[str, Any]) -> Tuple[str, str]:
    """Family and arch of a released state dict, with or without its classifier.

    Args:
        state_dict: released key -> tensor or array, without a wrapping (see `unwrap`).

    Returns:
        Such as ``('TransCNN', 'base')``.

    Raises:
        ValueError: some keys are of no family, or the tensors fit no arch of their family; the message names the keys.
    """
    family = guess_family(state_dict)
    if family is None:
        raise ValueError(f'no key is of a known release ({", ".join(KEY_MAPS)}): {list_keys(state_dict)}')
    shapes = shapes_of(convert(state_dict, family))
    arch = find_arch(family, shapes)
    if arch is None:
        archs = MODELS.get(family).arch_settings
        apart = {name: Mismatch.between(shapes, backbone_shapes(family, name)) for name in archs}
        closest = min(apart, key=lambda name: len(apart[name]))
        raise ValueError(f'the tensors fit no arch of {family} ({", ".join(archs)}); compared with {closest}, '
                         f'{apart[closest]}')
    return family, arch


def guess_family(keys: Iterable[str]) -> Optional[str]:
    """The family that knows the most of these released keys; None if none knows any."""
    known = {family: len(rename_keys(keys, family, head=True)[0]) for family in KEY_MAPS}
    best = max(known, key=known.get)
    return best if known[best] else None


def recognise(tensors: Dict[str, Any]) -> Optional[str]:
    """``'TransCNN base'``, say, for tensors under the release's keys or ours; None if they make no known backbone."""
    shapes = shapes_of(tensors)
    for family in KEY_MAPS:
        renamed = {name: shapes[key] for key, name in rename_keys(shapes, family)[0].items()}
        arch = find_arch(family, shapes) or find_arch(family, renamed)
        if arch:
            return f'{family} {arch}'
    return None


def find_arch(family: str, shapes: Shapes) -> Optional[str]:
    """The arch of a family whose backbone has exactly these tensors, under our keys; None if there is none."""
    for arch in MODELS.get(family).arch_settings:
        if backbone_shapes(family, arch) == shapes:
            return arch
    return None


@lru_cache(maxsize=None)
def backbone_shapes(family: str, arch: str) -> Shapes:
    """Our key -> shape of a backbone in the form of the release; no memory is taken for its weights."""
    with torch.device('meta'):
        return shapes_of(MODELS.get(family)(arch=arch).state_dict())


def shapes_of(tensors: Dict[str, Any]) -> Shapes:
    """Key -> shape of each tensor or array."""
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}
