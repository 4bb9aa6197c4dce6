"""References of self-optimal transport from K-means over the tokens of training images (arXiv 2401.03540).

The paper takes its references from K-means over features of the training set. From random references a plan can be nearly
uniform, and the exchange then little more than a mean; from centres of clusters it tells tokens apart at once.

The clustering needs faiss, and prior '2d' scipy.
"""
import copy
import itertools
import math
from importlib.util import find_spec
from typing import Any, Dict, Iterable, Iterator, List, NamedTuple, Optional, Tuple

import numpy as np
import torch
import torch.nn.functional as F
from mmengine.device import get_device
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, set_random_seed
from mmengine.utils.dl_utils import set_multi_processing
from torch import Tensor, nn

from hybrid_mm.data.guarded_pipeline import guard
from hybrid_mm.errors import SetupError
from hybrid_mm.layers import SelfOptimalTransport2d
from hybrid_mm.layers.transport.definition import row_entropy
from hybrid_mm.networks import build_model, quiet

from .effective_receptive_field import frozen_evaluation


class Sample(NamedTuple):
    """Tokens that came into a block."""
    tokens: List[Tensor]  # (n, C) for each image, on the CPU
    positions: Tensor  # (N, 2), of all tokens in a row: row and column in [0, 1]; with prior '1d' the place in the sequence and 0


class BlockEntropy(NamedTuple):
    """Entropy of the plan's rows as a share of the largest possible, mean over tokens and heads."""
    name: str  # of the block's token mixer in the backbone
    before: float  # with the references that it had
    after: float  # with the centres


def kmeans_references(backbone: nn.Module, images: Iterable[Tensor], tokens: int = 64, seed: int = 0) -> Iterator[BlockEntropy]:
    """Replace the references of all blocks by centres of clusters, from one pass over the images.

    The pass runs the network as it is, so the tokens of a block come from the old references of the blocks in front of it.

    Args:
        backbone: has blocks with `SelfOptimalTransport2d`; it runs in evaluation mode and is left in the mode it was in.
        images: batches (B, 3, H, W) of normalised images, on the backbone's device.
        tokens: random positions of each map that are kept. A map with fewer gives all.
        seed: of the choice of positions and of K-means.

    Yields:
        One entry a block, as soon as it has its new references. Both entropies are of plans of the kept tokens, image by image.

    Raises:
        SetupError: the backbone has no such block, a block has seen fewer tokens than it has references, or faiss or scipy is
            missing.
    """
    blocks = find_blocks(backbone)
    require_libraries(blocks)
    for name, sample in sample_tokens(backbone, images, tokens, seed).items():
        layer = blocks[name]
        before = _entropy(layer, sample.tokens)
        with torch.no_grad():
            layer.references.copy_(find_references(layer, sample, seed, name))
        yield BlockEntropy(name, before, _entropy(layer, sample.tokens))


def find_blocks(backbone: nn.Module) -> Dict[str, SelfOptimalTransport2d]:
    """The self-optimal transports of a network by name; a `SetupError` if there are none."""
    blocks = {name: module for name, module in backbone.named_modules() if isinstance(module, SelfOptimalTransport2d)}
    if not blocks:
        raise SetupError(f'the backbone {type(backbone).__name__} has no self-optimal transport, whose references K-means '
                         "could make; choose hybrid_mm.SeTformer with attention='transport'")
    return blocks


def require_libraries(blocks: Dict[str, SelfOptimalTransport2d]) -> None:
    """See that faiss, and scipy for prior '2d', are installed; a `SetupError` says what to install."""
    has_grid = any(layer.prior == '2d' for layer in blocks.values())
    for module, package, where in [('faiss', 'faiss-cpu', ''), *([('scipy', 'scipy', " with prior='2d'")] if has_grid else [])]:
        if find_spec(module) is None:
            raise SetupError(f'K-means of references{where} needs {module}, not installed here; run `pip install {package}`')


@torch.no_grad()
def sample_tokens(backbone: nn.Module, images: Iterable[Tensor], tokens: int, seed: int) -> Dict[str, Sample]:
    """A random sample of the tokens that come into each block; the arguments are those of `kmeans_references`."""
    generator = torch.Generator().manual_seed(seed)
    blocks = find_blocks(backbone)
    kept: Dict[str, List[Tuple[Tensor, Tensor]]] = {name: [] for name in blocks}

    def keep(name: str, layer: SelfOptimalTransport2d, x: Tensor) -> None:
        H, W = x.shape[2:]
        for image in x.flatten(2).transpose(1, 2):  # (B, C, H, W) -> (H*W, C) each
            chosen = torch.randperm(H * W, generator=generator)[:tokens]
            kept[name].append((image[chosen.to(x.device)].float().cpu(), _positions(chosen, H, W, layer.prior)))

    handles = [layer.register_forward_pre_hook(lambda layer, args, name=name: keep(name, layer, *args))
               for name, layer in blocks.items()]
    try:
        with frozen_evaluation(backbone):
            for batch in images:
                backbone(batch)
    finally:
        for handle in handles:
            handle.remove()
    # a block behind the last output does not run and needs no references
    return {name: Sample([tokens for tokens, _ in pairs], torch.cat([positions for _, positions in pairs]))
            for name, pairs in kept.items() if pairs}


