"""Every command says in one sentence what is wrong with its input, without a trace, and before it works."""
import json
import re

import cv2
import numpy as np
import pytest
import torch

from hybrid_mm import commands

CONFIGS = {  # content of a config, and what is said of it behind its name
    'model = dict(\n': r"SyntaxError in line 1: '\(' was never closed",
    "_base_ = ['no_such_base.py']\n": 'FileNotFoundError: .*no_such_base.py',
    'model = dict(type=undefined_name)\n': "NameError in line 1: name 'undefined_name' is not defined",
    'number = 1\nshare = number / 0\n': 'ZeroDivisionError in line 2: division by zero',
    "custom_imports = dict(imports=['no_such_module'], allow_failed_imports=False)\n": 'ImportError: Failed to import custom',
}
READERS = {  # commands that read a config, and their other arguments
    'train': [], 'test': ['{checkpoint}'], 'infer': ['{checkpoint}', '{ok}'], 'erf': [], 'grad_cam': ['{checkpoint}', '{ok}'],
    'export_onnx': ['--out', 'a.onnx'], 'get_flops': [], 'benchmark': [], 'browse_dataset': [], 'kmeans_references': ['o.pth'],
    'search': ['--checkpoint', '{checkpoint}'], 'supernet_train': [],
}
NOT_WHOLE = r' is not allowed; give a whole number, \d or more$'
OF_A_TRAINING = [  # --cfg-options
    ('train_cfg.max_epochs=0', 'train_cfg.max_epochs=0' + NOT_WHOLE),
    ('train_cfg.max_epochs=many', "train_cfg.max_epochs='many'" + NOT_WHOLE),
    ('train_cfg.val_interval=0', 'train_cfg.val_interval=0' + NOT_WHOLE),
    ('train_dataloader.batch_size=0', 'train_dataloader.batch_size=0' + NOT_WHOLE),
    ('val_dataloader.num_workers=-1', 'val_dataloader.num_workers=-1' + NOT_WHOLE),
    ('randomness.seed=-1', 'randomness.seed=-1' + NOT_WHOLE),
    ('optim_wrapper.accumulative_counts=0', 'optim_wrapper.accumulative_counts=0' + NOT_WHOLE),
    ('default_hooks.logger.interval=0', 'default_hooks.logger.interval=0' + NOT_WHOLE),
    ('log_level=LOUD', "log_level='LOUD' is not allowed; choose from DEBUG, INFO, WARNING, ERROR$"),
    ('model=None', 'the config has no model; '),
    ('model.backbone=None', '.*classifier.py has no model.backbone; '),
    ('train_dataloader=None', 'the config has no train_dataloader, which a training needs; '),
    ('train_dataloader.dataset=None', 'train_dataloader of the config has no dataset; '),
    ('train_dataloader.dataset.pipeline=[]', 'train_dataloader.dataset.pipeline of the config is empty; '),
    ('optim_wrapper=None', 'the config has no optim_wrapper, which a training needs; '),
    ('val_evaluator=None', 'the config has no val_evaluator, but other settings of a validation; '),
    ('model.backbone.in_channels=0', 'in_channels=0 is not allowed; give the channels of the pictures, 1 or more$'),
    ('work_dir={file}', 'the work folder .*file cannot be made, since .*file is a file; give another one with --work-dir$'),
    ('work_dir=/proc/x', '/proc/x cannot be used: No such file or directory; '),
    ('optim_wrapper.optimizer.lr=-1', 'SGD of the config refuses its settings: Invalid learning rate: -1'),
]
CASES = [  # command, arguments, message
    ('train', ['{folder}'], 'the config .*folder does not exist; give the path of a file$'),
    ('train', ['{ok}'], 'the config .*ok.png cannot be read: .*Error: Only py/yml/yaml/json type'),
    ('test', ['{classifier}', '{checkpoint}', '--cfg-options', 'test_evaluator=None'], 'the config has no test_evaluator,'),
    ('test', ['{classifier}', '{checkpoint}', '--out', '/proc/x/p.pkl'], '--out /proc/x cannot be written: /proc: '),
    ('test', ['{classifier}', '{checkpoint}', '--show-dir', '{file}'], '--show-dir .*file is not allowed, since .* is a file; '),
    ('test', ['{classifier}', '{checkpoint}', '--out', '{pickle}'], '--out .*folder.pkl is a folder; give a file$'),
    ('test', ['{classifier}', '{checkpoint}', '--wait-time', '-1'], '--wait-time -1.0 is not allowed; choose 0 or more$'),
    ('test', ['{classifier}', '{folder}'], 'checkpoint .*folder does not exist; '),
    ('infer', ['{classifier}', '{checkpoint}', '{ok}', '--out', '/proc/x'], '--out /proc/x cannot be written: /proc: '),
    ('infer', ['{classifier}', '{checkpoint}', '{ok}', '--out', '{file}'], '--out .*file is not allowed, since .* is a file; '),
    ('infer', ['{classifier}', '{checkpoint}', '{ok}', '--device', 'cuda:7'], '--device cuda:7 is not there; choose from cpu'),
    ('infer', ['{classifier}', '{checkpoint}', '{cut}'], 'cut.png is no picture that OpenCV reads; give another file$'),
    ('infer', ['{classifier}', '{checkpoint}', '{video}'], 'is neither a picture nor a video that OpenCV opens; give another'),
    ('erf', ['{classifier}', '--seed', str(2**70)], f'--seed {2**70} is not allowed; choose 0 to {2**32 - 1}$'),
    ('erf', ['{classifier}', '--out', '/proc/a.png'], '--out /proc/a.png cannot be written: /proc: '),
    ('grad_cam', ['{classifier}', '{checkpoint}', '{ok}', '--out', '/proc/x'], '--out /proc/x cannot be written: '),
    ('get_flops', ['{classifier}', '--json', '/proc/a.json'], '--json /proc/a.json cannot be written: /proc: '),
    ('get_flops', ['{classifier}', '--cfg-options', 'model.head.in_channels=5'],
     r'model.head.fc \(Linear\) expects 5 channels and gets 64; .*; set model.head.in_channels=64$'),
    ('browse_dataset', ['{classifier}', '--cfg-options', 'train_dataloader.dataset.pipeline=[]'],
     'the pipeline of the train data ends without inputs and data_samples; '),
    ('kmeans_references', ['{setformer}', 'o.pth', '--seed', '-1'], '--seed -1 is not allowed; '),
    ('kmeans_references', ['{setformer}', 'o.pth', '--cfg-options', 'train_dataloader=None'], 'has no train_dataloader, whose'),
    ('kmeans_references', ['{setformer}', 'o.pth', '--cfg-options', 'model.backbone.in_channels=4'],
     r'stem.0 \(Conv2d\) expects 4 channels and gets 3; '),
    ('report', ['{quick}'], 'a.json or .*trained is damaged: JSONDecodeError: .*; run tools/quickstart.sh again$'),
    ('plot_logs', ['{ok}'], 'line 1 of .*ok.png is no line of a training log; '),
    ('plot_logs', ['{empty}'], 'has no lines of a training in '),
    ('hold_out', ['{file}'], 'has no folders of classes; '),
    ('retrain', ['{file}'], 'found_1.py does not exist; search first: '),
    ('convert_released', ['{folder}', 'o.pth'], 'there is no checkpoint file '),
    ('search', ['{search}', '--checkpoint', '{empty}'], '--checkpoint .*empty is empty; '),
]
OF_ARGUMENTS = [  # these end with status 2, as argparse does
    ('train', ['{classifier}', '--cfg-options', 'novalue'], "'novalue' is not KEY=VALUE, such as train_dataloader.batch_size=4"),
    ('make_shapes', ['--size', '1000000', '1000000', '--out', 'new'], 'Unable to allocate'),
    ('check_env', ['nothing'], "'nothing' is not allowed; choose from python"),
]


