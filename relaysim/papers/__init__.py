"""Studies of papers, redone: each module runs one and gives a tidy table and a picture."""
