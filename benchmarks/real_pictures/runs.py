"""One training of the benchmark: what it is known by, its config, and what has to be there before."""
import copy
import hashlib
import json
from pathlib import Path
from pprint import pformat
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from mmengine.config import Config
from mmengine.utils import import_modules_from_strings

from benchmarks.shared.results import ROOT, Record
from hybrid_mm.analysis.complexity import Complexity, complexity
from hybrid_mm.errors import SetupError
from hybrid_mm.output import whole_file

from .catalogue import ALL_TASKS, EXPERIMENTS, NETWORKS, PAIRS, Pair

_MOST = 0.1  # difference of the multiply-adds of a pair


class Run(NamedTuple):
    """A training with its evaluation."""
    task: str
    network: str
    recipe: str
    seed: int
    pretraining: str = 'none'
    steps: Optional[int] = None  # those of the config

    @property
    def name(self) -> str:
        steps = '' if self.steps is None else f'_{self.steps}'
        start = '' if self.pretraining == 'none' else f'_from_{self.pretraining}'
        return f'{self.task}_{self.network}_{self.recipe}{steps}{start}_seed{self.seed}'

    @property
    def source(self) -> Optional['Run']:
        """The run whose weights this one starts from."""
        if self.pretraining in ('none', 'imagenet'):
            return None
        task = f'shapes_{self.task}' if self.pretraining == 'shapes' else self.pretraining
        return self._replace(task=task, pretraining='none', seed=0)

    def is_like(self, record: Record) -> bool:
        """Whether a record is of a run that differs in seed and steps at most."""
        return (self.task, self.network, self.recipe, self.pretraining) == tuple(
            record[key] for key in ('task', 'network', 'recipe', 'pretraining'))


class Prepared(NamedTuple):
    """The config of a run."""
    config: Config
    steps: int
    fingerprint: str  # of all settings; not of the place of the data

    def write(self, path: Path) -> None:
        """Without a base, so that a change of the shipped configs in the meantime changes nothing."""
        texts = [f'{name} = {pformat(value, sort_dicts=False, width=120)}\n'
                 for name, value in self.config._cfg_dict.to_dict().items()]
        with whole_file(path) as partial:
            partial.write_text(''.join(texts))


_PREPARED: Dict[Any, Prepared] = {}


def prepare(run: Run, options: Sequence[str] = ()) -> Prepared:
    """The config of a run.

    Args:
        run: which.
        options: the user's own settings, words KEY=VALUE for the tools; they are in the fingerprint alone.

    Raises:
        SetupError: there is no config for it.
    """
    key = (run._replace(seed=0), tuple(options))
    if key not in _PREPARED:
        _PREPARED[key] = _prepare(run, options)
    return _PREPARED[key]


