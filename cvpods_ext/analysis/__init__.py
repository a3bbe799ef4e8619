"""Figures of what a detector learns."""
