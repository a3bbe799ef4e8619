"""Engine for dense object detection behind cvpods' public names, on today's PyTorch."""

import os
from importlib import metadata

# Set before torch is loaded: its C++ part would write 30 lines for each connection that closes,
# beside the error that Python raises.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

__version__ = "1.0.0"

# cvpods_ext looks for this name to tell this package from the upstream one.
DISTRIBUTION = "cvpods-ext"


def _refuse_upstream() -> None:
    """Raise ImportError if the upstream distribution, which has the same package, is installed."""
    try:
        upstream = metadata.distribution("cvpods")
    except metadata.PackageNotFoundError:
        return
    raise ImportError(
        f"upstream cvpods {upstream.version} is installed in {upstream.locate_file('')}, and this "
        f"project ({DISTRIBUTION} {__version__}) brings its own package of the same name. Remove "
        "the upstream one and install this one again: pip uninstall -y cvpods && "
        "pip install --force-reinstall --no-deps ."
    )


_refuse_upstream()
