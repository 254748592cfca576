"""The servers and proxies, each with its configuration and what it cannot do.

All of them serve one directory tree, `Site`, on a loopback port of their own, with everything
they write in a temporary directory. `Server.start` returns when the port takes connections.
Every server runs under `supervise.py`, so that none outlives the tests.
"""

import contextlib
import http.client
import importlib.metadata
import importlib.util
import os
import pathlib
import pwd
import random
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple, Type

from dugong import HTTPConnection

#: Seconds after which any wait is given up.
LIMIT = 20.0

HERE = pathlib.Path(__file__).parent

#: Numbered documents for pipelining: all different, so that a lost or swapped answer shows.
NUMBERED = 37

#: Documents and their sizes.
SIZES = {'empty': 0, 'one': 1, 'text': 5000, 'medium': 65537, 'large': 1 << 20}

#: What the tests look at, in the order of the table: names of features and of their groups.
FEATURES: Dict[str, List[str]] = {
    'Reading': ['GET', 'HEAD', 'ranges', 'conditional', '404', 'chunked'],
    'Uploading': ['PUT', '100-continue', 'chunked upload', 'early answer', '100 MiB'],
    'Connections': [
        'pipelining',
        'pipeline()',
        'keep-alive limit',
        'restart',
        'proxy authentication',
    ],
}


class Limit(NamedTuple):
    """Something that a server cannot do.

    With a *status* it says so: the test is run all the same and expects this answer.
    """

    reason: str
    status: Optional[int] = None


class NotInstalled(Exception):
    """The message says what is missing."""


