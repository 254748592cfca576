from pathlib import Path

from setuptools import setup

here = Path(__file__).parent
version = next(
    line.split("'")[1]
    for line in (here / 'dugong' / '__init__.py').read_text(encoding='utf-8').splitlines()
    if line.startswith('__version__')
)

setup(
    name='dugong',
    version=version,
    description=(
        'A pure-Python HTTP/1.1 client library with pipelining, 100-continue and coroutines'
    ),
    long_description=(here / 'README.rst').read_text(encoding='utf-8'),
    long_description_content_type='text/x-rst',
    author='The dugong maintainers',
    keywords='http client pipelining 100-continue asyncio coroutines',
    license='MIT',
    python_requires='>= 3.8',
    packages=['dugong'],
    package_data={'dugong': ['py.typed']},
    zip_safe=False,
    extras_require={
        'test': [
            'pytest',
            'pytest-catchlog',
            'pytest-timeout',
            'pytest-cov',
            'hypothesis',
            'trustme',
            'h11',
            'trio',
            'uvloop; platform_python_implementation == "CPython" and sys_platform != "win32"',
        ],
        # Servers for test/interop and the examples.
        'interop': [
            'aiohttp',
            'flask',
            'flask-cors',
            'gunicorn',
            'hypercorn',
            'moto[s3]',
            'uvicorn',
            'werkzeug',
        ],
        'doc': ['sphinx'],
        'package': [
            'build',
            'check-wheel-contents',
            'mypy',
            'setuptools >= 61',
            'twine',
            'wheel',
        ],
    },
    classifiers=[
        'Development Status :: 5 - Production/Stable',
        'Intended Audience :: Developers',
        'Operating System :: POSIX',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: Implementation :: CPython',
        'Topic :: Internet :: WWW/HTTP',
        'Topic :: Software Development :: Libraries :: Python Modules',
        'Typing :: Typed',
    ],
)
