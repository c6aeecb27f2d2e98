"""The commands of `python -m jaxreg`."""
