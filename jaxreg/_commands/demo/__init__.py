"""`python -m jaxreg demo`: one network, four ways to regularize it, a table and a picture."""