class Site:
    """Directory tree that every server serves: documents, and a place for uploads."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        generator = random.Random(8)
        self.documents: Dict[str, bytes] = {}
        for name, size in SIZES.items():
            self.documents[name] = generator.getrandbits(8 * size or 1).to_bytes(
                max(size, 1), 'big'
            )[:size]
        for number in range(NUMBERED):
            self.documents[f'n/{number}'] = f'{number} '.encode() * (1 + number * 7 % 64)
        for name, data in self.documents.items():
            file = root / 'docs' / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
            # Servers do not trust a modification time that is now.
            os.utime(str(file), (1600000000, 1600000000))
        for directory in ('uploads', 'refused'):
            (root / directory).mkdir()
            # Servers run as different users.
            (root / directory).chmod(0o777)


class TLSFiles(NamedTuple):
    certificate: pathlib.Path
    key: pathlib.Path
    #: Both, as some servers want it.
    both: pathlib.Path
    client_context: ssl.SSLContext


def unprivileged_user() -> str:
    """Who servers run as if the tests are run by root; `-` if they are not."""
    if os.geteuid() != 0:
        return '-'
    for name in ('nobody', 'www-data', 'daemon'):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NotInstalled('no unprivileged user to run servers as')


def find(*names: str) -> str:
    """Path of the first of the programs *names* that is installed."""
    path = os.pathsep.join([os.environ.get('PATH', os.defpath), '/usr/sbin', '/usr/local/sbin'])
    for name in names:
        found = shutil.which(name, path=path)
        if found:
            return found
    raise NotInstalled(f'{names[0]} is not installed')


def free_port() -> int:
    """A port nobody listens on, below those the system gives to outgoing connections."""
    while True:
        port = random.SystemRandom().randrange(11000, 32000)
        with socket.socket() as sock, contextlib.suppress(OSError):
            sock.bind(('127.0.0.1', port))
            return port


class Server:
    """A server that may be started, stopped and connected to."""

    name = ''
    #: Name in the table, if it is another one.
    row = ''
    #: What it cannot do, by feature.
    limits: Mapping[str, Limit] = {}
    #: Whether a connection is good for more than one request.
    keeps_alive = True
    #: How many requests `pipeline()` may send ahead.
    max_pending = 1000
    #: Whether it asks for every body, be it wanted or not.
    always_continues = False
    #: Sent with every request.
    fields: Mapping[str, str] = {}

    def __init__(
        self,
        site: Site,
        directory: pathlib.Path,
        tls: Optional[TLSFiles] = None,
        keepalive: Optional[int] = None,
    ) -> None:
        """*keepalive* limits the number of requests that a connection may carry."""
        self.site = site
        self.directory = directory
        self.tls = tls
        self.keepalive = keepalive
        self.port = free_port()
        self._process: Optional[subprocess.Popen[bytes]] = None
        directory.mkdir()

    # -- what a server defines --------------------------------------------------------------

    @classmethod
    def version(cls) -> str:
        """Version of what is installed; `NotInstalled` if there is none."""
        raise NotImplementedError

    def command(self) -> List[str]:
        """Write the configuration, return the command that runs the server."""
        raise NotImplementedError

    def ready(self) -> None:
        """Called when the port takes connections."""

    user = '-'
    stop_signal = 'SIGTERM'

    # -- running ----------------------------------------------------------------------------

    @property
    def log(self) -> pathlib.Path:
        return self.directory / 'output.log'

    def start(self) -> None:
        """Start and wait until the server takes connections."""
        for attempts_left in (2, 1, 0):
            if self._start():
                self.ready()
                return
            self.stop()
            if attempts_left:
                # Somebody else may have taken the port.
                self.port = free_port()
        raise RuntimeError(f'{self.name} does not start:\n{self._logs()}')

    def _start(self) -> bool:
        supervisor = str(HERE / 'supervise.py')
        command = [sys.executable, supervisor, self.stop_signal, self.user, *self.command()]
        if self.user != '-':
            own(self.directory, self.user)
        with self.log.open('ab') as log:
            # In a session of its own: a signal to the tests must not reach it.
            self._process = subprocess.Popen(
                command,
                cwd=str(self.directory),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            with contextlib.suppress(ConnectionRefusedError):
                socket.create_connection(('127.0.0.1', self.port), timeout=LIMIT).close()
                return self._process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.02)
                return False
        return False

    def _logs(self) -> str:
        texts = []
        for file in sorted(self.directory.glob('*.log')):
            texts.append(f'-- {file.name}:\n{file.read_text(errors="replace")[-3000:]}')
        return '\n'.join(texts)

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(LIMIT)

    @property
    def running(self) -> bool:
        return self._process is not None

    def close(self) -> None:
        """Stop for good, with what is behind it."""
        self.stop()

    def restart(self) -> None:
        """Stop the server and start it again on the same port."""
        port = self.port
        self.stop()
        self.start()
        assert self.port == port, 'somebody took the port'

    # -- using ------------------------------------------------------------------------------

    def connection(self, **options: Any) -> HTTPConnection:
        """A new connection, with a time limit."""
        if self.tls is not None:
            options.setdefault('ssl_context', self.tls.client_context)
        conn = HTTPConnection('127.0.0.1', self.port, **options)
        conn.timeout = LIMIT
        return conn

    def stored(self, name: str) -> pathlib.Path:
        """The file that PUT /uploads/NAME made."""
        return self.site.root / 'uploads' / name

    @property
    def scheme(self) -> str:
        return 'plain' if self.tls is None else 'TLS'


def own(directory: pathlib.Path, user: str) -> None:
    account = pwd.getpwnam(user)
    for path in [directory, *directory.rglob('*')]:
        os.chown(str(path), account.pw_uid, account.pw_gid, follow_symlinks=False)


class Program(Server):
    """A server that is installed with the system's package manager."""

    programs: Tuple[str, ...] = ()
    version_option = '-v'

    @property
    def user(self) -> str:  # type: ignore[override]
        return unprivileged_user()

    @classmethod
    def version(cls) -> str:
        output = subprocess.run(
            [find(*cls.programs), cls.version_option],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LIMIT,
        ).stdout.decode('utf-8', 'replace')
        match = re.search(r'\d+\.\d+(\.\d+)*', output)
        return match.group() if match else 'unknown'

    def command(self) -> List[str]:
        config = self.directory / 'server.conf'
        config.write_text(self.configuration())
        return [find(*self.programs), *self.arguments(config)]

    def configuration(self) -> str:
        raise NotImplementedError

    def arguments(self, config: pathlib.Path) -> List[str]:
        raise NotImplementedError

    def cat(self, file: str) -> pathlib.Path:
        """Write a CGI program that prints *file*, quoted for the shell."""
        head = 'Content-Type: application/octet-stream\\r\\n\\r\\n'
        return self.script('cat.sh', f'printf "{head}"\nexec cat {file}\n')

    def script(self, name: str, text: str) -> pathlib.Path:
        """Write an executable shell script."""
        file = self.directory / name
        file.write_text('#!/bin/sh\n' + text)
        file.chmod(0o755)
        return file


