"""What a user can get wrong ends with a sentence that names the value and what is allowed, and writes no weights."""
import re
from functools import partial

import pytest
import torch

from hybrid_mm import commands

train, evaluate = (partial(commands.main, name) for name in ('train', 'test'))

AT_ONCE = [
    (['no.py'], {}, '^Error: the config no.py does not exist; give the path of a file$'),
    (['{detector}'], dict(SHAPES='data/shapes'),
     '^Error: data/shapes/coco/, .* does not exist; make the data with `python tools/datasets/make_shapes.py`, or .*'
     '--cfg-options train_dataloader.dataset.data_root=PATH`$'),
    (['{detector}', '--cfg-options', 'train_dataloader.dataset.ann_file={tmp}/list.json'], {},
     'list.json is not a COCO annotation file: .* needs the keys images, annotations, categories$'),
    (['{detector}'], dict(LOCAL_RANK='1'), '^Error: LOCAL_RANK=1 is set, .* add --launcher pytorch'),
    (['{detector}'], dict(WORLD_SIZE='2'), '^Error: WORLD_SIZE=2 is set, .* add --launcher pytorch'),
    (['{detector}', '--launcher', 'pytorch'], {},
     '^Error: --launcher pytorch needs .* RANK, WORLD_SIZE, .*dist_train.sh'),
    (['{detector}', '--resume', 'no.pth'], {}, '^Error: --resume no.pth does not exist; give the path of a file$'),
    (['{detector}', '--cfg-options', 'load_from=no.pth'], {}, '^Error: load_from no.pth does not exist'),
    (['{detector}', '--cfg-options', 'model.backbone.init_cfg.type=hybrid_mm.Released',
      'model.backbone.init_cfg.checkpoint=no.pth'], {},
     '^Error: model.backbone.init_cfg.checkpoint no.pth does not exist; give a file with `--cfg-options .*=FILE`, or start '
     'from random weights with `--cfg-options model.backbone.init_cfg=None`$'),
    (['{detector}', '--auto-scale-lr', '--cfg-options', 'auto_scale_lr=None'], {}, '^Error: --auto-scale-lr needs'),
    (['{detector}', '--cfg-options', 'default_scope=mmocr'], {},
     "^Error: default_scope='mmocr' of the config is not allowed; choose from mmdet, mmseg, mmpretrain$"),
]
DURING_THE_BUILD = [
    (['{detector}', '--cfg-options', 'model.backbone.arch=huge'],
     "^Error: arch='huge' is unknown; choose from small, base, medium, large"),
    (['{detector}', '--cfg-options', 'model.backbone.out_indices=(1,4)'],
     r'^Error: out_indices=\(1, 4\) is not allowed; choose one or more from -4 to 3$'),
    (['{detector}', '--cfg-options', 'model.backbone.head_dim=24'], '^Error: head_dim=24 '),
    (['{detector}', '--cfg-options', 'model.backbone.arch.grid_sizes=[0,8,8,1]'], '^Error: grid_size=0 '),
    (['{classifier}', '--cfg-options', 'train_dataloader.dataset.pipeline.1.scale=16'],
     '^Error: the image has 16x16 pixels, less than the stride of 32 of TransCNN; give at least 32x32 pixels$'),
    (['{detector}', '--cfg-options', 'model.roi_head.mask_head.num_classes=80'],
     '^Error: num_classes=80 of model.roi_head.mask_head disagrees with the train data, which have 4 classes: disc, '),
    (['{segmentor}', '--cfg-options', 'model.auxiliary_head.num_classes=150'],
     '^Error: num_classes=150 of model.auxiliary_head disagrees with the train data, .* 5 classes: background, disc,'),
    (['{classifier}', '--cfg-options', 'data_preprocessor.num_classes=1000'],
     '^Error: num_classes=1000 of model.data_preprocessor disagrees with the train data, .* bright, dark;'),
    (['{detector}', '--cfg-options', 'train_dataloader.dataset.filter_cfg.min_size=1000'],
     "^Error: CocoDataset has no images: .*instances_train2017.json.* pass filter_cfg=.*'min_size': 1000"),
    (['{detector}', '--cfg-options', 'load_from={tmp}/other.pth'],
     '^Error: the checkpoint .*other.pth is of another network: the file lacks .* and .* more; .*give one that was saved '
     'with the backbone of this config$'),
    (['{setformer}', '--cfg-options', 'model.backbone.init_cfg.type=hybrid_mm.Released',
      'model.backbone.init_cfg.checkpoint={tmp}/other.pth'],
     '^Error: .*other.pth does not fit the backbone: the file lacks .*; the model has no weight$'),
    (['{setformer}', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained', 'model.backbone.init_cfg.prefix=None',
      'model.backbone.init_cfg.checkpoint={tmp}/other.pth'],
     '^Error: .*other.pth does not fit the backbone: the file lacks .*; the model has no weight$'),
    (['{detector}', '--resume', '{tmp}/other.pth'],
     '^Error: the checkpoint .*other.pth is of another network: .* with the model of this config$'),
]


