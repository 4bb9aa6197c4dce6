"""The documents as a site: it builds with every link leading somewhere, and a broken one stops it."""
import os
import re
import shutil
import subprocess
import sys

import pytest

import hybrid_mm.layers
import hybrid_mm.search

SOURCES = ('docs', 'configs', 'hybrid_mm', 'requirements', 'tests', 'mkdocs.yml', 'README.md', 'CONTRIBUTING.md', 'CHANGELOG.md',
           'LICENSE')


def build(clone, site):
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '--site-dir', str(site)],
                          capture_output=True, text=True, check=False, cwd=clone, env=dict(os.environ, NO_MKDOCS_2_WARNING='1'))
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope='module')
def site(root, tmp_path_factory):
    """The site of the clone."""
    folder = tmp_path_factory.mktemp('site')
    status, output = build(root, folder)
    assert status == 0, output
    return folder


def test_site_has_every_page_and_what_lies_outside_of_docs(site, root):
    pages = {path.relative_to(root / 'docs').with_suffix('.html') for path in (root / 'docs').rglob('*.md')}
    missing = [str(page) for page in pages if page.stem != 'README' and not (site / page).is_file()]
    assert not missing and (site / 'index.html').is_file()
    for name in ('index', 'CONTRIBUTING', 'CHANGELOG', 'configs/index'):
        assert (site / 'repository' / f'{name}.html').is_file()
    assert 'repository/configs/index.html' in (site / 'index.html').read_text()
    text = (site / 'repository' / 'hybrid_mm' / 'backbones' / 'base.py.html').read_text()
    assert '<code' in text and 'BaseBackbone' in text


def test_api_pages_have_every_public_name_with_its_docstring(site, root):
    for name, names in (('layers', hybrid_mm.layers.__all__), ('search', hybrid_mm.search.__all__),
                        ('backbones', re.findall(r"'(\w+)'", (root / 'hybrid_mm/backbones/__init__.py').read_text()))):
        html = (site / 'api' / f'{name}.html').read_text()
        missing = [entry for entry in names if f'id="hybrid_mm.{name}.{entry}"' not in html]
        assert not missing, f'docs/api/{name}.md lacks {", ".join(missing)}'
    assert 'code-block' not in html


def test_commands_that_the_tests_run_are_blocks_of_code(site):
    html = (site / 'fine_tuning.html').read_text()
    assert '```' not in html and 'make_shapes.py' in html


@pytest.mark.parametrize('link', ['gone.md', '../gone.py', '../configs/gone', 'parc.md#gone', '/etc/hostname'])
def test_broken_link_stops_the_build(link, root, tmp_path):
    clone = tmp_path / 'clone'
    clone.mkdir()
    for name in SOURCES:
        if not (root / name).is_dir():
            shutil.copy(root / name, clone)
    shutil.copytree(root / 'docs' / '_site', clone / 'docs' / '_site')
    (clone / 'docs' / 'README.md').write_text(f'# Start\n\n[a link]({link})\n')
    (clone / 'docs' / 'parc.md').write_text('# ParC\n')
    settings = (root / 'mkdocs.yml').read_text()
    (clone / 'mkdocs.yml').write_text(re.sub(r'(?s)^nav:.*?(?=^not_in_nav)', '', settings, flags=re.MULTILINE))
    status, output = build(clone, tmp_path / 'site')
    assert status == 1 and 'gone' in output or 'hostname' in output, output
