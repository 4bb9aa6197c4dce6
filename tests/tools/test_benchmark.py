"""`tools/analysis/benchmark.py` as a user runs it: what runs is what it says, in turn, and one sentence for what cannot run."""
import json
import os.path as osp
import re
import statistics
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import hybrid_mm
from hybrid_mm import commands
from hybrid_mm.analysis import speed
from hybrid_mm.commands.benchmark import distinct_names
from hybrid_mm.environment import libraries

RESNET = '''
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ResNet', depth=18, stem_channels=8, base_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=64))
'''


main = partial(commands.main, 'benchmark')


@pytest.fixture
def benchmark(tiny, monkeypatch, tmp_path, capsys):
    """Run the tool on the CPU in an empty folder, on small images, for a round; returns what it prints and its file."""
    monkeypatch.syspath_prepend(osp.dirname(osp.dirname(tiny('base'))))  # for the probes of the tiny configs
    monkeypatch.chdir(tmp_path)

    def run(*args):
        options = dict(shape=['64', '96'], rounds=['1'], out=['speed.json'])
        defaults = [f'--{name}' if i == 0 else value for name, values in options.items()
                    if f'--{name}' not in args and not (name == 'rounds' and '--seconds' in args)
                    for i, value in enumerate(['', *values])]
        main([*args, *defaults, '--device', 'cpu', '--force'])
        return capsys.readouterr().out, json.loads((tmp_path / 'speed.json').read_text())

    return run


@pytest.fixture
def models(monkeypatch):
    """The networks that the tool builds."""
    built, build = [], speed._build

    def keep(*args):
        built.append(build(*args))
        return built[-1]

    monkeypatch.setattr(speed, '_build', keep)
    return built


@pytest.fixture
def when_built(monkeypatch):
    """Do something with each network before it runs."""

    def register(function):
        build = speed._build

        def build_and_do(*args):
            model = build(*args)
            function(model)
            return model

        monkeypatch.setattr(speed, '_build', build_and_do)

    return register


@pytest.fixture
def resnet(tmp_path):
    (tmp_path / 'resnet.py').write_text(RESNET)
    return str(tmp_path / 'resnet.py')


