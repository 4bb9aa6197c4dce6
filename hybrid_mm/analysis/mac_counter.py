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
from importlib import import_module
from typing import Callable, Dict, Iterator, List, Sequence, Set

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
        counts: part -> kind of work -> multiply-accumulates. Parts are those of `scope`, 'rest' outside of all.
        uncounted: operators that ran and compute, but count zero.
    """

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.counts: Dict[str, Counter] = defaultdict(Counter)
        self.uncounted: Set[str] = set()
        self._parts: List[str] = ['rest']
        self._kinds: List[str] = []
        self._features = {}  # storages, kept alive so that their addresses are not used again
        self.mark(inputs)

    def add(self, kind: str, macs: float) -> None:
        """Count work of a kind in the part that runs."""
        self.counts[self._parts[-1]][self._kinds[-1] if self._kinds else kind] += round(macs)

    @contextmanager
    def scope(self, part: str) -> Iterator[None]:
        """What runs inside belongs to a part."""
        self.counts[part]  # parts in the order in which they run
        self._parts.append(part)
        try:
            yield
        finally:
            self._parts.pop()

    @contextmanager
    def kind(self, kind: str) -> Iterator[None]:
        """What is counted inside is work of this kind."""
        self._kinds.append(kind)
        try:
            yield
        finally:
            self._kinds.pop()

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


# ---- networks ----


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
        for name, part in parts.items():
            for module in _callable(part):
                forward = _scoped(counter, name, module.forward)
                stack.enter_context(_replaced(module, 'forward', forward))
        for module in modules:
            if isinstance(module, ParC2d) and module.backend == 'auto':
                # the operator as it is defined; which way is the fastest is the device's matter
                stack.enter_context(_replaced(module, 'backend', 'direct'))
        for module in transports:
            stack.enter_context(_replaced(module, 'backend', 'plain'))  # the fused kernels do the same, unseen
        for name in ('times_rows', 'times_columns'):  # sums of the plan's rows and columns
            product = _of_kind(counter, 'Sinkhorn', getattr(sinkhorn, name))
            for module in (sinkhorn, plain):
                stack.enter_context(_replaced(module, name, product))
        _enter_mmcv(stack, counter)
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


@contextmanager
def _replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Put a value in the place of an attribute."""
    is_own = name in vars(owner)
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before) if is_own else delattr(owner, name)


def _scoped(counter: MacCounter, part: str, function: Callable) -> Callable:

    def scoped(*args, **kwargs):
        with counter.scope(part):
            return function(*args, **kwargs)

    return scoped


def _of_kind(counter: MacCounter, kind: str, function: Callable) -> Callable:

    def of_kind(*args, **kwargs):
        with counter.kind(kind):
            return function(*args, **kwargs)

    return of_kind


# ---- mmcv's operators, which need values; here they give shapes ----


def _enter_mmcv(stack: ExitStack, counter: MacCounter) -> None:
    """Put shapes and formulae in the place of mmcv's compiled operators, where they are installed."""
    try:
        ops = {name: import_module(f'mmcv.ops.{name}')
               for name in ('carafe', 'deform_conv', 'modulated_deform_conv', 'roi_align')}
    except ImportError:
        return

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

    for owner, forward in ((ops['deform_conv'].DeformConv2dFunction, deform_conv),
                           (ops['modulated_deform_conv'].ModulatedDeformConv2dFunction, modulated_deform_conv),
                           (ops['carafe'].CARAFEFunction, carafe), (ops['roi_align'].RoIAlignFunction, roi_align)):
        stack.enter_context(_replaced(owner, 'forward', staticmethod(forward)))
