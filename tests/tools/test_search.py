"""`tools/search/` as a user runs it: supernet, search, training of what was found; kills, processes, and what cannot work."""
import copy
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch.nn.modules.batchnorm import _BatchNorm

from hybrid_mm import commands
from hybrid_mm.commands.search import fingerprint
from hybrid_mm.compat import allow_training_checkpoints
from hybrid_mm.search.evaluate import CandidateEvaluator, load_supernet
from hybrid_mm.search.settings import read_settings

search, supernet_train, retrain = (partial(commands.main, name) for name in ('search', 'supernet_train', 'retrain'))

allow_training_checkpoints()

BACKBONE = '''dict(
    _delete_=True, type='hybrid_mm.GLiTSupernet', mode={mode!r}, global_blocks=(), arch=dict(
        embed_dims=12, num_heads=3,
        space=dict(options=[dict(G=[0, 1, 2, 3], K=[3], E=[1, 2], d_k=[1], d_z=[1])], num_blocks=4)))'''
DETECTOR = f'''
_base_ = [__import__('hybrid_mm').config_path('maskrcnn_setformer_m_shapes.py')]
model = dict(
    backbone={BACKBONE.format(mode='dense')},
    neck=[dict(type='hybrid_mm.TokenPyramid', in_channels=12),
          dict(type='FPN', in_channels=[12] * 4, out_channels=64, num_outs=5)])
data_root = '{{shapes}}/coco/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
val_evaluator = dict(ann_file=data_root + 'annotations/instances_val2017.json')
'''
CLASSIFIER = f'''
_base_ = [__import__('hybrid_mm').config_path('imagenet_transcnn_s.py')]
model = dict(backbone={BACKBONE.format(mode='image')}, neck=None, head=dict(in_channels=12, num_classes=2))
data_preprocessor = dict(num_classes=2)
dataset = dict(
    _delete_=True, type='CustomDataset', data_root='{{pictures}}',
    pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')])
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dataset)
val_evaluator = dict(topk=(1, ))
'''


@pytest.fixture
def folder(monkeypatch, tmp_path, shapes, pictures):
    """An empty folder to work in, with what the tiny configs name."""
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope='session')
def supernet(run_tool, tiny, tmp_path_factory):
    """Work folder of a supernet trained for two epochs of two iterations."""
    work_dir = tmp_path_factory.mktemp('supernet')
    run_tool('search/supernet_train.py', tiny('search'), '--work-dir', work_dir)
    return work_dir


@pytest.fixture(scope='session')
def searched(tiny, supernet, shapes, tmp_path_factory):
    """Folder of a search in one process."""
    work_dir = tmp_path_factory.mktemp('search') / 'whole'
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SHAPES', str(shapes))
        patch.syspath_prepend(str(Path(__file__).parent))
        search([tiny('search'), '--checkpoint', str(supernet), '--work-dir', str(work_dir)])
    return work_dir


@pytest.fixture
def uninterrupted(folder, searched):
    """A copy of this folder, `whole`."""
    shutil.copytree(searched, folder / 'whole')
    return folder / 'whole'


def files(path):
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}


def evaluated(path, column='finished'):
    """When each evaluation of a folder was done, or another column."""
    with closing(sqlite3.connect(path / 'search.sqlite')) as connection:
        rows = connection.execute(f'SELECT stage, candidate, {column} FROM evaluations')
        return {(stage, candidate): value for stage, candidate, value in rows}


def running_children(process):
    """Ids of the processes that a process has started."""
    return [int(child) for child in Path(f'/proc/{process}/task/{process}/children').read_text().split()]


def evaluator_of(text, folder, **search_settings):
    """An evaluator with random weights."""
    (folder / 'net.py').write_text(text)
    cfg = Config.fromfile(str(folder / 'net.py'))
    cfg.search = dict(limit_gmacs=1., bn_batches=2, bn_batch_size=3, val_images=3, **search_settings)
    torch.manual_seed(0)
    from mmengine.registry import MODELS, DefaultScope
    model_cfg = copy.deepcopy(cfg.model)
    if 'data_preprocessor' in cfg:
        model_cfg.data_preprocessor = cfg.data_preprocessor
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.save(dict(state_dict=MODELS.build(model_cfg).state_dict()), folder / 'net.pth')
    return CandidateEvaluator(cfg, read_settings(cfg), str(folder / 'net.pth'))


