"""--data-root: the data of a config lie in another folder, by one option."""
import argparse

import pytest
from configs.shipped import LEAVES, REAL, for_each, load
from mmengine.config import Config, ConfigDict

import hybrid_mm
from hybrid_mm import commands
from hybrid_mm.commands import browse_dataset, check, kmeans_references, search, shared, supernet_train, test, train
from hybrid_mm.commands.data_root import replace_data_root
from hybrid_mm.errors import SetupError
from hybrid_mm.names import walk

KINDS = ['fasterrcnn_r50_bccd.py', 'maskrcnn_glit_t_dsb2018_full.py', 'upernet_hatnet_t_camvid.py', 'maskrcnn_transcnn_b.py',
         'upernet_glit_b.py', 'cascade_maskrcnn_parc_r50_3x.py', 'maskrcnn_parc_r50_shapes.py', 'upernet_setformer_m_shapes.py',
         'upernet_glit_shapes_search.py', 'imagenet_glit_t_details.py']


def texts(cfg):
    return {path: value for path, value in walk(cfg.to_dict()) if isinstance(value, str)}


def copy_of(name):
    return Config(load(name).to_dict())


@pytest.fixture
def small():
    """A config that holds the root in every kind of place, and beside it what is like it."""
    data = dict(type='CocoDataset', data_root='data/coco/', ann_file='a.json')
    return Config(dict(
        data_root='data/coco/', model=dict(type='A', init_cfg=dict(checkpoint='data/coco/weights.pth')),
        load_from='data/coco/start.pth', work_dir='data/coco/runs', note='from data/coco/ of old',
        train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[
            data, dict(data, data_root='data/coco', pipeline=[dict(type='LoadProposals', file='data/coco/boxes.pkl')])])),
        val_dataloader=dict(dataset=dict(type='RepeatDataset', dataset=data)), test_dataloader=None,
        val_evaluator=[dict(type='CocoMetric', ann_file='data/coco/a.json'), dict(type='Other', files=('data/coco/b', 3))],
        other='data/coco2017/', test_evaluator=None))


def test_the_folder_takes_the_place_of_the_root_in_all_that_is_data(small, tmp_path, capsys):
    before = texts(small)
    new = f'{tmp_path}'
    replace_data_root(small, new)

    assert small.data_root == f'{new}/'
    first, second = small.train_dataloader.dataset.datasets
    assert first.data_root == small.val_dataloader.dataset.dataset.data_root == f'{new}/'
    assert second.data_root == new and second.pipeline[0].file == f'{new}/boxes.pkl'
    assert small.val_evaluator[0].ann_file == f'{new}/a.json' and small.val_evaluator[1].files == (f'{new}/b', 3)
    assert isinstance(small.val_evaluator[0], ConfigDict) and small.test_dataloader is None
    changed = {path for path, value in texts(small).items() if before[path] != value}
    assert not {path[0] for path in changed} & {'model', 'load_from', 'work_dir', 'note', 'other'}
    assert capsys.readouterr().out == ''


def test_a_folder_inside_of_the_old_one_and_shared_parts_are_moved_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'data' / 'small').mkdir(parents=True)
    evaluator = ConfigDict(type='CocoMetric', ann_file='data/a.json')
    cfg = Config(dict(data_root='data/'))
    cfg._cfg_dict.update(val_evaluator=evaluator, test_evaluator=evaluator)
    cfg.test_evaluator = cfg.val_evaluator
    replace_data_root(cfg, 'data/small/')
    assert cfg.test_evaluator.ann_file == 'data/small/a.json' and cfg.data_root == 'data/small/'


def test_it_works_for_every_kind_of_config_with_and_without_a_slash(tmp_path):

    @for_each(name=KINDS, slash=['', '/'])
    def moves(name, slash):
        cfg = copy_of(name)
        replace_data_root(cfg, f'{tmp_path}{slash}')
        for split in ('train', 'val', 'test'):
            assert cfg[f'{split}_dataloader'].dataset.data_root.rstrip('/') == str(tmp_path)
            old, new = ((config.get(f'{split}_evaluator') or {}).get('ann_file') for config in (load(name), cfg))
            assert new == (old and f'{tmp_path}/annotations/{old.rpartition("/")[2]}')
        read = {path: value for path, value in texts(cfg).items() if path[0].endswith(('_dataloader', '_evaluator'))}
        assert not [value for value in read.values() if value.startswith('data/')]

    moves()
    assert {load(name).train_dataloader.dataset.data_root for name in LEAVES} == {
        load(name).train_dataloader.dataset.data_root for name in KINDS}


