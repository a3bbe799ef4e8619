"""Names of a ResNet's stages, in order."""

STAGES = ("res2", "res3", "res4", "res5")