def test_table_and_file_agree(benchmark, tiny):
    printed, found = benchmark(tiny('detector'), tiny('segmentor'), tiny('classifier'), '--rounds', '3')
    how = {key: value for key, value in found.items() if key not in ('networks', 'versions', 'hardware')}
    assert how == dict(mode='inference', part='network', batch_size=1, dtype='float32', compile=False, channels_last=False,
                       memory_format=None, rounds=3, device='cpu', threads=torch.get_num_threads())
    assert found['versions']['torch'] == torch.__version__ and found['versions']['hybrid_mm'] == hybrid_mm.__version__
    assert {'python', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain', 'numpy'} < set(found['versions'])
    assert f'inference, whole network, batch of 1, float32; 3 rounds on cpu ({found["hardware"]}, ' in printed
    first = found['networks'][0]
    assert [network['config'] for network in found['networks']] == ['detector.py', 'segmentor.py', 'classifier.py']
    for network in found['networks']:
        times, memory = network['seconds'], network['memory']
        assert len(times) == 3 and network['shape'] == [64, 96]
        assert network['images_per_second'] == pytest.approx(1 / statistics.median(times))
        assert network['ratio'] == pytest.approx(statistics.median(np.divide(first['seconds'], times)))
        assert network['latency'] == {f'p{q}': pytest.approx(np.percentile(times, q)) for q in (50, 90, 99)}
        assert memory['weights'] >= 4 * network['parameters'] and memory['step'] > 0
        assert memory['peak'] == memory['weights'] + memory['step']
        row, = re.findall(rf'^{network["config"]} +(.*)$', printed, re.MULTILINE)
        numbers = (network['images_per_second'], *(1e3 * value for value in network['latency'].values()))
        speed_, *latency = (f'{number:.2f}' for number in numbers)
        assert row.split() == ['64x96', f'{network["parameters"] / 1e6:.3f}', speed_, f'{network["ratio"]:.3f}', *latency,
                               f'{memory["peak"] / 2**20:.1f}']
    assert first['ratio'] == 1
    assert 'networks 3/3 (100 %)' in printed and 'runs 12/12 (100 %)' in printed


def test_networks_run_in_turn(benchmark, tiny, resnet, monkeypatch):
    calls, run_network = [], speed.run_network
    monkeypatch.setattr(speed, 'run_network', lambda model, *args, **kwargs: calls.append(type(model).__name__) or run_network(
        model, *args, **kwargs))
    benchmark(resnet, tiny('segmentor'), '--rounds', '3')
    assert calls[-8:] == ['ImageClassifier', 'EncoderDecoder'] * 4  # a round warms up


def test_inference_runs_what_get_flops_counts(benchmark, tiny, when_built):
    seen = {}

    def watch(model):
        assert not model.training
        for name in ('bbox_head', 'mask_head', 'bbox_roi_extractor'):
            getattr(model.roi_head, name).register_forward_pre_hook(
                lambda _, inputs, name=name: seen.update({name: inputs}))

    when_built(watch)
    _, found = benchmark(tiny('detector'), '--batch-size', '2')
    assert found['batch_size'] == 2
    network, = found['networks']
    assert network['images_per_second'] == pytest.approx(2 / network['seconds'][0])
    assert (len(seen['bbox_head'][0]), len(seen['mask_head'][0])) == (2 * 1000, 2 * 100)
    maps, boxes = seen['bbox_roi_extractor']
    assert len(maps) == 4
    assert not any(x.requires_grad for x in maps)
    image, *corners = boxes.T
    assert image.tolist() == 1000 * [0] + 1000 * [1]
    left, top, right, bottom = corners
    assert (left >= 0).all() and (top >= 0).all() and (right <= 96).all() and (bottom <= 64).all()
    assert (right - left).min() < 4 and (right - left).max() > 90  # of all sizes
    assert left.min() < 5 and right.max() > 91


@pytest.mark.parametrize('name', ['detector', 'segmentor', 'classifier'])
def test_training_reaches_all_parameters_through_the_losses(benchmark, tiny, models, when_built, name):
    reached, losses = set(), []

    def watch(model):
        assert model.training
        for key, parameter in model.named_parameters():
            parameter.register_hook(lambda grad, key=key: reached.add(key))
        model.loss = lambda *args, loss=model.loss: losses.append(loss(*args)) or losses[-1]

    when_built(watch)
    printed, found = benchmark(tiny(name), '--train')
    assert 'training, whole network, batch of 2, float32' in printed and found['mode'] == 'training'
    model, = models
    assert reached == {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(parameter.grad is None for parameter in model.parameters())
    expected = dict(detector={'loss_rpn_cls', 'loss_rpn_bbox', 'loss_cls', 'loss_bbox', 'loss_mask', 'acc'},
                    segmentor={'decode.loss_ce', 'decode.acc_seg', 'aux.loss_ce', 'aux.acc_seg'}, classifier={'loss'})[name]
    assert all(expected <= set(found) for found in losses)
    if name == 'detector':  # there is something to find
        assert all(sum(found['loss_rpn_bbox']) > 0 and found['loss_mask'] > 0 for found in losses)


def test_the_backbone_alone(benchmark, resnet, models):
    _, inference = benchmark(resnet, '--backbone')
    printed, training = benchmark(resnet, '--backbone', '--train')
    assert 'training, backbone alone, batch of 2' in printed and training['part'] == 'backbone'
    assert [type(model).__name__ for model in models] == ['ResNet', 'ResNet']
    sizes = [found['networks'][0]['parameters'] for found in (inference, training)]
    assert sizes == [sum(parameter.numel() for parameter in models[0].parameters())] * 2
    steps = [found['networks'][0]['memory']['step'] for found in (inference, training)]
    assert steps[1] > 2 * steps[0]  # maps are kept for the backward pass


def test_channels_last_ends_at_the_backbone(benchmark, resnet, when_built, models):
    inside, outside = [], []

    def watch(model):
        model.backbone.conv1.register_forward_pre_hook(lambda _, inputs: inside.append(inputs[0]))
        model.neck.register_forward_pre_hook(lambda _, inputs: outside.extend(inputs[0]))

    when_built(watch)
    benchmark(resnet)
    printed, found = benchmark(resnet, '--channels-last')
    assert ', channels last; ' in printed and (found['channels_last'], found['memory_format']) == (True, 'channels_last')
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in inside] == 4 * [False] + 4 * [True]
    assert models[1].backbone.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert all(x.is_contiguous() for x in outside)
    torch.testing.assert_close(outside[-1], outside[0], rtol=1e-4, atol=1e-5)


def test_our_backbones_take_the_memory_format_as_their_argument(benchmark, tiny, when_built):
    inside = []
    when_built(lambda model: model.backbone.stem.register_forward_pre_hook(lambda _, inputs: inside.append(
        (model.backbone.memory_format, inputs[0].is_contiguous(memory_format=torch.channels_last)))))
    contiguous = ['--cfg-options', 'model.backbone.memory_format=contiguous']
    for args, expected in [(contiguous, ('contiguous', False)),
                           (['--memory-format', 'contiguous'], ('contiguous', False)),
                           (['--memory-format', 'auto', *contiguous], ('auto', True)),
                           (['--channels-last', *contiguous], ('channels_last', True))]:
        inside.clear()
        printed, found = benchmark(tiny('classifier'), *args)
        assert set(inside) == {expected}
        given = expected[0] if args != contiguous else None
        assert (found['memory_format'], found['channels_last']) == (given, given == 'channels_last')
        assert (', memory format ' in printed) == (given in ('auto', 'contiguous'))


def test_another_backbone_stays_contiguous_unless_it_is_to_be_channels_last(benchmark, resnet, models):
    for memory_format in ('auto', 'contiguous', 'channels_last'):
        benchmark(resnet, '--memory-format', memory_format)
    weights = [model.backbone.conv1.weight for model in models]
    assert [x.is_contiguous(memory_format=torch.channels_last) for x in weights] == [False, False, True]


@pytest.mark.parametrize('train', [False, True])
def test_mixed_precision(benchmark, tiny, resnet, when_built, train):
    found = {}

    def watch(model):
        watched = dict(convolution=model.backbone.conv1) if hasattr(model.backbone, 'conv1') else dict(
            lateral=model.neck.lateral_convs[0].conv, rpn=model.rpn_head.rpn_conv)
        for name, module in watched.items():
            module.register_forward_hook(lambda _, inputs, out, name=name: found.update({name: out.dtype}))

    when_built(watch)
    printed, numbers = benchmark(resnet, tiny('detector'), '--amp', *(['--train'] if train else []))
    # mmcv's operators, which a detector's heads need, have no bfloat16
    assert found == dict(convolution=torch.bfloat16, lateral=torch.bfloat16, rpn=torch.float32)
    assert 'bfloat16 (autocast)' in printed and numbers['dtype'] == 'bfloat16 (autocast)'


def test_number_format_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: False)
    assert speed.find_dtype('cuda:1') is torch.float16
    with pytest.raises(ValueError, match='^--amp-dtype bfloat16 is not there on device cuda:1; choose from float16$'):
        speed.find_dtype('cuda:1', 'bfloat16')
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    assert speed.find_dtype('cuda:1', 'bfloat16') is torch.bfloat16


