from cvpods_ext.assigners.assignment import BACKGROUND, IGNORE, Assignment
from cvpods_ext.assigners.atss import atss_assign

__all__ = ["BACKGROUND", "IGNORE", "Assignment", "atss_assign"]
