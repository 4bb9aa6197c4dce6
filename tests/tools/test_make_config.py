"""`tools/datasets/make_config.py` and `tools/quickstart.sh --data` as a user runs them: from a folder to figures and pictures."""
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from hybrid_mm.commands import main
from hybrid_mm.commands.report import report

COMMANDS = '''#!/usr/bin/env bash
# an interpreter that has everything, and writes down what it is asked for
case "$1" in
    -c) exit 0 ;;
    tools/datasets/make_config.py)
        mkdir -p "${4%.py}_data"
        echo "$5 $6" > "${4%.py}_data/made_from.json" ;;
    tools/train.py) mkdir -p "$4"; echo "$4/iter_2.pth" > "$4/last_checkpoint" ;;
esac
echo "$@" >> "$HERE/commands"
'''


@pytest.fixture
def boxes(shapes, tmp_path):
    """Pictures of shapes and one COCO file, which is not split and has mild faults."""
    folder = tmp_path / 'shapes'
    shutil.copytree(shapes / 'coco' / 'train2017', folder / 'images')
    content = json.loads((shapes / 'coco/annotations/instances_train2017.json').read_text())
    for annotation in content['annotations']:
        del annotation['area']
        annotation['segmentation'] = []
    (folder / 'all.json').write_text(json.dumps(content))
    return folder


@pytest.fixture
def maps(shapes, tmp_path):
    """Pictures of shapes and label maps, of training alone."""
    folder = tmp_path / 'shapes'
    for kind in ('images', 'annotations'):
        shutil.copytree(shapes / 'ade/ADEChallengeData2016' / kind / 'training', folder / kind)
    (folder / 'classes.txt').write_text('background\ndisc\ntriangle\nstriped square\nchecked diamond\nwall\nfloor\n')
    return folder


def make(folder, *args):
    main('make_config', [str(folder), *args])


@pytest.mark.parametrize('layout, rows', [
    ('boxes', ['box AP', 'box AP at IoU 0.5', 'box AP of disc']), ('maps', ['mIoU', 'IoU of background', 'IoU of disc'])])
def test_folder_ends_in_figures_and_pictures(layout, rows, request, run_tool, tmp_path):
    folder, pictures = request.getfixturevalue(layout), tmp_path / 'work' / 'pictures'
    made = run_tool('datasets/make_config.py', folder, '--out', 'mine.py', '--minutes', '0.001', cwd=tmp_path).stdout
    assert '2 of 8 pictures were drawn for it (seed 0)' in made and 'so that 2 steps take about' in made
    assert layout == 'maps' or 'annotation without area, given the area' in made
    run_tool('train.py', 'mine.py', '--work-dir', 'work', '--cfg-options', 'val_dataloader=None', 'val_cfg=None',
             'val_evaluator=None', 'train_dataloader.batch_size=2', cwd=tmp_path)
    (tmp_path / 'work' / 'trained').write_text('65')
    run_tool('test.py', 'mine.py', 'work/iter_2.pth', '--work-dir', 'work/test', '--show-dir', pictures, cwd=tmp_path)
    told = report(tmp_path / 'work', details=True).splitlines()
    assert [line.split('  ')[0] for line in told][:len(rows)] == rows
    assert told[-3].endswith('  1 min 5 s') and len(list(Path(told[-1].split('  ')[-1]).glob('*.*'))) == 2