def test_the_backbone_is_compiled(benchmark, resnet, monkeypatch, models):
    graphs, compile_ = [], torch.compile

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    monkeypatch.setattr(torch, 'compile', lambda function: compile_(function, backend=backend))
    _, found = benchmark(resnet, '--compile')
    assert found['compile'] and len(graphs) == 1
    kinds = {node.target for node in graphs[0].graph.nodes if node.op == 'call_function'}
    assert torch.conv2d in kinds and nn.functional.linear not in kinds  # the head is outside


def test_rounds_fill_the_time(benchmark, resnet, monkeypatch):
    monkeypatch.setattr(speed, 'seconds', lambda step: 0.25)
    assert benchmark(resnet, '--seconds', '2')[1]['rounds'] == 8
    assert benchmark(resnet, '--seconds', '0.1')[1]['rounds'] == 5


def test_settings_replace_those_of_all_configs(benchmark, resnet):
    _, found = benchmark(resnet, resnet, '--cfg-options', 'model.head.num_classes=7')
    sizes = [network['parameters'] for network in found['networks']]
    assert sizes == [benchmark(resnet)[1]['networks'][0]['parameters'] + 2 * (64 + 1)] * 2


def test_one_number_is_both_sides(benchmark, resnet):
    assert benchmark(resnet, '--shape', '32')[1]['networks'][0]['shape'] == [32, 32]


def test_configs_of_the_same_name_are_told_apart():
    assert distinct_names(['a/net.py', 'a/other.py']) == ['net.py', 'other.py']
    assert distinct_names(['a/x/net.py', 'b/x/net.py', 'other.py']) == [
        'a/x/net.py', 'b/x/net.py', '/'.join([*Path.cwd().parts[-2:], 'other.py'])]
    assert distinct_names(['a/net.py', 'a/../a/net.py']) == ['net.py (1)', 'net.py (2)']


def test_each_of_two_configs_of_the_same_name_has_its_row(benchmark, resnet, tmp_path):
    for folder, classes in (('a', 5), ('b', 9)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / 'net.py').write_text(RESNET.replace('num_classes=5', f'num_classes={classes}'))
    _, found = benchmark('a/net.py', 'b/net.py')
    first, second = found['networks']
    assert (first['config'], second['config']) == ('a/net.py', 'b/net.py')
    assert second['parameters'] - first['parameters'] == 4 * (64 + 1)


