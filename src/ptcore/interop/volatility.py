"""How ptcore gets into volatility3, which is not edited: a plugin of two lines.

The layers are in `volatility_layers`, what stacks them in `volatility_stackers`; both import volatility3,
this module does not.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

PLUGIN = "ptcore_layers.py"
PLUGIN_TEXT = '''\
"""volatility3 reads page tables with ptcore (written by ptcore volatility --install)."""
from ptcore.interop.volatility_stackers import STACKERS as STACKERS
'''


def install(folder: str | Path) -> Path:
    """Write the plugin into `folder`, which is made if need be; return where it is.

    `vol --plugin-dirs FOLDER` loads it from then on; what is in the folder otherwise stays. volatility3
    need not be there yet, but must be able to import ptcore when it runs. Raises OSError where the
    folder cannot be written.
    """
    path = Path(folder) / PLUGIN
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PLUGIN_TEXT)
    return path


def volatility_version() -> str | None:
    """Return the version of volatility3 that this Python can import; None for none."""
    try:
        return metadata.version("volatility3")
    except metadata.PackageNotFoundError:
        return None
