"""What every backbone can do, a small test for each cell of the table in the README (features.py)."""
import copy
import logging
import re

import pytest
import torch
from backbones.features import BACKBONES, FEATURES, SHORT, cases, feature_table
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from hybrid_mm.deploy import TOLERANCE, write_onnx

ODD = 97, 131


def of(feature):
    """Each row that has the feature."""
    assert feature in FEATURES
    return pytest.mark.parametrize('name', cases(feature))


def build(name, **kwargs):
    """A backbone with weights of some size, norms and running statistics unlike their start: every part counts."""
    logging.getLogger('mmengine').setLevel(logging.ERROR)
    torch.manual_seed(0)
    cfg = {**copy.deepcopy(BACKBONES[name]), **kwargs}
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
    for key, value in model.state_dict().items():
        if key.endswith('running_var'):
            value.uniform_(0.5, 1.5)
        elif key.endswith('weight') and value.ndim == 1:
            value.normal_(1, 0.1)
        elif value.is_floating_point() and not key.endswith('gamma'):
            value.normal_(std=value[0].numel()**-0.5 if value.ndim > 1 and value.shape[0] > 1 else 0.1)
    model.eval()
    return model


def build_short(name):
    """The same with few blocks, see `SHORT`."""
    return build(name, **copy.deepcopy(SHORT.get(name, {})))


def run(model, image):
    with torch.no_grad():
        return model(image)


def train(model, image, passes=1):
    """Outputs and gradients of one step, from some backward passes over the same graph."""
    torch.manual_seed(1)
    outputs = model(image)
    loss = sum(output.float().square().mean() for output in outputs)
    for i in range(passes):
        loss.backward(retain_graph=i < passes - 1)
    return outputs, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def relative(output, expected):
    return (output - expected).abs().max() / expected.abs().max()


@of('ONNX, any size')
def test_onnx_file_for_images_of_any_size(name, tmp_path):
    import onnx
    path = tmp_path / 'net.onnx'
    assert write_onnx(build_short(name), (1, 3, 101, 70), path, dynamic=True) <= TOLERANCE
    shape = onnx.load(str(path)).graph.input[0].type.tensor_type.shape
    assert [dim.dim_param or dim.dim_value for dim in shape.dim] == ['batch', 3, 'height', 'width']


@of('torch.compile')
def test_inference_compiles_into_one_graph(name):
    model, image = build_short(name), torch.randn(1, 3, *ODD)
    torch.compiler.reset()
    compiled = torch.compile(model, backend='eager', fullgraph=True, dynamic=False)
    for output, expected in zip(run(compiled, image), run(model, image), strict=True):
        assert relative(output, expected) < TOLERANCE


@of('bfloat16')
def test_bfloat16_is_near_float32_and_trains_with_finite_gradients(name):
    model, image = build(name), torch.randn(2, 3, 64, 96)
    with torch.autocast('cpu', torch.bfloat16):
        outputs = run(model, image)
        for output, expected in zip(outputs, run(model.float(), image), strict=True):
            assert relative(output.float(), expected) < 0.1
        model.train()  # which some hosts of ParC answer with None
        _, gradients = train(model, image)
    assert gradients.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(gradient.isfinite().all() for gradient in gradients.values())


@of('with_cp')
def test_checkpointing_changes_neither_outputs_nor_gradients_nor_statistics(name):
    runs, kept = [], []
    image = torch.randn(2, 3, 64, 48, dtype=torch.float64)
    for with_cp in (False, True):
        model = build(name, with_cp=with_cp, drop_path_rate=0.3).double().train()
        numbers = []

        def note(tensor, numbers=numbers):
            numbers.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            outputs, gradients = train(model, image, passes=2)
        runs.append({**dict(enumerate(outputs)), **gradients, **dict(model.named_buffers())})
        kept.append(sum(numbers))
    assert runs[0].keys() == runs[1].keys()
    for key, value in runs[0].items():
        torch.testing.assert_close(runs[1][key], value, rtol=1e-9, atol=1e-12, msg=str(key))
    assert kept[1] < 0.9 * kept[0]


