"""Checkpoints that are cut, damaged, hostile, poisoned, copied, or cannot be written: what the tools do."""
import os
import random
import shutil
import signal
from pathlib import Path

import pytest
import torch

from hybrid_mm import commands
from hybrid_mm.checkpoints.contents import fault_in
from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()
PROBES = Path(__file__).parent


@pytest.fixture(scope='module')
def train(run_tool, root):
    """Train the tiny classifier for three epochs in a folder."""

    def train(folder, *args, **variables):
        return run_tool('train.py', PROBES / 'disturbed.py', '--work-dir', folder, *args, check=False,
                        PYTHONPATH=f'{root}/tests/tools:{PROBES}', **variables)

    return train


@pytest.fixture(scope='module')
def trained(train, tmp_path_factory):
    """Work folder of a training that nothing disturbed."""
    folder = tmp_path_factory.mktemp('undisturbed')
    assert train(folder).returncode == 0
    return folder


@pytest.fixture
def interrupted(trained, tmp_path):
    """A copy of the folder as it was after two epochs, with the absolute path that mmengine writes, of the first folder."""
    folder = tmp_path / 'work'
    shutil.copytree(trained, folder)
    (folder / 'epoch_3.pth').unlink()
    (folder / 'last_checkpoint').write_text(str(trained / 'epoch_2.pth'))
    return folder


def flip(path, number):
    content, rng = bytearray(path.read_bytes()), random.Random(0)
    for place in rng.sample(range(len(content)), number):
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def cut(path, part=0.5):
    os.truncate(path, int(part * path.stat().st_size))


def weights(path):
    return torch.load(path, map_location='cpu')['state_dict']


def assert_same(folder, other):
    found, expected = weights(folder / 'epoch_3.pth'), weights(other / 'epoch_3.pth')
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize('fault, goes_on_from', [
    (lambda folder: None, 'epoch_2.pth'),  # a copied folder, which has the path of the first
    (lambda folder: (folder / 'last_checkpoint').unlink(), 'epoch_2.pth'),
    (lambda folder: cut(folder / 'epoch_2.pth'), 'epoch_1.pth'),
    (lambda folder: flip(folder / 'epoch_2.pth', 4000), 'epoch_1.pth'),
    pytest.param(lambda folder: [cut(folder / f'epoch_{i}.pth') for i in (1, 2)], None, marks=pytest.mark.exhaustive),
], ids=['copied', 'no hint', 'cut', 'flipped', 'all cut'])
def test_resume_takes_the_newest_whole_checkpoint_and_ends_in_the_same_weights(train, trained, interrupted, fault, goes_on_from):
    before = {path: path.read_bytes() for path in trained.glob('*.pth')}
    fault(interrupted)
    result = train(interrupted, '--resume')
    assert result.returncode == 0, result.stderr[-2000:]
    if goes_on_from is None:
        assert f'There is no checkpoint to go on from in {interrupted}; the training starts from the beginning.' in result.stdout
    else:
        assert f'The training goes on from {interrupted}/{goes_on_from}.' in result.stdout
    for name in ('epoch_1.pth', 'epoch_2.pth'):
        passed_over = goes_on_from is None or goes_on_from < name
        assert (f'Passed over: {interrupted}/{name} is ' in result.stdout) == passed_over
    assert_same(interrupted, trained)
    assert (interrupted / 'last_checkpoint').read_text() == 'epoch_3.pth'
    assert {path: path.read_bytes() for path in trained.glob('*.pth')} == before


