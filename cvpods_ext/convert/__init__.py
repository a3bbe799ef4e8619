from cvpods_ext.convert.conversion import Conversion, convert
from cvpods_ext.convert.layouts import LAYOUTS, recognise
from cvpods_ext.convert.to_mmdet import to_mmdet

__all__ = ["LAYOUTS", "Conversion", "convert", "recognise", "to_mmdet"]
