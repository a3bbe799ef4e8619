"""Entry points of the commands.

They live here so that importing this package first tells a foreign `cvpods` from this project's.
A command's module is imported when the command is used.
"""

from typing import Any

from cvpods.lazy import resolve

COMMANDS = {
    "pods_check": "cvpods.tools.check:main",
    "pods_convert": "cvpods_ext.tools.convert:main",
    "pods_debug": "cvpods.tools.debug:main",
    "pods_demo": "cvpods.tools.demo:main",
    "pods_draw": "cvpods.tools.draw:main",
    "pods_export": "cvpods_ext.tools.export:main",
    "pods_infer": "cvpods_ext.tools.infer:main",
    "pods_test": "cvpods.tools.test:main",
    "pods_train": "cvpods.tools.train:main",
    "pods_vis": "cvpods_ext.tools.vis:main",
}

__all__ = list(COMMANDS)


def __getattr__(name: str) -> Any:
    if name not in COMMANDS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve(COMMANDS[name])