@pytest.fixture(scope='module')
def names(tmp_path_factory, tiny):
    """Files that no command can use, and some that it can."""
    folder = tmp_path_factory.mktemp('bad')
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for name, image in (('ok', picture), ('one', picture[:1, :1]), ('deep', picture.astype(np.uint16) * 257),
                        ('grey', picture[..., 0]), ('rgba', np.dstack([picture, picture[..., :1]]))):
        cv2.imwrite(str(folder / f'{name}.png'), image)
    (folder / 'cut.png').write_bytes((folder / 'ok.png').read_bytes()[:2000])
    (folder / 'video.avi').write_bytes(b'RIFF')
    (folder / 'file').write_text('x')
    (folder / 'empty').write_bytes(b'')
    (folder / 'folder').mkdir()
    (folder / 'folder.pkl').mkdir()
    (folder / 'quick' / 'test' / '1').mkdir(parents=True)
    (folder / 'quick' / 'test' / '1' / 'a.json').write_text('{')
    torch.save(dict(state_dict=dict(weight=torch.zeros(1))), folder / 'weights.pth')
    return dict({name: tiny(name) for name in ('classifier', 'segmentor', 'setformer', 'search')},
                checkpoint=folder / 'weights.pth', quick=folder / 'quick',
                video=folder / 'video.avi', pickle=folder / 'folder.pkl', pictures=folder,
                **{name: folder / f'{name}.png' for name in ('ok', 'one', 'deep', 'grey', 'rgba', 'cut')},
                **{name: folder / name for name in ('file', 'empty', 'folder')})


