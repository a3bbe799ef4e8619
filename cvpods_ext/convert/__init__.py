"""Conversion of weights between other frameworks' names and this project's."""