# ---- the way through ----


def test_what_a_search_finds_is_written_and_trains(uninterrupted, tiny, capsys):
    result = json.loads((uninterrupted / 'result.json').read_text())
    assert (result['metric'], result['strategy'], result['evaluations']) == ('mIoU', 'hierarchical', 16)
    ranking = result['ranking']
    assert [row['rank'] for row in ranking] == list(range(1, len(ranking) + 1))
    metrics = [row['metric'] for row in ranking]
    assert metrics == sorted(metrics, reverse=True) and len(set(metrics)) > 1
    assert all(row['gmacs'] <= 0.0003 and row['authors_gmacs'] <= row['gmacs'] for row in ranking)
    stages = {row['stage']: row['distribution'] for row in ranking}
    best_first = min((row for row in ranking if row['stage'] == 'distribution'), key=lambda row: row['rank'])
    assert stages['details'] == best_first['distribution']
    assert sorted(path.name for path in uninterrupted.iterdir()) == [
        'found_1.py', 'found_2.py', 'result.json', 'search.png', 'search.sqlite']

    retrain(['whole', '--rank', '2'])
    trained = torch.load('whole/found_2/epoch_1.pth', map_location='cpu')['state_dict']
    (G, *_, d_z), width = ranking[1]['blocks'][0], 12
    assert trained['backbone.stages.0.0.mlp.fc1.weight'].shape == (d_z * width, width)
    assert ('backbone.stages.0.0.mixer.attn.qkv.weight' in trained) == (G > 0)


def test_search_killed_in_two_processes_ends_with_the_result_of_one(root, uninterrupted, folder, tiny, supernet, shapes):
    """Killed at a random moment, continued in one process: nothing that was reported is lost or done again, what two processes
    found is what one finds, and none of them stays."""
    command = [sys.executable, str(root / 'tools' / 'search' / 'search.py'), tiny('search'), '--checkpoint', str(supernet),
               '--work-dir', 'killed', '--processes', '2']
    moment = int(np.random.default_rng().integers(1, 12))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               env=dict(os.environ, PYTHONPATH=str(Path(__file__).parent), OMP_NUM_THREADS='1'))
    reported = 0
    while reported < moment:
        line = process.stdout.readline()
        assert line, 'the search ended early'
        reported += ', mIoU' in line or ': mIoU' in line
    children = running_children(process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    before = evaluated(folder / 'killed')
    by_one = evaluated(uninterrupted, 'metrics')
    assert len(before) >= moment and evaluated(folder / 'killed', 'metrics').items() <= by_one.items()
    assert not (folder / 'killed' / 'result.json').exists()
    assert len(children) >= 2
    deadline = time.monotonic() + 20
    while any(Path(f'/proc/{child}').exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f'/proc/{child}').exists() for child in children)

    search([tiny('search'), '--checkpoint', str(supernet), '--work-dir', 'killed'])
    after = evaluated(folder / 'killed')
    assert len(after) == 16 and before.items() <= after.items()
    names = ('result.json', 'found_1.py', 'found_2.py', 'search.png')
    assert [files(folder / 'killed')[name] for name in names] == [files(uninterrupted)[name] for name in names]


@pytest.fixture
def baseline(folder, tiny, supernet):
    """Run a baseline in a folder of its name for some generations."""

    def run(strategy, generations):
        search([tiny('search'), '--checkpoint', str(supernet / 'epoch_2.pth'), '--work-dir', strategy, '--strategy', strategy,
                '--generations', str(generations), '--limit-gmacs', '0.00025', '--seed', '1', '--metric', 'mAcc'])
        return folder / strategy

    return run


@pytest.mark.parametrize('strategy', ['flat', 'random'])
def test_baselines_run_on_the_same_supernet(baseline, strategy):
    result = json.loads((baseline(strategy, 1) / 'result.json').read_text())
    assert (result['evaluations'], result['seed'], result['metric']) == (4, 1, 'mAcc')
    assert {row['stage'] for row in result['ranking']} == {strategy}
    assert all(row['gmacs'] <= 0.00025 and row['metric'] == row['metrics']['mAcc'] for row in result['ranking'])


