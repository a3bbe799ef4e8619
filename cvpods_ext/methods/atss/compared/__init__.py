"""The assignments that ATSS's paper compares with its own (arXiv:1912.02424, Sec. 3)."""
