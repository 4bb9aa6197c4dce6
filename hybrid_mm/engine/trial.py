"""A small forward pass before a training or a test: do the pictures, the network and its heads meet?"""
import copy
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import torch
from mmengine.dataset import DefaultSampler
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, IterBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler

from hybrid_mm.errors import SetupError
from hybrid_mm.failures import Step, explain, one_value

from .hooks.random_state import get_state, set_state
from .loops import built_loops

_SIDE = 128  # pixels of the picture at most, a multiple of the strides
_BOXES = 4  # proposals of a region proposal network, which gives 1000
_TOLERANCE = 1.67  # of strides, since the sizes of maps are rounded
_SAMPLES = 3  # that are tried where one cannot be read

Maps = Dict[str, List[Tensor]]  # outputs of model.backbone and model.neck


class _Batch(NamedTuple):
    """What a network gets of one picture."""
    inputs: Tensor  # (1, C, H, W)
    samples: Any
    of: str  # for messages


def check_shapes(runner: Runner, model: nn.Module) -> None:
    """Run a network once over a small part of a picture of each split of the data, as far as it is there.

    The training is as if this had not been: random states, statistics and training flags stay as they are, pipelines are copies.
    What fails for another reason than shapes is left to the training, which fails in its own words.

    Args:
        runner: with its loops built.
        model: without wrappers.

    Raises:
        SetupError: layers do not get the channels that they expect; a neck or head not the maps; the strides of anchors and of
            RoI extractors are not those of the maps; or the training has a batch of one picture, in which a BatchNorm has one
            value a channel. The message names the layer.
    """
    if is_model_wrapper(runner.model) and not isinstance(runner.model, DistributedDataParallel):
        return  # with its weights cut into pieces
    states, flags = get_state(), {module: module.training for module in model.modules()}
    tried: Set[int] = set()
    try:
        for split, loop in built_loops(runner):
            if len(loop.dataloader) == 0:
                processes = f' in each of {runner.world_size} processes' if runner.world_size > 1 else ''
                raise SetupError(f'the {split} data have {len(loop.dataloader.dataset)} pictures, less than one batch of '
                                 f'{split}_dataloader.batch_size{processes}, and drop_last leaves out the rest; give smaller '
                                 'batches')
            alone = _single_pictures(loop) if split == 'train' else None
            norms = _norms_in_training(model.train(), runner.world_size) if alone else []
            batch = _first_batch(model.eval(), loop.dataloader, split)
            if batch is not None and batch.inputs.shape[1] not in tried:
                tried.add(batch.inputs.shape[1])
                _try_out(model, batch, norms, alone)
    finally:
        set_state(states)
        for module, training in flags.items():
            module.training = training


def _first_batch(model: nn.Module, loader: DataLoader, split: str) -> Optional[_Batch]:
    """The first picture that can be read, through pipeline and data preprocessor; None if it is no picture."""
    data = None
    for index in range(_SAMPLES):
        try:
            data = loader.collate_fn([_detached(loader.dataset)[index]])
            break
        except Exception:  # of a picture that cannot be read the training speaks, or what guards its data
            continue
    inputs = data.get('inputs') if isinstance(data, dict) else None
    picture = inputs[0] if isinstance(inputs, (list, tuple, Tensor)) and len(inputs) else None
    if not isinstance(picture, Tensor) or picture.dim() != 3 or not hasattr(model, 'data_preprocessor'):
        return None
    of, part = f'pictures of the {split} data, {"x".join(map(str, picture.shape))}', nn.Module()
    part.data_preprocessor = copy.deepcopy(model.data_preprocessor)  # its batch augmentations may keep a state
    try:
        done = part.data_preprocessor(data, split == 'train')
    except Exception as error:
        _refuse(error, part, of)
        return None
    inputs = done.get('inputs') if isinstance(done, dict) else None
    if not isinstance(inputs, Tensor) or inputs.dim() != 4:
        return None
    if inputs.shape[1] != len(picture):
        of += f', of which model.data_preprocessor makes {inputs.shape[1]} channels'
    return _Batch(inputs, done.get('data_samples'), of)