class Nginx(Program):
    name = 'nginx'
    programs = ('nginx',)

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-p', str(self.directory), '-c', str(config)]

    def configuration(self) -> str:
        here = self.directory
        tls, ssl_lines = '', ''
        if self.tls is not None:
            tls = 'ssl'
            ssl_lines = f"""
                ssl_certificate {self.tls.certificate};
                ssl_certificate_key {self.tls.key};"""
        temporary = '\n'.join(
            f'{kind}_temp_path {here}/{kind};'
            for kind in ('client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi')
        )
        return f"""
        daemon off;
        worker_processes 1;
        pid {here}/nginx.pid;
        error_log {here}/error.log;
        events {{ worker_connections 256; }}
        http {{
            {temporary}
            access_log off;
            default_type application/octet-stream;
            client_max_body_size 0;
            keepalive_requests {self.keepalive or 1000000};
            server {{
                listen 127.0.0.1:{self.port} {tls};{ssl_lines}
                root {self.site.root};
                location /uploads/ {{ dav_methods PUT DELETE; }}
                location /refused/ {{ dav_methods PUT; client_max_body_size 1k; }}
                # A page that may include others has no length.
                location /chunked/ {{
                    alias {self.site.root}/docs/;
                    ssi on;
                    ssi_types *;
                }}
            }}
        }}
        """


class Apache(Program):
    name = 'Apache httpd'
    programs = ('apache2', 'httpd')

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-D', 'FOREGROUND', '-d', str(self.directory), '-f', str(config)]

    @staticmethod
    def modules() -> pathlib.Path:
        for directory in (
            '/usr/lib/apache2/modules',
            '/usr/lib64/httpd/modules',
            '/usr/lib/httpd/modules',
            '/usr/libexec/apache2',
        ):
            if (pathlib.Path(directory) / 'mod_dav_fs.so').exists():
                return pathlib.Path(directory)
        raise NotInstalled('apache2 with mod_dav is not installed')

    def configuration(self) -> str:
        here = self.directory
        modules = self.modules()
        wanted = ['mpm_event', 'unixd', 'authz_core', 'alias', 'dav', 'dav_fs', 'cgid']
        lines = []
        if self.tls is not None:
            wanted += ['socache_shmcb', 'ssl']
            lines += [
                'SSLEngine on',
                f'SSLCertificateFile {self.tls.certificate}',
                f'SSLCertificateKeyFile {self.tls.key}',
            ]
        # Which modules are part of the program differs.
        load = '\n'.join(
            f'<IfModule !{name}_module>\n'
            f'LoadModule {name}_module {modules}/mod_{name}.so\n'
            f'</IfModule>'
            for name in wanted
        )
        ssl_lines = '\n'.join(lines)
        # What a program prints is passed on as it comes, without a length.
        script = self.cat('"$DOCUMENT_ROOT/docs$PATH_INFO"')
        return f"""
        DefaultRuntimeDir {here}
        ServerName localhost
        Listen 127.0.0.1:{self.port}
        PidFile {here}/apache.pid
        ErrorLog {here}/error.log
        {load}
        StartServers 1
        ServerLimit 2
        ThreadsPerChild 16
        ThreadLimit 16
        MaxRequestWorkers 32
        MinSpareThreads 1
        MaxSpareThreads 32
        KeepAlive On
        KeepAliveTimeout 30
        MaxKeepAliveRequests {self.keepalive or 0}
        {ssl_lines}
        DocumentRoot {self.site.root}
        DavLockDB {here}/lock
        <Directory {self.site.root}>
            Require all granted
        </Directory>
        <Directory {self.site.root}/uploads>
            Dav On
        </Directory>
        <Directory {self.site.root}/refused>
            Dav On
            LimitRequestBody 1024
        </Directory>
        ScriptAlias /chunked {script}
        ScriptSock {here}/cgid.sock
        <Directory {here}>
            Require all granted
        </Directory>
        """


