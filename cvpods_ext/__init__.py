"""Label-assignment research on top of the cvpods engine."""

import cvpods

if getattr(cvpods, "DISTRIBUTION", None) != "cvpods-ext":
    raise ImportError(
        f"`import cvpods` found another package than this project's: {list(cvpods.__path__)}, "
        "most likely upstream cvpods. Remove it (pip uninstall cvpods; take it off PYTHONPATH) and "
        "install this project again: pip install --force-reinstall --no-deps ."
    )

# Files of other frameworks are converted as they are read.
from cvpods.checkpoint.files import READERS  # noqa: E402 - after the check
from cvpods.tools.detectors import GRAPH_FILES  # noqa: E402
from cvpods_ext.convert.reading import read_foreign  # noqa: E402
from cvpods_ext.deploy.detector import load_graph  # noqa: E402

READERS["other frameworks"] = read_foreign
GRAPH_FILES.update({".onnx": load_graph, ".pt2": load_graph})
