"""Tables of what a tree of parameters is and costs."""
