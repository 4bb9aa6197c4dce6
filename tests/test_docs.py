"""README and the pages in docs/: their examples and commands run, their configs load, and what they name is there.

How a block of a page is tested:

- python whose first line is a comment with a path: a file, written there, or appended to what is there;
- python that begins with ``_base_ =``: a config, which loads;
- other python: code, run in this process, block after block of a page;
- bash with the word ``run`` behind: commands, run in a copy of the clone with the files of the page, on little data with the
  `SETTINGS` below.
"""
import ast
import dataclasses
import json
import os
import re
import shlex
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, DefaultScope
from reference.released_weights import weights

from hybrid_mm.search.settings import SearchSettings, build_strategy, read_cost, read_settings, read_space

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / 'README.md', ROOT / 'CONTRIBUTING.md', ROOT / 'configs' / 'README.md', *sorted((ROOT / 'docs').rglob('*.md'))]
OPERATORS = ['global_local', 'h_mhsa', 'parc', 'search', 'self_optimal_transport']

# ---- what makes the commands of the pages small ----

SHAPES = ['--train', '4', '--val', '2', '--size', '64', '64']
LOADERS = [f'{split}_dataloader.{setting}' for split in ('train', 'val', 'test')
           for setting in ('num_workers=0', 'persistent_workers=False')]
SCALES = [f'{split}_dataloader.dataset.pipeline.{step}.scale=(64,64)'
          for split, step in (('train', 2), ('val', 1), ('test', 1))]
SAVING = ['default_hooks.checkpoint.save_optimizer=False', 'default_hooks.logger.interval=1']
SETTINGS = {
    'my_boxes.py': [
        *LOADERS, *SCALES, *SAVING, 'model.backbone.init_cfg=None', 'model.roi_head.bbox_head.fc_out_channels=16',
        'model.roi_head.mask_head.num_convs=1', 'model.train_cfg.rcnn.sampler.num=16', 'model.test_cfg.rpn.max_per_img=20',
        'train_cfg.max_epochs=1'],
    'my_regions.py': [
        *LOADERS, *SCALES, *SAVING, 'model.backbone.init_cfg=None', 'model.decode_head.channels=16',
        'model.data_preprocessor.size=(64,64)', 'train_dataloader.dataset.pipeline.3.crop_size=(64,64)',
        'train_cfg.max_iters=2', 'train_cfg.val_interval=2', 'default_hooks.checkpoint.interval=2'],
    'configs/shapes/upernet_plain_net_t_shapes.py': [
        'model.data_preprocessor.size=(64,64)', 'train_cfg.max_epochs=1', 'train_cfg.val_interval=1'],
}
SHORT_RUNS = {'epoch_12.pth': 'epoch_1.pth', 'iter_2000.pth': 'iter_2.pth'}