def _detached(dataset: Any) -> Any:
    """A data set whose wrappers and pipelines, which may keep pictures for the next ones, are copies."""
    if type(dataset).__name__ == '_SlicedDataset':  # mmengine's, for num_batch_per_epoch of a loader; it cannot be copied
        dataset = dataset._dataset
    dataset = copy.copy(dataset)
    for name, detach in (('dataset', _detached), ('datasets', lambda parts: [_detached(part) for part in parts]),
                         ('pipeline', copy.deepcopy)):
        if getattr(dataset, name, None) is not None:
            setattr(dataset, name, detach(getattr(dataset, name)))
    return dataset


def _try_out(model: nn.Module, batch: _Batch, norms: List[nn.Module], alone: Optional[str]) -> None:
    """The pass at a small size and, where that fails or is not enough, at that of the picture: some networks take no other."""
    height, width = batch.inputs.shape[2:]
    for size in dict.fromkeys([(min(height, _SIDE), min(width, _SIDE)), (height, width)]):
        maps: Maps = {}
        lonely: List[Step] = []
        fault = None
        try:
            _forward(model, batch, size, maps, norms, lonely)
        except Exception as error:
            fault = error
        _check_levels(model, maps, size)
        if not lonely and not isinstance(fault, SetupError) and (fault is None or explain(fault, model) is None):
            return
    if lonely:
        raise SetupError(f'{alone}, and then {one_value(lonely[0])}')
    if fault is not None:
        _refuse(fault, model, batch.of)


def _forward(model: nn.Module, batch: _Batch, size: Tuple[int, int], maps: Maps, norms: List[nn.Module],
             lonely: List[Step]) -> None:
    """Backbone, neck and heads on the upper left corner of the picture.

    Args:
        maps: gets the outputs of backbone and neck.
        norms: layers that take statistics in training.
        lonely: gets those among them that have one value a channel.
    """
    inputs, samples = batch.inputs[..., :size[0], :size[1]].contiguous(), copy.deepcopy(batch.samples)
    for sample in samples or ():
        sample.set_metainfo(dict(img_shape=size, pad_shape=size, batch_input_shape=size, ori_shape=size, scale_factor=(1., 1.)))
    names = {module: name for name, module in model.named_modules(prefix='model')}

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        maps[names[module]] = list(output) if isinstance(output, (list, tuple)) else [output]

    def look(module: nn.Module, args: Tuple[Tensor]) -> None:
        if args[0].numel() == args[0].shape[1] and '.roi_head.' not in names[module]:  # there a batch is one of boxes
            lonely.append(Step(names[module], module, [tuple(args[0].shape)]))

    with ExitStack() as stack, torch.no_grad():
        for part in ('backbone', 'neck'):
            if isinstance(getattr(model, part, None), nn.Module):
                stack.callback(getattr(model, part).register_forward_hook(keep).remove)
        for norm in norms:
            stack.callback(norm.register_forward_pre_hook(look).remove)
        stack.enter_context(_few_boxes(getattr(model, 'rpn_head', None)))
        type(model).forward(model, inputs, samples, mode='tensor')  # not one that is compiled for the sizes of the training
        heads = getattr(model, 'auxiliary_head', None)  # of MMSegmentation, which runs it in training alone
        for head in heads if isinstance(heads, nn.ModuleList) else [heads] if heads is not None else []:
            head.forward(_delivered(maps)[1])


@contextmanager
def _few_boxes(rpn_head: Any) -> Iterator[None]:
    """Let a region proposal network propose few boxes: with 1000 of them heads take seconds on a CPU."""
    cfg = getattr(rpn_head, 'test_cfg', None)
    if isinstance(cfg, dict):
        rpn_head.test_cfg = copy.deepcopy(cfg)
        rpn_head.test_cfg.update(max_per_img=_BOXES)
    try:
        yield
    finally:
        if isinstance(cfg, dict):
            rpn_head.test_cfg = cfg


