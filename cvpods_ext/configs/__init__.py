"""Composition of experiments from a method's config class and named fragments."""

from cvpods_ext.configs.compose import compose

__all__ = ["compose"]
