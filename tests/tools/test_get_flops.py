"""`tools/analysis/get_flops.py` as a user runs it: a table, a file of numbers, and one sentence for what cannot work."""
import json
import re
from functools import partial

import pytest

from hybrid_mm import commands

get_flops = partial(commands.main, 'get_flops')


@pytest.fixture
def net(root, monkeypatch, tmp_path):
    """An empty folder to work in, and the path of a config whose data and weights are not there."""
    monkeypatch.chdir(tmp_path)
    return str(root / 'configs' / 'imagenet_parcnet_xs.py')


def test_table_and_file_agree(net, tmp_path, capsys):
    get_flops([net, '--shape', '64', '96', '--json', 'costs.json'])
    printed, costs = capsys.readouterr().out, json.loads((tmp_path / 'costs.json').read_text())
    assert printed.startswith('imagenet_parcnet_xs.py at 64x96 pixels, one image\n')
    total = re.search(r'^total +(\S+) +(\S+) +(\S+) +0.000 +(\S+) +0.000$', printed, re.MULTILINE)
    numbers = costs['parameters'] / 1e6, *(macs / 1e9 for macs in (
        costs['macs'], costs['columns']['conv + linear'], costs['columns']['norm, resize']))
    assert total.groups() == tuple(f'{number:.3f}' for number in numbers)
    assert re.search(r'^  stages.2 ', printed, re.MULTILINE) and re.search(r'^head ', printed, re.MULTILINE)
    assert re.search(r'^G MACs by operator: convolution 0\.\d{3}, .*norm 0\.', printed, re.MULTILINE)
    assert re.search(r'^counted as zero: add, .*silu', printed, re.MULTILINE)
    assert costs['config'] == 'imagenet_parcnet_xs.py' and costs['shape'] == [64, 96]
    assert sorted(path.name for path in tmp_path.iterdir()) == ['costs.json']


def test_settings_replace_those_of_the_config_and_one_number_is_both_sides(net, capsys):
    get_flops([net, '--shape', '64', '--cfg-options', 'model.backbone.backend=fft', 'model.head.num_classes=10'])
    printed = capsys.readouterr().out
    assert 'at 64x64 pixels' in printed and re.search('FFT 0.0', printed)
    assert re.search(r'^head +0\.006 ', printed, re.MULTILINE)  # 640 x 10 weights


@pytest.mark.parametrize('args, message', [
    (['no.py'], 'the config no.py does not exist; give the path of a file'),
    (['{net}', '--shape', '16', '64'], 'shape 16 64 is not allowed; give height and width in pixels, each 32 or more'),
    (['{net}', '--shape', '64', '64', '64'], 'shape 64 64 64 is not allowed'),
    (['{net}', '--json', 'no/costs.json'], '--json no/costs.json cannot be written; give a file in a folder that exists'),
    (['{net}', '--json', '.'], '--json . cannot be written'),
    (['{net}', '--cfg-options', 'default_scope=mmocr'], "default_scope='mmocr' of the config is not allowed; choose from"),
    (['{net}', '--cfg-options', 'default_scope=None'], 'default_scope=None of the config is not allowed'),
    (['{net}', '--cfg-options', 'model=None'], 'the config has no model; give the config of a detector, segmentor or class'),
    (['{net}', '--cfg-options', 'model.backbone.arch=huge'], "arch='huge' is unknown; choose from xs, s, h"),
])
def test_a_fault_ends_with_a_sentence(net, tmp_path, args, message):
    with pytest.raises(SystemExit) as raised:
        get_flops([arg.format(net=net) for arg in args])
    assert raised.value.code.startswith(f'Error: {message}') and '\n' not in raised.value.code
    assert not list(tmp_path.iterdir())