def test_what_lies_elsewhere_is_told(small, tmp_path, capsys):
    small.train_dataloader.dataset.datasets[0].data_root = 'data/coco2017'
    small.val_evaluator[0].ann_file = '/elsewhere/a.json'
    replace_data_root(small, str(tmp_path))
    assert capsys.readouterr().out == (
        f'--data-root {tmp_path} takes the place of data/coco; what lies elsewhere stays: '
        'train_dataloader.dataset.datasets.0.data_root=data/coco2017, val_evaluator.ann_file=/elsewhere/a.json\n')
    assert small.val_evaluator[0].ann_file == '/elsewhere/a.json'


def test_a_variable_that_the_data_left_behind_does_not_count(small, tmp_path):
    """As where an inherited config has the variable, and a config of the user puts another root into its data sets."""
    small.data_root = 'data/other/'
    replace_data_root(small, str(tmp_path))
    assert small.data_root == 'data/other/' and small.val_dataloader.dataset.dataset.data_root == f'{tmp_path}/'


@pytest.mark.parametrize('change, message', [
    (dict(data_root='', train_dataloader=dict(dataset=dict(type='A', data_root='a')),
          val_dataloader=dict(dataset=dict(type='A', data_root='b')), val_evaluator=None),
     'no data_root that its data share; its data sets have a, b, of which --cfg-options changes each$'),
    (dict(data_root='data/coco', train_dataloader=dict(dataset=dict(type='A', ann_file='a.json')), val_dataloader=None,
          val_evaluator=None), 'no data_root that its data share; give the paths of its data sets with --cfg-options$'),
])
def test_a_config_without_one_root_is_named(small, tmp_path, change, message):
    for key, value in change.items():
        small[key] = value
    before = small.to_dict()
    with pytest.raises(SetupError, match=f'^--data-root {tmp_path} has nothing to replace: the config has {message}'):
        replace_data_root(small, str(tmp_path))
    assert small.to_dict() == before


@pytest.mark.parametrize('folder', ['nowhere', 'file', ''])
def test_a_folder_that_is_not_there_is_named(small, tmp_path, monkeypatch, folder):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'file').touch()
    with pytest.raises(SetupError, match=f'^--data-root {folder} is no folder; give the one that holds the data$'):
        replace_data_root(small, folder)


def test_options_go_before_the_root(tmp_path):
    cfg = shared.read_config(hybrid_mm.config_path(REAL[0]), {'val_dataloader.dataset.data_root': 'elsewhere'},
                             data_root=str(tmp_path))
    assert cfg.val_dataloader.dataset.data_root == 'elsewhere'
    assert cfg.train_dataloader.dataset.data_root == f'{tmp_path}/'


def test_every_command_that_reads_data_has_the_option_and_uses_it(tmp_path, capsys):
    reads = {command for command in (train, test, check, browse_dataset, kmeans_references, search, supernet_train)}
    for command in reads:
        options = {option for action in command.parser()._actions for option in action.option_strings}
        assert '--data-root' in options
        name = command.__name__.rpartition('.')[2]
        config = hybrid_mm.config_path('upernet_glit_shapes_search.py' if command in (search, supernet_train) else REAL[0])
        more = {test: ['a.pth'], kmeans_references: [str(tmp_path / 'out.pth')], search: ['--checkpoint', 'a.pth']}
        with pytest.raises(SystemExit, match='^Error: --data-root nowhere is no folder; ') as end:
            commands.main(name, [config, *more.get(command, []), '--data-root', 'nowhere'])
        assert end.value.code not in (0, None)


def test_a_command_without_data_has_no_such_option():
    parser = argparse.ArgumentParser()
    shared.add_config(parser)
    assert not hasattr(parser.parse_args(['a.py']), 'data_root')


def test_what_is_no_config_of_data_is_left_to_the_checks_behind_it(small, tmp_path):
    small.train_dataloader = dict(batch_size=2)
    replace_data_root(small, str(tmp_path))
    assert small.val_dataloader.dataset.dataset.data_root == f'{tmp_path}/' and small.train_dataloader == dict(batch_size=2)
