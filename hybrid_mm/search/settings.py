"""The part `search` of a config, and what else a search reads from it."""
import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Dict, Optional, Sequence, Union

from hybrid_mm.backbones.glit import default_global_blocks

from .cost import CostModel
from .evolution import Evolution, Hierarchical, RandomSearch
from .space import SearchSpace

STRATEGIES = ('hierarchical', 'flat', 'random')
STAGES = ('all', 'distribution', 'details')
SUPERNET = 'hybrid_mm.GLiTSupernet'
_METRICS = dict(mmdet='coco/bbox_mAP', mmseg='mIoU', mmpretrain='accuracy/top1')


@dataclass(frozen=True)
class SearchSettings:
    """What a search does; ``search = dict(...)`` in a config, partly replaced by options of `tools/search/search.py`.

    Attributes:
        metric: what to maximise, a name that the config's ``val_evaluator`` returns. By default top-1 accuracy, mIoU or box
            mAP, by the config's library.
        limit_gmacs: limit of a candidate's true MACs, in 10^9, at ``image_size``; None for none.
        image_size: height and width in pixels, or one number for both, for MACs alone.
        details: K, E, d_k and d_z of all blocks while a hierarchical search looks for the distribution.
        seed: of the search.
        strategy: hierarchical, flat or random.
        stage: of a hierarchical search: distribution, details, or all, one after the other with the same supernet. By default
            what the space leaves open: the details where each block has one G, the distribution where details are fixed.
        population, generations, parents, mutations, crossovers, mutation_rate, tries: see `Evolution`; generations are those of
            all stages together.
        bn_batches, bn_batch_size: training images from which BatchNorm's statistics are estimated for each candidate.
        val_images: images of the validation data on which a candidate is evaluated, evenly spaced; None for all.
        cache: keep these images in memory, as loaded, in each process.
        top: number of the best candidates whose configs are written.
        retrain: settings in the configs of what was found that differ from those of the search, such as the number of epochs.
    """
    metric: Optional[str] = None
    limit_gmacs: Optional[float] = None
    image_size: Union[int, Sequence[int]] = 224
    details: Dict[str, float] = field(default_factory=lambda: dict(K=31, E=2, d_k=1, d_z=4))
    seed: int = 0
    strategy: str = 'hierarchical'
    stage: Optional[str] = None
    population: int = 50
    generations: int = 20
    parents: int = 10
    mutations: int = 25
    crossovers: int = 25
    mutation_rate: float = 0.1
    tries: int = 10
    bn_batches: int = 200
    bn_batch_size: int = 128
    val_images: Optional[int] = 8000
    cache: bool = False
    top: int = 5
    retrain: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f'strategy={self.strategy!r} is unknown; choose from {", ".join(STRATEGIES)}')
        if self.stage is not None and self.stage not in STAGES:
            raise ValueError(f'stage={self.stage!r} is unknown; choose from {", ".join(STAGES)}')
        if self.stage is not None and self.strategy != 'hierarchical':
            raise ValueError(f'stage={self.stage!r} is not allowed with strategy={self.strategy!r}, which has no stages; '
                             "choose strategy='hierarchical'")
        if self.limit_gmacs is not None and not self.limit_gmacs > 0:
            raise ValueError(f'limit_gmacs={self.limit_gmacs} is not allowed; choose a number above 0, or None for no limit')
        for name in ('bn_batches', 'bn_batch_size', 'val_images', 'top'):
            value = getattr(self, name)
            if not (isinstance(value, int) and value >= 1 or name == 'val_images' and value is None):
                raise ValueError(f'{name}={value} is not allowed; choose 1 or more')

    @property
    def limit(self) -> Optional[int]:
        """Limit in MACs."""
        return None if self.limit_gmacs is None else round(self.limit_gmacs * 1e9)


