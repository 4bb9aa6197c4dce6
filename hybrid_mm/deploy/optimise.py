"""A copy of a network that is ready for inference: fewer operations, the same outputs."""
import copy
from types import new_class
from typing import Any, Callable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils._pytree import tree_map

from hybrid_mm.errors import SetupError, first_line
from hybrid_mm.layers.parc.kept import KeptKernels
from hybrid_mm.layers.tracing import is_symbolic, needs_plain, tensors_in

from .flow import Flow
from .folding import fold_norms
from .packed import pack

DTYPES = dict(bfloat16=torch.bfloat16, float16=torch.float16)
TOLERANCE = 1e-4  # of the largest value of an output: what is more is a fault, not rounding
_FORMATS = dict(channels_last=torch.channels_last, contiguous=torch.contiguous_format)
_FULL = torch.float32
_LOOKED_AT = ((1, (224, 224)), (2, (97, 131)))  # batches and sizes that are looked at; the second where the network takes it
_TRAINS = 'is made ready for inference by hybrid_mm.deploy.optimise and cannot be trained; train the network it was made from'
_LOADS = ('is made ready for inference by hybrid_mm.deploy.optimise: its BatchNorm layers are part of its convolutions, so that '
          'it takes no state dict; load it into the network, and call optimise behind that')
# parameters that their layers take in float32 by themselves, or turn to the dtype of the map
_EXACT = ('ParC2d', 'AxisEmbedding', 'SelfOptimalTransport', 'SelfOptimalTransport2d')


def optimise(network: nn.Module, dtype: Optional[str] = None, memory_format: str = 'auto', compile: bool = False,
             size: Optional[Sequence[int]] = None) -> nn.Module:
    """A copy of a network in evaluation mode, faster, with the same outputs but for rounding; the network is left as it is.

    What is done:

    - BatchNorm becomes part of the convolution before or behind it, where that is exact. The network runs on pictures of noise,
      and who reads what is recorded, so that any network will do: a norm stays where another operation reads what it or the
      convolution gives, where it stands before a convolution that pads, and where layers share weights.
    - On a CPU linear layers and 1x1 convolutions of channels_last maps have their weights packed for oneDNN, activations are
      computed with them, and other activations in place. The packed weights come on top of the ones that there are.
    - What depends on the size of the picture alone is kept, for a few sizes; in layers that do not do so by themselves.
    - With ``dtype``, weights and maps are in half precision, and outputs in float32.

    Args:
        network: a backbone; or a detector, segmentor or classifier of OpenMMLab: then norms are folded in all parts that run
            in its ``mode='tensor'``, or in backbone and neck where that mode wants more than pictures, and the rest is done to
            backbone and neck.
        dtype: ``'bfloat16'`` or ``'float16'``; None keeps float32.
        memory_format: of pictures: ``'auto'`` as the backbone has it; ``'channels_last'``, ``'contiguous'``.
        compile: compile the backbone by ``torch.compile`` for all sizes, when it first runs.
        size: height and width of the pictures that are looked at; by default 224x224, and 97x131 where the network takes these.

    Returns:
        The copy. It is of a subclass of the network's class, records no gradients, and refuses ``train()`` and state dicts with
        a SetupError.

    Raises:
        SetupError: an argument is not allowed, the network does not run on such pictures, or does not give the same outputs.
    """
    for name, value, allowed in (('dtype', dtype, (None, *DTYPES)), ('memory_format', memory_format, ('auto', *_FORMATS))):
        if value not in allowed:
            raise SetupError(f'{name}={value!r} is not allowed; choose from {", ".join(map(str, allowed))}')
    if not isinstance(network, nn.Module):
        raise SetupError(f'network={type(network).__name__} is not allowed; give a backbone, detector, segmentor or classifier')
    if isinstance(network, Ready):
        raise SetupError(f'{type(network).__name__} is made ready for inference already; give the network that it was made from')
    network, run, image = without_norms(network, memory_format, size)
    backbone, neck = getattr(network, 'backbone', network), getattr(network, 'neck', None)
    parts = [part for part in (backbone, neck) if isinstance(part, nn.Module)]
    for part in parts:
        own = part is neck or hasattr(part, 'memory_format')  # a neck takes the maps as they are
        _become_ready(part, 'auto' if own else memory_format)
        _keep_constants(part)
    if not compile and all(tensor.device.type == 'cpu' for tensor in network.parameters()):
        flow = Flow()
        flow.run(network, run, image)
        for part in parts:
            pack(part, flow)
    if dtype is not None:
        for part in parts:
            _to_half(part, DTYPES[dtype])
        try:
            with torch.no_grad():
                run(image)
        except (RuntimeError, NotImplementedError) as error:
            raise SetupError(f'dtype={dtype!r} is not allowed: {type(backbone).__name__} does not run in it here: '
                             f'{first_line(error)}') from error
    if compile:
        backbone.compile(dynamic=True)
    if network is not backbone:
        _become_ready(network)
    return network


