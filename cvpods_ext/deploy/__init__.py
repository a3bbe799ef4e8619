"""Export of detectors to graphs that other programs run, and evaluation of such graphs."""