def _refuse(error: Exception, model: nn.Module, of: str) -> None:
    """Raise a SetupError where shapes are the reason of an error, or the network itself has one."""
    if isinstance(error, SetupError):
        raise error
    sentence = explain(error, model)
    if sentence is not None:
        raise SetupError(f'{sentence} (seen with {of})') from None


def _check_levels(model: nn.Module, maps: Maps, size: Tuple[int, int]) -> None:
    """Compare the maps with the strides that MMDetection's heads take them to have: where these differ boxes lie elsewhere."""
    source, delivered = _delivered(maps)
    are_maps = all(isinstance(part, Tensor) and part.dim() == 4 for part in delivered)
    if hasattr(model, 'neck') and source != 'model.neck' or not delivered or not are_maps:
        return
    strides = [size[0] / part.shape[2] for part in delivered]
    roi_head = getattr(model, 'roi_head', None)
    for name in ('rpn_head', 'bbox_head'):
        prior_generator = getattr(getattr(model, name, None), 'prior_generator', None)
        if prior_generator is not None and hasattr(prior_generator, 'strides'):
            kind = type(prior_generator).__name__
            wanted = [stride[-1] if isinstance(stride, tuple) else stride for stride in prior_generator.strides]
            if len(wanted) != len(delivered):
                raise SetupError(f'model.{name} has strides {wanted} of its {kind}, and {source} gives {len(delivered)} maps; '
                                 f'give as many strides as maps, or {source} other num_outs or out_indices')
            _compare(f'strides {wanted} of the {kind} of model.{name}', wanted, strides, delivered, source)
    for name in ('bbox_roi_extractor', 'mask_roi_extractor'):
        extractors = getattr(roi_head, name, None)
        for extractor in extractors if isinstance(extractors, nn.ModuleList) else [extractors]:
            wanted = getattr(extractor, 'featmap_strides', None) or []
            _compare(f'featmap_strides={list(wanted)} of model.roi_head.{name}', wanted, strides, delivered, source)


def _compare(what: str, wanted: Any, strides: List[float], delivered: List[Tensor], source: str) -> None:
    for stride, real, part in zip(wanted, strides, delivered):
        if min(part.shape[2:]) > 1 and not 1 / _TOLERANCE < stride / real < _TOLERANCE:
            raise SetupError(f'{what} are not those of the maps of {source}, {[round(s) for s in strides]}; give it these')


def _delivered(maps: Maps) -> Tuple[str, List[Tensor]]:
    """What heads get, and from which part."""
    source = 'model.neck' if 'model.neck' in maps else 'model.backbone'
    return source, maps.get(source, [])


def _norms_in_training(model: nn.Module, world_size: int) -> List[nn.Module]:
    """The BatchNorms that take their statistics from the batch of this process."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training
            and not (isinstance(module, nn.SyncBatchNorm) and world_size > 1)]


def _single_pictures(loop: BaseLoop) -> Optional[str]:
    """Says how a batch of one picture comes about in a training, None if none does as far as its samplers are known."""
    batches = loop.dataloader.batch_sampler
    size, sampler = getattr(batches, 'batch_size', None), getattr(batches, 'sampler', None)
    if size == 1:
        return 'with train_dataloader.batch_size=1 each batch has one picture'
    if size is None or not isinstance(sampler, (DefaultSampler, RandomSampler, SequentialSampler)) or batches.drop_last:
        return None
    if len(sampler) % size != 1 or isinstance(loop, IterBasedTrainLoop) and loop.max_iters < len(batches):
        return None
    return f'of {len(sampler)} pictures in batches of {size} the last batch of an epoch has one'
