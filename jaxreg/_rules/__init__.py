"""What a user writes down: names, paths, patterns, trees."""

from jaxreg._rules.patterns import Rule as Rule  # pickles of version 0.1.0 look for it here