def test_longer_search_begins_with_what_is_there(baseline, capsys):
    before = evaluated(baseline('flat', 2))
    capsys.readouterr()
    after = evaluated(baseline('flat', 3))
    assert (len(before), len(after)) == (8, 12) and before.items() <= after.items()
    assert capsys.readouterr().out.count('from the store') == 2


def test_stages_have_supernets_of_their_own(folder, tiny, supernet, capsys):
    """The first stage alone; what it prints makes the second stage's supernet from the same config."""
    search([tiny('search'), '--checkpoint', str(supernet), '--work-dir', 'first', '--stage', 'distribution',
            '--generations', '1'])
    option = re.search(r'`--cfg-options (model.backbone.arch.space.distribution=\S+)`', capsys.readouterr().out)[1]
    best = json.loads((folder / 'first' / 'result.json').read_text())['ranking'][0]
    assert best['stage'] == 'distribution' and option.endswith(','.join(map(str, best['distribution'])))

    supernet_train([tiny('search'), '--work-dir', 'net', '--cfg-options', option, 'train_cfg.max_epochs=1', 'val_cfg=None',
                    'val_dataloader=None', 'val_evaluator=None'])
    search([tiny('search'), '--checkpoint', 'net', '--work-dir', 'second', '--generations', '1', '--cfg-options', option])
    ranking = json.loads((folder / 'second' / 'result.json').read_text())['ranking']
    assert {row['stage'] for row in ranking} == {'details'}
    assert [row['distribution'] for row in ranking] == [best['distribution']] * 4


# ---- evaluation ----


def test_statistics_come_from_training_images_and_the_metric_from_validation_images(folder, tiny, supernet):
    cfg = Config.fromfile(tiny('search'))
    evaluator = CandidateEvaluator(cfg, read_settings(cfg), str(supernet / 'epoch_2.pth'))
    norms = [m for m in evaluator.model.modules() if isinstance(m, _BatchNorm)]
    seen = dict(training=[], validation=[])
    forward = evaluator.model.forward

    def record(inputs, data_samples=None, mode='tensor'):
        training = {m.training for m in norms}
        others = {m.training for m in evaluator.model.modules() if not isinstance(m, _BatchNorm)}
        assert len(training) == 1 and others == {False}
        seen['training' if True in training else 'validation'] += [Path(s.img_path) for s in data_samples]
        return forward(inputs, data_samples, mode=mode)

    evaluator.model.forward = record
    rng = np.random.default_rng(1)
    one, other = evaluator.model.backbone.space.draw(rng), evaluator.model.backbone.space.draw(rng)
    first = evaluator(one)
    assert {path.parent.name for path in seen['training']} == {'training'} and len(seen['training']) == 2 * 4
    assert {path.parent.name for path in seen['validation']} == {'validation'} and len(set(seen['validation'])) == 3
    statistics = {name: value.clone() for name, value in evaluator.model.state_dict().items()}
    evaluator(other)
    again = evaluator(one)  # whatever was evaluated before
    assert again == first
    for name, value in evaluator.model.state_dict().items():
        torch.testing.assert_close(value, statistics[name], rtol=0, atol=0)
    trained = torch.load(supernet / 'epoch_2.pth')['state_dict']
    changed = {name for name, value in statistics.items() if not torch.equal(value, trained[name])}
    of_norms = ('running_mean', 'running_var', 'num_batches_tracked')
    assert changed and all(name.rpartition('.')[2] in of_norms for name in changed)


def test_images_kept_in_memory_give_the_same_metrics(folder, tiny, supernet):
    cfg = Config.fromfile(tiny('search'))
    results = []
    for cache in (True, False):
        cfg.search.cache = cache
        evaluator = CandidateEvaluator(cfg, read_settings(cfg), str(supernet / 'epoch_2.pth'))
        results.append([evaluator(evaluator.model.backbone.space.first()) for _ in range(2)])
    assert results[0] == results[1] and results[0][0] == results[0][1]