@pytest.mark.parametrize('args, message', [
    (['{net}', 'no.py'], 'the config no.py does not exist; give the path of a file'),
    (['{net}', '--shape', '16', '64'], 'shape 16 64 is not allowed; give height and width in pixels, each 32 or more'),
    (['{net}', '--batch-size', '0'], '--batch-size 0 is not allowed; choose 1 or more'),
    (['{net}', '--rounds', '0'], '--rounds 0 is not allowed; choose 1 or more'),
    (['{net}', '--seconds', 'nan'], '--seconds nan is not allowed; choose more than 0'),
    (['{net}', '--out', 'no/speed.json'], 'the folder no of --out no/speed.json does not exist; make it, or give another'),
    (['{net}', '--out', 'speed.txt'], '--out speed.txt is not allowed; give a file that ends in .json'),
    (['{net}', '--out', 'resnet.json'], '--out resnet.json exists; give another file, or pass --force to overwrite it'),
    (['{net}', '--device', 'gpu'], '--device gpu is not there; choose from cpu'),
    (['{net}', '--amp', '--amp-dtype', 'float16'], '--amp-dtype float16 is not there on device cpu; choose from bfloat16'),
    (['{net}', '--amp-dtype', 'bfloat16'], '--amp-dtype bfloat16 is for --amp, which is missing; add it, or leave this out'),
    (['{net}', '--cfg-options', 'default_scope=mmocr'], "default_scope='mmocr' of the config is not allowed; choose from"),
    (['{net}', '--cfg-options', 'model=None'], 'the config has no model; give the config of a detector, segmentor or class'),
    (['{net}', '--train', '--batch-size', '1'],
     'resnet.py: --batch-size 1 is not allowed, since a BatchNorm over one value cannot train; give a larger one, or a '),
])
def test_a_fault_ends_with_a_sentence(resnet, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'resnet.json').write_text('{}')
    device = [] if '--device' in args else ['--device', 'cpu']
    shape = [] if '--shape' in args else ['--shape', '32']
    with pytest.raises(SystemExit) as raised:
        main([*(arg.format(net=resnet) for arg in args), *shape, *device])
    assert raised.value.code.startswith(f'Error: {message}') and '\n' not in raised.value.code
    assert sorted(path.name for path in tmp_path.iterdir()) == ['resnet.json', 'resnet.py']
    assert (tmp_path / 'resnet.json').read_text() == '{}'


def test_a_library_that_is_missing_is_named(tiny, resnet, monkeypatch):
    monkeypatch.syspath_prepend(osp.dirname(osp.dirname(tiny('base'))))
    monkeypatch.setattr(libraries, 'find_spec', lambda module: None if module == 'mmseg' else module)
    with pytest.raises(SystemExit, match=r"^Error: default_scope='mmseg' needs mmseg, not installed here; run `pip install"):
        main([resnet, tiny('segmentor')])


@pytest.mark.parametrize('args, error, message', [
    ([], torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2 GiB'),
     '--batch-size 1 needs more memory than there is; give a smaller one, or a smaller --shape'),
    (['--amp'], NotImplementedError('"nms" not implemented for \'BFloat16\'\nat line 1'),
     '--amp is not allowed, since an operator has no bfloat16 ("nms" not implemented for \'BFloat16\'); leave it out'),
    (['--compile'], torch._dynamo.exc.BackendCompilerFailed(print, RuntimeError('no compiler'), None),
     "--compile is not allowed, since torch.compile fails (backend='print' raised: RuntimeError: no compiler); leave "
     'it out'),
])
def test_what_fails_in_the_first_run_is_explained(benchmark, resnet, tmp_path, monkeypatch, args, error, message):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(speed, 'run_network', fail)
    with pytest.raises(SystemExit) as raised:
        benchmark(resnet, *args)
    assert raised.value.code == f'Error: resnet.py: {message}'
    assert not (tmp_path / 'speed.json').exists()


def test_a_roi_head_of_another_kind_is_refused(benchmark):
    import mmdet
    htc = osp.join(osp.dirname(mmdet.__file__), '.mim', 'configs', 'htc', 'htc-without-semantic_r50_fpn_1x_coco.py')
    with pytest.raises(SystemExit, match=r'^Error: htc-w.*py: roi_head of type HybridTaskCascadeRoIHead cannot be measured; '):
        benchmark(htc)
