"""Where numbers that are not finite came from, found by one more pass over the batches of a step."""
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Tuple

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from hybrid_mm.checkpoints.resumable import find_newest
from hybrid_mm.errors import first_line, shorten

from ..loops import is_by_iterations
from .checkpoint import checkpoint_folders


class Finding(NamedTuple):
    """What one process found; each name is of the first, and None where there is none."""

    terms: List[str]           # loss terms that are not finite
    files: List[str]           # pictures of the step
    bad_files: List[str]       # those whose values are not finite
    weight: Optional[str]      # parameter that is not finite
    largest: float             # of all weights
    module: Optional[str]      # module with an output that is not finite
    gradient: Optional[str]    # parameter with a gradient that is not finite, on the way back
    failure: Optional[str]     # why the pass could not be repeated


def examine(model: nn.Module, wrapper: OptimWrapper, batches: List[Any], terms: List[str]) -> Finding:
    """Run a step's batches forward once more, and backward where that is finite, without a change of weights.

    In a distributed training all processes have to do so together, as losses and norms may exchange numbers.

    Args:
        model: the model, without what wraps it.
        wrapper: gives the precision and the loss scale of the training.
        batches: as the data loader made them, with what puts their random numbers back in front: pairs (function, batch).
        terms: loss terms that are known to be not finite.
    """
    files = [name for _, batch in batches for name in image_files(batch)]
    weight = first_bad(model.named_parameters())
    found: Dict[str, Any] = dict(bad_files=[], module=None, gradient=None, failure=None)
    for put_back, batch in batches:
        put_back()
        try:
            _repeat(model, wrapper, batch, found)
        except Exception as error:  # a model with a train_step of its own, say: what is known is reported all the same
            found['failure'] = first_line(error)
    largest = max((p.detach().abs().max().item() for p in model.parameters() if p.numel()), default=0.)
    return Finding(terms=terms, files=files, weight=weight, largest=largest, **found)


def describe(runner: Runner, finding: Finding, cause: str) -> str:
    """One sentence on what all processes found, the same in each; ``cause`` is what to say where no loss term is at fault."""
    findings = all_gather_object(finding)
    # gradients are those of all processes, the fault may be one's alone
    rank, finding = max(enumerate(findings), key=lambda item: (bool(item[1].terms), bool(item[1].module or item[1].gradient)))
    terms, files, bad_files, weight, largest, module, gradient, failure = finding
    where = f'step {runner.iter + 1}'
    if not is_by_iterations(runner):
        where += f' in epoch {runner.epoch + 1}'
    if get_world_size() > 1:
        where += f' in process {rank}'
    parts = [f'{fault(terms, cause)} at {where}']
    if module:
        parts.append(f'the first module with a non-finite output is {module}')
    elif gradient:
        parts.append(f'the first non-finite gradient on the way back is that of {gradient}')
    elif failure:
        parts.append(f'the step could not be repeated to find the module ({failure})')
    else:
        parts.append('the step is finite when it is repeated')
    parts.append('the pictures are finite' if not bad_files else f'these pictures are not finite: {shorten(bad_files)}')
    parts.append(f'the weight {weight} is not finite already' if weight else
                 f'the weights are finite, the largest is {largest:.3g}')
    parts.append(f'learning rate {max(rate for rates in runner.optim_wrapper.get_lr().values() for rate in rates):g}')
    parts.append(f'pictures {shorten(files, 16)}')
    last = last_checkpoint(runner)
    parts.append(f'the last checkpoint is {last}' if last else 'there is no checkpoint yet')
    return '; '.join(parts)


def fault(terms: List[str], cause: str) -> str:
    """The loss terms that are not finite, in words; where there are none, the cause that is known."""
    return f'{shorten(terms)} {"are" if len(terms) > 1 else "is"} not finite' if terms else cause


def bad_terms(outputs: Iterable[Dict[str, Any]]) -> List[str]:
    """Names of the loss terms, as `train_step` returned them, that are not finite; ``loss``, their sum, where it is alone."""
    names = {name: None for log_vars in outputs for name, value in log_vars.items()
             if isinstance(value, Tensor) and 'loss' in name and not value.isfinite().all()}
    return [name for name in names if name != 'loss'] or list(names)


def first_bad(tensors: Iterable[Tuple[str, Optional[Tensor]]]) -> Optional[str]:
    """Name of the first tensor with a value that is not finite."""
    return next((name for name, tensor in tensors if tensor is not None and not tensor.isfinite().all()), None)


def image_files(batch: Any) -> List[str]:
    """Files of a batch's pictures, by name, as far as its samples say it."""
    samples = batch.get('data_samples') if isinstance(batch, dict) else None
    return [path for path in (getattr(sample, 'img_path', None) for sample in samples or ()) if path]


def last_checkpoint(runner: Runner) -> Optional[str]:
    """The newest checkpoint of this training."""
    hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
    folders = {runner.work_dir, *(folder for hook in hooks for folder in checkpoint_folders(runner, hook))}
    return find_newest(sorted(folders), resume=False)[0]


def unwrap(model: nn.Module) -> nn.Module:
    """The model in a wrapper for several processes."""
    while is_model_wrapper(model):
        model = model.module
    return model


def _repeat(model: nn.Module, wrapper: OptimWrapper, batch: Any, found: Dict[str, Any]) -> None:
    """One batch forward and, where the losses are finite, backward; writes what it finds first."""
    names = {module: name for name, module in model.named_modules()}

    def look(module: nn.Module, args: tuple, output: Any) -> None:
        if found['module'] is None and not _is_finite(output):
            passed_on = '' if _is_finite(args) else ', from an input that is not finite'
            found['module'] = f'{names[module] or "the model"} ({type(module).__name__}{passed_on})'

    with wrapper.optim_context(model):
        data = model.data_preprocessor(batch, True)
        inputs = data['inputs'] if isinstance(data, dict) else data[0]
        for i, picture in enumerate(inputs):
            if not picture.isfinite().all():
                found['bad_files'] += image_files(batch)[i:i + 1] or [f'number {i}']
        handles = [module.register_forward_hook(look) for module in names]
        try:
            losses = model._run_forward(data, mode='loss')
        finally:
            for handle in handles:
                handle.remove()
    loss, _ = model.parse_losses(losses)
    if found['module'] is None and found['gradient'] is None:
        scaler = getattr(wrapper, 'loss_scaler', None)
        parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        gradients = torch.autograd.grad(scaler.scale(loss) if scaler else loss, list(parameters.values()), allow_unused=True)
        found['gradient'] = first_bad(reversed(list(zip(parameters, gradients))))  # the last one gets its gradient first


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    if isinstance(value, dict):
        return all(map(_is_finite, value.values()))
    return not isinstance(value, (list, tuple)) or all(map(_is_finite, value))
