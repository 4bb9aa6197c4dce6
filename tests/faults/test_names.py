"""Names that nothing takes stop a tool before any work, with one sentence; the stock tools as soon as they can."""
import re

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS

import hybrid_mm


@pytest.fixture(scope='module')
def changed(tmp_path_factory, tiny):
    """A config that inherits from a tiny one and says something more."""

    def write(text, name='detector'):
        path = tmp_path_factory.mktemp('configs') / 'changed.py'
        path.write_text(f"_base_ = ['{tiny(name)}']\n{text}\n")
        return path

    return write


@pytest.mark.parametrize('tool', ['train.py', 'analysis_tools/get_flops.py'])
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
    ('train_dataloder = dict(batch_size=4)', 'train_dataloder in {} is a key that nothing reads; the nearest is train_dataloader: '
                                             'write that, or give a variable of your own a name that is less like it'),
    ('model = dict(backbone=dict(drop_path_rat=0.1))',
     'model.backbone.drop_path_rat in {} is unknown to hybrid_mm.TransCNN; the nearest is drop_path_rate'),
])
def test_a_misspelt_name_in_a_config_stops_a_tool(run_tool, changed, tmp_path, text, sentence):
    path = changed(text)
    result = run_tool('train.py', path, check=False, cwd=tmp_path)
    assert result.returncode == 1 and result.stderr == f'Error: {sentence.format(path)}\n'
    assert not any(tmp_path.iterdir())
