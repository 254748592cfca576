"""Limits and addresses that users may assign on the package.

The values below are only the initial ones: `dugong.MAX_LINE_SIZE = …` must take effect at the
next use, so the other rooms never import a value but read it from `package` when they need it.
"""

from __future__ import annotations

import sys

#: The package itself, on which `dugong/__init__.py` puts the names of this room.
package = sys.modules[__name__.rpartition('.')[0]]

#: Size of the read buffer of a new connection, in bytes.
BUFFER_SIZE = 64 * 1024

#: Longest line of a response head or trailer section, in bytes, without its line end.
MAX_LINE_SIZE = BUFFER_SIZE - 1

#: Largest block of header fields or trailer fields, in bytes, without its last line end.
MAX_HEADER_SIZE = BUFFER_SIZE - 1

#: Longest time that a blocking method looks again and again for the answer to a request before it
#: lets the thread sleep, in seconds.
MAX_BUSY_WAIT = 50e-6

#: `(host name, port)` of hosts that resolve wherever the name service works.
DNS_TEST_HOSTNAMES = (
    ('www.google.com', 80),
    ('www.iana.org', 80),
    ('C.root-servers.org', 53),
)

#: Default ports (RFC 9110, section 4.2).
HTTP_PORT = 80
HTTPS_PORT = 443
