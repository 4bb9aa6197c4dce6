"""`tools/kmeans_references.py` as a user runs it: its file starts a training; what cannot work ends with a sentence."""
import re
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from hybrid_mm import commands
from hybrid_mm.compat import allow_training_checkpoints

allow_training_checkpoints()

BACKBONE = 'dict(arch=dict(_delete_=True, channels=[16] * 4, depths=[1] * 4, mlp_ratio=1, head_dim=16), num_references=9)'
SEGMENTOR = f'''
_base_ = [__import__('hybrid_mm').config_path('upernet_setformer_m_shapes.py')]
model = dict(backbone={BACKBONE}, decode_head=dict(in_channels=[16] * 4), auxiliary_head=dict(in_channels=16))
train_dataloader = dict(
    sampler=dict(type='InfiniteSampler'), dataset=dict(data_root='{{shapes}}/ade/ADEChallengeData2016'))
'''
CLASSIFIER = f'''
_base_ = [__import__('hybrid_mm').config_path('imagenet_setformer_m.py')]
model = dict(backbone={BACKBONE}, head=dict(in_channels=16))
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    sampler=dict(type='RepeatAugSampler'),
    dataset=dict(
        _delete_=True,
        type='CustomDataset',
        data_root='{{pictures}}',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 96)), dict(type='PackInputs')]))
'''


kmeans, train = (partial(commands.main, name) for name in ('kmeans_references', 'train'))


@pytest.fixture
def folder(monkeypatch, tmp_path, shapes, pictures, tiny):
    """An empty folder to work in, and what messages name."""
    monkeypatch.setenv('SHAPES', str(shapes))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))  # for the probes of the tiny configs
    monkeypatch.chdir(tmp_path)
    return tmp_path


def weights(path):
    return torch.load(path, map_location='cpu')['state_dict']


def test_a_training_starts_from_the_references(folder, tiny, capsys):
    kmeans([tiny('setformer'), 'found.pth', '--images', '4', '--tokens', '20', '--seed', '3'])

    printed = capsys.readouterr().out
    assert '4/4' in printed
    lines = re.findall(r'^(\S.*?) +row entropy (0\.\d{3}) -> (0\.\d{3})$', printed, re.MULTILINE)
    assert [name for name, *_ in lines] == ['stages.0.0.attn', 'stages.1.0.attn', 'stages.2.0.attn', 'stages.2.1.attn',
                                            'stages.3.0.attn', 'mean of 5 blocks']
    assert all(after < before for _, before, after in lines)
    assert 'found.pth: ' in printed and 'the references of 5 blocks from 4 images' in printed
    found = weights('found.pth')
    assert torch.load('found.pth')['meta'].items() >= dict(config='setformer.py', images=4, tokens=20, seed=3).items()
    references = [key for key in found if key.endswith('attn.references')]
    assert len(references) == 5
    assert all(torch.allclose(found[key].norm(dim=-1), torch.tensor(1.)) for key in references)

    # without a step, so that what was trained from can be seen; as init_cfg the file starts the run of the next test
    train([tiny('setformer'), '--work-dir', 'trained', '--cfg-options', 'load_from=found.pth', 'optim_wrapper.optimizer.lr=0'])
    trained = weights('trained/epoch_1.pth')
    assert all(torch.equal(trained[key], value) for key, value in found.items())


def test_dense_config_takes_the_file_as_its_starting_weights(folder, tiny):
    """`init_cfg` of our dense configs, with another checkpoint; a second run starts from the first one's weights."""
    dense = folder / 'dense.py'
    dense.write_text(f"_base_ = [{tiny('setformer')!r}]\n"
                     "model = dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='no.pth', prefix='backbone.')))\n")
    kmeans([tiny('setformer'), 'first.pth', '--images', '2'])
    kmeans([str(dense), 'second.pth', '--images', '4', '--seed', '1', '--cfg-options',
            'model.backbone.init_cfg.checkpoint=first.pth'])

    first, second = weights('first.pth'), weights('second.pth')
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) != key.endswith('references') for key in first)


