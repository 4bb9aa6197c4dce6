"""The backbone compiled, with a way back."""
from typing import Any, Optional, Union

from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from hybrid_mm.errors import SetupError
from hybrid_mm.registry import HOOKS

from ..compile import CompiledBackbone


@HOOKS.register_module()
class CompileHook(Hook):
    """Train, or test, with the backbone through ``torch.compile``, unless that is slower.

    The backbone alone is compiled, with open sizes: detectors' heads have numbers of boxes that no graph fits, and mmengine's
    own ``compile`` of a config, which compiles the whole step, fails on them after minutes. This hook takes that key over, so
    that ``compile = True`` and ``compile = dict(backend=..., mode=..., options=...)`` are of the backbone, and says so.

    The first steps run compiled and eager in turn, with times of both; where the compiled backbone is slower by more than
    ``max_ratio``, the training goes on without, and so it does where the compiler fails; the log says which, with the times or
    the cause. Steps are the same either way but for rounding, and random numbers are drawn in another order where the compiler
    draws them itself. Validation in a training is not compiled. In a distributed training all processes go by the times of the
    first; one in which the compiler fails takes the others along, in the first steps. State dicts, checkpoints and copies of
    the model are as without.

    Args:
        enabled: whether to compile. Without, ``compile`` of the config decides. With our tools: ``--compile``.
        backend: of ``torch.compile``.
        mode: of ``torch.compile``, such as ``'max-autotune-no-cudagraphs'``.
        options: of ``torch.compile``, instead of a mode.
        max_compilations: times that the backbone is compiled, the first time with them: for other sizes than those before, as
            torch finds it necessary. Pictures that need it once more run eagerly.
        rounds: steps of each kind that are timed.
        max_ratio: compiled time over eager time up to which the backbone stays compiled.

    Raises:
        SetupError: an argument is not allowed; or the model has no ``backbone``.
    """

    def __init__(self, enabled: bool = True, backend: Any = 'inductor', mode: Optional[str] = None,
                 options: Optional[dict] = None, max_compilations: int = 3, rounds: int = 8, max_ratio: float = 1.03) -> None:
        for name, value in (('max_compilations', max_compilations), ('rounds', rounds)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SetupError(f'{name}={value!r} of hybrid_mm.CompileHook is not allowed; choose a whole number, 1 or more')
        if isinstance(max_ratio, bool) or not isinstance(max_ratio, (int, float)) or not max_ratio > 0:
            raise SetupError(f'max_ratio={max_ratio!r} of hybrid_mm.CompileHook is not allowed; choose a number above 0, such as '
                             '1.03')
        if mode is not None and options is not None:
            raise SetupError(f'mode={mode!r} and options={options!r} of hybrid_mm.CompileHook are not allowed together, as in '
                             'torch.compile; choose one')
        self.enabled = enabled
        self.how = dict(backend=backend, mode=mode, options=options, max_compilations=max_compilations, rounds=rounds,
                        max_ratio=max_ratio)
        self._takes_over = False  # compile of the config
        self._compiled: Optional[CompiledBackbone] = None

    @property
    def compiles(self) -> bool:
        """Whether the next step may take minutes, in which the backbone is compiled."""
        return self._compiled is not None and not self._compiled.settled

    def before_run(self, runner: Runner) -> None:
        key = runner.cfg.get('compile')
        if not isinstance(key, (bool, dict, type(None))):
            raise SetupError(f'compile={key!r} of the config is not allowed; choose True, False, or a dict with backend, mode or '
                             'options')
        has_backbone = backbone_of(runner.model) is not None
        if self.enabled and not has_backbone:
            raise SetupError(f'{type(runner.model).__name__} has no backbone, which hybrid_mm.CompileHook compiles; leave '
                             '--compile out, or set enabled=False')
        self._takes_over = bool(key) and has_backbone and not (isinstance(key, dict) and key.get('disable'))
        if key and self._takes_over:
            self._take_over(runner, key)
        if self.enabled or self._takes_over:
            _check_backend(self.how['backend'])

    def before_train(self, runner: Runner) -> None:
        if self.enabled or self._takes_over:
            self._install(runner, training=True)

    def after_train_iter(self, runner: Runner, **kwargs) -> None:
        if not self.compiles:
            return
        assert self._compiled is not None
        states = [(self._compiled.failure, self._compiled.ratio)]
        if get_world_size() > 1:
            states = all_gather_object(states[0])
        self._compiled.settle(next((failure for failure, _ in states if failure is not None), None), states[0][1])

    def after_train(self, runner: Runner) -> None:
        self._remove()

    def before_test(self, runner: Runner) -> None:
        if self.enabled:
            self._install(runner, training=False)

    def after_test_iter(self, runner: Runner, **kwargs) -> None:
        if self.compiles:  # each process by itself, since they may have different numbers of batches
            assert self._compiled is not None
            self._compiled.settle(self._compiled.failure, self._compiled.ratio)

    def after_test(self, runner: Runner) -> None:
        self._remove()

    def _take_over(self, runner: Runner, key: Union[bool, dict]) -> None:
        runner.cfg.compile = False  # the runner looks behind this, before it trains
        given = dict(key) if isinstance(key, dict) else {}
        self.how.update({name: given.pop(name) for name in ('backend', 'mode', 'options') if name in given})
        passed_over = f'; {", ".join(given)} of it, which does not fit there, is passed over' if given else ''
        runner.logger.info('compile of the config is for the backbone alone here, and with open sizes: torch.compile fails on '
                           f'whole detectors{passed_over}.')

    def _install(self, runner: Runner, training: bool) -> None:
        self._remove()
        backbone = backbone_of(runner.model)
        assert backbone is not None
        runner.logger.info('The backbone is compiled after a few steps, which may take minutes; then it runs compiled and eager '
                           'in turn until it is known which is faster.')
        self._compiled = CompiledBackbone(backbone, runner.logger.info, training, **self.how)

    def _remove(self) -> None:
        if self._compiled is not None and self._compiled.is_there:
            self._compiled.remove()
        self._compiled = None


def backbone_of(model: nn.Module) -> Optional[nn.Module]:
    """``backbone`` of a model, inside of what wraps it."""
    while not hasattr(model, 'backbone') and isinstance(getattr(model, 'module', None), nn.Module):
        model = model.module
    return getattr(model, 'backbone', None)


def _check_backend(backend: Any) -> None:
    """See that ``torch.compile`` knows a backend, without which each step would fail.

    Raises:
        SetupError: it does not.
    """
    from torch._dynamo import list_backends  # takes seconds
    names = list_backends(exclude_tags=())
    if not callable(backend) and backend not in names:
        raise SetupError(f'backend={backend!r} is unknown to torch.compile; choose from {", ".join(names)}')