def without_norms(network: nn.Module, memory_format: str = 'auto',
                  size: Optional[Sequence[int]] = None) -> Tuple[nn.Module, Callable[[Tensor], Any], Tensor]:
    """A copy in evaluation mode, with norms folded into convolutions; how to run it on pictures, and one of these.

    Arguments and errors are those of `optimise`.
    """
    network = copy.deepcopy(network)
    network.eval()
    network.requires_grad_(False)
    backbone = getattr(network, 'backbone', network)
    if memory_format != 'auto' and hasattr(backbone, 'memory_format'):
        backbone.memory_format = memory_format
    dtypes = {t.dtype for t in (*network.parameters(), *network.buffers()) if t.is_floating_point()}
    try:  # in double precision what is folded wrongly shows beyond doubt, and rounding comes last
        if len(dtypes) == 1:
            network.double()
        run, images, expected = _look(network, backbone, size)
    except SetupError:
        if len(dtypes) != 1:
            raise
        run, images, expected = _look(network.to(*dtypes), backbone, size)
    flow = Flow()
    flow.run(network, run, *images)
    fold_norms(network, flow)
    _compare(network, run, images, expected)
    if len(dtypes) == 1:
        network.to(*dtypes)
        images = [image.to(*dtypes) for image in images]
    return network, run, images[0]


class Ready(nn.Module):
    """What `optimise` puts in front of the class of a network."""
    _dtype: Optional[torch.dtype] = None  # of weights and maps, where outputs are turned back
    _format = 'auto'

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives.

        Raises:
            SetupError: it is asked for gradients or losses.
        """
        if 'loss' in (kwargs.get('mode'), *(arg for arg in args if isinstance(arg, str))):
            raise SetupError(f'{type(self).__name__} {_TRAINS}')
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors_in(args)):
            raise SetupError(f'{type(self).__name__} {_TRAINS}; give it tensors that want no gradient')
        with torch.no_grad():
            out = super().forward(*tree_map(self._take, args), **kwargs)
            return out if self._dtype is None and self._format == 'auto' else tree_map(self._give, out)

    def train(self, mode: bool = True) -> 'Ready':
        if mode:
            raise SetupError(f'{type(self).__name__} {_TRAINS}')
        super().train(mode)
        return self

    def requires_grad_(self, requires_grad: bool = True) -> 'Ready':
        if requires_grad:
            raise SetupError(f'{type(self).__name__} {_TRAINS}')
        return super().requires_grad_(requires_grad)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        raise SetupError(f'{type(self).__name__} {_LOADS}')

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:  # as a part of another module
        raise SetupError(f'{type(self).__name__} {_LOADS}')

    def _take(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        value = value.to(self._dtype or value.dtype)
        return value if self._format == 'auto' or value.ndim != 4 else value.contiguous(memory_format=_FORMATS[self._format])

    def _give(self, value: Any) -> Any:
        # contiguous: mmcv's RoIAlign reads other maps wrongly, without an error
        return value.to(_FULL if value.dtype == self._dtype else value.dtype).contiguous() if isinstance(value, Tensor) else value


class _KeptSizes:
    """GLiT's position embedding at the size of a map, kept for a few sizes."""

    def __init__(self, embedding: Any) -> None:
        self.embedding, self.resize, self.kept = embedding, embedding._patch_embed, KeptKernels()

    def __call__(self, *sizes: int) -> Tensor:
        if needs_plain() or is_symbolic(*sizes):
            return self.resize(*sizes)
        parameter = self.embedding.pos_embed
        return self.kept.get([parameter], (*sizes, parameter.dtype, parameter.device), lambda: (self.resize(*sizes), ))[0]