def test_a_detector_is_evaluated_by_the_boxes_of_some_images(folder, shapes):
    evaluator = evaluator_of(DETECTOR.format(shapes=shapes), folder)
    metric, = evaluator._evaluator.metrics
    assert len(metric.img_ids) == len(set(metric.img_ids)) == 3 < len(metric._coco_api.get_img_ids())
    found = evaluator(evaluator.model.backbone.space.first())
    assert 'coco/bbox_mAP' in found and evaluator.settings.metric == 'coco/bbox_mAP'


def test_a_classifier_is_evaluated_by_its_accuracy(folder, pictures):
    evaluator = evaluator_of(CLASSIFIER.format(pictures=pictures), folder, metric='accuracy/top1')
    right = evaluator(evaluator.model.backbone.space.first())['accuracy/top1'] * 3 / 100
    assert right == pytest.approx(round(right), abs=1e-4) and 0 <= round(right) <= 3


# ---- what cannot work ----


@pytest.mark.parametrize('options, message', [
    (['--seed', '1'], '^Error: whole holds a search with seed=0, not 1; give another folder, or the settings of that search$'),
    (['--limit-gmacs', '0.00035'], '^Error: whole holds a search with limit_gmacs=0.0003, not 0.00035; '),
    (['--strategy', 'flat'], '^Error: whole holds a search with '),
    (['--cfg-options', 'search.details.K=9'], '^Error: whole holds a search with details='),
    (['--checkpoint', '{other}'], '^Error: whole holds a search with checkpoint='),
])
def test_folder_of_another_search_is_left_alone(uninterrupted, tiny, supernet, options, message):
    other = uninterrupted.parent / 'other.pth'
    other.write_bytes((supernet / 'epoch_1.pth').read_bytes())
    before = files(uninterrupted)
    with pytest.raises(SystemExit, match=message):
        search([tiny('search'), '--checkpoint', str(supernet), '--work-dir', 'whole',
                *[option.format(other=other) for option in options]])
    assert files(uninterrupted) == before


def test_space_of_another_search_is_named(uninterrupted, tiny, supernet):
    before = files(uninterrupted)
    with pytest.raises(SystemExit, match=r'^Error: whole holds a search with space="SearchSpace\(4 blocks, .*not "SearchSpace'):
        search([tiny('search'), '--checkpoint', str(supernet), '--work-dir', 'whole', '--cfg-options',
                'model.backbone.arch.space.distribution=3,0,1,2', '--stage', 'all'])
    assert files(uninterrupted) == before


@pytest.mark.parametrize('args, message', [
    (['no.py'], '^Error: the config no.py does not exist; give the path of a file$'),
    (['{segmentor}'], "^Error: model.backbone.type='hybrid_mm.TransCNN' of the config is not allowed; a search needs a "),
    (['{search}', '--limit-gmacs', '0.0001'],
     "^Error: the limit of 0.0001 G MACs is below every candidate of the space of stage 'distribution'; the smallest possible "
     r'is 0\.000\d\d\d G$'),
    (['{search}', '--limit-gmacs', '-1'], '^Error: limit_gmacs=-1.0 is not allowed; choose a number above 0'),
    (['{search}', '--seed', '-1'], '^Error: seed=-1 is not allowed; choose a whole number, 0 or more$'),
    (['{search}', '--generations', '1'], '^Error: generations=1 is not allowed; choose 2 or more, for two stages$'),
    (['{search}', '--stage', 'details'], "^Error: stage='details' needs a supernet with one G for each block"),
    (['{search}', '--processes', '0'], '^Error: processes=0 is not allowed; choose 1 or more$'),
    (['{search}', '--checkpoint', 'no.pth'], '^Error: --checkpoint no.pth does not exist; give the path of a file$'),
    (['{search}', '--checkpoint', '.'], r'^Error: --checkpoint \. is a folder without a checkpoint; train the supernet with'),
    (['{search}', '--cfg-options', 'model.backbone.arch.space.distribution=3,0,1'],
     r'^Error: distribution=.* has 3 values; give G of each of the 4 blocks$'),
    (['{search}', '--cfg-options', 'val_dataloader.dataset.data_root=nowhere'],
     '^Error: nowhere, the val_dataloader.dataset.data_root of the config, does not exist; '),
    (['{search}', '--cfg-options', 'model.decode_head.channels=4'],
     '^Error: the checkpoint .*epoch_2.pth is of another network: .*; give one that was saved with the'),
    (['{search}', '--metric', 'top1'],
     '^Error: --metric top1 is not among what val_evaluator of the config returns; choose from aAcc, mIoU, mAcc$'),
])
def test_what_cannot_work_ends_with_a_sentence(folder, tiny, supernet, args, message):
    args = [arg.format(search=tiny('search'), segmentor=tiny('segmentor')) for arg in args]
    checkpoint = [] if '--checkpoint' in args else ['--checkpoint', str(supernet)]
    with pytest.raises(SystemExit, match=message):
        search([*args, *checkpoint, '--work-dir', 'work'])
    assert not (folder / 'work' / 'result.json').exists()
    # whatever it left does not stand in the way of the next try
    if (folder / 'work').exists():
        assert evaluated(folder / 'work') == {}