class Lighttpd(Program):
    name = 'lighttpd'
    programs = ('lighttpd',)

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-D', '-f', str(config)]

    def configuration(self) -> str:
        here = self.directory
        modules = ['mod_alias', 'mod_cgi', 'mod_webdav']
        ssl_lines = ''
        if self.tls is not None:
            modules.append('mod_openssl')
            ssl_lines = f"""
            ssl.engine = "enable"
            ssl.pemfile = "{self.tls.certificate}"
            ssl.privkey = "{self.tls.key}"
            """
        # What a program prints is passed on as it comes, without a length.
        script = self.cat('"$1"')
        listed = ', '.join(f'"{module}"' for module in modules)
        return f"""
        server.modules = ({listed})
        server.bind = "127.0.0.1"
        server.port = {self.port}
        server.document-root = "{self.site.root}"
        server.pid-file = "{here}/lighttpd.pid"
        server.errorlog = "{here}/error.log"
        server.upload-dirs = ("{here}")
        server.max-keep-alive-requests = {self.keepalive or 1000000}
        server.max-keep-alive-idle = 30
        server.stream-response-body = 1
        mimetype.assign = ("" => "application/octet-stream")
        alias.url = ("/chunked/" => "{self.site.root}/docs/")
        {ssl_lines}
        $HTTP["url"] =~ "^/(uploads|refused)/" {{
            webdav.activate = "enable"
            webdav.is-readonly = "disable"
        }}
        $HTTP["url"] =~ "^/refused/" {{ server.max-request-size = 1 }}
        $HTTP["url"] =~ "^/chunked/" {{ cgi.assign = ("" => "{script}") }}
        """

    def command(self) -> List[str]:
        # Each of its modules may be a package of its own.
        program = pathlib.Path(find(*self.programs)).resolve()
        needed = ['mod_webdav', *(['mod_openssl'] if self.tls else [])]
        for directory in ('lib', 'lib64'):
            modules = program.parents[1] / directory / 'lighttpd'
            for name in needed if modules.is_dir() else []:
                if not list(modules.glob(name + '.*')):
                    raise NotInstalled(f'lighttpd with {name} is not installed')
        return super().command()


# -- Python's servers -----------------------------------------------------------------------


class PythonServer(Server):
    kind = ''
    #: Modules it needs, the first one with the version that the table shows.
    modules: Tuple[str, ...] = ()
    options: Tuple[str, ...] = ()

    @classmethod
    def version(cls) -> str:
        for module in cls.modules:
            if importlib.util.find_spec(module) is None:
                raise NotInstalled(f'{module} is not installed')
        if cls.modules:
            return importlib.metadata.version(cls.modules[0])
        return f'of Python {sys.version_info[0]}.{sys.version_info[1]}'

    def command(self) -> List[str]:
        command = [
            sys.executable,
            str(HERE / 'python_servers.py'),
            self.kind,
            '--port',
            str(self.port),
            '--root',
            str(self.site.root),
            *self.options,
        ]
        if self.tls is not None:
            command += ['--certificate', str(self.tls.certificate), '--key', str(self.tls.key)]
        if self.keepalive is not None:
            command += ['--keepalive', str(self.keepalive)]
        return command


class HttpServer10(PythonServer):
    name = 'http.server (HTTP/1.0)'
    kind = 'http.server'
    options = ('--version', '1.0')
    keeps_alive = False
    limits = {
        'chunked upload': Limit('HTTP/1.0 has no chunked encoding', 411),
        '100-continue': Limit('HTTP/1.0 has no interim responses'),
        'pipelining': Limit('HTTP/1.0: closes after each response'),
        'keep-alive limit': Limit('HTTP/1.0: closes after each response'),
    }


class HttpServer11(PythonServer):
    name = 'http.server (HTTP/1.1)'
    kind = 'http.server'


class Origin(HttpServer11):
    """Behind an intermediary: does not reset connections, as that would reset those in front."""

    options = ('--linger',)


class Uvicorn(PythonServer):
    name = 'uvicorn'
    kind = 'uvicorn'
    modules = ('uvicorn',)


class Hypercorn(PythonServer):
    name = 'hypercorn'
    kind = 'hypercorn'
    always_continues = True
    modules = ('hypercorn',)
    # It waits long for idle TLS connections.
    stop_signal = 'SIGKILL'


