"""Create the peers' own virtual environment: `python -m benchmarks.setup_peers`.

The peers pull their own dependencies, and exactly one onnxruntime may be installed beside normfold, so they never
share its environment.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
PEERS_ENV = HERE / ".venv-peers"
REQUIREMENTS = HERE / "peers.txt"


def peers_python() -> Path:
    """The interpreter of the peers' environment, whether or not it exists yet."""
    return PEERS_ENV / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def main() -> int:
    """Create the environment where it is missing and install the pinned peers into it."""
    if not peers_python().exists():
        venv.create(PEERS_ENV, with_pip=True)
    install = [str(peers_python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return subprocess.run([*install, "-r", str(REQUIREMENTS)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