@of('frozen_stages')
def test_frozen_stages_freeze_the_stem_and_the_first_stages(name):
    number = len(build(name).stages)
    for frozen_stages in (-1, 0, 1, number):
        model = build(name, frozen_stages=frozen_stages, out_indices=(number - 1, )).train()
        parts = [model.stem, *model.stages, *model.downsamples]
        is_frozen = [i <= frozen_stages for i in range(number + 1)] + [i < frozen_stages for i in range(number)]
        assert [not any(m.training for m in part.modules()) for part in parts] == is_frozen
        for part, frozen in zip(parts, is_frozen):
            learns = [p.requires_grad for p in part.parameters()]
            assert not learns or any(learns) == (not frozen)


@of('odd sizes')
def test_maps_of_images_of_odd_size(name):
    model = build(name)
    channels = getattr(model, 'out_channels', None)
    strides = [16] * 4 if name.startswith('GLiT') else (4, 8, 16, 32)
    for size in ((32, 32), (33, 47), ODD):
        outputs = run(model, torch.randn(2, 3, *size))
        if name == 'GLiT, image':
            assert [tuple(output.shape) for output in outputs] == [(2, 12)]
        elif 'ConvNeXt' in name:  # patches do not overlap: what is left over at the edge is lost
            assert [tuple(output.shape[2:]) for output in outputs] == [(size[0] // s, size[1] // s) for s in strides]
        else:
            assert [tuple(output.shape[2:]) for output in outputs] == [(-(-size[0] // s), -(-size[1] // s)) for s in strides]
        assert channels is None or tuple(output.shape[1] for output in outputs) == channels
        assert all(output.is_contiguous() and output.isfinite().all() for output in outputs)


class Network(nn.Module):
    """A backbone and what else there may be."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Conv2d(3, 3, 1)


@of('layer decay')
def test_every_parameter_learns_at_the_rate_of_its_depth(name):
    model = Network(build(name))
    wrapper = build_optim_wrapper(
        model,
        dict(
            type='OptimWrapper', constructor='hybrid_mm.LayerDecayOptimizerConstructor', paramwise_cfg=dict(decay_rate=0.5),
            optimizer=dict(type='SGD', lr=1., weight_decay=0.)))
    rates = {id(p): group['lr'] for group in wrapper.param_groups for p in group['params']}
    layers = {name: torch.tensor(rates[id(p)]).log2().neg().item() for name, p in model.named_parameters() if p.requires_grad}

    number = model.backbone.get_layer_depth('backbone.x', 'backbone.')[1]
    for key, layer in layers.items():
        depth = model.backbone.get_layer_depth(key, 'backbone.')[0]
        assert layer == (0 if re.match(r'neck|backbone\.(out_)?norm', key) else number - 1 - depth), key
    assert max(layers.values()) == number - 1
    assert len(layers) == sum(p.requires_grad for p in model.parameters())


def test_the_table_in_the_docs_is_that_of_the_tests(root):
    page = (root / 'docs' / 'models.md').read_text()
    table = page.split('<!-- features -->\n')[1].split('\n<!-- /features -->')[0]
    assert table == feature_table(), 'run python tools/tables.py'


def test_a_cell_without_a_test_has_a_footnote():
    table = feature_table().splitlines()
    assert len(table[0].split('|')) - 3 == len(FEATURES)
    for line, name in zip(table[2:], BACKBONES):
        cells = [cell.strip() for cell in line.strip('|').split('|')]
        assert cells[0] == name
        assert [cell == 'yes' for cell in cells[1:]] == [name in cases(feature) for feature in FEATURES]
    for number in re.findall(r'\[(\d)\] \|', feature_table()):
        assert re.search(rf'^\[{number}\] \w', feature_table(), re.MULTILINE)