class Aiohttp(PythonServer):
    name = 'aiohttp'
    kind = 'aiohttp'
    always_continues = True
    modules = ('aiohttp',)


class Gunicorn(PythonServer):
    name = 'gunicorn'
    kind = 'gunicorn'
    always_continues = True
    modules = ('gunicorn',)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if int(self.version().split('.')[0]) < 27:
            limit = Limit('before version 27, leaves pipelined requests lying: max_pending=1')
            self.limits = {'pipelining': limit, 'keep-alive limit': limit}
            self.max_pending = 1


class Werkzeug(PythonServer):
    name = 'werkzeug'
    kind = 'werkzeug'
    always_continues = True
    modules = ('werkzeug',)
    keeps_alive = False
    limits = {
        'pipelining': Limit('closes after each response'),
        'keep-alive limit': Limit('closes after each response'),
    }


class Moto(PythonServer):
    """S3: documents are objects in the bucket `docs`, uploads go to the bucket `uploads`."""

    name = 'moto (S3)'
    kind = 'moto'
    modules = ('moto', 'flask', 'flask_cors')
    keeps_alive = False
    # The signature is not checked, but without one a request is anonymous.
    fields = {'Authorization': 'AWS4-HMAC-SHA256 Credential=x/20250101/us-east-1/s3/aws4_request'}
    limits = {
        'chunked': Limit('S3 sends every object with its length'),
        'pipelining': Limit('closes after each response'),
        'keep-alive limit': Limit('closes after each response'),
        'early answer': Limit('refuses no upload for its size'),
    }

    def ready(self) -> None:
        # The objects are in memory: they have to be put there again after a restart.
        self._put('/docs')
        self._put('/uploads')
        for name, data in self.site.documents.items():
            self._put('/docs/' + name, data)

    def _put(self, path: str, data: bytes = b'') -> None:
        self._request('PUT', path, data)

    def _request(self, method: str, path: str, data: Optional[bytes] = None) -> bytes:
        conn: http.client.HTTPConnection
        if self.tls is not None:
            conn = http.client.HTTPSConnection(
                '127.0.0.1', self.port, timeout=LIMIT, context=self.tls.client_context
            )
        else:
            conn = http.client.HTTPConnection('127.0.0.1', self.port, timeout=LIMIT)
        with contextlib.closing(conn):
            conn.request(method, path, data, dict(self.fields))
            response = conn.getresponse()
            body = response.read()
            assert response.status == 200, body
            return body

    def stored(self, name: str) -> pathlib.Path:
        file = self.directory / name
        file.write_bytes(self._request('GET', '/uploads/' + name))
        return file


# -- in front of other servers --------------------------------------------------------------


class Intermediary(Program):
    """Has an `http.server` behind it."""

    def __init__(
        self,
        site: Site,
        directory: pathlib.Path,
        tls: Optional[TLSFiles] = None,
        keepalive: Optional[int] = None,
    ) -> None:
        super().__init__(site, directory, tls, keepalive)
        self.origin = Origin(site, directory / 'origin', self.origin_tls(), keepalive)

    def origin_tls(self) -> Optional[TLSFiles]:
        return None

    def start(self) -> None:
        if not self.origin.running:
            self.origin.start()
        super().start()

    def close(self) -> None:
        super().close()
        self.origin.close()


class HAProxy(Intermediary):
    name = 'HAProxy'
    programs = ('haproxy',)
    limits = {'keep-alive limit': Limit('has no limit on the requests of a connection')}

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-db', '-f', str(config)]

    def configuration(self) -> str:
        tls = f'ssl crt {self.tls.both}' if self.tls is not None else ''
        return f"""
global
    maxconn 200
defaults
    mode http
    timeout connect 10s
    timeout client 30s
    timeout server 30s
frontend public
    bind 127.0.0.1:{self.port} {tls}
    default_backend origin
backend origin
    server origin 127.0.0.1:{self.origin.port}
"""


USER, PASSWORD = 'somebody', 'pass-word'


def proxy_authorization(user: str = USER, password: str = PASSWORD) -> Dict[str, str]:
    encoded = b64encode(f'{user}:{password}'.encode()).decode()
    return {'Proxy-Authorization': 'Basic ' + encoded}


