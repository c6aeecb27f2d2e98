"""`python -m jaxreg path`: the strength of L1 chosen by cross-validation, all trainings in one program."""
