"""The index of models: it lists every config, says what our counter says, and the tables in the documents are made from it."""
import re
import shutil
import sys

import pytest
import yaml
from mmengine.config import Config
from modelindex import load

from hybrid_mm.analysis.complexity import complexity
from hybrid_mm.commands import main, tables

FAMILIES = ['transcnn', 'hatnet', 'parc', 'setformer', 'glit']
CHEAP = ['imagenet_transcnn_s', 'imagenet_hatnet_t', 'imagenet_parc_mbv2', 'imagenet_parcnet_xs', 'imagenet_setformer_m',
         'imagenet_glit_t', 'upernet_parc_r50_baseline']


@pytest.fixture
def copy(root, tmp_path, monkeypatch):
    """A copy of what the command reads and writes, which it takes for the clone."""
    ignore = shutil.ignore_patterns('__pycache__')
    shutil.copytree(root / 'configs', tmp_path / 'configs', ignore=ignore)
    shutil.copytree(root / 'docs', tmp_path / 'docs', ignore=shutil.ignore_patterns('images'))
    for name in ('README.md', 'model-index.yml'):
        shutil.copy(root / name, tmp_path)
    monkeypatch.setattr(tables, 'ROOT', tmp_path)
    return tmp_path


def run(*options):
    tables.run(tables.parser().parse_args(options))


@pytest.fixture(scope='module')
def models(root):
    """Model by name."""
    return {model['Name']: model for family in tables.read_families(root).values() for model in family}


def change(path, old, new):
    """Replace the first of what is there."""
    text = path.read_text()
    assert re.search(old, text)
    path.write_text(re.sub(old, new, text, count=1))


def texts(folder):
    return {path.name: path.read_text() for path in (folder / 'README.md', folder / 'docs' / 'models.md')}


# ---- the index ----


def test_every_config_is_in_one_metafile_and_every_model_has_its_config(root):
    listed = [model['Config'] for family in FAMILIES
              for model in yaml.safe_load((root / 'configs' / family / 'metafile.yml').read_text())['Models']]
    files = [path for family in FAMILIES for path in (root / 'configs' / family).glob('*.py')]
    assert sorted(listed) == sorted(str(path.relative_to(root)) for path in files)


def test_index_is_valid_for_model_index_and_for_mim(root):
    index = load(str(root / 'model-index.yml'))
    assert index.check(silent=True) == []
    collections = {collection.name for collection in index.collections}
    assert all(model.in_collection in collections and model.name == model.name.lower() for model in index.models)
    assert any(model.weights for model in index.models)  # without any, mim downloads nothing at all


def test_weights_are_those_that_the_dense_configs_start_from(root, models):
    with_weights = {name: model['Weights'] for name, model in models.items() if 'Weights' in model}
    assert len(with_weights) == 8
    for name, url in with_weights.items():
        dense = Config.fromfile(root / models[name.replace('imagenet', 'maskrcnn')]['Config'])
        assert dense.model.backbone.init_cfg.checkpoint == url


@pytest.mark.parametrize('name', CHEAP)
def test_measured_figures_are_those_of_the_counter(name, root, models):
    counted = complexity(Config.fromfile(root / models[name]['Config']))
    data = models[name]['Metadata']
    assert (data['Parameters'], data['FLOPs']) == (counted.total.parameters, counted.total.column())
    assert data['Image Size'] == '{}x{}'.format(*counted.shape)


def test_detectors_of_one_network_cost_the_same_with_either_schedule(models):
    pairs = [(models[name], models[f'{name}_3x']) for name in models if f'{name}_3x' in models]
    assert pairs
    for short, long in pairs:
        assert [short['Metadata'][key] for key in ('Parameters', 'FLOPs')] == [
            long['Metadata'][key] for key in ('Parameters', 'FLOPs')]


# ---- the tool ----


def test_documents_are_up_to_date(capsys):
    main('tables', ['--check'])
    assert capsys.readouterr().out == 'all tables are up to date\n'


@pytest.mark.parametrize('old, new, shown', [
    ('FLOPs: 2876542976', 'FLOPs: 3876542976', '| 13.32 | 3.88 | 80.4 |'),
    ('Parameters: 13315976', 'Parameters: 14315976', '| 14.32 | 2.88 | 80.4 |'),
    ('Top 1 Accuracy: 80.4', 'Top 1 Accuracy: 80.7', '| 13.32 | 2.88 | 80.7 |'),
    ('Reproduced: false', 'Reproduced: true', '| 1 of 4 |'),
])
def test_change_of_a_figure_is_found_and_then_written(copy, old, new, shown):
    before = texts(copy)
    change(copy / 'configs' / 'transcnn' / 'metafile.yml', old, new)
    with pytest.raises(ValueError, match='^out of date: docs/models.md, README.md; run python tools/tables.py$'):
        run('--check')
    assert texts(copy) == before

    run()
    run('--check')
    row = next(line for line in texts(copy)['README.md'].splitlines() if line.startswith('| [transcnn_s]'))
    assert shown in row


