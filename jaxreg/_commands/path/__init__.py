"""`python -m jaxreg path`: a strength for L1 chosen by cross-validation, all trainings in one program."""
