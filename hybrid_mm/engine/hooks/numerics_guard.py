"""Stop, or pass over, steps whose loss or gradients are not finite."""
import functools
from typing import Any, Callable, Dict, List, Optional

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import ApexOptimWrapper, OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_mm.errors import SetupError, shorten
from hybrid_mm.registry import HOOKS

from .post_mortem import bad_terms, describe, examine, fault, first_bad, image_files, last_checkpoint, unwrap
from .random_state import get_state, set_state


@HOOKS.register_module()
class NumericsGuardHook(Hook):
    """See a loss or a gradient that is not finite before the optimizer makes a step of it.

    A step of NaN makes all weights NaN, the moving averages and the next checkpoint with them, and the training goes on without
    a word. Here that step is not made. The training then ends with one sentence: which step and which loss terms; the first
    module with an output that is not finite, found by one more pass over the batch, or the first parameter with such a
    gradient; whether weights or pictures are at fault; the files of the pictures, the learning rate and the last checkpoint. Or
    it goes on with the next batch: weights, running statistics of norms and the state of the optimizer stay as they were before
    the step.

    In a distributed training all processes decide the same, and where gradients are accumulated a fault in one batch counts for
    the whole step. With mixed precision, gradients that overflow are the business of the loss scale, which skips the step
    itself; a fault is a loss that is not finite, or a dynamic scale that has fallen below 1, at which nothing is gained. What
    such a scale skips is not counted here.

    Optimizer wrappers that do not step by themselves are left alone: OptimWrapperDict, Apex and DeepSpeed; the log says so.

    Weights that are not finite before a validation or a test end the run as well. Where MMDetection's CocoMetric finds no box at
    all and gives no metric, the metric is 0, and the log says so.

    The hook alone does all of this, also with the libraries' own tools, where SetupError shows with its traceback.

    Args:
        on_fault: 'stop', or 'skip'.
        max_skips: stop after all where more steps than this have been skipped one after the other.

    Raises:
        ValueError: an argument is outside of what is allowed.
        SetupError: in training, as above.
    """

    priority = 'HIGHEST'  # before moving averages and checkpoints

    def __init__(self, on_fault: str = 'stop', max_skips: int = 10) -> None:
        if on_fault not in ('stop', 'skip'):
            raise ValueError(f"on_fault={on_fault!r} is unknown; choose from 'stop', 'skip'")
        if not isinstance(max_skips, int) or max_skips < 1:
            raise ValueError(f'max_skips={max_skips!r} is not allowed; choose a whole number, 1 or more')
        self.on_fault, self.max_skips = on_fault, max_skips
        self._skips = self._skips_in_a_row = self._skips_in_epoch = 0
        self._buffers: List[Tensor] = []
        self._kept: List[Tensor] = []
        self._forget()

    def before_train(self, runner: Runner) -> None:
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper) or isinstance(wrapper, (ApexOptimWrapper, OptimWrapperDict)):
            runner.logger.warning(f'NumericsGuardHook does not guard {type(wrapper).__name__}: a loss that is not finite is not '
                                  'noticed.')
            return
        self._model = unwrap(runner.model)
        self._guard(wrapper)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if self._has_stepped:
            self._forget()
            if self.on_fault == 'skip':
                self._keep_buffers(unwrap(runner.model))
        state = get_state()
        self._batches.append((lambda: set_state(state), data_batch))

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None) -> None:
        self._outputs.append(outputs or {})
        if self._fault is None:
            return
        terms = bad_terms(self._outputs)
        self._skips_in_a_row += 1
        may_skip = self.on_fault == 'skip' and self._skips_in_a_row <= self.max_skips
        if not may_skip or first_bad(self._model.named_parameters()):
            finding = examine(self._model, runner.optim_wrapper, self._batches, terms)
            many = '' if self._skips_in_a_row == 1 else f', after {self._skips_in_a_row - 1} skipped steps in a row'
            raise SetupError(f'{describe(runner, finding, self._fault)}{many}; take a smaller optim_wrapper.optimizer.lr or a '
                             "longer warm-up, set optim_wrapper.clip_grad.max_norm=1, or let NumericsGuardHook(on_fault='skip') "
                             'pass over single batches')
        self._skips += 1
        self._skips_in_epoch += 1
        files = [name for _, batch in self._batches for name in image_files(batch)]
        runner.logger.warning(f'Step {runner.iter + 1} is skipped: {fault(terms, self._fault)}; pictures {shorten(files, 16)}; '
                              f'{self._skips_in_a_row} in a row, {self._skips} in all')

    def after_train_epoch(self, runner: Runner) -> None:
        if self._skips_in_epoch:
            runner.logger.warning(f'Epoch {runner.epoch + 1}: number of skipped steps, whose loss or gradients were not finite: '
                                  f'{self._skips_in_epoch}')
        self._skips_in_epoch = 0

    def before_val_epoch(self, runner: Runner) -> None:
        self._check_weights(runner, 'validation')

    def before_test_epoch(self, runner: Runner) -> None:
        self._check_weights(runner, 'test')

    def after_val_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]] = None) -> None:
        _report_empty(runner, runner.val_loop, metrics)

    def after_test_epoch(self, runner: Runner, metrics: Optional[Dict[str, Any]] = None) -> None:
        _report_empty(runner, runner.test_loop, metrics)

    def _forget(self) -> None:
        """Of the last step: batches of which it was made, what the model said of them, and what went wrong."""
        self._batches: List[tuple] = []
        self._outputs: List[Dict[str, Any]] = []
        self._losses: List[Tensor] = []
        self._fault: Optional[str] = None
        self._has_stepped = True

    def _guard(self, wrapper: OptimWrapper) -> None:
        """Put checks into this wrapper's backward and step."""
        backward, step = wrapper.backward, wrapper.step
        clip: Any = getattr(wrapper, 'clip_func', None)
        scaler = getattr(wrapper, 'loss_scaler', None)
        clips_by_norm = bool(wrapper.clip_grad_kwargs) and wrapper.grad_name == 'grad_norm'

        def guarded_backward(loss: Tensor, **kwargs: Any) -> None:
            self._has_stepped = False
            self._losses.append(loss.detach())
            # 1, or NaN for a loss that is not finite: all gradients, of all processes, then show it
            backward(loss * (loss.detach() * 0 + 1), **kwargs)

        def checked_clip(parameters: List[Tensor], *args: Any, **kwargs: Any) -> Tensor:
            norm = clip(parameters, *args, **kwargs)  # which the step computes in any case
            if self._is_fault(norm, parameters):
                raise _NotFinite
            return norm

        @functools.wraps(step)  # by whose attributes schedulers know it
        def guarded_step(**kwargs: Any) -> None:
            self._has_stepped = True
            try:
                if scaler is not None:
                    self._scaled_step(lambda: step(**kwargs), scaler, wrapper)
                elif not clips_by_norm and self._is_fault(None, _parameters(wrapper)):
                    raise _NotFinite
                else:
                    step(**kwargs)
                self._skips_in_a_row = 0
            except _NotFinite as error:
                self._fault = str(error) or 'gradients are not finite'
                self._put_buffers_back()

        wrapper.backward, wrapper.step = guarded_backward, guarded_step
        if clips_by_norm and scaler is None:
            wrapper.clip_func = checked_clip

    def _scaled_step(self, step: Callable[[], None], scaler: Any, wrapper: OptimWrapper) -> None:
        is_fault = _agree(~torch.stack([loss.float() for loss in self._losses]).isfinite().all()) if self._losses else False
        step()  # which the scaler leaves out for gradients that are not finite, as those of such a loss are
        if is_fault:
            raise _NotFinite('the loss is not finite')
        if wrapper._scale_update_param is None and scaler.is_enabled() and scaler.get_scale() < 1:
            raise _NotFinite(f'the loss scale has fallen to {scaler.get_scale():g}: the gradients overflow at any scale')

    def _is_fault(self, norm: Optional[Tensor], parameters: List[Tensor]) -> bool:
        gradients = [p.grad._values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
        if not gradients:
            return _agree(torch.tensor(False, device=parameters[0].device))
        if norm is None:
            norms = torch._foreach_norm(gradients)
            norm = torch.stack([norm.to(norms[0].device, torch.float32) for norm in norms]).sum()
        # the square of a large number overflows: look at the numbers before saying so
        return _agree(~norm.isfinite()) and _agree(~torch.stack([g.isfinite().all() for g in gradients]).all())

    def _keep_buffers(self, model: torch.nn.Module) -> None:
        buffers = list(model.buffers())
        if [b.shape for b in buffers] != [b.shape for b in self._kept]:
            self._kept = [torch.empty_like(b) for b in buffers]
        self._buffers = buffers
        _copy(self._kept, buffers)

    def _put_buffers_back(self) -> None:
        """What the forward passes of a skipped step made of the running statistics."""
        _copy(self._buffers, self._kept)

    def _check_weights(self, runner: Runner, what: str) -> None:
        model = unwrap(runner.model)
        statistics = ((f'{name}.{key}', value) for name, module in model.named_modules() if isinstance(module, _BatchNorm)
                      for key, value in module.named_buffers(recurse=False))
        bad = first_bad([*model.named_parameters(), *statistics])
        if bad:
            last = last_checkpoint(runner)
            raise SetupError(f'the weights are not finite before the {what} at step {runner.iter}: {bad} is the first one; ' + (
                f'go on from {last} with a smaller optim_wrapper.optimizer.lr' if last else
                'train with a smaller optim_wrapper.optimizer.lr'))


class _NotFinite(Exception):
    """A step that is not to be made."""


def _agree(is_fault: Tensor) -> bool:
    """Whether it is one in any of the processes."""
    if get_world_size() > 1:
        is_fault = is_fault.float()
        all_reduce(is_fault, 'max')
    return bool(is_fault)


def _report_empty(runner: Runner, loop: Any, metrics: Optional[Dict[str, Any]]) -> None:
    """Where nothing at all was found, MMDetection's CocoMetric gives no metric; then it is 0."""
    for metric in getattr(getattr(loop, 'evaluator', None), 'metrics', ()):
        if type(metric).__name__ != 'CocoMetric' or metric.format_only or metrics is None:
            continue
        kinds = [kind for kind in metric.metrics if kind in ('bbox', 'segm')]
        prefix = f'{metric.prefix}/' if metric.prefix else ''
        missing = [f'{prefix}{kind}_{item}' for kind in kinds for item in metric.metric_items or ('mAP', 'mAP_50', 'mAP_75')]
        missing = [name for name in missing if name not in metrics]
        if missing:
            metrics.update(dict.fromkeys(missing, 0.))
            runner.logger.warning(f'Nothing was found in any picture, so that {", ".join(missing)} are 0; train longer, or look '
                                  'at score_thr and max_per_img in model.test_cfg')


def _parameters(wrapper: OptimWrapper) -> List[Tensor]:
    return [p for group in wrapper.param_groups for p in group['params']]


@torch.no_grad()
def _copy(targets: List[Tensor], sources: List[Tensor]) -> None:
    for target, source in zip(targets, sources):
        target.copy_(source)
