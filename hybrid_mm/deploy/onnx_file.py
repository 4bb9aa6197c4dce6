"""A network as an ONNX file, compared with torch before the file is there.

torch has two exporters. The older one, which records one run, fails on ParC (a convolution whose kernel is computed), on the
transport of SeTformer and on windows that are cut by the edge of a map, and writes resized patches of MobileViT wrongly without
a word. So the one on torch.export is used, for images of one size and of all sizes alike.
"""
import logging
import math
import re
import warnings
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import torch
from torch import Tensor, nn

from hybrid_mm.errors import SetupError, first_line
from hybrid_mm.output import whole_file

from .any_size import any_size

TOLERANCE = 1e-4
SMALLEST = 64  # side of an image where its size is open: two patches of ConvNeXt at stride 32
OPSETS = range(18, 24)

# images and their sides while a graph for all sizes is recorded: several windows of 224 pixels, which no stride divides
_CAPTURED = (2, 460, 683)
_CHECKED = ((2, 97, 131), (1, 64, 96))  # batches on which such a graph is compared, beside one of the size that is asked for
_FIXED = 'what it computes depends on the size of the image in a way that one graph cannot hold; leave --dynamic out'
_LARGEST = 2**31 - 2**24  # bytes of weights: an ONNX file holds less than 2 GiB


def write_onnx(network: nn.Module, shape: Sequence[int], path: Path, dynamic: bool = False, opset: int = OPSETS[0],
               output_name: str = 'output', metadata: Optional[Dict[str, str]] = None) -> float:
    """Export a network, and compare it in onnxruntime with torch.

    The measure: the largest absolute difference of any value, over the largest absolute value of the same output; the largest of
    these over all outputs, on images of normal noise.

    Args:
        network: in evaluation mode; takes images (B, C, H, W) in float32, gives a tensor or a tuple of them.
        shape: (B, C, H, W) of the images.
        path: the file, which is there afterwards only if the deviation is at most `TOLERANCE`.
        dynamic: B is open, and so are H and W from `SMALLEST` on; else they are as ``shape`` says.
        opset: version of ONNX's operators.
        output_name: of the output, or with a number behind it, from 0, of several; the input is ``image``.
        metadata: texts that the file carries along.

    Returns:
        The deviation.

    Raises:
        SetupError: a library is missing, an argument is not allowed, the network cannot be exported, or the file computes
            something else.
    """
    check_libraries()
    if opset not in OPSETS:
        raise SetupError(f'--opset {opset} is not allowed; choose from {OPSETS[0]} to {OPSETS[-1]}')
    if dynamic and min(shape[2:]) < SMALLEST:
        raise SetupError(f'--shape {shape[2]} {shape[3]} is not allowed with --dynamic; choose {SMALLEST} or more')
    size = sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))
    if size > _LARGEST:
        raise SetupError(f'the weights of {_name(network)} take {size / 2**30:.1f} GiB; an ONNX file holds less than 2')
    program = _translate(network, shape, dynamic, opset)
    if dynamic and any(isinstance(program.model.graph.inputs[0].shape[i], int) for i in (0, 2, 3)):
        raise SetupError(f'{_name(network)} cannot be exported: {_FIXED}')
    program.model.metadata_props.update(metadata or {})
    outputs = program.model.graph.outputs
    for i, output in enumerate(outputs):
        output.name = f'{output_name}{i}' if len(outputs) > 1 else output_name
    batches = [tuple(shape), *((number, shape[1], height, width) for number, height, width in _CHECKED if dynamic)]
    with whole_file(path) as partial:
        program.save(partial)
        del program
        deviation = _deviation(network, partial, batches)
        if not deviation <= TOLERANCE:
            raise SetupError(f'{_name(network)} computes something else in onnxruntime than in torch, {deviation:.1e} of the '
                             f'largest value and at most {TOLERANCE:.0e} is allowed; the file is not kept')
    return deviation


def check_libraries() -> None:
    """Raise a SetupError if one of the libraries that write and run ONNX is not installed."""
    missing = [name for name in ('onnx', 'onnxscript', 'onnxruntime') if find_spec(name) is None]
    if missing:
        raise SetupError(f'ONNX needs {", ".join(missing)}, not installed here; run `pip install {" ".join(missing)}`')


def _translate(network: nn.Module, shape: Sequence[int], dynamic: bool, opset: int) -> Any:
    """An ``ONNXProgram``."""
    dims = None
    if dynamic:
        Dim = torch.export.Dim
        dims = ({0: Dim('batch', min=1), 2: Dim('height', min=SMALLEST), 3: Dim('width', min=SMALLEST)}, )
        shape = _CAPTURED[0], shape[1], *_CAPTURED[1:]
    try:
        with _quiet(), torch.no_grad(), any_size(network) if dynamic else nullcontext():
            return torch.onnx.export(network, (torch.zeros(shape), ), dynamo=True, dynamic_shapes=dims, opset_version=opset,
                                     input_names=['image'], verbose=False)
    except Exception as error:  # torch raises whatever a network or an operator raises
        raise SetupError(f'{_name(network)} cannot be exported: {_reason(error, dynamic)}') from error


def _deviation(network: nn.Module, path: Path, batches: Sequence[Tuple[int, ...]]) -> float:
    """Of an ONNX file from a network, see `write_onnx`; infinite if a value is none or the shapes differ."""
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # a fault is raised, too
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(shape, generator=generator) for shape in batches]
    fault, results = 'onnxruntime does not take the file', []
    try:
        session = onnxruntime.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
        for image in images:
            fault = f'the file does not run on images {tuple(image.shape)}'
            results.append(session.run(None, dict(image=image.numpy())))
    except Exception as error:  # its classes have no common base
        raise SetupError(f'{_name(network)} cannot be exported: {fault}: {first_line(error)}') from error
    worst = 0.
    for image, outputs in zip(images, results):
        with torch.no_grad():
            expected = network(image)
        expected = [expected] if isinstance(expected, Tensor) else expected
        if [output.shape for output in outputs] != [wanted.shape for wanted in expected]:
            return math.inf
        for output, wanted in zip(map(torch.from_numpy, outputs), expected):
            deviation = ((output - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30)).item()
            worst = max(worst, math.inf if math.isnan(deviation) else deviation)
    return worst


def _reason(error: BaseException, dynamic: bool) -> str:
    """What torch says, in a sentence."""
    said = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        said += f' {error}'
    operator = re.search(r"OpOverload\(op='([^']+)'", said)
    if 'No ONNX function found' in said and operator:
        return f"ONNX has no counterpart of torch's operator {operator[1]}"
    if dynamic and any(word in said for word in ('Constraints violated', 'Specializations', 'symbolic', 'data-dependent')):
        return _FIXED
    return first_line(error)


def _name(network: nn.Module) -> str:
    model = getattr(network, 'model', network)
    return type(getattr(model, 'backbone', model)).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch.onnx and its libraries say of themselves."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)
