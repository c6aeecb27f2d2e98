"""Minima of a loss plus a penalty: their certificate, their derivatives."""