@pytest.mark.parametrize('text, images', [(SEGMENTOR, 8), (CLASSIFIER, 20)])
def test_segmentors_and_classifiers_use_each_image_once_where_there_are_fewer(folder, shapes, pictures, capsys, text,
                                                                             images):
    (folder / 'net.py').write_text(text.format(shapes=shapes, pictures=pictures))
    kmeans(['net.py', 'found.pth', '--images', '1000'])

    printed = capsys.readouterr().out
    assert f'the training data have {images} images, less than --images 1000; all are used' in printed
    assert f'{images}/{images}' in printed and torch.load('found.pth')['meta']['images'] == images
    assert 'backbone.stages.3.0.attn.references' in weights('found.pth')


def test_the_same_seed_gives_the_same_file(folder, tiny):
    for name, seed in (('a', 5), ('b', 5), ('c', 6)):
        kmeans([tiny('setformer'), f'{name}.pth', '--images', '2', '--seed', str(seed)])
    a, b, c = (weights(f'{name}.pth') for name in 'abc')
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(a['backbone.stages.0.0.attn.references'], c['backbone.stages.0.0.attn.references'])


def test_an_existing_file_is_overwritten_by_force_alone(folder, tiny):
    (folder / 'old.pth').write_text('old')
    with pytest.raises(SystemExit, match='^Error: old.pth exists; give another file, or pass --force to overwrite it$'):
        kmeans([tiny('setformer'), 'old.pth', '--images', '2'])
    assert (folder / 'old.pth').read_text() == 'old'
    kmeans([tiny('setformer'), 'old.pth', '--images', '2', '--force'])
    assert weights('old.pth')


@pytest.mark.parametrize('args, message', [
    (['no.py', 'out.pth'], '^Error: the config no.py does not exist; give the path of a file$'),
    (['{setformer}', 'no/out.pth'], '^Error: the folder no of no/out.pth does not exist; make it, or give another file$'),
    (['{setformer}', '.'], r'^Error: \. is a folder; give a file$'),
    (['{setformer}', 'out.pth', '--images', '0'], '^Error: --images 0 is not allowed; choose 1 or more$'),
    (['{setformer}', 'out.pth', '--tokens', '-1'], '^Error: --tokens -1 is not allowed; choose 1 or more$'),
    (['{setformer}', 'out.pth', '--images', '2', '--tokens', '4'],
     '^Error: --images 2 with --tokens 4 gives 8 tokens a block, fewer than its 9 references; choose more images, or more'),
    # the last stage has maps of 2x2
    (['{setformer}', 'out.pth', '--images', '2', '--tokens', '50', '--cfg-options',
      'train_dataloader.dataset.pipeline.2.scale=(64,64)'],
     r'^Error: stages\.3\.0\.attn has 9 references and has seen 8 tokens in 2 images; choose more images'),
    (['{setformer}', 'out.pth', '--cfg-options', 'model.backbone.attention=softmax'],
     "^Error: the backbone SeTformer has no self-optimal transport.*choose hybrid_mm.SeTformer with attention='transport'$"),
    (['{detector}', 'out.pth'], '^Error: the backbone TransCNN has no self-optimal transport'),
    (['{setformer}', 'out.pth', '--cfg-options', 'train_dataloader.dataset.data_root=nowhere'],
     '^Error: nowhere, the train_dataloader.dataset.data_root of the config, does not exist; '),
    (['{setformer}', 'out.pth', '--cfg-options', 'model.backbone.init_cfg.type=Pretrained',
      'model.backbone.init_cfg.checkpoint=no.pth'], '^Error: model.backbone.init_cfg.checkpoint no.pth does not exist; '),
    (['{setformer}', 'out.pth', '--cfg-options', 'model.backbone.num_references=10'],
     '^Error: num_references=10 is not allowed'),
])
def test_what_cannot_work_ends_with_a_sentence_and_no_file(folder, tiny, args, message):
    names = {name: tiny(name) for name in ('setformer', 'detector')}
    with pytest.raises(SystemExit) as raised:
        kmeans([arg.format(**names) for arg in args])
    assert re.search(message, raised.value.code) and '\n' not in raised.value.code
    assert not list(folder.rglob('*.pth'))


def test_a_missing_library_is_named_before_work(folder, tiny, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'faiss', None)
    with pytest.raises(SystemExit, match='^Error: K-means of references needs faiss, .* run `pip install faiss-cpu`$'):
        kmeans([tiny('setformer'), 'out.pth'])
    assert 'elapsed' not in capsys.readouterr().out
