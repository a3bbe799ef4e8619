"""Label-assignment research on top of the cvpods engine."""

import cvpods

if getattr(cvpods, "DISTRIBUTION", None) != "cvpods-ext":
    raise ImportError(
        f"`import cvpods` found another package than this project's: {list(cvpods.__path__)}, "
        "most likely upstream cvpods. Remove it (pip uninstall cvpods; take it off PYTHONPATH) and "
        "install this project again: pip install --force-reinstall --no-deps ."
    )
