"""The commands of the research package: pods_convert, pods_export, pods_infer, pods_vis."""
