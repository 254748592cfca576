"""Debug messages to the logger `dugong`.

`logging` is imported by whoever wants to see messages; as long as nobody has imported it,
nobody does, and this package does not spend the time.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import logging
    from typing import Optional

_logger: Optional[logging.Logger] = None


def debug(message: str, *args: object) -> None:
    """Log *message*, to be formatted with *args*, if somebody wants to see it."""

    global _logger
    if _logger is None:
        logging = sys.modules.get('logging')
        if logging is None or not hasattr(logging, 'getLogger'):
            return
        _logger = logging.getLogger('dugong')
    if _logger.isEnabledFor(10):
        _logger.debug(message, *args, stacklevel=2)