def _prepare(run: Run, options: Sequence[str]) -> Prepared:
    task, network = ALL_TASKS[run.task], NETWORKS[run.network]
    name = task.config.format(network.config) + ('_full' if run.recipe == 'full' else '')
    base = ROOT / 'configs' / 'real' / f'{name}.py'
    if not base.is_file():
        raise SetupError(f'{run.network} cannot be trained for {run.task}: there is no configs/real/{name}.py')
    cfg = Config.fromfile(base)
    steps = run.steps or cfg.train_cfg.max_iters
    changes = _merged(
        dict(custom_imports=dict(imports=[*cfg.get('custom_imports', {}).get('imports', ()), 'benchmarks.real_pictures.meter'],
                                 allow_failed_imports=False),
             train_cfg=dict(max_iters=steps, val_interval=steps, val_begin=1 if task.validates else steps + 1),
             param_scheduler=_rescaled(cfg.param_scheduler, cfg.train_cfg.max_iters, steps),
             default_hooks=dict(
                 meter=dict(type='TrainingMeter'),
                 # one is enough to go on from, and the evaluation takes the last
                 checkpoint=dict(by_epoch=False, interval=max(steps // 10, 1), max_keep_ckpts=1, save_best=None)),
             test_evaluator=dict(type='IoUOfEachClass') if cfg.default_scope == 'mmseg' else dict(classwise=True)),
        task.changes, _of_network(cfg, run), network.changes)
    whole = Config._merge_a_into_b(copy.deepcopy(changes), cfg._cfg_dict.to_dict())  # takes marks out of the changes
    import_modules_from_strings(**whole['custom_imports'])  # which a config does when it is read from its file
    text = json.dumps([whole, list(options)], sort_keys=True, default=str)
    return Prepared(Config(whole), steps, hashlib.sha256(text.encode()).hexdigest()[:12])


def _of_network(cfg: Config, run: Run) -> Dict[str, Any]:
    """What a network that is not in the configs changes in that of another."""
    network = NETWORKS[run.network]
    model: Dict[str, Any] = {}
    if network.backbone is not None:
        model['backbone'] = dict(network.backbone)
        if network.backbone.get('_delete_') and network.group == 'baseline':  # stochastic depth is the recipe's
            rate = cfg.model.backbone.get('drop_path_rate', 0.)
            model['backbone'].update({} if network.backbone['type'] == 'mmdet.ResNet' else dict(drop_path_rate=rate))
        if network.group == 'mark':
            model['backbone']['pretrained'] = run.pretraining == 'imagenet'
    if network.channels is not None:
        channels, neck = list(network.channels), cfg.model.get('neck')
        if 'decode_head' in cfg.model:
            model.update(decode_head=dict(in_channels=channels), auxiliary_head=dict(in_channels=channels[2]))
        if isinstance(neck, dict):
            model['neck'] = dict(in_channels=channels)
        elif neck is not None:  # GLiT's maps of one scale have a neck of their own
            model['neck'] = [dict(part.to_dict(), in_channels=channels) for part in neck]
    return dict(model=model) if model else {}


def _rescaled(schedulers: Any, old: int, new: int) -> List[dict]:
    """A schedule with another end; a warm-up is a tenth of it at most."""
    schedulers = [dict(part) for part in (schedulers if isinstance(schedulers, (list, tuple)) else [schedulers])]
    for part in schedulers if old != new else ():
        for name in ('begin', 'end', 'T_max'):
            if part.get(name):
                part[name] = new if part[name] == old else min(part[name], max(new // 10, 1))
    return schedulers


def _merged(*parts: Dict[str, Any]) -> Dict[str, Any]:
    """Nested changes in one; of two values of a name the later holds, and imports are joined."""
    out: Dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if isinstance(value, dict):
                value = _merged(out.get(name) or {}, value)
            elif name == 'imports' and name in out:
                value = [*out[name], *value]
            out[name] = value
    return out


_COSTS: Dict[Any, Complexity] = {}


def cost_of(run: Run) -> Complexity:
    """Parameters and multiply-adds, counted as tools/analysis/get_flops.py does, for a picture of the task's size."""
    key = run.task, run.network, run.recipe
    if key not in _COSTS:
        _COSTS[key] = complexity(prepare(run._replace(pretraining='none')).config, ALL_TASKS[run.task].size)
    return _COSTS[key]


def check_pair(pair: Pair, task: str, recipe: str) -> None:
    """Raise a SetupError where the backbones of a pair are said to cost the same and do not."""
    ours, baseline = (cost_of(Run(task, name, recipe, 0)).part('backbone').column() for name in (pair.ours, pair.baseline))
    if pair.equal and abs(baseline / ours - 1) > _MOST:
        raise SetupError(f'{pair.ours} and {pair.baseline} are no pair for {task}: {ours / 1e9:.2f} and {baseline / 1e9:.2f} G '
                         f'multiply-adds in the backbone, which differ by more than {_MOST:.0%}; change one in the catalogue')


# ---- which runs ----


def runs_of_pairs(tasks: Sequence[str], networks: Sequence[str], recipe: str, seeds: Sequence[int],
                  steps: Optional[int]) -> List[Run]:
    """Both networks of all pairs, those that networks of ours are in, with all seeds."""
    pairs = [pair for pair in PAIRS if pair.ours in networks]
    for task in tasks:
        for pair in pairs:
            check_pair(pair, task, recipe)
    names = list(dict.fromkeys(name for pair in pairs for name in (pair.ours, pair.baseline)))
    return [Run(task, name, recipe, seed, steps=steps) for task in tasks for name in names for seed in seeds]


def runs_of_experiments(names: Sequence[str], tasks: Sequence[str], networks: Optional[Sequence[str]], recipe: str,
                        seeds: Sequence[int], steps: Optional[int]) -> List[Run]:
    """With and without what was seen before, with all seeds; the sources are not among them, see `with_sources`."""
    runs = []
    for name in names:
        experiment = EXPERIMENTS[name]
        chosen = networks if networks and experiment.network != 'efficientnet_lite0' else [experiment.network]
        runs += [Run(task, network, recipe, seed, pretraining, steps)
                 for task, start in experiment.starts if task in tasks for network in chosen
                 for seed in seeds for pretraining in ('none', start)]
    return list(dict.fromkeys(runs))


def with_sources(runs: Sequence[Run]) -> List[Run]:
    """The runs, with those that others start from in front."""
    sources = list(dict.fromkeys(run.source for run in runs if run.source is not None))
    return [*sources, *(run for run in runs if run not in sources)]
