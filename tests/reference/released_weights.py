"""Released networks without their weights: key lists, golden outputs, and the weights those outputs were computed with.

`tests/data/released_<family>.json` holds for each network its family and arch here, its state dict's keys and shapes in
the order of the release (blocks of a stage once, with a count), and for some of them what the release computes in
float64 and evaluation mode on `image` with `weights`: shape, moments and evenly spaced elements of each output. An entry
`name@HxW` has the outputs of network `name` at another size.

Where the outputs are not the maps of the four stages, `places` says where ours are: a number stands for the map of that
number, a name for a module of our backbone; `options` are those of the backbone. `repeats` are the beginnings of the keys
under which the release lists a block once more, and of those of the block itself.
"""
import json
import zlib
from math import prod
from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import torch
from torch import Tensor

DATA = Path(__file__).resolve().parents[1] / 'data'

# Beginnings of the keys behind the last map; where there are two, the first is a norm of the pooled map.
CLASSIFIERS = {
    'TransCNN': ('classifier.1.', ),
    'HATNet': ('classifier.1.', ),
    'GLiT': ('head.', ),
    'ParCResNet': ('fc.', ),
    'ParCMobileNetV2': ('classifier.1.', ),
    'ParCConvNeXt': ('norm.', 'head.'),
    'ParCNet': ('classifier.fc.', ),
}


def _expand(entries: list) -> Dict[str, Tuple[int, ...]]:
    keys = {}
    for entry in entries:
        if isinstance(entry, list):
            key, shape = entry
            keys[key] = tuple(shape)
        else:
            first = entry.get('first', 0)
            for i in range(first, first + entry['times']):
                for key, shape in entry['keys']:
                    keys[entry['repeat'].format(i) + key] = tuple(shape)
    return keys


def _read_entries() -> Dict[str, dict]:
    entries = {}
    for path in sorted(DATA.glob('released_*.json')):
        entries.update(json.loads(path.read_text()))
    return entries


_ENTRIES = _read_entries()
NETWORKS = {name: dict(entry, keys=_expand(entry['keys'])) for name, entry in _ENTRIES.items() if '@' not in name}
GOLDEN = {name: {**NETWORKS[name.split('@')[0]], **entry} for name, entry in _ENTRIES.items() if 'outputs' in entry}


def weights(name: str) -> Dict[str, Tensor]:
    """State dict of a released network, every value a function of its key and shape alone (float32; counters int64)."""
    network = NETWORKS[name.split('@')[0]]
    state_dict = fill(network['keys'], network.get('gain', 1.))
    if 'repeats' in network:
        again, listed = network['repeats']
        state_dict.update({key: state_dict[listed + key[len(again):]] for key in state_dict if key.startswith(again)})
    return state_dict


def fill(shapes: Dict[str, Tuple[int, ...]], gain: float = 1.) -> Dict[str, Tensor]:
    """Key -> shape to key -> value, by the rule of `weights`."""
    return {key: torch.from_numpy(_fill(key, shape, gain)) for key, shape in shapes.items()}


def empty_weights(name: str) -> Dict[str, Tensor]:
    """State dict of a released network with shapes and no values, on the meta device."""
    return {key: torch.empty(shape, device='meta') for key, shape in NETWORKS[name]['keys'].items()}


def dense_names(name: str) -> Dict[str, str]:
    """Released key -> key in the authors' code for detection and segmentation, for the backbone of a ParC network."""
    family = NETWORKS[name]['family']
    names = {}
    for key in NETWORKS[name]['keys']:
        if key.startswith(CLASSIFIERS[family]):
            continue
        dense = key
        if family == 'ParCResNet':
            dense = key.replace('.parc_', '.gcc_')
        elif family == 'ParCMobileNetV2':
            _, number, inside = key.split('.', 2)
            dense = f'{_mobilenet_place(int(number))}.{inside}'
        elif family == 'ParCConvNeXt':
            for axis in ('1H', '2W'):
                dense = dense.replace(f'gcc_{axis[1]}.pe', f'gcc_conv_{axis}.meta_pe')
                dense = dense.replace(f'gcc_{axis[1]}.gcc_conv', f'gcc_conv_{axis}')
        names[key] = dense
    return names


def _mobilenet_place(number: int) -> str:
    if number in (0, 18):
        return 'conv1' if number == 0 else 'conv2'
    first_of_layer = (1, 2, 4, 7, 11, 14, 17)
    layer = sum(number >= first for first in first_of_layer)
    return f'layer{layer}.{number - first_of_layer[layer - 1]}'


def image(name: str) -> Tensor:
    """Standard normal float64 batch (B, 3, H, W) that the golden outputs of a network belong to."""
    return torch.from_numpy(np.random.default_rng(2106).standard_normal(GOLDEN[name]['input']))


def deviation(output: Tensor, golden: dict) -> float:
    """Largest distance of an output from its golden elements and moments, in units of the golden standard deviation.

    The data keep nine digits of each number, so a distance counts from where their rounding ends: for an element of
    13.048199 at a deviation of 4.3, rounding alone makes up to 1.2e-8.
    """
    flat = output.detach().numpy().ravel()
    listed = np.linspace(0, flat.size - 1, len(golden['values'])).astype(int)
    ours = np.array([*flat[listed], flat.mean(), flat.std(), np.abs(flat).mean()])
    theirs = np.array([*golden['values'], golden['mean'], golden['std'], golden['abs_mean']])
    size = np.abs(theirs)
    magnitude = np.floor(np.log10(size, out=np.full_like(size, -np.inf), where=size > 0))  # a zero is exact
    rounding = 0.5 * 10.**(magnitude - 8)
    return float(np.maximum(np.abs(ours - theirs) - rounding, 0).max() / golden['std'])


def _fill(key: str, shape: Tuple[int, ...], gain: float) -> np.ndarray:
    kind = key.rsplit('.', 1)[-1]
    draw = np.random.default_rng(zlib.crc32(key.encode()))
    if kind == 'num_batches_tracked':
        return np.zeros(shape, np.int64)
    if kind == 'running_var':
        return draw.uniform(0.5, 1.5, shape).astype(np.float32)
    noise = draw.standard_normal(shape)
    if len(shape) > 1:  # variance gain^2 over the fan-in
        return (gain * noise / np.sqrt(prod(shape[1:]))).astype(np.float32)
    if kind == 'weight':  # the scale of a norm
        return (1 + 0.1 * noise).astype(np.float32)
    return (0.1 * noise).astype(np.float32)
