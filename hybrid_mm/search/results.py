"""What a search leaves in its folder: a ranking, configs of the best candidates, a plot."""
import json
import math
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from hybrid_mm.output import whole_file

from .cost import CostModel
from .plot import plot_search
from .settings import SearchSettings
from .space import distribution_of
from .store import Evaluation


def rank(evaluations: Sequence[Evaluation]) -> List[Evaluation]:
    """The best first, each candidate once: by metric, among equals the cheaper one."""
    best: Dict[tuple, Evaluation] = {}
    for evaluation in sorted(evaluations, key=lambda e: e.rank_key):
        best.setdefault(evaluation.candidate, evaluation)
    return list(best.values())


def write_results(folder: Path, cfg: Any, settings: SearchSettings, cost: CostModel,
                  history: Sequence[Sequence[Evaluation]]) -> List[Path]:
    """Write ``result.json``, ``found_1.py`` and so on, best first, and ``search.png``. They depend on the results alone.

    Args:
        folder: the search folder.
        cfg, settings, cost: config of the search, and what `settings` reads from it.
        history: evaluations of each generation.

    Returns:
        The configs.
    """
    ranking = rank([evaluation for generation in history for evaluation in generation])
    table = [_table_row(number, evaluation, cost) for number, evaluation in enumerate(ranking, 1)]
    head = dict(metric=settings.metric, strategy=settings.strategy, seed=settings.seed, limit_gmacs=settings.limit_gmacs,
                evaluations=sum(map(len, history)))
    lines = ',\n'.join(map(json.dumps, table))  # a line a candidate
    _write(folder / 'result.json', f'{json.dumps(head)[:-1]}, "ranking": [\n{lines}\n]}}\n')
    configs = []
    for number, evaluation in enumerate(ranking[:settings.top], 1):
        configs.append(folder / f'found_{number}.py')
        _write(configs[-1], found_config(cfg, settings, evaluation, number))
    plot_search(folder / 'search.png', history, str(settings.metric), settings.limit)
    return configs


def found_config(cfg: Any, settings: SearchSettings, evaluation: Evaluation, number: int = 1) -> str:
    """Text of a config that trains a candidate from random weights.

    It is the config of the search with `hybrid_mm.GLiT` in the place of the supernet and what ``search.retrain`` says.
    """
    cfg = type(cfg)(cfg.to_dict())
    for name in ('search', 'find_unused_parameters', 'work_dir', 'launcher'):
        cfg.pop(name, None)
    backbone = cfg.model.backbone
    backbone.type = 'hybrid_mm.GLiT'
    backbone.pop('seed', None)
    backbone.arch = dict(embed_dims=backbone.arch.embed_dims, num_heads=backbone.arch.num_heads,
                         blocks=[list(row) for row in evaluation.candidate])
    for name, value in settings.retrain.items():
        cfg[name] = value
    return (f'# Number {number} of a {settings.strategy} search with seed {settings.seed}: {settings.metric} '
            f'{evaluation.metric:.4g} with the weights of the supernet,\n'
            f'# {evaluation.macs / 1e9:.6f} G MACs, {evaluation.parameters:,} parameters\n{cfg.pretty_text}')


def _table_row(number: int, evaluation: Evaluation, cost: CostModel) -> Dict[str, Any]:
    return dict(
        rank=number, metric=_defined(evaluation.metric), gmacs=evaluation.macs / 1e9,
        authors_gmacs=cost.macs(evaluation.candidate, 'authors') / 1e9, parameters=evaluation.parameters,
        stage=evaluation.stage, generation=evaluation.generation, distribution=distribution_of(evaluation.candidate),
        blocks=evaluation.candidate, metrics={name: _defined(value) for name, value in evaluation.metrics.items()})


def _defined(value: float) -> Optional[float]:
    """None for NaN, which JSON does not know."""
    return None if math.isnan(value) else value


def _write(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)
