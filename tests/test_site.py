"""The documents as a site: it builds with every link leading somewhere, and a broken one stops it."""
import os
import re
import shutil
import subprocess
import sys

import pytest

import hybrid_mm.backbones
import hybrid_mm.layers
import hybrid_mm.search


def build(clone, site):
    """Exit status and output; with --quiet warnings would not count."""
    done = subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--site-dir', str(site)],
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


@pytest.mark.parametrize('room', [hybrid_mm.layers, hybrid_mm.backbones, hybrid_mm.search], ids=lambda room: room.__name__)
def test_api_page_has_every_public_name_and_its_docstring(room, site):
    page = f'api/{room.__name__.split(".")[1]}.html'
    html = (site / page).read_text()
    missing = [name for name in room.__all__ if f'id="{room.__name__}.{name}"' not in html]
    assert not missing, f'{page} lacks {", ".join(missing)}'
    assert 'code-block' not in html and '<th>Description</th>' in html


def test_commands_that_the_tests_run_are_blocks_of_code(site):
    html = (site / 'fine_tuning.html').read_text()
    assert '```' not in html and 'make_shapes.py' in html


def test_each_broken_link_stops_the_build_and_is_named(root, tmp_path):
    broken = ['gone.md', '../gone.py', '../configs/gone', 'parc.md#gone', '/etc/hostname']
    fine = ['parc.md', '../LICENSE', '../configs', 'parc.md#cost']
    for name in ('mkdocs.yml', 'LICENSE'):
        shutil.copy(root / name, tmp_path)
    for name in ('hybrid_mm', 'configs', 'docs'):
        (tmp_path / name).mkdir()
    shutil.copytree(root / 'docs' / '_site', tmp_path / 'docs' / '_site')
    (tmp_path / 'docs' / 'README.md').write_text('# Start\n\n' + ''.join(f'[a link]({link})\n' for link in broken + fine))
    (tmp_path / 'docs' / 'parc.md').write_text('# ParC\n\n## Cost\n')
    settings = (root / 'mkdocs.yml').read_text()
    (tmp_path / 'mkdocs.yml').write_text(re.sub(r'(?s)^nav:.*?(?=^not_in_nav)', '', settings, flags=re.MULTILINE))

    status, output = build(tmp_path, tmp_path / 'site')
    assert status == 1 and len(re.findall('WARNING', output)) == len(broken), output
    assert all(f"'{link}'" in output for link in broken), output