@pytest.fixture
def fail(in_process, names):
    """How a command ends, in an empty folder that stays empty."""

    def fail(command, args):
        with pytest.raises(SystemExit) as end:
            commands.main(command, [arg.format(**names) for arg in args])
        assert not [path for path in in_process.rglob('*') if path.suffix in ('.pth', '.onnx')]
        return end.value.code

    return fail


@pytest.mark.parametrize('text', CONFIGS)
def test_a_config_that_cannot_be_read_is_named_with_its_line(fail, tmp_path_factory, text):
    path = tmp_path_factory.mktemp('configs') / 'bad.py'
    path.write_text(text)
    message = fail('get_flops', [str(path)])
    assert re.search(f'^Error: the config .*bad.py cannot be read: {CONFIGS[text]}', message) and '\n' not in message


@pytest.mark.parametrize('command', READERS)
def test_each_command_refuses_a_config_without_a_model(fail, tmp_path_factory, command):
    path = tmp_path_factory.mktemp('configs') / 'bad.py'
    path.write_text("default_scope = 'mmdet'\n")
    assert fail(command, [str(path), *READERS[command]]) == (
        'Error: the config has no model; give the config of a detector, segmentor or classifier')


@pytest.mark.parametrize('option, message', OF_A_TRAINING)
def test_settings_that_cannot_train_are_refused(fail, option, message):
    found = fail('train', ['{classifier}', '--cfg-options', option])
    assert re.search(f'^Error: {message}', found) and '\n' not in found


def test_pictures_for_less_than_one_batch_are_refused(fail):
    options = ['train_dataloader.batch_size=100', 'train_dataloader.drop_last=True']
    assert fail('train', ['{classifier}', '--cfg-options', *options]) == (
        'Error: the train data have 20 pictures, less than one batch of train_dataloader.batch_size, and drop_last leaves out '
        'the rest; give smaller batches')


@pytest.mark.parametrize('command, args, message', CASES)
def test_bad_input_ends_with_one_sentence(fail, command, args, message):
    found = fail(command, args)
    assert re.search(f'^Error: .*{message}', found) and '\n' not in found


@pytest.mark.parametrize('command, args, message', OF_ARGUMENTS)
def test_bad_arguments_end_with_a_line_below_the_usage(fail, capsys, command, args, message):
    assert fail(command, args) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert f'error: {message}' in line or message in line


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(names, tmp_path):
    from hybrid_mm.commands.shared import check_out_file, check_out_folder
    check_out_file(tmp_path / 'a.png', ('.png', ))
    check_out_folder(tmp_path / 'new' / 'folder')
    assert not list(tmp_path.iterdir())
    for check, path in ((check_out_file, '/proc/a.png'), (check_out_folder, '/proc/new/folder')):
        with pytest.raises(ValueError, match='cannot be written: /proc: .*; give another place$'):
            check(type(tmp_path)(path))


@pytest.mark.parametrize('content', [b'\x00\xff\xfe garbage\n{}\n', b'null\nnull\n', b'{"step": 1.5, "iter": 1}\n{}\n'])
def test_a_damaged_log_is_named_with_its_line(fail, tmp_path_factory, content):
    log = tmp_path_factory.mktemp('run') / 'scalars.json'
    log.write_bytes(content)
    assert re.search('^Error: line 1 of .*scalars.json is no line of a training log; ', fail('plot_logs', [str(log)]))


def test_a_log_without_numbers_is_named(fail, tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    (folder / 'scalars.json').write_text(json.dumps(dict(step=1, iter=1, loss='much')) + '\n')
    assert ' hold no numbers; give the work folder of a training' in fail('plot_logs', [str(folder / 'scalars.json')])


def test_pictures_of_every_kind_are_read_and_one_of_a_pixel_is_named(names):
    from hybrid_mm.errors import SetupError
    from hybrid_mm.inference.inputs import read_picture
    from hybrid_mm.inference.loops import predictions

    class Predictor:
        mixes_sizes = False

        def prepare(self, image, path):
            return dict(inputs=torch.from_numpy(image))

        def predict(self, batch):
            if batch[0]['inputs'].shape[0] < 32:
                raise SetupError('the image has 1x1 pixels')
            return [None] * len(batch)

    files = [names[name] for name in ('ok', 'deep', 'grey', 'rgba')]
    images = [(file, read_picture(file)) for file in files]
    assert all(image.shape == (64, 64, 3) and image.dtype == np.uint8 for _, image in images)
    assert len(list(predictions(Predictor(), images, 2))) == 4
    with pytest.raises(SetupError, match=r'^the image has 1x1 pixels \(seen with one.png\)$'):
        list(predictions(Predictor(), [*images, (names['one'], read_picture(names['one']))], 2))