def test_supernet_of_another_config_is_not_trained(folder, tiny):
    with pytest.raises(SystemExit, match="^Error: model.backbone.type='hybrid_mm.TransCNN' .* needs a hybrid_mm.GLiTSupernet$"):
        supernet_train([tiny('segmentor')])


def test_retraining_says_what_there_is(folder):
    (folder / 'found_1.py').touch()
    (folder / 'found_2.py').touch()
    with pytest.raises(SystemExit, match=r'^Error: found_3.py does not exist; choose --rank from 1 to 2$'):
        retrain(['.', '--rank', '3'])
    with pytest.raises(SystemExit, match=r'^Error: no/found_1.py does not exist; search first: python tools/search/search.py'):
        retrain(['no'])


def test_fingerprint_is_of_the_content(folder):
    for name, content in (('a', b'1'), ('b', b'1'), ('c', b'2')):
        (folder / name).write_bytes(content)
    assert fingerprint('a') == fingerprint('b') != fingerprint('c')


def test_weights_of_a_supernet_are_loaded_whole(folder, tiny, supernet):
    weights = torch.load(supernet / 'epoch_2.pth')['state_dict']
    model = load_supernet(Config.fromfile(tiny('search')), str(supernet / 'epoch_2.pth'))
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert int(model.backbone.num_passes) == 4  # two epochs of two iterations


# ---- images for the search ----


@pytest.fixture
def imagenet(folder, pictures):
    """Two classes of ten pictures, as ImageNet's training data lie."""
    shutil.copytree(pictures, folder / 'imagenet' / 'train')
    return folder / 'imagenet'


def test_images_are_held_out_of_each_class(run_tool, imagenet):
    from mmpretrain.datasets import ImageNet
    run_tool('search/hold_out.py', imagenet, '--per-class', '3')
    paths = []
    for name in ('train', 'val'):
        classes = dict(classes=('bright', 'dark'))
        dataset = ImageNet(str(imagenet), 'train', ann_file=f'meta/search_{name}.txt', metainfo=classes)
        infos = [dataset.get_data_info(i) for i in range(len(dataset))]
        assert all(Path(info['img_path']).parent.name == ('bright', 'dark')[info['gt_label']] for info in infos)
        assert [sum(info['gt_label'] == label for info in infos) for label in (0, 1)] == [dict(train=7, val=3)[name]] * 2
        paths.append({info['img_path'] for info in infos})
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 20 and all(map(os.path.isfile, paths[0] | paths[1]))


def test_holding_out_what_is_not_there_ends_with_a_sentence(run_tool, imagenet, folder):
    for args, message in (([imagenet, '--per-class', '10'], 'Error: class bright has 10 images; choose --per-class below that'),
                          ([folder], 'has no folders of classes; give the folder above train/<class>/<image>'),
                          ([imagenet, '--per-class', '0'], 'Error: --per-class 0 is not allowed; choose 1 or more')):
        done = run_tool('search/hold_out.py', *args, check=False)
        assert done.returncode == 1 and message in done.stderr and not (imagenet / 'meta').exists()
    (imagenet / 'meta').mkdir()
    (imagenet / 'meta' / 'search_val.txt').write_text('mine')
    done = run_tool('search/hold_out.py', imagenet, '--per-class', '2', check=False)
    assert 'search_val.txt exists; pass --force to overwrite it' in done.stderr
    assert (imagenet / 'meta' / 'search_val.txt').read_text() == 'mine'
