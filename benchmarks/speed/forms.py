"""A network built, its multiply-adds, and its forms."""
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, ContextManager, Dict, Iterator, Tuple
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

import hybrid_mm.deploy
import hybrid_mm.layers
from hybrid_mm.analysis.mac_counter import counting
from hybrid_mm.errors import SetupError, first_line
from hybrid_mm.layers import ParC2d, SelfOptimalTransport
from hybrid_mm.networks import quiet

from .catalogue import DTYPES, NETWORKS, Entry

_CONFIGS = Path(__file__).resolve().parents[2] / 'configs' / '_base_' / 'backbones'


@lru_cache(maxsize=None)
def has_mmdet() -> bool:
    """Whether MMDetection can be imported, which needs mmcv's compiled operators."""
    try:
        import mmdet.models  # noqa: F401
    except ImportError:
        return False
    return True


def config_of(name: str) -> Dict[str, Any]:
    """Config of a backbone: that of its file, or what stands for it where MMDetection is missing."""
    network = NETWORKS[name]
    cfg = Config.fromfile(_CONFIGS / f'{network.config}.py').backbone
    return dict(network.instead if network.instead and not has_mmdet() else cfg)


def build(name: str) -> nn.Module:
    """A backbone with random weights.

    Raises:
        SetupError: its library is not there.
    """
    cfg = config_of(name)
    torch.manual_seed(0)
    try:
        with quiet(), DefaultScope.overwrite_default_scope('hybrid_mm'):
            return MODELS.build(cfg)
    except (ImportError, KeyError) as error:
        raise SetupError(f'{name} cannot be built, as {cfg["type"]} is not there ({first_line(error)}); install '
                         f'{cfg["type"].partition(".")[0]}, or leave it out with --networks') from error


def facts(name: str, shape: Tuple[int, int, int]) -> Dict[str, Any]:
    """Type, parameters, bytes of the weights, and multiply-adds of a forward pass of a batch; nothing is computed."""
    network = build(name)
    network.eval()
    weights = [*network.parameters(), *network.buffers()]
    batch, height, width = shape
    image = torch.empty(1, 3, height, width, device='meta')
    sizes = dict(parameters=sum(p.numel() for p in network.parameters()), weights=sum(w.nbytes for w in weights))
    with counting({name: network.to('meta')}, image) as counter:
        network(image)
    return dict(type=config_of(name)['type'], macs=batch * sum(counter.counts[name].values()), **sizes)


def has_plain(name: str) -> bool:
    """Whether a network has a plain form other than itself."""
    return NETWORKS[name].group == 'ours'


def plain(network: nn.Module) -> ContextManager:
    """Inside, each layer computes by its definition: ParC as products position by position, transport without fused kernels
    or blocks, and norms, activations and attention unfused where `hybrid_mm.layers` can be told so."""
    stack = ExitStack()
    stack.enter_context(hybrid_mm.layers.plain())
    for module in network.modules():
        if isinstance(module, (ParC2d, SelfOptimalTransport)):
            backend = 'direct' if isinstance(module, ParC2d) else 'plain'
            stack.enter_context(mock.patch.object(module, 'backend', backend))
    return stack


class _Plain(nn.Module):

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        with plain(self.network):
            return self.network(x)


def in_form(network: nn.Module, entry: Entry, dtype: str) -> nn.Module:
    """What is called with images; it has the weights of the network, but for the optimised form, which has copies, in the
    number format itself.

    Raises:
        SetupError: there is no such form here.
    """
    if entry.form == 'plain':
        return _Plain(network)
    if entry.form == 'compiled':
        for name in ('recompile_limit', 'cache_size_limit'):  # one of the two, by the version of torch
            if hasattr(torch._dynamo.config, name):
                setattr(torch._dynamo.config, name, 64)  # our backbones share the code that is compiled
        # sizes are fixed here; that of another network, which ran before, is no reason to make them dynamic
        return torch.compile(network, dynamic=False)
    if entry.form == 'optimised':
        optimise = getattr(hybrid_mm.deploy, 'optimise', None)
        if optimise is None:
            raise SetupError('hybrid_mm.deploy has no optimise; leave --optimise out')
        return optimise(network, dtype=DTYPES[dtype])
    return network


def forms_of(name: str, compiles: bool, optimises: bool, with_plain: bool, mode: str) -> Iterator[Entry]:
    """The entries of a network in a run."""
    yield Entry(name)
    if with_plain and has_plain(name):
        yield Entry(name, 'plain')
    if optimises and mode == 'inference' and NETWORKS[name].group == 'ours':
        yield Entry(name, 'optimised')
    if compiles:
        yield Entry(name, 'compiled')


def torch_dtype(name: str) -> Any:
    """Of automatic mixed precision, None for float32."""
    return DTYPES[name] and getattr(torch, str(DTYPES[name]))