# ---- the parts of a page ----


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page, fence):
    """(lines in front, code) of each block of a page with these words behind its fence, in order."""
    text = page.read_text()
    return [(text.count('\n', 0, block.start(1)), block[1])
            for block in re.finditer(rf'^```{fence}\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)]


def file_name(code):
    """The file that a block is, or None."""
    first_line = re.match(r'# ([\w/]+\.py)\n', code)
    return first_line and first_line[1]


def is_config(code):
    return code.startswith('_base_ =')


def files(page):
    """Name and text of the files that a page writes."""
    return [(file_name(code), code) for _, code in blocks(page, 'python') if file_name(code)]


def examples(page):
    """(lines in front, code) of the blocks that are no files."""
    return [(lines, code) for lines, code in blocks(page, 'python') if not file_name(code)]


def commands(page):
    """Words of each command that a page says to run, made small."""
    found = []
    for line in ''.join(code for _, code in blocks(page, 'bash run')).splitlines():
        for checkpoint, of_short_run in SHORT_RUNS.items():
            line = line.replace(checkpoint, of_short_run)
        words = shlex.split(line, comments=True)
        words += SHAPES if words[1].endswith('make_shapes.py') else []
        config = words[2] if words[1].startswith('tools/') and len(words) > 2 else None
        computes = words[1] not in ('tools/analysis/get_flops.py', 'tools/analysis/browse_dataset.py')
        found.append([*words, '--cfg-options', *SETTINGS[config]] if config in SETTINGS and computes else words)
    return found


def named_files(page):
    """Files of the clone that a page names in commands and in text, but for those that it writes."""
    named = re.findall(r'(?<![\w/.])(?:benchmarks|configs|hybrid_mm|requirements|tests|tools)/[\w/.]+\.(?:py|sh|md|txt)\b',
                       page.read_text())
    return set(named) - {name for name, _ in files(page)}


def write_files(page, folder):
    for name, code in files(page):
        (folder / name).parent.mkdir(exist_ok=True)
        with open(folder / name, 'a') as file:
            file.write(code)


@lru_cache
def messages():
    """Texts in the code of package and tools; what a text takes in stands there as …"""
    found = []
    for path in (*(ROOT / 'hybrid_mm').rglob('*.py'), *(ROOT / 'tools').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(''.join(part.value if isinstance(part, ast.Constant) else '…' for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


PAGES_WITH_EXAMPLES = [page for page in PAGES if examples(page)]
PAGES_WITH_COMMANDS = [page for page in PAGES if blocks(page, 'bash run')]
CONFIGS = [(name_of(page), code) for page in PAGES for _, code in examples(page) if is_config(code)]


# ---- tests ----


@pytest.mark.parametrize('page', PAGES_WITH_EXAMPLES, ids=name_of)
def test_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if 'TransCNN-Tiny.pth' in page.read_text():
        torch.save(weights('transcnn_tiny'), 'TransCNN-Tiny.pth')
    names = {'__name__': page.stem}
    with torch.random.fork_rng(devices=[]):
        for lines, code in examples(page):
            if not is_config(code):
                exec(compile('\n' * lines + code, str(page), 'exec'), names)  # a traceback shows the line of the page


@pytest.mark.parametrize('page', PAGES_WITH_COMMANDS, ids=name_of)
def test_commands_of_a_page_run_with_its_files(page, tmp_path, run_in_forks):
    for folder in ('configs', 'hybrid_mm', 'requirements', 'tests', 'tools'):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns('__pycache__', '.mim'))
    shutil.copy(ROOT / 'pyproject.toml', tmp_path)
    write_files(page, tmp_path)
    log = tmp_path / 'log'
    assert run_in_forks(commands(page), tmp_path, log, log) == 0, log.read_text()[-6000:]

    if page.stem == 'fine_tuning':
        for task in ('my_boxes', 'my_regions'):
            work_dir = tmp_path / 'work_dirs' / task
            assert len(list((work_dir / 'browse_train').glob('*'))) == 4
            assert len(json.loads((work_dir / 'infer_val2017' / 'predictions.json').read_text())['images']) == 2
        assert (tmp_path / 'curves.png').is_file()
        assert {'coco/bbox_mAP', 'coco/segm_mAP', 'mIoU'} <= {
            key for path in tmp_path.glob('work_dirs/*/*/*.json') for key in json.loads(path.read_text())}


def test_learning_rates_of_the_page_fall_towards_the_stem(tmp_path):
    write_files(ROOT / 'docs' / 'own_project.md', tmp_path)
    cfg = Config.fromfile(tmp_path / 'my_detector_with_decay.py')
    with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
        model = MODELS.build(cfg.model)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}

    assert rates[id(model.backbone.stem[0].weight)] == pytest.approx(1e-4 * 0.7**7)
    assert rates[id(model.neck.lateral_convs[0].conv.weight)] == 1e-4


@pytest.mark.parametrize(('name', 'code'), CONFIGS, ids=[name for name, _ in CONFIGS])
def test_configs_in_pages_load_and_a_search_in_them_begins(name, code, tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(code)
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type.startswith('hybrid_mm.')
    if 'search' in cfg:
        settings, space = read_settings(cfg), read_space(cfg)
        strategy = build_strategy(settings, space, read_cost(cfg, settings))
        assert len(strategy.propose([]).candidates) == settings.population


def test_pages_have_examples_and_commands_and_all_are_found():
    assert {'README', 'global_local', 'h_mhsa', 'parc', 'search', 'own_project', 'with_parc'} <= {
        page.stem for page in PAGES_WITH_EXAMPLES}
    assert {page.stem for page in PAGES_WITH_COMMANDS} == {'adding_a_backbone', 'fine_tuning', 'own_project', 'with_parc'}
    for page in PAGES:
        fences = re.findall(r'^\s*```\s*python', page.read_text(), re.MULTILINE | re.IGNORECASE)
        assert len(blocks(page, 'python')) == len(fences), f'{page.name} has a python block that is not run'
        fences = re.findall(r'^\s*```.*run', page.read_text(), re.MULTILINE)
        assert len(blocks(page, 'bash run')) == len(fences), f'{page.name} has a command that is not run'
        assert not files(page) or page in PAGES_WITH_COMMANDS, f'{page.name} has a file that no command reads'


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_files_and_options_that_a_page_names_are_there(page):
    missing = [name for name in sorted(named_files(page)) if not (ROOT / name).is_file()]
    links = re.findall(r'\]\((?!https?://|#)([^)#]+)', page.read_text())
    missing += [link for link in links if not (page.parent / link).exists()]
    lines = [line for line in re.split(r'\n|`', page.read_text()) if re.search(r'\btools/[\w/]+\.(py|sh)', line)]
    of_scripts = {option for path in (ROOT / 'tools').glob('*.sh') for option in re.findall(r'--[a-z][\w-]*', path.read_text())}
    missing += [option for line in lines for option in re.findall(r'(?<!\S)--[a-z][\w-]*', line)
                if option not in messages() and option not in of_scripts]
    assert not missing, f'{page.name} names {", ".join(missing)}'


@pytest.mark.parametrize('page', PAGES, ids=name_of)
def test_index_names_every_page(page):
    link = os.path.relpath(page, ROOT / 'docs')
    assert page.parent == ROOT or link == 'README.md' or f']({link})' in (ROOT / 'docs' / 'README.md').read_text()


def test_readme_can_be_read_in_a_minute():
    assert len((ROOT / 'README.md').read_text().splitlines()) <= 120


def test_versions_in_pages_are_those_that_are_installed():
    """What install.md says to install is not run, so names and versions are compared with what the tools install."""
    sources = [*(ROOT / 'requirements').glob('*.txt'), ROOT / 'tools' / 'check_mim.sh']
    pins = dict(pin for path in sources for pin in re.findall(r'([\w-]+)==([\w.]+)', path.read_text()))
    named = [(name_of(page), *pin) for page in PAGES for pin in re.findall(r'\b([a-z][a-z\d-]*)==([\w.]+)', page.read_text())]
    wrong = [f'{page}: {name}=={version}' for page, name, version in named if pins.get(name) != version]
    assert not wrong and len(named) > 10, wrong


def test_table_of_backbones_is_what_they_are():
    page, name, wrong, rows = (ROOT / 'docs' / 'backbones.md').read_text(), None, [], 0
    for cells in re.findall(r'^\|(.*\| [\d,]+ \| .*)\|$', page, re.MULTILINE):
        kind, arch, parameters, channels, _ = (cell.strip() for cell in cells.split('|'))
        name = kind.strip('`') or name
        argument = {'hybrid_mm.ParCResNet': 'depth', 'hybrid_mm.ParCMobileNetV2': 'widen_factor'}.get(name, 'arch')
        with torch.device('meta'):
            backbone = MODELS.build({'type': name, argument: ast.literal_eval(arch) if argument != 'arch' else arch})
        found = f'{sum(p.numel() for p in backbone.parameters()):,}', ', '.join(map(str, backbone.out_channels))
        rows += 1
        wrong += [(name, arch, found)] if found != (parameters, channels) else []
    assert rows == 22 and not wrong, wrong


@pytest.mark.parametrize('name', OPERATORS)
def test_page_on_an_operator_has_a_drawing(name):
    assert f'](images/{name}.svg)' in (ROOT / 'docs' / f'{name}.md').read_text()


def test_messages_in_troubleshooting_are_those_of_the_code():
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    section, = re.findall(r'## What our tools say\n(.*?)\n## ', page, re.DOTALL)
    symptoms = re.findall(r'^\| `([^`]+)` \|', section, re.MULTILINE)
    unknown = [symptom for symptom in symptoms if not any(
        re.search('.*'.join(map(re.escape, symptom.split('…'))), message) for message in messages())]
    assert len(symptoms) > 15 and not unknown, f'no tool says {unknown}'


def test_page_on_the_search_names_every_setting():
    text = (ROOT / 'docs' / 'search.md').read_text()
    missing = [field.name for field in dataclasses.fields(SearchSettings) if f'`{field.name}`' not in text]
    assert not missing, f'docs/search.md says nothing about {", ".join(missing)}'
