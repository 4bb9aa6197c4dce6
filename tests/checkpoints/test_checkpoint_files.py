"""Reading checkpoint files: wrappings, URLs, and files that cannot be read."""
import argparse
import functools
import http.server
import os
import re
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.logging import HistoryBuffer

from hybrid_mm.checkpoints import load_released, unwrap

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def state_dict():
    return {'a.weight': torch.arange(600.), 'a.bias': torch.ones(2)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Empty cache of torch.hub, and no proxy between us and 127.0.0.1."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch_home'))
    monkeypatch.setenv('no_proxy', '127.0.0.1')
    return tmp_path / 'torch_home' / 'hub' / 'checkpoints'


@pytest.fixture
def server(tmp_path):
    """A web server of the folder `served`: its address, the folder, and the paths asked for so far."""
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):

        def log_message(self, *args):
            asked.append(self.path)

    folder = tmp_path / 'served'
    folder.mkdir()
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Handler, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever).start()
        yield f'http://127.0.0.1:{httpd.server_port}', folder, asked
        httpd.shutdown()


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for key in theirs:
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0)


@pytest.mark.parametrize('key', ['state_dict', 'model', 'state_dict_ema', 'model_ema'])
def test_state_dict_comes_out_of_its_wrapping(key, state_dict):
    assert_same(unwrap({'epoch': 3, key: state_dict, 'optimizer': {}}), state_dict)


def test_flat_state_dict_passes(state_dict):
    assert_same(unwrap(state_dict), state_dict)


@pytest.mark.parametrize('averaged, last', [('state_dict_ema', 'state_dict'), ('model_ema', 'model')])
def test_averaged_weights_are_preferred(averaged, last, state_dict):
    other = {key: value + 1 for key, value in state_dict.items()}
    assert_same(unwrap({last: other, averaged: state_dict}), state_dict)


def test_prefix_of_data_parallel_training_goes(state_dict):
    assert_same(unwrap({'model': {f'module.{key}': value for key, value in state_dict.items()}}), state_dict)


@pytest.mark.parametrize('checkpoint, message', [
    ({}, 'holds no tensors; its keys are none'),
    ({'epoch': 1, 'lr': 0.1}, 'holds no tensors; its keys are epoch, lr'),
    ({'model': {}}, 'holds no tensors'),
    ({'a': torch.zeros(1), 'epoch': 1}, 'holds more than tensors, under epoch'),
    ([torch.zeros(1)], 'is a list, not a dict of tensors'),
])
def test_a_file_without_state_dict_is_named(checkpoint, message, tmp_path):
    torch.save(checkpoint, tmp_path / 'released.pth')
    with pytest.raises(ValueError, match=f'released.pth: the checkpoint {message}'):
        load_released(str(tmp_path / 'released.pth'))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint file .*released.pth'):
        load_released(str(tmp_path / 'released.pth'))


@pytest.mark.parametrize('zipped', [True, False])
@pytest.mark.parametrize('part', [0., 0.1, 0.5, 0.99])
def test_truncated_file_is_no_checkpoint(zipped, part, state_dict, tmp_path):
    path = tmp_path / 'released.pth'
    torch.save(state_dict, path, _use_new_zipfile_serialization=zipped)
    content = path.read_bytes()
    path.write_bytes(content[:int(part * len(content))])
    with pytest.raises(ValueError, match='released.pth is (empty|no checkpoint of PyTorch, or incomplete); get it again'):
        load_released(str(path))


@pytest.mark.parametrize('content', [b'<html>not found</html>', b'version https://git-lfs.github.com/', bytes(64)])
def test_something_else_is_no_checkpoint(content, tmp_path):
    path = tmp_path / 'released.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='released.pth is no checkpoint of PyTorch, or incomplete'):
        load_released(str(path))


class RunsCode:

    def __reduce__(self):
        return os.mkdir, ('made_by_a_checkpoint', )


@pytest.mark.parametrize('zipped', [True, False])
def test_code_in_a_checkpoint_does_not_run(zipped, state_dict, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'model': state_dict, 'extra': RunsCode()}, 'released.pth', _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'released.pth holds more than weights: it asks for \w+.mkdir'):
        load_released('released.pth')
    assert not Path('made_by_a_checkpoint').exists()


def test_command_line_beside_the_weights_is_read(state_dict, tmp_path):
    torch.save({'model': state_dict, 'args': argparse.Namespace(lr=0.1)}, tmp_path / 'released.pth')
    assert_same(load_released(str(tmp_path / 'released.pth')), state_dict)


def test_training_checkpoint_of_mmengine_is_read(state_dict, tmp_path):
    hub = dict(log_scalars={'loss': HistoryBuffer([1.], [1])})
    torch.save({'state_dict': state_dict, 'message_hub': hub, 'meta': {'epoch': 1}}, tmp_path / 'epoch_1.pth')
    assert_same(load_released(str(tmp_path / 'epoch_1.pth')), state_dict)


def test_url_is_fetched_once(state_dict, cache, server):
    address, folder, asked = server
    torch.save(state_dict, folder / 'released.pth')
    for _ in range(2):
        assert_same(load_released(f'{address}/released.pth'), state_dict)
    assert asked == ['/released.pth']
    assert [path.name for path in cache.iterdir()] == ['released.pth']


def test_broken_download_says_how_to_fetch_again(cache, server):
    address, folder, _ = server
    (folder / 'released.pth').write_bytes(b'half')
    url = f'{address}/released.pth'
    with pytest.raises(ValueError, match=f'{cache}/released.pth is no checkpoint .*; delete it to fetch {url} again'):
        load_released(url)


@pytest.mark.parametrize('option, init_cfg', [
    ('checkpoint=', dict(type='hybrid_mm.Released', checkpoint='FILE')),
    ('init_cfg=None', None),
])
def test_url_out_of_reach_names_options_that_work(option, init_cfg, cache):
    url = 'http://127.0.0.1:9/TransCNN-Small.pth'
    with pytest.raises(ConnectionError, match=f'cannot fetch {url}') as error:
        load_released(url)
    command = next(text for text in re.findall('`(.*?)`', str(error.value)) if option in text)

    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    config = Config(dict(model=dict(backbone=dict(init_cfg=dict(type='hybrid_mm.Released', checkpoint=url)))))
    config.merge_from_dict(parser.parse_args(shlex.split(command)).cfg_options)
    assert config.model.backbone.init_cfg == init_cfg


def test_page_not_found_is_out_of_reach(cache, server):
    with pytest.raises(ConnectionError, match='cannot fetch .*404'):
        load_released(f'{server[0]}/released.pth')
    assert list(cache.iterdir()) == []


def test_one_rank_of_a_node_fetches_and_a_failure_reaches_all(state_dict, cache, server, tmp_path):
    address, folder, asked = server
    torch.save(state_dict, folder / 'released.pth')
    script = f'''
import os, torch
from hybrid_mm.checkpoints import load_released
torch.distributed.init_process_group(
    'gloo', init_method='file://{tmp_path}/meeting', rank=int(os.environ['LOCAL_RANK']), world_size=2)
print(len(load_released('{address}/released.pth')))
try:
    load_released('http://127.0.0.1:9/out_of_reach.pth')
except ConnectionError:
    print('failed')
'''
    ranks = [
        subprocess.Popen([sys.executable, '-c', script], cwd=ROOT, stdout=subprocess.PIPE, text=True,
                         env=dict(os.environ, LOCAL_RANK=str(rank))) for rank in range(2)
    ]
    assert [rank.communicate(timeout=120)[0].split() for rank in ranks] == [['2', 'failed']] * 2
    assert asked == ['/released.pth']
