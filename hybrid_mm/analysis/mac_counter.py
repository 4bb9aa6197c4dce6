"""Multiply-accumulates of what runs, counted operator by operator from shapes alone.

The formulae of matrix products and convolutions are those of PyTorch's own counter, `torch.utils.flop_counter`, halved, as it
counts 2 a multiply-accumulate; `mac_formulae` has those that it lacks. Here is what its `FlopCounterMode` does not tell:
whether a product is a linear map of features or one of features with features, attention's, and the part of a network that it
belongs to where a module's ``forward`` is called instead of the module.

This file needs torch, its neighbour and the layers alone; mmcv's operators are counted where it is installed.
"""
import math
from collections import Counter, defaultdict
from contextlib import ExitStack, contextmanager
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Set, Tuple
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from hybrid_mm.layers import ParC2d, SelfOptimalTransport
from hybrid_mm.layers.transport import plain, sinkhorn

from .mac_formulae import FORMULAE, MOVES, PRODUCTS, aten


class MacCounter(TorchDispatchMode):
    """Counts the multiply-accumulates of all operators that run while it is entered, in inference mode.

    Which tensors depend on the ``inputs``, and so are features, is followed through all operators. A product of two features
    counts as attention's, one of a feature and weights as a linear map. What depends on weights alone does not count: it is
    the same for all images.

    Args:
        inputs: tensors that stand for features: the image, and whatever else is to count as such.

    Attributes:
        counts: part -> kind of work -> multiply-accumulates. Parts are those of `within`, 'rest' outside of all.
        uncounted: operators that ran and compute, but count zero.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.counts: Dict[str, Counter] = defaultdict(Counter)
        self.uncounted: Set[str] = set()
        self._part = 'rest'
        self._kind: Optional[str] = None
        self._features: Dict[int, object] = {}  # storages, kept alive so that their addresses are not used again
        self.mark(inputs)

    def add(self, kind: str, macs: float) -> None:
        """Count work in the part that runs, of this kind unless `within` says another."""
        self.counts[self._part][self._kind or kind] += round(macs)

    @contextmanager
    def within(self, part: Optional[str] = None, kind: Optional[str] = None) -> Iterator[None]:
        """What runs inside belongs to a part, or is work of a kind."""
        before = self._part, self._kind
        self._part, self._kind = part or self._part, kind or self._kind
        self.counts[self._part]  # parts in the order in which they run
        try:
            yield
        finally:
            self._part, self._kind = before

    def features(self, *shape: int) -> Tensor:
        """A tensor that stands for features, on the meta device."""
        out = torch.empty(shape, device='meta')
        self.mark([out])
        return out

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if packet not in PRODUCTS and packet not in FORMULAE:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        if any(map(self._is_feature, tree_leaves((args, kwargs)))):
            self._count(func, args, kwargs, out)
            self.mark(tree_leaves(out))
        return out

    def _count(self, func, args: tuple, kwargs: dict, out: object) -> None:
        packet = func._overloadpacket
        if packet in PRODUCTS:
            self._count_product(packet, args, out)
            return
        if packet in FORMULAE:
            kind, formula = FORMULAE[packet]
            macs = formula(out, *args, **kwargs)
            if macs:
                self.add(kind, macs)
                return
        if not (func.is_view or packet.__name__ in MOVES or packet.__name__.startswith(('split', 'unsafe_split'))):
            self.uncounted.add(packet.__name__.strip('_'))

    def _count_product(self, packet, args: tuple, out: Tensor) -> None:
        factors = [args[i] for i in PRODUCTS[packet]]
        if packet in flop_registry:
            macs = flop_registry[packet](*args, out_val=out) // 2
        else:  # with a vector
            macs = factors[0].numel()
        if out.is_complex():
            self.add('FFT', 4 * macs)
        elif packet is aten.convolution:
            self.add('convolution', macs)
        else:
            self.add('attention' if all(map(self._is_feature, factors)) else 'linear', macs)

    def _is_feature(self, leaf: object) -> bool:
        return isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata in self._features

    def mark(self, leaves: Sequence[object]) -> None:
        """Tensors among these, and all views of them, are features from now on."""
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()  # that of a map is its views' too
                self._features[storage._cdata] = storage


@contextmanager
def counting(parts: Dict[str, nn.Module], image: Tensor) -> Iterator[MacCounter]:
    """Count what runs inside, in inference mode on the meta device, where tensors have shapes and no values.

    Args:
        parts: name -> module. What a module computes belongs to its part, whether it is called or its ``forward`` is, and
            what a module inside computes to that one's, if it has one.
        image: the input.
    """
    modules = list(dict.fromkeys(module for part in parts.values() for module in part.modules()))
    transports = [module for module in modules if isinstance(module, SelfOptimalTransport)]
    # the references stand for the tokens of the training set, and their products for attention's
    references = [p for module in transports for p in (module.references, module.centres) if p is not None]
    counter = MacCounter([image, *references])
    with ExitStack() as stack:

        def replace(owner: object, name: str, value: object) -> None:
            stack.enter_context(mock.patch.object(owner, name, value))

        for name, part in parts.items():
            for module in _callable(part):
                replace(module, 'forward', counter.within(part=name)(module.forward))
        for module in modules:
            if isinstance(module, ParC2d) and module.backend == 'auto':
                # the operator as it is defined; which way is the fastest is the device's matter
                replace(module, 'backend', 'direct')
        for module in transports:
            replace(module, 'backend', 'plain')  # the fused kernels do the same, unseen
        for name in ('times_rows', 'times_columns'):  # sums of the plan's rows and columns
            product = counter.within(kind='Sinkhorn')(getattr(sinkhorn, name))
            for module in (sinkhorn, plain):
                replace(module, name, product)
        for owner, forward in _mmcv_operators(counter):
            replace(owner, 'forward', staticmethod(forward))
        stack.enter_context(torch.inference_mode())
        stack.enter_context(counter)
        yield counter


def _callable(module: nn.Module) -> Iterator[nn.Module]:
    """The module, or what is in it if it is a list, which nobody calls."""
    if not isinstance(module, (nn.ModuleList, nn.ModuleDict)):
        yield module
        return
    for child in module.children():
        yield from _callable(child)


def _mmcv_operators(counter: MacCounter) -> List[Tuple[object, Callable]]:
    """mmcv's compiled operators, which need values, where they are installed; with functions that give shapes and count."""
    try:
        from mmcv.ops.carafe import CARAFEFunction
        from mmcv.ops.deform_conv import DeformConv2dFunction
        from mmcv.ops.modulated_deform_conv import ModulatedDeformConv2dFunction
        from mmcv.ops.roi_align import RoIAlignFunction
    except ImportError:
        return []

    def deformable(x: Tensor, offset: Tensor, weight: Tensor, products: int) -> Tensor:
        out = counter.features(x.shape[0], weight.shape[0], *offset.shape[2:])
        counter.add('convolution', out.numel() * weight[0].numel())
        samples = x.shape[0] * x.shape[1] * math.prod(weight.shape[2:]) * math.prod(offset.shape[2:])
        counter.add('resize', products * samples)  # 4 of a bilinear sample, 1 more where it is modulated
        return out

    def deform_conv(ctx, x, offset, weight, *args):
        return deformable(x, offset, weight, 4)

    def modulated_deform_conv(ctx, x, offset, mask, weight, *args):
        return deformable(x, offset, weight, 5)

    def carafe(ctx, x, masks, kernel_size, *args):
        out = counter.features(*x.shape[:2], *masks.shape[2:])
        counter.add('resize', out.numel() * kernel_size**2)
        return out

    def roi_align(ctx, x, rois, output_size, *args):
        counter.uncounted.add('RoIAlign')  # its samples depend on the boxes
        size = (output_size, ) * 2 if isinstance(output_size, int) else output_size
        return counter.features(rois.shape[0], x.shape[1], *size)

    return [(DeformConv2dFunction, deform_conv), (ModulatedDeformConv2dFunction, modulated_deform_conv),
            (CARAFEFunction, carafe), (RoIAlignFunction, roi_align)]
