"""Settings of Sphinx: `python3 -m sphinx -W -n doc doc/html`."""

import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]

import dugong  # noqa: E402

# Comments that describe attributes are looked for where the class says that it is defined.
for cls in (dugong.HTTPConnection, dugong.HTTPResponse):
    cls.__module__ = cls.__init__.__module__

project = 'dugong'
author = 'the dugong maintainers'
copyright = '2026, the dugong maintainers'
version = release = dugong.__version__

extensions = ['sphinx.ext.autodoc', 'dugong_sphinx']
exclude_patterns = ['html']
default_role = 'name'
primary_domain = 'py'
highlight_language = 'none'

html_theme = 'alabaster'
html_theme_options = {
    'description': 'HTTP/1.1 client library with pipelining, 100-continue and coroutines',
    'page_width': '1100px',
    'sidebar_width': '240px',
    'fixed_sidebar': True,
}
html_show_sourcelink = False
html_copy_source = False

add_module_names = False
autodoc_member_order = 'bysource'
# The descriptions say which types, and what about them.
autodoc_typehints = 'none'
