"""The pages in docs/: their examples run, their configs load, and what they name is there."""
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from hybrid_mm.search.settings import SearchSettings, build_strategy, read_cost, read_settings, read_space

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / 'docs').glob('*.md'))


def examples(page):
    """(lines in front, code) of each python block of a page, in order."""
    text = page.read_text()
    return [(text.count('\n', 0, block.start(1)), block[1])
            for block in re.finditer(r'^```python\n(.*?)^```$', text, re.DOTALL | re.MULTILINE)]


def is_config(code):
    return code.startswith('_base_ =')


def named_files(page):
    """Files of the clone that a page names in commands and in text."""
    return set(re.findall(r'(?<![\w/.])(?:benchmarks|configs|hybrid_mm|tests|tools)/[\w/.]+\.(?:py|sh|md)\b', page.read_text()))


PAGES_WITH_EXAMPLES = [page for page in PAGES if examples(page)]
CONFIGS = [(page.stem, code) for page in PAGES for _, code in examples(page) if is_config(code)]


@pytest.mark.parametrize('page', PAGES_WITH_EXAMPLES, ids=lambda page: page.stem)
def test_examples_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {'__name__': page.stem}
    with torch.random.fork_rng(devices=[]):
        for lines, code in examples(page):
            if not is_config(code):
                exec(compile('\n' * lines + code, str(page), 'exec'), names)  # a traceback shows the line of the page


@pytest.mark.parametrize(('name', 'code'), CONFIGS, ids=[name for name, _ in CONFIGS])
def test_configs_in_pages_load_and_a_search_in_them_begins(name, code, tmp_path):
    path = tmp_path / f'{name}.py'
    path.write_text(code)
    cfg = Config.fromfile(path)
    assert cfg.model.backbone.type.startswith('hybrid_mm.')
    if 'search' in cfg:
        settings, space = read_settings(cfg), read_space(cfg)
        strategy = build_strategy(settings, space, read_cost(cfg, settings))
        assert len(strategy.propose([]).candidates) == settings.population


def test_pages_on_operators_and_search_have_examples_and_all_are_found():
    assert {'global_local', 'h_mhsa', 'parc', 'search'} <= {page.stem for page in PAGES_WITH_EXAMPLES}
    for page in PAGES:
        fences = re.findall(r'^\s*```\s*python', page.read_text(), re.MULTILINE | re.IGNORECASE)
        assert len(examples(page)) == len(fences), f'{page.name} has a python block that is not run'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_files_that_a_page_names_are_there(page):
    missing = [name for name in sorted(named_files(page)) if not (ROOT / name).is_file()]
    links = re.findall(r'\]\((?!https?://|#)([^)#]+)', page.read_text())
    missing += [link for link in links if not (page.parent / link).exists()]
    assert not missing, f'{page.name} names {", ".join(missing)}'


def test_page_on_the_search_names_every_setting():
    text = (ROOT / 'docs' / 'search.md').read_text()
    missing = [field.name for field in dataclasses.fields(SearchSettings) if f'`{field.name}`' not in text]
    assert not missing, f'docs/search.md says nothing about {", ".join(missing)}'