def test_same_folder_is_left_alone_and_another_is_one_sentence(maps, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('hybrid_mm.commands.make_config.seconds_per_step', lambda cfg: 0.5)
    make(maps)
    text = Path('shapes.py').read_text()
    assert 'steps = 2000' in text and 'A step of 4 pictures takes 0.5 s' in text and not Path('shapes_data/trial.py').exists()
    Path('shapes.py').write_text(f'{text}# mine\n')
    make(maps)
    assert 'shapes.py is there already, for the same data' in capsys.readouterr().out
    assert '# mine' in Path('shapes.py').read_text()
    for args, message in ((['--minutes', '3'], 'minutes was 20.0 then and is 3.0 now; give another --out'),
                          (['--network', 'r50'], 'network was parc_mbv2 then')):
        with pytest.raises(SystemExit, match=message):
            make(maps, *args)
    (maps / 'new.txt').write_text('')
    with pytest.raises(SystemExit, match=f'the files in {maps} have changed since; give'):
        make(maps)
    Path('shapes_data/made_from.json').unlink()
    with pytest.raises(SystemExit, match='does not say for which data'):
        make(maps)


def test_masks_of_two_values_get_copies_that_are_checked(maps, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('hybrid_mm.commands.make_config.seconds_per_step', lambda cfg: 0.5)
    (maps / 'classes.txt').unlink()
    for path in (maps / 'annotations').iterdir():
        labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(path), np.where(labels > 1, 255, 0).astype(np.uint8))
    make(maps)
    assert '0 is taken for the background, 255 for the object' in capsys.readouterr().out
    assert len(list(Path('shapes_data/label_maps').rglob('*.png'))) == 8
    assert 'shapes_data/label_maps/train' in Path('shapes.py').read_text()


def test_what_only_the_user_can_mend_stops_before_training(boxes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = next((boxes / 'images').iterdir())
    whole = picture.read_bytes()
    picture.write_bytes(whole[:400])
    with pytest.raises(SystemExit, match=f'1 fault that only you can mend: 1 × picture that .*{picture.name}.*truncated'):
        make(boxes)
    picture.write_bytes(whole)
    content = json.loads((boxes / 'all.json').read_text())
    for annotation in content['annotations'][::2]:
        annotation['bbox'][2] = -1
    (boxes / 'all.json').write_text(json.dumps(content))
    with pytest.raises(SystemExit, match='would be left out: .*box of negative width or height'):
        make(boxes)
    assert not Path('shapes.py').exists()


@pytest.mark.parametrize('args, message', [
    (['{maps}', '--minutes', '0'], '--minutes 0 is not allowed; choose more than 0'),
    (['{maps}', '--network', 'resnext'], '--network resnext is not allowed; choose from .*parc_mbv2'),
    (['{maps}', '--out', 'a.json'], '--out a.json is not allowed; give a file that ends in .py'),
    (['{maps}', '--out', '{maps}/a.py'], '--out .*a.py is in .*shapes itself, among the data; give a file elsewhere'),
    (['{maps}', '--checkpoint', 'no.pth'], '--checkpoint no.pth does not exist'),
    (['no'], 'no does not exist; give a folder'),
])
def test_bad_options_are_one_sentence(maps, tmp_path, monkeypatch, args, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=message):
        make(*(str(arg).format(maps=maps) for arg in args))
    assert [path.name for path in tmp_path.iterdir()] == ['shapes']


# ---- tools/quickstart.sh, with an interpreter that only writes down what it is asked for ----


@pytest.fixture
def quickstart(root, tmp_path):
    clone = tmp_path / 'clone'
    (clone / 'tools').mkdir(parents=True)
    (tmp_path / 'my data').mkdir()
    for name in ('quickstart.sh', 'setup_env.sh'):
        shutil.copy(root / 'tools' / name, clone / 'tools')
    python = tmp_path / 'python'
    python.write_text(COMMANDS)
    python.chmod(0o755)

    def run(*args):
        (tmp_path / 'commands').unlink(missing_ok=True)
        done = subprocess.run(['bash', 'clone/tools/quickstart.sh', *args], cwd=tmp_path, capture_output=True, text=True,
                              check=False, env=dict(os.environ, PYTHON=str(python), HERE=str(tmp_path)))
        commands = (tmp_path / 'commands').read_text().splitlines() if (tmp_path / 'commands').exists() else []
        return done.returncode, commands, done.stderr

    return run


def test_quickstart_without_options_is_that_of_the_shapes(quickstart):
    config, work = 'configs/shapes/maskrcnn_transcnn_s_shapes.py', 'work_dirs/quickstart'
    assert quickstart() == (0, [
        'tools/datasets/make_shapes.py', f'tools/train.py {config} --work-dir {work} --resume auto',
        f'tools/test.py {config} {work}/iter_2.pth --work-dir {work}/test --show-dir pictures --show-at-most 30',
        f'tools/report.py {work}'], '')


def test_quickstart_with_a_folder_skips_what_is_done_and_does_not_mix(quickstart, tmp_path):
    work = 'work_dirs/quickstart_my_data'
    config = f'{work}/config/my_data.py'
    status, commands, err = quickstart('--data', 'my data', '--minutes', '1', '--checkpoint', 'a.pth')
    assert status == 0, err
    assert commands == [
        f'tools/datasets/make_config.py {tmp_path / "my data"} --out {config} --minutes 1 --checkpoint {tmp_path / "a.pth"}',
        f'tools/train.py {config} --work-dir {work} --resume auto '
        '--cfg-options val_dataloader=None val_cfg=None val_evaluator=None',
        f'tools/test.py {config} {work}/iter_2.pth --work-dir {work}/test --show-dir {tmp_path / "clone" / work / "pictures"} '
        '--show-at-most 30',
        f'tools/report.py {work} --details']
    assert len(quickstart('--minutes', '1', '--data', str(tmp_path / 'my data'))[1]) == 3
    status, commands, err = quickstart('--data', 'my data', '--minutes', '2')
    assert (status, len(commands)) == (1, 1)
    assert err == f'Error: {work} holds a training on other data or with other options; remove it to train anew\n'


@pytest.mark.parametrize('args, status, message', [
    (['--dat', 'x'], 2, 'unknown option --dat; usage: bash tools/quickstart.sh [--data FOLDER'),
    (['--data'], 2, '--data needs a value; usage'),
    (['--minutes', '3'], 2, '--minutes needs --data FOLDER; usage'),
    (['--data', 'nowhere'], 1, '--data nowhere is no folder; give one with your data'),
])
def test_quickstart_refuses_what_it_does_not_know(quickstart, args, status, message):
    found, commands, err = quickstart(*args)
    assert (found, commands) == (status, []) and err.startswith(f'Error: {message}') and err.count('\n') == 1
