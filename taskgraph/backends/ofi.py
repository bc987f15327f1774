"""Leave out Open MPI's ``btl/ofi``, which costs every start a second.

Open MPI opens its component ``btl/ofi`` at each start, and where there is no fast network closes it again: with a
``sleep(1)``. The component serves one-sided calls only, of which a job makes none; what ``mtl/ofi`` does for messages
is another matter and stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import MutableMapping
from pathlib import Path

_VARIABLE = "OMPI_MCA_btl"
_WITHOUT = "^ofi,usnic"  # usnic: what Open MPI's own file for fault tolerance leaves out, and this one replaces
_SETTING = re.compile(r"^\s*btl\s*=", re.MULTILINE)


def leave_out_ofi(environ: MutableMapping[str, str], home: Path) -> None:
    """Say so to an Open MPI that is about to start, unless user or administrator have chosen components themselves.

    Parameters
    ----------
    environ
        ``os.environ``. Only where it has ``OPAL_PREFIX``, as with PyPI's Open MPI, is it known which files MPI reads.
    home
        The user's home directory.
    """
    prefix = environ.get("OPAL_PREFIX")
    if prefix is None or _VARIABLE in environ:
        return
    files = (Path(prefix, "etc", "openmpi-mca-params.conf"), home / ".openmpi" / "mca-params.conf")
    if not any(map(_chooses, files)):
        environ[_VARIABLE] = _WITHOUT


def _chooses(file: Path) -> bool:
    try:
        return _SETTING.search(file.read_text(encoding="utf-8", errors="replace")) is not None
    except OSError:
        return False
