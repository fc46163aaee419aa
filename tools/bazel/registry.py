"""What this machine's own configuration says about package registries, in the words of the tools that fetch.

Nothing here names a registry: pip's configuration (files and environment) is read and handed on to uv, which does not
read it itself.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from pathlib import Path

from tools.bazel import store

_SYSTEM_FILES = ("/etc/xdg/pip/pip.conf", "/etc/pip.conf")


def pip_settings(environ: Mapping[str, str], files: list[Path]) -> dict[str, str]:
    """Pip's settings by long option name: the files in order, then PIP_* variables, as pip itself merges them.

    Raises:
      configparser.Error: a file is malformed.
    """
    settings: dict[str, str] = {}
    for file in files:
        parser = configparser.RawConfigParser()
        parser.read(file)
        for section in ("global", "install"):
            if parser.has_section(section):
                settings.update({key.replace("_", "-"): value for key, value in parser.items(section)})
    for key, value in environ.items():
        if key.startswith("PIP_") and value:
            settings[key[4:].lower().replace("_", "-")] = value
    return settings


def pip_files(environ: Mapping[str, str]) -> list[Path]:
    """Pip's configuration files, weakest first."""
    config_home = Path(environ.get("XDG_CONFIG_HOME") or store.home() / ".config")
    files = [Path(name) for name in _SYSTEM_FILES] + [store.home() / ".pip/pip.conf", config_home / "pip/pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        files.append(Path(environ["PIP_CONFIG_FILE"]))
    return files


def uv_environment(environ: Mapping[str, str], settings: Mapping[str, str]) -> dict[str, str]:
    """The UV_* variables that make uv fetch from where pip would; a variable that is set already wins."""
    values = {
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(settings.get("extra-index-url", "").split()),
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "SSL_CERT_FILE": settings.get("cert", ""),
    }
    values = {key: environ.get(key) or value for key, value in values.items()}
    return {key: value for key, value in values.items() if value}


def uv_environment_here() -> dict[str, str]:
    """`uv_environment` of this machine and user."""
    return uv_environment(os.environ, pip_settings(os.environ, pip_files(os.environ)))
