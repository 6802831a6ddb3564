"""Tables: numbers and categories in, the probability of the positive class out."""