@torch.no_grad()
def find_references(layer: SelfOptimalTransport2d, sample: Sample, seed: int = 0, name: str = 'the block') -> Tensor:
    """Centres of the unit-norm values of each head, in the order of the references' places: unit vectors (h, m, d).

    Args:
        layer: the token mixer.
        sample: tokens that came into it, at least as many as it has references.
        seed: of K-means.
        name: of the layer, for the message.
    """
    count = sum(map(len, sample.tokens))
    if count < layer.num_references:
        raise SetupError(f'{name} has {layer.num_references} references and has seen {count} tokens in {len(sample.tokens)} '
                         'images; choose more images, or more tokens an image')
    weight = layer.value.weight
    values = torch.cat([layer.value(tokens.to(weight.device, weight.dtype)).float().cpu() for tokens in sample.tokens])
    heads = F.normalize(values.unflatten(1, (layer.num_heads, -1)), dim=-1).unbind(1)  # (N, C) -> h times (N, d)
    references = []
    for head in heads:
        centres, labels = spherical_kmeans(head, layer.num_references, seed)
        places = mean_positions(labels, sample.positions, layer.num_references)
        references.append(centres[order_of_centres(places, layer.prior)])
    return torch.stack(references)


def spherical_kmeans(vectors: Tensor, num_centres: int, seed: int = 0) -> Tuple[Tensor, Tensor]:
    """K-means of unit vectors by their inner products: unit centres (m, d), and the index of each vector's centre, (N,).

    Args:
        vectors: (N, d), float32, N at least m.
        num_centres: m.
        seed: of the first centres, and of the choice of at most 256 vectors a centre.
    """
    import faiss
    faiss.omp_set_num_threads(torch.get_num_threads())
    kmeans = faiss.Kmeans(vectors.shape[1], num_centres, niter=25, spherical=True, seed=seed, min_points_per_centroid=1)
    vectors = np.ascontiguousarray(vectors.numpy())
    kmeans.train(vectors)
    _, labels = kmeans.assign(vectors)
    return torch.from_numpy(np.array(kmeans.centroids)), torch.from_numpy(np.array(labels)).long()


def mean_positions(labels: Tensor, positions: Tensor, num_centres: int) -> Tensor:
    """Mean position of the tokens of each centre, (m, 2), from the index of each token's centre, (N,), and positions (N, 2).

    The middle of the map where a centre has no tokens.
    """
    middle = positions.new_full((num_centres, 2), 0.5)
    return middle.scatter_reduce(0, labels[:, None].expand(-1, 2), positions, 'mean', include_self=False)


def order_of_centres(places: Tensor, prior: Optional[str]) -> Tensor:
    """Index of the centre of each reference, (m,), so that the position prior meets the tokens that a centre stands for.

    Args:
        places: mean position of each centre's tokens, (m, 2).
        prior: '2d': references lie on a square grid, and the squared distances between cells and the centres' places have the
            least sum; '1d': in the order of the sequence; None: as they come.
    """
    if prior == '2d':
        side = math.isqrt(len(places))
        middles = (torch.arange(side) + 0.5) / side
        cells = torch.cartesian_prod(middles, middles)  # as position_prior_2d lays them
        distances = (cells[:, None] - places).square().sum(-1)
        from scipy.optimize import linear_sum_assignment
        return torch.from_numpy(linear_sum_assignment(distances.numpy())[1])
    if prior == '1d':
        return places[:, 0].argsort()
    return torch.arange(len(places))


# ---- configs ----


def build_backbone(cfg: Any, seed: int = 0) -> nn.Module:
    """The model of a config, in evaluation mode on the GPU if there is one; its backbone starts as ``init_cfg`` says.

    Args:
        cfg: config of a detector, segmentor or classifier, whose backbone has self-optimal transports.
        seed: of random weights.
    """
    init_default_scope(cfg.default_scope)
    set_random_seed(seed)
    model = build_model(cfg, init='none')
    find_blocks(model.backbone)
    with quiet():
        model.backbone.init_weights()
    return model.to(get_device())


def training_images(cfg: Any, model: nn.Module, number: int, seed: int = 0) -> Tuple[Iterator[Tensor], int]:
    """Training images of a config, augmented as in training and normalised, one by one.

    A batch of one image has no padding to the size of another, and no image comes twice, whatever the sampler of the training.

    Args:
        cfg: the config.
        model: its model, for the data preprocessor.
        number: images wanted.
        seed: of their order and augmentation.

    Returns:
        Batches (1, 3, H, W) on the model's device, and how many there will be: less than ``number`` if the data are.
    """
    set_multi_processing(**cfg.get('env_cfg', {}).get('mp_cfg', {}))
    set_random_seed(seed)
    loader_cfg = copy.deepcopy(cfg.train_dataloader)
    loader_cfg.pop('batch_sampler', None)
    loader_cfg.update(batch_size=1, sampler=dict(type='DefaultSampler', shuffle=True))
    loader = Runner.build_dataloader(loader_cfg, seed=seed)
    guard(loader.dataset, 'train_dataloader.dataset')
    number = min(number, len(loader.dataset))
    # without Mixup and CutMix, and without padding to the size of the crop
    images = (model.data_preprocessor(data, training=False)['inputs'] for data in itertools.islice(loader, number))
    return images, number


def _positions(chosen: Tensor, height: int, width: int, prior: Optional[str]) -> Tensor:
    """Places of the chosen positions of a map, as the prior has them: (n,) -> (n, 2)."""
    if prior == '1d':
        return torch.stack([chosen / (height * width), torch.zeros(len(chosen))], -1)
    rows, columns = chosen // width, chosen % width
    return torch.stack([(rows + 0.5) / height, (columns + 0.5) / width], -1)


@torch.no_grad()
def _entropy(layer: SelfOptimalTransport2d, images: List[Tensor]) -> float:
    entropies = [row_entropy(layer.plan(tokens[None].to(layer.references.device))) for tokens in images]  # (1, h, n) each
    return sum(float(entropy.sum()) for entropy in entropies) / sum(entropy.numel() for entropy in entropies)