@pytest.fixture
def fail(in_process, tmp_path, tiny):
    """The message that a tool ends with, in an empty folder."""
    (tmp_path / 'list.json').write_text('[]')
    torch.save(dict(state_dict=dict(weight=torch.zeros(1)), meta=dict(iter=1, epoch=1), message_hub={}, optimizer={}),
               tmp_path / 'other.pth')
    names = dict(tmp=tmp_path, **{name: tiny(name) for name in ('detector', 'segmentor', 'classifier', 'setformer')})

    def fail(tool, args):
        with pytest.raises(SystemExit) as raised:
            tool([arg.format(**names) for arg in args])
        assert '\n' not in raised.value.code
        return raised.value.code

    return fail


@pytest.mark.parametrize('args, variables, message', AT_ONCE)
def test_a_fault_that_shows_at_once_leaves_no_trace(fail, monkeypatch, tmp_path, args, variables, message):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert re.search(message, fail(train, args))
    assert sorted(path.name for path in tmp_path.iterdir()) == ['list.json', 'other.pth']


@pytest.mark.parametrize('args, message', DURING_THE_BUILD)
def test_a_fault_that_the_build_shows_ends_before_training(fail, tmp_path, args, message):
    assert re.search(message, fail(train, args))
    assert [path.name for path in tmp_path.rglob('*.pth')] == ['other.pth']


@pytest.mark.parametrize('args, message', [
    (['{detector}', 'no.pth'], '^Error: checkpoint no.pth does not exist; give the path of a file$'),
    (['{detector}', '{tmp}/list.json'], 'list.json is no checkpoint of PyTorch, or incomplete; give another file$'),
    (['{detector}', '{tmp}/other.pth', '--out', 'found.json'],
     '^Error: --out found.json is not allowed; give a file that ends in .pkl or .pickle$'),
    (['{detector}', '{tmp}/other.pth', '--tta'], '^Error: --tta merges boxes, but not masks'),
    (['{segmentor}', '{tmp}/other.pth'],
     '^Error: the checkpoint .*other.pth is of another network: the file lacks .* with the model of this config$'),
])
def test_a_fault_in_testing_ends_with_a_sentence(fail, args, message):
    assert re.search(message, fail(evaluate, args))


def test_an_error_of_another_kind_keeps_its_traceback(fail):
    with pytest.raises(KeyError, match='NoSuchNeck'):
        fail(train, ['{detector}', '--cfg-options', 'model.neck.type=NoSuchNeck'])


def test_the_tool_prints_the_sentence_and_fails(run_tool, tmp_path):
    result = run_tool('train.py', 'no.py', check=False, cwd=tmp_path, fresh=True)
    assert result.returncode == 1
    assert result.stderr == 'Error: the config no.py does not exist; give the path of a file\n'


@pytest.mark.parametrize('script, args', [
    ('dist_train.sh', ['net.py']),
    ('dist_test.sh', ['net.py', 'net.pth', 'many']),
    ('slurm_train.sh', ['partition', 'job', 'net.py']),
    ('slurm_test.sh', ['partition', 'job', 'net.py']),
])
def test_a_script_with_too_few_arguments_says_how_it_is_called(run_tool, script, args):
    result = run_tool(script, *args, check=False)
    assert result.returncode == 1
    assert f'bash tools/{script} ' in result.stderr and result.stderr.count('\n') == 1
