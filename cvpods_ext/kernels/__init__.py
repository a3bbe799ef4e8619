"""Memory-bounded arithmetic that several papers share.

Only this package knows chunks, checkpointing and gradients written by hand. The losses and
assigners of cvpods_ext.methods call it, and read like their papers.
"""