def test_a_limit_on_files_ends_the_run_with_a_sentence_and_leaves_the_whole_ones(train, trained, tmp_path):
    result = train(tmp_path, FROM_EPOCH='3', LIMIT=str((trained / 'epoch_3.pth').stat().st_size // 2))
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert result.stderr.splitlines()[-1] == (
        f'Error: {tmp_path}/epoch_3.pth cannot be written: File too large; the checkpoints before it are there; make room, and '
        'go on with --resume')
    assert {path.name: fault_in(str(path)) for path in tmp_path.glob('*.pth*')} == {'epoch_1.pth': None, 'epoch_2.pth': None}
    assert train(tmp_path, '--resume').returncode == 0
    assert_same(tmp_path, trained)


@pytest.mark.parametrize('part', [
    0.5, *(pytest.param(part, marks=pytest.mark.exhaustive) for part in (0., 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9, 1.))])
def test_a_kill_while_a_checkpoint_is_written_loses_no_whole_one(train, trained, tmp_path, part):
    assert train(tmp_path, FROM_EPOCH='2', KILL_AT=str(part)).returncode == -signal.SIGKILL
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_1.pth'] and len(list(tmp_path.glob('*.partial'))) == 1
    assert train(tmp_path, '--resume').returncode == 0
    assert_same(tmp_path, trained)
    assert not list(tmp_path.glob('*.partial'))


def test_a_training_that_diverges_leaves_no_poisoned_checkpoint(train, tmp_path):
    result = train(tmp_path, '--cfg-options', 'optim_wrapper.optimizer.lr=1e12')
    assert result.returncode == 1 and 'Traceback' not in result.stderr
    assert 'finite' in result.stderr.splitlines()[-1]
    assert not list(tmp_path.glob('*.pth*'))


# ---- Through each door ----

class RunsCode:

    def __reduce__(self):
        return os.mkdir, ('made_by_a_checkpoint', )


def damaged(checkpoint, path):
    torch.save(checkpoint, path)
    flip(path, 4000)


def hostile(checkpoint, path):
    torch.save({**checkpoint, 'extra': RunsCode()}, path)


def poisoned(checkpoint, path):
    tensors = checkpoint['state_dict']
    torch.save({**checkpoint, 'state_dict': {**tensors, **{key: torch.full_like(value, float('nan')) for key, value
                                                          in tensors.items() if value.is_floating_point()}}}, path)


DOORS = {
    'test': ('test', '{net}', 'bad.pth'),
    '--resume': ('train', '{net}', '--resume', 'bad.pth'),
    'load_from': ('train', '{net}', '--cfg-options', 'load_from=bad.pth'),
    'load_from and resume': ('train', '{net}', '--cfg-options', 'load_from=bad.pth', 'resume=True'),
    'Pretrained': ('train', '{net}', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
                   'model.backbone.init_cfg.prefix=backbone.', 'model.backbone.init_cfg.checkpoint=bad.pth'),
    'Pretrained of a part': ('train', '{net}', '--cfg-options', 'model.head.init_cfg.type=Pretrained',
                             'model.head.init_cfg.checkpoint=bad.pth'),
    'Released': ('train', '{net}', '--cfg-options', 'model.backbone.init_cfg.type=hybrid_mm.Released',
                 'model.backbone.init_cfg.checkpoint=bad.pth'),
    'infer': ('infer', '{net}', 'bad.pth', '{pictures}'),
    'grad_cam': ('grad_cam', '{net}', 'bad.pth', '{pictures}'),
    'export_onnx': ('export_onnx', '{net}', 'bad.pth', '--out', 'out.onnx'),
    'erf': ('erf', '{net}', '--checkpoints', 'bad.pth', '--stage', '1'),
    'convert_released': ('convert_released', 'bad.pth', 'out.pth'),
    'search': ('search', '{search}', '--checkpoint', 'bad.pth'),
}


@pytest.mark.parametrize('door', DOORS)
@pytest.mark.parametrize('spoil, message', [
    (damaged, r'is (damaged: \S+ in it differs from its checksum|no checkpoint of PyTorch, or incomplete); '),
    (hostile, r'holds more than weights: it asks for \w+\.mkdir, which may run code and is not loaded; give a file with'),
    (poisoned, r'holds weights that are not finite: \S+ has NaN or infinite values, and so have \d+ more tensors; '),
], ids=['damaged', 'hostile', 'poisoned'])
def test_a_file_that_cannot_be_used_is_told_in_one_sentence(trained, tmp_path, in_process, tiny, pictures, door, spoil, message):
    spoil(torch.load(trained / 'epoch_3.pth'), tmp_path / 'bad.pth')
    name, *args = (word.format(net=tiny('classifier'), search=tiny('search'), pictures=pictures) for word in DOORS[door])
    with pytest.raises(SystemExit, match=f'^Error: .*bad.pth {message}') as raised:
        commands.main(name, args)
    assert '\n' not in raised.value.code
    assert [path.name for path in tmp_path.iterdir()] == ['bad.pth']
