"""`tools/analysis/plot_logs.py` as a user runs it: logs of resumed trainings are one curve, and the picture shows each run."""
import json
import math
from functools import partial

import cv2
import numpy as np
import pytest

from hybrid_mm import commands
from hybrid_mm.analysis.logs import choose_keys, read_run

main, train = (partial(commands.main, name) for name in ('plot_logs', 'train'))
BLUE, ORANGE = (31, 119, 180), (255, 127, 14)  # matplotlib's first two colours, RGB


def training(steps, loss=None):
    """Lines of a training; the loss is the step unless it is given."""
    return [dict(lr=0.1, loss=float(step if loss is None else loss), time=0.2, iter=step, step=step) for step in steps]


def validation(step, **metrics):
    return [dict(**metrics, data_time=0.1, time=0.3, step=step)]


def write(work_dir, time, lines, end='\n'):
    folder = work_dir / time / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + end)
    return work_dir


def curve(work_dir, key):
    _, steps, values = read_run(work_dir).curves[key]
    return list(zip(steps, values))


@pytest.fixture
def work_dir(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return tmp_path / 'net'


def test_a_real_training_that_goes_on_gives_one_curve(monkeypatch, tmp_path, tiny, pictures, capsys):
    monkeypatch.syspath_prepend(tiny('base')[:-len('/tiny/base.py')])  # for the probes of the tiny configs
    monkeypatch.setenv('PICTURES', str(pictures))
    monkeypatch.chdir(tmp_path)
    train([tiny('classifier'), '--work-dir', 'net', '--cfg-options', 'default_hooks.logger.interval=2'])
    # mmengine names the logs by the second of the start
    first, = (tmp_path / 'net').glob('*/vis_data')
    first.parent.rename(first.parents[1] / '20200101_000000')
    train([tiny('classifier'), '--work-dir', 'net', '--resume', '--cfg-options', 'default_hooks.logger.interval=2',
           'train_cfg.max_epochs=2'])
    capsys.readouterr()
    main(['net', '--keys', 'loss', 'top1'])

    run = read_run(tmp_path / 'net')
    losses = [float(line) for line in (tmp_path / 'net' / 'losses.txt').read_text().split()]
    assert run.curves['loss'].steps == [2, 4, 7, 9]
    # mmengine logs means over up to 10 iterations, since the start of the process
    means = [np.mean(losses[:2]), np.mean(losses[:4]), np.mean(losses[:7]), np.mean(losses[:9])]
    assert run.curves['loss'].values == pytest.approx(means)
    assert run.curves['accuracy/top1'][:2] == ('epoch', [1, 2])
    printed = capsys.readouterr().out
    assert printed.startswith('net, 2 logs: loss ') and 'accuracy/top1' in printed and 'at epoch 2\n' in printed


def test_a_part_that_came_again_replaces_the_first(work_dir):
    write(work_dir, '20250101_000000', [
        *training([10, 20], 1), *validation(1, mIoU=50.), *training([30, 40], 1), *validation(2, mIoU=60.), *training([50], 1)])
    # from the checkpoint of the first epoch, and killed before the second validation
    write(work_dir, '20250102_000000', training([30], 2))
    assert curve(work_dir, 'loss') == [(10, 1), (20, 1), (30, 2)]
    assert curve(work_dir, 'mIoU') == [(1, 50)]
    write(work_dir, '20250103_000000', [*training([40], 3), *validation(2, mIoU=70.)])
    assert curve(work_dir, 'loss') == [(10, 1), (20, 1), (30, 2), (40, 3)]
    assert curve(work_dir, 'mIoU') == [(1, 50), (2, 70)]


def test_validations_after_iterations_stand_at_iterations(work_dir):
    write(work_dir, '20250101_000000', [*training([10, 20, 30]), *validation(30, mIoU=50.), *training([40, 50, 60]),
                                        *validation(60, mIoU=60.)])
    write(work_dir, '20250102_000000', [*training([40, 50, 60]), *validation(60, mIoU=65.)])
    run = read_run(work_dir)
    assert run.curves['mIoU'] == ('iteration', [30, 60], [50, 65])
    assert run.curves['loss'] == ('iteration', [10, 20, 30, 40, 50, 60], [10, 20, 30, 40, 50, 60])


def test_a_validation_before_the_first_logged_iteration_counts_epochs_too(work_dir):
    write(work_dir, '20250101_000000', [*training([50]), *validation(1, mIoU=50.)])
    write(work_dir, '20250102_000000', validation(2, mIoU=60.))
    assert read_run(work_dir).curves['mIoU'] == ('epoch', [1, 2], [50, 60])


def test_evaluations_and_a_line_cut_off_are_left_out(work_dir):
    write(work_dir, '20250101_000000', [*training([10, 20]), *validation(1, mIoU=50., name='text')], end='\n{"lr": 0.1, "lo')
    write(work_dir, '20250102_000000', validation(0, mIoU=99.))
    assert curve(work_dir, 'loss') == [(10, 10), (20, 20)]
    assert curve(work_dir, 'mIoU') == [(1, 50)]
    assert set(read_run(work_dir).curves) == {'loss', 'lr', 'time', 'mIoU'}
    assert curve(work_dir, 'time') == [(10, 0.2), (20, 0.2)]  # the training's


def test_a_key_may_be_short_and_the_default_takes_what_is_there(work_dir):
    write(work_dir, '20250101_000000', [*training([10, 20]), *validation(1, **{'coco/bbox_mAP': 0.5, 'coco/bbox_mAP_50': 0.7})])
    runs = [read_run(work_dir)]
    assert choose_keys(runs, None) == ['loss', 'coco/bbox_mAP']
    assert choose_keys(runs, ['bbox_mAP_50', 'lr']) == ['coco/bbox_mAP_50', 'lr']


def test_the_picture_has_a_panel_a_key_and_a_line_a_run(work_dir, tmp_path, capsys):
    low, high = tmp_path / 'low', tmp_path / 'high'
    write(low, '20250101_000000', [*training(range(10, 1000, 10), 1.), *validation(1, mIoU=math.nan)])
    write(high, '20250101_000000', training(range(10, 1000, 10), 2.))
    main(['low', 'high', '--keys', 'loss', '--out', 'one.png'])
    main(['low', 'high', '--keys', 'loss', 'lr', 'time', 'mIoU', '--out', 'four.png'])

    image = cv2.imread('one.png')[..., ::-1].astype(int)
    # a thin line is blended with the white around it
    rows = [np.median(np.nonzero(np.abs(image - colour).sum(axis=-1) < 120)[0]) for colour in (BLUE, ORANGE)]
    assert image.shape == (480, 720, 3)
    assert rows[0] > rows[1] + 100  # the first run's loss lies below
    assert cv2.imread('four.png').shape == (960, 2160, 3)
    printed = capsys.readouterr().out
    assert 'low, 1 log: loss 1 at iteration 990\n' in printed
    assert 'high, 1 log: loss 2 at iteration 990; lr 0.1 at iteration 990; time 0.2 at iteration 990; no mIoU\n' in printed


@pytest.mark.parametrize('args, message', [
    (['net', '--keys', 'loss', 'mIuO'], 'Error: --keys mIuO is in no log; choose from loss, lr, mIoU, time'),
    (['nowhere'], 'Error: the work folder nowhere does not exist; give that of a training'),
    (['.'], 'Error: . has no logs, <time>/vis_data/scalars.json; give the work folder of a training'),
    (['tested'], 'Error: tested has no lines of a training in tested/20250101_000000/vis_data/scalars.json; give'),
    (['damaged'], 'Error: line 2 of damaged/20250101_000000/vis_data/scalars.json is no line of a training log; give'),
    (['net', '--out', 'curves.gif'], 'Error: --out curves.gif is not allowed; give a file that ends in .png, .pdf, .svg'),
    (['net', '--out', 'no/curves.png'], 'Error: the folder no of --out no/curves.png does not exist; make it, or give'),
])
def test_what_cannot_be_drawn_ends_with_a_sentence_and_no_file(work_dir, tmp_path, args, message):
    write(work_dir, '20250101_000000', [*training([10, 20]), *validation(1, mIoU=50.)])
    write(tmp_path / 'tested', '20250101_000000', validation(0, mIoU=99.))
    write(tmp_path / 'damaged', '20250101_000000', [*training([10]), ['loss'], *training([20])])
    with pytest.raises(SystemExit) as raised:
        main(args)
    assert raised.value.code.startswith(message) and '\n' not in raised.value.code
    assert not [*tmp_path.glob('*.png'), *tmp_path.glob('*.partial')]


def test_an_existing_file_is_overwritten_by_force_alone(work_dir, tmp_path):
    write(work_dir, '20250101_000000', training([10, 20]))
    (tmp_path / 'curves.png').write_text('old')
    with pytest.raises(SystemExit, match='^Error: --out curves.png exists; give another file, or pass --force'):
        main(['net'])
    assert (tmp_path / 'curves.png').read_text() == 'old'
    main(['net', '--force'])
    assert cv2.imread('curves.png') is not None