class Proxy(Intermediary):
    """Plain: forwards requests. TLS: tunnels to an origin that speaks TLS."""

    authenticates = False
    #: Its answer to wrong credentials; none at all are 407.
    wrong_credentials = 407
    #: What it cannot do when it forwards requests; a tunnel passes everything.
    forwarding_limits: Mapping[str, Limit] = {}
    forwarding_keeps_alive = True

    def __init__(
        self,
        site: Site,
        directory: pathlib.Path,
        tls: Optional[TLSFiles] = None,
        keepalive: Optional[int] = None,
    ) -> None:
        super().__init__(site, directory, tls, keepalive)
        self.limits = {} if tls else self.forwarding_limits
        self.keeps_alive = self.forwarding_keeps_alive or tls is not None

    def origin_tls(self) -> Optional[TLSFiles]:
        return self.tls

    def connection(self, **options: Any) -> HTTPConnection:
        options.setdefault('proxy', ('127.0.0.1', self.port))
        if self.authenticates:
            options.setdefault('proxy_headers', proxy_authorization())
        return self.origin.connection(**options)

    @property
    def scheme(self) -> str:
        return 'plain' if self.tls is None else 'CONNECT'


class Squid(Proxy):
    name = 'squid'
    programs = ('squid', 'squid3')
    # It takes two seconds to stop in good order.
    stop_signal = 'SIGKILL'
    forwarding_limits = {'keep-alive limit': Limit('has no limit on the requests of a connection')}

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-N', '-f', str(config)]

    def configuration(self) -> str:
        here = self.directory
        access = 'http_access allow all'
        if self.authenticates:
            helper = self.script(
                'authenticate.sh',
                'while read -r given; do\n'
                f'if [ "$given" = "{USER} {PASSWORD}" ]; then echo OK; else echo ERR; fi\n'
                'done\n',
            )
            access = f"""
            auth_param basic program {helper}
            auth_param basic children 1 startup=1
            acl known proxy_auth REQUIRED
            http_access allow known
            http_access deny all
            """
        return f"""
        http_port 127.0.0.1:{self.port}
        visible_hostname localhost
        {access}
        cache deny all
        cache_log {here}/cache.log
        access_log none
        pid_filename none
        netdb_filename none
        pinger_enable off
        coredump_dir {here}
        shutdown_lifetime 0 seconds
        """.replace('\n        ', '\n').replace('\n    ', '\n')


class Tinyproxy(Proxy):
    name = 'tinyproxy'
    programs = ('tinyproxy',)
    forwarding_keeps_alive = False
    forwarding_limits = {
        '100-continue': Limit('waits for the whole body before it passes on a response'),
        'pipelining': Limit('closes after each response, without saying so'),
        'keep-alive limit': Limit('closes after each response, without saying so'),
    }

    def arguments(self, config: pathlib.Path) -> List[str]:
        return ['-d', '-c', str(config)]

    def configuration(self) -> str:
        here = self.directory
        access = f'BasicAuth {USER} {PASSWORD}' if self.authenticates else ''
        return f"""
Port {self.port}
Listen 127.0.0.1
Timeout 30
MaxClients 200
LogFile "{here}/tinyproxy.log"
LogLevel Warning
PidFile "{here}/tinyproxy.pid"
{access}
"""


class SquidAuthenticating(Squid):
    name = 'squid with password'
    row = 'squid'
    authenticates = True


class TinyproxyAuthenticating(Tinyproxy):
    name = 'tinyproxy with password'
    row = 'tinyproxy'
    wrong_credentials = 401
    authenticates = True


SERVERS: List[Type[Server]] = [
    Nginx,
    Apache,
    Lighttpd,
    HAProxy,
    Squid,
    Tinyproxy,
    HttpServer10,
    HttpServer11,
    Uvicorn,
    Hypercorn,
    Aiohttp,
    Gunicorn,
    Werkzeug,
    Moto,
]

PROXIES: List[Type[Proxy]] = [Squid, SquidAuthenticating, Tinyproxy, TinyproxyAuthenticating]

ALL: Dict[str, Type[Server]] = {kind.name: kind for kind in [*SERVERS, *PROXIES]}
