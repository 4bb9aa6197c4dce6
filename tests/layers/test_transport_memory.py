"""Memory of self-optimal transport: of the backward pass over the iterations, and over the tokens."""
import weakref

import pytest
import torch
from layers.transport_cases import LOG, MATRIX, WAYS, make, tokens_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakMemory(TorchDispatchMode):
    """Bytes of the tensors that operators made, at their largest."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.alive = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                key, size = storage.data_ptr(), storage.nbytes()
                if size and key not in self.alive:
                    self.alive.add(key)
                    self.now += size
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._free, key, size)
        return out

    def _free(self, key, size):
        self.alive.discard(key)
        self.now -= size


def peak_bytes(layer, x):
    with PeakMemory() as memory:
        layer(x).square().sum().backward()
    return memory.peak


def saved_tensors(layer, x):
    """What the forward pass saves for the backward pass, storage by storage."""
    saved = {}

    def pack(tensor):
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x)
    del out
    return list(saved.values())


def saved_bytes(layer, x):
    return sum(tensor.untyped_storage().nbytes() for tensor in saved_tensors(layer, x))


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('eps', [MATRIX, LOG])
@pytest.mark.parametrize('measure', [peak_bytes, saved_bytes])
def test_memory_of_the_backward_pass_does_not_grow_with_the_iterations(measure, way, eps):
    x = tokens_of(2000, batch=1, dtype=torch.float32)
    used = [measure(make(num_references=16, eps=eps, iterations=iterations, dtype=torch.float32, **WAYS[way])[0], x)
            for iterations in (5, 20, 80)]
    assert used[0] > x.nbytes
    assert max(used) < 1.1 * used[0]


@pytest.mark.parametrize('prior', ['1d', None])
@pytest.mark.parametrize('eps', [MATRIX, LOG])
def test_recomputation_saves_no_plan(prior, eps):
    n, m = 97, 25
    sizes = {}
    for way in WAYS:
        layer, _ = make(num_references=m, prior=prior, eps=eps, **WAYS[way])
        sizes[way] = [tensor.numel() for tensor in saved_tensors(layer, tokens_of(n))]
    for way in ('default', 'plain'):
        assert sizes[way] and not any(size % (n * m) == 0 for size in sizes[way])
    assert any(size % (n * m) == 0 for size in sizes['kept'])


@pytest.mark.parametrize('way', WAYS)
@pytest.mark.parametrize('measure', [peak_bytes, saved_bytes])
@pytest.mark.parametrize('prior', ['1d', None])
def test_memory_grows_linearly_with_the_tokens(measure, way, prior):
    layer, _ = make(num_references=16, prior=prior, dtype=torch.float32, **WAYS[way])
    small, large = (measure(layer, tokens_of(n, batch=1, dtype=torch.float32)) for n in (1000, 4000))
    assert 3.5 * small < large <= 4.2 * small
