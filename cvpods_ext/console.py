"""Entry points of the commands.

They live here so that importing this package first tells a foreign `cvpods` from this project's.
"""

from cvpods.tools.check import main as pods_check
from cvpods.tools.debug import main as pods_debug
from cvpods.tools.demo import main as pods_demo
from cvpods.tools.draw import main as pods_draw
from cvpods.tools.test import main as pods_test
from cvpods.tools.train import main as pods_train
from cvpods_ext.tools.convert import main as pods_convert
from cvpods_ext.tools.export import main as pods_export
from cvpods_ext.tools.infer import main as pods_infer
from cvpods_ext.tools.vis import main as pods_vis

__all__ = [
    "pods_check",
    "pods_convert",
    "pods_debug",
    "pods_demo",
    "pods_draw",
    "pods_export",
    "pods_infer",
    "pods_test",
    "pods_train",
    "pods_vis",
]