def _keep_constants(network: nn.Module) -> None:
    """Keep position embeddings of a size; ParC keeps its kernels by itself."""
    for module in network.modules():
        if hasattr(module, '_patch_embed'):
            module._patch_embed = _KeptSizes(module)


def _look(network: nn.Module, backbone: nn.Module,
          size: Optional[Sequence[int]]) -> Tuple[Callable[[Tensor], Any], List[Tensor], List[List[Tensor]]]:
    """How to run a network on pictures, the pictures, of normal noise, and what it gives; at best all of the network runs."""
    conv = next((m for m in backbone.modules() if isinstance(m, _ConvNd)), None)
    channels = 3 if conv is None else conv.in_channels
    like = next(iter(network.parameters()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(batch, channels, *sides, generator=generator).to(like)
              for batch, sides in (_LOOKED_AT if size is None else ((1, size), (2, size)))]
    runs: List[Callable[[Tensor], Any]] = [network]
    if network is not backbone:
        neck = getattr(network, 'neck', None)
        runs = [lambda x: network(x, mode='tensor'), lambda x: backbone(x) if neck is None else neck(backbone(x))]
    fault: Optional[Exception] = None
    for run in runs:
        seen = []
        for image in images:
            try:
                with torch.no_grad():
                    outputs = tensors_in(run(image))
            except Exception as error:  # networks and libraries raise whatever they raise
                fault = fault or error
                break
            seen.append((image, outputs))
        if seen:
            return run, [image for image, _ in seen], [outputs for _, outputs in seen]
    assert fault is not None
    raise SetupError(f'{type(network).__name__} does not run on a picture of {"x".join(map(str, images[0].shape[2:]))} pixels: '
                     f'{first_line(fault)}; give optimise a size that it takes') from fault


def _compare(network: nn.Module, run: Callable[[Tensor], Any], images: List[Tensor], expected: List[List[Tensor]]) -> None:
    """Raise a SetupError where a network gives something else than before."""
    for image, wanted in zip(images, expected):
        with torch.no_grad():
            outputs = tensors_in(run(image))
        for output, was in zip(outputs, wanted):
            deviation = ((output - was).abs().max() / was.abs().max().clamp(min=1e-30)).item() if was.numel() else 0.
            if not deviation <= TOLERANCE:
                raise SetupError(f'{type(network).__name__} cannot be made ready for inference: its outputs would change by '
                                 f'{deviation:.1e} of the largest value, and at most {TOLERANCE:.0e} is allowed')


def _to_half(part: Any, dtype: torch.dtype) -> None:
    exact = {id(tensor) for module in part.modules() if type(module).__name__ in _EXACT for tensor in module._parameters.values()}
    for module in part.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and tensor.is_floating_point() and id(tensor) not in exact:
                    made = tensor.detach().to(dtype)
                    tensors[name] = nn.Parameter(made, requires_grad=False) if tensors is module._parameters else made
    part._dtype = dtype


def _become_ready(network: Any, memory_format: str = 'auto') -> None:
    """Make a network one of a subclass of its class, of the same name."""
    kind = type(network)
    network.__class__ = new_class(kind.__name__, (Ready, kind), exec_body=lambda names: names.update(
        __module__=kind.__module__, __qualname__=kind.__qualname__, __doc__=kind.__doc__))
    network._format = memory_format