def read_settings(cfg: Any, **options: Any) -> SearchSettings:
    """Settings of a config, with options that replace them unless they are None.

    Raises:
        ValueError: the config has no supernet; a setting is unknown, or outside of what is allowed.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    if backbone.get('type') != SUPERNET:
        raise ValueError(f'model.backbone.type={backbone.get("type")!r} of the config is not allowed; a search needs a '
                         f'{SUPERNET}')
    given = {'metric': _METRICS.get(cfg.get('default_scope')), **(cfg.to_dict().get('search') or {}),
             **{name: value for name, value in options.items() if value is not None}}
    known = [f.name for f in dataclasses.fields(SearchSettings)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f'search.{unknown[0]} of the config is unknown; choose from {", ".join(known)}')
    return SearchSettings(**given)


def read_space(cfg: Any) -> SearchSpace:
    """The space of the supernet of a config."""
    return SearchSpace.from_cfg(cfg.model.backbone.arch.space)


def read_cost(cfg: Any, settings: SearchSettings) -> CostModel:
    """Costs of the candidates of a config's supernet; a classifier's head counts."""
    backbone, head = cfg.model.backbone, cfg.model.get('head') or {}
    mode = backbone.get('mode', 'dense')
    given = {name: backbone[name] for name in ('window_size', 'global_blocks', 'in_channels') if name in backbone}
    if given.get('global_blocks') is None:
        given['global_blocks'] = default_global_blocks(len(read_space(cfg).options))
    outputs = backbone.get('out_indices') or range(1 if mode == 'image' else 4)
    return CostModel(backbone.arch.embed_dims, mode, settings.image_size,
                     num_classes=head.get('num_classes', 0) if mode == 'image' else 0,
                     num_outputs=len(outputs) if backbone.get('out_norm', True) else 0, **given)


def build_strategy(settings: SearchSettings, space: SearchSpace, cost: CostModel) -> Union[RandomSearch, Hierarchical]:
    """The strategy that the settings name.

    Raises:
        ValueError: no candidate keeps within the limit; the stage does not fit the space; or a number is not allowed.
    """
    if settings.strategy == 'random':
        return RandomSearch(space, cost, settings.limit, settings.seed, settings.population, settings.generations)
    has_one_distribution = all(len({row[0] for row in rows}) == 1 for rows in space.choices)
    stage = 'flat' if settings.strategy == 'flat' else settings.stage
    if stage is None:  # what the space leaves open
        has_details = all(len({row[0] for row in rows}) == len(rows) for rows in space.choices)
        stage = 'details' if has_one_distribution else 'distribution' if has_details else 'all'
    if stage == 'distribution':
        space = space.with_details(settings.details)
    if stage == 'details' and not has_one_distribution:
        raise ValueError("stage='details' needs a supernet with one G for each block; give "
                         'model.backbone.arch.space.distribution')
    make: Callable[..., Union[RandomSearch, Hierarchical]] = (
        partial(Hierarchical, details=settings.details) if stage == 'all' else partial(Evolution, stage=stage))
    return make(space, cost=cost, limit=settings.limit, seed=settings.seed, population=settings.population,
                generations=settings.generations, parents=settings.parents, mutations=settings.mutations,
                crossovers=settings.crossovers, mutation_rate=settings.mutation_rate, tries=settings.tries)


def identity(cfg: Any, settings: SearchSettings, space: SearchSpace, checkpoint: str) -> Dict[str, Any]:
    """What makes a search the one it is: the same values, and the same images, give the same results. ``checkpoint`` is the
    fingerprint of the supernet's weights."""
    names = ['seed', 'limit_gmacs', 'strategy', 'metric', 'image_size', 'population', 'bn_batches', 'bn_batch_size',
             'val_images']
    if settings.strategy != 'random':
        names += ['parents', 'mutations', 'crossovers', 'mutation_rate', 'tries']
    if settings.strategy == 'hierarchical':  # half of the generations are for each stage
        names += ['stage', 'details', 'generations']
    network = cfg.model.to_dict()  # without the weights that it starts from, and without its space, which has a name of its own
    network['backbone'].pop('init_cfg', None)
    network['backbone']['arch'].pop('space')
    # what is done with the images; the folder that they are in may move
    data = [(cfg.get(f'{split}_dataloader') or {}).get('dataset', {}).get('pipeline') for split in ('train', 'val')]
    return dict(space=f'{space!r} {space.fingerprint()}', **{name: getattr(settings, name) for name in names},
                checkpoint=checkpoint, network=_fingerprint(network), data=_fingerprint(data))


def _fingerprint(value: Any) -> str:
    """A short name that tells nested values of a config from others."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=repr).encode()).hexdigest()[:16]
