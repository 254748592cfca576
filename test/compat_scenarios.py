"""All scenarios that are run with the published dugong 3.8.2 and with this checkout."""

# Imported for the scenarios that they register.
import compat_objects  # noqa: F401
import compat_reading  # noqa: F401
import compat_requests  # noqa: F401
import compat_states  # noqa: F401
import compat_transport  # noqa: F401
import compat_waiting  # noqa: F401
from compat_base import SCENARIOS

__all__ = ['SCENARIOS']