def test_features_are_what_the_tests_say(copy, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    features = copy / 'tests' / 'backbones' / 'features.py'
    features.parent.mkdir(parents=True)
    features.write_text("def feature_table():\n    return '| it does |'\n")
    run()
    assert '<!-- features -->\n| it does |\n<!-- /features -->' in texts(copy)['models.md']
    features.write_text("def feature_table():\n    return '| it does not |'\n")
    with pytest.raises(SystemExit) as end:
        main('tables', ['--check'])
    assert end.value.code not in (0, None)


def test_published_cost_and_source_stand_beside_the_measured_ones(copy):
    rows = {line.split(']')[0][3:]: [cell.strip() for cell in line.split('|')[2:-1]]
            for line in texts(copy)['models.md'].splitlines() if line.startswith('| [')}
    assert rows['imagenet_glit_s'] == ['ImageNet-1K', '224×224', '24.59', '24.6', '4.93', '4.4', 'top-1 80.5',
                                       'paper, quoted by others', 'no']
    assert rows['upernet_parc_mbv2_baseline'][3:] == ['', '850.83', '', 'mIoU 32.80', "authors' README", 'no']
    assert rows['maskrcnn_hatnet_t'][5:] == ['', '', '', 'no']


def test_measuring_puts_the_numbers_of_one_model_right(copy):
    metafile = copy / 'configs' / 'parc' / 'metafile.yml'
    right = metafile.read_text()
    change(metafile, '(?s)(- Name: imagenet_parcnet_xs.*?Parameters: )[0-9]+', r'\g<1>7')
    change(metafile, '(?s)(- Name: imagenet_parcnet_xs.*?FLOPs: )[0-9]+', r'\g<1>8')
    assert metafile.read_text() != right
    run('--measure', 'imagenet_parcnet_xs')
    assert metafile.read_text() == right


@pytest.mark.parametrize('old, new, message', [
    ('- Name: imagenet_transcnn_s', '- Name: imagenet_TransCNN_s', "model 'imagenet_TransCNN_s': its name has to be in lower"),
    ('- Name: imagenet_transcnn_s', '- Name: transcnn_s', "model 'transcnn_s': its name has to begin with a task, one of "),
    ('Config: configs/transcnn/imagenet_transcnn_s.py', 'Config: configs/imagenet_transcnn_s.py',
     'its Config has to be configs/transcnn/imagenet_transcnn_s.py'),
    ('In Collection: TransCNN', 'In Collection: Swin', 'In Collection has to be one of TransCNN'),
    ('    Parameters: 13315976\n', '', 'Metadata needs Training Data, Image Size, Parameters, FLOPs, Reproduced'),
    ('Reproduced: false', 'Reproduced: maybe', 'Reproduced has to be true or false'),
    ("    Published By: authors' README\n", '', 'results need Published By'),
    ('Top 1 Accuracy', 'Top-1', 'results need one of Top 1 Accuracy, box AP, mask AP, mIoU'),
])
def test_broken_rule_is_named(copy, old, new, message):
    change(copy / 'configs' / 'transcnn' / 'metafile.yml', old, new)
    with pytest.raises(ValueError, match=f'^configs/transcnn/metafile.yml: .*{re.escape(message)}'):
        run()


def test_config_outside_of_the_index_and_model_listed_twice_are_named(copy):
    shutil.copy(copy / 'configs' / 'glit' / 'imagenet_glit_t.py', copy / 'configs' / 'glit' / 'imagenet_glit_xt.py')
    metafile = copy / 'configs' / 'glit' / 'metafile.yml'
    block = re.search(r'(?s)- Name: upernet_glit_b\n.*', metafile.read_text())[0]
    metafile.write_text(f'{metafile.read_text()}\n{block}')
    with pytest.raises(ValueError, match='upernet_glit_b is in the index twice; configs/glit/imagenet_glit_xt.py is in no '):
        run('--check')


def test_missing_marks_and_unknown_models_are_named(copy):
    change(copy / 'docs' / 'models.md', '<!-- /models:glit -->', '')
    with pytest.raises(ValueError, match='docs/models.md needs <!-- models:glit --> and below it <!-- /models:glit -->'):
        run()
    with pytest.raises(ValueError, match='--measure glit: no such model; choose from imagenet_transcnn_s, '):
        run('--measure', 'glit')
