"""Writes the scripts that the containers of a cluster run; before them, in one of the same image.

usage: python -m tools.remote.fleet.prepare HOME ENGINE
"""

from __future__ import annotations

import sys
from pathlib import Path

from tools.remote.cluster import Cluster
from tools.remote.engine import load
from tools.remote.places import Places


def main() -> None:
    """Reads the settings in HOME/cluster.json, and what ENGINE says of where programs are."""
    home, engine = map(Path, sys.argv[1:])
    cluster = Cluster(Places(home), provide=lambda: load(engine))
    cluster.places.make()
    cluster.write(cluster.settings())


if __name__ == "__main__":
    main()
