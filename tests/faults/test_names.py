"""Names that nothing takes stop a tool before any work, with one sentence; the stock tools as soon as they can."""
import importlib.util
import os
from pathlib import Path

import pytest


@pytest.fixture(scope='module')
def changed(tmp_path_factory, tiny):
    """A config that inherits from a tiny one and says something more."""

    def write(text, name='detector'):
        path = tmp_path_factory.mktemp('configs') / 'changed.py'
        path.write_text(f"_base_ = ['{tiny(name)}']\n{text}\n")
        return path

    return write


@pytest.mark.parametrize('tool', ['train.py', 'analysis/get_flops.py'])
@pytest.mark.parametrize('option, sentence', [
    ('model.backbone.drop_path_rat=0.1',
     '--cfg-options model.backbone.drop_path_rat is unknown to hybrid_mm.TransCNN; the nearest is drop_path_rate'),
    ('train_dataloder.batch_size=4', '--cfg-options train_dataloder.batch_size is unknown to the config; the nearest is '
                                     'train_dataloader'),
])
def test_a_misspelt_option_stops_a_tool(run_tool, tiny, tmp_path, tool, option, sentence):
    result = run_tool(tool, tiny('detector'), '--cfg-options', option, check=False, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr == f'Error: {sentence}\n'
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('text, sentence', [
    ('train_dataloder = dict(batch_size=4)', 'train_dataloder in {} is a key that nothing reads; the nearest is '
                                             'train_dataloader: write that, or give a variable of your own a name that is less '
                                             'like it'),
    ('model = dict(backbone=dict(drop_path_rat=0.1))',
     'model.backbone.drop_path_rat in {} is unknown to hybrid_mm.TransCNN; the nearest is drop_path_rate'),
])
def test_a_misspelt_name_in_a_config_stops_a_tool(run_tool, changed, tmp_path, text, sentence):
    path = changed(text)
    result = run_tool('train.py', path, check=False, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr == f'Error: {sentence.format(path)}\n'
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('text, message', [
    ('train_dataloder = dict(batch_size=4)', 'SetupError: train_dataloder in the config is a key that nothing reads; the nearest '
                                             'is train_dataloader: '),
    ('model = dict(backbone=dict(drop_path_rat=0.1))',
     'TypeError: drop_path_rat is unknown to TransCNN; the nearest is drop_path_rate'),
])
def test_a_stock_tool_stops_before_the_first_step(root, run_tool, changed, tmp_path, text, message):
    stock = Path(importlib.util.find_spec('mmdet').origin).parent / '.mim' / 'tools' / 'train.py'
    if not stock.is_file():
        pytest.skip('mmdet is installed without its tools')
    result = run_tool(stock, changed(text), check=False, cwd=tmp_path,
                      PYTHONPATH=os.pathsep.join(map(str, (root, root / 'tests' / 'tools'))))
    assert result.returncode == 1 and message in result.stderr
    assert 'Epoch(train)' not in result.stdout + result.stderr and not list(tmp_path.rglob('*.pth'))
