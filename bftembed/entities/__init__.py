"""What is profiled: genes and proteins, their identifiers, and lists of them."""
