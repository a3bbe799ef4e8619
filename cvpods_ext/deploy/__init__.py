"""From a trained detector to a graph that other programs run, and back into this one."""
