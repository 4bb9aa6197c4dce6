"""Released networks without their weights: key lists, golden outputs, and the weights those outputs were computed with.

`tests/data/released_<family>.json` holds for each network its family and arch here, its state dict's keys and shapes in
the order of the release (blocks of a stage once, with a count), and for some of them what the release computes in
float64 and evaluation mode on `image` with `weights`: shape, moments and evenly spaced elements of each output.
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


def _expand(entries: list) -> Dict[str, Tuple[int, ...]]:
    keys = {}
    for entry in entries:
        if isinstance(entry, list):
            key, shape = entry
            keys[key] = tuple(shape)
        else:
            for i in range(entry['times']):
                for key, shape in entry['keys']:
                    keys[entry['repeat'].format(i) + key] = tuple(shape)
    return keys


def _read_networks() -> Dict[str, dict]:
    networks = {}
    for path in sorted(DATA.glob('released_*.json')):
        for name, network in json.loads(path.read_text()).items():
            networks[name] = dict(network, keys=_expand(network['keys']))
    return networks


NETWORKS = _read_networks()
GOLDEN = [name for name, network in NETWORKS.items() if 'outputs' in network]


def weights(name: str) -> Dict[str, Tensor]:
    """State dict of a released network, every value a function of its key and shape alone (float32; counters int64)."""
    network = NETWORKS[name]
    return {key: torch.from_numpy(_fill(key, shape, network.get('gain', 1.))) for key, shape in network['keys'].items()}


def empty_weights(name: str) -> Dict[str, Tensor]:
    """State dict of a released network with shapes and no values, on the meta device."""
    return {key: torch.empty(shape, device='meta') for key, shape in NETWORKS[name]['keys'].items()}


def image(name: str) -> Tensor:
    """Standard normal float64 batch (B, 3, H, W) that the golden outputs of a network belong to."""
    return torch.from_numpy(np.random.default_rng(2106).standard_normal(NETWORKS[name]['input']))


def deviation(output: Tensor, golden: dict) -> float:
    """Largest distance of an output from its golden elements and moments, in units of the golden standard deviation.

    The data keep nine digits of each number, so a distance counts from where their rounding ends: for an element of
    13.048199 at a deviation of 4.3, rounding alone makes up to 1.2e-8.
    """
    flat = output.detach().numpy().ravel()
    listed = np.linspace(0, flat.size - 1, len(golden['values'])).astype(int)
    ours = np.array([*flat[listed], flat.mean(), flat.std(), np.abs(flat).mean()])
    theirs = np.array([*golden['values'], golden['mean'], golden['std'], golden['abs_mean']])
    rounding = 0.5 * 10.**(np.floor(np.log10(np.abs(theirs))) - 8)
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
