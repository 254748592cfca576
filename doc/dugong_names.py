"""What single backticks mean in docstrings and pages: a name of this package is a link.

Names of the public interface lead to their description, all others are shown as code. Those that
look like a name of the interface and are none would show up as a missing target, as the page is
built with `-n`.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.roles import XRefRole
from sphinx.util.docutils import SphinxRole

import dugong

#: The class whose attributes are also found without its name.
_CONNECTION = dugong.HTTPConnection


def target(name):
    """Return the full name of what *name* means, `None` if it is not of this package."""
    first, _, rest = (name[:-2] if name.endswith('()') else name).partition('.')
    if first == 'dugong':
        return f'dugong.{rest}' if rest else None
    if first == 'HTTPResponse':
        # Its attributes are described together.
        return 'dugong.HTTPResponse'
    if first in dugong.__all__ and not first.startswith('_'):
        return f'dugong.{first}.{rest}' if rest else f'dugong.{first}'
    if not rest and first in _MEMBERS:
        return f'dugong.HTTPConnection.{first}'
    return None


#: Names that mean a method of other objects as often as not.
_COMMON = {'close', 'closed', 'flush', 'name', 'port', 'proxy', 'timeout'}

_MEMBERS = {name for name in vars(_CONNECTION) if not name.startswith('_')} - _COMMON


class NameRole(SphinxRole):
    """The default role."""

    def run(self):
        short = self.text.startswith('~')
        name = self.text.lstrip('~')
        found = target(name)
        if found is None:
            return [nodes.literal(self.rawtext, name, classes=['code'])], []
        title = name.rpartition('.')[2] if short else name
        role = XRefRole(innernodeclass=nodes.literal)
        return role(
            'py:obj', self.rawtext, f'{title} <{found}>', self.lineno, self.inliner, {}, []
        )


def setup(app: Sphinx) -> dict:
    app.add_role('name', NameRole())
    return {'parallel_read_safe': True}
