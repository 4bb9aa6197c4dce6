"""A hook of mkdocs: files outside of docs/ to which a page links become pages of the site, below ``repository/``.

Links in the pages are relative, so that they work where the files lie, in a clone and on a git host. One that leaves docs/, such
as ``../configs/README.md``, would lead out of the site. Markdown becomes a page, any other file a page with its text, a folder
a list of its files. A link to what does not exist stays as it is, and ``mkdocs build --strict`` refuses it.
"""
import posixpath
import re
from pathlib import Path
from typing import Iterator, Optional

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
FOLDER = 'repository/'
LINK = re.compile(r'(?<=\]\()(?!\w+:|#|/)[^)\s#]+(?=[)#])')
LANGUAGES = {'.py': 'python', '.sh': 'bash', '.yml': 'yaml', '.toml': 'toml'}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what the pages link to, and what that links to in turn."""
    names = [f'docs/{file.src_uri}' for file in files.documentation_pages()]
    for name in names:  # grows
        for target in _linked_from(name):
            if target not in names and not target.startswith('docs/'):
                names.append(target)
                files.append(File.generated(config, _page_of(target), content=_text_of(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as they lead inside of the site; and blocks of commands that the tests run without the word that says so."""
    here = page.file.src_uri
    name = here[len(FOLDER):] if here.startswith(FOLDER) else f'docs/{here}'

    def inside(link: 're.Match[str]') -> str:
        target = _target(link[0], name)
        return posixpath.relpath(_page_of(target), posixpath.dirname(here)) if target else link[0]

    markdown = re.sub(r'^```bash run$', '```bash', markdown, flags=re.MULTILINE)
    return LINK.sub(inside, markdown) if (ROOT / name).is_file() else markdown  # files as text have no links


def _linked_from(name: str) -> Iterator[str]:
    path = ROOT / name
    if path.is_dir():
        yield from (f'{name}/{file.name}' for file in sorted(path.iterdir()) if file.is_file())
    elif path.suffix == '.md':
        yield from filter(None, (_target(link, name) for link in LINK.findall(path.read_text())))


def _target(link: str, name: str) -> Optional[str]:
    """The file or folder of the clone to which a link in the file of this name leads, or None where there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(name), link))
    return path if not path.startswith('..') and (ROOT / path).exists() else None


def _page_of(name: str) -> str:
    if name.startswith('docs/'):
        return name[len('docs/'):]
    return FOLDER + (name if name.endswith('.md') else f'{name}.md')


def _text_of(name: str) -> str:
    path = ROOT / name
    if path.suffix == '.md':
        return path.read_text()
    head = f'---\ntitle: {name}\nsearch:\n  exclude: true\n---\n\n# {name}\n\n'
    if path.is_dir():
        below = posixpath.basename(name)
        return head + '\n'.join(f'- [{posixpath.basename(file)}]({below}/{posixpath.basename(_page_of(file))})'
                                for file in _linked_from(name))
    return f'{head}````{LANGUAGES.get(path.suffix, "text")}\n{path.read_text()}\n````'
